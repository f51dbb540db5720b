"""Says facts in FHIR: from the triples of a patient to R4 resources as a hospital would send them.

It shares nothing with the reader: codes, units and states come from the ontology by its own look-ups. Facts that FHIR has
no element for (phase, course, counts of sessions) go into extensions named by the property; classes without a standard
code are coded by their own name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyoxigraph as ox
from golden import Case

from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, SKOS, VANN, local_name

Json = dict[str, Any]

KINDS = ("Treatment", "Session", "Finding", "Observation", "Medication", "Order")
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
UCUM = "http://unitsofmeasure.org"
_PREFERRED = (
    "http://loinc.org",
    "http://snomed.info/sct",
    "http://www.nlm.nih.gov/research/umls/rxnorm",
    "http://www.whocc.no/atc",
)


class UnsayableError(Exception):
    """A fact cannot be said in FHIR so that it means the same."""


def sayable(case: Case) -> bool:
    """Whether a case can be said in FHIR: it has one patient, and nothing that its record holds and nobody could read."""
    return len(case.group) == 1 and not any(quad.predicate == CG["mayHave"] for quad in case.group[0].triples)


class Writer:
    """Writes the records of patients of one knowledge base."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        spaces = knowledge.graph.quads_for_pattern(None, VANN["preferredNamespaceUri"], None, None)
        self.spaces = sorted(q.object.value for q in spaces)
        self.language = CG.iri

    def resources(self, case: Case) -> list[Json]:
        """All resources of the patient of a case. Raises UnsayableError."""
        (record,) = case.group
        self.nodes: dict[Any, dict[str, list[Any]]] = {}
        for quad in record.triples:
            self.nodes.setdefault(quad.subject, {}).setdefault(quad.predicate.value, []).append(quad.object)
        self.patient = local_name(str(record.patient).strip("<>"))
        self.count = 0
        found: list[Json] = [{"resourceType": "Patient", "id": self.patient}]
        mine = self.nodes[record.patient]
        for link in mine.keys() - {RDF["type"].value}:
            kind = local_name(link).removeprefix("has")
            if kind not in KINDS:
                raise UnsayableError(f"the patient has {link}")
            for node in mine[link]:
                found += getattr(self, f"_{kind.lower()}")(self.nodes.get(node, {}))
        return found

    # --- look-ups

    def _class(self, fact: dict[str, list[Any]]) -> str:
        types = [t.value for t in fact.get(RDF["type"].value, []) if isinstance(t, ox.NamedNode)]
        if len(types) != 1 or not self.knowledge.labels.get(types[0]):
            raise UnsayableError(f"its types are {types}")
        return types[0]

    def own(self, iri: str) -> Json:
        """A class by its own name."""
        space = next((s for s in self.spaces if iri.startswith(s) and s != self.language), None)
        if space is None:
            raise UnsayableError(f"{iri} is in no module")
        return {"coding": [{"system": space, "code": iri.removeprefix(space)}]}

    def codes(self, iri: str) -> list[Json]:
        """The standard codings of a class, the most usual first."""
        found = []
        for code in self.knowledge.values(iri, CG["hasCode"]):
            if self.knowledge.value(code, CG["verified"]) == "true":
                system = self.knowledge.value(code, CG["codeSystem"])
                notation = self.knowledge.value(code, SKOS["notation"])
                found.append({"system": system, "code": notation, "display": self.knowledge.value(code, CG["display"])})
        return sorted(found, key=lambda c: (_PREFERRED.index(c["system"]) if c["system"] in _PREFERRED else 9, c["code"]))

    def _concept(self, iri: str, wanted: str | None = None) -> Json:
        codes = [c for c in self.codes(iri) if wanted in (None, c["code"])]
        return {"coding": codes[:1]} if codes else self.own(iri)

    def _base(self, kind: str) -> Json:
        self.count += 1
        return {"resourceType": kind, "id": f"f{self.count}", "subject": {"reference": f"Patient/{self.patient}"}}

    def _one(self, fact: dict[str, list[Any]], name: str) -> Any:
        values = fact.get(CG[name].value, [])
        if len(values) > 1:
            raise UnsayableError(f"it has several values of {name}")
        return values[0].value if values else None

    def _extensions(self, fact: dict[str, list[Any]], *names: str) -> Json:
        found = []
        for name in names:
            for value in fact.get(CG[name].value, []):
                if isinstance(value, ox.NamedNode):
                    found.append({"url": CG[name].value, "valueCode": local_name(value.value)})
                elif value.datatype.value.endswith("integer"):
                    found.append({"url": CG[name].value, "valueInteger": int(value.value)})
                elif value.datatype.value.endswith("dateTime"):
                    found.append({"url": CG[name].value, "valueDateTime": value.value})
                else:
                    raise UnsayableError(f"{name} {value}")
        return {"extension": found} if found else {}

    def _knows(self, fact: dict[str, list[Any]], *names: str) -> None:
        extra = {local_name(p) for p in fact} - {*names, local_name(RDF["type"].value)} - {"22-rdf-syntax-ns#type"}
        if extra:
            raise UnsayableError(f"it states {sorted(extra)}")

    def _period(self, fact: dict[str, list[Any]]) -> Json:
        edges = {edge: self._one(fact, edge) for edge in ("start", "end")}
        return {key: value for key, value in edges.items() if value}

    def _quantity(self, fact: dict[str, list[Any]], name: str, per: str = "") -> Json:
        values = fact.get(CG[name].value, [])
        if len(values) != 1 or not isinstance(values[0], ox.Literal):
            raise UnsayableError(f"its {name} is {values}")
        number, unit = values[0].value, self._one(fact, "unit")
        if not values[0].datatype.value.endswith(("decimal", "integer")):
            raise UnsayableError(f"its {name} is no number")
        found: Json = {"value": Number(number)}
        if unit is not None:
            found |= {"unit": unit.removesuffix(per), "system": UCUM, "code": unit.removesuffix(per)}
        return found

    # --- kinds of fact

    def _treatment(self, fact: dict[str, list[Any]]) -> list[Json]:
        self._knows(fact, "start", "end", "hasSetting")
        resource = self._base("Procedure")
        period = self._period(fact)
        resource |= {"status": "completed" if "end" in period else "in-progress", "code": self.own(self._class(fact))}
        resource |= {"performedPeriod": period} if period else {}
        settings = [self._setting(self.nodes.get(n, {}), resource["id"]) for n in fact.get(CG["hasSetting"].value, [])]
        return [resource, *settings]

    def _setting(self, fact: dict[str, list[Any]], treatment: str) -> Json:
        self._knows(fact, "value", "unit", "start")
        resource = self._base("Observation")
        resource |= {"status": "final", "code": self._concept(self._class(fact)), "valueQuantity": self._quantity(fact, "value")}
        resource["partOf"] = [{"reference": f"Procedure/{treatment}"}]
        start = self._one(fact, "start")
        return resource | ({"effectiveDateTime": start} if start else {})

    def _session(self, fact: dict[str, list[Any]]) -> list[Json]:
        self._knows(fact, "start", "end")
        resource, period, iri = self._base("Procedure"), self._period(fact), self._class(fact)
        treatment = self.knowledge.value(iri, CG["sessionOf"])
        code = self._concept(treatment) if treatment and "end" in period else self.own(iri)
        return [resource | {"status": "completed" if "end" in period else "in-progress", "code": code, "performedPeriod": period}]

    def _finding(self, fact: dict[str, list[Any]]) -> list[Json]:
        self._knows(fact, "onset", "end", "state", "phase", "course", "affectedSessions", "ofSessions")
        resource = self._base("Condition")
        state = local_name(self._one(fact, "state") or "")
        if state:
            status = "resolved" if state == "Resolved" else "active"
            resource["clinicalStatus"] = {"coding": [{"system": CLINICAL, "code": status}]}
        resource["code"] = self._concept(self._class(fact))
        for name, element in (("onset", "onsetDateTime"), ("end", "abatementDateTime")):
            if self._one(fact, name):
                resource[element] = self._one(fact, name)
        extra = ["phase", "course", "affectedSessions", "ofSessions", *(["state"] if state == "InProgress" else [])]
        return [resource | self._extensions(fact, *extra)]

    def _observation(self, fact: dict[str, list[Any]]) -> list[Json]:
        self._knows(fact, "value", "unit", "time", "phase", "state", "reportedCode")
        resource, iri = self._base("Observation"), self._class(fact)
        state = local_name(self._one(fact, "state") or "Final")
        status = {"Final": "final", "Preliminary": "preliminary", "EnteredInError": "entered-in-error"}[state]
        resource |= {"status": status, "code": self._concept(iri, self._one(fact, "reportedCode"))}
        resource["valueQuantity"] = self._quantity(fact, "value")
        if self._one(fact, "time"):
            resource["effectiveDateTime"] = self._one(fact, "time")
        return [resource | self._extensions(fact, "phase")]

    def _dosage(self, fact: dict[str, list[Any]]) -> list[Json]:
        if not fact.get(CG["dailyDose"].value):
            return []
        rate = {"doseQuantity": self._quantity(fact, "dailyDose", "/d")}
        return [{"timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}}, "doseAndRate": [rate]}]

    def _medication(self, fact: dict[str, list[Any]]) -> list[Json]:
        self._knows(fact, "dailyDose", "unit", "start", "end", "doseSince")
        resource, period, dosage = self._base("MedicationStatement"), self._period(fact), self._dosage(fact)
        resource |= {"status": "active", "medicationCodeableConcept": self._concept(self._class(fact))}
        resource |= {"effectivePeriod": period} if period else {}
        resource |= {"dosage": dosage} if dosage else {}
        return [resource | self._extensions(fact, "doseSince")]

    def _order(self, fact: dict[str, list[Any]]) -> list[Json]:
        self._knows(fact, "dailyDose", "unit", "start", "state")
        iri = self._class(fact)
        state = local_name(self._one(fact, "state") or "Active")
        status = {"Active": "draft", "Cancelled": "cancelled", "Completed": "completed"}[state]
        drug = self.knowledge.value(iri, CG["ordersMedication"])
        if drug is None or not self.codes(drug):
            resource = self._base("ServiceRequest") | {"status": status, "intent": "order", "code": self.own(iri)}
            if status == "cancelled":
                resource["status"] = "revoked"
            if self._one(fact, "dailyDose"):
                raise UnsayableError("it has a dose")
            return [resource | ({"occurrenceDateTime": self._one(fact, "start")} if self._one(fact, "start") else {})]
        resource = self._base("MedicationRequest") | {"status": status, "intent": "order"}
        resource["medicationCodeableConcept"] = self._concept(drug)
        dosage = self._dosage(fact) or [{}]
        routes = self.knowledge.values(iri, CG["givenBy"])
        if routes:
            system, code = self.knowledge.value(routes[0], CG["codeSystem"]), self.knowledge.value(routes[0], SKOS["notation"])
            dosage[0]["route"] = {"coding": [{"system": system, "code": code}]}
        resource |= {"dosageInstruction": dosage} if dosage != [{}] else {}
        return [resource | ({"authoredOn": self._one(fact, "start")} if self._one(fact, "start") else {})]


class Number(str):
    """A number in JSON in the digits given."""


def bundle(resources: Iterable[Json], kind: str = "collection") -> Json:
    """A Bundle of resources, without fullUrl."""
    return {"resourceType": "Bundle", "type": kind, "entry": [{"resource": r} for r in resources]}


def dumps(value: Any) -> bytes:
    """JSON in which a Number keeps its digits."""
    numbers: list[str] = []

    def mark(node: Any) -> Any:
        if isinstance(node, Number):
            numbers.append(str(node))
            return f"\x00{len(numbers) - 1}\x00"
        if isinstance(node, dict):
            return {key: mark(item) for key, item in node.items()}
        return [mark(item) for item in node] if isinstance(node, list) else node

    text = json.dumps(mark(value), ensure_ascii=False)
    for index, number in enumerate(numbers):
        text = text.replace(f'"\\u0000{index}\\u0000"', number)
    return text.encode()
