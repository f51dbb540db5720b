"""Read the facts of a batch: triples file by file, each document for itself, and say where in a file each patient stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyoxigraph as ox

from kbtool.cohort.cut import Vocabulary, whole
from kbtool.cohort.stretch import lines_in
from kbtool.cohort.units import TRIPLES, Stretch, Unit
from kbtool.facts import Facts, FactsError, Reader
from kbtool.knowledge import Knowledge

_FHIR = re.compile(rb'"resourceType"\s*:\s*"')
_RESOURCE = re.compile(rb'^\s*\{\s*"resourceType"\s*:\s*"(?!Bundle")')

Where = tuple[str, int | None]
"""A file, and a line in it where lines are known."""


class Refused:
    """What is refused: lines of OUT.refused.ndjson. files: how many files could not be read to their end; unread: units of whom
    nobody can tell what is in them."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.files = 0
        self.unread: list[Unit] = []

    def refuse(self, where: Where, reason: str, patient: str | None = None, **more: object) -> None:
        """Add a line about a patient, or about something that is nobody's."""
        entry = {"patient": patient, "file": where[0], "line": where[1], "reason": reason, **more}
        self.lines.append(json.dumps(entry, ensure_ascii=False).encode() + b"\n")


class _Lines:
    """Finds the line in a file in which a node is described first; quick where it is asked in the order of the file."""

    def __init__(self, stretches: list[Stretch]) -> None:
        self._data = b"".join(stretch.data for stretch in stretches)
        self._stretch = stretches[0]
        self._at, self._line = 0, stretches[0].first

    def where(self, node: str) -> Where:
        """Where it stands; no line where it is not found, or lines mean nothing."""
        if not self._stretch.numbered:
            return self._stretch.file, None
        token = b"<%s>" % node.encode("utf-8", "surrogatepass")
        at = self._found(token, self._at)
        if at < 0:
            self._at, self._line = 0, self._stretch.first
            at = self._found(token, 0)
        if at < 0:
            return self._stretch.file, None
        self._line += lines_in(self._data[self._at : at])
        self._at = at
        return self._stretch.file, self._line

    def _found(self, token: bytes, start: int) -> int:
        if self._data.startswith(token, start):
            return start
        return self._data.find(b"\n" + token, start) + 1 or -1


@dataclass
class Room:
    """What was read together: the facts, and the units in which they stand. Only within a room may patients share a node.

    place: the unit of a patient, where each patient has one. lines: instead of units, where they were not told apart.
    """

    facts: Facts
    units: list[Unit]
    place: dict[str, Unit] = field(default_factory=dict)
    lines: _Lines | None = None

    def unit_of(self, patient: str) -> Unit | None:
        """The unit of a patient, or the only one; None where that is not known."""
        return self.place.get(patient) or (self.units[0] if len(self.units) == 1 else None)

    def where(self, node: str) -> Where:
        """Where a patient stands, or a node of nobody."""
        unit = self.unit_of(node)
        if unit is not None:
            return unit.file, unit.line_at(None)
        return self.lines.where(node) if self.lines is not None else (self.units[0].file, None)


def rooms(units: list[Unit | Stretch], knowledge: Knowledge, refused: Refused) -> Iterator[Room]:
    """Read units: triples file by file, each document for itself. What cannot be read is refused."""
    files: dict[int, list[Unit | Stretch]] = {}
    for unit in units:
        if isinstance(unit, Stretch):
            files.setdefault(unit.number, []).append(unit.loaded())
        elif unit.problem is not None:
            refused.files += not unit.data
            refused.unread.append(unit)
            for name in unit.who or (None,):
                refused.refuse((unit.file, unit.line_at(None)), unit.problem, name)
        elif unit.form == TRIPLES:
            files.setdefault(unit.number, []).append(unit)
        else:
            room = _document(unit, knowledge, refused)
            if room is not None:
                yield room
    for together in files.values():
        room = _at_once(together, knowledge) or _one_by_one(together, knowledge, refused)
        if room is not None:
            yield room


