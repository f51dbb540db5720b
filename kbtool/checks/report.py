"""Print what the checks found: as text for a person, and as JSON, JUnit, SARIF or GitHub annotations for a machine.

Findings come worst first, then in the order of the checks, then by place. Text is short: a check is explained once, long
lists and witnesses are cut unless `verbose`. The other formats hold everything. Files are named relative to a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import textwrap
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import kbtool
from kbtool.checks.model import Check, Finding, Severity, count
from kbtool.namespaces import local_name

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_WIDTH = 110
_SHOWN = 8
"""How many findings of one check the text shows."""
_WITNESS_LINES = 6
"""How many lines of a witness the text shows."""

Json = dict[str, Any]


class Format(StrEnum):
    """How a report is written."""

    text = "text"
    json = "json"
    junit = "junit"
    sarif = "sarif"
    github = "github"


class GroupRun(NamedTuple):
    """One group of checks: its IRI and label, how many seconds it took, and why it did not run, where it did not.

    asked: false for a group that did not run because nobody asked for it; that is no fault.
    """

    iri: str
    label: str
    seconds: float
    reason: str | None = None
    asked: bool = True


@dataclass(frozen=True)
class Report:
    """What was checked and what was found.

    checks: all, in the order in which they are reported. severities: of each check, by IRI. groups: all, in order.
    about: iri, version and sha256 of the knowledge base. fails: the mildest severity that makes the knowledge base fail.
    seconds: how long it took; less than the groups together where some ran beside others.
    """

    checks: list[Check]
    severities: dict[str, Severity]
    findings: list[Finding]
    groups: list[GroupRun]
    about: dict[str, str]
    fails: Severity = Severity.error
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether anything was found that is as severe as `fails` or worse."""
        return any(self.is_failure(finding) for finding in self.findings)

    @property
    def incomplete(self) -> bool:
        """Whether a group that was asked for could not run."""
        return bool(self.hindered)

    @property
    def hindered(self) -> list[tuple[str, str]]:
        """Label and reason of each group that was asked for and could not run."""
        return [(group.label, group.reason) for group in self.groups if group.asked and group.reason is not None]

    def is_failure(self, finding: Finding) -> bool:
        """Whether a finding makes the knowledge base fail."""
        return _RANK[self.severities[finding.check]] <= _RANK[self.fails]

    def ordered(self) -> list[Finding]:
        """The findings, worst first, then in the order of the checks, then by file, line, subject and message."""
        place = {check.iri: number for number, check in enumerate(self.checks)}
        return sorted(
            self.findings,
            key=lambda f: (
                _RANK[self.severities[f.check]],
                place[f.check],
                str(f.file or ""),
                f.line or 0,
                f.subject or "",
                f.message,
            ),
        )

    def counts(self) -> dict[str, int]:
        """How many findings there are of each severity, worst first."""
        return {severity.value: number for severity, number in count(self.findings, self.severities)}


def write(format: Format, report: Report, *, base: Path | None = None, verbose: bool = False) -> str:
    """The report in one of the formats, ending in a new line.

    base: the folder to which files are named, by default the working directory. verbose: show whole lists and witnesses
    in text; the other formats always hold them.
    """
    return _WRITERS[format](report, base or Path.cwd(), verbose)


# --- Text ---------------------------------------------------------------------------------------


def _text(report: Report, base: Path, verbose: bool) -> str:
    lines: list[str] = []
    findings = report.ordered()
    labels = {group.iri: group.label for group in report.groups}
    checks = {check.iri: check for check in report.checks}
    for iri in dict.fromkeys(finding.check for finding in findings):
        check, found = checks[iri], [f for f in findings if f.check == iri]
        lines += [
            f"{report.severities[iri].upper()}  {_line(local_name(iri))} ({_line(labels.get(check.group, check.group))})"
            + (f", {len(found)} times" if len(found) > 1 else ""),
            *_wrapped("Problem:  ", check.problem),
            *_wrapped("Solution: ", check.solution),
        ]
        for finding in found if verbose else found[:_SHOWN]:
            lines += _finding_lines(finding, base, verbose)
        if not verbose and len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN} more; --verbose shows all")
        lines.append("")
    return "\n".join([*lines, *_summary(report)]) + "\n"


