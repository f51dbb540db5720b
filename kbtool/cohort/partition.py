"""Bring the triples of each patient together, where a file has them in another order: on the disk, not in memory.

A database in the folder of the run holds every triple by its subject and every link. From the patients the links are
followed, as the window of `cut.py` does, so that each node gets its patient; then the triples are written out in the order
of patients, those of patients who share a node side by side.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from kbtool.cohort.checkpoint import replacing
from kbtool.cohort.cut import LINE, Vocabulary, is_patient, renamed
from kbtool.cohort.inputs import BROKEN, BUNDLED, SORTED, TURTLE, Source, breaks_off, damage, unpacked
from kbtool.cohort.stretch import lines_of, turtle_lines
from kbtool.cohort.units import TRIPLES, CohortError
from kbtool.knowledge import Knowledge

FAST = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE; PRAGMA cache_size = -65536;"
"""How a database is kept that is made anew after a crash."""
_SCHEMA = """
CREATE TABLE triple (place INTEGER PRIMARY KEY, node INTEGER, line BLOB);
CREATE TABLE link (subject INTEGER, object INTEGER);
CREATE TABLE owner (node INTEGER PRIMARY KEY, patient INTEGER);
"""
_FOLLOW = """
INSERT OR IGNORE INTO owner SELECT link.object, owner.patient FROM owner JOIN link ON link.subject = owner.node
WHERE link.object NOT IN (SELECT node FROM owner)
"""
_SHARED = """
SELECT DISTINCT a.patient, b.patient FROM link JOIN owner a ON a.node = link.subject JOIN owner b ON b.node = link.object
WHERE a.patient <> b.patient
"""
_SORTED = """
SELECT line FROM triple LEFT JOIN owner ON owner.node = triple.node LEFT JOIN patient ON patient.node = owner.patient
ORDER BY patient.place IS NULL, patient.place, triple.place
"""
_AT_ONCE = 10_000


def together(
    sources: list[Source], folder: Path, knowledge: Knowledge, vocabulary: Vocabulary, note: Callable[[str], None]
) -> list[Source]:
    """The inputs by patient, in the folder of the run: triples as one file, resources of FHIR as one of Bundles; made once.

    Raises CohortError where something is broken or belongs to neither: whose that is, nobody knows.
    """
    if not all((folder / name).is_file() for name in ("sorted.nt", "bundled.ndjson")):
        for source in sources:
            problem = damage(source) if source.packed else None
            if problem is not None:
                raise CohortError(f"{source.name}: cannot be read: {problem}")
    triples = [source for source in sources if source.kind in (TRIPLES, TURTLE)]
    resources = [source for source in sources if source.kind not in (TRIPLES, TURTLE)]
    found = []
    if triples:
        file = folder / "sorted.nt"
        if not file.is_file():
            note("bringing the triples of each patient together")
            _sort(triples, folder, file, vocabulary)
        found.append(_made(file, SORTED, triples))
    if resources:
        from kbtool.cohort.bundling import bundled

        note("bringing the resources of each patient together")
        found.append(_made(bundled(resources, folder, knowledge), BUNDLED, resources))
    return found


def _made(file: Path, kind: str, sources: list[Source]) -> Source:
    about = file.stat()
    name = sources[0].name if len(sources) == 1 else "the inputs, brought together"
    return Source(file, kind, False, about.st_size, about.st_mtime_ns, name)


@contextmanager
def scratch(database: Path) -> Iterator[sqlite3.Connection]:
    """A database that is gone afterwards, however it ends. Raises CohortError where it cannot be written."""
    database.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as base:
            base.executescript(FAST)
            yield base
    except sqlite3.Error as error:
        raise CohortError(
            f"{database.parent}: {error}; make room (there, and where SQLITE_TMPDIR points), then the same command goes on"
        ) from None
    finally:
        database.unlink(missing_ok=True)


def _sort(sources: list[Source], folder: Path, file: Path, vocabulary: Vocabulary) -> None:
    with scratch(folder / "sorting.sqlite") as base:
        base.executescript(_SCHEMA)
        base.execute("CREATE TABLE patient (node INTEGER PRIMARY KEY, place INTEGER)")
        base.execute("BEGIN")
        for number, source in enumerate(sources):
            _load(base, source, number, vocabulary)
        base.execute("CREATE INDEX of_subject ON link (subject)")
        base.execute("INSERT INTO owner SELECT node, node FROM patient")
        while base.execute(_FOLLOW).rowcount > 0:
            pass
        _join_sharing(base)
        with replacing(file) as out:
            out.writelines(line for (line,) in base.execute(_SORTED))
        base.execute("COMMIT")


def _load(base: sqlite3.Connection, source: Source, number: int, vocabulary: Vocabulary) -> None:
    triples: list[tuple[int, bytes]] = []
    links: list[tuple[int, int]] = []

    def flush() -> None:
        base.executemany("INSERT INTO triple (node, line) VALUES (?, ?)", triples)
        base.executemany("INSERT INTO link VALUES (?, ?)", links)
        triples.clear()
        links.clear()

    for line, match in _statements(source, number):
        node, predicate, target = match.groups()
        subject = digest(node)
        triples.append((subject, line))
        if vocabulary.leads(predicate, target):
            links.append((subject, digest(target)))
        elif is_patient(predicate, target):
            flush()
            base.execute("INSERT OR IGNORE INTO patient SELECT ?, MAX(place) FROM triple", (subject,))
        if len(triples) >= _AT_ONCE:
            flush()
    flush()


def _statements(source: Source, number: int) -> Iterator[tuple[bytes, re.Match[bytes]]]:
    """The lines of a file, each with its match; blank nodes get the number of the file into their labels."""
    place = 0
    try:
        with source.path.open("rb") as raw:
            stream = unpacked(raw, source.packed)
            lines = lines_of(stream, source.name) if source.kind == TRIPLES else turtle_lines(stream, 0)
            for place, line in enumerate(lines, 1):
                line = line.removeprefix(b"\xef\xbb\xbf")
                if not line.strip() or line.lstrip().startswith(b"#"):
                    continue
                match = LINE.match(line)
                if match is None:
                    raise CohortError(
                        f"{source.name}: line {place}: not valid N-Triples; nobody can tell whose it is, so correct it"
                    )
                line = renamed(line.rstrip(b"\r\n") + b"\n", match, lambda label: b"_:f%d.%s" % (number, label[2:]))
                again = LINE.match(line)
                assert again is not None
                yield line, again
    except SyntaxError as error:
        where = f"line {error.lineno}, column {error.offset}"
        raise CohortError(f"{source.name}: {where}: not valid Turtle; nobody can tell whose it is, so correct it") from None
    except BROKEN as error:
        raise CohortError(f"{source.name}: cannot be read after line {place}: {breaks_off(error)}") from None
    except ValueError:
        raise CohortError(f"{source.name}: not valid Turtle after {place} triples; correct it") from None


def _join_sharing(base: sqlite3.Connection) -> None:
    """Give the nodes of patients who share one to the first of them."""
    base.execute("CREATE INDEX of_patient ON owner (patient)")
    base.executemany("UPDATE owner SET patient = ? WHERE patient = ?", joined(base.execute(_SHARED).fetchall()))


def joined(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of patients who stand together: for each but one of those who are linked that one, and the patient."""
    above: dict[int, int] = {}

    def root(patient: int) -> int:
        found = patient
        while above.get(found, found) != found:
            found = above[found]
        while above.get(patient, found) != found:  # the next time the way is short
            above[patient], patient = found, above[patient]
        return found

    for one, other in pairs:
        above[root(one)] = root(other)
    return [(root(patient), patient) for patient in above]


def digest(node: bytes) -> int:
    """A number of 64 bits for a node."""
    return int.from_bytes(hashlib.blake2b(node, digest_size=8).digest(), "little", signed=True)
