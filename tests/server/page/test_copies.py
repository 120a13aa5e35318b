"""The page of one copy, what the rules say of an image, and the forms that begin a copy or a reconcile."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from replicator.queue import History, Job, Lane, ReconcileState
from replicator.queue.attempt import StartedJob
from replicator.queue.job import encode_running
from replicator.rules import parse
from replicator.server.auth import PageAuth
from replicator.server.page.copies import MOST_EXPLAINED, CopyFacts, explain, links
from tests.queue.conftest import command
from tests.server.page.conftest import PASSWORD, RULES
from tests.server.page.reading import Document
from tests.server.page.seeding import ACR, HARBOR, bury, ended, letter, remember

if TYPE_CHECKING:
    from replicator.queue import Queue
    from tests.server.page.conftest import Site

SOURCE, DESTINATION = f"{HARBOR}/team/app:1", f"{ACR}/mirror/app:1"
DIGEST = f"sha256:{7:064x}"


async def page(site: Site, **query: str) -> Document:
    answer = await site.get("?" + urlencode(query))
    assert answer.status == 200
    seen = Document(answer.text)
    assert seen.unclosed == []
    return seen


async def press(site: Site, seen: Document, button: str, **query: str) -> str:
    """Press a button; return where the answer leads."""
    (form,) = [form for form in seen.forms if button in form.buttons]
    answer = await site.post(form.pressed(button), "?" + urlencode(query))
    assert answer.status == 303
    return str(answer.headers["Location"])


async def test_a_copy_has_a_page_with_its_attempts_and_what_it_took(site: Site) -> None:
    parts = {"manifests": 3, "blobs_copied": 7, "blobs_mounted": 2, "blobs_present": 11}
    given_up = ended(1, result="given up", error_class="transient", note="503\nthe registry was away")
    await remember(site.queue, given_up, ended(1, digest=DIGEST, parts=parts), ended(11), ago=60)
    failure = {
        "id": DESTINATION,
        "error_class": "transient",
        "message": "503 for now",
        "tries": 2,
        "first": 1,
        "last": 2,
    }
    other = {**failure, "id": f"{ACR}/mirror/app:11", "message": "of another copy"}
    texts = [json.dumps(each, separators=(",", ":")) for each in (failure, other)]
    await command(site.queue, "LPUSH", f"{site.queue.prefix}:history:attempts", *texts)
    seen = await page(site, copy=DESTINATION)
    assert "The last copy ended 1 min ago: copied." in seen.texts["head"]
    assert f"{SOURCE} to {DESTINATION}" in seen.texts["head"]
    assert f"copied {DIGEST} manifests 3 blobs sent 7 mounted 2 already there 11 1 1.5 MB" in seen.texts["ended"]
    assert "failed, transient 503 the registry was away" in seen.texts["ended"]
    assert "503 for now transient 2" in seen.texts["attempts"]
    for text in seen.texts.values():
        assert "app:11" not in text
        assert "of another copy" not in text
    assert f"{HARBOR}/team/** matches" in seen.texts["rule"]
    assert f"?{urlencode({'copy': DESTINATION})}" in (await page(site)).links, "the page of all leads there"


async def test_the_page_of_a_copy_shows_it_running_and_its_dead_letter_can_be_retried(site: Site) -> None:
    await bury(site.queue, letter(7))
    dead = letter(7)["id"]
    seen = await page(site, copy=dead)
    assert "This copy failed, and is not retried automatically." in seen.texts["head"]
    assert "requested access to the resource is denied" in seen.texts["now"]
    assert await press(site, seen, "retry", copy=dead) == f"?{urlencode({'copy': dead})}&done=retried"
    await site.queue.enqueue([Job(DESTINATION, {"source": SOURCE})], Lane.EVENTS)
    _, reply, *_ = await site.queue.run_script("claim", "events", 2, "t", "w", 60_000, 0, 0)
    job = StartedJob.read(reply)
    record = encode_running(replace(job.record, bytes=25_000_000, size=100_000_000, seconds_left=75))
    await command(site.queue, "HSET", f"{site.queue.prefix}:running", job.id, record)
    seen = await page(site, copy=job.id)
    assert "This image is being copied." in seen.texts["head"]
    assert "25.0 MB of 100.0 MB, 25 %" in seen.texts["now"]
    assert "About 1 min left." in seen.texts["now"]


async def test_the_page_of_a_copy_refreshes_and_says_when_nothing_is_known(site: Site) -> None:
    for text in (DESTINATION, "no reference at all", "<script>", "x" * 5000):
        whole, part = await page(site, copy=text), await page(site, copy=text, fragment="1")
        assert "There is no record of this destination." in whole.texts["head"]
        live = [{about["id"] for _, about in each.tags if "data-live" in about} for each in (whole, part)]
        assert live[0] == live[1] == {"head", "now", "ended", "attempts"}


async def facts(queue: Queue, source: str, destination: str = DESTINATION) -> CopyFacts:
    await queue.enqueue([Job(destination, {"source": source})], Lane.EVENTS)
    return await CopyFacts.read(queue, destination)


async def test_only_sure_links_lead_to_the_consoles(queue: Queue) -> None:
    rules = parse(json.dumps(RULES), "rules.json", environ={})
    acr = "https://cr.console.aliyun.com/cn-beijing/instances"
    assert links(await facts(queue, f"{HARBOR}/team/deep/app:1"), rules) == {"acr": acr}
    await queue.ask("heard", f"{HARBOR}/team", 0, "12")
    known = links(await facts(queue, f"{HARBOR}/team/deep/app:1"), rules)
    assert known == {"acr": acr, "harbor": f"https://{HARBOR}/harbor/projects/12/repositories/deep%2Fapp"}
    text = json.dumps(RULES).replace('{"anonymous": true}', '{"anonymous": true, "insecure": true}')
    plain = parse(text, "rules.json", environ={})
    assert links(await facts(queue, SOURCE), plain) == {"acr": acr}
    for host in ("r.example", "registry-intl.ap-southeast-1.aliyuncs.com"):
        assert links(await facts(queue, f"{HARBOR}/x:1", f"{host}/mirror/x:1"), rules) == {}


def test_an_explanation_names_the_rules_that_match_and_why_the_others_do_not() -> None:
    many = {f"{HARBOR}/p{number}/**": f"{ACR}/mirror/{{flat}}" for number in range(30)}
    login = {each: {"anonymous": True} for each in (HARBOR, ACR, "other.example")}
    images = {"other.example/x/**": f"{ACR}/x/{{flat}}", **many}
    rules = parse(json.dumps({"auth": login, "images": images}), "rules.json", environ={})
    found = explain(rules, f"{HARBOR}/p3/app:1")
    assert [each.rule for each in found.matching] == [f"{HARBOR}/p3/**"]
    assert [str(each.destination) for each in found.copied] == [f"{ACR}/mirror/p3-app:1"]
    assert (len(found.others), found.more) == (MOST_EXPLAINED, 10)
    assert all(each.rule.startswith(HARBOR) for each in found.others), "those of its registry come first"
    assert explain(rules, "not an image").problem
    assert explain(rules, f"{HARBOR}/nobody/app:1").copied == []


async def test_an_image_is_explained_and_copied_by_the_page(site: Site) -> None:
    seen = await page(site, image=SOURCE)
    assert f"{SOURCE} to {ACR}/mirror/team-app:1" in seen.texts["begin"]
    assert f"{HARBOR}/team/** matches" in seen.texts["begin"]
    assert (await press(site, seen, "copy", image=SOURCE)).endswith("&done=copying")
    counts = (await site.queue.counts()).lanes
    assert (counts[Lane.EVENTS].queued, counts[Lane.BACKFILL].queued) == (1, 0)
    (action,) = (await History.read(site.queue)).actions
    assert (action.action, action.what) == ("copy", f"{SOURCE} to {ACR}/mirror/team-app:1")
    assert "anyone on the status page" in action.by
    unmatched = await page(site, image=f"{HARBOR}/nobody/app:1")
    assert "no rule matches it" in unmatched.texts["begin"]
    assert all("copy" not in form.buttons for form in unmatched.forms)
    assert "is not an image" in (await page(site, image="not an image")).texts["begin"]


async def test_the_page_of_a_copy_copies_it_alone(site: Site) -> None:
    mapped = f"{ACR}/mirror/team-app:1"
    await remember(site.queue, ended(1), ended(1, id=mapped))
    assert (await press(site, await page(site, copy=mapped), "copy", copy=mapped)).endswith("&done=copying")
    assert (await site.queue.counts()).lanes[Lane.EVENTS].queued == 1
    former = await page(site, copy=DESTINATION)
    assert all("copy" not in form.buttons for form in former.forms), "the rules send it elsewhere by now"
    token = PageAuth(PASSWORD).form_token(time.time())
    answer = await site.post({"do": "copy", "image": SOURCE, "destination": DESTINATION, "token": token})
    assert answer.headers["Location"] == "?done=unmatched"


async def test_a_reconcile_is_asked_for_by_the_page_and_asking_again_changes_nothing(site: Site) -> None:
    seen = await page(site)
    assert (await press(site, seen, "reconcile")) == "?done=reconcile"
    assert (await ReconcileState.read(site.queue)).is_requested
    assert (await press(site, seen, "reconcile")) == "?done=reconcile_again"
    assert len((await History.read(site.queue)).actions) == 1
    assert "requested already" in (await page(site)).texts["begin"]


@pytest.mark.parametrize("form", [{"do": "reconcile"}, {"do": "copy", "image": SOURCE}])
async def test_nothing_begins_without_the_password_a_token_of_the_page_or_from_another_site(
    site: Site, form: dict[str, str]
) -> None:
    token = PageAuth(PASSWORD).form_token(time.time())
    assert (await site.post({**form, "token": "made up"})).status == 403
    assert (await site.post({**form, "token": token}, Origin="https://evil.example")).status == 403
    assert (await site.post({"do": "copy", "image": "not an image", "token": token})).status == 400
    unmatched = await site.post({"do": "copy", "image": f"{HARBOR}/nobody/app:1", "token": token})
    assert unmatched.headers["Location"] == "?done=unmatched"
    assert not any(lane.pending for lane in (await site.queue.counts()).lanes.values())
    assert not (await ReconcileState.read(site.queue)).is_requested
