"""Text for cards: GitHub Flavored Markdown in which nothing from the record or the ontology can become markup."""

from __future__ import annotations

import re
import unicodedata

SUMMARY = 139
"""Characters in a summary: CDS Hooks asks for fewer than 140 (section "Card Attributes")."""

_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~&@$]")
_LINK = re.compile(r"(?i)\b(www)\.|\b([a-z][a-z0-9+.-]*):(?=//)|\b(mailto|xmpp|javascript|data):")
_START = re.compile(r"^(\d{1,9})([.)])|^([-+=])")


def plain(text: str) -> str:
    """Text on one line, without control characters and those that change the direction or are not seen."""
    seen = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join("".join(c for c in seen if unicodedata.category(c) not in ("Cf", "Cs", "Co", "Cn")).split())


def escaped(text: str) -> str:
    """Text as Markdown that shows exactly these characters: no emphasis, link, image, table, heading, list or HTML."""
    safe = _MARKUP.sub(r"\\\g<0>", plain(text))
    safe = _LINK.sub(lambda match: match[0][:-1] + "\\" + match[0][-1], safe)
    return _START.sub(lambda match: f"{match[1]}\\{match[2]}" if match[1] else f"\\{match[3]}", safe)


def shortened(text: str, length: int = SUMMARY) -> str:
    """Text on one line of at most that many characters, cut at a word where there is one."""
    line = plain(text)
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    head = cut.rpartition(" ")[0]
    return (head if len(head) > length // 2 else cut).rstrip(" ,;:") + "…"


def bullets(lines: list[str]) -> str:
    """A list; the items are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)
