"""Print answers for a person, top-down by what matters to the patient: what was refused or set aside, emergencies,
hard stops, conflicts, what to do now in order, what waits and for what, what is open, what is missing, prohibitions,
assessments, cautions with their sources, what is already met."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

Json = dict[str, Any]

_WIDTH = 110
_NAMED = 12
_GRAVE = ("critical", "contraindicated", "avoid", "high")


def render(document: Json, labels: dict[str, str], statements: dict[str, str]) -> str:
    """The whole answer as text.

    labels: local name to label, for the names that entries refer to. statements: what the source says, by identifier.
    """
    kb = document["kb"]
    parts = [
        f"{kb['iri']} {kb['version']}, as of {document['asOf']}",
        "No clinician has approved this content. It supports a decision and does not make one.",
        "",
    ]
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
    return [
        "NOT READ: these belong to no patient (in RDF: is `a cg:Patient` or a link such as cg:hasFinding missing?)",
        *(f"  {n}" for n in nodes),
        "",
    ]


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


def not_needed_text(counts: dict[str, int]) -> str:
    """How many entries of a record carry codes that the guideline does not know, and the most frequent of them."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    named = "; ".join(f"{label} ({count})" if count > 1 else label for label, count in most[:_NAMED])
    more = f"; and {len(most) - _NAMED} more" if len(most) > _NAMED else ""
    return f"{sum(counts.values())} entries under {len(most)} codes or types: {named}{more}"


def parameter_text(parameter: Json) -> str:
    """A parameter with its number and unit."""
    signs = {
        "value": "",
        "minInclusive": "at least ",
        "minExclusive": "above ",
        "maxInclusive": "at most ",
        "maxExclusive": "below ",
    }
    numbers = [sign + parameter[key] for key, sign in signs.items() if key in parameter]
    policy = " (local policy)" if "local-policy" in (parameter.get("definedBy") or "") else ""
    return f"{parameter['label']} {' and '.join(numbers)} {parameter['unit'] or ''}".rstrip() + policy


def _marks(entry: Json) -> str:
    """The cautions on an entry that must not be missed, in brackets."""
    found = [f"{c['id']} {c['severity']}" for c in entry["cautions"] if c["state"] == "holds" and c["severity"] in _GRAVE]
    return f" ({'CONFLICT: ' if entry['conflict'] else ''}{', '.join(found)})" if found else ""


