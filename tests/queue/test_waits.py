"""Jobs that wait for a key: without a lease, a slot or an attempt, until it is back or their patience is at its end."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from replicator.errors import AGAIN, ErrorClass, ReplicatorError, Wait
from replicator.queue import (
    DeadLetters,
    Job,
    Lane,
    Queue,
    RetryPolicy,
    Running,
    list_waits,
    open_wait_reporter,
)
from tests.queue.conftest import PATIENCE, Recorder, command, eventually, idle, working

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.queue import KeySilence

DEAD, FINE = "dead.example", "fine.example"


class Silent(ReplicatorError):
    """The error of a host that does not answer."""

    error_class = ErrorClass.TRANSIENT

    def __init__(self, key: str = DEAD, *, since: float | None = None, pause: float = 60.0, **more: Any) -> None:
        super().__init__(f"{key} says nothing")
        self.wait = Wait(key, time.time() if since is None else since, pause, **more)


class Hosts(Recorder):
    """A handler that fails for jobs whose host is silent."""

    def __init__(self, **error: Any) -> None:
        super().__init__()
        self.silent = {DEAD}
        self.error = error

    async def __call__(self, running: Running) -> dict[str, Any]:
        outcome = await super().__call__(running)
        for key in self.silent:
            if running.id.startswith(f"{key}/") or str(running.payload.get("source", "")).startswith(f"{key}/"):
                raise Silent(key, **self.error)
        return outcome

    @property
    def ids(self) -> list[str]:
        return [run.id for run in self.runs]


def jobs(host: str, number: int, start: int = 0) -> list[Job]:
    names = [f"{host}/app:t{n:05}" for n in range(start, start + number)]
    return [Job(name, {"destination": name}) for name in names]


async def silences(queue: Queue, waiting: int) -> list[KeySilence]:
    async def enough() -> list[KeySilence]:
        found = await list_waits(queue)
        return found if sum(each.total for each in found) == waiting else []

    # Shown at once, and not only after ten seconds.
    async with open_wait_reporter(queue) as reporter:
        reporter.begin(DEAD, since=time.time(), probe_in=60, is_open=True, why="no answer")
        found: list[KeySilence] = await eventually(enough)
        return found


async def resume(queue: Queue, key: str = DEAD) -> None:
    await queue.ask("wait_end", key)


async def test_one_job_is_tried_and_all_others_that_need_its_host_are_not_even_started(queue: Queue) -> None:
    handler = Hosts()
    await queue.enqueue(jobs(DEAD, 1), Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1, PATIENCE)
        (found,) = await silences(queue, 1)
        await queue.enqueue([*jobs(DEAD, 30, 1), Job("x.example/a:1", {"source": f"{DEAD}/a:1"})], Lane.EVENTS)
        await queue.enqueue(jobs(FINE, 5), Lane.EVENTS)
        await handler.started(6, PATIENCE)
        (found,) = await silences(queue, 32)
        assert (found.key, found.jobs) == (DEAD, {Lane.EVENTS: 32, Lane.BACKFILL: 0})

        async def settled() -> bool:
            counts = (await queue.counts()).lanes[Lane.EVENTS]
            return (counts.queued, counts.running, counts.waiting) == (0, 0, 32)

        await eventually(settled)
        assert sorted(handler.ids) == sorted(job.id for job in [*jobs(DEAD, 1), *jobs(FINE, 5)])
        (waiting,) = await queue.waiting()
        assert (waiting.tries, waiting.message, waiting.waits_for) == (0, f"{DEAD} says nothing\n\n{AGAIN}", DEAD)


async def test_when_the_host_is_back_they_go_on_in_their_order_and_have_lost_no_attempt(queue: Queue) -> None:
    handler = Hosts()
    await queue.enqueue(jobs(DEAD, 1), Lane.EVENTS)
    async with working(queue, handler, concurrency={Lane.EVENTS: 1}):
        await handler.started(1, PATIENCE)
        await silences(queue, 1)
        await queue.enqueue(jobs(DEAD, 5, 1), Lane.EVENTS)
        await silences(queue, 6)
        handler.silent.clear()
        await resume(queue)
        await idle(queue)
    assert handler.ids[1:] == [job.id for job in jobs(DEAD, 6)]
    assert {run.tries for run in handler.runs} == {1}
    assert await list_waits(queue) == []


async def test_one_of_them_at_a_time_is_the_probe_and_its_success_brings_back_all(queue: Queue) -> None:
    handler = Hosts(pause=0.05)
    await queue.enqueue(jobs(DEAD, 1), Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(2, PATIENCE)
        await queue.enqueue(jobs(DEAD, 20, 1), Lane.EVENTS)
        await handler.started(5, PATIENCE)
        assert handler.overlaps == 0
        assert max(handler.active.values()) <= 1
        handler.silent.clear()
        await idle(queue)
    assert {run.tries for run in handler.runs} == {1}
    # Each was started once after the silence, whatever probes there were before.
    assert len(handler.ids) < 40


async def test_a_push_while_its_job_waits_is_served_by_the_one_attempt_after_it(queue: Queue) -> None:
    handler = Hosts()
    (job,) = jobs(DEAD, 1)
    await queue.enqueue([job], Lane.BACKFILL)
    async with working(queue, handler):
        await handler.started(1, PATIENCE)
        await silences(queue, 1)
        await queue.enqueue([Job(job.id, {**job.payload, "digest": "newer"})], Lane.EVENTS)

        async def moved() -> bool:
            (found,) = await list_waits(queue)
            return found.jobs[Lane.EVENTS] == 1

        await eventually(moved)
        assert len(handler.runs) == 1
        handler.silent.clear()
        await resume(queue)
        await idle(queue)
    assert [run.payload.get("digest") for run in handler.runs] == [None, "newer"]
    assert (await queue.counts()).dead == 0


async def test_thousands_that_wait_are_put_aside_without_being_started_and_cost_nothing_afterwards(
    queue: Queue,
) -> None:
    handler = Hosts()
    await queue.enqueue(jobs(DEAD, 5000), Lane.BACKFILL)
    await queue.enqueue(jobs(FINE, 5), Lane.BACKFILL)
    async with working(queue, handler, concurrency={Lane.BACKFILL: 2}, policy=RetryPolicy()):
        await handler.started(7, PATIENCE)
        # At most as many as had been started before the first silence was known.
        assert len([run for run in handler.runs if run.id.startswith(DEAD)]) <= 4
        await silences(queue, 5000)
        due = await command(queue, "ZCOUNT", queue.lane_queue(Lane.BACKFILL), "-inf", int(time.time() + 60) * 1000)
        assert due == 0, "nothing is looked at again within a minute"


async def test_a_version_that_knows_no_waits_finds_them_within_a_quarter_of_an_hour(queue: Queue) -> None:
    handler = Hosts()
    await queue.enqueue(jobs(DEAD, 1), Lane.EVENTS)
    async with working(queue, handler, policy=RetryPolicy()):
        await silences(queue, 1)
    score = await queue.redis.zscore(queue.lane_queue(Lane.EVENTS), f"{queue.prefix}:{jobs(DEAD, 1)[0].id}")
    assert score is not None
    assert 0 < score / 1000 - time.time() <= 900


async def test_another_process_goes_on_with_the_probes_of_one_that_is_gone(queue: Queue) -> None:
    gone = Hosts(pause=0.05)
    await queue.enqueue(jobs(DEAD, 3), Lane.EVENTS)
    async with working(queue, gone):
        await gone.started(1, PATIENCE)
    handler = Recorder()
    async with working(queue, handler):
        await idle(queue)
    assert sorted(run.id for run in handler.runs) == [job.id for job in jobs(DEAD, 3)]


async def test_at_the_horizon_a_job_is_given_up_with_the_host_and_its_silence_as_the_reason(queue: Queue) -> None:
    handler = Hosts(since=1_700_000_000.0)
    await queue.enqueue(jobs(DEAD, 2), Lane.EVENTS)
    async with working(queue, handler, policy=RetryPolicy(horizon=0.3)):

        async def given_up() -> bool:
            return (await queue.counts()).dead == 2

        await eventually(given_up)
    letters = (await DeadLetters(queue).page()).letters
    assert {letter.error_class for letter in letters} == {ErrorClass.TRANSIENT}
    for letter in letters:
        assert letter.message == f"{DEAD} says nothing\ngiven up: {DEAD} has been silent since 2023-11-14 22:13:20 UTC"


async def test_a_run_with_few_retries_hears_after_their_time_and_an_event_goes_on_waiting(queue: Queue) -> None:
    handler = Hosts(patience=0.1, pause=0.05)
    names = jobs(DEAD, 2)
    await queue.enqueue([Job(job.id, job.payload, retries=1) for job in names], Lane.BACKFILL, run="r")
    await queue.enqueue(names[:1], Lane.EVENTS)
    ends: Mapping[str, Any] = {}
    async with working(queue, handler), asyncio.timeout(10):
        async for finished in queue.finished("r"):
            ends = {**ends, finished.id: finished.retrying}
            if len(ends) == 2:
                break
    assert ends == {names[0].id: True, names[1].id: False}
    assert [letter.id for letter in (await DeadLetters(queue).page()).letters] == [names[1].id]


async def test_slots_of_jobs_that_hang_on_a_silent_host_are_lent_to_others(queue: Queue) -> None:
    handler = Recorder()
    handler.gate.clear()
    await queue.enqueue(jobs(DEAD, 6), Lane.EVENTS)
    async with working(queue, handler, concurrency={Lane.EVENTS: 4}), open_wait_reporter(queue) as reporter:
        await handler.started(4, PATIENCE)
        await queue.enqueue(jobs(FINE, 4), Lane.EVENTS)
        reporter.begin(DEAD, since=time.time(), probe_in=60, is_open=False, why="")
        await handler.started(8, PATIENCE)
        assert sorted(run.id for run in handler.runs[4:]) == [job.id for job in jobs(FINE, 4)]
        handler.gate.set()
        reporter.end(DEAD)
        await idle(queue)


async def test_a_late_word_of_silence_does_not_stop_what_an_answer_has_just_set_going(queue: Queue) -> None:
    async with open_wait_reporter(queue) as reporter:
        reporter.begin(DEAD, since=time.time(), probe_in=60, is_open=True, why="no answer")
        await eventually(lambda: list_waits(queue))
        await resume(queue)
        await queue.ask("wait_begin", DEAD, int(time.time() * 1000), 60_000, "1", "no answer")
    assert await list_waits(queue) == []


async def test_a_slow_answer_that_nothing_waits_for_is_not_told_of(queue: Queue) -> None:
    handler = Hosts()
    long_ago = int((time.time() - 60) * 1000)
    await queue.ask("wait_begin", DEAD, long_ago, 60_000, "", "")
    assert await list_waits(queue) == []
    await queue.enqueue(jobs(DEAD, 1), Lane.EVENTS)
    async with working(queue, handler):
        (found,) = await eventually(lambda: list_waits(queue))
        assert found.total == 1
    await queue.ask("wait_begin", FINE, long_ago, 60_000, "", "no answer yet")
    assert {each.key for each in await list_waits(queue)} == {DEAD, FINE}


async def test_an_overloaded_host_costs_no_attempt(queue: Queue) -> None:
    handler = Recorder()
    handler.errors = [Silent("", pause=0.0) for _ in range(5)]
    (job,) = jobs(FINE, 1)
    await queue.enqueue([Job(job.id, job.payload, retries=1)], Lane.BACKFILL)
    async with working(queue, handler):
        await idle(queue)
    assert [run.tries for run in handler.runs] == [1] * 6
    assert (await queue.counts()).dead == 0


async def put_record(queue: Queue, *, answered: float = 0.0, back: float = 10.0) -> None:
    """Have the key's last silence end ``back`` seconds ago, and its last answer be ``answered`` seconds old."""
    now = time.time() * 1000
    record = {"since": now - 3_600_000, "next": 0, "back": now - back * 1000, "answered": now - answered * 1000}
    await command(queue, "HSET", f"{queue.prefix}:waits", DEAD, json.dumps(record))


