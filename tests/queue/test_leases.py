"""Leases: one worker at a time, also when workers die, hang or lose Redis; and the fence before the tag is written."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from replicator.queue import Job, Lane, LeaseLost, Queue, Running, Worker
from replicator.queue.attempt import StartedJob
from replicator.queue.job import RunningRecord, encode_running
from replicator.queue.lease import Lease
from replicator.queue.records import EPOCH
from tests.queue.conftest import QUICK, Recorder, eventually, idle, working

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer

A = "r.example/a:1"

HANG = """
import asyncio, sys
from replicator.queue import Lane, LeaseLost, Queue, Worker
async def handle(running):
    print("HANGS", flush=True)
    try:
        await asyncio.sleep(float(sys.argv[4]))
        await running.confirm()
        print("WRITES", flush=True)
        running.answered()
    except (LeaseLost, asyncio.CancelledError):
        print("STOPS", flush=True)
        raise
    return {}
async def main():
    queue = await Queue.connect(sys.argv[1], prefix=sys.argv[2])
    await Worker(queue, handle, concurrency={Lane.EVENTS: 1}, lease=float(sys.argv[3])).run()
asyncio.run(main())
"""


def hanging_worker(server: RedisServer, queue: Queue, lease: float, seconds: float = 60) -> subprocess.Popen[bytes]:
    """Start a process that takes one job and hangs in it; return when it has."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANG, server.url, queue.prefix, str(lease), str(seconds)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    limit = threading.Timer(20, process.kill)
    limit.start()
    line = process.stdout.readline()
    while b"HANGS" not in line:
        assert line, "the worker ended"
        line = process.stdout.readline()
    limit.cancel()
    return process


def lease_key(queue: Queue, job: str) -> str:
    return f"arq:in-progress:{queue.prefix}:{job}"


def test_the_time_left_is_told_at_the_mean_rate_since_the_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease("a", RunningRecord("t", Lane.EVENTS, "w", EPOCH, 0, 0, 0, 0), 0.0)
    assert not lease.has_news
    lease.bytes_done, lease.size, lease.moved_since = 25, 100, 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: 1010.0)
    assert lease.has_news
    assert (lease.current().bytes, lease.current().size, lease.current().seconds_left) == (25, 100, 30)
    lease.bytes_done = 130
    assert lease.current().seconds_left == 0, "some were read twice"
    lease.size = 0
    assert lease.current().seconds_left is None


async def test_the_job_of_a_killed_worker_is_run_by_another_when_its_lease_expires_and_no_attempt_is_counted(
    queue: Queue, server: RedisServer, handler: Recorder
) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, lease=1.0, concurrency={Lane.BACKFILL: 1}):
        process = await asyncio.to_thread(hanging_worker, server, queue, 1.0)
        async with working(queue, handler, lease=1.0):
            await asyncio.sleep(1.5)
            assert handler.runs == [], "its lease is renewed"
            process.kill()
            process.communicate()
            await handler.started(1, timeout=20)
            await idle(queue)
    assert handler.runs[0].tries == 1


async def test_a_worker_that_was_asleep_past_its_lease_writes_nothing(
    queue: Queue, server: RedisServer, handler: Recorder
) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    process = await asyncio.to_thread(hanging_worker, server, queue, 0.6, 0.05)
    os.kill(process.pid, signal.SIGSTOP)
    async with working(queue, handler, lease=0.6):
        await handler.started(1, timeout=5)
        await idle(queue)
    os.kill(process.pid, signal.SIGCONT)
    await asyncio.sleep(0.5)
    process.kill()
    told, _ = process.communicate()
    assert b"STOPS" in told
    assert b"WRITES" not in told


