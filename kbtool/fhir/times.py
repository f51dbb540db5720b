"""Times of FHIR: what a dateTime, instant or date says exactly, and between which instants it lies where it does not."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

_TIME = re.compile(
    r"([1-9]\d{3})(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12]\d|3[01])"
    r"(?:T([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(\.\d{1,9})?(Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)?)?)?)?"
)
_IN_EVERY_MONTH = "28"
_EARLIEST, _LATEST = timedelta(hours=-14), timedelta(hours=12)
"""A local day begins first where the clock is 14 hours ahead of UTC, and ends last where it is 12 hours behind."""


class Moment(NamedTuple):
    """A time as stated. exact: as xsd:dateTime with a zone, where it is one. Otherwise it lies within one day: earliest and
    latest are the instants between which it lies, whatever the zone; both None where it is vaguer than a day.

    problem: why it is not exact.
    """

    exact: str | None
    earliest: str | None
    latest: str | None
    problem: str | None


def moment(value: Any) -> Moment | None:
    """Read a FHIR date, dateTime or instant; None where there is none."""
    return None if value is None else _moment(value) if isinstance(value, str) else Moment(None, None, None, "is not a time")


@lru_cache(maxsize=65536)
def _moment(value: str) -> Moment:
    match = _TIME.fullmatch(value)
    if match is None:
        return Moment(None, None, None, f"{value[:40]!r} is not a FHIR time")
    year, month, day, hour, _, second, _, zone = match.groups()
    if day is None:
        return Moment(None, None, None, f"{value} is no exact time: the day is not given")
    try:
        if zone is not None and second != "60" and day <= _IN_EVERY_MONTH:
            return Moment(value, None, None, None)
        midnight = datetime(int(year), int(month), int(day), tzinfo=UTC)
        if zone is not None:
            return Moment(value if second != "60" else _after_leap_second(value, zone), None, None, None)
        missing = "the time of day" if hour is None else "the time zone"
        early, late = midnight + _EARLIEST, midnight + timedelta(days=1) + _LATEST
        return Moment(None, _text(early), _text(late), f"{value} is no exact time: {missing} is not given")
    except (ValueError, OverflowError):
        return Moment(None, None, None, f"{value} is not a day of the calendar")


def _after_leap_second(value: str, zone: str) -> str:
    """The minute after a leap second: xsd:dateTime has no second 60."""
    start = datetime.fromisoformat(value[:16] + ":00" + zone.replace("Z", "+00:00")) + timedelta(minutes=1)
    return start.isoformat().replace("+00:00", "Z")


def _text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


@lru_cache(maxsize=65536)
def seconds(time: str) -> float:
    """An exact time in seconds since 1970, to compare two."""
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
