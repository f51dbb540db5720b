"""The command for those who look after many patients: cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kbtool import engine
from kbtool.cli_common import Ontology, Quiet, errors, fail


def cohort(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files and folders: .ndjson or .jsonl (a FHIR Bundle or a JSON-LD patient a line), .ttl, .nt, .jsonld, .json; "
            "also with .gz. With --summary alone, an output of before.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Ends in .parquet, .ndjson or .ttl.", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", help="Processes; one for each core where not given.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="The time of the assessment, with a zone; by default when the run began."),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print and draw what was recommended, blocked, missing, in conflict.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A bad observation refuses its patient.")] = False,
    partition: Annotated[
        bool,
        typer.Option("--partition", help="Bring together by patient first: triples, or FHIR resources one a line."),
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of going on with a stopped run.")] = False,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Patients that are assessed together.")] = engine.BATCH,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="tcp://HOST:PORT", help="Let the workers of a Dask cluster assess.")
    ] = None,
    ontology: Ontology = None,
    quiet: Quiet = False,
) -> None:
    """Assess many patients, from files of any length, in many processes; what was stopped goes on at the next start.

    Refused patients are listed in OUT.refused.ndjson. Exit codes: 0 every fact was accepted, 1 something was refused or set
    aside, 2 it could not run, not read a file to its end, or found no patient.

    Example: kbtool cohort patients/ night.ndjson.gz -o night.parquet --summary
    """
    from kbtool.cohort import CohortError, Settings, run
    from kbtool.cohort.progress import showing

    with errors():
        try:
            if output is None:
                if not summary or len(inputs) != 1:
                    fail("say where to write, with -o OUT.parquet, .ndjson or .ttl; or --summary and one output of before")
                from kbtool.cohort.summary import of_file, show

                typer.echo(show(*of_file(Path(inputs[0])), Path(inputs[0])), nl=False)
                return
            settings = Settings(
                inputs, output, as_of, ontology, strict, batch, partition, jobs=jobs, restart=restart, scheduler=scheduler
            )
            with showing(quiet) as watch:
                about, total = run(settings, watch)
            if summary:
                from kbtool.cohort.summary import show

                typer.echo(show(about, total.counts, output), nl=False)
            elif not quiet:
                typer.echo(f"{total.patients} patient{'' if total.patients == 1 else 's'} in {output}, as of {about['asOf']}")
            for message in total.problems(output):
                typer.echo(f"kbtool: {message}", err=True)
            if nobody := not (total.patients or total.refused):
                typer.echo("kbtool: no patient in the inputs", err=True)
        except CohortError as error:
            fail(str(error))
        except KeyboardInterrupt:
            typer.echo("kbtool: stopped; the same command goes on from here", err=True)
            raise typer.Exit(130) from None
    raise typer.Exit(2 if total.unread or nobody else 1 if total.refused or total.not_accepted else 0)
