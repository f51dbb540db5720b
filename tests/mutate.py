"""Mutate the knowledge and count how many mutants the golden cases of tests/patients kill.

    python tests/mutate.py                      # every mutant: some minutes on two cores
    python tests/mutate.py --kind threshold     # the kinds whose names begin so
    python tests/mutate.py --sample 40          # a few of each kind, the same ones for the same --seed

A mutant is the knowledge base with one thing changed, in a module of the ontology or in a query that prepares or derives.
Mutants are made out of the data; nothing here knows a disease or a drug. A golden case kills a mutant if the answer of the
mutant differs from the expected result beside the case, which was found by hand and not from the knowledge. Mutants that
cannot change any answer stand in tests/equivalent_mutants.toml, each with the reason, and are counted apart; those that the
loader refuses are not counted. Exit code 1 says that too few are killed, 2 that a case fails without any mutation.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from itertools import combinations, pairwise
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pyoxigraph as ox
from generate import seeded
from golden import Case, answers, cases, differences
from knowledge_data import MODULES, Number, loaded_with, numbers, ontology, quantities_in_criteria, thresholds

import kbtool
from kbtool import engine
from kbtool.criteria import CriterionError
from kbtool.knowledge import Knowledge, KnowledgeError, Step
from kbtool.namespaces import CG, OWL, RDF, RDFS, XSD, local_name, text

EQUIVALENT = Path(__file__).parent / "equivalent_mutants.toml"
AIM = 0.95
"""The share of mutants, without the equivalent ones, that the golden cases must kill."""

LIMIT = 30.0
"""Seconds after which a mutant is given up as killed: the knowledge as it is takes two for all golden cases."""

STAGES = (10, 50, 110, 200)
"""After how many golden cases it is looked whether one has killed; the ones that a mutant concerns most come first."""

Term = Any


@dataclass(frozen=True)
class Mutant:
    """One thing changed: a kind and a name, both stable, and what is changed.

    about: IRIs and names that the change concerns. removed, added: triples by the name of the module. step, text: a step of
    the derivation and its new text.
    """

    kind: str
    name: str
    about: frozenset[str]
    removed: dict[str, list[ox.Quad]] = field(default_factory=dict, compare=False)
    added: dict[str, list[ox.Quad]] = field(default_factory=dict, compare=False)
    step: str = ""
    text: str = ""

    @property
    def key(self) -> str:
        """Kind and name."""
        return f"{self.kind}: {self.name}"

    def knowledge(self, folder: Path) -> Knowledge:
        """The mutated knowledge base. Raises KnowledgeError or CriterionError where the loader refuses it."""
        if self.step:
            loaded = kbtool.load().knowledge
            return replace(loaded, steps=[_with_text(s, self.text) if s.name == self.step else s for s in loaded.steps])
        changed = {}
        for file in {*self.removed, *self.added}:
            gone = set(self.removed.get(file, ()))
            changed[file] = [q for q in MODULES[file] if q not in gone] + self.added.get(file, [])
        return loaded_with(changed, folder).knowledge


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: killed (by which case, and how), survived, or stillborn (refused by the loader)."""

    status: str
    by: str = ""
    how: str = ""


# --- Running ----------------------------------------------------------------------------------------


def run(mutant: Mutant) -> Outcome:
    """Assess the golden cases with a mutant, those that it concerns first, until one kills it."""
    with tempfile.TemporaryDirectory(prefix="kbtool-") as folder:
        try:
            knowledge = mutant.knowledge(Path(folder))
        except (KnowledgeError, CriterionError) as error:
            return Outcome("stillborn", how=str(error))
    order = ranked(mutant.about)
    for start, end in pairwise((0, *STAGES, len(order))):
        some = order[start:end]
        try:
            for case, answer in answers(knowledge, some):
                found = differences(answer, case.expected)
                if found:
                    return Outcome("killed", case.name, found[0])
        except (KeyError, ValueError, SyntaxError) as error:
            return Outcome("killed", some[0].name, f"{type(error).__name__}: {error}")
    return Outcome("survived")


