"""In a store over HTTP the exported files give the answers that kbtool gives; nothing is left behind, nothing else is touched."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyoxigraph as ox
import pytest
from typer.testing import CliRunner

import kbtool
from kbtool import endpoint, engine
from kbtool.cli import app
from kbtool.endpoint import EndpointError, Store, services, within

FOLDER = Path(__file__).parent / "patients"
AS_OF = "2026-02-10T12:00:00Z"
SAMPLE = ["P01", "P05", "P06", "P14", "P22", "P24", "Mg-17-set-aside", "Refused-dose-unit", "Agreement-same-time"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """`oxigraph serve` in a process of its own, with a fact of somebody else in it."""
    beside = Path(sys.executable).parent / "oxigraph"
    found = str(beside) if beside.is_file() else shutil.which("oxigraph")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("oxigraph is not installed")
        pytest.skip("oxigraph is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([found, "serve", "--bind", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                Store(*services(base), graph="urn:other").update("INSERT DATA { <urn:a> <urn:b> <urn:c> }")
                break
            except EndpointError:
                time.sleep(0.05)
        yield base
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def contents(base: str) -> set[str]:
    """Everything in the store."""
    request = urllib.request.Request(f"{base}/store", headers={"Accept": "application/n-quads"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return set(answer.read().decode().splitlines())


def plain(answer: dict[str, Any]) -> str:
    return json.dumps(answer, sort_keys=True)


def test_the_answers_are_those_of_kbtool_and_nothing_is_left(server: str, kb: kbtool.KnowledgeBase) -> None:
    before = contents(server)
    facts = kb.read(*(FOLDER / f"{name}.ttl" for name in SAMPLE))
    found = list(endpoint.assess(kb, facts, engine.parse_as_of(AS_OF), Store(*services(server))))
    wanted = kb.assess(*(FOLDER / f"{name}.ttl" for name in SAMPLE), as_of=AS_OF)
    assert [r.patient for r in found] == list(wanted.patients)
    for result in found:
        assert plain(result.to_json()) == plain(wanted[result.patient].to_json()), result.patient
        assert {q.triple for q in result.triples} == {q.triple for q in wanted[result.patient].triples}
    assert any(r.refused for r in found)
    assert any(r.data["setAside"] for r in found)
    assert contents(server) == before != set()


def test_in_batches(server: str, kb: kbtool.KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(server)
    kept = engine.batches
    monkeypatch.setattr(engine, "batches", lambda facts: kept(facts, 1))
    facts = kb.read(FOLDER / "P01.ttl", FOLDER / "P22.ttl")
    found = list(endpoint.assess(kb, facts, engine.parse_as_of(AS_OF), Store(*services(server))))
    monkeypatch.undo()
    wanted = kb.assess(FOLDER / "P01.ttl", FOLDER / "P22.ttl", as_of=AS_OF)
    assert [plain(r.to_json()) for r in found] == [plain(wanted[r.patient].to_json()) for r in found]
    assert len(found) == 2
    assert contents(server) == before


def call(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["assess", str(FOLDER / "P01.ttl"), "--as-of", AS_OF, *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_as_usual(server: str) -> None:
    before = contents(server)
    assert call("--endpoint", server) == call()
    assert call("--endpoint", f"{server}/query", "--format", "json") == call("--format", "json")
    both = call("--endpoint", f"{server}/query", "--update-endpoint", f"{server}/update", "--format", "turtle")
    assert both == call("--format", "turtle")
    assert contents(server) == before


def test_kept_it_can_be_asked(server: str) -> None:
    code, _, err = call("--endpoint", server, "--keep")
    assert code == 0
    graph = err.split("the graph ")[1].strip()
    store = Store(*services(server), graph=graph)
    query = "PREFIX cg: <https://w3id.org/kbtool/cg/> SELECT ?r WHERE { ?patient cg:recommended ?r }"
    assert {row["r"].value.rsplit("/", 1)[1] for row in store.query(query)} >= {"AdjustDialysateMagnesium"}
    kb = kbtool.load()
    with pytest.raises(EndpointError, match="already holds something"):
        list(endpoint.assess(kb, kb.read(FOLDER / "P01.ttl"), engine.parse_as_of(AS_OF), store))
    assert store.count() > 0
    store.drop()


def test_a_failure_in_the_middle_leaves_nothing(server: str, kb: kbtool.KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(server)
    monkeypatch.setattr(endpoint, "updates", lambda *_: [("01-wrong.ru", "this is no update")])
    with pytest.raises(EndpointError, match="answered 400"):
        list(endpoint.assess(kb, kb.read(FOLDER / "P01.ttl"), engine.parse_as_of(AS_OF), Store(*services(server))))
    assert contents(server) == before


class _Server(http.server.ThreadingHTTPServer):
    """One that says nothing about clients that went away: the command that runs then would seem to say it."""

    def handle_error(self, *_: object) -> None:
        pass


_BROKEN = {
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nabc",
    "greeting": b"SSH-2.0-OpenSSH\r\n",
}


class _Peer(http.server.BaseHTTPRequestHandler):
    """A store that does not do what it should."""

    seen: dict[str, str] = {}  # noqa: RUF012

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.path.split("/")[1]
        _Peer.seen = dict(self.headers)
        if kind == "slow":
            time.sleep(3)
        if kind in _BROKEN:
            self.wfile.write(_BROKEN[kind])
            self.close_connection = True
            return
        statuses = {"secret": 401, "moved": 302, "broken": 500}
        self.send_response(statuses.get(kind, 200))
        if kind == "moved":
            self.send_header("Location", "http://127.0.0.1:1/")
        body = {
            "words": b"hello",
            "list": b'{"head":{"vars":["x"]},"results":{"bindings":[]}}',
            "deaf": b'{"head":{"vars":["n"]},"results":{"bindings":[{"n":{"type":"literal","value":"0"}}]}}',
        }.get(kind, b"")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), _Peer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("secret", "KBTOOL_ENDPOINT_AUTHORIZATION"),
        ("moved", "answered 302"),
        ("broken", "answered 500"),
        ("words", "not SPARQL results"),
        ("slow", "no answer within 0.5 s"),
        ("deaf", "should have"),
        ("list", "is no number"),
        ("cut", "breaks off"),
        ("chunk", "breaks off"),
        ("greeting", "does not speak HTTP"),
    ],
)
def test_a_store_that_does_something_else_is_an_error(peer: str, kind: str, said: str) -> None:
    code, out, err = call("--endpoint", f"{peer}/{kind}", "--timeout", "0.5" if kind == "slow" else "20")
    assert code == 2
    assert said in err
    assert "patient/P01" not in out + err


def test_what_is_not_there_is_said() -> None:
    code, _, err = call("--endpoint", "http://127.0.0.1:1")
    assert code == 2
    assert "refused" in err.lower()
    assert call("--endpoint", "file:///etc")[0] == 2
    assert call("--endpoint", "http://127.0.0.1:1", "--explain")[0] == 2
    assert call("--endpoint", "http://127.0.0.1:1", "--format", "html")[0] == 2


def test_the_authorisation_comes_from_the_environment(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call("--endpoint", f"{peer}/deaf")
    assert "Authorization" not in _Peer.seen
    monkeypatch.setenv("KBTOOL_ENDPOINT_AUTHORIZATION", "Bearer abc")
    call("--endpoint", f"{peer}/deaf")
    assert _Peer.seen["Authorization"] == "Bearer abc"


def test_a_patient_without_an_iri_is_said(server: str, tmp_path: Path) -> None:
    text = (FOLDER / "P01.ttl").read_text(encoding="utf-8").replace("ex:P01", "[]")
    (tmp_path / "x.ttl").write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["assess", str(tmp_path / "x.ttl"), "--as-of", AS_OF, "--endpoint", server])
    assert result.exit_code == 2
    assert "no IRI" in result.stderr


def test_services_are_found() -> None:
    for given in ("http://h", "http://h/", "http://h/query", "http://h/update"):
        assert services(given) == ("http://h/query", "http://h/update")
    assert services("http://h/ds/sparql") == ("http://h/ds/query", "http://h/ds/update")
    assert services("http://h/q", "http://h/u") == ("http://h/q", "http://h/u")
    assert services("http://h/ds/query?x=1/a") == ("http://h/ds/query?x=1/a", "http://h/ds/update?x=1/a")


@pytest.mark.parametrize(
    "url", ["http://h:abc/", "http://h:99999/", "http://h/a b", "http://[::1/query", "http:///x", "http://h/#a"]
)
def test_what_is_no_address_is_said(url: str) -> None:
    for words in (["--endpoint", url], ["--endpoint", "http://127.0.0.1:1", "--update-endpoint", url]):
        code, out, err = call(*words)
        assert (code, out) == (2, "")
        assert "is no address" in err


@pytest.mark.parametrize("url", ["http://me:secret@h/query", "http://me:se/secret@h", "me:secret@h", "http://me:se?secret@h/"])
def test_no_password_is_printed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = call("--endpoint", url)
    assert code == 2
    assert "secret" not in out + err
    if url.endswith("/query"):
        assert "KBTOOL_ENDPOINT_AUTHORIZATION" in err
    monkeypatch.setenv("KBTOOL_ENDPOINT_AUTHORIZATION", "Bearer secret\n")
    code, out, err = call("--endpoint", "http://127.0.0.1:1")
    assert code == 2
    assert "line break" in err
    assert "secret" not in out + err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(seconds: str) -> None:
    code, out, err = call("--endpoint", "http://127.0.0.1:1", "--timeout", seconds)
    assert (code, out) == (2, "")
    assert "more than 0" in err


@pytest.mark.parametrize("words", [["--keep"], ["--update-endpoint", "http://h/update"], ["--timeout", "120"]])
def test_what_is_for_a_store_needs_one(words: list[str]) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert f"{words[0]} is for a store" in err


# --- Something in front of the store ------------------------------------------------------------------


class _Front(http.server.BaseHTTPRequestHandler):
    """What stands in front of a store, and spoils the requests that hold some words, as often as is said."""

    store = words = kind = ""
    times = 0
    reached = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hit = _Front.words.encode() in body and _Front.times > 0
        _Front.times -= hit
        kind = _Front.kind if hit else ""
        if kind == "close":
            self.close_connection = True
            return
        if kind == "late":
            _Front.reached.set()
            time.sleep(1)
        status, media, data = 200, "text/html" if kind in ("page", "honest page") else "text/plain", b"hello"
        if kind == "refused":
            status = 500
        elif kind not in ("empty", "page"):
            headers = {name: self.headers[name] for name in ("Content-Type", "Accept")}
            request = urllib.request.Request(_Front.store + self.path, body, headers)  # noqa: S310
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                data = answer.read()
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def fronts(server: str) -> Iterator[str]:
    front = _Server(("127.0.0.1", 0), _Front)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    _Front.store = server
    yield f"http://127.0.0.1:{front.server_port}"
    front.shutdown()
    front.server_close()


@pytest.fixture
def front(fronts: str, server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of one that is not impatient; the store is as before when the test is over."""
    monkeypatch.setattr(endpoint, "_WAITS", (0, 0.1, 0.1, 0.1))
    before = contents(server)
    yield fronts
    _Front.times = 0
    for graph in {line.split(" <")[-1].rstrip("> .") for line in contents(server) - before}:
        Store(*services(server), graph=graph).drop()


