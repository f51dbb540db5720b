"""Show on standard error how a run goes: a bar on a terminal, a line now and then elsewhere. Nothing about any patient."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kbtool.cohort.running import Watch

if TYPE_CHECKING:
    from rich.progress import Progress

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def showing(quiet: bool) -> Iterator[Watch]:
    """What shows a run, for as long as it takes."""
    if quiet:
        yield Quiet()
    elif not sys.stderr.isatty():
        yield Lines(lambda line: print(line, file=sys.stderr, flush=True))
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield Bar(progress)


class Quiet(Watch):
    """Only what has to be known."""

    def warn(self, message: str) -> None:
        """Something that whoever started the run has to know."""
        print(f"kbtool: {message}", file=sys.stderr, flush=True)


class Lines(Watch):
    """A line now and then. clock: seconds."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.say, self.clock = say, clock
        self.total = self.first = self.read = self.patients = self.refused = 0
        self.began = self.said = clock()

    def begin(self, total: int, read: int, patients: int) -> None:
        """Bytes of all inputs; bytes and patients that were done by an earlier start."""
        self.total, self.first, self.read = total, read, read
        self.began = self.said = self.clock()
        if patients:
            self.say(f"going on: {patients} patients were done before")

    def batch(self, patients: int, refused: int, read: int) -> None:
        """A batch is done."""
        self.patients, self.refused, self.read = self.patients + patients, self.refused + refused, max(self.read, read)
        now = self.clock()
        if now - self.said >= EVERY:
            self.said = now
            self.say(f"{self.state()}, {self.left()}")

    def note(self, message: str) -> None:
        """Something that is worth a line."""
        self.say(f"kbtool: {message}")

    def state(self) -> str:
        """How many patients, and how fast."""
        rate = self.patients / max(self.clock() - self.began, 1e-9)
        refused = f", {self.refused} refused" if self.refused else ""
        return f"{self.patients} patients{refused}, {rate:.0f} a second"

    def left(self) -> str:
        """How much is left, by the bytes that were read since the start."""
        done = self.read - self.first
        if done <= 0 or not self.total:
            return "time left unknown"
        seconds = (self.clock() - self.began) * (self.total - self.read) / done
        minutes, rest = divmod(round(seconds), 60)
        return f"{100 * self.read / self.total:.0f} %, {minutes}:{rest:02} left"


class Bar(Lines):
    """A bar on a terminal."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress.console.print)
        self.progress = progress
        self.task = progress.add_task("reading", total=None)

    def begin(self, total: int, read: int, patients: int) -> None:
        """Bytes of all inputs; bytes and patients that were done by an earlier start."""
        super().begin(total, read, patients)
        self.progress.update(self.task, total=total, completed=read)

    def batch(self, patients: int, refused: int, read: int) -> None:
        """A batch is done."""
        self.said = float("inf")
        super().batch(patients, refused, read)
        self.progress.update(self.task, completed=self.read, description=self.state())