def run_all(
    chosen: list[Mutant], processes: int = 2, report: Callable[[int, Mutant, Outcome], None] | None = None
) -> dict[str, Outcome]:
    """The outcomes of mutants by key. Each one runs in a process of its own, which is ended after a time: without a condition a
    query may join everything with everything, and that is noticed too."""
    found: dict[str, Outcome] = {}
    _terms()
    fork = multiprocessing.get_context("fork")
    waiting, running = list(reversed(chosen)), dict[int, _Running]()
    while waiting or running:
        while waiting and len(running) < processes:
            mutant = waiting.pop()
            here, there = fork.Pipe(duplex=False)
            process = fork.Process(target=lambda pipe, each: pipe.send(run(each)), args=(there, mutant), daemon=True)
            process.start()
            there.close()
            running[process.sentinel] = _Running(mutant, process, here, time.monotonic() + LIMIT)
        ready = connection.wait([each.pipe for each in running.values()], timeout=1)
        for sentinel, each in list(running.items()):
            if each.pipe in ready or time.monotonic() > each.deadline:
                del running[sentinel]
                found[each.mutant.key] = outcome = each.end()
                if report:
                    report(len(found), each.mutant, outcome)
    return {mutant.key: found[mutant.key] for mutant in chosen}


@dataclass
class _Running:
    """A mutant that is being assessed."""

    mutant: Mutant
    process: Any
    pipe: connection.Connection
    deadline: float

    def end(self) -> Outcome:
        """What it has sent, or that it has sent nothing; the process is ended."""
        outcome = Outcome("killed", how=f"no answer after {LIMIT:.0f} s")
        if self.pipe.poll():
            try:
                outcome = self.pipe.recv()
            except EOFError:
                outcome = Outcome("survived", how="the process came to an end without an answer")
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return outcome


@cache
def _terms() -> dict[str, frozenset[str]]:
    """For each golden case the terms in what is stated and derived about the patient, and the words of what is expected."""
    knowledge = kbtool.load().knowledge
    found: dict[str, frozenset[str]] = {}
    for moment in {case.as_of for case in cases().values()}:
        some = [case for case in cases().values() if case.as_of == moment]
        batch = [record for case in some for record in case.group]
        store = engine.load_store(knowledge, batch, engine.parse_as_of(moment))
        engine.check(store, knowledge, batch)
        engine.derive(store, knowledge, batch)
        for case in some:
            patient = case.group[0].patient
            nodes: set[Term] = {patient}
            for link in ("hasFact", "hasUnknown"):
                nodes |= {q.object for q in store.quads_for_pattern(patient, CG[link], None, None)}
            nodes |= {q.subject for q in store.quads_for_pattern(None, CG["ofPatient"], patient, None)}
            quads = [q for node in nodes for q in store.quads_for_pattern(node, None, None, None)]
            said = {q.predicate.value for q in quads} | {text(q.object) for q in quads if not isinstance(q.object, ox.BlankNode)}
            found[case.name] = frozenset(said | {f"expects {word}" for word in _words(case.expected)})
    return found


