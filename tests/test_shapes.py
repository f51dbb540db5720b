"""shapes/facts.ttl says what it should, and the compiled shapes say what pySHACL says.

- Each file in tests/bad breaks one shape and no other; the head of the file says which, where and with what message (and,
  for the one case where that cannot be, what else it breaks).
- On the same files, and on generated patients, the compiled shapes and pySHACL find the same violations.
  `pytest -m deep` compares thousands.
"""

import functools
import logging
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyoxigraph as ox
import pyshacl
import pytest
import rdflib
import rdflib.plugins.sparql.processor as rdflib_sparql
from rdflib.plugins.sparql.algebra import translateQuery
from rdflib.plugins.sparql.evaluate import evalQuery
from rdflib.plugins.sparql.parser import parseQuery

from kbtool.shapes import CompiledConstraint, UnsupportedShape, Violation, compile_shapes, predicates_read, validate

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
SHAPES = PROJECT / "shapes" / "facts.ttl"
BAD = sorted((TESTS / "bad").glob("*.ttl"))
TEST_KB = (PROJECT / "ontology" / "model.ttl", TESTS / "shapes-vocabulary.ttl")
REAL_KB = tuple(sorted((PROJECT / "ontology").glob("*.ttl")))
AS_OF = "2026-02-10T12:00:00Z"

CG = "https://w3id.org/kbtool/cg/"
EX = "http://example.org/"
OWL = "http://www.w3.org/2002/07/owl#"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS = "http://www.w3.org/2000/01/rdf-schema#"
SH = rdflib.Namespace("http://www.w3.org/ns/shacl#")
XSD = "http://www.w3.org/2001/XMLSchema#"
TYPE = ox.NamedNode(RDF + "type")
KINDS = {
    "hasTreatment": "Treatment",
    "hasSession": "Session",
    "hasFinding": "Finding",
    "hasObservation": "Observation",
    "hasMedication": "Medication",
    "hasOrder": "Order",
}

Found = set[tuple[str, str, str]]


def cg(name: str) -> ox.NamedNode:
    return ox.NamedNode(CG + name)


@functools.cache
def compiled() -> list[CompiledConstraint]:
    shapes = ox.Store()
    shapes.load(path=SHAPES, format=ox.RdfFormat.TURTLE)
    return compile_shapes(shapes)


@functools.cache
def knowledge(files: tuple[Path, ...]) -> list[ox.Quad]:
    store = ox.Store()
    for file in files:
        store.load(path=file, format=ox.RdfFormat.TURTLE)
    read = predicates_read(compiled())
    return [quad for quad in store if quad.predicate in read]


def store_with(facts: str | list[ox.Quad], as_of: str | None = AS_OF, files: tuple[Path, ...] = TEST_KB) -> ox.Store:
    """A store with a knowledge base, the as-of time and facts."""
    store = ox.Store()
    store.extend(knowledge(files))
    if as_of:
        store.add(ox.Quad(cg("Run"), cg("asOf"), ox.Literal(as_of, datatype=ox.NamedNode(XSD + "dateTime"))))
    if isinstance(facts, str):
        store.load(facts.encode(), format=ox.RdfFormat.TURTLE)
    else:
        store.extend(facts)
    return store


def found_by_kbtool(store: ox.Store) -> Found:
    return {(_name(v.focus), v.shape.removeprefix(CG), v.severity) for v in validate(store, compiled())}


def found_by_pyshacl(store: ox.Store, shapes: rdflib.Graph | None = None) -> Found:
    rdflib.NORMALIZE_LITERALS = False  # pySHACL sets it to True after each run
    data = rdflib.Graph()
    data.parse(data=store.dump(format=ox.RdfFormat.N_TRIPLES, from_graph=ox.DefaultGraph()), format="nt")
    _, report, _ = pyshacl.validate(data_graph=data, shacl_graph=shapes or _pyshacl_shapes(), inference="none", inplace=True)
    assert isinstance(report, rdflib.Graph)
    results = report.subjects(rdflib.RDF.type, SH.ValidationResult)
    return {
        (
            _name(report.value(result, SH.focusNode)),
            str(report.value(result, SH.sourceShape)).removeprefix(CG),
            str(report.value(result, SH.resultSeverity)).removeprefix(str(SH)),
        )
        for result in results
    }


