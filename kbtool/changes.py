"""Find out by trying what decides an answer: which facts it rests on, and the smallest change that gives another one.

Every variant of a patient is assessed by the engine; nothing here guesses what a change would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice, product
from typing import Any

import pyoxigraph as ox

from kbtool import engine
from kbtool.answer import PatientResult
from kbtool.criteria import Named, Range, Value
from kbtool.facts import GENID, Facts, Node, PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, RDFS, local_name, text
from kbtool.ways import Need, Ways
from kbtool.witness import Case, Fact, Patients

Json = dict[str, Any]
Wanted = tuple[str, bool]
"""A criterion, and whether it is wanted to hold or not to hold."""

MOST_VARIANTS = 400
"""How many variants of a patient are tried before no change is said to have been found."""

_VARIANT = "https://w3id.org/kbtool/variant/"
_SHOWN = ("value", "dailyDose", "unit", "phase", "state", "course", "affectedSessions", "ofSessions")


@dataclass(frozen=True)
class Edit:
    """One change of a patient's facts: nodes that are taken out, and a fact that is put in."""

    removed: tuple[str, ...] = ()
    added: Fact | None = None


@dataclass(frozen=True)
class Change:
    """A change that was tried: what it does in words, the answer to it, and the patient after it in Turtle."""

    edits: list[str]
    result: PatientResult
    turtle: str


