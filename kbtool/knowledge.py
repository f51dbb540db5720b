"""Load a knowledge base: an ontology with its imports, the shapes of facts, and the queries that derive.

Imports are resolved by the OASIS catalog beside the root ontology (the file that Protégé uses too), then by the one
that comes with kbtool, so that another guideline can import the guideline language. Nothing is ever fetched.
"""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyoxigraph as ox

from kbtool.criteria import Criteria, Update
from kbtool.namespaces import CG, OWL, RDF, RDFS, SKOS, VANN, local_name, text
from kbtool.shapes import CompiledConstraint, compile_shapes

_PACKAGED = Path(__file__).parent / "knowledge_base"
HOME = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent
"""The folder that holds ontology/, shapes/ and queries/: inside the package when installed, the project otherwise."""

CATALOG = "catalog-v001.xml"
_CATALOG_URI = "{urn:oasis:names:tc:entity:xmlns:xml:catalog}uri"


class KnowledgeError(Exception):
    """The knowledge base cannot be loaded. The message says which file, where in it, and what to do."""


@dataclass(frozen=True)
class Step:
    """One step of a derivation: its name (folder and file, without ending), its prologue and its updates in order."""

    name: str
    prologue: str
    parts: tuple[Update, ...]

    @property
    def update(self) -> str:
        """The step as one SPARQL update."""
        return self.prologue + " ;\n\n".join(part.text for part in self.parts)

    def run(self, store: ox.Store) -> None:
        """Run the step on a store; parts that cannot have an effect are left out."""
        for part in self.parts:
            if not part.triggers or any(all(_occurs(store, *pair) for pair in needed) for needed in part.triggers):
                store.update(self.prologue + part.text)


@dataclass
class Knowledge:
    """A loaded knowledge base.

    graph: every triple of every module. iri, version: of the root ontology. sha256: over the bytes of all modules,
    shapes and queries in use. modules: ontology IRI to file, root first. contents: ontology IRI to the triples of its file.
    """

    graph: ox.Store
    iri: str
    version: str
    sha256: str
    modules: dict[str, Path]
    shapes: list[CompiledConstraint]
    steps: list[Step]
    runtime: list[ox.Quad] = field(repr=False)
    contents: dict[str, list[ox.Quad]] = field(repr=False)

    @classmethod
    def load(cls, root: str | Path | None = None, home: Path = HOME) -> Knowledge:
        """Load the root ontology at a path, by default the one that comes with kbtool.

        home: the folder whose shapes/ and queries/ are used, by default those that come with kbtool.
        Raises KnowledgeError, or CriterionError for a criterion that cannot be compiled.
        """
        path = Path(root) if root is not None else home / "ontology" / "kb.ttl"
        digest = hashlib.sha256()
        graph = ox.Store()
        modules: dict[str, Path] = {}
        contents: dict[str, list[ox.Quad]] = {}
        own, shipped = catalog(path.parent), catalog(HOME / "ontology")
        waiting: list[tuple[str | None, Path]] = [(None, path)]
        while waiting:
            wanted, file = waiting.pop(0)
            if file in modules.values():
                continue
            quads, data = _parse(file)
            digest.update(data)
            iri = _ontology_iri(quads, file, wanted)
            modules[iri] = file
            contents[iri] = quads
            graph.extend(quads)
            graph.extend(_provenance(quads, iri))
            for imported in sorted(text(q.object) for q in quads if q.predicate == OWL["imports"]):
                target = own.get(imported) or shipped.get(imported)
                if target is None:
                    raise KnowledgeError(
                        f"{file}: imports {imported}, which {file.parent / CATALOG} does not list; add a line for it "
                        "(nothing is fetched from the network)"
                    )
                waiting.append((imported, target))
        first = next(iter(modules))
        versions = graph.quads_for_pattern(ox.NamedNode(first), OWL["versionInfo"], None, None)
        version = next((q.object.value for q in versions if isinstance(q.object, ox.Literal)), "")

        shapes_file = home / "shapes" / "facts.ttl"
        shape_quads, data = _parse(shapes_file)
        digest.update(data)
        shapes_graph = ox.Store()
        shapes_graph.extend(shape_quads)
        shapes = compile_shapes(shapes_graph)

        criteria = Criteria.read(graph)
        static = list(criteria.static_triples())
        graph.extend(static)
        steps = []
        for file in sorted((home / "queries" / "prepare").glob("*.ru")):
            steps.append(_step(file, digest))
        quantities = Step("classify/quantities", _PROLOGUE, tuple(criteria.updates(facts_only=True)))
        before = next(i for i, s in enumerate(steps) if s.name.endswith("eligible"))
        steps.insert(before, quantities)
        steps.append(Step("classify/patients", _PROLOGUE, tuple(criteria.updates(facts_only=False))))
        for file in sorted((home / "queries" / "derive").glob("*.ru")):
            steps.append(_step(file, digest))
        queries = "".join([*(step.update for step in steps), *(constraint.query for constraint in shapes)])
        return cls(graph, first, version, digest.hexdigest(), modules, shapes, steps, _runtime(graph, queries), contents)

    @cached_property
    def criteria(self) -> Criteria:
        """Every criterion, parsed."""
        return Criteria.read(self.graph)

    @cached_property
    def labels(self) -> dict[str, str]:
        """The preferred label of every term, by IRI."""
        quads = self.graph.quads_for_pattern(None, SKOS["prefLabel"], None, None)
        return {
            q.subject.value: q.object.value
            for q in quads
            if isinstance(q.object, ox.Literal) and isinstance(q.subject, ox.NamedNode)
        }

    @cached_property
    def labels_by_name(self) -> dict[str, str]:
        """The preferred label of every term, by the local name that answers use."""
        return {local_name(iri): label for iri, label in self.labels.items()}

    @cached_property
    def prefixes(self) -> dict[str, str]:
        """The namespaces that the modules name, by prefix."""
        found = {}
        for iri in sorted(self.modules):
            prefix, space = self.value(iri, VANN["preferredNamespacePrefix"]), self.value(iri, VANN["preferredNamespaceUri"])
            if prefix and space:
                found[prefix] = space
        return found

    def values(self, subject: str, predicate: ox.NamedNode) -> list[str]:
        """The values of a property of a term, as text, sorted."""
        quads = self.graph.quads_for_pattern(ox.NamedNode(subject), predicate, None, None)
        return sorted(text(q.object) for q in quads)

    def value(self, subject: str, predicate: ox.NamedNode) -> str | None:
        """The first value of a property of a term, or None."""
        return next(iter(self.values(subject, predicate)), None)

    def instances(self, kind: ox.NamedNode) -> list[str]:
        """The individuals of a class, sorted by IRI."""
        quads = self.graph.quads_for_pattern(None, RDF["type"], kind, None)
        return sorted(q.subject.value for q in quads if isinstance(q.subject, ox.NamedNode))


