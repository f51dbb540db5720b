"""What is said of suspected nodes alone, on the few triples that a shape can read of them, is what is said of everything.

Oxigraph is the judge: it runs the whole shapes, and everything after them, on all facts.
"""

from __future__ import annotations

import functools
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TypeAlias

import pyoxigraph as ox
import pytest
from generate import AS_OF, generate, seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_bad_input import GOOD, PREFIXES, REFUSED, SET_ASIDE, START

import kbtool
from kbtool import engine, judging, setwise
from kbtool.answer import PatientResult
from kbtool.facts import Facts
from kbtool.judging import Doubt, Reads
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG
from kbtool.rows import Row, quads_of, rows_of
from kbtool.setwise import Program
from kbtool.shapes import CompiledConstraint, Violation, _Targets, validate, violations

HERE = Path(__file__).parent
BAD = sorted((HERE / "bad").glob("*.ttl"))
FEW = {"columns": 0, "as it is": setwise.FEW, "rows": 10**9}
FIELD = "https://example.org/test-vocabulary"
RUN = str(CG["Run"])
MOMENT = engine.parse_as_of(AS_OF)
Base: TypeAlias = tuple[kbtool.KnowledgeBase, Program]


# --- Facts ------------------------------------------------------------------------------------------


@functools.cache
def dialysis() -> Base:
    """The knowledge base that comes with kbtool."""
    kb = kbtool.load()
    return kb, Program(kb.knowledge)


@functools.cache
def another_field() -> Base:
    """The vocabulary for which tests/bad is written, as a knowledge base."""
    text = (HERE / "shapes-vocabulary.ttl").read_text(encoding="utf-8")
    first, second = f"<{FIELD}> a owl:Ontology ;", f"<{FIELD}/more> a owl:Ontology ;"
    assert text.count(first) == text.count(second) == 1
    text = text.replace(first, f"{first} owl:imports <https://w3id.org/kbtool/cg> ;").replace(second, f"<{FIELD}/more>")
    with TemporaryDirectory() as folder:
        root = Path(folder) / "root.ttl"
        root.write_text(text, encoding="utf-8")
        kb = kbtool.load(root)
    return kb, Program(kb.knowledge)


@pytest.fixture
def field() -> Base:
    return another_field()


def apart(file: Path) -> bytes:
    """A file of tests/bad with nodes that no other of them has."""
    text = file.read_text(encoding="utf-8")
    assert "<http://example.org/>" in text
    return text.replace("<http://example.org/>", f"<http://example.org/{file.stem}/>").encode()


_BY_STORE = engine._by_store


