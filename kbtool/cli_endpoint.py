"""The part of `kbtool assess` that works in a store of the user's."""

from __future__ import annotations

from collections.abc import Iterator

import pyoxigraph as ox
import typer

from kbtool.answer import PatientResult
from kbtool.api import KnowledgeBase
from kbtool.cli_common import fail
from kbtool.endpoint import EndpointError, Store, assess, services
from kbtool.facts import Facts


def in_store(
    kb: KnowledgeBase,
    facts: Facts,
    as_of: ox.Literal,
    endpoint: str,
    update_endpoint: str | None,
    timeout: float,
    *,
    strict: bool,
    keep: bool,
) -> Iterator[PatientResult]:
    """The answers of a store; what goes wrong ends the command."""
    store = Store(*services(endpoint, update_endpoint), timeout=timeout)
    try:
        answers = list(assess(kb, facts, as_of, store, strict=strict, keep=keep))
    except EndpointError as error:
        fail(str(error))
    if keep:
        typer.echo(f"kbtool: everything is in the graph {store.graph}", err=True)
    yield from answers
