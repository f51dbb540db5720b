"""What was derived about a patient, read from the store and put into the order in which a person needs it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyoxigraph as ox

from kbtool.derived import Derived, Entry, FromStore
from kbtool.facts import PatientFacts
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, DCTERMS, PROV, RDF, RDFS, SKOS, local_name, text
from kbtool.rows import lexical
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

_SHOWN = ("value", "unit", "time", "dailyDose", "start", "end", "onset", "doseSince", "phase", "state", "course")
_FACT_PROPERTIES = {str(CG[name]): name for name in _SHOWN}
_TYPE, _REPORTED, _NOT_USED = str(RDF["type"]), str(CG["reportedValue"]), CG["notUsedBecause"].value
_DERIVED_FROM, _TYPES, _QUANTITY, _UNIT = _COMPUTED = (
    PROV["wasDerivedFrom"].value,
    RDF["type"].value,
    CG["value"].value,
    CG["unit"].value,
)
_first = itemgetter(0)


@dataclass
class PatientResult:
    """The answer for one patient.

    data: the answer as JSON, one entry of "patients" in the schema. derived: gives the derived triples about the patient.
    explainer: makes what explains the answer; answers of `kb.assess` have one.
    """

    data: Json
    derived: Callable[[], list[ox.Quad]] = field(default=list, repr=False)
    explainer: Callable[[], Explainer] | None = field(default=None, repr=False)

    @cached_property
    def triples(self) -> list[ox.Quad]:
        """The derived triples about the patient."""
        return self.derived()

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
        """Whether every fact was accepted: nothing refused or set aside, nothing that the guideline knows left unread."""
        unread = any(entry["matters"] for entry in self.data.get("notRead", ()))
        return not self.refused and not self.data["setAside"] and not unread

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
        self._targets: dict[str, Json] = {}
        self._kinds: dict[str, tuple[str, str] | None] = {}
        self.rules: dict[str, _Rule] = {}
        for kind in ("Recommendation", "Prohibition", "Assessment", "Caution"):
            for iri in knowledge.instances(CG[kind]):
                self.rules[iri] = self._rule(iri, kind)
        self.statuses = {
            q.subject.value: knowledge.value(q.subject.value, SKOS["notation"])
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

    def target(self, iri: str) -> Json:
        """What a caution is attached to: a rule, a drug, an order or a criterion."""
        known = self._targets.get(iri)
        if known is None:
            rule = self.rules.get(iri)
            kind = rule.kind.lower() if rule else "criterion"
            if rule is None:
                for base in ("Medication", "Order"):
                    if self._below(iri, CG[base]):
                        kind = base.lower()
            known = self._targets[iri] = {"kind": kind, "name": local_name(iri), "iri": iri, "label": self.label(iri)}
        return known

    def _below(self, iri: str, base: ox.NamedNode) -> bool:
        return bool(self.knowledge.graph.query(f"ASK {{ <{iri}> <{RDFS['subClassOf'].value}>+ {base} }}"))

    def kind(self, token: str) -> tuple[str, str] | None:
        """The name and the label of a class, as N-Triples write it; None where it has no label."""
        if token not in self._kinds:
            label = self.knowledge.labels.get(token[1:-1]) if token[0] == "<" else None
            self._kinds[token] = (local_name(token[1:-1]), label) if label is not None else None
        return self._kinds[token]

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
    return read_derived(FromStore(store), knowledge, batch, set_aside, refused, warnings)


def read_derived(
    derived: Derived,
    knowledge: Knowledge,
    batch: Iterable[PatientFacts],
    set_aside: Mapping[str, list[Violation]],
    refused: Mapping[str, list[Violation]],
    warnings: Mapping[str, list[Violation]],
) -> Iterator[PatientResult]:
    """Read the answers of each patient of a batch out of what was derived, in the order of the batch."""
    book = rule_book(knowledge)
    for record in batch:
        key = str(record.patient)
        name = record.patient.value if isinstance(record.patient, ox.NamedNode) else key
        base: Json = {"patient": name}
        if key in refused:
            base |= {"inScope": False, "refused": [_violation(v) for v in refused[key]]}
        else:
            base |= {"inScope": derived.in_scope(record.patient)}
        base["setAside"] = [_violation(v) for v in set_aside.get(key, ())]
        base["warnings"] = [_violation(v) for v in warnings.get(key, ())]
        base |= {"notRead": record.not_read} if record.not_read else {}
        base |= {"notNeeded": record.not_needed} if record.not_needed else {}
        base |= _Reader(derived, book, record).read()
        yield PatientResult(base, partial(derived.quads, record.patient, book.links))


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

    def __init__(self, derived: Derived, book: RuleBook, record: PatientFacts) -> None:
        self.derived, self.book, self.record = derived, book, record
        self.patient = record.patient.value
        self.answers = derived.answers(record.patient)
        self.nodes, self.statement = record.statements()
        self.facts: dict[str, tuple[tuple[str, str, str], Json]] = {}

    def read(self) -> Json:
        """The answers, in order."""
        cautions = self._cautions()
        by_target: dict[str, list[Json]] = {}
        for caution in cautions:
            short = {k: caution[k] for k in ("id", "label", "severity", "state", "sources")}
            for target in caution["on"]:
                by_target.setdefault(target["iri"], []).append(caution | {"short": short})
        found: dict[str, list[tuple[tuple[Any, ...], Json]]] = {k: [] for k in ("Recommendation", "Prohibition", "Assessment")}
        for entry in self.answers:
            iri = entry["about"][0]
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

    def _entry(self, rule: _Rule, iri: str, entry: Entry, cautions: list[Json]) -> tuple[tuple[Any, ...], Json]:
        status = self.book.statuses[entry["status"][0]]
        data = dict(rule.data)
        conflict = any(c["conflict"] for c in cautions)
        common = {
            "because": self._facts(entry.get("because", [])),
            "needs": _names(entry.get("needs", ())),
            "statements": self.book.statements[iri],
            "explainedBy": self.book.explained_by[iri],
            "cautions": [c["short"] for c in cautions],
            "conflict": conflict,
        }
        if rule.kind == "Recommendation":
            blocking = entry.get("blockedBy", [])
            data["status"] = status
            data |= common
            data["blockedBy"] = sorted(map(local_name, blocking)) if blocking else []
            data["blockedWhile"] = [local_name(n) for n in self.book.excluded[iri] if n in blocking] if blocking else []
            data["openedBy"] = self._ordered(entry.get("openedBy", []))
            data["parameters"] = self._parameters(iri, entry.get("because", []), status)
            data["missingParameters"] = self.book.missing_parameters[iri]
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

    def _ordered(self, openers: list[str]) -> list[str]:
        def key(node: str) -> tuple[Any, ...]:
            rule = self.book.rules.get(node)
            return rule.key if rule else (99, 99, node)

        return [local_name(node) for node in sorted(openers, key=key)]

    def _cautions(self) -> list[Json]:
        found = []
        for entry in self.answers:
            rule = self.book.rules[entry["about"][0]]
            if rule.kind != "Caution":
                continue
            state = self.book.statuses[entry["status"][0]]
            on = [self._target(t) for t in sorted(entry.get("attachedTo", ()))]
            holds = state == "holds"
            data = dict(rule.data)
            data["state"] = state
            data["conflict"] = holds and bool(rule.severity["conflict"]) and any(t["kind"] != "patient" for t in on)
            data["on"] = on
            data["because"] = self._facts(entry.get("because", []))
            data["needs"] = _names(entry.get("needs", ()))
            found.append(((not holds, *rule.key), data))
        return [data for _, data in sorted(found, key=lambda item: item[0])]

    def _target(self, node: str) -> Json:
        if node == self.patient:
            return {"kind": "patient", "name": "patient", "iri": node, "label": "the patient"}
        return self.book.target(node)

    def _parameters(self, iri: str, because: list[str], status: str | None) -> list[Json]:
        shown: list[Json] = []
        for parameter in self.book.parameters[iri]:
            computed = parameter.get("computedFrom")
            if computed is not None:
                if status not in ("recommended", "blocked"):
                    continue
                values = [value for fact in because for value in self.derived.values(fact, computed)]
                if not values:
                    continue
                parameter = {k: v for k, v in parameter.items() if k != "computedFrom"} | {"value": sorted(values)[0]}
            shown.append(parameter)
        return shown

    def _facts(self, nodes: list[str]) -> list[Json]:
        if len(nodes) < 2:
            return [self._fact(node)[1] for node in nodes]
        return [fact for _, fact in sorted(map(self._fact, dict.fromkeys(nodes)), key=_first)]

    def _fact(self, node: str) -> tuple[tuple[str, str, str], Json]:
        known = self.facts.get(node)
        if known is None:
            fact = self.fact(node)
            known = self.facts[node] = (fact["name"], fact.get("time", ""), fact["fact"]), fact
        return known

    def fact(self, node: str) -> Json:
        """A fact as reported: class, value and unit as text, times, dose."""
        said = self.nodes.get(f"<{node}>")
        data: Json = {"fact": node}
        if said is None:
            return data | self._computed(node)
        known: defaultdict[str, list[str]] = defaultdict(list)
        for predicate, value in map(self.statement, said):
            known[predicate].append(value)
        data["name"], data["label"] = next(filter(None, map(self.book.kind, known.get(_TYPE, ()))), ("", ""))
        for prop, name in _FACT_PROPERTIES.items():
            values = known.get(prop)
            if values is not None:
                data[name] = _shown(values[0]) if len(values) == 1 else ", ".join(sorted(map(_shown, values)))
        if _REPORTED in known:
            data["value"] = lexical(known[_REPORTED][0])
        return data

    def _computed(self, node: str) -> Json:
        found = {prop: self.derived.values(node, prop) for prop in _COMPUTED}
        inputs, types = found[_DERIVED_FROM], found[_TYPES]
        kinds = [kind for kind in types if self.book.knowledge.value(kind, CG["canonicalUnit"])]
        return {
            "name": local_name(kinds[0]) if kinds else "",
            "label": self.book.label(kinds[0]) if kinds else "",
            "value": ", ".join(map(_plain, sorted(found[_QUANTITY], key=Decimal))),
            "unit": next(iter(found[_UNIT]), ""),
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
        reasons = self.derived.having(_NOT_USED)
        for node in (token[1:-1] for token in self.nodes if token[0] == "<"):
            if node in reasons:
                for reason in reasons[node]:
                    key, fact = self._fact(node)
                    name = local_name(reason)
                    found.append(((*key[:2], name), {**fact, "reason": name, "reasonLabel": self.book.label(reason)}))
        return [fact for _, fact in sorted(found, key=_first)]


def _shown(token: str) -> str:
    return lexical(token) if token[0] == '"' else local_name(lexical(token))


def _names(needs: Iterable[str]) -> list[str]:
    return sorted({local_name(need) for need in needs}) if needs else []


def _plain(number: str) -> str:
    """A computed number with at most two decimals, as a person reads it."""
    return format(round(Decimal(number), 2).normalize(), "f")