def _words(expected: object) -> Iterator[str]:
    """Every key and text in an expected result."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            yield key
            yield from _words(value)
    elif isinstance(expected, list):
        for value in expected:
            yield from _words(value)
    else:
        yield str(expected)


def ranked(about: frozenset[str]) -> list[Case]:
    """The golden cases, first those that share many and rare terms with what a mutant is about."""
    terms = _terms()
    wanted = about | {f"expects {local_name(term)}" for term in about}
    often = Counter(term for mine in terms.values() for term in mine & wanted)

    def score(name: str) -> float:
        return sum(1 / often[term] for term in terms[name] & wanted)

    return [cases()[name] for name in sorted(terms, key=lambda name: (-score(name), name))]


# --- Making: the ontology ---------------------------------------------------------------------------


@cache
def mutants() -> dict[str, Mutant]:
    """Every mutant by its key. The same knowledge gives the same keys."""
    found: dict[str, Mutant] = {}
    makers = (_thresholds, _definitions, _links, _units, _hours, _criteria_of_rules, _urgency, _order, _queries)
    for mutant in (m for maker in makers for m in maker()):
        number, key = 1, mutant.key
        while key in found:
            number += 1
            key = f"{mutant.key} ({number})"
        found[key] = replace(mutant, name=key.removeprefix(f"{mutant.kind}: "))
    return found


def _written(number: Decimal) -> set[str]:
    """The ways in which a fact may state a number."""
    return {f"{number:f}", f"{number.normalize():f}", f"{number.normalize():f}.0"}


def _replaced(kind: str, name: str, number: Number, quad: ox.Quad, about: Iterable[str] = ()) -> Mutant:
    terms = frozenset({text(number.quad.subject), *_written(number.value), *about})
    return Mutant(kind, name, terms, {number.file: [number.quad]}, {number.file: [quad]})


def _valued(number: Number, value: Decimal) -> ox.Quad:
    literal = ox.Literal(format(value, "f"), datatype=number.quad.object.datatype)  # type: ignore[union-attr]
    return ox.Quad(number.quad.subject, number.quad.predicate, literal)


def _changed(kind: str, number: Number, value: Decimal, about: Iterable[str] = ()) -> Mutant:
    name = f"{number.name} {local_name(number.quad.predicate.value)} {number.value} -> {value.normalize():f}"
    return _replaced(kind, name, number, _valued(number, value), {*about, *_written(value)})


_FLIPPED = {"minInclusive": "minExclusive", "maxInclusive": "maxExclusive"}
_FLIPPED |= {other: one for one, other in _FLIPPED.items()}


def _thresholds() -> Iterator[Mutant]:
    """Limits of named datatypes: a tenth (or one, for whole numbers) up and down, and inclusive for exclusive."""
    for number in thresholds():
        whole = number.quad.object.datatype == XSD["integer"] or number.value == 0  # type: ignore[union-attr]
        step = Decimal(1) if whole else abs(number.value) / 10
        about = _users(number.name)
        yield _changed("threshold up", number, number.value + step, about)
        yield _changed("threshold down", number, number.value - step, about)
        facet = _FLIPPED[local_name(number.quad.predicate.value)]
        flipped = ox.Quad(number.quad.subject, XSD[facet], number.quad.object)
        yield _replaced("threshold flipped", f"{number.name} {number.value} to {facet}", number, flipped, about)


@cache
def _users(datatype: str) -> frozenset[str]:
    """The criteria that test a datatype."""
    used = {d for d in _subjects_of_type(RDFS["Datatype"]) if local_name(d) == datatype}
    found: set[str] = set()
    for iri in _defined():
        if used & _named_in(_definition(iri)):
            found.add(iri)
    return frozenset(found | used)


def _definitions() -> Iterator[Mutant]:
    """Definitions of criteria without one member of an intersection or union; the class of patients marks a criterion as one
    about patients and is no condition, so it stays."""
    for iri in sorted(_defined()):
        file = _file_of(iri)
        lists = list(_lists(_definition(iri)))
        often = Counter((link, _short(member)) for _, link, members in lists for member in members)
        for owner, link, members in lists:
            kind = "conjunct dropped" if link == OWL["intersectionOf"] else "union member dropped"
            for place, member in enumerate(members):
                if len(members) < 2 or member == CG["Patient"]:
                    continue
                cells = _cells(owner, link)
                before = (owner, link) if place == 0 else (cells[place - 1], RDF["rest"])
                after = cells[place + 1] if place + 1 < len(cells) else RDF["nil"]
                gone = [ox.Quad(before[0], before[1], cells[place]), *_about(cells[place])]
                name = f"{local_name(iri)} without {_short(member)}"
                if often[link, _short(member)] > 1:
                    name += f" in {_short(owner)}"
                about = frozenset({iri, *_named_in(member)})
                yield Mutant(kind, name, about, {file: gone}, {file: [ox.Quad(before[0], before[1], after)]})


_LINKS = {
    "prerequisite dropped": ("requires", "requiresAbsenceOf"),
    "already met dropped": ("metWhen",),
    "accompaniment dropped": ("accompanies",),
    "opener dropped": ("achieves", "opensBy", "measures"),
    "touch dropped": ("touches",),
    "prohibition dropped": ("appliesTo", "forbids", "raisedByOrder", "forbidsOrder", "hardStopWhen", "unless"),
    "caution dropped": ("appliesTo", "unless"),
    "disturbance dropped": ("disturbedBy", "outlivesSessions"),
    "order of a drug dropped": ("ordersMedication",),
    "dose limit dropped": ("doseCeiling", "doseStep", "sessionWindow"),
    "unit dropped": ("acceptsUnit",),
    "closed world dropped": ("closedWorld",),
    "hard stop override dropped": ("overridesHardStop",),
    "conflict dropped": ("makesConflict",),
}
"""For each kind of mutant that drops one triple its properties in the guideline language."""

_ONLY = {"prohibition dropped": "Prohibition", "caution dropped": "Caution"}


def _links() -> Iterator[Mutant]:
    """One link of a rule or class dropped."""
    named, _ = quantities_in_criteria()
    for kind, properties in _LINKS.items():
        wanted = {CG[name]: name for name in properties}
        only = _subjects_of_type(CG[_ONLY[kind]]) if kind in _ONLY else None
        for file, quads in MODULES.items():
            for quad in sorted((q for q in quads if q.predicate in wanted), key=str):
                subject = text(quad.subject)
                if only is not None and subject not in only:
                    continue
                if kind in ("unit dropped", "disturbance dropped") and local_name(subject) not in named:
                    continue
                name = f"{local_name(subject)} {wanted[quad.predicate]} {local_name(text(quad.object))}"
                yield Mutant(kind, name, frozenset({subject, text(quad.object)}), {file: [quad]})


def _units() -> Iterator[Mutant]:
    """Factors doubled and halved, offsets ten more and ten less, of quantities that a criterion tests; factors of ratios too."""
    _, tested = quantities_in_criteria()
    for number in numbers("factor", "ratioFactor"):
        if number.name.split("-")[0] in tested:
            about = _unit_terms(number)
            yield _changed("unit factor doubled", number, number.value * 2, about)
            yield _changed("unit factor halved", number, number.value / 2, about)
    for number in numbers("offset"):
        if number.name.split("-")[0] in tested:
            yield _changed("unit offset changed", number, number.value + 10, _unit_terms(number))
            yield _changed("unit offset changed", number, number.value - 10, _unit_terms(number))


def _unit_terms(number: Number) -> set[str]:
    subject = number.quad.subject
    codes = {text(q.object) for q in ontology().quads_for_pattern(subject, CG["ucum"], None, None)}
    return codes | {text(q.subject) for q in ontology().quads_for_pattern(None, CG["acceptsUnit"], subject, None)}


def _hours() -> Iterator[Mutant]:
    """Durations: how long a result stays current, settles, and sessions reach; doubled and halved."""
    named, _ = quantities_in_criteria()
    for number in numbers("currencyHours"):
        if number.name in named:
            yield _changed("currency doubled", number, number.value * 2)
            yield _changed("currency halved", number, number.value / 2)
    for number in numbers("settlesHours", "aftermathHours", "logHours", "continuityHours"):
        yield _changed("duration doubled", number, number.value * 2)
        yield _changed("duration halved", number, number.value / 2)
    sessions = _below(CG["Session"].value)
    for number in numbers("plausibleMaximum"):
        if text(number.quad.subject) in sessions:
            yield _changed("duration doubled", number, number.value * 2)
            yield _changed("duration halved", number, number.value / 2)


def _criteria_of_rules() -> Iterator[Mutant]:
    """The criteria of two rules that stand beside each other, swapped; and what is already met."""
    for kind in ("Recommendation", "Prohibition", "Assessment", "Caution"):
        for link in ("appliesTo", "metWhen"):
            owners = [iri for iri in _in_order(kind) if _one(iri, link) is not None]
            for one, other in pairwise(owners):
                yield from _swapped("criteria swapped", one, other, link)


def _urgency() -> Iterator[Mutant]:
    """Emergencies that are none, and severities one degree milder (the mildest one worse)."""
    for file, quads in MODULES.items():
        for quad in sorted((q for q in quads if q.predicate == CG["emergency"]), key=str):
            yield Mutant("emergency dropped", local_name(text(quad.subject)), frozenset({text(quad.subject)}), {file: [quad]})
    severities = sorted(_subjects_of_type(CG["Severity"]), key=lambda iri: int(_one(iri, "position") or 0))
    milder = dict(pairwise(severities)) | {severities[-1]: severities[-2]}
    for file, quads in MODULES.items():
        for quad in sorted((q for q in quads if q.predicate == CG["severity"]), key=str):
            after = milder[text(quad.object)]
            name = f"{local_name(text(quad.subject))} {local_name(text(quad.object))} -> {local_name(after)}"
            added = ox.Quad(quad.subject, quad.predicate, ox.NamedNode(after))
            about = frozenset({text(quad.subject)})
            yield Mutant("severity changed", name, about, {file: [quad]}, {file: [added]})


def _order() -> Iterator[Mutant]:
    """Neighbours change places: steps, recommendations of one step, severities."""
    for kind in ("Step", "Severity"):
        owners = sorted(_subjects_of_type(CG[kind]), key=lambda iri: int(_one(iri, "position") or 0))
        for one, other in pairwise(owners):
            yield from _swapped("order changed", one, other, "position")
    for one, other in pairwise(_in_order("Recommendation")):
        if _one(one, "step") == _one(other, "step"):
            yield from _swapped("order changed", one, other, "rank")


def _swapped(kind: str, one: str, other: str, link: str) -> Iterator[Mutant]:
    """Two subjects with each other's value of a property, if these differ."""
    pair = [(iri, _file_of(iri), _quads(iri, link)) for iri in (one, other)]
    values = [{q.object for q in quads} for _, _, quads in pair]
    if values[0] == values[1]:
        return
    removed: dict[str, list[ox.Quad]] = {}
    added: dict[str, list[ox.Quad]] = {}
    for (iri, file, quads), given in zip(pair, reversed(values), strict=True):
        removed.setdefault(file, []).extend(quads)
        added.setdefault(file, []).extend(ox.Quad(ox.NamedNode(iri), CG[link], value) for value in given)
    about = frozenset({one, other, *(text(v) for each in values for v in each if isinstance(v, ox.NamedNode))})
    yield Mutant(kind, f"{link} of {local_name(one)} and {local_name(other)}", about, removed, added)


