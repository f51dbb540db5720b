"""What all commands share: options, and errors that become a message and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kbtool import engine
from kbtool.criteria import CriterionError
from kbtool.facts import FactsError
from kbtool.knowledge import KnowledgeError
from kbtool.shapes import UnsupportedShape

Ontology = Annotated[
    Path | None, typer.Option("--ontology", metavar="PATH", help="Another root ontology that imports the guideline language.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def fail(message: str) -> NoReturn:
    """Say what is wrong and end with exit code 2."""
    typer.echo(f"kbtool: {message}", err=True)
    raise typer.Exit(2)


@contextmanager
def errors() -> Iterator[None]:
    """Turn every expected error into a message and exit code 2."""
    try:
        yield
    except (FactsError, KnowledgeError, CriterionError, UnsupportedShape, engine.AsOfError) as error:
        fail(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror or error}")
    except MemoryError:
        fail("out of memory; assess fewer patients at once")
