"""Golden cases: patients in tests/patients with what must come out beside them, found by hand from the guideline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kbtool

FOLDER = Path(__file__).parent / "patients"
CASES = sorted(path.stem for path in FOLDER.glob("*.ttl"))


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.expected.json").read_text(encoding="utf-8"))
    return found


def by_status(answer: dict[str, Any], status: str) -> list[str]:
    return sorted(r["name"] for r in answer["recommendations"] if r["status"] == status)


def names(entries: list[dict[str, Any]], state: str) -> list[str]:
    return sorted(e.get("name", e.get("id")) for e in entries if e["state"] == state)


def compare(answer: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Every difference between an answer and what was expected, in words."""
    differences: list[str] = []

    def same(what: str, got: object, want: object) -> None:
        if got != want:
            differences.append(f"{what}: got {got}, expected {want}")

    if expected.get("refused"):
        same("refused", bool(answer.get("refused")), True)
        same("derived", answer["recommendations"], [])
        return differences
    same("refused", answer.get("refused", []), [])
    same("inScope", answer["inScope"], expected["inScope"])
    same("setAside", len({v["focus"] for v in answer["setAside"]}), expected.get("setAside", 0))
    want = expected["recommendations"]
    for status in ("recommended", "blocked", "undetermined", "satisfied", "contraindicated"):
        same(status, by_status(answer, status), sorted(want.get(status, [])))
    got = {r["name"]: r for r in answer["recommendations"]}
    for name, detail in want.get("blocked", {}).items():
        for key in ("blockedBy", "openedBy"):
            if name in got and detail.get(key) is not None:
                same(f"{name} {key}", sorted(got[name][key]), sorted(detail[key]))
    for name, needs in want.get("undetermined", {}).items():
        if name in got and needs is not None:
            same(f"{name} needs", got[name]["needs"], sorted(needs))
    prohibitions = {p["name"]: p for p in answer["prohibitions"]}
    same("prohibitions", names(answer["prohibitions"], "holds"), sorted(expected["prohibitions"]["holds"]))
    for name, detail in expected["prohibitions"]["holds"].items():
        if name in prohibitions:
            if detail.get("hardStop") is not None:
                same(f"{name} hardStop", prohibitions[name]["hardStop"], detail["hardStop"])
            if detail.get("orders") is not None:
                same(f"{name} orders", len(prohibitions[name]["orders"]), detail["orders"])
    for kind in ("prohibitions", "assessments"):
        for name in expected[kind].get("possible", []):
            if name not in names(answer[kind], "possible"):
                differences.append(f"{name} is not possible")
    same("assessments", names(answer["assessments"], "holds"), sorted(expected["assessments"]["holds"]))
    cautions = {c["id"]: c for c in answer["cautions"] if c["state"] == "holds"}
    for name, targets in expected.get("cautions", {}).items():
        if name not in cautions:
            differences.append(f"{name} is not attached")
        elif targets is not None:
            attached = {t["name"] for t in cautions[name]["on"]}
            if not set(targets or ["patient"]) <= attached:
                differences.append(f"{name} is attached to {sorted(attached)}, expected {targets or 'the patient'}")
    for name in expected.get("cautionsAbsent", []):
        if name in cautions:
            differences.append(f"{name} is attached to {[t['name'] for t in cautions[name]['on']]}")
    conflicting = {e["name"] for e in [*answer["recommendations"], *answer["prohibitions"]] if e["conflict"]}
    if not set(expected.get("conflicts", [])) <= conflicting:
        differences.append(f"conflicts {sorted(conflicting)} lack {sorted(set(expected['conflicts']) - conflicting)}")
    if not set(expected.get("missingIncludes", [])) <= set(answer["missing"]):
        differences.append(
            f"missing {answer['missing']} lacks {sorted(set(expected['missingIncludes']) - set(answer['missing']))}"
        )
    unused: dict[str, set[str]] = {}
    for fact in answer["notUsed"]:
        unused.setdefault(fact["name"], set()).add(fact["reason"])
    for name, reason in expected.get("notUsed", {}).items():
        if reason not in unused.get(name, set()):
            differences.append(f"{name} is not named as {reason}: {sorted(unused.get(name, set()))}")
    for name, classes in expected.get("because", {}).items():
        entries = [*answer["recommendations"], *answer["prohibitions"], *answer["assessments"]]
        facts = {f["name"] for e in entries if e["name"] == name for f in e["because"]}
        if not set(classes) <= facts:
            differences.append(f"{name} rests on {sorted(facts)}, expected {classes}")
    return differences


@pytest.mark.parametrize("name", CASES)
def test_case(kb: kbtool.KnowledgeBase, name: str) -> None:
    expected = read(name)
    result = kb.assess(FOLDER / f"{name}.ttl", as_of=expected["asOf"])
    assert not result.unassigned
    assert compare(result[name].to_json(), expected) == []


def test_the_worked_patients_are_there() -> None:
    worked = {"P01", "P02", "P05", "P06", "P08", "P09", "P12", "P14", "P15", "P15b", "P16", "P18", "P20", "P22", "P24"}
    assert worked <= set(CASES)
