"""The program, forked from a process that has imported it: a real process, started in milliseconds.

To import the program takes a second of computing time, and the end-to-end tests start it a thousand times. So the first
start of a test run has a server import every module once; each later start is a fork of that server, which takes over
the command line, environment, directory and files it is given, and then runs ``python -m replicator`` as a fresh
interpreter would. It has a process id, an exit code, signals and limits of its own.

A fork can't show what happens while Python and the program's modules are loaded: what a start costs, how much memory it
needs, variables that Python itself reads. Tests of these start an interpreter (``program=PROGRAM`` in `tests.running`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ROOT = Path(__file__).resolve().parent.parent
_MAX_ORDER = 1 << 17
"""Bytes of a command line with its environment."""
_MAX_STDIN = 1 << 16
"""Bytes that a pipe holds before anyone reads it, pipe(7)."""
_READ_WHILE_LOADING = ("LANG", "LC_", "LD_", "PYTHON", "SSL_CERT_")
"""Beginnings of variables that Python and the program's libraries read while they are loaded."""
_IMPORTED_LATE = (
    "aiohttp.resolver",
    "uvicorn.lifespan.off",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.httptools_impl",
    "rich.live",
    "rich.progress",
    "rich.table",
)
"""What the program's dependencies import when they are used."""


class _Order(NamedTuple):
    arguments: list[str]
    directory: str
    variables: dict[str, str]


