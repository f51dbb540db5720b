"""Read FHIR (release 4, and 5 where it differs) into facts of patients, and say what was not read.

found = read(data, knowledge)            # bytes: a Bundle, a resource, or NDJSON
found.facts()                            # what the engine takes
found.patients[iri].not_read             # what of a patient's record was not understood, and why
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pyoxigraph as ox

from kbtool.facts import Facts, PatientFacts
from kbtool.fhir.documents import Entry, Scope, documents, is_fhir, loads
from kbtool.fhir.outcomes import NotRead, Outcome
from kbtool.fhir.places import name_of, place
from kbtool.fhir.records import Record
from kbtool.fhir.tables import Tables, tables
from kbtool.fhir.translate import translator
from kbtool.rows import Row, no_collection, quads_of

if TYPE_CHECKING:
    from kbtool.knowledge import Knowledge

_ELSEWHERE = "resources name a patient of this id at another address too, and whether that is the same one cannot be told"

__all__ = ["NotRead", "PatientRead", "Read", "Reading", "Understood", "is_fhir", "loads", "read", "read_resources", "understood"]

Json = dict[str, Any]


@dataclass
class PatientRead:
    """What was read of one patient.

    iri, reference: of the patient. rows: the facts as triples in N-Triples. unneeded: how often each code or resource type
    came that the knowledge base does not know, by how it reads.
    """

    iri: str
    reference: str
    rows: list[Row]
    not_read: list[NotRead]
    unneeded: dict[str, int]

    @property
    def quads(self) -> list[ox.Quad]:
        """The facts as quads."""
        return quads_of(self.rows)


@dataclass
class Read:
    """What was read. origins: from the IRI of a fact to the resource that states it, as Type/id."""

    patients: dict[str, PatientRead]
    stray: list[NotRead]
    origins: dict[str, str]

    def facts(self) -> Facts:
        """The facts in the form that the engine takes."""
        groups = []
        for patient in self.patients.values():
            record = PatientFacts.of_rows(f"<{patient.iri}>", patient.rows)
            record.not_read = [entry.to_json() for entry in patient.not_read]
            record.not_needed = dict(sorted(patient.unneeded.items()))
            groups.append([record])
        return Facts(groups, [f"{entry.resource}: {entry.reason}" for entry in self.stray])


class Understood(NamedTuple):
    """A code that is read: in which resource type, as which kind of fact and which class."""

    resource: str
    kind: str
    concept: str
    system: str
    code: str


_STATES = {
    "Finding": ("Condition", "Observation"),
    "Observation": ("Observation",),
    "Setting": ("Observation",),
    "Treatment": ("Procedure",),
    "Session": ("Procedure",),
    "Medication": ("MedicationRequest", "MedicationStatement", "MedicationAdministration"),
    "Order": ("ServiceRequest", "MedicationRequest"),
}


def understood(knowledge: Knowledge) -> list[Understood]:
    """Every code that the reader takes, by resource type. Orders are also told from the drug and the route of a request."""
    return [
        Understood(resource, concept.kind, concept.name, system, code)
        for concept, system, code in tables(knowledge.graph).understood()
        for resource in _STATES[concept.kind]
    ]


def read(data: bytes, knowledge: Knowledge, name: str = "<bytes>") -> Read:
    """Read a Bundle, a resource or NDJSON. Raises FactsError where the bytes are no FHIR in JSON."""
    reading = Reading(knowledge.graph)
    reading.add(data, name)
    return reading.finish()


def read_resources(resources: Iterable[Json], knowledge: Knowledge) -> Read:
    """Read resources and Bundles that are parsed already (by `loads`, so that numbers keep their digits), as one record."""
    reading = Reading(knowledge.graph)
    for resource in resources:
        reading.take(resource)
    return reading.finish()


class Reading:
    """A reading in progress: sources are added, and the facts are there at the end."""

    def __init__(self, graph: ox.Store) -> None:
        self.tables: Tables = tables(graph)
        self.translator = translator(self.tables)
        self.scope = Scope()
        self.records: dict[str, Record] = {}
        self.stray: list[NotRead] = []
        self._waiting: list[tuple[Entry, Scope]] = []
        self._owners: dict[str, str] = {}
        self._organizations: dict[str, str] = {}

    def add(self, data: bytes, name: str = "<bytes>") -> None:
        """Read one source. Raises FactsError; what stood before the broken line of NDJSON has been read."""
        with no_collection():
            for document, plain in documents(data, name):
                self.take(document, plain=plain)

    def take(self, resource: Any, *, plain: bool = False) -> None:
        """Read one parsed resource or Bundle. plain: whether it is known to hold no modifierExtension."""
        if not isinstance(resource, dict):
            self.stray.append(NotRead("Resource", "it is not a JSON object"))
        elif resource.get("resourceType") == "Bundle":
            self._bundle(resource, plain)
        else:
            entry = Entry(resource, None, plain)
            if entry.kind in ("Patient", "Medication", "Organization"):
                self.scope.add(entry)
            self._read(entry, self.scope, last=False)

    def finish(self) -> Read:
        """Everything that was read, once all sources are there."""
        for entry, scope in self._waiting:
            scope.forget()
            self._read(entry, scope, last=True)
        self._waiting = []
        self._tell_apart()
        patients: dict[str, PatientRead] = {}
        origins: dict[str, str] = {}
        for iri, record in self.records.items():
            rows = record.rows(origins, self._organizations)
            patients[iri] = PatientRead(iri, record.reference, rows, record.not_read, record.unneeded)
        return Read(patients, self.stray, origins)

    def _bundle(self, bundle: Json, plain: bool) -> None:
        scope = Scope(self.scope)
        own = Entry(bundle)
        links = bundle.get("link")
        for link in links if isinstance(links, list) else ():
            if isinstance(link, dict) and link.get("relation") == "next":
                scope.notes.append(
                    NotRead(
                        own.reference, "it is one page of several, and the next one is not in it: what is missing is not known"
                    )
                )
        self.stray.extend(scope.notes)
        entries, nested = [], []
        listed = bundle.get("entry")
        gone: set[str] = set()
        for item in listed if isinstance(listed, list) else ():
            resource = item.get("resource") if isinstance(item, dict) else None
            if not isinstance(resource, dict):
                request = item.get("request") if isinstance(item, dict) else None
                if isinstance(request, dict) and request.get("method") == "DELETE":
                    gone |= {where for where in (item.get("fullUrl"), request.get("url")) if isinstance(where, str)}
                continue
            if resource.get("resourceType") == "Bundle":
                nested.append(resource)
                continue
            entry = Entry(resource, item.get("fullUrl"), plain)
            scope.add(entry)
            entries.append(entry)
        for entry in entries:
            if gone and (entry.full_url in gone or entry.tail in gone):
                self.stray.append(NotRead(entry.reference, "the Bundle also says that it was deleted"))
            else:
                self._read(entry, scope, last=False)
        for inner in nested:
            self._bundle(inner, plain)

    def _read(self, entry: Entry, scope: Scope, *, last: bool) -> None:
        resource, kind = entry.resource, entry.kind
        if kind == "Patient":
            self._patient(entry, scope)
            return
        if kind == "Medication":
            return
        if kind == "Organization":
            name = name_of(resource)
            if entry.iri and name:
                self._organizations[entry.iri] = name
            return
        if kind == "OperationOutcome":
            self._outcome(entry)
            return
        subject = resource.get("subject") or resource.get("patient")
        if not last and self._must_wait(entry, subject, scope):
            self._waiting.append((entry, scope))
            return
        outcome = self.translator.translate(entry, scope)
        whose = scope.patient(subject, entry)
        if isinstance(whose, str):
            if outcome.facts or outcome.not_read:
                self._lose(outcome, whose, scope, subject)
            return
        record = self._record(*whose, scope)
        record.named(subject, entry)
        if entry.iri:
            owner = (self._owners if entry.full_url else scope.owners).setdefault(entry.iri, whose[0])
            if owner != whose[0]:
                record.add(entry, outcome)
                for each in (owner, whose[0]):
                    self.records[each].disown(entry.iri)
                return
        record.add(entry, outcome)

    def _must_wait(self, entry: Entry, subject: Any, scope: Scope) -> bool:
        """Whether something that the resource points at may still come from another source."""
        whom = subject.get("reference") if isinstance(subject, dict) else None
        if whom is None and isinstance(subject, dict) and "identifier" in subject:
            return True
        if isinstance(whom, str) and not whom.startswith("#"):
            stays = entry.base is None and whom.startswith("Patient/")  # named so alike, whether that patient comes or not
            if not stays and scope.find(whom, entry) is None:
                return True
        pointed = entry.resource.get("medicationReference")
        if pointed is None and isinstance(entry.resource.get("medication"), dict):
            pointed = entry.resource["medication"].get("reference")
        target = pointed.get("reference") if isinstance(pointed, dict) else None
        return isinstance(target, str) and not scope.settled(target, entry)

    def _record(self, iri: str, reference: str, scope: Scope) -> Record:
        record = self.records.get(iri)
        if record is None:
            record = self.records[iri] = Record(iri, reference, self.tables)
        for note in scope.notes:
            record.note(note)
        return record

    def _patient(self, entry: Entry, scope: Scope) -> None:
        if entry.iri is None:
            reason = (
                "the patient has neither a fullUrl nor an id as FHIR allows it (letters, digits, - and ., at most 64), so "
                "nothing can be tied to it"
            )
            self.stray.append(NotRead(entry.reference, reason))
            return
        record = self._record(entry.iri, entry.reference, scope)
        record.patient(entry.resource, place(entry.resource.get("managingOrganization"), entry, scope))

    def _outcome(self, entry: Entry) -> None:
        """A server that reports a problem may have left something out."""
        issues = entry.resource.get("issue")
        for issue in issues if isinstance(issues, list) else ():
            if isinstance(issue, dict) and issue.get("severity") in ("fatal", "error", "warning"):
                said = f"{issue.get('severity')}, {str(issue.get('code'))[:40]}"
                reason = f"the server that sent the record reports a problem ({said}): something may be missing"
                self.stray.append(NotRead(entry.reference, reason))

    def _lose(self, outcome: Outcome, why: str, scope: Scope, subject: Any) -> None:
        """Say what of a resource is lost; to each patient who may be the one whom it is about, where these are known."""
        lost = [n for n in outcome.not_read if n.matters]
        for name in dict.fromkeys(fact.concept.name for fact in outcome.facts):
            lost.append(NotRead(outcome.reference, why, outcome.code, name))
        whose = scope.candidates(subject)
        for iri, reference in whose:
            record = self._record(iri, reference, scope)
            for entry in lost:
                record.note(entry)
        if not whose:
            self.stray.extend(lost)

    def _tell_apart(self) -> None:
        """Use no facts where it is not known whether they are of one patient: an id that stands for patients at several
        addresses, of whom not each has a Patient resource."""
        named: dict[str, list[Record]] = {}
        for record in self.records.values():
            named.setdefault(record.reference, []).append(record)
            if len(record.servers) > 1:
                record.close("resources name this patient on several servers, who may be several persons: no fact is used")
        for some in named.values():
            nameless = [record for record in some if not record.known] if len(some) > 1 else []
            for record in nameless:
                for other in some:
                    for entry in record.doubted(_ELSEWHERE) if other is not record else ():
                        other.note(entry)
            for record in nameless:
                record.close(f"{_ELSEWHERE}: no fact of the record is used")