def _name(term: Any) -> str:
    """Name a node alike for both engines; a test has at most one blank node."""
    if isinstance(term, (ox.BlankNode, rdflib.BNode)):
        return "_:"
    return str(term.value if isinstance(term, (ox.NamedNode, ox.Literal)) else term)


@functools.cache
def _pyshacl_shapes() -> rdflib.Graph:
    return rdflib.Graph().parse(SHAPES)


@pytest.fixture(autouse=True, scope="module")
def fast_and_exact_rdflib() -> Iterator[None]:
    """Let rdflib parse each query once, not once for each focus node, and keep literals as they are written."""

    @functools.cache
    def parsed(text: str, base: str | None, namespaces: tuple[tuple[str, str], ...]) -> Any:
        return translateQuery(parseQuery(text), base, dict(namespaces))

    def query(self: Any, text: Any, initBindings: Any = None, initNs: Any = None, base: Any = None, DEBUG: bool = False) -> Any:  # noqa: N803
        namespaces = tuple((str(prefix), str(iri)) for prefix, iri in (initNs or {}).items())
        return evalQuery(self.graph, parsed(text, base, namespaces), initBindings or {}, base)

    logging.getLogger("rdflib.term").setLevel(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rdflib_sparql.SPARQLProcessor, "query", query)
        patch.setattr(rdflib, "NORMALIZE_LITERALS", rdflib.NORMALIZE_LITERALS)
        yield


# --- Each shape ---