def spoil(words: str, kind: str, times: int = 1) -> None:
    _Front.words, _Front.kind, _Front.times = words, kind, times
    _Front.reached.clear()


_CG = "> <https://w3id.org/kbtool/cg"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("22-derive-20-prohibitions.ru", "empty"),
        ("22-derive-20-prohibitions.ru", "page"),
        ("28-derive-80-openers.ru", "empty"),
        (f'{_CG}/reportedValue> "', "empty"),
        (f"{_CG}/setAside> <", "empty"),
        ("DELETE DATA", "empty"),
        (f"{_CG}/asOf> ", "empty"),
    ],
)
def test_an_update_that_was_only_answered_is_an_error(
    server: str, front: str, kb: kbtool.KnowledgeBase, words: str, kind: str
) -> None:
    before = contents(server)
    facts = kb.read(FOLDER / "P01.ttl", FOLDER / "Mg-17-set-aside.ttl")
    spoil(words, kind)
    with pytest.raises(EndpointError, match=r"carry it out|carried out|left out an update") as caught:
        list(endpoint.assess(kb, facts, engine.parse_as_of(AS_OF), Store(*services(front))))
    assert _Front.times == 0
    assert ("login page" in str(caught.value)) or "asOf" in words
    assert "nothing is left in the graph <https://w3id.org/kbtool/run/" in str(caught.value)
    assert contents(server) == before


