"""Find patients whose facts stand in more than one place of the inputs, with little memory.

Every place (a room: triples of one file in one batch, or one document) writes down which nodes it describes and to which
its patients point, as hashes. A node that is described in one room and stands in another too was read in part: its patients
are refused. Hashes of 64 bits: among 10 million nodes two differ and look alike with a chance of 1 in 400 000, and then two
patients are refused without need.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator

from kbtool.cohort.cut import LINE
from kbtool.cohort.units import DOCUMENT, TRIPLES, Unit
from kbtool.facts import GENID, PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF

ENTRY = struct.Struct("<QII")
"""An entry: hash of the node, room, ordinal of the patient or stray in its batch times two, plus one where the node is
described."""

A_TIME = 1_000_000
"""Entries that are held in memory at once."""

_TYPE = str(RDF["type"])

Mention = tuple[int, int, int, int]
"""Hash, batch, room, and ordinal with role."""


class Book:
    """The entries of a batch."""

    def __init__(self, knowledge: Knowledge, links: set[str]) -> None:
        self.links = {f"<{link}>" for link in links}
        self.spaces = tuple(f"<{space}" for space in {*knowledge.prefixes.values(), CG.iri})
        self.entries: dict[tuple[int, int, int], None] = {}
        self._of_labels: dict[int, int] = {}

    def patient(self, record: PatientFacts, ordinal: int, room: int, unit: Unit) -> None:
        """Write down the nodes of a patient. What has a name of this document only is left out."""
        described, pointed = {str(record.patient)}, set()
        for subject, predicate, target in record.rows():
            if predicate in self.links:
                pointed.add(target)
                described.add(subject)
            elif subject not in described and (target if predicate == _TYPE else predicate).startswith(self.spaces):
                described.add(subject)
        own = f"<{GENID}" if unit.form == DOCUMENT else None
        for node in described | pointed:
            if node[0] == "<" and not (own and node.startswith(own)):
                self._add(node[1:-1], room, ordinal, node in described)
        self.labels(unit, ordinal)

    def labels(self, unit: Unit, ordinal: int) -> None:
        """Write down the blank nodes that were renamed within a unit, for which each unit is a room of its own."""
        for label in unit.labels:
            self._add(f"{unit.number} {label}", self._of_labels.setdefault(id(unit), len(self._of_labels)), ordinal, True)

    def unread(self, unit: Unit, ordinal: int, room: int) -> None:
        """Write down the nodes of triples that could not be read: whoever has more of them was read in part."""
        self.labels(unit, ordinal)
        for line in unit.data.splitlines() if unit.form == TRIPLES else ():
            match = LINE.match(line)
            if match is not None:
                subject, predicate, target = match.groups()
                self._add(subject[1:-1].decode("utf-8", "replace"), room, ordinal, True)
                if target is not None and f"<{predicate.decode('utf-8', 'replace')}>" in self.links:
                    self._add(target[1:-1].decode("utf-8", "replace"), room, ordinal, False)

    def stray(self, node: str, ordinal: int, room: int) -> None:
        """Write down a node that belongs to no patient."""
        self._add(node, room, ordinal, True)

    def scattered(self) -> set[int]:
        """The patients and strays whose nodes stand in more than one room of this batch."""
        return {ordinal // 2 for _, ordinal in conflicts((h, 0, room, role) for h, room, role in self.entries)}

    def to_bytes(self) -> bytes:
        """The entries, as they are kept."""
        return b"".join(ENTRY.pack(*entry) for entry in self.entries)

    def _add(self, node: str, room: int, ordinal: int, described: bool) -> None:
        found = int.from_bytes(hashlib.blake2b(node.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        self.entries[found, room, 2 * ordinal + described] = None


def read(batch: int, data: bytes) -> Iterator[Mention]:
    """The entries of a batch as they were kept."""
    for found, room, role in ENTRY.iter_unpack(data):
        yield found, batch, room, role


def conflicts(mentions: Iterable[Mention]) -> set[tuple[int, int]]:
    """Batch and ordinal (with role) of all that mention a node which is described in one room and stands in another."""
    found: set[tuple[int, int]] = set()
    together: list[Mention] = []
    for mention in sorted(mentions):
        if together and mention[0] != together[0][0]:
            found |= _conflict(together)
            together = []
        together.append(mention)
    return found | (_conflict(together) if together else set())


def _conflict(together: list[Mention]) -> set[tuple[int, int]]:
    if len({(batch, room) for _, batch, room, _ in together}) < 2 or not any(role % 2 for *_, role in together):
        return set()
    return {(batch, role) for _, batch, _, role in together}


def scattered(books: Iterable[tuple[int, bytes]], entries: int) -> set[tuple[int, int]]:
    """Batch and ordinal of every patient and stray of a run whose facts stand in more than one place.

    books: number and entries of each batch, read as often as needed. entries: how many there are in all.
    """
    parts = entries // A_TIME + 1
    found: set[tuple[int, int]] = set()
    for part in range(parts):
        mine = (mention for batch, data in books for mention in read(batch, data) if mention[0] % parts == part)
        found |= {(batch, role // 2) for batch, role in conflicts(mine)}
    return found