# --- Making: the queries ----------------------------------------------------------------------------

_FILTER = re.compile(r"\bFILTER\s*(?:(?:NOT\s+)?EXISTS\s*)?(?=[({])")
_PAIRS = {"(": ")", "{": "}"}


def _queries() -> Iterator[Mutant]:
    """Steps without one update or one FILTER, and with the statuses that two updates conclude swapped."""
    statuses = {local_name(text(q.object)) for q in ontology().quads_for_pattern(None, CG["statusProperty"], None, None)}
    for step in kbtool.load().knowledge.steps:
        if not step.name.startswith(("prepare/", "derive/")):
            continue
        before, updates = _updates(step)
        for place, update in enumerate(updates):
            head = _head(update)
            rest = [u for n, u in enumerate(updates) if n != place]
            yield _query("update dropped", f"{step.name}: {head}", step, before, rest, update)
            for start, end in _filters(update):
                dropped = " ".join(update[start:end].split())
                changed = [*updates[:place], update[:start] + update[end:], *updates[place + 1 :]]
                yield _query("filter dropped", f"{step.name}: {head} without {dropped}", step, before, changed, update)
        if step.name.startswith("derive/"):
            for one, other in combinations(range(len(updates)), 2):
                names = [_concludes(updates[n], statuses) for n in (one, other)]
                if names[0] and names[1] and names[0] != names[1]:
                    changed = list(updates)
                    changed[one] = _head_with(updates[one], names[0], names[1])
                    changed[other] = _head_with(updates[other], names[1], names[0])
                    name = f"{step.name}: {names[0]} and {names[1]} in updates {one + 1} and {other + 1}"
                    yield _query("statuses swapped", name, step, before, changed, updates[one] + updates[other])


