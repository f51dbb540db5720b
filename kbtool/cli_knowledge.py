"""The commands of those who look after a knowledge base: check, fmt, docs, export, terms."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kbtool.api import load
from kbtool.cli_common import Ontology, Quiet, errors, fail


def docs(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is new or empty.", show_default=False)],
    ontology: Ontology = None,
    cases: Annotated[
        Path | None, typer.Option("--cases", metavar="FOLDER", help="Worked patients with their expected answers.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the guideline as a web site that opens without a server: rules, statements, terms, open questions, search.

    Example: kbtool docs site/
    """
    from kbtool.checks.run import worked_patients
    from kbtool.docs import write_site
    from kbtool.export import ExportError

    with errors():
        try:
            tell = None if quiet else _pages
            written = write_site(load(ontology), out, cases=cases or worked_patients(ontology), progress=tell)
        except ExportError as error:
            fail(str(error))
        typer.echo(f"{len(written)} files in {out}; open {out / 'index.html'}")


def check_(
    ontology: Ontology = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text, json, junit, sarif or github.")] = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there, and a summary to the terminal.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", "-g", metavar="NAME", help="Only this group of checks; may be repeated.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option("--profile", metavar="FILE", help="Severities of your own, as in shapes/profile.ttl.")
    ] = None,
    cases: Annotated[
        Path | None, typer.Option("--cases", metavar="FOLDER", help="Worked patients with their expected answers.")
    ] = None,
    fail_on: Annotated[str, typer.Option("--fail-on", metavar="SEVERITY", help="error, warning or note.")] = "error",
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Time limit of the reasoner.")] = 300.0,
    list_: Annotated[bool, typer.Option("--list", help="List the checks, with problem, solution and severity.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show all findings and whole witnesses.")] = False,
    quiet: Quiet = False,
) -> None:
    """Say whether the knowledge base itself is sound, and show a patient where it is not.

    Exit codes: 0 sound, 1 something was found that is as severe as --fail-on, 2 a check could not run.

    Example: kbtool check --format sarif --output check.sarif
    """
    from kbtool.checks import run as checks
    from kbtool.checks.model import Severity
    from kbtool.checks.report import Format as ReportFormat
    from kbtool.checks.report import write

    with errors():
        try:
            kind, fails = ReportFormat(format), Severity(fail_on)
            if list_:
                typer.echo(checks.listing(profile))
                return
            report = checks.check(
                ontology,
                profile=profile,
                cases=cases,
                groups=group or (),
                timeout=timeout,
                fails=fails,
                progress=None if quiet else lambda line: typer.echo(line, err=True),
            )
        except ValueError as error:
            fail(str(error))
        text = write(kind, report, verbose=verbose)
        if output is None:
            typer.echo(text, nl=False)
        else:
            output.write_text(text, encoding="utf-8")
            typer.echo(write(ReportFormat.text, report, verbose=verbose), nl=False)
    raise typer.Exit(1 if report.failed else 2 if report.incomplete else 0)


def fmt(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILES...]", help="Turtle files and folders; the knowledge base without any.", show_default=False
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; show what would change and exit with 1.")] = False,
) -> None:
    """Write Turtle in one fixed form, so that a diff shows what was changed and nothing else.

    Exit codes: 0 nothing to change, or changed; 1 with --check where a file would change; 2 a file cannot be read.

    Example: kbtool fmt --check
    """
    from kbtool import turtle

    with errors():
        try:
            changed = turtle.format_files(files or (), check=check, report=lambda line: typer.echo(f"kbtool: {line}", err=True))
        except turtle.TurtleError as error:
            fail(str(error))
        for one in changed:
            typer.echo(one.diff() if check else f"{one.path}: formatted", nl=not check)
    raise typer.Exit(1 if check and changed else 0)


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that is new or empty.", show_default=False)],
    ontology: Ontology = None,
) -> None:
    """Write the knowledge and every step as numbered files that any SPARQL 1.1 store can run.

    Example: kbtool export steps/
    """
    from kbtool.export import ExportError
    from kbtool.export import export as write

    with errors():
        try:
            written = write(load(ontology), folder)
        except ExportError as error:
            fail(str(error))
        typer.echo(f"{len(written)} files in {folder}; {written[-1]} says how to run them")


def terms(
    word: Annotated[
        str | None, typer.Argument(metavar="[WORD]", help="A word in the name, label, definition or codes.", show_default=False)
    ] = None,
    ontology: Ontology = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text or json.")] = "text",
) -> None:
    """List the facts that one can state: class, label, codes, units, plausible range.

    Example: kbtool terms dose
    """
    from kbtool.terms import find, show

    with errors():
        found = find(load(ontology), word)
        if not found:
            fail(f"no term with {word!r}; try a shorter word, or none for all")
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if format == "json" else show(found))


def _pages(done: int, of: int) -> None:
    sys.stderr.write(f"\r{done} of {of} pages" + ("\n" if done >= of else ""))
    sys.stderr.flush()
