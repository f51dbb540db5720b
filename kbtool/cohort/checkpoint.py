"""What a run remembers on the disk, so that it can be stopped at any moment: OUT.state and the folder OUT.parts.

A batch is written to a file of its own, which gets its name only once its bytes are on the disk; then a line about it is
added to OUT.state. A batch without its line is done again and replaces its file, so that nothing is lost or doubled
whatever the moment. A line that is torn counts as not written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from kbtool.cohort.units import Batch, CohortError, Fragment, Json, Position

_WORDS = {
    "inputs": "the inputs",
    "kb": "the knowledge base",
    "asOf": "the as-of time",
    "kbtool": "the version of kbtool",
    "out": "the output",
    "strict": "--strict",
    "batch": "--batch",
    "partition": "--partition",
}


class Checkpoint:
    """The state of one run.

    about: what the run is, as `identity` in running.py makes it. done: the lines about finished batches, by number.
    """

    def __init__(self, out: Path) -> None:
        self.state = out.with_suffix(".state")
        self.parts = out.with_suffix(".parts")
        self.about: Json = {}
        self.done: dict[int, Json] = {}
        self._stream: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None

    def open(self, about: Json, *, restart: bool, as_of_given: bool) -> bool:
        """Go on with an unfinished run, or begin one. Returns whether it goes on.

        as_of_given: whether the as-of time of `about` was asked for, and not just now. Raises CohortError where another
        process writes the same output, or an unfinished run is about something else.
        """
        self._take()
        lines = [] if restart else self._read()
        if lines and "finished" not in lines[0]:
            found = lines[0]
            wanted = about if as_of_given else about | {"asOf": found.get("asOf")}
            other = [key for key in wanted if found.get(key) != wanted[key]]
            if other:
                what = " and ".join(_WORDS.get(key, key) + _difference(found.get(key), wanted[key]) for key in other)
                raise CohortError(
                    f"{self.state}: an unfinished run stands there, and {what} changed since; start it as it was, "
                    "or begin anew with --restart"
                )
            self.about = found
            self.done = {line["number"]: line for line in lines[1:] if self._file(line["number"]).is_file()}
            self.parts.mkdir(exist_ok=True)
            self._rewrite([self.about, *self.done.values()])
            return True
        self.about = about
        shutil.rmtree(self.parts, ignore_errors=True)  # before the state is there, so that no old part is taken for a new one
        self._rewrite([about])
        self.parts.mkdir(exist_ok=True)
        return False

    def next(self) -> Batch | None:
        """The last of the batches that are done without a gap, as a place to go on from."""
        number = -1
        while number + 1 in self.done:
            number += 1
        if number < 0:
            return None
        line = self.done[number]
        return Batch(number, [], Position(*line["start"]), Position(*line["end"]), line["read"])

    def write(self, batch: Batch, fragments: list[Fragment], without: int = 0) -> None:
        """Keep what came of a batch. without: how many of its patients were refused because they stand elsewhere too."""
        file = self._file(batch.number)
        with replacing(file) as stream:
            for fragment in fragments:
                sizes = [len(chunk) for chunk in fragment.out]
                head = {**fragment.head, "out": sizes, "lines": len(fragment.refused), "nodes": len(fragment.nodes)}
                stream.write(json.dumps(head, ensure_ascii=False).encode() + b"\n")
                for data in (*fragment.out, fragment.refused, fragment.nodes):
                    stream.write(data)
        line: Json = {"number": batch.number, "without": without, "read": batch.read}
        line |= {"start": batch.start.to_json(), "end": batch.end.to_json()}
        for name in ("patients", "refused", "unread", "notAccepted"):
            line[name] = sum(fragment.head[name] for fragment in fragments)
        line["nodes"] = sum(len(fragment.nodes) for fragment in fragments)
        self.done[batch.number] = line
        assert self._stream is not None
        self._stream.write(json.dumps(line).encode() + b"\n")
        _flush(self._stream)

    def read(self, number: int) -> Iterator[Fragment]:
        """What was kept of a batch."""
        with self._file(number).open("rb") as stream:
            while line := stream.readline():
                head = json.loads(line)
                out = [stream.read(size) for size in head["out"]]
                yield Fragment(head, out, stream.read(head["lines"]), stream.read(head["nodes"]))

    def nodes(self, number: int) -> Iterator[bytes]:
        """The entries of the ledger that a batch left, without reading the answers."""
        with self._file(number).open("rb") as stream:
            while line := stream.readline():
                head = json.loads(line)
                stream.seek(sum(head["out"]) + head["lines"], os.SEEK_CUR)
                yield stream.read(head["nodes"])

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The output is in place: keep only what the run was and what it found."""
        self._rewrite([{**self.about, "finished": True, **summary}])
        shutil.rmtree(self.parts, ignore_errors=True)

    def close(self) -> None:
        """Let others write the output."""
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
        for stream in (self._stream, self._lock):
            if stream is not None:
                stream.close()
        self._stream = self._lock = None

    def _file(self, number: int) -> Path:
        return self.parts / f"{number:07}"

    def _read(self) -> list[Json]:
        """The lines of the state; those after one that is torn were not written."""
        lines: list[Json] = []
        try:
            data = self.state.read_bytes()
        except FileNotFoundError:
            return []
        for line in data.splitlines(keepends=True):
            try:
                found = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not isinstance(found, dict):
                break
            lines.append(found)
        if data and not lines:
            raise CohortError(f"{self.state}: is not the state of a run; remove it, or write to another place")
        return lines

    def _rewrite(self, lines: list[Json]) -> None:
        if self._stream is not None:
            self._stream.close()
        with replacing(self.state) as stream:
            for line in lines:
                stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._stream = self.state.open("ab")

    def _take(self) -> None:
        """Keep a second run away from the same output; the lock goes with the process, however it ends."""
        try:
            import fcntl
        except ImportError:  # not on this system: two runs at once are the user's care
            return
        file = self.state.with_suffix(".lock")
        lock = file.open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(lock.fileno()), file.stat())
        except OSError:
            mine = False
        if not mine:
            lock.close()
            raise CohortError(f"{self.state}: another run is writing this output; wait for it, or write elsewhere")
        self._lock = lock


def _difference(old: Any, new: Any) -> str:
    return f" ({old}, now {new})" if isinstance(old, str) and isinstance(new, str) else ""


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name, in place of what was there, only when it is whole and on the disk."""
    temporary = file.with_name(file.name + ".tmp")
    with temporary.open("wb") as stream:
        yield stream
        _flush(stream)
    temporary.replace(file)
    with contextlib.suppress(OSError):  # not every system lets a folder be synchronised
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _flush(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
