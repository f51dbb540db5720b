"""Assess patients in a SPARQL 1.1 store of the user's, over HTTP: the files of `kbtool export` run there, the answers come back.

Knowledge and facts go into a graph of the run, which nothing else in the store can be mixed up with and which is dropped at the
end. The updates are the exported ones with `WITH <graph>` before each INSERT, the queries get the graph as their default graph.
After each step that moves data the store is asked how many triples it has: a store that ignores the graph, or cuts an
answer off, is an error and never a shorter answer.
"""

from __future__ import annotations

import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pyoxigraph as ox

from kbtool import engine
from kbtool.answer import PatientResult
from kbtool.api import KnowledgeBase
from kbtool.export import export
from kbtool.facts import GENID, Facts, PatientFacts
from kbtool.namespaces import CG, text

RUNS = "https://w3id.org/kbtool/run/"
"""Graphs of runs have names below this."""

AUTHORIZATION = "KBTOOL_ENDPOINT_AUTHORIZATION"
"""The environment variable that holds the Authorization header, so that no secret stands on a command line."""

TIMEOUT = 120.0
"""Seconds that a request may take."""

_AT_ONCE = 5000
_ACCEPT = "application/sparql-results+json"
_UPDATES = re.compile(r"^INSERT\b", re.MULTILINE)
_OPERATIONS = re.compile(r"\b(?:INSERT|DELETE|LOAD|CLEAR|DROP|CREATE|COPY|MOVE|ADD|WITH|USING|GRAPH)\b", re.IGNORECASE)
_NOT_CODE = re.compile(r'"(?:[^"\\\n]|\\.)*"|<[^<>\s]*>|#[^\n]*')


class EndpointError(Exception):
    """The store cannot be used. The message says what it answered and what to do."""


@dataclass
class Store:
    """One graph of a SPARQL 1.1 store. It has the methods of a pyoxigraph Store that validation uses.

    query_url, update_url: of the two services. timeout: seconds for each request.
    """

    query_url: str
    update_url: str
    graph: str = field(default_factory=lambda: f"{RUNS}{uuid.uuid4()}")
    timeout: float = TIMEOUT

    def query(self, query: str) -> Any:
        """The results of a query on the graph, as pyoxigraph gives them."""
        data = self._send(self.query_url, "application/sparql-query", query, {"default-graph-uri": self.graph}, _ACCEPT)
        try:
            return ox.parse_query_results(data, ox.QueryResultsFormat.JSON)
        except (SyntaxError, ValueError) as error:
            raise EndpointError(f"{self.query_url}: the answer to a query is not SPARQL results in JSON: {error}") from None

    def quads_for_pattern(self, subject: Any, predicate: Any, object_: Any, _graph: Any = None) -> Iterator[ox.Quad]:
        """The triples of the graph that fit."""
        given = (subject, predicate, object_)
        names = [str(term) if term is not None else name for term, name in zip(given, ("?s", "?p", "?o"), strict=True)]
        for row in self.query(f"SELECT * WHERE {{ {' '.join(names)} }}"):
            found = [term if term is not None else row[name[1:]] for term, name in zip(given, names, strict=True)]
            yield ox.Quad(*found)

    def add(self, quad: ox.Quad) -> None:
        """Put a triple into the graph."""
        self.extend([quad])

    def extend(self, quads: Iterable[ox.Quad]) -> None:
        """Put triples into the graph."""
        rest = iter(quads)
        while some := list(islice(rest, _AT_ONCE)):
            lines = "\n".join(f"{q.subject} {q.predicate} {q.object} ." for q in some)
            self.update(f"INSERT DATA {{ GRAPH <{self.graph}> {{\n{lines}\n}} }}")

    def remove(self, quad: ox.Quad) -> None:
        """Take a triple out of the graph."""
        self.update(f"DELETE DATA {{ GRAPH <{self.graph}> {{ {quad.subject} {quad.predicate} {quad.object} }} }}")

    def update(self, update: str) -> None:
        """Run an update as it stands."""
        self._send(self.update_url, "application/sparql-update", update, {}, "*/*")

    def count(self) -> int:
        """How many triples the graph has."""
        (row,) = self.query("SELECT (COUNT(*) AS ?n) WHERE { ?s ?p ?o }")
        return int(row["n"].value)

    def all(self) -> list[ox.Quad]:
        """Every triple of the graph. Raises EndpointError where not all arrived."""
        query = "CONSTRUCT { ?s ?p ?o } WHERE { ?s ?p ?o }"
        sent = {"default-graph-uri": self.graph}
        data = self._send(self.query_url, "application/sparql-query", query, sent, "application/n-triples")
        try:
            found = list(ox.parse(data, ox.RdfFormat.N_TRIPLES))
        except (SyntaxError, ValueError) as error:
            raise EndpointError(f"{self.query_url}: the answer to a CONSTRUCT query is not N-Triples: {error}") from None
        self.expect(set(found))
        return found

    def expect(self, quads: Collection[ox.Quad]) -> None:
        """Raise EndpointError where the graph has another number of triples. Numbers may be the same for a store however they
        are written."""
        there = self.count()
        if not _distinct(quads) <= there <= len(quads):
            raise EndpointError(
                f"{self.query_url}: the graph of the run has {there} triples and should have {len(quads)}; either the store "
                "does not follow default-graph-uri and GRAPH (SPARQL 1.1 Protocol), or cut an answer off, or others wrote there"
            )

    def drop(self) -> None:
        """Leave nothing behind."""
        self.update(f"DROP SILENT GRAPH <{self.graph}>")

    def _send(self, url: str, kind: str, body: str, parameters: dict[str, str], accept: str) -> bytes:
        if not url.startswith(("http://", "https://")):
            raise EndpointError(f"{url}: an endpoint begins with http:// or https://")
        if parameters:
            url += ("&" if "?" in url else "?") + urllib.parse.urlencode(parameters)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Accept": accept}
        if AUTHORIZATION in os.environ:
            headers["Authorization"] = os.environ[AUTHORIZATION]
        request = urllib.request.Request(url, body.encode(), headers)  # noqa: S310 - the scheme is checked above
        where = url.partition("?")[0]
        try:
            with _OPENER.open(request, timeout=self.timeout) as answer:
                return cast("bytes", answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            hint = f"; set {AUTHORIZATION}" if error.code in (401, 403) else ""
            raise EndpointError(f"{where}: answered {error.code} {error.reason}{hint}") from None
        except TimeoutError:
            raise EndpointError(f"{where}: no answer within {self.timeout:g} s; see --timeout") from None
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "reason", error)
            late = isinstance(reason, TimeoutError)
            raise EndpointError(f"{where}: " + (f"no answer within {self.timeout:g} s" if late else str(reason))) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected update would become a query, and take the authorisation elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Do not follow."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def services(endpoint: str, update_endpoint: str | None = None) -> tuple[str, str]:
    """The URLs for queries and updates: given both, or /query and /update below the one that is given."""
    if update_endpoint is not None:
        return endpoint, update_endpoint
    base = re.sub(r"/(query|sparql|update)/?$", "", endpoint.rstrip("/"))
    return f"{base}/query", f"{base}/update"


