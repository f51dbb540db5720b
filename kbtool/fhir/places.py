"""Where a patient is treated, as text by which patients are counted: no advice depends on it.

The organisation that provides the latest encounter treats the patient. Where no encounter tells one, the organisation that keeps
the record of the patient stands for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kbtool.fhir.documents import Entry, Scope
from kbtool.fhir.times import seconds

Json = dict[str, Any]


class Place(NamedTuple):
    """An organisation as a reference names it. name: of the resource that it points at. words: its display, or its identifier
    (system and value). iri: of the resource, whether it is there or not."""

    name: str | None
    words: str | None
    iri: str | None

    def text(self, names: Mapping[str, str]) -> str | None:
        """The name, or else the words, or else the address. names: of the organisations on record, by IRI."""
        known = self.name or (names.get(self.iri) if self.iri else None) or self.words
        return known or (_line(self.iri) if self.iri and self.iri.startswith("http") else None)


class Visit(NamedTuple):
    """An encounter that has begun, or is over: who provides it, and its start where that is exactly known."""

    place: Place
    start: str | None


def place(reference: Any, entry: Entry, scope: Scope) -> Place | None:
    """The organisation that a reference in a resource names; None where it names none."""
    if not isinstance(reference, dict):
        return None
    target, name, iri = reference.get("reference"), None, None
    if isinstance(target, str):
        pointed = scope.resolve(entry, target)
        if pointed is not None and pointed.get("resourceType") != "Organization":
            return None
        name = name_of(pointed)
        iri = None if target.startswith("#") else scope.key(target, entry)
    found = Place(name, _line(reference.get("display")) or _identifier(reference.get("identifier")), iri)
    return found if found.text({}) or iri else None


def name_of(organization: Any) -> str | None:
    """The name of an Organization resource, or its first identifier."""
    if not isinstance(organization, dict):
        return None
    listed = organization.get("identifier")
    identifiers = map(_identifier, listed if isinstance(listed, list) else ())
    return _line(organization.get("name")) or next(filter(None, identifiers), None)


def treated_at(kept_by: Iterable[Place], visits: Iterable[Visit], names: Mapping[str, str]) -> str | None:
    """Where a patient is treated; None where nothing tells, or where it cannot be told from several places."""
    return _latest([(visit.place.text(names), visit.start) for visit in visits]) or _only(p.text(names) for p in kept_by)


def _latest(visits: list[tuple[str | None, str | None]]) -> str | None:
    named = [(text, start) for text, start in visits if text]
    times = {seconds(start) if start else None for _, start in named}
    if None in times:
        return _only(text for text, _ in named)
    last = max((time for time in times if time is not None), default=None)
    return _only(text for text, start in named if start and seconds(start) == last)


def _only(texts: Iterable[str | None]) -> str | None:
    found = set(filter(None, texts))
    return found.pop() if len(found) == 1 else None


def _identifier(identifier: Any) -> str | None:
    if not isinstance(identifier, dict):
        return None
    system, value = _line(identifier.get("system")), _line(identifier.get("value"))
    return f"{system}|{value}" if system and value else value


def _line(text: Any) -> str | None:
    """Text as one line of characters that a literal can hold; None for what is no text, or says nothing."""
    if not isinstance(text, str):
        return None
    return " ".join(text.encode("utf-8", "replace").decode().split())[:200] or None
