"""Say a criterion in words, and in the Manchester syntax that editors show: both are made from the OWL definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kbtool.criteria import Both, Either, Expression, Named, OneOf, Range, Some, Value
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, DCTERMS, RDFS, XSD, local_name

_SIGNS = {"minInclusive": ">=", "minExclusive": ">", "maxInclusive": "<=", "maxExclusive": "<"}
_WORDS = {"minInclusive": "at least", "minExclusive": "above", "maxInclusive": "at most", "maxExclusive": "below"}
_OPPOSITE = {
    "minInclusive": "maxExclusive",
    "minExclusive": "maxInclusive",
    "maxInclusive": "minExclusive",
    "maxExclusive": "minInclusive",
}


_THE_NUMBER = {CG["value"].value, CG["canonicalValue"].value}
"""Properties that are the number of a fact itself and need no name."""


class Words:
    """Words for the criteria of a knowledge base."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self.criteria = {c.iri: c for c in knowledge.criteria.ordered}

    def label(self, iri: str) -> str:
        """The label of a term, or its local name."""
        return self.knowledge.labels.get(iri, local_name(iri))

    def define(self, iri: str) -> str:
        """What a defined class means, one level deep: conditions that have a name are named. Raises KeyError for others."""
        return self.say(self.criteria[iri].expression)

    def say(self, expression: Expression, unit: str = "") -> str:
        """An expression in words; `unit` is that of the numbers in it, where it is known."""
        match expression:
            case Named(iri):
                return self.label(iri)
            case OneOf(iris):
                return " or ".join(self.label(iri) for iri in iris)
            case Both(parts):
                unit = self.unit(parts) or unit
                shown = [part for part in parts if part != Named(CG["Patient"].value) and not is_unit(part)]
                return ", ".join(f"({self.say(p, unit)})" if isinstance(p, Either) else self.say(p, unit) for p in shown)
            case Either(parts):
                said = [self.say(part, unit) for part in parts]
                return " or ".join(f"({each})" if ", " in each else each for each in said)
            case Some(prop, filler):
                return f"{self.label(prop)}: {self.say(filler)}"
            case Range(prop):
                what = "" if prop in _THE_NUMBER else f"{self.label(prop)} "
                return what + self.limits(expression, self.unit_of(prop, unit))
            case Value(prop, value):
                return f"{self.label(prop)} {self._value(value)}"

    def limits(self, test: Range, unit: str = "") -> str:
        """The limits of a range in words: at least 1.7 mg/dL."""
        facets = [(_OPPOSITE[f], n) if test.complement else (f, n) for f, n in test.limits]
        joint = " or " if test.complement else " and "
        return joint.join(f"{_WORDS[facet]} {number} {unit}".rstrip() for facet, number in facets)

    def unit_of(self, prop: str, unit: str) -> str:
        """The unit of the numbers of a property: its own, where it has one (days, counts), or that of its fact."""
        own = self.knowledge.value(prop, CG["ucum"])
        return unit if own is None else "" if own == "1" else own

    def unit(self, parts: Iterable[Expression]) -> str:
        """The unit of the numbers in an intersection: the one that it asks for, or the canonical one of its class."""
        found = ""
        for part in parts:
            if isinstance(part, Value) and part.prop == CG["unit"].value:
                return part.value.strip('"')
            if isinstance(part, Named):
                inner = self.criteria.get(part.iri)
                ordered = self.knowledge.value(part.iri, CG["ordersMedication"]) or part.iri
                found = found or self.knowledge.value(ordered, CG["canonicalUnit"]) or ""
                if inner and isinstance(inner.expression, Both):
                    found = found or self.unit(inner.expression.parts)
        return found

    def whose(self, term: str) -> str:
        """Whose word a term is: the title of the module that defines it."""
        module = self.knowledge.value(term, RDFS["isDefinedBy"])
        return (self.knowledge.value(module, DCTERMS["title"]) or module) if module else ""

    def _value(self, value: str) -> str:
        return self.label(value[1:-1]) if value.startswith("<") else value.split("^^")[0].strip('"')


def manchester(expression: Expression, prefixes: Mapping[str, str], *, outer: bool = True) -> str:
    """An expression in Manchester syntax. prefixes: prefix to namespace IRI."""

    def name(iri: str) -> str:
        for prefix, space in prefixes.items():
            if iri.startswith(space):
                return f"{prefix}:{iri.removeprefix(space)}"
        return f"<{iri}>"

    def inner(part: Expression) -> str:
        return manchester(part, prefixes, outer=False)

    match expression:
        case Named(iri):
            return name(iri)
        case OneOf(iris):
            text = " or ".join(name(iri) for iri in iris)
        case Both(parts):
            text = " and ".join(inner(part) for part in parts)
        case Either(parts):
            text = " or ".join(inner(part) for part in parts)
        case Some(prop, filler):
            text = f"{name(prop)} some {inner(filler)}"
        case Value(prop, value):
            text = f"{name(prop)} value {name(value[1:-1]) if value.startswith('<') else value}"
        case Range(prop, limits, complement, datatype):
            number = ", ".join(f"{_SIGNS[facet]} {limit}" for facet, limit in limits)
            kind = name(datatype) if datatype else f"{name(XSD['decimal'].value)}[{number}]"
            text = f"{name(prop)} some {f'(not {kind})' if complement else kind}"
    return text if outer else f"({text})"


def is_unit(part: Expression) -> bool:
    """Whether an expression asks for a unit."""
    return isinstance(part, Value) and part.prop == CG["unit"].value
