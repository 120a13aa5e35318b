"""Two sources on their way to one destination: neither job displaces the other, and who owns the tag is remembered."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorClass
from replicator.queue import DeadLetters, Job, JsonValue, Lane, Observations, Queue, RetryPolicy, Running
from replicator.queue.move import move_queue
from replicator.queue.observations import MOST_OWNED
from replicator.queue.records import MOST_RIVALS, TagRecord
from replicator.queue.scripts import sections
from tests.queue.conftest import PATIENCE, Recorder, eventually, idle, working
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

PLACE = "r.example/mirror/a-b-c:v1"
OURS, THEIRS = "h.example/a/b-c:v1", "h.example/a-b/c:v1"
ONE = {Lane.EVENTS: 1, Lane.BACKFILL: 1}
OLD, NEW = ("sha256:" + letter * 64 for letter in "ab")


def job(source: str, n: int = 0, place: str = PLACE, **more: Any) -> Job:
    return Job(place, {"source": source, "n": n, **more})


def ran(handler: Recorder) -> list[tuple[str, int]]:
    return [(payload["source"], payload["n"]) for payload in handler.payloads]


async def owned(queue: Queue, *places: str) -> Sequence[TagRecord] | None:
    async with aclosing(Observations(queue, deadline=PATIENCE)) as checks:
        return await checks.owned(places or [PLACE])


@pytest.mark.parametrize("at_once", [True, False])
async def test_two_sources_of_one_destination_run_one_after_the_other(
    queue: Queue, handler: Recorder, *, at_once: bool
) -> None:
    jobs = [job(OURS), job(THEIRS), job(OURS, 1), job(THEIRS, 1), job(THEIRS, 2)]
    if at_once:
        assert await queue.enqueue(jobs, Lane.EVENTS) == 1
    else:
        for each in jobs:
            await queue.enqueue([each], Lane.EVENTS)
    async with working(queue, handler, concurrency=ONE):
        await handler.started(2)
        await idle(queue)
    assert ran(handler) == [(OURS, 1), (THEIRS, 2)]
    assert handler.overlaps == 0
    left = {key.decode() for key in await queue.redis.keys(f"*{queue.prefix}*")}
    assert left == {f"{queue.prefix}:{name}" for name in ("seq", "ping", "clock")}


async def test_a_push_of_another_source_during_a_copy_runs_after_it_with_its_own_time(
    queue: Queue, handler: Recorder
) -> None:
    handler.gate.clear()
    pushed = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    async with working(queue, handler):
        await queue.enqueue([job(OURS)], Lane.BACKFILL)
        await handler.started(1)
        await queue.enqueue([Job(PLACE, {"source": THEIRS, "n": 0}, pushed=pushed)], Lane.EVENTS)
        await queue.enqueue([Job(PLACE, {"source": THEIRS, "n": 1}, pushed=datetime.now(UTC))], Lane.EVENTS)
        handler.gate.set()
        await handler.started(2)
        await idle(queue)
    assert ran(handler) == [(OURS, 0), (THEIRS, 1)]
    assert (handler.runs[1].lane, handler.runs[1].pushed) == (Lane.EVENTS, pushed)


@pytest.mark.parametrize("moved", [True, False])
async def test_what_an_older_version_has_left_behind_a_job_that_it_ended_runs(
    queue: Queue, handler: Recorder, *, moved: bool
) -> None:
    for source in (OURS, THEIRS):
        await queue.enqueue([job(source)], Lane.EVENTS)
    # As far as an older version goes.
    await queue.redis.hdel(f"{queue.prefix}:gen", PLACE)  # type: ignore[misc]  # redis-py's union
    await queue.redis.zrem(queue.lane_queue(Lane.EVENTS), f"{queue.prefix}:{PLACE}")
    await queue.redis.delete(f"arq:job:{queue.prefix}:{PLACE}")
    if moved:
        async with await Queue.connect(queue.where, prefix=f"{queue.prefix}-moved") as target:
            await move_queue(queue, target)
            assert (await target.counts()).lanes[Lane.EVENTS].queued == 1
    else:
        async with working(queue, handler, concurrency=ONE):
            await handler.started(1)
            await idle(queue)
        assert ran(handler) == [(THEIRS, 0)]


async def test_a_run_hears_of_the_end_of_its_own_source_alone(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    await queue.enqueue([job(OURS)], Lane.EVENTS)
    await queue.enqueue([job(THEIRS)], Lane.BACKFILL, run="theirs")
    async with working(queue, handler, concurrency=ONE):
        ends = aiter(queue.finished("theirs"))
        end = await anext(ends)
    assert end.error is None
    assert ran(handler) == [(OURS, 0), (THEIRS, 0)]


async def test_a_push_of_the_first_source_meanwhile_does_not_end_the_run_of_the_other(
    queue: Queue, handler: Recorder
) -> None:
    await queue.enqueue([job(OURS)], Lane.EVENTS)
    await queue.enqueue([job(THEIRS)], Lane.BACKFILL, run="theirs")
    await queue.enqueue([job(OURS, 1)], Lane.EVENTS)
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    async with working(queue, handler, concurrency=ONE):
        end = await anext(aiter(queue.finished("theirs")))
    assert (ran(handler), end.error) == ([(OURS, 1), (THEIRS, 0)], None)


async def test_the_dead_letter_of_one_source_stays_when_the_other_is_pushed(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    async with working(queue, handler, concurrency=ONE):
        await queue.enqueue([job(THEIRS)], Lane.EVENTS)
        await handler.started(1)
        await idle(queue)
        await queue.enqueue([job(OURS)], Lane.EVENTS)
        await handler.started(2)
        await idle(queue)
        (letter,) = await DeadLetters(queue).all()
        assert letter.payload is not None
        assert letter.payload["source"] == THEIRS
        await queue.enqueue([job(THEIRS)], Lane.EVENTS)
        await handler.started(3)
        await idle(queue)
    assert await DeadLetters(queue).all() == []


async def test_a_retried_letter_does_not_displace_the_job_of_the_other_source(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    await queue.enqueue([job(THEIRS)], Lane.EVENTS)
    async with working(queue, handler, concurrency=ONE):
        await handler.started(1)
        await idle(queue)
    await queue.enqueue([job(OURS)], Lane.EVENTS)
    assert await DeadLetters(queue).retry([PLACE]) == [PLACE]
    async with working(queue, handler, concurrency=ONE):
        await handler.started(3)
        await idle(queue)
    assert ran(handler) == [(THEIRS, 0), (OURS, 0), (THEIRS, 0)]


@pytest.mark.parametrize(
    ("place", "more"),
    [("r.example/a@sha256:" + "a" * 64, {}), ("r.example/a:sha256-" + "a" * 64, {"signature": True})],
)
async def test_what_is_the_same_wherever_it_comes_from_is_merged(
    queue: Queue, handler: Recorder, place: str, more: dict[str, Any]
) -> None:
    for source in (OURS, THEIRS):
        await queue.enqueue([job(source, place=place, **more)], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1)
        await idle(queue)
    assert ran(handler) == [(THEIRS, 0)]


async def test_more_sources_than_are_kept_leave_the_first_and_the_last(queue: Queue, handler: Recorder) -> None:
    for n in range(20):
        await queue.enqueue([job(f"h.example/a/{n}:v1", n)], Lane.EVENTS)
    async with working(queue, handler):
        await idle(queue)
    assert [n for _, n in ran(handler)] == [*range(8), 19]


async def test_what_is_written_is_remembered_by_the_step_that_confirms_it(queue: Queue) -> None:
    seen: list[TagRecord] = []

    async def write(running: Running) -> dict[str, JsonValue]:
        seen.append(running.owned)
        running.own(running.owned.after(OURS, NEW, OLD))
        await running.confirm()
        running.answered()
        if len(seen) == 1:
            raise Fault(ErrorClass.TRANSIENT)
        return {}

    async with working(queue, write):
        await queue.enqueue([job(OURS)], Lane.EVENTS)
        await idle(queue)
    # The first attempt did not come to its end, so what it replaced is still to be told.
    assert seen == [TagRecord(), TagRecord().after(OURS, NEW, OLD)]
    (record,) = await owned(queue) or []
    assert (record.source, NEW in record, OLD in record, record.replaced) == (OURS, True, False, "")


async def test_a_source_that_was_seen_in_place_owns_the_tag_unless_another_one_does(queue: Queue) -> None:
    for source in (OURS, THEIRS):
        async with aclosing(Observations(queue, deadline=PATIENCE, pause=0)) as checks:
            checks.record(PLACE, "wanted", 0.0, source)
            checks.record(f"{PLACE}.2", "wanted", 0.0)
    assert await owned(queue, PLACE, f"{PLACE}.2") == [TagRecord(OURS), TagRecord()]


async def test_owners_outlive_a_full_memory_and_months_without_a_write(queue: Queue) -> None:
    async with aclosing(Observations(queue, deadline=PATIENCE, pause=0)) as checks:
        checks.record(PLACE, "wanted", 0.0, OURS)
    await queue.ask("make_room")
    assert await owned(queue) == [TagRecord(OURS)]
    assert await queue.redis.ttl(f"{queue.prefix}:owned:new") == -1


def test_the_bounds_are_those_of_the_scripts() -> None:
    assert f"local MOST_RIVALS = {MOST_RIVALS}\n" in sections()["enqueue"]
    assert f"generations('owned', true), {MOST_OWNED}\n" in sections()["owned_recall"]


def test_a_record_keeps_the_last_writes_and_reads_what_it_wrote() -> None:
    record = TagRecord()
    for letter in "abcd":
        record = record.after(OURS, "sha256:" + letter * 64, None)
    assert TagRecord.parse(record.text) == record
    assert ["sha256:" + letter * 64 in record for letter in "abcd"] == [False, True, True, True]
    assert record.after(THEIRS, NEW, OLD).told(NEW) == OLD
    for text in ("", "x", "a b", "a b c d", "- - -"):
        assert TagRecord.parse(text) == TagRecord()


async def test_a_source_that_is_away_does_not_hold_up_the_other_and_runs_after_it(
    queue: Queue, handler: Recorder
) -> None:
    pushed = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    async with working(queue, handler, policy=RetryPolicy(first=3600, cap=3600, horizon=36_000)):
        away = Job(PLACE, {"source": OURS, "n": 0}, pushed=pushed)
        await queue.enqueue([away], Lane.BACKFILL, run="ours")
        await handler.started(1)
        await eventually(queue.waiting)
        await queue.enqueue([job(THEIRS)], Lane.EVENTS, run="theirs")
        ends = [await anext(aiter(queue.finished(run))) for run in ("theirs", "ours")]
    assert ran(handler) == [(OURS, 0), (THEIRS, 0), (OURS, 0)]
    assert [(run.tries, run.pushed) for run in handler.runs] == [(1, pushed), (1, None), (1, pushed)]
    assert [end.error for end in ends] == [None, None]


async def test_two_sources_that_are_away_in_turn_are_each_run_once_more(queue: Queue, handler: Recorder) -> None:
    pushed = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    handler.errors = [Fault(ErrorClass.TRANSIENT), Fault(ErrorClass.TRANSIENT)]
    async with working(queue, handler, policy=RetryPolicy(first=3600, cap=3600, horizon=36_000)):
        for number, source in enumerate((OURS, THEIRS, OURS)):
            when = pushed if number == 0 else None
            await queue.enqueue([Job(PLACE, {"source": source, "n": number}, pushed=when)], Lane.EVENTS)
            await handler.started(number + 1)
            if number < 2:
                await eventually(queue.waiting)
        await idle(queue)
    assert ran(handler) == [(OURS, 0), (THEIRS, 1), (OURS, 2), (THEIRS, 1)]
    assert handler.runs[2].pushed == pushed