async def test_a_lease_taken_by_another_stops_the_copy_and_leaves_the_job_alone(
    queue: Queue, handler: Recorder
) -> None:
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, lease=0.6):
        await handler.started(1)
        await queue.redis.set(lease_key(queue, A), "another", px=60_000)

        async def stopped() -> bool:
            return handler.cancelled == 1

        await eventually(stopped)
        await asyncio.sleep(0.1)
        assert await queue.redis.get(lease_key(queue, A)) == b"another"
        assert await queue.redis.exists(f"arq:job:{queue.prefix}:{A}")


async def test_the_fence_refuses_a_worker_whose_lease_is_anothers(queue: Queue) -> None:
    results: list[str] = []
    confirmed, taken = asyncio.Event(), asyncio.Event()

    async def handle(running: Running) -> dict[str, Any]:
        await running.confirm()
        running.answered()
        confirmed.set()
        await taken.wait()
        try:
            await running.confirm()
        except LeaseLost as error:
            results.append(str(error))
            raise
        return {}

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handle, lease=30):
        await confirmed.wait()
        await queue.redis.set(lease_key(queue, A), "another", px=60_000)
        taken.set()

        async def refused() -> list[str]:
            return results

        await eventually(refused)
    assert A in results[0]


async def test_the_fence_gives_a_full_lease_from_then_on(queue: Queue) -> None:
    left: list[int] = []

    async def handle(running: Running) -> dict[str, Any]:
        await queue.redis.pexpire(lease_key(queue, A), 500)
        await running.confirm()
        running.answered()
        left.append(await queue.redis.pttl(lease_key(queue, A)))
        return {}

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handle, lease=20):
        await idle(queue)
    assert left[0] > 19_000


async def test_an_expired_lease_that_nobody_took_is_renewed_and_the_copy_goes_on(
    queue: Queue, handler: Recorder
) -> None:
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, lease=1.0):
        await handler.started(1)
        await queue.redis.delete(lease_key(queue, A))
        await asyncio.sleep(0.7)
        assert await queue.redis.exists(lease_key(queue, A))
        handler.gate.set()
        await idle(queue)
    assert len(handler.runs) == 1


async def test_a_result_counts_when_the_lease_expired_but_nobody_took_the_job(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, lease=30):
        await handler.started(1)
        await queue.redis.delete(lease_key(queue, A))
        handler.gate.set()
        await idle(queue)
    assert len(handler.runs) == 1


async def test_a_job_that_takes_its_workers_down_is_put_off_and_not_run_again_at_once(
    queue: Queue, handler: Recorder
) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    for _ in range(5):  # five workers that take it and are never heard of again
        await queue.run_script("claim", Lane.EVENTS, 1, "dead", "host:1:dead", 1, 1, 0)
        await asyncio.sleep(0.01)
    async with working(queue, handler, policy=QUICK, lease=0.2):
        await handler.started(1)
        await idle(queue)
    assert [run.tries for run in handler.runs] == [2]


async def test_a_start_whose_answer_was_lost_gives_the_same_jobs_when_asked_again(queue: Queue) -> None:
    await queue.enqueue([Job(f"r.example/a:{n}", {}) for n in range(3)], Lane.EVENTS)
    _, *first = await queue.run_script("claim", Lane.EVENTS, 2, "w:1", "w", 30_000, 0, 0)
    _, *again = await queue.run_script("claim", Lane.EVENTS, 2, "w:1", "w", 30_000, 0, 1)
    assert {reply[0] for reply in first} == {reply[0] for reply in again}
    counts = (await queue.counts()).lanes[Lane.EVENTS]
    assert (counts.queued, counts.running, counts.waiting) == (1, 2, 0)
    _, *others = await queue.run_script("claim", Lane.EVENTS, 2, "w:12", "w", 30_000, 0, 0)
    assert len(others) == 1