@pytest.fixture(autouse=True)
def _no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of Oxigraph would agree whatever is wrong."""

    def never(*_: object) -> None:
        raise AssertionError("the batch was left to Oxigraph")

    monkeypatch.setattr(engine, "_by_store", never)


def differing(base: Base, facts: Facts, strict: bool, size: int = engine.BATCH) -> tuple[set[str], list[PatientResult]]:
    """How the set-wise engine says something else than Oxigraph, and of which patients; and what Oxigraph says."""
    (kb, program), different, said = base, set(), []
    for batch in engine.batches(facts, size):
        want = list(_BY_STORE(kb.knowledge, batch, MOMENT, strict))
        said += want
        for how, few in FEW.items():
            if how == "rows" and len(batch) <= setwise.FEW:
                continue  # as it is
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(setwise, "FEW", few)
                got = list(engine._by_columns(program, kb.knowledge, batch, MOMENT, strict))
            pairs = zip(want, got, strict=True)
            different |= {f"{how}: {one.patient}" for one, other in pairs if json.dumps(one.data) != json.dumps(other.data)}
    return different, said


# --- Violations and answers -------------------------------------------------------------------------


SILENT = [
    *("AsOfShape-none", "AsOfShape-two", "DateTimeShape-run"),  # about the as-of time, which here is a good one
    *("FactUnownedShape-untyped", "FactUnownedShape", "PatientTypeStatedShape"),  # about what belongs to no patient
]
lenient_or_strict = pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])


@lenient_or_strict
def test_each_bad_file(field: Base, strict: bool) -> None:
    wrong, silent = [], []
    for file in BAD:
        different, said = differing(field, field[0].read(file), strict)
        wrong += [file.stem] * bool(different)
        if not any(result.refused or result.data["setAside"] or result.data["warnings"] for result in said):
            silent.append(file.stem)
    assert wrong == []
    assert silent == SILENT


@pytest.mark.parametrize("size", [engine.BATCH, 7])
@lenient_or_strict
def test_all_bad_files_together(field: Base, strict: bool, size: int) -> None:
    facts = field[0].read(*map(apart, BAD), (HERE / "shapes-good.ttl").read_bytes(), format="turtle")
    different, said = differing(field, facts, strict, size)
    assert different == set()
    assert sum(1 for result in said if result.refused) > 20


STRANGE = {
    "a setting that is a finding": """ex:P1 cg:hasTreatment ex:t ; cg:hasFinding ex:f .
      ex:t a tv:OxygenTherapy ; cg:hasSetting ex:f .""",
    "a class of one's own": "ex:P1 cg:mayHave ex:Own ; cg:hasFinding [ a tv:Wheeze ; tv:cause ex:Own ] . ex:Own a owl:Class .",
    "a phase of one's own": "ex:P1 cg:hasFinding ex:f . ex:f a tv:Wheeze ; cg:phase ex:own . ex:own a cg:Phase .",
    "a state of one's own": "ex:P1 cg:hasFinding ex:f . ex:f a tv:Wheeze ; cg:state ex:own . ex:own a cg:State .",
    "a property of one's own": """ex:P1 cg:hasFinding ex:f . ex:f a tv:Wheeze ; ex:of ex:own ; ex:own "a" , "b" .
      ex:own a owl:FunctionalProperty .""",
    "a class of the field": "ex:P1 cg:hasFinding ex:f . ex:f a tv:Own ; ex:of tv:Own . tv:Own a owl:Class .",
    "times of a patient": """ex:P1 cg:start "2026-01-01T00:00:00Z"^^xsd:dateTime ; cg:value 1 ; cg:hasFinding ex:f .
      ex:f a tv:Wheeze .""",
    "classes in place of facts": """ex:j a owl:Class . ex:P1 cg:hasObservation ex:j , ex:k , tv:PeakFlow .
      ex:P1 cg:hasSession ex:k ; cg:hasTreatment ex:k .
      ex:k a owl:Class ; cg:hasSetting ex:k , tv:OxygenFlow ; cg:value 1 ; tv:no "x" .""",
    "literals in place of facts": """ex:P1 cg:hasFinding 01 , 1.50 , "x"@EN-gb , "2026-02-10T06:40:00+00:00"^^xsd:dateTime ;
      cg:hasSession 007 , 1e0 , "1.50"^^xsd:float , "-00:00" , "1"^^xsd:boolean , "x"^^xsd:integer , "café" ,
      "2026-02-10T24:00:00Z"^^xsd:dateTime ;
      cg:hasObservation 2.0 , "01"^^xsd:integer ; cg:hasMedication "a\\tb" , "a\\nb" .""",
    "texts with control characters": """ex:P1 cg:hasObservation ex:o . ex:o a tv:PeakFlow ; cg:value 400.0 ;
      cg:unit "L/min\\t" , "L/min\\n" ;
      cg:time "2026-02-10\\n"^^xsd:dateTime , "2026-02-10T06:40:00Z\\n"^^xsd:dateTime .""",
    "itself": "ex:P1 cg:hasFinding ex:P1 ; cg:hasTreatment ex:P1 ; cg:hasObservation ex:o . ex:o cg:hasSetting ex:o , ex:P1 .",
    "a time outside": """ex:P1 cg:hasObservation ex:o , ex:p . ex:o a tv:PeakFlow ; cg:value 400.0 ; cg:unit "L/min" ;
      cg:time "2026-02-10T06:40:00+14:01"^^xsd:dateTime . ex:p a tv:PeakFlow ; cg:value "007.50"^^xsd:decimal ; cg:unit "L/min" ;
      cg:time "2026-02-10T24:00:00Z"^^xsd:dateTime .""",
    "numbers at the edge": """ex:P1 cg:hasObservation ex:o , ex:p .
      ex:o a tv:PeakFlow ; cg:value 99999999999999999999999.5 ; cg:unit "L/min" ; cg:time "2026-02-10T06:40:00Z"^^xsd:dateTime .
      ex:p a tv:PeakFlow ; cg:value 0.0000000000000000001 ; cg:unit "mL/s" ; cg:time "2026-02-10T06:40:00Z"^^xsd:dateTime .""",
}


def strange_facts() -> dict[str, str]:
    """Facts that no sender should send; whatever is said of them, it is the same in every way of asking."""
    head = f"""@prefix cg: <https://w3id.org/kbtool/cg/> . @prefix ex: <http://example.org/> . @prefix tv: <{FIELD}/> .
      @prefix owl: <http://www.w3.org/2002/07/owl#> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
      ex:P1 a cg:Patient . """
    return {f"strange: {name}": head + text for name, text in STRANGE.items()}


@pytest.mark.parametrize("name", STRANGE)
@lenient_or_strict
def test_strange_facts(field: Base, name: str, strict: bool) -> None:
    facts = field[0].read(strange_facts()[f"strange: {name}"].encode(), format="turtle")
    assert len(facts) == 1
    assert differing(field, facts, strict)[0] == set()


def test_a_blank_patient_without_facts_beside_others() -> None:
    assert beside("[] a cg:Patient .", [*SET_ASIDE.values(), *REFUSED.values()]) == set()


@pytest.mark.parametrize("blank", [f"[] a cg:Patient ; {START} .", "[] a cg:Patient ; cg:hasFinding [ a cg:Fact ] ."])
def test_a_blank_patient_beside_others(blank: str) -> None:
    assert beside(blank, [*SET_ASIDE.values(), *REFUSED.values()][::3]) == set()


def beside(more: str, texts: list[tuple[str, str]]) -> set[str]:
    """How answers differ where a patient stands beside a good one and a bad one."""
    kb, _ = dialysis()
    documents = [f"{PREFIXES}{GOOD}{text}{more}\n".encode() for text, _ in texts]
    return set().union(*(differing(dialysis(), kb.read(each, format="turtle"), False)[0] for each in documents))


def bad_facts() -> list[bytes]:
    """The bad facts of the tests of the command line, each about patients of its own."""
    texts = [facts for facts, _ in (*SET_ASIDE.values(), *REFUSED.values())]
    return [(PREFIXES.replace("/patient/", f"/patient/{number}-") + GOOD + text).encode() for number, text in enumerate(texts)]


@lenient_or_strict
def test_bad_facts_of_the_guideline(strict: bool) -> None:
    base, texts = dialysis(), bad_facts()
    together = base[0].read(*texts, format="turtle")
    assert differing(base, together, strict)[0] == set()
    for text in texts[strict::2]:
        assert differing(base, base[0].read(text, format="turtle"), strict)[0] == set()


def cohort(kb: kbtool.KnowledgeBase, seed: int, n: int) -> Facts:
    """Generated patients, most with a broken fact."""
    texts = [*generate(kb.knowledge, seed, n, broken=True), *generate(kb.knowledge, seed + 1, n // 4)]
    return kb.read(*filter(valid, (text.encode() for text in texts)), format="turtle")


def valid(document: bytes) -> bool:
    try:
        return bool(list(ox.parse(document, ox.RdfFormat.TURTLE)))
    except SyntaxError:
        return False


@lenient_or_strict
def test_broken_cohort(strict: bool) -> None:
    base = dialysis()
    different, said = differing(base, cohort(base[0], 31, 24), strict, 9)
    assert different == set()
    assert any(result.refused for result in said)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(40, 60))
def test_broken_cohorts(seed: int) -> None:
    base = dialysis()
    assert differing(base, cohort(base[0], seed, 150), bool(seed % 2), seed % 40 + 1)[0] == set()


def test_answers_are_compared() -> None:
    """A judge that finds nothing is noticed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "judged", lambda *_: [])
        patch.setattr(engine, "_by_store", _BY_STORE)
        different, _ = differing(dialysis(), cohort(dialysis()[0], 31, 6), strict=False)
    assert different


