"""Compile the criteria and rules of a knowledge base to HL7 CQL over FHIR R4.

CQL has three truth values of its own: a criterion is true where it is certain, null where it is unknown, else false. Rules
follow the table of statuses in queries/derive. Left out, because it explains an answer and does not decide it: the facts it
rests on, what it needs, what opens it, hard stops, and validation of the facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kbtool.criteria import Both, Criterion, Either, Expression, Named, Range, Some, Value
from kbtool.knowledge import Knowledge
from kbtool.namespaces import CG, local_name
from peers.cql_facts import Library, NotCoveredError, decimal
from peers.cql_quantities import Quantities
from peers.cql_rules import Rules
from peers.fhir import Codes

_LISTS = {
    "hasActiveFinding": "Active findings",
    "hasActiveOrder": "Active orders",
    "hasCurrentMedication": "Current medications",
    "hasCurrentTreatment": "Current treatments",
    "hasOpenSession": "Open sessions",
    "hasRunningSession": "Running sessions",
}
_COLUMNS = {
    "canonicalValue": ("canonical", None),
    "value": ("value", None),
    "unit": ("unit", None),
    "state": ("state", None),
    "daysSinceStart": ("daysSinceStart", None),
    "daysOfUse": ("daysOfUse", None),
    "daysAtDose": ("daysAtDose", "timeUnrecorded"),
    "canonicalDailyDose": ("canonicalDailyDose", "doseUnrecorded"),
    "totalDailyDose": ("totalDailyDose", "doseUnrecorded"),
    "doseMargin": ("doseMargin", "doseUnrecorded"),
    "doseIncrease": ("doseIncrease", "changeUnrecorded"),
    "recentlyAffected": ("recentlyAffected", "sessionsUnrecorded"),
    "course": ("courses", None),
    "relativePhase": ("phases", "phaseUnrecorded"),
}
"""The column of a property, and the column that says that it is not recorded."""

_MANY = {"courses", "phases"}
_UNRECORDED = {"StartDate": "startUnrecorded", "TimeAtDose": "timeUnrecorded", "DailyDose": "doseUnrecorded"}
_SIGNS = {"minInclusive": ">=", "minExclusive": ">", "maxInclusive": "<=", "maxExclusive": "<"}


@dataclass
class Compiled:
    """CQL text, and the codes of its value sets by IRI. "Is X" answers for a criterion, "Status X" for a rule."""

    text: str
    value_sets: dict[str, list[dict[str, Any]]]


def compile(knowledge: Knowledge) -> Compiled:
    """The library of a knowledge base. Raises NotCoveredError for what the translation does not know."""
    compiler = Compiler(knowledge)
    library = compiler.library
    facts = compiler.facts()
    for criterion in compiler.criteria.values():
        if criterion.of_patient:
            library.define(f"Is {local_name(criterion.iri)}", compiler.patient_criterion(criterion))
    Rules(compiler).write()
    space = knowledge.iri.rstrip("/") + "/ValueSet/"
    urls = {name: space + local_name(iri) for name, iri in sorted(library.value_sets.items())}
    head = [f"library Peer version '{knowledge.version}'\n\nusing FHIR version '4.0.1'\n"]
    head += [f"valueset \"{name}\": '{url}'" for name, url in urls.items()]
    definitions = [f'define "{name}":\n  {body}\n' for name, body in library.definitions.items()]
    text = "\n".join([*head, "\ncontext Patient\n", facts, *definitions])
    return Compiled(text, {url: compiler.codes.value_set(library.value_sets[name]) for name, url in urls.items()})


class Compiler(Quantities):
    """Compiles criteria."""

    def __init__(self, knowledge: Knowledge) -> None:
        super().__init__(knowledge, Library(Codes(knowledge)))

    # --- Patients -----------------------------------------------------------------------------------

    def patient_criterion(self, criterion: Criterion) -> str:
        """The definition of a criterion over patients."""
        text = self.patient(criterion.expression)
        return f"({text}) is true" if criterion.closed_world else text

    def patient(self, expression: Expression) -> str:
        """An expression over patients, three-valued."""
        match expression:
            case Both(members):
                kept = [self.patient(m) for m in members if m != Named(CG["Patient"].value)]
                return " and ".join(f"({k})" for k in kept) if len(kept) > 1 else kept[0]
            case Either(members):
                return " or ".join(f"({self.patient(m)})" for m in members)
            case Named(iri) if iri in self.criteria and self.criteria[iri].of_patient:
                return f'"Is {local_name(iri)}"'
            case Some(prop, filler):
                return self.some(prop, filler)
        raise NotCoveredError(f"a patient with {expression}")

    def some(self, prop: str, filler: Expression) -> str:
        """An existential restriction, three-valued."""
        name = local_name(prop)
        if name in ("hasEligible", "hasCurrent"):
            return self._some_quantity(name, filler)
        if name not in _LISTS:
            raise NotCoveredError(f"the property {name}")
        found = self.exists(f'"{_LISTS[name]}"', self.test(filler, "F", None), self.can_be_null(filler))
        for counterpart in self.knowledge.values(prop, CG["openCounterpart"]):
            if any(prop in self.knowledge.values(a, CG["recordedBy"]) for a in self.knowledge.instances(CG["Attribute"])):
                other = f'"{_LISTS[local_name(counterpart)]}" F where {self.test(filler, "F", None)}'
                found += f" or (if exists ({other}) then null else false)"
        return found

    def _some_quantity(self, name: str, filler: Expression) -> str:
        roots = sorted(self.roots(filler))
        found = []
        if name == "hasCurrent":
            for kind in self.kinds:
                if self.sides(kind) and any(kind in self.below(root) for root in roots):
                    found.append(f"exists ({self.judged(kind)} F where {self.test(filler, 'F', kind)})")
            return " or ".join(found)
        for root in roots:
            eligible = self.eligible(root)
            found.append(self.exists(eligible, self.test(filler, "F", root), self.can_be_null(filler)))
            found.append(f"(if exists {eligible} then false else null)")
        return " or ".join(found)

    def exists(self, items: str, test: str, can_be_null: bool) -> str:
        """Whether an item passes a test; null where that cannot be told of any."""
        if test == "true":
            return f"exists {items}"
        found = f"exists ({items} F where {test})"
        return f"{found} or (if exists ({items} F where ({test}) is null) then null else false)" if can_be_null else found

    # --- Facts --------------------------------------------------------------------------------------

    def test(self, expression: Expression, alias: str, known: str | None) -> str:
        match expression:
            case Both(members):
                kept = [t for t in (self.test(m, alias, known) for m in members) if t != "true"]
                return " and ".join(f"({k})" for k in kept) if len(kept) > 1 else kept[0] if kept else "true"
            case Either(members):
                return " or ".join(f"({self.test(m, alias, known)})" for m in members)
            case Named(iri) if iri in self.criteria:
                text = self.test(self.criteria[iri].expression, alias, known)
                return f"({text}) is true" if self.criteria[iri].closed_world else text
            case Named(iri):
                if known is not None and known in self.below(iri):
                    return "true"
                return f"{alias}.code in {self.library.value_set(iri)}"
            case Range(prop, limits, complement):
                column, unrecorded = self.column(prop)
                test = " and ".join(f"{alias}.{column} {_SIGNS[facet]} {decimal(number)}" for facet, number in limits)
                return self._or_null(f"Coalesce({f'not ({test})' if complement else test}, false)", alias, unrecorded)
            case Value(prop, value):
                return self._value(local_name(prop), value, alias, prop)
            case Some(prop, Named(iri)) if local_name(prop) == "conflictsWith" and iri == CG["Observation"].value:
                return f"{alias}.conflicts"
        raise NotCoveredError(f"a fact with {expression}")

    def _value(self, name: str, value: str, alias: str, prop: str) -> str:
        word = local_name(value.strip("<>")) if value.startswith("<") else value.strip('"')
        if name == "hasUnrecorded":
            return f"{alias}.{_UNRECORDED[word]}"
        column, unrecorded = self.column(prop)
        test = f"'{word}' in {alias}.{column}" if column in _MANY else f"Coalesce({alias}.{column} = '{word}', false)"
        return self._or_null(test, alias, unrecorded)

    def _or_null(self, test: str, alias: str, unrecorded: str | None) -> str:
        return f"({test}) or (if {alias}.{unrecorded} then null else false)" if unrecorded else test

    def column(self, prop: str) -> tuple[str, str | None]:
        """The column of a property, and the one that says that it is unrecorded where an attribute records it."""
        if local_name(prop) not in _COLUMNS:
            raise NotCoveredError(f"the property {local_name(prop)}")
        column, unrecorded = _COLUMNS[local_name(prop)]
        recorded = any(prop in self.knowledge.values(a, CG["recordedBy"]) for a in self.knowledge.instances(CG["Attribute"]))
        if recorded != (unrecorded is not None):
            raise NotCoveredError(f"what records {local_name(prop)}")
        return column, unrecorded

    def can_be_null(self, expression: Expression) -> bool:
        """Whether a test of a fact can be null."""
        match expression:
            case Both(members) | Either(members):
                return any(map(self.can_be_null, members))
            case Named(iri):
                known = self.criteria.get(iri)
                return known is not None and not known.closed_world and self.can_be_null(known.expression)
            case Range(prop) | Value(prop):
                return local_name(prop) in _COLUMNS and self.column(prop)[1] is not None
        return False
