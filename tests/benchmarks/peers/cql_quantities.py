"""CQL for quantities: which results are current, which a session disturbs, which disagree, and which is eligible."""

from __future__ import annotations

from decimal import Decimal

from kbtool.criteria import Expression
from kbtool.namespaces import CG, local_name
from peers.cql_facts import NotCoveredError, Ontology, converted, decimal, seconds

LONG_AGO = 2_000_000_000
"""Seconds: a setting without a date is older than any other."""

_KEPT = ("id", "code", "value", "unit", "canonical", "phase", "ago", "daysSinceStart")
_KEEP = ", ".join(f"{name}: Q.{name}" for name in _KEPT)


class Quantities(Ontology):
    """Writes the definitions of quantities, each kind when it is first asked for."""

    def test(self, expression: Expression, alias: str, known: str | None) -> str:
        """A three-valued test of a fact; the compiler of criteria has it. known: a class to which the fact belongs."""
        raise NotImplementedError

    @property
    def kinds(self) -> list[str]:
        """The classes of quantities with a canonical unit."""
        return sorted(iri for iri in self.below(CG["Quantity"].value) if self.number(iri, "canonicalUnit") is not None)

    def relatives(self, iri: str) -> list[str]:
        """The kinds of quantity to which a fact of a class can belong as well: the class, those below it and above it."""
        return [kind for kind in self.kinds if kind in self.below(iri) or iri in self.below(kind)]

    def sides(self, kind: str) -> list[str]:
        """The criteria of guidelines that can tell two results of a kind apart."""
        wanted = set(self.relatives(kind))
        return [
            iri
            for iri, criterion in self.criteria.items()
            if not criterion.of_patient and self.in_guideline(iri) and self.roots(criterion.expression) & wanted
        ]

    def eligible(self, iri: str) -> str:
        """The eligible quantities of a class, of whatever kind they were chosen."""
        sources = []
        for kind in self.relatives(iri):
            chosen = self._chosen(kind)
            sources.append(chosen if kind in self.below(iri) else f"({chosen} Q where Q.code in {self.library.value_set(iri)})")
        body = sources[0] if len(sources) == 1 else f"flatten {{ {', '.join(sources)} }}"
        return self.library.define(f"Eligible {local_name(iri)}", body)

    def _chosen(self, kind: str) -> str:
        """The eligible quantities of one kind: stated, or computed where no statement is as late."""
        short, candidates = local_name(kind), self._candidates(kind)
        minuend, top = self.number(kind, "differenceMinuend"), self.number(kind, "ratioNumerator")
        if minuend is not None:
            value, sources = self._difference(minuend, self.number(kind, "differenceSubtrahend") or "")
        elif top is not None:
            value, sources = self._ratio(kind, top, self.number(kind, "ratioDenominator") or "")
        else:
            return candidates
        computed = self.library.define(
            f"Computed {short}",
            f"{sources}\n    and not exists ({candidates} C where C.ago <= M.ago)\n"
            f"  return all Tuple {{\n    id: 'computed', code: null as System.Concept, value: {value},\n"
            f"    unit: '{self.number(kind, 'canonicalUnit')}', canonical: {value},\n"
            "    phase: null as System.String, ago: M.ago, daysSinceStart: null as System.Decimal\n  }",
        )
        return self.library.define(f"Chosen {short}", f"if exists {computed} then {computed} else {candidates}")

    def _difference(self, minuend: str, less: str) -> tuple[str, str]:
        first, second = self.eligible(minuend), self._current(less)
        latest = self.library.define(
            f"Latest {local_name(less)} before {local_name(minuend)}",
            f"Min({second} S where exists ({first} M where S.ago > M.ago) return all S.ago)",
        )
        return "M.canonical - S.canonical", f"from {first} M, {second} S\n  where S.ago = {latest}"

    def _ratio(self, kind: str, top: str, bottom: str) -> tuple[str, str]:
        first, second = self.eligible(top), self.eligible(bottom)
        value = f"Round(M.canonical * {decimal(self.number(kind, 'ratioFactor') or '1')} / S.canonical, 6)"
        return value, f"from {first} M, {second} S\n  where S.canonical > 0.0"

    def _candidates(self, kind: str) -> str:
        """The latest usable quantities of a kind, unless they disagree."""
        judged = self.judged(kind)
        also = "".join(
            f"\n    and not exists ({self.judged(k)} D where D.id = Q.id and D.disagreeing)"
            for k in self.relatives(kind)
            if k != kind
        )
        return self.library.define(
            f"Candidate {local_name(kind)}",
            f"{judged} Q\n  where not Q.disturbed and not Q.untimed and not Q.disagreeing{also}\n"
            f"    and Q.ago = Min({judged} X where not X.disturbed and not X.untimed return all X.ago)\n"
            f"  return all Tuple {{ {_KEEP} }}",
        )

    def judged(self, kind: str) -> str:
        """The current quantities of a kind, with what keeps them from being used."""
        for other in self.relatives(kind):
            for name in ("currencyHours", "outlivesSessions", "disturbedBy", "settlesHours"):
                if self.knowledge.values(other, CG[name]) != self.knowledge.values(kind, CG[name]):
                    raise NotCoveredError(f"{local_name(kind)} and {local_name(other)} share results and differ in {name}")
        disturbed, untimed = self._disturbance(kind)
        sides = ", ".join(f"({self.test(self.criteria[c].expression, 'Q', kind)}) is true" for c in self.sides(kind))
        compared = self.library.define(
            f"Compared {local_name(kind)}",
            f"{self._current(kind)} Q\n  return all Tuple {{\n    {_KEEP},\n    disturbed: {disturbed},\n"
            f"    untimed: {untimed},\n    sides: {{ {sides or 'true'} }}\n  }}",
        )
        other = f"{compared} X where X.id != Q.id and X.sides != Q.sides"
        return self.library.define(
            f"Judged {local_name(kind)}",
            f"{compared} Q\n  return all Tuple {{\n    {_KEEP}, disturbed: Q.disturbed, untimed: Q.untimed,\n"
            f"    conflicts: exists ({other} and (X.ago = Q.ago or X.disturbed != Q.disturbed)),\n"
            f"    disagreeing: not Q.disturbed and not Q.untimed\n"
            f"      and exists ({other} and X.ago = Q.ago and not X.disturbed and not X.untimed)\n  }}",
        )

    def _current(self, kind: str) -> str:
        """The current quantities of a kind: final results that are not outdated, or the latest setting in force."""
        short, codes = local_name(kind), self.library.value_set(kind)
        cases = [f"when '{unit}' then {converted('M.value', factor, offset)}" for unit, factor, offset in self.units(kind)]
        canonical = f"canonical: case M.unit {' '.join(cases)} else null end"
        shape = f"id: M.id, code: M.code, value: M.value, unit: M.unit, phase: M.phase,\n    {canonical}"
        if kind in self.below(CG["Setting"].value):
            since = f"Coalesce(M.since, T.start, {LONG_AGO})"
            in_force = self.library.define(
                f"Set {short}",
                f'from "Measurements" M, "Current treatments" T\n  where M.code in {codes} and M.part = T.ref and {since} >= 0\n'
                f'  return all Tuple {{\n    {shape},\n    ago: {since}, daysSinceStart: "Days"(M.since)\n  }}',
            )
            return self.library.define(f"Current {short}", f"{in_force} S where S.ago = Min({in_force} X return all X.ago)")
        hours = self.number(kind, "currencyHours")
        tests = [f"M.code in {codes}", "M.final", f"M.ago >= 0 and M.ago <= {seconds(hours)}" if hours else "false"]
        tests.append(f"M.unit in {{ {', '.join(repr(unit) for unit, _, _ in self.units(kind))} }}")
        if not self.knowledge.values(kind, CG["outlivesSessions"]):
            tests.append(
                'Count("Sessions" S where S.start >= 0 and S.start <= M.ago return S.start)'
                " <= (if M.phase = 'BeforeSession' then 1 else 0)"
            )
        joined = "\n    and ".join(tests)
        return self.library.define(
            f"Current {short}",
            f'"Measurements" M\n  where {joined}\n'
            f"  return all Tuple {{\n    {shape},\n    ago: M.ago, daysSinceStart: null as System.Decimal\n  }}",
        )

    def _disturbance(self, kind: str) -> tuple[str, str]:
        """Whether a session disturbs a result, and whether that cannot be told."""
        disturbed, untimed = [], []
        settles = seconds(self.number(kind, "settlesHours"))
        for treatment in self.knowledge.values(kind, CG["disturbedBy"]):
            logged, near = [], []
            for session in self.with_property("sessionOf"):
                if treatment not in self.knowledge.values(session, CG["sessionOf"]):
                    continue
                here = f'exists ("Sessions" S where S.code in {self.library.value_set(session)}'
                longest = int(Decimal(self.number(session, "plausibleMaximum") or "0") * 60)
                reach = self.number(session, "logHours")
                if reach:
                    logged.append(f"{here} and S.start >= 0 and S.start - Q.ago <= {seconds(reach)})")
                if settles and longest:
                    near.append(
                        f"{here} and Q.ago > Coalesce(S.ended, S.start - {longest}) - {settles}\n      and (S.start > Q.ago"
                        " or (S.start = Q.ago and Coalesce(Q.phase, 'DuringSession') != 'BeforeSession')))"
                    )
            known = " or ".join(logged) or "false"
            treated = f'exists ("Current treatments" T where T.code in {self.library.value_set(treatment)})'
            by_phase = "Coalesce(Q.phase in { 'DuringSession', 'AfterSession' }, false)"
            disturbed.append(f"(({treated} or {known})\n      and ({' or '.join([by_phase, *near])}))")
            untimed.append(f"({treated} and Q.phase is null and not ({known}))")
        return " or ".join(disturbed) or "false", " or ".join(untimed) or "false"
