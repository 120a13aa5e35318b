"""The status page over HTTP: its content, its forms and its protection, also in a real serve."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx
import pytest

from replicator.errors import ErrorClass
from replicator.queue import Findings, Job, Lane, Queue, Reconciles, ReconcileState, WorkerInfo
from replicator.queue.attempt import Failure
from replicator.queue.leaders import Sweeps
from replicator.queue.records import encode
from replicator.queue.status import heartbeat
from replicator.server.auth import PageAuth
from tests.queue.conftest import command, eventually
from tests.running import TOKEN, running
from tests.server.page.conftest import PASSWORD, RULES, Site, ask, served
from tests.server.page.reading import Document
from tests.server.page.seeding import ACR, HARBOR, bury, ended, lag, letter, remember

if TYPE_CHECKING:
    from pathlib import Path

    from tests.queue.servers import RedisServer

START = datetime.fromtimestamp(0, UTC)
HOSTILE = "</style></script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}\u202e\x1b[2J&amp;"


async def page(site: Site, query: str = "") -> Document:
    answer = await site.get(query)
    assert answer.status == 200, answer.text
    return Document(answer.text)


async def opened(site: Site, query: str = "?") -> Document:
    """Read the page with the dead letters of its first cause."""
    cause = (await page(site, query)).causes[0].fields["id"]
    return await page(site, f"{query}&cause={cause}")


async def test_without_a_token_there_is_no_page_but_what_to_set(tmp_path: Path, server: RedisServer) -> None:
    async with served(tmp_path, server, REPLICATOR_STATUS_TOKEN="") as serving, httpx.AsyncClient() as client:
        for accept, kind in (("text/html,*/*;q=0.8", "text/html"), ("*/*", "text/plain")):
            page = await client.get(f"{serving.url}/", headers={"Accept": accept})
            assert page.headers["Content-Type"].startswith(kind)
            assert ("set REPLICATOR_STATUS_TOKEN" in page.text, "<p>" in page.text) == (True, kind == "text/html")
        for form in (None, {"do": "retry all"}):
            for password in (None, "", TOKEN):
                answer = await ask(f"{serving.url}/", password=password, form=form)
                assert answer.status == 404
                assert "WWW-Authenticate" not in answer.headers


async def test_a_token_that_is_set_or_changed_later_takes_effect(tmp_path: Path, server: RedisServer) -> None:
    async with served(tmp_path, server, REPLICATOR_STATUS_TOKEN="") as serving:
        for password in ("first", "second"):
            (tmp_path / ".env").write_text(f"REPLICATOR_STATUS_TOKEN={password}\n")
            await serving.until("configuration loaded", count=1 if password == "first" else 2)
            assert (await ask(f"{serving.url}/", password=password)).status == 200
        assert (await ask(f"{serving.url}/", password="first")).status == 401


@pytest.mark.parametrize("password", [None, "", TOKEN, PASSWORD + "x"], ids=["none", "empty", "webhook's", "longer"])
async def test_nobody_sees_or_does_anything_without_the_password(site: Site, password: str | None) -> None:
    await remember(site.queue, ended(1))
    await bury(site.queue, letter(1))
    form = {"do": "retry all", "token": PageAuth(PASSWORD).form_token(time.time())}
    for sent in (None, form):
        answer = await ask(site.url, password=password, form=sent)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith('Basic realm="replicator"')
        assert HARBOR not in answer.text
    assert (await site.queue.counts()).dead == 1


async def test_the_page_shows_the_whole_installation(site: Site) -> None:
    await site.queue.enqueue([Job(f"{ACR}/mirror/a:{n}", {}) for n in range(3)], Lane.BACKFILL)
    replaced = "sha256:" + "0" * 64
    given_up = ended(2, result="given up", error_class="permanent", note="denied by ACR")
    await remember(site.queue, ended(3, replaced=replaced), ended(1), given_up)
    await bury(site.queue, letter(7))
    await lag(site.queue, (2, 4, 2.0, 30.0))
    public = {"source": f"{HARBOR}/team/open:1", "destination": f"{ACR}/mirror/open:1", "since": time.time() * 1000}
    await command(site.queue, "HSET", f"{site.queue.prefix}:public", "pair", json.dumps(public))
    seen = await page(site)
    assert seen.unclosed == []
    assert "no worker is running (3 queued)" in seen.texts["head"]
    assert "backfill 3 0 0" in seen.texts["queue"]
    assert "1 dead letter" in seen.texts["queue"]
    assert "4 pushes replicated in the last 24 hours: average 2.0 s, maximum 30 s" in seen.texts["lag"]
    assert f"From {HARBOR} to {ACR} copy result" in seen.texts["copies"], "the hosts of all, once"
    assert "team/app:1 to mirror/app:1 copied 1.5 MB 1.2 s 2.5 s" in seen.texts["copies"]
    assert "denied by ACR failed, permanent" in seen.texts["copies"]
    assert f"replaced: {replaced} copied" in seen.texts["copies"]
    assert seen.texts["copies"].index("app:2") < seen.texts["copies"].index("app:1"), "the newest first"
    assert (
        f"1 copy: {ACR}/mirror: denied: requested access to the resource is denied permanent" in seen.texts["failures"]
    )
    assert f"e.g. {ACR}/mirror/dead:7" in seen.texts["failures"]
    assert "Another attempt would fail in the same way" in seen.texts["classes"]
    assert "#class-permanent" in seen.links
    assert "class-permanent" in seen.texts
    assert f"{ACR}/mirror/open:1 in ACR's console set the type (仓库类型)" in seen.texts["public"]
    assert f"{HARBOR}/team/open:1" in seen.texts["public"]
    for key in (f"{HARBOR}/team/**", f"{HARBOR}/base/**"):
        assert key in seen.texts["rules"]
    assert f"{HARBOR}/team/** 2 0 1" in seen.texts["rules"]
    assert "None yet." in seen.texts["reconciles"]
    assert ("section", "empty") in {
        (tag, about.get("class")) for tag, about in seen.tags if about.get("id") == "actions"
    }
    assert "serve on" in seen.texts["processes"]
    (icon,) = (about["href"] for tag, about in seen.tags if tag == "link")
    assert icon.startswith("data:image/svg+xml,%3Csvg")
    headings = [tag for tag, _ in seen.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}


async def test_the_fragment_has_only_the_parts_that_change(site: Site) -> None:
    await remember(site.queue, ended(1))
    whole, part = await page(site), await page(site, "?fragment=1")

    def live(of: Document) -> set[str]:
        return {about["id"] for _, about in of.tags if "data-live" in about}

    assert live(whole) == live(part)
    assert len(live(part)) == 13
    assert not {"html", "style", "script"} & {tag for tag, _ in part.tags}


async def test_filters_and_pages_are_in_the_address(site: Site) -> None:
    await remember(site.queue, *(ended(n, result="up to date" if n % 3 == 0 else "copied") for n in range(100)))
    first = await page(site)
    assert "100 of the last 100" in first.texts["copies"]
    assert "page 1 of 10" in first.texts["copies"]
    second = await page(site, "?page=2")
    assert "app:89 " in second.texts["copies"]
    assert "app:99 " not in second.texts["copies"]
    chosen = await page(site, "?result=up+to+date&text=APP:9")
    assert "5 of the last 100" in chosen.texts["copies"]
    assert "app:91 " not in chosen.texts["copies"]
    assert (await page(site, "?rule=nothing")).texts["copies"].startswith("None of the last 100 matches.")
    assert "page 10 of 10" in (await page(site, "?page=99999")).texts["copies"]


async def test_every_address_on_it_is_relative_and_names_no_path(site: Site) -> None:
    await remember(site.queue, *(ended(n) for n in range(60)))
    await bury(site.queue, *(letter(n) for n in range(60)))
    seen = await page(site, "?page=2&letters=2&hours=6&text=app")
    addresses = [*seen.links, *(form.attributes["action"] for form in seen.forms)]
    assert len(addresses) > 10
    assert all(address[0] in "?#" for address in addresses)
    assert not [about for _, about in seen.tags if about.get("src") or about.get("href", "").startswith(("/", "http"))]


async def test_nothing_but_its_own_style_and_script_is_allowed(site: Site) -> None:
    answer = await site.get()
    policy = answer.headers["Content-Security-Policy"]
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    names = {name for _, about in Document(answer.text).tags for name in about}
    assert not [name for name in names if name == "style" or name.startswith("on")]
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_text_from_outside_is_never_markup(site: Site) -> None:
    await remember(
        site.queue,
        ended(1, source=HOSTILE, id=HOSTILE, rule=HOSTILE, note=HOSTILE, result=HOSTILE, error_class="permanent"),
    )
    await bury(site.queue, letter(1, id=HOSTILE, message=HOSTILE, payload={"source": HOSTILE}))
    answer = await site.get("?text=alert&result=" + "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E&done=%3Cscript%3E")
    seen = Document(answer.text)
    assert seen.unclosed == []
    assert [about for tag, about in seen.tags if tag == "script"] == [{}]
    assert not [tag for tag, _ in seen.tags if tag == "img"]
    seen = await page(site, "?text=alert")
    assert seen.unclosed == []
    for part in ("copies", "failures"):
        assert "<script>alert(1)</script>" in seen.texts[part]
        assert "{{7*7}}" in seen.texts[part]
        assert not {"\u202e", "\x1b"} & set(seen.texts[part])
    seen = await opened(site, "?text=alert")
    assert seen.unclosed == []
    # What the button sends is the name itself, whatever is in it.
    assert seen.retries[0].fields["id"] == HOSTILE
    told = await site.post(seen.retries[0].pressed("drop"))
    assert told.headers["Location"] == "?done=dropped"
    assert (await site.queue.counts()).dead == 0


async def test_a_reason_is_one_line_that_opens_to_all_of_its_parts(site: Site) -> None:
    note = "PUT <b>\n403\nask for it"
    await remember(site.queue, ended(1, note=note), ended(2, note="an old text"))
    text = (await site.get()).text
    notes = '<span class="note">PUT &lt;b&gt;</span><span class="note">403</span><span class="note">ask for it</span>'
    assert f'<details class="note"><summary>403</summary>{notes}</details>' in text
    assert '<span class="note">an old text</span>' in text


async def test_copies_that_wait_for_a_login_name_it_and_its_reason_is_shown_once(site: Site) -> None:
    key, why = "login:acr.example/me", "acr.example\nthe login was refused\ncheck the password"
    failure = Failure("acr.example/a:1", ErrorClass.CREDENTIALS, "an old reason", 1, START, START, key)
    await site.queue.ask("wait_begin", key, 0, 60_000, "1", why)
    await command(site.queue, "HSET", f"{site.queue.prefix}:waiting", failure.id, encode(failure))
    await command(
        site.queue, "ZADD", site.queue.lane_queue(Lane.EVENTS), 4 * 10**12, f"{site.queue.prefix}:{failure.id}"
    )
    seen = await page(site)
    assert "acr.example the login was refused check the password" in seen.texts["queue"]
    assert "Waits for the login at acr.example. credentials" in seen.texts["waiting"]
    assert "an old reason" not in seen.texts["waiting"]


async def test_a_reconcile_that_waits_is_approved_by_its_button_and_an_old_form_approves_nothing(site: Site) -> None:
    lease = await Reconciles(site.queue).begin(None)
    assert lease is not None
    await lease.end(Findings(listed=2000, up_to_date=1700, held=300), "rules")
    seen = await page(site)
    assert "would replace 300 of 2,000 images" in seen.texts["reconciles"]
    (form,) = [form for form in seen.forms if form.buttons == ["approve"]]
    told = await site.post({**form.pressed("approve"), "id": "1"})
    assert "another reconcile has ended" in (await page(site, told.headers["Location"])).texts[""]
    assert (await ReconcileState.read(site.queue)).awaits_approval
    told = await site.post(form.pressed("approve"))
    seen = await page(site, told.headers["Location"])
    assert "Approved." in seen.texts[""]
    assert "The replacements are approved" in seen.texts["reconciles"]
    assert "replace 300 of 2,000 images" in seen.texts["actions"]
    assert not [form for form in seen.forms if form.buttons == ["approve"]]
    assert (await ReconcileState.read(site.queue)).is_approved


async def test_a_form_that_is_not_from_the_page_does_nothing(site: Site) -> None:
    await bury(site.queue, letter(1))
    (form,) = (await opened(site)).retries
    sent = form.pressed("drop")
    host = site.address
    for headers, change in (
        ({}, {"token": ""}),
        ({}, {"token": "0" * 64}),
        ({}, {"token": PageAuth(TOKEN).form_token(time.time())}),
        ({"Origin": "https://evil.example"}, {}),
        ({"Origin": "null"}, {}),
        ({"Sec-Fetch-Site": "cross-site"}, {}),
        ({"Sec-Fetch-Site": "same-site", "Origin": f"http://{host}"}, {}),
    ):
        assert (await site.post({**sent, **change}, **headers)).status == 403
    for wrong in ({"do": "drop all"}, {"do": ""}, {"do": "retry all"}):
        assert (await site.post({**sent, **wrong})).status == 400
    assert (await site.post({**sent, "more": "x" * 20_000})).status == 413
    assert (await site.get("?do=drop&id=" + sent["id"] + "&token=" + sent["token"])).status == 200
    assert (await site.queue.counts()).dead == 1
    assert (await site.post(sent, Origin=f"http://{host}")).status == 303
    assert (await site.queue.counts()).dead == 0


async def test_an_outage_of_redis_is_shown_at_once_and_ends_with_it(own_site: Site, own_server: RedisServer) -> None:
    site = own_site
    await bury(site.queue, letter(1))
    (form,) = (await opened(site)).retries
    own_server.kill()
    async with asyncio.timeout(20):
        # What is a second old is shown still.
        while (await site.get()).status == 200:
            await asyncio.sleep(0.1)
        answers = [
            await site.get(),
            *await asyncio.gather(*(site.get("?fragment=1") for _ in range(20))),
            await site.post(form.pressed("retry")),
        ]
    for answer in answers:
        assert answer.status == 503
        seen = Document(answer.text)
        assert seen.unclosed == []
        assert "The queue does not respond." in seen.texts["head"]
        assert "redis.sock" in seen.texts["head"]
        assert answer.headers["Content-Security-Policy"]
    own_server.start()
    assert await eventually(lambda: _is_back(site), timeout=20)
    assert (await opened(site)).retries[0].fields["id"] == form.fields["id"]


async def _is_back(site: Site) -> bool:
    return (await site.get()).status == 200


async def test_a_silent_redis_holds_the_page_for_seconds_only(own_site: Site) -> None:
    await command(own_site.queue, "CLIENT", "PAUSE", "60000", "ALL")
    async with asyncio.timeout(20):
        answer = await own_site.get()
    assert answer.status == 503
    assert "no answer within" in answer.text


async def test_two_processes_show_the_same_and_accept_each_others_forms(
    site: Site, server: RedisServer, prefix: str, tmp_path: Path
) -> None:
    await remember(site.queue, ended(1))
    await bury(site.queue, letter(1))
    async with served(tmp_path, server, REPLICATOR_REDIS_PREFIX=prefix) as second:
        async with asyncio.timeout(30):
            while (await page(site)).texts["processes"].count("serve on") < 2:
                await asyncio.sleep(0.05)
        there = Document((await ask(f"{second.url}/", password=PASSWORD)).text)
        here = await page(site)
        for part in ("copies", "failures", "queue", "rules"):
            assert _without_ages(there.texts[part]) == _without_ages(here.texts[part])
        # A file that can't be used is told of by all, though it is the other's alone.
        (tmp_path / "rules.json").write_text('{"images": {"nonsense": 3}}')
        await second.until("configuration refused")
        async with asyncio.timeout(30):
            while "Configuration error" not in (seen := await page(site)).texts["processes"]:
                await asyncio.sleep(0.05)
        assert "nonsense" in seen.texts["processes"]
        answer = await ask(f"{site.url}", password=PASSWORD, form=there.causes[0].pressed("retry cause"))
        assert answer.status == 303
        gone = Document((await ask(f"{second.url}/", password=PASSWORD)).text)
        assert await eventually(lambda: _no_failures(second.url))
        assert gone.unclosed == []


async def _no_failures(url: str) -> bool:
    return Document((await ask(f"{url}/", password=PASSWORD)).text).causes == []


def _without_ages(text: str) -> str:
    return re.sub(r"(\d\d:\d\d UTC )?\d+ (s|min) ago", "", text)


async def test_the_page_tells_how_much_waits_at_registries(site: Site) -> None:
    now = datetime.now(UTC)
    most = {Lane.EVENTS: 4, Lane.BACKFILL: 4}
    worker = WorkerInfo("w", "h", 1, now, now, {}, most, stopping=False, waiting={Lane.EVENTS: 0, Lane.BACKFILL: 12})
    async with heartbeat(site.queue, "workers", "w", lambda: encode(worker, without={"seen"})), asyncio.timeout(20):
        while "12 requests and bodies wait" not in (seen := await page(site)).texts["head"]:
            await asyncio.sleep(0.05)
    assert "wait for their turn at registries (backfill)" in seen.texts["head"]
    assert "(events)" not in seen.texts["head"]


async def test_a_worker_without_a_webhook_is_among_the_processes(
    site: Site, server: RedisServer, prefix: str, tmp_path: Path
) -> None:
    settings = {"REPLICATOR_REDIS_URL": server.url, "REPLICATOR_REDIS_PREFIX": prefix}
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(RULES))
    async with running("worker", "--config", rules, cwd=tmp_path, ready="worker started", settings=settings):
        async with asyncio.timeout(30):
            while "worker on" not in (seen := await page(site)).texts["processes"]:
                await asyncio.sleep(0.05)
            # A worker gives its own sign of life, apart from its process's.
            while "All is well: the queue is empty." not in seen.texts["head"]:
                await asyncio.sleep(0.05)
                seen = await page(site)
    assert await eventually(lambda: _ended(site.queue))


async def _ended(queue: Queue) -> bool:
    return not await queue.workers()


async def test_the_page_names_harbors_whose_webhooks_are_switched_off(site: Site) -> None:
    sweeps = Sweeps(site.queue, lease=30)
    await sweeps.begin()
    await sweeps.end("", {HARBOR: False, "other.example.com": True})
    shown = await page(site)
    assert f"Webhooks are switched off in the system settings of {HARBOR}" in shown.texts["reconciles"]
    assert "other.example.com" not in shown.texts["reconciles"]
