"""Write the knowledge base as a site that people read: plain files that open without a server and without a network."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kbtool import ask
from kbtool.api import KnowledgeBase
from kbtool.docs_guide import LISTED, RULES, Guide
from kbtool.docs_picture import pathway
from kbtool.export import ExportError
from kbtool.knowledge import HOME
from kbtool.namespaces import CG, DCTERMS, OWL, RDFS, SKOS, local_name

Progress = Callable[[int, int], None]

_WIDE, _NARROW = 1040, 340
"""Widths of the picture for a screen and for a phone, in its own units."""

_FIRES = ("recommended", "holds")
_TITLES = {
    "index.html": "Overview",
    "rules.html": "Rules",
    "statements.html": "Statements",
    "open-questions.html": "Open questions",
    "interpretations.html": "Interpretations",
    "local-policies.html": "Local policies",
    "references.html": "References",
    "terms.html": "Terms",
    "thresholds.html": "Thresholds",
    "numbers.html": "Numbers",
    "codes.html": "Codes",
    "queries.html": "Queries",
    "a-z.html": "A–Z",
}
"""The pages of the menu."""

_LISTS = {
    "open-questions.html": "What the source leaves open, or says in two ways, and what this knowledge base does.",
    "interpretations.html": "Choices that this knowledge base made where the source can be read in more than one way.",
    "local-policies.html": "Values and definitions that the source does not give. A hospital may replace each of them.",
    "references.html": "The works that the source cites.",
    "numbers.html": "Numbers that the source does not give, which are never filled in, and those that come with a rule.",
}
"""Pages that hold terms of a kind, left out where there is none, and what they say first."""


@dataclass(frozen=True)
class Case:
    """A worked patient of which it is known what must come out."""

    name: str
    description: str


class Cases:
    """The worked patients in a folder, by the rules that they cover."""

    def __init__(self, folder: Path | None) -> None:
        self.given = folder is not None
        self._found: dict[str, dict[str, list[Case]]] = defaultdict(lambda: defaultdict(list))
        for file in sorted(folder.glob("*.expected.json")) if folder else ():
            try:
                expected = json.loads(file.read_text(encoding="utf-8"))
                self._read(Case(file.name.removesuffix(".expected.json"), str(expected.get("description", ""))), expected)
            except (OSError, ValueError, AttributeError, TypeError) as error:
                raise ExportError(f"{file}: cannot be read as what is expected of a patient: {error}") from error

    def covering(self, *names: str) -> dict[str, list[Case]]:
        """The patients that cover a rule, by what comes out for them; those for whom it fires come first."""
        found = {state: cases for name in names for state, cases in self._found[name].items()}
        return dict(sorted(found.items(), key=lambda pair: (pair[0] not in _FIRES, pair[0])))

    def _read(self, case: Case, expected: dict[str, Any]) -> None:
        states: list[tuple[str, Any]] = []
        for kind in ("recommendations", "prohibitions", "assessments"):
            states += expected.get(kind, {}).items()
        for key, state in (("cautions", "holds"), ("cautionsPossible", "possible"), ("cautionsAbsent", "absent")):
            states.append((state, expected.get(key, ())))
        for state, names in states:
            for name in names:
                self._found[name][state].append(case)


def write_site(kb: KnowledgeBase, out: Path, *, cases: Path | None = None, progress: Progress | None = None) -> list[str]:
    """Write the site into a new or empty folder, all of it or nothing. Returns the names of its files, sorted.

    cases: a folder of worked patients, `NAME.expected.json` each, which the pages of rules name as their tests.
    progress: is told how many pages of how many are made. The same knowledge gives the same bytes.
    Raises ExportError where the folder holds files already or a case cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: is not an empty folder; nothing was written")
    if cases is not None and not cases.is_dir():
        raise ExportError(f"{cases}: is not a folder of worked patients")
    files = site_files(kb, cases=cases, progress=progress)
    _write(files, out)
    return sorted(files)


def site_files(kb: KnowledgeBase, *, cases: Path | None = None, progress: Progress | None = None) -> dict[str, str]:
    """The files of the site by name, see `write_site`. Raises ExportError where a case cannot be read."""
    return _Site(Guide(kb.knowledge), Cases(cases)).files(progress)


def _write(files: dict[str, str], out: Path) -> None:
    """Write into a folder of the same disk first, so that what fails half-way leaves nothing behind."""
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(mkdtemp(prefix=".unfinished-", dir=out))
    moved: list[Path] = []
    try:
        for name, content in files.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_text(content, encoding="utf-8", newline="\n")
        for item in sorted(staging.iterdir()):
            moved.append(item.rename(out / item.name))
        staging.rmdir()
    except BaseException:
        for item in [staging, *moved]:
            shutil.rmtree(item) if item.is_dir() else item.unlink(missing_ok=True)
        if made:
            out.rmdir()
        raise


