"""Processes that assess batches. One that dies (killed, out of memory) loses nothing: its task is reported as lost."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from kbtool.cohort.checkpoint import keep
from kbtool.cohort.cut import Vocabulary, whole
from kbtool.cohort.units import CohortError, Fragment, Job, Scattered, Stretch, Unit
from kbtool.criteria import CriterionError
from kbtool.knowledge import KnowledgeError
from kbtool.shapes import UnsupportedShape

TRIES = 2
"""How often units are tried before they are halved to find the patient of whom processes die."""


@dataclass(frozen=True, eq=False)
class Task:
    """Units to assess: a batch or a part of one.

    scattered: patients to refuse. tries: how often it was lost before. part: its place in
    the batch, as the path of halves that led to it.
    """

    batch: int
    units: list[Unit | Stretch]
    scattered: Scattered = field(default_factory=Scattered)
    tries: int = 0
    part: tuple[int, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether there is nothing left to try."""
        return len(self.units) == 1 and self.tries + 1 >= TRIES

    def after_loss(self, vocabulary: Vocabulary) -> list[Task]:
        """What to try after it was lost; by the vocabulary patients are told apart."""
        if self.tries + 1 < TRIES or len(self.units) == 1:
            return [replace(self, units=[*whole(self.units, vocabulary)], tries=self.tries + 1)]
        middle = len(self.units) // 2
        halves = (self.units[:middle], self.units[middle:])
        return [replace(self, units=half, tries=TRIES - 1, part=(*self.part, n)) for n, half in enumerate(halves)]


@dataclass(frozen=True)
class Lost:
    """A task whose process died or failed: why, in words without anything about a patient."""

    reason: str


class Workers(Protocol):
    """What assesses tasks: processes here, or an engine elsewhere."""

    def free(self) -> int:
        """How many more tasks it takes now."""

    def submit(self, task: Task) -> None:
        """Take a task."""

    def busy(self) -> bool:
        """Whether any task is under way."""

    def wait(self) -> Iterator[tuple[Task, Fragment | Lost]]:
        """The tasks that have been done, at least one; waits for it. Raises CohortError where none can ever be."""

    def close(self) -> None:
        """End everything."""


_STARTS = 5
"""Processes that may end one after the other before they are ready for work."""


class Processes:
    """Workers on this machine. Each loads the knowledge once; one more task than there are workers is held, for whoever is free
    first."""

    target: Callable[[Connection, Job], None]

    def __init__(self, job: Job, number: int) -> None:
        self.job, self.number = job, number
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[_Worker] = []
        self._working: dict[_Worker, Task] = {}
        self._ready: deque[Task] = deque()
        self._failed = 0

    def free(self) -> int:
        """How many more tasks it takes now."""
        return self.number + 1 - len(self._working) - len(self._ready)

    def busy(self) -> bool:
        """Whether any task is under way."""
        return bool(self._working or self._ready)

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._ready.append(task)
        self._feed()

    def wait(self) -> Iterator[tuple[Task, Fragment | Lost]]:
        """The tasks that have been done, at least one. Raises CohortError for what would stop every task."""
        done: list[tuple[Task, Fragment | Lost]] = []
        while not done:
            handles: dict[Any, _Worker] = {worker.pipe: worker for worker in self._working}
            handles |= {worker.process.sentinel: worker for worker in self._working}
            ready = {handles[handle] for handle in wait(list(handles))}
            for worker in [w for w in self._working if w in ready]:
                done += self._receive(worker)
            self._feed()
        yield from done

    def _receive(self, worker: _Worker) -> Iterator[tuple[Task, Fragment | Lost]]:
        began, outcome = worker.began, worker.receive()
        if outcome is None:
            self._failed = 0
            return
        task = self._working.pop(worker)
        if isinstance(outcome, CohortError):
            raise outcome
        if worker.alive:
            self._idle.append(worker)
        if began:
            yield task, outcome
            return
        self._ready.appendleft(task)  # the process ended before it looked at the task
        self._failed += 1
        if self._failed > _STARTS and isinstance(outcome, Lost):
            raise CohortError(f"no process that assesses patients can start: {outcome.reason}")

    def close(self) -> None:
        """End the processes."""
        for worker in (*self._idle, *self._working):
            worker.end()
        self._idle, self._working = [], {}

    def _feed(self) -> None:
        while self._ready and len(self._working) < self.number:
            worker = self._idle.pop() if self._idle else _Worker(self._context, self.job, self.target)
            if not worker.process.is_alive():
                worker.end()
                continue
            task = self._ready.popleft()
            self._working[worker] = task
            worker.send(task)


