"""FHIR in: worked cases give the answer of their Turtle, and what is nasty but legal is never misread."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fhir_records import CLINICAL, Number, UnsayableError, Writer, bundle, dumps, sayable
from golden import cases, differences

import kbtool
from kbtool import engine
from kbtool.api import KnowledgeBase
from kbtool.facts import Facts, FactsError, Reader, sources
from kbtool.fhir.documents import documents
from kbtool.fhir.read import NotRead, PatientRead, Read, read, read_resources, understood
from kbtool.fhir.tables import tables
from kbtool.namespaces import CG, local_name

Json = dict[str, Any]

AS_OF = "2026-02-10T12:00:00Z"
TIME = "2026-02-10T06:40:00Z"
DK = "https://w3id.org/kbtool/dialysis/"
LOINC, SNOMED, RXNORM, ATC = (
    "http://loinc.org",
    "http://snomed.info/sct",
    "http://www.nlm.nih.gov/research/umls/rxnorm",
    "http://www.whocc.no/atc",
)
UCUM = "http://unitsofmeasure.org"
SECOND = Path(__file__).parent / "second_guideline" / "root.ttl"


@cache
def kb() -> KnowledgeBase:
    return kbtool.load()


def coded(system: str, code: str, display: str | None = None) -> Json:
    return {"coding": [{"system": system, "code": code, **({"display": display} if display else {})}]}


def resource(kind: str, **elements: Any) -> Json:
    """A resource of patient P; an element of None is left out."""
    found = {"resourceType": kind, "id": "r1", "subject": {"reference": "Patient/P"}} | elements
    return {key: value for key, value in found.items() if value is not None}


def observation(**elements: Any) -> Json:
    standard = {
        "status": "final",
        "code": coded(LOINC, "19123-9", "Magnesium [Mass/volume] in Serum or Plasma"),
        "effectiveDateTime": TIME,
        "valueQuantity": quantity(1.4, "mg/dL"),
    }
    return resource("Observation", **(standard | elements))


def quantity(value: Any, unit: str | None, code: str | None = None, **more: Any) -> Json:
    found = {"value": value, "unit": unit, "system": UCUM if code else None, "code": code} | more
    return {key: item for key, item in found.items() if item is not None}


def condition(**elements: Any) -> Json:
    standard = {
        "code": coded(SNOMED, "45352006", "Spasm"),
        "clinicalStatus": coded(CLINICAL, "active"),
        "verificationStatus": coded("http://terminology.hl7.org/CodeSystem/condition-ver-status", "confirmed"),
    }
    return resource("Condition", **(standard | elements))


def statement(**elements: Any) -> Json:
    standard = {"status": "active", "medicationCodeableConcept": coded(RXNORM, "1292", "baclofen")}
    return resource("MedicationStatement", **(standard | elements))


def request(**elements: Any) -> Json:
    standard = {"status": "active", "intent": "order", "medicationCodeableConcept": coded(RXNORM, "1292", "baclofen")}
    return resource("MedicationRequest", **(standard | elements))


def procedure(**elements: Any) -> Json:
    standard = {"status": "completed", "code": coded(SNOMED, "302497006", "Hemodialysis")}
    return resource("Procedure", **(standard | elements))


def session(start: str, end: str | None, **elements: Any) -> Json:
    period = {"start": start} | ({"end": end} if end else {})
    return procedure(performedPeriod=period) | elements


def reading(*resources: Json) -> Read:
    return read_resources([{"resourceType": "Patient", "id": "P"}, *resources], kb().knowledge)


def one(*resources: Json) -> PatientRead:
    """What is read of the only patient, nothing of whom is astray."""
    found = reading(*resources)
    assert not found.stray
    (patient,) = found.patients.values()
    return patient


def facts(patient: PatientRead) -> list[dict[str, str]]:
    """The facts of a patient: class and properties as local names and text, in the order of the record."""
    nodes: dict[str, dict[str, str]] = {}
    for quad in patient.quads:
        if quad.subject.value != patient.iri:
            name = "is" if quad.predicate.value.endswith("#type") else local_name(quad.predicate.value)
            value = quad.object.value
            nodes.setdefault(quad.subject.value, {})[name] = (
                local_name(value) if name in ("is", "phase", "state", "course") else value
            )
    return list(nodes.values())


def names(patient: PatientRead) -> list[str]:
    return sorted(fact["is"] for fact in facts(patient))


def left(patient: PatientRead) -> NotRead:
    """The only entry that was not read, of a patient without facts."""
    (entry,) = patient.not_read
    assert names(patient) == []
    return entry


# --- Worked cases ----------------------------------------------------------------------------------


def _said() -> dict[str, bytes]:
    """Every worked case that can be said in FHIR."""
    writer, found = Writer(kb().knowledge), {}
    for name, case in cases().items():
        if sayable(case):
            found[name] = dumps(bundle(writer.resources(case)))
    return found


def essence(answer: Json) -> Json:
    """What an answer says, without the IRIs of facts."""

    def fact(each: Json) -> tuple[Any, ...]:
        return tuple(each.get(key) for key in ("name", "value", "unit", "time", "dailyDose", "start", "onset", "phase"))

    def entry(each: Json) -> Json:
        rest = ("name", "id", "status", "state", "needs", "blockedBy", "openedBy", "hardStop", "hardStopPossible", "overridable")
        said = {key: each[key] for key in rest if key in each}
        return said | {
            "because": sorted(map(str, map(fact, each["because"]))),
            "orders": [o["name"] for o in each.get("orders", ())],
        }

    kinds = ("recommendations", "prohibitions", "assessments", "cautions")
    return {"inScope": answer["inScope"], "missing": answer["missing"]} | {k: [entry(e) for e in answer[k]] for k in kinds}


def test_every_worked_case_gives_the_answer_of_its_turtle() -> None:
    said, compared, refused, expected_too = _said(), 0, 0, 0
    unread = {name for name in cases() if name.startswith("Unread-")}
    assert said.keys() == cases().keys() - unread, "a worked case cannot be said in FHIR"
    by_time: dict[str, list[str]] = {}
    for name in said:
        by_time.setdefault(cases()[name].as_of, []).append(name)
    for moment, some in by_time.items():
        as_of = engine.parse_as_of(moment)
        turtle = {
            local_name(result.patient): result.data
            for result in engine.assess(kb().knowledge, Facts([cases()[name].group for name in some], []), as_of)
        }
        reader = Reader(vocabulary=kb().knowledge.graph)
        reader.add("cases.ndjson", b"\n".join(said[name] for name in some), "fhir")
        results = {local_name(r.patient): r for r in engine.assess(kb().knowledge, reader.facts(kb().knowledge.graph), as_of)}
        assert results.keys() == turtle.keys()
        for name, result in results.items():
            want = turtle[name]
            if want.get("refused"):
                refused += 1
                continue
            compared += 1
            assert essence(result.data) == essence(want), name
            if not want["setAside"]:
                assert not any(entry["matters"] for entry in result.data.get("notRead", ())), name
                assert result.data["notUsed"] == [] or want["notUsed"], name
                expected = cases()[name].expected
                withdrawn = "EnteredInError" in str(cases()[name].group[0].triples)
                if not withdrawn and not any(key in expected for key in ("setAside", "refused", "notUsedOnly", "cautionBecause")):
                    doubled = result.data | {"doubled": []}
                    assert differences(doubled, expected) == [], name
                    expected_too += 1
    assert compared >= 400, (compared, expected_too, refused)
    assert expected_too >= 350, expected_too
    assert refused <= 15, refused


def test_the_writer_of_the_tests_refuses_what_it_cannot_say() -> None:
    case = next(iter(cases().values()))
    writer = Writer(kb().knowledge)
    writer.spaces = []
    with pytest.raises(UnsayableError):
        writer.resources(case)


def test_one_bundle_is_one_resource_a_line_is_one_file_a_type() -> None:
    """The forms in which a record can come lead to the same facts."""
    case = cases()["P01"]
    resources = Writer(kb().knowledge).resources(case)
    whole = read(dumps(bundle(resources)), kb().knowledge)
    lines = read(b"\n".join(dumps(r) for r in resources) + b"\n", kb().knowledge)
    pretty = read(json.dumps(json.loads(dumps(bundle(resources))), indent=2).encode(), kb().knowledge)
    assert facts(next(iter(whole.patients.values()))) == facts(next(iter(lines.patients.values())))
    assert names(next(iter(whole.patients.values()))) == names(next(iter(pretty.patients.values())))
    by_type: dict[str, list[bytes]] = {}
    for each in resources:
        by_type.setdefault(each["resourceType"], []).append(dumps(each))
    for order in (sorted(by_type), sorted(by_type, reverse=True)):
        reader = Reader(vocabulary=kb().knowledge.graph)
        for kind in order:
            reader.add(f"{kind}.ndjson", b"\n".join(by_type[kind]), "fhir")
        found = reader.facts(kb().knowledge.graph)
        assert sorted(found.groups[0][0].rows()) == sorted(next(iter(whole.patients.values())).rows)


def test_a_reader_without_vocabulary_reads_later_and_the_same() -> None:
    data = dumps(bundle([{"resourceType": "Patient", "id": "P"}, observation()]))
    early, late = Reader(vocabulary=kb().knowledge.graph), Reader()
    for reader in (early, late):
        reader.add("x.json", data)
    graph = kb().knowledge.graph
    assert early.facts(graph).groups[0][0].rows() == late.facts(graph).groups[0][0].rows()
    with pytest.raises(FactsError, match="line 1"):
        Reader().add("x.ndjson", b'{"resourceType": "Patient"', "fhir")


def test_fhir_and_turtle_of_one_patient_come_together() -> None:
    turtle = f"""@prefix cg: <{CG.iri}> . @prefix dk: <{DK}> .
        <https://w3id.org/kbtool/facts/Patient/P> a cg:Patient ; cg:hasTreatment [ a dk:Haemodialysis ] ."""
    found = kb().read(
        turtle.encode(), dumps(bundle([{"resourceType": "Patient", "id": "P"}, condition(), observation(id="x", code=None)]))
    )
    ((record,),) = found.groups
    said = {local_name(t.object.value) for t in record.triples if t.predicate.value.endswith("#type")}
    assert {"Haemodialysis", "MuscleSpasm"} <= said
    assert record.not_needed == {"Observation without a code": 1}


def test_digits_are_kept() -> None:
    data = dumps(bundle([{"resourceType": "Patient", "id": "P"}, observation(valueQuantity=quantity(Number("0.70"), "mmol/L"))]))
    assert b"0.70" in data
    result = kb().assess(data, as_of=AS_OF)["P"]
    (fact,) = [q.object.value for q in kb().read(data).groups[0][0].reported]
    assert fact == "0.70"
    assert [f["value"] for f in result.data["notUsed"]] in (["0.70"], [])


@pytest.mark.parametrize(
    ("sent", "stated"),
    [
        ("1.40", "1.40"),
        ("1.4e0", "1.4"),
        ("14E-1", "1.4"),
        ("2", "2"),
        ("0.000000000000001", "0.000000000000001"),
        ("-1.5", "-1.5"),
    ],
)
def test_numbers(sent: str, stated: str) -> None:
    data = dumps(bundle([{"resourceType": "Patient", "id": "P"}, observation(valueQuantity=quantity(Number(sent), "mg/dL"))]))
    (fact,) = facts(next(iter(read(data, kb().knowledge).patients.values())))
    assert fact["value"] == stated