def _finding_lines(finding: Finding, base: Path, verbose: bool) -> Iterator[str]:
    place = _place(finding, base)
    name = local_name(finding.subject) if finding.subject else ""
    subject = f"{name}: " if name not in finding.message else ""
    if place:
        yield f"  {_line(place)}"
    yield from _wrapped("    ", subject + finding.message, indent="    ")
    if finding.related and verbose:
        yield from _wrapped("    see also ", ", ".join(local_name(iri) for iri in finding.related), indent="      ")
    if finding.witness:
        body = [line for line in _visible(finding.witness).splitlines() if line.strip() and not line.startswith("@prefix")]
        yield "    Shown by this patient:"
        yield from (f"      {line}" for line in (body if verbose else body[:_WITNESS_LINES]))
        if not verbose and len(body) > _WITNESS_LINES:
            yield f"      and {_number(len(body) - _WITNESS_LINES, 'more line')}; --verbose or --format json shows all, to assess"
    if finding.shown:
        yield from _wrapped("    The answer: ", finding.shown, indent="      ")


def _summary(report: Report) -> Iterator[str]:
    counted = ", ".join(_number(number, severity) for severity, number in report.counts().items())
    sizes = Counter(check.group for check in report.checks)
    yield (f"{_number(len(report.groups), 'group')}, {_number(len(report.checks), 'check')}: {counted} in {report.seconds:.1f} s")
    for group in report.groups:
        if group.reason is None:
            yield f"  {_line(group.label):<24} {_number(sizes[group.iri], 'check'):>11} {group.seconds:7.1f} s"
        else:
            yield from _wrapped(f"  {_line(group.label):<24} {'NOT RUN: ' if group.asked else ''}", group.reason, indent=" " * 6)


