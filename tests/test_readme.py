"""What the README shows is true: its facts are accepted, its Python runs, its files and commands exist."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

import kbtool
from kbtool.cli import app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_facts_are_accepted_and_stop_the_order() -> None:
    (facts,) = blocks("turtle")
    result = kbtool.load().assess(facts.encode(), as_of="2026-02-10T12:00:00Z")
    assert result.conforms
    assert result["A"].data["prohibitions"][0]["hardStop"]


def test_the_python_runs(monkeypatch: object) -> None:
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code.replace("tests/patients", str(ROOT / "tests" / "patients")), names)  # noqa: S102
    assert "AdjustDialysateMagnesium" in names["result"]["P01"].recommended  # type: ignore[index]


def test_the_commands_exist() -> None:
    for command in set(re.findall(r"^kbtool (\w+)", "\n".join(blocks("sh")), re.MULTILINE)):
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
    for name in ("recommended", "codes"):
        assert (ROOT / "queries" / "ask" / f"{name}.rq").is_file()
    values = CliRunner().invoke(app, ["query", "codes", "--set", "concept=dk:SerumMagnesium"])
    assert values.exit_code == 0
    assert "2601-3" in values.stdout


def test_the_files_it_names_are_there() -> None:
    for name in set(re.findall(r"`((?:ontology|shapes|queries|kbtool|tests)/[\w./-]+)`", TEXT)):
        assert (ROOT / name).exists(), name
