"""What goes wrong with a request, as RFC 9457 (problem details) has it."""

from __future__ import annotations

import json
from http import HTTPStatus

from kbtool.serve.keeper import Reply

REASONS = {
    "time": (503, "The time limit of {seconds:g} s was reached and the work was stopped; nothing of it is sent."),
    "memory": (503, "The memory limit of {memory} MB was reached and the work was stopped; nothing of it is sent."),
    "depth": (400, "It is nested too deeply, or is too long an expression, to be read."),
    "lost": (503, "The work ended before it was done; try again."),
}
"""What a client is told for each reason by which a job ends."""


class Problem(Exception):  # noqa: N818
    """A request that cannot be answered: status, and what is wrong and what to do. headers: to be sent with it."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}

    def reply(self) -> Reply:
        """The answer for the client, in the media type application/problem+json."""
        return Reply(
            self.status,
            {"content-type": "application/problem+json", "cache-control": "no-store", **self.headers},
            document(self.status, self.detail),
        )


def document(status: int, detail: str) -> bytes:
    """The body of a problem."""
    told = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return json.dumps(told, ensure_ascii=False).encode("utf-8", errors="replace")