class _Site:
    """The pages of a site, made one by one."""

    def __init__(self, guide: Guide, cases: Cases) -> None:
        self.guide, self.cases = guide, cases
        self.environment = Environment(
            loader=PackageLoader("kbtool", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        knowledge = guide.knowledge
        self.queries = _queries()
        self.lists = {page: [kind for kind, at in LISTED.items() if at == page and guide.of(kind)] for page in _LISTS}
        self.lists = {page: kinds for page, kinds in self.lists.items() if kinds}
        self.environment.globals |= {
            "g": guide,
            "kb": knowledge,
            "site": guide.first(knowledge.iri, DCTERMS["title"]) or knowledge.iri,
            "CG": CG,
            "DCTERMS": DCTERMS,
            "OWL": OWL,
            "RDFS": RDFS,
            "SKOS": SKOS,
            "cases": cases,
            "queries": self.queries,
            "rules": {kind: guide.of(kind) for kind in RULES if guide.of(kind)},
            "counts": [(page, self._counted(page, kinds[0]), len(guide.of(kinds[0]))) for page, kinds in self.lists.items()],
            "titles": _TITLES,
            "menu": [page for page in _TITLES if page not in _LISTS or page in self.lists],
            "local_name": local_name,
        }

    @staticmethod
    def _counted(page: str, kind: str) -> str:
        return "Numbers not given" if kind == "MissingParameter" else _TITLES[page]

    def files(self, progress: Progress | None) -> dict[str, str]:
        """All files by name."""
        pages = list(self._pages())
        found = {}
        for number, (name, template, values) in enumerate(pages, 1):
            root = "../" * name.count("/")
            page = self.environment.get_template(f"docs-{template}.html")
            found[name] = page.render(root=root, here=name, **values)
            if progress:
                progress(number, len(pages))
        loader = self.environment.loader
        assert loader is not None
        for name in ("site.css", "site.js"):
            found[name] = loader.get_source(self.environment, f"docs-{name}")[0]
        found["search-index.js"] = self._index()
        return found

    def _pages(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        guide = self.guide
        yield "index.html", "index", {"pictures": {"wide": pathway(guide, _WIDE), "narrow": pathway(guide, _NARROW)}}
        yield "rules.html", "rules", {}
        for kind in RULES:
            for iri in guide.of(kind):
                yield guide.href(iri), "rule", {"iri": iri, "kind": kind}
        yield "statements.html", "statements", {}
        for iri in guide.of("Statement"):
            yield guide.href(iri), "statement", {"iri": iri}
        yield "terms.html", "terms", {}
        for iri in [*guide.facts, *guide.criteria, *guide.thresholds, *guide.of("Action")]:
            yield guide.href(iri), "term", {"iri": iri}
        yield "thresholds.html", "thresholds", {}
        for page, kinds in self.lists.items():
            yield page, "list", {"kinds": kinds, "lead": _LISTS[page]}
        yield "codes.html", "codes", {}
        yield "queries.html", "queries", {}
        yield "glossary.html", "glossary", {}
        yield "a-z.html", "a-z", {}

    def _index(self) -> str:
        """What the search box looks through: label, kind, place, other names, definition."""
        guide = self.guide
        entries = []
        for iri in guide.placed():
            codes = [code for item in guide.cg(iri, "hasCode") for code in guide.values(item, SKOS["notation"])]
            names = " ".join([local_name(iri), *guide.values(iri, SKOS["altLabel"]), *codes])
            entries.append([guide.name(iri), guide.kind(iri), guide.href(iri), names, guide.definition(iri)])
        for name, query in self.queries.items():
            entries.append([query["summary"], "Query", f"queries.html#query-{name}", name, query["description"]])
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        return f"const SEARCH_INDEX = [\n{lines}\n];\n"


def _queries() -> dict[str, dict[str, str]]:
    """The queries that come with the knowledge base, by name, with what their headers say and their text."""
    found = {}
    for file in sorted((HOME / "queries" / "ask").glob("*.rq")):
        text = file.read_text(encoding="utf-8")
        head = {"summary": file.stem, "description": "", "tags": "", "asks": "knowledge"} | ask.header(text)
        found[file.stem] = {**head, "tags": head["tags"].strip("[]"), "text": text}
    return found
