"""Expressions over whole columns at once: numbers as integers with a common power of ten, times as microseconds.

A condition or a chain of BINDs that only computes with numbers and times is made into array operations. They are exact: where
64 bits might not hold a result, or an expression does something else, there is no vectorised form and `expressions` computes
row by row. As in SPARQL an error is kept beside the values: a condition is true, false or neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

from kbtool.columns import Column, Mask, Terms, distinct
from kbtool.decoded import DAY, DECIMAL, DIGITS, INTEGER, MOMENT, OTHER, SECOND, Decoded
from kbtool.expressions import chained, variables
from kbtool.rows import lexical
from kbtool.sparql import Call, Expression, is_variable
from kbtool.values import XSD, EvaluationError, canonical, pattern, value_of

_MOST = 2**62
_ZONE = "?zone_of_a_time"
_CATCHING = frozenset(("COALESCE", "BOUND", "&&", "||"))
"""What can have a value where a part is an error."""
_DATETIME, _DECIMAL, _INTEGER = (f"<{XSD}{name}>" for name in ("dateTime", "decimal", "integer"))


class TooLarge(Exception):  # noqa: N818
    """64 bits may not hold a result."""


class _Other(Exception):  # noqa: N818
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
        values, scale = _shortened(decoded.values[column], DIGITS)
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


Numeric: TypeAlias = Callable[[Rows], Number]
Condition: TypeAlias = Callable[[Rows], Truth]


@dataclass(slots=True)
class Vectorised:
    """An expression over columns: which variables have to be numbers, times, IRIs or (of which only the characters count) IRIs
    or literals, and what is computed: a condition, or columns of terms."""

    numbers: tuple[str, ...]
    moments: tuple[str, ...]
    iris: tuple[str, ...]
    texts: tuple[str, ...]
    condition: Condition | None
    results: tuple[Callable[[Rows], Column], ...]

    def fits(self, terms: Terms, columns: dict[str, Column | int], n: int) -> Mask:
        """The rows of which the variables are what they have to be."""
        mask = np.ones(n, dtype=np.bool_)
        for name in self.numbers:
            kinds, column = terms.decode(columns.get(name, 0))
            mask &= (kinds == INTEGER) | (kinds == DECIMAL) | (column == 0)
        for name in self.moments:
            kinds, column = terms.decode(columns.get(name, 0))
            mask &= (kinds == MOMENT) | (column == 0)
        for name in (*self.iris, *self.texts):
            kinds = terms.kinds_of(np.atleast_1d(columns.get(name, 0)))
            mask &= (kinds == 1) | ((kinds == 3) & (name in self.texts))
        return mask

    def holds(self, terms: Terms, columns: dict[str, Column | int], n: int) -> Mask:
        """The rows for which the condition holds. Raises TooLarge."""
        assert self.condition is not None
        return np.broadcast_to(self.condition(Rows(terms, columns)).true, (n,))

    def numbered(self, terms: Terms, columns: dict[str, Column | int], n: int) -> list[Column]:
        """The terms of the results; 0 for an error. Raises TooLarge."""
        rows = Rows(terms, columns)
        return [np.broadcast_to(result(rows), (n,)) for result in self.results]


def _terms(terms: Terms, number: Number) -> Column:
    """The terms of numbers."""
    decimal = number.decimal
    values, scale = _shortened(number.values, number.scale)
    keys = np.broadcast_to(values * 2 + decimal, np.broadcast_shapes(values.shape, np.shape(decimal)))
    different, rows = np.unique(keys, return_inverse=True)
    found = terms.numbered((different >> 1).tolist(), scale, (different & 1).tolist())[rows]
    return np.where(number.errors, 0, found) if number.errors is not None else found


def vectorised(
    condition: Expression | None,
    binds: Sequence[tuple[str, Expression]],
    names: Sequence[str],
    wanted: Sequence[str],
    terms: Terms,
) -> Vectorised | None:
    """The vectorised form of a condition, or of the variables that are wanted of BINDs, over the variables in names; None where
    there is none. The terms of the knowledge are needed for constants."""
    try:
        compiler = _Compiler(binds, frozenset(names), terms)
        if not all(isinstance(made, Call) for _, made in binds):
            return None  # the same term for all, which needs no columns
        results = tuple(map(compiler.result, wanted))
        truth = compiler.truth(condition) if condition is not None else None
    except _Other:
        return None
    numbers, moments, iris = compiler.numbers, compiler.moments, compiler.iris
    if numbers & moments or iris & (numbers | moments) or not compiler.literals <= numbers | moments:
        return None
    texts = compiler.texts - numbers - moments - iris
    given = [tuple(sorted(names)) for names in (numbers, moments, iris, texts)]
    return Vectorised(given[0], given[1], given[2], given[3], truth, results)


_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "=": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    ">": np.greater,
    "<=": np.less_equal,
    ">=": np.greater_equal,
}
_PARTS: dict[str, tuple[Callable[[Moments], Column], int, int]] = {
    "YEAR": (lambda m: m.months() // 12 + 1970, 0, 9999),
    "MONTH": (lambda m: m.months() % 12 + 1, 0, 12),
    "DAY": (lambda m: m.days() - m.months().astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + 1, 0, 31),
    "HOURS": (lambda m: m.local // (3600 * SECOND) % 24, 0, 23),
    "MINUTES": (lambda m: m.local // (60 * SECOND) % 60, 0, 59),
    "SECONDS": (lambda m: m.local % (60 * SECOND), 6, 60 * SECOND),
}
"""Of each part of a time: how it is computed, the digits after its point, and the most that it can be."""


class _Compiler:
    """Makes functions of rows; remembers what the variables have to be."""

    def __init__(self, binds: Sequence[tuple[str, Expression]], names: frozenset[str], numbers: Terms) -> None:
        self.binds, self.names, self.terms = dict(binds), names, numbers
        self.numbers: set[str] = set()
        self.moments: set[str] = set()
        self.texts: set[str] = set()
        self.iris: set[str] = set()
        self.literals: set[str] = set()
        later = set(self.binds)
        if _ZONE in names | later:
            raise _Other
        for name, expression in binds:
            if variables(expression) & later:
                raise _Other
            later.discard(name)

    def result(self, name: str) -> Callable[[Rows], Column]:
        """The terms of a variable that is bound. Raises _Other."""
        try:
            return self.term(self.binds[name])
        except _Other:
            number = self.number(name)
            return lambda rows: _terms(rows.terms, number(rows))

    # --- Conditions ---

    def truth(self, expression: Expression) -> Condition:
        """A condition. Raises _Other."""
        match expression:
            case Call("&&" | "||" as name, (left, right)):
                one, other = self.truth(left), self.truth(right)
                return lambda rows: (_both if name == "&&" else _either)(one(rows), other(rows))
            case Call("!", (inner,)):
                one = self.truth(inner)
                return lambda rows: Truth((found := one(rows)).false, found.true)
            case Call("BOUND", (str(name),)) if name in self.names:
                return lambda rows: Truth((found := rows.columns[name] != 0), ~found)
            case Call("SAMETERM", (str(one), str(other))) if {one, other} <= self.names:
                return self.same(one, other, negated=False)
            case Call("=" | "!=" as name, (str(one), str(other))) if {one, other} <= self.names - self.numbers:
                self.iris |= {one, other}
                return self.same(one, other, negated=name == "!=")
            case Call("=" | "!=" as name, (left, str(other))) if other[0] == "<" and not _is_datatype(left):
                return self.same(left, other, negated=name == "!=")
            case Call("IF", (condition, left, right)):
                test, one, other = self.truth(condition), self.truth(left), self.truth(right)
                return lambda rows: _one_of(test(rows), one(rows), other(rows))
            case Call("ISLITERAL", (str(name),)) if name in self.names:
                self.literals.add(name)
                return lambda rows: Truth((found := rows.columns[name] != 0), np.zeros(len(found), dtype=np.bool_))
            case Call("STRSTARTS", (Call("STR", (str(one),)), Call("STR", (str(other),)))) if {one, other} <= self.names:
                self.texts |= {one, other}
                return lambda rows: _starting(rows, one, other)
            case Call("REGEX" | "CONTAINS" | "STRSTARTS" as name, (Call("STR", (str(text),)), str(known))) if text in self.names:
                value = None if is_variable(known) else value_of(known)
                if type(value) is not str:
                    raise _Other
                self.texts.add(text)
                matches = _matcher(name, value)
                return lambda rows: _matched(rows, text, matches)
            case Call("=" | "!=" as name, (Call("DATATYPE", (str(of),)), str(kind))) if of in self.names:
                return self.of_datatype(of, kind, name == "!=")
            case Call(name, (left, right)) if name in _COMPARED:
                return self.compared(name, left, right)
        raise _Other

    def same(self, left: Expression, right: Expression, *, negated: bool) -> Condition:
        """Whether two terms are the same. Raises _Other."""
        first, second = self.term(left), self.term(right)

        def run(rows: Rows) -> Truth:
            a, b = first(rows), second(rows)
            bound = (a != 0) & (b != 0)
            alike = (a == b) & bound
            return Truth(bound & ~alike, alike) if negated else Truth(alike, bound & ~alike)

        return run

    def of_datatype(self, name: str, kind: str, negated: bool) -> Condition:
        """A comparison of a datatype."""
        if kind == _DATETIME:
            self.moments.add(name)
        elif kind in (_DECIMAL, _INTEGER):
            self.numbers.add(name)
        else:
            raise _Other
        code = {_DATETIME: MOMENT, _DECIMAL: DECIMAL, _INTEGER: INTEGER}[kind]

        def run(rows: Rows) -> Truth:
            column = rows.columns[name]
            same, bound = rows.terms.decoded.kinds[column] == code, column != 0
            return Truth(~same & bound, same) if negated else Truth(same, ~same & bound)

        return run

    def compared(self, name: str, left: Expression, right: Expression) -> Condition:
        """A comparison of numbers or times."""
        compare = _COMPARED[name]
        zoned = self.zoned(Call(name, (left, right)))
        if zoned is not None:
            expression, moments = zoned
            function = chained([("?found", expression)], (_ZONE,), ("?found",))

            def by_zone(rows: Rows) -> Truth:
                found = moments(rows)
                (values,) = function(len(found.zones), [found.zones])
                true, known = (np.array([value is one for value in values])[found.places] for one in (True, None))
                return _settled(true, _errors(known if known.any() else None, found.errors))

            return by_zone
        if self.is_moment(left) or self.is_moment(right):
            first, second = self.moment(left), self.moment(right)

            def by_time(rows: Rows) -> Truth:
                a, b = first(rows), second(rows)
                return _settled(compare(a.utc(), b.utc()), _errors(a.errors, b.errors))

            return by_time
        one, other = self.number(left), self.number(right)

        def by_number(rows: Rows) -> Truth:
            a, b = one(rows), other(rows)
            scale = max(a.scale, b.scale)
            return _settled(compare(a.to(scale), b.to(scale)), _errors(a.errors, b.errors))

        return by_number

    # --- Terms ---

    def term(self, expression: Expression) -> Callable[[Rows], Column]:
        """A term out of several, 0 for an error. Raises _Other."""
        match expression:
            case str(name) if name in self.names:
                return lambda rows: rows.columns[name]
            case str(token) if not is_variable(token):
                number = np.array([self.terms.term(token)])
                return lambda _: number
            case Call("IF", (condition, left, right)):
                test, one, other = self.truth(condition), self.term(left), self.term(right)
                return lambda rows: np.where((t := test(rows)).true, one(rows), np.where(t.false, other(rows), 0))
            case Call("COALESCE", options):
                ways = [self.term(option) for option in options]
                return lambda rows: reduce(lambda a, b: np.where(a == 0, b, a), (way(rows) for way in ways))
        raise _Other

    # --- Times ---

    def is_moment(self, expression: Expression) -> bool:
        """Whether an expression is surely a time, if it is no error."""
        if isinstance(expression, str):
            return self.is_moment(self.binds[expression]) if expression in self.binds else expression in self.moments
        return isinstance(expression, Call) and f"{expression.name}" == _DATETIME

    def moment(self, expression: Expression) -> Callable[[Rows], Moments]:
        """A time: a variable, or the cast of its text, which changes no time. Raises _Other."""
        match expression:
            case str(name) if name in self.binds:
                return self.moment(self.binds[name])
            case str(name) if name in self.names:
                self.moments.add(name)
                return lambda rows: rows.moments(name)
            case Call(name, (Call("STR", (str(of),)),)) if name == _DATETIME:
                return self.moment(of)
        raise _Other

    def zoned(self, expression: Expression) -> tuple[Expression, Callable[[Rows], Moments]] | None:
        """An expression over nothing but the zone of one time, as one over `_ZONE`; and the time. It has to be an error where the
        time is one."""
        found: set[Expression] = set()

        def put(part: Expression) -> Expression:
            if isinstance(part, str) and part in self.binds:
                return put(self.binds[part])
            if isinstance(part, Call) and part.name == "TZ":
                found.add(part.args[0])
                return _ZONE
            if isinstance(part, Call) and part.name in _CATCHING:
                found.update(("?one", "?other"))
            return Call(part.name, tuple(map(put, part.args)), part.distinct) if isinstance(part, Call) else part

        changed = put(expression)
        if len(found) != 1 or variables(changed) != {_ZONE}:
            return None
        return changed, self.moment(found.pop())

    # --- Numbers ---

    def number(self, expression: Expression) -> Numeric:
        """A number. Raises _Other."""
        if isinstance(expression, str):
            return self.leaf(expression)
        if not isinstance(expression, Call):
            raise _Other
        zoned = self.zoned(expression)
        if zoned is not None:
            return self.by_zone(*zoned)
        match expression:
            case Call("*", (left, str(right))) if type(by := _constant(right)) is int and re.fullmatch("10{1,9}", str(by)):
                one, factor, digits = self.number(left), _numbers([by]), len(str(by)) - 1
                return lambda rows: _shifted(a, digits) if (a := one(rows)).scale >= digits else _product(a, factor)
            case Call("+" | "-" | "*" as name, (left, right)):
                one, other = self.number(left), self.number(right)
                if name == "*":
                    return lambda rows: _product(one(rows), other(rows))
                return lambda rows: _sum(one(rows), other(rows), 1 if name == "+" else -1)
            case Call("FLOOR", (Call("/", (above, str(below))),)) if (by := _constant(below)) and type(by) is int and by > 0:
                one, divisor = self.number(above), by
                return lambda rows: _floor(one(rows), divisor)
            case Call("FLOOR", (Call("+", (Call("*", (Call("/", (above, str(below))), str(times))), str(more))),)):
                return self.rounded(above, _constant(below), _constant(times), _constant(more))
            case Call("FLOOR", (inner,)):
                one = self.number(inner)
                return lambda rows: _floor(one(rows), None)
            case Call("/", (above, str(below))) if (by := _constant(below)) and re.fullmatch("10{1,9}", str(by)):
                one, digits = self.number(above), len(str(by)) - 1
                return lambda rows: _divided(one(rows), digits)
            case Call("IF", (condition, left, right)):
                test, one, other = self.truth(condition), self.number(left), self.number(right)
                return lambda rows: _chosen(test(rows), one(rows), other(rows))
            case Call("COALESCE", options):
                ways = [self.number(option) for option in options]
                return lambda rows: reduce(_first, (way(rows) for way in ways))
            case Call(name, (of,)) if name in _PARTS:
                moment, (part, scale, bound) = self.moment(of), _PARTS[name]
                return lambda rows: Number(part(found := moment(rows)), scale, scale > 0, found.errors, bound)
        raise _Other

    def rounded(self, above: Expression, below: Any, times: Any, more: Any) -> Numeric:
        """FLOOR(above / below * times + more), of which times is a power of ten. The engines cut the quotient after 18 digits.
        The result is no different as long as what is added up is a multiple of more than that. Raises _Other."""
        if not (type(below) is int and 0 < below < 10**6 and re.fullmatch("10{0,6}", str(times))):
            raise _Other
        if type(more) is not Decimal and type(more) is not int:
            raise _Other
        one, by, rest = self.number(above), _numbers([times]), _numbers([more * below])
        finest = below * times * 10 ** max(0, -int(Decimal(more).normalize().as_tuple().exponent))

        def run(rows: Rows) -> Number:
            a = one(rows)
            if finest * 10**a.scale >= 10 ** (2 * DIGITS):
                raise TooLarge
            return _floor(_sum(_product(a, by), rest, 1), below)

        return run

    def leaf(self, term: str) -> Numeric:
        """A variable or a constant."""
        if term in self.binds:
            make = self.number(self.binds[term])
            return lambda rows: rows.once(term, lambda: make(rows))
        if term in self.names:
            self.numbers.add(term)
            return lambda rows: rows.number(term)
        if is_variable(term):
            nothing = Number(np.zeros(1, dtype=np.int64), 0, False, np.ones(1, dtype=np.bool_), 0)
            return lambda _: nothing
        known = _numbers([_constant(term)])
        if known.errors is not None:
            raise _Other
        return lambda _: known

    def by_zone(self, expression: Expression, moments: Callable[[Rows], Moments]) -> Numeric:
        """A number that follows from a zone, computed once for each."""
        function = chained([("?found", expression)], (_ZONE,), ("?found",))

        def run(rows: Rows) -> Number:
            found = moments(rows)
            (values,) = function(len(found.zones), [found.zones])
            try:
                known = _numbers(values)
            except _Other:
                raise TooLarge from None
            decimal = known.decimal[found.places] if isinstance(known.decimal, np.ndarray) else known.decimal
            errors = known.errors[found.places] if known.errors is not None else None
            return Number(known.values[found.places], known.scale, decimal, _errors(errors, found.errors), known.bound)

        return run


def _constant(term: str) -> Any:
    return None if is_variable(term) else value_of(canonical(term))


def _numbers(values: Sequence[Any]) -> Number:
    """Numbers of values; what is none is an error. Raises _Other for a number that is not kept."""
    decoded = Decoded()
    decoded.reserve(len(values) + 1)
    for place, value in enumerate(values, 1):
        if value is not None:
            decoded.put(place, value)
            if decoded.kinds[place] == OTHER:
                raise _Other
    kinds, kept = decoded.kinds[1 : len(values) + 1], decoded.values[1 : len(values) + 1]
    errors = (kinds != INTEGER) & (kinds != DECIMAL)
    kept, scale = _shortened(kept, DIGITS)
    return Number(kept, scale, kinds == DECIMAL, errors if errors.any() else None, int(np.abs(kept).max()))


def _shortened(values: Column, scale: int) -> tuple[Column, int]:
    """Integers with fewer zeros at their ends, and the scale for them."""
    for digits in (9, 6, 3):
        if digits <= scale and not (values % 10**digits).any():
            return values // 10**digits, scale - digits
    return values, scale


def _is_datatype(expression: Expression) -> bool:
    return isinstance(expression, Call) and expression.name == "DATATYPE"


def _errors(one: Mask | None, other: Mask | None) -> Mask | None:
    return other if one is None else one if other is None else one | other


def _settled(true: Mask, errors: Mask | None) -> Truth:
    return Truth(true, ~true) if errors is None else Truth(true & ~errors, ~true & ~errors)


def _both(one: Truth, other: Truth) -> Truth:
    return Truth(one.true & other.true, one.false | other.false)


def _either(one: Truth, other: Truth) -> Truth:
    return Truth(one.true | other.true, one.false & other.false)


def _one_of(test: Truth, one: Truth, other: Truth) -> Truth:
    """IF of conditions."""
    return Truth((test.true & one.true) | (test.false & other.true), (test.true & one.false) | (test.false & other.false))


def _sum(a: Number, b: Number, sign: int) -> Number:
    scale = max(a.scale, b.scale)
    bound = a.bound * 10 ** (scale - a.scale) + b.bound * 10 ** (scale - b.scale)
    if bound >= _MOST:
        raise TooLarge
    return Number(a.to(scale) + sign * b.to(scale), scale, a.decimal | b.decimal, _errors(a.errors, b.errors), bound)


def _product(a: Number, b: Number) -> Number:
    bound, scale = a.bound * b.bound, a.scale + b.scale
    if bound >= _MOST:
        bound = int(np.abs(a.values.astype(np.float64) * b.values).max(initial=0) * 1.001) + 1
    if bound >= _MOST or scale > 2 * DIGITS:
        raise TooLarge
    return Number(a.values * b.values, scale, a.decimal | b.decimal, _errors(a.errors, b.errors), bound)


def _shifted(a: Number, digits: int) -> Number:
    """A product with a power of ten."""
    return Number(a.values, a.scale - digits, a.decimal, a.errors, a.bound)


def _divided(a: Number, digits: int) -> Number:
    """A quotient by a power of ten."""
    if a.scale + digits > 2 * DIGITS:
        raise TooLarge
    return Number(a.values, a.scale + digits, True, a.errors, a.bound)


def _floor(a: Number, divisor: int | None) -> Number:
    """FLOOR, of a quotient where there is a divisor. The engines cut a quotient after 18 digits, which tells where a negative one
    is smaller than that."""
    by = 10**a.scale * (divisor or 1)
    if by > 10 ** (2 * DIGITS):
        raise TooLarge
    return Number(a.values // by, 0, True if divisor else a.decimal, a.errors, a.bound // by + 1)


def _chosen(test: Truth, a: Number, b: Number) -> Number:
    """IF."""
    scale = max(a.scale, b.scale)
    values, decimal = np.where(test.true, a.to(scale), b.to(scale)), np.where(test.true, a.decimal, b.decimal)
    errors = ~(test.true | test.false)
    if a.errors is not None or b.errors is not None:
        errors = errors | np.where(test.true, False if a.errors is None else a.errors, False if b.errors is None else b.errors)
    bound = max(a.bound * 10 ** (scale - a.scale), b.bound * 10 ** (scale - b.scale))
    return Number(values, scale, decimal, errors if errors.any() else None, bound)


def _first(a: Number, b: Number) -> Number:
    """COALESCE of two."""
    if a.errors is None:
        return a
    return _chosen(Truth(~a.errors, a.errors), Number(a.values, a.scale, a.decimal, None, a.bound), b)


# --- Texts ---


def _matched(rows: Rows, name: str, matches: Callable[[list[str]], Any]) -> Truth:
    """A condition on the characters of terms, decided once for each."""
    column = rows.columns[name]
    different, places = np.unique(column, return_inverse=True)
    tokens = rows.terms.tokens
    true = np.array(matches([lexical(tokens[n]) if n else "" for n in different.tolist()]), dtype=np.bool_)[places]
    return _settled(true, column == 0 if (column == 0).any() else None)


def _starting(rows: Rows, name: str, beginning: str) -> Truth:
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


def _matcher(name: str, text: str) -> Callable[[list[str]], Any]:
    """What a function says of each of several texts."""
    if name == "CONTAINS":
        return lambda texts: [text in each for each in texts]
    if name == "STRSTARTS":
        return lambda texts: [each.startswith(text) for each in texts]
    try:
        search = pattern(text).search
    except EvaluationError:
        raise _Other from None
    lines = _of_lines(text)

    def matches(texts: list[str]) -> list[bool]:
        joined = "\n".join(texts) if lines is not None else "\n"
        if lines is not None and joined.count("\n") == len(texts) - 1 and len(lines.findall(joined)) == len(texts):
            return [True] * len(texts)
        return [search(each) is not None for each in texts]

    return matches


_CLASS = re.compile(r"\[(?:[^\]\\]|\\.)*\]|\\.")


def _of_lines(text: str) -> re.Pattern[str] | None:
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
