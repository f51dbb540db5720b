"""Hold a knowledge base to shapes/knowledge.ttl with pySHACL, and to the queries in queries/check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyoxigraph as ox

from kbtool.checks.model import CannotCheckError, Check, Context, Finding
from kbtool.knowledge import HOME, Knowledge
from kbtool.namespaces import CG, RDF, SH, local_name, text

SHAPES = HOME / "shapes" / "knowledge.ttl"


def shapes(context: Context) -> Iterator[Finding]:
    """What the shapes of a knowledge base refuse; pySHACL runs in a process of its own, beside other checks.

    Raises CannotCheckError where pySHACL is not installed or fails.
    """
    if find_spec("pyshacl") is None:
        raise CannotCheckError("pySHACL is not installed; run: pip install 'kbtool[check]'")
    files = [str(file) for file in (SHAPES, *context.knowledge.modules.values())]
    command = [sys.executable, "-m", __spec__.name, *files]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        raise CannotCheckError(f"pySHACL failed: {done.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
    results = ox.Store()
    results.load(done.stdout, ox.RdfFormat.N_TRIPLES)
    for quad in results.quads_for_pattern(None, RDF["type"], SH["ValidationResult"], None):
        focus, shape = (_one(results, quad.subject, name) for name in ("focusNode", "sourceShape"))
        message = " ".join(sorted(text(m) for m in _all(results, quad.subject, "resultMessage")))
        named = isinstance(focus, ox.NamedNode)
        label = f"{local_name(text(focus))}: " if named and focus else ""
        if isinstance(shape, ox.NamedNode):
            yield Finding(shape.value, text(focus) if named and focus else None, f"{label}{message}")


def shape_checks() -> Iterator[Check]:
    """The shapes as checks: each named shape of shapes/knowledge.ttl with its message."""
    graph = ox.Store()
    graph.load(SHAPES.read_bytes(), ox.RdfFormat.TURTLE)
    for kind in ("NodeShape", "PropertyShape"):
        for quad in graph.quads_for_pattern(None, RDF["type"], SH[kind], None):
            if not isinstance(quad.subject, ox.NamedNode) or not list(
                graph.quads_for_pattern(quad.subject, SH["name"], None, None)
            ):
                continue
            constraints = [quad.subject, *_all(graph, quad.subject, "sparql")]
            messages = [text(m) for node in constraints if not isinstance(node, ox.Literal) for m in _all(graph, node, "message")]
            if not messages:  # a shape that only others use
                continue
            problem, solution = _divided(" ".join(messages))
            name = text(next(iter(_all(graph, quad.subject, "name"))))
            yield Check(quad.subject.value, name, CG["ShapeChecks"].value, problem, solution)


def run_query(knowledge: Knowledge, check: str, file: Path) -> Iterator[Finding]:
    """The findings of a query in queries/check: ?subject is what a finding is about, ?message what is wrong with it."""
    rows: Any = knowledge.graph.query(file.read_text(encoding="utf-8"))
    for row in rows:
        subject, message = row["subject"], row["message"]
        yield Finding(check, subject.value, f"{knowledge.labels.get(subject.value, local_name(subject.value))}: {message.value}")


def _report(shape_file: Path, files: list[Path]) -> str:
    """The validation report of pySHACL on the union of some files, as N-Triples."""
    import pyshacl
    import rdflib

    data, shape_graph = rdflib.Graph(), rdflib.Graph()
    data.parse(data="".join(_n_triples(file) for file in files), format="nt")
    shape_graph.parse(data=_n_triples(shape_file), format="nt")
    _, report, text = pyshacl.validate(
        data, shacl_graph=shape_graph, advanced=False, js=False, do_owl_imports=False, inplace=True
    )
    if not isinstance(report, rdflib.Graph):
        raise CannotCheckError(str(text))
    return report.serialize(format="nt")


def _divided(message: str) -> tuple[str, str]:
    """A message of a shape says what is wrong in its first sentence, and what to do after it."""
    problem, _, solution = message.partition(". ")
    return (f"{problem}." if solution else problem), solution or message


def _n_triples(file: Path) -> str:
    quads = ox.parse(file.read_bytes(), ox.RdfFormat.TURTLE, rename_blank_nodes=True)
    return (ox.serialize((q.triple for q in quads), format=ox.RdfFormat.N_TRIPLES) or b"").decode()


def _all(graph: ox.Store, subject: Any, name: str) -> list[Any]:
    return [q.object for q in graph.quads_for_pattern(subject, SH[name], None, None)]


def _one(graph: ox.Store, subject: Any, name: str) -> Any:
    return next(iter(_all(graph, subject, name)), None)


if __name__ == "__main__":
    sys.stdout.write(_report(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
