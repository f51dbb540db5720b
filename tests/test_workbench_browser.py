"""The workbench in a browser: what a person does with it, what a hostile patient or page tries, and that nothing leaves."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import serving
from browsing import CONTRAST, chromium
from playwright.sync_api import Browser, Page, expect
from serving import AS_OF, TOKEN, Served

from kbtool.serve import editor

TESTS = Path(__file__).parent
PATIENTS = TESTS / "patients"
P01 = (PATIENTS / "P01.ttl").read_text(encoding="utf-8")
TABS = ["report", "why", "next", "query", "guideline"]
SECONDS = 20_000

needs_editor = pytest.mark.skipif(editor.program() is None, reason="oxigraph is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--host-resolver-rules=MAP evil.test 127.0.0.1") as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Served]:
    with serving.running(tmp_path_factory.mktemp("workbench")) as server:
        yield server
        for context in browser.contexts:
            context.close()
        assert "example.org/patient" not in server.log


class Watched:
    """A page on which nothing may go wrong but what a test expects: no word in the console, no request to elsewhere."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url, self.wrong, self.asked = url, [], []
        self.expected: tuple[str, ...] = ()
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.set_default_timeout(SECONDS)
        self.page = self.context.new_page()
        self.context.on("request", self._request)
        self.context.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))

    def _request(self, request: Any) -> None:
        self.asked.append(request)
        if not request.url.startswith((f"{self.url}/", f"blob:{self.url}/", "data:")):
            self.wrong.append(request.url)

    def sent(self, path: str) -> list[Any]:
        """The requests to an address."""
        return [request for request in self.asked if urlsplit(request.url).path == path]

    def end(self) -> None:
        """Close it, when it has kept nothing."""
        kept = "() => [Object.entries(localStorage), Object.entries(sessionStorage), document.cookie.split(';').filter(Boolean)]"
        assert self.page.evaluate(kept) == [[], [], []]
        assert self.page.evaluate("async () => (await indexedDB.databases()).concat(await caches.keys())") == []
        assert self.context.cookies() == []
        self.context.close()
        assert [each for each in self.wrong if not each.startswith(self.expected or "\0")] == []


Open = Callable[..., Watched]


@pytest.fixture
def opened(browser: Browser, served: Served) -> Iterator[Open]:
    """Open the workbench; at the end of the test it is looked at whether anything went wrong."""
    found = []

    def start(where: str = "/", **options: Any) -> Watched:
        found.append(Watched(browser, options.pop("url", served.url), **options))
        found[-1].page.goto(found[-1].url + where)
        return found[-1]

    yield start
    for each in found:
        each.end()


def choose(page: Page, name: str) -> None:
    """Take a worked patient."""
    page.locator(f"#example option[value='{name}']").wait_for(state="attached")
    page.select_option("#example", name)
    expect(page.locator("#facts")).to_have_value((PATIENTS / f"{name}.ttl").read_text(encoding="utf-8"))


def assess(page: Page) -> None:
    page.click("#assess")
    page.locator("#print, #why-form, #next-list").and_(page.locator(":visible")).first.wait_for()


def paste(page: Page, facts: str, as_of: str = "2026-02-10T12:00:00") -> None:
    page.fill("#facts", facts)
    page.fill("#as-of", as_of)


def wide(page: Page) -> int:
    return int(page.evaluate("() => document.documentElement.scrollWidth"))


# --- What a person does ---------------------------------------------------------------------------------


def test_a_worked_patient_is_assessed_and_the_report_is_read(opened: Open) -> None:
    watched = opened(timezone_id="Asia/Kolkata")
    page = watched.page
    expect(page.locator("#as-of-hint")).to_have_text("Empty: the moment at which you press Assess.")
    choose(page, "P22")
    expect(page.locator("#example-description")).to_have_text(
        "Intravenous magnesium ordered for a mild twitch in the first hour of a running session."
    )
    expect(page.locator("#as-of")).to_have_value("2026-02-10T17:30")
    expect(page.locator("#as-of-hint")).to_have_text(f"That is {AS_OF}.")
    assess(page)
    expect(page.locator("#status")).to_have_text(f"Answered for 1 patient, as of {AS_OF}.")
    report = page.frame_locator("#report-page")
    expect(report.locator(".urgent h3")).to_contain_text("Hard stop", ignore_case=True)
    for request in watched.sent("/assess"):
        assert parse_qs(urlsplit(request.url).query)["asOf"] == [AS_OF]
        assert request.post_data == (PATIENTS / "P22.ttl").read_text(encoding="utf-8")
    assert page.locator("#problems > *").count() == 0


