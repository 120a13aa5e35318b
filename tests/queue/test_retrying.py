"""Failures: retried by class, kept as dead letters, and never counted against a job that did not fail."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from replicator import retry as retry_module
from replicator.errors import ErrorClass, ErrorText, ReplicatorError
from replicator.queue import DeadLetters, Job, Lane, Queue, RetryPolicy, Running
from replicator.queue.attempt import StartedJob
from replicator.queue.records import dump_json
from tests.queue.conftest import QUICK, Recorder, command, eventually, idle, working

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer

A = "r.example/a:1"


class Fault(ReplicatorError):
    def __init__(self, error_class: ErrorClass, retry_after: float | None = None) -> None:
        super().__init__(f"a {error_class} fault")
        self.error_class = error_class
        self.retry_after = retry_after


async def test_a_transient_failure_is_retried_until_it_goes_well(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT), Fault(ErrorClass.NOT_YET), Fault(ErrorClass.TRANSIENT)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(4)
        await idle(queue)
    assert [run.tries for run in handler.runs] == [1, 2, 3, 4]
    assert (await queue.counts()).dead == 0


@pytest.mark.parametrize("error_class", [ErrorClass.PERMANENT, ErrorClass.CREDENTIALS])
async def test_what_cannot_succeed_is_a_dead_letter_at_once(
    queue: Queue, handler: Recorder, error_class: ErrorClass
) -> None:
    handler.errors = [Fault(error_class)]
    await queue.enqueue([Job(A, {"source": "h.example/a:1"})], Lane.BACKFILL)
    async with working(queue, handler):
        await handler.started(1)
        await idle(queue)
    [letter] = await DeadLetters(queue).all()
    assert (letter.id, letter.lane, letter.payload) == (A, Lane.BACKFILL, {"source": "h.example/a:1"})
    assert (letter.error_class, letter.message, letter.tries) == (error_class, f"a {error_class} fault", 1)
    assert letter.first <= letter.last
    assert len(handler.runs) == 1


async def test_a_job_with_few_retries_is_a_dead_letter_after_them(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT) for _ in range(9)]
    await queue.enqueue([Job(A, {}, retries=2)], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(3)
        await idle(queue)
    [letter] = await DeadLetters(queue).all()
    assert letter.tries == 3


def test_a_body_is_sent_in_vain_five_times_with_pauses_from_a_minute_to_four_hours() -> None:
    def pauses(luck: float, retries: int | None = None) -> list[float | None]:
        policy = RetryPolicy()
        return [
            policy.delay(ErrorClass.TRANSIENT, failures=40, elapsed=60, luck=luck, retries=retries, costly=number)
            for number in (1, 2, 3, 4, 5)
        ]

    assert pauses(0) == [60, 600, 3600, 14_400, None]
    assert pauses(1) == [60, 450, 2700, 10_800, None]
    # Where a person waits, it is told at once.
    assert pauses(0, retries=1000) == [None] * 5


async def test_bodies_sent_in_vain_are_counted_over_other_failures(
    queue: Queue, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_module, "COSTLY_PAUSES", (0.01, 0.01))
    monkeypatch.setattr(retry_module, "COSTLY_ATTEMPTS", 3)

    def in_vain() -> Fault:
        fault = Fault(ErrorClass.TRANSIENT)
        fault.costly = True
        return fault

    others = [Fault(ErrorClass.TRANSIENT), Fault(ErrorClass.NOT_YET)]
    handler.errors = [others[0], in_vain(), others[0], in_vain(), *others, in_vain()]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(7)
        await idle(queue)
    [letter] = await DeadLetters(queue).all()
    assert letter.tries == 7


async def test_a_handler_is_told_for_how_long_an_attempt_fails_alike(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(each) for each in (ErrorClass.TRANSIENT, *[ErrorClass.NOT_YET] * 3)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(5)
        await idle(queue)
    told = [(run.failing(ErrorClass.TRANSIENT) > 0, run.failing(ErrorClass.NOT_YET) > 0) for run in handler.runs]
    assert told == [(False, False), (True, False), (False, True), (False, True), (False, True)]
    last = [run.failing(ErrorClass.NOT_YET) for run in handler.runs]
    assert last[2] < last[3] < last[4]


async def test_a_bounded_enqueue_does_not_make_an_unbounded_one_impatient(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT) for _ in range(4)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.enqueue([Job(A, {}, retries=0)], Lane.BACKFILL)
    async with working(queue, handler):
        await handler.started(5)
        await idle(queue)
    assert (await queue.counts()).dead == 0


async def test_a_job_is_a_dead_letter_when_the_horizon_has_passed(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT) for _ in range(99)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    policy = RetryPolicy(first=0.05, cap=0.1, horizon=0.4)
    async with working(queue, handler, policy=policy):
        await eventually(DeadLetters(queue).all)
    [letter] = await DeadLetters(queue).all()
    assert 0.4 <= (letter.last - letter.first).total_seconds() < 8
    assert 4 <= letter.tries <= 12


async def test_the_other_sides_retry_after_is_obeyed(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT, retry_after=0.6)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1)
        before = asyncio.get_running_loop().time()
        await handler.started(2)
        assert asyncio.get_running_loop().time() - before >= 0.55
        await idle(queue)


async def test_a_bug_in_the_handler_is_retried_a_few_times_and_then_kept_as_a_dead_letter_with_its_trace_logged(
    queue: Queue, handler: Recorder
) -> None:
    handler.errors = [ZeroDivisionError("by zero") for _ in range(99)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    with structlog.testing.capture_logs() as logs:
        async with working(queue, handler):
            await eventually(DeadLetters(queue).all)
    [letter] = await DeadLetters(queue).all()
    assert letter.tries == QUICK.unexpected_retries + 1
    assert letter.message.startswith("unexpected ZeroDivisionError\nby zero\n")
    traces = [entry["exc_info"] for entry in logs if entry["event"] == "job raised unexpectedly"]
    assert len(traces) == letter.tries
    assert isinstance(traces[0], ZeroDivisionError)


async def test_an_outcome_that_is_no_json_is_a_bug_and_not_a_loss(queue: Queue) -> None:
    async def handle(_: Running) -> dict[str, object]:
        return {"x": object()}

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handle):
        await eventually(DeadLetters(queue).all)


async def test_a_job_that_stands_still_is_cancelled_and_retried(queue: Queue) -> None:
    tries = []

    async def handle(running: Running) -> dict[str, str]:
        tries.append(running.tries)
        if running.tries == 1:
            running.progress(17)
            await asyncio.sleep(60)
        return {}

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handle, timeout=0.2, policy=RetryPolicy(first=0.5)):
        [waiting] = await eventually(queue.waiting)
        why = "nothing moved for 0.2 s, no byte and no answer (REPLICATOR_COPY_TIMEOUT); 17 bytes had been read"
        assert ErrorText.parse(waiting.message).why == why
        await idle(queue)
    assert tries == [1, 2]


async def test_a_job_that_moves_or_waits_for_a_place_takes_as_long_as_it_takes(queue: Queue) -> None:
    """Its lease goes on being renewed: it would be taken over otherwise."""
    tries = []

    async def handle(running: Running) -> dict[str, str]:
        tries.append(running.tries)
        for done in range(15):
            running.progress(done)
            await asyncio.sleep(0.1)
        with running.waiting():
            await asyncio.sleep(1.2)
        return {}

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handle, timeout=1.0, lease=1.0):
        await eventually(queue.running)
        await idle(queue)
    assert tries == [1]
    assert await DeadLetters(queue).all() == []


async def test_a_push_of_what_waits_for_a_retry_starts_it_at_once_with_a_fresh_count(
    queue: Queue, handler: Recorder
) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    policy = RetryPolicy(first=60, cap=60)
    await queue.enqueue([Job(A, {"n": 1})], Lane.BACKFILL)
    async with working(queue, handler, policy=policy):
        [waiting] = await eventually(queue.waiting)
        assert (waiting.id, waiting.lane, waiting.tries) == (A, Lane.BACKFILL, 1)
        assert (waiting.due - waiting.first).total_seconds() > 25
        await queue.enqueue([Job(A, {"n": 2})], Lane.EVENTS)
        await handler.started(2, timeout=1)
        await idle(queue)
    assert [(run.tries, run.lane) for run in handler.runs] == [(1, Lane.BACKFILL), (1, Lane.EVENTS)]
    assert await queue.waiting() == []


async def test_a_push_during_a_failing_attempt_is_run_at_once_with_a_fresh_count(
    queue: Queue, handler: Recorder
) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    handler.gate.clear()
    async with working(queue, handler):
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        await handler.started(1)
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        handler.gate.set()
        await handler.started(2)
        await idle(queue)
    assert [run.tries for run in handler.runs] == [1, 1]
    assert (await queue.counts()).dead == 0


async def test_a_push_clears_the_dead_letter(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handler):
        await eventually(DeadLetters(queue).all)
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        assert await DeadLetters(queue).all() == []
        await handler.started(2)
        await idle(queue)


async def test_dead_letters_are_retried_as_they_were_by_name_or_all(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT) for _ in range(3)]
    await queue.enqueue([Job(f"r.example/a:{n}", {"n": n}) for n in range(3)], Lane.BACKFILL)
    async with working(queue, handler):
        await handler.started(3)
        await idle(queue)
        assert await DeadLetters(queue).retry(["r.example/a:1", "r.example/unknown:1"]) == ["r.example/a:1"]
        await handler.started(4)
        await idle(queue)
        assert {letter.id for letter in await DeadLetters(queue).all()} == {"r.example/a:0", "r.example/a:2"}
        assert sorted(await DeadLetters(queue).retry()) == ["r.example/a:0", "r.example/a:2"]
        await handler.started(6)
        await idle(queue)
    assert handler.payloads[3] == {"n": 1}
    assert handler.runs[3].lane is Lane.BACKFILL
    assert await DeadLetters(queue).all() == []


async def test_dead_letters_are_dropped_by_name_or_all(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT) for _ in range(3)]
    await queue.enqueue([Job(f"r.example/a:{n}", {}) for n in range(3)], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(3)
        await idle(queue)
    assert await DeadLetters(queue).drop(["r.example/a:1", "r.example/unknown:1"]) == ["r.example/a:1"]
    assert sorted(await DeadLetters(queue).drop()) == ["r.example/a:0", "r.example/a:2"]
    assert await DeadLetters(queue).all() == []
    assert await DeadLetters(queue).retry() == []


@pytest.mark.parametrize(
    "stored",
    [
        b"\x80\x04\x95 a pickle",
        b"[]",
        b"null",
        b'{"f": "handle"}',
        dump_json({"t": None, "f": "handle", "a": [], "k": {"payload": 7}, "et": 1}),
        dump_json({"t": None, "f": "handle", "a": [], "k": {"payload": {}}, "et": 10**30}),
        dump_json({"t": None, "f": "handle", "a": [], "k": {"payload": {}}, "et": "soon"}),
        dump_json({"t": None, "f": "os.system", "a": [], "k": {"payload": {}}, "et": 1}),
    ],
)
async def test_a_stored_job_that_cannot_be_run_is_a_dead_letter_and_not_lost(
    queue: Queue, handler: Recorder, stored: bytes
) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.redis.set(f"arq:job:{queue.prefix}:{A}", stored)
    async with working(queue, handler):
        [letter] = await eventually(DeadLetters(queue).all)
        await idle(queue)
    assert (letter.id, letter.error_class) == (A, ErrorClass.PERMANENT)
    assert handler.runs == []


async def test_a_job_whose_content_was_evicted_is_a_dead_letter_that_says_so(queue: Queue, handler: Recorder) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await queue.redis.delete(f"arq:job:{queue.prefix}:{A}")
    async with working(queue, handler):
        [letter] = await eventually(DeadLetters(queue).all)
    assert "noeviction" in letter.message
    assert await DeadLetters(queue).retry() == []


async def test_the_sweep_at_start_puts_a_pending_job_back_that_stands_in_no_queue(
    queue: Queue, handler: Recorder
) -> None:
    await queue.enqueue([Job(A, {"n": 1}), Job("r.example/b:1", {})], Lane.EVENTS)
    await queue.redis.delete(queue.lane_queue(Lane.EVENTS), f"arq:job:{queue.prefix}:r.example/b:1")
    async with working(queue, handler):
        await handler.started(1)
        await idle(queue)
    assert handler.payloads == [{"n": 1}]
    assert [letter.id for letter in await DeadLetters(queue).all()] == ["r.example/b:1"]


async def test_a_handler_that_cancels_itself_is_handed_back_without_an_attempt_and_without_a_loop(
    queue: Queue, server: RedisServer
) -> None:
    tries = []

    async def handle(running: Running) -> dict[str, str]:
        tries.append(running.tries)
        raise asyncio.CancelledError

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    async with working(queue, handle):
        await asyncio.sleep(0.5)
        assert tries == [1]
    counts = (await queue.counts()).lanes[Lane.EVENTS]
    assert counts.queued + counts.waiting == 1
    assert await queue.redis.exists(f"arq:retry:{queue.prefix}:{A}") == 0


async def test_a_failure_in_the_words_of_a_newer_version_stops_no_worker(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.NOT_YET)]
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    slow = RetryPolicy(not_yet=1.0, not_yet_cap=1.0)
    async with working(queue, handler, policy=slow):
        await handler.started(1)
        await eventually(queue.waiting)
        record = json.loads(await command(queue, "HGET", f"{queue.prefix}:waiting", A))
        newer = json.dumps(record | {"error_class": "quota"})
        await command(queue, "HSET", f"{queue.prefix}:waiting", A, newer)
        await handler.started(2)
        await queue.enqueue([Job("r.example/b:1", {})], Lane.EVENTS)
        await handler.started(3)
        await idle(queue)
    assert (await queue.counts()).dead == 0


async def test_a_start_that_can_not_be_read_strands_no_other(
    queue: Queue, handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = StartedJob.read

    def read_others(reply: list[Any]) -> StartedJob:
        if reply[0].decode() == A:
            raise ValueError("a lane of a newer version")
        return read(reply)

    monkeypatch.setattr(StartedJob, "read", read_others)
    await queue.enqueue([Job(A, {}), Job("r.example/b:1", {})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1)
        # Its lease expires, and the job is there for a process that can read it.
        monkeypatch.setattr(StartedJob, "read", read)
        await handler.started(2)
        await idle(queue)
    assert [run.id for run in handler.runs] == ["r.example/b:1", A]