class Forked:
    """A forked program; what `asyncio.subprocess.Process` has, of this is there what the tests use.

    Attributes:
        pid: its process id.
        returncode: its exit code, negative for a signal; None while it runs.
        stdout: what it prints; None where that goes elsewhere.
        stderr: the same of its other output.
    """

    def __init__(
        self, status: socket.socket, pid: int, stdout: asyncio.StreamReader | None, stderr: asyncio.StreamReader | None
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout = stdout
        self.stderr = stderr
        self._ending = asyncio.create_task(self._end(status))

    async def _end(self, status: socket.socket) -> int:
        with status:
            said = await asyncio.get_running_loop().sock_recv(status, 64)
        if not said:
            raise RuntimeError("the fork server has ended")
        self.returncode = int(said)
        return self.returncode

    async def wait(self) -> int:
        """Wait for its end; return its exit code."""
        return await asyncio.shield(self._ending)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return all that it still prints until its end."""
        out, err = await asyncio.gather(*(_rest(stream) for stream in (self.stdout, self.stderr)))
        await self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


async def _rest(stream: asyncio.StreamReader | None) -> bytes:
    return await stream.read() if stream is not None else b""


async def fork(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    stdin: bytes = b"",
    stdout: int | None = subprocess.PIPE,
    stderr: int | None = subprocess.PIPE,
    limit: int = 1 << 20,
) -> Forked:
    """Start ``replicator`` with these arguments.

    Args:
        arguments: its command line.
        cwd: where it runs.
        env: its environment, all of it.
        stdin: what it can read.
        stdout: a descriptor, PIPE, or None for this process's own.
        stderr: the same, or STDOUT.
        limit: bytes of a line that can be read.
    """
    assert len(stdin) <= _MAX_STDIN
    assert _loaded_with(env) == _loaded_with(_server_environment()), "too late for a fork: start it as a program"
    order = json.dumps(_Order(list(arguments), str(cwd), dict(env))).encode()
    status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    status.setblocking(False)
    with contextlib.ExitStack() as given:
        given.enter_context(theirs)
        read, write = os.pipe()
        given.callback(os.close, read)
        os.write(write, stdin)
        os.close(write)
        out_reader, out = _outlet(stdout, given, 1)
        err_reader, err = (None, out) if stderr == subprocess.STDOUT else _outlet(stderr, given, 2)
        socket.send_fds(_server(), [order], [theirs.fileno(), read, out, err])
    loop = asyncio.get_running_loop()
    streams = [await _stream(descriptor, limit) for descriptor in (out_reader, err_reader)]
    pid = int(await loop.sock_recv(status, 64))
    return Forked(status, pid, *streams)


def _server_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONWARNINGS": "default"}


def _loaded_with(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_READ_WHILE_LOADING)}


def _outlet(wanted: int | None, given: contextlib.ExitStack, own: int) -> tuple[int | None, int]:
    """Return the end of a pipe to read, if there is one, and the descriptor to write to."""
    if wanted != subprocess.PIPE:
        return None, own if wanted is None else wanted
    read, write = os.pipe()
    given.callback(os.close, write)
    return read, write


async def _stream(descriptor: int | None, limit: int) -> asyncio.StreamReader | None:
    if descriptor is None:
        return None
    reader = asyncio.StreamReader(limit=limit)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    return reader


@functools.cache
def _server() -> socket.socket:
    """Start this process's server; it ends with the process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=_ROOT,
            env=_server_environment(),
            # A Ctrl-C at the terminal is for pytest alone, which ends the server by its own end.
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(control: socket.socket) -> _Order:
    """Fork at each order; return in the new process with what it is to do, and never in the server."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in running:
                    selector.unregister(key.fd)
                    pid, status = running.pop(key.fd)
                    os.close(key.fd)
                    _, ended = os.waitpid(pid, 0)
                    with status, contextlib.suppress(OSError):
                        status.send(str(os.waitstatus_to_exitcode(ended)).encode())
                    continue
                order, descriptors, *_ = socket.recv_fds(control, _MAX_ORDER, 4)
                if not order:
                    control.close()
                    for pid, status in running.values():
                        os.kill(pid, signal.SIGKILL)
                        status.close()
                    sys.exit()
                if not (pid := os.fork()):
                    for unwanted in (control, *(status for _, status in running.values())):
                        unwanted.detach()
                    _take_over(descriptors[1:])
                    return _Order(*json.loads(order))
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
                status = socket.socket(fileno=descriptors[0])
                status.send(str(pid).encode())
                watched = os.pidfd_open(pid)
                running[watched] = (pid, status)
                selector.register(watched, selectors.EVENT_READ)


def _take_over(descriptors: Sequence[int]) -> None:
    """Have these descriptors as stdin, stdout and stderr, and none of the server's."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _run(order: _Order) -> int:
    """Be the program; return its exit code, as the interpreter finds it."""
    os.environ.clear()
    os.environ.update(order.variables)
    time.tzset()
    os.chdir(order.directory)
    sys.argv = ["replicator", *order.arguments]
    try:
        runpy.run_module("replicator", run_name="__main__", alter_sys=True)
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
            return 1
        return ending.code or 0
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001 - an interpreter does the same
        traceback.print_exc()
        return 1
    return 0


def _leave(code: int) -> NoReturn:
    """End as an interpreter does, but without taking every module apart, which would copy the server's whole memory.

    Threads are waited for, and what nobody closed or awaited is complained about.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # what joins all threads at an interpreter's end
    atexit._run_exitfuncs()
    gc.collect()
    try:
        sys.stdout.flush()
    except OSError:
        code = code or 120
    finally:
        sys.stderr.flush()
        os._exit(code)


def _import_everything() -> None:
    import replicator

    for module in pkgutil.walk_packages(replicator.__path__, "replicator."):
        if module.name != "replicator.__main__":
            importlib.import_module(module.name)
    for name in _IMPORTED_LATE:
        importlib.import_module(name)


def _build_what_is_kept() -> None:
    """Build once what each start would build and keep: the machine's certificates, scripts, adapters of records."""
    from replicator.queue import configurations, dead_letters, history, job, memory, reconciles, records, scripts
    from replicator.registry import pump
    from replicator.server.notify import message

    pump._default_tls(verified=True)
    scripts.sections()
    message._adapter()
    for kind in (
        configurations.ProcessInfo,
        job.WorkerInfo,
        job.RunningRecord,
        job.Finished,
        history.Ended,
        memory.PublicCopy,
        dead_letters.DeadLetter,
        reconciles._ResultRecord,
    ):
        records._adapter(kind)


if __name__ == "__main__":
    # Ignored where the tests were started in the background; a program that is started at a terminal has this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    _import_everything()
    _build_what_is_kept()
    gc.freeze()
    _leave(_run(_serve(socket.socket(fileno=int(sys.argv[1])))))
