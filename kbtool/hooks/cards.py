"""The cards of CDS Hooks 2.0 (section "Card Attributes"), in the order in which they matter to the patient.

Emergencies and orders that must not go through come first and are critical. When an order is written, only what
concerns orders, emergencies and dangers to life is said; when a chart is opened, there is one card for each emergency and
for what forbids an order, and one for each of: what to do, what not to do, what waits, what could not be read.
"""

from __future__ import annotations

from collections.abc import Iterator

from kbtool.hooks.cardmaker import Cardmaker, Json
from kbtool.hooks.data import data_card, unread_card
from kbtool.hooks.markdown import escaped
from kbtool.hooks.needs import reachable
from kbtool.hooks.request import Draft
from kbtool.hooks.suggestions import removing
from kbtool.namespaces import CG, local_name
from kbtool.text import fact_text, parameter_text

_RANKS = {"critical": 0, "warning": 1, "info": 2}


class Deck(Cardmaker):
    """Makes the cards of one answer."""

    def cards(self) -> list[Json]:
        """All cards, critical ones first, otherwise in the order of the answer."""
        if self.answer.get("refused") and not self.request.empty:
            return [self._refused()]
        found = [*self._emergencies(), *self._orders(), *self._cautions()]
        if self.request.hook == "patient-view":
            found += [*self._overview()]
        found += self._data(bool(found))
        return sorted(found, key=lambda card: _RANKS[card["indicator"]])

    # --- One card for each -----------------------------------------------------------------------------

    def _emergencies(self) -> Iterator[Json]:
        emergencies = [a for a in self.answer["assessments"] if a["emergency"]]
        for entry in emergencies:
            if entry["state"] == "holds":
                yield self.card("critical", f"EMERGENCY: {entry['label']}", self.explained(entry), entry)
        feared = [a for a in emergencies if a["state"] != "holds"]
        if feared:
            lines = [f"**{escaped(a['label'])}**: cannot be excluded without {self.names(a['needs'])}" for a in feared]
            summary = f"EMERGENCY NOT EXCLUDED: {'; '.join(a['label'] for a in feared)}"
            card = self.card("warning", summary, [*lines, *self.said(feared)], feared[0])
            yield self.suggesting(card, {need for a in feared for need in a["needs"]})

    def _orders(self) -> Iterator[Json]:
        """What forbids an order, the hard stops first, as the answer has them."""
        for entry in self.answer["prohibitions"]:
            orders = [o for o in entry["orders"] if self._concerns(entry, o)]
            if orders:
                yield self._forbidden(entry, orders)

    def _concerns(self, entry: Json, order: Json) -> bool:
        """A stop of any order is shown; another alert where the order is the one being chosen or signed, or on opening the
        chart."""
        draft = self.drafts.get(self.reference(order))
        return self.request.hook == "patient-view" or self._stops(entry) or (draft is not None and draft.selected)

    def _stops(self, entry: Json) -> bool:
        return bool(entry["hardStop"] or entry["overridable"] or entry["hardStopPossible"])

    def _forbidden(self, entry: Json, orders: list[Json]) -> Json:
        named = "; ".join(self.order_name(order) for order in orders)
        dangers = [c for c in entry["cautions"] if c["severity"] == "critical"]
        holding = [c for c in dangers if c["state"] == "holds"]
        indicator, lines = "critical", []
        if entry["hardStop"]:
            summary = f"HARD STOP: {named}: {entry['label']}"
            lines.append("**Do not carry out this order.**")
        elif entry["overridable"]:
            why = "; ".join(c["id"] for c in holding)
            summary = f"CONFLICT: {named}: {entry['label']}; {why}: a clinician must decide"
            lines.append("**A forbidden order, and a danger in forbidding it. A clinician must decide.**")
        elif entry["hardStopPossible"]:
            summary = f"HARD STOP IF what is not known is so: {named}: {entry['label']}"
            lines.append("**Do not carry out this order before it is clear whether it must be stopped.**")
        else:
            indicator, summary = "warning", f"Order alert: {named}: {entry['label']}"
            lines.append("**Think again before carrying out this order.**")
        lines += [f"**{escaped(c['id'])} ({escaped(c['severity'])}):** {escaped(c['label'])}" for c in holding]
        lines += [f"Order: {self.order_line(order)}" for order in orders]
        lines += [f"Not excluded: {escaped(c['id'])}: {escaped(c['label'])}" for c in dangers if c not in holding]
        card = self.card(indicator, summary, [*lines, *self.explained(entry, dangers)], entry, orders)
        if reasons := self.reasons():
            card["overrideReasons"] = reasons
        if entry["hardStop"]:
            drafts = [self.drafts[r] for r in map(self.reference, orders) if r in self.drafts and self.drafts[r].deletable]
            removals = [removing(self.identifier(card["uuid"], "remove", d.reference), d, self.draft_name(d)) for d in drafts]
            return self.with_suggestions(card, removals)
        lifting = reachable(self.kb.knowledge, self.kb.knowledge.values(entry["iri"], CG["unless"]))
        return self.suggesting(card, {*entry["needs"], *map(local_name, lifting)})

    def _cautions(self) -> Iterator[Json]:
        """Cautions that hold: each one on an order that is being written; otherwise what endangers life, and on opening the
        chart what presses, in one card."""
        grouped = []
        live = {r["iri"] for r in self.answer["recommendations"] if r["status"] in ("recommended", "satisfied")}
        conflicts = [c for p in self.answer["prohibitions"] if p["overridable"] for c in p["cautions"]]
        shown = {c["id"] for c in conflicts if c["severity"] == "critical"}
        for entry in self.answer["cautions"]:
            if entry["state"] != "holds" or entry["id"] in shown:
                continue
            drafts = [d for d in self.request.drafts if d.selected and self.touches(entry, d)]
            if drafts:
                yield self._warned(entry, drafts)
            elif entry["severity"] == "critical":
                yield self.card("critical", f"{entry['id']}: {entry['label']}", self.caution_lines(entry), entry)
            elif self._presses(entry, live):
                grouped.append(entry)
        if grouped and self.request.hook == "patient-view":
            names = "; ".join(entry["label"] for entry in grouped)
            lines = [line for entry in grouped for line in self.caution_lines(entry)]
            topic = self.topic_of(grouped, "makesConflict")
            head = "CONFLICT with" if any(entry["conflict"] for entry in grouped) else "Caution from"
            yield self.card("warning", f"{head} other evidence: {names}", lines, grouped[0], topic=topic)
        yield from self._feared_of_orders()

    def _presses(self, entry: Json, live: set[str]) -> bool:
        """Whether a caution is a conflict with what is advised, in place, taken or ordered, or a grave one on the patient."""
        on = entry["on"]
        conflict = entry["conflict"] and any(t["kind"] in ("medication", "order") or t["iri"] in live for t in on)
        return conflict or (any(t["kind"] == "patient" for t in on) and self.known.severity(entry["severity"]) == "high")

    def _feared_of_orders(self) -> Iterator[Json]:
        """Grave cautions on orders in draft of which it is not known whether they hold, in one card."""
        found = []
        for entry in self.answer["cautions"]:
            drafts = [d for d in self.request.drafts if d.selected and self.touches(entry, d)]
            if entry["state"] != "holds" and drafts and self.known.severity(entry["severity"]) == "high":
                found.append((entry, "; ".join(self.draft_name(draft) for draft in drafts)))
        if found:
            lines = [
                f"Order: {escaped(name)}. **{escaped(e['id'])} ({escaped(e['severity'])})** cannot be excluded without "
                f"{self.names(e['needs'])}: {escaped(e['label'])}"
                for e, name in found
            ]
            summary = "NOT EXCLUDED: " + "; ".join(f"{name}: {entry['label']}" for entry, name in found)
            entries = [entry for entry, _ in found]
            card = self.card("warning", summary, lines, entries[0], topic=self.topic_of(entries, "Caution"))
            yield self.suggesting(card, {need for entry in entries for need in entry["needs"]})

    def _warned(self, entry: Json, drafts: list[Draft]) -> Json:
        """A caution on orders in draft."""
        named = "; ".join(self.draft_name(draft) for draft in drafts)
        grave = entry["conflict"] or self.known.severity(entry["severity"]) == "high"
        indicator = "critical" if entry["severity"] == "critical" else "warning" if grave else "info"
        head = f"CONFLICT: {named}" if entry["conflict"] else named
        lines = [f"Order: {escaped(self.draft_name(d))} ({escaped(d.reference)})" for d in drafts]
        card = self.card(indicator, f"{head}: {entry['label']}", [*lines, *self.caution_lines(entry)], entry)
        if grave and (reasons := self.reasons()):
            card["overrideReasons"] = reasons
        return card

    # --- One card for all ------------------------------------------------------------------------------

    def _overview(self) -> Iterator[Json]:
        """What to do, what not to do, what waits, and what the facts mean."""
        with_status = self.with_status
        do = with_status("recommended")
        if do:
            lines = [self._advice(number, entry) for number, entry in enumerate(do, 1)]
            summary = f"To do ({len(do)}): {'; '.join(e['label'] for e in do)}"
            card = self.card("info", summary, lines, do[0], topic=self.topic_of(do, "Recommended"), numbered=True)
            yield self.suggesting(card, {m for entry in do for m in entry["measures"]})
        standing = [p for p in self.answer["prohibitions"] if p["state"] == "holds" and not p["orders"]]
        forbidden = [*standing, *with_status("contraindicated")]
        if forbidden:
            lines = [f"**{escaped(e['label'])}** ({escaped(' '.join(e['statements']))})" for e in forbidden]
            summary = f"Not to do: {'; '.join(e['label'] for e in forbidden)}"
            yield self.card("info", summary, lines, forbidden[0], topic=self.topic_of(forbidden, "Prohibition"))
        blocked, open_ = with_status("blocked"), with_status("undetermined")
        if blocked or open_:
            lines = [self._waiting(entry) for entry in blocked]
            lines += [
                f"**{escaped(e['label'])}**{self._marks(e)}: cannot be decided without {self.names(e['needs'])}" for e in open_
            ]
            waiting = [*blocked, *open_]
            summary = f"Not yet: {'; '.join(e['label'] for e in waiting)}"
            yield self.card("info", summary, lines, waiting[0], topic=self.topic_of(waiting, "Blocked"))
        meaning = [a for a in self.answer["assessments"] if a["state"] == "holds" and not a["emergency"]]
        if meaning:
            grave = any(self.known.severity(c["severity"]) == "high" for a in meaning for c in self.holding(a))
            summary = f"What the facts mean: {'; '.join(e['label'] for e in meaning)}"
            lines = [self._meaning(entry) for entry in meaning]
            topic = self.topic_of(meaning, "Assessment")
            yield self.card("warning" if grave else "info", summary, lines, meaning[0], topic=topic)

    def _meaning(self, entry: Json) -> str:
        parts = [f"**{escaped(entry['label'])}** ({escaped(' '.join(entry['statements']))})"]
        parts += [f"because of {escaped('; '.join(fact_text(f) for f in entry['because']))}"] if entry["because"] else []
        parts += [f"{escaped(c['id'])} ({escaped(c['severity'])}): {escaped(c['label'])}" for c in self.holding(entry)]
        return "; ".join(parts)

    def _advice(self, number: int, entry: Json) -> str:
        strength = f" ({escaped(entry['strength'])})" if entry["strength"] not in (None, "do") else ""
        conflict = "**CONFLICT** " if entry["conflict"] else ""
        parts = [f"{conflict}**{escaped(entry['label'])}**{strength} ({escaped(' '.join(entry['statements']))})"]
        parts += [escaped(parameter_text(p)) for p in entry["parameters"]]
        if entry["missingParameters"]:
            parts.append(f"not given by the source: {escaped('; '.join(p['label'] for p in entry['missingParameters']))}")
        parts += [f"{escaped(c['id'])} ({escaped(c['severity'])}): {escaped(c['label'])}" for c in self.holding(entry)]
        return f"{number}. " + "; ".join(parts)

    def _waiting(self, entry: Json) -> str:
        awaited = [s for s in entry["blockedBy"] if s not in entry["blockedWhile"]]
        parts = [f"waits for {self.names(awaited)}"] if awaited else []
        parts += [f"must not be so: {self.names(entry['blockedWhile'])}"] if entry["blockedWhile"] else []
        parts += [f"opened by {self.names(entry['openedBy'])}"] if entry["openedBy"] else []
        return f"**{escaped(entry['label'])}**{self._marks(entry)}: {'; '.join(parts)}"

    def _marks(self, entry: Json) -> str:
        """The grave cautions on a recommendation, in brackets."""
        grave = [c for c in self.holding(entry) if self.known.severity(c["severity"]) == "high"]
        conflict = "CONFLICT: " if entry["conflict"] else ""
        names = ", ".join(f"{c['id']} {c['severity']}" for c in grave)
        return " " + escaped(f"({conflict}{names})") if grave else ""

    def _refused(self) -> Json:
        lines = ["**Nothing was checked for this patient, orders included. That is not a finding that nothing is wrong.**"]
        lines += [escaped(violation["message"]) for violation in self.answer["refused"]]
        indicator = "critical" if self.request.drafts else "warning"
        return self.card(indicator, "NOT CHECKED: facts of this patient are wrong or contradict each other", lines, None)

    def _data(self, spoken: bool) -> list[Json]:
        """What of the record was not sent, not read or not used, where that can matter to what is said or not said."""
        recognised = any(self.classes(draft) for draft in self.request.drafts)
        names = {draft.reference: self.draft_name(draft) for draft in self.request.drafts}
        found = (unread_card(self.request, names), data_card(self.request, self.answer, spoken or recognised))
        return [self.card(card.indicator, card.summary, card.lines, None) for card in found if card]
