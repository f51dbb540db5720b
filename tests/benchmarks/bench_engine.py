"""Measure how fast batches of patients are assessed: from bytes of N-Triples to answers, validated, on one core.

    python tests/benchmarks/bench_engine.py [--patients 1000 10000] [--peer 300]

Each number of patients is a cohort of its own, made from a seed: sessions, a few findings, drugs and orders, four to ten
quantities of which some have several results, some without a phase, one observation in about a hundred patients with a unit
that nobody knows. It is read and assessed in pieces, as a stream is. Beside it, in the same run, a part of the cohort is
answered by Oxigraph running the same updates, and the answers are compared. Times are of the processor, not of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from generate import AS_OF, Vocabulary, seeded

import kbtool
from kbtool import engine, setwise
from kbtool.facts import FORMAT_NAMES, Facts, Reader
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, XSD

PIECE = 1000
"""Patients that are read at once."""

SEED = 20260211


class Cohort:
    """Patients of a knowledge base, each made from the seed and its number."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.v = Vocabulary.read(knowledge)
        self.now = datetime.fromisoformat(AS_OF)
        self.phases = self.v.instances("Phase")
        self.ranges: dict[str, tuple[Decimal, Decimal]] = {}
        for kind in self.kinds("Observation"):
            low = knowledge.value(kind, CG["usualMinimum"]) or knowledge.value(kind, CG["plausibleMinimum"])
            high = knowledge.value(kind, CG["usualMaximum"]) or knowledge.value(kind, CG["plausibleMaximum"])
            if low and high:
                self.ranges[kind] = Decimal(low), Decimal(high)
        self.treatments = self.kinds("Treatment")

    def kinds(self, base: str) -> list[str]:
        """The classes of a kind of fact that can be stated."""
        return self.v.kinds.get(CG[base].value, [])

    def patient(self, number: int) -> str:
        """One patient as N-Triples."""
        random = seeded(f"{SEED}/{number}")
        iri = f"https://example.org/cohort/{number}"
        lines = [f"<{iri}> {RDF['type']} {CG['Patient']} ."]

        def ago(most: int, least: int = 0) -> str:
            moment = self.now - timedelta(minutes=random.randint(least * 60, most * 60))
            return f'"{moment:%Y-%m-%dT%H:%M:%SZ}"^^{XSD["dateTime"]}'

        def fact(link: str, kind: str, **stated: str) -> None:
            node = f"<{iri}/fact/{len(lines)}>"
            lines.append(f"<{iri}> {CG[link]} {node} .")
            lines.append(f"{node} {RDF['type']} <{kind}> .")
            lines.extend(f"{node} {CG[name]} {value} ." for name, value in stated.items())

        fact("hasTreatment", random.choice(self.treatments), start=ago(40000, 2000))
        for session in range(random.randint(2, 4) if self.kinds("Session") else 0):
            hours = 48 * session + random.randint(1, 30)
            fact("hasSession", random.choice(self.kinds("Session")), start=ago(hours + 5, hours + 4), end=ago(hours, hours - 1))
        for kind in random.sample(sorted(self.ranges), min(len(self.ranges), random.randint(4, 10))):
            low, high = self.ranges[kind]
            for _ in range(random.choice((1, 1, 2))):
                unit, factor, offset = random.choice(self.v.units(kind))
                value = round((low + (high - low) * random.randint(5, 95) / 100) / factor - offset, 2)
                unit = "furlong" if random.random() < 0.001 else unit
                stated = {"value": f'"{value}"^^{XSD["decimal"]}', "unit": f'"{unit}"', "time": ago(400)}
                if self.phases and random.random() < 0.75:
                    stated["phase"] = f"<{random.choice(self.phases)}>"
                fact("hasObservation", kind, **stated)
        for kind in random.sample(self.kinds("Finding"), min(len(self.kinds("Finding")), random.randint(0, 3))):
            fact("hasFinding", kind, onset=ago(200, 1))
        for kind in random.sample(self.kinds("Medication"), min(len(self.kinds("Medication")), random.randint(0, 3))):
            dose = (
                {"dailyDose": f'"{random.randint(1, 40)}"^^{XSD["integer"]}', "unit": f'"{u}"'} if (u := self.unit(kind)) else {}
            )
            fact("hasMedication", kind, start=ago(5000, 100), **dose)
        for kind in random.sample(self.kinds("Order"), min(len(self.kinds("Order")), random.choice((0, 0, 1)))):
            fact("hasOrder", kind)
        return "\n".join(lines) + "\n"

    def unit(self, kind: str) -> str:
        """A unit of a drug, if it has any."""
        return next((unit for unit, _, _ in self.v.units(kind)), "")

    def pieces(self, patients: int) -> Iterator[bytes]:
        """The cohort in pieces of N-Triples."""
        for start in range(0, patients, PIECE):
            yield "".join(map(self.patient, range(start, min(patients, start + PIECE)))).encode()


def read(kb: kbtool.KnowledgeBase, data: bytes) -> tuple[Facts, float, float]:
    """Facts, and the processor time of parsing and of dividing by patient."""
    start = time.process_time()
    reader = Reader()
    reader.add("<cohort>", data, FORMAT_NAMES["n-triples"])
    middle = time.process_time()
    facts = reader.facts(kb.knowledge.graph)
    return facts, middle - start, time.process_time() - middle


