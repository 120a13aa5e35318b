"""Outages of Redis: enqueues fail in time, workers wait, nothing is lost, all recovers by itself."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from replicator.queue import DeadLetters, Job, Lane, Queue, QueueUnavailable, Running
from replicator.queue.lease import RedisHealth
from tests.queue.conftest import Recorder, eventually, idle, working
from tests.queue.servers import CuttingProxy, RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

A = "r.example/a:1"


@pytest.fixture
async def own_queue(own_server: RedisServer) -> AsyncIterator[Queue]:
    async with await Queue.connect(own_server.url, deadline=0.5) as client:
        yield client


async def test_an_enqueue_that_redis_does_not_take_says_so_within_its_deadline(
    own_server: RedisServer, own_queue: Queue
) -> None:
    own_server.kill()
    async with asyncio.timeout(20):
        with pytest.raises(QueueUnavailable, match="can't accept or hand out work") as caught:
            await own_queue.enqueue([Job(A, {})], Lane.EVENTS)
    assert caught.value.what.endswith("can't accept or hand out work")
    assert caught.value.why
    with pytest.raises(QueueUnavailable):
        await own_queue.ping()
    with pytest.raises(QueueUnavailable):
        await own_queue.counts()
    with pytest.raises(QueueUnavailable):
        await DeadLetters(own_queue).all()
    own_server.start()
    await own_queue.enqueue([Job(A, {})], Lane.EVENTS)
    await own_queue.ping()


async def test_a_redis_that_hangs_is_unavailable_within_the_deadline(own_server: RedisServer, own_queue: Queue) -> None:

    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(20):
            with pytest.raises(QueueUnavailable, match=r"no answer within 0\.5 s"):
                await own_queue.enqueue([Job(A, {})], Lane.EVENTS)
            with pytest.raises(QueueUnavailable, match=r"no answer within 0\.5 s"):
                await DeadLetters(own_queue).all()
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    await own_queue.ping()


async def test_an_enqueue_rides_over_a_restart_and_over_cut_connections(
    own_server: RedisServer, short_dir: Path
) -> None:
    async with (
        CuttingProxy(short_dir / "ride.sock", own_server.socket) as proxy,
        await Queue.connect(proxy.url, deadline=2) as client,
    ):
        for n in range(10):
            await asyncio.gather(*(client.enqueue([Job(f"{A}{n}{m}", {})], Lane.EVENTS) for m in range(5)))
            proxy.cut()
        own_server.kill()
        own_server.start()
        await client.enqueue([Job(A, {})], Lane.EVENTS)
        assert (await client.counts()).lanes[Lane.EVENTS].queued == 51


async def test_an_enqueue_gets_past_a_connection_that_is_dead_without_knowing_it(
    own_server: RedisServer, short_dir: Path
) -> None:
    async with (
        CuttingProxy(short_dir / "dead.sock", own_server.socket) as proxy,
        await Queue.connect(proxy.url, deadline=1) as client,
    ):
        proxy.mute()
        await client.enqueue([Job(A, {})], Lane.EVENTS)


async def test_what_was_acknowledged_survives_a_kill_of_redis(
    own_server: RedisServer, own_queue: Queue, handler: Recorder
) -> None:
    await own_queue.enqueue([Job(f"r.example/a:{n}", {"n": n}) for n in range(1200)], Lane.EVENTS)
    own_server.kill()
    own_server.start()
    assert (await own_queue.counts()).lanes[Lane.EVENTS].queued == 1200


async def test_a_copy_goes_on_while_redis_is_away_and_its_result_is_recorded_when_it_is_back(
    own_server: RedisServer, own_queue: Queue
) -> None:
    started, finished = asyncio.Event(), asyncio.Event()
    gate = asyncio.Event()
    runs: list[int] = []

    async def handle(running: Running) -> dict[str, Any]:
        runs.append(running.tries)
        started.set()
        await gate.wait()
        finished.set()
        return {}

    async with working(own_queue, handle, lease=0.6), working(own_queue, handle, lease=0.6):
        await own_queue.enqueue([Job(A, {})], Lane.EVENTS, run="run")
        await started.wait()
        own_server.kill()
        await asyncio.sleep(1.2)  # two leases
        gate.set()
        await finished.wait()
        await asyncio.sleep(0.2)
        own_server.start()
        async with asyncio.timeout(5):
            async for told in own_queue.finished("run"):
                assert told.outcome == {}
                break
        await idle(own_queue)
    assert runs == [1]


async def test_a_copy_keeps_its_lease_through_an_outage_longer_than_it(
    own_server: RedisServer, own_queue: Queue, handler: Recorder
) -> None:
    handler.gate.clear()
    async with working(own_queue, handler, lease=1.0), working(own_queue, handler, lease=1.0):
        await own_queue.enqueue([Job(A, {})], Lane.EVENTS)
        await handler.started(1)
        own_server.kill()
        await asyncio.sleep(2)
        own_server.start()
        await asyncio.sleep(1.5)
        assert (len(handler.runs), handler.cancelled) == (1, 0)
        handler.gate.set()
        await idle(own_queue)


async def test_the_fence_waits_for_redis(own_server: RedisServer, own_queue: Queue) -> None:
    started, gate, confirmed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tries: list[int] = []

    async def handle(running: Running) -> dict[str, Any]:
        tries.append(running.tries)
        started.set()
        await gate.wait()
        await running.confirm()
        running.answered()
        confirmed.set()
        return {}

    async with working(own_queue, handle, lease=1.0):
        await own_queue.enqueue([Job(A, {})], Lane.EVENTS)
        await started.wait()
        own_server.kill()
        gate.set()
        await asyncio.sleep(0.5)
        assert not confirmed.is_set()
        own_server.start()
        await asyncio.wait_for(confirmed.wait(), 5)
        await idle(own_queue)
    assert tries == [1]


async def test_a_worker_that_starts_before_redis_does_waits_for_it(
    own_server: RedisServer, own_queue: Queue, handler: Recorder
) -> None:
    await own_queue.enqueue([Job(A, {})], Lane.EVENTS)
    own_server.kill()
    with structlog.testing.capture_logs() as logs:
        async with await Queue.connect(own_server.url, deadline=0.2) as late, working(late, handler):
            await asyncio.sleep(1.5)
            own_server.start()
            await handler.started(1)
            await idle(late)
    events = [entry["event"] for entry in logs]
    assert "queue unavailable" in events
    assert "queue available" in events
    assert events.count("queue unavailable") == 2, "once at the start and once by the worker, not at every attempt"


async def test_a_worker_can_be_stopped_while_redis_is_away(
    own_server: RedisServer, own_queue: Queue, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.worker._HAND_BACK_SECONDS", 0.3)
    handler.gate.clear()
    async with working(own_queue, handler, drain=0.1, lease=1.0):
        await own_queue.enqueue([Job(A, {})], Lane.EVENTS)
        await handler.started(1)
        own_server.kill()
    own_server.start()
    handler.gate.set()
    async with working(own_queue, handler, lease=1.0):
        await handler.started(2)
        await idle(own_queue)
    assert [run.tries for run in handler.runs] == [1, 1]


async def test_a_redis_out_of_memory_takes_no_work_but_gets_rid_of_what_it_has(
    own_server: RedisServer, own_queue: Queue, handler: Recorder
) -> None:
    await own_queue.enqueue([Job(f"r.example/a:{n}", {}) for n in range(20)], Lane.EVENTS, run="run")
    await own_queue.redis.config_set("maxmemory", "1")
    with pytest.raises(QueueUnavailable, match="maxmemory"):
        await own_queue.ping()
    with pytest.raises(QueueUnavailable, match="maxmemory"):
        await own_queue.enqueue([Job("r.example/b:1", {})], Lane.EVENTS)
    async with working(own_queue, handler):
        await handler.started(20)
        await idle(own_queue)
    assert {run.id for run in handler.runs} == {f"r.example/a:{n}" for n in range(20)}
    assert await own_queue.redis.xlen(f"{own_queue.prefix}:finished:run") == 20


async def test_a_redis_that_takes_no_writes_is_not_ready(
    own_queue: Queue, short_dir: Path, server: RedisServer
) -> None:
    await own_queue.redis.config_set("min-replicas-to-write", "1")
    with pytest.raises(QueueUnavailable):
        await own_queue.ping()
    await own_queue.redis.config_set("min-replicas-to-write", "0")
    await own_queue.ping()
    await own_queue.redis.replicaof("127.0.0.1", 1)
    with pytest.raises(QueueUnavailable, match=r"(?i)read.?only"):
        await own_queue.ping()


async def test_a_redis_that_may_evict_is_warned_of(own_server: RedisServer, own_queue: Queue) -> None:
    await own_queue.redis.config_set("maxmemory-policy", "allkeys-lru")
    with structlog.testing.capture_logs() as logs:
        async with await Queue.connect(own_server.url):
            pass
    assert [entry["maxmemory_policy"] for entry in logs if entry["event"] == "queue may be evicted"] == ["allkeys-lru"]


async def test_a_redis_that_forgot_the_scripts_is_given_them_again(own_queue: Queue) -> None:
    await own_queue.enqueue([Job(A, {})], Lane.EVENTS)
    await own_queue.redis.script_flush()
    await own_queue.enqueue([Job(A, {})], Lane.EVENTS)


async def test_a_lost_answer_to_a_start_costs_no_lease_time(
    own_server: RedisServer, short_dir: Path, handler: Recorder
) -> None:
    async with (
        CuttingProxy(short_dir / "mute.sock", own_server.socket) as proxy,
        await Queue.connect(own_server.url) as direct,
        await Queue.connect(proxy.url) as client,
        working(client, handler, lease=30),
    ):
        # From then on its scripts are loaded: each request is one step.
        await direct.enqueue([Job("r.example/b:1", {})], Lane.EVENTS)
        await handler.started(1)
        await idle(direct)
        proxy.mute_answers = True
        await direct.enqueue([Job(A, {})], Lane.EVENTS)

        async def started() -> bool:
            return (await direct.counts()).lanes[Lane.EVENTS].running == 1

        await eventually(started, timeout=30)  # by its poll: it heard nothing of the announcement either
        proxy.mute_answers = False
        proxy.cut()
        # Less than the lease, which is 30 s.
        await handler.started(2, timeout=20)
        await idle(client)
    assert [run.id for run in handler.runs] == ["r.example/b:1", A]


async def test_after_an_outage_longer_than_a_third_of_a_lease_nothing_is_taken_over_for_half_a_lease() -> None:
    contact = RedisHealth(lease=0.6)
    assert not contact.takeover, "a worker that just started does not know what was before"
    await asyncio.sleep(0.35)
    assert contact.takeover
    contact.failed(OSError("a blip"))
    assert not contact.takeover
    contact.succeeded()
    assert contact.takeover
    contact.failed(OSError("an outage"))
    await asyncio.sleep(0.25)
    contact.succeeded()
    assert not contact.takeover
    await asyncio.sleep(0.35)
    assert contact.takeover