def head_of(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^# ([\w-]+): (.*)$", file.read_text(), re.MULTILINE))


def as_of(head: dict[str, str]) -> str | None:
    return {"none": None}.get(head.get("as-of", ""), head.get("as-of", AS_OF))


def test_a_good_patient_breaks_no_shape() -> None:
    assert validate(store_with((TESTS / "shapes-good.ttl").read_text()), compiled()) == []


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_a_bad_patient_breaks_one_shape(file: Path) -> None:
    head = head_of(file)
    violations = validate(store_with(file.read_text(), as_of(head)), compiled())
    prefixes = {"ex": EX, "cg": CG, "tv": "https://example.org/test-vocabulary/"}
    prefix, local = head["focus"].split(":")
    focus = "_:" if prefix == "_" else prefixes[prefix] + local
    severity = head.get("severity", "Violation")
    also = head.get("also", "").split()
    found = {(_name(v.focus), v.shape.removeprefix(CG), v.severity) for v in violations if v.shape.removeprefix(CG) not in also}
    assert found == {(focus, head["shape"], severity)}, violations
    assert any(v.shape.removeprefix(CG) == head["shape"] and head["message"] in v.message for v in violations), violations
    assert all("{" not in v.message.replace("{score}", "") for v in violations), violations


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_pyshacl_agrees_on_bad_patients(file: Path) -> None:
    store = store_with(file.read_text(), as_of(head_of(file)))
    assert found_by_kbtool(store) == found_by_pyshacl(store)


def test_every_shape_is_broken_by_a_file() -> None:
    assert {c.shape.removeprefix(CG) for c in compiled()} == {head_of(file)["shape"] for file in BAD}


def test_every_shape_has_a_name_and_every_constraint_a_message() -> None:
    graph = _pyshacl_shapes()
    for shape in {*graph.subjects(rdflib.RDF.type, SH.NodeShape), *graph.subjects(rdflib.RDF.type, SH.PropertyShape)}:
        assert isinstance(shape, rdflib.URIRef)
        assert graph.value(shape, SH.name)
    assert all(c.message.endswith(".") for c in compiled())


def test_shapes_name_no_guideline() -> None:
    assert "dialysis" not in SHAPES.read_text().lower()


def test_magnesium_in_the_wrong_unit_is_refused_with_what_it_would_be() -> None:
    facts = """@prefix cg: <https://w3id.org/kbtool/cg/> . @prefix dk: <https://w3id.org/kbtool/dialysis/> .
    @prefix ex: <http://example.org/> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
    ex:P1 a cg:Patient ; cg:hasObservation ex:o1 .
    ex:o1 a dk:SerumMagnesium ; cg:value 17 ; cg:unit "mg/dL" ; cg:time "2026-02-10T06:40:00Z"^^xsd:dateTime ."""
    (violation,) = [v for v in validate(store_with(facts, files=REAL_KB), compiled()) if v.severity == "Violation"]
    assert violation.shape == CG + "PlausibleShape"
    assert (violation.path, violation.value) == (CG + "value", "17")
    assert "SerumMagnesium of 17 mg/dL is not plausible: it is 6.99" in violation.message


# --- Against pySHACL, on generated patients ---

NUMBERS = [
    *("0", "1", "-1", "00012.50", "+7", "999999999", "1000000000", "0.123456789", "0.1234567891", ".5", "5."),
    *("1e3", "NaN", "INF", "four", "", " 5 ", "-0.0", "99999999999999999999999999"),
]
TIMES = [
    *("2026-02-10T12:00:00Z", "2026-02-10T13:00:00+01:00", "2026-02-10T12:00:01Z", "2026-02-10T06:40:00-05:30"),
    *("2026-02-10T06:40:00", "2026-02-30T06:40:00Z", "2024-02-29T06:40:00Z", "2100-02-29T06:40:00Z", "2026-02-10"),
    *("2026-02-10T24:00:00Z", "2026-02-10T06:40:60Z", "2026-02-10T06:40Z", "20260210T064000Z", "2026-W07-2T06:40:00Z"),
    *("2026-02-10T06:40:00+14:00", "2026-02-10T06:40:00+14:30", "2026-02-10T06:40:00+15:00", "2026-02-10t06:40:00z"),
    *("2026-02-10T06:40:00.123456Z", "2026-02-10T06:40:00.1234567Z", "0000-01-01T00:00:00Z", "0999-01-01T00:00:00Z"),
    *("9999-12-31T23:59:59Z", "12026-02-10T06:40:00Z", "-2026-02-10T06:40:00Z", "2026-02-10 06:40:00Z", "today", ""),
    *(
        "2026-02-09T23:59:59Z",
        "2026-01-31T23:30:00Z",
        "2026-02-01T00:30:00Z",
        "2025-12-31T23:00:00Z",
        "2026-01-01T01:00:00+02:00",
    ),
]
NUMBER_TYPES = ["decimal", "decimal", "decimal", "integer", "integer", "double", "float", "string", "int", "boolean"]
TIME_TYPES = ["dateTime", "dateTime", "dateTime", "dateTime", "date", "string", "dateTimeStamp"]


@dataclass
class Vocabulary:
    """What a generator of facts can choose from, read from a knowledge base."""

    classes: dict[str, list[ox.NamedNode]] = field(default_factory=dict)
    odd_classes: list[ox.NamedNode] = field(default_factory=list)
    units: dict[ox.NamedNode, list[tuple[str, float, float]]] = field(default_factory=dict)
    limits: dict[ox.NamedNode, tuple[float, float]] = field(default_factory=dict)
    members: dict[str, list[ox.NamedNode]] = field(default_factory=dict)
    properties: list[ox.NamedNode] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)


