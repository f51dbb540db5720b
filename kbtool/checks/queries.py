"""Check the queries and the SELECTs of shapes: do they parse, say what exists, and keep to what all engines agree on?

A query is read by rdflib's parser and looked at as a tree, so that comments, text and spelling (\\u0053ERVICE) hide nothing.
Only one that reaches for nothing outside is then handed to Oxigraph, which parses a query by running it, on an empty store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyoxigraph as ox
from pyparsing import ParseException, ParseResults
from rdflib import BNode, Literal, URIRef, Variable
from rdflib.namespace import DCTERMS, OWL, PROV, RDF, RDFS, SH, SKOS, VANN, XSD, DefinedNamespace
from rdflib.plugins.sparql.parser import expandUnicodeEscapes, parseQuery, parseUpdate
from rdflib.plugins.sparql.parserutils import CompValue

from kbtool.checks.model import Context, Finding
from kbtool.knowledge import HOME, Knowledge
from kbtool.namespaces import CG, local_name, text
from kbtool.namespaces import RDF as RDF_TERMS
from kbtool.namespaces import SH as SH_TERMS
from kbtool.namespaces import VANN as VANN_TERMS

_STANDARD: dict[str, type[DefinedNamespace]] = {str(ns): ns for ns in (DCTERMS, OWL, PROV, RDF, RDFS, SH, SKOS, VANN, XSD)}
"""Namespaces whose terms rdflib knows."""

_CASTS = {XSD.boolean, XSD.dateTime, XSD.decimal, XSD.integer, XSD.string}
_FLOATS = {XSD.double, XSD.float}
_DURATIONS = {XSD.date, XSD.dayTimeDuration, XSD.duration, XSD.yearMonthDuration}
_UNSETTLED = {"Builtin_NOW": "NOW", "Builtin_RAND": "RAND", "Builtin_UUID": "UUID", "Builtin_STRUUID": "STRUUID"}
_UNSETTLED |= {"Aggregate_Sample": "SAMPLE"}
_NOT_RUN = {"QueryReachesOut", "QueryFunction", "QueryPrefixTwice"}
"""Checks after which Oxigraph is not asked: it would call out, or only refuse what is reported already."""
_CHANGES = {"Add", "Clear", "Copy", "Create", "DeleteData", "DeleteWhere", "Drop", "Move"}


@dataclass(frozen=True)
class Vocabulary:
    """What a query may speak of: the terms that are declared, and the namespaces in which a term has to be."""

    terms: frozenset[str]
    namespaces: tuple[str, ...]

    @classmethod
    def of(cls, knowledge: Knowledge) -> Vocabulary:
        """The terms of a knowledge base, those that come with kbtool to describe checks, and the namespaces of both."""
        declared = {q.subject.value for q in _typed(knowledge.graph) if isinstance(q.subject, ox.NamedNode)}
        own = knowledge.graph.quads_for_pattern(None, VANN_TERMS["preferredNamespaceUri"], None, None)
        return cls(frozenset(declared), (CG.iri, *sorted({text(q.object) for q in own})))

    def with_terms(self, terms: Iterable[str]) -> Vocabulary:
        """The same vocabulary with some more terms."""
        return Vocabulary(self.terms | frozenset(terms), self.namespaces)

    def fault(self, iri: str) -> str | None:
        """What is wrong with an IRI, or None."""
        if iri in self.terms or iri in self.namespaces or iri in _STANDARD:
            return None
        if iri.startswith(self.namespaces):
            return "no module declares it"
        for namespace, known in _STANDARD.items():
            if iri.startswith(namespace):
                return None if iri in known else "its vocabulary has no such term"
        return "it is in no namespace of the knowledge base and of no vocabulary that is known here"


@dataclass(frozen=True)
class Query:
    """One query or update: its text, the file, the line at which the text begins, and the term that it belongs to."""

    text: str
    file: Path
    first_line: int = 1
    is_update: bool = False
    subject: str | None = None

    @cached_property
    def tokens(self) -> list[tuple[str, int]]:
        """The words, names and numbers of the query with their lines; what stands in comments and strings is left out."""
        expanded, found, line, at = expandUnicodeEscapes(self.text), [], self.first_line, 0
        for match in _TOKEN.finditer(expanded):
            line += expanded.count("\n", at, match.start())
            at = match.start()
            if match.lastgroup:
                found.append((match[0], line))
        return found

    def line_of(self, pattern: str) -> int:
        """The line of the first token that a pattern matches as a whole, in small or capital letters; else the first."""
        wanted = re.compile(pattern, re.IGNORECASE)
        return next((line for token, line in self.tokens if wanted.fullmatch(token)), self.first_line)


_TOKEN = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""' + r"|'''(?:[^'\\]|\\.|'(?!''))*'''"
    r'|"(?:[^"\\\n]|\\.)*"' + r"|'(?:[^'\\\n]|\\.)*'"
    r"|(?P<iri><[^<>\"{}|^`\\\x00-\x20]*>)|#[^\n]*"
    r"|(?P<number>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<word>[?$@]?[\w-]*:?[\w%\\-]*(?:\.+[\w%\\-]+)*)",
    re.DOTALL,
)


def queries(context: Context) -> Iterator[Finding]:
    """Check every query that comes with kbtool, against the terms of the knowledge base."""
    vocabulary = Vocabulary.of(context.knowledge)
    files = [*(HOME / "queries").glob("*/*.rq"), *(HOME / "queries").glob("*/*.ru"), *(HOME / "shapes").glob("*.ttl")]
    yield from check_files(sorted(files), vocabulary)


def check_files(files: Iterable[Path], vocabulary: Vocabulary) -> Iterator[Finding]:
    """Check queries (.rq), updates (.ru) and the SPARQL in shapes (.ttl).

    A query in a folder check/ may use the terms that describe checks, and a shape those of its own file.
    """
    checking = vocabulary.with_terms(_declared(HOME / "shapes" / "checks.ttl"))
    for file in files:
        if file.suffix == ".ttl":
            known = vocabulary.with_terms(_declared(file))
            for query in in_shapes(file):
                yield from check_query(query, known)
            continue
        query = Query(file.read_text(encoding="utf-8"), file, is_update=file.suffix == ".ru")
        if not re.match(r"#\+ summary: *\S", query.text):
            yield _finding("QueryHeader", query, "The file does not begin with a line `#+ summary:` and a text.", 1)
        yield from check_query(query, checking if file.parent.name == "check" else vocabulary)


def check_query(query: Query, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Check one query or update, without its header."""
    try:
        tree = (parseUpdate if query.is_update else parseQuery)(query.text)
    except ParseException as error:
        yield _finding("QuerySyntax", query, f"It cannot be parsed by rdflib: {error.msg}.", query.first_line + error.lineno - 1)
        return
    except Exception as error:
        yield _finding("QuerySyntax", query, f"It cannot be parsed by rdflib: {error}.", query.first_line)
        return
    reader = _Reader(query, vocabulary, tree)
    found = list(dict.fromkeys(reader.findings()))
    yield from found
    if not _NOT_RUN & {local_name(f.check) for f in found}:
        store = ox.Store()
        try:
            store.update(query.text) if query.is_update else store.query(query.text)
        except (SyntaxError, ValueError, OSError, RuntimeError) as error:
            told = str(error).strip()
            place = re.match(r"error at (\d+):", told)
            line = query.first_line + int(place[1]) - 1 if place else query.first_line
            yield _finding("QuerySyntax", query, f"It cannot be parsed by Oxigraph: {told}.", line)