def _query(kind: str, name: str, step: Step, before: str, updates: list[str], about: str) -> Mutant:
    terms = {CG[word].value for word in re.findall(r"\bcg:(\w+)", about)}
    return Mutant(kind, name, frozenset(terms), step=step.name, text=before + " ;\n\n".join(updates))


def _with_text(step: Step, changed: str) -> Step:
    (part,) = step.parts
    return replace(step, parts=(replace(part, text=changed),))


def _updates(step: Step) -> tuple[str, list[str]]:
    """What stands before the first update of a step, and its updates."""
    (part,) = step.parts
    start = re.search(r"^INSERT", part.text, re.MULTILINE)
    assert start, f"{step.name} has no update"
    return part.text[: start.start()], re.split(r" ;\s*\n(?=INSERT)", part.text[start.start() :])


def _head(update: str) -> str:
    """What an update inserts, in one line."""
    return " ".join(update[: update.index("WHERE")].split())


def _concludes(update: str, statuses: set[str]) -> str:
    found = [name for name in re.findall(r"\?patient cg:(\w+) \?\w+", _head(update)) if name in statuses]
    return found[0] if len(found) == 1 else ""


def _head_with(update: str, old: str, new: str) -> str:
    end = update.index("WHERE")
    return update[:end].replace(f"cg:{old} ", f"cg:{new} ") + update[end:]


