"""The guideline site: every link leads somewhere, every page is sound, and all that the knowledge base holds is shown."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import Element

import html5lib
import pytest

import kbtool
from kbtool import docs
from kbtool.docs import write_site
from kbtool.docs_guide import LISTED, RULES, Guide
from kbtool.docs_picture import pathway
from kbtool.export import ExportError
from kbtool.namespaces import CG, DCTERMS, SKOS, local_name

TESTS = Path(__file__).parent
PATIENTS = TESTS / "patients"
GUIDELINES = {
    "own": (None, PATIENTS),
    "second": (TESTS / "second_guideline" / "root.ttl", TESTS / "second_guideline" / "patients"),
}
BOTH = pytest.mark.parametrize("name", sorted(GUIDELINES))
LOADS = {"link": "href", "script": "src", "img": "src", "iframe": "src", "image": "href", "use": "href", "source": "src"}

HOSTILE = """
@prefix cg: <https://w3id.org/kbtool/cg/> .
@prefix dcterms: <http://purl.org/dc/terms/> .
@prefix ex: <https://example.org/hostile/> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .

<https://example.org/hostile> a owl:Ontology ; owl:imports <https://w3id.org/kbtool/cg> ; owl:versionInfo "<b>1</b>" ;
  dcterms:title "</title><script>alert('title')</script>"@en ; dcterms:license <javascript:alert(1)> ;
  dcterms:rights "<img src=x onerror=alert(1)>" .

ex:Cough a owl:Class ; rdfs:subClassOf cg:Finding ; skos:prefLabel "\\"><script>alert('label')</script>"@en ;
  skos:definition "</script><script>alert('definition')</script> {{ 7 * 7 }} & more"@en .
ex:cough a owl:Class ; rdfs:subClassOf cg:Finding ; skos:prefLabel "another cough"@en ; skos:altLabel "' onclick='alert(1)"@en .
<https://example.org/hostile/a%20b:c*> a owl:Class ; rdfs:subClassOf cg:Finding ; skos:prefLabel "odd name"@en .
ex:Coughing a owl:Class ; skos:prefLabel "coughing"@en ; owl:equivalentClass [ a owl:Class ; owl:intersectionOf (
  cg:Patient [ a owl:Restriction ; owl:onProperty cg:hasActiveFinding ; owl:someValuesFrom ex:Cough ] ) ] .
ex:Rest a cg:Recommendation ; skos:prefLabel "<u>rest</u>"@en ; cg:appliesTo ex:Coughing ; cg:rank 1 ; cg:requires ex:Coughing ;
  cg:hasMissingParameter ex:Hours .
ex:Hours a cg:MissingParameter ; skos:prefLabel "hours"@en ; skos:definition "Not said & <unknown>."@en .
"""


@cache
def guide(name: str) -> Guide:
    return Guide(kbtool.load(GUIDELINES[name][0]).knowledge)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, (root, cases) in GUIDELINES.items():
        made[name] = tmp_path_factory.mktemp("sites") / name
        write_site(kbtool.load(root), made[name], cases=cases)
    return made


def pages(site: Path) -> Iterator[tuple[str, Element]]:
    for file in sorted(site.rglob("*.html")):
        yield file.relative_to(site).as_posix(), parse(file)


@cache
def parse(file: Path) -> Element:
    """A page as a tree; html5lib raises an error where the page is not sound HTML."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    tree: Element = parser.parse(file.read_text(encoding="utf-8"))
    return tree


