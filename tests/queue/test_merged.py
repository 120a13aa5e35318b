"""A job knows whether its payload is all that was asked for, or stands for several enqueues in no known order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from replicator.errors import ErrorClass
from replicator.queue import DeadLetters, Job, Lane, Queue, RetryPolicy
from tests.queue.conftest import Recorder, eventually, idle, working
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer

A = "r.example/a:1"
LATER = RetryPolicy(first=60, cap=60, horizon=3600)


async def run_all(queue: Queue, handler: Recorder, number: int) -> None:
    async with working(queue, handler):
        await handler.started(number)
        await idle(queue)


async def test_a_job_that_was_enqueued_once_is_not_merged(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([Job(A, {}), Job("r.example/b:1", {})], Lane.EVENTS)
    await run_all(queue, handler, 2)
    assert [run.merged for run in handler.runs] == [False, False]


async def test_a_job_that_fails_and_is_retried_by_itself_is_not_merged(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT), Fault(ErrorClass.TRANSIENT)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await run_all(queue, handler, 3)
    assert [run.merged for run in handler.runs] == [False, False, False]


@pytest.mark.parametrize("lane", [Lane.EVENTS, Lane.BACKFILL])
async def test_a_job_enqueued_again_while_queued_is_merged(queue: Queue, handler: Recorder, lane: Lane) -> None:
    await queue.enqueue([Job(A, {"n": 1})], lane)
    await queue.enqueue([Job(A, {"n": 2}), Job("r.example/b:1", {})], Lane.EVENTS)
    await run_all(queue, handler, 2)
    assert {run.id: run.merged for run in handler.runs} == {A: True, "r.example/b:1": False}


async def test_a_job_that_is_twice_in_one_enqueue_is_merged(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([Job(A, {"n": 1}), Job("r.example/b:1", {}), Job(A, {"n": 2})], Lane.EVENTS)
    await run_all(queue, handler, 2)
    assert {run.id: run.merged for run in handler.runs} == {A: True, "r.example/b:1": False}


async def test_a_job_enqueued_again_while_it_runs_is_merged_when_it_runs_again(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    async with working(queue, handler):
        await queue.enqueue([Job(A, {"n": 1})], Lane.EVENTS)
        await handler.started(1)
        await queue.enqueue([Job(A, {"n": 2})], Lane.EVENTS)
        handler.gate.set()
        await handler.started(2)
        await idle(queue)
    assert [(run.payload["n"], run.merged) for run in handler.runs] == [(1, False), (2, True)]


async def test_a_merged_job_stays_merged_over_its_attempts(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await run_all(queue, handler, 2)
    assert [run.merged for run in handler.runs] == [True, True]


async def test_a_job_enqueued_again_while_it_waits_for_a_retry_is_merged(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    async with working(queue, handler, policy=LATER):
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        await eventually(queue.waiting)
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        await handler.started(2)
        await idle(queue)
    assert [run.merged for run in handler.runs] == [False, True]


async def test_a_job_enqueued_over_its_dead_letter_is_merged(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    async with working(queue, handler):
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        await eventually(DeadLetters(queue).all)
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        await handler.started(2)
        await idle(queue)
    assert [run.merged for run in handler.runs] == [False, True]


async def test_a_dead_letter_that_is_retried_is_merged(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    async with working(queue, handler):
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        await eventually(DeadLetters(queue).all)
        assert await DeadLetters(queue).retry() == [A]
        await handler.started(2)
        await idle(queue)
    assert [run.merged for run in handler.runs] == [False, True]


async def test_a_job_that_was_put_back_into_the_queue_it_was_lost_from_is_merged(
    queue: Queue, handler: Recorder
) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.redis.delete(queue.lane_queue(Lane.EVENTS))
    async with working(queue, handler):
        await handler.started(1)
        await idle(queue)
    assert [run.merged for run in handler.runs] == [True]


async def test_a_job_enqueued_when_redis_lost_the_account_of_what_is_pending_is_merged(
    queue: Queue, handler: Recorder
) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.redis.delete(f"{queue.prefix}:gen")
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await run_all(queue, handler, 1)
    assert [run.merged for run in handler.runs] == [True]


async def test_after_a_merged_job_is_done_a_new_one_is_not_merged_and_nothing_is_left(
    queue: Queue, handler: Recorder
) -> None:
    async with working(queue, handler):
        for _ in range(2):
            handler.gate.clear()
            await queue.enqueue([Job(A, {})], Lane.EVENTS)
            await handler.started(len(handler.runs) + 1)
            await queue.enqueue([Job(A, {})], Lane.EVENTS)
            handler.gate.set()
            await handler.started(len(handler.runs) + 1)
            await idle(queue)
    assert [run.merged for run in handler.runs] == [False, True, False, True]
    assert not await queue.redis.exists(f"{queue.prefix}:merged")


async def test_a_merged_job_that_became_a_dead_letter_leaves_no_mark_of_its_own(
    queue: Queue, handler: Recorder
) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler):
        await eventually(DeadLetters(queue).all)
        assert not await queue.redis.exists(f"{queue.prefix}:merged")
        assert await DeadLetters(queue).drop() == [A]
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        await handler.started(2)
        await idle(queue)
    assert [run.merged for run in handler.runs] == [True, False]


async def test_a_merged_job_stays_so_when_its_worker_dies(queue: Queue, server: RedisServer, handler: Recorder) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.run_script("claim", Lane.EVENTS, 1, "dead", "host:1:dead", 1, 1, 0)
    await asyncio.sleep(0.01)
    async with working(queue, handler, lease=0.2):
        await handler.started(1)
        await idle(queue)
    assert [run.merged for run in handler.runs] == [True]
