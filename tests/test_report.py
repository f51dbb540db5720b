"""The page of answers: what stands on it, in which order, that it is sound HTML, and that nothing of a patient becomes markup."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import html5lib
import pyoxigraph as ox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kbtool
from kbtool import engine, explain, report
from kbtool.namespaces import CG, RDF, XSD, local_name
from kbtool.scales import SOURCE, WIDTH, Scales

PATIENTS = Path(__file__).parent / "patients"
STYLE = (Path(report.__file__).parent / "templates" / "report-style.css").read_text(encoding="utf-8")
AS_OF = "2026-02-10T12:00:00Z"
DK = "https://w3id.org/kbtool/dialysis/"
SHOWN = [
    "P01",
    "P05",
    "P12",
    "P15",
    "P16",
    "P22",
    "Acute-agitation-aluminium-400",
    "Acute-one-sign-aluminium-unknown",
    "Mg-17-set-aside",
    "Overlay-CKD-baclofen-20-ordered",
    "Overlay-baclofen-coma",
    "Overlay-ionised-calcium-0-79",
    "Refused-dose-unit",
]
ORDER = [
    "refused",
    "set-aside",
    "unusual",
    "scope",
    "urgent-1",
    "urgent-2",
    "urgent-3",
    "conflicts",
    "pathway",
    "now",
    "do-not",
    "later",
    "values",
    "not-used",
    "missing",
    "meaning",
    "cautions",
    "done",
    "possible",
    "said",
    "assumptions",
]
TAGS = re.compile(
    "html|head|meta|title|link|style|body|svg|symbol|path|circle|text|use|a|header|footer|main|nav|section|article|div|h[1-5]|p|ul|"
    "ol|li|b|bdi|span|code|details|summary"
)
ATTRIBUTES = re.compile(
    "lang|charset|http-equiv|content|name|rel|href|class|id|aria-(labelledby|label|hidden)|focusable|role|width|height|viewBox|d|"
    "fill|stroke|stroke-width|cx|cy|r|x|y|text-anchor|start"
)


@cache
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


def page(*facts: Any, knowledge: kbtool.KnowledgeBase | None = None) -> str:
    base = knowledge or kb()
    read = base.read(*facts)
    people = explain.explainers(base.knowledge, read, engine.parse_as_of(AS_OF))
    return "".join(report.render(base.knowledge, people, AS_OF, base.about, read.strays))


@cache
def html(name: str) -> str:
    return page(PATIENTS / f"{name}.ttl")


def parsed(text: str) -> Element:
    """The page as a tree; a page that is not sound HTML raises."""
    tree: Element = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
    for element in tree.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    return tree


@cache
def tree(name: str) -> Element:
    return parsed(html(name))


def said(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def classed(root: Element, name: str) -> list[Element]:
    return [e for e in root.iter() if name in e.get("class", "").split()]


def check_harmless(root: Element) -> None:
    """Only the elements and attributes of the templates, and only links to places on the page."""
    ids = {e.get("id") for e in root.iter()}
    for element in root.iter():
        assert TAGS.fullmatch(element.tag), element.tag
        assert all(ATTRIBUTES.fullmatch(key.rpartition("}")[2]) for key, _ in element.items()), element.items()
        target = element.get("href")
        assert target in (None, "data:,") or (target or "").removeprefix("#") in ids


def answer(name: str) -> dict[str, Any]:
    (result,) = kb().assess(PATIENTS / f"{name}.ttl", as_of=AS_OF).patients.values()
    return result.data


# --- The page as a document -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHOWN)
def test_the_page_is_a_sound_and_self_contained_document(name: str) -> None:
    root = tree(name)
    assert root.get("lang") == "en"
    assert Counter(e.tag for e in root.iter() if e.tag in ("h1", "main", "title")) == {"h1": 1, "main": 1, "title": 1}
    assert {"header", "main", "nav", "footer"} <= {e.tag for e in root.iter()}
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    assert {e.get("aria-labelledby") for e in root.iter() if e.get("aria-labelledby")} <= set(ids)
    check_harmless(root)


@pytest.mark.parametrize("name", SHOWN)
def test_headings_leave_out_no_level(name: str) -> None:
    levels = [int(e.tag[1]) for e in tree(name).iter() if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_policy_lets_nothing_in() -> None:
    first = list(tree("P01").iter("meta"))[1]
    assert first.get("http-equiv") == "Content-Security-Policy"
    assert first.get("content") == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not re.search(r"url\(|@import|expression\(", STYLE)
    assert "<script" not in html("P01")


def test_the_head_says_what_the_answers_rest_on() -> None:
    head = said(next(tree("P01").iter("header")))
    about = kb().about
    for part in (about["iri"], about["version"], about["sha256"][:12], "10 Feb 2026, 12:00 UTC"):
        assert part in head
    assert "No clinician has approved this content. It supports a decision and does not make one." in head


@pytest.mark.parametrize("name", SHOWN)
def test_the_sections_stand_in_the_order_of_what_matters(name: str) -> None:
    found = [(e.get("aria-labelledby") or "").removeprefix("p1-") for e in tree(name).iter("section")]
    assert found == [key for key in ORDER if key in found]


def test_everything_opens_when_printed() -> None:
    printed = STYLE[STYLE.index("@media print") :]
    assert re.search(r"details::details-content \{[^}]*content-visibility: visible", printed)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_ink_can_be_read_on_its_paper() -> None:
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", STYLE))
    inks = [name.removesuffix("-ink") for name in colours if name.endswith("-ink")]
    assert len(inks) >= 10
    for name in inks:
        assert contrast(colours[f"{name}-ink"], colours[f"{name}-paper"]) >= 4.5, name
    assert contrast(colours["line"], colours["page-paper"]) >= 3
    assert set(re.findall(r"#[0-9a-f]{6}", STYLE)) == set(colours.values())
    assert round(contrast("#000000", "#ffffff"), 1) == 21


# --- What it says -------------------------------------------------------------------------------------------


def check_complete(root: Element, data: dict[str, Any], number: int = 1) -> None:
    """Every rule of an answer is explained once, and every recommendation stands once in the pathway."""
    entries = [e for kind in explain.KINDS.values() for e in data[kind]]
    (patient,) = [e for e in root.iter("article") if e.get("id") == f"p{number}"]
    whys = Counter(e.get("id") for e in classed(patient, "why"))
    assert whys == Counter(f"p{number}-{n}-why" for n in range(len(entries)))
    boxes = [(said(classed(b, "name")[0]), said(classed(b, "status")[0])) for b in classed(patient, "box")]
    wanted = [(e["label"], report.STATUSES[e["status"]]) for e in data["recommendations"]]
    assert sorted((label, status.split(" (")[0]) for label, status in boxes) == sorted(wanted)


@pytest.mark.parametrize("name", SHOWN)
def test_every_rule_is_explained_once_and_every_recommendation_stands_once_in_the_pathway(name: str) -> None:
    check_complete(tree(name), answer(name))


@pytest.mark.deep
def test_all_golden_patients_fit_on_one_page() -> None:
    text, answers = page(PATIENTS), kb().assess(PATIENTS, as_of=AS_OF)
    root = parsed(text)
    assert len(answers) == len(classed(root, "patient")) > 150
    for number, result in enumerate(answers.patients.values(), 1):
        check_complete(root, result.data, number)


def test_every_status_has_a_word_a_sign_and_a_colour() -> None:
    seen = set()
    for name in SHOWN:
        for box in classed(tree(name), "box"):
            status = next(s for s in report.STATUSES if s in box.get("class", "").split())
            assert report.STATUSES[status] in said(classed(box, "status")[0])
            assert box.find(".//use") is not None
            seen.add(status)
    assert seen >= {"recommended", "blocked", "undetermined", "satisfied"}
    assert all(f".{status} {{" in STYLE or f".{status}," in STYLE for status in report.STATUSES)


def test_steps_come_from_the_knowledge_in_order() -> None:
    names = [said(e) for e in classed(tree("P05"), "s-pathway")[0].iter("h4")]
    steps = sorted(kb().knowledge.instances(CG["Step"]), key=lambda s: int(kb().knowledge.value(s, CG["position"]) or 0))
    assert names == [kb().knowledge.labels[step] for step in steps]


def test_what_waits_says_for_what_and_what_opens_it() -> None:
    root = tree("P05")
    (box,) = [b for b in classed(root, "box") if "Correct low potassium" in said(classed(b, "name")[0])]
    assert "Waits for magnesium adequate" in said(box)
    opener = next(a for a in box.iter("a") if said(a) == "Measure serum magnesium")
    (target,) = [e for e in root.iter() if f"#{e.get('id')}" == opener.get("href")]
    assert "Opens" in said(target)
    assert "Correct low potassium" in said(target)


@pytest.mark.parametrize(
    ("name", "heading", "words"),
    [
        ("P22", "Hard stop", "No intravenous magnesium during dialysis"),
        ("Acute-agitation-aluminium-400", "Emergency", "Acute aluminium neurotoxicity suspected"),
        ("Overlay-baclofen-coma", "Decide", "No abrupt stop of baclofen"),
    ],
)
def test_what_is_urgent_comes_first_with_word_and_sign(name: str, heading: str, words: str) -> None:
    first = next(tree(name).iter("section"))
    title = first.find("h3")
    assert title is not None
    assert said(title) == heading
    assert title.find(".//use") is not None
    assert words in said(first)


def test_an_emergency_that_is_not_excluded_says_what_is_not_known() -> None:
    first = next(tree("Acute-one-sign-aluminium-unknown").iter("section"))
    assert said(first).startswith("Emergency not excluded")
    assert "Not known Plasma aluminium" in said(first)


def test_source_and_overlay_stand_side_by_side() -> None:
    card = classed(tree("P15"), "clash-card")[0]
    source, overlay = classed(card, "side")
    assert said(source).startswith("The source says S34 Baclofen is the drug of first choice")
    assert said(overlay).startswith("Safety overlay says SO-01 The kidney clears baclofen.")
    assert "Sources" in said(overlay)
    assert "Start baclofen (Do now)" in said(card)


def test_advice_against_which_a_conflict_speaks_is_not_called_the_first_thing_to_do() -> None:
    assert not classed(tree("P15"), "verdict")
    assert not classed(tree("Overlay-ionised-calcium-0-79"), "verdict")
    assert said(classed(tree("P05"), "verdict")[0]) == "First Measure serum magnesium"


def test_a_refused_patient_shows_why_and_nothing_else() -> None:
    root = tree("Refused-dose-unit")
    assert [e.get("aria-labelledby") for e in root.iter("section")] == ["p1-refused"]
    assert "Nothing was checked for this patient, orders included." in said(root)
    assert "Baclofen" in said(classed(root, "s-refused")[0])


def test_an_observation_that_is_set_aside_comes_first() -> None:
    first = next(tree("Mg-17-set-aside").iter("section"))
    assert "Set aside" in said(first)
    assert "Serum magnesium 17 mg/dL" in said(first)


def test_a_patient_out_of_scope_has_no_pathway() -> None:
    root = tree("Overlay-CKD-baclofen-20-ordered")
    assert not classed(root, "pathway")
    assert "That is not a finding that nothing is wrong." in said(root)
    assert classed(root, "clash-card")


def test_facts_without_a_patient_are_said_first() -> None:
    text = page(b'<urn:x:stray> <https://w3id.org/kbtool/cg/value> "<b>1</b>" .', PATIENTS / "P01.ttl")
    first = next(parsed(text).iter("section"))
    assert said(first).startswith("Not read")
    assert "urn:x:stray" in said(first)


def test_a_value_stands_among_its_thresholds_as_reported() -> None:
    (bars,) = classed(tree("P01"), "bars")
    magnesium, _, potassium = list(bars)
    assert said(potassium).startswith("Serum potassium 3.2 mmol/L 10 Feb 2026, 06:40 UTC, 5 h ago")
    assert "is below 3.5 mmol/L: low potassium range Local policy" in said(potassium)
    assert "Serum magnesium 1.4 mg/dL, which is 0.576 mmol/L" in said(magnesium)
    assert "is not at least 1.7 mg/dL: magnesium target, mass source" in said(magnesium)
    assert [said(t) for t in classed(magnesium, "value")] == ["1.4"]


def test_a_measurement_that_is_not_used_says_why() -> None:
    name = "Al-over-90-days-stale"
    (section,) = classed(tree(name), "s-not-used")
    for fact in answer(name)["notUsed"]:
        assert f"{fact['label']} {fact['value']}" in said(section)
        assert fact["reasonLabel"] in said(section)


def test_what_is_missing_is_ranked() -> None:
    (section,) = classed(tree("P05"), "s-missing")
    assert said(section).startswith("Missing, what matters most first Serum magnesium could change 7 answers")
    labels = {local_name(e): label for e, label in kb().knowledge.labels.items()}
    for name in answer("P05")["missing"]:
        assert labels[name] in said(section)


def test_a_guideline_of_another_field_needs_no_change() -> None:
    folder = Path(__file__).parent / "second_guideline"
    other = kbtool.load(folder / "root.ttl")
    root = parsed(page(folder / "patients", knowledge=other))
    answers = other.assess(folder / "patients", as_of=AS_OF)
    assert len(answers) > 2
    for number, result in enumerate(answers.patients.values(), 1):
        check_complete(root, result.data, number)
    assert "dialysis" not in said(root).lower()


def test_patients_come_one_by_one() -> None:
    read = kb().read(*(PATIENTS / f"{name}.ttl" for name in ("P01", "P05", "P12")))
    started: list[str] = []

    def people() -> Iterator[explain.Explainer]:
        for explainer in explain.explainers(kb().knowledge, read, engine.parse_as_of(AS_OF)):
            started.append(explainer.result.patient)
            yield explainer

    seen = ""
    for piece in report.render(kb().knowledge, people(), AS_OF, kb().about):
        seen += piece
        if len(started) == 2:
            break
    assert 'id="p1-assumptions"' in seen
    assert len(started) == 2


# --- Nothing of a patient becomes markup ----------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "</style><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "<!--",
    "]]>",
    "&lt;b&gt;&amp;",
    "\u202egnirts\u202c",
    "a\x0b\x07b",
]
hostile = st.sampled_from(HOSTILE) | st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
names = st.sampled_from(
    [
        "urn:x:p",
        "javascript:alert(1)//",
        "data:text/html,'&lt;x&gt;",
        "https://example.org/p?a=1&b=2'%22%3Cscript%3E#x",
        "urn:x:%00",
    ]
)


def facts(patient: str, observation: str, finding: str, unit: str, comment: str, kind: str) -> bytes:
    me, o, f = ox.NamedNode(patient), ox.NamedNode(observation), ox.NamedNode(finding)
    a = RDF["type"]
    time = ox.Literal("2026-02-10T06:40:00Z", datatype=XSD["dateTime"])
    triples = [
        ox.Triple(me, a, CG["Patient"]),
        ox.Triple(me, CG["hasObservation"], o),
        ox.Triple(o, a, ox.NamedNode(f"{DK}SerumPotassium")),
        ox.Triple(o, CG["value"], ox.Literal("3.2", datatype=XSD["decimal"])),
        ox.Triple(o, CG["unit"], ox.Literal(unit)),
        ox.Triple(o, CG["time"], time),
        ox.Triple(o, CG["code"], ox.Literal(comment)),
        ox.Triple(me, CG["hasFinding"], f),
        ox.Triple(f, a, ox.NamedNode(kind)),
        ox.Triple(f, CG["onset"], ox.Literal(comment)),
    ]
    return ox.serialize(triples, format=ox.RdfFormat.N_TRIPLES) or b""


def checked(text: str) -> Element:
    root = parsed(text)
    check_harmless(root)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    return root


@settings(max_examples=30, deadline=None)
@given(names, hostile, hostile, st.sampled_from([f"{DK}MuscleSpasm", "javascript:alert(2)", "urn:x:unknown"]))
def test_nothing_of_a_patient_becomes_markup(patient: str, unit: str, comment: str, kind: str) -> None:
    root = checked(page(facts(patient, f"{patient}o", f"{patient}f", unit, comment, kind)))
    title = next(root.iter("h2"))
    assert said(title) == f"Patient {patient}"


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_unit_is_shown_as_text(unit: str) -> None:
    document = (PATIENTS / "P01.ttl").read_text(encoding="utf-8")
    text = page(document.replace('3.2 ; cg:unit "mmol/L"', f"3.2 ; cg:unit {ox.Literal(unit)}").encode())
    root = checked(text)
    shown = "".join(c if c.isprintable() else "\ufffd" for c in unit)
    assert shown in said(classed(root, "s-set-aside")[0])


# --- Axes ---------------------------------------------------------------------------------------------------


@cache
def scales() -> Scales:
    return Scales(kb().knowledge)


def observables() -> list[tuple[str, str]]:
    knowledge = kb().knowledge
    kinds = sorted(q.subject.value for q in knowledge.graph.quads_for_pattern(None, CG["canonicalUnit"], None, None))  # type: ignore[union-attr]
    units = [(k, knowledge.value(c, CG["ucum"]) or "") for k in kinds for c in knowledge.values(k, CG["acceptsUnit"])]
    return [pair for pair in units if scales().thresholds(pair[0])]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_numbers_stand_on_an_axis_in_their_order(data: st.DataObject) -> None:
    kind, unit = data.draw(st.sampled_from(observables()))
    number = data.draw(st.decimals(0, 2000, places=2, allow_nan=False))
    drawn = scales().draw(kind, str(number), unit)
    if drawn is None:
        return
    places = [drawn["low"]["x"], *(mark["x"] for mark in drawn["marks"]), drawn["high"]["x"]]
    assert places == sorted(places)
    assert 0 <= places[0] <= drawn["value"]["x"] <= places[-1] <= WIDTH
    assert drawn["value"]["text"] == str(number)
    for mark in drawn["marks"]:
        assert 0 < mark["y"] < drawn["y"]
        if abs(mark["x"] - drawn["value"]["x"]) > 0.2 and Decimal(mark["text"]) != number:
            assert (mark["x"] < drawn["value"]["x"]) == (Decimal(mark["text"]) < number)
    rows: dict[float, list[dict[str, Any]]] = {}
    for mark in drawn["marks"]:
        rows.setdefault(mark["y"], []).append(mark)
    for row in rows.values():
        for left, right in pairwise(row):
            assert right["x"] - left["x"] >= 5 * (len(left["text"]) + len(right["text"])) / 2


def test_whose_a_threshold_is_comes_from_the_module_that_defines_it() -> None:
    owners = {
        t.test.datatype.rsplit("/", 1)[-1]: scales().owner(t.test.datatype)
        for k, _ in observables()
        for t in scales().thresholds(k)
    }
    assert owners["MagnesiumTargetMassRange"] == SOURCE
    assert owners["LowPotassiumRange"] == "Local policy"
    assert owners["HighSupineSystolicRange"] == "Safety overlay"


def test_a_threshold_in_another_unit_than_the_reported_one_says_nothing() -> None:
    drawn = scales().draw(f"{DK}SerumMagnesium", "1.4", "mg/dL")
    assert drawn is not None
    texts = [limit["text"] for limit in drawn["limits"]]
    assert "at least 1.7 mg/dL" in texts
    assert not any("meq/L" in text for text in texts)
    assert [limit["here"] for limit in drawn["limits"] if limit["text"] == "below 0.5 mmol/L"] == ["1.216 mg/dL"]


def test_a_quantity_without_thresholds_has_no_axis() -> None:
    assert scales().draw(f"{DK}DryWeight", "70", "kg") is None
