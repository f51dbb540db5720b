"""What each term of a knowledge base states, in a form that can be compared: names of blank nodes, order of triples, comments
and spacing do not show; and which rules rest on which terms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

import pyoxigraph as ox

from kbtool.docs_guide import RULES, Guide
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, DCTERMS, OWL, RDF, RDFS, SKOS, XSD, text

_ROOT = ox.NamedNode("urn:root")
_NUMBERS = (XSD["decimal"], XSD["integer"])
_LINKS_THAT_DECIDE_NOTHING = {
    CG[name].value
    for name in (
        "achieves",
        "citesStatement",
        "concerns",
        "explains",
        "hasConjunct",
        "hasMissingParameter",
        "measures",
        "opensBy",
        "reference",
        "refersTo",
        "statementType",
        "touches",
    )
}
"""Links of the guideline language that a rule's answer does not rest on: prose, what the compiler writes, what a rule does
for others."""


@dataclass(frozen=True)
class Value:
    """A value of a property: a key that is the same on both sides where the value is; the term itself, None for a structure
    of blank nodes; what such a structure states, as pairs of a property and a name or text."""

    key: str
    term: ox.NamedNode | ox.Literal | None
    inside: tuple[tuple[str, str], ...] = ()


@dataclass
class Term:
    """Everything that the modules state about one subject. iri: empty for a structure that has no name."""

    iri: str
    values: dict[str, dict[str, Value]] = field(default_factory=lambda: defaultdict(dict))
    modules: set[tuple[str, str, str]] = field(default_factory=set)

    def texts(self, predicate: ox.NamedNode) -> list[str]:
        """The values of a property that are names or literals, as text, sorted."""
        return sorted(text(value.term) for value in self.values.get(predicate.value, {}).values() if value.term is not None)


class Terms:
    """The terms of a knowledge base, as its modules state them."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self.guide = Guide(knowledge)
        self.words = self.guide.words
        self.found: dict[str, Term] = {}
        for iri, quads in knowledge.contents.items():
            self._read(iri, quads)

    @classmethod
    def of(cls, knowledge: Knowledge) -> Terms:
        """The terms of a knowledge base, read once."""
        found = knowledge.__dict__.get("_terms")
        if not isinstance(found, cls):
            found = knowledge.__dict__["_terms"] = cls(knowledge)
        return found

    def kind(self, iri: str) -> str:
        """The class of the guideline language or of OWL that a term belongs to, as an IRI; empty for what has none."""
        types = [t for t in self.found[iri].texts(RDF["type"]) if t != OWL["NamedIndividual"].value]
        return next((t for t in sorted(types, key=lambda t: (not t.startswith(CG.iri), t))), "")

    def is_fact(self, iri: str) -> bool:
        """Whether a class is one of facts."""
        return iri in self._facts

    def is_threshold(self, iri: str) -> bool:
        """Whether a term is a named range of numbers."""
        return self.kind(iri) == RDFS["Datatype"].value and bool(self.guide.facets(iri).limits)

    @cached_property
    def _facts(self) -> frozenset[str]:
        return frozenset(self.guide.facts)

    # --- What rests on what ----------------------------------------------------------------------------

    @cached_property
    def rules(self) -> list[str]:
        """All rules, in the order of the guideline."""
        return [rule for kind in RULES for rule in self.guide.of(kind)]

    @cached_property
    def rests_on(self) -> dict[str, frozenset[str]]:
        """For each rule all terms that its answers rest on: its criteria, their ranges and classes of facts, units, doses; and
        the prohibitions of its action. The rule itself is not among them."""
        forward: dict[str, set[str]] = defaultdict(set)
        for quad in self.knowledge.graph:
            if isinstance(quad.subject, ox.NamedNode) and isinstance(quad.object, ox.NamedNode):
                subject, predicate, target = quad.subject.value, quad.predicate.value, quad.object.value
                if predicate.startswith(CG.iri) and predicate not in _LINKS_THAT_DECIDE_NOTHING:
                    forward[subject].add(target)
                if predicate == CG["forbids"].value:
                    forward[target].add(subject)
                if predicate == CG["recordedBy"].value:
                    forward[target].add(subject)
                if predicate == RDFS["subClassOf"].value and not target.startswith(CG.iri):
                    forward[target].add(subject)
        for iri in self.found:
            for criterion in self.guide.mentioned(iri):
                forward[criterion].add(iri)
        found = {}
        for rule in self.rules:
            scopes = [s for m in self.guide.values(rule, RDFS["isDefinedBy"]) for s in self.guide.cg(m, "scope")]
            found[rule] = frozenset(self._reached({*forward[rule], *scopes}, forward) - {rule})
        return found

    @cached_property
    def rules_on(self) -> dict[str, list[str]]:
        """For each term the rules that rest on it, in order."""
        found: dict[str, list[str]] = defaultdict(list)
        for rule in self.rules:
            for term in self.rests_on[rule]:
                found[term].append(rule)
        return found

    @staticmethod
    def _reached(start: Iterable[str], forward: dict[str, set[str]]) -> set[str]:
        seen, waiting = set(), list(start)
        while waiting:
            term = waiting.pop()
            if term not in seen:
                seen.add(term)
                waiting += forward.get(term, ())
        return seen

    def facts_of(self, iri: str) -> frozenset[str]:
        """The classes of facts that a term is about, with the narrower ones: itself, or those that criteria with it name."""
        criteria = [iri] if iri in self.words.criteria else self.guide.mentioned(iri)
        named = {each for criterion in criteria for each in self.guide.cg(criterion, "refersTo")}
        about = {iri} if self.is_fact(iri) else {each for each in named if self.is_fact(each)}
        about |= {owner for link in ("acceptsUnit", "doseCeiling", "doseStep") for owner in self.guide.by(iri, link)}
        return frozenset(self._reached(about, {kind: set(self.guide.narrower(kind)) for kind in self._facts}))

    # --- Reading ---------------------------------------------------------------------------------------

    def _read(self, module: str, quads: list[ox.Quad]) -> None:
        below: dict[Any, list[ox.Quad]] = defaultdict(list)
        for quad in quads:
            below[quad.subject].append(quad)
        pointed_at = {quad.object for quad in quads}
        for quad in quads:
            if isinstance(quad.subject, ox.NamedNode):
                self._add(quad.subject.value, module, quad.predicate.value, self._value(quad.object, below))
        for subject in below:
            if isinstance(subject, ox.BlankNode) and subject not in pointed_at:
                value = self._value(subject, below)
                self._add(f"_:{value.key}", module, RDF["type"].value, value)

    def _add(self, subject: str, module: str, predicate: str, value: Value) -> None:
        term = self.found.setdefault(subject, Term(subject))
        term.values[predicate][value.key] = value
        term.modules.add((module, predicate, value.key))

    def _value(self, node: Any, below: dict[Any, list[ox.Quad]]) -> Value:
        if not isinstance(node, ox.BlankNode):
            return Value(str(plain(node)), node)
        structure = list(_closure(node, below))
        dataset = ox.Dataset([ox.Quad(_ROOT, _ROOT, node), *structure])
        dataset.canonicalize(ox.CanonicalizationAlgorithm.RDFC_1_0)
        stated = {(text(q.predicate), text(q.object)) for q in structure if not isinstance(q.object, ox.BlankNode)}
        inside = sorted((predicate, value) for predicate, value in stated if value != RDF["nil"].value)
        return Value("\n".join(sorted(map(str, dataset))), None, tuple(inside))


def label_of(term: Term, terms: Terms) -> str:
    """What a term is called: its label, an ontology's title, or its local name."""
    return next(iter([*term.texts(SKOS["prefLabel"]), *term.texts(DCTERMS["title"])]), "") or terms.words.label(term.iri)


def _closure(node: Any, below: dict[Any, list[ox.Quad]]) -> Iterator[ox.Quad]:
    waiting, seen = [node], {node}
    while waiting:
        for quad in below.get(waiting.pop(), ()):
            yield ox.Quad(quad.subject, quad.predicate, plain(quad.object))
            if isinstance(quad.object, ox.BlankNode) and quad.object not in seen:
                seen.add(quad.object)
                waiting.append(quad.object)


def plain(node: Any) -> Any:
    """A number without the digits that do not change it; other terms as they are."""
    if isinstance(node, ox.Literal) and node.datatype in _NUMBERS:
        return ox.Literal(number(node.value), datatype=node.datatype)
    return node


def number(digits: str) -> str:
    """A number without the digits that do not change it; what is none as it is."""
    try:
        return format(Decimal(digits).normalize() if Decimal(digits) else Decimal(0), "f")
    except InvalidOperation:
        return digits
