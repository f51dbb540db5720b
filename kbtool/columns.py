"""Triples as columns of numbers: a term has a number, a predicate has a relation of two sorted columns.

A relation answers the questions that a join asks (what has this object, what follows this subject, are these pairs in it)
by indexes that are made when they are first needed and forgotten when something is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kbtool.decoded import DIGITS, MOMENT_END, UNKNOWN, Decoded, may_be_moment, moments
from kbtool.values import XSD, Value, canonical, token_of, value_of

Column: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

NONE = np.empty(0, dtype=np.int64)
_KINDS = {"<": 1, "_": 2, '"': 3}


class Terms:
    """The numbers of terms, from 1; 0 is no term. A copy goes on where the original was."""

    def __init__(
        self,
        numbers: dict[str, int] | None = None,
        tokens: list[str] | None = None,
        known: list[Any] | None = None,
        decoded: Decoded | None = None,
    ) -> None:
        self.numbers = numbers if numbers is not None else {}
        self.tokens = tokens if tokens is not None else [""]
        self.known = known if known is not None else [None]
        self._kinds = np.empty(0, dtype=np.int8)
        self.decoded = decoded or Decoded()

    @property
    def limit(self) -> int:
        """The number of the next term."""
        return len(self.tokens)

    def copy(self) -> Terms:
        """A dictionary with the same terms, to which others can be added."""
        return Terms(dict(self.numbers), list(self.tokens), list(self.known), Decoded(self.decoded))

    def number(self, token: str) -> int:
        """The number of a canonical term."""
        found = self.numbers.get(token)
        if found is None:
            found = self.numbers[token] = len(self.tokens)
            self.tokens.append(token)
            self.known.append(None)
        return found

    def number_of(self, value: Any) -> int:
        """The number of a value."""
        token = token_of(value)
        found = self.numbers.get(token)
        if found is None:
            found = self.numbers[token] = len(self.tokens)
            self.tokens.append(token)
            self.known.append(value)
        return found

    def term(self, token: str) -> int:
        """The number of a term as it was written."""
        return self.numbers.get(token) or self.number(canonical(token))

    def column(self, tokens: Sequence[str]) -> Column:
        """The numbers of terms as they were written."""
        numbers = self.numbers
        fresh = [token for token in dict.fromkeys(tokens) if token not in numbers]
        if fresh:
            self._add([token for token in fresh if token[0] != '"' or token[-1] == '"'])
            times = [token for token in fresh if token.endswith(MOMENT_END) and may_be_moment(token)]
            if times:
                fits, values = moments(times)
                start = self._add([token for token, fit in zip(times, fits.tolist(), strict=True) if fit])
                self.decoded.put_moments(start, values[fits])
            for token in fresh:
                if token not in numbers:
                    numbers[token] = self.number(canonical(token))
        return np.fromiter(map(numbers.__getitem__, tokens), dtype=np.int64, count=len(tokens))

    def _add(self, tokens: Sequence[str]) -> int:
        """Give numbers to canonical terms that have none yet; the first of them."""
        start = len(self.tokens)
        self.numbers.update(zip(tokens, range(start, start + len(tokens)), strict=True))
        self.tokens += tokens
        self.known += [None] * len(tokens)
        return start

    def made(self, tokens: Sequence[str | None]) -> Column:
        """The numbers of terms that are written as they have to be; None is no term."""
        found = list(map(self.numbers.get, tokens))  # type: ignore[arg-type]
        if None in found:
            self._add(
                list(dict.fromkeys(token for token, n in zip(tokens, found, strict=True) if n is None and token is not None))
            )
            found = [0 if token is None else self.numbers[token] for token in tokens]
        return np.array(found, dtype=np.int64)

    def value(self, number: int) -> Value:
        """The value of a term."""
        found: Value = self.known[number]
        if found is None and number:
            found = self.known[number] = value_of(self.tokens[number])
        return found

    def decode(self, numbers: Column | int) -> tuple[NDArray[np.int8], Column]:
        """The kinds of what terms stand for, see `decoded`; and the terms as a column."""
        column = np.array([numbers]) if isinstance(numbers, int) else numbers
        self.decoded.reserve(len(self.tokens))
        kinds = self.decoded.kinds[column]
        fresh = distinct(column[kinds == UNKNOWN])
        for number in fresh.tolist():
            if number:
                self.decoded.put(number, self.value(number))
        return (self.decoded.kinds[column] if len(fresh) else kinds), column

    def numbered(self, values: list[int], scale: int, decimal: list[int]) -> Column:
        """The numbers of terms of numbers: integers to be divided by 10**scale, and whether each is an xsd:decimal."""
        known, unit, start = self.numbers, 10**scale, len(self.tokens)
        found: list[int] = []
        fresh: list[int] = []
        for value, kind in zip(values, decimal, strict=True):
            above, below = divmod(abs(value), unit)
            text = f"{'-' if value < 0 else ''}{above}" + (f".{below:0{scale}d}".rstrip("0") if below else "")
            token = f'"{text}"^^<{XSD}{"decimal" if kind else "integer"}>'
            number = known.get(token)
            if number is None:
                number = known[token] = start + len(fresh)
                fresh.append(len(found))
                self.tokens.append(token)
                self.known.append(None)
            found.append(number)
        if fresh and scale <= DIGITS:
            self.decoded.put_numbers(start, [values[n] for n in fresh], scale, [decimal[n] for n in fresh])
        return np.array(found, dtype=np.int64)

    def kind_of(self, number: int) -> int:
        """The kind of a term, see `kinds_of`."""
        return _KINDS[self.tokens[number][0]]

    def kinds_of(self, numbers: Column) -> NDArray[np.int8]:
        """Whether the terms of a column are IRIs (1), blank nodes (2), literals (3) or none (0)."""
        if len(self._kinds) < len(self.tokens):
            fresh = [_KINDS.get(token[:1], 0) for token in self.tokens[len(self._kinds) :]]
            self._kinds = np.concatenate((self._kinds, np.array(fresh, dtype=np.int8)))
        return self._kinds[numbers]

    def values(self, numbers: Column) -> list[Any]:
        """The values of a column."""
        known, value = self.known, self.value
        return [known[n] or value(n) for n in numbers.tolist()]


def distinct(column: Column) -> Column:
    """The different numbers of a column, sorted."""
    if len(column) < 2:
        return column
    ordered = np.sort(column)
    keep = np.empty(len(ordered), dtype=np.bool_)
    keep[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=keep[1:])
    return ordered[keep]


class Index:
    """What stands beside each number in a relation: offsets by number, and the other column in that order."""

    __slots__ = ("keys", "offsets", "others")

    def __init__(self, keys: Column, others: Column) -> None:
        """Keys sorted."""
        counts = np.bincount(keys, minlength=2) if len(keys) else np.zeros(2, dtype=np.int64)
        self.offsets = np.empty(len(counts) + 2, dtype=np.int64)
        self.offsets[0] = 0
        np.cumsum(counts, out=self.offsets[1:-1])
        self.offsets[-1] = len(keys)
        self.others = others
        self.keys = max(1, int(np.count_nonzero(counts)))

    def of(self, number: int) -> Column:
        """All that stand beside one number."""
        if number + 2 > len(self.offsets):
            return NONE
        return self.others[self.offsets[number] : self.offsets[number + 1]]

    def count(self, number: int) -> int:
        """How many stand beside one number."""
        return 0 if number + 2 > len(self.offsets) else int(self.offsets[number + 1] - self.offsets[number])

    def expand(self, numbers: Column) -> tuple[Column, Column]:
        """For each number of a column all that stand beside it: the row in the column, and the other number."""
        rows, places = self.places(numbers)
        return rows, self.others[places]

    def places(self, numbers: Column) -> tuple[Column, Column]:
        """For each number of a column all places that belong to it: the row in the column, and the place."""
        at = np.minimum(numbers, len(self.offsets) - 2)
        low = self.offsets[at]
        counts = self.offsets[at + 1] - low
        rows = np.repeat(np.arange(len(numbers)), counts)
        ends = np.cumsum(counts)
        return rows, np.arange(len(rows)) + np.repeat(low - ends + counts, counts)


class Relation:
    """The triples of one predicate. Those with a constant object are kept by it, so that classes are cheap to add."""

    def __init__(self, subjects: Column = NONE, objects: Column = NONE) -> None:
        self.chunks = [(subjects, objects)] if len(subjects) else []
        self.constant: dict[int, list[Column]] = {}
        self.size = len(subjects)
        self._sets: dict[int, Column] = {}
        self._masks: dict[int, Mask] = {}
        self._cache: dict[str, Any] = {}
        self._pairs: Index | None = None

    def copy(self) -> Relation:
        """A relation with the same triples, to which others can be added."""
        other = Relation()
        other.chunks = list(self.chunks)
        other.constant = {o: list(parts) for o, parts in self.constant.items()}
        other.size = self.size
        return other

    def add(self, subjects: Column, objects: Column | int) -> None:
        """Add triples."""
        if not len(subjects):
            return
        if isinstance(objects, int):
            subjects = distinct(subjects)
        self.size += len(subjects)
        self._cache.clear()
        if isinstance(objects, int):
            self.constant.setdefault(objects, []).append(subjects)
            self._sets.pop(objects, None)
            self._masks.pop(objects, None)
        else:
            self.chunks.append((subjects, objects))
            self._pairs = None
            self._sets.clear()
            self._masks.clear()

    def _inverse_of_chunks(self) -> Index:
        if self._pairs is None:
            subjects = np.concatenate([s for s, _ in self.chunks]) if self.chunks else NONE
            objects = np.concatenate([o for _, o in self.chunks]) if self.chunks else NONE
            keys = distinct((objects << 32) | subjects)
            self._pairs = Index(keys >> 32, keys & 0xFFFFFFFF)
        return self._pairs

    def subjects(self, number: int) -> Column:
        """All subjects of an object, sorted."""
        found = self._sets.get(number)
        if found is None:
            parts = self.constant.get(number)
            if parts is None:
                found = self._inverse_of_chunks().of(number)
            else:
                if self.chunks:
                    parts = [*parts, self._inverse_of_chunks().of(number)]
                found = distinct(np.concatenate(parts) if len(parts) > 1 else parts[0])
                self.constant[number] = [found]
            self._sets[number] = found
        return found

    def have(self, subjects: Column, number: int) -> Mask:
        """Which of the subjects have an object."""
        mask = self._masks.get(number)
        if mask is None:
            members = self.subjects(number)
            mask = np.zeros(int(members[-1]) + 2 if len(members) else 1, dtype=np.bool_)
            mask[members] = True
            self._masks[number] = mask
        return mask[np.minimum(subjects, len(mask) - 1)]

    def keys(self) -> Column:
        """All triples as sorted numbers: subject, object."""
        found: Column | None = self._cache.get("keys")
        if found is None:
            parts = [(s << 32) | o for s, o in self.chunks]
            parts += [(s << 32) | o for o, each in self.constant.items() for s in each]
            found = self._cache["keys"] = distinct(np.concatenate(parts)) if parts else NONE
        return found

    def contain(self, subjects: Column, objects: Column) -> Mask:
        """Which pairs are in the relation."""
        if self.constant and "keys" not in self._cache:
            mask = np.zeros(len(subjects), dtype=np.bool_)
            for number in distinct(objects).tolist():
                rows = objects == number
                mask[rows] = self.have(subjects[rows], number)
            return np.asarray(mask)
        keys = self.keys()
        if not len(keys):
            return np.zeros(len(subjects), dtype=np.bool_)
        wanted = (subjects << 32) | objects
        return np.asarray(keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted)

    def forward(self) -> Index:
        """Objects by subject."""
        found: Index | None = self._cache.get("forward")
        if found is None:
            keys = self.keys()
            found = self._cache["forward"] = Index(keys >> 32, keys & 0xFFFFFFFF)
        return found

    def inverse(self) -> Index:
        """Subjects by object."""
        if not self.constant:
            return self._inverse_of_chunks()
        found: Index | None = self._cache.get("inverse")
        if found is None:
            keys = self.keys()
            turned = np.sort(((keys & 0xFFFFFFFF) << 32) | (keys >> 32))
            found = self._cache["inverse"] = Index(turned >> 32, turned & 0xFFFFFFFF)
        return found

    def steps(self) -> Relation:
        """The pairs that one or more triples lead between."""
        found: Relation | None = self._cache.get("steps")
        if found is None:
            fresh = reached = self.keys()
            while len(fresh):
                rows, ends = self.forward().expand(fresh & 0xFFFFFFFF)
                fresh = distinct(((fresh >> 32)[rows] << 32) | ends)
                fresh = fresh[~np.isin(fresh, reached)]
                reached = np.concatenate((reached, fresh))
            found = self._cache["steps"] = Relation(reached >> 32, reached & 0xFFFFFFFF)
        return found
