"""Dead letters that are queued again when a login changes, and those that are not."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
import structlog

from replicator.errors import ErrorClass
from replicator.queue import DeadLetters, Lane, Queue
from replicator.reference import Repository
from replicator.registry import Access
from replicator.registry.ladder import fingerprint
from replicator.replication.enqueue import job_for
from replicator.replication.transfer import CopyFailed
from replicator.rules import Rules, parse
from replicator.server import reload
from replicator.server.reload import RefusedLogins
from tests.queue.conftest import Recorder, eventually, idle, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.rules import CopyRequest
    from tests.queue.servers import RedisServer

HARBOR, ACR = "harbor.example.com", "acr.example.com"
REFUSED = f"{HARBOR}: GET /service/token: 401"


@pytest.fixture
async def queue(server: RedisServer) -> AsyncIterator[Queue]:
    async with await Queue.connect(server.url, deadline=0.5) as client:
        yield client


def rules(harbor: str = "old", acr: str = "old", project: str | None = None) -> Rules:
    auth = {HARBOR: {"username": "u", "password": harbor}, ACR: {"username": "u", "password": acr}}
    if project is not None:
        auth[f"{HARBOR}/team"] = {"username": "p", "password": project}
    images = {f"{HARBOR}/**": f"{ACR}/mirror/{{flat}}"}
    return parse(json.dumps({"auth": auth, "images": images}), "rules.json", environ={})


def request(repository: str, tag: str = "v1") -> CopyRequest:
    (found,) = rules().requests(Repository(HARBOR, repository), [tag])
    return found


async def die(queue: Queue, *deaths: tuple[str, CopyFailed]) -> None:
    """Have copies of repositories end as dead letters, one after another."""
    for repository, error in deaths:
        handler = Recorder()
        handler.errors.append(error)
        async with working(queue, handler):
            await queue.enqueue([job_for(request(repository))], Lane.EVENTS)
            await handler.started(1)
            await idle(queue)
            name = f"{repository.replace('/', '-')}:v1"

            async def is_dead(name: str = name) -> bool:
                return name in await left(queue)

            await eventually(is_dead)


async def left(queue: Queue) -> set[str]:
    return {letter.id.rpartition("/")[2] for letter in await DeadLetters(queue).all()}


@pytest.mark.parametrize(
    ("after", "again"),
    [
        (rules(), set()),
        (rules(harbor="new"), {"team-a:v1", "other-a:v1", "team-silent:v1"}),
        (rules(acr="new"), {"team-acr:v1", "team-silent:v1"}),
        (rules(project="new"), {"team-a:v1", "team-silent:v1"}),
    ],
    ids=["nothing", "harbor", "acr", "project"],
)
async def test_only_what_died_of_the_login_that_changed_is_queued_again(
    queue: Queue, after: Rules, again: set[str]
) -> None:
    credentials, permanent = ErrorClass.CREDENTIALS, ErrorClass.PERMANENT
    await die(
        queue,
        ("team/a", CopyFailed(REFUSED, credentials)),
        ("other/a", CopyFailed(REFUSED, credentials)),
        ("team/acr", CopyFailed(f"{ACR}: PUT /v2/mirror/team-acr: 401", credentials)),
        ("team/silent", CopyFailed("the login was refused", credentials)),
        ("team/gone", CopyFailed(f"{HARBOR}: 404", permanent)),
    )
    every = await left(queue)
    assert len(every) == 5
    refused = RefusedLogins(queue, rules())
    with structlog.testing.capture_logs() as logs:
        refused.renew(after)
        try:

            async def queued() -> bool:
                return await left(queue) == every - again and len(logs) == bool(again)

            await eventually(queued)
        finally:
            await refused.aclose()
    assert [line["number"] for line in logs] == ([len(again)] if again else [])


async def test_a_copy_that_dies_of_the_old_login_after_the_change_is_queued_again_once(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_UNDER_WAY_SECONDS", 2.0)
    refused = RefusedLogins(queue, rules())
    refused.renew(rules(harbor="new"))
    # A second reload, without a change of its own, does not hide the first.
    refused.renew(rules(harbor="new"))
    handler = Recorder()
    handler.errors.append(CopyFailed(REFUSED, ErrorClass.CREDENTIALS))
    async with working(queue, handler):
        await queue.enqueue([job_for(request("team/a"))], Lane.EVENTS)
        await handler.started(2)
        await idle(queue)
    assert await left(queue) == set()
    assert refused._task is not None
    await asyncio.wait_for(refused._task, 10)
    await die(queue, ("team/a", CopyFailed(REFUSED, ErrorClass.CREDENTIALS)))
    assert await left(queue) == {"team-a:v1"}
    await refused.aclose()


async def test_an_outage_of_redis_is_waited_out(
    queue: Queue, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_OFFLINE_SECONDS", 0.05)
    await die(queue, ("team/a", CopyFailed(REFUSED, ErrorClass.CREDENTIALS)))
    server.kill()
    refused = RefusedLogins(queue, rules())
    refused.renew(rules(harbor="new"))
    await asyncio.sleep(1)
    server.start()

    async def queued() -> bool:
        return not await left(queue)

    await eventually(queued, timeout=30)
    await refused.aclose()


async def test_what_died_of_another_login_is_queued_again_at_a_start(queue: Queue) -> None:
    def refused(login: str) -> CopyFailed:
        error = CopyFailed(REFUSED, ErrorClass.CREDENTIALS)
        error.login = login
        return error

    def mark(password: str) -> str:
        return fingerprint(HARBOR, Access("u", password))

    await die(
        queue,
        ("team/old", refused(mark("old"))),
        ("team/new", refused(mark("new"))),
        # By an earlier version, which did not note the login.
        ("team/unknown", refused("")),
    )
    async with aclosing(RefusedLogins(queue, rules(harbor="new"))) as started:
        started.begin()

        async def queued() -> bool:
            return await left(queue) == {"team-new:v1", "team-unknown:v1"}

        await eventually(queued)
    async with aclosing(RefusedLogins(queue, rules(harbor="new"))) as started:
        started.recovered(mark("new"))

        async def all_queued() -> bool:
            return await left(queue) == {"team-unknown:v1"}

        await eventually(all_queued)
