"""What must not change an answer does not change it, for golden and for generated patients.

The format of the facts, the names of blank nodes, the order of triples, facts that no rule refers to, the unit of a result,
other patients in the same file, and a shift of all times. And what makes a prohibition stronger never takes another away.
Each property is shown to fail on a planted defect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from typing import Any

import pyoxigraph as ox
import pytest
from generate import AS_OF, Fact, Vocabulary, generate, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_patients import CASES, FOLDER
from thresholds import Meeting

import kbtool
from kbtool.criteria import Criteria, Named, Range
from kbtool.facts import GENID, Reader
from kbtool.namespaces import CG, RDF, XSD, local_name

SEED = 20260213
FORMATS = {
    "turtle": ox.RdfFormat.TURTLE,
    "n-triples": ox.RdfFormat.N_TRIPLES,
    "json-ld": ox.RdfFormat.JSON_LD,
    "rdf-xml": ox.RdfFormat.RDF_XML,
}

Answers = dict[str, dict[str, Any]]
Triples = tuple[ox.Triple, ...]


@cache
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary.read(kb().knowledge)


@cache
def documents() -> tuple[Triples, ...]:
    """The facts of every golden patient with the usual as-of time, and of some generated ones, as triples."""
    times = {name: json.loads((FOLDER / f"{name}.expected.json").read_text(encoding="utf-8"))["asOf"] for name in CASES}
    texts = [(FOLDER / f"{name}.ttl").read_bytes() for name in CASES if times[name] == AS_OF]
    texts += [text.encode() for text in generate(kb().knowledge, SEED, 120)]
    return tuple(tuple(q.triple for q in ox.parse(t, ox.RdfFormat.TURTLE, rename_blank_nodes=True)) for t in texts)


patient = st.integers(0, len(documents()) - 1).map(lambda number: documents()[number])
some = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def assess(base: kbtool.KnowledgeBase, *sources: bytes, as_of: str = AS_OF, format: str = "n-triples") -> Answers:
    """The answers by patient, without what is not meant to stay the same: the names of blank nodes, and their order."""
    result = base.assess(*sources, as_of=as_of, format=format)
    return {iri: _settled(answer.to_json()) for iri, answer in result.items()}


def _settled(data: Any) -> Any:
    """An answer in which facts are not told by the names that blank nodes were given."""
    if isinstance(data, dict):
        return {k: _settled(v) for k, v in data.items() if not (k in ("fact", "focus") and str(v).startswith(GENID))}
    if isinstance(data, list):
        items = [_settled(item) for item in data]
        facts = bool(data) and all(isinstance(item, dict) and {"fact", "focus"} & item.keys() for item in data)
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True)) if facts else items
    return re.sub(rf"{re.escape(GENID)}\d+", "a blank node", data) if isinstance(data, str) else data


def written(triples: Iterable[ox.Triple], format: str = "n-triples") -> bytes:
    return ox.serialize(triples, format=FORMATS[format]) or b""


def decided(answers: Answers) -> Answers:
    """What is said of each rule, without the facts."""
    found: Answers = {}
    for iri, data in answers.items():
        found[iri] = {"inScope": data["inScope"], "refused": bool(data.get("refused")), "missing": data["missing"]}
        for kind in ("recommendations", "prohibitions", "assessments", "cautions"):
            keys = ("status", "state", "needs", "blockedBy", "openedBy", "hardStop", "overridable", "conflict")
            found[iri][kind] = {e.get("name", e.get("id")): {k: e[k] for k in keys if k in e} for e in data[kind]}
    return found


def altered(step: str, old: str, new: str) -> kbtool.KnowledgeBase:
    """The knowledge base with a defect in a step."""
    steps = [
        replace(s, parts=tuple(replace(p, text=p.text.replace(old, new), triggers=()) for p in s.parts)) if step in s.name else s
        for s in kb().knowledge.steps
    ]
    assert steps != kb().knowledge.steps
    return kbtool.KnowledgeBase(replace(kb().knowledge, steps=steps))


def fails(check: Callable[[kbtool.KnowledgeBase, Triples], object], base: kbtool.KnowledgeBase, each: bool = False) -> bool:
    """Whether a check fails for some patients, all of them together or, where it must be so, one by one."""
    chosen = documents()[::6]
    for triples in chosen if each else [tuple(triple for facts in chosen for triple in facts)]:
        try:
            check(base, triples)
        except AssertionError:
            return True
    return False


# --- Formats, names and order -----------------------------------------------------------------------


def in_format(base: kbtool.KnowledgeBase, triples: Triples, format: str) -> None:
    assert assess(base, written(triples, format), format=format) == assess(base, written(triples))


@given(patient, st.sampled_from(sorted(FORMATS.keys() - {"n-triples"})))
@some
def test_the_four_formats_give_the_same_answer(triples: Triples, format: str) -> None:
    in_format(kb(), triples, format)


@pytest.mark.parametrize("format", sorted(FORMATS.keys() - {"n-triples"}))
def test_a_format_that_loses_a_triple_is_noticed(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    whole = Reader._add
    add = Reader.add

    def losing(self: Reader, name: str, data: bytes, kind: ox.RdfFormat | None = None) -> None:
        drop = kind == FORMATS[format]
        monkeypatch.setattr(Reader, "_add", lambda s, n, parsed: whole(s, n, parsed[: -1 if drop else None]))
        add(self, name, data, kind)

    monkeypatch.setattr(Reader, "add", losing)
    assert fails(lambda base, triples: in_format(base, triples, format), kb(), each=True)


def renamed(triples: Triples, order: list[int]) -> Triples:
    """The triples in another order, and with other names for their blank nodes, which sort in another order too."""
    nodes = sorted({t for each in triples for t in (each.subject, each.object) if isinstance(t, ox.BlankNode)}, key=str)
    names: dict[Any, Any] = {node: ox.BlankNode(f"n{(n * 7919) % 1000:03}x{n}") for n, node in enumerate(reversed(nodes))}
    moved = [triples[n % len(triples)] for n in order] + list(triples)
    return tuple(
        dict.fromkeys(ox.Triple(names.get(t.subject, t.subject), t.predicate, names.get(t.object, t.object)) for t in moved)
    )


def in_order(base: kbtool.KnowledgeBase, triples: Triples, order: list[int]) -> None:
    assert assess(base, written(renamed(triples, order))) == assess(base, written(triples))


@given(patient, st.lists(st.integers(0, 500), max_size=60))
@some
def test_order_and_names_of_blank_nodes_change_nothing(triples: Triples, order: list[int]) -> None:
    in_order(kb(), triples, order)


def test_an_answer_that_rests_on_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Reader._add_rows
    monkeypatch.setattr(Reader, "_add_rows", lambda self, name, rows, **how: whole(self, name, rows[:-1], **how))
    assert fails(lambda base, triples: in_order(base, triples, list(range(60, 0, -1))), kb(), each=True)


# --- Unrelated facts --------------------------------------------------------------------------------


@cache
def unrelated() -> tuple[Fact, ...]:
    """A fact of each class of findings, drugs and observations that neither a criterion nor a rule nor a computed quantity
    refers to, and no class above or below it."""
    v, graph = vocabulary(), kb().knowledge.graph
    referred = {iri for c in Criteria.read(graph).ordered for iri in c.refers_to}
    for link in (
        "touches",
        "ordersMedication",
        "ratioNumerator",
        "ratioDenominator",
        "differenceMinuend",
        "differenceSubtrahend",
    ):
        for quad in graph.quads_for_pattern(None, CG[link], None, None):
            referred |= {quad.object.value}  # type: ignore[union-attr]
    referred -= {CG[name].value for name in ("Patient", "Fact", "Quantity", *(local_name(base) for base in v.link))}
    found = []
    for base in ("Finding", "Medication", "Observation"):
        for kind in v.kinds[CG[base].value]:
            if (v.above(kind) | v.below(kind) | {kind}) & referred:
                continue
            fact = Fact(kind)
            if base == "Observation":
                unit, factor, offset = v.units(kind)[0]
                lowest = v.number(kind, "usualMinimum", str(v.number(kind, "plausibleMinimum", "0")))
                middle = (lowest + v.number(kind, "usualMaximum", str(v.number(kind, "plausibleMaximum", "2")))) / 2
                fact.stated = {"value": plain((middle / factor - offset).quantize(Decimal("0.001"))), "unit": f'"{unit}"'}
                fact.stated["time"] = '"2026-02-10T11:00:00Z"^^xsd:dateTime'
            found.append(fact)
    return tuple(found)


def test_there_are_unrelated_facts_of_each_kind() -> None:
    bases = {local_name(vocabulary().base_of[fact.kind]) for fact in unrelated()}
    assert bases == {"Finding", "Medication", "Observation"}
    assert len(unrelated()) > 20


def stated(triples: Triples, facts: Iterable[Fact]) -> Triples:
    """The facts of a patient with more of them."""
    subject = next(t.subject for t in triples if t.predicate == RDF["type"] and t.object == CG["Patient"])
    links = " ; ".join(f"cg:{vocabulary().link[vocabulary().base_of[fact.kind]]} {fact.turtle()}" for fact in facts)
    document = f"@prefix cg: <{CG.iri}> . @prefix xsd: <{XSD.iri}> . {subject} {links} ."
    added = [q.triple for q in ox.parse(document, ox.RdfFormat.TURTLE, rename_blank_nodes=True)]
    return (*triples, *added)


def with_unrelated(base: kbtool.KnowledgeBase, triples: Triples, facts: list[Fact]) -> None:
    kinds = {local_name(fact.kind) for fact in facts}
    before, after = assess(base, written(triples)), assess(base, written(stated(triples, facts)))
    for answers in (before, after):
        for data in answers.values():
            data["notUsed"] = [fact for fact in data["notUsed"] if fact["name"] not in kinds]
    assert after == before


@given(patient, st.lists(st.integers(0, len(unrelated()) - 1), min_size=1, max_size=4, unique=True))
@some
def test_unrelated_facts_change_nothing(triples: Triples, chosen: list[int]) -> None:
    with_unrelated(kb(), triples, [unrelated()[n] for n in chosen])


def test_a_rule_that_counts_findings_is_noticed() -> None:
    base = altered(
        "derive/20-prohibitions",
        "?patient cg:applies ?rule .\n",
        "?patient cg:applies ?rule .\n"
        "  FILTER NOT EXISTS { ?patient cg:hasActiveFinding ?one , ?other . FILTER(?one != ?other) }\n",
    )
    finding = next(fact for fact in unrelated() if vocabulary().base_of[fact.kind] == CG["Finding"].value)
    assert fails(lambda b, triples: with_unrelated(b, triples, [finding]), base, each=True)


# --- Units ------------------------------------------------------------------------------------------


@cache
def as_reported() -> frozenset[str]:
    """The quantities that a criterion tests in the unit in which they were reported."""
    found: set[str] = set()
    for criterion in Criteria.read(kb().knowledge.graph).ordered:
        waiting: list[Any] = [criterion.expression]
        while waiting:
            each = waiting.pop()
            waiting += [*getattr(each, "parts", ()), *filter(None, [getattr(each, "filler", None)])]
            if isinstance(each, Range) and each.prop == CG["value"].value:
                found |= criterion.refers_to
    return frozenset(found)


def in_units(triples: Triples, draw: Callable[[int], int]) -> Triples:
    """The same facts with results and doses in other accepted units, where these say exactly the same."""
    v = vocabulary()
    by_node: dict[Any, dict[Any, Any]] = {}
    for t in triples:
        by_node.setdefault(t.subject, {})[t.predicate] = t.object
    changed: dict[Any, dict[Any, Any]] = {}
    for node, said in by_node.items():
        number, unit, kind = (said.get(p) for p in (CG["value"], CG["unit"], RDF["type"]))
        if number is None or unit is None or not isinstance(kind, ox.NamedNode) or kind.value in as_reported():
            continue
        units = {u: (f, o) for u, f, o in v.units(kind.value)}
        if unit.value not in units or not re.fullmatch(r"-?\d+(\.\d+)?", number.value):
            continue
        factor, offset = units[unit.value]
        canonical = (Decimal(number.value) + offset) * factor
        options = [(unit.value, Decimal(number.value))]
        for name, (f, o) in units.items():
            other = (canonical / f - o).quantize(Decimal("0.000000001"))
            if name != unit.value and (other + o) * f == canonical:
                options.append((name, other))
        name, other = options[draw(len(options))]
        literal = ox.Literal(plain(other.normalize()), datatype=XSD["decimal"])
        changed[node] = {CG["value"]: literal, CG["unit"]: ox.Literal(name)}
    return tuple(ox.Triple(t.subject, t.predicate, changed.get(t.subject, {}).get(t.predicate, t.object)) for t in triples)


def in_other_units(base: kbtool.KnowledgeBase, triples: Triples, draw: Callable[[int], int] = lambda n: n - 1) -> None:
    assert decided(assess(base, written(in_units(triples, draw)))) == decided(assess(base, written(triples)))


@given(patient, st.data())
@some
def test_the_unit_of_a_result_changes_nothing(triples: Triples, data: st.DataObject) -> None:
    in_other_units(kb(), triples, lambda n: data.draw(st.integers(0, n - 1)))


def test_units_are_really_changed() -> None:
    assert sum(in_units(triples, lambda n: n - 1) != triples for triples in documents()) > 100


def test_a_factor_that_is_not_used_is_noticed() -> None:
    assert fails(in_other_units, altered("prepare/50-current", "* ?factor", "* 1"))


# --- Prohibitions -----------------------------------------------------------------------------------


@cache
def contraindicating() -> tuple[tuple[str, tuple[tuple[str, Fact], ...]], ...]:
    """Each prohibition with facts that raise it: facts that meet its criterion, and an order."""
    knowledge, meeting = kb().knowledge, Meeting(kb().knowledge)
    found = []
    for iri in knowledge.instances(CG["Prohibition"]):
        for criterion in knowledge.values(iri, CG["appliesTo"]):
            found.append((iri, tuple(meeting.patient(Named(criterion)))))
        for kind in knowledge.values(iri, CG["raisedByOrder"]):
            found.append((iri, tuple(meeting.fact(Named(kind)))))
    return tuple(found)


def prohibitions(answers: Answers, *states: str) -> set[str]:
    return {p["iri"] for data in answers.values() for p in data["prohibitions"] if p["state"] in states}


def with_one_more(base: kbtool.KnowledgeBase, triples: Triples, number: int) -> None:
    """A prohibition that holds goes on to hold when a fact is added that raises one.

    Three exceptions, each from the knowledge: a state that lifts a prohibition; a new treatment, which may make a result one
    that sessions disturb, so that a prohibition is possible where it held; a drug in addition, beside which an order of the
    same drug is judged by another difference of doses.
    """
    knowledge = base.knowledge
    _, added = contraindicating()[number]
    more = stated(triples, [fact for link, fact in added if link != "hasSetting"])
    before, after = assess(base, written(triples)), assess(base, written(more))
    if any(data.get("refused") for data in after.values()):
        return
    drugs = {fact.kind for link, fact in added if link == "hasMedication"}
    kinds = {t.object.value for t in triples if t.predicate == RDF["type"] and isinstance(t.object, ox.NamedNode)}
    ordered = {knowledge.value(kind, CG["ordersMedication"]) for kind in kinds}
    spared = set(knowledge.instances(CG["Prohibition"])) if drugs & ordered else set()
    states = ("holds", "possible") if any(link in ("hasTreatment", "hasSession") for link, _ in added) else ("holds",)
    held = prohibitions(before, "holds")
    lost = held - prohibitions(after, *states) - spared
    assert not lost, f"{sorted(map(local_name, lost))} lost with {[fact.turtle() for _, fact in added]}"


@given(patient, st.integers(0, len(contraindicating()) - 1))
@some
def test_one_more_contraindicating_fact_never_removes_a_prohibition(triples: Triples, number: int) -> None:
    with_one_more(kb(), triples, number)


@pytest.mark.parametrize("number", range(len(contraindicating())))
def test_the_facts_that_are_added_raise_the_prohibition(number: int) -> None:
    iri, added = contraindicating()[number]
    scope = tuple(fact for _, fact in Meeting(kb().knowledge).in_scope())
    subject = ox.NamedNode("https://example.org/contraindicated")
    triples = stated((ox.Triple(subject, RDF["type"], CG["Patient"]),), [*scope, *(fact for _, fact in added)])
    assert iri in prohibitions(assess(kb(), written(triples)), "holds")


def test_a_prohibition_that_an_order_lifts_is_noticed() -> None:
    base = altered(
        "derive/20-prohibitions",
        "?patient cg:applies ?rule .\n",
        "?patient cg:applies ?rule .\n  FILTER NOT EXISTS { ?patient cg:hasActiveOrder ?any }\n",
    )
    numbers = [n for n, (_, added) in enumerate(contraindicating()) if {link for link, _ in added} == {"hasOrder"}]
    assert numbers
    assert all(fails(lambda b, t, n=n: with_one_more(b, t, n), base, each=True) for n in numbers)  # type: ignore[misc]


# --- Several patients, and time ---------------------------------------------------------------------


def beside(base: kbtool.KnowledgeBase, one: Triples, other: Triples) -> None:
    """Two patients in one document, and in two whose blank nodes have the same names, are answered as each alone."""
    if {t.subject for t in one if isinstance(t.subject, ox.NamedNode)} & {t.subject for t in other}:
        return
    alone = assess(base, written(one)) | assess(base, written(other))
    assert assess(base, written(one + other)) == alone
    assert assess(base, *(written(_numbered(triples)) for triples in (one, other))) == alone


def _numbered(triples: Triples) -> Triples:
    nodes = sorted({t for each in triples for t in (each.subject, each.object) if isinstance(t, ox.BlankNode)}, key=str)
    names: dict[Any, Any] = {node: ox.BlankNode(f"b{n}") for n, node in enumerate(nodes)}
    return tuple(ox.Triple(names.get(t.subject, t.subject), t.predicate, names.get(t.object, t.object)) for t in triples)


@given(patient, patient)
@some
def test_patients_in_one_file_are_answered_as_alone(one: Triples, other: Triples) -> None:
    beside(kb(), one, other)


def test_a_rule_that_looks_at_another_patient_is_noticed() -> None:
    base = altered(
        "derive/20-prohibitions",
        "?patient cg:applies ?rule .\n",
        "?rule cg:appliesTo ?any . ?one cg:applies ?rule . ?patient cg:inScope ?x .\n",
    )
    assert fails(lambda b, triples: beside(b, triples, documents()[1]), base, each=True)


def shifted(triples: Triples, by: timedelta, zone: timezone) -> Triples:
    """The facts with every time moved, and told in another zone."""

    def moved(term: Any) -> Any:
        if isinstance(term, ox.Literal) and term.datatype == XSD["dateTime"]:
            try:
                moment = datetime.fromisoformat(term.value)
            except ValueError:
                return term
            if moment.tzinfo:
                return ox.Literal((moment + by).astimezone(zone).isoformat(), datatype=XSD["dateTime"])
        return term

    return tuple(ox.Triple(t.subject, t.predicate, moved(t.object)) for t in triples)


def later(base: kbtool.KnowledgeBase, triples: Triples, by: timedelta, zone: timezone) -> None:
    then = (datetime.fromisoformat(AS_OF) + by).isoformat()
    moved = written(shifted(triples, by, zone))
    assert decided(assess(base, moved, as_of=then)) == decided(assess(base, written(triples)))


@given(patient, st.integers(-9000, 9000), st.integers(0, 86399), st.integers(-56, 56))
@some
def test_moving_all_times_and_another_zone_change_nothing(triples: Triples, days: int, seconds: int, quarters: int) -> None:
    later(kb(), triples, timedelta(days=days, seconds=seconds), timezone(timedelta(minutes=15 * quarters)))


@pytest.mark.parametrize(
    ("old", "new"),
    [("HOURS(?time) * 3600 + ", ""), ("- ?shift", ""), ("FLOOR((153 * ?m + 2) / 5)", "30 * ?m")],
)
def test_wrong_calendars_are_noticed(old: str, new: str) -> None:
    by, zone = timedelta(days=318, hours=5), timezone(timedelta(hours=9))
    assert fails(lambda base, triples: later(base, triples, by, zone), altered("prepare/20-instants", old, new))