def in_shapes(file: Path) -> Iterator[Query]:
    """The SELECT and ASK queries in a file of shapes, each with the prefixes that it declares, in the order of the file."""
    source = file.read_text(encoding="utf-8")
    graph = _graph(file)
    found = []
    for kind in ("select", "ask"):
        for quad in graph.quads_for_pattern(None, SH_TERMS[kind], None, None):
            owners = [q.subject for q in graph.quads_for_pattern(None, SH_TERMS["sparql"], quad.subject, None)]
            subject = next((text(owner) for owner in owners if isinstance(owner, ox.NamedNode)), None)
            prologue = ""
            for used in graph.quads_for_pattern(quad.subject, SH_TERMS["prefixes"], None, None):
                for declared in graph.quads_for_pattern(used.object, SH_TERMS["declare"], None, None):  # type: ignore[arg-type]
                    prefix, namespace = (_one(graph, declared.object, name) for name in ("prefix", "namespace"))
                    prologue += f"PREFIX {prefix}: <{namespace}> "
            select = text(quad.object)
            at = max(source.find(select.replace("\\", "\\\\")), 0)
            found.append(Query(prologue + select, file, source.count("\n", 0, at) + 1, subject=subject))
    yield from sorted(found, key=lambda query: query.first_line)


@dataclass
class _Reader:
    """Reads the tree of a query."""

    query: Query
    vocabulary: Vocabulary
    tree: Any
    prefixes: dict[str, str] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        yield from self._prologue()
        yield from self._read(self.tree)

    def _prologue(self) -> Iterator[Finding]:
        for node in _walk(self.tree):
            if node.name == "PrefixDecl":
                prefix = str(_part(node, "prefix") or "")
                if prefix in self.prefixes:
                    line = [line for token, line in self.query.tokens if token == f"{prefix}:"][-1:] or [self.query.first_line]
                    yield _finding("QueryPrefixTwice", self.query, f"The prefix {prefix}: is declared twice.", line[0])
                self.prefixes.setdefault(prefix, str(_part(node, "iri")))

    def _read(self, node: Any) -> Iterator[Finding]:
        """What is wrong in a node of the tree and below."""
        if isinstance(node, CompValue):
            if node.name == "PrefixDecl":
                return
            if node.name == "pname":
                yield from self._term(node)
                return
            yield from self._construct(node)
            for name, part in node.items():
                # A function is no term; the text of a SERVICE is there twice.
                if not (node.name == "Function" and name == "iri") and name != "service_string":
                    yield from self._read(part)
        elif isinstance(node, list | ParseResults):
            for part in node:
                yield from self._read(part)
        elif isinstance(node, URIRef):
            yield from self._term(node)
        elif isinstance(node, Literal) and node.datatype in _FLOATS:
            yield self._of("QueryFloat", f"It holds the number {node} as a double.", r"[0-9.]+e[+-]?[0-9]+")

    def _term(self, node: Any) -> Iterator[Finding]:
        iri = self._iri(node)
        fault = None if iri is None else self.vocabulary.fault(iri)
        if fault:
            name = self._name(node)
            yield self._of("QueryUndeclaredTerm", f"It uses {name}, and {fault}.", re.escape(name))

    def _construct(self, node: CompValue) -> Iterator[Finding]:
        name = node.name
        if name == "ServiceGraphPattern":
            yield self._of("QueryReachesOut", "It calls another endpoint by SERVICE.", "SERVICE")
        elif name == "DatasetClause":
            yield self._of("QueryReachesOut", "It names a graph to read by FROM.", "FROM")
        elif name == "UsingClause":
            yield self._of("QueryReachesOut", "It names a graph to read by USING.", "USING")
        elif name == "Load":
            yield self._of("QueryReachesOut", "It loads a file or address by LOAD.", "LOAD")
        elif name in _UNSETTLED:
            yield self._of("QueryUnsettled", f"It uses {_UNSETTLED[name]}.", _UNSETTLED[name])
        elif name == "Builtin_BNODE":
            yield self._of("QueryBlankNode", "It makes a blank node by BNODE.", "BNODE")
        elif name in ("InsertClause", "InsertData") and any(isinstance(leaf, BNode) for leaf in _leaves(node)):
            yield self._of("QueryBlankNode", "It inserts a blank node.", "INSERT")
        elif name in _CHANGES or (name == "Modify" and _part(node, "delete")):
            kind = "Delete" if name == "Modify" else name.removesuffix("Data").removesuffix("Where")
            yield self._of("QueryRemoves", f"It changes what is there by {kind.upper()}.", kind)
        elif name in ("Builtin_REGEX", "Builtin_REPLACE"):
            yield from self._pattern(node)
        elif name == "literal" and _part(node, "datatype") is not None:
            yield from self._datatype(_part(node, "datatype"), f'the value "{_part(node, "string")}"')
        elif name == "Function":
            iri = self._iri(_part(node, "iri"))
            yield from self._datatype(_part(node, "iri"), "a cast")
            if URIRef(iri or "") not in _CASTS | _FLOATS | _DURATIONS:
                called = re.escape(self._name(_part(node, "iri")))
                yield self._of("QueryFunction", f"It calls the function <{iri}>, which no standard defines.", called)
        elif name == "TriplesBlock":
            for triples in _part(node, "triples") or ():
                for subject, path, obj in zip(triples[::3], triples[1::3], triples[2::3], strict=False):
                    if _constant(subject) and _constant(obj) and _zero(path):
                        yield self._of(
                            "QueryZeroPath",
                            f"A path that may be of length zero leads from {self._name(subject)} to {self._name(obj)}.",
                            re.escape(self._name(subject)),
                        )

    def _datatype(self, node: Any, what: str) -> Iterator[Finding]:
        datatype = URIRef(self._iri(node) or "")
        if datatype in _FLOATS:
            yield self._of("QueryFloat", f"It holds {what} of type {datatype.fragment}.", re.escape(self._name(node)))
        elif datatype in _DURATIONS:
            yield self._of("QueryDuration", f"It holds {what} of type {datatype.fragment}.", re.escape(self._name(node)))

    def _pattern(self, node: CompValue) -> Iterator[Finding]:
        """Whether both engines can run a regular expression that is written out."""
        pattern = _written(_part(node, "pattern"))
        if pattern is None:
            return
        keyword = node.name.removeprefix("Builtin_")
        asked = f"SELECT ?r {{ BIND(REGEX({ox.Literal('')}, {ox.Literal(pattern)}) AS ?r) }}"
        row = next(iter(ox.Store().query(asked)))  # type: ignore[arg-type]
        if row["r"] is None:
            yield self._of(
                "QueryPattern", f"The pattern {pattern} cannot be run by Oxigraph, and the filter would fail silently.", keyword
            )
        try:
            re.compile(pattern)
        except re.error as error:
            yield self._of("QueryPattern", f"The pattern {pattern} cannot be run by rdflib: {error}.", keyword)

    def _iri(self, node: Any) -> str | None:
        if isinstance(node, CompValue):
            namespace = self.prefixes.get(str(_part(node, "prefix") or ""))
            return None if namespace is None else namespace + str(_part(node, "localname") or "")
        return str(node) if isinstance(node, URIRef) else None

    def _name(self, node: Any) -> str:
        """A term as it is written in the query."""
        if isinstance(node, CompValue) and node.name == "pname":
            return f"{_part(node, 'prefix') or ''}:{_part(node, 'localname') or ''}"
        return f"<{node}>" if isinstance(node, URIRef) else str(node)

    def _of(self, check: str, message: str, token: str) -> Finding:
        return _finding(check, self.query, message, self.query.line_of(token))


