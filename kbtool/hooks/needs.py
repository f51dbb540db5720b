"""What the rules of a knowledge base need to know of a patient: the classes of facts that they rest on."""

from __future__ import annotations

from collections.abc import Iterable

import pyoxigraph as ox

from kbtool.fhir.coding import codings
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDFS, text

_RULES = ("Recommendation", "Prohibition", "Assessment", "Caution")


def needed(knowledge: Knowledge) -> frozenset[str]:
    """The IRIs of all classes of facts that any rule, or the scope of a guideline, rests on."""
    rules = [iri for kind in _RULES for iri in knowledge.instances(CG[kind])]
    return reachable(knowledge, [*rules, *(module for module in knowledge.modules if knowledge.values(module, CG["scope"]))])


def needed_for_scope(knowledge: Knowledge) -> frozenset[str]:
    """The classes of facts by which it is told whether a guideline speaks for a patient at all."""
    return reachable(knowledge, [scope for module in knowledge.modules for scope in knowledge.values(module, CG["scope"])])


def reachable(knowledge: Knowledge, terms: Iterable[str]) -> frozenset[str]:
    """The classes of facts that are reached from rules and criteria: those that they link to or whose definition names
    them, the classes below these, and whatever these are computed from, ordered as, given with or disturbed by."""
    known = codings(knowledge)
    facts = frozenset(iri for iri in known.below(CG["Fact"].value) if not iri.startswith(CG.iri))
    named = {criterion.iri: criterion.refers_to for criterion in knowledge.criteria.ordered}
    found: set[str] = set()
    waiting, seen = list(terms), set(terms)
    while waiting:
        term = waiting.pop()
        if term in facts:
            found.add(term)
        linked = {text(q.object) for q in knowledge.graph.quads_for_pattern(ox.NamedNode(term), None, None, None)}
        linked |= named.get(term, frozenset())
        if term in facts:
            linked |= set(known.below(term))
            linked |= {
                text(q.subject) for q in knowledge.graph.quads_for_pattern(None, CG["sessionOf"], ox.NamedNode(term), None)
            }
            linked -= set(knowledge.values(term, RDFS["subClassOf"]))
        for target in linked - seen:
            if target in facts or target in named:
                seen.add(target)
                waiting.append(target)
    return frozenset(found)