def test_the_report_is_as_high_as_it_is_long_and_its_links_stay_on_it(opened: Open) -> None:
    page = opened().page
    choose(page, "P01")
    assess(page)
    frame = page.frames[1]
    high = "() => [document.documentElement.getBoundingClientRect().height, innerHeight]"
    page.wait_for_timeout(300)
    content, window = frame.evaluate(high)
    assert 0 <= window - content < 6
    link = frame.locator(".box .name a").first
    place = link.get_attribute("href") or ""
    link.click()
    expect(frame.locator(place)).to_be_visible()
    expect(frame.locator(place)).to_be_in_viewport()
    assert frame.url.endswith(place)
    assert frame.url.startswith("blob:")
    content, window = frame.evaluate(high)
    page.wait_for_timeout(300)
    assert 0 <= frame.evaluate(high)[1] - frame.evaluate(high)[0] < 6
    assert page.url.endswith("/#see-report")


def test_on_a_small_screen_the_answers_are_seen_at_once(opened: Open) -> None:
    page = opened(viewport={"width": 375, "height": 800}).page
    for name in ("P22", "Refused-dose-unit"):
        choose(page, name)
        assess(page)
        expect(page.locator("#status")).to_be_in_viewport()
        page.wait_for_timeout(500)
        assert (page.locator("#status").bounding_box() or {})["y"] <= 200


def test_the_report_is_printed_alone(opened: Open) -> None:
    page = opened().page
    choose(page, "P01")
    assess(page)
    page.evaluate("() => { document.getElementById('report-page').contentWindow.print = () => { window.printed = true; }; }")
    page.click("#print")
    assert page.evaluate("() => window.printed") is True
    page.emulate_media(media="print")
    expect(page.locator(".on-paper")).to_be_visible()
    for hidden in ("#patient", "#views", "#report-page"):
        expect(page.locator(hidden)).to_be_hidden()


def test_why_is_told_in_the_words_of_the_service_and_none_is_lost(opened: Open, served: Served) -> None:
    page = opened().page
    choose(page, "P01")
    assess(page)
    page.click("#tab-why")
    groups = [page.locator("#rule optgroup").nth(n).get_attribute("label") for n in range(page.locator("#rule optgroup").count())]
    assert groups == ["Recommendation", "Prohibition", "Assessment", "Caution", "Not in these answers"]
    silent = page.locator("#rule optgroup").last.locator("option").first.get_attribute("value")
    for rule in ("GiveMidodrine", "NoCalciumBeforeMagnesium", silent):
        page.select_option("#rule", rule)
        page.click("#why-form button")
        expect(page.locator("#reasons h2")).to_contain_text(f"[{rule}]")
        told = served.post(f"/explain?rule={rule}&asOf={AS_OF}", P01, accept="text/plain").text
        assert " ".join(page.inner_text("#reasons").split()) == " ".join(told.split())
    assert page.locator("#reasons p.yes, #reasons p.no, #reasons p.unknown").count() > 0


def test_what_to_find_out_next_is_listed(opened: Open, served: Served) -> None:
    page = opened().page
    choose(page, "P22")
    assess(page)
    page.click("#tab-next")
    facts = (PATIENTS / "P22.ttl").read_bytes()
    wanted = served.post(f"/assess?explain=true&asOf={AS_OF}", facts, accept="application/json").json["patients"][0]["next"]
    assert len(wanted) > 3
    shown = page.locator("#next-list > section > ol > li > b")
    assert shown.all_inner_texts() == [each["label"] for each in wanted]
    assert page.locator("#next-list ol ul li").count() == sum(len(each["couldChange"]) for each in wanted)


def test_worked_patients_are_found_by_words(opened: Open) -> None:
    page = opened().page
    page.locator("#example option").nth(100).wait_for(state="attached")
    page.fill("#example-filter", "magnesium TWITCH")
    listed = page.locator("#example option").all_inner_texts()[1:]
    assert 0 < len(listed) < 20
    assert all("magnesium" in text.lower() or text.endswith("…") for text in listed)
    page.fill("#example-filter", "no such words")
    assert page.locator("#example option").all_inner_texts() == ["None has these words"]


@pytest.mark.parametrize(
    ("typed", "sent"),
    [("2026-02-10T12:00:00", "2026-02-10T06:30:00.000Z"), ("2026-02-10T12:00:01", "2026-02-10T06:30:01.000Z")],
)
def test_a_time_that_is_typed_is_local(opened: Open, typed: str, sent: str) -> None:
    watched = opened(timezone_id="Asia/Kolkata")
    choose(watched.page, "P01")
    watched.page.fill("#as-of", typed)
    expect(watched.page.locator("#as-of-hint")).to_have_text(f"That is {sent}.")
    assess(watched.page)
    assert {parse_qs(urlsplit(each.url).query)["asOf"][0] for each in watched.sent("/assess")} == {sent}


