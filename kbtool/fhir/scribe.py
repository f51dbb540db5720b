"""What all resources of one patient's answer share: identifiers, references, codings."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from kbtool.facts import BASE
from kbtool.fhir.coding import Codings
from kbtool.namespaces import CG, local_name
from kbtool.text import fact_text

Json = dict[str, Any]

IRI_SYSTEM = "urn:ietf:rfc:3986"
"""The system of identifiers that are IRIs."""

_RESOURCE = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64}")


class Scribe:
    """Names resources and refers to them.

    seed: what makes the identifiers of this answer different from those of another; the same seed gives the same
    identifiers. origins: for facts that came from FHIR, the reference under which they stand there; where it is not given,
    the IRI of the fact tells it.
    """

    def __init__(self, codings: Codings, seed: str, patient: str, as_of: str, origins: Mapping[str, str]) -> None:
        self.codings, self.patient, self.as_of, self.origins = codings, patient, as_of, origins
        self.space = uuid.uuid5(uuid.NAMESPACE_URL, f"{seed}|{patient}")
        self.made: list[Json] = []

    def uuid(self, *parts: str) -> str:
        """The identifier of a resource of this answer."""
        return str(uuid.uuid5(self.space, "|".join(parts)))

    def link(self, *parts: str, display: str | None = None) -> Json:
        """A reference to a resource of this answer."""
        return {"reference": f"urn:uuid:{self.uuid(*parts)}"} | ({"display": display} if display else {})

    def add(self, kind: str, name: str, content: Json) -> Json:
        """Put a resource into the answer; it is identified by its kind and a name. Empty elements are left out, as FHIR
        asks."""
        resource = {"resourceType": kind, "id": self.uuid(kind, name)} | {
            k: v for k, v in content.items() if v not in ([], {}, "")
        }
        self.made.append(resource)
        return resource

    def subject(self) -> Json:
        """The patient: a reference into the record where it came from FHIR, the IRI as an identifier otherwise."""
        return {"type": "Patient"} | self._outside(self.patient)

    def fact(self, fact: Json) -> Json:
        """A fact of the record, with what it says as display."""
        return self._outside(fact["fact"]) | {"display": fact_text(fact)}

    def facts(self, facts: Iterable[Json]) -> list[Json]:
        """References to facts, each once."""
        return [self.fact(fact) for fact in {fact["fact"]: fact for fact in facts}.values()]

    def _outside(self, iri: str) -> Json:
        known = self.origins.get(iri) or fhir_reference(iri)
        return {"reference": known} if known else {"identifier": {"system": IRI_SYSTEM, "value": iri}}

    def device(self) -> Json:
        """A reference to the software that made the answer."""
        return {"reference": f"urn:uuid:{device_uuid()}", "display": "kbtool"}

    def documentation(self, entry: Json) -> list[Json]:
        """The statements that a rule cites and those that explain it."""
        known = self.codings.statements
        return [known[s] for s in (*entry["statements"], *entry.get("explainedBy", ())) if s in known]

    def term(self, name: str) -> str:
        """The IRI of a term that an answer names by its local name."""
        return self.codings.iris.get(name, CG[name].value)

    def label(self, name: str) -> str:
        """The label of a term that an answer names by its local name."""
        return self.codings.knowledge.labels.get(self.term(name), name)

    def action_id(self, entry: Json) -> str:
        """The id of the action of a recommendation."""
        return f"action-{self.uuid('action', local_name(entry['iri']))}"


def fhir_reference(iri: str) -> str | None:
    """The FHIR reference that the IRI of a fact or patient stands for: relative where the record gave only an id, absolute
    where it gave a URL; None for an IRI of other data."""
    whole = iri.partition("#")[0]
    if whole.startswith("urn:uuid:"):
        return whole
    tail = "/".join(whole.split("/")[-2:])
    if not _RESOURCE.fullmatch(tail):
        return None
    return tail if whole == BASE + tail else whole


def device_uuid() -> str:
    """The identifier of the software, which is no one's in particular."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, CG["Run"].value))
