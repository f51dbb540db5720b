"""What a worker does: read the facts of a batch, assess its patients, and write the answers in the form of the output."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import pyoxigraph as ox

from kbtool import engine
from kbtool.answer import PatientResult
from kbtool.cohort import ledger
from kbtool.cohort.cut import links
from kbtool.cohort.table import Key, Place, Table, count
from kbtool.cohort.units import TRIPLES, CohortError, Fragment, Job, Json, Scattered, Unit
from kbtool.facts import Facts, FactsError, PatientFacts, Reader
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, text
from kbtool.rows import lexical

TREATED_AT = CG["treatedAt"]
"""Where a patient is treated."""

SCATTERED = (
    "facts of this patient, or of a node that belongs to it, stand in more than one place of the inputs, so that they may have "
    "been read in part; bring them together (for triples --partition does it)"
)
"""Why a patient is refused whose facts are scattered."""

_NOBODY = Scattered()
_NO_PATIENT = 2**30
_FHIR = re.compile(rb'"resourceType"\s*:\s*"')
_RESOURCE = re.compile(rb'^\s*\{\s*"resourceType"\s*:\s*"(?!Bundle")')


@lru_cache(maxsize=2)
def knowledge_of(ontology: str | None, sha256: str) -> Knowledge:
    """The knowledge base of a run, loaded once in a process. Raises CohortError where it is another one here."""
    knowledge = Knowledge.load(ontology)
    if knowledge.sha256 != sha256:
        raise CohortError(
            f"the knowledge base of this worker is another one (sha256 {knowledge.sha256}, wanted {sha256}); "
            "install the same version of kbtool and of the ontology on every machine"
        )
    return knowledge


@dataclass
class _Room:
    """What was read together: the units, and the facts in them. Only within a room may patients share a node."""

    units: list[Unit]
    facts: Facts
    place: dict[str, Unit] = field(default_factory=dict)

    def unit_of(self, patient: str) -> Unit:
        return self.place.get(patient, self.units[0])


class _Refused:
    """Lines of OUT.refused.ndjson."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.files = 0
        self.unread: list[Unit] = []

    def add(self, unit: Unit, reason: str, patient: str | None = None, line: int | None = None, **more: object) -> None:
        place = {"file": unit.file, "line": line or unit.line_at(None)}
        entry = {"patient": patient, **place, "reason": reason, **more}
        self.lines.append(json.dumps(entry, ensure_ascii=False).encode() + b"\n")


def assess(units: list[Unit], job: Job, scattered: Scattered = _NOBODY) -> Fragment:
    """Assess the patients in some units.

    The head of the result: "who", for each patient [IRI, file, line, room, unit]; "people", how many these are; "patients",
    how many of them get an answer (all, but one who stands in several places gets only one); "counts", of `table.count`;
    "refused", lines about that; "unread", stretches of files; "notAccepted", patients with something refused, set aside or
    not read.
    """
    knowledge = knowledge_of(job.ontology, job.sha256)
    refused = _Refused()
    rooms = list(_rooms(units, knowledge, refused))
    records = [(number, room, group) for number, room in enumerate(rooms) for group in room.facts.groups]
    people = [(number, room, record) for number, room, group in records for record in group]
    book = ledger.Book(knowledge, links(knowledge))
    for ordinal, (number, room, record) in enumerate(people):
        book.patient(record, ordinal, number, room.unit_of(text(record.patient)))
    for number, room in enumerate(rooms):
        for stray in (node.strip("<>") for node in room.facts.strays):
            book.stray(stray, _NO_PATIENT, number)
            refused.add(room.unit_of(stray), "a fact that belongs to no patient, and was not read", node=stray)
        for unit in room.units:
            book.labels(unit, _NO_PATIENT)
    for number, unit in enumerate(refused.unread, len(rooms)):
        book.unread(unit, _NO_PATIENT, number)
    apart = scattered.here | {text(people[ordinal][2].patient) for ordinal in book.scattered() if ordinal < len(people)}
    groups = [group for _, _, group in records if not any(text(record.patient) in apart for record in group)]
    answers = {
        result.patient: result
        for result in engine.assess(knowledge, Facts(groups, []), engine.parse_as_of(job.as_of), strict=job.strict)
    }
    writer = Writer(job, knowledge)
    who, accepted, told = [], 0, set(scattered.told)
    for number, room, record in people:
        name = text(record.patient)
        unit = room.unit_of(name)
        place = Place(treated_at(record), unit.file, unit.line_at(None))
        result = answers.get(name)
        answer = refusal(name, SCATTERED) if result is None else result.data
        for reason in answer.get("refused", ()):
            refused.add(unit, reason["message"], name, focus=reason["focus"], shape=reason["shape"] or None)
        who.append([name, place.file, place.line, number, place.unit])
        if name not in told:
            writer.add(answer, place, result)
            accepted += result is not None and result.accepted
        told.add(name)
    head = {
        "who": who,
        "people": len(people),
        "patients": writer.patients,
        "counts": [[*key, number] for key, number in writer.counts.items()],
        "refused": len(refused.lines),
        "unread": refused.files,
        "notAccepted": writer.patients - accepted,
    }
    return Fragment(head, writer.chunks(), b"".join(refused.lines), book.to_bytes())


