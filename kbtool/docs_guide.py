"""What the guideline site shows of each term: where its page is, what it links to, what links to it, what it means."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pyoxigraph as ox

from kbtool.criteria import Both, Either, Expression, Named, OneOf, Range, Some, Value
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, DCTERMS, OWL, RDF, RDFS, SKOS, local_name, text
from kbtool.words import Words, is_unit, manchester

RULES = ("Recommendation", "Prohibition", "Assessment", "Caution")
"""The kinds of rule, in the order in which a reader wants them."""

LISTED = {
    "OpenQuestion": "open-questions.html",
    "Interpretation": "interpretations.html",
    "LocalPolicy": "local-policies.html",
    "Reference": "references.html",
    "MissingParameter": "numbers.html",
    "Parameter": "numbers.html",
    "Step": "rules.html",
}
"""Kinds that stand together on one page, each term at its own place in it."""

_COMPILED = {CG[name].value for name in ("refersTo", "hasConjunct", "localName")}
_SHOWN_ELSEWHERE = {
    *(p.value for p in (RDF["type"], RDFS["label"], RDFS["isDefinedBy"], RDFS["subClassOf"], OWL["equivalentClass"])),
    *(p.value for p in (SKOS["prefLabel"], SKOS["definition"], OWL["withRestrictions"], OWL["onDatatype"])),
    *(CG[facet].value for facet in ("minInclusive", "minExclusive", "maxInclusive", "maxExclusive")),
}
_LONGEST_NAME = 80
_INVERSE = {
    CG[name].value: words
    for name, words in {
        "accompanies": "gone with by",
        "achieves": "brought about by",
        "action": "taken by",
        "appliesTo": "criterion of",
        "citesStatement": "cited by",
        "concerns": "spoken of by",
        "definesRange": "set by",
        "disturbedBy": "disturbs",
        "explains": "explained by",
        "forbids": "forbidden by",
        "forbidsOrder": "forbidden by",
        "hardStopWhen": "stops the orders forbidden by",
        "hasMissingParameter": "lacking in",
        "hasParameter": "parameter of",
        "measures": "measured by",
        "metWhen": "counts as met for",
        "ordersAction": "ordered by",
        "ordersMedication": "ordered by",
        "parameterRange": "limit of the parameter",
        "raisedByOrder": "raises, and is forbidden by",
        "reference": "cited by",
        "requires": "waited for by",
        "requiresAbsenceOf": "must be absent for",
        "touches": "touched by",
        "unless": "lifts",
    }.items()
}
"""What a term is to those that point at it by a property; other properties are quoted."""

T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """One condition of a criterion, to be opened: its words, the term that it names, and the conditions that it is made of.

    join: "all" or "any" of the parts. threshold: the IRI of the named range that a number is compared with.
    """

    words: str
    term: str = ""
    join: str = ""
    parts: tuple[Node, ...] = ()
    threshold: str = ""


@dataclass(frozen=True)
class Limit:
    """A number in a criterion: the named range that holds it, in words, and its unit."""

    threshold: str
    words: str
    unit: str


class Guide:
    """A knowledge base as linked pages."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self.words = Words(knowledge)
        self.criteria = self.words.criteria
        self._types: dict[str, set[str]] = defaultdict(set)
        self._out: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._into: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._predicates: dict[str, set[str]] = defaultdict(set)
        self._from: dict[str, set[str]] = defaultdict(set)
        for quad in knowledge.graph:
            if not isinstance(quad.subject, ox.NamedNode):
                continue
            subject, predicate, value = quad.subject.value, quad.predicate.value, text(quad.object)
            if predicate == RDF["type"].value:
                self._types[subject].add(value)
            if not isinstance(quad.object, ox.BlankNode):
                self._out[subject, predicate].append(value)
                self._predicates[subject].add(predicate)
            if isinstance(quad.object, ox.NamedNode) and predicate != RDF["type"].value:
                self._into[value, predicate].append(subject)
                self._from[value].add(predicate)
        self._mentions: dict[str, set[str]] = defaultdict(set)
        self._limits: dict[str, list[Limit]] = {}
        for iri, criterion in self.criteria.items():
            for name in _names(criterion.expression):
                self._mentions[name].add(iri)
            self._limits[iri] = list(self._read_limits(criterion.expression))
        self.thresholds = sorted(iri for iri in self.instances(RDFS["Datatype"]) if self.facets(iri).limits)
        self.facts = sorted(set(self._below(CG["Fact"].value)) - set(self.criteria))
        self._slugs = self._name(iri for iri in self._predicates if iri in knowledge.labels)
        self._pages = self._place()

    # Terms

    def instances(self, kind: ox.NamedNode) -> list[str]:
        """The individuals of a class, in the order of `sort`."""
        return self.sort(self.knowledge.instances(kind))

    def of(self, name: str) -> list[str]:
        """The individuals of a class of the guideline language."""
        return self.instances(CG[name])

    def label(self, iri: str) -> str:
        """What a term is called; a term without a label by its local name, spelled out."""
        return self.knowledge.labels.get(iri) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", local_name(iri)).lower()

    def kind(self, iri: str) -> str:
        """What sort of thing a term is, in a word or two."""
        if iri in self.criteria:
            return "Criterion"
        if iri in self.thresholds:
            return "Threshold"
        if iri in self.facts:
            return self._sort_of_fact(iri)
        own = sorted(t for t in self._types[iri] if t != OWL["NamedIndividual"].value)
        named = [t for t in own if t in self.knowledge.labels]
        return self.label((named or own)[0]).capitalize() if own else "Other"

    def definition(self, iri: str) -> str:
        """The definition of a term."""
        return self.first(iri, SKOS["definition"])

    def identifier(self, iri: str) -> str:
        """The identifier that people use for a term, such as that of a statement; empty where it has none."""
        return self.first(iri, DCTERMS["identifier"])

    def name(self, iri: str) -> str:
        """The identifier and the label of a term."""
        return f"{self.identifier(iri)} {self.label(iri)}".strip()

    def values(self, iri: str, predicate: ox.NamedNode) -> list[str]:
        """The values of a property, as text, in the order of `sort`."""
        return self.sort(self._out.get((iri, predicate.value), ()))

    def first(self, iri: str, predicate: ox.NamedNode) -> str:
        """The first value of a property, or an empty text."""
        return next(iter(self.values(iri, predicate)), "")

    def cg(self, iri: str, name: str) -> list[str]:
        """The values of a property of the guideline language."""
        return self.values(iri, CG[name])

    def by(self, iri: str, name: str) -> list[str]:
        """The terms that point at this one by a property of the guideline language."""
        return self.sort(self._into.get((iri, CG[name].value), ()))

    def sort(self, terms: Iterable[str]) -> list[str]:
        """Terms by place in the guideline, then by identifier, then by label."""
        return sorted(set(terms), key=self._key)

    def rest(self, iri: str, *shown: str) -> list[tuple[str, list[str]]]:
        """All properties of a term that a page does not show by itself. shown: local names of those that it does."""
        return [
            (predicate, self.values(iri, ox.NamedNode(predicate)))
            for predicate in sorted(self._predicates.get(iri, ()), key=lambda p: (self.label(p), p))
            if predicate not in _COMPILED | _SHOWN_ELSEWHERE and local_name(predicate) not in shown
        ]

    def used(self, iri: str) -> list[tuple[str, list[str]]]:
        """What points at a term, by what the term is to it, in words."""
        found: dict[str, list[str]] = {}
        for predicate in sorted(self._from.get(iri, set()) - _COMPILED - _SHOWN_ELSEWHERE, key=lambda p: (self.label(p), p)):
            words = _INVERSE.get(predicate) or f"“{self.label(predicate)}” of"
            found[words] = self.sort([*found.get(words, []), *self._into[iri, predicate]])
        return list(found.items())

    def mentioned(self, iri: str) -> list[str]:
        """The criteria whose definitions name a term."""
        return self.sort(self._mentions.get(iri, ()))

    def broader(self, iri: str) -> list[str]:
        """The classes right above a class."""
        return self.values(iri, RDFS["subClassOf"])

    def narrower(self, iri: str) -> list[str]:
        """The classes right below a class."""
        return self.sort(self._into.get((iri, RDFS["subClassOf"].value), ()))

    def whose(self, iri: str) -> str:
        """Whose word a term is: the source's, or that of the module that states it, by its title."""
        module = self.first(iri, RDFS["isDefinedBy"])
        return "The source" if module and self.values(module, DCTERMS["source"]) else self.words.whose(iri)

    # Rules

    def steps(self) -> list[tuple[str, list[str]]]:
        """The steps in order, each with its recommendations; the last without a step where there are such."""
        found: dict[str, list[str]] = {step: [] for step in self.of("Step")}
        for rule in self.of("Recommendation"):
            found.setdefault(next(iter(self.cg(rule, "step")), ""), []).append(rule)
        return [(step, rules) for step, rules in found.items() if rules]

    def openers(self, state: str) -> list[tuple[str, str]]:
        """What opens a state, and how: what achieves it, what measures that on which it rests, or time or a record."""
        found: dict[tuple[str, str], None] = {}
        for part in [state, *self.cg(state, "hasConjunct")]:
            found |= {(opener, "opens it"): None for opener in self.cg(part, "opensBy")}
            found |= {(opener, "achieves it"): None for opener in self.by(part, "achieves")}
            for observable in self.cg(part, "refersTo"):
                found |= {(opener, "measures it"): None for opener in self.by(observable, "measures")}
        return sorted(found, key=lambda pair: (pair[1], self._key(pair[0])))

    def explained(self, rule: str) -> list[str]:
        """The statements that explain a rule, its action or its criterion."""
        targets = [rule, *self.cg(rule, "action"), *self.cg(rule, "forbids"), *self.cg(rule, "appliesTo")]
        return self.sort(statement for target in targets for statement in self.by(target, "explains"))

    # Criteria

    def tree(self, iri: str) -> Node:
        """A criterion with the conditions that it is made of, down to the facts."""
        return self._named(iri)

    def manchester(self, iri: str) -> str:
        """A criterion as a frame in Manchester syntax, one condition a line."""
        expression, prefixes = self.criteria[iri].expression, self.knowledge.prefixes
        joint = " or " if isinstance(expression, Either) else " and "
        parts = expression.parts if isinstance(expression, Both | Either) else (expression,)
        lines = f"\n   {joint}".join(manchester(part, prefixes, outer=len(parts) == 1) for part in parts)
        return f"Class: {manchester(Named(iri), prefixes)}\n  EquivalentTo:\n    {lines}"

    def limits(self, *criteria: str) -> list[Limit]:
        """The numbers that criteria rest on, at any depth."""
        found: dict[Limit, None] = {}
        for criterion in criteria:
            for part in [criterion, *self.cg(criterion, "refersTo")]:
                found |= dict.fromkeys(self._limits.get(part, []))
        return sorted(found, key=lambda limit: (self.label(limit.threshold).lower(), limit.threshold, limit.words))

    def facets(self, threshold: str) -> Range:
        """The limits of a named range."""
        facets = ("minInclusive", "minExclusive", "maxInclusive", "maxExclusive")
        found = ((f, v) for f in facets for v in self.cg(threshold, f))
        return Range("", tuple(found), False, threshold)

    def threshold(self, iri: str) -> str:
        """A named range in words, with its unit where all who use it agree on one."""
        ranged = [unit for p in self.by(iri, "parameterRange") for unit in self.cg(p, "ucum")]
        dosed = [u for name in ("doseCeiling", "doseStep") for c in self.by(iri, name) for u in self.cg(c, "canonicalUnit")]
        tested = [limit.unit for limits in self._limits.values() for limit in limits if limit.threshold == iri]
        units = set(ranged or dosed or tested)
        return self.words.limits(self.facets(iri), units.pop() if len(units) == 1 else "")

    # Pages

    def slug(self, iri: str) -> str:
        """The name of a term in file names and anchors: its local name, or one made unique where that would not do."""
        return self._slugs[iri]

    def href(self, iri: str) -> str:
        """Where a term is on the site, from its root; empty for what is not a term of the knowledge base."""
        return self._pages.get(iri, "")

    def placed(self) -> list[str]:
        """All terms that have a place on the site, by label."""
        return sorted(self._pages, key=lambda iri: (self.label(iri).casefold(), iri))

    def elsewhere(self) -> dict[str, list[str]]:
        """The terms that have no page of their own, by kind: most are terms of the guideline language."""
        found: dict[str, list[str]] = defaultdict(list)
        for iri in self.placed():
            if self._pages[iri].startswith("glossary.html#"):
                found[self.kind(iri)].append(iri)
        return dict(sorted(found.items()))

    def letters(self) -> dict[str, list[str]]:
        """All terms that have a place on the site, by the first letter of their label."""
        return _grouped(self.placed(), lambda iri: next((c.upper() for c in self.label(iri) if c.isalnum()), "#"))

    def sections(self) -> dict[str, list[str]]:
        """The statements by the section of the source."""
        return _grouped(self.of("Statement"), lambda iri: next(iter(self.cg(iri, "section")), ""))

    def systems(self) -> dict[str, list[tuple[str, str]]]:
        """The codes, each with its class, by the terminology that they belong to."""
        coded = [(code, fact) for fact in self.facts for code in self.cg(fact, "hasCode")]
        names = {iri: self.label(system) for system in self.of("CodeSystem") for iri in self.cg(system, "systemIri")}
        coded.sort(key=lambda pair: (self.label(pair[0]), pair))
        found = _grouped(coded, lambda pair: next((names.get(s, s) for s in self.cg(pair[0], "codeSystem")), ""))
        return dict(sorted(found.items()))

    def owners(self) -> dict[str, list[str]]:
        """The thresholds by the module that states them."""
        found = _grouped(self.sort(self.thresholds), lambda iri: self.first(iri, RDFS["isDefinedBy"]))
        return {module: found[module] for module in self.knowledge.modules if module in found}

    def _name(self, terms: Iterable[str]) -> dict[str, str]:
        """A name for each term that is safe in a file name, also where upper and lower case are one."""
        wanted = {iri: re.sub(r"[^A-Za-z0-9._-]+", "-", local_name(iri))[:_LONGEST_NAME].strip(".-") for iri in sorted(terms)}
        count = Counter(name.casefold() for name in wanted.values())
        return {
            iri: name
            if count[name.casefold()] == 1 and name == local_name(iri)
            else f"{name}-{hashlib.sha256(iri.encode()).hexdigest()[:8]}".lstrip("-")
            for iri, name in wanted.items()
        }

    def _place(self) -> dict[str, str]:
        pages = {iri: f"glossary.html#{slug}" for iri, slug in self._slugs.items()}
        for kind, page in LISTED.items():
            pages |= {iri: f"{page}#{self._slugs[iri]}" for iri in self.knowledge.instances(CG[kind])}
        own = {"rules": [r for kind in RULES for r in self.of(kind)], "statements": self.of("Statement")}
        own["terms"] = [*self.criteria, *self.thresholds, *self.facts, *self.of("Action")]
        for folder, terms in own.items():
            pages |= {iri: f"{folder}/{self._slugs[iri]}.html" for iri in terms if iri in self._slugs}
        for fact in self.facts:
            for name in ("hasCode", "acceptsUnit"):
                pages |= {item: f"{pages[fact]}#{self._slugs[item]}" for item in self.cg(fact, name) if item in self._slugs}
        return pages

    def _sort_of_fact(self, iri: str) -> str:
        """The class of the guideline language that a class of facts belongs to."""
        while not iri.startswith(CG.iri) and (above := self.broader(iri)):
            iri = above[0]
        return self.label(iri)

    def _below(self, iri: str) -> Iterator[str]:
        yield iri
        for narrower in self._into.get((iri, RDFS["subClassOf"].value), ()):
            yield from self._below(narrower)

    def _key(self, iri: str) -> tuple[float, float, str, str, str]:
        if iri not in self._predicates:
            return (0.0, 0.0, "", iri.casefold(), iri)

        def own(term: str, predicate: ox.NamedNode) -> str:
            return min(self._out.get((term, predicate.value), ()), default="")

        position = own(own(iri, CG["step"]) or iri, CG["position"])
        identifier = re.sub(r"\d+", lambda digits: digits[0].zfill(6), own(iri, DCTERMS["identifier"]))
        return (_number(position), _number(own(iri, CG["rank"])), identifier, self.label(iri).casefold(), iri)

    def _read_limits(self, expression: Expression, unit: str = "") -> Iterator[Limit]:
        match expression:
            case Both(parts):
                unit = self.words.unit(parts) or unit
                for part in parts:
                    yield from self._read_limits(part, unit)
            case Either(parts):
                for part in parts:
                    yield from self._read_limits(part, unit)
            case Some(_, filler):
                yield from self._read_limits(filler)
            case Range() if expression.datatype:
                words = self.words.limits(expression, unit)
                yield Limit(expression.datatype, words, unit if words.endswith(f" {unit}") else "")

    def _named(self, iri: str) -> Node:
        criterion = self.criteria.get(iri)
        if criterion is None:
            return Node(self.label(iri), iri)
        inner = self._node(criterion.expression)
        whole = inner.parts and not inner.words and not inner.term
        return Node(self.label(iri), iri, inner.join if whole else "all", inner.parts if whole else (inner,))

    def _node(self, expression: Expression, unit: str = "") -> Node:
        match expression:
            case Named(iri):
                return self._named(iri)
            case OneOf(iris):
                return Node("", "", "any", tuple(self._named(iri) for iri in iris))
            case Both(parts):
                unit = self.words.unit(parts) or unit
                shown = [p for p in parts if p != Named(CG["Patient"].value) and not is_unit(p)]
                return _joined("all", [self._node(part, unit) for part in shown])
            case Either(parts):
                common = {part.prop for part in parts if isinstance(part, Some)}
                if len(common) == 1 and all(isinstance(part, Some) for part in parts):
                    fillers = tuple(self._node(part.filler) for part in parts if isinstance(part, Some))
                    return Node(f"{self.label(common.pop())}:", "", "any", fillers)
                return _joined("any", [self._node(part, unit) for part in parts])
            case Some(prop, filler):
                inner = self._node(filler)
                words = f"{self.label(prop)}: {inner.words}".rstrip()
                return Node(words, inner.term, inner.join, inner.parts, inner.threshold)
            case Range():
                return Node(self.words.say(expression, unit), threshold=expression.datatype)
            case Value(_, value):
                return Node(self.words.say(expression), value[1:-1] if value.startswith("<") else "")


def _joined(join: str, nodes: list[Node]) -> Node:
    """Conditions under one, where those of the same sort that have no name of their own stand among the others."""
    flat: list[Node] = []
    for node in nodes:
        flat += node.parts if node.join == join and not node.words else [node]
    return flat[0] if len(flat) == 1 else Node("", "", join, tuple(flat))


def _names(expression: Expression) -> Iterator[str]:
    """The terms that an expression names itself."""
    match expression:
        case Named(iri):
            yield iri
        case OneOf(iris):
            yield from iris
        case Both(parts) | Either(parts):
            for part in parts:
                yield from _names(part)
        case Some(prop, filler):
            yield prop
            yield from _names(filler)
        case Range(prop, _, _, datatype):
            yield from (prop, datatype)
        case Value(prop, value):
            yield from (prop, value.strip("<>"))


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """Items by a key, in the order in which keys come up."""
    found: dict[str, list[T]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return dict(found)


def _number(text: str) -> float:
    """A number to sort by; what has none comes last."""
    try:
        return float(text)
    except ValueError:
        return float("inf")
