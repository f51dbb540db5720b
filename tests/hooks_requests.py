"""Golden patients as requests of a CDS Client, and the rules for what comes back.

What is recorded is prefetch, what is ordered stands as orders in draft. Facts are coded by the names of the knowledge base, as
a record may code them for which no terminology has a word.
"""

from __future__ import annotations

import copy
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pyoxigraph as ox
from markdown_it import MarkdownIt
from test_patients import read

import kbtool
from kbtool import hooks
from kbtool.facts import Reader
from kbtool.fhir.coding import codings
from kbtool.hooks.prefetch import templates
from kbtool.namespaces import CG, RDF, local_name

Json = dict[str, Any]

FOLDER = Path(__file__).parent / "patients"
NOW = datetime(2026, 2, 10, 12, tzinfo=UTC)
RXNORM, SNOMED, LOINC = "http://www.nlm.nih.gov/research/umls/rxnorm", "http://snomed.info/sct", "http://loinc.org"
INSTANCE = "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea"
KEYS = {
    "Finding": "conditions",
    "Treatment": "procedures",
    "Session": "procedures",
    "Medication": "medication-statements",
    "Observation": "observations-local",
    "Setting": "observations-local",
}
_STATUSES = {"Cancelled": "cancelled", "Completed": "completed"}
_EXTENDED = ("phase", "state", "course", "affectedSessions", "ofSessions", "doseSince")


@cache
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def request(name: str, hook: str, *, draft: bool = True) -> Json:
    """A golden patient as a request of a hook; draft: whether its orders are in draft, or active in the record."""
    return request_of((FOLDER / f"{name}.ttl").read_bytes(), name, hook, draft=draft)


def request_of(turtle: bytes, name: str, hook: str, *, draft: bool = True) -> Json:
    """Facts in Turtle as a request of a hook."""
    reader = Reader()
    reader.add(name, turtle, ox.RdfFormat.TURTLE)
    record = next(r for group in reader.facts(kb().knowledge.graph).groups for r in group)
    nodes: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for quad in record.triples:
        nodes[quad.subject.value][quad.predicate.value].append(quad.object)
    reported = {q.subject.value: q.object.value for q in record.reported}
    made: dict[str, list[Json]] = defaultdict(list)
    orders = []
    for number, (iri, node) in enumerate(nodes.items()):
        for kind, resource in _resource(node, f"f{number}", _id(name), reported.get(iri)):
            if kind == "Order":
                state = local_name(next(iter(node[CG["state"].value]), CG["Active"]).value)
                orders.append(resource | {"status": _STATUSES.get(state, "draft" if draft else "active")})
            else:
                made[KEYS[kind]].append(resource)
    if not draft:
        made["medication-requests"] = orders
    prefetch: Json = {t.key: bundle(made[t.key]) if t.key in made else None for t in templates(kb().knowledge)}
    prefetch["patient"] = {"resourceType": "Patient", "id": _id(name)}
    context: Json = {"userId": "Practitioner/1", "patientId": _id(name)}
    if hook != "patient-view":
        context["draftOrders"] = bundle(orders if draft else [])
    if hook == "order-select":
        context["selections"] = [f"{o['resourceType']}/{o['id']}" for o in (orders if draft else [])]
    return {"hook": hook, "hookInstance": INSTANCE, "context": context, "prefetch": prefetch}


def encoded(document: Any) -> bytes:
    """JSON in which numbers keep their digits."""
    return re.sub(r'"#([0-9.eE+-]+)#"', r"\1", json.dumps(document)).encode()


def bundle(resources: list[Json]) -> Json:
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": resource} for resource in resources]}


