"""The exported files say the same on Apache Jena as on Oxigraph: what does not conform, and every answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jena
import pyoxigraph as ox
import pytest

import kbtool
from kbtool import engine
from kbtool.answer import PatientResult
from kbtool.export import export
from kbtool.namespaces import CG

TESTS = Path(__file__).parent
AS_OF = "2026-02-10T12:00:00Z"
GOLDEN = sorted((TESTS / "patients").glob("*.ttl"))
SAMPLE = 60


@dataclass
class Run:
    """What Jena and Oxigraph said of the same patients."""

    jena: dict[str, PatientResult]
    oxigraph: dict[str, PatientResult]
    found_by_jena: dict[str, list[str]]
    found_by_oxigraph: dict[str, list[str]]


@pytest.fixture(scope="module", params=[SAMPLE, pytest.param(10**6, marks=pytest.mark.deep)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if not jena.CORE.is_file():
        if os.environ.get("CI"):
            pytest.fail("libapache-jena-java is not installed")
        pytest.skip("libapache-jena-java is not installed")
    folder = tmp_path_factory.mktemp("jena")
    kb = kbtool.load()
    export(kb, folder / "steps")
    files = [f for f in GOLDEN if json.loads(f.with_suffix(".expected.json").read_text(encoding="utf-8"))["asOf"] == AS_OF]
    every = max(1, len(files) // request.param)
    chosen = dict.fromkeys([*files[::every], *(f for f in files if f.name.startswith(("P0", "P1", "P2")))])
    read = kb.read(*chosen)
    batch = [record for group in read.groups for record in group]
    assert len(batch) >= min(SAMPLE, len(files))
    moment = engine.parse_as_of(AS_OF)
    store = engine.load_store(kb.knowledge, batch, moment, whole=True)
    known = set(kb.knowledge.graph)
    write(folder / "facts.nt", (q for q in store if q not in known))
    found = {
        f"{number:02}.rq": sorted({named(row["this"]) for row in store.query(constraint.query)})
        for number, constraint in enumerate(kb.knowledge.shapes, 1)
    }
    checked = engine.check(store, kb.knowledge, batch)
    write(folder / "checked.nt", [*(q for q in store if q not in known), *(q for r in batch for q in r.reported)])
    words = [sys.executable, str(TESTS / "jena.py"), *(str(folder / n) for n in ("steps", "facts.nt", "checked.nt"))]
    words += [str(folder / "out.nt"), str(folder / "found.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    derived = ox.Store()
    derived.extend(kb.knowledge.graph)
    derived.bulk_load(path=str(folder / "out.nt"))
    engine.derive(store, kb.knowledge, batch)
    return Run(
        answers(engine.read(derived, kb.knowledge, batch, checked)),
        answers(engine.read(store, kb.knowledge, batch, checked)),
        json.loads((folder / "found.json").read_text(encoding="utf-8")),
        found,
    )


def answers(results: Iterable[PatientResult]) -> dict[str, PatientResult]:
    return {result.patient: result for result in results}


def write(file: Path, quads: Iterable[ox.Quad]) -> None:
    file.write_bytes(ox.serialize(sorted({q.triple for q in quads}, key=str), format=ox.RdfFormat.N_TRIPLES) or b"")


def named(node: object) -> str:
    return node.value if isinstance(node, ox.NamedNode | ox.Literal) else str(node)


def test_every_answer_is_the_same(run: Run) -> None:
    assert run.jena.keys() == run.oxigraph.keys()
    said = 0
    for patient, result in run.oxigraph.items():
        assert run.jena[patient].to_json() == result.to_json(), patient
        said += len(result.data["recommendations"])
    assert said > 200


def test_the_short_links_are_the_same(run: Run) -> None:
    def links(result: PatientResult) -> set[str]:
        return {str(q.triple) for q in result.triples if str(q.subject) == f"<{result.patient}>"}

    different = [patient for patient, result in run.oxigraph.items() if links(run.jena[patient]) != links(result)]
    assert different == []
    assert any(CG["recommended"].value in str(links(result)) for result in run.jena.values())


def test_what_does_not_conform_is_the_same(run: Run) -> None:
    def iris(found: dict[str, list[str]]) -> dict[str, list[str]]:  # names of blank nodes differ
        return {name: [node for node in nodes if "://" in node] for name, nodes in found.items()}

    assert iris(run.found_by_jena) == iris(run.found_by_oxigraph)
    assert sum(bool(nodes) for nodes in iris(run.found_by_oxigraph).values()) > 1
