"""Read the part of SPARQL 1.1 in which updates and constraints are written into a small algebra.

rdflib has a complete parser, which needs seconds for all updates of a knowledge base; this one needs tenths of a second
and refuses, with the place, what lies outside its part: it never skips anything.

- updates: `PREFIX`, `INSERT { ... } WHERE { ... }`, several divided by `;`;
- queries: `SELECT [DISTINCT] ... WHERE { ... } [GROUP BY] [HAVING] [ORDER BY] [LIMIT]`, also nested;
- patterns: triples with `;` `,` `a`, property paths made of `/`, `^` and `+ * ?` on one property, `FILTER`, `BIND`,
  `OPTIONAL`, `UNION`, `VALUES`, groups, `EXISTS` and `NOT EXISTS`;
- expressions: `|| && ! = != < > <= >= + - * /`, `IN`, `NOT IN`, aggregates and any function by its name.

Terms are written as in N-Triples, variables as `?name`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NoReturn, TypeAlias

XSD = "http://www.w3.org/2001/XMLSchema#"
TYPE = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"

AGGREGATES = frozenset(("COUNT", "SUM", "MIN", "MAX", "GROUP_CONCAT"))


class CannotRead(ValueError):  # noqa: N818
    """A text lies outside of the part of SPARQL that is read here. The message says what and where."""


@dataclass(frozen=True, slots=True)
class Closure:
    """A property path over one property: `+` (many), `*` (many, zero) or `?` (zero)."""

    predicate: str
    zero: bool
    many: bool


@dataclass(frozen=True, slots=True)
class Triple:
    """A triple pattern; the predicate is a term, a variable or a path."""

    subject: str
    predicate: str | Closure
    object: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operator, a function (in capitals, or its IRI) or an aggregate with its arguments."""

    name: str
    args: tuple[Expression, ...]
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class Exists:
    """EXISTS or, negated, NOT EXISTS."""

    group: Group
    negated: bool


@dataclass(frozen=True, slots=True)
class Filter:
    """A FILTER of a group."""

    expression: Expression


@dataclass(frozen=True, slots=True)
class Bind:
    """BIND(expression AS variable)."""

    expression: Expression
    variable: str


@dataclass(frozen=True, slots=True)
class Values:
    """Inline data."""

    variables: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Optional:
    """An OPTIONAL group."""

    group: Group