def _filters(update: str) -> Iterator[tuple[int, int]]:
    """Where each FILTER of an update begins and ends."""
    for match in _FILTER.finditer(update):
        depth, end = 0, match.end()
        opening = update[end]
        closing = _PAIRS[opening]
        while True:
            depth += {opening: 1, closing: -1}.get(update[end], 0)
            end += 1
            if depth == 0:
                break
        yield match.start(), end


# --- Reading the modules ----------------------------------------------------------------------------


@cache
def _file_of(iri: str) -> str:
    """The module that says what a term is."""
    quad = ox.NamedNode(iri)
    return next(f for f, quads in MODULES.items() if any(q.subject == quad and q.predicate == RDF["type"] for q in quads))


def _subjects_of_type(kind: ox.NamedNode) -> set[str]:
    quads = ontology().quads_for_pattern(None, RDF["type"], kind, None)
    return {q.subject.value for q in quads if isinstance(q.subject, ox.NamedNode)}


def _quads(iri: str, link: str) -> list[ox.Quad]:
    return [ox.Quad(q.subject, q.predicate, q.object) for q in _about(ox.NamedNode(iri)) if q.predicate == CG[link]]


def _one(iri: str, link: str) -> str | None:
    return next((text(q.object) for q in _quads(iri, link)), None)


def _about(node: Term) -> list[ox.Quad]:
    return [ox.Quad(q.subject, q.predicate, q.object) for q in ontology().quads_for_pattern(node, None, None, None)]


def _below(kind: str) -> set[str]:
    found, waiting = set(), [kind]
    while waiting:
        iri = waiting.pop()
        if iri not in found:
            found.add(iri)
            above = ontology().quads_for_pattern(None, RDFS["subClassOf"], ox.NamedNode(iri), None)
            waiting += [q.subject.value for q in above if isinstance(q.subject, ox.NamedNode)]
    return found


def _in_order(kind: str) -> list[str]:
    """The rules of a kind in the order in which answers show them."""

    def place(iri: str) -> tuple[int, int, str]:
        step = _one(iri, "step")
        position = int(_one(step, "position") or 0) if step else 0
        return position, int(_one(iri, "rank") or 0), iri

    return sorted(_subjects_of_type(CG[kind]), key=place)


