"""Prefetch templates: what a CDS Client is asked to send, derived from what the rules need (CDS Hooks 2.0, section
"Prefetch Template").

Measurements are asked for by code, because they are many and a missing one is unknown, which is safe. Everything that
counts as absent where it is not recorded (conditions, procedures, drugs, orders) is asked for without codes: a record
that was left out because it is coded in another way would silently read as absent, while one that is sent and not
understood is reported. Only what the specification recommends is used (section "Prefetch query restrictions").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import quote

from kbtool.fhir.coding import codings
from kbtool.hooks.needs import needed, needed_for_scope
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG

MAX_LENGTH = 1800
"""Characters in a template; some proxies and servers cut URLs at 2 000, and the base URL and the id need room."""

PAGE = 100
"""Measurements asked for in one template, the latest first: what a page cuts off is older than what it holds."""

_PATIENT = "{{context.patientId}}"
_CODED = {"Observation", "Setting"}
"""The kinds of facts that are unknown, not absent, where they are not recorded; both are kept as Observations."""
_CURRENCY = {
    "observations-day": Decimal(24),
    "observations-month": Decimal(31 * 24),
    "observations-long": Decimal("Infinity"),
}
"""How measurements are divided: by how many hours they stay current."""
_UNCODED = {
    "Finding": {"conditions": f"Condition?patient={_PATIENT}"},
    "Treatment": {"procedures": f"Procedure?patient={_PATIENT}&_sort=-date"},
    "Session": {"procedures": f"Procedure?patient={_PATIENT}&_sort=-date"},
    "Medication": {
        "medication-requests": f"MedicationRequest?patient={_PATIENT}",
        "medication-statements": f"MedicationStatement?patient={_PATIENT}",
    },
    "Order": {
        "medication-requests": f"MedicationRequest?patient={_PATIENT}",
        "service-requests": f"ServiceRequest?patient={_PATIENT}&status=draft,active",
    },
}


@dataclass(frozen=True)
class Template:
    """One prefetch template.

    key: its name in the request. query: the FHIR read or search. kinds: the kinds of facts that it brings, as local names
    of the guideline language. coded: whether it is restricted to codes, so that what it leaves out is unknown and not
    absent. scope: whether it decides if the guideline speaks for the patient.
    """

    key: str
    query: str
    kinds: tuple[str, ...]
    coded: bool
    scope: bool

    @property
    def closed(self) -> bool:
        """Whether what it would have brought counts as absent where it was not sent."""
        return not set(self.kinds) <= _CODED


def templates(knowledge: Knowledge) -> tuple[Template, ...]:
    """The prefetch templates of a knowledge base, made once."""
    made: tuple[Template, ...] | None = knowledge.__dict__.get("_prefetch")
    if made is None:
        made = knowledge.__dict__["_prefetch"] = _templates(knowledge)
    return made


def _templates(knowledge: Knowledge) -> tuple[Template, ...]:
    known = codings(knowledge)
    classes = needed(knowledge)
    scope = {kind for iri in needed_for_scope(knowledge) for kind in [known.kind(iri)]}
    by_kind: dict[str, list[str]] = {}
    for iri in sorted(classes):
        by_kind.setdefault(known.kind(iri), []).append(iri)
    found = [Template("patient", f"Patient/{_PATIENT}", (), False, False)]
    queries: dict[str, tuple[str, list[str]]] = {}
    for kind in sorted(by_kind):
        for key, query in _UNCODED.get(kind, {}).items():
            queries.setdefault(key, (query, []))[1].append(kind)
    found += [Template(k, q, tuple(kinds), False, bool(scope & set(kinds))) for k, (q, kinds) in queries.items()]
    groups: dict[str, list[str]] = {}
    for kind in sorted(_CODED & by_kind.keys()):
        for iri in by_kind[kind]:
            groups.setdefault(_group(knowledge, kind, iri), []).append(iri)
    for name in (name for name in (*_CURRENCY, "settings") if name in groups):
        tokens = dict.fromkeys(_token(c["system"], c["code"]) for iri in groups[name] for c in known.codes(iri))
        found += _observations(name, tokens)
    spaces = sorted({known.own(iri)["system"] for iri in classes})
    found += _observations("observations-local", (_token(space, "") for space in spaces))
    findings = dict.fromkeys(_token(c["system"], c["code"]) for iri in by_kind.get("Finding", ()) for c in known.codes(iri))
    found += _observations("findings", findings, ("Finding",))
    return tuple(found)


def _observations(name: str, tokens: Iterable[str], kinds: tuple[str, ...] = ("Observation", "Setting")) -> list[Template]:
    """Searches for measurements with any of some codes, each short enough for a URL."""
    head, tail = f"Observation?patient={_PATIENT}&code=", f"&_sort=-date&_count={PAGE}"
    parts: list[list[str]] = [[]]
    for token in tokens:
        if parts[-1] and len(head) + len(",".join([*parts[-1], token])) + len(tail) > MAX_LENGTH:
            parts.append([])
        parts[-1].append(token)
    return [
        Template(f"{name}-{number}" if len(parts) > 1 else name, head + ",".join(part) + tail, kinds, True, False)
        for number, part in enumerate(parts, 1)
        if part
    ]


def _group(knowledge: Knowledge, kind: str, iri: str) -> str:
    """The template of a quantity: those that stay current about as long are asked for together, so that frequent ones do
    not push the rare ones off the page."""
    hours = Decimal(knowledge.value(iri, CG["currencyHours"]) or "Infinity")
    if kind == "Setting":
        return "settings"
    return next(name for name, limit in _CURRENCY.items() if hours <= limit)


def _token(system: str, code: str) -> str:
    """A token of a search: what separates tokens in FHIR is escaped by FHIR's rule, what separates parts of a URL by that
    of URLs."""
    escaped = "|".join(re.sub(r"[\\$,|]", r"\\\g<0>", part) for part in (system, code))
    return quote(escaped, safe=":/|,\\$;@!*'()~")
