"""Read patient facts, RDF or FHIR, from files, folders, bytes or rdflib graphs, and divide them by patient.

Input comes from strangers. Nothing is fetched (JSON-LD contexts, imports, entities), numbers keep their digits, and
what cannot be attributed to a patient is reported instead of dropped.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

import pyoxigraph as ox

from kbtool.division import divided, divided_at_once
from kbtool.json_text import JsonError, decoder, parsed
from kbtool.namespaces import CG, OWL, RDF, XSD
from kbtool.rows import Row, Table, lexical, no_collection, node_of, plain_table, quads_of, rows_of

if TYPE_CHECKING:
    from rdflib import Graph

    from kbtool.fhir.read import Reading

FHIR: Final = "fhir"
"""The format of FHIR in JSON: a Bundle, a resource, or NDJSON."""

Kind = ox.RdfFormat | Literal["fhir"]

BASE = "https://w3id.org/kbtool/facts/"
"""Relative IRIs in facts are resolved against this."""

GENID = "https://w3id.org/kbtool/genid/"
"""Blank nodes of facts get IRIs below this, so that an answer can cite them."""

FORMATS: dict[str, Kind] = {
    ".ttl": ox.RdfFormat.TURTLE,
    ".jsonld": ox.RdfFormat.JSON_LD,
    ".json": ox.RdfFormat.JSON_LD,
    ".nt": ox.RdfFormat.N_TRIPLES,
    ".rdf": ox.RdfFormat.RDF_XML,
    ".owl": ox.RdfFormat.RDF_XML,
    ".xml": ox.RdfFormat.RDF_XML,
    ".ndjson": FHIR,
}
FORMAT_NAMES: dict[str, Kind] = {
    "turtle": ox.RdfFormat.TURTLE,
    "json-ld": ox.RdfFormat.JSON_LD,
    "n-triples": ox.RdfFormat.N_TRIPLES,
    "rdf-xml": ox.RdfFormat.RDF_XML,
    "fhir": FHIR,
}
MAX_XML_BYTES = 64 * 2**20
"""RDF/XML is read in one piece; a larger file is refused."""

_PATIENT, _TYPE, _VALUE = CG["Patient"], RDF["type"], CG["value"]
_PATIENT_ROW, _TYPE_ROW, _VALUE_ROW, _IMPORTS = str(_PATIENT), str(_TYPE), str(_VALUE), str(OWL["imports"])
_REPORTED = str(CG["reportedValue"])
_LONGEST_NUMBER = 100
"""Digits before or after the point of a number with an exponent; written out, a longer one could fill any memory."""
_ENTITY = re.compile(rb"<!ENTITY\s+(%\s+)?\S+\s+(.*?)>", re.DOTALL)
_NAMESPACE_ENTITY = re.compile(rb"""^(["'])(https?://|urn:)[^&%"']*\1\s*$""")
_FACTS_IN_JSON = re.compile(rb'"(?:resourceType|@(?:context|id|type|graph))"\s*:')
_HEAD = 2**16
_BAD_IRI = re.compile(r'[\x00-\x20<>"{}|\\^`]')

Node = ox.NamedNode | ox.BlankNode


class FactsError(Exception):
    """A source of facts cannot be read. The message says which, where in it, and what to do."""


@dataclass
class PatientFacts:
    """The triples of one patient: those of the patient node and of every node reached from it.

    reported: for each cg:value its characters as sent, which a store may normalise; added after validation. not_read: what of
    a FHIR record was not read, as answers show it. not_needed: how often each code came that the guideline does not know.
    """

    patient: Node
    triples: list[ox.Quad] = field(default_factory=list)
    reported: list[ox.Quad] = field(default_factory=list)
    not_read: list[dict[str, Any]] = field(default_factory=list)
    not_needed: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, patient: str, rows: list[Row] | Table) -> PatientFacts:
        """A patient whose triples are made only when somebody asks for them."""
        record = cls(node_of(patient))
        del record.triples, record.reported
        record.__dict__["_rows"] = rows
        return record

    def __getattr__(self, name: str) -> Any:
        if name not in ("triples", "reported") or "_rows" not in self.__dict__:
            raise AttributeError(name)
        rows = self.rows()
        del self.__dict__["_rows"]  # from now on somebody else may change the triples
        self.triples = quads_of(rows)
        self.reported = quads_of(reported_rows(rows))
        found: list[ox.Quad] = self.__dict__[name]
        return found

    @property
    def table(self) -> Table | None:
        """The triples as a part of a table, if they are kept so."""
        found = self.__dict__.get("_rows")
        return found if isinstance(found, Table) else None

    def rows(self) -> list[Row]:
        """The triples as text."""
        found: list[Row] | Table | None = self.__dict__.get("_rows")
        return rows_of(self.triples) if found is None else found.rows() if isinstance(found, Table) else found

    def statements(self) -> tuple[dict[str, list[int]], Callable[[int], tuple[str, str]]]:
        """For each node, as text, the numbers of its statements; and what gives of such a number predicate and object as sent."""
        nodes: dict[str, list[int]] = {}
        if self.table is not None:
            subjects, predicates, objects = (column.tolist() for column in self.table.columns)
            terms = self.table.terms
            by_place: dict[int, list[int]] = {}
            for number, place in enumerate(subjects):
                if place in by_place:
                    by_place[place].append(number)
                else:
                    by_place[place] = [number]
            nodes = {terms[place]: numbers for place, numbers in by_place.items()}
            return nodes, lambda number: (terms[predicates[number]], terms[objects[number]])
        rows = [*self.rows(), *self.reported_rows()]
        for number, row in enumerate(rows):
            nodes.setdefault(row[0], []).append(number)
        return nodes, lambda number: rows[number][1:]

    def reported_rows(self) -> list[Row]:
        """What was reported, as text."""
        return reported_rows(self.rows()) if "_rows" in self.__dict__ else rows_of(self.reported)


def reported_rows(rows: Iterable[Row]) -> list[Row]:
    """For each value its characters as sent."""
    return [(s, _REPORTED, o[: o.rindex('"') + 1]) for s, p, o in rows if p == _VALUE_ROW and o[0] == '"']


@dataclass
class Facts:
    """All facts that were read.

    groups: patients that share no node stand alone; patients that share one (which a shape refuses) stand together.
    strays: nodes that state something in the guideline language, and FHIR resources with the reason, that belong to no patient.
    lost: these nodes together with those that can be reached from them.
    """

    groups: list[list[PatientFacts]]
    strays: list[str]
    lost: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)


