"""The processes of an installation, as they tell each other of themselves: which run, and with which configuration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from replicator.queue.client import FAULTS, WORKER_ALIVE_MS
from replicator.queue.job import dump_json, load_json
from replicator.queue.snapshot import moment
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from replicator.queue.client import Queue

_PAUSE = 5.0
_LAST_WORDS_SECONDS = 1.0
_MOST_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """Which configuration a process runs with: since when (seconds since 1970), and why not with the files' of now.

    ``problem`` is None when the files were taken over.
    """

    loaded: float
    problem: str | None


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that showed signs of life in the last seconds.

    Attributes:
        command: what it was started as.
        version: of the program.
        host: its machine's name.
        pid: its process id there.
        started: when it began (UTC).
        loaded: since when its configuration is in force (UTC).
        problem: why what its files say now is not in force; None when it is.
    """

    command: str
    version: str
    host: str
    pid: int
    started: datetime
    loaded: datetime
    problem: str | None


@contextlib.asynccontextmanager
async def announced(
    queue: Queue, command: str, version: str, in_force: Callable[[], LoadedConfig]
) -> AsyncIterator[None]:
    """Tell the others of this process for as long as the context lasts. Redis away is no error: they hear later.

    Args:
        queue: over whose processes.
        command: what this one was started as.
        version: of the program.
        in_force: says which configuration it runs with.
    """
    process_id, started = uuid4().hex, int(time.time() * 1000)

    def record() -> bytes:
        now = in_force()
        place: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
        problem = None if now.problem is None else now.problem[:_MOST_CHARACTERS]
        told = {"command": command, "version": version, "loaded": int(now.loaded * 1000), "problem": problem}
        return dump_json({**place, **told})

    async def tell() -> None:
        while True:
            with contextlib.suppress(*FAULTS):
                await queue.run_script("heartbeat", "processes", process_id, record(), WORKER_ALIVE_MS)
            await asyncio.sleep(_PAUSE)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        await cancel_all({telling})
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await queue.run_script("heartbeat", "processes", process_id, "", 0)


async def processes(queue: Queue) -> list[ProcessInfo]:
    """List the processes that are alive, the oldest first.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    reply = await queue.ask("alive", "processes", WORKER_ALIVE_MS)
    return sorted(map(_read, reply), key=lambda process: process.started)


def _read(record: bytes) -> ProcessInfo:
    fields = load_json(record)
    return ProcessInfo(
        command=fields["command"],
        version=fields["version"],
        host=fields["host"],
        pid=fields["pid"],
        started=moment(fields["started"]),
        loaded=moment(fields["loaded"]),
        problem=fields.get("problem"),
    )
