"""CDS Hooks 2.0 as pure functions: what a server answers to a CDS Client, without HTTP, clock, network, store or log.

`discovery` is section "Discovery" of the specification, `call` is "Calling a CDS Service" and "CDS Service Response",
`feedback` is "Feedback"; `auth` is "Trusting CDS Clients".
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from kbtool import engine
from kbtool.api import KnowledgeBase
from kbtool.fhir.coding import codings
from kbtool.namespaces import local_name

Json = dict[str, Any]

HOOKS = {
    "patient-view": "what to do and what never to do for the patient whose chart is opened",
    "order-select": "whether an order that is being chosen is forbidden, and what endangers the patient now",
    "order-sign": "whether an order that is about to be signed is forbidden, and what endangers the patient now",
}
"""The hooks that there are services for, and what the service says."""

_USAGE = (
    "Records are read by the codes of the terminologies that the knowledge base names. What is not sent, or not coded in them, "
    "counts as unknown for measurements and as absent for everything else. The service never calls the FHIR server."
)


def services(kb: KnowledgeBase) -> dict[str, str]:
    """The hook of each service, by the id of the service: the name of the knowledge base and the hook."""
    name = re.sub(r"[^a-z0-9]+", "-", local_name(kb.about["iri"].rstrip("/#")).lower()).strip("-") or "guideline"
    return {f"{name}-{hook}": hook for hook in HOOKS}


def discovery(kb: KnowledgeBase) -> Json:
    """The services with their prefetch templates (section "Discovery", HTTP status 200).

    Called once before the first request, it makes what all calls share.
    """
    from kbtool.hooks.prefetch import templates

    if "_hooks" not in kb.knowledge.__dict__:
        kb.knowledge.__dict__["_hooks"] = _prepare(kb)
    prefetch = {template.key: template.query for template in templates(kb.knowledge)}
    title = codings(kb.knowledge).title(kb.about["iri"]) or kb.about["iri"]
    return {
        "services": [
            {
                "hook": hook,
                "title": title,
                "description": f"Says {HOOKS[hook]}, by version {kb.about['version']} of the knowledge base.",
                "id": identifier,
                "prefetch": dict(prefetch),
                "usageRequirements": _USAGE,
            }
            for identifier, hook in services(kb).items()
        ]
    }


def call(kb: KnowledgeBase, service_id: str, body: bytes, *, now: datetime) -> tuple[int, Json]:
    """The response of a service to a request (sections "Calling a CDS Service" and "CDS Service Response").

    body: the bytes of the request. now: the time of the assessment, with a zone. Gives an HTTP status and a JSON object:
    200 and cards; 400 for a request that breaks the specification, or that holds data of another patient; 404 for an
    unknown service; 412 where what was prefetched does not tell whether the guideline speaks for the patient. Errors are
    OperationOutcomes and repeat nothing of the record. Raises AsOfError for a time without a zone, nothing for any body.
    """
    from kbtool.hooks.cards import Deck
    from kbtool.hooks.request import Refusal, parse

    moment = engine.parse_as_of(now)
    hook = services(kb).get(service_id)
    if hook is None:
        return _unknown()
    try:
        request = parse(kb.knowledge, hook, body)
    except Refusal as refusal:
        return refusal.status, problem(str(refusal))
    data = next(engine.assess(kb.knowledge, request.read.facts(), moment)).data
    return 200, {"cards": Deck(kb, request, data, service_id).cards()}


def feedback(kb: KnowledgeBase, service_id: str, body: bytes) -> tuple[int, Json]:
    """The response to feedback on cards (section "Feedback"): 200 where it is well formed, otherwise 400, or 404 for an
    unknown service. Nothing of it is kept."""
    from kbtool.hooks.outcomes import check
    from kbtool.hooks.request import Refusal

    if service_id not in services(kb):
        return _unknown()
    try:
        check(body)
    except Refusal as refusal:
        return refusal.status, problem(str(refusal))
    return 200, {}


def _prepare(kb: KnowledgeBase) -> bool:
    """Make what every call needs, by a call for a patient of whom nothing is on record: a server that answers in child
    processes would otherwise make it anew for each."""
    from kbtool.answer import rule_book
    from kbtool.hooks.prefetch import templates

    known = codings(kb.knowledge)
    made = (rule_book(kb.knowledge), known.statements, known.iris, kb.knowledge.labels_by_name)
    context = {"userId": "Practitioner/1", "patientId": "1"}
    prefetch = {template.key: None for template in templates(kb.knowledge)}
    request = {"hook": "patient-view", "hookInstance": str(UUID(int=0)), "context": context, "prefetch": prefetch}
    service = next(identifier for identifier, hook in services(kb).items() if hook == "patient-view")
    status, _ = call(kb, service, json.dumps(request).encode(), now=datetime.now(UTC))
    return status == 200 and bool(made)


def problem(message: str) -> Json:
    """An error as an OperationOutcome."""
    issue = {"severity": "error", "code": "processing", "details": {"text": message}}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def _unknown() -> tuple[int, Json]:
    return 404, problem("there is no service of this id; GET cds-services lists them")