@functools.cache
def vocabulary(files: tuple[Path, ...]) -> Vocabulary:
    store = ox.Store()
    for file in files:
        store.load(path=file, format=ox.RdfFormat.TURTLE)
    prefixes = {"cg": CG, "owl": OWL, "rdfs": RDFS, "skos": "http://www.w3.org/2004/02/skos/core#"}

    def rows(query: str) -> list[Any]:
        return sorted(store.query(query, prefixes=prefixes), key=str)  # type: ignore[arg-type]

    found = Vocabulary()
    for kind in (*KINDS.values(), "Setting"):
        query = f"SELECT DISTINCT ?c {{ ?c rdfs:subClassOf+ cg:{kind} . FILTER NOT EXISTS {{ ?c owl:equivalentClass ?d }} }}"
        found.classes[kind] = [row[0] for row in rows(query)]
    found.odd_classes = [row[0] for row in rows("SELECT DISTINCT ?c { ?c a owl:Class . FILTER(isIRI(?c)) }")]
    found.odd_classes += [ox.NamedNode(c.value + "s") for c in found.odd_classes[:5]]
    found.odd_classes += [row[0] for row in rows("SELECT ?i { ?i a owl:NamedIndividual }")[:20]]
    found.odd_classes += [ox.NamedNode("http://hl7.org/fhir/Condition"), ox.NamedNode(EX + "Thing")]
    query = """SELECT ?c ?ucum ?factor (COALESCE(?o, 0) AS ?offset) {
        ?c cg:acceptsUnit ?u . ?u cg:ucum ?ucum ; cg:factor ?factor . OPTIONAL { ?u cg:offset ?o } }"""
    for row in rows(query):
        found.units.setdefault(row[0], []).append((row[1].value, float(row[2].value), float(row[3].value)))
    query = "SELECT ?c ?low ?high { ?c cg:plausibleMinimum ?low ; cg:plausibleMaximum ?high }"
    found.limits = {row[0]: (float(row[1].value), float(row[2].value)) for row in rows(query)}
    for scheme in ("Phase", "State", "Course"):
        found.members[scheme] = [row[0] for row in rows(f"SELECT ?m {{ ?m a cg:{scheme} }}")]
    stated = [row[0] for row in rows("SELECT DISTINCT ?p { ?p cg:statedOn ?k }")]
    found.properties = stated * 3 + [cg(name) for name in ("hasFact", "hasEligible", "canonicalValue", "valeu", "hasFindings")]
    found.properties += [ox.NamedNode("http://xmlns.com/foaf/0.1/name"), TYPE]
    found.codes = [row[0].value for row in rows("SELECT ?n { ?c skos:notation ?n ; cg:expectsUnit ?u }")] + ["0000-0"]
    return found


