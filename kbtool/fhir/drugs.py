"""Read what states drugs and orders: MedicationRequest, MedicationStatement, MedicationAdministration, ServiceRequest."""

from __future__ import annotations

from typing import Any

from kbtool.fhir.elements import bounds, choice, dicts, edge, has_modifier, references, shared_edge
from kbtool.fhir.outcomes import DOSE, SINCE, START, STATE, Fact, Outcome, amount_pairs, time_term
from kbtool.fhir.reader import ResourceReader
from kbtool.fhir.tables import NOTHING, Concept, Tables
from kbtool.fhir.times import Moment, moment
from kbtool.fhir.values import coded, codings, daily_dose, shown

Json = dict[str, Any]

_DRUG = frozenset({"Medication"})
_DRUG_OR_ORDER = frozenset({"Medication", "Order"})
_ORDERED = frozenset({"Order"})


class Drugs(ResourceReader):
    """Reads drugs that are taken, given or ordered, and other orders."""

    def _drug(self, resource: Json, outcome: Outcome, kinds: frozenset[str]) -> tuple[Concept, str | None] | None:
        """The class of the drug of a resource and the code that named it; None where there is none, which has been noted."""
        coded = resource.get("medicationCodeableConcept")
        reference = resource.get("medicationReference")
        both = resource.get("medication")
        if isinstance(both, dict):
            coded, reference = coded or both.get("concept"), reference or both.get("reference")
        pointed = reference.get("reference") if isinstance(reference, dict) else None
        if coded is None and reference is not None:
            medication = outcome.scope.resolve(outcome.entry, pointed) if isinstance(pointed, str) else None
            versions = outcome.scope.versions(pointed, outcome.entry) if medication is None and isinstance(pointed, str) else []
            if versions:
                matches = [self.tables.match(codings(version.get("code")), kinds) for version in versions]
                names = {m.concept.name if m.concept else m.near for m in matches if m is not NOTHING}
                for name in sorted(names - {None}, key=str) or (None,):
                    outcome.skip("the drug that it points at stands there in versions that differ", name)
                return None
            if medication is None or medication.get("resourceType") != "Medication":
                outcome.skip(
                    f"the drug that it points at ({str(pointed or shown(reference))[:80]}) is not in the record",
                    _named(self.tables, reference),
                )
                return None
            if has_modifier(medication) or medication.get("status") == "entered-in-error":
                outcome.skip("the drug that it points at is withdrawn, or has a modifierExtension", None)
                return None
            coded = medication.get("code")
            listed = medication.get("ingredient")
            if self.tables.match(codings(coded), kinds) is NOTHING and isinstance(listed, list) and listed:
                return self._ingredient(resource, outcome, coded, listed, kinds)
        match = self.matched(resource, outcome, coded, kinds)
        return (match.concept, match.code) if match and match.concept else None

    def _ingredient(
        self, resource: Json, outcome: Outcome, coded: Any, listed: list[Any], kinds: frozenset[str]
    ) -> tuple[Concept, str | None] | None:
        """A product without a known code is the drug that is its one ingredient."""
        named = []
        for ingredient in listed:
            item = ingredient.get("itemCodeableConcept") or ingredient.get("item") if isinstance(ingredient, dict) else None
            named.append(item.get("concept", item) if isinstance(item, dict) else None)
        known = [m for m in (self.tables.match(codings(item), kinds) for item in named) if m is not NOTHING]
        if len(named) == 1 or not known:
            match = self.matched(resource, outcome, named[0] if known else coded, kinds)
            return (match.concept, match.code) if match and match.concept else None
        first = known[0]
        outcome.code = shown(coded)
        outcome.skip(
            "it is a mixture whose code is not known, and one of its parts is",
            first.concept.name if first.concept else first.near,
        )
        return None

    def _route(self, dosages: list[Json]) -> tuple[set[tuple[str, str]], bool]:
        """The routes (system, code) of dosages, and whether any is stated at all."""
        routes = [d["route"] for d in dosages if d.get("route") is not None]
        return {(self.tables.system(s), c) for route in routes for s, c in codings(route)}, bool(routes)

    def _belongs(self, outcome: Outcome, concept: Concept, dosages: list[Json]) -> bool:
        routes, _ = self._route(dosages)
        if routes & concept.not_given_by:
            outcome.skip(f"it is given by a route that does not belong to {concept.label}", concept.name, matters=False)
            return False
        return True

    def medication_request(self, resource: Json, outcome: Outcome) -> None:
        """An order, and what is taken where nothing else tells it. A draft is an order only."""
        found = self._drug(resource, outcome, _DRUG_OR_ORDER)
        reading = self._requested(resource, outcome, found[0]) if found else None
        if found is None or reading is None:
            return
        concept, code = found
        dosages = dicts(resource.get("dosageInstruction"))
        if concept.kind == "Medication" and not self._belongs(outcome, concept, dosages):
            return
        spans = [b for b in (bounds(d) for d in dosages) if b]
        start, end = shared_edge(spans, "start"), shared_edge(spans, "end")
        if reading in ("Counts", "InDraft"):
            self._orders(resource, outcome, concept, code, dosages, start)
        if concept.kind != "Medication" or reading == "InDraft":
            return
        if reading == "IsOver" and (end is None or (end.exact or end.latest) is None):
            outcome.skip(
                "it is over, and it is not said when it ended: it does not count as taken now", concept.name, matters=False
            )
            return
        self._taken(
            resource, outcome, concept, "request", dosages, start, end, refers=references(resource.get("basedOn"), outcome)
        )

    def _requested(self, resource: Json, outcome: Outcome, concept: Concept) -> str | None:
        if resource.get("doNotPerform") not in (None, False):
            outcome.skip("it is an instruction not to do it", concept.name, matters=False)
            return None
        return self.counts(resource, outcome, concept)

    def _orders(
        self, resource: Json, outcome: Outcome, concept: Concept, code: str | None, dosages: list[Json], start: Moment | None
    ) -> None:
        """The orders that a request is: of its own class, or those that order its drug by its route."""
        if concept.kind == "Order":
            classes = [concept]
        else:
            classes = [o for iri in sorted(concept.above) for o in self.tables.orders_of.get(iri, ())]
        routes, stated = self._route(dosages)
        for order in classes:
            if order is not concept and order.given_by:
                if routes & order.not_given_by and not routes & order.given_by:
                    continue
                alone = not stated and any(code == c for _, c in order.given_as)
                if not routes & order.given_by and not alone:
                    why = "its route is not known" if stated else "its route is not stated"
                    outcome.skip(f"{why}: whether it is a {order.label[:1].lower()}{order.label[1:]} cannot be told", order.name)
                    continue
            drug = next((self.tables.concepts[m] for m in sorted(order.orders) if m in self.tables.concepts), None)
            fact = Fact(order, [], "" if order is concept else f"#{order.name}")
            dose = daily_dose(dosages, drug, self.tables) if drug is not None else None
            if dose is not None:
                fact.pairs += amount_pairs(dose, DOSE)
            written = start or moment(resource.get("authoredOn"))
            if written is not None and written.exact:
                fact.pairs.append((START, time_term(written.exact)))
            self.stated(resource, outcome, fact)
            outcome.facts.append(fact)

    def _taken(
        self,
        resource: Json,
        outcome: Outcome,
        concept: Concept,
        source: str,
        dosages: list[Json],
        start: Moment | None,
        end: Moment | None,
        refers: tuple[str, ...] = (),
    ) -> None:
        fact = Fact(concept, [], source=source, at=start.exact if start else None, ended=end is not None, refers=refers)
        if not self.span(outcome, fact, start, end):
            return
        dose = daily_dose(dosages, concept, self.tables)
        if dose is not None:
            fact.pairs += amount_pairs(dose, DOSE)
        self.stated(resource, outcome, fact)
        if sum(prop == SINCE for prop, _ in fact.pairs) > 1:
            fact.pairs.remove(next(pair for pair in fact.pairs if pair[0] == SINCE))
        outcome.facts.append(fact)

    def medication_statement(self, resource: Json, outcome: Outcome) -> None:
        """What is taken or was taken."""
        found = self._drug(resource, outcome, _DRUG)
        reading = self.counts(resource, outcome, found[0]) if found else None
        if found is None or reading is None:
            return
        concept, dosages = found[0], dicts(resource.get("dosage"))
        if not self._belongs(outcome, concept, dosages):
            return
        stated = choice(resource, "effective")
        start, end = (None, None) if "DateTime" in stated else (edge(stated, "start"), edge(stated, "end"))
        if reading == "IsOver" and (end is None or (end.exact or end.latest) is None):
            outcome.skip(
                "it is over, and it is not said when it ended: it does not count as taken now", concept.name, matters=False
            )
            return
        self._taken(resource, outcome, concept, "statement", dosages, start, end)

    def medication_administration(self, resource: Json, outcome: Outcome) -> None:
        """What is being given or was given."""
        found = self._drug(resource, outcome, _DRUG)
        reading = self.counts(resource, outcome, found[0]) if found else None
        if found is None or reading is None:
            return
        concept = found[0]
        if not self._belongs(outcome, concept, dicts([resource.get("dosage")])):
            return
        stated = choice(resource, "effective") or choice(resource, "occurence") or choice(resource, "occurrence")
        start = edge(stated, "start")
        end = edge(stated, "end") or (start if "DateTime" in stated and reading == "IsOver" else None)
        if reading == "IsOver" and end is None:
            outcome.skip("it is over, and it is not said when the drug was given", concept.name)
            return
        self._taken(resource, outcome, concept, "administration", [], start, end if reading == "IsOver" else None)

    def service_request(self, resource: Json, outcome: Outcome) -> None:
        """An order that is coded as such; requests for tests and the like are not needed."""
        code = resource.get("code")
        if isinstance(code, dict) and isinstance(code.get("concept"), dict):
            code = code["concept"]
        said = coded(code)
        known = self.tables.match(said.codings, _ORDERED)
        if known.concept is None:
            self.unknown(resource, outcome, said, _ORDERED)
            return
        concept = known.concept
        outcome.code = said.shown
        reading = self._requested(resource, outcome, concept) if self.usable(resource, outcome, concept) else None
        if reading is None:
            return
        begins = edge(choice(resource, "occurrence"), "start")
        self._orders(resource, outcome, concept, None, [], begins)
        if reading in self.states:
            outcome.facts[-1].pairs.append((STATE, self.states[reading]))


def _named(tables: Tables, reference: Any) -> str | None:
    display = reference.get("display") if isinstance(reference, dict) else None
    return tables.named(display, _DRUG) if isinstance(display, str) else None
