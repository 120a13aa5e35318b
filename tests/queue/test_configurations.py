"""Jobs that only some processes know: they are left to these, without an attempt, and hold up no other job."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from replicator.queue import (
    DeadLetters,
    Differing,
    InForce,
    Job,
    KnownConfig,
    Lane,
    LeftToOthers,
    LoadedConfig,
    Queue,
    QueueUnavailable,
    Selection,
    Status,
    announced,
    configurations,
    pause,
    processes,
)
from replicator.server.runtime import origin_of
from replicator.settings import Settings
from tests.queue.conftest import Recorder, command, eventually, idle, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from replicator.queue import ProcessInfo, Running

OLD, NEW, OTHER = "0" * 32, "1" * 32, "2" * 32
FILE, FOREIGN = ("a", "b"), ("x",)
"""Parts that versions of one file have, and those of another installation's."""


class Process(Recorder):
    """A process that knows the jobs of some configurations, and leaves all others to those that know them."""

    def __init__(self, in_force: InForce, *knows: str) -> None:
        super().__init__()
        self.in_force = in_force
        self.knows = {in_force.digest, *knows}
        self.offered: Counter[str] = Counter()
        self.ended: list[str] = []

    async def __call__(self, running: Running) -> dict[str, Any]:
        self.offered[running.id] += 1
        digest = str(running.payload["rules"])
        if digest in self.knows:
            return await super().__call__(running)
        place = await self.in_force.place(digest, running.asked)
        if place.left_to is not None:
            raise LeftToOthers(place.left_to)
        self.ended.append(running.id)
        return {"ended": running.id}

    @property
    def done(self) -> list[str]:
        return sorted(run.id for run in self.runs)


@asynccontextmanager
async def shown(
    queue: Queue, digest: str, parts: tuple[str, ...] = FILE, command: str = "serve", *, origin: str = ""
) -> AsyncIterator[InForce]:
    """A process with a configuration that copies nothing."""
    in_force = InForce(queue, digest, parts, origin=origin)
    config = LoadedConfig(time.time(), None)
    async with announced(queue, command, "1", lambda: config, rules=in_force):
        yield in_force


@asynccontextmanager
async def process(
    queue: Queue, digest: str, parts: tuple[str, ...] = FILE, *, command: str = "serve", slots: int = 4, knows: str = ""
) -> AsyncIterator[Process]:
    async with shown(queue, digest, parts, command) as in_force:
        handler = Process(in_force, knows)
        slots_of = {Lane.EVENTS: slots, Lane.BACKFILL: slots}
        async with working(queue, handler, concurrency=slots_of, configuration=lambda: in_force.digest):
            yield handler


def jobs(digest: str, number: int, name: str = "job") -> list[Job]:
    return [Job(f"{name}.example/app:t{n:03}", {"rules": digest}) for n in range(number)]


async def left(queue: Queue) -> dict[str, int]:
    return {digest: each.jobs for digest, each in (await KnownConfig.read(queue)).items() if each.jobs}


@pytest.mark.parametrize("lane", Lane)
async def test_each_process_works_off_what_it_knows_without_an_attempt_in_vain(queue: Queue, lane: Lane) -> None:
    olds, news = jobs(OLD, 30, "old"), jobs(NEW, 30, "new")
    async with process(queue, OLD) as old, process(queue, NEW) as new:
        await queue.enqueue([*olds, *news], lane)
        await idle(queue)
        assert old.done == [job.id for job in olds]
        assert new.done == [job.id for job in news]
        # At once to the one that knows it, so each is offered to the other once at the most.
        assert set((old.offered | new.offered).values()) == {1}
        assert {run.tries for run in (*old.runs, *new.runs)} == {1}
    assert await DeadLetters(queue).all() == []
    assert await command(queue, "KEYS", f"{queue.prefix}:foreign*") == []


