"""The command line. Exit codes: 0 everything was accepted, 1 something was refused or set aside, 2 cannot run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import pyoxigraph as ox
import typer

from kbtool import __version__, cli_cohort, cli_diff, cli_fhir, cli_knowledge, cli_serve, engine
from kbtool.api import KnowledgeBase, document, load
from kbtool.cli_common import Ontology, Quiet, errors, fail
from kbtool.facts import FORMAT_NAMES, Facts, FactsError, Reader, sources

if TYPE_CHECKING:
    from kbtool.answer import PatientResult
    from kbtool.explain import Explainer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Assess patients by a clinical guideline that is data.",
)


class Format(StrEnum):
    """What explain prints."""

    text = "text"
    json = "json"
    turtle = "turtle"


class AnswerFormat(StrEnum):
    """What assess prints."""

    text = "text"
    json = "json"
    turtle = "turtle"
    html = "html"
    fhir = "fhir"


class InputFormat(StrEnum):
    """The formats of facts."""

    turtle = "turtle"
    json_ld = "json-ld"
    n_triples = "n-triples"
    rdf_xml = "rdf-xml"
    fhir = "fhir"


FactPaths = Annotated[
    list[str],
    typer.Argument(metavar="FACTS...", help="Files or folders of patient facts; - is standard input.", show_default=False),
]
AsOf = Annotated[
    str | None, typer.Option("--as-of", metavar="TIME", help="The time of the assessment, with a zone; now where not given.")
]
Input = Annotated[
    InputFormat | None, typer.Option("--input-format", help="The format of the facts, where the file ending does not tell it.")
]
Strict = Annotated[bool, typer.Option("--strict", help="A bad observation refuses its patient instead of being set aside.")]


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"kbtool {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Exit codes: 0 every fact was accepted, 1 something was refused or set aside, 2 kbtool could not run."""


def _read(kb: KnowledgeBase, paths: list[str], kind: InputFormat | None) -> tuple[Facts, bool]:
    """Read all sources; one that is broken is reported and does not stop the others."""
    reader, broken = Reader(vocabulary=kb.knowledge.graph), False
    forced = FORMAT_NAMES[kind.value] if kind else None
    for path in paths:
        found = sources([path], sys.stdin.buffer, forced)
        while True:
            try:
                name, data, guessed = next(found)
                reader.add(name, data, forced or guessed)
            except StopIteration:
                break
            except FactsError as error:
                broken = True
                typer.echo(f"kbtool: {error}", err=True)
    return reader.facts(kb.knowledge.graph), broken


def _progress(quiet: bool, total: int) -> engine.Progress | None:
    if quiet or total <= engine.BATCH:
        return None

    def show(done: int, of: int) -> None:
        end = "\n" if done >= of else ""
        sys.stderr.write(f"\r{done} of {of} patients{end}")
        sys.stderr.flush()

    return show


@app.command()
def assess(
    facts: FactPaths,
    as_of: AsOf = None,
    format: Annotated[AnswerFormat, typer.Option("--format", "-f", help="What to print.")] = AnswerFormat.text,
    strict: Strict = False,
    explain: Annotated[bool, typer.Option("--explain", help="Add why, and what to find out next.")] = False,
    ontology: Ontology = None,
    input_format: Input = None,
    quiet: Quiet = False,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="URL", help="Assess in a SPARQL 1.1 store, in a graph of its own.")
    ] = None,
    update_endpoint: Annotated[
        str | None, typer.Option("--update-endpoint", metavar="URL", help="For updates, where it is not URL/update.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave that graph in the store, and name it.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="For each request to the store; 120 where not given.")
    ] = None,
) -> None:
    """Say what to do and what never to do for each patient, with reasons and sources.

    Example: kbtool assess patient.ttl --as-of 2026-02-10T12:00:00Z
    """
    with errors():
        for name, value in (("--update-endpoint", update_endpoint), ("--keep", keep or None), ("--timeout", timeout)):
            if endpoint is None and value is not None:
                fail(f"{name} is for a store; name it with --endpoint, or leave {name} out")
        kb = load(ontology)
        moment = engine.parse_as_of(as_of)
        read, broken = _read(kb, facts, input_format)
        if not len(read) and not read.strays and not broken:
            fail("no patient in the facts; a patient is an IRI with `a cg:Patient`")
        if format is AnswerFormat.html:
            if endpoint is not None:
                fail("a page explains, which works here and not in a store; leave --endpoint out")
            from kbtool.explain import explainers

            clean = _report(kb, explainers(kb.knowledge, read, moment, strict=strict), moment.value, read.strays)
            raise typer.Exit(2 if broken else 0 if clean else 1)
        if endpoint is not None:
            if explain:
                fail("--explain works here and not in a store; leave --endpoint out")
            from kbtool.cli_endpoint import in_store
            from kbtool.endpoint import TIMEOUT

            seconds = TIMEOUT if timeout is None else timeout
            results = in_store(kb, read, moment, endpoint, update_endpoint, seconds, strict=strict, keep=keep)
        elif explain:
            from kbtool.explain import explained

            results = explained(kb.knowledge, read, moment, strict=strict)
        else:
            results = engine.assess(kb.knowledge, read, moment, strict=strict, progress=_progress(quiet, len(read)))
        clean = _print(kb, moment.value, results, read.strays, format)
    raise typer.Exit(2 if broken else 0 if clean else 1)


