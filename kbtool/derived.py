"""What was derived of a batch, as answers read it: terms as plain text. Here from a store; `setwise` has it from columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pyoxigraph as ox

from kbtool.namespaces import CG, RDF, local_name, text

Entry = dict[str, list[str]]
"""An answer: for each of its properties, by local name, the values."""

READ = ("about", "status", "because", "needs", "blockedBy", "openedBy", "attachedTo", "onOrder")
"""The properties of an answer of which the values are read."""

FLAGS = ("hardStop", "hardStopPossible", "overridable")
"""The properties of an answer that are there or not."""


class Derived(Protocol):
    """What was derived of a batch. Nodes and values are text: an IRI, a label, the characters of a literal."""

    def in_scope(self, patient: ox.NamedNode | ox.BlankNode) -> bool:
        """Whether a guideline speaks for a patient."""

    def answers(self, patient: ox.NamedNode | ox.BlankNode) -> list[Entry]:
        """The answers of a patient."""

    def values(self, node: str, prop: str) -> list[str]:
        """The values of a property of a node, both by IRI."""

    def having(self, prop: str) -> Mapping[str, list[str]]:
        """The values of a property for every node that has it, both by IRI."""

    def quads(self, patient: ox.NamedNode | ox.BlankNode, links: Sequence[ox.NamedNode]) -> list[ox.Quad]:
        """The triples of a patient with some properties, and all of its answers."""


class FromStore:
    """What was derived in a store."""

    def __init__(self, store: ox.Store) -> None:
        self.store = store
        self._nodes: dict[object, list[object]] = {}
        self._entries: dict[object, Entry] = {}
        for quad in store.quads_for_pattern(None, RDF["type"], CG["Answer"], None):
            entry: Entry = {}
            for each in store.quads_for_pattern(quad.subject, None, None, None):
                if each.predicate == CG["ofPatient"]:
                    self._nodes.setdefault(each.object, []).append(quad.subject)
                entry.setdefault(local_name(each.predicate.value), []).append(text(each.object))
            self._entries[quad.subject] = entry

    def in_scope(self, patient: ox.NamedNode | ox.BlankNode) -> bool:
        """Whether a guideline speaks for a patient."""
        return any(True for _ in self.store.quads_for_pattern(patient, CG["inScope"], None, None))

    def answers(self, patient: ox.NamedNode | ox.BlankNode) -> list[Entry]:
        """The answers of a patient."""
        return [self._entries[node] for node in self._nodes.get(patient, ())]

    def values(self, node: str, prop: str) -> list[str]:
        """The values of a property of a node."""
        quads = self.store.quads_for_pattern(ox.NamedNode(node), ox.NamedNode(prop), None, None)
        return [text(quad.object) for quad in quads]

    def having(self, prop: str) -> dict[str, list[str]]:
        """The values of a property for every node that has it."""
        found: dict[str, list[str]] = {}
        for quad in self.store.quads_for_pattern(None, ox.NamedNode(prop), None, None):
            found.setdefault(text(quad.subject), []).append(text(quad.object))
        return found

    def quads(self, patient: ox.NamedNode | ox.BlankNode, links: Sequence[ox.NamedNode]) -> list[ox.Quad]:
        """The triples of a patient with some properties, and all of its answers."""
        found = [quad for link in links for quad in self.store.quads_for_pattern(patient, link, None, None)]
        for node in self._nodes.get(patient, ()):
            found += self.store.quads_for_pattern(node, None, None, None)  # type: ignore[arg-type]
        return found