def _id(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", name)[:64]


def _resource(node: dict[str, list[Any]], identifier: str, patient: str, reported: str | None) -> list[tuple[str, Json]]:
    known = codings(kb().knowledge)
    types = [t.value for t in node[RDF["type"].value] if known.kind(t.value)]
    if not types:
        return []
    kind = known.kind(types[0])

    def one(name: str) -> str | None:
        values = node.get(CG[name].value)
        return values[0].value if values else None

    extension = [
        {"url": CG[name].value, **_value(value)}
        for name in _EXTENDED
        for value in node.get(CG[name].value, ())
        if kind != "Order"
    ]
    base: Json = {"id": identifier, "subject": {"reference": f"Patient/{patient}"}}
    if extension:
        base["extension"] = extension
    code = {"coding": [known.own(types[0])]}
    period = {key: value for key, value in (("start", one("start")), ("end", one("end"))) if value}
    if kind in ("Observation", "Setting"):
        unit = one("unit")
        quantity = {"value": f"#{reported or one('value')}#", "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
        when = one("time") or one("start")
        resource = {"resourceType": "Observation", "status": "final", "code": code, "valueQuantity": quantity, **base}
        return [(kind, resource | ({"effectiveDateTime": when} if when else {}))]
    if kind == "Finding":
        active = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]}
        resource = {"resourceType": "Condition", "clinicalStatus": active, "code": code, **base}
        return [(kind, resource | ({"onsetDateTime": one("onset")} if one("onset") else {}))]
    if kind in ("Treatment", "Session"):
        status = "completed" if "end" in period else "in-progress"
        resource = {"resourceType": "Procedure", "status": status, "code": code, **base}
        return [(kind, resource | ({"performedPeriod": period} if period else {}))]
    dose = one("dailyDose")
    dosage: list[Json] = []
    if dose:
        unit = (one("unit") or "").removesuffix("/d")
        quantity = {"value": f"#{dose}#", "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
        dosage = [
            {"timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}}, "doseAndRate": [{"doseQuantity": quantity}]}
        ]
    if kind == "Medication":
        resource = {"resourceType": "MedicationStatement", "status": "active", "medicationCodeableConcept": code, **base}
        resource |= {"effectivePeriod": period} if period else {}
        return [(kind, resource | ({"dosage": dosage} if dosage else {}))]
    resource = {"resourceType": "MedicationRequest", "intent": "order", "medicationCodeableConcept": code, **base}
    return [(kind, resource | ({"dosageInstruction": dosage} if dosage else {}))]


def _value(value: Any) -> Json:
    if isinstance(value, ox.NamedNode):
        return {"valueCode": local_name(value.value)}
    if value.datatype.value.endswith("integer"):
        return {"valueInteger": int(value.value)}
    return {"valueDateTime": value.value}


# --- What comes back ---


def service(hook: str, base: kbtool.KnowledgeBase | None = None) -> str:
    return next(identifier for identifier, each in hooks.services(base or kb()).items() if each == hook)


def call(document: Any, hook: str | None = None, now: datetime = NOW) -> tuple[int, Json]:
    body = document if isinstance(document, bytes) else encoded(document)
    return hooks.call(kb(), service(hook or document["hook"]), body, now=now)


def cards(document: Json, now: datetime = NOW) -> list[Json]:
    status, answer = call(document, now=now)
    assert status == 200, answer
    assert faults(answer) == []
    return list(answer["cards"])


@cache
def answered(name: str, hook: str) -> list[Json]:
    """The cards for a golden patient: its orders in draft, or active when a chart is opened."""
    return cards(request(name, hook, draft=hook != "patient-view"), datetime.fromisoformat(read(name)["asOf"]))


def faults(answer: Json) -> list[str]:
    """Every rule of sections "CDS Service Response", "Card Attributes", "Suggestion" and "Action" that an answer breaks."""
    found: list[str] = []
    allowed = {"uuid", "summary", "detail", "indicator", "source", "suggestions", "selectionBehavior", "overrideReasons", "links"}
    seen = [card["uuid"] for card in answer["cards"]]
    seen += [s["uuid"] for card in answer["cards"] for s in card.get("suggestions", ())]
    found += [f"uuid {u} occurs twice" for u in set(seen) if seen.count(u) > 1]
    found += [f"{u} is no uuid" for u in seen if str(UUID(u)) != u]
    for card in answer["cards"]:
        found += [f"unknown field {key}" for key in card.keys() - allowed]
        if not 0 < len(card["summary"]) < 140 or "\n" in card["summary"]:
            found.append(f"summary {card['summary']!r}")
        if card["indicator"] not in ("info", "warning", "critical"):
            found.append(f"indicator {card['indicator']}")
        source = card["source"]
        if not source["label"] or not re.match(r"https?://\S+$", source["url"]):
            found.append(f"source {source}")
        for coding in [source["topic"], *card.get("overrideReasons", ())]:
            found += [f"{key} of {coding}" for key in ("system", "code", "display") if not coding.get(key)]
        if ("suggestions" in card) != (card.get("selectionBehavior") in ("at-most-one", "any")):
            found.append("suggestions without selectionBehavior, or the other way round")
        for suggestion in card.get("suggestions", ()):
            found += [f"{key} of {suggestion}" for key in ("label", "uuid", "actions") if not suggestion.get(key)]
            for action in suggestion["actions"]:
                wanted = "resourceId" if action["type"] == "delete" else "resource"
                if action["type"] not in ("create", "update", "delete") or not action["description"] or not action.get(wanted):
                    found.append(f"action {action}")
    found += [f"empty at {path}" for path in empty(answer["cards"])]
    return found


def empty(node: Any, path: str = "") -> Iterator[str]:
    """Section "Use of JSON": null, empty texts, lists and objects are prohibited."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if value in (None, "", [], {}):
            yield f"{path}.{key}"
        yield from empty(value, f"{path}.{key}")


def outcome(answer: Json) -> str:
    assert answer["resourceType"] == "OperationOutcome"
    return str(answer["issue"][0]["details"]["text"])


def order(identifier: str | None = "103", **more: Any) -> Json:
    """An order in draft for magnesium into a vein."""
    made: Json = {
        "resourceType": "MedicationRequest", "id": identifier, "status": "draft", "intent": "order",
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": "6585"}], "text": "Magnesium sulfate 2 g IV"},
        "subject": {"reference": "Patient/P22"},
        "dosageInstruction": [{"route": {"coding": [{"system": SNOMED, "code": "47625008", "display": "Intravenous route"}]}}],
    }  # fmt: skip
    return {key: value for key, value in (made | more).items() if value is not None}


def with_orders(*orders: Json, hook: str = "order-sign", selections: list[str] | None = None) -> Json:
    document = request("P22", hook)
    document["context"]["draftOrders"] = bundle(list(orders))
    if hook == "order-select":
        document["context"]["selections"] = selections if selections is not None else []
    return document


def changed(document: Json, *path: Any, to: Any = ...) -> Json:
    """A request with something else at a path, or without it."""
    copied = copy.deepcopy(document)
    node = copied
    for step in path[:-1]:
        node = node[step]
    if to is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    return copied


def calcium(identifier: str) -> Json:
    code = {"coding": [{"system": "https://w3id.org/kbtool/dialysis/", "code": "GiveCalciumOrder"}], "text": "Calcium gluconate"}
    return order(identifier, medicationCodeableConcept=code, dosageInstruction=None)


def rendered(markdown: str) -> str:
    """The text that Markdown shows."""
    shown = ("".join(child.content for child in token.children or [token]) for token in parser().parse(markdown))
    return "\n".join(line for line in shown if line)


@cache
def parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def constructs(markdown: str) -> set[str]:
    found = {child.type for token in parser().parse(markdown) for child in [token, *(token.children or [])]}
    return found - {"inline", "text", "softbreak", "text_special"}