def _wrapped(head: str, body: str, indent: str = " " * 12) -> list[str]:
    """Text in lines of one width; lines of the text itself stay apart."""
    head = head if head.startswith(" ") else f"  {head}"
    lines: list[str] = []
    for number, line in enumerate(_visible(body).splitlines() or [""]):
        first = indent if number else head
        lines += textwrap.wrap(
            line, _WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [first.rstrip()]
    return lines


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- JSON ---------------------------------------------------------------------------------------


def _json(report: Report, base: Path, verbose: bool) -> str:  # noqa: ARG001
    found = Counter(finding.check for finding in report.findings)
    document: Json = {
        "kb": report.about,
        "conforms": not report.failed,
        "counts": report.counts(),
        "seconds": round(report.seconds, 3),
        "groups": [
            {"iri": g.iri, "label": g.label, "seconds": round(g.seconds, 3)} | ({} if g.reason is None else {"notRun": g.reason})
            for g in report.groups
        ],
        "checks": [
            {
                "iri": c.iri,
                "name": local_name(c.iri),
                "label": c.label,
                "group": c.group,
                "severity": report.severities[c.iri].value,
                "problem": c.problem,
                "solution": c.solution,
                "findings": found[c.iri],
            }
            for c in report.checks
        ],
        "findings": [_finding_json(finding, report, base) for finding in report.ordered()],
    }
    return _dump(document)


def _finding_json(finding: Finding, report: Report, base: Path) -> Json:
    entry: Json = {"check": finding.check, "severity": report.severities[finding.check].value, "message": finding.message}
    if finding.subject is not None:
        entry["subject"] = finding.subject
    if finding.file is not None:
        entry["file"] = _relative(finding.file, base)
    if finding.line is not None:
        entry["line"] = finding.line
    if finding.witness is not None:
        entry["witness"] = finding.witness
    if finding.shown is not None:
        entry["shown"] = finding.shown
    if finding.related:
        entry["related"] = list(finding.related)
    return entry


def _dump(document: Json) -> str:
    # A lone surrogate cannot be written as UTF-8, so the text is made of characters that always can.
    return json.dumps(document, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


# --- JUnit --------------------------------------------------------------------------------------


def _junit(report: Report, base: Path, verbose: bool) -> str:  # noqa: ARG001
    """A suite for each group and a case for each check. What makes the knowledge base fail is a failure; milder findings
    are put out, so that a run that passes has no failures."""
    findings = report.ordered()
    broken = {finding.check for finding in findings if report.is_failure(finding)}
    root = ElementTree.Element("testsuites", name="kbtool check", time=f"{report.seconds:.3f}")
    for group in report.groups:
        checks = [check for check in report.checks if check.group == group.iri]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_xml(group.label),
            tests=str(len(checks)),
            failures=str(sum(check.iri in broken for check in checks)),
            errors="0",
            skipped=str(0 if group.reason is None else sum(check.iri not in broken for check in checks)),
            time=f"{group.seconds:.3f}",
        )
        for check in checks:
            name, kind = _xml(f"{local_name(check.iri)}: {check.label}"), _xml(f"kbtool.{local_name(group.iri)}")
            case = ElementTree.SubElement(suite, "testcase", name=name, classname=kind)
            found = [finding for finding in findings if finding.check == check.iri]
            if group.reason is not None and check.iri not in broken:
                ElementTree.SubElement(case, "skipped", message=_xml(group.reason))
            for finding in found:
                whole = _xml(_whole(finding, check, report, base))
                if report.is_failure(finding):
                    level = report.severities[check.iri].value
                    ElementTree.SubElement(case, "failure", type=level, message=_xml(finding.message)).text = whole
                else:
                    ElementTree.SubElement(case, "system-out").text = whole
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.attrib[name]) for suite in root)))
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _whole(finding: Finding, check: Check, report: Report, base: Path) -> str:
    """A finding with all that belongs to it, as plain text."""
    parts = [
        f"{report.severities[check.iri].value}: {finding.message}",
        _place(finding, base),
        finding.subject or "",
        f"Problem: {check.problem}",
        f"Solution: {check.solution}",
        f"See also: {', '.join(finding.related)}" if finding.related else "",
        f"Shown by this patient:\n{finding.witness}" if finding.witness else "",
        f"The answer: {finding.shown}" if finding.shown else "",
    ]
    return "\n".join(part for part in parts if part)


_NOT_XML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _xml(value: str) -> str:
    """Text without the characters that XML 1.0 forbids or discourages; each is shown by its number instead."""
    return _NOT_XML.sub(_numbered, value)


# --- SARIF --------------------------------------------------------------------------------------


def _sarif(report: Report, base: Path, verbose: bool) -> str:  # noqa: ARG001
    """SARIF 2.1.0: each check is a rule; a group that did not run is a notification."""
    names = _rule_names(report.checks)
    labels = {group.iri: group.label for group in report.groups}
    rules = [
        {
            "id": names[check.iri],
            "shortDescription": _message(check.label),
            "fullDescription": _message(check.problem),
            "help": _message(check.solution),
            "defaultConfiguration": {"level": report.severities[check.iri].value},
            "properties": {"tags": [labels.get(check.group, check.group)], "iri": check.iri},
        }
        for check in report.checks
    ]
    numbers = {check.iri: number for number, check in enumerate(report.checks)}
    seen: Counter[str] = Counter()
    results: list[Json] = []
    for finding in report.ordered():
        result: Json = {
            "ruleId": names[finding.check],
            "ruleIndex": numbers[finding.check],
            "level": report.severities[finding.check].value,
            "message": _message(finding.message),
        }
        if finding.file is not None:
            place: Json = {"artifactLocation": {"uri": _uri(finding.file, base)}}
            if finding.line is not None:
                place["region"] = {"startLine": max(finding.line, 1)}
            result["locations"] = [{"physicalLocation": place}]
        # The line is left out: a finding stays the same one when lines move. Equal ones are told apart by a number.
        about = finding.subject or ("" if finding.file is None else _uri(finding.file, base))
        key = "\n".join([finding.check, about, finding.message])
        digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()
        result["partialFingerprints"] = {"kbtoolFinding/v1": f"{digest}:{seen[digest]}"}
        seen[digest] += 1
        more = {
            "subject": finding.subject,
            "witness": finding.witness,
            "shown": finding.shown,
            "related": list(finding.related) or None,
        }
        result["properties"] = {name: value for name, value in more.items() if value is not None}
        results.append(result)
    notes = [{"level": "warning", "message": _message(f"{label}: not run: {reason}")} for label, reason in report.hindered]
    driver = {"name": "kbtool", "semanticVersion": kbtool.__version__, "rules": rules}
    run: Json = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [{"executionSuccessful": not notes, "toolExecutionNotifications": notes}],
        "results": results,
        "properties": {"kb": report.about},
    }
    return _dump({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]})


