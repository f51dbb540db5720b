"""Divide triples by patient: to each patient what is said of it, and of every node that can be reached from it.

Triples of a type are not followed, nor those that lead to another patient or to a term of the vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import pyoxigraph as ox

from kbtool.namespaces import CG, RDF
from kbtool.rows import Row, Table

if TYPE_CHECKING:
    import numpy as np

_TYPE, _PATIENT = str(RDF["type"]), str(CG["Patient"])
_MANY = 200
"""For more nodes than this all terms of the vocabulary are gathered to tell which of the nodes are among them."""

_DEEP = 64
"""Links one after the other that are followed for all patients at once; each takes a pass over everything."""

Lost = tuple[list[str], list[str]]
"""The nodes that speak of something the vocabulary knows and belong to nobody, sorted: those to report, from which the others
can be reached; and all of them."""

Division = tuple[list[list[tuple[str, list[Row]]]], Lost]


def divided(rows: Iterable[Row], vocabulary: ox.Store) -> Division:
    """Groups of patients that share no node with others, each patient with its triples; and what belongs to nobody."""
    by_subject: defaultdict[str, list[Row]] = defaultdict(list)
    distinct = dict.fromkeys(rows)
    for row in distinct:
        by_subject[row[0]].append(row)
    patients = dict.fromkeys(s for s, p, o in distinct if o == _PATIENT and p == _TYPE)
    followed = by_subject.keys() - patients.keys()
    if len(followed) > _MANY:
        followed -= all_declared(vocabulary)
    else:
        followed = {node for node in followed if not declared(node, vocabulary)}
    owner: dict[str, str] = {}
    merged: dict[str, str] = {}

    def root(p: str) -> str:
        while p in merged:
            p = merged[p]
        return p

    groups: dict[str, list[tuple[str, list[Row]]]] = {}
    found: list[tuple[str, list[Row]]] = []
    for patient in patients:
        mine: list[Row] = []
        waiting = [patient]
        seen = {patient}
        while waiting:
            node = waiting.pop()
            if owner.setdefault(node, patient) != patient and root(patient) != root(owner[node]):
                merged[root(patient)] = root(owner[node])
            said = by_subject[node]
            mine += said
            for _, predicate, target in said:
                if target in followed and predicate != _TYPE and target not in seen:
                    seen.add(target)
                    waiting.append(target)
        found.append((patient, mine))
    for patient, mine in found:
        groups.setdefault(root(patient), []).append((patient, mine))
    return list(groups.values()), _strays({s: by_subject[s] for s in by_subject.keys() - owner.keys()}, vocabulary)


def divided_at_once(table: Table, vocabulary: ox.Store) -> tuple[list[tuple[str, Table]], Lost] | None:
    """The same for many triples at once, where no two patients share a node; None where some do, or facts hang on facts in long
    chains. Each patient gets a part of the table."""
    import numpy as np

    size, index = len(table.terms), table.index
    s, p, o = table.columns
    typed = p == index.get(_TYPE, -1)
    patients, first = np.unique(s[typed & (o == index.get(_PATIENT, -1))], return_index=True)
    patients = patients[np.argsort(first)]
    followed = np.zeros(size, dtype=np.bool_)
    followed[s] = True
    followed[patients] = False
    followed[[index[term] for term in all_declared(vocabulary) if term in index]] = False
    owner = np.full(size, -1)
    owner[patients] = np.arange(len(patients))
    steps = followed[o] & ~typed
    near, far = s[steps], o[steps]
    for _ in range(_DEEP):
        new = (owner[near] >= 0) & (owner[far] < 0)
        if not new.any():
            break
        owner[far[new]] = owner[near[new]]
    else:
        return None
    if ((owner[near] != owner[far]) & (owner[near] >= 0)).any():
        return None
    rows = _once(s, p, o, size)
    owners = owner[s[rows]]
    lost: defaultdict[str, list[Row]] = defaultdict(list)
    if (owners < 0).any():
        for row in table.part(rows[owners < 0]).rows():
            lost[row[0]].append(row)
        rows, owners = rows[owners >= 0], owners[owners >= 0]
    rows = rows[np.argsort(owners, kind="stable")]
    ends = np.cumsum(np.bincount(owners, minlength=len(patients)))
    parts = np.split(rows, ends[:-1]) if len(ends) else []
    names = [table.terms[number] for number in patients.tolist()]
    return [(name, table.part(part)) for name, part in zip(names, parts, strict=True)], _strays(lost, vocabulary)


def _once(s: np.ndarray, p: np.ndarray, o: np.ndarray, size: int) -> np.ndarray:
    """The first of each triple, in order."""
    import numpy as np

    kinds, ranks = np.unique(p, return_inverse=True)
    if size * size * len(kinds) >= 2**62:
        _, first = np.unique(np.stack((s, p, o)), axis=1, return_index=True)
        return np.sort(first)
    keys = (s * len(kinds) + ranks) * size + o
    ordered = np.sort(keys)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.arange(len(keys))
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)


def _strays(lost: dict[str, list[Row]], vocabulary: ox.Store) -> Lost:
    speaking = sorted(s for s, rows in lost.items() if _speaks(rows, vocabulary))
    among = set(speaking)
    below = {s: [o for _, p, o in lost[s] if o in among and o != s and p != _TYPE] for s in speaking}
    pointed = {o for targets in below.values() for o in targets}
    kept: list[str] = []
    seen: set[str] = set()
    for start in (*(s for s in speaking if s not in pointed), *speaking):  # what is left then stands in circles or below one
        if start in seen:
            continue
        kept.append(start)
        waiting = [start]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += below[node]
    return sorted(kept), speaking


def _speaks(rows: list[Row], vocabulary: ox.Store) -> bool:
    """Whether a node states something in the guideline language, or says something about a term of it."""
    own = f"<{CG.iri}"
    return any(p.startswith(own) or (p == _TYPE and declared(o, vocabulary)) for _, p, o in rows) or declared(
        rows[0][0], vocabulary
    )


def declared(node: str, vocabulary: ox.Store) -> bool:
    """Whether a term is one of the vocabulary."""
    if node[0] != "<":
        return False
    return next(vocabulary.quads_for_pattern(ox.NamedNode(node[1:-1]), RDF["type"], None, None), None) is not None


@lru_cache(maxsize=2)
def all_declared(vocabulary: ox.Store) -> frozenset[str]:
    """The terms of a vocabulary, as rows write them."""
    subjects = (q.subject for q in vocabulary.quads_for_pattern(None, RDF["type"], None, None))
    return frozenset(str(subject) for subject in subjects if isinstance(subject, ox.NamedNode))
