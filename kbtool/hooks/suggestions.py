"""Suggestions (CDS Hooks 2.0, sections "Suggestion" and "Action"): only where one action is safe."""

from __future__ import annotations

from typing import Any

from kbtool.hooks.markdown import plain, shortened
from kbtool.hooks.request import Draft, Request

Json = dict[str, Any]


def removing(identifier: str, draft: Draft, name: str) -> Json:
    """Remove an order in draft that must not go through."""
    label = shortened(f"Remove the order: {name}")
    action = {"type": "delete", "description": label, "resourceId": draft.reference}
    return {"label": label, "uuid": identifier, "actions": [action]}


def measuring(identifier: str, label: str, name: str, codes: list[Json], request: Request) -> Json:
    """Order a measurement that a rule waits for; the order is a draft, which the clinician completes and signs."""
    order = {
        "resourceType": "ServiceRequest",
        "status": "draft",
        "intent": "order",
        "code": {"coding": codes, "text": plain(name)},
        "subject": {"reference": request.reference},
    }
    return {
        "label": shortened(label),
        "uuid": identifier,
        "actions": [{"type": "create", "description": shortened(label), "resource": order}],
    }
