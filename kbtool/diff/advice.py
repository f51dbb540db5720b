"""Whose advice changes between two knowledge bases: both assess the same patients at the same time, and every difference in
what they say is counted by rule and by what it was and is, the most dangerous first, with a few examples.

Patients are assessed in batches; of each only the counts, and the few that serve as examples, are kept.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyoxigraph as ox

from kbtool import engine
from kbtool.answer import KINDS
from kbtool.diff.model import NOTHING, PATIENT, SAFETY_CRITICAL, AdviceDiff, Change, Example
from kbtool.facts import Facts, PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import local_name, text
from kbtool.text import fact_text, parameter_text

Json = dict[str, Any]

_MOST_VALUES = 40
"""Kinds of change that are told apart for one property of one rule; numbers made for each patient would be without end."""

_OF_PATIENT = "Patient"
_ASPECTS = {
    "blockedBy": "waits for",
    "blockedWhile": "waits for the end of",
    "measures": "measures",
    "needs": "lacks",
    "openedBy": "opened by",
}
_HARD_STOP, _EMERGENCY, _POSSIBLE_EMERGENCY = "hard stop", "emergency", "possible emergency"
_WEIGHT = ("severity", "strength", "conflict", "emergency")
_STRONG = {_HARD_STOP: 3, "holds": 2, "possible": 1}

Progress = Callable[[int], None]
_Groups = list[list[PatientFacts]]


def compare(
    old: Knowledge,
    new: Knowledge,
    chunks: Iterable[tuple[Facts, Facts]],
    as_of: ox.Literal,
    *,
    about: Mapping[str, Collection[str]] | None = None,
    examples: int = 3,
    size: int = engine.BATCH,
    progress: Progress | None = None,
) -> AdviceDiff:
    """Assess patients with both knowledge bases and compare.

    chunks: the facts piece by piece, each as both sides read it; no patient is in two of them. about: for each rule the classes
    of facts that what changed in the knowledge is about; examples show these facts. examples: how many patients are kept for
    each change; with 0 nothing of a single patient is kept. `progress` gets how many patients are done.
    """
    found = AdviceDiff(as_of.value)
    comparer = _Comparer(old, new, found, about or {}, examples)
    done = 0
    for groups in _batches(_counted(chunks, found), size):
        answers = [
            {result.patient: result.data for result in engine.assess(knowledge, Facts(some, []), as_of, size=size)}
            for knowledge, some in zip((old, new), groups, strict=True)
        ]
        comparer.records = {text(record.patient): record for some in groups for group in some for record in group}
        for patient in answers[0] | answers[1]:
            comparer.patient(patient, answers[0].get(patient), answers[1].get(patient))
        done += len(answers[0] | answers[1])
        if progress:
            progress(done)
    return found


def _counted(chunks: Iterable[tuple[Facts, Facts]], found: AdviceDiff) -> Iterator[tuple[Facts, Facts]]:
    for old, new in chunks:
        found.strays = (found.strays[0] + len(old.strays), found.strays[1] + len(new.strays))
        yield old, new


def _batches(chunks: Iterable[tuple[Facts, Facts]], size: int) -> Iterator[tuple[_Groups, _Groups]]:
    """The same patients of both sides together, so many at a time. Groups that differ (a node that one side takes for its own
    term, and the other for a node that patients share) stay together, whatever their number."""
    some: tuple[_Groups, _Groups] = ([], [])
    for old, new in chunks:
        others = {_names(group): group for group in new.groups}
        differing = []
        for group in old.groups:
            other = others.pop(_names(group), None)
            if other is None:
                differing.append(group)
                continue
            some[0].append(group)
            some[1].append(other)
            if len(some[0]) >= size:
                yield some
                some = ([], [])
        some[0].extend(differing)
        some[1].extend(others.values())
    if any(some):
        yield some


def _names(group: Iterable[PatientFacts]) -> frozenset[str]:
    return frozenset(str(record.patient) for record in group)


class _Comparer:
    """Compares answers one patient after the other, and counts."""

    def __init__(
        self, old: Knowledge, new: Knowledge, found: AdviceDiff, about: Mapping[str, Collection[str]], examples: int
    ) -> None:
        self.about = about
        self.records: dict[str, PatientFacts] = {}
        self.labels = old.labels_by_name | new.labels_by_name
        self.found, self.wanted = found, examples
        self.kinds: defaultdict[tuple[str, str], set[Change]] = defaultdict(set)

    def patient(self, patient: str, old: Json | None, new: Json | None) -> None:
        """Compare the answers for one patient; None where a side did not read the patient."""
        found = self.found
        found.patients += 1
        standing = [_standing(answer) for answer in (old, new)]
        if standing[0] == standing[1] == "refused":
            found.refused += 1
            return
        before, after = self._rules(old), self._rules(new)
        for counter, rules in zip(found.totals, (before, after), strict=True):
            counter.update((rule, status) for rule, (_, status, _) in rules.items())
        changes: dict[Change, tuple[Json | None, Json | None]] = {}
        if standing[0] != standing[1]:
            changes[Change("refused", _OF_PATIENT, PATIENT, "facts", standing[0], standing[1])] = (old, new)
        else:
            changes = self._compared(before, after)
            changes |= dict.fromkeys(self._of_patient(old or {}, new or {}), (None, None))
            changes = {self._told_apart(change): entries for change, entries in changes.items()}
        found.changed += any(change.group != "reasons" for change in changes)
        found.critical += any(change.group in SAFETY_CRITICAL for change in changes)
        found.reasons_only += bool(changes) and all(change.group == "reasons" for change in changes)
        found.by_rule.update({change.rule for change in changes if change.rule and change.group != "reasons"})
        for change, (one, other) in changes.items():
            self._count(change, patient, one, other)

    def _told_apart(self, change: Change) -> Change:
        """A change as it is counted: by its values, or as one of many where there are too many of them."""
        if change in self.found.counts or len(self.kinds[change.rule, change.aspect]) < _MOST_VALUES:
            self.kinds[change.rule, change.aspect].add(change)
            return change
        return replace(change, old=change.old and "other values", new=change.new and "other values")

    def _count(self, change: Change, patient: str, old: Json | None, new: Json | None) -> None:
        self.found.counts[change] += 1
        kept = self.found.examples.setdefault(change, [])
        if len(kept) < self.wanted:
            kept.append(self._example(change, patient, old, new))

    def _example(self, change: Change, patient: str, old: Json | None, new: Json | None) -> Example:
        if change.group == "refused":
            reasons = [v["message"] for answer in (old, new) for v in (answer or {}).get("refused", ())]
            return Example(patient, tuple(dict.fromkeys(reasons)))
        sides = [{f["fact"]: f for f in (entry or {}).get("because", ())} for entry in (old, new)]
        either = sides[0] | sides[1]
        only = [f for iri, f in either.items() if (iri in sides[0]) != (iri in sides[1])]
        asked = list(self._reported(patient, self.about.get(change.rule, ())))
        facts = dict.fromkeys(fact_text(f) for f in asked or only or either.values())
        lacks = dict.fromkeys(self._label(name) for entry in (new, old) for name in (entry or {}).get("needs", ()))
        waits = [set((entry or {}).get("blockedBy", ())) for entry in (old, new)]
        return Example(patient, tuple(facts), tuple(lacks), tuple(sorted(self._label(name) for name in waits[0] ^ waits[1])))

    def _reported(self, patient: str, classes: Collection[str]) -> Iterator[Json]:
        """The facts of a patient of some classes, as they were reported."""
        nodes: dict[str, dict[str, str]] = {}
        for quad in (*self.records[patient].triples, *self.records[patient].reported):
            name = local_name(quad.predicate.value)
            if name != "type" or text(quad.object) in classes:
                nodes.setdefault(text(quad.subject), {})[name] = text(quad.object)
        for node, said in nodes.items():
            if "type" in said:
                kind = local_name(said["type"])
                value = {"value": said["reportedValue"]} if "reportedValue" in said else {}
                yield {**said, "fact": node, "name": kind, "label": self._label(kind), **value}

    def _label(self, name: str) -> str:
        return self.labels.get(name, name)

    # --- What an answer says -----------------------------------------------------------------------------

    @staticmethod
    def _rules(answer: Json | None) -> dict[str, tuple[str, str, Json]]:
        """Each rule in an answer: its kind, its status in a word or two, its entry."""
        found = {}
        for kind, part in KINDS.items():
            for entry in (answer or {}).get(part, ()):
                found[entry["iri"]] = (kind, _status(kind, entry), entry)
        return found

    def _compared(
        self, before: Mapping[str, tuple[str, str, Json]], after: Mapping[str, tuple[str, str, Json]]
    ) -> dict[Change, tuple[Json | None, Json | None]]:
        changes: dict[Change, tuple[Json | None, Json | None]] = {}
        for rule in dict.fromkeys([*before, *after]):
            kind, old_status, old = before.get(rule, ("", NOTHING, None))
            kind, new_status, new = after.get(rule, (kind, NOTHING, None))
            if old_status != new_status:
                changes[Change(_group(kind, old_status, new_status), kind, rule, "status", old_status, new_status)] = (old, new)
            if old is not None and new is not None:
                for change in self._details(kind, rule, old, new):
                    changes[change] = (old, new)
        return changes

    def _details(self, kind: str, rule: str, old: Json, new: Json) -> Iterator[Change]:
        """What differs in the entries of a rule that speaks on both sides, beside its status and what follows from that."""
        overridable = [_said(bool(entry.get("overridable"))) for entry in (old, new)]
        if overridable[0] != overridable[1]:
            group = "prohibition gone" if new.get("overridable") else "details"
            yield Change(group, kind, rule, "hard stop can be overridden", *overridable)
        yield from _differing("prohibition gone", "details", kind, rule, "forbids the order", *_facts("orders", old, new))
        yield from _numbers(kind, rule, old, new)
        if _status(kind, old) != _status(kind, new):
            return
        for aspect in ("state", "severity", "strength", "step", "conflict", "emergency"):
            if old.get(aspect) != new.get(aspect):
                values = [_said(entry.get(f"{aspect}Label") or entry.get(aspect)) for entry in (old, new)]
                group = "weight" if aspect in _WEIGHT else "details"
                yield Change(group, kind, rule, aspect, values[0], values[1])
        for aspect in ("needs", "blockedBy", "blockedWhile", "openedBy", "measures"):
            names = [{name: self._label(name) for name in entry.get(aspect, ())} for entry in (old, new)]
            yield from _differing("details", "details", kind, rule, _ASPECTS[aspect], *names)
        lacking = [{p["name"]: p["label"] for p in entry.get("missingParameters", ())} for entry in (old, new)]
        yield from _differing("details", "details", kind, rule, "number that the source does not give", *lacking)
        for holds, group in ((True, "caution gone"), (False, "details")):
            cautions = [
                {c["id"]: f"{c['id']} {c['state']}" for c in entry.get("cautions", ()) if (c["state"] == "holds") is holds}
                for entry in (old, new)
            ]
            yield from _differing(group, "details", kind, rule, "caution", *cautions)
        targets = [{target["iri"]: target["label"] for target in entry.get("on", ())} for entry in (old, new)]
        yield from _differing("details", "details", kind, rule, "attached to", *targets)
        yield from _differing("reasons", "reasons", kind, rule, "rests on", *_facts("because", old, new))

    def _of_patient(self, old: Json, new: Json) -> Iterator[Change]:
        """What differs in what an answer says of a patient as a whole."""
        scope = ["in scope" if answer["inScope"] else "out of scope" for answer in (old, new)]
        if scope[0] != scope[1]:
            group = "status" if new["inScope"] else "out of scope"
            yield Change(group, _OF_PATIENT, PATIENT, "scope", scope[0], scope[1])
        missing = [{name: self._label(name) for name in answer["missing"]} for answer in (old, new)]
        yield from _differing("details", "details", _OF_PATIENT, PATIENT, "missing", *missing)
        for part, group, words in (("setAside", "details", "set aside"), ("warnings", "reasons", "to check")):
            violations = [{f"{v['focus']} {v['shape']}": _shape(v["shape"]) for v in answer[part]} for answer in (old, new)]
            yield from _differing(group, group, _OF_PATIENT, PATIENT, words, *violations)
        unused = [{f"{f['fact']} {f['reason']}": f"{f['label']}: {f['reasonLabel']}" for f in a["notUsed"]} for a in (old, new)]
        yield from _differing("reasons", "reasons", _OF_PATIENT, PATIENT, "not used", *unused)
        for matters, group in ((True, "details"), (False, "reasons")):
            entries = [[entry for entry in answer.get("notRead", ()) if entry["matters"] is matters] for answer in (old, new)]
            unread = [{json.dumps(e, sort_keys=True): self._label(e["concept"] or "something") for e in some} for some in entries]
            yield from _differing(group, group, _OF_PATIENT, PATIENT, "not read", *unread)
        unknown = [{code: code for code in answer.get("notNeeded", ())} for answer in (old, new)]
        yield from _differing("reasons", "reasons", _OF_PATIENT, PATIENT, "code that is not known", *unknown)
        assumed = [{words: words for words in answer["assumptions"]} for answer in (old, new)]
        yield from _differing("reasons", "reasons", _OF_PATIENT, PATIENT, "assumption", *assumed)
        for part in KINDS.values():
            labels = {e["iri"]: e["label"] for answer in (old, new) for e in answer[part]}
            shared = {(e["iri"], e.get("status") or e["state"]) for e in old[part]}
            shared &= {(e["iri"], e.get("status") or e["state"]) for e in new[part]}
            orders = [
                [e["iri"] for e in answer[part] if (e["iri"], e.get("status") or e["state"]) in shared] for answer in (old, new)
            ]
            if orders[0] != orders[1]:
                first = next(pair for pair in zip(*orders, strict=True) if pair[0] != pair[1])
                places = [f"{labels[iri]} comes first" for iri in first]
                yield Change("details", _OF_PATIENT, PATIENT, f"order of the {part}", places[0], places[1])


def _differing(
    group_gone: str, group_come: str, kind: str, rule: str, aspect: str, old: Mapping[str, str], new: Mapping[str, str]
) -> Iterator[Change]:
    """What is on one side only. old, new: identity to words."""
    for gone in sorted({words for key, words in old.items() if key not in new}):
        yield Change(group_gone, kind, rule, aspect, gone, "")
    for come in sorted({words for key, words in new.items() if key not in old}):
        yield Change(group_come, kind, rule, aspect, "", come)


def _facts(part: str, *entries: Json) -> list[dict[str, str]]:
    """The facts of entries by what tells them apart, as what kind of fact they are; nothing that is a patient's own."""
    told = ("fact", "value", "unit")
    return [
        {" ".join(str(f.get(key)) for key in told): f["label"] or f["name"] or "a fact" for f in entry.get(part, ())}
        for entry in entries
    ]


