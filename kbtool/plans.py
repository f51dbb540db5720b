"""Plans: what to do for a parsed update or query, in numbers of terms, made once for a knowledge base.

A plan holds no data. `evaluate` runs it on columns, for many patients at once, `rowwise` solution by solution, for a few. What
cannot be planned raises CannotRead; so does what engines understand differently.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from kbtool.columns import Terms
from kbtool.expressions import Function, chained, compiled, makes_terms, variables
from kbtool.sparql import (
    AGGREGATES,
    Bind,
    Call,
    CannotRead,
    Closure,
    Element,
    Exists,
    Expression,
    Filter,
    Group,
    Insert,
    Optional,
    Select,
    Triple,
    Union,
    Values,
    is_variable,
)
from kbtool.values import value_of
from kbtool.vectorise import Vectorised, vectorised

Term: TypeAlias = "int | str"
"""A term by its number, or a variable by its name."""


@dataclass(slots=True)
class Pattern:
    """A triple pattern: numbers for terms, names for variables."""

    subject: Term
    predicate: Term
    object: Term
    path: Closure | None
    names: frozenset[str]


@dataclass(slots=True)
class Test:
    """A filter: the variables that it waits for, and one of the ways to decide it."""

    names: frozenset[str]
    settled: int
    function: Function | None = None
    inputs: tuple[str, ...] = ()
    members: tuple[int, ...] = ()
    negated: bool = False
    kind: int = 0
    vector: Vectorised | None = None
    exists: Plan | None = None


@dataclass(slots=True)
class Step:
    """One element of a group after the joins before it: a BIND, inline data, an optional part, alternatives, a sub-query."""

    kind: str
    patterns: list[Pattern] = field(default_factory=list)
    binds: list[tuple[str, Expression]] = field(default_factory=list)
    wanted: tuple[str, ...] = ()
    makes: bool = False
    function: Function | None = None
    vector: Vectorised | None = None
    inputs: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()
    plans: list[Plan] = field(default_factory=list)
    query: QueryPlan | None = None


@dataclass(slots=True)
class Plan:
    """A group: its steps in order, and its filters, each with the step after which it can be decided at the latest.

    required: predicates, with an object or 0, of which there has to be a triple for the group to have a solution. reads: all
    predicates that the group looks at, or None where a variable stands for one. keep: for each step what is used after it.
    """

    steps: list[Step]
    tests: list[Test]
    names: frozenset[str]
    certain: frozenset[str]
    required: tuple[tuple[int, int], ...] = ()
    reads: frozenset[int] | None = None
    keep: tuple[frozenset[str], ...] = ()


@dataclass(slots=True)
class QueryPlan:
    """A SELECT query: the plan of its pattern, what groups it, and the aggregates."""

    plan: Plan
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    aggregates: tuple[tuple[str, str, str, bool], ...]
    distinct: bool


@dataclass(slots=True)
class UpdatePlan:
    """An update: what is inserted for each solution."""

    plan: Plan
    template: list[tuple[Term, Term, Term]]
    needed: frozenset[str]


@dataclass(slots=True)
class Screen:
    """The plan of what may be results of a query, and which variable has to have more than so many values for each."""

    plan: Plan
    counted: str
    least: int


class Planner:
    """Makes plans; the terms of queries get their numbers from the dictionary of the knowledge."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._queries: dict[Select, QueryPlan] = {}

    def update(self, insert: Insert) -> UpdatePlan:
        """The plan of an update. Raises CannotRead."""
        template = []
        for triple in insert.template:
            if isinstance(triple.predicate, Closure):
                raise CannotRead("a path in a template")
            template.append((self.term(triple.subject), self.term(triple.predicate), self.term(triple.object)))
        needed = frozenset(term for each in template for term in each if isinstance(term, str))
        return UpdatePlan(self.group(insert.where, frozenset(), needed), template, needed)

    def screen(self, query: Select) -> Screen:
        """The plan of what may be a result of a query: the patterns of sub-queries stand in place of them, and of what is said
        of groups only that they count more than some number of values. Raises CannotRead."""
        counted, least = "", 0
        for condition in query.having:
            match condition:
                case Call(">", (Call("COUNT", (str(name),), True), str(number))) if query.group_by == ("?this",):
                    counted, least = name, int(str(value_of(number)))
        needed = frozenset(filter(None, ("?this", counted)))
        return Screen(self.group(_flat(query), frozenset(), needed), counted, least)

    def term(self, term: str) -> Term:
        """A variable by its name, any other term by its number."""
        return term if is_variable(term) else self.terms.term(term)

    def group(self, group: Group, outer: frozenset[str], needed: frozenset[str], *, inside: bool = False) -> Plan:
        """The plan of a group. outer: variables that are bound around it. inside: they are put in (EXISTS), not joined."""
        steps: list[Step] = []
        elements = [_selected(e) for e in group.elements if not isinstance(e, Filter)]
        filters = [each for e in group.elements if isinstance(e, Filter) for each in _conditions(e.expression)]
        mine = frozenset().union(*(_names(e) for e in elements)) if elements else frozenset()
        certain: set[str] = set()
        possible: set[str] = set()
        last: list[int] = []
        known = outer if inside else frozenset[str]()
        used_later, used_after = self._used_later(group, elements, needed)
        for number, element in enumerate(elements):
            if isinstance(element, Triple):
                if not steps or steps[-1].kind != "join":
                    steps.append(Step("join"))
                steps[-1].patterns.append(self.pattern(element))
                last[len(steps) - 1 :] = [number]
                unsure = _names(element) & (possible - certain)
                if unsure:
                    raise CannotRead(f"a triple with {sorted(unsure)[0]}, which is perhaps not bound before it")
                certain |= _names(element)
                continue
            scope = frozenset(certain | possible | outer)
            if isinstance(element, Bind):
                self.in_scope(variables(element.expression), mine | known, outer)
                if element.variable in used_later[number]:
                    if not steps or steps[-1].kind != "bind":
                        steps.append(Step("bind"))
                    steps[-1].binds.append((element.variable, element.expression))
                    steps[-1].wanted = tuple(name for name, _ in steps[-1].binds if name in used_after[number])
                possible.add(element.variable)
                if isinstance(element.expression, str) and not is_variable(element.expression):
                    certain.add(element.variable)
            elif isinstance(element, Values):
                rows = tuple(tuple(map(self.terms.term, row)) for row in element.rows)
                steps.append(Step("values", names=element.variables, rows=rows))
                certain |= set(element.variables)
            elif isinstance(element, Optional):
                plan = self.group(element.group, scope, used_later[number], inside=True)
                steps.append(Step("optional", plans=[plan]))
                possible |= plan.names
            elif isinstance(element, Union):
                wanted = used_later[number]
                plans = [self.group(each, scope | known, wanted, inside=inside) for each in element.groups]
                steps.append(Step("union", plans=plans))
                certain |= frozenset.intersection(*(plan.certain for plan in plans))
                possible |= frozenset().union(*(plan.names for plan in plans))
            elif isinstance(element, Select):
                steps.append(Step("select", query=self.query(element)))
                certain |= {name for name, _ in element.columns}
            last[len(steps) - 1 :] = [number] if steps else []
        bound = set(outer)
        for step in steps:
            if step.kind == "bind":
                made = {name for name, _ in step.binds}
                used = set().union(*(variables(expression) for _, expression in step.binds))
                step.inputs = tuple(sorted((used & bound) - made))
                step.function = chained(step.binds, step.inputs, step.wanted)
                step.makes = bool(makes_terms(step.binds, step.wanted))
                step.vector = None if step.makes else vectorised(None, step.binds, step.inputs, step.wanted, self.terms)
            bound |= self.binds(step)
        tests = [self.test(condition, mine, outer, known, steps) for condition in filters]
        required = (
            (pattern.predicate, pattern.object if isinstance(pattern.object, int) else 0)
            for step in steps
            for pattern in step.patterns
            if isinstance(pattern.predicate, int) and pattern.path is None
        )
        names = frozenset(mine | possible | certain)
        keep = tuple(used_later[number] for number in last)
        return Plan(steps, tests, names, frozenset(certain), tuple(dict.fromkeys(required)), _reads(steps, tests), keep)

    def _used_later(
        self, group: Group, elements: list[Element], needed: frozenset[str]
    ) -> tuple[list[frozenset[str]], list[frozenset[str]]]:
        """For each element the variables that something after it, a filter or the result uses; and the same without the BINDs
        that follow it at once."""
        later = set(needed).union(*(_mentioned(e.expression) for e in group.elements if isinstance(e, Filter)))
        beyond = frozenset(later)
        found, after = [], []
        for element in reversed(elements):
            found.append(frozenset(later))
            after.append(beyond if isinstance(element, Bind) else frozenset())
            later |= _names(element) | (variables(element.expression) if isinstance(element, Bind) else set())
            if not isinstance(element, Bind):
                beyond = frozenset(later)
        return found[::-1], after[::-1]

    def in_scope(self, used: set[str], bound: frozenset[str], outer: frozenset[str]) -> None:
        """Refuse what engines read differently: a filter in a nested group over a variable that only the outside binds."""
        stray = (used - bound) & outer
        if stray:
            raise CannotRead(f"{sorted(stray)[0]} is used in a nested group that does not bind it; engines differ on that")

    def pattern(self, triple: Triple) -> Pattern:
        """A triple pattern with numbers in place of terms."""
        path = triple.predicate if isinstance(triple.predicate, Closure) else None
        predicate = path.predicate if path is not None else triple.predicate
        assert isinstance(predicate, str)
        names = frozenset(filter(is_variable, (triple.subject, predicate, triple.object)))
        return Pattern(self.term(triple.subject), self.term(predicate), self.term(triple.object), path, names)

    def test(
        self,
        expression: Expression,
        mine: frozenset[str],
        outer: frozenset[str],
        known: frozenset[str],
        steps: list[Step],
    ) -> Test:
        """The plan of a filter."""
        negated = False
        while isinstance(expression, Call) and expression.name == "!" and isinstance(expression.args[0], Exists):
            expression, negated = expression.args[0], not negated
        if isinstance(expression, Exists):
            inner = _group_names(expression.group)
            names = frozenset(inner & (mine | known))
            self.in_scope(set(inner), mine | known, outer)
            plan = self.group(expression.group, names, frozenset(), inside=True)
            test = Test(names, 0, exists=plan, negated=negated != expression.negated)
        else:
            used = variables(expression)
            self.in_scope(used, mine | known, outer)
            inputs = tuple(sorted(used & (mine | known)))
            members, kind = _members(expression), _kind(expression)
            if kind is not None:
                test = Test(frozenset((kind[0],)), 0, None, (kind[0],), (), kind[2], kind=kind[1])
            elif members is not None:
                name, terms, negated = members
                numbers = tuple(self.terms.term(term) for term in terms)
                test = Test(frozenset((name,)), 0, None, (name,), numbers, negated)
            else:
                test = Test(frozenset(inputs), 0, compiled(expression, inputs), inputs)
                test.vector = vectorised(expression, (), inputs, (), self.terms)
        test.settled = max((n for n, step in enumerate(steps) if self.binds(step) & test.names), default=-1)
        return test

    def binds(self, step: Step) -> frozenset[str]:
        """The variables that a step can bind."""
        if step.kind == "join":
            return frozenset().union(*(pattern.names for pattern in step.patterns))
        if step.kind == "select" and step.query is not None:
            return frozenset(step.query.columns)
        if step.kind in ("optional", "union"):
            return frozenset().union(*(plan.names for plan in step.plans))
        return frozenset(step.names) if step.kind == "values" else frozenset(name for name, _ in step.binds)

    def query(self, select: Select) -> QueryPlan:
        """The plan of a sub-query, the same for the same text."""
        if select not in self._queries:
            self._queries[select] = self._query(select)
        return self._queries[select]

    def _query(self, select: Select) -> QueryPlan:
        if select.having:
            raise CannotRead("HAVING")
        aggregates = []
        for name, expression in select.columns:
            if expression is None:
                continue
            if not (isinstance(expression, Call) and expression.name in AGGREGATES and isinstance(expression.args[0], str)):
                raise CannotRead("a sub-query that computes more than one aggregate a column")
            if expression.name == "GROUP_CONCAT" or not is_variable(expression.args[0]):
                raise CannotRead(expression.name)
            aggregates.append((name, expression.name, expression.args[0], expression.distinct))
        if aggregates and not select.group_by:
            raise CannotRead("an aggregate over everything, which has a result even where there is nothing")
        plain = [name for name, expression in select.columns if expression is None]
        if set(plain) - set(select.group_by) and select.aggregates:
            raise CannotRead("a sub-query that shows what it does not group by")
        wanted = frozenset((*plain, *select.group_by, *(source for _, _, source, _ in aggregates)))
        plan = self.group(select.where, frozenset(), wanted)
        columns = tuple(name for name, _ in select.columns)
        return QueryPlan(plan, select.group_by, columns, tuple(aggregates), select.distinct)


