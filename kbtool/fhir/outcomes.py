"""What one FHIR resource gives: facts in the making, and what of it was not read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyoxigraph as ox

from kbtool.fhir.documents import Entry, Scope
from kbtool.fhir.places import Visit
from kbtool.fhir.tables import Concept
from kbtool.fhir.times import Moment
from kbtool.fhir.values import Amount, UnusableError
from kbtool.namespaces import CG, XSD

Json = dict[str, Any]
Pair = tuple[str, str]
"""A property and its object, as terms in N-Triples."""

DATETIME, DECIMAL, INTEGER = XSD["dateTime"].value, XSD["decimal"].value, XSD["integer"].value
VALUE, UNIT, TIME, CODE, STATE = (str(CG[name]) for name in ("value", "unit", "time", "reportedCode", "state"))
START, END, ONSET, DOSE, SINCE = (str(CG[name]) for name in ("start", "end", "onset", "dailyDose", "doseSince"))


@dataclass(frozen=True)
class NotRead:
    """Something of a record that was not read.

    resource: type and id of the resource, with the path of the part. reason: one sentence. code: the codings or the text.
    concept: local name of the class of the knowledge base that it touches. matters: whether the guideline knows it and
    could not use it; otherwise it is known not to count (withdrawn, refuted, over), or only an attribute was left out.
    """

    resource: str
    reason: str
    code: str | None = None
    concept: str | None = None
    matters: bool = True

    def to_json(self) -> Json:
        """The entry as answers show it."""
        return {
            "resource": self.resource,
            "reason": self.reason,
            "code": self.code,
            "concept": self.concept,
            "matters": self.matters,
        }


@dataclass(slots=True, eq=False)
class Fact:
    """A fact in the making. part: the part after the IRI of its resource. source: of a medication, which kind of resource
    states it. at: of a finding seen in an observation, when; of others, the start if exact. absent: the finding was seen not to
    be there. refers: IRIs of other resources that decide what becomes of the fact."""

    concept: Concept
    pairs: list[Pair]
    part: str = ""
    source: str = ""
    at: str | None = None
    ended: bool = False
    absent: bool = False
    refers: tuple[str, ...] = ()


class Outcome:
    """What a resource gives. code: how the code that is being read looks to a person. part: the path of the part being read.
    visit: of an encounter."""

    __slots__ = ("code", "entry", "facts", "not_read", "part", "reference", "scope", "unneeded", "visit")

    def __init__(self, entry: Entry, scope: Scope) -> None:
        self.entry, self.scope, self.reference = entry, scope, entry.reference
        self.code: str | None = None
        self.part = ""
        self.facts: list[Fact] = []
        self.not_read: list[NotRead] = []
        self.unneeded: list[str] = []
        self.visit: Visit | None = None

    def skip(self, reason: str, concept: str | None = None, *, matters: bool = True, code: str | None = None) -> None:
        """Note that the resource, or the part of it that is being read, is not read."""
        self.not_read.append(NotRead(self.reference + self.part, reason, code or self.code, concept, matters))


def time_term(time: str) -> str:
    """A time with a zone as a term in N-Triples."""
    return f'"{time}"^^<{DATETIME}>'


def number_term(number: str) -> str:
    """Plain digits as a term in N-Triples."""
    return f'"{number}"^^<{DECIMAL if "." in number else INTEGER}>'


@lru_cache(maxsize=4096)
def text_term(text: str) -> str:
    """Text as a term in N-Triples."""
    return str(ox.Literal(text))


def amount_pairs(found: Amount, prop: str) -> list[Pair]:
    """A number under a property, and its unit."""
    return [(prop, number_term(found.number)), (UNIT, text_term(found.unit))]


def exact_time(when: Moment, what: str) -> str:
    """An exact time as a term in N-Triples. Raises UnusableError."""
    if when.exact is None:
        raise UnusableError(f"{what} {when.problem}")
    return time_term(when.exact)