@pytest.mark.parametrize("sent", ["1e400", "1e-400", "1e20", "12345678901234567890", "0.0000000000000000000001"])
def test_numbers_out_of_all_bounds_are_not_read(sent: str) -> None:
    data = dumps(bundle([{"resourceType": "Patient", "id": "P"}, observation(valueQuantity=quantity(Number(sent), "mg/dL"))]))
    assert left(next(iter(read(data, kb().knowledge).patients.values()))).matters


# --- Observations ----------------------------------------------------------------------------------


def test_an_observation_as_it_should_be() -> None:
    patient = one(observation())
    assert facts(patient) == [{"is": "SerumMagnesium", "value": "1.4", "unit": "mg/dL", "time": TIME, "reportedCode": "19123-9"}]
    assert patient.not_read == []
    assert patient.unneeded == {}


@pytest.mark.parametrize(
    ("unit", "code", "read_as"),
    [
        ("mg/dL", None, "mg/dL"),
        ("mg/dL", "mg/dL", "mg/dL"),
        ("mg/dl", None, "mg/dL"),
        ("mEq/L", None, "meq/L"),
        ("meq/L", None, "meq/L"),
        ("mEq/l", "meq/l", "meq/L"),
        ("mEq/L", "meq/L", "meq/L"),
        (None, "mmol/L", "mmol/L"),
        ("mmol/l", "mmol/L", "mmol/L"),
        ("any words", "mmol/L", "mmol/L"),
        ("mg{Mg}/dL", "mg{Mg}/dL", "mg/dL"),
        (" mmol/L ", None, "mmol/L"),
    ],
)
def test_units_that_are_read(unit: str | None, code: str | None, read_as: str) -> None:
    (fact,) = facts(one(observation(valueQuantity=quantity(1.4, unit, code))))
    assert fact["unit"] == read_as


@pytest.mark.parametrize(
    ("unit", "code", "reason"),
    [
        (None, None, "no unit"),
        ("Mg/dL", None, "not one that is accepted"),
        ("MG/DL", None, "not one that is accepted"),
        ("g/L", "g/L", "not one that is accepted"),
        ("mg{CaCO3}/dL", "mg{CaCO3}/dL", "not one that is accepted"),
        ("mg per decilitre", None, "not one that is accepted"),
        ("mmol/L", "mg/dL", "which differ"),
        ("meq/L", "mmol/L", "which differ"),
        ("mg/dL", "258797006", "not one that is accepted"),
        ("", None, "not one that is accepted"),
    ],
)
def test_units_that_are_refused(unit: str | None, code: str | None, reason: str) -> None:
    entry = left(one(observation(valueQuantity=quantity(1.4, unit, code))))
    assert reason in entry.reason
    assert entry.concept == "SerumMagnesium"
    assert entry.matters


def test_a_unit_coded_in_another_system_is_not_guessed() -> None:
    sent = {"value": 1.4, "unit": "milligram per decilitre", "system": SNOMED, "code": "258797006"}
    assert SNOMED in left(one(observation(valueQuantity=sent))).reason


def test_spellings_of_units_that_mean_the_same_do_not_differ() -> None:
    """A litre may be l or L, and a milliequivalent of an ion of one charge is a millimole."""
    potassium = coded(LOINC, "2823-3")
    (fact,) = facts(one(observation(code=potassium, valueQuantity=quantity(4, "mEq/L", "mmol/L"))))
    assert fact["unit"] == "mmol/L"


def test_a_unit_that_contradicts_the_code_is_taken_as_stated_and_reported() -> None:
    data = dumps(bundle([{"resourceType": "Patient", "id": "P"}, observation(valueQuantity=quantity(0.6, "mmol/L", "mmol/L"))]))
    (fact,) = facts(next(iter(read(data, kb().knowledge).patients.values())))
    assert (fact["value"], fact["unit"]) == ("0.6", "mmol/L")
    warnings = kb().assess(data, as_of=AS_OF)["P"].data["warnings"]
    assert any("19123-9" in w["message"] and "mmol/L" in w["message"] for w in warnings)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"status": "registered"}, "registered"),
        ({"status": "unknown"}, "unknown"),
        ({"status": "nonsense"}, "nonsense"),
        ({"status": None}, "status"),
        ({"valueQuantity": quantity(5, "mg/dL", comparator="<")}, "limit"),
        ({"valueQuantity": quantity(5, "mg/dL", comparator="ad")}, "limit"),
        ({"valueQuantity": None}, "no value"),
        ({"valueQuantity": quantity(None, "mg/dL")}, "no value"),
        ({"valueQuantity": quantity("1.4", "mg/dL")}, "not a number"),
        ({"valueQuantity": quantity(True, "mg/dL")}, "not a number"),
        (
            {
                "valueQuantity": None,
                "dataAbsentReason": coded("http://terminology.hl7.org/CodeSystem/data-absent-reason", "error"),
            },
            "absent",
        ),
        ({"dataAbsentReason": {"text": "clotted"}}, "clotted"),
        ({"valueQuantity": None, "valueString": "1.4 mg/dL"}, "String"),
        ({"valueQuantity": None, "valueInteger": 1}, "Integer"),
        ({"valueQuantity": None, "valueRange": {"low": quantity(1, "mg/dL"), "high": quantity(2, "mg/dL")}}, "Range"),
        ({"valueQuantity": None, "valueRatio": {"numerator": quantity(1, "mg"), "denominator": quantity(1, "dL")}}, "Ratio"),
        (
            {"valueQuantity": None, "valueSampledData": {"origin": quantity(1, "mg/dL"), "period": 1, "dimensions": 1}},
            "SampledData",
        ),
        ({"valueQuantity": None, "valueCodeableConcept": {"text": "low"}}, "CodeableConcept"),
        ({"valueString": "x"}, "Quantity, String"),
        ({"effectiveDateTime": None}, "when the sample was taken"),
        ({"effectiveDateTime": None, "issued": TIME}, "when the sample was taken"),
        ({"effectiveDateTime": "2026-02-10"}, "time of day"),
        ({"effectiveDateTime": "2026-02"}, "the day is not given"),
        ({"effectiveDateTime": "2026"}, "the day is not given"),
        ({"effectiveDateTime": "2026-02-10T06:40:00"}, "time zone"),
        ({"effectiveDateTime": "2026-02-30T06:40:00Z"}, "calendar"),
        ({"effectiveDateTime": "10.02.2026 06:40"}, "not a FHIR time"),
        ({"effectiveDateTime": "2026-02-10T24:00:00Z"}, "not a FHIR time"),
        ({"effectiveDateTime": 20260210}, "not a time"),
        ({"effectiveDateTime": None, "effectivePeriod": {"start": "2026-02-10T06:00:00Z", "end": TIME}}, "span of time"),
        ({"effectiveDateTime": None, "effectiveTiming": {"event": [TIME]}}, "Timing"),
        ({"effectiveInstant": TIME}, "two ways"),
        ({"modifierExtension": [{"url": "https://example.org/negated", "valueBoolean": True}]}, "modifierExtension"),
        (
            {"valueQuantity": quantity(1.4, "mg/dL") | {"modifierExtension": [{"url": "https://example.org/x"}]}},
            "modifierExtension",
        ),
        ({"implicitRules": "https://example.org/rules"}, "implicitRules"),
        ({"focus": [{"reference": "RelatedPerson/donor"}]}, "other than the patient"),
        ({"code": {"coding": [*coded(LOINC, "19123-9")["coding"], *coded(LOINC, "2823-3")["coding"]]}}, "different things"),
        ({"code": {"text": "Serum magnesium"}}, "words are not read"),
        ({"code": {"coding": [{"code": "19123-9"}], "text": "Magnesium [Mass/volume] in Serum or Plasma"}}, "words are not read"),
        (
            {"code": coded("https://lab.example.org", "MG", "Magnesium [Mass/volume] in Serum or Plasma, EDTA")},
            "words are not read",
        ),
    ],
)
def test_observations_that_are_not_read(elements: Json, reason: str) -> None:
    entry = left(one(observation(**elements)))
    assert reason in entry.reason
    assert entry.matters
    assert entry.resource == "Observation/r1"
    assert entry.concept in ("SerumMagnesium", "SerumPotassium")


@pytest.mark.parametrize("status", ["cancelled", "entered-in-error"])
@pytest.mark.parametrize("more", [{}, {"valueQuantity": None}, {"effectiveDateTime": None}])
def test_what_was_withdrawn_does_not_count_and_does_not_stand_out(status: str, more: Json) -> None:
    entry = left(one(observation(status=status, **more)))
    assert not entry.matters
    assert status in entry.reason


@pytest.mark.parametrize("status", ["final", "amended", "corrected"])
def test_released_results_count(status: str) -> None:
    assert "state" not in facts(one(observation(status=status)))[0]


def test_a_preliminary_result_is_recorded_and_not_used() -> None:
    assert facts(one(observation(status="preliminary")))[0]["state"] == "Preliminary"


@pytest.mark.parametrize(
    ("elements", "time"),
    [
        ({"effectiveDateTime": "2026-02-10T07:40:00+01:00"}, "2026-02-10T07:40:00+01:00"),
        ({"effectiveDateTime": "2026-02-10T06:40:00.123Z"}, "2026-02-10T06:40:00.123Z"),
        ({"effectiveDateTime": None, "effectiveInstant": TIME}, TIME),
        ({"effectiveDateTime": None, "effectivePeriod": {"start": TIME, "end": TIME}}, TIME),
        ({"effectiveDateTime": "2016-12-31T23:59:60Z"}, "2017-01-01T00:00:00Z"),
    ],
)
def test_times_that_are_exact(elements: Json, time: str) -> None:
    assert facts(one(observation(**elements)))[0]["time"] == time


def test_a_span_is_read_for_what_no_session_disturbs() -> None:
    urine = coded(DK, "UrineOutput")
    span = {"start": "2026-02-08T06:00:00Z", "end": "2026-02-09T06:00:00Z"}
    sent = observation(code=urine, effectiveDateTime=None, effectivePeriod=span, valueQuantity=quantity(400, "mL/d"))
    assert facts(one(sent))[0]["time"] == span["start"]


def test_one_known_coding_of_several_is_enough() -> None:
    code = {"coding": [{"system": "urn:oid:1.2.3", "code": "MG"}, *coded(LOINC, "19123-9")["coding"], {"display": "no code"}]}
    assert names(one(observation(code=code))) == ["SerumMagnesium"]


def test_a_narrower_and_a_wider_code_are_the_narrower() -> None:
    code = {"coding": [*coded(SNOMED, "431857002")["coding"], *coded(SNOMED, "46177005")["coding"]]}
    assert names(one(condition(code=code))) == ["EndStageRenalDisease"]


def test_object_identifiers_name_terminologies_too() -> None:
    assert names(one(observation(code=coded("urn:oid:2.16.840.1.113883.6.1", "19123-9")))) == ["SerumMagnesium"]


