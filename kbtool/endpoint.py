"""Assess patients in a SPARQL 1.1 store of the user's, over HTTP: the files of `kbtool export` run there, the answers come back.

Knowledge and facts go into a graph of the run, which nothing else in the store can be mixed up with and which is dropped at the
end. The updates are the exported ones with `WITH <graph>` before each INSERT, the queries get the graph as their default graph.
After each step that moves data the store is asked how many triples it has, and each update leaves a triple that proves it was
carried out: a store that ignores the graph or an update, or cuts an answer off, is an error and never a shorter answer. At the
end the store is asked whether the graph is gone; where it may not be, the error names it.
"""

from __future__ import annotations

import http.client
import os
import re
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
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
_WAITS = (0, 0.5, 1, 2)
_DONE = ox.NamedNode(f"{RUNS}carriedOut")
_PAGES = ("text/html", "application/xhtml+xml")
_NOT_DONE_YET = (502, 503, 504)
_ACCEPT = "application/sparql-results+json"
_UPDATES = re.compile(r"^INSERT\b", re.MULTILINE)
_OPERATIONS = re.compile(r"\b(?:INSERT|DELETE|LOAD|CLEAR|DROP|CREATE|COPY|MOVE|ADD|WITH|USING|GRAPH)\b", re.IGNORECASE)
_NOT_CODE = re.compile(r'"(?:[^"\\\n]|\\.)*"|<[^<>\s]*>|#[^\n]*')


class EndpointError(Exception):
    """The store cannot be used. The message says what it answered and what to do."""


class _RefusedError(EndpointError):
    """The store said no, and will not carry the request out later."""


