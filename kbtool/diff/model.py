"""What a comparison consists of: changes of the knowledge by section, changes of advice by how dangerous they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from kbtool.namespaces import local_name

SECTIONS = {
    "scope": "For whom the guideline speaks, and of what it consists",
    "thresholds": "Thresholds",
    "numbers": "Doses and other numbers of the advice",
    "rules": "Rules",
    "conditions": "Conditions that rules rest on",
    "facts": "Facts: quantities, findings, drugs, treatments, orders",
    "codes": "Codes",
    "parts": "Actions, steps, severities and other parts of rules",
    "owners": "Moved between modules",
    "deprecated": "Deprecated and replaced",
    "statements": "Statements, policies, questions",
    "words": "Labels, definitions and notes",
    "language": "Guideline language",
    "modules": "Modules",
    "rest": "Everything else",
    "same": "Written in another way, with the same meaning",
}
"""The sections of a comparison, in order, with their titles."""

FOLDED = frozenset({"statements", "words", "language", "modules", "rest", "same"})
"""Sections that a reader may open, and need not read before the others."""

DECIDING = frozenset({"scope", "thresholds", "numbers", "rules", "conditions", "facts", "codes", "parts", "owners"})
"""Sections whose changes can decide about a patient by the knowledge itself."""

NOTHING = "says nothing"
"""The status of a rule that says nothing of a patient."""

GROUPS = {
    "refused": "Refused by one side: nothing is derived, which is not a finding that nothing is wrong",
    "out of scope": "No longer in scope: nothing is said of them any more",
    "stop gone": "A hard stop or an emergency is gone, or a possible emergency",
    "now allowed": "Was forbidden, is recommended",
    "prohibition gone": "A prohibition is gone or weaker",
    "now forbidden": "Was recommended, is forbidden",
    "newly recommended": "Newly recommended",
    "no longer recommended": "No longer recommended",
    "stop new": "A new hard stop or emergency",
    "caution gone": "A caution that held is gone or only possible",
    "weight": "Another severity, strength or urgency, or a conflict that is told on one side only",
    "numbers": "Other numbers in the advice",
    "status": "Other changes of status",
    "details": "The same status, other details",
    "reasons": "The same advice, other facts used",
}
"""The groups of changes, the most dangerous first, with their titles."""

SAFETY_CRITICAL = frozenset(list(GROUPS)[: list(GROUPS).index("numbers") + 1])
"""The groups that a clinician must have seen before the new knowledge is used."""

PATIENT = ""
"""Stands where the IRI of a rule stands, for what is said of the patient as a whole."""


@dataclass(frozen=True)
class Detail:
    """One thing that changed: what it is, its values before and after in words. lines: a definition with what goes and
    comes marked, as `criteria.aligned` gives it. prose: whether the values are running text. decides: whether advice can
    change by it; by words and citations it cannot."""

    what: str
    old: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    prose: bool = False
    decides: bool = True


@dataclass(frozen=True)
class Entry:
    """What changed about one term. change: added, removed or changed. rules: labels of the rules that rest on it. notes: what
    a reviewer should look at."""

    iri: str
    kind: str
    label: str
    change: str
    details: tuple[Detail, ...] = ()
    rules: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The local name of the term, by which files know it; empty for a structure without a name."""
        return "" if self.iri.startswith("_:") else local_name(self.iri)

    @property
    def deciding(self) -> tuple[Detail, ...]:
        """The details by which advice can change."""
        return tuple(detail for detail in self.details if detail.decides)

    @property
    def decides(self) -> bool:
        """Whether advice can change by it."""
        return self.change != "changed" or bool(self.deciding)


@dataclass
class KnowledgeDiff:
    """All changes by section, in the order of SECTIONS; a section without a change is not there.

    affected: for each rule (IRI) that itself or through what it rests on is changed, the IRIs of what is changed; changes of
    words only do not count.
    """

    sections: dict[str, list[Entry]]
    affected: dict[str, list[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sections)

    def find(self, iri: str) -> Entry | None:
        """What changed in the meaning of a term, where anything did."""
        return next((e for e in self.deciding() if e.iri == iri), None)

    def deciding(self) -> Iterator[Entry]:
        """The changes by which advice can change, in the order of their sections."""
        return (e for key, entries in self.sections.items() if key in DECIDING for e in entries if e.decides)


@dataclass(frozen=True)
class Change:
    """What changed for some patients: of which rule (IRI, or PATIENT), in what, from what to what."""

    group: str
    kind: str
    rule: str
    aspect: str
    old: str
    new: str


@dataclass(frozen=True)
class Example:
    """A patient for whom something changed.

    facts: those that what is changed in the knowledge is about, or else those on which the rule rests on one side only, or
    else all on which it rests, in words; why, where the patient is refused. lacks: what is lacking. waits: the states that it
    waits for on one side only.
    """

    patient: str
    facts: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()


@dataclass
class AdviceDiff:
    """Whose advice changes.

    as_of: the time of the assessment. patients: how many were compared. changed: for how many anything that is advised
    differs; critical: of these, for how many in a way of SAFETY_CRITICAL; reasons_only: for how many only the facts that were
    used differ. refused: patients that both refuse and that nothing can be said of. counts: patients by change. examples: a few
    patients by change. totals: for each rule the number of patients by status, before and after. by_rule: for each rule the
    number of patients whose advice on it changes. strays: how many nodes of the facts belong to no patient and were not read.
    """

    as_of: str
    patients: int = 0
    changed: int = 0
    critical: int = 0
    reasons_only: int = 0
    refused: int = 0
    counts: Counter[Change] = field(default_factory=Counter)
    examples: dict[Change, list[Example]] = field(default_factory=dict)
    totals: tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]] = field(default_factory=lambda: (Counter(), Counter()))
    by_rule: Counter[str] = field(default_factory=Counter)
    strays: tuple[int, int] = (0, 0)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def ordered(self) -> list[tuple[Change, int]]:
        """The changes, the most dangerous first, then by number of patients."""
        place = {group: n for n, group in enumerate(GROUPS)}
        return sorted(
            self.counts.items(),
            key=lambda pair: (
                place[pair[0].group],
                -pair[1],
                pair[0].kind,
                pair[0].rule,
                pair[0].aspect,
                pair[0].old,
                pair[0].new,
            ),
        )