class _Worker:
    """One process and the pipe to it."""

    def __init__(
        self, context: multiprocessing.context.SpawnContext, job: Job, target: Callable[[Connection, Job], None]
    ) -> None:
        self.pipe, far = context.Pipe()
        self.process: SpawnProcess = context.Process(target=target, args=(far, job), daemon=True)
        self.process.start()
        far.close()
        self.alive, self.began = True, False

    def send(self, task: Task) -> None:
        """Hand a task over; that the process is dead is found on receiving."""
        try:
            self.pipe.send((task.units, task.scattered))
        except OSError:
            self.alive = False

    def receive(self) -> Fragment | Lost | CohortError | None:
        """What came of the task; None where the process only says that it is ready."""
        try:
            if self.alive:
                answer: Fragment | Lost | CohortError | None = self.pipe.recv()
                self.began = True
                return answer
        except (EOFError, OSError):
            pass
        self.end()
        return Lost(f"the process that assessed it ended ({_ending(self.process.exitcode)})")

    def end(self) -> None:
        """End the process."""
        self.alive = False
        self.pipe.close()
        self.process.join(0.2)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


class _WithoutPandas:
    """Keeps pandas out of a worker: pyarrow would load it, if it is there, and not need it."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(f"no module named {name} is wanted here", name=name)


def serve(pipe: Connection, job: Job) -> None:
    """What a worker process does until its parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.meta_path.insert(0, _WithoutPandas)
    ready = prepare(job)
    gc.collect()
    gc.freeze()  # what stays is not searched for circles again and again; those of a task are looked for after it
    gc.disable()
    with contextlib.suppress(OSError):
        pipe.send(ready)
    for number in count():
        try:
            units, scattered = pipe.recv()
        except (EOFError, OSError):
            return
        outcome = attempt(units, job, scattered)
        if isinstance(outcome, Fragment) and job.parts is not None:
            outcome = _keep(outcome, Path(job.parts), f"{os.getpid()}-{number}.new")
        try:
            pipe.send(outcome)
        except OSError:
            return
        del units, scattered, outcome
        gc.collect()


def _keep(fragment: Fragment, parts: Path, name: str) -> Fragment | CohortError:
    try:
        return keep(fragment, parts, name)
    except OSError as error:
        return CohortError(f"{parts / name}: cannot be written: {error.strerror}")


Processes.target = staticmethod(serve)


def prepare(job: Job) -> CohortError | None:
    """Load what every task needs."""
    from kbtool.cohort.assess import knowledge_of

    try:
        knowledge_of(job.ontology, job.sha256)
    except (CohortError, KnowledgeError, CriterionError, UnsupportedShape) as error:
        return CohortError(str(error))
    return None


def attempt(units: list[Unit | Stretch], job: Job, scattered: Scattered) -> Fragment | Lost | CohortError:
    """Assess units; an error does not end the process."""
    from kbtool.cohort.assess import assess

    try:
        return assess(units, job, scattered)
    except CohortError as error:
        return error
    except MemoryError:
        return Lost("the process that assessed it ran out of memory")
    except Exception as error:  # one patient must not stop the others; which one it is, is found by halving
        return Lost(f"assessing it failed ({type(error).__name__})")


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code}, {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def cores() -> int:
    """How many processes this machine has room for."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
