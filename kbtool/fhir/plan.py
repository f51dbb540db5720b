"""Recommendations as a RequestGroup of proposals (FHIR 4.0).

Only what is recommended now stands in a group of actions to take up. Everything else stands in a group of its own, says
its status first in every title, and points at a proposal whose own status forbids taking it up (on-hold, unknown,
revoked with doNotPerform, completed). Nothing is an order: the intent of every request is `proposal`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kbtool.fhir.scribe import Scribe
from kbtool.namespaces import CG, SKOS
from kbtool.text import fact_text, parameter_text

Json = dict[str, Any]

REQUEST_STATUS = {
    "recommended": "draft",
    "contraindicated": "revoked",
    "blocked": "on-hold",
    "undetermined": "unknown",
    "satisfied": "completed",
}
"""The status of the proposal for each status of a recommendation, in the order in which the groups stand."""

_FALSE, _UNKNOWN = "false", "{}"
"""What a condition comes to at the time of the assessment, in FHIRPath: whatever evaluates it, the action does not start."""


def add_plan(scribe: Scribe, patient: Json) -> Json | None:
    """Add the RequestGroup and the proposals of its actions; None where there is no recommendation."""
    entries: list[Json] = patient["recommendations"]
    if not entries:
        return None
    actions = []
    for status in REQUEST_STATUS:
        mine = [entry for entry in entries if entry["status"] == status]
        if mine:
            actions.append(_group(scribe, status, mine, entries))
    plan = scribe.add(
        "RequestGroup",
        "plan",
        {
            "status": "draft",
            "intent": "proposal",
            "subject": scribe.subject(),
            "authoredOn": scribe.as_of,
            "author": scribe.device(),
            "action": actions,
        },
    )
    for entry in entries:
        _request(scribe, entry)
    return plan


def status_iri(scribe: Scribe, status: str) -> str:
    """The IRI of a status of the guideline language, by its notation."""
    knowledge = scribe.codings.knowledge
    found = (i for i in knowledge.instances(CG["Status"]) if knowledge.value(i, SKOS["notation"]) == status)
    return next(found, CG[status].value)


def titled(entry: Json) -> str:
    """The label of a recommendation, led by its status unless it is to be carried out now."""
    label: str = entry["label"]
    conflict = "CONFLICT: " if entry["conflict"] else ""
    return conflict + label if entry["status"] == "recommended" else f"{entry['status'].upper()}: {conflict}{label}"


def details(scribe: Scribe, entry: Json) -> Iterator[str]:
    """What there is to say about a recommendation, line by line."""
    waits = [scribe.label(s) for s in entry["blockedBy"] if s not in entry["blockedWhile"]]
    forbidden = [scribe.label(s) for s in entry["blockedWhile"]]
    lines = {
        "because": [fact_text(f) for f in entry["because"]],
        "waits for": waits,
        "must not be so": forbidden,
        "opened by": [scribe.label(o) for o in entry["openedBy"]],
        "cannot be decided without": [scribe.label(n) for n in entry["needs"]],
        "given by the guideline": [parameter_text(p) for p in entry["parameters"]],
        "not given by the source": [p["label"] for p in entry["missingParameters"]],
    }
    yield from (f"{name}: {'; '.join(values)}" for name, values in lines.items() if values)
    for caution in entry["cautions"]:
        doubt = "" if caution["state"] == "holds" else "not excluded: "
        yield f"{doubt}{caution['id']} ({caution['severity']}): {caution['label']}"


def _group(scribe: Scribe, status: str, entries: list[Json], everything: list[Json]) -> Json:
    term = status_iri(scribe, status)
    concept = scribe.codings.concept(term)
    meaning = scribe.codings.definition(term)
    return {
        "id": f"group-{status}",
        "title": f"{status.upper()}: {meaning}" if meaning else status.upper(),
        "code": [concept],
        "action": [_action(scribe, entry, concept, everything) for entry in entries],
    }


def _action(scribe: Scribe, entry: Json, status: Json, everything: list[Json]) -> Json:
    title = titled(entry)
    openers = [scribe.action_id(o) for o in everything if o["name"] in entry["openedBy"] and o is not entry]
    action = {
        "id": scribe.action_id(entry),
        "prefix": entry["status"].upper(),
        "title": title,
        "description": "\n".join(details(scribe, entry)),
        "code": [scribe.codings.concept(entry["iri"]), status],
        "documentation": scribe.documentation(entry),
        "condition": list(_conditions(scribe, entry)),
        "relatedAction": [{"actionId": opener, "relationship": "after-end"} for opener in openers],
        "resource": scribe.link("ServiceRequest", entry["name"], display=title),
    }
    return {key: value for key, value in action.items() if value not in ([], "")}


def _conditions(scribe: Scribe, entry: Json) -> Iterator[Json]:
    """What must be so before the action starts; and, where it is unknown whether the action applies at all, what is
    needed to tell."""
    for state in entry["blockedBy"]:
        words = f"must not be so: {scribe.label(state)}" if state in entry["blockedWhile"] else scribe.label(state)
        yield {"kind": "start", "expression": _expression(scribe.term(state), words, _FALSE)}
    if entry["status"] == "undetermined":
        lacking = ", ".join(scribe.label(need) for need in entry["needs"])
        for criterion in scribe.codings.applies_to(entry["iri"]):
            yield {
                "kind": "applicability",
                "expression": _expression(criterion, f"unknown; cannot be decided without: {lacking}", _UNKNOWN),
            }


def _expression(iri: str, words: str, value: str) -> Json:
    """A condition: in words, as what it comes to, and by the criterion class that defines it."""
    return {"description": words, "language": "text/fhirpath", "expression": value, "reference": iri}


def _request(scribe: Scribe, entry: Json) -> None:
    """The proposal to which an action points. It carries no dose and no number: what the guideline gives stands in words
    in the action, and what it does not give is never filled in."""
    title, lines = titled(entry), list(details(scribe, entry))
    code = scribe.codings.concept(entry["iri"], title)
    for measured in entry["measures"]:
        code["coding"] += scribe.codings.codes(scribe.term(measured))
    scribe.add(
        "ServiceRequest",
        entry["name"],
        {
            "instantiatesUri": [entry["iri"]],
            "status": REQUEST_STATUS[entry["status"]],
            "intent": "proposal",
            **({"doNotPerform": True} if entry["status"] == "contraindicated" else {}),
            "code": code,
            "subject": scribe.subject(),
            "authoredOn": scribe.as_of,
            "requester": scribe.device(),
            "supportingInfo": scribe.facts(entry["because"]),
            "note": [{"text": "\n".join(lines)}] if lines else [],
        },
    )
