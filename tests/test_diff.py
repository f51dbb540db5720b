"""`kbtool diff`: what changed in words, whose advice changes, and nothing that is not so."""

from __future__ import annotations

import gzip
import html
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pyoxigraph as ox
import pytest
from golden import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from knowledge_data import PROJECT
from markdown_it import MarkdownIt
from mutate import Mutant, mutants, sample
from test_patients import FOLDER

import kbtool
from kbtool import engine
from kbtool.criteria import CriterionError
from kbtool.diff import Comparison, DiffError, DiffFormat, both, compare, render
from kbtool.diff.model import GROUPS, NOTHING, SAFETY_CRITICAL, Change
from kbtool.diff.sources import Side
from kbtool.diff.text import code, escaped, fence, visible
from kbtool.facts import FactsError
from kbtool.knowledge import Knowledge, KnowledgeError
from kbtool.namespaces import CG, local_name

Json = dict[str, Any]

AS_OF = "2026-02-10T12:00:00Z"
PREFIXES = "".join(
    f"PREFIX {name}: <{iri}>\n"
    for name, iri in {
        "cg": CG.iri,
        "dcterms": "http://purl.org/dc/terms/",
        "dk": "https://w3id.org/kbtool/dialysis/",
        "owl": "http://www.w3.org/2002/07/owl#",
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
        "skos": "http://www.w3.org/2004/02/skos/core#",
        "xsd": "http://www.w3.org/2001/XMLSchema#",
    }.items()
)
SECOND = PROJECT / "tests" / "second_guideline"


# --- Changed copies ----------------------------------------------------------------------------------------


def copied(folder: Path, *names: str) -> Path:
    """A copy of parts of the project in a new folder."""
    for name in names or ("ontology",):
        shutil.copytree(PROJECT / name, folder / name)
    return folder


def edited(folder: Path, module: str, update: str) -> Path:
    """A copy of the ontology with one module changed by a SPARQL update; the update must change something."""
    file = copied(folder) / "ontology" / module
    store = ox.Store()
    store.extend(ox.Quad(*q.triple) for q in ox.parse(file.read_bytes(), ox.RdfFormat.TURTLE))
    before = ox.Dataset(store)
    store.update(PREFIXES + update)
    assert before != ox.Dataset(store), "the update changes nothing"
    held = {q.object for q in before}
    while lost := [q for q in store if q.subject in held and _is_lost(q.subject, store)]:
        for quad in lost:
            store.remove(quad)
    file.write_bytes(ox.serialize((q.triple for q in store), format=ox.RdfFormat.TURTLE) or b"")
    return folder


def _is_lost(node: Any, store: ox.Store) -> bool:
    """Whether a blank node is left over from a definition that an update has replaced."""
    return isinstance(node, ox.BlankNode) and next(store.quads_for_pattern(None, None, node, None), None) is None


@cache
def present() -> Side:
    """The knowledge base as it is, loaded once."""
    with both(str(PROJECT), str(PROJECT)) as (side, _):
        return side


@lru_cache(maxsize=4)
def loaded(path: str) -> Side:
    """Another one; what is at a path does not change between comparisons of one test."""
    with both(path, str(SECOND / "root.ttl")) as (side, _):
        return side


def compared(old: Path | str, new: Path | str, *cohort: Path | str, examples: int = 3) -> Comparison:
    sides = [present() if side == PROJECT else loaded(str(side)) for side in (old, new)]
    return compare(sides[0], sides[1], map(str, cohort), AS_OF, examples=examples)


def details(document: Json, section: str) -> dict[str, Json]:
    """The entries of a section by local name."""
    found = {s["key"]: s["entries"] for s in document["knowledge"]["sections"]}
    return {e["name"]: e for e in found.get(section, [])}


def sections(document: Json) -> set[str]:
    return {s["key"] for s in document["knowledge"]["sections"]}


def detail(entry: Json, what: str) -> Json:
    found: Json = next(d for d in entry["details"] if d["what"] == what)
    return found


def told(document: Json, *, turned: bool = False) -> Json:
    """What a comparison tells, but for what is dangerous; turned: as if old were new."""
    old, new = ("new", "old") if turned else ("old", "new")
    changes = {"added": "removed", "removed": "added"} if turned else {}
    signs = {"- ": "+ ", "+ ": "- "} if turned else {}

    def entry(e: Json) -> Any:
        lines = [sorted(signs.get(line[:2], line[:2]) + line[2:] for line in d["lines"]) for d in e["details"]]
        said = sorted([d["what"], d[old], d[new], line] for d, line in zip(e["details"], lines, strict=True))
        return [e["iri"], changes.get(e["change"], e["change"]), said, sorted(e["rules"])]

    def change(c: Json) -> Any:
        patients = sorted(example["patient"] for example in c["examples"])
        return [c["kind"], c["rule"], c["aspect"], c[old], c[new], c["patients"], patients]

    advice = document["advice"]
    return {
        "knowledge": {s["key"]: sorted(map(entry, s["entries"])) for s in document["knowledge"]["sections"]},
        "affected": sorted(r["rule"] for a in document["knowledge"]["affected"] for r in a["rules"]),
        "logic": sorted([e["file"], changes.get(e["change"], e["change"])] for e in document["logic"]),
        "advice": advice and sorted(change(c) for g in advice["groups"] for c in g["changes"]),
        "counts": advice and [advice[k] for k in ("patients", "changed", "reasonsOnly", "refusedByBoth")],
    }


# --- Nothing changed ---------------------------------------------------------------------------------------


def test_a_knowledge_base_and_itself_differ_in_nothing() -> None:
    found = compared(PROJECT, PROJECT, *patients(*usual()[:5]))
    document = found.to_json()
    assert found.same
    assert (document["knowledge"]["sections"], document["advice"]["groups"], document["logic"]) == ([], [], [])
    assert document["advice"]["patients"] == 5
    assert "Nothing differs." in render(found, DiffFormat.text)


def test_another_way_of_writing_the_same_triples_is_no_change(tmp_path: Path) -> None:
    """Blank nodes with other names, triples in another order, no comments, other prefixes, numbers with more digits."""
    copied(tmp_path)
    changed = 0
    for file in (tmp_path / "ontology").glob("*.ttl"):
        text = re.sub(r"(?<= )(\d+\.\d)(?= [;\]])", r"\g<1>00", file.read_text(encoding="utf-8"))
        changed += text != file.read_text(encoding="utf-8")
        triples = sorted({q.triple for q in ox.parse(text.encode(), ox.RdfFormat.TURTLE, rename_blank_nodes=True)}, key=str)
        file.write_bytes(ox.serialize(reversed(triples), format=ox.RdfFormat.TURTLE) or b"")
    assert changed >= 3
    assert compared(PROJECT, tmp_path).same


# --- One kind of change each ---------------------------------------------------------------------------------

THRESHOLD = """
DELETE { ?facet xsd:maxExclusive 3.5 } INSERT { ?facet xsd:maxExclusive 3.0 }
WHERE { dk:LowPotassiumRange owl:equivalentClass/owl:withRestrictions/rdf:first ?facet . ?facet xsd:maxExclusive 3.5 }"""
FLIPPED = """
DELETE { ?facet xsd:maxExclusive ?n } INSERT { ?facet xsd:maxInclusive ?n }
WHERE { dk:LowPotassiumRange owl:equivalentClass/owl:withRestrictions/rdf:first ?facet . ?facet xsd:maxExclusive ?n }"""
CONDITION = """
DELETE { dk:LowPotassium owl:equivalentClass ?old }
INSERT { dk:LowPotassium owl:equivalentClass [ a owl:Class ; owl:intersectionOf ( cg:Patient
  [ a owl:Class ; owl:unionOf (
    [ a owl:Restriction ; owl:onProperty cg:hasEligible ; owl:someValuesFrom dk:LowPotassiumResult ]
    [ a owl:Restriction ; owl:onProperty cg:hasActiveFinding ; owl:someValuesFrom dk:Seizure ] ) ] ) ] }
WHERE { dk:LowPotassium owl:equivalentClass ?old }"""
NEW_RULE = """
INSERT DATA { dk:CheckTheBath a cg:Recommendation , owl:NamedIndividual ; skos:prefLabel "Check the bath"@en ;
  rdfs:label "Check the bath"@en ; skos:definition "Check the dialysate."@en ; cg:action dk:AdjustDialysatePotassiumAction ;
  cg:appliesTo dk:SymptomaticWithLowPotassium ; cg:requires dk:MagnesiumAdequate ; cg:citesStatement dk:S25 ; cg:rank 50 ;
  cg:step dk:StepElectrolytes ; cg:strength cg:Do }"""


