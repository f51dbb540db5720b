"""The command line as its users meet it: assess, validate, export, terms; exit codes, formats, streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyoxigraph as ox
import pytest
from typer.testing import CliRunner

import kbtool
from kbtool import engine
from kbtool.cli import app

FOLDER = Path(__file__).parent / "patients"
AS_OF = "2026-02-10T12:00:00Z"
CG = "https://w3id.org/kbtool/cg/"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_text_is_ordered_by_what_matters() -> None:
    code, out, _ = run("assess", str(FOLDER / "P22.ttl"), "--as-of", AS_OF)
    assert code == 0
    titles = ["HARD STOP", "DO NOW", "WAITS", "OPEN", "CAUTIONS from outside the source", "DONE OR IN PLACE", "TAKEN FOR GRANTED"]
    places = [out.index(title) for title in titles]
    assert places == sorted(places)
    assert "S18" in out
    assert "S19" in out


def test_the_reason_for_a_missing_result_is_named() -> None:
    _, out, _ = run("assess", str(FOLDER / "P06.ttl"), "--as-of", AS_OF)
    missing = out.split("MISSING")[1]
    assert "2.1 mg/dL" in missing
    assert "too old" in missing


def test_out_of_scope_is_said() -> None:
    _, out, _ = run("assess", str(FOLDER / "P24.ttl"), "--as-of", AS_OF)
    assert "OUT OF SCOPE" in out
    assert "SO-20" in out
    assert "DO NOW" not in out


def test_what_the_source_leaves_open_is_said() -> None:
    _, out, _ = run("assess", str(FOLDER / "P14.ttl"), "--as-of", AS_OF)
    assert "not given by the source: strength" in out


@pytest.mark.parametrize("name", ["P01", "P22", "P24"])
def test_turtle_can_be_read_again_and_says_the_same(name: str) -> None:
    code, out, _ = run("assess", str(FOLDER / f"{name}.ttl"), "--as-of", AS_OF, "--format", "turtle")
    assert code == 0
    quads = list(ox.parse(out.encode(), ox.RdfFormat.TURTLE))
    recommended = {str(q.object) for q in quads if q.predicate.value == CG + "recommended"}
    answer = kbtool.load().assess(FOLDER / f"{name}.ttl", as_of=AS_OF)[name]
    assert len(recommended) == len(answer.recommended)


def test_many_patients_show_progress_and_lose_nobody() -> None:
    files = [str(p) for p in sorted(FOLDER.glob("*.ttl"))]
    code, out, err = run("assess", *files, "--as-of", AS_OF, "--format", "json")
    document = json.loads(out)
    assert len(document["patients"]) == len(files)
    assert code == (1 if any(p["setAside"] or p.get("refused") for p in document["patients"]) else 0)
    assert err == ""


def test_progress_goes_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BATCH", 2)
    _, out, err = run("assess", *(str(FOLDER / f"{n}.ttl") for n in ("P01", "P02", "P05", "P06", "P08")), "--as-of", AS_OF)
    assert "5 of 5 patients" in err
    assert "of 5 patients" not in out
    _, _, err = run("assess", *(str(FOLDER / f"{n}.ttl") for n in ("P01", "P02", "P05")), "--as-of", AS_OF, "--quiet")
    assert err == ""


def test_validate_counts_and_exits() -> None:
    code, out, _ = run("validate", str(FOLDER / "P01.ttl"), "--as-of", AS_OF)
    assert (code, out) == (0, "1 patients, 0 violations, 0 to check\n")


def test_terms() -> None:
    code, out, _ = run("terms", "magnesium")
    assert code == 0
    assert "SerumMagnesium" in out
    assert "mg/dL" in out
    assert "2601-3" in out
    code, out, _ = run("terms", "19123-9", "--format", "json")
    assert [t["name"] for t in json.loads(out)] == ["SerumMagnesium"]
    code, _, err = run("terms", "zzzzz")
    assert code == 2
    assert "no term" in err


def test_every_fact_of_the_golden_patients_is_a_term() -> None:
    names = {t["iri"] for t in json.loads(run("terms", "--format", "json")[1])}
    used = {
        q.object.value
        for path in FOLDER.glob("*.ttl")
        for q in ox.parse(path=path)
        if q.predicate.value.endswith(("#type", "/phase", "/state", "/course")) and isinstance(q.object, ox.NamedNode)
    }
    assert used - names == {CG + "Patient"}


def test_exported_files_give_the_same_answers_in_another_store(tmp_path: Path) -> None:
    target = tmp_path / "steps"
    code, out, _ = run("export", str(target))
    assert code == 0
    assert "README.txt" in out
    kb = kbtool.load()
    batch = [r for g in kb.read(*(FOLDER / f"{n}.ttl" for n in ("P01", "P12", "P15", "P22", "P24"))).groups for r in g]
    store = ox.Store()
    store.load(path=target / "00-knowledge.nt")
    store.extend(q for r in batch for q in r.triples)
    store.add(ox.Quad(ox.NamedNode(CG + "Run"), ox.NamedNode(CG + "asOf"), engine.parse_as_of(AS_OF)))
    for query in sorted((target / "validate").glob("*.rq")):
        assert not list(store.query(query.read_text(encoding="utf-8")))  # type: ignore[arg-type]
    for update in sorted(target.glob("*.ru")):
        store.update(update.read_text(encoding="utf-8"))
    for record in batch:
        name = record.patient.value.rsplit("/", 1)[-1]
        answer = kb.assess(FOLDER / f"{name}.ttl", as_of=AS_OF)[name]
        for status in ("recommended", "blocked", "undetermined", "satisfied", "contraindicated"):
            found = store.quads_for_pattern(record.patient, ox.NamedNode(CG + status), None, None)
            assert {q.object.value.rsplit("/", 1)[-1] for q in found} == set(getattr(answer, status))  # type: ignore[union-attr]
    code, _, err = run("export", str(target))
    assert code == 2
    assert "not an empty folder" in err


def test_version_and_help() -> None:
    assert run("--version")[1].startswith("kbtool 0.")
    for command in ("assess", "validate", "query", "export", "terms"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "Example" in out


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m kbtool terms | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=os.environ.copy())
    assert "Traceback" not in done.stderr


def test_another_root_ontology_without_a_catalog_entry_is_explained(tmp_path: Path) -> None:
    root = tmp_path / "root.ttl"
    root.write_text(
        "@prefix owl: <http://www.w3.org/2002/07/owl#> . <urn:o> a owl:Ontology ; owl:imports <urn:elsewhere> .", encoding="utf-8"
    )
    code, _, err = run("assess", str(FOLDER / "P01.ttl"), "--ontology", str(root))
    assert code == 2
    assert "urn:elsewhere" in err
    assert "nothing is fetched" in err
