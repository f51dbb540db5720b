# ruff: noqa: ARG002 - a watch does not look at everything that it is told
"""Cohorts: every form of input says the same, nobody is assessed on a part of their facts, and nothing is lost or doubled whoever
is killed."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cohort as made
import cohort_helpers as helpers
import numpy as np
import pytest
from cohort_helpers import run_here
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

import kbtool
from kbtool.cli import app
from kbtool.cohort import CohortError, Settings, Total, Watch, run
from kbtool.cohort import ledger as ledgers
from kbtool.cohort.cut import LINE, Vocabulary, whole
from kbtool.cohort.inputs import batches, find
from kbtool.cohort.progress import Lines
from kbtool.cohort.stretch import Cutter, blocks_of
from kbtool.cohort.units import Stretch
from kbtool.cohort.workers import Processes

TESTS = Path(__file__).parent
AS_OF = made.AS_OF
PEOPLE = list(made.cohort(40, seed=3, broken=0.4))
WHOLE = "".join(made.n_triples(p) for p in PEOPLE)
DECIDED = ("recommendations", "prohibitions", "assessments", "cautions")


@pytest.fixture(scope="session")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


@pytest.fixture(scope="session")
def vocabulary(kb: kbtool.KnowledgeBase) -> Vocabulary:
    return Vocabulary.read(kb.knowledge)


@pytest.fixture(scope="session")
def expected(kb: kbtool.KnowledgeBase) -> dict[str, Any]:
    """What `kb.assess` says of the cohort when it reads all of it at once."""
    result = kb.assess(WHOLE.encode(), as_of=AS_OF, format="n-triples")
    return {patient: decisions(answer.to_json()) for patient, answer in result.patients.items()}


def decisions(answer: dict[str, Any]) -> dict[str, Any]:
    """What is decided for a patient, whatever the facts are called."""
    found: dict[str, Any] = {}
    for kind in DECIDED:
        for entry in answer[kind]:
            needs, because = entry["needs"], sorted(fact["name"] for fact in entry["because"])
            found[entry.get("name") or entry["id"]] = (entry.get("status") or entry["state"], needs, because)
    refused = sorted(v["message"] for v in answer.get("refused", []))
    return found | {"in": answer["inScope"], "missing": answer["missing"], "refused": refused, "aside": len(answer["setAside"])}


def assessed(folder: Path, *inputs: Path, form: str = "ndjson", **more: Any) -> tuple[Path, Total]:
    out = folder / f"out.{form}"
    _, total = run_here(Settings(inputs, out, as_of=AS_OF, **more))
    return out, total


def answers(out: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len({row["patient"] for row in rows}) == len(rows)
    return {row["patient"]: row for row in rows}


def refused(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.with_suffix(".refused.ndjson").read_text(encoding="utf-8").splitlines()]


# --- Every form says the same ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["nt", "ttl", "jsonld.ndjson", "nt.gz", "ttl.gz", "jsonld.ndjson.gz"])
@pytest.mark.parametrize("size", [7, 500])
def test_each_form_of_input_is_answered_as_by_assess(tmp_path: Path, expected: dict[str, Any], form: str, size: int) -> None:
    file = tmp_path / f"in.{form}"
    made.write(file, len(PEOPLE), seed=3, broken=0.4)
    out, total = assessed(tmp_path, file, size=size)
    found = answers(out)
    assert list(found) == [p.iri for p in PEOPLE]
    assert {patient: decisions(answer) for patient, answer in found.items()} == expected
    assert {patient: answer.get("treatedAt") for patient, answer in found.items()} == {p.iri: p.unit for p in PEOPLE}
    flawed = {p.iri for p in PEOPLE if p.flaw}
    assert total.patients == len(PEOPLE)
    assert total.not_accepted == len(flawed) > 5
    assert {entry["patient"] for entry in refused(out)} == {p.iri for p in PEOPLE if p.flaw in ("dose", "class")} != set()


def test_fhir_bundles_are_answered_as_by_assess(tmp_path: Path, kb: kbtool.KnowledgeBase) -> None:
    file = tmp_path / "in.ndjson"
    made.write(file, 12, seed=3, broken=0)
    out, _ = assessed(tmp_path, file, size=5)
    found = answers(out)
    assert len(found) == 12
    for line in file.read_bytes().splitlines():
        result = kb.assess(line, as_of=AS_OF, format="fhir")
        (patient,) = result.patients
        wanted = result[patient].to_json()
        assert decisions(found[patient]) == decisions(wanted)


def test_a_folder_with_a_file_for_each_patient(tmp_path: Path, expected: dict[str, Any]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    made.write(folder, len(PEOPLE), "ttl", seed=3, broken=0.4)
    (folder / "notes.txt").write_text("not facts")
    out, _ = assessed(folder, folder, size=7)
    assert {patient: decisions(answer) for patient, answer in answers(out).items()} == expected
    out, _ = assessed(folder, folder, size=7)  # its own output of before is not taken for facts
    assert len(answers(out)) == len(PEOPLE)


def test_answers_follow_the_schema(tmp_path: Path) -> None:
    (tmp_path / "in.nt").write_text(WHOLE)
    out, _ = assessed(tmp_path, tmp_path / "in.nt")
    schema = json.loads((TESTS.parent / "kbtool" / "assess.schema.json").read_text(encoding="utf-8"))
    check = Draft202012Validator({"$ref": "#/$defs/patient", "$defs": schema["$defs"]})
    for answer in answers(out).values():
        check.validate(answer)


def test_turtle_holds_the_derived_triples(tmp_path: Path, kb: kbtool.KnowledgeBase) -> None:
    import pyoxigraph as ox

    (tmp_path / "in.nt").write_text(WHOLE)
    out, _ = assessed(tmp_path, tmp_path / "in.nt", form="ttl", size=7)
    found = {q.triple for q in ox.parse(path=str(out))}
    result = kb.assess(WHOLE.encode(), as_of=AS_OF, format="n-triples")
    derived = {q.triple for answer in result.patients.values() for q in answer.triples}
    named = {t for t in found if t.predicate.value.endswith("/treatedAt")}
    assert found - named == derived
    assert len(named) == sum(1 for p in PEOPLE if p.unit)


def test_the_output_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    (tmp_path / "in.nt").write_text(WHOLE)
    outs = []
    for jobs in (1, 3):
        outs.append(tmp_path / f"jobs{jobs}.ndjson")
        run(Settings([tmp_path / "in.nt"], outs[-1], as_of=AS_OF, size=6, jobs=jobs))
    here, _ = assessed(tmp_path, tmp_path / "in.nt", size=6)
    assert outs[0].read_bytes() == outs[1].read_bytes() == here.read_bytes() != b""


# --- Nobody is assessed on a part of their facts -------------------------------------------------------


def units_of(text: bytes, vocabulary: Vocabulary, want: int) -> list[Any]:
    cutter = Cutter(vocabulary, "in.nt", 0, want)
    cuts = list(cutter.feed([text]))
    assert want == 100 or len(cuts) > 2
    units = whole([*cuts, *cutter.rest()], vocabulary)
    assert sum(cut.patients for cut in [*cuts, *cutter.rest()]) == len([unit for unit in units if unit.patients])
    return units


@pytest.mark.parametrize("want", [1, 2, 5, 7, 100])
@pytest.mark.parametrize("order", ["as made", "facts first", "shuffled", "sorted"])
@pytest.mark.parametrize("blank", [False, True])
def test_patients_are_cut_out_whole_in_whatever_order_their_lines_stand(
    vocabulary: Vocabulary, want: int, order: str, blank: bool
) -> None:
    chance = random.Random(5)  # noqa: S311
    blocks = []
    for person in PEOPLE:
        lines = made.n_triples(person, blank=blank).splitlines(keepends=True)
        if order == "facts first":
            lines.reverse()
        elif order == "shuffled":
            chance.shuffle(lines)
        elif order == "sorted":
            lines.sort()
        blocks.append(lines)
    text = "".join(line for lines in blocks for line in ["# a patient\n", "\n", *lines]).encode()
    units = units_of(text, vocabulary, want)
    with_patients = [unit for unit in units if unit.patients]
    assert [unit.who for unit in with_patients] == [(p.iri,) for p in PEOPLE]
    assert len(units) == len(with_patients)
    assert [unit.data.count(b"\n") for unit in units] == [len(lines) for lines in blocks]
    assert not any(b"_:" in unit.data for unit in units)
    first = 1
    for unit, lines in zip(units, blocks, strict=True):
        assert unit.lines == (first + 2, first + 1 + len(lines))
        first += 2 + len(lines)


def test_windows_say_the_same_wherever_the_reading_begins(tmp_path: Path, vocabulary: Vocabulary) -> None:
    for form in ("nt", "ttl", "jsonld.ndjson", "nt.gz"):
        file = tmp_path / f"in.{form}"
        made.write(file, len(PEOPLE), seed=3, broken=0.4)
        sources = find([file, TESTS / "patients" / "P01.ttl"])
        every = list(batches(sources, vocabulary, 6))
        assert len(every) > 5
        for before in every[:-1]:
            rest = list(batches(sources, vocabulary, 6, before))
            assert [(b.number, b.start, b.end) for b in rest] == [(b.number, b.start, b.end) for b in every[before.number + 1 :]]
            for one, other in zip(rest, every[before.number + 1 :], strict=True):
                ones, others = whole(one.units, vocabulary), whole(other.units, vocabulary)
                assert [(u.data.count(b"\n"), u.lines, u.who) for u in ones] == [
                    (u.data.count(b"\n"), u.lines, u.who) for u in others
                ]
                if form != "ttl":
                    assert [u.data for u in ones] == [u.data for u in others]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("order", ["as made", "shuffled"])
def test_where_a_file_is_cut_does_not_depend_on_how_it_is_read(
    monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary, ends: str, order: str
) -> None:
    chance = random.Random(6)  # noqa: S311
    monkeypatch.setattr("kbtool.cohort.stretch.AT_ONCE", 150_000)
    blocks = [made.n_triples(p).splitlines() for p in made.cohort(60, seed=3)]
    for block in blocks:
        block.sort(key=lambda _: chance.random() if order == "shuffled" else 0)
    text = "".join(line + ends for block in blocks for line in block).encode()
    expected: dict[int, list[int]] = {}
    for chunk in (200, 5_000, 10**7):
        monkeypatch.setattr("kbtool.cohort.stretch._BLOCK", chunk)
        for want in (30, 7):  # cut by bytes, and by patients
            cutter = Cutter(vocabulary, "in.nt", 0, want)
            found = [*cutter.feed(blocks_of(io.BytesIO(text), "in.nt")), *cutter.rest()]
            assert b"".join(stretch.data for stretch in found) == text
            lines = [len(stretch.data.splitlines()) for stretch in found]
            assert [stretch.first for stretch in found] == [1 + sum(lines[:n]) for n in range(len(lines))]
            units = whole(found, vocabulary)
            assert [unit.lines for unit in units] == [
                (1 + sum(map(len, blocks[:n])), sum(map(len, blocks[: n + 1]))) for n in range(len(blocks))
            ]
            assert [stretch.size for stretch in found] == expected.setdefault(want, [stretch.size for stretch in found])
            assert len(found) > 4
            assert max(expected[want][:-1]) <= 150_000


def test_a_stretch_is_read_where_it_stands(tmp_path: Path, vocabulary: Vocabulary) -> None:
    file = tmp_path / "in.nt"
    file.write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())
    stretches = [unit for batch in batches(find([file]), vocabulary, 7) for unit in batch.units]
    assert len(stretches) > 4
    assert all(isinstance(stretch, Stretch) and not stretch.data for stretch in stretches)
    assert b"".join(stretch.loaded().data for stretch in stretches if isinstance(stretch, Stretch)) == WHOLE.encode()
    file.write_bytes(WHOLE.encode()[:-500])
    with pytest.raises(CohortError, match="was changed"):
        whole(stretches, vocabulary)


def test_a_stretch_that_comes_in_short_reads_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "in.nt"
    file.write_text(WHOLE)

    class Short(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(1000 if size is None or size < 0 else min(size, 1000))

        def readinto(self, buffer: Any, /) -> int:
            return super().readinto(memoryview(buffer)[:1000])

    def opened(path: str, mode: str, buffering: int = -1) -> Any:
        return Short(path, mode) if buffering == 0 else io.BufferedReader(Short(path, mode))

    monkeypatch.setattr("kbtool.cohort.units.open", opened, raising=False)
    size = len(WHOLE.encode()) - 10
    assert Stretch(b"", "in.nt", 0, 1, True, 1, size, str(file), 10).loaded().data == WHOLE.encode()[10:]


@pytest.mark.parametrize("order", ["as made", "facts first"])
def test_the_line_of_a_patient_is_reported(tmp_path: Path, order: str) -> None:
    import pyarrow.parquet as pq

    people = PEOPLE
    blocks = [made.n_triples(p).splitlines(keepends=True)[:: -1 if order == "facts first" else 1] for p in people]
    (tmp_path / "in.nt").write_text("".join(line for block in blocks for line in block))
    out, _ = assessed(tmp_path, tmp_path / "in.nt", form="parquet", size=9)
    told = {row["patient"]: row["line"] for row in pq.read_table(out).to_pylist() if row["kind"] == "patient"}
    for number, (person, block) in enumerate(zip(people, blocks, strict=True)):
        own = next(n for n, line in enumerate(block) if line.startswith(f"<{person.iri}>"))
        assert told[person.iri] == 1 + sum(map(len, blocks[:number])) + own
    listed = {entry["patient"]: entry["line"] for entry in refused(out) if entry["patient"]}
    assert listed == {patient: told[patient] for patient in listed} != {}


def test_patients_who_share_a_node_stay_together(tmp_path: Path, kb: kbtool.KnowledgeBase) -> None:
    shared = f"<{PEOPLE[1].iri}> <{made.CG}hasFinding> <{made.BASE}fact/{PEOPLE[0].facts[-1].name}> .\n"
    text = made.n_triples(PEOPLE[0]) + made.n_triples(PEOPLE[1]) + shared + made.n_triples(PEOPLE[2])
    (tmp_path / "in.nt").write_text(text)
    out, _ = assessed(tmp_path, tmp_path / "in.nt", size=1)
    wanted = kb.assess(text.encode(), as_of=AS_OF, format="n-triples")
    assert {p: decisions(a) for p, a in answers(out).items()} == {p: decisions(a.to_json()) for p, a in wanted.patients.items()}
    assert answers(out)[PEOPLE[0].iri]["refused"]


def scattered_inputs() -> dict[str, tuple[str, set[str]]]:
    """Files in which facts of patients stand apart, and the patients concerned."""
    first, *others = PEOPLE[:12]
    lines = made.n_triples(first).splitlines(keepends=True)
    rest = "".join(made.n_triples(p) for p in others)
    fact = first.facts[-1]
    about = [line for line in lines if line.startswith(f"<{made.BASE}fact/{fact.name}>")]
    without = [line for line in lines if line not in about]
    again = [lines[0], *lines[-3:]]
    shared = made.n_triples(others[-1]).replace(
        f"{made.BASE}fact/{others[-1].facts[0].name}", f"{made.BASE}fact/{first.facts[0].name}"
    )
    return {
        "a patient comes back": ("".join(lines[:-3]) + rest + "".join(again), {first.iri}),
        "a link comes back without its patient's type": ("".join(lines[:-3]) + rest + "".join(lines[-3:]), {first.iri}),
        "a fact is described far away": ("".join(without) + rest + "".join(about), {first.iri}),
        "a fact is described before": ("".join(about) + rest + "".join(without), {first.iri}),
        "two patients share a fact": (
            made.n_triples(first) + "".join(made.n_triples(p) for p in others[:-1]) + shared,
            {first.iri, others[-1].iri},
        ),
    }


@pytest.mark.parametrize("case", scattered_inputs())
@pytest.mark.parametrize("size", [2, 500])
def test_whoever_is_scattered_is_refused_or_brought_together(
    tmp_path: Path, expected: dict[str, Any], kb: kbtool.KnowledgeBase, case: str, size: int
) -> None:
    text, concerned = scattered_inputs()[case]
    (tmp_path / "in.nt").write_text(text)
    wanted = {p: decisions(a.to_json()) for p, a in kb.assess(text.encode(), as_of=AS_OF, format="n-triples").patients.items()}
    out, total = assessed(tmp_path, tmp_path / "in.nt", size=size)
    found = {p: decisions(a) for p, a in answers(out).items()}
    assert set(found) == set(wanted)
    assert {p: found[p] for p in found if p not in concerned} == {p: wanted[p] for p in wanted if p not in concerned}
    for patient in concerned:  # in one batch they are read as a whole; otherwise they are refused, and told why
        if size == 2:
            assert "more than one place" in found[patient]["refused"][0]
            assert any(entry["patient"] == patient for entry in refused(out))
        else:
            assert found[patient] == wanted[patient] or "more than one place" in found[patient]["refused"][0]
    assert total.patients == len(wanted)
    out, _ = assessed(tmp_path, tmp_path / "in.nt", size=size, partition=True)
    assert {p: decisions(a) for p, a in answers(out).items()} == wanted


@pytest.mark.parametrize("form", ["nt", "ttl"])
def test_triples_in_no_order_are_brought_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any], form: str
) -> None:
    chance = random.Random(9)  # noqa: S311
    lines = "".join(made.n_triples(p, blank=True) for p in PEOPLE).splitlines(keepends=True)
    chance.shuffle(lines)
    (tmp_path / f"in.{form}").write_text("".join(lines))
    out, _ = assessed(tmp_path, tmp_path / f"in.{form}", size=3)  # so few that they nearly fit into one window
    found = {p: decisions(a) for p, a in answers(out).items()}
    whole = {p for p in found if found[p] == expected[p]}
    assert len(whole) >= len(PEOPLE) - 3
    assert all("more than one place" in found[p]["refused"][0] for p in found if p not in whole)
    monkeypatch.setattr("kbtool.cohort.stretch.MAX_WINDOW", 100_000)
    with pytest.raises(CohortError, match=r"--partition"):
        assessed(tmp_path, tmp_path / f"in.{form}", size=3)
    out, _ = assessed(tmp_path, tmp_path / f"in.{form}", size=3, partition=True, restart=True)
    assert {p: decisions(a) for p, a in answers(out).items()} == expected
    assert not list(tmp_path.glob("out.parts*"))


def test_a_patient_in_two_documents_is_refused(tmp_path: Path) -> None:
    lines = [json.dumps(made.json_ld(p)) for p in PEOPLE[:8]]
    (tmp_path / "in.ndjson").write_text("\n".join([*lines, lines[2]]))
    for size in (2, 500):
        out = tmp_path / "out.ndjson"
        _, total = run_here(Settings([tmp_path / "in.ndjson"], out, as_of=AS_OF, size=size, restart=True))
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [bool(row.get("refused")) for row in rows if row["patient"] == PEOPLE[2].iri] == [True]
        assert [entry["line"] for entry in refused(out) if "more than one place" in entry["reason"]] == [3, 9]
        assert sum(bool(row.get("refused")) for row in rows if row["patient"] != PEOPLE[2].iri) == sum(
            p.flaw in ("dose", "class") for p in (*PEOPLE[:2], *PEOPLE[3:8])
        )
        assert total.patients == sum(
            n for key, n in total.counts.items() if key[0] == "patients" and key[1] in ("answered", "refused")
        )


def test_labels_of_blank_nodes_in_turtle_that_come_back_are_noticed(tmp_path: Path) -> None:
    parts = [made.PREFIXES]
    for number, person in enumerate(PEOPLE[:9]):
        link = "cg:hasFinding _:again" if number in (0, 8) else ""
        parts.append(made.turtle(person).replace(" .\n\n", f" ;\n {link} .\n\n" if link else " .\n\n"))
    parts.insert(2, "_:again a dk:Twitch .\n")
    (tmp_path / "in.ttl").write_text("".join(parts))
    out, _ = assessed(tmp_path, tmp_path / "in.ttl", size=2)
    assert {p for p, a in answers(out).items() if "more than one place" in str(a.get("refused"))} == {
        PEOPLE[0].iri,
        PEOPLE[8].iri,
    }


def test_the_ledger_needs_both_a_description_and_another_place() -> None:
    entry = {"described": 1, "pointed": 0}

    def said(*mentions: tuple[int, int, str]) -> set[int]:
        nodes = ledgers.hashes([*["the node"] * len(mentions), "another"])
        places = np.array([*(batch * 10 + room for batch, room, _ in mentions), 99])
        bad = ledgers.conflicts(nodes, places, np.array([*(entry[role] for *_, role in mentions), 1]))
        assert not bad[-1]
        return {batch for (batch, *_), wrong in zip(mentions, bad, strict=False) if wrong}

    assert said((0, 0, "described"), (1, 0, "described")) == {0, 1}
    assert said((0, 0, "described"), (1, 0, "pointed")) == {0, 1}
    assert said((0, 0, "described"), (0, 1, "pointed")) == {0}
    assert said((0, 0, "pointed"), (1, 0, "pointed")) == set()
    assert said((0, 0, "described"), (0, 0, "pointed")) == set()


def test_a_hash_does_not_depend_on_what_else_is_hashed() -> None:
    chance = random.Random(8)  # noqa: S311
    names = ["", "a", "Zoë", "x" * 7, "x" * 8, "x" * 9, "y" * 255, "y" * 256, "y" * 257, "y" * 5000, *map(str, range(5000))]
    wanted = {name: int(ledgers.hashes([name])[0]) for name in names}
    assert len(set(wanted.values())) == len(names)
    chance.shuffle(names)
    for some in (names[:10], names[10:500], names):
        assert ledgers.hashes(some).tolist() == [wanted[name] for name in some]


@pytest.mark.parametrize("at_a_time", [10, 100, 10**6])
def test_a_ledger_that_does_not_fit_into_memory_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    chance = random.Random(4)  # noqa: S311
    said: list[dict[tuple[int, int, int], None]] = []
    for _ in range(30):
        nodes = {(chance.randrange(3000), chance.randrange(2), 2 * n + chance.randrange(2)): None for n in range(20)}
        said.append(nodes)
    by_node: dict[int, set[tuple[int, int, int]]] = {}
    for place, nodes in enumerate(said):
        for node, room, role in nodes:
            by_node.setdefault(node, set()).add((place, room, role))
    wanted = {
        (place, role // 2)
        for mentions in by_node.values()
        if len({(place, room) for place, room, _ in mentions}) > 1 and any(role % 2 for *_, role in mentions)
        for place, _, role in mentions
    }
    books = []
    for nodes in said:
        entries = np.zeros(len(nodes), ledgers.ENTRY)
        entries["node"] = ledgers.hashes([str(node) for node, *_ in nodes])
        entries["room"], entries["role"] = [room for _, room, _ in nodes], [role for *_, role in nodes]
        books.append(entries.tobytes())
    monkeypatch.setattr(ledgers, "A_TIME", at_a_time)
    assert ledgers.scattered(books, sum(map(len, said)), tmp_path / "ledger") == wanted != set()
    assert not (tmp_path / "ledger").exists()


# --- What is broken ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 500])
def test_a_broken_line_refuses_its_patient_and_nobody_else(tmp_path: Path, expected: dict[str, Any], size: int) -> None:
    blocks = [made.n_triples(p).splitlines(keepends=True) for p in PEOPLE[:10]]
    blocks[4][7] = blocks[4][7].replace(" .\n", "\n").replace("<", "", 1)
    place = sum(len(block) for block in blocks[:4]) + 8
    (tmp_path / "in.nt").write_text("".join(line for block in blocks for line in block))
    out, _ = assessed(tmp_path, tmp_path / "in.nt", size=size)
    assert set(answers(out)) == {p.iri for n, p in enumerate(PEOPLE[:10]) if n != 4}
    assert {p: decisions(a) for p, a in answers(out).items()} == {p: expected[p] for p in answers(out)}
    entry = next(e for e in refused(out) if e["patient"] == PEOPLE[4].iri)
    assert entry["line"] == place
    assert "not valid N-Triples" in entry["reason"]


def test_a_broken_piece_of_a_patient_refuses_the_other_piece_too(tmp_path: Path) -> None:
    lines = made.n_triples(PEOPLE[0]).splitlines(keepends=True)
    rest = "".join(made.n_triples(p) for p in PEOPLE[1:6])
    (tmp_path / "in.nt").write_text("".join(lines[:-4]) + rest + "".join(lines[-4:-1]) + lines[-1].replace(" .\n", "\n"))
    out, _ = assessed(tmp_path, tmp_path / "in.nt", size=2)
    found = answers(out)
    assert "more than one place" in found[PEOPLE[0].iri]["refused"][0]["message"]
    assert {p.iri for p in PEOPLE[1:5]} <= {p for p, a in found.items() if "more than" not in str(a.get("refused"))}


def test_a_broken_line_between_two_patients_refuses_both(tmp_path: Path) -> None:
    texts = [made.n_triples(p) for p in PEOPLE[:5]]
    (tmp_path / "in.nt").write_text("".join([*texts[:2], "garbage\n", *texts[2:]]))
    out, _ = assessed(tmp_path, tmp_path / "in.nt", size=2)
    assert set(answers(out)) == {PEOPLE[n].iri for n in (0, 3, 4)}


def test_json_in_a_folder_is_read_where_it_can_be_facts(tmp_path: Path, expected: dict[str, Any]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.json").write_text(made.bundle(PEOPLE[0]))
    (folder / "b.json.gz").write_bytes(gzip.compress(json.dumps(made.json_ld(PEOPLE[1])).encode()))
    (folder / "package.json").write_text('{"name": "no facts"}')
    (folder / "broken.json.gz").write_bytes(gzip.compress(b"{}")[:-12] + bytes(12))
    out, total = assessed(tmp_path, folder)
    assert {p: decisions(a) for p, a in answers(out).items()} == {p.iri: expected[p.iri] for p in PEOPLE[:2]}
    assert [Path(entry["file"]).name for entry in refused(out) if entry["patient"] is None] == ["broken.json.gz"]
    assert total.unread == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are text")
def test_a_name_that_is_no_text_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"n\xff")
    folder.mkdir()
    good, bad = folder / os.fsdecode(b"a\xfe.nt"), folder / os.fsdecode(b"b\xfd.jsonld")
    good.write_text(made.n_triples(PEOPLE[0]) + made.n_triples(PEOPLE[1]))
    bad.write_text("{")
    for form in ("ndjson", "parquet"):
        out = folder / f"out.{form}"
        done = subprocess.run(command(good, out, str(bad)), capture_output=True, env=environment(), check=False)
        assert done.returncode == 1, done.stderr
        assert b"2 patients in" in done.stdout
        assert "n\\xff/b\\xfd.jsonld" in {str(Path(entry["file"]).relative_to(tmp_path)) for entry in refused(out)}


def test_broken_documents_are_listed_and_the_others_go_on(tmp_path: Path, expected: dict[str, Any]) -> None:
    good = [json.dumps(made.json_ld(p)) for p in PEOPLE[:4]]
    bad = [
        good[0][:200],
        '{"@id": "https://example.org/x", "https://example.org/y": 1}',
        '{"resourceType": "Observation", "status": "final"}',
        '{"@type": "https://w3id.org/kbtool/cg/Patient"}',
        "\ufeff[]",
    ]
    lines = [good[0], bad[0], good[1], "", bad[1], bad[2], good[2], bad[3], good[3], bad[4]]
    (tmp_path / "in.ndjson").write_text("\n".join(lines), encoding="utf-8")
    out, total = assessed(tmp_path, tmp_path / "in.ndjson", size=2)
    assert {p: decisions(a) for p, a in answers(out).items()} == {p.iri: expected[p.iri] for p in PEOPLE[:4]}
    listed = {entry["line"]: entry["reason"] for entry in refused(out) if entry["patient"] is None}
    assert sorted(listed) == [2, 5, 6, 8, 10]
    for line, words in ((2, "not valid JSON"), (5, "no patient"), (6, "one Bundle a line"), (8, "no IRI"), (10, "no patient")):
        assert words in listed[line], listed[line]
    assert total.unread == 0


@pytest.mark.parametrize("form", ["ttl"])
def test_a_file_that_breaks_off_is_answered_up_to_there(tmp_path: Path, expected: dict[str, Any], form: str) -> None:
    file = tmp_path / f"in.{form}"
    made.write(file, len(PEOPLE), seed=3, broken=0.4)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3] + (b" garbage <" if form == "ttl" else b""))
    second = tmp_path / "second.nt"
    second.write_text(made.n_triples(made.patient(3, 1000, 0.0)))
    out, total = assessed(tmp_path, file, second, size=4)
    found = answers(out)
    assert total.unread == 1
    assert 5 < len(found) < len(PEOPLE)
    assert f"{made.BASE}Patient/p1000" in found
    complete = {p: a for p, a in found.items() if p in expected}
    assert list(complete) == [p.iri for p in PEOPLE][: len(complete)]
    assert {p: decisions(a) for p, a in complete.items()} == {p: expected[p] for p in complete}
    reasons = " ".join(entry["reason"] for entry in refused(out))
    assert "nothing of the file was read from here on" in reasons


def test_facts_of_nobody_are_listed(tmp_path: Path) -> None:
    lost = f'<https://example.org/o> <{made.TYPE}> <{made.DK}SerumSodium> .\n<https://example.org/o> <{made.CG}unit> "g" .\n'
    (tmp_path / "in.nt").write_text(made.n_triples(PEOPLE[0]) + lost + made.n_triples(PEOPLE[1]))
    out, total = assessed(tmp_path, tmp_path / "in.nt", size=1)
    entry = next(e for e in refused(out) if e.get("node"))
    assert entry["node"] == "https://example.org/o"
    assert total.patients == 2


# --- Where lines, names and files end ----------------------------------------------------------------

A, HAS, KIND = f"<{made.TYPE}>", f"<{made.CG}hasFinding>", f"<{made.DK}Twitch>"
PATIENT = f"<{made.CG}Patient>"


def test_a_last_line_without_an_end_swallows_nothing(tmp_path: Path, kb: kbtool.KnowledgeBase, vocabulary: Vocabulary) -> None:
    from kbtool.cohort.rooms import Refused, rooms

    lines = [
        f"<urn:x:1> {A} {PATIENT} .",
        f"<urn:x:2> {HAS} _:f2 .",
        f"_:f2 {A} {KIND} .",
        f"<urn:x:2> {A} {PATIENT} .",
        f"<urn:x:1> {HAS} <urn:x:f1> . # last",
    ]
    for ends in ("\n", "\r\n"):
        (tmp_path / "in.nt").write_bytes(ends.join(lines).encode())
        (batch,) = batches(find([tmp_path / "in.nt"]), vocabulary, 10)
        refused_ = Refused()
        (room,) = rooms(batch.units, kb.knowledge, refused_)
        assert refused_.lines == []
        assert sum(len(record.rows()) for group in room.facts.groups for record in group) == len(lines)
        assert [unit.lines for unit in room.units] == [(1, 5), (2, 4)]


def test_an_object_ends_with_its_line() -> None:
    for line in (b"<urn:s> <urn:p> _:b1.", b"<urn:s> <urn:p> _:b1 .", b"<urn:s> <urn:p> _:b1.# a remark"):
        for end in (b"\n", b"\r\n", b"\r", b""):
            match = LINE.match(line + end + b"<urn:t> <urn:p> _:b2 .\n" if end else line)
            assert match is not None
            assert match[3] == b"_:b1"
    assert LINE.match(b"<urn:s> <urn:p> _:b.1.\n")[3] == b"_:b.1"  # type: ignore[index]
    assert LINE.match(b'_:b1\n<urn:p> "text" .\n') is None


def test_blank_nodes_at_the_end_of_their_line_are_one_node(tmp_path: Path) -> None:
    text = f"<urn:x:1> {A} {PATIENT} .\n<urn:x:1> {HAS} _:b1.\n_:b1 {A} {KIND} .\n"
    (tmp_path / "in.nt").write_text(text)
    out, _ = assessed(tmp_path, tmp_path / "in.nt")
    assert list(answers(out)) == ["urn:x:1"]
    assert refused(out) == []


@pytest.mark.parametrize("size", [1, 500])
@pytest.mark.parametrize("circle", [False, True])
def test_a_patient_whose_facts_stand_below_facts_of_nobody_is_found(tmp_path: Path, size: int, circle: bool) -> None:
    lines = made.n_triples(PEOPLE[0]).splitlines(keepends=True)
    fact = f"<{made.BASE}fact/{PEOPLE[0].facts[-1].name}>"
    about = [line for line in lines if line.startswith(fact)]
    (tmp_path / "a.nt").write_text("".join(line for line in lines if line not in about) + made.n_triples(PEOPLE[1]))
    back = f"{fact} <urn:x:of> <urn:x:t> .\n" if circle else ""
    nobody = f"<urn:x:t> {A} <{made.DK}Haemodialysis> .\n<urn:x:t> <{made.CG}hasSetting> {fact} .\n"
    (tmp_path / "b.nt").write_text("".join(about) + back + nobody)
    out, _ = assessed(tmp_path, tmp_path / "a.nt", tmp_path / "b.nt", size=size)
    found = {patient for patient, answer in answers(out).items() if "more than one place" in str(answer.get("refused"))}
    assert found == {PEOPLE[0].iri}
    told = [entry["node"] for entry in refused(out) if entry.get("node")]
    assert told == ([min("urn:x:t", fact[1:-1])] if circle else ["urn:x:t"])


def test_names_that_are_built_alike_do_not_collide() -> None:
    names = [f"urn:h{n:03}AAAAAAA{a}BBB{b}CCC{c}" for n in range(100) for a in range(10) for b in range(10) for c in range(10)]
    names += [
        f"https://hospital.example/{kind}/{n:07}-{m}" for kind in ("Patient", "fact") for n in range(20_000) for m in (0, 1)
    ]
    assert len(set(ledgers.hashes(names).tolist())) == len(set(names))


def broken_off(lines: list[str], vocabulary: Vocabulary) -> dict[str, bool]:
    """For each patient whether they count as read in part, where a file breaks off after some lines."""
    cutter = Cutter(vocabulary, "in.nt", 0, 100)
    assert list(cutter.feed(["".join(lines).encode()])) == []
    units = [unit for unit in cutter.rest("it breaks off") if not isinstance(unit, Stretch)]
    return {name: unit.problem is not None for unit in units for name in unit.who}


def test_where_a_file_breaks_off_nobody_counts_as_whole_who_may_not_be(vocabulary: Vocabulary) -> None:
    people = [PEOPLE[n].iri for n in range(6)]
    lines = [line for p in PEOPLE[:6] for line in ["# a patient\n", *made.n_triples(p).splitlines(keepends=True)]]
    last = len(made.n_triples(PEOPLE[5]).splitlines())
    for missing in range(last):
        assert broken_off(lines[: len(lines) - missing], vocabulary) == {name: name == people[-1] for name in people}
    by_predicate = sorted((line for line in lines if line[0] == "<"), key=lambda line: line.split()[1])
    seen = set()
    for end in range(5, len(by_predicate), 5):
        found = broken_off(by_predicate[:end], vocabulary)
        assert all(found.values()), end
        seen.add(len(found))
    assert max(seen) == 6
    facts_later = [line for line in lines if line.startswith("<" + made.BASE + "Patient")]
    assert all(broken_off(facts_later, vocabulary).values())


def test_lines_are_counted_once_however_long_they_are(vocabulary: Vocabulary) -> None:
    """A line that names the class of patients often is looked at once."""
    import kbtool.cohort.stretch as stretches

    class Counting:
        calls = 0

        def match(self, block: bytes, start: int) -> re.Match[bytes] | None:
            self.calls += 1
            return LINE.match(block, start)

    counting, kept = Counting(), stretches.LINE
    stretches.LINE = counting  # type: ignore[assignment]
    try:
        cutter = Cutter(vocabulary, "in.nt", 0, 5)
        long = f'<urn:x:1> <urn:x:says> "{PATIENT * 50}" .\n<{made.CG}Patient> {A} {PATIENT} .\n'
        (stretch,) = [*cutter.feed([long.encode()]), *cutter.rest()]
    finally:
        stretches.LINE = kept
    assert counting.calls == 2
    assert stretch.patients == 1


def test_pieces_of_a_long_line_are_put_together_once() -> None:
    class Pieces(io.BytesIO):
        def __init__(self, pieces: list[bytes]) -> None:
            super().__init__()
            self.left = pieces[::-1]

        def read1(self, size: int | None = -1) -> bytes:
            return self.left.pop() if self.left else b""

    copied = 0

    class Heavy(bytes):
        def __radd__(self, other: bytes) -> bytes:
            nonlocal copied
            copied += len(other)
            return bytes(other) + bytes(self)

    long = [b"x" * 1000] * 300
    assert list(blocks_of(Pieces([*map(Heavy, long), Heavy(b"\nshort")]), "in.nt")) == [b"x" * 300_000 + b"\n", b"short"]
    assert copied == 0
    for text in (b"a\rb\r\nc\n\rd", b"a\r", b"\r\r\n\r", b"aa\r\n", b"ab"):
        for size in (1, 2, 3):
            pieces = [text[at : at + size] for at in range(0, len(text), size)]
            found = list(blocks_of(Pieces(pieces), "in.nt"))
            assert b"".join(found) == text
            assert [line for block in found for line in block.splitlines(keepends=True)] == text.splitlines(keepends=True)


def test_a_patient_in_two_documents_of_a_halved_task_is_answered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = list(made.cohort(8, seed=3, broken=0))
    people[6].unit = helpers.POISON.decode()
    lines = [json.dumps(made.json_ld(p)) for p in (*people, people[1], people[1])]
    (tmp_path / "in.ndjson").write_text("\n".join(lines))
    kept = helpers.attempt
    monkeypatch.setattr(
        helpers, "attempt", lambda units, *more: helpers.Lost("it failed") if helpers.poisoned(units) else kept(units, *more)
    )
    out, total = assessed(tmp_path, tmp_path / "in.ndjson", size=100)
    assert len(answers(out)) == 7
    assert list(answers(out)) == [p.iri for p in people if p is not people[6]]
    assert "more than one place" in str(answers(out)[people[1].iri]["refused"])
    assert [entry["line"] for entry in refused(out) if "more than one place" in entry["reason"]] == [2, 9, 10]
    assert total.patients == 7
    assert total.not_accepted == 2


def test_a_patient_of_whom_processes_die_in_two_files_is_answered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = made.patient(3, 1, 0.0)
    poison.unit = helpers.POISON.decode()
    for name, number in (("a.nt", 2), ("b.nt", 3)):
        (tmp_path / name).write_text(made.n_triples(poison) + made.n_triples(made.patient(3, number, 0.0)))
    kept = helpers.attempt
    monkeypatch.setattr(
        helpers, "attempt", lambda units, *more: helpers.Lost("it failed") if helpers.poisoned(units) else kept(units, *more)
    )
    out, total = assessed(tmp_path, tmp_path / "a.nt", tmp_path / "b.nt", size=100)
    assert [name.rpartition("/")[2] for name in answers(out)] == ["p1", "p2", "p3"]
    assert [entry["patient"] for entry in refused(out)] == [poison.iri] * 2
    assert (total.patients, total.not_accepted) == (3, 1)


def test_what_belongs_to_nobody_in_a_bundle_is_told_once(tmp_path: Path) -> None:
    bundle = json.loads(made.bundle(made.patient(3, 0, 0.0)))
    other = json.loads(json.dumps(next(e for e in bundle["entry"] if e["resource"]["resourceType"] == "Observation")))
    other["resource"]["id"] = "lost"
    del other["resource"]["subject"]
    other.pop("fullUrl", None)
    bundle["entry"].append(other)
    (tmp_path / "in.ndjson").write_text(json.dumps(bundle))
    out, _ = assessed(tmp_path, tmp_path / "in.ndjson")
    (entry,) = refused(out)
    assert "lost" in entry["reason"]
    assert "node" not in entry


def test_a_patient_whose_name_is_escaped_gets_their_own_line(tmp_path: Path) -> None:
    text = f"<urn:x:1> {A} {PATIENT} .\n<urn:x:1> {HAS} _:a .\n<urn:x:\\u0042> {A} {PATIENT} .\n_:a {A} {KIND} .\n"
    lost = f"<urn:x:lost> {A} {KIND} .\n"
    wrong = "".join(f"<urn:x:\\{escape}> {A} {PATIENT} .\n" for escape in ("uD800", "UFFFFFFFF"))
    (tmp_path / "in.nt").write_text(text + lost + wrong)
    out, _ = assessed(tmp_path, tmp_path / "in.nt", form="parquet")
    import pyarrow.parquet as pq

    told = {row["patient"]: row["line"] for row in pq.read_table(out).to_pylist() if row["kind"] == "patient"}
    assert told == {"urn:x:1": 1, "urn:x:B": 3}
    assert {entry["patient"]: entry["line"] for entry in refused(out)} == {
        None: None,
        "urn:x:B": 3,
        "urn:x:\\uD800": 6,
        "urn:x:\\UFFFFFFFF": 7,
    }
    assert [(entry["node"], entry["line"]) for entry in refused(out) if "node" in entry] == [("urn:x:lost", None)]


@pytest.mark.parametrize("partition", [False, True])
def test_what_a_run_writes_is_not_read_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition: bool) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    (folder / "in.nt").write_text(WHOLE)
    settings = Settings(["in"], folder / "out.ndjson", as_of=AS_OF, size=6, partition=partition)  # one way of writing it
    with pytest.raises(KeyboardInterrupt):
        run_here(settings, Stop())
    assert partition == bool(list(folder.rglob("sorted.nt")))
    run_here(settings)
    about, total = run_here(again(settings, inputs=[folder], out=Path("in/out.ndjson"), restart=True))  # and another
    assert [Path(given["path"]).name for given in about["inputs"]] == ["in.nt"]
    assert total.patients == len(PEOPLE)


def test_problems_are_counted_in_plain_words() -> None:
    out = Path("out.ndjson")
    one, two = (Total(9, n, n, n, Counter()).problems(out) for n in (1, 2))
    assert [words.split()[:2] for words in one] == [["1", "line"], ["1", "patient"], ["1", "file"]]
    assert [words.split()[:2] for words in two] == [["2", "lines"], ["2", "patients"], ["2", "files"]]


# --- Workers that die --------------------------------------------------------------------------------


def poisoned(folder: Path, *numbers: int) -> Path:
    people = list(made.cohort(12, seed=3, broken=0))
    for number in numbers:
        people[number].unit = helpers.POISON.decode()
    file = folder / "in.nt"
    file.write_text("".join(made.n_triples(p) for p in people))
    return file


@pytest.mark.parametrize(("kind", "reason"), [("serve_poison", "SIGKILL"), ("serve_failing", "ZeroDivisionError")])
def test_the_patient_of_whom_processes_die_is_found_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    monkeypatch.setattr(Processes, "target", staticmethod(getattr(helpers, kind)))
    file = poisoned(tmp_path, 4, 9)
    notes: list[str] = []

    class Noting(Watch):
        def note(self, message: str) -> None:
            notes.append(message)

    out = tmp_path / "out.ndjson"
    _, total = run(Settings([file], out, as_of=AS_OF, size=6, jobs=2), Noting())
    found = answers(out)
    assert [p for p, a in found.items() if a.get("refused")] == [f"{made.BASE}Patient/p{n}" for n in (4, 9)]
    assert list(found) == [f"{made.BASE}Patient/p{n}" for n in range(12)]
    assert all(reason in entry["reason"] for entry in refused(out))
    assert len(refused(out)) == total.refused == 2
    assert notes
    assert not any("Patient" in note for note in notes)
    monkeypatch.undo()
    whole = tmp_path / "whole.ndjson"
    run_here(Settings([file], whole, as_of=AS_OF, size=6))
    healthy = {p: a for p, a in answers(whole).items() if not found[p].get("refused")}
    assert {p: a for p, a in found.items() if not a.get("refused")} == healthy


@pytest.mark.parametrize("form", ["ndjson", "parquet", "ttl"])
def test_no_batch_is_lost_where_nothing_is_wrong(tmp_path: Path, form: str) -> None:
    """With processes of their own, which load what they need when they first need it."""
    file, notes = tmp_path / "in.nt", []
    made.write(file, 12, seed=3, broken=0.2)

    class Noting(Watch):
        def note(self, message: str) -> None:
            notes.append(message)

    _, total = run(Settings([file], tmp_path / f"out.{form}", as_of=AS_OF, size=3, jobs=2), Noting())
    assert (notes, total.patients) == ([], 12)


def test_a_worker_does_without_pandas(tmp_path: Path) -> None:
    """It may be there or not: what is in this file stands for it."""
    (tmp_path / "pandas.py").write_text("raise SystemExit('pandas was loaded')")
    file, out = tmp_path / "in.nt", tmp_path / "out.parquet"
    made.write(file, 3, seed=3, broken=0)
    variables = environment() | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment().get('PYTHONPATH', '')}"}
    done = subprocess.run(command(file, out, "--jobs", "1"), capture_output=True, text=True, env=variables, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_processes_that_cannot_start_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "target", staticmethod(helpers.serve_never))
    with pytest.raises(CohortError, match="can start"):
        run(Settings([poisoned(tmp_path)], tmp_path / "out.ndjson", as_of=AS_OF, jobs=2))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found by /proc")
def test_killed_workers_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "in.nt"
    made.write(file, 150, seed=4)
    whole, _ = assessed(tmp_path, file, size=10)
    out = tmp_path / "killed.ndjson"
    process = subprocess.Popen(command(file, out, "--batch", "10", "--jobs", "2"), stderr=subprocess.DEVNULL)
    killed = 0
    chance = random.Random(2)  # noqa: S311
    while process.poll() is None:
        time.sleep(chance.uniform(0.3, 0.6))
        workers = [pid for pid in children(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if workers and killed < 4 and out.with_suffix(".parts").is_dir():
            os.kill(chance.choice(workers), signal.SIGKILL)
            killed += 1
    assert killed > 0
    assert out.read_bytes() == whole.read_bytes()


def parts(out: Path) -> int:
    """How many batches are on the disk."""
    return len([file for file in out.with_suffix(".parts").glob("*") if file.name.isdigit()])


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# --- Stopping and starting again ---------------------------------------------------------------------


def command(file: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "kbtool", "cohort", str(file), "-o", str(out), "--as-of", AS_OF, *more]


def killed_at_every_step(folder: Path, form: str, patients: int, batch: int) -> None:
    file, here = folder / "in.nt", folder / "runs"
    made.write(file, patients, seed=5, broken=0.3)
    here.mkdir()
    words = [sys.executable, str(TESTS / "cohort_helpers.py"), str(file), str(here), form, str(batch)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    steps, different = map(int, done.stdout.split())
    assert steps > 15
    assert different == 0


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_before_each_step_on_the_disk_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    killed_at_every_step(tmp_path, "ndjson", 18, 6)


@pytest.mark.deep
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("form", ["ndjson", "parquet", "ttl"])
def test_killed_before_each_step_of_a_longer_run(tmp_path: Path, form: str) -> None:
    killed_at_every_step(tmp_path, form, 60, 10)


@pytest.mark.parametrize("form", ["nt", pytest.param("ttl", marks=pytest.mark.deep), "jsonld.ndjson.gz"])
def test_killed_at_random_the_same_command_goes_on(tmp_path: Path, form: str) -> None:
    file = tmp_path / f"in.{form}"
    made.write(file, 60, seed=6, broken=0.3)
    whole, _ = assessed(tmp_path, file, size=10)
    out = tmp_path / "killed.ndjson"
    chance = random.Random(form)  # noqa: S311
    kills = 0
    while True:
        before = parts(out)
        process = subprocess.Popen(command(file, out, "--batch", "10", "--jobs", "2", "-q"), stderr=subprocess.DEVNULL)
        while process.poll() is None and parts(out) == before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        if process.poll() is None and kills < 4:
            process.kill()
            kills += 1
        if process.wait() != -signal.SIGKILL:
            break
    assert kills > 1
    assert process.returncode == 1
    assert out.read_bytes() == whole.read_bytes()
    assert out.with_suffix(".refused.ndjson").read_bytes() == whole.with_suffix(".refused.ndjson").read_bytes()
    assert not out.with_suffix(".parts").exists()


def test_what_a_killed_worker_left_is_taken_away(tmp_path: Path) -> None:
    settings = stopped(tmp_path)
    left = settings.out.with_suffix(".parts") / "12345-0.new"
    left.write_bytes(b"half of a")
    with pytest.raises(KeyboardInterrupt):
        run_here(settings, Stop())
    assert not left.exists()


def test_answers_are_copied_where_the_system_does_not_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.nt").write_text(WHOLE)
    outs = []
    for form in ("ndjson", "ttl"):
        outs.append(assessed(tmp_path, tmp_path / "in.nt", form=form, size=6)[0].read_bytes())

    def refusing(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refusing, raising=False)
    for form, wanted in zip(("ndjson", "ttl"), outs, strict=True):
        assert assessed(tmp_path, tmp_path / "in.nt", form=form, size=6)[0].read_bytes() == wanted != b""


def test_answers_are_the_same_without_orjson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("orjson")
    (tmp_path / "in.nt").write_text(WHOLE.replace("furlong", "f\\u00fcr\\u0007\\\\long\\u2028\\u007f"))
    with_it, _ = assessed(tmp_path, tmp_path / "in.nt")
    data = with_it.read_bytes()
    monkeypatch.setitem(sys.modules, "orjson", None)
    without, _ = assessed(tmp_path, tmp_path / "in.nt")
    assert without.read_bytes() == data
    assert b"f\xc3\xbcr\\u0007" in data


class Stop(Watch):
    """Stops a run after a batch."""

    def batch(self, patients: int, refused: int, read: int) -> None:
        raise KeyboardInterrupt


def stopped(folder: Path, **more: Any) -> Settings:
    """A run that was stopped after its first batch."""
    (folder / "in.nt").write_text(WHOLE)
    settings = Settings([folder / "in.nt"], folder / "out.ndjson", **({"as_of": AS_OF, "size": 6} | more))
    with pytest.raises(KeyboardInterrupt):
        run_here(settings, Stop())
    assert not settings.out.exists()
    return settings


def again(settings: Settings, **more: Any) -> Settings:
    return Settings(**(settings.__dict__ | more))


def test_a_run_that_goes_on_does_not_do_again_what_is_done(tmp_path: Path) -> None:
    settings = stopped(tmp_path)
    seen: list[tuple[int, int]] = []

    class Seeing(Watch):
        def begin(self, total: int, read: int, patients: int) -> None:
            seen.append((patients, 0))

        def batch(self, patients: int, refused: int, read: int) -> None:
            seen.append((0, patients))

    _, total = run_here(settings, Seeing())
    assert seen[0][0] == 6
    assert sum(patients for _, patients in seen) == total.patients - 6 == len(PEOPLE) - 6
    whole = tmp_path / "whole.ndjson"
    run_here(again(settings, out=whole))
    assert settings.out.read_bytes() == whole.read_bytes()


CHANGES: dict[str, Callable[[Settings, Path], Settings]] = {
    "the as-of time": lambda s, _: again(s, as_of="2026-02-10T13:00:00Z"),
    "--batch": lambda s, _: again(s, size=7),
    "--strict": lambda s, _: again(s, strict=True),
    "--partition": lambda s, _: again(s, partition=True),
    "the inputs": lambda s, _: (Path(s.inputs[0]).write_text(WHOLE + "\n"), s)[1],
    "the knowledge base": lambda s, folder: again(s, ontology=changed_knowledge(folder)),
    "the output": lambda s, _: again(s, out=s.out.with_suffix(".ttl")),
}


def changed_knowledge(folder: Path) -> Path:
    import shutil

    shutil.copytree(TESTS.parent / "ontology", folder / "ontology")
    file = folder / "ontology" / "local-policy.ttl"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    return folder / "ontology" / "kb.ttl"


@pytest.mark.parametrize("what", CHANGES)
def test_a_run_does_not_go_on_as_another_one(tmp_path: Path, what: str) -> None:
    settings = CHANGES[what](stopped(tmp_path), tmp_path)
    with pytest.raises(CohortError, match=rf"(?s){re.escape(what)}.*--restart"):
        run_here(settings)
    _, total = run_here(again(settings, restart=True))
    assert total.patients == len(PEOPLE)


def test_the_time_of_the_first_start_is_kept(tmp_path: Path) -> None:
    settings = stopped(tmp_path, as_of=None)
    first = json.loads(settings.out.with_suffix(".state").read_text().partition("\n")[0])["asOf"]
    time.sleep(1.1)
    about, _ = run_here(settings)
    assert about["asOf"] == first


def test_a_finished_run_is_begun_anew(tmp_path: Path) -> None:
    settings = stopped(tmp_path)
    run_here(settings)
    about, _ = run_here(again(settings, as_of="2026-02-11T12:00:00Z"))
    assert about["asOf"] == "2026-02-11T12:00:00Z"


def test_two_runs_do_not_write_one_output(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    (tmp_path / "in.nt").write_text(WHOLE)
    settings = Settings([tmp_path / "in.nt"], tmp_path / "out.ndjson", as_of=AS_OF)
    told: list[str] = []

    class Second(Watch):
        def batch(self, patients: int, refused: int, read: int) -> None:
            with pytest.raises(CohortError, match="another run") as error:
                run_here(settings)
            told.append(str(error.value))

    run_here(settings, Second())
    assert len(told) == 1


def test_an_input_that_changes_in_the_middle_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "in.nt").write_text(WHOLE)
    settings = Settings([tmp_path / "in.nt"], tmp_path / "out.ndjson", as_of=AS_OF, size=6)

    class Changing(Watch):
        def batch(self, patients: int, refused: int, read: int) -> None:
            (tmp_path / "in.nt").write_text(WHOLE + "\n")

    with pytest.raises(CohortError, match="changed while it was read"):
        run_here(settings, Changing())
    assert not settings.out.exists()


def test_a_torn_line_of_the_state_counts_as_not_written(tmp_path: Path) -> None:
    settings = stopped(tmp_path)
    state = settings.out.with_suffix(".state")
    data = state.read_bytes()
    assert data.count(b"\n") == 2
    for cut in (1, 20):
        state.write_bytes(data[:-cut])
        with pytest.raises(KeyboardInterrupt):
            run_here(settings, Stop())
        assert state.read_bytes().count(b"\n") == 2
    run_here(settings)
    assert len(answers(settings.out)) == len(PEOPLE)


# --- Tables and summaries ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("outputs")
    (folder / "in.nt").write_text(WHOLE)
    found = {}
    for form in ("parquet", "ndjson", "ttl"):
        found[form] = folder / f"{form}.{form}"
        run_here(Settings([folder / "in.nt"], found[form], as_of=AS_OF, size=6))
    return found


def test_parquet_says_what_the_answers_say(outputs: dict[str, Path]) -> None:
    import pyarrow.parquet as pq

    from kbtool.cohort.table import COLUMNS

    table = pq.read_table(outputs["parquet"])
    assert table.column_names == list(COLUMNS)
    assert all(table.schema.field(name).metadata[b"description"] for name in COLUMNS)
    assert json.loads(table.schema.metadata[b"kbtool"])["asOf"] == AS_OF
    rows = table.to_pylist()
    wanted = answers(outputs["ndjson"])
    whole = {row["patient"]: json.loads(row["answer"]) for row in rows if row["kind"] == "patient"}
    assert whole == wanted
    assert {row["patient"]: row["unit"] for row in rows if row["kind"] == "patient"} == {p.iri: p.unit for p in PEOPLE}
    statuses = Counter((row["patient"], row["name"], row["status"]) for row in rows if row["kind"] == "recommendation")
    assert statuses == Counter((p, e["name"], e["status"]) for p, a in wanted.items() for e in a["recommendations"])
    for kind, key in (("missing", "missing"), ("set aside", "setAside"), ("refused", "refused"), ("caution", "cautions")):
        counted = Counter(row["patient"] for row in rows if row["kind"] == kind)
        assert counted == Counter(p for p, a in wanted.items() for _ in a.get(key, [])), kind
        assert counted
    for row in rows:
        assert row["in_scope"] is not None
        assert row["conflict"] is not None or row["kind"] not in ("recommendation", "prohibition", "assessment", "caution")


def test_a_summary_is_the_same_whatever_it_is_made_of(outputs: dict[str, Path]) -> None:
    from kbtool.cohort.summary import of_file

    counts = [of_file(outputs[form])[1] for form in ("parquet", "ndjson", "ttl")]
    assert counts[0] == counts[1] == counts[2]
    wanted = answers(outputs["ndjson"])
    names = Counter(
        (e["name"], a.get("treatedAt", "")) for a in wanted.values() for e in a["recommendations"] if e["status"] == "blocked"
    )
    blocked = Counter({(key[1], key[3]): n for key, n in counts[0].items() if key[0] == "blocked"})
    assert blocked == names != Counter()
    refused_ = sum(n for key, n in counts[0].items() if key[:2] == ("patients", "refused"))
    assert refused_ == sum("refused" in a for a in wanted.values())


def test_a_summary_is_printed_and_drawn(outputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("COLUMNS", "110")
    result = CliRunner().invoke(app, ["cohort", "--summary", str(outputs["parquet"])])
    assert result.exit_code == 0, result.output
    for words in ("Recommended", "Blocked", "Missing", "Harbour Ward", "unit not", "patients refused", AS_OF):
        assert words in result.stdout
    picture = outputs["parquet"].with_suffix(".svg").read_text(encoding="utf-8")
    assert "Harbour Ward" in picture
    assert "Blocked" in picture


def test_units_beyond_those_with_a_column_are_not_dropped_from_the_sum(tmp_path: Path) -> None:
    from kbtool.cohort.summary import show

    counts = Counter({("patients", "answered", "", f"unit {n:02}"): 1 for n in range(30)})
    counts["blocked", "Rule", "The rule", "unit 29"] = 3
    text = show({"asOf": AS_OF}, counts, tmp_path / "x.ndjson")
    assert re.search(r"patients answered +30 ", text)
    assert "of 30 units" in text
    assert re.search(r"The rule +3 ", text)


# --- The command -------------------------------------------------------------------------------------


def call(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["cohort", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_inputs_without_a_patient_are_no_success(tmp_path: Path) -> None:
    empty = tmp_path / "empty.nt"
    empty.write_text("")
    code, said, told = call(str(empty), "-o", str(tmp_path / "out.ndjson"))
    assert (code, told) == (2, "kbtool: no patient in the inputs\n"), said


def test_exit_codes_and_nothing_about_patients_on_standard_error(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.nt", tmp_path / "bad.ttl"
    good.write_text("".join(made.n_triples(p) for p in made.cohort(3, broken=0)))
    bad.write_text(made.PREFIXES + "".join(made.turtle(p) for p in made.cohort(30, broken=1)))
    code, out, err = call(str(good), "-o", str(tmp_path / "a.ndjson"), "--as-of", AS_OF, "--jobs", "1")
    assert (code, err) == (0, "")
    assert "3 patients" in out
    code, _, err = call(str(bad), "-o", str(tmp_path / "b.ndjson"), "--as-of", AS_OF, "--jobs", "1")
    assert code == 1
    assert "refused" in err
    assert "Patient/" not in err
    bad.write_text(bad.read_text() + "<")
    code, _, err = call(str(bad), "-o", str(tmp_path / "c.ndjson"), "--as-of", AS_OF, "--jobs", "1", "--quiet")
    assert code == 2
    assert "1 file could not be read to the end" in err
    assert (tmp_path / "c.ndjson").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["in.nt"], "say where to write"),
        (["in.nt", "-o", "out.csv"], "ends in one of"),
        (["in.nt", "-o", "no/folder/out.ndjson"], "no such folder"),
        (["missing.nt", "-o", "out.ndjson"], "cannot be read"),
        (["in.csv", "-o", "out.ndjson"], "unknown ending"),
        (["in.nt", "in.nt", "-o", "out.ndjson"], "twice"),
        (["-", "-o", "out.ndjson"], "standard input"),
        (["empty", "-o", "out.ndjson"], "no facts"),
        (["in.nt", "-o", "out.ndjson", "--jobs", "0"], "1 or more"),
        (["in.nt", "-o", "out.ndjson", "--as-of", "today"], "not a date"),
        (["in.ndjson", "-o", "out.ndjson", "--partition"], "triples"),
        (["in.ndjson", "--summary"], "not the answer"),
        (["in.ttl", "--summary"], "a summary is made of"),
        (["missing.parquet", "--summary"], "not there"),
    ],
)
def test_what_cannot_run_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.nt", "in.csv", "in.ttl"):
        Path(name).write_text(made.n_triples(PEOPLE[0]))
    Path("in.ndjson").write_text(json.dumps(made.json_ld(PEOPLE[0])))
    Path("empty").mkdir()
    code, _, err = call(*words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_progress_tells_rate_and_time_left() -> None:
    now = [0.0]
    lines: list[str] = []
    watch = Lines(lines.append, lambda: now[0])
    watch.begin(total=1000, read=200, patients=50)
    now[0] = 10
    watch.batch(100, 1, 300)
    now[0] = 40
    watch.batch(300, 0, 600)
    assert lines == ["going on: 50 patients were done before", "400 patients, 1 refused, 10 a second, 60 %, 0:40 left"]


def test_a_packed_file_is_streamed(tmp_path: Path, vocabulary: Vocabulary) -> None:
    file = tmp_path / "in.nt.gz"
    with gzip.open(file, "wt") as stream:
        for person in made.cohort(300):
            stream.write(made.n_triples(person))
    seen = [batch.read for batch in batches(find([file]), vocabulary, 10)]
    assert seen == sorted(seen)
    assert seen[0] < seen[-1] == file.stat().st_size


# --- Cluster -----------------------------------------------------------------------------------------


def test_a_cluster_that_loses_a_worker_says_the_same(tmp_path: Path) -> None:
    dask = pytest.importorskip("distributed")
    file = tmp_path / "in.nt"
    made.write(file, 80, seed=7, broken=0.2)
    whole, _ = assessed(tmp_path, file, size=8)
    with dask.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        killed: list[int] = []

        class Killing(Watch):
            def batch(self, patients: int, refused: int, read: int) -> None:
                if not killed:
                    killed.append(next(iter(cluster.workers.values())).pid)
                    os.kill(killed[0], signal.SIGKILL)

        out = tmp_path / "cluster.ndjson"
        run(Settings([file], out, as_of=AS_OF, size=8, scheduler=cluster.scheduler_address), Killing())
    assert killed
    assert out.read_bytes() == whole.read_bytes()


def test_a_scheduler_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("kbtool.cohort.cluster.CONNECT", 1)
    (tmp_path / "in.nt").write_text(WHOLE)
    with pytest.raises(CohortError, match="no Dask scheduler answers"):
        run(Settings([tmp_path / "in.nt"], tmp_path / "out.ndjson", scheduler="tcp://127.0.0.1:1"))
