"""FHIR in, by properties: no bundle crashes the reader, and what cannot be read never becomes advice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from typing import Any

import pyoxigraph as ox
import pytest
from fhir_records import Writer, bundle, dumps, sayable
from golden import Case, cases
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import kbtool
from kbtool import engine
from kbtool.api import KnowledgeBase
from kbtool.fhir.alike import WITHOUT_PART, Alike
from kbtool.fhir.read import PatientRead, Read, Reading, loads, read, read_resources
from kbtool.fhir.tables import tables
from kbtool.fhir.translate import translator
from kbtool.namespaces import CG, RDF, RDFS

Json = dict[str, Any]

QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck))


@cache
def kb() -> KnowledgeBase:
    return kbtool.load()


@cache
def records() -> dict[str, list[Json]]:
    """The worked cases in FHIR that state one patient and nothing that validation objects to."""
    writer = Writer(kb().knowledge)
    sound = {n: c for n, c in cases().items() if sayable(c) and not {"refused", "setAside"} & c.expected.keys()}
    return {name: json.loads(dumps(bundle(writer.resources(case))))["entry"] for name, case in sound.items()}


def resources(name: str) -> list[Json]:
    return [json.loads(json.dumps(entry["resource"])) for entry in records()[name]]


def answer(found: Read, case: Case) -> Json:
    (result,) = engine.assess(kb().knowledge, found.facts(), engine.parse_as_of(case.as_of))
    return result.data


# --- Nothing crashes, and what is read is well formed ----------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", "final", "active", "2026-02-10", "2026-02-10T06:40:00Z", "mg/dL", "Patient/P", "#x", "http://loinc.org", "1292"]
    ),
    st.text(max_size=8),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["coding", "code", "system", "value", "unit", "reference", "start", "end", "resourceType", "url", "text"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    found = [path] if path else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


def change(document: Any, path: tuple[Any, ...], value: Any) -> None:
    """Put something else at a place; Ellipsis takes it out."""
    node = document
    for key in path[:-1]:
        node = node[key]
    if value is not ...:
        node[path[-1]] = value
    elif isinstance(node, dict):
        del node[path[-1]]


@QUIET
@given(st.data())
def test_a_garbled_record_is_read_without_a_crash_and_what_is_read_is_well_formed(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(records())))
    document: Json = bundle(resources(name))
    for _ in range(data.draw(st.integers(1, 4))):
        if not (left := places(document)):
            break  # everything was taken out
        where = data.draw(st.sampled_from(left))
        try:
            change(document, where, data.draw(st.one_of(JUNK, st.just(...))))
        except (KeyError, IndexError, TypeError):
            continue
    assume(isinstance(document.get("resourceType"), str))
    found = read(json.dumps(document).encode(), kb().knowledge)
    everything = [entry for patient in found.patients.values() for entry in patient.not_read] + found.stray
    assert all(entry.reason and entry.resource for entry in everything)
    for patient in found.patients.values():
        assert patient.quads, "what is read parses as triples"
    for result in engine.assess(kb().knowledge, found.facts(), engine.parse_as_of(cases()[name].as_of)):
        broken = {v["shape"].rsplit("/", 1)[-1] for v in (*result.refused, *result.data["setAside"])}
        assert broken <= PLAUSIBILITY, broken
    assert read_resources([loads(json.dumps(document))], kb().knowledge).patients.keys() == found.patients.keys()


# --- Observations of one form are read as each of them alone ----------------------------------------


def said(found: Read) -> dict[str, Any]:
    return {p.iri: (p.rows, p.not_read, p.unneeded) for p in found.patients.values()} | {"stray": found.stray}


def each_alone(data: bytes) -> Read:
    """What is read where nothing is learnt from one observation for the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Alike, "find", lambda *_: (None, None))
        return read(data, kb().knowledge)