# --- A shape asked of suspected nodes ---------------------------------------------------------------


@functools.cache
def cases(which: str) -> tuple[Knowledge, list[tuple[str, ox.Literal | None, list[Row]]]]:
    """Facts as rows, each with a name and the as-of time, and the knowledge that they are about."""
    if which == "guideline":
        kb, _ = dialysis()
        texts = [(f"bad {number}", text) for number, text in enumerate(bad_facts())]
        texts += [(path.stem, path.read_bytes()) for path in sorted((HERE / "patients").glob("P0*.ttl"))]
        texts += [(f"broken {n}", text.encode()) for n, text in enumerate(generate(kb.knowledge, 71, 12, broken=True))]
        facts = [(name, kb.read(text, format="turtle")) for name, text in texts if valid(text)]
        return kb.knowledge, [
            (name, MOMENT, [row for group in each.groups for record in group for row in record.rows()]) for name, each in facts
        ]
    found = []
    texts = [(file.stem, file.read_text(encoding="utf-8")) for file in (HERE / "shapes-good.ttl", *BAD)]
    for name, text in [*texts, *strange_facts().items()]:
        head = re.search(r"^# as-of: (\S+)$", text, re.MULTILINE)
        moment = MOMENT if head is None else None if head[1] == "none" else ox.Literal(head[1], datatype=MOMENT.datatype)
        found.append((name, moment, rows_of(ox.parse(text.encode(), ox.RdfFormat.TURTLE))))
    return another_field()[0].knowledge, found


