"""The HTTP API: what became of an image, failures, copies, tokens, errors."""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr, ValidationError

from replicator.copy import SourceNotFound, selection_key
from replicator.copy.options import VERBATIM
from replicator.errors import ErrorClass, ErrorText
from replicator.queue import Job, Lane, Observations, Queue, Reconciles, ReconcileState, Running
from replicator.reference import Reference
from replicator.registry.errors import NotFound
from replicator.replication.transfer import CopyFailed
from replicator.server.api.images import ASKED_AT_ONCE
from replicator.server.api.models import Image, State
from replicator.server.auth import ApiAuth, PageAuth
from replicator.settings import Settings
from tests.queue.conftest import PATIENCE, eventually, idle, working
from tests.queue.test_history import put_entries
from tests.server.api.conftest import ACR, HARBOR, ONE, OPERATE, OTHER, PASSWORD, READ, served

if TYPE_CHECKING:
    from tests.server.api.conftest import Site

SOURCE = f"{HARBOR}/lib/app:1.0"
FIRST, SECOND = f"{ACR}/mirror/app:1.0", f"{ACR}/second/app:1.0"


async def image(site: Site, source: str = SOURCE, query: str = "") -> Image:
    answer = await site.ask("GET", f"/images/{source}{query}")
    assert answer.status_code == 200, answer.text
    return Image.model_validate_json(answer.text)


async def see(queue: Queue, *destinations: str, digest: str = ONE, source: str = SOURCE, ago: float = 0) -> None:
    async with aclosing(Observations(queue, deadline=PATIENCE, pause=0)) as checks:
        for each in destinations:
            checks.record(each, selection_key(digest, VERBATIM), time.time() - ago, source, digest)


def payload(destination: str, source: str = SOURCE) -> dict[str, Any]:
    return {"source": source, "destination": destination, "rule": "r"}


async def test_an_image_that_was_seen_in_place_is_told_from_memory(site: Site) -> None:
    await see(site.queue, FIRST, SECOND)
    found = await image(site)
    assert (found.state, found.digest, found.asked) == (State.IN_PLACE, ONE, False)
    assert [(each.destination, each.digest) for each in found.images] == [(FIRST, ONE), (SECOND, ONE)]
    assert all(each.since is not None for each in found.images)
    assert site.registries.asked == []


@pytest.mark.parametrize("encoded", [False, True])
async def test_a_tag_never_seen_is_asked_for_at_the_registries_and_remembered(site: Site, encoded: bool) -> None:
    site.registries.destination = ONE
    found = await image(site, SOURCE.replace("/", "%2F") if encoded else SOURCE)
    assert (found.state, found.asked, site.registries.asked) == (State.IN_PLACE, True, [FIRST, SECOND])

    async def remembered() -> bool:
        return not (await image(site)).asked

    await eventually(remembered)


async def test_fresh_asks_again_and_finds_what_was_pushed_since(site: Site) -> None:
    await see(site.queue, FIRST, SECOND)
    site.registries.source, site.registries.destination = OTHER, ONE
    found = await image(site, query=f"?fresh=true&destination={FIRST}")
    assert (found.state, found.digest) == (State.MISSING, OTHER)
    assert [(each.destination, each.digest) for each in found.images] == [(FIRST, ONE)]