def _report(kb: KnowledgeBase, explainers: Iterable[Explainer], as_of: str, strays: list[str]) -> bool:
    """Print the answers as one page, and tell whether everything was accepted."""
    from kbtool.report import render

    clean = not strays

    def watched() -> Iterator[Explainer]:
        nonlocal clean
        for explainer in explainers:
            clean &= explainer.result.accepted
            yield explainer

    for piece in render(kb.knowledge, watched(), as_of, kb.about, strays):
        sys.stdout.write(piece)
    return clean


def _print(kb: KnowledgeBase, as_of: str, results: Iterator[Any], strays: list[str], format: AnswerFormat) -> bool:
    """Print answers as they come, and tell whether everything was accepted."""
    clean = not strays
    out = sys.stdout
    empty = document(kb.about, as_of, [], strays)
    labels = kb.knowledge.labels_by_name
    if format is AnswerFormat.text:
        from kbtool.answer import statement_texts
        from kbtool.text import patient_lines, render

        statements = statement_texts(kb.knowledge)
        head, tail = render(empty | {"unassigned": []}, labels, statements), render(empty, labels, statements)
        out.write(head + "\n")
        for result in results:
            clean &= result.accepted
            out.write("\n".join(patient_lines(result.data, labels, statements)) + "\n")
            if "explanations" in result.data:
                from kbtool.explain_text import render as render_why
                from kbtool.explain_text import render_next

                out.write(render_next(result.data["next"]) + "\n")
                for explanation in result.data["explanations"].values():
                    out.write(render_why(result.patient, explanation, labels) + "\n")
        out.write(tail.removeprefix(head).lstrip("\n"))
    elif format is AnswerFormat.json:
        head, tail = json.dumps(empty, indent=1, ensure_ascii=False).split('"patients": []')
        out.write(head + '"patients": [')
        for number, result in enumerate(results):
            clean &= result.accepted
            out.write((",\n" if number else "\n") + json.dumps(result.data, indent=1, ensure_ascii=False))
        out.write("]" + tail + "\n")
    elif format is AnswerFormat.fhir:
        from kbtool.fhir.write import pieces

        def answers() -> Iterator[dict[str, Any]]:
            nonlocal clean
            for result in results:
                clean &= result.accepted
                yield result.data

        out.writelines(pieces(kb, as_of, answers(), strays))
    else:
        prefixes = {"cg": "https://w3id.org/kbtool/cg/"}
        for result in results:
            clean &= result.accepted
            text = ox.serialize(
                sorted((q.triple for q in result.triples), key=str), format=ox.RdfFormat.TURTLE, prefixes=prefixes
            )
            out.write((text or b"").decode() + "\n")
            _tell(result)
        _tell_strays(strays)
    return clean


def _tell(result: PatientResult) -> None:
    """Say on standard error what of a patient's facts was not accepted, where the output itself does not say it."""
    for title, violations in (("refused", result.refused), ("set aside", result.data["setAside"])):
        for violation in violations:
            typer.echo(f"kbtool: {result.patient}: {title}: {violation['message']}", err=True)
    for entry in result.data.get("notRead", ()):
        if entry["matters"]:
            typer.echo(f"kbtool: {result.patient}: not read: {entry['resource']}: {entry['reason']}", err=True)


def _tell_strays(strays: list[str]) -> None:
    for node in strays:
        typer.echo(f"kbtool: {node}: belongs to no patient and was not read", err=True)


@app.command()
def validate(facts: FactPaths, as_of: AsOf = None, ontology: Ontology = None, input_format: Input = None) -> None:
    """Say what is wrong with facts, without deriving anything.

    Example: kbtool validate facts/
    """
    with errors():
        kb = load(ontology)
        moment = engine.parse_as_of(as_of)
        read, broken = _read(kb, facts, input_format)
        bad = warned = 0
        for batch in engine.batches(read):
            store = engine.load_store(kb.knowledge, batch, moment)
            checked = engine.check(store, kb.knowledge, batch)
            for title, found in (("refused", checked.refused), ("set aside", checked.set_aside), ("check", checked.warnings)):
                for patient, violations in found.items():
                    for violation in violations:
                        bad += title != "check"
                        warned += title == "check"
                        typer.echo(f"{patient}: {title}: {violation.message}\n    at {violation.focus}")
        for record in (record for group in read.groups for record in group):
            for entry in record.not_read:
                bad += entry["matters"]
                warned += not entry["matters"]
                title = "not read" if entry["matters"] else "check"
                typer.echo(f"{record.patient}: {title}: {entry['resource']}: {entry['reason']}")
        for node in read.strays:
            bad += 1
            typer.echo(f"{node}: belongs to no patient")
        typer.echo(f"{len(read)} patients, {bad} violations, {warned} to check")
    raise typer.Exit(2 if broken else 1 if bad else 0)


