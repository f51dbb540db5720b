"""What every card is made of: identity, source, reasons and suggestions, and the words for facts and orders."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from kbtool.api import KnowledgeBase
from kbtool.fhir.coding import codings
from kbtool.hooks.markdown import bullets, escaped, shortened
from kbtool.hooks.request import Draft, Request
from kbtool.hooks.suggestions import measuring
from kbtool.namespaces import CG, DCTERMS, local_name
from kbtool.text import fact_text

Json = dict[str, Any]

_NOTICE = "No clinician has approved this content. It supports a decision and does not make one."


class Cardmaker:
    """What cards of one answer have in common."""

    def __init__(self, kb: KnowledgeBase, request: Request, answer: Json, service: str) -> None:
        self.kb, self.request, self.answer, self.service = kb, request, answer, service
        self.known = codings(kb.knowledge)
        self.labels = kb.knowledge.labels_by_name
        self.drafts = {draft.reference: draft for draft in request.drafts}
        self.offered: set[str] = set()
        self.title = self.known.title(kb.about["iri"]) or kb.about["iri"]

    def card(
        self,
        indicator: str,
        summary: str,
        lines: list[str],
        entry: Json | None,
        orders: Iterable[Json] = (),
        *,
        topic: str | None = None,
        numbered: bool = False,
    ) -> Json:
        """A card: what to show in which colour, and where it comes from. numbered: the lines have numbers already."""
        about = [self.reference(order) for order in orders] or [summary]
        return {
            "uuid": self.identifier(entry["iri"] if entry else "", *about),
            "summary": shortened(summary),
            "indicator": indicator,
            "detail": ("\n".join(lines) if numbered else bullets(lines)) + f"\n\n*{_NOTICE}*",
            "source": self.source(entry, topic),
        }

    def source(self, entry: Json | None, topic: str | None) -> Json:
        """Where the guidance comes from: a statement that the rule cites, or the rule itself."""
        knowledge = self.kb.knowledge
        if entry is None:
            return {"label": self.title, "url": self.kb.about["iri"], "topic": self.known.own(CG["Assumption"].value)}
        cited = [] if topic else [s for s in entry.get("statements", ()) if s in self.known.statements]
        main = self.known.main_statement(entry["iri"], cited)
        iri = topic or (main["url"] if main else entry["iri"])
        identifier = knowledge.value(iri, DCTERMS["identifier"]) or local_name(iri)
        display = main["display"] if main else knowledge.labels.get(iri, identifier)
        sources = ", ".join(cited) or ("" if topic else identifier)
        return {
            "label": f"{self.title}: {sources}" if sources else self.title,
            "url": iri,
            "topic": {"system": iri.removesuffix(local_name(iri)), "code": local_name(iri), "display": display},
        }

    def explained(self, entry: Json, said: Iterable[Json] = ()) -> list[str]:
        """Why, what other evidence says, and what the source says."""
        lines = [f"Because: {escaped('; '.join(fact_text(f) for f in entry['because']))}"] if entry["because"] else []
        if entry["needs"]:
            lines.append(f"Not known: {self.names(entry['needs'])}")
        already = {c["id"] for c in said}
        lines += [
            f"{escaped(c['id'])} ({escaped(c['severity'])}): {escaped(c['label'])}"
            for c in self.holding(entry)
            if c["id"] not in already
        ]
        return lines + self.said([entry])

    def said(self, entries: list[Json]) -> list[str]:
        """What the source says: the statements that entries cite."""
        cited = dict.fromkeys(s for entry in entries for s in entry["statements"])
        known = self.known.statements
        return [f"{escaped(s)}: {escaped(known[s]['display'])} ({escaped(known[s]['citation'])})" for s in cited if s in known]

    def caution_lines(self, entry: Json) -> list[str]:
        """A caution in full: what it is on, what it says, why, and its sources."""
        on = ", ".join(target["label"] for target in entry["on"])
        head = f"**{escaped(entry['id'])} ({escaped(entry['severity'])})** on {escaped(on)}: {escaped(entry['label'])}"
        why = f" Because: {escaped('; '.join(fact_text(f) for f in entry['because']))}." if entry["because"] else ""
        return [f"{head}. {escaped(entry['text'] or '')}{why} Sources: {escaped('; '.join(entry['sources']))}"]

    def holding(self, entry: Json) -> list[Json]:
        """The cautions on an entry that hold."""
        return [c for c in entry["cautions"] if c["state"] == "holds"]

    def names(self, names: Iterable[str]) -> str:
        """The labels of terms that an answer names by their local names, as Markdown."""
        return escaped(", ".join(self.labels.get(name, name) for name in names))

    def reasons(self) -> list[Json]:
        """Why a clinician may act against a card, as the knowledge base lists it."""
        knowledge = self.kb.knowledge
        found = knowledge.instances(CG["OverrideReason"])
        return [self.known.own(iri) for iri in sorted(found, key=lambda iri: int(knowledge.value(iri, CG["rank"]) or 0))]

    def suggesting(self, card: Json, needs: set[str]) -> Json:
        """The card with an offer to order what is lacking and recommended to be measured, unless a card offers it already."""
        offers = []
        for entry in self.with_status("recommended"):
            for name in entry["measures"]:
                codes = self.known.codes(self.known.iris.get(name, ""))
                if name in needs - self.offered and codes:
                    self.offered.add(name)
                    identifier = self.identifier(card["uuid"], "measure", name)
                    offers.append(measuring(identifier, entry["label"], self.labels.get(name, name), codes, self.request))
        return self.with_suggestions(card, offers)

    def with_suggestions(self, card: Json, suggestions: list[Json]) -> Json:
        """The card with suggestions, of which any number may be chosen; as it is where there are none."""
        return card | {"suggestions": suggestions, "selectionBehavior": "any"} if suggestions else card

    def reference(self, order: Json) -> str:
        """The reference of the resource that an order of the answer came from."""
        fact: str = order["fact"]
        return self.request.read.origins.get(fact, fact)

    def order_name(self, order: Json) -> str:
        """What an order is called: a draft by its own words, an order of the record by its class."""
        draft = self.drafts.get(self.reference(order))
        return self.draft_name(draft) if draft else order["label"]

    def order_line(self, order: Json) -> str:
        """An order in full, as Markdown: its own words, what it was read as, and its reference."""
        return f"{escaped(self.order_name(order))}, read as {escaped(fact_text(order))} ({escaped(self.reference(order))})"

    def draft_name(self, draft: Draft) -> str:
        """What an order in draft calls itself, otherwise what it was read as."""
        label = next((self.known.own(iri)["display"] for iri in self.classes(draft)), draft.reference)
        return shortened(draft.text or label, 60)

    def classes(self, draft: Draft) -> list[str]:
        """The classes of orders that an order in draft was read as."""
        return [iri for iri in self.request.classes.get(draft.reference, ()) if self.known.kind(iri) == "Order"]

    def touches(self, caution: Json, draft: Draft) -> bool:
        """Whether a caution is on the class of an order in draft, or rests on the order itself."""
        if any(self.reference(fact) == draft.reference for fact in caution["because"]):
            return True
        targets = {iri for t in caution["on"] if t["kind"] == "order" for iri in self.known.below(t["iri"])}
        return any(iri in targets for iri in self.classes(draft))

    def identifier(self, *parts: str) -> str:
        """A UUID that is the same for the same service, patient and knowledge base."""
        about = self.kb.about
        space = uuid.uuid5(uuid.NAMESPACE_URL, f"{about['iri']}|{about['sha256']}|{self.service}|{self.request.patient_id}")
        return str(uuid.uuid5(space, "|".join(parts)))

    def topic_of(self, entries: list[Json], term: str) -> str | None:
        """The topic of a card about several entries: what they have in common; one entry has its own statement."""
        return CG[term].value if len(entries) > 1 else None

    def with_status(self, status: str) -> list[Json]:
        """The recommendations with a status."""
        return [r for r in self.answer["recommendations"] if r["status"] == status]