async def look_again(queue: Queue, key: str = DEAD) -> None:
    """Have one job of a key be the probe now."""
    await queue.ask("wait_begin", key, int(time.time() * 1000), 0, "1", "no answer")
    await command(queue, "PUBLISH", queue.wake_channel, Lane.EVENTS)


async def test_a_worker_that_alone_gets_no_answer_leaves_the_jobs_to_others_and_stops_nobody(queue: Queue) -> None:
    cut_off, fine = Hosts(since=time.time() - 3600), Hosts()
    fine.silent.clear()
    one = {Lane.EVENTS: 1}
    names = jobs(DEAD, 4)
    await put_record(queue)
    async with working(queue, cut_off, concurrency=one):
        # Its patience is at its end here, but nobody else has waited for anything.
        await queue.enqueue([Job(names[0].id, names[0].payload, retries=1), *names[1:]], Lane.EVENTS)
        await queue.enqueue(jobs(FINE, 2), Lane.EVENTS)
        await cut_off.started(3, PATIENCE)
        async with working(queue, fine, concurrency=one):
            await idle(queue)
    assert cut_off.ids == [names[0].id, *(job.id for job in jobs(FINE, 2))]
    assert fine.ids == [job.id for job in names]
    assert await list_waits(queue) == []
    assert (await queue.counts()).dead == 0


