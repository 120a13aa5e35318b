"""A backfill on a Redis that loses its data."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from replicator.backfill import Backfill, Manner, RowOutcome
from replicator.backfill import run as backfill_run
from replicator.cancelling import cancel_all
from replicator.copy import Copier
from replicator.queue import Lane, Queue, Worker
from replicator.registry import Registries
from replicator.replication import Handler
from replicator.rules import load
from replicator.transfer import access_by
from tests.queue.servers import RedisServer
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    import pytest

    from tests.end_to_end.conftest import House


async def test_what_the_queue_has_forgotten_is_queued_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill_run, "_LOSS_SECONDS", 0.2)
    monkeypatch.setattr(backfill_run, "_HEARING_SECONDS", 0.2)
    for tag in ("v1", "v2"):
        await push(house.harbor.host, "library/app", tag, image(), HARBOR_ROBOT)
    rules = load(house.rules({"HARBOR/library/app": "ACR/image-syncer/app"}), environ={})
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp"))
        redis = stack.enter_context(RedisServer(Path(directory)))
        queue = await stack.enter_async_context(await Queue.connect(redis.url))
        registries = await stack.enter_async_context(Registries(access_by(rules.credentials)))
        backfill = Backfill(rules, registries, Copier(registries), queue, manner=Manner(retries=0))
        running = asyncio.create_task(backfill.run())
        try:
            async with asyncio.timeout(30):
                while (await queue.counts()).lanes[Lane.BACKFILL].queued < 2:
                    await asyncio.sleep(0.01)
            await queue.redis.flushall()
            worker = Worker(queue, Handler(registries, Copier(registries)), concurrency={Lane.BACKFILL: 2})
            working = asyncio.create_task(worker.run())
            async with asyncio.timeout(30):
                report = await running
            worker.stop()
            await working
        finally:
            await cancel_all({running})
    assert report.counts == {RowOutcome.COPIED: 2}
    await verify_tree(house.behind_acr, "image-syncer/app", "v2", image())
