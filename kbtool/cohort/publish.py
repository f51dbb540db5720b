"""Put the answers of all batches together into the output, in the order of the inputs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kbtool.cohort import ledger
from kbtool.cohort.checkpoint import Checkpoint, naming, replacing
from kbtool.cohort.table import Key, arrow, merge, schema
from kbtool.cohort.units import Fragment, Json

ROWS = 20_000
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
            found.append(f"{_number(self.refused, 'line')} in {refused_file(out)}: who was refused, and why")
        if self.not_accepted:
            found.append(f"{_number(self.not_accepted, 'patient')} of whom something was refused, set aside or not read")
        if self.unread:
            found.append(f"{_number(self.unread, 'file')} could not be read to the end; what was not read is in nobody's answer")
        return found

    @classmethod
    def from_json(cls, data: Json) -> Total:
        """Out of OUT.state."""
        return cls(data["patients"], data["refused"], data["notAccepted"], data["unread"], merge(data["counts"]))


def _number(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def refused_file(out: Path) -> Path:
    """Where those are listed who were refused."""
    return out.with_suffix(".refused.ndjson")


def publish(checkpoint: Checkpoint, out: Path, about: Json, prefixes: dict[str, str]) -> Total:
    """Write the output and OUT.refused.ndjson; each appears under its name only when it is whole.

    about: knowledge base and as-of time, for whoever finds the file alone. prefixes: for Turtle.
    """
    counts: Counter[Key] = Counter()
    with replacing(refused_file(out)) as refused:
        for fragment in _fragments(checkpoint, answers=False):
            counts.update(merge(fragment.head["counts"]))
            refused.write(fragment.refused)
    with replacing(out) as stream:
        _WRITERS[out.suffix](checkpoint, _Output(stream, about, prefixes))
    lines = checkpoint.done.values()
    total = {name: sum(line[name] for line in lines) for name in ("patients", "refused", "notAccepted", "unread")}
    return Total(total["patients"], total["refused"], total["notAccepted"], total["unread"], counts)


def scattered(checkpoint: Checkpoint) -> dict[int, set[str]]:
    """The patients whose facts stand in more than one place of the inputs, by batch."""
    entries = sum(line["nodes"] for line in checkpoint.done.values()) // ledger.ENTRY.itemsize
    books = (fragment.nodes for fragment in _fragments(checkpoint, answers=False))
    concerned: dict[int, set[int]] = {}
    with naming(checkpoint.parts):
        for place, ordinal in ledger.scattered(books, entries, checkpoint.parts / "ledger"):
            concerned.setdefault(place, set()).add(ordinal)
    found: dict[int, set[str]] = {}
    place = 0
    for batch in sorted(checkpoint.done) if concerned else ():
        for fragment in checkpoint.read(batch, answers=False):
            names = {fragment.head["who"][o] for o in concerned.get(place, ()) if o < fragment.head["people"]}
            if names:
                found.setdefault(batch, set()).update(names)
            place += 1
    return found


def _fragments(checkpoint: Checkpoint, *, answers: bool = True) -> Iterator[Fragment]:
    for number in sorted(checkpoint.done):
        yield from checkpoint.read(number, answers=answers)


@dataclass
class _Output:
    """The file that is written, and what it says of itself."""

    stream: IO[bytes]
    about: Json
    prefixes: dict[str, str]


def _ndjson(checkpoint: Checkpoint, out: _Output) -> None:
    for number in sorted(checkpoint.done):
        checkpoint.copy(number, out.stream)


def _turtle(checkpoint: Checkpoint, out: _Output) -> None:
    prefixes = sorted(out.prefixes.items())
    head = [f"# {json.dumps(out.about, ensure_ascii=False)}\n", *(f"@prefix {p}: <{iri}> .\n" for p, iri in prefixes), "\n"]
    out.stream.write("".join(head).encode())
    _ndjson(checkpoint, out)


def _parquet(checkpoint: Checkpoint, out: _Output) -> None:
    pa = arrow()
    import pyarrow.parquet as pq

    with pq.ParquetWriter(out.stream, schema({"kbtool": json.dumps(out.about)}), compression="zstd") as writer:
        waiting: list[Any] = []

        def flush() -> None:
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting).cast(writer.schema), row_group_size=ROWS * 2)
                waiting.clear()

        for fragment in _fragments(checkpoint):
            with pa.ipc.open_stream(fragment.out) as reader:
                waiting.extend(reader)
            if sum(batch.num_rows for batch in waiting) >= ROWS:
                flush()
        flush()


_WRITERS = {".ndjson": _ndjson, ".ttl": _turtle, ".parquet": _parquet}
