"""Explanations are true: each claim is held against the engine, by another way than the one in which it was found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pyoxigraph as ox
import pytest
from generate import generate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import kbtool
from kbtool import engine
from kbtool.cli import app
from kbtool.conditions import Judge, Truth
from kbtool.explain import NOT_GIVEN, Explainer, state_of
from kbtool.facts import PatientFacts
from kbtool.namespaces import CG, PROV, RDFS, local_name, text
from kbtool.words import Words, manchester

FOLDER = Path(__file__).parent / "patients"
AS_OF = "2026-02-10T12:00:00Z"
WORKED = ("P01", "P02", "P05", "P06", "P08", "P09", "P12", "P14", "P15", "P16", "P18", "P20", "P22", "P24")
TOLD = ("recommended", "blocked", "contraindicated", "undetermined", "satisfied", "holds", "possible", NOT_GIVEN)


@cache
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


@cache
def links() -> frozenset[str]:
    below = kb().knowledge.graph.quads_for_pattern(None, RDFS["subPropertyOf"], CG["hasFact"], None)
    return frozenset({text(q.subject) for q in below} | {CG["hasSetting"].value})


def golden(names: Iterator[str] | tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Name and Turtle of golden patients whose facts are all accepted, as of the usual time."""
    for name in names:
        expected = json.loads((FOLDER / f"{name}.expected.json").read_text(encoding="utf-8"))
        if expected["asOf"] == AS_OF and not expected.get("refused") and not expected.get("setAside"):
            yield name, (FOLDER / f"{name}.ttl").read_text(encoding="utf-8")


def everybody() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.ttl"))


def read(turtle: str) -> PatientFacts:
    ((record,),) = kb().read(turtle.encode(), format="turtle").groups
    return record


@cache
def explainer(turtle: str) -> Explainer:
    return Explainer(kb().knowledge, read(turtle), engine.parse_as_of(AS_OF))


def turtle_with_only(turtle: str, facts: set[str]) -> str:
    """A patient with only some facts, out of the triples as they were read."""
    record = read(turtle)
    gone = {text(q.object) for q in record.triples if q.predicate.value in links()} - facts
    kept = [q.triple for q in record.triples if text(q.subject) not in gone and text(q.object) not in gone]
    return (ox.serialize(kept, format=ox.RdfFormat.TURTLE) or b"").decode()


def status(turtle: str, rule: str) -> str:
    (result,) = kb().assess(turtle.encode(), as_of=AS_OF, format="turtle").values()
    return state_of(result, rule)


# --- Words -------------------------------------------------------------------------------------------


def test_every_criterion_is_said_in_words_and_in_manchester_syntax() -> None:
    words = Words(kb().knowledge)
    for iri, criterion in words.criteria.items():
        said, formal = words.define(iri), manchester(criterion.expression, kb().knowledge.prefixes)
        assert said, iri
        assert "http" not in said, iri
        assert "cg:" not in said, iri
        assert "http" not in formal, iri
        assert formal.count("(") == formal.count(")"), iri


def test_words_and_limits_of_a_threshold_in_several_units() -> None:
    words = Words(kb().knowledge)
    (iri,) = [i for i in words.criteria if local_name(i) == "MagnesiumResultAtTarget"]
    said = words.define(iri)
    for limit in ("at least 1.7 mg/dL", "at least 0.70 mmol/L", "at least 1.40 meq/L"):
        assert limit in said or limit.replace("0 m", " m") in said
    (below,) = [i for i in words.criteria if local_name(i) == "MagnesiumResultBelowTarget"]
    assert "below 1.7 mg/dL" in words.define(below)
    formal = manchester(words.criteria[below].expression, kb().knowledge.prefixes)
    assert "cg:value some (not dk:MagnesiumTargetMassRange)" in formal


# --- Conditions: judged part by part as the rules judge the whole ---------------------------------------


def disagreements(turtle: str) -> list[tuple[str, str, str]]:
    """Criteria whose parts, judged one by one, give another truth than the rules derived."""
    record, knowledge = read(turtle), kb().knowledge
    store = engine.load_store(knowledge, [record], engine.parse_as_of(AS_OF))
    engine.check(store, knowledge, [record])
    engine.derive(store, knowledge, [record])
    judge, found = Judge(Words(knowledge), store), []
    for iri, criterion in judge.words.criteria.items():
        if criterion.of_patient:
            derived, own = judge.criterion(iri, record.patient).truth, judge.definition(iri, record.patient).truth
            if criterion.closed_world and own is Truth.unknown:
                own = Truth.false
            if own is not derived:
                found.append((local_name(iri), derived.value, own.value))
    return found