class Generator:
    """Makes patients, first good ones, then breaks most of them in up to three ways."""

    def __init__(self, seed: int, files: tuple[Path, ...]) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.words = vocabulary(files)
        self.triples: list[ox.Triple] = []
        self.facts: list[ox.NamedNode] = []
        self.patients: list[ox.NamedNode] = []

    def make(self, patients: int) -> list[ox.Quad]:
        for number in range(patients):
            start = len(self.triples)
            self.patient(number)
            if self.random.random() < 0.85:
                for _ in range(self.random.choice((1, 1, 1, 2, 3))):
                    self.break_one(start)
        return [ox.Quad(t.subject, t.predicate, t.object) for t in dict.fromkeys(self.triples)]

    def add(self, subject: Any, predicate: ox.NamedNode, value: Any) -> None:
        self.triples.append(ox.Triple(subject, predicate, value))

    def pick(self, items: list[Any]) -> Any:
        return self.random.choice(items)

    def patient(self, number: int) -> None:
        patient = ox.NamedNode(f"{EX}P{number}")
        self.patients.append(patient)
        self.add(patient, TYPE, cg("Patient"))
        for index in range(self.pick([1, 1, 2, 2, 3])):
            has = self.pick([*KINDS, "hasObservation", "hasObservation", "hasMedication", "hasFinding"])
            fact = ox.NamedNode(f"{patient.value}/{index}")
            self.add(patient, cg(has), fact)
            self.fact(fact, KINDS[has])

    def fact(self, fact: ox.NamedNode, kind: str) -> None:
        self.facts.append(fact)
        chosen = self.pick(self.words.classes[kind])
        self.add(fact, TYPE, chosen)
        if kind in {"Observation", "Setting"}:
            self.quantity(fact, chosen, "value")
        if kind == "Observation":
            self.add(fact, cg("time"), self.time("2026-02-10T0{}:{}:00Z"))
            if self.random.random() < 0.3:
                self.add(fact, cg("reportedCode"), ox.Literal(self.pick(self.words.codes)))
        if kind in {"Medication", "Order"} and self.random.random() < 0.7:
            self.quantity(fact, chosen, "dailyDose")
        if kind in {"Treatment", "Medication", "Session", "Setting"}:
            self.add(fact, cg("start"), self.time("2026-02-10T0{}:{}:00Z"))
            if kind != "Setting" and self.random.random() < 0.4:
                self.add(fact, cg("end"), self.time("2026-02-10T1{}:{}:00+01:00"))
        if kind == "Treatment" and self.words.classes["Setting"] and self.random.random() < 0.6:
            setting = ox.NamedNode(fact.value + "/setting")
            self.add(fact, cg("hasSetting"), setting)
            self.fact(setting, "Setting")
        if kind == "Finding":
            self.add(fact, cg("onset"), self.time("2026-02-0{}T10:{}:00Z"))
            if self.random.random() < 0.3:
                self.add(fact, cg("affectedSessions"), _literal("2", "integer"))
                self.add(fact, cg("ofSessions"), _literal(self.pick(["1", "2", "6"]), "integer"))
            if self.random.random() < 0.2:
                self.add(fact, cg("end"), self.time("2026-02-10T0{}:{}:00Z"))
            for name in ("phase", "state", "course"):
                if self.random.random() < 0.4:
                    self.add(fact, cg(name), self.pick([*self.words.members[name.capitalize()], cg("InProgress")]))

    def quantity(self, fact: ox.NamedNode, chosen: ox.NamedNode, name: str) -> None:
        unit, factor, offset = self.pick(self.words.units.get(chosen, [("mg/d", 1.0, 0.0)]))
        low, high = self.words.limits.get(chosen, (1.0, 10.0))
        canonical = self.pick([low, high, (low + high) / 2, low + (high - low) * self.random.random(), high * 3])
        self.add(fact, cg(name), _literal(f"{canonical / factor - offset:.4f}", "decimal"))
        self.add(fact, cg("unit"), ox.Literal(unit))

    def time(self, form: str) -> ox.Literal:
        return _literal(form.format(self.random.randint(1, 9), self.random.randint(10, 59)), "dateTime")

    def break_one(self, start: int) -> None:
        index = self.random.randrange(start, len(self.triples))
        old = self.triples[index]
        ways: list[Callable[[ox.Triple], list[ox.Triple]]] = [self.other_value, self.second_value, self.other_property]
        ways += [self.other_value, self.other_value, self.other_class, self.other_class, self.second_class]
        ways += [self.other_owner, self.extra, lambda _: []]
        self.triples[index : index + 1] = self.pick(ways)(old)
        if len(self.triples) <= start:
            self.triples.append(old)

    def other_value(self, old: ox.Triple) -> list[ox.Triple]:
        return [ox.Triple(old.subject, old.predicate, self.value(old.predicate))]

    def second_value(self, old: ox.Triple) -> list[ox.Triple]:
        return [old, ox.Triple(old.subject, old.predicate, self.value(old.predicate))]

    def other_property(self, old: ox.Triple) -> list[ox.Triple]:
        return [ox.Triple(old.subject, self.pick(self.words.properties), old.object)]

    def other_class(self, old: ox.Triple) -> list[ox.Triple]:
        return [ox.Triple(old.subject, TYPE, self.pick(self.words.odd_classes))]

    def second_class(self, old: ox.Triple) -> list[ox.Triple]:
        return [old, ox.Triple(self.pick(self.facts), TYPE, self.pick(self.words.odd_classes))]

    def other_owner(self, old: ox.Triple) -> list[ox.Triple]:
        owner = self.pick([*self.patients, *self.facts])
        return [old, ox.Triple(owner, cg(self.pick([*KINDS, "hasSetting"])), self.pick(self.facts))]

    def extra(self, old: ox.Triple) -> list[ox.Triple]:
        predicate = self.pick(self.words.properties)
        return [old, ox.Triple(self.pick([*self.facts, *self.patients]), predicate, self.value(predicate))]

    def value(self, predicate: ox.NamedNode) -> Any:
        name = predicate.value.removeprefix(CG)
        if self.random.random() < 0.1:
            name = "anything"
        if name in {"value", "dailyDose", "affectedSessions", "ofSessions"}:
            return _literal(self.pick(NUMBERS), self.pick(NUMBER_TYPES))
        if name in {"time", "onset", "start", "end", "doseSince"}:
            return _literal(self.pick(TIMES), self.pick(TIME_TYPES))
        if name == "unit":
            every = [unit for units in self.words.units.values() for unit, _, _ in units]
            return self.pick([ox.Literal(self.pick(every)), ox.Literal("mg/dl"), ox.Literal(self.pick(every), language="en")])
        if name in {"phase", "state", "course"}:
            return self.pick([node for nodes in self.words.members.values() for node in nodes] + [cg("Nowhere")])
        nodes = [ox.Literal("text"), self.pick(self.facts), self.pick(self.words.odd_classes), ox.NamedNode(EX + "elsewhere")]
        if predicate == TYPE:  # rdflib takes the literals 0 and "" for a wildcard when it joins on them
            return self.pick(nodes)
        numbers = _literal(self.pick(NUMBERS), self.pick(NUMBER_TYPES))
        return self.pick([*nodes, numbers, _literal(self.pick(TIMES), self.pick(TIME_TYPES))])


