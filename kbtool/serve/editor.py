"""The query editor YASGUI, which the server of the package oxigraph carries: it is asked for it once, on this machine.

Nothing is fetched from the network, and nothing of the editor is kept with this project.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import threading
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

FILES = {"yasgui.min.js": "text/javascript", "yasgui.min.css": "text/css"}
"""The files of the editor by name, with their media types."""

_HOST = "127.0.0.1"
_SECONDS = 10
_ATTEMPTS = 3
_LINE = 1000


class EditorError(Exception):
    """The editor cannot be had. The message says why and what to do."""


def program() -> Path | None:
    """The program that carries the editor: that of the installed package, else one on the path."""
    try:
        listed = distribution("oxigraph").files or []
    except PackageNotFoundError:
        listed = []
    places = [Path(str(file.locate())) for file in listed if file.stem == "oxigraph" and file.suffix in ("", ".exe")]
    found = shutil.which("oxigraph")
    return next((place for place in [*places, *([Path(found)] if found else [])] if place.is_file()), None)


def files() -> dict[str, bytes]:
    """The files of the editor by name. Takes a fraction of a second; blocks. Raises EditorError."""
    binary = program()
    if binary is None:
        raise EditorError("The editor comes with the package oxigraph, which is not installed: pip install 'kbtool[serve]'.")
    reason: Exception | str = "no port was free"
    for _ in range(_ATTEMPTS):
        try:
            found = _asked(binary)
        except (OSError, http.client.HTTPException) as error:
            reason = error
            continue
        if found is not None:
            return found
    raise EditorError(f"{binary} did not give its editor ({reason}); queries can be written without it.")


def _asked(binary: Path) -> dict[str, bytes] | None:
    """The files, or None where the port was taken meanwhile. The store of the server is in memory and empty."""
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(  # noqa: S603
        [binary, "serve", "--bind", f"{_HOST}:{port}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    watch = threading.Timer(_SECONDS, _end, [server])
    watch.start()
    try:
        # It says that it listens only once the port is its own: what is read before could be another's answer.
        if server.stdout is None or b"Listening" not in server.stdout.readline(_LINE):
            return None
        return {name: _read(port, name) for name in FILES}
    finally:
        watch.cancel()
        _end(server)
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server, and what it may have started where it is a script around the program."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)


def _read(port: int, name: str) -> bytes:
    connection = http.client.HTTPConnection(_HOST, port, timeout=_SECONDS)
    try:
        connection.request("GET", f"/{name}")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200 or not body:
        raise http.client.HTTPException(f"status {answer.status} for {name}")
    return body