OTHERS = {
    "value": [0, -1, 5, 10**30, "5", True, None, {}],
    "unit": ["mmol/L", "furlong", "", 1, True, None, []],
    "code": ["mmol/L", "meq/L", "mg/dL", "furlong", None, 1, "2823-3"],
    "system": [None, "http://loinc.org", "https://example.org", 3],
    "display": [None, "Magnesium", 1, True, {}],
    "text": [None, "Sodium", "Serum magnesium", 1, True],
    "status": ["preliminary", "entered-in-error", "registered", "unknown", None, 1, True],
    "effectiveDateTime": [
        "2026-02-10",
        "2026-02-10T06:40:00+01:00",
        "2026-02-10T23:59:60Z",
        "2026-02-30T06:40:00Z",
        "x",
        5,
        None,
    ],
    "extension": [
        [],
        None,
        {},
        [{"url": CG["phase"].value, "valueCode": "PostDialysis"}],
        [{"url": CG["phase"].value}],
        ["xy"],
        [{"url": CG["nothing"].value, "valueCode": "x"}],
        [{"url": CG["state"].value, "valueCode": "Preliminary"}],
    ],
    "valueString": ["low"],
    "effectivePeriod": [{"start": "2026-02-10T06:40:00Z"}],
    "hasMember": [[{"reference": "Observation/x"}]],
    "partOf": [[{"reference": "Procedure/x"}]],
    "component": [[{"code": {"coding": []}}]],
    "dataAbsentReason": [{"text": "lost"}],
    "focus": [[{"reference": "Patient/Q"}]],
    "comparator": ["<", None],
    "note": [[{"text": "taken while lying"}]],
    "implicitRules": ["https://example.org"],
    "modifierExtension": [[{"url": "https://example.org/not", "valueBoolean": True}]],
}


def observation(code: str, display: str) -> Json:
    """A result with everything that makes the form of one."""
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code, "display": display}], "text": "A result"},
        "subject": {"reference": "Patient/P"},
        "effectiveDateTime": "2026-02-10T06:40:00Z",
        "valueQuantity": {"value": 0.9, "unit": "mmol/L", "system": "http://unitsofmeasure.org", "code": "mmol/L"},
        "extension": [{"url": CG["phase"].value, "valueCode": "PreDialysis"}],
    }


def changed(one: Json) -> Iterator[Json]:
    """The same with something else in one place."""
    for element, values in OTHERS.items():
        for number, value in product(range(4), values):
            copy = json.loads(json.dumps(one))
            body = (copy, copy["valueQuantity"], copy["code"], copy["code"]["coding"][0])[number]
            body[element] = value
            yield copy


@pytest.mark.parametrize(("code", "display"), [("2601-3", "Magnesium"), ("718-7", "Hemoglobin")])
def test_observations_of_one_form_are_read_as_each_of_them_alone(code: str, display: str) -> None:
    one = observation(code, display)
    assert len(list(changed(one))) > 250
    for other in changed(one):
        for pair in ((one, other), (other, one), (other, other)):
            sent = json.dumps(
                bundle([{"resourceType": "Patient", "id": "P"}, *(r | {"id": f"o{n}"} for n, r in enumerate(pair))])
            )
            translator.cache_clear()
            assert said(read(sent.encode(), kb().knowledge)) == said(each_alone(sent.encode()))


ALIKE = [1, True, 1.5, "1", "1.5", "True", None]
"""Values in JSON of which Python takes some for equal that do not mean the same."""


@pytest.mark.parametrize("code", ["2601-3", "718-7"])
@pytest.mark.parametrize("place", ["display", "text", "status", "unit", "code", "extension"])
def test_what_looks_equal_to_python_is_not_of_one_form(code: str, place: str) -> None:
    def made(value: Any) -> Json:
        one = observation(code, "A result")
        part = {"display": one["code"]["coding"][0], "text": one["code"], "status": one}.get(place, one["valueQuantity"])
        if place == "extension":
            one["extension"] = [{"url": CG["value"].value, "valueCode": value}]
        else:
            part[place] = value
        return one

    for pair in permutations(ALIKE, 2):
        sent = dumps(bundle([{"resourceType": "Patient", "id": "P"}, *(made(v) | {"id": f"o{n}"} for n, v in enumerate(pair))]))
        translator.cache_clear()
        assert said(read(sent, kb().knowledge)) == said(each_alone(sent)), pair


