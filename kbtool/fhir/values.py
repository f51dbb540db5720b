"""Values of FHIR: numbers that keep their digits, quantities with the unit that was stated, codings, daily doses."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple

from kbtool.fhir.tables import Concept, Tables

Json = dict[str, Any]

_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,15})?")
_HOURS = Decimal(24)
_IN_HOURS = {"h": Decimal(1), "d": _HOURS, "wk": 7 * _HOURS}
"""How many hours a unit of time of FHIR is. Months and years are no fixed number of days, shorter ones no dose by the clock."""


class Digits(str):
    """A JSON number with a fraction or an exponent, in the characters in which it was sent."""

    __slots__ = ()


_NUMBERS = (Digits, int, float, Decimal)


class UnusableError(Exception):
    """A part of a resource cannot be used; the message says why, in words that follow the name of the resource."""


class Amount(NamedTuple):
    """A number in plain digits, and its unit in an accepted form."""

    number: str
    unit: str


def number(value: Any) -> str:
    """A JSON number as plain decimal digits. Raises UnusableError for what is none, or too long to be a measurement."""
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise UnusableError("the value is not a number")
    text = repr(value) if isinstance(value, float) else str(value)
    if "e" in text or "E" in text:
        try:
            exact = Decimal(text)
        except InvalidOperation:
            raise UnusableError(f"the value {text[:30]} is not a number") from None
        if not exact.is_finite() or abs(exact.adjusted()) > 15:
            raise UnusableError(f"the value {text[:30]} is out of all bounds")
        text = format(exact, "f")
    if not _NUMBER.fullmatch(text):
        raise UnusableError(f"the value {text[:30]} is not a plain number")
    return text


def amount(quantity: Any, concept: Concept, tables: Tables, suffix: str = "") -> Amount:
    """The number and unit of a FHIR Quantity, in an accepted unit of a class, in the digits that were sent.

    The unit is the stated one: its UCUM code, or, where there is no code, the text of the unit. Raises UnusableError.
    """
    if not isinstance(quantity, dict):
        raise UnusableError("the value is not a quantity")
    if quantity.get("comparator") is not None:
        raise UnusableError(
            f"the value is given as {quantity['comparator']!s:.5} {quantity.get('value')!s:.20}, which is a limit and not a value"
        )
    if quantity.get("value") is None:
        raise UnusableError("the quantity has no value")
    digits = number(quantity["value"])
    code, written = quantity.get("code"), quantity.get("unit")
    if code is None and written is None:
        raise UnusableError(f"the value {digits} has no unit")
    stated = code if code is not None else written
    if not isinstance(stated, str) or not (written is None or isinstance(written, str)):
        raise UnusableError("the unit is not text")
    unit, differs = tables.stated_unit(stated, written if code is not None else None, concept, suffix)
    if unit is None:
        system = f" of {quantity['system']!s:.60}" if quantity.get("system") not in (None, "http://unitsofmeasure.org") else ""
        accepted = ", ".join(sorted(concept.units)) or "none"
        raise UnusableError(f"the unit {stated[:30]!r}{system} is not one that is accepted for {concept.label} ({accepted})")
    if differs:
        raise UnusableError(f"the unit is given as {str(written)[:30]!r} and by the code {stated[:30]!r}, which differ")
    return Amount(digits, unit)


def codings(concept: Any) -> tuple[tuple[str, str], ...]:
    """The codings (system, code) of a CodeableConcept; those without a system or code name nothing."""
    if not isinstance(concept, dict):
        return ()
    listed = concept.get("coding")
    if not isinstance(listed, list):
        return ()
    return tuple(
        (c["system"], c["code"])
        for c in listed
        if isinstance(c, dict) and isinstance(c.get("system"), str) and isinstance(c.get("code"), str)
    )


def shown(concept: Any) -> str | None:
    """How a CodeableConcept reads: its codings, or its text."""
    if not isinstance(concept, dict):
        return None
    parts = []
    for coding in concept.get("coding") or () if isinstance(concept.get("coding"), list) else ():
        if isinstance(coding, dict):
            code = f"{coding.get('system', '')}|{coding.get('code', '')}".strip("|")
            parts.append(f"{code} {coding.get('display', '')}".strip())
    text = concept.get("text")
    return "; ".join(p for p in parts if p)[:200] or (text[:200] if isinstance(text, str) else None)


class Coded(NamedTuple):
    """What a CodeableConcept says: its codings (system, code), how it reads, and all text of it."""

    codings: tuple[tuple[str, str], ...]
    shown: str | None
    words: str


def coded(concept: Any) -> Coded:
    """What a CodeableConcept says; kept for the usual concept of one coding, which comes again and again."""
    try:
        (coding,) = concept["coding"]
        return _coded(coding["system"], coding["code"], coding.get("display"), concept.get("text"))
    except (TypeError, KeyError, ValueError, AttributeError):
        return Coded(codings(concept), shown(concept), words(concept))


@lru_cache(maxsize=16384, typed=True)
def _coded(system: Any, code: Any, display: Any, text: Any) -> Coded:
    coding = {"system": system, "code": code, **({} if display is None else {"display": display})}
    concept = {"coding": [coding], "text": text}
    return Coded(codings(concept), shown(concept), words(concept))


def words(concept: Any) -> str:
    """All text of a CodeableConcept that names something: displays and text."""
    if not isinstance(concept, dict):
        return ""
    listed = concept.get("coding")
    displays = [c.get("display") for c in listed if isinstance(c, dict)] if isinstance(listed, list) else []
    return " ; ".join(t for t in (*displays, concept.get("text")) if isinstance(t, str))[:1000]


def daily_dose(dosages: Any, concept: Concept, tables: Tables) -> Amount | None:
    """The dose in a day, where it follows exactly from the dose quantity and the timing of every dosage; None otherwise.

    Nothing is rounded: a division that does not come out even gives no dose.
    """
    if not isinstance(dosages, list) or not dosages or not concept.units:
        return None
    sequences = {str(d.get("sequence")) for d in dosages if isinstance(d, dict)}
    if len(sequences) > 1:
        return None
    total, units = Decimal(0), set()
    for dosage in dosages:
        one = _dose_of(dosage, concept, tables)
        if one is None:
            return None
        total += one[0]
        units.add(one[1])
    if len(units) != 1 or total <= 0:
        return None
    text = format(total, "f")
    return Amount(text, units.pop()) if _NUMBER.fullmatch(text) else None


def _dose_of(dosage: Any, concept: Concept, tables: Tables) -> tuple[Decimal, str] | None:
    if not isinstance(dosage, dict) or any(
        dosage.get(k) not in (None, False) for k in ("asNeededBoolean", "asNeededCodeableConcept", "asNeeded", "asNeededFor")
    ):
        return None
    rates = dosage.get("doseAndRate")
    if (
        not isinstance(rates, list)
        or len(rates) != 1
        or not isinstance(rates[0], dict)
        or set(rates[0]) - {"id", "extension", "type", "doseQuantity"}
    ):
        return None
    times = _times_a_day(dosage.get("timing"), tables)
    if times is None:
        return None
    try:
        dose = amount(rates[0].get("doseQuantity"), concept, tables, "/d")
    except UnusableError:
        return None
    return Decimal(dose.number) * times, dose.unit


def _times_a_day(timing: Any, tables: Tables) -> Decimal | None:
    if not isinstance(timing, dict) or timing.get("event"):
        return None
    repeat, code = timing.get("repeat"), timing.get("code")
    by_code = {tables.timings.get((tables.system(s), c)) for s, c in codings(code)} - {None}
    coded = Decimal(by_code.pop()) if len(by_code) == 1 else None  # type: ignore[arg-type]
    rest = (
        {k for k in repeat if not k.startswith(("bounds", "_")) and k not in ("id", "extension")}
        if isinstance(repeat, dict)
        else set()
    )
    if not rest:
        return coded
    if code is not None and coded is None:
        return None
    if rest - {"frequency", "period", "periodUnit", "timeOfDay"} or not isinstance(repeat, dict):
        return None
    clock = repeat.get("timeOfDay")
    try:
        frequency = Decimal(number(repeat.get("frequency", len(clock) if isinstance(clock, list) else 1)))
        period = Decimal(number(repeat.get("period", 1)))
    except UnusableError:
        return None
    hours = _IN_HOURS.get(str(repeat.get("periodUnit", "d" if clock else "")))
    if hours is None or period <= 0 or frequency <= 0:
        return None
    if clock and (not isinstance(clock, list) or frequency != len(clock) or period * hours != _HOURS):
        return None
    often, span = frequency * _HOURS, period * hours
    times = often / span
    return times if times * span == often and coded in (None, times) else None