def one(kind: str, module: str, update: str, section: str, name: str, *said: str) -> Any:
    return pytest.param(module, update, section, name, said, id=kind)


CHANGES = [
    one("threshold", "local-policy.ttl", THRESHOLD, "thresholds", "LowPotassiumRange",
        "limit: below 3.5 mmol/L -> below 3 mmol/L", "rules that rest on it: Correct low potassium;",
        "NOTE the words of LR-06 low potassium [LR-06] still say 3.5"),
    one("inclusive", "local-policy.ttl", FLIPPED, "thresholds", "LowPotassiumRange",
        "limit: below 3.5 mmol/L -> at most 3.5 mmol/L"),
    one("dose", "guideline.ttl", "DELETE { dk:BaclofenStart cg:amount 10.0 } INSERT { dk:BaclofenStart cg:amount 20.0 } WHERE {}",
        "numbers", "BaclofenStart", "amount: 10 mg/d -> 20 mg/d", "rules that rest on it: Start baclofen", "still say 10: "),
    one("rule added", "guideline.ttl", NEW_RULE, "rules", "CheckTheBath", "+ Check the bath [CheckTheBath], recommendation added",
        "+ waits for: magnesium adequate", "+ condition: symptomatic with low potassium", "+ cites: S25 "),
    one("rule removed", "guideline.ttl", "DELETE WHERE { dk:AssessNutrition ?p ?o }", "rules", "AssessNutrition",
        "- Assess nutrition [AssessNutrition], recommendation removed", "- condition: symptomatic dialysis patient"),
    one("condition", "guideline.ttl", CONDITION, "conditions", "LowPotassium", "has eligible: low potassium result",
        "+   has active finding: Seizure", "any of:"),
    one("another condition", "guideline.ttl",
        "DELETE { dk:ApplyIce cg:appliesTo ?c } INSERT { dk:ApplyIce cg:appliesTo dk:SymptomaticDialysisPatient } "
        "WHERE { dk:ApplyIce cg:appliesTo ?c }", "rules", "ApplyIce",
        "condition: dialysis patient with an ongoing spasm -> symptomatic dialysis patient",
        "- ongoing spasm", "+ has active finding: Involuntary muscle event", "dialysis patient"),
    one("prerequisite", "guideline.ttl", "DELETE DATA { dk:CorrectHypocalcaemia cg:requires dk:MagnesiumAdequate }", "rules",
        "CorrectHypocalcaemia", "- waits for: magnesium adequate"),
    one("opener", "guideline.ttl", "DELETE DATA { dk:CorrectHypocalcaemia cg:achieves dk:IonisedCalciumNotLow }", "rules",
        "CorrectHypocalcaemia", "- brings about: ionised calcium not low"),
    one("action", "guideline.ttl",
        "DELETE { dk:ApplyIce cg:action ?a } INSERT { dk:ApplyIce cg:action dk:AssessNutritionAction } "
        "WHERE { dk:ApplyIce cg:action ?a }",
        "rules", "ApplyIce", "action: "),
    one("prohibition", "guideline.ttl", "DELETE DATA { dk:NoCalciumBeforeMagnesium cg:forbids dk:GiveCalcium }", "rules",
        "NoCalciumBeforeMagnesium", "- forbids: "),
    one("severity", "guideline.ttl",
        "DELETE { dk:NoAbruptBaclofenStop cg:severity ?s } INSERT { dk:NoAbruptBaclofenStop cg:severity cg:High } "
        "WHERE { dk:NoAbruptBaclofenStop cg:severity ?s }", "rules", "NoAbruptBaclofenStop", "severity: critical -> high"),
    one("strength", "guideline.ttl",
        "DELETE { dk:ApplyIce cg:strength ?s } INSERT { dk:ApplyIce cg:strength cg:Consider } "
        "WHERE { dk:ApplyIce cg:strength ?s }",
        "rules", "ApplyIce", "strength: do -> consider"),
    one("step", "guideline.ttl",
        "DELETE { dk:ApplyIce cg:step ?s } INSERT { dk:ApplyIce cg:step dk:StepMonitoring } WHERE { dk:ApplyIce cg:step ?s }",
        "rules", "ApplyIce", "step: "),
    one("rank", "guideline.ttl",
        "DELETE { dk:ApplyIce cg:rank ?s } INSERT { dk:ApplyIce cg:rank 77 } WHERE { dk:ApplyIce cg:rank ?s }", "rules",
        "ApplyIce", "rank: 2 -> 77"),
    one("citation", "guideline.ttl", "DELETE DATA { dk:ApplyIce cg:citesStatement dk:S50 }", "rules", "ApplyIce",
        "- cites: S50 "),
    one("parameter", "guideline.ttl", "DELETE DATA { dk:CoolDialysate cg:hasParameter dk:CoolingFrom }", "rules", "CoolDialysate",
        "- parameter: dialysate temperature before 37 Cel"),
    one("currency", "local-policy.ttl",
        "DELETE { dk:SerumPotassium cg:currencyHours ?h } INSERT { dk:SerumPotassium cg:currencyHours 1 } "
        "WHERE { dk:SerumPotassium cg:currencyHours ?h }", "facts", "SerumPotassium", "currency in hours: ", " -> 1"),
    one("unit", "vocabulary.ttl", "DELETE DATA { dk:BodyHeight cg:acceptsUnit dk:BodyHeight-in }", "facts", "BodyHeight",
        "- unit: [in_i] (factor 2.54)"),
    one("factor", "vocabulary.ttl",
        "DELETE { dk:AluminiumHydroxide-g-d cg:factor ?f } INSERT { dk:AluminiumHydroxide-g-d cg:factor 100.0 } "
        "WHERE { dk:AluminiumHydroxide-g-d cg:factor ?f }", "facts", "AluminiumHydroxide-g-d", "factor: 1000 -> 100"),
    one("plausible", "vocabulary.ttl",
        "DELETE { dk:BodyHeight cg:plausibleMaximum ?f } INSERT { dk:BodyHeight cg:plausibleMaximum 260.0 } "
        "WHERE { dk:BodyHeight cg:plausibleMaximum ?f }", "facts", "BodyHeight", "250 cm -> 260 cm"),
    one("code", "vocabulary.ttl", "DELETE DATA { dk:BodyHeight cg:hasCode dk:LOINC-8302-2 }", "facts", "BodyHeight",
        "- code: LOINC 8302-2 “Body height”"),
    one("hierarchy", "vocabulary.ttl",
        "DELETE DATA { dk:AluminiumHydroxide rdfs:subClassOf dk:AluminiumCompound } ; "
        "INSERT DATA { dk:AluminiumHydroxide rdfs:subClassOf cg:Medication }", "facts", "AluminiumHydroxide",
        "is a: Aluminium compound -> "),
    one("scale", "model.ttl",
        "DELETE { cg:High cg:position ?p } INSERT { cg:High cg:position 99 } WHERE { cg:High cg:position ?p }",
        "parts", "High", "position: "),
    one("statement", "guideline.ttl",
        'DELETE { dk:S02 skos:definition ?d } INSERT { dk:S02 skos:definition "Among dialysis patients who are critically ill, '
        '65-70 % have a low serum magnesium."@en } WHERE { dk:S02 skos:definition ?d }', "statements", "S02",
        "critically ill, [-60-65-] {+65-70+} % have"),
    one("note", "guideline.ttl",
        "DELETE WHERE { dk:AdjustDialysatePotassium skos:editorialNote ?n }", "words", "AdjustDialysatePotassium",
        "- note: Only where potassium is low (I-14)."),
    one("label", "vocabulary.ttl",
        "DELETE { dk:Anuria skos:prefLabel ?d ; rdfs:label ?d } "
        'INSERT { dk:Anuria skos:prefLabel "No urine"@en ; rdfs:label "No urine"@en } '
        "WHERE { dk:Anuria skos:prefLabel ?d }", "words", "Anuria", "label: [-Anuria-] {+No urine+}"),
    one("deprecated", "vocabulary.ttl",
        "INSERT DATA { dk:Anuria owl:deprecated true ; dcterms:isReplacedBy dk:Areflexia }", "deprecated", "Anuria",
        "+ deprecated: true", "+ is replaced by: Areflexia"),
    one("module", "guideline.ttl",
        'DELETE { ?o owl:versionInfo ?v } INSERT { ?o owl:versionInfo "0.2.0" } WHERE { ?o a owl:Ontology ; owl:versionInfo ?v }',
        "modules", "guideline", "version: 0.1.0 -> 0.2.0"),
    one("scope", "guideline.ttl",
        "DELETE { ?g cg:scope ?s } INSERT { ?g cg:scope dk:HaemodialysisPatient } WHERE { ?g cg:scope ?s }",
        "scope", "guideline", "scope: dialysis patient -> haemodialysis patient", "Rules that are changed", "Correct low calcium",
        "Torsades, seizure, tetany"),
    one("other notes", "guideline.ttl", 'INSERT DATA { dk:ApplyIce skos:historyNote "Once it was heat."@en }', "words",
        "ApplyIce", "Once it was heat."),
    one("row of a table", "model.ttl",
        "DELETE { ?r cg:readAs ?o } INSERT { ?r cg:readAs cg:Counts } "
        'WHERE { ?r cg:rowCode "refuted" ; cg:readAs ?o }', "parts", "ConditionVerificationStatus",
        "read as: does not count; row code: refuted -> read as: counts; row code: refuted"),
    one("axiom without a name", "vocabulary.ttl",
        "INSERT DATA { [ a owl:AllDisjointClasses ; owl:members ( dk:Anuria dk:Areflexia ) ] }", "rest", "", "Anuria, Areflexia"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "update", "section", "name", "said"), CHANGES)
