"""The workbench without a browser: what its page is made of, what it is given, and that nothing else can be had through it."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import html5lib
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from starlette.requests import Request
from starlette.responses import Response
from test_knowledge_is_data import forbidden

import kbtool
from kbtool.docs import site_files
from kbtool.knowledge import Knowledge
from kbtool.serve import editor, workbench
from kbtool.serve.problem import Problem
from kbtool.serve.workbench import Workbench

ROOT = Path(__file__).parent.parent
PATIENTS = ROOT / "tests" / "patients"
SECOND = ROOT / "tests" / "second_guideline"
OWN = [ROOT / "kbtool" / "templates" / "workbench.html", *sorted((ROOT / "kbtool" / "serve" / "static").iterdir())]
SCRIPTS = [file for file in OWN if file.suffix == ".js"]


@pytest.fixture(scope="module")
def kb() -> kbtool.KnowledgeBase:
    return kbtool.load()


@pytest.fixture(scope="module")
def bench(kb: kbtool.KnowledgeBase) -> Workbench:
    return Workbench(kb)


def asked(method: Any, name: str | None = None, **headers: str) -> Response:
    """What a method of the workbench answers."""
    fields = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": fields, "path_params": {"name": name}}
    found = asyncio.run(method(Request(scope)))
    assert isinstance(found, Response)
    return found


def body(found: Response) -> bytes:
    assert found.status_code == 200
    return bytes(found.body)


def page_of(bench: Workbench) -> Any:
    """The page as an element tree, read strictly by the rules of HTML."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(body(asked(bench.page)).decode())


@pytest.fixture(params=[False, True], ids=["posted facts only", "facts that stay"])
def page(kb: kbtool.KnowledgeBase, request: pytest.FixtureRequest) -> Any:
    return page_of(Workbench(kb, facts=request.param))


# --- The page -------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere_and_has_no_script_of_its_own(page: Any) -> None:
    scripts = page.findall(".//script")
    assert [each.get("src") for each in scripts] == ["/assets/workbench.js"]
    for each in page.iter():
        if not isinstance(each.tag, str):
            continue
        assert not (each.tag == "script" and (each.text or "").strip())
        assert not [name for name in each.attrib if name.startswith("on") or name in ("style", "srcdoc", "action")]
        for name in ("src", "href"):
            assert re.match(r"/(?!/)|#|data:,$", each.get(name, "/")), each.attrib


def test_every_field_has_a_label_and_every_reference_a_target(page: Any) -> None:
    ids = [each.get("id") for each in page.iter() if each.get("id")]
    assert len(ids) == len(set(ids)) > 30
    for each in page.iter():
        for name in ("for", "aria-controls", "aria-labelledby", "aria-describedby"):
            assert set(each.get(name, "").split()) <= set(ids), each.attrib
    labelled = {each.get("for") for each in page.findall(".//label")}
    inside = {each for label in page.findall(".//label") for each in label.iter("input")}
    fields = [each for tag in ("input", "select", "textarea") for each in page.iter(tag)]
    assert len(fields) >= 8
    assert [each.attrib for each in fields if each.get("id") not in labelled and each not in inside] == []
    tabs = [each for each in page.iter("button") if each.get("role") == "tab"]
    panels = [each.get("id") for each in page.iter("section") if each.get("role") == "tabpanel"]
    assert [each.get("aria-controls") for each in tabs] == panels


def test_without_its_script_no_form_puts_facts_into_an_address(page: Any) -> None:
    """A field without a name is not sent; and what was typed is not filled in again by the browser."""
    for form in page.iter("form"):
        assert [each.attrib for each in form.iter() if each.get("name")] == []
    for each in page.iter("form"):
        if each.get("id") != "why-form":
            assert each.get("autocomplete") == "off"
    for name in ("facts", "query-text", "as-of"):
        assert page.find(f".//*[@id='{name}']").get("autocomplete") == "off"


