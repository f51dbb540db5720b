"""The engine that answers (columns for batches, rows for a few) says what Oxigraph says, or leaves it to Oxigraph.

Oxigraph is the judge throughout: it runs the same updates and shapes, on the same facts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Context, localcontext
from pathlib import Path
from random import Random

import pyoxigraph as ox
import pytest
from generate import AS_OF, generate, seeded

import kbtool
from kbtool import engine, setwise
from kbtool.answer import PatientResult
from kbtool.columns import Terms
from kbtool.evaluate import Evaluator
from kbtool.expressions import chained, compiled
from kbtool.facts import Facts, FactsError, Reader
from kbtool.knowledge import Knowledge, Step
from kbtool.plans import Planner
from kbtool.rows import plain_table, rows_of
from kbtool.rowwise import RowEvaluator, Triples
from kbtool.setwise import Program
from kbtool.solutions import Graph
from kbtool.sparql import Bind, CannotRead, Filter, read_query, read_updates
from kbtool.values import Unsettled, canonical, token_of, value_of

HERE = Path(__file__).parent
GUIDELINES = {"first": None, "second": HERE / "second_guideline" / "root.ttl"}
PATIENTS = {"first": HERE / "patients", "second": HERE / "second_guideline" / "patients"}
MANY = {"columns": 0, "rows": 10**9}
XSD = "http://www.w3.org/2001/XMLSchema#"


@pytest.fixture(scope="module", params=GUIDELINES)
def guideline(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def kb(guideline: str) -> kbtool.KnowledgeBase:
    return kbtool.load(GUIDELINES[guideline])


def by_oxigraph(knowledge: Knowledge, facts: Facts, moment: ox.Literal, *, strict: bool = False) -> Iterator[PatientResult]:
    for batch in engine.batches(facts):
        yield from engine._by_store(knowledge, batch, moment, strict)


def by_program(
    knowledge: Knowledge, program: Program, facts: Facts, moment: ox.Literal, size: int, *, strict: bool = False
) -> Iterator[PatientResult]:
    for batch in engine.batches(facts, size):
        yield from engine._by_columns(program, knowledge, batch, moment, strict)


def differing(want: Iterator[PatientResult], got: Iterator[PatientResult]) -> list[str]:
    """Patients whose answers, written out, or whose derived triples are not the same."""
    pairs = list(zip(want, got, strict=True))
    texts = [one.patient for one, other in pairs if json.dumps(one.data) != json.dumps(other.data)]
    return texts + [one.patient for one, other in pairs[::7] if set(one.triples) != set(other.triples)]


def parsed(texts: list[str]) -> Iterator[bytes]:
    """Documents that are valid Turtle; the generator breaks some of them."""
    for document in texts:
        try:
            list(ox.parse(document.encode(), ox.RdfFormat.TURTLE))
        except SyntaxError:
            continue
        yield document.encode()


def sample(kb: kbtool.KnowledgeBase, guideline: str, seed: int, generated: int, every: int = 1) -> Facts:
    texts = [*generate(kb.knowledge, seed, generated), *generate(kb.knowledge, seed, generated // 2, broken=True)]
    return kb.read(*sorted(PATIENTS[guideline].glob("*.ttl"))[::every], *parsed(texts), format="turtle")


@pytest.fixture(autouse=True)
def _no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls Oxigraph for answers says so: otherwise two runs of it would be compared."""
    by_store = engine._by_store
    monkeypatch.setattr(engine, "_by_store", lambda *given: by_store(*given))


@pytest.mark.parametrize("how", MANY)
def test_answers_are_those_of_oxigraph(
    kb: kbtool.KnowledgeBase, guideline: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setwise, "FEW", MANY[how])
    facts = sample(kb, guideline, 11, 40, every=1 if how == "columns" else 6)
    moment = engine.parse_as_of(AS_OF)
    want = list(by_oxigraph(kb.knowledge, facts, moment))
    monkeypatch.setattr(engine, "_by_store", lambda *_: pytest.fail("left to Oxigraph"))
    got = by_program(kb.knowledge, Program(kb.knowledge), facts, moment, 500 if how == "columns" else 3)
    assert differing(iter(want), got) == []
    assert any(result.refused for result in want)
    assert any(result.data["setAside"] for result in want)
    assert any(result.data["warnings"] for result in want) or guideline == "second"


