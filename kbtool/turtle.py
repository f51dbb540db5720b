"""Turtle that stays the same byte for byte, so that a diff shows the change of the knowledge and nothing else.

Protégé writes what it loaded in another order, with other prefixes, other blank nodes and without comments. `format_files`
gives every file one form again, which depends on nothing but what the file says and the prefixes that the modules ask for:

- the ontology, then the terms by kind under a heading, by IRI within a kind;
- the type, the labels and the definition first, then the other properties by IRI;
- each triple on a line of its own that ends in a semicolon, also where a property has several values, so that a triple more
  or less is a line more or less; blank nodes and lists nested where they are used;
- the operands of OWL's lists that stand for sets (the OWL API orders them by itself) by what they say;
- literals as they were written: 0.70 stays 0.70.

A comment has no place in this form, as it has none in Protégé: it is dropped and reported. Rationale goes into
skos:editorialNote.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyoxigraph as ox

from kbtool.knowledge import HOME, KnowledgeError, catalog
from kbtool.namespaces import CG, DCTERMS, OWL, PROV, RDF, RDFS, SH, SKOS, VANN, XSD, text

Prefixes = dict[str, str]
"""Namespace IRI to prefix."""


class TurtleError(Exception):
    """A file cannot be formatted, and nothing was written. The message says which file, where in it, and why."""


@dataclass(frozen=True)
class Formatted:
    """A file and its formatted text. comments: those that formatting drops, in order."""

    path: Path
    before: bytes
    after: bytes
    comments: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether the file is not formatted."""
        return self.before != self.after

    def diff(self) -> str:
        """What formatting changes, as a unified diff."""
        before, after = (data.decode("utf-8").splitlines(keepends=True) for data in (self.before, self.after))
        return "".join(difflib.unified_diff(before, after, f"{self.path}", f"{self.path} (formatted)"))


def format_files(
    paths: Iterable[str | Path] = (), *, check: bool = False, report: Callable[[str], None] | None = None
) -> list[Formatted]:
    """Format Turtle files in place; folders stand for the Turtle files below them, and no path for kbtool's own files.

    check: write nothing. report: is told of each file that loses comments. Gives the files that were not formatted.
    Raises TurtleError where a file cannot be read, is not valid Turtle or cannot be written; then no file has been changed,
    unless it was writing that failed.
    """
    shared: dict[Path, Prefixes] = {}
    results = []
    for path in _files(paths):
        if path.parent not in shared:
            shared[path.parent] = _module_prefixes(path.parent)
        results.append(format_file(path, shared[path.parent]))
    changed = [result for result in results if result.changed]
    for result in changed:
        if result.comments and report:
            lost = f"{len(result.comments)} comment{'s' if len(result.comments) > 1 else ''}, the first {result.comments[0]!r}"
            report(f"{result.path}: formatting drops {lost}; keep what matters in skos:editorialNote")
        if not check:
            _write(result.path, result.after)
    return changed


