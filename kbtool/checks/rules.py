"""Check the rules on patients: can each be reached, does any contradict another, does anything stay blocked for ever?

For each question a number of patients is made (see `witness`) and assessed by the engine; the answers decide. What must
be possible is looked for until a patient shows it; what must not happen is looked for in every patient that was assessed.
Each finding carries the patient that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from typing import Any

from kbtool import engine
from kbtool.answer import KINDS, PatientResult
from kbtool.checks.model import Context, Finding
from kbtool.criteria import Named
from kbtool.facts import Reader
from kbtool.namespaces import CG, local_name
from kbtool.ways import Need, Way, Ways
from kbtool.witness import AS_OF, Case, Fact, Patients

ROUNDS = (3, 30, 300)
"""How many patients are tried for a question in each round; most are answered in the first."""

MOST_CASES = 2000
"""How many patients are made for one question where nothing else limits it."""

PATIENT = "https://example.org/patient/"
"""Witnesses are named by this and a number."""

Answer = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A patient that was assessed."""

    case: Case
    result: PatientResult

    @property
    def data(self) -> Answer:
        """The answer as JSON."""
        return self.result.data


@dataclass
class Question:
    """Something that some patient must show: patients to try, and what tells that one shows it."""

    candidates: Iterator[Case]
    shows: Callable[[Trial], bool]
    found: Trial | None = None
    tried: list[Trial] = field(default_factory=list)


def rules(context: Context) -> Iterator[Finding]:
    """Check recommendations, prohibitions, assessments and cautions. See shapes/checks.ttl for what each finding means."""
    bench = _Bench(context)
    yield from bench.reachable()
    yield from bench.conflicts()
    yield from bench.families()
    yield from bench.shadowed()
    yield from bench.openers()


