"""Run work for strangers in a process of its own, which the operating system ends when it takes too long or too much.

A query engine cannot be stopped from within: it has no cancel, and a deep query or a lack of memory takes the whole
process down. So a *keeper*, a process with a single thread that has loaded everything, forks a child for each job. The
child inherits what is loaded without copying it, may not open any file or socket, has a limit of memory and a timer
that kills it, and answers over the socket that it was born with. The server itself never runs a job. Where the server
drops a job (a client went away), the keeper kills its child; where the server ends, the keeper ends. A few children are
forked ahead and wait, so that no client waits for a fork. A child does one job and ends; only where jobs change nothing that
they inherit may it do some more, of the same kind (`Limits.again`), as long as each was answered and little memory was used.

    keeper = Keeper({"double": lambda request: Reply(200, body=request.body * 2)})
    keeper.start()                            # before any thread or event loop
    reply = await keeper.run("double", {}, b"ab", Limits(seconds=1, memory=2**28))

For Linux and other systems with fork; the limit of memory is kept where the system keeps RLIMIT_AS.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

Json = dict[str, Any]

_HEAD = struct.Struct("!IQ")
_ORDER = struct.Struct("!II")
_SIZE = struct.Struct("!Q")
_MESSAGE = 4096
_AHEAD = 3
"""Children that wait for their first job, and as many at most of each kind that wait for another one."""
_JOBS = 50
"""Jobs that a child does at most, where it may do more than one."""
_GROWTH = 2**25
"""Bytes by which a child may have grown that does another job."""


@dataclass(frozen=True)
class Limits:
    """What a job may use. seconds: of wall clock and of processor. memory: bytes on top of what the keeper holds. files:
    whether it may open files and sockets, which is for work that reads nothing of a client. again: the kind of
    jobs of which its child may do another one afterwards; without one it ends."""

    seconds: float
    memory: int
    files: bool = False
    again: str = ""


@dataclass(frozen=True)
class Request:
    """What a job gets: parameters, and bytes that came from a client."""

    parameters: Json
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What a job answers: an HTTP status, header fields and the body."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class JobEndedError(Exception):
    """A job was ended before it answered. `reason` is one of: time, memory, depth, lost."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


Job = Callable[[Request], Reply]

_REASONS: dict[int, str] = {
    signal.SIGALRM: "time",
    signal.SIGXCPU: "time",
    signal.SIGSEGV: "depth",
    signal.SIGBUS: "depth",
    signal.SIGABRT: "memory",
    signal.SIGKILL: "memory",
}


