"""However many tags there are, a backfill has only so many of them under way."""

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
from tests.standins.images import image, push

if TYPE_CHECKING:
    import pytest

    from tests.end_to_end.conftest import House

TAGS = 12


async def test_only_so_many_copies_wait_in_the_queue_and_only_so_many_tags_before_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill_run, "_QUEUED_AT_ONCE", 2)
    monkeypatch.setattr(backfill_run, "_LISTED_AHEAD", 3)
    for number in range(TAGS):
        await push(house.behind_harbor, "team/app", f"v{number}", image(number))
    rules = load(house.rules({"HARBOR/team/app": "ACR/image-syncer/app"}), environ={})
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
            # Nobody copies: nothing more is compared, however long it waits.
            house.acr.faults.log.clear()
            await asyncio.sleep(0.3)
            assert house.acr.faults.log.count("HEAD", "/manifests/") == 0
            assert (await queue.counts()).lanes[Lane.BACKFILL].queued == 2
            worker = Worker(queue, Handler(registries, Copier(registries)), concurrency={Lane.BACKFILL: 2})
            working = asyncio.create_task(worker.run())
            async with asyncio.timeout(30):
                report = await running
            worker.stop()
            await working
        finally:
            await cancel_all({running})
    assert report.counts == {RowOutcome.COPIED: TAGS}
    assert report.drift == TAGS
