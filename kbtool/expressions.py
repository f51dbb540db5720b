"""Expressions of SPARQL, compiled to Python functions over columns of values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import pyoxigraph as ox

from kbtool import values
from kbtool.sparql import AGGREGATES, Call, CannotRead, Exists, Expression, is_variable
from kbtool.values import EvaluationError, Unsettled, Value, value_of

Function = Callable[[int, Sequence[Any]], list[Any]]
"""Takes the number of rows and a column of values for each variable."""

REMEMBERED: Final = 2**14
"""For so many values of a variable what depends on it alone is remembered: units, times and numbers come again and again."""

_SMALL: Final = 2
_XSD: Final = values.XSD

# How a call is written in Python. {0}, {1} are the arguments.
_CODE: Final = {
    "+": "v.add({0}, {1})",
    "-": "v.subtract({0}, {1})",
    "*": "v.multiply({0}, {1})",
    "/": "v.divide({0}, {1})",
    "=": "v.equal({0}, {1})",
    "!=": "v.unequal({0}, {1})",
    "<": "v.less({0}, {1})",
    ">": "v.less({1}, {0})",
    "<=": "v.at_most({0}, {1})",
    ">=": "v.at_most({1}, {0})",
    "FLOOR": "v.floor({0})",
    "STR": "v.text_of({0})",
    "STRLEN": "len({0})",
    "SUBSTR": "v.part({0}, {1}, {2})",
    "STRSTARTS": "{0}.startswith({1})",
    "CONTAINS": "({1} in {0})",
    "STRAFTER": "v.after({0}, {1})",
    "DATATYPE": "v.datatype({0})",
    "ISIRI": "v.is_iri({0})",
    "ISBLANK": "v.is_blank({0})",
    "ISLITERAL": "v.is_literal({0})",
    "SAMETERM": "v.same_term({0}, {1})",
    "IRI": "v.iri({0})",
    "YEAR": "int(v.moment({0}).text[:4])",
    "MONTH": "int(v.moment({0}).text[5:7])",
    "DAY": "int(v.moment({0}).text[8:10])",
    "HOURS": "int(v.moment({0}).text[11:13])",
    "MINUTES": "int(v.moment({0}).text[14:16])",
    "SECONDS": "v.seconds({0})",
    "TZ": "v.zone({0})",
    f"<{_XSD}dateTime>": "v.to_moment({0})",
    f"<{_XSD}integer>": "v.to_integer({0})",
}
_KINDS: Final = ("ISIRI", "ISBLANK", "ISLITERAL")
_OF_TEXT: Final = frozenset(("STRLEN", "STRSTARTS", "CONTAINS"))
_TEXT: Final = frozenset(("STR", "SUBSTR", "STRAFTER", "CONCAT", "REPLACE", "TZ"))
_COMPARISONS: Final = ("=", "!=", "<", ">", "<=", ">=")
_BOOLEAN: Final = frozenset((*_COMPARISONS, "!", "&&", "||", "IN", "BOUND", "REGEX", "SAMETERM", *_OF_TEXT, *_KINDS)) - {"STRLEN"}


def variables(expression: Expression) -> set[str]:
    """The variables of an expression, without those inside of EXISTS."""
    if isinstance(expression, Call):
        return set().union(*map(variables, expression.args))
    return {expression} if isinstance(expression, str) and is_variable(expression) else set()


def compiled(expression: Expression, names: Sequence[str]) -> Function:
    """A condition as a function of the columns of some variables; an error is False. Raises CannotRead for what is not known."""
    writer = _Writer(names)
    row = _made(f"def row({writer.inputs}):\n    return {writer.test(expression)}\n", writer, "row")
    query = f"ASK {{ {{bindings}} FILTER({written(expression)}) }}"
    return _over_rows(row, writer, _size(expression) > _SMALL, lambda given: _asked(query, names, given, None))


def chained(binds: Sequence[tuple[str, Expression]], names: Sequence[str], wanted: Sequence[str]) -> Function:
    """Expressions that are bound one after the other, of which each can use those before it, as one function.

    It gives a row for each row: the values of the variables that are wanted, or where they are made by IRI() the terms as text;
    None is an error or unbound. Raises CannotRead.
    """
    writer = _Writer(names)
    inputs = writer.inputs
    makes = makes_terms(binds, wanted)
    text = " ".join(f"BIND({written(expression)} AS {name})" for name, expression in binds)
    query = f"SELECT {' '.join(wanted)} WHERE {{ {{bindings}} {text} }}"
    if makes:
        code = f'"<" + {writer.piece(makes[wanted[0]].args[0])} + ">"'
        return _made_terms(code, writer, lambda given: _asked(query, names, given, wanted)[0])
    lines = []
    for name, expression in binds:
        code = writer.code(expression)
        local = writer.names[name] = f"x{len(writer.names)}"
        lines += [f"try: {local} = {code}", f"except EvaluationError: {local} = None"]
    lines.append(f"return ({''.join(f'{writer.names[name]}, ' for name in wanted)})")
    row = _made(f"def row({inputs}):\n    {chr(10).join(lines).replace(chr(10), chr(10) + '    ')}\n", writer, "row")
    large = sum(_size(expression) for _, expression in binds) > _SMALL
    rows = _over_rows(row, _Writer(names), large, lambda given: _asked(query, names, given, wanted))
    return lambda n, columns: list(zip(*rows(n, columns), strict=True))


def _made_terms(code: str, writer: _Writer, ask: Callable[[list[Any]], Any]) -> Function:
    """A function that gives terms as text; where it cannot for all of them, for each alone, or Oxigraph does."""
    loop = f"for {writer.inputs}, in zip(*columns, strict=True)" if writer.inputs else "for _ in range(n)"
    all_at_once = _made(f"def run(n, columns):\n    return [{code} {loop}]\n", writer, "run")

    def run(n: int, columns: Sequence[Any]) -> list[Any]:
        columns = [list(column) for column in columns]
        try:
            return [all_at_once(n, columns)]
        except (EvaluationError, Unsettled):
            return [[one_of(row) for row in zip(*columns, strict=True)]]

    def one_of(row: tuple[Any, ...]) -> str | None:
        try:
            found: str = all_at_once(1, [[value] for value in row])[0]
        except EvaluationError:
            return None
        except Unsettled:
            made = ask(list(row))
            return None if made is None else values.token_of(made)
        return found

    return run


class Remembered:
    """A function that remembers its results while that pays: units, numbers and times come again and again, others do not."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.memory = lru_cache(REMEMBERED, typed=True)(function)
        self.use: Callable[..., Any] = self.memory

    def look_back(self) -> None:
        """Stop remembering where most calls were new."""
        found = self.memory.cache_info()
        if found.misses > 2 * REMEMBERED and found.hits < found.misses:
            self.use = self.function
            self.memory.cache_clear()


