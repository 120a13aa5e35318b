"""Several workers on one Redis send shared blobs once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator.queue import Lane, Queue
from tests.queue.servers import RedisServer
from tests.running import TOKEN, Serving, running
from tests.standins.faults import CutUpload, Fault, Hold
from tests.standins.images import Image, cosign_tag, fetch_raw, image, layer, push, referrer, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.conftest import House
    from tests.standins.faults import Entry

SHARED = layer(77, 5_000_000)
OF_SHARED = SHARED.digest.replace(":", "(:|%3A)")
"""The digest as it may stand in a query."""
IMAGES = {f"v{number}": image(100 + number, base=[SHARED]) for number in range(6)}


class Fleet:
    """A webhook without a worker, and a queue on a Redis for as many workers as a test starts."""

    def __init__(self, house: House, redis: RedisServer, queue: Queue, stack: contextlib.AsyncExitStack) -> None:
        self.house = house
        self.queue = queue
        self._rules = house.rules({"HARBOR/library/**": {"to": "ACR/image-syncer/{name}", "signatures": True}})
        self._settings = {"REPLICATOR_REDIS_URL": redis.url, "REPLICATOR_LEASE": "10"}
        self._stack = stack

    async def run(self, command: str, *arguments: str, ready: str) -> Serving:
        options: tuple[str | Path, ...] = ("--config", self._rules, *arguments)
        process = running(command, *options, cwd=self.house.directory, ready=ready, settings=self._settings)
        return await self._stack.enter_async_context(process)

    async def worker(self, concurrency: int) -> Serving:
        return await self.run("worker", f"--concurrency={concurrency}", ready="worker started")

    async def push(self, images: dict[str, Image], repositories: list[str]) -> None:
        """Push each image to one of the repositories in turn, all at once, and wait until all is queued."""
        serving = await self.run("serve", "--no-worker", ready="listening")
        self.house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await asyncio.gather(
            *(
                push(self.house.harbor.host, f"library/{name}", tag, root, HARBOR_ROBOT)
                for (tag, root), name in zip(images.items(), repositories, strict=True)
            )
        )
        await self.house.harbor.deliveries_settled()
        counts = await self.queue.counts()
        assert counts.lanes[Lane.EVENTS].queued == len(images)

    def uploads(self) -> list[Entry]:
        """The bodies of the shared layer that were sent, wholly or in part."""
        return self.house.acr.faults.log.select("PUT", "/blobs/uploads/", query=OF_SHARED)


@pytest.fixture
async def fleet(house: House) -> AsyncIterator[Fleet]:
    async with contextlib.AsyncExitStack() as stack:
        # A Unix socket's path is short.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp"))
        redis = stack.enter_context(RedisServer(Path(directory)))
        queue = await stack.enter_async_context(await Queue.connect(redis.url))
        yield Fleet(house, redis, queue, stack)


async def struck(fault: Fault) -> None:
    async with asyncio.timeout(30):
        while not fault.hits:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def released(hold: Hold) -> AsyncIterator[None]:
    """Let what is held go on in any case: the registry does not end before its requests."""
    try:
        yield
    finally:
        hold.released.set()


@pytest.mark.parametrize("repositories", [["app"] * 6, ["a", "b", "c", "d", "e", "f"]], ids=["one", "several"])
async def test_two_workers_send_a_layer_that_their_tags_share_once(fleet: Fleet, repositories: list[str]) -> None:
    house = fleet.house
    await fleet.push(IMAGES, repositories)
    hold = Hold()
    slow = house.acr.faults.add(Fault(hold, "PUT", "/blobs/uploads/", OF_SHARED, times=None))
    async with released(hold):
        workers = [await fleet.worker(3), await fleet.worker(3)]
        await struck(slow)
        async with asyncio.timeout(30):
            while len(jobs := await fleet.queue.running()) < len(IMAGES):
                await asyncio.sleep(0.02)
        assert len({job.worker for job in jobs}) == 2
    done = [line for worker in workers for line in await worker.until("copy done", count=3, result="copied")]
    assert [entry.status for entry in fleet.uploads()] == [201]
    # Nor did anyone else ask to.
    sessions = house.acr.faults.log.select("POST", "/blobs/uploads/", status=202, query=OF_SHARED)
    assert len(sessions) <= 1
    assert sum(line["bytes"] for line in done) < SHARED.size + 100_000
    assert sum(line["blobs_mounted"] for line in done) == len(set(repositories)) - 1
    for (tag, root), name in zip(IMAGES.items(), repositories, strict=True):
        await verify_tree(house.behind_acr, f"image-syncer/{name}", tag, root)
    assert all(worker.said("copy failed") == worker.said("turns unavailable") == [] for worker in workers)


async def test_what_a_worker_leaves_half_sent_when_it_is_killed_another_sends(fleet: Fleet) -> None:
    house = fleet.house
    await fleet.push(IMAGES, ["app"] * 6)
    half = house.acr.faults.add(Fault(CutUpload(2_000_000, "stall"), "PUT", "/blobs/uploads/", OF_SHARED))
    victim = await fleet.worker(1)
    await struck(half)
    (job,) = await fleet.queue.running()
    heir = await fleet.worker(6)
    small = sum(len(root.blobs) - 1 for root in IMAGES.values())
    async with asyncio.timeout(30):
        while house.acr.faults.log.count("PUT", "/blobs/uploads/", 201) < small:
            await asyncio.sleep(0.02)
    # All that the other worker's five images have besides is there; they wait for the layer, and send nothing of it.
    assert [entry.status for entry in fleet.uploads()] == [None]
    victim.process.kill()
    lines = await heir.until("copy done", count=len(IMAGES), timeout=60, result="copied")
    assert {line["destination"] for line in lines} >= {job.id}
    assert [entry.status for entry in fleet.uploads()] == [None, 201]
    assert victim.said("copy done") == heir.said("copy failed") == []
    for tag, root in IMAGES.items():
        await verify_tree(house.behind_acr, "image-syncer/app", tag, root)


async def test_two_workers_list_all_that_refers_to_an_image(fleet: Fleet) -> None:
    """A list that each reads, adds to and writes would lose what the other adds meanwhile."""
    house, subject = fleet.house, image(1)
    await push(house.behind_acr, "image-syncer/app", "v1", subject)
    referrers = [referrer(subject, seed, as_image=True) for seed in range(8)]
    await fleet.push({one.digest: one for one in referrers}, ["app"] * 8)
    hold = Hold()
    slow = house.acr.faults.add(Fault(hold, "HEAD", f"/manifests/{subject.digest}", times=None))
    async with released(hold):
        workers = [await fleet.worker(4), await fleet.worker(4)]
        async with asyncio.timeout(30):
            while slow.hits < len(referrers):
                await asyncio.sleep(0.02)
    for worker in workers:
        await worker.until("copy done", count=4)
        assert worker.said("copy failed") == []
    content, _ = await fetch_raw(house.behind_acr, "image-syncer/app", cosign_tag(subject, ""))
    listed = [row["digest"] for row in json.loads(content)["manifests"]]
    assert sorted(listed) == sorted(one.digest for one in referrers)
    for one in referrers:
        await verify_tree(house.behind_acr, "image-syncer/app", one.digest, one)
