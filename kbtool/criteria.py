"""Compile criteria, which are OWL defined classes, to plain SPARQL 1.1 updates.

The ontology is the only source. A criterion lies in the positive fragment of OWL 2 DL: intersections, unions,
existential restrictions, values, numeric ranges and named classes. For each criterion one update types the patients
(or facts) that certainly meet it and marks the facts on which that rests (`cg:supports`); a second one marks those of
whom it is *unknown*: they would meet it if at least one thing that is lacking were filled in (`cg:unknown`, with a
node that says what is needed). Unions are written out into alternatives, because a UNION inside a joined pattern is
evaluated badly by most engines.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product

import pyoxigraph as ox

from kbtool.namespaces import CG, OWL, RDF, RDFS, XSD, local_name

Term = ox.NamedNode | ox.BlankNode

_FACETS = {"minInclusive": ">=", "minExclusive": ">", "maxInclusive": "<=", "maxExclusive": "<"}
_TESTS = {"minInclusive": operator.ge, "minExclusive": operator.gt, "maxInclusive": operator.le, "maxExclusive": operator.lt}


class CriterionError(Exception):
    """A criterion lies outside the fragment, or refers to itself. The message names the class."""


@dataclass(frozen=True)
class Named:
    """A class by its name."""

    iri: str


@dataclass(frozen=True)
class Range:
    """A data restriction: property, its numeric limits (facet, number as text), and whether they are complemented."""

    prop: str
    limits: tuple[tuple[str, str], ...]
    complement: bool
    datatype: str

    def holds(self, number: Decimal) -> bool:
        """Whether a number lies in the range."""
        within = all(_TESTS[facet](number, Decimal(limit)) for facet, limit in self.limits)
        return within != self.complement


@dataclass(frozen=True)
class Some:
    """An existential restriction over an object property."""

    prop: str
    filler: Expression


@dataclass(frozen=True)
class Value:
    """A property with one given value, in N-Triples syntax."""

    prop: str
    value: str


@dataclass(frozen=True)
class Both:
    """An intersection."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Either:
    """A union."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class OneOf:
    """A union of classes that facts state; the compiler makes it out of restrictions that differ only in their class."""

    iris: tuple[str, ...]


Expression = Named | Range | Some | Value | Both | Either | OneOf


@dataclass(frozen=True)
class Alternative:
    """One way to meet a criterion: patterns to match, facts it rests on, and what is needed where it is unknown."""

    patterns: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __add__(self, other: Alternative) -> Alternative:
        return Alternative(self.patterns + other.patterns, self.facts + other.facts, self.needs + other.needs)


@dataclass(frozen=True)
class Update:
    """One SPARQL update, and what it needs to have an effect: it is idle unless, for one of its alternatives, every
    (predicate, object) occurs in the store. That only saves time; running it anyway changes nothing."""

    text: str
    triggers: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True)
class Criterion:
    """A defined class with its parsed definition."""

    iri: str
    expression: Expression
    closed_world: bool
    of_patient: bool
    refers_to: frozenset[str]
    conjuncts: tuple[str, ...]


@dataclass
class Criteria:
    """All criteria of a knowledge base, in an order in which each comes after those that it refers to."""

    ordered: list[Criterion]
    graph: ox.Store
    _unknown: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def read(cls, graph: ox.Store) -> Criteria:
        """Read every class with an `owl:equivalentClass` from a knowledge graph.

        Raises CriterionError for a definition outside the fragment or a circle of definitions.
        """
        parsed: dict[str, Criterion] = {}
        for quad in graph.quads_for_pattern(None, OWL["equivalentClass"], None, None):
            subject = quad.subject
            if not isinstance(subject, ox.NamedNode) or _is(graph, subject, RDFS["Datatype"]):
                continue
            expression = _parse(graph, quad.object, subject.value)
            if subject.value in parsed:
                raise CriterionError(f"{subject.value} is defined twice; keep one owl:equivalentClass")
            closed = bool(list(graph.quads_for_pattern(subject, CG["closedWorld"], None, None)))
            parsed[subject.value] = Criterion(
                subject.value, expression, closed, False, frozenset(_names(expression)), _conjuncts(expression)
            )
        ordered = _sorted(parsed)
        patient = CG["Patient"].value
        of_patient: set[str] = set()
        for criterion in ordered:
            root = {patient} | of_patient
            if _root_names(criterion.expression) & root:
                of_patient.add(criterion.iri)
        ordered = [Criterion(c.iri, c.expression, c.closed_world, c.iri in of_patient, c.refers_to, c.conjuncts) for c in ordered]
        return cls(ordered, graph)

    def static_triples(self) -> Iterator[ox.Quad]:
        """What queries need to know about definitions: the limits of named datatypes as plain properties, the local names
        of rules and criteria, and for each criterion `cg:refersTo` and `cg:hasConjunct`, at any depth."""
        for quad in self.graph.quads_for_pattern(None, RDF["type"], RDFS["Datatype"], None):
            if isinstance(quad.subject, ox.NamedNode):
                for facet, number in _parse_range(self.graph, "", quad.subject, quad.subject.value).limits:
                    kind = XSD["decimal" if "." in number else "integer"]
                    yield ox.Quad(quad.subject, CG[facet], ox.Literal(number, datatype=kind))
        rules = {
            q.subject
            for link in ("appliesTo", "accompanies", "forbids", "touches")
            for q in self.graph.quads_for_pattern(None, CG[link], None, None)
        }
        for subject in sorted(rules | {ox.NamedNode(c.iri) for c in self.ordered}, key=str):
            if isinstance(subject, ox.NamedNode):
                yield ox.Quad(subject, CG["localName"], ox.Literal(local_name(subject.value)))
        reach: dict[str, set[str]] = {}
        parts: dict[str, set[str]] = {}
        for criterion in self.ordered:
            mine = set(criterion.refers_to)
            for name in criterion.refers_to:
                mine |= reach.get(name, set())
            reach[criterion.iri] = mine
            subject = ox.NamedNode(criterion.iri)
            for name in sorted(mine):
                yield ox.Quad(subject, CG["refersTo"], ox.NamedNode(name))
            parts[criterion.iri] = {criterion.iri}.union(*(parts[name] for name in criterion.conjuncts if name in parts))
            for name in sorted(parts[criterion.iri]):
                yield ox.Quad(subject, CG["hasConjunct"], ox.NamedNode(name))

    def updates(self, *, facts_only: bool) -> list[Update]:
        """The updates that classify, in order: only facts (before the eligible ones are chosen), or everything."""
        chosen = [c for c in self.ordered if not (facts_only and c.of_patient)]
        return [update for c in chosen for update in self._updates(c)]

    def can_be_unknown(self, iri: str) -> bool:
        """Whether lacking facts can leave the criterion open."""
        return self._unknown.get(iri, False)

    def _updates(self, criterion: Criterion) -> Iterator[Update]:
        compiler = _Compiler(self, criterion)
        certain, unknown = compiler.certain(), compiler.unknown()
        self._unknown[criterion.iri] = bool(unknown)
        facts = sorted({fact for alternative in certain for fact in alternative.facts})
        if criterion.of_patient and not all(alternative.facts for alternative in certain):
            raise CriterionError(f"{criterion.iri} can be met without any fact; rest it on one")
        support = "".join(f" . {fact} cg:supports <{criterion.iri}>" for fact in facts) if criterion.of_patient else ""
        yield Update(
            f"INSERT {{ ?x a <{criterion.iri}>{support} }}\nWHERE {{\n  "
            + "\n  UNION\n  ".join("{ " + " . ".join(_arranged(a.patterns)) + " }" for a in certain)
            + "\n}",
            _triggers(certain),
        )
        if unknown:
            needs = sorted({need for alternative in unknown for need in alternative.needs})
            branches = "\n  UNION\n  ".join(
                "{ " + " . ".join((*_arranged(a.patterns), f"FILTER NOT EXISTS {{ ?x a <{criterion.iri}> }}")) + " }"
                for a in unknown
            )
            yield Update(
                f"INSERT {{ ?x cg:unknown <{criterion.iri}> ; cg:hasUnknown ?node . ?node cg:ofCriterion <{criterion.iri}> ; "
                f"cg:needs {' , '.join(needs)} }}\nWHERE {{\n  {branches}\n"
                f'  BIND(IRI(CONCAT(STR(?x), "/unknown/{local_name(criterion.iri)}")) AS ?node)\n}}',
                _triggers(unknown),
            )


class _Compiler:
    """Compiles one criterion; holds the counter of its variables."""

    def __init__(self, criteria: Criteria, criterion: Criterion) -> None:
        self.criteria, self.criterion = criteria, criterion
        self.defined = {c.iri: c for c in criteria.ordered}
        self.count = 0

    def certain(self) -> list[Alternative]:
        self.count = 0
        return self._certain(self.criterion.expression, "?x")

    def unknown(self) -> list[Alternative]:
        """The ways in which something lacking leaves the criterion open; none under the closed world."""
        self.count = 0
        return [] if self.criterion.closed_world else self._unknown(self.criterion.expression, "?x")

    def _grouped(self, parts: tuple[Expression, ...]) -> list[Expression]:
        """Parts of a union, with existentials over one property and stated classes put together: fewer alternatives."""
        by_prop: dict[str, list[str]] = {}
        rest: list[Expression] = []
        for part in parts:
            if (
                isinstance(part, Some)
                and isinstance(part.filler, Named)
                and part.prop != CG["hasEligible"].value
                and not self._open(part)
            ):
                by_prop.setdefault(part.prop, []).append(part.filler.iri)
            else:
                rest.append(part)
        return rest + [
            Some(prop, OneOf(tuple(iris))) if len(iris) > 1 else Some(prop, Named(iris[0])) for prop, iris in by_prop.items()
        ]

    def _open(self, part: Some) -> bool:
        """Whether lacking facts can leave a restriction open."""
        return bool(self._unknown(part, "?x"))

    def _fresh(self, letter: str) -> str:
        self.count += 1
        return f"?{letter}{self.count}"

    def _certain(self, expression: Expression, x: str) -> list[Alternative]:
        match expression:
            case Both(parts):
                return [sum(combination, Alternative()) for combination in product(*(self._certain(p, x) for p in parts))]
            case Either(parts):
                return [alternative for part in self._grouped(parts) for alternative in self._certain(part, x)]
            case OneOf(iris):
                kind = self._fresh("c")
                return [Alternative((f"VALUES {kind} {{ {' '.join(f'<{iri}>' for iri in iris)} }} {x} a {kind}",))]
            case Named(iri):
                patterns = [f"{x} a <{iri}>"]
                known = self.defined.get(iri)
                if known is None or not known.of_patient:
                    return [Alternative(tuple(patterns))]
                fact = self._fresh("f")
                return [Alternative((*patterns, f"{x} cg:hasFact {fact}", f"{fact} cg:supports <{iri}>"), (fact,))]
            case Range():
                return [Alternative(tuple(self._range(expression, x)))]
            case Value(prop, value):
                return [Alternative((f"{x} <{prop}> {value}",))]
            case Some(prop, filler):
                f = self._fresh("f")
                facts = (f,) if x == "?x" and self.criterion.of_patient else ()
                return [Alternative((f"{x} <{prop}> {f}",), facts) + a for a in self._certain(filler, f)]

    def _unknown(self, expression: Expression, x: str) -> list[Alternative]:
        match expression:
            case Both(parts):
                choices = [[(0, self._plain(p, x)), (1, self._unknown(p, x))] for p in parts]
                found: list[Alternative] = []
                for combination in product(*choices):
                    if any(chosen for chosen, _ in combination):
                        options = (alternatives for _, alternatives in combination)
                        found += [sum(c, Alternative()) for c in product(*options)]
                return found
            case OneOf():
                return []
            case Either(parts):
                return [alternative for part in parts for alternative in self._unknown(part, x)]
            case Named(iri):
                if not self.criteria.can_be_unknown(iri):
                    return []
                node, need = self._fresh("u"), self._fresh("n")
                pattern = (
                    f"{x} cg:unknown <{iri}>",
                    f"{x} cg:hasUnknown {node}",
                    f"{node} cg:ofCriterion <{iri}> ; cg:needs {need}",
                )
                return [Alternative(pattern, (), (need,))]
            case Range(prop) | Value(prop):
                return self._unrecorded(prop, x)
            case Some(prop, filler):
                return self._unknown_some(prop, filler, x)

    def _unknown_some(self, prop: str, filler: Expression, x: str) -> list[Alternative]:
        f = self._fresh("f")
        found = [Alternative((f"{x} <{prop}> {f}",)) + a for a in self._unknown(filler, f)]
        if prop == CG["hasEligible"].value:
            for observable in sorted(self._observables(filler)):
                need = self._fresh("n")
                pattern = (f"{x} cg:lacksEligible <{observable}>", f"BIND(<{observable}> AS {need})")
                found.append(Alternative(pattern, (), (need,)))
        for counterpart in _objects(self.criteria.graph, ox.NamedNode(prop), CG["openCounterpart"]):
            for attribute in self._attributes(prop):
                need = self._fresh("n")
                head = (f"{x} <{counterpart}> {f}", f"BIND(<{attribute}> AS {need})")
                found += [Alternative(head, (), (need,)) + a for a in self._plain(filler, f)]
        return found

    def _plain(self, expression: Expression, x: str) -> list[Alternative]:
        """The certain alternatives without the joins that only collect the supporting facts."""
        compiled = self._certain(expression, x)
        return [Alternative(tuple(p for p in a.patterns if "cg:supports" not in p and "cg:hasFact" not in p)) for a in compiled]

    def _unrecorded(self, prop: str, x: str) -> list[Alternative]:
        found = []
        for attribute in self._attributes(prop):
            need = self._fresh("n")
            pattern = (f"{x} cg:hasUnrecorded <{attribute}>", f"BIND(<{attribute}> AS {need})")
            found.append(Alternative(pattern, (), (need,)))
        return found

    def _attributes(self, prop: str) -> list[str]:
        quads = self.criteria.graph.quads_for_pattern(None, CG["recordedBy"], ox.NamedNode(prop), None)
        return sorted(q.subject.value for q in quads if isinstance(q.subject, ox.NamedNode))

    def _observables(self, expression: Expression) -> set[str]:
        """The kinds of quantity (classes with a canonical unit) that a filler rests on."""
        found: set[str] = set()
        for name in _names(expression):
            known = self.defined.get(name)
            if known is not None:
                found |= self._observables(known.expression)
            elif _objects(self.criteria.graph, ox.NamedNode(name), CG["canonicalUnit"]):
                found.add(name)
        return found

    def _range(self, expression: Range, x: str) -> list[str]:
        value = self._fresh("v")
        test = " && ".join(f"{value} {_FACETS[facet]} {number}" for facet, number in expression.limits)
        return [f"{x} <{expression.prop}> {value}", f"FILTER({f'!({test})' if expression.complement else test})"]


def _arranged(patterns: tuple[str, ...]) -> list[str]:
    """Patterns with every BIND at the end: a BIND in the middle keeps engines from joining what stands around it."""
    return sorted(patterns, key=lambda pattern: pattern.startswith("BIND"))


_CONSTANT = re.compile(r"^\?\w+ (?:(a)|<([^>]+)>|cg:(\w+)) <([^>]+)>$")


_VALUES = re.compile(r"^VALUES \?\w+ \{ (.*) \}")


def _triggers(alternatives: list[Alternative]) -> tuple[tuple[tuple[str, str], ...], ...]:
    found = []
    for alternative in alternatives:
        matches = filter(None, (_CONSTANT.match(p) for p in alternative.patterns))
        needed = [(RDF["type"].value if m[1] else m[2] or CG.iri + m[3], m[4]) for m in matches]
        choices = [re.findall(r"<([^>]+)>", m[1]) for m in filter(None, (_VALUES.match(p) for p in alternative.patterns))]
        for combination in product(*choices):
            found.append((*((RDF["type"].value, iri) for iri in combination), *needed))
    return tuple(found)


def _objects(graph: ox.Store, subject: Term, predicate: ox.NamedNode) -> list[str]:
    quads = graph.quads_for_pattern(subject, predicate, None, None)
    return sorted(q.object.value for q in quads if not isinstance(q.object, ox.Triple))


def _is(graph: ox.Store, node: Term, kind: ox.NamedNode) -> bool:
    return ox.Quad(node, RDF["type"], kind) in graph


def _one(graph: ox.Store, node: Term, predicate: ox.NamedNode) -> Term | ox.Literal | None:
    for quad in graph.quads_for_pattern(node, predicate, None, None):
        return quad.object if not isinstance(quad.object, ox.Triple) else None
    return None


def _items(graph: ox.Store, head: Term | ox.Literal, where: str) -> list[Term | ox.Literal]:
    items: list[Term | ox.Literal] = []
    while head != RDF["nil"]:
        if isinstance(head, ox.Literal):
            raise CriterionError(f"{where}: a list is broken")
        first, rest = _one(graph, head, RDF["first"]), _one(graph, head, RDF["rest"])
        if first is None or rest is None:
            raise CriterionError(f"{where}: a list is broken")
        items.append(first)
        head = rest
    return items


def _parse(graph: ox.Store, node: object, where: str) -> Expression:
    if isinstance(node, ox.NamedNode):
        return Named(node.value)
    if not isinstance(node, ox.BlankNode):
        raise CriterionError(f"{where}: a literal stands where a class belongs")
    for predicate, kind in ((OWL["intersectionOf"], Both), (OWL["unionOf"], Either)):
        members = _one(graph, node, predicate)
        if members is not None:
            return kind(tuple(_parse(graph, item, where) for item in _items(graph, members, where)))
    prop = _one(graph, node, OWL["onProperty"])
    if isinstance(prop, ox.NamedNode):
        value = _one(graph, node, OWL["hasValue"])
        if value is not None:
            return Value(prop.value, str(value))
        filler = _one(graph, node, OWL["someValuesFrom"])
        if isinstance(filler, ox.NamedNode | ox.BlankNode):
            if _is(graph, filler, RDFS["Datatype"]):
                return _parse_range(graph, prop.value, filler, where)
            return Some(prop.value, _parse(graph, filler, where))
    construct = sorted(q.predicate.value for q in graph.quads_for_pattern(node, None, None, None))
    raise CriterionError(
        f"{where}: outside the fragment of criteria ({', '.join(local_name(c) for c in construct)}); use intersections, "
        "unions, someValuesFrom, hasValue, named classes and numeric ranges"
    )


def _parse_range(graph: ox.Store, prop: str, datatype: Term, where: str) -> Range:
    complement = False
    inner = _one(graph, datatype, OWL["datatypeComplementOf"])
    if isinstance(inner, ox.NamedNode | ox.BlankNode):
        complement, datatype = True, inner
    definition = _one(graph, datatype, OWL["equivalentClass"]) or datatype
    facets = None if isinstance(definition, ox.Literal) else _one(graph, definition, OWL["withRestrictions"])
    if facets is None:
        raise CriterionError(f"{where}: {datatype} gives no limits (owl:withRestrictions)")
    limits: list[tuple[str, str]] = []
    for item in _items(graph, facets, where):
        if isinstance(item, ox.Literal):
            raise CriterionError(f"{where}: {datatype} has a limit that is not a facet")
        for quad in graph.quads_for_pattern(item, None, None, None):
            facet = quad.predicate.value.removeprefix(XSD.iri)
            number = quad.object
            if facet not in _FACETS or not isinstance(number, ox.Literal):
                raise CriterionError(f"{where}: {datatype} has the limit {quad.predicate.value}; use min and max facets")
            if number.datatype not in (XSD["decimal"], XSD["integer"]):
                raise CriterionError(f"{where}: {datatype} has the limit {number}, which is not a decimal or integer")
            limits.append((facet, number.value))
    name = datatype.value if isinstance(datatype, ox.NamedNode) else ""
    return Range(prop, tuple(sorted(limits)), complement, name)


def _names(expression: Expression) -> set[str]:
    match expression:
        case Named(iri):
            return {iri}
        case Both(parts) | Either(parts):
            return set().union(*(_names(p) for p in parts))
        case Some(_, filler):
            return _names(filler)
    return set()


def _root_names(expression: Expression) -> set[str]:
    match expression:
        case Named(iri):
            return {iri}
        case Both(parts) | Either(parts):
            return set().union(*(_root_names(p) for p in parts))
    return set()


def _conjuncts(expression: Expression) -> tuple[str, ...]:
    parts: Iterable[Expression] = expression.parts if isinstance(expression, Both) else (expression,)
    return tuple(p.iri for p in parts if isinstance(p, Named))


def _sorted(criteria: dict[str, Criterion]) -> list[Criterion]:
    ordered: list[Criterion] = []
    done: set[str] = set()

    def visit(iri: str, above: tuple[str, ...]) -> None:
        if iri in above:
            raise CriterionError(f"{iri} is defined by itself: {' -> '.join((*above, iri))}")
        if iri in done:
            return
        for name in sorted(criteria[iri].refers_to & criteria.keys()):
            visit(name, (*above, iri))
        done.add(iri)
        ordered.append(criteria[iri])

    for iri in sorted(criteria):
        visit(iri, ())
    return ordered