DECIDING = [*sorted(WITHOUT_PART - {"resourceType", "meta", "subject"}), "meta.source", "subject.type", "valueQuantity.system"]


@pytest.mark.parametrize("element", DECIDING)
def test_an_element_that_a_knowledge_base_decides_by_is_part_of_the_form(element: str) -> None:
    graph = ox.Store()
    graph.extend(kb().knowledge.graph)
    table, yes, no = ox.NamedNode("https://example.org/table"), ox.BlankNode(), ox.BlankNode()
    for subject, predicate, value in (
        (table, RDF["type"], CG["CodeTable"]),
        (table, CG["atElement"], ox.Literal(element)),
        (table, CG["ofResource"], ox.Literal("Observation")),
        (table, CG["whenMissing"], CG["CannotBeTold"]),
        (table, CG["hasRow"], yes),
        (yes, CG["rowCode"], ox.Literal("yes")),
        (yes, CG["readAs"], CG["Counts"]),
        (table, CG["hasRow"], no),
        (no, CG["rowCode"], ox.Literal("no")),
        (no, CG["readAs"], CG["DoesNotCount"]),
    ):
        graph.add(ox.Quad(subject, predicate, value))
    both = [observation("2601-3", "Magnesium") | {"id": f"o{n}"} for n in range(2)]
    *path, last = element.split(".")
    for one, code in zip(both, ("yes", "no"), strict=True):
        body = one
        for step in path:
            body = body.setdefault(step, {})
        body[last] = code
    for order in (both, both[::-1]):
        reading = Reading(graph)
        reading.add(dumps(bundle([{"resourceType": "Patient", "id": "P"}, *order])))
        (patient,) = reading.finish().patients.values()
        assert len([row for row in patient.rows if row[1] == str(CG["time"])]) == 1
        assert ["does not count" in n.reason for n in patient.not_read] == [True]


def test_many_observations_are_read_by_their_form() -> None:
    filled, fill = [0], Alike.fill

    def counting(*given: Any) -> bool:
        filled[0] += 1
        return fill(*given)

    one = next(r for name in records() for r in resources(name) if r["resourceType"] == "Observation" and "valueQuantity" in r)
    sent = json.dumps(bundle([one | {"id": f"o{n}"} for n in range(10)])).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Alike, "fill", counting)
        read(sent, kb().knowledge)
    assert filled[0] >= 9


@pytest.mark.parametrize("element", sorted(WITHOUT_PART - {"resourceType", "id", "subject", "meta"}))
def test_what_plays_no_part_in_the_form_of_an_observation_plays_none_in_reading_it(element: str) -> None:
    one = next(r for name in records() for r in resources(name) if r["resourceType"] == "Observation" and "valueQuantity" in r)
    plain = said(each_alone(json.dumps(bundle([one])).encode()))
    for junk in (
        None,
        "x",
        5,
        [],
        {},
        [{"coding": [{"system": "http://loinc.org", "code": "2823-3"}]}],
        {"reference": "Patient/Q"},
    ):
        assert said(each_alone(json.dumps(bundle([one | {element: junk}])).encode())) == plain


PLAUSIBILITY = {
    "EndShape", "FutureShape", "InProgressShape", "PlausibleShape", "SessionLengthShape", "DosePositiveShape", "DigitsShape",
    "FunctionalShape", "SessionCountShape", "SessionCountOrderShape", "AffectedSessionsShape", "OfSessionsShape", "NumberShape",
    "PatientFactsShape", "DateTimeShape", "FactOwnerShape",
}  # fmt: skip
"""Shapes that ask whether what was sent can be: what the reader emits breaks no other."""


@QUIET
@given(st.lists(JUNK, max_size=4))
def test_junk_is_read_without_a_crash(junk: list[Any]) -> None:
    found = read_resources([item if isinstance(item, dict) else {"resourceType": item} for item in junk], kb().knowledge)
    list(engine.assess(kb().knowledge, found.facts(), engine.parse_as_of("2026-02-10T12:00:00Z")))


# --- What cannot be read never becomes advice ------------------------------------------------------