class Changes:
    """Variants of one patient."""

    def __init__(self, knowledge: Knowledge, record: PatientFacts, as_of: ox.Literal, store: ox.Store) -> None:
        self.knowledge, self.record, self.as_of, self.store = knowledge, record, as_of, store
        self.ways = Ways(knowledge)
        self.patients = Patients(self.ways, as_of.value)
        self.links = {
            text(q.subject) for q in knowledge.graph.quads_for_pattern(None, RDFS["subPropertyOf"], CG["hasFact"], None)
        } | {CG["hasSetting"].value}
        self.nodes = [text(q.object) for q in record.triples if q.predicate.value in self.links]

    def decisive(self, same: Callable[[PatientResult], bool], preferred: Sequence[str]) -> list[str]:
        """Facts that together keep an answer the same, none of which can be spared.

        same tells whether an answer is still the same. preferred: facts that are kept rather than others.
        """
        kept = list(self.nodes)
        order = sorted(kept, key=lambda node: (node in preferred, self.nodes.index(node)))
        while True:
            outs = [out for out in order if out in kept]
            results = self._with_only([n for n in kept if n != out] for out in outs)
            spared = [out for out, result in zip(outs, results, strict=True) if same(result)]
            if not spared:
                return kept
            together = [n for n in kept if n not in spared]
            all_at_once = len(spared) > 1 and same(self._with_only([together])[0])
            kept = together if all_at_once else [n for n in kept if n != spared[0]]

    def smallest(self, wanted: Sequence[Wanted], done: Callable[[PatientResult], bool]) -> Change | None:
        """The smallest change, among those that were tried, after which an answer is as it should be; None where none was found.

        wanted: the criteria that decide. done tells whether an answer is as it should be.
        """
        ranked = sorted(islice(self._repairs(wanted), MOST_VARIANTS), key=self._size)
        for start in range(0, len(ranked), 40):
            some = ranked[start : start + 40]
            for edits, result in zip(some, self._assess([self._edited(n, e) for n, e in enumerate(some)]), strict=True):
                if result.accepted and done(result):
                    return self._minimal(edits, done)
        return None

    def describe(self, node: str) -> Json:
        """A fact of the patient as it was reported: class, label and what is stated of it."""
        quads = [q for q in self.record.triples if text(q.subject) == node]
        reported = {q.predicate.value: text(q.object) for q in self.record.reported if text(q.subject) == node}
        kinds = [text(q.object) for q in quads if q.predicate == RDF["type"] and text(q.object) in self.knowledge.labels]
        data: Json = {"fact": node, "name": local_name(kinds[0]) if kinds else ""}
        data["label"] = self.knowledge.labels[kinds[0]] if kinds else ""
        for quad in quads:
            if quad.predicate != RDF["type"] and quad.predicate.value not in self.links:
                value = text(quad.object)
                literal = isinstance(quad.object, ox.Literal)
                data[local_name(quad.predicate.value)] = value if literal else self.knowledge.labels.get(value, local_name(value))
        if reported:
            data["value"] = next(iter(reported.values()))
        return data

    # --- Repairs -------------------------------------------------------------------------------------

    def _repairs(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Edit, ...]]:
        """Sets of edits that should make the wanted criteria hold, and the unwanted ones not."""
        asked = [iri for iri, hold in wanted if hold and not self._is(iri)]
        unwanted = [iri for iri, hold in wanted if not hold and (self._is(iri) or self._unknown(iri))]
        ways = self.ways.together(*(self.ways.ways(Named(iri)) for iri in asked))
        every = [self.ways.ways(Named(iri)) for iri, hold in wanted if hold]
        ranges = self.ways.ranges([n for choice in every for way in choice for n in way])
        options = [list(self._undone(iri)) for iri in unwanted]
        for way in sorted(ways, key=lambda way: sum(not self._met(need) for need in way)):
            unmet = [need for need in way if not self._met(need)]
            facts = [list(self._facts(need, ranges.get(self.ways.kind(need) or "", []))) for need in unmet]
            choices: list[Sequence[Fact | Edit]] = [*facts, *options]
            for chosen in islice(product(*choices), 60):
                if chosen:
                    yield tuple(each if isinstance(each, Edit) else self._put(each) for each in chosen)

    def _undone(self, iri: str) -> Iterator[Edit]:
        """Edits after which a criterion should no longer hold: without what it rests on, or with other numbers."""
        supports = self.store.quads_for_pattern(None, CG["supports"], ox.NamedNode(iri), None)
        nodes = sorted({text(q.subject) for q in supports} & set(self.nodes))
        needs = list(dict.fromkeys(need for way in self.ways.ways(Named(iri)) for need in way))
        ranges = self.ways.ranges(needs)
        for need in needs:
            kind = self.ways.kind(need)
            if need.prop == "hasEligible" and kind:
                yield from (self._put(fact) for fact in self.patients.values(kind, ranges.get(kind, [])))
        yield from (Edit((node,)) for node in nodes)
        if len(nodes) > 1:
            yield Edit(tuple(nodes))

    def _facts(self, need: Need, ranges: list[Range]) -> Iterator[Fact]:
        """Facts that meet a need, in the unit in which the patient's own is reported where that can be."""
        for fact in islice(self.patients.facts(need, ranges), 4):
            own = [self.describe(node).get("unit") for node in self.nodes if fact.kind in self._kinds(node)]
            canonical = fact.numbers.get("canonicalValue")
            if canonical is not None and own and own[-1] not in (None, self.knowledge.value(fact.kind, CG["canonicalUnit"])):
                factor, offset = self.ways.conversion(fact.kind, own[-1])
                yield replace(fact, numbers={"value": round(canonical / factor - offset, 6)}, unit=own[-1])
            yield fact

    def _put(self, fact: Fact) -> Edit:
        """A fact in the place of those of its class, of which there is one at a time; a finding beside others."""
        replaced = () if fact.role == "hasActiveFinding" else tuple(n for n in self.nodes if fact.kind in self._kinds(n))
        return Edit(replaced, fact)

    def _size(self, edits: Sequence[Edit]) -> tuple[int, int, Decimal]:
        costs = [self._cost(edit) for edit in edits]
        return len(edits), sum(units for units, _ in costs), sum((share for _, share in costs), Decimal(0))

    def _cost(self, edit: Edit) -> tuple[int, Decimal]:
        """How far a change is from what was reported: whether the unit is another, and how much of the number changes."""
        if edit.added is None or not edit.removed:
            return 0, Decimal(0)
        old, new = self.describe(edit.removed[-1]), self._new(edit.added)
        if old.get("unit") != new.get("unit"):
            return 1, Decimal(0)
        before, after = (Decimal(each.get("value") or each.get("dailyDose") or 0) for each in (old, new))
        return 0, abs(after - before) / (abs(before) + 1)

    def _minimal(self, edits: tuple[Edit, ...], done: Callable[[PatientResult], bool]) -> Change:
        """The change without those edits that are not needed."""
        for edit in edits:
            fewer = tuple(e for e in edits if e is not edit)
            if fewer and done(self._assess([self._edited(0, fewer)])[0]):
                edits = fewer
        record = self._edited(0, edits)
        (result,) = self._assess([record])
        return Change([self._said(edit) for edit in edits], result, _turtle(record))

    def _said(self, edit: Edit) -> str:
        old = " and ".join(_short(self.describe(node)) for node in edit.removed)
        if edit.added is None:
            return f"without {old}"
        new = _short(self._new(edit.added))
        return f"{new} instead of {old}" if old else f"with {new}"

    def _new(self, fact: Fact) -> Json:
        quads = _parsed(self.patients.turtle(Case([fact]), "urn:x"), "urn:new:")
        subjects = [q.subject for q in quads if q.predicate == RDF["type"] and q.object == ox.NamedNode(fact.kind)]
        data: Json = {"label": self.knowledge.labels.get(fact.kind, local_name(fact.kind))}
        for quad in quads:
            if quad.subject in subjects and quad.predicate != RDF["type"]:
                literal = isinstance(quad.object, ox.Literal)
                value = text(quad.object)
                data[local_name(quad.predicate.value)] = value if literal else self.knowledge.labels.get(value, local_name(value))
        return data

    # --- What is so ------------------------------------------------------------------------------------

    def _is(self, iri: str) -> bool:
        return ox.Quad(self.record.patient, RDF["type"], ox.NamedNode(iri)) in self.store

    def _unknown(self, iri: str) -> bool:
        return ox.Quad(self.record.patient, CG["unknown"], ox.NamedNode(iri)) in self.store

    def _met(self, need: Need) -> bool:
        """Whether the patient has a fact that a way needs."""
        return any(self._meets(node, need) for node in self._objects(self.record.patient, CG[need.prop]))

    def _meets(self, node: Node, need: Need) -> bool:
        if not all(ox.Quad(node, RDF["type"], ox.NamedNode(kind)) in self.store for kind in need.kinds):
            return False
        return all(self._passes(node, test) for test in need.tests) and all(
            any(self._meets(other, inner) for other in self._objects(node, CG[inner.prop])) for inner in need.nested
        )

    def _passes(self, node: Node, test: Range | Value) -> bool:
        values = [q.object for q in self.store.quads_for_pattern(node, ox.NamedNode(test.prop), None, None)]
        if isinstance(test, Value):
            return any(str(value) == test.value for value in values)
        return any(test.holds(Decimal(text(value))) for value in values)

    def _objects(self, node: Node, prop: ox.NamedNode) -> list[Node]:
        quads = self.store.quads_for_pattern(node, prop, None, None)
        return [q.object for q in quads if isinstance(q.object, ox.NamedNode | ox.BlankNode)]

    def _kinds(self, node: str) -> set[str]:
        return {text(q.object) for q in self.record.triples if text(q.subject) == node and q.predicate == RDF["type"]}

    # --- Variants --------------------------------------------------------------------------------------

    def _with_only(self, choices: Iterable[Sequence[str]]) -> list[PatientResult]:
        return self._assess([self._without(n, set(self.nodes) - set(kept)) for n, kept in enumerate(choices)])

    def _without(self, number: int, removed: set[str]) -> PatientFacts:
        return _renamed(self.record, removed, number)

    def _edited(self, number: int, edits: Sequence[Edit]) -> PatientFacts:
        record = self._without(number, {node for edit in edits for node in edit.removed})
        added = [edit.added for edit in edits if edit.added is not None]
        if added:
            lines = self.patients.turtle(Case(added), text(record.patient))
            record.triples += _parsed(lines, f"{GENID}variant-{number}-new-")
        return record

    def _assess(self, records: list[PatientFacts]) -> list[PatientResult]:
        return list(engine.assess(self.knowledge, Facts([[r] for r in records], []), self.as_of)) if records else []


