"""A queue moves from a state directory into a Redis: nothing is lost wherever the move ends."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorClass
from replicator.queue import (
    DeadLetters,
    Description,
    History,
    Job,
    Lane,
    Observations,
    Queue,
    QueueError,
    Selection,
    embedded_server,
    list_pauses,
    pause,
)
from replicator.queue.move import Left, left_in, move_queue, move_state
from tests.queue.conftest import PATIENCE, Recorder, eventually, idle, working
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.queue.servers import RedisServer

PUSHED = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
async def source(server: RedisServer, prefix: str) -> AsyncIterator[Queue]:
    async with await Queue.connect(server.url, prefix=f"{prefix}-source") as client:
        yield client


@pytest.fixture
def state_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mv-", dir="/tmp") as directory:
        yield Path(directory) / "state"


def job(name: str, **payload: Any) -> Job:
    return Job(f"r.example/{name}:1", payload)


async def fill(queue: Queue) -> None:
    """Leave a job of every kind, two dead letters and a history of three."""
    handler = Recorder()
    await queue.enqueue([job("dead/one"), job("dead/two")], Lane.EVENTS)
    handler.errors = [Fault(ErrorClass.PERMANENT), Fault(ErrorClass.PERMANENT)]
    async with working(queue, handler, describe=lambda *_: Description("copied")):
        await idle(queue)
        await queue.enqueue([job("done")], Lane.EVENTS)
        await idle(queue)
        handler.errors = [Fault(ErrorClass.NOT_YET, retry_after=3600.0)]
        await queue.enqueue([job("waits")], Lane.EVENTS)
        await eventually(queue.waiting)
    await queue.enqueue([job("first", n=1)], Lane.EVENTS)
    await queue.enqueue([Job("r.example/pushed:1", {}, None, PUSHED)], Lane.EVENTS)
    await queue.enqueue([Job("r.example/bound:1", {}, 3)], Lane.BACKFILL)
    for n in (1, 2):
        await queue.enqueue([job("merged", n=n)], Lane.BACKFILL)


async def test_jobs_of_every_kind_dead_letters_and_the_history_are_moved(source: Queue, queue: Queue) -> None:
    await fill(source)
    letters, history = await DeadLetters(source).all(), await History.read(source)
    waiting = await source.waiting()
    assert await move_queue(source, queue) == Left(5, 2)
    assert await DeadLetters(queue).all() == letters
    assert (await History.read(queue)).ended == history.ended
    assert (await History.read(queue)).lags == history.lags
    moved = await queue.waiting()
    assert [(each.id, each.message, each.tries) for each in moved] == [
        (each.id, each.message, each.tries) for each in waiting
    ]
    assert abs((moved[0].due - waiting[0].due).total_seconds()) < 1
    counts = await queue.counts()
    assert (counts.lanes[Lane.EVENTS].queued, counts.lanes[Lane.BACKFILL].queued, counts.dead) == (2, 2, 2)
    handler = Recorder()
    async with working(queue, handler, concurrency={Lane.EVENTS: 1, Lane.BACKFILL: 1}):
        await handler.started(4)
    runs = {run.id: run for run in handler.runs}
    assert runs["r.example/pushed:1"].pushed == PUSHED
    assert [run.merged for run in handler.runs if "merged" in run.id] == [True]
    assert runs["r.example/merged:1"].payload == {"n": 2}
    events = [run.id for run in handler.runs if run.lane is Lane.EVENTS]
    assert events == ["r.example/first:1", "r.example/pushed:1"], "their order is kept"
    left = await source.counts()
    assert sum(lane.queued + lane.running + lane.waiting for lane in left.lanes.values()) + left.dead == 0
    assert await move_queue(source, queue) == Left()


async def test_a_move_that_ends_at_any_step_loses_nothing_and_goes_on_with_the_next_one(
    source: Queue, server: RedisServer, prefix: str
) -> None:
    ids = {f"r.example/{n}:1" for n in range(6)}
    ended = steps = 0
    while ended == steps:
        steps += 1
        async with await Queue.connect(server.url, prefix=f"{prefix}-{steps}") as target:
            await source.enqueue([Job(each, {}) for each in ids], Lane.EVENTS)
            breaking = Breaking(steps)
            breaking.watch(source, target)
            try:
                await move_queue(source, target, batch=2)
            except Killed:
                ended += 1
            breaking.release()
            assert await pending(source) | await pending(target) == ids
            await move_queue(source, target, batch=2)
            assert (await pending(source), await pending(target)) == (set(), ids)
            assert (await target.counts()).lanes[Lane.EVENTS].queued == len(ids)
    assert steps > 8


class Killed(Exception):
    """The process of the move has died."""


class Breaking:
    """Lets a number of steps of two queues pass, and fails after the next one was carried out."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._queues: tuple[Queue, ...] = ()

    def watch(self, *queues: Queue) -> None:
        self._queues = queues
        for queue in queues:
            queue.ask = self._counted(queue.ask)  # type: ignore[method-assign] # the steps of this test alone

    def release(self) -> None:
        for queue in self._queues:
            del queue.ask

    def _counted(self, ask: Any) -> Any:
        async def counted(name: str, *arguments: Any) -> Any:
            answer = await ask(name, *arguments)
            self._left -= 1
            if self._left == 0:
                raise Killed
            return answer

        return counted


