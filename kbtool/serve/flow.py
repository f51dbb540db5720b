"""What comes in and goes out, with bounds: nobody who sends or reads slowly fills the memory or holds a place for ever."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kbtool.serve.keeper import Reply
from kbtool.serve.problem import Problem

_MOST = 2**28
_SMALL = 2**16
_LAST = {"connection": "close"}


class Held:
    """Counts the bytes of bodies that arrive and of answers that wait to be read. What is small passes always."""

    def __init__(self, most: int = _MOST) -> None:
        self.most, self.bytes = most, 0

    def take(self, size: int, before: int = 0) -> None:
        """Hold some bytes more. before: those that are held for the same client. Raises Problem 503."""
        if before + size > _SMALL and self.bytes + size > self.most:
            raise Problem(503, "Too much is being sent or waits to be read; try again.", {"retry-after": "5", **_LAST})
        self.bytes += size

    def free(self, size: int) -> None:
        """Hold some bytes no longer."""
        self.bytes -= size


async def body(request: Request, held: Held, *, megabytes: int, seconds: float) -> bytes:
    """The body of a request, which counts as held from then on. Raises Problem 408, 413, 415, 503."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "A compressed body is not read; send it as it is.", _LAST)
    limit = megabytes * 2**20
    too_large = Problem(413, f"The body is larger than {megabytes} MB.", _LAST)
    if int(request.headers.get("content-length", "0")) > limit:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(data) + len(chunk) > limit:
                    raise too_large
                held.take(len(chunk), len(data))
                data += chunk
        return bytes(data)
    except BaseException as error:
        held.free(len(data))
        if isinstance(error, TimeoutError):
            raise Problem(408, f"The body did not arrive within {seconds:g} s.", _LAST) from None
        raise


class Answer(Response):
    """An answer, sent in pieces and held until it is read; a client that takes too long is left. Raises Problem 503."""

    def __init__(self, reply: Reply, held: Held, *, seconds: float) -> None:
        held.take(len(reply.body))
        self.held, self.seconds = held, seconds
        super().__init__(reply.body, reply.status, reply.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it. Where it is not read in time, it is left unfinished, upon which the connection is closed."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            pieces = memoryview(self.body)
            async with asyncio.timeout(self.seconds):
                for start in range(0, len(pieces), _SMALL):
                    await send({"type": "http.response.body", "body": bytes(pieces[start : start + _SMALL]), "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            pass
        finally:
            self.held.free(len(self.body))