@cache
def _defined() -> frozenset[str]:
    """The classes with a definition."""
    quads = ontology().quads_for_pattern(None, OWL["equivalentClass"], None, None)
    return frozenset({text(q.subject) for q in quads} - _subjects_of_type(RDFS["Datatype"]))


def _definition(iri: str) -> Term:
    return next(ontology().quads_for_pattern(ox.NamedNode(iri), OWL["equivalentClass"], None, None)).object


def _cells(owner: Term, link: ox.NamedNode) -> list[Term]:
    """The cells of a list."""
    cells, cell = [], next(ontology().quads_for_pattern(owner, link, None, None)).object
    while cell != RDF["nil"]:
        cells.append(cell)
        cell = next(ontology().quads_for_pattern(cell, RDF["rest"], None, None)).object
    return cells


def _members(owner: Term, link: ox.NamedNode) -> list[Term]:
    return [next(ontology().quads_for_pattern(c, RDF["first"], None, None)).object for c in _cells(owner, link)]


def _lists(node: Term) -> Iterator[tuple[Term, ox.NamedNode, list[Term]]]:
    """Every intersection and union in a definition: the node that owns it, its property, its members."""
    if not isinstance(node, ox.BlankNode):
        return
    for quad in sorted(_about(node), key=str):
        if quad.predicate in (OWL["intersectionOf"], OWL["unionOf"]):
            members = _members(node, quad.predicate)
            yield node, quad.predicate, members
            for member in members:
                yield from _lists(member)
        elif quad.predicate == OWL["someValuesFrom"]:
            yield from _lists(quad.object)


def _named_in(node: Term) -> set[str]:
    """The terms that a definition names."""
    if isinstance(node, ox.NamedNode):
        return {node.value}
    if not isinstance(node, ox.BlankNode):
        return set()
    return set().union(*(_named_in(q.object) for q in _about(node) if q.predicate != RDF["type"]))


def _short(node: Term) -> str:
    """A definition in a few words, the same whatever the order of its members."""
    if not isinstance(node, ox.BlankNode):
        return local_name(text(node))
    said = {q.predicate: q.object for q in _about(node)}
    for link, word in ((OWL["intersectionOf"], " and "), (OWL["unionOf"], " or ")):
        if link in said:
            return "(" + word.join(sorted(_short(m) for m in _members(node, link))) + ")"
    if OWL["datatypeComplementOf"] in said:
        return f"not {_short(said[OWL['datatypeComplementOf']])}"
    value = said.get(OWL["someValuesFrom"]) or said[OWL["hasValue"]]
    return f"{local_name(text(said[OWL['onProperty']]))} {text(value) if isinstance(value, ox.Literal) else _short(value)}"


# --- Reporting --------------------------------------------------------------------------------------


def equivalents() -> dict[str, str]:
    """Mutants that cannot change any answer, by key, each with the reason."""
    return _listed("equivalent")


def survivors() -> dict[str, str]:
    """Mutants that survive and are counted so, by key, each with the reason why no golden case can expect otherwise."""
    return _listed("survivor")


def _listed(kind: str) -> dict[str, str]:
    return {entry["mutant"]: entry["reason"] for entry in tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get(kind, [])}