def _over_rows(row: Callable[..., Any], writer: _Writer, large: bool, ask: Callable[[list[Any]], Any]) -> Function:
    """A function of columns that calls a function of values for each row."""
    inputs = writer.inputs
    loop = f"for {inputs}, in zip(*columns, strict=True)" if inputs else "for _ in range(n)"
    writer.constants |= {"ask": ask, "memory": Remembered(row), "row": row}
    source = (
        f"def run(n, columns):\n    out = []\n    use = {'memory.use' if large else 'row'}\n    {loop}:\n        try:\n"
        f"            out.append(use({inputs}))\n        except EvaluationError:\n            out.append(False)\n"
        f"        except Unsettled:\n            out.append(ask([{inputs}]))\n"
        f"{'    memory.look_back()' if large else ''}\n    return out\n"
    )
    function: Function = _made(source, writer, "run")
    return function


def _made(source: str, writer: _Writer, name: str) -> Any:
    scope: dict[str, Any] = {"v": values, "EvaluationError": EvaluationError, "Unsettled": Unsettled, "Iri": values.Iri}
    scope |= {"both": _both, "coalesce": _coalesce, "either": _either, **writer.constants}
    exec(compile(source, "<SPARQL expression>", "exec"), scope)  # noqa: S102 - made of the table above, never of facts
    return scope[name]