def store_of(knowledge: Knowledge, moment: ox.Literal | None) -> ox.Store:
    store = ox.Store()
    store.extend(knowledge.runtime)
    if moment is not None:
        store.add(ox.Quad(CG["Run"], CG["asOf"], moment))
    return store


def doubts_of(
    store: ox.Store, found: Iterable[Violation], shapes: Sequence[CompiledConstraint], others: int = 2, *, every: bool = False
) -> list[Doubt]:
    """For each shape that is broken, or for every shape, what breaks it, and so many targets that do not."""
    broken = defaultdict(set)
    for violation in found:
        broken[violation.shape].add(str(violation.focus))
    doubts = []
    for shape in shapes:
        if every or shape.shape in broken:
            targets = {str(each["this"]) for each in store.query(shape.targets.select)}  # type: ignore[union-attr]
            mine = broken[shape.shape] & targets
            focus = sorted(mine | set(sorted(targets - mine)[:others]))
            doubts += [(shape, focus)] if focus else []
    return doubts


@pytest.mark.parametrize("which", ["bad files", "guideline"])
def test_suspected_nodes_alone(which: str) -> None:
    knowledge, documents = cases(which)
    said = 0
    for name, moment, rows in documents:
        store = store_of(knowledge, moment)
        store.extend(quads_of(rows))
        want = validate(store, knowledge.shapes)
        said += len(want)
        assert judging.judged(store_of(knowledge, moment), rows, doubts_of(store, want, knowledge.shapes)) == want, name
    assert said >= len(documents)


def test_each_shape_is_asked_of_its_nodes_alone() -> None:
    shapes = dialysis()[0].knowledge.shapes
    for each in shapes:
        query = judging._query(each, ["<urn:x:node>", '"text"'])
        assert query.count('VALUES ?this { <urn:x:node> "text" }') == 1, each.shape
        assert each.targets.select not in query
    everything = {each.shape.rpartition("/")[2] for each in shapes if judging.reads(each.query).everything()}
    assert everything == {"LinkTwiceShape"}, "only one looks at every triple"


def read_by(read: Reads) -> list[tuple[str, str | None]]:
    """Each predicate that a query can read, and in which place."""
    return [(kind, each) for kind in ("of", "to", "anywhere") for each in getattr(read, kind)]


def without(read: Reads, kind: str, predicate: str | None) -> Reads:
    """What a query can read, but for one predicate."""
    return Reads(**{each: getattr(read, each) - ({predicate} if each == kind else set()) for each in ("of", "to", "anywhere")})


def test_each_predicate_is_needed() -> None:
    """A mutation test: whatever a shape is said to read, it says something else of some facts if that is left out, or what is
    left out is still read in another way, or only the knowledge and the time, which are always read, say it."""
    killed: set[Mutant] = set()
    tried: dict[Mutant, Reads] = {}
    stated: set[str | None] = {None}
    for which in ("bad files", "guideline"):
        knowledge, documents = cases(which)
        empty = {moment: store_of(knowledge, moment) for _, moment, _ in documents}
        for name, moment, rows in documents:
            stated |= {predicate for subject, predicate, _ in rows if subject != RUN}
            store = store_of(knowledge, moment)
            store.extend(quads_of(rows))
            every = name.startswith(("P0", "shapes-good", "strange"))
            for shape, focus in doubts_of(store, validate(store, knowledge.shapes), knowledge.shapes, 99, every=every):
                focus = [node for node in focus if node[0] != "_"]  # of others the whole query is asked
                query = judging._query(shape, focus)
                if query == shape.query:
                    continue
                read = judging.reads(query)
                whole = judging._needed(rows, [(read, focus)])
                want = None
                for kind, predicate in read_by(read):
                    mutant = (f"{shape.shape.rpartition('/')[2]} {shape.component.rpartition('#')[2]}", kind, predicate)
                    tried[mutant] = read
                    if mutant in killed:
                        continue
                    less = judging._needed(rows, [(without(read, kind, predicate), focus)])
                    if len(less) < len(whole):
                        want = want if want is not None else asked(empty[moment], shape, query, whole)
                        if asked(empty[moment], shape, query, less) != want:
                            killed.add(mutant)
    survived = tried.keys() - killed
    assert {m for m in survived if m[2] in stated and not read_otherwise(m, tried[m])} == set()
    assert len(killed) >= 60


