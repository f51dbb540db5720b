"""What the parts of `kbtool cohort` hand to each other: units of facts, pieces of an input, a batch of patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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

    def line_at(self, line: int | None) -> int | None:
        """The line in the file of a line in the unit, counted from 1; the first one where that is not known."""
        if self.lines is None:
            return None
        return self.lines[0] + (line - 1 if line and self.whole else 0)


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
    """A stretch of an input that shares no node with what stands around it, as far as that can be seen there.

    end: where the next piece starts. read: bytes of all inputs that had been read, as they lie on the disk.
    """

    units: list[Unit]
    end: Position
    read: int

    @property
    def patients(self) -> int:
        """How many patients it holds."""
        return sum(unit.patients for unit in self.units)


@dataclass(frozen=True, slots=True)
class Batch:
    """Patients that are assessed together. number: counted from 0 in the order of the inputs."""

    number: int
    units: list[Unit]
    start: Position
    end: Position
    read: int

    @property
    def patients(self) -> int:
        """How many patients it holds."""
        return sum(unit.patients for unit in self.units)


@dataclass(frozen=True, slots=True)
class Job:
    """What is the same for all batches of a run.

    ontology: path of the root ontology, None for the one that comes with kbtool. sha256: of the knowledge base, so that a
    worker elsewhere cannot answer by another. as_of: with zone. form: of the output, parquet, ndjson or ttl.
    """

    ontology: str | None
    sha256: str
    as_of: str
    strict: bool
    form: str


@dataclass(frozen=True, slots=True)
class Scattered:
    """Patients who turned out to stand in more than one place of the inputs.

    here: those in this batch, who are refused. told: those of them for whom an earlier batch says so.
    """

    here: frozenset[str] = frozenset()
    told: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fragment:
    """The answers for one batch, or a part of it.

    head: counts and places, see `assess.py`. out: for each patient the text of the answer, or one Arrow stream for all.
    refused: lines of OUT.refused.ndjson. nodes: what was said about which node, for the ledger.
    """

    head: Mapping[str, Any]
    out: list[bytes] = field(repr=False)
    refused: bytes = field(repr=False)
    nodes: bytes = field(repr=False)