@pytest.mark.parametrize(("code", "read_as"), [("N17.1", ["AcuteKidneyInjury"]), ("N17", ["AcuteKidneyInjury"]), ("N1", [])])
def test_a_longer_code_of_a_hierarchy_by_prefix_means_less(code: str, read_as: list[str]) -> None:
    patient = one(condition(code=coded("http://hl7.org/fhir/sid/icd-10-cm", code)))
    assert names(patient) == read_as


def test_prefixes_mean_nothing_in_other_terminologies() -> None:
    patient = one(condition(code=coded(SNOMED, "453520061")))
    assert names(patient) == []
    assert patient.not_read == []
    assert sum(patient.unneeded.values()) == 1


def test_a_code_that_is_not_verified_reads_nothing_and_stands_out() -> None:
    entry = left(one(condition(code=coded(SNOMED, "66978005"))))
    assert entry.concept == "Hypermagnesaemia"
    assert "verified" in entry.reason
    assert entry.matters


def test_a_code_that_means_more_is_not_the_class() -> None:
    entry = left(one(condition(code=coded("http://hl7.org/fhir/sid/icd-10-cm", "R45.1"))))
    assert entry.concept == "Agitation"
    assert "means more" in entry.reason


def test_a_code_of_another_kind_is_not_a_finding() -> None:
    entry = left(one(condition(code=coded(SNOMED, "302497006"))))
    assert entry.concept == "Haemodialysis"
    assert entry.matters


def test_unknown_codes_are_counted_and_not_listed() -> None:
    other = coded(LOINC, "718-7", "Hemoglobin")
    patient = one(
        *(observation(id=f"o{n}", code=other) for n in range(3)),
        {"resourceType": "Encounter", "subject": {"reference": "Patient/P"}},
    )
    assert patient.unneeded == {"http://loinc.org|718-7 Hemoglobin": 3, "Encounter": 1}
    assert not patient.not_read


def test_components() -> None:
    pressure = observation(
        code=coded(LOINC, "85354-9", "Blood pressure panel"),
        valueQuantity=None,
        component=[
            {"code": coded(LOINC, "8480-6"), "valueQuantity": quantity(150, "mmHg", "mm[Hg]")},
            {"code": coded(LOINC, "8462-4"), "dataAbsentReason": {"text": "not heard"}},
            {"code": coded(LOINC, "8867-4"), "valueQuantity": quantity(80, "beats/min", "/min")},
        ],
    )
    patient = one(pressure)
    assert [(f["is"], f["value"], f["unit"], f["time"]) for f in facts(patient)] == [
        ("SystolicBloodPressure", "150", "mm[Hg]", TIME),
        ("HeartRate", "80", "/min", TIME),
    ]
    (entry,) = patient.not_read
    assert entry.resource == "Observation/r1.component[1]"
    assert "not heard" in entry.reason
    assert entry.matters
    withdrawn = one(pressure | {"status": "entered-in-error"})
    assert names(withdrawn) == []
    assert not any(e.matters for e in withdrawn.not_read)


def test_a_panel_with_members_is_not_missed_itself() -> None:
    panel = observation(
        id="p", code=coded(LOINC, "24362-6", "Panel"), valueQuantity=None, hasMember=[{"reference": "Observation/r1"}]
    )
    patient = one(panel, observation())
    assert names(patient) == ["SerumMagnesium"]
    assert patient.unneeded == {}
    assert patient.not_read == []


# --- Findings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "there"),
    [
        ({"valueBoolean": True}, True),
        ({"valueBoolean": False}, False),
        ({"valueCodeableConcept": coded(SNOMED, "52101004", "Present")}, True),
        ({"valueCodeableConcept": coded(SNOMED, "2667000", "Absent")}, False),
        ({"valueCodeableConcept": coded(LOINC, "LA9633-4")}, True),
        ({"valueCodeableConcept": coded("http://terminology.hl7.org/CodeSystem/v2-0136", "N")}, False),
        ({"valueCodeableConcept": {"text": "present"}}, None),
        ({"valueCodeableConcept": coded(SNOMED, "42425007", "Equivocal")}, None),
        ({"valueCodeableConcept": {"coding": [*coded(SNOMED, "52101004")["coding"], *coded(SNOMED, "2667000")["coding"]]}}, None),
        ({"valueString": "yes"}, None),
        ({"valueBoolean": "true"}, None),
        ({}, None),
        ({"dataAbsentReason": {"text": "asked but unknown"}}, None),
    ],
)
def test_a_finding_in_an_observation(value: Json, there: bool | None) -> None:
    patient = one(observation(code=coded(SNOMED, "45352006"), valueQuantity=None, **value))
    assert names(patient) == (["MuscleSpasm"] if there else [])
    assert [e.matters for e in patient.not_read] == {True: [], False: [False], None: [True]}[there]


@pytest.mark.parametrize(
    ("code", "there"),
    [
        (coded("http://terminology.hl7.org/CodeSystem/v3-ActCode", "ASSERTION"), True),
        (coded(LOINC, "75325-1", "Symptom"), True),
        (coded(LOINC, "8670-2", "History of family member diseases"), False),
        ({"text": "Reason for study"}, False),
        (None, False),
    ],
)
def test_a_finding_as_the_value_of_an_observation(code: Json | None, there: bool) -> None:
    patient = one(observation(code=code, valueQuantity=None, valueCodeableConcept=coded(SNOMED, "45352006", "Spasm")))
    assert names(patient) == (["MuscleSpasm"] if there else [])
    assert [e.matters for e in patient.not_read] == ([] if there else [True])


def _seen(identifier: str, there: bool, time: str | None) -> Json:
    return observation(
        id=identifier, code=coded(SNOMED, "45352006"), valueQuantity=None, valueBoolean=there, effectiveDateTime=time
    )


def test_the_latest_observation_of_a_finding_decides() -> None:
    early, late = "2026-02-01T08:00:00Z", "2026-02-09T09:00:00+01:00"
    assert names(one(_seen("a", True, early), _seen("b", False, late))) == []
    assert names(one(_seen("a", False, early), _seen("b", True, late))) == ["MuscleSpasm"]
    assert len(facts(one(_seen("a", True, early), _seen("b", True, late)))) == 2


@pytest.mark.parametrize("times", [(TIME, TIME), (None, TIME), (TIME, "2026-02-10")])
def test_observations_that_contradict_each_other_are_not_read(times: tuple[str | None, str | None]) -> None:
    patient = one(_seen("a", True, times[0]), _seen("b", False, times[1]))
    assert names(patient) == []
    assert sum(e.matters for e in patient.not_read) == 2


VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"


@pytest.mark.parametrize(
    ("elements", "there", "state"),
    [
        ({}, True, None),
        ({"clinicalStatus": None, "verificationStatus": None}, True, None),
        ({"clinicalStatus": coded(CLINICAL, "recurrence")}, True, None),
        ({"clinicalStatus": coded(CLINICAL, "relapse")}, True, None),
        ({"clinicalStatus": coded(CLINICAL, "inactive")}, True, None),
        ({"clinicalStatus": coded(CLINICAL, "remission")}, True, None),
        ({"clinicalStatus": coded(CLINICAL, "resolved")}, True, "Resolved"),
        ({"clinicalStatus": "resolved"}, True, "Resolved"),
        ({"clinicalStatus": coded(CLINICAL, "unknown")}, None, None),
        ({"clinicalStatus": coded("https://example.org", "active")}, None, None),
        ({"clinicalStatus": {"text": "active"}}, None, None),
        ({"verificationStatus": coded(VERIFICATION, "unconfirmed")}, None, None),
        ({"verificationStatus": coded(VERIFICATION, "provisional")}, None, None),
        ({"verificationStatus": coded(VERIFICATION, "differential")}, None, None),
        ({"verificationStatus": coded(VERIFICATION, "refuted")}, False, None),
        ({"verificationStatus": coded(VERIFICATION, "entered-in-error"), "clinicalStatus": None}, False, None),
        ({"verificationStatus": coded(VERIFICATION, "refuted"), "clinicalStatus": coded(CLINICAL, "unknown")}, False, None),
    ],
)
def test_conditions_by_status(elements: Json, there: bool | None, state: str | None) -> None:
    patient = one(condition(**elements))
    assert names(patient) == (["MuscleSpasm"] if there else [])
    assert [e.matters for e in patient.not_read] == {True: [], False: [False], None: [True]}[there]
    if there:
        assert facts(patient)[0].get("state") == state


@pytest.mark.parametrize(
    ("elements", "stated"),
    [
        ({"onsetDateTime": TIME}, {"onset": TIME}),
        ({"onsetPeriod": {"start": TIME}}, {"onset": TIME}),
        ({"onsetDateTime": TIME, "abatementDateTime": AS_OF}, {"onset": TIME, "end": AS_OF}),
        ({"abatementPeriod": {"end": TIME}}, {"end": TIME}),
        ({"onsetDateTime": "2026-02-10"}, {}),
        ({"onsetAge": {"value": 70, "unit": "a"}}, {}),
        ({"onsetString": "yesterday"}, {}),
        ({"abatementDateTime": "2026"}, {}),
    ],
)
def test_times_of_conditions(elements: Json, stated: Json) -> None:
    patient = one(condition(**elements))
    assert facts(patient) == [{"is": "MuscleSpasm"} | stated]
    assert [e.matters for e in patient.not_read] == ([] if stated else [False])


@pytest.mark.parametrize(
    ("extension", "stated"),
    [
        ({"url": f"{CG.iri}phase", "valueCode": "IntraDialysis"}, {"phase": "IntraDialysis"}),
        ({"url": f"{CG.iri}phase", "valueCoding": {"system": DK, "code": "IntraDialysis"}}, {"phase": "IntraDialysis"}),
        ({"url": f"{CG.iri}phase", "valueUri": f"{DK}IntraDialysis"}, {"phase": "IntraDialysis"}),
        ({"url": f"{CG.iri}affectedSessions", "valueInteger": 2}, {"affectedSessions": "2"}),
        ({"url": f"{CG.iri}state", "valueCode": "InProgress"}, {"state": "InProgress"}),
        ({"url": "https://example.org/else", "valueCode": "IntraDialysis"}, {}),
    ],
)
def test_extensions_named_by_a_property(extension: Json, stated: Json) -> None:
    patient = one(condition(extension=[extension]))
    assert facts(patient) == [{"is": "MuscleSpasm"} | stated]
    assert not patient.not_read


@pytest.mark.parametrize(
    "extension",
    [
        {"url": f"{CG.iri}phase", "valueCode": "Lunchtime"},
        {"url": f"{CG.iri}phase", "valueCode": "https://example.org/IntraDialysis"},
        {"url": f"{CG.iri}phase"},
        {"url": f"{CG.iri}phaze", "valueCode": "IntraDialysis"},
        {"url": f"{CG.iri}dailyDose", "valueDecimal": 5},
        {"url": f"{CG.iri}onset", "valueDateTime": "2026"},
        {"url": f"{CG.iri}hasFinding", "valueUri": "https://example.org/x"},
    ],
)
def test_extensions_that_cannot_be_read_stand_out(extension: Json) -> None:
    patient = one(condition(extension=[extension]))
    assert facts(patient) == [{"is": "MuscleSpasm"}]
    assert [e.matters for e in patient.not_read] == [True]


