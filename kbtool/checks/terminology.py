"""Check codes and units: is each code written as its system writes codes, does it mean what its class means, is each unit
valid, and does each conversion factor agree with the units and with the molar mass of the substance?

What is known of a code system (cg:CodeSystem) and of a substance (cg:substanceFormula, cg:charge) is data. The display of a
code stands in for the terminology itself, which is not there to be asked: words are compared, in no language but the one
that labels and displays share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from math import isclose

import pyoxigraph as ox

from kbtool.checks.model import CannotCheckError, Context, Finding
from kbtool.checks.units import Conversion, ConversionError, Substance, SubstanceError, Units
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, OWL, RDFS, SKOS, text

EXACT = 1e-6
"""How far a factor between units of one kind may be off, relative to its size: as far as six written digits are."""
ROUNDED = 1e-3
"""How far a factor that rests on a molar mass may be off: published factors are rounded to three digits or more."""

_UNIT_PROPERTIES = ("ucum", "canonicalUnit", "suspectUnit", "expectsUnit", "exampleUnit")
_WORDS_WITHOUT_MEANING = {
    *("an", "and", "as", "at", "by", "due", "elsewhere", "for", "from", "in", "is", "not", "of", "on", "or", "other", "that"),
    *("the", "to", "unspecified", "with", "without"),
}


def terminology(context: Context) -> Iterator[Finding]:
    """Check codes, units and conversions. See shapes/checks.ttl for what each finding means.

    Raises CannotCheckError where a library for units or check digits is not installed.
    """
    units = Units()
    yield from _Codes(context, units).findings()
    yield from _Conversions(context, units).findings()


# --- Codes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _System:
    """A code system: how its codes are written, and which words of its displays say nothing or narrow the rest."""

    iri: str
    patterns: list[str]
    check_digits: list[str]
    common: frozenset[str]
    narrowing: frozenset[str]


@dataclass(frozen=True)
class _Code:
    """A code: its IRI, system, notation, display, and whether it was verified."""

    iri: str
    system: str
    notation: str
    display: str
    verified: bool


class _Codes:
    """Checks codes."""

    def __init__(self, context: Context, units: Units) -> None:
        self.context, self.units = context, units
        self.knowledge = context.knowledge
        self.digits = _check_digits()

    def findings(self) -> Iterator[Finding]:
        for system in self.systems.values():
            yield from self._system(system)
        for code in self.codes:
            yield from self._written(code)
            yield from self._kind_of_unit(code)
            for owner in self.owners("hasCode", code.iri):
                yield from self._meaning(code, owner)
            yield from self._wider(code)

    @cached_property
    def systems(self) -> dict[str, _System]:
        """The code systems that are described, by the IRI that codes give."""
        found: dict[str, _System] = {}
        for iri in self.knowledge.instances(CG["CodeSystem"]):
            patterns, digits, common, narrowing = (
                self.knowledge.values(iri, CG[name]) for name in ("codePattern", "checkDigit", "commonWord", "narrowingWord")
            )
            system = _System(iri, patterns, digits, _normal(common), _normal(narrowing))
            found |= dict.fromkeys(self.knowledge.values(iri, CG["systemIri"]), system)
        return found

    @cached_property
    def codes(self) -> list[_Code]:
        """The codes that are written completely; shapes find the others."""
        found = []
        for iri in self.knowledge.instances(CG["Code"]):
            system, notation, display, verified = (
                self.knowledge.value(iri, term) for term in (CG["codeSystem"], SKOS["notation"], CG["display"], CG["verified"])
            )
            if system is not None and notation is not None and display is not None:
                found.append(_Code(iri, system, notation, display, verified == "true"))
        return found

    def owners(self, link: str, code: str) -> list[str]:
        """The classes that a code is linked from."""
        return sorted(owner for owner, target in self.links[link] if target == code)

    @cached_property
    def links(self) -> dict[str, list[tuple[str, str]]]:
        """For hasCode and broadMatch the classes and their codes."""
        terms = {"hasCode": CG["hasCode"], "broadMatch": SKOS["broadMatch"]}
        return {
            name: [
                (q.subject.value, text(q.object))
                for q in self.knowledge.graph.quads_for_pattern(None, term, None, None)
                if isinstance(q.subject, ox.NamedNode)
            ]
            for name, term in terms.items()
        }

    @cached_property
    def kinds(self) -> _Kinds:
        return _Kinds(self.knowledge)

    def _system(self, system: _System) -> Iterator[Finding]:
        for name in system.check_digits:
            if name not in self.digits:
                known = " and ".join(sorted(self.digits))
                yield _finding("CodeSystemReadable", system.iri, f"The check digit {name!r} is not known; known are {known}.")
        for pattern in system.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                yield _finding("CodeSystemReadable", system.iri, f"The pattern {pattern} cannot be read: {error}.")

    def _written(self, code: _Code) -> Iterator[Finding]:
        """Whether a code is written as its system writes codes, and was verified."""
        if not code.verified:
            yield _finding("CodeVerified", code.iri, f"{code.notation} ({code.display}) was not seen in a source.")
        system = self.systems.get(code.system)
        if system is None:
            message = f"No cg:CodeSystem describes <{code.system}>, so that {code.notation} cannot be checked."
            yield _finding("CodeSystemDescribed", code.iri, message)
            return
        label = self.context.label(system.iri)
        for pattern in system.patterns:
            if _compiles(pattern) and not re.fullmatch(pattern, code.notation):
                yield _finding("CodeForm", code.iri, f"{code.notation} is not written like a code of {label}: {pattern}.")
        number = re.sub(r"\D", "", code.notation)
        for name in system.check_digits:
            if name in self.digits and not self.digits[name](number):
                yield _finding(
                    "CodeCheckDigit", code.iri, f"The check digit of {code.notation} ({code.display}) is wrong for {label}."
                )

    def _kind_of_unit(self, code: _Code) -> Iterator[Finding]:
        """Whether the units of a code measure what its display says."""
        for kind in self.knowledge.instances(CG["CodeProperty"]):
            marker, example = (self.knowledge.value(kind, CG[name]) for name in ("marker", "exampleUnit"))
            systems = [iri for system in self.knowledge.values(kind, CG["ofSystem"]) for iri in self._iris(system)]
            if not marker or not example or code.system not in systems or marker not in code.display:
                continue
            for unit in self.knowledge.values(code.iri, CG["expectsUnit"]):
                if not self.units.fault(unit) and not self.units.same_kind(unit, example):
                    message = f"{code.display!r} is measured in units like {example}, and the code expects {unit}."
                    yield _finding("CodeUnit", code.iri, message)
            for owner in self.owners("hasCode", code.iri):
                accepted = _accepted(self.knowledge, owner)
                if not any(not self.units.fault(unit) and self.units.same_kind(unit, example) for unit in accepted):
                    message = (
                        f"{code.display!r} is measured in units like {example}, and {self.context.label(owner)} accepts none."
                    )
                    yield _finding("CodeUnit", code.iri, message, owner)

    def _iris(self, system: str) -> list[str]:
        return self.knowledge.values(system, CG["systemIri"])

    def _meaning(self, code: _Code, owner: str) -> Iterator[Finding]:
        """Whether a code means what its class means, as far as words tell."""
        system = self.systems.get(code.system)
        common = system.common if system else frozenset()
        display = _words([code.display]) - common
        label = self.context.label(owner)
        what = f"{code.notation} means {code.display!r}"
        own = self.kinds.words(owner)
        described = own | _words(self.knowledge.values(owner, SKOS["definition"]))
        if display and not display & (described - common):
            message = f"{what}, which shares no word with label, other labels and definition of {label}."
            yield _finding("CodeLabel", code.iri, message, owner)
        best = 1.0 if display <= described else self.kinds.likeness(owner, display)
        better = {
            other: likeness for other in self.kinds.rivals(owner) if (likeness := self.kinds.likeness(other, display)) > best
        }
        if better:
            other = max(better, key=lambda iri: (better[iri], iri))
            message = f"{what}, which is more like {self.context.label(other)} than like its class {label}."
            yield _finding("CodeOtherClass", code.iri, message, owner, other)
        narrow = sorted((display & system.narrowing) - described) if system else []
        if narrow:
            message = f"{what}: {', '.join(narrow)} makes it narrower than {label}, which does not say so."
            yield _finding("CodeNarrower", code.iri, message, owner)

    def _wider(self, code: _Code) -> Iterator[Finding]:
        """Whether a code that a class has is said to mean more than another class that is no kind of it."""
        for narrower in self.owners("broadMatch", code.iri):
            for owner in self.owners("hasCode", code.iri):
                if owner != narrower and owner not in self.kinds.above(narrower):
                    message = (
                        f"{code.notation} ({code.display}) is read as {self.context.label(owner)} and is said to mean more than "
                        f"{self.context.label(narrower)}, which is no kind of {self.context.label(owner)}."
                    )
                    yield _finding("CodeWider", code.iri, message, owner, narrower)


class _Kinds:
    """Classes of facts: their words, and which stand above which."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self._supers: dict[str, set[str]] = {}
        for q in knowledge.graph.quads_for_pattern(None, RDFS["subClassOf"], None, None):
            if isinstance(q.subject, ox.NamedNode) and isinstance(q.object, ox.NamedNode):
                self._supers.setdefault(q.subject.value, set()).add(q.object.value)
        self._above: dict[str, set[str]] = {}
        self._labels: dict[str, list[frozenset[str]]] = {}

    def above(self, iri: str) -> set[str]:
        """The classes above a class, stated or by way of others."""
        if iri not in self._above:
            waiting = [iri]
            found: set[str] = set()
            while waiting:
                new = self._supers.get(waiting.pop(), set()) - found
                found |= new
                waiting += new
            self._above[iri] = found
        return self._above[iri]

    def labels(self, iri: str) -> list[frozenset[str]]:
        """The words of each label of a class."""
        if iri not in self._labels:
            texts = [one for term in (SKOS["prefLabel"], SKOS["altLabel"]) for one in self.knowledge.values(iri, term)]
            self._labels[iri] = [_words([one]) for one in texts]
        return self._labels[iri]

    def words(self, iri: str) -> frozenset[str]:
        """The words of all labels of a class."""
        return frozenset().union(*self.labels(iri))

    def likeness(self, iri: str, words: frozenset[str]) -> float:
        """How much of the words of one of its labels and of some words is common to both, from 0 to 1."""
        return max((len(label & words) / len(label | words) for label in self.labels(iri) if label | words), default=0.0)

    def rivals(self, iri: str) -> list[str]:
        """The classes of the same kind of fact that stand neither above nor below a class."""
        related = {iri, *self.above(iri)}
        same = self._of_kind.get(self._kind(iri), [])
        return [other for other in same if other not in related and iri not in self.above(other)]

    @cached_property
    def _of_kind(self) -> dict[frozenset[str], list[str]]:
        found: dict[frozenset[str], list[str]] = {}
        for iri in self._named:
            found.setdefault(self._kind(iri), []).append(iri)
        return found

    @cached_property
    def _named(self) -> list[str]:
        facts = [iri for iri in self.knowledge.instances(OWL["Class"]) if CG["Fact"].value in self.above(iri)]
        return [iri for iri in facts if not self.knowledge.values(iri, OWL["equivalentClass"])]

    def _kind(self, iri: str) -> frozenset[str]:
        """The kind of fact: the classes of the guideline language above the class."""
        return frozenset(above for above in self.above(iri) if above.startswith(CG.iri))


