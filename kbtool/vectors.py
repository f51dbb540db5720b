"""Columns of numbers, times and truths, and what is computed of them at once.

Numbers are integers with a common power of ten, times are microseconds. Everything is exact: where 64 bits might not hold a
result, TooLarge is raised. As in SPARQL an error is kept beside the values: a condition is true, false or neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kbtool.columns import Column, Mask, Terms, distinct
from kbtool.decoded import DAY, DECIMAL, DIGITS, INTEGER, OTHER, SECOND, Decoded
from kbtool.rows import lexical
from kbtool.values import EvaluationError, pattern

_MOST = 2**62


class TooLarge(Exception):  # noqa: N818
    """64 bits may not hold a result."""


class NotVectorised(Exception):  # noqa: N818
    """An expression is not one that can be computed here."""


@dataclass(slots=True)
class Number:
    """Numbers: integers to be divided by 10**scale; which are xsd:decimal; which are errors; the largest that may occur."""

    values: Column
    scale: int
    decimal: Mask | bool
    errors: Mask | None
    bound: int

    def to(self, scale: int) -> Column:
        """The integers for a larger scale. Raises TooLarge."""
        factor = 10 ** (scale - self.scale)
        if self.bound * factor >= _MOST:
            raise TooLarge
        return self.values * factor if factor > 1 else self.values


@dataclass(slots=True)
class Truth:
    """Where a condition is true, and where it is false; elsewhere it is an error."""

    true: Mask
    false: Mask


@dataclass(slots=True)
class Moments:
    """Times: microseconds since 1970 by their own clocks, places of their zones, which are errors."""

    local: Column
    places: Column
    errors: Mask | None
    zones: list[str]

    def utc(self) -> Column:
        """Microseconds since 1970 in UTC."""
        if not self.places.any():
            return self.local
        shifts: Column = np.array([_minutes(zone) * 60 * SECOND for zone in self.zones])[self.places]
        return self.local - shifts

    def days(self) -> Column:
        """Days since 1970 by their own clocks."""
        return self.local // DAY

    def months(self) -> Column:
        """Months since 1970 by their own clocks."""
        found: Column = self.days().astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
        return found


def _minutes(zone: str) -> int:
    return 0 if zone == "Z" else int(f"{zone[0]}1") * (int(zone[1:3]) * 60 + int(zone[4:6]))


class Rows:
    """The columns that an expression is computed on, and what has been computed of them."""

    def __init__(self, terms: Terms, columns: dict[str, Column | int]) -> None:
        self.terms = terms
        self.columns = {name: np.array([c]) if isinstance(c, int) else c for name, c in columns.items()}
        self.made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What was made under a name, made at most once."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def number(self, name: str) -> Number:
        """A column of numbers."""
        return self.once(name, lambda: self._number(self.columns[name]))  # type: ignore[no-any-return]

    def _number(self, column: Column) -> Number:
        decoded = self.terms.decoded
        values, scale = shortened(decoded.values[column], DIGITS)
        errors = column == 0
        bound = max(int(values.max()), -int(values.min())) if len(values) else 0
        return Number(values, scale, decoded.kinds[column] == DECIMAL, errors if errors.any() else None, bound)

    def moments(self, name: str) -> Moments:
        """A column of times."""
        return self.once(name, lambda: self._moments(self.columns[name]))  # type: ignore[no-any-return]

    def _moments(self, column: Column) -> Moments:
        decoded, errors = self.terms.decoded, column == 0
        return Moments(
            decoded.values[column], decoded.places[column].astype(np.int64), errors if errors.any() else None, decoded.zones
        )


# --- Numbers ---


def numbers_of(values: Sequence[Any]) -> Number:
    """Numbers of values; what is none is an error. Raises NotVectorised for a number that is not kept."""
    decoded = Decoded()
    decoded.reserve(len(values) + 1)
    for place, value in enumerate(values, 1):
        if value is not None:
            decoded.put(place, value)
            if decoded.kinds[place] == OTHER:
                raise NotVectorised
    kinds, kept = decoded.kinds[1 : len(values) + 1], decoded.values[1 : len(values) + 1]
    errors = (kinds != INTEGER) & (kinds != DECIMAL)
    kept, scale = shortened(kept, DIGITS)
    return Number(kept, scale, kinds == DECIMAL, errors if errors.any() else None, int(np.abs(kept).max()))


def shortened(values: Column, scale: int) -> tuple[Column, int]:
    """Integers with fewer zeros at their ends, and the scale for them."""
    for digits in (9, 6, 3):
        if digits <= scale and not (values % 10**digits).any():
            return values // 10**digits, scale - digits
    return values, scale


def terms_of(terms: Terms, number: Number) -> Column:
    """The terms of numbers."""
    decimal = number.decimal
    values, scale = shortened(number.values, number.scale)
    keys = np.broadcast_to(values * 2 + decimal, np.broadcast_shapes(values.shape, np.shape(decimal)))
    different, rows = np.unique(keys, return_inverse=True)
    found = terms.numbered((different >> 1).tolist(), scale, (different & 1).tolist())[rows]
    return np.where(number.errors, 0, found) if number.errors is not None else found


def errors_of(one: Mask | None, other: Mask | None) -> Mask | None:
    """What is an error where either of two is."""
    return other if one is None else one if other is None else one | other


def settled(true: Mask, errors: Mask | None) -> Truth:
    """A condition that is true or false except where there are errors."""
    return Truth(true, ~true) if errors is None else Truth(true & ~errors, ~true & ~errors)


def both(one: Truth, other: Truth) -> Truth:
    """Both of two conditions: false already where one is."""
    return Truth(one.true & other.true, one.false | other.false)


def either(one: Truth, other: Truth) -> Truth:
    """One of two conditions at least: true already where one is."""
    return Truth(one.true | other.true, one.false & other.false)


def one_of(test: Truth, one: Truth, other: Truth) -> Truth:
    """IF of conditions."""
    return Truth((test.true & one.true) | (test.false & other.true), (test.true & one.false) | (test.false & other.false))


def total(a: Number, b: Number, sign: int) -> Number:
    """The sum of two, or with a sign of -1 the difference. Raises TooLarge."""
    scale = max(a.scale, b.scale)
    bound = a.bound * 10 ** (scale - a.scale) + b.bound * 10 ** (scale - b.scale)
    if bound >= _MOST:
        raise TooLarge
    return Number(a.to(scale) + sign * b.to(scale), scale, a.decimal | b.decimal, errors_of(a.errors, b.errors), bound)


def product(a: Number, b: Number) -> Number:
    """The product of two. Raises TooLarge, also where it has more digits after the point than the engines keep."""
    bound, scale = a.bound * b.bound, a.scale + b.scale
    if bound >= _MOST:
        bound = int(np.abs(a.values.astype(np.float64) * b.values).max(initial=0) * 1.001) + 1
    if bound >= _MOST or scale > 2 * DIGITS:
        raise TooLarge
    return Number(a.values * b.values, scale, a.decimal | b.decimal, errors_of(a.errors, b.errors), bound)


def shifted(a: Number, digits: int) -> Number:
    """A product with a power of ten."""
    return Number(a.values, a.scale - digits, a.decimal, a.errors, a.bound)


def divided(a: Number, digits: int) -> Number:
    """A quotient by a power of ten."""
    if a.scale + digits > 2 * DIGITS:
        raise TooLarge
    return Number(a.values, a.scale + digits, True, a.errors, a.bound)


def floor(a: Number, divisor: int | None) -> Number:
    """FLOOR, of a quotient where there is a divisor. The engines cut a quotient that is nearer to zero than 10**-18 to 0, so that
    its floor is 0 where it should be -1; a divisor that can make one raises TooLarge."""
    by = 10**a.scale * (divisor or 1)
    if by > 10 ** (2 * DIGITS):
        raise TooLarge
    return Number(a.values // by, 0, True if divisor else a.decimal, a.errors, a.bound // by + 1)


def chosen(test: Truth, a: Number, b: Number) -> Number:
    """IF."""
    scale = max(a.scale, b.scale)
    values, decimal = np.where(test.true, a.to(scale), b.to(scale)), np.where(test.true, a.decimal, b.decimal)
    errors = ~(test.true | test.false)
    if a.errors is not None or b.errors is not None:
        errors = errors | np.where(test.true, False if a.errors is None else a.errors, False if b.errors is None else b.errors)
    bound = max(a.bound * 10 ** (scale - a.scale), b.bound * 10 ** (scale - b.scale))
    return Number(values, scale, decimal, errors if errors.any() else None, bound)


def first_of(a: Number, b: Number) -> Number:
    """COALESCE of two."""
    if a.errors is None:
        return a
    return chosen(Truth(~a.errors, a.errors), Number(a.values, a.scale, a.decimal, None, a.bound), b)


# --- Texts ---


def matched(rows: Rows, name: str, matches: Callable[[list[str]], Any]) -> Truth:
    """A condition on the characters of terms, decided once for each."""
    column = rows.columns[name]
    different, places = np.unique(column, return_inverse=True)
    tokens = rows.terms.tokens
    true = np.array(matches([lexical(tokens[n]) if n else "" for n in different.tolist()]), dtype=np.bool_)[places]
    return settled(true, column == 0 if (column == 0).any() else None)


def starting(rows: Rows, name: str, beginning: str) -> Truth:
    """Where one text starts with another, of which there are few."""
    tokens = rows.terms.tokens
    column, others = np.broadcast_arrays(rows.columns[name], rows.columns[beginning])
    different, places = np.unique(column, return_inverse=True)
    texts = [lexical(tokens[number]) for number in different.tolist()]
    true = np.zeros(len(column), dtype=np.bool_)
    for other in distinct(others).tolist():
        start = lexical(tokens[other])
        true |= np.array([text.startswith(start) for text in texts], dtype=np.bool_)[places] & (others == other)
    return Truth(true, ~true)


def matcher(name: str, text: str) -> Callable[[list[str]], Any]:
    """What a function says of each of several texts."""
    if name == "CONTAINS":
        return lambda texts: [text in each for each in texts]
    if name == "STRSTARTS":
        return lambda texts: [each.startswith(text) for each in texts]
    try:
        search = pattern(text).search
    except EvaluationError:
        raise NotVectorised from None
    lines = of_lines(text)

    def matches(texts: list[str]) -> list[bool]:
        joined = "\n".join(texts) if lines is not None else "\n"
        if lines is not None and joined.count("\n") == len(texts) - 1 and len(lines.findall(joined)) == len(texts):
            return [True] * len(texts)
        return [search(each) is not None for each in texts]

    return matches


_CLASS = re.compile(r"\[(?:[^\]\\]|\\.)*\]|\\.")


def of_lines(text: str) -> re.Pattern[str] | None:
    """A regular expression that has to match a whole text, so made that it matches whole lines instead: to see in one go that
    all of many texts match. None where it could match the end of a line, or a part of a text."""
    bare = _CLASS.sub("x", text)
    parts = bare[1:-1]
    while "(" in parts and parts != (inner := re.sub(r"\([^()]*\)", "", parts)):
        parts = inner
    ends = any(re.fullmatch(found, "\n") for found in _CLASS.findall(text)) or "." in bare or "\n" in bare
    if bare[:1] != "^" or bare[-1:] != "$" or bare.count("^") + bare.count("$") != 2 or any(c in parts for c in "|()") or ends:
        return None
    plain = re.sub(f"{_CLASS.pattern}|\\(", lambda m: "(?:" if m[0] == "(" else m[0], text)
    return re.compile(plain, re.MULTILINE)
