"""The workbench: a page for people, with everything that it needs shipped along. It holds no patient."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import Response

import kbtool
from kbtool import ask, namespaces
from kbtool.answer import KINDS
from kbtool.api import KnowledgeBase
from kbtool.docs_guide import Guide
from kbtool.knowledge import HOME
from kbtool.namespaces import CG, DCTERMS, OWL, Namespace, local_name
from kbtool.serve import describe, editor
from kbtool.serve.negotiate import accepts_gzip
from kbtool.serve.problem import Problem

Json = dict[str, Any]

_STATIC = {
    "workbench.css": "text/css",
    "workbench.js": "text/javascript",
    "query.js": "text/javascript",
    "service.js": "text/javascript",
}
_PROPERTIES = ("ObjectProperty", "DatatypeProperty", "AnnotationProperty")
_ISOLATED = {"cross-origin-opener-policy": "same-origin"}
"""A page of another origin that opened the workbench keeps no hold on it."""


@dataclass(frozen=True)
class Example:
    """A worked patient: a file of facts, what it shows, and the time for which its answers are known."""

    file: Path
    description: str
    as_of: str | None


class Workbench:
    """The workbench of a knowledge base. facts: whether facts of patients are kept by the service."""

    def __init__(self, kb: KnowledgeBase, *, facts: bool = False) -> None:
        self.kb, self.facts = kb, facts
        self._sent: dict[str, tuple[str, bytes, bytes]] = {}
        self._making = asyncio.Lock()

    async def page(self, request: Request) -> Response:
        """The page itself."""
        return self._send(request, "", "text/html", self._page, _ISOLATED)

    async def asset(self, request: Request) -> Response:
        """A script, a style sheet or data of the page. Raises Problem 404, also where the query editor is not installed."""
        name = request.path_params["name"]
        made = {"workbench.json": self._setup, "terms.json": self._terms}
        if name in made:
            return self._send(request, name, "application/json", lambda: _json(made[name]()))
        if name in _STATIC:
            return self._send(request, name, _STATIC[name], lambda: (files("kbtool.serve") / "static" / name).read_bytes())
        if name not in editor.FILES:
            raise Problem(404, f"The workbench has no part of the name {name}.")
        async with self._making:
            if name not in self._sent:
                try:
                    found = await asyncio.to_thread(editor.files)
                except editor.EditorError as error:
                    raise Problem(404, str(error)) from None
                for each, body in found.items():
                    self._keep(each, editor.FILES[each], body)
        return self._send(request, name, editor.FILES[name], bytes)

    async def examples(self, request: Request) -> Response:
        """The worked patients: a JSON list of name, description and asOf."""
        listed = [{"name": name, "description": e.description, "asOf": e.as_of} for name, e in self.worked.items()]
        return self._send(request, "examples", "application/json", lambda: _json(listed))

    async def example(self, request: Request) -> Response:
        """The facts of a worked patient as Turtle. Raises Problem 404."""
        found = self.worked.get(request.path_params["name"])
        if found is None:
            raise Problem(404, "There is no worked patient of this name; GET /examples lists them.")
        return Response(found.file.read_bytes(), media_type="text/turtle")

    @cached_property
    def worked(self) -> dict[str, Example]:
        """The worked patients by name: those in the folder patients beside the root ontology, or those of the shipped one."""
        root = next(iter(self.kb.knowledge.modules.values())).resolve()
        shipped = root == (HOME / "ontology" / "kb.ttl").resolve()
        folders = [root.parent / "patients", *([HOME / "patients", HOME / "tests" / "patients"] if shipped else [])]
        folder = next((each for each in folders if each.is_dir()), None)
        files = {file.stem: file for file in folder.glob("*.ttl")} if folder else {}
        return {name: _example(files[name]) for name in sorted(files)}

    def _page(self) -> bytes:
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("kbtool"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        page = environment.get_template("workbench.html")
        values = {"about": self.kb.about, "title": self._title, "facts": self.facts, "version": kbtool.__version__}
        return page.render(values, worked=bool(self.worked)).encode()

    @property
    def _title(self) -> str:
        knowledge = self.kb.knowledge
        return knowledge.value(knowledge.iri, DCTERMS["title"]) or knowledge.iri

    def _setup(self) -> Json:
        """What the scripts of the page have to know: prefixes, queries, graphs, rules, and whether there is an editor."""
        knowledge = self.kb.knowledge
        known = {name.lower(): each.iri for name, each in vars(namespaces).items() if isinstance(each, Namespace)}
        queries = [
            {"summary": name, "description": "", "asks": "knowledge"} | ask.header(text) | {"name": name, "text": text}
            for name, text in describe.queries().items()
        ]
        rules = [
            {"name": local_name(iri), "label": knowledge.labels.get(iri, local_name(iri)), "kind": kind}
            for kind in KINDS
            for iri in knowledge.instances(CG[kind])
        ]
        return {
            "facts": self.facts,
            "editor": editor.program() is not None,
            "prefixes": known | knowledge.prefixes,
            "queries": queries,
            "graphs": [{"iri": iri.value, "title": title} for iri, title in describe.graphs(knowledge, facts=True)],
            "rules": rules,
        }

    def _terms(self) -> Json:
        """The terms of the knowledge base: the page of each in the guideline, and which are classes and properties."""
        knowledge = self.kb.knowledge
        guide = Guide(knowledge)
        used = {quad.predicate.value for quad in knowledge.graph}
        stated = {iri for kind in _PROPERTIES for iri in knowledge.instances(OWL[kind])}
        return {
            "pages": {iri: guide.href(iri) for iri in guide.placed()},
            "classes": knowledge.instances(OWL["Class"]),
            "properties": sorted(stated | used),
        }

    def _keep(self, name: str, media: str, body: bytes) -> None:
        self._sent[name] = (media, body, gzip.compress(body, mtime=0))

    def _send(
        self, request: Request, name: str, media: str, make: Callable[[], bytes], headers: dict[str, str] | None = None
    ) -> Response:
        """Something that is the same for everybody, made once; a browser asks each time whether it has changed."""
        if name not in self._sent:
            self._keep(name, media, make())
        media, body, packed = self._sent[name]
        tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        about = {"etag": tag, "cache-control": "no-cache", "vary": "Accept-Encoding", **(headers or {})}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=about)
        if accepts_gzip(request.headers.get("accept-encoding")):
            return Response(packed, headers=about | {"content-encoding": "gzip"}, media_type=media)
        return Response(body, headers=about, media_type=media)


def _example(file: Path) -> Example:
    """A worked patient, with what is said of it in the file NAME.expected.json beside it, where there is one."""
    try:
        said = json.loads(file.with_suffix(".expected.json").read_text(encoding="utf-8"))
        return Example(file, str(said.get("description", "")), said.get("asOf"))
    except (OSError, ValueError, AttributeError):
        return Example(file, "", None)


def _json(found: Any) -> bytes:
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
