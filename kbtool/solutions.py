"""The triples of a batch, and tables of solutions: what joins work on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kbtool.columns import NONE, Column, Index, Mask, Relation, Terms
from kbtool.values import Unsettled

_LARGE = 30_000
"""With more terms than this, orders of joins are looked for and kept."""


class Graph:
    """The triples of a batch: a relation for each predicate. Relations of the knowledge are shared until written to."""

    def __init__(self, terms: Terms, relations: dict[int, Relation], shared: Graph | None = None) -> None:
        self.terms, self.relations = terms, relations
        self._own = set() if shared is not None else set(relations)
        self._whole: dict[str, tuple[Index, Column]] = {}

    @property
    def large(self) -> bool:
        """Whether it pays to think about the order of joins."""
        return len(self.terms.tokens) > _LARGE

    def copy(self) -> Graph:
        """A graph with the same triples, to which others can be added."""
        return Graph(self.terms.copy(), dict(self.relations), self)

    def add(self, subjects: Column, predicate: int, objects: Column | int) -> None:
        """Add triples of one predicate."""
        if predicate not in self._own:
            known = self.relations.get(predicate)
            self.relations[predicate] = known.copy() if known is not None else Relation()
            self._own.add(predicate)
        self.relations[predicate].add(subjects, objects)
        self._whole.clear()

    def pairs(self, predicate: int) -> Iterable[tuple[int, int]]:
        """Subjects and objects of a predicate."""
        relation = self.relations.get(predicate)
        keys = relation.keys() if relation is not None else NONE
        return zip((keys >> 32).tolist(), (keys & 0xFFFFFFFF).tolist(), strict=True)

    def objects(self, predicate: int, subject: int) -> Iterable[int]:
        """The objects of a subject."""
        relation = self.relations.get(predicate)
        return relation.forward().of(subject).tolist() if relation is not None else ()

    def about(self, node: int) -> Iterable[tuple[int, int]]:
        """Predicates and objects of a node."""
        index, objects = self.by_subject()
        _, places = index.places(np.array([node]))
        return zip(index.others[places].tolist(), objects[places].tolist(), strict=True)

    def by_subject(self) -> tuple[Index, Column]:
        """All triples by subject: an index of predicates, and the objects in the same order."""
        return self._all("subject")

    def by_object(self) -> tuple[Index, Column]:
        """All triples by object: an index of predicates, and the subjects in the same order."""
        return self._all("object")

    def _all(self, side: str) -> tuple[Index, Column]:
        if side not in self._whole:
            keys = [(number, relation.keys()) for number, relation in self.relations.items()]
            predicates = np.concatenate([np.full(len(k), number) for number, k in keys])
            together = np.concatenate([k for _, k in keys])
            subjects, objects = together >> 32, together & 0xFFFFFFFF
            first, other = (subjects, objects) if side == "subject" else (objects, subjects)
            order = np.argsort(first, kind="stable")
            self._whole[side] = Index(first[order], predicates[order]), other[order]
        return self._whole[side]


class Solutions:
    """A table of solutions: a column for each variable, or one number where all are the same. 0 is unbound."""

    __slots__ = ("columns", "n")

    def __init__(self, n: int, columns: dict[str, Column | int]) -> None:
        self.n, self.columns = n, columns

    def column(self, name: str) -> Column:
        """A column in full."""
        found = self.columns.get(name, 0)
        return np.full(self.n, found, dtype=np.int64) if isinstance(found, int) else found

    def take(self, rows: Column | Mask, n: int | None = None) -> Solutions:
        """Some of the rows."""
        if n is None:
            n = int(np.count_nonzero(rows)) if rows.dtype == np.bool_ else len(rows)
        return Solutions(n, {k: c if isinstance(c, int) else c[rows] for k, c in self.columns.items()})

    def only(self, names: frozenset[str]) -> Solutions:
        """Without the columns that nobody uses any more."""
        return Solutions(self.n, {k: c for k, c in self.columns.items() if k in names or k == "#row"})

    def with_column(self, name: str, column: Column | int) -> Solutions:
        """With one more column."""
        return Solutions(self.n, {**self.columns, name: column})


NOTHING = Solutions(0, {})
"""No solution."""


def together(tables: Sequence[Solutions], names: Iterable[str] | None = None) -> Solutions:
    """Tables below each other."""
    tables = [table for table in tables if table.n]
    if not tables:
        return NOTHING
    if len(tables) == 1:
        return tables[0]
    chosen = dict.fromkeys(name for table in tables for name in table.columns) if names is None else names
    columns: dict[str, Column | int] = {}
    for name in chosen:
        parts = [table.columns.get(name, 0) for table in tables]
        first = parts[0]
        if isinstance(first, int) and all(isinstance(part, int) and part == first for part in parts):
            columns[name] = first
        else:
            columns[name] = np.concatenate([table.column(name) for table in tables])
    return Solutions(sum(table.n for table in tables), columns)


def cross(left: Solutions, right: Solutions) -> Solutions:
    """Each row with each."""
    rows = np.repeat(np.arange(left.n), right.n)
    others = np.tile(np.arange(right.n), left.n)
    return Solutions(left.n * right.n, {**left.take(rows, len(rows)).columns, **right.take(others, len(others)).columns})


def joined(left: Solutions, right: Solutions) -> Solutions:
    """The natural join of two tables in which the shared variables are bound."""
    shared = [name for name in right.columns if name in left.columns]
    if not shared:
        return cross(left, right)
    code_left, code_right = np.zeros(left.n, dtype=np.int64), np.zeros(right.n, dtype=np.int64)
    for name in shared:
        one, other = left.column(name), right.column(name)
        if not (one.all() and other.all()):
            raise Unsettled(f"a join over {name}, which is not always bound")
        pairs = np.concatenate(((code_left << 32) | one, (code_right << 32) | other))
        _, codes = np.unique(pairs, return_inverse=True)
        code_left, code_right = codes[: left.n], codes[left.n :]
    order = np.argsort(code_right, kind="stable")
    rows, found = Index(code_right[order], order).expand(code_left)
    new = {k: c if isinstance(c, int) else c[found] for k, c in right.columns.items() if k not in left.columns}
    return Solutions(len(rows), {**left.take(rows, len(rows)).columns, **new})
