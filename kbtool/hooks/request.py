"""Read the request of a CDS Client, as sections "Calling a CDS Service" and "Providing FHIR Resources to a CDS Service" of
CDS Hooks 2.0 and the definitions of the hooks prescribe it.

Nothing is ever fetched from the fhirServer that a request names, and its access token is not looked at. An answer is for
the patient of the context: a request that holds data of somebody else is refused. A message never repeats the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pyoxigraph as ox

from kbtool.facts import BASE, FactsError
from kbtool.fhir.read import NotRead, PatientRead, Read, loads, read_resources
from kbtool.hooks.prefetch import Template, templates
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, RDF

Json = dict[str, Any]

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_RELATIVE = re.compile(r"[A-Z][A-Za-z]*/[A-Za-z0-9.-]{1,64}")
_PATIENT = re.compile(r"Patient/[^/]*$")
_ORDER_HOOKS = {"order-select", "order-sign"}
_SUBJECTS = ("subject", "patient")
_ANOTHER = "prefetch or context holds data of another patient than context.patientId"


class Refusal(Exception):  # noqa: N818
    """The request cannot be answered; status: of the HTTP response. The message says what is wrong and where."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Draft:
    """An order in draft. reference: Type/id, or the URN of its entry where it has no id. selected: whether the clinician
    has just chosen it (order-select), or is about to sign it (order-sign)."""

    reference: str
    resource: Json
    selected: bool

    @property
    def text(self) -> str:
        """What the order calls itself: its text, or the display of a code; nothing where it has neither."""
        medication = self.resource.get("medication")
        concepts = [
            self.resource.get("medicationCodeableConcept"),
            medication.get("concept") if isinstance(medication, dict) else None,
            self.resource.get("code"),
        ]
        for concept in concepts:
            for part in _parts(concept):
                return part
        return ""

    @property
    def deletable(self) -> bool:
        """Whether a client can be told to remove it: it has an id."""
        return _RELATIVE.fullmatch(self.reference) is not None


@dataclass
class Request:
    """A request that can be answered.

    missing: the templates that the client did not satisfy. more: keys of searches of which only the first page was sent.
    """

    hook: str
    patient_id: str
    read: Read
    drafts: tuple[Draft, ...]
    missing: tuple[Template, ...]
    more: tuple[str, ...]

    @property
    def patient(self) -> PatientRead:
        """What was read of the patient."""
        return self.read.patients[BASE + self.reference]

    def not_read(self, draft: Draft) -> list[NotRead]:
        """Why an order in draft of something that the guideline knows was not read, in whole or in part."""
        mine = (e for e in (*self.patient.not_read, *self.read.stray) if e.resource.partition("#")[0] == draft.reference)
        return [entry for entry in mine if entry.matters or entry.concept]

    @property
    def empty(self) -> bool:
        """Whether nothing of the patient was read."""
        return all(quad.predicate == RDF["type"] and quad.object == CG["Patient"] for quad in self.patient.quads)

    @cached_property
    def classes(self) -> dict[str, list[str]]:
        """What each resource was read as: the IRIs of classes, by its reference."""
        found: dict[str, list[str]] = {}
        for quad in self.patient.quads:
            reference = self.read.origins.get(quad.subject.value) if isinstance(quad.subject, ox.NamedNode) else None
            if reference is not None and quad.predicate == RDF["type"] and isinstance(quad.object, ox.NamedNode):
                found.setdefault(reference, []).append(quad.object.value)
        return found

    @property
    def reference(self) -> str:
        """The reference to the patient."""
        return f"Patient/{self.patient_id}"


def parse(knowledge: Knowledge, hook: str, body: bytes) -> Request:
    """Check a request for a service of a hook and read what it holds. Raises Refusal."""
    document = decoded(body)
    asked = _text(document, "hook")
    if asked != hook:
        raise Refusal(400, f"this service is for the hook {hook}; the request says another one")
    if not _UUID.fullmatch(_text(document, "hookInstance")):
        raise Refusal(400, "hookInstance is not a UUID")
    context = document.get("context")
    if not isinstance(context, dict):
        raise Refusal(400, "context is missing or not an object")
    _text(context, "userId", "context.")
    patient_id = _text(context, "patientId", "context.").removeprefix("Patient/")
    if not _ID.fullmatch(patient_id):
        raise Refusal(400, "context.patientId is not the id of a FHIR resource")
    server = document.get("fhirServer")
    home = server.rstrip("/") + "/" if isinstance(server, str) and server else None
    drafts = _drafts(context, hook, patient_id) if hook in _ORDER_HOOKS else ()
    prefetch = document.get("prefetch", {})
    if not isinstance(prefetch, dict):
        raise Refusal(400, "prefetch is not an object")
    sent = {key: value for key, value in prefetch.items() if _satisfied(value)}
    missing = tuple(t for t in templates(knowledge) if t.key not in sent)
    if any(template.scope for template in missing):
        keys = ", ".join(t.key for t in templates(knowledge) if t.scope)
        raise Refusal(412, f"prefetch lacks what tells whether the guideline speaks for the patient: {keys}. Nothing is fetched")
    resources = _collected(sent, drafts, patient_id, home)
    if len(_servers(resources)) > (home is None):
        raise Refusal(400, _ANOTHER)
    try:
        read = read_resources(resources, knowledge)
    except FactsError as error:
        raise Refusal(400, f"prefetch or context cannot be read as FHIR: {error}") from None
    if set(read.patients) != {f"{BASE}Patient/{patient_id}"}:
        raise Refusal(400, _ANOTHER)
    more = tuple(key for key, value in sent.items() if _more_pages(value))
    return Request(hook, patient_id, read, drafts, missing, more)


