"""Assess whole batches of patients at once: the shapes, updates and criteria of a knowledge base, run on columns.

What is right, wrong and derived stands in the same SPARQL that Oxigraph runs. A shape is only screened here, for whom it may
be broken; what exactly is wrong is then asked of Oxigraph, for these patients and shapes alone. Where something cannot be
settled here (`CannotRead` of a query, `Unsettled` of a value), Oxigraph answers the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Context, localcontext
from itertools import chain

import numpy as np
import pyoxigraph as ox

from kbtool.columns import NONE, Column, Terms, distinct
from kbtool.derived import FLAGS, READ, Entry
from kbtool.evaluate import Evaluator
from kbtool.facts import PatientFacts
from kbtool.judging import Doubt
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF
from kbtool.plans import Pattern, Planner, Screen, UpdatePlan
from kbtool.rows import Row, lexical, quads_of, rows_of
from kbtool.rowwise import RowEvaluator, Triples
from kbtool.shapes import CompiledConstraint
from kbtool.solutions import Graph
from kbtool.sparql import read_query, read_updates

_EXACT = Context(prec=80)
"""More digits than any sum or product here can have; a quotient is cut off after it is made."""

FEW = 8
"""Up to so many patients are cheaper one solution at a time than as columns."""

_VALUE, _REPORTED = str(CG["value"]), str(CG["reportedValue"])

Judge = Callable[[list[PatientFacts], list[Doubt]], "Removal"]


class Removal:
    """What validation takes out of a batch and puts into it."""

    def __init__(self) -> None:
        self.subjects: set[str] = set()
        self.links: set[Row] = set()
        self.added: list[Row] = []

    def __bool__(self) -> bool:
        return bool(self.subjects or self.links or self.added)


class Program:
    """A knowledge base, planned once. Raises CannotRead for a query outside of the part of SPARQL that is known here."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.terms = Terms()
        self.graph = Graph(self.terms, {})
        _fill(self.graph, _encoded(self.terms, rows_of(knowledge.runtime)))
        planner = Planner(self.terms)
        self.updates: list[UpdatePlan] = [
            planner.update(insert) for step in knowledge.steps for insert in read_updates(step.update)
        ]
        self.screens: list[tuple[CompiledConstraint, Screen]] = [
            (constraint, planner.screen(read_query(constraint.query))) for constraint in knowledge.shapes
        ]
        self.triples = Triples(self.terms)
        for predicate in self.graph.relations:
            for subject, target in self.graph.pairs(predicate):
                self.triples.add(subject, predicate, target)
        self.orders: dict[int, tuple[Pattern, ...]] = {}
        self.type = self.terms.term(str(RDF["type"]))
        self.reads_reported = _REPORTED in self.terms.numbers

    def run(self, batch: Sequence[PatientFacts], as_of: ox.Literal, judge: Judge) -> FromGraph:
        """Everything that is derived of a batch of patients. The judge says what of it is not accepted: it gets the patients of
        whom facts may break shapes, and these shapes with the nodes that may break them. Raises Unsettled where only a full
        engine can tell."""
        with localcontext(_EXACT):
            return FromGraph(self._by_rows(batch, as_of, judge) if len(batch) <= FEW else self._by_columns(batch, as_of, judge))

    def _by_rows(self, batch: Sequence[PatientFacts], as_of: ox.Literal, judge: Judge) -> Triples:
        terms = self.terms.copy()
        rows = [row for record in batch for row in record.rows()]
        rows.append((str(CG["Run"]), str(CG["asOf"]), str(as_of)))

        def filled(rows: Iterable[Row]) -> Triples:
            graph = Triples(terms, self.triples)
            term = terms.term
            for s, p, o in rows:
                graph.add(term(s), term(p), term(o))
            return graph

        graph = filled(rows)
        evaluator = RowEvaluator(graph, unchanged=True)
        found = [(constraint, evaluator.screen(screen)) for constraint, screen in self.screens]
        doubts = [(constraint, [terms.tokens[node] for node in nodes]) for constraint, nodes in found if nodes]
        removal = judge(list(batch), doubts) if doubts else None
        if removal:
            kept = [row for row in rows if row[0] not in removal.subjects and row not in removal.links]
            graph = filled([*kept, *removal.added])
        if self.reads_reported:
            for record in batch:
                for s, p, o in record.reported_rows():
                    graph.add(terms.term(s), terms.term(p), terms.term(o))
        evaluator = RowEvaluator(graph)
        for update in self.updates:
            evaluator.update(update)
        return graph

    def _by_columns(self, batch: Sequence[PatientFacts], as_of: ox.Literal, judge: Judge) -> Graph:
        graph = self.graph.copy()
        facts, owners, reported = self._facts(batch, graph.terms)
        moment = _encoded(graph.terms, [(str(CG["Run"]), str(CG["asOf"]), str(as_of))])
        _fill(graph, [np.concatenate(pair) for pair in zip(facts, moment, strict=True)])
        suspects, doubts = self._suspects(Evaluator(graph, self.orders, unchanged=True), facts, owners, len(batch))
        removal = judge([batch[n] for n in suspects], doubts) if doubts else None
        if removal:
            terms = graph.terms
            graph = self.graph.copy()
            graph.terms = terms
            facts = _without(facts, removal, terms)
            added = _encoded(terms, removal.added)
            _fill(graph, [np.concatenate(each) for each in zip(facts, moment, added, strict=True)])
        _fill(graph, reported)
        evaluator = Evaluator(graph, self.orders)
        for update in self.updates:
            evaluator.update(update)
        return graph

    def _facts(self, batch: Sequence[PatientFacts], terms: Terms) -> tuple[list[Column], Column, list[Column]]:
        """The triples of a batch, to whom each belongs (a place in the batch), and the triples of what was reported."""
        tables = [record.table for record in batch]
        first = tables[0]
        if first is None or not all(table is not None and table.terms is first.terms for table in tables):
            each = [record.rows() for record in batch]
            owners = np.repeat(np.arange(len(batch)), [len(rows) for rows in each])
            reported = [row for record in batch for row in record.reported_rows()] if self.reads_reported else []
            return _encoded(terms, list(chain.from_iterable(each))), owners, _encoded(terms, reported)
        parts = [table.columns for table in tables if table is not None]
        owners = np.repeat(np.arange(len(batch)), [len(part[0]) for part in parts])
        s, p, o = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        used = np.flatnonzero(np.bincount(np.concatenate((s, p, o))))
        numbers = np.zeros(len(first.terms), dtype=np.int64)
        numbers[used] = terms.column([first.terms[place] for place in used.tolist()])
        rows = np.flatnonzero(p == first.index.get(_VALUE, -1)) if self.reads_reported else NONE
        tokens = [(row, first.terms[place]) for row, place in zip(rows.tolist(), o[rows].tolist(), strict=True)]
        said = {row: token[: token.rindex('"') + 1] for row, token in tokens if token[0] == '"'}
        subjects, objects = numbers[s[list(said)]] if said else NONE, terms.column(list(said.values()))
        return [numbers[s], numbers[p], numbers[o]], owners, [subjects, np.full(len(said), terms.term(_REPORTED)), objects]

    def _suspects(self, evaluator: Evaluator, facts: list[Column], owners: Column, n: int) -> tuple[list[int], list[Doubt]]:
        """For whom which shapes may be broken: places in the batch; shapes, and the nodes that may break each."""
        tokens = evaluator.terms.tokens
        screened = [(constraint, evaluator.screen(screen)) for constraint, screen in self.screens]
        found = [focus for _, focus in screened if len(focus)]
        broken = [(constraint, [tokens[node] for node in focus.tolist()]) for constraint, focus in screened if len(focus)]
        if not broken:
            return [], []
        nodes = distinct(np.concatenate(found))
        subjects, predicates, objects = facts
        hit = np.zeros(len(evaluator.terms.tokens), dtype=np.bool_)
        hit[nodes] = True
        rows = hit[subjects] | (hit[objects] & (predicates != self.type))
        known = np.zeros(len(hit), dtype=np.bool_)
        known[subjects[rows]] = True
        known[objects[rows]] = True
        if not known[nodes].all():
            return list(range(n)), broken
        chosen = np.zeros(n, dtype=np.bool_)
        chosen[owners[rows]] = True
        chosen[_sharing(subjects, owners)] = True
        return np.flatnonzero(chosen).tolist(), broken