@pytest.mark.parametrize("how", MANY)
def test_strict_answers_are_those_of_oxigraph(kb: kbtool.KnowledgeBase, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setwise, "FEW", MANY[how])
    facts = kb.read(*parsed(generate(kb.knowledge, 12, 12, broken=True)), format="turtle")
    moment = engine.parse_as_of(AS_OF)
    want = by_oxigraph(kb.knowledge, facts, moment, strict=True)
    assert differing(want, by_program(kb.knowledge, Program(kb.knowledge), facts, moment, 5, strict=True)) == []


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(100, 110))
@pytest.mark.parametrize("how", MANY)
def test_answers_of_thousands(
    kb: kbtool.KnowledgeBase, guideline: str, how: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setwise, "FEW", MANY[how])
    facts = sample(kb, guideline, seed, 200)
    moment = engine.parse_as_of(AS_OF)
    got = by_program(kb.knowledge, Program(kb.knowledge), facts, moment, 500 if how == "columns" else 1)
    assert differing(by_oxigraph(kb.knowledge, facts, moment), got) == []


@pytest.mark.parametrize("how", MANY)
def test_a_step_that_is_left_out_is_noticed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setwise, "FEW", MANY[how])
    kb = kbtool.load()
    facts = kb.read(*sorted(PATIENTS["first"].glob("P0*.ttl")))
    program = Program(kb.knowledge)
    del program.updates[-3]
    moment = engine.parse_as_of(AS_OF)
    got = by_program(kb.knowledge, program, facts, moment, 500)
    assert differing(by_oxigraph(kb.knowledge, facts, moment), got) != []


def test_what_cannot_be_planned_is_answered_by_oxigraph() -> None:
    kb = kbtool.load()
    path = PATIENTS["first"] / "P01.ttl"
    want = kb.assess(path, as_of=AS_OF).to_json()
    odd = "INSERT { ?x <urn:odd> ?y } WHERE { ?x <urn:odd> ?y MINUS { ?y <urn:odd> ?x } }"
    part = replace(kb.knowledge.steps[0].parts[0], text=odd, triggers=())
    strange = replace(kb.knowledge, steps=[*kb.knowledge.steps, Step("derive/odd", "", (part,))])
    with pytest.raises(CannotRead, match="line 1: 'MINUS'"):
        Program(strange)
    strange.__dict__["_assessed"] = engine.WORTHWHILE
    assert kbtool.KnowledgeBase(strange).assess(path, as_of=AS_OF).to_json() == want
    assert strange.__dict__["_program"] is None


def test_the_engine_is_planned_when_that_pays() -> None:
    kb = kbtool.load()
    path = PATIENTS["first"] / "P01.ttl"
    answers = {json.dumps(kb.assess(path, as_of=AS_OF).to_json()) for _ in range(engine.WORTHWHILE + 1)}
    assert isinstance(kb.knowledge.__dict__["_program"], Program)
    assert len(answers) == 1


# --- Updates on small graphs ------------------------------------------------------------------------

