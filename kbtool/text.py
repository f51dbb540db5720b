"""Print answers for a person, top-down by what matters to the patient: what was refused or set aside, emergencies,
hard stops, conflicts, what to do now in order, what waits and for what, what is open, what is missing, prohibitions,
assessments, cautions with their sources, what is already met."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

Json = dict[str, Any]

_WIDTH = 110


def render(document: Json, labels: dict[str, str], statements: dict[str, str]) -> str:
    """The whole answer as text.

    labels: local name to label, for the names that entries refer to. statements: what the source says, by identifier.
    """
    kb = document["kb"]
    parts = [f"{kb['iri']} {kb['version']}, as of {document['asOf']}", "No clinician has approved this content. It supports a decision and does not make one.", ""]
    parts += [line for p in document["patients"] for line in patient_lines(p, labels, statements)]
    parts += _unassigned(document["unassigned"])
    return "\n".join(parts)


def patient_lines(patient: Json, labels: dict[str, str], statements: dict[str, str]) -> list[str]:
    """The answer for one patient, as lines."""
    return list(_Printer(patient, labels, statements).lines())


def _unassigned(nodes: Iterable[str]) -> list[str]:
    nodes = list(nodes)
    if not nodes:
        return []
    return ["NOT READ: these belong to no patient (is `a cg:Patient` or a link such as cg:hasFinding missing?)", *(f"  {n}" for n in nodes), ""]


def fact_text(fact: Json) -> str:
    """A fact as reported, in a few words."""
    words = [fact["label"] or fact["name"] or fact["fact"]]
    if "value" in fact:
        words.append(f"{fact['value']} {fact.get('unit', '')}".strip())
    if "dailyDose" in fact:
        words.append(f"{fact['dailyDose']} {fact.get('unit', '')}".strip())
    if "time" in fact:
        words.append(f"({fact['time']})")
    elif "onset" in fact:
        words.append(f"(since {fact['onset']})")
    elif "start" in fact:
        words.append(f"(since {fact['start']})")
    if fact.get("derivedFrom"):
        words.append("from " + " and ".join(fact_text(f) for f in fact["derivedFrom"]))
    return " ".join(words)


def parameter_text(parameter: Json) -> str:
    """A parameter with its number and unit."""
    signs = {"value": "", "minInclusive": "at least ", "minExclusive": "above ", "maxInclusive": "at most ", "maxExclusive": "below "}
    numbers = [sign + parameter[key] for key, sign in signs.items() if key in parameter]
    return f"{parameter['label']} {' and '.join(numbers)} {parameter['unit'] or ''}".rstrip()


def explain(entry: Json) -> str:
    """One entry of an answer with its reasons, as lines of text."""
    lines = [f"{entry['label']}: {entry.get('status', entry.get('state'))}"]
    lines += [f"  because {fact_text(f)}" for f in entry["because"]]
    for key, words in (("needs", "needs"), ("blockedBy", "waits for"), ("openedBy", "opened by"), ("statements", "statement"), ("sources", "source")):
        lines += [f"  {words} {value}" for value in entry.get(key, [])]
    return "\n".join(lines)


class _Printer:
    def __init__(self, patient: Json, labels: dict[str, str], statements: dict[str, str]) -> None:
        self.patient, self.labels, self.statements = patient, labels, statements
        self.recommendations = patient["recommendations"]

    def lines(self) -> Iterator[str]:
        yield "=" * _WIDTH
        yield f"PATIENT {self.patient['patient']}"
        yield "=" * _WIDTH
        if self.patient.get("refused"):
            yield from self._section("REFUSED: nothing was derived for this patient. Correct the facts below and assess again.", [self._violation(v) for v in self.patient["refused"]])
            return
        yield from self._section("SET ASIDE: these observations are not used and count as missing", [self._violation(v) for v in self.patient["setAside"]])
        yield from self._section("CHECK: used as reported, but unusual", [self._violation(v) for v in self.patient["warnings"]])
        if not self.patient["inScope"]:
            yield "OUT OF SCOPE: the guideline does not speak for this patient, so it recommends and forbids nothing."
            yield "That is not a finding that nothing is wrong. Only cautions from the safety overlay are shown."
            yield ""
        holds = [a for a in self.patient["assessments"] if a["state"] == "holds"]
        prohibitions = self.patient["prohibitions"]
        yield from self._section("EMERGENCY", [self._entry(a) for a in holds if a["emergency"]])
        feared = [a for a in self.patient["assessments"] if a["state"] == "possible" and a["emergency"]]
        yield from self._section("EMERGENCY NOT EXCLUDED", [self._feared(a) for a in feared])
        yield from self._section("HARD STOP: do not carry out this order", [self._entry(p) for p in prohibitions if p["hardStop"]])
        yield from self._section("CONFLICT: a forbidden order, and a danger in forbidding it. A clinician must decide.", [self._entry(p) for p in prohibitions if p["overridable"]])
        critical = [c for c in self.patient["cautions"] if c["state"] == "holds" and c["severity"] == "critical"]
        yield from self._section("CRITICAL: read this before following the rest", [self._caution(c) for c in critical])
        yield from self._section("DO NOW, in this order", [self._recommendation(r) for r in self._status("recommended")], numbered=True)
        rest = [p for p in prohibitions if p["state"] == "holds" and not p["hardStop"] and not p["overridable"]]
        yield from self._section("DO NOT", [self._entry(p) for p in rest])
        yield from self._section("CONTRAINDICATED", [self._recommendation(r) for r in self._status("contraindicated")])
        yield from self._section("WAITS", self._blocked())
        yield from self._section("OPEN: cannot be decided without more facts", [self._open(r) for r in self._status("undetermined")])
        yield from self._section("MISSING", self._missing())
        yield from self._section("WHAT THE FACTS MEAN", [self._entry(a) for a in holds if not a["emergency"]])
        yield from self._section("CAUTIONS from outside the source", [self._caution(c) for c in self.patient["cautions"] if c["state"] == "holds" and c not in critical])
        yield from self._section("ALREADY MET", [[r["label"]] for r in self._status("satisfied")])
        yield from self._section("NOT EXCLUDED", self._possible())
        yield from self._section("WHAT THE SOURCE SAYS", self._said())
        if self.patient["assumptions"]:
            yield from self._section("TAKEN FOR GRANTED", [[a] for a in self.patient["assumptions"]])

    def _section(self, title: str, items: list[list[str]], *, numbered: bool = False) -> Iterator[str]:
        if not items:
            return
        yield title
        for number, (head, *rest) in enumerate(items, 1):
            mark = f"{number}." if numbered else "-"
            yield from textwrap.wrap(head, _WIDTH, initial_indent=f"  {mark} ", subsequent_indent="     ")
            for line in rest:
                yield from textwrap.wrap(line, _WIDTH, initial_indent="     ", subsequent_indent="       ")
        yield ""

    def _status(self, status: str) -> list[Json]:
        return [r for r in self.recommendations if r["status"] == status]

    def _label(self, name: str) -> str:
        return self.labels.get(name, name)

    def _violation(self, violation: Json) -> list[str]:
        value = f", value {violation['value']}" if violation["value"] is not None else ""
        return [violation["message"], f"at {violation['focus']}{value}"]

    def _source(self, entry: Json) -> str:
        return f"[{entry['name']}; source: {' '.join(entry['statements'])}]"

    def _because(self, entry: Json) -> list[str]:
        return [f"because: {'; '.join(fact_text(f) for f in entry['because'])}"] if entry["because"] else []

    def _entry(self, entry: Json) -> list[str]:
        lines = [f"{entry['label']} {self._source(entry)}"]
        lines += [f"caution {c['id']} ({c['severity']}): {c['label']}" for c in entry["cautions"] if c["state"] == "holds" and c["severity"] in ("critical",)]
        lines += [f"order: {fact_text(o)}" for o in entry.get("orders", [])]
        if entry.get("needs") and entry.get("orders"):
            lines.append(f"not known: {', '.join(map(self._label, entry['needs']))}")
        return lines + self._because(entry)

    def _recommendation(self, entry: Json) -> list[str]:
        strength = "" if entry["strength"] in (None, "do") else f" ({entry['strength']})"
        lines = [f"{entry['label']}{strength} {self._source(entry)}"]
        lines += self._because(entry)
        if entry["parameters"]:
            lines.append("; ".join(parameter_text(p) for p in entry["parameters"]))
        if entry["missingParameters"]:
            lines.append(f"not given by the source: {'; '.join(p['label'] for p in entry['missingParameters'])}")
        for caution in entry["cautions"]:
            if caution["state"] == "holds":
                conflict = "CONFLICT, " if entry["conflict"] and caution["severity"] not in ("high", "caution", "info", "data quality") else ""
                lines.append(f"{conflict}{caution['id']} ({caution['severity']}): {caution['label']}")
        return lines

    def _blocked(self) -> list[list[str]]:
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for entry in self._status("blocked"):
            groups.setdefault((tuple(entry["blockedBy"]), tuple(entry["openedBy"])), []).append(entry["label"])
        items = []
        for (states, openers), names in groups.items():
            lines = ["; ".join(names), f"waits for: {'; '.join(map(self._label, states))}"]
            if openers:
                lines.append(f"opened by: {'; '.join(map(self._label, openers))}")
            items.append(lines)
        return items

    def _open(self, entry: Json) -> list[str]:
        return [f"{entry['label']} [{entry['name']}]", f"needs: {', '.join(map(self._label, entry['needs']))}"]

    def _missing(self) -> list[list[str]]:
        required = {n for r in self.recommendations for n in r["needs"]} | {n for p in self.patient["prohibitions"] for n in p["needs"]}
        unused: dict[str, list[Json]] = {}
        for fact in self.patient["notUsed"]:
            unused.setdefault(fact["name"], []).append(fact)
        measured = {r["name"] for r in self._status("recommended")}
        items = []
        for name in self.patient["missing"]:
            known = unused.get(name, [])
            if name not in required and not known and f"Measure{name}" not in measured:
                continue
            items.append([self._label(name), *(f"on record, not used: {fact_text(f)}: {f['reasonLabel']}" for f in known)])
        return items

    def _caution(self, entry: Json) -> list[str]:
        on = ", ".join(t["label"] for t in entry["on"])
        conflict = "CONFLICT, " if entry["conflict"] else ""
        return [f"{conflict}{entry['id']} ({entry['severity']}) on {on}: {entry['label']}", entry["text"] or "", *self._because(entry), f"sources: {'; '.join(entry['sources'])}"]

    def _feared(self, entry: Json) -> list[str]:
        return [f"{entry['label']} {self._source(entry)}", f"cannot be excluded without: {', '.join(map(self._label, entry['needs']))}"]

    def _said(self) -> list[list[str]]:
        """The statements behind what is to be done and not done, and those that explain it."""
        shown = [*self._status("recommended"), *self._status("contraindicated"), *self.patient["prohibitions"], *self.patient["assessments"]]
        active = [e for e in shown if e.get("state", "holds") == "holds"]
        cited = {s for e in active for s in (*e["statements"], *e["explainedBy"])}
        return [[f"{s}: {self.statements[s]}"] for s in sorted(cited) if s in self.statements]

    def _possible(self) -> list[list[str]]:
        groups: dict[tuple[str, ...], list[str]] = {}
        for entry in [*self.patient["prohibitions"], *self.patient["assessments"], *self.patient["cautions"]]:
            if entry["state"] == "possible" and not entry.get("emergency"):
                name = f"{entry['id']} {entry['label']}" if "id" in entry else entry["label"]
                groups.setdefault(tuple(entry["needs"]), []).append(name)
        return [[f"without {', '.join(map(self._label, needs))}: {'; '.join(names)}"] for needs, names in groups.items()]