def _sharing(subjects: Column, owners: Column) -> Column:
    """The patients that share a node with another."""
    pairs = distinct((subjects << 32) | owners)
    nodes = pairs >> 32
    same = nodes[1:] == nodes[:-1]
    shared = np.zeros(len(pairs), dtype=np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    return distinct(pairs[shared] & 0xFFFFFFFF)


def _encoded(terms: Terms, rows: Sequence[Row]) -> list[Column]:
    """Columns of numbers for subjects, predicates and objects."""
    flat = terms.column(list(chain.from_iterable(rows)))
    return [flat[place::3].copy() for place in range(3)]


def _fill(graph: Graph, columns: Sequence[Column]) -> None:
    """Add triples to a graph, predicate by predicate."""
    subjects, predicates, objects = columns
    order = np.argsort(predicates, kind="stable")
    ordered = predicates[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1)).tolist()
    for start, end in zip(starts, [*starts, len(order)][1:], strict=True):
        rows = order[start:end]
        graph.add(subjects[rows], int(ordered[start]), objects[rows])


def _without(columns: list[Column], removal: Removal, terms: Terms) -> list[Column]:
    """The triples of a batch without what validation takes out."""
    subjects, predicates, objects = columns
    gone = np.isin(subjects, [terms.numbers[token] for token in removal.subjects])
    for row in removal.links:
        s, p, o = (terms.numbers[token] for token in row)
        gone |= (subjects == s) & (predicates == p) & (objects == o)
    return [column[~gone] for column in columns]