async def test_jobs_that_nobody_knows_wait_without_a_slot_until_their_process_comes(queue: Queue) -> None:
    orphans, own = jobs(OTHER, 64, "orphan"), jobs(NEW, 5)
    await queue.enqueue(orphans, Lane.BACKFILL)
    async with process(queue, NEW, slots=1) as new:
        await eventually(lambda: _left(queue, OTHER, 64))
        await queue.enqueue(own, Lane.BACKFILL)
        await eventually(lambda: _done(new, 5))
        await eventually(lambda: _only_wait(queue, 64))
        async with process(queue, OTHER, FOREIGN) as other:
            await idle(queue)
            assert other.done == [job.id for job in orphans]
            assert {run.tries for run in other.runs} == {1}
        assert new.ended == []


async def _left(queue: Queue, digest: str, number: int) -> bool:
    return (await left(queue)).get(digest) == number


async def _only_wait(queue: Queue, number: int) -> bool:
    status = await Status.read(queue)
    counts = status.counts.lanes[Lane.BACKFILL]
    return (counts.queued, counts.running, counts.waiting, status.ownerless) == (0, 0, number, number)


async def _done(handler: Process, number: int) -> bool:
    return len(handler.runs) == number


async def test_a_paused_lane_leaves_jobs_where_their_process_finds_them(queue: Queue) -> None:
    await queue.enqueue(jobs(OTHER, 64), Lane.EVENTS)
    async with process(queue, NEW):
        await eventually(lambda: _left(queue, OTHER, 64))
    await pause(queue, [Selection(lane=Lane.EVENTS)], by="me")
    await queue.run_script("claim", Lane.EVENTS, 4, "t", "w", 30_000, 1, 0, 86_400_000, OTHER)
    assert await left(queue) == {OTHER: 64}


async def test_a_push_takes_a_job_back_that_is_left_to_others(queue: Queue) -> None:
    (job,) = jobs(OTHER, 1)
    await queue.enqueue([job], Lane.BACKFILL)
    async with process(queue, NEW) as new:
        await eventually(lambda: _left(queue, OTHER, 1))
        await queue.enqueue([replace(job, payload={"rules": NEW})], Lane.EVENTS)
        await idle(queue)
        assert new.done == [job.id]
        # Those that knew nothing of its former content may know this one.
        assert new.runs[0].asked == ()
        assert await left(queue) == {}


async def test_what_no_process_has_queued_is_offered_to_each_other_one_once(queue: Queue) -> None:
    (job,) = jobs(OTHER, 1)
    await queue.enqueue([job], Lane.EVENTS)
    async with process(queue, OLD) as old, process(queue, NEW, FOREIGN) as new:
        await eventually(lambda: _left(queue, OTHER, 1))
        assert (old.offered, new.offered) == ({job.id: 1}, {job.id: 1})
        assert (old.ended, new.ended) == ([], [])


async def test_one_that_knows_it_by_other_rules_takes_it(queue: Queue) -> None:
    (job,) = jobs(OTHER, 1)
    async with process(queue, OLD) as old:
        async with process(queue, NEW, FOREIGN, knows=OTHER) as new:
            await queue.enqueue([job], Lane.EVENTS)
            await idle(queue)
        assert new.done == [job.id]
        assert old.offered.total() <= 1


@pytest.mark.parametrize("former", ["serve", "backfill"])
async def test_a_job_of_a_former_version_of_the_own_rules_ends_at_once(queue: Queue, former: str) -> None:
    async with shown(queue, OLD, command=former):
        pass
    async with shown(queue, NEW, ("b", "c")) as new:
        assert await new.place(OLD, ()) == replace(await new.place(OLD, ()), left_to=None, is_former=True)


