"""What a worker does: read the facts of a batch, assess its patients, and write the answers in the form of the output."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Iterable
from functools import lru_cache

import pyoxigraph as ox

from kbtool import engine
from kbtool.answer import PatientResult
from kbtool.cohort import ledger
from kbtool.cohort.cut import Vocabulary
from kbtool.cohort.rooms import Refused, Room, Where, rooms
from kbtool.cohort.table import Key, Place, Table, count
from kbtool.cohort.units import DOCUMENT, CohortError, Fragment, Job, Json, Scattered, Stretch, Unit
from kbtool.facts import Facts, PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, text
from kbtool.rows import Row, lexical

TREATED_AT = CG["treatedAt"]
"""Where a patient is treated."""

SCATTERED = (
    "facts of this patient, or of a node that belongs to it, stand in more than one place of the inputs, so that they may have "
    "been read in part; bring them together (for triples and single FHIR resources --partition does it)"
)
"""Why a patient is refused whose facts are scattered."""

_NOBODY = Scattered()
_NO_PATIENT = 2**30
_TREATED_AT = str(TREATED_AT)


@lru_cache(maxsize=2)
def knowledge_of(ontology: str | None, sha256: str) -> Knowledge:
    """The knowledge base of a run, loaded once in a process. Raises CohortError where it is another one here."""
    knowledge = Knowledge.load(ontology)
    if knowledge.sha256 != sha256:
        raise CohortError(
            f"the knowledge base of this worker is another one (sha256 {knowledge.sha256}, wanted {sha256}); "
            "install the same version of kbtool and of the ontology on every machine"
        )
    engine.prepare(knowledge)
    return knowledge


class _Report(Refused):
    """What is gathered about the units of a task: answers, who is refused, and the ledger."""

    def __init__(self, job: Job, knowledge: Knowledge) -> None:
        super().__init__()
        self.writer = Writer(job, knowledge)
        self.book = ledger.Book(knowledge, Vocabulary.read(knowledge))
        self.not_accepted = 0
        self.who: list[str] = []

    def fragment(self) -> Fragment:
        """All of it.

        The head: "who", the patients by IRI; "people", how many these are; "patients", how many of them get an answer (all, but
        one who stands in several places gets only one); "counts", of `table.count`; "refused", lines about that; "unread",
        stretches of files; "notAccepted", patients with something refused, set aside or not read; "sizes", bytes of the
        other parts.
        """
        kept = b"".join(self.lines), self.book.entries.tobytes(), self.writer.out()
        head = {
            "who": self.who,
            "people": len(self.who),
            "patients": self.writer.patients,
            "counts": [[*key, number] for key, number in self.writer.counts.items()],
            "refused": len(self.lines),
            "unread": self.files,
            "notAccepted": self.not_accepted,
            "sizes": [len(part) for part in kept],
        }
        return Fragment(head, *kept)


def assess(units: list[Unit | Stretch], job: Job, scattered: Scattered = _NOBODY) -> Fragment:
    """Assess the patients in some units."""
    knowledge = knowledge_of(job.ontology, job.sha256)
    report = _Report(job, knowledge)
    places = list(rooms(units, knowledge, report))
    records = [(number, room, group) for number, room in enumerate(places) for group in room.facts.groups]
    people = [(number, room, record) for number, room, group in records for record in group]
    report.who = [text(record.patient) for _, _, record in people]
    treated = _written_down(report, places, people)
    found = ledger.scattered_here(report.book.entries)
    apart = scattered.here | {report.who[ordinal] for ordinal in found if ordinal < len(people)}
    groups = [group for _, _, group in records if not apart or not any(text(record.patient) in apart for record in group)]
    results = engine.assess(
        knowledge, Facts(groups, []), engine.parse_as_of(job.as_of), strict=job.strict, size=max(len(people), 1)
    )
    following, told = next(results, None), set(scattered.told)
    for name, treated_at, (_, room, _) in zip(report.who, treated, people, strict=True):
        result = None
        if following is not None and following.patient == name:
            result, following = following, next(results, None)
        answer = refusal(name, SCATTERED) if result is None else result.data
        for reason in answer.get("refused", ()):
            report.refuse(room.where(name), reason["message"], name, focus=reason["focus"], shape=reason["shape"] or None)
        if name not in told:
            report.not_accepted += result is None or not result.accepted
            report.writer.add(answer, treated_at, room.where, result)
        told.add(name)
    if following is not None:
        raise AssertionError("an answer for a patient who was not asked about")
    return report.fragment()


def _written_down(report: _Report, places: list[Room], people: list[tuple[int, Room, PatientFacts]]) -> list[str | None]:
    """Fill the ledger. Returns for each patient where they are treated, read from the same rows."""
    book = report.book
    treated = []
    for ordinal, (number, room, record) in enumerate(people):
        rows, node = record.rows(), str(record.patient)
        treated.append(treated_at(node, rows))
        unit = room.unit_of(report.who[ordinal])
        book.patient(rows, node, ordinal, number, document=unit is not None and unit.form == DOCUMENT)
        if unit is not None:
            book.labels(unit, ordinal)
    for number, room in enumerate(places):
        for node in room.facts.lost:  # a patient elsewhere may point to any of them
            book.stray(node.strip("<>"), _NO_PATIENT, number)
        for stray in (node.strip("<>") for node in room.facts.strays):
            report.refuse(room.where(stray), "a fact that belongs to no patient, and was not read", node=stray)
        for unit in room.units:
            book.labels(unit, _NO_PATIENT)
    for number, unit in enumerate(report.unread, len(places)):
        book.unread(unit, _NO_PATIENT, number)
    return treated


def lost(units: Iterable[Unit], job: Job, reason: str, told: Container[str] = ()) -> Fragment:
    """What stands for units that cannot be assessed, because the process that does it dies of them. told: patients who get an
    answer elsewhere."""
    report = _Report(job, knowledge_of(job.ontology, job.sha256))
    for number, unit in enumerate(units):
        report.book.unread(unit, _NO_PATIENT, number)
        room = Room(Facts([], []), [unit])
        for name in unit.who or (None,):
            report.refuse(room.where(""), reason, name)
            if name is not None:
                report.who.append(name)
            if name not in told:
                report.not_accepted += 1
                if name is not None:
                    report.writer.add(refusal(name, reason), None, room.where)
    return report.fragment()


def refusal(patient: str, reason: str) -> Json:
    """The answer for a patient who is not assessed."""
    violation = {"focus": patient, "path": None, "value": None, "message": reason, "shape": ""}
    empty = ("setAside", "warnings", "recommendations", "prohibitions", "assessments", "cautions", "missing", "notUsed")
    return {"patient": patient, "inScope": False, "refused": [violation], **{name: [] for name in empty}, "assumptions": []}


def treated_at(patient: str, rows: Iterable[Row]) -> str | None:
    """Where a patient is treated, as the facts say it; several places are all named. patient: the token of its node."""
    found = [lexical(o) for s, p, o in rows if p == _TREATED_AT and s == patient]
    return "; ".join(sorted(set(found))) or None


class Writer:
    """Writes answers in the form of the output."""

    def __init__(self, job: Job, knowledge: Knowledge) -> None:
        self.form = job.form
        self.labels = knowledge.labels_by_name
        self.prefixes = knowledge.prefixes
        self.counts: Counter[Key] = Counter()
        self.patients = 0
        self._chunks: list[bytes] = []
        self._json = _json()
        self._table = Table(job.as_of, self.labels) if job.form == "parquet" else None

    def add(
        self, answer: Json, treated_at: str | None, where: Callable[[str], Where], result: PatientResult | None = None
    ) -> None:
        """Add the answer for a patient. treated_at: where they are treated; result: has the derived triples, if any."""
        self.patients += 1
        count(self.counts, answer, treated_at, self.labels)
        if self.form == "ttl":
            self._chunks.append(self._turtle(answer["patient"], treated_at, result.triples if result else []))
            return
        if treated_at is not None:
            answer = {"patient": answer["patient"], "treatedAt": treated_at} | answer
        said = self._json(answer)
        if self._table is not None:
            self._table.add(answer, said, Place(treated_at, *where(answer["patient"])))
        else:
            self._chunks += (said, b"\n")

    def out(self) -> bytes:
        """Everything, in the form of the output."""
        return b"".join(self._chunks) if self._table is None else self._table.stream()

    def _turtle(self, patient: str, treated_at: str | None, quads: list[ox.Quad]) -> bytes:
        triples = [q.triple for q in quads]
        if treated_at is not None:
            triples.append(ox.Triple(ox.NamedNode(patient), TREATED_AT, ox.Literal(treated_at)))
        if not triples:
            return b""
        said = ox.serialize(sorted(triples, key=str), format=ox.RdfFormat.TURTLE, prefixes=self.prefixes) or b""
        return b"".join(line for line in said.splitlines(keepends=True) if not line.startswith(b"@prefix ")) + b"\n"


def _json() -> Callable[[Json], bytes]:
    """What writes JSON; orjson does it in a sixth of the time, to the same bytes."""

    def plain(answer: Json) -> bytes:
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()

    try:
        from orjson import dumps
    except ImportError:
        return plain

    def quick(answer: Json) -> bytes:
        try:
            return dumps(answer)
        except TypeError:  # an integer of more than 64 bits
            return plain(answer)

    return quick
