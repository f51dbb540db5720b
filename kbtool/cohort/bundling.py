"""Bring the FHIR resources of each patient together, as an export for bulk data has them in files by type: on the disk, not in
memory.

A database in the folder of the run holds every resource by the patient whom its subject names. Each patient's become one
Bundle, with the medications and organisations that they point at; patients of whom it cannot be told apart whose a resource
is share a Bundle, so that the reader sees what it would see in everything at once. What belongs to nobody is handed on if
the reader has something to say of it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from kbtool.cohort.checkpoint import replacing
from kbtool.cohort.inputs import BROKEN, Source, breaks_off, unpacked
from kbtool.cohort.partition import digest, joined, scratch
from kbtool.cohort.stretch import MAX_LINE, lines_of
from kbtool.cohort.units import DOCUMENT, CohortError, Json
from kbtool.facts import FactsError
from kbtool.fhir.documents import Entry, patient_named
from kbtool.fhir.read import loads, read_resources
from kbtool.knowledge import Knowledge

_SCHEMA = """
CREATE TABLE resource (place INTEGER PRIMARY KEY, name INTEGER, patient INTEGER, line BLOB);
CREATE TABLE identified (place INTEGER, identifier INTEGER);
CREATE TABLE known (identifier INTEGER, patient INTEGER);
CREATE TABLE shared (place INTEGER PRIMARY KEY, name TEXT, line BLOB);
"""
_FOUND = (
    "CREATE INDEX by_name ON resource (name, patient)",
    "CREATE INDEX by_identifier ON known (identifier, patient)",
    "CREATE INDEX by_shared ON shared (name)",
    "CREATE INDEX by_place ON identified (place, identifier)",
    """UPDATE resource SET patient = (
  SELECT MIN(known.patient) FROM identified JOIN known USING (identifier) WHERE identified.place = resource.place
) WHERE place IN (SELECT place FROM identified)""",
    "CREATE INDEX by_patient ON resource (patient, place)",
)
_SHARING = """
SELECT least, resource.patient FROM (
  SELECT name, MIN(patient) AS least FROM resource GROUP BY name HAVING least <> MAX(patient)
) JOIN resource USING (name) WHERE resource.patient <> least
UNION
SELECT resource.patient, known.patient FROM identified JOIN known USING (identifier) JOIN resource USING (place)
WHERE known.patient <> resource.patient
"""
_PEOPLE = "SELECT patient FROM resource WHERE patient IS NOT NULL GROUP BY patient ORDER BY MIN(place)"
_POINTED = re.compile(rb'"reference"\s*:\s*"(?:[^"\\]*/)?((?:Medication|Organization)/[A-Za-z0-9\-.]{1,64})[/"]')
_SHARED = ("Medication", "Organization")
"""Resources that many patients point at, and that say nothing of anybody."""
_INSERT = {
    "resource": "INSERT INTO resource VALUES (?, ?, ?, ?)",
    "identified": "INSERT INTO identified VALUES (?, ?)",
    "known": "INSERT INTO known VALUES (?, ?)",
    "shared": "INSERT INTO shared VALUES (?, ?, ?)",
}
_AT_ONCE = 1_000
_LINES = 40
"""Bits of the number of a line; those above it in a place are the number of the file."""
_STRAYS = 500
"""So many resources of nobody are handed on together."""


def bundled(sources: list[Source], folder: Path, knowledge: Knowledge) -> Path:
    """The resources in some files as Bundles, one of them a line; made once. Raises CohortError for what is no resource of FHIR:
    whose it is, nobody knows."""
    file = folder / "bundled.ndjson"
    if file.is_file():
        return file
    with scratch(folder / "bundling.sqlite") as base:
        base.executescript(_SCHEMA)
        base.execute("BEGIN")
        _load(base, sources)
        for statement in _FOUND:
            base.execute(statement)
        pairs = base.execute(_SHARING).fetchall()
        base.executemany("UPDATE resource SET patient = ? WHERE patient = ?", joined(pairs))
        with replacing(file) as out:
            for (patient,) in base.execute(_PEOPLE):
                own = base.execute("SELECT place, line FROM resource WHERE patient = ? ORDER BY place", (patient,)).fetchall()
                made = _bundle(_with_shared(base, [line for _, line in own]))
                if len(made) > MAX_LINE:
                    raise _too_much(own, len(made), sources)
                out.write(made)
            out.writelines(map(_bundle, _strays(base, knowledge)))
        base.execute("COMMIT")
    return file


def _too_much(own: list[tuple[int, bytes]], size: int, sources: list[Source]) -> CohortError:
    """What to say of resources that are too long together: where the longest of them stand, and nothing of whose they are."""
    longest = sorted(own, key=lambda row: len(row[1]), reverse=True)[:3]
    where = (f"{sources[place >> _LINES].name} line {place % 2**_LINES} ({len(line)} bytes)" for place, line in longest)
    return CohortError(
        f"{size} bytes of resources belong to one patient, or to patients who cannot be told apart, and {MAX_LINE} are the most; "
        f"the longest: {', '.join(where)}"
    )


def _load(base: sqlite3.Connection, sources: list[Source]) -> None:
    rows: dict[str, list[tuple[object, ...]]] = {name: [] for name in _INSERT}
    found = ((n << _LINES | at, some, data) for n, source in enumerate(sources) for at, some, data in _resources(source))
    for count, (place, resource, line) in enumerate(found, 1):
        entry = Entry(resource)
        if entry.kind in _SHARED:
            rows["shared"].append((place, entry.tail, line))
        else:
            subject = resource.get("subject") or resource.get("patient")
            patient = _number(entry.tail if entry.kind == "Patient" else patient_named(subject))
            if entry.kind == "Patient" and patient is not None:
                rows["known"] += ((each, patient) for each in _identifiers(resource))
            elif patient is None and isinstance(subject, dict):
                rows["identified"] += ((place, each) for each in _identifiers(subject))
            rows["resource"].append((place, _number(entry.tail), patient, line))
        if count % _AT_ONCE == 0:
            _flush(base, rows)
    _flush(base, rows)


def _flush(base: sqlite3.Connection, rows: dict[str, list[tuple[object, ...]]]) -> None:
    for name, some in rows.items():
        base.executemany(_INSERT[name], some)
        some.clear()


def _number(tail: str | None) -> int | None:
    return None if tail is None else digest(tail.encode())


def _identifiers(resource: Json) -> Iterator[int]:
    """The identifiers of a patient, or of a reference to one."""
    found = resource.get("identifier")
    for identifier in found if isinstance(found, list) else [found]:
        if isinstance(identifier, dict) and isinstance(identifier.get("value"), str):
            yield digest(json.dumps([str(identifier.get("system", "")), identifier["value"]]).encode())


def _resources(source: Source) -> Iterator[tuple[int, Json, bytes]]:
    """The resources in a file, each with the number of its line and what stands for it in one line."""
    number = 0
    try:
        with source.path.open("rb") as raw:
            stream = unpacked(raw, source.packed)
            whole = source.kind == DOCUMENT
            for number, line in enumerate([stream.read(MAX_LINE + 1)] if whole else lines_of(stream, source.name), 1):
                data = line.removeprefix(b"\xef\xbb\xbf").strip()
                where = source.name if whole else f"{source.name}: line {number}"
                if len(line) > MAX_LINE:
                    raise CohortError(f"{where}: longer than {MAX_LINE // 2**20} MB")
                if data:
                    yield number, _resource(data, where, whole=whole), data.replace(b"\r", b" ").replace(b"\n", b" ")
    except BROKEN as error:
        raise CohortError(f"{source.name}: cannot be read after line {number}: {breaks_off(error)}") from None


def _resource(data: bytes, where: str, *, whole: bool) -> Json:
    try:
        found: Json = loads(data, where)
    except FactsError as error:
        lines = "; if it holds one resource a line, name it .ndjson" if whole and b"\n" in data else ""
        raise CohortError(f"{error}; nobody can tell whose it is, so correct it{lines}") from None
    kind = found.get("resourceType") if isinstance(found, dict) else None
    if not isinstance(kind, str) or kind == "Bundle" or any(key.startswith("@") for key in found):
        raise CohortError(
            f"{where}: not a single FHIR resource; --partition brings these (and triples) together by patient, a Bundle or "
            "JSON-LD is read as it is: give it in a run of its own"
        )
    return found


def _with_shared(base: sqlite3.Connection, lines: list[bytes]) -> list[bytes]:
    """Resources, and before them what they point at, with what that points at."""
    found: dict[int, bytes] = {}
    names: set[str] = set()
    waiting = lines
    while waiting:
        fresh = {name.decode() for line in waiting for name in _POINTED.findall(line.replace(b"\\/", b"/"))} - names
        names |= fresh
        select = "SELECT place, line FROM shared WHERE name = ?"
        pointed = {place: line for name in sorted(fresh) for place, line in base.execute(select, (name,))}
        found |= pointed
        waiting = list(pointed.values())
    return [*(line for _, line in sorted(found.items())), *lines]


def _strays(base: sqlite3.Connection, knowledge: Knowledge) -> Iterator[list[bytes]]:
    """The resources of nobody of which the reader has something to say."""
    rows = base.execute("SELECT line FROM resource WHERE patient IS NULL ORDER BY place")
    while lines := [line for (line,) in rows.fetchmany(_STRAYS)]:
        lines = _with_shared(base, lines)
        if any(stray.matters for stray in read_resources(map(loads, lines), knowledge).stray):
            yield lines


def _bundle(lines: Iterable[bytes]) -> bytes:
    entries = b",".join(b'{"resource":%s}' % line for line in lines)
    return b'{"resourceType":"Bundle","type":"collection","entry":[%s]}\n' % entries
