"""The SPARQL 1.1 Protocol, its query operation: read a request, and answer it from a store.

All of it runs in a child of the keeper: the fields of a form alone can take seconds to decode. No update is understood.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any, cast
from urllib.parse import parse_qsl

import pyoxigraph as ox

from kbtool import ask
from kbtool.serve.keeper import Reply
from kbtool.serve.negotiate import chosen
from kbtool.serve.problem import Problem

_FORM, _DIRECT, _UPDATE = "application/x-www-form-urlencoded", "application/sparql-query", "application/sparql-update"

RESULTS = {
    "application/sparql-results+json": ox.QueryResultsFormat.JSON,
    "application/sparql-results+xml": ox.QueryResultsFormat.XML,
    "text/csv": ox.QueryResultsFormat.CSV,
    "text/tab-separated-values": ox.QueryResultsFormat.TSV,
    "application/json": ox.QueryResultsFormat.JSON,
    "application/xml": ox.QueryResultsFormat.XML,
    "text/xml": ox.QueryResultsFormat.XML,
}
"""The media types of the results of SELECT and ASK."""

GRAPHS = {
    "text/turtle": ox.RdfFormat.TURTLE,
    "application/n-triples": ox.RdfFormat.N_TRIPLES,
    "application/ld+json": ox.RdfFormat.JSON_LD,
    "application/rdf+xml": ox.RdfFormat.RDF_XML,
    "application/json": ox.RdfFormat.JSON_LD,
    "application/xml": ox.RdfFormat.RDF_XML,
    "text/plain": ox.RdfFormat.N_TRIPLES,
}
"""The media types of the graphs of CONSTRUCT and DESCRIBE."""

_SHOWN_AS = {"application/json": "application/sparql-results+json"}
_DEEPEST = 200
_TOKEN = re.compile(
    r"""(?P<skip>\#[^\n]*|\s+|<[^<>"{}|^`\\\x00-\x20]*>)
      | (?P<string>\"\"\"(?:[^"\\]|\\.|\"(?!\"\"))*\"\"\"|'''(?:[^'\\]|\\.|'(?!''))*'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | [?$]\w+ | @[A-Za-z0-9\-]+ | (?P<prefix>[\w.\-]*):(?:[\w.:%\-]|\\.)* | (?P<word>\w+)
      | (?P<open>[\[({]) | (?P<close>[\])}]) | .""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Query:
    """A query as the protocol states it. Graphs are None where the request names none, so that the query decides."""

    text: str
    default_graphs: list[str] | None = None
    named_graphs: list[str] | None = None


def stated(query_string: bytes) -> bool:
    """Whether the address of a request states anything for the protocol; where it does not, a GET asks for the description."""
    return any(name in query_string for name in (b"query", b"update", b"graph", b"%"))


def from_request(method: str, query_string: bytes, content_type: str | None, body: bytes) -> Query:
    """The query of a request by SPARQL 1.1 Protocol, section 2.1.

    Raises Problem: 400 for what is malformed, 403 for an update, 415 for another media type.
    """
    parameters = _pairs(query_string, "address")
    media, charset = _media(content_type)
    direct: list[str] = []
    if method == "POST":
        if media == _UPDATE:
            raise Problem(403, "This endpoint is read-only: updates are refused.")
        if charset not in ("", "utf-8", "us-ascii"):
            raise Problem(415, f"The charset {charset} is not read; send UTF-8.")
        if media == _DIRECT:
            direct = [_utf8(body, "query")]
        elif media == _FORM:
            if any(name in ("query", "update") for name, _ in parameters):
                raise Problem(400, "A query by POST stands in the body and not in the address.")
            parameters += _pairs(body, "form")
        else:
            raise Problem(415, f"The body is {media or 'of no stated type'}; send {_FORM} or {_DIRECT}.")
    if any(name == "update" or name.startswith("using-") for name, _ in parameters):
        raise Problem(403, "This endpoint is read-only: updates are refused.")
    queries = [value for name, value in parameters if name == "query"]
    if method == "POST" and media == _DIRECT and queries:
        raise Problem(400, "There is a query in the body and another one in the address.")
    queries += direct
    if len(queries) > 1:
        raise Problem(400, f"There are {len(queries)} queries; send one.")
    if not queries:
        raise Problem(400, "There is no query; send it as the field `query`.")
    default = [value for name, value in parameters if name == "default-graph-uri"]
    named = [value for name, value in parameters if name == "named-graph-uri"]
    given = bool(default or named)
    return Query(queries[0], default if given else None, named if given else None)


def answer(
    store: ox.Store,
    query: Query,
    accept: str | None,
    prefixes: dict[str, str],
    *,
    base: str | None = None,
    max_rows: int,
    max_bytes: int,
) -> Reply:
    """Answer a query. base: against which relative IRIs in it are resolved. Nothing is sent of a result above a limit:
    Problem 413. Problem 400 for a query that is wrong, with line and column; 406 where no format suits the client."""
    text = guarded(query.text)
    graphs: dict[str, Any] = {}
    if query.default_graphs is not None:
        graphs = {"default_graph": _nodes(query.default_graphs), "named_graphs": _nodes(query.named_graphs or [])}
    try:
        result: Any = store.query(text, base_iri=base, prefixes=prefixes, **graphs)
    except SyntaxError as error:
        raise Problem(400, _because(text, prefixes, error)) from None
    except (ValueError, RuntimeError) as error:
        raise Problem(400, f"The query cannot be run: {error}") from None
    output = _Output(max_bytes)
    try:
        if isinstance(result, ox.QueryTriples):
            media, kind = chosen(accept, GRAPHS)
            known = prefixes if kind in (ox.RdfFormat.TURTLE, ox.RdfFormat.RDF_XML) else None
            ox.serialize(_counted(result, max_rows), cast(IO[bytes], output), format=kind, prefixes=known)
        else:
            media, form = chosen(accept, RESULTS)
            result.serialize(output, format=form)
            if len(output.data) > max_rows and isinstance(result, ox.QuerySolutions):
                _check_rows(bytes(output.data), form, max_rows)
    except (ValueError, RuntimeError, OSError) as error:
        raise Problem(400, f"The query cannot be run: {error}") from None
    media = _SHOWN_AS.get(media, media) if not isinstance(result, ox.QueryTriples) else media
    charset = "; charset=utf-8" if media.startswith("text/") else ""
    return Reply(200, {"content-type": media + charset, "vary": "Accept, Accept-Encoding"}, bytes(output.data))


def guarded(text: str) -> str:
    """A query with its escapes written out, refused where it would call another endpoint or is nested very deeply.

    Comments, strings, IRIs, variables and local names may hold any word. Of the rest a word or a prefix that only contains
    the keyword is refused too, because a lenient parser may split it. This gives the clear message, and no more: a child of
    the keeper has no socket to call with. Raises Problem 400.
    """
    try:
        text = ask.plain(text)
    except ask.QueryError as error:
        raise Problem(400, str(error)) from None
    depth = 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind in ("word", "prefix") and "service" in token[kind].lower():
            where = f"line {text.count(chr(10), 0, token.start()) + 1}"
            raise Problem(400, f"{where}: SERVICE would send what it finds to another machine and is refused.")
        if kind == "open":
            depth += 1
            if depth > _DEEPEST:
                raise Problem(400, f"The query is nested more than {_DEEPEST} deep.")
        elif kind == "close":
            depth -= 1
    return text


class _Output(io.RawIOBase):
    """Gathers a result up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.data, self.limit = bytearray(), limit

    def write(self, data: Any) -> int:
        self.data += data
        if len(self.data) > self.limit:
            raise Problem(413, f"The result is larger than {self.limit // 2**20} MB; narrow the query, or use LIMIT and OFFSET.")
        return len(data)


def _check_rows(data: bytes, form: ox.QueryResultsFormat, limit: int) -> None:
    """Count the rows of a result that is so long that it may have too many. An engine writes rows without saying how many."""
    head = form == ox.QueryResultsFormat.CSV
    rows: Any = csv.reader(io.StringIO(data.decode(), newline="")) if head else ox.parse_query_results(data, form)
    for number, _ in enumerate(rows, 0 if head else 1):
        if number > limit:
            _too_many(limit)


def _counted(triples: Iterable[ox.Triple], limit: int) -> Iterator[ox.Triple]:
    for number, triple in enumerate(triples, 1):
        if number > limit:
            _too_many(limit)
        yield triple


def _too_many(limit: int) -> None:
    raise Problem(413, f"The result has more than {limit} rows; narrow the query, or use LIMIT and OFFSET.")


def _because(text: str, prefixes: dict[str, str], error: SyntaxError) -> str:
    try:
        return f"The query is wrong: {ask.explained(text, prefixes, error)}"
    except RecursionError:
        return "The query is nested too deeply."


def _nodes(iris: list[str]) -> list[ox.NamedNode]:
    found = []
    for iri in iris:
        try:
            found.append(ox.NamedNode(iri))
        except ValueError:
            raise Problem(400, f"{iri!r} is not the IRI of a graph.") from None
    return found


def _pairs(data: bytes, where: str) -> list[tuple[str, str]]:
    if not data:
        return []
    try:
        return parse_qsl(data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except (UnicodeDecodeError, ValueError):
        raise Problem(400, f"The {where} is not percent-encoded UTF-8 with at most 100 fields.") from None


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(400, f"The {what} is not UTF-8 (byte {error.start}).") from None


def _media(content_type: str | None) -> tuple[str, str]:
    message = Message()
    message["content-type"] = content_type or ""
    media = message.get_content_type() if content_type else ""
    return media, str(message.get_param("charset", "") or "").lower()
