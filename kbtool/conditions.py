"""Judge each condition of a criterion for one patient: true, false or unknown, by which fact, and how far from its limit.

This reads what the rules have derived; it decides nothing by itself. Where it judges a named criterion it takes the word
of the rules, and the tests hold its own judgement of the parts against that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

import pyoxigraph as ox

from kbtool.criteria import Both, Either, Expression, Named, OneOf, Range, Some, Value
from kbtool.namespaces import CG, RDF, text
from kbtool.words import Words, is_unit

Json = dict[str, Any]
Node = ox.NamedNode | ox.BlankNode


class Truth(StrEnum):
    """Whether a condition is met."""

    true = "true"
    unknown = "unknown"
    false = "false"


_RANK = {Truth.true: 2, Truth.unknown: 1, Truth.false: 0}


@dataclass(frozen=True)
class Condition:
    """One condition, judged for a patient.

    text: the condition in words. parts: the conditions that it is made of, joined by `join` (all or any of them). criterion:
    the IRI of the criterion where it is a named one. facts: IRIs of the facts by which it is judged. threshold: the IRI of
    the named range that a number is compared with; value: that number; distance: how far it is from the nearest limit, in
    `unit`. needs: IRIs of what is lacking where it is unknown. is_class: whether it only asks for the class of a fact.
    other_unit: whether it is about numbers in another unit than the one that was reported, so that it says nothing.
    """

    text: str
    truth: Truth
    join: str = "all"
    parts: tuple[Condition, ...] = ()
    criterion: str | None = None
    facts: tuple[str, ...] = ()
    threshold: str | None = None
    value: Decimal | None = None
    distance: Decimal | None = None
    unit: str = ""
    needs: tuple[str, ...] = field(default=())
    is_class: bool = False
    other_unit: bool = False

    def failing(self) -> Condition | None:
        """The first condition that is not met, as deep as one can be named; None where all is met."""
        if self.truth is Truth.true:
            return None
        if self.join == "any" or not self.parts:
            return self
        return next((found for part in self.parts if (found := part.failing())), self)

    def walk(self) -> Iterator[Condition]:
        """This condition and all below it."""
        yield self
        for part in self.parts:
            yield from part.walk()


class Judge:
    """Judges conditions on a store in which everything has been derived."""

    def __init__(self, words: Words, store: ox.Store) -> None:
        self.words, self.store, self.knowledge = words, store, words.knowledge

    def criterion(self, iri: str, patient: Node) -> Condition:
        """A named criterion, with the conditions of its definition."""
        return self._named(iri, patient)

    def definition(self, iri: str, patient: Node) -> Condition:
        """The definition of a named criterion, judged part by part and not by what was derived of the whole."""
        return self._judge(self.words.criteria[iri].expression, patient)

    def _judge(self, expression: Expression, x: Node, unit: str = "") -> Condition:
        match expression:
            case Named(iri):
                return self._named(iri, x)
            case OneOf(iris):
                truth = Truth.true if any(self._is(x, iri) for iri in iris) else Truth.false
                return Condition(self.words.say(expression), truth)
            case Both(parts):
                unit = self.words.unit(parts) or unit
                words = self.words.say(expression, unit)
                if any(is_unit(p) and self._judge(p, x).truth is Truth.false for p in parts):
                    return Condition(words, Truth.false, other_unit=True)
                judged = [self._judge(p, x, unit) for p in parts if p != Named(CG["Patient"].value) and not is_unit(p)]
                return self._joined("all", judged, words)
            case Either(parts):
                ways = [self._judge(p, x, unit) for p in parts]
                same_unit = [way for way in ways if not way.other_unit]
                return self._joined("any", same_unit or ways, self.words.say(expression, unit))
            case Some(prop, filler):
                return self._some(prop, filler, x)
            case Range():
                return self._range(expression, x, unit)
            case Value(prop, value):
                met = any(str(q.object) == value for q in self.store.quads_for_pattern(x, ox.NamedNode(prop), None, None))
                return self._plain(self.words.say(expression), met, prop, x)

    def _named(self, iri: str, x: Node) -> Condition:
        """A stated class holds or not; a defined one holds as the rules have derived, and its definition says why."""
        label, criterion = self.words.label(iri), self.words.criteria.get(iri)
        if criterion is None:
            return Condition(label, Truth.true if self._is(x, iri) else Truth.false, is_class=True)
        definition = self._judge(criterion.expression, x)
        truth = Truth.true if self._is(x, iri) else Truth.unknown if self._unknown(x, iri) else Truth.false
        parts = definition.parts or (definition,)
        return Condition(
            label, truth, definition.join, parts, iri, definition.facts, needs=definition.needs if truth is Truth.unknown else ()
        )

    def _joined(self, join: str, parts: list[Condition], words: str) -> Condition:
        ranks = [_RANK[part.truth] for part in parts]
        rank = (min if join == "all" else max)(ranks, default=2)
        truth = next(t for t, r in _RANK.items() if r == rank)
        deciding = [p for p in parts if p.truth is truth or (join == "all" and truth is Truth.true)]
        facts = tuple(dict.fromkeys(f for p in (deciding if join == "any" else parts) for f in p.facts))
        needs = (
            tuple(dict.fromkeys(n for p in parts if p.truth is Truth.unknown for n in p.needs)) if truth is Truth.unknown else ()
        )
        if len(parts) == 1:
            return parts[0]
        return Condition(words, truth, join, tuple(parts), facts=facts, needs=needs)

    def _some(self, prop: str, filler: Expression, x: Node) -> Condition:
        """Whether a fact of the patient meets a filler; where none does, the one that comes nearest is shown."""
        found = [(node, self._judge(filler, node)) for node in self._objects(x, prop)]
        lacking = self._lacking(prop, filler, x)
        words = self.words.say(Some(prop, filler))
        if found:
            node, best = max(found, key=lambda pair: (_RANK[pair[1].truth], _of_class(pair[1]), _met(pair[1]), str(pair[0])))
            if best.truth is Truth.true or not lacking:
                relevant = best.truth is not Truth.false or _of_class(best)
                shown = (best,) if relevant else ()
                facts = (text(node),) if relevant else ()
                return Condition(words, best.truth, "all", shown, facts=facts, needs=best.needs)
        if lacking:
            return Condition(words, Truth.unknown, needs=tuple(lacking))
        return Condition(words, Truth.false)

    def _lacking(self, prop: str, filler: Expression, x: Node) -> list[str]:
        """What would have to be known before no fact meets a filler for certain."""
        if prop == CG["hasEligible"].value:
            observables = sorted(self._observables(filler))
            lacks = {text(q.object) for q in self.store.quads_for_pattern(x, CG["lacksEligible"], None, None)}
            return [o for o in observables if o in lacks]
        found = []
        for counterpart in self.knowledge.values(prop, CG["openCounterpart"]):
            if any(self._judge(filler, node).truth is Truth.true for node in self._objects(x, counterpart)):
                found += self._attributes(prop)
        return found

    def _range(self, test: Range, x: Node, unit: str) -> Condition:
        numbers = []
        for quad in self.store.quads_for_pattern(x, ox.NamedNode(test.prop), None, None):
            try:
                numbers.append(Decimal(text(quad.object)))
            except InvalidOperation:
                continue
        words, unit = self.words.say(test, unit), self.words.unit_of(test.prop, unit)
        if not numbers:
            return self._plain(words, False, test.prop, x)
        number = numbers[0]
        distance = min(abs(number - Decimal(limit)) for _, limit in test.limits)
        return Condition(
            words,
            Truth.true if test.holds(number) else Truth.false,
            threshold=test.datatype or None,
            value=number,
            distance=distance,
            unit=unit,
        )

    def _plain(self, words: str, met: bool, prop: str, x: Node) -> Condition:
        """A condition on an attribute: where it is not recorded and rules need it, it is unknown."""
        if met:
            return Condition(words, Truth.true)
        unrecorded = {text(q.object) for q in self.store.quads_for_pattern(x, CG["hasUnrecorded"], None, None)}
        needs = tuple(a for a in self._attributes(prop) if a in unrecorded)
        return Condition(words, Truth.unknown if needs else Truth.false, needs=needs)

    def _attributes(self, prop: str) -> list[str]:
        quads = self.knowledge.graph.quads_for_pattern(None, CG["recordedBy"], ox.NamedNode(prop), None)
        return sorted(text(q.subject) for q in quads)

    def _observables(self, expression: Expression) -> set[str]:
        match expression:
            case Named(iri):
                criterion = self.words.criteria.get(iri)
                if criterion is not None:
                    return self._observables(criterion.expression)
                return {iri} if self.knowledge.value(iri, CG["canonicalUnit"]) else set()
            case Both(parts) | Either(parts):
                return set().union(*(self._observables(part) for part in parts))
            case Some(_, filler):
                return self._observables(filler)
        return set()

    def _objects(self, x: Node, prop: str) -> list[Node]:
        quads = self.store.quads_for_pattern(x, ox.NamedNode(prop), None, None)
        return sorted((q.object for q in quads if isinstance(q.object, ox.NamedNode | ox.BlankNode)), key=str)

    def _is(self, x: Node, iri: str) -> bool:
        return ox.Quad(x, RDF["type"], ox.NamedNode(iri)) in self.store

    def _unknown(self, x: Node, iri: str) -> bool:
        return ox.Quad(x, CG["unknown"], ox.NamedNode(iri)) in self.store


def _of_class(condition: Condition) -> bool:
    """Whether a fact is of the class that a condition asks for: only then can it be a near miss."""
    if condition.is_class:
        return condition.truth is Truth.true
    asked = [_of_class(part) for part in condition.parts if part.is_class or part.parts]
    return (all if condition.join == "all" else any)(asked) if asked else True


def _met(condition: Condition) -> int:
    """How many of the conditions in a tree are met."""
    return sum(part.truth is Truth.true for part in condition.walk())
