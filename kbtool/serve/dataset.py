"""The dataset that the endpoint answers from: the knowledge, each module in a named graph, and, where there are facts,
the facts and what is derived from them. The default graph holds everything, so that most queries need no GRAPH."""

from __future__ import annotations

import pyoxigraph as ox

from kbtool.api import KnowledgeBase
from kbtool.facts import Facts
from kbtool.knowledge import Knowledge

GRAPHS = "https://w3id.org/kbtool/graph/"
COMPILED = ox.NamedNode(GRAPHS + "compiled")
"""What is worked out from the modules when they are loaded: which module defines a term, what a criterion refers to."""
FACTS = ox.NamedNode(GRAPHS + "facts")
ANSWERS = ox.NamedNode(GRAPHS + "answers")

_DEFAULT = ox.DefaultGraph()


def of_knowledge(knowledge: Knowledge) -> ox.Store:
    """A store with the whole knowledge: in the default graph, and each module in a graph named as the module is."""
    store = ox.Store()
    store.extend(knowledge.graph)
    left = set(knowledge.graph)
    for iri, quads in knowledge.contents.items():
        store.extend(ox.Quad(q.subject, q.predicate, q.object, ox.NamedNode(iri)) for q in quads)
        left.difference_update(quads)
    store.extend(ox.Quad(q.subject, q.predicate, q.object, COMPILED) for q in left)
    return store


def add_facts(store: ox.Store, kb: KnowledgeBase, facts: Facts, as_of: ox.Literal) -> list[str]:
    """Add facts to a store with the knowledge, and everything that is derived from them, in graphs of their own and in the
    default one; what was not accepted, a line each. The graph of the facts holds them as they were stated."""
    before = set(store.quads_for_pattern(None, None, None, _DEFAULT))
    told = kb.fill(store, facts, as_of)
    stated = {quad for group in facts.groups for record in group for quad in record.triples}
    after = store.quads_for_pattern(None, None, None, _DEFAULT)
    derived = [quad for quad in after if quad not in before and quad not in stated]
    store.extend(ox.Quad(q.subject, q.predicate, q.object, FACTS) for q in stated)
    store.extend(ox.Quad(q.subject, q.predicate, q.object, ANSWERS) for q in derived)
    return told
