"""Cut a long file of triples into stretches of patients, in one pass, with little memory and little work.

A patient's triples are expected next to each other in the file, in whatever order; who stands in several places all the same
is found by the ledger and refused. The patients are counted as they are named, and only where enough of them were read the
lines around the end are looked at one by one, to cut where nothing hangs together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyoxigraph as ox

from kbtool.cohort.cut import LINE, PATIENT, Vocabulary, Window, is_patient
from kbtool.cohort.units import CohortError, Stretch, Unit
from kbtool.facts import BASE

AT_ONCE = 4 * 2**20
"""Bytes of facts that are assessed together, where patients have many; memory goes with it."""

MAX_WINDOW = 64 * 2**20
"""Bytes of triples that may hang together; more means that they are not in the order of patients."""

MAX_LINE = 64 * 2**20
"""Bytes of one line."""

NEAR = 4
"""Patients before the end of a stretch whose lines are looked at, to find a place to cut."""

_BLOCK = 2**18
_TRIPLES = 2000
_LABEL = 32


@dataclass
class Cutter:
    """The lines of a file that have been read and not yet cut off.

    file, number, first, numbered: as of a `Stretch`. want: patients to cut off at once. path, offset: where the lines can be read
    again, if they can.
    """

    vocabulary: Vocabulary
    file: str
    number: int
    want: int
    first: int = 1
    numbered: bool = True
    path: str = ""
    offset: int = 0

    def __post_init__(self) -> None:
        self._begin(b"")

    def _begin(self, data: bytes) -> None:
        """Begin anew with some lines, just as if the file began with them, so that a run can go on from any cut."""
        self._blocks, self._size = list[bytes](), 0
        self._people: dict[bytes, tuple[int, int]] = {}
        self._tried, self._try_at, self._try_bytes = False, self.want + 2, min(AT_ONCE, MAX_WINDOW)
        self._add(data)

    def feed(self, blocks: Iterable[bytes]) -> Iterator[Stretch]:
        """Add lines of N-Triples, some at a time, and yield what can be cut off as soon as there is enough.

        Raises CohortError where too much hangs together.
        """
        for block in blocks:
            self._add(block)
            while end := self._enough():
                stretch = self._cut(end)
                if stretch is not None:
                    yield stretch

    def rest(self, problem: str | None = None) -> list[Unit | Stretch]:
        """Everything that is left, at the end of the file.

        problem: why the file breaks off here; who may be concerned gets it, as `Window.units` says.
        """
        if problem is None:
            return [self._stretch(self._size, len(self._people))] if self._size else []
        window = Window(self.vocabulary, self.file, self.number, self.first, self.numbered)
        window.add(self._part(0, self._size))
        return [*window.units(problem)]

    def _stretch(self, size: int, patients: int) -> Stretch:
        data = b"" if self.path else self._part(0, size)
        return Stretch(data, self.file, self.number, self.first, self.numbered, patients, size, self.path, self.offset)

    def _add(self, block: bytes) -> None:
        at = block.find(PATIENT)
        while at >= 0:
            start = _after_line(block, at)
            match = LINE.match(block, start)
            end = _end_of_line(block, at)
            if match is not None and is_patient(match[2], match[3]):
                self._people.setdefault(match[1], (self._size + start, self._size + end))
            at = block.find(PATIENT, end)
        self._blocks.append(block)
        self._size += len(block)

    def _part(self, start: int, end: int) -> bytes:
        """The bytes between two places."""
        parts, at = [], 0
        for block in self._blocks:
            if at < end and at + len(block) > start:
                inside = at >= start and at + len(block) <= end
                parts.append(block if inside else block[max(start - at, 0) : end - at])
            at += len(block)
        return b"".join(parts)

    def _enough(self) -> int:
        """The end of the lines after which a cut is to be tried; 0 where there are too few. It does not depend on how the lines
        came in."""
        ends = [list(self._people.values())[self._try_at - 1][1]] if len(self._people) >= self._try_at else []
        if self._size > self._try_bytes:
            at = 0
            for block in self._blocks:
                if at + len(block) > self._try_bytes:
                    ends.append(at + _end_of_line(block, self._try_bytes - at))
                    break
                at += len(block)
        return min(ends, default=0)

    def _cut(self, end: int) -> Stretch | None:
        if end > MAX_WINDOW:
            raise CohortError(
                f"{self.file}: the triples of one patient are not next to each other ({MAX_WINDOW // 2**20} MB without a place "
                "to cut); start with --partition, which brings them together first"
            )
        starts = [start for start, its_end in self._people.values() if its_end <= end]
        near = starts[-2 - NEAR] if len(starts) > 2 + NEAR and not self._tried else 0
        size = self._clean(near, end) or (self._clean(0, end) if near else 0)
        if not size:
            self._tried = True  # these are in no simple order: from now on all of them are looked at
            self._try_at = max(self._try_at, 2 * len(starts))
            self._try_bytes = max(self._try_bytes, min(2 * end, MAX_WINDOW))
            return None
        stretch = self._stretch(size, sum(start < size for start in starts))
        self.first += self._lines(size)
        self.offset += size
        self._begin(self._part(size, self._size))
        return stretch

    def _lines(self, size: int) -> int:
        """How many lines the first bytes hold."""
        found = 0
        for block in self._blocks:
            found += lines_in(block if len(block) <= size else block[:size])
            size -= len(block)
            if size <= 0:
                break
        return found

    def _clean(self, start: int, end: int) -> int:
        """Where to cut, as far as the lines from a place on tell; 0 where nowhere."""
        window = Window(self.vocabulary, self.file, self.number)
        window.add(self._part(start, end))
        size = window.clean()
        return size and start + size


def lines_in(data: bytes) -> int:
    """How many lines there are."""
    if b"\r" in data:
        return len(data.splitlines())
    return int(np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n")))  # where there are many, quicker than count


def _after_line(data: bytes, place: int) -> int:
    """Where the line of a place begins."""
    start = data.rfind(b"\n", 0, place) + 1
    return max(start, data.rfind(b"\r", start, place) + 1)


def _end_of_line(data: bytes, place: int) -> int:
    """Where the line of a place ends."""
    end = data.find(b"\n", place) + 1 or len(data)
    return data.find(b"\r", place, end - 2) + 1 or end


def blocks_of(stream: IO[bytes], file: str) -> Iterator[bytes]:
    """A file in blocks of whole lines.

    Raises CohortError for a line of more than 64 MB; OSError, EOFError and zlib.error as reading does.
    """
    rest, size, done = list[bytes](), 0, 0  # the pieces of a line are put together once: it may be long, and they small
    while block := available(stream, _BLOCK):
        size += len(block)
        if rest and rest[-1][-1:] == b"\r":  # only now it is known whether a line ends there
            block = rest.pop() + block
        end = block.rfind(b"\n") + 1 or block.rfind(b"\r", 0, -1) + 1
        if end:
            whole = b"".join([*rest, block[:end]])
            rest, size, done = [], len(block) - end, done + len(whole)
            yield whole
        if end < len(block):
            rest.append(block[end:])
        if size > MAX_LINE:
            raise CohortError(f"{file}: a line is longer than {MAX_LINE // 2**20} MB, {done} bytes after where the reading began")
    if rest:
        yield b"".join(rest)


def lines_of(stream: IO[bytes], file: str) -> Iterator[bytes]:
    """The lines of a file, with their ends; otherwise as `blocks_of`."""
    for block in blocks_of(stream, file):
        yield from block.splitlines(keepends=True)


def available(stream: IO[bytes], most: int) -> bytes:
    """Some bytes of a file: of a packed one that is damaged, also those just before the damage."""
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    return read(most)


def turtle_blocks(stream: IO[bytes], skip: int) -> Iterator[bytes]:
    """The lines of `turtle_lines`, some at a time; what stands before an error comes before it is raised."""
    lines: list[bytes] = []
    try:
        for line in turtle_lines(stream, skip):
            lines.append(line)
            if len(lines) >= _TRIPLES:
                yield b"".join(lines)
                lines = []
    except Exception:
        if lines:
            yield b"".join(lines)
        raise
    if lines:
        yield b"".join(lines)


def turtle_lines(stream: IO[bytes], skip: int) -> Iterator[bytes]:
    """The triples of a Turtle file after the first `skip`, each as a line of N-Triples, as long as at every other reading.

    Raises SyntaxError and ValueError as the parser does.
    """
    for number, quad in enumerate(ox.parse(stream, ox.RdfFormat.TURTLE, base_iri=BASE)):
        if number >= skip:
            yield f"{_term(quad.subject)} {quad.predicate} {_term(quad.object)} .\n".encode()


def _term(term: ox.NamedNode | ox.BlankNode | ox.Literal | ox.Triple) -> str:
    """A term of N-Triples. The parser makes up a label where there is none, another one each time, and not always as long."""
    if not isinstance(term, ox.BlankNode):
        return str(term)
    label = term.value
    return f"_:{'x' * (_LABEL - len(label))}_{label}"
