"""Elements of FHIR resources that mean the same in every resource type: choices, periods, references, extensions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from kbtool.fhir.outcomes import DATETIME, DECIMAL, INTEGER, Outcome, number_term, text_term, time_term
from kbtool.fhir.tables import Concept, Property, StatusTable
from kbtool.fhir.times import Moment, moment, seconds
from kbtool.fhir.values import UnusableError, coded, number
from kbtool.namespaces import local_name

Json = dict[str, Any]

_HALF = re.compile("[\ud800-\udfff]")
"""Halves of characters, which JSON can name and no text can hold."""


def status_of(resource: Json, table: StatusTable) -> tuple[str, str | None]:
    """The reading of one status element of a resource, and its code."""
    first, *steps = table.path
    value: Any = resource.get(first)
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    if value is None:
        return table.missing, None
    if isinstance(value, str):
        return table.read(value) or "CannotBeTold", value
    said = coded(value)
    for system, code in said.codings:
        if system in table.systems:
            return table.read(code) or "CannotBeTold", code
    return "CannotBeTold", said.shown


def stated_value(extension: Json, prop: Property) -> str:
    """The value of an extension as a term in N-Triples. Raises UnusableError."""
    given = [value for key, value in extension.items() if key[:5] == "value"]
    if len(given) != 1:
        raise UnusableError("it has no value")
    value, datatype = given[0], prop.datatype
    if datatype is None:
        name = value.get("code") if isinstance(value, dict) else value
        found = prop.values.get(name) if isinstance(name, str) else None
        if found is None:
            raise UnusableError(f"its value is none of {', '.join(sorted({local_name(known) for known in prop.values}))}")
        return found
    if datatype == DATETIME:
        when = moment(value)
        if when is None or when.exact is None:
            raise UnusableError(when.problem if when and when.problem else "it is no time")
        return time_term(when.exact)
    if datatype in (DECIMAL, INTEGER):
        return number_term(number(value))
    if not isinstance(value, str) or _HALF.search(value):
        raise UnusableError("its value is not text")
    return text_term(value)


def has_modifier(node: Any) -> bool:
    """Whether a modifierExtension stands anywhere in a resource, apart from contained ones."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("modifierExtension"):
                return True
            for key, value in node.items():
                if isinstance(value, dict | list) and key != "contained":
                    waiting.append(value)
        elif isinstance(node, list):
            waiting.extend(node)
    return False


def values_of(body: Json) -> Json:
    """The value[x] elements of a body; there should be one at most."""
    keys = _starting(tuple(body), "value")
    return {key: body[key] for key in keys if body[key] is not None} if keys else {}


def choice(resource: Json, element: str) -> Json:
    """A choice element as {type: value}, such as {"Period": {...}} for effectivePeriod; {} where there is none."""
    keys, size = _starting(tuple(resource), element), len(element)
    return {k[size:]: resource[k] for k in keys if resource[k] is not None and k[size : size + 1].isupper()} if keys else {}


@lru_cache(maxsize=1024)
def _starting(keys: tuple[str, ...], start: str) -> tuple[str, ...]:
    """The keys that start with some characters; few sets of keys come again and again."""
    return tuple(key for key in keys if key.startswith(start))


def edge(stated: Json, edge: str) -> Moment | None:
    """The start or the end of a choice element: that of its Period, or its DateTime for both."""
    if len(stated) > 1:
        return Moment(None, None, None, "it is stated in two ways")
    for kind, value in stated.items():
        if kind in ("DateTime", "Instant"):
            return moment(value)
        if kind == "Period" and isinstance(value, dict):
            return moment(value.get(edge))
    return None


def shared_edge(periods: list[Json], edge: str) -> Moment | None:
    """The start or end that all periods share; a Moment without a time where they differ."""
    stated = {p.get(edge) for p in periods if isinstance(p.get(edge), str)}
    if not stated:
        return None
    return moment(stated.pop()) if len(stated) == 1 else Moment(None, None, None, "its dosages have different spans")


def effective(resource: Json, concept: Concept | None) -> Moment | None:
    """When an observation was made. A span counts only as its start, and only for what no session disturbs."""
    stated = choice(resource, "effective")
    if len(stated) == 1 and "DateTime" in stated:
        return moment(stated["DateTime"])
    start = edge(stated, "start")
    if stated and start is None:
        raise UnusableError(f"its time is given as {', '.join(sorted(stated))} and not as a moment")
    period = stated.get("Period")
    if isinstance(period, dict) and concept is not None and concept.disturbed and period.get("end") != period.get("start"):
        raise UnusableError("it was made over a span of time, and a session may lie within")
    return start


def bounds(dosage: Json) -> Json | None:
    """The period in which a dosage is to be taken."""
    timing = dosage.get("timing")
    repeat = timing.get("repeat") if isinstance(timing, dict) else None
    bounds = repeat.get("boundsPeriod") if isinstance(repeat, dict) else None
    return bounds if isinstance(bounds, dict) else None


def minutes_between(start: Moment | None, end: Moment | None) -> float | None:
    """The minutes between two exact times."""
    if start is None or end is None or start.exact is None or end.exact is None:
        return None
    return (seconds(end.exact) - seconds(start.exact)) / 60


def why(*moments: Moment | None) -> str:
    """Why times are not exact."""
    return "; ".join(m.problem for m in moments if m is not None and m.problem) or "it is not stated"


def references(listed: Any, outcome: Outcome) -> tuple[str, ...]:
    """The IRIs of the resources that references point at."""
    items: Iterable[Any] = listed if isinstance(listed, list) else (listed,)
    stated = [i["reference"] for i in items if isinstance(i, dict) and isinstance(i.get("reference"), str)]
    return tuple(outcome.scope.key(reference, outcome.entry) for reference in stated)


def dicts(listed: Any) -> list[Json]:
    """The objects in a list."""
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
