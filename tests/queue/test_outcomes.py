"""Runs hear how their jobs ended, in any process: of an attempt that began after they asked, and exactly once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorClass
from replicator.queue import Finished, Job, Lane, Queue, RetryPolicy
from tests.queue.conftest import Recorder, eventually, idle, working
from tests.queue.servers import CuttingProxy
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.queue.servers import RedisServer

A = "r.example/a:1"


async def outcomes(queue: Queue, run: str, number: int, timeout: float = 10) -> list[Finished]:
    """Read the next outcomes of a run."""
    found: list[Finished] = []
    async with asyncio.timeout(timeout):
        async for finished in queue.finished(run):
            found.append(finished)
            if len(found) == number:
                break
    return found


async def test_a_run_hears_of_every_job_it_enqueued_and_of_no_other(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([Job(f"r.example/a:{n}", {}) for n in range(250)], Lane.BACKFILL, run="mine")
    await queue.enqueue([Job("r.example/b:1", {})], Lane.BACKFILL, run="other")
    async with working(queue, handler):
        found = await outcomes(queue, "mine", 250)
        await idle(queue)
    assert {finished.id for finished in found} == {f"r.example/a:{n}" for n in range(250)}
    assert found[0].outcome == {"copied": found[0].id}
    assert (found[0].error, found[0].error_class, found[0].tries, found[0].retrying) == (None, None, 1, False)


async def test_two_runs_that_want_one_copy_both_hear_of_it(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([Job(A, {})], Lane.BACKFILL, run="one")
    await queue.enqueue([Job(A, {})], Lane.BACKFILL, run="two")
    async with working(queue, handler):
        [one] = await outcomes(queue, "one", 1)
        [two] = await outcomes(queue, "two", 1)
        await idle(queue)
    assert replace(one, shared=False) == two
    assert len(handler.runs) == 1


async def test_a_dead_letter_is_reported_with_its_error(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    await queue.enqueue([Job(A, {})], Lane.BACKFILL, run="run")
    async with working(queue, handler):
        [finished] = await outcomes(queue, "run", 1)
    assert (finished.outcome, finished.error, finished.error_class) == (None, "a permanent fault", ErrorClass.PERMANENT)


async def test_a_run_that_asks_during_a_copy_hears_of_the_next_one(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    async with working(queue, handler):
        await queue.enqueue([Job(A, {})], Lane.EVENTS, run="early")
        await handler.started(1)
        await queue.enqueue([Job(A, {})], Lane.BACKFILL, run="late")
        handler.gate.set()
        await outcomes(queue, "early", 1)
        await outcomes(queue, "late", 1)
        await idle(queue)
    assert len(handler.runs) == 2


async def test_the_first_of_two_copies_answers_only_who_asked_before_it_began(queue: Queue) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS, run="early")
    _, reply = await queue.run_script("claim", Lane.EVENTS, 1, "w:1", "w", 30_000, 0, 0)
    await queue.enqueue([Job(A, {})], Lane.EVENTS, run="late")
    finish = ("finish", A, f"w:1:{A}", reply[2], Lane.EVENTS, "done", 0, 0, b"{}", b"")
    assert await queue.run_script(*finish) == b"queued again"
    assert await queue.redis.xlen(f"{queue.prefix}:finished:early") == 1
    assert await queue.redis.xlen(f"{queue.prefix}:finished:late") == 0


async def test_a_failure_that_is_followed_by_another_attempt_at_once_is_not_reported_yet(
    queue: Queue, handler: Recorder
) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    handler.gate.clear()
    async with working(queue, handler):
        await queue.enqueue([Job(A, {})], Lane.BACKFILL, run="run")
        await handler.started(1)
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        handler.gate.set()
        [finished] = await outcomes(queue, "run", 1)
        await idle(queue)
    assert finished.outcome is not None


async def test_an_impatient_run_hears_of_a_failure_while_a_patient_event_is_still_retried(
    queue: Queue, handler: Recorder
) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT) for _ in range(2)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.enqueue([Job(A, {}, retries=1)], Lane.BACKFILL, run="run")
    async with working(queue, handler, policy=RetryPolicy(first=0.05)):
        [finished] = await outcomes(queue, "run", 1)
        assert (finished.error, finished.tries, finished.retrying) == ("a transient fault", 2, True)
        await handler.started(3)
        await idle(queue)
    assert (await queue.counts()).dead == 0


async def test_outcomes_are_heard_across_cut_connections_each_once(
    queue: Queue, server: RedisServer, handler: Recorder, short_dir: Path
) -> None:
    async with (
        CuttingProxy(short_dir / "cut.sock", server.socket) as proxy,
        await Queue.connect(proxy.url, prefix=queue.prefix) as listener,
    ):
        await queue.enqueue([Job(f"r.example/a:{n}", {}) for n in range(60)], Lane.BACKFILL, run="run")
        collecting = asyncio.create_task(outcomes(listener, "run", 60, timeout=20))
        async with working(queue, handler, concurrency={Lane.BACKFILL: 1}):
            for _ in range(5):
                proxy.cut()
                await asyncio.sleep(0.05)
            found = await collecting
    assert sorted(finished.id for finished in found) == sorted(f"r.example/a:{n}" for n in range(60))
    assert proxy.cuts > 0


async def test_an_outcome_that_could_not_be_deleted_is_not_reported_twice(
    queue: Queue, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop, failures = queue.redis.xdel, [OSError("cut"), OSError("cut")]

    async def cut(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await drop(*arguments)

    monkeypatch.setattr(queue.redis, "xdel", cut)
    await queue.enqueue([Job(A, {})], Lane.BACKFILL, run="run")
    async with working(queue, handler):
        with pytest.raises(TimeoutError):
            await outcomes(queue, "run", 2, timeout=1.5)
    assert failures == []
    assert await queue.redis.xlen(f"{queue.prefix}:finished:run") == 0


async def test_outcomes_that_nobody_fetches_expire_after_a_day(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([Job(A, {})], Lane.BACKFILL, run="run")
    async with working(queue, handler):
        await handler.started(1)
        await idle(queue)
    assert 86_000 < await queue.redis.ttl(f"{queue.prefix}:finished:run") <= 86_400


async def test_progress_is_seen_by_others_while_a_job_runs(queue: Queue) -> None:
    gate = asyncio.Event()

    async def handle(running: object) -> dict[str, str]:
        for done in range(0, 5001, 10):
            running.progress(done, 20_000)  # type: ignore[attr-defined]  # typed as any object here
        await gate.wait()
        return {}

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handle):

        async def reported() -> bool:
            jobs = await queue.running()
            return bool(jobs) and jobs[0].bytes_done == 5000

        await eventually(reported, timeout=3)
        [job] = await queue.running()
        assert (job.id, job.lane, job.tries, job.size) == (A, Lane.EVENTS, 1, 20_000)
        assert job.seconds_left is not None
        assert job.seconds_left >= 0
        counts = (await queue.counts()).lanes[Lane.EVENTS]
        assert (counts.queued, counts.running, counts.waiting) == (0, 1, 0)
        gate.set()
        await idle(queue)
    assert await queue.running() == []


async def test_who_is_cancelled_over_the_last_outcome_ends_at_once(queue: Queue, handler: Recorder) -> None:
    """On Python 3.11 the command that is under way then swallows the cancellation."""
    await queue.enqueue([Job(A, {})], Lane.BACKFILL, run="mine")
    loop = asyncio.get_running_loop()

    async def follow() -> None:
        async for _ in queue.finished("mine"):
            # When the task waits for the command that deletes what was read.
            loop.call_soon(lambda: loop.call_soon(following.cancel))

    async with working(queue, handler):
        following = asyncio.create_task(follow())
        done, _ = await asyncio.wait({following}, timeout=10)
        following.cancel()
        assert following in done
