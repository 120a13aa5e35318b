"""Redis away, slow, full or forbidding: a lock is granted at once, knowing nothing, and all recovers by itself."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from replicator.queue import Queue
from replicator.queue.blob_locks import RedisBlobLocks
from tests.queue.conftest import eventually
from tests.queue.servers import CuttingProxy, RedisServer
from tests.queue.test_blob_locks_known import DIGEST, R, command, generations, look, upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOTHING: tuple[bool, tuple[str, ...]] = (False, ())


@pytest.fixture
async def own_queue(own_server: RedisServer) -> AsyncIterator[Queue]:
    async with await Queue.connect(own_server.url) as client:
        yield client


def warnings(logs: list[Any]) -> list[str]:
    return [entry["error"] for entry in logs if entry["event"] == "turns unavailable"]


async def test_a_redis_that_stops_in_the_middle_fails_no_copy_and_is_used_again_when_it_is_back(
    own_server: RedisServer, own_queue: Queue
) -> None:
    locks = RedisBlobLocks(own_queue, lease=0.3)
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(20):
            async with locks.hold(R, "a", DIGEST) as lock:
                own_server.kill()
                await asyncio.sleep(0.5)  # it fails to renew
                lock.mark_present()
            await asyncio.gather(*(upload(locks, f"r{n}") for n in range(50)))
            assert await look(locks, "a") == NOTHING
            await locks.forget(R, "a", DIGEST)
    assert len(warnings(logs)) == 1
    own_server.start()
    await upload(locks, "a")
    assert await look(locks, "a") == (True, ())


async def test_one_who_waits_begins_when_redis_goes_away(own_server: RedisServer, own_queue: Queue) -> None:
    first, second = RedisBlobLocks(own_queue), RedisBlobLocks(own_queue)
    async with asyncio.timeout(20), first.hold(R, "a", DIGEST):
        waiting = asyncio.create_task(look(second, "a"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        own_server.kill()
        assert await waiting == NOTHING


async def test_a_redis_that_hangs_is_waited_for_within_the_deadline_and_not_by_every_blob(
    own_server: RedisServer, own_queue: Queue
) -> None:
    locks = RedisBlobLocks(own_queue, deadline=0.5, lease=2)
    await upload(locks, "a")
    asked = 0
    run_script = own_queue.run_script

    async def counted(name: str, *arguments: str | bytes | float) -> Any:
        nonlocal asked
        asked += 1
        return await run_script(name, *arguments)

    own_queue.run_script = counted  # type: ignore[method-assign]  # to count, not to change what it does
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        with structlog.testing.capture_logs() as logs:
            async with asyncio.timeout(20):
                for n in range(50):
                    assert await look(locks, f"r{n}") == NOTHING
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert asked < 10
    assert warnings(logs) == ["no answer within 0.5 s"]

    # When it goes on it takes the locks that were asked for while it hung: they expire.
    async def again() -> bool:
        return (await look(locks, "b"))[1] == ("a",)

    await eventually(again)


async def test_a_copy_cancelled_while_redis_hangs_ends_soon(own_server: RedisServer, own_queue: Queue) -> None:
    locks, begun = RedisBlobLocks(own_queue, deadline=0.5), asyncio.Event()

    async def hold() -> None:
        async with locks.hold(R, "a", DIGEST):
            begun.set()
            await asyncio.sleep(60)

    holding = asyncio.create_task(hold())
    await begun.wait()
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        beginning = asyncio.create_task(look(locks, "a"))
        await asyncio.sleep(0.1)
        for task in (holding, beginning):
            task.cancel()
        async with asyncio.timeout(10):
            assert all(
                isinstance(end, asyncio.CancelledError)
                for end in await asyncio.gather(holding, beginning, return_exceptions=True)
            )
    finally:
        os.kill(own_server.pid, signal.SIGCONT)


async def test_a_lock_taken_with_its_answer_lost_is_released_at_its_end(
    own_server: RedisServer, own_queue: Queue, short_dir: Path
) -> None:
    async with (
        CuttingProxy(short_dir / "turns.sock", own_server.socket) as proxy,
        await Queue.connect(proxy.url) as client,
    ):
        locks = RedisBlobLocks(client)
        await upload(locks, "a")
        proxy.mute_answers = True
        beginning = locks.hold(R, "b", DIGEST)
        begin = asyncio.create_task(beginning.__aenter__())

        async def taken() -> bool:
            return bool(await own_queue.redis.keys("replicator:turn:*"))

        await eventually(taken)
        proxy.mute_answers = False
        proxy.cut()
        assert ((await begin).present, (await begin).mount_sources) == NOTHING
        await beginning.__aexit__(None, None, None)
        assert not await taken()


async def test_cut_connections_fail_no_copy(own_server: RedisServer, short_dir: Path) -> None:
    async with (
        CuttingProxy(short_dir / "cut-turns.sock", own_server.socket) as proxy,
        await Queue.connect(proxy.url) as client,
    ):
        locks = RedisBlobLocks(client)
        for n in range(20):
            copies = [asyncio.create_task(upload(locks, f"r{m}", f"sha256:{n}{m}")) for m in range(10)]
            await asyncio.sleep(0.002)
            proxy.cut()
            async with asyncio.timeout(20):
                await asyncio.gather(*copies)

        async def knows() -> bool:
            # For a moment after an outage Redis is not asked.
            await upload(locks, "a")
            return await look(locks, "a") == (True, ())

        await eventually(knows)


async def test_a_redis_out_of_memory_gives_what_it_knows_takes_no_more_and_holds_nobody_up(own_queue: Queue) -> None:
    locks = RedisBlobLocks(own_queue)
    await upload(locks, "a")
    with structlog.testing.capture_logs() as logs:
        async with locks.hold(R, "b", DIGEST) as lock:
            await own_queue.redis.config_set("maxmemory", "1")
            lock.mark_present()
        assert await own_queue.redis.keys("replicator:turn:*") == [], "the lock is released all the same"
        async with asyncio.timeout(20):
            assert await look(locks, "a") == (True, ())
            await asyncio.gather(*(upload(locks, f"r{n}", f"sha256:{n:064}") for n in range(20)))
            await locks.forget(R, "a", DIGEST)
    assert len(warnings(logs)) == 1
    assert await generations(own_queue) == (0, 0)
    await own_queue.redis.config_set("maxmemory", "0")
    await upload(locks, "a")
    assert await look(locks, "a") == (True, ())


async def test_a_user_who_may_not_do_it_copies_without(own_server: RedisServer, own_queue: Queue) -> None:
    await command(own_queue, "ACL", "SETUSER", "jobs", "on", ">pw", "~replicator:queue:*", "~arq:*", "+@all")
    url = own_server.url.replace("unix://", "unix://jobs:pw@")
    async with await Queue.connect(url) as client:
        locks = RedisBlobLocks(client)
        with structlog.testing.capture_logs() as logs:
            for n in range(3):
                await upload(locks, f"r{n}")
                assert await look(locks, f"r{n}") == NOTHING
    [warning] = warnings(logs)
    assert re.search("access .*key", warning)


async def test_the_documented_acl_user_may_do_all_of_it(own_server: RedisServer, own_queue: Queue) -> None:
    rights = "~replicator:* ~arq:*:replicator:* &replicator:* +@all -@dangerous -@admin"
    await command(own_queue, "ACL", "SETUSER", "replicator", "on", ">pw", *rights.split())
    async with await Queue.connect(own_server.url.replace("unix://", "unix://replicator:pw@")) as client:
        locks = RedisBlobLocks(client, items=2, lease=0.1)
        with structlog.testing.capture_logs() as logs:
            for n in range(5):
                await upload(locks, "a", f"sha256:{n:064}")
            await look(locks, "b", f"sha256:{3:064}")
            async with locks.hold(R, "b", DIGEST):
                await asyncio.sleep(0.2)
            await locks.forget(R, "a", f"sha256:{3:064}")
    assert warnings(logs) == []


async def test_a_user_who_may_not_listen_waits_by_polling(own_server: RedisServer, own_queue: Queue) -> None:
    rights = "~replicator:* ~arq:*:replicator:* +@all -@dangerous -@admin resetchannels"
    await command(own_queue, "ACL", "SETUSER", "silent", "on", ">pw", *rights.split())
    async with await Queue.connect(own_server.url.replace("unix://", "unix://silent:pw@")) as client:
        locks = RedisBlobLocks(client)
        with structlog.testing.capture_logs() as logs:
            async with asyncio.timeout(20):
                async with locks.hold(R, "a", DIGEST) as lock:
                    waiting = asyncio.create_task(look(locks, "a"))
                    await asyncio.sleep(0.3)
                    assert not waiting.done()
                    lock.mark_present()
                assert await waiting == (True, ())
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == []


async def test_data_that_is_lost_costs_work_alone(own_queue: Queue) -> None:
    locks = RedisBlobLocks(own_queue)
    await upload(locks, "a")
    async with locks.hold(R, "b", DIGEST) as lock:
        await own_queue.redis.flushall()
        lock.mark_present()
    assert await look(locks, "c") == (False, ("b",))
