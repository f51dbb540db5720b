"""For each limit that a criterion tests, patients on each side of it, made out of the knowledge.

    for patient in patients(knowledge): patient.document, patient.expected

A patient lies below, at or above the limit, reports it in one of the units in which it can be reported, has nothing to compare,
or only a result that is too old; every other condition of the criterion is met. What must come out is computed here, from
the limits and in decimal arithmetic, by nothing that the queries use. Nothing here knows a disease or a drug.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from generate import AS_OF, Fact, Vocabulary, holds, plain

from kbtool.criteria import Both, Criteria, Criterion, Either, Expression, Named, Range, Some, Value
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, XSD, local_name

PATIENTS = "https://example.org/threshold/"
"""Patients are named by this, the criterion, the limit and the situation."""

_SMALL = {"days": Decimal(1) / 1440, "recentlyAffected": Decimal(1)}
_STEP = Decimal("0.0001")
_LONG_AGO = Decimal(400)
_DOSE = Decimal(5)


@dataclass(frozen=True)
class Expected:
    """What must be derived: whether a criterion holds of the patient, or of a fact of the patient, or is unknown."""

    criterion: str
    of_patient: bool
    truth: str
    """`true`, `unknown`, `false`, or `not true` where conditions beside the limit decide between the last two."""


@dataclass(frozen=True)
class Patient:
    """A patient near a limit: name, limit in words, situation, facts in Turtle, and what must be derived."""

    iri: str
    limit: str
    situation: str
    document: str
    expected: tuple[Expected, ...]


@dataclass
class _Wanted:
    """What a fact must be: the classes it is of, the ranges its numbers lie in, and the values it has."""

    kinds: list[str] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)


@dataclass(frozen=True)
class _Tested:
    """A range with what else must be true where it stands."""

    test: Range
    beside: tuple[Expression, ...]


def patients(knowledge: Knowledge) -> Iterator[Patient]:
    """The patients for every limit of every criterion, in a fixed order."""
    return _Maker(knowledge).patients()


class Meeting:
    """Makes facts that meet a criterion, out of the vocabulary of a knowledge base; the same ones each time."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge, self.v = knowledge, Vocabulary.read(knowledge)
        self.now = datetime.fromisoformat(AS_OF)
        criteria = Criteria.read(knowledge.graph)
        list(criteria.updates(facts_only=False))
        self.criteria = {c.iri: c for c in criteria.ordered}
        scopes = sorted(q.object.value for q in knowledge.graph.quads_for_pattern(None, CG["scope"], None, None))  # type: ignore[union-attr]
        self.scope: list[Expression] = [Named(iri) for iri in scopes]

    def routes(self, kind: str, name: str, wanted: _Wanted) -> list[str]:
        """The ways in which a number can be reported: units, or units of the two quantities whose ratio it is."""
        fixed = [v.value.strip('"') for v in wanted.values if v.prop == CG["unit"].value]
        if name == "value":
            return fixed
        if name == "canonicalValue":
            found = [unit for unit, _, _ in self.v.units(kind)]
            for top, bottom in self.ratio(kind):
                found += [f"{unit}:{self.units(bottom)[0]}" for unit in self.units(top)]
                found += [f"{self.units(top)[0]}:{unit}" for unit in self.units(bottom)[1:]]
            return found
        if name in ("canonicalDailyDose", "totalDailyDose", "doseMargin", "doseIncrease"):
            return self.units(self.substance(kind))
        return [""]

    def facts(
        self, kind: str, name: str, number: Decimal, route: str, wanted: _Wanted, age: Decimal | None = None
    ) -> list[tuple[str, Fact]]:
        """Facts that state a number of a fact of a class, in some unit, so many hours old; by default recent ones."""
        numbers = {**{local_name(p): n for p, n in self.numbers(wanted, name).items()}, name: number}
        fact = Fact(kind)
        self.state(fact, wanted)
        others: list[tuple[str, Fact]] = []
        base = self.v.base_of[kind]
        if ":" in route:
            top, bottom = self.ratio(kind)[0]
            units = route.split(":")
            weight = (self.v.number(bottom, "plausibleMinimum", "1") + self.v.number(bottom, "plausibleMaximum", "1")) / 2
            above = number * weight / self.v.number(kind, "ratioFactor", "1")
            return [self.quantity(top, above, units[0], age), self.quantity(bottom, weight, units[1], age)]
        if base in _QUANTITIES:
            if name not in ("value", "canonicalValue"):
                canonical = numbers.get("canonicalValue") or (self.v.number(kind, "plausibleMinimum", "0") + 1)
                made = self.quantity(kind, canonical, self.units(kind)[0], age)
            elif name == "value":
                made = self.quantity(kind, None, route, age, value=number)
            else:
                made = self.quantity(kind, number, route, age)
            made[1].stated |= fact.stated
            if "daysSinceStart" in numbers:
                made[1].stated["start"] = self.days(numbers["daysSinceStart"])
            return [made]
        if base == CG["Order"].value and {"doseIncrease", "daysAtDose"} & numbers.keys():
            taken = Fact(self.substance(kind))
            taken.stated["doseSince"] = self.days(numbers.get("daysAtDose", _LONG_AGO))
            self.dose(taken, _DOSE, route)
            others.append((self.v.link[CG["Medication"].value], taken))
        doses = {
            "canonicalDailyDose": lambda n: n,
            "totalDailyDose": lambda n: n,
            "doseMargin": lambda n: self.ceiling(kind) - n,
            "doseIncrease": lambda n: _DOSE + n,
        }
        for each in doses.keys() & numbers.keys():
            self.dose(fact, doses[each](numbers[each]), route)
        if base != CG["Order"].value:
            for each, prop in (("daysAtDose", "doseSince"), ("daysOfUse", "start"), ("daysSinceStart", "start")):
                if each in numbers:
                    fact.stated[prop] = self.days(numbers[each])
        if base == CG["Session"].value:
            fact.stated["start"] = self.hours(Decimal(1))
        if "recentlyAffected" in numbers:
            fact.stated |= {"affectedSessions": str(int(numbers["recentlyAffected"])), "ofSessions": str(self.window(kind))}
        return [(self.v.link[base], fact), *others]

    def without(self, kind: str, name: str, limit: Decimal, route: str, wanted: _Wanted) -> tuple[list[tuple[str, Fact]], str]:
        """Facts that leave a number open, and what follows: unknown, unless the language says that absent is false, or that
        what is not recorded counts by itself."""
        facts = self.facts(kind, name, limit, route, wanted)
        if ":" in route:
            return facts[:1], "unknown"
        if self.v.base_of[kind] in _QUANTITIES and name in ("value", "canonicalValue"):
            return [], "unknown"
        _, fact = facts[0]
        if name == "recentlyAffected":
            fact.stated["ofSessions"] = str(2 * self.window(kind))
        elif name.startswith("days"):
            for _, each in facts:
                each.stated.pop("start", None)
                each.stated.pop("doseSince", None)
        else:
            fact.stated.pop("dailyDose", None)
            fact.stated.pop("unit", None)
        recorded = self.knowledge.graph.quads_for_pattern(None, CG["recordedBy"], CG[name], None)
        if any(True for _ in recorded):
            return facts, "unknown"
        counts = any(p == CG["hasUnrecorded"].value for p in self.value_properties(kind))
        return facts, "true" if counts and name == "daysOfUse" else "false"

    def value_properties(self, kind: str) -> set[str]:
        """The properties of which criteria about a class of facts want a value."""
        found: set[str] = set()
        for criterion in self.criteria.values():
            if kind in criterion.refers_to:
                waiting: list[Expression] = [criterion.expression]
                while waiting:
                    each = waiting.pop()
                    if isinstance(each, Value):
                        found.add(each.prop)
                    waiting += getattr(each, "parts", ())
        return found

    def patient(self, expression: Expression) -> list[tuple[str, Fact]]:
        """Facts with which a patient meets a criterion, one way if there are several, with the properties that link them;
        a setting has the property that links it to its treatment."""
        match expression:
            case Named(iri):
                return self.patient(self.criteria[iri].expression) if iri in self.criteria else []
            case Both(parts):
                return [fact for part in parts for fact in self.patient(part)]
            case Either(parts):
                return self.patient(self.simplest(parts))
            case Some(_, filler):
                return self.fact(filler)
        return []

    def fact(self, expression: Expression) -> list[tuple[str, Fact]]:
        """A fact that meets a criterion about facts, and those beside which it does."""
        wanted = _Wanted()
        self.describe(expression, wanted)
        kind = self.kind(wanted.kinds)
        numbers = self.numbers(wanted, "")
        plain_name = "canonicalValue" if self.v.units(kind) and self.v.base_of[kind] in _QUANTITIES else ""
        name = local_name(next(iter(numbers))) if numbers else plain_name
        number = next(iter(numbers.values()), self.v.number(kind, "plausibleMinimum", "0") + 1)
        return self.facts(kind, name, number, self.routes(kind, name, wanted)[0], wanted)

    def in_scope(self) -> list[tuple[str, Fact]]:
        """Facts of a patient for whom the guidelines speak."""
        return [fact for each in self.scope for fact in self.patient(each)]

    def simplest(self, parts: tuple[Expression, ...]) -> Expression:
        """One way out of several, whatever their order: rather not by a session, which makes other facts depend on time."""
        sessions = self.v.below(CG["Session"].value)
        return min(parts, key=lambda part: (any(iri in repr(part) for iri in sessions), repr(part)))

    def describe(self, expression: Expression, wanted: _Wanted) -> None:
        """One way in which a fact meets an expression."""
        match expression:
            case Named(iri):
                if iri in self.criteria:
                    self.describe(self.criteria[iri].expression, wanted)
                else:
                    wanted.kinds.append(iri)
            case Both(parts):
                for part in parts:
                    self.describe(part, wanted)
            case Either(parts):
                self.describe(self.simplest(parts), wanted)
            case Range():
                wanted.ranges.append(expression)
            case Value():
                wanted.values.append(expression)

    def state(self, fact: Fact, wanted: _Wanted) -> None:
        """The values that a fact must have, as they are stated."""
        for value in wanted.values:
            name = local_name(value.prop)
            if name == "relativePhase":
                kind = value.value.strip("<>")
                phases = [p for p in self.v.instances("Phase") if self.knowledge.value(p, CG["phaseKind"]) == kind]
                fact.stated["phase"] = f"<{phases[0]}>"
            elif name in ("course", "state"):
                fact.stated[name] = value.value

    def quantity(
        self, kind: str, canonical: Decimal | None, unit: str, age: Decimal | None, value: Decimal | None = None
    ) -> tuple[str, Fact]:
        """A quantity with a value or a canonical one, undisturbed by sessions."""
        factor, offset = next((f, o) for u, f, o in self.v.units(kind) if u == unit)
        stated = value if value is not None else (canonical or Decimal(0)) / factor - offset
        fact = Fact(kind, {"value": plain(stated.quantize(Decimal("0.000000001")).normalize()), "unit": f'"{unit}"'})
        if self.v.base_of[kind] == CG["Setting"].value:
            return "hasSetting", fact
        phases = [p for p in self.v.instances("Phase") if self.knowledge.value(p, CG["phaseKind"]) == CG["BeforeSession"].value]
        currency = self.v.number(kind, "currencyHours", "24")
        fact.stated["time"] = self.hours(min(Decimal(2), currency / 2) if age is None else age)
        if phases:
            fact.stated["phase"] = f"<{phases[0]}>"
        return self.v.link[self.v.base_of[kind]], fact

    def dose(self, fact: Fact, canonical: Decimal, unit: str) -> None:
        units = self.v.units(self.substance(fact.kind))
        if units:
            chosen, factor, _ = next((u for u in units if u[0] == unit), units[0])
            fact.stated |= {
                "dailyDose": plain((canonical / factor).quantize(Decimal("0.000000001")).normalize()),
                "unit": f'"{chosen}"',
            }

    # --- Reading ------------------------------------------------------------------------------------

    def truth(self, expression: Expression, kind: str, numbers: dict[str, Decimal], wanted: _Wanted) -> bool:
        """Whether a fact of a class, with numbers and values, meets an expression."""
        match expression:
            case Named(iri):
                if iri in self.criteria:
                    return self.truth(self.criteria[iri].expression, kind, numbers, wanted)
                return iri in {kind, *self.v.above(kind)}
            case Both(parts):
                return all(self.truth(p, kind, numbers, wanted) for p in parts)
            case Either(parts):
                return any(self.truth(p, kind, numbers, wanted) for p in parts)
            case Range(prop):
                return prop in numbers and holds(expression, numbers[prop])
            case Value():
                return expression in wanted.values
        return False

    def numbers(self, wanted: _Wanted, tested: str) -> dict[str, Decimal]:
        """A number for each other property that a fact must have in some ranges."""
        found: dict[str, Decimal] = {}
        for prop in {r.prop for r in wanted.ranges} - {CG[tested].value}:
            ranges = [r for r in wanted.ranges if r.prop == prop]
            near = [Decimal(n) + step for r in ranges for _, n in r.limits for step in (0, _STEP, -_STEP, 1, -1)]
            found[prop] = next(n for n in near if all(holds(r, n) for r in ranges))
        return found

    def kind(self, wanted: list[str]) -> str:
        """The first class that can be stated below the most specific of some."""
        below = set.intersection(*(self.v.below(kind) for kind in wanted))
        return next(k for k in (*wanted, *sorted(below)) if k in below and k in self.v.base_of)

    def units(self, kind: str) -> list[str]:
        return [unit for unit, _, _ in self.v.units(kind)]

    def ratio(self, kind: str) -> list[tuple[str, str]]:
        """The two quantities of which a class is the ratio, if it is one."""
        top, bottom = (self.knowledge.value(kind, CG[name]) for name in ("ratioNumerator", "ratioDenominator"))
        return [(top, bottom)] if top and bottom else []

    def substance(self, kind: str) -> str:
        return self.knowledge.value(kind, CG["ordersMedication"]) or kind

    def ceiling(self, kind: str) -> Decimal:
        datatype = self.knowledge.value(self.substance(kind), CG["doseCeiling"])
        return self.v.range_limits(datatype or "")[0]

    def window(self, kind: str) -> int:
        for each in (kind, *sorted(self.v.above(kind))):
            for datatype in self.knowledge.values(each, CG["sessionWindow"]):
                return int(self.v.range_limits(datatype)[0])
        raise LookupError(f"{kind} has no cg:sessionWindow")

    def days(self, before: Decimal) -> str:
        return self.hours(before * 24)

    def hours(self, before: Decimal) -> str:
        seconds = int((before * 3600).to_integral_value())
        moment = self.now - timedelta(seconds=seconds)
        return f'"{moment.strftime("%Y-%m-%dT%H:%M:%S")}Z"^^xsd:dateTime'


