"""Run a knowledge base on patient facts: validate, prepare, classify, derive.

Everything that decides is data: shapes and SPARQL updates of the knowledge base, run here on Oxigraph in batches of
patients. This module only orders and reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyoxigraph as ox

from kbtool.answer import PatientResult, read_answers, read_derived, rule_book
from kbtool.facts import Facts, PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, XSD
from kbtool.rows import no_collection
from kbtool.shapes import Violation, validate

if TYPE_CHECKING:
    from kbtool.judging import Doubt
    from kbtool.setwise import Program, Removal

BATCH = 1000
"""Patients evaluated in one store; memory stays flat whatever the number of patients."""

WORTHWHILE = 12
"""So many patients in Oxigraph cost about as much as planning the set-wise engine, which answers from then on."""

Progress = Callable[[int, int], None]

_HAS_OBSERVATION = CG["hasObservation"]
_HAS_ROW, _TYPE_ROW = str(_HAS_OBSERVATION), str(RDF["type"])


class AsOfError(ValueError):
    """The as-of time is not a date and time with a zone."""


def parse_as_of(text: str | datetime | None) -> ox.Literal:
    """The as-of time as a literal; None is now. Raises AsOfError for a time without a zone or a text that is none."""
    if text is None:
        text = datetime.now(UTC).replace(microsecond=0)
    try:
        moment = text if isinstance(text, datetime) else datetime.fromisoformat(text)
    except ValueError:
        raise AsOfError(f"{text!r} is not a date and time; write it like 2026-02-10T12:00:00Z") from None
    if moment.tzinfo is None:
        raise AsOfError(f"{text} has no time zone; write it like 2026-02-10T12:00:00Z")
    return ox.Literal(moment.isoformat().replace("+00:00", "Z"), datatype=XSD["dateTime"])


@dataclass
class Checked:
    """What validation found in a batch: by patient, what is set aside, what refuses the patient, what only warns."""

    set_aside: dict[str, list[Violation]] = field(default_factory=dict)
    refused: dict[str, list[Violation]] = field(default_factory=dict)
    warnings: dict[str, list[Violation]] = field(default_factory=dict)


def batches(facts: Facts, size: int = BATCH) -> Iterator[list[PatientFacts]]:
    """Patients in batches; patients that share a node stay together."""
    batch: list[PatientFacts] = []
    for group in facts.groups:
        batch.extend(group)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def load_store(knowledge: Knowledge, batch: Iterable[PatientFacts], as_of: ox.Literal, *, whole: bool = False) -> ox.Store:
    """A store with the knowledge that queries read (or, with `whole`, all of it), the facts and the as-of time."""
    store = ox.Store()
    store.extend(knowledge.graph if whole else knowledge.runtime)
    store.extend(quad for record in batch for quad in record.triples)
    store.add(ox.Quad(CG["Run"], CG["asOf"], as_of))
    return store


def check(store: ox.Store, knowledge: Knowledge, batch: list[PatientFacts], *, strict: bool = False) -> Checked:
    """Validate a store by the shapes, and take out of it what breaks them.

    A bad observation is set aside: missing is unknown and therefore safe. Anything else that is bad refuses its
    patient, because what is left out would read as absent; with `strict` a bad observation does so too.
    """
    checked = _sorted_out(validate(store, knowledge.shapes), batch, [str(record.patient) for record in batch], strict)
    for record in batch:
        key = str(record.patient)
        if key in checked.refused:
            for quad in record.triples:
                if quad.subject == record.patient:
                    store.remove(quad)
        for violation in checked.set_aside.get(key, ()):
            store.remove(ox.Quad(record.patient, _HAS_OBSERVATION, violation.focus))
            store.add(ox.Quad(record.patient, CG["setAside"], violation.focus))
            if isinstance(violation.focus, ox.NamedNode):
                store.add(ox.Quad(violation.focus, CG["notUsedBecause"], CG["SetAside"]))
    return checked


def _sorted_out(violations: list[Violation], batch: list[PatientFacts], everybody: list[str], strict: bool) -> Checked:
    """Whom each violation concerns, and what follows from it; one that nobody owns concerns everybody."""
    checked = Checked()
    wrong = {str(violation.focus) for violation in violations}
    owners: dict[str, dict[str, None]] = {}
    observations: set[str] = set()
    for record in batch if violations else ():
        patient = str(record.patient)
        if patient in wrong:
            owners.setdefault(patient, {})[patient] = None
        for subject, predicate, target in record.rows():
            if subject in wrong:
                owners.setdefault(subject, {})[patient] = None
            if target in wrong and target[0] != '"' and predicate != _TYPE_ROW:
                owners.setdefault(target, {})[patient] = None
                if predicate == _HAS_ROW:
                    observations.add(target)
    for violation in violations:
        focus = str(violation.focus)
        if violation.severity.endswith("Warning"):
            kind = checked.warnings
        elif focus in observations and not strict:
            kind = checked.set_aside
        else:
            kind = checked.refused
        for patient in owners.get(focus) or everybody:
            kind.setdefault(patient, []).append(violation)
    return checked


def derive(store: ox.Store, knowledge: Knowledge, batch: Iterable[PatientFacts]) -> None:
    """Run every step of the knowledge base on a checked store; each step only adds triples."""
    store.extend(quad for record in batch for quad in record.reported)
    for step in knowledge.steps:
        step.run(store)


def read(store: ox.Store, knowledge: Knowledge, batch: Iterable[PatientFacts], checked: Checked) -> Iterator[PatientResult]:
    """The answers of a batch out of a store in which everything has been derived, in the order of the batch."""
    return read_answers(store, knowledge, batch, checked.set_aside, checked.refused, checked.warnings)


def assess(
    knowledge: Knowledge,
    facts: Facts,
    as_of: ox.Literal,
    *,
    strict: bool = False,
    size: int = BATCH,
    progress: Progress | None = None,
) -> Iterator[PatientResult]:
    """Assess patients batch by batch, in the order in which they were read. `progress` gets done and total."""
    done, total = 0, len(facts)
    program = _program(knowledge, total)
    for batch in batches(facts, size):
        if program is None:
            yield from _by_store(knowledge, batch, as_of, strict)
        else:
            yield from _by_columns(program, knowledge, batch, as_of, strict)
        done += len(batch)
        if progress:
            progress(done, total)


def _by_store(knowledge: Knowledge, batch: list[PatientFacts], as_of: ox.Literal, strict: bool) -> Iterator[PatientResult]:
    store = load_store(knowledge, batch, as_of)
    checked = check(store, knowledge, batch, strict=strict)
    derive(store, knowledge, batch)
    return read(store, knowledge, batch, checked)


def prepare(knowledge: Knowledge) -> None:
    """Plan the set-wise engine and make what answers repeat of rules, for a process that will assess many patients."""
    rule_book(knowledge)
    if "_program" not in knowledge.__dict__:
        knowledge.__dict__["_program"] = _planned(knowledge)


def _program(knowledge: Knowledge, patients: int) -> Program | None:
    """The program of the set-wise engine, made once so many patients have been assessed that making it pays."""
    state = knowledge.__dict__
    if "_program" not in state:
        state["_assessed"] = state.get("_assessed", 0) + patients
        if state["_assessed"] < WORTHWHILE:
            return None
        prepare(knowledge)
    program: Program | None = state["_program"]
    return program


def _planned(knowledge: Knowledge) -> Program | None:
    from kbtool.setwise import Program
    from kbtool.sparql import CannotRead

    try:
        return Program(knowledge)
    except CannotRead:
        return None


def _by_columns(
    program: Program, knowledge: Knowledge, batch: list[PatientFacts], as_of: ox.Literal, strict: bool
) -> Iterator[PatientResult]:
    from kbtool.judging import judged
    from kbtool.setwise import Removal
    from kbtool.values import Unsettled

    checked = Checked()

    def judge(suspects: list[PatientFacts], doubts: list[Doubt]) -> Removal:
        nonlocal checked
        rows = [row for record in suspects for row in record.rows()]
        violations = judged(load_store(knowledge, (), as_of), rows, doubts)
        checked = _sorted_out(violations, suspects, [str(record.patient) for record in batch], strict)
        removal = Removal()
        removal.subjects.update(checked.refused)
        for patient, violations in checked.set_aside.items():
            for violation in violations:
                focus = str(violation.focus)
                removal.links.add((patient, _HAS_ROW, focus))
                removal.added.append((patient, str(CG["setAside"]), focus))
                if isinstance(violation.focus, ox.NamedNode):
                    removal.added.append((focus, str(CG["notUsedBecause"]), str(CG["SetAside"])))
        return removal

    with no_collection():
        try:
            derived = program.run(batch, as_of, judge)
        except Unsettled:
            return _by_store(knowledge, batch, as_of, strict)
        return iter(list(read_derived(derived, knowledge, batch, checked.set_aside, checked.refused, checked.warnings)))
