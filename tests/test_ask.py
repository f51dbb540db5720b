"""The queries of queries/ask, and `kbtool query`: every query on two engines, exact rows for worked patients, and what
is refused. Expected rows were found by hand from the worked cases, not from the program."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyoxigraph as ox
import pytest
import rdflib
from typer.testing import CliRunner

import kbtool
from kbtool import ask
from kbtool.cli import app

ROOT = Path(__file__).parent.parent
ASK = ROOT / "queries" / "ask"
PATIENTS = Path(__file__).parent / "patients"
SECOND = Path(__file__).parent / "second_guideline"
AS_OF = "2026-02-10T12:00:00Z"
CG = "https://w3id.org/kbtool/cg/"
DK = "https://w3id.org/kbtool/dialysis/"
MAIN = ("P01", "P05", "P12", "P15", "P20", "P22", "P24")
MORE = ("P15b", "P16", "IVMg-torsades")
"""A recommendation that is contraindicated, a second hard stop, and a hard stop that a critical caution overrides."""

NAMES = sorted(path.stem for path in ASK.glob("*.rq"))
TEXTS = {name: (ASK / f"{name}.rq").read_text(encoding="utf-8") for name in NAMES}
FEW = [str(PATIENTS / f"{name}.ttl") for name in (*MAIN, *MORE)]

Row = tuple[Any, ...]


@cache
def load(path: Path | None = None) -> kbtool.KnowledgeBase:
    """A knowledge base holds no patient, so one serves all tests."""
    return kbtool.load(path)


@cache
def store() -> ox.Store:
    return load().store(*FEW, as_of=AS_OF)


@cache
def graph() -> rdflib.Graph:
    data = store().dump(format=ox.RdfFormat.N_TRIPLES, from_graph=ox.DefaultGraph())
    return rdflib.Graph().parse(data=data or b"", format="nt")


def value(term: Any) -> Any:
    """A term of either engine by value: engines write 1.70 and times differently."""
    if term is None:
        return None
    if isinstance(term, ox.NamedNode | rdflib.URIRef):
        return ("iri", term.value if isinstance(term, ox.NamedNode) else str(term))
    ours = isinstance(term, ox.Literal)
    text, language = (term.value if ours else str(term)), term.language
    kind = (term.datatype.value if ours else str(term.datatype)).rpartition("#")[2]
    if kind in ("decimal", "integer"):
        return Decimal(text)
    if kind == "dateTime":
        return datetime.datetime.fromisoformat(text)
    return (text, language)


def rows(query: str) -> tuple[list[str], list[Row]]:
    result: Any = store().query(query)
    names = [v.value for v in result.variables]
    return names, [tuple(value(row[n]) for n in names) for row in result]


def rows_rdflib(query: str) -> tuple[list[str], list[Row]]:
    result: Any = graph().query(query)
    names = [str(v) for v in result.vars]
    return names, [tuple(value(row[n]) for n in names) for row in result]


def short(term: Any) -> Any:
    """A value as one writes it by hand: the last part of an IRI, plain text, a number."""
    if isinstance(term, tuple):
        return (
            term[1].rpartition("/")[2].rpartition("#")[2]
            if term[0] == "iri"
            else {"true": True, "false": False}.get(term[0], term[0])
        )
    return term


@cache
def answer(name: str) -> list[dict[str, Any]]:
    """The rows of a query as dictionaries of short values, in order."""
    names, found = rows(TEXTS[name])
    return [{n: short(v) for n, v in zip(names, row, strict=True)} for row in found]


def pick(name: str, *columns: str, **where: Any) -> list[Row]:
    """Some columns of the rows of a query that have the given values, for the seven main patients."""
    return [
        tuple(row[c] for c in columns)
        for row in answer(name)
        if row.get("patient", MAIN[0]) in MAIN and all(row[k] == v for k, v in where.items())
    ]


def selected(name: str) -> list[str]:
    return rows(TEXTS[name])[0]


# --- The files ----------------------------------------------------------------------------------


def test_there_are_queries() -> None:
    assert len(NAMES) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_header(name: str) -> None:
    head, _, body = TEXTS[name].partition("\n\n")
    lines = head.splitlines()
    assert [line.split(":")[0] for line in lines] == ["#+ summary", "#+ description", "#+ tags", "#+ asks"]
    found = ask.header(TEXTS[name])
    for key in ("summary", "description"):
        assert ": " not in found[key], "a colon and a space end a plain value in YAML"
        assert " #" not in found[key]
        assert found[key][0].isalpha()
    assert re.fullmatch(r"\[[a-z]+( [a-z]+)*(, [a-z]+( [a-z]+)*)*\]", found["tags"])
    assert found["asks"] in ("patients", "knowledge")
    assert found["asks"] in found["tags"]
    assert body.startswith("PREFIX")
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)


@pytest.mark.parametrize("name", NAMES)
def test_only_declared_terms_and_no_clinical_one(name: str) -> None:
    body = re.sub(r"(?m)^#.*", "", TEXTS[name])
    assert "dk:" not in TEXTS[name]
    assert DK not in TEXTS[name]
    prefixes = dict(re.findall(r"PREFIX (\w+): <([^>]+)>", body))
    used = set(re.findall(r"(?<![\w?])(\w+):\w", re.sub(r"PREFIX.*|<[^>]*>|\"[^\"]*\"", "", body)))
    assert used == set(prefixes)
    declared = {q.subject.value for q in ox.parse(path=ROOT / "ontology" / "model.ttl") if isinstance(q.subject, ox.NamedNode)}
    for term in re.findall(r"\bcg:(\w+)", TEXTS[name]):
        assert CG + term in declared


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_engines_do_differently(name: str) -> None:
    body = re.sub(r"(?m)^#.*", "", TEXTS[name])
    for word in (
        "NOW(",
        "RAND(",
        "UUID(",
        "BNODE(",
        "SAMPLE(",
        "SERVICE",
        "FROM <",
        "GRAPH",
        "REGEX",
        "Duration",
        "LIMIT",
        "DESCRIBE",
    ):
        assert word not in body.replace("'", "")
    for group in re.finditer(r"GROUP_CONCAT\(", body):
        inner = body[group.end() :]
        assert re.match(r"[^{]*\{\s*SELECT", inner), "a GROUP_CONCAT stands over a sub-select"
        assert inner.index("ORDER BY") < inner.index("GROUP BY"), "that is ordered"


@pytest.mark.parametrize("name", NAMES)
def test_both_engines_give_the_same_rows_in_the_same_order(name: str) -> None:
    here, there = rows(TEXTS[name]), rows_rdflib(TEXTS[name])
    assert here[0] == there[0]
    assert here[1], "every query has a row for these patients"
    assert here[1] == there[1]
    assert len(set(here[1])) == len(here[1]), "no row comes twice"


@pytest.mark.parametrize("name", NAMES)
def test_the_order_is_total(name: str) -> None:
    text = TEXTS[name]
    keys = re.findall(r"\?\w+", text.rpartition("ORDER BY")[2])
    start = text.index("SELECT")
    top, rest = text[start:].split("\nWHERE", 1)
    if "DISTINCT" in top or "GROUP BY" in rest.rpartition("}")[2]:
        assert {k[1:] for k in keys} <= set(selected(name))
    else:
        top = f"SELECT {' '.join(keys)}"
    names, found = rows(f"{text[:start]}{top}\nWHERE{rest}")
    places = [names.index(k[1:]) for k in keys]
    values = [tuple(row[i] for i in places) for row in found]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", NAMES)
def test_labels_stand_beside_iris(name: str) -> None:
    """Wherever a column holds terms of the knowledge base, another one holds their labels or identifiers."""
    names, found = rows(TEXTS[name])
    labels = {
        q.object.value
        for q in store().quads_for_pattern(None, ox.NamedNode("http://www.w3.org/2004/02/skos/core#prefLabel"), None)
    }
    if any(isinstance(v, tuple) and v[0] == "iri" and v[1].startswith(DK) for row in found for v in row):
        texts = {v[0] for row in found for v in row if isinstance(v, tuple) and v[0] != "iri"}
        assert texts & labels or "title" in names
    for row in found:
        for text in row:
            assert not (isinstance(text, tuple) and text[0] != "iri" and text[1] not in (None, "en"))


BINDABLE = [(name, v) for name in NAMES for v in re.findall(r"\?(\w+)", ask.header(TEXTS[name])["description"])]


@pytest.mark.parametrize(("name", "variable"), BINDABLE)
def test_what_is_meant_to_be_bound_can_be_bound(name: str, variable: str) -> None:
    names, found = rows(TEXTS[name])
    place = names.index(variable)
    assert all(row[place] is not None for row in found), "a variable without a value would match anything"
    wanted = found[len(found) // 2][place]
    term = f"<{wanted[1]}>" if wanted[0] == "iri" else json.dumps(wanted[0])
    bound = f"{TEXTS[name]}VALUES ?{variable} {{ {term} }}\n"
    assert rows(bound)[1] == [row for row in found if row[place] == wanted]


@pytest.mark.parametrize(
    ("name", "variable", "wanted"),
    [("recommended", "patient", "P22"), ("because", "rule", "ArrhythmiaRisk"), ("codes", "concept", "SerumMagnesium")],
)
def test_rdflib_binds_too(name: str, variable: str, wanted: str) -> None:
    names, found = rows(TEXTS[name])
    place = names.index(variable)
    term = next(row[place][1] for row in found if short(row[place]) == wanted)
    assert rows_rdflib(f"{TEXTS[name]}VALUES ?{variable} {{ <{term}> }}\n")[1] == [r for r in found if r[place] == ("iri", term)]


def test_every_patient_query_is_empty_without_patients() -> None:
    bare = load().store(as_of=AS_OF)
    for name in NAMES:
        found = bool(list(bare.query(TEXTS[name])))  # type: ignore[arg-type]
        assert found == (ask.header(TEXTS[name])["asks"] == "knowledge"), name


def test_the_queries_serve_another_guideline() -> None:
    kb = load(SECOND / "root.ttl")
    other = kb.store(*(str(p) for p in sorted((SECOND / "patients").glob("*attack*.ttl"))), as_of="2026-03-01T09:00:00Z")
    for name in ("rules", "thresholds", "criteria", "units", "modules", "prerequisites", "results", "patient-summary", "answers"):
        assert list(other.query(TEXTS[name])), name  # type: ignore[arg-type]


# --- The rows of worked patients ----------------------------------------------------------------

TESTS = ("MeasureSerumMagnesium", "MeasureIonisedCalcium", "MeasureSerumPotassium", "MeasureSerumPhosphate")
DRUGS = ("StartBaclofen", "GiveMidodrine", "GiveVitaminE")
CORRECTIONS = ("CorrectHypocalcaemia", "CorrectHypokalaemia", "AdjustDialysateCalcium", "AdjustDialysatePotassium")
ALWAYS = ("MonitorPostDialysisElectrolytes", "AssessNutrition")
RECOMMENDED = {
    "P01": ("AdjustDialysateMagnesium", *ALWAYS),
    "P05": ("MeasureSerumMagnesium", "MeasureSerumPhosphate", *ALWAYS),
    "P12": (
        *(
            "ReduceUltrafiltrationRate",
            "RaiseDialysateSodium",
            "ProfileDialysateSodium",
            "CoolDialysate",
            "IsolatedUltrafiltration",
        ),
        *("MonitorInterdialyticWeightGain", "MonitorBloodPressure", "MonitorHypothermia", *ALWAYS),
    ),
    "P15": (
        *("StartBaclofen", "GiveMidodrine", "GiveVitaminE", "MonitorBaclofenAdverseEffects", "MonitorFirstMonthChemistry"),
        *("MonitorInterdialyticWeightGain", "MonitorBloodPressure", "MonitorHypothermia", *ALWAYS),
    ),
    "P20": (*TESTS, *ALWAYS),
    "P22": ("MeasureIonisedCalcium", "MeasureSerumPotassium", "MeasureSerumPhosphate", "AdjustDialysateMagnesium", *ALWAYS),
}
STRENGTH = {
    "StartBaclofen": "first line",
    "GiveMidodrine": "alternative",
    "GiveVitaminE": "alternative",
    "IsolatedUltrafiltration": "consider",
}
STATEMENTS = {
    "MeasureSerumMagnesium": "S01 S02 S04",
    "MeasureIonisedCalcium": "S05a S05b",
    "MeasureSerumPotassium": "S06",
    "MeasureSerumPhosphate": "S07",
    "AdjustDialysateMagnesium": "S15 S16 S17",
    "ReduceUltrafiltrationRate": "S26 S27 S55",
    "RaiseDialysateSodium": "S26 S28",
    "ProfileDialysateSodium": "S26 S29",
    "CoolDialysate": "S26 S30 S31",
    "IsolatedUltrafiltration": "S33",
    "StartBaclofen": "S34 S35",
    "GiveMidodrine": "S42 S43",
    "GiveVitaminE": "S44 S45 S46",
    "MonitorPostDialysisElectrolytes": "S53 S54 S64 S71",
    "MonitorFirstMonthChemistry": "S72",
    "MonitorInterdialyticWeightGain": "S73",
    "MonitorBloodPressure": "S74",
    "AssessNutrition": "S75 S76",
    "MonitorHypothermia": "S32",
    "MonitorBaclofenAdverseEffects": "S38",
}


def test_recommended() -> None:
    expected = {(p, r, STRENGTH.get(r, "do"), STATEMENTS[r]) for p, names in RECOMMENDED.items() for r in names}
    found = pick("recommended", "patient", "recommendation", "strengthLabel", "statements")
    assert set(found) == expected
    assert len(found) == len(expected)


def test_recommended_comes_in_the_order_of_the_guideline() -> None:
    found = pick("recommended", "patient", "stepPosition", "rank")
    assert found == sorted(found)
    order = [r for (r,) in pick("recommended", "recommendation", patient="P22")]
    assert order[:4] == ["MeasureIonisedCalcium", "MeasureSerumPotassium", "MeasureSerumPhosphate", "AdjustDialysateMagnesium"]
    steps = [s for (s,) in pick("recommended", "stepLabel", patient="P15")]
    assert list(dict.fromkeys(steps)) == ["Drugs", "Monitoring"]


def test_satisfied() -> None:
    everything = {
        "P01": TESTS,
        "P05": ("MeasureIonisedCalcium", "MeasureSerumPotassium"),
        "P12": TESTS,
        "P15": (*TESTS, "ReduceUltrafiltrationRate", "RaiseDialysateSodium", "ProfileDialysateSodium", "CoolDialysate"),
        "P20": ("MeasurePlasmaAluminium",),
        "P22": ("MeasureSerumMagnesium",),
    }
    assert sorted(pick("satisfied", "patient", "recommendation")) == sorted(
        (p, r) for p, names in everything.items() for r in names
    )


def test_blocked() -> None:
    blocked = {"P01": (*CORRECTIONS, *DRUGS), "P05": (*CORRECTIONS, *DRUGS), "P12": DRUGS, "P20": DRUGS, "P22": DRUGS}
    found = set(pick("blocked", "patient", "recommendation"))
    assert found == {(p, r) for p, names in blocked.items() for r in names}


def test_blocked_says_what_opens_the_gate() -> None:
    gate = pick("blocked", "patient", "recommendation", "stateIs", "opener", state="MagnesiumAdequate")
    assert sorted(gate) == sorted(
        [("P01", r, "not met", "AdjustDialysateMagnesium") for r in CORRECTIONS]
        + [("P05", r, "unknown", "MeasureSerumMagnesium") for r in CORRECTIONS]
    )
    assert pick("blocked", "state", "stateIs", "opener", patient="P12", recommendation="StartBaclofen") == [
        ("PersistentMuscleSymptoms", "not met", "ClinicalRecord")
    ]
    electrolytes = pick(
        "blocked", "opener", "stateIs", patient="P20", recommendation="GiveVitaminE", state="ElectrolytesCorrected"
    )
    assert {
        ("MeasureSerumMagnesium", "unknown"),
        ("MeasureIonisedCalcium", "unknown"),
        ("MeasureSerumPotassium", "unknown"),
    } == set(electrolytes)


def test_undetermined() -> None:
    needs = {
        "CorrectHypocalcaemia": "IonisedCalcium",
        "AdjustDialysateCalcium": "IonisedCalcium",
        "CorrectHypokalaemia": "SerumPotassium",
        "AdjustDialysatePotassium": "SerumPotassium",
    }
    expected = [("P05", "AdjustDialysateMagnesium", "SerumMagnesium"), ("P20", "AdjustDialysateMagnesium", "SerumMagnesium")]
    expected += [("P15", "IsolatedUltrafiltration", need) for need in ("DryWeight", "InterdialyticWeightGain")]
    expected += [(p, r, need) for p in ("P20", "P22") for r, need in needs.items()]
    assert sorted(pick("undetermined", "patient", "recommendation", "need")) == sorted(expected)


STANDING = "NoIntravenousMagnesiumDuringDialysis"


def test_contraindicated() -> None:
    expected = [(p, STANDING, "IntravenousMagnesium", False, None) for p in ("P01", "P05", "P12", "P15", "P20")]
    expected += [("P22", STANDING, "IntravenousMagnesium", True, "Intravenous magnesium order")]
    for p in ("P01", "P05"):
        expected += [
            (p, "NoCalciumBeforeMagnesium", "GiveCalcium", False, None),
            (p, "NoPotassiumBeforeMagnesium", "GivePotassium", False, None),
        ]
    found = pick("contraindicated", "patient", "prohibition", "action", "hardStop", "orderLabel")
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_a_recommendation_that_is_contraindicated() -> None:
    found = {(r["prohibition"], r["contraindicated"]) for r in answer("contraindicated") if r["patient"] == "P15b"}
    assert {("NoBaclofenAboveCeiling", "IncreaseBaclofen"), ("NoAbruptBaclofenStop", None), (STANDING, None)} == found


def test_hard_stops() -> None:
    columns = ("patient", "prohibition", "orderClass", "criterion", "statements")
    assert [tuple(row[c] for c in columns) for row in answer("hard-stops")] == [
        ("P16", "NoAbruptBaclofenStop", "StopBaclofenOrder", "ProlongedBaclofenUse", "S39 S41"),
        ("P22", STANDING, "IntravenousMagnesiumOrder", "HaemodialysisSessionRunning", "S16 S18 S19"),
    ]


def test_a_hard_stop_that_could_kill_is_a_conflict() -> None:
    torsades = [r for r in answer("contraindicated") if r["overridable"]]
    assert [(r["prohibition"], r["hardStop"]) for r in torsades] == [(STANDING, False)]
    patient = torsades[0]["patient"]
    conflicts = [(r["identifier"], r["severityLabel"], r["target"]) for r in answer("conflicts") if r["overridable"]]
    assert conflicts == [("SO-05", "critical", STANDING)]
    assert [r["verdict"] for r in answer("patients-on-order") if r["patient"] == patient] == ["conflict"]


def test_emergencies() -> None:
    assert pick("emergencies", "patient", "assessment", "statements", stateLabel="holds") == [
        ("P20", "AcuteAluminiumNeurotoxicitySuspected", "S81 S82 S83")
    ]


def test_assessments() -> None:
    assert pick("assessments", "patient", "assessment", "emergency", stateLabel="holds") == [
        ("P01", "ArrhythmiaRisk", False),
        ("P05", "ArrhythmiaRisk", False),
        ("P12", "CrampRiskFactor", False),
        ("P20", "AcuteAluminiumNeurotoxicitySuspected", True),
        ("P20", "AluminiumAboveStatedRange", False),
        ("P22", "ArrhythmiaRisk", False),
    ]
    assert ("P20", "ArrhythmiaRisk") in pick("assessments", "patient", "assessment", stateLabel="possible")


def test_possible_names_what_is_needed() -> None:
    found = pick("possible", "rule", "need", patient="P20", kindLabel="Prohibition")
    assert set(found) == {
        ("NoCalciumBeforeMagnesium", "IonisedCalcium"),
        ("NoPotassiumBeforeMagnesium", "SerumPotassium"),
    }


def test_conflicts() -> None:
    found = set(pick("conflicts", "patient", "identifier", "target"))
    sodium = {(p, "SO-07", t) for p in ("P12", "P15") for t in ("RaiseDialysateSodium", "ProfileDialysateSodium")}
    assert sodium | {("P15", "SO-01", "StartBaclofen"), ("P24", "SO-20", "QuinineOrder")} <= found
    assert [row[1:] for row in found if row[0] == "P24"] == [("SO-20", "QuinineOrder")]
    for severity, sources in pick("conflicts", "severityLabel", "sources"):
        assert severity in ("critical", "contraindicated", "avoid")
        assert sources


def test_cautions() -> None:
    holds = set(pick("cautions", "patient", "identifier", "target", stateLabel="holds"))
    assert {(p, "SO-22", "ArrhythmiaRisk") for p in ("P01", "P05", "P22")} <= holds
    assert {
        ("P12", "SO-09", "CoolDialysate"),
        ("P12", "SO-10", "ReduceUltrafiltrationRate"),
        ("P12", "SO-10", "IsolatedUltrafiltration"),
    } <= holds
    assert {"SO-05", "SO-14", "SO-15"} <= {i for p, i, _ in holds if p == "P20"}


def test_patient_summary() -> None:
    columns = ("inScope", "emergencies", "hardStops", "recommended", "contraindicated", "blocked", "undetermined", "satisfied")
    assert pick("patient-summary", "patient", *columns) == [
        ("P01", True, 0, 0, 3, 0, 7, 0, 4),
        ("P05", True, 0, 0, 4, 0, 7, 1, 2),
        ("P12", True, 0, 0, 10, 0, 3, 0, 4),
        ("P15", True, 0, 0, 10, 0, 0, 1, 8),
        ("P20", True, 1, 0, 6, 0, 3, 5, 1),
        ("P22", True, 0, 1, 6, 0, 3, 4, 1),
        ("P24", False, 0, 0, 0, 0, 0, 0, 0),
    ]
    assert {t.isoformat() for (t,) in pick("patient-summary", "asOf")} == {"2026-02-10T12:00:00+00:00"}


@pytest.mark.parametrize("status", ["recommended", "blocked", "undetermined", "satisfied"])
def test_counts_and_answers_agree_with_the_lists(status: str) -> None:
    listed = {(r["patient"], r["recommendation"]) for r in answer(status)}
    assert {(r["patient"], r["rule"]) for r in answer("answers") if r["statusLabel"] == status} == listed
    counted = {r["recommendation"]: r["patients"] for r in answer("counts") if r["statusLabel"] == status}
    assert counted == {name: sum(r == name for _, r in listed) for name in {r for _, r in listed}}


def test_missing() -> None:
    assert pick("missing", "rule", "statusLabel", patient="P05", lacking="SerumPhosphate") == [
        ("MeasureSerumPhosphate", "recommended")
    ]
    magnesium = pick("missing", "rule", "statusLabel", patient="P05", lacking="SerumMagnesium")
    assert {("AdjustDialysateMagnesium", "undetermined"), ("MeasureSerumMagnesium", "recommended")} <= set(magnesium)
    assert {(r, "blocked") for r in CORRECTIONS} <= set(magnesium)
    assert not pick("missing", "rule", patient="P01", lacking="SerumMagnesium")


def test_not_used() -> None:
    (row,) = [r for r in answer("not-used") if r["patient"] == "P15"]
    assert (row["factLabel"], Decimal(row["value"]), row["unit"], row["reasonLabel"]) == (
        "Serum magnesium",
        Decimal("1.3"),
        "mg/dL",
        "too old",
    )


def test_not_used_shows_what_validation_set_aside() -> None:
    text = (PATIENTS / "P01.ttl").read_text(encoding="utf-8").replace("cg:value 1.4 ;", "cg:value 17 ;")
    broken = load().store(text.encode(), as_of=AS_OF, format="turtle")
    found: Any = broken.query(TEXTS["not-used"])
    assert [(r["factLabel"].value, r["value"].value, r["reason"].value) for r in found] == [
        ("Serum magnesium", "17", CG + "SetAside")
    ]


def test_because() -> None:
    risk = pick("because", "factLabel", "value", "unit", patient="P05", rule="ArrhythmiaRisk")
    assert {("Ionised calcium", "0.98", "mmol/L"), ("Serum potassium", "3.0", "mmol/L")} <= set(risk)
    gain = pick("because", "factLabel", "value", "unit", patient="P12", rule="IsolatedUltrafiltration")
    assert any(
        label == "Relative interdialytic weight gain" and unit == "%" and round(v, 2) == Decimal("6.14")
        for label, v, unit in gain
        if unit == "%"
    )


def test_results() -> None:
    assert pick("results", "observable", "value", "canonicalUnit", "computed", patient="P22") == [
        ("QTcInterval", "440", "ms", False),
        ("SerumMagnesium", "1.3", "mmol/L", False),
    ]
    assert pick("results", "observable", patient="P12", computed=True) == [("RelativeInterdialyticWeightGain",)]


def test_patient_parameters() -> None:
    drugs = pick("patient-parameters", "recommendation", "parameterLabel", "sign", "number", "unit", patient="P15", missing=False)
    numbers = {(r, n, u) for r, _, _, n, u in drugs}
    assert {("StartBaclofen", 10, "mg/d"), ("GiveMidodrine", 30, "min"), ("GiveVitaminE", 400, "[iU]/d")} <= numbers
    assert "GiveMidodrine" in [r for (r,) in pick("patient-parameters", "recommendation", patient="P15", missing=True)]
    assert ("RaiseDialysateSodium", ">=", 148, "mmol/L") in pick(
        "patient-parameters", "recommendation", "sign", "number", "unit", patient="P12"
    )


def test_patients_lacking() -> None:
    assert pick("patients-lacking", "patient", "onRecord", "needed", observable="SerumMagnesium") == [
        ("P05", False, True),
        ("P20", False, True),
    ]


def test_patients_on_order() -> None:
    assert pick("patients-on-order", "patient", "orderClass", "verdict", "prohibition") == [
        ("P22", "IntravenousMagnesiumOrder", "hard stop", STANDING),
        ("P24", "QuinineOrder", None, None),
    ]


def test_out_of_scope() -> None:
    assert pick("out-of-scope", "patient", "cautions") == [("P24", 1)]


# --- The rows of the knowledge ------------------------------------------------------------------


def test_every_statement_is_there_and_has_a_place() -> None:
    numbers = [f"S{n:02}" for n in range(1, 85) if n != 5]
    assert pick("statements", "identifier") == sorted((i,) for i in (*numbers, "S05a", "S05b"))
    assert not [i for i, place in pick("statement-places", "identifier", "place") if place is None]
    assert {row["section"] for row in answer("statements")} - {None}
    assert all(row["references"] and row["types"] for row in answer("statements"))


def test_rules_citing_statement() -> None:
    assert pick("rules-citing-statement", "link", "rule", identifier="S23") == [
        ("cites", "CorrectHypokalaemia"),
        ("concerns", "SO-18"),
    ]
    for rule, cited in STATEMENTS.items():
        assert [i for (i,) in pick("rules-citing-statement", "identifier", link="cites", rule=rule)] == cited.split()


def test_references() -> None:
    assert pick("references", "identifier", "listed") == [(f"R{n}", n not in (5, 8)) for n in range(1, 9)]


def test_thresholds_and_who_owns_them() -> None:
    found = pick("thresholds", "module", "threshold", "sign", "limit", "policy")
    assert ("guideline", "MagnesiumTargetMassRange", ">=", Decimal("1.7"), None) in found
    assert ("guideline", "RaisedDialysateSodiumRange", ">=", 148, None) in found
    assert ("local-policy", "LowIonisedCalciumRange", "<", Decimal("1.12"), "LR-03") in found
    assert ("safety", "NeurotoxicBaclofenDoseRange", ">=", 20, None) in found
    assert {m for m, *_ in found} == {"guideline", "local-policy", "safety"}


def test_parameters_and_missing_parameters() -> None:
    numbers = pick("parameters", "recommendation", "sign", "number", "unit")
    assert {("StartBaclofen", "=", 10, "mg/d"), ("GiveMidodrine", "=", 30, "min"), ("GiveVitaminE", "=", 400, "[iU]/d")} <= set(
        numbers
    )
    assert ("MeasureSerumMagnesium", ">=", Decimal("0.70"), "mmol/L") in numbers
    lacking = {r for (r,) in pick("missing-parameters", "recommendation")}
    assert {"GiveHypertonicSaline", "GiveMidodrine", "GiveOxygen", "TaperBaclofen", "AdjustDialysateMagnesium"} <= lacking
    assert len(pick("missing-parameters", "parameter", recommendation="GiveHypertonicSaline")) == 2


def test_prerequisites() -> None:
    assert set(pick("prerequisites", "waitsFor", "state", "how", "opener", recommendation="CorrectHypokalaemia")) == {
        ("presence of", "MagnesiumAdequate", "achieves it", "AdjustDialysateMagnesium"),
        ("presence of", "MagnesiumAdequate", "measures it", "MeasureSerumMagnesium"),
    }
    assert ("absence of", "BaclofenAdverseEffectState") in pick(
        "prerequisites", "waitsFor", "state", recommendation="IncreaseBaclofen"
    )


def test_codes_both_ways() -> None:
    loinc = pick("codes", "code", "expectsUnit", "verified", concept="SerumMagnesium", system="loinc.org")
    assert ("19123-9", "mg/dL", True) in loinc
    assert pick("find-by-code", "concept", "kind", "property", "statedOn", code="19123-9") == [
        ("SerumMagnesium", "Observation", "hasObservation", "Patient")
    ]
    assert all(isinstance(row["verified"], bool) for row in answer("codes"))


def test_units_and_currency() -> None:
    units = pick("units", "unit", "factor", "canonicalUnit", "plausibleMaximum", concept="SerumMagnesium")
    assert sorted(units) == [
        ("meq/L", Decimal("0.5"), "mmol/L", 5),
        ("mg/dL", Decimal("0.41135"), "mmol/L", 5),
        ("mmol/L", 1, "mmol/L", 5),
    ]
    assert pick("currency", "currencyHours", "outlivesSessions", "settlesHours", observable="SerumMagnesium") == [(24, False, 6)]
    assert pick("currency", "currencyHours", "outlivesSessions", observable="PlasmaAluminium") == [(90 * 24, True)]


@pytest.mark.parametrize(
    ("name", "letters", "count"), [("open-questions", "Q", 26), ("interpretations", "I-", 19), ("local-policies", "LR-", 24)]
)
def test_numbered_lists_are_whole(name: str, letters: str, count: int) -> None:
    assert pick(name, "identifier") == [(f"{letters}{n:02}",) for n in range(1, count + 1)]
    assert all(row["text"] for row in answer(name))


def test_modules() -> None:
    modules = {row["module"]: row["version"] for row in answer("modules")}
    assert set(modules) == {"cg", "dialysis", "vocabulary", "guideline", "local-policy", "safety"}
    assert all(modules.values())


def test_criteria() -> None:
    assert {r for (r,) in pick("criteria", "refersTo", criterion="MagnesiumAdequate")} == {
        "SerumMagnesium",
        "MagnesiumResultAtTarget",
    }
    (uses,) = set(pick("criteria", "rules", criterion="MagnesiumAdequate"))
    assert uses[0] == 6, "four corrections wait for it and two prohibitions are lifted by it"


def test_forbidden_orders() -> None:
    found = pick("forbidden-orders", "orderClass", "prohibition", "forbidden", "hardStopWhen")
    assert ("IntravenousMagnesiumOrder", STANDING, "always", "HaemodialysisSessionRunning") in found
    assert ("StopBaclofenOrder", "NoAbruptBaclofenStop", "while the criterion is met", "ProlongedBaclofenUse") in found


def test_overlay() -> None:
    identifiers = {i for (i,) in pick("overlay", "identifier")}
    assert {f"SO-{n:02}" for n in range(1, 23)} | {"SO-27", "SO-28"} == identifiers
    assert {"Baclofen", "StartBaclofen", "IncreaseBaclofen"} <= {t for (t,) in pick("overlay", "target", identifier="SO-01")}
    assert all(row["sources"] for row in answer("overlay"))


def test_concepts_rules_and_assumptions() -> None:
    assert ("Finding", "Myoclonus", "Jerk") in pick("concepts", "kind", "concept", "above")
    kinds = [k for (k,) in pick("rules", "kindLabel")]
    assert list(dict.fromkeys(kinds)) == ["Recommendation", "Prohibition", "Caution", "Assessment"]
    assert kinds.count("Recommendation") == 31
    assert kinds.count("Prohibition") == 6
    assert len(answer("assumptions")) == 3


# --- kbtool query -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbtool.cli.load", load)


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["query", *arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: str) -> str:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("kbtool: ")
    assert "Traceback" not in err
    assert len(err) < 600
    return err


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str | bytes], str]:
    """Writes a query into a file."""

    def write(text: str | bytes) -> str:
        path = tmp_path / "own.rq"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


P22 = (str(PATIENTS / "P22.ttl"), "--as-of", AS_OF)


def test_without_a_name_the_queries_are_listed() -> None:
    code, out, _ = run()
    assert code == 0
    for name in NAMES:
        assert re.search(rf"(?m)^  {name} +{re.escape(ask.header(TEXTS[name])['summary'])}$", out)
    assert out.index("About the knowledge") < out.index("  thresholds") < out.index("About patients") < out.index("  recommended")


def test_named_query_as_a_table() -> None:
    code, out, err = run("hard-stops", *P22)
    assert (code, err) == (0, "")
    assert "dk:NoIntravenousMagnesiumDuringDialysis" in out
    assert out.endswith("(1 row)\n")
    assert out.splitlines()[0].split()[0] == "patient"


def test_formats() -> None:
    _, table, _ = run("recommended", *P22)
    _, csv, _ = run("recommended", *P22, "--format", "csv")
    _, as_json, _ = run("recommended", *P22, "-f", "json")
    _, tsv, _ = run("recommended", *P22, "-f", "tsv")
    _, xml, _ = run("recommended", *P22, "-f", "xml")
    found = json.loads(as_json)
    assert found["head"]["vars"] == selected("recommended") == csv.splitlines()[0].split(",")
    names = [b["recommendation"]["value"].removeprefix(DK) for b in found["results"]["bindings"]]
    assert set(names) == set(RECOMMENDED["P22"])
    assert [line.split(",")[4].removeprefix(DK) for line in csv.splitlines()[1:]] == names
    assert re.findall(r"dk:(\w+)", table) == names
    assert len(tsv.splitlines()) == len(names) + 1
    assert xml.count("<result>") == len(names)


def test_facts_from_standard_input() -> None:
    text = (PATIENTS / "P24.ttl").read_text(encoding="utf-8")
    code, out, _ = run("out-of-scope", "-", "--as-of", AS_OF, "-f", "csv", stdin=text)
    assert code == 0
    assert "P24,1" in out


def test_own_query_with_the_prefixes_of_the_knowledge_base(own: Callable[[str | bytes], str]) -> None:
    file = own("SELECT ?step { dk:StartBaclofen cg:step ?step }")
    assert run(file)[1].splitlines()[2] == "dk:StepDrugs"
    assert run(own("ASK { dk:StartBaclofen a cg:Recommendation }"))[1] == "yes\n"
    code, out, _ = run(own("CONSTRUCT { ?a cg:about ?b } WHERE { ?a cg:about ?b }"), *P22)
    assert code == 0
    assert "cg:about dk:" in out


@pytest.mark.parametrize(
    ("name", "setting", "count"),
    [
        ("rules-citing-statement", "statement=dk:S23", 2),
        ("rules-citing-statement", "?statement=S23", 2),
        ("rules-citing-statement", f"statement=<{DK}S23>", 2),
        ("rules-citing-statement", f"statement={DK}S23", 2),
        ("rules", "kindLabel=Prohibition", 6),
        ("find-by-code", "code=19123-9", 1),
        ("find-by-code", 'code="2601-3"', 1),
        ("find-by-code", "code=38341003", 1),
        ("units", "factor=0.41135", 1),
        ("references", "listed=false", 2),
        ("prerequisites", "waitsFor=absence of", 2),
    ],
)
def test_set(name: str, setting: str, count: int) -> None:
    code, out, err = run(name, "--set", setting, "-f", "csv")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == count + 1
    assert lines[0].split(",") == selected(name)


def test_set_lists_no_row_that_has_nothing_there() -> None:
    _, out, _ = run("codes", "--set", "expectsUnit=mg/dL", "-f", "json")
    found = json.loads(out)["results"]["bindings"]
    assert found
    assert all(b["expectsUnit"]["value"] == "mg/dL" and b["code"]["type"] == "literal" for b in found)
    assert len(found) == len(pick("codes", "code", expectsUnit="mg/dL"))


def test_set_keeps_the_order_and_combines() -> None:
    code, out, _ = run("recommended", *FEW, "--as-of", AS_OF, "--set", "patient=P12", "-f", "json")
    assert code == 0
    found = [b["recommendation"]["value"].removeprefix(DK) for b in json.loads(out)["results"]["bindings"]]
    assert found == [r for (r,) in pick("recommended", "recommendation", patient="P12")]
    both = run("recommended", *FEW, "--as-of", AS_OF, "--set", "patient=P12", "--set", "stepLabel=Monitoring", "-f", "csv")[1]
    assert len(both.splitlines()) == 1 + 5


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("statement", "variable=term"),
        ("=dk:S23", "variable=term"),
        ("statement=", "variable=term"),
        ("nothing=dk:S23", "?statement"),
        ("statement=dk:S99", "no such term"),
        ("statement=S99", "no such term"),
        ("statement=xx:S23", "known prefixes"),
        ("statement=<a b>", "no such term"),
        ('statement=a" ) } #', "no such term"),
        ("statement=dk:S23 . <a:b> <a:b> <a:b>", "no such term"),
    ],
)
def test_wrong_set(setting: str, words: str) -> None:
    assert words in refused("rules-citing-statement", "--set", setting)


def test_set_needs_a_select(own: Callable[[str | bytes], str]) -> None:
    assert "no variables" in refused(own("ASK { ?s ?p ?o }"), "--set", "s=dk:S23")


def test_comments_and_prologue_do_not_mislead_set(own: Callable[[str | bytes], str]) -> None:
    text = "# prefix x: <y>\nprefix a:<http://a/x#y> #SELECT\nBASE <http://b/>\nSELECT ?s { ?s a cg:Severity } ORDER BY ?s #end"
    assert run(own(text), "--set", "s=cg:High", "-f", "csv")[1].split() == ["s", CG + "High"]


def test_unknown_name_and_format() -> None:
    assert "lists the names" in refused("no-such-query")
    assert "lists the names" in refused(str(ASK))
    assert "table, csv" in refused("modules", "--format", "yaml")
    assert "CONSTRUCT" in refused("modules", "--format", "turtle")


def test_facts_that_are_needed_and_facts_that_are_wrong(tmp_path: Path) -> None:
    assert "give their facts" in refused("recommended")
    assert "nowhere.ttl" in refused("recommended", str(tmp_path / "nowhere.ttl"))
    assert "time" in refused("recommended", str(PATIENTS / "P22.ttl"), "--as-of", "yesterday")
    empty = tmp_path / "empty.ttl"
    empty.write_text("", encoding="utf-8")
    assert "no patient" in refused("recommended", str(empty))


def test_what_was_refused_or_set_aside_is_said(tmp_path: Path) -> None:
    file = tmp_path / "facts.ttl"
    text = (PATIENTS / "P01.ttl").read_text(encoding="utf-8")
    file.write_text(text.replace("cg:value 1.4 ;", "cg:value 17 ;"), encoding="utf-8")
    _, out, err = run("recommended", str(file), "--as-of", AS_OF)
    assert "P01>: set aside: " in err
    assert "dk:MeasureSerumMagnesium" in out
    file.write_text(text.replace("a dk:MuscleSpasm", "a dk:NoSuchThing"), encoding="utf-8")
    _, out, err = run("recommended", str(file), "--as-of", AS_OF)
    assert "P01>: refused" in err
    assert out.endswith("(0 rows)\n")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("SELECT * {\n ?s ?p ?o .\n FILTER(FOO(?s) }", "line 3, column 2"),
        ("SELECT * {\n ?s foo:p ?o }", "line 2"),
        ("SELECT ?x {\n ?s ?p ?o } GROUP BY ?s", "line 2"),
        ("", "line 1, column 1"),
        ("INSERT DATA { <a:a> <a:a> <a:a> }", "line 1, column 1"),
        ("DROP ALL", "line 1, column 1"),
    ],
)
def test_bad_sparql_is_placed(own: Callable[[str | bytes], str], text: str, place: str) -> None:
    err = refused(own(text))
    assert f"own.rq: {place}" in err
    assert len(err.splitlines()) == 1


def test_an_unknown_prefix_is_named(own: Callable[[str | bytes], str]) -> None:
    assert "foo" in refused(own("SELECT * { ?s foo:p ?o }"))


CALL = "SERVICE <http://127.0.0.1:9/> { ?s ?p ?o }"


@pytest.mark.parametrize(
    "text",
    [
        f"SELECT * {{ {CALL} }}",
        f"SELECT * {{ {CALL.lower()} }}",
        f"SELECT * {{ {CALL.replace('SERVICE', 'SERVICE SILENT')} }}",
        f"SELECT * {{ {CALL.replace('S', chr(92) + 'u0053', 1)} }}",
        f"SELECT * {{ {CALL.replace('E', chr(92) + 'U00000045', 1)} }}",
        f"SELECT * {{ {CALL.replace('S', chr(92) + 'u005Cu0053', 1)} }}",
        f"SELECT * {{ ?s ?p ?o #\\u000D {CALL}\n}}",
        f"SELECT * {{ ?s ?p ?o #\r {CALL}\n}}",
        "SELECT * { # SERVICE\n SERVICE # \n <http://127.0.0.1:9/> { ?s ?p ?o } }",
        f"SELECT * {{ {{ SELECT ?s {{ OPTIONAL {{ {CALL} }} }} }} }}",
        f"SELECT * {{ {{ ?a ?b ?c }} UNION {{ ?a ?b ?c MINUS {{ {CALL} }} }} }}",
        f"SELECT * {{ ?s ?p ?o FILTER NOT EXISTS {{ {CALL} }} }}",
        f"SELECT * {{ ?s ?p ?o BIND(EXISTS {{ {CALL} }} AS ?x) }}",
        f"SELECT (EXISTS {{ {CALL} }} AS ?x) {{ }}",
        f"SELECT * {{ ?s ?p ?o }} ORDER BY (EXISTS {{ {CALL} }})",
        f"SELECT ?s {{ ?s ?p ?o }} GROUP BY ?s HAVING (EXISTS {{ {CALL} }})",
        f"ASK {{ GRAPH ?g {{ {CALL} }} }}",
        f"CONSTRUCT {{ ?s ?p ?o }} WHERE {{ {CALL} }}",
        f"DESCRIBE ?s {{ {CALL} }}",
        "SELECT * { VALUES ?x { <http://127.0.0.1:9/> } SERVICE ?x { ?s ?p ?o } }",
    ],
)
def test_service_is_refused_in_any_spelling(own: Callable[[str | bytes], str], text: str) -> None:
    err = refused(own(text))
    assert "SERVICE" in err or "escape" in err


def test_service_is_refused_before_anything_is_called(own: Callable[[str | bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object, **__: object) -> None:
        raise AssertionError("the query was run")

    monkeypatch.setattr(kbtool.KnowledgeBase, "store", no)
    refused(own(f"SELECT * {{ {CALL} }}"))


def test_a_string_that_looks_like_service_is_no_service(own: Callable[[str | bytes], str]) -> None:
    assert run(own('SELECT ?x { BIND("SERVICE <http://a/> { ?s ?p ?o }" AS ?x) } # SERVICE <http://a/> {}'))[0] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SELECT * FROM <http://127.0.0.1:9/> { ?s ?p ?o }", "FROM"),
        ("SELECT * FROM NAMED <file:///etc/passwd> { GRAPH ?g { ?s ?p ?o } }", "FROM"),
        ("ASK " + "{" * 2000 + "}" * 2000, "nested too deeply"),
        (b"\xff\xfe\x00", "UTF-8"),
        ('SELECT * { ?s ?p "\\uD800" }', "escape"),
        ('SELECT * { ?s ?p "\\U00FFFFFF" }', "escape"),
    ],
)
def test_other_queries_that_are_refused(own: Callable[[str | bytes], str], text: str | bytes, words: str) -> None:
    assert words in refused(own(text))
