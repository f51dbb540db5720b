"""Measure `kbtool serve` over real HTTP, from processes of their own, beside two peers with the same data in the same run.

    python tests/benchmarks/bench_serve.py [--clients 4] [--peer-python PYTHON] [--minutes 10] [--only NAME...]

Peers: `oxigraph serve-read-only`, which has no isolation, and rdflib-endpoint (pip install 'rdflib-endpoint[cli]'; PYTHON is
the interpreter that has it, by default this one; left out where it is missing). Measured are a simple lookup, each of
queries/ask, and /assess. With --minutes, a mixed load at 8 clients follows, in which every answer that is not 200 counts as
an error, with the memory of server and keeper at its start and its end. Prints medians and ratios; asserts nothing.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import os
import platform
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyoxigraph as ox

sys.path.insert(0, str(Path(__file__).parent.parent))

import serving
from serving import AS_OF, DIRECT, TOKEN

import kbtool
from kbtool import ask

ROOT = Path(__file__).parent.parent.parent
PATIENTS = ["P01", "P12", "P15", "P22", "Overlay-baclofen-coma"]
SLOWEST = 20.0
"""Seconds after which a peer is not waited for."""

Request = tuple[str, dict[str, str], str]


@dataclass(frozen=True)
class Measured:
    """What some clients saw. Times in milliseconds."""

    p50: float
    p99: float
    rate: float
    errors: int


def client(port: int, requests: list[Request], until: float, times: int, seed: int, found: multiprocessing.Queue[object]) -> None:
    """Ask again and again on one connection, and put the seconds that each answer took, and how many were no answers."""
    connection, taken, errors, chance = http.client.HTTPConnection("127.0.0.1", port, timeout=SLOWEST), [], 0, random.Random(seed)  # noqa: S311
    while len(taken) < times and time.time() < until:
        path, headers, body = chance.choice(requests)
        began = time.perf_counter()
        try:
            connection.request("POST", path, body.encode(), headers)
            answer = connection.getresponse()
            answer.read()
            errors += answer.status != 200
        except OSError:
            errors += 1
            connection.close()
        taken.append(time.perf_counter() - began)
    connection.close()
    found.put((taken, errors))


def measure(port: int, requests: list[Request], clients: int, times: int, seconds: float) -> Measured:
    """What clients at once see, each a process, that ask `times` times or for some seconds."""
    found: multiprocessing.Queue[object] = multiprocessing.Queue()
    began = time.time()
    arguments = [(port, requests, began + seconds, times, seed, found) for seed in range(clients)]
    processes = [multiprocessing.Process(target=client, args=each) for each in arguments]
    for process in processes:
        process.start()
    results = [found.get() for _ in processes]
    elapsed = time.time() - began
    for process in processes:
        process.join()
    taken = sorted(each * 1000 for result in results for each in result[0])  # type: ignore[index]
    errors = sum(result[1] for result in results)  # type: ignore[index]
    return Measured(statistics.median(taken), taken[int(len(taken) * 0.99)], len(taken) / elapsed, errors)


def dataset(folder: Path) -> Path:
    """What the server answers from, as a file: the knowledge, the facts, and what is derived from them."""
    kb = kbtool.load()
    store = kb.store(*(ROOT / "tests" / "patients" / f"{name}.ttl" for name in PATIENTS), as_of=AS_OF)
    file = folder / "data.nt"
    store.dump(file, format=ox.RdfFormat.N_TRIPLES, from_graph=ox.DefaultGraph())
    return file


@contextmanager
def peer(command: list[str], port: int) -> Iterator[int]:
    """A server of somebody else; gives its port once it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        reachable = serving.eventually(lambda: _open(port), 60)
        assert reachable, f"{command[0]} did not start"
        yield port
    finally:
        process.kill()
        process.wait()


