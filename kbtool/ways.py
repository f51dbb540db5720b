"""Take criteria apart: the ways in which a patient can meet one, and the cells into which thresholds divide its numbers.

A way is a list of facts that a patient must have. Every numeric variable is partitioned at the thresholds that a check
concerns, and one number stands for each cell: each threshold itself, and the middle of each gap between two of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice, pairwise, product

import pyoxigraph as ox

from kbtool.criteria import Both, Either, Expression, Named, OneOf, Range, Some, Value
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDFS, local_name

MOST_WAYS = 4000
"""How many combinations of ways are looked at for one criterion before the search is given up."""

_BASES = {
    "Finding": "hasFinding",
    "Medication": "hasMedication",
    "Treatment": "hasTreatment",
    "Order": "hasOrder",
    "Session": "hasSession",
    "Observation": "hasEligible",
    "Setting": "hasEligible",
}


@dataclass(frozen=True)
class Need:
    """A fact that a patient must have: the property that leads to it, its classes, what is tested of it, facts it points to."""

    prop: str
    kinds: tuple[str, ...] = ()
    tests: tuple[Range | Value, ...] = ()
    nested: tuple[Need, ...] = ()

    def __add__(self, other: Need) -> Need:
        kinds = tuple(dict.fromkeys(self.kinds + other.kinds))
        tests = tuple(dict.fromkeys(self.tests + other.tests))
        return Need(self.prop, kinds, tests, self.nested + other.nested)


Way = tuple[Need, ...]


class Ways:
    """The ways to meet the criteria of a knowledge base."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self.criteria = {c.iri: c.expression for c in knowledge.criteria.ordered}
        self.met: dict[str, list[Way]] = {}
        scopes = sorted(o for s in knowledge.modules for o in knowledge.values(s, CG["scope"]))
        ways = self.ways(Named(scopes[0])) if scopes else []
        self.scope: Way = min(ways, key=lambda way: sum(need.prop.endswith("Session") for need in way), default=())

    # --- Ways ------------------------------------------------------------------------------------

    def ways(self, expression: Expression) -> list[Way]:
        """The ways in which a patient can meet an expression; ways that contradict themselves are left out."""
        match expression:
            case Named(iri):
                if iri not in self.criteria:
                    return [()]
                if iri not in self.met:
                    self.met[iri] = self.ways(self.criteria[iri])
                return self.met[iri]
            case Both(parts):
                return self.together(*(self.ways(part) for part in parts))
            case Either(parts):
                return list(dict.fromkeys(way for part in parts for way in self.ways(part)))
            case Some(prop, filler):
                return [(need,) for need in self.needs(Need(local_name(prop)), filler)]
        return [()]

    def together(self, *choices: list[Way]) -> list[Way]:
        """The ways to meet several criteria at once."""
        found = (self.merged(combination) for combination in islice(product(*choices), MOST_WAYS))
        return list(dict.fromkeys(way for way in found if way is not None))

    def merged(self, ways: Iterable[Way]) -> Way | None:
        """Several ways in one patient; None where no number satisfies all tests of a fact."""
        facts: dict[object, Need] = {}
        for need in (need for way in ways for need in way):
            key = (need.prop, need.kinds)
            if need.prop != "hasEligible" and key in facts and not self._fits(facts[key] + need):
                key = (need.prop, need.kinds, len(facts))  # type: ignore[assignment]
            facts[key] = facts[key] + need if key in facts else need
        way = tuple(facts.values())
        return way if all(self._fits(need) for need in way) else None

    def nearest(self, expression: Expression) -> Way:
        """A way to meet as much of an expression as can be met: tests that exclude each other are left out."""
        found: list[Need] = []
        match expression:
            case Named(iri) if iri in self.criteria:
                return self.nearest(self.criteria[iri])
            case Both(parts):
                found = [need for part in parts for need in self.nearest(part)]
            case Either(parts):
                return self.nearest(parts[0])
            case Some(prop, filler):
                found = self.needs(Need(local_name(prop)), filler)[:1]
        trimmed = []
        for need in found:
            while need.tests and not self._fits(need):
                need = replace(need, tests=need.tests[:-1])
            trimmed.append(need)
        return tuple(trimmed)

    def needs(self, need: Need, filler: Expression) -> list[Need]:
        """A need with what a restriction asks of its fact added, in every way."""
        match filler:
            case Named(iri):
                return self.needs(need, self.criteria[iri]) if iri in self.criteria else [need + Need(need.prop, (iri,))]
            case OneOf(iris):
                return [need + Need(need.prop, (iri,)) for iri in iris]
            case Both(parts):
                found = [need]
                for part in parts:
                    found = [more for one in found for more in self.needs(one, part)]
                return found
            case Either(parts):
                return [more for part in parts for more in self.needs(need, part)]
            case Some(prop, inner):
                return [need + Need(need.prop, nested=(n,)) for n in self.needs(Need(local_name(prop)), inner)]
            case Range() | Value():
                return [need + Need(need.prop, tests=(filler,))]

    def _fits(self, need: Need) -> bool:
        kind = self.kind(need)
        if kind is None:
            return False
        units = {t.value for t in need.tests if isinstance(t, Value) and local_name(t.prop) == "unit"}
        ranges = [t for t in need.tests if isinstance(t, Range)]
        return len(units) <= 1 and all(self._values(kind, prop, units, ranges) for prop in {local_name(t.prop) for t in ranges})

    def _values(self, kind: str, prop: str, units: set[str], ranges: list[Range]) -> list[Decimal]:
        unit = next(iter(units)).strip('"') if units else None
        return [c for c in self.cells(kind, prop, unit, ranges) if self.meets(kind, prop, unit, c, ranges)]

    # --- Numbers ----------------------------------------------------------------------------------

    def cells(self, kind: str, prop: str, unit: str | None, ranges: Iterable[Range]) -> list[Decimal]:
        """A number for each cell into which thresholds divide a property of a class, in a unit (None: the canonical one)."""
        factor, offset = self.conversion(kind, unit)
        limits: set[Decimal] = set()
        for test in ranges:
            name = local_name(test.prop)
            for _, text in test.limits:
                if name == prop:
                    limits.add(Decimal(text))
                elif {name, prop} == {"value", "canonicalValue"}:
                    limits.add(Decimal(text) / factor - offset if prop == "value" else (Decimal(text) + offset) * factor)
        low, high = self.plausible(kind, prop)
        if prop == "value":
            low, high = low / factor - offset, high / factor - offset
        inside = sorted(limit for limit in limits if low <= limit <= high)
        marks = [low, *inside, high]
        middles = [_between(a, b) for a, b in pairwise(marks) if b > a]
        whole = prop in ("affectedSessions", "ofSessions", "recentlyAffected")
        found = {number.to_integral_value() if whole else number for number in (*inside, *middles)}
        return sorted(found)

    def meets(self, kind: str, prop: str, unit: str | None, number: Decimal, ranges: Iterable[Range]) -> bool:
        """Whether a number passes all tests of its property, and where it is a value, those of its canonical value too."""
        factor, offset = self.conversion(kind, unit)
        for test in ranges:
            name = local_name(test.prop)
            if name != prop and {name, prop} != {"value", "canonicalValue"}:
                continue
            tested = number
            if name != prop:
                tested = (number + offset) * factor if name == "canonicalValue" else number / factor - offset
            if not test.holds(tested):
                return False
        return True

    def ranges(self, needs: Iterable[Need]) -> dict[str, list[Range]]:
        """The numeric tests of facts, by the class of the fact."""
        found: dict[str, dict[Range, None]] = {}
        for need in needs:
            kind = self.kind(need)
            if kind:
                found.setdefault(kind, {}).update((t, None) for t in need.tests if isinstance(t, Range))
        return {kind: list(tests) for kind, tests in found.items()}

    def conversion(self, kind: str, unit: str | None) -> tuple[Decimal, Decimal]:
        """Factor and offset of a unit of a class."""
        for conversion in self.knowledge.values(kind, CG["acceptsUnit"]) if unit else ():
            if self.knowledge.value(conversion, CG["ucum"]) == unit:
                return self.number(conversion, "factor", "1"), self.number(conversion, "offset", "0")
        return Decimal(1), Decimal(0)

    def plausible(self, kind: str, prop: str) -> tuple[Decimal, Decimal]:
        """The limits within which a number is proposed: for values the plausible ones, in the canonical unit."""
        if prop in ("value", "canonicalValue"):
            return self.number(kind, "plausibleMinimum", "0"), self.number(kind, "plausibleMaximum", "1000")
        if prop == "doseMargin":
            return -self.ceiling(kind), self.ceiling(kind)
        return (Decimal(0), Decimal(10 if prop.endswith(("Affected", "Sessions")) else 1000))

    def ceiling(self, kind: str) -> Decimal:
        """The highest daily dose of a substance, or of what an order orders."""
        substance = self.knowledge.value(kind, CG["ordersMedication"]) or kind
        for datatype in self.knowledge.values(substance, CG["doseCeiling"]):
            return self.number(datatype, "maxInclusive", "100")
        return Decimal(100)

    def number(self, iri: str, name: str, default: str) -> Decimal:
        """A number that is stated of a term, or a default."""
        return Decimal(self.knowledge.value(iri, CG[name]) or default)

    # --- Classes ----------------------------------------------------------------------------------

    def kind(self, need: Need) -> str | None:
        """A class that can be stated and lies below all classes of a need, or None."""
        below = [self.below(kind) for kind in need.kinds]
        if not below:
            return None
        common = [kind for kind in below[-1] if all(kind in others for others in below)]
        return next((kind for kind in common if kind not in self.criteria and self._can_be_stated(need.prop, kind)), None)

    def base(self, kind: str) -> str | None:
        """The property that leads to facts of a class, told by what class of facts it lies below."""
        above = [local_name(iri) for iri in self.above(kind)]
        return next((prop for base, prop in _BASES.items() if base in above), None)

    def _can_be_stated(self, prop: str, kind: str) -> bool:
        if prop in ("hasEligible", "hasCurrent"):
            return self.knowledge.value(kind, CG["canonicalUnit"]) is not None
        return kind not in (CG[name].value for name in _BASES)

    def below(self, kind: str) -> list[str]:
        """A class and all below it, nearest first."""
        found, waiting = [], [kind]
        while waiting:
            iri = waiting.pop(0)
            if iri not in found:
                found.append(iri)
                lower = self.knowledge.graph.quads_for_pattern(None, RDFS["subClassOf"], ox.NamedNode(iri), None)
                waiting += sorted(q.subject.value for q in lower if isinstance(q.subject, ox.NamedNode))
        return found

    def above(self, kind: str) -> list[str]:
        """A class and all above it, nearest first."""
        found, waiting = [], [kind]
        while waiting:
            iri = waiting.pop(0)
            if iri not in found:
                found.append(iri)
                waiting += self.knowledge.values(iri, RDFS["subClassOf"])
        return found


def _between(low: Decimal, high: Decimal) -> Decimal:
    """A number between two others, with few digits."""
    middle = (low + high) / 2
    for places in range(7):
        short = middle.quantize(Decimal(1).scaleb(-places))
        if low < short < high:
            return short
    return middle
