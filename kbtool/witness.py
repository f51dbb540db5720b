"""Make patients of facts: the cases on which rules are checked, and the witnesses of what is wrong with them.

The patients are only proposals; the engine judges each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice, product

from kbtool.criteria import Range, Value
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, XSD, local_name
from kbtool.ways import Need, Way, Ways

AS_OF = "2026-01-15T12:00:00Z"
"""The as-of time of every witness."""

_STATED = {
    "hasActiveFinding": "hasFinding",
    "hasCurrentMedication": "hasMedication",
    "hasCurrentTreatment": "hasTreatment",
    "hasActiveOrder": "hasOrder",
    "hasRunningSession": "hasSession",
    "hasOpenSession": "hasSession",
    "hasEligible": "hasObservation",
    "hasCurrent": "hasObservation",
}
"""What a sender states, for each property that prepare derives from it."""


@dataclass
class Fact:
    """A fact of a patient: its class, the numbers that tests are about, and literals and terms in Turtle by property."""

    role: str
    kind: str
    numbers: dict[str, Decimal] = field(default_factory=dict)
    unit: str | None = None
    stated: dict[str, str] = field(default_factory=dict)
    unrecorded: set[str] = field(default_factory=set)
    twin: Decimal | None = None


@dataclass
class Case:
    """A patient to be, as facts."""

    facts: list[Fact]


class Patients:
    """Makes patients who have the facts of a way."""

    def __init__(self, ways: Ways, as_of: str = AS_OF) -> None:
        self.ways, self.knowledge = ways, ways.knowledge
        self.now = datetime.fromisoformat(as_of)

    def cases(self, way: Way, ranges: dict[str, list[Range]], concerned: set[str] | None = None) -> Iterator[Case]:
        """Patients who have the facts of a way, one for each combination of cells that passes its tests.

        ranges: by class, the numeric tests at whose limits the cells end. concerned: classes whose numbers matter here; of
        the others one cell is enough. None means all.
        """
        choices = []
        for need in way:
            kind = self.ways.kind(need) or ""
            found = self.facts(need, ranges.get(kind, []))
            choices.append(list(found if concerned is None or kind in concerned else islice(found, 1)))
        return (Case(list(combination)) for combination in product(*choices))

    def facts(self, need: Need, ranges: list[Range]) -> Iterator[Fact]:
        """Facts that meet a need: one for each combination of cells of its numbers."""
        kind = self.ways.kind(need)
        if kind is None:
            return
        if any(n.prop == "conflictsWith" for n in need.nested):
            yield from self._conflicting()
            return
        unit = next((t.value.strip('"') for t in need.tests if isinstance(t, Value) and local_name(t.prop) == "unit"), None)
        tested = [t for t in need.tests if isinstance(t, Range)]
        names = {local_name(t.prop) for t in tested}
        if need.prop == "hasEligible":
            names = {"value"} if unit else {"canonicalValue"}
        options: list[list[tuple[str, Decimal]]] = []
        for name in sorted(names):
            numbers = self.ways.cells(kind, name, unit, [*tested, *ranges])
            options.append([(name, n) for n in numbers if self.ways.meets(kind, name, unit, n, tested)])
        stated, unrecorded = self._stated(need)
        for numbers_of in product(*options):
            yield Fact(need.prop, kind, dict(numbers_of), unit, dict(stated), set(unrecorded))

    def values(self, kind: str, ranges: list[Range]) -> list[Fact]:
        """An eligible quantity of a class in every cell, in the canonical unit and in each unit that a threshold is about."""
        units = {None, *(u for u in self._units(kind) if any(local_name(t.prop) == "value" for t in ranges))}
        found = []
        for unit in sorted(units, key=str):
            name = "value" if unit else "canonicalValue"
            found += [Fact("hasEligible", kind, {name: n}, unit) for n in self.ways.cells(kind, name, unit, ranges)]
        return found

    def _units(self, kind: str) -> list[str]:
        conversions = self.knowledge.values(kind, CG["acceptsUnit"])
        return [unit for c in conversions if (unit := self.knowledge.value(c, CG["ucum"]))]

    def _conflicting(self) -> Iterator[Fact]:
        for need in (need for ways in list(self.ways.met.values()) for way in ways for need in way):
            kind = self.ways.kind(need) if need.prop == "hasEligible" else None
            tests = [t for t in need.tests if isinstance(t, Range) and local_name(t.prop) == "canonicalValue"]
            cells = self.ways.cells(kind, "canonicalValue", None, tests) if kind and tests and self.ways.base(kind) else []
            if len(cells) > 1 and kind and CG["Observation"].value in self.ways.above(kind):
                yield Fact("hasEligible", kind, {"canonicalValue": cells[0]}, twin=cells[-1])
                return

    def _stated(self, need: Need) -> tuple[dict[str, str], set[str]]:
        stated: dict[str, str] = {}
        unrecorded: set[str] = set()
        for test in need.tests:
            if isinstance(test, Value):
                name = local_name(test.prop)
                if name == "relativePhase":
                    stated["phase"] = f"<{self.phase(test.value.strip('<>'))}>"
                elif name == "hasUnrecorded":
                    unrecorded.add(local_name(test.value.strip("<>")))
                elif name != "unit":
                    stated[name] = test.value
        return stated, unrecorded

    def phase(self, kind: str) -> str | None:
        """A phase of a kind."""
        fitting = (p for p in self.knowledge.instances(CG["Phase"]) if self.knowledge.value(p, CG["phaseKind"]) == kind)
        return next(fitting, None)

    def turtle(self, case: Case, name: str) -> str:
        """A case as facts in Turtle, one patient with the IRI that is given."""
        return _Writer(self, case).turtle(name)


class _Writer:
    """Writes one case; knows when its sessions began and which of its facts others lean on."""

    def __init__(self, patients: Patients, case: Case) -> None:
        self.patients, self.ways, self.knowledge, self.case = patients, patients.ways, patients.knowledge, case
        self.now = patients.now
        self.began = Decimal(0)
        for fact in case.facts:
            if fact.role in ("hasRunningSession", "hasOpenSession"):
                self.began = max(self.began, self._session_age(fact))

    def turtle(self, name: str) -> str:
        links, settings = [], []
        for fact in self._with_medications():
            if CG["Setting"].value in self.ways.above(fact.kind):
                settings.append(f"cg:hasSetting {self._node(fact)}")
            else:
                links += [f"cg:{self._link(fact)} {self._node(one)}" for one in self._twins(fact)]
        if settings:
            place = next((n for n, link in enumerate(links) if link.startswith("cg:hasTreatment [ ")), None)
            inner = " ; ".join(settings)
            if place is None:
                kind = next(k for k in self.ways.below(CG["Treatment"].value) if k != CG["Treatment"].value)
                links.append(f"cg:hasTreatment [ a <{kind}> ; {inner} ]")
            else:
                links[place] = links[place].removesuffix(" ]") + f" ; {inner} ]"
        body = "".join(f" ;\n  {link}" for link in links)
        text = f"<{name}> a cg:Patient{body} .\n"
        return _shortened(text, self.knowledge)

    def _with_medications(self) -> list[Fact]:
        """The facts, with the medication that an order's margin of time or dose is about, where it is not stated."""
        facts = list(self.case.facts)
        for fact in self.case.facts:
            if fact.role == "hasActiveOrder" and "daysAtDose" in fact.numbers:
                substance = self.knowledge.value(fact.kind, CG["ordersMedication"])
                if substance and not any(f.kind == substance for f in facts):
                    facts.append(Fact("hasCurrentMedication", substance, {"daysAtDose": fact.numbers["daysAtDose"]}))
        return facts

    def _link(self, fact: Fact) -> str:
        return _STATED.get(fact.role, fact.role)

    def _twins(self, fact: Fact) -> list[Fact]:
        return [fact] if fact.twin is None else [fact, replace(fact, numbers={"canonicalValue": fact.twin})]

    def _node(self, fact: Fact) -> str:
        parts = [f"a <{fact.kind}>", *(f"cg:{name} {value}" for name, value in (fact.stated | self._computed(fact)).items())]
        return "[ " + " ; ".join(parts) + " ]"

    def _computed(self, fact: Fact) -> dict[str, str]:
        link = self._link(fact)
        if link == "hasObservation":
            return self._quantity(fact)
        if link == "hasSession":
            return {"start": self._hours(self._session_age(fact))}
        if link in ("hasTreatment", "hasMedication"):
            return self._course(fact) | (self._dose(fact) if link == "hasMedication" else {})
        if link == "hasOrder":
            return self._dose(fact)
        if "recentlyAffected" in fact.numbers:
            number = str(int(fact.numbers["recentlyAffected"]))
            return {"affectedSessions": number, "ofSessions": str(max(1, int(number)))}
        return {}

    def _quantity(self, fact: Fact) -> dict[str, str]:
        unit = fact.unit or self.knowledge.value(fact.kind, CG["canonicalUnit"])
        number = fact.numbers.get("value", fact.numbers.get("canonicalValue", Decimal(1)))
        stated = {"value": _plain(number), "unit": f'"{unit}"'}
        if CG["Setting"].value in self.ways.above(fact.kind):
            return stated
        phase = self.patients.phase(CG["BeforeSession"].value)
        return stated | {"time": self._hours(self.began + Decimal("0.5"))} | ({"phase": f"<{phase}>"} if phase else {})

    def _session_age(self, fact: Fact) -> Decimal:
        longest = self.ways.number(fact.kind, "plausibleMaximum", "600") / 60
        return longest + 1 if fact.role == "hasOpenSession" else Decimal("0.5")

    def _course(self, fact: Fact) -> dict[str, str]:
        since = max((fact.numbers[d] for d in ("daysSinceStart", "daysOfUse") if d in fact.numbers), default=None)
        stated = {}
        if "StartDate" not in fact.unrecorded:
            stated["start"] = self._hours(
                24 * (since if since is not None else max(Decimal(400), fact.numbers.get("daysAtDose", Decimal(0))))
            )
        if "daysAtDose" in fact.numbers and "TimeAtDose" not in fact.unrecorded:
            stated["doseSince"] = self._hours(24 * fact.numbers["daysAtDose"])
        return stated

    def _dose(self, fact: Fact) -> dict[str, str]:
        substance = self.knowledge.value(fact.kind, CG["ordersMedication"]) or fact.kind
        unit = self.knowledge.value(substance, CG["canonicalUnit"])
        if unit is None or "DailyDose" in fact.unrecorded:
            return {}
        numbers, dose = fact.numbers, self.ways.ceiling(substance) / 2
        if "doseIncrease" in numbers:
            dose = numbers["doseIncrease"] + self._present(substance)
        for name in ("totalDailyDose", "canonicalDailyDose"):
            dose = numbers.get(name, dose)
        if "doseMargin" in numbers:
            dose = self.ways.ceiling(substance) - numbers["doseMargin"]
        return {"dailyDose": _plain(dose), "unit": f'"{unit}"'}

    def _present(self, substance: str) -> Decimal:
        """What the patient takes of a substance; the medication of `_with_medications` has the default dose."""
        taken = [f for f in self._with_medications() if f.kind == substance and self._link(f) == "hasMedication"]
        return sum((Decimal(self._dose(f).get("dailyDose", "0")) for f in taken), Decimal(0))

    def _hours(self, before: Decimal) -> str:
        moment = self.now - timedelta(seconds=int(before * 3600))
        return f'"{moment.strftime("%Y-%m-%dT%H:%M:%SZ")}"^^xsd:dateTime'


def _shortened(text: str, knowledge: Knowledge) -> str:
    used = []
    for prefix, uri in sorted((knowledge.prefixes | {"cg": CG.iri, "xsd": XSD.iri}).items()):
        short = _prefixed(text, prefix, uri)
        if short != text or f"{prefix}:" in text:
            used.append(f"@prefix {prefix}: <{uri}> .\n")
            text = short
    return "".join(used) + "\n" + text


def _prefixed(text: str, prefix: str, uri: str) -> str:
    return re.sub(rf"<{re.escape(uri)}([A-Za-z0-9_-]+)>", rf"{prefix}:\1", text)


def _plain(number: Decimal) -> str:
    text = format(number.normalize(), "f")
    return text if "." in text else f"{text}.0"
