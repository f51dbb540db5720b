"""Compare two sides, and put what was found into the form in which it is printed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from kbtool import engine
from kbtool.diff import advice as of_advice
from kbtool.diff import inputs, sources
from kbtool.diff import knowledge as of_knowledge
from kbtool.diff.advice import Progress
from kbtool.diff.model import FOLDED, GROUPS, SAFETY_CRITICAL, SECTIONS, AdviceDiff, Change, Entry, KnowledgeDiff
from kbtool.diff.sources import LogicChange, Side
from kbtool.diff.terms import Terms

Json = dict[str, Any]

_MOST_CAUSES = 4


class DiffFormat(StrEnum):
    """What a comparison is printed as."""

    text = "text"
    markdown = "markdown"
    json = "json"


@dataclass
class Comparison:
    """What differs between two knowledge bases. advice: None where no patients were given."""

    old: Side
    new: Side
    logic: list[LogicChange]
    knowledge: KnowledgeDiff
    advice: AdviceDiff | None
    terms: tuple[Terms, Terms]

    @property
    def same(self) -> bool:
        """Whether nothing that is known, derived or advised differs."""
        return not self.logic and not self.knowledge and not self.advice

    def label(self, iri: str) -> str:
        """What a term is called, on the new side or else on the old one."""
        new, old = self.terms[1].knowledge.labels, self.terms[0].knowledge.labels
        return new.get(iri) or old.get(iri) or self.terms[1].words.label(iri)

    def to_json(self) -> Json:
        """The whole comparison; lists are in the order in which a reader needs them."""
        document = {
            "old": _side(self.old),
            "new": _side(self.new),
            "same": self.same,
            "logic": [asdict(each) for each in self.logic],
            "knowledge": {
                "sections": [
                    {"key": key, "title": SECTIONS[key], "folded": key in FOLDED, "entries": [_entry(e) for e in entries]}
                    for key, entries in self.knowledge.sections.items()
                ],
                "affected": self._affected(),
            },
            "advice": None if self.advice is None else self._advice(self.advice),
        }
        plain: Json = json.loads(json.dumps(document))
        return plain

    def _affected(self) -> list[Json]:
        """The rules that are changed, or rest on something that is, put together where that is the same."""
        found: dict[tuple[str, ...], list[Json]] = {}
        for rule in self.knowledge.affected:
            found.setdefault(tuple(self._causes_of(rule)), []).append({"rule": rule, "label": self.label(rule)})
        return [{"by": list(causes), "rules": rules} for causes, rules in found.items()]

    def _advice(self, advice: AdviceDiff) -> Json:
        groups: dict[str, list[Json]] = {}
        for change, count in advice.ordered():
            groups.setdefault(change.group, []).append(self._change(change, count, advice))
        rules = [
            {
                "rule": rule,
                "label": self.label(rule),
                "patients": count,
                "statuses": [
                    {"status": status, "old": advice.totals[0][rule, status], "new": advice.totals[1][rule, status]}
                    for status in sorted({s for totals in advice.totals for r, s in totals if r == rule})
                ],
            }
            for rule, count in sorted(advice.by_rule.items(), key=lambda pair: (-pair[1], pair[0]))
        ]
        return {
            "asOf": advice.as_of,
            "patients": advice.patients,
            "changed": advice.changed,
            "critical": advice.critical,
            "reasonsOnly": advice.reasons_only,
            "refusedByBoth": advice.refused,
            "strays": {"old": advice.strays[0], "new": advice.strays[1]},
            "groups": [
                {"key": key, "title": GROUPS[key], "critical": key in SAFETY_CRITICAL, "changes": changes}
                for key, changes in groups.items()
            ],
            "rules": rules,
        }

    def _change(self, change: Change, count: int, advice: AdviceDiff) -> Json:
        causes = [*self._logic_causes(), *self._causes_of(change.rule)][:_MOST_CAUSES] if change.rule else self._of_all(change)
        return {
            "kind": change.kind,
            "rule": change.rule,
            "label": self.label(change.rule) if change.rule else "the patient",
            "aspect": change.aspect,
            "old": change.old,
            "new": change.new,
            "patients": count,
            "causes": causes,
            "examples": [asdict(example) for example in advice.examples.get(change, ())],
        }

    def _of_all(self, change: Change) -> list[str]:
        """Why something differs that is said of a patient as a whole."""
        scope = self.knowledge.sections.get("scope", ()) if change.aspect == "scope" else ()
        return [*self._logic_causes(), *(entry.label + _in_short(entry) for entry in scope)][:_MOST_CAUSES]

    def _logic_causes(self) -> list[str]:
        """What decides about every rule, in a few words: which rule it is about, nobody can tell from its text."""
        files = [f"{each.file} ({each.change})" for each in self.logic if each.decides]
        return files if len(files) < _MOST_CAUSES else [f"{files[0]} and {len(files) - 1} more files of shapes and queries"]

    def _causes_of(self, rule: str) -> Iterator[str]:
        """What of a rule, and of what it rests on, is changed, in a few words each."""
        for iri in sorted(self.knowledge.affected.get(rule, ()), key=lambda iri: iri != rule):
            entry = self.knowledge.find(iri)
            if entry is not None:
                yield ("the rule itself" if iri == rule else entry.label) + _in_short(entry)


def compare(
    old: Side,
    new: Side,
    cohort: Iterable[str] = (),
    as_of: str | datetime | None = None,
    *,
    examples: int = 3,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two sides, as `sources.both` gives them.

    cohort: files and folders of patient facts. as_of: the time of the assessment on both sides, with a zone; now where not given.
    examples: how many patients are shown for each change of advice. `progress` gets how many patients are done.
    Raises FactsError and AsOfError.
    """
    moment = engine.parse_as_of(as_of)
    terms = Terms.of(old.kb.knowledge), Terms.of(new.kb.knowledge)
    knowledge = of_knowledge.compare(*terms, borrowed=(old.borrowed, new.borrowed))
    advice = None
    paths = list(cohort)
    if paths:
        advice = of_advice.compare(
            old.kb.knowledge,
            new.kb.knowledge,
            inputs.chunks(old, new, paths),
            moment,
            about=_about(knowledge, terms),
            examples=examples,
            progress=progress,
        )
    return Comparison(old, new, sources.logic_changes(old, new), knowledge, advice, terms)


def render(comparison: Comparison, format: DiffFormat) -> str:
    """A comparison as text for a terminal, Markdown for a pull request, or JSON."""
    from kbtool.diff import text

    return text.render(comparison.to_json(), format)


def _about(knowledge: KnowledgeDiff, terms: tuple[Terms, Terms]) -> dict[str, set[str]]:
    """For each rule the classes of facts that what is changed about it, or about what it rests on, is about."""
    return {
        rule: {kind for iri in changed if iri != rule for side in terms for kind in side.facts_of(iri)}
        for rule, changed in knowledge.affected.items()
    }


def _side(side: Side) -> Json:
    return {"given": side.given, "what": side.what, "ownLogic": side.own_logic, **side.kb.about}


def _entry(entry: Entry) -> Json:
    data = asdict(entry)
    data["name"] = entry.name
    return data


def _in_short(entry: Entry) -> str:
    """What changed about a term where that can be said in a few words."""
    if entry.change != "changed":
        return f" ({entry.change})"
    first = entry.deciding[0]
    if len(entry.deciding) == 1 and len(first.old) == len(first.new) == 1 and not first.lines:
        return f" ({first.what}: {first.old[0]} → {first.new[0]})"
    return f" ({', '.join(detail.what for detail in entry.deciding)})"