def _literal(text: str, datatype: str) -> ox.Literal:
    return ox.Literal(text, datatype=ox.NamedNode(XSD + datatype))


def compare(seed: int, patients: int, files: tuple[Path, ...]) -> Found:
    store = store_with(Generator(seed, files).make(patients), files=files)
    found = found_by_kbtool(store)
    assert found == found_by_pyshacl(store)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_pyshacl_agrees_on_generated_patients(seed: int) -> None:
    assert compare(seed, 15, TEST_KB)


@pytest.mark.parametrize("seed", range(10))
def test_pyshacl_agrees_on_generated_patients_of_the_guideline(seed: int) -> None:
    assert compare(seed, 10, REAL_KB)


@pytest.mark.deep
@pytest.mark.parametrize("files", [TEST_KB, REAL_KB], ids=["test", "guideline"])
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_pyshacl_agrees_on_thousands(seed: int, files: tuple[Path, ...]) -> None:
    compare(seed, 25, files)


def compare_literals(literals: list[ox.Literal]) -> None:
    """One patient for each literal, who has it wherever a literal can stand."""
    tv = "https://example.org/test-vocabulary/"
    head = f"@prefix cg: <{CG}> . @prefix tv: <{tv}> . @prefix xsd: <{XSD}> .\n"
    form = """<P{0}> a cg:Patient ; cg:hasObservation <P{0}/o> ; cg:hasFinding <P{0}/f> .
    <P{0}> cg:hasSession <P{0}/s> ; cg:hasMedication <P{0}/m> .
    <P{0}/o> a tv:PeakFlow ; cg:value {1} ; cg:unit "L/min" ; cg:time {1} .
    <P{0}/f> a tv:Wheeze ; cg:onset {1} ; cg:end "2026-02-10T10:00:00Z"^^xsd:dateTime .
    <P{0}/f> cg:affectedSessions {1} ; cg:ofSessions 3 .
    <P{0}/s> a tv:InhalationSession ; cg:start "2026-02-10T05:00:00Z"^^xsd:dateTime ; cg:end {1} .
    <P{0}/m> a tv:Salbutamol ; cg:dailyDose {1} ; cg:unit {1} ; cg:doseSince {1} .
    <P{0}/m> cg:start {1} ; cg:end "2026-02-10T10:00:00Z"^^xsd:dateTime .
    """
    facts = "\n".join(form.format(number, literal) for number, literal in enumerate(literals))
    store = store_with(head + f"@base <{EX}> .\n" + facts)
    assert found_by_kbtool(store) == found_by_pyshacl(store)


@pytest.mark.parametrize(("texts", "datatype"), [(TIMES, "dateTime"), (NUMBERS, "decimal"), (NUMBERS, "integer")])
def test_pyshacl_agrees_on_literals(texts: list[str], datatype: str) -> None:
    compare_literals([_literal(text, datatype) for text in texts])


@pytest.mark.deep
@pytest.mark.parametrize("datatype", sorted({*NUMBER_TYPES, *TIME_TYPES}))
def test_pyshacl_agrees_on_every_literal(datatype: str) -> None:
    compare_literals([_literal(text, datatype) for text in NUMBERS + TIMES])


def test_generated_patients_break_nearly_every_shape() -> None:
    facts = [Generator(seed, TEST_KB).make(60) for seed in range(40)]
    broken = {shape for some in facts for _, shape, _ in found_by_kbtool(store_with(some))}
    run = {"AsOfShape", "PatientIriShape", "PatientTermShape", "RunShape"}
    assert {c.shape.removeprefix(CG) for c in compiled()} - broken <= run


# --- The compiler ---

