"""Write answers as one self-contained page: what matters to the patient first, a picture of the pathway, values among
their thresholds, and under every line why it stands there.

The page needs no network and no script. Nothing that comes from a patient becomes markup, a link or a style: the templates
escape everything, and every link leads to a place on the page itself.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import cache, cached_property
from typing import Any

import jinja2
import pyoxigraph as ox
from markupsafe import Markup

from kbtool.answer import KINDS
from kbtool.explain import Explainer
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, DCTERMS, PROV, RDF, SKOS, local_name, text
from kbtool.scales import Scales
from kbtool.text import not_needed_text, parameter_text

Json = dict[str, Any]

STATUSES = {
    "recommended": "Do now",
    "blocked": "Waits",
    "undetermined": "Open",
    "contraindicated": "Contraindicated",
    "satisfied": "Done or in place",
}
"""The word by which each status of a recommendation is shown, in the order in which they are counted."""

_BUFFER = 16
"""How many pieces of the page are gathered before they are handed on."""


def render(
    knowledge: Knowledge, explainers: Iterable[Explainer], as_of: str, about: Json, strays: Iterable[str] = ()
) -> Iterator[str]:
    """The page, piece by piece: its head, a part for each patient as the explainers come, its end.

    as_of: the time of the assessment. about: iri, version and sha256 of the knowledge base. strays: nodes of the facts that
    belong to no patient and were not read.
    """
    page = _Page(knowledge, as_of)
    index: list[Json] = []

    def patients() -> Iterator[Json]:
        for number, explainer in enumerate(explainers, 1):
            view = page.patient(explainer, f"p{number}")
            index.append({key: view[key] for key in ("id", "iri", "verdict")})
            yield view

    stream = (
        templates()
        .get_template("report.html")
        .stream(
            about=about,
            title=knowledge.value(knowledge.iri, DCTERMS["title"]) or knowledge.iri,
            as_of=page.when(as_of),
            strays=list(strays),
            patients=patients(),
            index=index,
            statuses=STATUSES,
            owners=page.scales.owners,
        )
    )
    stream.enable_buffering(_BUFFER)
    yield from stream


@cache
def templates() -> jinja2.Environment:
    """The templates of the page, all of them read."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kbtool"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
        auto_reload=False,
    )
    for name in environment.list_templates(filter_func=lambda name: name.startswith("report")):
        environment.get_template(name)
    return environment


