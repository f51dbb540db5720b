"""Each check of `kbtool check` finds what is wrong in a bad knowledge base, and nothing in the one that is shipped.

A bad knowledge base is the shipped one after the SPARQL update of a file in tests/bad_checks/knowledge. Its header says
which module the update changes and what must be found (`#+ finds: CHECK TERM`). Every finding about rules has a witness,
which is assessed again here by the engine, on the bad knowledge base and on the good one.
"""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import pyoxigraph as ox
import pytest

import kbtool
from kbtool.checks import modules, reasoning, rules, shapes, traceability
from kbtool.checks.model import Context, Finding, Group
from kbtool.knowledge import HOME, Knowledge
from kbtool.namespaces import CG, local_name
from kbtool.witness import AS_OF

BAD = sorted((Path(__file__).parent / "bad_checks" / "knowledge").glob("*.ru"))
CASES = Path(__file__).parent / "patients"
IDS = [file.stem for file in BAD]


def header(file: Path, key: str) -> list[str]:
    return re.findall(rf"^#\+ {key}: (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)


def damaged(file: Path, folder: Path) -> Path:
    """A copy of the ontology after the update of a file; its root."""
    shutil.copytree(HOME / "ontology", folder, dirs_exist_ok=True)
    (module,) = header(file, "module")
    store = ox.Store()
    store.load((folder / module).read_bytes(), ox.RdfFormat.TURTLE)
    before = set(store)
    store.update(file.read_text(encoding="utf-8"))
    assert set(store) != before, "the update changes nothing"
    (folder / module).write_bytes(ox.serialize((q.triple for q in store), format=ox.RdfFormat.TURTLE) or b"")
    return folder / "kb.ttl"


def group_of(check: str) -> list[Group]:
    for group, checks in GROUPS.items():
        if check in checks:
            return [group]
    return []


GROUPS: dict[Group, set[str]] = {
    modules.modules: {"UndeclaredTerm", "MissingImport", "AxiomInRoot", "UnusedCatalogEntry"},
    reasoning.reasoning: {
        "Inconsistent",
        "UnsatisfiableClass",
        "EquivalentCriteria",
        "RedundantCondition",
        "RedundantPrerequisite",
        "RedundantRule",
    },
    rules.rules: {
        "UnreachableRule",
        "NeverRecommended",
        "RecommendedAndProhibited",
        "FamilyOverlap",
        "FamilyGap",
        "ShadowedRule",
        "PrerequisiteCycle",
        "NothingOpens",
        "NeverAttached",
    },
    traceability.traceability: {"NoFiringCase", "NoNonFiringCase", "UnknownRuleInCase"},
}
QUERIES = {"ThresholdTwice": "threshold-twice.rq", "UnusedPolicy": "unused-policy.rq"}


def found_by(check: str, context: Context) -> list[Finding]:
    if check in QUERIES:
        return list(shapes.run_query(context.knowledge, CG[check].value, HOME / "queries" / "check" / QUERIES[check]))
    return [finding for group in group_of(check) for finding in group(context)]


def said(finding: Finding) -> str:
    return " ".join([local_name(finding.check), *([local_name(finding.subject)] if finding.subject else [])])


@pytest.mark.parametrize("file", BAD, ids=IDS)
def test_each_check_finds_its_bad_example(file: Path, tmp_path: Path) -> None:
    knowledge = Knowledge.load(damaged(file, tmp_path))
    wanted = header(file, "finds")
    checks = {name.split()[0] for name in wanted}
    groups = {group_of(check)[0] if group_of(check) else check for check in checks}
    found = [
        f
        for some in groups
        for f in found_by(some if isinstance(some, str) else next(iter(GROUPS[some])), Context(knowledge, CASES))
    ]
    assert set(wanted) <= {said(f) for f in found}
    for name in header(file, "names"):
        assert any(name in f.message for f in found if said(f) in wanted)
    for finding in found:
        if finding.check in {CG[name].value for name in GROUPS[rules.rules]}:
            assert replayed(finding, knowledge)


def replayed(finding: Finding, knowledge: Knowledge) -> bool:
    """Whether the witness, assessed anew, shows what the finding says that it shows."""
    assert finding.witness
    assert finding.shown is not None
    (answer,) = kbtool.KnowledgeBase(knowledge).assess(finding.witness.encode(), as_of=AS_OF).values()
    assert not answer.data.get("refused")
    assert not answer.data["setAside"]
    lines = dict(line.split(": ", 1) for line in finding.shown.splitlines())
    for status in ("recommended", "blocked"):
        names = [r["name"] for r in answer.data["recommendations"] if r["status"] == status]
        assert sorted(filter(None, lines.get(status, "").split(", "))) == sorted(names)
    holding = [a["name"] for a in answer.data["assessments"] if a["state"] == "holds"]
    assert sorted(filter(None, lines.get("assessments holds", "").split(", "))) == sorted(holding)
    return True


@cache
def good() -> Context:
    return Context(kbtool.load().knowledge, CASES)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_the_shipped_knowledge_base_has_no_fault(group: Group) -> None:
    assert [f.message for f in group(good())] == []
