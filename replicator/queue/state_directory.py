"""The state directory of the embedded queue: its user, the free space, damage to its files, and its mark.

The server keeps its jobs in ``appendonlydir``: a manifest, a base and files that only grow. The mark beside it tells
whether the directory was replaced by an older copy of itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicator.queue.job import QueueError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET, PRIVATE_SOCKET = "valkey.sock", "alone.sock"
LOCK = "queue.lock"
_SOCKET_PATH_BYTES = 107
"""``sun_path`` of unix(7) without its closing zero; other systems have 103."""
_ANSWER_SECONDS = 2.0
PING, PONG = b"PING\r\n", b"+PONG\r\n"

LEAST_ROOM = 1 << 20
"""Bytes that must be free for a server to start: with less, it would end again at one of its first writes."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a write for which there is no room."""
_FRESH_SECONDS = 1.0
_DATA, _MANIFEST = "appendonlydir", "appendonly.aof.manifest"
_MOVED = "appendonlydir.moved"
_EMPTY_BYTES = 256
"""More than the files of an empty queue have; a crash at the very first start leaves those without a manifest."""
_MARK = "queue.mark"
_KEPT = "damaged-*.aof"
_MOST_KEPT = 3
_CHECK_SECONDS = 300.0
_MEMORY_SHARE = 0.3
"""Share of the container's memory limit. The data, as much again for pages that change while the server rewrites its
file, and the replicator itself fit into the limit together."""
_UNLIMITED = 1 << 60
"""cgroup v1 writes no limit as the largest number of pages."""
_ANALYZED = re.compile(r"AOF analyzed: .*\bsize=(\d+), ok_up_to=(\d+),.*\bdiff=(\d+)")


class Use(StrEnum):
    """The user of a state directory."""

    NOBODY = "nobody"
    SERVER = "a server that answers"
    SILENT = "a server that does not answer"
    LOCKED = "a process without a server"


async def use_of(state_dir: Path) -> Use:
    """Find out what uses a state directory, without starting or keeping anything.

    Args:
        state_dir: the directory; it need not exist.

    Raises:
        OSError: its lock can't be read.
    """
    with short_path(state_dir) as reachable:
        try:
            answer = await ask(reachable / SOCKET, PING)
        except TimeoutError:
            return Use.SILENT
        if answer is not None:
            return Use.SERVER if answer == PONG else Use.SILENT
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


async def ask(path: Path, command: bytes) -> bytes | None:
    """Return the first line of a server's answer, empty if it just closes; None if there is no server.

    Raises:
        TimeoutError: there is one, and it does not answer.
    """
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(command)
                return await reader.readline()
            finally:
                writer.close()
    except TimeoutError:
        raise
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def short_path(directory: Path) -> Iterator[Path]:
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


