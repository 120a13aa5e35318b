"""The memory that processes share: bounded, kept while it is used, and no hindrance when Redis is away."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import structlog

from replicator.queue import Queue, RedisSelectionStore
from tests.queue.conftest import PATIENCE, command

if TYPE_CHECKING:
    from replicator.copy import SelectionStore
    from tests.queue.servers import RedisServer


async def note(queue: Queue, *notes: tuple[str, str], **settings: Any) -> None:
    async with aclosing(RedisSelectionStore(queue, **{"deadline": PATIENCE, **settings})) as memory:
        for name, text in notes:
            memory.note(name, text)


async def recall(queue: Queue, *names: str, **settings: Any) -> list[str | None]:
    async with aclosing(RedisSelectionStore(queue, **{"deadline": PATIENCE, **settings})) as memory:
        return await memory.recall(names)


def warnings(logs: list[Any]) -> list[str]:
    return [entry["error"] for entry in logs if entry["event"] == "memory unavailable"]


async def test_it_is_what_the_copy_engine_remembers_by(queue: Queue) -> None:
    memory: SelectionStore = RedisSelectionStore(queue, deadline=PATIENCE)
    assert await memory.recall(["a"]) == [None]
    assert await memory.recall([]) == []


async def test_what_one_process_notes_the_others_recall(queue: Queue) -> None:
    await note(queue, ("a", "1"), ("b", "größe 名"), ("a", "2"))
    assert await recall(queue, "b", "c", "a") == ["größe 名", None, "2"]


async def test_memory_is_bounded_and_what_is_used_is_kept(queue: Queue) -> None:
    await note(queue, ("used", "1"), items=10)
    for number in range(100):
        await note(queue, (f"n{number}", "1"), items=10)
        assert await recall(queue, "used", items=10) == ["1"]
        for name in ("new", "old"):
            assert await command(queue, "HLEN", f"{queue.prefix}:forms:{name}") <= 10
    known = await recall(queue, *(f"n{number}" for number in range(100)))
    assert known[:80] == [None] * 80
    assert known[95:] == ["1"] * 5


async def test_what_is_not_used_expires_in_a_month(queue: Queue) -> None:
    await note(queue, *((f"n{number}", "1") for number in range(3)), items=2)
    for generation in ("new", "old"):
        assert 29 * 86400 < await queue.redis.ttl(f"{queue.prefix}:forms:{generation}") <= 30 * 86400


async def test_a_full_redis_still_tells_what_it_knows(own_server: RedisServer) -> None:
    async with await Queue.connect(own_server.url) as queue:
        await note(queue, ("a", "1"), ("b", "1"), ("c", "1"), items=2)
        await queue.redis.config_set("maxmemory", "1")
        assert await recall(queue, "a", "c", items=2) == ["1", "1"]
        with structlog.testing.capture_logs() as logs:
            await note(queue, ("d", "1"))
        assert len(warnings(logs)) == 1
        assert await recall(queue, "d") == [None]


async def test_a_redis_that_hangs_or_is_gone_is_as_good_as_an_empty_one(own_server: RedisServer) -> None:
    async with await Queue.connect(own_server.url) as queue, asyncio.timeout(20):
        await note(queue, ("a", "1"))
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            with structlog.testing.capture_logs() as logs:
                async with aclosing(RedisSelectionStore(queue, deadline=0.3)) as memory:
                    for _ in range(200):
                        assert await memory.recall(["a"]) == [None]
                    memory.note("b", "1")
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        assert warnings(logs) == ["no answer within 0.3 s"]
        own_server.kill()
        await note(queue, ("b", "1"))
        assert await recall(queue, "a", "b") == [None, None]
        own_server.start()
        assert await recall(queue, "a", "b") == ["1", None]


async def test_the_documented_acl_user_may_do_all_of_it(own_server: RedisServer) -> None:
    rights = "~replicator:* ~arq:*:replicator:* &replicator:* +@all -@dangerous -@admin"
    async with await Queue.connect(own_server.url) as queue:
        await command(queue, "ACL", "SETUSER", "replicator", "on", ">pw", *rights.split())
    async with await Queue.connect(own_server.url.replace("unix://", "unix://replicator:pw@")) as queue:
        with structlog.testing.capture_logs() as logs:
            await note(queue, *((f"n{number}", "1") for number in range(5)), items=2)
            assert await recall(queue, "n3", "n4", items=2) == ["1", "1"]
    assert warnings(logs) == []
