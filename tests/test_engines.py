"""The same queries must say the same wherever and however they run, and *unknown* must mean what it says.

- rdflib and Oxigraph derive the same triples (rdflib is slow: a sample by default, all with `pytest -m deep`);
- a batch of patients gets the same answers as each patient alone;
- the part of the knowledge base that is loaded at run time does the same as the whole of it, and a step that skips
  updates without effect does the same as one that runs them all;
- where a criterion is unknown, filling in what it needs can make it certain, and where it is neither certain nor
  unknown, no value of what is lacking makes it certain.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import combinations, product
from pathlib import Path
from random import Random

import pyoxigraph as ox
import pytest
import rdflib
import rdflib.plugins.sparql
from generate import AS_OF, Vocabulary, generate, plain, seeded
from rdflib.plugins.sparql import prepareUpdate
from rdflib.plugins.sparql.sparql import Update

import kbtool
from kbtool import engine
from kbtool.criteria import Criteria, Expression, Named, Range
from kbtool.facts import PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, XSD, local_name, text

FOLDER = Path(__file__).parent / "patients"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ttl"))
WORKED = [name for name in NAMES if name[0] == "P" and name[1:3].isdigit()]
OTHERS = [name for name in NAMES if name not in WORKED]
SEED = 20260211

Derived = set[tuple[str, str, str]]


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def as_of(name: str) -> str:
    found: str = json.loads((FOLDER / f"{name}.expected.json").read_text(encoding="utf-8"))["asOf"]
    return found


def records(kb: kbtool.KnowledgeBase, sources: Iterable[Path | bytes]) -> list[PatientFacts]:
    return [record for group in kb.read(*sources, format="turtle").groups for record in group]


def checked(knowledge: Knowledge, batch: list[PatientFacts], moment: str, *, whole: bool = False) -> ox.Store:
    """A store with the accepted facts of a batch, before anything is derived."""
    store = engine.load_store(knowledge, batch, engine.parse_as_of(moment), whole=whole)
    engine.check(store, knowledge, batch)
    store.extend(quad for record in batch for quad in record.reported)
    return store


def value_of(term: object) -> str:
    """A term as text, numbers by value: engines write them differently."""
    datatype = getattr(term, "datatype", None)
    kind = getattr(datatype, "value", None) or str(datatype)
    if kind in (XSD["decimal"].value, XSD["integer"].value):
        lexical = term.value if isinstance(term, ox.Literal) else str(term)
        number = Decimal(lexical).normalize()
        return format(number if number else Decimal(0), "f")
    return str(term) if isinstance(term, ox.NamedNode | ox.BlankNode | ox.Literal) else str(term.n3())  # type: ignore[attr-defined]


def by_oxigraph(knowledge: Knowledge, store: ox.Store, *, whole_steps: bool = False) -> Derived:
    """What Oxigraph derives."""
    before = set(store)
    for step in knowledge.steps:
        if whole_steps:
            store.update(step.update)
        else:
            step.run(store)
    return {(value_of(q.subject), q.predicate.value, value_of(q.object)) for q in set(store) - before}


def difference(one: Derived, other: Derived, names: tuple[str, str]) -> list[str]:
    sides = zip(names, (one - other, other - one), strict=True)
    return sorted(f"only {name}: {' '.join(triple)}" for name, triples in sides for triple in triples)


# --- rdflib and Oxigraph ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def updates(kb: kbtool.KnowledgeBase) -> list[Update]:
    return [prepareUpdate(step.prologue + part.text) for step in kb.knowledge.steps for part in step.parts]


@pytest.fixture(autouse=True)
def _as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdflib.plugins.sparql, "SPARQL_LOAD_GRAPHS", False)
    monkeypatch.setattr(rdflib, "NORMALIZE_LITERALS", False)


def by_rdflib(store: ox.Store, updates: list[Update]) -> Derived:
    """What rdflib derives from the same triples."""
    data = ox.serialize((q.triple for q in store), format=ox.RdfFormat.N_TRIPLES)
    assert data is not None
    graph = rdflib.Graph().parse(data=data, format="nt")
    before = set(graph)
    for update in updates:
        graph.update(update)
    return {(value_of(s), str(p), value_of(o)) for s, p, o in set(graph) - before}


def engines_differ(kb: kbtool.KnowledgeBase, batch: list[PatientFacts], moment: str, updates: list[Update]) -> list[str]:
    store = checked(kb.knowledge, batch, moment)
    slow = by_rdflib(store, updates)
    fast = by_oxigraph(kb.knowledge, store)
    assert len(fast) > 20 or not any(True for _ in store.quads_for_pattern(None, CG["hasFact"], None, None))
    assert not any(p == RDF["type"].value and o.startswith("_:") for _, p, o in fast)
    return difference(slow, fast, ("rdflib", "Oxigraph"))


@pytest.mark.parametrize("name", [*WORKED[::2], *OTHERS[:: len(OTHERS) // 8]])
def test_rdflib_agrees(kb: kbtool.KnowledgeBase, updates: list[Update], name: str) -> None:
    assert engines_differ(kb, records(kb, [FOLDER / f"{name}.ttl"]), as_of(name), updates) == []


def test_rdflib_agrees_where_a_group_has_nothing_in_it(kb: kbtool.KnowledgeBase, updates: list[Update]) -> None:
    """A weight before a session, and one after a session that is not yet over: rdflib gives a row for the maximum of nothing."""
    facts = """@prefix cg: <https://w3id.org/kbtool/cg/> . @prefix dk: <https://w3id.org/kbtool/dialysis/> .
        @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
        <urn:p> a cg:Patient ; cg:hasTreatment [ a dk:Haemodialysis ; cg:start "2025-01-05T12:00:00Z"^^xsd:dateTime ] ;
          cg:hasObservation
            [ a dk:PreDialysisWeight ; cg:value 72 ; cg:unit "kg" ; cg:time "2026-02-10T05:59:24Z"^^xsd:dateTime ] ,
            [ a dk:PostDialysisWeight ; cg:value 70 ; cg:unit "kg" ; cg:time "2026-02-10T10:00:00Z"^^xsd:dateTime ] .
    """
    assert engines_differ(kb, records(kb, [facts.encode()]), AS_OF, updates) == []


@pytest.mark.deep
@pytest.mark.parametrize("name", NAMES)
def test_rdflib_agrees_on_every_patient(kb: kbtool.KnowledgeBase, updates: list[Update], name: str) -> None:
    assert engines_differ(kb, records(kb, [FOLDER / f"{name}.ttl"]), as_of(name), updates) == []


def test_rdflib_agrees_on_generated_patients(kb: kbtool.KnowledgeBase, updates: list[Update]) -> None:
    for document in generate(kb.knowledge, seed=SEED, n=2):
        assert engines_differ(kb, records(kb, [document.encode()]), AS_OF, updates) == [], document


@pytest.mark.deep
@pytest.mark.parametrize("start", range(0, 100, 10))
def test_rdflib_agrees_on_many_generated_patients(kb: kbtool.KnowledgeBase, updates: list[Update], start: int) -> None:
    for document in generate(kb.knowledge, seed=SEED, n=100)[start : start + 10]:
        assert engines_differ(kb, records(kb, [document.encode()]), AS_OF, updates) == [], document


def test_a_difference_between_engines_is_noticed(kb: kbtool.KnowledgeBase, updates: list[Update]) -> None:
    assert engines_differ(kb, records(kb, [FOLDER / f"{WORKED[0]}.ttl"]), as_of(WORKED[0]), updates[:-1]) != []


# --- However the steps are run ----------------------------------------------------------------------


def sources_of(kb: kbtool.KnowledgeBase, generated: int) -> list[Path | bytes]:
    texts = [*generate(kb.knowledge, SEED, generated), *generate(kb.knowledge, SEED, generated // 3, broken=True)]
    return [*(FOLDER / f"{name}.ttl" for name in NAMES if as_of(name) == AS_OF), *(document.encode() for document in texts)]


def test_a_batch_gets_the_same_answers_as_each_patient_alone(kb: kbtool.KnowledgeBase) -> None:
    facts = kb.read(*sources_of(kb, 60)[::2], format="turtle")
    moment = engine.parse_as_of(AS_OF)
    together = [p.to_json() for p in engine.assess(kb.knowledge, facts, moment)]
    alone = [p.to_json() for p in engine.assess(kb.knowledge, facts, moment, size=1)]
    assert [p["patient"] for p in together] == [p["patient"] for p in alone]
    assert [a["patient"] for a, b in zip(together, alone, strict=True) if a != b] == []


def test_validation_needs_only_the_part_that_is_loaded(kb: kbtool.KnowledgeBase) -> None:
    batch = records(kb, sources_of(kb, 300))
    found = []
    for whole in (False, True):
        store = engine.load_store(kb.knowledge, batch, engine.parse_as_of(AS_OF), whole=whole)
        result = engine.check(store, kb.knowledge, batch)
        kinds = {"set aside": result.set_aside, "refused": result.refused, "warning": result.warnings}
        violations = [(kind, patient, v) for kind, each in kinds.items() for patient, vs in each.items() for v in vs]
        found.append({(kind, patient, v.shape, str(v.focus), v.path, v.message) for kind, patient, v in violations})
    assert sorted(found[1] - found[0]) == []
    assert sorted(found[0] - found[1]) == []
    assert len({shape for _, _, shape, _, _, _ in found[1]}) > 12


def test_steps_need_only_the_part_that_is_loaded_and_skip_nothing_that_matters(kb: kbtool.KnowledgeBase) -> None:
    for batch in ([r] for r in records(kb, sources_of(kb, 60))[::12]):
        part = by_oxigraph(kb.knowledge, checked(kb.knowledge, batch, AS_OF))
        complete = by_oxigraph(kb.knowledge, checked(kb.knowledge, batch, AS_OF, whole=True), whole_steps=True)
        known = {value_of(r.patient) for r in batch} | {value_of(q.subject) for r in batch for q in r.triples}
        known |= {s for s, p, _ in complete if p in (CG["ofPatient"].value, CG["ofCriterion"].value)}
        assert difference(part, {t for t in complete if t[0] in known or t in part}, ("part", "whole")) == []


# --- What unknown means -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Filling:
    """Something that fills one need: facts that are stated before anything is derived, in the place of others with the same
    property of the same node, or an eligible quantity (class, value, unit)."""

    need: str
    facts: tuple[ox.Quad, ...] = ()
    quantity: tuple[str, Decimal, str] | None = None


@dataclass
class Subject:
    """A patient with what has been derived: of the patient and its facts, the criteria met, unknown, and what they need."""

    record: PatientFacts
    met: dict[ox.NamedNode, set[str]] = field(default_factory=dict)
    unknown: dict[tuple[ox.NamedNode, str], set[str]] = field(default_factory=dict)
    lacks: list[str] = field(default_factory=list)
    fillings: dict[str, list[Filling]] = field(default_factory=dict)


class Prober:
    """Derives patients with things filled in."""

    def __init__(self, knowledge: Knowledge, moment: str) -> None:
        self.knowledge, self.moment = knowledge, datetime.fromisoformat(moment)
        self.v = Vocabulary.read(knowledge)
        self.criteria = {c.iri: c for c in Criteria.read(knowledge.graph).ordered}
        names = [step.name for step in knowledge.steps]
        self.eligible = next(i for i, name in enumerate(names) if name.endswith("eligible")) + 1
        self.classified = names.index("classify/patients") + 1

    def closure(self, iri: str) -> set[str]:
        """A criterion and all that its definition refers to."""
        found: set[str] = set()
        waiting = [iri]
        while waiting:
            name = waiting.pop()
            if name in self.criteria and name not in found:
                found.add(name)
                waiting += self.criteria[name].refers_to
        return found

    def derive(self, batch: list[PatientFacts], quantities: Iterable[tuple[ox.NamedNode, Filling]] = ()) -> ox.Store:
        """Everything up to the classification of patients, with some eligible quantities put in where they are chosen."""
        store = engine.load_store(self.knowledge, batch, engine.parse_as_of(self.moment))
        for step in self.knowledge.steps[: self.eligible]:
            step.run(store)
        for number, (patient, filling) in enumerate(quantities):
            assert filling.quantity is not None
            kind, value, unit = filling.quantity
            node = ox.NamedNode(f"urn:filling:{number}")
            factor, offset = next((f, o) for u, f, o in self.v.units(kind) if u == unit)
            canonical = ((value + offset) * factor).quantize(Decimal("0.000001"))
            number_literal, canonical_literal = (ox.Literal(plain(n), datatype=XSD["decimal"]) for n in (value, canonical))
            stated = [(CG["value"], number_literal), (CG["canonicalValue"], canonical_literal), (CG["unit"], ox.Literal(unit))]
            store.extend(ox.Quad(node, RDF["type"], ox.NamedNode(c)) for c in {kind, *self.v.above(kind)})
            store.extend(ox.Quad(node, prop, literal) for prop, literal in stated)
            store.extend(ox.Quad(patient, CG[link], node) for link in ("hasFact", "hasEligible"))
        for step in self.knowledge.steps[self.eligible : self.classified]:
            step.run(store)
        return store

    def subjects(self, batch: list[PatientFacts]) -> list[Subject]:
        """The patients as they are."""
        store = self.derive(batch)
        return [self.read(store, record) for record in batch]

    def read(self, store: ox.Store, record: PatientFacts) -> Subject:
        """What has been derived about a patient."""
        subject = Subject(record)
        assert isinstance(record.patient, ox.NamedNode)
        facts = {q.object for q in store.quads_for_pattern(record.patient, CG["hasFact"], None, None)}
        for node in [record.patient, *sorted(facts, key=str)]:
            assert isinstance(node, ox.NamedNode)
            subject.met[node] = self.met(store, node)
            for name in self.only(store, node, "hasUnknown"):
                iri = self.only(store, ox.NamedNode(name), "ofCriterion")[0]
                subject.unknown[node, iri] = set(self.only(store, ox.NamedNode(name), "needs"))
            marked = set(self.only(store, node, "unknown"))
            assert marked == {iri for n, iri in subject.unknown if n == node}, "cg:unknown and the nodes that explain it differ"
        subject.lacks = sorted(self.only(store, record.patient, "lacksEligible"))
        for kind in subject.lacks:
            subject.fillings[kind] = [Filling(kind, quantity=(kind, value, unit)) for value, unit in self.values(kind)]
        self.attributes(store, subject)
        return subject

    def met(self, store: ox.Store, node: ox.NamedNode) -> set[str]:
        """The criteria that a patient or fact meets."""
        return self.kinds(store, node) & self.criteria.keys()

    def kinds(self, store: ox.Store, node: ox.NamedNode) -> set[str]:
        """All classes of a node."""
        return {text(q.object) for q in store.quads_for_pattern(node, RDF["type"], None, None)}

    def only(self, store: ox.Store, node: object, name: str) -> list[str]:
        quads = store.quads_for_pattern(node, CG[name], None, None)  # type: ignore[arg-type]
        return [q.object.value for q in quads if isinstance(q.object, ox.NamedNode)]

    def values(self, kind: str) -> list[tuple[Decimal, str]]:
        """Values at, below and above every threshold of a quantity."""
        units = self.v.units(kind)
        canonical = self.knowledge.value(kind, CG["canonicalUnit"]) or ""
        unit, factor, offset = next((u for u in units if u[0] == canonical), units[0])
        points = [(limit / factor - offset, unit) for limit in self.v.thresholds(kind, "canonicalValue")]
        points += [(limit, u) for u, _, _ in units for limit in self.v.thresholds(kind, "value", u)]
        small = Decimal("0.001")
        return [(limit + step, u) for limit, u in points for step in (-small, 0, small)] or [(Decimal(1), unit)]

    def attributes(self, store: ox.Store, subject: Subject) -> None:
        """Fillings of attributes that are lacking on facts."""
        patient = subject.record.patient

        def lacking(link: str, attribute: str) -> list[ox.NamedNode]:
            facts = sorted(self.only(store, patient, link))
            return [ox.NamedNode(f) for f in facts if CG[attribute].value in self.only(store, ox.NamedNode(f), "hasUnrecorded")]

        def add(attribute: str, *quads: ox.Quad) -> None:
            subject.fillings.setdefault(CG[attribute].value, []).append(Filling(CG[attribute].value, quads))

        for finding in lacking("hasFact", "PhaseOfFinding"):
            for phase in self.v.instances("Phase"):
                add("PhaseOfFinding", ox.Quad(finding, CG["phase"], ox.NamedNode(phase)))
        for session in self.only(store, patient, "hasOpenSession"):
            add("SessionEnd", ox.Quad(ox.NamedNode(session), CG["end"], self.time(-1)))
        undated = [m for m in lacking("hasCurrentMedication", "TimeAtDose") if not self.numbers(store, m, "ownDaysAtDose")]
        for days in (0, 1, 6, 7, 14, 27, 28, 29, 400):
            add("TimeAtDose", *(ox.Quad(medication, CG["doseSince"], self.time(days * 24)) for medication in undated))
        for finding in lacking("hasFact", "RecentSessions"):
            (affected,), (of,) = (self.numbers(store, finding, name) for name in ("affectedSessions", "ofSessions"))
            windows = {d for kind in self.kinds(store, finding) for d in self.knowledge.values(kind, CG["sessionWindow"])}
            for window in {n for d in windows for n in self.v.range_limits(d)}:
                for recent in range(max(0, int(affected - (of - window))), int(min(affected, window)) + 1):
                    counts = {"affectedSessions": recent, "ofSessions": int(window)}
                    add(
                        "RecentSessions",
                        *(ox.Quad(finding, CG[n], ox.Literal(str(c), datatype=XSD["integer"])) for n, c in counts.items()),
                    )
        medications, orders = (lacking(link, "DailyDose") for link in ("hasCurrentMedication", "hasActiveOrder"))
        for fact in (*medications, *orders):
            for dose in self.doses(store, fact):
                add("DailyDose", *dose)
        for order in lacking("hasActiveOrder", "DoseChange"):
            substances = {m for kind in self.kinds(store, order) for m in self.knowledge.values(kind, CG["ordersMedication"])}
            changed = [m for m in medications if substances & self.kinds(store, m)]
            taken = [self.doses(store, medication)[:: len(self.doses(store, medication)) - 1] for medication in changed]
            for doses in product(*taken, *(self.doses(store, o) for o in orders if o == order)):
                add("DoseChange", *(quad for dose in doses for quad in dose))

    def numbers(self, store: ox.Store, node: ox.NamedNode, name: str) -> list[Decimal]:
        return [Decimal(text(q.object)) for q in store.quads_for_pattern(node, CG[name], None, None)]

    def time(self, hours: float) -> ox.Literal:
        moment = self.moment - timedelta(hours=hours)
        return ox.Literal(moment.isoformat().replace("+00:00", "Z"), datatype=XSD["dateTime"])

    def doses(self, store: ox.Store, fact: ox.NamedNode) -> list[tuple[ox.Quad, ...]]:
        """Doses around the ceiling, the step and the thresholds of the substance of a fact."""
        found: list[tuple[ox.Quad, ...]] = []
        for kind in sorted(self.kinds(store, fact)):
            substance = self.knowledge.value(kind, CG["ordersMedication"]) or kind
            if not self.v.units(substance):
                continue
            unit, factor, _ = self.v.units(substance)[0]
            limits = {
                Decimal(5),
                Decimal(10000),
                *(t for k in (kind, substance) for t in self.v.thresholds(k, "canonicalDailyDose")),
            }
            for name in ("doseCeiling", "doseStep"):
                limits |= {n for d in self.knowledge.values(substance, CG[name]) for n in self.v.range_limits(d)}
            for limit in sorted(limits):
                for dose in (limit, limit + 1):
                    literal = ox.Literal(plain(dose / factor), datatype=XSD["decimal"])
                    found.append((ox.Quad(fact, CG["dailyDose"], literal), ox.Quad(fact, CG["unit"], ox.Literal(unit))))
        return found

    def probe(self, trials: list[tuple[Subject, tuple[Filling, ...]]], size: int = 120) -> Iterator[dict[ox.NamedNode, set[str]]]:
        """For each trial the criteria that the patient and its facts meet, by the node of the patient without fillings."""
        for start in range(0, len(trials), size):
            batch, quantities, back = [], [], []
            for number, (subject, fillings) in enumerate(trials[start : start + size]):
                filled = {(q.subject, q.predicate): q for filling in fillings for q in filling.facts}
                quads = [q for q in subject.record.triples if (q.subject, q.predicate) not in filled] + list(filled.values())
                nodes = {q.subject for q in quads}
                names = {node: ox.NamedNode(f"urn:trial:{number}:{i}") for i, node in enumerate(sorted(nodes, key=str))}
                renamed = [ox.Quad(names[q.subject], q.predicate, names.get(q.object, q.object)) for q in quads]  # type: ignore[arg-type]
                patient = names[subject.record.patient]
                batch.append(PatientFacts(patient, renamed))
                quantities += [(patient, filling) for filling in fillings if filling.quantity]
                back.append(names)
            store = self.derive(batch, quantities)
            for names in back:
                yield {node: self.met(store, name) for node, name in names.items() if isinstance(node, ox.NamedNode)}

    def unfilled(self, subjects: list[Subject], random: Random) -> list[str]:
        """Unknown criteria that no filling of what they need makes certain."""
        open_: list[tuple[Subject, ox.NamedNode, str, set[str]]] = []
        for subject in subjects:
            open_ += [(subject, node, iri, needs) for (node, iri), needs in subject.unknown.items()]
        for count in (1, 2, 3, 4):
            trials: dict[tuple[int, tuple[Filling, ...]], tuple[Subject, tuple[Filling, ...]]] = {}
            wanted: list[list[tuple[int, tuple[Filling, ...]]]] = []
            for subject, _, iri, needs in open_:
                options = {need: self.relevant(subject.fillings.get(need, []), iri) for need in sorted(needs)}
                tuples = [t for some in combinations(options, count) for t in product(*(options[need] for need in some))]
                chosen = random.sample(tuples, min(len(tuples), 600))
                wanted.append([(id(subject), t) for t in chosen])
                trials |= {(id(subject), t): (subject, t) for t in chosen}
            results = dict(zip(trials, self.probe(list(trials.values())), strict=True))
            tried = zip(open_, wanted, strict=True)
            open_ = [entry for entry, keys in tried if not any(entry[2] in results[key].get(entry[1], ()) for key in keys)]
        return [f"{node.value} {local_name(iri)} needs {sorted(local_name(n) for n in needs)}" for _, node, iri, needs in open_]

    def relevant(self, fillings: list[Filling], iri: str) -> list[Filling]:
        """Fillings without the values of quantities that lie on one side of every threshold of a criterion as another does."""
        limits = {(p, Decimal(n)) for c in self.closure(iri) for p, n in _limits(self.criteria[c].expression)}
        kept: dict[tuple[object, ...], Filling] = {}
        for filling in fillings:
            key: tuple[object, ...] = (filling,)
            if filling.quantity:
                kind, value, unit = filling.quantity
                factor, offset = next((f, o) for u, f, o in self.v.units(kind) if u == unit)
                numbers = {"value": value, "canonicalValue": (value + offset) * factor}
                sides = tuple(sorted((p, n, numbers[p].compare(n)) for p, n in limits if p in numbers))
                key = (kind, unit, sides)
            kept.setdefault(key, filling)
        return list(kept.values())

    def missed(self, subjects: list[Subject], random: Random, each: int) -> list[str]:
        """Criteria of patients, neither certain nor unknown, that some value of lacking quantities makes certain all the same."""
        trials: list[tuple[Subject, tuple[Filling, ...]]] = []
        for subject in subjects:
            trials += [(subject, (filling,)) for kind in subject.lacks for filling in subject.fillings[kind]]
            for _ in range(each):
                trials.append((subject, tuple(random.choice(subject.fillings[kind]) for kind in subject.lacks)))
        found = []
        for (subject, fillings), met in zip(trials, self.probe(trials), strict=True):
            patient = subject.record.patient
            assert isinstance(patient, ox.NamedNode)
            new = {iri for iri in met[patient] - subject.met[patient] if (patient, iri) not in subject.unknown}
            closed = {iri for iri in self.criteria if self.criteria[iri].closed_world}
            for iri in sorted(new):
                if not self.closure(iri) & closed & (new | {iri}):
                    found.append(f"{patient.value} {local_name(iri)} by {[f.quantity for f in fillings]}")
            assert subject.met[patient] <= met[patient], (
                f"{patient.value}: a filling took {subject.met[patient] - met[patient]} away"
            )
        return found


def _limits(expression: Expression) -> Iterator[tuple[str, str]]:
    if isinstance(expression, Range):
        yield from ((local_name(expression.prop), number) for _, number in expression.limits)
    elif not isinstance(expression, Named):
        for part in (*getattr(expression, "parts", ()), *filter(None, [getattr(expression, "filler", None)])):
            yield from _limits(part)


def accepted(kb: kbtool.KnowledgeBase, sources: Iterable[Path | bytes], moment: str = AS_OF) -> list[PatientFacts]:
    """Patients without any fact that validation takes away."""
    batch = records(kb, sources)
    store = engine.load_store(kb.knowledge, batch, engine.parse_as_of(moment))
    found = engine.check(store, kb.knowledge, batch)
    return [r for r in batch if str(r.patient) not in found.refused.keys() | found.set_aside.keys()]


def sample(kb: kbtool.KnowledgeBase, every: int, generated: int) -> list[PatientFacts]:
    files = [FOLDER / f"{name}.ttl" for name in NAMES if as_of(name) == AS_OF][::every]
    return accepted(kb, [*files, *(document.encode() for document in generate(kb.knowledge, SEED, generated))])


def test_what_is_unknown_can_be_made_certain_by_what_it_needs(kb: kbtool.KnowledgeBase) -> None:
    prober = Prober(kb.knowledge, AS_OF)
    subjects = prober.subjects(sample(kb, 22, 8))
    assert sum(len(s.unknown) for s in subjects) > 200
    assert prober.unfilled(subjects, seeded(SEED)) == []


def test_what_is_neither_certain_nor_unknown_cannot_be_made_certain(kb: kbtool.KnowledgeBase) -> None:
    prober = Prober(kb.knowledge, AS_OF)
    assert prober.missed(prober.subjects(sample(kb, 22, 8)), seeded(SEED), 5) == []


def test_second_guideline_knows_what_it_does_not_know() -> None:
    kb = kbtool.load(Path(__file__).parent / "second_guideline" / "root.ttl")
    prober = Prober(kb.knowledge, AS_OF)
    subjects = prober.subjects(accepted(kb, [document.encode() for document in generate(kb.knowledge, SEED, 40)]))
    assert prober.unfilled(subjects, seeded(SEED)) == []
    assert prober.missed(subjects, seeded(SEED), 5) == []


def test_wrong_unknowns_are_noticed() -> None:
    kb = kbtool.load(Path(__file__).parent / "second_guideline" / "root.ttl")
    patients = accepted(kb, [document.encode() for document in generate(kb.knowledge, SEED, 20)])

    def altered(old: str, new: str, drop: str) -> Prober:
        steps = [
            replace(s, parts=tuple(replace(p, text=p.text.replace(old, new)) for p in s.parts if drop not in p.text))
            for s in kb.knowledge.steps
        ]
        return Prober(replace(kb.knowledge, steps=steps), AS_OF)

    one, other = (f"https://example.org/asthma/{name}" for name in ("RelativePeakFlow", "BodyTemperature"))
    renamed = altered(f"BIND(<{one}> AS", f"BIND(<{other}> AS", "nothing is dropped")
    assert renamed.unfilled(renamed.subjects(patients), seeded(SEED)) != []
    forgetful = altered("", "", "INSERT { ?x cg:unknown")
    assert forgetful.missed(forgetful.subjects(patients), seeded(SEED), 5) != []


@pytest.mark.deep
@pytest.mark.parametrize("start", range(0, 500, 50))
def test_unknown_of_every_patient(kb: kbtool.KnowledgeBase, start: int) -> None:
    prober = Prober(kb.knowledge, AS_OF)
    subjects = prober.subjects(sample(kb, 1, 300)[start : start + 50])
    assert prober.unfilled(subjects, seeded(SEED)) == []
    assert prober.missed(subjects, seeded(SEED), 20) == []
