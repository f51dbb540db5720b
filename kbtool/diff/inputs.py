"""Read the patients of a comparison, each side by its own vocabulary: at once where that is little, else piece by piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyoxigraph as ox

from kbtool import engine
from kbtool.diff.sources import Side
from kbtool.facts import Facts, FactsError, Reader

if TYPE_CHECKING:
    from kbtool.cohort.units import Unit

AT_ONCE = 8 * 2**20
"""Bytes of inputs that are read at once, so that the facts of a patient may stand anywhere in them; with more, and in packed
files, those of a patient stand together."""


def chunks(old: Side, new: Side, paths: Iterable[str]) -> Iterator[tuple[Facts, Facts]]:
    """The facts in files and folders, piece by piece, as both sides read them.

    Raises FactsError where an input cannot be read; with inputs that are read piece by piece also where a patient comes twice.
    """
    some = list(paths)
    files = [file for path in map(Path, some) for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    if any(file.suffix == ".gz" for file in files) or sum(file.stat().st_size for file in files) > AT_ONCE:
        yield from _piecewise(old, new, some)
    else:
        yield old.kb.read(*some), new.kb.read(*some)


def _piecewise(old: Side, new: Side, paths: list[str]) -> Iterator[tuple[Facts, Facts]]:
    from kbtool.cohort.cut import Vocabulary, whole
    from kbtool.cohort.inputs import batches, find
    from kbtool.cohort.units import CohortError

    own = [Vocabulary.read(side.kb.knowledge) for side in (old, new)]
    # What either side takes for a link, or for no term, must not be cut through.
    vocabulary = Vocabulary(own[0].links | own[1].links, own[0].terms & own[1].terms)
    seen: set[int] = set()
    try:
        for batch in batches(find(paths), vocabulary, engine.BATCH):
            units = whole(batch.units, vocabulary)
            pair = _facts(units, old), _facts(units, new)
            _tell_apart(pair, seen)
            yield pair
    except CohortError as error:
        raise FactsError(str(error)) from error


def _tell_apart(pair: tuple[Facts, Facts], seen: set[int]) -> None:
    """Remember patients, of whom nothing may stand in another piece: what was read in part would be advised upon in part."""
    counts = [Counter(str(record.patient) for group in facts.groups for record in group) for facts in pair]
    for name in dict.fromkeys([*counts[0], *counts[1]]):
        if hash(name) in seen or max(count[name] for count in counts) > 1:
            raise FactsError(
                f"{name.strip('<>')}: facts of this patient stand in more than one place of the inputs; bring them together "
                "(triples one after the other, FHIR in one Bundle)"
            )
        seen.add(hash(name))


def _facts(units: list[Unit], side: Side) -> Facts:
    """The facts in pieces of inputs: triples file by file, each document for itself."""
    from kbtool.cohort.units import TRIPLES

    found = Facts([], [])
    graph = side.kb.knowledge.graph
    readers: dict[str | int, Reader] = {}
    for unit in units:
        where = f"{unit.file}: line {unit.lines[0]}" if unit.lines else unit.file
        if unit.problem is not None:
            raise FactsError(f"{where}: {unit.problem}")
        if unit.form == TRIPLES:
            reader = readers.setdefault(unit.number, Reader(vocabulary=graph))
            reader.add(where, unit.data, ox.RdfFormat.N_TRIPLES)
        else:
            reader = readers[where] = Reader(scope=f"{unit.number + 1}/{unit.lines[0] if unit.lines else 0}-", vocabulary=graph)
            reader.add(where, unit.data, ox.RdfFormat.JSON_LD)
    for place, reader in readers.items():
        facts = reader.facts(graph)
        if facts.strays and not facts.groups and isinstance(place, str):
            raise FactsError(
                f"{place}: facts without a patient; everything about a patient belongs into one document (a Bundle, in FHIR)"
            )
        for record in (record for group in facts.groups for record in group):
            if isinstance(record.patient, ox.BlankNode):
                raise FactsError("a patient without an IRI of its own, who cannot be told from others; give each patient one")
        found.groups += facts.groups
        found.strays += facts.strays
    return found
