"""Terms of a knowledge base as FHIR codings: their own IRIs, and the verified codes of the classes of facts."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pyoxigraph as ox

from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, DCTERMS, OWL, RDF, RDFS, SKOS, local_name, text

Json = dict[str, Any]

_FHIR = "http://hl7.org/fhir/"
_KINDS = ("Observation", "Setting", "Finding", "Treatment", "Session", "Medication", "Order")
_SEVERITY = "http://hl7.org/fhir/detectedissue-severity#"


class Codings:
    """The codings of one knowledge base; `codings(knowledge)` makes them once."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge

    @cached_property
    def iris(self) -> dict[str, str]:
        """The IRI of every term with a label, by the local name that answers use."""
        return {local_name(iri): iri for iri in self.knowledge.labels}

    @cached_property
    def defined(self) -> frozenset[str]:
        """The classes that are criteria: they have a definition and no code."""
        quads = self.knowledge.graph.quads_for_pattern(None, OWL["equivalentClass"], None, None)
        return frozenset(text(q.subject) for q in quads)

    def own(self, iri: str) -> Json:
        """A term of the knowledge base as a Coding: the system is its namespace, the code its local name."""
        code = local_name(iri)
        return {"system": iri.removesuffix(code), "code": code, "display": self.knowledge.labels.get(iri, code)}

    def concept(self, iri: str, words: str | None = None) -> Json:
        """A term as a CodeableConcept: its own coding first, then the verified codes of exactly this class."""
        return {"coding": [self.own(iri), *self._codes(iri)], "text": words or self.knowledge.labels.get(iri, local_name(iri))}

    def below(self, iri: str) -> list[str]:
        """A class of facts and all classes of facts below it, sorted; criteria are left out."""
        found, waiting = {iri}, [iri]
        while waiting:
            parent = ox.NamedNode(waiting.pop())
            for quad in self.knowledge.graph.quads_for_pattern(None, RDFS["subClassOf"], parent, None):
                child = text(quad.subject)
                if isinstance(quad.subject, ox.NamedNode) and child not in found and child not in self.defined:
                    found.add(child)
                    waiting.append(child)
        return sorted(found)

    def kind(self, iri: str) -> str:
        """The kind of fact that a class is below, as a local name of the guideline language; nothing for another term."""
        return self._kinds.get(iri, "")

    @cached_property
    def _kinds(self) -> dict[str, str]:
        return {iri: kind for kind in _KINDS for iri in self.below(CG[kind].value)}

    def codes(self, iri: str) -> list[Json]:
        """The verified codes of a class and of those below it, as Codings. A code that is not verified reads no record."""
        return [code for one in self.below(iri) for code in self._codes(one)]

    def _codes(self, iri: str) -> list[Json]:
        knowledge, found = self.knowledge, []
        for code in knowledge.values(iri, CG["hasCode"]):
            if knowledge.value(code, CG["verified"]) == "true":
                parts = {
                    "system": knowledge.value(code, CG["codeSystem"]),
                    "code": knowledge.value(code, SKOS["notation"]),
                    "display": knowledge.value(code, CG["display"]),
                }
                found.append({key: value for key, value in parts.items() if value})
        return found

    def resource_types(self, iri: str) -> list[str]:
        """The FHIR resources in which records keep facts of a class, as the guideline language matches its kinds to FHIR."""
        waiting, seen = [iri], {iri}
        while waiting:
            term = waiting.pop(0)
            matched = [m.removeprefix(_FHIR) for m in self.knowledge.values(term, SKOS["closeMatch"]) if m.startswith(_FHIR)]
            if matched:
                return matched
            above = [a for a in self.knowledge.values(term, RDFS["subClassOf"]) if a not in seen]
            seen.update(above)
            waiting += above
        return []

    def severity(self, notation: str | None) -> str:
        """FHIR's severity of a detected issue (high, moderate, low) for a severity of the guideline language, as the
        ontology matches them; high where it says nothing, because too little is the error that harms."""
        for iri in self.knowledge.instances(CG["Severity"]):
            if self.knowledge.value(iri, SKOS["notation"]) == notation:
                for match in self.knowledge.values(iri, SKOS["closeMatch"]):
                    if match.startswith(_SEVERITY):
                        return match.removeprefix(_SEVERITY)
        return "high"

    def definition(self, iri: str) -> str:
        """The definition of a term, or nothing."""
        return self.knowledge.value(iri, SKOS["definition"]) or ""

    def title(self, iri: str) -> str:
        """The title of a module, or nothing."""
        return self.knowledge.value(iri, DCTERMS["title"]) or ""

    def applies_to(self, rule: str) -> list[str]:
        """The criteria of the patients to whom a rule applies."""
        return self.knowledge.values(rule, CG["appliesTo"])

    def forbidden_recommendations(self, prohibition: str) -> frozenset[str]:
        """The recommendations whose action a prohibition forbids."""
        actions = self.knowledge.values(prohibition, CG["forbids"])
        quads = self.knowledge.graph.quads_for_pattern(None, CG["action"], None, None)
        return frozenset(text(q.subject) for q in quads if text(q.object) in actions)

    def main_statement(self, rule: str, cited: list[str]) -> Json | None:
        """Of the statements that a rule cites, by identifier, the one of the rule's own kind (a prohibition for a
        prohibition), otherwise the first; None where it cites none."""
        known = [self.statements[s] for s in cited if s in self.statements]
        kinds = {local_name(t).lower() for t in self.knowledge.values(rule, RDF["type"])}
        for statement in known:
            types = self.knowledge.values(statement["url"], CG["statementType"])
            if any(self.knowledge.labels.get(t, "").lower() in kinds for t in types):
                return statement
        return known[0] if known else None

    @cached_property
    def statements(self) -> dict[str, Json]:
        """Every statement of the source as a RelatedArtifact: our words, its section, and the works that it cites."""
        knowledge, found = self.knowledge, {}
        for iri in knowledge.instances(CG["Statement"]):
            identifier = knowledge.value(iri, DCTERMS["identifier"]) or local_name(iri)
            works = [self._work(reference) for reference in knowledge.values(iri, CG["reference"])]
            found[identifier] = {
                "type": "citation",
                "label": identifier,
                "display": knowledge.value(iri, SKOS["definition"]) or identifier,
                "citation": "; ".join([f"section {knowledge.value(iri, CG['section'])}", *works]),
                "url": iri,
            }
        return found

    def _work(self, iri: str) -> str:
        knowledge = self.knowledge
        name = knowledge.value(iri, DCTERMS["identifier"]) or local_name(iri)
        title = knowledge.value(iri, DCTERMS["bibliographicCitation"]) or knowledge.value(iri, DCTERMS["title"])
        if knowledge.value(iri, CG["listed"]) == "false":
            return f"{name} (the source cites it and does not list it)"
        return f"{name} {title}" if title else name


def codings(knowledge: Knowledge) -> Codings:
    """The codings of a knowledge base, made once."""
    made = knowledge.__dict__.get("_codings")
    if made is None:
        made = knowledge.__dict__["_codings"] = Codings(knowledge)
    return made
