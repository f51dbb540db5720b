"""Choose what a client gets by what it accepts."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from typing import TypeVar

from kbtool.serve.keeper import Reply
from kbtool.serve.problem import Problem

T = TypeVar("T")

_WORTH_PACKING = 1024
_LEVEL = 5
_WEIGHT = re.compile(r";\s*q\s*=\s*([0-9.]+)", re.IGNORECASE)


def chosen(accept: str | None, offered: Mapping[str, T]) -> tuple[str, T]:
    """The offered media type that a client likes best, of equals the first. Raises Problem 406.

    accept: the value of the Accept field. The most specific range that fits a type decides (RFC 9110, section 12.5.1);
    parameters of media types are not compared, and a weight like `.5` is understood.
    """
    if not (accept or "").strip():
        return next(iter(offered.items()))
    weights = _weights(accept or "")

    def liked(media: str) -> float:
        ranges = (media, media.split("/")[0] + "/*", "*/*", "*")
        return next((weights[each] for each in ranges if each in weights), 0)

    best = max(offered, key=liked)
    if liked(best) <= 0:
        raise Problem(406, f"Nothing here is of the type {accept}; there is {', '.join(offered)}.")
    return best, offered[best]


def accepts_gzip(encodings: str | None) -> bool:
    """Whether a client takes an answer that is compressed. encodings: the value of the Accept-Encoding field."""
    weights = _weights(encodings or "")
    return weights.get("gzip", weights.get("*", 0)) > 0


def packed(reply: Reply, encodings: str | None) -> Reply:
    """The answer, compressed where the client accepts that and it pays."""
    if len(reply.body) < _WORTH_PACKING or not accepts_gzip(encodings):
        return reply
    return Reply(reply.status, reply.headers | {"content-encoding": "gzip"}, gzip.compress(reply.body, _LEVEL, mtime=0))


def _weights(value: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in value.split(","):
        name, _, rest = part.partition(";")
        weight = _WEIGHT.search(";" + rest)
        try:
            found[name.strip().lower()] = float(weight[1]) if weight else 1
        except ValueError:
            found[name.strip().lower()] = 0
    return found