async def pending(queue: Queue) -> set[str]:
    return {each async for ids in queue.scan_hash("gen") for each in ids}


async def test_what_the_other_redis_knows_already_is_newer(source: Queue, queue: Queue) -> None:
    handler = Recorder()
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    await queue.enqueue([job("dead", n="new")], Lane.EVENTS)
    async with working(queue, handler):
        await idle(queue)
    await queue.enqueue([job("both", n="new")], Lane.BACKFILL)
    await source.enqueue([job("both", n="old"), job("dead", n="old")], Lane.EVENTS)
    await move_queue(source, queue)
    handler = Recorder()
    async with working(queue, handler):
        await idle(queue)
    assert {run.id: (run.payload["n"], run.merged, run.lane) for run in handler.runs} == {
        "r.example/both:1": ("new", True, Lane.EVENTS),
        "r.example/dead:1": ("new", True, Lane.EVENTS),
    }
    assert await DeadLetters(queue).all() == []


async def test_the_job_of_one_source_does_not_stand_for_that_of_another(source: Queue, queue: Queue) -> None:
    def copy(place: str, team: str) -> Job:
        return Job(f"r.example/{place}:1", {"source": f"h.example/{team}/app:1"})

    def fault(*_: Any) -> list[BaseException]:
        return [Fault(ErrorClass.PERMANENT)]

    handler = Recorder()
    for each, place, team in ((queue, "dead", "ours"), (source, "letter", "theirs")):
        handler.errors = fault()
        async with working(each, handler):
            await each.enqueue([copy(place, team)], Lane.EVENTS)
            await idle(each)
    await queue.enqueue([copy("both", "ours"), copy("letter", "ours")], Lane.EVENTS)
    await source.enqueue([copy("both", "theirs"), copy("dead", "theirs")], Lane.EVENTS)
    await move_queue(source, queue)
    handler = Recorder()
    async with working(queue, handler):
        await idle(queue)
    ran = {(run.id.split("/")[1], str(run.payload["source"]).split("/")[1]) for run in handler.runs}
    assert ran == {("both:1", "ours"), ("both:1", "theirs"), ("letter:1", "ours"), ("dead:1", "theirs")}
    letters = {(each.id, (each.payload or {})["source"]) for each in await DeadLetters(queue).all()}
    assert letters == {
        (copy(place, team).id, f"h.example/{team}/app:1") for place, team in (("dead", "ours"), ("letter", "theirs"))
    }