async def test_in_a_rolling_update_it_ends_when_the_last_process_with_the_former_rules_has(queue: Queue) -> None:
    async with shown(queue, NEW) as new:
        async with shown(queue, OLD):
            # It came first, and stays for a while beside the new one.
            pass
        fresh = InForce(queue, NEW, FILE)
        fresh.turn = new.turn
        # But a version that came later, and is away, is waited for.
        assert (await fresh.place(OLD, ())).left_to == f"{OLD} {NEW} {OLD}"
    async with shown(queue, OTHER) as later:
        async with shown(queue, NEW):
            assert (await later.place(NEW, ())).left_to is not None
        fresh = InForce(queue, OTHER, FILE)
        fresh.turn = later.turn
        assert (await fresh.place(NEW, ())).is_former


async def test_another_content_of_the_same_file_takes_over_from_the_one_before(queue: Queue, tmp_path: Path) -> None:
    file, other = tmp_path / "rules.yaml", tmp_path / "other.yaml"
    origin = origin_of(Settings(config=file))
    assert origin == origin_of(Settings(config=tmp_path / "." / "rules.yaml"))
    assert origin_of(Settings(config=other)) not in ("", origin)
    assert origin_of(Settings(config=tmp_path / "absent" / "rules.yaml")) == ""
    async with shown(queue, OLD, ("a",), origin=origin):
        pass
    for at, is_former in ((origin, True), (origin_of(Settings(config=other)), False)):
        async with shown(queue, NEW, ("z",), origin=at) as new:
            assert (await new.place(OLD, ())).is_former is is_former


async def test_a_reload_takes_over_from_the_rules_before_it_at_once(queue: Queue) -> None:
    async with shown(queue, OLD, ("a",)) as in_force:
        in_force.renew(NEW, ("z",))

        async def has_taken_over() -> bool:
            return (await in_force.place(OLD, ())).is_former

        await eventually(has_taken_over)


async def test_a_redis_that_lost_its_state_counts_the_turns_from_the_start(queue: Queue) -> None:
    async with shown(queue, OLD), shown(queue, NEW) as new:
        assert new.turn == 2
        await queue.redis.delete(f"{queue.prefix}:turns")
        new.changed.set()

        async def counted() -> bool:
            return new.turn == 1

        await eventually(counted)