def updates(kb: KnowledgeBase, graph: str) -> Iterator[str]:
    """The exported update files, in order, for a graph. Raises EndpointError for one that cannot be kept to a graph."""
    with tempfile.TemporaryDirectory() as folder:
        names = export(kb, Path(folder) / "steps")
        for name in names:
            if name.endswith(".ru"):
                yield within((Path(folder) / "steps" / name).read_text(encoding="utf-8"), graph, name)


def within(update: str, graph: str, name: str) -> str:
    """An update that reads and writes one graph. Raises EndpointError where that is not sure."""
    operations = len(_OPERATIONS.findall(_NOT_CODE.sub("", update)))
    changed, number = _UPDATES.subn(f"WITH <{graph}> INSERT", update)
    if number != operations:
        raise EndpointError(
            f"{name}: holds something else than INSERT at the beginning of a line, and cannot be kept to one graph"
        )
    return changed


def assess(
    kb: KnowledgeBase, facts: Facts, as_of: ox.Literal, store: Store, *, strict: bool = False, keep: bool = False
) -> Iterator[PatientResult]:
    """Assess patients in a store, in batches that each have the graph for themselves.

    keep: leave the graph of the last batch, with everything that was derived. Raises EndpointError.
    """
    if store.count():
        raise EndpointError(f"{store.query_url}: the graph {store.graph} already holds something; drop it, or name another")
    nameless = [record for group in facts.groups for record in group if isinstance(record.patient, ox.BlankNode)]
    if nameless:
        raise EndpointError("a patient has no IRI of its own, so that no answer could be found in the store; give it one")
    steps = list(updates(kb, store.graph))
    batches = list(engine.batches(facts))
    for number, batch in enumerate(batches, 1):
        try:
            yield from list(_batch(kb, batch, as_of, store, steps, strict))
        finally:
            if not keep or number < len(batches):
                store.drop()


def _batch(
    kb: KnowledgeBase, batch: list[PatientFacts], as_of: ox.Literal, store: Store, steps: list[str], strict: bool
) -> Iterator[PatientResult]:
    knowledge = kb.knowledge
    sent = {*map(_named, knowledge.graph), *(quad for record in batch for quad in record.triples)}
    sent.add(ox.Quad(CG["Run"], CG["asOf"], as_of))
    store.extend(sorted(sent, key=str))
    store.expect(sent)
    checked = engine.check(cast("ox.Store", store), knowledge, batch, strict=strict)
    store.extend(quad for record in batch for quad in record.reported)
    for step in steps:
        store.update(step)
    local = ox.Store()
    local.extend(knowledge.graph)
    local.extend(quad for quad in store.all() if not text(quad.subject).startswith(_KNOWLEDGE))
    return engine.read(local, knowledge, batch, checked)


def _distinct(quads: Iterable[ox.Quad]) -> int:
    store = ox.Store()
    store.extend(quads)
    return len(store)


_KNOWLEDGE = f"{GENID}knowledge/"


def _named(quad: ox.Quad) -> ox.Quad:
    """A triple of the knowledge with IRIs for blank nodes, which would not stay the same from request to request."""

    def named(term: Any) -> Any:
        return ox.NamedNode(f"{_KNOWLEDGE}{term.value}") if isinstance(term, ox.BlankNode) else term

    return ox.Quad(named(quad.subject), quad.predicate, named(quad.object))
