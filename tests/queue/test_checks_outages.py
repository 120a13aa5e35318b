"""Redis away, slow, full or forbidding: nothing is trusted, nothing fails, and what is forgotten stays forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from replicator.queue import Checks, Queue
from tests.queue.conftest import eventually
from tests.queue.test_checks import PLACE, command, forget, generations, see, trusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.queue.servers import RedisServer


@pytest.fixture
async def own_queue(own_server: RedisServer) -> AsyncIterator[Queue]:
    async with await Queue.connect(own_server.url) as client:
        yield client


def warnings(logs: list[Any]) -> list[str]:
    return [entry["error"] for entry in logs if entry["event"] == "memory unavailable"]


async def test_without_redis_nothing_is_trusted_and_nothing_fails(own_server: RedisServer, own_queue: Queue) -> None:
    await see(own_queue, (PLACE, "one"))
    own_server.kill()
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(20), aclosing(Checks(own_queue)) as checks:
            checks.saw(PLACE, "one", time.time())
            assert await checks.holds([(PLACE, "one")] * 1200, 60) == [False] * 1200
            assert not await checks.forget(PLACE)
    assert len(warnings(logs)) == 1
    own_server.start()
    assert await trusted(own_queue, "one"), "it is what a test of forgetting has to be about"


async def test_what_could_not_be_forgotten_is_as_soon_as_redis_is_back(
    own_server: RedisServer, own_queue: Queue
) -> None:
    await see(own_queue, (PLACE, "one"), ("r.example/other:v1", "one"))
    async with asyncio.timeout(30), aclosing(Checks(own_queue)) as checks:
        own_server.kill()
        assert not await checks.forget(PLACE)
        own_server.start()

        async def forgotten() -> bool:
            return not await trusted(own_queue, "one")

        await eventually(forgotten)
        assert await trusted(own_queue, "one", "r.example/other:v1")

        async def over() -> bool:
            return not checks._unforgotten and checks._retrying is None

        await eventually(over)
        # And so it is the next time.
        await see(own_queue, (PLACE, "two"))
        own_server.kill()
        assert not await checks.forget(PLACE)
        own_server.start()
        await eventually(forgotten)


async def test_the_end_of_a_process_is_the_last_try_to_forget(own_server: RedisServer, own_queue: Queue) -> None:
    await see(own_queue, (PLACE, "one"))
    checks = Checks(own_queue)
    own_server.kill()
    assert not await checks.forget(PLACE)
    own_server.start()
    await checks.aclose()
    assert not await trusted(own_queue, "one")


async def test_a_copy_cancelled_while_it_forgets_leaves_nothing_to_trust(
    own_server: RedisServer, own_queue: Queue
) -> None:
    await see(own_queue, (PLACE, "one"))
    async with asyncio.timeout(30), aclosing(Checks(own_queue, deadline=60)) as checks:
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            forgetting = asyncio.create_task(checks.forget(PLACE))
            await asyncio.sleep(0.1)
            forgetting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await forgetting
        finally:
            os.kill(own_server.pid, signal.SIGCONT)

        async def forgotten() -> bool:
            return not await trusted(own_queue, "one")

        await eventually(forgotten)


async def test_a_redis_that_hangs_is_waited_for_once(own_server: RedisServer, own_queue: Queue) -> None:
    await see(own_queue, (PLACE, "one"))
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        with structlog.testing.capture_logs() as logs:
            async with asyncio.timeout(20), aclosing(Checks(own_queue, deadline=0.3)) as checks:
                for _ in range(200):
                    assert await checks.holds([(PLACE, "one")], 60) == [False]
                assert not await checks.forget(PLACE)
                checks.saw(PLACE, "one", time.time())
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert warnings(logs) == ["no answer within 0.3 s"]


async def test_a_full_redis_forgets_and_takes_nothing_in(own_queue: Queue) -> None:
    await see(own_queue, (PLACE, "one"), ("r.example/other:v1", "one"))
    await own_queue.redis.config_set("maxmemory", "1")
    await forget(own_queue)
    await see(own_queue, (PLACE, "one"))
    assert not await trusted(own_queue, "one")
    assert await trusted(own_queue, "one", "r.example/other:v1")
    assert await generations(own_queue) == (1, 0)


async def test_a_process_that_may_not_forget_trusts_nothing_of_it(own_server: RedisServer, own_queue: Queue) -> None:
    other = "r.example/other:v1"
    await see(own_queue, (PLACE, "one"), (other, "one"))
    await command(own_queue, "ACL", "SETUSER", "reader", "on", ">pw", "%R~*", "+@all")
    async with await Queue.connect(own_server.url.replace("unix://", "unix://reader:pw@")) as client:
        with structlog.testing.capture_logs() as logs:
            async with aclosing(Checks(client)) as checks:
                assert not await checks.forget(PLACE)
                assert await checks.holds([(PLACE, "one"), (other, "one")], 60) == [False, True]
    assert len(warnings(logs)) == 1


async def test_what_waits_to_be_forgotten_is_bounded(
    own_queue: Queue, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.checks._MOST_UNFORGOTTEN", 3)
    own_server.kill()
    async with asyncio.timeout(20), aclosing(Checks(own_queue)) as checks:
        for number in range(5):
            await checks.forget(f"r.example/team/app:v{number}")
        assert len(checks._unforgotten) == 3
        own_server.start()


async def test_the_documented_acl_user_may_do_all_of_it(own_server: RedisServer, own_queue: Queue) -> None:
    rights = "~replicator:* ~arq:*:replicator:* &replicator:* +@all -@dangerous -@admin"
    await command(own_queue, "ACL", "SETUSER", "replicator", "on", ">pw", *rights.split())
    async with await Queue.connect(own_server.url.replace("unix://", "unix://replicator:pw@")) as client:
        with structlog.testing.capture_logs() as logs:
            await see(client, *((f"r.example/team/app:v{number}", "one") for number in range(5)), items=2)
            await forget(client)
            assert await trusted(client, "one", "r.example/team/app:v4")
    assert warnings(logs) == []