PREFIXES = """@prefix sh: <http://www.w3.org/ns/shacl#> . @prefix ex: <http://example.org/> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
"""
DATA = """ex:B rdfs:subClassOf ex:A . ex:C rdfs:subClassOf ex:B .
ex:a a ex:A ; ex:p 1 , 5.5 , "x" , "abc" , "maybe"^^xsd:integer , 9.0e0 ; ex:q ex:b , ex:c , [] .
ex:b a ex:B ; ex:p 3 . ex:c a ex:C ; ex:p ex:a , "hai"@en ; ex:q ex:c .
ex:d ex:p "2026-02-10T00:00:00Z"^^xsd:dateTime ; ex:q "d" .
"""
TARGETS = [
    "sh:targetClass ex:A",
    "sh:targetClass ex:B ; sh:targetNode ex:d , ex:nowhere",
    "sh:targetSubjectsOf ex:q",
    "sh:targetObjectsOf ex:p , ex:q",
]
ON_PROPERTIES = ["sh:minCount 1", "sh:maxCount 0", "sh:maxCount 1", "sh:maxCount 2"]
ON_VALUES = [
    *("sh:hasValue ex:c", "sh:hasValue 3", "sh:class ex:A", "sh:class ex:B", "sh:in ( 1 3 ex:a ex:b )", "sh:in ()"),
    *(
        f"sh:nodeKind sh:{kind}"
        for kind in ("IRI", "BlankNode", "Literal", "BlankNodeOrIRI", "IRIOrLiteral", "BlankNodeOrLiteral")
    ),
    *(f"sh:datatype xsd:{name}" for name in ("integer", "decimal", "string", "boolean", "double", "dateTime")),
    *(f"sh:{limit} 3" for limit in ("minInclusive", "maxInclusive", "minExclusive", "maxExclusive")),
    *('sh:pattern "^[a-z]+$"', 'sh:pattern "A" ; sh:flags "i"'),
]
PATHS = ["ex:p", "ex:q", "[ sh:inversePath ex:q ]"]


def shapes_of(text: str) -> ox.Store:
    store = ox.Store()
    store.load((PREFIXES + text).encode(), format=ox.RdfFormat.TURTLE)
    return store


@pytest.mark.parametrize("target", TARGETS)
def test_core_constraints_mean_what_they_mean_to_pyshacl(target: str) -> None:
    shapes = []
    for number, constraint in enumerate(ON_VALUES):
        shapes.append(f"ex:N{number} a sh:NodeShape ; {target} ; {constraint} .")
    for number, (path, constraint) in enumerate((p, c) for p in PATHS for c in ON_VALUES + ON_PROPERTIES):
        shapes.append(f"ex:S{number} a sh:NodeShape ; {target} ; sh:property ex:P{number} .")
        shapes.append(f"ex:P{number} a sh:PropertyShape ; sh:path {path} ; {constraint} .")
    text = "\n".join(shapes)
    data = ox.Store()
    data.load((PREFIXES + DATA).encode(), format=ox.RdfFormat.TURTLE)
    ours = {(_name(v.focus), v.shape, v.severity) for v in validate(data, compile_shapes(shapes_of(text)))}
    assert ours == found_by_pyshacl(data, rdflib.Graph().parse(data=PREFIXES + text, format="turtle"))


