"""Attacks on `kbtool serve`: nothing leaves the machine, nothing runs for ever, nobody stops the others, nothing of a patient is
shown to a stranger. Each attack is a test; the servers have small limits, so that they end soon."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import serving
from serving import AS_OF, DIRECT, FORM, TOKEN, Answer, Served

ROOT = Path(__file__).parent.parent
PATIENT = (ROOT / "tests" / "patients" / "P01.ttl").read_text(encoding="utf-8")
LOOKUP = "SELECT * { <https://w3id.org/kbtool/cg/Patient> ?p ?o }"
ENDED = {400, 413, 503}
IDLE = 11
"""Processes of a server with nothing to do, at most: the server, the keeper, and the children that wait for a job."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("attack")
    limits = ["--time-limit", "1.5", "--memory-limit", "256", "--body-limit", "1", "--row-limit", "2000", "--at-once", "6"]
    with serving.running(folder, *limits) as server:
        yield server


# Nothing leaves the machine


class Listener:
    """Waits on loopback for somebody who should not come."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.hits = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.hits += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                connection.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    waiting = Listener()
    yield waiting
    time.sleep(0.1)
    hits = waiting.hits
    with socket.create_connection(waiting.socket.getsockname()):  # it does hear whoever comes
        assert serving.eventually(lambda: waiting.hits == hits + 1)
    waiting.socket.close()
    assert hits == 0, "a request left the server"


SERVICES = {
    "plain": "SELECT * {{ SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "silent": "SELECT * {{ SERVICE SILENT <{}/> {{ ?s ?p ?o }} }}",
    "mixed case": "SELECT * {{ sErViCe <{}/> {{ ?s ?p ?o }} }}",
    "escaped": "SELECT * {{ \\u0053ERVICE <{}/> {{ ?s ?p ?o }} }}",
    "escaped long": "SELECT * {{ S\\U00000045RVICE <{}/> {{ ?s ?p ?o }} }}",
    "all escaped": "SELECT * {{ \\u0053\\u0045\\u0052\\u0056\\u0049\\u0043\\u0045 <{}/> {{ ?s ?p ?o }} }}",
    "comment between": "SELECT * {{ SERVICE # no\n <{}/> {{ ?s ?p ?o }} }}",
    "comment before": "SELECT * {{ # <\n SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "carriage return ends the comment": "SELECT * {{ # \r SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "escaped end of the comment": "SELECT * {{ # \\u000A SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "no blank": "SELECT * {{SERVICE<{}/>{{?s ?p ?o}}}}",
    "sub-query": "SELECT * {{ {{ SELECT * {{ SERVICE <{}/> {{ ?s ?p ?o }} }} }} }}",
    "exists": "SELECT * {{ ?a ?b ?c FILTER EXISTS {{ SERVICE <{}/> {{ ?s ?p ?o }} }} }}",
    "not exists": "ASK {{ FILTER NOT EXISTS {{ SERVICE <{}/> {{ ?s ?p ?o }} }} }}",
    "minus": "SELECT * {{ ?s ?p ?o MINUS {{ SERVICE SILENT <{}/> {{ ?s ?p ?o }} }} }}",
    "optional": "SELECT * {{ OPTIONAL {{ SERVICE <{}/> {{ ?s ?p ?o }} }} }}",
    "graph": "SELECT * {{ GRAPH ?g {{ SERVICE <{}/> {{ ?s ?p ?o }} }} }}",
    "construct": "CONSTRUCT {{ ?s ?p ?o }} WHERE {{ SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "describe": "DESCRIBE ?s {{ SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "variable": "SELECT * {{ BIND(<{}/> AS ?w) SERVICE ?w {{ ?s ?p ?o }} }}",
    "prefixed": "PREFIX x: <{}/> SELECT * {{ SERVICE x: {{ ?s ?p ?o }} }}",
    "base": "BASE <{}/> SELECT * {{ SERVICE <x> {{ ?s ?p ?o }} }}",
    "after a number": "SELECT * {{ ?s ?p 1.SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "after a variable": "SELECT * {{ ?s ?p ?o.SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "after a boolean": "SELECT * {{ ?s ?p trueSERVICE <{}/> {{ ?s ?p ?o }} }}",
    "after a double": "SELECT * {{ ?s ?p 1e0SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "after a string": "SELECT * {{ ?s ?p 'a'SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "after a language": "SELECT * {{ ?s ?p 'a'@en.SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "after an escaped hash": "PREFIX x: <urn:x:> SELECT * {{ OPTIONAL {{ ?s ?p x:a\\#b . SERVICE <{}/> {{ ?s ?p ?o }} }} }}",
    "after an escaped quote": "PREFIX x: <urn:x:> SELECT * {{ OPTIONAL {{ ?s ?p x:a\\'b . SERVICE <{}/> {{ ?s ?p ?o }} }} }} # '",
    "after a quote in a string": "SELECT * {{ BIND('\"' AS ?x) SERVICE <{}/> {{ ?s ?p ?o }} BIND('\"' AS ?y) }}",
    "after a long string": "SELECT * {{ BIND('''a''b''' AS ?x) SERVICE <{}/> {{ ?s ?p ?o }} }}",
    "after less than": "SELECT * {{ BIND(1 <2 AS ?x) SERVICE <{}/> {{ ?s ?p ?o }} BIND(3> 2 AS ?y) }}",
    "values": "SELECT * {{ VALUES ?w {{ <{}/> }} SERVICE ?w {{ ?s ?p ?o }} }}",
}


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_in_any_spelling(served: Served, listener: Listener, name: str) -> None:
    query = SERVICES[name].format(listener.address)
    ways = [
        served.query(query),
        served.get("/sparql?" + urlencode({"query": query})),
        served.post("/query", json.dumps({"query": query, "facts": PATIENT}), content_type="application/json"),
    ]
    for answer in ways:
        assert answer.status == 400, answer.text
        assert "SERVICE" in answer.detail or "wrong" in answer.detail or "escape" in answer.detail


@pytest.mark.parametrize(
    "query",
    [
        "SELECT ('SERVICE <http://127.0.0.1/>' AS ?x) {}",
        'SELECT ("""a " SERVICE""" AS ?x) {}',
        "SELECT * { <urn:x:SERVICE> ?service $SERVICE } # SERVICE",
        "PREFIX x: <urn:x:> SELECT * { x:service x:hasService x:a }",
    ],
)
def test_the_word_service_is_no_crime(served: Served, query: str) -> None:
    assert served.query(query).status == 200


READS = {
    "FROM": "SELECT * FROM <{}> {{ ?s ?p ?o }}",
    "FROM NAMED": "SELECT * FROM NAMED <{}> {{ GRAPH ?g {{ ?s ?p ?o }} }}",
    "GRAPH": "SELECT * {{ GRAPH <{}> {{ ?s ?p ?o }} }}",
    "DESCRIBE": "DESCRIBE <{}>",
}


@pytest.mark.parametrize("name", READS)
def test_graphs_elsewhere_are_empty(served: Served, listener: Listener, name: str) -> None:
    for place in (f"{listener.address}/data.ttl", (ROOT / "ontology" / "kb.ttl").as_uri(), "file:///etc/passwd"):
        answer = served.query(READS[name].format(place), accept="application/n-triples, text/tab-separated-values")
        assert answer.status == 200
        assert len(answer.text.splitlines()) <= 1, "a graph of another place has something in it"
        for parameter in ("default-graph-uri", "named-graph-uri"):
            asked = urlencode({parameter: place})
            answer = served.query("SELECT * { { ?s ?p ?o } UNION { GRAPH ?g { ?s ?p ?o } } }", path=f"/sparql?{asked}")
            assert answer.json["results"]["bindings"] == []


