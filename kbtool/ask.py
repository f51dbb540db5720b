"""Run the queries that come with the knowledge base, or a user's own, and write every step out for other stores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyoxigraph as ox

from kbtool.api import KnowledgeBase
from kbtool.knowledge import HOME
from kbtool.namespaces import VANN, XSD, local_name, text

_FOLDER = HOME / "queries" / "ask"
_RESULTS = {
    "csv": ox.QueryResultsFormat.CSV,
    "tsv": ox.QueryResultsFormat.TSV,
    "json": ox.QueryResultsFormat.JSON,
    "xml": ox.QueryResultsFormat.XML,
}
_GRAPHS = {"turtle": ox.RdfFormat.TURTLE, "n-triples": ox.RdfFormat.N_TRIPLES}


class QueryError(Exception):
    """A query cannot be run. The message says which and why."""


def header(text: str) -> dict[str, str]:
    """The `#+` lines of a query: summary, description, tags."""
    return dict(re.findall(r"^#\+ (\w+):\s*(.*)$", text, re.MULTILINE))


def listing() -> str:
    """The queries that come with the knowledge base, a line each."""
    files = sorted(_FOLDER.glob("*.rq"))
    width = max(len(f.stem) for f in files)
    return "\n".join(f"{f.stem:<{width}}  {header(f.read_text(encoding='utf-8')).get('summary', '')}" for f in files)


def assignment(text: str) -> tuple[str, str]:
    """Split `variable=term`. Raises QueryError where there is no equals sign."""
    name, sign, term = text.partition("=")
    if not sign:
        raise QueryError(f"--set {text}: write it as variable=term, with a term like prefix:name, <IRI> or a value")
    return name.lstrip("?$"), term


def run(kb: KnowledgeBase, name: str, facts: list[str], as_of: str | None, values: dict[str, str], format: str) -> str:
    """Run one query, by name or file, on the knowledge and, where given, on facts and what is derived from them."""
    text = _text(name)
    _refuse_service(name, text)
    prefixes = _prefixes(kb)
    substitutions = {ox.Variable(k): _term(v, prefixes) for k, v in values.items()}
    store = kb.store(*facts, as_of=as_of)
    try:
        result: Any = store.query(text, prefixes=prefixes, substitutions=substitutions)
    except SyntaxError as error:
        raise QueryError(f"{name}: {error.msg}") from None
    except (ValueError, OSError) as error:
        raise QueryError(f"{name}: {error}") from None
    unknown = [k for k in values if not re.search(rf"[?$]{re.escape(k)}\b", text)]
    if unknown:
        raise QueryError(f"--set {unknown[0]}: the query has no such variable")
    return _write(result, format, prefixes)


def _text(name: str) -> str:
    path = _FOLDER / f"{name}.rq"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise QueryError(f"{name}: no query of this name and no such file; `kbtool query` lists the names")
    return path.read_text(encoding="utf-8")


def _refuse_service(name: str, text: str) -> None:
    """Refuse a query that would send what it finds to another machine. The parsed query is searched, not the text,
    because SPARQL decodes escapes before it parses."""
    from pyparsing import ParseException
    from rdflib.plugins.sparql.parser import parseQuery
    from rdflib.plugins.sparql.parserutils import CompValue

    try:
        waiting: list[Any] = [parseQuery(text)]
    except ParseException as error:
        raise QueryError(f"{name}: line {error.lineno}, column {error.column}: {error.msg}") from None
    except RecursionError:
        raise QueryError(f"{name}: nested too deeply") from None
    while waiting:
        node = waiting.pop()
        if isinstance(node, CompValue):
            if node.name == "ServiceGraphPattern":
                raise QueryError(f"{name}: SERVICE sends data to another machine and is refused")
            waiting.extend(node.values())
        elif isinstance(node, list | tuple) or type(node).__name__ == "ParseResults":
            waiting.extend(node)


def _prefixes(kb: KnowledgeBase) -> dict[str, str]:
    graph = kb.knowledge.graph
    namespaces = {q.subject: text(q.object) for q in graph.quads_for_pattern(None, VANN["preferredNamespaceUri"], None, None)}
    names = {q.subject: text(q.object) for q in graph.quads_for_pattern(None, VANN["preferredNamespacePrefix"], None, None)}
    return {names[s]: namespaces[s] for s in namespaces if s in names}


def _term(text: str, prefixes: dict[str, str]) -> Any:
    if match := re.fullmatch(r"<([^<>\s]+)>|((?:https?|urn):[^\s]+)", text):
        return ox.NamedNode(match[1] or match[2])
    prefix, sign, name = text.partition(":")
    if sign and prefix in prefixes:
        return ox.NamedNode(prefixes[prefix] + name)
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
        return ox.Literal(text, datatype=XSD["decimal" if "." in text else "integer"])
    return ox.Literal(text)


def _write(result: Any, format: str, prefixes: dict[str, str]) -> str:
    if isinstance(result, ox.QueryTriples):
        kind = _GRAPHS.get("turtle" if format == "table" else format)
        if kind is None:
            raise QueryError(f"a CONSTRUCT is printed as {' or '.join(_GRAPHS)}, not as {format}")
        return (ox.serialize(result, format=kind, prefixes=prefixes if kind == ox.RdfFormat.TURTLE else None) or b"").decode()
    if format == "table":
        return _table(result, prefixes)
    if format not in _RESULTS:
        raise QueryError(f"format {format}: use table, {', '.join(_RESULTS)}")
    return (result.serialize(format=_RESULTS[format]) or b"").decode() + ("\n" if format == "json" else "")


def _table(result: Any, prefixes: dict[str, str]) -> str:
    if isinstance(result, ox.QueryBoolean):
        return f"{'yes' if result else 'no'}\n"
    names = [v.value for v in result.variables]
    rows = [[_cell(row[n], prefixes) for n in names] for row in result]
    widths = [max(len(line[i]) for line in [names, *rows]) for i in range(len(names))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in [names, ["-" * w for w in widths], *rows]]
    return "\n".join(lines) + f"\n({len(rows)} {'row' if len(rows) == 1 else 'rows'})\n"


def _cell(term: Any, prefixes: dict[str, str]) -> str:
    if term is None:
        return ""
    if isinstance(term, ox.NamedNode):
        for prefix, namespace in prefixes.items():
            if term.value.startswith(namespace):
                return f"{prefix}:{term.value[len(namespace):]}"
    return str(term.value if hasattr(term, "value") else term)


_PARTS_A_FILE = 25
"""Updates in one exported file; parsers that recurse (rdflib's does) fail on a file with very many."""

_RUN_IT = """How to derive the answers in a store of your own
================================================

Everything here is plain SPARQL 1.1 and RDF. In an empty default graph:

1. Load {knowledge}.
2. Load the facts of your patients. Blank nodes must have become IRIs, except where a patient is one.
3. Say for which time: INSERT DATA {{ cg:Run cg:asOf "2026-02-10T12:00:00Z"^^xsd:dateTime }}
4. Find what does not conform with the SELECT queries in validate/. For each ?this: where it is an observation, delete
   the triple that links it to its patient; where it is anything else, delete the patient. Queries whose header says
   Warning only warn.
5. Run the updates in the order of their numbers. Each only adds triples.

Then ask: ?patient cg:recommended ?recommendation, and so on (queries in ask/). Do it in batches of some hundred
patients, or in one graph for all; clear what was derived before you run it again.
"""


def export(kb: KnowledgeBase, folder: Path) -> list[str]:
    """Write the knowledge, the compiled shapes and every step as files, and how to run them. Returns the file names.

    Raises QueryError where the folder holds files already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise QueryError(f"{folder}: is not an empty folder; nothing was written")
    for sub in ("", "validate", "ask"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    written: list[str] = []

    def write(name: str, text: str | bytes) -> None:
        data = text.encode("utf-8") if isinstance(text, str) else text
        (folder / name).write_bytes(data)
        written.append(name)

    triples = sorted({q.triple for q in kb.knowledge.graph}, key=str)
    write("00-knowledge.nt", ox.serialize(triples, format=ox.RdfFormat.N_TRIPLES) or b"")
    for number, constraint in enumerate(kb.knowledge.shapes, 1):
        write(f"validate/{number:02}.rq", f"#+ summary: {_line(constraint.message)}\n#+ shape: {constraint.shape}\n#+ severity: {local_name(constraint.severity)}\n{constraint.query}\n")
    chunks = [
        (step, step.parts[start : start + _PARTS_A_FILE])
        for step in kb.knowledge.steps
        for start in range(0, len(step.parts), _PARTS_A_FILE)
    ]
    for number, (step, parts) in enumerate(chunks, 1):
        update = step.prologue + " ;\n\n".join(part.text for part in parts)
        write(f"{number:02}-{step.name.replace('/', '-')}.ru", update.rstrip() + "\n")
    for file in sorted(_FOLDER.glob("*.rq")):
        write(f"ask/{file.name}", file.read_text(encoding="utf-8"))
    write("README.txt", _RUN_IT.format(knowledge=written[0]))
    return written


def _line(text: str) -> str:
    return " ".join(text.split())
