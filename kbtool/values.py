"""RDF terms as Python values, and what SPARQL does with them.

A term is written as in N-Triples. As a value an xsd:integer is an int, an xsd:decimal a Decimal, a plain string a str, a
boolean a bool; there are no binary floats. An expression that SPARQL calls an error raises `EvaluationError`, which makes a
filter false and leaves a variable unbound. What is not known here for certain (other datatypes, languages) raises
`Unsettled`: then Oxigraph has to answer.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import ROUND_DOWN, ROUND_FLOOR, Decimal
from functools import lru_cache
from typing import Any, TypeAlias

import pyoxigraph as ox

XSD = "http://www.w3.org/2001/XMLSchema#"
_LANG = "http://www.w3.org/1999/02/22-rdf-syntax-ns#langString"
_SMALLEST = Decimal("1E-18")
_ESCAPED = re.compile(r"\\(?:([tbnrf\"'\\])|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))")
_ESCAPES = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}
_TYPED = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\^\^<([^>]*)>|@(.*))?\Z', re.DOTALL)
_INTEGER = re.compile(r"[+-]?[0-9]{1,17}\Z")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,17}(?:\.[0-9]{0,17})?|\.[0-9]{1,17})\Z")
_ZONE = "(?:Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9]|[+-]14:00)"
_MOMENT = re.compile(rf"[1-9][0-9]{{3}}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(?:\.[0-9]{{1,6}})?{_ZONE}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ufffe\uffff]")
_ESCAPE = {"\t": "\\t", "\b": "\\b", "\n": "\\n", "\r": "\\r", "\f": "\\f"}
_LARGEST = Decimal(2**127).scaleb(-18)
"""Decimals are held in 128 bits by the engine that is followed here, with 18 digits after the point; integers in 64."""


class EvaluationError(Exception):
    """What SPARQL calls a type error."""


class Unsettled(Exception):  # noqa: N818
    """The value of an expression is not known here for certain."""


class Iri(str):
    """An IRI."""

    __slots__ = ()


class Blank(str):
    """A blank node, by its label."""

    __slots__ = ()


class Moment:
    """An xsd:dateTime with a zone."""

    __slots__ = ("text", "time")

    def __init__(self, text: str, time: datetime) -> None:
        self.text, self.time = text, time


class Opaque:
    """A literal of which only the text and the datatype are known here; ill_formed if it has no value at all."""

    __slots__ = ("datatype", "ill_formed", "text", "token")

    def __init__(self, token: str, text: str, datatype: str, ill_formed: bool) -> None:
        self.token, self.text, self.datatype, self.ill_formed = token, text, datatype, ill_formed


Value: TypeAlias = "Iri | Blank | str | int | Decimal | Moment | Opaque | None"

_NUMBERS = frozenset((int, Decimal))


def canonical(token: str) -> str:
    """A term as stores keep it: numbers and times by value, so that 1.70 and 1.7 are one term."""
    if token[0] != '"' or token[-1] == '"':
        return token
    return _canonical(token)


@lru_cache(maxsize=65536)
def _canonical(token: str) -> str:
    match = _TYPED.match(token)
    if match is None or match[2] is None:
        return token if match is None or match[3] is None else _by_oxigraph(token)
    text, datatype = match[1], match[2]
    if datatype == XSD + "decimal" and _DECIMAL.match(text):
        return token_of(Decimal(text))
    if datatype == XSD + "integer" and _INTEGER.match(text):
        return token_of(int(text))
    if datatype == XSD + "dateTime" and len(text) == 20 and text[-1] == "Z" and _moment(text) is not None:
        return token
    return _by_oxigraph(token)


def _by_oxigraph(token: str) -> str:
    store = ox.Store()
    store.update(f"INSERT DATA {{ <urn:s> <urn:p> {token} }}")
    return str(next(iter(store)).object)


def value_of(token: str) -> Value:
    """The value of a canonical term."""
    first = token[0]
    if first == "<":
        return Iri(token[1:-1])
    if first == "_":
        return Blank(token[2:])
    if token[-1] == '"':
        return unescaped(token[1:-1])
    return _literal(token)


@lru_cache(maxsize=65536)
def _literal(token: str) -> Value:
    match = _TYPED.match(token)
    if match is None:
        raise Unsettled(f"{token} is not a literal")
    text, datatype = unescaped(match[1]), match[2] or _LANG
    if datatype == XSD + "string":
        return text
    if datatype == XSD + "integer" and _INTEGER.match(text):
        return int(text)
    if datatype == XSD + "decimal" and _DECIMAL.match(text):
        return Decimal(text)
    if datatype == XSD + "boolean" and text in ("true", "false"):
        return text == "true"
    if datatype == XSD + "dateTime" and (time := _moment(text)) is not None:
        return Moment(text, time)
    test = {XSD + "integer": "isNumeric({})", XSD + "decimal": "isNumeric({})", XSD + "dateTime": "BOUND(?year)"}.get(datatype)
    ill_formed = False
    if test is not None:
        ill_formed = not ox.Store().query(f"ASK {{ BIND(YEAR({token}) AS ?year) FILTER({test.format(token)}) }}")
    return Opaque(token, text, datatype, ill_formed)


def unescaped(text: str) -> str:
    """A text with the escapes of N-Triples undone."""
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda m: _ESCAPES[m[1]] if m[1] else chr(int(m[2] or m[3], 16)), text)


def token_of(value: Any) -> str:
    """The canonical term of a value."""
    kind = type(value)
    if kind is Iri:
        return f"<{value}>"
    if kind is int:
        return f'"{value}"^^<{XSD}integer>'
    if kind is Decimal:
        return f'"{plain(value)}"^^<{XSD}decimal>'
    if kind is bool:
        return f'"{"true" if value else "false"}"^^<{XSD}boolean>'
    if kind is str:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{_CONTROL.sub(lambda m: _ESCAPE.get(m[0]) or f"{chr(92)}u{ord(m[0]):04X}", escaped)}"'
    if kind is Moment:
        return f'"{value.text}"^^<{XSD}dateTime>'
    if kind is Blank:
        return f"_:{value}"
    return str(value.token)


def plain(number: Decimal) -> str:
    """A decimal with no more digits than it needs."""
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


@lru_cache(maxsize=65536)
def _moment(text: str) -> datetime | None:
    if _MOMENT.match(text) is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


# --- Operators ---


def _no(*values: Any) -> Exception:
    if any(type(v) is Opaque and not v.ill_formed for v in values):
        return Unsettled("a literal of another datatype")
    return EvaluationError()


def equal(a: Any, b: Any) -> bool:
    """The operator =, as Oxigraph understands it."""
    s, t = type(a), type(b)
    if s is t and s is not Opaque and s is not Moment and a is not None:
        return bool(a == b)
    if s in _NUMBERS and t in _NUMBERS:
        return bool(a == b)
    if a is None or b is None:
        raise EvaluationError
    if s is Iri or s is Blank or t is Iri or t is Blank:
        return False
    if s is Moment and t is Moment:
        return bool(a.time == b.time)
    if s is Opaque or t is Opaque:
        if s is t and a.token == b.token and a.ill_formed:
            return True
        raise Unsettled("two literals of which one is of another datatype")
    return False


def unequal(a: Any, b: Any) -> bool:
    """The operator !=."""
    return not equal(a, b)


def less(a: Any, b: Any) -> bool:
    """The operator <."""
    s, t = type(a), type(b)
    if s in _NUMBERS and t in _NUMBERS:
        return bool(a < b)
    if s is Moment and t is Moment:
        return bool(a.time < b.time)
    if s is Opaque or t is Opaque:
        raise Unsettled("the order of a literal of another datatype")
    if s is t and (s is str or s is bool):
        return bool(a < b)
    if s is t and a is not None and a == b:
        return False  # before Oxigraph looks at kinds
    raise EvaluationError


def at_most(a: Any, b: Any) -> bool:
    """The operator <=; Oxigraph says that an IRI is at most itself."""
    if type(a) is Iri and type(b) is Iri and a == b:
        return True
    return not less(b, a)


def truth(value: Any) -> bool:
    """The effective boolean value."""
    kind = type(value)
    if kind is bool:
        return bool(value)
    if kind in _NUMBERS:
        return bool(value != 0)
    if kind is str:
        return bool(value)
    raise _no(value)


def _held(value: Any) -> Any:
    """A number that 64 bits hold as an integer, or 128 bits as a decimal; any other is an error."""
    if -(2**63) <= value < 2**63 or (type(value) is Decimal and -_LARGEST <= value < _LARGEST):
        return value
    raise EvaluationError


def add(a: Any, b: Any) -> Any:
    """The operator + on numbers."""
    if type(a) in _NUMBERS and type(b) in _NUMBERS:
        return _held(a + b)
    raise _no(a, b)


def subtract(a: Any, b: Any) -> Any:
    """The operator - on numbers; times are not subtracted, engines differ on it."""
    if type(a) in _NUMBERS and type(b) in _NUMBERS:
        return _held(a - b)
    raise Unsettled("a difference of times") if type(a) is Moment else _no(a, b)


def multiply(a: Any, b: Any) -> Any:
    """The operator * on numbers. As in Oxigraph a product with more than 18 digits after the point is an error."""
    s, t = type(a), type(b)
    if s not in _NUMBERS or t not in _NUMBERS:
        raise _no(a, b)
    product = _held(a * b)
    if s is not int and t is not int and _digits(product) > 18:
        raise EvaluationError
    return product


def _digits(number: Decimal) -> int:
    """How many digits stand after the point, where these are more than 18; otherwise 0."""
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent >= -18:
        return 0
    return -int(number.normalize().as_tuple().exponent)


def divide(a: Any, b: Any) -> Decimal:
    """The operator / on numbers: a decimal, cut off after 18 digits, as in Oxigraph.

    That engine moves the digits of a to the left as far as 128 bits go, and zeros at the end of b to the right; it gives no
    result where that is less than 18 places together, or more than 56.
    """
    if type(a) not in _NUMBERS or type(b) not in _NUMBERS:
        raise _no(a, b)
    if b == 0:
        raise EvaluationError
    above, below = abs(int(Decimal(a).scaleb(18))), str(abs(int(Decimal(b).scaleb(18))))
    places = len(below) - len(below.rstrip("0")) - 18
    if above:
        room = 39 - len(str(above))
        places += room if above * 10**room < 2**127 else room - 1
    if not 0 <= places <= 38:
        raise EvaluationError
    quotient: Decimal = Decimal(a) / b
    whole = quotient == quotient.to_integral_value()
    found: Decimal = _held(quotient if whole else quotient.quantize(_SMALLEST, ROUND_DOWN))
    return found


def floor_divide(a: Any, b: Any) -> Any:
    """FLOOR of a quotient."""
    if type(a) is int and type(b) is int and 0 < b < 10**9:
        return Decimal(a // b)
    return floor(divide(a, b))


def shifted(value: Any, digits: int) -> Any:
    """A whole number divided by a power of ten."""
    return value.scaleb(-digits) if isinstance(value, Decimal) and digits <= 9 else divide(value, 10**digits)


def floor(value: Any) -> Any:
    """FLOOR."""
    if type(value) is Decimal:
        return value.to_integral_value(ROUND_FLOOR)
    if type(value) is int:
        return value
    raise _no(value)


# --- Functions ---


def text_of(value: Any) -> str:
    """STR."""
    kind = type(value)
    if kind is str or kind is Iri:
        return str(value)
    if kind is Decimal:
        return plain(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is Moment or kind is Opaque:
        return str(value.text)
    raise EvaluationError


_DATATYPES = {int: Iri(XSD + "integer"), Decimal: Iri(XSD + "decimal"), str: Iri(XSD + "string"), bool: Iri(XSD + "boolean")}


def datatype(value: Any) -> Iri:
    """DATATYPE."""
    kind = type(value)
    if kind in _DATATYPES:
        return _DATATYPES[kind]
    if kind is Moment:
        return Iri(XSD + "dateTime")
    if kind is Opaque:
        return Iri(value.datatype)
    raise EvaluationError


def is_iri(value: Any) -> bool:
    """Whether a term is an IRI."""
    return type(_bound(value)) is Iri


def is_blank(value: Any) -> bool:
    """Whether a term is a blank node."""
    return type(_bound(value)) is Blank


def is_literal(value: Any) -> bool:
    """Whether a term is a literal."""
    return type(_bound(value)) not in (Iri, Blank)


def same_term(a: Any, b: Any) -> bool:
    """Whether two terms are the same."""
    return token_of(_bound(a)) == token_of(_bound(b))


def iri(value: Any) -> Iri:
    """IRI of a text; whether it is well-formed is not checked, as it extends one that is."""
    if type(value) is str or type(value) is Iri:
        return Iri(value)
    raise _no(value)


_SAFE = re.compile(r"[A-Za-z0-9._~/:-]*\Z")


@lru_cache(maxsize=4096)
def safe(text: str) -> str:
    """A text that makes no IRI ill-formed by being in it."""
    if _SAFE.match(text) is None:
        raise Unsettled("an IRI made of a text with other characters")
    return text


def string(value: Any) -> str:
    """A plain string; anything else is an error."""
    if type(value) is str:
        return str(value)
    raise _no(value)


def _bound(value: Any) -> Any:
    if value is None:
        raise EvaluationError
    return value


def moment(value: Any) -> Moment:
    """A time with a zone."""
    if type(value) is Moment:
        return value
    raise _no(value)


def zone(value: Any) -> str:
    """TZ."""
    text = moment(value).text
    return "Z" if text[-1] == "Z" else text[-6:]


def seconds(value: Any) -> Decimal:
    """SECONDS."""
    text = moment(value).text
    return Decimal(text[17:-1] if text[-1] == "Z" else text[17:-6])


def to_moment(value: Any) -> Moment:
    """A cast to xsd:dateTime."""
    if type(value) is Moment:
        return value
    found = value_of(_canonical(f"{token_of(string(value))}^^<{XSD}dateTime>"))
    if type(found) is Moment:
        return found
    raise _no(found)


def to_integer(value: Any) -> int:
    """A cast to xsd:integer, from text."""
    if type(value) is int:
        return value
    if type(value) is str and _INTEGER.match(value):
        return int(value)
    raise Unsettled("a cast to xsd:integer")


def part(text: Any, start: Any, length: Any) -> str:
    """SUBSTR."""
    return string(text)[start - 1 : start - 1 + length]


def after(text: Any, mark: Any) -> str:
    """STRAFTER."""
    return string(text).partition(string(mark))[2]


_APART = re.compile(r"\(\?|\[\^?\]|\[[^\]]*(?:\[|&&|--|~~)|[*+?}][*+]|\{(?![0-9]+(?:,[0-9]*)?\})|\\[^\\.+*?()|\[\]{}^$#&~-]")
"""What Python and the engine that is followed here read differently, or what they are not known to read alike."""


@lru_cache(maxsize=256)
def pattern(text: str) -> re.Pattern[str]:
    """A regular expression of XPath for Python: `$` means the very end. EvaluationError for what engines read differently."""
    if _APART.search(text):
        raise EvaluationError
    try:
        return re.compile(re.sub(r"\[(?:[^\]\\]|\\.)*\]|\\.|\$", lambda m: r"\Z" if m[0] == "$" else m[0], text))
    except re.error:
        raise EvaluationError from None
