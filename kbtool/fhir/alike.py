"""Observations that differ in nothing but number and time: what the first of them came to is what the others come to.

A record holds hundreds of results, in few forms: a code, a status, a unit, perhaps a phase. Only a resource without any
element that is not known to be one of these, or to play no part in reading, has a form.
"""

from __future__ import annotations

from collections.abc import Set
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple

from kbtool.fhir.outcomes import TIME, UNIT, VALUE, Fact, Outcome, Pair, number_term, time_term
from kbtool.fhir.tables import Concept
from kbtool.fhir.times import moment
from kbtool.fhir.values import UnusableError, number

Json = dict[str, Any]
Key = tuple[Any, ...]

WITHOUT_PART = frozenset(
    [
        "resourceType",
        "id",
        "meta",
        "text",
        "identifier",
        "basedOn",
        "category",
        "subject",
        "encounter",
        "issued",
        "performer",
        "interpretation",
        "note",
        "bodySite",
        "method",
        "specimen",
        "device",
        "referenceRange",
    ]
)
"""Elements of an Observation that decide nothing about what it states, unless a knowledge base says so."""

_NEEDED = frozenset(("code", "status", "valueQuantity", "effectiveDateTime"))
_QUANTITY = frozenset(("value", "unit", "system", "code"))
_TEXT = frozenset((str, NoneType))
_MOST = 4096


class Form(NamedTuple):
    """What observations of a form come to: a fact, or, without a concept, a code that is not needed.

    code: how the code looks to a person. unit, rest: what is stated beside number and time.
    """

    code: str | None
    concept: Concept | None
    unit: Pair = ("", "")
    rest: tuple[Pair, ...] = ()


class Alike:
    """The forms that have been met. deciding: elements, beside the status, by which the knowledge base tells whether an
    observation counts; one that has such an element has no form."""

    def __init__(self, deciding: Set[str] = frozenset()) -> None:
        self.forms: dict[Key, Form] = {}
        self._known = (_NEEDED | WITHOUT_PART | {"extension"}) - deciding
        self._usual = lru_cache(maxsize=1024)(self._is_usual)

    def find(self, resource: Json) -> tuple[Key | None, Form | None]:
        """Everything in an observation that plays a part, number and time apart, and what is known of such; None where the
        observation has no form."""
        if not self._usual(tuple(resource)):
            return None, None
        try:
            quantity, concept = resource["valueQuantity"], resource["code"]
            (coding,) = concept["coding"]
            if not quantity.keys() <= _QUANTITY:
                return None, None
            key = (
                coding["system"],
                coding["code"],
                coding.get("display"),
                concept.get("text"),
                resource["status"],
                quantity.get("unit"),
                quantity.get("code"),
                *[part for extension in resource.get("extension", ()) for part in _named(extension)],
            )
            # Equal keys must mean the same: 1 equals True, and the Digits of a number the text of it.
            return (key, self.forms.get(key)) if _TEXT.issuperset(map(type, key)) else (None, None)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None, None

    def _is_usual(self, keys: tuple[str, ...]) -> bool:
        """Whether a resource with these elements has a form."""
        return _NEEDED <= set(keys) <= self._known

    def fill(self, form: Form, resource: Json, outcome: Outcome) -> bool:
        """Read an observation by its form; False where number and time are not what they should be."""
        if form.concept is None:
            outcome.unneeded.append(form.code or "")
            return True
        when = moment(resource["effectiveDateTime"])
        if when is None or when.exact is None:
            return False
        try:
            digits = number(resource["valueQuantity"].get("value"))
        except UnusableError:
            return False
        pairs = [(VALUE, number_term(digits)), form.unit, (TIME, time_term(when.exact)), *form.rest]
        outcome.code = form.code
        outcome.facts.append(Fact(form.concept, pairs))
        return True

    def learn(self, key: Key, outcome: Outcome) -> None:
        """Keep what an observation of a form came to, where it was read as a whole."""
        if outcome.not_read or len(outcome.facts) + len(outcome.unneeded) != 1:
            return
        if len(self.forms) >= _MOST:
            self.forms.clear()
        if outcome.unneeded:
            self.forms[key] = Form(outcome.unneeded[0], None)
            return
        (fact,) = outcome.facts
        if fact.concept.kind == "Observation" and [prop for prop, _ in fact.pairs[:3]] == [VALUE, UNIT, TIME]:
            self.forms[key] = Form(outcome.code, fact.concept, fact.pairs[1], tuple(fact.pairs[3:]))


def _named(extension: Json) -> tuple[str, str]:
    """An extension of the form that names a value. Raises KeyError, ValueError."""
    (_, _) = extension
    return extension["url"], extension["valueCode"]