def test_the_report_may_neither_run_scripts_nor_lead_away(page: Any) -> None:
    frame = page.find(".//iframe[@id='report-page']")
    assert set(frame.get("sandbox").split()) == {"allow-same-origin", "allow-modals"}


def test_the_page_says_what_answers_and_that_nobody_approved_it(page: Any, kb: kbtool.KnowledgeBase) -> None:
    words = "".join(page.find(".//footer").itertext())
    for part in (kb.about["version"], kb.about["sha256"], kb.about["iri"], kbtool.__version__, "No clinician has approved"):
        assert part in words
    assert "No clinician has approved this content." in "".join(page.find(".//header").itertext())
    links = {each.get("href") for each in page.find(".//footer").iter("a")}
    assert {"/openapi.json", "/kb", "/sparql"} <= links


def test_a_page_that_opened_it_keeps_no_hold_on_it(bench: Workbench) -> None:
    assert asked(bench.page).headers["cross-origin-opener-policy"] == "same-origin"


def test_a_token_is_asked_for_only_where_facts_stay(kb: kbtool.KnowledgeBase) -> None:
    without, with_facts = page_of(Workbench(kb)), page_of(Workbench(kb, facts=True))
    assert without.find(".//*[@id='token']") is None
    token = with_facts.find(".//*[@id='token']")
    assert token.get("type") == "password"
    assert token.get("autocomplete") == "off"


