"""The record of one patient: what its resources state together, where one decides about another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kbtool.fhir.documents import Entry, later, named_at
from kbtool.fhir.elements import dicts, stated_value
from kbtool.fhir.outcomes import Fact, NotRead, Outcome, text_term
from kbtool.fhir.places import Place, treated_at
from kbtool.fhir.tables import Concept, Tables
from kbtool.fhir.times import seconds
from kbtool.fhir.values import UnusableError
from kbtool.namespaces import CG, RDF, XSD
from kbtool.rows import Row

Json = dict[str, Any]

_TYPE, _PATIENT, _START, _END, _SETTING = (str(t) for t in (RDF["type"], CG["Patient"], CG["start"], CG["end"], CG["hasSetting"]))
_LINKS = {kind: str(CG["has" + kind]) for kind in ("Finding", "Observation", "Treatment", "Session", "Medication", "Order")}
_MAY_HAVE, _TREATED_AT = str(CG["mayHave"]), str(CG["treatedAt"])
_GENERAL = {CG[name].value for name in ("Treatment", "Fact")}
_DATETIME = f"^^<{XSD['dateTime'].value}>"


class _Kept:
    """An outcome in the record. key: the IRI of its resource. iri: that of its facts. The resource itself is let go. One that
    states nothing is kept too: it may be the later version of one that does."""

    __slots__ = ("code", "facts", "iri", "key", "not_read", "reference", "updated", "visit")

    def __init__(self, entry: Entry, outcome: Outcome, iri: str) -> None:
        self.reference, self.code, self.facts, self.not_read = outcome.reference, outcome.code, outcome.facts, outcome.not_read
        self.key, self.iri, self.visit = entry.iri or iri, iri, outcome.visit
        self.updated = entry.updated


class Record:
    """Collects the outcomes of one patient's resources; `rows` settles what they mean together.

    known: whether the Patient resource itself has come. servers: the addresses at which resources say that the patient is.
    """

    def __init__(self, iri: str, reference: str, tables: Tables) -> None:
        self.iri, self.reference, self.tables = iri, reference, tables
        self.not_read: list[NotRead] = []
        self.unneeded: dict[str, int] = {}
        self.known = False
        self.servers: set[str] = set()
        self._names: set[tuple[str, str | None]] = set()
        self._who: list[Json] = []
        self._kept: dict[str, _Kept] = {}
        self._kept_by: list[Place] = []
        self._stated_places: list[str] = []
        self._places = tables.properties.get(_TREATED_AT[1:-1])
        self._closed: str | None = None
        self._entry: Entry | None = None

    def patient(self, resource: Json, kept_by: Place | None = None) -> None:
        """Take the Patient resource: one of a person who has died, or that may not be used, closes the record. kept_by: the
        organisation that keeps it."""
        if kept_by is not None:
            self._kept_by.append(kept_by)
        for extension in dicts(resource.get("extension")):
            if extension.get("url") == _TREATED_AT[1:-1] and self._places is not None:
                try:
                    self._stated_places.append(stated_value(extension, self._places))
                except UnusableError as error:
                    self._note(NotRead(self.reference, f"the extension treatedAt is left out: {error}", matters=False))
        self.known = True
        self._who.append({key: resource.get(key) for key in ("birthDate", "identifier")})
        closed = None
        if resource.get("deceasedBoolean") is True or resource.get("deceasedDateTime") is not None:
            closed = "the record says that the patient has died: no fact of the record is used"
        elif any(link.get("type") == "replaced-by" for link in dicts(resource.get("link"))):
            closed = "the record has been replaced by another, which must be used instead: no fact of this one is used"
        elif resource.get("modifierExtension") or resource.get("implicitRules") is not None:
            closed = (
                "the patient has a modifierExtension or implicitRules, which are not known here: no fact of the record is used"
            )
        elif _other_person(self._who[0], self._who[-1]):
            closed = (
                "two persons stand under this id (other identifiers, or another date of birth): no fact of the record is used"
            )
        elif resource.get("active") is False and self._closed is None:
            self._note(
                NotRead(self.reference, "the record of the patient is marked as not active: it may have been merged into another")
            )
        for link in dicts(resource.get("link")):
            if link.get("type") != "replaced-by":
                other = link.get("other")
                whose = (
                    f" ({other['reference'][:80]})" if isinstance(other, dict) and isinstance(other.get("reference"), str) else ""
                )
                self._note(NotRead(self.reference, f"another record of this person{whose} is linked, and nothing in it is used"))
        if closed:
            self.close(closed)

    def named(self, subject: Any, origin: Entry) -> None:
        """Remember where a resource says that the patient is, if not at the patient's own address."""
        name = str(subject.get("reference")), origin.base
        if name not in self._names:
            self._names.add(name)
            server = named_at(subject, origin)
            if server is not None and self.iri != server + self.reference:
                self.servers.add(server)

    def close(self, reason: str) -> None:
        """Use no fact of the record."""
        if self._closed is None:
            self._closed = reason
            self._note(NotRead(self.reference, reason))

    def note(self, entry: NotRead) -> None:
        """Say of something that it was not read; once."""
        if entry not in self.not_read:
            self.not_read.append(entry)

    def _note(self, entry: NotRead) -> None:
        self.not_read.append(entry)

    def doubted(self, reason: str) -> list[NotRead]:
        """What the record touches, class by class, as not read for a reason: for another one that it may belong to."""
        touched = {(n.concept, n.resource): n.code for kept in self._kept.values() for n in kept.not_read if n.matters}
        touched |= {(f.concept.name, kept.reference): kept.code for kept in self._kept.values() for f in kept.facts}
        return [NotRead(reference, reason, code, name) for (name, reference), code in touched.items()]

    def add(self, entry: Entry, outcome: Outcome) -> None:
        """Take what a resource gives. A resource that comes twice counts once; of two versions the later one counts."""
        for label in outcome.unneeded:
            self.unneeded[label] = self.unneeded.get(label, 0) + 1
        if entry.iri is None and not (outcome.facts or outcome.not_read or outcome.visit):
            return
        kept = _Kept(entry, outcome, entry.full_url or f"{self.iri}/{entry.tail or f'{entry.kind}-{len(self._kept) + 1}'}")
        other = self._kept.setdefault(kept.key, kept)
        if other is kept:
            return
        later_one = later(kept.updated, other.updated)
        if _says(other) == _says(kept):
            later_one = later_one or kept.updated is None
        elif later_one is None:
            self._refuse("two versions of it differ, and which is the later one cannot be told", kept, other)
        if later_one:
            self._kept[kept.key] = kept

    def disown(self, key: str) -> None:
        """Use nothing of a resource, given by its IRI, that another patient has too."""
        if key in self._kept:
            self._refuse("another patient has it too, and whose it is cannot be told", self._kept[key])

    def _refuse(self, reason: str, kept: _Kept, *others: _Kept) -> None:
        """Keep one version of a resource without what it and the others state, and note each class that they touch."""
        versions = (kept, *others)
        touched = {n.concept: n.code for v in versions for n in v.not_read if n.matters}
        touched |= {f.concept.name: v.code for v in versions for f in v.facts}
        notes = [NotRead(kept.reference, reason, code, name) for name, code in touched.items()]
        kept.not_read = notes or list(dict.fromkeys(n for v in versions for n in v.not_read))
        kept.facts, kept.visit, kept.updated = [], None, None
        self._kept[kept.key] = kept

    def rows(self, origins: dict[str, str], organizations: Mapping[str, str]) -> list[Row]:
        """The triples of the patient, those of the patient first. origins: gets the resource of each fact. organizations: their
        names, by IRI."""
        node = f"<{self.iri}>"
        head: list[Row] = [(node, _TYPE, _PATIENT)]
        for kept in self._kept.values():
            self.not_read.extend(kept.not_read)
        if self._closed:
            return head
        rows: list[Row] = []
        settings: list[tuple[_Kept, Fact]] = []
        treatments: list[tuple[_Kept, Fact, str]] = []
        for kept, fact in [*self._settled(), *self._implied()]:
            if fact.concept.kind == "Setting":
                settings.append((kept, fact))
                continue
            subject = _write(kept, fact, rows, origins)
            head.append((node, _LINKS[fact.concept.kind], subject))
            if fact.concept.kind == "Treatment":
                treatments.append((kept, fact, subject))
        for kept, fact in settings:
            owner = _owner(fact, treatments, self.tables)
            if owner is None:
                reason = "it is a setting, and which treatment it belongs to cannot be told: none is on record, or several are"
                self._note(NotRead(kept.reference, reason, kept.code, fact.concept.name))
            else:
                rows.append((owner, _SETTING, _write(kept, fact, rows, origins)))
        for name in sorted({entry.concept for entry in self.not_read if entry.matters and entry.concept}):
            if name in self.tables.assumed:
                head.append((node, _MAY_HAVE, self.tables.assumed[name]))
        head.extend((node, _TREATED_AT, term) for term in self._places_of(organizations))
        return head + rows

    def _places_of(self, organizations: Mapping[str, str]) -> Iterable[str]:
        """Where the patient is treated, as terms: as it is stated by our own property, otherwise as far as one can tell."""
        if self._stated_places or self._places is None:
            return dict.fromkeys(self._stated_places)
        visits = [kept.visit for kept in self._kept.values() if kept.visit is not None]
        found = treated_at(self._kept_by, visits, organizations)
        return [] if found is None else [text_term(found)]

    # --- what one resource decides about another

    def _settled(self) -> Iterator[tuple[_Kept, Fact]]:
        """The facts that stand, once those of one thing have been held against each other."""
        everything = [(kept, fact) for kept in self._kept.values() for fact in kept.facts]
        seen: dict[str, list[tuple[_Kept, Fact]]] = {}
        drugs: dict[str, list[tuple[_Kept, Fact]]] = {}
        for kept, fact in everything:
            if fact.source == "Observation" and fact.concept.kind == "Finding":
                seen.setdefault(fact.concept.iri, []).append((kept, fact))
            elif fact.concept.kind == "Medication":
                drugs.setdefault(fact.concept.iri, []).append((kept, fact))
            else:
                yield kept, fact
        for some in seen.values():
            yield from self._last_seen(some)
        for some in drugs.values():
            yield from self._taken(some, drugs)

    def _last_seen(self, some: list[tuple[_Kept, Fact]]) -> Iterator[tuple[_Kept, Fact]]:
        """Of observations of one finding the latest decides; without times, or at one time, they must agree."""
        answers = {fact.absent for _, fact in some}
        if answers == {True}:
            return
        if answers == {False}:
            yield from some
            return
        times = {fact.at for _, fact in some}
        if None not in times:
            last = max(seconds(t) for t in times if t is not None)
            latest = [(kept, fact) for kept, fact in some if fact.at is not None and seconds(fact.at) == last]
            if len({fact.absent for _, fact in latest}) == 1:
                for kept, fact in some:
                    if not fact.absent and (kept, fact) not in latest:
                        reason = "a later observation says whether the finding is there"
                        self._note(NotRead(kept.reference, reason, kept.code, fact.concept.name, False))
                yield from (pair for pair in latest if not pair[1].absent)
                return
        for kept, fact in some:
            reason = "another observation says the opposite, and which is the later one cannot be told"
            self._note(NotRead(kept.reference, reason, kept.code, fact.concept.name))

    def _taken(self, some: list[tuple[_Kept, Fact]], drugs: dict[str, list[tuple[_Kept, Fact]]]) -> Iterator[tuple[_Kept, Fact]]:
        """A request tells what is taken only where no statement or running administration does, and once for a chain of
        requests. Single administrations that are over tell nothing about today."""
        concept = some[0][1].concept
        related = [
            pair
            for iri, pairs in drugs.items()
            if iri in concept.above or concept.iri in pairs[0][1].concept.above
            for pair in pairs
        ]
        stated = any(fact.source in ("statement", "administration") and not fact.ended for _, fact in related)
        requests = {kept.key for kept, fact in related if fact.source == "request"}
        current = any(not fact.ended for _, fact in related)
        for kept, fact in some:
            if fact.source == "request" and not fact.ended:
                if stated:
                    continue
                if requests.intersection(fact.refers):
                    continue
            if fact.source == "administration" and fact.ended and not current:
                reason = "the drug was given, and nothing on record tells whether it goes on: it does not count as taken now"
                self._note(NotRead(kept.reference, reason, kept.code, fact.concept.name))
            yield kept, fact

    def _implied(self) -> Iterator[tuple[_Kept, Fact]]:
        """The treatment that sessions belong to, where no resource states it and the sessions are recent in the record.

        A treatment lasts from its first session on. Sessions that lie further before the newest time of the record than
        the record of sessions is kept for tell nothing about today.
        """
        facts = [(kept, fact) for kept in self._kept.values() for fact in kept.facts]
        first: dict[str, tuple[_Kept, Fact]] = {}
        last: dict[str, float] = {}
        for kept, fact in facts:
            if fact.concept.kind == "Session" and fact.at and fact.source in self.tables.concepts:
                at = seconds(fact.at)
                if fact.source not in first or at < seconds(first[fact.source][1].at or ""):
                    first[fact.source] = (kept, fact)
                last[fact.source] = max(at, last.get(fact.source, at))
        newest: float | None = None
        for iri, (kept, session) in first.items():
            concept = self.tables.concepts[iri]
            if any(f.concept.kind == "Treatment" and _kin(f.concept, concept) and _until(f) >= last[iri] for _, f in facts):
                continue
            hours = session.concept.log_hours
            if newest is None:
                newest = max((seconds(t) for _, fact in facts for t in _times(fact)), default=0.0)
            if hours is not None and newest - last[iri] > hours * 3600:
                reason = "its sessions are older than the rest of the record: whether the treatment goes on cannot be told"
                self._note(NotRead(kept.reference, reason, kept.code, concept.name))
                continue
            yield kept, Fact(concept, [(_START, f'"{session.at}"{_DATETIME}')], f"#{concept.name}", at=session.at)


