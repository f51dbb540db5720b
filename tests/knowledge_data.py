"""What tests read out of the modules of the ontology triple by triple, and copies of it with other triples."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pyoxigraph as ox

import kbtool
from kbtool.criteria import Both, Criteria, Criterion, Either, Expression, Range, Some
from kbtool.namespaces import CG, OWL, RDF, RDFS, local_name

PROJECT = Path(__file__).parent.parent
ONTOLOGY = PROJECT / "ontology"
MODULES = {
    file.name: [
        ox.Quad(q.subject, q.predicate, q.object)
        for q in ox.parse(file.read_bytes(), ox.RdfFormat.TURTLE, rename_blank_nodes=True)
    ]
    for file in sorted(ONTOLOGY.glob("*.ttl"))
}
"""The triples of each module, by file name."""

DATATYPE_LINKS = ("doseCeiling", "doseStep", "sessionWindow")
INPUTS = ("ratioNumerator", "ratioDenominator", "differenceMinuend", "differenceSubtrahend")


@dataclass(frozen=True)
class Number:
    """A number in the ontology: what it is called, and the file and the triple that hold it."""

    name: str
    file: str
    quad: ox.Quad

    @property
    def value(self) -> Decimal:
        return Decimal(self.quad.object.value)  # type: ignore[union-attr]


@cache
def ontology() -> ox.Store:
    """All modules in one graph."""
    graph = ox.Store()
    for quads in MODULES.values():
        graph.extend(quads)
    return graph


@cache
def criteria() -> list[Criterion]:
    return Criteria.read(ontology()).ordered


def links(*properties: str) -> list[tuple[str, str]]:
    """Subject and object, as IRIs, of all triples with one of some properties of the guideline language."""
    found = []
    for name in properties:
        for q in ontology().quads_for_pattern(None, CG[name], None, None):
            if isinstance(q.subject, ox.NamedNode) and isinstance(q.object, ox.NamedNode):
                found.append((q.subject.value, q.object.value))
    return found


def thresholds() -> Iterator[Number]:
    """The limits of every named datatype that a criterion or a substance rests on."""
    everywhere = [q for quads in MODULES.values() for q in quads]
    used = {q.object for q in everywhere if q.predicate in (OWL["someValuesFrom"], OWL["datatypeComplementOf"])}
    used |= {q.object for q in everywhere if q.predicate in {CG[name] for name in DATATYPE_LINKS}}
    for file, quads in MODULES.items():
        below: dict[Any, list[ox.Quad]] = {}
        for q in quads:
            below.setdefault(q.subject, []).append(q)
        named = {q.subject for q in quads if q.object == RDFS["Datatype"] and isinstance(q.subject, ox.NamedNode)} & used
        for datatype in sorted(named, key=str):
            waiting: list[Any] = [datatype]
            while waiting:
                for q in below.get(waiting.pop(), ()):
                    if isinstance(q.object, ox.BlankNode):
                        waiting.append(q.object)
                    elif q.predicate.value.endswith(("Inclusive", "Exclusive")):
                        yield Number(local_name(datatype.value), file, q)


def numbers(*properties: str) -> Iterator[Number]:
    """The numbers that the ontology states by some properties of the guideline language."""
    wanted = {CG[name] for name in properties}
    for file, quads in MODULES.items():
        for q in quads:
            if q.predicate in wanted and isinstance(q.object, ox.Literal):
                yield Number(local_name(q.subject.value), file, q)


def loaded_with(modules: dict[str, list[ox.Quad]], folder: Path) -> kbtool.KnowledgeBase:
    """The knowledge base with other triples in some modules (by file name), loaded from a copy of the ontology in a folder."""
    copy = Path(tempfile.mkdtemp(dir=folder))
    shutil.copytree(ONTOLOGY, copy, dirs_exist_ok=True)
    for file, quads in modules.items():
        (copy / file).write_bytes(ox.serialize([q.triple for q in quads], format=ox.RdfFormat.TURTLE) or b"")
    return kbtool.load(copy / "kb.ttl")


@cache
def compared_with() -> defaultdict[str, set[str]]:
    """For the name of each datatype the properties of facts whose numbers criteria compare with it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for criterion in criteria():
        for limit in ranges(criterion.expression):
            found[local_name(limit.datatype)].add(limit.prop)
    return found


@cache
def rests_on() -> dict[str, set[str]]:
    """For the name of each datatype, unit and class the classes of facts that a number of it is about."""
    about: dict[str, set[str]] = {}
    for criterion in criteria():
        for limit in ranges(criterion.expression):
            about.setdefault(local_name(limit.datatype), set()).update(criterion.refers_to)
    for subject, target in links("acceptsUnit", *DATATYPE_LINKS):
        about.setdefault(local_name(target), set()).add(subject)
    for q in ontology().quads_for_pattern(None, RDF["type"], OWL["Class"], None):
        if isinstance(q.subject, ox.NamedNode):
            about.setdefault(local_name(q.subject.value), set()).add(q.subject.value)
    derived = links("ordersMedication", *INPUTS)
    for found in about.values():
        for _ in derived:
            found |= {target for target, source in derived if source in found}
    return about


def ranges(expression: Expression) -> Iterator[Range]:
    match expression:
        case Range():
            yield expression
        case Some(_, filler):
            yield from ranges(filler)
        case Both(parts) | Either(parts):
            for part in parts:
                yield from ranges(part)


@cache
def quantities_in_criteria() -> tuple[frozenset[str], frozenset[str]]:
    """The quantities that criteria name, and those of which criteria test a number; what these are derived from too."""
    values = {CG[name].value for name in ("value", "canonicalValue", "canonicalDailyDose", "doseMargin", "doseIncrease")}
    named: set[str] = set()
    tested: set[str] = set()
    for criterion in criteria():
        named |= criterion.refers_to
        if {limit.prop for limit in ranges(criterion.expression)} & values:
            tested |= criterion.refers_to
    inputs = links(*INPUTS)
    for found in (named, tested):
        for _ in inputs:
            found |= {source for target, source in inputs if target in found}
    return frozenset(local_name(iri) for iri in named), frozenset(local_name(iri) for iri in tested)
