"""Prohibitions, cautions and assessments as FHIR 4.0 resources.

A prohibition or caution is a DetectedIssue: an issue with proposed or active actions, with severity and what it
implicates; `final` where it holds, `preliminary` where it is possible. An assessment is an Observation that is true, or
absent with the reason `unknown`, derived from the facts on which it rests; FHIR keeps ClinicalImpression for the
judgement of a person. An emergency is a Flag too, because a Flag is what a record shows to whoever opens it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kbtool.fhir.scribe import Scribe
from kbtool.namespaces import CG

Json = dict[str, Any]

_FLAG_CATEGORY = {"system": "http://terminology.hl7.org/CodeSystem/flag-category", "code": "safety", "display": "Safety"}
_ABSENT = {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "unknown", "display": "Unknown"}
_MARKS = {
    "hardStop": "HARD STOP: do not carry out this order",
    "overridable": "CONFLICT: a forbidden order, and a danger in forbidding it. A clinician must decide",
    "hardStopPossible": "HARD STOP IF what is not known is so: do not carry out this order before it is clear",
}
"""How a prohibition of an order is announced: the first of these that it has."""


def add_flags(scribe: Scribe, patient: Json) -> None:
    """Add a Flag for each emergency that holds or cannot be excluded."""
    for entry in patient["assessments"]:
        if entry["emergency"]:
            known = entry["state"] == "holds"
            title = f"EMERGENCY: {entry['label']}" if known else f"EMERGENCY NOT EXCLUDED: {entry['label']}"
            scribe.add(
                "Flag",
                entry["name"],
                {
                    "status": "active",
                    "category": [{"coding": [_FLAG_CATEGORY]}],
                    "code": scribe.codings.concept(entry["iri"], title),
                    "subject": scribe.subject(),
                    "period": {"start": scribe.as_of},
                    "author": scribe.device(),
                },
            )


def add_prohibitions(scribe: Scribe, patient: Json) -> None:
    """Add a DetectedIssue for each prohibition; it implicates the forbidden orders and the proposals that it forbids."""
    for entry in patient["prohibitions"]:
        forbidden = scribe.codings.forbidden_recommendations(entry["iri"])
        proposals = [r for r in patient["recommendations"] if r["iri"] in forbidden]
        code = scribe.codings.concept(entry["iri"])
        code["coding"] += [scribe.codings.own(CG[mark].value) for mark in _MARKS if entry[mark]]
        head = next((words for mark, words in _MARKS.items() if entry[mark]), "DO NOT")
        issue = _issue(scribe, entry, code, f"{head}: {entry['label']}")
        issue["implicated"] = scribe.facts(entry["orders"]) + [
            scribe.link("ServiceRequest", r["name"], display=r["label"]) for r in proposals
        ]
        scribe.add("DetectedIssue", entry["name"], issue)


def add_cautions(scribe: Scribe, patient: Json) -> None:
    """Add a DetectedIssue for each caution; it implicates what it is about."""
    for entry in patient["cautions"]:
        head = "CONFLICT: " if entry["conflict"] else ""
        code = scribe.codings.concept(entry["iri"], f"{entry['id']}: {entry['label']}")
        if entry["conflict"]:
            code["coding"].append(scribe.codings.own(CG["makesConflict"].value))
        on = ", ".join(target["label"] for target in entry["on"])
        words = [f"{head}{entry['label']} (on {on})", entry["text"] or "", f"sources: {'; '.join(entry['sources'])}"]
        issue = _issue(scribe, entry, code, " ".join(filter(None, words)))
        issue["implicated"] = [target for t in entry["on"] for target in _implicated(scribe, t, patient)]
        scribe.add("DetectedIssue", entry["id"], issue)


def add_assessments(scribe: Scribe, patient: Json) -> None:
    """Add an Observation for each assessment: true where it holds, absent as unknown where it is possible."""
    for entry in patient["assessments"]:
        known = entry["state"] == "holds"
        lacking = ", ".join(scribe.label(need) for need in entry["needs"])
        notes = [] if known else [f"Not excluded: it cannot be told without {lacking}."]
        notes += [f"{c['id']} ({c['severity']}): {c['label']}" for c in entry["cautions"] if c["state"] == "holds"]
        notes += [f"{d['label']}: {d['display']}" for d in scribe.documentation(entry)]
        scribe.add(
            "Observation",
            entry["name"],
            {
                "status": "final" if known else "preliminary",
                "code": scribe.codings.concept(entry["iri"]),
                "subject": scribe.subject(),
                "effectiveDateTime": scribe.as_of,
                "device": scribe.device(),
                **({"valueBoolean": True} if known else {"dataAbsentReason": {"coding": [_ABSENT]}}),
                "derivedFrom": scribe.facts(entry["because"]),
                "note": [{"text": note} for note in notes],
            },
        )


def _issue(scribe: Scribe, entry: Json, code: Json, words: str) -> Json:
    known = entry["state"] == "holds"
    lacking = ", ".join(scribe.label(need) for need in entry["needs"])
    parts = [words if known else f"NOT EXCLUDED (not known: {lacking}): {words}"]
    if known and lacking:
        parts.append(f"not known: {lacking}")
    parts += [f"{s['label']}: {s['display']}" for s in (scribe.documentation(entry) if "statements" in entry else [])]
    for caution in entry.get("cautions", []):
        doubt = "" if caution["state"] == "holds" else "not excluded: "
        parts.append(f"{doubt}{caution['id']} ({caution['severity']}): {caution['label']}")
    return {
        "status": "final" if known else "preliminary",
        "code": code,
        "severity": scribe.codings.severity(entry["severity"]),
        "patient": scribe.subject(),
        "identifiedDateTime": scribe.as_of,
        "author": scribe.device(),
        "evidence": [{"detail": scribe.facts(entry["because"])}] if entry["because"] else [],
        "detail": "\n".join(parts),
        "reference": entry["iri"],
    }


def _implicated(scribe: Scribe, target: Json, patient: Json) -> Iterator[Json]:
    """The resources of a caution's target: its proposal, issue or observation; the orders and drugs of a class are not
    named one by one in an answer, so that the class stands for them."""
    kinds = {"recommendation": "ServiceRequest", "prohibition": "DetectedIssue", "assessment": "Observation"}
    answered = {entry["iri"] for kind in ("recommendations", "prohibitions", "assessments") for entry in patient[kind]}
    if target["kind"] == "patient":
        yield scribe.subject()
    elif target["kind"] in kinds and target["iri"] in answered:
        yield scribe.link(kinds[target["kind"]], target["name"], display=target["label"])
    else:
        yield {"identifier": {"system": "urn:ietf:rfc:3986", "value": target["iri"]}, "display": target["label"]}
