"""What of the record was not sent, not read or not used: a service that did not see it must not look like one that found
nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kbtool.hooks.markdown import escaped
from kbtool.hooks.request import Request

Json = dict[str, Any]

SHOWN = 10
"""How many lines of one kind a card shows; the rest is counted."""


@dataclass(frozen=True)
class DataCard:
    """What a card about the data says: indicator, summary, and lines of Markdown."""

    indicator: str
    summary: str
    lines: list[str]


def data_card(request: Request, answer: Json, spoken: bool) -> DataCard | None:
    """The card about the data; None where there is nothing to say, or where the guideline does not speak for the patient,
    nothing else is said, and nothing that it knows was left out.

    spoken: whether there are other cards, or an order that the guideline knows.
    """
    serious = list(_serious(request, answer))
    if not serious and not answer["inScope"] and not spoken:
        return None
    absent = [template.key for template in request.missing if template.kinds and not template.coded]
    unknown = [template.key for template in request.missing if template.coded and not template.closed]
    kept = [template.key for template in request.missing if template.coded and template.closed]
    lines = []
    if absent:
        lines.append(f"**Not sent, so that it counts as absent:** {escaped(', '.join(absent))}. The answer may be wrong.")
    if unknown:
        lines.append(f"Not sent, so that it counts as unknown: {escaped(', '.join(unknown))}.")
    if kept:
        lines.append(f"Not sent, so that a finding that is kept as an observation counts as absent: {escaped(', '.join(kept))}.")
    lines += serious
    lines += [f"Unusual, used as reported: {escaped(v['message'])}" for v in answer["warnings"][:SHOWN]]
    if not lines:
        return None
    count = sum(request.patient.unneeded.values())
    if count:
        lines.append(f"Entries of the record that the guideline does not ask for: {count}.")
    grave = bool(absent or serious or answer["warnings"])
    parts = [f"not sent: {', '.join([*absent, *unknown, *kept])}"] if absent or unknown or kept else []
    parts += ["not all that was sent could be read"] if serious else []
    summary = f"INCOMPLETE: {'; '.join(parts)}" if parts else "Unusual values: check that they are right"
    return DataCard("warning" if grave else "info", summary, lines)


def unread_card(request: Request, names: dict[str, str]) -> DataCard | None:
    """The card about orders in draft of something that the guideline knows and that could not be checked; None where there
    is none. An order of something that the guideline does not know is not its business.

    names: what each order is called, by its reference.
    """
    unread = {draft.reference: request.not_read(draft) for draft in request.drafts if draft.selected}
    unread = {reference: entries for reference, entries in unread.items() if entries}
    if not unread:
        return None
    said = "; ".join(f"{names[reference]}: {entries[0].reason}" for reference, entries in unread.items())
    lines = ["**This order was not checked. That is not a finding that nothing is wrong.**"]
    for reference, entries in unread.items():
        reasons = "; ".join(dict.fromkeys(entry.reason for entry in entries))
        lines.append(f"{escaped(names[reference])} ({escaped(reference)}): {escaped(reasons)}")
    return DataCard("warning", f"NOT CHECKED: {said}", lines)


def _serious(request: Request, answer: Json) -> Iterator[str]:
    """What the guideline knows and could not use."""
    drafts = {entry.resource for draft in request.drafts for entry in request.not_read(draft)}
    unread = [entry for entry in request.patient.not_read if entry.matters and entry.resource not in drafts]
    for entry in unread[:SHOWN]:
        what = entry.code or entry.concept or "entry"
        yield f"Not read: {escaped(what)} ({escaped(entry.resource)}): {escaped(entry.reason)}"
    strays = [stray for stray in request.read.stray if stray.resource not in drafts]
    for stray in strays[:SHOWN]:
        yield f"Not read: {escaped(stray.resource)}: {escaped(stray.reason)}"
    for violation in answer["setAside"][:SHOWN]:
        yield f"Set aside, counts as missing: {escaped(violation['message'])}"
    hidden = sum(max(0, len(some) - SHOWN) for some in (unread, strays, answer["setAside"]))
    if hidden:
        yield f"And {hidden} more."
    for key in request.more:
        yield f"Only the first page was sent: {escaped(key)}."
