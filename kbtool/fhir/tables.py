"""What a knowledge base says about reading FHIR, compiled into look-up tables once.

Every code, unit, status and route comes from the ontology; this module knows only the words of the guideline language.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyoxigraph as ox

from kbtool.namespaces import CG, OWL, RDF, RDFS, SKOS, VANN, local_name, text

KINDS = ("Finding", "Observation", "Setting", "Treatment", "Session", "Medication", "Order")
"""The kinds of fact, as local names of the guideline language."""

_SPLIT = re.compile(r"([/.()])")
_ANNOTATION = re.compile(r"\{([^{}]*)\}")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, eq=False)
class Concept:
    """A class that facts can be of. There is one object for each class of a knowledge base.

    kind: one of KINDS. above: the class and all its superclasses. units: accepted UCUM units, with how each becomes the
    canonical unit (factor, offset). formula: what is measured, as a
    chemical symbol, which an annotation in a unit may name. disturbed: whether sessions disturb it. given_by, not_given_by,
    given_as: codes (system, code). row: the class as a term in N-Triples.
    """

    iri: str
    name: str
    label: str
    kind: str
    above: frozenset[str]
    units: dict[str, tuple[str | None, str | None]]
    formula: str | None
    disturbed: bool
    maximum: float | None
    log_hours: float | None
    given_by: frozenset[tuple[str, str]]
    not_given_by: frozenset[tuple[str, str]]
    given_as: frozenset[tuple[str, str]]
    orders: frozenset[str]
    session_of: str | None
    row: str

    def same(self, one: str, other: str) -> bool:
        """Whether two accepted units mean the same, so that a number is the same value in both."""
        return one == other or self.units[one] == self.units[other]


@dataclass(frozen=True)
class Match:
    """What the codings of a concept in a record lead to.

    concept: the class, if exactly one (the narrowest, where one is below all others). problem: why there is none although
    the knowledge base knows a code. near: the class that a problem is about. code: the code that led to the concept. own:
    whether it is the name of the class in the knowledge base itself.
    """

    concept: Concept | None = None
    problem: str | None = None
    near: str | None = None
    code: str | None = None
    own: bool = False


@dataclass(frozen=True, eq=False)
class Property:
    """A property that a sender may state on a fact by an extension.

    row: as a term in N-Triples. datatype: of its values; None where they are named. values: by the name that tells them, and by
    its local part, as terms in N-Triples.
    """

    row: str
    kinds: frozenset[str]
    datatype: str | None
    values: dict[str, str]


NOTHING = Match()


class Tables:
    """The look-up tables of a knowledge base. Make them by `tables`, which keeps them."""

    def __init__(self, graph: ox.Store) -> None:
        self.graph = graph
        self.supers = self._supers()
        self.aliases = self._aliases()
        self.spaces = sorted(text(q.object) for q in graph.quads_for_pattern(None, VANN["preferredNamespaceUri"], None, None))
        self.concepts = {c.iri: c for c in self._concepts()}
        self.assumed = {c.name: c.row for c in self.concepts.values() if c.kind not in ("Observation", "Setting")}
        self.codes: dict[tuple[str, str], list[Concept]] = {}
        self.unverified: dict[tuple[str, str], Concept] = {}
        self.wider: dict[tuple[str, str], Concept] = {}
        self._read_codes()
        self.prefixed = {
            s for q in graph.quads_for_pattern(None, CG["narrowsByPrefix"], None, None) for s in self._iris(q.subject)
        }
        self.properties = self._properties()
        self.statuses: dict[tuple[str, str], StatusTable] = {}
        self.spellings: dict[str, str] = {}
        self.timings: dict[tuple[str, str], str] = {}
        self._read_tables()
        self.labels = self._labels()
        self.orders_of = self._orders_of()
        self.match = lru_cache(maxsize=65536)(self._match)
        self.stated_unit = lru_cache(maxsize=65536)(self._stated_unit)
        self.named = lru_cache(maxsize=16384)(self._named)

    # assumed: by local name the classes whose facts count as absent where they are not recorded

    # --- what is asked of it

    def system(self, iri: str) -> str:
        """The IRI by which the knowledge base names a code system; the IRI itself where it knows none."""
        return self.aliases.get(iri, iri)

    def status(self, resource: str, element: str) -> StatusTable | None:
        """How the codes of an element are read, or None where nothing is said about it."""
        return self.statuses.get((resource, element))

    def understood(self) -> Iterator[tuple[Concept, str, str]]:
        """Every class with each verified code (system, code) and its name in the knowledge base's own namespace."""
        for (system, code), concepts in sorted(self.codes.items()):
            for concept in concepts:
                yield concept, system, code

    # --- compiled

    def _values(self, subject: object, predicate: ox.NamedNode) -> list[str]:
        quads = self.graph.quads_for_pattern(subject, predicate, None, None)  # type: ignore[arg-type]
        return sorted(text(q.object) for q in quads)

    def _value(self, subject: object, predicate: ox.NamedNode) -> str | None:
        return next(iter(self._values(subject, predicate)), None)

    def _iris(self, system: object) -> list[str]:
        return self._values(system, CG["systemIri"])

    def _supers(self) -> dict[str, frozenset[str]]:
        direct: dict[str, set[str]] = {}
        for quad in self.graph.quads_for_pattern(None, RDFS["subClassOf"], None, None):
            if isinstance(quad.subject, ox.NamedNode) and isinstance(quad.object, ox.NamedNode):
                direct.setdefault(quad.subject.value, set()).add(quad.object.value)
        found: dict[str, frozenset[str]] = {}
        for iri in direct:
            seen, waiting = {iri}, [iri]
            while waiting:
                for above in direct.get(waiting.pop(), ()):
                    if above not in seen:
                        seen.add(above)
                        waiting.append(above)
            found[iri] = frozenset(seen)
        return found

    def _aliases(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for quad in self.graph.quads_for_pattern(None, CG["systemAlias"], None, None):
            for iri in self._iris(quad.subject):
                found[text(quad.object)] = iri
        return found

    def _code(self, node: str) -> tuple[str, str]:
        subject = ox.NamedNode(node)
        return self.system(self._value(subject, CG["codeSystem"]) or ""), self._value(subject, SKOS["notation"]) or ""

    def _codes_of(self, iri: str, link: str) -> frozenset[tuple[str, str]]:
        return frozenset(self._code(node) for node in self._values(ox.NamedNode(iri), CG[link]))

    def _concepts(self) -> Iterator[Concept]:
        kinds = {CG[kind].value: kind for kind in KINDS}
        for iri, above in sorted(self.supers.items()):
            found = [kinds[a] for a in above if a in kinds]
            node = ox.NamedNode(iri)
            if len(found) != 1 or iri in kinds or self._value(node, OWL["equivalentClass"]):
                continue
            if self._value(node, OWL["deprecated"]) == "true":
                continue
            numbers = {name: self._value(node, CG[name]) for name in ("plausibleMaximum", "logHours")}
            accepted = [ox.NamedNode(u) for u in self._values(node, CG["acceptsUnit"])]
            units = {
                self._value(u, CG["ucum"]) or "": (self._value(u, CG["factor"]), self._value(u, CG["offset"])) for u in accepted
            }
            yield Concept(
                iri,
                local_name(iri),
                self._value(node, SKOS["prefLabel"]) or local_name(iri),
                found[0],
                above,
                units,
                self._value(node, CG["substanceFormula"]),
                any(self._value(ox.NamedNode(a), CG["disturbedBy"]) for a in above),
                float(numbers["plausibleMaximum"]) if numbers["plausibleMaximum"] else None,
                float(numbers["logHours"]) if numbers["logHours"] else None,
                self._codes_of(iri, "givenBy"),
                self._codes_of(iri, "notGivenBy"),
                self._codes_of(iri, "givenAs"),
                frozenset(self._values(node, CG["ordersMedication"])),
                self._value(node, CG["sessionOf"]),
                str(node),
            )

    def _read_codes(self) -> None:
        for concept in self.concepts.values():
            node = ox.NamedNode(concept.iri)
            for space in self.spaces:
                if concept.iri.startswith(space):
                    self.codes.setdefault((space, concept.iri[len(space) :]), []).append(concept)
            for code in self._values(node, CG["hasCode"]):
                if self._value(ox.NamedNode(code), CG["verified"]) == "true":
                    self.codes.setdefault(self._code(code), []).append(concept)
                else:
                    self.unverified[self._code(code)] = concept
            for link in (SKOS["broadMatch"], SKOS["relatedMatch"]):
                for code in self._values(node, link):
                    self.wider.setdefault(self._code(code), concept)

    def _properties(self) -> dict[str, Property]:
        links = {q.subject for q in self.graph.quads_for_pattern(None, RDFS["subPropertyOf"], CG["hasFact"], None)} | {
            CG["hasSetting"]
        }
        stated: dict[str, set[str]] = {}
        for quad in self.graph.quads_for_pattern(None, CG["statedOn"], None, None):
            if quad.subject not in links:
                stated.setdefault(text(quad.subject), set()).add(local_name(text(quad.object)))
        found = {}
        for iri, on in stated.items():
            node = ox.NamedNode(iri)
            kinds = on | ({"Observation", "Setting"} if "Quantity" in on else set())
            allowed = self._value(node, RDFS["range"]) or ""
            if ox.Quad(node, RDF["type"], OWL["ObjectProperty"]) in self.graph:
                individuals = {}
                for quad in self.graph.quads_for_pattern(None, RDF["type"], ox.NamedNode(allowed), None):
                    if isinstance(quad.subject, ox.NamedNode):
                        for name in (quad.subject.value, local_name(quad.subject.value)):
                            individuals[name] = str(quad.subject)
                found[iri] = Property(str(node), frozenset(kinds), None, individuals)
            else:
                found[iri] = Property(str(node), frozenset(kinds), allowed, {})
        return found

    def _read_tables(self) -> None:
        for quad in self.graph.quads_for_pattern(None, RDF["type"], CG["CodeTable"], None):
            subject = quad.subject
            element = self._value(subject, CG["atElement"]) or ""
            systems = frozenset(self._values(subject, CG["codeSystem"]))
            missing = local_name(self._value(subject, CG["whenMissing"]) or "")
            readings: dict[tuple[str | None, str], str] = {}
            for row in self.graph.quads_for_pattern(subject, CG["hasRow"], None, None):
                code = self._value(row.object, CG["rowCode"]) or ""
                system = self._value(row.object, CG["codeSystem"])
                reading = self._value(row.object, CG["readAs"])
                often, unit = self._value(row.object, CG["timesADay"]), self._value(row.object, CG["ucum"])
                if reading:
                    readings[(self.system(system) if system else None, code)] = local_name(reading)
                if often and system:
                    self.timings[(system, code)] = often
                if unit:
                    self.spellings[code] = unit
            for resource in self._values(subject, CG["ofResource"]):
                self.statuses[(resource, element)] = StatusTable(resource, element, systems, missing, readings)

    def _labels(self) -> list[tuple[tuple[str, ...], Concept]]:
        """The words by which a text may name a class without coding it."""
        found: dict[tuple[str, ...], Concept] = {}
        for concept in self.concepts.values():
            node = ox.NamedNode(concept.iri)
            names = [*self._values(node, SKOS["prefLabel"]), *self._values(node, SKOS["altLabel"])]
            for code in self._values(node, CG["hasCode"]):
                names += self._values(ox.NamedNode(code), CG["display"])
            for name in names:
                found.setdefault(_words(name), concept)
        return sorted(((words, c) for words, c in found.items() if words), key=lambda item: -len(item[0]))

    def _orders_of(self) -> dict[str, list[Concept]]:
        found: dict[str, list[Concept]] = {}
        for concept in self.concepts.values():
            for medication in concept.orders:
                found.setdefault(medication, []).append(concept)
        return found

    # --- kept by the caches

    def _match(self, codings: tuple[tuple[str, str], ...], kinds: frozenset[str]) -> Match:
        """The class that codings (system, code) name. A code of another kind of fact is a problem, not a match."""
        found: dict[str, tuple[Concept, str, bool]] = {}
        other: Concept | None = None
        for system, code in codings:
            for concept in self._by_code(self.system(system), code):
                if concept.kind in kinds:
                    found.setdefault(concept.iri, (concept, code, system in self.spaces))
                else:
                    other = concept
        if found:
            for concept, code, own in found.values():
                if all(iri in concept.above for iri in found):
                    return Match(concept, code=code, own=own)
            names = ", ".join(sorted(concept.label for concept, _, _ in found.values()))
            return Match(problem=f"its codes mean different things: {names}", near=min(c.name for c, _, _ in found.values()))
        if other is not None:
            return Match(
                problem=f"its code names a {other.kind.lower()} ({other.label}), which is not what it can state", near=other.name
            )
        for system, code in codings:
            key = (self.system(system), code)
            if key in self.unverified:
                return Match(
                    problem="the code has not been verified, and no record is read by it", near=self.unverified[key].name
                )
            if key in self.wider:
                concept = self.wider[key]
                if concept.kind in kinds:
                    return Match(problem=f"the code means more than {concept.label}, or something beside it", near=concept.name)
        return NOTHING

    def _by_code(self, system: str, code: str) -> list[Concept]:
        exact = self.codes.get((system, code))
        if exact is not None:
            return exact
        if system in self.prefixed:
            for length in range(len(code) - 1, 0, -1):
                above = self.codes.get((system, code[:length]))
                if above is not None:
                    return above
        return []

    def _stated_unit(self, stated: str, beside: str | None, concept: Concept, suffix: str) -> tuple[str | None, bool]:
        """The accepted unit of a class that a unit means, or None; and whether a second form beside it means another."""
        unit = self._unit(stated, concept, suffix)
        other = None if beside is None or unit is None else self._unit(beside, concept, suffix)
        return unit, unit is not None and other is not None and not concept.same(other, unit)

    def _unit(self, written: str, concept: Concept, suffix: str) -> str | None:
        """The accepted unit of a class that a unit as written means exactly, or None. suffix: added first, as in "/d"."""
        for candidate in self._spelt(written, concept.formula):
            if candidate + suffix in concept.units:
                return candidate + suffix
        return None

    def _spelt(self, written: str, formula: str | None) -> Iterator[str]:
        written = written.strip()
        yield written
        if written in self.spellings:
            yield self.spellings[written]
        bare = _ANNOTATION.sub(lambda m: "" if m[1] == formula else m[0], written)
        parts = [self.spellings.get(part, part) for part in _SPLIT.split(bare)]
        yield "".join(parts)

    def _named(self, words: str, kinds: frozenset[str]) -> str | None:
        """The name of a class of these kinds whose label stands in a text, word for word; None where there is none."""
        given = _words(words)
        joined = f" {' '.join(given)} "
        for label, concept in self.labels:
            if len(label) <= len(given) and concept.kind in kinds and f" {' '.join(label)} " in joined:
                return concept.name
        return None


@dataclass(frozen=True, eq=False)
class StatusTable:
    """How the codes of one element are read: by (system or None, code) the local name of a reading or of a state."""

    resource: str
    element: str
    systems: frozenset[str]
    missing: str
    readings: dict[tuple[str | None, str], str]

    @cached_property
    def path(self) -> list[str]:
        """The steps that lead to the element."""
        return self.element.split(".")

    def read(self, code: str, system: str | None = None) -> str | None:
        """The reading of a code, None for one that is not in the table."""
        if system is not None and self.systems and system not in self.systems:
            return None
        return self.readings.get((None, code)) or (self.readings.get((system, code)) if system else None)


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORD.findall(name))


_kept: dict[int, Tables] = {}


def tables(graph: ox.Store) -> Tables:
    """The tables of a knowledge graph, made once for each."""
    found = _kept.get(id(graph))
    if found is None or found.graph is not graph:
        while len(_kept) >= 4:
            _kept.pop(next(iter(_kept)))
        found = _kept[id(graph)] = Tables(graph)
    return found