def _status(resource: Json) -> None:
    if resource["resourceType"] == "Condition":
        system = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
        resource["verificationStatus"] = {"coding": [{"system": system, "code": "differential"}]}
    else:
        resource["status"] = "unknown"


def _modifier(resource: Json) -> None:
    resource["modifierExtension"] = [{"url": "https://example.org/means-the-opposite", "valueBoolean": True}]


def _rules(resource: Json) -> None:
    resource["implicitRules"] = "https://example.org/rules"


SPOILS = (_status, _modifier, _rules)
"""Ways to make a resource unreadable, whatever it states."""


def _above(concept: str) -> set[str]:
    found = {q.subject.value for q in kb().knowledge.graph.quads_for_pattern(None, RDFS["subClassOf"], None, None)}
    known = tables(kb().knowledge.graph).concepts
    return {iri for iri in found if iri in known[concept].above or concept in known.get(iri, known[concept]).above}


@cache
def stoppers() -> dict[str, dict[str, set[str]]]:
    """For each recommendation by name: what its own criteria name, and what could stop it or make it needless."""
    knowledge = kb().knowledge

    def named(criteria: list[str]) -> set[str]:
        return {name for criterion in criteria for name in knowledge.values(criterion, CG["refersTo"])}

    found = {}
    for iri in knowledge.instances(CG["Recommendation"]):
        against = knowledge.values(iri, CG["metWhen"]) + knowledge.values(iri, CG["requiresAbsenceOf"])
        for action in knowledge.values(iri, CG["action"]):
            for quad in knowledge.graph.quads_for_pattern(None, CG["forbids"], kbtool.facts.ox.NamedNode(action), None):
                against += knowledge.values(quad.subject.value, CG["appliesTo"])
        own = knowledge.values(iri, CG["appliesTo"]) + knowledge.values(iri, CG["requires"])
        found[iri] = {"own": named(own), "against": named(against)}
    return found


@dataclass
class Variant:
    """A worked case in which one resource was made unreadable: what that resource stated, and the answers before and after."""

    name: str
    reference: str
    stated: set[str]
    left: set[str]
    reported: set[str]
    before: Json
    after: Json


def variants() -> Iterator[Variant]:
    """Every worked case with each of its resources made unreadable in turn."""
    by_time: dict[str, list[str]] = {}
    for name in records():
        by_time.setdefault(cases()[name].as_of, []).append(name)
    for moment, some in by_time.items():
        sent: list[Json] = []
        made: list[tuple[str, str, str]] = []
        for name in some:
            sent.append(bundle(resources(name)))
            for number, resource in enumerate(resources(name)):
                if resource["resourceType"] == "Patient":
                    continue
                copy = f"{name}--{number}"
                text = json.dumps(resources(name)).replace(f'"Patient/{name}"', f'"Patient/{copy}"')
                changed = json.loads(text)
                changed[0]["id"] = copy
                SPOILS[number % len(SPOILS)](changed[number])
                sent.append(bundle(changed))
                made.append((name, copy, f"{resource['resourceType']}/{resource['id']}"))
        found = read_resources(sent, kb().knowledge)
        assert not found.stray
        patients = {patient.reference.removeprefix("Patient/"): patient for patient in found.patients.values()}
        results = engine.assess(kb().knowledge, found.facts(), engine.parse_as_of(moment))
        answers = {result.patient.rsplit("/", 1)[-1]: result.data for result in results}
        for name, copy, reference in made:
            reported = {entry.resource for entry in patients[copy].not_read if entry.matters}
            stated = {iri for iri, origin in types(patients[name], found) if origin == reference}
            left = {iri for iri, _ in types(patients[copy], found)}
            yield Variant(name, reference, stated, left, reported, answers[name], answers[copy])


def types(patient: PatientRead, found: Read) -> list[tuple[str, str]]:
    """The classes of the facts of a patient, each with the resource that states it."""
    said = [q for q in patient.quads if q.predicate.value.endswith("#type") and q.subject.value in found.origins]
    return [(q.object.value, found.origins[q.subject.value]) for q in said]


