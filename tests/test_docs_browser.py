"""The guideline site as a browser shows it from the file system: search, no network, no error, contrast, small screens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import CONTRAST, chromium
from playwright.sync_api import Browser, Page

import kbtool
from kbtool.docs import write_site

PATIENTS = Path(__file__).parent / "patients"
PAGES = [
    "index.html",
    "rules.html",
    "rules/CorrectHypokalaemia.html",
    "rules/IncreaseBaclofen.html",
    "rules/NoIntravenousMagnesiumDuringDialysis.html",
    "rules/SO-05.html",
    "statements.html",
    "statements/S36.html",
    "terms.html",
    "terms/SerumPotassium.html",
    "terms/MagnesiumTargetMassRange.html",
    "thresholds.html",
    "numbers.html",
    "open-questions.html",
    "local-policies.html",
    "references.html",
    "codes.html",
    "queries.html",
    "glossary.html",
    "a-z.html",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("browser") / "site"
    write_site(kbtool.load(), folder, cases=PATIENTS)
    return folder.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test on a word in the console, an error or a request to anywhere but the file system."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    found, wrong = context.new_page(), []
    found.on("console", lambda message: wrong.append(message.text))
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    found.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
    yield found
    context.close()
    assert wrong == []


def unfold(page: Page) -> None:
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_readable(page: Page, site: str, name: str) -> None:
    page.goto(f"{site}/{name}")
    unfold(page)
    assert page.evaluate(CONTRAST) == []
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.evaluate(CONTRAST) == []
    page.emulate_media(media="print")
    assert not page.locator("header nav[aria-label=Site]").is_visible()


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("correct potassium", "rules/CorrectHypokalaemia.html"),
        ("CorrectHypokalaemia", "rules/CorrectHypokalaemia.html"),
        ("so-05", "rules/SO-05.html"),
        ("S23", "statements/S23.html"),
        ("2823-3", "terms/SerumPotassium.html"),
        ("hypokalemia", "terms/Hypokalaemia.html"),
        ("Q07", "open-questions.html#Q07"),
        ("SerumPotassium", "terms/SerumPotassium.html"),
    ],
)
def test_search_finds(page: Page, site: str, query: str, first: str) -> None:
    page.goto(f"{site}/terms/SerumMagnesium.html")
    page.fill("#page-search", query)
    assert page.locator("#page-results a").first.get_attribute("href") == f"{site}/{first}"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{site}/{first}")
    assert page.locator("h1").count() == 1


def test_search_that_finds_nothing_says_so(page: Page, site: str) -> None:
    page.goto(f"{site}/index.html")
    page.fill("#page-search", "<img src=x onerror=alert(1)> zzz")
    assert page.locator("#page-results").inner_text() == "Nothing found"
    page.keyboard.press("Escape")
    assert not page.locator("#page-results").is_visible()


def test_enter_leads_to_all_that_was_found(page: Page, site: str) -> None:
    page.goto(f"{site}/rules/CorrectHypokalaemia.html")
    page.fill("#page-search", "magnesium")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{site}/a-z.html?q=magnesium")
    shown = page.locator(".letter li:visible")
    assert page.locator("#page-found").inner_text().startswith(f"{shown.count()} found for “magnesium”")
    assert shown.count() > 20
    assert page.locator(".letter li").count() > shown.count()


def test_everything_can_be_reached_without_scripts(browser: Browser, site: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/index.html")
    page.fill("#page-search", "potassium")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{site}/a-z.html?q=potassium")
    page.click("text=Correct low potassium >> nth=0")
    assert page.locator("h1").inner_text().endswith("Correct low potassium")
    page.click("summary >> nth=0")
    assert page.locator("details[open]").count() == 1
    context.close()


def test_the_picture_leads_to_rules_on_each_screen(page: Page, site: str) -> None:
    for width, look in ((1200, "on-screen"), (360, "on-phone")):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(f"{site}/index.html")
        assert page.locator("svg.pathway:visible").count() == 1
        overflowing: Any = page.evaluate(
            """(look) => [...document.querySelectorAll(`svg.${look} text.name, svg.${look} text.wait`)].filter((text) => {
              const t = text.getBoundingClientRect();
              return ![...text.closest("svg").querySelectorAll("rect")].some((rect) => {
                const r = rect.getBoundingClientRect();
                return r.left < t.left && r.right > t.right && r.top <= t.top + 2 && r.bottom >= t.bottom - 2;
              });
            }).map((text) => text.textContent)""",
            look,
        )
        assert overflowing == []
        page.click(f"svg.{look} >> text=3. Correct low potassium")
        page.wait_for_url(f"{site}/rules/CorrectHypokalaemia.html")


def test_a_query_can_be_copied(page: Page, site: str) -> None:
    page.goto(f"{site}/queries.html")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    entry = page.locator("#query-statements")
    entry.locator("summary").click()
    entry.get_by_role("button").click()
    entry.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("#+ summary: What the source says")


def test_a_printout_has_nothing_folded(page: Page, site: str) -> None:
    page.goto(f"{site}/rules/CorrectHypokalaemia.html")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".tree details:not([open])").count() == 0
