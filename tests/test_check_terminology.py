"""The checks of codes and units: silent on the knowledge base but for known notes, and each fires on a bad example.

A bad example in tests/bad_checks/terminology is added to the guideline language and to sound.ttl, which is without fault. It
says by lines `# expect: check subject part-of-message` what must be found; nothing else may be found.
"""

from __future__ import annotations

import builtins
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyoxigraph as ox
import pytest

import kbtool
from kbtool.checks import terminology as module
from kbtool.checks.model import CannotCheckError, Context, Finding
from kbtool.checks.terminology import terminology
from kbtool.checks.units import ConversionError, Substance, SubstanceError, Units
from kbtool.knowledge import HOME, Knowledge
from kbtool.namespaces import CG, RDF, SKOS, local_name

BAD = Path(__file__).parent / "bad_checks" / "terminology"
SOUND = BAD / "sound.ttl"
FILES = sorted(set(BAD.glob("*.ttl")) - {SOUND})
EXPECTED = re.compile(r"^# expect: (\w+) ([\w-]+) (.+)$", re.MULTILINE)
CHECKS = {
    "CodeSystemDescribed",
    "CodeSystemReadable",
    "CodeForm",
    "CodeCheckDigit",
    "CodeVerified",
    "CodeLabel",
    "CodeOtherClass",
    "CodeNarrower",
    "CodeWider",
    "CodeUnit",
    "UnitValid",
    "UnitDimension",
    "FactorByUnit",
    "FactorBySubstance",
    "SubstanceStated",
    "SubstanceReadable",
    "DerivedUnit",
}
NOTES = {"CodeVerified", "CodeWider"}


@cache
def real() -> Knowledge:
    return kbtool.load().knowledge


@cache
def units() -> Units:
    return Units()


