"""Processes that copy for one lane only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.test_backfill_detached import detached, pushed
from tests.running import replicator, running
from tests.standins.images import image, verify_tree

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_process_for_events_leaves_a_backfill_to_one_for_backfills(house: House, command: str) -> None:
    rules = await pushed(house)
    options = ("--config", rules, "--lane")
    async with running(command, *options, "events", cwd=house.directory, ready="worker started"):
        code, out = await detached(house, rules)
        assert code == 0, out
        assert "no worker serves the lane backfill on " in out
        assert "nothing is copied until a worker for this lane runs" in out
        ended = await replicator("status", "--json", cwd=house.directory)
        status = json.loads(ended.out)
        assert [worker["concurrency"] for worker in status["workers"]] == [{"events": 16}]
        assert status["lanes"]["backfill"]["queued"] == 3
        said = await replicator("status", cwd=house.directory)
        assert "none serves the lane backfill" in said.out
        async with running("worker", *options, "backfill", cwd=house.directory, ready="worker started") as worker:
            await worker.until("copy done", count=3, lane="backfill")
    await verify_tree(house.behind_acr, "image-syncer/app", "v3", image(3))


async def test_a_lane_is_refused_where_nothing_is_copied(house: House) -> None:
    ended = await replicator("serve", "--no-worker", "--lane=events", cwd=house.directory)
    assert ended.code == 2
    assert "--lane: --no-worker copies nothing" in ended.said


async def test_an_unknown_lane_is_refused_with_the_known_ones(house: House) -> None:
    ended = await replicator("worker", "--lane=pushes", cwd=house.directory)
    assert ended.code == 2
    assert "events" in ended.said
    assert "backfill" in ended.said
