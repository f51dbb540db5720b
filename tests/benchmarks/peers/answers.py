"""What an engine says about each patient, in one form for all engines, and where two of them differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyoxigraph as ox
from rdflib import Graph

from kbtool.answer import KINDS
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, local_name, text

Said = dict[str, str]
"""What is said of one patient: by local name of a criterion "certain" or "unknown", of a rule its statuses, sorted and
joined by a blank. What is neither does not stand here."""

Answers = dict[str, Said]
"""What is said of each patient, by IRI."""

NOTHING = "-"
"""Stands for what is not said."""


@dataclass
class Names:
    """The local names about which engines are compared: criteria over patients, and rules."""

    criteria: frozenset[str]
    rules: frozenset[str]

    @classmethod
    def of(cls, knowledge: Knowledge) -> Names:
        """Those of a knowledge base."""
        criteria = {local_name(c.iri) for c in knowledge.criteria.ordered if c.of_patient}
        rules = {local_name(iri) for kind in KINDS for iri in knowledge.instances(CG[kind])}
        return cls(frozenset(criteria), frozenset(rules))


@dataclass
class Agreement:
    """How two engines agree: cells by what the reference says in them, and every difference.

    A cell is one criterion or rule for one patient. differences: patient, name, reference, other.
    """

    patients: int = 0
    same: Counter[str] = field(default_factory=Counter)
    differences: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def cells(self) -> int:
        """How many cells were compared."""
        return self.same.total() + len(self.differences)

    def __str__(self) -> str:
        told = sum(count for said, count in self.same.items() if said != NOTHING)
        return f"{self.cells - len(self.differences):,} of {self.cells:,} ({told:,} not empty)".replace(",", " ")


def compare(reference: Answers, other: Answers, names: Iterable[str]) -> Agreement:
    """Compare two engines on the patients of the second one, about some criteria and rules.

    Raises ValueError where the second one knows a patient that the reference does not.
    """
    stray = other.keys() - reference.keys()
    if stray:
        raise ValueError(f"answers about unknown patients: {', '.join(sorted(stray)[:3])}")
    found = Agreement(len(other))
    wanted = sorted(names)
    for patient, said in other.items():
        expected = reference[patient]
        for name in wanted:
            one, two = expected.get(name, NOTHING), said.get(name, NOTHING)
            if one == two:
                found.same[one] += 1
            else:
                found.differences.append((patient, name, one, two))
    return found


def of_store(store: ox.Store, knowledge: Knowledge) -> Answers:
    """What has been derived in a store."""
    criteria = {ox.NamedNode(c.iri): local_name(c.iri) for c in knowledge.criteria.ordered if c.of_patient}
    properties = {
        q.subject: local_name(text(q.object)) for q in knowledge.graph.quads_for_pattern(None, CG["statusProperty"], None, None)
    }
    found: Answers = {}
    for quad in store.quads_for_pattern(None, RDF["type"], CG["Patient"], None):
        said: Said = {}
        for predicate, word in ((RDF["type"], "certain"), (CG["unknown"], "unknown")):
            for each in store.quads_for_pattern(quad.subject, predicate, None, None):
                if each.object in criteria:
                    name = criteria[each.object]
                    said[name] = word if name not in said else f"{said[name]} {word}"
        found[text(quad.subject)] = said
    statuses: dict[tuple[str, str], set[str]] = {}
    for quad in store.quads_for_pattern(None, CG["status"], None, None):
        of, about = (
            next(text(q.object) for q in store.quads_for_pattern(quad.subject, CG[link], None, None))
            for link in ("ofPatient", "about")
        )
        statuses.setdefault((of, local_name(about)), set()).add(properties[quad.object])
    for (patient, rule), words in statuses.items():
        found[patient][rule] = " ".join(sorted(words))
    return found


def of_graph(graph: Graph, knowledge: Knowledge) -> Answers:
    """What has been derived in an rdflib graph."""
    store = ox.Store()
    store.bulk_load(input=graph.serialize(format="nt", encoding="utf-8"), format=ox.RdfFormat.N_TRIPLES)
    return of_store(store, knowledge)


def of_json(patient: Mapping[str, object]) -> Said:
    """The statuses of rules in the JSON answer for one patient; criteria do not stand in it."""
    said: Said = {}
    for kind in KINDS.values():
        entries = patient[kind]
        assert isinstance(entries, list)
        for entry in entries:
            said[local_name(entry["iri"])] = str(entry.get("status") or entry["state"])
    return said


def certain_only(answers: Answers) -> Answers:
    """Answers without what is not certain."""
    return {patient: {name: word for name, word in said.items() if word == "certain"} for patient, said in answers.items()}
