"""Read patient facts from files, folders, bytes or rdflib graphs, and divide them by patient.

Input comes from strangers. Nothing is fetched (JSON-LD contexts, imports, entities), numbers keep their digits, and
what cannot be attributed to a patient is reported instead of dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyoxigraph as ox

from kbtool.namespaces import CG, OWL, RDF, XSD, text

if TYPE_CHECKING:
    from rdflib import Graph

BASE = "https://w3id.org/kbtool/facts/"
"""Relative IRIs in facts are resolved against this."""

GENID = "https://w3id.org/kbtool/genid/"
"""Blank nodes of facts get IRIs below this, so that an answer can cite them."""

FORMATS = {
    ".ttl": ox.RdfFormat.TURTLE,
    ".jsonld": ox.RdfFormat.JSON_LD,
    ".json": ox.RdfFormat.JSON_LD,
    ".nt": ox.RdfFormat.N_TRIPLES,
    ".rdf": ox.RdfFormat.RDF_XML,
    ".owl": ox.RdfFormat.RDF_XML,
    ".xml": ox.RdfFormat.RDF_XML,
}
FORMAT_NAMES = {
    "turtle": ox.RdfFormat.TURTLE,
    "json-ld": ox.RdfFormat.JSON_LD,
    "n-triples": ox.RdfFormat.N_TRIPLES,
    "rdf-xml": ox.RdfFormat.RDF_XML,
}
MAX_XML_BYTES = 64 * 2**20
"""RDF/XML is read in one piece; a larger file is refused."""

_PATIENT, _TYPE, _VALUE = CG["Patient"], RDF["type"], CG["value"]
_ENTITY = re.compile(rb"<!ENTITY\s+(%\s+)?\S+\s+(.*?)>", re.DOTALL)
_NAMESPACE_ENTITY = re.compile(rb"""^(["'])(https?://|urn:)[^&%"']*\1\s*$""")
_BAD_IRI = re.compile(r'[\x00-\x20<>"{}|\\^`]')

Node = ox.NamedNode | ox.BlankNode


class FactsError(Exception):
    """A source of facts cannot be read. The message says which, where in it, and what to do."""


@dataclass
class PatientFacts:
    """The triples of one patient: those of the patient node and of every node reached from it.

    reported: for each cg:value its characters as sent, which a store may normalise; added after validation.
    """

    patient: Node
    triples: list[ox.Quad] = field(default_factory=list)
    reported: list[ox.Quad] = field(default_factory=list)


@dataclass
class Facts:
    """All facts that were read.

    groups: patients that share no node stand alone; patients that share one (which a shape refuses) stand together.
    strays: nodes that state something in the guideline language and belong to no patient.
    """

    groups: list[list[PatientFacts]]
    strays: list[str]

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)


def sources(
    paths: Iterable[str | Path], stdin: BinaryIO | None = None, forced: ox.RdfFormat | None = None
) -> Iterator[tuple[str, bytes, ox.RdfFormat | None]]:
    """Name, bytes and format of each file; folders are searched for every known ending, `-` is standard input.

    forced: a format that makes every file ending acceptable. Raises FactsError for a path that does not exist or
    cannot be read, a folder without facts, an unknown ending.
    """
    for given in paths:
        if str(given) == "-" and stdin is not None:
            yield "<standard input>", stdin.read(), None
            continue
        path = Path(given)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in FORMATS.keys() - {".json"} and p.is_file())
            if not files:
                raise FactsError(f"{path}: no facts in this folder (looked for {', '.join(sorted(FORMATS))})")
        else:
            files = [path]
        for file in files:
            kind = FORMATS.get(file.suffix.lower())
            if kind is None and forced is None:
                raise FactsError(f"{file}: unknown ending; use one of {', '.join(sorted(FORMATS))}, or --input-format")
            try:
                yield str(file), file.read_bytes(), kind
            except OSError as error:
                raise FactsError(f"{file}: cannot be read: {error.strerror}") from error


