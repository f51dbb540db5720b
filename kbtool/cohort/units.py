"""What the parts of `kbtool cohort` hand to each other: units of facts, pieces of an input, a batch of patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Json = dict[str, Any]

TRIPLES = "n-triples"
"""The form of a unit: N-Triples without blank nodes."""

DOCUMENT = "json"
"""The form of a unit: one JSON document, JSON-LD or a FHIR Bundle."""


class CohortError(Exception):
    """The run cannot go on. The message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Facts that are read together: all triples that hang together in one place of a file, or one document.

    form: TRIPLES or DOCUMENT. file: the name by which it is reported. number: the place of the file among the inputs.
    lines: first and last line in the file, or None where lines are not known; whole: whether every line between them
    belongs to the unit. patients: how many there are (1 is assumed of a document); who: their IRIs, as far as they are
    known. problem: why it cannot be assessed, found while cutting. labels: labels of blank nodes that were renamed within
    the unit only.
    """

    form: str
    data: bytes
    file: str
    number: int
    lines: tuple[int, int] | None
    patients: int
    whole: bool = True
    problem: str | None = None
    labels: tuple[str, ...] = ()
    who: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.data)

    def line_at(self, line: int | None) -> int | None:
        """The line in the file of a line in the unit, counted from 1; the first one where that is not known."""
        if self.lines is None:
            return None
        return self.lines[0] + (line - 1 if line and self.whole else 0)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Lines of N-Triples as they stand in a file, of as many patients as may be; who assesses them divides them.

    data: the lines; empty where they are left in the file, path, from byte offset on. size: their bytes. file, number: as of a
    unit. first: number of the first line, from 1; numbered: whether lines are lines of the file; if not, blank nodes get names
    that do not depend on their labels, which another reading would not repeat. patients: how many are named.
    """

    data: bytes
    file: str
    number: int
    first: int
    numbered: bool
    patients: int
    size: int
    path: str = ""
    offset: int = 0

    def loaded(self) -> Stretch:
        """The same with its lines. Raises CohortError where the file has changed."""
        if not self.path:
            return self
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self.offset)
                data = stream.read(self.size)
        except OSError as error:
            raise CohortError(f"{self.path}: cannot be read: {error.strerror}") from None
        if len(data) < self.size:
            raise CohortError(f"{self.path}: was changed while it was read; start anew with --restart")
        return replace(self, data=data, path="")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the inputs between two pieces: the file by number from 0, and bytes (or triples of Turtle) and lines of it
    that lie before."""

    file: int = 0
    offset: int = 0
    line: int = 0

    def to_json(self) -> list[int]:
        """As it stands in a checkpoint."""
        return [self.file, self.offset, self.line]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an input that shares no node with what stands around it, as far as that can be seen there.

    end: where the next piece starts. read: bytes of all inputs that had been read, as they lie on the disk.
    """

    units: list[Unit | Stretch]
    end: Position
    read: int

    @property
    def patients(self) -> int:
        """How many patients it holds."""
        return sum(unit.patients for unit in self.units)

    @property
    def size(self) -> int:
        """How many bytes of facts it holds."""
        return sum(unit.size for unit in self.units)


@dataclass(frozen=True, slots=True)
class Batch(Piece):
    """Patients that are assessed together. number: counted from 0 in the order of the inputs."""

    number: int
    start: Position


@dataclass(frozen=True, slots=True)
class Job:
    """What is the same for all batches of a run.

    ontology: path of the root ontology, None for the one that comes with kbtool. sha256: of the knowledge base, so that a
    worker elsewhere cannot answer by another. as_of: with zone. form: of the output, parquet, ndjson or ttl. parts: the folder of
    the run, for those who can write there.
    """

    ontology: str | None
    sha256: str
    as_of: str
    strict: bool
    form: str
    parts: str | None = None


@dataclass(frozen=True, slots=True)
class Scattered:
    """Patients who turned out to stand in more than one place of the inputs.

    here: those in this batch, who are refused. told: those for whom an earlier batch, or part of this one, says so.
    """

    here: frozenset[str] = frozenset()
    told: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fragment:
    """The answers for one batch, or a part of it.

    head: counts and names, see `assess.py`. refused: lines of OUT.refused.ndjson. nodes: what was said about which node, for the
    ledger. out: the answers in the form of the output, of Parquet as an Arrow stream. kept: the file in the folder of the run
    that holds all of it, if it was written there at once.
    """

    head: Mapping[str, Any]
    refused: bytes = field(repr=False)
    nodes: bytes = field(repr=False)
    out: bytes = field(repr=False)
    kept: str | None = None