def _shape(iri: str) -> str:
    """The name of a shape as words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", local_name(iri).removesuffix("Shape")).lower()


def _standing(answer: Json | None) -> str:
    return "not read as a patient" if answer is None else "refused" if answer.get("refused") else "accepted"


def _status(kind: str, entry: Json) -> str:
    """The status of a rule in a word or two, with what makes it urgent."""
    state = str(entry.get("status") or entry["state"])
    if kind == "Assessment" and entry["emergency"]:
        return _EMERGENCY if state == "holds" else _POSSIBLE_EMERGENCY
    if kind == "Prohibition" and entry["hardStop"]:
        return _HARD_STOP
    if kind == "Prohibition" and entry["hardStopPossible"]:
        return f"{state}, hard stop possible"
    return state


def _group(kind: str, old: str, new: str) -> str:
    """How dangerous a change of status is."""
    if {_HARD_STOP, _EMERGENCY} & {old}:
        return "stop gone"
    if {_HARD_STOP, _EMERGENCY} & {new}:
        return "stop new"
    if old == _POSSIBLE_EMERGENCY:
        return "stop gone"
    if kind == "Prohibition":
        strength = [_STRONG.get(status.split(",")[0], 0) + ("stop" in status) / 2 for status in (old, new)]
        return "prohibition gone" if strength[1] < strength[0] else "status"
    if kind == "Caution":
        return "caution gone" if old == "holds" else "status"
    if kind == "Recommendation":
        if old == "contraindicated":
            return "now allowed" if new == "recommended" else "prohibition gone"
        if new == "contraindicated":
            return "now forbidden" if old == "recommended" else "status"
        if new == "recommended":
            return "newly recommended"
        if old == "recommended":
            return "no longer recommended"
    return "status"


def _numbers(kind: str, rule: str, old: Json, new: Json) -> Iterator[Change]:
    """Parameters with other numbers; one that is only called otherwise is none."""
    sides = [{p["name"]: p for p in entry.get("parameters", ())} for entry in (old, new)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        told = [{k: v for k, v in side.get(name, {}).items() if k not in ("label", "definedBy")} for side in sides]
        if told[0] != told[1]:
            words = [parameter_text(side[name]) if name in side else "" for side in sides]
            yield Change("numbers", kind, rule, "parameter", words[0], words[1])


def _said(value: object) -> str:
    return str(value) if isinstance(value, str) else "yes" if value else "no"