def test_half_a_time_is_not_taken_for_now(opened: Open) -> None:
    watched = opened()
    watched.page.fill("#facts", P01)
    watched.page.focus("#as-of")
    watched.page.keyboard.type("02")
    expect(watched.page.locator("#as-of-hint")).to_have_text("The time is not complete.")
    watched.page.click("#assess")
    expect(watched.page.locator("#error")).to_contain_text("The time is not complete; fill in all of it, or press Now.")
    assert watched.sent("/assess") == []
    watched.page.click("#now")
    assess(watched.page)
    assert len({each.url.partition("asOf=")[2] for each in watched.sent("/assess")}) == 1


def test_what_is_wrong_with_the_facts_comes_first(opened: Open) -> None:
    page = opened().page
    choose(page, "Refused-dose-unit")
    assess(page)
    expect(page.locator("#status")).to_have_text("Nothing is answered: the facts of 1 patient were refused.")
    problem = page.locator("#problems .problem")
    expect(problem.locator("h2")).to_have_text("Refused: nothing is answered for this patient")
    expect(problem).to_contain_text("is not accepted for")
    assert (problem.bounding_box() or {})["y"] < (page.locator("#views").bounding_box() or {})["y"]
    stray = "@prefix cg: <https://w3id.org/kbtool/cg/> .\n" + '<https://example.org/stray> cg:value "1" .\n'
    unit = P01.replace('"mg/dL"', '"stone"')
    paste(page, stray + unit)
    assess(page)
    assert page.locator("#problems h2").all_inner_texts()[0] == "Not read: these belong to no patient"
    assert "Set aside: these facts were not used" in page.locator("#problems h2").all_inner_texts()
    expect(page.locator("#problems")).to_contain_text("https://example.org/stray")


def test_an_answer_is_old_as_soon_as_the_facts_or_the_time_are_others(opened: Open) -> None:
    page = opened().page
    choose(page, "P01")
    assess(page)
    fresh = page.inner_text("#status")
    for field, text in (("#facts", P01 + "\n"), ("#as-of", "2026-02-11T12:00:00")):
        before = page.input_value(field)
        page.fill(field, text)
        expect(page.locator("#status")).to_contain_text("changed after this report was made")
        expect(page.locator("#report")).to_have_class("old")
        page.fill(field, before)
        expect(page.locator("#status")).to_have_text(fresh)
    choose(page, "P22")
    expect(page.locator("#print")).to_be_hidden()
    assert page.frames[1].url == "about:blank"


def test_an_error_takes_the_answers_before_away(opened: Open) -> None:
    watched = opened()
    watched.expected = ("Failed to load resource",)
    page = watched.page
    page.click("#assess")
    expect(page.locator("#error")).to_contain_text("There are no facts yet")
    choose(page, "P01")
    assess(page)
    paste(page, "this is no fact")
    page.click("#assess")
    expect(page.locator("#error")).to_contain_text("line 1, column 1: not valid Turtle")
    expect(page.locator("#print")).to_be_hidden()
    paste(page, "@prefix ex: <https://example.org/> . ex:a ex:b ex:c .")
    page.click("#assess")
    expect(page.locator("#error")).to_contain_text("no patient in the facts")
    page.route("**/assess?*", lambda route: route.abort())
    paste(page, P01)
    page.click("#assess")
    expect(page.locator("#error")).to_contain_text("The service cannot be reached")
    page.unroute("**/assess?*")
    assess(page)
    assert page.locator("#error > *").count() == 0


def test_a_file_is_taken_whole_or_not_at_all(opened: Open) -> None:
    page = opened().page
    ld = {"@context": {"@vocab": "https://w3id.org/kbtool/cg/"}, "@id": "https://example.org/patient/F", "@type": "Patient"}
    files = {"facts.ttl": ("text/turtle", P01), "facts.nt": ("application/n-triples", ""), "facts.json": ("", json.dumps(ld))}
    for name, (kind, text) in files.items():
        page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": text.encode()})
        expect(page.locator("#facts")).to_have_value(text)
        expect(page.locator("#format")).to_have_value(kind)
    assess(page)
    for number, data in enumerate((P01.encode() + b"\xff", P01.encode("utf-16"), b"PK\x03\x04\0\0")):
        page.set_input_files("#file", {"name": f"bad{number}.ttl", "mimeType": "", "buffer": data})
        expect(page.locator("#error")).to_contain_text(f"bad{number}.ttl is not UTF-8 text")
        expect(page.locator("#facts")).to_have_value(files["facts.json"][1])


