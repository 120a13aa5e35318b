"""Jobs that are found one by one go into the queue in batches, and each `put` learns the result."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator.queue import Job, Lane, Queue, QueueError
from replicator.replication.enqueue import Enqueuer
from replicator.tasks import cancel_all
from tests.queue.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@asynccontextmanager
async def enqueuer(queue: Queue) -> AsyncIterator[Enqueuer]:
    """One that is running."""
    made = Enqueuer(queue, None)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        await cancel_all({task})


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as short, RedisServer(Path(short)) as running:
        yield running


async def test_when_put_returns_the_job_is_in_the_queue_and_new_ones_are_counted(server: RedisServer) -> None:
    async with await Queue.connect(server.url) as queue, enqueuer(queue) as made:
        await made.put(Job("acr/a:0", {}))
        assert (await queue.counts()).lanes[Lane.BACKFILL].queued == 1
        await asyncio.gather(*(made.put(Job(f"acr/a:{number}", {})) for number in range(1200)))
        assert (await queue.counts()).lanes[Lane.BACKFILL].queued == 1200
        assert made.drift == 1200
        await asyncio.gather(*(made.put(Job(f"acr/b:{number}", {}), differs=number < 7) for number in range(20)))
        assert (await queue.counts()).lanes[Lane.BACKFILL].queued == 1220
        assert made.drift == 1207


async def test_an_error_of_the_queue_is_raised_by_every_pending_put_and_the_next_put_may_succeed(
    server: RedisServer,
) -> None:
    async with await Queue.connect(server.url, deadline=0.5) as queue, enqueuer(queue) as made:
        server.kill()
        puts = [asyncio.create_task(made.put(Job(f"acr/a:{number}", {}))) for number in range(3)]
        for put in puts:
            with pytest.raises(QueueError):
                await put
        server.start()
        async with asyncio.timeout(30):
            while True:
                try:
                    await made.put(Job("acr/a:1", {}))
                    break
                except QueueError:
                    await asyncio.sleep(0.05)
        assert (await queue.counts()).lanes[Lane.BACKFILL].queued >= 1
