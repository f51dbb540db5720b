"""Print explanations for a person: the answer and its reason first, then each condition, facts, limits, source, changes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from kbtool.text import fact_text

Json = dict[str, Any]

_WIDTH = 110
_MARKS = {"true": "yes", "false": "no", "unknown": "not known"}


def render(patient: str, explanation: Json, labels: dict[str, str]) -> str:
    """One explanation as text. labels: local name to label, for what is named in `needs`."""
    return "\n".join(_lines(patient, explanation, labels)) + "\n"


def render_next(found: list[Json]) -> str:
    """What to find out next as text, the most urgent first."""
    lines = ["FIND OUT NEXT"] if found else []
    for number, each in enumerate(found, 1):
        by = f" (by {each['measuredBy']})" if each["measuredBy"] else ""
        hanging = "; ".join(f"{what['label']}, now {what['status']}" for what in each["couldChange"])
        lines += _wrapped(f"{each['label']}{by}: could change {hanging}", f"  {number}. ", "     ")
    return "\n".join(lines) + "\n"


def _lines(patient: str, found: Json, labels: dict[str, str]) -> Iterator[str]:
    yield f"{found['label']} [{found['name']}] for {patient}: {found['status'].upper()}"
    yield from _wrapped(found["summary"], "  ", "  ")
    if found["needs"]:
        yield from _wrapped(f"needs: {', '.join(labels.get(n, n) for n in found['needs'])}", "  ", "    ")
    if found["openedBy"]:
        yield from _wrapped(f"opened by: {', '.join(labels.get(n, n) for n in found['openedBy'])}", "  ", "    ")
    if found["smallestChange"]:
        change = found["smallestChange"]
        yield from _wrapped(f"with this change, which was tried, it would be: {change['status']}", "  ", "    ")
        for edit in change["edits"]:
            yield from _wrapped(edit, "    - ", "      ")
    yield "  Conditions"
    for condition in found["conditions"]:
        yield from _condition(condition, condition["role"] + ": ", 4, condition["wanted"])
    for title, key in (("Rests on", "because"), ("Would be different without any one of", "decisive")):
        if found[key]:
            yield f"  {title}"
            for fact in found[key]:
                yield from _wrapped(_fact(fact), "    - ", "      ")
    if found["thresholds"]:
        yield "  Limits"
        for limit in found["thresholds"]:
            yield from _wrapped(f"{limit['limit']} [{limit['whose']}]", "    - ", "      ")
    if found["statements"] or found["sources"]:
        yield "  Source"
        for statement in found["statements"]:
            how = "" if statement["cited"] else "explains it: "
            where = f"{statement['section']}; {' '.join(statement['references'])}"
            yield from _wrapped(f"{statement['id']} {how}{statement['text']} ({where})", "    - ", "      ")
        for source in found["sources"]:
            yield from _wrapped(source, "    - ", "      ")
    for caution in found["cautions"]:
        if caution["state"] == "holds":
            yield from _wrapped(f"{caution['id']} ({caution['severity']}): {caution['label']}", "  ", "    ")


def _condition(condition: Json, role: str, indent: int, wanted: bool) -> Iterator[str]:
    number = f" (it is {condition['value']} {condition['unit']}".rstrip() + ")" if "value" in condition else ""
    if number and condition["truth"] == "false":
        number = number[:-1] + f", {condition['distance']} {condition['unit']}".rstrip() + " from it)"
    needs = f", for want of {', '.join(condition['needs'])}" if condition.get("needs") else ""
    mark = f"[{_MARKS[condition['truth']]}] "
    pad = " " * indent
    yield from _wrapped(f"{mark}{role}{condition['text']}{number}{needs}", pad, pad + "  ")
    settled = condition["truth"] == ("true" if wanted else "false")
    inner = [] if settled else condition.get("parts", [])
    for part in [p for p in inner if p["truth"] == condition["truth"]] or inner:
        yield from _condition(part, "", indent + 2, wanted)


def _fact(fact: Json) -> str:
    converted = f", which is {fact['canonicalValue']} {fact['canonicalUnit']}" if "canonicalValue" in fact else ""
    return fact_text(fact) + converted


def _wrapped(text: str, first: str, rest: str) -> Iterable[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=rest)