def held_back() -> Iterator[str]:
    """What goes wrong in the variants: a resource that is not reported, a recommendation that comes up or stays although what
    it rests on, or what could stop it, cannot be read."""
    known = tables(kb().knowledge.graph).concepts
    for variant in variants():
        if variant.reference not in variant.reported:
            yield f"{variant.name}: {variant.reference} is not reported"
        was = {r["iri"] for r in variant.before["recommendations"] if r["status"] == "recommended"}
        gone = variant.stated - variant.left
        measured = {iri for iri in gone if known[iri].kind in ("Observation", "Setting")}
        related = {name for iri in gone - measured for name in _above(iri) if name in known}
        for entry in variant.after["recommendations"]:
            stops = stoppers()[entry["iri"]]
            if entry["status"] != "recommended" or kb().knowledge.value(entry["iri"], CG["accompanies"]):
                continue
            if entry["iri"] not in was and stops["own"] & measured:
                yield f"{variant.name}: {entry['name']} came up without {variant.reference}"
            if stops["against"] & related:
                yield f"{variant.name}: {entry['name']} although {variant.reference} could not be read"


def test_what_cannot_be_read_is_reported_and_never_becomes_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    count = sum(1 for _ in variants())
    assert count > 1000, count
    assert list(held_back()) == []
    monkeypatch.setattr(tables(kb().knowledge.graph), "assumed", {})
    assert len(list(held_back())) > 20, "without what the reader remembers as unread, advice must come up"


@pytest.mark.parametrize(("remembered", "status"), [(True, "undetermined"), (False, "recommended")])
def test_what_may_be_there_is_what_holds_the_advice_back(remembered: bool, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drug that the patient may take is not advised, and would be if the reader forgot that there was something unread."""
    graph = kb().knowledge.graph
    if not remembered:
        monkeypatch.setattr(tables(graph), "assumed", {})
    name = "Baclofen-7-days-at-dose"
    sent = resources(name)
    for resource in sent:
        if resource["resourceType"] == "MedicationStatement":
            resource["status"] = "on-hold"
    found = answer(read_resources(sent, kb().knowledge), cases()[name])
    (start,) = [r for r in found["recommendations"] if r["name"] == "StartBaclofen"]
    assert start["status"] == status
    assert start["needs"] == (["Baclofen"] if remembered else [])


@pytest.mark.parametrize(
    ("status", "possible", "stop"), [("in-progress", False, True), ("on-hold", True, False), ("not-done", False, False)]
)
def test_an_unread_session_leaves_a_hard_stop_possible(status: str, possible: bool, stop: bool) -> None:
    def entry(kind: str, **elements: Any) -> Json:
        return {"resourceType": kind, "id": kind, "subject": {"reference": "Patient/P"}} | elements

    def coded(system: str, code: str) -> Json:
        return {"coding": [{"system": system, "code": code}]}

    own, snomed = "https://w3id.org/kbtool/dialysis/", "http://snomed.info/sct"
    sent = [
        {"resourceType": "Patient", "id": "P"},
        entry("Procedure", id="hd", status="in-progress", code=coded(own, "Haemodialysis")),
        entry(
            "Procedure", status=status, code=coded(own, "HaemodialysisSession"), performedPeriod={"start": "2026-02-10T10:00:00Z"}
        ),
        entry("Condition", code=coded(snomed, "55300003")),
        entry(
            "MedicationRequest",
            status="draft",
            intent="order",
            medicationCodeableConcept=coded("http://www.nlm.nih.gov/research/umls/rxnorm", "6585"),
            dosageInstruction=[{"route": coded(snomed, "47625008")}],
        ),
    ]
    (result,) = engine.assess(
        kb().knowledge, read_resources(sent, kb().knowledge).facts(), engine.parse_as_of("2026-02-10T12:00:00Z")
    )
    (prohibition,) = [p for p in result.data["prohibitions"] if p["orders"]]
    assert (prohibition["hardStopPossible"], prohibition["hardStop"]) == (possible, stop)
    assert ("HaemodialysisSession" in prohibition["needs"]) is possible