@pytest.mark.parametrize("name", WORKED)
def test_conditions_are_judged_as_the_rules_judge(name: str) -> None:
    for _, turtle in golden((name,)):
        assert disagreements(turtle) == []


@pytest.mark.parametrize("seed", range(4))
def test_conditions_are_judged_as_the_rules_judge_on_generated_patients(seed: int) -> None:
    for turtle in generate(kb().knowledge, seed + 700, 12):
        assert disagreements(turtle) == []


@pytest.mark.deep
@pytest.mark.parametrize("part", range(8))
def test_conditions_are_judged_as_the_rules_judge_everywhere(part: int) -> None:
    for _, turtle in golden(tuple(everybody()[part::8])):
        assert disagreements(turtle) == []
    for turtle in generate(kb().knowledge, 800 + part, 100):
        assert disagreements(turtle) == []


# --- Decisive facts and smallest changes ---------------------------------------------------------------


def untrue(turtle: str, rules: list[str]) -> list[str]:
    """What explanations of some rules claim and another assessment does not bear out."""
    found, explain = [], explainer(turtle)
    for rule in rules:
        said = explain.explain(rule)
        was = status(turtle, rule)
        if said["status"] != was:
            found.append(f"{rule}: said {said['status']}, is {was}")
        decisive = {fact["fact"] for fact in said["decisive"]}
        if said["status"] != NOT_GIVEN:
            if status(turtle_with_only(turtle, decisive), rule) != was:
                found.append(f"{rule}: the decisive facts alone do not give {was}")
            for fact in decisive:
                if status(turtle_with_only(turtle, decisive - {fact}), rule) == was:
                    found.append(f"{rule}: {fact} is not decisive")
        change = said["smallestChange"]
        if change:
            after = status(change["facts"], rule)
            if after != change["status"] or after == was:
                found.append(f"{rule}: the change gives {after}, said {change['status']}, was {was}")
    return found


def rules_to_explain(turtle: str, most: int) -> list[str]:
    """Rules of every status, a few of each."""
    explain = explainer(turtle)
    by_status: dict[str, list[str]] = {}
    for iri in sorted(explain.book.rules):
        by_status.setdefault(state_of(explain.result, iri), []).append(iri)
    return [rule for rules in by_status.values() for rule in rules[:most]]


@pytest.mark.parametrize("name", ["P01", "P05", "P12", "P15", "P20"])
def test_explanations_are_true(name: str) -> None:
    for _, turtle in golden((name,)):
        assert untrue(turtle, rules_to_explain(turtle, 2)) == []


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6))
def test_explanations_of_generated_patients_are_true(seed: int) -> None:
    (turtle,) = generate(kb().knowledge, seed, 1)
    assert untrue(turtle, rules_to_explain(turtle, 1)) == []


@pytest.mark.deep
@pytest.mark.parametrize("name", everybody())
def test_explanations_are_true_everywhere(name: str) -> None:
    for _, turtle in golden((name,)):
        assert untrue(turtle, rules_to_explain(turtle, 99)) == []


def test_the_smallest_change_is_found_where_one_number_is_off() -> None:
    for _, turtle in golden(("P01",)):
        said = explainer(turtle).explain("CorrectHypokalaemia")
        assert said["smallestChange"]["edits"] == [
            "Serum magnesium 1.7 mg/dL pre-dialysis instead of Serum magnesium 1.4 mg/dL pre-dialysis"
        ]
        assert said["firstFailing"]["value"] == "1.4"
        assert said["firstFailing"]["distance"] == "0.3"
        assert said["firstFailing"]["unit"] == "mg/dL"


def test_a_threshold_says_whose_it_is() -> None:
    for _, turtle in golden(("P01",)):
        limits = {limit["name"]: limit["whose"] for limit in explainer(turtle).explain("CorrectHypokalaemia")["thresholds"]}
        assert limits["LowPotassiumRange"] == "Local policy"
        assert limits["MagnesiumTargetMassRange"] == "Muscle jerks, spasms and cramps in dialysis patients"


# --- What next -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKED)
def test_what_next_names_everything_that_is_needed_and_nothing_else(name: str) -> None:
    for _, turtle in golden((name,)):
        explain = explainer(turtle)
        data = explain.result.data
        entries: list[dict[str, Any]] = [
            e for k in ("recommendations", "prohibitions", "assessments", "cautions") for e in data[k]
        ]
        needed = {need for entry in entries for need in entry["needs"]}
        found = explain.next()
        assert {each["name"] for each in found} == needed
        emergencies = {need for e in entries if e.get("emergency") for need in e["needs"]}
        urgent = [each["name"] in emergencies for each in found]
        assert urgent == sorted(urgent, reverse=True)


# --- Command line and Python -----------------------------------------------------------------------------


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["explain", *arguments])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


