"""What the benchmark compares kbtool with must say the same as kbtool, or its figures mean nothing.

The CQL engine is a package of npm. KBTOOL_NODE_MODULES names the folder in which it is kept (`.ci/run` fills one); without it
the tests of CQL are skipped, except where CI=true.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyoxigraph as ox
import pytest
from cohort import cohort, n_triples
from generate import AS_OF, generate
from golden import cases

import kbtool
from kbtool import engine
from kbtool.facts import Facts, PatientFacts, Reader
from kbtool.fhir.read import read as read_fhir
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from peers import cql, fhir, javascript, rdf
from peers.answers import NOTHING, Answers, Names, certain_only, compare, of_graph, of_json, of_store

FOLDER = Path(__file__).parent
LATER = "2026-02-19T12:00:00Z"


def generated(kb: kbtool.KnowledgeBase, number: int) -> list[PatientFacts]:
    reader = Reader("generated-")  # they come together with golden patients, whose blank nodes are numbered too
    for text in generate(kb.knowledge, 20260214, number):
        reader.add("<generated>", text.encode(), ox.RdfFormat.TURTLE)
    return [record for group in reader.facts(kb.knowledge.graph).groups for record in group]


def accepted(kb: kbtool.KnowledgeBase, records: list[PatientFacts]) -> list[PatientFacts]:
    """Patients of whom validation takes nothing away."""
    store = engine.load_store(kb.knowledge, records, engine.parse_as_of(AS_OF))
    checked = engine.check(store, kb.knowledge, records)
    return [r for r in records if str(r.patient) not in checked.refused.keys() | checked.set_aside.keys()]


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


@pytest.fixture(scope="module")
def records(kb: kbtool.KnowledgeBase) -> list[PatientFacts]:
    golden = [case.group for case in cases().values() if case.as_of == AS_OF]
    return accepted(kb, [*(record for group in golden[::4] for record in group), *generated(kb, 40)])


def reference(knowledge: Knowledge, records: list[PatientFacts], as_of: str = AS_OF) -> Answers:
    return of_store(rdf.by_oxigraph(knowledge, rdf.triples(knowledge, records, engine.parse_as_of(as_of))), knowledge)


def everything(knowledge: Knowledge) -> frozenset[str]:
    names = Names.of(knowledge)
    return names.criteria | names.rules


# --- The comparison itself --------------------------------------------------------------------------


def test_every_kind_of_difference_is_noticed() -> None:
    one = {"p": {"A": "certain", "B": "unknown", "C": "blocked"}, "q": {}}
    other = {"p": {"A": "unknown", "C": "blocked", "D": "holds"}, "q": {}}
    found = compare(one, other, "ABCDE")
    assert found.differences == [("p", "A", "certain", "unknown"), ("p", "B", "unknown", NOTHING), ("p", "D", NOTHING, "holds")]
    assert found.same == {"blocked": 1, NOTHING: 6}
    assert found.cells == 10
    assert compare(one, {"q": {}}, "ABCDE").cells == 5
    with pytest.raises(ValueError, match="unknown patients: r"):
        compare(one, {"r": {}}, "A")


# --- RDF --------------------------------------------------------------------------------------------


def test_kbtool_says_what_its_exported_updates_derive(kb: kbtool.KnowledgeBase, records: list[PatientFacts]) -> None:
    facts = Facts([[record] for record in records], [])
    given = {r.patient: of_json(r.to_json()) for r in engine.assess(kb.knowledge, facts, engine.parse_as_of(AS_OF))}
    found = compare(reference(kb.knowledge, records), given, Names.of(kb.knowledge).rules)
    assert found.differences == []
    assert found.patients == len(records) > 130
    assert {"blocked", "holds", "possible", "recommended", "satisfied", "undetermined"} <= found.same.keys()


def test_every_insert_becomes_a_rule(kb: kbtool.KnowledgeBase) -> None:
    texts = [part.text for step in kb.knowledge.steps for part in step.parts]
    assert len(rdf.constructs(kb.knowledge)) == sum(line.startswith("INSERT") for text in texts for line in text.splitlines())


def test_pyshacl_agrees(kb: kbtool.KnowledgeBase, records: list[PatientFacts]) -> None:
    data = rdf.triples(kb.knowledge, records[:1], engine.parse_as_of(AS_OF))
    found = compare(
        reference(kb.knowledge, records[:1]),
        of_graph(rdf.by_pyshacl(rdf.shacl_rules(kb.knowledge), data), kb.knowledge),
        everything(kb.knowledge),
    )
    assert found.differences == []
    assert found.same.total() - found.same[NOTHING] > 10


def test_hermit_agrees(kb: kbtool.KnowledgeBase, records: list[PatientFacts]) -> None:
    store = rdf.by_oxigraph(kb.knowledge, rdf.triples(kb.knowledge, records[:2], engine.parse_as_of(AS_OF)))
    found = compare(
        certain_only(of_store(store, kb.knowledge)), rdf.by_hermit(kb.knowledge, store), Names.of(kb.knowledge).criteria
    )
    assert found.differences == []
    assert found.same["certain"] > 2


# --- FHIR -------------------------------------------------------------------------------------------


def test_the_bundles_say_what_the_facts_say(kb: kbtool.KnowledgeBase) -> None:
    """For likely patients: in FHIR a treatment that began in the last days is read as a session of it."""
    text = "".join(n_triples(made) for made in cohort(80, seed=3, broken=0.0))
    records = [record for group in kb.read(text.encode(), format="n-triples").groups for record in group]
    facts = read_fhir(fhir.ndjson(kb.knowledge, records), kb.knowledge).facts()
    given = {r.patient: of_json(r.to_json()) for r in engine.assess(kb.knowledge, facts, engine.parse_as_of(AS_OF))}
    found = compare(reference(kb.knowledge, records), given, Names.of(kb.knowledge).rules)
    assert found.differences == []
    assert found.patients == len(records)


# --- CQL --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept, ci = os.environ.get("KBTOOL_NODE_MODULES"), os.environ.get("CI") == "true"
    if not kept and not ci:
        pytest.skip("KBTOOL_NODE_MODULES names no folder with the CQL engine; .ci/run makes one")
    return javascript.install(Path(kept) if kept else tmp_path_factory.mktemp("npm"))


@pytest.fixture(scope="module")
def translated(kb: kbtool.KnowledgeBase, modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cql")
    javascript.translate(modules, cql.compile(kb.knowledge), folder)
    return folder


def test_cql_agrees(kb: kbtool.KnowledgeBase, records: list[PatientFacts], modules: Path, translated: Path) -> None:
    records = [r for r in records if not any(quad.predicate == CG["mayHave"] for quad in r.triples)]  # no bundle says that
    bundles = fhir.ndjson(kb.knowledge, records)
    expected, names = reference(kb.knowledge, records), everything(kb.knowledge)
    found = compare(expected, javascript.run(modules, translated, bundles, AS_OF).answers, names)
    assert found.differences == []
    assert found.patients == len(records)
    statuses = {"blocked", "contraindicated", "holds", "possible", "recommended", "satisfied", "undetermined"}
    assert {"certain", "unknown", NOTHING} | statuses == found.same.keys()
    later = javascript.run(modules, translated, bundles, LATER).answers
    assert compare(reference(kb.knowledge, records, LATER), later, names).differences == []
    assert len(compare(expected, later, names).differences) > 500, "nine days later much of it is out of date"


def test_cql_of_another_guideline_agrees(modules: Path, tmp_path: Path) -> None:
    kb = kbtool.load(FOLDER / "second_guideline" / "root.ttl")
    records = accepted(kb, generated(kb, 60))
    javascript.translate(modules, cql.compile(kb.knowledge), tmp_path)
    given = javascript.run(modules, tmp_path, fhir.ndjson(kb.knowledge, records), AS_OF).answers
    found = compare(reference(kb.knowledge, records), given, everything(kb.knowledge))
    assert found.differences == []
    assert found.same.total() - found.same[NOTHING] > 300


def test_broken_cql_is_refused(modules: Path, tmp_path: Path) -> None:
    broken = cql.Compiled("library Peer version '1'\n\ndefine A:\n  Nonsense\n", {})
    with pytest.raises(javascript.UnavailableError, match=r"4:3: Could not resolve identifier Nonsense"):
        javascript.translate(modules, broken, tmp_path)
