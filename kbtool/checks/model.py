"""What a check is and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from kbtool.knowledge import Knowledge


class Severity(StrEnum):
    """How much a finding matters: an error stops a release, a warning wants to be looked at, a note only tells."""

    error = "error"
    warning = "warning"
    note = "note"


@dataclass(frozen=True)
class Check:
    """One thing that can be wrong with a knowledge base, described in shapes/checks.ttl or by a shape.

    iri names it; group is the IRI of the group that it belongs to; problem says what it means and solution what to do.
    """

    iri: str
    label: str
    group: str
    problem: str
    solution: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    check: IRI of the check. subject: IRI of the term that it is about, where there is one. message: what is wrong here.
    file and line: where to look; filled in from the subject where a check does not know them. witness: a patient in
    Turtle that shows it, for `kbtool assess`; shown: what the engine answers to that patient. related: IRIs of further
    terms to look at.
    """

    check: str
    subject: str | None
    message: str
    file: Path | None = None
    line: int | None = None
    witness: str | None = None
    shown: str | None = None
    related: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Context:
    """What the checks look at: the knowledge base, its files, golden cases where there are any, and a time limit.

    cases: the folder of worked patients with their expected answers, or None. timeout: seconds for the reasoner.
    """

    knowledge: Knowledge
    cases: Path | None = None
    timeout: float = 300.0

    def label(self, iri: str) -> str:
        """The label of a term, or its IRI."""
        return self.knowledge.labels.get(iri, iri)


Group = Callable[[Context], Iterable[Finding]]


class CannotCheckError(Exception):
    """A group of checks cannot run here. The message says why and what to install or give."""


def count(findings: Iterable[Finding], severities: dict[str, Severity]) -> Iterator[tuple[Severity, int]]:
    """How many findings there are of each severity, worst first."""
    found = [severities[finding.check] for finding in findings]
    for severity in Severity:
        yield severity, found.count(severity)