def written(expression: Expression) -> str:
    """An expression in SPARQL."""
    if isinstance(expression, str):
        return expression
    if isinstance(expression, Exists):
        raise CannotRead("EXISTS inside of an expression; write it as a filter of its own")
    args = [written(arg) for arg in expression.args]
    if expression.name == "!":
        return f"(!{args[0]})"
    if expression.name == "IN":
        return f"({args[0]} IN ({', '.join(args[1:])}))"
    if expression.name[0].isalpha() or len(expression.name) > 2:
        return f"{expression.name}({', '.join(args)})"
    return f"({args[0]} {expression.name} {args[1]})"


def makes_terms(binds: Sequence[tuple[str, Expression]], wanted: Sequence[str]) -> dict[str, Call]:
    """The variables that are made by IRI() of a text, if all that is wanted is, and nothing else uses them."""
    found = {name: e for name, e in binds if isinstance(e, Call) and e.name == "IRI" and _is_text(e.args[0])}
    return found if found.keys() == {name for name, _ in binds} and len(found) == len(wanted) == 1 else {}


def _is_text(expression: Expression) -> bool:
    return isinstance(expression, Call) and expression.name in _TEXT


def _asked(query: str, names: Sequence[str], row: list[Any], wanted: Sequence[str] | None) -> Any:
    """What Oxigraph says of one row: whether the condition holds, or the values that are wanted."""
    if any(type(value) is values.Blank for value in row):
        raise Unsettled("an expression over a blank node")
    bound = zip(names, row, strict=True)
    text = " ".join(f"BIND({values.token_of(value)} AS {name})" for name, value in bound if value is not None)
    found = ox.Store().query(query.replace("{bindings}", text))
    if wanted is None:
        return bool(found)
    solution = next(iter(cast("ox.QuerySolutions", found)))
    terms = (solution[name[1:]] for name in wanted)
    return tuple(None if term is None else value_of(values.canonical(str(term))) for term in terms)