def _renamed(record: PatientFacts, removed: set[str], number: int) -> PatientFacts:
    """A patient without some facts, under names of its own, so that many variants fit into one batch."""
    names: dict[Any, ox.NamedNode] = {}
    for place, quad in enumerate(record.triples):
        names.setdefault(quad.subject, ox.NamedNode(f"{GENID}variant-{number}-{place}"))
    names[record.patient] = ox.NamedNode(f"{_VARIANT}{number}")

    def copy(quads: Iterable[ox.Quad]) -> list[ox.Quad]:
        kept = (q for q in quads if text(q.subject) not in removed and text(q.object) not in removed)
        return [ox.Quad(names.get(q.subject, q.subject), q.predicate, names.get(q.object, q.object)) for q in kept]

    return PatientFacts(names[record.patient], copy(record.triples), copy(record.reported))


def _parsed(turtle: str, prefix: str) -> list[ox.Quad]:
    """Facts in Turtle as quads, their blank nodes as IRIs."""
    names: dict[object, ox.NamedNode] = {}

    def named(node: Any) -> Any:
        return names.setdefault(node, ox.NamedNode(f"{prefix}{len(names)}")) if isinstance(node, ox.BlankNode) else node

    return [ox.Quad(named(q.subject), q.predicate, named(q.object)) for q in ox.parse(turtle.encode(), ox.RdfFormat.TURTLE)]


def _turtle(record: PatientFacts) -> str:
    data = ox.serialize((q.triple for q in record.triples), format=ox.RdfFormat.TURTLE, prefixes={"cg": CG.iri})
    return (data or b"").decode()


def _short(fact: Json) -> str:
    return " ".join([fact["label"] or fact.get("name", ""), *(str(fact[key]) for key in _SHOWN if key in fact)])