def test_a_change_is_said_in_words_in_its_section_both_ways(
    tmp_path: Path, module: str, update: str, section: str, name: str, said: tuple[str, ...]
) -> None:
    new = edited(tmp_path, module, update)
    found = compared(PROJECT, new)
    document, text = found.to_json(), render(found, DiffFormat.text)
    assert sections(document) == {section}, text
    assert name in details(document, section)
    assert [words for words in said if words not in text] == [], text
    assert "Nothing is claimed about patients" in text
    assert not found.same
    assert told(document) == told(compared(new, PROJECT).to_json(), turned=True)


def test_rules_are_named_that_rest_on_a_change_and_no_others(tmp_path: Path) -> None:
    document = compared(PROJECT, edited(tmp_path, "local-policy.ttl", THRESHOLD)).to_json()
    (affected,) = document["knowledge"]["affected"]
    labels = {r["label"] for r in affected["rules"]}
    assert {"Correct low potassium", "No potassium before magnesium", "Start baclofen"} <= labels
    assert not {"Correct low calcium", "Apply ice", "Measure potassium"} & labels
    assert affected["by"] == ["low potassium range (limit: below 3.5 mmol/L → below 3 mmol/L)"]


# --- Refactorings ------------------------------------------------------------------------------------------

EXTRACTED = """
DELETE { dk:HighBloodPressure owl:equivalentClass ?old }
INSERT {
  dk:HighSystolic a owl:Class ; skos:prefLabel "high systolic"@en ; owl:equivalentClass [ a owl:Class ; owl:intersectionOf (
    cg:Patient [ a owl:Restriction ; owl:onProperty cg:hasEligible ; owl:someValuesFrom dk:HighSystolicResult ] ) ] .
  dk:HighBloodPressure owl:equivalentClass [ a owl:Class ; owl:unionOf ( dk:HighSystolic [ a owl:Class ; owl:intersectionOf (
    cg:Patient [ a owl:Restriction ; owl:onProperty cg:hasEligible ; owl:someValuesFrom dk:HighDiastolicResult ] ) ] ) ] }
WHERE { dk:HighBloodPressure owl:equivalentClass ?old }"""
REORDERED = """
DELETE { dk:LowPotassiumResult owl:equivalentClass ?old }
INSERT { dk:LowPotassiumResult owl:equivalentClass [ a owl:Class ; owl:intersectionOf (
  [ a owl:Restriction ; owl:onProperty cg:canonicalValue ; owl:someValuesFrom dk:LowPotassiumRange ]
  [ a owl:Class ; owl:intersectionOf ( dk:SerumPotassium dk:SerumPotassium ) ] ) ] }
WHERE { dk:LowPotassiumResult owl:equivalentClass ?old }"""
NESTED = """
DELETE { dk:HighBloodPressure owl:equivalentClass ?old }
INSERT { dk:HighBloodPressure owl:equivalentClass [ a owl:Class ; owl:intersectionOf ( cg:Patient [ a owl:Class ; owl:unionOf (
  [ a owl:Class ; owl:unionOf (
    [ a owl:Restriction ; owl:onProperty cg:hasEligible ; owl:someValuesFrom dk:HighSystolicResult ]
    [ a owl:Restriction ; owl:onProperty cg:hasEligible ; owl:someValuesFrom dk:HighDiastolicResult ] ) ]
  [ a owl:Restriction ; owl:onProperty cg:hasEligible ; owl:someValuesFrom dk:HighDiastolicResult ] ) ] ) ] }
WHERE { dk:HighBloodPressure owl:equivalentClass ?old }"""
DISTRIBUTED = """
DELETE { dk:HighBloodPressure owl:equivalentClass ?old }
INSERT { dk:HighBloodPressure owl:equivalentClass [ a owl:Class ; owl:intersectionOf ( cg:Patient
  [ a owl:Restriction ; owl:onProperty cg:hasEligible ; owl:someValuesFrom
    [ a owl:Class ; owl:unionOf ( dk:HighDiastolicResult dk:HighSystolicResult ) ] ] ) ] }
WHERE { dk:HighBloodPressure owl:equivalentClass ?old }"""
COMPLEMENT = """
DELETE { dk:LowPotassiumResult owl:equivalentClass ?old }
INSERT { dk:LowPotassiumResult owl:equivalentClass [ a owl:Class ; owl:intersectionOf ( dk:SerumPotassium
  [ a owl:Restriction ; owl:onProperty cg:canonicalValue ; owl:someValuesFrom [ a rdfs:Datatype ; owl:onDatatype xsd:decimal ;
    owl:withRestrictions ( [ xsd:maxExclusive 3.50 ] ) ] ] ) ] }
WHERE { dk:LowPotassiumResult owl:equivalentClass ?old }"""


@pytest.mark.parametrize(
    "update",
    [EXTRACTED, REORDERED, NESTED, DISTRIBUTED, COMPLEMENT],
    ids=["extracted", "reordered", "nested", "distributed", "inlined"],
)
def test_a_criterion_that_is_only_restructured_is_shown_as_such(tmp_path: Path, update: str) -> None:
    found = compared(PROJECT, edited(tmp_path, "guideline.ttl", update))
    document = found.to_json()
    (entry,) = details(document, "same").values()
    assert entry["name"] in ("HighBloodPressure", "LowPotassiumResult")
    changed = {e["name"] for e in details(document, "conditions").values()}
    assert changed == ({"HighSystolic"} if update is EXTRACTED else set())
    assert "Written in another way, with the same meaning" in render(found, DiffFormat.text)
    assert not found.same, "it is shown, and so it is a difference"


def test_what_looks_like_a_refactoring_and_is_none_is_a_change(tmp_path: Path) -> None:
    other = COMPLEMENT.replace("3.50", "3.51")
    document = compared(PROJECT, edited(tmp_path, "guideline.ttl", other)).to_json()
    (entry,) = details(document, "conditions").values()
    lines = detail(entry, "definition")["lines"]
    assert {"- below 3.5 mmol/L", "+ below 3.51 mmol/L", "  Serum potassium"} == set(lines)


