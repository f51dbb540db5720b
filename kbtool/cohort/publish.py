"""Put the answers of all batches together into the output, in the order of the inputs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kbtool.cohort import ledger
from kbtool.cohort.checkpoint import Checkpoint, replacing
from kbtool.cohort.table import Key, merge, schema
from kbtool.cohort.units import Fragment, Json

ROWS = 50_000
"""Rows in a group of a Parquet file; who reads it holds one in memory."""


@dataclass
class Total:
    """What a run found.

    patients; refused: lines of OUT.refused.ndjson; not_accepted: patients of whom something was refused, set aside or not
    read; unread: stretches of files that could not be read; counts: for a summary.
    """

    patients: int
    refused: int
    not_accepted: int
    unread: int
    counts: Counter[Key]

    def to_json(self) -> Json:
        """As it stands in OUT.state."""
        return {
            "patients": self.patients,
            "refused": self.refused,
            "notAccepted": self.not_accepted,
            "unread": self.unread,
            "counts": [[*key, number] for key, number in sorted(self.counts.items())],
        }

    def problems(self, out: Path) -> list[str]:
        """What a person has to know at the end, without anything about a patient."""
        found = []
        if self.refused:
            found.append(f"{self.refused} lines in {refused_file(out)}: who was refused, and why")
        if self.not_accepted:
            found.append(f"{self.not_accepted} patients of whom something was refused, set aside or not read")
        if self.unread:
            found.append(f"{self.unread} files could not be read to their end; what was not read is in nobody's answer")
        return found

    @classmethod
    def from_json(cls, data: Json) -> Total:
        """Out of OUT.state."""
        return cls(data["patients"], data["refused"], data["notAccepted"], data["unread"], merge(data["counts"]))


def refused_file(out: Path) -> Path:
    """Where those are listed who were refused."""
    return out.with_suffix(".refused.ndjson")


def publish(checkpoint: Checkpoint, out: Path, about: Json, prefixes: dict[str, str]) -> Total:
    """Write the output and OUT.refused.ndjson; each appears under its name only when it is whole.

    about: knowledge base and as-of time, for whoever finds the file alone. prefixes: for Turtle.
    """
    counts: Counter[Key] = Counter()
    with replacing(refused_file(out)) as refused:
        for fragment in _fragments(checkpoint):
            counts.update(merge(fragment.head["counts"]))
            refused.write(fragment.refused)
    with replacing(out) as stream, _WRITERS[out.suffix](_Output(stream, about, prefixes)) as write:
        for fragment in _fragments(checkpoint):
            for chunk in fragment.out:
                write(chunk)
    lines = checkpoint.done.values()
    total = {name: sum(line[name] for line in lines) for name in ("patients", "refused", "notAccepted", "unread")}
    return Total(total["patients"], total["refused"], total["notAccepted"], total["unread"], counts)


def scattered(checkpoint: Checkpoint) -> dict[int, set[str]]:
    """The patients whose facts stand in more than one place of the inputs, by batch."""
    places = [number for number in sorted(checkpoint.done) for _ in checkpoint.nodes(number)]
    entries = sum(line["nodes"] for line in checkpoint.done.values()) // ledger.ENTRY.size
    found: dict[int, set[str]] = {}
    by_fragment: dict[int, set[int]] = {}
    for place, ordinal in ledger.scattered(_Books(checkpoint), entries):
        by_fragment.setdefault(place, set()).add(ordinal)
    for batch in sorted({places[place] for place in by_fragment}):
        first = places.index(batch)
        for place, fragment in enumerate(checkpoint.read(batch), first):
            names = {fragment.head["who"][o][0] for o in by_fragment.get(place, ()) if o < fragment.head["people"]}
            if names:
                found.setdefault(batch, set()).update(names)
    return found


class _Books:
    """The entries of all fragments, by their number, as often as they are asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        for batch in sorted(self.checkpoint.done):
            for data in self.checkpoint.nodes(batch):
                yield number, data
                number += 1


def _fragments(checkpoint: Checkpoint) -> Iterator[Fragment]:
    for number in sorted(checkpoint.done):
        yield from checkpoint.read(number)


@dataclass
class _Output:
    """The file that is written, and what it says of itself."""

    stream: IO[bytes]
    about: Json
    prefixes: dict[str, str]


_Write = Callable[[bytes], object]


@contextmanager
def _ndjson(out: _Output) -> Iterator[_Write]:
    yield lambda chunk: out.stream.write(chunk)


@contextmanager
def _turtle(out: _Output) -> Iterator[_Write]:
    prefixes = sorted(out.prefixes.items())
    head = [f"# {json.dumps(out.about, ensure_ascii=False)}\n", *(f"@prefix {p}: <{iri}> .\n" for p, iri in prefixes), "\n"]
    out.stream.write("".join(head).encode())
    yield lambda chunk: out.stream.write(chunk)


@contextmanager
def _parquet(out: _Output) -> Iterator[_Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(out.stream, schema({"kbtool": json.dumps(out.about)}), compression="zstd") as writer:
        waiting: list[pa.RecordBatch] = []

        def write(chunk: bytes) -> None:
            with pa.ipc.open_stream(chunk) as reader:
                waiting.extend(reader)
            if sum(batch.num_rows for batch in waiting) >= ROWS:
                flush()

        def flush() -> None:
            if waiting:
                table = pa.Table.from_batches(waiting)
                writer.write_table(table.cast(writer.schema), row_group_size=ROWS * 2)
                waiting.clear()

        yield write
        flush()


_WRITERS = {".ndjson": _ndjson, ".ttl": _turtle, ".parquet": _parquet}
