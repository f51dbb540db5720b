"""Find the place of a term in Turtle files: the file and the line where something is first said of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_PREFIX = re.compile(r"^\s*@?prefix\s+([\w-]*):\s*<([^>]*)>", re.IGNORECASE)
_SUBJECT = re.compile(r"^(?:<([^>]*)>|([\w-]*):([\w.%-]*\w))(?:\s|$)")


class Places:
    """The places of terms: a term's first block of statements, in the file that declares it if one of them does."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = list(files)
        self._places: dict[str, list[tuple[Path, int, bool]]] = {}
        for file in self.files:
            self._scan(file)

    def of(self, iri: str | None, file: Path | None = None) -> tuple[Path | None, int | None]:
        """File and line of a term, within a file where one is given; the line is None where the term is not found."""
        places = [p for p in self._places.get(iri or "", ()) if file is None or p[0] == file]
        best = next((p for p in places if p[2]), next(iter(places), None))
        if best is None:
            return file or next(iter(self.files), None), None
        return best[0], best[1]

    def _scan(self, file: Path) -> None:
        """Subjects stand at the beginning of a line, as in every file that `kbtool fmt` has written."""
        prefixes: dict[str, str] = {}
        text = ""
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return
        for number, line in enumerate(text.splitlines(), 1):
            prefix = _PREFIX.match(line)
            if prefix:
                prefixes[prefix[1]] = prefix[2]
                continue
            subject = _SUBJECT.match(line)
            if subject:
                iri = subject[1] if subject[1] is not None else prefixes.get(subject[2], subject[2]) + subject[3]
                rest = line[subject.end() :]
                declares = rest.lstrip().startswith("a ") or not rest.strip()
                self._places.setdefault(iri, []).append((file, number, declares))
