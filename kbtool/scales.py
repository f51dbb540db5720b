"""Draw a value among the thresholds that decide about it: what they are, whose they are, and where each stands on an axis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

from kbtool.criteria import Both, Either, Expression, Named, Range, Some, Value
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDFS, local_name
from kbtool.ways import Ways
from kbtool.words import Words

Json = dict[str, Any]

WIDTH = 320
"""The width of a drawing, in units of its own; it is scaled to the room that there is."""

SOURCE = "source"
"""The owner of what stands in a module that says for whom it speaks."""

_MARGIN, _ROW, _CHARACTER, _BELOW = 14, 13, 6.4, 34
_VALUES = ("value", "canonicalValue")


@dataclass(frozen=True)
class Threshold:
    """A range with which criteria compare a quantity, in a unit, or (where that is empty) in the canonical one."""

    test: Range
    unit: str


class Scales:
    """The thresholds of every quantity of a knowledge base, and axes that show them."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge, self.ways, self.words = knowledge, Ways(knowledge), Words(knowledge)

    def thresholds(self, kind: str) -> list[Threshold]:
        """The thresholds of a class of observations and of those above it, in the order of their names."""
        found = {t: None for above in self.ways.above(kind) for t in self._all.get(above, ())}
        return sorted(found, key=lambda t: (t.test.datatype, t.unit, t.test.limits))

    def owner(self, term: str) -> str:
        """Whose word a term is: `source` for a module that says for whom it speaks, the title of any other module."""
        module = self.knowledge.value(term, RDFS["isDefinedBy"])
        if module and self.knowledge.values(module, CG["scope"]):
            return SOURCE
        return self.words.whose(term) or "not said"

    def draw(self, kind: str, reported: str, unit: str) -> Json | None:
        """A drawing of a number in a unit among the thresholds of its class; None where no rule compares it with anything.

        Keys: width, height, y (of the axis), low and high (the ends: x, text), value (x, text), marks (one for each
        threshold number that lies on the axis: x, y, text, style) and limits (one for each threshold: text, here (in the unit of
        the value, where it is another), label, owner, style, and whether the value is inside).
        """
        value, canonical = Decimal(reported), self.knowledge.value(kind, CG["canonicalUnit"]) or ""
        factor, offset = self.ways.conversion(kind, unit)

        def here(number: Decimal, basis: str) -> Decimal:
            return number if basis == unit else number / factor - offset

        limits: list[tuple[Decimal, Json]] = []
        numbers: dict[Decimal, int] = {}
        for threshold in self.thresholds(kind):
            basis, datatype = threshold.unit or canonical, threshold.test.datatype
            if threshold.unit not in ("", unit):
                continue
            owner = self.owner(datatype)
            found = [here(Decimal(number), basis) for _, number in threshold.test.limits]
            limit = {
                "text": self.words.limits(threshold.test, basis),
                "here": "" if basis == unit else f"{' and '.join(map(plain, found))} {unit}",
                "label": self.words.label(datatype) if datatype else "",
                "owner": owner,
                "style": self.owners.index(owner),
                "inside": threshold.test.holds(value if basis == unit else (value + offset) * factor),
            }
            limits.append((min(found), limit))
            for number in found:
                numbers.setdefault(number, self.owners.index(owner))
        if not limits:
            return None
        low, high = self._ends(kind, value, sorted(numbers), factor, offset)
        scale = Decimal(WIDTH - 2 * _MARGIN) / (high - low)

        def x(number: Decimal) -> float:
            return round(float((number - low) * scale) + _MARGIN, 1)

        marks: list[Json] = [
            {"x": x(n), "text": plain(n), "style": style} for n, style in sorted(numbers.items()) if low <= n <= high
        ]
        rows = _stack(marks)
        y = _ROW * rows + 10
        for mark in marks:
            mark["y"] = y - 12 - _ROW * mark.pop("row")
        return {
            "width": WIDTH,
            "height": y + _BELOW,
            "y": y,
            "low": {"x": x(low), "text": plain(round(low, 2))},
            "high": {"x": x(high), "text": plain(round(high, 2))},
            "value": {"x": x(value), "text": reported},
            "marks": marks,
            "limits": [limit for _, limit in sorted(limits, key=lambda pair: (pair[0], pair[1]["text"]))],
        }

    def _ends(
        self, kind: str, value: Decimal, numbers: list[Decimal], factor: Decimal, offset: Decimal
    ) -> tuple[Decimal, Decimal]:
        """The ends of an axis: around the value and the thresholds, within what is plausible."""
        shown = sorted([value, *numbers])
        reach = shown[-1] - shown[0] or abs(value) or Decimal(1)
        lowest, highest = (limit / factor - offset for limit in self.ways.plausible(kind, "canonicalValue"))
        low = max(shown[0] - reach / 4, min(lowest, shown[0]))
        high = min(shown[-1] + reach / 4, max(highest, shown[-1]))
        return (low, high) if low < high else (low - 1, high + 1)

    @cached_property
    def owners(self) -> list[str]:
        """Everyone who sets a threshold, the source first: each has a way of drawing."""
        found = {self.owner(t.test.datatype) for thresholds in self._all.values() for t in thresholds}
        return sorted(found, key=lambda owner: (owner != SOURCE, owner))

    @cached_property
    def _all(self) -> dict[str, dict[Threshold, None]]:
        found: dict[str, dict[Threshold, None]] = {}
        for expression in self.ways.criteria.values():
            self._collect(expression, frozenset(), "", found)
        return found

    def _collect(self, expression: Expression, kinds: frozenset[str], unit: str, found: dict[str, dict[Threshold, None]]) -> None:
        match expression:
            case Both(parts):
                kinds = kinds.union(*(self._stated(part) for part in parts))
                units = [p.value.strip('"') for p in parts if isinstance(p, Value) and p.prop == CG["unit"].value]
                for part in parts:
                    self._collect(part, kinds, units[0] if units else unit, found)
            case Either(parts):
                for part in parts:
                    self._collect(part, kinds, unit, found)
            case Some(_, filler):
                self._collect(filler, frozenset(), "", found)
            case Range(prop) if local_name(prop) in _VALUES:
                basis = unit if local_name(prop) == "value" else ""
                for kind in kinds:
                    found.setdefault(kind, {})[Threshold(replace(expression, prop="", complement=False), basis)] = None

    def _stated(self, expression: Expression) -> frozenset[str]:
        """The classes that a fact is stated to be of, where it meets an expression."""
        match expression:
            case Named(iri):
                return self._stated(self.ways.criteria[iri]) if iri in self.ways.criteria else frozenset({iri})
            case Both(parts) | Either(parts):
                return frozenset().union(*(self._stated(part) for part in parts))
        return frozenset()


def plain(number: Decimal) -> str:
    """A number as a person reads it, with at most three decimals."""
    return format(round(number, 3).normalize(), "f")


def _stack(marks: list[Json]) -> int:
    """Give each mark a row in which its text touches no other; returns how many rows there are."""
    ends: list[float] = []
    for mark in marks:
        half = (len(mark["text"]) * _CHARACTER + 6) / 2
        row = next((n for n, end in enumerate(ends) if mark["x"] - half >= end), len(ends))
        ends[row:] = [mark["x"] + half, *ends[row + 1 :]]
        mark["row"] = row
    return max(1, len(ends))
