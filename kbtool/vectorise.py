"""Make conditions and BINDs of SPARQL into functions of columns.

What only computes with numbers and times, compares terms or looks for characters has such a form; for any other expression, and
for rows of which a variable is something else, `expressions` computes row by row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

from kbtool import vectors as v
from kbtool.columns import Column, Mask, Terms
from kbtool.decoded import DECIMAL, DIGITS, INTEGER, MOMENT, SECOND
from kbtool.expressions import chained, variables
from kbtool.sparql import Call, Expression, is_variable
from kbtool.values import XSD, canonical, value_of
from kbtool.vectors import Moments, NotVectorised, Number, Rows, TooLarge, Truth

Numeric: TypeAlias = Callable[[Rows], Number]
Condition: TypeAlias = Callable[[Rows], Truth]

_ZONE = "?zone_of_a_time"
_CATCHING = frozenset(("COALESCE", "BOUND", "&&", "||"))
"""What can have a value where a part is an error."""
_DATETIME, _DECIMAL, _INTEGER = (f"<{XSD}{name}>" for name in ("dateTime", "decimal", "integer"))


@dataclass(slots=True)
class Vectorised:
    """An expression over columns: its variables; which of them have to be numbers, times, IRIs or (only for their characters)
    IRIs or literals; and what is computed: a condition, or columns of terms."""

    names: tuple[str, ...]
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
        return np.broadcast_to(self.condition(self._rows(terms, columns)).true, (n,))

    def numbered(self, terms: Terms, columns: dict[str, Column | int], n: int) -> list[Column]:
        """The terms of the results; 0 for an error. Raises TooLarge."""
        rows = self._rows(terms, columns)
        return [np.broadcast_to(result(rows), (n,)) for result in self.results]

    def _rows(self, terms: Terms, columns: dict[str, Column | int]) -> Rows:
        return Rows(terms, {name: columns.get(name, 0) for name in self.names})


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
    except NotVectorised:
        return None
    numbers, moments, iris = compiler.numbers, compiler.moments, compiler.iris
    if numbers & moments or iris & (numbers | moments) or not compiler.literals <= numbers | moments:
        return None
    texts = compiler.texts - numbers - moments - iris
    given = [tuple(sorted(each)) for each in (numbers, moments, iris, texts)]
    return Vectorised(tuple(names), given[0], given[1], given[2], given[3], truth, results)


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

    def __init__(self, binds: Sequence[tuple[str, Expression]], names: frozenset[str], terms: Terms) -> None:
        self.binds, self.names, self.terms = dict(binds), names, terms
        self.numbers: set[str] = set()
        self.moments: set[str] = set()
        self.texts: set[str] = set()
        self.iris: set[str] = set()
        self.literals: set[str] = set()
        later = set(self.binds)
        if _ZONE in names | later:
            raise NotVectorised
        for name, expression in binds:
            if variables(expression) & later:
                raise NotVectorised
            later.discard(name)

    def result(self, name: str) -> Callable[[Rows], Column]:
        """The terms of a variable that is bound. Raises NotVectorised."""
        try:
            return self.term(self.binds[name])
        except NotVectorised:
            number = self.number(name)
            return lambda rows: v.terms_of(rows.terms, number(rows))

    # --- Conditions ---

    def truth(self, expression: Expression) -> Condition:
        """A condition. Raises NotVectorised."""
        match expression:
            case Call("&&" | "||" as name, (left, right)):
                one, other = self.truth(left), self.truth(right)
                return lambda rows: (v.both if name == "&&" else v.either)(one(rows), other(rows))
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
                return lambda rows: v.one_of(test(rows), one(rows), other(rows))
            case Call("ISLITERAL", (str(name),)) if name in self.names:
                self.literals.add(name)
                return lambda rows: Truth((found := rows.columns[name] != 0), np.zeros(len(found), dtype=np.bool_))
            case Call("STRSTARTS", (Call("STR", (str(one),)), Call("STR", (str(other),)))) if {one, other} <= self.names:
                self.texts |= {one, other}
                return lambda rows: v.starting(rows, one, other)
            case Call("REGEX" | "CONTAINS" | "STRSTARTS" as name, (Call("STR", (str(text),)), str(known))) if text in self.names:
                value = None if is_variable(known) else value_of(known)
                if type(value) is not str:
                    raise NotVectorised
                self.texts.add(text)
                matches = v.matcher(name, value)
                return lambda rows: v.matched(rows, text, matches)
            case Call("=" | "!=" as name, (Call("DATATYPE", (str(of),)), str(kind))) if of in self.names:
                return self.of_datatype(of, kind, name == "!=")
            case Call(name, (left, right)) if name in _COMPARED:
                return self.compared(name, left, right)
        raise NotVectorised

    def same(self, left: Expression, right: Expression, *, negated: bool) -> Condition:
        """Whether two terms are the same. Raises NotVectorised."""
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
            raise NotVectorised
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
                true, failed = (np.array([value is one for value in values])[found.places] for one in (True, None))
                return v.settled(true, v.errors_of(failed if failed.any() else None, found.errors))

            return by_zone
        if self.is_moment(left) or self.is_moment(right):
            first, second = self.moment(left), self.moment(right)

            def by_time(rows: Rows) -> Truth:
                a, b = first(rows), second(rows)
                return v.settled(compare(a.utc(), b.utc()), v.errors_of(a.errors, b.errors))

            return by_time
        one, other = self.number(left), self.number(right)

        def by_number(rows: Rows) -> Truth:
            a, b = one(rows), other(rows)
            scale = max(a.scale, b.scale)
            return v.settled(compare(a.to(scale), b.to(scale)), v.errors_of(a.errors, b.errors))

        return by_number

    # --- Terms ---

    def term(self, expression: Expression) -> Callable[[Rows], Column]:
        """A term out of several, 0 for an error. Raises NotVectorised."""
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
        raise NotVectorised

    # --- Times ---

    def is_moment(self, expression: Expression) -> bool:
        """Whether an expression is surely a time, if it is no error."""
        if isinstance(expression, str):
            return self.is_moment(self.binds[expression]) if expression in self.binds else expression in self.moments
        return isinstance(expression, Call) and f"{expression.name}" == _DATETIME

    def moment(self, expression: Expression) -> Callable[[Rows], Moments]:
        """A time: a variable, or the cast of its text, which changes no time. Raises NotVectorised."""
        match expression:
            case str(name) if name in self.binds:
                return self.moment(self.binds[name])
            case str(name) if name in self.names:
                self.moments.add(name)
                return lambda rows: rows.moments(name)
            case Call(name, (Call("STR", (str(of),)),)) if name == _DATETIME:
                return self.moment(of)
        raise NotVectorised

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
        """A number. Raises NotVectorised."""
        if isinstance(expression, str):
            return self.leaf(expression)
        if not isinstance(expression, Call):
            raise NotVectorised
        zoned = self.zoned(expression)
        if zoned is not None:
            return self.by_zone(*zoned)
        match expression:
            case Call("*", (left, str(right))) if type(by := _constant(right)) is int and re.fullmatch("10{1,9}", str(by)):
                one, factor, digits = self.number(left), v.numbers_of([by]), len(str(by)) - 1
                return lambda rows: v.shifted(a, digits) if (a := one(rows)).scale >= digits else v.product(a, factor)
            case Call("+" | "-" | "*" as name, (left, right)):
                one, other = self.number(left), self.number(right)
                if name == "*":
                    return lambda rows: v.product(one(rows), other(rows))
                return lambda rows: v.total(one(rows), other(rows), 1 if name == "+" else -1)
            case Call("FLOOR", (Call("/", (above, str(below))),)) if (by := _constant(below)) and type(by) is int and by > 0:
                one, divisor = self.number(above), by
                return lambda rows: v.floor(one(rows), divisor)
            case Call("FLOOR", (Call("+", (Call("*", (Call("/", (above, str(below))), str(times))), str(more))),)):
                return self.rounded(above, _constant(below), _constant(times), _constant(more))
            case Call("FLOOR", (inner,)):
                one = self.number(inner)
                return lambda rows: v.floor(one(rows), None)
            case Call("/", (above, str(below))) if (by := _constant(below)) and re.fullmatch("10{1,9}", str(by)):
                one, digits = self.number(above), len(str(by)) - 1
                return lambda rows: v.divided(one(rows), digits)
            case Call("IF", (condition, left, right)):
                test, one, other = self.truth(condition), self.number(left), self.number(right)
                return lambda rows: v.chosen(test(rows), one(rows), other(rows))
            case Call("COALESCE", options):
                ways = [self.number(option) for option in options]
                return lambda rows: reduce(v.first_of, (way(rows) for way in ways))
            case Call(name, (of,)) if name in _PARTS:
                moment, (part, scale, bound) = self.moment(of), _PARTS[name]
                return lambda rows: Number(part(found := moment(rows)), scale, scale > 0, found.errors, bound)
        raise NotVectorised

    def rounded(self, above: Expression, below: Any, times: Any, more: Any) -> Numeric:
        """FLOOR(above / below * times + more), of which times is a power of ten. The engines cut the quotient after 18 digits.
        The result is no different as long as what is added up is a multiple of more than that. Raises NotVectorised."""
        if not (type(below) is int and 0 < below < 10**6 and re.fullmatch("10{0,6}", str(times))):
            raise NotVectorised
        if type(more) is not Decimal and type(more) is not int:
            raise NotVectorised
        one, by, rest = self.number(above), v.numbers_of([times]), v.numbers_of([more * below])
        finest = below * times * 10 ** max(0, -int(Decimal(more).normalize().as_tuple().exponent))

        def run(rows: Rows) -> Number:
            a = one(rows)
            if finest * 10**a.scale >= 10 ** (2 * DIGITS):
                raise TooLarge
            return v.floor(v.total(v.product(a, by), rest, 1), below)

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
        known = v.numbers_of([_constant(term)])
        if known.errors is not None:
            raise NotVectorised
        return lambda _: known

    def by_zone(self, expression: Expression, moments: Callable[[Rows], Moments]) -> Numeric:
        """A number that follows from a zone, computed once for each."""
        function = chained([("?found", expression)], (_ZONE,), ("?found",))

        def run(rows: Rows) -> Number:
            found = moments(rows)
            (values,) = function(len(found.zones), [found.zones])
            try:
                known = v.numbers_of(values)
            except NotVectorised:
                raise TooLarge from None
            decimal = known.decimal[found.places] if isinstance(known.decimal, np.ndarray) else known.decimal
            errors = known.errors[found.places] if known.errors is not None else None
            return Number(known.values[found.places], known.scale, decimal, v.errors_of(errors, found.errors), known.bound)

        return run


def _constant(term: str) -> Any:
    return None if is_variable(term) else value_of(canonical(term))


def _is_datatype(expression: Expression) -> bool:
    return isinstance(expression, Call) and expression.name == "DATATYPE"
