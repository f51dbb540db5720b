"""Print a comparison: as text, as Markdown for a pull request, as JSON.

Labels, definitions and names of patients come from files; none of it becomes markup: all values are escaped where they
are put into the template, code and texts from files stand in code spans and blocks that they cannot close.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from typing import Any

import jinja2

Json = dict[str, Any]

_MARKUP = re.compile(r"[\\`*_\[\]<>|~$]")
_LINKING = re.compile(r"(?<=[@#])|(?<=GH)(?=-\d)")
_AUTOLINK = re.compile(r"(?i)\b(www)(?=\.)|(:)(?=//|(?=[\d_+-]*[A-Za-z])[\w+-]+:|100:|1234:)|\b(mailto|xmpp)(?=:)")
_START = re.compile(r"^([-+=](?=[-+=\s]|$)|\d+(?=[.)](?:\s|$)))")
_SIMILAR = 0.35
_FEWER = (100, 50, 25, 12, 6, 3, 1)

POSTED = 65_000
"""Bytes of Markdown that can be posted; GitHub takes 65 536 characters in a comment."""


class Markdown(str):
    """Text that is Markdown already and is not escaped again."""


def render(document: Json, format: str) -> str:
    """A comparison in a format: text, markdown or json. document: as `Comparison.to_json` makes it."""
    if format == "json":
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    markdown = format == "markdown"
    environment = jinja2.Environment(  # noqa: S701 - what is not escaped as Markdown is plain text
        loader=jinja2.PackageLoader("kbtool"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=escaped if markdown else visible,
    )
    environment.filters |= {"code": code, "words": _words_markdown if markdown else _words_text, "plural": plural}
    environment.filters |= {
        "fence": fence,
        "raw": Markdown,
        "code_cell": lambda text: Markdown(code(text).replace("|", "\\|")),
    }
    template = environment.get_template("diff.md" if markdown else "diff.txt")

    def rendered(most: int | None) -> str:
        lines = [line.rstrip() for line in template.render(document, most=most).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"

    text = rendered(None)
    for most in _FEWER if markdown else ():
        if len(text.encode()) <= POSTED:
            break
        text = rendered(most)
    return text


def plural(count: int, word: str, words: str = "") -> str:
    """A number with its noun."""
    return f"{count} {word if count == 1 else words or f'{word}s'}"


def visible(value: Any) -> Any:
    """Text on one line, without characters that steer a terminal or turn the text around them."""
    if not isinstance(value, str) or isinstance(value, Markdown) or value.isprintable():
        return value
    flat = re.sub(r"\s+", " ", value)
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") else "\ufffd" for c in flat)


def escaped(value: Any) -> Any:
    """Text in which nothing is Markdown, HTML, a link or a mention."""
    if not isinstance(value, str) or isinstance(value, Markdown):
        return value
    text = str(visible(value)).replace("&", "&amp;")
    text = _MARKUP.sub(lambda m: {"<": "&lt;", ">": "&gt;"}.get(m[0], "\\" + m[0]), text)
    text = _AUTOLINK.sub(lambda m: f"{m[1] or m[3]}<!-- -->" if m[1] or m[3] else "\\:", text)
    return Markdown(_START.sub(lambda m: f"{m[1]}<!-- -->", _LINKING.sub("<!-- -->", text)))


def code(value: str) -> Markdown:
    """Text as a code span that it cannot close."""
    text = str(visible(value))
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) or not text else ""
    return Markdown(f"{ticks}{space}{text}{space}{ticks}")


def fence(lines: list[str], indent: str = "") -> Markdown:
    """Lines as a block of code in the colours of a diff, which no line can close."""
    shown = [str(visible(line)) for line in lines]
    ticks = "`" * max(3, max((len(run) for line in shown for run in re.findall("`+", line)), default=0) + 1)
    return Markdown("\n".join(indent + line for line in (f"{ticks}diff", *shown, ticks)))


def _changes(old: str, new: str) -> list[tuple[str, str]] | None:
    """Running text as pieces that stay (=), go (-) and come (+); None where the two have too little in common."""
    words: list[list[str]] = [re.findall(r"\S+\s*", str(visible(text))) for text in (old, new)]
    matcher = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False)
    if matcher.ratio() < _SIMILAR:
        return None
    pieces = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            pieces.append(("=", "".join(words[0][i1:i2])))
        else:
            pieces += [("-", "".join(words[0][i1:i2])), ("+", "".join(words[1][j1:j2]))]
    return [(mark, text) for mark, text in pieces if text]


def _words_text(pair: tuple[str, str]) -> str:
    """Two versions of a text as one, [-with what goes-] {+and what comes+}."""
    pieces = _changes(*pair)
    if pieces is None:
        return f"[-{pair[0]}-] {{+{pair[1]}+}}"
    marks = {"=": "{}", "-": "[-{}-]", "+": "{{+{}+}}"}
    return "".join(marks[mark].format(text.rstrip()) + text[len(text.rstrip()) :] for mark, text in pieces)


def _words_markdown(pair: tuple[str, str]) -> Markdown:
    pieces = _changes(*pair) or [("-", f"{pair[0]} "), ("+", pair[1])]
    marks = {"=": "{}", "-": "<del>{}</del>", "+": "<ins>{}</ins>"}
    return Markdown("".join(marks[mark].format(escaped(text.rstrip())) + text[len(text.rstrip()) :] for mark, text in pieces))
