"""List the facts that one can state: classes with label, codes, units and plausible range."""

from __future__ import annotations

from typing import Any

import pyoxigraph as ox

from kbtool.api import KnowledgeBase
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, DCTERMS, RDFS, SKOS, local_name

Json = dict[str, Any]

_KINDS = ("Treatment", "Session", "Setting", "Finding", "Observation", "Medication", "Order")
_VALUE_KINDS = ("Phase", "Course", "State")


def find(kb: KnowledgeBase, word: str | None = None) -> list[Json]:
    """The terms whose name, label, definition or code contains a word; all of them without one.

    Each has: name, iri, kind, label, definition, above (superclasses), units, canonicalUnit, minimum, maximum (in the
    canonical unit), currencyHours, codes (system, code, display, verified, source).
    """
    knowledge = kb.knowledge
    found = [term for kind in _KINDS for term in _classes(knowledge, kind)]
    found += [_individual(knowledge, kind, iri) for kind in _VALUE_KINDS for iri in knowledge.instances(CG[kind])]
    if word is not None:
        needle = word.lower()
        found = [t for t in found if needle in _haystack(t)]
    return found


def _classes(knowledge: Knowledge, kind: str) -> list[Json]:
    query = f"""PREFIX rdfs: <{RDFS.iri}> PREFIX owl: <http://www.w3.org/2002/07/owl#>
        SELECT DISTINCT ?class WHERE {{
          ?class rdfs:subClassOf+ <{CG[kind].value}> FILTER NOT EXISTS {{ ?class owl:equivalentClass ?definition }} }}"""
    rows: Any = knowledge.graph.query(query)
    return [
        _class(knowledge, kind, iri)
        for iri in sorted(row["class"].value for row in rows if isinstance(row["class"], ox.NamedNode))
    ]


def _class(knowledge: Knowledge, kind: str, iri: str) -> Json:
    codes = [
        {
            "system": knowledge.value(code, CG["codeSystem"]),
            "code": knowledge.value(code, SKOS["notation"]),
            "display": knowledge.value(code, CG["display"]),
            "verified": knowledge.value(code, CG["verified"]) == "true",
            "source": knowledge.value(code, DCTERMS["source"]),
        }
        for code in knowledge.values(iri, CG["hasCode"])
    ]
    return _individual(knowledge, kind, iri) | {
        "above": [local_name(c) for c in knowledge.values(iri, RDFS["subClassOf"])],
        "units": sorted(knowledge.value(u, CG["ucum"]) or "" for u in knowledge.values(iri, CG["acceptsUnit"])),
        "canonicalUnit": knowledge.value(iri, CG["canonicalUnit"]),
        "minimum": knowledge.value(iri, CG["plausibleMinimum"]),
        "maximum": knowledge.value(iri, CG["plausibleMaximum"]),
        "currencyHours": knowledge.value(iri, CG["currencyHours"]),
        "codes": codes,
    }


def _individual(knowledge: Knowledge, kind: str, iri: str) -> Json:
    return {
        "name": local_name(iri),
        "iri": iri,
        "kind": kind,
        "label": knowledge.labels.get(iri, ""),
        "definition": knowledge.value(iri, SKOS["definition"]) or "",
    }


def _haystack(term: Json) -> str:
    codes = " ".join(f"{c['code']} {c['display']}" for c in term.get("codes", []))
    return f"{term['name']} {term['label']} {term['definition']} {codes}".lower()


def show(found: list[Json]) -> str:
    """Terms as text, a block each."""
    lines = []
    for term in found:
        lines.append(f"{term['name']}  ({term['kind']})  {term['label']}")
        lines.append(f"    {term['definition']}")
        if term.get("above"):
            lines.append(f"    is a: {', '.join(term['above'])}")
        if term.get("units"):
            span = (
                f"; plausible {term['minimum']} to {term['maximum']} {term['canonicalUnit']}"
                if term["minimum"] is not None
                else ""
            )
            lines.append(f"    units: {', '.join(term['units'])}{span}")
        if term.get("currencyHours"):
            lines.append(f"    stays current for {term['currencyHours']} h")
        for code in term.get("codes", []):
            doubt = "" if code["verified"] else " (not verified)"
            lines.append(f"    {code['system']} {code['code']} {code['display']}{doubt}")
    return "\n".join(lines)