async def test_a_worker_that_reaches_the_host_again_takes_all_of_its_jobs_again(queue: Queue) -> None:
    handler = Hosts(since=time.time() - 3600, pause=0.0)
    await put_record(queue)
    await queue.enqueue(jobs(DEAD, 1), Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1, PATIENCE)
        handler.silent.clear()
        await queue.enqueue(jobs(DEAD, 5, 1), Lane.EVENTS)
        await idle(queue)
    assert len(handler.ids) == 7


async def test_a_silence_counts_for_all_if_nobody_has_had_an_answer_since_it_began(queue: Queue) -> None:
    now, hour = time.time(), 3600.0
    cases = [
        # seconds since the last answer, seconds of silence, whether it counts
        (1.0, hour, False),
        (1.0, 3.0, True),
        (20.0, 10.0, True),
        (61.0, hour, True),
    ]
    for answered, silent, counts in cases:
        await put_record(queue, answered=answered, back=70.0)
        facts = (int((now - silent) * 1000), 60_000, "1", "no answer")
        assert await queue.ask("wait_begin", DEAD, *facts) == int(counts), (answered, silent)


async def test_every_copy_to_a_host_that_was_silent_shows_that_it_answers(queue: Queue) -> None:
    handler = Hosts()
    handler.silent.clear()
    await put_record(queue, answered=50.0)
    async with working(queue, handler):
        await queue.enqueue(jobs(DEAD, 1), Lane.EVENTS)
        await idle(queue)
    record = json.loads(await command(queue, "HGET", f"{queue.prefix}:waits", DEAD))
    assert record["answered"] / 1000 > time.time() - 40