def _reads(steps: list[Step], tests: list[Test]) -> frozenset[int] | None:
    """The predicates that a group looks at, or None where a variable stands for one."""
    found = {pattern.predicate for step in steps for pattern in step.patterns}
    inner = [plan.reads for step in steps for plan in step.plans] + [test.exists.reads for test in tests if test.exists]
    inner += [step.query.plan.reads for step in steps if step.query]
    if any(isinstance(predicate, str) for predicate in found) or any(reads is None for reads in inner):
        return None
    return frozenset(p for p in found if isinstance(p, int)).union(*(reads for reads in inner if reads is not None))


def _selected(element: Element) -> Element:
    """A sub-query in place of a group that holds nothing else."""
    if isinstance(element, Union) and len(element.groups) == 1 and len(element.groups[0].elements) == 1:
        inner = element.groups[0].elements[0]
        return inner if isinstance(inner, Select) else element
    return element


def _conditions(expression: Expression) -> list[Expression]:
    """The parts of a condition that all have to hold."""
    if isinstance(expression, Call) and expression.name == "&&":
        return [part for arg in expression.args for part in _conditions(arg)]
    return [expression]


_KINDS = {"ISIRI": 1, "ISBLANK": 2, "ISLITERAL": 3}


def _kind(expression: Expression) -> tuple[str, int, bool] | None:
    """A condition on the kind of a variable: the variable, the kind, and whether it is excluded."""
    negated = False
    while isinstance(expression, Call) and expression.name == "!":
        expression, negated = expression.args[0], not negated
    if isinstance(expression, Call) and expression.name in _KINDS and is_variable(expression.args[0]):
        return str(expression.args[0]), _KINDS[expression.name], negated
    return None