@pytest.mark.parametrize(
    "update", ["LOAD <{}>", "LOAD SILENT <{}> INTO GRAPH <urn:x:g>", "INSERT {{ ?s ?p ?o }} USING <{}> WHERE {{ ?s ?p ?o }}"]
)
def test_no_load(served: Served, listener: Listener, update: str) -> None:
    for place in (f"{listener.address}/data.ttl", "file:///etc/passwd"):
        text = update.format(place)
        assert served.query(text).status == 400
        for body, kind in ((urlencode({"update": text}), FORM), (text, "application/sparql-update")):
            assert served.post("/sparql", body, content_type=kind).status == 403


def facts_that_call(address: str) -> dict[str, tuple[str, str]]:
    """Facts that would have something fetched, with their media type."""
    patient = {"@id": "urn:x:p", "@type": "https://w3id.org/kbtool/cg/Patient"}
    xml = '<?xml version="1.0"?>{}<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:cg="https://w3id.org/kbtool/cg/">'
    xml += '<cg:Patient rdf:about="urn:x:p"><cg:note>{}</cg:note></cg:Patient></rdf:RDF>'
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "link": [{"relation": "next", "url": f"{address}/next"}],
        "entry": [
            {"fullUrl": f"{address}/Patient/1", "resource": {"resourceType": "Patient", "id": "1"}},
            {
                "fullUrl": f"{address}/Observation/1",
                "resource": {
                    "resourceType": "Observation",
                    "id": "1",
                    "status": "final",
                    "subject": {"reference": f"{address}/Patient/2"},
                    "code": {"coding": [{"system": f"{address}/codes", "code": "1"}]},
                },
            },
        ],
    }
    return {
        "context": ("application/ld+json", json.dumps({"@context": f"{address}/context.jsonld", **patient})),
        "context of a file": ("application/ld+json", json.dumps({"@context": "file:///etc/passwd", **patient})),
        "context import": (
            "application/ld+json",
            json.dumps({"@context": {"@version": 1.1, "@import": f"{address}/c"}, **patient}),
        ),
        "contexts": ("application/ld+json", json.dumps({"@context": [{}, f"{address}/context.jsonld"], **patient})),
        "nested context": (
            "application/ld+json",
            json.dumps({**patient, "urn:x:q": {"@context": f"{address}/c", "@id": "urn:x:o"}}),
        ),
        "imports": ("text/turtle", f"<urn:x:o> <http://www.w3.org/2002/07/owl#imports> <{address}/o.ttl> . {PATIENT}"),
        "entity": ("application/rdf+xml", xml.format(f'<!DOCTYPE r [<!ENTITY e SYSTEM "{address}/e">]>', "&e;")),
        "entity of a file": ("application/rdf+xml", xml.format('<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]>', "&e;")),
        "parameter entity": ("application/rdf+xml", xml.format(f'<!DOCTYPE r [<!ENTITY % e SYSTEM "{address}/e"> %e;]>', "")),
        "DTD": ("application/rdf+xml", xml.format(f'<!DOCTYPE r SYSTEM "{address}/r.dtd">', "")),
        "references": ("application/fhir+json", json.dumps(bundle)),
    }


@pytest.mark.parametrize("name", facts_that_call(""))
def test_facts_fetch_nothing(served: Served, listener: Listener, name: str) -> None:
    kind, facts = facts_that_call(listener.address)[name]
    sent = json.dumps({"query": "SELECT * { ?s ?p ?o }", "facts": facts, "format": kind})
    answers = [
        *(served.post(path, facts, content_type=kind) for path in ("/assess", "/validate", "/explain?rule=x")),
        served.post("/query", sent, content_type="application/json"),
    ]
    for answer in answers:
        assert answer.status in {200, 400, 404, 413, 415, 422}, answer.text
        assert "root:" not in answer.text


@pytest.mark.parametrize(
    "number", ["1e999999999", "1E-999999999", "1e99999999999999999999", "9" * 5000, "0." + "9" * 5000, "-0e999999999"]
)
def test_numbers_that_fill_the_memory(served: Served, number: str) -> None:
    cg = "https://w3id.org/kbtool/cg/"
    observation = {"@type": "https://w3id.org/kbtool/dialysis/SerumMagnesium", cg + "value": "NUMBER", cg + "unit": "mg/dL"}
    document = json.dumps({"@id": "urn:x:p", "@type": cg + "Patient", cg + "hasObservation": observation})
    value = {
        "resourceType": "Observation",
        "status": "final",
        "subject": {"reference": "Patient/1"},
        "valueQuantity": {"value": "NUMBER"},
    }
    coded = value | {"code": {"coding": [{"system": "http://loinc.org", "code": "2601-3"}]}, "effectiveDateTime": AS_OF}
    entries = [{"resource": {"resourceType": "Patient", "id": "1"}}, {"resource": coded}]
    bundle = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries})
    sent = {
        "text/turtle": PATIENT.replace("cg:value 1.4 ", f"cg:value {number} "),
        "application/ld+json": document.replace('"NUMBER"', number),
        "application/fhir+json": bundle.replace('"NUMBER"', number),
    }
    for kind, body in sent.items():
        assert number in body
        for path in ("/assess", "/validate", "/assess?explain=true"):
            answer = served.post(path, body, content_type=kind)
            assert answer.status in (200, 400, 422), (kind, path, answer.text[:300])


# The wall behind the guard

BEFORE = """
import asyncio, json, os, socket, subprocess, sys, time
import pyoxigraph as ox
from kbtool.serve.keeper import JobEndedError, Keeper, Limits, Reply
"""
AFTER = """
def told(job):
    def safe(request):
        try:
            return Reply(200, {}, str(job(request)).encode())
        except (OSError, ValueError, RuntimeError) as error:
            return Reply(400, {}, f"{type(error).__name__} {error}".encode())
    return safe
user, calls = json.loads(sys.argv[1])
keeper = Keeper({name: told(job) for name, job in list(globals().items()) if callable(job)})
if user is not None:
    os.setgroups([])
    os.setuid(user)
keeper.start()
async def main():
    keeper.attach()
    found = []
    for name, seconds, megabytes, *again in calls:
        try:
            reply = await keeper.run(name, {}, b"body", Limits(seconds, megabytes * 2**20, again="".join(again)))
            found.append([reply.status, reply.body.decode()])
        except JobEndedError as ended:
            found.append(["ended", ended.reason])
    print(json.dumps(found))
asyncio.run(main())
"""