def test_a_restructured_criterion_on_a_changed_range_is_no_change_of_its_own(tmp_path: Path) -> None:
    first = edited(tmp_path / "one", "local-policy.ttl", THRESHOLD)
    file = first / "ontology" / "guideline.ttl"
    shutil.copy(edited(tmp_path / "two", "guideline.ttl", REORDERED) / "ontology" / "guideline.ttl", file)
    document = compared(PROJECT, first).to_json()
    assert sections(document) == {"thresholds", "same"}


def test_a_term_in_another_module_is_said_to_be_anothers_word(tmp_path: Path) -> None:
    copied(tmp_path)
    files = [tmp_path / "ontology" / name for name in ("local-policy.ttl", "guideline.ttl")]
    text = files[0].read_text(encoding="utf-8")
    block = re.search(r"dk:LowPotassiumRange a .*?\n\.\n", text, re.DOTALL)
    assert block
    files[0].write_text(text.replace(block[0], ""), encoding="utf-8")
    files[1].write_text(files[1].read_text(encoding="utf-8") + block[0], encoding="utf-8")
    document = compared(PROJECT, tmp_path).to_json()
    assert sections(document) == {"owners"}
    (entry,) = details(document, "owners").values()
    assert entry["label"] == "low potassium range"
    assert detail(entry, "stated by")["old"] == ["Local policy"]
    assert detail(entry, "stated by")["new"] == ["Muscle jerks, spasms and cramps in dialysis patients"]
    assert "Correct low potassium" in entry["rules"]


# --- Whose advice changes ------------------------------------------------------------------------------------


def patients(*names: str) -> list[Path]:
    return [FOLDER / f"{name}.ttl" for name in names]


@cache
def usual() -> tuple[str, ...]:
    """The golden patients with the usual time of assessment."""
    return tuple(name for name, case in cases().items() if case.as_of == AS_OF)


DRAWN = 16
"""Mutants of the knowledge that are compared with it."""

WORDING = {"label", "text", "statements", "explainedBy", "sources", "stepLabel", "definedBy", "message", "reasonLabel", "family"}