def lost(units: Iterable[Unit], job: Job, knowledge: Knowledge, reason: str) -> Fragment:
    """What stands for units that cannot be assessed, because the process that does it dies of them."""
    writer, refused, book = Writer(job, knowledge), _Refused(), ledger.Book(knowledge, links(knowledge))
    who: list[list[object]] = []
    for number, unit in enumerate(units):
        book.unread(unit, _NO_PATIENT, number)
        for name in unit.who:
            place = Place(None, unit.file, unit.line_at(None))
            writer.add(refusal(name, reason), place)
            who.append([name, place.file, place.line, number, None])
            refused.add(unit, reason, name)
        if not unit.who:
            refused.add(unit, reason)
    head = {
        "who": who,
        "people": len(who),
        "patients": writer.patients,
        "counts": [[*key, number] for key, number in writer.counts.items()],
        "refused": len(refused.lines),
        "unread": 0,
        "notAccepted": max(len(who), 1),
    }
    return Fragment(head, writer.chunks(), b"".join(refused.lines), book.to_bytes())


def refusal(patient: str, reason: str) -> Json:
    """The answer for a patient who is not assessed."""
    violation = {"focus": patient, "path": None, "value": None, "message": reason, "shape": ""}
    empty = ("setAside", "warnings", "recommendations", "prohibitions", "assessments", "cautions", "missing", "notUsed")
    return {"patient": patient, "inScope": False, "refused": [violation], **{name: [] for name in empty}, "assumptions": []}


def treated_at(record: PatientFacts) -> str | None:
    """Where a patient is treated, as the facts say it; several places are all named."""
    patient, wanted = str(record.patient), str(TREATED_AT)
    found = {lexical(o) for s, p, o in record.rows() if p == wanted and s == patient}
    return "; ".join(sorted(found)) or None