def test_a_title_with_markup_stays_text(kb: kbtool.KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = """<script>alert(1)</script>"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"""
    monkeypatch.setattr(Knowledge, "value", lambda *_: hostile)
    page = page_of(Workbench(kb))
    assert len(page.findall(".//script")) == 1
    assert page.findall(".//img") == []
    assert "".join(page.find(".//title").itertext()) == f"Workbench: {hostile}"


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.name)
def test_own_code_says_nothing_clinical(file: Path) -> None:
    assert sorted(forbidden().found(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_own_scripts_store_nothing_and_make_no_markup_of_text(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for bad in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "Storage", "cookie"):
        assert bad not in text
    assert re.findall(r"https?://[\w./#-]+", text) in ([], ["http://www.w3.org/2001/XMLSchema#"])


def test_own_styles_fetch_nothing() -> None:
    assert not re.search(r"url\(|@import", (ROOT / "kbtool/serve/static/workbench.css").read_text(encoding="utf-8"))


# --- Parts ----------------------------------------------------------------------------------------------


def test_every_part_that_the_page_names_is_there(bench: Workbench) -> None:
    named = {
        path for file in OWN for path in re.findall(r"""["'](?:/assets|\.)/([\w.]+)["']""", file.read_text(encoding="utf-8"))
    }
    assert {file.name for file in OWN[1:]} | set(editor.FILES) | {"workbench.json", "terms.json"} == named
    for name in named:
        assert body(asked(bench.asset, name))


@pytest.mark.parametrize(
    "name", ["", "nothing", "../workbench.py", "..%2fworkbench.py", "/etc/passwd", "static/workbench.js", ".", ".."]
)
def test_there_are_no_other_parts(bench: Workbench, name: str) -> None:
    with pytest.raises(Problem) as told:
        asked(bench.asset, name)
    assert told.value.status == 404


def test_a_part_is_sent_packed_and_only_when_it_has_changed(bench: Workbench) -> None:
    plain, packed = asked(bench.asset, "workbench.js"), asked(bench.asset, "workbench.js", accept_encoding="br, gzip")
    assert plain.media_type == "text/javascript"
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body(packed)) == body(plain) == (ROOT / "kbtool/serve/static/workbench.js").read_bytes()
    again = asked(bench.asset, "workbench.js", if_none_match=plain.headers["etag"])
    assert (again.status_code, again.body) == (304, b"")
    assert asked(bench.asset, "workbench.js", if_none_match='"other"').status_code == 200
    assert asked(bench.asset, "workbench.js", accept_encoding="gzip;q=0").headers.get("content-encoding") is None


def test_the_page_is_told_of_queries_graphs_rules_and_prefixes(bench: Workbench, kb: kbtool.KnowledgeBase) -> None:
    told = json.loads(body(asked(bench.asset, "workbench.json")))
    files = {file.stem: file.read_text(encoding="utf-8") for file in (ROOT / "queries" / "ask").glob("*.rq")}
    assert {each["name"]: each["text"] for each in told["queries"]} == files
    assert {each["asks"] for each in told["queries"]} == {"patients", "knowledge"}
    assert all(each["summary"] and each["description"] for each in told["queries"])
    used = {p: iri for text in files.values() for p, iri in re.findall(r"(?m)^PREFIX (\w+): <(.*)>$", text)}
    assert used.items() <= told["prefixes"].items()
    graphs = [each["iri"] for each in told["graphs"]]
    assert set(kb.knowledge.modules) < set(graphs)
    assert [graph.rpartition("/")[2] for graph in graphs[-2:]] == ["facts", "answers"]
    assert len(told["rules"]) > 50
    assert {"name", "label", "kind"} == set(told["rules"][0])


def test_every_term_leads_to_a_page_that_exists(bench: Workbench, kb: kbtool.KnowledgeBase) -> None:
    terms = json.loads(body(asked(bench.asset, "terms.json")))
    files = site_files(kb)
    for href in set(terms["pages"].values()):
        page, _, place = href.partition("#")
        assert page in files
        assert not place or f'id="{place}"' in files[page], href
    assert len(terms["classes"]) > 300
    assert len(terms["properties"]) > 50
    assert not [iri for iri in (*terms["classes"], *terms["properties"]) if not re.match(r"https?://\S+$", iri)]


# --- Worked patients ------------------------------------------------------------------------------------


def test_worked_patients_are_listed_with_what_they_show(bench: Workbench) -> None:
    listed = json.loads(body(asked(bench.examples)))
    assert [each["name"] for each in listed] == sorted(file.stem for file in PATIENTS.glob("*.ttl"))
    assert all(each["description"] and re.match(r"\d{4}-\d\d-\d\dT", each["asOf"]) for each in listed)
    for each in listed[:: len(listed) // 10]:
        found = asked(bench.example, each["name"])
        assert found.media_type == "text/turtle"
        assert body(found) == (PATIENTS / f"{each['name']}.ttl").read_bytes()


NO_NAMES = [
    "",
    ".",
    "..",
    "P01.ttl",
    "P01.expected",
    "P01/",
    "./P01",
    "../patients/P01",
    "..%2fpatients%2fP01",
    "P01\0",
    "p01",
    "*",
]


@pytest.mark.parametrize("name", [*NO_NAMES, "/etc/passwd", str(PATIENTS / "P01"), "../../pyproject"])
def test_a_name_that_is_not_listed_gives_nothing(bench: Workbench, name: str) -> None:
    with pytest.raises(Problem) as told:
        asked(bench.example, name)
    assert told.value.status == 404
    assert not name.strip("./*") or name not in told.value.detail


def without_patients(tmp_path: Path) -> Path:
    """A copy of the second guideline where its catalog still finds the guideline language."""
    (tmp_path / "ontology").symlink_to(ROOT / "ontology")
    return Path(shutil.copytree(SECOND, tmp_path / "a" / "b", ignore=shutil.ignore_patterns("patients")))


def test_another_guideline_has_its_own_patients_or_none(tmp_path: Path) -> None:
    own = Workbench(kbtool.load(SECOND / "root.ttl"))
    assert set(own.worked) == {file.stem for file in (SECOND / "patients").glob("*.ttl")}
    assert page_of(own).find(".//*[@id='example']") is not None

    alone = without_patients(tmp_path)
    none = Workbench(kbtool.load(alone / "root.ttl"))
    assert none.worked == {}
    assert json.loads(body(asked(none.examples))) == []
    assert page_of(none).find(".//*[@id='example']") is None
    with pytest.raises(Problem):
        asked(none.example, "P01")


@pytest.mark.parametrize("said", [None, "{", "[]", '"text"', '{"description": null}', b"\xff"])
def test_a_patient_of_whom_nothing_is_said_is_listed_all_the_same(tmp_path: Path, said: Any) -> None:
    folder = without_patients(tmp_path)
    (folder / "patients").mkdir()
    (folder / "patients" / "one.ttl").write_text("# nothing")
    if said is not None:
        (folder / "patients" / "one.expected.json").write_bytes(said if isinstance(said, bytes) else said.encode())
    listed = json.loads(body(asked(Workbench(kbtool.load(folder / "root.ttl")).examples)))
    assert [(each["name"], each["asOf"]) for each in listed] == [("one", None)]


# --- The editor -----------------------------------------------------------------------------------------


def editors(tmp_path: Path, script: str) -> Path:
    """A program in the place of the editor's."""
    file = tmp_path / "oxigraph"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """What the editor starts; nothing of it may be left."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(real(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(editor.subprocess, "Popen", popen)
    yield started
    assert [each for each in started if each.poll() is None] == []


@pytest.mark.skipif(editor.program() is None, reason="oxigraph is not installed")
def test_the_editor_is_the_one_of_the_installed_package(processes: list[Any]) -> None:
    found = editor.files()
    assert found.keys() == editor.FILES.keys()
    assert b"Yasqe" in found["yasgui.min.js"]
    assert b".yasqe" in found["yasgui.min.css"]
    assert len(processes) == 1


@pytest.mark.skipif(editor.program() is None, reason="oxigraph is not installed")
def test_the_editor_is_asked_for_once_however_many_want_it(kb: kbtool.KnowledgeBase, processes: list[Any]) -> None:
    bench = Workbench(kb)

    async def several() -> list[Response]:
        scopes = [{"type": "http", "headers": [], "path_params": {"name": name}} for name in [*editor.FILES] * 4]
        return await asyncio.gather(*(bench.asset(Request(scope)) for scope in scopes))

    assert {found.status_code for found in asyncio.run(several())} == {200}
    assert len(processes) == 1


def test_without_the_editor_the_page_is_told_and_the_reason_is_given(
    kb: kbtool.KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editor, "program", lambda: None)
    bench = Workbench(kb)
    assert json.loads(body(asked(bench.asset, "workbench.json")))["editor"] is False
    with pytest.raises(Problem) as told:
        asked(bench.asset, "yasgui.min.js")
    assert told.value.status == 404
    assert "pip install 'kbtool[serve]'" in told.value.detail
    assert asked(bench.page).status_code == 200


@pytest.mark.parametrize(
    "script",
    ["exit 1", "echo 'Error: address in use' >&2; exit 1", "echo Listening", "echo Listening; sleep 30", "sleep 30", "yes"],
)
def test_a_program_that_is_no_editor_is_an_error_and_does_not_stay(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch, processes: list[Any]
) -> None:
    program = editors(tmp_path, script)
    monkeypatch.setattr(editor, "program", lambda: program)
    monkeypatch.setattr(editor, "_SECONDS", 0.3)
    with pytest.raises(editor.EditorError, match="can be written without it"):
        editor.files()
    assert processes


def test_a_program_that_cannot_be_started_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "oxigraph").write_bytes(b"\x7fELF nothing")
    monkeypatch.setattr(editor, "program", lambda: tmp_path / "oxigraph")
    with pytest.raises(editor.EditorError):
        editor.files()


def test_nothing_of_the_editor_is_kept_with_the_project() -> None:
    assert not [file for file in (ROOT / "kbtool").rglob("*") if "yas" in file.name.lower()]
    assert set(workbench._STATIC) == {file.name for file in OWN[1:]}
