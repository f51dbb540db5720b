"""FHIR's own rules on resources, as far as tests hold output against them: structure, required codes, references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhir.resources.R4B import get_fhir_model_class

Json = dict[str, Any]


def broken(bundle: Json) -> list[str]:
    """Every rule that a Bundle and its resources break: unknown, missing and wrong elements, codes outside a required
    value set, references within the Bundle that lead nowhere, identifiers that occur twice, actions that are none."""
    found = [*_structure(bundle)]
    entries = bundle["entry"]
    urls = [entry["fullUrl"] for entry in entries]
    found += [f"{url} occurs twice" for url in {u for u in urls if urls.count(u) > 1}]
    for entry in entries:
        resource = entry["resource"]
        if entry["fullUrl"] != f"urn:uuid:{resource['id']}":
            found.append(f"{entry['fullUrl']} is not the id of its resource")
        found += [f"{resource['resourceType']}: {text}" for text in _structure(resource)]
        for reference in references(resource):
            if reference.startswith("urn:uuid:") and reference not in urls:
                found.append(f"{resource['resourceType']}: {reference} leads nowhere")
        found += [f"{resource['resourceType']}: an empty element at {path}" for path in _empty(resource)]
        if resource["resourceType"] == "RequestGroup":
            found += [f"rqg-1: {a['id']}" for a in actions(resource) if ("resource" in a) == ("action" in a)]
            found += _related(resource)
    return found


def actions(plan: Json) -> Iterator[Json]:
    """All actions of a RequestGroup, at any depth."""
    waiting = list(plan.get("action", ()))
    while waiting:
        action = waiting.pop(0)
        yield action
        waiting += action.get("action", ())


def references(node: Any) -> Iterator[str]:
    """Every Reference.reference in a resource."""
    if isinstance(node, dict):
        if isinstance(node.get("reference"), str) and "language" not in node:
            yield node["reference"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def _related(plan: Json) -> list[str]:
    known = {action["id"] for action in actions(plan)}
    links = [r["actionId"] for action in actions(plan) for r in action.get("relatedAction", ())]
    return [f"relatedAction {link} leads nowhere" for link in links if link not in known]


def _structure(resource: Json) -> Iterator[str]:
    model = get_fhir_model_class(resource["resourceType"])
    try:
        made = model.model_validate(resource)
    except ValueError as error:
        yield str(error)
        return
    yield from _codes(made, resource["resourceType"])


def _codes(made: Any, path: str) -> Iterator[str]:
    """Codes outside a value set that FHIR requires."""
    for name, field in type(made).model_fields.items():
        value = getattr(made, name, None)
        if value is None:
            continue
        allowed = (field.json_schema_extra or {}).get("enum_values")
        for each in value if isinstance(value, list) else [value]:
            if allowed and isinstance(each, str) and each not in allowed:
                yield f"{path}.{name}: {each} is not one of {allowed}"
            elif hasattr(type(each), "model_fields") and not (path == "Bundle" and name == "entry"):
                yield from _codes(each, f"{path}.{name}")


def _empty(node: Any, path: str = "") -> Iterator[str]:
    if node in (None, "", [], {}):
        yield path
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _empty(value, f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _empty(value, f"{path}[{number}]")
