"""What tests of cohorts share: workers in this process, workers that die of a patient, runs that are killed at each moment."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import kbtool.cohort.running as cohort_run
import kbtool.cohort.workers as workers
from kbtool.cohort import CohortError, Settings, Total, Watch, run
from kbtool.cohort.units import Fragment, Job, Json, Scattered, Stretch, Unit
from kbtool.cohort.workers import Lost, Task, attempt
from kbtool.knowledge import Knowledge

POISON = b"poison"
"""A unit with this in it kills the process that assesses it, where `serve_poison` is at work."""


class Inline:
    """Workers in this process, which give back what they have done in an order of their own."""

    def __init__(self, job: Job, number: int = 1) -> None:
        self.job, self.number, self.ready = job, number, deque[Task]()

    def free(self) -> int:
        return 3 - len(self.ready)

    def busy(self) -> bool:
        return bool(self.ready)

    def submit(self, task: Task) -> None:
        self.ready.append(task)

    def wait(self) -> Iterator[tuple[Task, Fragment | Lost]]:
        task = self.ready.pop()  # the last comes first: the order of the output must not depend on it
        outcome = attempt(task.units, self.job, task.scattered)
        if isinstance(outcome, CohortError):
            raise outcome
        yield task, outcome

    def close(self) -> None:
        pass


def run_here(settings: Settings, watch: Watch | None = None) -> tuple[Json, Total]:
    """A run without other processes."""
    kept = cohort_run.Processes
    cohort_run.Processes = Inline  # type: ignore[assignment,misc]
    try:
        return run(settings, watch)
    finally:
        cohort_run.Processes = kept  # type: ignore[misc]


def poisoned(units: list[Unit | Stretch]) -> bool:
    """Whether there is poison in units."""
    return any(POISON in (unit.loaded() if isinstance(unit, Stretch) else unit).data for unit in units)


def serve_poison(pipe: Connection, job: Job) -> None:
    """A worker process that is killed, as by the kernel for want of memory, when it gets poison."""

    def killed_or(units: list[Unit | Stretch], job: Job, scattered: Scattered) -> Fragment | Lost | CohortError:
        if poisoned(units):
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt(units, job, scattered)

    workers.attempt = killed_or
    workers.serve(pipe, job)


def serve_failing(pipe: Connection, job: Job) -> None:
    """A worker process in which assessing poison fails with an error that nobody foresaw."""
    import kbtool.cohort.assess as assessing

    kept = assessing.assess

    def failing(units: list[Unit | Stretch], job: Job, scattered: Scattered) -> Fragment:
        if poisoned(units):
            raise ZeroDivisionError
        return kept(units, job, scattered)

    assessing.assess = failing
    workers.serve(pipe, job)


def serve_never(pipe: Connection, job: Job) -> None:
    """A worker process that cannot start."""
    os._exit(3)


class _Death:
    """Kills this process before the n-th time that something is brought to the disk or gets its name."""

    def __init__(self, number: int) -> None:
        self.left = number
        for name, owner in (("fsync", os), ("replace", Path)):
            self._wrap(owner, name)

    def _wrap(self, owner: object, name: str) -> None:
        kept: Callable[..., object] = getattr(owner, name)

        def counted(*given: object, **named: object) -> object:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return kept(*given, **named)

        setattr(owner, name, counted)


def killed_at_every_step(settings: Callable[[Path], Settings], folder: Path, compare: Callable[[Path], bytes]) -> tuple[int, int]:
    """Kill a run before each of its steps on the disk, start it again, and compare what comes out with `compare` of an
    uninterrupted run. Returns how many steps there are, and how often the output differed. Forks, so call it in a process
    of one thread."""
    whole = folder / "whole"
    whole.mkdir()
    run_here(settings(whole))
    wanted = compare(whole)
    step = different = 0
    while True:
        step += 1
        here = folder / str(step)
        here.mkdir()
        if _child(settings(here), step) == 0:
            return step - 1, different
        after = step + 1 if step % 3 == 0 else 10**6
        while _child(settings(here), after) != 0:  # now and then again, a little later each time
            after += 4
        different += compare(here) != wanted


def _child(settings: Settings, death: int) -> int:
    """Run in a child that is killed before a step. Returns 0 where it came to its end before, and not 0 where it was killed."""
    child = os.fork()
    if child == 0:
        try:
            _Death(death)
            run_here(settings)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise AssertionError(f"the run ended by itself with {code}")
    return code


def _read_all(form: str) -> Callable[[Path], bytes]:
    return lambda folder: b"".join((folder / f"out{end}").read_bytes() for end in (f".{form}", ".refused.ndjson"))


def main() -> None:
    """python tests/cohort_helpers.py INPUT FOLDER FORM BATCH: kill a run at every step; print steps and differences."""
    given, folder, form, batch = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

    def settings(here: Path) -> Settings:
        return Settings([given], here / f"out.{form}", as_of="2026-02-10T12:00:00Z", size=batch)

    knowledge = Knowledge.load()  # once, before the forks
    Knowledge.load = lambda *_: knowledge  # type: ignore[method-assign,assignment,misc]
    print(*killed_at_every_step(settings, folder, _read_all(form)))


if __name__ == "__main__":
    main()