PREFIX = "PREFIX : <urn:x:> PREFIX xsd: <http://www.w3.org/2001/XMLSchema#> "
PATTERNS = [
    "?s :p ?o",
    "?s :p ?o . ?o :q ?r",
    "?s :p ?s . BIND(?s AS ?o)",
    "?s :p/:q ?o",
    "?s ^:p/:q ?o",
    "?s :p ?m . ?m :p+ ?o",
    "?s :q ?m . ?m :p* ?o",
    "?s :q ?m . ?m :p? ?o",
    "?o :q ?m . ?s :p* ?m",
    "?s :p ?o . ?s :p+ ?s",
    "?s :p+ ?o",
    "?s :q ?o . ?o :p* :a",
    "?s :p :a ; :q ?o",
    "VALUES ?o { :a :b } ?s a ?o",
    "VALUES (?x ?o) { (:p :a) (:q :b) } ?s ?x ?o",
    "?s :p ?m . ?m ?x ?o . FILTER(?x = :p || ?x = :q)",
    "?o :p ?m . ?s ?x ?m . FILTER(?x IN (:q, :p) && ?s != ?o)",
    "?s :p ?o . FILTER NOT EXISTS { ?o :q ?s }",
    "?s :p ?o . FILTER EXISTS { ?o :q ?r . ?r :p ?s }",
    "?s :p ?o . FILTER NOT EXISTS { ?s :v ?n . FILTER(?n > 1) }",
    "?s :p ?o . FILTER(!EXISTS { ?s a :a } )",
    "?s :p ?o . OPTIONAL { ?s :v ?n } FILTER(!BOUND(?n) || ?n >= 0.70)",
    "?s :p ?m . OPTIONAL { ?m :v ?n . FILTER(?n < 2) } BIND(COALESCE(?n, ?m) AS ?o)",
    "?s :p ?m . OPTIONAL { ?s :v ?a } OPTIONAL { ?m :v ?b } BIND(?a + ?b AS ?o)",
    "{ ?s :p ?o } UNION { ?o :q ?s }",
    "{ ?s :p ?o . FILTER NOT EXISTS { ?s a :a } } UNION { ?s :q ?o . ?o a :b } FILTER(?s != ?o)",
    "?s :p ?m . { ?m :q ?o } UNION { ?m a ?o }",
    "{ SELECT ?s (MAX(?n) AS ?m) WHERE { ?s :p ?x . ?x :v ?n } GROUP BY ?s } BIND(?m + 0.0 AS ?o)",
    "{ SELECT ?s (SUM(?n) AS ?o) WHERE { ?s :p/:p ?m . ?m :v ?n } GROUP BY ?s }",
    "{ SELECT ?s (COUNT(DISTINCT ?m) AS ?o) WHERE { ?s :p/:q ?m } GROUP BY ?s }",
    "?s :p ?m . OPTIONAL { SELECT ?m (SUM(?n) AS ?all) WHERE { ?m :q ?x . ?x :v ?n } GROUP BY ?m } BIND(COALESCE(?all, 0) AS ?o)",
    "{ SELECT DISTINCT ?s WHERE { ?s :p ?any } } ?s :q ?o",
    '?s :v ?n . BIND(IRI(CONCAT(STR(?s), "/made/", STR(?n))) AS ?o)',
    "?s :v ?n . BIND(FLOOR(?n * 3 / 7 * 1000000 + 0.5) / 1000000 AS ?o)",
    "?s :v ?n . BIND(IF(?n > 1, ?n - 0.5, -2) AS ?x) BIND(?x * ?x AS ?o) FILTER(?o != 4)",
    "?s :v ?n ; :t ?t . BIND(YEAR(?t) * 10000 + MONTH(?t) * 100 + DAY(?t) AS ?d) BIND(?d + ?n AS ?o)",
    "?s :t ?t . ?o :t ?u . FILTER(?t < ?u)",
    "?s :v ?n . ?o :v ?m . FILTER(?n = ?m && isIRI(?s) && !isLiteral(?o))",
    "?s :p ?x . ?x ?o ?y . ?y :v ?n . FILTER(?o != :p)",
]
VALUES = ['"0.70"^^xsd:decimal', '"0.7"^^xsd:decimal', "1", '"1.0"^^xsd:decimal', "2", '"-3.5"^^xsd:decimal', '"x"', "0"]
TIMES = ["2024-02-29T23:30:00Z", "2024-03-01T00:30:00+01:00", "2025-12-31T23:59:59.5Z", "2024-02-29T23:30:00"]


def graph_of(random: Random) -> str:
    """A small graph in Turtle: nodes that refer to each other, with numbers and times."""
    nodes = [f":{letter}" for letter in "abcdef"]
    lines = [f"{random.choice(nodes)} {random.choice([':p', ':q', 'a'])} {random.choice(nodes)} ." for _ in range(14)]
    lines += [f"{random.choice(nodes)} :v {random.choice(VALUES)} ." for _ in range(5)]
    lines += [f'{random.choice(nodes)} :t "{random.choice(TIMES)}"^^xsd:dateTime .' for _ in range(4)]
    return "@prefix : <urn:x:> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .\n" + "\n".join(lines)