class _Maker(Meeting):
    """Makes the patients of every limit."""

    def patients(self) -> Iterator[Patient]:
        for criterion in self.criteria.values():
            if criterion.of_patient:
                continue
            for tested in self.tested(criterion.expression):
                users = list(self.users(criterion.iri)) or [(None, ())]
                for user, beside in users:
                    yield from self.of(criterion, tested, user, beside)

    # --- Where a range stands ---------------------------------------------------------------------

    def tested(self, expression: Expression) -> Iterator[_Tested]:
        """Every range of the definition of a class of facts."""
        match expression:
            case Range():
                yield _Tested(expression, ())
            case Both(parts):
                for part in parts:
                    rest = tuple(p for p in parts if p is not part)
                    for found in self.tested(part):
                        yield _Tested(found.test, (*found.beside, *rest))
            case Either(parts):
                for part in parts:
                    yield from self.tested(part)

    def users(self, iri: str) -> Iterator[tuple[Criterion, tuple[Expression, ...]]]:
        """The criteria of patients that want a fact of a class, and what else each of them wants."""
        for criterion in self.criteria.values():
            if criterion.of_patient:
                for beside in self.beside(criterion.expression, iri):
                    yield criterion, beside

    def beside(self, expression: Expression, iri: str) -> Iterator[tuple[Expression, ...]]:
        match expression:
            case Some(_, Named(filler)) if filler == iri:
                yield ()
            case Both(parts):
                for part in parts:
                    rest = tuple(p for p in parts if p is not part)
                    yield from ((*found, *rest) for found in self.beside(part, iri))
            case Either(parts):
                for part in parts:
                    yield from self.beside(part, iri)

    # --- Patients of one limit --------------------------------------------------------------------

    def of(
        self, criterion: Criterion, tested: _Tested, user: Criterion | None, beside: tuple[Expression, ...]
    ) -> Iterator[Patient]:
        wanted = _Wanted()
        for each in tested.beside:
            self.describe(each, wanted)
        name = local_name(tested.test.prop)
        kind = self.kind(wanted.kinds)
        for facet, limit in ((facet, Decimal(number)) for facet, number in tested.test.limits):
            small = _SMALL["days"] if name.startswith("days") else _SMALL.get(name, _STEP)
            at = {"below": limit - small, "at": limit, "above": limit + small}
            words = f"{local_name(criterion.iri)} {name} {facet} {limit}"
            for route in self.routes(kind, name, wanted):
                sides: dict[str, tuple[list[tuple[str, Fact]], str]] = {}
                for situation, number in at.items():
                    truth = self.truth(
                        criterion.expression, kind, {**self.numbers(wanted, name), tested.test.prop: number}, wanted
                    )
                    sides[situation] = (self.facts(kind, name, number, route, wanted), "true" if truth else "not true")
                assert len({truth for _, truth in sides.values()}) == 2, f"{words}: all patients lie on one side"
                inside = next(n for s, n in at.items() if sides[s][1] == "true")
                sides["missing"] = self.without(kind, name, limit, route, wanted)
                if self.v.base_of[kind] == CG["Observation"].value:
                    hours = self.v.number(kind, "currencyHours", "24")
                    oldest = self.facts(kind, name, inside, route, wanted, hours)
                    sides["oldest"] = oldest, "true"
                    sides["stale"] = self.facts(kind, name, inside, route, wanted, hours + Decimal(1) / 60), "unknown"
                for situation, (facts, truth) in sides.items():
                    yield self.made(words, route, situation, facts, truth, criterion, user, beside)

    def made(
        self,
        words: str,
        route: str,
        situation: str,
        facts: list[tuple[str, Fact]],
        truth: str,
        criterion: Criterion,
        user: Criterion | None,
        beside: tuple[Expression, ...],
    ) -> Patient:
        """A patient with some facts and what a criterion wants beside them."""
        expected = []
        if truth != "unknown" or any(self.v.base_of[fact.kind] in _WITH_ATTRIBUTES for _, fact in facts):
            expected.append(Expected(criterion.iri, False, truth))
        if user is not None:
            expected.append(Expected(user.iri, True, "false" if truth == "unknown" and user.closed_world else truth))
        all_facts = list(facts)
        for each in beside:
            all_facts += self.patient(each)
        if not any(link == "hasTreatment" for link, _ in all_facts):
            all_facts += self.in_scope()
        settings = [fact for link, fact in all_facts if link == "hasSetting"]
        others = [(link, fact) for link, fact in all_facts if link != "hasSetting"]
        if settings:
            next(fact for link, fact in others if link == "hasTreatment").below += [("hasSetting", s) for s in settings]
        parts = [local_name(criterion.iri), *words.split()[1:], route, situation, *([local_name(user.iri)] if user else [])]
        iri = PATIENTS + "-".join("".join(c for c in part if c.isalnum() or c == ".") or "plain" for part in parts)
        body = " ;\n  ".join(f"cg:{link} {fact.turtle()}" for link, fact in others)
        document = f"@prefix cg: <{CG.iri}> .\n@prefix xsd: <{XSD.iri}> .\n\n<{iri}> a cg:Patient ;\n  {body} .\n"
        return Patient(iri, f"{words} in {route or 'its unit'}", situation, document, tuple(expected))


_QUANTITIES = {CG[name].value for name in ("Observation", "Setting")}
_WITH_ATTRIBUTES = {CG[name].value for name in ("Medication", "Order", "Finding")}
"""Facts of which a criterion is unknown where a number of theirs is not recorded; of a quantity only the patient lacks one."""
