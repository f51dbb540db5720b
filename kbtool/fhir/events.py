"""Read Condition, Procedure and Encounter: findings, treatments and sessions, and where a patient is treated."""

from __future__ import annotations

from typing import Any

from kbtool.fhir.elements import choice, edge, has_modifier, minutes_between, why
from kbtool.fhir.outcomes import END, ONSET, START, STATE, Fact, Outcome, time_term
from kbtool.fhir.places import Visit, place
from kbtool.fhir.reader import ResourceReader
from kbtool.fhir.tables import Concept, Tables
from kbtool.fhir.times import Moment, moment

Json = dict[str, Any]

_FOUND = frozenset({"Finding"})
_TREATED = frozenset({"Treatment", "Session"})


class Events(ResourceReader):
    """Reads conditions, procedures and encounters."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.session_classes = [c for c in tables.concepts.values() if c.kind == "Session" and c.session_of]

    def condition(self, resource: Json, outcome: Outcome) -> None:
        """A finding, with its state, onset and end."""
        match = self.matched(resource, outcome, resource.get("code"), _FOUND)
        concept = match.concept if match else None
        reading = self.counts(resource, outcome, concept) if concept else None
        if concept is None or reading is None:
            return
        fact = Fact(concept, [])
        if reading in self.states and reading != "Unresolved":
            fact.pairs.append((STATE, self.states[reading]))
        for element, side, prop, word in (("onset", "start", ONSET, "onset"), ("abatement", "end", END, "end")):
            stated = choice(resource, element)
            when = edge(stated, side)
            if when is not None and when.exact:
                fact.pairs.append((prop, time_term(when.exact)))
            elif stated:
                outcome.skip(
                    f"its {word} is left out: {when.problem if when else 'it is no date and time'}", concept.name, matters=False
                )
        self.stated(resource, outcome, fact)
        outcome.facts.append(fact)

    def encounter(self, resource: Json, outcome: Outcome) -> None:
        """Who provides an encounter that has begun. It states no fact, and nothing else of it is needed."""
        provider = place(resource.get("serviceProvider"), outcome.entry, outcome.scope)
        unknown = resource.get("implicitRules") is not None or (not outcome.entry.plain and has_modifier(resource))
        if provider is None or unknown or self.reading(resource)[0] in ("DoesNotCount", "CannotBeTold"):
            outcome.unneeded.append("Encounter")
            return
        period = resource.get("period") or resource.get("actualPeriod")
        start = moment(period.get("start")) if isinstance(period, dict) else None
        outcome.visit = Visit(provider, start.exact if start else None)

    def procedure(self, resource: Json, outcome: Outcome) -> None:
        """A treatment, or a session of one: a record coded as the treatment that is no longer than a session is one."""
        match = self.matched(resource, outcome, resource.get("code"), _TREATED)
        concept = match.concept if match else None
        reading = self.counts(resource, outcome, concept) if concept else None
        if match is None or concept is None or reading is None:
            return
        stated = choice(resource, "performed") or choice(resource, "occurrence")
        over = reading == "IsOver"
        moment_only = "DateTime" in stated
        start, end = edge(stated, "start"), None if moment_only else edge(stated, "end")
        if over and end is None:
            outcome.skip("it is over, and it is not said from when to when it lasted", concept.name)
            return
        session: Concept | None = concept
        if concept.kind == "Treatment":
            session = None if match.own else next((s for s in self.session_classes if s.session_of in concept.above), None)
        if session is None:
            self._treatment(resource, outcome, concept, start, end)
            return
        minutes = minutes_between(start, end)
        short = minutes is not None and session.maximum is not None and minutes <= session.maximum
        if concept.kind == "Session" or short:
            if start is None or start.exact is None or (end is not None and end.exact is None):
                outcome.skip(f"its start or end is not known: {why(start, end)}", concept.name)
                return
            self._session(resource, outcome, session, start.exact, end.exact if end else None, concept)
            return
        if minutes is None and over:
            outcome.skip(f"how long it lasted cannot be told: {why(start, end)}", concept.name)
            return
        self._treatment(resource, outcome, concept, start, end)
        if end is None and start is not None and start.exact:
            self._session(resource, outcome, session, start.exact, None, concept)

    def _session(self, resource: Json, outcome: Outcome, session: Concept, start: str, end: str | None, concept: Concept) -> None:
        """A session. One that is coded as its treatment tells of the treatment too, where nothing else on record does."""
        pairs = [(START, time_term(start)), *([(END, time_term(end))] if end else [])]
        fact = Fact(session, list(pairs), "" if concept.kind == "Session" or end else "#session", at=start)
        fact.source = concept.iri if concept.kind == "Treatment" else ""
        self.stated(resource, outcome, fact)
        outcome.facts.append(fact)

    def _treatment(self, resource: Json, outcome: Outcome, concept: Concept, start: Moment | None, end: Moment | None) -> None:
        fact = Fact(concept, [], at=start.exact if start else None, ended=end is not None)
        if not self.span(outcome, fact, start, end):
            return
        self.stated(resource, outcome, fact)
        outcome.facts.append(fact)
