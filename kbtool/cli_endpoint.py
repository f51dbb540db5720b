"""The part of `kbtool assess` that works in a store of the user's."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pyoxigraph as ox
import typer

from kbtool.answer import PatientResult
from kbtool.api import KnowledgeBase
from kbtool.cli_common import fail
from kbtool.endpoint import EndpointError, Store, assess, services
from kbtool.facts import Facts

_LONGEST = 86_400


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
    """The answers of a store; what goes wrong ends the command before anything is printed."""
    if not 0 < timeout <= _LONGEST:
        fail(f"--timeout {timeout:g}: give the seconds that a request may take, more than 0 and at most {_LONGEST}")
    try:
        store = Store(*services(endpoint, update_endpoint), timeout=timeout)
        with _stopping():
            answers = list(assess(kb, facts, as_of, store, strict=strict, keep=keep))
    except EndpointError as error:
        fail(str(error))
    if keep:
        typer.echo(f"kbtool: everything is in the graph {store.graph}", err=True)
    return iter(answers)


@contextmanager
def _stopping() -> Iterator[None]:
    """Let signals that would end the process at once end it like an interrupt, so that the graph is dropped; the exit code is 128
    and the number of the signal. One that is ignored (nohup) or handled by somebody else stays so."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    ours = threading.current_thread() is threading.main_thread()
    taken = [number for number in wanted if ours and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
