"""Copies that wait for a refused login: one request a step over all processes, and all go on when it works again."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorClass, ReplicatorError, Wait
from replicator.queue import DeadLetters, Job, Lane, Queue, RedisLogins, RetryPolicy, Worker, list_waits
from replicator.reference import Repository
from replicator.registry import Access, Registries, Timing
from replicator.registry import ladder as ladders
from replicator.registry.errors import LoginOnHold, LoginRefused
from replicator.registry.ladder import REFUSALS, LoginPatience, fingerprint
from tests.queue.conftest import PATIENCE, eventually, idle, working
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.queue import Running
    from tests.queue.servers import RedisServer
    from tests.standins.harbor import HarborStandIn

COPIES, FEW = 200, 40
QUICK = RetryPolicy(first=0.05, cap=0.1)


@pytest.fixture
async def queue(server: RedisServer) -> AsyncIterator[Queue]:
    async with await Queue.connect(server.url, deadline=PATIENCE) as client:
        yield client


class Process:
    """A worker process: its own queue, registries and worker on one Redis."""

    def __init__(self, queue: Queue, registries: Registries, harbor: HarborStandIn) -> None:
        self.queue = queue
        self.harbor = harbor
        self.registries = registries
        self.tries: list[int] = []

    async def __call__(self, running: Running) -> dict[str, Any]:
        self.tries.append(running.tries)
        if running.id.startswith("other.example/"):
            return {}
        repository = self.registries.source(Repository(self.harbor.host, str(running.payload["name"])))
        assert await repository.head_manifest("v1") is not None
        return {}


@asynccontextmanager
async def process(
    server: RedisServer, harbor: HarborStandIn, login: tuple[str, str] = HARBOR_ROBOT, **patience: Any
) -> AsyncIterator[Process]:
    access = Access(*login, endpoint=harbor.url)
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(await Queue.connect(server.url, deadline=PATIENCE))
        logins = RedisLogins(queue, deadline=PATIENCE)
        stack.push_async_callback(logins.aclose)
        settings = LoginPatience(logins, shared=True, **{"patient": True, **patience})
        registries = Registries(lambda _: access, patience=settings, timing=Timing(attempts=1))
        yield Process(queue, await stack.enter_async_context(registries), harbor)


@asynccontextmanager
async def both_working(*processes: Process) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        settings: dict[str, Any] = {"policy": QUICK, "concurrency": {Lane.EVENTS: 8}, "lease": 60.0, "timeout": None}
        yield [await stack.enter_async_context(working(each.queue, each, **settings)) for each in processes]


def jobs(harbor: HarborStandIn, number: int = COPIES) -> list[Job]:
    names = [f"team/app{n % 5}" for n in range(number)]
    return [
        Job(f"acr.example/x/app:{n}", {"source": f"{harbor.host}/{name}:v1", "name": name})
        for n, name in enumerate(names)
    ]


@pytest.fixture
async def images(harbor_upstream: str) -> None:
    for n in range(5):
        await push(harbor_upstream, f"team/app{n}", "v1", image(1))


@pytest.mark.usefixtures("images")
async def test_two_processes_send_a_refused_login_once_a_step_and_all_copies_go_on_when_it_works_again(
    server: RedisServer, queue: Queue, harbor: HarborStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second step does not come before the test has seen all copies wait.
    monkeypatch.setattr(ladders, "PAUSES", (0.2, 3600.0, 3600.0, 3600.0))
    harbor.projects.database_away = True
    async with process(server, harbor) as one, process(server, harbor) as two, both_working(one, two):
        await queue.enqueue(jobs(harbor, FEW), Lane.EVENTS)
        await queue.enqueue([Job("other.example/a:1", {})], Lane.EVENTS)

        async def all_wait() -> bool:
            counts = (await queue.counts()).lanes[Lane.EVENTS]
            return (counts.queued, counts.running, counts.waiting) == (0, 0, FEW)

        await eventually(all_wait, 60)
        assert harbor.projects.refused == [HARBOR_ROBOT[0]] * len(harbor.projects.refused)

        async def two_steps() -> bool:
            return len(harbor.projects.refused) == 2

        await eventually(two_steps, 60)
        # Nothing but the one probe is begun again; no other host's copy waited.
        assert len(one.tries) + len(two.tries) <= FEW + 1 + 2 * 8
        harbor.projects.database_away = False
        # The clock can't be moved: as if the pause were over.
        monkeypatch.setattr(ladders, "PAUSES", (0.0,) * 4)
        (waiting,) = [key async for key in queue.redis.scan_iter(f"{queue.prefix}:waits:*")]
        key = waiting.decode().removeprefix(f"{queue.prefix}:waits:events:")
        assert key.startswith(f"login:{harbor.host}/robot")
        await queue.ask("wait_begin", key, 0, 0, "1", "")
        await idle(queue, 60)
        assert set(one.tries + two.tries) == {1}
    assert len(harbor.projects.refused) == 2
    assert await list_waits(queue) == []
    assert (await queue.counts()).dead == 0


@pytest.mark.usefixtures("images")
async def test_two_hundred_copies_die_of_a_wrong_password_after_five_refusals_in_all(
    server: RedisServer, queue: Queue, harbor: HarborStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladders, "PAUSES", (0.2, 0.2, 0.2, 0.2))
    wrong = (HARBOR_ROBOT[0], "wrong")
    async with process(server, harbor, wrong) as one, process(server, harbor, wrong) as two, both_working(one, two):
        await queue.enqueue(jobs(harbor), Lane.EVENTS)

        async def all_dead() -> bool:
            return (await queue.counts()).dead == COPIES

        await eventually(all_dead, 90)
    assert len(harbor.projects.refused) == REFUSALS
    letters = await DeadLetters(queue).all()
    assert {letter.error_class for letter in letters} == {ErrorClass.CREDENTIALS}
    assert {letter.tries for letter in letters} == {1}
    assert all("the login was refused" in letter.message for letter in letters)
    # What tells the login from another is of three characters, and the same for all.
    (login,) = {letter.login for letter in letters}
    assert login.startswith(f"{harbor.host} ")
    assert len(login) == len(f"{harbor.host} ") + 3


@pytest.mark.usefixtures("images")
async def test_that_a_login_worked_is_known_to_a_process_that_starts_later(
    server: RedisServer, harbor: HarborStandIn
) -> None:
    repository = Repository(harbor.host, "team/app1")
    async with process(server, harbor) as first:
        await first.registries.source(repository).head_manifest("v1")
    harbor.projects.database_away = True
    # As in a backfill, which gives up a login that never worked.
    async with process(server, harbor, patient=False) as second:
        with pytest.raises(LoginOnHold) as caught:
            await second.registries.source(repository).head_manifest("v1")
        assert caught.value.wait is not None
        assert caught.value.login == fingerprint(harbor.host, Access(*HARBOR_ROBOT))
        keys = [key async for key in second.queue.redis.scan_iter("*")]
        stored = b"".join([*keys, *[await second.queue.redis.get(key) or b"" for key in keys if b":login:" in key]])
    assert HARBOR_ROBOT[1].encode() not in stored


@pytest.mark.usefixtures("images")
async def test_what_died_of_a_login_hears_when_it_works_again(
    server: RedisServer, harbor: HarborStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladders, "PAUSES", (0.0,) * 4)
    monkeypatch.setattr(ladders, "WINDOW", 0.0)
    monkeypatch.setattr(ladders, "_REFUSED_SECONDS", 0.0)
    told: list[str] = []
    harbor.projects.database_away = True
    async with process(server, harbor, recovered=told.append, patient=False) as one:
        repository = one.registries.source(Repository(harbor.host, "team/app1"))
        with pytest.raises(LoginRefused):
            await repository.head_manifest("v1")
        harbor.projects.database_away = False
        await repository.head_manifest("v1")
    assert told == [fingerprint(harbor.host, Access(*HARBOR_ROBOT))]


async def test_copies_that_wait_for_a_login_are_of_the_class_credentials_and_the_newest_reason_counts(
    queue: Queue,
) -> None:
    key, runs = "login:acr.example/me", 0

    async def handler(_: Running) -> dict[str, Any]:
        nonlocal runs
        runs += 1
        error = ReplicatorError("acr.example", "refused", f"refused {runs} times")
        error.error_class, error.wait = ErrorClass.TRANSIENT, Wait(key, time.time(), 0.05 if runs < 3 else 60.0)
        raise error

    await queue.enqueue([Job("x.example/a:1", {"source": "h.example/a:1", "login": f"{key}/"})], Lane.EVENTS)
    async with working(queue, handler, policy=RetryPolicy()):

        async def renewed() -> bool:
            _, *waits = await queue.ask("wait_list")
            return any(why.endswith(b"refused 3 times") for _, _, why, *_ in waits)

        await eventually(renewed)
        (waiting,) = await queue.waiting()
        assert (waiting.error_class, waiting.waits_for) == (ErrorClass.CREDENTIALS, key)


async def test_a_copy_that_waited_too_long_for_a_login_is_a_dead_letter_of_that_login(queue: Queue) -> None:
    async def handler(_: Running) -> dict[str, Any]:
        error = ReplicatorError("acr.example", "refused")
        error.error_class, error.wait = ErrorClass.TRANSIENT, Wait("login:acr.example/me", time.time() - 60, 30.0)
        error.login = "acr.example abc"
        raise error

    await queue.enqueue([Job("x.example/a:1", {"source": "h.example/a:1"})], Lane.EVENTS)
    async with working(queue, handler, policy=RetryPolicy(horizon=0.0)):

        async def dead() -> bool:
            return (await queue.counts()).dead == 1

        await eventually(dead)
    (letter,) = await DeadLetters(queue).all()
    assert (letter.error_class, letter.login) == (ErrorClass.CREDENTIALS, "acr.example abc")
