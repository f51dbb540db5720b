"""A browser for tests: headless Chromium, and what is asked of every page. Tests that import this are skipped without one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed", allow_module_level=True)
from playwright.sync_api import Browser, sync_playwright  # noqa: E402

CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    if (node.closest("svg")) {
      const box = node.getBoundingClientRect();
      const frames = [...node.closest("svg").querySelectorAll("rect")].filter((frame) => {
        const f = frame.getBoundingClientRect();
        return f.left <= box.left && f.top <= box.top && f.right >= box.left && f.bottom >= box.bottom;
      });
      if (frames.length) return rgb(getComputedStyle(frames.at(-1)).fill);
    }
    for (let at = node; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = [];
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const [a, b] = [rgb(node.closest("svg") ? style.fill : style.color), ground(node)].map(light).sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([ratio, node.textContent.trim().slice(0, 60)]);
  }
  return poor;
}"""
"""Every text that is seen and has too little contrast with what is painted behind it (WCAG 2.2, level AA)."""


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """A running browser. options: as on its command line."""
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *options])
        yield found
        found.close()