DROP = """([id, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files) data.items.add(new File([text], name));
  const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.getElementById(id).dispatchEvent(event);
  return event.defaultPrevented;
}"""


def test_a_file_is_dropped_and_never_takes_the_place_of_the_page(opened: Open) -> None:
    page = opened().page
    assert page.evaluate(DROP, ["drop", [["a.ttl", P01]]])
    expect(page.locator("#facts")).to_have_value(P01)
    assert page.evaluate(DROP, ["work", [["b.ttl", "other"]]])
    assert page.evaluate(DROP, ["drop", [["b.ttl", "b"], ["c.ttl", "c"]]])
    expect(page.locator("#error")).to_contain_text("Drop one file at a time.")
    expect(page.locator("#facts")).to_have_value(P01)


def test_what_was_typed_is_not_replaced_unasked(opened: Open) -> None:
    watched = opened()
    watched.expected = ("Replace the facts that you typed?",)
    page = watched.page
    page.fill("#facts", "typed by hand")
    page.locator("#example option[value=P01]").wait_for(state="attached")
    page.select_option("#example", "P01")
    expect(page.locator("#example")).to_have_value("")
    expect(page.locator("#facts")).to_have_value("typed by hand")
    assert watched.wrong == ["Replace the facts that you typed?"]


# --- Queries --------------------------------------------------------------------------------------------


def write(page: Page, text: str) -> None:
    """Write a query into the editor, or the field that stands for it."""
    if page.locator(".yasqe").count():
        page.evaluate("text => document.querySelector('.CodeMirror').CodeMirror.setValue(text)", text)
    else:
        page.fill("#query-text", text)


def query(page: Page, text: str) -> None:
    """Run a query and wait for what comes of it."""
    write(page, text)
    page.click("#run")
    expect(page.locator("#run")).to_have_text("Run")


@needs_editor
def test_an_example_query_shows_rows_that_lead_to_the_guideline(opened: Open, served: Served) -> None:
    watched = opened()
    page = watched.page
    page.click("#tab-query")
    page.locator(".yasqe").wait_for()
    page.select_option("#sample", "rules")
    expect(page.locator("#with-patient")).not_to_be_checked()
    expect(page.locator("#sample-description")).not_to_be_empty()
    page.click("#run")
    expect(page.locator("#query-status")).to_contain_text("rows, in")
    wanted = served.query((TESTS.parent / "queries/ask/rules.rq").read_text()).json["results"]["bindings"]
    assert page.locator("#table tbody tr").count() == len(wanted)
    link = page.locator("#table a", has_text="dk:GiveMidodrine")
    assert link.get_attribute("href") == "/guideline/rules/GiveMidodrine.html"
    with page.context.expect_page() as other:
        link.click()
    expect(other.value.locator("h1")).to_contain_text("midodrine")
    assert [each.post_data for each in watched.sent("/query")] == []


@needs_editor
@pytest.mark.parametrize("keys", ["Control+Enter", "click"])
def test_a_query_sees_the_patient_in_the_form(opened: Open, keys: str) -> None:
    watched = opened()
    page = watched.page
    choose(page, "P01")
    page.click("#tab-query")
    page.locator(".yasqe").wait_for()
    page.select_option("#sample", "recommended")
    expect(page.locator("#with-patient")).to_be_checked()
    if keys == "click":
        page.click("#run")
    else:
        page.locator(".CodeMirror").click()
        page.keyboard.press(keys)
    expect(page.locator("#query-status")).to_contain_text("3 rows, in")
    expect(page.locator("#table tbody tr").first).to_contain_text("<https://example.org/patient/P01>")
    sent = json.loads(watched.sent("/query")[-1].post_data)
    assert (sent["facts"], sent["asOf"], sent["format"]) == (P01, AS_OF, "text/turtle")
    assert watched.sent("/sparql") == []
    page.fill("#facts", P01 + "\n")
    expect(page.locator("#query-status")).to_contain_text("changed after this was asked")
    page.uncheck("#with-patient")
    page.click("#run")
    expect(page.locator("#query-status")).to_contain_text("0 rows, in")


def test_rows_that_lack_a_refused_patient_say_so(opened: Open) -> None:
    page = opened().page
    choose(page, "Refused-dose-unit")
    page.click("#tab-query")
    page.locator("#sample option[value=recommended]").wait_for(state="attached")
    page.select_option("#sample", "recommended")
    page.click("#run")
    expect(page.locator("#query-error")).to_contain_text("The query does not see all facts of the patient")
    expect(page.locator("#query-error li")).to_contain_text("Refused, so that nothing is answered for")
    expect(page.locator("#query-status")).to_contain_text("0 rows, in")


