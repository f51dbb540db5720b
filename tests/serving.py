"""A server for tests: `kbtool serve` in a process of its own, asked over real HTTP, and looked at when it has ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

TOKEN = "a-token-for-tests-0123456789"  # noqa: S105
FORM, DIRECT = "application/x-www-form-urlencoded", "application/sparql-query"
AS_OF = "2026-02-10T12:00:00Z"


@dataclass(frozen=True)
class Answer:
    """What the server answered; names of header fields in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def media(self) -> str:
        return self.headers.get("content-type", "").split(";")[0]

    @property
    def detail(self) -> str:
        """What a problem says; that it is one by RFC 9457 is checked on the way."""
        assert self.media == "application/problem+json", (self.status, self.body[:200])
        assert self.json.keys() == {"type", "title", "status", "detail"}
        assert self.json["status"] == self.status
        return str(self.json["detail"])


@dataclass
class Served:
    """A running server. seconds: until it was ready."""

    process: subprocess.Popen[str]
    url: str
    seconds: float
    log_file: Path
    said: list[str] = field(default_factory=list)

    @cached_property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    @property
    def log(self) -> str:
        """What stood on standard error so far."""
        return self.log_file.read_text(encoding="utf-8")

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 60,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = body.encode() if isinstance(body, str) else body
            chunked = data is not None and not isinstance(data, bytes)
            connection.request(method, path, data, dict(headers or {}), encode_chunked=chunked)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=_fields(headers))

    def post(self, path: str, body: bytes | str | Iterable[bytes], **headers: str) -> Answer:
        return self.request("POST", path, body, _fields(headers))

    def query(self, text: str, *, path: str = "/sparql", **headers: str) -> Answer:
        return self.post(path, text, **{"content_type": DIRECT, **headers})

    def rows(self, text: str, **parameters: Any) -> list[dict[str, str]]:
        """The rows of a SELECT, as text."""
        answer = self.query(text, path="/sparql?" + urlencode(parameters, doseq=True))
        assert answer.status == 200, answer.text
        return [{name: cell["value"] for name, cell in row.items()} for row in answer.json["results"]["bindings"]]

    def ask(self, text: str, **parameters: Any) -> bool:
        """The answer to an ASK."""
        answer = self.query(text, path="/sparql?" + urlencode(parameters, doseq=True))
        assert answer.status == 200, answer.text
        return bool(answer.json["boolean"])

    def socket(self, timeout: float = 30) -> socket.socket:
        """A connection on which anything can be sent."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, data: bytes, timeout: float = 30) -> bytes:
        """Everything that is answered to some bytes until the connection is closed."""
        with self.socket(timeout) as connection:
            connection.sendall(data)
            return read_all(connection)

    def processes(self) -> list[int]:
        """The server and everything that it has started, and that has not ended."""
        return [pid for pid, group, state in _processes() if group == self.process.pid and state != "Z"]

    def working(self) -> set[int]:
        """The children that use the processor, and still do a little later."""

        def running() -> set[int]:
            return {pid for pid, group, state in _processes() if group == self.process.pid and state == "R"} - {self.process.pid}

        first = running()
        time.sleep(0.2)
        return first & running()

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """End it, and say with which status it ended."""
        self.process.send_signal(how)
        return self.process.wait(seconds)

    def all_gone(self, seconds: float = 10) -> bool:
        """Whether every process of it has ended by then."""
        return eventually(lambda: not self.processes(), seconds)


@contextlib.contextmanager
def running(folder: Path, *options: str, prelude: str = "", **environment: str) -> Iterator[Served]:
    """A server with options. At the end it is stopped; it must end well, leave no process, and have no defect to tell of.
    prelude: Python that runs in it first."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    root = Path(__file__).parent.parent
    variables = {**os.environ, "PYTHONPATH": str(root), **environment}
    began = time.monotonic()
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{prelude}\nfrom kbtool.cli import run\nrun()", "serve", "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=variables,
            start_new_session=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "serves at" in line, f"it did not start: {log.read_text()}"
    served = Served(process, line.split()[3].rstrip("/"), time.monotonic() - began, log, [line])
    reader = threading.Thread(target=_collect, args=(process.stdout, served.said), daemon=True)
    reader.start()
    try:
        yield served
        status = served.stop() if process.poll() is None else None
        assert status in (0, None), f"ended with {status}"
        assert served.all_gone(), "processes were left"
        said = [line for line in served.log.splitlines() if not line.endswith(" ms")]
        assert not any("Traceback" in line or "defect" in line for line in said), said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join(5)
        process.stdout.close()


def read_all(connection: socket.socket) -> bytes:
    """Everything that arrives until the other side closes."""
    found = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return bytes(found)


def eventually(holds: Any, seconds: float = 10) -> bool:
    """Whether something comes true within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return bool(holds())


def memory(pid: int) -> int:
    """The bytes that a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _fields(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _collect(stream: IO[str], lines: list[str]) -> None:
    lines.extend(stream)


def _processes() -> Iterator[tuple[int, int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), int(fields[2]), fields[0]