def run_columns(quads: list[ox.Quad], update: str) -> set[tuple[str, str, str]]:
    terms = Terms()
    graph = Graph(terms, {})
    setwise._fill(graph, setwise._encoded(terms, rows_of(quads)))
    plans = [Planner(terms).update(insert) for insert in read_updates(update)]
    evaluator = Evaluator(graph, {})
    for plan in plans:
        evaluator.update(plan)
    tokens = terms.tokens
    return {(tokens[s], tokens[p], tokens[o]) for p in list(graph.relations) for s, o in graph.pairs(p)}


def run_rows(quads: list[ox.Quad], update: str) -> set[tuple[str, str, str]]:
    terms = Terms()
    shared = Triples(terms)
    graph = Triples(terms, shared)
    rows = rows_of(quads)
    for part, each in ((shared, rows[::2]), (graph, rows[1::2])):
        for row in each:
            part.add(*map(terms.term, row))
    plans = [Planner(terms).update(insert) for insert in read_updates(update)]
    evaluator = RowEvaluator(graph)
    for plan in plans:
        evaluator.update(plan)
    tokens = terms.tokens
    every = graph.out.keys() | shared.out.keys()
    return {(tokens[s], tokens[p], tokens[o]) for p in every for s, o in graph.pairs(p)}


@pytest.mark.parametrize("run", [run_columns, run_rows])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern(pattern: str, run: Callable[[list[ox.Quad], str], set[tuple[str, str, str]]]) -> None:
    update = f"{PREFIX} INSERT {{ ?s :found ?o }} WHERE {{ {pattern} }}"
    derived = 0
    for seed in range(30):
        quads = list(ox.parse(graph_of(seeded(seed)).encode(), ox.RdfFormat.TURTLE))
        store = ox.Store()
        store.extend(quads)
        store.update(update)
        want = {tuple(map(str, quad.triple)) for quad in store}
        try:
            with localcontext(Context(prec=80)):
                found = run(quads, update)
        except Unsettled:
            continue
        assert found == want
        derived += sum(1 for _, p, _ in want if p == "<urn:x:found>")
    assert derived, "a pattern that never matches tests nothing"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("?s :p ?o MINUS { ?s :q ?o }", "MINUS"),
        ("?s :p|:q ?o", "not read here"),
        ("GRAPH ?g { ?s :p ?o }", "GRAPH"),
        ("SERVICE <urn:s> { ?s :p ?o }", "SERVICE"),
        ("?s :p ?o . FILTER(EXISTS { ?s :q ?o } || ?s = ?o)", "EXISTS inside"),
        ("?s :p ?m . { ?m :q ?o . FILTER(?s != ?o) } UNION { ?m a ?o }", "nested group"),
        ("?s :p ?o . OPTIONAL { ?s :v ?n } ?m :v ?n", "perhaps not bound"),
        ("?s :p ?o . FILTER(ENCODE_FOR_URI(?s) = ?o)", "not known here"),
        ("?s :p ?o . FILTER(REGEX(STR(?o), ?s))", "written out"),
        ("{ SELECT ?s (AVG(?n) AS ?o) WHERE { ?s :v ?n } GROUP BY ?s }", "aggregate"),
        ("{ SELECT ?s ?o WHERE { ?s :p ?o } LIMIT 1 }", "limit"),
        ("?s nope:p ?o", "nope"),
    ],
)
def test_what_is_not_known_is_refused(pattern: str, message: str) -> None:
    text = f"{PREFIX} INSERT {{ ?s :found ?o }} WHERE {{ {pattern} }}"
    with pytest.raises(CannotRead, match=message):
        list(map(Planner(Terms()).update, read_updates(text)))


# --- Expressions ------------------------------------------------------------------------------------

