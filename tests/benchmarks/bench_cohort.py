"""Measure `kbtool cohort` from bytes to answers, with validation: rate, memory, and whether time is linear in patients.

    python tests/benchmarks/bench_cohort.py                          # 1 000 and 4 000 patients
    python tests/benchmarks/bench_cohort.py 1000 10000 200000        # any sizes; the rates are compared with the first
    python tests/benchmarks/bench_cohort.py 2000 --forms nt --jobs 1 --runs 3

For each size, form of input and number of processes the command runs as a user starts it, start and end included. Peers in
the same run: `kbtool assess` of the same facts in one process, and rdflib that only reads them. Prints medians and ratios;
nothing is asserted about time, because the machine decides. That all outputs are the same is asserted.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cohort as made

ROOT = Path(__file__).parent.parent.parent


def tree_memory(pid: int) -> int:
    """Kilobytes that a process and its children hold, where /proc tells it; pages that they share are counted in parts."""
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            waiting += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total


def timed(words: list[str]) -> tuple[float, float, float]:
    """Seconds of wall and processor, and the most megabytes of memory, of a command with its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            most[0] = max(most[0], tree_memory(process.pid))

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
    return wall, busy, most[0] / 1024


def cohort(file: Path, out: Path, jobs: int) -> tuple[float, float, float]:
    words = [
        sys.executable,
        "-m",
        "kbtool",
        "cohort",
        str(file),
        "-o",
        str(out),
        "--as-of",
        made.AS_OF,
        "--jobs",
        str(jobs),
        "-q",
    ]
    return timed([*words, "--restart"])


def peers(file: Path, patients: int) -> None:
    words = [sys.executable, "-m", "kbtool", "assess", str(file), "--as-of", made.AS_OF, "--format", "json", "-q"]
    if file.suffix == ".nt":
        wall, busy, memory = timed(words)
        line("kbtool assess", file.suffix[1:], patients, 1, wall, busy, memory)
        code = "import sys, rdflib; rdflib.Graph().parse(sys.argv[1], format='nt')"
        wall, busy, memory = timed([sys.executable, "-c", code, str(file)])
        line("rdflib, reading only", file.suffix[1:], patients, 1, wall, busy, memory)


def line(what: str, form: str, patients: int, jobs: int, wall: float, busy: float, memory: float, more: str = "") -> None:
    rate, effort = patients / wall, patients / busy
    print(f"{what:<22} {form:<8} {patients:>8} {jobs:>5} {rate:>10.0f} {effort:>12.0f} {memory:>8.0f}  {more}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=int, nargs="*", default=[1000, 4000])
    parser.add_argument("--forms", nargs="+", default=["nt", "ndjson"], choices=["nt", "ttl", "ndjson", "nt.gz"])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", default="ndjson", choices=["ndjson", "parquet", "ttl"])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true")
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}; output .{given.out}")
    print(f"{'':<22} {'input':<8} {'patients':>8} {'jobs':>5} {'patients/s':>10} {'per CPU s':>12} {'MB':>8}")
    first: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for patients in given.patients:
            for form in given.forms:
                file = Path(folder) / f"in.{form}"
                made.write(file, patients)
                said = set()
                for jobs in given.jobs:
                    out = Path(folder) / f"out.{given.out}"
                    runs = [cohort(file, out, jobs) for _ in range(given.runs)]
                    wall, busy, memory = (statistics.median(values) for values in zip(*runs, strict=True))
                    said.add(hashlib.sha256(out.read_bytes()).hexdigest())
                    effort = first.setdefault((form, jobs), patients / busy)
                    size = file.stat().st_size / patients / 1000
                    more = f"{patients / busy / effort:.2f} x the rate of the first size; {size:.1f} kB each"
                    line("kbtool cohort", form, patients, jobs, wall, busy, memory, more)
                assert len(said) == 1, "the outputs of different numbers of processes differ"
                if patients == given.patients[0] and not given.no_peers:
                    peers(file, patients)
                file.unlink()


if __name__ == "__main__":
    main()
