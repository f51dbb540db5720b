"""What an output says in numbers: what was recommended, blocked, missing and in conflict, by unit; printed, and as a picture."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbtool.cohort.publish import Total
from kbtool.cohort.table import ANSWERED, OUT_OF_SCOPE, PATIENTS, REFUSED, SECTIONS, SET_ASIDE, Key, count
from kbtool.cohort.units import CohortError, Json

if TYPE_CHECKING:
    from rich.table import Table

UNKNOWN = "unit not recorded"
"""What stands for patients of whom the facts do not say where they are treated."""

SHOWN = 15
"""Rules of a section that are printed and drawn; the others are counted."""

MANY = 8
"""Units that get a colour of their own."""

COLUMNS = 5
"""Units that get a column in print."""

_WIDTHS = range(60, 111)
_UNIT_WIDTH = 14
_NAMES = 22
_RESERVED = (UNKNOWN, "all", "other units")


def of_file(out: Path) -> tuple[Json, Counter[Key]]:
    """What an output is (knowledge base, as-of time) and its counts, read out of it.

    Raises CohortError for a file that is no output of cohort.
    """
    if not out.is_file():
        raise CohortError(f"{out}: is not there")
    if out.suffix == ".parquet":
        return _of_parquet(out)
    state = _state(out)
    if out.suffix == ".ndjson":
        return state, _of_ndjson(out)
    if state:
        return state, Total.from_json(state).counts
    raise CohortError(f"{out}: a summary is made of .parquet and .ndjson, and of .ttl with the .state beside it")


def show(about: Json, counts: Counter[Key], out: Path) -> str:
    """The summary as text; a picture of the same is put beside the output, where matplotlib is installed."""
    from rich.console import Console
    from rich.table import Table

    width = min(max(shutil.get_terminal_size((_WIDTHS[-1], 0)).columns, _WIDTHS[0]), _WIDTHS[-1])
    console = Console(
        file=io.StringIO(), width=width, color_system=None, legacy_windows=False, markup=False, emoji=False, highlight=False
    )
    told = f", as of {_plain(str(about['asOf']))}" if "asOf" in about else ""
    console.print(f"{_plain(str(out))}{told}", soft_wrap=True)
    units = sorted({unit for *_, unit in counts if unit}) + ([""] if any(not unit for *_, unit in counts) else [])
    console.print(_by_unit(counts, units, width))
    longest = max(12, 36 - (_WIDTHS[-1] - width) * 3 // 5)
    for section, title in SECTIONS.items():
        entries = _entries(counts, section)
        if not entries:
            continue
        most = entries[0][1]
        bars = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        bars.add_column(width=width - longest - 22, overflow="fold")
        bars.add_column(justify="right", width=8)
        bars.add_column(width=longest)
        for label, number, _ in entries[:SHOWN]:
            bars.add_row(_plain(label), str(number), "█" * max(1, round(longest * number / most)))
        console.print(f"\n{title}")
        console.print(bars)
        if len(entries) > SHOWN:
            console.print(f"and {len(entries) - SHOWN} more")
    drawn = draw(about, counts, out)
    picture = f"Picture: {_plain(str(drawn))}" if drawn else "For a picture: pip install 'kbtool[cohort]'"
    console.print(f"\n{picture}", soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _plain(text: str) -> str:
    """Text of strangers, to be shown on one line: in quotes and with escapes where it has characters that are not seen, or spaces
    that would get lost, so that different texts never look the same."""
    same = text.isprintable() and text == " ".join(text.split()) and text[:1] not in ("'", '"')
    return text if same else repr(text)


def _unit(unit: str) -> str:
    """What a unit is called: a name that means something else here is put in quotes."""
    return repr(unit) if unit in _RESERVED else _plain(unit) if unit else UNKNOWN


def _by_unit(counts: Counter[Key], units: list[str], width: int) -> Table:
    """What became of patients and how often rules spoke, in all and by unit, as many as there is room for."""
    from rich.cells import cell_len
    from rich.table import Table

    kinds = [(PATIENTS, fate, f"patients {fate}") for fate in (ANSWERED, OUT_OF_SCOPE, REFUSED, SET_ASIDE)]
    kinds[-1] = (PATIENTS, SET_ASIDE, "patients with something set aside")
    kinds += [(section, "", title.lower()) for section, title in SECTIONS.items()]

    def numbers(unit: str | None) -> list[str]:
        return [
            str(sum(n for (s, m, _, u), n in counts.items() if s == section and name in ("", m) and unit in (None, u)))
            for section, name, _ in kinds
        ]

    shown = units[:COLUMNS] if units != [""] else []
    columns = [(heading, numbers(unit)) for heading, unit in [("all", None), *((_unit(unit), unit) for unit in shown)]]
    sizes = [max(min(cell_len(heading), _UNIT_WIDTH), *map(len, column)) for heading, column in columns]
    while len(columns) > 2 and sum(sizes) + 2 * len(sizes) > width - _NAMES:
        del columns[-1], sizes[-1]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for (heading, _), size in zip(columns, sizes, strict=True):
        table.add_column(heading, justify="right", width=size, overflow="fold")
    if len(units) >= len(columns) > 1:
        table.title = f"the first {len(columns) - 1} of {len(units)} units; all are in the output"
    for (*_, title), *row in zip(kinds, *(column for _, column in columns), strict=True):
        table.add_row(title, *row)
    return table


def draw(about: Json, counts: Counter[Key], out: Path) -> Path | None:
    """Draw the summary into OUT.svg: for each section a bar a rule, divided by unit. None where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    from matplotlib.figure import Figure

    sections = [(title, _entries(counts, section)[:SHOWN]) for section, title in SECTIONS.items()]
    sections = [(title, entries) for title, entries in sections if entries]
    by_size = Counter[str]()
    for (section, name, _, unit), number in counts.items():
        if section == PATIENTS and name != SET_ASIDE:
            by_size[unit] += number
    units = [unit for unit, _ in by_size.most_common(MANY)]
    rows = [len(entries) + 2 for _, entries in sections] or [1]
    with (
        mpl.rc_context({"svg.hashsalt": "kbtool", "svg.fonttype": "none", "font.size": 9, "text.parse_math": False}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        figure = Figure(figsize=(10, 0.24 * sum(rows) + 1), layout="constrained")
        told = f", as of {_plain(str(about['asOf']))}" if "asOf" in about else ""
        figure.suptitle(f"{sum(by_size.values())} patients{told}", x=0.01, ha="left")
        if sections:
            grid = figure.add_gridspec(len(rows), 1, height_ratios=rows)
            for place, (title, entries) in enumerate(sections):
                axes = figure.add_subplot(grid[place])
                _bars(axes, title, entries, units, legend=place == 0)
        file = out.with_suffix(".svg")
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file


def _bars(axes: Any, title: str, entries: list[tuple[str, int, Counter[str]]], units: list[str], *, legend: bool) -> None:
    labels = [_plain(label) for label, _, _ in entries]
    left = [0] * len(entries)
    names = []
    for number, unit in enumerate([*units, None]):
        widths = [sum(n for u, n in by.items() if (u == unit if unit is not None else u not in units)) for _, _, by in entries]
        if any(widths):
            names.append("other units" if unit is None else _unit(unit))
            axes.barh(labels, widths, left=left, height=0.7, color=f"C{number}")
            left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.bar_label(axes.containers[-1], labels=[str(n) for n in left], padding=3)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if legend and len(axes.containers) > 1:
        box = axes.legend(axes.containers, [""] * len(names), frameon=False, fontsize=8, loc="lower right")
        for entry, name in zip(box.get_texts(), names, strict=True):
            entry.set_text(name)  # as a label, a name that begins with _ would be hidden


def _entries(counts: Counter[Key], section: str) -> list[tuple[str, int, Counter[str]]]:
    """Label, number of patients and the same by unit, of each rule of a section, the most frequent first."""
    found: dict[str, Counter[str]] = {}
    for (where, name, label, unit), number in counts.items():
        if where == section and number:
            found.setdefault(label or name, Counter())[unit] += number
    return sorted(((label, by.total(), by) for label, by in found.items()), key=lambda entry: (-entry[1], entry[0]))


def _state(out: Path) -> Json:
    try:
        line = out.with_suffix(".state").read_text(encoding="utf-8").partition("\n")[0]
        state: Json = json.loads(line)
    except (OSError, ValueError):
        return {}
    return state if state.get("finished") and state.get("out") == out.name else {}


def _of_ndjson(out: Path) -> Counter[Key]:
    counts: Counter[Key] = Counter()
    with out.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                answer = json.loads(line)
                count(counts, answer, answer.get("treatedAt"), {})
            except (ValueError, KeyError, TypeError, AttributeError):
                raise CohortError(f"{out}: line {number} is not the answer for a patient") from None
    return _with_labels(counts)


def _with_labels(counts: Counter[Key]) -> Counter[Key]:
    """Quantities that are missing stand in an answer by name; their labels are those of the knowledge base at hand."""
    from kbtool.knowledge import Knowledge

    labels = Knowledge.load().labels_by_name
    found: Counter[Key] = Counter()
    for (section, name, label, unit), number in counts.items():
        found[section, name, labels.get(name, label) if section == "missing" else label, unit] += number
    return found


def _of_parquet(out: Path) -> tuple[Json, Counter[Key]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise CohortError("to read Parquet: pip install 'kbtool[cohort]'") from None
    columns = ["kind", "name", "label", "status", "unit", "emergency", "hard_stop", "conflict"]
    counts: Counter[Key] = Counter()
    try:
        file = pq.ParquetFile(out)
        about = json.loads((file.schema_arrow.metadata or {}).get(b"kbtool", b"{}"))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns).group_by(columns).aggregate([([], "count_all")])
            for row in table.to_pylist():
                for section, name, label in _sections(row):
                    counts[section, name, label, row["unit"] or ""] += row["count_all"]
            patients = file.read_row_group(group, ["patient", "kind", "unit"])
            set_aside = {(row["patient"], row["unit"] or "") for row in patients.to_pylist() if row["kind"] == "set aside"}
            for _, unit in set_aside:
                counts[PATIENTS, SET_ASIDE, "", unit] += 1
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise CohortError(f"{out}: is not an output of kbtool cohort: {error}") from None
    return about, counts


def _sections(row: Json) -> Iterator[tuple[str, str, str]]:
    kind, name, label = row["kind"], row["name"], row["label"]
    if kind == "patient":
        yield PATIENTS, row["status"], ""
    if kind == "recommendation" and row["status"] in SECTIONS:
        yield row["status"], name, label
    if kind == "prohibition" and row["hard_stop"]:
        yield "hard stop", name, label
    if kind == "assessment" and row["emergency"] and row["status"] == "holds":
        yield "emergency", name, label
    if kind in ("recommendation", "prohibition", "assessment") and row["conflict"]:
        yield "conflict", name, label
    if kind == "missing":
        yield "missing", name, label
