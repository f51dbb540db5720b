"""Triples as rows of text: subject, predicate and object, each written as in N-Triples.

Rows are what the set-wise engine works on; they cost a fraction of what objects for terms cost.
"""

from __future__ import annotations

import gc
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING, TypeAlias

import pyoxigraph as ox

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row: TypeAlias = tuple[str, str, str]
Columns: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]"

# What is surely valid N-Triples, and so common that it need not go through the full parser: absolute IRIs of ASCII characters
# without a port or percent signs, plain and typed literals without escapes, labels of blank nodes.
_CHARACTERS = "A-Za-z0-9._~/:@!$&'()*+,;=-"
_IRI = (
    rf"<(?:https?+://[A-Za-z0-9.-]++(?:/[{_CHARACTERS}]*+)?+|urn:[A-Za-z0-9][A-Za-z0-9-]*+:[{_CHARACTERS}]++)"
    rf"(?:\?[?{_CHARACTERS}]*+)?+(?:\#[?{_CHARACTERS}]*+)?+>"
)
_BLANK = "_:[A-Za-z][A-Za-z0-9]*+"
_LITERAL = rf'"[^"\\\x00-\x1f\x7f\ufffe\uffff]*+"(?:\^\^{_IRI})?+'
_PLAIN = re.compile(rf"^({_IRI}|{_BLANK})[ \t]++({_IRI})[ \t]++({_IRI}|{_BLANK}|{_LITERAL})[ \t]*+\.[ \t]*+$", re.MULTILINE)
# What pyoxigraph writes.
_WRITTEN = re.compile(r'^(<[^>]*>|_:\S+) (<[^>]*>) (<[^>]*>|_:\S+|"(?:[^"\\]|\\.)*"(?:@\S+|\^\^<[^>]*>)?) \.$', re.MULTILINE)
_STRING = "^^<http://www.w3.org/2001/XMLSchema#string>"


@contextmanager
def no_collection() -> Iterator[None]:
    """No search for unreachable circles meanwhile: rows are many objects and no circles, and the search takes a quarter of the
    time. What was made meanwhile counts as old afterwards, or the next search would go through all of it."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        gc.enable()


@dataclass(frozen=True, slots=True)
class Table:
    """Triples as numbers: the terms, each once, where each stands, and the columns of subjects, predicates and objects."""

    terms: list[str]
    index: dict[str, int]
    columns: Columns

    def part(self, rows: NDArray[np.int64]) -> Table:
        """Some of the triples."""
        s, p, o = self.columns
        return Table(self.terms, self.index, (s[rows], p[rows], o[rows]))

    def rows(self) -> list[Row]:
        """The triples as text."""
        term = self.terms.__getitem__
        s, p, o = (map(term, column.tolist()) for column in self.columns)
        return list(zip(s, p, o, strict=True))


def plain_table(text: str) -> Table | None:
    """The triples of a text in N-Triples, or None where it takes the full parser to read it (or to say what is wrong)."""
    if _STRING in text or "\r" in text:
        return None
    import numpy as np  # only here: a single patient in Turtle does without

    size = text.count("\n") + (not text.endswith("\n"))
    found = _PLAIN.findall(text)
    if len(found) != size:
        return None
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    flat = np.fromiter(map(numbers.__getitem__, chain.from_iterable(found)), dtype=np.int64, count=3 * size)
    numbers.default_factory = None
    s, p, o = (flat[place::3].copy() for place in range(3))
    return Table(list(numbers), numbers, (s, p, o))


def rows_of(quads: Iterable[ox.Quad]) -> list[Row]:
    """Rows of quads; names of graphs are left out. Raises ValueError where a triple stands in place of a node."""
    triples = [quad.triple for quad in quads]
    text = (ox.serialize(triples, format=ox.RdfFormat.N_TRIPLES) or b"").decode()
    rows: list[Row] = _WRITTEN.findall(text)
    if len(rows) != len(triples):
        raise ValueError("a triple stands where a node belongs; facts are plain RDF 1.1")
    return rows


def quads_of(rows: Iterable[Row]) -> list[ox.Quad]:
    """Quads of rows, in the same order."""
    text = "\n".join(f"{s} {p} {o} ." for s, p, o in rows)
    return list(ox.parse(text.encode(), ox.RdfFormat.N_TRIPLES))


def node_of(token: str) -> ox.NamedNode | ox.BlankNode:
    """The node of a term that is an IRI or a blank node."""
    return ox.NamedNode(token[1:-1]) if token[0] == "<" else ox.BlankNode(token[2:])


def lexical(token: str) -> str:
    """The characters of a term: its IRI, its label, or its text with the escapes of N-Triples undone."""
    first = token[0]
    if first == "<":
        return token[1:-1]
    if first == "_":
        return token[2:]
    text = token[1 : token.rindex('"')]
    if "\\" not in text:
        return text
    from kbtool.values import unescaped

    return unescaped(text)