def _owner(fact: Fact, treatments: list[tuple[_Kept, Fact, str]], tables: Tables) -> str | None:
    """The treatment that a setting belongs to: the one it is part of, or the only one that goes on and has sessions, or
    the only one that goes on."""
    for key in fact.refers:
        for other, _, subject in treatments:
            if other.key == key:
                return subject
    running = [(treatment, subject) for _, treatment, subject in treatments if not treatment.ended]
    regular = {c.session_of for c in tables.concepts.values() if c.session_of}
    for candidates in ([s for t, s in running if regular & t.concept.above], [s for _, s in running]):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            return None
    return None


def _other_person(one: Json, other: Json) -> bool:
    """Whether two Patient resources cannot be of one person: they share no identifier, and either have different ones of one
    system or different dates of birth (of which one may be less exact)."""
    systems = [{str(i.get("system", "")): set[str]() for i in dicts(who["identifier"])} for who in (one, other)]
    for found, who in zip(systems, (one, other), strict=True):
        for identifier in dicts(who["identifier"]):
            found[str(identifier.get("system", ""))].add(str(identifier.get("value")))
    both = systems[0].keys() & systems[1].keys()
    if any(systems[0][system] & systems[1][system] for system in both):
        return False
    births = [str(who["birthDate"]) for who in (one, other) if who["birthDate"] is not None]
    return bool(both) or (len(births) == 2 and not births[0].startswith(births[1]) and not births[1].startswith(births[0]))


