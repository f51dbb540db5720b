"""Let HermiT judge the criteria: are they consistent, can each be met, does one say the same as another?

Where it says no, the axioms that are to blame are found by leaving out one after the other of those that the class
rests on (a minimal justification), so that the message can name them.
"""

from __future__ import annotations

from collections.abc import Iterator

from kbtool.checks.model import CannotCheckError, Context, Finding
from kbtool.criteria import Criteria, Criterion
from kbtool.namespaces import CG, local_name
from kbtool.reasoner import InconsistentError, Inferred, ReasonerError, check_terms, terms_behind

_CONCLUSIONS = {"Recommendation": "action", "Prohibition": "forbids"}
_NARROWING = ("requires", "requiresAbsenceOf", "unless", "raisedByOrder", "metWhen", "accompanies")


def reasoning(context: Context) -> Iterator[Finding]:
    """What HermiT finds. Raises CannotCheckError where it is not installed or takes longer than the time limit."""
    try:
        inferred = check_terms(context.knowledge, timeout=context.timeout)
    except InconsistentError:
        yield Finding(
            CG["Inconsistent"].value, context.knowledge.iri, "the ontology contradicts itself, whatever is stated of individuals"
        )
        return
    except ReasonerError as error:
        raise CannotCheckError(str(error)) from error
    for check, wrong in (("Inconsistent", inferred.contradicted), ("UnsatisfiableClass", inferred.unsatisfiable)):
        what = "its classes exclude each other" if check == "Inconsistent" else "nothing can belong to it"
        for iri in sorted(wrong):
            because = [term for term in terms_behind(context.knowledge, iri) if term != iri and term in inferred.unsatisfiable]
            if because:
                why = f"because nothing can belong to {_name(context, because[0])}"
            else:
                because = _blamed(context, iri)
                why = f"look at what is said of {', '.join(_name(context, term) for term in because)}"
            yield Finding(CG[check].value, iri, f"{_name(context, iri)}: {what}; {why}", related=tuple(because))
    criteria = {c.iri: c for c in Criteria.read(context.knowledge.graph).ordered}
    meets = {c: inferred.subclasses.get(c, frozenset()) - {c} for c in criteria if c not in inferred.unsatisfiable}
    yield from _same(context, meets)
    yield from _redundant_parts(context, criteria, inferred)
    yield from _redundant_rules(context, meets)


def _same(context: Context, meets: dict[str, frozenset[str]]) -> Iterator[Finding]:
    """Defined classes with different names that mean the same."""
    for one in sorted(meets):
        for other in sorted(meets[one] & meets.keys()):
            if one < other and one in meets[other]:
                text = f"{_name(context, one)} and {_name(context, other)} are met by exactly the same; compare their definitions"
                yield Finding(CG["EquivalentCriteria"].value, one, text, related=(other,))


def _redundant_parts(context: Context, criteria: dict[str, Criterion], inferred: Inferred) -> Iterator[Finding]:
    """Named conditions in an intersection that another condition of it brings along."""
    for iri, criterion in sorted(criteria.items()):
        named = [c for c in criterion.conjuncts if c in criteria]
        for part in named:
            bringing = [o for o in named if o != part and part in inferred.subclasses.get(o, frozenset())]
            if bringing and iri not in inferred.unsatisfiable:
                text = f"{_name(context, iri)}: whoever meets {_name(context, bringing[0])} meets {_name(context, part)} too"
                yield Finding(CG["RedundantCondition"].value, iri, text, related=(part, bringing[0]))


def _redundant_rules(context: Context, meets: dict[str, frozenset[str]]) -> Iterator[Finding]:
    """Rules whose criterion lies below that of another with the same conclusion and nothing that narrows it further; and
    states that a recommendation requires and that its criterion includes."""
    values = context.knowledge.values
    for kind, conclusion in _CONCLUSIONS.items():
        rules = context.knowledge.instances(CG[kind])
        for rule in rules:
            for state in values(rule, CG["requires"]):
                for criterion in values(rule, CG["appliesTo"]):
                    if state == criterion or state in meets.get(criterion, ()):
                        included = f"{_name(context, state)}, which {_name(context, criterion)} includes"
                        text = f"{_name(context, rule)}: requires {included}"
                        yield Finding(CG["RedundantPrerequisite"].value, rule, text, related=(criterion, state))
            for other in rules:
                if rule == other or not set(values(rule, CG[conclusion])) & set(values(other, CG[conclusion])):
                    continue
                if any(not set(values(other, CG[link])) <= set(values(rule, CG[link])) for link in _NARROWING):
                    continue
                for criterion in values(rule, CG["appliesTo"]):
                    wider = [c for c in values(other, CG["appliesTo"]) if c == criterion or c in meets.get(criterion, ())]
                    if wider and not (rule > other and _mutual(criterion, wider[0], meets)):
                        text = (
                            f"{_name(context, rule)} says nothing that {_name(context, other)} does not say: whoever meets "
                            f"{_name(context, criterion)} meets {_name(context, wider[0])}"
                        )
                        yield Finding(CG["RedundantRule"].value, rule, text, related=(other, criterion, wider[0]))


def _mutual(one: str, other: str, meets: dict[str, frozenset[str]]) -> bool:
    return one == other or one in meets.get(other, ())


def _blamed(context: Context, iri: str) -> list[str]:
    """Terms whose axioms together leave a class or individual without any possible member: none of them can be spared."""
    kept = terms_behind(context.knowledge, iri)
    size = max(1, len(kept) // 2)
    while size:
        for start in reversed(range(0, len(kept), size)):
            fewer = kept[:start] + kept[start + size :]
            if _wrong(context, iri, fewer):
                kept = fewer
        size //= 2
    return kept


def _wrong(context: Context, iri: str, kept: list[str]) -> bool:
    try:
        inferred = check_terms(context.knowledge, only=kept, timeout=context.timeout)
    except ReasonerError:
        return False
    return iri in inferred.unsatisfiable | inferred.contradicted


def _name(context: Context, iri: str) -> str:
    return f"{context.label(iri)} ({local_name(iri)})"