@needs_editor
def test_the_editor_completes_terms_and_fetches_nothing_for_it(opened: Open) -> None:
    watched = opened("/#see-query")
    page = watched.page
    page.locator(".yasqe").wait_for()
    page.locator(".CodeMirror").click()
    expect(page.locator(".CodeMirror-focused")).to_be_visible()
    page.keyboard.type("SELECT * { ?s a cg:Recommend")
    hints, written = page.locator(".CodeMirror-hints li"), "() => document.querySelector('.CodeMirror').CodeMirror.getValue()"
    for _ in range(10):  # the editor may offer it by itself, and a machine may be slow
        if hints.count() or "cg:Recommendation" in page.evaluate(written):
            break
        page.keyboard.press("Control+Space")
        page.wait_for_timeout(1500)
    if "cg:Recommendation" not in page.evaluate(written):  # an only choice may have been taken at once
        assert hints.all_inner_texts() == ["cg:Recommendation"], page.evaluate(written)
        page.keyboard.press("Enter")
    value = page.evaluate(written)
    assert "PREFIX cg: <https://w3id.org/kbtool/cg/>" in value
    assert "cg:Recommendation" in value


@needs_editor
def test_the_editor_waits_for_its_style(opened: Open) -> None:
    page = opened().page
    held: list[Any] = []
    page.route("**/assets/yasgui.min.css", lambda route: held.append(route))
    with page.expect_response("**/assets/yasgui.min.js"):
        page.click("#tab-query")
    page.wait_for_timeout(500)  # the script has been run long since
    assert len(held) == 1
    assert page.locator(".yasqe").count() == 0
    page.fill("#query-text", "ASK { }")
    held[0].continue_()
    page.locator(".CodeMirror").click()
    page.keyboard.press("Control+End")
    page.keyboard.type(" LIMIT 1")
    assert page.evaluate("() => document.querySelector('.CodeMirror').CodeMirror.getValue()") == "ASK { } LIMIT 1"


@needs_editor
@pytest.mark.parametrize("lost", ["yasgui.min.css", "yasgui.min.js"])
def test_an_editor_that_is_not_whole_is_not_used(opened: Open, lost: str) -> None:
    watched = opened()
    watched.expected = ("Failed to load resource",)
    page = watched.page
    page.route(f"**/assets/{lost}", lambda route: route.abort())
    page.click("#tab-query")
    expect(page.locator("#editor-note")).to_contain_text("could not be loaded")
    query(page, "ASK {}")
    expect(page.locator("#query-status")).to_contain_text("Yes, in")


def test_without_the_editor_a_plain_field_does(opened: Open, served: Served) -> None:
    watched = opened()
    page = watched.page
    told = served.get("/assets/workbench.json").json | {"editor": False}
    page.route("**/assets/workbench.json", lambda route: route.fulfill(json=told))
    page.reload()
    page.click("#tab-query")
    expect(page.locator("#editor-note")).to_contain_text("pip install 'kbtool[serve]'")
    query(page, "SELECT * { VALUES (?a ?b) { (1 'x'@fr) (UNDEF <urn:x>) } }")
    assert page.locator("#table td").all_inner_texts() == ["1", "x @fr", "", "<urn:x>"]
    assert watched.sent("/assets/yasgui.min.js") == []


def test_every_kind_of_result_is_shown(opened: Open) -> None:
    watched = opened("/#see-query")
    watched.expected = ("Failed to load resource",)
    page = watched.page
    page.locator("#sample option").nth(40).wait_for(state="attached")
    if editor.program() is not None:
        page.locator(".yasqe").wait_for()
    query(page, "ASK {}")
    expect(page.locator("#query-status")).to_contain_text("Yes, in")
    query(page, "ASK { FILTER(false) }")
    expect(page.locator("#query-status")).to_contain_text("No, in")
    query(page, "CONSTRUCT { <urn:a> <urn:b> '<b>&amp;</b>\u202e' } {}")
    expect(page.locator("#graph")).to_contain_text('<urn:a> <urn:b> "<b>&amp;</b>\ufffd" .')
    query(page, "SELECT (COUNT(*) AS ?n) { GRAPH <https://w3id.org/kbtool/cg> { ?s ?p ?o } }")
    assert int(page.inner_text("#table td")) > 100
    query(page, "SELECT ?x {")
    expect(page.locator("#query-error")).to_contain_text("line 1, column")
    assert page.locator("#rows:visible, #graph:visible").count() == 0
    query(page, "")
    expect(page.locator("#query-error")).to_contain_text("There is no query yet")
    page.check("#with-patient")
    query(page, "ASK {}")
    expect(page.locator("#query-error")).to_contain_text("There are no facts")


