"""Find the two sides of a comparison: a root ontology, a folder, or a revision in git; and load each with its own logic.

A revision is unpacked by `git archive` into a temporary folder; the work tree, the index and the repository stay as they are.
"""

from __future__ import annotations

import difflib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyoxigraph as ox

from kbtool.api import KnowledgeBase
from kbtool.criteria import CriterionError
from kbtool.knowledge import HOME, Knowledge, KnowledgeError, catalog
from kbtool.shapes import UnsupportedShape

ROOT = "ontology/kb.ttl"
"""Where the root ontology is in a project."""

LOGIC = ("shapes/facts.ttl", "queries/prepare", "queries/derive")
"""What decides about patients beside the ontology: the shapes that facts must meet, and the steps that derive."""

_FOLDERS = ("ontology", "shapes", "queries")
_MOST_LINES = 40


class DiffError(Exception):
    """The two sides cannot be compared. The message says which, why, and what to do."""


@dataclass(frozen=True)
class Side:
    """One of the two knowledge bases.

    given: as on the command line. what: for a reader, a revision with its commit. home: the folder whose shapes/ and
    queries/ are used; own_logic: whether that is the side's own and not the one that comes with kbtool. borrowed: the modules
    (ontology IRIs) that the side imports and does not hold, so that those that come with kbtool were read.
    """

    given: str
    what: str
    home: Path
    own_logic: bool
    borrowed: frozenset[str]
    kb: KnowledgeBase


@dataclass(frozen=True)
class LogicChange:
    """A file of shapes/ or queries/ that differs. decides: whether advice can change by it. change: added, removed, changed.
    lines: of a changed file what goes (-) and comes (+), with the lines around."""

    file: str
    change: str
    decides: bool
    lines: tuple[str, ...] = ()


@contextmanager
def both(old: str, new: str, folder: Path | None = None) -> Iterator[tuple[Side, Side]]:
    """Load the two sides; what had to be unpacked is deleted at the end.

    folder: where paths and git start from, by default the current folder. Raises DiffError.
    """
    for given, side in ((old, "OLD"), (new, "NEW")):
        if not given.strip():
            raise DiffError(f"{side} is empty (a variable that is not set?); name a root ontology, a folder or a revision in git")
    here = folder or Path.cwd()
    with tempfile.TemporaryDirectory(prefix="kbtool-diff-") as scratch:
        places = [_place(given, other, here, Path(scratch) / name) for given, other, name in ((old, new, "o"), (new, old, "n"))]
        yield places[0].load(), places[1].load()


def logic_changes(old: Side, new: Side) -> list[LogicChange]:
    """The files of shapes/ and queries/ that differ in more than comments and spacing; first those that decide about patients.

    A side that has them where the other uses those of kbtool differs by that alone: the next kbtool may bring others.
    """
    if old.home == new.home:
        return []
    moved = (
        [] if old.own_logic == new.own_logic else [LogicChange(", ".join(LOGIC), "removed" if old.own_logic else "added", True)]
    )
    files = [{str(f.relative_to(side.home)): f for f in _logic_files(side.home)} for side in (old, new)]
    found = []
    for name in sorted(files[0].keys() | files[1].keys()):
        before, after = files[0].get(name), files[1].get(name)
        if before and after and _content(before) == _content(after):
            continue
        change = "changed" if before and after else "removed" if before else "added"
        lines = _lines(before, after) if before and after else ()
        found.append(LogicChange(name, change, name.startswith(LOGIC), lines))
    return moved + sorted(found, key=lambda each: (not each.decides, each.file))


def _lines(before: Path, after: Path) -> tuple[str, ...]:
    """What goes and comes between two texts."""
    old, new = (file.read_text(encoding="utf-8", errors="replace").splitlines() for file in (before, after))
    lines = list(difflib.unified_diff(old, new, n=2, lineterm=""))[2:]
    more = [f" ... and {len(lines) - _MOST_LINES} more lines"] if len(lines) > _MOST_LINES else []
    return (*lines[:_MOST_LINES], *more)


@dataclass(frozen=True)
class _Place:
    """A root ontology on disk. unpacked: the temporary folder of a revision, which no message may name."""

    given: str
    what: str
    root: Path
    unpacked: Path | None = None

    def load(self) -> Side:
        home = self.root.resolve().parent.parent
        lacking = [part for part in LOGIC if self.root.parent.name != "ontology" or not (home / part).exists()]
        if lacking and len(lacking) < len(LOGIC):
            raise DiffError(
                f"{self.what}: {', '.join(lacking)} is not there beside {', '.join(p for p in LOGIC if p not in lacking)}; "
                "what decides about patients is taken whole from a project, or whole from kbtool where a project has none of it"
            )
        home = HOME if lacking else home
        try:
            knowledge = Knowledge.load(self.root, home)
        except (KnowledgeError, CriterionError, UnsupportedShape, OSError) as error:
            raise DiffError(f"{self.what}: {self._said(error)}") from error
        except (StopIteration, KeyError, ValueError, SyntaxError) as error:
            raise DiffError(
                f"{self.what}: this kbtool cannot load its shapes and queries ({self._said(error) or type(error).__name__}); "
                "compare with the kbtool of that time"
            ) from error
        for name, run in _logic(knowledge):
            try:
                run()
            except (SyntaxError, ValueError) as error:
                where = self._said(error).partition(": expected")[0]
                raise DiffError(f"{self.what}: {name} is no SPARQL that could run: {where}") from error
        own = {self.root, *catalog(self.root.parent).values()}
        borrowed = frozenset(iri for iri, file in knowledge.modules.items() if file not in own)
        return Side(self.given, self.what, home, not lacking, borrowed, KnowledgeBase(knowledge))

    def _said(self, error: Exception) -> str:
        return str(error).replace(f"{self.unpacked}/", "") if self.unpacked else str(error)