async def test_another_silent_host_does_not_hold_up_the_probes_of_one(queue: Queue) -> None:
    other = "other.example"
    handler = Hosts()
    handler.silent = {other}
    both = [Job(job.id, {**job.payload, "source": f"{DEAD}/app:1"}) for job in jobs(other, 2)]
    alone = Job(f"{FINE}/app:1", {"source": f"{DEAD}/app:1"})
    await queue.ask("wait_begin", DEAD, int(time.time() * 1000), 60_000, "1", "no answer")
    async with working(queue, handler):
        await queue.enqueue(both, Lane.EVENTS)
        await queue.enqueue([alone], Lane.EVENTS)

        async def waiting() -> bool:
            return bool((await list_waits(queue))[0].total == 3)

        await eventually(waiting)
        await queue.ask("wait_begin", other, int(time.time() * 1000), 60_000, "1", "no answer")
        await look_again(queue)
        await handler.started(3, PATIENCE)

        async def sorted_out() -> bool:
            return {each.key: each.total for each in await list_waits(queue)} == {DEAD: 0, other: 2}

        await eventually(sorted_out)
    assert handler.ids == [alone.id, *(job.id for job in both)]


async def test_a_copy_that_did_not_need_its_silent_source_brings_nothing_back_and_the_next_one_is_tried(
    queue: Queue,
) -> None:
    def told(payload: Mapping[str, Any], _: Mapping[str, Any]) -> list[str]:
        return [DEAD] if payload.get("asked") else []

    handler = Recorder()
    names = [Job(f"{FINE}/app:{n}", {"source": f"{DEAD}/app:{n}", "asked": n == 1}) for n in range(8)]
    await queue.ask("wait_begin", DEAD, int(time.time() * 1000), 60_000, "1", "no answer")
    async with working(queue, handler, answered=told, concurrency={Lane.EVENTS: 8}):
        await queue.enqueue(names, Lane.EVENTS)

        async def waiting() -> bool:
            return bool((await list_waits(queue))[0].total == 8)

        await eventually(waiting)
        handler.gate.clear()
        await look_again(queue)
        await handler.started(1, PATIENCE)
        # The second one is the probe after the first; its word brings back the others, at once.
        handler.gate.set()
        handler.gate = asyncio.Event()
        await handler.started(2, PATIENCE)
        (found,) = await list_waits(queue)
        assert found.total == 6
        handler.gate.set()
        await idle(queue)
    assert await list_waits(queue) == []
