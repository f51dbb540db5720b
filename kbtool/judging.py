"""Ask Oxigraph what exactly is wrong with the few nodes of which a screen says that something may be.

Each shape is asked about its own suspected nodes alone, on the triples that its query can read of them: the answer is that of
the whole shape on all facts, for the price of these nodes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import pyoxigraph as ox

from kbtool.rows import Row, quads_of
from kbtool.shapes import CompiledConstraint, Violation, in_order, violations
from kbtool.sparql import (
    Bind,
    Call,
    CannotRead,
    Closure,
    Exists,
    Expression,
    Filter,
    Group,
    Optional,
    Select,
    Triple,
    Union,
    read_query,
)

Doubt = tuple[CompiledConstraint, list[str]]
"""A constraint, and as terms in N-Triples the nodes that may break it; no other node does."""

_THIS = "?this"
_CUT = re.compile(r"(?<![:?$\w])(LIMIT|OFFSET)\s+\d", re.IGNORECASE)


@dataclass
class Reads:
    """Which triples a query about ?this can match.

    of, to: predicates of the triples whose subject, or object, is ?this; anywhere: those of any triple; None stands for any
    predicate.
    """

    of: set[str | None] = field(default_factory=set)
    to: set[str | None] = field(default_factory=set)
    anywhere: set[str | None] = field(default_factory=set)

    def everything(self) -> bool:
        """Whether some pattern can match any triple."""
        return None in self.anywhere


def judged(store: ox.Store, rows: Sequence[Row], doubts: Iterable[Doubt]) -> list[Violation]:
    """What is wrong with suspected nodes, sorted, each violation once.

    store: the knowledge that shapes read, with the as-of time; the triples that are needed are added to it. rows: all triples
    of the patients to whom the nodes belong.
    """
    asked = [(constraint, _query(constraint, focus), focus) for constraint, focus in doubts]
    store.extend(quads_of(_needed(rows, [(reads(query), focus) for _, query, focus in asked])))
    found: set[Violation] = set()
    for constraint, query, focus in asked:
        doubted = set(focus)  # of another node there may be a part only, for the sake of another shape
        found.update(each for each in violations(store, query, constraint) if str(each.focus) in doubted)
    return in_order(found)


def _query(constraint: CompiledConstraint, focus: Sequence[str]) -> str:
    """The query of a constraint about these nodes alone; the whole one where a node has no name that a query can say, or where
    what is said of one node could depend on how many others there are."""
    select = constraint.targets.select
    if any(node[0] == "_" for node in focus) or _CUT.search(constraint.query):
        return constraint.query
    return constraint.query.replace(select, f"SELECT ?this WHERE {{ VALUES ?this {{ {' '.join(focus)} }} }}")


def _needed(rows: Sequence[Row], asked: Sequence[tuple[Reads, Sequence[str]]]) -> Collection[Row]:
    of: dict[str, set[str | None]] = {}
    to: dict[str, set[str | None]] = {}
    anywhere: set[str | None] = set()
    for read, focus in asked:
        if read.everything():
            return rows
        anywhere |= read.anywhere
        for node in focus:
            of.setdefault(node, set()).update(read.of)
            if read.to:
                to.setdefault(node, set()).update(read.to)
    nothing: set[str | None] = set()
    from_every = {node for node, predicates in of.items() if None in predicates}
    to_every = {node for node, predicates in to.items() if None in predicates}
    return [
        row
        for row in rows
        if row[1] in of.get(row[0], nothing)
        or row[1] in anywhere
        or row[0] in from_every
        or (to and (row[1] in to.get(row[2], nothing) or row[2] in to_every))
    ]


def reads(query: str) -> Reads:
    """What a query can match; any triple, where it cannot be told."""
    # the list of nodes plays no part in it, and is long
    return _reads(re.sub(r"VALUES \?this \{[^{}]*\}", "VALUES ?this { <urn:x> }", query, count=1))


@lru_cache(maxsize=1024)
def _reads(query: str) -> Reads:
    found = Reads()
    try:
        _select(read_query(query), found, shared=True)
    except CannotRead:
        found.anywhere.add(None)
    return found


def _read(group: Group, found: Reads, *, shared: bool) -> None:
    """Collect the patterns of a group. shared: whether ?this in it is the focus node, and not a variable of the same name."""
    for element in group.elements:
        match element:
            case Triple():
                _pattern(element, found, shared)
            case Filter(expression) | Bind(expression, _):
                _expression(expression, found, shared)
            case Optional(inner):
                _read(inner, found, shared=shared)
            case Union(groups):
                for inner in groups:
                    _read(inner, found, shared=shared)
            case Select():
                _select(element, found, shared)


def _select(query: Select, found: Reads, shared: bool) -> None:
    shared = shared and any(name == _THIS and expression is None for name, expression in query.columns)
    _read(query.where, found, shared=shared)
    for expression in (*(e for _, e in query.columns if e is not None), *query.having):
        _expression(expression, found, shared)


def _pattern(triple: Triple, found: Reads, shared: bool) -> None:
    predicate: str | None
    if isinstance(triple.predicate, Closure):
        predicate = triple.predicate.predicate
        if triple.predicate.zero and _THIS in (triple.subject, triple.object):
            found.anywhere.add(None)  # the node must be there, by whatever triple
        found.anywhere.add(predicate)
        return
    predicate = None if triple.predicate.startswith("?") else triple.predicate
    if shared and triple.subject == _THIS:
        found.of.add(predicate)
    elif shared and triple.object == _THIS:
        found.to.add(predicate)
    else:
        found.anywhere.add(predicate)


def _expression(expression: Expression, found: Reads, shared: bool) -> None:
    if isinstance(expression, Exists):
        _read(expression.group, found, shared=shared)
    elif isinstance(expression, Call):
        for argument in expression.args:
            _expression(argument, found, shared)
