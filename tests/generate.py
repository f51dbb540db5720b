"""Make patients for tests out of what a knowledge base says: its vocabulary, units, thresholds and criteria.

    texts = generate(knowledge, seed=1, n=300)        # one Turtle document for each patient

Nothing here knows a disease or a drug. Most facts are made to meet, or nearly meet, some criterion: numbers lie at, just
below and just above the thresholds in every accepted unit, times at the edges of currencies and sessions, and attributes
are left out now and then. The same seed gives the same patients. Without `broken` every fact conforms to the shapes;
with it each patient has one to three that do not.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from random import Random

import pyoxigraph as ox

from kbtool.criteria import Both, Criteria, Either, Expression, Named, Range, Some, Value
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, OWL, RDFS, XSD, local_name, text

AS_OF = "2026-02-10T12:00:00Z"
"""The as-of time for which patients are made."""

PATIENTS = "https://example.org/generated/"
"""Patients are named by this, the seed and a number."""

_TESTS = {"minInclusive": operator.ge, "minExclusive": operator.gt, "maxInclusive": operator.le, "maxExclusive": operator.lt}
_SMALLEST = Decimal("0.000000001")
_STEPS = [Decimal(step) for step in ("0", "0", "0.000000001", "0.0000004", "0.000001", "0.01", "0.1", "1")]


@dataclass
class Fact:
    """A node of facts: its class, the literals and terms stated on it, and facts below it."""

    kind: str
    stated: dict[str, str] = field(default_factory=dict)
    below: list[tuple[str, Fact]] = field(default_factory=list)

    def turtle(self) -> str:
        """The node as a Turtle blank node."""
        parts = [f"a <{self.kind}>", *(f"cg:{name} {value}" for name, value in self.stated.items())]
        parts += [f"cg:{link} {fact.turtle()}" for link, fact in self.below]
        return "[ " + " ; ".join(parts) + " ]"


@dataclass
class Vocabulary:
    """What of a knowledge base a generator needs.

    kinds: for each class of facts (observation, finding ...) the classes that can be stated. link: for each class of facts
    the property from the patient. limits: the thresholds by class, property and unit ("" for the canonical one).
    """

    knowledge: Knowledge
    criteria: dict[str, Expression] = field(default_factory=dict)
    of_patient: list[str] = field(default_factory=list)
    kinds: dict[str, list[str]] = field(default_factory=dict)
    link: dict[str, str] = field(default_factory=dict)
    limits: dict[tuple[str, str, str], set[Decimal]] = field(default_factory=dict)
    base_of: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, knowledge: Knowledge) -> Vocabulary:
        """Read it."""
        self = cls(knowledge)
        ordered = Criteria.read(knowledge.graph).ordered
        self.criteria = {c.iri: c.expression for c in ordered}
        self.of_patient = [c.iri for c in ordered if c.of_patient]
        for quad in knowledge.graph.quads_for_pattern(None, RDFS["subPropertyOf"], CG["hasFact"], None):
            base = knowledge.value(text(quad.subject), RDFS["range"])
            if base:
                self.link[base] = local_name(text(quad.subject))
        self.link.pop(CG["Fact"].value, None)
        for base in [*self.link, CG["Setting"].value]:
            below = self.below(base) - self.criteria.keys() - {base}
            self.kinds[base] = sorted(c for c in below if self._can_be_stated(base, c))
            self.base_of |= dict.fromkeys(self.kinds[base], base)
        for expression in self.criteria.values():
            self._collect(expression, frozenset(), "")
        return self

    def below(self, kind: str) -> set[str]:
        """A class and all below it."""
        found, waiting = set(), [kind]
        while waiting:
            iri = waiting.pop()
            if iri not in found:
                found.add(iri)
                above = self.knowledge.graph.quads_for_pattern(None, RDFS["subClassOf"], ox.NamedNode(iri), None)
                waiting += [q.subject.value for q in above if isinstance(q.subject, ox.NamedNode)]
        return found

    def instances(self, kind: str, of: str | None = None) -> list[str]:
        """The individuals of a class; of states those for a kind of fact."""
        found = self.knowledge.instances(CG[kind])
        return [i for i in found if of is None or of in self.knowledge.values(i, CG["stateOf"])]

    def units(self, kind: str) -> list[tuple[str, Decimal, Decimal]]:
        """Accepted units of a class with factor and offset."""
        conversions = self.knowledge.values(kind, CG["acceptsUnit"])
        return [(self._text(c, "ucum"), self.number(c, "factor", "1"), self.number(c, "offset", "0")) for c in conversions]

    def number(self, iri: str, name: str, default: str) -> Decimal:
        """A number stated on a term."""
        return Decimal(self.knowledge.value(iri, CG[name]) or default)

    def thresholds(self, kind: str, name: str, unit: str = "") -> list[Decimal]:
        """The thresholds of criteria for a class and those above it."""
        kinds = {kind, *self.above(kind)}
        return sorted(set().union(*(self.limits.get((k, name, unit), ()) for k in kinds)))

    def above(self, kind: str) -> set[str]:
        """All classes above a class."""
        found: set[str] = set()
        waiting = [kind]
        while waiting:
            for up in self.knowledge.values(waiting.pop(), RDFS["subClassOf"]):
                if up not in found:
                    found.add(up)
                    waiting.append(up)
        return found

    def range_limits(self, datatype: str) -> list[Decimal]:
        """The limits of a named datatype."""
        return [Decimal(number) for facet in _TESTS for number in self.knowledge.values(datatype, CG[facet])]

    def primitives(self, expression: Expression) -> set[str]:
        """Classes that can be stated and that an expression rests on at its own node."""
        match expression:
            case Named(iri):
                return self.primitives(self.criteria[iri]) if iri in self.criteria else {iri}
            case Both(parts) | Either(parts):
                return set().union(*(self.primitives(p) for p in parts))
        return set()

    def _can_be_stated(self, base: str, kind: str) -> bool:
        if base in (CG["Observation"].value, CG["Setting"].value):
            return bool(self.units(kind)) and self.knowledge.value(kind, CG["canonicalUnit"]) is not None
        return self.knowledge.value(kind, OWL["deprecated"]) is None

    def _text(self, iri: str, name: str) -> str:
        return self.knowledge.value(iri, CG[name]) or ""

    def _collect(self, expression: Expression, kinds: frozenset[str], unit: str) -> None:
        match expression:
            case Both(parts):
                for part in parts:
                    kinds |= self.primitives(part)
                    if isinstance(part, Value) and part.prop == CG["unit"].value:
                        unit = part.value.strip('"')
                for part in parts:
                    self._collect(part, kinds, unit)
            case Either(parts):
                for part in parts:
                    self._collect(part, kinds, unit)
            case Some(_, filler):
                self._collect(filler, frozenset(), "")
            case Range(prop, limits):
                name = local_name(prop)
                for kind in kinds:
                    for _, number in limits:
                        self.limits.setdefault((kind, name, unit if name == "value" else ""), set()).add(Decimal(number))


def holds(test: Range, number: Decimal) -> bool:
    """Whether a number lies in the range of a criterion."""
    inside = all(_TESTS[facet](number, Decimal(limit)) for facet, limit in test.limits)
    return inside != test.complement


def plain(number: Decimal) -> str:
    """A number as xsd:decimal or xsd:integer in Turtle."""
    text = format(number, "f")
    return text if "." in text else f"{text}.0"


def seeded(seed: int | str) -> Random:
    """Random numbers that are the same each time."""
    return Random(seed)  # noqa: S311


def generate(knowledge: Knowledge, seed: int, n: int, *, broken: bool = False, as_of: str = AS_OF) -> list[str]:
    """Turtle documents of n patients."""
    vocabulary = Vocabulary.read(knowledge)
    texts = []
    for number in range(n):
        random = seeded(f"{seed}/{number}/{broken}")
        maker = _Maker(vocabulary, random, datetime.fromisoformat(as_of))
        links = [f"cg:{link} {fact.turtle()}" for link, fact in maker.patient()]
        random.shuffle(links)
        name = f"{PATIENTS}{'broken' if broken else 'patient'}-{seed}-{number}"
        prefixes = f"@prefix cg: <{CG.iri}> .\n@prefix xsd: <{XSD.iri}> .\n\n"
        document = f"{prefixes}<{name}> a cg:Patient ;\n  " + " ;\n  ".join(links) + " .\n"
        for _ in range(random.randint(1, 3) if broken else 0):
            document = _break(document, random)
        texts.append(document)
    return texts


class _Maker:
    """Makes the facts of one patient."""

    def __init__(self, vocabulary: Vocabulary, random: Random, now: datetime) -> None:
        self.v, self.random, self.now = vocabulary, random, now
        self.facts: list[tuple[str, Fact]] = []
        self.treatments: list[Fact] = []

    def patient(self) -> list[tuple[str, Fact]]:
        """The facts of a patient, with the properties that link them."""
        random, v = self.random, self.v
        scopes = [text(q.object) for q in v.knowledge.graph.quads_for_pattern(None, CG["scope"], None, None)]
        if scopes and random.random() < 0.92:
            self.meet(v.criteria[random.choice(sorted(scopes))])
        self.sessions()
        for iri in random.sample(v.of_patient, min(len(v.of_patient), random.choice([1, 2, 3, 4, 6]))):
            self.meet(v.criteria[iri])
        for base, most in (("Observation", 5), ("Finding", 3), ("Medication", 2), ("Order", 2), ("Treatment", 1), ("Setting", 1)):
            kinds = v.kinds.get(CG[base].value)
            for _ in range(random.randint(0, most) if kinds else 0):
                self.add(random.choice(kinds or []), [])
        if not self.facts:
            self.add(random.choice(sorted(v.base_of)), [])
        return self.facts

    def meet(self, expression: Expression) -> None:
        """Facts with which a patient meets, or nearly meets, a criterion."""
        match expression:
            case Named(iri):
                if iri in self.v.criteria:
                    self.meet(self.v.criteria[iri])
            case Both(parts):
                for part in parts:
                    self.meet(part)
            case Either(parts):
                self.meet(self.random.choice(parts))
            case Some(_, filler):
                kinds: list[str] = []
                tests: list[Range | Value] = []
                self.describe(filler, kinds, tests)
                if kinds:
                    choice = sorted(k for k in self.v.below(kinds[-1]) if k in self.v.base_of)
                    if choice:
                        kind = kinds[-1] if kinds[-1] in choice and self.random.random() < 0.5 else self.random.choice(choice)
                        self.add(kind, tests)
                        if any(isinstance(e, Some) for e in _parts(filler, self.v.criteria)):
                            self.add(kind, [])

    def describe(self, filler: Expression, kinds: list[str], tests: list[Range | Value]) -> None:
        """The classes and tests of one way to meet the filler of a restriction."""
        match filler:
            case Named(iri):
                if iri in self.v.criteria:
                    self.describe(self.v.criteria[iri], kinds, tests)
                else:
                    kinds.append(iri)
            case Both(parts):
                for part in parts:
                    self.describe(part, kinds, tests)
            case Either(parts):
                self.describe(self.random.choice(parts), kinds, tests)
            case Range() | Value():
                tests.append(filler)

    def add(self, kind: str, tests: list[Range | Value]) -> None:
        """A fact of a class that meets tests, most of the time."""
        base = self.v.base_of[kind]
        if self.random.random() < 0.15:
            tests = []
        fact = Fact(kind)
        name = local_name(base)
        if name == "Setting":
            treatment = self.treatment()
            self.quantity(fact, tests)
            self.maybe(fact, "start", self.days(kind, tests), 0.7)
            treatment.below.append(("hasSetting", fact))
            return
        if name == "Observation":
            self.observation(fact, tests)
        elif name == "Finding":
            self.finding(fact, tests)
        elif name in ("Medication", "Treatment"):
            self.course_of(fact, tests)
        elif name == "Order":
            self.maybe(fact, "start", self.hours(self.random.choice([-48, -1, 1, 48])), 0.2)
            self.state(fact, base, 0.4)
        elif name == "Session":
            fact.stated["start"] = self.hours(2)
        if name in ("Medication", "Order"):
            self.dose(fact, tests)
        if name == "Treatment":
            self.treatments.append(fact)
        self.facts.append((self.v.link[base], fact))

    def treatment(self) -> Fact:
        """A treatment for a setting."""
        if not self.treatments:
            self.add(self.random.choice(self.v.kinds[CG["Treatment"].value]), [])
        return self.random.choice(self.treatments)

    # --- Attributes ---------------------------------------------------------------------------------

    def observation(self, fact: Fact, tests: list[Range | Value]) -> None:
        """Value, time, phase and state."""
        self.quantity(fact, tests)
        currency = self.v.number(fact.kind, "currencyHours", "24")
        settles = self.v.number(fact.kind, "settlesHours", "6")
        near = [Decimal(h) for h in ("0", "0.02", "0.5", "1", "2", "3", "4", "5", "6", "12")] + [
            settles,
            settles + Decimal("0.01"),
        ]
        edge = [currency, currency + Decimal("0.001"), currency * 2, currency - Decimal("0.001")]
        fact.stated["time"] = self.hours(self.random.choice(near * 3 + edge))
        self.phase(fact, 0.6)
        self.state(fact, CG["Observation"].value, 0.15)

    def finding(self, fact: Fact, tests: list[Range | Value]) -> None:
        """Onset, phase, state, courses and counts of sessions."""
        random = self.random
        hours = random.choice(["0", "0.3", "1", "3", "5.9", "6", "6.1", "10", "10.5", "30", "900"])
        self.maybe(fact, "onset", self.hours(Decimal(hours)), 0.7)
        self.phase(fact, 0.5)
        self.state(fact, CG["Finding"].value, 0.6)
        courses = self.v.instances("Course")
        if courses and random.random() < 0.25:
            fact.stated["course"] = " , ".join(f"<{c}>" for c in random.sample(courses, random.randint(1, min(2, len(courses)))))
        counts = [int(limit) for name in ("affectedSessions", "ofSessions") for limit in self.v.thresholds(fact.kind, name)]
        if counts and random.random() < 0.3:
            of = max(1, random.choice(counts) + random.choice([-1, 0, 1]))
            affected = min(of, max(0, random.choice(counts) + random.choice([-1, 0, 1])))
            fact.stated |= {"ofSessions": str(of), "affectedSessions": str(affected)}
        for test in tests:
            if isinstance(test, Value) and local_name(test.prop) == "relativePhase":
                kind = test.value.strip("<>")
                fitting = [p for p in self.v.instances("Phase") if self.v.knowledge.value(p, CG["phaseKind"]) == kind]
                if fitting and random.random() < 0.7:
                    fact.stated["phase"] = f"<{random.choice(fitting)}>"
            elif isinstance(test, Value) and local_name(test.prop) in ("course", "state"):
                fact.stated[local_name(test.prop)] = test.value
        in_progress = fact.stated.get("state") == f"<{CG['InProgress'].value}>"
        if "onset" in fact.stated and not in_progress and random.random() < 0.2:
            fact.stated["end"] = self.hours(Decimal(hours) / 2)

    def course_of(self, fact: Fact, tests: list[Range | Value]) -> None:
        """Start, change of dose and end of a treatment or medication."""
        random = self.random
        unrecorded = any(isinstance(t, Value) and local_name(t.prop) == "hasUnrecorded" for t in tests)
        days = self.day_number(fact.kind, tests)
        if not unrecorded and random.random() < 0.8:
            fact.stated["start"] = self.hours(days * 24)
        if local_name(self.v.base_of[fact.kind]) == "Medication" and random.random() < 0.4:
            changed = self.day_number(fact.kind, tests)
            fact.stated["doseSince"] = self.hours((min(changed, days) if "start" in fact.stated else changed) * 24)
        if random.random() < 0.15:
            ends = [Decimal(-24), *([Decimal(0), Decimal("0.1"), days * 12] if days >= 1 else [])]
            fact.stated["end"] = self.hours(random.choice(ends))

    def dose(self, fact: Fact, tests: list[Range | Value]) -> None:
        """A daily dose around the thresholds, or none."""
        ordered = self.v.knowledge.value(fact.kind, CG["ordersMedication"])
        substance = ordered or fact.kind
        units = self.v.units(substance)
        if not units or self.random.random() < 0.2:
            return
        unit, factor, offset = self.random.choice(units)
        limits = [limit for kind in (fact.kind, substance) for limit in self.v.thresholds(kind, "canonicalDailyDose")]
        for name in ("doseCeiling", "doseStep"):
            for datatype in self.v.knowledge.values(substance, CG[name]):
                limits += self.v.range_limits(datatype)
        limits += [a + b for a in limits for b in limits] + [Decimal(5)]
        tested = [t for t in tests if isinstance(t, Range) and local_name(t.prop) == "canonicalDailyDose"]
        for _ in range(12):
            dose = self.near(self.random.choice(limits)) / factor - offset
            dose = max(dose, Decimal("0.1")).quantize(_SMALLEST).normalize()
            if all(holds(t, dose * factor) for t in tested):
                break
        fact.stated |= {"dailyDose": plain(dose), "unit": f'"{unit}"'}

    def quantity(self, fact: Fact, tests: list[Range | Value]) -> None:
        """Value and unit, plausible, near a threshold, and within the tests if that can be had by trying."""
        wanted = next((t.value for t in tests if isinstance(t, Value) and local_name(t.prop) == "unit"), None)
        units = self.v.units(fact.kind)
        lowest = self.v.number(fact.kind, "plausibleMinimum", "0")
        highest = self.v.number(fact.kind, "plausibleMaximum", "1000")
        ranges = [t for t in tests if isinstance(t, Range)]
        best: tuple[Decimal, str] | None = None
        for _ in range(25):
            unit, factor, offset = self.random.choice([u for u in units if f'"{u[0]}"' == wanted] or units)
            limits = self.v.thresholds(fact.kind, "value", unit)
            limits += [limit / factor - offset for limit in self.v.thresholds(fact.kind, "canonicalValue")]
            if limits and self.random.random() < 0.8:
                value = self.near(self.random.choice(limits))
            else:
                value = (lowest + (highest - lowest) * Decimal(self.random.randint(0, 1000)) / 1000) / factor - offset
            places = self.random.choice(["1", "0.1", "0.01", "0.001", "0.000001", "0.000000001"])
            value = value.quantize(Decimal(places) if self.random.random() < 0.5 else _SMALLEST)
            canonical = (value + offset) * factor
            if not lowest <= canonical <= highest or abs(value) >= 10**9:
                continue
            best = (value, unit)
            numbers = {CG["value"].value: value, CG["canonicalValue"].value: canonical}
            if all(holds(t, numbers[t.prop]) for t in ranges if t.prop in numbers):
                break
        if best is None:
            unit, factor, offset = units[0]
            best = ((lowest + highest) / 2 / factor - offset).quantize(Decimal("0.001")), unit
        value, unit = best
        whole = value == value.to_integral_value() and self.random.random() < 0.5
        text = str(int(value)) if whole else plain(value.normalize())
        fact.stated |= {"value": text + ("0" if "." in text and self.random.random() < 0.2 else ""), "unit": f'"{unit}"'}

    def near(self, limit: Decimal) -> Decimal:
        """A number at, just below or just above another."""
        return limit + self.random.choice(_STEPS) * self.random.choice([-1, 1])

    def day_number(self, kind: str, tests: list[Range | Value]) -> Decimal:
        """Days before now, near a threshold."""
        limits = [limit for name in ("daysSinceStart", "daysAtDose") for limit in self.v.thresholds(kind, name)]
        tested = [t for t in tests if isinstance(t, Range) and local_name(t.prop) in ("daysSinceStart", "daysAtDose")]
        days = Decimal(1)
        for _ in range(12):
            edge = self.random.choice([Decimal(0), Decimal(1) / 86400, Decimal(1), Decimal(-1) / 86400, Decimal(-1)])
            days = max(Decimal(0), self.random.choice([*limits, *limits, Decimal(1), Decimal(400)]) + edge)
            if all(holds(t, days) for t in tested):
                break
        return days

    def days(self, kind: str, tests: list[Range | Value]) -> str:
        return self.hours(self.day_number(kind, tests) * 24)

    def phase(self, fact: Fact, share: float) -> None:
        phases = self.v.instances("Phase")
        if phases and self.random.random() < share:
            fact.stated["phase"] = f"<{self.random.choice(phases)}>"

    def state(self, fact: Fact, base: str, share: float) -> None:
        states = self.v.instances("State", base)
        if states and self.random.random() < share:
            fact.stated["state"] = f"<{self.random.choice(states)}>"

    def maybe(self, fact: Fact, name: str, value: str, share: float) -> None:
        if self.random.random() < share:
            fact.stated[name] = value

    def sessions(self) -> None:
        """No session, or one or two that run, are open, have ended or are to come."""
        kinds = self.v.kinds.get(CG["Session"].value)
        if not kinds:
            return
        kind = self.random.choice(kinds)
        longest = self.v.number(kind, "plausibleMaximum", "600") / 60
        aftermath = self.v.number(kind, "aftermathHours", "6")
        hour = Decimal(1)
        shapes: list[tuple[int, list[Decimal], bool]] = [
            (2, [0 * hour, Decimal("0.7"), 3 * hour, longest], False),
            (1, [longest + Decimal("0.001"), 3 * longest], False),
            (1, [-3 * hour], False),
            (1, [-1 * hour], True),
            (3, [0 * hour, Decimal("0.5"), aftermath, aftermath + Decimal("0.01"), 20 * hour], True),
            (1, [48 * hour], True),
        ]
        for _ in range(self.random.choice([0, 0, 1, 1, 1, 2])):
            _, edges, has_end = self.random.choices(shapes, [weight for weight, _, _ in shapes])[0]
            edge, length = self.random.choice(edges), min(longest, self.random.choice([2 * hour, 4 * hour, longest]))
            fact = Fact(
                kind, {"start": self.hours(edge + length), "end": self.hours(edge)} if has_end else {"start": self.hours(edge)}
            )
            self.facts.append((self.v.link[CG["Session"].value], fact))

    def hours(self, before: Decimal | int) -> str:
        """The time so many hours before now, in one of several zones."""
        moment = self.now - timedelta(seconds=int(Decimal(before) * 3600))
        zone = self.random.choice(["Z", "Z", "Z", "+01:00", "-05:30", "+14:00"])
        if zone != "Z":
            hours, minutes = int(zone[1:3]), int(zone[4:])
            shift = timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
            moment = moment.astimezone(timezone(shift))
        return f'"{moment.strftime("%Y-%m-%dT%H:%M:%S")}{zone}"^^xsd:dateTime'


def _parts(expression: Expression, criteria: dict[str, Expression]) -> Iterator[Expression]:
    match expression:
        case Named(iri) if iri in criteria:
            yield from _parts(criteria[iri], criteria)
        case Both(parts) | Either(parts):
            for part in parts:
                yield from _parts(part, criteria)
        case _:
            yield expression


_NUMBER = r"cg:(value|dailyDose) (-?[0-9.]+)"
_TIME = r'cg:(time|onset|start|end) "([^"]+)"\^\^xsd:dateTime'
_BREAKS: list[tuple[str, str]] = [
    (r'cg:unit "[^"]*"', 'cg:unit "furlong"'),
    (r' ; cg:unit "[^"]*"', ""),
    (r'cg:unit "([^"]*)"', r'cg:unit "\1"@en'),
    (_NUMBER, r"cg:\1 \g<2>e0"),
    (_NUMBER, r'cg:\1 "\2"'),
    (_NUMBER, r'cg:\1 "<\2"'),
    (_NUMBER, rf'cg:\1 "NaN"^^<{XSD["double"].value}>'),
    (_NUMBER, rf'cg:\1 "INF"^^<{XSD["double"].value}>'),
    (_NUMBER, r"cg:\1 \2 , 77.7"),
    (_NUMBER, r"cg:\1 123456789012345.5"),
    (_NUMBER, r"cg:\1 -5.0"),
    (r" ; cg:value -?[0-9.]+", ""),
    (r' ; cg:time "[^"]+"\^\^xsd:dateTime', ""),
    (_TIME, r'cg:\1 "\2"'),
    (_TIME, r'cg:\1 "2026-02-10T06:00:00"^^xsd:dateTime'),
    (_TIME, r'cg:\1 "2026-02-10"^^xsd:date'),
    (_TIME, r'cg:\1 "2026-02-30T06:00:00Z"^^xsd:dateTime'),
    (r'cg:(time|onset) "[^"]+"\^\^xsd:dateTime', r'cg:\1 "2031-01-01T00:00:00Z"^^xsd:dateTime'),
    (r'cg:end "[^"]+"\^\^xsd:dateTime', 'cg:end "2001-01-01T00:00:00Z"^^xsd:dateTime'),
    (r" a <[^>]+> ;", " a <https://example.org/generated/NoSuchClass> ;"),
    (r"\[ a <([^>]+)> ;", rf"[ a <{CG['Fact'].value}> ;"),
    (r"cg:phase <[^>]+>", f"cg:phase <{CG['Final'].value}>"),
    (r"cg:state <[^>]+>", f"cg:state <{CG['BeforeSession'].value}>"),
    (r"cg:affectedSessions [0-9]+", "cg:affectedSessions 99"),
    (r" ; cg:ofSessions [0-9]+", ""),
    (r"cg:has(Finding|Medication|Observation|Order) \[", r'cg:has\1 "text" , ['),
    (r" ; cg:unit", " ; cg:uint"),
]


def _break(document: str, random: Random) -> str:
    """Break one fact, in the way that is drawn among those that the document allows."""
    head, body = document.split("a cg:Patient", 1)
    for pattern, replacement in random.sample(_BREAKS, len(_BREAKS)):
        found = list(re.finditer(pattern, body))
        if found:
            match = random.choice(found)
            return f"{head}a cg:Patient{body[: match.start()]}{match.expand(replacement)}{body[match.end() :]}"
    return document