def format_file(path: Path, prefixes: Prefixes | None = None) -> Formatted:
    """Format one file without writing it.

    prefixes: what the modules beside the file ask for, read from them where not given. Raises TurtleError.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TurtleError(f"{path}: cannot be read: {error.strerror}") from error
    quads, own = _parse(data, path)
    quads = _canonical(quads)
    known = _known(quads, prefixes if prefixes is not None else _module_prefixes(path.parent), own)
    try:
        after = _Writer(quads, known).text().encode()
    except RecursionError as error:
        raise TurtleError(f"{path}: blank nodes are nested too deeply to be formatted") from error
    if set(quads) != set(_canonical(_parse(after, path)[0])):
        raise TurtleError(f"{path}: the formatted text would not say the same; the file is left alone. Please report this")
    written = Counter(_comments(after))
    dropped = [c for c in _comments(data) if not _FROM_OWL_API.match(c) and c not in written and not _HEADING.fullmatch(c)]
    return Formatted(path, data, after, tuple(dropped))


# --- Reading --------------------------------------------------------------------------------------------

_FROM_OWL_API = re.compile(r"###|# {4}\w")
_HEADING = re.compile(r"# --- (\S+:\S+|<\S+>|other) ---")
_TOKEN = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""|'
    r"'''(?:[^'\\]|\\.|'(?!''))*'''|"
    r'"(?:[^"\\\n]|\\.)*"|'
    r"'(?:[^'\\\n]|\\.)*'|<[^<>\s]*>|#[^\r\n]*",
    re.DOTALL,
)

_SETS = {
    *(OWL[name] for name in ("intersectionOf", "unionOf", "oneOf", "disjointUnionOf", "withRestrictions", "hasKey")),
    *(OWL[name] for name in ("members", "distinctMembers")),
}
"""Properties whose list stands for a set in OWL: the order of its members says nothing."""

_AS_SET = "urn:kbtool:set:"
"""Put before the IRI of such a property while the members are held as its values."""


def _files(paths: Iterable[str | Path]) -> list[Path]:
    given = [Path(path) for path in paths] or [HOME / "ontology", HOME / "shapes"]
    files = [file for path in given for file in (sorted(path.rglob("*.ttl")) if path.is_dir() else [path])]
    return list(dict.fromkeys(files))


def _parse(data: bytes, path: Path) -> tuple[list[ox.Quad], Prefixes]:
    """The triples and the prefixes of a text."""
    # A byte order mark and the carriage returns of line ends are an editor's and no part of a string.
    parser = ox.parse(data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n"), ox.RdfFormat.TURTLE, rename_blank_nodes=True)
    try:
        quads = list(dict.fromkeys(parser))
    except SyntaxError as error:
        raise TurtleError(f"{path}:{error.lineno or 1}: not valid Turtle: {error.msg}") from error
    if any(isinstance(quad.object, ox.Triple) for quad in quads):
        raise TurtleError(f"{path}: holds triples about triples, which OWL does not know and formatting does not either")
    shortest_last = sorted(parser.prefixes.items(), key=lambda item: (not item[0], len(item[0]), item[0]), reverse=True)
    return quads, {namespace: prefix for prefix, namespace in shortest_last}


def _canonical(quads: list[ox.Quad]) -> list[ox.Quad]:
    """The triples with canonical blank nodes and the members of OWL's sets as values."""
    cells = {quad.subject for quad in quads if quad.predicate == RDF["rest"]}
    quads = [q for q in quads if q.object != RDF["List"] or q.predicate != RDF["type"] or q.subject not in cells]
    dataset = ox.Dataset(_with_sets(quads))
    dataset.canonicalize(ox.CanonicalizationAlgorithm.RDFC_1_0)
    return list(dataset)


def _with_sets(quads: list[ox.Quad]) -> Iterator[ox.Quad]:
    graph = _Graph(quads)
    gone: set[ox.Quad] = set()
    for quad in quads:
        subject, head = cast("Term", quad.subject), cast("Term", quad.object)
        if quad.predicate in _SETS and len(graph.values[subject][quad.predicate]) == 1:
            cells = graph.cells(head)
            if cells:
                gone.add(quad)
                gone.update(ox.Quad(cell, p, v) for cell in cells for p, vs in graph.values[cell].items() for v in vs)
                name = ox.NamedNode(_AS_SET + quad.predicate.value)
                yield from (ox.Quad(quad.subject, name, graph.values[cell][RDF["first"]][0]) for cell in cells)
    yield from (quad for quad in quads if quad not in gone)


def _comments(data: bytes) -> list[str]:
    return [t.rstrip() for t in _TOKEN.findall(data.decode("utf-8")) if t.startswith("#")]


# --- Prefixes -------------------------------------------------------------------------------------------

_WELL_KNOWN: Prefixes = {
    CG.iri: "cg",
    DCTERMS.iri: "dcterms",
    OWL.iri: "owl",
    PROV.iri: "prov",
    RDF.iri: "rdf",
    RDFS.iri: "rdfs",
    SH.iri: "sh",
    SKOS.iri: "skos",
    VANN.iri: "vann",
    XSD.iri: "xsd",
}
_LETTER = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c-\u200d\u2070-\u218f\u2c00-\u2fef"
    "\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_LOCAL = re.compile(f"[{_LETTER}_0-9]([{_LETTER}_0-9.\u00b7-]*[{_LETTER}_0-9\u00b7-])?")
