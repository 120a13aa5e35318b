"""Signs of life: which processes of an installation run, with which configuration, and which of them work.

There is one heartbeat, used twice: a process shows itself and its configuration under ``processes``, a worker itself
and its load under ``workers`` (`replicator.queue.worker`). A process that stops says so; one that was killed expires.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from replicator.queue.client import ALIVE_MS, FAULTS
from replicator.queue.records import Moment, decode, encode, moment
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from replicator.queue.client import Queue

_BEAT_SECONDS = 5.0
_GOODBYE_SECONDS = 1.0
_MOST_CHARACTERS = 2000


@contextlib.asynccontextmanager
async def heartbeat(
    queue: Queue, kind: Literal["processes", "workers"], name: str, record: Callable[[], bytes]
) -> AsyncIterator[None]:
    """Show signs of life for as long as the context lasts. Redis away is no error: the others see them later.

    Args:
        queue: over whose processes.
        kind: what shows itself.
        name: its name among those of its kind.
        record: returns its present record (JSON); the script adds the time as ``seen``.
    """

    async def beat() -> None:
        while True:
            with contextlib.suppress(*FAULTS):
                await queue.run_script("heartbeat", kind, name, record(), ALIVE_MS)
            await asyncio.sleep(_BEAT_SECONDS)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        await cancel_all({beating})
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await queue.run_script("heartbeat", kind, name, "", 0)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """The configuration that a process runs with.

    Attributes:
        loaded: since when, in seconds since 1970.
        problem: why what the files say now was not loaded; None when it was.
    """

    loaded: float
    problem: str | None


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that showed a sign of life in the last seconds.

    Attributes:
        command: the command it was started as.
        version: of the program.
        pid: its process id on that host.
        started: when it started (UTC).
        loaded: since when its configuration is in force (UTC).
        problem: why what its files say now is not in force; None when it is.
        limits: the limits of bandwidth and requests in force, in a line; empty without any.
    """

    command: str
    version: str
    host: str
    pid: int
    started: Moment
    loaded: Moment
    problem: str | None = None
    limits: str = ""


@contextlib.asynccontextmanager
async def announced(
    queue: Queue,
    command: str,
    version: str,
    in_force: Callable[[], LoadedConfig],
    limits: Callable[[], str] = lambda: "",
) -> AsyncIterator[None]:
    """Show this process to the others for as long as the context lasts.

    Args:
        queue: over whose processes.
        command: the command it was started as.
        version: of the program.
        in_force: returns the configuration it runs with.
        limits: says which limits of bandwidth and requests are in force, in a line.
    """
    started = datetime.now(UTC)

    def record() -> bytes:
        now = in_force()
        problem = None if now.problem is None else now.problem[:_MOST_CHARACTERS].encode(errors="replace").decode()
        loaded, host, limited = moment(now.loaded * 1000), socket.gethostname(), limits()[:_MOST_CHARACTERS]
        info = ProcessInfo(command, version, host, os.getpid(), started, loaded, problem, limited)
        return encode(info, without=() if limited else {"limits"})

    async with heartbeat(queue, "processes", uuid4().hex, record):
        yield


async def processes(queue: Queue) -> list[ProcessInfo]:
    """List the processes that are alive, the oldest first.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    records = await queue.ask("alive", "processes", ALIVE_MS)
    return sorted((decode(ProcessInfo, record) for record in records), key=lambda process: process.started)
