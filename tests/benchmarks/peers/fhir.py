"""Patient facts as FHIR R4 bundles, one a patient, for engines that read FHIR.

A small writer of one form: what the fields of resources can say stands in them, the rest in extensions named by the
property of the guideline language. Codes are the verified ones of the ontology, and always the name of the class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyoxigraph as ox

from kbtool.facts import PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, RDFS, SKOS, local_name, text

Json = dict[str, Any]

UCUM = "http://unitsofmeasure.org"
PLAIN = ("phase", "course", "state", "affectedSessions", "ofSessions", "doseSince")
"""Properties that FHIR has no element for."""


@dataclass
class Codes:
    """The codes of the classes of facts.

    of: for each class its codings, the name of the class last. below: for each class itself and all below it.
    """

    knowledge: Knowledge
    of: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    below: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.knowledge.graph
        owners: dict[tuple[str, str], set[str]] = {}
        for quad in graph.quads_for_pattern(None, CG["hasCode"], None, None):
            code = text(quad.object)
            if self.knowledge.value(code, CG["verified"]) == "true":
                pair = (self.knowledge.value(code, CG["codeSystem"]) or "", self.knowledge.value(code, SKOS["notation"]) or "")
                owners.setdefault(pair, set()).add(text(quad.subject))
        classes = {text(q.subject) for q in graph.quads_for_pattern(None, RDFS["subClassOf"], None, None)}
        for iri in sorted(classes):
            self.of[iri] = [(iri.removesuffix(local_name(iri)), local_name(iri))]
            for above in self.above(iri):
                self.below.setdefault(above, set()).add(iri)
        for pair, iris in sorted(owners.items()):
            if len(iris) == 1:
                self.of.setdefault(*iris, []).insert(0, pair)  # type: ignore[call-overload]

    def above(self, iri: str) -> set[str]:
        """A class and all above it."""
        found, waiting = set(), [iri]
        while waiting:
            each = waiting.pop()
            if each not in found:
                found.add(each)
                waiting += self.knowledge.values(each, RDFS["subClassOf"])
        return found

    def concept(self, iri: str) -> Json:
        """A CodeableConcept for a class."""
        pairs = self.of[iri]
        return {"coding": [{"system": system, "code": code} for system, code in (*pairs[:-1][:1], pairs[-1])]}

    def value_set(self, iri: str) -> list[Json]:
        """The codes of a class and of all below it."""
        pairs = {pair for each in self.below.get(iri, {iri}) for pair in self.of.get(each, ())}
        return [{"system": system, "code": code} for system, code in sorted(pairs)]


class Writer:
    """Writes bundles."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.codes = Codes(knowledge)
        self.ordered = {text(q.subject) for q in knowledge.graph.quads_for_pattern(None, CG["ordersMedication"], None, None)}

    def bundle(self, record: PatientFacts) -> Json:
        """The facts of a patient as a collection Bundle, whose Patient has the IRI as identifier."""
        about: dict[object, dict[str, list[Any]]] = {}
        for quad in (*record.triples, *record.reported):
            about.setdefault(quad.subject, {}).setdefault(quad.predicate.value, []).append(quad.object)
        subject = {"reference": text(record.patient)}
        name = re.sub(r"[^A-Za-z0-9.-]", "-", local_name(text(record.patient)))[-48:]
        person: Json = {"resourceType": "Patient", "id": name, "identifier": [{"value": text(record.patient)}]}
        resources = [person]
        numbers = {node: f"{name}-{n}" for n, node in enumerate(sorted(about, key=str))}

        def add(link: str, make: Callable[[Json, _Fact], None], of: object, **more: Any) -> None:
            for node in about.get(of, {}).get(CG[link].value, ()):
                fact = _Fact(about[node], self.codes)
                resource: Json = {"id": numbers[node], "subject": subject, **more}
                make(resource, fact)
                fact.extend(resource)
                resources.append(resource)
                add("hasSetting", self._setting, node, partOf=[{"reference": f"Procedure/{numbers[node]}"}])

        for link, make in (
            ("hasObservation", self._observation),
            ("hasFinding", self._finding),
            ("hasTreatment", self._procedure),
            ("hasSession", self._procedure),
            ("hasMedication", self._medication),
            ("hasOrder", self._order),
        ):
            add(link, make, record.patient)
        entries = [{"fullUrl": text(record.patient), "resource": person}, *({"resource": r} for r in resources[1:])]
        return {"resourceType": "Bundle", "type": "collection", "entry": entries}

    def _observation(self, resource: Json, fact: _Fact) -> None:
        state = fact.take("state")
        status = {None: "final", "Final": "final", "Preliminary": "preliminary", "EnteredInError": "entered-in-error"}[state]
        resource |= {"resourceType": "Observation", "status": status, "code": fact.code}
        resource |= {"effectiveDateTime": fact.time("time"), "valueQuantity": fact.quantity("value")}

    def _setting(self, resource: Json, fact: _Fact) -> None:
        resource |= {"resourceType": "Observation", "status": "final", "code": fact.code, "valueQuantity": fact.quantity("value")}
        period = fact.period()
        if period:
            resource["effectivePeriod"] = period

    def _finding(self, resource: Json, fact: _Fact) -> None:
        state = fact.one("state")
        status = {"Resolved": "resolved", "Unresolved": "inactive"}.get(state or "", "inactive" if fact.one("end") else "active")
        system = "http://terminology.hl7.org/CodeSystem/condition-clinical"
        resource |= {
            "resourceType": "Condition",
            "clinicalStatus": {"coding": [{"system": system, "code": status}]},
            "code": fact.code,
        }
        if state != "InProgress":
            fact.take("state")
        for name, element in (("onset", "onsetDateTime"), ("end", "abatementDateTime")):
            if fact.one(name):
                resource[element] = fact.time(name)

    def _procedure(self, resource: Json, fact: _Fact) -> None:
        period = fact.period()
        resource |= {"resourceType": "Procedure", "status": "completed" if "end" in period else "in-progress", "code": fact.code}
        if period:
            resource["performedPeriod"] = period

    def _medication(self, resource: Json, fact: _Fact) -> None:
        period = fact.period()
        resource |= {"resourceType": "MedicationStatement", "status": "active", "medicationCodeableConcept": fact.code}
        if period:
            resource["effectivePeriod"] = period
        if fact.one("dailyDose"):
            resource["dosage"] = [fact.dosage()]

    def _order(self, resource: Json, fact: _Fact) -> None:
        """An order for a drug stands as a draft: it is not taken yet."""
        drug = fact.kind in self.ordered
        state = fact.take("state")
        ended = {"Completed": "completed", "Cancelled": "cancelled" if drug else "revoked"}
        resource |= {"status": ended.get(state or "", "draft" if drug else "active"), "intent": "order"}
        resource |= {"resourceType": "MedicationRequest" if drug else "ServiceRequest"}
        resource["medicationCodeableConcept" if drug else "code"] = fact.code
        if fact.one("dailyDose") and drug:
            resource["dosageInstruction"] = [fact.dosage()]


