"""The page of answers in a browser: it calls nobody, complains of nothing, works by keyboard, and fits a small screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import chromium
from playwright.sync_api import Browser, Page

import kbtool
from kbtool import engine, explain, report

PATIENTS = Path(__file__).parent / "patients"
AS_OF = "2026-02-10T12:00:00Z"
NAMES = ["P01", "P12", "P15", "P22", "Overlay-baclofen-coma", "Overlay-CKD-baclofen-20-ordered", "Refused-dose-unit"]

TEXTS = """() => {
  const parts = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = parts(c).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b; };
  const paper = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor, p = parts(c);
    if (p.length === 3 || p[3] === 1) return c; } return "rgb(255, 255, 255)"; };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest("style")) continue;
    const ink = e.closest("svg") ? getComputedStyle(e).fill : getComputedStyle(e).color;
    const [a, b] = [light(ink), light(paper(e))].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), walk.currentNode.data.trim().slice(0, 40), ink, paper(e)]);
  }
  return found; }"""
"""The contrast of every piece of text with what is painted behind it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page for each patient, and one with all of them."""
    kb, out = kbtool.load(), tmp_path_factory.mktemp("pages")
    for title, names in {**{name: [name] for name in NAMES}, "all": NAMES}.items():
        people = explain.explainers(kb.knowledge, kb.read(*(PATIENTS / f"{n}.ttl" for n in names)), engine.parse_as_of(AS_OF))
        (out / f"{title}.html").write_text("".join(report.render(kb.knowledge, people, AS_OF, kb.about)), encoding="utf-8")
    return out


def opened(browser: Browser, file: Path, width: int = 1280) -> tuple[Page, list[str]]:
    """The page in a window of some width, and what went wrong or was asked of the network."""
    page, trouble = browser.new_page(viewport={"width": width, "height": 800}), []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.goto(file.as_uri())
    return page, trouble


@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_the_page_calls_nobody_and_fits(browser: Browser, folder: Path, name: str) -> None:
    for width in (320, 375, 1280):
        page, trouble = opened(browser, folder / f"{name}.html", width)
        for open_ in (False, True):
            page.evaluate("open => document.querySelectorAll('details').forEach(d => d.open = open)", open_)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"scrolls sideways at {width} px"
        assert trouble == []
        page.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_text_can_be_read(browser: Browser, folder: Path, name: str) -> None:
    page, _ = opened(browser, folder / f"{name}.html")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    texts: list[list[Any]] = page.evaluate(TEXTS)
    assert len(texts) > 10
    assert [text for text in texts if text[0] < 4.5] == []
    page.close()


def test_everything_is_reached_and_opened_by_keyboard(browser: Browser, folder: Path) -> None:
    page, _ = opened(browser, folder / "P22.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for wanted in (True, False, True):
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.parentElement.open") is wanted
    assert page.locator(".urgent .why").is_visible()
    page.close()


def test_a_box_of_the_pathway_opens_its_why(browser: Browser, folder: Path) -> None:
    page, _ = opened(browser, folder / "P01.html")
    for number in range(page.locator(".box").count()):
        link = page.locator(".box .name a").nth(number)
        why = page.locator(link.get_attribute("href") or "")
        link.click()
        why.wait_for(state="visible", timeout=2000)
    page.close()


def test_what_is_urgent_is_seen_without_scrolling(browser: Browser, folder: Path) -> None:
    for width in (375, 1280):
        for name, place in (("P22", ".urgent h4"), ("Overlay-baclofen-coma", ".urgent h4"), ("P15", ".clash-card h4")):
            page, _ = opened(browser, folder / f"{name}.html", width)
            box = page.locator(place).first.bounding_box()
            assert box is not None
            assert box["y"] + box["height"] < 600
            page.close()


def test_in_print_everything_is_open(browser: Browser, folder: Path) -> None:
    page, _ = opened(browser, folder / "P22.html", 800)
    hidden = "[...document.querySelectorAll('.why')].filter(e => !e.checkVisibility()).length"
    assert page.evaluate(hidden) > 10
    page.emulate_media(media="print")
    assert page.evaluate(hidden) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    page.close()