# --- Treatments, sessions, settings ----------------------------------------------------------------

BEGIN, END = "2026-02-08T07:00:00Z", "2026-02-08T11:00:00Z"


def test_a_session_tells_of_its_treatment() -> None:
    found = facts(one(session(BEGIN, END)))
    assert [(f["is"], f["start"], f.get("end")) for f in found] == [
        ("HaemodialysisSession", BEGIN, END),
        ("Haemodialysis", BEGIN, None),
    ]


def test_the_treatment_is_told_once_and_not_where_it_is_stated() -> None:
    later = session("2026-02-10T07:00:00Z", "2026-02-10T11:00:00Z", id="r2")
    assert names(one(session(BEGIN, END), later)) == ["Haemodialysis", "HaemodialysisSession", "HaemodialysisSession"]
    course = procedure(id="r3", status="in-progress", code=coded(DK, "Haemodialysis"))
    assert names(one(session(BEGIN, END), course)) == ["Haemodialysis", "HaemodialysisSession"]
    other = procedure(id="r3", status="in-progress", code=coded(SNOMED, "71192002"))
    assert names(one(session(BEGIN, END), other)) == ["HaemodialysisSession", "PeritonealDialysis"]
    over = course | {"status": "completed", "performedPeriod": {"start": "2020-01-01T00:00:00Z", "end": "2021-01-01T00:00:00Z"}}
    assert names(one(session(BEGIN, END), over)) == ["Haemodialysis", "Haemodialysis", "HaemodialysisSession"]


def test_old_sessions_tell_nothing_about_today() -> None:
    patient = one(session("2019-02-08T07:00:00Z", "2019-02-08T11:00:00Z"), observation(id="o"))
    assert names(patient) == ["HaemodialysisSession", "SerumMagnesium"]
    assert [(e.concept, e.matters) for e in patient.not_read] == [("Haemodialysis", True)]


@pytest.mark.parametrize(
    ("elements", "read_as"),
    [
        ({"performedPeriod": {"start": BEGIN, "end": "2026-02-08T17:00:00Z"}}, ["Haemodialysis", "HaemodialysisSession"]),
        ({"performedPeriod": {"start": BEGIN, "end": "2026-02-08T17:00:01Z"}}, ["Haemodialysis"]),
        ({"occurrencePeriod": {"start": BEGIN, "end": END}}, ["Haemodialysis", "HaemodialysisSession"]),
        ({"status": "stopped", "performedPeriod": {"start": BEGIN, "end": END}}, ["Haemodialysis", "HaemodialysisSession"]),
        ({"status": "in-progress", "performedPeriod": {"start": BEGIN}}, ["Haemodialysis", "HaemodialysisSession"]),
        ({"status": "in-progress", "performedPeriod": {"start": "2024-05-01"}}, ["Haemodialysis"]),
        ({"status": "in-progress"}, ["Haemodialysis"]),
    ],
)
def test_what_a_haemodialysis_is(elements: Json, read_as: list[str]) -> None:
    assert names(one(procedure(**elements))) == read_as


@pytest.mark.parametrize(
    ("elements", "matters"),
    [
        ({"performedPeriod": {"start": BEGIN}}, True),
        ({"performedDateTime": BEGIN}, True),
        ({"performedPeriod": {"start": "2026-02-08", "end": "2026-02-08"}}, True),
        ({}, True),
        ({"status": "unknown", "performedPeriod": {"start": BEGIN, "end": END}}, True),
        ({"status": "on-hold", "performedPeriod": {"start": BEGIN}}, True),
        ({"status": "not-done", "performedPeriod": {"start": BEGIN, "end": END}}, False),
        ({"status": "preparation", "performedPeriod": {"start": BEGIN}}, False),
        ({"status": "entered-in-error", "performedPeriod": {"start": BEGIN, "end": END}}, False),
    ],
)
def test_procedures_that_are_not_read(elements: Json, matters: bool) -> None:
    entry = left(one(procedure(**elements)))
    assert entry.matters is matters
    assert entry.concept == "Haemodialysis"


def test_own_names_mean_exactly_what_they_say() -> None:
    course = procedure(status="in-progress", code=coded(DK, "Haemodialysis"), performedPeriod={"start": BEGIN})
    assert names(one(course)) == ["Haemodialysis"]
    assert names(one(course | {"code": coded(DK, "HaemodialysisSession")})) == ["HaemodialysisSession"]


def test_settings_belong_to_their_treatment() -> None:
    course = procedure(id="hd", status="in-progress", code=coded(DK, "Haemodialysis"))
    setting = observation(code=coded(DK, "DialysateSodium"), valueQuantity=quantity(138, "mmol/L"))
    patient = one(setting, course)
    (fact,) = [f for f in facts(patient) if f["is"] == "DialysateSodium"]
    assert (fact["value"], fact["start"]) == ("138", TIME)
    assert "time" not in fact
    (link,) = [q for q in patient.quads if q.predicate == CG["hasSetting"]]
    assert link.subject.value.endswith("Procedure/hd")
    other = procedure(id="pd", status="in-progress", code=coded(SNOMED, "71192002"))
    by_part = one(setting | {"partOf": [{"reference": "Procedure/pd"}]}, course, other)
    (link,) = [q for q in by_part.quads if q.predicate == CG["hasSetting"]]
    assert link.subject.value.endswith("Procedure/pd")


@pytest.mark.parametrize(
    ("elements", "others"),
    [
        ({}, []),
        ({"status": "preliminary"}, ["Haemodialysis"]),
        ({"effectiveDateTime": "2026-02-10"}, ["Haemodialysis"]),
        ({"valueQuantity": quantity(138, None)}, ["Haemodialysis"]),
    ],
)
def test_settings_that_are_not_read(elements: Json, others: list[str]) -> None:
    setting = observation(code=coded(DK, "DialysateSodium")) | {"valueQuantity": quantity(138, "mmol/L")} | elements
    treatments = [procedure(id=n, status="in-progress", code=coded(DK, n)) for n in others]
    patient = one(setting, *treatments)
    assert names(patient) == others
    assert [(e.concept, e.matters) for e in patient.not_read] == [("DialysateSodium", True)]


