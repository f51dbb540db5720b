"""Print which rules the golden cases of tests/patients exercise, and how: criterion true, false, unknown; and each status.

    python tests/coverage_of_cases.py           # the table, and the cells that are empty though they can be reached
    python tests/coverage_of_cases.py --cases   # with the names of the cases in cells that hold only one

A number says how many cases lie in a cell. `-` is a cell that no patient can reach, by the knowledge itself or for a reason
given in tests/unreachable_cells.toml; `!` is one that is empty and should not be. Exit code 1 says that there is such a cell.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyoxigraph as ox
from golden import cases

import kbtool
from kbtool import engine
from kbtool.criteria import Criteria
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, RDFS, local_name, text

UNREACHABLE = Path(__file__).parent / "unreachable_cells.toml"

TRUTHS = ("true", "false", "unknown")
STATUSES = {
    "Recommendation": ("recommended", "blocked", "contraindicated", "undetermined", "satisfied"),
    "Prohibition": ("holds", "possible", "absent"),
    "Assessment": ("holds", "possible", "absent"),
    "Caution": ("holds", "possible", "absent"),
}


@dataclass
class Row:
    """A rule: its kind, for each cell the cases in it, and for each cell that nobody can reach the reason."""

    rule: str
    kind: str
    cells: dict[str, list[str]]
    unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> list[str]:
        """Cells that no case lies in though a patient can."""
        return [cell for cell, names in self.cells.items() if not names and cell not in self.unreachable]

    @property
    def refuted(self) -> list[str]:
        """Cells that are called unreachable and that some case lies in."""
        return [cell for cell in self.unreachable if self.cells.get(cell)]


def rows(knowledge: Knowledge, names: list[str] | None = None) -> list[Row]:
    """The table of golden cases, all or some of them, in the order of kinds and names."""
    made = {}
    for kind, statuses in STATUSES.items():
        for iri in knowledge.instances(CG[kind]):
            made[iri] = Row(local_name(iri), kind, {cell: [] for cell in (*TRUTHS, *statuses)})
    given = reasons()
    criteria = Criteria.read(knowledge.graph)
    list(criteria.updates(facts_only=False))
    for iri, row in made.items():
        row.unreachable = _by_the_knowledge(knowledge, criteria, iri, row.kind) | given.get(row.rule, {})
    chosen = [case for name, case in cases().items() if names is None or name in names]
    for moment in sorted({case.as_of for case in chosen}):
        some = [case for case in chosen if case.as_of == moment and not case.expected.get("refused")]
        batch = [record for case in some for record in case.group]
        store = engine.load_store(knowledge, batch, engine.parse_as_of(moment))
        engine.check(store, knowledge, batch)
        engine.derive(store, knowledge, batch)
        for case in some:
            patient = case.group[0].patient
            for iri, row in made.items():
                for cell in _cells(knowledge, store, patient, iri, row.kind):
                    row.cells[cell].append(case.name)
    return list(made.values())


def reasons() -> dict[str, dict[str, str]]:
    """For each rule the cells that cannot be reached for a reason that a person has found."""
    found: dict[str, dict[str, str]] = {}
    for entry in tomllib.loads(UNREACHABLE.read_text(encoding="utf-8"))["cell"]:
        found.setdefault(entry["rule"], {})[entry["cell"]] = entry["reason"]
    return found


def _cells(knowledge: Knowledge, store: ox.Store, patient: ox.NamedNode, iri: str, kind: str) -> Iterator[str]:
    """The cells in which a patient lies. What lies outside the scope of a guideline says nothing about its criteria."""
    rule = ox.NamedNode(iri)

    def said(name: str, value: ox.NamedNode) -> bool:
        return ox.Quad(patient, CG[name], value) in store

    module = knowledge.value(iri, RDFS["isDefinedBy"]) or ""
    scoped = knowledge.value(module, CG["scope"]) is not None
    if not scoped or said("inScope", ox.NamedNode(module)):
        for criterion in (ox.NamedNode(c) for c in knowledge.values(iri, CG["appliesTo"])):
            if ox.Quad(patient, RDF["type"], criterion) in store:
                yield "true"
            else:
                yield "unknown" if said("unknown", criterion) else "false"
    if kind == "Recommendation":
        yield from (status for status in STATUSES[kind] if said(status, rule))
    elif said("holds", rule):
        yield "holds"
    else:
        yield "possible" if said("possible", rule) else "absent"


def _by_the_knowledge(knowledge: Knowledge, criteria: Criteria, iri: str, kind: str) -> dict[str, str]:
    """The cells of a rule that nobody can reach, as the knowledge itself says."""

    def open_(names: list[str]) -> bool:
        return any(criteria.can_be_unknown(name) for name in names)

    def of(name: str, subject: str = iri) -> list[str]:
        return knowledge.values(subject, CG[name])

    found: dict[str, str] = {}
    applies = of("appliesTo")
    if not applies:
        found |= dict.fromkeys(TRUTHS, "it has no criterion of its own")
    elif not open_(applies):
        found["unknown"] = "its criterion rests on nothing that can be lacking"
    if kind == "Recommendation":
        standing = [
            text(q.subject)
            for action in of("action")
            for q in knowledge.graph.quads_for_pattern(None, CG["forbids"], ox.NamedNode(action), None)
        ]
        standing = [p for p in standing if of("appliesTo", p) and not set(of("unless", p)) & set(of("requires"))]
        if not of("metWhen"):
            found["satisfied"] = "nothing meets it beforehand"
        if not of("requires") and not of("requiresAbsenceOf"):
            found["blocked"] = "it waits for nothing"
        if not standing:
            found["contraindicated"] = "no standing prohibition forbids its action"
        mains = [c for main in of("accompanies") for c in of("appliesTo", main)]
        either = [iri, *of("accompanies")]  # what could not be read may meet what these are met by, or wait for the absence of
        unread = standing or any(of(link, each) for link in ("metWhen", "requiresAbsenceOf") for each in either)
        if not unread and not open_([*applies, *mains, *(c for p in standing for c in of("appliesTo", p))]):
            found["undetermined"] = "neither its criterion nor a prohibition of its action can be unknown"
    elif not open_([*applies, *of("raisedByOrder")]):
        found["possible"] = "its criterion rests on nothing that can be lacking"
    return found


def lines(table: list[Row], *, named: bool = False) -> Iterator[str]:
    """The table as text, one part for each kind of rule."""
    for kind, statuses in STATUSES.items():
        mine = [row for row in table if row.kind == kind]
        columns = (*TRUTHS, *statuses)
        yield f"{kind:<38}" + "".join(f"{c:>{max(9, len(c) + 2)}}" for c in columns)
        for row in mine:
            shown = []
            for column in columns:
                count = len(row.cells[column])
                cell = str(count) if count else "-" if column in row.unreachable else "!"
                shown.append(f"{cell:>{max(9, len(column) + 2)}}")
            yield f"  {row.rule:<36}" + "".join(shown)
            if named:
                yield from (f"      only {row.cells[c][0]}: {c}" for c in columns if len(row.cells[c]) == 1)
        yield ""


def main(words: list[str] | None = None) -> int:
    """Print the table, and what is empty."""
    parser = argparse.ArgumentParser(prog="coverage_of_cases", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--cases", action="store_true", help="name the case in each cell that holds only one")
    given = parser.parse_args(words)
    table = rows(kbtool.load().knowledge)
    print(*lines(table, named=given.cases), sep="\n")
    cells = sum(len(row.cells) for row in table)
    unreachable = sum(len(row.unreachable) for row in table)
    empty = [f"{row.rule}: {cell}" for row in table for cell in row.empty]
    print(f"{len(cases())} cases, {len(table)} rules, {cells} cells: {unreachable} cannot be reached, {len(empty)} are empty")
    print(*(f"  {line}" for line in empty), sep="\n")
    return 1 if empty else 0


if __name__ == "__main__":
    raise SystemExit(main())
