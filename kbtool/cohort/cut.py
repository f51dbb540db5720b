"""Which lines of N-Triples hang together: the facts of a patient, in whatever order they stand.

Lines that share a node (a subject, an object of a link to a fact, a blank node) hang together. Where nothing before a place
hangs together with anything behind it, a file can be cut, two patients before its end, because by then the patient before
them is likely to be complete. What hangs over a cut all the same (somebody who comes back later, a fact that is described far
away) is left to the ledger (`ledger.py`). That is safe: it holds which nodes are described and linked in every place, so that
whoever was read in part is found before anything is published, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

import pyoxigraph as ox

from kbtool.cohort.units import TRIPLES, Stretch, Unit
from kbtool.facts import GENID
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF, RDFS, text
from kbtool.values import unescaped

LINE = re.compile(rb'[ \t]*(<[^>]*>|_:[^ \t\r\n<]+)[ \t]*<([^>]*)>[ \t]*(?:(<[^>]*>|_:[^ \t\r\n.#]+(?:\.+[^ \t\r\n.#]+)*)|")')
"""The terms of a line of N-Triples: subject, predicate without brackets, object where it is a node."""

_SUBJECT = re.compile(rb"[ \t]*(<[^>]*>|_:[^ \t\r\n<]+)")
_TYPE, _BLANK = RDF["type"].value.encode(), ord("_")

PATIENT = str(CG["Patient"]).encode()
"""The class of patients, as a term of N-Triples."""


@dataclass(frozen=True)
class Vocabulary:
    """What of a knowledge base tells which triples hang together, as terms of N-Triples.

    links: the properties that lead to a fact, without brackets. terms: everything that the knowledge base declares, which
    belongs to no patient.
    """

    links: frozenset[bytes]
    terms: frozenset[bytes]

    @classmethod
    def read(cls, knowledge: Knowledge) -> Vocabulary:
        """Read it, once of each knowledge base."""
        known: Vocabulary | None = knowledge.__dict__.get("_vocabulary")
        if known is not None:
            return known
        declared = knowledge.graph.quads_for_pattern(None, RDF["type"], None, None)
        terms = {str(q.subject).encode() for q in declared if isinstance(q.subject, ox.NamedNode)}
        found = cls(frozenset(iri.encode() for iri in links(knowledge)), frozenset(terms))
        knowledge.__dict__["_vocabulary"] = found
        return found

    def leads(self, predicate: bytes, target: bytes | None) -> bool:
        """Whether a triple makes its object hang together with its subject."""
        if target is None:
            return False
        return target[0] == _BLANK or (predicate in self.links and target not in self.terms)


def is_patient(predicate: bytes, target: bytes | None) -> bool:
    """Whether a triple says that its subject is a patient."""
    return target == PATIENT and predicate == _TYPE


def links(knowledge: Knowledge) -> set[str]:
    """The properties that lead to a fact: those whose range is a class of facts."""
    kinds, waiting = set(), [CG["Fact"]]
    while waiting:
        kind = waiting.pop()
        if kind.value not in kinds:
            kinds.add(kind.value)
            below = knowledge.graph.quads_for_pattern(None, RDFS["subClassOf"], kind, None)
            waiting += [q.subject for q in below if isinstance(q.subject, ox.NamedNode)]
    ranges = knowledge.graph.quads_for_pattern(None, RDFS["range"], None, None)
    return {text(q.subject) for q in ranges if text(q.object) in kinds} | {CG["hasFact"].value}


_Row = tuple[list[bytes], int, int, "re.Match[bytes] | None"]
"""Lines that follow each other and have one subject, how many lines stand before them, their group (-1 for a comment), and
the terms of a line with a blank node, which stands alone."""


def whole(units: Iterable[Unit | Stretch], vocabulary: Vocabulary) -> list[Unit]:
    """The same facts, each patient alone as far as patients share no node."""
    found: list[Unit] = []
    for unit in units:
        if isinstance(unit, Stretch):
            window = Window(vocabulary, unit.file, unit.number, unit.first, unit.numbered)
            window.add(unit.loaded().data)
            found += window.units()
        else:
            found.append(unit)
    return found


@dataclass
class Window:
    """Lines of a file, looked at one by one. The fields are those of a `Stretch`."""

    vocabulary: Vocabulary
    file: str
    number: int
    first: int = 1
    numbered: bool = True

    def __post_init__(self) -> None:
        self.rows: list[_Row] = []
        self._groups: dict[bytes, int] = {}
        self._above: list[int] = []
        self._typed: dict[bytes, int] = {}
        self._last: tuple[bytes, int] = (b"", -1)
        self._same, self._tail, self._lines, self._broken = b"\n", list[bytes](), 0, -1

    def add(self, data: bytes) -> None:
        """Add lines of N-Triples; the last one gets an end where it has none, as others may be put behind it."""
        if data and data[-1:] not in (b"\n", b"\r"):
            data += b"\n"
        for line in data.splitlines(keepends=True):
            self._put(line)

    def clean(self) -> int:
        """How many bytes from the beginning on hang together with nothing behind them, two patients before the end."""
        roots, spans = self._spans()
        limit = len(roots) * 3 // 4  # where no patients are, whatever it is that stands there
        if self._typed:
            limit = min(spans[self._root(group)][0] for group in list(self._typed.values())[-2:])
        end = reached = 0
        for place in range(limit):
            if roots[place] >= 0:
                reached = max(reached, spans[roots[place]][1])
            if reached <= place:
                end = place + 1
        return sum(len(line) for lines, *_ in self.rows[:end] for line in lines)

    def _put(self, line: bytes) -> None:
        self._lines += 1
        if line.startswith(self._same):  # most lines: the subject of the line before, and a literal
            end = line.find(b">", len(self._same)) + 2
            if line[end - 1 : end + 1] == b' "':
                self._tail.append(line)
                return
        match = LINE.match(line)
        if match is None:
            self._put_other(line)
            return
        subject, predicate, target = match.groups()
        known, group = self._last
        if subject != known:
            group = self._group(subject)
            self._last = (subject, group)
        blank = subject[0] == _BLANK
        if target is not None:
            if self.vocabulary.leads(predicate, target):
                blank = blank or target[0] == _BLANK
                self._join(group, self._group(target))
            elif is_patient(predicate, target):
                self._typed.setdefault(subject, group)
        if self._broken >= 0:
            self._join(group, self._broken)
            self._broken = -1
        self._same = b"\n" if blank else subject + b" <"
        self._row(line, group, match if blank else None)

    def _put_other(self, line: bytes) -> None:
        if not line.strip() or line.lstrip().startswith(b"#"):
            self._row(line, -1)
            self._same = b"\n"
            return
        # Whose a broken line is cannot be known: its subject and the patients on both sides get it, and are refused.
        match = _SUBJECT.match(line)
        group = self._group(match[1] if match else b"broken line %d" % len(self.rows))
        before = next((row[2] for row in reversed(self.rows) if row[2] >= 0), group)
        self._join(group, before)
        self._row(line, group)
        self._broken, self._same, self._last = group, b"\n", (b"", -1)

    def _row(self, line: bytes, group: int, blank: re.Match[bytes] | None = None) -> None:
        self._tail = [line]
        self.rows.append((self._tail, self._lines - 1, group, blank))

    def units(self, problem: str | None = None) -> list[Unit]:
        """What hangs together, in the order of the file.

        problem: why the file breaks off here; the last patient, and what follows it, get it, or all of them where the lines
        do not stand in the order of patients.
        """
        roots, spans = self._spans()
        suspect = len(roots)
        if problem is not None:
            suspect = spans[self._root(list(self._typed.values())[-1])][0] if self._typed else 0
            suspect = suspect if self._in_order(roots, suspect) else 0
        patients: dict[int, list[bytes]] = {}
        for subject, group in self._typed.items():
            patients.setdefault(self._root(group), []).append(subject)
        groups: dict[int, list[int]] = {}
        for place, root in enumerate(roots):
            if root >= 0:
                groups.setdefault(root, []).append(place)
        units = []
        for root, places in groups.items():
            final, before, _, _ = self.rows[places[-1]]
            first, last = self.first + self.rows[places[0]][1], self.first + before + len(final) - 1
            names: dict[bytes, bytes] = {}
            who = patients.get(root, [])
            unit = Unit(
                TRIPLES,
                b"".join(self._named(self.rows[place], first, names) for place in places),
                self.file,
                self.number,
                (first, last) if self.numbered else None,
                len(who),
                whole=sum(len(self.rows[place][0]) for place in places) == last - first + 1,
                problem=problem if places[-1] >= suspect else None,
                labels=() if self.numbered else tuple(label.decode("utf-8", "replace") for label in names),
                who=tuple(_name(self._iri(subject, first, names)) for subject in who),
            )
            units.append(unit)
        return units

    def _in_order(self, roots: list[int], end: int) -> bool:
        """Whether the rows before a place stand in the order of patients, as far as can be seen: those of each in one run, also
        what is said of the facts that are linked; lines of one predicate alone may begin an order by predicate."""
        runs = [root for root, _ in groupby(root for root in roots if root >= 0)]
        found = [match.groups() for lines, *_ in self.rows[:end] for match in map(LINE.match, lines) if match is not None]
        described = {subject for subject, _, _ in found}
        linked = {target for _, predicate, target in found if self.vocabulary.leads(predicate, target)}
        return len(runs) == len(set(runs)) and len({predicate for _, predicate, _ in found}) > 1 and linked <= described

    def _named(self, row: _Row, first: int, names: dict[bytes, bytes]) -> bytes:
        """The line, with IRIs in place of blank nodes, so that an answer can cite them and none meets another's."""
        lines, _, _, blank = row
        text = b"".join(lines)
        return text if blank is None else renamed(text, blank, lambda label: self._iri(label, first, names))

    def _iri(self, term: bytes, first: int, names: dict[bytes, bytes]) -> bytes:
        if term[0] != _BLANK:
            return term
        name = term[2:] if self.numbered else names.setdefault(term, b"%d-%d" % (first, len(names) + 1))
        return b"<%s%d/%s>" % (GENID.encode(), self.number + 1, name)

    def _spans(self) -> tuple[list[int], dict[int, list[int]]]:
        """The group of each row, after all joins, and the first and last row of each group."""
        roots = [self._root(group) if group >= 0 else -1 for _, _, group, _ in self.rows]
        spans: dict[int, list[int]] = {}
        for place, root in enumerate(roots):
            spans.setdefault(root, [place, place])[1] = place
        return roots, spans

    def _group(self, node: bytes) -> int:
        group = self._groups.get(node)
        if group is None:
            group = self._groups[node] = len(self._above)
            self._above.append(group)
        return group

    def _root(self, group: int) -> int:
        above = self._above
        while above[group] != group:
            above[group] = group = above[above[group]]
        return group

    def _join(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        if one != other:
            self._above[max(one, other)] = min(one, other)


def _name(iri: bytes) -> str:
    """An IRI of N-Triples as facts write it; as it stands where its escapes mean no characters."""
    name = iri[1:-1].decode("utf-8", "replace")
    try:
        return unescaped(name).encode().decode()
    except (ValueError, OverflowError):
        return name


def renamed(line: bytes, match: re.Match[bytes], name: Callable[[bytes], bytes]) -> bytes:
    """A line with other names for its blank nodes. match: of LINE."""
    for part in (3, 1):  # from behind, so that the places in front stay
        label = match[part]
        if label is not None and label[0] == _BLANK:
            start, end = match.span(part)
            line = line[:start] + name(label) + line[end:]
    return line
