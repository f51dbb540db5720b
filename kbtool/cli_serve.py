"""The command `kbtool serve`."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from kbtool.cli_common import Ontology, Quiet, errors, fail

_TOKEN = "KBTOOL_TOKEN"  # noqa: S105


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="The port to listen on; 0 is any that is free.")] = 8000,
    facts: Annotated[
        Path | None, typer.Option("--facts", metavar="DIR", help="Facts of patients to serve too; needs a token, see below.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help=f"A file with the token; else the environment variable {_TOKEN}.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="The time for which the facts in --facts are answered; by default now, always anew."),
    ] = None,
    refresh: Annotated[float, typer.Option("--refresh", min=1, help="Seconds after which --facts is read anew.")] = 60,
    time_limit: Annotated[float, typer.Option("--time-limit", min=0.1, help="Seconds for one request.")] = 10,
    memory_limit: Annotated[int, typer.Option("--memory-limit", min=64, help="Megabytes for one request.")] = 512,
    row_limit: Annotated[int, typer.Option("--row-limit", min=1, help="Rows or triples of one result.")] = 100_000,
    body_limit: Annotated[
        int, typer.Option("--body-limit", min=1, help="Megabytes of a request body, and of a result twice that.")
    ] = 16,
    at_once: Annotated[int, typer.Option("--at-once", min=1, help="Requests worked on at the same time.")] = 16,
    allow_origin: Annotated[
        list[str] | None, typer.Option("--allow-origin", help="An origin whose pages may call every address; may be repeated.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="A name by which clients may call the service; may be repeated.")
    ] = None,
    public_url: Annotated[str | None, typer.Option("--public-url", help="The address by which clients know the service.")] = None,
    cds_clients: Annotated[
        Path | None,
        typer.Option("--cds-clients", help="A JSON file with the keys of CDS clients; without one any client may call."),
    ] = None,
    ontology: Ontology = None,
    quiet: Quiet = False,
) -> None:
    """Serve a SPARQL endpoint, assessment, CDS Hooks and a workbench over HTTP.

    Facts that clients post are worked on in memory and neither stored nor logged. Facts that stay (--facts) are shown only to
    a client that sends the token: put one of at least 16 characters into a file, or into the environment variable
    KBTOOL_TOKEN.

    Example: kbtool serve --port 8000
    """
    with errors():
        try:
            from kbtool.api import load
            from kbtool.serve.app import Server, Settings
            from kbtool.serve.jobs import Service
            from kbtool.serve.keeper import Keeper
            from kbtool.serve.run import listen
            from kbtool.serve.run import serve as run
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("kbtool"):
                raise
            fail(f"`kbtool serve` needs {error.name}; install it with: pip install 'kbtool[serve]'")
        token = _token(token_file) if facts is not None else None
        clients = None
        if cds_clients is not None:
            from kbtool.hooks import auth

            try:
                clients = auth.read_clients(cds_clients)
            except auth.ClientsError as error:
                fail(str(error))
        _raise_files()
        service = Service(load(ontology), facts, max_rows=row_limit, max_bytes=2 * body_limit * 2**20, as_of=as_of)
        service.load()
        if service.refused:
            typer.echo(f"kbtool: facts that were not accepted: {len(service.refused)}; GET /patients tells which", err=True)
        service.warm()
        listening = listen(host, port)
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listening.getsockname()[1]}"
        public = urlsplit(public_url or "")
        known_host = [public.hostname] if public.hostname else []
        known_origin = [f"{public.scheme}://{public.netloc}"] if public.hostname else []
        settings = Settings(
            url=public_url or address,
            seconds=time_limit,
            memory=memory_limit,
            body=body_limit,
            at_once=at_once,
            refresh=refresh,
            token=token,
            origins=(*(allow_origin or ()), *known_origin),
            public=public_url.rstrip("/") if public_url else None,
            hosts=(*(allow_host or ()), *known_host),
            clients=clients,
            quiet=quiet,
        )
        keeper = Keeper(service.jobs(), renew=service.load, rehearse=service.look_up)
        keeper.start(listening)
        server, ready = Server(service, keeper, settings), f"kbtool serves at {address}/  (stop it with Ctrl+C)"
        run(server.app(), listening, seconds=time_limit, ready=lambda: typer.echo(ready))
        if server.broken:
            raise typer.Exit(2)


def _token(file: Path | None) -> str:
    """The token from a file or the environment; ends with a message where there is none, or a short one."""
    token = (file.read_text(encoding="utf-8") if file is not None else os.environ.get(_TOKEN, "")).strip()
    if not token:
        fail(f"facts of patients are served only with a token: give --token-file, or set {_TOKEN}")
    if len(token) < 16 or not token.isascii() or not token.isprintable():
        fail("the token has fewer than 16 characters, or other than printable ASCII; make one with: openssl rand -hex 24")
    return token


def _raise_files() -> None:
    """Allow as many connections at once as the system grants; each is an open file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192) if most > 0 else 8192, most))