class Reader:
    """Collects the triples of several sources; blank nodes of different sources never meet."""

    def __init__(self) -> None:
        self._triples: list[ox.Quad] = []
        self._numbers = count(1)

    def add(self, name: str, data: bytes, kind: ox.RdfFormat | None = None) -> None:
        """Read one source. Without a format it is guessed from the first characters.

        Raises FactsError with file, line and column where the parser tells them.
        """
        data = data.removeprefix(b"\xef\xbb\xbf")
        kind = kind or _guess(data)
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise FactsError(f"{name}: line {line}: not UTF-8 text; save the file as UTF-8") from None
        if kind == ox.RdfFormat.JSON_LD:
            data = _prepare_json(name, data)
        elif kind == ox.RdfFormat.RDF_XML:
            _check_xml(name, data)
        try:
            parsed = list(ox.parse(data, kind, base_iri=BASE))
        except (SyntaxError, ValueError) as error:
            raise FactsError(f"{name}: {_explain(error, kind)}") from None
        self._add(name, parsed)

    def add_graph(self, graph: Graph, name: str = "<graph>") -> None:
        """Read an rdflib graph. Raises FactsError where it holds terms that are not valid RDF."""
        self.add(name, graph.serialize(format="nt", encoding="utf-8"), ox.RdfFormat.N_TRIPLES)

    def _add(self, name: str, parsed: list[ox.Quad]) -> None:
        patients = {q.subject for q in parsed if q.predicate == _TYPE and q.object == _PATIENT}
        renamed: dict[ox.BlankNode, Node] = {}

        def rename(term: Any) -> Any:
            if not isinstance(term, ox.BlankNode):
                return term
            if term not in renamed:
                n = next(self._numbers)
                renamed[term] = ox.BlankNode(f"patient{n}") if term in patients else ox.NamedNode(f"{GENID}{n}")
            return renamed[term]

        for quad in parsed:
            if quad.predicate == OWL["imports"]:
                raise FactsError(f"{name}: owl:imports {text(quad.object)}: facts may not import; nothing is fetched")
            if isinstance(quad.object, ox.Triple) or isinstance(quad.subject, ox.Triple):
                raise FactsError(f"{name}: a triple stands where a node belongs; facts are plain RDF 1.1")
            self._triples.append(ox.Quad(rename(quad.subject), quad.predicate, rename(quad.object)))

    def facts(self, vocabulary: ox.Store) -> Facts:
        """Divide what was read by patient. Terms of the vocabulary are never followed or overwritten."""
        by_subject: dict[Node, list[ox.Quad]] = {}
        patients: dict[Node, None] = {}
        for quad in dict.fromkeys(self._triples):
            if isinstance(quad.subject, ox.Triple):
                continue
            by_subject.setdefault(quad.subject, []).append(quad)
            if quad.predicate == _TYPE and quad.object == _PATIENT:
                patients[quad.subject] = None
        owner: dict[Node, Node] = {}
        merged: dict[Node, Node] = {p: p for p in patients}

        def root(p: Node) -> Node:
            while merged[p] != p:
                p = merged[p]
            return p

        records: dict[Node, PatientFacts] = {}
        reached: set[Node] = set()
        for patient in patients:
            record = records[patient] = PatientFacts(patient)
            seen, waiting = {patient}, [patient]
            while waiting:
                node = waiting.pop()
                reached.add(node)
                if node in owner and owner[node] != patient:
                    merged[root(patient)] = root(owner[node])
                owner.setdefault(node, patient)
                for quad in by_subject.get(node, ()):
                    record.triples.append(quad)
                    target = quad.object
                    if quad.predicate == _VALUE and isinstance(target, ox.Literal):
                        record.reported.append(ox.Quad(node, CG["reportedValue"], ox.Literal(target.value)))
                    if quad.predicate == _TYPE or isinstance(target, ox.Literal | ox.Triple) or target in seen | patients.keys():
                        continue
                    if target in by_subject and not _declared(target, vocabulary):
                        seen.add(target)
                        waiting.append(target)
        groups: dict[Node, list[PatientFacts]] = {}
        for patient, record in records.items():
            groups.setdefault(root(patient), []).append(record)
        lost = {s for s in by_subject if s not in reached and _speaks(by_subject[s], vocabulary)}
        lost -= {q.object for s in lost for q in by_subject[s] if q.object != s}
        return Facts(list(groups.values()), sorted(str(s) for s in lost))