@dataclass
class Store:
    """One graph of a SPARQL 1.1 store. It has the methods of a pyoxigraph Store that validation uses.

    query_url, update_url: of the two services. timeout: seconds for each request. proofs: the triples that the updates left in
    the graph, with the updates' names. late: the proof of an update that got no answer, and may be carried out later. Raises
    EndpointError for a URL that cannot be used.
    """

    query_url: str
    update_url: str
    graph: str = field(default_factory=lambda: f"{RUNS}{uuid.uuid4()}")
    timeout: float = TIMEOUT
    proofs: dict[ox.Quad, str] = field(default_factory=dict)
    late: ox.Quad | None = None

    def __post_init__(self) -> None:
        for url in (self.query_url, self.update_url):
            _check_url(url)

    def query(self, query: str) -> Any:
        """The results of a query on the graph, as pyoxigraph gives them."""
        data, _ = self._send(self.query_url, "application/sparql-query", query, {"default-graph-uri": self.graph}, _ACCEPT)
        try:
            return ox.parse_query_results(data, ox.QueryResultsFormat.JSON)
        except (SyntaxError, ValueError) as error:
            where = _shown(self.query_url)
            raise EndpointError(f"{where}: the answer to a query is not SPARQL results in JSON: {error}") from None

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
            self.carry_out("INSERT DATA", f"INSERT DATA {{ GRAPH <{self.graph}> {{\n{lines}\n}} }}")

    def remove(self, quad: ox.Quad) -> None:
        """Take a triple out of the graph."""
        self.carry_out("DELETE DATA", f"DELETE DATA {{ GRAPH <{self.graph}> {{ {quad.triple} }} }}")

    def update(self, update: str) -> bool:
        """Run an update as it stands. Tells whether the answer is a web page: of the store, or of something in front of it."""
        _, kind = self._send(self.update_url, "application/sparql-update", update, {}, "*/*")
        return kind in _PAGES

    def carry_out(self, name: str, update: str) -> None:
        """Run an update that leaves a proof in the graph; `all` asks for the proofs. name: of the update, for messages."""
        numbered = f"{len(self.proofs) + 1} {name}"
        proof = ox.Quad(ox.NamedNode(self.graph), _DONE, ox.Literal(numbered))
        self.proofs[proof] = numbered
        self.late = proof
        try:
            page = self.update(f"{update}\n;\nINSERT DATA {{ GRAPH <{self.graph}> {{ {proof.triple} }} }}")
        except _RefusedError:
            del self.proofs[proof]
            self.late = None
            raise
        self.late = None
        if page and not self._holds(proof):
            raise EndpointError(
                f"{_shown(self.update_url)}: answered update {numbered} with a web page (text/html) and did not carry it out; "
                "look at what this address shows: a login page, or a gateway in between?"
            )

    def count(self) -> int:
        """How many triples the graph has."""
        try:
            (row,) = self.query("SELECT (COUNT(*) AS ?n) WHERE { ?s ?p ?o }")
            return int(row["n"].value)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise EndpointError(f"{_shown(self.query_url)}: the answer to how many triples there are is no number") from None

    def all(self) -> list[ox.Quad]:
        """Every triple of the graph but the proofs. Raises EndpointError where not all arrived, or an update was not run."""
        query = "CONSTRUCT { ?s ?p ?o } WHERE { ?s ?p ?o }"
        sent = {"default-graph-uri": self.graph}
        data, _ = self._send(self.query_url, "application/sparql-query", query, sent, "application/n-triples")
        try:
            found = list(ox.parse(data, ox.RdfFormat.N_TRIPLES))
        except (SyntaxError, ValueError) as error:
            where = _shown(self.query_url)
            raise EndpointError(f"{where}: the answer to a CONSTRUCT query is not N-Triples: {error}") from None
        there = set(found)
        self.expect(there)
        missing = [name for proof, name in self.proofs.items() if proof not in there]
        if missing:
            raise EndpointError(
                f"{_shown(self.update_url)}: answered as if all {len(self.proofs)} updates were carried out, and {len(missing)} "
                f"were not, the first of them {missing[0]}; is there a login page, a gateway or a cache in between?"
            )
        return [quad for quad in found if quad.predicate != _DONE]

    def expect(self, quads: Collection[ox.Quad]) -> None:
        """Raise EndpointError where the graph has another number of triples. Numbers may be the same for a store however they
        are written."""
        there = self.count()
        if not _distinct(quads) <= there <= len(quads):
            raise EndpointError(
                f"{_shown(self.query_url)}: the graph of the run has {there} triples and should have {len(quads)}; either the "
                "store does not follow default-graph-uri and GRAPH (SPARQL 1.1 Protocol), or cut an answer off, or left out "
                "an update, or others wrote there"
            )

    def drop(self) -> None:
        """Leave nothing behind. Raises EndpointError, with the name of the graph, where that is not sure."""
        landed, emptied = self._patiently(self._landed), self._patiently(self._emptied)
        if landed or emptied:
            raise EndpointError(
                f"the graph <{self.graph}> with patient facts may still be in the store ({emptied or landed}); "
                f"drop it: DROP GRAPH <{self.graph}>"
            )
        self.proofs.clear()
        self.late = None

    def _patiently(self, attempt: Callable[[], str]) -> str:
        """What the last of some attempts says is wrong; nothing where one went well."""
        trouble, end = "", time.monotonic() + max(self.timeout, sum(_WAITS))
        for wait in _WAITS:
            try:
                time.sleep(wait)
                trouble = attempt()
            except EndpointError as error:
                trouble = str(error)
            except (KeyboardInterrupt, SystemExit):
                return "stopped while it was dropped"
            if not trouble or time.monotonic() > end:
                break
        return trouble

    def _landed(self) -> str:
        if self.late is None or self._holds(self.late):
            return ""
        return "a request that was not answered may still be carried out"

    def _emptied(self) -> str:
        try:
            self.update(f"DROP SILENT GRAPH <{self.graph}>")
        except EndpointError:
            if self.proofs:
                raise
        there = self.count()
        return f"it has {there} triples after it was dropped" if there else ""

    def _holds(self, quad: ox.Quad) -> bool:
        answer = self.query(f"ASK {{ {quad.triple} }}")
        return isinstance(answer, ox.QueryBoolean) and bool(answer)

    def _send(self, url: str, kind: str, body: str, parameters: dict[str, str], accept: str) -> tuple[bytes, str]:
        """The body of an answer and its media type."""
        where = _shown(url)
        if parameters:
            url += ("&" if "?" in url else "?") + urllib.parse.urlencode(parameters)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Accept": accept}
        if AUTHORIZATION in os.environ:
            headers["Authorization"] = os.environ[AUTHORIZATION]
            if not re.fullmatch(r"[\t -~]*", headers["Authorization"]):
                raise EndpointError(f"{AUTHORIZATION}: holds a line break or another character that no header can hold")
        try:
            request = urllib.request.Request(url, body.encode(), headers)  # noqa: S310 - the scheme is checked at the beginning
            with _OPENER.open(request, timeout=self.timeout) as answer:
                return answer.read(), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            error.close()
            hint = f"; set {AUTHORIZATION}" if error.code in (401, 403) else ""
            refused = EndpointError if error.code in _NOT_DONE_YET else _RefusedError
            raise refused(f"{where}: answered {error.code} {error.reason}{hint}") from None
        except TimeoutError:
            raise EndpointError(f"{where}: no answer within {self.timeout:g} s; see --timeout") from None
        except http.client.IncompleteRead:
            raise EndpointError(
                f"{where}: the answer breaks off; look at the log of the store, or of what is in front of it"
            ) from None
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "reason", error)
            late = isinstance(reason, TimeoutError)
            raise EndpointError(f"{where}: " + (f"no answer within {self.timeout:g} s" if late else str(reason))) from None
        except http.client.HTTPException:
            raise EndpointError(f"{where}: what answers does not speak HTTP; look at host and port") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected update would become a query, and take the authorisation elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Do not follow."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def services(endpoint: str, update_endpoint: str | None = None) -> tuple[str, str]:
    """The URLs for queries and updates: given both, or /query and /update below the one that is given."""
    if update_endpoint is not None:
        return endpoint, update_endpoint
    address, mark, parameters = endpoint.partition("?")
    base = re.sub(r"/(query|sparql|update)/?$", "", address.rstrip("/"))
    return f"{base}/query{mark}{parameters}", f"{base}/update{mark}{parameters}"


