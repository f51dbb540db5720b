"""`kbtool check` as its users run it: exit codes, places, severities, groups, formats, and what cannot be loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kbtool.checks import run, shapes
from kbtool.checks.locate import Places
from kbtool.checks.model import Severity
from kbtool.checks.report import Report
from kbtool.cli import app
from kbtool.knowledge import HOME, KnowledgeError
from kbtool.namespaces import CG, local_name

BAD = Path(__file__).parent / "bad_checks"
PROFILE = """@prefix cg: <https://w3id.org/kbtool/cg/> .
cg:Mine a cg:Profile ; cg:{severity} cg:{check} .
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the ontology; its root."""
    shutil.copytree(HOME / "ontology", tmp_path / "ontology")
    return tmp_path / "ontology" / "kb.ttl"


def edit(root: Path, module: str, change: Callable[[str], str]) -> None:
    file = root.parent / module
    before = file.read_text(encoding="utf-8")
    assert change(before) != before
    file.write_text(change(before), encoding="utf-8")


def modules_of(root: Path) -> Report:
    return run.check(root, groups=["ModuleChecks"])


def said(report: Report) -> list[str]:
    return [local_name(finding.check) for finding in report.findings]


def test_a_broken_file_is_named_with_its_line_and_stops_the_other_checks(copy: Path) -> None:
    edit(copy, "local-policy.ttl", lambda text: text.replace("a rdfs:Datatype ;", "a rdfs:Datatype ; ; ]", 1))
    report = run.check(copy)
    (finding,) = report.findings
    assert local_name(finding.check) == "TurtleSyntax"
    assert finding.file == copy.parent / "local-policy.ttl"
    assert finding.line
    assert [g.reason for g in report.groups[1:]] == ["the knowledge base cannot be loaded"] * 5
    assert report.failed


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    report = modules_of(tmp_path / "nothing.ttl")
    assert said(report) == ["TurtleSyntax"]
    assert "nothing.ttl" in report.findings[0].message


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('uri="safety.ttl"', 'uri="gone.ttl"'),
        lambda text: text.replace("</catalog>", ""),
    ],
    ids=["file gone", "not XML"],
)
def test_an_import_that_leads_nowhere_is_found(copy: Path, change: Callable[[str], str]) -> None:
    edit(copy, "catalog-v001.xml", change)
    assert "ImportInCatalog" in said(modules_of(copy))


def test_an_import_that_the_catalog_does_not_list_is_found(copy: Path) -> None:
    edit(copy, "kb.ttl", lambda text: text.replace("owl:imports <https", "owl:imports <https://example.org/none> , <https", 1))
    report = modules_of(copy)
    assert said(report) == ["ImportInCatalog"]
    assert "https://example.org/none, which is not in the catalog" in report.findings[0].message


def test_a_catalog_entry_that_nothing_imports_is_found(copy: Path) -> None:
    edit(
        copy,
        "catalog-v001.xml",
        lambda text: text.replace("</catalog>", '<uri name="https://example.org/x" uri="x.ttl"/></catalog>'),
    )
    report = modules_of(copy)
    assert said(report) == ["UnusedCatalogEntry"]
    assert not report.failed


def test_what_is_turtle_and_no_knowledge_base_is_found(copy: Path) -> None:
    edit(copy, "guideline.ttl", lambda text: text.replace("owl:unionOf", "owl:complementOf"))
    report = modules_of(copy)
    assert said(report) == ["Loadable"]
    assert "outside the fragment" in report.findings[0].message


def test_the_subject_is_found_in_its_file(copy: Path) -> None:
    places = Places([copy.parent / "safety.ttl", copy.parent / "vocabulary.ttl"])
    file, line = places.of("https://w3id.org/kbtool/dialysis/Baclofen")
    assert file == copy.parent / "vocabulary.ttl"
    assert line
    assert file.read_text(encoding="utf-8").splitlines()[line - 1].startswith("dk:Baclofen")
    assert places.of("https://example.org/nowhere") == (copy.parent / "safety.ttl", None)


def test_a_profile_changes_severities(tmp_path: Path) -> None:
    checks = [*shapes.shape_checks(), *run.described_checks()]
    for severity in Severity:
        profile = tmp_path / f"{severity}.ttl"
        profile.write_text(PROFILE.format(severity=severity, check="FamilyGap"), encoding="utf-8")
        assert run.severities(profile, checks)[CG["FamilyGap"].value] is severity
    profile.write_text(PROFILE.format(severity="note", check="NoSuchCheck"), encoding="utf-8")
    with pytest.raises(KnowledgeError, match="NoSuchCheck is no check"):
        run.severities(profile, checks)
    profile.write_text("no turtle", encoding="utf-8")
    with pytest.raises(KnowledgeError, match="not valid Turtle"):
        run.severities(profile, checks)


def test_every_check_is_described_and_has_a_severity() -> None:
    checks = [*run.described_checks(), *shapes.shape_checks()]
    severities = run.severities(HOME / "shapes" / "profile.ttl", checks)
    assert len({c.iri for c in checks}) == len(checks)
    for check in checks:
        assert check.label, check
        assert check.problem, check
        assert check.solution, check
        assert check.iri in severities


def test_every_check_has_a_bad_example() -> None:
    """In tests/bad_checks, or in this file for those that are about whole files."""
    files = [
        *BAD.rglob("*.ru"),
        *BAD.rglob("*.ttl"),
        *BAD.rglob("*.rq"),
        Path(__file__),
        Path(__file__).with_name("test_check.py"),
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert [c.iri for c in run.described_checks() if not re.search(rf"\b{local_name(c.iri)}\b", text)] == []


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", *arguments])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_exit_codes(copy: Path, tmp_path: Path) -> None:
    only = ["--ontology", str(copy), "--group", "ModuleChecks", "--quiet"]
    assert invoke(*only)[0] == 0
    edit(
        copy,
        "kb.ttl",
        lambda text: text + "\n<https://w3id.org/kbtool/dialysis/Baclofen> a <http://www.w3.org/2002/07/owl#Class> .\n",
    )
    code, text = invoke(*only)
    assert code == 1
    assert "AxiomInRoot" in text
    mild = tmp_path / "mild.ttl"
    mild.write_text(PROFILE.format(severity="warning", check="AxiomInRoot"), encoding="utf-8")
    assert invoke(*only, "--profile", str(mild))[0] == 0
    assert invoke(*only, "--profile", str(mild), "--fail-on", "warning")[0] == 1
    assert invoke("--group", "Nonsense")[0] == 2
    assert invoke("--format", "nonsense")[0] == 2
    assert invoke("--fail-on", "nonsense")[0] == 2
    assert invoke("--profile", str(tmp_path / "none.ttl"))[0] == 2


def test_a_check_that_cannot_run_is_told(copy: Path) -> None:
    code, text = invoke("--ontology", str(copy), "--group", "ReasonerChecks", "--timeout", "0.01", "--quiet")
    assert code == 2
    assert "NOT RUN" in text
    code, text = invoke("--ontology", str(copy), "--group", "TraceabilityChecks", "--cases", str(copy.parent), "--quiet")
    assert code == 2
    assert "no worked patients" in text


def test_output_goes_to_a_file_and_a_summary_to_the_terminal(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    code, text = invoke("--ontology", str(copy), "--group", "ModuleChecks", "--format", "json", "--output", str(out))
    assert code == 0
    assert "0 errors" in text
    assert "modules and queries: started" in text
    assert json.loads(out.read_text(encoding="utf-8"))["findings"] == []


def test_the_list_of_checks() -> None:
    code, text = invoke("--list")
    assert code == 0
    assert "error: UnreachableRule" in text
    assert "note: UnusedPolicy" in text


def test_a_case_that_fires_a_rule_and_one_that_does_not(copy: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    cases.mkdir()
    expected = {"recommendations": {"recommended": ["ApplyIce"]}, "prohibitions": {}, "assessments": {}, "cautions": {}}
    (cases / "One.expected.json").write_text(json.dumps(expected), encoding="utf-8")
    report = run.check(copy, groups=["TraceabilityChecks"], cases=cases)
    about = {(local_name(f.check), local_name(f.subject or "")) for f in report.findings}
    assert ("NoNonFiringCase", "ApplyIce") in about
    assert ("NoFiringCase", "ApplyIce") not in about
    assert ("NoFiringCase", "MassageMuscle") in about
    assert ("NoNonFiringCase", "MassageMuscle") not in about