def test_many_rows_are_shown_in_parts_and_saved_whole(opened: Open) -> None:
    page = opened("/#see-query").page
    page.locator("#sample option").nth(40).wait_for(state="attached")
    if editor.program() is not None:
        page.locator(".yasqe").wait_for()
    query(page, "SELECT ?s { ?s ?p ?o } LIMIT 450")
    expect(page.locator("#query-status")).to_contain_text("450 rows")
    for shown, left in ((200, "Show 200 more rows of 250 left"), (400, "Show 50 more rows of 50 left"), (450, None)):
        assert page.locator("#table tbody tr").count() == shown
        if left:
            expect(page.locator("#more")).to_have_text(left)
            page.click("#more")
    expect(page.locator("#more")).to_be_hidden()
    with page.expect_download() as saved:
        page.click("#save-csv")
    assert saved.value.suggested_filename == "rows.csv"
    assert len(saved.value.path().read_text().splitlines()) == 451


def test_a_query_is_stopped_by_whom_it_was_asked(opened: Open) -> None:
    page = opened("/#see-query").page
    page.locator("#sample option").nth(40).wait_for(state="attached")
    if editor.program() is not None:
        page.locator(".yasqe").wait_for()
    write(page, "SELECT * { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i } ORDER BY ?c ?e ?i")
    page.click("#run")
    expect(page.locator("#run")).to_have_text("Stop")
    page.click("#run")
    expect(page.locator("#query-status")).to_have_text("Stopped.")
    expect(page.locator("#run")).to_have_text("Run")


def test_the_guideline_is_browsed(opened: Open) -> None:
    page = opened("/#see-guideline").page
    inside = page.frame_locator("#guideline-page")
    expect(inside.locator("h1")).to_be_visible()
    inside.locator("nav a", has_text="Rules").click()
    expect(inside.locator("h1")).to_have_text("Rules")


# --- What a hostile patient tries -----------------------------------------------------------------------

IMAGE = "<img src=/x onerror=alert(1)>"
TURNED = "a\u202eb"
SCRIPT = "</script></pre></style><script>alert(2)</script>"
IRI = "https://evil.test/'onclick='alert(3)'style='position:fixed;inset:0'/&lt;img/src=x&gt;/%3Cscript%3E"


def hostile() -> str:
    """Facts with markup wherever text or an IRI can stand."""
    facts = P01.replace("ex:P01", f"<{IRI}>", 1)
    facts = facts.replace('"mg/dL"', json.dumps(IMAGE + TURNED, ensure_ascii=False), 1).replace('"mmol/L"', json.dumps(SCRIPT), 1)
    return facts + "\n".join(
        [
            "",
            f"<javascript:alert(4)> a cg:Patient ; cg:hasFinding [ a <javascript:alert(5)> ; cg:onset {json.dumps(IMAGE)} ] .",
            f"<data:text/html,%3Cscript%3Ealert(6)%3C/script%3E> cg:value {json.dumps(SCRIPT)} .",
        ]
    )


def test_a_hostile_patient_does_nothing(opened: Open) -> None:
    watched = opened()
    page = watched.page
    own = page.locator("script").count()
    paste(page, hostile())
    assess(page)
    seen = page.inner_text("#problems") + page.frame_locator("#report-page").locator("body").inner_text()
    assert IMAGE in seen
    assert "</script><script>alert(2)" in seen.replace("</pre></style>", "")
    page.click("#tab-why")
    page.click("#why-form button")
    page.locator("#reasons h2").first.wait_for()
    page.click("#tab-next")
    page.click("#tab-query")
    page.locator("#sample option").nth(40).wait_for(state="attached")
    if editor.program() is not None:
        page.locator(".yasqe").wait_for()
        own += 1
    page.check("#with-patient")
    query(
        page,
        "PREFIX cg: <https://w3id.org/kbtool/cg/> SELECT ?s ?p ?o { GRAPH <https://w3id.org/kbtool/graph/facts> { ?s ?p ?o } }",
    )
    shown = page.inner_text("#table")
    for text in (IMAGE, "<javascript:alert(4)>", "&lt;img/src=x&gt;"):
        assert text in shown
    query(page, "CONSTRUCT { ?s ?p ?o } { GRAPH <https://w3id.org/kbtool/graph/facts> { ?s ?p ?o } }")
    assert IMAGE in page.inner_text("#graph")
    for name in TABS:
        page.click(f"#tab-{name}")
        for frame in page.frames[:2]:
            assert frame.locator("img, [onerror], [onclick], a[href^=javascript], a[href^=data], a[href*=evil]").count() == 0
            assert "\u202e" not in frame.evaluate("() => document.body.innerText")
    assert page.locator("script").count() == own


