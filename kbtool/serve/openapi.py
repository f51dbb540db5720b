"""The OpenAPI description of the service: a file, in which the examples are filled in from the knowledge base that is served."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pyoxigraph as ox

import kbtool
from kbtool import hooks
from kbtool.api import KnowledgeBase
from kbtool.facts import BASE
from kbtool.hooks.prefetch import templates
from kbtool.namespaces import CG, local_name

Json = dict[str, Any]

_QUERY = """PREFIX cg: <https://w3id.org/kbtool/cg/>
PREFIX skos: <http://www.w3.org/2004/02/skos/core#>
SELECT ?rule ?label { ?rule a cg:Recommendation ; skos:prefLabel ?label } ORDER BY ?label LIMIT 5"""
_QUERY_OF_PATIENTS = """PREFIX cg: <https://w3id.org/kbtool/cg/>
SELECT ?patient ?rule { ?patient a cg:Patient ; cg:recommended ?rule } ORDER BY ?patient ?rule"""
_NOBODY = "<https://example.org/patient/1> a <https://w3id.org/kbtool/cg/Patient> .\n"
_NOON = "2026-02-10T12:00:00Z"
_FORMATS = {"JSON-LD": ox.RdfFormat.JSON_LD, "N-Triples": ox.RdfFormat.N_TRIPLES, "RDF/XML": ox.RdfFormat.RDF_XML}


def description(kb: KnowledgeBase, url: str, *, facts: bool, patient: tuple[str, str, str | None] | None = None) -> Json:
    """The description. url: of the service. facts: whether facts of patients stay here; where they do not, what shows them is
    left out. patient: for the examples, the name of a worked patient, its facts in Turtle and its time."""
    text = (files("kbtool.serve") / "openapi.json").read_text(encoding="utf-8")
    for name, value in _examples(kb, patient).items():
        text = text.replace(json.dumps("{" + name + "}"), json.dumps(value))
    found: Json = json.loads(text)
    found["info"]["version"] = kbtool.__version__
    found["servers"] = [{"url": url}]
    answers = json.loads(
        (files("kbtool") / "assess.schema.json").read_text(encoding="utf-8").replace("#/$defs/", "#/components/schemas/")
    )
    found["components"]["schemas"] |= {
        **answers.pop("$defs"),
        "Answers": {k: v for k, v in answers.items() if k not in ("$schema", "$id")},
    }
    if not facts:
        found["paths"] = {path: item for path, item in found["paths"].items() if not path.startswith("/patients")}
        del found["components"]["securitySchemes"]["token"]
        for operation in (each for item in found["paths"].values() for each in item.values()):
            if operation.get("security") == [{"token": []}]:
                del operation["security"], operation["responses"]["401"]
    return found


def _examples(kb: KnowledgeBase, patient: tuple[str, str, str | None] | None) -> dict[str, Any]:
    name, turtle, as_of = patient or ("", _NOBODY, None)
    rules = sorted(kb.knowledge.instances(CG["Recommendation"]))
    kinds = {kind: _as(turtle, form) for kind, form in _FORMATS.items()}
    empty = {"resourceType": "Bundle", "type": "searchset", "entry": []}
    asked = {each.key: empty if "?" in each.query else {"resourceType": "Patient", "id": "1"} for each in templates(kb.knowledge)}
    return {
        "patient": turtle,
        "patient as JSON-LD": json.loads(kinds["JSON-LD"]),
        "patient as N-Triples": kinds["N-Triples"],
        "patient as RDF/XML": kinds["RDF/XML"],
        "name": name,
        "asOf": as_of or _NOON,
        "rule": local_name(rules[0]) if rules else "",
        "query": _QUERY,
        "query of patients": _QUERY_OF_PATIENTS,
        "service": next(iter(hooks.services(kb))),
        "prefetch": asked,
    }


def _as(turtle: str, form: ox.RdfFormat) -> str:
    quads = ox.parse(turtle, ox.RdfFormat.TURTLE, base_iri=BASE)
    return (ox.serialize((quad.triple for quad in quads), format=form) or b"").decode()
