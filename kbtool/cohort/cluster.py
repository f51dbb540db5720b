"""Let a Dask cluster assess the batches: the same tasks, in workers on other machines.

The workers need the same kbtool with the same knowledge (a worker with another one says so, and nothing is answered), and
no access to the files: facts travel to them, answers back. Dask moves the task of a worker that dies to another one; a task
of which several die comes back as lost, and is halved as in processes of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from kbtool.cohort.units import CohortError, Fragment, Job, Stretch
from kbtool.cohort.workers import Lost, Task, attempt, prepare

CONNECT = 20
"""Seconds to wait for the scheduler."""


class Cluster:
    """Workers of a Dask scheduler. Raises CohortError where it does not answer or its workers cannot do the task."""

    def __init__(self, job: Job, scheduler: str) -> None:
        self.job = job
        self.dask: Any = import_module("distributed")
        try:
            self.client = self.dask.Client(scheduler, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise CohortError(f"{scheduler}: no Dask scheduler answers there ({error})") from None
        self._tasks: dict[Any, Task] = {}
        try:
            self._check(scheduler)
        except CohortError:
            self.close()
            raise

    def free(self) -> int:
        """How many more tasks it takes now: two for each thread of a worker."""
        threads: int = sum(self.client.nthreads().values())
        return max(2 * threads, 2) - len(self._tasks)

    def busy(self) -> bool:
        """Whether any task is under way."""
        return bool(self._tasks)

    def submit(self, task: Task) -> None:
        """Take a task."""
        units = [unit.loaded() if isinstance(unit, Stretch) else unit for unit in task.units]  # they cannot read the files
        future = self.client.submit(attempt, units, self.job, task.scattered, pure=False)
        self._tasks[future] = task

    def wait(self) -> Iterator[tuple[Task, Fragment | Lost]]:
        """The tasks that have been done, at least one. Raises CohortError where none can ever be."""
        with self.client.as_current():
            done = self.dask.wait(list(self._tasks), return_when="FIRST_COMPLETED").done
        for future in done:
            task = self._tasks.pop(future)
            error = future.exception()
            outcome = Lost(f"assessing it failed in the cluster ({type(error).__name__})") if error else future.result()
            future.release()
            if isinstance(outcome, CohortError):
                raise outcome
            yield task, outcome

    def close(self) -> None:
        """Leave the cluster as it was."""
        for future in self._tasks:
            future.cancel()
        self._tasks.clear()
        self.client.close()

    def _check(self, scheduler: str) -> None:
        try:
            answers = self.client.run(prepare, self.job, on_error="return")
        except (OSError, ValueError, TimeoutError) as error:
            raise CohortError(f"{scheduler}: its workers do not answer ({error})") from None
        for worker, answer in answers.items():
            if answer is not None:
                said = str(answer) if isinstance(answer, CohortError) else f"{type(answer).__name__}: {answer}"
                raise CohortError(f"worker {worker}: {said}")