class _Writer:
    """Writes an expression in Python; constants go into the scope under names."""

    def __init__(self, names: Sequence[str], *, inner: bool = False) -> None:
        self.inner = inner
        self.names = {name: f"x{number}" for number, name in enumerate(names)}
        self.inputs = ", ".join(self.names.values())
        self.constants: dict[str, Any] = {}

    def constant(self, value: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def test(self, expression: Expression) -> str:
        """An expression of which only the truth counts; one that looks at a single variable is remembered by its value."""
        alone = variables(expression)
        if not self.inner and len(alone) == 1 and _size(expression) > _SMALL and alone <= self.names.keys():
            name = alone.pop()
            inner = _Writer((name,), inner=True)
            function = _made(f"def run({inner.inputs}):\n    return {inner.test(expression)}\n", inner, "run")
            return f"{self.constant(lru_cache(REMEMBERED, typed=True)(function))}({self.names[name]})"
        if isinstance(expression, Call) and expression.name in _BOOLEAN:
            return self.code(expression)
        return f"v.truth({self.code(expression)})"

    def code(self, expression: Expression) -> str:
        if isinstance(expression, str):
            if is_variable(expression):
                return self.names.get(expression, "None")
            return self.constant(value_of(values.canonical(expression)))
        if isinstance(expression, Exists):
            raise CannotRead("EXISTS inside of an expression; write it as a filter of its own")
        name, args = expression.name, expression.args
        match expression:
            case Call("FLOOR", (Call("/", (above, below)),)):
                return f"v.floor_divide({self.code(above)}, {self.code(below)})"
            case Call("/", (Call("FLOOR") as whole, str(number))) if digits := _zeros(number):
                return f"v.shifted({self.code(whole)}, {digits})"
        if name in _CODE and not (name == "STR" and is_variable(args[0])):
            return _CODE[name].format(*map(self.text if name in _OF_TEXT else self.code, args))
        if name == "STR" and is_variable(args[0]):
            code = self.code(args[0])
            return f"(str({code}) if type({code}) is Iri else v.text_of({code}))"
        if name == "!":
            return f"(not {self.test(args[0])})"
        if name in ("&&", "||"):
            left, right = map(self.test, args)
            if not _fails(args[0]):
                return f"({left} {'and' if name == '&&' else 'or'} {right})"
            return f"{'both' if name == '&&' else 'either'}(lambda: {left}, lambda: {right})"
        if name == "BOUND":
            return f"({self.code(args[0])} is not None)"
        if name == "IF":
            return f"({self.code(args[1])} if {self.test(args[0])} else {self.code(args[2])})"
        if name == "COALESCE":
            return f"coalesce({', '.join(f'lambda: {self.code(arg)}' for arg in args)})"
        if name == "CONCAT":
            return f"({' + '.join(map(self.text, args))})"
        if name == "IN":
            return self.member(args[0], args[1:])
        if name in ("REGEX", "REPLACE"):
            return self.regular(name, args)
        kind = "aggregate" if name in AGGREGATES else "function"
        raise CannotRead(f"the {kind} {name} is not known here")

    def piece(self, expression: Expression) -> str:
        """An expression that has to be a part of an IRI."""
        if isinstance(expression, Call) and expression.name == "CONCAT":
            return " + ".join(map(self.piece, expression.args))
        if isinstance(expression, Call) and expression.name == "STR" and is_variable(expression.args[0]):
            code = self.code(expression.args[0])
            return f"({code} if type({code}) is Iri else v.safe(v.text_of({code})))"
        return f"v.safe({self.text(expression)})"

    def text(self, expression: Expression) -> str:
        """An expression that has to be a plain string."""
        code = self.code(expression)
        return (
            code
            if _is_text(expression) or (code in self.constants and type(self.constants[code]) is str)
            else f"v.string({code})"
        )

    def member(self, item: Expression, members: Sequence[Expression]) -> str:
        known = [value_of(values.canonical(m)) for m in members if isinstance(m, str) and not is_variable(m)]
        if len(known) < len(members) or not all(type(value) is values.Iri for value in known):
            raise CannotRead("IN with anything but IRIs")
        return f"(v.is_iri({self.code(item)}) and {self.code(item)} in {self.constant(frozenset(known))})"

    def regular(self, name: str, args: Sequence[Expression]) -> str:
        given = [value_of(arg) if isinstance(arg, str) and not is_variable(arg) else None for arg in args[1:]]
        if any(type(text) is not str for text in given) or len(given) != (1 if name == "REGEX" else 2):
            raise CannotRead(f"{name} with a pattern that is not written out, or with flags")
        try:
            expression = self.constant(values.pattern(str(given[0])))
        except EvaluationError:
            raise CannotRead(f"the regular expression {given[0]}") from None
        if name == "REGEX":
            return f"({expression}.search({self.text(args[0])}) is not None)"
        if "\\" in str(given[1]) or "$" in str(given[1]):
            raise CannotRead("REPLACE with parts of what was found")
        return f"{expression}.sub({self.constant(given[1])}, {self.text(args[0])})"


def _zeros(number: str) -> int:
    """The number of zeros of a written power of ten; 0 for anything else."""
    found = re.match(r'"10{1,18}"\^\^<http://www.w3.org/2001/XMLSchema#integer>\Z', number)
    return number.count("0", 0, number.rindex('"')) if found else 0


def _size(expression: Expression) -> int:
    """How many operators and functions an expression has."""
    return 1 + sum(map(_size, expression.args)) if isinstance(expression, Call) else 0


def _fails(expression: Expression) -> bool:
    """Whether an expression can be an error."""
    if isinstance(expression, Call) and expression.name in ("!", "&&", "||"):
        return any(map(_fails, expression.args))
    return not (isinstance(expression, Call) and expression.name == "BOUND")


def _coalesce(*options: Callable[[], Value]) -> Value:
    for option in options:
        try:
            value = option()
        except EvaluationError:
            continue
        if value is not None:
            return value
    raise EvaluationError


def _either(left: Callable[[], bool], right: Callable[[], bool]) -> bool:
    try:
        if left():
            return True
    except EvaluationError:
        if right():
            return True
        raise
    return right()


def _both(left: Callable[[], bool], right: Callable[[], bool]) -> bool:
    try:
        if not left():
            return False
    except EvaluationError:
        if not right():
            return False
        raise
    return right()


__all__ = ["EvaluationError", "Function", "Unsettled", "chained", "compiled", "variables"]