class FromGraph:
    """What was derived by the set-wise engine. It keeps the triples as long as somebody keeps the answers."""

    def __init__(self, graph: Graph | Triples) -> None:
        self.graph, self.terms = graph, graph.terms
        self._texts: dict[int, str] = {}
        self._by: dict[str, dict[str, list[str]]] = {}
        self._nodes: dict[int, list[int]] = {}
        self._entries: dict[int, Entry] = {}
        for node, patient in self._pairs(CG["ofPatient"].value):
            self._nodes.setdefault(patient, []).append(node)
            self._entries[node] = {}
        for name in READ:
            for node, value in self._pairs(CG[name].value):
                entry = self._entries.get(node)
                if entry is not None:
                    known = entry.get(name)
                    if known is None:
                        entry[name] = [self._text(value)]
                    else:
                        known.append(self._text(value))
        for name in FLAGS:
            for node, _ in self._pairs(CG[name].value):
                if node in self._entries:
                    self._entries[node][name] = ["true"]
        self._scoped = {patient for patient, _ in self._pairs(CG["inScope"].value)}

    def _number(self, token: str) -> int:
        return self.terms.numbers.get(token, 0)

    def _text(self, number: int) -> str:
        found = self._texts.get(number)
        if found is None:
            found = self._texts[number] = lexical(self.terms.tokens[number])
        return found

    def _pairs(self, prop: str) -> Iterable[tuple[int, int]]:
        return self.graph.pairs(self._number(f"<{prop}>"))

    def in_scope(self, patient: ox.NamedNode | ox.BlankNode) -> bool:
        """Whether a guideline speaks for a patient."""
        return self._number(str(patient)) in self._scoped

    def answers(self, patient: ox.NamedNode | ox.BlankNode) -> list[Entry]:
        """The answers of a patient."""
        return [self._entries[node] for node in self._nodes.get(self._number(str(patient)), ())]

    def values(self, node: str, prop: str) -> list[str]:
        """The values of a property of a node."""
        return list(map(self._text, self.graph.objects(self._number(f"<{prop}>"), self._number(f"<{node}>"))))

    def having(self, prop: str) -> dict[str, list[str]]:
        """The values of a property for every node that has it."""
        known = self._by.get(prop)
        if known is None:
            known = self._by[prop] = {}
            for subject, value in self._pairs(prop):
                known.setdefault(self._text(subject), []).append(self._text(value))
        return known

    def quads(self, patient: ox.NamedNode | ox.BlankNode, links: Sequence[ox.NamedNode]) -> list[ox.Quad]:
        """The triples of a patient with some properties, and all of its answers."""
        number = self._number(str(patient))
        wanted = {str(link) for link in links}
        rows = [row for row in self._rows(number) if row[1] in wanted]
        return quads_of([*rows, *(row for node in self._nodes.get(number, ()) for row in self._rows(node))])

    def _rows(self, number: int) -> list[Row]:
        tokens = self.terms.tokens
        return [(tokens[number], tokens[p], tokens[o]) for p, o in self.graph.about(number)]