def measure(kb: kbtool.KnowledgeBase, cohort: Cohort, patients: int) -> float:
    """Print what a cohort costs by stage; patients a second."""
    stages = dict.fromkeys(("parsing", "dividing by patient", "validating", "deriving", "reading answers"), 0.0)
    by_piece: list[float] = []
    size = triples = doubtful = 0
    screened, run = setwise.Program._suspects, setwise.Program.run

    def suspects(*given: object) -> object:
        start = time.process_time()
        try:
            return screened(*given)  # type: ignore[arg-type]
        finally:
            stages["validating"] += time.process_time() - start

    def running(*given: object) -> object:
        start = time.process_time()
        try:
            return run(*given)  # type: ignore[arg-type]
        finally:
            stages["deriving"] += time.process_time() - start

    setwise.Program._suspects, setwise.Program.run = suspects, running  # type: ignore[assignment,method-assign]
    try:
        for data in cohort.pieces(patients):
            size += len(data)
            triples += data.count(b"\n")
            start = time.process_time()
            facts, parsing, dividing = read(kb, data)
            stages["parsing"] += parsing
            stages["dividing by patient"] += dividing
            for result in engine.assess(kb.knowledge, facts, engine.parse_as_of(AS_OF)):
                doubtful += not result.accepted
            by_piece.append((time.process_time() - start) / len(facts))
    finally:
        setwise.Program._suspects, setwise.Program.run = screened, run  # type: ignore[method-assign]
    total = sum(by_piece) / len(by_piece) * patients
    stages["deriving"] -= stages["validating"]
    stages["reading answers"] = total - sum(stages.values())
    rate = 1 / statistics.median(by_piece)
    each = f"{triples / patients:.0f} triples and {size / patients / 1024:.1f} KB each"
    print(f"\n{patients} patients, {each}, {doubtful} not accepted")
    for stage, taken in stages.items():
        print(f"  {stage:<22} {taken / patients * 1e6:8.0f} us a patient")
    loading = stages["parsing"] + stages["dividing by patient"]
    print(f"  {'all':<22} {total / patients * 1e6:8.0f} us a patient; median of pieces {rate:.0f} patients/s")
    print(f"  deriving is {stages['deriving'] / loading:.1f} x loading")
    print(f"  memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return rate


def beside_oxigraph(kb: kbtool.KnowledgeBase, cohort: Cohort, patients: int) -> None:
    """The same patients answered by Oxigraph: time, and whether the answers are the same."""
    facts, _, _ = read(kb, next(cohort.pieces(patients)))
    moment = engine.parse_as_of(AS_OF)
    start = time.process_time()
    want = [json.dumps(r.data) for b in engine.batches(facts) for r in engine._by_store(kb.knowledge, b, moment, False)]
    middle = time.process_time()
    got = [json.dumps(result.data) for result in engine.assess(kb.knowledge, facts, moment)]
    end = time.process_time()
    same = sum(one == other for one, other in zip(want, got, strict=True))
    rates = patients / (middle - start), patients / (end - middle)
    print(f"\n{patients} patients without reading: Oxigraph {rates[0]:.0f} patients/s, here {rates[1]:.0f}")
    print(f"  {(middle - start) / (end - middle):.1f} x as fast; {same} of {patients} answers identical")


def one_patient(kb: kbtool.KnowledgeBase, cohort: Cohort) -> None:
    """A single patient, warm."""
    data = cohort.patient(1).encode()
    program = kb.knowledge.__dict__["_program"]

    def median() -> float:
        taken = []
        for _ in range(30):
            start = time.process_time()
            kb.assess(data, as_of=AS_OF, format="n-triples")
            taken.append(time.process_time() - start)
        return statistics.median(taken) * 1000

    ours = median()
    kb.knowledge.__dict__["_program"] = None
    peer = median()
    kb.knowledge.__dict__["_program"] = program
    print(f"\none patient, warm kb.assess: {ours:.1f} ms; by Oxigraph {peer:.1f} ms, {peer / ours:.1f} x")


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, nargs="+", default=[1000, 10000], help="sizes of cohorts (100000 takes minutes)")
    parser.add_argument("--peer", type=int, default=300, help="how many patients Oxigraph answers beside")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}")
    start = time.process_time()
    kb = kbtool.load()
    loaded = time.process_time()
    engine.prepare(kb.knowledge)
    print(f"loading the knowledge {(loaded - start) * 1000:.0f} ms, planning {(time.process_time() - loaded) * 1000:.0f} ms")
    cohort = Cohort(kb.knowledge)
    rates = [measure(kb, cohort, patients) for patients in arguments.patients]
    if len(rates) > 1:
        print(f"\nrate with {arguments.patients[-1]} patients to rate with {arguments.patients[0]}: {rates[-1] / rates[0]:.2f}")
    beside_oxigraph(kb, cohort, arguments.peer)
    one_patient(kb, cohort)


if __name__ == "__main__":
    main()