async def test_equal_questions_are_compared_once_and_fresh_ones_never_by_what_began_before(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fresh = f"?destination={FIRST}", f"?destination={FIRST}&fresh=true"
    site.registries.gate = gate = asyncio.Event()

    async def asked(number: int) -> None:
        async def reached() -> bool:
            return len(site.registries.asked) >= number

        await eventually(reached)

    first = [asyncio.create_task(image(site, query=plain)) for _ in range(5)]
    await asked(1)
    # The push comes now: what the first comparison read may be of before.
    later = asyncio.create_task(image(site, query=fresh))
    await asked(2)
    gate.set()
    assert {each.state for each in await asyncio.gather(*first, later)} == {State.MISSING}
    assert len(site.registries.asked) == 2
    await image(site, query=plain)
    assert len(site.registries.asked) == 2, "an answer of the last moment is given again"
    await image(site, query=fresh)
    assert len(site.registries.asked) == 3
    monkeypatch.setattr("replicator.server.api.images.SAME_SECONDS", 0.0)
    await image(site, query=plain)
    assert len(site.registries.asked) == 4


async def test_fresh_questions_that_wait_for_their_turn_are_one(site: Site) -> None:
    site.registries.gate = gate = asyncio.Event()
    query = "?fresh=true&destination="
    # All turns are taken by other questions.
    others = [asyncio.create_task(image(site, f"{HARBOR}/lib/app:{n}", "?fresh=true")) for n in range(ASKED_AT_ONCE)]

    async def taken() -> bool:
        return len(site.registries.asked) >= ASKED_AT_ONCE

    await eventually(taken)
    equal = [asyncio.create_task(image(site, query=f"{query}{FIRST}")) for _ in range(4)]

    async def joined() -> bool:
        return max(len(each._asking._waiters) for each in site.images._questions.values()) == len(equal)

    await eventually(joined)
    gate.set()
    await asyncio.gather(*others, *equal)
    assert site.registries.asked.count(FIRST) == 1


async def test_a_failed_answer_is_not_given_again(site: Site) -> None:
    site.registries.error = CopyFailed("no answer", ErrorClass.TRANSIENT)
    assert (await site.ask("GET", f"/images/{SOURCE}")).status_code == 502
    site.registries.error = None
    assert (await image(site)).state is State.MISSING


@pytest.mark.parametrize("how", ["another source", "old", "other options"])
async def test_memory_is_not_believed_where_it_may_be_of_something_else(site: Site, how: str) -> None:
    if how == "other options":
        async with aclosing(Observations(site.queue, deadline=PATIENCE, pause=0)) as checks:
            checks.record(FIRST, "other", time.time(), SOURCE, ONE)
    else:
        source = f"{HARBOR}/lib/other:1" if how == "another source" else SOURCE
        await see(site.queue, FIRST, source=source, ago=3 * 86_400 if how == "old" else 0)
    assert (await image(site, query=f"?destination={FIRST}")).state is State.MISSING


async def test_a_copy_on_its_way_is_queued_then_runs_and_the_worst_state_is_that_of_the_whole(site: Site) -> None:
    await see(site.queue, SECOND)
    await site.queue.enqueue([Job(FIRST, payload(FIRST))], Lane.EVENTS)
    found = await image(site)
    assert (found.state, [each.state for each in found.images]) == (State.QUEUED, [State.QUEUED, State.IN_PLACE])
    assert found.images[0].job is not None
    assert (found.images[0].job.lane, found.images[0].job.attempt) == ("events", 0)
    seen: list[Image] = []

    async def handle(running: Running) -> dict[str, Any]:
        running.progress(10, 40)

        async def told() -> bool:
            seen[:] = [await image(site)]
            job = seen[0].images[0].job
            return job is not None and job.bytes > 0

        await eventually(told)
        return {}

    async with working(site.queue, handle, lease=30):
        await idle(site.queue)
    assert seen[0].state is State.RUNNING
    job = seen[0].images[0].job
    assert job is not None
    assert (job.attempt, job.bytes, job.size) == (1, 10, 40)
    assert job.seconds_left is not None


async def bury(queue: Queue, *destinations: str) -> None:
    async def handle(_: Running) -> dict[str, Any]:
        raise CopyFailed(ErrorText("denied", "pushes are not allowed", "allow them"), ErrorClass.PERMANENT)

    await queue.enqueue([Job(each, payload(each)) for each in destinations], Lane.EVENTS)
    async with working(queue, handle, lease=30):
        await idle(queue)


async def test_a_copy_that_failed_for_good_is_refused_listed_retried_and_dropped(site: Site) -> None:
    await bury(site.queue, FIRST, SECOND)
    found = await image(site)
    assert found.state is State.REFUSED
    failure = found.images[0].failure
    assert failure is not None
    assert (failure.attempts, failure.error_class) == (1, "permanent")
    assert (failure.what, failure.why, failure.do) == ("denied", "pushes are not allowed", "allow them")
    listed = (await site.ask("GET", "/failures")).json()
    assert (listed["total"], listed["cursor"]) == (2, None)
    assert {each["destination"] for each in listed["failures"]} == {FIRST, SECOND}
    assert {each["source"] for each in listed["failures"]} == {SOURCE}
    retried = await site.ask("POST", "/failures/retry", OPERATE, json={"destinations": [FIRST, "no/such"]})
    assert retried.json() == {"number": 1, "destinations": [FIRST]}
    assert (await image(site)).images[0].state is State.QUEUED
    dropped = await site.ask("POST", "/failures/drop", OPERATE, json={"all": True})
    assert dropped.json() == {"number": 1, "destinations": [SECOND]}
    for unclear in ({}, {"all": True, "destinations": [FIRST]}, {"al": True}):
        assert (await site.ask("POST", "/failures/drop", OPERATE, json=unclear)).status_code == 400


async def test_fresh_finds_that_a_failed_copy_is_in_place_by_now_and_else_tells_the_failure(site: Site) -> None:
    await bury(site.queue, FIRST)
    query = f"?fresh=true&destination={FIRST}"
    assert (await image(site, query=query)).state is State.REFUSED, "it is missing"
    site.registries.error = CopyFailed("no answer", ErrorClass.TRANSIENT)
    assert (await image(site, query=query)).state is State.REFUSED
    site.registries.error, site.registries.destination = None, ONE
    assert (await image(site, query=query)).state is State.IN_PLACE
    assert len(site.registries.asked) == 3
    assert (await image(site, query=f"?destination={FIRST}")).state is State.REFUSED
    assert len(site.registries.asked) == 3


async def test_an_image_that_no_rule_names_is_told_with_the_reason(site: Site) -> None:
    found = await image(site, f"{HARBOR}/other/app:1")
    assert (found.state, found.images) == (State.NO_RULE, [])
    assert f"{HARBOR}/lib/**" in str(found.reason)
    elsewhere = await image(site, query="?destination=elsewhere.example/app:1")
    assert elsewhere.reason == "no rule sends it to elsewhere.example/app:1"


async def test_an_image_that_is_not_at_the_source_is_told(site: Site) -> None:
    site.registries.error = SourceNotFound(Reference.parse(SOURCE), NotFound(HARBOR, "no such tag"))
    assert (await image(site)).state is State.NO_SOURCE


async def test_a_registry_that_fails_is_a_bad_gateway_with_what_to_do(site: Site) -> None:
    site.registries.error = CopyFailed(ErrorText("no answer", "it is away", "wait"), ErrorClass.TRANSIENT)
    answer = await site.ask("GET", f"/images/{SOURCE}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (502, "application/problem+json")
    found = answer.json()
    assert (found["what"], found["why"], found["do"], found["status"]) == ("no answer", "it is away", "wait", 502)


async def test_a_copy_is_queued_now_where_the_rules_say(site: Site) -> None:
    answer = await site.ask("POST", "/copies", OPERATE, json={"source": SOURCE, "destination": SECOND})
    assert answer.status_code == 202
    assert [each["destination"] for each in answer.json()["queued"]] == [SECOND]
    assert (await image(site, query=f"?destination={SECOND}")).state is State.QUEUED
    refused = await site.ask("POST", "/copies", OPERATE, json={"source": f"{HARBOR}/other/app:1"})
    assert refused.status_code == 422


async def test_what_ended_lately_is_told_by_pages_and_filters(site: Site) -> None:
    await put_entries(site.queue, Lane.EVENTS, (1000, FIRST, ""), (2000, SECOND, "permanent"), (3000, FIRST, ""))
    first = (await site.ask("GET", "/copies?limit=2")).json()
    assert [each["destination"] for each in first["copies"]] == [FIRST, SECOND]
    assert first["copies"][0] | {"result": "copied", "attempts": 1, "failure": None} == first["copies"][0]
    assert (first["copies"][1]["failure"]["class"], first["copies"][1]["note"]) == ("permanent", "")
    rest = (await site.ask("GET", f"/copies?limit=2&cursor={first['cursor']}")).json()
    assert ([each["at"] for each in rest["copies"]], rest["cursor"]) == (["1970-01-01T00:00:01.000Z"], None)
    for query, number in (("failed=true", 1), (f"destination={FIRST}", 2), ("lane=backfill", 0), ("result=skipped", 0)):
        assert len((await site.ask("GET", f"/copies?{query}")).json()["copies"]) == number, query
    assert (await site.ask("GET", "/copies?lane=other")).status_code == 400


async def test_a_reconcile_is_asked_for_once_however_often_it_is_said(site: Site) -> None:
    first, again = [await site.ask("POST", "/reconcile", OPERATE) for _ in range(2)]
    assert (first.status_code, first.json()) == (202, {"asked": True, "running": None})
    assert again.json() == {"asked": False, "running": None}
    assert (await ReconcileState.read(site.queue)).is_requested
    assert (await site.ask("POST", "/reconcile", READ)).status_code == 403
    assert await Reconciles(site.queue).begin(None) is not None
    later = (await site.ask("POST", "/reconcile", OPERATE)).json()
    assert (later["asked"], later["running"]["listed"]) == (True, 0)


async def test_a_token_has_a_scope_and_the_login_of_the_page_may_operate(site: Site) -> None:
    body = {"json": {"source": SOURCE}}
    assert (await site.ask("POST", "/copies", READ, **body)).status_code == 403
    for token in (None, "wrong-token-wrong-token", f"{READ}x", ""):
        answer = await site.ask("GET", "/failures", token)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "REPLICATOR_API_TOKENS" in answer.json()["why"]
    login = {"Authorization": f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"}
    assert (await site.ask("POST", "/copies", None, headers=login, **body)).status_code == 202
    other = login | {"Sec-Fetch-Site": "cross-site"}
    assert (await site.ask("POST", "/copies", None, headers=other, **body)).status_code == 403


async def test_without_a_token_the_api_says_what_to_set(queue: Queue) -> None:
    async with served(queue, ApiAuth((), PageAuth(None))) as site:
        answer = await site.ask("GET", "/failures")
    assert answer.status_code == 404
    assert "REPLICATOR_API_TOKENS" in answer.json()["do"]


async def test_requests_beyond_the_limits_are_told_to_come_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.server.api.MOST_AT_ONCE", 0)
    answer = await site.ask("GET", "/failures")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    monkeypatch.undo()
    monkeypatch.setattr("replicator.server.api.images.MOST_WAITING", 0)
    assert (await site.ask("GET", f"/images/{SOURCE}")).status_code == 429


async def test_an_unknown_path_or_method_is_a_problem_too(site: Site) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/failures", 405), ("GET", "/images/x", 400)):
        answer = await site.ask(method, path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")


def test_tokens_are_listed_with_their_scopes_and_former_ones_beside_them() -> None:
    given = f"read:{READ} operate:{OPERATE}\nread:{PASSWORD}"
    auth = ApiAuth.of(Settings(_env_file=None, _secrets_dir=None, api_tokens=SecretStr(given)))
    assert [auth.scope_of(f"Bearer {token}") for token in (READ, PASSWORD, OPERATE)] == ["read", "read", "operate"]


@pytest.mark.parametrize("text", [READ, f"write:{READ}", "read:short", "read:"])
def test_a_token_without_scope_or_too_short_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="read:TOKEN or operate:TOKEN") as refused:
        Settings(_env_file=None, _secrets_dir=None, api_tokens=SecretStr(text))
    assert READ not in str(refused.value)