Mutant: TypeAlias = tuple[str, str, str | None]


def read_otherwise(mutant: Mutant, read: Reads) -> bool:
    """Whether all triples that would be left out are still read."""
    _, kind, predicate = mutant
    wider = [read.anywhere - ({predicate} if kind == "anywhere" else set())]
    if kind != "anywhere" and predicate is not None:
        wider.append(getattr(read, kind) - {predicate})
    return any(None in each for each in wider) or (kind != "anywhere" and predicate in read.anywhere)


def asked(store: ox.Store, shape: CompiledConstraint, query: str, rows: Collection[Row]) -> set[Violation]:
    """What a query says of rows, in a store that is left as it was."""
    fresh = [quad for quad in quads_of(rows) if quad not in store]
    store.extend(fresh)
    try:
        return set(violations(store, query, shape))
    finally:
        for quad in fresh:
            store.remove(quad)


# --- What a shape can read --------------------------------------------------------------------------

DATA = "PREFIX : <urn:x:> PREFIX rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> "
SUBCLASS = "<http://www.w3.org/2000/01/rdf-schema#subClassOf>"
TYPE = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"
TARGETS = {
    "class": f"?_class {SUBCLASS}* <urn:x:T> . ?this {TYPE} ?_class",
    "subjects": "?this <urn:x:p> ?_object",
    "objects": "?_subject <urn:x:q> ?this",
    "node": "VALUES ?this { <urn:x:a> }",
}
TRIPLES = (
    *(
        "?this :p ?x",
        "?this :q ?x",
        "?this :v ?x",
        "?x :p ?this",
        "?x :q ?this",
        "?this ?r ?x",
        "?x ?r ?this",
        "?this rdf:type ?x",
    ),
    *("?x :q ?y", "?y :p ?x", "?x :v ?y", "?this :p/:q ?x", "?this ^:p ?x", "?this ^:p/:v ?x", "?this :p+ ?x", "?this :p* ?x"),
    *("?x :q* ?this", "?this :q? ?x", "?x :p ?x", "?this :p ?this", "?x ?r ?y", "?this :v 1", "?this :p :b ; :q ?x"),
)
FILTERS = (
    *("?x != :b", "isIRI(?x)", "BOUND(?x)", "?x > 1", "?this != ?x", "?this != :c", 'REGEX(STR(?this), "[abc]$")'),
    *(
        "NOT EXISTS { ?this :p ?z }",
        "NOT EXISTS { ?z :q ?this }",
        "EXISTS { ?x :p ?z }",
        "NOT EXISTS { ?this :q ?z . ?z :p ?this }",
    ),
    *(
        "EXISTS { ?this ?w ?x }",
        "NOT EXISTS { ?this :v ?z FILTER(?z > 1) }",
        "NOT EXISTS { ?x ?w ?this }",
        "EXISTS { :a :p ?this }",
    ),
    "NOT EXISTS { { SELECT ?z WHERE { ?this :p ?z } } }",
)
INNER = (
    *("{ SELECT ?this (COUNT(DISTINCT ?n) AS ?x) WHERE { ?this :p ?n } GROUP BY ?this }",),
    *("{ SELECT ?x WHERE { ?x :p ?this } }", "{ SELECT DISTINCT ?this WHERE { ?n :q ?this } }"),
    "{ SELECT ?this ?x WHERE { ?this ?w ?x FILTER NOT EXISTS { ?x :p ?this } } }",
)


