"""Namespaces of the guideline language and of the standards that the code reads. No term of any guideline."""

from __future__ import annotations

from functools import lru_cache

import pyoxigraph as ox


class Namespace:
    """A namespace IRI; `NS["name"]` is the term."""

    def __init__(self, iri: str) -> None:
        self.iri = iri
        self._terms: dict[str, ox.NamedNode] = {}

    def __getitem__(self, name: str) -> ox.NamedNode:
        term = self._terms.get(name)
        if term is None:
            term = self._terms[name] = ox.NamedNode(self.iri + name)
        return term


CG = Namespace("https://w3id.org/kbtool/cg/")
DCTERMS = Namespace("http://purl.org/dc/terms/")
OWL = Namespace("http://www.w3.org/2002/07/owl#")
PROV = Namespace("http://www.w3.org/ns/prov#")
RDF = Namespace("http://www.w3.org/1999/02/22-rdf-syntax-ns#")
RDFS = Namespace("http://www.w3.org/2000/01/rdf-schema#")
SH = Namespace("http://www.w3.org/ns/shacl#")
SKOS = Namespace("http://www.w3.org/2004/02/skos/core#")
VANN = Namespace("http://purl.org/vocab/vann/")
XSD = Namespace("http://www.w3.org/2001/XMLSchema#")


@lru_cache(maxsize=65536)
def local_name(iri: str) -> str:
    """The part of an IRI after its last slash or hash."""
    return iri[max(iri.rfind("/"), iri.rfind("#")) + 1 :]


def text(term: ox.NamedNode | ox.BlankNode | ox.Literal | ox.Triple) -> str:
    """The characters of a term: its IRI, its lexical form, its label."""
    return str(term) if isinstance(term, ox.Triple) else term.value