def _rule_names(checks: list[Check]) -> dict[str, str]:
    """The local name of each check, or its IRI where two have the same."""
    taken = Counter(local_name(check.iri) for check in checks)
    return {check.iri: name if taken[name := local_name(check.iri)] == 1 else check.iri for check in checks}


def _message(value: str) -> Json:
    """SARIF reads {0} in a message as a place for an argument, so braces are doubled."""
    return {"text": _visible(value).replace("{", "{{").replace("}", "}}")}


def _uri(file: Path, base: Path) -> str:
    name = _relative(file, base)
    return Path(name).as_uri() if Path(name).is_absolute() else quote(name, errors="surrogateescape")


# --- GitHub -------------------------------------------------------------------------------------

_GITHUB_LEVEL = {Severity.error: "error", Severity.warning: "warning", Severity.note: "notice"}


def _github(report: Report, base: Path, verbose: bool) -> str:  # noqa: ARG001
    checks = {check.iri: check for check in report.checks}
    lines = []
    for finding in report.ordered():
        check = checks[finding.check]
        where: dict[str, str] = {}
        if finding.file is not None:
            where["file"] = _relative(finding.file, base)
        if finding.line is not None:
            where["line"] = str(finding.line)
        told = [finding.message, check.solution]
        if finding.witness:
            told.append(f"Shown by this patient:\n{finding.witness}")
        if finding.shown:
            told.append(f"The answer: {finding.shown}")
        title = f"{local_name(check.iri)}: {check.label}"
        lines.append(_command(_GITHUB_LEVEL[report.severities[check.iri]], where | {"title": title}, "\n".join(told)))
    lines += [_command("warning", {"title": f"{label}: not run"}, reason) for label, reason in report.hindered]
    # A line of the summary must not be taken for a command either.
    return "\n".join([*lines, *(_visible(line).replace("::", ": :") for line in _summary(report))]) + "\n"


def _command(level: str, properties: dict[str, str], message: str) -> str:
    """One workflow command of GitHub on one line."""
    told = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items())
    return f"::{level} {told}::{_escaped(message)}"


def _escaped(value: str, more: str = "") -> str:
    value = _visible(value.replace("\r\n", "\n").replace("\r", "\n"))
    for character in "%\r\n" + more:
        value = value.replace(character, f"%{ord(character):02X}")
    return value


# --- Shared -------------------------------------------------------------------------------------


def _place(finding: Finding, base: Path) -> str:
    if finding.file is None:
        return ""
    return _relative(finding.file, base) + ("" if finding.line is None else f":{finding.line}")


def _relative(file: Path, base: Path) -> str:
    """A file as seen from a folder, with slashes; the whole path where it is outside."""
    path, base = Path(os.path.abspath(base / file)), Path(os.path.abspath(base))
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


_HIDDEN = re.compile("[^\t\n\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _visible(value: str) -> str:
    """Text without characters that move the cursor, end a line or turn its direction: a label must not forge a report."""
    return _HIDDEN.sub(_numbered, value)


def _line(value: str) -> str:
    """Visible text on one line."""
    return _visible(value).replace("\n", "\\n")


def _numbered(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


_RANK = {severity: number for number, severity in enumerate(Severity)}

_WRITERS: dict[Format, Callable[[Report, Path, bool], str]] = {
    Format.text: _text,
    Format.json: _json,
    Format.junit: _junit,
    Format.sarif: _sarif,
    Format.github: _github,
}