@st.composite
def bodies(draw: st.DrawFn, depth: int = 2) -> str:
    """The pattern of a shape about ?this."""
    text = " . ".join(draw(st.lists(st.sampled_from(TRIPLES), max_size=3)))
    for kind in draw(st.lists(st.sampled_from(("filter", "filter", "optional", "union", "inner", "bind")), max_size=2)):
        if kind == "filter":
            condition = draw(st.sampled_from(FILTERS))
            text += f" FILTER {condition}" if "EXISTS" in condition else f" FILTER({condition})"
        elif kind == "inner":
            text += f" {draw(st.sampled_from(INNER))}"
        elif kind == "bind":
            text += " BIND(STR(?this) AS ?k)" if "?k" not in text else ""
        elif depth:
            one = draw(bodies(depth - 1))
            text += f" OPTIONAL {{ {one} }}" if kind == "optional" else f" {{ {one} }} UNION {{ {draw(bodies(depth - 1))} }}"
    return text


def constraint(kind: str, body: str, name: str = "urn:shape") -> CompiledConstraint:
    """A shape, written as the compiler of shapes writes them."""
    select = f"SELECT DISTINCT ?this WHERE {{ {{ {{ {TARGETS[kind]} }} }} }}"
    query = f"{DATA}SELECT DISTINCT ?this ?x ?y WHERE {{ {{ {select} }} {body} }}"
    return CompiledConstraint(name, kind, "Violation", query, "{x} {y}", None, _Targets(select, (), (), ()))


KNOWLEDGE = [("<urn:x:S>", SUBCLASS, "<urn:x:T>"), ("<urn:x:b>", "<urn:x:q>", "<urn:x:S>"), ("<urn:x:S>", TYPE, "<urn:x:C>")]


def some_rows(random: Random, blank: bool) -> list[Row]:
    nodes = [f"<urn:x:{letter}>" for letter in "abcdefg"] + ["_:z"] * blank
    links, numbers = ["<urn:x:p>", "<urn:x:q>"], ["1", "2", "3"]
    found = {(random.choice(nodes), random.choice(links), random.choice(nodes)) for _ in range(12)}
    found |= {(random.choice(nodes), TYPE, random.choice(["<urn:x:T>", "<urn:x:S>", "<urn:x:C>"])) for _ in range(6)}
    integer = "http://www.w3.org/2001/XMLSchema#integer"
    found |= {(random.choice(nodes), "<urn:x:v>", f'"{random.choice(numbers)}"^^<{integer}>') for _ in range(4)}
    return sorted(found)


def judged_alone(rows: list[Row], constraints: list[CompiledConstraint], focus: list[list[str]]) -> list[Violation]:
    store = ox.Store()
    store.extend(quads_of(KNOWLEDGE))
    doubts: list[Doubt] = [pair for pair in zip(constraints, focus, strict=True) if pair[1]]
    return judging.judged(store, rows, doubts)


def compare_shapes(texts: list[tuple[str, str]], rows: list[Row], random: Random) -> int:
    """Ask of the nodes that break shapes, and of some that do not, and compare with what is said of all; how much that is."""
    constraints = [constraint(kind, body, f"urn:shape:{number}") for number, (kind, body) in enumerate(texts)]
    store = ox.Store()
    store.extend(quads_of([*KNOWLEDGE, *rows]))
    want: set[Violation] = set()
    focus: list[list[str]] = []
    for each in constraints:
        found = set(violations(store, each.query, each))
        want |= found
        broken = {str(violation.focus) for violation in found}
        targets = {str(solution["this"]) for solution in store.query(each.targets.select)}  # type: ignore[union-attr]
        others = sorted(targets - broken)
        focus.append(sorted({*broken, *random.sample(others, min(len(others), random.randint(0, 2)))}) if broken else [])
    assert set(judged_alone(rows, constraints, focus)) == want, (texts, rows, focus)
    return len(want)


SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
shapes = st.lists(st.tuples(st.sampled_from(sorted(TARGETS)), bodies()), min_size=1, max_size=3)


@pytest.mark.parametrize("blank", [False, True], ids=["names", "blank nodes"])
def test_random_shapes(blank: bool) -> None:
    said = 0

    @settings(parent=SETTINGS, max_examples=300)
    @given(shapes, st.integers(0, 2**32))
    def run(texts: list[tuple[str, str]], seed: int) -> None:
        nonlocal said
        random = seeded(seed)
        said += compare_shapes(texts, some_rows(random, blank), random)

    run()
    assert said > 500, "shapes that nothing breaks test nothing"
