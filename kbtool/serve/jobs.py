"""What is done for a client, each in a child of the keeper: query, assess, validate, explain.

A job gets parameters and bytes and gives a reply; it keeps nothing, and stores and logs nothing of a patient.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, wraps
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pyoxigraph as ox

from kbtool import engine, fhir, hooks
from kbtool.answer import statement_texts
from kbtool.api import KnowledgeBase, Result, document
from kbtool.explain import NoSuchRuleError, explained, explainers
from kbtool.explain_text import render as render_why
from kbtool.facts import FORMAT_NAMES, Facts, FactsError, Reader, sources
from kbtool.fhir import write
from kbtool.json_text import JsonError, parsed
from kbtool.namespaces import text as text_of
from kbtool.report import render as render_page
from kbtool.report import templates
from kbtool.serve import dataset, sparql
from kbtool.serve.keeper import Job, Json, Reply, Request
from kbtool.serve.negotiate import chosen, packed
from kbtool.serve.problem import Problem
from kbtool.text import render

INPUTS = {
    "text/turtle": "turtle",
    "application/n-triples": "n-triples",
    "application/ld+json": "json-ld",
    "application/rdf+xml": "rdf-xml",
    "application/fhir+json": "fhir",
    "application/fhir+ndjson": "fhir",
    "application/x-ndjson": "fhir",
}
"""The format of facts by media type. For another type the format is told by the first characters."""

_TOLD = 5
"""How many of the facts that were not accepted an error names."""

_PLAIN = {"application/json", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded", ""}


@dataclass
class Answers:
    """Facts of patients, as of a time, to be answered in one of several formats."""

    kb: KnowledgeBase
    facts: Facts
    as_of: ox.Literal
    strict: bool = False
    explain: bool = False

    def result(self) -> Result:
        """The answers, as the Python interface gives them."""
        assess = explained if self.explain else engine.assess
        found = {r.patient: r for r in assess(self.kb.knowledge, self.facts, self.as_of, strict=self.strict)}
        return Result(self.kb.about, self.as_of.value, found, self.facts.strays)

    def document(self) -> Json:
        """The answers in the schema of `kbtool assess --format json`."""
        result = self.result()
        return document(result.kb, result.as_of, [p.data for p in result.patients.values()], result.unassigned)

    def json(self) -> bytes:
        """Answers as JSON."""
        return _json(self.document())

    def turtle(self) -> bytes:
        """Answers as a graph."""
        triples = {quad.triple for result in self.result().patients.values() for quad in result.triples}
        prefixes = self.kb.knowledge.prefixes
        return ox.serialize(sorted(triples, key=str), format=ox.RdfFormat.TURTLE, prefixes=prefixes) or b""

    def html(self) -> bytes:
        """Answers as one page."""
        knowledge = self.kb.knowledge
        found = explainers(knowledge, self.facts, self.as_of, strict=self.strict)
        return "".join(render_page(knowledge, found, self.as_of.value, self.kb.about, self.facts.strays)).encode()

    def text(self) -> bytes:
        """Answers as text."""
        knowledge = self.kb.knowledge
        return (render(self.document(), knowledge.labels_by_name, statement_texts(knowledge)) + "\n").encode()

    def fhir(self) -> bytes:
        """Answers as a FHIR Bundle."""
        return _json(write.bundle(self.kb, self.result()))


ANSWERS: dict[str, Callable[[Answers], bytes]] = {
    "application/json": Answers.json,
    "text/turtle": Answers.turtle,
    "text/html": Answers.html,
    "text/plain": Answers.text,
    "application/fhir+json": Answers.fhir,
}
"""The media types of answers."""


def _told(job: Callable[[Service, Request], Reply]) -> Callable[[Service, Request], Reply]:
    """A job whose expected errors are told to the client, and whose answer is compressed where that pays."""

    @wraps(job)
    def guarded(service: Service, request: Request) -> Reply:
        try:
            reply = job(service, request)
        except Problem as problem:
            return problem.reply()
        except (FactsError, engine.AsOfError) as error:
            return Problem(400, str(error).removeprefix("<bytes>: ")).reply()
        except RecursionError:
            return Problem(400, "It is nested too deeply.").reply()
        return packed(reply, request.parameters.get("encodings"))

    return guarded


@dataclass
class Service:
    """What the keeper holds: the knowledge base, and where there are facts that stay, those with what is derived from them.

    folder: of the facts that stay. refused: what of them was not accepted, a line each.
    """

    kb: KnowledgeBase
    folder: Path | None = None
    max_rows: int = 100_000
    max_bytes: int = 2**25
    as_of: str | None = None
    stored: Facts | None = None
    moment: ox.Literal | None = None
    private: ox.Store | None = None
    refused: list[str] = field(default_factory=list)

    def jobs(self) -> dict[str, Job]:
        """Every job by name."""
        named = (
            Service.query,
            Service.query_facts,
            Service.assess,
            Service.assess_stored,
            Service.stored_patients,
            Service.validate,
            Service.explain,
            Service.explain_stored,
            Service.hook,
            Service.site,
        )
        return {job.__name__: job.__get__(self) for job in named}

    @cached_property
    def public(self) -> ox.Store:
        """The dataset without any fact."""
        return dataset.of_knowledge(self.kb.knowledge)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many triples there are in each named graph of it."""
        graphs = self.public.named_graphs()
        return {str(graph.value): sum(1 for _ in self.public.quads_for_pattern(None, None, None, graph)) for graph in graphs}

    def load(self) -> None:
        """Read the facts that stay, and derive. Raises FactsError and AsOfError."""
        if self.folder is None:
            return
        reader = Reader()
        for name, data, kind in sources([self.folder]):
            reader.add(name, data, kind)
        self.stored = reader.facts(self.kb.knowledge.graph)
        self.moment = engine.parse_as_of(self.as_of)
        self.private = dataset.of_knowledge(self.kb.knowledge)
        self.refused = dataset.add_facts(self.private, self.kb, self.stored, self.moment)

    def warm(self) -> None:
        """Fill every cache before children are forked: they can open no file and would each work it out anew."""
        for package in (fhir, hooks):
            for module in iter_modules(package.__path__, package.__name__ + "."):
                import_module(module.name)
        templates()
        _ = self.sizes
        hooks.discovery(self.kb)
        nobody = b"<urn:nobody> a <https://w3id.org/kbtool/cg/Patient> ."
        crowd = b"".join(nobody.replace(b"nobody", b"nobody:%d" % number) for number in range(engine.WORTHWHILE))
        Service.assess(self, Request({"accept": "text/turtle"}, crowd))  # after so many the engine plans how to work set by set
        for accept in ANSWERS:
            parameters = {"accept": accept, "explain": accept == "application/json", "encodings": "gzip"}
            Service.assess(self, Request(parameters, nobody))
        Service.validate(self, Request({}, nobody))
        for query in (
            "SELECT * { ?s ?p 1 }",
            "CONSTRUCT WHERE { ?s ?p 1 }",
            "SELEC",
            "CONSTRUCT { <s> <p> 1 } {}",
            "ASK { a:b a 1 }",
        ):
            self.look_up(query)

    def look_up(self, query: str = "SELECT * { ?s ?p 1 }") -> Reply:
        """Answer a query from the knowledge; also what a child does to prepare itself."""
        asked = {"method": "POST", "asked": "", "type": "application/sparql-query", "accept": None}
        return Service.query(self, Request(asked, query.encode()))

    @_told
    def query(self, request: Request) -> Reply:
        """Answer a request to the SPARQL endpoint. parameters: method, asked (the query string), type (media type of the body),
        accept, endpoint (its IRI), private (whether facts may be seen)."""
        asked = request.parameters
        store = self.private if asked.get("private") and self.private is not None else self.public
        query = sparql.from_request(asked["method"], asked["asked"].encode("latin-1"), asked.get("type"), request.body)
        return self._answer(store, query, asked.get("accept"), asked.get("endpoint"))

    @_told
    def query_facts(self, request: Request) -> Reply:
        """Answer a query over facts that come with it. The body is JSON: query, facts (a text), and perhaps format, asOf and
        partial: whether an answer is wanted although some facts are not accepted, which the rows would not tell."""
        asked = _object(request.body)
        text, facts, kind, as_of = (asked.get(name) for name in ("query", "facts", "format", "asOf"))
        if not isinstance(text, str) or not isinstance(facts, str):
            raise Problem(400, "Send a JSON object with the texts `query` and `facts`; `format`, `asOf`, `partial` may follow.")
        read = self._read(facts.encode("utf-8", errors="replace"), INPUTS.get(str(kind), str(kind)) if kind else None)
        store = self.public
        told = dataset.add_facts(store, self.kb, read, _moment(as_of))
        if told and asked.get("partial") is not True:
            shown = "; ".join(told[:_TOLD]) + (f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else "")
            raise Problem(422, f"Not all was accepted, which rows would not show (`partial`: true answers anyway). {shown}")
        return self._answer(store, sparql.Query(text), request.parameters.get("accept"))

    def _answer(self, store: ox.Store, query: sparql.Query, accept: str | None, base: str | None = None) -> Reply:
        prefixes = self.kb.knowledge.prefixes
        return sparql.answer(store, query, accept, prefixes, base=base, max_rows=self.max_rows, max_bytes=self.max_bytes)

    @_told
    def assess(self, request: Request) -> Reply:
        """Assess the patients in the body. parameters: type (media type of the body), accept, as_of, strict, explain."""
        asked = request.parameters
        read = self._read(request.body, _format(asked.get("type")))
        return self._assessed(read, _moment(asked.get("as_of")), asked)

    @_told
    def assess_stored(self, request: Request) -> Reply:
        """Assess patients whose facts stay here. The body is JSON, a list of their IRIs; an empty body means all."""
        return self._assessed(self._kept(request.body), _moment(request.parameters.get("as_of")), request.parameters)

    @_told
    def stored_patients(self, request: Request) -> Reply:  # noqa: ARG002
        """The patients whose facts stay here, when they were read, and what of them was not accepted."""
        iris = sorted(record.patient.value for group in (self.stored.groups if self.stored else ()) for record in group)
        moment = self.moment.value if self.moment is not None else None
        return _as_json({"asOf": moment, "patients": iris, "notAccepted": self.refused})

    @_told
    def explain_stored(self, request: Request) -> Reply:
        """Say why a rule speaks or not of patients whose facts stay here. The body is as of `assess_stored`."""
        return self._explained(self._kept(request.body), request.parameters)

    def _kept(self, wanting: bytes) -> Facts:
        """The facts that stay of the patients whose IRIs a JSON list names; without one, of all."""
        if self.stored is None:
            raise Problem(404, "No facts are kept here; send them to /assess.")
        wanted = None
        if wanting.strip():
            wanted = _parsed(wanting)
            if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
                raise Problem(400, "Send a JSON list of the IRIs of patients.")
        known = {str(record.patient.value): group for group in self.stored.groups for record in group}
        unknown = [iri for iri in wanted or () if iri not in known]
        if unknown:
            raise Problem(404, f"{len(unknown)} of these patients are not here; GET /patients lists those that are.")
        groups = self.stored.groups if wanted is None else list({id(known[iri]): known[iri] for iri in wanted}.values())
        strays = self.stored.strays if wanted is None else []
        return Facts(groups, strays)

    def _assessed(self, facts: Facts, moment: ox.Literal, asked: Json) -> Reply:
        media, write = chosen(asked.get("accept"), ANSWERS)
        answers = Answers(self.kb, facts, moment, bool(asked.get("strict")), bool(asked.get("explain")))
        charset = "; charset=utf-8" if media.startswith("text/") else ""
        return Reply(
            200, {"content-type": media + charset, "cache-control": "no-store", "vary": "Accept, Accept-Encoding"}, write(answers)
        )

    @_told
    def validate(self, request: Request) -> Reply:
        """Say what is wrong with the facts in the body, without deriving anything. parameters: type, as_of."""
        read = self._read(request.body, _format(request.parameters.get("type")))
        moment = _moment(request.parameters.get("as_of"))
        found: list[Json] = []
        for batch in engine.batches(read):
            checked = engine.check(engine.load_store(self.kb.knowledge, batch, moment), self.kb.knowledge, batch)
            for kind in ("refused", "set_aside", "warnings"):
                for patient, violations in getattr(checked, kind).items():
                    found += [
                        {
                            "patient": patient.removeprefix("<").removesuffix(">"),
                            "effect": {"refused": "refused", "set_aside": "setAside", "warnings": "warning"}[kind],
                            "focus": str(violation.focus.value),
                            "message": violation.message,
                        }
                        for violation in violations
                    ]
        records = [record for group in read.groups for record in group]
        unread = [{"patient": text_of(record.patient), **entry} for record in records for entry in record.not_read]
        sound = all(each["effect"] == "warning" for each in found) and not any(entry["matters"] for entry in unread)
        answer = {"conforms": sound and not read.strays, "patients": len(read), "violations": found}
        return _as_json(answer | {"notRead": unread, "unassigned": read.strays})

    @_told
    def explain(self, request: Request) -> Reply:
        """Say of each patient in the body why a rule speaks or not. parameters: rule, type, accept, as_of."""
        return self._explained(self._read(request.body, _format(request.parameters.get("type"))), request.parameters)

    def _explained(self, facts: Facts, asked: Json) -> Reply:
        if not asked.get("rule"):
            raise Problem(400, "Name a rule, as in /explain?rule=NAME.")
        media, _ = chosen(asked.get("accept"), dict.fromkeys(("application/json", "text/plain")))
        moment = _moment(asked.get("as_of"))
        found: list[tuple[str, list[Json], Json | None]] = []
        for explainer in explainers(self.kb.knowledge, facts, moment):
            try:
                said = None if explainer.result.refused else explainer.explain(asked["rule"])
            except NoSuchRuleError as error:
                raise Problem(404, str(error)) from None
            found.append((explainer.result.patient, explainer.result.refused, said))
        if media == "application/json":
            patients = [{"patient": name, "refused": refused, "explanation": said} for name, refused, said in found]
            return _as_json({"kb": self.kb.about, "asOf": moment.value, "patients": patients})
        labels = self.kb.knowledge.labels_by_name
        lines = [render_why(name, said, labels) if said else f"{name}: refused\n" for name, _, said in found]
        headers = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
        return Reply(200, headers, "\n".join(lines).encode())

    @_told
    def hook(self, request: Request) -> Reply:
        """Answer a CDS Hooks service. parameters: service, feedback (whether it is feedback to it)."""
        asked = request.parameters
        if asked.get("feedback"):
            status, body = hooks.feedback(self.kb, asked["service"], request.body)
        else:
            status, body = hooks.call(self.kb, asked["service"], request.body, now=datetime.now(UTC))
        return Reply(status, {"content-type": "application/json", "cache-control": "no-store"}, _json(body))

    def site(self, request: Request) -> Reply:  # noqa: ARG002
        """The guideline as a web site: a JSON object of its files. Opens files."""
        from kbtool.docs import site_files

        return _as_json(site_files(self.kb))

    def _read(self, data: bytes, kind: str | None) -> Facts:
        if kind is not None and kind not in FORMAT_NAMES:
            raise Problem(415, f"Facts of the type {kind} are not read; there is {', '.join(INPUTS)}.")
        read = self.kb.read(data, format=kind)
        if not len(read) and not read.strays:
            raise Problem(422, "There is no patient in the facts; a patient is an IRI with `a cg:Patient`.")
        return read


def _format(content_type: str | None) -> str | None:
    media = (content_type or "").split(";")[0].strip().lower()
    return None if media in _PLAIN else INPUTS.get(media, media)


def _moment(as_of: Any) -> ox.Literal:
    try:
        return engine.parse_as_of(None if as_of in (None, "") else str(as_of))
    except engine.AsOfError as error:
        hint = "; in an address + is written %2B" if " " in str(as_of) else ""
        raise engine.AsOfError(f"{error}{hint}") from None


def _parsed(data: bytes) -> Any:
    try:
        return parsed(data)
    except JsonError as error:
        raise Problem(400, f"The body cannot be read: {error}") from None


def _object(data: bytes) -> Json:
    found = _parsed(data)
    if not isinstance(found, dict):
        raise Problem(400, "The body is not a JSON object.")
    return found


def _as_json(document: Json) -> Reply:
    return Reply(200, {"content-type": "application/json", "cache-control": "no-store"}, _json(document))


def _json(document: Json) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="replace")