async def test_the_rules_of_another_installation_or_of_an_older_version_are_waited_for_and_for_ten_minutes_only(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configurations.AWAY_SECONDS == 600
    async with shown(queue, OTHER, FOREIGN), announced(queue, "serve", "0", lambda: LoadedConfig(1.0, None)):
        pass
    async with shown(queue, NEW) as new:
        for digest in (OTHER, ""):
            with structlog.testing.capture_logs() as logs:
                assert (await new.place(digest, ())).left_to == f"{digest} {NEW} {digest}".rstrip()
            assert [each["event"] for each in logs] == ["copies wait for their rules"]
        monkeypatch.setattr(configurations, "AWAY_SECONDS", 0.0)
        for digest in (OTHER, ""):
            place = await new.place(digest, ())
            assert (place.left_to, place.is_former) == (None, False)


async def test_one_off_rules_are_known_as_such_and_nothing_else_is_offered_to_them(queue: Queue) -> None:
    async with shown(queue, NEW) as new, shown(queue, OTHER, FOREIGN, "backfill"):
        assert (await new.place(OTHER, ())).is_one_off
        assert (await new.place(OLD, ())).left_to == f"{OLD} {NEW} {OLD}"
        assert Differing.among(await processes(queue)) is None


async def test_without_an_answer_of_redis_the_job_is_left_to_those_that_queued_it(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_force = InForce(queue, NEW, FILE)

    async def gone(*_: object) -> None:
        raise QueueUnavailable("away")

    monkeypatch.setattr(queue, "ask", gone)
    assert (await in_force.place(OLD, (OTHER,))).left_to == f"{OLD} {OTHER} {NEW} {OLD}"


async def test_two_installations_on_one_queue_are_told_of_each_other_once(queue: Queue) -> None:
    with structlog.testing.capture_logs() as logs:
        async with shown(queue, NEW) as new, shown(queue, OLD, ("b",)), shown(queue, OTHER, FOREIGN) as other:
            new.changed.set()
            await eventually(lambda: _told(logs, 2))
            new.changed.set()
            other.changed.set()
            await eventually(lambda: _quiet(new, other))
    told = [(each["rules"], each["prefix"]) for each in logs if each["event"] == "queue shared with other rules"]
    assert sorted(told) == sorted([(OTHER[:12], queue.prefix), (NEW[:12], queue.prefix), (OLD[:12], queue.prefix)])


async def _told(logs: list[Any], number: int) -> bool:
    return len([each for each in logs if each["event"] == "queue shared with other rules"]) >= number


async def _quiet(*all_of: InForce) -> bool:
    return not any(each.changed.is_set() for each in all_of)


async def test_processes_with_different_rules_are_told_of_with_the_time_since_they_differ(queue: Queue) -> None:
    async with shown(queue, OLD), shown(queue, NEW), shown(queue, NEW), shown(queue, OTHER, command="backfill"):
        found = await processes(queue)
    assert [each.rules for each in found if each.stays].count(NEW) == 2

    def since(process: ProcessInfo, seconds: float) -> ProcessInfo:
        assert process.seen is not None
        return replace(process, rules_since=process.seen - timedelta(seconds=seconds))

    # The second of the new ones restarted a moment ago.
    ages = {OLD: [9_000.0], NEW: [400.0, 5.0], OTHER: [9_000.0]}
    found = [since(each, ages[each.rules].pop(0)) for each in found]
    differing = Differing.among(found)
    assert differing is not None
    assert differing.is_old
    assert 399 < differing.seconds < 402
    assert OLD[:12] in differing.sentence
    assert "REPLICATOR_REDIS_PREFIX" in differing.sentence
    assert Differing.among([each for each in found if each.rules != OLD]) is None
    recent = Differing.among([since(each, 60) for each in found])
    assert recent is not None
    assert not recent.is_old
    # An older version does not tell its rules.
    assert Differing.among([replace(found[0], rules=""), *found[1:2]]) is None


async def test_since_when_a_process_has_its_rules_stays_the_same_until_it_has_others(queue: Queue) -> None:
    async with shown(queue, OLD) as in_force:
        (first,) = await processes(queue)

        async def next_sign(former: ProcessInfo) -> ProcessInfo | None:
            (found,) = await processes(queue)
            return found if found.seen != former.seen else None

        in_force.changed.set()
        second = await eventually(lambda: next_sign(first))
        assert second.rules_since == first.rules_since
        in_force.renew(NEW, FILE)
        third = await eventually(lambda: next_sign(second))
        assert (third.rules, third.rules_since) == (NEW, third.seen)


async def test_what_is_known_of_configurations_is_bounded(queue: Queue) -> None:
    for number in range(70):
        await KnownConfig.read(queue, f"{number:032x}")
    known = await KnownConfig.read(queue)
    assert len(known) == 64
    assert f"{69:032x}" in known


async def test_an_older_version_takes_a_job_that_is_left_to_others_within_seconds(queue: Queue) -> None:
    await queue.enqueue(jobs(OTHER, 1), Lane.EVENTS)
    async with process(queue, NEW):
        await eventually(lambda: _left(queue, OTHER, 1))
    (score,) = (await command(queue, "ZRANGE", queue.lane_queue(Lane.EVENTS), "0", "-1", "WITHSCORES"))[1::2]
    assert float(score) / 1000 - time.time() < 6
    # It knows nothing of configurations.
    await queue.redis.zadd(queue.lane_queue(Lane.EVENTS), {f"{queue.prefix}:{jobs(OTHER, 1)[0].id}": 1})
    older = Recorder()
    async with working(queue, older):
        await idle(queue)
    assert len(older.runs) == 1
    assert await left(queue) == {}
