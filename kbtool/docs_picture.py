"""The pathway as a picture: steps from top to bottom, recommendations by rank, and lines from each to what waits for it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

from kbtool.docs_guide import Guide

_LINE, _PAD = 18, 8
_LETTER, _BOLD = 7.6, 8.6
"""Width of a letter in units of the picture; wide enough for all common fonts of the size that the style sheet gives."""
_BOX = 215
_LANE = 9


@dataclass
class Text:
    """A line of text at a place; `term` is what it links to."""

    x: float
    y: float
    words: str
    term: str = ""
    look: str = ""


@dataclass
class Box:
    """A frame with lines of text."""

    x: float
    y: float
    width: float
    height: float
    term: str
    look: str
    lines: list[Text]


@dataclass
class Line:
    """A line through points, from a recommendation (`opener`) to the state that it opens; lines with one `lane` run together."""

    points: list[tuple[float, float]]
    opener: str
    state: str
    how: str
    lane: int

    @property
    def path(self) -> str:
        """The line as an SVG path."""
        return "M" + " L".join(f"{x:g} {y:g}" for x, y in self.points)

    @property
    def end(self) -> tuple[float, float]:
        """Where the line ends."""
        return self.points[-1]


@dataclass
class Picture:
    """A picture with its size; everything in it is in the same units."""

    width: float
    height: float = 0
    titles: list[Text] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def pathway(guide: Guide, width: int) -> Picture:
    """Draw the steps of a guideline in a given width; few columns in a narrow one."""
    return _Drawing(guide, width).picture


class _Drawing:
    def __init__(self, guide: Guide, width: int) -> None:
        self.guide, self.picture = guide, Picture(width)
        self.lanes = self._lanes()
        self.left = 4 + _LANE * (len(self.lanes) + 1)
        self.columns = max(1, (width - self.left) // (_BOX + _PAD))
        self.wide = (width - self.left - 1 - _PAD * (self.columns - 1)) / self.columns
        self.places: dict[str, tuple[Box, float]] = {}
        self.gates: list[tuple[str, float]] = []
        y = 0.0
        for step, rules in guide.steps():
            y = self._step(step, rules, y)
        self.picture.height = y
        self._connect()

    def _lanes(self) -> dict[tuple[str, str], int]:
        """A place for the line into each state, one for what brings it about and one for what measures it."""
        rules = set(self.guide.of("Recommendation"))
        states = dict.fromkeys(s for _, group in self.guide.steps() for rule in group for s in self.guide.cg(rule, "requires"))
        found = dict.fromkeys((s, how) for s in states for opener, how in self.guide.openers(s) if opener in rules)
        return {key: number for number, key in enumerate(found)}

    def _step(self, step: str, rules: list[str], y: float) -> float:
        y += 26
        if step:
            self.picture.titles.append(Text(self.left, y, self.guide.label(step), step, "step"))
        y += 10  # what waits for nothing stands first, above every frame
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for rule in rules:
            waits = tuple(self.guide.cg(rule, "requires")), tuple(self.guide.cg(rule, "requiresAbsenceOf"))
            groups.setdefault(waits, []).append(rule)
        for (required, excluded), members in sorted(groups.items(), key=lambda group: any(group[0])):
            y = self._gate(required, excluded, y)
            for start in range(0, len(members), self.columns):
                y = self._row(members[start : start + self.columns], y)
        return y

    def _gate(self, required: Iterable[str], excluded: Iterable[str], y: float) -> float:
        lines: list[Text] = []
        top = y
        width = self.picture.width - self.left - 1
        for words, states, look in (("wait for", required, "wait"), ("not while", excluded, "bar")):
            for state in states:
                if look == "wait":
                    self.gates.append((state, y + _LINE / 2 + 2))
                for words_of_line in _wrap(f"{words}: {self.guide.label(state)}", width, bold=look == "wait"):
                    y += _LINE
                    lines.append(Text(self.left + _PAD, y - 2, words_of_line, state, look))
        if not lines:
            return y
        self.picture.boxes.append(Box(self.left, top, width, y - top + 6, "", "gate", lines))
        return y + 6 + _PAD

    def _row(self, rules: list[str], y: float) -> float:
        boxes = []
        for column, rule in enumerate(rules):
            x = self.left + column * (self.wide + _PAD)
            rank = next(iter(self.guide.cg(rule, "rank")), "")
            shown = [(f"{rank}. {self.guide.label(rule)}" if rank else self.guide.label(rule), rule, "name")]
            for other in self.guide.cg(rule, "accompanies"):
                shown.append((f"with: {self.guide.label(other)}", other, "note"))
            for action in self.guide.cg(rule, "action"):
                for ban in self.guide.by(action, "forbids"):
                    shown.append((f"{self.guide.kind(ban)}: {self.guide.label(ban)}", ban, "ban"))
            lines, at = [], y + 4
            for words, term, look in shown:
                for words_of_line in _wrap(words, self.wide, bold=look == "name"):
                    at += _LINE
                    lines.append(Text(x + _PAD, at - 3, words_of_line, term, look))
            boxes.append(Box(x, y, self.wide, at - y + 7, rule, "rule", lines))
        height = max(box.height for box in boxes)
        for rule, box in zip(rules, boxes, strict=True):
            box.height = height
            self.places[rule] = (box, y + height)
        self.picture.boxes += boxes
        used = [
            lane for (state, how), lane in self.lanes.items() if {(rule, how) for rule in rules} & {*self.guide.openers(state)}
        ]
        return y + height + (12 + 3 * max(used) if used else _PAD)

    def _connect(self) -> None:
        for state, target in self.gates:
            for opener, how in self.guide.openers(state):
                lane = self.lanes.get((state, how))
                if lane is None or opener not in self.places:
                    continue
                box, bottom = self.places[opener]
                x, channel, across = box.x + 12 + 5 * lane, bottom + 6 + 3 * lane, 4 + _LANE * lane
                end = (self.left, target + (3 if how == "measures it" else -3))
                points = [(x, bottom), (x, channel), (across, channel), (across, end[1]), end]
                self.picture.lines.append(Line(points, opener, state, how.split()[0], lane))


def _wrap(words: str, width: float, *, bold: bool) -> list[str]:
    return textwrap.wrap(words, max(10, int((width - 2 * _PAD) / (_BOLD if bold else _LETTER))))
