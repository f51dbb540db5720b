"""What an output says in numbers: what was recommended, blocked, missing and in conflict, by unit; printed, and as a picture."""

from __future__ import annotations

import io
import json
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

_WIDTH = 110


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

    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, legacy_windows=False)
    told = f", as of {about['asOf']}" if "asOf" in about else ""
    console.print(f"{out}{told}", highlight=False)
    units = sorted({unit for *_, unit in counts if unit}) + ([""] if any(not unit for *_, unit in counts) else [])
    console.print(_by_unit(counts, units))
    for section, title in SECTIONS.items():
        entries = _entries(counts, section)
        if not entries:
            continue
        most = entries[0][1]
        bars = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        bars.add_column(width=52)
        bars.add_column(justify="right", width=8)
        bars.add_column()
        for label, number, _ in entries[:SHOWN]:
            bars.add_row(label, str(number), "█" * max(1, round(36 * number / most)))
        console.print(f"\n{title}", highlight=False)
        console.print(bars, highlight=False)
        if len(entries) > SHOWN:
            console.print(f"and {len(entries) - SHOWN} more", highlight=False)
    drawn = draw(about, counts, out)
    console.print(f"\nPicture: {drawn}" if drawn else "\nFor a picture: pip install 'kbtool[cohort]'", highlight=False)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _by_unit(counts: Counter[Key], units: list[str]) -> Table:
    """What became of patients and how often rules spoke, in all and by unit."""
    from rich.table import Table

    shown = units[:COLUMNS] if units != [""] else []
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in ("all", *(unit or UNKNOWN for unit in shown)):
        table.add_column(heading, justify="right", max_width=14)
    if len(units) > len(shown) > 0:
        table.title = f"the first {len(shown)} of {len(units)} units; all are in the output"
    kinds = [(PATIENTS, fate, f"patients {fate}") for fate in (ANSWERED, OUT_OF_SCOPE, REFUSED, SET_ASIDE)]
    kinds[-1] = (PATIENTS, SET_ASIDE, "patients with something set aside")
    kinds += [(section, "", title.lower()) for section, title in SECTIONS.items()]
    for section, name, title in kinds:
        numbers = [
            sum(n for (s, m, _, u), n in counts.items() if s == section and name in ("", m) and unit in (None, u))
            for unit in (None, *shown)
        ]
        table.add_row(title, *(str(n) for n in numbers))
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
    with mpl.rc_context({"svg.hashsalt": "kbtool", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 0.24 * sum(rows) + 1), layout="constrained")
        told = f", as of {about['asOf']}" if "asOf" in about else ""
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
    labels = [label for label, _, _ in entries]
    left = [0] * len(entries)
    for number, unit in enumerate([*units, None]):
        widths = [sum(n for u, n in by.items() if (u == unit if unit is not None else u not in units)) for _, _, by in entries]
        if any(widths):
            name = "other units" if unit is None else unit or UNKNOWN
            axes.barh(labels, widths, left=left, height=0.7, label=name, color=f"C{number}")
            left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.bar_label(axes.containers[-1], labels=[str(n) for n in left], padding=3)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if legend and len(axes.containers) > 1:
        axes.legend(frameon=False, fontsize=8, loc="lower right")


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
