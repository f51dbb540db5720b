"""Measure `kbtool assess`: cold, warm, in batches, and its memory, beside peers in the same run.

    python tests/benchmarks/bench_assess.py [--patients 2000]

Peers: rdflib running the same updates for the same patient, pySHACL validating it with the same shapes, and a bare
start of Python that imports rdflib. Prints medians; nothing is asserted, because the machine decides.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rdflib import Graph

import kbtool
from kbtool import engine
from kbtool.facts import Reader

PATIENTS = Path(__file__).parent.parent / "patients"
AS_OF = "2026-02-10T12:00:00Z"


def median(action: Callable[[], object], times: int) -> float:
    """The median of some runs of an action, in milliseconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1000


def line(what: str, value: float, unit: str, note: str = "") -> None:
    print(f"{what:<58} {value:>10.1f} {unit:<12} {note}")


def cold() -> None:
    command = [sys.executable, "-m", "kbtool", "assess", str(PATIENTS / "P01.ttl"), "--as-of", AS_OF]
    ours = median(lambda: subprocess.run(command, check=True, capture_output=True), 9)
    peer = median(lambda: subprocess.run([sys.executable, "-c", "import rdflib"], check=True, capture_output=True), 9)
    line("cold: kbtool assess, one patient", ours, "ms", f"{ours / peer:.1f} x a bare `import rdflib` ({peer:.0f} ms)")


def warm(kb: kbtool.KnowledgeBase) -> None:
    data = (PATIENTS / "P01.ttl").read_bytes()
    moment = engine.parse_as_of(AS_OF)
    batch = next(engine.batches(kb.read(data)))
    ours = median(lambda: kb.assess(data, as_of=AS_OF), 100)
    line("warm: kb.assess, one patient, validated", ours, "ms")
    store = engine.load_store(kb.knowledge, batch, moment)
    checking = median(lambda: engine.check(store, kb.knowledge, batch), 50)
    peer = median(lambda: _pyshacl(kb, data), 3)
    line("  of which validation", checking, "ms", f"pySHACL with the same shapes: {peer:.0f} ms, {peer / checking:.0f} x")
    deriving = median(lambda: _derive(kb, batch, moment), 50)
    peer = median(lambda: _rdflib(kb, data), 1)
    line(
        "  of which loading and deriving", deriving, "ms", f"rdflib with the same updates: {peer:.0f} ms, {peer / deriving:.0f} x"
    )


def _derive(kb: kbtool.KnowledgeBase, batch: list[engine.PatientFacts], moment: engine.ox.Literal) -> None:
    store = engine.load_store(kb.knowledge, batch, moment)
    engine.derive(store, kb.knowledge, batch)


def _rdflib(kb: kbtool.KnowledgeBase, data: bytes) -> None:
    moment = engine.parse_as_of(AS_OF)
    store = engine.load_store(kb.knowledge, next(engine.batches(kb.read(data))), moment)
    graph = Graph()
    graph.parse(data=store.dump(format=engine.ox.RdfFormat.N_TRIPLES, from_graph=engine.ox.DefaultGraph()) or b"", format="nt")
    for step in kb.knowledge.steps:
        for part in step.parts:
            graph.update(step.prologue + part.text)


def _pyshacl(kb: kbtool.KnowledgeBase, data: bytes) -> None:
    import pyshacl

    graph = Graph().parse(data=data, format="turtle")
    graph.update(
        f"INSERT DATA {{ <https://w3id.org/kbtool/cg/Run> <https://w3id.org/kbtool/cg/asOf> {engine.parse_as_of(AS_OF)} }}"
    )
    text = engine.ox.serialize([q.triple for q in kb.knowledge.runtime], format=engine.ox.RdfFormat.N_TRIPLES)
    graph.parse(data=text or b"", format="nt")
    shapes = Graph().parse(Path(kbtool.knowledge.HOME) / "shapes" / "facts.ttl")
    pyshacl.validate(graph, shacl_graph=shapes, inplace=True, inference="none")


def batches(kb: kbtool.KnowledgeBase, patients: int) -> None:
    data = many(patients)
    start = time.perf_counter()
    reader = Reader()
    reader.add("<bench>", data, engine.ox.RdfFormat.N_TRIPLES)
    facts = reader.facts(kb.knowledge.graph)
    read = time.perf_counter() - start
    count = sum(1 for _ in engine.assess(kb.knowledge, facts, engine.parse_as_of(AS_OF)))
    total = time.perf_counter() - start
    size = len(data) / 2**20
    line(
        f"batches of {engine.BATCH}: {count} patients from {size:.1f} MB of N-Triples",
        count / total,
        "patients/s",
        f"reading {read:.2f} s of {total:.2f} s",
    )
    line("memory at the end (peak)", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MB")


def many(patients: int) -> bytes:
    """The golden patients over and over, each time with names of their own, as N-Triples."""
    texts = []
    for path in sorted(PATIENTS.glob("*.ttl")):
        graph = Graph().parse(path)
        texts.append(graph.skolemize(basepath="https://example.org/").serialize(format="ntriples"))
    chosen = []
    for n in range(patients):
        text = texts[n % len(texts)]
        chosen.append(text.replace("https://example.org/", f"https://example.org/{n}/"))
    return "".join(chosen).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=2000)
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    kb = kbtool.load()
    cold()
    warm(kb)
    batches(kb, arguments.patients)


if __name__ == "__main__":
    main()