"""The local names that Turtle takes without an escape."""


def _module_prefixes(folder: Path) -> Prefixes:
    """The prefixes that modules ask for: those in the catalog of the folder, then those that come with kbtool."""
    asked: Prefixes = {}
    try:
        files = [*catalog(folder).values(), *catalog(HOME / "ontology").values()]
    except KnowledgeError as error:
        raise TurtleError(str(error)) from error
    for file in dict.fromkeys(file for file in files if file.is_file()):
        for namespace, prefix in _asked(_parse(file.read_bytes(), file)[0]).items():
            asked.setdefault(namespace, prefix)
    return asked


def _asked(quads: Iterable[ox.Quad]) -> Prefixes:
    quads = list(quads)
    names = {q.subject: text(q.object) for q in quads if q.predicate == VANN["preferredNamespacePrefix"]}
    told = (q for q in quads if q.predicate == VANN["preferredNamespaceUri"] and q.subject in names)
    return {text(q.object): names[q.subject] for q in told}


def _known(quads: list[ox.Quad], modules: Prefixes, own: Prefixes) -> Prefixes:
    """One prefix for each namespace and one namespace for each prefix: the well-known, the modules', the file's own."""
    known: Prefixes = {}
    for source in (_WELL_KNOWN, modules, _asked(quads), own):
        for namespace, prefix in sorted(source.items()):
            if namespace not in known and prefix not in known.values():
                known[namespace] = prefix
    return known


# --- Writing --------------------------------------------------------------------------------------------

_FIRST = [
    *(RDF["type"], RDFS["label"], SKOS["prefLabel"], SH["name"], DCTERMS["title"], SKOS["definition"], DCTERMS["description"]),
    *(OWL["onProperty"], OWL["onDatatype"], SH["prefix"], SH["path"]),
    *(SH[name] for name in ("targetClass", "targetNode", "targetSubjectsOf", "targetObjectsOf")),
]
"""The properties that come first, in this order; the others follow by IRI."""

_KINDS = [
    *(OWL[name] for name in ("Ontology", "AnnotationProperty", "ObjectProperty", "DatatypeProperty")),
    *(RDFS["Datatype"], OWL["Class"], SH["NodeShape"], SH["PropertyShape"]),
]
"""The order of the sections; other types follow by IRI."""

_PLAIN = {
    XSD["integer"]: re.compile(r"[+-]?[0-9]+"),
    XSD["decimal"]: re.compile(r"[+-]?[0-9]*\.[0-9]+"),
    XSD["double"]: re.compile(r"[+-]?([0-9]+\.[0-9]*|\.?[0-9]+)[eE][+-]?[0-9]+"),
    XSD["boolean"]: re.compile(r"true|false"),
}
"""Lexical forms that Turtle takes without quotes."""

_SHORT = re.compile(r'[\\"\x00-\x08\x0b-\x1f\x7f]')
_LONG = re.compile(r'\\|"(?="")|"(?="?\Z)|[\x00-\x08\x0b-\x1f\x7f]')
"""What is escaped in a string. A tab is not, nor a line break by an n: the OWL API reads them as the letters t and n."""

_INLINE = 3

Term = ox.NamedNode | ox.BlankNode | ox.Literal
Statement = tuple[ox.NamedNode, "Term | list[Term]"]
"""A property and its value, or all members of one of OWL's sets."""


class _Graph:
    """Triples by subject and predicate."""

    def __init__(self, quads: Iterable[ox.Quad]) -> None:
        self.values: dict[Term, dict[ox.NamedNode, list[Term]]] = defaultdict(lambda: defaultdict(list))
        self.uses: Counter[Term] = Counter()
        for quad in quads:
            subject, value = cast("Term", quad.subject), cast("Term", quad.object)
            self.values[subject][quad.predicate].append(value)
            self.uses[value] += 1

    def cells(self, head: Term) -> list[ox.BlankNode]:
        """The cells of a list that is well formed and used in one place; none where it is not."""
        cells: list[ox.BlankNode] = []
        while head != RDF["nil"]:
            cell: dict[ox.NamedNode, list[Term]] = self.values.get(head, {})
            whole = set(cell) == {RDF["first"], RDF["rest"]} and all(len(values) == 1 for values in cell.values())
            if not whole or not isinstance(head, ox.BlankNode) or self.uses[head] != 1 or head in cells[:1]:
                return []
            cells.append(head)
            head = cell[RDF["rest"]][0]
        return cells


