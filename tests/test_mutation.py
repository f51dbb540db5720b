"""The golden cases kill mutants of the knowledge: a sample here, all of them with `python tests/mutate.py`."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from generate import AS_OF, generate
from golden import answers, cases, differences
from mutate import Mutant, equivalents, mutants, run, survivors
from test_patients import FOLDER

import kbtool
from kbtool import engine

SEED = 20260214
SAMPLE = 24
DECIDING = ("inScope", "recommendations", "prohibitions", "assessments", "cautions", "missing", "notUsed")
FURTHER = (
    "order",
    "cautionOrder",
    "emergencies",
    "severities",
    "hardStopPossible",
    "overridable",
    "cautionsPossible",
    "possible",
)


def test_each_golden_case_is_as_expected_in_every_key() -> None:
    given = answers(kbtool.load().knowledge, cases().values())
    assert {case.name: found for case, answer in given if (found := differences(answer, case.expected))} == {}


def test_golden_cases_kill_a_sample_of_mutants() -> None:
    file = Path(__file__).parent / "mutate.py"
    words = [sys.executable, str(file), "--unlisted", "--sample", str(SAMPLE), "--seed", str(SEED)]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: add golden cases, with an expectation found in the guideline"
    killed = re.search(r"^all +(\d+) +(\d+) +0 ", done.stdout, re.MULTILINE)
    assert killed, f"{done.stdout}: some survived"
    assert int(killed[2]) > SAMPLE / 2


def test_there_are_mutants_of_each_kind() -> None:
    kinds = {mutant.kind for mutant in mutants().values()}
    assert kinds >= {
        *("threshold up", "threshold down", "threshold flipped", "conjunct dropped", "union member dropped"),
        *("prerequisite dropped", "prohibition dropped", "already met dropped", "accompaniment dropped", "opener dropped"),
        *("unit factor doubled", "unit factor halved", "unit offset changed", "unit dropped", "currency doubled"),
        *("statuses swapped", "update dropped", "filter dropped", "criteria swapped", "emergency dropped"),
        *("severity changed", "order changed", "caution dropped", "touch dropped"),
    }
    assert len(mutants()) > 800
    assert all(mutant.key == key for key, mutant in mutants().items())


def test_the_lists_name_mutants_that_there_are_with_reasons() -> None:
    listed = equivalents() | survivors()
    assert sorted(listed.keys() - mutants().keys()) == []
    assert not equivalents().keys() & survivors().keys()
    assert all(len(reason.split()) > 5 for reason in listed.values())


@pytest.mark.deep
@pytest.mark.parametrize("key", sorted(equivalents()))
def test_an_equivalent_mutant_changes_no_answer(key: str, tmp_path: Path) -> None:
    """For golden and generated patients it gives the same answers, apart from what is told beside them as explanation."""
    kb = kbtool.load()
    texts = [text.encode() for text in generate(kb.knowledge, SEED, 300)]
    facts = kb.read(*(case for case in sorted(FOLDER.glob("*.ttl"))), *texts)
    moment = engine.parse_as_of(AS_OF)
    before, after = (list(engine.assess(k, facts, moment)) for k in (kb.knowledge, mutants()[key].knowledge(tmp_path)))
    assert len(before) == len(after) > 600
    assert [b.patient for b, a in zip(before, after, strict=True) if decided(b.data) != decided(a.data)] == []


def decided(data: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {key: data[key] for key in DECIDING if key in data}
    return {
        key: [{k: v for k, v in entry.items() if k != "explainedBy"} if isinstance(entry, dict) else entry for entry in value]
        if isinstance(value, list)
        else value
        for key, value in kept.items()
    }


def test_knowledge_without_a_change_survives_and_a_broken_one_does_not() -> None:
    step = kbtool.load().knowledge.steps[-1]
    same = Mutant("nothing changed", "nothing", frozenset())
    broken = Mutant("step emptied", step.name, frozenset(), step=step.name, text="PREFIX cg: <urn:none>")
    assert run(same).status == "survived"
    assert run(broken).status == "killed"


@pytest.mark.parametrize("key", FURTHER)
def test_each_further_key_is_noticed(key: str) -> None:
    """An expectation that is made wrong is not met."""
    stating = [case for case in cases().values() if key in case.expected]
    assert stating, f"no golden case states {key}"
    case, answer = next((c, a) for c, a in answers(kbtool.load().knowledge, stating) if key != "used" or a["notUsed"])
    assert differences(answer, case.expected) == []
    wrong = copy.deepcopy(case.expected)
    wrong[key] = _spoilt(key, answer, wrong[key])
    assert differences(answer, wrong) != []


def _spoilt(key: str, answer: dict[str, Any], value: Any) -> Any:
    """An expectation that the answer does not meet."""
    if key == "used":
        return [fact["name"] for fact in answer["notUsed"]] or value
    if key == "cautionsNotPossible":
        return [caution["id"] for caution in answer["cautions"] if caution["state"] == "possible"]
    if key == "parameters":
        return {name: dict.fromkeys(numbers, "-1") for name, numbers in value.items()}
    if isinstance(value, dict):
        return {name: _spoilt("", answer, each) for name, each in value.items()}
    return [*value[::-1], "Nothing"] if isinstance(value, list) else f"not {value}"