def in_keeper(tmp_path: Path, jobs: str, *calls: tuple[Any, ...], user: int | None = None) -> list[Any]:
    """What jobs of a keeper answer, or why they ended. calls: name of a job, seconds, megabytes, and perhaps the kind of jobs
    of which its child may do another one."""
    script = tmp_path / "keep.py"
    script.write_text(BEFORE + textwrap.dedent(jobs) + AFTER, encoding="utf-8")
    command = [sys.executable, str(script), json.dumps([user, calls])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(calls)
    return list(found)


def test_a_job_can_open_nothing(tmp_path: Path, listener: Listener) -> None:
    jobs = f"""
        WHERE = {listener.address!r}
        store = ox.Store()
        left = open({str(tmp_path / "left")!r}, "wb", buffering=0)
        def fine(request): return request.body.decode()
        def read(request): return open("/etc/passwd").read()
        def write(request): return open({str(tmp_path / "new")!r}, "w")
        def write_on(request): return left.write(b"x")
        def connect(request): return socket.create_connection(("127.0.0.1", int(WHERE.rpartition(":")[2])))
        def resolve(request): return socket.getaddrinfo("example.org", 80)
        def pipe(request): return os.pipe()
        def copy(request): return os.dup(1)
        def run(request): return subprocess.run(["true"])
        def look(request): return os.listdir("/")
        def service(request): return list(store.query("SELECT * {{ SERVICE <" + WHERE + "/> {{ ?s ?p ?o }} }}"))
        def load(request): return store.update("LOAD <" + WHERE + "/>")
        def told(request): return os.write(1, b"x") + os.write(2, b"x")
    """
    names = ["fine", "read", "write", "write_on", "connect", "resolve", "pipe", "copy", "run", "look", "service", "load", "fine"]
    fine, *walls, again = in_keeper(tmp_path, jobs, *((name, 5, 100) for name in names))
    assert fine == again == [200, "body"]
    for name, answer in zip(names[1:-1], walls, strict=True):
        assert answer[0] in (400, "ended"), (name, answer)
    assert (tmp_path / "left").read_bytes() == b""
    assert not (tmp_path / "new").exists()


def test_a_job_cannot_fork(tmp_path: Path) -> None:
    jobs = """
        def fork(request):
            child = os.fork()
            if child == 0:
                os._exit(0)
            return os.waitpid(child, 0)
    """
    user = 65534 if os.geteuid() == 0 else None  # the system lets root fork whatever the limit
    (answer,) = in_keeper(tmp_path, jobs, ("fork", 5, 100), user=user)
    assert answer[0] == 400
    assert answer[1].startswith("BlockingIOError")


def test_a_job_is_ended_for_each_reason(tmp_path: Path) -> None:
    jobs = """
        def sleep(request): time.sleep(30)
        def spin(request):
            while True: pass
        def native(request): return ox.Store().query("SELECT (COUNT(*) AS ?n) { " + "".join(
            f"VALUES ?v{n} {{ {' '.join(map(str, range(60)))} }} " for n in range(6)) + "}")
        def fill(request): return len(b"x" * 2**30)
        def deep(request): return ox.Store().query("ASK " + "{" * 10000 + "}" * 10000)
        def leave(request): os._exit(3)
        def kill(request): os.kill(os.getpid(), 9)
        def ignore(request):
            import signal
            for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(each, signal.SIG_IGN)
            time.sleep(30)
        def fine(request): return "fine"
    """
    calls = [("sleep", 0.3, 100), ("spin", 0.3, 100), ("native", 0.5, 100), ("fill", 5, 100), ("deep", 5, 100), ("leave", 5, 100)]
    found = in_keeper(tmp_path, jobs, *calls, ("kill", 5, 100), ("ignore", 0.3, 100), ("fine", 5, 100))
    reasons = [answer[1] for answer in found]
    assert reasons == ["time", "time", "time", "memory", "depth", "lost", "memory", "time", "fine"]


def test_only_a_child_that_may_does_another_job(tmp_path: Path) -> None:
    jobs = """
        def who(request): return os.getpid()
        def fail(request): raise KeyError
        def wait(request): time.sleep(0.8)
        def grow(request): return len(b"x" * 2**26)
        def spin(request):
            while True: pass
    """
    fresh = [("who", 5, 200, "x"), *[("who", 5, 200)] * 4]
    kept = [("who", 5, 200, "x")] * 120
    later = [("wait", 2, 200, "x")] * 3  # longer than the limit, all together
    after = [(name, 0.5 if name == "spin" else 5, 200, "x") for name in ("fail", "who", "grow", "who", "spin", "who")]
    other = [("who", 5, 200, "y"), ("who", 5, 200, "x"), ("who", 5, 200, "y")]
    found = in_keeper(tmp_path, jobs, *fresh, *kept, *later, *after, *other)
    assert len({answer[1] for answer in found[:5]}) == 5, "a child did more than one job"
    workers = [answer[1] for answer in found[5:125]]
    assert max(workers.count(each) for each in workers) <= 50, "a child did too many jobs"
    assert len(set(workers)) < 8, "no child did more than one job"
    assert [answer[0] for answer in found[125:128]] == [200] * 3, "the time of one job was counted for another"
    failed, first, grown, second, spun, third = found[128:134]
    assert (failed[0], grown[0], spun) == (500, 200, ["ended", "time"])
    assert len({first[1], second[1], third[1]}) == 3, "a child went on that had failed, grown or been ended"
    one, another, again = (answer[1] for answer in found[134:])
    assert one == again != another == third[1], "a child did jobs of two kinds"


# Every query ends


def crossed(variables: int, values: int) -> str:
    return " ".join(f"VALUES ?v{n} {{ {' '.join(map(str, range(values)))} }}" for n in range(variables))


HEAVY = {
    "cross product": "SELECT (COUNT(*) AS ?n) { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i }",
    "cross product, all of it": "SELECT * { ?a ?b ?c . ?d ?e ?f }",
    "runaway path": "SELECT (COUNT(*) AS ?n) { ?s (!<urn:x:a>|^!<urn:x:b>)* ?o . ?o (!<urn:x:c>)* ?x }",
    "60^6 rows": f"SELECT (COUNT(*) AS ?n) {{ {crossed(6, 60)} }}",
    "60^6 rows, distinct": f"SELECT DISTINCT * {{ {crossed(6, 60)} }}",
    "36 million rows in order": f"SELECT * {{ {crossed(4, 78)} }} ORDER BY ?v3 ?v2 DESC(?v0)",
    "36 million groups": f"SELECT ?v0 ?v1 ?v2 ?v3 (COUNT(*) AS ?n) {{ {crossed(4, 78)} }} GROUP BY ?v0 ?v1 ?v2 ?v3",
    "too many rows": "SELECT * { ?s ?p ?o } LIMIT 2001",
    "too many triples": "CONSTRUCT { ?s ?p ?o } WHERE { ?s ?p ?o }",
    "exploding graph": "CONSTRUCT { ?a ?e ?f . ?d ?b ?c . [ ?b ?f ] } WHERE { ?a ?b ?c . ?d ?e ?f }",
    "huge description": "DESCRIBE * { ?s ?p ?o }",
    "nested groups": "ASK " + "{" * 10_000 + "}" * 10_000,
    "nested parentheses": "ASK { FILTER(" + "(" * 10_000 + "1" + ")" * 10_000 + ") }",
    "nested lists": "ASK { ?s ?p " + "(" * 10_000 + ")" * 10_000 + " }",
    "nested nodes": "ASK { ?s ?p " + "[ ?p " * 10_000 + "1" + "]" * 10_000 + " }",
    "nested sub-queries": "SELECT * " + "{ SELECT * " * 10_000 + "{}" + "}" * 10_000,
    "nested optionals": "SELECT * { " + "OPTIONAL { " * 10_000 + "}" * 10_000 + " }",
    "nested exists": "ASK { " + "FILTER EXISTS { " * 5_000 + "}" * 5_000 + " }",
    "nested calls": "SELECT (" + "STR(" * 10_000 + "1" + ")" * 10_000 + " AS ?x) {}",
    "nested nots": "ASK { FILTER(" + "!" * 100_000 + "true) }",
    "nested minus signs": "SELECT (" + "- " * 50_000 + "1 AS ?x) {}",
    "nested inverse paths": "ASK { ?s " + "^(" * 10_000 + "<urn:x:p>" + ")" * 10_000 + " ?o }",
    "long and": "ASK { FILTER(" + "true && " * 50_000 + "true) }",
    "long or": "ASK { FILTER(" + "false || " * 50_000 + "true) }",
    "long sum": "SELECT (" + "1 + " * 50_000 + "1 AS ?x) {}",
    "long union": "ASK { " + "{ ?s ?p 1 } UNION " * 30_000 + "{ ?s ?p 2 } }",
    "long minus": "ASK { ?s ?p ?o " + "MINUS { ?s ?p 1 } " * 30_000 + "}",
    "long path": "ASK { ?s " + "<urn:x:p>/" * 30_000 + "<urn:x:p> ?o }",
    "long alternative": "ASK { ?s " + "<urn:x:p>|" * 30_000 + "<urn:x:p> ?o }",
    "doubling string": "SELECT (STRLEN(?a28) AS ?n) { BIND('xxxxxxxxxxxxxxxx' AS ?a0) "
    + " ".join(f"BIND(CONCAT(?a{n}, ?a{n}) AS ?a{n + 1})" for n in range(28))
    + " }",
    "growing string": "SELECT (STRLEN(?a9) AS ?n) { BIND('aaaaaaaaaa' AS ?a0) "
    + " ".join(f"BIND(REPLACE(?a{n}, 'a', 'aaaaaaaaaa') AS ?a{n + 1})" for n in range(9))
    + " }",
    "huge concatenation": "SELECT (GROUP_CONCAT(STR(?c); separator=STR(?f)) AS ?x) { ?a ?b ?c . ?d ?e ?f }",
    "everything sampled": "SELECT ?s (GROUP_CONCAT(?o) AS ?x) (SAMPLE(?p) AS ?y) { ?s ?p ?o . ?t ?q ?r } GROUP BY ?s",
    "regex over everything": "SELECT (COUNT(*) AS ?n) { ?a ?b ?c . ?d ?e ?f FILTER(REGEX(CONCAT(STR(?c), STR(?f)), '(a+)+$')) }",
    "hashes": "SELECT (COUNT(?x) AS ?n) { ?a ?b ?c . ?d ?e ?f BIND(SHA512(CONCAT(STR(?c), STR(?f))) AS ?x) }",
    "a big query": "ASK { " + "?s ?p ?o . " * 90_000 + "}",
    "many values": f"SELECT * {{ VALUES ?x {{ {'1 ' * 400_000} }} }} ORDER BY ?x",
}


@pytest.mark.parametrize("name", HEAVY)
def test_every_query_ends_while_others_are_answered(served: Served, name: str) -> None:
    with ThreadPoolExecutor() as pool:
        attacks = [pool.submit(served.query, HEAVY[name], accept_encoding="gzip") for _ in range(2)]
        others, began = [], time.monotonic()
        while not all(attack.done() for attack in attacks) or not others:
            others.append(served.query(LOOKUP).status)
            assert time.monotonic() - began < 20
            time.sleep(0.02)
    assert set(others) == {200}
    for attack in attacks:
        answer = attack.result()
        assert answer.status in ENDED, (answer.status, answer.body[:300])
        assert re.search(r"limit|larger|more than|nested|deep|wrong", answer.detail), answer.detail


@pytest.mark.parametrize(
    "pattern",
    ["(a*)*b", "(a|aa)+$", "((a{0,100}){0,100}){0,100}b", "(?=a)b", "(a)\\\\1", "[a-z]{1,1000}" * 20, "(" * 500 + ")" * 500],
)
def test_regular_expressions_do_not_blow_up(served: Served, pattern: str) -> None:
    query = f"SELECT (REGEX('{'a' * 5000}', '{pattern}') AS ?x) {{}}"
    answer = served.query(query)
    assert answer.status in {200, *ENDED}
    if answer.status == 200:
        assert answer.json["results"]["bindings"] in (
            [{}],
            [{"x": BOOLEAN | {"value": "true"}}],
            [{"x": BOOLEAN | {"value": "false"}}],
        )


BOOLEAN = {"type": "literal", "datatype": "http://www.w3.org/2001/XMLSchema#boolean"}


def test_limits_are_where_they_are_said_to_be(served: Served) -> None:
    for form in ("SELECT * { ?s ?p ?o } LIMIT {}", "CONSTRUCT { ?s ?p ?o } WHERE { ?s ?p ?o } LIMIT {}"):
        for accept in ("application/json", "text/csv, text/turtle", "application/sparql-results+xml, application/rdf+xml"):
            assert served.query(form.replace("{}", "2000"), accept=accept).status == 200
            if form.startswith("SELECT"):
                answer = served.query(form.replace("{}", "2001"), accept=accept)
                assert answer.status == 413
                assert "2000 rows" in answer.detail


def test_when_all_places_are_taken_it_says_so(served: Served) -> None:
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda _: served.query(HEAVY["60^6 rows"]), range(30)))
    assert {answer.status for answer in found} == {503}
    assert any("at once" in answer.detail for answer in found)
    assert all(answer.headers.get("retry-after") for answer in found if "at once" in answer.detail)
    assert served.query(LOOKUP).status == 200


