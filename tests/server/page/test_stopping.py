"""Pauses, and the buttons that stop copies."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from replicator.queue import History, Job, Lane, Selection, list_pauses, note_action, pause
from replicator.queue.waits import MAX_PAUSES
from replicator.server.auth import PageAuth
from tests.queue.conftest import command
from tests.server.page.conftest import PASSWORD
from tests.server.page.seeding import ACR, HARBOR
from tests.server.page.test_page import HOSTILE, page

if TYPE_CHECKING:
    from tests.server.page.conftest import Site


async def test_pending_copies_are_looked_up_paused_resumed_and_cancelled_by_buttons(site: Site) -> None:
    copies = [Job(f"{ACR}/mirror/a:{n}", {"source": f"{HARBOR}/team/a:{n}", "rule": "r"}) for n in range(12)]
    await site.queue.enqueue([*copies, Job(f"{ACR}/mirror/b:1", {})], Lane.BACKFILL)
    query = "?by=source&what=team/**"
    seen = await page(site, query)
    assert "12 pending: source team/**." in seen.texts["pending"]
    assert "and 2 more" in seen.texts["pending"]
    assert "pending:" not in (await page(site, query + "&fragment=1")).texts["pending"], "it may be a long queue"
    (form,) = (each for each in seen.forms if "pause" in each.buttons)
    told = await site.post(form.pressed("pause"), form.attributes["action"])
    assert "done=paused" in told.headers["Location"]
    seen = await page(site)
    assert "source team/** has been paused since" in seen.texts["queue"]
    (resumes,) = (each for each in seen.forms if "resume" in each.buttons)
    for done in ("resumed", "absent"):
        assert (await site.post(resumes.pressed("resume"))).headers["Location"] == f"?done={done}"
    assert await list_pauses(site.queue) == []
    told = await site.post(form.pressed("cancel"))
    assert told.headers["Location"] == "?done=cancelled"
    assert (await site.queue.counts()).lanes[Lane.BACKFILL].queued == 1
    noted = [(each.action, each.what) for each in (await History.read(site.queue)).actions]
    assert noted == [
        ("cancel", "source team/**: 12 copies"),
        ("resume", "source team/**"),
        ("pause", "source team/**"),
    ]


@pytest.mark.parametrize("fields", [{}, {"by": "source"}, {"by": "lane", "what": "x"}, {"by": "run", "what": "x"}])
async def test_a_form_that_selects_no_copies_stops_none(site: Site, fields: dict[str, str]) -> None:
    await site.queue.enqueue([Job(f"{ACR}/mirror/a:1", {})], Lane.EVENTS)
    token = PageAuth(PASSWORD).form_token(time.time())
    for do in ("pause", "pause now", "cancel"):
        assert (await site.post({"do": do, "token": token, **fields})).status == 400
    assert (await site.post({"do": "cancel", "token": "wrong", "by": "all"})).status == 403
    assert (await site.queue.counts()).lanes[Lane.EVENTS].queued == 1
    assert (await site.get(f"?by={fields.get('by', '')}&what={fields.get('what', '')}")).status == 200


async def test_one_pause_too_many_is_told(site: Site) -> None:
    await pause(site.queue, Selection.combinations(rule=map(str, range(MAX_PAUSES))), by="me")
    answer = await site.post({"do": "pause", "token": PageAuth(PASSWORD).form_token(time.time()), "by": "all"})
    assert (answer.status, "resume some" in answer.text) == (409, True)


async def test_what_people_and_files_name_is_never_markup(site: Site) -> None:
    await pause(site.queue, [Selection(rule=HOSTILE)], by=HOSTILE)
    await note_action(site.queue, action="pause", what=HOSTILE, by=HOSTILE)
    public = {"source": HOSTILE, "destination": f"{ACR}/{HOSTILE}", "since": time.time() * 1000}
    await command(site.queue, "HSET", f"{site.queue.prefix}:public", "pair", json.dumps(public))
    await site.queue.enqueue([Job(HOSTILE, {"source": HOSTILE, "rule": HOSTILE})], Lane.EVENTS)
    seen = await page(site, f"?by=rule&what={quote(HOSTILE)}")
    assert seen.unclosed == []
    assert [tag for tag, _ in seen.tags].count("script") == 1
    assert not [about for tag, about in seen.tags if tag == "img" or "onerror" in about]
    for part in ("queue", "pending", "public", "actions"):
        assert "<img src=x onerror=alert(1)>" in seen.texts[part], part
    assert not {"\u202e", "\x1b"} & set("".join(seen.texts.values()))


@pytest.mark.parametrize(
    ("query", "told"),
    [("?by=lane&what=event", "'event' is no lane: choose events or backfill"), ("?by=all&what=x", "choose a field")],
)
async def test_a_pattern_that_selects_nothing_is_told(site: Site, query: str, told: str) -> None:
    assert told in (await page(site, query)).texts["pending"]
    assert "choose" not in (await page(site)).texts["pending"]