# --- What a page of another origin tries ----------------------------------------------------------------

ATTACK = """<!doctype html><title>attack</title><link rel=icon href=data:,>
<iframe name=sink></iframe><iframe id=framed src="TARGET/"></iframe>
<form id=form method=post enctype=text/plain target=sink action="TARGET/assess"><input name='FACTS' value=''></form>"""

TRY = """async ([target, facts]) => {
  const told = [];
  const tries = {
    "text/plain": ["/assess", { method: "POST", body: facts }],
    "no-cors": ["/assess", { method: "POST", body: facts, mode: "no-cors" }],
    json: ["/query", { method: "POST", body: "{}", headers: { "content-type": "application/json" } }],
    explain: ["/explain?rule=x", { method: "POST", body: facts }],
    kept: ["/patients", { headers: { authorization: "Bearer guessed" } }],
    examples: ["/examples", {}],
    page: ["/", {}],
    asset: ["/assets/workbench.json", {}],
  };
  for (const [name, [path, options]] of Object.entries(tries)) {
    try {
      const answer = await fetch(target + path, options);
      told.push([name, answer.type, (await answer.text()).length]);
    } catch { told.push([name, "refused", 0]); }
  }
  return told;
}"""


@pytest.fixture(scope="module")
def attacker(served: Served) -> Iterator[int]:
    """Another server on this machine, whose page attacks the workbench; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = ATTACK.replace("TARGET", served.url).replace("FACTS", "<urn:x> a <urn:y> .").encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "evil.test"])
def test_a_page_of_another_origin_cannot_make_it_act(browser: Browser, served: Served, attacker: int, name: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    answers: list[tuple[str, str, int]] = []
    context.on("response", lambda answer: answers.append((answer.request.method, urlsplit(answer.url).path, answer.status)))
    page.goto(f"http://{name}:{attacker}/")
    before = len(served.log)
    told = page.evaluate(TRY, [served.url, P01])
    assert {each[0]: (each[1], each[2]) for each in told} == {
        **dict.fromkeys(("text/plain", "json", "explain", "kept", "examples", "page", "asset"), ("refused", 0)),
        "no-cors": ("refused", 0),
    }
    page.evaluate("() => document.getElementById('form').submit()")
    page.wait_for_timeout(500)
    context.close()
    acted = [line for line in served.log[before:].splitlines() if " POST " in line]
    assert len(acted) >= 3
    assert {line.split()[3] for line in acted} <= {"403"}


@pytest.mark.parametrize("name", ["127.0.0.1", "evil.test"])
def test_a_page_of_another_origin_cannot_frame_it(browser: Browser, served: Served, attacker: int, name: str) -> None:
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"http://{name}:{attacker}/")
    page.wait_for_timeout(300)
    framed = next(frame for frame in page.frames if frame.parent_frame and frame.name != "sink")
    assert framed.url.startswith("chrome-error:")
    assert any("frame-ancestors" in text for text in said)
    context.close()


def test_a_name_that_somebody_pointed_at_this_machine_shows_nothing(browser: Browser, served: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"http://evil.test:{served.port}/")
    assert answer is not None
    assert answer.status == 421
    told = page.evaluate("async facts => (await fetch('/assess', { method: 'POST', body: facts })).status", P01)
    assert told == 421
    context.close()


# --- For everybody --------------------------------------------------------------------------------------


OUTLINE = "() => getComputedStyle(document.activeElement.closest('.CodeMirror') || document.activeElement).outlineStyle"


def test_everything_is_done_by_keyboard(opened: Open) -> None:
    page = opened().page
    page.locator("#example option[value=P22]").wait_for(state="attached")
    stops: list[str] = []

    def go(wanted: str, key: str = "Tab") -> None:
        for _ in range(40):
            page.keyboard.press(key)
            stops.append(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
            outline = page.evaluate(OUTLINE)
            assert outline != "none" or stops[-1] == "report-page", stops
            if stops[-1] == wanted:
                return
        raise AssertionError(f"{wanted} is not reached: {stops}")

    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    go("example")
    page.keyboard.type("P22")
    expect(page.locator("#facts")).to_have_value((PATIENTS / "P22.ttl").read_text(encoding="utf-8"))
    go("assess")
    page.keyboard.press("Enter")
    page.locator("#print").wait_for()
    go("tab-report")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-why")).to_be_focused()
    go("rule")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#reasons h2").wait_for()
    go("reasons")
    go("tab-why", "Shift+Tab")
    page.keyboard.press("End")
    expect(page.locator("#tab-guideline")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#tab-query")).to_be_focused()
    if editor.program() is not None:
        page.locator(".yasqe").wait_for()
    go("sample")
    page.keyboard.type("All rules")
    go("with-patient")
    go("run")  # by way of the query, which has to be left again
    page.keyboard.press("Enter")
    page.locator("#table tbody tr").first.wait_for()


def test_it_can_be_read_on_every_screen(opened: Open) -> None:
    page = opened().page
    choose(page, "P22")
    assess(page)
    for name in TABS:
        page.click(f"#tab-{name}")
        if name == "why":
            page.click("#why-form button")
            page.locator("#reasons h2").wait_for()
        if name == "query":
            if editor.program() is not None:
                page.locator(".yasqe").wait_for()
            page.select_option("#sample", "recommended")
            page.click("#run")
            page.locator("#table td").first.wait_for()
            page.click("#query summary")
        for width in (1280, 768, 320):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_timeout(200)
            assert wide(page) <= width, f"{name} scrolls sideways at {width} px"
            assert page.evaluate(CONTRAST) == []
    choose(page, "Refused-dose-unit")
    assess(page)
    page.fill("#facts", "other")
    assert wide(page) <= 320


# --- Facts that stay, and other guidelines --------------------------------------------------------------


def test_patients_that_are_kept_need_the_token(browser: Browser, tmp_path: Path) -> None:
    facts = tmp_path / "facts"
    facts.mkdir()
    for name in ("P01", "P22", "Refused-dose-unit"):
        (facts / f"{name}.ttl").write_bytes((PATIENTS / f"{name}.ttl").read_bytes())
    with serving.running(tmp_path / "run", "--facts", str(facts), "--as-of", AS_OF, KBTOOL_TOKEN=TOKEN) as server:
        watched = Watched(browser, server.url)
        watched.expected = ("Failed to load resource",)
        page = watched.page
        page.goto(server.url)
        for wrong in ("", "wrong", "w\u00f6rng"):
            page.fill("#token", wrong)
            page.click("#stored-form button >> nth=0")
            expect(page.locator("#error")).to_contain_text("The token is missing or wrong")
            expect(page.locator("#stored")).to_be_hidden()
            page.click("#clear")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.locator("#stored-list option").nth(2).wait_for(state="attached")
        expect(page.locator("#problems")).to_contain_text("Not accepted of the facts kept here")
        page.select_option("#stored-list", ["https://example.org/patient/P22"])
        page.fill("#as-of", "2026-02-10T12:00:00")
        page.click("#assess-stored")
        page.locator("#print").wait_for()
        expect(page.frame_locator("#report-page").locator("main")).to_contain_text("https://example.org/patient/P22")
        expect(page.frame_locator("#report-page").locator("main")).not_to_contain_text("https://example.org/patient/P01")
        page.click("#tab-why")
        page.click("#why-form button")
        expect(page.locator("#reasons h2")).to_contain_text("https://example.org/patient/P22")
        page.click("#tab-query")
        page.locator("#sample option").nth(40).wait_for(state="attached")
        if editor.program() is not None:
            page.locator(".yasqe").wait_for()
        query(page, "SELECT * { GRAPH <https://w3id.org/kbtool/graph/facts> { ?p a <https://w3id.org/kbtool/cg/Patient> } }")
        expect(page.locator("#table tbody tr")).to_have_count(3)
        page.fill("#token", "")
        query(page, "ASK {}")
        expect(page.locator("#query-error")).to_contain_text("The token is missing or wrong")
        assert TOKEN not in page.content()
        watched.end()
        assert TOKEN not in server.log
        assert "example.org/patient/P" not in server.log


def test_another_guideline_has_its_own_workbench(browser: Browser, tmp_path: Path) -> None:
    root = TESTS / "second_guideline"
    with serving.running(tmp_path, "--ontology", str(root / "root.ttl")) as server:
        watched = Watched(browser, server.url)
        page = watched.page
        page.goto(server.url)
        names = {file.stem for file in (root / "patients").glob("*.ttl")}
        page.locator(f"#example option[value='{sorted(names)[0]}']").wait_for(state="attached")
        listed = page.locator("#example option").evaluate_all("all => all.map(each => each.value)")
        assert set(listed) - {""} == names
        page.select_option("#example", "severe-attack")
        expect(page.locator("#facts")).not_to_be_empty()
        assess(page)
        expect(page.locator("#status")).to_contain_text("Answered for 1 patient")
        watched.end()