def idle(served: Served) -> bool:
    return serving.eventually(lambda: len(served.processes()) <= IDLE and not served.working())


def test_children_are_gone_afterwards(served: Served) -> None:
    served.query(HEAVY["60^6 rows"])
    served.query(HEAVY["nested nots"])
    served.query(HEAVY["doubling string"])
    assert idle(served)


def test_a_query_ends_when_its_client_goes(tmp_path: Path) -> None:
    with serving.running(tmp_path, "--time-limit", "60", "--at-once", "4") as served:
        assert idle(served)
        for _ in range(3):  # more than there are places for
            clients = [served.socket() for _ in range(3)]
            for client in clients:
                body = HEAVY["60^6 rows"].encode()
                client.sendall(f"POST /sparql HTTP/1.1\r\nHost: localhost\r\nContent-Type: {DIRECT}\r\n".encode())
                client.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert serving.eventually(lambda: len(served.working()) == 3)
            for client in clients:
                client.close()
            assert idle(served)
        assert served.query(LOOKUP).status == 200
        assert "499" in served.log


def test_nothing_outlives_a_killed_server(tmp_path: Path) -> None:
    with serving.running(tmp_path, "--time-limit", "60") as served, ThreadPoolExecutor() as pool:
        running = pool.submit(served.query, HEAVY["60^6 rows"])
        assert serving.eventually(served.working)
        served.stop(signal.SIGKILL)
        assert served.all_gone()
        with pytest.raises(OSError):  # noqa: PT011
            running.result()


def test_the_service_ends_with_its_keeper(tmp_path: Path) -> None:
    with serving.running(tmp_path) as served:
        assert served.query(LOOKUP).status == 200
        keeper = sorted(served.processes())[1]
        os.kill(keeper, signal.SIGKILL)
        assert served.process.wait(30) == 2, "a service that can answer nothing goes on"
        assert served.all_gone()
        assert "has ended" in served.log