class Writer:
    """Writes answers in the form of the output."""

    def __init__(self, job: Job, knowledge: Knowledge) -> None:
        self.form = job.form
        self.labels = knowledge.labels_by_name
        self.prefixes = knowledge.prefixes
        self.counts: Counter[Key] = Counter()
        self.patients = 0
        self._chunks: list[bytes] = []
        self._table = Table(job.as_of, self.labels) if job.form == "parquet" else None

    def add(self, answer: Json, place: Place, result: PatientResult | None = None) -> None:
        """Add the answer for a patient. result: has its derived triples, where there are any."""
        self.patients += 1
        count(self.counts, answer, place.unit, self.labels)
        if self.form == "ttl":
            self._chunks.append(self._turtle(answer["patient"], place, result.triples if result else []))
            return
        if place.unit is not None:
            answer = {"patient": answer["patient"], "treatedAt": place.unit} | answer
        said = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        if self._table is not None:
            self._table.add(answer, said, place)
        else:
            self._chunks.append(said.encode() + b"\n")

    def chunks(self) -> list[bytes]:
        """The text for each patient, or one Arrow stream for all."""
        if self._table is None:
            return self._chunks
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        batch = self._table.batch()
        with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:
            stream.write_batch(batch)
        return [sink.getvalue().to_pybytes()]

    def _turtle(self, patient: str, place: Place, quads: list[ox.Quad]) -> bytes:
        triples = [q.triple for q in quads]
        if place.unit is not None:
            triples.append(ox.Triple(ox.NamedNode(patient), TREATED_AT, ox.Literal(place.unit)))
        if not triples:
            return b""
        said = ox.serialize(sorted(triples, key=str), format=ox.RdfFormat.TURTLE, prefixes=self.prefixes) or b""
        return b"".join(line for line in said.splitlines(keepends=True) if not line.startswith(b"@prefix ")) + b"\n"


def _rooms(units: list[Unit], knowledge: Knowledge, refused: _Refused) -> Iterator[_Room]:
    """Read units: triples file by file, each document for itself. What cannot be read is refused."""
    files: dict[int, list[Unit]] = {}
    for unit in units:
        if unit.problem is not None:
            refused.files += not unit.data
            refused.unread.append(unit)
            for name in unit.who or (None,):
                refused.add(unit, unit.problem, name)
        elif unit.form == TRIPLES:
            files.setdefault(unit.number, []).append(unit)
        else:
            room = _document(unit, knowledge, refused)
            if room is not None:
                yield room
    for together in files.values():
        good, reader = together, Reader()
        try:
            reader.add(together[0].file, b"".join(unit.data for unit in together), ox.RdfFormat.N_TRIPLES)
        except FactsError:
            good, reader = _readable(together, refused)
        if good:
            yield _Room(good, reader.facts(knowledge.graph), {name: unit for unit in good for name in unit.who})


def _readable(units: list[Unit], refused: _Refused) -> tuple[list[Unit], Reader]:
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
                refused.add(unit, message[line.end() :] if line else message, name, where)
        else:
            reader.add(unit.file, unit.data, ox.RdfFormat.N_TRIPLES)
            good.append(unit)
    return good, reader


def _document(unit: Unit, knowledge: Knowledge, refused: _Refused) -> _Room | None:
    try:
        facts = _facts_of(unit, knowledge, refused)
    except FactsError as error:
        message = re.sub(r"^line 1, (?=column)", "", str(error).removeprefix(f"{unit.file}: "))
        refused.add(unit, message)
        return None
    nameless = [group for group in facts.groups if any(isinstance(record.patient, ox.BlankNode) for record in group)]
    for _ in nameless:
        refused.add(unit, "the patient has no IRI of its own, so that no answer could be given back under a name")
    facts.groups = [group for group in facts.groups if group not in nameless]
    if not facts.groups and not facts.strays and not nameless:
        refused.add(unit, "no patient in it")
    return _Room([unit], facts)


def _facts_of(unit: Unit, knowledge: Knowledge, refused: _Refused) -> Facts:
    if _FHIR.search(unit.data[:4096]) and b'"@context"' not in unit.data[:4096]:
        from kbtool.fhir.read import read

        if _RESOURCE.match(unit.data):
            raise FactsError(
                f"{unit.file}: a single FHIR resource; a patient's resources are read together: put them into one Bundle a line"
            )
        found = read(unit.data, knowledge, unit.file)
        for stray in found.stray:
            if stray.matters:
                refused.add(unit, f"{stray.resource}: {stray.reason}")
        return found.facts()
    scope = f"{unit.number + 1}/" + (f"{unit.lines[0]}-" if unit.lines else "")
    reader = Reader(scope=scope)
    reader.add(unit.file, unit.data, ox.RdfFormat.JSON_LD)
    return reader.facts(knowledge.graph)
