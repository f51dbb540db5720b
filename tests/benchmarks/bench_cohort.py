"""Measure `kbtool cohort` from bytes to answers, with validation: rate, memory, and whether time is linear in patients.

    python tests/benchmarks/bench_cohort.py                            # 1 000 and 20 000 patients
    python tests/benchmarks/bench_cohort.py 1000 20000 200000          # any sizes; rates are compared with the smallest
    python tests/benchmarks/bench_cohort.py 2000 --inputs nt --jobs 1 --out parquet --runs 3 --summary

For each size, form of input and number of processes the command runs as a user starts it, start and end included. Rates are
patients a second by the clock, and by the time of all processors together. Memory is the highest total of the command with
all of its processes, seen 20 times a second: PSS counts pages that they share once, RSS once for each. Peers in the same run:
`kbtool assess` of the same facts in one process, and rdflib that only reads them. Inputs are made once, into --folder if it
is given, and used again. Prints medians and ratios; nothing is asserted about time, because the machine decides. That all
outputs are the same is asserted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cohort as made

ROOT = Path(__file__).parent.parent.parent
ONE_JOB = {"ndjson"}
"""Inputs that are measured with one process only."""


@dataclass
class Measure:
    """Seconds by the clock and of all processors; megabytes at most, pages that are shared counted once, and once for each."""

    wall: float
    busy: float
    pss: float
    rss: float

    @classmethod
    def median(cls, runs: list[Measure]) -> Measure:
        """The middle of several."""
        return cls(*(statistics.median(getattr(run, name) for run in runs) for name in ("wall", "busy", "pss", "rss")))


def tree_memory(pid: int) -> tuple[int, int]:
    """Kilobytes that a process and all below it hold, as PSS and as RSS, where /proc tells it."""
    pss, rss, waiting = 0, 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()[1:]
            held = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            pss, rss = pss + held["Pss"], rss + held["Rss"]
        except (OSError, KeyError):  # it ended meanwhile
            continue
    return pss, rss


def timed(words: list[str]) -> Measure:
    """Run a command and measure it with its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    most, over = [0, 0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            pss, rss = tree_memory(process.pid)
            most[:] = max(most[0], pss), max(most[1], rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    over.set()
    watcher.join()
    wall = time.perf_counter() - start
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(words)}: {process.returncode}\n{errors.decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measure(wall, busy, most[0] / 1024, most[1] / 1024)


def kbtool(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "kbtool", *map(str, words)]


def cohort(file: Path, out: Path, jobs: int, *, summary: bool) -> Measure:
    more = ["--summary"] if summary else []
    return timed(kbtool("cohort", file, "-o", out, "--as-of", made.AS_OF, "--jobs", str(jobs), "-q", "--restart", *more))


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def given_input(folder: Path, form: str, patients: int) -> Path:
    """The cohort of a size, made if it is not there yet; written as a stream, and named only when it is whole."""
    file = folder / f"cohort-{patients}.{form}"
    if not file.exists():
        making = folder / f"making-{patients}.{form}"
        made.write(making, patients)
        making.replace(file)
    return file


@contextmanager
def folder_of(kept: Path | None) -> Iterator[Path]:
    if kept is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept


def line(what: str, form: str, patients: int, jobs: int, found: Measure, more: str = "") -> None:
    rates = f"{patients / found.wall:>11.0f} {patients / found.busy:>11.0f}"
    print(f"{what:<22} {form:<7} {patients:>8} {jobs:>5} {rates} {found.pss:>8.0f} {found.rss:>8.0f}  {more}", flush=True)


def compared(patients: int, found: Measure, fewer: int, first: Measure) -> str:
    """The rates beside those of the smallest size, and what each patient more costs, which leaves the start out."""
    if patients == fewer:
        return ""
    clock, busy = (patients / found.wall) / (fewer / first.wall), (patients / found.busy) / (fewer / first.busy)
    each = [(now - then) / (patients - fewer) * 1e6 for now, then in ((found.wall, first.wall), (found.busy, first.busy))]
    return f"{clock:.2f} and {busy:.2f} x the rates of {fewer}; each more {each[0]:.0f} us by the clock, {each[1]:.0f} of CPU"


def peers(file: Path, patients: int) -> None:
    line("kbtool assess", "nt", patients, 1, timed(kbtool("assess", file, "--as-of", made.AS_OF, "--format", "json", "-q")))
    code = "import sys, rdflib; rdflib.Graph().parse(sys.argv[1], format='nt')"
    line("rdflib, reading only", "nt", patients, 1, timed([sys.executable, "-c", code, str(file)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=int, nargs="*", default=[1000, 20000])
    parser.add_argument("--inputs", nargs="+", default=["nt", "ndjson"], choices=["nt", "ttl", "ndjson", "nt.gz"])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2], help="FHIR is measured with one process only")
    parser.add_argument("--out", default="ndjson", choices=["ndjson", "parquet", "ttl"])
    parser.add_argument("--summary", action="store_true", help="with --summary, and the same again of the output")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the inputs here, and use those that are here")
    parser.add_argument("--no-peers", action="store_true")
    given = parser.parse_args()
    sizes = sorted(given.patients)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}; output .{given.out}")
    print(f"{'':<22} {'input':<7} {'patients':>8} {'jobs':>5} {'by clock/s':>11} {'by CPU/s':>11} {'PSS MB':>8} {'RSS MB':>8}")
    smallest: dict[tuple[str, int], Measure] = {}
    with folder_of(given.folder) as folder, tempfile.TemporaryDirectory() as results:
        out = Path(results) / f"out.{given.out}"
        for patients in sizes:
            for form in given.inputs:
                file = given_input(folder, form, patients)
                said = set()
                for jobs in given.jobs if form not in ONE_JOB else [1]:
                    found = Measure.median([cohort(file, out, jobs, summary=given.summary) for _ in range(given.runs)])
                    said.add(digest(out))
                    first = smallest.setdefault((form, jobs), found)
                    clock, busy = sizes[0] / first.wall, sizes[0] / first.busy
                    ratio = (
                        f"{patients / found.wall / clock:.2f} and {patients / found.busy / busy:.2f} x the rates of {sizes[0]}"
                    )
                    line("kbtool cohort", form, patients, jobs, found, ratio if patients > sizes[0] else "")
                if len(said) > 1:
                    raise SystemExit("the outputs of different numbers of processes differ")
                if given.summary:
                    line("kbtool cohort --summary", given.out, patients, 1, timed(kbtool("cohort", "--summary", out)))
                if form == "nt" and patients == sizes[0] and not given.no_peers:
                    peers(file, patients)
                if given.folder is None:
                    file.unlink()


if __name__ == "__main__":
    main()
