"""Run plans set by set: a pattern is a join of columns, for all patients of a batch at once.

`values.Unsettled` is raised where only a full engine can tell; then Oxigraph answers. Join orders follow from the sizes of the
relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np

from kbtool.columns import NONE, Column, Mask, Relation, distinct
from kbtool.decoded import DECIMAL, DIGITS, INTEGER
from kbtool.plans import Pattern, Plan, QueryPlan, Screen, Step, Term, Test, UpdatePlan
from kbtool.solutions import NOTHING, Graph, Solutions, cross, joined, together
from kbtool.values import Unsettled
from kbtool.vectorise import Vectorised
from kbtool.vectors import TooLarge

_APART = 10.0
"""A pattern that shares no variable with what is joined so far looks so many times larger than it is."""
_MANY = 500
"""From so many solutions on it pays to leave out columns that are not used any more."""
_SOME = 16
"""With more solutions than this expressions are computed for all of them at once, where they can be."""
_FEW = 256
"""Up to so many solutions the size of a join with classes is counted, above it is guessed from averages."""


class Evaluator:
    """Runs plans on a graph."""

    def __init__(self, graph: Graph, orders: dict[int, tuple[Pattern, ...]], *, unchanged: bool = False) -> None:
        """orders: the orders of joins that were found before. unchanged: nothing is added while the evaluator is in use, so the
        table of a sub-query can be used again."""
        self.graph, self.terms, self.orders = graph, graph.terms, orders
        self._tables: dict[int, Solutions] | None = {} if unchanged else None

    def update(self, plan: UpdatePlan) -> None:
        """Add what an update inserts."""
        found = self.group(plan.plan, Solutions(1, {}))
        if not found.n:
            return
        for subject, predicate, target in plan.template:
            s, p, o = (found.column(t) if isinstance(t, str) else t for t in (subject, predicate, target))
            subjects = np.full(found.n, s, dtype=np.int64) if isinstance(s, int) else s
            bound = subjects != 0
            if not isinstance(o, int):
                bound &= o != 0
            if isinstance(p, int):
                chosen = [(p, bound)]
            else:
                chosen = [(number, bound & (p == number)) for number in distinct(p).tolist() if number]
            for number, rows in chosen:
                self.graph.add(subjects[rows], number, o if isinstance(o, int) else o[rows])

    def screen(self, screen: Screen) -> Column:
        """What ?this may be in the results of a query, sorted."""
        found = self.group(screen.plan, Solutions(1, {}))
        if not screen.counted or not found.n:
            return distinct(found.column("?this")) if found.n else NONE
        focus = distinct((found.column("?this") << 32) | found.column(screen.counted)) >> 32
        nodes, counts = np.unique(focus, return_counts=True)
        return np.asarray(nodes[counts > screen.least])

    def group(self, plan: Plan, start: Solutions) -> Solutions:
        """The solutions of a group that agree with given ones."""
        found = start
        waiting = plan.tests
        for number, step in enumerate(plan.steps):
            if not found.n:
                return NOTHING
            if step.kind == "join":
                found, waiting = self.join(step.patterns, found, waiting, number, plan.keep[number])
            else:
                found = self.step(step, found)
            if waiting and found.n:
                ready = [test for test in waiting if test.settled <= number]
                waiting = [test for test in waiting if test.settled > number]
                for test in ready:
                    found = self.filter(test, found)
        for test in waiting:
            found = self.filter(test, found)
        return found

    def step(self, step: Step, found: Solutions) -> Solutions:
        """Anything but a join of triples."""
        if step.kind == "bind":
            return self.bind(step, found)
        if step.kind == "values":
            columns = zip(*step.rows, strict=True)
            table = Solutions(len(step.rows), {k: np.array(c, dtype=np.int64) for k, c in zip(step.names, columns, strict=True)})
            return joined(found, table) if found.columns else table
        if step.kind == "union":
            return together([self.group(plan, found) for plan in step.plans])
        if step.kind == "select":
            assert step.query is not None
            table = self.query(step.query)
            return joined(found, table) if found.columns and table.n else table
        plan = step.plans[0]
        rows = np.arange(found.n)
        inner = self.group(plan, found.with_column("#row", rows))
        if not inner.n:
            return found
        matched = np.zeros(found.n, dtype=np.bool_)
        matched[inner.column("#row")] = True
        rest = found.take(~matched)
        inner = Solutions(inner.n, {k: c for k, c in inner.columns.items() if k != "#row"})
        return together([inner, rest], dict.fromkeys((*inner.columns, *found.columns)))

    def bind(self, step: Step, found: Solutions) -> Solutions:
        """The solutions with what BINDs make of them."""
        if not step.wanted:
            return found
        if step.vector is not None and found.n > _SOME:
            fits = step.vector.fits(self.terms, found.columns, found.n)
            try:
                if fits.all():
                    return self.bound_by(step.vector, step, found)
                if fits.any():
                    return together([self.bound_by(step.vector, step, found.take(fits)), self.bind_rows(step, found.take(~fits))])
            except TooLarge:
                pass
        return self.bind_rows(step, found)

    def bound_by(self, vector: Vectorised, step: Step, found: Solutions) -> Solutions:
        """The solutions with what BINDs make of them, all at once. Raises TooLarge."""
        columns = vector.numbered(self.terms, found.columns, found.n)
        return Solutions(found.n, {**found.columns, **dict(zip(step.wanted, columns, strict=True))})

    def bind_rows(self, step: Step, found: Solutions) -> Solutions:
        """The solutions with what BINDs make of them, each combination of inputs once."""
        assert step.function is not None
        rows, n, given = self.combinations(step.inputs, found)
        number_of = self.terms.number_of
        result = dict(found.columns)
        for name, made in zip(step.wanted, step.function(n, self.decoded(given, n)), strict=True):
            if step.makes:
                column = self.terms.made(made)
                result[name] = int(column[0]) if n == 1 else column if rows is None else column[rows]
                continue
            if n == 1:
                result[name] = 0 if made[0] is None else number_of(made[0])
                continue
            column = np.fromiter((0 if v is None else number_of(v) for v in made), dtype=np.int64, count=n)
            result[name] = column if rows is None else column[rows]
        return Solutions(found.n, result)

    def filter(self, test: Test, found: Solutions) -> Solutions:
        """The solutions that pass a filter."""
        if not found.n:
            return found
        if test.members:
            column = found.columns.get(test.inputs[0], 0)
            if isinstance(column, int):
                passes = (column in test.members) != test.negated and column != 0
                return found if passes else NOTHING
            mask = column == test.members[0]
            for number in test.members[1:]:
                mask |= column == number
            if test.negated:
                mask = ~mask & (column != 0)
            return found.take(mask)
        if test.exists is not None:
            mask = self.exist(test.exists, test.names, found)
            return found.take(~mask if test.negated else mask)
        if test.kind:
            kinds = self.terms.kinds_of(found.column(test.inputs[0]))
            return found.take((kinds != test.kind) & (kinds != 0) if test.negated else kinds == test.kind)
        return self.decide(test, found)

    def decide(self, test: Test, found: Solutions) -> Solutions:
        """The solutions for which a condition holds."""
        if test.vector is not None and found.n > _SOME:
            fits = test.vector.fits(self.terms, found.columns, found.n)
            try:
                if fits.all():
                    return found.take(test.vector.holds(self.terms, found.columns, found.n))
                if fits.any():
                    some = found.take(fits)
                    passed = fits.copy()
                    passed[fits] = test.vector.holds(self.terms, some.columns, some.n)
                    passed[~fits] = self.decide_rows(test, found.take(~fits))
                    return found.take(passed)
            except TooLarge:
                pass
        return found.take(self.decide_rows(test, found))

    def decide_rows(self, test: Test, found: Solutions) -> Mask:
        """For which solutions a condition holds, computed once for each combination of its inputs."""
        assert test.function is not None
        rows, n, given = self.combinations(test.inputs, found)
        passed = np.array(test.function(n, self.decoded(given, n)), dtype=np.bool_)
        return np.full(found.n, passed[0]) if n == 1 else passed if rows is None else passed[rows]

    def combinations(self, names: Sequence[str], found: Solutions) -> tuple[Column | None, int, list[Column | int]]:
        """The different inputs of an expression: for each solution which of them it has, their number, and their columns."""
        columns = [found.columns.get(name, 0) for name in names]
        varying = [column for column in columns if not isinstance(column, int)]
        if not varying:
            return None, 1, columns
        if len(varying) > 2 or found.n == 1:
            return None, found.n, columns
        key = (varying[0] << 32) | varying[1] if len(varying) == 2 else varying[0]
        different, rows = np.unique(key, return_inverse=True)
        parts = iter((different >> 32, different & 0xFFFFFFFF) if len(varying) == 2 else (different,))
        return rows, len(different), [column if isinstance(column, int) else next(parts) for column in columns]

    def decoded(self, columns: Sequence[Column | int], n: int) -> list[Any]:
        """Columns of values."""
        return [repeat(self.terms.value(c), n) if isinstance(c, int) else self.terms.values(c) for c in columns]

    def exist(self, plan: Plan, names: frozenset[str], found: Solutions) -> Mask:
        """For which solutions a group has one too."""
        only = plan.steps[0].patterns if len(plan.steps) == 1 and not plan.tests else []
        if len(only) == 1 and only[0].path is None and isinstance(only[0].predicate, int):
            pattern = only[0]
            subject, target = self.bound(pattern.subject, found), self.bound(pattern.object, found)
            relation = self.graph.relations.get(int(pattern.predicate))
            if relation is None:
                return np.zeros(found.n, dtype=np.bool_)
            if isinstance(subject, np.ndarray) and target is not None:
                self.no_gaps(subject)
                if isinstance(target, int):
                    return relation.have(subject, target)
                return relation.contain(subject, target)
            if isinstance(subject, np.ndarray) and isinstance(pattern.object, str):
                self.no_gaps(subject)
                index = relation.forward()
                at = np.minimum(subject, len(index.offsets) - 2)
                return np.asarray(index.offsets[at + 1] > index.offsets[at])
        used = [name for name in names if name in found.columns]
        rows, n, given = self.combinations(used, found)
        start = Solutions(n, dict(zip(used, given, strict=True)))
        inner = self.group(plan, start.with_column("#row", np.arange(n)))
        mask = np.zeros(n, dtype=np.bool_)
        if inner.n:
            mask[inner.column("#row")] = True
        if rows is not None:
            return np.asarray(mask[rows])
        return mask if n == found.n else np.full(found.n, mask[0])

    def no_gaps(self, column: Column) -> None:
        """A pattern over a variable that is not bound would match anything."""
        if not column.all():
            raise Unsettled("a pattern over a variable that is not always bound")

    def query(self, plan: QueryPlan) -> Solutions:
        """The table of a sub-query."""
        if self._tables is None:
            return self._query(plan)
        if id(plan) not in self._tables:
            self._tables[id(plan)] = self._query(plan)
        return self._tables[id(plan)]

    def _query(self, plan: QueryPlan) -> Solutions:
        found = self.group(plan.plan, Solutions(1, {}))
        if not plan.aggregates:
            table = Solutions(found.n, {name: found.columns.get(name, 0) for name in plan.columns})
            if plan.distinct and len(plan.columns) == 1:
                column = distinct(table.column(plan.columns[0]))
                return Solutions(len(column), {plan.columns[0]: column})
            if plan.distinct and table.n > 1:
                rows = np.unique(np.stack([table.column(name) for name in plan.columns]), axis=1)
                table = Solutions(rows.shape[1], {name: rows[i] for i, name in enumerate(plan.columns)})
            return table
        if not found.n:
            return NOTHING
        codes = np.zeros(found.n, dtype=np.int64)
        for name in plan.keys:
            _, codes = np.unique((codes << 32) | found.column(name), return_inverse=True)
        _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
        n = len(first)
        columns: dict[str, Column | int] = {name: found.column(name)[first] for name in plan.keys}
        for name, kind, source, apart in plan.aggregates:
            columns[name] = self.aggregated(kind, codes, found.column(source), n, apart)
        return Solutions(n, columns)

    def aggregated(self, kind: str, codes: Column, numbers: Column, n: int, apart: bool) -> Column:
        """One aggregate for each of n groups; the codes say to which a row belongs."""
        terms = self.terms
        if kind == "COUNT":
            rows = numbers != 0
            pairs = (codes[rows] << 32) | numbers[rows]
            counted = (distinct(pairs) if apart else pairs) >> 32
            return terms.numbered(np.bincount(counted, minlength=n).tolist(), 0, [0] * n)
        result = np.zeros(n, dtype=np.int64)
        if kind != "SUM":
            alone = np.bincount(codes)[codes] == 1
            result[codes[alone]] = numbers[alone]
            codes, numbers = codes[~alone], numbers[~alone]
            if not len(codes):
                return result
        elif apart:
            _, rows = np.unique((codes << 32) | numbers, return_index=True)
            codes, numbers = codes[rows], numbers[rows]
        kinds, _ = terms.decode(numbers)
        if not ((kinds == INTEGER) | (kinds == DECIMAL)).all():
            raise Unsettled(f"{kind} of what is not all numbers that columns hold")
        values = terms.decoded.values[numbers]
        if kind == "SUM":
            if int(np.abs(values).max()) * len(values) >= 2**62:
                raise Unsettled("a sum that columns do not hold")
            np.add.at(result, codes, values)
            decimal = np.bincount(codes, kinds == DECIMAL, minlength=n) > 0
            return terms.numbered(result.tolist(), DIGITS, decimal.tolist())
        order = np.lexsort((values if kind == "MIN" else -values, codes))
        ordered = codes[order]
        first = np.flatnonzero(np.diff(ordered, prepend=-1))
        result[ordered[first]] = numbers[order[first]]
        return result

    # --- Joins ---

    def join(
        self, patterns: list[Pattern], found: Solutions, tests: list[Test], number: int, keep: frozenset[str]
    ) -> tuple[Solutions, list[Test]]:
        """Join triple patterns, the cheapest first; filters as soon as their variables are bound."""
        remaining: Sequence[Pattern] = patterns
        if not found.columns and len(patterns) > 2 and self.graph.large and all(isinstance(p.predicate, int) for p in patterns):
            remaining = self.ordered(patterns)
        while remaining:
            if isinstance(remaining, tuple):
                chosen, remaining = remaining[0], remaining[1:]
            elif len(remaining) == 1:
                chosen = remaining[0]
                remaining = []
            else:
                costs = [self.cost(pattern, found) for pattern in remaining]
                least = min(costs)
                if least == 0:
                    return NOTHING, tests
                place = costs.index(least)
                chosen = remaining[place]
                remaining = [*remaining[:place], *remaining[place + 1 :]]
            if found.n > _MANY:
                found = found.only(keep.union(chosen.names, *(pattern.names for pattern in remaining)))
            found = self.extend(chosen, found)
            if not found.n:
                return NOTHING, tests
            if tests:
                left = []
                for test in tests:
                    if test.settled <= number and test.names <= found.columns.keys():
                        found = self.filter(test, found)
                        if not found.n:
                            return NOTHING, tests
                    else:
                        left.append(test)
                tests = left
        return found, tests

    def ordered(self, patterns: list[Pattern]) -> tuple[Pattern, ...]:
        """The order of joins with the smallest tables in between, as sizes of the first large batch tell. The cheapest next
        join alone can lead astray: from a few terms of the knowledge to everything that anybody has to do with them."""
        known = self.orders.get(id(patterns))
        if known is None:
            tried = (self.chain(patterns, start) for start in range(len(patterns)))
            known = self.orders[id(patterns)] = min(tried, key=lambda each: each[0])[1]
        return known

    def chain(self, patterns: list[Pattern], start: int) -> tuple[float, tuple[Pattern, ...]]:
        """What the cheapest joins after a first one cost together, and their order."""
        names: set[str] = set()
        n, total, order, left = 1.0, 0.0, [], list(patterns)
        place = start
        while True:
            n = self.likely(left[place], names, n)
            total += n
            order.append(left.pop(place))
            names |= order[-1].names
            if not left:
                return total, tuple(order)
            sizes = [self.likely(pattern, names, n) for pattern in left]
            place = sizes.index(min(sizes))

    def likely(self, pattern: Pattern, names: set[str], n: float) -> float:
        """About how many solutions there are after a pattern, if some names are bound in n solutions before it."""
        s, p, o = pattern.subject, pattern.predicate, pattern.object
        from_subject, from_object = isinstance(s, int) or s in names, isinstance(o, int) or o in names
        if not isinstance(p, int) or pattern.path is not None:
            return n * (1e9 if not (from_subject or from_object) else 0.5 if from_subject and from_object else 4.0)
        relation = self.graph.relations.get(p)
        if relation is None or not relation.size:
            return 0.0
        subjects = relation.forward().keys
        if isinstance(o, int):
            chosen = float(len(relation.subjects(o)))
            return n * min(1.0, chosen / subjects) if from_subject else n * chosen
        objects = len(relation.constant) or relation.inverse().keys
        if from_subject and from_object:
            return n * min(1.0, relation.size / subjects / objects)
        return n * relation.size / (subjects if from_subject else objects if from_object else 1)

    def bound(self, term: Term, found: Solutions) -> Column | int | None:
        """A term, what a variable is bound to, or None."""
        return term if isinstance(term, int) else found.columns.get(term)

    def relation(self, pattern: Pattern, predicate: int) -> Relation | None:
        """The relation of a pattern."""
        relation = self.graph.relations.get(predicate)
        if pattern.path is not None and relation is not None and pattern.path.many:
            return relation.steps()
        return relation

    def cost(self, pattern: Pattern, found: Solutions) -> float:
        """About how many solutions there are after a pattern; 0 only where there are none for certain."""
        predicate = self.bound(pattern.predicate, found)
        subject, target = self.bound(pattern.subject, found), self.bound(pattern.object, found)
        if not isinstance(predicate, int):
            open_ends = (subject is None) + (target is None)
            return found.n * (8.0 if open_ends < 2 else 1e9) * (1 if predicate is None else 0.5)
        relation = self.graph.relations.get(predicate)
        if pattern.path is not None:
            if relation is None and not pattern.path.zero:
                return 0
            return (
                found.n * (0.6 if subject is not None and target is not None else 6.0)
                if (subject is not None or target is not None)
                else 1e12
            )
        if relation is None or relation.size == 0:
            return 0
        if subject is not None:
            if target is None:
                return found.n * relation.size / relation.forward().keys
            if isinstance(target, int):
                if len(relation.subjects(target)) == 0:
                    return 0
                return found.n * 0.3
            return found.n * 0.5
        apart = _APART if found.columns and relation.size > 1 else 1.0
        if target is None:
            return found.n * relation.size * apart
        if isinstance(target, int):
            return found.n * len(relation.subjects(target)) * apart
        if relation.constant:
            if found.n <= _FEW:
                return float(sum(len(relation.subjects(number)) for number in target.tolist()))
            return found.n * relation.size / len(relation.constant)
        return found.n * relation.size / relation.inverse().keys

    def extend(self, pattern: Pattern, found: Solutions) -> Solutions:
        """Join one triple pattern."""
        predicate = self.bound(pattern.predicate, found)
        if isinstance(predicate, int):
            return self.extend_by(pattern, predicate, found)
        if predicate is None:
            return self.extend_by_any(pattern, found)
        parts = []
        for number in distinct(predicate).tolist():
            part = found.take(predicate == number)
            parts.append(self.extend_by(pattern, number, part))
        return together(parts)

    def extend_by_any(self, pattern: Pattern, found: Solutions) -> Solutions:
        """A pattern whose predicate is a variable that is not bound."""
        subject, target = self.bound(pattern.subject, found), self.bound(pattern.object, found)
        name = str(pattern.predicate)
        if subject is not None:
            start, (index, others), far = subject, self.graph.by_subject(), pattern.object
        elif target is not None:
            start, (index, others), far = target, self.graph.by_object(), pattern.subject
        else:
            raise Unsettled("a pattern that matches every triple")
        column = np.full(found.n, start, dtype=np.int64) if isinstance(start, int) else start
        self.no_gaps(column)
        at, places = index.places(column)
        result = found.take(at, len(at)).with_column(name, index.others[places])
        ends = others[places]
        known = self.bound(far, found)
        if known is None:
            return result.with_column(str(far), ends)
        other = known if isinstance(known, int) else known[at]
        return result.take(ends == other)

    def extend_by(self, pattern: Pattern, predicate: int, found: Solutions) -> Solutions:
        """A pattern with one predicate."""
        relation = self.relation(pattern, predicate)
        zero = pattern.path is not None and pattern.path.zero
        if relation is None:
            if not zero:
                return NOTHING
            relation = Relation()
        subject, target = self.bound(pattern.subject, found), self.bound(pattern.object, found)
        for each in (subject, target):
            if isinstance(each, np.ndarray):
                self.no_gaps(each)
            elif each == 0:
                raise Unsettled("a pattern over a variable that is not bound")
        if subject is None and target is None:
            return self.extend_open(pattern, relation, found, zero)
        if subject is not None and target is not None:
            return self.extend_closed(relation, subject, target, found, zero)
        near, far = (subject, str(pattern.object)) if subject is not None else (target, str(pattern.subject))
        assert near is not None
        if isinstance(near, int):
            members = relation.forward().of(near) if subject is not None else relation.subjects(near)
            if zero:
                members = np.concatenate((members[members != near], [near]))
            return self.crossed(found, far, members)
        if target is not None and relation.constant and not zero:
            parts = []
            for number in distinct(near).tolist():
                members = relation.subjects(number)
                if len(members):
                    parts.append(self.crossed(found.take(near == number), far, members))
            return together(parts)
        index = relation.forward() if subject is not None else relation.inverse()
        rows, ends = index.expand(near)
        if zero:
            keep = ends != near[rows]
            rows, ends = np.concatenate((rows[keep], np.arange(found.n))), np.concatenate((ends[keep], near))
        return found.take(rows, len(rows)).with_column(far, ends)

    def crossed(self, found: Solutions, name: str, members: Column) -> Solutions:
        """Each solution with each member."""
        if found.n == 1:
            return Solutions(len(members), {**self.same(found, len(members)), name: members})
        rows = np.repeat(np.arange(found.n), len(members))
        return found.take(rows, len(rows)).with_column(name, np.tile(members, found.n))

    def same(self, found: Solutions, n: int) -> dict[str, Column | int]:
        """The columns of a single solution n times."""
        return {k: c if isinstance(c, int) else np.repeat(c, n) for k, c in found.columns.items()}

    def extend_open(self, pattern: Pattern, relation: Relation, found: Solutions, zero: bool) -> Solutions:
        """A pattern of which neither end is bound."""
        if zero:
            raise Unsettled("a path of any length between anything")
        keys = relation.keys()
        subjects, objects = keys >> 32, keys & 0xFFFFFFFF
        if pattern.subject == pattern.object:
            return self.crossed(found, str(pattern.subject), subjects[subjects == objects])
        pairs = Solutions(len(keys), {str(pattern.subject): subjects, str(pattern.object): objects})
        if not found.columns:
            return pairs
        return cross(found, pairs)

    def extend_closed(
        self, relation: Relation, subject: Column | int, target: Column | int, found: Solutions, zero: bool
    ) -> Solutions:
        """A pattern of which both ends are bound."""
        if isinstance(subject, int) and isinstance(target, int):
            holds = bool(relation.have(np.array([subject]), target)[0]) or (zero and subject == target)
            return found if holds else NOTHING
        subjects = np.full(found.n, subject, dtype=np.int64) if isinstance(subject, int) else subject
        mask = relation.have(subjects, target) if isinstance(target, int) else relation.contain(subjects, target)
        if zero:
            mask = mask | (subjects == target)
        return found.take(mask)