class _Writer:
    """Writes triples as Turtle."""

    def __init__(self, quads: list[ox.Quad], known: Prefixes) -> None:
        self.graph = _Graph(quads)
        self.known = sorted(known.items(), key=lambda item: len(item[0]), reverse=True)
        self.used: dict[str, str] = {}
        self.ontologies = {text(q.subject) for q in quads if q.predicate == RDF["type"] and q.object == OWL["Ontology"]}
        self.ontologies |= {text(q.object) for q in quads if q.predicate in (OWL["imports"], OWL["versionIRI"], SH["prefixes"])}
        self.keys: dict[Term, str] = {}
        self.names: dict[Term, str] = {}
        shared = [node for node, count in self.graph.uses.items() if isinstance(node, ox.BlankNode) and count > 1]
        looped = self._looped()
        numbered = sorted({*shared, *looped}, key=lambda node: int(node.value.removeprefix("c14n")))
        for number, node in enumerate(numbered, start=1):
            self.names[node] = self.keys[node] = f"_:b{number}"

    def text(self) -> str:
        """The whole file."""
        sections: dict[tuple[int, str], list[Term]] = defaultdict(list)
        for subject in self.graph.values:
            if not isinstance(subject, ox.BlankNode) or subject in self.names or not self.graph.uses[subject]:
                sections[self._section(subject)].append(subject)
        blocks = []
        for place, heading in sorted(sections):
            if place:
                blocks.append(f"# --- {self._iri(ox.NamedNode(heading)) if heading else 'other'} ---\n")
            ordered = sorted(sections[place, heading], key=lambda s: (isinstance(s, ox.BlankNode), self._key(s)))
            blocks.extend(self._subject(subject) for subject in ordered)
        declared = (f"@prefix {prefix}: <{namespace}> .\n" for prefix, namespace in sorted(self.used.items()))
        return "\n".join(["".join(declared), *blocks]).lstrip("\n")

    def _section(self, subject: Term) -> tuple[int, str]:
        types = set(self.graph.values[subject].get(RDF["type"], [])) - {OWL["NamedIndividual"]}
        for place, kind in enumerate(_KINDS):
            if kind in types:
                return (_KINDS.index(SH["NodeShape"]), SH["Shape"].value) if kind in _KINDS[-2:] else (place, kind.value)
        named = sorted(kind.value for kind in types if isinstance(kind, ox.NamedNode))
        return (len(_KINDS), named[0]) if named else (len(_KINDS) + 1, "")

    def _subject(self, subject: Term) -> str:
        name = self._term(subject)
        statements = self._statements(subject)
        lines = [self._statement(predicate, value, 1) for predicate, value in statements]
        if statements[0][0] == RDF["type"]:
            name = f"{name} {lines.pop(0)}"
            if not lines:
                return f"{name} .\n"
            name += " ;"
        return "\n".join([name, *(f"  {line} ;" for line in lines), ".\n"])

    def _statements(self, subject: Term) -> list[Statement]:
        """The statements about a subject in their order; the members of a set together."""
        result: list[Statement] = []
        place = {predicate: number for number, predicate in enumerate(_FIRST)}
        kinds: dict[Term, int] = {kind: number for number, kind in enumerate(_KINDS)}
        about = self.graph.values[subject]
        for predicate in sorted(about, key=lambda p: (place.get(p, len(place)), p.value.removeprefix(_AS_SET))):
            values = sorted(about[predicate], key=lambda v: (isinstance(v, ox.BlankNode), self._key(v)))
            if predicate.value.startswith(_AS_SET):
                result.append((ox.NamedNode(predicate.value.removeprefix(_AS_SET)), values))
            else:
                if predicate == RDF["type"]:
                    values.sort(key=lambda v: kinds.get(v, len(kinds) + (v == OWL["NamedIndividual"])))
                result.extend((predicate, value) for value in values)
        return result

    def _statement(self, predicate: ox.NamedNode, value: Term | list[Term], level: int) -> str:
        written = self._list(value, level) if isinstance(value, list) else self._value(value, level)
        return f"{'a' if predicate == RDF['type'] else self._term(predicate)} {written}"

    def _value(self, value: Term, level: int) -> str:
        if not isinstance(value, ox.BlankNode) or value in self.names:
            return self._term(value)
        cells = self.graph.cells(value)
        if cells:
            return self._list([self.graph.values[cell][RDF["first"]][0] for cell in cells], level)
        statements = self._statements(value)
        if not statements:
            return "[]"
        if len(statements) <= _INLINE and all(self._short(v) for _, v in statements):
            return f"[ {' ; '.join(self._statement(p, v, level) for p, v in statements)} ]"
        inner, outer = "  " * (level + 1), "  " * level
        return "\n".join(["[", *(f"{inner}{self._statement(p, v, level + 1)} ;" for p, v in statements), f"{outer}]"])

    def _list(self, values: list[Term], level: int) -> str:
        if len(values) == 1:
            return f"( {self._value(values[0], level)} )"
        inner, outer = "  " * (level + 1), "  " * level
        return "\n".join(["(", *(f"{inner}{self._value(v, level + 1)}" for v in values), f"{outer})"])

    def _short(self, value: Term | list[Term]) -> bool:
        """Whether a value may share a line with others: a plain term, no prose and nothing nested."""
        if isinstance(value, ox.Literal):
            return not value.language and "\n" not in value.value
        return not isinstance(value, list) and (isinstance(value, ox.NamedNode) or value in self.names)

    def _term(self, term: Term) -> str:
        if isinstance(term, ox.NamedNode):
            return self._iri(term)
        if isinstance(term, ox.BlankNode):
            return self.names.get(term, "[]")
        plain = _PLAIN.get(term.datatype)
        if plain and plain.fullmatch(term.value):
            return term.value
        quoted = _quoted(term.value)
        if term.language:
            return f"{quoted}@{term.language}"
        return quoted if term.datatype == XSD["string"] else f"{quoted}^^{self._iri(term.datatype)}"

    def _iri(self, term: ox.NamedNode) -> str:
        for namespace, prefix in self.known:
            if term.value.startswith(namespace) and term.value not in self.ontologies:
                local = term.value[len(namespace) :]
                if _LOCAL.fullmatch(local):
                    self.used[prefix] = namespace
                    return f"{prefix}:{local}"
        return str(term)

    def _key(self, term: Term) -> str:
        """What a term says, without prefixes and labels of blank nodes."""
        if isinstance(term, ox.NamedNode):
            return term.value
        if isinstance(term, ox.Literal):
            return str(term)
        if term not in self.keys:
            said = (
                f"{p.value} {' '.join(map(self._key, v)) if isinstance(v, list) else self._key(v)}"
                for p, v in self._statements(term)
            )
            self.keys[term] = f"[{' ; '.join(said)}]"
        return self.keys[term]

    def _looped(self) -> set[Term]:
        """The blank nodes that can be reached from themselves only, where each is used once."""
        statements = ((s, v) for s, about in self.graph.values.items() for values in about.values() for v in values)
        above = {value: subject for subject, value in statements if isinstance(value, ox.BlankNode)}
        looped: set[Term] = set()
        seen: set[Term] = set()
        for start in above:
            node: Term = start
            path: list[Term] = []
            while node in above and node not in seen and self.graph.uses[node] == 1:
                seen.add(node)
                path.append(node)
                node = above[cast("ox.BlankNode", node)]
            if node in path:
                looped.update(path[path.index(node) :])
        return looped


def _quoted(value: str) -> str:
    long = "\n" in value
    escape = _LONG if long else _SHORT
    escaped = escape.sub(lambda found: f"\\{found[0]}" if found[0] in '\\"' else f"\\u{ord(found[0]):04X}", value)
    return f'"""{escaped}"""' if long else f'"{escaped}"'


def _write(path: Path, data: bytes) -> None:
    """Replace a file at once, so that an interruption leaves the old or the new one; its mode is kept."""
    target = path.resolve()
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            shutil.copymode(target, name)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise TurtleError(f"{path}: cannot be written: {error.strerror}") from error