def test_a_store_that_answers_updates_with_pages_is_believed_when_it_did_them(server: str, front: str) -> None:
    before = contents(server)
    spoil("INSERT", "honest page", 1000)
    assert call("--endpoint", front) == call()
    assert _Front.times < 1000
    assert contents(server) == before


@pytest.mark.parametrize("kind", ["refused", "close", "empty", "page"])
def test_a_graph_that_stays_is_named(server: str, front: str, kind: str) -> None:
    before = contents(server)
    spoil("DROP", kind)
    assert call("--endpoint", front) == call()
    assert contents(server) == before
    spoil("DROP", kind, 1000)
    code, out, err = call("--endpoint", front)
    assert (code, out) == (2, "")
    (left,) = {line.split(" <")[-1].rstrip("> .") for line in contents(server) - before}
    assert f"may still be in the store ({'it has' if kind in ('empty', 'page') else 'http'}" in err
    assert f"DROP GRAPH <{left}>" in err
    assert "patient/P01" not in err


def test_both_errors_are_said(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "updates", lambda *_: [("01-wrong.ru", "this is no update")])
    spoil("this is no update", "refused")
    _, _, err = call("--endpoint", front)
    assert "answered 500" in err
    assert "nothing is left" in err
    monkeypatch.setattr(endpoint, "updates", lambda *_: [("01-wrong.ru", "DROP this")])
    spoil("DROP", "refused", 1000)
    code, _, err = call("--endpoint", front)
    assert code == 2
    assert err.index("answered 500") < err.index("may still be in the store") < err.rindex("answered 500")