async def test_owners_pauses_and_jobs_that_wait_for_others_are_moved(source: Queue, queue: Queue) -> None:
    place = "r.example/mirror/app:1"
    for name in ("one", "two"):
        await source.enqueue([Job(place, {"source": f"h.example/{name}/app:1"})], Lane.EVENTS)
    async with aclosing(Observations(source, deadline=PATIENCE)) as checks:
        checks.record("r.example/owned:1", "sha256:x", time.time(), "h.example/owned:1")
    await pause(source, [Selection(rule="held")], by="me")
    await move_queue(source, queue)
    assert [each.selection for each in await list_pauses(queue)] == [Selection(rule="held")]
    async with aclosing(Observations(queue, deadline=PATIENCE)) as checks:
        owned = await checks.owned(["r.example/owned:1"])
    assert owned is not None
    assert owned[0].source == "h.example/owned:1"
    handler = Recorder()
    async with working(queue, handler, concurrency={Lane.EVENTS: 1, Lane.BACKFILL: 1}):
        await idle(queue)
    assert [payload["source"] for payload in handler.payloads] == ["h.example/one/app:1", "h.example/two/app:1"]
    assert await pending(source) == set()


async def test_a_job_whose_worker_died_while_it_wrote_waits_until_the_write_can_not_arrive(
    source: Queue, queue: Queue
) -> None:
    handler = Recorder()
    handler.gate.clear()
    await source.enqueue([job("a")], Lane.EVENTS)
    async with working(source, handler, drain=0.0):
        await handler.started(1)
        await handler.runs[0].confirm()
        writing = await source.redis.hgetall(f"{source.prefix}:writing")  # type: ignore[misc] # redis-py's types
    await source.redis.hset(f"{source.prefix}:writing", mapping=writing)  # type: ignore[misc]  # redis-py types it as awaitable or not
    await move_queue(source, queue)
    (late,) = await queue.redis.hvals(f"{queue.prefix}:unanswered")  # type: ignore[misc]  # the same
    assert late.split()[2] == next(iter(writing.values())).split()[2]
    due, *started = await queue.run_script("claim", "events", 1, "t", "w", 10_000, 1, 0)
    assert started == []
    assert due > 0


async def test_a_state_directory_is_emptied_by_one_process_alone(
    state_dir: Path, server: RedisServer, prefix: str
) -> None:
    async with (
        embedded_server(state_dir) as url,
        await Queue.connect(url, prefix=prefix) as inside,
        await Queue.connect(server.url, prefix=f"{{{prefix}}}") as target,
    ):
        await inside.enqueue([job("a"), job("b")], Lane.EVENTS)
        assert await left_in(state_dir, prefix) == Left(jobs=2)
        with pytest.raises(QueueError, match="is in use by a server that answers"):
            await move_state(state_dir, target)
    assert str(await left_in(state_dir, prefix)) == "2 jobs"
    async with await Queue.connect(server.url, prefix=f"{{{prefix}}}") as target:
        moving = asyncio.create_task(move_state(state_dir, target))
        assert await moving == Left(jobs=2)
        assert len(await pending(target)) == 2
        assert await move_state(state_dir, target) == Left()
    assert not (state_dir / "appendonlydir").exists()
    assert await left_in(state_dir, prefix) == Left()
    async with embedded_server(state_dir) as url, await Queue.connect(url, prefix=prefix) as inside:
        assert await pending(inside) == set()


async def test_the_queue_of_another_installation_in_the_directory_stays(
    state_dir: Path, server: RedisServer, prefix: str
) -> None:
    async with embedded_server(state_dir) as url:
        for name in (prefix, "other"):
            async with await Queue.connect(url, prefix=name) as inside:
                await inside.enqueue([job(name)], Lane.EVENTS)
    async with await Queue.connect(server.url, prefix=prefix) as target:
        assert await move_state(state_dir, target) == Left(jobs=1)
    assert (await left_in(state_dir, prefix), await left_in(state_dir, "other")) == (Left(), Left(jobs=1))