def sources(
    paths: Iterable[str | Path], stdin: BinaryIO | None = None, forced: Kind | None = None
) -> Iterator[tuple[str, bytes, Kind | None]]:
    """Name, bytes and format of each file; folders are searched for every known ending, `-` is standard input. Of JSON in a
    folder only what can be facts is read.

    forced: a format that makes every file ending acceptable. Raises FactsError for a path that does not exist or
    cannot be read, a folder without facts, an unknown ending.
    """
    for given in paths:
        if str(given) == "-" and stdin is not None:
            yield "<standard input>", stdin.read(), None
            continue
        path = Path(given)
        if path.is_dir():
            known = (p for p in path.rglob("*") if p.suffix.lower() in FORMATS and p.is_file())
            files = sorted(p for p in known if p.suffix.lower() != ".json" or json_has_facts(p))
            if not files:
                raise FactsError(f"{path}: no facts in this folder (looked for {', '.join(sorted(FORMATS))})")
        else:
            files = [path]
        for file in files:
            kind = FORMATS.get(file.suffix.lower())
            if kind is None and forced is None and file.exists():
                raise FactsError(f"{file}: unknown ending; use one of {', '.join(sorted(FORMATS))}, or --input-format")
            try:
                yield str(file), file.read_bytes(), kind
            except OSError as error:
                raise FactsError(f"{file}: cannot be read: {error.strerror}") from error


