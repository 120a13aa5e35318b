"""One destination is one job: merged while queued, never overlapping, run again when enqueued while running."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from replicator.errors import ErrorClass
from replicator.queue import DeadLetters, Job, JsonValue, Lane, Queue, RetryPolicy, Running
from tests.queue.conftest import Recorder, eventually, idle, working
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer

ONE = {Lane.EVENTS: 1, Lane.BACKFILL: 1}


async def test_an_enqueued_job_runs_with_its_payload_and_then_leaves_nothing_behind(
    queue: Queue, handler: Recorder
) -> None:
    await queue.enqueue([Job("r.example/a:1", {"source": "h.example/a:1", "n": 1})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1)
        await idle(queue)
    assert handler.payloads == [{"source": "h.example/a:1", "n": 1}]
    assert (handler.runs[0].id, handler.runs[0].lane, handler.runs[0].tries) == ("r.example/a:1", Lane.EVENTS, 1)
    left = {key.decode() for key in await queue.redis.keys(f"*{queue.prefix}*")}
    assert left == {f"{queue.prefix}:{name}" for name in ("seq", "ping", "clock")}


async def test_pushes_of_one_tag_before_it_runs_are_one_copy_with_the_newest_payload(
    queue: Queue, handler: Recorder
) -> None:
    for n in range(5):
        await queue.enqueue([Job("r.example/a:1", {"n": n})], Lane.EVENTS)
    await queue.enqueue([Job("r.example/b:1", {"n": 8}), Job("r.example/b:1", {"n": 9})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(2)
        await idle(queue)
    assert sorted(payload["n"] for payload in handler.payloads) == [4, 9]


async def test_an_enqueue_tells_how_many_were_not_pending_before(queue: Queue, handler: Recorder) -> None:
    a, b, c = (Job(f"r.example/{name}:1", {}) for name in "abc")
    assert await queue.enqueue([a], Lane.EVENTS) == 1
    assert await queue.enqueue([a, b, b], Lane.BACKFILL) == 1
    assert await queue.enqueue([b, a], Lane.EVENTS) == 0
    handler.gate.clear()
    async with working(queue, handler):
        await handler.started(2)
        assert await queue.enqueue([a, b, c], Lane.BACKFILL) == 1, "what runs is pending"
        handler.gate.set()
        await handler.started(5)
        await idle(queue)
    assert await queue.enqueue([a, b, c], Lane.BACKFILL) == 3
    many = [Job(f"r.example/a:{n}", {}) for n in range(1200)]
    assert await queue.enqueue(many, Lane.BACKFILL) == 1199
    assert await queue.enqueue([], Lane.BACKFILL) == 0


async def test_what_waits_for_a_retry_is_pending_and_a_dead_letter_is_not(queue: Queue, handler: Recorder) -> None:
    job = Job("r.example/a:1", {})
    handler.errors = [Fault(ErrorClass.TRANSIENT), Fault(ErrorClass.PERMANENT)]
    async with working(queue, handler, policy=RetryPolicy(first=60, cap=60, horizon=3600)):
        await queue.enqueue([job], Lane.EVENTS)
        await eventually(queue.waiting)
        handler.gate.clear()
        assert await queue.enqueue([job], Lane.BACKFILL) == 0
        handler.gate.set()
        await eventually(DeadLetters(queue).all)
        assert await queue.enqueue([job], Lane.BACKFILL) == 1


async def test_a_push_during_a_copy_is_copied_again_after_it_and_not_beside_it(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    async with working(queue, handler):
        await queue.enqueue([Job("r.example/a:1", {"n": 1})], Lane.EVENTS)
        await handler.started(1)
        await queue.enqueue([Job("r.example/a:1", {"n": 2})], Lane.EVENTS)
        await queue.enqueue([Job("r.example/a:1", {"n": 3})], Lane.EVENTS)
        await asyncio.sleep(0.2)
        counts = (await queue.counts()).lanes[Lane.EVENTS]
        assert (counts.queued, counts.running, counts.waiting) == (0, 1, 0)
        assert len(handler.runs) == 1
        handler.gate.set()
        await handler.started(2)
        await idle(queue)
    assert [payload["n"] for payload in handler.payloads] == [1, 3]
    assert handler.overlaps == 0


async def test_a_push_during_a_copy_in_another_process_is_copied_again(
    queue: Queue, server: RedisServer, handler: Recorder
) -> None:
    handler.gate.clear()
    async with (
        await Queue.connect(server.url, prefix=queue.prefix) as other,
        working(queue, handler),
        working(other, handler),
    ):
        await other.enqueue([Job("r.example/a:1", {"n": 1})], Lane.EVENTS)
        await handler.started(1)
        await other.enqueue([Job("r.example/a:1", {"n": 2})], Lane.EVENTS)
        await asyncio.sleep(0.2)
        handler.gate.set()
        await handler.started(2)
        await idle(queue)
    assert handler.overlaps == 0
    assert [payload["n"] for payload in handler.payloads] == [1, 2]


async def test_an_event_moves_a_waiting_backfill_job_into_the_events_lane(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([Job("r.example/a:1", {"n": 1})], Lane.BACKFILL)
    await queue.enqueue([Job("r.example/a:1", {"n": 2})], Lane.EVENTS)
    counts = await queue.counts()
    assert (counts.lanes[Lane.EVENTS].queued, counts.lanes[Lane.BACKFILL].queued) == (1, 0)
    async with working(queue, handler, concurrency={Lane.EVENTS: 1}):
        await handler.started(1)
        await idle(queue)
    assert handler.runs[0].lane is Lane.EVENTS


async def test_a_backfill_never_moves_an_event_back(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([Job("r.example/a:1", {"n": 1})], Lane.EVENTS)
    await queue.enqueue([Job("r.example/a:1", {"n": 2})], Lane.BACKFILL)
    counts = await queue.counts()
    assert (counts.lanes[Lane.EVENTS].queued, counts.lanes[Lane.BACKFILL].queued) == (1, 0)
    async with working(queue, handler, concurrency={Lane.EVENTS: 1}):
        await handler.started(1)
        await idle(queue)
    assert handler.payloads == [{"n": 2}]


async def test_an_event_for_what_a_backfill_runs_is_run_again_in_the_events_lane(
    queue: Queue, handler: Recorder
) -> None:
    handler.gate.clear()
    async with working(queue, handler):
        await queue.enqueue([Job("r.example/a:1", {"n": 1})], Lane.BACKFILL)
        await handler.started(1)
        await queue.enqueue([Job("r.example/a:1", {"n": 2})], Lane.EVENTS)
        handler.gate.set()
        await handler.started(2)
        await idle(queue)
    assert [run.lane for run in handler.runs] == [Lane.BACKFILL, Lane.EVENTS]


async def test_an_event_starts_although_every_slot_and_the_queue_are_full_of_backfill(queue: Queue) -> None:
    block = asyncio.Event()
    begun = asyncio.Event()

    async def handle(running: Running) -> dict[str, JsonValue]:
        if running.lane is Lane.EVENTS:
            begun.set()
        else:
            await block.wait()
        return {}

    await queue.enqueue([Job(f"r.example/b:{n}", {}) for n in range(10_000)], Lane.BACKFILL)
    async with working(queue, handle, concurrency={Lane.EVENTS: 2, Lane.BACKFILL: 8}, drain=0):

        async def full() -> bool:
            return (await queue.counts()).lanes[Lane.BACKFILL].running == 8

        await eventually(full)
        await queue.enqueue([Job("r.example/event:1", {})], Lane.EVENTS)
        await asyncio.wait_for(begun.wait(), 5)
        assert (await queue.counts()).lanes[Lane.BACKFILL].queued == 9_992


async def test_an_event_behind_ten_thousand_backfill_jobs_is_among_the_next_to_start(
    queue: Queue, handler: Recorder
) -> None:
    slots = 4
    await queue.enqueue([Job(f"r.example/b:{n}", {}) for n in range(10_000)], Lane.BACKFILL)
    async with working(queue, handler, concurrency={Lane.EVENTS: 1, Lane.BACKFILL: slots}):
        for number in range(5):
            # They run as fast as they can; what counts is how many of them start before the event does.
            await handler.started(len(handler.runs) + 10 * slots)
            await queue.enqueue([Job(f"r.example/event:{number}", {})], Lane.EVENTS)
            taken = len(handler.runs)

            async def begun(after: int = number) -> bool:
                return sum(run.lane is Lane.EVENTS for run in handler.runs) > after

            await eventually(begun)
            events = [place for place, run in enumerate(handler.runs) if run.lane is Lane.EVENTS]
            assert events[-1] < taken + 25 * slots
        assert len(handler.runs) < 10_000, "the backfill was still going on"


async def test_work_is_run_in_the_order_it_came(queue: Queue, handler: Recorder) -> None:
    for n in range(5):
        await queue.enqueue([Job(f"r.example/a:{9 - n}", {})], Lane.EVENTS)
        await asyncio.sleep(0.003)
    async with working(queue, handler, concurrency=ONE):
        await handler.started(5)
        await idle(queue)
    assert [run.id[-1] for run in handler.runs] == ["9", "8", "7", "6", "5"]


async def test_two_installations_share_one_redis_and_see_nothing_of_each_other(
    queue: Queue, server: RedisServer, handler: Recorder
) -> None:
    other_handler = Recorder()
    async with await Queue.connect(server.url, prefix=f"{queue.prefix}-2") as other:
        await queue.enqueue([Job("r.example/a:1", {"of": 1})], Lane.EVENTS)
        await other.enqueue([Job("r.example/a:1", {"of": 2})], Lane.EVENTS)
        async with working(other, other_handler):
            await other_handler.started(1)
            await idle(other)
        assert (await queue.counts()).lanes[Lane.EVENTS].queued == 1
        async with working(queue, handler):
            await handler.started(1)
            await idle(queue)
    assert (handler.payloads, other_handler.payloads) == ([{"of": 1}], [{"of": 2}])


async def test_queued_work_never_expires(queue: Queue) -> None:
    await queue.enqueue([Job("r.example/a:1", {}, retries=3)], Lane.EVENTS, run="x")
    for key in await queue.redis.keys(f"*{queue.prefix}*"):
        if not key.endswith(b":ping"):
            assert await queue.redis.ttl(key) == -1, key


async def test_a_copy_for_two_runs_is_counted_by_the_one_that_made_it_or_else_by_the_last(
    queue: Queue, handler: Recorder
) -> None:
    here = f"{socket.gethostname()}:{os.getpid()}"
    cases = {"others": (f"backfill-h:1:{'a' * 12}", f"backfill-h:2:{'b' * 12}"), "ours": (f"backfill-{here}:c", "x")}
    for name, runs in cases.items():
        for run in runs:
            await queue.enqueue([Job(f"r.example/{name}:1", {})], Lane.BACKFILL, run=run)
    async with working(queue, handler):
        await idle(queue)
    shared = {}
    for run in (run for runs in cases.values() for run in runs):
        shared[run] = (await anext(queue.finished(run))).shared
    assert list(shared.values()) == [True, False, False, True]


async def test_a_run_that_asks_while_another_s_copy_is_made_does_not_count_it(queue: Queue, handler: Recorder) -> None:
    ours, job = f"backfill-{socket.gethostname()}:{os.getpid()}:c", Job("r.example/a:1", {})
    handler.gate.clear()
    await queue.enqueue([job], Lane.BACKFILL, run="other")
    async with working(queue, handler):
        await handler.started(1)
        await queue.enqueue([job], Lane.BACKFILL, run=ours)
        handler.gate.set()
        await idle(queue)
    assert len(handler.runs) == 2
    # Each of the two attempts has a run that counts it.
    assert [(await anext(queue.finished(run))).shared for run in ("other", ours)] == [False, False]
