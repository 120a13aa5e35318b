"""Jobs start at once when they are announced, and waiting for them costs nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from replicator.errors import ErrorClass
from replicator.queue import Job, Lane, Queue, Running
from tests.queue.conftest import Recorder, idle, working
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    import pytest

    from tests.queue.servers import RedisServer


async def test_an_event_is_picked_up_when_it_is_announced_and_not_at_the_next_poll(
    queue: Queue, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.lane.POLL_SECONDS", 60.0)
    ran = asyncio.Event()

    async def handle(_: Running) -> dict[str, Any]:
        ran.set()
        return {}

    async with await Queue.connect(server.url, prefix=queue.prefix) as other, working(other, handle):
        await asyncio.sleep(0.2)
        for n in range(40):
            ran.clear()
            await queue.enqueue([Job(f"r.example/a:{n}", {})], Lane.EVENTS)
            await asyncio.wait_for(ran.wait(), 20)
            await asyncio.sleep(0.01)


async def test_a_retry_starts_when_it_is_due_and_not_at_the_next_poll(
    queue: Queue, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.lane.POLL_SECONDS", 60.0)
    handler.errors = [Fault(ErrorClass.TRANSIENT, retry_after=0.3)]
    async with working(queue, handler, lease=30):
        await asyncio.sleep(0.1)
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        await handler.started(1)
        before = time.perf_counter()
        await handler.started(2)
        assert time.perf_counter() - before > 0.25
        await idle(queue)


async def test_a_lost_announcement_costs_no_more_than_a_poll(queue: Queue, handler: Recorder) -> None:
    async with working(queue, handler):
        await asyncio.sleep(0.2)
        await queue.redis.client_kill_filter(_type="pubsub")
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        await handler.started(1, timeout=3)
        await idle(queue)


async def test_announcements_are_heard_again_after_their_connection_was_cut(
    queue: Queue, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.lane.POLL_SECONDS", 60.0)
    async with working(queue, handler, lease=200):
        await asyncio.sleep(0.2)
        await queue.redis.client_kill_filter(_type="pubsub")
        await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
        await handler.started(1, timeout=3)
        await queue.enqueue([Job("r.example/a:2", {})], Lane.EVENTS)
        await handler.started(2, timeout=1)
        await idle(queue)


async def test_a_silent_connection_for_announcements_is_replaced(
    queue: Queue, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.best_effort._PROBE_SECONDS", 0.1)
    async with working(queue, handler):
        await asyncio.sleep(0.15)
        [before] = await queue.redis.client_list(_type="pubsub")
        await asyncio.sleep(0.4)
        [after] = await queue.redis.client_list(_type="pubsub")
        assert after["id"] == before["id"], "one that answers when asked is kept"


async def test_an_idle_worker_costs_nothing(queue: Queue, handler: Recorder) -> None:
    async with working(queue, handler, lease=30):
        await asyncio.sleep(0.5)
        before = (await queue.redis.info("stats"))["total_commands_processed"]
        cpu = time.process_time()
        await asyncio.sleep(2)
        assert time.process_time() - cpu < 0.1
        commands = (await queue.redis.info("stats"))["total_commands_processed"] - before
        assert commands < 40, "two lanes' polls of a few commands each, and a sign of life"


async def test_arqs_own_loggers_say_nothing(queue: Queue, handler: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await queue.enqueue([Job("r.example/a:1", {})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1)
        await idle(queue)
    assert [record for record in caplog.records if record.name.startswith("arq")] == []
