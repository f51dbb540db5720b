"""The HTTP service: what each address answers. Every request is worked on in a child of the keeper, never here."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import mimetypes
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from kbtool.serve import describe, flow, openapi, sparql
from kbtool.serve.guard import Guard
from kbtool.serve.jobs import Service
from kbtool.serve.keeper import JobEndedError, Json, Keeper, Limits, Reply
from kbtool.serve.metrics import Metrics
from kbtool.serve.negotiate import chosen
from kbtool.serve.problem import REASONS, Problem
from kbtool.serve.workbench import Workbench

Endpoint = Callable[[Request], Awaitable[Response]]

_AGAIN = {"query": "query"} | dict.fromkeys(("assess", "validate", "explain", "hook"), "patient")
"""The jobs after which a child may do another one of the same kind: they change nothing that they inherit. No child in which
facts were read that somebody sent is given a query of somebody else."""


@dataclass(frozen=True)
class Settings:
    """How the service is run.

    seconds, memory (MB): of one request. body: the largest request body, in MB. waiting: seconds in which a body must have
    arrived. at_once: requests worked on at the same time; others wait. refresh: seconds after which facts that stay are
    read anew. token: needed to see facts that stay. origins: pages of these origins may call every address. hosts: names
    by which the service may be called, besides addresses and localhost. url: the address by which clients know the service;
    public: the same where it was given, and not only guessed.
    """

    url: str
    seconds: float = 10
    memory: int = 512
    body: int = 16
    waiting: float = 30
    at_once: int = 16
    refresh: float = 60
    token: str | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    clients: Any = None
    public: str | None = None
    quiet: bool = False


@dataclass
class Server:
    """The service. root: the keeper that was started; facts that stay are read anew in copies of it."""

    service: Service
    root: Keeper
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.keeper = self.root
        self.stale = self.broken = False
        self.held = flow.Held()
        self.slots = asyncio.Semaphore(self.settings.at_once)
        self.workbench = Workbench(self.service.kb, facts=self.service.folder is not None)
        self._site: dict[str, str] = {}
        self._making = asyncio.Lock()

    def app(self) -> Starlette:
        """The ASGI application."""
        anybody = [Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"], allow_headers=["*"])]
        allowed = list(self.settings.origins)
        known = [Middleware(CORSMiddleware, allow_origins=allowed, allow_methods=["GET", "POST"], allow_headers=["*"])]
        read, send, both = ["GET"], ["POST", "OPTIONS"], ["GET", "OPTIONS"]
        routes = [
            Route("/", self.workbench.page, methods=read),
            Route("/assets/{name}", self.workbench.asset, methods=read),
            Route("/guideline/{path:path}", self.guideline, methods=read),
            Route("/examples", self.workbench.examples, methods=read),
            Route("/examples/{name}", self.workbench.example, methods=read),
            Route("/sparql", self.sparql, methods=[*both, "POST"], middleware=anybody),
            Route("/sparql/", self.sparql, methods=[*both, "POST"], middleware=anybody),
            Route("/.well-known/sparql-examples", self.sparql_examples, methods=read, middleware=anybody),
            Route("/.well-known/void", self.description, methods=read, middleware=anybody),
            Route("/query", self.job("query_facts"), methods=send, middleware=known),
            Route("/assess", self.job("assess"), methods=send, middleware=known),
            Route("/validate", self.job("validate"), methods=send, middleware=known),
            Route("/explain", self.job("explain"), methods=send, middleware=known),
            Route("/patients", self.private("stored_patients", "GET"), methods=both, middleware=known),
            Route("/patients/assess", self.private("assess_stored", "POST"), methods=send, middleware=known),
            Route("/patients/explain", self.private("explain_stored", "POST"), methods=send, middleware=known),
            Route("/cds-services", self.discovery, methods=both, middleware=known),
            Route("/cds-services/{service}", self.hook, methods=send, middleware=known),
            Route("/cds-services/{service}/feedback", self.hook, methods=send, middleware=known),
            Route("/kb", self.kb, methods=read, middleware=anybody),
            Route("/health", self.health, methods=read),
            Route("/metrics", self.measured, methods=read),
            Route("/openapi.json", self.openapi, methods=read, middleware=anybody),
        ]
        return Starlette(
            routes=routes,
            lifespan=self.lifespan,
            middleware=[
                Middleware(
                    Guard,
                    metrics=self.metrics,
                    hosts=self.settings.hosts,
                    origins=self.settings.origins,
                    quiet=self.settings.quiet,
                )
            ],
            exception_handlers={Problem: _problem, HTTPException: _http, ClientDisconnect: _gone},  # type: ignore[dict-item]
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Listen to the keeper, keep the facts fresh, and end the keeper with the server, and the server with the keeper."""
        asyncio.get_running_loop().set_exception_handler(_noted)
        self.root.attach()
        tasks = {asyncio.create_task(self.watch())}
        if self.service.folder is not None:
            tasks.add(asyncio.create_task(self.refresh()))
        yield
        for task in tasks:
            task.cancel()
        for keeper in {self.keeper, self.root}:
            keeper.close()

    async def watch(self) -> None:
        """End the service when the keeper has ended, for nothing can be answered then."""
        while not self.broken:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.keeper.lost.wait(), 1)
            self.broken = self.keeper.lost.is_set()
        sys.stderr.write("kbtool: the process that does the work has ended, and so does the service\n")
        signal.raise_signal(signal.SIGTERM)

    async def refresh(self) -> None:
        """Read the facts that stay anew, again and again: they change, and what is derived from them grows old."""
        while True:
            await asyncio.sleep(self.settings.refresh)
            reading = asyncio.ensure_future(self.root.renewed())
            try:
                done, _ = await asyncio.wait({reading}, timeout=max(60, self.settings.refresh))
                self.stale = self.stale or not done
                fresh = await reading
            except Exception:  # whatever it is, old answers are not given as new ones
                self.stale = True
                continue
            old, self.keeper, self.stale = self.keeper, fresh, False
            if old is not self.root:
                while old.busy:
                    await asyncio.sleep(0.1)
                old.close()

    # What runs in a child

    async def run(self, request: Request, job: str, parameters: Json, body: bytes = b"", *, files: bool = False) -> Reply:
        """Run a job for a request; a client that goes away ends it. Raises Problem where it was ended or must wait too long."""
        settings = self.settings
        parameters = {"accept": _accepted(request), "encodings": request.headers.get("accept-encoding")} | parameters
        try:
            async with asyncio.timeout(settings.seconds):
                await self.slots.acquire()
        except TimeoutError:
            raise Problem(503, "Too much is being asked at once; try again.", {"retry-after": "5"}) from None
        try:
            limits = Limits(settings.seconds, settings.memory * 2**20, files, _AGAIN.get(job, ""))
            working = asyncio.ensure_future(self.keeper.run(job, parameters, body, limits))
            leaving = asyncio.ensure_future(_left(request))
            try:
                await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    raise ClientDisconnect
                reply = working.result()
                if reply.status == 500:
                    raise Problem(500, "A defect of this service; it was noted.")
                return reply
            finally:
                leaving.cancel()
                working.cancel()
        except JobEndedError as ended:
            self.metrics.ended(ended.reason)
            status, words = REASONS[ended.reason]
            again = {"retry-after": "5"} if ended.reason == "lost" else {}
            raise Problem(status, words.format(seconds=settings.seconds, memory=settings.memory), again) from None
        finally:
            self.slots.release()

    async def answered(self, request: Request, job: str, parameters: Json) -> Response:
        """The answer of a job to a request and its body. Raises Problem."""
        settings = self.settings
        body = await flow.body(request, self.held, megabytes=settings.body, seconds=settings.waiting)
        try:
            reply = await self.run(request, job, parameters, body)
        finally:
            self.held.free(len(body))
        return flow.Answer(reply, self.held, seconds=2 * settings.waiting)

    def job(self, name: str, method: str = "POST") -> Endpoint:
        """An address whose body goes to a job."""

        async def answer(request: Request) -> Response:
            if request.method == "OPTIONS":
                return _allowed(method)
            asked = request.query_params
            parameters = {
                "type": request.headers.get("content-type"),
                "as_of": asked.get("asOf"),
                "rule": asked.get("rule"),
                "strict": asked.get("strict") in ("true", "1"),
                "explain": asked.get("explain") in ("true", "1"),
            }
            return await self.answered(request, name, parameters)

        return answer

    def private(self, name: str, method: str) -> Endpoint:
        """An address that shows facts that stay."""
        answer = self.job(name, method)

        async def guarded(request: Request) -> Response:
            if self.service.folder is None:
                raise Problem(404, "No facts are kept here; send them to /assess.")
            self.authorise(request)
            return await answer(request)

        return guarded

    def authorise(self, request: Request) -> None:
        """Refuse a request that would show facts and does not bring the token. Raises Problem 401, 503."""
        if self.service.folder is None or request.method == "OPTIONS":
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        wanted = (self.settings.token or "").encode()
        if not wanted or scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "replace"), wanted):
            raise Problem(
                401,
                "Facts of patients are kept here; send the token as `Authorization: Bearer ...`.",
                {"www-authenticate": "Bearer"},
            )
        if self.stale:
            raise Problem(
                503, "The facts could not be read anew, and what was derived from them has grown old.", {"retry-after": "30"}
            )

    async def sparql(self, request: Request) -> Response:
        """The SPARQL endpoint; without a query, its description."""
        if request.method == "OPTIONS":
            return _allowed("GET, HEAD, POST")
        self.authorise(request)
        asked: bytes = request.scope["query_string"]
        if request.method != "POST" and not sparql.stated(asked):
            return await self.description(request)
        parameters = {
            "method": request.method,
            "asked": asked.decode("latin-1"),
            "type": request.headers.get("content-type"),
            "endpoint": f"{self.url(request)}/sparql",
            "private": True,
        }
        return await self.answered(request, "query", parameters)

    async def hook(self, request: Request) -> Response:
        """A CDS Hooks service, or feedback to it."""
        if request.method == "OPTIONS":
            return _allowed("POST")
        self.authenticate(request)
        feedback = request.url.path.endswith("/feedback")
        parameters = {"service": request.path_params["service"], "feedback": feedback}
        return await self.answered(request, "hook", parameters)

    def authenticate(self, request: Request) -> None:
        """Check the token of a CDS client, where clients are configured. Raises Problem 401."""
        if self.settings.clients is None:
            return
        from kbtool.hooks import auth

        try:
            audience = self.settings.url.rstrip("/") + request.url.path
            auth.check(request.headers.get("authorization"), self.settings.clients, audience, datetime.now(UTC))
        except auth.Unauthorised as error:
            raise Problem(401, error.reason, {"www-authenticate": "Bearer"}) from None

    async def guideline(self, request: Request) -> Response:
        """A page of the guideline as a web site, which is made when it is first asked for."""
        async with self._making:
            if not self._site:
                reply = await self.run(request, "site", {"encodings": None}, files=True)
                self._site = json.loads(reply.body)
        path = request.path_params["path"] or "index.html"
        if path not in self._site:
            raise Problem(404, f"There is no page {path}; start at /guideline/.")
        media = mimetypes.guess_type(path)[0] or "text/plain"
        return Response(self._site[path], media_type=media)

    # What is known without a child

    async def discovery(self, request: Request) -> Response:
        """The CDS Hooks services."""
        from kbtool import hooks

        if request.method == "OPTIONS":
            return _allowed("GET")
        self.authenticate(request)
        return _json(hooks.discovery(self.service.kb))

    async def description(self, request: Request) -> Response:
        """The SPARQL 1.1 service description of the endpoint."""
        path = request.url.path if request.url.path.startswith("/sparql") else "/sparql"
        return _graph(request, describe.service(self.service, self.url(request) + path), self.service.kb.knowledge.prefixes)

    async def sparql_examples(self, request: Request) -> Response:
        """The queries that come with the knowledge base, as SPARQL examples."""
        return _graph(request, describe.examples(self.service.kb, self.url(request) + "/sparql"), describe.PREFIXES)

    async def kb(self, _: Request) -> Response:
        """Which knowledge base answers."""
        return _json(describe.knowledge(self.service.kb))

    async def health(self, request: Request) -> Response:
        """Whether a query is answered, and facts that stay are fresh."""
        with contextlib.suppress(Problem):
            asked = {"method": "GET", "asked": "query=ASK+%7B%7D", "accept": None, "encodings": None}
            reply = await self.run(request, "query", asked)
            if reply.status == 200 and not self.stale:
                return _json({"status": "ok"})
        return _json({"status": "stale" if self.stale else "failing"}, 503)

    async def measured(self, _: Request) -> Response:
        """Figures for Prometheus, none about a patient."""
        body, media = self.metrics.exposition(self.settings.at_once - self.slots._value)
        return Response(body, media_type=media)

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI description of this service."""
        worked = next(((name, each) for name, each in self.workbench.worked.items() if each.as_of), None)
        patient = (worked[0], worked[1].file.read_text(encoding="utf-8"), worked[1].as_of) if worked else None
        return _json(
            openapi.description(self.service.kb, self.url(request), facts=self.service.folder is not None, patient=patient)
        )

    def url(self, request: Request) -> str:
        """The address under which the client called."""
        return self.settings.public or f"{request.url.scheme}://{request.url.netloc}"


def _accepted(request: Request) -> str:
    return ",".join(request.headers.getlist("accept"))


def _noted(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of a defect in what nobody waits for; the exception itself may tell of a patient."""
    sys.stderr.write(f"kbtool: {context['message']}\n")


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(problem: Problem) -> Response:
    reply = problem.reply()
    return Response(reply.body, reply.status, reply.headers)


def _json(found: Json, status: int = 200) -> Response:
    return Response(json.dumps(found, ensure_ascii=False, indent=1).encode(), status, media_type="application/json")


def _graph(request: Request, triples: Any, prefixes: dict[str, str]) -> Response:
    media, body = describe.serialised(triples, *chosen(_accepted(request), sparql.GRAPHS), prefixes)
    return Response(body, media_type=media, headers={"vary": "Accept"})


def _allowed(methods: str) -> Response:
    return Response(status_code=204, headers={"allow": f"{methods}, OPTIONS"})


async def _problem(_: Request, problem: Problem) -> Response:
    return _response(problem)


async def _http(_: Request, error: HTTPException) -> Response:
    words = {404: "There is nothing at this address; see /openapi.json.", 405: "This method is not understood here."}
    headers = {name: ", ".join(sorted(value.split(", "))) for name, value in (error.headers or {}).items()}
    return _response(Problem(error.status_code, words.get(error.status_code, error.detail), headers))


async def _gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=499)
