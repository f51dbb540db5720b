"""CQL for rules: the table of statuses in queries/derive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kbtool.criteria import Named
from kbtool.namespaces import CG, RDFS, local_name
from peers.cql_facts import NotCoveredError

if TYPE_CHECKING:
    from peers.cql import Compiler


class Rules:
    """Writes the statuses of rules."""

    def __init__(self, compiler: Compiler) -> None:
        self.compiler, self.knowledge, self.define = compiler, compiler.knowledge, compiler.library.define
        kinds = ("Recommendation", "Prohibition", "Assessment", "Caution")
        self.of = {kind: self.knowledge.instances(CG[kind]) for kind in kinds}

    def values(self, rule: str, name: str) -> list[str]:
        return self.knowledge.values(rule, CG[name])

    def met(self, criterion: str) -> str:
        return f'"Is {local_name(criterion)}"'

    def any(self, tests: list[str]) -> str:
        """A disjunction."""
        return " or ".join(f"({t})" for t in tests) if len(tests) > 1 else tests[0] if tests else "false"

    def write(self) -> None:
        """Define the status of every rule as a word, or null."""
        rules = [rule for kind in ("Assessment", "Prohibition", "Recommendation") for rule in self.of[kind]]
        for rule in rules:
            self.define(f"Applies {local_name(rule)}", self.applies(rule, "appliesTo"))
            self.define(f"In place {local_name(rule)}", f"({self.applies(rule, 'metWhen')}) is true")
        for rule in self.of["Assessment"]:
            self.define(f"Status {local_name(rule)}", self.held(f'"Applies {local_name(rule)}"'))
        for rule in self.of["Prohibition"]:
            self.prohibition(rule)
        first = [r for r in self.of["Recommendation"] if not self.values(r, "accompanies")]
        for rule in first + [r for r in self.of["Recommendation"] if r not in first]:
            self.recommendation(rule)
        for rule in self.of["Caution"]:
            self.caution(rule)

    def held(self, test: str) -> str:
        return f"if {test} is true then 'holds' else if {test} is null then 'possible' else null"

    def scopes(self, rule: str) -> list[str]:
        return [s for module in self.knowledge.values(rule, RDFS["isDefinedBy"]) for s in self.values(module, "scope")]

    def applies(self, rule: str, link: str) -> str:
        """Whether a criterion of a rule is met, three-valued, in the scope of its guideline."""
        scope = self.any([f"{self.met(s)} is true" for s in self.scopes(rule)])
        return f"({scope}) and ({self.any([self.met(c) for c in self.values(rule, link)])})"

    def lifted(self, rule: str) -> str:
        return self.any([f"{self.met(s)} is true" for s in self.values(rule, "unless")])

    def prohibition(self, rule: str) -> None:
        compiler, name = self.compiler, local_name(rule)
        raised = []
        for order in self.values(rule, "raisedByOrder"):
            filler = Named(order)
            raised.append(compiler.exists('"Active orders"', compiler.test(filler, "F", None), compiler.can_be_null(filler)))
        scope = self.any([f"{self.met(s)} is true" for s in self.scopes(rule)])
        holds = self.any([f'"Applies {name}"', *(f"({scope}) and ({r})" for r in raised)])
        self.define(f"Holds {name}", f"if {self.lifted(rule)} then false else ({holds})")
        self.define(f"Status {name}", self.held(f'"Holds {name}"'))

    def recommendation(self, rule: str) -> None:
        name = local_name(rule)
        applies, in_place = f'"Applies {name}"', f'"In place {name}"'
        against = [
            p
            for p in self.of["Prohibition"]
            if set(self.values(p, "forbids")) & set(self.values(rule, "action"))
            and not set(self.values(p, "unless")) & set(self.values(rule, "requires"))
        ]
        forbidden = self.any([f'"Applies {local_name(p)}" is true and "Holds {local_name(p)}" is true' for p in against])
        perhaps = self.any([f'"Applies {local_name(p)}" is null and "Holds {local_name(p)}" is null' for p in against])
        waiting = [f"not ({self.met(s)} is true)" for s in self.values(rule, "requires")]
        waiting += [f"not ({self.met(s)} is false)" for s in self.values(rule, "requiresAbsenceOf")]
        mains = [local_name(m) for m in self.values(rule, "accompanies")]
        text = (
            f"if {applies} is null then 'undetermined'\n  else if not {applies} then null\n"
            f"  else if {in_place} then 'satisfied'\n"
            f"  else if {forbidden} then 'contraindicated'\n  else if {perhaps} then 'undetermined'\n"
            f"  else if {self.any(waiting)} then 'blocked'\n  else 'recommended'"
        )
        if mains:
            if self.values(rule, "appliesTo"):
                raise NotCoveredError(f"{name} accompanies another and has a criterion of its own")
            follows = self.any([f"""Coalesce("Status {m}" = 'recommended', false) or ("In place {m}")""" for m in mains])
            perhaps = self.any([f"""Coalesce("Status {m}" = 'undetermined', false)""" for m in mains])
            text = f"if {follows} then 'recommended'\n  else if {perhaps} then 'undetermined' else null"
        self.define(f"Status {name}", text)

    def caution(self, rule: str) -> None:
        name = local_name(rule)
        targets = self.values(rule, "touches")
        concerned = self.any([self.concerned(t) for t in targets]) if targets else "true"
        conditions = self.values(rule, "appliesTo")
        condition = self.any([self.met(c) for c in conditions]) if conditions else "true"
        self.define(f"Condition {name}", f"({concerned}) and not ({self.lifted(rule)}) and ({condition})")
        self.define(f"Status {name}", self.held(f'"Condition {name}"'))

    def concerned(self, target: str) -> str:
        """Whether what a caution touches concerns the patient."""
        name, compiler = local_name(target), self.compiler
        if target in self.of["Recommendation"]:
            return f'"Status {name}" is not null or "In place {name}"'
        if target in self.of["Prohibition"] or target in self.of["Assessment"]:
            return f"""Coalesce("Status {name}" = 'holds', false)"""
        if target in compiler.criteria and compiler.criteria[target].of_patient:
            return f"{self.met(target)} is true"
        test = compiler.test(Named(target), "F", None)
        return f'exists ("Current medications" F where {test}) or exists ("Active orders" F where {test})'
