"""A comparison that finds a destination right ends its dead letter, and so does a list that lacks its source."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy import Copier
from replicator.errors import ErrorClass
from replicator.queue import DeadLetters, Job, Lane, Observations, Worker
from replicator.registry import Registries
from replicator.replication.backfill import Backfill
from replicator.replication.enqueue import BackfillOptions
from replicator.replication.listing import Listing
from replicator.replication.report import RowOutcome
from replicator.replication.transfer import CopyFailed, access_by
from replicator.rules import Narrowing
from tests.replication.conftest import QUICK, TEAM, tiny
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.queue import Running
    from replicator.replication.report import Report
    from tests.replication.conftest import Stage


async def bury(stage: Stage, *tags: str) -> None:
    """Give the copies of these tags up."""
    house = stage.house

    async def fail(_: Running) -> Mapping[str, Any]:
        raise CopyFailed("the registry said no", ErrorClass.PERMANENT)

    jobs = [
        Job(f"{house.behind}/copies/{tag}", {"source": f"{house.harbor.host}/team/{tag}", "rule": "k"}) for tag in tags
    ]
    await stage.queue.enqueue(jobs, Lane.EVENTS)
    worker = Worker(stage.queue, fail, concurrency=dict.fromkeys(Lane, 4))
    working = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        while (await stage.queue.counts()).dead < len(tags):
            await asyncio.sleep(0.01)
    worker.stop()
    await working


async def copied(stage: Stage, name: str) -> None:
    """Put an image of the Harbor to its destination, past the replicator."""
    repository, _, tag = name.partition(":")
    await push(stage.house.behind, f"copies/{repository}", tag, tiny(f"team/{name}"))


async def left(stage: Stage) -> set[str]:
    return {letter.id.partition("/copies/")[2] for letter in await DeadLetters(stage.queue).all()}


async def backfill(
    stage: Stage, only: tuple[str, ...] = (), *, trust: float | None = None, images: dict[str, Any] | None = None
) -> Report:
    rules = stage.house.rules(images or TEAM)
    async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
        checks = Observations(stage.queue)
        options = BackfillOptions(detach=True, trust=trust)
        listing = Listing(rules, registries, Narrowing(rules, only))
        report = await Backfill(listing, Copier(registries), stage.queue, options=options, checks=checks).run()
        await checks.aclose()
    return report


@pytest.mark.parametrize("trust", [None, 3600.0])
async def test_a_backfill_ends_what_it_finds_right_or_gone(stage: Stage, trust: float | None) -> None:
    digests = await stage.house.put(
        [f"team/app:{tag}" for tag in ("right", "also", "gone", "other")] + ["team/whole:1"]
    )
    await copied(stage, "app:right")
    await copied(stage, "app:also")
    # With trust, what is right was seen to be right before.
    await backfill(stage)
    await stage.house.delete("team/app", digests["team/app:gone"])
    await stage.house.delete("team/whole", digests["team/whole:1"])
    await bury(stage, "app:right", "app:also", "app:gone", "whole:1", "never:1")
    report = await backfill(stage, trust=trust)
    assert report.trusted == 0
    assert await left(stage) == set()


async def test_what_is_not_listed_is_not_gone(stage: Stage) -> None:
    digests = await stage.house.put(["team/app:v1", "team/app:v2", "team/other:v1"])
    await bury(stage, "app:v1", "other:v9")
    await stage.house.delete("team/app", digests["team/app:v1"])
    await backfill(stage, only=("team/other",))
    assert await left(stage) == {"app:v1"}
    fault = stage.house.harbor.faults.add(Fault(Answer(500), "GET", "/artifacts|/tags/list", times=None))
    await backfill(stage)
    assert await left(stage) == {"app:v1"}
    assert fault.hits


async def test_what_no_list_shows_but_the_registry_has_is_not_gone(stage: Stage) -> None:
    await stage.house.put(["team/app:v1", "team/app:v2"])
    await bury(stage, "app:v1")
    # As to a login that may not see a tag: its list has the other one.
    rows = [{"id": 1, "repository_name": "team/app", "digest": tiny("team/app:v2").digest, "tags": [{"name": "v2"}]}]
    body = json.dumps(rows).encode()
    answer = Answer(200, headers={"X-Total-Count": "1", "Content-Type": "application/json"}, body=body)
    stage.house.harbor.faults.add(Fault(answer, "GET", "/artifacts", times=None))
    await backfill(stage)
    assert await left(stage) == {"app:v1"}


async def test_what_is_skipped_now_is_no_failure_any_more(stage: Stage) -> None:
    await push(stage.house.behind, "team/app", "v1", image(1))
    await push(stage.house.behind, "copies/app", "v1", image(2))
    await bury(stage, "app:v1")
    report = await backfill(
        stage, images={"HARBOR/team/**": {"to": "BEHIND/copies/{name}", "platforms": ["linux/arm"]}}
    )
    assert (report.counts, report.stale) == ({RowOutcome.SKIPPED: 1}, 1)
    assert await left(stage) == set()


async def test_a_sweep_ends_what_it_finds_right(stage: Stage) -> None:
    sweeper = await stage.sweeper()
    await stage.house.put(["team/app:v1"])
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    await copied(stage, "app:v2")
    await bury(stage, "app:v2")
    await sweeper.step()
    assert await left(stage) == set()
