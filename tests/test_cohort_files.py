"""Cohorts and the files around them: nothing that is somebody's own is overwritten, nothing is left out in silence."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import sqlite3
import time
from pathlib import Path

import cohort as made
import pytest
from cohort_helpers import run_here
from typer.testing import CliRunner

from kbtool.cli import app
from kbtool.cohort import CohortError, Settings, checkpoint, partition
from kbtool.cohort.inputs import find
from kbtool.cohort.partition import joined

ONE = made.n_triples(made.patient(3, 1, 0.0))


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["cohort", *map(str, words), "--jobs", "1", "--as-of", made.AS_OF])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    "name", ["night.nt.ndjson", "night.refused.ndjson", "night.parts/a.ndjson", "link.ndjson", "hard.ndjson"]
)
@pytest.mark.parametrize("folder", [False, True])
def test_an_input_is_not_overwritten(tmp_path: Path, name: str, folder: bool) -> None:
    out = tmp_path / ("night.nt.ndjson" if name == "night.nt.ndjson" else "night.ndjson")
    given = tmp_path / name
    given.parent.mkdir(exist_ok=True)
    data = json.dumps(made.json_ld(made.patient(3, 1, 0.0)))
    if name[0] in "lh":
        out.write_text(data)
        given.symlink_to(out) if name[0] == "l" else given.hardlink_to(out)
    else:
        given.write_text(data)
    (tmp_path / "more.nt").write_text(ONE)
    code, said = call(tmp_path if folder else given, "-o", out)
    assert code == 2, said
    assert given.read_text() == data
    assert not out.with_suffix(".state").exists()


@pytest.mark.parametrize("name", ["out.parts/thesis.txt", "out.lock", "out.state"])
@pytest.mark.parametrize("restart", [[], ["--restart"]])
def test_what_is_not_of_a_run_is_not_removed(tmp_path: Path, name: str, restart: list[str]) -> None:
    (tmp_path / "in.nt").write_text(ONE)
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text('{"mine": 1}\n')
    code, said = call(tmp_path / "in.nt", "-o", tmp_path / "out.ndjson", *restart)
    assert (code, own.read_text()) == (2, '{"mine": 1}\n'), said
    assert "out." in said
    assert not (tmp_path / "out.ndjson").exists()


def test_an_output_that_is_a_folder_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "in.nt").write_text(ONE)
    (tmp_path / "out.ndjson").mkdir()
    code, said = call(tmp_path / "in.nt", "-o", tmp_path / "out.ndjson")
    assert code == 2
    assert "is a folder" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.nt", "out.ndjson"]


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path) -> None:
    folder, far = tmp_path / "in", tmp_path / "far"
    folder.mkdir()
    far.mkdir()
    (folder / "a.nt").write_text(ONE)
    (far / "b.nt").write_text(made.n_triples(made.patient(3, 2, 0.0)))
    (folder / "link").symlink_to(far)
    (folder / "back").symlink_to(folder)
    for name in ("a.zst", "b.txt", "c.tmp", "d.xml", ".hidden"):
        (folder / name).write_text("x")
    told: list[str] = []
    assert [s.path.name for s in find([folder], tell=told.append)] == ["a.nt", "b.nt"]
    assert told == [f"4 files in {folder} are not read: a.zst, b.txt and 2 more"]
    code, said = call(folder, "-o", tmp_path / "out.ndjson", "--quiet")
    assert (code, "a.zst" in said) == (0, True)
    (folder / "gone.nt").symlink_to(tmp_path / "nowhere.nt")
    with pytest.raises(CohortError, match=r"gone\.nt: is a link to what is not there"):
        find([folder])


def test_a_folder_that_cannot_be_looked_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.nt").write_text(ONE)
    kept = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return kept(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(CohortError, match="sub: cannot be read"):
        find([tmp_path / "in"])


def test_which_file_is_given_twice_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.nt").write_text(ONE)
    with pytest.raises(CohortError, match=r"a\.nt: this file is given twice"):
        find([tmp_path / "a.nt", tmp_path])


@pytest.mark.parametrize("how", ["empty", "flipped", "cut"])
@pytest.mark.parametrize("form", ["nt", "ndjson", "json"])
def test_nothing_of_a_damaged_packed_file_is_used(tmp_path: Path, how: str, form: str) -> None:
    person = made.patient(3, 1, 0.0)
    text = ONE if form == "nt" else json.dumps(made.json_ld(person))
    packed = bytearray(gzip.compress(text.encode(), 0))
    at = packed.index(b"p1")
    packed[at + 1] ^= 1
    damaged = {"empty": b"", "flipped": bytes(packed), "cut": gzip.compress(text.encode(), 0)[:-9]}[how]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"a.{form}.gz").write_bytes(damaged)
    (folder / "b.nt").write_text(made.n_triples(made.patient(3, 2, 0.0)))
    code, said = call(folder, "-o", tmp_path / "out.ndjson")
    assert code == 2, said
    found = [json.loads(line)["patient"] for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert found == [f"{made.BASE}Patient/p2"]
    (entry,) = map(json.loads, (tmp_path / "out.refused.ndjson").read_text().splitlines())
    assert "nothing of it was used" in entry["reason"]
    code, said = call(folder, "-o", tmp_path / "other.ndjson", "--partition")
    assert (code, "nothing of it was used" in said) == (2, True)


def test_a_full_disk_is_said_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.nt").write_text(ONE)
    out = tmp_path / "out.ndjson"
    for sql in (True, False):
        with monkeypatch.context() as patch:

            def full(*_: object, sql: bool = sql) -> None:
                raise sqlite3.OperationalError("database or disk is full") if sql else OSError(errno.ENOSPC, "No space left")

            patch.setattr(*((partition, "_join_sharing", full) if sql else (checkpoint, "_copy", full)))
            code, said = call(tmp_path / "in.nt", "-o", out, "--partition")
        assert code == 2
        assert "out." in said
        assert "make room, then" in said or "make room (" in said
        assert not [*tmp_path.rglob("*.sqlite"), *tmp_path.rglob("*.tmp")]
    (tmp_path / "out.parts" / "bundling.sqlite").write_text("left by one that was killed")
    assert call(tmp_path / "in.nt", "-o", out, "--partition")[0] == 0


def test_nothing_of_a_bad_line_is_said(tmp_path: Path) -> None:
    (tmp_path / "in.ttl").write_text("<urn:a> <urn:b> 1 .\n<urn:a> JaneDoe 1 .\n")
    code, said = call(tmp_path / "in.ttl", "-o", tmp_path / "out.ndjson", "--partition")
    assert code == 2
    assert "line 2, column" in said
    assert "Jane" not in said


def test_many_who_stand_together_are_joined_quickly() -> None:
    chance = random.Random(1)  # noqa: S311
    many = list(range(1, 20_000))
    chance.shuffle(many)
    began = time.process_time()
    found = joined((0, other) for other in many)
    assert time.process_time() - began < 2
    assert len({root for root, _ in found}) == 1
    assert {patient for _, patient in found} | {found[0][0]} == set(range(20_000))


def test_lines_in_json_are_told_of_their_name(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"resourceType": "Patient", "id": "1"}\n{"resourceType": "Patient", "id": "2"}\n')
    with pytest.raises(CohortError, match=r"name it \.ndjson"):
        run_here(Settings([tmp_path / "in.json"], tmp_path / "out.ndjson", partition=True))


def test_bundles_that_are_scattered_are_not_sent_to_partition(tmp_path: Path) -> None:
    people = [json.dumps(made.json_ld(person)) for person in made.cohort(12, broken=0)]
    for name in ("a.ndjson", "b.ndjson"):
        (tmp_path / name).write_text("\n".join(people))
    with pytest.raises(CohortError, match="12 patients") as error:
        run_here(Settings([tmp_path / "a.ndjson", tmp_path / "b.ndjson"], tmp_path / "out.ndjson"))
    assert "--partition" not in str(error.value)


def test_where_too_much_of_one_patient_stands_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbtool.cohort.bundling.MAX_LINE", 2000)
    long = {"resourceType": "Binary", "id": "b", "subject": {"reference": "Patient/Jane"}, "data": "x" * 1990}
    lines = [json.dumps({"resourceType": "Patient", "id": "Jane"}), "", json.dumps(long | {"data": "x" * 1800})]
    (tmp_path / "in.ndjson").write_text("\n".join(lines))
    with pytest.raises(CohortError, match=r"in\.ndjson line 3 \(\d+ bytes\)") as error:
        run_here(Settings([tmp_path / "in.ndjson"], tmp_path / "out.ndjson", partition=True))
    assert "Jane" not in str(error.value)


def test_which_input_changed_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.nt").write_text(ONE)
    (tmp_path / "b.nt").write_text(made.n_triples(made.patient(3, 2, 0.0)))
    settings = Settings([tmp_path / "a.nt", tmp_path / "b.nt"], tmp_path / "out.ndjson", as_of=made.AS_OF)
    run_here(settings)
    state = tmp_path / "out.state"
    about = {key: value for key, value in json.loads(state.read_text()).items() if key != "finished"}
    state.write_text(json.dumps(about) + "\n")
    (tmp_path / "b.nt").write_text(ONE + "\n")
    with pytest.raises(CohortError, match=r"the inputs \(\S*b\.nt\) changed since"):
        run_here(settings)
