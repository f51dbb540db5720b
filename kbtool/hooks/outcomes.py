"""Check feedback on cards, as section "Feedback" of CDS Hooks 2.0 defines it. Nothing of it is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kbtool.hooks.request import Refusal, decoded

Json = dict[str, Any]


def check(body: bytes) -> None:
    """Raises Refusal, with status 400, for feedback that breaks the specification."""
    entries = decoded(body).get("feedback")
    if not isinstance(entries, list) or not entries:
        raise Refusal(400, "feedback is missing, empty or not a list")
    for number, entry in enumerate(entries):
        where = f"feedback[{number}]"
        if not isinstance(entry, dict):
            raise Refusal(400, f"{where} is not an object")
        _text(entry, "card", where)
        outcome = _text(entry, "outcome", where)
        if outcome not in ("accepted", "overridden"):
            raise Refusal(400, f"{where}.outcome is neither accepted nor overridden")
        _timestamp(_text(entry, "outcomeTimestamp", where), where)
        if outcome == "accepted":
            _suggestions(entry.get("acceptedSuggestions"), where)
        if "overrideReason" in entry:
            _reason(entry["overrideReason"], where)


def _text(container: Json, key: str, where: str) -> str:
    value = container.get(key)
    if not isinstance(value, str) or not value:
        raise Refusal(400, f"{where}.{key} is missing or not a text")
    return value


def _timestamp(text: str, where: str) -> None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Refusal(400, f"{where}.outcomeTimestamp is not a date and time with a zone")


def _suggestions(accepted: Any, where: str) -> None:
    if not isinstance(accepted, list) or not accepted:
        raise Refusal(400, f"{where}.acceptedSuggestions is missing, empty or not a list")
    for each in accepted:
        if not isinstance(each, dict):
            raise Refusal(400, f"{where}.acceptedSuggestions holds something that is not an object")
        _text(each, "id", f"{where}.acceptedSuggestions")


def _reason(reason: Any, where: str) -> None:
    if not isinstance(reason, dict):
        raise Refusal(400, f"{where}.overrideReason is not an object")
    coding = reason.get("reason")
    if coding is not None:
        if not isinstance(coding, dict):
            raise Refusal(400, f"{where}.overrideReason.reason is not an object")
        for key in ("code", "system"):
            _text(coding, key, f"{where}.overrideReason.reason")
    comment = reason.get("userComment")
    if comment is not None and not isinstance(comment, str):
        raise Refusal(400, f"{where}.overrideReason.userComment is not a text")