TERMS = [
    '"1"^^xsd:integer',
    '"0.70"^^xsd:decimal',
    '"0.7"^^xsd:decimal',
    '"-7.25"^^xsd:decimal',
    '"000012.3400"^^xsd:decimal',
    '"0.000000001"^^xsd:decimal',
    '"123456789.123456789"^^xsd:decimal',
    '"1"^^xsd:double',
    '"0.7"^^xsd:float',
    '"NaN"^^xsd:double',
    '"<5"^^xsd:decimal',
    '"5."^^xsd:decimal',
    '"1e3"^^xsd:decimal',
    '"+3"^^xsd:integer',
    '"3"^^xsd:byte',
    '"12345678901234567890123456789012345678901234567890"^^xsd:integer',
    '"true"^^xsd:boolean',
    '"1"^^xsd:boolean',
    '"mmol/L"',
    '"a \\"b\\" \\n c"',
    '"caf\\u00E9"',
    '"wert"@de',
    '"2026-02-10T06:40:00Z"^^xsd:dateTime',
    '"2026-02-10T07:40:00+01:00"^^xsd:dateTime',
    '"2026-02-10T06:40:00.250Z"^^xsd:dateTime',
    '"2026-02-10T06:40:00+00:00"^^xsd:dateTime',
    '"2026-02-10T24:00:00Z"^^xsd:dateTime',
    '"2026-02-30T06:40:00Z"^^xsd:dateTime',
    '"2026-02-10T06:40:00"^^xsd:dateTime',
    '"2026-02-10"^^xsd:date',
    '"P1D"^^xsd:dayTimeDuration',
    "<urn:x:thing>",
]
UNARY = [
    "STR(?a)",
    "DATATYPE(?a)",
    "STRLEN(STR(?a))",
    "FLOOR(?a)",
    "?a + 1",
    "?a - 0.7",
    "?a * 0.555555555556",
    "?a / 3",
    "7 / ?a",
    "FLOOR(?a / 2)",
    "FLOOR(?a * 1000000 + 0.5) / 1000000",
    "YEAR(?a)",
    "MONTH(?a)",
    "DAY(?a)",
    "HOURS(?a)",
    "MINUTES(?a)",
    "SECONDS(?a)",
    "TZ(?a)",
    "COALESCE(?a + 1, 0)",
    "IF(?a > 0.7, 1, 2)",
    "IF(BOUND(?b), 1, ?a)",
    "IRI(CONCAT(STR(<urn:x:>), STR(?a)))",
    "SUBSTR(STR(?a), 2, 3)",
    'STRAFTER(STR(?a), "-")',
    'REPLACE(STR(?a), "^.*[/#:]", "")',
    "xsd:dateTime(STR(?a))",
    "xsd:integer(SUBSTR(STR(?a), 1, 2))",
]
TESTS = [
    "?a = ?b",
    "?a != ?b",
    "?a < ?b",
    "?a <= ?b",
    "?a > ?b",
    "?a >= ?b",
    "sameTerm(?a, ?b)",
    "?a > 0.7 && ?b > 0.7",
    "?a > 0.7 || ?b > 0.7",
    "!(?a > 0.7 || ?b > 0.7)",
    "!(?a > 0.7 && ?b > 0.7)",
    "?a",
    "isLiteral(?a) && !isIRI(?b)",
    "DATATYPE(?a) = xsd:decimal && ?a - ?b <= 1",
    'REGEX(STR(?a), "^[+-]?0*[0-9]{1,9}([.][0-9]{0,9}0*)?$")',
    'CONTAINS(STR(?a), ".") || STRSTARTS(STR(?b), "1")',
    "IF(?a > 1, ?b > 1, false)",
    "!BOUND(?c) || ?c = ?a",
]


@pytest.mark.parametrize("expression", UNARY)
def test_value_of_an_expression(expression: str) -> None:
    query = f"PREFIX xsd: <{XSD}> SELECT ?x WHERE {{ VALUES ?a {{ <urn:x:1> }} BIND({expression} AS ?x) }}"
    (bind,) = [e for e in read_query(query).where.elements if isinstance(e, Bind)]
    function = chained([("?x", bind.expression)], ["?a"], ["?x"])
    for term in TERMS:
        asked = f"PREFIX xsd: <{XSD}> SELECT ?x WHERE {{ BIND({term} AS ?a) BIND({expression} AS ?x) }}"
        want = next(iter(ox.Store().query(asked)))["x"]  # type: ignore[arg-type,call-overload]
        with localcontext(Context(prec=80)):
            ((got,),) = function(1, [[value_of(canonical(full(term)))]])
        made = got if got is None or (type(got) is str and got[:1] == "<" and expression.startswith("IRI")) else token_of(got)
        assert made == (None if want is None else str(want)), term


