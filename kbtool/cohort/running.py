"""Assess a cohort: cut the inputs into batches, have them assessed, keep what comes, and publish it when all is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from kbtool import __version__, engine
from kbtool.cohort.assess import lost
from kbtool.cohort.checkpoint import Checkpoint
from kbtool.cohort.cut import Vocabulary, whole
from kbtool.cohort.inputs import SORTED, TURTLE, Source, batches, find
from kbtool.cohort.publish import Total, publish, refused_file, scattered
from kbtool.cohort.units import TRIPLES, Batch, CohortError, Fragment, Job, Json, Position, Scattered
from kbtool.cohort.workers import Lost, Processes, Task, Workers, cores
from kbtool.knowledge import Knowledge

FORMS = {".parquet": "parquet", ".ndjson": "ndjson", ".ttl": "ttl"}
"""The forms of the output, by ending."""


@dataclass(frozen=True)
class Settings:
    """What a run is asked for. Every field but the last three decides what comes out, and is kept in the checkpoint.

    as_of: None is now, or the time of the run that is gone on with. ontology: path of another root ontology. partition: bring
    the triples of each patient together first. scheduler: address of a Dask scheduler, which has workers elsewhere.
    """

    inputs: Sequence[str | Path]
    out: Path
    as_of: str | None = None
    ontology: Path | None = None
    strict: bool = False
    size: int = engine.BATCH
    partition: bool = False
    jobs: int | None = None
    restart: bool = False
    scheduler: str | None = None


class Watch:
    """Is told how a run goes; the default says nothing."""

    def begin(self, total: int, read: int, patients: int) -> None:
        """Bytes of all inputs; bytes and patients that were done by an earlier start."""

    def batch(self, patients: int, refused: int, read: int) -> None:
        """A batch is done. read: bytes of the inputs up to its end."""

    def note(self, message: str) -> None:
        """Something that is worth a line, without anything about a patient."""

    def warn(self, message: str) -> None:
        """The same, and whoever started the run has to know it."""
        self.note(message)


def run(settings: Settings, watch: Watch | None = None) -> tuple[Json, Total]:
    """Assess a cohort, or go on with it where it was stopped. Returns what the run was, and what it found.

    Raises CohortError, AsOfError, and what loading a knowledge base raises.
    """
    watch = watch or Watch()
    form = FORMS.get(settings.out.suffix)
    if form is None:
        raise CohortError(f"{settings.out}: the output ends in one of {', '.join(FORMS)}")
    if not settings.out.parent.is_dir():
        raise CohortError(f"{settings.out.parent}: there is no such folder")
    _need(form, settings.scheduler)
    if settings.size < 1 or (settings.jobs is not None and settings.jobs < 1):
        raise CohortError("--jobs and --batch are 1 or more")
    moment = engine.parse_as_of(settings.as_of)
    checkpoint = Checkpoint(settings.out)
    own = (settings.out, refused_file(settings.out), settings.out.with_suffix(".svg"), checkpoint.state, checkpoint.lock)
    for file in own:
        if file.is_dir():
            raise CohortError(f"{file}: is a folder, and the run writes a file of this name; give the output another name")
    sources = find(settings.inputs, (*own, checkpoint.parts), watch.warn)
    _not_theirs(settings, checkpoint)
    knowledge = Knowledge.load(settings.ontology)
    vocabulary, prefixes, sha256 = Vocabulary.read(knowledge), knowledge.prefixes, knowledge.sha256
    try:
        about = identity(settings, sources, knowledge, moment.value)
        checkpoint.open(about, restart=settings.restart, as_of_given=settings.as_of is not None)
        about = checkpoint.about
        ontology = str(settings.ontology) if settings.ontology else None
        job = Job(ontology, sha256, about["asOf"], settings.strict, form, str(checkpoint.parts.resolve()))
        read = sources
        if settings.partition:
            from kbtool.cohort.partition import together

            read = together(sources, checkpoint.parts, knowledge, vocabulary, watch.note)
        del knowledge  # the workers need it, this process no more
        with closing(_workers(settings, job)) as workers:
            crew = _Crew(workers, job, vocabulary, watch)
            cohort = _Cohort(read, vocabulary, settings.size, checkpoint, crew)
            cohort.assess()
            cohort.refuse_scattered()
        _unchanged(sources)
        known = {"kb": {"iri": about["kbIri"], "version": about["kbVersion"], "sha256": about["kb"]}, "asOf": about["asOf"]}
        total = publish(checkpoint, settings.out, known, prefixes)
        checkpoint.finish(total.to_json())
        return checkpoint.about, total
    finally:
        checkpoint.close()


def identity(settings: Settings, sources: list[Source], knowledge: Knowledge, as_of: str) -> Json:
    """What a run is: a run that differs in any of this is another one."""
    return {
        "kbtool": __version__,
        "kbIri": knowledge.iri,
        "kbVersion": knowledge.version,
        "kb": knowledge.sha256,
        "asOf": as_of,
        "out": settings.out.name,
        "strict": settings.strict,
        "batch": settings.size,
        "partition": settings.partition,
        "inputs": [source.identity() for source in sources],
    }


@dataclass
class _Crew:
    """Workers, and what to do when one of them is lost."""

    workers: Workers
    job: Job
    vocabulary: Vocabulary
    watch: Watch

    def assessed(self, todo: Iterator[tuple[Batch, Scattered]]) -> Iterator[tuple[Batch, list[Fragment]]]:
        """Batches (with their patients to refuse) and what came of them, as they are done.

        A part of a batch that is lost is tried again, then halved, until the patient who cannot be assessed stands alone
        and is refused.
        """
        begun: dict[int, Batch] = {}
        came: dict[int, dict[tuple[int, ...], tuple[Task, Fragment]]] = {}
        missing: dict[int, int] = {}
        again: list[Task] = []
        more = True
        while True:
            while self.workers.free() > 0 and (again or more):
                if again:
                    self.workers.submit(again.pop())
                    continue
                following = next(todo, None)
                more = following is not None
                if following is not None:
                    batch, scattered = following
                    begun[batch.number], came[batch.number], missing[batch.number] = batch, {}, 1
                    self.workers.submit(Task(batch.number, batch.units, scattered))
            if not self.workers.busy():
                return
            for task, outcome in self.workers.wait():
                if isinstance(outcome, Lost):
                    if not task.alone:
                        self.watch.note(f"batch {task.batch + 1}: {outcome.reason}; it is assessed again")
                        parts = task.after_loss(self.vocabulary)
                        missing[task.batch] += len(parts) - 1
                        again += parts
                        continue
                    outcome = lost(whole(task.units, self.vocabulary), self.job, outcome.reason, task.scattered.told)
                came[task.batch][task.part] = task, outcome
                missing[task.batch] -= 1
                if not missing[task.batch]:
                    twice = _told_twice([came[task.batch][part] for part in sorted(came[task.batch])])
                    missing[task.batch] = len(twice)
                    again += twice
                if not missing[task.batch]:
                    found = came.pop(task.batch)
                    yield begun.pop(task.batch), [found[part][1] for part in sorted(found)]


def _told_twice(parts: list[tuple[Task, Fragment]]) -> list[Task]:
    """What to assess again of a batch in parts, because they answer for a patient whom an earlier part answers for."""
    found: list[Task] = []
    told: set[str] = set()
    for task, fragment in parts:
        who, already = set(fragment.head["who"]), task.scattered.told
        if who & told - already:
            found.append(replace(task, scattered=replace(task.scattered, told=already | (who & told))))
        told |= who
    return found


@dataclass
class _Cohort:
    """The batches of a run, those that are done and those that are to do."""

    sources: list[Source]
    vocabulary: Vocabulary
    size: int
    checkpoint: Checkpoint
    crew: _Crew

    def assess(self) -> None:
        """Assess every batch that is not done yet."""
        done, watch = self.checkpoint.done, self.crew.watch
        last = self.checkpoint.next()
        before = sum(line["patients"] for line in done.values())
        watch.begin(sum(source.size for source in self.sources), last.read if last else 0, before)
        todo = (batch for batch in batches(self.sources, self.vocabulary, self.size, last) if batch.number not in done)
        for batch, fragments in self.crew.assessed((batch, Scattered()) for batch in todo):
            self.checkpoint.write(batch, fragments)
            line = done[batch.number]
            watch.batch(line["patients"], line["refused"], batch.read)

    def refuse_scattered(self) -> None:
        """Assess again the batches with patients who turned out to stand in another place too: they are refused now."""
        done = self.checkpoint.done
        found = scattered(self.checkpoint)
        number, patients = sum(len(names) for names in found.values()), sum(line["patients"] for line in done.values())
        if number > 10 and 2 * number > patients:
            documents = any(source.kind not in (TRIPLES, TURTLE, SORTED) for source in self.sources)
            what = (
                "put all that belongs to a patient into one document (a Bundle, in FHIR), and start with --restart"
                if documents
                else "start with --restart --partition, which brings the triples of each patient together first"
            )
            raise CohortError(f"the facts of {number} of {patients} patients stand in more than one place of the inputs; {what}")
        for batch, fragments in self.crew.assessed(self._again(found)):
            self.checkpoint.write(batch, fragments, without=len(found[batch.number]))

    def _again(self, found: dict[int, set[str]]) -> Iterator[tuple[Batch, Scattered]]:
        told: set[str] = set()
        for number, names in found.items():
            if self.checkpoint.done[number]["without"] != len(names):
                yield self._batch(number), Scattered(frozenset(names), frozenset(names & told))
            told |= names

    def _batch(self, number: int) -> Batch:
        start = Position(*self.checkpoint.done[number]["start"])
        return next(batches(self.sources, self.vocabulary, self.size, Batch([], start, 0, number - 1, start)))


def _not_theirs(settings: Settings, checkpoint: Checkpoint) -> None:
    """Raise CohortError where a file that would be overwritten lies in a folder of inputs and is none of an earlier run: it would
    be left out as an output, and be lost."""
    folders = {path.resolve() for path in map(Path, settings.inputs) if path.is_dir()}
    for file in (settings.out, refused_file(settings.out)):
        if file.exists() and not checkpoint.state.exists() and not folders.isdisjoint(file.resolve().parents):
            raise CohortError(
                f"{file}: lies among the inputs, and is not known as an output of an earlier run; give the output another name, "
                "or move this file away"
            )


def _workers(settings: Settings, job: Job) -> Workers:
    if settings.scheduler is None:
        return Processes(job, settings.jobs or cores())
    from kbtool.cohort.cluster import Cluster

    return Cluster(job, settings.scheduler)


def _need(form: str, scheduler: str | None) -> None:
    """Say now what is not installed, not after hours."""
    if form == "parquet" and find_spec("pyarrow") is None:
        raise CohortError("Parquet needs pyarrow: pip install 'kbtool[cohort]', or write to .ndjson")
    if scheduler is not None and find_spec("distributed") is None:
        raise CohortError("--scheduler needs Dask: pip install 'kbtool[cluster]'")


def _unchanged(sources: list[Source]) -> None:
    for source in sources:
        now = source.path.stat()
        if (now.st_size, now.st_mtime_ns) != (source.size, source.changed):
            raise CohortError(f"{source.path}: was changed while it was read; start anew with --restart")