class _Printer:
    def __init__(self, patient: Json, labels: dict[str, str], statements: dict[str, str]) -> None:
        self.patient, self.labels, self.statements = patient, labels, statements
        self.recommendations = patient["recommendations"]

    def lines(self) -> Iterator[str]:
        yield "=" * _WIDTH
        yield f"PATIENT {self.patient['patient']}"
        yield "=" * _WIDTH
        if self.patient.get("refused"):
            yield from self._section(
                "REFUSED: correct these facts and assess again", [self._violation(v) for v in self.patient["refused"]]
            )
            yield "Nothing was checked for this patient, orders included. That is not a finding that nothing is wrong."
            yield ""
            yield from self._unread(matters=True)
            return
        yield from self._unread(matters=True)
        yield from self._section(
            "SET ASIDE: these observations are not used and count as missing",
            [self._violation(v) for v in self.patient["setAside"]],
        )
        yield from self._section("CHECK: used as reported, but unusual", [self._violation(v) for v in self.patient["warnings"]])
        if not self.patient["inScope"]:
            yield "OUT OF SCOPE: the guideline does not speak for this patient, so it recommends and forbids nothing."
            yield "That is not a finding that nothing is wrong. Only cautions from the safety overlay are shown."
            yield ""
        yield from self._urgent()
        yield from self._section(
            "DO NOW, in this order", [self._recommendation(r) for r in self._status("recommended")], numbered=True
        )
        standing = [p for p in self.patient["prohibitions"] if p["state"] == "holds" and not p["orders"]]
        yield from self._section("DO NOT", [self._entry(p) for p in standing])
        yield from self._section("CONTRAINDICATED", [self._recommendation(r) for r in self._status("contraindicated")])
        yield from self._section("WAITS", self._blocked())
        yield from self._section(
            "OPEN: cannot be decided without more facts", [self._open(r) for r in self._status("undetermined")]
        )
        yield from self._section("MISSING", self._missing())
        meaning = [a for a in self.patient["assessments"] if a["state"] == "holds" and not a["emergency"]]
        yield from self._section("WHAT THE FACTS MEAN", [self._entry(a) for a in meaning])
        yield from self._section(
            "CAUTIONS from outside the source", [self._caution(c) for c in self._cautions() if c not in self._pressing()]
        )
        yield from self._section("DONE OR IN PLACE", [self._done(r) for r in self._status("satisfied")])
        yield from self._section("NOT EXCLUDED", self._possible())
        yield from self._section("WHAT THE SOURCE SAYS", self._said())
        yield from self._unread(matters=False)
        yield from self._section(
            "NOT KNOWN TO THE GUIDELINE, and therefore not used",
            [[not_needed_text(self.patient["notNeeded"])]] if self.patient.get("notNeeded") else [],
        )
        if self.patient["assumptions"]:
            yield from self._section("TAKEN FOR GRANTED", [[a] for a in self.patient["assumptions"]])

    def _unread(self, *, matters: bool) -> Iterator[str]:
        """What of the record was not read: what the guideline knows first, and what is known not to count at the end."""
        title = "NOT READ: whether the patient has what these say is unknown, not excluded; look at the record"
        yield from self._section(
            title if matters else "NOT COUNTED, OR NOT IN FULL",
            [self._resource(entry) for entry in self.patient.get("notRead", ()) if entry["matters"] is matters],
        )

    def _resource(self, entry: Json) -> list[str]:
        name = f" ({self._label(entry['concept'])})" if entry["concept"] else ""
        return [f"{entry['resource']}{name}: {entry['reason']}", *([entry["code"]] if entry["code"] else [])]

    def _urgent(self) -> Iterator[str]:
        """Emergencies, orders that must not go through or need a decision, and cautions on what is done or advised."""
        emergencies = [a for a in self.patient["assessments"] if a["emergency"]]
        orders = [p for p in self.patient["prohibitions"] if p["orders"]]
        yield from self._section("EMERGENCY", [self._entry(a) for a in emergencies if a["state"] == "holds"])
        yield from self._section("EMERGENCY NOT EXCLUDED", [self._feared(a) for a in emergencies if a["state"] != "holds"])
        yield from self._section("HARD STOP: do not carry out this order", [self._entry(p) for p in orders if p["hardStop"]])
        unsure = [p for p in orders if p["hardStopPossible"] and not p["hardStop"] and not p["overridable"]]
        yield from self._section(
            "HARD STOP IF what is not known is so: do not carry out this order before it is clear",
            [self._entry(p) for p in unsure],
        )
        overridable = [p for p in orders if p["overridable"]]
        yield from self._section(
            "CONFLICT: a forbidden order, and a danger in forbidding it. A clinician must decide.",
            [self._entry(p) for p in overridable],
        )
        alerts = [p for p in orders if not p["hardStop"] and p not in unsure and p not in overridable]
        yield from self._section("ORDER ALERT: think again before carrying out this order", [self._entry(p) for p in alerts])
        yield from self._section(
            "CONFLICT of the safety overlay with what is advised, done or ordered", [self._caution(c) for c in self._pressing()]
        )

    def _cautions(self) -> list[Json]:
        return [c for c in self.patient["cautions"] if c["state"] == "holds"]

    def _pressing(self) -> list[Json]:
        """Critical cautions, and conflicts with something that is recommended, in place, taken or ordered."""
        live = {r["iri"] for r in self.recommendations if r["status"] in ("recommended", "satisfied")}
        return [
            c
            for c in self._cautions()
            if c["severity"] == "critical"
            or (c["conflict"] and any(t["kind"] in ("medication", "order") or t["iri"] in live for t in c["on"]))
        ]

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
        for caution in entry["cautions"]:
            if caution["state"] == "holds" and (entry.get("orders") or caution["severity"] == "critical"):
                lines.append(f"{caution['id']} ({caution['severity']}): {caution['label']}")
            elif caution["severity"] == "critical" and entry.get("orders"):
                lines.append(f"not excluded: {caution['id']} ({caution['severity']}): {caution['label']}")
        lines += [f"order: {fact_text(o)}" for o in entry.get("orders", [])]
        if entry.get("needs") and entry.get("orders"):
            lines.append(f"not known: {', '.join(map(self._label, entry['needs']))}")
        return lines + self._because(entry)

    def _recommendation(self, entry: Json) -> list[str]:
        strength = "" if entry["strength"] in (None, "do") else f" ({entry['strength']})"
        conflict = " - CONFLICT" if entry["conflict"] else ""
        lines = [f"{entry['label']}{strength}{conflict} {self._source(entry)}"]
        lines += self._because(entry)
        if entry["parameters"]:
            lines.append("; ".join(parameter_text(p) for p in entry["parameters"]))
        if entry["missingParameters"]:
            lines.append(f"not given by the source: {'; '.join(p['label'] for p in entry['missingParameters'])}")
        for caution in entry["cautions"]:
            if caution["state"] == "holds":
                conflict = (
                    "CONFLICT, "
                    if entry["conflict"] and caution["severity"] not in ("high", "caution", "info", "data quality")
                    else ""
                )
                lines.append(f"{conflict}{caution['id']} ({caution['severity']}): {caution['label']}")
        return lines

    def _blocked(self) -> list[list[str]]:
        groups: dict[tuple[tuple[str, ...], ...], list[str]] = {}
        for entry in self._status("blocked"):
            awaited = [state for state in entry["blockedBy"] if state not in entry["blockedWhile"]]
            key = (tuple(awaited), tuple(entry["blockedWhile"]), tuple(entry["openedBy"]))
            groups.setdefault(key, []).append(entry["label"] + _marks(entry))
        items = []
        for states, names in groups.items():
            words = zip(("waits for", "must not be so", "opened by"), states, strict=True)
            items.append(["; ".join(names), *(f"{what}: {'; '.join(map(self._label, which))}" for what, which in words if which)])
        return items

    def _done(self, entry: Json) -> list[str]:
        shown = [fact_text(f) for f in entry["because"] if "value" in f or "dailyDose" in f]
        return [f"{entry['label']}{_marks(entry)}{': ' if shown else ''}{'; '.join(shown)}"]

    def _open(self, entry: Json) -> list[str]:
        return [f"{entry['label']}{_marks(entry)} [{entry['name']}]", f"needs: {', '.join(map(self._label, entry['needs']))}"]

    def _missing(self) -> list[list[str]]:
        required = {n for r in self.recommendations for n in r["needs"]} | {
            n for p in self.patient["prohibitions"] for n in p["needs"]
        }
        unused: dict[str, list[Json]] = {}
        for fact in self.patient["notUsed"]:
            unused.setdefault(fact["name"], []).append(fact)
        measured = {name for r in self._status("recommended") for name in r["measures"]}
        items = []
        for name in self.patient["missing"]:
            known = unused.get(name, [])
            if name not in required and not known and name not in measured:
                continue
            items.append([self._label(name), *(f"on record, not used: {fact_text(f)}: {f['reasonLabel']}" for f in known)])
        return items

    def _caution(self, entry: Json) -> list[str]:
        on = ", ".join(t["label"] for t in entry["on"])
        conflict = "CONFLICT, " if entry["conflict"] else ""
        return [
            f"{conflict}{entry['id']} ({entry['severity']}) on {on}: {entry['label']}",
            entry["text"] or "",
            *self._because(entry),
            f"sources: {'; '.join(entry['sources'])}",
        ]

    def _feared(self, entry: Json) -> list[str]:
        return [
            f"{entry['label']} {self._source(entry)}",
            f"cannot be excluded without: {', '.join(map(self._label, entry['needs']))}",
        ]

    def _said(self) -> list[list[str]]:
        """The statements behind what is to be done and not done, and those that explain it."""
        shown = [
            *self._status("recommended"),
            *self._status("contraindicated"),
            *self.patient["prohibitions"],
            *self.patient["assessments"],
        ]
        active = [e for e in shown if e.get("state", "holds") == "holds"]
        cited = {s for e in active for s in (*e["statements"], *e["explainedBy"])}
        return [[f"{s}: {self.statements[s]}"] for s in sorted(cited) if s in self.statements]

    def _possible(self) -> list[list[str]]:
        groups: dict[tuple[str, ...], list[str]] = {}
        for entry in [*self.patient["prohibitions"], *self.patient["assessments"], *self.patient["cautions"]]:
            if entry["state"] == "possible" and not entry.get("emergency"):
                name = f"{entry['id']} {entry['label']}" if "id" in entry else entry.get("family") or entry["label"]
                names = groups.setdefault(tuple(entry["needs"]), [])
                if name not in names:
                    names.append(name)
        return [[f"without {', '.join(map(self._label, needs))}: {'; '.join(names)}"] for needs, names in groups.items()]
