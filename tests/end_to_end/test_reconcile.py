"""The scheduled reconcile copies tags without an event; one process of all runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.queue.servers import RedisServer
from tests.running import TOKEN, replicator, running
from tests.standins.faults import Answer, Delay, Fault, Hold
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from tests.end_to_end.conftest import House
    from tests.running import Serving

EVERYTHING = {"HARBOR/library/**": "ACR/image-syncer/{name}"}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory, RedisServer(Path(directory)) as server:
        yield server


def every(when: str, **more: str) -> dict[str, str]:
    return {"REPLICATOR_RECONCILE": when, **more}


def serve(
    house: House, settings: Mapping[str, str], *arguments: str, command: str = "serve", ready: str = "listening"
) -> AbstractAsyncContextManager[Serving]:
    rules = house.rules(EVERYTHING)
    return running(command, "--config", rules, *arguments, cwd=house.directory, ready=ready, settings=settings)


async def ended(serving: Serving) -> Serving:
    """End it as an operator would, and wait for its last line."""
    assert await serving.stop() == 0
    await serving.until("stopped")
    return serving


async def last(house: House) -> dict[str, Any]:
    """What ``replicator status`` tells of reconciles."""
    told = await replicator("status", "--json", cwd=house.directory)
    assert told.code == 0, told.said
    found: dict[str, Any] = json.loads(told.out)["reconcile"]
    return found


def at(line: Mapping[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(line[name])


async def test_what_new_rules_explain_is_no_drift(house: House) -> None:
    for tag in ("v1", "v2"):
        await push(house.behind_harbor, "library/app", tag, image(1))
    async with serve(house, every("1d"), "--no-worker") as serving:
        (first,) = await serving.until("reconcile done")
    assert (first["drift"], first["pending"]) == (0, 2)


async def test_a_tag_that_no_event_told_of_arrives(house: House) -> None:
    async with serve(house, every("2s")) as serving:
        await serving.until("reconcile done", listed=0)
        await push(house.behind_harbor, "library/app", "v1", image(1))
        (line,) = await serving.until("copy done", lane="backfill")
        assert line["destination"] == f"{house.acr.host}/image-syncer/app:v1"
        await verify_tree(house.behind_acr, "image-syncer/app", "v1", image(1))
        (found, *_) = await serving.until("reconcile done", drift=1)
        assert (found["listed"], found["complete"], found["level"]) == (1, True, "info")
        await serving.until("reconcile done", drift=0, up_to_date=1)


async def test_what_a_reconcile_found_is_told_by_the_status(house: House) -> None:
    await push(house.behind_harbor, "library/app", "v1", image(1))
    async with serve(house, every("20s")) as serving:
        (first, *_) = await serving.until("reconcile done")
        await ended(serving)
        line = serving.said("reconcile done")[-1]
    assert {name: first[name] for name in ("listed", "up_to_date", "pending", "skipped", "failed")} == {
        "listed": 1,
        "up_to_date": 0,
        "pending": 1,
        "skipped": 0,
        "failed": 0,
    }
    assert (first["complete"], first["warnings"], first["error"]) == (True, 0, None)
    seen = await last(house)
    assert seen["running"] is None
    assert seen["last"] == {name: line[name] for name in seen["last"]}
    assert len(seen["last"]) == 18
    table = await replicator("status", cwd=house.directory)
    assert "1 tags" in table.out
    assert f"drift {line['drift']}" in table.out


async def test_one_that_runs_is_told_by_the_status(house: House) -> None:
    held = house.harbor.faults.add(Fault(Hold(), path="/artifacts"))
    await push(house.behind_harbor, "library/app", "v1", image(1))
    async with serve(house, every("2s")) as serving:
        await serving.until("reconcile started")
        seen = await last(house)
        assert seen["last"] is None
        assert seen["running"]["pid"] == serving.process.pid
        assert set(seen["running"]) == {"since", "host", "pid", "listed", "done"}
        assert "reconcile running" in (await replicator("status", cwd=house.directory)).out
        assert isinstance(held.action, Hold)
        held.action.released.set()
        await serving.until("reconcile done")


async def test_of_three_processes_one_runs_what_is_due_and_once(house: House, redis: RedisServer) -> None:
    await push(house.behind_harbor, "library/app", "v1", image(1))
    # Long enough for the others to begin it too, if they could.
    slow = house.harbor.faults.add(Fault(Delay(0.7), path="/artifacts", times=None))
    settings = every("1s", REPLICATOR_REDIS_URL=redis.url)
    async with contextlib.AsyncExitStack() as stack:
        fleet = [
            await stack.enter_async_context(serve(house, settings, "--no-worker")),
            await stack.enter_async_context(serve(house, settings, command="worker", ready="worker started")),
            await stack.enter_async_context(serve(house, settings, command="worker", ready="worker started")),
        ]
        async with asyncio.timeout(60):
            while sum(len(process.said("reconcile done")) for process in fleet) < 8:
                await asyncio.sleep(0.05)
        for process in fleet:
            await ended(process)
    done = sorted(
        (line for process in fleet for line in process.said("reconcile done")), key=lambda line: line["started"]
    )
    for one, next_one in pairwise(done):
        assert at(next_one, "started") >= at(one, "ended"), "two at once"
        assert at(next_one, "started") - at(one, "started") >= timedelta(seconds=1), "one that was not due"
    begun = sum(len(process.said("reconcile started")) for process in fleet)
    stopped = sum(len(process.said("reconcile stopped")) for process in fleet)
    assert begun == len(done) + stopped
    assert slow.hits <= begun
    assert done[0]["pending"] == 1
    assert not [line for process in fleet for line in process.said("reconcile lost")]


async def test_what_is_queued_already_is_no_drift(house: House) -> None:
    await push(house.behind_harbor, "library/lost", "v1", image(1))
    async with serve(house, every("1s"), "--no-worker") as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await serving.until("reconcile done", pending=1)
        # It waits in the queue from now on, and so does what an event tells of before the reconcile can see it.
        house.harbor.deliver("PUSH_ARTIFACT", "library/app", "v1", image(2).digest)
        await serving.until("webhook taken")
        await push(house.behind_harbor, "library/app", "v1", image(2))
        _, second = await serving.until("reconcile done", count=2)
        (third, *_) = await serving.until("reconcile done", listed=2)
        assert (second["drift"], third["drift"]) == (0, 0)


async def test_off_runs_none(house: House) -> None:
    await push(house.behind_harbor, "library/lost", "v1", image(1))
    async with serve(house, every("off")) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", image(2), HARBOR_ROBOT)
        await serving.until("copy done")
        await ended(serving)
        assert not [line for line in serving.lines if str(line.get("event")).startswith("reconcile")]
    assert house.harbor.faults.log.count("GET", "/artifacts") == 0
    told = await replicator("status", "--json", cwd=house.directory)
    assert "reconcile" not in json.loads(told.out)


async def test_one_that_is_due_at_the_start_runs_and_one_that_is_not_does_not(house: House) -> None:
    async with serve(house, every("2s")) as serving:
        (first, *_) = await serving.until("reconcile done")
        await ended(serving)
        started = max(at(line, "started") for line in serving.said("reconcile done"))
    async with serve(house, every("1h")) as serving:
        (scheduled,) = await serving.until("reconcile scheduled")
        assert scheduled["schedule"] == "1h"
        assert started + timedelta(hours=1) <= at(scheduled, "next") <= started + timedelta(minutes=65)
        # Something else is done meanwhile.
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", image(2), HARBOR_ROBOT)
        await serving.until("copy done")
        assert not serving.said("reconcile started")
    async with serve(house, {}, "--reconcile", "2s") as serving:
        (line, *_) = await serving.until("reconcile done")
        assert at(line, "started") > at(first, "ended")


async def test_the_run_of_a_killed_process_is_taken_over(house: House, redis: RedisServer) -> None:
    await push(house.behind_harbor, "library/app", "v1", image(1))
    held = house.harbor.faults.add(Fault(Hold(), path="/artifacts", times=None))
    assert isinstance(held.action, Hold)
    settings = every("1s", REPLICATOR_REDIS_URL=redis.url, REPLICATOR_LEASE="10")
    async with (
        serve(house, settings, command="worker", ready="worker started") as one,
        serve(house, settings, command="worker", ready="worker started") as other,
    ):
        async with asyncio.timeout(30):
            while not held.hits:
                await asyncio.sleep(0.01)
        runs, waits = (one, other) if one.said("reconcile started") else (other, one)
        await runs.until("reconcile started")
        assert not waits.said("reconcile started")
        runs.process.kill()
        await waits.until("reconcile started")
        held.action.released.set()
        (line, *_) = await waits.until("reconcile done")
        assert line["pending"] == 1
        await waits.until("copy done", lane="backfill")


async def test_a_run_that_sigterm_ends_does_not_count_and_is_begun_anew(house: House) -> None:
    await push(house.behind_harbor, "library/app", "v1", image(1))
    listing = house.harbor.faults.add(Fault(Hold(), path="/artifacts"))
    copying = house.acr.faults.add(Fault(Hold(), method="PUT", path="/manifests/v2"))
    assert isinstance(copying.action, Hold)
    async with serve(house, every("20s")) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v2", image(2), HARBOR_ROBOT)
        async with asyncio.timeout(30):
            while not (listing.hits and copying.hits):
                await asyncio.sleep(0.01)
        serving.process.terminate()
        await serving.until("reconcile stopped")
        assert not serving.said("copy done"), "it does not wait for the copies"
        copying.action.released.set()
        await serving.until("copy done")
        await serving.until("stopped")
        assert await serving.process.wait() == 0
        assert not serving.said("reconcile done")
    async with serve(house, every("20s")) as serving:
        (line,) = await serving.until("reconcile done")
        assert (line["pending"], line["up_to_date"]) == (1, 1)


async def test_one_where_nothing_can_be_listed_failed_and_is_not_tried_again_at_once(house: House) -> None:
    await push(house.behind_harbor, "library/app", "v1", image(1))
    denied = house.harbor.faults.add(Fault(Answer(403, "DENIED"), path="/api/v2.0/", times=None))
    async with serve(house, every("3s")) as serving:
        (line,) = await serving.until("reconcile failed")
        assert (line["level"], line["complete"], line["unlisted"]) == ("warning", False, 1)
        assert line["error"].startswith("nothing could be listed: can't be listed:")
        (_, scheduled, *_) = await serving.until("reconcile scheduled", count=2)
        assert at(scheduled, "next") >= at(line, "ended") + timedelta(seconds=3)
        assert "failed, nothing could be listed" in (await replicator("status", cwd=house.directory)).out
        denied.times = denied.hits
        await serving.until("reconcile done", pending=1)


async def test_what_can_not_be_compared_is_told_with_its_reason(house: House) -> None:
    for tag in ("v1", "v2"):
        await push(house.behind_harbor, "library/app", tag, image(1))
    house.acr.faults.add(Fault(Answer(302, headers={"Location": "v2"}), None, "/manifests/v2", times=None))
    async with serve(house, every("20s")) as serving:
        (line,) = await serving.until("reconcile done")
        assert (line["level"], line["failed"], line["pending"], line["complete"]) == ("warning", 1, 1, False)
        (failure,) = serving.said("reconcile failure")
        assert failure["source"] == f"{house.harbor.host}/library/app:v2"
        assert "redirects" in failure["error"]


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_schedule_that_is_none_is_told_at_the_start(house: House, command: str) -> None:
    rules = house.rules(EVERYTHING)
    for arguments, settings, name in (
        (["--reconcile", "often"], {}, "--reconcile"),
        ([], every("0 0 31 2 *"), "REPLICATOR_RECONCILE"),
    ):
        told = await replicator(command, "--config", rules, *arguments, cwd=house.directory, settings=settings)
        assert told.code == 2, told.said
        assert name in told.said
        assert "17 3 * * *" in told.said