def _members(expression: Expression) -> tuple[str, list[str], bool] | None:
    """A filter that compares one variable with IRIs: the variable, the IRIs, and whether they are excluded."""
    if not isinstance(expression, Call):
        return None
    if expression.name == "!":
        inner = _members(expression.args[0])
        return (inner[0], inner[1], not inner[2]) if inner is not None and not inner[2] else None
    if expression.name == "||":
        left, right = map(_members, expression.args)
        if left is None or right is None or left[0] != right[0] or left[2] or right[2]:
            return None
        return left[0], left[1] + right[1], False
    if expression.name in ("=", "!=", "IN"):
        first, *rest = expression.args
        terms = [term for term in rest if isinstance(term, str) and term.startswith("<")]
        if isinstance(first, str) and is_variable(first) and len(terms) == len(rest):
            return first, terms, expression.name == "!="
    return None


def _flat(query: Select) -> Group:
    """The pattern of a query in which sub-queries that can be merged into it are replaced by their patterns."""
    elements: list[Element] = []
    for element in map(_selected, query.where.elements):
        merged = isinstance(element, Select) and (element.aggregates or len(element.columns) > 1)
        elements.extend(_flat(element).elements if isinstance(element, Select) and merged else (element,))
    return Group(tuple(elements))


def _names(element: Element) -> frozenset[str]:
    """The variables that an element can bind."""
    if isinstance(element, Triple):
        terms = (element.subject, element.predicate, element.object)
        inner = (element.predicate.predicate,) if isinstance(element.predicate, Closure) else ()
        return frozenset(term for term in (*terms, *inner) if isinstance(term, str) and is_variable(term))
    if isinstance(element, Bind):
        return frozenset((element.variable,))
    if isinstance(element, Values):
        return frozenset(element.variables)
    if isinstance(element, Optional):
        return frozenset().union(*map(_names, element.group.elements))
    if isinstance(element, Union):
        return frozenset().union(*(_names(e) for group in element.groups for e in group.elements))
    return frozenset(name for name, _ in element.columns) if isinstance(element, Select) else frozenset()


def _group_names(group: Group) -> frozenset[str]:
    """All variables of a group, those of its filters too."""
    found = frozenset().union(*map(_names, group.elements)) if group.elements else frozenset[str]()
    for element in group.elements:
        if isinstance(element, Filter | Bind):
            found |= _mentioned(element.expression)
    return found


def _mentioned(expression: Expression) -> frozenset[str]:
    if isinstance(expression, Exists):
        return _group_names(expression.group)
    if isinstance(expression, Call):
        return frozenset().union(*map(_mentioned, expression.args))
    return frozenset(variables(expression))