def _at_once(together: list[Unit | Stretch], knowledge: Knowledge) -> Room | None:
    """Triples of a file that need not be divided before they are read: where all is right and no blank node needs a name."""
    stretches = [unit for unit in together if isinstance(unit, Stretch) and b"_:" not in unit.data]
    if len(stretches) < len(together):
        return None
    reader = Reader()
    try:
        reader.add(stretches[0].file, b"".join(stretch.data for stretch in stretches), ox.RdfFormat.N_TRIPLES)
    except FactsError:
        return None
    return Room(reader.facts(knowledge.graph), [], lines=_Lines(stretches))


def _one_by_one(together: list[Unit | Stretch], knowledge: Knowledge, refused: Refused) -> Room | None:
    """Triples of a file, of which it is known for each patient where they stand."""
    units = whole(together, Vocabulary.read(knowledge))
    if not units:
        return None
    good, reader = units, Reader()
    try:
        reader.add(units[0].file, b"".join(unit.data for unit in units), ox.RdfFormat.N_TRIPLES)
    except FactsError:
        good, reader = _readable(units, refused)
    return Room(reader.facts(knowledge.graph), good, {name: unit for unit in good for name in unit.who}) if good else None


def _readable(units: list[Unit], refused: Refused) -> tuple[list[Unit], Reader]:
    """The units that can be read, where not all can."""
    good, reader = [], Reader()
    for unit in units:
        try:
            Reader().add(unit.file, unit.data, ox.RdfFormat.N_TRIPLES)
        except FactsError as error:
            message = str(error).removeprefix(f"{unit.file}: ")
            line = re.match(r"line (\d+)(?:, |: )", message)
            where = unit.line_at(int(line[1]) if line else None)
            refused.unread.append(unit)
            for name in unit.who or (None,):
                refused.refuse((unit.file, where), message[line.end() :] if line else message, name)
        else:
            reader.add(unit.file, unit.data, ox.RdfFormat.N_TRIPLES)
            good.append(unit)
    return good, reader


def _document(unit: Unit, knowledge: Knowledge, refused: Refused) -> Room | None:
    told = len(refused.lines)
    try:
        facts = _facts_of(unit, knowledge, refused)
    except FactsError as error:
        message = re.sub(r"^line 1, (?=column)", "", str(error).removeprefix(f"{unit.file}: "))
        refused.refuse((unit.file, unit.line_at(None)), message)
        refused.unread.append(unit)
        return None
    nameless = [group for group in facts.groups if any(isinstance(record.patient, ox.BlankNode) for record in group)]
    for _ in nameless:
        refused.refuse(
            (unit.file, unit.line_at(None)),
            "the patient has no IRI of its own, so that no answer could be given back under a name",
        )
    facts.groups = [group for group in facts.groups if group not in nameless]
    if not facts.groups and not facts.strays and len(refused.lines) == told:
        refused.refuse((unit.file, unit.line_at(None)), "no patient in it")
    return Room(facts, [unit])


def _facts_of(unit: Unit, knowledge: Knowledge, refused: Refused) -> Facts:
    if _FHIR.search(unit.data[:4096]) and b'"@context"' not in unit.data[:4096]:
        from kbtool.fhir.read import read

        if _RESOURCE.match(unit.data):
            raise FactsError(
                f"{unit.file}: a single FHIR resource; a patient's resources are read together: put them into one Bundle a "
                "line, or start with --partition"
            )
        found = read(unit.data, knowledge, unit.file)
        for stray in found.stray:
            if stray.matters:
                refused.refuse((unit.file, unit.line_at(None)), f"{stray.resource}: {stray.reason}")
        facts = found.facts()
        facts.strays = []  # they are told, and are no nodes
        return facts
    scope = f"{unit.number + 1}/" + (f"{unit.lines[0]}-" if unit.lines else "")
    reader = Reader(scope=scope)
    reader.add(unit.file, unit.data, ox.RdfFormat.JSON_LD)
    return reader.facts(knowledge.graph)
