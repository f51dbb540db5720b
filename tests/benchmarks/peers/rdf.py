"""The same SPARQL updates on Oxigraph, on rdflib, and as SHACL rules in pySHACL; and HermiT on the definitions."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyoxigraph as ox
from rdflib import RDF, SH, BNode, Graph, Literal, URIRef
from rdflib.plugins.sparql import prepareUpdate
from rdflib.plugins.sparql.sparql import Update

from kbtool import engine, reasoner
from kbtool.facts import PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, local_name, text
from peers.answers import Answers

_INSERT = re.compile(r"INSERT\s*\{(?P<template>[^{}]*)\}\s*WHERE\s*(?P<where>\{.*\})\s*;?\s*", re.DOTALL)
_TYPE = str(RDF.type)
_FOCUS = URIRef(CG["Run"].value)


def triples(knowledge: Knowledge, batch: Iterable[PatientFacts], as_of: ox.Literal) -> bytes:
    """What every engine starts from, as N-Triples: the knowledge that updates read, the facts and the as-of time."""
    store = engine.load_store(knowledge, batch, as_of)
    store.extend(quad for record in batch for quad in record.reported)
    return ox.serialize((quad.triple for quad in store), format=ox.RdfFormat.N_TRIPLES) or b""


def by_oxigraph(knowledge: Knowledge, data: bytes) -> ox.Store:
    """Run every update on Oxigraph, as a user with a store of their own does."""
    store = ox.Store()
    store.extend(ox.parse(data, ox.RdfFormat.N_TRIPLES))
    for step in knowledge.steps:
        for part in step.parts:
            store.update(step.prologue + part.text)
    return store


def prepared(knowledge: Knowledge) -> list[Update]:
    """The updates, parsed by rdflib; that is done once and does not count."""
    return [prepareUpdate(step.prologue + part.text) for step in knowledge.steps for part in step.parts]


def by_rdflib(updates: list[Update], data: bytes) -> Graph:
    """Run every update on rdflib."""
    graph = Graph().parse(data=data, format="nt")
    for update in updates:
        graph.update(update)
    return graph


def constructs(knowledge: Knowledge) -> list[str]:
    """Every INSERT of the updates as a CONSTRUCT, in order. Raises ValueError for an update that is no INSERT ... WHERE."""
    found = []
    for step in knowledge.steps:
        for part in step.parts:
            head, *inserts = re.split(r"(?m)^(?=INSERT\b)", part.text)
            prologue = step.prologue + "".join(line for line in head.splitlines(True) if line.startswith("PREFIX"))
            for insert in inserts:
                match = _INSERT.fullmatch(insert)
                if match is None:
                    raise ValueError(f"{step.name}: not an INSERT ... WHERE: {insert[:80]}")
                found.append(f"{prologue}CONSTRUCT {{{match['template']}}}\nWHERE {match['where']}")
    return found


def shacl_rules(knowledge: Knowledge) -> Graph:
    """A shapes graph with one sh:SPARQLRule for each INSERT, run in order for the one focus node cg:Run."""
    graph = Graph()
    shape = URIRef("urn:kbtool:rules")
    graph.add((shape, RDF.type, SH.NodeShape))
    graph.add((shape, SH.targetNode, _FOCUS))
    for number, construct in enumerate(constructs(knowledge)):
        rule = BNode()
        graph.add((shape, SH.rule, rule))
        graph.add((rule, RDF.type, SH.SPARQLRule))
        graph.add((rule, SH.order, Literal(number)))
        graph.add((rule, SH.construct, Literal(construct)))
    return graph


def by_pyshacl(rules: Graph, data: bytes) -> Graph:
    """Run the rules with pySHACL."""
    import pyshacl

    graph = Graph().parse(data=data, format="nt")
    pyshacl.shacl_rules(graph, shacl_graph=rules, advanced=True, inplace=True, inference="none")
    return graph


def by_hermit(knowledge: Knowledge, store: ox.Store) -> Answers:
    """Which criteria HermiT finds patients to meet, from the facts as the prepare steps leave them; it knows no unknown."""
    inferred = reasoner.classify(knowledge, store)
    criteria = {c.iri for c in knowledge.criteria.ordered if c.of_patient}
    patients = [text(q.subject) for q in store.quads_for_pattern(None, ox.NamedNode(_TYPE), CG["Patient"], None)]
    return {
        patient: {local_name(iri): "certain" for iri in inferred.types.get(patient, frozenset()) & criteria}
        for patient in patients
    }