NODE = "ex:S a sh:NodeShape ; sh:targetClass ex:A ; "
UNSUPPORTED = {
    "a component": NODE + "sh:not [ sh:class ex:B ] .",
    "or": NODE + "sh:or ( [ sh:class ex:B ] [ sh:class ex:C ] ) .",
    "closed": NODE + "sh:closed true .",
    "deactivated": NODE + "sh:deactivated true ; sh:class ex:B .",
    "a target": "ex:S a sh:NodeShape ; sh:target [ sh:select 'SELECT ?this { ?this ?p ?o }' ] ; sh:class ex:B .",
    "no target": "ex:S a sh:NodeShape ; sh:class ex:B .",
    "implicit target": "ex:S a sh:NodeShape , owl:Class ; sh:class ex:B . "
    + NODE.replace("ex:S ", "ex:T ")
    + "sh:property ex:S .",
    "a path": NODE + "sh:property [ sh:path ( ex:p ex:q ) ; sh:minCount 1 ] .",
    "a path with a star": NODE + "sh:property [ sh:path [ sh:zeroOrMorePath ex:p ] ; sh:minCount 1 ] .",
    "a count": NODE + "sh:property [ sh:path ex:p ; sh:minCount 2 ] .",
    "a count without a path": NODE + "sh:minCount 1 .",
    "nested properties": NODE + "sh:property [ sh:path ex:p ; sh:property [ sh:path ex:q ; sh:minCount 1 ] ] .",
    "a datatype": NODE + "sh:property [ sh:path ex:p ; sh:datatype xsd:gYear ] .",
    "a lookahead": NODE + "sh:property [ sh:path ex:p ; sh:pattern '^(?=a)' ] .",
    "a backreference": NODE + r"sh:property [ sh:path ex:p ; sh:pattern '^(a)\\1' ] .",
    "an ask query": NODE + "sh:sparql [ sh:ask 'ASK { $this ex:p ?value }' ] .",
    "a query without this": NODE + "sh:sparql [ sh:select 'SELECT ?value WHERE { ?value ?p ?o }' ] .",
    "a query with a star": NODE + "sh:sparql [ sh:select 'SELECT * WHERE { $this ?p ?o }' ] .",
    "a query with values": NODE + "sh:sparql [ sh:select 'SELECT $this WHERE { VALUES ?p { 1 } $this ?q ?p }' ] .",
    "a query that reads shapes": NODE + "sh:sparql [ sh:select 'SELECT $this WHERE { $this ?q $shapesGraph }' ] .",
    "a severity in the query": NODE + "sh:sparql [ sh:severity sh:Info ; sh:select 'SELECT $this WHERE { $this ?p ?o }' ] .",
    "a list without end": NODE + "sh:in [ <http://www.w3.org/1999/02/22-rdf-syntax-ns#first> 1 ] .",
    "javascript": NODE + "sh:js [ sh:jsFunctionName 'f' ] .",
}


@pytest.mark.parametrize("text", UNSUPPORTED.values(), ids=list(UNSUPPORTED))
def test_what_is_not_supported_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedShape, match="not supported"):
        compile_shapes(shapes_of(text))


def test_sparql_on_a_property_shape_gets_the_path() -> None:
    select = "SELECT $this ?value WHERE { $this $PATH ?value . FILTER(isIRI(?value)) }"
    text = NODE + f'sh:property ex:P . ex:P a sh:PropertyShape ; sh:path ex:p ; sh:sparql [ sh:select "{select}" ] .'
    data = ox.Store()
    data.load((PREFIXES + DATA).encode(), format=ox.RdfFormat.TURTLE)
    (violation,) = validate(data, compile_shapes(shapes_of(text)))
    assert (_name(violation.focus), violation.path, violation.value) == (EX + "c", EX + "p", EX + "a")


def test_the_part_of_the_knowledge_base_that_is_read_is_enough() -> None:
    facts = Generator(7, REAL_KB).make(40)
    part = store_with(facts, files=REAL_KB)
    whole = store_with(facts, files=REAL_KB)
    for file in REAL_KB:
        whole.load(path=file, format=ox.RdfFormat.TURTLE)
    assert len(part) < len(whole)
    assert validate(part, compiled()) == validate(whole, compiled())


def test_results_are_sorted_and_unique() -> None:
    violations = validate(store_with(Generator(3, TEST_KB).make(30)), compiled())
    keys = [(str(v.focus), v.shape, v.path or "", v.value or "", v.message) for v in violations]
    assert keys == sorted(set(keys))
    assert all(isinstance(v, Violation) for v in violations)


def test_messages_print_terms_by_their_local_names() -> None:
    text = (
        NODE
        + """sh:sparql [ sh:message "{?value} and {$count} and {?nothing}" ;
        sh:select "SELECT $this ?value (1 AS ?count) WHERE { $this ex:q ?value . FILTER($this = ?value) }" ;
        sh:prefixes ex:O ] . ex:O sh:declare [ sh:prefix "ex" ; sh:namespace "http://example.org/" ] ."""
    )
    data = ox.Store()
    data.load((PREFIXES + DATA).encode(), format=ox.RdfFormat.TURTLE)
    (violation,) = validate(data, compile_shapes(shapes_of(text)))
    assert violation.message == "c and 1 and {?nothing}"