class Keeper:
    """The process that forks a child for each job.

    jobs: by name; each runs in a child of its own. renew: where given, called in a copy of the keeper by `renewed`, so
    that data which grows old is loaded anew while the old keeper goes on answering. rehearse: where given, called in each
    child before it waits for its job, so that it owns the memory that most jobs write to.
    """

    def __init__(
        self, jobs: Mapping[str, Job], renew: Callable[[], None] | None = None, rehearse: Callable[[], object] | None = None
    ) -> None:
        self._work = Work(jobs, renew, rehearse)
        self._control: socket.socket | None = None
        self._number = 0
        self._running = 0
        self.lost = asyncio.Event()
        self._ended: dict[int, asyncio.Future[str]] = {}
        self._fresh: deque[_Child] = deque()
        self._used: defaultdict[str, deque[_Child]] = defaultdict(deque)
        self._forking: asyncio.Task[None] | None = None

    def start(self, *closing: socket.socket) -> None:
        """Fork the keeper, which closes the sockets given: it has no business with them. To be called while the process has
        a single thread."""
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            for other in (mine, *closing):
                other.close()
            _keep(self._work, its)
        its.close()
        mine.setblocking(False)
        self._control = mine

    @property
    def alive(self) -> bool:
        """Whether jobs can be run."""
        return self._control is not None

    @property
    def busy(self) -> bool:
        """Whether jobs are being run."""
        return self._running > 0

    def attach(self) -> None:
        """Listen to the keeper in the running event loop."""
        if self._control is not None:
            asyncio.get_running_loop().add_reader(self._control, self._hear, self._control)
            self._refill()

    def close(self) -> None:
        """Let the keeper end, and its children. Where it ends by itself, `lost` is set."""
        if self._forking is not None:
            self._forking.cancel()
        for child in (*self._fresh, *(each for used in self._used.values() for each in used)):
            child.writer.transport.abort()
        self._fresh.clear()
        self._used.clear()
        if self._control is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None

    async def run(self, name: str, parameters: Json, body: bytes, limits: Limits) -> Reply:
        """Run a job. Raises JobEndedError where it was ended."""
        self._running += 1
        again, child = False, None
        try:
            child = await self._child(limits.again)
            reply, again = await child.run(name, parameters, body, limits)
            return reply
        finally:
            self._running -= 1
            used = self._used[limits.again]
            if again and child is not None and self._control is not None and len(used) < _AHEAD:
                used.append(child)
            elif child is not None:
                self._leave(child)

    async def _child(self, kind: str) -> _Child:
        """A child that waits for a job, or a new one. kind: of the jobs that it may have done before."""
        for waiting in (self._used[kind], self._fresh):
            while waiting:
                found = waiting.pop()
                self._refill()
                if not found.ended.done():
                    return found
                self._leave(found)
        return await self._fork()

    def _leave(self, child: _Child) -> None:
        self._ended.pop(child.number, None)
        child.writer.transport.abort()

    def _refill(self) -> None:
        if self._control is not None and (self._forking is None or self._forking.done()):
            self._forking = asyncio.create_task(self._fork_ahead())

    async def _fork_ahead(self) -> None:
        with contextlib.suppress(JobEndedError):
            while len(self._fresh) < _AHEAD and self._control is not None:
                self._fresh.append(await self._fork())

    async def _fork(self) -> _Child:
        self._number += 1
        number = self._number
        mine = None
        try:
            mine, its = socket.socketpair()
            with its:
                self._send({"number": number, "renew": False}, its)
            reader, writer = await asyncio.open_connection(sock=mine, limit=2**20)
        except BaseException as error:
            if mine is not None:
                mine.close()
            if isinstance(error, OSError):
                raise JobEndedError("lost") from error
            raise
        ended = self._ended[number] = asyncio.get_running_loop().create_future()
        return _Child(number, reader, writer, ended)

    async def renewed(self) -> Keeper:
        """A keeper with data loaded anew; this one goes on until it is closed. Raises JobEndedError where that failed."""
        successor = Keeper(self._work.jobs, self._work.renew, self._work.rehearse)
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setblocking(False)
        with its:
            self._send({"number": 0, "renew": True}, its)
        ready = await asyncio.get_running_loop().sock_recv(mine, _MESSAGE)
        if not ready:
            mine.close()
            raise JobEndedError("lost")
        successor._control = mine
        successor.attach()
        return successor

    def _send(self, order: Json, handle: socket.socket) -> None:
        if self._control is None:
            raise JobEndedError("lost")
        socket.send_fds(self._control, [json.dumps(order).encode()], [handle.fileno()])

    def _hear(self, control: socket.socket) -> None:
        try:
            told = control.recv(_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            told = b""
        if told:
            message = json.loads(told)
            future = self._ended.get(message["number"])
            if future is not None and not future.done():
                future.set_result(message["reason"])
            return
        for future in self._ended.values():
            if not future.done():
                future.set_result("lost")
        self.close()
        self.lost.set()


@dataclass(frozen=True)
class Work:
    """What a keeper is for; see Keeper."""

    jobs: Mapping[str, Job]
    renew: Callable[[], None] | None
    rehearse: Callable[[], object] | None


@dataclass(frozen=True)
class _Child:
    """A child as the server sees it. ended: why it ended without an answer."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ended: asyncio.Future[str]

    async def run(self, name: str, parameters: Json, body: bytes, limits: Limits) -> tuple[Reply, bool]:
        """Give it a job; also whether it waits for another one then."""
        try:
            order = json.dumps({"job": name, "limits": asdict(limits)}).encode()
            head = json.dumps(parameters).encode()
            self.writer.write(_ORDER.pack(len(order), len(head)) + order + head + _SIZE.pack(len(body)))
            self.writer.write(body)
            await self.writer.drain()
            length, size = _HEAD.unpack(await self.reader.readexactly(_HEAD.size))
            answer = json.loads(await self.reader.readexactly(length))
            if answer["failed"]:
                _log(f"a defect: the job {name} failed with {answer['failed']}")
            return Reply(answer["status"], answer["headers"], await self.reader.readexactly(size)), answer["again"]
        except (OSError, asyncio.IncompleteReadError):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    raise JobEndedError(await self.ended) from None
            raise JobEndedError("lost") from None


def _keep(work: Work, control: socket.socket) -> NoReturn:
    """The keeper: fork for each order, tell the server which children did not answer, end with the server."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, all that is loaded
    _Loop(work, control).run()


class _Loop:
    """What the keeper does for ever. children: by process, the number of the job and the socket on which it answers."""

    def __init__(self, work: Work, control: socket.socket) -> None:
        self.work, self.control, self.held = work, control, _held()
        self.children: dict[int, tuple[int, socket.socket]] = {}
        self.awake, self.wake = os.pipe()
        for end in (self.awake, self.wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.poll.register(self.awake, select.POLLIN)

    def run(self) -> NoReturn:
        while True:
            for ready, _ in self.poll.poll():
                if ready == self.awake:
                    self.bury()
                elif ready == self.control.fileno():
                    self.obey()
                else:
                    self.drop(ready)

    def obey(self) -> None:
        """Fork a child for an order of the server; end where the server has ended."""
        try:
            told, handles, _, _ = socket.recv_fds(self.control, _MESSAGE, 1)
        except OSError:
            told = b""
        if not told:
            for child in self.children:
                _kill(child)
            os._exit(0)
        order, handle = json.loads(told), socket.socket(fileno=handles[0])
        try:
            child = os.fork()
        except OSError:
            _tell(self.control, order["number"], "memory")
            handle.close()
            return
        if child == 0:
            self.leave()
            if order["renew"]:
                _succeed(self.work, handle)
            _work(self.work, self.held, handle)
        if order["renew"]:
            handle.close()
            return
        self.children[child] = (order["number"], handle)
        self.poll.register(handle, 0)  # only that the server has hung up

    def leave(self) -> None:
        """In a child: close what is the keeper's, or the server would not see that another job has ended."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self.awake)
        os.close(self.wake)
        self.control.close()
        for _, handle in self.children.values():
            handle.close()

    def bury(self) -> None:
        """Take leave of the children that have ended, and tell the server of those that did not answer."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.awake, _MESSAGE)
        for child, status in _reaped():
            number, handle = self.children.pop(child, (0, None))
            if handle is not None:
                if status != 0:
                    _tell(self.control, number, _reason(status))
                with contextlib.suppress(KeyError):
                    self.poll.unregister(handle)
                handle.close()

    def drop(self, ready: int) -> None:
        """Kill the child whose client has gone; it may have ended, and been buried, since it was seen."""
        with contextlib.suppress(KeyError):
            self.poll.unregister(ready)
        for child, (_, handle) in self.children.items():
            if handle.fileno() == ready:
                _kill(child)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _succeed(work: Work, control: socket.socket) -> NoReturn:
    """In a copy of the keeper: load anew, say so, and be a keeper."""
    try:
        if work.renew is not None:
            work.renew()
        control.send(b"ready")
    except BaseException as error:
        _log(f"the facts could not be read anew: {type(error).__name__}")
        os._exit(1)
    _keep(work, control)


def _reaped() -> list[tuple[int, int]]:
    found = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            found.append((pid, status))
    return found


def _reason(status: int) -> str:
    return _REASONS.get(os.WTERMSIG(status), "lost") if os.WIFSIGNALED(status) else "lost"


def _tell(control: socket.socket, number: int, reason: str) -> None:
    with contextlib.suppress(OSError):
        control.send(json.dumps({"number": number, "reason": reason}).encode())


def _work(work: Work, held: int | None, handle: socket.socket) -> NoReturn:
    """The child: wait for a job, take its limits, read the request, answer, end."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as first:
            first.write(b"900")  # where the machine lacks memory, this process is ended and not the service
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):  # an engine that aborts prints what it was doing
            os.dup2(nothing, stream)
        os.close(nothing)
        if work.rehearse is not None:
            work.rehearse()
        handle.setblocking(True)
        for number in range(1, _JOBS + 1):
            if not _do(work, held, handle, last=number == _JOBS):
                break
            signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _do(work: Work, held: int | None, handle: socket.socket, *, last: bool) -> bool:
    """Do one job; whether another one may follow."""
    sizes = _ORDER.unpack(_read(handle, _ORDER.size))
    order = json.loads(_read(handle, sizes[0]))
    limits = Limits(**order["limits"])
    signal.setitimer(signal.ITIMER_REAL, limits.seconds)
    _confine(limits, held)
    parameters = json.loads(_read(handle, sizes[1]))
    (size,) = _SIZE.unpack(_read(handle, _SIZE.size))
    before, failed = _peak(), None
    try:
        reply = work.jobs[order["job"]](Request(parameters, bytes(_read(handle, size))))
    except MemoryError:
        os.abort()
    except Exception as error:
        reply, failed = Reply(500), place(error)
    again = bool(limits.again) and not last and failed is None and _peak() - before < _GROWTH
    head = json.dumps({"status": reply.status, "headers": reply.headers, "failed": failed, "again": again}).encode()
    handle.sendall(_HEAD.pack(len(head), len(reply.body)) + head)
    handle.sendall(reply.body)
    return again


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def place(error: Exception) -> str:
    """What failed and where, without the message, which may tell of a patient."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} in {' > '.join(f'{os.path.basename(f.filename)}:{f.lineno}' for f in frames[-4:])}"


def _confine(limits: Limits, held: int | None) -> None:
    """No file, no socket, no process, no core file, no more memory and no more time than granted. held: bytes that the
    process has already. A process of root may still fork; its children have the same limits."""
    if held is not None:
        _limit(resource.RLIMIT_AS, held + limits.memory)
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + limits.seconds) + 1, most))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    if not limits.files:
        _limit(resource.RLIMIT_NPROC, 0)
        _limit(resource.RLIMIT_NOFILE, 0)


def _held() -> int | None:
    """The size of this process in bytes, where the system tells it."""
    with contextlib.suppress(OSError), open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()
    return None


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _read(handle: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        got = handle.recv_into(view[done:])
        if not got:
            raise EOFError
        done += got
    return data


def _log(message: str) -> None:
    sys.stderr.write(f"kbtool: {message}\n")
    sys.stderr.flush()
