"""Shutdown and Redis outages during copies: nothing is lost, and nothing takes longer than asked."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.queue.servers import RedisServer
from tests.running import TOKEN, running
from tests.standins.faults import Delay, Fault
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

EVERYTHING = {"HARBOR/library/**": "ACR/image-syncer/{name}"}


async def struck(fault: Fault) -> None:
    async with asyncio.timeout(30):
        while not fault.hits:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_second_signal_ends_at_once_and_the_copy_is_done_by_the_next_process(
    house: House, command: str
) -> None:
    rules = house.rules(EVERYTHING)
    # Neither the copy's end nor that of the drain time would come within the test.
    settings = {"REPLICATOR_DRAIN_TIMEOUT": "3600"}
    slow = house.acr.faults.add(Fault(Delay(3600), method="PUT", path="/blobs/uploads/", times=1))
    async with running("serve", "--config", rules, "--no-worker", cwd=house.directory) as webhook:
        house.harbor.add_policy("library", f"{webhook.url}/webhooks/harbor", auth_header=TOKEN)
        async with running(
            command, "--config", rules, cwd=house.directory, ready="worker started", settings=settings
        ) as process:
            await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
            await struck(slow)
            process.process.terminate()
            await process.until("worker stopping", running=1)
            assert process.process.returncode is None
            assert await process.stop(timeout=20) == 0
            assert len(process.said("job handed back")) == 1
            assert [line["at_once"] for line in process.said("stopping")] == [False, True]
        async with running(command, "--config", rules, cwd=house.directory, ready="worker started") as process:
            (done,) = await process.until("copy done", result="copied")
    assert done["tries"] == 1
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", image())


async def test_a_copy_goes_on_while_redis_is_away_and_is_recorded_when_it_is_back(house: House) -> None:
    rules = house.rules(EVERYTHING)
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as short, RedisServer(Path(short)) as redis:
        settings = {"REPLICATOR_REDIS_URL": redis.url, "REPLICATOR_LOG_LEVEL": "debug"}
        async with running("serve", "--config", rules, cwd=house.directory, settings=settings) as serving:
            house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
            slow = house.acr.faults.add(Fault(Delay(1.0), method="POST", path="/blobs/uploads/", times=1))
            await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
            await struck(slow)
            redis.kill()
            await serving.until("queue unavailable")
            # The blobs go on their way without Redis; only the tag waits, as the lease on it can't be confirmed.
            async with asyncio.timeout(30):
                while not any(entry.method == "PUT" and entry.status == 201 for entry in house.acr.faults.log):
                    await asyncio.sleep(0.01)
            async with aiohttp.ClientSession() as session, session.get(f"{serving.url}/readyz") as ready:
                assert ready.status == 503
                assert "the queue can't accept or hand out work" in await ready.text()
            redis.start()
            (done,) = await serving.until("copy done", result="copied")
            await serving.until("job done")
            assert done["tries"] == 1
            assert serving.said("copy failed") == []
            # An answer holds for a second.
            async with aiohttp.ClientSession() as session, asyncio.timeout(20):
                while (await session.get(f"{serving.url}/readyz")).status != 200:
                    await asyncio.sleep(0.1)
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", image())
