"""On each side of every limit that a criterion tests, in every unit, and with nothing or only old results to compare.

Each patient of `thresholds.patients` is classified by the compiled rules as decimal arithmetic says, and by HermiT as by the
rules: a sample by default, all of them with `pytest -m deep tests/test_thresholds.py`, which is some ten minutes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyoxigraph as ox
import pytest
from generate import AS_OF, seeded
from test_reasoner import compare, derived
from thresholds import Patient, patients

import kbtool
from kbtool.criteria import Both, Criteria, Either, Expression, Range, Some
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, local_name

SEED = 20260212
BATCH = 12
SAMPLE = 16


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


@pytest.fixture(scope="module")
def everybody(kb: kbtool.KnowledgeBase) -> list[Patient]:
    return list(patients(kb.knowledge))


def wrong(kb: kbtool.KnowledgeBase, some: list[Patient], rules: Knowledge | None = None) -> list[str]:
    """Where the compiled rules derive something else than what must come out."""
    store = derived(kb, [patient.document.encode() for patient in some], AS_OF, rules)
    found = []
    for patient in some:
        node = ox.NamedNode(patient.iri)
        facts = [q.object for q in store.quads_for_pattern(node, CG["hasFact"], None, None)]
        for expected in patient.expected:
            subjects = [node] if expected.of_patient else facts
            criterion = ox.NamedNode(expected.criterion)
            if any(ox.Quad(s, RDF["type"], criterion) in store for s in subjects):  # type: ignore[arg-type]
                truth = "true"
            else:
                unknown = any(ox.Quad(s, CG["unknown"], criterion) in store for s in subjects)  # type: ignore[arg-type]
                truth = "unknown" if unknown else "false"
            if truth != expected.truth and not (expected.truth == "not true" and truth != "true"):
                name = local_name(expected.criterion)
                found.append(
                    f"{patient.limit}, {patient.situation}: {name} is {truth}, expected {expected.truth}\n{patient.document}"
                )
    return found


def ranges(expression: Expression) -> list[Range]:
    match expression:
        case Range():
            return [expression]
        case Some(_, filler):
            return ranges(filler)
        case Both(parts) | Either(parts):
            return [found for part in parts for found in ranges(part)]
    return []


def test_every_limit_of_every_criterion_is_tried(kb: kbtool.KnowledgeBase, everybody: list[Patient]) -> None:
    tested = {
        f"{local_name(c.iri)} {local_name(r.prop)} {facet} {number}"
        for c in Criteria.read(kb.knowledge.graph).ordered
        for r in ranges(c.expression)
        for facet, number in r.limits
    }
    assert tested == {patient.limit.split(" in ")[0] for patient in everybody}
    situations = Counter(patient.situation for patient in everybody)
    assert situations["below"] == situations["at"] == situations["above"] == situations["missing"] > 100
    assert situations["stale"] > 50
    assert len({patient.iri for patient in everybody}) == len(everybody)


def test_every_unit_of_a_tested_quantity_is_tried(kb: kbtool.KnowledgeBase, everybody: list[Patient]) -> None:
    criteria = Criteria.read(kb.knowledge.graph)
    tested = [c for c in criteria.ordered if any(local_name(r.prop) in ("value", "canonicalValue") for r in ranges(c.expression))]
    for criterion in tested:
        units = {
            kb.knowledge.value(conversion, CG["ucum"])
            for kind in criterion.refers_to
            for conversion in kb.knowledge.values(kind, CG["acceptsUnit"])
        }
        tried = {p.limit.split(" in ")[1] for p in everybody if p.limit.startswith(f"{local_name(criterion.iri)} ")}
        assert units <= tried, criterion.iri


def test_no_fact_is_refused(kb: kbtool.KnowledgeBase, everybody: list[Patient]) -> None:
    result = kb.assess(*(patient.document.encode() for patient in everybody), as_of=AS_OF, format="turtle")
    assert len(result) == len(everybody)
    assert [p.patient for p in result.values() if p.refused or p.data["setAside"]] == []


def test_each_side_of_each_limit(kb: kbtool.KnowledgeBase, everybody: list[Patient]) -> None:
    assert wrong(kb, everybody) == []


def test_each_side_of_each_limit_of_another_guideline() -> None:
    other = kbtool.load(Path(__file__).parent / "second_guideline" / "root.ttl")
    some = list(patients(other.knowledge))
    assert len(some) > 30
    assert wrong(other, some) == []


def test_reasoner_agrees_on_a_sample(kb: kbtool.KnowledgeBase, everybody: list[Patient]) -> None:
    some = seeded(SEED).sample(everybody, SAMPLE)
    assert compare(kb.knowledge, derived(kb, [p.document.encode() for p in some], AS_OF)) == []


@pytest.mark.deep
@pytest.mark.parametrize("start", range(0, 700, BATCH))
def test_reasoner_agrees_on_every_patient(kb: kbtool.KnowledgeBase, everybody: list[Patient], start: int) -> None:
    assert len(everybody) <= 700
    some = everybody[start : start + BATCH]
    if some:
        assert compare(kb.knowledge, derived(kb, [p.document.encode() for p in some], AS_OF)) == []


def altered(knowledge: Knowledge, step: str, change: Callable[[str], str]) -> Knowledge:
    """A knowledge base whose updates in some steps are changed."""
    steps = [
        replace(s, parts=tuple(replace(p, text=change(p.text), triggers=()) for p in s.parts)) if step in s.name else s
        for s in knowledge.steps
    ]
    return replace(knowledge, steps=steps)


@pytest.mark.parametrize(
    ("step", "old", "new", "situation"),
    [
        ("classify/", ">= ", "> ", "at"),
        ("classify/", "< ", "<= ", "at"),
        ("classify/", "cg:unknown <", "cg:notUnknown <", "missing"),
        ("prepare/50-current", "?hours * 3600)\n} ;", "?hours * 7200)\n} ;", "stale"),
        ("prepare/50-current", "?hours * 3600)\n} ;", "?hours * 1800)\n} ;", "oldest"),
        ("prepare/50-current", "* ?factor", "* 1", "above"),
        ("prepare/70-derived", "?a * ?factor / ?b", "?b * ?factor / ?a", "above"),
    ],
)
def test_a_defect_in_the_rules_is_noticed(
    kb: kbtool.KnowledgeBase, everybody: list[Patient], step: str, old: str, new: str, situation: str
) -> None:
    rules = altered(kb.knowledge, step, lambda text: text.replace(old, new))
    some = [patient for patient in everybody if patient.situation == situation]
    assert wrong(kb, some) == []
    assert wrong(kb, some, rules) != []
