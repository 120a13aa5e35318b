"""arq is the engine: its own tools see our jobs, and each replaced method says why and names the tests that show it."""

from __future__ import annotations

import re
from pathlib import Path

import arq.worker
import pytest
from arq.jobs import Job as ArqJob
from arq.jobs import JobDef, JobStatus

from replicator.errors import ErrorClass
from replicator.queue import Job, Lane, Queue, RetryPolicy
from replicator.queue.job import FUNCTION
from replicator.queue.lane import LaneWorker
from replicator.queue.records import load_json
from tests.queue.conftest import Recorder, eventually, idle, working
from tests.queue.test_retrying import Fault

A = "r.example/a:1"
REPLACED = {"main", "start_jobs", "run_job"}


def arq_job(queue: Queue, lane: Lane) -> ArqJob:
    """The job as somebody who knows arq asks for it."""
    name = queue.lane_queue(lane)
    return ArqJob(f"{queue.prefix}:{A}", queue.redis, _queue_name=name, _deserializer=load_json)


@pytest.mark.parametrize("lane", Lane)
async def test_arq_tells_the_status_of_a_job_through_its_life(queue: Queue, handler: Recorder, lane: Lane) -> None:
    job = arq_job(queue, lane)
    assert await job.status() is JobStatus.not_found
    await queue.enqueue([Job(A, {"n": 1})], lane)
    assert await job.status() is JobStatus.queued
    handler.gate.clear()
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    async with working(queue, handler, policy=RetryPolicy(first=60)):
        await handler.started(1)
        assert await job.status() is JobStatus.in_progress
        handler.gate.set()

        async def deferred() -> bool:
            return await job.status() is JobStatus.deferred

        await eventually(deferred)
        await queue.enqueue([Job(A, {"n": 2})], lane)
        await idle(queue)
    assert await job.status() is JobStatus.not_found


async def test_arq_tells_all_about_a_job(queue: Queue) -> None:
    await queue.enqueue([Job(A, {"source": "h.example/a:1"})], Lane.EVENTS)
    info = await arq_job(queue, Lane.EVENTS).info()
    assert isinstance(info, JobDef)
    assert (info.function, len(info.args)) == (FUNCTION, 0)
    assert info.kwargs == {"payload": {"source": "h.example/a:1"}}
    assert info.score is not None
    assert abs(info.enqueue_time.timestamp() * 1000 - info.score) < 10_000


async def test_arqs_register_and_context_are_those_of_any_arq_worker(queue: Queue, handler: Recorder) -> None:
    seen: dict[str, object] = {}
    await queue.enqueue([Job(A, {"n": 1})], Lane.EVENTS)
    async with working(queue, handler, concurrency={Lane.EVENTS: 1}) as worker:
        await handler.started(1)
        (lane,) = worker._lanes
        assert lane.functions.keys() == {FUNCTION}
        call = lane.functions[FUNCTION].coroutine

        async def spy(ctx: dict[str, object], **payload: object) -> object:
            seen.update(ctx)
            return await call(ctx, **payload)

        lane.functions[FUNCTION].coroutine = spy
        await queue.enqueue([Job(A, {"n": 2})], Lane.EVENTS)
        await handler.started(2)
        await idle(queue)
    assert seen.keys() >= {"job_id", "job_try", "enqueue_time", "score"}
    assert (seen["job_id"], seen["job_try"]) == (f"{queue.prefix}:{A}", 1)


def test_no_private_name_of_arq_is_used() -> None:
    ours = {name for name in vars(LaneWorker) if not name.startswith("__")}
    theirs = set(vars(arq.worker.Worker))
    assert ours & theirs == REPLACED


@pytest.mark.parametrize("name", sorted(REPLACED))
def test_each_replaced_method_names_tests_that_show_what_arqs_own_gets_wrong(name: str) -> None:
    folder = Path(__file__).parent
    tests = set(re.findall(r"def (test_\w+)", "\n".join(path.read_text() for path in folder.glob("test_*.py"))))
    doc = getattr(LaneWorker, name).__doc__
    named = set(re.findall(r"``(test_\w+)``", doc))
    assert "arq's own" in doc
    assert named
    assert named <= tests
