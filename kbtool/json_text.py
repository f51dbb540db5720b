"""JSON from others, read strictly; what is wrong with it is said with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

_HALF = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL)
"""What a backslash begins; the group is half of a character, without the other half."""
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|\}', re.DOTALL)


class JsonError(ValueError):
    """Bytes that are not JSON. The message says what is wrong and where, and repeats nothing else."""


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


class _TwiceError(ValueError):
    """An object names a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError("an object names a key twice")
    return found


def decoder(parse_float: Callable[[str], Any] | None = None) -> json.JSONDecoder:
    """A decoder for `parsed`, which takes no NaN, no infinity, and no object that names a key twice: which of the values counts
    is left to each reader (RFC 8259, section 4). parse_float: what to make of a number with a fraction or an exponent."""
    return json.JSONDecoder(object_pairs_hook=_object, parse_float=parse_float, parse_constant=_constant)


PLAIN = decoder()


def parsed(data: bytes | str, decoder: json.JSONDecoder = PLAIN) -> Any:
    """What some JSON says. Raises JsonError, also for a character of which only one half is there (RFC 8259, section 8.2):
    such a string cannot be told apart from others once it is written down."""
    encoded = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    try:
        text = encoded.decode("utf-8")
        half = next((found for found in _HALF.finditer(text) if found[1]), None) if "\\u" in text else None
        if half is not None:
            raise JsonError(f"{_place(text, half.start())}: \\{half[1]} is only one half of a character; write the whole of it")
        try:
            return decoder.decode(text)
        except _TwiceError as error:
            raise JsonError(f"{_place(text, _twice(text))}: {error}; it ends here, and which value counts is not known") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise JsonError(f"line {encoded.count(10, 0, error.start) + 1}: not UTF-8 text; save the file as UTF-8") from None
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise JsonError("not valid JSON: nested too deeply") from None


def _twice(text: str) -> int:
    """Where the first object ends that names a key twice."""
    ended = 0

    def counted(pairs: list[tuple[str, Any]]) -> None:
        nonlocal ended
        _object(pairs)
        ended += 1

    with suppress(_TwiceError):
        json.JSONDecoder(object_pairs_hook=counted).decode(text)
    ends = (found.start() for found in _TOKENS.finditer(text) if found[0] == "}")
    return next(islice(ends, ended, None))


def _place(text: str, at: int) -> str:
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"
