"""What was derived about a patient, read from the store and put into the order in which a person needs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyoxigraph as ox

from kbtool.facts import PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, DCTERMS, PROV, RDF, RDFS, SKOS, local_name, text
from kbtool.shapes import Violation

if TYPE_CHECKING:
    from rdflib import Graph

    from kbtool.explain import Explainer

Json = dict[str, Any]

KINDS = {
    "Recommendation": "recommendations",
    "Prohibition": "prohibitions",
    "Assessment": "assessments",
    "Caution": "cautions",
}
"""The part of an answer that is about each kind of rule."""

_FACT_PROPERTIES = ("value", "unit", "time", "dailyDose", "start", "end", "onset", "doseSince", "phase", "state", "course")


@dataclass
class PatientResult:
    """The answer for one patient.

    data: the answer as JSON, one entry of "patients" in the schema. triples: the derived triples about the patient.
    explainer: makes what explains the answer; answers of `kb.assess` have one.
    """

    data: Json
    triples: list[ox.Quad] = field(default_factory=list, repr=False)
    explainer: Callable[[], Explainer] | None = field(default=None, repr=False)

    @property
    def patient(self) -> str:
        """The IRI of the patient."""
        return str(self.data["patient"])

    @property
    def in_scope(self) -> bool:
        """Whether the guideline speaks for the patient."""
        return bool(self.data["inScope"])

    @property
    def refused(self) -> list[Json]:
        """Why nothing was derived for the patient; empty where it was."""
        return list(self.data.get("refused", []))

    @property
    def accepted(self) -> bool:
        """Whether every fact of the patient was accepted: nothing refused, nothing set aside."""
        return not self.refused and not self.data["setAside"]

    def state(self, rule: str) -> str | None:
        """The status or state of a rule, by its IRI; None where nothing was derived about it."""
        entries = (entry for kind in KINDS.values() for entry in self.data[kind])
        return next((str(e.get("status") or e.get("state")) for e in entries if e["iri"] == rule), None)

    def _with_status(self, status: str) -> list[str]:
        return [r["name"] for r in self.data["recommendations"] if r["status"] == status]

    @property
    def recommended(self) -> list[str]:
        """Names of the recommendations to carry out now, in order."""
        return self._with_status("recommended")

    @property
    def blocked(self) -> list[str]:
        """Names of the recommendations that wait for a state."""
        return self._with_status("blocked")

    @property
    def undetermined(self) -> list[str]:
        """Names of the recommendations for which facts are lacking."""
        return self._with_status("undetermined")

    @property
    def satisfied(self) -> list[str]:
        """Names of the recommendations that are already met."""
        return self._with_status("satisfied")

    @property
    def contraindicated(self) -> list[str]:
        """Names of the recommendations that a prohibition forbids."""
        return self._with_status("contraindicated")

    @property
    def missing(self) -> list[str]:
        """Names of the quantities and attributes that the answers lack."""
        return list(self.data["missing"])

    def to_json(self) -> Json:
        """The answer as a dictionary, ready for json.dumps."""
        copied: Json = json.loads(json.dumps(self.data))
        return copied

    def to_graph(self) -> Graph:
        """The derived triples as an rdflib graph."""
        from rdflib import Graph

        graph = Graph()
        text = ox.serialize(sorted((q.triple for q in self.triples), key=str), format=ox.RdfFormat.N_TRIPLES)
        graph.parse(data=text or b"", format="nt")
        return graph

    def explain(self, name: str) -> str:
        """Why a rule speaks or does not, and what would change that, as text. Raises NoSuchRuleError, a KeyError."""
        from kbtool.explain_text import render

        return render(self.patient, self.why(name), self._explainer().knowledge.labels_by_name)

    def why(self, name: str) -> Json:
        """The explanation of one rule as JSON, see `explain.Explainer.explain`. Raises NoSuchRuleError, a KeyError."""
        return self._explainer().explain(name)

    def _explainer(self) -> Explainer:
        if self.explainer is None:
            raise KeyError(f"{self.patient}: an answer that was not given by kb.assess cannot be explained")
        return self.explainer()


@dataclass(frozen=True)
class _Rule:
    """What an answer repeats of a rule: its fields in JSON, and the key by which it is ordered."""

    kind: str
    data: Mapping[str, Any]
    key: tuple[int, int, str]
    severity: Mapping[str, Any]


class RuleBook:
    """The rules of a knowledge base in the form in which answers show them."""

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self.rules: dict[str, _Rule] = {}
        for kind in ("Recommendation", "Prohibition", "Assessment", "Caution"):
            for iri in knowledge.instances(CG[kind]):
                self.rules[iri] = self._rule(iri, kind)
        self.statuses = {
            q.subject: knowledge.value(q.subject.value, SKOS["notation"])
            for q in knowledge.graph.quads_for_pattern(None, CG["statusProperty"], None, None)
            if isinstance(q.subject, ox.NamedNode)
        }
        linked = knowledge.graph.quads_for_pattern(None, CG["statusProperty"], None, None)
        self.links = [CG["inScope"], *sorted((q.object for q in linked if isinstance(q.object, ox.NamedNode)), key=str)]
        self.statements = {iri: self._statements(iri) for iri in self.rules}
        self.explained_by = {iri: self._explained_by(iri) for iri in self.rules}
        self.missing_parameters = {iri: self._missing_parameters(iri) for iri in self.rules}
        self.excluded = {iri: knowledge.values(iri, CG["requiresAbsenceOf"]) for iri in self.rules}
        self.assumptions = [
            knowledge.value(iri, SKOS["definition"]) or ""
            for iri in sorted(knowledge.instances(CG["Assumption"]), key=lambda i: self._number(i, "rank"))
        ]
        self.parameters = {
            iri: [
                self._parameter(p)
                for p in sorted(knowledge.values(iri, CG["hasParameter"]), key=lambda p: self._number(p, "rank"))
            ]
            for iri in self.rules
        }

    def label(self, iri: str) -> str:
        """The label of a term, or its local name."""
        return self.knowledge.labels.get(iri, local_name(iri))

    def _number(self, iri: str, prop: str, default: int = 99) -> int:
        value = self.knowledge.value(iri, CG[prop])
        return int(value) if value is not None else default

    def _rule(self, iri: str, kind: str) -> _Rule:
        knowledge = self.knowledge
        severity_iri = knowledge.value(iri, CG["severity"])
        position = self._number(severity_iri, "position") if severity_iri else 99
        severity = {
            "name": (severity_iri and knowledge.value(severity_iri, SKOS["notation"])) or None,
            "conflict": bool(severity_iri and knowledge.value(severity_iri, CG["makesConflict"]) == "true"),
        }
        data: Json = {"name": local_name(iri), "iri": iri, "label": self.label(iri)}
        if kind == "Recommendation":
            step = knowledge.value(iri, CG["step"])
            position = self._number(step, "position") if step else 99
            data["step"] = local_name(step) if step else None
            data["stepLabel"] = self.label(step) if step else None
            data["measures"] = [local_name(m) for m in knowledge.values(iri, CG["measures"])]
            data["strength"] = next((self.label(s) for s in knowledge.values(iri, CG["strength"])), None)
        elif kind == "Caution":
            data = {
                "id": knowledge.value(iri, DCTERMS["identifier"]) or local_name(iri),
                "iri": iri,
                "label": self.label(iri),
                "text": knowledge.value(iri, SKOS["definition"]),
                "severity": severity["name"],
                "sources": knowledge.values(iri, CG["citesSource"]),
            }
        elif kind == "Prohibition":
            data["severity"] = severity["name"]
            position = 0
        else:
            data["emergency"] = knowledge.value(iri, CG["emergency"]) == "true"
            data["family"] = next((self.label(f) for f in knowledge.values(iri, CG["family"])), None)
            position = 0
        return _Rule(kind, data, (position, self._number(iri, "rank"), str(data.get("id", data.get("name")))), severity)

    def _statements(self, iri: str) -> list[str]:
        """The identifiers of the statements that a rule cites."""
        cited = self.knowledge.values(iri, CG["citesStatement"])
        return sorted(self.knowledge.value(s, DCTERMS["identifier"]) or local_name(s) for s in cited)

    def _explained_by(self, iri: str) -> list[str]:
        """The identifiers of the statements that explain a rule, its action, its criterion or a statement it cites."""
        explained = {
            iri,
            *(
                value
                for link in ("action", "forbids", "appliesTo", "citesStatement")
                for value in self.knowledge.values(iri, CG[link])
            ),
        }
        found = {
            text(quad.subject)
            for each in explained
            for quad in self.knowledge.graph.quads_for_pattern(None, CG["explains"], ox.NamedNode(each), None)
        }
        return sorted(
            {self.knowledge.value(s, DCTERMS["identifier"]) or local_name(s) for s in found} - set(self.statements[iri])
        )

    def _missing_parameters(self, iri: str) -> list[Json]:
        """What the source does not give for a rule."""
        return [{"name": local_name(p), "label": self.label(p)} for p in self.knowledge.values(iri, CG["hasMissingParameter"])]

    def _parameter(self, iri: str) -> Json:
        knowledge = self.knowledge
        data: Json = {"name": local_name(iri), "label": self.label(iri), "unit": knowledge.value(iri, CG["ucum"])}
        amount, limits = knowledge.value(iri, CG["amount"]), knowledge.value(iri, CG["parameterRange"])
        if amount is not None:
            data["value"] = amount
        if limits is not None:
            facets = dict(self._facets(limits))
            exact = knowledge.value(iri, CG["isLimit"]) == "true"
            data |= {"value": next(iter(facets.values()))} if exact else facets
            data["definedBy"] = knowledge.value(limits, RDFS["isDefinedBy"])
        computed = knowledge.value(iri, CG["computedFrom"])
        if computed is not None:
            data["computedFrom"] = computed
        return data

    def _facets(self, datatype: str) -> Iterator[tuple[str, str]]:
        for facet in ("minInclusive", "minExclusive", "maxInclusive", "maxExclusive"):
            for number in self.knowledge.values(datatype, CG[facet]):
                yield facet, number


def statement_texts(knowledge: Knowledge) -> dict[str, str]:
    """What each statement of the source says, in our words, with its section and references; by identifier."""
    found = {}
    for iri in knowledge.instances(CG["Statement"]):
        references = [knowledge.value(r, DCTERMS["identifier"]) or local_name(r) for r in knowledge.values(iri, CG["reference"])]
        unlisted = [r for r in knowledge.values(iri, CG["reference"]) if knowledge.value(r, CG["listed"]) == "false"]
        note = ", which the source cites and does not list" if unlisted else ""
        where = f"{knowledge.value(iri, CG['section'])}; {' '.join(references)}{note}"
        found[knowledge.value(iri, DCTERMS["identifier"]) or local_name(iri)] = (
            f"{knowledge.value(iri, SKOS['definition'])} ({where})"
        )
    return found


def rule_book(knowledge: Knowledge) -> RuleBook:
    """The rule book of a knowledge base, made once."""
    book = knowledge.__dict__.get("_rule_book")
    if book is None:
        book = knowledge.__dict__["_rule_book"] = RuleBook(knowledge)
    return book


def read_answers(
    store: ox.Store,
    knowledge: Knowledge,
    batch: Iterable[PatientFacts],
    set_aside: Mapping[str, list[Violation]],
    refused: Mapping[str, list[Violation]],
    warnings: Mapping[str, list[Violation]],
) -> Iterator[PatientResult]:
    """Read the derived answers of each patient of a batch, in the order of the batch."""
    book = rule_book(knowledge)
    answers: dict[Any, dict[str, list[Any]]] = {}
    of_patient: dict[Any, list[Any]] = {}
    for quad in store.quads_for_pattern(None, RDF["type"], CG["Answer"], None):
        entry: dict[str, list[Any]] = {}
        for each in store.quads_for_pattern(quad.subject, None, None, None):
            entry.setdefault(local_name(each.predicate.value), []).append(each.object)
        answers[quad.subject] = entry
        of_patient.setdefault(entry["ofPatient"][0], []).append(quad.subject)
    for record in batch:
        key = str(record.patient)
        name = record.patient.value if isinstance(record.patient, ox.NamedNode) else key
        base: Json = {"patient": name}
        if key in refused:
            base |= {"inScope": False, "refused": [_violation(v) for v in refused[key]]}
        else:
            base |= {"inScope": any(True for _ in store.quads_for_pattern(record.patient, CG["inScope"], None, None))}
        base["setAside"] = [_violation(v) for v in set_aside.get(key, ())]
        base["warnings"] = [_violation(v) for v in warnings.get(key, ())]
        mine = of_patient.get(record.patient, [])
        reader = _Reader(store, book, record, [(node, answers[node]) for node in mine])
        yield PatientResult(base | reader.read(), reader.triples())


def _violation(violation: Violation) -> Json:
    focus = violation.focus
    return {
        "focus": focus.value if isinstance(focus, ox.NamedNode) else str(focus),
        "path": violation.path,
        "value": violation.value,
        "message": violation.message,
        "shape": violation.shape,
    }


class _Reader:
    """Reads the answers of one patient."""

    def __init__(
        self, store: ox.Store, book: RuleBook, record: PatientFacts, answers: list[tuple[Any, dict[str, list[Any]]]]
    ) -> None:
        self.store, self.book, self.record, self.answers = store, book, record, answers
        self.nodes: dict[Any, dict[str, list[Any]]] = {}
        for quad in (*record.triples, *record.reported):
            name = "type" if quad.predicate == RDF["type"] else local_name(quad.predicate.value)
            self.nodes.setdefault(quad.subject, {}).setdefault(name, []).append(quad.object)

    def read(self) -> Json:
        cautions = self._cautions()
        by_target: dict[str, list[Json]] = {}
        for caution in cautions:
            for target in caution["on"]:
                by_target.setdefault(target["iri"], []).append(caution)
        found: dict[str, list[tuple[tuple[Any, ...], Json]]] = {k: [] for k in ("Recommendation", "Prohibition", "Assessment")}
        for _, entry in self.answers:
            iri = entry["about"][0].value
            rule = self.book.rules[iri]
            if rule.kind in found:
                found[rule.kind].append(self._entry(rule, iri, entry, by_target.get(iri, [])))
        sections = {k: [data for _, data in sorted(v, key=lambda item: item[0])] for k, v in found.items()}
        return {
            "recommendations": sections["Recommendation"],
            "prohibitions": sections["Prohibition"],
            "assessments": sections["Assessment"],
            "cautions": cautions,
            "missing": self._missing(sections, cautions),
            "notUsed": self._not_used(),
            "assumptions": self.book.assumptions if self.answers else [],
        }

    def triples(self) -> list[ox.Quad]:
        """The short links from the patient to rules, and the answer nodes."""
        quads = [q for link in self.book.links for q in self.store.quads_for_pattern(self.record.patient, link, None, None)]
        for node, _ in self.answers:
            quads += self.store.quads_for_pattern(node, None, None, None)
        return quads

    def _entry(self, rule: _Rule, iri: str, entry: dict[str, list[Any]], cautions: list[Json]) -> tuple[tuple[Any, ...], Json]:
        status = self.book.statuses[entry["status"][0]]
        data = dict(rule.data)
        short = [{k: c[k] for k in ("id", "label", "severity", "state", "sources")} for c in cautions]
        conflict = any(c["conflict"] for c in cautions)
        because = self._facts(entry.get("because", []))
        needs = sorted({local_name(n.value) for n in entry.get("needs", [])})
        common = {
            "because": because,
            "needs": needs,
            "statements": self.book.statements[iri],
            "explainedBy": self.book.explained_by[iri],
            "cautions": short,
            "conflict": conflict,
        }
        if rule.kind == "Recommendation":
            data |= {
                "status": status,
                **common,
                "blockedBy": sorted(local_name(n.value) for n in entry.get("blockedBy", [])),
                "blockedWhile": [
                    local_name(n) for n in self.book.excluded[iri] if n in {b.value for b in entry.get("blockedBy", [])}
                ],
                "openedBy": self._ordered(entry.get("openedBy", [])),
                "parameters": self._parameters(iri, entry.get("because", []), status),
                "missingParameters": self.book.missing_parameters[iri],
            }
            return rule.key, data
        data["state"] = status
        if rule.kind == "Prohibition":
            stop, overridable = "hardStop" in entry, "overridable" in entry
            data |= {
                "hardStop": stop,
                "hardStopPossible": "hardStopPossible" in entry,
                "overridable": overridable,
                "orders": self._facts(entry.get("onOrder", [])),
                **common,
            }
            data["conflict"] = conflict or overridable
            return (
                not stop,
                not overridable,
                "hardStopPossible" not in entry,
                not data["orders"],
                status != "holds",
                *rule.key,
            ), data
        data |= common
        return (not (data["emergency"] and status == "holds"), status != "holds", *rule.key), data

    def _ordered(self, openers: list[Any]) -> list[str]:
        def key(node: Any) -> tuple[Any, ...]:
            rule = self.book.rules.get(node.value)
            return rule.key if rule else (99, 99, node.value)

        return [local_name(node.value) for node in sorted(openers, key=key)]

    def _cautions(self) -> list[Json]:
        found = []
        for _, entry in self.answers:
            rule = self.book.rules[entry["about"][0].value]
            if rule.kind != "Caution":
                continue
            state = self.book.statuses[entry["status"][0]]
            on = [self._target(t) for t in sorted(entry.get("attachedTo", []), key=str)]
            holds = state == "holds"
            data = dict(rule.data) | {
                "state": state,
                "conflict": holds and bool(rule.severity["conflict"]) and any(t["kind"] != "patient" for t in on),
                "on": on,
                "because": self._facts(entry.get("because", [])),
                "needs": sorted({local_name(n.value) for n in entry.get("needs", [])}),
            }
            found.append(((not holds, *rule.key), data))
        return [data for _, data in sorted(found, key=lambda item: item[0])]

    def _target(self, node: Any) -> Json:
        if node == self.record.patient:
            return {"kind": "patient", "name": "patient", "iri": self.record.patient.value, "label": "the patient"}
        rule = self.book.rules.get(node.value)
        kind = rule.kind.lower() if rule else "criterion"
        if rule is None:
            for base in ("Medication", "Order"):
                if self._below(node, CG[base]):
                    kind = base.lower()
        return {"kind": kind, "name": local_name(node.value), "iri": node.value, "label": self.book.label(node.value)}

    def _below(self, node: Any, base: ox.NamedNode) -> bool:
        return bool(self.store.query(f"ASK {{ {node} <{RDFS['subClassOf'].value}>+ {base} }}"))

    def _parameters(self, iri: str, because: list[Any], status: str | None) -> list[Json]:
        shown = []
        for parameter in self.book.parameters[iri]:
            data = dict(parameter)
            computed = data.pop("computedFrom", None)
            if computed is not None:
                if status not in ("recommended", "blocked"):
                    continue
                values = [
                    text(q.object)
                    for fact in because
                    for q in self.store.quads_for_pattern(fact, ox.NamedNode(computed), None, None)
                ]
                if not values:
                    continue
                data["value"] = sorted(values)[0]
            shown.append(data)
        return shown

    def _facts(self, nodes: list[Any]) -> list[Json]:
        return sorted((self.fact(node) for node in dict.fromkeys(nodes)), key=lambda f: (f["name"], f.get("time", ""), f["fact"]))

    def fact(self, node: Any) -> Json:
        """A fact as reported: class, value and unit as text, times, dose."""
        known = self.nodes.get(node)
        data: Json = {"fact": node.value}
        if known is None:
            return data | self._derived(node)
        types = [t.value for t in known.get("type", []) if isinstance(t, ox.NamedNode) and t.value in self.book.knowledge.labels]
        data |= {"name": local_name(types[0]) if types else "", "label": self.book.label(types[0]) if types else ""}
        for prop in _FACT_PROPERTIES:
            if prop in known:
                values = [v.value if isinstance(v, ox.Literal) else local_name(v.value) for v in known[prop]]
                data[prop] = ", ".join(sorted(values))
        if "reportedValue" in known:
            data["value"] = known["reportedValue"][0].value
        return data

    def _derived(self, node: Any) -> Json:
        found: dict[str, list[Any]] = {}
        for quad in self.store.quads_for_pattern(node, None, None, None):
            found.setdefault(quad.predicate.value, []).append(quad.object)
        inputs = found.get(PROV["wasDerivedFrom"].value, [])
        kinds = [t.value for t in found.get(RDF["type"].value, []) if self.book.knowledge.value(t.value, CG["canonicalUnit"])]
        value = found.get(CG["value"].value, [ox.Literal("")])[0].value
        return {
            "name": local_name(kinds[0]) if kinds else "",
            "label": self.book.label(kinds[0]) if kinds else "",
            "value": _plain(value),
            "unit": found.get(CG["unit"].value, [ox.Literal("")])[0].value,
            "derivedFrom": self._facts(inputs),
        }

    def _missing(self, sections: Mapping[str, list[Json]], cautions: list[Json]) -> list[str]:
        """The union of what the answers need, in the order in which the answers stand."""
        needed: dict[str, None] = {}
        for entry in [*sections["Recommendation"], *sections["Prohibition"], *sections["Assessment"], *cautions]:
            for observable in entry["measures"] if entry.get("status") == "recommended" else ():
                needed[observable] = None
            for need in entry["needs"]:
                needed[need] = None
        return list(needed)

    def _not_used(self) -> list[Json]:
        found = []
        for node in self.nodes:
            for quad in self.store.quads_for_pattern(node, CG["notUsedBecause"], None, None):
                reason = text(quad.object)
                found.append(self.fact(node) | {"reason": local_name(reason), "reasonLabel": self.book.label(reason)})
        return sorted(found, key=lambda f: (f["name"], f.get("time", ""), f["reason"]))


def _plain(number: str) -> str:
    """A computed number with at most two decimals, as a person reads it."""
    return format(round(Decimal(number), 2).normalize(), "f")
