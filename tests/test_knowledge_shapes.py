"""shapes/knowledge.ttl holds for the knowledge base, and refuses each bad example in tests/bad_knowledge.

A bad example is a term with one thing wrong, followed by the result that it must get (focus node, shape, part of the
message), as sh:ValidationResult. The examples lean on sound.ttl, a small guideline without fault. They are validated
together, which is fast, and nothing but the expected results may come out; those in alone/ need the guideline
language to themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyshacl
import pytest
import rdflib
from rdflib.namespace import OWL, RDF, SH
from rdflib.term import Node

ROOT = Path(__file__).parent.parent
BAD = Path(__file__).parent / "bad_knowledge"
TOGETHER = sorted(BAD.glob("*.ttl"))
ALONE = sorted(BAD.glob("alone/*.ttl"))
CONSTRAINED = (SH.path, SH["or"], SH["and"], SH["not"], SH.xone, SH["in"], SH.sparql, SH.pattern, SH["class"], SH.nodeKind)


class Result(NamedTuple):
    focus: str
    shape: str
    message: str


def read(*files: Path) -> rdflib.Graph:
    graph = rdflib.Graph()
    for file in files:
        graph.parse(file)
    return graph


def results(graph: rdflib.Graph, nodes: Iterable[Node]) -> list[Result]:
    parts = ((graph.value(n, SH.focusNode), graph.value(n, SH.sourceShape), graph.value(n, SH.resultMessage)) for n in nodes)
    return sorted({Result(*map(str, part)) for part in parts})


def take_expected(graph: rdflib.Graph) -> list[Result]:
    """Remove the expected results from a graph and return them."""
    nodes = list(graph.subjects(RDF.type, SH.ValidationResult))
    expected = results(graph, nodes)
    for node in nodes:
        graph.remove((node, None, None))
    return expected


@cache
def shapes() -> rdflib.Graph:
    return read(ROOT / "shapes" / "knowledge.ttl")


def validate(graph: rdflib.Graph) -> list[Result]:
    conforms, report, _ = pyshacl.validate(
        graph, shacl_graph=shapes(), advanced=False, js=False, do_owl_imports=False, inplace=True
    )
    assert isinstance(report, rdflib.Graph)
    found = results(report, report.objects(None, SH.result))
    assert conforms is not bool(found)
    return found


def expected_of(*files: Path) -> list[Result]:
    return [expected for file in files for expected in take_expected(read(file))]


@cache
def found_together() -> list[Result]:
    graph = read(ROOT / "ontology" / "model.ttl", *TOGETHER)
    take_expected(graph)
    return validate(graph)


def agree(found: Result, expected: Result) -> bool:
    return (found.focus, found.shape) == (expected.focus, expected.shape) and expected.message in found.message


def name(result: Result) -> str:
    return "-".join(part.rsplit("/", 1)[-1] for part in (result.shape, result.focus))


def test_the_knowledge_base_conforms() -> None:
    assert validate(read(*sorted((ROOT / "ontology").glob("*.ttl")))) == []


def test_the_sound_example_conforms() -> None:
    assert validate(read(ROOT / "ontology" / "model.ttl", BAD / "sound.ttl")) == []


@pytest.mark.parametrize("expected", expected_of(*TOGETHER), ids=name)
def test_bad_knowledge_is_refused(expected: Result) -> None:
    assert any(agree(found, expected) for found in found_together()), [f for f in found_together() if f.focus == expected.focus]


def test_bad_knowledge_is_refused_for_nothing_else() -> None:
    expected = expected_of(*TOGETHER)
    assert [found for found in found_together() if not any(agree(found, e) for e in expected)] == []


@pytest.mark.parametrize("file", ALONE, ids=lambda file: file.stem)
def test_bad_knowledge_alone_is_refused(file: Path) -> None:
    graph = read(ROOT / "ontology" / "model.ttl", file)
    expected = take_expected(graph)
    found = validate(graph)
    assert len(found) == len(expected)
    assert all(any(agree(f, e) for f in found) for e in expected)


def test_every_shape_refuses_an_example() -> None:
    """A check that cannot fail is worse than none."""
    named = {s for p in CONSTRAINED for s in shapes().subjects(p, None) if isinstance(s, rdflib.URIRef)}
    refused = {expected.shape for expected in expected_of(*TOGETHER, *ALONE)}
    assert {str(shape) for shape in named} - refused == set()


def test_every_shape_is_documented() -> None:
    kinds = (SH.NodeShape, SH.PropertyShape)
    named = {s for kind in kinds for s in shapes().subjects(RDF.type, kind) if isinstance(s, rdflib.URIRef)}
    for shape in sorted(named):
        assert str(shape).endswith("Shape")
        assert len(list(shapes().objects(shape, SH.name))) == 1, shape
        if (shape, SH.path, None) in shapes() or (shape, SH.targetClass, None) in shapes():
            sparql = shapes().value(shape, SH.sparql)
            assert len(list(shapes().objects(sparql or shape, SH.message))) == 1, shape


def test_shapes_of_facts_and_of_knowledge_have_different_names() -> None:
    other = read(ROOT / "shapes" / "facts.ttl")
    names = Counter(
        s
        for g in (shapes(), other)
        for s in set(g.subjects(RDF.type, None))
        if isinstance(s, rdflib.URIRef) and (s, RDF.type, OWL.Ontology) not in g
    )
    assert [shape for shape, count in names.items() if count > 1] == []


def test_shapes_name_no_guideline() -> None:
    text = (ROOT / "shapes" / "knowledge.ttl").read_text(encoding="utf-8")
    assert "/dialysis" not in text