def test_few_file_handles_are_no_defect(tmp_path: Path) -> None:
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))"
    with serving.running(tmp_path, prelude=few) as served:
        with contextlib.ExitStack() as stack:
            for _ in range(150):
                stack.enter_context(served.socket())
            time.sleep(0.5)

        def answered() -> bool:
            with contextlib.suppress(ConnectionError):  # the event loop drops whom it meets while it has no handle left
                return served.query(LOOKUP).status == 200
            return False

        assert serving.eventually(answered)


@pytest.mark.parametrize("times", [400, pytest.param(5000, marks=pytest.mark.deep)])
def test_memory_stays_flat(tmp_path: Path, times: int) -> None:
    with serving.running(tmp_path, "--quiet") as served, ThreadPoolExecutor(4) as pool:

        def ask(number: int) -> int:
            if number % 10 == 0:
                return served.query("oops").status
            if number % 50 == 1:
                return served.post("/assess", PATIENT, content_type="text/turtle").status
            return served.query(LOOKUP, accept_encoding="gzip").status

        def held() -> int:
            keeper = min(set(served.processes()) - {served.process.pid})
            return serving.memory(served.process.pid) + serving.memory(keeper)

        assert set(pool.map(ask, range(200))) == {200, 400}
        before = held()
        assert set(pool.map(ask, range(times))) == {200, 400}
        assert held() - before < 10 * 2**20
        assert idle(served)


# Those who send slowly, or too much, or nonsense


def head(served: Served, method: str = "POST", path: str = "/sparql", **fields: str) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: 127.0.0.1:{served.port}",
        *(f"{n.replace('_', '-')}: {v}" for n, v in fields.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def status(raw: bytes) -> int:
    return int(raw.split()[1]) if raw.startswith(b"HTTP/1.1 ") else 0


def answered(served: Served, times: int = 5, seconds: float = 2.0) -> bool:
    """Whether somebody else is answered meanwhile, and soon."""
    began = time.monotonic()
    fine = all(served.query(LOOKUP).status == 200 for _ in range(times))
    return fine and (time.monotonic() - began) / times < seconds


PATHS = ["/sparql", "/assess", "/validate", "/query", "/explain?rule=x"]


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_too_large(served: Served, path: str) -> None:
    megabyte = b"#" * 2**20
    kind = DIRECT if path == "/sparql" else "text/turtle"
    assert served.post(path, megabyte, content_type=kind).status in (400, 422)
    with served.socket() as client:  # it is refused before it is sent
        client.sendall(head(served, path=path, content_type=kind, content_length=str(2**20 + 1)))
        raw = serving.read_all(client)
        assert status(raw) == 413
        assert b"1 MB" in raw
    with served.socket() as client, contextlib.suppress(OSError):  # chunked, without a length
        client.sendall(head(served, path=path, content_type=kind, transfer_encoding="chunked"))
        for _ in range(200):
            client.sendall(b"2000\r\n" + b"#" * 0x2000 + b"\r\n")
    assert answered(served)


def test_headers_that_are_too_large(served: Served) -> None:
    for data in (
        head(served, "GET", "/kb", x="y" * 40_000),
        head(served, "GET", "/kb?" + "y" * 40_000),
        head(served, "GET", "/kb", **{f"x{n}": "y" * 100 for n in range(500)}),
        b"GET " + b"/" * 100_000,
        b"x" * 100_000,
    ):
        with served.socket() as client:
            with contextlib.suppress(OSError):
                client.sendall(data)
            assert status(serving.read_all(client)) in (0, 400, 431)
    assert status(served.raw(head(served, "GET", "/kb", x="y" * 20_000, connection="close"))) == 200
    assert answered(served)


TO = b"POST /sparql HTTP/1.1\r\nHost: localhost\r\n"
CONFUSED = {
    "both lengths": TO + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /kb HTTP/1.1\r\n",
    "two lengths": TO + b"Content-Length: 6\r\nContent-Length: 7\r\n\r\nASK {} ",
    "a list of lengths": TO + b"Content-Length: 6, 7\r\n\r\nASK {} ",
    "a signed length": TO + b"Content-Length: +6\r\n\r\nASK {}",
    "a negative length": TO + b"Content-Length: -6\r\n\r\nASK {}",
    "a length in words": TO + b"Content-Length: six\r\n\r\nASK {}",
    "an endless length": TO + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nASK {}",
    "a blank before the colon": TO + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "another coding": TO + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two codings": TO + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a bad chunk": TO + b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nASK {}\r\n0\r\n\r\n",
    "no host": b"GET /kb HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /kb HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "a name with a blank": b"GET /kb HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n",
    "a NUL": b"GET /kb HTTP/1.1\r\nHost: localhost\r\nA: b\0c\r\n\r\n",
    "another protocol": b"GET /kb HTTP/2.0\r\nHost: localhost\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + bytes(160),
}


@pytest.mark.parametrize("name", CONFUSED)
def test_requests_of_two_meanings_are_refused(served: Served, name: str) -> None:
    raw = served.raw(CONFUSED[name])
    assert 400 <= status(raw) < 500 or status(raw) == 505, raw
    assert len(re.findall(rb"^HTTP/1\.1 \d", raw, re.MULTILINE)) == 1, "what follows was taken for a request"


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    asked = [f"SELECT ({n} AS ?x) {{}}" for n in range(10)]
    data = b"".join(head(served, "GET", "/sparql?" + urlencode({"query": query})) for query in asked)
    raw = served.raw(data + head(served, "GET", "/kb", connection="close"))
    assert re.findall(rb'"value":"(\d)"', raw) == [str(n).encode() for n in range(10)]
    assert raw.count(b"HTTP/1.1 200 OK") == 11


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_zip_bombs_are_not_unpacked(served: Served, path: str, coding: str) -> None:
    bomb = gzip.compress(bytes(50 * 2**20)) if "gzip" in coding else zlib.compress(bytes(50 * 2**20))
    answer = served.post(path, bomb, content_type="text/turtle", content_encoding=coding)
    assert answer.status == 415
    assert answer.detail


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"<urn:x:\xc3> a <urn:x:b> .", b'{"query": "\xed\xa0\x80", "facts": ""}', b"\x00" * 100, b""]
)
def test_bodies_that_are_no_text(served: Served, path: str, body: bytes) -> None:
    for kind in (
        "text/turtle",
        "application/ld+json",
        "application/json",
        "application/fhir+json",
        FORM,
        DIRECT,
        "",
        "x",
        "\xff/\xe9",
    ):
        answer = served.post(path, body, **({"content_type": kind} if kind else {}))
        assert 400 <= answer.status < 500, (answer.status, kind, answer.text)
        assert answer.detail


@pytest.mark.parametrize("sent", ["headers", "body", "nothing"])
def test_three_hundred_who_trickle_do_not_stop_the_others(served: Served, sent: str) -> None:
    start = {
        "headers": b"POST /sparql HTTP/1.1\r\nHost: localhost\r\nX: ",
        "body": head(served, content_type=DIRECT, content_length="1000"),
        "nothing": b"",
    }
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.socket()) for _ in range(300)]
        for turn in range(3):
            for client in clients:
                client.sendall(start[sent] if turn == 0 else b"x" * (sent != "nothing"))
            assert answered(served)
    assert answered(served)


