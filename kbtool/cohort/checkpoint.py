"""What a run remembers on the disk, so that it can be stopped at any moment: OUT.state and the folder OUT.parts.

A batch is written to a file of its own, by the worker where it can, which gets its name only once its bytes are on the disk;
then a line about it is added to OUT.state. A batch without its line is done again and replaces its file, so that nothing is
lost or doubled whatever the moment. A line that is torn counts as not written.
"""

from __future__ import annotations

import contextlib
import errno
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


_MARK = "kbtool-cohort"
"""The file that tells that a folder is one of ours, which may be removed."""


class Checkpoint:
    """The state of one run.

    about: what the run is, as `identity` in running.py makes it. done: the lines about finished batches, by number.
    """

    def __init__(self, out: Path) -> None:
        self.state = out.with_suffix(".state")
        self.lock = out.with_suffix(".lock")
        self.parts = out.with_suffix(".parts")
        self.about: Json = {}
        self.done: dict[int, Json] = {}
        self._stream: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None

    def open(self, about: Json, *, restart: bool, as_of_given: bool) -> bool:
        """Go on with an unfinished run, or begin one. Returns whether it goes on.

        as_of_given: whether the as-of time of `about` was asked for, and not just now. Raises CohortError where another
        process writes the same output, an unfinished run is about something else, or what stands in the place of the state is not
        ours.
        """
        self._take()
        lines = self._read()
        self._own_parts()
        if lines and "finished" not in lines[0] and not restart:
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
            for left in (file for end in ("new", "tmp", "sqlite*") for file in self.parts.glob(f"*.{end}")):
                left.unlink(missing_ok=True)  # first of all: it may be what fills the disk
            self._make_parts()
            self._rewrite([self.about, *self.done.values()])
            return True
        self.about = about
        self._clear_parts()  # before the state is there, so that no old part is taken for a new one
        self._rewrite([about])
        self._make_parts()
        return False

    def next(self) -> Batch | None:
        """The last of the batches that are done without a gap, as a place to go on from."""
        number = -1
        while number + 1 in self.done:
            number += 1
        if number < 0:
            return None
        line = self.done[number]
        return Batch([], Position(*line["end"]), line["read"], number, Position(*line["start"]))

    def write(self, batch: Batch, fragments: list[Fragment], without: int = 0) -> None:
        """Keep what came of a batch. without: how many of its patients were refused because they stand elsewhere too."""
        file = self._file(batch.number)
        if len(fragments) == 1 and fragments[0].kept is not None:
            (self.parts / fragments[0].kept).replace(file)
            _flush_folder(self.parts)
        else:
            with replacing(file) as stream:
                for fragment in fragments:
                    stream.writelines(_kept(fragment) if fragment.kept is None else [(self.parts / fragment.kept).read_bytes()])
        line: Json = {"number": batch.number, "without": without, "read": batch.read}
        line |= {"start": batch.start.to_json(), "end": batch.end.to_json()}
        for name in ("patients", "refused", "unread", "notAccepted"):
            line[name] = sum(fragment.head[name] for fragment in fragments)
        line["nodes"] = sum(fragment.head["sizes"][1] for fragment in fragments)
        self.done[batch.number] = line
        assert self._stream is not None
        with naming(self.state):
            self._stream.write(json.dumps(line).encode() + b"\n")
            _flush(self._stream)

    def read(self, number: int, *, answers: bool = True) -> Iterator[Fragment]:
        """What was kept of a batch; without the answers where they are not wanted."""
        with self._file(number).open("rb") as stream:
            while line := stream.readline():
                head = json.loads(line)
                refused, nodes, out = head["sizes"]
                kept = stream.read(refused), stream.read(nodes)
                if not answers:
                    stream.seek(out, os.SEEK_CUR)
                yield Fragment(head, *kept, stream.read(out) if answers else b"")

    def copy(self, number: int, out: IO[bytes]) -> None:
        """Add the answers of a batch to a file that is being written, which is not buffered."""
        with self._file(number).open("rb") as stream:
            while line := stream.readline():
                refused, nodes, size = json.loads(line)["sizes"]
                start = stream.tell() + refused + nodes
                stream.seek(start + size)
                _copy(stream, start, size, out)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The output is in place: keep only what the run was and what it found."""
        self._rewrite([{**self.about, "finished": True, **summary}])
        self._clear_parts()

    def close(self) -> None:
        """Let others write the output."""
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
        for stream in (self._stream, self._lock):
            if stream is not None:
                with contextlib.suppress(OSError):  # a line that is not on the disk was said to be missing already
                    stream.close()
        self._stream = self._lock = None

    def _own_parts(self) -> None:
        """Raise CohortError where the folder of the run is somebody else's."""
        mine = not os.path.lexists(self.parts) or (self.parts / _MARK).is_file()
        if not mine and (not self.parts.is_dir() or any(self.parts.iterdir())):
            raise CohortError(
                f"{self.parts}: the run needs a folder of this name for itself, and what stands there is not one of its own; "
                "move it away, or give the output another name"
            )

    def _make_parts(self) -> None:
        self.parts.mkdir(exist_ok=True)
        with (self.parts / _MARK).open("wb") as stream:
            stream.write(b"The folder of a run of kbtool cohort, which removes it at its end.\n")

    def _clear_parts(self) -> None:
        """Remove the folder of the run, the mark at last, so that it can be known until it is gone."""
        if self.parts.is_dir():
            for file in self.parts.iterdir():
                if file.is_dir() and not file.is_symlink():
                    shutil.rmtree(file, ignore_errors=True)
                elif file.name != _MARK:
                    file.unlink(missing_ok=True)
            (self.parts / _MARK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.parts.rmdir()

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
        if data and not (lines and "kbtool" in lines[0]):
            raise CohortError(f"{self.state}: is not the state of a run; remove it, or write to another place")
        return lines

    def _rewrite(self, lines: list[Json]) -> None:
        if self._stream is not None:
            self._stream.close()
        with replacing(self.state) as stream:
            for line in lines:
                stream.write(json.dumps(line).encode() + b"\n")
        self._stream = self.state.open("ab")

    def _take(self) -> None:
        """Keep a second run away from the same output; the lock goes with the process, however it ends."""
        try:
            import fcntl
        except ImportError:  # not on this system: two runs at once are the user's care
            return
        file = self.lock
        if file.is_symlink() or (file.exists() and (not file.is_file() or file.stat().st_size)):
            raise CohortError(
                f"{file}: the run needs this name for a file of its own, and what stands there is not one; move it away, or give "
                "the output another name"
            )
        lock = file.open("ab")
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
    if isinstance(old, list) and isinstance(new, list):
        other = sorted({given["path"] for given in old + new if given not in old or given not in new})
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        return f" ({', '.join(other[:3])}{more})" if other else " (their order)"
    return f" ({old}, now {new})" if isinstance(old, str) and isinstance(new, str) else ""


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name, in place of what was there, only when it is whole and on the disk."""
    temporary = file.with_name(file.name + ".tmp")
    try:
        with naming(file), temporary.open("wb") as stream:
            yield stream
            _flush(stream)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(file.parent)


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say of an error in writing where it was: the system does not name the file. Raises CohortError."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and error.errno not in _FULL:
            raise
        what = "make room, then the same command goes on" if error.errno in _FULL else "the same command goes on"
        raise CohortError(f"{path}: cannot be written: {error.strerror or error}; {what}") from None


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system lets a folder be synchronised
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def keep(fragment: Fragment, parts: Path, name: str) -> Fragment:
    """Write what came of units into a file of its own in the folder of a run. Returns what remains to be told."""
    with (parts / name).open("wb") as stream:
        stream.writelines(_kept(fragment))
        _flush(stream)
    return Fragment(fragment.head, b"", b"", b"", name)


def _kept(fragment: Fragment) -> list[bytes]:
    head = json.dumps(fragment.head, ensure_ascii=False).encode() + b"\n"
    return [head, fragment.refused, fragment.nodes, fragment.out]


def _copy(source: IO[bytes], start: int, size: int, out: IO[bytes]) -> None:
    """Copy bytes from one file to another, by the system itself where it can."""
    out.flush()
    while size:
        try:
            done = os.sendfile(out.fileno(), source.fileno(), start, size)
        except (AttributeError, OSError):  # not on this system, or not between these files
            source.seek(start)
            done = out.write(source.read(min(size, 2**20)))
            out.flush()
        if not done:
            raise CohortError(f"{source.name}: is shorter than it was written; start anew with --restart")
        start, size = start + done, size - done


def _flush(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