def _check_url(url: str) -> None:
    """Raise EndpointError for a URL to which nothing can be sent, before anything is."""
    if not url.startswith(("http://", "https://")):
        raise EndpointError(f"{_shown(url)}: an endpoint begins with http:// or https://")
    try:
        parts = urllib.parse.urlsplit(url)
        fits = bool(parts.hostname) and parts.port != 0 and re.fullmatch(r"[!-~]+", url) and "#" not in url
    except ValueError:
        fits = False
    if not fits:
        raise EndpointError(f"{_shown(url)}: is no address; write http://HOST:PORT/PATH, without spaces and #, the rest as %XX")
    if "@" in parts.netloc:
        raise EndpointError(
            f"{_shown(url)}: name and password do not belong in the address; put the header into the environment variable "
            f"{AUTHORIZATION}, as in 'Basic ...' or 'Bearer ...'"
        )


def _shown(url: str) -> str:
    """A URL for messages, without what could be a secret."""
    return re.sub(r"^(\w+://)?.*@", r"\1***@", url, flags=re.DOTALL).partition("?")[0]


def updates(kb: KnowledgeBase, graph: str) -> Iterator[tuple[str, str]]:
    """Names and texts of the exported update files, in order, for a graph. Raises EndpointError for one that cannot be kept to
    it."""
    with tempfile.TemporaryDirectory() as folder:
        names = export(kb, Path(folder) / "steps")
        for name in names:
            if name.endswith(".ru"):
                yield name, within((Path(folder) / "steps" / name).read_text(encoding="utf-8"), graph, name)


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

    keep: leave the graph of the last batch, with everything that was derived. Raises EndpointError, which names the graph and
    says whether something may be left in it.
    """
    if store.count():
        raise EndpointError(
            f"{_shown(store.query_url)}: the graph {store.graph} already holds something; drop it, or name another"
        )
    nameless = [record for group in facts.groups for record in group if isinstance(record.patient, ox.BlankNode)]
    if nameless:
        raise EndpointError("a patient has no IRI of its own, so that no answer could be found in the store; give it one")
    steps = list(updates(kb, store.graph))
    batches = list(engine.batches(facts))
    for number, batch in enumerate(batches, 1):
        kept = keep and number == len(batches)
        try:
            answers = list(_batch(kb, batch, as_of, store, steps, strict))
        except BaseException as error:
            _clear(store, error, keep=kept)
            raise
        if not kept:
            store.drop()
        yield from answers


def _clear(store: Store, error: BaseException, *, keep: bool) -> None:
    """Drop the graph after an error. Raises EndpointError, which also says what became of the graph, where there is something to
    say."""
    said = str(error) if isinstance(error, EndpointError) else f"stopped ({type(error).__name__})"
    if keep:
        left = f"--keep leaves the graph <{store.graph}>, which may hold patient facts; to drop it: DROP GRAPH <{store.graph}>"
        raise EndpointError(f"{said}; {left}") from error
    try:
        store.drop()
    except EndpointError as also:
        raise EndpointError(f"{said}; {also}") from error
    if isinstance(error, EndpointError):
        raise EndpointError(f"{said}; nothing is left in the graph <{store.graph}>") from error


def _batch(
    kb: KnowledgeBase, batch: list[PatientFacts], as_of: ox.Literal, store: Store, steps: list[tuple[str, str]], strict: bool
) -> Iterator[PatientResult]:
    knowledge = kb.knowledge
    sent = {*map(_named, knowledge.graph), *(quad for record in batch for quad in record.triples)}
    sent.add(ox.Quad(CG["Run"], CG["asOf"], as_of))
    store.extend(sorted(sent, key=str))
    store.expect({*sent, *store.proofs})
    checked = engine.check(cast("ox.Store", store), knowledge, batch, strict=strict)
    store.extend(quad for record in batch for quad in record.reported)
    for name, step in steps:
        store.carry_out(name, step)
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
