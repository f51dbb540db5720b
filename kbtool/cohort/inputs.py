"""Find the inputs of a cohort and read them piece by piece, from the beginning or from where a run stopped."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, cast

from kbtool.cohort.cut import Vocabulary
from kbtool.cohort.stretch import AT_ONCE, MAX_LINE, Cutter, available, blocks_of, lines_of, turtle_blocks
from kbtool.cohort.units import DOCUMENT, TRIPLES, Batch, CohortError, Json, Piece, Position, Stretch, Unit
from kbtool.facts import json_has_facts

_BOM = b"\xef\xbb\xbf"

TURTLE, _LINES = "turtle", "ndjson"

SORTED, BUNDLED = "sorted", "bundled"
"""The kinds of files of triples and of Bundles in an order of our own: their lines mean nothing to anybody else."""
_KINDS = {
    ".nt": TRIPLES,
    ".ttl": TURTLE,
    ".ndjson": _LINES,
    ".jsonl": _LINES,
    ".json": DOCUMENT,
    ".jsonld": DOCUMENT,
}
BROKEN = (OSError, EOFError, zlib.error)
"""What is raised where a file cannot be read, or unpacked, to its end."""


@dataclass(frozen=True)
class Source:
    """A file of facts. size: bytes on the disk; changed: its time of change in nanoseconds; known_as: for reports."""

    path: Path
    kind: str
    packed: bool
    size: int
    changed: int
    known_as: str | None = None

    @property
    def name(self) -> str:
        """The name by which it is reported."""
        return self.known_as or _said(self.path)

    def identity(self) -> Json:
        """What tells in a checkpoint whether it is still the same file."""
        return {"path": _said(self.path.resolve()), "size": self.size, "changed": self.changed}


def _said(path: Path) -> str:
    """A path as text that can be written, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find(paths: Iterable[str | Path], without: Iterable[Path] = (), tell: Callable[[str], None] = lambda _: None) -> list[Source]:
    """The files at some paths; folders are searched, with those that links lead to, and what is written there (without: files,
    and folders as a whole) is left out. tell: is told which other files in a folder are not read.

    Raises CohortError for a path that is not there, has an ending that is not known, or would be overwritten; a folder without
    facts, or of which a part cannot be looked at; and a file that is given twice.
    """
    found: list[Source] = []
    own = {path.resolve() for path in without}
    for given in paths:
        path = Path(given)
        if str(given) == "-":
            raise CohortError("a cohort is read from files, so that a run that was stopped can go on; not from standard input")
        _untouched(path, own)
        if path.is_dir():
            files, left = _files_in(path, own)
            if left:
                tell(f"{_number(len(left), 'file')} in {_said(path)} {'is' if len(left) == 1 else 'are'} not read: {_some(left)}")
            if not files:
                raise CohortError(f"{path}: no facts in this folder (looked for {', '.join(sorted(_KINDS))}, also with .gz)")
            for file in files:
                _untouched(file, own)
        else:
            files = [path]
        found += [_source(file) for file in files]
    known: dict[Path, Source] = {}
    for source in found:
        first = known.setdefault(source.path.resolve(), source)
        if first is not source:
            where = source.name if first.name == source.name else f"{source.name} (also as {first.name})"
            raise CohortError(f"{where}: this file is given twice; its patients would be counted twice")
    return found


def _untouched(path: Path, own: set[Path]) -> None:
    """Raise CohortError where a path is, or lies in, something that the run writes."""
    real = path.resolve()
    for mine in own:
        if mine == real or mine in real.parents or (mine.exists() and path.exists() and mine.samefile(path)):
            raise CohortError(f"{path}: the run would write over it, as it writes {mine.name}; give the output another name")


def _files_in(folder: Path, own: set[Path]) -> tuple[list[Path], list[str]]:
    """The files of facts in a folder and in those below it, and the names of other files, without hidden ones, what is our own,
    and JSON that cannot be facts."""
    files: list[Path] = []
    left: list[str] = []
    seen: set[Path] = set()

    def stop(error: OSError) -> None:
        raise CohortError(f"{error.filename}: cannot be read: {error.strerror}; what is in it would be missing")

    for here, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = Path(here).resolve()
        if real in seen or real in own:  # a link that leads back, or the folder of a run
            folders.clear()
            continue
        seen.add(real)
        for file in (Path(here, name) for name in names):
            if not file.exists():
                if file.name[0] == ".":
                    continue
                raise CohortError(f"{file}: is a link to what is not there; what it should be would be missing")
            if file.resolve() in own:
                continue
            if _ending(file)[0] not in _KINDS or not file.is_file():
                left += [] if file.name[0] == "." else [_said(file.relative_to(folder))]
            elif _has_facts(file):
                files.append(file)
    return sorted(files), sorted(left)


