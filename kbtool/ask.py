"""Run the queries that come with the knowledge base, or a user's own."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyoxigraph as ox

from kbtool.api import KnowledgeBase
from kbtool.knowledge import HOME
from kbtool.namespaces import RDF, local_name

_FOLDER = HOME / "queries" / "ask"
_RESULTS = {
    "csv": ox.QueryResultsFormat.CSV,
    "tsv": ox.QueryResultsFormat.TSV,
    "json": ox.QueryResultsFormat.JSON,
    "xml": ox.QueryResultsFormat.XML,
}
_GRAPHS = {"turtle": ox.RdfFormat.TURTLE, "n-triples": ox.RdfFormat.N_TRIPLES}
_PROLOGUE = re.compile(r"(\s+|#[^\n]*(\n|$)|prefix\s*[^:\s]*\s*:\s*<[^>]*>|base\s*<[^>]*>)*", re.IGNORECASE)

Report = Callable[[str], None]


class QueryError(Exception):
    """A query cannot be run. The message says which and why."""


def header(text: str) -> dict[str, str]:
    """The `#+` lines of a query: summary, description, tags, asks."""
    return dict(re.findall(r"^#\+ (\w+):\s*(.*)$", text, re.MULTILINE))


def listing() -> str:
    """The queries that come with the knowledge base, a line each, by what they ask."""
    files = sorted(_FOLDER.glob("*.rq"))
    width = max((len(f.stem) for f in files), default=0)
    found: dict[str, list[str]] = {"knowledge": [], "patients": []}
    for file in files:
        head = header(file.read_text(encoding="utf-8"))
        found[head.get("asks", "knowledge")].append(f"  {file.stem:<{width}}  {head.get('summary', '')}")
    titles = ("About the knowledge:", "About patients, whose facts are to be given:")
    return "\n".join([titles[0], *found["knowledge"], "", titles[1], *found["patients"]])


def assignment(text: str) -> tuple[str, str]:
    """Split `variable=term`. Raises QueryError where it is not of this form."""
    match = re.fullmatch(r"[?$]?(\w+)=(.+)", text, re.DOTALL)
    if match is None:
        raise QueryError(f"--set {text}: write it as variable=term, with a term like prefix:name, <IRI> or a value")
    return match[1], match[2]


def run(
    kb: KnowledgeBase,
    name: str,
    facts: list[str],
    as_of: str | None,
    values: dict[str, str],
    format: str,
    report: Report | None = None,
) -> str:
    """Run one query, by name or file, on the knowledge and, where given, on facts and what is derived from them.

    report: is told of every fact that was refused or set aside; by default it prints to standard error.
    Raises QueryError, FactsError and AsOfError.
    """
    if format not in {"table", *_RESULTS, *_GRAPHS}:
        raise QueryError(f"format {format}: use table, {', '.join(_RESULTS)}, or {' or '.join(_GRAPHS)} for a CONSTRUCT")
    text = _text(name)
    _check(name, text)
    if header(text).get("asks") == "patients" and not facts:
        raise QueryError(f"{name}: asks about patients; give their facts too, as in: kbtool query {name} patient.ttl")
    sources = (sys.stdin.buffer.read() if path == "-" else path for path in facts)
    store = kb.store(*sources, as_of=as_of, report=report or _print)
    prefixes = kb.knowledge.prefixes
    known = dict(re.findall(r"(?im)^\s*prefix\s+([\w.-]*):\s*<([^>]*)>", text)) | prefixes
    try:
        result: Any = store.query(text, prefixes=prefixes)
        if values:
            terms = {variable: _meant(variable, value, known, store, text) for variable, value in values.items()}
            result = store.query(_only(result, text, terms), prefixes=prefixes)
        return _write(result, format, prefixes)
    except SyntaxError as error:
        raise QueryError(f"{name}: {explained(text, prefixes, error)}") from None
    except (ValueError, OSError, RuntimeError) as error:
        raise QueryError(f"{name}: {error}") from None


def _only(result: Any, text: str, terms: dict[str, list[Any]]) -> str:
    """The query with only the rows in which each variable is one of its terms. A filter around the query does it: an engine's
    substitution would also give rows that have nothing there, with the term filled in."""
    selected = [v.value for v in result.variables] if isinstance(result, ox.QuerySolutions) else []
    for variable in terms:
        if variable not in selected:
            raise QueryError(f"--set {variable}: the query selects {', '.join(f'?{v}' for v in selected) or 'no variables'}")
    head = _PROLOGUE.match(text)
    end = head.end() if head else 0
    condition = " && ".join(f"?{variable} IN ({', '.join(map(str, meant))})" for variable, meant in terms.items())
    return f"{text[:end]}\nSELECT {' '.join(f'?{v}' for v in selected)} WHERE {{ {{ {text[end:]}\n}} FILTER({condition}) }}"


def _print(line: str) -> None:
    print(line, file=sys.stderr)


def _text(name: str) -> str:
    path = _FOLDER / f"{name}.rq"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise QueryError(f"{name}: no query of this name and no such file; `kbtool query` lists the names")
    try:
        return plain(path.read_text(encoding="utf-8-sig"))
    except (UnicodeError, QueryError) as error:
        raise QueryError(f"{name}: {error if isinstance(error, QueryError) else 'not UTF-8 text'}") from None


def plain(text: str) -> str:
    """The text of a query with escaped characters written out: escapes are decoded before a query is parsed, so that a
    guard which reads the text, or a parser that decodes a little differently, would otherwise see another query.

    Raises QueryError for an escape that is incomplete, escaped itself, or names no character."""
    try:
        text = re.sub(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})", lambda m: chr(int(m[1] or m[2], 16)), text)
        text.encode("utf-8")
    except (UnicodeError, ValueError, OverflowError):
        raise QueryError("an escape that names no character") from None
    if re.search(r"\\[uU]", text):
        raise QueryError("an escape that is incomplete, or escaped itself; write the character as it is")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check(name: str, text: str) -> None:
    """Refuse what is not a query, and a query that would send what it finds to another machine or that reads another
    graph than the one there is. The parsed query is searched, not the text."""
    from pyparsing import ParseException
    from rdflib.plugins.sparql.parser import parseQuery
    from rdflib.plugins.sparql.parserutils import CompValue

    try:
        waiting: list[Any] = [parseQuery(text)]
    except ParseException as error:
        rest = textwrap.shorten(error.line[error.column - 1 :], 60, placeholder=" ...") or "(the end)"
        raise QueryError(f"{name}: line {error.lineno}, column {error.column}: not a SPARQL query from here on: {rest}") from None
    except RecursionError:
        raise QueryError(f"{name}: nested too deeply") from None
    while waiting:
        node = waiting.pop()
        if isinstance(node, CompValue):
            if node.name == "ServiceGraphPattern":
                raise QueryError(f"{name}: SERVICE sends data to another machine and is refused")
            if node.name == "DatasetClause":
                raise QueryError(f"{name}: FROM names another graph; everything is in the default graph, and nothing is fetched")
            waiting.extend(node.values())
        elif isinstance(node, list | tuple) or type(node).__name__ == "ParseResults":
            waiting.extend(node)


def explained(text: str, prefixes: dict[str, str], error: SyntaxError) -> str:
    """Where a query that parses is wrong, and why: rdflib says it in words, Oxigraph says where."""
    from rdflib.plugins.sparql.algebra import translateQuery
    from rdflib.plugins.sparql.parser import parseQuery

    why = re.sub(r"^error at \d+:\d+: ", "", error.msg)
    why = next(iter(re.findall(r"The [A-Z]+ [^,]+", why)), why)
    try:
        translateQuery(parseQuery(text), initNs=prefixes)
    except Exception as found:
        why = why if isinstance(found, OSError) else re.sub(r" +\(at char \d+\), \(line:\d+, col:\d+\)", "", str(found))
    if "Prefix not found" in why:
        why = "a prefix that is not declared"
    place = re.match(r"error at (\d+):(\d+)", error.msg)
    return (f"line {place[1]}, column {place[2]}: " if place else "") + textwrap.shorten(why, 160, placeholder=" ...")


def _meant(variable: str, text: str, prefixes: dict[str, str], store: ox.Store, query: str) -> list[Any]:
    """The terms that a user may mean by `--set variable=text`: a term in Turtle, the last part of an IRI, a text, a label.

    Raises QueryError for what occurs neither in the store nor in the query: it would find nothing, and silently.
    """
    term, texts = _turtle(text, prefixes), [ox.Literal(text), ox.Literal(text, language="en")]
    if isinstance(term, ox.Literal):
        return [term, texts[0]]
    subjects = {q.subject for q in store.quads_for_pattern(None, RDF["type"], None, None) if isinstance(q.subject, ox.NamedNode)}
    named = sorted(s.value for s in subjects if local_name(s.value) == text)
    found = [*map(ox.NamedNode, named), *texts] if term is None else [term]
    if f'"{text}"' in query or any(_occurs(each, store) for each in found):
        return found
    hint = f"; known prefixes are {', '.join(sorted(prefixes))}" if term is None and ":" in text else ""
    raise QueryError(f"--set {variable}={text}: no such term in the knowledge or the facts{hint}")


def _turtle(text: str, prefixes: dict[str, str]) -> Any:
    """The term that a text is in Turtle, or None; an IRI may stand without its brackets."""
    if re.match(r"(https?|urn):", text):
        text = f"<{text}>"
    head = "".join(f"@prefix {name}: <{iri}> . " for name, iri in prefixes.items())
    try:
        found = [q.object for q in ox.parse(f"{head}<x:s> <x:p> {text} .", ox.RdfFormat.TURTLE)]
    except (SyntaxError, ValueError):
        return None
    return found[0] if len(found) == 1 and not isinstance(found[0], ox.BlankNode) else None


def _occurs(term: Any, store: ox.Store) -> bool:
    patterns: list[tuple[Any, Any, Any]] = [(None, None, term)]
    if isinstance(term, ox.NamedNode):
        patterns += [(term, None, None), (None, term, None)]
    return any(next(store.quads_for_pattern(*pattern, None), None) is not None for pattern in patterns)


def _write(result: Any, format: str, prefixes: dict[str, str]) -> str:
    if isinstance(result, ox.QueryTriples):
        kind = _GRAPHS.get("turtle" if format == "table" else format)
        if kind is None:
            raise QueryError(f"a CONSTRUCT is printed as {' or '.join(_GRAPHS)}, not as {format}")
        return (ox.serialize(result, format=kind, prefixes=prefixes if kind == ox.RdfFormat.TURTLE else None) or b"").decode()
    if format == "table":
        return _table(result, prefixes)
    if format not in _RESULTS:
        raise QueryError(f"format {format} is for a CONSTRUCT; use table, {', '.join(_RESULTS)}")
    return (result.serialize(format=_RESULTS[format]) or b"").decode() + ("\n" if format == "json" else "")


def _table(result: Any, prefixes: dict[str, str]) -> str:
    if isinstance(result, ox.QueryBoolean):
        return f"{'yes' if result else 'no'}\n"
    names = [v.value for v in result.variables]
    rows = [[_cell(row[n], prefixes) for n in names] for row in result]
    widths = [max(len(line[i]) for line in [names, *rows]) for i in range(len(names))]
    shown = [names, ["-" * w for w in widths], *rows]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in shown]
    return "\n".join(lines) + f"\n({len(rows)} {'row' if len(rows) == 1 else 'rows'})\n"


def _cell(term: Any, prefixes: dict[str, str]) -> str:
    if term is None:
        return ""
    if isinstance(term, ox.NamedNode):
        for prefix, namespace in prefixes.items():
            if term.value.startswith(namespace):
                return f"{prefix}:{term.value[len(namespace) :]}"
    return str(term.value if hasattr(term, "value") else term)