class _Bench:
    """The rules of one knowledge base, and every patient that was assessed on the way."""

    def __init__(self, context: Context) -> None:
        self.context, self.knowledge = context, context.knowledge
        self.ways = Ways(self.knowledge)
        self.patients = Patients(self.ways)
        self.assessed: dict[str, Trial | None] = {}
        kinds = ("Recommendation", "Prohibition", "Assessment", "Caution")
        self.rules = {kind: self.knowledge.instances(CG[kind]) for kind in kinds}

    # --- Questions -----------------------------------------------------------------------------

    def reachable(self) -> Iterator[Finding]:
        """Rules that no patient meets, recommendations that are never recommended, cautions that never attach."""
        reach = {
            rule: Question(self._candidates([self._concerning(rule)], []), _says(kind, rule))
            for kind in ("Recommendation", "Prohibition", "Assessment")
            for rule in self.rules[kind]
        }
        advise = {rule: self._advice(rule) for rule in self.rules["Recommendation"]}
        attach = {rule: Question(self._attaching(rule), _says("Caution", rule)) for rule in self.rules["Caution"]}
        self._answer([*reach.values(), *advise.values(), *attach.values()])
        for rule, question in reach.items():
            if question.found is None:
                yield self._finding(
                    "UnreachableRule", rule, question, f"no patient meets its criterion{_of(question)}", self._nearest(rule)
                )
        for rule, question in advise.items():
            applying = [t for t in (*question.tried, reach[rule].found) if t and _says("Recommendation", rule)(t)]
            if question.found is None and applying:
                states = sorted({t.result.state(rule) or "" for t in applying})
                text = f"it applies to patients and is never recommended, always {' or '.join(states)}{_of(question)}"
                yield self._finding("NeverRecommended", rule, question, text, applying[0])
        for rule, question in attach.items():
            if question.found is None:
                yield self._finding("NeverAttached", rule, question, f"no patient is given this caution{_of(question)}")

    def conflicts(self) -> Iterator[Finding]:
        """Recommendations that are recommended while a prohibition of their action holds."""
        pairs: dict[tuple[str, str], Question] = {}
        for rule in self.rules["Recommendation"]:
            action = self._one(rule, "action")
            for prohibition in self.rules["Prohibition"]:
                orders = [o for o in self._values(prohibition, "raisedByOrder", "forbidsOrder") if o not in self.ways.criteria]
                ordered = {a for order in orders for a in self._values(order, "ordersAction")}
                if action is None or action not in {*self._values(prohibition, "forbids"), *ordered}:
                    continue
                ways = [self._advised(rule), self._concerning(prohibition, stated_orders_only=True)]
                concerned = {self.ways.kind(n) or "" for n in self._needs_of(self._criteria_of(prohibition))}
                candidates = self._candidates(ways, self._against(rule), concerned)
                pairs[rule, prohibition] = Question(candidates, _both(rule, prohibition))
        self._answer(list(pairs.values()), most=MOST_CASES)
        for (rule, prohibition), question in pairs.items():
            witness = question.found or next((t for t in self.trials if not _orders(t) and _both(rule, prohibition)(t)), None)
            if witness:
                text = f"it is recommended while {self.context.label(prohibition)} holds, which forbids its action"
                yield self._finding("RecommendedAndProhibited", rule, question, text, witness, (prohibition,))

    def families(self) -> Iterator[Finding]:
        """Values for which no assessment of a family holds, or more than one."""
        for family in self.knowledge.instances(CG["Family"]):
            members = [a for a in self.rules["Assessment"] if family in self._values(a, "family")]
            question = Question(self._divided(members), lambda _: False)
            self._answer([question], most=MOST_CASES)
            gaps: list[Trial] = []
            overlaps: dict[tuple[str, str], Trial] = {}
            for trial in question.tried:
                holding = [m for m in members if trial.result.state(m) == "holds"]
                possible = any(trial.result.state(m) == "possible" for m in members)
                if not holding and not possible:
                    gaps.append(trial)
                for pair in combinations(holding, 2):
                    overlaps.setdefault(pair, trial)
            for trial in gaps:
                values = ", ".join(_value(fact) for fact in trial.case.facts if fact.role == "hasEligible")
                yield self._finding("FamilyGap", family, question, f"no assessment of the family holds at {values}", trial)
            for (one, other), trial in overlaps.items():
                text = f"{self.context.label(one)} and {self.context.label(other)} hold at once"
                yield self._finding("FamilyOverlap", family, question, text, trial, (one, other))

    def shadowed(self) -> Iterator[Finding]:
        """Rules that never say anything that another rule of the same conclusion does not say too."""
        for kind, conclusion in (("Recommendation", "action"), ("Prohibition", "forbids")):
            same = [(a, b) for a in self.rules[kind] for b in self.rules[kind] if a != b]
            for rule, other in same:
                if not set(self._values(rule, conclusion)) & set(self._values(other, conclusion)):
                    continue
                says, also = _says(kind, rule, "recommended"), _says(kind, other, "recommended")
                against = [*self._against(rule), *self._criteria_of(other)]
                question = Question(self._candidates([self._advised(rule)], against), lambda _: False)
                self._answer([question], most=MOST_CASES)
                speaking = [t for t in [*question.tried, *self.trials] if says(t)]
                if speaking and all(also(t) for t in speaking):
                    text = f"in all {len(speaking)} patients in whom it speaks, {self.context.label(other)} says the same"
                    yield self._finding("ShadowedRule", rule, question, text, speaking[0], (other,))

    def openers(self) -> Iterator[Finding]:
        """Recommendations that are blocked with nothing that opens them, or that wait for each other."""
        self._answer([Question(self._blocking(rule), lambda _: False) for rule in self.rules["Recommendation"]], most=150)
        closed: dict[tuple[str, str], Trial] = {}
        circles: dict[frozenset[str], Trial] = {}
        for trial in self.trials:
            entries = {e["name"]: e for e in trial.data["recommendations"]}
            for name, entry in entries.items():
                if entry["status"] != "blocked":
                    continue
                if not entry["openedBy"]:
                    state = (entry["blockedBy"] + entry["blockedWhile"])[0]
                    closed.setdefault((entry["iri"], state), trial)
                elif not _opens(name, entries, set()):
                    circles.setdefault(frozenset(_circle(name, entries)), trial)
        for (rule, state), trial in closed.items():
            yield self._finding("NothingOpens", rule, None, f"it is blocked by {state}, and nothing opens that", trial)
        for names, trial in circles.items():
            ring = sorted(e["iri"] for e in trial.data["recommendations"] if e["name"] in names)
            text = "each of these waits for another of them: " + ", ".join(self.context.label(iri) for iri in ring)
            yield self._finding("PrerequisiteCycle", ring[0], None, text, trial, tuple(ring[1:]))

    # --- Patients to try ---------------------------------------------------------------------------

    def _candidates(self, parts: list[list[Way]], against: list[str], concerned: set[str] | None = None) -> Iterator[Case]:
        """Patients in scope who meet one way of each part; then the same with values for what the criteria against need."""
        ways = self.ways.together([self.ways.scope], *parts)
        ranges = self.ways.ranges([*(need for way in ways for need in way), *self._needs_of(against)])
        yield from islice((case for way in ways for case in self.patients.cases(way, ranges, concerned)), MOST_CASES)
        for way in ways:
            taken = {self.ways.kind(need) for need in way if need.prop == "hasEligible"}
            kinds = sorted({k for n in self._needs_of(against) if n.prop == "hasEligible" and (k := self.ways.kind(n))} - taken)
            extras = [self.patients.values(kind, ranges.get(kind, [])) for kind in kinds]
            for combination in islice(product(*extras), 200) if extras else ():
                for case in islice(self.patients.cases(way, ranges), 4):
                    yield Case([*case.facts, *combination])

    def _advice(self, rule: str) -> Question:
        return Question(
            self._candidates([self._advised(rule)], self._against(rule)), _says("Recommendation", rule, "recommended")
        )

    def _attaching(self, caution: str) -> Iterator[Case]:
        """Patients who meet the condition of a caution and whom something that it touches concerns."""
        conditions = [self.ways.ways(Named(c)) for c in self._values(caution, "appliesTo")]
        touched = self._values(caution, "touches")
        for scope in (self.ways.scope, ()):
            for target in touched or [""]:
                concerning: list[Way] = self._concerning(target) if target else [()]
                ways = self.ways.together([scope], *conditions, concerning)
                ranges = self.ways.ranges(need for way in ways for need in way)
                yield from (case for way in ways[:40] for case in islice(self.patients.cases(way, ranges), 4))

    def _divided(self, members: list[str]) -> Iterator[Case]:
        """Patients in every cell of the quantities on which the assessments of a family rest."""
        needs = self._needs_of([c for m in members for c in self._values(m, "appliesTo")])
        ranges = self.ways.ranges(needs)
        kinds = sorted({k for n in needs if n.prop == "hasEligible" and (k := self.ways.kind(n))})
        others = [tuple(n for n in way if n.prop != "hasEligible") for m in members for way in self._concerning(m)]
        quantities = [self.patients.values(kind, ranges.get(kind, [])) for kind in kinds]
        for other in dict.fromkeys(others):
            for way in self.ways.together([self.ways.scope], [other]):
                for case in islice(self.patients.cases(way, ranges), 8):
                    for combination in product(*quantities):
                        yield Case([*case.facts, *combination])

    def _blocking(self, rule: str) -> Iterator[Case]:
        """Patients to whom a recommendation applies and who have all that it waits for but one state, which is left out or
        false in every way that a number can make it so; then those with each state that must be absent."""
        states = self._values(rule, "requires")
        concerning = self._concerning(rule)
        needs = self._needs_of(states)
        ranges = self.ways.ranges([*needs, *(need for way in concerning for need in way)])
        for state in states:
            others = [self.ways.ways(Named(other)) for other in states if other != state]
            kinds = sorted({k for n in self._needs_of([state]) if n.prop == "hasEligible" and (k := self.ways.kind(n))})
            for way in self.ways.together([self.ways.scope], concerning, *others)[:2]:
                taken = {self.ways.kind(need) for need in way}
                for case in islice(self.patients.cases(way, ranges), 1):
                    yield case
                    whole = [self.patients.values(kind, ranges.get(kind, [])) for kind in kinds if kind not in taken]
                    fitting = [next(reversed(values)) for values in whole]
                    for place, values in enumerate(whole):
                        rest = fitting[:place] + fitting[place + 1 :]
                        yield Case([*case.facts, *rest])
                        yield from (Case([*case.facts, *rest, value]) for value in values)
        excluded = [way for state in self._values(rule, "requiresAbsenceOf") for way in self.ways.ways(Named(state))]
        for way in self.ways.together([self.ways.scope], self._advised(rule))[:1] if excluded else ():
            for case in islice(self.patients.cases(way, ranges), 1):
                for other_way in excluded:
                    extra = next(self.patients.cases(other_way, self.ways.ranges(other_way)), Case([]))
                    kinds_of = {fact.kind for fact in extra.facts}
                    yield Case([*(fact for fact in case.facts if fact.kind not in kinds_of), *extra.facts])

    def _nearest(self, rule: str) -> Trial | None:
        """A patient who meets as much of the criterion of a rule as can be met."""
        criteria = self._values(rule, "appliesTo")
        way = tuple(need for iri in criteria for need in self.ways.nearest(Named(iri)))
        for case in islice(self.patients.cases((*self.ways.scope, *way), self.ways.ranges(way)), 1):
            return self._assess([case])[0]
        return None

    # --- Ways ------------------------------------------------------------------------------------

    def _concerning(self, target: str, *, stated_orders_only: bool = False) -> list[Way]:
        """The ways in which a rule, a class of facts or a criterion concerns a patient."""
        mains = self._values(target, "accompanies")
        if mains:
            return [way for main in mains for way in self._advised(main)]
        found = [way for c in self._values(target, "appliesTo") for way in self.ways.ways(Named(c))]
        for order in self._values(target, "raisedByOrder"):
            if order not in self.ways.criteria:
                found.append((Need("hasActiveOrder", (order,)),))
            elif not stated_orders_only:
                found += [(n,) for n in self.ways.needs(Need("hasActiveOrder"), Named(order))]
        if target in self.ways.criteria:
            found += self.ways.ways(Named(target))
        elif not found:
            base = self.ways.base(target)
            links = {"hasMedication": "hasCurrentMedication", "hasOrder": "hasActiveOrder"}
            found += [(Need(links[base], (target,)),)] if base in links else []
        return found

    def _advised(self, rule: str) -> list[Way]:
        """The ways in which a recommendation applies and what it requires holds."""
        required = [self.ways.ways(Named(state)) for state in self._values(rule, "requires")]
        return self.ways.together(self._concerning(rule), *required)

    def _against(self, rule: str) -> list[str]:
        """Criteria that keep a recommendation from being recommended."""
        found = self._values(rule, "metWhen", "requiresAbsenceOf")
        actions = self._values(rule, "action")
        for prohibition in self.rules["Prohibition"]:
            if set(actions) & set(self._values(prohibition, "forbids")):
                found += self._values(prohibition, "appliesTo", "unless")
        return found + self._values(rule, "unless")

    def _criteria_of(self, rule: str) -> list[str]:
        return self._values(rule, "appliesTo", "requires", "requiresAbsenceOf", "metWhen", "unless")

    def _needs_of(self, criteria: Iterable[str]) -> list[Need]:
        ways = (way for iri in criteria for way in self.ways.ways(Named(iri)))
        return list(dict.fromkeys(need for way in ways for need in way))

    # --- Engine --------------------------------------------------------------------------------------

    def _answer(self, questions: list[Question], most: int = ROUNDS[-1]) -> None:
        """Assess patients for every question, a few at first and more for those that are not answered yet."""
        for size in [*(r for r in ROUNDS if r < most), most]:
            asked = [(q, case) for q in questions if q.found is None for case in islice(q.candidates, size)]
            for (question, _), trial in zip(asked, self._assess([case for _, case in asked]), strict=True):
                if trial is None:
                    continue
                question.tried.append(trial)
                if question.found is None and question.shows(trial):
                    question.found = trial

    def _assess(self, cases: list[Case]) -> list[Trial | None]:
        if not cases:
            return []
        texts = [self.patients.turtle(case, f"{PATIENT}NUMBER") for case in cases]
        new = {text: case for text, case in zip(texts, cases, strict=True) if text not in self.assessed}
        reader = Reader()
        for number, text in enumerate(new):
            reader.add("witness", text.replace("NUMBER", str(number)).encode(), None)
        facts = reader.facts(self.knowledge.graph)
        self.assessed |= dict.fromkeys(new)
        named = list(new.items())
        for result in engine.assess(self.knowledge, facts, engine.parse_as_of(AS_OF)):
            if result.accepted:
                text, case = named[int(result.patient.removeprefix(PATIENT))]
                self.assessed[text] = Trial(case, result)
        return [self.assessed[text] for text in texts]

    @property
    def trials(self) -> list[Trial]:
        """Every patient that was assessed and whose facts are all accepted."""
        return [trial for trial in self.assessed.values() if trial]

    # --- Findings ------------------------------------------------------------------------------------

    def _finding(
        self,
        check: str,
        rule: str,
        question: Question | None,
        what: str,
        trial: Trial | None = None,
        related: tuple[str, ...] = (),
    ) -> Finding:
        trial = trial or (question.tried[0] if question and question.tried else None)
        witness = self.patients.turtle(trial.case, f"{PATIENT}witness") if trial else None
        message = f"{self.context.label(rule)} ({local_name(rule)}): {what}"
        return Finding(CG[check].value, rule, message, witness=witness, shown=_shown(trial) if trial else None, related=related)

    def _values(self, subject: str, *links: str) -> list[str]:
        return [value for link in links for value in self.knowledge.values(subject, CG[link])] if subject else []

    def _one(self, subject: str, link: str) -> str | None:
        return next(iter(self._values(subject, link)), None)


