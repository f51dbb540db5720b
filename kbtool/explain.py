"""Explain answers: why a rule speaks, why it does not, what would change that, and what to find out next.

An explanation rests on the engine, not on a theory of it. The *decisive* facts are found by leaving out one fact after
the other and assessing again; the *smallest change* is one that was applied and assessed. Conditions in words come from
the OWL definitions (`words`), their truth from what was derived (`conditions`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import pyoxigraph as ox

from kbtool import engine
from kbtool.answer import KINDS, PatientResult, rule_book
from kbtool.changes import Changes
from kbtool.conditions import Condition, Judge, Truth
from kbtool.facts import Facts, PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, DCTERMS, PROV, RDF, RDFS, SKOS, local_name, text
from kbtool.words import Words

Json = dict[str, Any]

_PLAIN = {"recommended": "It applies and nothing stands against it.", "holds": "Its criterion is met."}
NOT_GIVEN = "not given"
"""The status of a rule about which nothing was derived."""


_GOALS = {"Recommendation": "recommended"}
"""The status towards which a change is looked for; for other rules it is that they hold."""


class NoSuchRuleError(KeyError):
    """The knowledge base has no rule of this name. The message names rules with a similar name."""

    def __str__(self) -> str:
        return str(self.args[0])


def state_of(result: PatientResult, rule: str) -> str:
    """The status or state of a rule in an answer, `not given` where there is none."""
    return result.state(rule) or NOT_GIVEN


@dataclass(frozen=True)
class _Role:
    """A condition and the part that it plays for a rule: wanted true or wanted false, and whether it hinders while it is not
    known."""

    role: str
    condition: Condition
    wanted: bool
    open_hinders: bool = True

    @property
    def failing(self) -> Condition | None:
        """What stands in the way, as deep as it can be named."""
        if self.wanted:
            return self.condition.failing()
        hinders = self.condition.truth is Truth.true or (self.open_hinders and self.condition.truth is Truth.unknown)
        return self.condition if hinders else None


class Explainer:
    """Explains the answers of one patient."""

    def __init__(self, knowledge: Knowledge, record: PatientFacts, as_of: ox.Literal, *, strict: bool = False) -> None:
        self.knowledge, self.record, self.as_of = knowledge, record, as_of
        self.words = Words(knowledge)
        self.book = rule_book(knowledge)
        store = engine.load_store(knowledge, [record], as_of)
        checked = engine.check(store, knowledge, [record], strict=strict)
        engine.derive(store, knowledge, [record])
        self.store, self.judge = store, Judge(self.words, store)
        (self.result,) = engine.read(store, knowledge, [record], checked)

    @cached_property
    def changes(self) -> Changes:
        """Variants of the patient, to try."""
        return Changes(self.knowledge, self.record, self.as_of, self.store)

    def rule(self, name: str) -> str:
        """The IRI of a rule by its name, identifier or IRI. Raises NoSuchRuleError."""
        names: dict[str, str] = {}
        for iri, rule in self.book.rules.items():
            names |= {iri: iri, local_name(iri): iri, str(rule.data.get("id", local_name(iri))): iri}
        if name not in names:
            near = difflib.get_close_matches(name, [n for n in names if "/" not in n], 3, 0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else "; `kbtool query rules` lists all"
            raise NoSuchRuleError(f"{name}: no rule of this name{hint}")
        return names[name]

    def explain(self, name: str, *, tried: bool = True) -> Json:
        """Everything that there is to say about one rule for the patient.

        tried: also find out by trying variants of the patient, which takes some tenths of a second, which facts are decisive
        and what the smallest change would be; without it these two are empty.

        Keys: name, iri, label, kind, status, summary, because, decisive, conditions, firstFailing, thresholds, statements,
        cautions, needs, blockedBy, openedBy, smallestChange (None where none was found or asked for). Raises NoSuchRuleError.
        """
        iri = self.rule(name)
        kind = self.book.rules[iri].kind
        entry = self._entry(iri)
        status = state_of(self.result, iri)
        roles = list(self._roles(iri))
        failing = self._first_failing(roles)
        found: Json = {
            "name": self.book.rules[iri].data.get("id", local_name(iri)),
            "iri": iri,
            "label": self.book.label(iri),
            "kind": kind.lower(),
            "status": status,
            "summary": self._summary(status, failing, entry),
            "because": [self._converted(fact) for fact in entry.get("because", [])],
            "decisive": self.decisive(iri) if tried and status != NOT_GIVEN else [],
            "conditions": [{"role": r.role, "wanted": r.wanted, **self._tree(r.condition)} for r in roles],
            "firstFailing": failing and {"role": failing[0].role, **self._tree(failing[1])},
            "thresholds": self._thresholds(roles),
            "statements": self._statements(iri),
            "sources": self.book.rules[iri].data.get("sources", []),
            "cautions": entry.get("cautions", []),
            **{key: entry.get(key, []) for key in ("needs", "blockedBy", "openedBy")},
        }
        found["smallestChange"] = self._smallest(iri, roles, status) if tried and self.result.in_scope else None
        return found

    def next(self) -> list[Json]:
        """What to find out next: each thing that is lacking, the most urgent first, with the answers that it could change.

        Ordered by whether an emergency, then a hard stop, then something critical hangs on it, then by the earliest step,
        then by how many answers it could change.
        """
        found: dict[str, list[tuple[tuple[int, int, int], Json]]] = {}
        measured = {m: r["name"] for r in self.result.data["recommendations"] for m in r["measures"]}
        for kind in KINDS.values():
            for entry in self.result.data[kind]:
                urgency = (
                    0 if entry.get("emergency") else 1,
                    0 if entry.get("hardStopPossible") else 1,
                    0 if entry.get("severity") == "critical" else 1,
                )
                state = entry.get("status") or entry.get("state")
                for need in entry["needs"]:
                    what = {"name": entry.get("name") or entry["id"], "label": entry["label"], "status": state}
                    found.setdefault(need, []).append((urgency, what))
        order = {r["name"]: n for n, r in enumerate(self.result.data["recommendations"])}
        labels, ranked = self.knowledge.labels_by_name, []
        for need, hanging in found.items():
            earliest = min((order.get(what["name"], len(order)) for _, what in hanging), default=0)
            worst = min(urgency for urgency, _ in hanging)
            ranked.append(((worst, earliest, -len(hanging), need), need, [what for _, what in hanging]))
        return [
            {
                "name": need,
                "label": labels.get(need, need),
                "measuredBy": measured.get(need),
                "couldChange": hanging,
            }
            for _, need, hanging in sorted(ranked, key=lambda item: item[0])
        ]

    def decisive(self, iri: str) -> list[Json]:
        """Facts that are together enough for the status of a rule, none of which can be left out: with only them the status
        is the same, and without any one of them it is another."""
        kept = self.changes.decisive(lambda result: state_of(result, iri) == state_of(self.result, iri), self._cited(iri))
        return [self._converted(self._fact(node)) for node in kept]

    # --- Parts ---------------------------------------------------------------------------------------

    def _entry(self, iri: str) -> Json:
        return next((e for kind in KINDS.values() for e in self.result.data[kind] if e["iri"] == iri), {})

    def _cited(self, iri: str) -> list[str]:
        return [fact["fact"] for fact in self._entry(iri).get("because", [])]

    def _roles(self, iri: str) -> Iterator[_Role]:
        """The conditions that decide about a rule, in the order in which they are asked."""
        patient = self.record.patient
        mains = self._values(iri, "accompanies")
        if mains:
            yield _Role("goes with", self._accompanied(mains), True)
        if self.book.rules[iri].kind != "Caution":
            for scope in self._scopes(iri):
                yield _Role("in scope", self.judge.criterion(scope, patient), True)
        for link, role, wanted, open_hinders in (
            ("appliesTo", "applies", True, True),
            ("requires", "requires", True, True),
            ("requiresAbsenceOf", "must be absent", False, True),
            ("unless", "lifted by", False, False),
            ("metWhen", "already met", False, False),
        ):
            for criterion in self._values(iri, link):
                yield _Role(role, self.judge.criterion(criterion, patient), wanted, open_hinders)
        for action in self._values(iri, "action"):
            for prohibition in self.book.rules:
                if action in self._values(prohibition, "forbids"):
                    for criterion in self._values(prohibition, "appliesTo"):
                        if set(self._values(prohibition, "unless")) & set(self._values(iri, "requires")):
                            continue
                        yield _Role(
                            f"forbidden by {self.book.label(prohibition)}", self.judge.criterion(criterion, patient), False
                        )

    def _accompanied(self, mains: list[str]) -> Condition:
        """Whether one of the recommendations that a rule accompanies is recommended or in place."""
        parts = []
        for main in mains:
            states = {state_of(self.result, main)} | ({"in place"} if self._in_place(main) else set())
            truth = Truth.true if states & {"recommended", "in place"} else Truth.false
            truth = Truth.unknown if truth is Truth.false and "undetermined" in states else truth
            parts.append(Condition(f"{self.book.label(main)} is recommended or in place", truth))
        if len(parts) == 1:
            return parts[0]
        best = max(parts, key=lambda part: (part.truth is Truth.true, part.truth is Truth.unknown))
        return Condition(" or ".join(part.text for part in parts), best.truth, "any", tuple(parts))

    def _in_place(self, rule: str) -> bool:
        return ox.Quad(self.record.patient, CG["inPlace"], ox.NamedNode(rule)) in self.store

    def _scopes(self, iri: str) -> list[str]:
        return [s for module in self._rdfs(iri, "isDefinedBy") for s in self._values(module, "scope")]

    def _first_failing(self, roles: Iterable[_Role]) -> tuple[_Role, Condition] | None:
        return next(((role, failing) for role in roles if (failing := role.failing)), None)

    def _summary(self, status: str, failing: tuple[_Role, Condition] | None, entry: Json) -> str:
        if not self.result.in_scope and not entry:
            return "The guideline does not speak for this patient."
        if failing is None or status in ("recommended", "holds"):
            return {"recommended": "It applies and nothing stands against it.", "holds": "Its criterion is met."}.get(
                status, status
            )
        role, condition = failing
        truth = {"true": "so", "false": "not so", "unknown": "not known"}
        said = f"{role.role}: {role.condition.text}: {truth[role.condition.truth]}"
        if condition is role.condition:
            return said
        within = [c.text for c in _path(role.condition, condition) if c.criterion][1:]
        number = f", it is {_plain(condition.value)} {condition.unit}".rstrip() if condition.value is not None else ""
        return f"{said}; {': '.join([*within[-1:], condition.text])}: {truth[condition.truth]}{number}"

    def _tree(self, condition: Condition) -> Json:
        found: Json = {"text": condition.text, "truth": condition.truth.value}
        if condition.criterion:
            found["criterion"] = condition.criterion
        if condition.value is not None:
            found |= {
                "value": _plain(condition.value),
                "distance": _plain(condition.distance or Decimal(0)),
                "unit": condition.unit,
            }
        if condition.threshold:
            found["threshold"] = condition.threshold
        if condition.facts:
            found["facts"] = list(condition.facts)
        if condition.needs:
            found["needs"] = [local_name(need) for need in condition.needs]
        if condition.parts:
            found |= {"join": condition.join, "parts": [self._tree(part) for part in condition.parts]}
        return found

    def _thresholds(self, roles: Iterable[_Role]) -> list[Json]:
        """The named ranges in the conditions: in words, and whose word each is."""
        found: dict[str, Json] = {}
        for condition in (c for role in roles for c in role.condition.walk() if c.threshold):
            iri = condition.threshold or ""
            found.setdefault(
                iri,
                {
                    "name": local_name(iri),
                    "iri": iri,
                    "label": self.book.label(iri),
                    "limit": self.knowledge.value(iri, SKOS["definition"]) or "",
                    "whose": self.words.whose(iri),
                },
            )
        return list(found.values())

    def _statements(self, iri: str) -> list[Json]:
        """The statements that a rule cites and those that explain it, with section and references."""
        wanted = {*self.book.statements[iri], *self.book.explained_by[iri]}
        found = []
        for statement in self.knowledge.instances(CG["Statement"]):
            identifier = self.knowledge.value(statement, DCTERMS["identifier"]) or local_name(statement)
            if identifier in wanted:
                references = self._values(statement, "reference")
                found.append(
                    {
                        "id": identifier,
                        "iri": statement,
                        "text": self.knowledge.value(statement, SKOS["definition"]) or "",
                        "section": self.knowledge.value(statement, CG["section"]),
                        "references": [self.knowledge.value(r, DCTERMS["identifier"]) or local_name(r) for r in references],
                        "cited": identifier in self.book.statements[iri],
                    }
                )
        return sorted(found, key=lambda s: (not s["cited"], s["id"]))

    def _fact(self, node: str) -> Json:
        known = {f["fact"]: f for kind in KINDS.values() for e in self.result.data[kind] for f in e["because"]}
        return known.get(node) or self.changes.describe(node)

    def _converted(self, fact: Json) -> Json:
        """A fact with its value in the canonical unit, where it was reported in another."""
        node = ox.NamedNode(fact["fact"])
        canonical = [text(q.object) for q in self.store.quads_for_pattern(node, CG["canonicalValue"], None, None)]
        kinds = [text(q.object) for q in self.store.quads_for_pattern(node, CG["kind"], None, None)]
        unit = self.knowledge.value(kinds[0], CG["canonicalUnit"]) if kinds else None
        if canonical and unit and fact.get("unit") not in (None, unit):
            return fact | {"canonicalValue": _plain(Decimal(canonical[0])), "canonicalUnit": unit}
        return fact

    def _smallest(self, iri: str, roles: list[_Role], status: str) -> Json | None:
        goal = _GOALS.get(self.book.rules[iri].kind, "holds")
        if status == goal:
            return None
        wanted = [(role.condition.criterion, role.wanted) for role in roles if role.condition.criterion]
        change = self.changes.smallest(wanted, lambda result: state_of(result, iri) == goal)
        if change is None:
            return None
        return {"edits": change.edits, "status": state_of(change.result, iri), "facts": change.turtle}

    def _values(self, subject: str, link: str) -> list[str]:
        return self.knowledge.values(subject, CG[link])

    def _rdfs(self, subject: str, link: str) -> list[str]:
        return self.knowledge.values(subject, RDFS[link])


def to_triples(explanation: Json, patient: ox.NamedNode, about: Json) -> Iterator[ox.Triple]:
    """An explanation as a graph: the answer was derived from facts, from the rule and from what the source says (PROV-O),
    by this version of the knowledge base. about: iri, version and sha256 of the knowledge base."""
    answer = ox.NamedNode(f"{patient.value}/answer/{local_name(explanation['iri'])}")
    used = ox.NamedNode(f"{about['iri']}/{about['version']}")
    yield ox.Triple(answer, RDF["type"], PROV["Entity"])
    yield ox.Triple(answer, CG["ofPatient"], patient)
    yield ox.Triple(answer, CG["about"], ox.NamedNode(explanation["iri"]))
    yield ox.Triple(answer, DCTERMS["description"], ox.Literal(explanation["summary"], language="en"))
    derived = [explanation["iri"], *(s["iri"] for s in explanation["statements"]), *(t["iri"] for t in explanation["thresholds"])]
    for source in [*derived, *(fact["fact"] for fact in explanation["because"])]:
        yield ox.Triple(answer, PROV["wasDerivedFrom"], ox.NamedNode(source))
    yield ox.Triple(answer, PROV["wasDerivedFrom"], used)
    yield ox.Triple(used, PROV["specializationOf"], ox.NamedNode(about["iri"]))
    yield ox.Triple(used, DCTERMS["identifier"], ox.Literal(f"sha256:{about['sha256']}"))


def explained(knowledge: Knowledge, facts: Facts, as_of: ox.Literal, *, strict: bool = False) -> Iterator[PatientResult]:
    """The answers of all patients with two keys more: `explanations`, of every rule in the answer by its name, and `next`."""
    for explainer in explainers(knowledge, facts, as_of, strict=strict):
        result = explainer.result
        if not result.refused:
            names = [entry.get("name") or entry["id"] for kind in KINDS.values() for entry in result.data[kind]]
            result.data["explanations"] = {name: explainer.explain(name, tried=False) for name in names}
            result.data["next"] = explainer.next()
        yield result


def explainers(knowledge: Knowledge, facts: Facts, as_of: ox.Literal, *, strict: bool = False) -> Iterator[Explainer]:
    """An explainer for each patient, in the order in which they were read."""
    for group in facts.groups:
        for record in group:
            yield Explainer(knowledge, record, as_of, strict=strict)


def _path(condition: Condition, target: Condition) -> list[Condition]:
    """The conditions from one down to another within it."""
    if condition is target:
        return [condition]
    for part in condition.parts:
        if below := _path(part, target):
            return [condition, *below]
    return []


def _plain(number: Decimal) -> str:
    return format(number.normalize(), "f")
