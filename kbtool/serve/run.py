"""Run the service: uvicorn, with limits on slow clients, in a process that never works for a client itself."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from kbtool.serve.guard import HEAD

_SECONDS_FOR_HEADERS = 10.0
_SECONDS_TO_READ = 20.0
_KEEP_ALIVE = 15
_CONNECTIONS = 2000


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that waits only so long: a client that trickles its headers, or does not read its answer, is let go."""

    _waiting: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait."""
        super().connection_made(transport)
        self._wait()

    def handle_events(self) -> None:
        """Stop waiting when a request is complete, and start again after its answer."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def data_received(self, data: bytes) -> None:
        """Start to wait for the rest where these are the first bytes of a next request."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._waiting is None:
            self._wait()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for anything."""
        for timer in (self._waiting, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start to wait for the client to read."""
        super().pause_writing()
        self._writing = self.loop.call_later(_SECONDS_TO_READ, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: the client reads."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(_SECONDS_FOR_HEADERS, self.transport.close)


class Server(uvicorn.Server):
    """A server that says when it is ready, and ends without an error when it is told to end."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Finish the requests in flight on the first SIGINT or SIGTERM."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self.handle_exit) for each in signals}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(512)
    return listening


def serve(app: ASGIApp, listening: socket.socket, *, seconds: float, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. seconds: how long requests in flight may take to finish then."""
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        log_config=None,
        log_level="critical",  # the guard tells of defects; the rest is what strangers send
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(seconds) + 2,
        h11_max_incomplete_event_size=HEAD,
        limit_concurrency=min(_CONNECTIONS, max(10, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100)),
        lifespan="on",
        proxy_headers=False,
    )
    Server(config, ready).run(sockets=[listening])
    sys.stderr.flush()