def _of(question: Question) -> str:
    """Among how many patients an answer was looked for."""
    return f" ({len(question.tried)} patients tried)"


def _says(kind: str, rule: str, status: str | None = None) -> Callable[[Trial], bool]:
    """Tells whether a rule speaks in an answer: it holds, or its status is the one that is given, or any but undetermined."""

    def shows(trial: Trial) -> bool:
        state = trial.result.state(rule)
        if kind == "Recommendation":
            return state == status if status else state not in (None, "undetermined")
        return state == "holds"

    return shows


def _both(rule: str, prohibition: str) -> Callable[[Trial], bool]:
    advised, forbidden = _says("Recommendation", rule, "recommended"), _says("Prohibition", prohibition)
    return lambda trial: advised(trial) and forbidden(trial)


def _orders(trial: Trial) -> bool:
    return any(fact.role == "hasActiveOrder" for fact in trial.case.facts)


def _opens(name: str, entries: Answer, above: set[str]) -> bool:
    """Whether following what opens a blocked recommendation leads to something that can be done."""
    entry = entries.get(name)
    if entry is None or entry["status"] != "blocked":
        return True
    return name not in above and any(_opens(opener, entries, above | {name}) for opener in entry["openedBy"])


def _circle(name: str, entries: Answer) -> set[str]:
    found, waiting = set(), [name]
    while waiting:
        here = waiting.pop()
        if here not in found and here in entries:
            found.add(here)
            waiting += entries[here]["openedBy"]
    return found


def _value(fact: Fact) -> str:
    number = next(iter(fact.numbers.values()), None)
    return (
        f"{local_name(fact.kind)} {number.normalize():f}{f' {fact.unit}' if fact.unit else ''}"
        if number is not None
        else local_name(fact.kind)
    )


def _shown(trial: Trial) -> str:
    """What the engine answers to a patient, in a line for each status; what is only possible is left out."""
    groups: dict[str, list[str]] = {}
    for kind in KINDS.values():
        for entry in trial.data[kind]:
            state = entry.get("status") or entry["state"]
            if state == "possible":
                continue
            groups.setdefault(f"{kind} {state}" if kind != "recommendations" else state, []).append(
                entry.get("name") or entry["id"]
            )
    return "\n".join(f"{state}: {', '.join(names)}" for state, names in groups.items())
