"""An observer hears of each attempt once, as Redis took it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from replicator.errors import ErrorClass
from replicator.queue import Attempt, AttemptEnd, Job, Lane, Queue, RetryPolicy, Running
from replicator.queue.job import RunningRecord
from tests.queue.conftest import Recorder, eventually, idle, working
from tests.queue.servers import CuttingProxy
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.queue.servers import RedisServer

A = "r.example/a:1"


class Counter:
    """Keeps what is reported to it."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.lost = 0

    def attempt_ended(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def lease_lost(self) -> None:
        self.lost += 1


async def test_every_attempt_is_reported_once_with_its_end(queue: Queue, handler: Recorder) -> None:
    seen = Counter()
    handler.errors = [Fault(ErrorClass.TRANSIENT), Fault(ErrorClass.NOT_YET), Fault(ErrorClass.PERMANENT)]
    await queue.enqueue([Job(A, {"n": 1})], Lane.EVENTS)
    async with working(queue, handler, observer=seen):
        await handler.started(3)
        await idle(queue)
        await queue.enqueue([Job(A, {"n": 2})], Lane.BACKFILL)
        await handler.started(4)
        await idle(queue)
    assert [(a.end, a.error_class, a.lane, a.payload) for a in seen.attempts] == [
        (AttemptEnd.RETRIED, ErrorClass.TRANSIENT, Lane.EVENTS, {"n": 1}),
        (AttemptEnd.RETRIED, ErrorClass.NOT_YET, Lane.EVENTS, {"n": 1}),
        (AttemptEnd.DEAD, ErrorClass.PERMANENT, Lane.EVENTS, {"n": 1}),
        (AttemptEnd.DONE, None, Lane.BACKFILL, {"n": 2}),
    ]
    assert [attempt.outcome for attempt in seen.attempts] == [None, None, None, {"copied": A}]
    assert seen.lost == 0


async def test_the_lag_is_counted_from_the_push_and_reported_of_what_went_well(queue: Queue, handler: Recorder) -> None:
    seen = Counter()
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    await queue.enqueue([Job(A, {}, pushed=datetime.now(UTC) - timedelta(hours=1))], Lane.EVENTS)
    async with working(queue, handler, observer=seen):
        await handler.started(2)
        await idle(queue)
    failed, done = seen.attempts
    assert failed.lag is None
    assert done.lag is not None
    assert 3600 <= done.lag < 3700


def test_the_lag_goes_by_the_clock_of_redis_whatever_that_of_the_worker_shows() -> None:
    pushed = datetime(2020, 1, 1, tzinfo=UTC)
    record = RunningRecord("t", Lane.EVENTS, "w", pushed + timedelta(seconds=230), 0, 0, 0, 0, pushed)
    assert record.lag(2.0) == 232.0
    assert replace(record, pushed=None).lag(2.0) is None


async def test_a_push_from_a_clock_ahead_of_ours_has_no_lag_below_zero(queue: Queue, handler: Recorder) -> None:
    seen = Counter()
    await queue.enqueue([Job(A, {}, pushed=datetime.now(UTC) + timedelta(hours=1))], Lane.EVENTS)
    async with working(queue, handler, observer=seen):
        await handler.started(1)
        await idle(queue)
    assert [attempt.lag for attempt in seen.attempts] == [0.0]


async def test_a_final_failure_of_a_job_enqueued_meanwhile_is_retried(queue: Queue, handler: Recorder) -> None:
    seen = Counter()
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, observer=seen):
        await handler.started(1)
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        handler.gate.set()
        await handler.started(2)
        await idle(queue)
    assert [attempt.end for attempt in seen.attempts] == [AttemptEnd.RETRIED, AttemptEnd.DONE]


async def test_what_is_handed_back_is_no_attempt(queue: Queue, handler: Recorder) -> None:
    seen = Counter()
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, drain=0.01, observer=seen):
        await handler.started(1)
    assert (await queue.counts()).lanes[Lane.EVENTS].queued == 1
    assert (seen.attempts, seen.lost) == ([], 0)


async def test_a_job_that_is_anothers_by_now_is_a_lost_lease_and_no_attempt(queue: Queue, handler: Recorder) -> None:
    seen = Counter()
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, lease=0.6, observer=seen):
        await handler.started(1)
        await queue.redis.set(f"arq:in-progress:{queue.prefix}:{A}", "another", px=30_000)

        async def lost() -> bool:
            return seen.lost > 0

        await eventually(lost)
        handler.gate.set()
    assert (seen.attempts, seen.lost) == ([], 1)


async def test_a_lost_lease_counts_once_though_its_job_goes_on_to_its_end(queue: Queue) -> None:
    seen, began = Counter(), asyncio.Event()

    async def stubborn(_: Running) -> dict[str, Any]:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {}

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, stubborn, lease=0.6, observer=seen):
        await began.wait()
        await queue.redis.set(f"arq:in-progress:{queue.prefix}:{A}", "another", px=30_000)

        async def lost() -> bool:
            return seen.lost > 0

        await eventually(lost)
    assert (seen.attempts, seen.lost) == ([], 1)


async def test_a_lease_that_is_found_lost_at_the_end_counts_once(queue: Queue, handler: Recorder) -> None:
    seen = Counter()
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, lease=30, observer=seen):
        await handler.started(1)
        await queue.redis.set(f"arq:in-progress:{queue.prefix}:{A}", "another", px=30_000)
        handler.gate.set()

        async def lost() -> bool:
            return seen.lost > 0

        await eventually(lost)
    assert (seen.attempts, seen.lost) == ([], 1)


async def test_an_attempt_that_ends_while_redis_is_away_is_reported_when_it_is_back(
    queue: Queue, server: RedisServer, handler: Recorder, short_dir: Path
) -> None:
    seen = Counter()
    handler.gate.clear()
    async with (
        CuttingProxy(short_dir / "observed.sock", server.socket) as proxy,
        await Queue.connect(proxy.url, prefix=queue.prefix) as own,
    ):
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        async with working(own, handler, policy=RetryPolicy(), lease=30, observer=seen):
            await handler.started(1)
            proxy.refusing = True
            proxy.cut()
            handler.gate.set()
            await asyncio.sleep(0.2)
            assert seen.attempts == []
            proxy.refusing = False
            await idle(queue)

            async def heard() -> bool:
                return bool(seen.attempts)

            await eventually(heard)
    assert [attempt.end for attempt in seen.attempts] == [AttemptEnd.DONE]