def _speaks(quads: list[ox.Quad], vocabulary: ox.Store) -> bool:
    """Whether a node states something in the guideline language, or says something about a term of it."""
    return any(
        q.predicate.value.startswith(CG.iri)
        or (q.predicate == _TYPE and isinstance(q.object, ox.NamedNode) and _declared(q.object, vocabulary))
        for q in quads
    ) or _declared(quads[0].subject, vocabulary)


def _declared(node: Any, vocabulary: ox.Store) -> bool:
    if not isinstance(node, ox.NamedNode):
        return False
    return next(iter(vocabulary.quads_for_pattern(node, _TYPE, None, None)), None) is not None


def _guess(data: bytes) -> ox.RdfFormat:
    start = data[:512].lstrip()
    if start[:1] in (b"{", b"["):
        return ox.RdfFormat.JSON_LD if not start.startswith(b"[ a") else ox.RdfFormat.TURTLE
    if start.startswith((b"<?xml", b"<rdf:RDF", b"<!DOCTYPE")):
        return ox.RdfFormat.RDF_XML
    return ox.RdfFormat.TURTLE


def _prepare_json(name: str, data: bytes) -> bytes:
    """JSON-LD with decimals that keep their digits: a bare 0.70 would become a binary float."""

    def decimal(number: str) -> dict[str, str]:
        from decimal import Decimal

        return {"@value": format(Decimal(number), "f"), "@type": XSD["decimal"].value}

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not a number")

    try:
        document = json.loads(data, parse_float=decimal, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise FactsError(f"{name}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise FactsError(f"{name}: not valid JSON-LD: {error or 'nested too deeply'}") from None
    _check_json(name, document)
    return json.dumps(document).encode()


def _check_json(name: str, document: Any) -> None:
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            identifier = node.get("@id")
            if isinstance(identifier, str) and (_BAD_IRI.search(identifier) or not identifier):
                raise FactsError(f"{name}: @id {identifier!r} is not an IRI (no spaces, quotes or braces); it would be dropped")
            contexts = node.get("@context")
            for context in contexts if isinstance(contexts, list) else [contexts]:
                if isinstance(context, str) or (isinstance(context, dict) and "@import" in context):
                    raise FactsError(
                        f"{name}: the context {context!r} is remote; put the context into the file, nothing is fetched"
                    )
            waiting.extend(value for key, value in node.items() if key != "@context")


def _check_xml(name: str, data: bytes) -> None:
    if len(data) > MAX_XML_BYTES:
        raise FactsError(f"{name}: RDF/XML above {MAX_XML_BYTES // 2**20} MB; use Turtle or N-Triples")
    for match in _ENTITY.finditer(data):
        if match[1] or not _NAMESPACE_ENTITY.match(match[2].strip()):
            raise FactsError(f"{name}: an XML entity that is not a plain namespace; write the text out")


def _explain(error: Exception, kind: ox.RdfFormat) -> str:
    message = str(error.msg if isinstance(error, SyntaxError) else error)
    line, column = getattr(error, "lineno", None), getattr(error, "offset", None)
    where = f"line {line}, column {column}: " if line else ""
    message = re.sub(r"^Parser error at .*?: ", "", message)
    return f"{where}not valid {kind.name}: {message}"
