"""The command that shows how FHIR is read."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pyoxigraph as ox
import typer

from kbtool.api import load
from kbtool.cli_common import Ontology, errors
from kbtool.facts import FORMAT_NAMES, Facts, FactsError, Reader, sources
from kbtool.namespaces import CG


class GraphFormat(StrEnum):
    """What convert prints."""

    turtle = "turtle"
    ntriples = "ntriples"


def convert(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="FHIR (JSON, NDJSON) or RDF, files or folders; - is standard input.", show_default=False
        ),
    ],
    to: Annotated[GraphFormat, typer.Option("--to", help="What to print.")] = GraphFormat.turtle,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write instead of printing.")
    ] = None,
    ontology: Ontology = None,
    input_format: Annotated[
        str | None, typer.Option("--input-format", help=f"The format of the input: {', '.join(FORMAT_NAMES)}.")
    ] = None,
) -> None:
    """Show the facts that are read from a record, and say on standard error what was not read.

    Exit codes: 0 everything that the guideline knows was read, 1 something was not, 2 kbtool could not run.

    Example: kbtool convert bundle.json
    """
    with errors():
        if input_format is not None and input_format not in FORMAT_NAMES:
            raise FactsError(f"{input_format!r} is not a format; use one of {', '.join(FORMAT_NAMES)}")
        kb = load(ontology)
        forced = FORMAT_NAMES[input_format] if input_format else None
        reader = Reader(vocabulary=kb.knowledge.graph)
        for name, data, kind in sources(inputs, sys.stdin.buffer, forced):
            reader.add(name, data, forced or kind)
        facts = reader.facts(kb.knowledge.graph)
        triples = dict.fromkeys(quad.triple for group in facts.groups for record in group for quad in record.triples)
        prefixes = {"cg": CG.iri, "xsd": "http://www.w3.org/2001/XMLSchema#", **kb.knowledge.prefixes}
        kind = ox.RdfFormat.TURTLE if to is GraphFormat.turtle else ox.RdfFormat.N_TRIPLES
        text = (ox.serialize(triples, format=kind, prefixes=prefixes if to is GraphFormat.turtle else None) or b"").decode()
        if output is not None:
            output.write_text(text, encoding="utf-8")
        else:
            typer.echo(text, nl=False)
    raise typer.Exit(0 if _tell(facts) else 1)


def _tell(facts: Facts) -> bool:
    """Say what was not read, and tell whether everything was that the guideline knows."""
    clean = not facts.strays
    for record in (record for group in facts.groups for record in group):
        name = record.patient.value
        for entry in sorted(record.not_read, key=lambda e: not e["matters"]):
            clean &= not entry["matters"]
            word = "not read" if entry["matters"] else "not counted or not in full"
            code = f" [{entry['code']}]" if entry["code"] else ""
            typer.echo(f"kbtool: {name}: {word}: {entry['resource']}: {entry['reason']}{code}", err=True)
        for label, count in record.not_needed.items():
            typer.echo(f"kbtool: {name}: not known to the guideline: {label}: {count}", err=True)
    for node in facts.strays:
        typer.echo(f"kbtool: {node}: belongs to no patient and was not read", err=True)
    return clean