def test_a_kept_graph_is_named_when_a_step_fails(server: str, front: str) -> None:
    before = contents(server)
    spoil("22-derive-20-prohibitions.ru", "refused")
    code, _, err = call("--endpoint", front, "--keep")
    assert code == 2
    assert "answered 500" in err
    (left,) = {line.split(" <")[-1].rstrip("> .") for line in contents(server) - before}
    assert f"DROP GRAPH <{left}>" in err


def test_an_update_that_lands_late_is_dropped_or_told(server: str, front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(server)
    monkeypatch.setattr(endpoint, "_WAITS", (0, 0.5, 0.5, 0.5))
    spoil("reportedValue", "late")
    code, _, err = call("--endpoint", front, "--timeout", "0.5")
    assert code == 2
    assert "no answer within 0.5 s" in err
    assert "nothing is left" in err
    assert contents(server) == before
    spoil("reportedValue", "close")
    code, _, err = call("--endpoint", front)
    assert code == 2
    assert "may still be carried out); drop it: DROP GRAPH <" in err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_drops_the_graph(server: str, front: str, name: str) -> None:
    before = contents(server)
    handlers = [signal.getsignal(getattr(signal, each)) for each in ("SIGTERM", "SIGHUP", "SIGINT")]
    spoil("22-derive-20-prohibitions.ru", "late")
    words = ["assess", str(FOLDER / "P01.ttl"), "--as-of", AS_OF, "--endpoint", front]
    interruptible = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{interruptible}; from kbtool.cli import run; run()"
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert _Front.reached.wait(30)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert (out, err) == ("", "")
    assert contents(server) == before
    assert call("--endpoint", server)[0] == 0
    assert [signal.getsignal(getattr(signal, each)) for each in ("SIGTERM", "SIGHUP", "SIGINT")] == handlers


def test_an_update_is_kept_to_its_graph() -> None:
    good = (
        'PREFIX a: <urn:insert>\nINSERT { ?s a:p "DELETE" } # DROP\nWHERE { ?s ?p ?o } ;\nINSERT { ?s a:q ?o } WHERE { ?s ?p ?o }'
    )
    kept = within(good, "urn:g", "x.ru")
    store = ox.Store()
    store.add(ox.Quad(ox.NamedNode("urn:s"), ox.NamedNode("urn:p"), ox.NamedNode("urn:o"), ox.NamedNode("urn:g")))
    store.add(ox.Quad(ox.NamedNode("urn:t"), ox.NamedNode("urn:p"), ox.NamedNode("urn:o")))
    store.update(kept)
    assert len(list(store.quads_for_pattern(None, None, None, ox.NamedNode("urn:g")))) == 4
    assert len(list(store.quads_for_pattern(None, None, None, ox.DefaultGraph()))) == 1
    for bad in ("DELETE { ?s ?p ?o } WHERE { ?s ?p ?o }", "x INSERT { ?s ?p ?o } WHERE {}", "CLEAR ALL", good + " ; DROP ALL"):
        with pytest.raises(EndpointError):
            within(bad, "urn:g", "x.ru")