def _open(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return int(trial.getsockname()[1])


def peers(stack: ExitStack, folder: Path, python: str) -> dict[str, tuple[int, str]]:
    """Port and path of the endpoint of each peer that is here."""
    file, found = dataset(folder), {}
    program = shutil.which("oxigraph", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program:
        location = str(folder / "oxigraph")
        subprocess.run([program, "load", "--location", location, "--file", str(file)], check=True, capture_output=True)
        port = _free()
        command = [program, "serve-read-only", "--location", location, "--bind", f"127.0.0.1:{port}"]
        found["oxigraph"] = (stack.enter_context(peer(command, port)), "/query")
    if (
        shutil.which(python)
        and subprocess.run([python, "-c", "import rdflib_endpoint, click"], capture_output=True).returncode == 0
    ):
        port = _free()
        command = [python, "-m", "rdflib_endpoint", "serve", "--host", "127.0.0.1", "--port", str(port), str(file)]
        found["rdflib-endpoint"] = (stack.enter_context(peer(command, port)), "/")
    return found


def lookups() -> list[str]:
    """What is said of each of some hundred things, so that nobody answers from the last time."""
    graph = kbtool.load().knowledge.graph
    known = sorted({quad.subject.value for quad in graph if isinstance(quad.subject, ox.NamedNode)})
    return [f"SELECT ?p ?o {{ <{iri}> ?p ?o }}" for iri in known[:: len(known) // 300]]


def query(path: str, text: str, prefixes: dict[str, str], *, mine: bool) -> Request:
    """A request of a query; prefixes of the knowledge base are declared, which only this server would not need."""
    head = "".join(
        f"PREFIX {name}: <{iri}>\n"
        for name, iri in prefixes.items()
        if f"{name}:" in text and not re.search(rf"(?i)prefix\s+{name}:", text)
    )
    headers = {"content-type": DIRECT, "accept": "application/sparql-results+json, text/turtle;q=0.9"}
    return path, headers | ({"authorization": f"Bearer {TOKEN}"} if mine else {}), head + text


def held(server: serving.Served) -> float:
    """Megabytes of the server and its keeper."""
    keeper = min(set(server.processes()) - {server.process.pid})
    return (serving.memory(server.process.pid) + serving.memory(keeper)) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--times", type=int, default=40, help="requests of each client for each query")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--only", nargs="*", help="names of queries; none for lookup and /assess alone")
    options = parser.parse_args()
    prefixes = kbtool.load().knowledge.prefixes
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "facts").mkdir()
        for each in PATIENTS:
            shutil.copy(ROOT / "tests" / "patients" / f"{each}.ttl", folder / "facts")
        extra = ["--quiet", "--facts", str(folder / "facts"), "--as-of", AS_OF]
        server = stack.enter_context(serving.running(folder / "server", *extra, KBTOOL_TOKEN=TOKEN))
        others = peers(stack, folder, options.peer_python)
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {os.getloadavg()[0]:.1f}")
        print(f"ready after {server.seconds:.2f} s; {held(server):.0f} MB in server and keeper\n")
        tasks = {"a simple lookup": lookups(), "the same lookup again": lookups()[:1]}
        for file in sorted((ROOT / "queries" / "ask").glob("*.rq")):
            if options.only is None or file.stem in options.only:
                tasks[file.stem] = [file.read_text(encoding="utf-8")]
        print(
            f"{'ms, p50 / p99':<28}{'clients':>8}{'kbtool serve':>18}{'a second':>9}"
            + "".join(f"{other:>22}{'ratio':>7}" for other in others)
        )
        for task, texts in tasks.items():
            for clients in (1, 2, options.clients) if "lookup" in task else (options.clients,):
                times = options.times * (10 if "lookup" in task else 1)
                mine = measure(
                    server.port, [query("/sparql", text, prefixes, mine=True) for text in texts], clients, times, SLOWEST
                )
                cells = [f"{mine.p50:9.1f} /{mine.p99:7.1f}{mine.rate:9.0f}" + (f" {mine.errors} errors" if mine.errors else "")]
                for port, path in others.values():
                    theirs = measure(port, [query(path, text, prefixes, mine=False) for text in texts], clients, times, SLOWEST)
                    wrong = f" ({theirs.errors} errors)" if theirs.errors else ""
                    cells.append(f"{theirs.p50:12.1f} /{theirs.p99:8.1f}{theirs.p50 / mine.p50:7.2f}{wrong}")
                asked = ask.header(texts[0]).get("asks", "")
                print(f"{task + (' *' if asked == 'patients' else ''):<28}{clients:>8}" + "".join(cells), flush=True)
        print("* about patients; ratio: how many times as long as kbtool serve\n")
        turtle = (ROOT / "tests" / "patients" / "P01.ttl").read_text(encoding="utf-8")
        assess = ("/assess?asOf=" + AS_OF, {"content-type": "text/turtle"}, turtle)
        for clients in (1, 2, options.clients):
            mine = measure(server.port, [assess], clients, options.times * 3, SLOWEST)
            errors = f" {mine.errors} errors" if mine.errors else ""
            print(f"{'/assess, one patient':<28}{clients:>8}{mine.p50:9.1f} /{mine.p99:7.1f}{mine.rate:9.0f}{errors}", flush=True)
        if options.minutes:
            mixed = [query("/sparql", text, prefixes, mine=True) for texts in tasks.values() for text in texts[:20]] + [
                assess
            ] * 10
            mixed += [("/validate", {"content-type": "text/turtle"}, turtle)] * 5
            measure(server.port, mixed, 8, 10**9, 5)
            before = held(server)
            found = measure(server.port, mixed, 8, 10**9, options.minutes * 60)
            total = round(found.rate * options.minutes * 60)
            print(f"\nmixed load, 8 clients, {options.minutes:g} minutes: {total} requests, {found.errors} errors")
            print(f"{found.rate:.0f} a second, p50 {found.p50:.1f} ms, p99 {found.p99:.1f} ms")
            print(f"memory of server and keeper: {before:.1f} MB, then {held(server):.1f} MB")


if __name__ == "__main__":
    main()
