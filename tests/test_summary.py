"""Summaries of cohorts show names as they are, whatever is in them, and fit the terminal."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kbtool.cohort.summary import show

ODD = [
    "Station 3[a]",
    "Station 3[b]",
    "[red]ICU",
    "[blue]ICU",
    ":smile:",
    "a\x1b[31mb",
    "a\x07b",
    "x[/b] y",
    "Ward [/]",
    r"$\frac$",
    "price $5",
    "_hidden",
    "Ward",
    "Ward ",
    "all",
    "unit not recorded",
    "",
    "'all'",
    "\u202eabc",
    "\U0001f600 透析",
    "Dialysis Centre North, Station 1",
    "Dialysis Centre North, Station 2",
]


def counts(*units: str, label: str = "The rule") -> Counter[tuple[str, str, str, str]]:
    found = Counter({("patients", "answered", "", unit): 12_345 for unit in units})
    found.update({("blocked", "Rule", label, unit): 4 for unit in units})
    return found


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")


def heading(text: str) -> str:
    """The names above the columns, together."""
    lines = text.split("\n")
    return "\n".join(lines[1 : next(n for n, line in enumerate(lines) if line.startswith("patients answered"))])


def legend(file: Path) -> list[str]:
    """The names in the legend of a picture."""
    pytest.importorskip("matplotlib")
    tree = ElementTree.parse(file)
    svg = "{http://www.w3.org/2000/svg}"
    (box,) = (group for group in tree.iter(f"{svg}g") if group.get("id", "").startswith("legend"))
    return ["".join(text.itertext()) for text in box.iter(f"{svg}text")]


@pytest.mark.parametrize("unit", ODD)
def test_a_unit_is_shown_by_its_name(tmp_path: Path, unit: str) -> None:
    text = show({}, counts(unit, "Zebra"), tmp_path / "x.ndjson")
    names = re.sub(r"\s", "", heading(text)).replace("all", "", 1)
    if unit.isprintable() and unit == unit.strip() and unit not in ("", "all", "unit not recorded", "'all'"):
        assert unit.replace(" ", "")[:9] in names
        assert sorted(legend(tmp_path / "x.svg")) == sorted([unit, "Zebra"])
    assert len(legend(tmp_path / "x.svg")) == 2
    assert all(character.isprintable() or character == "\n" for character in text)


def test_no_two_units_look_the_same(tmp_path: Path) -> None:
    seen = {heading(show({}, counts(unit), tmp_path / "x.ndjson")) for unit in ODD if unit}
    seen.add(heading(show({}, counts("", "Zebra"), tmp_path / "x.ndjson")))
    assert len(seen) == len(ODD)
    pytest.importorskip("matplotlib")
    names = {name for unit in ODD for name in legend_of(unit, tmp_path / "y.ndjson")}
    assert len(names) == len(ODD) + 1


def legend_of(unit: str, out: Path) -> list[str]:
    show({}, counts(unit, "Zebra"), out)
    return legend(out.with_suffix(".svg"))


def test_labels_and_paths_are_shown_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]:smile:"
    folder.mkdir()
    text = show({"asOf": "[red]$x$"}, counts("A", "B", label="at least [/b] $a_{$ mmol"), folder / "x.ndjson")
    assert text.startswith(f"{folder}/x.ndjson, as of [red]$x$\n")
    assert "at least [/b] $a_{$ mmol" in text
    assert f"Picture: {folder}/x.svg" in text
    picture = (folder / "x.svg").read_text(encoding="utf-8")
    assert "as of [red]$x$" in picture
    assert "at least [/b] $a_{$ mmol" in picture


def test_a_sign_without_a_glyph_is_no_warning(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        show({}, counts("\U0001f600 透析", "B"), tmp_path / "x.ndjson")


@pytest.mark.parametrize(("columns", "width"), [("20", 60), ("60", 60), ("80", 80), ("110", 110), ("200", 110), (None, 110)])
def test_a_summary_fits_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str | None, width: int) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS")
        monkeypatch.setattr("os.get_terminal_size", lambda *_: (_ for _ in ()).throw(OSError))
    else:
        monkeypatch.setenv("COLUMNS", columns)
    text = show({}, counts(*(f"Dialysis Centre {n}" for n in range(7))), Path(tmp_path.anchor) / tmp_path / "x.ndjson")
    lines = [line for line in text.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= width
    (row,) = (line for line in lines if "█" in line)
    assert row.split()[:3] == ["The", "rule", "28"]
    assert {60: 12, 80: 18, 110: 36}[width] == row.count("█")
    numbers = next(line for line in lines if line.startswith("patients answered")).split()[2:]
    assert numbers[0] == "86415"
    assert set(numbers[1:]) == {"12345"}
    assert {60: 1, 80: 3, 110: 5}[width] <= len(numbers[1:])
    assert f"the first {len(numbers) - 1} of 7 units" in text
