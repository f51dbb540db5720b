"""What the preparing part of the CQL library needs from the ontology: classes, units, hours, windows, ceilings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import jinja2

from kbtool.criteria import Both, Either, Expression, Named, Range, Some
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDFS, local_name, text
from peers.fhir import Codes

PLACES = 8
"""Decimals of CQL have so many digits after the point."""

_TEMPLATE = Path(__file__).with_name("facts.cql.jinja")


class NotCoveredError(Exception):
    """The ontology says something that this translation to CQL does not know."""


@dataclass
class Library:
    """A CQL library in the making: value sets by name, and definitions, each after those that it uses."""

    codes: Codes
    value_sets: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)

    def define(self, name: str, body: str) -> str:
        """Add a definition unless it is there, and give the reference to it."""
        if self.definitions.setdefault(name, body) != body:
            raise NotCoveredError(f"two definitions of {name}")
        return f'"{name}"'

    def value_set(self, iri: str) -> str:
        """The value set of the codes of a class."""
        name = f"{local_name(iri)} codes"
        if self.value_sets.setdefault(name, iri) != iri:
            raise NotCoveredError(f"two classes named {local_name(iri)}")
        return f'"{name}"'


def decimal(number: str) -> str:
    """A decimal literal. Raises NotCoveredError for more digits than CQL has."""
    plain = format(Decimal(number), "f")
    if "." not in plain:
        plain += ".0"
    if len(plain.partition(".")[2].rstrip("0")) > PLACES:
        raise NotCoveredError(f"{number} has more than {PLACES} decimals")
    return f"({plain})" if plain.startswith("-") else plain


def seconds(hours: str | None) -> int:
    """Hours as whole seconds; none are 0."""
    return int(Decimal(hours or "0") * 3600)


def converted(value: str, factor: str, offset: str) -> str:
    """A value in the canonical unit, rounded to six places; a factor with more digits than CQL has is a small ratio."""
    moved = f"({value} + {decimal(offset)})" if Decimal(offset) else value
    if -int(Decimal(factor).as_tuple().exponent) <= PLACES:
        return f"Round({moved} * {decimal(factor)}, 6)"
    ratio = Fraction(factor).limit_denominator(1000)
    if abs(ratio - Fraction(factor)) > Fraction(1, 10**9):
        raise NotCoveredError(f"the factor {factor}")
    return f"Round({moved} * {ratio.numerator}.0 / {ratio.denominator}.0, 6)"


class Ontology:
    """The ontology as a writer of CQL asks it."""

    def __init__(self, knowledge: Knowledge, library: Library) -> None:
        self.knowledge, self.library, self.codes = knowledge, library, library.codes
        self.criteria = {c.iri: c for c in knowledge.criteria.ordered}

    def number(self, iri: str, name: str) -> str | None:
        """A number, or text, stated on a term."""
        return self.knowledge.value(iri, CG[name])

    def limit(self, iri: str, name: str) -> str | None:
        """The upper limit of the range that a property of a class names."""
        named = self.knowledge.value(iri, CG[name])
        return self.knowledge.value(named, CG["maxInclusive"]) if named else None

    def below(self, iri: str) -> set[str]:
        """A class and all below it."""
        return self.codes.below.get(iri, {iri})

    def with_property(self, name: str) -> list[str]:
        """The terms on which a property is stated."""
        return sorted({text(q.subject) for q in self.knowledge.graph.quads_for_pattern(None, CG[name], None, None)})

    def units(self, iri: str) -> list[tuple[str, str, str]]:
        """Accepted units of a class, with factor and offset."""
        found = []
        for conversion in self.knowledge.values(iri, CG["acceptsUnit"]):
            unit, factor = self.number(conversion, "ucum"), self.number(conversion, "factor")
            if unit and factor:
                found.append((unit, factor, self.number(conversion, "offset") or "0"))
        return found

    def roots(self, expression: Expression) -> set[str]:
        """The classes of facts at the root of a test of facts."""
        match expression:
            case Named(iri):
                return self.roots(self.criteria[iri].expression) if iri in self.criteria else {iri}
            case Both(members) | Either(members):
                return set().union(*map(self.roots, members))
        return set()

    def substances(self) -> list[str]:
        """The substances of which a criterion tests the dose."""
        dosed = {prop for a in ("DailyDose", "DoseChange") for prop in self.knowledge.values(CG[a].value, CG["recordedBy"])}
        found: set[str] = set()
        for criterion in self.criteria.values():
            if any(isinstance(part, Range) and part.prop in dosed for part in parts(criterion.expression)):
                for root in self.roots(criterion.expression):
                    found |= set(self.knowledge.values(root, CG["ordersMedication"])) or {root}
        tested = set().union(*(self.roots(c.expression) for c in self.criteria.values() if not c.of_patient))
        found |= {s for order in tested for s in self.knowledge.values(order, CG["ordersMedication"])}
        return sorted(iri for iri in found if self.units(iri))

    def facts(self) -> str:
        """The definitions of facts."""
        vs = self.library.value_set
        substances = [self._substance(iri) for iri in self.substances()]
        by_iri = {s["iri"]: s for s in substances}
        orders = [
            by_iri[substance] | {"codes": vs(order), "substance": vs(substance)}
            for order in self.with_property("ordersMedication")
            for substance in self.knowledge.values(order, CG["ordersMedication"])
            if substance in by_iri
        ]
        sessions = [
            {
                "codes": vs(iri),
                "longest": int(Decimal(self.number(iri, "plausibleMaximum") or "0") * 60),
                "logged": seconds(self.number(iri, "logHours")),
                "settled": seconds(self.number(iri, "aftermathHours")),
            }
            for iri in sorted(self.below(CG["Session"].value) - {CG["Session"].value})
        ]
        phases = [(local_name(p), local_name(self.number(p, "phaseKind") or "")) for p in self.knowledge.instances(CG["Phase"])]
        windows = [
            {"codes": vs(iri), "sessions": int(Decimal(self.limit(iri, "sessionWindow") or "0"))}
            for iri in self.with_property("sessionWindow")
        ]
        continued = [
            {"codes": vs(iri), "gap": seconds(self.number(iri, "continuityHours"))}
            for iri in self.with_property("continuityHours")
        ]
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - CQL, not HTML
        return environment.from_string(_TEMPLATE.read_text(encoding="utf-8") + "\n").render(
            cg=CG.iri,
            phases=phases,
            sessions=sessions,
            windows=windows,
            substances=substances,
            orders=orders,
            continued=continued,
            session_codes=vs(CG["Session"].value),
            treatment_codes=vs(CG["Treatment"].value),
        )

    def _substance(self, iri: str) -> dict[str, Any]:
        ceiling = self.limit(iri, "doseCeiling")
        return {
            "iri": iri,
            "codes": self.library.value_set(iri),
            "ceiling": decimal(ceiling) if ceiling else None,
            "doses_of_medication": [(unit, converted("M.value", factor, "0")) for unit, factor, _ in self.units(iri)],
            "doses_of_order": [(unit, converted("O.value", factor, "0")) for unit, factor, _ in self.units(iri)],
        }

    def in_guideline(self, iri: str) -> bool:
        """Whether a module with a scope defines a term."""
        return any(self.knowledge.value(module, CG["scope"]) for module in self.knowledge.values(iri, RDFS["isDefinedBy"]))


def parts(expression: Expression) -> Iterator[Expression]:
    """An expression and everything in it."""
    yield expression
    if isinstance(expression, Both | Either):
        for part in expression.parts:
            yield from parts(part)
    elif isinstance(expression, Some):
        yield from parts(expression.filler)
