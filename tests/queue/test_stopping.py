"""Stopping a worker: it drains, hands back what is not done, counts no attempt; a second request stops it at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from replicator.queue import Job, Lane, Queue, Running, Worker
from replicator.queue.attempt import StartedJob
from tests.queue.conftest import QUICK, Recorder, eventually, idle, working

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

A, B = "r.example/a:1", "r.example/b:1"


def start(
    queue: Queue, handler: Callable[[Running], Awaitable[Any]], **settings: Any
) -> tuple[Worker, asyncio.Task[None]]:
    settings = {"concurrency": {Lane.EVENTS: 1}, "policy": QUICK, "drain": 10, **settings}
    worker = Worker(queue, handler, **settings)
    return worker, asyncio.create_task(worker.run())


async def test_stopping_lets_running_jobs_end_and_takes_no_new_ones(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    await queue.enqueue([Job(A, {}), Job(B, {})], Lane.EVENTS)
    worker, task = start(queue, handler)
    await handler.started(1)
    worker.stop()
    await asyncio.sleep(0.1)
    assert not task.done()
    handler.gate.set()
    await asyncio.wait_for(task, 2)
    assert (len(handler.runs), handler.cancelled) == (1, 0)
    assert (await queue.counts()).lanes[Lane.EVENTS].queued == 1


async def test_what_is_not_done_when_the_drain_time_is_over_is_handed_back_first_in_line_without_an_attempt(
    queue: Queue, handler: Recorder
) -> None:
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await asyncio.sleep(0.005)
    await queue.enqueue([Job(B, {})], Lane.EVENTS)
    for _ in range(6):
        started = len(handler.runs)
        worker, task = start(queue, handler, drain=0.05)
        await handler.started(started + 1)
        worker.stop()
        await asyncio.wait_for(task, 2)
    counts = (await queue.counts()).lanes[Lane.EVENTS]
    assert (counts.queued, counts.running) == (2, 0)
    handler.gate.set()
    async with working(queue, handler, concurrency={Lane.EVENTS: 1}):
        await handler.started(8)
        await idle(queue)
    assert [(run.id, run.tries) for run in handler.runs] == [(A, 1)] * 7 + [(B, 1)]


async def test_a_second_stop_ends_at_once(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    worker, task = start(queue, handler, drain=60)
    await handler.started(1)
    worker.stop()
    await asyncio.sleep(0.05)
    assert not task.done()
    worker.stop()
    await asyncio.wait_for(task, 1)
    assert (await queue.counts()).lanes[Lane.EVENTS].queued == 1


async def test_cancelling_the_worker_hands_its_jobs_back_too(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    _, task = start(queue, handler)
    await handler.started(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 2)
    assert (await queue.counts()).lanes[Lane.EVENTS].queued == 1
    assert await queue.workers() == []


async def test_a_handler_that_answers_its_cancellation_with_an_error_counts_no_attempt(queue: Queue) -> None:
    started = asyncio.Event()

    async def handle(_: Running) -> dict[str, Any]:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError("the upload was cut off") from None
        return {}

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    worker, task = start(queue, handle, drain=0)
    await started.wait()
    worker.stop()
    await asyncio.wait_for(task, 2)
    assert (await queue.counts()).lanes[Lane.EVENTS].queued == 1
    assert await queue.waiting() == []


async def test_a_handler_that_ignores_its_cancellation_does_not_hold_up_the_end_for_long(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.worker._HAND_BACK_SECONDS", 0.3)
    started = asyncio.Event()

    async def handle(running: Running) -> dict[str, Any]:
        started.set()
        for _ in range(3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue
        return {}

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    worker, task = start(queue, handle, drain=0)
    await started.wait()
    worker.stop()
    await asyncio.wait_for(task, 2)


async def test_a_handed_back_job_is_picked_up_by_another_worker_at_once(
    queue: Queue, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.lane.POLL_SECONDS", 60.0)
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    worker, task = start(queue, handler, drain=0, lease=30)
    await handler.started(1)
    async with working(queue, handler, lease=30):
        await asyncio.sleep(0.1)
        worker.stop()
        await task
        await handler.started(2)
        handler.gate.set()
        await idle(queue)


async def test_a_job_whose_lease_was_taken_in_the_moment_of_stopping_is_handed_back_unstarted(
    queue: Queue, handler: Recorder
) -> None:
    async with working(queue, handler) as worker:
        await eventually(queue.workers)
        lane = worker._lanes[0]
        lane.stop_picking()
        lane.cancel_jobs()
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        _, reply = await queue.run_script("claim", Lane.EVENTS, 1, "w:1", "w", 30_000, 0, 0)
        lane._start(StartedJob.read(reply))
        await asyncio.wait_for(asyncio.gather(*lane.tasks.values()), 2)
    assert handler.runs == []
    assert (await queue.counts()).lanes[Lane.EVENTS].queued == 1


async def test_a_stop_before_the_start_ends_it_right_away(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    worker = Worker(queue, handler, concurrency={Lane.EVENTS: 1})
    worker.stop()
    await asyncio.wait_for(worker.run(), 2)
    assert handler.runs == []


async def test_workers_show_themselves_and_say_goodbye(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler, concurrency={Lane.EVENTS: 2, Lane.BACKFILL: 3}) as worker:
        [info] = await eventually(queue.workers)
        assert info.id == worker.id
        assert info.concurrency == {Lane.EVENTS: 2, Lane.BACKFILL: 3}
        assert info.started <= info.seen
        handler.gate.set()
    assert await queue.workers() == []
