"""Code, queries and shapes hold no clinical knowledge: no term, code or number; changing the data changes the answer."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyoxigraph as ox
import pytest
from knowledge_data import (
    MODULES,
    ONTOLOGY,
    PROJECT,
    Number,
    compared_with,
    loaded_with,
    numbers,
    ontology,
    quantities_in_criteria,
    rests_on,
    thresholds,
)
from test_patients import compare

import kbtool
from kbtool import engine
from kbtool.answer import read_answers
from kbtool.facts import Facts, PatientFacts
from kbtool.namespaces import CG, OWL, RDF, RDFS, SKOS, VANN, local_name

GOLDEN = PROJECT / "tests" / "patients"
EXPECTED = sorted(GOLDEN.glob("*.expected.json"))
AS_OF = "2026-02-10T12:00:00Z"
LANGUAGE = "model.ttl"
QUERIES = sorted(file for folder in ("prepare", "derive") for file in (PROJECT / "queries" / folder).glob("*.r[uq]"))
PYTHON = sorted((PROJECT / "kbtool").rglob("*.py"))
SHAPES = sorted((PROJECT / "shapes").glob("*.ttl"))

PLAIN_WORDS = {"source"}
"""Names of the guideline that are plain English words in this project."""

PLAIN_PARTS = {"disturbance", "failure", "interval", "physical", "replacement"}
"""Parts of names of facts that are plain English words in this project."""


# --- No term and no code in Python, queries and shapes ---------------------------------------------


@dataclass(frozen=True)
class Forbidden:
    """What must not be said outside the ontology: namespaces, prefixes, names and codes, and words of names of facts."""

    namespaces: frozenset[str]
    prefixes: frozenset[str]
    names: frozenset[str]
    codes: frozenset[str]
    words: frozenset[str]

    def found(self, text: str) -> set[str]:
        """What a text says that it must not say. Names and words are found in small or capital letters."""
        tokens = set(re.findall(r"[A-Za-z0-9]+(?:[-.:][A-Za-z0-9]+)*", text))
        tokens |= {part for token in tokens for part in re.split(r"[.:]", token)}
        lower = {token.lower() for token in tokens} | set(re.findall(r"[a-z0-9]+", text.lower()))
        said = {n for n in self.namespaces if n in text} | {p for p in self.prefixes if re.search(rf"\b{p}:", text)}
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+", text)}
        return said | (lower & self.names) | (tokens & self.codes) | (words & self.words)


@cache
def forbidden() -> Forbidden:
    own = [q for name, quads in MODULES.items() if name != LANGUAGE for q in quads]
    namespaces = {q.object.value for q in own if q.predicate == VANN["preferredNamespaceUri"]} - {CG.iri}
    prefixes = {q.object.value for q in own if q.predicate == VANN["preferredNamespacePrefix"]} - {"cg"}
    ontologies = {q.subject for q in own if q.predicate == RDF["type"] and q.object == OWL["Ontology"]}
    declared = {q.subject for q in own if q.predicate == RDF["type"] and isinstance(q.subject, ox.NamedNode)} - ontologies
    terms = {t.value for t in declared if any(t.value.startswith(n) for n in namespaces)}
    coded = {q.subject for q in own if q.predicate == RDF["type"] and q.object == CG["Code"]}
    codes = {q.object.value for q in own if q.predicate == SKOS["notation"] and q.subject in coded}
    facts: Any = ontology().query(f"SELECT ?c {{ ?c <{RDFS['subClassOf'].value}>+ {CG['Fact']} }}")
    neutral = set(re.findall(r"[a-z]+", (ONTOLOGY / LANGUAGE).read_text(encoding="utf-8").lower()))
    kinds = [local_name(row["c"].value) for row in facts if row["c"].value in terms]
    parts = {word.lower() for kind in kinds for word in re.findall(r"[A-Z][a-z]+", kind)}
    return Forbidden(
        frozenset(namespaces | {o.value for o in ontologies if isinstance(o, ox.NamedNode)}),
        frozenset(prefixes),
        frozenset({local_name(t).lower() for t in terms} - PLAIN_WORDS),
        frozenset(codes),
        frozenset({w for w in parts if len(w) > 6} - neutral - PLAIN_PARTS),
    )


def pieces(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of everything that Python source says: names, comments, numbers, strings as written and as meant."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string.strip():
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield node.lineno, node.value if isinstance(node.value, str) else node.value.decode("latin-1")


def said_in(source: str) -> set[tuple[int, str]]:
    return {(line, word) for line, text in pieces(source) for word in forbidden().found(text)}


def test_the_scanner_knows_what_to_look_for() -> None:
    look = forbidden()
    assert look.namespaces >= {"https://w3id.org/kbtool/dialysis/"}
    assert look.prefixes == {"dk"}
    assert len(look.names) > 800
    assert len(look.codes) > 200
    assert {"magnesium", "dialysis", "haemodialysis", "baclofen", "potassium"} <= look.words
    assert not look.words & {"patient", "session", "treatment", "finding", "medication"}


@pytest.mark.parametrize(
    "line",
    [
        'target = "SerumMagnesium"',
        "SerumMagnesium = 1",
        "class Baclofen: ...",
        "x = 1  # unlike Haemodialysis",
        '"""Warn about baclofen."""',
        'name = "Serum" "Magnesium"',
        'name = "\\x53erumMagnesium"',
        'name = f"{prefix}SerumMagnesium"',
        'name = b"SerumMagnesium"',
        'query = "?patient a <https://w3id.org/kbtool/dialysis/Coma>"',
        'base = "https://w3id.org/kbtool/dialysis/"',
        'help = "as in --set statement=dk:S23"',
        'code = "19123-9"',
        'code = "LOINC 19123-9"',
        "code = 387202002",
        'example = "kbtool terms magnesium"',
        "low_potassium = True",
        'rule = "NoCalciumBeforeMagnesium"',
        'statement = "S23"',
        'caution = "SO-05"',
        'unit = "SerumMagnesium-mg-dL"',
    ],
)
def test_the_scanner_finds_a_clinical_term(line: str) -> None:
    assert said_in(f"x = 0\n{line}\n")


@pytest.mark.parametrize(
    "line", ['text = "Source of the facts of a patient"', "running_session = start + end", 'url = "https://w3id.org/kbtool/cg/"']
)
def test_the_scanner_lets_other_things_pass(line: str) -> None:
    assert not said_in(f"x = 0\n{line}\n")


@pytest.mark.parametrize("file", PYTHON, ids=lambda file: str(file.relative_to(PROJECT)))
def test_no_clinical_term_in_python(file: Path) -> None:
    assert sorted(said_in(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("file", [*SHAPES, *QUERIES], ids=lambda file: str(file.relative_to(PROJECT)))
def test_no_clinical_term_in_shapes_and_queries(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert [(n, w) for n, line in enumerate(text.splitlines(), 1) for w in sorted(forbidden().found(line))] == []
    assert not forbidden().found(text)


def test_there_is_something_to_scan() -> None:
    assert len(PYTHON) > 10
    assert len(SHAPES) > 0
    assert {file.parent.name for file in QUERIES} == {"prepare", "derive"}


# --- No number: what is changed in the data changes an answer ---------------------------------------


Change = Callable[[Decimal], Decimal | int]

FEW = 16
"""How many golden patients are tried before all the others that a number concerns."""


def without_validation(kb: kbtool.KnowledgeBase) -> kbtool.KnowledgeBase:
    """The golden facts are valid; what is tested here is what follows from them."""
    kb.knowledge.shapes.clear()
    return kb


def changed(number: Number, change: Change, folder: Path) -> kbtool.KnowledgeBase:
    """The knowledge base with one number changed, loaded from a copy of the ontology."""
    old = number.quad
    value = ox.Literal(format(change(number.value), "f"), datatype=old.object.datatype)  # type: ignore[union-attr]
    quads = [ox.Quad(q.subject, q.predicate, value) if q == old else q for q in MODULES[number.file]]
    assert quads != MODULES[number.file]
    return without_validation(loaded_with({number.file: quads}, folder))


def decisions(data: dict[str, Any]) -> dict[str, Any]:
    """The part of an answer that says what to do: without the parameters that are only shown, and the facts not used."""
    kept = {kind: data[kind] for kind in ("inScope", "missing")}
    for kind in ("recommendations", "prohibitions", "assessments", "cautions"):
        kept[kind] = [{k: v for k, v in entry.items() if k != "parameters"} for entry in data[kind]]
    return kept


@dataclass
class Golden:
    """The golden patients whose facts are all used, with everything derived, and what is decided for each."""

    facts: Facts
    store: ox.Store
    decided: dict[str, dict[str, Any]]

    def concerned(self, number: Number, near: Decimal | int) -> list[list[PatientFacts]]:
        """The patients with a fact that the number is about; those first whose fact is near a value, or has the unit."""
        classes = " ".join(f"<{iri}>" for iri in sorted(rests_on()[number.name]))
        compared = " ".join(f"<{prop}>" for prop in sorted(compared_with()[number.name]))
        units = " ".join(str(q.object) for q in ontology().quads_for_pattern(number.quad.subject, CG["ucum"], None, None))
        rows: Any = self.store.query(f"""SELECT ?p (MIN(?away) AS ?least) {{
          VALUES ?c {{ {classes} }} ?p {CG["hasFact"]} ?f . ?f a ?c
          OPTIONAL {{ VALUES ?compared {{ {compared} }} ?f ?compared ?v }}
          OPTIONAL {{ VALUES ?unit {{ {units} }} ?f {CG["unit"]} ?unit }}
          BIND(IF(BOUND(?unit), 0, ABS(?v - {near:f})) AS ?away) }}
          GROUP BY ?p ORDER BY (!BOUND(?least)) ?least ?p""")
        order = {row["p"]: place for place, row in enumerate(rows)}
        return sorted((group for group in self.facts.groups if group[0].patient in order), key=lambda g: order[g[0].patient])

    def changed_by(self, number: Number, changes: list[Change], folder: Path) -> list[str]:
        """The patients for whom something else is decided by one of the changes of a number; a few are tried first."""
        groups = self.concerned(number, changes[0](number.value))
        bases = [changed(number, change, folder) for change in changes]
        for some in (groups[:FEW], groups[FEW:]):
            for kb in bases:
                answers = engine.assess(kb.knowledge, Facts(some, []), engine.parse_as_of(AS_OF))
                found = [local_name(r.patient) for r in answers if decisions(r.data) != self.decided[r.patient]]
                if found:
                    return found
        return []


@pytest.fixture(scope="module")
def golden() -> Golden:
    knowledge = kbtool.load().knowledge
    wanted = {file.name.removesuffix(".expected.json"): json.loads(file.read_text("utf-8")) for file in EXPECTED}
    used = {name: want for name, want in wanted.items() if not want.get("refused") and not want.get("setAside")}
    good = {name for name, want in used.items() if want["asOf"] == AS_OF}
    facts = kbtool.KnowledgeBase(knowledge).read(*(GOLDEN / f"{name}.ttl" for name in sorted(good)))
    records = [record for group in facts.groups for record in group]
    store = engine.load_store(knowledge, records, engine.parse_as_of(AS_OF))
    engine.derive(store, knowledge, records)
    decided = {r.patient: decisions(r.data) for r in read_answers(store, knowledge, records, {}, {}, {})}
    return Golden(facts, store, decided)


def label(value: object) -> str:
    return value.name if isinstance(value, Number) else str(value)


NAMED, TESTED = quantities_in_criteria()
THRESHOLDS = list(thresholds())
UNITS = [n for n in numbers("factor", "offset") if n.name.split("-")[0] in TESTED]
CURRENCIES = [n for n in numbers("currencyHours") if n.name in NAMED]
OTHER = [
    *(n for n in numbers("ratioFactor") if n.name in TESTED),
    *numbers("settlesHours", "aftermathHours", "logHours"),
    *(n for n in numbers("plausibleMaximum") if n.name.endswith("Session")),
]

FAR_EITHER_WAY: list[Change] = [lambda value: value * 1000, lambda value: value / 1000]


def nudged(number: Number, sign: int) -> Change:
    """A tenth up or down, one where only whole numbers are meant, and far where the number is zero."""
    if number.value == 0:
        return lambda _: sign * 10**6
    if number.quad.object.datatype.value.endswith("integer"):  # type: ignore[union-attr]
        return lambda value: value + sign
    return lambda value: value * (10 + sign) / 10


@pytest.mark.parametrize("sign", [-1, 1], ids=["down", "up"])
@pytest.mark.parametrize("number", THRESHOLDS, ids=label)
def test_each_threshold_decides_for_a_golden_patient_near_it(golden: Golden, tmp_path: Path, number: Number, sign: int) -> None:
    assert golden.changed_by(number, [nudged(number, sign)], tmp_path), (
        f"{number.name} can be moved from {number.value} to {nudged(number, sign)(number.value)} and no golden patient notices: "
        "add one between the two to tests/patients"
    )


@pytest.mark.deep
@pytest.mark.parametrize("far", [-(10**6), 10**6])
@pytest.mark.parametrize("number", THRESHOLDS, ids=label)
def test_each_threshold_moved_far_decides_for_a_golden_patient(golden: Golden, tmp_path: Path, number: Number, far: int) -> None:
    assert golden.changed_by(number, [lambda _: far], tmp_path)


@pytest.mark.parametrize("number", UNITS, ids=label)
def test_each_unit_decides_for_a_golden_patient(golden: Golden, tmp_path: Path, number: Number) -> None:
    assert golden.changed_by(number, FAR_EITHER_WAY, tmp_path), (
        f"{number.name}: no golden patient has a value in this unit on which something rests"
    )


@pytest.mark.parametrize("number", CURRENCIES, ids=label)
def test_each_currency_decides_for_a_golden_patient(golden: Golden, tmp_path: Path, number: Number) -> None:
    assert golden.changed_by(number, [lambda _: 0], tmp_path)


@pytest.mark.parametrize("number", OTHER, ids=label)
def test_each_other_number_decides_for_a_golden_patient(golden: Golden, tmp_path: Path, number: Number) -> None:
    assert golden.changed_by(number, FAR_EITHER_WAY, tmp_path)


def test_an_unchanged_copy_changes_nothing(golden: Golden, tmp_path: Path) -> None:
    shutil.copytree(ONTOLOGY, tmp_path / "ontology")
    kb = without_validation(kbtool.load(tmp_path / "ontology" / "kb.ttl"))
    answers = list(engine.assess(kb.knowledge, golden.facts, engine.parse_as_of(AS_OF)))
    assert len(answers) == len(golden.decided) > 150
    assert [r.patient for r in answers if decisions(r.data) != golden.decided[r.patient]] == []


def test_the_numbers_are_found() -> None:
    names = {number.name for number in THRESHOLDS}
    assert {"MagnesiumTargetMassRange", "BaclofenCeilingRange", "LowPotassiumRange", "NeurotoxicBaclofenDoseRange"} <= names
    assert {number.file for number in THRESHOLDS} == {"guideline.ttl", "local-policy.ttl", "safety.ttl"}
    assert {"SerumMagnesium-mg-dL", "BodyTemperature-degF", "DryWeight-lb", "Baclofen-mg-d"} <= {n.name for n in UNITS}
    assert {"SerumMagnesium", "PlasmaAluminium", "DryWeight", "SerumPhosphate"} <= {n.name for n in CURRENCIES}
    assert {n.name for n in OTHER} >= {"HaemodialysisSession", "SerumPotassium", "RelativeInterdialyticWeightGain"}


def test_one_changed_line_in_the_guideline_changes_the_answer_of_the_command_line(tmp_path: Path) -> None:
    shutil.copytree(ONTOLOGY, tmp_path / "ontology")
    guideline = tmp_path / "ontology" / "guideline.ttl"
    before = guideline.read_text(encoding="utf-8")
    after, count = re.subn(r"xsd:minInclusive 1\.7\b", "xsd:minInclusive 1.3", before)
    assert count == 1
    wanted = json.loads((GOLDEN / "P01.expected.json").read_text(encoding="utf-8"))
    assert compare(answer_of_p01(tmp_path), wanted) == []

    guideline.write_text(after, encoding="utf-8")
    blocked = wanted["recommendations"]["blocked"]
    drugs = {name: detail for name, detail in blocked.items() if "ElectrolytesCorrected" in detail["blockedBy"]}
    opened = ["CorrectHypocalcaemia", "AdjustDialysateCalcium", "CorrectHypokalaemia", "AdjustDialysatePotassium"]
    assert {*drugs, *opened} == set(blocked)
    monitoring = ["MonitorPostDialysisElectrolytes", "AssessNutrition"]
    wanted["recommendations"] |= {"recommended": [*opened, *monitoring], "blocked": drugs}
    wanted["prohibitions"] = {"holds": {"NoIntravenousMagnesiumDuringDialysis": {"hardStop": False, "orders": 0}}}
    wanted["because"] = {"ArrhythmiaRisk": ["IonisedCalcium", "SerumPotassium"]}
    answer = answer_of_p01(tmp_path)
    assert compare(answer, wanted) == []
    risk = next(a for a in answer["assessments"] if a["name"] == "ArrhythmiaRisk")
    assert "SerumMagnesium" not in {fact["name"] for fact in risk["because"]}


def answer_of_p01(folder: Path) -> dict[str, Any]:
    root, facts = str(folder / "ontology" / "kb.ttl"), str(GOLDEN / "P01.ttl")
    words = [sys.executable, "-m", "kbtool", "assess", facts, "--ontology", root, "--as-of", AS_OF, "--format", "json"]
    run = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", cwd=PROJECT, check=False)
    assert run.returncode == 0, run.stderr
    patients: list[dict[str, Any]] = json.loads(run.stdout)["patients"]
    return patients[0]
