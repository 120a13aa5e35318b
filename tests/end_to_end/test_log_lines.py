"""One log line a copy; the same keys lead from a delivery to its copy; no line holds a secret."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest

from replicator.queue import Job, Lane, Queue
from replicator.reference import Reference
from replicator.rules import CopyRequest
from tests.docs.pages import ROOT, blocks
from tests.end_to_end.test_push import EVERYTHING
from tests.harbor.test_events import default
from tests.running import TOKEN, Serving, replicator, running
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push
from tests.standins.logins import ACR_USER, HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

STATED = {"event", "level", "logger", "timestamp"}
"""Fields of every line."""


def policy(house: House, serving: Serving, payload_format: str = "Default") -> None:
    house.harbor.add_policy(
        "library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN, payload_format=payload_format
    )


async def delivered(serving: Serving, query: str = "", **headers: str) -> tuple[int, str]:
    """Deliver something that is ignored; return the status and the name of the request."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{serving.url}/webhooks/harbor{query}",
            json={"type": "PULL_ARTIFACT"},
            headers={"Authorization": TOKEN, **headers},
        ) as answer,
    ):
        return answer.status, answer.headers["X-Request-ID"]


async def test_the_line_of_a_copy_is_the_one_that_the_documentation_shows(house: House) -> None:
    root = image(1, (50_000,))
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        policy(house, serving)
        await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
        (line,) = await serving.until("copy done")
    (shown,) = [json.loads(block.text) for block in blocks("json") if block.page == ROOT / "docs" / "operations.md"]
    assert list(line) == list(shown)
    assert {name: type(value) for name, value in line.items()} == {name: type(value) for name, value in shown.items()}
    assert line["result"] == "copied"
    assert line["source"] == f"{house.harbor.host}/library/app:v1"
    assert line["destination"] == f"{house.acr.host}/image-syncer/app:v1"
    assert line["digest"] == root.digest
    assert line["bytes"] == sum(blob.size for blob in root.blobs)
    assert (line["blobs_copied"], line["blobs_mounted"], line["blobs_present"]) == (len(root.blobs), 0, 0)
    assert line["rule"] == f"{house.harbor.host}/library/**"
    assert (line["tries"], line["lane"]) == (1, "events")
    assert line["seconds"] > 0
    assert 0 <= line["lag"] < 60


async def test_a_copy_that_went_well_is_one_line(house: House) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        policy(house, serving)
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        await serving.until("copy done")
        await house.harbor.deliveries_settled()
        assert await serving.stop() == 0
    about = [line for line in serving.lines if f"{house.acr.host}/image-syncer/app:v1" in str(line)]
    assert [line["event"] for line in about] in (["webhook taken", "copy done"], ["copy done", "webhook taken"])


@pytest.mark.parametrize("payload_format", ["Default", "CloudEvents"])
async def test_a_delivery_and_every_try_of_its_copy_have_one_name(house: House, payload_format: str) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        policy(house, serving, payload_format)
        house.harbor.faults.add(Fault(Answer(412, "PROJECTPOLICYVIOLATION"), method="GET", path="/manifests/", times=1))
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        (first,) = await serving.until("webhook taken")
        (failed,) = await serving.until("copy failed")
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        _, second = await serving.until("webhook taken", count=2)
        (done,) = await serving.until("copy done")
    assert first["event_id"] != second["event_id"]
    assert failed["event_id"] == first["event_id"]
    # What was merged has the name of the newest, and the lag of the oldest.
    assert done["event_id"] == second["event_id"]
    assert done["lag"] >= failed["lag"]
    if payload_format == "Default":
        assert first["event_id"] == first["request_id"], "this format has no id of its own"
    else:
        assert first["event_id"] == house.harbor.deliveries[0].event["id"]
    assert re.fullmatch(r"[0-9a-f]{16}", first["request_id"])


async def test_what_no_event_asked_for_has_neither_event_nor_lag(house: House) -> None:
    rules = house.rules(EVERYTHING)
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        assert (await replicator("backfill", "--detach", "--config", rules, cwd=house.directory)).code == 0
        (line,) = await serving.until("copy done")
    assert {"event_id", "lag"}.isdisjoint(line)
    assert line["lane"] == "backfill"