P01 = str(FOLDER / "P01.ttl")


def test_explain_as_text() -> None:
    code, said = invoke(P01, "StartBaclofen", "--as-of", AS_OF)
    assert code == 0
    for words in ("BLOCKED", "requires: electrolytes corrected", "which was tried", "[Local policy]", "Step 3 Pharmacological"):
        assert words in said


def test_explain_as_json_and_as_a_graph() -> None:
    code, said = invoke(P01, "StartBaclofen", "--as-of", AS_OF, "--format", "json")
    assert code == 0
    (patient,) = json.loads(said)["patients"]
    assert patient["explanation"]["status"] == "blocked"
    code, said = invoke(P01, "StartBaclofen", "--as-of", AS_OF, "--format", "turtle")
    assert code == 0
    store = ox.Store()
    store.load(said.encode(), ox.RdfFormat.TURTLE)
    (answer,) = {q.subject for q in store.quads_for_pattern(None, CG["about"], None, None)}
    sources = {local_name(text(q.object)) for q in store.quads_for_pattern(answer, PROV["wasDerivedFrom"], None, None)}
    assert {"StartBaclofen", "S34", "S35", "LowPotassiumRange", kb().about["version"]} <= sources
    assert any(text(q.object) == f"sha256:{kb().about['sha256']}" for q in store)


def test_explain_what_next() -> None:
    code, said = invoke(P01, "--as-of", AS_OF)
    assert code == 0
    assert "FIND OUT NEXT" in said


def test_assess_with_explanations() -> None:
    result = CliRunner().invoke(app, ["assess", P01, "--as-of", AS_OF, "--explain", "--format", "json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    jsonschema.validate(document, json.loads((Path(kbtool.__file__).parent / "assess.schema.json").read_text("utf-8")))
    (patient,) = document["patients"]
    named = {e.get("name") or e["id"] for k in ("recommendations", "prohibitions", "assessments", "cautions") for e in patient[k]}
    assert set(patient["explanations"]) == named
    plain = CliRunner().invoke(app, ["assess", P01, "--as-of", AS_OF, "--format", "json"])
    (without,) = json.loads(plain.stdout)["patients"]
    assert {k: v for k, v in patient.items() if k not in ("explanations", "next")} == without
    text = CliRunner().invoke(app, ["assess", P01, "--as-of", AS_OF, "--explain"]).stdout
    assert "FIND OUT NEXT" in text
    assert "Start baclofen [StartBaclofen] for https://example.org/patient/P01: BLOCKED" in text


def test_a_misspelt_rule_gets_a_hint() -> None:
    code, said = invoke(P01, "StartBaclofin", "--as-of", AS_OF)
    assert code == 2
    assert "did you mean StartBaclofen" in said


def test_a_patient_who_is_refused_or_out_of_scope() -> None:
    refused = next(
        name for name in everybody() if json.loads((FOLDER / f"{name}.expected.json").read_text("utf-8")).get("refused")
    )
    code, said = invoke(str(FOLDER / f"{refused}.ttl"), "StartBaclofen", "--as-of", AS_OF)
    assert code == 1
    assert "nothing is derived" in said
    code, said = invoke("-", "StartBaclofen", "--as-of", AS_OF)
    assert code == 2


def test_what_was_not_accepted_is_told() -> None:
    aside = next(
        name for name in everybody() if json.loads((FOLDER / f"{name}.expected.json").read_text("utf-8")).get("setAside")
    )
    code, said = invoke(str(FOLDER / f"{aside}.ttl"), "StartBaclofen", "--as-of", AS_OF)
    assert code == 1
    assert "set aside: " in said


def test_facts_without_a_patient_are_told(tmp_path: Path) -> None:
    stray = "\n<https://example.org/stray> a <https://w3id.org/kbtool/dialysis/Myoclonus> .\n"
    file = tmp_path / "facts.ttl"
    file.write_text((FOLDER / "P01.ttl").read_text(encoding="utf-8") + stray, encoding="utf-8")
    code, said = invoke(str(file), "StartBaclofen", "--as-of", AS_OF)
    assert code == 1
    assert "<https://example.org/stray>: belongs to no patient" in said


def test_a_graph_needs_a_rule() -> None:
    code, said = invoke(P01, "--as-of", AS_OF, "--format", "turtle")
    assert code == 2
    assert "name it" in said


def test_the_answer_explains_itself_in_python() -> None:
    result = kb().assess(P01, as_of=AS_OF)
    assert "BLOCKED" in result["P01"].explain("CorrectHypokalaemia")
    assert result["P01"].why("CorrectHypokalaemia")["openedBy"] == ["AdjustDialysateMagnesium"]