def words(element: Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def tag(element: Element) -> str:
    return str(element.tag).rsplit("}", 1)[-1]


def page_of(site: Path, name: str, term: str) -> str:
    """The words of the page, or of the place on it, of a term given by its local name."""
    [iri] = [iri for iri in guide(name).placed() if local_name(iri) == term]
    page, _, anchor = guide(name).href(iri).partition("#")
    tree = parse(site / page)
    return words(tree if not anchor else next(e for e in tree.iter() if e.get("id") == anchor))


def index(site: Path) -> list[list[str]]:
    text = (site / "search-index.js").read_text(encoding="utf-8")
    entries: list[list[str]] = json.loads(text.removeprefix("const SEARCH_INDEX = ").rstrip().removesuffix(";"))
    return entries


@BOTH
def test_pages_are_sound_html(sites: dict[str, Path], name: str) -> None:
    for page, tree in pages(sites[name]):
        ids = [e.get("id") for e in tree.iter() if e.get("id")]
        assert len(ids) == len(set(ids)), page
        assert tree.get("lang") == "en"
        headings = [int(tag(e)[1]) for e in tree.iter() if re.fullmatch("h[1-6]", tag(e))]
        assert headings[0] == 1, page
        assert headings.count(1) == 1, page
        assert all(after <= before + 1 for before, after in pairwise(headings)), page
        first_link = next(e for e in tree.iter("a"))
        assert first_link.get("href") == "#page-content", page
        assert not any(words(e) == "" for e in tree.iter() if tag(e) in {"h1", "h2", "h3", "a", "summary", "title"}), page


@BOTH
def test_every_link_leads_somewhere(sites: dict[str, Path], name: str) -> None:
    site = sites[name]
    ids = {page: {e.get("id") for e in tree.iter()} for page, tree in pages(site)}
    reached = set()
    for page, tree in pages(site):
        for element in tree.iter():
            for attribute in ("href", "src", "action", "{http://www.w3.org/1999/xlink}href"):
                target = element.get(attribute)
                if target is None:
                    continue
                path, _, anchor = unquote(target).partition("#")
                file = os.path.normpath(PurePosixPath(page).parent / path) if path else page
                assert (site / file).is_file(), f"{page}: {target}"
                assert not anchor or anchor in ids[file], f"{page}: {target}"
                reached.add(file)
    assert set(ids) <= reached, "pages to which nothing leads"
    for entry in index(site):
        file, _, anchor = entry[2].partition("#")
        assert file in ids, entry
        assert not anchor or anchor in ids[file], entry


@BOTH
def test_nothing_is_loaded_from_elsewhere(sites: dict[str, Path], name: str) -> None:
    for page, tree in pages(sites[name]):
        for element in tree.iter():
            for value in (element.get("href"), element.get("src"), element.get("action")):
                assert value is None or not re.match(r"[a-z]+:|//", value), f"{page}: {value}"
            assert not any(attribute.startswith("on") or attribute == "style" for attribute in element.attrib), page
            assert tag(element) not in {"style", "iframe", "object", "embed", "base"}, page
            assert tag(element) != "script" or not words(element), page
        [policy] = [e.get("content", "") for e in tree.iter("meta") if e.get("http-equiv") == "Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
    for file in ("site.css", "site.js"):
        assert not re.search(r"url\(|@import|fetch\(|https?:|innerHTML", (sites[name] / file).read_text(encoding="utf-8"))


@BOTH
def test_file_names_differ_in_more_than_case(sites: dict[str, Path], name: str) -> None:
    files = [file.relative_to(sites[name]).as_posix() for file in sites[name].rglob("*") if file.is_file()]
    assert len({file.casefold() for file in files}) == len(files)
    assert all(re.fullmatch(r"[A-Za-z0-9._/-]+", file) for file in files)


@BOTH
def test_everything_has_its_page(sites: dict[str, Path], name: str) -> None:
    known = guide(name)
    own = [*(r for kind in RULES for r in known.of(kind)), *known.of("Statement"), *known.criteria, *known.thresholds]
    pages_of_their_own = {known.href(iri) for iri in own}
    assert len(pages_of_their_own) == len(own)
    listed = [iri for kind in LISTED for iri in known.of(kind)]
    for iri in [*own, *listed, *known.facts]:
        assert known.label(iri) in page_of(sites[name], name, local_name(iri))
        assert known.definition(iri) is not None
    shown = {entry[2] for entry in index(sites[name])}
    assert {known.href(iri) for iri in known.placed()} <= shown
    a_to_z = {e.get("href") for e in parse(sites[name] / "a-z.html").iter("a")}
    assert {known.href(iri) for iri in known.placed()} <= a_to_z


@BOTH
def test_every_rule_says_its_criterion(sites: dict[str, Path], name: str) -> None:
    known = guide(name)
    for kind in RULES:
        for rule in known.of(kind):
            shown = page_of(sites[name], name, local_name(rule))
            for link in ("appliesTo", "requires", "requiresAbsenceOf", "metWhen", "unless", "hardStopWhen"):
                for criterion in known.cg(rule, link):
                    assert known.words.define(criterion) in shown, rule
                    assert " ".join(known.manchester(criterion).split()) in shown, rule
            for link in ("citesStatement", "hasMissingParameter", "hasParameter", "touches", "forbids", "action", "citesSource"):
                for value in known.cg(rule, link):
                    assert (known.label(value) if known.href(value) else value) in shown, (rule, value)
            for caution in known.by(rule, "touches"):
                assert known.name(caution) in shown


def test_criteria_open_down_to_the_facts() -> None:
    known = guide("own")

    def leaves(node: Any) -> Iterator[Any]:
        yield from (leaf for part in node.parts for leaf in leaves(part)) if node.parts else [node]

    for iri in known.criteria:
        assert not any(leaf.term in known.criteria for leaf in leaves(known.tree(iri))), iri
        tested = {limit.threshold for limit in known.limits(iri)}
        assert {leaf.threshold for leaf in leaves(known.tree(iri)) if leaf.threshold} == tested, iri


def test_a_rule_with_a_prerequisite(sites: dict[str, Path]) -> None:
    shown = page_of(sites["own"], "own", "CorrectHypokalaemia")
    for part in (
        "Correct low potassium once magnesium is at target.",
        "has eligible: magnesium result at target",
        "Class: dk:MagnesiumAdequate EquivalentTo: cg:Patient and (cg:hasEligible some dk:MagnesiumResultAtTarget)",
        "Raise magnesium through the dialysate (achieves it)",
        "Measure serum magnesium (measures it)",
        "No potassium before magnesium severity: high",
        "potassium route and dose Not given by the source.",
        "below 3.5 mmol/L Local policy, LR-06",
        "at least 1.7 mg/dL The source",
        "S23 Correct low potassium",
        "Q05 No limits for calcium, potassium and phosphate",
        "https://w3id.org/kbtool/dialysis/CorrectHypokalaemia",
    ):
        assert part in shown
    assert re.search(r"recommended: \d+ patients .*blocked: \d+ patients", shown)


def test_other_pages_say_what_they_should(sites: dict[str, Path]) -> None:
    expected = {
        "NoIntravenousMagnesiumDuringDialysis": ["severity: critical", "A hard stop", "haemodialysis session running"],
        "SO-05": ["S18 No intravenous magnesium on dialysis", "Lynch 2014", "below 0.5 mmol/L Local policy, LR-01"],
        "S36": ["Step 3 Pharmacological", "R3 ", "Increase baclofen", "No fast titration of baclofen", "I-19"],
        "SerumPotassium": [
            "LOINC 2823-3",
            "1.5 to 10 mmol/L",
            "eligible 6 hours after",
            "value × 1 mmol/L",
            "low potassium result",
        ],
        "MagnesiumTargetMassRange": ["at least 1.7 mg/dL", "Whose The source"],
        "LowPotassiumRange": ["below 3.5 mmol/L", "Whose Local policy", "LR-06"],
        "R5": ["the source cites it and does not list it"],
        "Q07": ["I-04", "S18", "No intravenous magnesium during dialysis"],
    }
    for term, parts in expected.items():
        shown = page_of(sites["own"], "own", term)
        assert [part for part in parts if part not in shown] == [], term
    overview = words(parse(sites["own"] / "index.html"))
    about = kbtool.load().about
    for part in ("No clinician has approved this content.", about["sha256"], about["version"], "LOINC is copyright", "CC BY 4.0"):
        assert part in overview


def test_tests_are_named_by_what_comes_out(sites: dict[str, Path]) -> None:
    known = guide("own")

    def named(rule: str, state: str) -> set[str]:
        [iri] = [iri for iri in known.placed() if local_name(iri) == rule]
        folded = [e for e in parse(sites["own"] / known.href(iri)).iter("details") if words(e).startswith(f"{state}: ")]
        return {words(e) for each in folded for e in each.iter("code")}

    for file in sorted(PATIENTS.glob("P*.expected.json")):
        expected = json.loads(file.read_text(encoding="utf-8"))
        name = file.name.removesuffix(".expected.json")
        for state, rules in expected.get("recommendations", {}).items():
            assert all(name in named(rule, state) for rule in rules), (name, state)
        for kind in ("prohibitions", "assessments"):
            assert all(name in named(rule, "holds") for rule in expected.get(kind, {}).get("holds", [])), (name, kind)
        assert all(name in named(caution, "holds") for caution in expected.get("cautions", {})), name


def test_every_query_is_there(sites: dict[str, Path]) -> None:
    tree = parse(sites["own"] / "queries.html")
    texts = {"".join(e.itertext()).strip() for e in tree.iter("pre")}
    for file in (TESTS.parent / "queries" / "ask").glob("*.rq"):
        assert file.read_text(encoding="utf-8").strip() in texts


@BOTH
@pytest.mark.parametrize("width", [340, 1040])
def test_the_picture_shows_every_step_and_prerequisite(name: str, width: int) -> None:
    known = guide(name)
    picture = pathway(known, width)
    boxes = {box.term: box for box in picture.boxes if box.look == "rule"}
    assert set(boxes) == set(known.of("Recommendation"))
    assert [text.term for text in picture.titles] == [step for step, _ in known.steps() if step]
    for box in picture.boxes:
        assert box.x >= 0
        assert box.x + box.width <= picture.width
        assert box.y + box.height <= picture.height
        for line in box.lines:
            assert box.y < line.y < box.y + box.height
    ordered = sorted(boxes.values(), key=lambda box: (box.y, box.x))
    for one, other in pairwise(ordered):
        assert one.y + one.height < other.y or one.x + one.width < other.x
    states = {state for rule in boxes for state in known.cg(rule, "requires")}
    held = [line.term for box in picture.boxes if box.look == "gate" for line in box.lines]
    assert states <= set(held)
    wanted = {(opener, state, how) for state in states for opener, how in known.openers(state) if opener in boxes}
    assert {(line.opener, line.state, f"{line.how} it") for line in picture.lines} == wanted
    for rule, box in boxes.items():
        above = [b for b in picture.boxes if b.look == "gate" and b.y < box.y]
        step = max((text.y for text in picture.titles if text.y < box.y), default=0)
        gate = max((b for b in above if b.y > step), key=lambda b: b.y, default=None)
        waits = known.cg(rule, "requires") + known.cg(rule, "requiresAbsenceOf")
        assert ({line.term for line in gate.lines} if gate else set()) == set(waits), rule
    for line in picture.lines:
        assert all(0 <= x <= picture.width and 0 <= y <= picture.height for x, y in line.points)
        start, source = line.points[0], boxes[line.opener]
        assert source.x < start[0] < source.x + source.width
        assert start[1] == source.y + source.height
        assert any(b.look == "gate" and b.x == line.end[0] and b.y < line.end[1] < b.y + b.height for b in picture.boxes)


def test_same_knowledge_same_bytes(sites: dict[str, Path], tmp_path: Path) -> None:
    again = write_site(kbtool.load(), tmp_path / "again", cases=PATIENTS)
    assert again == sorted(file.relative_to(sites["own"]).as_posix() for file in sites["own"].rglob("*") if file.is_file())
    for file in again:
        assert (tmp_path / "again" / file).read_bytes() == (sites["own"] / file).read_bytes(), file


def test_it_is_quick(tmp_path: Path) -> None:
    started = time.process_time()
    seen: list[tuple[int, int]] = []
    write_site(kbtool.load(), tmp_path / "site", cases=PATIENTS, progress=lambda done, of: seen.append((done, of)))
    assert time.process_time() - started < 10
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_only_into_an_empty_folder(tmp_path: Path) -> None:
    kb = kbtool.load(GUIDELINES["second"][0])
    (tmp_path / "empty").mkdir()
    write_site(kb, tmp_path / "empty")
    write_site(kb, tmp_path / "new" / "folder")
    assert (tmp_path / "empty" / "index.html").read_bytes() == (tmp_path / "new" / "folder" / "index.html").read_bytes()
    (tmp_path / "file").write_text("kept")
    for taken in ("empty", "file"):
        with pytest.raises(ExportError, match="not an empty folder; nothing was written"):
            write_site(kb, tmp_path / taken)
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(ExportError, match="not a folder of worked patients"):
        write_site(kb, tmp_path / "other", cases=tmp_path / "nowhere")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("there_before", [True, False])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_before: bool) -> None:
    out = tmp_path / "site"
    if there_before:
        out.mkdir()
    write_text = Path.write_text

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        if self.name == "queries.html":
            raise OSError(28, "No space left on device", str(self))
        return write_text(self, *args, **kwargs)

    monkeypatch.setattr(docs.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_site(kbtool.load(GUIDELINES["second"][0]), out)
    assert out.exists() == there_before
    assert not there_before or not any(out.iterdir())


def test_a_broken_case_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"recommendations": []}', '{"prohibitions": {"holds": 1}}'):
        cases = tmp_path / "cases"
        cases.mkdir(exist_ok=True)
        (cases / "odd.expected.json").write_text(text)
        with pytest.raises(ExportError, match=r"odd\.expected\.json: cannot be read"):
            write_site(kbtool.load(GUIDELINES["second"][0]), tmp_path / "site", cases=cases)
    assert not (tmp_path / "site").exists()


def test_text_of_the_knowledge_never_becomes_markup(tmp_path: Path) -> None:
    root = tmp_path / "kb" / "root.ttl"
    root.parent.mkdir()
    root.write_text(HOSTILE, encoding="utf-8")
    kb = kbtool.load(root)
    site = tmp_path / "site"
    files = write_site(kb, site)
    assert len({file.casefold() for file in files}) == len(files)
    assert sum(file.startswith("terms/") and file.lower().startswith("terms/cough-") for file in files) == 2
    for page, tree in pages(site):
        assert [e.get("src", "").rsplit("/", 1)[-1] for e in tree.iter("script")] == ["search-index.js", "site.js"], page
        assert not [e for e in tree.iter() if tag(e) in {"img", "u", "b"} and (e.get("onerror") or tag(e) == "u")], page
        assert not any("onclick" in e.attrib or (e.get("href") or "").startswith("javascript") for e in tree.iter()), page
    cough = kb.knowledge.instances
    assert cough(CG["Recommendation"]) == ["https://example.org/hostile/Rest"]
    hostile = Guide(kb.knowledge)
    shown = words(parse(site / hostile.href("https://example.org/hostile/Cough")))
    assert "</script><script>alert('definition')</script> {{ 7 * 7 }} & more" in shown
    assert [e[0] for e in index(site) if "alert('label')" in e[0]] == ["\"><script>alert('label')</script>"]


def test_properties_of_the_source_are_not_lost(sites: dict[str, Path]) -> None:
    known = guide("own")
    for kind in ("OpenQuestion", "Interpretation", "LocalPolicy", "Reference", "Caution", "Statement"):
        for iri in known.of(kind):
            shown = page_of(sites["own"], "own", local_name(iri))
            for predicate in (SKOS["definition"], SKOS["editorialNote"], SKOS["scopeNote"], DCTERMS["bibliographicCitation"]):
                for value in known.values(iri, predicate):
                    assert " ".join(value.split()) in shown, (iri, predicate)