def test_an_ended_treatment_takes_no_setting() -> None:
    over = procedure(
        id="hd", code=coded(DK, "Haemodialysis"), performedPeriod={"start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}
    )
    patient = one(observation(code=coded(DK, "DialysateSodium"), valueQuantity=quantity(138, "mmol/L")), over)
    assert names(patient) == ["Haemodialysis"]
    assert [e.concept for e in patient.not_read] == ["DialysateSodium"]


# --- Drugs and orders ------------------------------------------------------------------------------


def dosage(value: Any, unit: str, repeat: Json | None = None, **more: Any) -> Json:
    found: Json = {"doseAndRate": [{"doseQuantity": quantity(value, unit)}]}
    return found | ({"timing": {"repeat": repeat}} if repeat else {}) | more


DAILY = {"frequency": 1, "period": 1, "periodUnit": "d"}


@pytest.mark.parametrize(
    ("sent", "dose"),
    [
        ([dosage(10, "mg", DAILY)], "10"),
        ([dosage(Number("2.50"), "mg", {"frequency": 3, "period": 1, "periodUnit": "d"})], "7.50"),
        ([dosage(10, "mg", {"period": 8, "periodUnit": "h"})], "30"),
        ([dosage(10, "mg", {"frequency": 2, "period": 2, "periodUnit": "d"})], "10"),
        ([dosage(70, "mg", {"period": 1, "periodUnit": "wk"})], None),
        ([dosage(10, "mg", {"timeOfDay": ["08:00:00", "20:00:00"], "period": 1, "periodUnit": "d"})], "20"),
        ([dosage(10, "mg", timing={"code": coded("http://terminology.hl7.org/CodeSystem/v3-GTSAbbreviation", "BID")})], "20"),
        ([dosage(5, "mg", DAILY), dosage(10, "mg", DAILY)], "15"),
        ([dosage(5, "mg", DAILY, sequence=1), dosage(10, "mg", DAILY, sequence=2)], None),
        ([dosage(10, "mg", DAILY, asNeededBoolean=True)], None),
        ([dosage(10, "mg", DAILY, asNeeded=True)], None),
        ([dosage(10, "mg", DAILY, asNeededBoolean=False)], "10"),
        ([dosage(1, "{tbl}", DAILY)], None),
        ([dosage(10, "mg", {"frequency": 1, "frequencyMax": 3, "period": 1, "periodUnit": "d"})], None),
        ([dosage(10, "mg", {"frequency": 1, "period": 1, "periodMax": 2, "periodUnit": "d"})], None),
        ([dosage(10, "mg", {"frequency": 1, "period": 1, "periodUnit": "mo"})], None),
        ([dosage(10, "mg", DAILY | {"dayOfWeek": ["mon"]})], None),
        ([dosage(10, "mg", {"frequency": 1, "period": 3, "periodUnit": "d"})], None),
        ([dosage(10, "mg", timing={"event": [TIME]})], None),
        ([dosage(10, "mg", timing={"code": {"text": "twice a day"}})], None),
        ([{"text": "10 mg daily"}], None),
        (
            [
                {
                    "doseAndRate": [{"doseRange": {"low": quantity(5, "mg"), "high": quantity(10, "mg")}}],
                    "timing": {"repeat": DAILY},
                }
            ],
            None,
        ),
        ([dosage(0, "mg", DAILY)], None),
    ],
)
def test_daily_doses(sent: list[Json], dose: str | None) -> None:
    (fact,) = facts(
        next(
            iter(
                read(
                    dumps(bundle([{"resourceType": "Patient", "id": "P"}, statement(dosage=sent)])), kb().knowledge
                ).patients.values()
            )
        )
    )
    assert fact.get("dailyDose") == dose
    assert ("unit" in fact) is (dose is not None)


def test_seventy_in_a_week_is_ten_a_day_only_where_it_comes_out_even() -> None:
    """A seventh is no decimal, so that a weekly dose gives none; nothing is rounded."""
    (fact,) = facts(one(statement(dosage=[dosage(10, "mg", {"frequency": 7, "period": 1, "periodUnit": "wk"})])))
    assert fact["dailyDose"] == "10"


@pytest.mark.parametrize(
    ("elements", "stated", "matters"),
    [
        ({}, {}, []),
        ({"effectivePeriod": {"start": TIME}}, {"start": TIME}, []),
        ({"effectivePeriod": {"start": BEGIN, "end": TIME}}, {"start": BEGIN, "end": TIME}, []),
        ({"status": "completed", "effectivePeriod": {"start": BEGIN, "end": TIME}}, {"start": BEGIN, "end": TIME}, []),
        ({"status": "recorded"}, {}, []),
        ({"effectiveDateTime": TIME}, {}, []),
        (
            {"effectivePeriod": {"start": "2026-01-05"}},
            {"start": "2026-01-04T10:00:00Z", "doseSince": "2026-01-06T12:00:00Z"},
            [False],
        ),
        ({"effectivePeriod": {"start": "2026-01"}}, {}, [False]),
        ({"effectivePeriod": {"end": "2026-03-01"}}, {"end": "2026-03-02T12:00:00Z"}, [False]),
    ],
)
def test_medication_statements(elements: Json, stated: Json, matters: list[bool]) -> None:
    patient = one(statement(**elements))
    assert facts(patient) == [{"is": "Baclofen"} | stated]
    assert [e.matters for e in patient.not_read] == matters


@pytest.mark.parametrize(
    ("elements", "matters"),
    [
        ({"status": "completed"}, False),
        ({"status": "stopped", "effectivePeriod": {"start": TIME}}, False),
        ({"status": "completed", "effectivePeriod": {"end": "2025"}}, False),
        ({"effectivePeriod": {"end": "2025"}}, True),
        ({"status": "not-taken"}, False),
        ({"status": "intended"}, False),
        ({"status": "entered-in-error"}, False),
        ({"status": "on-hold"}, True),
        ({"status": "unknown"}, True),
        (
            {
                "status": "recorded",
                "adherence": {"code": coded("http://hl7.org/fhir/CodeSystem/medication-statement-adherence", "not-taking")},
            },
            False,
        ),
        (
            {
                "status": "recorded",
                "adherence": {"code": coded("http://hl7.org/fhir/CodeSystem/medication-statement-adherence", "on-hold")},
            },
            True,
        ),
        ({"medicationCodeableConcept": {"text": "baclofen 10 mg tablet"}}, True),
        ({"medicationCodeableConcept": coded(RXNORM, "197391", "baclofen 10 MG Oral Tablet")}, True),
        ({"medicationCodeableConcept": None, "medicationReference": {"reference": "Medication/none"}}, True),
        ({"medicationCodeableConcept": None, "medicationReference": {"display": "baclofen"}}, True),
        ({"dosage": [{"route": coded(SNOMED, "72607000", "Intrathecal route")}]}, False),
    ],
)
def test_medication_statements_that_are_not_read(elements: Json, matters: bool) -> None:
    assert left(one(statement(**elements))).matters is matters


BACLOFEN = {"resourceType": "Medication", "id": "m1", "code": coded(RXNORM, "1292")}
PRODUCT = coded("https://example.org/products", "12345", "Some tablet")


@pytest.mark.parametrize(
    ("elements", "medication"),
    [
        ({"medicationReference": {"reference": "Medication/m1"}}, BACLOFEN),
        ({"medicationReference": {"reference": "#m1"}, "contained": [BACLOFEN]}, None),
        ({"medication": {"reference": {"reference": "Medication/m1"}}}, BACLOFEN),
        ({"medication": {"concept": coded(RXNORM, "1292")}}, None),
        (
            {"medicationReference": {"reference": "Medication/m1"}},
            BACLOFEN | {"code": PRODUCT, "ingredient": [{"itemCodeableConcept": coded(RXNORM, "1292")}]},
        ),
        (
            {"medicationReference": {"reference": "Medication/m1"}},
            BACLOFEN | {"code": PRODUCT, "ingredient": [{"item": {"concept": coded(RXNORM, "1292")}}]},
        ),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_drugs_by_reference(elements: Json, medication: Json | None, first: bool) -> None:
    sent = [statement(medicationCodeableConcept=None, **elements), *([medication] if medication else [])]
    assert names(one(*(sent if first else sent[::-1]))) == ["Baclofen"]


@pytest.mark.parametrize(
    "medication",
    [
        BACLOFEN | {"status": "entered-in-error"},
        BACLOFEN | {"modifierExtension": [{"url": "https://example.org/x"}]},
        BACLOFEN | {"code": PRODUCT, "ingredient": [{"itemCodeableConcept": coded(RXNORM, c)} for c in ("1292", "6585")]},
        {"resourceType": "Substance", "id": "m1", "code": coded(RXNORM, "1292")},
    ],
)
def test_drugs_by_reference_that_are_not_read(medication: Json) -> None:
    sent = statement(medicationCodeableConcept=None, contained=[medication], medicationReference={"reference": "#m1"})
    assert left(one(sent)).matters


IV = [{"route": coded(SNOMED, "47625008", "Intravenous route")}]
ORAL = [{"route": coded(SNOMED, "26643006", "Oral route")}]
MAGNESIUM = coded(RXNORM, "6585", "magnesium sulfate")


@pytest.mark.parametrize(
    ("drug", "route", "order", "matters"),
    [
        (MAGNESIUM, IV, True, []),
        (MAGNESIUM, ORAL, False, []),
        (MAGNESIUM, None, False, [True]),
        (MAGNESIUM, [{"route": {"text": "IV"}}], False, [True]),
        (MAGNESIUM, [{"route": coded(SNOMED, "78421000", "Intramuscular route")}], False, [True]),
        (MAGNESIUM, [{"route": coded("http://terminology.hl7.org/CodeSystem/v2-0162", "IV")}], True, []),
        (coded(RXNORM, "1656665", "magnesium sulfate Injection"), None, True, []),
        (coded(ATC, "B05XA05"), None, True, []),
        (coded(ATC, "A12CC02"), None, False, [True]),
        (coded(ATC, "B05XA05"), ORAL, False, []),
    ],
)
@pytest.mark.parametrize("status", ["draft", "active"])
def test_an_order_is_told_from_drug_and_route(drug: Json, route: Any, order: bool, matters: list[bool], status: str) -> None:
    patient = one(request(status=status, medicationCodeableConcept=drug, dosageInstruction=route))
    taken = ["MagnesiumSulfate"] if status == "active" else []
    assert names(patient) == (["IntravenousMagnesiumOrder"] if order else []) + taken
    assert [e.matters for e in patient.not_read] == matters


@pytest.mark.parametrize(
    ("elements", "read_as", "matters"),
    [
        ({}, ["Baclofen", "BaclofenOrder"], []),
        ({"status": "draft"}, ["BaclofenOrder"], []),
        ({"intent": "original-order"}, ["Baclofen", "BaclofenOrder"], []),
        ({"intent": "proposal"}, [], [False]),
        ({"intent": "plan"}, [], [True]),
        ({"intent": None}, [], [True]),
        ({"status": "cancelled"}, [], [False]),
        ({"status": "entered-in-error"}, [], [False]),
        ({"status": "on-hold"}, [], [True]),
        ({"status": "unknown"}, [], [True]),
        ({"status": "stopped"}, [], [False]),
        ({"status": "completed"}, [], [False]),
        ({"status": "ended"}, [], [False]),
        ({"doNotPerform": True}, [], [False]),
        ({"doNotPerform": "no"}, [], [False]),
        ({"doNotPerform": False}, ["Baclofen", "BaclofenOrder"], []),
    ],
)
def test_medication_requests_by_status(elements: Json, read_as: list[str], matters: list[bool]) -> None:
    patient = one(request(**elements))
    assert names(patient) == read_as
    assert [e.matters for e in patient.not_read] == matters


def test_an_order_has_the_dose_it_leads_to() -> None:
    begin = {"repeat": DAILY | {"boundsPeriod": {"start": TIME}}}
    patient = one(request(status="draft", dosageInstruction=[dosage(20, "mg", timing=begin)]))
    assert facts(patient) == [{"is": "BaclofenOrder", "dailyDose": "20", "unit": "mg/d", "start": TIME}]


def test_a_request_tells_what_is_taken_only_where_nothing_else_does() -> None:
    assert names(one(request(), statement(id="s"))) == ["Baclofen", "BaclofenOrder"]
    ended = statement(id="s", status="stopped", effectivePeriod={"start": BEGIN, "end": END})
    assert names(one(request(), ended)) == ["Baclofen", "Baclofen", "BaclofenOrder"]


def test_a_chain_of_requests_is_one_use() -> None:
    filler = request(id="r2", intent="filler-order", basedOn=[{"reference": "MedicationRequest/r1"}])
    assert names(one(request(), filler)) == ["Baclofen", "BaclofenOrder", "BaclofenOrder"]


@pytest.mark.parametrize(
    ("elements", "stated", "matters"),
    [
        ({"status": "in-progress", "effectiveDateTime": TIME}, {"start": TIME}, []),
        ({"effectiveDateTime": TIME}, {"start": TIME, "end": TIME}, [True]),
        ({"effectivePeriod": {"start": BEGIN, "end": END}}, {"start": BEGIN, "end": END}, [True]),
        ({"occurenceDateTime": TIME}, {"start": TIME, "end": TIME}, [True]),
        ({}, None, [True]),
        ({"status": "not-done", "effectiveDateTime": TIME}, None, [False]),
        ({"status": "on-hold", "effectiveDateTime": TIME}, None, [True]),
    ],
)
def test_medication_administrations(elements: Json, stated: Json | None, matters: list[bool]) -> None:
    sent = resource(
        "MedicationAdministration", **({"status": "completed", "medicationCodeableConcept": coded(RXNORM, "1292")} | elements)
    )
    patient = one(sent)
    assert facts(patient) == ([{"is": "Baclofen"} | stated] if stated is not None else [])
    assert [e.matters for e in patient.not_read] == matters


def test_an_administration_is_enough_beside_a_request() -> None:
    given = resource(
        "MedicationAdministration",
        id="a",
        status="completed",
        medicationCodeableConcept=coded(RXNORM, "1292"),
        effectiveDateTime=TIME,
    )
    patient = one(given, request())
    assert names(patient) == ["Baclofen", "Baclofen", "BaclofenOrder"]
    assert not patient.not_read


@pytest.mark.parametrize(
    ("elements", "state", "matters"),
    [
        ({"status": "active"}, [None], []),
        ({"status": "draft"}, [None], []),
        ({"status": "completed"}, ["Completed"], []),
        ({"status": "revoked"}, [], [False]),
        ({"status": "on-hold"}, [], [True]),
        ({"status": "active", "intent": "plan"}, [], [True]),
        ({"status": "active", "doNotPerform": True}, [], [False]),
        ({"status": "active", "code": {"concept": coded(DK, "StopBaclofenOrder")}}, [None], []),
    ],
)
def test_service_requests(elements: Json, state: list[str | None], matters: list[bool]) -> None:
    sent = {"intent": "order", "code": coded(DK, "StopBaclofenOrder")} | elements
    patient = one(resource("ServiceRequest", **sent))
    assert [f.get("state") for f in facts(patient)] == state
    assert [e.matters for e in patient.not_read] == matters


def test_a_request_for_a_measurement_is_not_missed() -> None:
    patient = one(resource("ServiceRequest", status="active", intent="order", code=coded(LOINC, "19123-9", "Magnesium")))
    assert not patient.quads[1:]
    assert not patient.not_read
    assert sum(patient.unneeded.values()) == 1


def test_an_order_in_draft_is_stopped() -> None:
    """The moment before signing: magnesium into a vein in a patient in whom the guideline forbids it."""
    stops = (c for c in cases().values() if any(p["hardStop"] for p in c.expected["prohibitions"].get("holds", {}).values()))
    case = next(c for c in stops if "IntravenousMagnesiumOrder" in str(c.group[0].triples))
    resources = Writer(kb().knowledge).resources(case)
    drafts = [r for r in resources if r["resourceType"] == "MedicationRequest"]
    assert drafts
    assert {r["status"] for r in drafts} == {"draft"}
    found = read_resources(resources, kb().knowledge)
    (result,) = engine.assess(kb().knowledge, found.facts(), engine.parse_as_of(case.as_of))
    stopped = [o["fact"] for p in result.data["prohibitions"] if p["hardStop"] for o in p["orders"]]
    assert stopped
    assert {found.origins[iri] for iri in stopped} <= {f"MedicationRequest/{d['id']}" for d in drafts}


# --- Whose it is -----------------------------------------------------------------------------------

EARLIER, MEANWHILE, LATER = (f"2026-02-10T{hour}:00:00Z" for hour in ("07", "08", "09"))


def strays(*entries: Json) -> list[NotRead]:
    return read(
        json.dumps({"resourceType": "Bundle", "type": "collection", "entry": list(entries)}).encode(), kb().knowledge
    ).stray


@pytest.mark.parametrize(
    ("patient_url", "own_url", "reference"),
    [
        (None, None, "Patient/P"),
        (None, None, "Patient/P/_history/3"),
        ("urn:uuid:6d5f3b52-8b7d-4c7c-9c37-000000000001", None, "urn:uuid:6d5f3b52-8b7d-4c7c-9c37-000000000001"),
        ("urn:uuid:6d5f3b52-8b7d-4c7c-9c37-000000000001", "urn:uuid:6d5f3b52-8b7d-4c7c-9c37-000000000002", "Patient/P"),
        ("https://ehr.example.org/r4/Patient/P", "https://ehr.example.org/r4/Observation/r1", "Patient/P"),
        (
            "https://ehr.example.org/r4/Patient/P",
            "https://ehr.example.org/r4/Observation/r1",
            "https://ehr.example.org/r4/Patient/P",
        ),
        ("https://ehr.example.org/r4/Patient/P", None, "https://ehr.example.org/r4/Patient/P/_history/1"),
        (None, "https://ehr.example.org/r4/Observation/r1", "https://ehr.example.org/r4/Patient/P"),
    ],
)
def test_references_to_the_patient(patient_url: str | None, own_url: str | None, reference: str) -> None:
    entries = [
        {"fullUrl": patient_url, "resource": {"resourceType": "Patient", "id": "P"}},
        {"fullUrl": own_url, "resource": observation(subject={"reference": reference})},
    ]
    found = read(json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode(), kb().knowledge)
    assert not found.stray
    assert [names(p) for p in found.patients.values()] == [["SerumMagnesium"]]


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (None, "does not say whom"),
        ({"display": "Jane"}, "does not say whom"),
        ({"reference": "#p"}, "inside it"),
        ({"reference": "Group/g"}, "Group"),
        ({"reference": "Device/d"}, "Device"),
        ({"reference": "urn:uuid:6d5f3b52-8b7d-4c7c-9c37-00000000000f"}, "not in the record"),
        ({"identifier": {"system": "urn:mrn", "value": "2"}}, "no patient in the record"),
        ({"reference": 7}, "does not say whom"),
        ("Patient/P", "does not say whom"),
    ],
)
def test_resources_without_a_patient_are_astray(subject: Any, reason: str) -> None:
    found = reading(observation(subject=subject))
    (entry,) = found.stray
    assert reason in entry.reason
    assert entry.concept == "SerumMagnesium"
    assert entry.matters
    assert found.facts().strays == [f"Observation/r1: {entry.reason}"]
    result = kb().assess(dumps(bundle([{"resourceType": "Patient", "id": "P"}, observation(subject=subject)])), as_of=AS_OF)
    assert not result.conforms
    assert result.unassigned


def test_what_the_guideline_does_not_know_is_not_astray() -> None:
    assert not reading(observation(subject=None, code=coded(LOINC, "718-7", "Hemoglobin"))).stray


def test_a_patient_by_identifier_also_where_the_patient_comes_later() -> None:
    person = {"resourceType": "Patient", "id": "P", "identifier": [{"system": "urn:mrn", "value": "1"}]}
    sent = observation(subject={"identifier": {"system": "urn:mrn", "value": "1"}})
    for order in ([person, sent], [sent, person]):
        found = read_resources(order, kb().knowledge)
        assert not found.stray
        assert [names(p) for p in found.patients.values()] == [["SerumMagnesium"]]
    twin = person | {"id": "Q"}
    for order in ([person, twin, sent], [sent, person, twin]):
        found = read_resources(order, kb().knowledge)
        assert not found.stray
        assert [names(p) for p in found.patients.values()] == [[], []]
        for patient in found.patients.values():
            (entry,) = patient.not_read
            assert ("more than one" in entry.reason, entry.concept, entry.matters) == (True, "SerumMagnesium", True)


def test_another_patient_stays_another() -> None:
    found = reading(
        observation(),
        observation(
            id="r2", subject={"reference": "Patient/Q"}, code=coded(LOINC, "2823-3"), valueQuantity=quantity(4, "mmol/L")
        ),
    )
    assert {p.reference: names(p) for p in found.patients.values()} == {
        "Patient/P": ["SerumMagnesium"],
        "Patient/Q": ["SerumPotassium"],
    }


def test_ids_are_those_of_the_patient() -> None:
    """Two records may use the same id for resources of their own."""
    lines = [
        dumps(bundle([{"resourceType": "Patient", "id": p}, observation(subject={"reference": f"Patient/{p}"})]))
        for p in ("P", "Q")
    ]
    found = read(b"\n".join(lines), kb().knowledge)
    assert [names(p) for p in found.patients.values()] == [["SerumMagnesium"]] * 2
    assert len(found.origins) == 2


@pytest.mark.parametrize("url", ["https://ehr.example.org/Observation/r1", None])
@pytest.mark.parametrize("kind", ["Bundle", "loose"])
@pytest.mark.parametrize("later", [LATER, EARLIER, None])
@pytest.mark.parametrize("other", [{}, {"code": coded(LOINC, "718-7", "Hemoglobin")}])
def test_one_address_belongs_to_one_patient(url: str | None, kind: str, later: str | None, other: Json) -> None:
    """A result that was filed under the wrong patient and moved: neither has it as a fact, and both are told so."""
    if url and kind == "loose":
        return
    meta = [{"lastUpdated": MEANWHILE}, {"lastUpdated": later} if later else {}]
    sent = [
        observation(subject={"reference": "Patient/P"}, meta=meta[0]),
        observation(subject={"reference": "Patient/Q"}, meta=meta[1], **other),
    ]
    people = [{"resourceType": "Patient", "id": p} for p in ("P", "Q")]
    for order in (sent, sent[::-1]):
        entries = [{"resource": p} for p in people] + [{"fullUrl": url, "resource": r} for r in order]
        found = read_resources(
            [*people, *order] if kind == "loose" else [{"resourceType": "Bundle", "type": "collection", "entry": entries}],
            kb().knowledge,
        )
        assert [names(p) for p in found.patients.values()] == [[], []]
        told = [n for n in (*found.stray, *(n for p in found.patients.values() for n in p.not_read)) if n.matters]
        assert {n.concept for n in told} == {"SerumMagnesium"}
        assert all("another patient has" in n.reason for n in told)
        assert len(told) == (1 if other else 2)


def test_a_drug_that_another_patient_has_too_may_be_taken() -> None:
    sent = [statement(subject={"reference": f"Patient/{p}"}) for p in ("P", "Q")]
    patients = read_resources([bundle(sent)], kb().knowledge).patients.values()
    assert [patient.reference for patient in patients] == ["Patient/P", "Patient/Q"]
    for patient in patients:
        assert [local_name(q.object.value) for q in patient.quads if q.predicate == CG["mayHave"]] == ["Baclofen"]


@pytest.mark.parametrize(
    ("elements", "reason", "read_as"),
    [
        ({"deceasedBoolean": True}, "died", []),
        ({"deceasedDateTime": "2026"}, "died", []),
        ({"deceasedBoolean": False}, None, ["SerumMagnesium"]),
        ({"link": [{"other": {"reference": "Patient/Q"}, "type": "replaced-by"}]}, "replaced", []),
        ({"link": [{"other": {"reference": "Patient/Q"}, "type": "seealso"}]}, "(Patient/Q) is linked", ["SerumMagnesium"]),
        ({"link": [{"other": {"reference": "Patient/Q"}, "type": "replaces"}]}, "another record of", ["SerumMagnesium"]),
        ({"link": [{"type": 1}, 2]}, "another record of this person is linked", ["SerumMagnesium"]),
        ({"active": False}, "not active", ["SerumMagnesium"]),
        ({"modifierExtension": [{"url": "https://example.org/x"}]}, "modifierExtension", []),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_patients_whose_record_is_closed(elements: Json, reason: str | None, read_as: list[str], first: bool) -> None:
    person = {"resourceType": "Patient", "id": "P"} | elements
    found = read_resources([person, observation()] if first else [observation(), person], kb().knowledge)
    (patient,) = found.patients.values()
    assert names(patient) == read_as
    assert [e.matters for e in patient.not_read] == ([True] if reason else [])
    assert reason is None or reason in patient.not_read[0].reason


ONE = {"birthDate": "1950-03-01", "identifier": [{"system": "urn:mrn", "value": "1"}]}


@pytest.mark.parametrize(
    ("other", "two"),
    [
        (ONE, False),
        ({"birthDate": "1951-03-01"}, True),
        ({"birthDate": "1950"}, False),
        ({"birthDate": "1950-03-02"}, True),
        ({}, False),
        ({"identifier": [{"system": "urn:mrn", "value": "2"}]}, True),
        ({"identifier": [{"system": "urn:mrn", "value": "2"}, {"system": "urn:mrn", "value": "1"}]}, False),
        ({"identifier": [{"system": "urn:other", "value": "2"}]}, False),
        (ONE | {"birthDate": "1905-03-01"}, False),
        ({"birthDate": 7, "identifier": "x"}, True),
    ],
)
def test_two_persons_under_one_id_are_not_one_patient(other: Json, two: bool) -> None:
    """A date of birth that was mended beside the same number in the hospital is one person still."""
    person = {"resourceType": "Patient", "id": "P"}
    for order in ([person | ONE, person | other, observation()], [person | other, observation(), person | ONE]):
        (patient,) = read_resources(order, kb().knowledge).patients.values()
        assert names(patient) == ([] if two else ["SerumMagnesium"])
        assert [e.reason.partition(" (")[0] for e in patient.not_read] == (["two persons stand under this id"] if two else [])


PERSON = {"resourceType": "Patient", "id": "P"}
POTASSIUM = {"id": "r2", "code": coded(LOINC, "2823-3"), "valueQuantity": quantity(4, "mmol/L")}


def at(server: str, **elements: Any) -> Json:
    return observation(subject={"reference": f"{server}Patient/P"}, **elements)


A, B = "https://a.example.org/fhir/", "https://b.example.org/fhir/"


@pytest.mark.parametrize("turned", [False, True])
def test_a_patient_without_a_resource_is_not_two_halves(turned: bool) -> None:
    """Nobody knows whether Patient/P and the one at an address are the same: neither is assessed on a half."""
    sent = [at(""), at(A, **POTASSIUM)]
    found = read_resources(sent[::-1] if turned else sent, kb().knowledge)
    assert {p.iri for p in found.patients.values()} == {"https://w3id.org/kbtool/facts/Patient/P", f"{A}Patient/P"}
    for patient in found.patients.values():
        assert names(patient) == []
        assert any("no fact of the record is used" in e.reason for e in patient.not_read)
    assert read_resources([at(A), at(A, **POTASSIUM)], kb().knowledge).patients[f"{A}Patient/P"].rows, "one address is no trouble"


def test_what_may_be_a_patients_own_is_possible(tmp_path: Path) -> None:
    """The patient is known at one address; a drug is told of one of that id at another."""
    drug = statement(subject={"reference": f"{B}Patient/P"})
    entries = [{"fullUrl": f"{A}Patient/P", "resource": PERSON}, {"fullUrl": f"{A}Observation/r1", "resource": at("")}]
    found = read_resources([{"resourceType": "Bundle", "entry": entries}, drug], kb().knowledge)
    known, other = found.patients[f"{A}Patient/P"], found.patients[f"{B}Patient/P"]
    assert names(known) == ["SerumMagnesium"]
    assert [local_name(q.object.value) for q in known.quads if q.predicate == CG["mayHave"]] == ["Baclofen"]
    assert (names(other), len(other.rows)) == ([], 1)


def test_two_servers_may_have_a_patient_of_one_id_each() -> None:
    sent = [
        {"resourceType": "Bundle", "entry": [{"fullUrl": f"{s}Patient/P", "resource": PERSON}, {"resource": at(s)}]}
        for s in (A, B)
    ]
    found = read_resources(sent, kb().knowledge)
    assert [names(p) for p in found.patients.values()] == [["SerumMagnesium"], ["SerumMagnesium"]]
    assert not any(p.not_read for p in found.patients.values())


def test_a_patient_who_is_named_on_two_servers_may_be_two() -> None:
    found = read_resources([PERSON, at(A), at(A, **POTASSIUM)], kb().knowledge)
    assert [names(p) for p in found.patients.values()] == [["SerumMagnesium", "SerumPotassium"]]
    (patient,) = read_resources([PERSON, at(A), at(B, **POTASSIUM), at("", id="r3")], kb().knowledge).patients.values()
    assert names(patient) == []
    assert ["several servers" in e.reason for e in patient.not_read] == [True]


BACLOFEN_OR_NOT = [
    {"resourceType": "Medication", "id": "m", "code": coded("http://www.whocc.no/atc", code)} for code in ("M03BX01", "N02BE01")
]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("together", [False, True])
def test_a_medication_that_is_two_drugs_is_possible(place: int, together: bool) -> None:
    """Whichever comes last, and wherever the statement stands."""
    sent = statement(medicationReference={"reference": "Medication/m"})
    sent.pop("medicationCodeableConcept", None)

    def taken(*medications: Json) -> tuple[list[str], list[str]]:
        resources: list[Json] = [PERSON, *medications]
        resources.insert(1 + place, sent)
        (patient,) = read_resources([bundle(resources)] if together else resources, kb().knowledge).patients.values()
        return names(patient), [local_name(q.object.value) for q in patient.quads if q.predicate == CG["mayHave"]]

    for pair in (BACLOFEN_OR_NOT, BACLOFEN_OR_NOT[::-1]):
        read, possible = taken(*pair)
        assert (read, "Baclofen" in possible) == ([], True), "no drug, and any drug may be it"
        older, newer = (m | {"meta": {"lastUpdated": f"2026-01-0{n}T00:00:00Z"}} for n, m in enumerate(pair, 1))
        for versions in ((older, newer), (newer, older)):
            assert (taken(*versions)[0] == ["Baclofen"]) is (newer["code"] == BACLOFEN_OR_NOT[0]["code"])
    assert taken(BACLOFEN_OR_NOT[0], BACLOFEN_OR_NOT[0])[0] == ["Baclofen"]


def test_the_pages_of_a_record_that_are_not_there_are_told_of_its_patients() -> None:
    page = bundle([PERSON, observation()]) | {"link": [{"relation": "next", "url": f"{A}page2"}]}
    whole = bundle([{"resourceType": "Patient", "id": "Q"}])
    found = read_resources([page, whole], kb().knowledge)
    told = {p.reference: ["one page of several" in e.reason and e.matters for e in p.not_read] for p in found.patients.values()}
    assert told == {"Patient/P": [True], "Patient/Q": []}


def test_a_patient_without_id_and_address_is_astray() -> None:
    assert read_resources([{"resourceType": "Patient"}], kb().knowledge).stray


@pytest.mark.parametrize(
    ("one_meta", "other_meta", "value"),
    [
        ("2026-02-10T07:00:00Z", "2026-02-10T09:00:00+01:00", "9"),
        ("2026-02-10T09:00:00+01:00", "2026-02-10T07:00:00Z", "1.4"),
        (None, None, None),
        ("2026-02-10T07:00:00Z", None, None),
        ("2026-02-10T07:00:00Z", "2026-02-10T07:00:00Z", None),
        ("yesterday", "today", None),
    ],
)
def test_two_versions_of_one_resource(one_meta: str | None, other_meta: str | None, value: str | None) -> None:
    def version(meta: str | None, number: float) -> Json:
        return observation(valueQuantity=quantity(number, "mg/dL")) | ({"meta": {"lastUpdated": meta}} if meta else {})

    patient = one(version(one_meta, 1.4), version(other_meta, 9))
    assert [f["value"] for f in facts(patient)] == ([value] if value else [])
    assert [e.matters for e in patient.not_read] == ([] if value else [True])


STATING_NOTHING: list[Json] = [
    {"code": coded(LOINC, "718-7", "Hemoglobin")},
    {"code": coded("urn:local", "mag")},
    {"code": coded("urn:local", "panel"), "valueQuantity": None, "hasMember": [{"reference": "Observation/x"}]},
]


@pytest.mark.parametrize("other", STATING_NOTHING)
@pytest.mark.parametrize(
    ("updated", "value", "matters"), [(LATER, [], []), (EARLIER, ["1.4"], []), (MEANWHILE, [], [True]), (None, [], [True])]
)
@pytest.mark.parametrize("url", ["https://ehr.example.org/Observation/r1", None])
def test_a_version_that_states_nothing_is_one_too(
    other: Json, updated: str | None, value: list[str], matters: list[bool], url: str | None
) -> None:
    known = observation(meta={"lastUpdated": MEANWHILE})
    unknown = observation(meta={"lastUpdated": updated} if updated else None, **other)
    # Others before them, so that the form of each is known.
    before = [observation(id=f"b{n}", **elements) for n, elements in enumerate([{}, other])]
    for order in ([known, unknown], [unknown, known]):
        entries = [{"resource": {"resourceType": "Patient", "id": "P"}}, *({"resource": r} for r in before)]
        entries += [{"fullUrl": url, "resource": r} for r in order]
        sent = json.dumps({"resourceType": "Bundle", "type": "history", "entry": entries}).encode()
        (patient,) = read(sent, kb().knowledge).patients.values()
        assert [f["value"] for f in facts(patient)] == ["1.4", *value]
        assert [n.matters for n in patient.not_read] == matters
        assert all(n.concept == "SerumMagnesium" and "two versions" in n.reason for n in patient.not_read)


def test_what_a_version_might_state_is_noted_where_the_later_one_cannot_be_told() -> None:
    strange = statement(modifierExtension=[{"url": "https://example.org/x"}])
    unknown = statement(medicationCodeableConcept=coded(RXNORM, "161", "acetaminophen"))
    other = statement(medicationCodeableConcept=coded(DK, "AluminiumHydroxide"))
    assert names(one(other)) == ["AluminiumHydroxide"]
    for order, noted in (
        ([strange, unknown], ["Baclofen"]),
        ([strange, other], ["AluminiumHydroxide", "Baclofen"]),
        ([strange, other, unknown], ["AluminiumHydroxide", "Baclofen"]),
    ):
        for turned in permutations(order):
            patient = one(*turned)
            assert sorted((n.concept, n.matters) for n in patient.not_read) == [(name, True) for name in noted]
            assert [local_name(q.object.value) for q in patient.quads if q.predicate == CG["mayHave"]] == noted


def test_each_class_that_two_versions_state_is_noted() -> None:
    potassium = {"code": coded(LOINC, "2823-3"), "valueQuantity": quantity(4, "mmol/L")}
    found = one(observation(), observation(**potassium)).not_read
    assert sorted(str(n.concept) for n in found) == ["SerumMagnesium", "SerumPotassium"]


def test_versions_of_a_finding_that_differ_in_time_differ() -> None:
    """Seen at one time, the finding is there; at the other, a later observation has told that it is not."""
    versions = [_seen("a", True, EARLIER), _seen("a", True, LATER)]
    patient = one(*versions, _seen("b", False, MEANWHILE))
    assert names(patient) == []
    assert [n.matters for n in patient.not_read if "two versions" in n.reason] == [True]


def test_versions_that_state_nothing_which_counts_are_no_trouble() -> None:
    withdrawn = observation(status="entered-in-error")
    for other in (observation(status="cancelled"), observation(code=coded(LOINC, "718-7", "Hemoglobin"))):
        patient = one(withdrawn, other)
        assert names(patient) == []
        assert patient.not_read
        assert not any(n.matters for n in patient.not_read)


@pytest.mark.parametrize(
    ("versions", "value"),
    [
        ([(EARLIER, 1.4), (LATER, 1.4), (MEANWHILE, 9)], "1.4"),
        ([(EARLIER, 1.4), (MEANWHILE, 1.4), (LATER, 9)], "9"),
        ([(EARLIER, 1.4), (MEANWHILE, 9), (LATER, 1.4)], "1.4"),
        ([(EARLIER, 1.4), (None, 1.4), (LATER, 9)], None),
    ],
)
def test_three_versions_of_one_resource(versions: list[tuple[str | None, float]], value: str | None) -> None:
    for order in permutations(versions):
        patient = one(
            *(observation(valueQuantity=quantity(n, "mg/dL"), meta={"lastUpdated": m} if m else None) for m, n in order)
        )
        assert [f["value"] for f in facts(patient)] == ([value] if value else [])
        assert [n.matters for n in patient.not_read] == ([] if value else [True])


def test_a_resource_that_comes_twice_counts_once() -> None:
    assert names(one(observation(), observation())) == ["SerumMagnesium"]


def test_what_was_deleted_is_not_read() -> None:
    entries = [{"resource": observation()}, {"request": {"method": "DELETE", "url": "Observation/r1"}}]
    assert "deleted" in strays(*entries)[0].reason


def test_a_page_of_several_says_so() -> None:
    page = {
        "resourceType": "Bundle",
        "type": "searchset",
        "link": [{"relation": "next", "url": "https://example.org?page=2"}],
        "entry": [],
    }
    assert "next one is not in it" in read_resources([page], kb().knowledge).stray[0].reason


def test_a_server_that_reports_a_problem_is_heard() -> None:
    def issue(severity: str) -> Json:
        return {"resource": {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": "incomplete"}]}}

    assert "incomplete" in strays(issue("warning"))[0].reason
    assert not strays(issue("information"))


def test_a_bundle_in_a_bundle() -> None:
    inner = bundle([{"resourceType": "Patient", "id": "P"}, observation()])
    (patient,) = read_resources([bundle([inner])], kb().knowledge).patients.values()
    assert names(patient) == ["SerumMagnesium"]


def test_what_modifies_one_resource_does_not_touch_another() -> None:
    marked = observation(id="x", modifierExtension=[{"url": "https://example.org/x"}])
    data = dumps(bundle([{"resourceType": "Patient", "id": "P"}, marked, condition()]))
    (patient,) = read(data, kb().knowledge).patients.values()
    assert names(patient) == ["MuscleSpasm"]
    assert len(patient.not_read) == 1


def _escaped(word: str) -> list[str]:
    """A word as JSON can write it with one letter escaped."""
    codes = [(n, f"{ord(letter):04x}") for n, letter in enumerate(word)]
    return [f"{word[:n]}\\u{code}{word[n + 1 :]}" for n, low in codes for code in {low, low.upper()}]


def test_a_modifier_is_seen_however_it_is_written() -> None:
    word = "modifierExtension"
    marked = [e | {word: [{"url": "https://example.org/x"}]} for e in (observation(), condition(id="c"))]
    person = {"resourceType": "Patient", "id": "P"}
    for written in (word, *_escaped(word)):
        assert json.loads(f'"{written}"') == word
        for sent in (dumps(bundle([person, *marked])), b"\n".join(map(dumps, (person, *marked)))):
            data = sent.replace(word.encode(), written.encode())
            (patient,) = read(data, kb().knowledge).patients.values()
            assert names(patient) == [], written
            assert [n.matters for n in patient.not_read] == [True, True]


@pytest.mark.parametrize(
    ("text", "known"), [("µ and ä", True), ("\u6d41", True), ("modifierExtension", False), ("\\u006d", False)]
)
def test_letters_of_other_alphabets_do_not_slow_reading_down(text: str, known: bool) -> None:
    sent = json.dumps(observation(note=[{"text": text}])).encode()
    assert [plain for _, plain in documents(sent)] == [known]
    assert [plain for _, plain in documents(sent + b"\n" + sent)] == [known, known]


def test_a_resource_without_id_is_read() -> None:
    found = reading(
        observation(id=None),
        condition(id=None),
        observation(id=5, code=coded(LOINC, "2823-3"), valueQuantity=quantity(4, "mmol/L")),
    )
    (patient,) = found.patients.values()
    assert names(patient) == ["MuscleSpasm", "SerumMagnesium", "SerumPotassium"]
    assert len(set(found.origins)) == 3


# --- Bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"{", "line 1"),
        (b'{"resourceType": "Patient", "id": NaN}', "not a number"),
        (b'{"resourceType": 5}', "no resourceType"),
        (b'{"resourceType": "Patient", "id": "\xff"}', "UTF-8"),
        (b'{"resourceType":"Patient","id":"a"}\n{"resourceType":"Patient","id":', "line 2"),
        (b'{"resourceType":"Patient","id":"a"}\n[1]', "line 2"),
        (b'{"resourceType":"Bundle","entry":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_bytes_that_are_no_fhir(data: bytes, reason: str) -> None:
    with pytest.raises(FactsError, match=reason):
        read(data, kb().knowledge)
    with pytest.raises(FactsError):
        Reader(vocabulary=kb().knowledge.graph).add("x.json", data, "fhir")


def test_fhir_in_xml_says_what_to_do() -> None:
    with pytest.raises(FactsError, match=r"application/fhir\+json"):
        Reader().add("x.xml", b'<Patient xmlns="http://hl7.org/fhir"><id value="P"/></Patient>')


def test_json_ld_with_the_word_in_it_stays_json_ld() -> None:
    data = json.dumps(
        {"@id": "https://example.org/p", "@type": f"{CG.iri}Patient", "https://example.org/resourceType": "resourceType"}
    )
    found = kb().read(data.encode(), format="json-ld")
    assert len(found) == 1


def test_a_byte_order_mark_is_no_trouble() -> None:
    data = b"\xef\xbb\xbf" + dumps(bundle([{"resourceType": "Patient", "id": "P"}, observation()]))
    assert len(kb().read(data)) == 1
    assert len(read(data, kb().knowledge).patients) == 1


# --- Answers, command line -------------------------------------------------------------------------


def _nasty() -> bytes:
    return dumps(
        bundle(
            [
                {"resourceType": "Patient", "id": "P"},
                procedure(id="hd", status="in-progress", code=coded(DK, "Haemodialysis")),
                condition(id="c"),
                observation(valueQuantity=quantity(5, "mg/dL", comparator="<")),
                observation(id="o2", status="entered-in-error"),
                observation(id="o3", code=coded(LOINC, "718-7", "Hemoglobin <b>")),
            ]
        )
    )


def test_json_in_a_folder_is_read_where_it_can_be_facts(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    patient = {"@id": "https://p.example/2", "@type": "https://w3id.org/kbtool/cg/Patient"}
    for name, data in {
        "bundle.json": _nasty(),
        "below/linked.JSON": json.dumps(patient).encode(),
        "answer.json": json.dumps(kb().assess(_nasty(), as_of=AS_OF).to_json()).encode(),
        "package.json": b'{"name": "x", "@scope": ["resourceType"]}',
        "empty.json": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
    assert [Path(name).name for name, _, _ in sources([tmp_path])] == ["linked.JSON", "bundle.json"]
    assert {Path(iri).name for iri in kb().assess(tmp_path, as_of=AS_OF).patients} == {"P", "2"}
    (tmp_path / "wide.json").write_bytes(_nasty().decode().encode("utf-16"))
    with pytest.raises(FactsError, match=r"wide\.json: line 1: not UTF-8"):
        kb().assess(tmp_path, as_of=AS_OF)


def test_what_was_not_read_is_in_every_answer(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_bytes(_nasty())
    result = kb().assess(file, as_of=AS_OF)
    data = result["P"].data
    assert not result.conforms
    assert [(e["resource"], e["matters"]) for e in data["notRead"]] == [
        ("Observation/r1", True),
        ("Observation/o2", False),
    ]
    assert data["notNeeded"] == {"http://loinc.org|718-7 Hemoglobin <b>": 1}
    assert "SerumMagnesium" in data["missing"]
    schema = json.loads((Path(kbtool.__file__).parent / "assess.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(result.to_json(), schema)

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", "kbtool", *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    code, text, _ = run("assess", str(file), "--as-of", AS_OF)
    assert code == 1
    assert text.index("NOT READ") < text.index("Observation/r1") < text.index("DO NOW") < text.index("NOT COUNTED")
    assert "Hemoglobin" in text
    code, page, _ = run("assess", str(file), "--as-of", AS_OF, "--format", "html")
    assert code == 1
    assert "Not read" in page
    assert "Observation/r1" in page
    assert "Hemoglobin &lt;b&gt;" in page
    code, turtle, said = run("convert", str(file))
    assert code == 1
    assert "dk:MuscleSpasm" in turtle
    assert "not read: Observation/r1" in said
    assert "entered-in-error" in said
    code, shown, _ = run("validate", str(file), "--as-of", AS_OF)
    assert code == 1
    assert "not read: Observation/r1" in shown
    file.write_bytes(dumps(bundle([{"resourceType": "Patient", "id": "P"}, observation()])))
    target = tmp_path / "facts.nt"
    code, _, said = run("convert", str(file), "--to", "ntriples", "-o", str(target))
    assert code == 0
    assert said == ""
    assert len(kb().read(target)) == 1
    assert run("assess", str(file), "--as-of", AS_OF)[0] == 0
    (tmp_path / "lines.ndjson").write_bytes(file.read_bytes().replace(b"\n", b""))
    assert len(kb().read(tmp_path / "lines.ndjson")) == 1


def test_irrelevant_codes_do_not_spoil_the_answer() -> None:
    other = observation(code=coded(LOINC, "718-7", "Hemoglobin"))
    data = dumps(bundle([{"resourceType": "Patient", "id": "P"}, condition(id="c"), other]))
    assert kb().assess(data, as_of=AS_OF).conforms


# --- The tables --------------------------------------------------------------------------------------


def test_every_verified_code_is_understood_and_leads_to_its_class() -> None:
    found = understood(kb().knowledge)
    by_code = {(u.system, u.code): u.concept for u in found}
    graph = kb().knowledge.graph
    verified = Counter[bool]()
    for quad in graph.quads_for_pattern(None, CG["hasCode"], None, None):
        code = quad.object.value
        system, notation = (
            kb().knowledge.value(code, CG["codeSystem"]),
            kb().knowledge.values(code, kbtool.namespaces.SKOS["notation"]),
        )
        known = kb().knowledge.value(code, CG["verified"]) == "true"
        verified[known] += 1
        assert ((system, notation[0]) in by_code) is known
        assert not known or by_code[system, notation[0]] == local_name(quad.subject.value)
    assert verified[True] > 150
    assert verified[False] >= 1
    own = {u.code for u in found if u.system == DK}
    assert {"SerumMagnesium", "StopBaclofenOrder", "HaemodialysisSession", "DialysateMagnesium"} <= own


def test_every_status_of_fhir_is_in_the_tables() -> None:
    """The value sets of R4 and R5, written down here once more; unknown is never taken for final."""
    sets = {
        ("Observation", "status"): "registered preliminary final amended corrected cancelled entered-in-error unknown",
        ("Condition", "clinicalStatus"): "active recurrence relapse inactive remission resolved unknown",
        ("Condition", "verificationStatus"): "unconfirmed provisional differential confirmed refuted entered-in-error",
        ("Procedure", "status"): "preparation in-progress not-done on-hold stopped completed entered-in-error unknown",
        ("MedicationRequest", "status"): "active on-hold ended stopped completed cancelled entered-in-error draft unknown",
        ("MedicationRequest", "intent"): "proposal plan order original-order reflex-order filler-order instance-order option",
        ("ServiceRequest", "status"): "draft active on-hold revoked completed entered-in-error unknown",
        (
            "ServiceRequest",
            "intent",
        ): "proposal plan directive order original-order reflex-order filler-order instance-order option",
        (
            "MedicationStatement",
            "status",
        ): "active completed entered-in-error intended stopped on-hold unknown not-taken recorded draft",
        ("MedicationAdministration", "status"): "in-progress not-done on-hold completed entered-in-error stopped unknown",
    }
    known = tables(kb().knowledge.graph)
    for (kind, element), codes in sets.items():
        table = known.status(kind, element)
        assert table is not None
        readings = {code: table.read(code) for code in codes.split()}
        assert None not in readings.values(), (kind, readings)
        assert readings.get("unknown") in (None, "CannotBeTold")
        assert readings.get("entered-in-error") in (None, "DoesNotCount")
        assert table.read("no such code") is None


def test_another_guideline_is_read_by_its_own_codes() -> None:
    other = kbtool.load(SECOND)
    found = understood(other.knowledge)
    assert not any(u.system == DK for u in found)
    (space,) = {u.system for u in found if u.concept == "PeakFlow"}
    sent = observation(code=coded(space, "PeakFlow"), valueQuantity=quantity(300, "L/min", "L/min"))
    (patient,) = read_resources([sent], other.knowledge).patients.values()
    assert names(patient) == ["PeakFlow"]
    assert names(one(sent)) == []
