"""Concurrent backfills and events on one queue: one copy of a tag at a time, and the newest image wins."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator.queue import Queue
from tests.end_to_end.writes import repeated, tag_writes, times_sent
from tests.queue.servers import RedisServer
from tests.running import TOKEN, replicator, running
from tests.standins.faults import Fault, Hold
from tests.standins.images import Image, fetch_raw, image, layer, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

BASE = layer(77, 100_000)
NAMES = [f"{repository}:v{number}" for repository in ("a", "b", "c") for number in range(4)]
HOT = ["a:v0", "a:v1", "b:v0", "c:v3"]
"""Tags that are pushed again and again."""
VERSIONS = 3


def version(name: str, number: int) -> Image:
    return image(1000 * number + 10 * NAMES.index(name), (900,), base=[BASE])


async def push_version(house: House, name: str, number: int) -> None:
    repository, _, tag = name.partition(":")
    await push(house.harbor.host, f"library/{repository}", tag, version(name, number), HARBOR_ROBOT)


async def struck(faults: list[Fault]) -> None:
    async with asyncio.timeout(30):
        while not all(fault.hits for fault in faults):
            await asyncio.sleep(0.01)


async def arrived(host: str, repository: str, tag: str) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(LookupError):
                await fetch_raw(host, repository, tag)
                return
            await asyncio.sleep(0.02)


async def nothing_left(queue: Queue) -> None:
    async with asyncio.timeout(30):
        while any(lane.queued + lane.running + lane.waiting for lane in (await queue.counts()).lanes.values()):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("options", [[[], []], [["--detach"]]], ids=["two", "detached"])
async def test_what_is_pushed_during_backfills_is_copied_after_the_older_and_never_beside_it(
    house: House, options: list[list[str]]
) -> None:
    for name in NAMES:
        repository, _, tag = name.partition(":")
        await push(house.behind_harbor, f"library/{repository}", tag, version(name, 0))
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    release = Hold()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp"))
        redis = stack.enter_context(RedisServer(Path(directory)))
        queue = await stack.enter_async_context(await Queue.connect(redis.url))
        settings = {"REPLICATOR_REDIS_URL": redis.url}
        serve = running("serve", "--config", rules, cwd=house.directory, settings=settings)
        serving = await stack.enter_async_context(serve)
        stack.callback(release.released.set)
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        held = [
            house.acr.faults.add(Fault(release, "PUT", f"/image-syncer/{name.replace(':', '/manifests/')}$"))
            for name in HOT
        ]
        backfills = asyncio.gather(
            *(
                replicator(
                    "backfill",
                    "--config",
                    rules,
                    f"--report={number}.json",
                    *chosen,
                    cwd=house.directory,
                    settings=settings,
                )
                for number, chosen in enumerate(options)
            )
        )
        await struck(held)
        for number in range(1, VERSIONS):
            await asyncio.gather(*(push_version(house, name, number) for name in HOT))
            await house.harbor.deliveries_settled()
        # Whoever copied a tag beside its older copy would have begun with it before this is done.
        await push(house.harbor.host, "library/later", "v1", image(5), HARBOR_ROBOT)
        await arrived(house.behind_acr, "image-syncer/later", "v1")
        release.released.set()
        ended = await backfills
        await nothing_left(queue)
        assert (await queue.counts()).dead == 0
    assert [one.code for one in ended] == [0] * len(options), ended[0].said
    for number, chosen in enumerate(options):
        rows = json.loads((house.directory / f"{number}.json").read_text())
        assert {row["destination"].rpartition("/")[2] for row in rows} >= set(NAMES)
        assert {row["outcome"] for row in rows} <= ({"queued"} if chosen else {"copied", "up to date"})
    for name in NAMES:
        writes = [write for write in tag_writes(house.acr.faults.log) if write.name == f"image-syncer/{name}"]
        assert all(write.answered for write in writes)
        for one, following in itertools.pairwise(writes):
            assert one.ended <= following.began, f"two copies of {name} at once"
        digests = [version(name, number).digest for number in range(VERSIONS if name in HOT else 1)]
        written = [digests.index(write.digest or "") for write in writes]
        assert written == sorted(set(written)), f"{name} was written twice, or an older version over a newer one"
        assert written[0] == 0
        assert written[-1] == len(digests) - 1
        repository, _, tag = name.partition(":")
        await verify_tree(house.behind_acr, f"image-syncer/{repository}", tag, version(name, written[-1]))
    assert repeated(times_sent(house.acr.faults.log)) == {}