# --- Units and conversions ------------------------------------------------------------------------


class _Conversions:
    """Checks units and conversions."""

    def __init__(self, context: Context, units: Units) -> None:
        self.context, self.units, self.knowledge = context, units, context.knowledge

    def findings(self) -> Iterator[Finding]:
        yield from self._valid()
        for owner in self._with("acceptsUnit"):
            yield from self._class(owner)
        for owner in self._with("ratioNumerator"):
            yield from self._ratio(owner)
        for owner in self._with("differenceMinuend"):
            yield from self._difference(owner)

    def _valid(self) -> Iterator[Finding]:
        for name in _UNIT_PROPERTIES:
            for q in sorted(self.knowledge.graph.quads_for_pattern(None, CG[name], None, None), key=str):
                unit = text(q.object)
                fault = self.units.fault(unit)
                if fault and isinstance(q.subject, ox.NamedNode):
                    yield _finding("UnitValid", q.subject.value, f"{unit!r} is not a valid UCUM unit: {fault}.")

    def _class(self, owner: str) -> Iterator[Finding]:
        canonical = self._unit(owner)
        if canonical is None:
            return
        substance, faults = self._substance(owner)
        yield from faults
        for conversion in self.knowledge.values(owner, CG["acceptsUnit"]):
            unit = self.knowledge.value(conversion, CG["ucum"])
            if unit is None or self.units.fault(unit):
                continue
            try:
                wanted = self.units.conversion(unit, canonical, substance)
            except SubstanceError as error:
                if not faults:
                    lacking = "cg:charge" if str(error) == "charge" else "cg:substanceFormula"
                    message = (
                        f"{self.context.label(owner)} needs a {error} to turn {unit} into {canonical}, and has no {lacking}."
                    )
                    yield _finding("SubstanceStated", owner, message, conversion)
                continue
            except ConversionError as error:
                message = f"{unit} cannot become {canonical}, the unit of {self.context.label(owner)}: {error}."
                yield _finding("UnitDimension", conversion, message, owner)
                continue
            factor, offset = (self._number(conversion, name) for name in ("factor", "offset"))
            if factor is None:
                continue
            basis = self._basis(owner, substance, wanted)
            if not isclose(factor, wanted.factor, rel_tol=ROUNDED if wanted.by_mass else EXACT):
                message = f"The factor from {unit} to {canonical} is {factor:g} and should be {wanted.factor:.6g}{basis}."
                yield _finding("FactorBySubstance" if basis else "FactorByUnit", conversion, message, owner)
            if not isclose(offset or 0.0, wanted.offset, rel_tol=EXACT, abs_tol=EXACT):
                message = f"The offset from {unit} to {canonical} is {offset or 0:g} and should be {wanted.offset:.6g}."
                yield _finding("FactorByUnit", conversion, message, owner)

    def _substance(self, owner: str) -> tuple[Substance, list[Finding]]:
        formula, charge = (self.knowledge.value(owner, CG[name]) for name in ("substanceFormula", "charge"))
        found: list[Finding] = []
        mass, number = None, None
        if formula is not None:
            try:
                mass = self.units.molar_mass(formula)
            except ValueError as error:
                reason = str(error).splitlines()[0]
                found.append(_finding("SubstanceReadable", owner, f"The formula {formula!r} cannot be read: {reason}."))
        if charge is not None:
            if re.fullmatch("[1-9]", charge):
                number = int(charge)
            else:
                found.append(_finding("SubstanceReadable", owner, f"The charge {charge!r} is not a whole number from 1 to 9."))
        return Substance(mass, number), found

    def _basis(self, owner: str, substance: Substance, conversion: Conversion) -> str:
        """What of the substance a conversion rests on, in words that end a sentence."""
        formula = self.knowledge.value(owner, CG["substanceFormula"])
        mass = f"{substance.molar_mass:.6g} g/mol for {formula}" if conversion.by_mass else ""
        charge = f"charge {substance.charge}" if conversion.by_charge else ""
        parts = [part for part in (mass, charge) if part]
        return f", with {' and '.join(parts)}" if parts else ""

    def _ratio(self, owner: str) -> Iterator[Finding]:
        parts = [self.knowledge.value(owner, CG[name]) for name in ("ratioNumerator", "ratioDenominator")]
        units = [self._unit(part) for part in (*parts, owner) if part is not None]
        factor = self._number(owner, "ratioFactor")
        if factor is None or len(units) != 3 or None in units:
            return
        over, under, result = (str(unit) for unit in units)
        try:
            wanted = self.units.ratio(over, under, result)
        except ConversionError as error:
            yield _finding("DerivedUnit", owner, f"{over} divided by {under} cannot be {result}: {error}.")
            return
        if not isclose(factor, wanted, rel_tol=EXACT):
            message = f"The factor from {over} divided by {under} to {result} is {factor:g} and should be {wanted:.6g}."
            yield _finding("DerivedUnit", owner, message)

    def _difference(self, owner: str) -> Iterator[Finding]:
        parts = [self.knowledge.value(owner, CG[name]) for name in ("differenceMinuend", "differenceSubtrahend")]
        for part in dict.fromkeys(parts):
            unit, wanted = self._unit(part) if part else None, self._unit(owner)
            if part and unit and wanted and unit != wanted:
                label = self.context.label(part)
                message = f"{label} is in {unit} and the difference in {wanted}; nothing converts between them."
                yield _finding("DerivedUnit", owner, message, part)

    def _unit(self, owner: str) -> str | None:
        """The canonical unit of a class, where it is valid."""
        unit = self.knowledge.value(owner, CG["canonicalUnit"])
        return None if unit is None or self.units.fault(unit) else unit

    def _number(self, subject: str, name: str) -> float | None:
        value = self.knowledge.value(subject, CG[name])
        try:
            return None if value is None else float(Decimal(value))
        except ArithmeticError:
            return None

    def _with(self, name: str) -> list[str]:
        """The named terms that have a property, sorted."""
        quads = self.knowledge.graph.quads_for_pattern(None, CG[name], None, None)
        return sorted({q.subject.value for q in quads if isinstance(q.subject, ox.NamedNode)})


