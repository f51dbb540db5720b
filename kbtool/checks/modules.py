"""Check the modules of a knowledge base: syntax, imports, and that every term is declared where it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyoxigraph as ox

from kbtool.checks.model import Context, Finding
from kbtool.knowledge import CATALOG, HOME, KnowledgeError, catalog
from kbtool.namespaces import CG, OWL, RDF, RDFS, VANN, local_name, text

_LOGICAL = (OWL.iri, RDF.iri, RDFS.iri)
"""What is said by these is an axiom; annotations may point anywhere."""
_NOT_TERMS = {OWL["versionIRI"], OWL["imports"], OWL["priorVersion"]}


def unreadable(root: Path) -> Iterator[Finding]:
    """What keeps a knowledge base from being loaded: broken Turtle, a broken catalog, imports that lead nowhere."""
    waiting, seen = [root], set()
    while waiting:
        file = waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        try:
            quads = list(ox.parse(file.read_bytes(), ox.RdfFormat.TURTLE))
        except SyntaxError as error:
            yield _finding("TurtleSyntax", None, f"{file.name}: {error.msg}", file, error.lineno)
            continue
        except OSError as error:
            yield _finding("TurtleSyntax", None, f"{file.name}: cannot be read: {error.strerror}", file)
            continue
        known = _catalogs(file.parent)
        if isinstance(known, Finding):
            yield known
            continue
        for imported in sorted(text(q.object) for q in quads if q.predicate == OWL["imports"]):
            target = known.get(imported)
            if target is None or not target.is_file():
                what = "is not in the catalog" if target is None else f"is {target} in the catalog, which is not there"
                yield _finding("ImportInCatalog", imported, f"{file.name} imports {imported}, which {what}", file)
            else:
                waiting.append(target)


def modules(context: Context) -> Iterator[Finding]:
    """Check terms and imports of the modules of a loaded knowledge base."""
    parsed = {iri: list(ox.parse(file.read_bytes(), ox.RdfFormat.TURTLE)) for iri, file in context.knowledge.modules.items()}
    files = context.knowledge.modules
    declared = {
        iri: {q.subject.value for q in quads if q.predicate == RDF["type"] and isinstance(q.subject, ox.NamedNode)}
        for iri, quads in parsed.items()
    }
    everywhere = set().union(*declared.values())
    spaces = {text(q.object) for quads in parsed.values() for q in quads if q.predicate == VANN["preferredNamespaceUri"]}
    imports = {iri: {text(q.object) for q in quads if q.predicate == OWL["imports"]} for iri, quads in parsed.items()}
    for iri, quads in parsed.items():
        seen = _reached(iri, imports)  # the module itself included
        missing: dict[str, str] = {}
        logical = _terms(q for q in quads if q.predicate.value.startswith(_LOGICAL))
        for term in sorted(_terms(quads)):
            if term in everywhere and term in logical:
                homes = [other for other, terms in declared.items() if term in terms]
                if not seen.intersection(homes):
                    missing.setdefault(homes[0], term)
            elif term not in everywhere and any(term.startswith(space) for space in spaces) and term not in parsed:
                yield _finding(
                    "UndeclaredTerm", term, f"{term} is used in {files[iri].name} and declared in no module", files[iri]
                )
        for other, term in missing.items():
            what = f"{files[iri].name} uses {local_name(term)}, which {files[other].name} declares, and does not import it"
            yield _finding("MissingImport", iri, what, files[iri])
        if not any(q.predicate == VANN["preferredNamespaceUri"] for q in quads):
            strays = {q.subject for q in quads if isinstance(q.subject, ox.NamedNode) and q.subject.value != iri}
            for term in sorted(t.value for t in strays):
                yield _finding("AxiomInRoot", term, f"{files[iri].name} says something about {local_name(term)}", files[iri])
    used = {file.resolve() for file in files.values()}
    listed = catalog(next(iter(files.values())).parent)
    for name, target in sorted(listed.items()):
        if target not in used:
            yield _finding(
                "UnusedCatalogEntry",
                name,
                f"the catalog lists {name} as {target.name}, which nothing imports",
                target.parent / CATALOG,
            )


def _reached(start: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        iri = waiting.pop()
        if iri not in found:
            found.add(iri)
            waiting += imports.get(iri, ())
    return found


def _terms(quads: Iterable[ox.Quad]) -> set[str]:
    nodes = (n for q in quads if q.predicate not in _NOT_TERMS for n in (q.subject, q.predicate, q.object))
    return {n.value for n in nodes if isinstance(n, ox.NamedNode)}


def _catalogs(folder: Path) -> dict[str, Path] | Finding:
    try:
        return catalog(HOME / "ontology") | catalog(folder)
    except KnowledgeError as error:
        return _finding("ImportInCatalog", None, str(error), folder / CATALOG)


def _finding(check: str, subject: str | None, message: str, file: Path, line: int | None = None) -> Finding:
    return Finding(CG[check].value, subject, message, file, line)