async def test_the_sender_learns_the_name_of_its_request_whatever_the_answer_is(house: House) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        status, taken = await delivered(serving, **{"X-Request-ID": "mine"})
        assert status == 200
        status, refused = await delivered(serving, Authorization="wrong")
        assert status == 401
        assert len({taken, refused, "mine"}) == 3, "a name that a sender gives may be anyone's"
        await serving.until("webhook taken", request_id=taken)
        await serving.until("webhook refused", request_id=refused)
        async with aiohttp.ClientSession() as session:
            for path in ("healthz", "readyz", "metrics", "nothing"):
                async with session.get(f"{serving.url}/{path}") as answer:
                    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["X-Request-ID"]), path


async def test_requests_are_logged_only_where_it_is_asked_for(house: House) -> None:
    settings = {"REPLICATOR_ACCESS_LOG": "true", "REPLICATOR_METRICS_LISTEN": "127.0.0.1:0"}
    rules = house.rules(EVERYTHING)
    for asked in ({}, settings):
        async with running("serve", "--config", rules, cwd=house.directory, settings=asked) as serving:
            _, name = await delivered(serving, "?registry=" + TOKEN)
            if not asked:
                await serving.until("webhook taken")
                assert serving.said("request") == []
                continue
            (line,) = await serving.until("request", request_id=name)
            assert set(line) == STATED | {"method", "path", "client", "status", "seconds", "request_id"}
            told = {field: line[field] for field in ("method", "path", "client", "status")}
            assert told == {"method": "POST", "path": "/webhooks/harbor", "client": "127.0.0.1", "status": 200}
            (beside,) = await serving.until("listening for probes")
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{beside['address']}/metrics") as answer,
            ):
                assert answer.status == 200
            await serving.until("request", path="/metrics")
        assert TOKEN not in str(serving.lines)


async def test_no_line_holds_a_secret_wherever_it_was(house: House) -> None:
    """In headers, in queries, in what registries answer, with everything logged, when all goes well and when not."""
    settings = {"REPLICATOR_LOG_LEVEL": "debug", "REPLICATOR_ACCESS_LOG": "true"}
    wrong = "a-password-that-was-mistyped"
    rules = house.rules({**EVERYTHING, "HARBOR/team/**": "ACR/manual/{name}"})
    async with running("serve", "--config", rules, cwd=house.directory, settings=settings) as serving:
        policy(house, serving)
        house.harbor.add_policy("team", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        await push(house.harbor.host, "team/app", "v1", image(2), HARBOR_ROBOT)
        await serving.until("copy done")
        await serving.until("job dead")
        await delivered(serving, f"?token={TOKEN}&password={ACR_USER[1]}")
        await delivered(serving, Authorization=f"Basic {wrong}")
        await delivered(serving, Cookie=wrong, Referer=f"https://u:{wrong}@example.com/?t={wrong}")
        await delivered(serving, **{"User-Agent": wrong, "X-Forwarded-For": wrong})
        assert await serving.stop() == 0
    for secret in (TOKEN, ACR_USER[1], HARBOR_ROBOT[1], wrong):
        assert secret not in str(serving.lines)


async def test_a_job_that_an_older_version_queued_is_copied_without_a_name_or_a_lag(house: House) -> None:
    request = CopyRequest(
        Reference.parse(f"{house.harbor.host}/library/app:v1"),
        Reference.parse(f"{house.acr.host}/image-syncer/app:v1"),
        f"{house.harbor.host}/library/**",
    )
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        async with await Queue.connect(f"unix://{house.directory}/state/valkey.sock") as queue:
            await queue.enqueue([Job(str(request.destination), request.to_json())], Lane.EVENTS)
        (line,) = await serving.until("copy done")
    assert {"event_id", "lag"}.isdisjoint(line)
    assert line["lane"] == "events"


@pytest.mark.parametrize(("age", "known"), [(0, True), (600, True), (7 * 86_400, False), (-7 * 86_400, False)])
async def test_a_push_by_a_clock_that_is_days_off_has_no_lag(house: House, age: int, known: bool) -> None:
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    event = default()
    event["occur_at"] = int(time.time()) - age
    event["event_data"]["repository"]["repo_full_name"] = "library/app"
    event["event_data"]["resources"][0] |= {"resource_url": f"{house.harbor.host}/library/app:v1", "tag": "v1"}
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{serving.url}/webhooks/harbor", json=event, headers={"Authorization": TOKEN}) as answer,
        ):
            assert answer.status == 202
        (line,) = await serving.until("copy done")
    assert ("lag" in line) == known
    if known:
        assert age <= line["lag"] < age + 60