# --- Shared ---------------------------------------------------------------------------------------


def _check_digits() -> dict[str, Callable[[str], bool]]:
    """What tells whether the last digit of a number is right, by the name of the algorithm. Raises CannotCheckError."""
    try:
        from stdnum import luhn, verhoeff
    except ImportError as error:
        raise CannotCheckError("check digits need python-stdnum, which is not installed: pip install 'kbtool[check]'") from error
    return {"luhn": luhn.is_valid, "verhoeff": verhoeff.is_valid}


def _accepted(knowledge: Knowledge, owner: str) -> list[str]:
    conversions = knowledge.values(owner, CG["acceptsUnit"])
    return [unit for conversion in conversions for unit in knowledge.values(conversion, CG["ucum"])]


def _words(texts: Iterable[str]) -> frozenset[str]:
    """The words of texts that mean something, in small letters and in the singular."""
    found = {word for one in texts for word in re.findall(r"[^\W_]+", one.casefold()) if len(word) > 1}
    return _normal(found - _WORDS_WITHOUT_MEANING)


def _normal(words: Iterable[str]) -> frozenset[str]:
    small = (word.casefold() for word in words)
    return frozenset(word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in small)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _finding(check: str, subject: str, message: str, *related: str) -> Finding:
    return Finding(CG[check].value, subject, message, related=related)