@app.command()
def query(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="A query that comes with kbtool, or a SPARQL file; without one, the list.",
            show_default=False,
        ),
    ] = None,
    facts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FACTS...]", help="Patient facts; without them, only the knowledge is asked.", show_default=False
        ),
    ] = None,
    as_of: AsOf = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="VARIABLE=TERM", help="Bind a variable of the query, as in --set statement=prefix:name."),
    ] = None,
    ontology: Ontology = None,
    format: Annotated[str, typer.Option("--format", "-f", help="table, csv, tsv, json or xml; turtle for CONSTRUCT.")] = "table",
) -> None:
    """Ask the knowledge, and the answers of patients, by SPARQL.

    Example: kbtool query recommended patient.ttl
    """
    from kbtool import ask

    with errors():
        kb = load(ontology)
        if name is None:
            typer.echo(ask.listing())
            return
        problems: list[str] = []
        try:
            values = dict(ask.assignment(s) for s in set_ or [])
            text = ask.run(kb, name, facts or [], as_of, values, format, report=problems.append)
        except ask.QueryError as error:
            fail(str(error))
        typer.echo(text, nl=False)
        for problem in problems:
            typer.echo(problem, err=True)
    raise typer.Exit(1 if problems else 0)


@app.command()
def explain(
    facts: Annotated[
        str, typer.Argument(metavar="FACTS", help="A file or folder of patient facts; - is standard input.", show_default=False)
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="A recommendation, prohibition, assessment or caution; without one, what to find out next.",
            show_default=False,
        ),
    ] = None,
    as_of: AsOf = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="text, json or turtle.")] = Format.text,
    ontology: Ontology = None,
    input_format: Input = None,
) -> None:
    """Say why a rule speaks, why it does not, what would change that, and what to find out next.

    Example: kbtool explain patient.ttl RULE
    """
    from kbtool import explain as explaining
    from kbtool.explain_text import render, render_next

    with errors():
        kb = load(ontology)
        moment = engine.parse_as_of(as_of)
        read, broken = _read(kb, [facts], input_format)
        if not len(read) and not broken:
            fail("no patient in the facts; a patient is an IRI with `a cg:Patient`")
        if format is Format.turtle and name is None:
            fail("a graph explains one rule; name it, or take --format json")
        labels = kb.knowledge.labels_by_name
        found: list[dict[str, Any]] = []
        clean = not read.strays
        _tell_strays(read.strays)
        for explainer in explaining.explainers(kb.knowledge, read, moment):
            result = explainer.result
            clean &= result.accepted
            _tell(result)
            if result.refused:
                typer.echo(f"kbtool: {result.patient}: nothing is derived, so that there is nothing to explain", err=True)
                continue
            try:
                said = explainer.explain(name) if name else None
            except explaining.NoSuchRuleError as error:
                fail(str(error))
            if format is Format.text:
                typer.echo(render(result.patient, said, labels) if said else render_next(explainer.next()), nl=False)
            elif format is Format.turtle and said:
                triples = explaining.to_triples(said, ox.NamedNode(result.patient), kb.about)
                text = ox.serialize(sorted(triples, key=str), format=ox.RdfFormat.TURTLE, prefixes=kb.knowledge.prefixes)
                typer.echo((text or b"").decode(), nl=False)
            else:
                found.append({"patient": result.patient} | ({"explanation": said} if said else {"next": explainer.next()}))
        if format is Format.json:
            typer.echo(json.dumps({"kb": kb.about, "asOf": moment.value, "patients": found}, indent=1, ensure_ascii=False))
    raise typer.Exit(2 if broken else 0 if clean else 1)


app.command()(cli_diff.diff)
app.command()(cli_serve.serve)
for command in (cli_knowledge.check_, cli_knowledge.fmt, cli_knowledge.docs, cli_knowledge.export, cli_knowledge.terms):
    app.command(name=command.__name__.rstrip("_"))(command)
app.command()(cli_cohort.cohort)
app.command()(cli_fhir.convert)


def run() -> None:
    """The console script: no traceback reaches a user."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
    except KeyboardInterrupt:
        sys.exit(130)
