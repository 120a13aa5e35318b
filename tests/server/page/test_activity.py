"""What the page tells of webhooks, of copies by the hour, and of how far running copies are."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp

from replicator.queue import Job, Lane, RateSpan
from replicator.queue.attempt import StartedJob
from replicator.queue.job import encode_running
from replicator.queue.leaders import Sweeps
from replicator.server.page.language import messages
from replicator.server.page.rates import rate_chart
from tests.queue.conftest import command
from tests.running import TOKEN
from tests.server.page.conftest import shown
from tests.server.page.reading import Document
from tests.server.page.seeding import ACR, HARBOR

if TYPE_CHECKING:
    from replicator.queue import Queue
    from tests.server.page.conftest import Site

NOON = datetime(2026, 1, 2, 12, 30, tzinfo=UTC)


async def page(site: Site, query: str = "") -> Document:
    answer = await site.get(query)
    assert answer.status == 200
    return Document(answer.text)


async def test_the_last_webhook_of_each_harbor_and_project_is_told(queue: Queue) -> None:
    resource = {"digest": f"sha256:{1:064x}", "tag": "v1", "resource_url": f"{HARBOR}/other/app:v1"}
    event = {
        "type": "PUSH_ARTIFACT",
        "event_data": {"resources": [resource], "repository": {"repo_full_name": "other/app"}},
    }
    async with shown(queue) as site:
        before = await page(site)
        headers = {"Authorization": TOKEN}
        async with aiohttp.request(
            "POST", f"{site.url}webhooks/harbor", data=json.dumps(event), headers=headers
        ) as answer:
            assert "ignored" in await answer.json(), "no rule names it, and the event counts all the same"
    assert "None received yet." in before.texts["webhooks"]
    async with shown(queue) as other:
        seen = await page(other)
        chinese = await other.get(**{"Accept-Language": "zh-CN"})
    assert f"Last webhook received from {HARBOR}:" in seen.texts["webhooks"]
    assert f"最近一次收到 {HARBOR} 的 Webhook\uff1a<time" in chinese.text, "no space after a wide colon"
    assert "1 project has sent events" in seen.texts["webhooks"]
    assert f"{HARBOR}/other" in seen.texts["webhooks"]


async def test_many_projects_are_told_by_the_last_ones_and_sweeps_by_what_they_found(site: Site) -> None:
    words = [part for number in range(15) for part in (f"{HARBOR}/p{number}", number * 60_000, "")]
    await site.queue.ask("heard", *words, "/unnamed", 0, "")
    sweeps = Sweeps(site.queue, lease=10.0)
    await sweeps.begin()
    await sweeps.keep({}, 3, f"{HARBOR}/team/app")
    text = (await page(site)).texts["webhooks"]
    assert "from a Harbor that the event does not name" in text
    assert "16 projects have sent events" in text
    assert "and 6 more" in text
    assert (f"{HARBOR}/p8" in text, f"{HARBOR}/p9" in text) == (True, False)
    assert "Sweeps found and queued 3 copies without an event" in text
    assert f"{HARBOR}/team/app 3" in text


def test_copied_and_failed_are_drawn_by_the_hour_within_the_chart() -> None:
    def hour(back: int, copied: int, failed: int) -> RateSpan:
        start = (NOON - timedelta(hours=back)).replace(minute=0)
        return RateSpan(start, {"copied": copied, "given up": failed, "skipped": 5})

    t = messages("en")
    chart = rate_chart([hour(30, 9, 9), hour(6, 1000, 0), hour(3, 0, 1), hour(0, 7, 3)], NOON, 6, t)
    assert chart.summary == "1,007 copied and 4 failed in the last 6 hours."
    assert [(bar.copied > 0, bar.failed > 0) for bar in chart.bars] == [(True, False), (False, True), (True, True)]
    assert "from 09:00 UTC: 0 copied, 1 failed" in chart.bars[1].text
    assert chart.bars[0].left == 0
    for bar in chart.bars:
        assert bar.left >= 0
        assert bar.left + bar.width <= 100
        assert bar.copied <= chart.ground
        assert chart.ground + bar.failed <= chart.height
    assert rate_chart([], NOON, 6, t).summary == "Nothing was copied and nothing failed in the last 6 hours."


async def test_a_running_copy_tells_how_far_it_is_and_how_long_the_rest_takes(site: Site) -> None:
    await site.queue.enqueue([Job(f"{ACR}/mirror/a:{n}", {}) for n in (1, 2)], Lane.EVENTS)
    _, *started = await site.queue.run_script("claim", "events", 2, "t", "w", 60_000, 0, 0)
    for number, each in enumerate(map(StartedJob.read, started)):
        left = 300 if number else None
        record = encode_running(replace(each.record, bytes=25_000_000, size=100_000_000 * number, seconds_left=left))
        await command(site.queue, "HSET", f"{site.queue.prefix}:running", each.id, record)
    text = (await page(site)).texts["running"]
    assert "25.0 MB of 100.0 MB, 25 %" in text
    assert text.count("%") == 1, "of the other one the whole is unknown"
    assert "5 min" in text