def _logic(knowledge: Knowledge) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each step and each shape, by name, and what runs it on nothing."""
    nothing = ox.Store()
    for step in knowledge.steps:
        yield f"queries/{step.name}", partial(nothing.update, step.update)
    for shape in knowledge.shapes:
        yield f"shapes/facts.ttl, {shape.shape}", partial(nothing.query, shape.query)


def _place(given: str, other: str, here: Path, scratch: Path) -> _Place:
    path = here / given
    if path.is_file():
        return _Place(given, given, path)
    if path.is_dir():
        for root in (path / ROOT, path / "kb.ttl"):
            if root.is_file():
                return _Place(given, given, root)
        raise DiffError(f"{given}: this folder holds no {ROOT}; name the root ontology itself")
    return _unpacked(given, here / other, here, scratch)


# --- Git -------------------------------------------------------------------------------------------------


def _unpacked(given: str, other: Path, here: Path, scratch: Path) -> _Place:
    """A revision, unpacked: `REVISION`, or `REVISION:PATH` with the path of the root ontology in the repository."""
    if shutil.which("git") is None:
        raise DiffError(f"{given}: no such file or folder; were it a revision, git would be needed, which is not installed")
    top, commit = _commit(
        given.partition(":")[0], given, [here, *([other if other.is_dir() else other.parent] if other.exists() else [])]
    )
    root = next(
        (path for path in _roots(given, other, here, top) if _git(top, "cat-file", "-e", f"{commit}:{path}") is not None), ""
    )
    if not root:
        raise DiffError(f"{given}: this revision holds no {ROOT}; write REVISION:PATH with the path of the root ontology")
    project = Path(root).parent.parent.as_posix() if root.endswith(ROOT) else None
    inside = [(Path(project) / folder).as_posix() for folder in _FOLDERS] if project else []
    wanted = [path for path in inside if _git(top, "cat-file", "-e", f"{commit}:{path}") is not None]
    data = _git(top, "archive", "--format=tar", commit, "--", *wanted)
    if data is None:
        raise DiffError(f"{given}: git cannot unpack this revision")
    scratch.mkdir()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(scratch, filter="data")
    if not (scratch / root).is_file():
        raise DiffError(f"{given}: git leaves {root} out of archives (export-ignore in .gitattributes); check the revision out")
    return _Place(given, f"{given} (commit {commit[:9]})", scratch / root, scratch)


def _commit(revision: str, given: str, folders: list[Path]) -> tuple[Path, str]:
    """The top of the repository and the commit that a revision names."""
    tops = []
    for folder in folders:
        printed = _git(folder, "rev-parse", "--show-toplevel")
        if printed is None:
            continue
        top = Path(printed.decode().strip())
        tops.append(top)
        named = _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if revision and named:
            return top, named.decode().strip()
    where = f"no revision in the git repository {tops[0]}" if tops else "this is no git repository that could hold a revision"
    raise DiffError(f"{given}: no such file or folder, and {where}")


def _roots(given: str, other: Path, here: Path, top: Path) -> Iterator[str]:
    """Where the root ontology may be in a revision: as it is said, where it is on the other side, here, at the top."""
    said = given.partition(":")[2]
    if said:
        yield said
        return
    for path in (other, other / ROOT, other / "kb.ttl", here / ROOT):
        if path.is_file() and path.resolve().is_relative_to(top.resolve()):
            yield path.resolve().relative_to(top.resolve()).as_posix()
    if here.resolve().is_relative_to(top.resolve()):
        yield (here.resolve().relative_to(top.resolve()) / ROOT).as_posix()
    yield ROOT


def _git(folder: Path, *words: str) -> bytes | None:
    """What git prints, or None where it fails."""
    run = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False)  # noqa: S603, S607
    return run.stdout if run.returncode == 0 else None


# --- Shapes and queries ----------------------------------------------------------------------------------

_COMMENT = re.compile(r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|<[^<>\s]*>)|#[^\n]*""")


def _logic_files(home: Path) -> list[Path]:
    return [
        f for folder in ("shapes", "queries") for f in sorted((home / folder).rglob("*")) if f.suffix in (".ttl", ".ru", ".rq")
    ]


def _content(file: Path) -> object:
    """What a file says, whatever its comments, spacing and names of blank nodes."""
    data = file.read_bytes()
    if file.suffix == ".ttl":
        try:
            found = ox.Dataset(ox.parse(data, ox.RdfFormat.TURTLE))
        except SyntaxError:
            return data
        found.canonicalize(ox.CanonicalizationAlgorithm.RDFC_1_0)
        return frozenset(found)
    return " ".join(_COMMENT.sub(lambda m: m[1] or " ", data.decode("utf-8", "replace")).split())
