"""Find patients whose facts stand in more than one place of the inputs, with little memory.

Every place (a room: triples of one file in one batch, or one document) writes down which nodes it describes and to which
its patients point, as hashes. A node that is described in one room and stands in another too was read in part: its patients
are refused. Hashes of 64 bits: among 10 million nodes two differ and look alike with a chance of 1 in 400 000, and then two
patients are refused without need.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kbtool.cohort.cut import LINE, Vocabulary
from kbtool.cohort.units import TRIPLES, Unit
from kbtool.facts import BASE, GENID
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF
from kbtool.rows import Row

ENTRY = np.dtype([("node", "<u8"), ("room", "<u4"), ("role", "<u4")])
"""An entry: hash of the node, room, ordinal of the patient or stray in its batch times two, plus one where the node is
described."""

A_TIME = 200_000
"""Entries that are held in memory at once."""

_LONG = 256
_NAMED = re.compile(r"<(.*/)(Patient/[A-Za-z0-9\-.]{1,64})>")
_PATIENTS = re.compile(rb'"reference"\s*:\s*"(?:[^"]*/)?(Patient/[A-Za-z0-9\-.]{1,64})["/]')
"""Whom a resource of FHIR is about, or else points at."""
_TYPE = str(RDF["type"])
_PLACED = np.dtype([*[(name, ENTRY.fields[name][0]) for name in ENTRY.names], ("place", "<u4")])  # type: ignore[index,union-attr]

Numbers = NDArray[np.uint64]


class Book:
    """The entries of a batch."""

    def __init__(self, knowledge: Knowledge, vocabulary: Vocabulary) -> None:
        self._links = {f"<{link.decode()}>" for link in vocabulary.links}
        spaces = tuple(f"<{space}" for space in {*knowledge.prefixes.values(), CG.iri})
        self._speaks: Callable[[str], bool] = lambda term: term.startswith(spaces)
        self._roles: dict[str, int] = {}
        self._nodes: list[str] = []
        self._rooms: list[int] = []
        self._said: list[int] = []
        self._of_labels: dict[int, int] = {}

    def patient(self, rows: Iterable[Row], patient: str, ordinal: int, room: int, *, document: bool) -> None:
        """Write down the nodes of a patient, whose own is given as a token. What has a name of this document only is left out."""
        described, pointed, kinds = {patient}, set[str](), list[tuple[str, str]]()
        described_add, pointed_add, roles = described.add, pointed.add, self._roles
        for subject, predicate, target in rows:
            try:
                role = roles[predicate]
            except KeyError:
                role = roles[predicate] = self._role(predicate)
            if role == _SPEAKS:
                described_add(subject)
            elif role == _LINK:
                pointed_add(target)
                described_add(subject)
            elif role == _KIND:
                kinds.append((subject, target))
        described.update(subject for subject, target in kinds if subject not in described and self._speaks(target))
        if document:
            named = _NAMED.fullmatch(patient)
            if named and named[1] != BASE:
                pointed.add(f"<{BASE}{named[2]}>")  # who is named without an address elsewhere may be this one
            own = f"<{GENID}"
            described = {node for node in described if not node.startswith(own)}
            pointed = {node for node in pointed if not node.startswith(own)}
        self._add([node[1:-1] for node in described if node[0] == "<"], room, 2 * ordinal + 1)
        self._add([node[1:-1] for node in pointed - described if node[0] == "<"], room, 2 * ordinal)

    def labels(self, unit: Unit, ordinal: int) -> None:
        """Write down the blank nodes that were renamed within a unit, for which each unit is a room of its own."""
        if unit.labels:
            room = self._of_labels.setdefault(id(unit), len(self._of_labels))
            self._add([f"{unit.number} {label}" for label in unit.labels], room, 2 * ordinal + 1)

    def unread(self, unit: Unit, ordinal: int, room: int) -> None:
        """Write down the nodes of triples that could not be read: whoever has more of them was read in part."""
        self.labels(unit, ordinal)
        if unit.form != TRIPLES:
            tails = {tail.decode() for tail in _PATIENTS.findall(unit.data.replace(b"\\/", b"/"))}
            self._add([f"{BASE}{tail}" for tail in sorted(tails)], room, 2 * ordinal + 1)
            return
        for line in unit.data.splitlines():
            match = LINE.match(line)
            if match is not None:
                subject, predicate, target = match.groups()
                self.stray(subject[1:-1].decode("utf-8", "replace"), ordinal, room)
                if target is not None and f"<{predicate.decode('utf-8', 'replace')}>" in self._links:
                    self._add([target[1:-1].decode("utf-8", "replace")], room, 2 * ordinal)

    def stray(self, node: str, ordinal: int, room: int) -> None:
        """Write down a node that belongs to no patient."""
        self._add([node], room, 2 * ordinal + 1)

    @cached_property
    def entries(self) -> np.ndarray:
        """Everything that was written down, as an array of ENTRY; to be asked for at the end."""
        found = np.empty(len(self._nodes), ENTRY)
        found["node"], found["room"], found["role"] = hashes(self._nodes), self._rooms, self._said
        return found

    def _role(self, predicate: str) -> int:
        if predicate in self._links:
            return _LINK
        return _KIND if predicate == _TYPE else _SPEAKS if self._speaks(predicate) else _FOREIGN

    def _add(self, nodes: Sequence[str], room: int, role: int) -> None:
        self._nodes += nodes
        self._rooms += repeat(room, len(nodes))
        self._said += repeat(role, len(nodes))


_FOREIGN, _SPEAKS, _KIND, _LINK = range(4)


def hashes(nodes: Sequence[str]) -> Numbers:
    """A hash of 64 bits of each name of a node: each word of 8 bytes is put to what came of those before, and both are mixed as
    a step of splitmix64 does (https://doi.org/10.1145/2660193.2660195), so that what differs in a word is spread over all bits
    before the next one comes. A name of more than 256 bytes goes by its BLAKE2b. Who builds names on purpose can make two look
    alike; their patients are then refused without need."""
    names = [node.encode("utf-8", "surrogatepass") for node in nodes]
    longest = max(map(len, names), default=0)
    if longest > _LONG:
        names = [name if len(name) <= _LONG else hashlib.blake2b(name).hexdigest().encode() for name in names]
        longest = _LONG
    width = longest // 8 + 1
    words = np.array(names, dtype=f"S{8 * width}").view("<u8").reshape(len(names), width)
    found = np.full(len(names), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for word in words.T:
        mixed = found ^ word
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
        found = np.where(word != 0, mixed, found)  # what only fills up does not count: it depends on the longest name
    return found


def conflicts(nodes: np.ndarray, places: np.ndarray, roles: np.ndarray) -> NDArray[np.bool_]:
    """Which entries mention a node that is described in one place and stands in another."""
    order = np.argsort(nodes, kind="stable")
    ordered = nodes[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else np.zeros(0, np.intp)
    bad = np.zeros(len(order), dtype=np.bool_)
    if len(first):
        where, described = places[order], (roles[order] & 1).astype(np.bool_)
        apart = np.minimum.reduceat(where, first) != np.maximum.reduceat(where, first)
        guilty = apart & np.logical_or.reduceat(described, first)
        bad[order] = np.repeat(guilty, np.diff(first, append=len(order)))
    return bad


def scattered_here(entries: np.ndarray) -> set[int]:
    """The patients and strays whose nodes stand in more than one room of a batch, by ordinal."""
    if not len(entries) or (entries["room"] == entries["room"][0]).all():
        return set()
    found = entries["role"][conflicts(entries["node"], entries["room"], entries["role"])]
    return set((found // 2).tolist())


def scattered(books: Iterable[bytes], entries: int, folder: Path) -> set[tuple[int, int]]:
    """Place and ordinal of every patient and stray of a run whose facts stand in more than one place.

    books: the entries of each batch or part of one, as they were kept; its place among them counts. entries: how many there
    are in all; where they are too many for memory, they are sorted into files of a folder first, which is removed.
    """
    bits = max(0, (entries - 1) // A_TIME).bit_length()
    shutil.rmtree(folder, ignore_errors=True)
    if not bits:
        return _scattered([_placed(data, place) for place, data in enumerate(books)])
    folder.mkdir()
    waiting: list[np.ndarray] = []
    for place, data in enumerate(books):
        waiting.append(_placed(data, place))
        if sum(map(len, waiting)) >= A_TIME:
            _distribute(waiting, bits, folder)
            waiting = []
    _distribute(waiting, bits, folder)
    found: set[tuple[int, int]] = set()
    for file in folder.iterdir():
        found |= _scattered([np.fromfile(file, _PLACED)])
    shutil.rmtree(folder)
    return found


def _distribute(books: list[np.ndarray], bits: int, folder: Path) -> None:
    """Add entries to the files of a folder, by the first bits of the hash."""
    if not books:
        return
    mine = np.concatenate(books)
    part = (mine["node"] >> np.uint64(64 - bits)).astype(np.intp)
    mine = mine[np.argsort(part, kind="stable")]
    ends = np.cumsum(np.bincount(part, minlength=2**bits)).tolist()
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        with (folder / str(number)).open("ab") as stream:
            stream.write(mine[start:end].tobytes())


def _placed(data: bytes, place: int) -> np.ndarray:
    mine = np.frombuffer(data, ENTRY)
    found = np.empty(len(mine), _PLACED)
    for name in ENTRY.names or ():
        found[name] = mine[name]
    found["place"] = place
    return found


def _scattered(parts: list[np.ndarray]) -> set[tuple[int, int]]:
    together = np.concatenate(parts) if parts else np.zeros(0, _PLACED)
    places = (together["place"].astype(np.uint64) << np.uint64(32)) | together["room"]
    found = together[conflicts(together["node"], places, together["role"])]
    return set(zip(found["place"].tolist(), (found["role"] // 2).tolist(), strict=True))