def _finding(check: str, query: Query, message: str, line: int) -> Finding:
    return Finding(CG[check].value, query.subject, message, query.file, line)


def _walk(node: Any) -> Iterator[CompValue]:
    """Every node of a tree that has a name."""
    if isinstance(node, CompValue):
        yield node
        for part in node.values():
            yield from _walk(part)
    elif isinstance(node, list | ParseResults):
        for part in node:
            yield from _walk(part)


def _leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, CompValue):
        for part in node.values():
            yield from _leaves(part)
    elif isinstance(node, list | ParseResults):
        for part in node:
            yield from _leaves(part)
    else:
        yield node


def _part(node: CompValue, name: str) -> Any:
    """A part of a node, or None. (Its own get() gives back the name where there is no such part.)"""
    return dict.get(node, name)


def _constant(node: Any) -> bool:
    return not isinstance(node, Variable | BNode)


def _zero(path: Any) -> bool:
    """Whether a property path can be of length zero."""
    if not isinstance(path, CompValue) or path.name == "pname":
        return False
    if _part(path, "mod") in ("*", "?"):
        return True
    parts = _part(path, "part")
    if path.name == "PathSequence":
        return all(_zero(part) for part in parts)
    if path.name == "PathAlternative":
        return any(_zero(part) for part in parts)
    return _zero(parts)


def _written(node: Any) -> str | None:
    """The text of an expression that is nothing but a string."""
    while isinstance(node, CompValue) and set(node) == {"expr"}:
        node = _part(node, "expr")
    if isinstance(node, CompValue) and node.name == "literal":
        return str(_part(node, "string"))
    return str(node) if isinstance(node, Literal) else None


def _graph(file: Path) -> ox.Store:
    graph = ox.Store()
    graph.extend(
        ox.Quad(q.subject, q.predicate, q.object)
        for q in ox.parse(file.read_bytes(), ox.RdfFormat.TURTLE, rename_blank_nodes=True)
    )
    return graph


def _typed(graph: ox.Store) -> Iterator[ox.Quad]:
    return iter(graph.quads_for_pattern(None, RDF_TERMS["type"], None, None))


def _declared(file: Path) -> set[str]:
    return {q.subject.value for q in _typed(_graph(file)) if isinstance(q.subject, ox.NamedNode)}


def _one(graph: ox.Store, subject: Any, name: str) -> str:
    return next((text(q.object) for q in graph.quads_for_pattern(subject, SH_TERMS[name], None, None)), "")