@dataclass
class Report:
    """The outcomes of mutants, and what follows from them."""

    outcomes: dict[str, Outcome]

    def keys(self, status: str) -> list[str]:
        """The mutants with a status; one that is listed as equivalent and killed all the same counts as killed."""
        listed = equivalents()
        return [k for k, o in self.outcomes.items() if ("equivalent" if self._is(k, o, listed) else o.status) == status]

    @staticmethod
    def _is(key: str, outcome: Outcome, listed: dict[str, str]) -> bool:
        return key in listed and outcome.status == "survived"

    @property
    def rate(self) -> float:
        """The share of the mutants, without equivalent and stillborn ones, that are killed."""
        killed = len(self.keys("killed"))
        return killed / max(1, killed + len(self.keys("survived")))

    def table(self) -> Iterator[str]:
        """The figures by kind, as lines."""
        statuses = ("killed", "survived", "equivalent", "stillborn")
        counts = {status: Counter(key.split(":")[0] for key in self.keys(status)) for status in statuses}
        kinds = sorted({key.split(":")[0] for key in self.outcomes})
        yield f"{'':<28}{'mutants':>8}{'killed':>8}{'survived':>9}{'equivalent':>11}{'stillborn':>10}{'rate':>8}"
        for kind in [*kinds, "all"]:
            numbers = [sum(counts[s].values()) if kind == "all" else counts[s][kind] for s in statuses]
            killed, survived, equivalent, stillborn = numbers
            rate = f"{killed / (killed + survived):.1%}" if killed + survived else "-"
            yield f"{kind:<28}{sum(numbers):>8}{killed:>8}{survived:>9}{equivalent:>11}{stillborn:>10}{rate:>8}"


def sample(size: int, seed: int, chosen: list[Mutant]) -> list[Mutant]:
    """About so many mutants, drawn with a seed: some of every kind or, where there are more kinds, one each of so many kinds."""
    kinds: dict[str, list[Mutant]] = {}
    for mutant in chosen:
        kinds.setdefault(mutant.kind, []).append(mutant)
    drawn = seeded(seed).sample(sorted(kinds), min(size, len(kinds)))
    counts = {kind: max(1, round(size * len(kinds[kind]) / len(chosen))) if len(drawn) == len(kinds) else 1 for kind in drawn}
    return [m for kind, count in counts.items() for m in seeded(f"{seed}/{kind}").sample(kinds[kind], count)]


def failing() -> list[str]:
    """Golden cases that fail without any mutation; nothing can be said about mutants then."""
    return [
        case.name for case, answer in answers(kbtool.load().knowledge, cases().values()) if differences(answer, case.expected)
    ]


def main(words: list[str] | None = None) -> int:
    """Run mutants as the command line says, and print figures and survivors."""
    parser = argparse.ArgumentParser(prog="mutate", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kind", default="", help="only kinds of mutants whose names begin so")
    parser.add_argument("--match", default="", help="only mutants whose names contain this")
    parser.add_argument("--sample", type=int, default=0, help="about so many mutants, some of every kind")
    parser.add_argument("--unlisted", action="store_true", help="leave out the mutants that are known not to be killed")
    parser.add_argument("--seed", type=int, default=1, help="for --sample")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="how many run at once")
    parser.add_argument("--killers", action="store_true", help="say which case kills each mutant, and how")
    given = parser.parse_args(words)
    bad = failing()
    if bad:
        print(f"these cases fail without any mutation: {', '.join(bad)}", file=sys.stderr)
        return 2
    chosen = [m for m in mutants().values() if m.kind.startswith(given.kind) and given.match in m.name]
    if given.unlisted:
        chosen = [m for m in chosen if m.key not in equivalents() | survivors()]
    if given.sample:
        chosen = sample(given.sample, given.seed, chosen)
    started = time.monotonic()

    def say(number: int, mutant: Mutant, outcome: Outcome) -> None:
        if outcome.status == "survived":
            print(f"survived: {mutant.key}", file=sys.stderr, flush=True)
        if number % 50 == 0:
            print(f"{number} of {len(chosen)} mutants, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    report = Report(run_all(chosen, given.processes, say))
    print(*report.table(), sep="\n")
    for status in ("survived", "equivalent", "stillborn"):
        print(f"\n{status}:" if report.keys(status) else "", *(f"  {k}" for k in report.keys(status)), sep="\n")
    if given.killers:
        print("\nkilled:", *(f"  {k}\n    {o.by}: {o.how}" for k, o in report.outcomes.items() if o.status == "killed"), sep="\n")
    print(f"{report.rate:.1%} of the mutants that can change an answer are killed ({time.monotonic() - started:.0f} s)")
    return 0 if report.rate >= AIM else 1


if __name__ == "__main__":
    raise SystemExit(main())
