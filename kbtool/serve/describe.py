"""What the service says of itself: the SPARQL service description, the example queries, the knowledge base, OpenAPI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pyoxigraph as ox

import kbtool
from kbtool import ask
from kbtool.api import KnowledgeBase
from kbtool.knowledge import HOME, Knowledge
from kbtool.namespaces import DCTERMS, OWL, RDF, RDFS, SH, SKOS, XSD, Namespace
from kbtool.serve import dataset
from kbtool.serve.jobs import Service

Json = dict[str, Any]

FORMATS = Namespace("http://www.w3.org/ns/formats/")
SCHEMA = Namespace("https://schema.org/")
SD = Namespace("http://www.w3.org/ns/sparql-service-description#")
VOID = Namespace("http://rdfs.org/ns/void#")

PREFIXES = {"sh": SH.iri, "schema": SCHEMA.iri, "rdfs": RDFS.iri, "dcterms": DCTERMS.iri, "xsd": XSD.iri}

_RESULTS = ("SPARQL_Results_JSON", "SPARQL_Results_XML", "SPARQL_Results_CSV", "SPARQL_Results_TSV")
_GRAPHS = ("Turtle", "N-Triples", "JSON-LD", "RDF_XML")
_GENERATED = {
    dataset.COMPILED: "What is worked out from the modules when they are loaded",
    dataset.FACTS: "Facts of patients, as they were stated",
    dataset.ANSWERS: "What is derived from the facts",
}
_PREFIX = re.compile(r"^\s*prefix\s+([\w.-]*):\s*<([^>]*)>\s*$", re.IGNORECASE | re.MULTILINE)


def service(served: Service, endpoint: str) -> Iterator[ox.Triple]:
    """The endpoint by SPARQL 1.1 Service Description: what it understands, and the graphs of its dataset with their sizes.

    Nothing is told of facts that stay but that there is a graph for them.
    """
    about, default, data = ox.BlankNode("service"), ox.BlankNode("default"), ox.BlankNode("dataset")
    knowledge = served.kb.knowledge
    yield ox.Triple(about, RDF["type"], SD["Service"])
    yield ox.Triple(about, SD["endpoint"], ox.NamedNode(endpoint))
    yield ox.Triple(about, SD["supportedLanguage"], SD["SPARQL11Query"])
    yield ox.Triple(about, SD["feature"], SD["UnionDefaultGraph"])
    for name in (*_RESULTS, *_GRAPHS):
        yield ox.Triple(about, SD["resultFormat"], FORMATS[name])
    yield ox.Triple(about, SD["defaultDataset"], data)
    yield ox.Triple(about, DCTERMS["title"], ox.Literal(knowledge.value(knowledge.iri, DCTERMS["title"]) or knowledge.iri))
    yield ox.Triple(about, SCHEMA["softwareVersion"], ox.Literal(kbtool.__version__))
    yield ox.Triple(data, RDF["type"], SD["Dataset"])
    yield ox.Triple(data, SD["defaultGraph"], default)
    yield ox.Triple(default, RDF["type"], SD["Graph"])
    yield from _size(default, len(knowledge.graph))
    for number, (iri, title) in enumerate(graphs(knowledge, facts=served.folder is not None)):
        named, graph = ox.BlankNode(f"named{number}"), ox.BlankNode(f"graph{number}")
        yield ox.Triple(data, SD["namedGraph"], named)
        yield ox.Triple(named, RDF["type"], SD["NamedGraph"])
        yield ox.Triple(named, SD["name"], iri)
        yield ox.Triple(named, SD["graph"], graph)
        yield ox.Triple(graph, RDF["type"], SD["Graph"])
        yield ox.Triple(graph, DCTERMS["title"], ox.Literal(title))
        if iri not in (dataset.FACTS, dataset.ANSWERS):
            yield from _size(graph, served.sizes.get(iri.value, 0))


def graphs(knowledge: Knowledge, *, facts: bool) -> list[tuple[ox.NamedNode, str]]:
    """The named graphs of the dataset, with what each holds. facts: whether there are facts in it."""
    found = [*map(ox.NamedNode, knowledge.modules), dataset.COMPILED, *([dataset.FACTS, dataset.ANSWERS] if facts else [])]
    return [(iri, _GENERATED.get(iri) or knowledge.value(iri.value, DCTERMS["title"]) or iri.value) for iri in found]


def _size(graph: ox.BlankNode, triples: int) -> Iterator[ox.Triple]:
    yield ox.Triple(graph, VOID["triples"], ox.Literal(triples))


def examples(kb: KnowledgeBase, endpoint: str) -> Iterator[ox.Triple]:
    """The queries that come with the knowledge base, in the form of the SIB's SPARQL examples (SHACL's SPARQL executables)."""
    for name, text in queries().items():
        head, node = ask.header(text), ox.NamedNode(f"{kb.knowledge.iri}/examples/{name}")
        body = "\n".join(line for line in text.splitlines() if not line.startswith("#+")).strip() + "\n"
        form = "Construct" if re.search(r"^\s*construct\b", _PREFIX.sub("", body), re.IGNORECASE | re.MULTILINE) else "Select"
        yield ox.Triple(node, RDF["type"], SH["SPARQLExecutable"])
        yield ox.Triple(node, RDF["type"], SH[f"SPARQL{form}Executable"])
        yield ox.Triple(node, SH[form.lower()], ox.Literal(body))
        yield ox.Triple(node, RDFS["comment"], ox.Literal(head.get("summary", name), language="en"))
        yield ox.Triple(node, DCTERMS["description"], ox.Literal(head.get("description", ""), language="en"))
        yield ox.Triple(node, SCHEMA["target"], ox.NamedNode(endpoint))
        for keyword in re.findall(r"[\w-]+", head.get("tags", "")):
            yield ox.Triple(node, SCHEMA["keywords"], ox.Literal(keyword))
        declared = ox.BlankNode(f"prefixes-{name}")
        yield ox.Triple(node, SH["prefixes"], declared)
        for prefix, namespace in _PREFIX.findall(text):
            declaration = ox.BlankNode(f"{name}-{prefix}")
            yield ox.Triple(declared, SH["declare"], declaration)
            yield ox.Triple(declaration, SH["prefix"], ox.Literal(prefix))
            yield ox.Triple(declaration, SH["namespace"], ox.Literal(namespace, datatype=XSD["anyURI"]))


@cache
def queries() -> dict[str, str]:
    """The queries that come with the knowledge base, by name."""
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted((HOME / "queries" / "ask").glob("*.rq"))}


def serialised(triples: Iterable[ox.Triple], media: str, kind: ox.RdfFormat, prefixes: dict[str, str]) -> tuple[str, bytes]:
    """Triples in a format of the client's choice: the value of the field content-type, and the bytes."""
    known = prefixes if kind in (ox.RdfFormat.TURTLE, ox.RdfFormat.RDF_XML) else None
    body = ox.serialize(triples, format=kind, prefixes=known) or b""
    return media + ("; charset=utf-8" if media.startswith("text/") else ""), body


def knowledge(kb: KnowledgeBase) -> Json:
    """The knowledge base: IRI, version, hash over its files, title, and the modules with licence and version."""
    found = kb.knowledge
    modules = [
        {
            "iri": iri,
            "title": found.value(iri, DCTERMS["title"]),
            "versionIri": found.value(iri, OWL["versionIRI"]),
            "licence": found.value(iri, DCTERMS["license"]),
            "note": found.value(iri, SKOS["editorialNote"]),
        }
        for iri in found.modules
    ]
    title = found.value(found.iri, DCTERMS["title"])
    return {**kb.about, "title": title, "kbtool": kbtool.__version__, "modules": modules}
