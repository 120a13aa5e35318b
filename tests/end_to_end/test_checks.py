"""Observed destinations and cached selections are shared with the next process."""

from __future__ import annotations

import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator.copy import selection_key
from replicator.copy.options import CopyOptions
from replicator.queue import Observations, Queue
from replicator.reference import Platform
from tests.queue.servers import RedisServer
from tests.running import TOKEN, replicator, running
from tests.standins.images import Image, Index, image, index, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import House

OLD, NEW = index([image(1), image(2, architecture="arm64")]), index([image(3), image(4, architecture="arm64")])
OPTIONS = CopyOptions((Platform("linux", "amd64"),))
RULES = {"HARBOR/library/**": {"to": "ACR/image-syncer/{name}", "platforms": ["linux/amd64"]}}


@pytest.fixture
def redis() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory, RedisServer(Path(directory)) as server:
        yield server.url


async def trusts(house: House, redis: str, root: Image | Index) -> bool:
    async with await Queue.connect(redis) as queue, aclosing(Observations(queue)) as checks:
        expected = [(f"{house.acr.host}/image-syncer/app:v1", selection_key(root.digest, OPTIONS))]
        return (await checks.confirmed(expected, 3600)) == [True]


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_what_a_service_copied_is_known_to_be_there_until_a_backfill_writes_it_anew(
    house: House, redis: str, command: str
) -> None:
    rules, settings = house.rules(RULES), {"REPLICATOR_REDIS_URL": redis}
    # A webhook alone needs no worker, and a worker no webhook.
    options = ["--no-worker"] if command == "worker" else []
    async with running("serve", "--config", rules, *options, cwd=house.directory, settings=settings) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", OLD, HARBOR_ROBOT)
        if command == "worker":
            working = running(
                command, "--config", rules, cwd=house.directory, settings=settings, ready="worker started"
            )
            async with working as worker:
                await worker.until("copy done", result="copied")
        else:
            await serving.until("copy done", result="copied")
    assert await trusts(house, redis, OLD)
    # No event comes of what is put past Harbor.
    await push(house.behind_harbor, "library/app", "v1", NEW)
    ended = await replicator("backfill", "--config", rules, cwd=house.directory, settings=settings)
    assert ended.code == 0, ended.said
    assert not await trusts(house, redis, OLD)


async def test_a_second_backfill_reads_no_manifest(house: House, redis: str) -> None:
    rules, settings = house.rules(RULES), {"REPLICATOR_REDIS_URL": redis}
    await push(house.harbor.host, "library/app", "v1", OLD, HARBOR_ROBOT)
    for reads in (True, False):
        house.harbor.faults.log.clear()
        ended = await replicator("backfill", "--config", rules, cwd=house.directory, settings=settings)
        assert ended.code == 0, ended.said
        assert "memory unavailable" not in ended.said
        assert bool(house.harbor.faults.log.count("GET", "/manifests/")) is reads
