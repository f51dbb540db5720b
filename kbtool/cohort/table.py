"""The answer for a patient as rows of a table, for those who count: one row for each patient, rule, missing quantity and
problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kbtool.cohort.units import Json

if TYPE_CHECKING:
    import pyarrow

COLUMNS: dict[str, tuple[str, str]] = {
    "patient": ("word", "IRI of the patient."),
    "unit": ("word", "Where the patient is treated (cg:treatedAt); null where the facts do not say."),
    "as_of": ("time", "The time of the assessment."),
    "in_scope": ("flag", "Whether the guideline speaks for the patient."),
    "kind": (
        "word",
        "What the row is about: patient (exactly one row each), recommendation, prohibition, assessment, caution, missing, "
        "not used, not read, set aside, warning, refused.",
    ),
    "name": (
        "word",
        "Name of the rule, quantity or broken shape; identifier of the caution.",
    ),
    "iri": ("word", "IRI of the rule or shape, or of the fact that is not used."),
    "label": ("word", "The same in words."),
    "status": (
        "word",
        "recommended, blocked, contraindicated, undetermined or satisfied; holds or possible; for a fact that is not used the "
        "reason; for a patient answered, out of scope or refused.",
    ),
    "severity": ("word", "Of a prohibition or caution."),
    "step": ("word", "Of a recommendation."),
    "emergency": ("flag", "Whether an assessment is an emergency."),
    "hard_stop": ("flag", "Whether an order of the patient must not go through."),
    "hard_stop_possible": ("flag", "Whether that rests on something unknown."),
    "overridable": ("flag", "Whether a critical caution speaks against the hard stop."),
    "conflict": ("flag", "Whether a caution contradicts the rule."),
    "needs": ("words", "Quantities and attributes that are lacking."),
    "blocked_by": ("words", "States that a recommendation waits for."),
    "opened_by": ("words", "Recommendations that bring them about."),
    "orders": ("words", "Orders of the patient that are forbidden."),
    "because": ("words", "IRIs of the facts on which it rests."),
    "statements": ("words", "Statements of the source."),
    "cautions": ("words", "Identifiers of the cautions attached to a rule; of a caution, what it is attached to."),
    "message": ("word", "What is wrong with a fact, or what a caution says."),
    "value": ("word", "The value that is wrong or not used."),
    "file": ("word", "Where the patient stands: the file (only on the row of the patient)."),
    "line": ("number", "And the line in it, from 1; null where a file is not read by lines."),
    "answer": ("text", "The whole answer as JSON, as kbtool assess prints it (only on the row of the patient)."),
}
"""The columns of a Parquet file: kind of content (all but the first five may be null) and meaning."""

SECTIONS = {
    "recommended": "Recommended",
    "blocked": "Blocked",
    "contraindicated": "Contraindicated",
    "undetermined": "Undetermined",
    "hard stop": "Orders to stop",
    "emergency": "Emergencies",
    "conflict": "In conflict",
    "missing": "Missing",
}
"""What a summary counts, in its order, with headings."""

PATIENTS = "patients"
"""The section of a summary that counts patients by what became of them."""

ANSWERED, OUT_OF_SCOPE, REFUSED, SET_ASIDE = "answered", "out of scope", "refused", "something set aside"

_TOGETHER = 32

Key = tuple[str, str, str, str]
"""What is counted: section, name, label, unit ("" where it is not known)."""


@dataclass(frozen=True, slots=True)
class Place:
    """A patient in the inputs: unit of treatment, file and line."""

    unit: str | None
    file: str
    line: int | None


def fate(answer: Json) -> str:
    """What became of a patient."""
    return REFUSED if answer.get("refused") else ANSWERED if answer["inScope"] else OUT_OF_SCOPE


def rows(answer: Json, labels: Mapping[str, str]) -> Iterator[Json]:
    """The rows of an answer after that of the patient, without what is the same in all. labels: of terms, by local name."""
    for kind, entries in (("recommendation", "recommendations"), ("prohibition", "prohibitions"), ("assessment", "assessments")):
        for entry in answer[entries]:
            yield {
                "kind": kind,
                "name": entry["name"],
                "iri": entry["iri"],
                "label": entry["label"],
                "status": entry.get("status") or entry["state"],
                "severity": entry.get("severity"),
                "step": entry.get("step"),
                "emergency": entry.get("emergency"),
                "hard_stop": entry.get("hardStop"),
                "hard_stop_possible": entry.get("hardStopPossible"),
                "overridable": entry.get("overridable"),
                "conflict": entry["conflict"],
                "needs": entry["needs"],
                "blocked_by": entry.get("blockedBy"),
                "opened_by": entry.get("openedBy"),
                "orders": [order["name"] for order in entry["orders"]] if "orders" in entry else None,
                "because": [fact["fact"] for fact in entry["because"]],
                "statements": entry["statements"],
                "cautions": [caution["id"] for caution in entry["cautions"]],
            }
    for entry in answer["cautions"]:
        yield {
            "kind": "caution",
            "name": entry["id"],
            "iri": entry["iri"],
            "label": entry["label"],
            "status": entry["state"],
            "severity": entry["severity"],
            "conflict": entry["conflict"],
            "needs": entry["needs"],
            "because": [fact["fact"] for fact in entry["because"]],
            "cautions": [target["name"] for target in entry["on"]],
            "message": entry["text"],
        }
    for name in answer["missing"]:
        yield {"kind": "missing", "name": name, "label": labels.get(name, name)}
    for fact in answer["notUsed"]:
        kept = {"name": fact["name"], "iri": fact["fact"], "label": fact["label"], "value": fact.get("value")}
        yield {"kind": "not used", **kept, "status": fact["reason"], "message": fact["reasonLabel"]}
    for resource in answer.get("notRead", ()):
        if resource["matters"]:
            name, message = resource.get("concept"), f"{resource['resource']}: {resource['reason']}"
            yield {"kind": "not read", "name": name, "value": resource.get("code"), "message": message}
    for kind, entries in (("set aside", "setAside"), ("warning", "warnings"), ("refused", "refused")):
        for violation in answer.get(entries, ()):
            shape = violation["shape"]
            yield {
                "kind": kind,
                "name": shape.rsplit("/", 1)[-1].rsplit("#", 1)[-1] or None,
                "iri": shape or None,
                "value": violation["value"],
                "message": violation["message"],
            }


def count(counts: Counter[Key], answer: Json, unit: str | None, labels: Mapping[str, str]) -> None:
    """Add an answer to the counts of patients by section, name, label and unit."""
    where = unit or ""
    counts[PATIENTS, fate(answer), "", where] += 1
    if answer["setAside"]:
        counts[PATIENTS, SET_ASIDE, "", where] += 1
    for entry in answer["recommendations"]:
        if entry["status"] in SECTIONS:
            counts[entry["status"], entry["name"], entry["label"], where] += 1
    for entry in answer["prohibitions"]:
        if entry["hardStop"]:
            counts["hard stop", entry["name"], entry["label"], where] += 1
    for entry in answer["assessments"]:
        if entry["emergency"] and entry["state"] == "holds":
            counts["emergency", entry["name"], entry["label"], where] += 1
    for kind in ("recommendations", "prohibitions", "assessments"):
        for entry in answer[kind]:
            if entry["conflict"]:
                counts["conflict", entry["name"], entry["label"], where] += 1
    for name in answer["missing"]:
        counts["missing", name, labels.get(name, name), where] += 1


class Table:
    """Gathers the rows of patients, and makes an Arrow stream of them, some patients at a time to hold little."""

    def __init__(self, as_of: str, labels: Mapping[str, str]) -> None:
        pa = arrow()
        self.labels, self.as_of = labels, datetime.fromisoformat(as_of)
        self._schema, self._sink = schema(), pa.BufferOutputStream()
        self._writer = pa.ipc.new_stream(
            self._sink, self._schema, options=pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        )
        self._clear()

    def add(self, answer: Json, text: bytes, place: Place) -> None:
        """Add an answer; text: the same as JSON."""
        own = {"kind": "patient", "status": fate(answer), "file": place.file, "line": place.line, "answer": text}
        common = {"patient": answer["patient"], "unit": place.unit, "as_of": self.as_of, "in_scope": answer["inScope"]}
        found: list[Json] = [own, *rows(answer, self.labels)]
        for name, column in self._columns.items():
            if name in common:
                column.extend([common[name]] * len(found))
            else:
                column.extend([row.get(name) for row in found])
        self._waiting += 1
        if self._waiting >= _TOGETHER:
            self._write()

    def stream(self) -> bytes:
        """Everything that was added; the end of the table."""
        self._write()
        self._writer.close()
        data: bytes = self._sink.getvalue().to_pybytes()
        return data

    def _clear(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._waiting = 0

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_batch(arrow().record_batch(self._columns, schema=self._schema))
            self._clear()


def arrow() -> Any:
    """pyarrow, which is made to give back what it no longer needs."""
    import pyarrow as pa

    pa.set_memory_pool(pa.system_memory_pool())
    return pa


def schema(metadata: Mapping[str, str] | None = None) -> pyarrow.Schema:
    """The schema of a Parquet file; every column tells what it means."""
    import pyarrow as pa

    types = {
        "word": pa.string(),
        "text": pa.string(),
        "flag": pa.bool_(),
        "number": pa.int64(),
        "time": pa.timestamp("us", "UTC"),
        "words": pa.list_(pa.string()),
    }
    fields = [
        pa.field(name, types[kind], nullable=place >= 5 or name == "unit", metadata={"description": meaning})
        for place, (name, (kind, meaning)) in enumerate(COLUMNS.items())
    ]
    return pa.schema(fields, metadata)


def merge(counts: Iterable[list[Any]]) -> Counter[Key]:
    """Counts out of the lists in which they are kept."""
    total: Counter[Key] = Counter()
    for section, name, label, unit, number in counts:
        total[section, name, label, unit] += number
    return total