async def test_a_job_that_is_due_while_its_lease_lives_is_not_started_a_second_time(
    queue: Queue, handler: Recorder
) -> None:
    # Only a restored file, an older version or a clock set back can put it there.
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, lease=30):
        await handler.started(1)
        await queue.redis.zadd(queue.lane_queue(Lane.EVENTS), {f"{queue.prefix}:{A}": 0})
        _, *started = await queue.run_script("claim", Lane.EVENTS, 5, "w:2", "w", 1000, 1, 0)
        assert started == []
        score = await queue.redis.zscore(queue.lane_queue(Lane.EVENTS), f"{queue.prefix}:{A}")
        assert score is not None
        assert score > time.time() * 1000 + 20_000, "it is back at the end of its lease"
        handler.gate.set()
        await idle(queue)
    assert (len(handler.runs), handler.overlaps) == (1, 0)


async def test_a_finish_that_is_repeated_changes_nothing(queue: Queue) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    _, reply = await queue.run_script("claim", Lane.EVENTS, 1, "w:1", "w", 30_000, 0, 0)
    finish = ("finish", A, f"w:1:{A}", reply[2], Lane.EVENTS, "done", 0, 0, b"{}", b"")
    assert await queue.run_script(*finish) == b"done"
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    assert await queue.run_script(*finish) == b"lost"
    assert (await queue.counts()).lanes[Lane.EVENTS].queued == 1


@pytest.mark.parametrize(("take_over", "started"), [(0, b"r.example/b:1"), (1, b"r.example/a:1")])
async def test_jobs_of_workers_that_may_be_alive_are_left_to_them_for_a_while_and_hold_up_no_others(
    queue: Queue, take_over: int, started: bytes
) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.run_script("claim", Lane.EVENTS, 1, "w:1", "w", 1, 0, 0)
    await asyncio.sleep(0.01)
    await queue.enqueue([Job("r.example/b:1", {})], Lane.EVENTS)
    _, reply = await queue.run_script("claim", Lane.EVENTS, 1, "w:2", "w", 30_000, take_over, 0)
    assert reply[0] == started


@pytest.mark.parametrize(
    ("script", "more", "answer"), [("renew", (), []), ("confirm", ("name", 10, 10_000, 10_000), [b""])]
)
async def test_a_renewed_job_counts_as_running_for_as_long_as_it_is_renewed(
    queue: Queue, script: str, more: tuple[str | int, ...], answer: list[bytes]
) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    _, reply = await queue.run_script("claim", Lane.EVENTS, 1, "w:1", "w", 100, 0, 0)
    facts = encode_running(replace(StartedJob.read(reply).record, bytes=7))
    assert await queue.run_script(script, 30_000, A, f"w:1:{A}", facts, *more) == answer
    await asyncio.sleep(0.15)
    counts = (await queue.counts()).lanes[Lane.EVENTS]
    assert (counts.queued, counts.running, counts.waiting) == (0, 1, 0)
    assert [shown.bytes_done for shown in await queue.running()] == [7]


async def test_a_worker_runs_no_more_than_its_slots_and_fills_each_that_gets_free(
    queue: Queue, handler: Recorder
) -> None:
    handler.gate.clear()
    await queue.enqueue([Job(f"r.example/a:{n}", {}) for n in range(50)], Lane.EVENTS)
    async with working(queue, handler, concurrency={Lane.EVENTS: 3}) as worker:
        assert isinstance(worker, Worker)
        await handler.started(3)
        await asyncio.sleep(0.1)
        assert len(handler.runs) == 3
        handler.gate.set()
        await handler.started(50, timeout=3)
        await idle(queue)


async def test_entries_that_run_elsewhere_do_not_keep_an_idle_worker_from_what_is_behind_them(
    queue: Queue, handler: Recorder
) -> None:
    await queue.enqueue([Job(f"r.example/a:{n}", {}) for n in range(400)], Lane.EVENTS)
    await queue.run_script("claim", Lane.EVENTS, 399, "w:1", "w", 30_000, 0, 0)
    async with working(queue, handler, concurrency={Lane.EVENTS: 1}):
        await handler.started(1, timeout=1)