class Reader:
    """Collects the triples of several sources; blank nodes of different sources never meet.

    scope: stands in the IRIs of blank nodes, where several readers' facts come together. vocabulary: the knowledge by which
    FHIR is read at once; without it FHIR is kept and read in `facts`, which takes longer.
    """

    def __init__(self, scope: str = "", vocabulary: ox.Store | None = None) -> None:
        self._scope = scope
        self._vocabulary = vocabulary
        self._fhir: list[tuple[str, bytes]] = []
        self._reading: Reading | None = None
        self._rows: list[Row] = []
        self._table: Table | None = None
        self._numbers = count(1)

    def add(self, name: str, data: bytes, kind: Kind | None = None) -> None:
        """Read one source. Without a format it is guessed from the first characters.

        Raises FactsError with file, line and column where the parser tells them.
        """
        data = data.removeprefix(b"\xef\xbb\xbf")
        kind = kind or _guess(data)
        if kind == FHIR or (kind == ox.RdfFormat.JSON_LD and _is_fhir(data)):
            self._add_fhir(name, data)
            return
        try:
            decoded = data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise FactsError(f"{name}: line {line}: not UTF-8 text; save the file as UTF-8") from None
        if kind == ox.RdfFormat.JSON_LD:
            data = _prepare_json(name, data)
        elif kind == ox.RdfFormat.RDF_XML:
            _check_xml(name, data)
        elif kind == ox.RdfFormat.N_TRIPLES:
            with no_collection():
                table = plain_table(decoded)
                if table is not None:
                    self._add_table(name, table)
                    return
        try:
            parsed = list(ox.parse(data, kind, base_iri=BASE))
        except (SyntaxError, ValueError) as error:
            raise FactsError(f"{name}: {_explain(error, kind)}") from None
        self._add(name, parsed)

    def _add_fhir(self, name: str, data: bytes) -> None:
        from kbtool.fhir.documents import documents
        from kbtool.fhir.read import Reading

        if self._vocabulary is None:
            for _ in documents(data, name):
                pass
            self._fhir.append((name, data))
            return
        self._reading = self._reading or Reading(self._vocabulary)
        self._reading.add(data, name)

    def _from_fhir(self, vocabulary: ox.Store) -> Facts:
        """The facts of everything in FHIR."""
        if self._fhir:
            from kbtool.fhir.read import Reading

            self._reading = self._reading or Reading(vocabulary)
            for name, data in self._fhir:
                self._reading.add(data, name)
            self._fhir = []
        return self._reading.finish().facts() if self._reading is not None else Facts([], [])

    def add_graph(self, graph: Graph, name: str = "<graph>") -> None:
        """Read an rdflib graph. Raises FactsError where it holds terms that are not valid RDF."""
        self.add(name, graph.serialize(format="nt", encoding="utf-8"), ox.RdfFormat.N_TRIPLES)

    def _add(self, name: str, parsed: list[ox.Quad]) -> None:
        try:
            self._add_rows(name, rows_of(parsed))
        except ValueError as error:
            raise FactsError(f"{name}: {error}") from None

    def _add_table(self, name: str, table: Table) -> None:
        """Keep a table as it is where it is the only one and has no blank nodes, which need names of their own."""
        if self._table is None and not self._rows and _IMPORTS not in table.index and not any(t[0] == "_" for t in table.terms):
            self._table = table
        else:
            self._add_rows(name, table.rows())

    def _add_rows(self, name: str, rows: list[Row]) -> None:
        self._flatten()
        if _IMPORTS in {p for _, p, _ in rows}:
            imported = next(o for _, p, o in rows if p == _IMPORTS)
            raise FactsError(f"{name}: owl:imports {lexical(imported)}: facts may not import; nothing is fetched")
        nodes = dict.fromkeys(term for s, _, o in rows for term in (s, o) if term[0] == "_")
        if nodes:
            patients = {s for s, p, o in rows if o == _PATIENT_ROW and p == _TYPE_ROW}
            numbered = zip(nodes, self._numbers, strict=False)
            names = {t: f"_:patient{n}" if t in patients else f"<{GENID}{self._scope}{n}>" for t, n in numbered}
            rows = [(names.get(s, s), p, names.get(o, o)) for s, p, o in rows]
        self._rows += rows

    def facts(self, vocabulary: ox.Store) -> Facts:
        """Divide what was read by patient. Terms of the vocabulary are never followed or overwritten."""
        with no_collection():
            return self._divided(vocabulary)

    def _divided(self, vocabulary: ox.Store) -> Facts:
        if self._table is not None and not self._rows and self._reading is None and not self._fhir:
            at_once = divided_at_once(self._table, vocabulary)
            if at_once is not None:
                parts, (strays, lost) = at_once
                return Facts([[PatientFacts.of_rows(patient, part)] for patient, part in parts], strays, lost)
        self._flatten()
        from_fhir = self._from_fhir(vocabulary)
        recorded = {str(record.patient): record for group in from_fhir.groups for record in group}
        both = recorded.keys() & {s for s, _, _ in self._rows} if recorded and self._rows else set()
        for patient in both:
            self._rows += recorded[patient].rows()
        divided_groups, (strays, lost) = divided(self._rows, vocabulary)
        groups = [[PatientFacts.of_rows(patient, mine) for patient, mine in group] for group in divided_groups]
        for record in (record for group in groups for record in group):
            if (name := str(record.patient)) in both:
                record.not_read, record.not_needed = recorded[name].not_read, recorded[name].not_needed
        alone = [[record] for patient, record in recorded.items() if patient not in both]
        return Facts([*groups, *alone], [*strays, *from_fhir.strays], lost)

    def _flatten(self) -> None:
        """What was kept as a table, as rows."""
        if self._table is not None:
            self._rows[:0] = self._table.rows()
            self._table = None


