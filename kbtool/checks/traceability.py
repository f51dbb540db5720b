"""Check that worked patients show each rule both speaking and staying silent. The rest of traceability is in the shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kbtool.checks.model import CannotCheckError, Context, Finding
from kbtool.namespaces import CG, local_name

_SPEAKS = {
    "Recommendation": ("recommendations", ("recommended", "blocked", "satisfied", "contraindicated")),
    "Prohibition": ("prohibitions", ("holds",)),
    "Assessment": ("assessments", ("holds",)),
}


def traceability(context: Context) -> Iterator[Finding]:
    """Rules without a firing or a non-firing case. Raises CannotCheckError where there are no worked patients."""
    cases = [_expected(file) for file in sorted(context.cases.glob("*.expected.json"))] if context.cases else []
    if not cases:
        where = f"none in {context.cases}" if context.cases else "give their folder by --cases"
        raise CannotCheckError(f"there are no worked patients with expected answers; {where}")
    knowledge = context.knowledge
    known: set[str] = set()
    for kind, (part, states) in _SPEAKS.items():
        for rule in knowledge.instances(CG[kind]):
            name = local_name(rule)
            known.add(name)
            speaking = [any(name in expected.get(part, {}).get(state, ()) for state in states) for _, expected in cases]
            in_scope = [expected.get("inScope", True) for _, expected in cases]
            if not any(speaking):
                yield _finding(context, "NoFiringCase", rule, f"none of {len(cases)} worked patients expects it to speak")
            if not any(scoped and not speaks for scoped, speaks in zip(in_scope, speaking, strict=True)):
                yield _finding(context, "NoNonFiringCase", rule, f"each of {len(cases)} worked patients expects it to speak")
    for caution in knowledge.instances(CG["Caution"]):
        name = local_name(caution)
        known.add(name)
        if not any(name in expected.get("cautions", {}) for _, expected in cases):
            yield _finding(context, "NoFiringCase", caution, f"none of {len(cases)} worked patients expects it to attach")
        if all(name in expected.get("cautions", {}) for _, expected in cases):
            yield _finding(context, "NoNonFiringCase", caution, f"each of {len(cases)} worked patients expects it to attach")
    for file, expected in cases:
        for name in sorted(_named(expected) - known):
            yield Finding(
                CG["UnknownRuleInCase"].value, None, f"{file.name} expects an answer about {name}, which is no rule", file
            )


def _expected(file: Path) -> tuple[Path, dict[str, Any]]:
    try:
        return file, json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CannotCheckError(f"{file}: not JSON: {error}") from error


def _named(expected: dict[str, Any]) -> set[str]:
    names = set(expected.get("cautions", {}))
    for part, _ in _SPEAKS.values():
        for rules in expected.get(part, {}).values():
            names |= set(rules)
    return names


def _finding(context: Context, check: str, rule: str, what: str) -> Finding:
    return Finding(CG[check].value, rule, f"{context.label(rule)} ({local_name(rule)}): {what}")
