"""FHIR in: where a patient is treated, by which patients are counted and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import cohort as made
import pytest
from typer.testing import CliRunner

import kbtool
from kbtool.api import KnowledgeBase
from kbtool.cli import app
from kbtool.facts import Reader
from kbtool.fhir.read import PatientRead, read, read_resources
from kbtool.namespaces import CG

Json = dict[str, Any]

TREATED_AT = str(CG["treatedAt"])
BASE = "https://hospital.example/fhir/"
NORTH, SOUTH = {"display": "Dialysis North"}, {"display": "Dialysis South"}
PERIOD = {"start": "2026-02-09T07:00:00Z"}


@cache
def kb() -> KnowledgeBase:
    return kbtool.load()


def patient(**elements: Any) -> Json:
    return {"resourceType": "Patient", "id": "P", **elements}


def visit(provider: Any, start: str | None = "2026-02-09T07:00:00Z", number: int = 1, **elements: Any) -> Json:
    found = {
        "resourceType": "Encounter",
        "id": f"e{number}",
        "status": "finished",
        "subject": {"reference": "Patient/P"},
        "period": {"start": start} if start else None,
        "serviceProvider": provider,
    } | elements
    return {key: value for key, value in found.items() if value is not None}


def one(*resources: Json) -> PatientRead:
    (found,) = read_resources(resources, kb().knowledge).patients.values()
    return found


def places(found: PatientRead) -> list[str]:
    return [json.loads(o) for s, p, o in found.rows if p == TREATED_AT and s == f"<{found.iri}>"]


def place(*resources: Json) -> str | None:
    found = places(one(*resources))
    assert len(found) <= 1
    return found[0] if found else None


def bundle(*resources: Json) -> Json:
    entries = [{"fullUrl": f"{BASE}{r['resourceType']}/{r['id']}", "resource": r} for r in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


ORGANIZATION = {"resourceType": "Organization", "id": "o1", "name": "Harbour Ward"}


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (None, None),
        ({}, None),
        ("Organization/o1", None),
        ([NORTH], None),
        (NORTH, "Dialysis North"),
        ({"display": "  Dialysis\n North "}, "Dialysis North"),
        ({"display": "   "}, None),
        ({"display": 7}, None),
        ({"display": 'Said "North" \\ \ud800'}, 'Said "North" \\ ?'),
        ({"display": "x" * 201}, "x" * 200),
        ({"identifier": {"system": "urn:oid:1.2.3", "value": "17"}}, "urn:oid:1.2.3|17"),
        ({"identifier": {"value": "17"}}, "17"),
        ({"identifier": {"system": "urn:oid:1.2.3"}}, None),
        ({"identifier": {"value": "17"}, "display": "Dialysis North"}, "Dialysis North"),
        ({"reference": "https://other.example/fhir/Organization/9"}, "https://other.example/fhir/Organization/9"),
        ({"reference": "Organization/9"}, f"{BASE}Organization/9"),
        ({"reference": "Organization/9/_history/2"}, f"{BASE}Organization/9"),
        ({"reference": "Organization/9", "display": "Dialysis North"}, "Dialysis North"),
        ({"reference": "Organization/o1", "display": "Its old name"}, "Harbour Ward"),
        ({"reference": f"{BASE}Organization/o1"}, "Harbour Ward"),
        ({"reference": "urn:uuid:0b6cba03-7c1c-4d0c-9ffb-c1cdfcf4a2a6"}, None),
        ({"reference": "Organization?identifier=17"}, None),
        ({"reference": "Patient/P"}, None),
        ({"reference": "Patient/P", "display": "Dialysis North"}, None),
        ({"reference": "#in"}, "The ward inside"),
        ({"reference": "#out"}, None),
    ],
)
def test_an_organisation_is_named_as_it_is_known(reference: Any, text: str | None) -> None:
    inside = [{"resourceType": "Organization", "id": "in", "name": "The ward inside"}]
    assert place(bundle(patient(managingOrganization=reference, contained=inside), ORGANIZATION)) == text
    assert place(bundle(patient(), visit(reference, contained=inside), ORGANIZATION)) == text


def test_an_organisation_without_a_name_is_known_by_its_identifier() -> None:
    nameless = {"resourceType": "Organization", "id": "o1", "identifier": [{}, {"system": "s", "value": "1"}, {"value": "2"}]}
    assert place(bundle(patient(managingOrganization={"reference": "Organization/o1"}), nameless)) == "s|1"


@pytest.mark.parametrize("turn", [1, -1])
def test_resources_of_their_own_may_stand_in_any_order(turn: int) -> None:
    resources = [patient(managingOrganization={"reference": "Organization/o1"}), ORGANIZATION]
    assert place(*resources[::turn]) == "Harbour Ward"
    resources = [patient(), visit({"reference": "Organization/o1"}), ORGANIZATION]
    assert place(*resources[::turn]) == "Harbour Ward"


def test_who_provides_the_latest_encounter_treats_and_who_keeps_the_record_stands_for_it() -> None:
    kept = patient(managingOrganization=SOUTH)
    assert place(kept) == "Dialysis South"
    assert place(kept, visit(NORTH)) == "Dialysis North"
    assert place(kept, visit(None)) == "Dialysis South"


LATER, SAME_IN_PARIS = "2026-02-09T07:00:01Z", "2026-02-09T08:00:00+01:00"


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (PERIOD["start"], LATER, "Dialysis South"),
        (LATER, PERIOD["start"], "Dialysis North"),
        ("2026-02-09T07:30:00+01:00", PERIOD["start"], "Dialysis South"),
        (SAME_IN_PARIS, PERIOD["start"], None),
        (SAME_IN_PARIS, LATER, "Dialysis South"),
        (None, LATER, None),
        ("2026-02-09", LATER, None),
        (None, None, None),
    ],
)
def test_the_latest_of_two_encounters_counts_and_nothing_is_guessed(one: str | None, other: str | None, text: str | None) -> None:
    visits = [visit(NORTH, one, 1), visit(SOUTH, other, 2)]
    assert place(patient(), *visits) == place(patient(), *visits[::-1]) == text
    kept = patient(managingOrganization={"display": "The hospital"})
    assert place(kept, *visits) == (text or "The hospital")
    same = [visit(NORTH, one, 1), visit(NORTH, other, 2)]
    assert place(patient(), *same) == "Dialysis North"


def test_releases_4_and_5_say_when_an_encounter_began() -> None:
    older = visit(SOUTH, "2026-02-01T07:00:00Z", 2)
    assert place(patient(), visit(NORTH, None, actualPeriod=PERIOD), older) == "Dialysis North"
    assert place(patient(), visit(NORTH, None, actualPeriod={"start": "2026-01-01T07:00:00Z"}), older) == "Dialysis South"


@pytest.mark.parametrize(
    "status", ["in-progress", "finished", "arrived", "triaged", "onleave", "on-hold", "discharged", "completed", "discontinued"]
)
def test_encounters_that_have_begun_count(status: str) -> None:
    found = one(patient(), visit(NORTH, status=status))
    assert places(found) == ["Dialysis North"]
    assert found.unneeded == {}


@pytest.mark.parametrize(
    "elements",
    [
        *({"status": s} for s in ("planned", "cancelled", "entered-in-error", "unknown", "no-such-status", None, 3)),
        {"implicitRules": "https://example.org/rules"},
        {"modifierExtension": [{"url": "https://example.org/not", "valueBoolean": True}]},
    ],
)
def test_other_encounters_do_not_count(elements: Json) -> None:
    found = one(patient(), visit(NORTH, **elements) | {k: v for k, v in elements.items() if v is None})
    assert places(found) == []
    assert found.unneeded == {"Encounter": 1}
    assert found.not_read == []
    assert place(patient(), visit(NORTH, LATER, **elements), visit(SOUTH, number=2)) == "Dialysis South"


@pytest.mark.parametrize(
    ("updated", "text"), [("2026-02-10T09:00:00Z", None), ("2026-02-10T07:00:00Z", "Dialysis North"), (None, None)]
)
@pytest.mark.parametrize("elements", [{"status": "cancelled"}, {"status": "entered-in-error"}, {"serviceProvider": None}])
def test_of_two_versions_of_an_encounter_the_later_counts(updated: str | None, text: str | None, elements: Json) -> None:
    first = visit(NORTH, meta={"lastUpdated": "2026-02-10T08:00:00Z"})
    other = visit(**({"provider": NORTH, "meta": {"lastUpdated": updated} if updated else None} | elements))
    for order in ([first, other], [other, first]):
        found = one(patient(), *order)
        assert places(found) == ([text] if text else [])
        assert found.not_read == []


@pytest.mark.parametrize(("later", "text"), [(True, "Dialysis South"), (False, "Dialysis North"), (None, None)])
@pytest.mark.parametrize("start", [PERIOD["start"], LATER])
def test_an_encounter_that_was_moved_to_another_unit(later: bool | None, text: str | None, start: str) -> None:
    times = [f"2026-02-10T0{hour}:00:00Z" for hour in (8, 9 if later else 7)]
    first, other = (
        visit(provider, begun, meta={"lastUpdated": time} if later is not None else None)
        for provider, begun, time in zip((NORTH, SOUTH), (PERIOD["start"], start), times, strict=True)
    )
    assert place(patient(), first, other) == place(patient(), other, first) == text


def test_an_encounter_without_an_id_counts() -> None:
    nameless = [{k: v for k, v in visit(*v).items() if k != "id"} for v in ((NORTH, PERIOD["start"]), (SOUTH, LATER))]
    assert place(patient(), *nameless) == place(patient(), *nameless[::-1]) == "Dialysis South"


def test_an_encounter_of_another_patient_tells_nothing() -> None:
    other = {"reference": "Patient/Q"}
    found = read_resources([patient(), {**patient(), "id": "Q"}, visit(NORTH, subject=other)], kb().knowledge)
    assert [places(p) for p in found.patients.values()] == [[], ["Dialysis North"]]
    astray = read_resources([patient(), visit(NORTH, subject=None)], kb().knowledge)
    assert [places(p) for p in astray.patients.values()] == [[]]
    assert astray.stray == []


def test_our_own_property_comes_first() -> None:
    def stated(**value: Any) -> Json:
        return {"extension": [{"url": CG["treatedAt"].value, **value}], "managingOrganization": SOUTH}

    assert place(patient(**stated(valueString="Home")), visit(NORTH)) == "Home"
    left = one(patient(**stated(valueInteger=3)), visit(NORTH))
    assert places(left) == ["Dialysis North"]
    (note,) = left.not_read
    assert "treatedAt" in note.reason
    assert not note.matters
    assert place(patient(**stated(valueString="\ud800"))) == "Dialysis South"


def test_records_of_one_patient_that_differ_tell_nothing() -> None:
    assert place(patient(managingOrganization=NORTH), patient(managingOrganization=SOUTH)) is None
    assert place(patient(managingOrganization=NORTH), patient(managingOrganization=NORTH)) == "Dialysis North"
    assert place(patient(managingOrganization=NORTH), patient()) == "Dialysis North"


def test_nothing_is_said_of_who_has_died() -> None:
    assert place(patient(managingOrganization=NORTH, deceasedBoolean=True)) is None


def test_the_place_changes_no_advice_and_is_not_in_the_answer() -> None:
    """The way out has no element for it: the answers say nothing of the place, in FHIR neither."""
    from kbtool.fhir.write import bundle as answers

    known = next(p for p in made.cohort(20, seed=3, broken=0) if p.unit)
    lines = [made.bundle(known), made.bundle(made.Patient(known.name, None, known.facts))]
    assert [str(known.unit) in line for line in lines] == [True, False]
    results = [kb().assess(line.encode(), as_of=made.AS_OF) for line in lines]
    there, without = (json.dumps(answers(kb(), result)) for result in results)
    assert there == without
    assert json.dumps([r.data for r in results[0].patients.values()]) == json.dumps(
        [r.data for r in results[1].patients.values()]
    )


def test_fhir_states_the_place_that_triples_state() -> None:
    for known in made.cohort(30, seed=5, broken=0):
        (from_fhir,) = read(made.bundle(known).encode(), kb().knowledge).patients.values()
        reader = Reader()
        reader.add("x.nt", made.n_triples(known).encode(), kbtool.facts.FORMATS[".nt"])
        ((from_triples,),) = reader.facts(kb().knowledge.graph).groups
        wanted = [o for _, p, o in from_triples.rows() if p == TREATED_AT]
        assert wanted == [o for _, p, o in from_fhir.rows if p == TREATED_AT] == ([json.dumps(known.unit)] if known.unit else [])


def test_a_cohort_is_counted_by_unit(tmp_path: Path) -> None:
    people = list(made.cohort(40, seed=9, broken=0))
    file, out = tmp_path / "in.ndjson", tmp_path / "out.ndjson"
    file.write_text("".join(made.bundle(p) + "\n" for p in people), encoding="utf-8")
    result = CliRunner().invoke(
        app,
        ["cohort", str(file), "-o", str(out), "--as-of", made.AS_OF, "--jobs", "1", "-q", "--summary"],
        env={"COLUMNS": "200"},
    )
    assert result.exit_code in (0, 1), result.output
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert Counter(a.get("treatedAt") for a in answers) == Counter(p.unit for p in people)
    for unit in {p.unit for p in people if p.unit}:
        assert unit in result.output