@dataclass(frozen=True, slots=True)
class Union:
    """Alternatives; a plain nested group is a union of one."""

    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A group graph pattern: its elements in the order of the text."""

    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class Select:
    """A SELECT query: for each variable of the result its expression, or None where it is bound by the pattern."""

    columns: tuple[tuple[str, Expression | None], ...]
    distinct: bool
    where: Group
    group_by: tuple[str, ...]
    having: tuple[Expression, ...]

    @property
    def aggregates(self) -> bool:
        """Whether the query groups its solutions."""
        return bool(self.group_by) or any(e is not None and _has_aggregate(e) for _, e in self.columns)


@dataclass(frozen=True, slots=True)
class Insert:
    """INSERT { template } WHERE { pattern }."""

    template: tuple[Triple, ...]
    where: Group


Expression: TypeAlias = "str | Call | Exists"
Element: TypeAlias = "Triple | Filter | Bind | Values | Optional | Union | Select"


def read_updates(text: str) -> list[Insert]:
    """The updates of a text, in order. Raises CannotRead."""
    return list(_Parser(text).updates())


def read_query(text: str) -> Select:
    """The query in a text. Raises CannotRead."""
    return _Parser(text).query()


def is_variable(term: object) -> bool:
    """Whether a term is a variable."""
    return isinstance(term, str) and term.startswith("?")


def _has_aggregate(expression: Expression) -> bool:
    return isinstance(expression, Call) and (expression.name in AGGREGATES or any(map(_has_aggregate, expression.args)))


_TOKEN = re.compile(
    r"""\s*(?:\#[^\n]*\n\s*)*(?:
    (?P<iri><[^<>"{}|^`\\\x00-\x20]*>)
  | (?P<var>[?$][A-Za-z_]\w*)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<number>\d+(?:\.\d+)?)
  | (?P<name>[A-Za-z][\w-]*)?(?P<colon>:)(?P<local>[\w-]*)
  | (?P<word>[A-Za-z_]\w*)
  | (?P<sign>\^\^|&&|\|\||!=|<=|>=|[{}().;,=<>!+*/^?-])
  )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    prefixes = {}
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            if not re.sub(r"#[^\n]*", "", text[at:]).strip():
                return
            raise CannotRead(f"line {text.count(chr(10), 0, at) + 1}: {text[at : at + 40].strip()!r} is not read here")
        at = match.end()
        kind = match.lastgroup or ""
        if kind == "local":
            prefix = match["name"] or ""
            if match["local"] == "" and prefix not in prefixes:
                found = re.compile(r"\s*<([^<>\s]*)>").match(text, at)
                if found is None:
                    raise CannotRead(f"{prefix}: is not declared")
                prefixes[prefix] = found[1]
                at = found.end()
                continue
            if prefix not in prefixes:
                raise CannotRead(f"the prefix {prefix}: is not declared")
            yield "term", f"<{prefixes[prefix]}{match['local']}>", match.start()
        elif kind == "iri":
            yield "term", match["iri"], match.start()
        elif kind == "var":
            yield "var", "?" + match["var"][1:], match.start()
        elif kind == "number":
            yield "number", match["number"], match.start()
        elif kind == "word" and match["word"].upper() != "PREFIX":
            yield "word", match["word"], match.start()
        elif kind != "word":
            yield kind, match[kind], match.start()


class _Parser:
    """Recursive descent over the tokens of a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [*_tokens(text), ("end", "", len(text))]
        self.at = 0
        self.fresh = count(1)

    # --- Tokens ---

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    @property
    def value(self) -> str:
        return self.tokens[self.at][1]

    def fail(self, wanted: str) -> NoReturn:
        position = self.tokens[self.at][2]
        raise CannotRead(f"line {self.text.count(chr(10), 0, position) + 1}: {self.value!r} where {wanted} is read")

    def next(self) -> str:
        value = self.value
        self.at += 1
        return value

    def sees(self, *signs: str) -> bool:
        kind, value, _ = self.tokens[self.at]
        return value in signs if kind == "sign" else kind == "word" and value.upper() in signs

    def take(self, *signs: str) -> bool:
        if self.sees(*signs):
            self.at += 1
            return True
        return False

    def need(self, *signs: str) -> None:
        if not self.take(*signs):
            self.fail(" or ".join(signs))

    # --- Updates and queries ---

    def updates(self) -> Iterator[Insert]:
        while self.kind != "end":
            self.need("INSERT")
            template = tuple(e for e in self.group().elements if isinstance(e, Triple))
            self.need("WHERE")
            yield Insert(template, self.group())
            if not self.take(";"):
                break
        if self.kind != "end":
            self.fail("the end or ;")

    def query(self) -> Select:
        self.need("SELECT")
        found = self.select()
        if self.kind != "end":
            self.fail("the end of the query")
        return found

    def select(self) -> Select:
        distinct = self.take("DISTINCT")
        columns: list[tuple[str, Expression | None]] = []
        while not self.sees("WHERE", "{"):
            if self.kind == "var":
                columns.append((self.next(), None))
            else:
                self.need("(")
                expression = self.expression()
                self.need("AS")
                columns.append((self.variable(), expression))
                self.need(")")
        self.take("WHERE")
        where = self.group()
        group_by: list[str] = []
        having: list[Expression] = []
        if self.take("GROUP"):
            self.need("BY")
            while self.kind == "var":
                group_by.append(self.next())
        if self.take("HAVING"):
            self.need("(")
            having.append(self.expression())
            self.need(")")
        if self.take("ORDER"):
            self.need("BY")
            while self.kind == "var":
                self.next()
        if self.sees("LIMIT", "OFFSET"):
            self.fail("the end of the query (a limit would make the answer depend on the order)")
        return Select(tuple(columns), distinct, where, tuple(group_by), tuple(having))

    # --- Patterns ---

    def group(self) -> Group:
        self.need("{")
        elements: list[Element] = []
        while not self.take("}"):
            if self.take("SELECT"):
                elements.append(self.select())
            elif self.take("FILTER"):
                elements.append(Filter(self.constraint()))
            elif self.take("BIND"):
                self.need("(")
                expression = self.expression()
                self.need("AS")
                elements.append(Bind(expression, self.variable()))
                self.need(")")
            elif self.take("OPTIONAL"):
                elements.append(Optional(self.group()))
            elif self.take("VALUES"):
                elements.append(self.values())
            elif self.sees("{"):
                groups = [self.group()]
                while self.take("UNION"):
                    groups.append(self.group())
                elements.append(Union(tuple(groups)))
            elif self.sees("MINUS", "GRAPH", "SERVICE"):
                self.fail("a pattern")
            else:
                elements.extend(self.triples())
            self.take(".")
        return Group(tuple(elements))

    def values(self) -> Values:
        variables: list[str] = []
        single = self.kind == "var"
        if single:
            variables.append(self.next())
        else:
            self.need("(")
            while not self.take(")"):
                variables.append(self.variable())
        self.need("{")
        rows: list[tuple[str, ...]] = []
        while not self.take("}"):
            if single:
                rows.append((self.constant(),))
            else:
                self.need("(")
                rows.append(tuple(self.constant() for _ in variables))
                self.need(")")
        return Values(tuple(variables), tuple(rows))

    def triples(self) -> Iterator[Triple]:
        subject = self.term()
        while True:
            path = self.path()
            while True:
                yield from self.walk(subject, path, self.term())
                if not self.take(","):
                    break
            if not self.take(";"):
                return
            if self.sees(".", "}"):
                return

    def path(self) -> list[tuple[str | Closure, bool]]:
        """The steps of a path: property or closure, and whether it is walked backwards."""
        steps: list[tuple[str | Closure, bool]] = []
        while True:
            back = self.take("^")
            predicate = self.next() if self.kind == "var" else TYPE if self.take("A") else self.iri()
            if self.sees("+", "*", "?"):
                sign = self.next()
                steps.append((Closure(predicate, zero=sign != "+", many=sign != "?"), back))
            else:
                steps.append((predicate, back))
            if not self.take("/"):
                return steps

    def walk(self, subject: str, path: list[tuple[str | Closure, bool]], last: str) -> Iterator[Triple]:
        for number, (predicate, back) in enumerate(path, 1):
            target = last if number == len(path) else f"?_path{next(self.fresh)}"
            yield Triple(target, predicate, subject) if back else Triple(subject, predicate, target)
            subject = target

    # --- Terms ---

    def iri(self) -> str:
        if self.kind != "term":
            self.fail("a property")
        return self.next()

    def variable(self) -> str:
        if self.kind != "var":
            self.fail("a variable")
        return self.next()

    def term(self) -> str:
        return self.next() if self.kind == "var" else self.constant()

    def constant(self) -> str:
        if self.kind == "term":
            return self.next()
        if self.kind == "number":
            number = self.next()
            return f'"{number}"^^<{XSD}{"decimal" if "." in number else "integer"}>'
        if self.kind == "string":
            raw = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1]) or self.fail("a string"), self.next()[1:-1])
            text = raw.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
            return f'"{text}"^^{self.iri()}' if self.take("^^") else f'"{text}"'
        if self.sees("TRUE", "FALSE"):
            return f'"{self.next().lower()}"^^<{XSD}boolean>'
        return self.fail("a term")

    # --- Expressions ---

    def constraint(self) -> Expression:
        if self.sees("("):
            self.need("(")
            expression = self.expression()
            self.need(")")
            return expression
        return self.primary()

    def expression(self) -> Expression:
        left = self.conjunction()
        while self.take("||"):
            left = Call("||", (left, self.conjunction()))
        return left

    def conjunction(self) -> Expression:
        left = self.relation()
        while self.take("&&"):
            left = Call("&&", (left, self.relation()))
        return left

    def relation(self) -> Expression:
        left = self.sum()
        if self.sees("=", "!=", "<", ">", "<=", ">="):
            return Call(self.next(), (left, self.sum()))
        negated = self.sees("NOT")
        if negated:
            self.next()
        if self.take("IN"):
            self.need("(")
            members: list[Expression] = []
            while not self.take(")"):
                members.append(self.expression())
                self.take(",")
            found = Call("IN", (left, *members))
            return Call("!", (found,)) if negated else found
        if negated:
            self.fail("IN")
        return left

    def sum(self) -> Expression:
        left = self.product()
        while self.sees("+", "-"):
            left = Call(self.next(), (left, self.product()))
        return left

    def product(self) -> Expression:
        left = self.unary()
        while self.sees("*", "/"):
            left = Call(self.next(), (left, self.unary()))
        return left

    def unary(self) -> Expression:
        if self.take("!"):
            return Call("!", (self.unary(),))
        if self.take("-"):
            return Call("-", (f'"0"^^<{XSD}integer>', self.unary()))
        return self.primary()

    def primary(self) -> Expression:
        if self.take("("):
            inner = self.expression()
            self.need(")")
            return inner
        if self.kind == "var":
            return self.next()
        if self.sees("NOT", "EXISTS"):
            negated = self.take("NOT")
            self.need("EXISTS")
            return Exists(self.group(), negated)
        if self.kind == "term":
            name = self.next()
            return self.call(name) if self.sees("(") else name
        if self.kind == "word" and not self.sees("TRUE", "FALSE"):
            return self.call(self.next().upper())
        return self.constant()

    def call(self, name: str) -> Call:
        self.need("(")
        distinct = self.take("DISTINCT")
        args: list[Expression] = []
        if self.take("*"):
            args.append("*")
        while not self.take(")"):
            args.append(self.expression())
            if self.take(";"):
                self.need("SEPARATOR")
                self.need("=")
                args.append(self.constant())
            self.take(",")
        return Call(name, tuple(args), distinct)
