"""An attempt knows the oldest push that it serves, from which its lag is counted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from replicator.errors import ErrorClass
from replicator.queue import DeadLetters, Job, Lane, Queue, RetryPolicy
from replicator.queue.attempt import StartedJob
from tests.queue.conftest import Recorder, eventually, idle, working
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

A = "r.example/a:1"
OLD = datetime(2026, 1, 1, tzinfo=UTC)
NEW = OLD + timedelta(seconds=90)
LATER = RetryPolicy(first=60, cap=60, horizon=3600)


def pushed(at: datetime | None) -> Job:
    return Job(A, {}, pushed=at)


async def run_all(queue: Queue, handler: Recorder, number: int) -> list[datetime | None]:
    """Run what is queued; return the oldest push that each attempt served."""
    async with working(queue, handler):
        await handler.started(number)
        await idle(queue)
    return [run.pushed for run in handler.runs]


async def start(
    queue: Queue, token: str = "w:1", *, takeover: int = 0, again: int = 0, lease_ms: int = 30_000
) -> StartedJob:
    _, reply = await queue.run_script("claim", Lane.EVENTS, 1, token, "w", lease_ms, takeover, again)
    return StartedJob.read(reply)


@pytest.mark.parametrize(
    ("pushes", "oldest"),
    [
        ([OLD], OLD),
        ([None], None),
        ([OLD, NEW], OLD),
        ([NEW, OLD], OLD),
        ([OLD, None], OLD),
        ([None, NEW], NEW),
    ],
)
@pytest.mark.parametrize("together", [False, True])
async def test_of_merged_jobs_the_oldest_push_counts(
    queue: Queue,
    handler: Recorder,
    pushes: Sequence[datetime | None],
    oldest: datetime | None,
    together: bool,
) -> None:
    jobs = [pushed(at) for at in pushes]
    for batch in [jobs] if together else [[job] for job in jobs]:
        await queue.enqueue(batch, Lane.EVENTS)
    assert await run_all(queue, handler, 1) == [oldest]


async def test_a_push_is_waited_for_whatever_a_backfill_asks_before_or_after_it(
    queue: Queue, handler: Recorder
) -> None:
    await queue.enqueue([pushed(None)], Lane.BACKFILL)
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    await queue.enqueue([pushed(None)], Lane.BACKFILL)
    assert await run_all(queue, handler, 1) == [OLD]


async def test_a_push_during_a_copy_is_served_by_the_next_one_alone(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1)
        await queue.enqueue([pushed(NEW)], Lane.EVENTS)
        handler.gate.set()
        await handler.started(2)
        await idle(queue)
    assert [run.pushed for run in handler.runs] == [OLD, NEW]


async def test_a_failed_attempt_leaves_its_push_to_the_next_one(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT), Fault(ErrorClass.NOT_YET)]
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    assert await run_all(queue, handler, 3) == [OLD, OLD, OLD]


async def test_a_push_of_what_waits_for_its_retry_is_no_older_than_the_one_that_waits(
    queue: Queue, handler: Recorder
) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    async with working(queue, handler, policy=LATER):
        await handler.started(1)

        async def waits() -> bool:
            return (await queue.counts()).lanes[Lane.EVENTS].waiting == 1

        await eventually(waits)
        await queue.enqueue([pushed(NEW)], Lane.EVENTS)
        await handler.started(2)
        await idle(queue)
    assert [run.pushed for run in handler.runs] == [OLD, OLD]


@pytest.mark.parametrize("error_class", [ErrorClass.TRANSIENT, ErrorClass.PERMANENT])
async def test_what_failed_while_it_was_pushed_again_is_waited_for_since_the_first_push(
    queue: Queue, handler: Recorder, error_class: ErrorClass
) -> None:
    handler.errors = [Fault(error_class)]
    handler.gate.clear()
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1)
        await queue.enqueue([pushed(NEW)], Lane.EVENTS)
        handler.gate.set()
        await handler.started(2)
        await idle(queue)
    assert [run.pushed for run in handler.runs] == [OLD, OLD]


async def test_a_push_outlives_the_worker_that_began_to_serve_it(queue: Queue) -> None:
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    assert (await start(queue, "w:1", lease_ms=1)).record.pushed == OLD
    await queue.enqueue([pushed(NEW)], Lane.EVENTS)
    await asyncio.sleep(0.01)
    assert (await start(queue, "w:2", takeover=1)).record.pushed == OLD


async def test_a_start_that_is_asked_for_again_has_the_same_push(queue: Queue) -> None:
    await queue.enqueue([pushed(NEW)], Lane.EVENTS)
    assert (await start(queue)).record.pushed == NEW
    assert (await start(queue, again=1)).record.pushed == NEW
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    assert (await start(queue, again=1)).record.pushed == OLD


async def test_what_was_handed_back_is_waited_for_as_before(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    async with working(queue, handler, drain=0.01):
        await handler.started(1)
    handler.gate.set()
    assert await run_all(queue, handler, 2) == [OLD, OLD]


async def test_nobody_waits_for_a_dead_letter(queue: Queue, handler: Recorder) -> None:
    """A person has to look after it; how long that takes is not how long copies take."""
    handler.errors = [Fault(ErrorClass.PERMANENT), Fault(ErrorClass.PERMANENT)]
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    await run_all(queue, handler, 1)
    assert [key async for key in queue.redis.scan_iter(f"{queue.prefix}:pushed")] == []
    await DeadLetters(queue).retry()
    await run_all(queue, handler, 2)
    await queue.enqueue([pushed(NEW)], Lane.EVENTS)
    assert await run_all(queue, handler, 3) == [OLD, None, NEW]


async def test_what_was_served_is_waited_for_no_more(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([pushed(OLD)], Lane.EVENTS)
    await run_all(queue, handler, 1)
    await queue.enqueue([pushed(None)], Lane.EVENTS)
    assert await run_all(queue, handler, 2) == [OLD, None]
    assert [key async for key in queue.redis.scan_iter(f"{queue.prefix}:pushed")] == []


@pytest.mark.parametrize("at", [None, NEW])
async def test_a_push_that_an_older_version_served_and_left_behind_does_not_count(
    queue: Queue, handler: Recorder, at: datetime | None
) -> None:
    left = int(OLD.timestamp() * 1000)
    await queue.redis.execute_command("HSET", f"{queue.prefix}:pushed", A, left)
    await queue.enqueue([pushed(at)], Lane.EVENTS)
    assert await run_all(queue, handler, 1) == [at]