def _says(kept: _Kept) -> tuple[Any, ...]:
    """What an outcome says, to compare two."""
    facts = ((f.concept.iri, f.part, tuple(f.pairs), f.source, f.at, f.ended, f.absent, f.refers) for f in kept.facts)
    return (*facts, *kept.not_read, kept.visit)


def _times(fact: Fact) -> Iterator[str]:
    """The times of a fact, ends apart: they may lie ahead."""
    for prop, term in fact.pairs:
        if prop != _END and term.endswith(_DATETIME):
            yield term[1 : -len(_DATETIME) - 1]


def _until(fact: Fact) -> float:
    """The end of a fact in seconds; infinite where it has none."""
    ends = [seconds(term[1 : -len(_DATETIME) - 1]) for prop, term in fact.pairs if prop == _END]
    return min(ends, default=float("inf"))


def _write(kept: _Kept, fact: Fact, rows: list[Row], origins: dict[str, str]) -> str:
    """Write a fact, and give its node."""
    iri = kept.iri + fact.part
    subject = f"<{iri}>"
    origins[iri] = kept.reference
    rows.append((subject, _TYPE, fact.concept.row))
    rows += [(subject, prop, term) for prop, term in dict.fromkeys(fact.pairs)]
    return subject


def _kin(one: Concept, other: Concept) -> bool:
    """Whether two treatments are of one sort: a class below the one for all treatments stands above both."""
    return len(one.above & other.above) > len(_GENERAL & one.above & other.above)