@pytest.fixture(autouse=True)
def _one_unit_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the unit library takes half a second; one serves all tests."""
    monkeypatch.setattr(module, "Units", units)


def with_graph(graph: ox.Store) -> Context:
    return Context(replace(real(), graph=graph))


def parsed(file: Path) -> list[ox.Quad]:
    read = ox.parse(file.read_bytes(), ox.RdfFormat.TURTLE, rename_blank_nodes=True)
    return [ox.Quad(q.subject, q.predicate, q.object) for q in read]


def found_in(*files: Path) -> list[Finding]:
    graph = ox.Store()
    for file in (HOME / "ontology" / "model.ttl", *files):
        graph.extend(parsed(file))
    return list(terminology(with_graph(graph)))


def changed(old: Iterable[ox.Quad], new: Iterable[ox.Quad]) -> list[Finding]:
    """What is found in the knowledge base where some statements are others."""
    graph = ox.Store()
    graph.extend(real().graph)
    for quad in old:
        graph.remove(quad)
    graph.extend(new)
    return list(terminology(with_graph(graph)))


def names(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    return {(local_name(f.check), local_name(f.subject or "")) for f in findings}


# --- The knowledge base and the bad examples ------------------------------------------------------


def test_the_knowledge_base_is_sound_and_soon_checked() -> None:
    start = time.process_time()
    found = list(terminology(Context(real())))
    assert [f for f in found if local_name(f.check) not in NOTES] == []
    assert time.process_time() - start < 10  # 1 s on an idle machine


def test_the_second_guideline_is_sound() -> None:
    other = kbtool.load(Path(__file__).parent / "second_guideline" / "root.ttl").knowledge
    assert list(terminology(Context(other))) == []


def test_the_sound_example_is_sound() -> None:
    assert found_in(SOUND) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_bad_example_is_found(file: Path) -> None:
    expected = EXPECTED.findall(file.read_text(encoding="utf-8"))
    assert expected
    found = found_in(SOUND, file)
    missed = [e for e in expected if not any(matches(f, *e) for f in found)]
    surplus = [f for f in found if not any(matches(f, *e) for e in expected)]
    assert (missed, surplus) == ([], [])
    assert len(found) == len(expected)
    assert all(f.message.endswith(".") for f in found)


def matches(finding: Finding, check: str, subject: str, part: str) -> bool:
    return (local_name(finding.check), local_name(finding.subject or "")) == (check, subject) and part in finding.message


def test_each_check_has_a_bad_example() -> None:
    assert {check for file in FILES for check, _, _ in EXPECTED.findall(file.read_text(encoding="utf-8"))} == CHECKS


def test_each_check_is_described() -> None:
    described = ox.Store()
    described.load((HOME / "shapes" / "checks.ttl").read_bytes(), ox.RdfFormat.TURTLE)
    known = {q.subject for q in described.quads_for_pattern(None, RDF["type"], CG["Check"], None)}
    assert {CG[name] for name in CHECKS} <= known


# --- What is changed in the knowledge base is found -------------------------------------------------


def notations(system: str) -> list[ox.Quad]:
    wanted = {q.subject for q in real().graph.quads_for_pattern(None, CG["codeSystem"], ox.NamedNode(system), None)}
    quads = [q for q in real().graph.quads_for_pattern(None, SKOS["notation"], None, None) if q.subject in wanted]
    return sorted(quads, key=str)


def misspelt(quad: ox.Quad, place: int) -> ox.Quad:
    """A code with one digit raised by one."""
    text = quad.object.value  # type: ignore[union-attr]
    at = [n for n, character in enumerate(text) if character.isdigit()][place]
    other = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
    return ox.Quad(quad.subject, quad.predicate, ox.Literal(other))


@pytest.mark.parametrize("place", [1, 2, -1])
@pytest.mark.parametrize("system", ["http://loinc.org", "http://snomed.info/sct"])
def test_each_wrong_digit_is_found(system: str, place: int) -> None:
    old = notations(system)
    assert len(old) > 30
    found = names(changed(old, [misspelt(quad, place) for quad in old]))
    assert {local_name(q.subject.value) for q in old} <= {code for check, code in found if check == "CodeCheckDigit"}  # type: ignore[union-attr]


def test_each_wrong_factor_is_found() -> None:
    old = list(real().graph.quads_for_pattern(None, CG["factor"], None, None))
    assert len(old) > 100
    for by in (Decimal("1.002"), Decimal("0.998"), Decimal(1000)):
        new = []
        for quad in old:
            value = Decimal(quad.object.value) * by  # type: ignore[union-attr]
            new.append(ox.Quad(quad.subject, quad.predicate, ox.Literal(format(value, "f"), datatype=quad.object.datatype)))  # type: ignore[union-attr]
        found = names(changed(old, new))
        wrong = {subject for check, subject in found if check.startswith("FactorBy")}
        assert {local_name(quad.subject.value) for quad in old} == wrong  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "check"), [("substanceFormula", "SubstanceStated"), ("charge", "SubstanceStated")])
def test_each_formula_and_charge_is_needed_and_tells(name: str, check: str) -> None:
    old = list(real().graph.quads_for_pattern(None, CG[name], None, None))
    needed = {subject for found, subject in names(changed(old, [])) if found == check}
    assert len(needed) >= 9
    wrong = ox.Literal("Hg") if name == "substanceFormula" else ox.Literal(3)
    found = names(changed(old, [ox.Quad(q.subject, q.predicate, wrong) for q in old]))
    told = {subject.split("-")[0] for found_check, subject in found if found_check == "FactorBySubstance"}
    assert told == needed


@pytest.mark.parametrize("system", ["http://loinc.org", "http://snomed.info/sct", "http://human-phenotype-ontology.org"])
def test_displays_of_other_codes_are_found(system: str) -> None:
    """Each code is given the display of a code of another class: words tell."""
    owner = {q.object: q.subject for q in real().graph.quads_for_pattern(None, CG["hasCode"], None, None)}
    codes = [q.subject for q in notations(system) if q.subject in owner]
    old = {q.subject: q for q in real().graph.quads_for_pattern(None, CG["display"], None, None) if q.subject in codes}
    new, half = [], len(codes) // 2
    for number, code in enumerate(codes):
        other = next(c for c in codes[number + half :] + codes if owner[c] != owner[code])
        new.append(ox.Quad(code, CG["display"], old[other].object))
    found = {code for check, code in names(changed(old.values(), new)) if check in ("CodeLabel", "CodeOtherClass")}
    assert {local_name(code.value) for code in codes} == found  # type: ignore[union-attr]


# --- Units ----------------------------------------------------------------------------------------

VALID = "% /min Cel [degF] [iU]/d mm[Hg] mL/min/{1.73_m2} {beats}/min meq/L mL/(24.h) kg/m2 10*9/L [pH] {score} 1 ug/L a mo"
NOT_VALID = ["", "mEq/L", "mcg", "mmHg", "µg/L", "mg / dL", " mg", "mg/dl}", "hr", "IU", "cc", "°C", "mg/DL", "L/Min"]
NOT_VALID += ["kg{dry weight}", "mg/dL\n", "[deg F]", "%%"]


@pytest.mark.parametrize("unit", VALID.split())
def test_valid_units_are_accepted(unit: str) -> None:
    assert units().fault(unit) is None


@pytest.mark.parametrize("unit", NOT_VALID)
def test_what_is_no_unit_is_refused(unit: str) -> None:
    assert units().fault(unit)


@pytest.mark.parametrize(
    ("unit", "into", "substance", "factor", "offset"),
    [
        ("mg/L", "ug/L", None, 1000, 0),
        ("mmol/L", "umol/L", None, 1000, 0),
        ("[degF]", "Cel", None, 5 / 9, -32),
        ("Cel", "[degF]", None, 9 / 5, 160 / 9),
        ("meq/L", "mmol/L", Substance(None, 2), 0.5, 0),
        ("mmol/L", "meq/L", Substance(None, 2), 2, 0),
        ("mg/dL", "mmol/L", Substance(40.0), 0.25, 0),
        ("umol/L", "ug/L", Substance(40.0), 40, 0),
        ("mg/dL", "meq/L", Substance(40.0, 2), 0.5, 0),
        ("mg/d", "mmol/h", Substance(48.0), 1 / 1152, 0),
        ("m[iU]/L", "[iU]/L", None, 0.001, 0),
        ("a", "mo", None, 12, 0),
        ("{beats}/min", "/min", None, 1, 0),
        ("[pH]", "[pH]", None, 1, 0),
    ],
)
def test_conversions(unit: str, into: str, substance: Substance | None, factor: float, offset: float) -> None:
    found = units().conversion(unit, into, substance)
    assert (found.factor, found.offset) == (pytest.approx(factor), pytest.approx(offset))


@pytest.mark.parametrize(
    ("unit", "into", "error"),
    [
        ("mg/dL", "mmol/L", SubstanceError),
        ("meq/L", "mmol/L", SubstanceError),
        ("mg/dL", "mg", ConversionError),
        ("mmol/L", "mmol/kg", ConversionError),
        ("[iU]", "1", ConversionError),
        ("[iU]", "ug", ConversionError),
        ("[pH]", "1", ConversionError),
        ("nonsense", "1", ConversionError),
    ],
)
def test_no_conversions(unit: str, into: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        units().conversion(unit, into)


@pytest.mark.parametrize("name", ["ucumvert", "molmass", "stdnum"])
def test_without_a_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real_import = builtins.__import__

    def refuse(wanted: str, *args: Any, **kwargs: Any) -> Any:
        if wanted.split(".")[0] == name:
            raise ImportError(f"No module named {name!r}", name=name)
        return real_import(wanted, *args, **kwargs)

    monkeypatch.setattr(module, "Units", Units)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CannotCheckError, match=r"kbtool\[check\]"):
        list(terminology(Context(real())))
