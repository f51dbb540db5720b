"""What every reader of a resource type has in common: codes, statuses, and extensions named by a property."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from kbtool.fhir.elements import has_modifier, stated_value, status_of
from kbtool.fhir.outcomes import END, SINCE, START, STATE, Fact, Outcome, time_term
from kbtool.fhir.tables import NOTHING, Concept, Match, StatusTable, Tables
from kbtool.fhir.times import Moment
from kbtool.fhir.values import Coded, UnusableError, coded
from kbtool.namespaces import CG, local_name

Json = dict[str, Any]

_GRAVITY = {"DoesNotCount": 0, "CannotBeTold": 1, "IsOver": 2, "InDraft": 3, "Counts": 5}
_OF_STATES = 4
"""The gravity of a reading that is a state of a fact."""


class ResourceReader:
    """Reads resources by the tables of a knowledge base. Nothing here knows a code or a status."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.status_of: dict[str, list[StatusTable]] = {}
        for (resource, element), table in sorted(tables.statuses.items()):
            if not (resource == "Observation" and element in ("value", "code")):
                self.status_of.setdefault(resource, []).append(table)
        self._only = {
            resource: tables[0].element
            for resource, tables in self.status_of.items()
            if len(tables) == 1 and "." not in tables[0].element
        }
        self._by_code = lru_cache(maxsize=4096)(self._reading_of)
        state = tables.properties.get(CG["state"].value)
        self.states = dict(state.values) if state else {}

    def matched(self, resource: Json, outcome: Outcome, concept: Any, kinds: frozenset[str]) -> Match | None:
        """The class that the code of a resource names; None where nothing is to be read, which has then been noted."""
        said = coded(concept)
        match = self.tables.match(said.codings, kinds)
        if match is NOTHING:
            self.unknown(resource, outcome, said, kinds)
            return None
        outcome.code = said.shown
        if match.concept is not None:
            return match if self.usable(resource, outcome, match.concept) else None
        withdrawn = self.reading(resource)[0] == "DoesNotCount"
        outcome.skip(f"{match.problem}", match.near, matters=not withdrawn)
        return None

    def unknown(self, resource: Json, outcome: Outcome, said: Coded, kinds: frozenset[str]) -> None:
        """Note a code that the knowledge base does not know; it stands out where its words name a class."""
        near = self.tables.named(said.words, kinds) if said.words else None
        if near is None:
            outcome.unneeded.append(said.shown or f"{outcome.entry.kind} without a code")
        elif self.reading(resource)[0] != "DoesNotCount":
            what = "its words name something that the guideline knows, but no code does, and words are not read"
            outcome.skip(what, near, code=said.shown)

    def usable(self, resource: Json, outcome: Outcome, concept: Concept) -> bool:
        """Whether the resource may be processed at all, whatever it says."""
        if resource.get("implicitRules") is not None:
            outcome.skip("it was made under rules of its own (implicitRules), which are not known here", concept.name)
            return False
        if not outcome.entry.plain and has_modifier(resource):
            outcome.skip(
                "it has a modifierExtension, which can change the meaning of everything in it, and is not known here",
                concept.name,
            )
            return False
        return True

    def reading(self, resource: Json) -> tuple[str, str, str | None]:
        """How the resource counts by its status elements: the gravest reading, its element and code."""
        kind = str(resource.get("resourceType"))
        element = self._only.get(kind)
        if element is not None and isinstance(code := resource.get(element), str):
            return self._by_code(kind, element, code)
        return self._gravest(kind, resource)

    def _reading_of(self, kind: str, element: str, code: str) -> tuple[str, str, str | None]:
        return self._gravest(kind, {element: code})

    def _gravest(self, kind: str, resource: Json) -> tuple[str, str, str | None]:
        worst: tuple[str, str, str | None] = ("Counts", "", None)
        least = _GRAVITY["Counts"]
        for table in self.status_of.get(kind, ()):
            reading, code = status_of(resource, table)
            gravity = _GRAVITY.get(reading, _OF_STATES)
            if gravity < least:
                worst, least = (reading, table.element, code), gravity
        return worst

    def counts(self, resource: Json, outcome: Outcome, concept: Concept) -> str | None:
        """The reading of a resource that counts in some way; None where it does not, which has then been noted."""
        reading, element, code = self.reading(resource)
        if reading == "DoesNotCount":
            outcome.skip(f"its {element} is {code!r}: it does not count", concept.name, matters=False)
            return None
        if reading == "CannotBeTold":
            said = f"its {element} is {code[:40]!r}" if code else f"it has no {element} that is known"
            outcome.skip(f"{said}: whether it is so cannot be told", concept.name)
            return None
        return reading

    def stated(self, resource: Json, outcome: Outcome, fact: Fact) -> None:
        """Add what extensions state that are named by properties of the knowledge base."""
        extensions = resource.get("extension")
        if not isinstance(extensions, list):
            return
        for extension in extensions:
            url = extension.get("url") if isinstance(extension, dict) else None
            prop = self.tables.properties.get(url) if isinstance(url, str) else None
            if prop is None:
                if isinstance(url, str) and url.startswith(CG.iri):
                    outcome.skip(f"the extension {url[:80]} is not a property that can be stated", fact.concept.name)
                continue
            if fact.concept.kind not in prop.kinds:
                outcome.skip(f"the extension {local_name(url)} does not go with a {fact.concept.kind.lower()}", fact.concept.name)
                continue
            try:
                term = stated_value(extension, prop)
            except UnusableError as error:
                outcome.skip(f"the extension {local_name(url)} is left out: {error}", fact.concept.name)
                continue
            if prop.row == STATE:
                fact.pairs = [pair for pair in fact.pairs if pair[0] != STATE]
            fact.pairs.append((prop.row, term))

    def span(self, outcome: Outcome, fact: Fact, start: Moment | None, end: Moment | None) -> bool:
        """Start and end of something that lasts. A time that is known to the day is read so that it lasts longest. False where
        it has ended and nobody can tell when, which has then been noted."""
        if end is not None and end.exact is None and end.latest is None:
            outcome.skip(f"it has an end, and when cannot be told: {end.problem}", fact.concept.name)
            return False
        for prop, when, instant, word in ((START, start, "earliest", "start"), (END, end, "latest", "end")):
            if when is None:
                continue
            text = when.exact or getattr(when, instant)
            if text is not None:
                fact.pairs.append((prop, time_term(text)))
            if when.exact is None:
                kept = f"is taken to be {text}, so that it lasts as long as it can" if text else "is left out"
                outcome.skip(f"its {word} {kept}: {when.problem}", fact.concept.name, matters=False)
        if fact.concept.kind == "Medication" and start is not None and start.exact is None and start.latest is not None:
            fact.pairs.append((SINCE, time_term(start.latest)))
        return True
