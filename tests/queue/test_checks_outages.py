"""Observations with Redis away, slow, full or forbidding: none is trusted, nothing fails, a void one stays void."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from redis.exceptions import RedisError

from replicator.queue import Observations, Queue
from replicator.queue.observations import short_name
from tests.queue.conftest import command
from tests.queue.test_checks import PLACE, Writer, generations, see, trusted, void

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
        async with asyncio.timeout(20), aclosing(Observations(own_queue)) as checks:
            checks.record(PLACE, "one", time.time())
            assert await checks.confirmed([(PLACE, "one")] * 1200, 60) == [False] * 1200
    assert len(warnings(logs)) == 1
    own_server.start()
    assert await trusted(own_queue, "one")


async def test_a_confirmation_that_had_to_wait_for_redis_makes_void_what_was_seen(
    own_server: RedisServer, own_queue: Queue
) -> None:
    await see(own_queue, (PLACE, "one"), ("r.example/other:v1", "one"))
    writer = await Writer(own_queue).take()
    async with asyncio.timeout(30):
        own_server.kill()
        confirming = asyncio.create_task(writer.confirm())
        await asyncio.wait({confirming}, timeout=0.3)
        assert not confirming.done()
        own_server.start()
        await confirming
    assert not await trusted(own_queue, "one")
    assert await trusted(own_queue, "one", "r.example/other:v1")


async def test_what_is_void_stays_so_when_redis_is_killed(own_server: RedisServer, own_queue: Queue) -> None:
    await see(own_queue, (PLACE, "one"))
    await void(own_queue)
    own_server.kill()
    own_server.start()
    await see(own_queue, (PLACE, "one"), ago=10)
    assert not await trusted(own_queue, "one")


async def test_a_redis_that_hangs_is_waited_for_once(own_server: RedisServer, own_queue: Queue) -> None:
    await see(own_queue, (PLACE, "one"))
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        with structlog.testing.capture_logs() as logs:
            async with asyncio.timeout(20), aclosing(Observations(own_queue, deadline=0.3)) as checks:
                for _ in range(200):
                    assert await checks.confirmed([(PLACE, "one")], 60) == [False]
                checks.record(PLACE, "one", time.time())
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert warnings(logs) == ["no answer within 0.3 s"]


async def test_a_full_redis_confirms_and_takes_nothing_in(own_queue: Queue) -> None:
    other, new = "r.example/other:v1", "r.example/new:v1"
    await see(own_queue, (PLACE, "one"), (other, "one"))
    writers = [await Writer(own_queue, place).take() for place in (PLACE, new)]
    await own_queue.redis.config_set("maxmemory", "1")
    for writer in writers:
        await writer.confirm()
        assert 0 < await own_queue.redis.pttl(writer.key) <= 30_000, "renewed to what the worker says"
    await see(own_queue, (PLACE, "one"))
    assert not await trusted(own_queue, "one")
    assert await trusted(own_queue, "one", other)
    # What was seen earlier does not come back either once there is room.
    await own_queue.redis.config_set("maxmemory", "0")
    for place in (PLACE, new):
        await see(own_queue, (place, "one"), ago=10)
        assert not await trusted(own_queue, "one", place)
    assert await generations(own_queue) == (3, 0)


async def test_a_process_that_may_not_make_void_what_was_seen_is_not_confirmed(
    own_server: RedisServer, own_queue: Queue
) -> None:
    await see(own_queue, (PLACE, "one"))
    writer = await Writer(own_queue).take()
    rights = (
        "~arq:* ~replicator:none ~replicator:gen ~replicator:queue:* ~replicator:running ~replicator:stops "
        "%R~replicator:checks:* +@all"
    )
    await command(own_queue, "ACL", "SETUSER", "limited", "on", ">pw", *rights.split())
    async with await Queue.connect(own_server.url.replace("unix://", "unix://limited:pw@")) as client:
        assert await client.run_script("renew", 50_000, PLACE, "mine", "") == [], "else it is not about that"
        with pytest.raises(RedisError):
            await client.run_script("confirm", 30_000, PLACE, "mine", "", short_name(PLACE), 10, 10_000, 10_000)
    assert await own_queue.redis.pttl(writer.key) > 30_000


async def test_the_documented_acl_user_may_do_all_of_it(own_server: RedisServer, own_queue: Queue) -> None:
    rights = "~replicator:* ~arq:*:replicator:* &replicator:* +@all -@dangerous -@admin"
    await command(own_queue, "ACL", "SETUSER", "replicator", "on", ">pw", *rights.split())
    async with await Queue.connect(own_server.url.replace("unix://", "unix://replicator:pw@")) as client:
        with structlog.testing.capture_logs() as logs:
            await see(client, *((f"r.example/team/app:v{number}", "one") for number in range(5)), items=2)
            await void(client)
            assert await trusted(client, "one", "r.example/team/app:v4")
    assert warnings(logs) == []