def _some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    if len(names) < 4:
        return " and ".join(", ".join(names).rsplit(", ", 1))
    return f"{names[0]}, {names[1]} and {len(names) - 2} more"


def _number(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _ending(path: Path) -> tuple[str, bool]:
    name = path.name.lower()
    packed = name.endswith(".gz")
    return Path(name.removesuffix(".gz")).suffix, packed


def _has_facts(path: Path) -> bool:
    ending, packed = _ending(path)
    return ending != ".json" or (packed and not path.stat().st_size) or json_has_facts(path, gzip.open if packed else open)


def _source(file: Path) -> Source:
    ending, packed = _ending(file)
    try:
        about = file.stat()
    except OSError as error:
        raise CohortError(f"{file}: cannot be read: {error.strerror}") from None
    if ending not in _KINDS:
        raise CohortError(f"{file}: unknown ending; use one of {', '.join(sorted(_KINDS))}, also with .gz")
    return Source(file, _KINDS[ending], packed, about.st_size, about.st_mtime_ns)


def batches(sources: list[Source], vocabulary: Vocabulary, size: int, start: Batch | None = None) -> Iterator[Batch]:
    """Batches of at most `size` patients (more only where so many share a node), in the order of the inputs.

    start: the last batch before, where a run goes on; which patients are in which batch does not depend on it.
    Raises CohortError where the facts of a file of triples do not stand together, or a file cannot be opened.
    """
    number, begin = (start.number + 1, start.end) if start else (0, Position())
    units: list[Unit | Stretch] = []
    patients, weight, last = 0, 0, None
    for piece in pieces(sources, vocabulary, size, begin):
        if last and patients and (patients + piece.patients > size or weight + piece.size > AT_ONCE):
            yield Batch(units, last.end, last.read, number, begin)
            number, begin, units, patients, weight = number + 1, last.end, [], 0, 0
        units.extend(piece.units)
        patients, weight, last = patients + piece.patients, weight + piece.size, piece
    if units and last:
        yield Batch(units, last.end, last.read, number, begin)


def pieces(sources: list[Source], vocabulary: Vocabulary, want: int, start: Position) -> Iterator[Piece]:
    """The inputs in pieces of about `want` patients, from a position on."""
    before = sum(source.size for source in sources[: start.file])
    for number, source in enumerate(sources[start.file :], start.file):
        here = start if number == start.file else Position(number)
        try:
            raw = source.path.open("rb")
        except OSError as error:
            raise CohortError(f"{source.path}: cannot be read: {error.strerror}") from None
        with raw:
            file = _Open(source, number, unpacked(raw, source.packed), raw, before, vocabulary, want, here)
            problem = damage(source) if source.packed and not here.offset else None  # where it goes on, it was looked at before
            if problem is not None:
                yield Piece([file.broken(problem)], file.end(), before + source.size)
            else:
                yield from _READERS[source.kind](file)
        before += source.size


def unpacked(raw: IO[bytes], packed: bool) -> IO[bytes]:
    """The bytes of a file as they are meant."""
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw


def damage(source: Source) -> str | None:
    """Why a packed file cannot be used, if so. It is unpacked to its end, as only there its checksum tells whether what stands
    before is what was packed."""
    try:
        with source.path.open("rb") as raw:
            if not source.size:
                raise EOFError
            stream = unpacked(raw, source.packed)
            while stream.read(2**20):
                pass
    except BROKEN as error:
        return f"{breaks_off(error)}; nothing of it was used, copy it again"
    return None


@dataclass
class _Open:
    """A file that is being read: its number, its bytes as they are meant and as they lie, bytes of the files before, and what
    a reader has to know."""

    source: Source
    number: int
    stream: IO[bytes]
    raw: IO[bytes]
    before: int
    vocabulary: Vocabulary
    want: int
    start: Position

    def cutter(self, first: int, *, numbered: bool) -> Cutter:
        return Cutter(self.vocabulary, self.source.name, self.number, self.want, first, numbered)

    @property
    def read(self) -> int:
        return self.before + min(self.raw.tell(), self.source.size)

    def skip(self, offset: int) -> None:
        """Go to a place; what is packed has to be unpacked up to there."""
        if not self.source.packed:
            self.stream.seek(offset)
            return
        while offset:
            block = self.stream.read(min(offset, 2**20))
            if not block:
                return
            offset -= len(block)

    def end(self) -> Position:
        return Position(self.number + 1)

    def broken(self, problem: str, line: int | None = None) -> Unit:
        """What stands for the part of a file that cannot be read."""
        lines = (line, line) if line else None
        return Unit(DOCUMENT, b"", self.source.name, self.number, lines, 0, problem=problem)


def _triples(file: _Open) -> Iterator[Piece]:
    start = file.start
    cutter = file.cutter(start.line + 1, numbered=file.source.kind != SORTED)
    cutter.offset, problem = start.offset, None
    if not file.source.packed:
        cutter.path = str(file.source.path)
    try:
        file.skip(start.offset)
        blocks = blocks_of(file.stream, file.source.name)
        if not start.offset:
            first = next(blocks, b"")
            cutter.offset = len(first) - len(first.removeprefix(_BOM))
            blocks = chain([first.removeprefix(_BOM)], blocks)
        for stretch in cutter.feed(blocks):
            yield Piece([stretch], Position(file.number, cutter.offset, cutter.first - 1), file.read)
    except BROKEN as error:
        problem = breaks_off(error)
    yield from _rest(cutter, file, problem)


def _turtle(file: _Open) -> Iterator[Piece]:
    cutter = file.cutter(file.start.offset + 1, numbered=False)
    problem, line = None, None
    stream = cast("IO[bytes]", io.BufferedReader(_Raw(file.stream), 2**20))
    try:
        for stretch in cutter.feed(turtle_blocks(stream, file.start.offset)):
            yield Piece([stretch], Position(file.number, cutter.first - 1), file.read)
    except SyntaxError as error:
        line = error.lineno
        problem = f"the file is not valid Turtle from here on: {error.msg}"
    except BROKEN as error:
        problem = breaks_off(error)
    except ValueError as error:
        problem = f"the file is not valid Turtle from here on: {error}"
    yield from _rest(cutter, file, problem, line)


class _Raw(io.RawIOBase):
    """Hands a stream of bytes to a parser that wants `readinto`; what goes wrong in reading is not swallowed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        block = available(self.stream, len(buffer))
        buffer[: len(block)] = block
        return len(block)


def _rest(cutter: Cutter, file: _Open, problem: str | None, line: int | None = None) -> Iterator[Piece]:
    units = cutter.rest(problem and f"the file breaks off, and facts of this patient may be missing ({problem})")
    broken = [] if problem is None else [file.broken(f"nothing of the file was read from here on: {problem}", line)]
    yield Piece([*units, *broken], file.end(), file.read)


def _lines(file: _Open) -> Iterator[Piece]:
    offset, number = file.start.offset, file.start.line
    try:
        file.skip(offset)
        for line in lines_of(file.stream, file.source.name):
            offset, number = offset + len(line), number + 1
            end = Position(file.number, offset, number)
            line = line.removeprefix(_BOM)
            if line.strip():
                lines = (number, number) if file.source.kind != BUNDLED else None
                yield Piece([Unit(DOCUMENT, line, file.source.name, file.number, lines, 1)], end, file.read)
            else:
                yield Piece([], end, file.read)
    except BROKEN as error:
        problem = f"nothing of the file was read from here on: {breaks_off(error)}"
        yield Piece([file.broken(problem, number + 1)], file.end(), file.read)


def _document(file: _Open) -> Iterator[Piece]:
    try:
        data = file.stream.read(MAX_LINE + 1)
    except BROKEN as error:
        yield Piece([file.broken(breaks_off(error))], file.end(), file.read)
        return
    if len(data) > MAX_LINE:
        unit = file.broken(f"longer than {MAX_LINE // 2**20} MB; write one patient a line, as NDJSON")
    else:
        unit = Unit(DOCUMENT, data, file.source.name, file.number, None, 1)
    yield Piece([unit], file.end(), file.read)


_READERS = {TRIPLES: _triples, SORTED: _triples, TURTLE: _turtle, _LINES: _lines, BUNDLED: _lines, DOCUMENT: _document}


def breaks_off(error: Exception) -> str:
    """Why a file cannot be read to its end, without anything that stands in it."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    if isinstance(error, EOFError):
        return "the packed file is damaged: it ends too early"
    return "the packed file is damaged: its bytes do not agree with its checksum (CRC), or are not packed by gzip"
