"""What the terms of a dictionary stand for, as columns of 64-bit integers: numbers, and times.

A number is kept in billionths, because that is what a column of integers holds of every number that facts and knowledge have
in practice (nine digits before and after the point); any other has the kind OTHER and is computed with on its own. A time is
kept in microseconds since 1970 by its own clock, with its zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbtool.values import XSD, Moment

UNKNOWN, INTEGER, DECIMAL, MOMENT, OTHER = range(5)
DIGITS = 9
"""Digits after the point of the numbers that are kept."""

SECOND, DAY = 10**6, 86_400 * 10**6
"""In microseconds."""

_UNIT = 10**DIGITS
_MOST = 2**62
_FIRST = datetime(1970, 1, 1)
MOMENT_END = f'Z"^^<{XSD}dateTime>'
_LENGTH = len('"1970-01-01T00:00:00') + len(MOMENT_END)
_MARKS = {5: "-", 8: "-", 11: "T", 14: ":", 17: ":"}
_FIGURES = [place for place in range(1, 20) if place not in _MARKS]


class Decoded:
    """For each number of a term its kind, its value and, of a time, its zone (a place in `zones`)."""

    def __init__(self, other: Decoded | None = None) -> None:
        """other: what is copied."""
        self.kinds: NDArray[np.int8] = other.kinds.copy() if other else np.zeros(1024, dtype=np.int8)
        self.values: NDArray[np.int64] = other.values.copy() if other else np.zeros(1024, dtype=np.int64)
        self.places: NDArray[np.int16] = other.places.copy() if other else np.zeros(1024, dtype=np.int16)
        self.zones: list[str] = list(other.zones) if other else ["Z"]

    def reserve(self, size: int) -> None:
        """Make room for so many terms."""
        if size > len(self.kinds):
            more = max(size, 2 * len(self.kinds)) - len(self.kinds)
            self.kinds = np.concatenate((self.kinds, np.zeros(more, dtype=np.int8)))
            self.values = np.concatenate((self.values, np.zeros(more, dtype=np.int64)))
            self.places = np.concatenate((self.places, np.zeros(more, dtype=np.int16)))

    def put(self, number: int, value: Any) -> None:
        """Keep the value of a term."""
        kind, kept = OTHER, 0
        if type(value) is int:
            if abs(value) < _MOST // _UNIT:
                kind, kept = INTEGER, value * _UNIT
        elif type(value) is Decimal:
            if abs(value) < _MOST // _UNIT and value == round(value, DIGITS):
                kind, kept = DECIMAL, int(value.scaleb(DIGITS))
        elif type(value) is Moment:
            local = value.time.replace(tzinfo=None) - _FIRST
            kind, kept = MOMENT, (local.days * 86_400 + local.seconds) * SECOND + local.microseconds
            zone = "Z" if value.text[-1] == "Z" else value.text[-6:]
            if zone not in self.zones:
                self.zones.append(zone)
            self.places[number] = self.zones.index(zone)
        self.kinds[number], self.values[number] = kind, kept

    def put_moments(self, start: int, values: NDArray[np.int64]) -> None:
        """Keep times in UTC of the terms from a number on."""
        end = start + len(values)
        self.reserve(end)
        self.kinds[start:end], self.values[start:end], self.places[start:end] = MOMENT, values, 0

    def put_numbers(self, start: int, values: list[int], scale: int, decimal: list[int]) -> None:
        """Keep numbers of the terms from a number on: integers to be divided by 10**scale, and whether each is an xsd:decimal."""
        end, factor = start + len(values), 10 ** (DIGITS - scale)
        self.reserve(end)
        if max(map(abs, values)) < _MOST // factor:
            self.kinds[start:end] = np.where(decimal, DECIMAL, INTEGER)
            self.values[start:end] = np.array(values) * factor


def may_be_moment(token: str) -> bool:
    """Whether a term that ends like a time in UTC is as long as one in whole seconds, as most are written."""
    return len(token) == _LENGTH and token.isascii()


def moments(tokens: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which terms that `may_be_moment` are times, canonical as they stand, and their microseconds since 1970."""
    marks = np.frombuffer("".join(tokens).encode("ascii"), dtype=np.uint8).reshape(len(tokens), _LENGTH)
    figures = marks[:, _FIGURES].astype(np.int64) - ord("0")
    fits = ((figures >= 0) & (figures <= 9)).all(axis=1) & (figures[:, 0] > 0)
    for place, mark in _MARKS.items():
        fits &= marks[:, place] == ord(mark)
    year = figures[:, :4] @ np.array((1000, 100, 10, 1))
    month, day, hour, minute, second = (figures[:, at] * 10 + figures[:, at + 1] for at in range(4, 14, 2))
    fits &= (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(fits, (year - 1970) * 12 + month - 1, 0)
    first, after = (each.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) for each in (months, months + 1))
    fits &= day <= after - first
    return fits, (first + day - 1) * DAY + (hour * 3600 + minute * 60 + second) * SECOND
