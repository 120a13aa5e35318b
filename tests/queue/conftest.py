from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pydantic import TypeAdapter  # noqa: F401 - the first record loads it, and pytest takes long, within a deadline

from replicator.queue import Job, Lane, Queue, QueueUnavailable, RedisBlobLocks, RetryPolicy, Running, Worker
from tests.queue.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

QUICK = RetryPolicy(first=0.02, cap=0.1, horizon=5, not_yet=0.05, not_yet_cap=0.2, not_yet_horizon=5)


@pytest.fixture(scope="module")
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def server(short_dir: Path) -> Iterator[RedisServer]:
    with RedisServer(short_dir / "redis") as running:
        yield running


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory, short_dir: Path) -> Iterator[RedisServer]:
    """A server for one test, which may kill it."""
    with RedisServer(short_dir / f"own-{tmp_path_factory.mktemp('n').name}") as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"t-{uuid4().hex[:8]}"


@pytest.fixture
async def queue(server: RedisServer, prefix: str) -> AsyncIterator[Queue]:
    async with await Queue.connect(server.url, prefix=prefix, deadline=PATIENCE) as client:
        yield client


class Recorder:
    """A handler that notes what it ran, and waits at a gate when told to."""

    def __init__(self) -> None:
        self.runs: list[Running] = []
        self.payloads: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[BaseException] = []
        self.cancelled = 0
        self.active: dict[str, int] = {}
        self.overlaps = 0
        self._changed = asyncio.Condition()

    async def __call__(self, running: Running) -> dict[str, Any]:
        self.runs.append(running)
        self.payloads.append(dict(running.payload))
        self.active[running.id] = self.active.get(running.id, 0) + 1
        self.overlaps += self.active[running.id] > 1
        async with self._changed:
            self._changed.notify_all()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active[running.id] -= 1
        if self.errors:
            raise self.errors.pop(0)
        return {"copied": running.id}

    async def started(self, number: int, timeout: float = 10) -> None:
        """Wait until ``number`` runs have begun."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(lambda: len(self.runs) >= number)


@pytest.fixture
def handler() -> Recorder:
    return Recorder()


PATIENCE = 30.0
"""What only saves work goes on without a Redis that does not answer within a second, as on a busy machine. Tests of
anything but that give Redis more time."""


def blob_locks(queue: Queue, **settings: Any) -> RedisBlobLocks:
    return RedisBlobLocks(queue, **{"deadline": PATIENCE, **settings})


@asynccontextmanager
async def working(queue: Queue, handler: Callable[[Running], Awaitable[Any]], **settings: Any) -> AsyncIterator[Worker]:
    """Have a worker run, and stop it at the end."""
    defaults: dict[str, Any] = {
        "concurrency": {Lane.EVENTS: 4, Lane.BACKFILL: 4},
        "policy": QUICK,
        "lease": 1.0,
        "drain": 0.5,
        "timeout": 10,
    }
    worker = Worker(queue, handler, **{**defaults, **settings})
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        async with asyncio.timeout(15):
            await task


async def eventually(check: Callable[[], Awaitable[Any]], timeout: float = 10) -> Any:
    """Wait until ``check`` gives something true; give it."""
    async with asyncio.timeout(timeout):
        while not (result := await check()):
            await asyncio.sleep(0.02)
        return result


async def idle(queue: Queue, timeout: float = 10) -> None:
    """Wait until nothing is queued, running, waiting or paused."""

    async def empty() -> bool:
        counts = await queue.counts()
        return not any(lane.pending for lane in counts.lanes.values())

    await eventually(empty, timeout)


async def accepted(queue: Queue, job_id: str) -> bool:
    """Tell whether an event of this job is accepted."""
    try:
        await queue.enqueue([Job(job_id, {})], Lane.EVENTS)
    except QueueUnavailable:
        return False
    return True


async def command(queue: Queue, *words: str | bytes | int) -> Any:
    """Ask the queue's Redis something of its own."""
    return await queue.redis.execute_command(*words)
