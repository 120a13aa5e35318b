"""A backfill on a queue without a worker, until a test starts one."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replicator.copy import Copier
from replicator.queue import Lane, Queue, Worker
from replicator.registry import Registries
from replicator.replication.backfill import Backfill
from replicator.replication.enqueue import BackfillOptions
from replicator.replication.job import Handler
from replicator.replication.listing import Listing
from replicator.replication.transfer import access_by
from replicator.rules import load
from replicator.tasks import cancel_all
from tests.queue.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.replication.report import Report


@dataclass
class Unattended:
    """A backfill that runs, and its queue."""

    queue: Queue
    registries: Registries
    backfill: Backfill
    running: asyncio.Task[Report]

    async def queued(self) -> int:
        return (await self.queue.counts()).lanes[Lane.BACKFILL].queued

    async def until_queued(self, number: int) -> None:
        async with asyncio.timeout(30):
            while await self.queued() < number:
                await asyncio.sleep(0.01)

    async def finish(self) -> Report:
        """Have its copies made, and return what became of them."""
        handler = Handler(Copier(self.registries))
        worker = Worker(self.queue, handler, concurrency={Lane.BACKFILL: 2})
        working = asyncio.create_task(worker.run())
        async with asyncio.timeout(30):
            report = await self.running
        worker.stop()
        await working
        return report


@asynccontextmanager
async def unattended(rules_file: Path) -> AsyncIterator[Unattended]:
    """Start a backfill under these rules."""
    rules = load(rules_file, environ={})
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp"))
        redis = stack.enter_context(RedisServer(Path(directory)))
        queue = await stack.enter_async_context(await Queue.connect(redis.url))
        registries = await stack.enter_async_context(Registries(access_by(rules.credentials)))
        backfill = Backfill(Listing(rules, registries), Copier(registries), queue, options=BackfillOptions(retries=0))
        running = asyncio.create_task(backfill.run())
        try:
            yield Unattended(queue, registries, backfill, running)
        finally:
            await cancel_all({running})
