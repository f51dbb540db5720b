"""The golden cases of tests/patients as a whole: read at once, assessed in batches, compared with what is expected of them.

Beside the keys that `test_patients.compare` reads, an expected result may state these, all of them optional:

- order: names of recommendations that must come in this order (others may stand between them);
- cautionOrder: the same for identifiers of cautions that hold;
- emergencies: all assessments that hold and are emergencies; they come first among the assessments;
- severities: for prohibitions by name and cautions by identifier, how grave they are;
- hardStopPossible, overridable: all prohibitions with these flags;
- cautionsPossible, cautionsNotPossible: identifiers of cautions that may hold and do not hold for certain, and of others;
- cautionsOnly: for cautions by identifier all that they are attached to;
- cautionBecause: for cautions by identifier classes of facts on which they rest;
- possible: for a kind of answer (prohibitions, assessments) all that are possible, no more and no fewer;
- needs: for answers by name all that they lack;
- measures: for recommendations by name the quantities that they measure;
- parameters: for recommendations by name numbers of parameters by name, as shown;
- notUsedOnly: for classes of facts all reasons why facts of the class are not used;
- used: classes of facts of which none is named as not used.

Whatever is expected, every answer has one status.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from test_patients import CASES, FOLDER, compare

import kbtool
from kbtool import engine
from kbtool.answer import PatientResult
from kbtool.facts import Facts, PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, local_name


@dataclass(frozen=True)
class Case:
    """A golden patient: name, as-of time, what must come out, and the facts (a patient is read once, with all others)."""

    name: str
    as_of: str
    expected: dict[str, Any]
    group: list[PatientFacts]


@cache
def cases() -> dict[str, Case]:
    """All golden cases by name, their facts read with the knowledge base as it is."""
    facts = kbtool.load().read(*(FOLDER / f"{name}.ttl" for name in CASES))
    groups = {local_name(str(record.patient).strip("<>")): group for group in facts.groups for record in group}
    wanted = {name: json.loads((FOLDER / f"{name}.expected.json").read_text(encoding="utf-8")) for name in CASES}
    return {name: Case(name, wanted[name]["asOf"], wanted[name], groups[name]) for name in CASES}


def answers(knowledge: Knowledge, chosen: Iterable[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Each case with the answer that a knowledge base gives to it."""
    by_time: dict[str, list[Case]] = {}
    for case in chosen:
        by_time.setdefault(case.as_of, []).append(case)
    for moment, some in by_time.items():
        results = engine.assess(knowledge, Facts([case.group for case in some], []), engine.parse_as_of(moment))
        found = {local_name(result.patient): result.data | {"doubled": _doubled(result)} for result in results}
        yield from ((case, found[case.name]) for case in some)


def _doubled(result: PatientResult) -> list[str]:
    """Answers with more than one status."""
    statuses = Counter(quad.subject for quad in result.triples if quad.predicate == CG["status"])
    return sorted(local_name(str(node).strip("<>")) for node, count in statuses.items() if count > 1)


def differences(answer: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Every difference between an answer and what was expected, in words."""
    found = compare(answer, expected)
    return found if expected.get("refused") else found + _further(answer, expected)


def _further(answer: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    found: list[str] = []

    def same(what: str, got: object, want: object) -> None:
        if got != want:
            found.append(f"{what}: got {got}, expected {want}")

    same("answers with several statuses", answer["doubled"], [])
    holding = [c for c in answer["cautions"] if c["state"] == "holds"]
    orders = {
        "order": [r["name"] for r in answer["recommendations"]],
        "cautionOrder": [c["id"] for c in holding],
    }
    for key, got in orders.items():
        wanted = expected.get(key, [])
        same(key, [name for name in got if name in wanted], wanted)
    if "emergencies" in expected:
        urgent = [a["name"] for a in answer["assessments"] if a["emergency"] and a["state"] == "holds"]
        same("emergencies", sorted(urgent), sorted(expected["emergencies"]))
        same("first assessments", [a["name"] for a in answer["assessments"]][: len(urgent)], urgent)
    severities = {p["name"]: p["severity"] for p in answer["prohibitions"]} | {c["id"]: c["severity"] for c in answer["cautions"]}
    for name, severity in expected.get("severities", {}).items():
        same(f"severity of {name}", severities.get(name), severity)
    for flag in ("hardStopPossible", "overridable"):
        if flag in expected:
            same(flag, sorted(p["name"] for p in answer["prohibitions"] if p[flag]), sorted(expected[flag]))
    possible = {c["id"] for c in answer["cautions"] if c["state"] == "possible"} - {c["id"] for c in holding}
    lacking = sorted(set(expected.get("cautionsPossible", [])) - possible)
    same("cautions that are not possible", lacking, [])
    same("cautions that are possible", sorted(set(expected.get("cautionsNotPossible", [])) & possible), [])
    for name, targets in expected.get("cautionsOnly", {}).items():
        same(f"{name} on", sorted(t["name"] for c in holding if c["id"] == name for t in c["on"]), sorted(targets))
    every = [*answer["recommendations"], *answer["prohibitions"], *answer["assessments"]]
    for name, lacking in expected.get("needs", {}).items():
        same(f"needs of {name}", [e["needs"] for e in every if e["name"] == name], [sorted(lacking)])
    shown = {r["name"]: {p["name"]: p.get("value") for p in r["parameters"]} for r in answer["recommendations"]}
    for name, numbers in expected.get("parameters", {}).items():
        got = {key: shown.get(name, {}).get(key) for key in numbers}
        same(f"parameters of {name}", {k: n and Decimal(n) for k, n in got.items()}, {k: Decimal(n) for k, n in numbers.items()})
    for name, reasons in expected.get("notUsedOnly", {}).items():
        same(f"{name} not used", sorted({f["reason"] for f in answer["notUsed"] if f["name"] == name}), sorted(reasons))
    same("used", sorted({f["name"] for f in answer["notUsed"]} & set(expected.get("used", []))), [])
    for kind, names in expected.get("possible", {}).items():
        same(f"possible {kind}", sorted(e["name"] for e in answer[kind] if e["state"] == "possible"), sorted(names))
    measures = {r["name"]: r["measures"] for r in answer["recommendations"]}
    for name, quantities in expected.get("measures", {}).items():
        same(f"{name} measures", measures.get(name), quantities)
    because = {c["id"]: {f["name"] for f in c["because"]} for c in holding}
    for name, classes in expected.get("cautionBecause", {}).items():
        same(f"{name} lacks of what it rests on", sorted(set(classes) - because.get(name, set())), [])
    return found
