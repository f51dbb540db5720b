"""What every request passes: by which name it came, from which page, and what browsers are told about the answer."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kbtool.serve.keeper import place
from kbtool.serve.metrics import METHODS, Metrics
from kbtool.serve.problem import Problem

HEAD = 32 * 2**10
"""Bytes of the longest address and header fields."""

_LAST = {"connection": "close"}
_OPEN = ("/sparql", "/.well-known/", "/kb", "/openapi.json")
"""What a page of any origin may call: it shows the knowledge, which is public, or asks for the token."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "connect-src 'self'; frame-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
"""What a page of this service may load: nothing from elsewhere."""


class Guard:
    """ASGI middleware that refuses what a page of another origin sent, sets the headers that bind browsers, and keeps count.

    A request must name this service as an address, as localhost or by one of `hosts`: a name that somebody pointed at this
    machine is refused. A log line holds time, method, address, status and duration; never a query, which may name a patient.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, hosts: Sequence[str], origins: Sequence[str], quiet: bool = False
    ) -> None:
        self.app, self.metrics, self.quiet = app, metrics, quiet
        self.hosts, self.origins = {host.lower() for host in hosts}, set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, started = time.perf_counter(), 499, False
        path: str = scope["path"]

        async def watched(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
                headers.setdefault("content-security-policy", POLICY)
                if not path.startswith(_OPEN):
                    headers["cross-origin-resource-policy"] = "same-origin"
            await send(message)

        try:
            problem = self._refused(scope)
            if problem is None:
                await self.app(scope, receive, watched)
        except asyncio.CancelledError:
            problem = Problem(503, "The service is being stopped.", _LAST)
        except Exception as error:  # its message may tell of a patient
            sys.stderr.write(f"kbtool: a defect: {place(error)}\n")
            problem = Problem(500, "A defect of this service; it was noted.", _LAST)
        try:
            if problem is not None and not started:
                reply = problem.reply()
                raw = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
                length = (b"content-length", str(len(reply.body)).encode())
                await watched({"type": "http.response.start", "status": reply.status, "headers": [*raw, length]})
                await send({"type": "http.response.body", "body": reply.body})
        finally:
            seconds = time.perf_counter() - began
            route = scope.get("route")
            address = getattr(route, "path", "other")
            self.metrics.answered(address, scope["method"], status, seconds)
            if not self.quiet:
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                method = scope["method"] if scope["method"] in METHODS else "other"
                sys.stderr.write(f"{now} {method} {address} {status} {seconds * 1000:.1f} ms\n")

    def _refused(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        if scope["http_version"] not in ("1.0", "1.1"):
            return Problem(505, "Only HTTP/1.1 is spoken here.", _LAST)
        if sum(map(len, (scope["raw_path"], scope["query_string"], *(part for pair in headers.raw for part in pair)))) > HEAD:
            return Problem(
                431, f"The address and the header fields are longer than {HEAD // 1024} kB; send a query by POST.", _LAST
            )
        if "transfer-encoding" in headers and "content-length" in headers:
            return Problem(400, "The length of the body is stated twice.", _LAST)
        host = headers.get("host", "")
        if not self._known(host):
            return Problem(421, "This service is not known by this name; see `kbtool serve --help`, --allow-host.", _LAST)
        if scope["path"].startswith(_OPEN) or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        origin = headers.get("origin")
        if origin in self.origins:
            return None
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if foreign or (origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site")):
            return Problem(403, "A page of another origin may not call this; see `kbtool serve --help`, --allow-origin.")
        return None

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name == "localhost" or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
