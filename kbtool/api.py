"""The Python interface: a knowledge base that assesses patients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyoxigraph as ox

from kbtool import engine
from kbtool.answer import Json, PatientResult
from kbtool.facts import FORMAT_NAMES, Facts, FactsError, PatientFacts, Reader, sources
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, text

if TYPE_CHECKING:
    from kbtool.explain import Explainer


@dataclass
class Result(Mapping[str, PatientResult]):
    """The answers for all patients of one call, by patient IRI; a local name that is unique serves too.

    unassigned: nodes of the facts that belong to no patient and were therefore not read.
    """

    kb: Json
    as_of: str
    patients: dict[str, PatientResult]
    unassigned: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> PatientResult:
        if name in self.patients:
            return self.patients[name]
        tail = re.split(r"[:/#]", name)[-1]
        found = [p for iri, p in self.patients.items() if re.split(r"[:/#]", iri)[-1] == tail]
        if len(found) != 1:
            raise KeyError(f"{name}: {len(found)} patients have this name; there are {', '.join(self.patients) or 'none'}")
        return found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.patients)

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def conforms(self) -> bool:
        """Whether every fact was accepted: no patient refused, nothing set aside, nothing without a patient."""
        return not self.unassigned and all(p.accepted for p in self.patients.values())

    def to_json(self) -> Json:
        """All answers in the schema of `kbtool assess --format json`."""
        return document(self.kb, self.as_of, [p.to_json() for p in self.patients.values()], self.unassigned)


def document(kb: Json, as_of: str, patients: list[Json], unassigned: list[str]) -> Json:
    """The JSON document around the answers of patients."""
    return {"kb": kb, "asOf": as_of, "patients": patients, "unassigned": unassigned}


class KnowledgeBase:
    """A loaded knowledge base.

    Make it with `kbtool.load()`. It holds no patient: each call of `assess` stands alone.
    """

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge

    @property
    def about(self) -> Json:
        """IRI, version and hash of the knowledge base, as every answer repeats them."""
        return {"iri": self.knowledge.iri, "version": self.knowledge.version, "sha256": self.knowledge.sha256}

    def read(self, *facts: Any, format: str | None = None) -> Facts:
        """Read facts from paths (files and folders), bytes or rdflib graphs.

        format: for bytes, one of turtle, json-ld, n-triples, rdf-xml, fhir; guessed where not given.
        Raises FactsError where a source cannot be read.
        """
        reader = Reader(vocabulary=self.knowledge.graph)
        kind = FORMAT_NAMES[format] if format else None
        for source in facts:
            if isinstance(source, bytes):
                reader.add("<bytes>", source, kind)
            elif isinstance(source, str | Path):
                for name, data, guessed in sources([source]):
                    reader.add(name, data, kind or guessed)
            elif hasattr(source, "serialize"):
                reader.add_graph(source)
            else:
                raise FactsError(f"facts come as a path, bytes or an rdflib graph, not as {type(source).__name__}")
        return reader.facts(self.knowledge.graph)

    def assess(self, *facts: Any, as_of: str | datetime | None = None, strict: bool = False, format: str | None = None) -> Result:
        """Assess every patient in the facts.

        as_of: the time of the assessment, with a zone; now where not given. strict: a bad observation refuses its
        patient instead of being set aside. Raises FactsError and AsOfError.
        """
        read = self.read(*facts, format=format)
        moment = engine.parse_as_of(as_of)
        patients = {r.patient: r for r in engine.assess(self.knowledge, read, moment, strict=strict)}
        for record in (record for group in read.groups for record in group):
            patients[text(record.patient)].explainer = self._explainer(record, moment, strict)
        return Result(self.about, moment.value, patients, read.strays)

    def _explainer(self, record: PatientFacts, as_of: ox.Literal, strict: bool) -> Callable[[], Explainer]:
        def make() -> Explainer:
            from kbtool.explain import Explainer

            return Explainer(self.knowledge, record, as_of, strict=strict)

        return cache(make)

    def store(
        self,
        *facts: Any,
        as_of: str | datetime | None = None,
        format: str | None = None,
        report: Callable[[str], None] | None = None,
    ) -> ox.Store:
        """A store with the whole knowledge base and, where facts are given, them and everything derived from them.

        report: is told of every fact that was refused, set aside or not read. Raises FactsError and AsOfError.
        """
        moment = engine.parse_as_of(as_of)
        read = self.read(*facts, format=format)
        if facts and not len(read):
            raise FactsError("no patient in the facts; a patient is an IRI with `a cg:Patient`")
        store = ox.Store()
        store.extend(self.knowledge.graph)
        for line in self.fill(store, read, moment):
            if report:
                report(f"kbtool: {line}")
        return store

    def fill(self, store: ox.Store, facts: Facts, as_of: ox.Literal) -> list[str]:
        """Add facts and everything derived from them to a store with the knowledge; what was not accepted, a line each."""
        batch = [record for group in facts.groups for record in group]
        store.add(ox.Quad(CG["Run"], CG["asOf"], as_of))
        told = []
        if batch:
            store.extend(quad for record in batch for quad in record.triples)
            checked = engine.check(store, self.knowledge, batch)
            engine.derive(store, self.knowledge, batch)
            for words, found in (("refused, so that nothing is derived", checked.refused), ("set aside", checked.set_aside)):
                told += [f"{patient}: {words}: {each.message}" for patient, violations in found.items() for each in violations]
        for record in batch:
            unread = (entry for entry in record.not_read if entry["matters"])
            told += [f"{text(record.patient)}: not read: {entry['resource']}: {entry['reason']}" for entry in unread]
        return told + [f"{node}: belongs to no patient and was not read" for node in facts.strays]


def load(path: str | Path | None = None) -> KnowledgeBase:
    """Load the knowledge base that comes with kbtool, or the root ontology at a path.

    Raises KnowledgeError where a module is missing or broken.
    """
    return KnowledgeBase(Knowledge.load(path))