def settled(value: Any) -> Any:
    """An answer without its wording, and without the order of things."""
    if isinstance(value, dict):
        return {k: settled(v) for k, v in value.items() if k not in WORDING}
    if isinstance(value, list):
        return sorted((settled(v) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
    return value


def answers(knowledge: Knowledge, paths: list[Path]) -> dict[str, Json]:
    facts = kbtool.KnowledgeBase(knowledge).read(*paths)
    return {r.patient: r.data for r in engine.assess(knowledge, facts, engine.parse_as_of(AS_OF))}


def statuses(answer: Json) -> dict[str, str]:
    parts = ("recommendations", "prohibitions", "assessments", "cautions")
    return {e["iri"]: e.get("status") or e["state"] for part in parts for e in answer[part]}


def shown(document: Json, *, but: str = "nothing") -> dict[str, set[str]]:
    """The patients of all changes by rule (or an empty text), where all are kept as examples."""
    found: dict[str, set[str]] = {}
    for group in document["advice"]["groups"]:
        for change in group["changes"]:
            if not change["aspect"].startswith(but):
                assert change["patients"] == len(change["examples"])
                found.setdefault(change["rule"], set()).update(e["patient"] for e in change["examples"])
    return found


@cache
def drawn() -> tuple[Mutant, ...]:
    """Mutants of the ontology of many sorts, most of which change answers, and steps without an update or a filter."""
    own = [m for m in mutants().values() if not m.step]
    steps = [m for m in mutants().values() if m.step.startswith("derive/")]
    return (*sample(DRAWN - 2, 7, own), *sample(2, 7, steps))


def concerned(mutant: Mutant) -> list[str]:
    """Golden patients that a mutant is about, as far as names tell, and some others."""
    names = {local_name(term) for term in mutant.about}

    def score(name: str) -> int:
        said = (FOLDER / f"{name}.ttl").read_text(encoding="utf-8") + json.dumps(cases()[name].expected)
        return -len(names & set(re.findall(r"[\w-]+", said)))

    return sorted(usual(), key=lambda name: (score(name), name))[:20] + list(usual()[::40])


def on_disk(mutant: Mutant, folder: Path) -> Path:
    """A mutant as a folder that one can compare with. Raises as the loader does."""
    if not mutant.step:
        return next(iter(mutant.knowledge(folder).modules.values()))
    copied(folder / "step", "ontology", "shapes", "queries")
    (folder / "step" / "queries" / f"{mutant.step}.ru").write_text(mutant.text, encoding="utf-8")
    return folder / "step"


@pytest.mark.parametrize("number", range(DRAWN))
def test_exactly_the_patients_are_shown_whose_answers_differ(tmp_path: Path, number: int) -> None:
    mutant = drawn()[number]
    paths = patients(*dict.fromkeys(concerned(mutant)))
    try:
        changed = on_disk(mutant, tmp_path)
    except (KnowledgeError, CriterionError):
        pytest.skip("the loader refuses this mutant")
    sides = present(), loaded(str(changed))
    document = compare(*sides, map(str, paths), AS_OF, examples=1000).to_json()
    found = [answers(side.kb.knowledge, paths) for side in sides]
    differing = {p for p in found[0] if settled(found[0][p]) != settled(found[1][p])}
    assert set().union(*shown(document, but="order of").values()) == differing
    advice = document["advice"]
    assert advice["patients"] == len(paths)
    everybody = set().union(*shown(document).values())
    assert advice["changed"] + advice["reasonsOnly"] == len(everybody)
    for group in advice["groups"]:
        for change in group["changes"]:
            assert GROUPS[group["key"]] == group["title"]
            if change["aspect"] != "status" or group["key"] == "refused":
                continue
            for example in change["examples"]:
                one, other = (statuses(found[n][example["patient"]]).get(change["rule"]) for n in (0, 1))
                assert one is None or one in change["old"] or change["old"] in ("hard stop", "emergency")
                assert other is None or other in change["new"] or change["new"] in ("hard stop", "emergency")
    moved = {
        (p, rule)
        for p in found[0]
        if not found[0][p].get("refused") and not found[1][p].get("refused")
        for rule in statuses(found[0][p]).keys() | statuses(found[1][p]).keys()
        if statuses(found[0][p]).get(rule) != statuses(found[1][p]).get(rule)
    }
    told_so = {
        (e["patient"], c["rule"])
        for g in advice["groups"]
        for c in g["changes"]
        if c["aspect"] in ("status", "state")
        for e in c["examples"]
    }
    assert moved <= told_so, "every change of status is told"


def test_the_sample_of_mutants_is_of_many_kinds() -> None:
    assert len({mutant.kind for mutant in drawn()}) >= DRAWN - 4
    assert sum(bool(mutant.step) for mutant in drawn()) == 2


def test_what_a_threshold_moves_is_counted_and_grouped_the_most_dangerous_first(tmp_path: Path) -> None:
    new = edited(tmp_path, "local-policy.ttl", THRESHOLD)
    names = ["P01", "Overlay-low-potassium-digoxin", "Drugs-persistent-low-potassium", "K-below-limit-meql"]
    document = compared(PROJECT, new, *patients(*names)).to_json()
    advice = document["advice"]
    keys = [g["key"] for g in advice["groups"]]
    assert keys == [key for key in GROUPS if key in keys]
    assert {"prohibition gone", "newly recommended", "no longer recommended"} <= set(keys)
    assert all(g["critical"] == (g["key"] in SAFETY_CRITICAL) for g in advice["groups"])
    newly = next(g for g in advice["groups"] if g["key"] == "newly recommended")
    change = next(c for c in newly["changes"] if c["label"] == "Start baclofen")
    assert (change["old"], change["new"], change["patients"]) == ("blocked", "recommended", 1)
    (example,) = change["examples"]
    assert example["patient"].endswith("Drugs-persistent-low-potassium")
    assert example["facts"] == ["Serum potassium 3.2 mmol/L (2026-02-10T06:40:00Z)"], "the fact that decides"
    assert example["waits"] == ["electrolytes corrected"]
    assert change["causes"] == ["low potassium range (limit: below 3.5 mmol/L → below 3 mmol/L)"]


def test_advice_is_mirrored_when_the_sides_change_places(tmp_path: Path) -> None:
    new = edited(tmp_path, "local-policy.ttl", THRESHOLD)
    paths = patients(*[name for name in usual() if "otassium" in name or name.startswith("P0")][:20])
    there = compared(PROJECT, new, *paths, examples=100).to_json()
    back = compared(new, PROJECT, *paths, examples=100).to_json()
    assert there["advice"]["changed"] >= 3
    assert told(there) == told(back, turned=True)
    keys = [{g["key"] for g in document["advice"]["groups"]} for document in (there, back)]
    assert "prohibition gone" in keys[0] - keys[1], "a prohibition that comes is no prohibition that goes"


STOP = "NoAbruptBaclofenStop"


def test_a_hard_stop_that_is_gone_and_one_that_is_new_come_first(tmp_path: Path) -> None:
    new = edited(tmp_path, "guideline.ttl", "DELETE WHERE { dk:NoAbruptBaclofenStop cg:hardStopWhen ?c }")
    stopped = [
        name for name in usual() if cases()[name].expected.get("prohibitions", {}).get("holds", {}).get(STOP, {}).get("hardStop")
    ]
    name = next(name for name in stopped)
    there, back = (compared(*pair, *patients(name)).to_json() for pair in ((PROJECT, new), (new, PROJECT)))
    assert there["advice"]["groups"][0]["key"] == "stop gone"
    assert there["advice"]["groups"][0]["changes"][0]["old"] == "hard stop"
    assert back["advice"]["groups"][0]["key"] == "stop new"
    assert there["advice"]["critical"] == back["advice"]["critical"] == 1


def test_a_prerequisite_taken_away_recommends_what_waited(tmp_path: Path) -> None:
    new = edited(tmp_path, "guideline.ttl", "DELETE DATA { dk:CorrectHypocalcaemia cg:requires dk:MagnesiumAdequate }")
    waiting = [
        n for n in usual()[60:] if "CorrectHypocalcaemia" in cases()[n].expected.get("recommendations", {}).get("blocked", {})
    ][:9]
    document = compared(PROJECT, new, *patients(*usual()[:60], *waiting)).to_json()
    changes = [c for g in document["advice"]["groups"] for c in g["changes"] if c["label"] == "Correct low calcium"]
    assert any(c["aspect"] == "status" for c in changes)
    assert {(c["old"], c["new"]) for c in changes if c["aspect"] == "status"} <= {
        ("blocked", "recommended"),
        ("blocked", "contraindicated"),
        ("blocked", "undetermined"),
    }
    assert all(c["causes"][0].startswith("the rule itself") for c in changes)


def test_what_opens_a_state_no_longer_is_a_detail_of_the_same_status(tmp_path: Path) -> None:
    update = "DELETE DATA { dk:CorrectHypokalaemia cg:achieves dk:PotassiumNotLow }"
    document = compared(PROJECT, edited(tmp_path, "guideline.ttl", update), *patients("K-below-limit-meql")).to_json()
    (group,) = document["advice"]["groups"]
    assert (group["key"], group["critical"]) == ("details", False)
    assert {(c["aspect"], c["old"], c["new"]) for c in group["changes"]} == {("opened by", "Correct low potassium", "")}
    assert {c["label"] for c in group["changes"]} >= {"Start baclofen", "Give vitamin E"}


def test_a_dose_that_changes_is_advice_that_changes(tmp_path: Path) -> None:
    new = edited(
        tmp_path,
        "guideline.ttl",
        "DELETE { dk:BaclofenStart cg:amount 10.0 } INSERT { dk:BaclofenStart cg:amount 20.0 } WHERE {}",
    )
    document = compared(PROJECT, new, *patients("Drugs-persistent-low-potassium")).to_json()
    (group,) = document["advice"]["groups"]
    assert (group["key"], group["critical"]) == ("numbers", True)
    assert {(c["old"], c["new"]) for c in group["changes"]} == {("starting dose 10 mg/d", "starting dose 20 mg/d")}


def test_words_that_change_are_no_change_of_advice(tmp_path: Path) -> None:
    update = """DELETE { dk:StartBaclofen skos:prefLabel ?l } INSERT { dk:StartBaclofen skos:prefLabel "Begin"@en }
      WHERE { dk:StartBaclofen skos:prefLabel ?l }"""
    found = compared(PROJECT, edited(tmp_path, "guideline.ttl", update), *patients("Drugs-persistent-low-potassium"))
    assert found.to_json()["advice"]["groups"] == []
    assert not found.same


def groups(document: Json) -> dict[str, list[Json]]:
    """The changes of advice by group."""
    return {group["key"]: group["changes"] for group in document["advice"]["groups"]}


def test_words_are_no_cause_and_what_decides_about_all_rules_is_one_of_each_change(tmp_path: Path) -> None:
    """A typing error mended beside a query that forgets prohibitions: the query is to blame."""
    update = """DELETE { dk:NoIntravenousMagnesiumDuringDialysis skos:definition ?d }
      INSERT { dk:NoIntravenousMagnesiumDuringDialysis skos:definition "Never."@en ; skos:changeNote "Shorter."@en }
      WHERE { dk:NoIntravenousMagnesiumDuringDialysis skos:definition ?d }"""
    new = edited(tmp_path, "guideline.ttl", update)
    copied(new, "shapes", "queries")
    (new / "queries" / "derive" / "20-prohibitions.ru").write_text("INSERT { } WHERE { }\n", encoding="utf-8")
    found = compared(PROJECT, new, *patients("P01"))
    document = found.to_json()
    assert document["knowledge"]["affected"] == []
    gone = groups(document)["prohibition gone"]
    assert {c["label"] for c in gone} >= {"No intravenous magnesium during dialysis"}
    assert {tuple(c["causes"]) for c in gone} == {("queries/derive/20-prohibitions.ru (changed)",)}
    for format in (DiffFormat.text, DiffFormat.markdown):
        assert "because of the rule itself" not in render(found, format).lower()


def test_a_cause_is_said_of_a_group_only_where_it_is_that_of_all(tmp_path: Path) -> None:
    document = compared(PROJECT, edited(tmp_path, "local-policy.ttl", THRESHOLD), *patients("P01", "K-below-limit-meql"))
    assert document.advice is not None
    change = next(c for c, _ in document.advice.ordered() if c.group == "no longer recommended")
    document.advice.counts[Change("no longer recommended", change.kind, "urn:x", "status", "recommended", NOTHING)] = 1
    text, markdown = render(document, DiffFormat.text), render(document, DiffFormat.markdown)
    lines = text.split("No longer recommended\n")[1].split("\n\n")[0].splitlines()
    assert "because of" not in lines[0]
    said = [n for n, line in enumerate(lines) if "  because of low potassium range (limit" in line]
    assert [lines[n - 1].split(": recommended")[0].split("  ")[-1] for n in said] == [
        "Adjust dialysate potassium",
        "Correct low potassium",
    ]
    rows = [line for line in markdown.split("No longer recommended\n")[1].splitlines() if line.startswith("| ")][:4]
    assert rows[0].endswith("| Because of |")
    assert [row.endswith("| – |") for row in rows[1:]] == [False, False, True]


def test_who_is_no_longer_spoken_for_comes_before_what_follows_from_it(tmp_path: Path) -> None:
    new = edited(tmp_path, "guideline.ttl", "DELETE WHERE { ?g cg:scope ?s }")
    there, back = (compared(*pair, *patients("P01", "P02")).to_json() for pair in ((PROJECT, new), (new, PROJECT)))
    (change,) = groups(there)["out of scope"]
    assert there["advice"]["groups"][0]["key"] == "out of scope"
    assert (change["new"], change["patients"]) == ("out of scope", 2)
    assert [c.endswith("(scope)") for c in change["causes"]] == [True]
    assert there["advice"]["critical"] == 2
    causes = [c["causes"] for changes in groups(there).values() for c in changes if c["rule"]]
    assert all(causes), "of every rule, also those of modules without a scope of their own"
    assert "out of scope" not in groups(back)


WEIGHED = {
    "severity": ("guideline.ttl", "P01", "DELETE { dk:NoIntravenousMagnesiumDuringDialysis cg:severity ?s } INSERT "
        "{ dk:NoIntravenousMagnesiumDuringDialysis cg:severity cg:High } "
        "WHERE { dk:NoIntravenousMagnesiumDuringDialysis cg:severity ?s }", "weight", "severity", "critical", "high"),
    "strength": ("guideline.ttl", "K-below-limit-meql", "DELETE { dk:CorrectHypokalaemia cg:strength ?s } INSERT "
        "{ dk:CorrectHypokalaemia cg:strength cg:Alternative } WHERE { dk:CorrectHypokalaemia cg:strength ?s }",
        "weight", "strength", "do", "alternative"),
    "caution": ("safety.ttl", "IVMg-torsades", "DELETE WHERE { dk:SO-05 cg:touches dk:AdjustDialysateMagnesium }",
        "caution gone", "caution", "SO-05 holds", ""),
    "conflict": ("safety.ttl", "IVMg-torsades", "DELETE WHERE { dk:SO-05 cg:touches dk:AdjustDialysateMagnesium }",
        "weight", "conflict", "yes", "no"),
    "possible emergency": ("guideline.ttl", "Jerk-with-agitation",
        "DELETE WHERE { dk:AcuteAluminiumNeurotoxicitySuspected cg:emergency ?e }",
        "stop gone", "status", "possible emergency", "possible"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WEIGHED)
def test_advice_that_weighs_less_is_safety_critical(tmp_path: Path, kind: str) -> None:
    module, name, update, group, aspect, old, new = WEIGHED[kind]
    document = compared(PROJECT, edited(tmp_path, module, update), *patients(name)).to_json()
    assert (aspect, old, new) in {(c["aspect"], c["old"], c["new"]) for c in groups(document)[group]}, groups(document)
    assert document["advice"]["critical"] == 1


def test_patients_whom_one_side_alone_refuses_come_first_and_the_others_are_counted(tmp_path: Path) -> None:
    """Without its unit a dose is refused on one side; a patient whom both refuse tells nothing."""
    facts = tmp_path / "facts.ttl"
    head = "@prefix cg: <https://w3id.org/kbtool/cg/> . @prefix dk: <https://w3id.org/kbtool/dialysis/> .\n"
    order = '<urn:{}> a cg:Patient ; cg:hasMedication [ a dk:AluminiumHydroxide ; cg:dailyDose 1 ; cg:unit "{}" ] .\n'
    facts.write_text(head + order.format("one", "g/d") + order.format("both", "stones"), encoding="utf-8")
    new = edited(
        tmp_path / "new", "vocabulary.ttl", "DELETE DATA { dk:AluminiumHydroxide cg:acceptsUnit dk:AluminiumHydroxide-g-d }"
    )
    found = compared(PROJECT, new, facts)
    advice = found.to_json()["advice"]
    (group,) = advice["groups"]
    (change,) = group["changes"]
    assert (group["key"], group["critical"]) == ("refused", True)
    assert (change["old"], change["new"]) == ("accepted", "refused")
    (example,) = change["examples"]
    assert example["patient"] == "urn:one"
    assert "g/d" in " ".join(example["facts"]), "why it is refused"
    assert (advice["patients"], advice["refusedByBoth"], advice["changed"]) == (2, 1, 1)
    assert "1 patient refused by both sides" in render(found, DiffFormat.text)


def test_no_patient_is_named_without_examples(tmp_path: Path) -> None:
    new = edited(tmp_path, "local-policy.ttl", THRESHOLD)
    found = compared(PROJECT, new, *patients("P01", "Drugs-persistent-low-potassium"), examples=0)
    for kind in DiffFormat:
        text = render(found, kind)
        assert "Drugs-persistent-low-potassium" not in text
        assert "3.2" not in text
    assert found.to_json()["advice"]["changed"] >= 1


def test_a_node_that_one_side_takes_for_a_term_of_its_own_does_not_lose_a_patient(tmp_path: Path) -> None:
    """Two patients share a node; with the node declared as a term on one side they share none."""
    facts = tmp_path / "facts.ttl"
    facts.write_text(
        "@prefix cg: <https://w3id.org/kbtool/cg/> . @prefix dk: <https://w3id.org/kbtool/dialysis/> .\n"
        "<urn:a> a cg:Patient ; cg:hasFinding dk:Shared . <urn:b> a cg:Patient ; cg:hasFinding dk:Shared .\n"
        "<urn:c> a cg:Patient . dk:Shared a dk:Anuria .",
        encoding="utf-8",
    )
    new = edited(tmp_path / "new", "vocabulary.ttl", "INSERT DATA { dk:Shared a owl:NamedIndividual }")
    advice = compared(PROJECT, new, facts).to_json()["advice"]
    assert advice["patients"] == 3


# --- Each side by its own logic ------------------------------------------------------------------------------


def test_each_side_is_assessed_by_its_own_shapes_and_queries(tmp_path: Path) -> None:
    copied(tmp_path, "ontology", "shapes", "queries")
    file = tmp_path / "queries" / "derive" / "30-status.ru"
    text = file.read_text(encoding="utf-8")
    assert "cg:undetermined ?rule" in text
    file.write_text(
        text.replace("INSERT { ?patient cg:undetermined ?rule }", "INSERT { ?patient cg:blocked ?rule }"), encoding="utf-8"
    )
    found = compared(PROJECT, tmp_path, *patients(*usual()[:40]))
    document = found.to_json()
    assert document["new"]["ownLogic"]
    assert document["old"]["ownLogic"]
    (logic,) = document["logic"]
    assert (logic["file"], logic["change"], logic["decides"]) == ("queries/derive/30-status.ru", "changed", True)
    went, came = ([line for line in logic["lines"] if line[0] == sign] for sign in "-+")
    assert ("cg:undetermined ?rule" in went[0], "cg:blocked ?rule" in came[0], len(came)) == (True, True, len(went))
    assert f"        {came[0]}" in render(found, DiffFormat.text)
    assert came[0] in render(found, DiffFormat.markdown)
    assert document["knowledge"]["sections"] == []
    assert {c["old"] for g in document["advice"]["groups"] for c in g["changes"] if c["aspect"] == "status"} == {"undetermined"}
    assert "queries/derive/30-status.ru: decides about patients" in render(found, DiffFormat.text)


def test_comments_and_spacing_of_queries_and_shapes_are_no_change(tmp_path: Path) -> None:
    copied(tmp_path, "ontology", "shapes", "queries")
    for file in [*(tmp_path / "queries").rglob("*.r[uq]"), *(tmp_path / "shapes").glob("*.ttl")]:
        file.write_text("# another comment\n\n" + file.read_text(encoding="utf-8") + "\n# the end\n", encoding="utf-8")
    assert compared(PROJECT, tmp_path).same
    (tmp_path / "queries" / "ask" / "mine.rq").write_text("SELECT * { ?s ?p 'a # in a text' }", encoding="utf-8")
    (tmp_path / "shapes" / "checks.ttl").unlink()
    found = compared(PROJECT, tmp_path)
    assert [(e.file, e.change, e.decides) for e in found.logic] == [
        ("queries/ask/mine.rq", "added", False),
        ("shapes/checks.ttl", "removed", False),
    ]
    assert not found.same


def test_what_decides_is_whole_or_not_there_at_all(tmp_path: Path) -> None:
    """A side that lost a part of its shapes and queries would be answered for by those of this kbtool."""
    copied(tmp_path, "ontology", "shapes", "queries")
    (tmp_path / "shapes" / "facts.ttl").unlink()
    with pytest.raises(DiffError, match=r"shapes/facts\.ttl is not there beside queries/prepare, queries/derive; "):
        loaded(str(tmp_path))


def test_logic_that_one_side_alone_brings_is_a_change(tmp_path: Path) -> None:
    old, new = copied(tmp_path / "old", "ontology", "shapes", "queries"), copied(tmp_path / "new")
    found = compared(old, new)
    assert [(each.file, each.change, each.decides) for each in found.logic] == [
        ("shapes/facts.ttl, queries/prepare, queries/derive", "removed", True)
    ]
    assert not found.same
    assert compared(new, old).logic[0].change == "added"


def test_a_module_that_only_this_kbtool_has_is_told(tmp_path: Path) -> None:
    """Deleted with its line in the catalog and still imported, it is read from the copy beside the code that compares."""
    new = copied(tmp_path)
    (new / "ontology" / "safety.ttl").unlink()
    catalog = new / "ontology" / "catalog-v001.xml"
    lines = catalog.read_text(encoding="utf-8").splitlines(keepends=True)
    catalog.write_text("".join(line for line in lines if "safety.ttl" not in line), encoding="utf-8")
    found = compared(PROJECT, new)
    document = found.to_json()
    assert sections(document) == {"scope"}
    (entry,) = document["knowledge"]["sections"][0]["entries"]
    assert (entry["label"], detail(entry, "read from")["new"]) == ("Safety overlay", ["this kbtool"])
    (affected,) = document["knowledge"]["affected"]
    assert len(affected["rules"]) == 24
    assert told(document) == told(compared(new, PROJECT).to_json(), turned=True)


def test_a_query_that_cannot_run_is_named_before_anything_is_compared(tmp_path: Path) -> None:
    copied(tmp_path, "ontology", "shapes", "queries")
    (tmp_path / "queries" / "derive" / "20-prohibitions.ru").write_text("INSERT { ?s WHERE }", encoding="utf-8")
    with pytest.raises(DiffError, match=r"queries/derive/20-prohibitions is no SPARQL that could run: error at 1:\d+$"):
        loaded(str(tmp_path))


def test_another_guideline_needs_no_other_code(tmp_path: Path) -> None:
    shutil.copytree(SECOND, tmp_path / "tests" / "second")
    copied(tmp_path)
    rules = tmp_path / "tests" / "second" / "rules.ttl"
    text = rules.read_text(encoding="utf-8")
    assert "cg:severity cg:Contraindicated" in text
    rules.write_text(text.replace("cg:severity cg:Contraindicated", "cg:severity cg:High"), encoding="utf-8")
    found = compared(SECOND / "root.ttl", tmp_path / "tests" / "second" / "root.ttl", SECOND / "patients")
    document = found.to_json()
    assert sections(document) == {"rules"}
    assert "severity: contraindicated -> high" in render(found, DiffFormat.text)
    assert document["advice"]["patients"] == len(list((SECOND / "patients").glob("*.ttl")))


# --- Inputs --------------------------------------------------------------------------------------------------


def test_inputs_that_are_read_piece_by_piece_give_the_same_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kbtool.diff import inputs

    new = edited(tmp_path, "local-policy.ttl", THRESHOLD)
    file = tmp_path / "cohort.nt"
    chosen = [name for name in usual() if "otassium" in name or name.startswith("P")][:60]
    lines = [
        b"".join(
            f"{q.subject} {q.predicate} {q.object} .\n".replace("_:", f"_:b{number}x").encode()
            for q in ox.parse((FOLDER / f"{name}.ttl").read_bytes(), ox.RdfFormat.TURTLE, base_iri="https://example.org/")
        )
        for number, name in enumerate(chosen)
    ]
    file.write_bytes(b"".join(lines))
    whole = compared(PROJECT, new, file, examples=100).to_json()
    monkeypatch.setattr(inputs, "AT_ONCE", 0)
    monkeypatch.setattr(engine, "BATCH", 7)
    assert told(compared(PROJECT, new, file, examples=100).to_json()) == told(whole)
    assert whole["advice"]["patients"] == len(chosen)
    assert whole["advice"]["changed"] > 3
    packed = tmp_path / "cohort.nt.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert told(compared(PROJECT, new, packed, examples=100).to_json()) == told(whole)
    file.write_bytes(b"".join([*lines, lines[0]]))
    with pytest.raises(FactsError, match="more than one place"):
        compared(PROJECT, new, file)
    file.write_bytes(b"".join(lines[:9]) + b"<urn:x> <urn:y> broken\n")
    with pytest.raises(FactsError, match=r"cohort\.nt"):
        compared(PROJECT, new, file)


def bundle(patient: str, potassium: float) -> Json:
    code = {"system": "http://loinc.org", "code": "2823-3"}
    quantity = {"value": potassium, "unit": "mmol/L", "system": "http://unitsofmeasure.org", "code": "mmol/L"}
    observation = {
        "resourceType": "Observation",
        "id": f"k-{patient}",
        "status": "final",
        "code": {"coding": [code]},
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": "2026-02-10T06:40:00Z",
        "valueQuantity": quantity,
    }
    resources = [{"resourceType": "Patient", "id": patient}, observation]
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": resource} for resource in resources]}


def test_fhir_is_read_by_each_side_with_its_own_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kbtool.diff import inputs

    code = 'DELETE { dk:SerumPotassium cg:hasCode ?c } WHERE { dk:SerumPotassium cg:hasCode ?c . ?c skos:notation "2823-3" }'
    new = edited(tmp_path, "vocabulary.ttl", code)
    file = tmp_path / "cohort.ndjson"
    bundles = [bundle("a", 3.2), bundle("b", 4.4)]
    file.write_text("".join(json.dumps(each) + "\n" for each in bundles), encoding="utf-8")
    whole = compared(PROJECT, new, file).to_json()
    assert whole["advice"]["patients"] == 2
    changes = [c for g in whole["advice"]["groups"] for c in g["changes"]]
    assert changes, "what one side reads the other does not"
    monkeypatch.setattr(inputs, "AT_ONCE", 0)
    assert told(compared(PROJECT, new, file).to_json()) == told(whole)
    resources = [entry["resource"] for each in bundles for entry in each["entry"]]
    file.write_text("".join(json.dumps(each) + "\n" for each in resources), encoding="utf-8")
    with pytest.raises(FactsError, match="more than one place"):
        compared(PROJECT, new, file)


# --- Markdown ------------------------------------------------------------------------------------------------

HOSTILE = (
    "<img src=x onerror=alert(1)> **bold** [a](http://evil.example) | @team #12 `x` www.evil.example </details> "
    ":tada: $x$ \u202eabc"
)


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


def tags(page: str) -> set[str]:
    return set(re.findall(r"<(/?[a-z][a-z0-9]*[^>]*)>", re.sub(r"<!--.*?-->", "", page)))


def words(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<!--.*?-->", "", page))).strip()


def test_text_from_files_never_becomes_markup(tmp_path: Path) -> None:
    quoted = HOSTILE.replace("\\", "\\\\").replace('"', '\\"')
    update = f"""DELETE {{ dk:StartBaclofen skos:prefLabel ?l ; skos:definition ?d }}
      INSERT {{ dk:StartBaclofen skos:prefLabel "{quoted}"@en ; skos:definition "```\\n# {quoted}"@en ; cg:rank 99 }}
      WHERE {{ dk:StartBaclofen skos:prefLabel ?l ; skos:definition ?d }}"""
    new = edited(tmp_path / "new", "guideline.ttl", update)
    facts = tmp_path / "facts.ttl"
    text = (FOLDER / "Drugs-persistent-low-potassium.ttl").read_text(encoding="utf-8")
    facts.write_text(re.sub(r"<[^>]*/patient/[^>]*>|\bex:\S+", "<urn:p%7C**x**_@team_)(>", text), encoding="utf-8")
    found = compared(edited(tmp_path / "old", "local-policy.ttl", THRESHOLD), new, facts)
    page = rendered(render(found, DiffFormat.markdown))
    allowed = {
        "h2",
        "h3",
        "h4",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "ul",
        "li",
        "strong",
        "code",
        "pre",
        "details",
        "summary",
    }
    allowed |= {"del", "ins", "hr"}
    assert {tag.split()[0].strip("/") for tag in tags(page)} <= allowed
    assert not re.search(r"<a |<img|href|onerror=[^a]", page)
    assert "<img src=x onerror=alert(1)>" in words(page), "it is shown, as text"
    assert "urn:p" in words(page)
    assert page.count("<details>") == page.count("</details>")
    assert "\u202e" not in page
    assert "\u202e" not in render(found, DiffFormat.text)


some = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
PIECES = [*"\\`*_{}[]()<>#+-.!|~@:&$=\"' \n\tab1w", "http://a.b", "www.a.b", "&amp;", "1. ", "](x)", "\u202e", "\x1b"]
nasty = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@some
@given(nasty)
def test_escaped_text_reads_as_it_was_in_lists_tables_and_bold(text: str) -> None:
    plain = " ".join(str(visible(text)).split())
    assert not re.search(r"(?i)(?<!\\)://|www\.|[@#]\w|mailto:", str(escaped(plain))), (
        "nor a link or a mention where these are made of text"
    )
    for before, after, allowed in (
        ("- x ", "", {"ul", "li"}),
        ("- ", "", {"ul", "li"}),
        ("| a |\n|---|\n| ", " |", None),
        ("- **x", "x**", None),
    ):
        page = rendered(f"{before}{escaped(plain)}{after}\n")
        assert allowed is None or {tag.strip("/") for tag in tags(page)} <= allowed, page
        assert " ".join(words(page).split()).endswith(plain.strip()) or before.startswith(("|", "- **")), page
        assert plain.strip() in " ".join(words(page).split()), page


@some
@given(nasty)
def test_code_reads_as_it_was_and_cannot_be_closed(text: str) -> None:
    shown = str(visible(text))
    page = rendered(f"x {code(text)} y\n")
    assert tags(page) <= {"p", "/p", "code", "/code"}
    assert (
        words(page).removeprefix("x ").removesuffix(" y").strip() == " ".join(shown.split())
        or shown.split() == words(page).split()[1:-1]
    )
    block = rendered(str(fence([f"+ {text}", "- ```", "  ~~~"])))
    assert {tag.split()[0] for tag in tags(block)} == {"pre", "/pre", "code", "/code"}


def test_markdown_that_is_too_long_to_be_posted_says_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kbtool.diff import text

    new = edited(tmp_path, "guideline.ttl", "DELETE WHERE { ?g cg:scope ?s }")
    found = compared(PROJECT, new, *patients(*usual()[:20]))
    whole = render(found, DiffFormat.markdown)
    assert "too long" not in whole
    assert not re.search(r"^(?:- )?and \d+ more$", whole, re.MULTILINE)
    monkeypatch.setattr(text, "POSTED", len(whole.encode()) * 2 // 3)
    less = render(found, DiffFormat.markdown)
    assert len(less.encode()) <= text.POSTED
    (most,) = re.findall(r"^This is too long to be posted as a whole: of each list (\d+) are shown", less, re.MULTILINE)
    longest = max(len(changes) for changes in groups(found.to_json()).values())
    assert f"and {longest - int(most)} more" in less
    assert whole.index("No longer in scope") < whole.index("A prohibition is gone")
    assert [line for line in less.splitlines() if line.startswith("#")] == [
        line for line in whole.splitlines() if line.startswith("#")
    ]
    assert render(found, DiffFormat.text).count("\n") > less.count("\n") // 2


# --- The command, and git ------------------------------------------------------------------------------------


def command(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kbtool", "diff", *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two commits, the second of which changes a threshold; and a work tree that is dirty."""
    folder = tmp_path_factory.mktemp("repository")
    copied(folder, "ontology", "shapes", "queries")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    changed = edited(folder / "scratch", "local-policy.ttl", THRESHOLD)
    shutil.copy(changed / "ontology" / "local-policy.ttl", folder / "ontology" / "local-policy.ttl")
    shutil.rmtree(folder / "scratch")
    git(folder, "commit", "-q", "-a", "-m", "second")
    (folder / "ontology" / "note.txt").write_text("not committed")
    (folder / "facts.ttl").write_text("<urn:p> a <https://w3id.org/kbtool/cg/Patient> .")
    query = folder / "queries" / "derive" / "30-status.ru"
    query.write_text(query.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    return folder


def test_a_revision_is_compared_with_the_work_tree_and_nothing_is_touched(repository: Path) -> None:
    before = (git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD"), git(repository, "worktree", "list"))
    run = command(repository, "HEAD~1", ".")
    assert (run.returncode, run.stderr) == (1, "")
    assert re.search(r"^OLD  HEAD~1 \(commit [0-9a-f]{9}\): ", run.stdout)
    assert "limit: below 3.5 mmol/L -> below 3 mmol/L" in run.stdout
    assert "OLD uses its own, NEW uses its own" in run.stdout
    assert command(repository / "queries", "HEAD~1", "HEAD").stdout.count("      limit: ") == 1
    assert command(repository, "HEAD", ".").returncode == 0
    run = command(repository, "HEAD~1:ontology/kb.ttl", "HEAD", "--format", "json")
    assert json.loads(run.stdout)["knowledge"]["sections"][0]["key"] == "thresholds"
    after = (git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD"), git(repository, "worktree", "list"))
    assert before == after


def test_the_revision_of_a_root_that_has_another_name_is_found(repository: Path) -> None:
    clone = repository.parent / "clone"
    git(repository.parent, "clone", "-q", str(repository), str(clone))
    shutil.copytree(SECOND, clone / "tests" / "second")
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", "third")
    run = command(clone, "HEAD", "tests/second/root.ttl")
    assert (run.returncode, run.stderr) == (0, "")
    assert "https://example.org/asthma" in run.stdout
    run = command(clone / "tests", "HEAD:tests/second/root.ttl", "second/root.ttl")
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ("no-such", "no-such: no such file or folder, and no revision in the git repository "),
        ("--upload-pack=x", ""),
        ("HEAD:nowhere.ttl", "HEAD:nowhere.ttl: this revision holds no "),
        ("shapes", "shapes: this folder holds no ontology/kb.ttl; name the root ontology itself"),
        ("facts.ttl", "declares 0 ontologies"),
        ("", "OLD is empty (a variable that is not set?); name a root ontology, "),
        (" ", "OLD is empty"),
    ],
)
def test_a_side_that_cannot_be_found_is_named(repository: Path, old: str, said: str) -> None:
    run = command(repository, "--", old, ".") if old.startswith("--") else command(repository, old, ".")
    assert run.returncode == 2
    assert said in run.stderr
    assert run.stderr.startswith("kbtool: ")
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_without_git_or_a_repository_the_message_says_so(repository: Path, tmp_path: Path) -> None:
    run = command(repository, "HEAD~1", ".", PATH=str(tmp_path))
    assert (run.returncode, run.stdout) == (2, "")
    assert "git would be needed, which is not installed" in run.stderr
    copied(tmp_path)
    run = command(tmp_path, "HEAD~1", ".", GIT_CEILING_DIRECTORIES=str(tmp_path.parent))
    assert "this is no git repository" in run.stderr


def test_a_revision_that_does_not_load_is_named_and_not_where_it_was_unpacked(repository: Path) -> None:
    clone = repository.parent / "broken"
    git(repository.parent, "clone", "-q", str(repository), str(clone))
    (clone / "ontology" / "guideline.ttl").write_text("broken")
    git(clone, "commit", "-q", "-a", "-m", "broken")
    run = command(clone, "HEAD", "HEAD~1")
    assert run.returncode == 2
    assert re.match(r"kbtool: HEAD \(commit \w+\): ontology/guideline.ttl: not valid Turtle", run.stderr)


def test_exit_codes_formats_and_the_file(tmp_path: Path) -> None:
    new = edited(tmp_path, "local-policy.ttl", THRESHOLD)
    out = tmp_path / "out.md"
    patient = FOLDER / "Drugs-persistent-low-potassium.ttl"
    run = command(tmp_path, PROJECT, new, "--cohort", patient, "--as-of", AS_OF, "--format", "markdown", "-o", out)
    assert (run.returncode, run.stdout, run.stderr) == (1, "", "")
    assert out.read_text(encoding="utf-8").startswith("## What changes in the guideline, and for whom\n")
    assert f"as of {AS_OF}" in out.read_text(encoding="utf-8")
    assert command(tmp_path, PROJECT, PROJECT, "--cohort", patient, "--as-of", AS_OF).returncode == 0
    for words, said in (
        (["--format", "html"], "'html' is no format of a comparison; take text, markdown, json"),
        (["--cohort", "nowhere.ttl"], "nowhere.ttl: cannot be read: No such file"),
        (["--cohort", "nowhere"], "nowhere: cannot be read: No such file"),
        (["--cohort", patient, "--as-of", "2026-02-10"], "time zone"),
    ):
        run = command(tmp_path, PROJECT, new, *words)
        assert (run.returncode, run.stdout) == (2, "")
        assert said in run.stderr
        assert "Traceback" not in run.stderr