@pytest.mark.parametrize("expression", TESTS)
def test_truth_of_a_condition(expression: str) -> None:
    query = f"PREFIX xsd: <{XSD}> SELECT ?a WHERE {{ ?a ?b ?c FILTER({expression}) }}"
    (condition,) = [e for e in read_query(query).where.elements if isinstance(e, Filter)]
    function = compiled(condition.expression, ["?a", "?b"])
    for one in TERMS:
        values = [[value_of(canonical(full(one)))] * len(TERMS), [value_of(canonical(full(other))) for other in TERMS]]
        with localcontext(Context(prec=80)):
            got = function(len(TERMS), values)
        for other, passed in zip(TERMS, got, strict=True):
            asked = f"PREFIX xsd: <{XSD}> ASK {{ BIND({one} AS ?a) BIND({other} AS ?b) FILTER({expression}) }}"
            assert bool(passed) == bool(ox.Store().query(asked)), (one, other)


def full(term: str) -> str:
    """A term with its datatype written out."""
    head, mark, name = term.rpartition("^^xsd:")
    return (
        f"{head}^^<{XSD}{name}>" if mark else str(next(iter(ox.parse(f"<urn:s> <urn:p> {term} .", ox.RdfFormat.TURTLE))).object)
    )


# --- Reading ----------------------------------------------------------------------------------------

PLAIN = [
    '<http://a.b/c> <http://a.b/d#e> "x" .',
    '<http://a.b/c>\t<urn:x:d>   "1.70"^^<http://www.w3.org/2001/XMLSchema#decimal> .',
    "_:b1 <https://a.b/c?d=e#f> <urn:uuid:1-2> .",
    '<http://a.b/> <http://a.b> "mmol/L é" .',
]
NOT_PLAIN = [
    '<http://a.b/c> <http://a.b/d> "x"',
    "<http://a.b/c> <http://a.b/d> <relative> .",
    "<http://a.b:x/c> <http://a.b/d> <http://a.b/c> .",
    "<http://a.b/%zz> <http://a.b/d> <http://a.b/c> .",
    "<http://a.b/c#d#e> <http://a.b/d> <http://a.b/c> .",
    "<http://a.b/c d> <http://a.b/d> <http://a.b/c> .",
    '<http://a.b/c> <http://a.b/d> "a\\u0041" .',
    '<http://a.b/c> <http://a.b/d> "x"@en .',
    '<http://a.b/c> <http://a.b/d> "x"^^<http://www.w3.org/2001/XMLSchema#string> .',
    '"x" <http://a.b/d> <http://a.b/c> .',
    "<http://a.b/c> _:p <http://a.b/c> .",
    "<http://a.b/c> <http://a.b/d> <http://a.b/c> . <http://a.b/c> <http://a.b/d> <http://a.b/e> .",
    "# a comment",
    "garbage <http://a.b/c> <http://a.b/d> <http://a.b/c> .",
]


@pytest.mark.parametrize("line", PLAIN)
def test_plain_rows_are_what_the_parser_reads(line: str) -> None:
    table = plain_table(f"{line}\n{line}")
    assert table is not None
    assert table.rows() == rows_of(ox.parse(f"{line}\n{line}".encode(), ox.RdfFormat.N_TRIPLES))


@pytest.mark.parametrize("line", NOT_PLAIN)
def test_what_is_not_plain_goes_through_the_parser(line: str) -> None:
    assert plain_table(f"{PLAIN[0]}\n{line}\n{PLAIN[1]}\n") is None


def test_a_line_that_is_not_n_triples_is_named() -> None:
    with pytest.raises(FactsError, match="line 3"):
        Reader().add("x.nt", f"{PLAIN[0]}\n{NOT_PLAIN[0]}\n".encode(), ox.RdfFormat.N_TRIPLES)