IMPATIENT = """
import kbtool.serve.flow as flow, kbtool.serve.run as run
run._SECONDS_FOR_HEADERS, run._SECONDS_TO_READ = 1.0, 1.0
body, init = flow.body, flow.Answer.__init__
flow.body = lambda request, held, *, megabytes, seconds: body(request, held, megabytes=megabytes, seconds=1.0)
flow.Answer.__init__ = lambda self, reply, held, *, seconds: init(self, reply, held, seconds=3.0)
"""
"""Makes the server wait no longer than a second for anybody, so that a test need not wait either."""


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving.running(tmp_path_factory.mktemp("impatient"), prelude=IMPATIENT) as server:
        yield server


def test_who_trickles_is_let_go(impatient: Served) -> None:
    with impatient.socket() as silent, impatient.socket() as slow, impatient.socket() as body, impatient.socket() as kept:
        slow.sendall(b"GET /kb HTTP/1.1\r\nX: ")
        body.sendall(head(impatient, content_type=DIRECT, content_length="100"))
        kept.sendall(head(impatient, "GET", "/health"))
        assert b"200 OK" in kept.recv(65536)
        kept.sendall(b"G")
        began, left = time.monotonic(), {silent, slow, kept}
        while left and time.monotonic() - began < 5:
            for client in list(left):
                client.settimeout(0.05)
                try:
                    if client is not silent:
                        client.sendall(b"y")
                    if client.recv(1) == b"":
                        left.discard(client)
                except TimeoutError:
                    continue
                except OSError:
                    left.discard(client)
        assert not left, "somebody who trickles is still connected"
        assert status(serving.read_all(body)) == 408


def test_who_does_not_read_is_let_go(impatient: Served) -> None:
    query = "SELECT * { ?s ?p ?o } LIMIT 15000"
    size = len(impatient.query(query).body)
    assert size > 2**21
    path = "/sparql?" + urlencode({"query": query})
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(12):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", impatient.port))
            client.sendall(head(impatient, "GET", path))
            clients.append(client)
        assert answered(impatient, seconds=8)
        assert serving.eventually(lambda: _connections(impatient) == 0), "somebody who does not read is still connected"
        for client in clients:
            assert len(serving.read_all(client)) < size, "an answer that was not read in time was sent"
    assert answered(impatient)


def _connections(served: Served) -> int:
    """How many connections are open on the side of the server."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[1].endswith(f":{served.port:04X}") and line.split()[3] == "01")


def test_a_reader_that_is_slow_but_reads_gets_all(impatient: Served) -> None:
    query = "SELECT * { ?s ?p ?o } LIMIT 15000"
    expected = impatient.query(query).body
    with impatient.socket() as client:
        client.sendall(head(impatient, "GET", "/sparql?" + urlencode({"query": query}), connection="close"))
        found = bytearray()
        while data := client.recv(100_000):
            found += data
            time.sleep(0.01)
    assert bytes(found).endswith(expected[-1000:])
    assert len(found) > len(expected)


def test_what_is_held_is_bounded() -> None:
    from kbtool.serve.flow import Held
    from kbtool.serve.problem import Problem

    held = Held(10 * 2**20)
    held.take(10 * 2**20)
    with pytest.raises(Problem) as refused:
        held.take(2**16 + 1)
    assert refused.value.status == 503
    held.take(2**16)  # what is small passes
    with pytest.raises(Problem):
        held.take(1, 2**16)
    held.free(2**21)
    held.take(2**20)
    assert held.bytes == 9 * 2**20 + 2**16


# Nonsense


def nonsense(chance: random.Random) -> tuple[str, bytes, str]:
    """An address, a body, and its media type: noise, or something true with a piece changed."""
    path = chance.choice([*PATHS, "/sparql?query=" + quote(bytes(chance.randrange(256) for _ in range(20))), "/patients/assess"])
    true = [
        PATIENT.encode(),
        LOOKUP.encode(),
        urlencode({"query": LOOKUP}).encode(),
        json.dumps({"query": LOOKUP, "facts": PATIENT, "format": "turtle", "asOf": AS_OF}).encode(),
        json.dumps(
            {"@context": {"cg": "https://w3id.org/kbtool/cg/"}, "@id": "urn:x:p", "@type": "cg:Patient", "cg:value": 1.5}
        ).encode(),
        json.dumps(
            {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": {"resourceType": "Patient"}}]}
        ).encode(),
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="urn:x:p"/></rdf:RDF>',
        b"[" * 2000,
        b'{"a":' * 2000,
        b"<a>" * 2000,
        b'{"@context": {}, "@id": "urn:x:p", "@type": "https://w3id.org/kbtool/cg/Patient", "urn:x:q": 1e99}',
    ]
    kinds = ["text/turtle", "application/n-triples", "application/ld+json", "application/rdf+xml", "application/fhir+json"]
    kinds += [
        "application/json",
        FORM,
        DIRECT,
        "",
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-ndjson",
        ";;,;",
    ]
    if chance.random() < 0.3:
        return path, chance.randbytes(chance.randrange(300)), chance.choice(kinds)
    data = bytearray(chance.choice(true))
    for _ in range(chance.randrange(1, 6)):
        start = chance.randrange(len(data) + 1)
        new = chance.choice(
            [
                b"",
                b"\x00",
                b"{",
                b'"',
                b"\\u0000",
                b"\\uD800",
                b"\xff",
                b"<",
                b"1e999999999",
                b"9" * 5000,
                b"null",
                chance.randbytes(5),
            ]
        )
        data[start : start + chance.choice([0, 1, 10, 100])] = new
    return path, bytes(data), chance.choice(kinds)


def make_nonsense(served: Served, seed: int, times: int) -> None:
    chance = random.Random(seed)  # noqa: S311

    def send(one: tuple[str, bytes, str]) -> tuple[Answer, Any]:
        path, body, kind = one
        return served.post(path, body, **({"content_type": kind} if kind else {})), one

    with ThreadPoolExecutor(4) as pool:
        for answer, one in pool.map(send, (nonsense(chance) for _ in range(times))):
            assert answer.status == 200 or 400 <= answer.status < 500, (answer.status, answer.text, one)
            if answer.status != 200:
                assert answer.detail
                assert "Traceback" not in answer.text


def test_nonsense_is_refused(served: Served) -> None:
    make_nonsense(served, 1, 400)


@pytest.mark.deep
def test_ten_thousand_times_nonsense_is_refused(served: Served) -> None:
    make_nonsense(served, 2, 10_000)


# What strangers see of patients

MARK = "Zyxwvut"
SECRET = (
    PATIENT
    + f"""