class _Fact:
    """One node of facts."""

    def __init__(self, stated: dict[str, list[Any]], codes: Codes) -> None:
        self.stated, self.codes = dict(stated), codes
        self.kind = text(stated[RDF["type"].value][0])

    @property
    def code(self) -> Json:
        """The codings of the class, or of all classes where several are stated."""
        return {"coding": [c for kind in self.stated[RDF["type"].value] for c in self.codes.concept(text(kind))["coding"]]}

    def one(self, name: str) -> str | None:
        """A value: the local name of a term, or the text of a literal."""
        for value in self.stated.get(CG[name].value, ()):
            return local_name(value.value) if isinstance(value, ox.NamedNode) else str(value.value)
        return None

    def take(self, name: str) -> str | None:
        """A value that needs no extension."""
        value = self.one(name)
        self.stated.pop(CG[name].value, None)
        return value

    def time(self, name: str) -> str:
        """A time to the millisecond: CQL cannot order times of different precision."""
        value = self.one(name) or ""
        seconds, zone = value[:19], value[19:]
        if zone.startswith("."):
            digits = len(zone) - len(zone[1:].lstrip("0123456789")) - 1
            seconds, zone = f"{seconds}.{zone[1 : digits + 1][:3]:0<3}", zone[digits + 1 :]
        else:
            seconds += ".000"
        return seconds + zone

    def period(self) -> Json:
        return {name: self.time(name) for name in ("start", "end") if self.one(name)}

    def quantity(self, name: str) -> Json:
        unit = self.one("unit")
        return {"value": _number(self.one(name) or ""), "unit": unit, "system": UCUM, "code": unit}

    def dosage(self) -> Json:
        """A daily dose as one dose once a day, where its unit is one of a day; as a rate otherwise."""
        dose = self.quantity("dailyDose")
        unit = str(dose["unit"])
        if not unit.endswith("/d"):
            return {"doseAndRate": [{"rateQuantity": dose}]}
        once = dose | {"unit": unit.removesuffix("/d"), "code": unit.removesuffix("/d")}
        timing = {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}}
        return {"timing": timing, "doseAndRate": [{"doseQuantity": once}]}

    def extend(self, resource: Json) -> None:
        """State by extensions what the resource has no element for."""
        extensions = []
        for name in PLAIN:
            for value in self.stated.get(CG[name].value, ()):
                if isinstance(value, ox.NamedNode):
                    extensions.append({"url": CG[name].value, "valueCode": local_name(value.value)})
                elif name == "doseSince":
                    extensions.append({"url": CG[name].value, "valueDateTime": self.time(name)})
                else:
                    extensions.append({"url": CG[name].value, "valueInteger": int(value.value)})
        if extensions:
            resource["extension"] = extensions


def _number(lexical: str) -> int | float:
    return float(lexical) if "." in lexical else int(lexical)


def ndjson(knowledge: Knowledge, records: list[PatientFacts]) -> bytes:
    """A bundle a line."""
    writer = Writer(knowledge)
    return "".join(json.dumps(writer.bundle(record)) + "\n" for record in records).encode()