def room(directory: Path) -> tuple[int, int]:
    """Return the free bytes (for this user) and the size of the directory's disk; 0 and 0 if it can't be read."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return 0, 0
    return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def fault_of(directory: Path) -> str:
    """Say why no server can keep its data in a directory: it is gone, or full; empty if it can."""
    if not directory.is_dir():
        return f"STATE_DIR was deleted; create {directory} again: the queue then starts empty"
    free, _ = room(directory)
    left = f"{free} bytes free"
    if free >= LEAST_ROOM:
        try:
            # A quota is full long before its disk is.
            with tempfile.TemporaryFile(dir=directory) as file:
                file.write(bytes(LEAST_ROOM))
                file.flush()
        except OSError as error:
            if error.errno not in FULL:
                return ""  # starting the server will say what it is
            left = (error.strerror or left).lower()  # a quota, or no inodes: the number would mislead
        else:
            return ""
    return f"STATE_DIR is full: {left}; free some space in {directory}: the queue then continues automatically"


class Faults:
    """The same for a process that asks often: it looks at most once a second."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fault = ""
        self._expires = 0.0

    def __call__(self) -> str:
        """Return the fault of the directory, or an empty text."""
        return self._fault if time.monotonic() < self._expires else self.look()

    def look(self) -> str:
        """Return the same, of this very moment."""
        self._fault = fault_of(self._directory)
        self._expires = time.monotonic() + _FRESH_SECONDS
        return self._fault


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of the queue whose end can't be read.

    Attributes:
        file: the last append-only file, the only one that a crash can leave so.
        good: bytes from its beginning that are whole commands.
        bad: bytes behind them.
    """

    file: Path
    good: int
    bad: int


def manifest_of(directory: Path) -> Path | None:
    """Return the manifest of the data; None if there is no data.

    Raises:
        QueueError: there is data without a manifest, which a server would take for an empty queue.
    """
    data = directory / _DATA
    if (manifest := data / _MANIFEST).is_file():
        return manifest
    files = [file for pattern in ("*.aof", "*.rdb") for file in data.glob(pattern)]
    if sum(file.stat().st_size for file in files) <= _EMPTY_BYTES:
        return None
    raise QueueError(
        f"{data} has {len(files)} data files, but no manifest",
        do=f"restore {_MANIFEST} from a backup; or move appendonlydir away: the queue starts empty, and a "
        "reconcile finds missing images",
    )


def forget_data(directory: Path) -> None:
    """Delete the data of a queue that was moved elsewhere, whose server has ended."""
    moved = directory / _MOVED
    shutil.rmtree(moved, ignore_errors=True)
    # At once: a rest of the data would be an error, or half a queue.
    with contextlib.suppress(FileNotFoundError):
        (directory / _DATA).rename(moved)
    shutil.rmtree(moved, ignore_errors=True)
    (directory / _MARK).unlink(missing_ok=True)


def find_damage(directory: Path, program: str) -> Damage | None:
    """Check the last append-only file as ``redis-check-aof`` does; None if it is whole, or can't be checked.

    Args:
        directory: the state directory, on which no server runs.
        program: the server; Redis's and Valkey's are the checker too, under its name.

    Raises:
        QueueError: the manifest is missing.
    """
    if (manifest := manifest_of(directory)) is None:
        return None
    files = re.findall(r"^file (\S+) seq \d+ type i", manifest.read_text(errors="replace"), re.MULTILINE)
    if not files:
        return None
    file = manifest.with_name(Path(files[-1]).name)
    for checker in (program, shutil.which("valkey-check-aof"), shutil.which("redis-check-aof")):
        if checker is None:
            continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            # Only this file: Valkey's checker does not know the form of its own base files.
            answer = subprocess.run(  # noqa: S603 - a server that we start anyway
                ["redis-check-aof", str(file)],  # noqa: S607 - only its name; the program is `executable`
                executable=checker,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_CHECK_SECONDS,
            )
            if (found := _ANALYZED.search(answer.stdout.decode(errors="replace"))) is not None:
                _, good, bad = map(int, found.groups())
                return Damage(file, good, bad) if bad else None
    return None


def repair(directory: Path, damage: Damage) -> Path:
    """Cut off the damaged end of a file, as ``redis-check-aof --fix`` does, and return the copy of what was cut off.

    The mark goes too: commands that were acknowledged may have been in that end, so everything has to be compared.

    Raises:
        QueueError: the copy can't be written; nothing was changed.
    """
    kept = directory / f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.aof"
    with damage.file.open("r+b") as file:
        try:
            with kept.open("xb") as copy:
                file.seek(damage.good)
                shutil.copyfileobj(file, copy)
                copy.flush()
                os.fsync(copy.fileno())
        except OSError as error:
            # A part of it at each start would fill the disk.
            kept.unlink(missing_ok=True)
            what = f"the damaged end of {damage.file} is not cut off, because it can't be copied first"
            do = f"free {damage.bad} bytes in {directory}"
            raise QueueError(what, error.strerror or str(error), do) from error
        (directory / _MARK).unlink(missing_ok=True)
        file.truncate(damage.good)
        os.fsync(file.fileno())
    for older in sorted(directory.glob(_KEPT))[:-_MOST_KEPT]:
        older.unlink(missing_ok=True)
    return kept


class Mark:
    """The number of the newest enqueue, kept beside the data and not in it: an older copy of the data has a lower one.

    With it stands the identity of the lock's file, which is made once and never written: its inode, and when that last
    changed. Both are others when the directory was copied from elsewhere, as a backup is restored.

    Args:
        directory: the state directory.
        prefix: of the installation; each has a number of its own.
    """

    def __init__(self, directory: Path, prefix: str) -> None:
        self._directory = directory
        self._file = directory / _MARK
        self._prefix = prefix

    def read(self) -> int | None:
        """Return the number that the data has at least; None if the mark is missing, damaged or a copy."""
        numbers = self._numbers()
        number = None if numbers is None else numbers.get(self._prefix, 0)
        return number if isinstance(number, int) else None

    def write(self, number: int) -> None:
        """Note the number. On a full disk it stays as it is, which is no error: the number is a lower bound."""
        numbers = {**(self._numbers() or {}), self._prefix: number}
        with contextlib.suppress(OSError):
            file = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                text = json.dumps({"identity": self._identity(), "numbers": numbers}).encode()
                os.pwrite(file, text, 0)
                os.truncate(file, len(text))
            finally:
                os.close(file)

    def _identity(self) -> list[int]:
        lock = (self._directory / LOCK).stat()
        return [lock.st_ino, lock.st_ctime_ns]

    def _numbers(self) -> dict[str, Any] | None:
        try:
            with self._file.open("rb") as file:
                mark = json.loads(file.read(1 << 16))
            return dict(mark["numbers"]) if mark["identity"] == self._identity() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def memory_for_server(membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that the server's data may take: a share of what this container, or else the machine, has.

    Args:
        membership: the control groups of this process (cgroups(7)).
        mount: where they are mounted, version 2 or 1.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, name = (mount / "memory", "memory.limit_in_bytes") if controllers else (mount, "memory.max")
        # The groups above limit it too. In a container the path may be the host's, and only the top is there.
        group = Path(path.lstrip("/"))
        for part in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
                limits.append(int((top / part / name).read_text()))
    return int(min(limit for limit in limits if 0 < limit < _UNLIMITED) * _MEMORY_SHARE)


def version_of(program: str) -> str:
    """Return name and version of a server program, e.g. ``valkey 9.1.2``; empty if it does not tell."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(  # noqa: S603 - a server that we start anyway
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=5
        )
        if (found := re.search(rb"\b(Valkey|Redis) server v=(\S{1,40})", answer.stdout)) is not None:
            return f"{found[1].decode().lower()} {found[2].decode(errors='replace')}"
    return ""
