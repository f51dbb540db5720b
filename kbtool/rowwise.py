"""Evaluate the plans of `evaluate` solution by solution, in plain Python.

For a few patients this costs a fraction of what joins of columns cost, whose price lies in the number of operations and not
in the number of rows. The meaning is the same; the tests hold the two and Oxigraph to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

from kbtool.columns import Terms
from kbtool.plans import Pattern, Plan, QueryPlan, Screen, Step, Test, UpdatePlan
from kbtool.values import Unsettled

Solution: TypeAlias = "dict[str, int]"
Index: TypeAlias = "dict[int, dict[int, dict[int, None]]]"

_NONE: dict[int, None] = {}
_EMPTY: dict[int, dict[int, None]] = {}


class Triples:
    """A set of triples by predicate, in both directions, over a shared one that stays as it is."""

    def __init__(self, terms: Terms, shared: Triples | None = None) -> None:
        self.terms, self.shared = terms, shared
        self.out: Index = {}
        self.into: Index = {}
        self.memo: dict[tuple[Any, ...], bool] = {}
        self._about: dict[str, dict[int, list[tuple[int, int]]]] = {}

    def add(self, subject: int, predicate: int, target: int) -> None:
        """Add a triple."""
        if self.shared is not None and target in self.shared.objects(predicate, subject):
            return
        self.out.setdefault(predicate, {}).setdefault(subject, {})[target] = None
        self.into.setdefault(predicate, {}).setdefault(target, {})[subject] = None
        self._about.clear()

    def objects(self, predicate: int, subject: int) -> Collection[int]:
        """The objects of a subject."""
        mine = self.out.get(predicate, _EMPTY).get(subject, _NONE)
        if self.shared is None:
            return mine
        others = self.shared.out.get(predicate, _EMPTY).get(subject)
        return mine if not others else others if not mine else {**others, **mine}

    def subjects(self, predicate: int, target: int) -> Collection[int]:
        """The subjects of an object."""
        mine = self.into.get(predicate, _EMPTY).get(target, _NONE)
        if self.shared is None:
            return mine
        others = self.shared.into.get(predicate, _EMPTY).get(target)
        return mine if not others else others if not mine else {**others, **mine}

    def getter(self, predicate: int, side: str) -> Callable[[int, dict[int, None]], Collection[int]]:
        """How to look up objects by subject, or with "into" subjects by object."""
        mine = (self.out if side == "out" else self.into).get(predicate)
        shared = self.shared and (self.shared.out if side == "out" else self.shared.into).get(predicate)
        if not mine or not shared:
            return (mine or shared or _EMPTY).get
        look = self.objects if side == "out" else self.subjects
        return lambda node, _: look(predicate, node)

    def pairs(self, predicate: int) -> Iterator[tuple[int, int]]:
        """Subjects and objects of a predicate."""
        if self.shared is not None:
            yield from self.shared.pairs(predicate)
        for subject, targets in self.out.get(predicate, _EMPTY).items():
            for target in targets:
                yield subject, target

    def size(self, predicate: int) -> int:
        """About how many triples a predicate has; 0 for none."""
        mine = len(self.out.get(predicate, _EMPTY))
        return mine if self.shared is None else mine + len(self.shared.out.get(predicate, _EMPTY))

    def about(self, node: int, side: str = "out") -> list[tuple[int, int]]:
        """Predicates and objects of a node, or with "into" predicates and subjects."""
        if side not in self._about:
            known = self._about[side] = {}
            for predicate, nodes in (self.out if side == "out" else self.into).items():
                for each, others in nodes.items():
                    known.setdefault(each, []).extend((predicate, other) for other in others)
        mine = self._about[side].get(node, [])
        return mine if self.shared is None else self.shared.about(node, side) + mine


class RowEvaluator:
    """Runs plans on a small set of triples."""

    def __init__(self, graph: Triples, *, unchanged: bool = False) -> None:
        """unchanged: nothing is added while the evaluator is in use, so the table of a sub-query can be used again."""
        self.graph, self.terms = graph, graph.terms
        self._tables: dict[int, list[Solution]] | None = {} if unchanged else None
        self.shared = graph.shared or graph
        self.limit = self.shared.terms.limit

    def update(self, plan: UpdatePlan) -> None:
        """Add what an update inserts."""
        add = self.graph.add
        for found in self.group(plan.plan, [{}]):
            for subject, predicate, target in plan.template:
                s = subject if isinstance(subject, int) else found.get(subject, 0)
                p = predicate if isinstance(predicate, int) else found.get(predicate, 0)
                o = target if isinstance(target, int) else found.get(target, 0)
                if s and p and o:
                    add(s, p, o)

    def screen(self, screen: Screen) -> list[int]:
        """What ?this may be in the results of a query."""
        found = self.group(screen.plan, [{}])
        if not screen.counted:
            return list(dict.fromkeys(row["?this"] for row in found))
        values: dict[int, set[int]] = {}
        for row in found:
            values.setdefault(row["?this"], set()).add(row.get(screen.counted, 0))
        return [node for node, each in values.items() if len(each) > screen.least]

    def group(self, plan: Plan, rows: list[Solution]) -> list[Solution]:
        """The solutions of a group that agree with given ones."""
        graph = self.graph
        for predicate, target in plan.required:
            if not (graph.subjects(predicate, target) if target else graph.size(predicate)):
                return []
        waiting = plan.tests
        for number, step in enumerate(plan.steps):
            if not rows:
                return rows
            if step.kind == "join":
                rows, waiting = self.join(step.patterns, rows, waiting, number)
            else:
                rows = self.step(step, rows)
            if waiting and rows:
                for test in waiting:
                    if test.settled <= number:
                        rows = self.filter(test, rows)
                waiting = [test for test in waiting if test.settled > number]
        for test in waiting:
            rows = self.filter(test, rows)
        return rows

    def step(self, step: Step, rows: list[Solution]) -> list[Solution]:
        """Anything but a join of triples."""
        if step.kind == "bind":
            return self.bind(step, rows)
        if step.kind == "union":
            return [row for plan in step.plans for row in self.group(plan, rows)]
        if step.kind == "optional":
            found = []
            for row in rows:
                found += self.group(step.plans[0], [row]) or [row]
            return found
        if step.kind == "values":
            return _joined(rows, [dict(zip(step.names, each, strict=True)) for each in step.rows])
        assert step.query is not None
        return _joined(rows, self.query(step.query))

    def columns(self, names: Sequence[str], rows: list[Solution]) -> list[list[Any]]:
        """Columns of values."""
        value = self.terms.value
        return [[value(row.get(name, 0)) for row in rows] for name in names]

    def bind(self, step: Step, rows: list[Solution]) -> list[Solution]:
        """The solutions with what BINDs make of them."""
        assert step.function is not None
        if not step.wanted:
            return rows
        found = [dict(row) for row in rows]
        for name, made in zip(step.wanted, step.function(len(rows), self.columns(step.inputs, rows)), strict=True):
            for row, value in zip(found, made, strict=True):
                if value is not None:
                    row[name] = self.terms.number(value) if step.makes else self.terms.number_of(value)
        return found

    def filter(self, test: Test, rows: list[Solution]) -> list[Solution]:
        """The solutions that pass a filter."""
        if not rows:
            return rows
        if test.members:
            name = test.inputs[0]
            return [row for row in rows if (row.get(name, 0) in test.members) != test.negated and row.get(name, 0)]
        if test.exists is not None:
            plan, names = test.exists, test.names
            return [row for row in rows if self.exists(plan, {k: row[k] for k in names if k in row}) != test.negated]
        if test.kind:
            kind = self.terms.kind_of
            name = test.inputs[0]
            return [row for row in rows if (row.get(name, 0) and (kind(row[name]) == test.kind) != test.negated)]
        assert test.function is not None
        passed = test.function(len(rows), self.columns(test.inputs, rows))
        return [row for row, passes in zip(rows, passed, strict=True) if passes]

    def exists(self, plan: Plan, row: Solution) -> bool:
        """Whether a group has a solution that agrees with one."""
        if len(plan.steps) == 1 and not plan.tests and len(plan.steps[0].patterns) == 1:
            pattern = plan.steps[0].patterns[0]
            s, p, o = (_bound(term, row) for term in (pattern.subject, pattern.predicate, pattern.object))
            if p and s and pattern.path is None:
                found = self.graph.objects(p, s)
                return o in found if o else bool(found)
        if self.fixed(plan) and all(number < self.limit for number in row.values()):
            memo = self.shared.memo
            key = (id(plan), *row.items())
            if key not in memo:
                memo[key] = bool(self.group(plan, [row]))
            return memo[key]
        return bool(self.group(plan, [row]))

    def fixed(self, plan: Plan) -> bool:
        """Whether a group looks only at the knowledge: then what it says of terms of the knowledge is always the same."""
        return plan.reads is not None and not any(predicate in self.graph.out for predicate in plan.reads)

    def query(self, plan: QueryPlan) -> list[Solution]:
        """The table of a sub-query."""
        if self._tables is None:
            return self._query(plan)
        if id(plan) not in self._tables:
            self._tables[id(plan)] = self._query(plan)
        return self._tables[id(plan)]

    def _query(self, plan: QueryPlan) -> list[Solution]:
        rows = self.group(plan.plan, [{}])
        if not plan.aggregates:
            chosen = [tuple(row.get(name, 0) for name in plan.columns) for row in rows]
            each = dict.fromkeys(chosen) if plan.distinct else chosen
            return [{k: v for k, v in zip(plan.columns, row, strict=True) if v} for row in each]
        groups: dict[tuple[int, ...], list[Solution]] = {}
        for row in rows:
            groups.setdefault(tuple(row.get(name, 0) for name in plan.keys), []).append(row)
        found = []
        for key, members in groups.items():
            solution = dict(zip(plan.keys, key, strict=True))
            for name, kind, source, apart in plan.aggregates:
                solution[name] = aggregate(self.terms, kind, [row.get(source, 0) for row in members], apart)
            found.append(solution)
        return found

    # --- Joins ---

    def join(
        self, patterns: list[Pattern], rows: list[Solution], tests: list[Test], number: int
    ) -> tuple[list[Solution], list[Test]]:
        """Join triple patterns, those that narrow most first; filters as soon as their variables are bound."""
        remaining = list(patterns)
        while remaining:
            known = rows[0]
            costs = [self.cost(pattern, known) for pattern in remaining] if len(remaining) > 1 else [0.0]
            pattern = remaining.pop(costs.index(min(costs)))
            rows = self.extend_all(pattern, rows)
            if not rows:
                return rows, tests
            if tests:
                left = []
                for test in tests:
                    if test.settled <= number and test.names <= rows[0].keys():
                        rows = self.filter(test, rows)
                        if not rows:
                            return rows, tests
                    else:
                        left.append(test)
                tests = left
        return rows, tests

    def cost(self, pattern: Pattern, known: Solution) -> float:
        """About how many solutions a pattern makes of one."""
        s, p, o = pattern.subject, pattern.predicate, pattern.object
        from_subject = isinstance(s, int) or s in known
        from_object = isinstance(o, int) or o in known
        if not isinstance(p, int):
            if p not in known:
                return 20.0 if from_subject or from_object else 1e9
            p = known[p]
        if from_subject:
            return 0.5 if from_object else 1.5
        if pattern.path is not None:
            return 3.0 if from_object else 1e9
        if from_object:
            return float(len(self.graph.subjects(p, o))) if isinstance(o, int) else 2.0
        return 4.0 + self.graph.size(p)

    def extend_all(self, pattern: Pattern, rows: list[Solution]) -> list[Solution]:
        """The solutions that a pattern makes of some that bind the same variables."""
        s, p, o = pattern.subject, pattern.predicate, pattern.object
        known = rows[0]
        if pattern.path is not None or not isinstance(p, int):
            return [found for row in rows for found in self.extend(pattern, row)]
        if isinstance(s, int):
            if not isinstance(o, int) and o not in known:
                targets = self.graph.objects(p, s)
                return [{**row, o: target} for row in rows for target in targets]
        elif s in known:
            get = self.graph.getter(p, "out")
            if isinstance(o, int):
                return [row for row in rows if o in get(row[s], _NONE)]
            if o in known:
                return [row for row in rows if row[o] in get(row[s], _NONE)]
            return [{**row, o: target} for row in rows for target in get(row[s], _NONE)]
        elif isinstance(o, int):
            subjects = self.graph.subjects(p, o)
            return [{**row, s: subject} for row in rows for subject in subjects]
        elif o in known:
            get = self.graph.getter(p, "into")
            return [{**row, s: subject} for row in rows for subject in get(row[o], _NONE)]
        return [found for row in rows for found in self.extend(pattern, row)]

    def extend(self, pattern: Pattern, row: Solution) -> Iterable[Solution]:
        """The solutions that a pattern makes of one."""
        s, p, o = (_bound(term, row) for term in (pattern.subject, pattern.predicate, pattern.object))
        graph = self.graph
        if s == 0 or p == 0 or o == 0:
            raise Unsettled("a pattern over a variable that is not bound")
        if p is None:
            return self.extend_by_any(pattern, row, s, o)
        if pattern.path is not None:
            return self.extend_path(pattern, row, p, s, o)
        if s is not None:
            targets = graph.objects(p, s)
            if o is not None:
                return (row,) if o in targets else ()
            name = str(pattern.object)
            return [{**row, name: target} for target in targets]
        name = str(pattern.subject)
        if o is not None:
            return [{**row, name: subject} for subject in graph.subjects(p, o)]
        other = str(pattern.object)
        if name == other:
            return [{**row, name: subject} for subject, target in graph.pairs(p) if subject == target]
        return [{**row, name: subject, other: target} for subject, target in graph.pairs(p)]

    def extend_by_any(self, pattern: Pattern, row: Solution, s: int | None, o: int | None) -> list[Solution]:
        """A pattern whose predicate is not bound."""
        name = str(pattern.predicate)
        if s is not None:
            pairs, far, known = self.graph.about(s), str(pattern.object), o
        elif o is not None:
            pairs, far, known = self.graph.about(o, "into"), str(pattern.subject), None
        else:
            raise Unsettled("a pattern that matches every triple")
        if known is not None:
            return [{**row, name: predicate} for predicate, other in pairs if other == known]
        return [{**row, name: predicate, far: other} for predicate, other in pairs]

    def extend_path(self, pattern: Pattern, row: Solution, p: int, s: int | None, o: int | None) -> list[Solution]:
        """A path of zero, one or more triples."""
        assert pattern.path is not None
        if s is not None:
            reached = self.reach(p, s, self.graph.objects, zero=pattern.path.zero, many=pattern.path.many)
            if o is not None:
                return [row] if o in reached else []
            return [{**row, str(pattern.object): target} for target in reached]
        if o is not None:
            reached = self.reach(p, o, self.graph.subjects, zero=pattern.path.zero, many=pattern.path.many)
            return [{**row, str(pattern.subject): subject} for subject in reached]
        if pattern.path.zero:
            raise Unsettled("a path of any length between anything")
        starts = dict.fromkeys(subject for subject, _ in self.graph.pairs(p))
        return [
            each for start in starts for each in self.extend_path(pattern, {**row, str(pattern.subject): start}, p, start, None)
        ]

    def reach(self, p: int, start: int, near: Any, *, zero: bool, many: bool) -> dict[int, None]:
        """The nodes at the other end of a path."""
        found: dict[int, None] = {start: None} if zero else {}
        waiting = [start]
        seen = set()
        while waiting:
            for node in near(p, waiting.pop()):
                found[node] = None
                if many and node not in seen:
                    seen.add(node)
                    waiting.append(node)
        return found


def _bound(term: int | str, row: Solution) -> int | None:
    return term if isinstance(term, int) else row.get(term)


def _joined(left: list[Solution], right: list[Solution]) -> list[Solution]:
    """The natural join of two tables in which the shared variables are bound."""
    if left == [{}] or not left or not right:
        return right if left else []
    shared = [name for name in right[0] if name in left[0]]
    by_key: dict[tuple[int, ...], list[Solution]] = {}
    for row in right:
        by_key.setdefault(tuple(row[name] for name in shared), []).append(row)
    if any(0 in key for key in by_key):
        raise Unsettled("a join over a variable that is not always bound")
    return [{**row, **other} for row in left for other in by_key.get(tuple(row.get(name, 0) for name in shared), ())]


def aggregate(terms: Terms, kind: str, numbers: list[int], apart: bool) -> int:
    """One aggregate over one group."""
    if apart:
        numbers = list(dict.fromkeys(numbers))
    if kind == "COUNT":
        return terms.number_of(sum(1 for number in numbers if number))
    if len(numbers) == 1 and kind != "SUM":
        return numbers[0]
    values: list[Any] = [terms.value(number) for number in numbers]
    if not all(type(value) is int or type(value) is Decimal for value in values):
        raise Unsettled(f"{kind} of what is not all numbers")
    if kind == "SUM":
        return terms.number_of(sum(values))
    chosen = (min if kind == "MIN" else max)(range(len(values)), key=values.__getitem__)
    return numbers[chosen]
