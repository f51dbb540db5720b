"""The command that compares two versions of a knowledge base."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kbtool.cli_common import Quiet, errors, fail


def diff(
    old: Annotated[
        str,
        typer.Argument(
            metavar="OLD",
            help="A root ontology, a folder with ontology/kb.ttl, or a git revision (REVISION or REVISION:PATH).",
            show_default=False,
        ),
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The same, of the other side.", show_default=False)],
    cohort: Annotated[
        list[str] | None, typer.Option("--cohort", metavar="INPUT", help="A file or folder of patient facts; may be repeated.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="The time of the assessment, with a zone; now where not given.")
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text, markdown or json.")] = "text",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there.")] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="Patients shown for each change; with 0 no patient is named.")
    ] = 3,
    quiet: Quiet = False,
) -> None:
    """Say what changed between two versions of a guideline, in words, and whose advice changes.

    Exit codes: 0 neither knowledge nor advice differs, 1 something differs, 2 kbtool could not compare.

    Example: kbtool diff HEAD~1 . --cohort patients/ --format markdown
    """
    from kbtool import diff as comparing

    with errors():
        if format not in list(comparing.DiffFormat):
            fail(f"{format!r} is no format of a comparison; take {', '.join(comparing.DiffFormat)}")
        progress = None if quiet else _Progress()
        try:
            with comparing.both(old, new) as (before, after):
                found = comparing.compare(before, after, cohort or (), as_of, examples=examples, progress=progress)
                text = comparing.render(found, comparing.DiffFormat(format))
        except comparing.DiffError as error:
            fail(str(error))
        if progress:
            progress.end()
        if output is None:
            sys.stdout.write(text)
        else:
            output.write_text(text, encoding="utf-8")
    raise typer.Exit(0 if found.same else 1)


class _Progress:
    """Says on standard error how many patients are done, where there are more than one batch of them."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, done: int) -> None:
        self.calls += 1
        if self.calls > 1:
            sys.stderr.write(f"\r{done} patients compared")
            sys.stderr.flush()

    def end(self) -> None:
        """End the line, where there is one."""
        if self.calls > 1:
            sys.stderr.write("\n")