def json_has_facts(path: Path, opened: Callable[[Path, str], Any] = open) -> bool:
    """Whether a JSON file that nobody named can be facts, FHIR or JSON-LD, by its beginning; what cannot be told counts as facts,
    so that nothing is passed over in silence. opened: how it is opened, where it is packed."""
    try:
        with opened(path, "rb") as stream:
            head: bytes = stream.read(_HEAD)
    except (OSError, EOFError, zlib.error):
        return True
    return _FACTS_IN_JSON.search(head) is not None or b"\0" in head


def _is_fhir(data: bytes) -> bool:
    if b'"resourceType"' not in data:
        return False
    from kbtool.fhir.documents import is_fhir

    return is_fhir(data)


def _guess(data: bytes) -> ox.RdfFormat:
    start = data[:512].lstrip()
    if start[:1] in (b"{", b"["):
        return ox.RdfFormat.JSON_LD if not start.startswith(b"[ a") else ox.RdfFormat.TURTLE
    if start.startswith((b"<?xml", b"<rdf:RDF", b"<!DOCTYPE")) or b'xmlns="http://hl7.org/fhir"' in start:
        return ox.RdfFormat.RDF_XML
    return ox.RdfFormat.TURTLE


def _prepare_json(name: str, data: bytes) -> bytes:
    """JSON-LD with decimals that keep their digits: a bare 0.70 would become a binary float."""

    def decimal(number: str) -> dict[str, str]:
        from decimal import Decimal, InvalidOperation

        try:
            value = Decimal(number)
        except InvalidOperation:
            value = Decimal("Infinity")
        if not value.is_finite() or abs(value.adjusted()) > _LONGEST_NUMBER:
            raise ValueError(f"a number of more than {_LONGEST_NUMBER} digits")
        return {"@value": format(value, "f"), "@type": XSD["decimal"].value}

    try:
        document = parsed(data, decoder(decimal))
    except JsonError as error:
        raise FactsError(f"{name}: {error}") from None
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
    if b'"http://hl7.org/fhir"' in data[:2048]:
        hint = "ask the server for JSON (Accept: application/fhir+json), or convert the file"
        raise FactsError(f"{name}: FHIR in XML is not read; {hint}")
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