def _visible(value: Any) -> Any:
    """Text without characters that a page may not hold, or that turn the text around them."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") else "\ufffd" for c in value)


class _Page:
    """What all patients of a page share."""

    def __init__(self, knowledge: Knowledge, as_of: str) -> None:
        self.knowledge, self.as_of = knowledge, datetime.fromisoformat(as_of)
        self.scales = Scales(knowledge)
        self.labels = knowledge.labels_by_name
        self.steps = sorted(knowledge.instances(CG["Step"]), key=lambda step: int(knowledge.value(step, CG["position"]) or 99))

    def patient(self, explainer: Explainer, name: str) -> Json:
        """Everything that the page shows of one patient. name: a prefix for the places on the page that are linked."""
        return _Patient(self, explainer, name).view()

    def when(self, moment: str, *, day: bool = False) -> Json:
        """A time as a person reads it: text, and how long before the time of the assessment. day: midnight means the day."""
        try:
            time = datetime.fromisoformat(moment)
        except ValueError:
            return {"text": moment, "ago": ""}
        if time.tzinfo is None:
            return {"text": moment, "ago": ""}
        zone = (time.tzname() or "").replace("UTC+00:00", "UTC")
        clock = "" if day and (time.hour, time.minute, time.second) == (0, 0, 0) else f", {time:%H:%M} {zone}"
        return {"text": f"{time.day} {time:%b %Y}{clock}", "ago": _ago(self.as_of - time)}

    @cached_property
    def statements(self) -> dict[str, Json]:
        """The statements of the source by identifier: text, section, references."""
        found = {}
        for iri in self.knowledge.instances(CG["Statement"]):
            identifier = self.knowledge.value(iri, DCTERMS["identifier"]) or local_name(iri)
            found[identifier] = {
                "id": identifier,
                "text": self.knowledge.value(iri, SKOS["definition"]) or "",
                "section": self.knowledge.value(iri, CG["section"]) or "",
                "references": [self._reference(r)["id"] for r in self.knowledge.values(iri, CG["reference"])],
            }
        return found

    @cached_property
    def references(self) -> dict[str, Json]:
        """The works that the source cites, by identifier: citation, and whether its list has them."""
        return {r["id"]: r for r in map(self._reference, self.knowledge.instances(CG["Reference"]))}

    def _reference(self, iri: str) -> Json:
        return {
            "id": self.knowledge.value(iri, DCTERMS["identifier"]) or local_name(iri),
            "text": self.knowledge.value(iri, DCTERMS["bibliographicCitation"]) or self.knowledge.labels.get(iri, ""),
            "listed": self.knowledge.value(iri, CG["listed"]) != "false",
        }


class _Patient:
    """Puts the answer for one patient into the order and the groups in which the page shows it."""

    def __init__(self, page: _Page, explainer: Explainer, name: str) -> None:
        self.page, self.explainer, self.name = page, explainer, name
        self.data = explainer.result.data
        self.recommendations: list[Json] = self.data["recommendations"]
        entries = [entry for kind in KINDS.values() for entry in self.data[kind]]
        self.places = {entry["iri"]: f"{name}-{number}" for number, entry in enumerate(entries)}
        self.by_name = {entry.get("name") or entry["id"]: entry["iri"] for entry in entries}
        self.known = {fact["fact"]: fact for entry in entries for fact in entry["because"]}

    def view(self) -> Json:
        data = self.data
        for fact in [*data["notUsed"], *(o for p in data["prohibitions"] for o in p["orders"])]:
            self.known.setdefault(fact["fact"], fact)
        holding = [c for c in data["cautions"] if c["state"] == "holds"]
        pressing = [c for c in holding if self._presses(c)]
        waiting = [c for c in holding if c["conflict"] and c not in pressing]
        urgent = list(self._urgent())
        view: Json = {
            "id": self.name,
            "iri": data["patient"],
            "refused": [self._violation(v) for v in data.get("refused", [])],
            "setAside": [self._violation(v) for v in data["setAside"]],
            "warnings": [self._violation(v) for v in data["warnings"]],
            "notRead": [self._unread(entry) for entry in data.get("notRead", ())],
            "notNeeded": not_needed_text(data["notNeeded"]) if data.get("notNeeded") else "",
            "inScope": data["inScope"],
            "urgent": urgent,
            "conflicts": [self._conflict(c) for c in pressing],
            "steps": list(self._steps()),
            "now": [self._recommendation(r) for r in self._status("recommended")],
            "later": [
                self._recommendation(r) for status in ("contraindicated", "blocked", "undetermined") for r in self._status(status)
            ],
            "doNot": [self._rule(p) for p in data["prohibitions"] if p["state"] == "holds" and not p["orders"]],
            "values": list(self._values()),
            "notUsed": [self._fact(f) | {"reason": f["reasonLabel"]} for f in data["notUsed"]],
            "missing": self._missing(),
            "meaning": [self._rule(a) for a in data["assessments"] if a["state"] == "holds" and not a["emergency"]],
            "waitingConflicts": [self._conflict(c) for c in waiting],
            "cautions": [self._rule(c) for c in holding if c not in pressing and c not in waiting],
            "done": [self._recommendation(r) for r in self._status("satisfied")],
            "possible": self._possible(),
            "said": self._said(),
            "assumptions": data["assumptions"],
        }
        view["references"] = self._cited(view["said"])
        view["counts"] = {status: len(self._status(status)) for status in STATUSES} | {"conflicts": len(pressing)}
        view["verdict"] = self._verdict(view)
        return view

    def _unread(self, entry: Json) -> Json:
        """Something of a record that was not read, with the label of what it touches."""
        return entry | {"label": self.page.labels.get(entry["concept"] or "", "")}

    def _violation(self, violation: Json) -> Json:
        """What is wrong with a fact: the fact as reported, or its name where nothing else is known of it."""
        fact = self.explainer.changes.describe(violation["focus"])
        return {
            "message": violation["message"],
            "fact": self._fact(fact) if fact["label"] else None,
            "focus": violation["focus"],
            "value": violation["value"],
        }

    # --- What comes first ----------------------------------------------------------------------------

    def _urgent(self) -> Iterator[Json]:
        """Emergencies, and orders that must not go through or need a decision, in groups."""
        emergencies = [a for a in self.data["assessments"] if a["emergency"]]
        orders = [p for p in self.data["prohibitions"] if p["orders"]]
        unsure = [p for p in orders if p["hardStopPossible"] and not p["hardStop"] and not p["overridable"]]
        groups = (
            ("stop", "Emergency", "", [a for a in emergencies if a["state"] == "holds"]),
            ("stop", "Hard stop", "Do not carry out this order.", [p for p in orders if p["hardStop"]]),
            (
                "clash",
                "Decide",
                "A forbidden order, and a danger in forbidding it. A clinician must decide.",
                [p for p in orders if p["overridable"]],
            ),
            ("warn", "Hard stop if so", "Do not carry out this order before what is not known is clear.", unsure),
            (
                "warn",
                "Order alert",
                "Think again before carrying out this order.",
                [p for p in orders if not p["hardStop"] and not p["overridable"] and p not in unsure],
            ),
            ("warn", "Emergency not excluded", "", [a for a in emergencies if a["state"] != "holds"]),
        )
        for look, word, advice, entries in groups:
            if entries:
                yield {"look": look, "word": word, "advice": advice, "rules": [self._rule(e) for e in entries]}

    def _verdict(self, view: Json) -> Json:
        """The one thing to know first: how it looks, a word, and what it is about."""
        if view["refused"]:
            return {"look": "stop", "word": "Refused", "text": "nothing was checked"}
        for group in view["urgent"]:
            if group["look"] in ("stop", "clash"):
                return {"look": group["look"], "word": group["word"], "text": "; ".join(r["label"] for r in group["rules"])}
        critical = [c["label"] for c in view["conflicts"] if c["severity"] == "critical"]
        if critical:
            return {"look": "clash", "word": "Conflict, critical", "text": "; ".join(critical)}
        if view["now"] and view["now"][0]["conflict"]:
            return {"look": "clash", "word": "Conflict", "text": view["now"][0]["label"]}
        if not view["inScope"]:
            return {"look": "wait", "word": "Out of scope", "text": "the guideline does not speak for this patient"}
        if view["now"]:
            return {"look": "do", "word": "First", "text": view["now"][0]["label"]}
        return {"look": "wait", "word": "Nothing to do now", "text": ""}

    def _presses(self, caution: Json) -> bool:
        """Whether a caution is critical, or in conflict with what is recommended, in place, taken or ordered."""
        live = {r["iri"] for r in self.recommendations if r["status"] in ("recommended", "satisfied")}
        return caution["severity"] == "critical" or (
            caution["conflict"] and any(t["kind"] in ("medication", "order") or t["iri"] in live for t in caution["on"])
        )

    def _conflict(self, caution: Json) -> Json:
        """A caution beside what the source says about the same thing."""
        knowledge, statuses = self.page.knowledge, {r["iri"]: r["status"] for r in self.recommendations}
        concerned = [
            knowledge.value(s, DCTERMS["identifier"]) or local_name(s) for s in knowledge.values(caution["iri"], CG["concerns"])
        ]
        return self._rule(caution) | {
            "statements": [self.page.statements[s] for s in concerned if s in self.page.statements],
            "owner": self.page.scales.owner(caution["iri"]),
            "on": [
                self._link(t["iri"], t["label"]) | {"status": STATUSES.get(statuses.get(t["iri"], ""), "")} for t in caution["on"]
            ],
        }

    # --- The pathway ---------------------------------------------------------------------------------

    def _steps(self) -> Iterator[Json]:
        steps: list[str | None] = [*self.page.steps]
        if any(r["step"] is None for r in self.recommendations):
            steps.append(None)
        for step in steps:
            name = local_name(step) if step else None
            yield {
                "label": self.page.knowledge.labels.get(step, name) if step else "Other",
                "definition": (self.page.knowledge.value(step, SKOS["definition"]) or "") if step else "",
                "boxes": [self._recommendation(r) for r in self.recommendations if r["step"] == name],
            }

    def _recommendation(self, entry: Json) -> Json:
        opens = [r["iri"] for r in self.recommendations if entry["name"] in r["openedBy"]]
        return self._rule(entry) | {
            "status": entry["status"],
            "word": STATUSES[entry["status"]],
            "strength": "" if entry["strength"] in (None, "do") else entry["strength"],
            "waitsFor": [self._label(s) for s in entry["blockedBy"] if s not in entry["blockedWhile"]],
            "waitsWhile": [self._label(s) for s in entry["blockedWhile"]],
            "openedBy": [self._link(self.by_name.get(o), o) for o in entry["openedBy"]],
            "opens": [self._link(iri) for iri in opens] if entry["status"] == "recommended" else [],
            "parameters": [parameter_text(p) for p in entry["parameters"]],
            "notGiven": [p["label"] for p in entry["missingParameters"]],
        }

    # --- Parts ---------------------------------------------------------------------------------------

    def _rule(self, entry: Json) -> Json:
        """What every line about a rule shows, and why it stands there."""
        why = self.explainer.explain(entry["iri"], tried=False)
        cautions = [
            c | {"sure": c["state"] == "holds"}
            for c in entry.get("cautions", [])
            if c["state"] == "holds" or (c["severity"] == "critical" and entry.get("orders"))
        ]
        return {
            "place": self.places[entry["iri"]],
            "label": entry["label"],
            "name": entry.get("name") or entry["id"],
            "severity": entry.get("severity"),
            "conflict": entry["conflict"],
            "text": entry.get("text") or "",
            "on": [self._link(t["iri"], t["label"]) for t in entry.get("on", [])],
            "cited": entry.get("statements", []),
            "sources": entry.get("sources", []),
            "needs": [self._label(n) for n in entry["needs"]],
            "because": [self._fact(f) for f in why["because"]],
            "orders": [self._fact(o) for o in entry.get("orders", [])],
            "cautions": cautions,
            "why": why
            | {
                "conditions": [self._condition(c) for c in why["conditions"]],
                "thresholds": [t | {"owner": self.page.scales.owner(t["iri"])} for t in why["thresholds"]],
            },
        }

    def _condition(self, condition: Json) -> Json:
        """A condition of an explanation with its facts and needs in words; what was not needed for it to be met is left out."""
        facts = [self.known[f] if f in self.known else self.explainer.changes.describe(f) for f in condition.get("facts", [])]
        parts = condition.get("parts", [])
        if condition["truth"] == "true":
            parts = [p for p in parts if p["truth"] == "true" or condition["join"] == "all"]
            if len(parts) == 1 and "parts" not in parts[0] and "value" not in parts[0]:
                parts = []
        return {
            "text": condition["text"],
            "role": condition.get("role", ""),
            "truth": condition["truth"],
            "number": f"{condition['value']} {condition['unit']}".strip() if "value" in condition else "",
            "distance": f"{condition['distance']} {condition['unit']}".strip() if "distance" in condition else "",
            "facts": [self._fact(f) for f in facts] if "role" in condition else [],
            "needs": [self._label(n) for n in condition.get("needs", [])],
            "parts": [self._condition(p) for p in parts],
        }

    def _fact(self, fact: Json) -> Json:
        """A fact as it was reported, and its canonical value where it was converted."""
        amount = fact.get("value", fact.get("dailyDose"))
        start = fact.get("onset") or fact.get("start")
        return {
            "label": fact["label"] or fact["name"] or fact["fact"],
            "value": f"{amount} {fact.get('unit', '')}".strip() if amount is not None else "",
            "time": self.page.when(fact["time"]) if "time" in fact else None,
            "since": self.page.when(start, day=True) if start and "time" not in fact else None,
            "end": self.page.when(fact["end"], day=True) if "end" in fact else None,
            "canonical": f"{fact['canonicalValue']} {fact['canonicalUnit']}" if "canonicalUnit" in fact else "",
            "notes": [self._label(note) for key in ("phase", "state", "course") if key in fact for note in fact[key].split(", ")],
            "from": [self._fact(f) for f in fact.get("derivedFrom", [])],
        }

    def _values(self) -> Iterator[Json]:
        """The measurements that rules may use, those that answers rest on first, each on its axis."""
        store, patient = self.explainer.store, self.explainer.record.patient
        cited = list(self.known)
        found = []
        for node in {q.object for q in store.quads_for_pattern(patient, CG["hasEligible"], None, None)}:
            if not isinstance(node, ox.NamedNode | ox.BlankNode):
                continue
            kind = next((k for k in self._types(node) if self.page.knowledge.value(k, CG["canonicalUnit"])), None)
            fact = self._observation(node)
            if kind is None or fact is None:
                continue
            order = cited.index(text(node)) if text(node) in cited else len(cited)
            axis = self.page.scales.draw(kind, fact["value"], fact["unit"])
            found.append(((order, fact["label"], text(node)), self._fact(fact) | {"axis": axis}))
        yield from (shown for _, shown in sorted(found, key=lambda pair: pair[0]))

    def _observation(self, node: ox.NamedNode | ox.BlankNode) -> Json | None:
        """A measurement, as reported or as computed from others; None where it has no number."""
        iri = text(node)
        derived = [text(q.object) for q in self.explainer.store.quads_for_pattern(node, PROV["wasDerivedFrom"], None, None)]
        fact = dict(self.known.get(iri) or self.explainer.changes.describe(iri))
        for key in ("value", "unit"):
            fact.setdefault(key, self._stated(node, key))
        if derived and "derivedFrom" not in fact:
            fact["derivedFrom"] = [self.explainer.changes.describe(each) for each in sorted(derived)]
        kinds = [k for k in self._types(node) if self.page.knowledge.value(k, CG["canonicalUnit"])]
        if not fact.get("label") and kinds:
            fact["label"] = self.page.knowledge.labels.get(kinds[0], local_name(kinds[0]))
        unit = self.page.knowledge.value(kinds[0], CG["canonicalUnit"]) if kinds else None
        canonical = self._stated(node, "canonicalValue")
        if canonical and unit and fact["unit"] != unit:
            fact |= {"canonicalValue": _plain(canonical), "canonicalUnit": unit}
        try:
            return fact if Decimal(fact["value"]).is_finite() else None
        except InvalidOperation:
            return None

    def _types(self, node: ox.NamedNode | ox.BlankNode) -> list[str]:
        return sorted(text(q.object) for q in self.explainer.store.quads_for_pattern(node, RDF["type"], None, None))

    def _stated(self, node: ox.NamedNode | ox.BlankNode, name: str) -> str:
        return next((text(q.object) for q in self.explainer.store.quads_for_pattern(node, CG[name], None, None)), "")

    def _missing(self) -> list[Json]:
        """What to find out next, the most urgent first; then what is only to be measured."""
        unused: dict[str, list[Json]] = {}
        for fact in self.data["notUsed"]:
            unused.setdefault(fact["name"], []).append(self._fact(fact) | {"reason": fact["reasonLabel"]})
        ranked = {n["name"]: n for n in self.explainer.next()}
        measuring = {m: r["name"] for r in self._status("recommended") for m in r["measures"]}
        for name in self.data["missing"]:
            ranked.setdefault(
                name, {"name": name, "label": self._label(name), "measuredBy": measuring.get(name), "couldChange": []}
            )
        found = []
        for name, each in ranked.items():
            by = self.by_name.get(each["measuredBy"] or "")
            found.append(
                {
                    "label": each["label"],
                    "by": self._link(by) if by else None,
                    "changes": [
                        self._link(self.by_name[what["name"]]) | {"status": STATUSES.get(what["status"], what["status"])}
                        for what in each["couldChange"]
                    ],
                    "unused": unused.get(name, []),
                }
            )
        return found

    def _possible(self) -> list[Json]:
        """What cannot be excluded, by what is lacking for it."""
        groups: dict[tuple[str, ...], list[Json]] = {}
        for entry in [*self.data["prohibitions"], *self.data["assessments"], *self.data["cautions"]]:
            if entry["state"] == "possible" and not entry.get("emergency") and not entry.get("orders"):
                groups.setdefault(tuple(entry["needs"]), []).append(self._rule(entry))
        return [{"needs": [self._label(n) for n in needs], "rules": rules} for needs, rules in groups.items()]

    def _said(self) -> list[Json]:
        """The statements behind what is to be done and not done, and those that explain it."""
        shown = [
            *self._status("recommended"),
            *self._status("contraindicated"),
            *self.data["prohibitions"],
            *self.data["assessments"],
        ]
        active = [e for e in shown if e.get("state", "holds") == "holds" or e.get("orders")]
        cited = {s for e in active for s in (*e["statements"], *e["explainedBy"])}
        return [self.page.statements[s] for s in sorted(cited) if s in self.page.statements]

    def _cited(self, statements: list[Json]) -> list[Json]:
        cited = {r for s in statements for r in s["references"]}
        return [reference for name, reference in sorted(self.page.references.items()) if name in cited]

    def _status(self, status: str) -> list[Json]:
        return [r for r in self.recommendations if r["status"] == status]

    def _label(self, name: str) -> str:
        return self.page.labels.get(name, name)

    def _link(self, iri: str | None, label: str = "") -> Json:
        """A term by its label, with its place on the page where it has one."""
        named = self.page.knowledge.labels.get(iri or "", self._label(label or local_name(iri or "")))
        return {"label": named, "place": self.places.get(iri or "")}


def _ago(age: timedelta) -> str:
    """How long ago something was, in one unit."""
    minutes = int(age.total_seconds() // 60)
    if minutes < 0:
        return "later"
    for size, word in ((60 * 24, "d"), (60, "h")):
        if minutes >= 2 * size:
            return f"{minutes // size} {word} ago"
    return f"{minutes} min ago"


def _plain(number: str) -> str:
    return format(round(Decimal(number), 3).normalize(), "f")
