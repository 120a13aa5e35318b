"""A tag that is set anew while Harbor's list is read stands there twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicator.backfill import Backfill, Manner, RowOutcome
from replicator.cancelling import cancel_all
from replicator.copy import Copier
from replicator.queue import Lane, Queue, Worker
from replicator.registry import Registries
from replicator.replication import Handler
from replicator.rules import load
from replicator.transfer import access_by
from tests.queue.servers import RedisServer
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push, verify_tree

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


def page(*rows: dict[str, Any]) -> Answer:
    headers = {"X-Total-Count": "101", "Content-Type": "application/json"}
    return Answer(200, headers=headers, body=json.dumps(rows).encode())


def row(number: int, digest: str, *tags: str) -> dict[str, Any]:
    return {"id": number, "repository_name": "team/app", "digest": digest, "tags": [{"name": tag} for tag in tags]}


async def test_it_counts_once_and_what_it_names_is_copied(house: House) -> None:
    await push(house.behind_harbor, "team/app", "v1", image(2))
    others = [row(number, f"sha256:{number:064x}") for number in range(2, 101)]
    pages = (page(row(1, image(1).digest, "v1"), *others), page(row(101, image(2).digest, "v1")))
    for number, answer in enumerate(pages, 1):
        house.harbor.faults.add(Fault(answer, "GET", "/artifacts", query=f"page={number}&", times=None))
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
                # The second is listed before the list is complete.
                while not backfill.report.complete or backfill.report.listed != 1:
                    await asyncio.sleep(0.01)
            assert (await queue.counts()).lanes[Lane.BACKFILL].queued == 1
            worker = Worker(queue, Handler(registries, Copier(registries)), concurrency={Lane.BACKFILL: 2})
            working = asyncio.create_task(worker.run())
            async with asyncio.timeout(30):
                report = await running
            worker.stop()
            await working
        finally:
            await cancel_all({running})
    assert report.counts == {RowOutcome.COPIED: 1}
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", image(2))