def decoded(body: bytes) -> Json:
    """The JSON object of a request. Raises Refusal."""
    try:
        document = loads(body, "the request")
    except FactsError as error:
        raise Refusal(400, str(error)) from None
    if not isinstance(document, dict):
        raise Refusal(400, "the request is not a JSON object")
    return document


def _parts(concept: Any) -> Iterator[str]:
    """The text of a CodeableConcept, then the displays of its codings."""
    if isinstance(concept, dict):
        codings = concept.get("coding")
        displays = [c.get("display") for c in codings if isinstance(c, dict)] if isinstance(codings, list) else []
        yield from (part for part in (concept.get("text"), *displays) if isinstance(part, str) and part.strip())


def _text(container: Json, key: str, where: str = "") -> str:
    value = container.get(key)
    if not isinstance(value, str) or not value:
        raise Refusal(400, f"{where}{key} is missing or not a text")
    return value


def _satisfied(value: Any) -> bool:
    """Whether a prefetch value is data: null is (there is none on record), an error of the client is not."""
    if value is None:
        return True
    return isinstance(value, dict) and isinstance(value.get("resourceType"), str) and value["resourceType"] != "OperationOutcome"


def _more_pages(value: Any) -> bool:
    links = value.get("link") if isinstance(value, dict) else None
    return isinstance(links, list) and any(isinstance(link, dict) and link.get("relation") == "next" for link in links)


def _entries(bundle: Any, where: str) -> Iterator[tuple[str, Json]]:
    """The resources of a Bundle with their fullUrl. Raises Refusal for a Bundle that is none."""
    entries = bundle.get("entry", [])
    if not isinstance(entries, list):
        raise Refusal(400, f"{where}: the entry of the Bundle is not a list")
    for entry in entries:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict):
            raise Refusal(400, f"{where}: an entry of the Bundle has no resource")
        url = entry.get("fullUrl")
        yield url if isinstance(url, str) else "", resource


def _drafts(context: Json, hook: str, patient_id: str) -> tuple[Draft, ...]:
    """The orders in draft. What is being written may be incomplete: by the definition of the hooks it is an order, in draft,
    for the patient in context, where it does not say so itself."""
    bundle = context.get("draftOrders")
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        raise Refusal(400, "context.draftOrders is missing or not a Bundle")
    selections = context.get("selections")
    if hook == "order-select" and not (isinstance(selections, list) and all(isinstance(s, str) for s in selections)):
        raise Refusal(400, "context.selections is missing or not a list of texts")
    found = []
    for number, (url, resource) in enumerate(_entries(bundle, "context.draftOrders")):
        kind, identifier = resource.get("resourceType"), resource.get("id")
        if not isinstance(kind, str):
            raise Refusal(400, "context.draftOrders: a resource has no resourceType")
        reference = f"{kind}/{identifier}" if isinstance(identifier, str) and _ID.fullmatch(identifier) else url
        if not any(isinstance(resource.get(key), dict) and "reference" in resource[key] for key in _SUBJECTS):
            resource = resource | {"subject": {"reference": f"Patient/{patient_id}"}}
        if "status" not in resource:
            resource = resource | {"status": "draft"}
        if resource.get("intent") in (None, "proposal", "plan"):
            resource = resource | {"intent": "order"}
        found.append((reference or f"urn:uuid:{uuid5(NAMESPACE_URL, f'draft {number}')}", resource))
    tails = {s.rpartition("/")[2] for s in selections} if hook == "order-select" and isinstance(selections, list) else set()
    chosen = [reference for reference, _ in found if reference.rpartition("/")[2] in tails]
    everything = len(chosen) < len(tails) or hook == "order-sign"
    return tuple(Draft(reference, resource, everything or reference in chosen) for reference, resource in found)


def _collected(sent: Json, drafts: tuple[Draft, ...], patient_id: str, home: str | None) -> list[Json]:
    """Every resource of the request once; an order in draft replaces its copy in the record. Full URLs are left out and
    references to the client's own server made relative, so that all speak of the same patient."""
    found: dict[Any, Json] = {("Patient", patient_id): {"resourceType": "Patient", "id": patient_id}}
    for key, value in sent.items():
        if value is None:
            continue
        bundle = value["resourceType"] == "Bundle"
        for _, resource in _entries(value, f"prefetch.{key}") if bundle else [("", value)]:
            kind, identifier = resource.get("resourceType"), resource.get("id")
            known = (kind, identifier) if isinstance(kind, str) and isinstance(identifier, str) else id(resource)
            found[known] = _relative(resource, home)
    plain: list[Json] = []
    for draft in drafts:
        found.pop(tuple(draft.reference.split("/", 1)), None)
        plain.append({"fullUrl": draft.reference, "resource": _relative(draft.resource, home)})
    entries = [{"resource": resource} for resource in found.values()]
    return [{"resourceType": "Bundle", "type": "collection", "entry": [*entries, *plain]}]


def _servers(resources: list[Json]) -> set[str]:
    """The servers at which resources place their patient, where they name one. The same id on another server is another
    patient; a client that does not name its own server may use one."""
    subjects = [r.get(key) for bundle in resources for e in bundle["entry"] for r in [e["resource"]] for key in _SUBJECTS]
    references = [s["reference"] for s in subjects if isinstance(s, dict) and isinstance(s.get("reference"), str)]
    return {r[: match.start()] for r in references if "://" in r and (match := _PATIENT.search(r))}


def _relative(resource: Json, home: str | None) -> Json:
    if home is not None:
        for key in _SUBJECTS:
            subject = resource.get(key)
            reference = subject.get("reference") if isinstance(subject, dict) else None
            if isinstance(reference, str) and reference.startswith(home):
                return resource | {key: {"reference": reference.removeprefix(home)}}
    return resource