<urn:x:{MARK}> a <https://w3id.org/kbtool/cg/Patient> ; <https://w3id.org/kbtool/cg/hasObservation>
  [ a <https://w3id.org/kbtool/dialysis/SerumMagnesium> ; <https://w3id.org/kbtool/cg/value> 1.2345678 ;
    <https://w3id.org/kbtool/cg/unit> "mg/dL" ; <https://w3id.org/kbtool/cg/time> "2026-02-10T06:40:00Z"^^xsd:dateTime ;
    <https://w3id.org/kbtool/cg/phase> <https://w3id.org/kbtool/dialysis/PreDialysis> ] .
"""
)
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("private")
    (folder / "facts").mkdir()
    wrong = f"<urn:x:wrong{MARK}> a <https://w3id.org/kbtool/cg/Patient> ."  # a patient without a fact is not accepted
    (folder / "facts" / "a.ttl").write_text(SECRET + wrong, encoding="utf-8")
    with serving.running(folder, "--facts", str(folder / "facts"), "--as-of", AS_OF, KBTOOL_TOKEN=TOKEN) as server:
        yield server


PRIVATE = [
    ("GET", "/sparql?query=ASK%7B%7D", None),
    ("GET", "/sparql", None),
    ("HEAD", "/sparql?query=ASK%7B%7D", None),
    ("POST", "/sparql", "ASK {}"),
    ("GET", "/sparql/?query=ASK%7B%7D", None),
    ("GET", "/patients", None),
    ("HEAD", "/patients", None),
    ("POST", "/patients/assess", ""),
    ("POST", "/patients/explain?rule=x", ""),
]
WRONG = {
    "none": {},
    "empty": {"authorization": ""},
    "no token": {"authorization": "Bearer"},
    "an empty token": {"authorization": "Bearer "},
    "another": {"authorization": "Bearer " + TOKEN[::-1]},
    "a part": {"authorization": "Bearer " + TOKEN[:-1]},
    "more": {"authorization": "Bearer " + TOKEN + "x"},
    "another case": {"authorization": "Bearer " + TOKEN.upper()},
    "not ASCII": {"authorization": "Bearer " + TOKEN[:-1] + "é"},
    "another scheme": {"authorization": "Basic " + TOKEN},
    "no scheme": {"authorization": TOKEN},
    "a list": {"authorization": f"Bearer {TOKEN}, Bearer x"},
    "another field": {"x-token": TOKEN, "cookie": f"token={TOKEN}"},
}


@pytest.mark.parametrize("name", WRONG)
def test_without_the_token_nothing_is_shown(private: Served, name: str) -> None:
    for method, path, body in PRIVATE:
        answer = private.request(method, path, body, {"content-type": DIRECT} | WRONG[name])
        assert answer.status == 401, (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text


def test_the_token_is_no_parameter(private: Served) -> None:
    for parameter in ("token", "access_token", "authorization"):
        assert private.get(f"/patients?{parameter}={TOKEN}").status == 401


def test_with_the_token_everything_is_shown(private: Served) -> None:
    for method, path, body in PRIVATE[:-1]:
        assert private.request(method, path, body, {"content-type": DIRECT} | BEARER).status == 200
    assert f"urn:x:{MARK}" in private.get("/patients", **BEARER).json["patients"]
    assert MARK in private.post("/patients/assess", "", **BEARER).text
    answer = private.query(f"SELECT ?g {{ GRAPH ?g {{ <urn:x:{MARK}> ?p ?o }} }}", **BEARER)
    graphs = {row["g"]["value"].rpartition("/")[2] for row in answer.json["results"]["bindings"]}
    assert graphs == {"facts", "answers"}
    assert private.get("/patients", authorization=f"bearer  {TOKEN} ").status == 200


def test_an_unknown_patient_is_not_named(private: Served) -> None:
    answer = private.post("/patients/assess", '["urn:x:nobody"]', **BEARER)
    assert answer.status == 404
    assert "nobody" not in answer.detail


def test_strangers_see_nothing_of_a_patient(private: Served) -> None:
    """Every address that is told of, every page that is linked, and what is said of mistakes."""
    told = private.get("/openapi.json").json["paths"]
    paths = [path for path, item in told.items() if "get" in item and "{" not in path]
    paths += [
        "/",
        "/guideline/",
        "/nowhere",
        "/patients/x",
        "/%00",
        "/assets/../../../etc/passwd",
        "/guideline/../../kb",
        "/.env",
    ]
    listed = private.get("/examples").json
    paths += [f"/examples/{quote(each['name'])}" for each in listed[:3]]
    seen: set[str] = set()
    while paths:
        path = paths.pop(0)
        if path in seen or len(seen) > 80:
            continue
        seen.add(path)
        answer = private.get(path)
        assert MARK not in answer.text, path
        assert "1.2345678" not in answer.text, path
        if answer.media == "text/html":
            found = re.findall(r"""(?:href|src)=["']([^"'#:]+)["']""", answer.text)
            paths += [each if each.startswith("/") else path.rpartition("/")[0] + "/" + each for each in found]
    assert {"/metrics", "/health", "/kb", "/openapi.json", "/.well-known/sparql-examples", "/.well-known/void", "/"} <= seen
    everything = "SELECT * { { ?s ?p ?o } UNION { GRAPH ?g { ?s ?p ?o } } FILTER(CONTAINS(STR(?s), 'Zyxwvut')) }"
    sent = json.dumps({"query": everything, "facts": PATIENT, "asOf": AS_OF})
    answer = private.post("/query", sent, content_type="application/json")
    assert answer.status == 200
    assert answer.json["results"]["bindings"] == []
    for path in ("/assess", "/validate"):
        assert MARK not in private.post(path, PATIENT, content_type="text/turtle").text


def test_a_posted_patient_is_forgotten(served: Served) -> None:
    for path in ("/assess", "/validate"):
        assert MARK in served.post(path, SECRET.replace('"mg/dL"', '"mg"'), content_type="text/turtle").text
    sent = json.dumps({"query": "SELECT * { ?s ?p ?o FILTER(ISIRI(?s) && CONTAINS(STR(?s), 'Zyxwvut')) }", "facts": SECRET})
    assert MARK in served.post("/query", sent, content_type="application/json").text
    assert not served.ask(f"ASK {{ {{ <urn:x:{MARK}> ?p ?o }} UNION {{ GRAPH ?g {{ <urn:x:{MARK}> ?p ?o }} }} }}")
    assert MARK not in served.get("/metrics").text
    assert MARK not in served.log


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (GET|HEAD|POST|OPTIONS|other) (/[\w.{}:/-]*|other) \d{3} \d+\.\d ms")


def test_the_log_tells_nothing_of_a_client(private: Served) -> None:
    private.get(f"/sparql?query={MARK}1", authorization=f"Bearer {TOKEN}x")
    private.get(f"/{MARK}2")
    private.request("GET", f"/examples/{MARK}3")
    private.post("/patients/assess", json.dumps([f"urn:x:{MARK}"]), **BEARER)
    private.post("/assess", SECRET.replace("1.2345678", '"a"'), content_type="text/turtle")
    private.query(f"SELECT * {{ <urn:x:{MARK}> ?p ?o", **BEARER)
    private.raw(b"BREW /pot\x1b[31m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    private.request("PROPFIND", "/kb")
    log = private.log
    assert MARK not in log
    assert TOKEN not in log
    assert "ASK" not in log
    first, *lines = log.splitlines()
    assert first == "kbtool: facts that were not accepted: 1; GET /patients tells which"
    assert all(LINE.fullmatch(line) for line in lines), log
    assert MARK not in private.get("/metrics").text
    assert len(log.splitlines()) > 5


def test_the_token_is_compared_in_constant_time() -> None:
    import inspect

    from kbtool.serve.app import Server

    source = inspect.getsource(Server.authorise)
    assert "hmac.compare_digest(" in source
    assert not re.search(r"[!=]= *(self\.settings\.token|wanted)|(token|wanted) *[!=]=", source)


def test_facts_are_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "facts"
    folder.mkdir()
    (folder / "a.ttl").write_text(SECRET, encoding="utf-8")
    with serving.running(tmp_path, "--facts", str(folder), "--refresh", "1", KBTOOL_TOKEN=TOKEN) as served:

        def patients() -> Any:
            answer = served.get("/patients", **BEARER)
            return answer.json["patients"] if answer.status == 200 else answer.status

        def counted() -> str:
            answer = served.query("SELECT (COUNT(?p) AS ?n) { ?p a cg:Patient }", **BEARER)
            return str(answer.json["results"]["bindings"][0]["n"]["value"]) if answer.status == 200 else str(answer.status)

        first = patients()
        assert len(first) == 2
        moment = served.get("/patients", **BEARER).json["asOf"]
        (folder / "b.ttl").write_text(SECRET.replace(MARK, "new").replace("ex:P01", "ex:P02"), encoding="utf-8")
        assert serving.eventually(lambda: len(patients()) == 4)
        assert "urn:x:new" in patients()
        assert counted() == "4"
        assert served.get("/patients", **BEARER).json["asOf"] > moment
        (folder / "b.ttl").write_text("<urn:x:new> a ", encoding="utf-8")
        assert serving.eventually(lambda: patients() == 503), "old answers are given while the facts are broken"
        assert counted() == "503"
        health = served.get("/health")
        assert (health.status, health.json["status"]) == (503, "stale")
        assert served.get("/patients").status == 401
        assert served.post("/assess", PATIENT, content_type="text/turtle").status == 200
        (folder / "b.ttl").unlink()
        assert serving.eventually(lambda: patients() == first)
        assert serving.eventually(lambda: served.get("/health").status == 200)
        assert serving.eventually(lambda: len(served.processes()) <= IDLE + 1 + 3), "old keepers are left"


def test_facts_are_not_served_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "a.ttl").write_text(PATIENT, encoding="utf-8")
    (tmp_path / "empty").write_text("", encoding="utf-8")
    for token in ("", "short", "é" * 20, "a\nb" * 10):
        answer = refused(tmp_path, "--facts", str(tmp_path), KBTOOL_TOKEN=token)
        assert "token" in answer
        assert not token or token not in answer
    assert "token" in refused(tmp_path, "--facts", str(tmp_path), "--token-file", str(tmp_path / "empty"))


def test_what_cannot_be_served_is_told(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n", encoding="utf-8")
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts" / "a.ttl").write_text("<urn:x:p> a", encoding="utf-8")
    for options in (
        ["--facts", str(tmp_path / "facts"), "--token-file", str(tmp_path / "token")],
        ["--facts", str(tmp_path / "none"), "--token-file", str(tmp_path / "token")],
        ["--facts", str(tmp_path / "facts"), "--token-file", str(tmp_path / "none")],
        ["--host", "nowhere.invalid"],
        ["--ontology", str(tmp_path / "none.ttl")],
    ):
        assert refused(tmp_path, *options).startswith(("kbtool:", "Error", "Usage"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in refused(tmp_path, "--port", str(taken.getsockname()[1]))


def refused(folder: Path, *options: str, **environment: str) -> str:
    """What `kbtool serve` says when it does not start."""
    variables = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environment}
    command = [sys.executable, "-m", "kbtool", "serve", *([] if "--port" in options else ["--port", "0"]), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, env=variables)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


# Pages of another origin


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("127.0.0.1", True),
        ("127.0.0.1:1", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:80@localhost", True),
        ("localhost@evil.example", False),
        ("", False),
        ("[", False),
        ("kb.hospital.example", False),
    ],
)
def test_names_that_somebody_else_may_have_set(served: Served, host: str, known: bool) -> None:
    raw = served.raw(f"GET /kb HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert status(raw) in ({200} if known else {400, 421})


CROSS = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:1"},
    {"origin": "https://127.0.0.1.evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("fields", CROSS, ids=str)
def test_pages_of_other_origins_can_do_nothing(private: Served, fields: dict[str, str]) -> None:
    for path in ("/assess", "/validate", "/query", "/explain?rule=x", "/patients/assess", "/cds-services/x", "/nowhere"):
        answer = private.request("POST", path, PATIENT, {"content-type": "text/plain"} | BEARER | fields)
        assert answer.status == 403, path
        assert "access-control-allow-origin" not in answer.headers
    if "origin" in fields:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        for path in ("/assess", "/patients/assess"):
            answer = private.request("OPTIONS", path, headers=fields | asked)
            assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in private.get("/patients", **(BEARER | fields)).headers


def test_pages_of_this_service_can(served: Served) -> None:
    for fields in ({"origin": served.url}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {}):
        assert served.post("/validate", PATIENT, content_type="text/turtle", **fields).status == 200


def test_names_and_origins_that_are_allowed(tmp_path: Path) -> None:
    options = ["--allow-origin", "https://ehr.example", "--allow-host", "kb.example", "--public-url", "https://public.example/"]
    with serving.running(tmp_path, *options) as served:
        for host in ("kb.example", "KB.example:443", "public.example"):
            raw = served.raw(f"GET /sparql HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert status(raw) == 200
            assert b"<https://public.example/sparql>" in raw
        for origin, allowed in (
            ("https://ehr.example", True),
            ("https://public.example", True),
            ("https://other.example", False),
        ):
            asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type", "origin": origin}
            answer = served.request("OPTIONS", "/assess", headers=asked)
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
            answer = served.post("/validate", PATIENT, content_type="text/turtle", origin=origin)
            assert (answer.status == 200 and answer.headers["access-control-allow-origin"] == origin) is allowed


def test_browsers_are_bound(served: Served) -> None:
    for path in ("/", "/kb", "/sparql", "/nowhere", "/guideline/", "/examples"):
        headers = served.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert "server" not in headers


# The end


def test_requests_in_flight_are_finished(tmp_path: Path) -> None:
    with serving.running(tmp_path, "--time-limit", "60") as served, served.socket() as sending, ThreadPoolExecutor() as pool:
        body = LOOKUP.encode()
        sending.sendall(head(served, content_type=DIRECT, content_length=str(len(body))) + body[:10])
        slow = f"SELECT (COUNT(*) AS ?n) {{ {crossed(4, 56)} FILTER(STRLEN(CONCAT(STR(?v0), STR(?v3))) > 0) }}"
        working = pool.submit(served.query, slow)
        assert serving.eventually(served.working)
        with served.socket() as unused:
            served.process.send_signal(signal.SIGTERM)

            def closed() -> bool:
                with contextlib.suppress(OSError), served.socket(1):
                    return False
                return True

            assert serving.eventually(closed), "new connections are taken"
            unused.settimeout(5)
            assert unused.recv(1) == b""
        sending.sendall(body[10:])
        raw = serving.read_all(sending)
        assert status(raw) == 200
        assert b'"bindings"' in raw
        answer = working.result()
        assert answer.status == 200
        assert answer.json["results"]["bindings"][0]["n"]["value"] == str(56**4)
        assert served.process.wait(30) == 0
        assert served.all_gone()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_also_where_a_client_does_not(tmp_path: Path, how: signal.Signals) -> None:
    with serving.running(tmp_path, "--time-limit", "0.5") as served, served.socket() as trickling, served.socket():
        trickling.sendall(head(served, content_type=DIRECT, content_length="100"))
        served.query(LOOKUP)
        assert served.stop(how) == 0
        assert served.all_gone()


def test_it_is_ready_soon(served: Served, private: Served) -> None:
    print(f"ready after {served.seconds:.2f} s, with facts after {private.seconds:.2f} s")
    assert max(served.seconds, private.seconds) < 20
