"""Jobs that wait for a gate: due at once when it opens, and no others."""

from __future__ import annotations

import pytest

from replicator.errors import ErrorClass
from replicator.queue import Job, Lane, Queue, RetryPolicy, hasten
from tests.queue.conftest import Recorder, eventually, idle, working
from tests.queue.test_retrying import A, Fault

SCANNED, REPOSITORY = '"h.example/a:1"', '"h.example/a:'
FAR = RetryPolicy(first=3600, cap=3600, not_yet=3600, not_yet_cap=3600)


async def waiting_for(queue: Queue, *ids: str) -> None:
    async def wait() -> bool:
        return {job.id for job in await queue.waiting()} == set(ids)

    await eventually(wait)


async def test_a_job_that_waits_for_a_gate_is_due_at_once_when_it_opens(queue: Queue, handler: Recorder) -> None:
    """And no other: of another image, or after another error."""
    for job_id, error_class, source in [
        (A, ErrorClass.NOT_YET, "h.example/a:1"),
        ("r.example/a:10", ErrorClass.NOT_YET, "h.example/a:10"),
        ("r.example/b:1", ErrorClass.TRANSIENT, "h.example/a:1"),
    ]:
        handler.errors = [Fault(error_class)]
        await queue.enqueue([Job(job_id, {"source": source})], Lane.EVENTS)
        async with working(queue, handler, policy=FAR):
            await handler.started(len(handler.runs) + 1)
            await waiting_for(queue, *[run.id for run in handler.runs])
    assert await hasten(queue, ErrorClass.NOT_YET, {'"h.example/b:1"': 0}) == []
    assert await hasten(queue, ErrorClass.NOT_YET, {SCANNED: 0}) == [A]
    # It is due already.
    assert await hasten(queue, ErrorClass.NOT_YET, {SCANNED: 0}) == []
    async with working(queue, handler, policy=FAR):
        await handler.started(4)
        await waiting_for(queue, "r.example/a:10", "r.example/b:1")
    assert (handler.runs[-1].id, handler.runs[-1].tries) == (A, 2)


async def test_a_vague_reason_leaves_a_pause_and_uses_up_no_limited_retries(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.NOT_YET), Fault(ErrorClass.NOT_YET)]
    limited = "r.example/a:2"
    await queue.enqueue([Job(A, {"source": "h.example/a:1"})], Lane.EVENTS)
    await queue.enqueue([Job(limited, {"source": "h.example/a:2"}, retries=5)], Lane.BACKFILL)
    async with working(queue, handler, policy=FAR):
        await waiting_for(queue, A, limited)
    assert await hasten(queue, ErrorClass.NOT_YET, {REPOSITORY: 600}) == [A]
    due = {job.id: job.due - job.first for job in await queue.waiting()}
    assert due[A].total_seconds() == pytest.approx(600, abs=1)
    assert due[limited].total_seconds() > 1000
    # An event of the image itself is worth an attempt.
    assert await hasten(queue, ErrorClass.NOT_YET, {'"h.example/a:2"': 0, REPOSITORY: 600}) == [limited]


async def test_a_running_job_is_not_made_due(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.NOT_YET)]
    await queue.enqueue([Job(A, {"source": "h.example/a:1"})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1)
        handler.gate.clear()
        await handler.started(2)
        assert await hasten(queue, ErrorClass.NOT_YET, {SCANNED: 0}) == []
        handler.gate.set()
        await idle(queue)
    assert len(handler.runs) == 2