_PROLOGUE = f"PREFIX cg: <{CG.iri}>\n\n"


def _occurs(store: ox.Store, predicate: str, value: str) -> bool:
    return next(store.quads_for_pattern(None, ox.NamedNode(predicate), ox.NamedNode(value), None), None) is not None


def catalog(folder: Path) -> dict[str, Path]:
    """The files of ontologies by their IRI, as the catalog in a folder lists them. Raises KnowledgeError for a broken one."""
    file = folder / CATALOG
    if not file.is_file():
        return {}
    try:
        entries = ElementTree.parse(file).getroot().iter(_CATALOG_URI)
        return {entry.attrib["name"]: (folder / entry.attrib["uri"]).resolve() for entry in entries}
    except (ElementTree.ParseError, KeyError) as error:
        raise KnowledgeError(f"{file}: not an OASIS catalog: {error}") from error


def _parse(file: Path) -> tuple[list[ox.Quad], bytes]:
    try:
        data = file.read_bytes()
        parsed = ox.parse(data, ox.RdfFormat.TURTLE, rename_blank_nodes=True)
        return [ox.Quad(q.subject, q.predicate, q.object) for q in parsed], data
    except OSError as error:
        raise KnowledgeError(f"{file}: cannot be read: {error.strerror}") from error
    except SyntaxError as error:
        raise KnowledgeError(f"{file}: not valid Turtle: {error.msg}") from error


def _ontology_iri(quads: list[ox.Quad], file: Path, wanted: str | None) -> str:
    found = sorted(
        q.subject.value
        for q in quads
        if q.predicate == RDF["type"] and q.object == OWL["Ontology"] and isinstance(q.subject, ox.NamedNode)
    )
    if len(found) != 1:
        raise KnowledgeError(f"{file}: declares {len(found)} ontologies; a module declares exactly one owl:Ontology")
    if wanted is not None and found[0] != wanted:
        raise KnowledgeError(f"{file}: is listed as {wanted} and declares {found[0]}; correct the catalog or the file")
    return found[0]


def _provenance(quads: list[ox.Quad], iri: str) -> list[ox.Quad]:
    """Which module defines each term: what is the source's, local policy or overlay is told by it."""
    ontology = ox.NamedNode(iri)
    defined = {q.subject.value for q in quads if q.predicate == RDF["type"] and isinstance(q.subject, ox.NamedNode)} - {iri}
    return [ox.Quad(ox.NamedNode(term), RDFS["isDefinedBy"], ontology) for term in sorted(defined)]


def _step(file: Path, digest: hashlib._Hash) -> Step:
    data = file.read_bytes()
    digest.update(data)
    return Step(f"{file.parent.name}/{file.stem}", "", (Update(data.decode("utf-8"), ()),))


def _runtime(graph: ox.Store, queries: str) -> list[ox.Quad]:
    """The triples that shapes and updates can read: those whose predicate they name, and the types that they name or
    that are the range of a property (a shape finds its scheme through the range). Prose stays outside."""
    prefixes = dict(re.findall(r"(?i)prefix\s+(\w*):\s*<([^>]*)>", queries))
    named = {prefixes[p] + name for p, name in re.findall(r"\b(\w+):(\w+)", queries) if p in prefixes}
    named = (named | set(re.findall(r"<([^>\s]+)>", queries))) - {RDF["type"].value}
    classes = named | {text(q.object) for q in graph.quads_for_pattern(None, RDFS["range"], None, None)}
    kept = [q for q in graph if q.predicate.value in named or (q.predicate == RDF["type"] and text(q.object) in classes)]
    telling = {CG["appliesTo"], CG["metWhen"], CG["raisedByOrder"], OWL["equivalentClass"]}
    owned = {q.subject for q in kept if q.predicate in telling}
    return [q for q in kept if q.predicate != RDFS["isDefinedBy"] or q.subject in owned]
