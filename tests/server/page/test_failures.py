"""Failures on the status page: grouped by cause, shown, retried and dropped."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from replicator.queue import Lane
from tests.server.page.reading import Document
from tests.server.page.seeding import ACR, bury, letter
from tests.server.page.test_page import opened, page

if TYPE_CHECKING:
    from tests.server.page.conftest import Site


async def test_failures_of_one_cause_are_one_entry_that_is_shown_and_retried_as_one(site: Site) -> None:
    denied = "PUT <b>{}\n403 denied\nask for it"
    closed = [letter(n, id=f"{ACR}/closed/a{n}:1", message=denied.format(n)) for n in range(23)]
    await bury(site.queue, *closed, letter(30, id=f"{ACR}/other/b:1", error_class="transient", message="an old text"))
    seen = await page(site)
    text = seen.texts["failures"]
    assert f"23 copies, one reason: {ACR}/closed: 403 denied PUT <b>… ask for it permanent" in text
    assert f"1 copy: {ACR}/other: an old text transient" in text
    assert text.count("403 denied") == 1, "once, however many copies there are"
    assert seen.retries == []
    first, _ = seen.causes
    found = [await page(site, f"?cause={first.fields['id']}&letters={number}") for number in (1, 2, 3)]
    assert [len(each.retries) for each in found] == [10, 10, 3]
    assert f"{ACR}/other" in found[2].texts["failures"], "the others are still there"
    ids = {form.fields["id"] for each in found for form in each.retries}
    assert ids == {each["id"] for each in closed}
    told = await site.post(first.pressed("retry cause"), f"?cause={first.fields['id']}")
    assert told.headers["Location"] == f"?cause={first.fields['id']}&done=retried"
    counts = await site.queue.counts()
    assert (counts.dead, counts.lanes[Lane.EVENTS].queued) == (1, 23)
    seen = await page(site, told.headers["Location"])
    assert "There are no dead letters of this cause any more." in seen.texts["failures"]
    assert f"retry: 23 dead letters of the cause {first.fields['id']}" in seen.texts["actions"]
    assert (await site.post(first.pressed("retry cause"))).headers["Location"] == "?done=absent"


async def test_a_dead_letter_is_retried_or_dropped_by_its_button(site: Site) -> None:
    await bury(site.queue, *(letter(n) for n in range(1, 4)))
    await bury(site.queue, letter(9, message="something else"))
    seen = await opened(site, "?text=some")
    first, second, _ = seen.retries
    told = await site.post(first.pressed("retry"), first.attributes["action"])
    assert told.status == 303
    assert re.fullmatch(r"\?text=some&cause=\w{10}&done=retried", told.headers["Location"])
    assert "Queued again." in (await page(site, told.headers["Location"])).texts[""]
    with capture_logs() as lines:
        told = await site.post(second.pressed("drop"), second.attributes["action"])
    assert [(line["event"], line["action"], line["what"], line["by"]) for line in lines] == [
        ("operator action", "drop", f"dead letter {second.fields['id']}", "anyone on the status page from 127.0.0.1")
    ]
    assert f"drop: dead letter {second.fields['id']}" in (await page(site)).texts["actions"]
    assert "Dropped." in (await page(site, told.headers["Location"])).texts[""]
    counts = await site.queue.counts()
    assert (counts.dead, counts.lanes[Lane.EVENTS].queued) == (2, 1)
    told = await site.post(first.pressed("retry"))
    assert "Nothing was done" in (await page(site, told.headers["Location"])).texts[""]
    (every,) = [form for form in seen.forms if form.buttons == ["retry all"]]
    await site.post(every.pressed("retry all"))
    counts = await site.queue.counts()
    assert (counts.dead, counts.lanes[Lane.EVENTS].queued) == (0, 3)


@pytest.mark.scale
async def test_a_hundred_thousand_dead_letters_and_jobs_cost_no_more_than_a_part_of_them(site: Site) -> None:
    number = 100_000
    for start in range(0, number, 10_000):
        await bury(site.queue, *(letter(n) for n in range(start, start + 10_000)))
        jobs = {f"{site.queue.prefix}:{ACR}/mirror/job:{n}": 0 for n in range(start, start + 10_000)}
        await site.queue.redis.zadd(site.queue.lane_queue(Lane.BACKFILL), jobs)
    answer = await site.get()
    assert len(answer.text) < 100_000
    first = Document(answer.text)
    assert "100,000 dead letters" in first.texts["queue"]
    # They are grouped part by part, however slow the machine is.
    (grouped,) = re.findall(r"([\d,]+) of 100,000 are grouped so far", first.texts["failures"])
    assert 0 < int(grouped.replace(",", "")) < 100_000
    assert len((await opened(site, "?fragment=1")).retries) == 0, "not every few seconds"
    assert len((await opened(site)).retries) == 10
    async with asyncio.timeout(120):
        while "grouped so far" in (seen := await page(site, "?fragment=1")).texts["failures"]:
            await asyncio.sleep(0.5)
    assert "100,000 copies, one reason" in seen.texts["failures"]
