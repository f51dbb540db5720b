"""Answers as FHIR 4.0: a collection Bundle with a GuidanceResponse for each patient.

The GuidanceResponse says whether the guideline could be evaluated (success; data-requested where more facts would settle
what is only possible; data-required where advice, an emergency or an order hangs on them; failure for a patient whose facts
were refused), names what is missing, and points at the plan (see `plan`). Emergencies, prohibitions, cautions and
assessments follow (see `issues`), what was refused, set aside or not read as OperationOutcome, and the Provenance of it all.
Identifiers are made of the knowledge base, the time and the patient: the same facts give the same Bundle.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from kbtool.answer import statement_texts
from kbtool.fhir import issues, plan
from kbtool.fhir.coding import Codings, codings
from kbtool.fhir.scribe import IRI_SYSTEM, Scribe, device_uuid
from kbtool.namespaces import CG
from kbtool.text import fact_text, patient_lines

if TYPE_CHECKING:
    from kbtool.api import KnowledgeBase, Result

Json = dict[str, Any]

DISCLAIMER = "No clinician has approved this content. It supports a decision and does not make one."
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_UNCHECKED = "Nothing was checked for this patient, orders included. That is not a finding that nothing is wrong."
_OUTSIDE = (
    "OUT OF SCOPE: the guideline does not speak for this patient, so it recommends and forbids nothing. "
    "That is not a finding that nothing is wrong. Only cautions from the safety overlay are given."
)


def bundle(kb: KnowledgeBase, result: Result, origins: Mapping[str, str] | None = None) -> Json:
    """All answers of a call of `kb.assess` as one Bundle, ready for json.dumps.

    origins: for facts that came from FHIR, the reference under which they stand there (`fhir.read.Read.origins`).
    """
    patients = (answer.data for answer in result.patients.values())
    found: Json = json.loads("".join(pieces(kb, result.as_of, patients, result.unassigned, origins)))
    return found


def pieces(
    kb: KnowledgeBase,
    as_of: str,
    patients: Iterable[Json],
    unassigned: list[Any],
    origins: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The Bundle as text, piece by piece, so that a cohort need not fit into memory.

    patients: answers as in the schema of `kbtool assess --format json`. unassigned: what belongs to no patient.
    """
    about = kb.about
    seed = f"{about['iri']}|{about['version']}|{about['sha256']}|{as_of}"
    head = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, seed)),
        "type": "collection",
        "timestamp": as_of,
    }
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "entry": [\n'
    known = codings(kb.knowledge)
    statements = statement_texts(kb.knowledge)
    for data in patients:
        for resource in _patient(Scribe(known, seed, data["patient"], as_of, origins or {}), data, about, statements):
            yield _entry(resource) + ",\n"
    if unassigned:
        yield _entry(_strays(Scribe(known, seed, "", as_of, {}), unassigned)) + ",\n"
    yield _entry(_library(kb, known)) + ",\n" + _entry(_device()) + "\n]}\n"


def _entry(resource: Json) -> str:
    return json.dumps({"fullUrl": f"urn:uuid:{resource['id']}", "resource": _printable(resource)}, ensure_ascii=False)


def _printable(node: Any) -> Any:
    """The same without characters that FHIR forbids in text (data type string) and XHTML cannot hold."""
    if isinstance(node, dict):
        return {key: _printable(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_printable(value) for value in node]
    return _FORBIDDEN.sub("\ufffd", node) if isinstance(node, str) else node


def _patient(scribe: Scribe, data: Json, about: Json, statements: dict[str, str]) -> list[Json]:
    """The resources about one patient, in the order in which a person needs them."""
    response = scribe.add("GuidanceResponse", "response", {})
    issues.add_flags(scribe, data)
    issues.add_prohibitions(scribe, data)
    issues.add_cautions(scribe, data)
    made = plan.add_plan(scribe, data)
    issues.add_assessments(scribe, data)
    outcome = _outcome(scribe, data)
    identity = f"urn:uuid:{response['id']}"
    response |= {
        "text": _narrative(scribe.codings, data, statements),
        "identifier": [{"system": IRI_SYSTEM, "value": identity}],
        "moduleCanonical": "|".join(filter(None, (about["iri"], about["version"]))),
        "status": _status(data),
        "subject": scribe.subject(),
        "occurrenceDateTime": scribe.as_of,
        "performer": scribe.device(),
        "note": [{"text": words} for words in _notes(data)],
        "dataRequirement": [_requirement(scribe, name) for name in data["missing"]],
        "evaluationMessage": [scribe.link("OperationOutcome", "outcome")] if outcome else [],
    }
    if made:
        response["result"] = scribe.link("RequestGroup", "plan")
    for name in [name for name, value in response.items() if value == []]:
        del response[name]
    _provenance(scribe, data, about)
    return scribe.made


def _status(data: Json) -> str:
    """How far the evaluation came (FHIR guidance-response-status)."""
    if data.get("refused"):
        return "failure"
    urgent = [p for p in data["prohibitions"] if p["hardStopPossible"] or (p["state"] != "holds" and p["orders"])]
    urgent += [a for a in data["assessments"] if a["emergency"] and a["state"] != "holds"]
    urgent += [r for r in data["recommendations"] if r["status"] == "undetermined"]
    if urgent:
        return "data-required"
    return "data-requested" if data["missing"] else "success"


def _notes(data: Json) -> Iterator[str]:
    yield DISCLAIMER
    if data.get("refused"):
        yield _UNCHECKED
    elif not data["inScope"]:
        yield _OUTSIDE
    yield from data["assumptions"]


def _narrative(known: Codings, data: Json, statements: dict[str, str]) -> Json:
    """The answer as a person reads it on a terminal."""
    lines = [DISCLAIMER, *patient_lines(data, known.knowledge.labels_by_name, statements)]
    shown = escape("\n".join(lines), quote=False)
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><pre>{shown}</pre></div>'}


def _requirement(scribe: Scribe, name: str) -> Json:
    """A quantity or attribute that answers lack, by its own IRI and by its verified codes."""
    iri = scribe.term(name)
    types = scribe.codings.resource_types(iri)
    return {
        "type": types[0] if types else "Resource",
        "codeFilter": [{"path": "code", "code": [scribe.codings.own(iri), *scribe.codings.codes(iri)]}],
    }


def _outcome(scribe: Scribe, data: Json) -> Json | None:
    """Everything of the record that was refused, set aside, not read or not used, and what is unusual."""
    found: list[Json] = []
    for key, severity, code, head in (
        ("refused", "error", "invalid", "refused"),
        ("setAside", "warning", "invalid", "set aside, counts as missing"),
        ("warnings", "information", "business-rule", "used as reported, but unusual"),
    ):
        found += [
            _problem(severity, code, f"{head}: {v['message']}", f"{v['focus']} {v['path'] or ''}") for v in data.get(key, ())
        ]
    found += [_not_read(entry) for entry in data.get("notRead", ())]
    for label, count in data.get("notNeeded", {}).items():
        found.append(_problem("information", "not-supported", f"not needed by the guideline: {label}: {count}", ""))
    found += [
        _problem("information", "informational", f"on record, not used: {fact_text(f)}: {f['reasonLabel']}", f["fact"])
        for f in data["notUsed"]
    ]
    if not data["inScope"] and not data.get("refused"):
        found.append(_problem("information", "informational", _OUTSIDE, ""))
    return scribe.add("OperationOutcome", "outcome", {"issue": found}) if found else None


def _not_read(entry: Any) -> Json:
    if isinstance(entry, str):
        return _problem("warning", "not-found", "not read: it belongs to no patient", entry)
    severity = "warning" if entry["matters"] else "information"
    what = entry["code"] or entry["concept"] or entry["resource"]
    return _problem(severity, "not-supported", f"not read: {what}: {entry['reason']}", entry["resource"])


def _problem(severity: str, code: str, words: str, where: str) -> Json:
    found: Json = {"severity": severity, "code": code, "details": {"text": words}}
    return found | ({"diagnostics": where.strip()} if where.strip() else {})


def _strays(scribe: Scribe, unassigned: list[Any]) -> Json:
    return scribe.add("OperationOutcome", "unassigned", {"issue": [_not_read(entry) for entry in unassigned]})


def _provenance(scribe: Scribe, data: Json, about: Json) -> None:
    """By what the answer was made and from what: this software and this version of the knowledge base, from these facts."""
    entries = [e for kind in ("recommendations", "prohibitions", "assessments", "cautions") for e in data[kind]]
    facts = scribe.facts(f for e in entries for f in (*e["because"], *e.get("orders", ())))
    scribe.add(
        "Provenance",
        "provenance",
        {
            "target": [{"reference": f"urn:uuid:{resource['id']}"} for resource in scribe.made],
            "occurredDateTime": scribe.as_of,
            "recorded": scribe.as_of,
            "agent": [{"type": {"text": "assembler"}, "who": scribe.device()}],
            "entity": [
                {"role": "derivation", "what": {"reference": f"urn:uuid:{_library_id(about)}", "display": _named(about)}},
                *({"role": "source", "what": fact} for fact in facts),
            ],
        },
    )


def _named(about: Json) -> str:
    return f"{about['iri']} {about['version']}, sha256 {about['sha256']}"


def _library_id(about: Json) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, _named(about)))


def _library(kb: KnowledgeBase, known: Codings) -> Json:
    """The knowledge base: its status is draft, because no clinician has approved it."""
    about = kb.about
    found = {
        "resourceType": "Library",
        "id": _library_id(about),
        "url": about["iri"],
        "identifier": [{"type": {"text": "sha256"}, "system": CG["sha256"].value, "value": about["sha256"]}],
        "version": about["version"],
        "title": known.title(about["iri"]),
        "status": "draft",
        "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/library-type", "code": "logic-library"}]},
        "description": DISCLAIMER,
    }
    return {key: value for key, value in found.items() if value}


def _device() -> Json:
    from kbtool import __version__

    return {
        "resourceType": "Device",
        "id": device_uuid(),
        "status": "active",
        "deviceName": [{"name": "kbtool", "type": "model-name"}],
        "type": {"text": "decision support software"},
        "version": [{"value": __version__}],
    }
