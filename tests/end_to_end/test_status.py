"""``replicator status`` shows work in progress."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from replicator.errors import ErrorText
from tests.harbor.test_events import default
from tests.running import TOKEN, begun, replicator, running
from tests.standins.faults import Answer, Delay, Fault
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.end_to_end.conftest import House
    from tests.running import Serving

EVERYTHING = {"HARBOR/library/**": "ACR/image-syncer/{name}"}
IDLE = {"queued": 0, "running": 0, "waiting": 0}


async def status(directory: Path, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    ended = await replicator("status", "--json", cwd=directory, settings=settings)
    assert ended.code == 0, ended.said
    found: dict[str, Any] = json.loads(ended.out)
    return found


@asynccontextmanager
async def held_up(house: House, serving: Serving) -> AsyncIterator[str]:
    """Have a copy run that has sent its blob and does not get its tag written; give its destination."""
    house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
    slow = house.acr.faults.add(Fault(Delay(300), method="PUT", path="/manifests/", times=None))
    await push(house.harbor.host, "library/app", "v1", image(1, (50_000,)), HARBOR_ROBOT)
    async with asyncio.timeout(30):
        while not slow.hits:
            await asyncio.sleep(0.01)
    yield f"{house.acr.host}/image-syncer/app:v1"
    # A second signal: it would be waited for.
    serving.process.terminate()
    await serving.until("stopping")
    assert await serving.stop() == 0


async def test_a_copy_is_shown_while_it_runs_with_its_bytes(house: House) -> None:
    async with (
        running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving,
        held_up(house, serving) as destination,
    ):
        async with asyncio.timeout(30):
            # What was read is published about a second later.
            while not (seen := await status(house.directory))["running"][0]["bytes"]:
                pass
        (job,) = seen["running"]
        (worker,) = seen["workers"]
        assert set(seen) == {"taken", "queue", "server", "lanes", "dead", "running", "waiting", "workers"}
        assert seen["lanes"] == {"events": {**IDLE, "running": 1}, "backfill": IDLE}
        assert (seen["dead"], seen["waiting"]) == (0, [])
        assert {*job, "seconds_left"} == {
            "destination",
            "lane",
            "since",
            "bytes",
            "size",
            "seconds_left",
            "tries",
            "worker",
        }
        assert (job["destination"], job["lane"], job["tries"]) == (destination, "events", 1)
        assert job["bytes"] >= 50_000
        assert job["since"] < seen["taken"]
        assert job["worker"] == worker["id"]
        assert set(worker) == {"id", "host", "pid", "started", "seen", "running", "concurrency", "stopping", "waiting"}
        assert (worker["pid"], worker["stopping"]) == (serving.process.pid, False)
        assert worker["concurrency"] == {"events": 16, "backfill": 32}

        table = await replicator("status", cwd=house.directory)
        assert table.code == 0
        assert destination in table.out
        assert "1 worker" in table.out
    # It was handed back: nothing runs, nothing is lost, and no try is burnt. It waits until the write is over.
    seen = await status(house.directory)
    assert (seen["running"], seen["workers"]) == ([], [])
    assert seen["lanes"] == {"events": {**IDLE, "waiting": 1}, "backfill": IDLE}
    assert [(each["destination"], each["tries"]) for each in seen["waiting"]] == [(destination, 0)]
    assert "no worker runs" in (await replicator("status", cwd=house.directory)).out


async def test_what_waits_is_shown_with_its_reason_and_the_time_of_its_next_try(house: House) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        # It is asked for more patience than a request of its own has.
        busy = Answer(503, "UNAVAILABLE", "come back later", headers={"Retry-After": "600"})
        house.acr.faults.add(Fault(busy, times=None))
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        await serving.until("copy failed")
        async with asyncio.timeout(30):
            while not (seen := await status(house.directory))["waiting"]:
                pass
        (job,) = seen["waiting"]
        words = {"message", "what", "why", "do"}
        assert set(job) == words | {"destination", "lane", "error_class", "tries", "first", "next"}
        assert job["destination"] == f"{house.acr.host}/image-syncer/app:v1"
        assert (job["lane"], job["error_class"], job["tries"]) == ("events", "transient", 1)
        assert "503" in job["message"]
        assert job["first"] < seen["taken"] < job["next"]
        assert seen["lanes"]["events"] == {**IDLE, "waiting": 1}
        table = await replicator("status", cwd=house.directory)
        assert all(line in table.out for line in ErrorText(job["what"], job["why"], job["do"]).lines)


async def test_the_queue_of_another_prefix_is_another_queue(house: House) -> None:
    rules = house.rules(EVERYTHING)
    async with running("serve", "--no-worker", "--config", rules, cwd=house.directory) as serving:
        event = default(resource_url=f"{house.harbor.host}/library/app:v1")
        event["event_data"]["repository"]["repo_full_name"] = "library/app"
        async with (
            aiohttp.ClientSession(headers={"Authorization": TOKEN}) as session,
            session.post(f"{serving.url}/webhooks/harbor", json=event) as answer,
        ):
            assert answer.status == 202
        other = await status(house.directory, {"REPLICATOR_REDIS_PREFIX": "another"})
        assert other["lanes"] == {"events": IDLE, "backfill": IDLE}
        assert (await status(house.directory))["lanes"]["events"]["queued"] == 1
        # A worker of the other one leaves it alone, and does not even announce itself to this one.
        async with running(
            "worker",
            "--config",
            rules,
            cwd=house.directory,
            ready="worker started",
            settings={"REPLICATOR_REDIS_PREFIX": "another"},
        ):
            async with asyncio.timeout(30):
                while not (await status(house.directory, {"REPLICATOR_REDIS_PREFIX": "another"}))["workers"]:
                    pass
            seen = await status(house.directory)
        assert (seen["workers"], seen["lanes"]["events"]["queued"]) == ([], 1)


@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "table"])
async def test_watching_goes_on_until_it_is_ended(tmp_path: Path, form: list[str]) -> None:
    (tmp_path / "state").mkdir()
    watching = begun("status", *form, "--watch", "0.1", cwd=tmp_path)
    async with watching as process, asyncio.timeout(60):
        assert process.stdout is not None
        if form:
            seen = [json.loads(await process.stdout.readline()) for _ in range(3)]
            assert [look["lanes"]["events"] for look in seen] == [IDLE] * 3
            assert sorted({look["taken"] for look in seen}) == [look["taken"] for look in seen]
        else:
            heads = 0
            while heads < 3:
                heads += b"no worker runs" in await process.stdout.readline()
        process.send_signal(2)
        await process.communicate()
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["5"], "--watch"),
        (["--watch", "0"], "0.1"),
        (["--watch", "often"], "valid number"),
        (["--nonsense"], "--nonsense"),
    ],
)
async def test_what_is_wrong_with_the_command_line_is_told(tmp_path: Path, arguments: list[str], says: str) -> None:
    ended = await replicator("status", *arguments, cwd=tmp_path)
    assert ended.code == 2, ended.said
    assert says in ended.said


async def test_a_private_image_that_becomes_public_is_told_by_serve_and_status_until_a_rule_allows_it(
    house: House,
) -> None:
    rules = house.rules({"HARBOR/team/**": "ACR/image-syncer/{name}"})
    house.acr.public = {"image-syncer/app"}
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        house.harbor.add_policy("team", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
        (told,) = await serving.until("private image is public at its destination")
        assert told["level"] == "warning"
        (seen,) = (await status(house.directory))["public"]
        assert (seen["source"], seen["destination"]) == (told["source"], told["destination"])
        text = rules.read_text()
        house.rules({"HARBOR/team/**": {"to": "ACR/image-syncer/{name}", "public": "allow"}})
        assert rules.read_text() != text
        serving.process.send_signal(signal.SIGHUP)
        (over,) = await serving.until("image no longer counts as public")
        assert over["reason"] == "the rules allow it"
        assert "public" not in await status(house.directory)
