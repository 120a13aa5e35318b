"""Pauses and cancellations: what a person stops does not start and is not lost, and nothing else waits for it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from replicator.errors import ErrorClass
from replicator.queue import (
    Finished,
    Job,
    Lane,
    LaneCounts,
    Queue,
    RetryPolicy,
    Running,
    Selection,
    TooManyPauses,
    cancel,
    list_jobs,
    list_pauses,
    pause,
    resume,
)
from replicator.queue.waits import MAX_PAUSES, MAX_WILDCARDS
from replicator.retry import alive
from tests.queue.conftest import Recorder, command, eventually, idle, working
from tests.queue.test_retrying import Fault

ALL, LEASE_MS = Selection(), 30_000
TEAM = Selection(rule="h.example/team/**")
ONE_EACH = {Lane.EVENTS: 1, Lane.BACKFILL: 1}


def job(name: str, *, team: str = "team", **more: Any) -> Job:
    payload = {"source": f"h.example/{team}/{name}:1", "rule": f"h.example/{team}/**"}
    return Job(f"r.example:5000/mirror/{name}:1", payload, **more)


async def claimed(queue: Queue, lane: Lane = Lane.EVENTS, *, count: int = 10, token: str = "t") -> list[str]:
    """Start jobs by the script alone; return the names of their repositories."""
    _, *replies = await queue.run_script("claim", lane, count, token, "w", LEASE_MS, 1, 0)
    return sorted(reply[0].decode().split("/")[-1].partition(":")[0] for reply in replies)


async def ended(queue: Queue, run: str, number: int) -> list[Finished]:
    found: list[Finished] = []
    async with asyncio.timeout(10):
        async for each in queue.finished(run):
            found.append(each)
            if len(found) == number:
                break
    return found


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (ALL, "a b c"),
        (Selection(rule="h.example/team/**"), "a b"),
        (Selection(rule="h.example/*/**"), "a b c"),
        (Selection(rule="h.example/*"), ""),
        (Selection(source="team/**"), "a b"),
        (Selection(source="h.example/team/a"), "a"),
        (Selection(source="team/a:1*"), "a"),
        (Selection(source="team/?"), "a b"),
        (Selection(source="**/a"), "a"),
        (Selection(source="tea"), ""),
        (Selection(source="*"), ""),
        (Selection(source="t*m/*:?"), "a b"),
        (Selection(destination="mirror/b"), "b"),
        (Selection(destination="r.example:5000/mirror/*:1"), "a b c"),
        (Selection(destination="**b**1"), "b"),
        (Selection(host="h.example"), "a b c"),
        (Selection(host="r.example*"), "a b c"),
        (Selection(host="example"), ""),
        (Selection(lane=Lane.BACKFILL), "c"),
        (Selection(lane=Lane.BACKFILL, source="team/**"), ""),
        (Selection(rule="h.example/other/**", destination="mirror/c"), "c"),
        (Selection(run="a-run"), "c"),
        (Selection(run="another"), ""),
    ],
    ids=lambda value: value.options if isinstance(value, Selection) else None,
)
async def test_jobs_are_selected_by_rule_source_destination_host_lane_and_run(
    queue: Queue, selection: Selection, names: str
) -> None:
    await queue.enqueue([job("a"), job("b")], Lane.EVENTS)
    await queue.enqueue([job("c", team="other")], Lane.BACKFILL, run="a-run")
    listed, total = await list_jobs(queue, [selection], limit=10)
    assert sorted(each.id.split("/")[-1][0] for each in listed) == names.split()
    assert total == len(listed)
    assert await cancel(queue, [selection], dry_run=True) == (total, [])
    await pause(queue, [selection], by="me")
    started = [name for lane in Lane for name in await claimed(queue, lane, token=lane)]
    # A job is not started if any selection pauses it, so those that are started are all the others.
    expected = set("abc") - set(names.split())
    assert set(started) == expected


async def test_a_pattern_is_compared_with_a_long_name_in_little_time(queue: Queue) -> None:
    await queue.enqueue([Job(f"h.example/{'a' * 900}/x:v1", {})], Lane.EVENTS)
    async with asyncio.timeout(10):  # it was more than a minute
        found = await list_jobs(queue, [Selection(destination=f"**a*{'a' * 400}b"), ALL], limit=1)
    assert found[1] == 1
    _, total = await list_jobs(queue, [Selection(destination="**a*a?x:v?"), Selection(destination="h*/**a/x")], limit=1)
    assert total == 1, "it goes on behind the slash"


def test_patterns_that_would_hold_up_redis_are_refused_and_combinations_are_told_apart() -> None:
    with pytest.raises(ValueError, match=f"{MAX_WILDCARDS} wildcards"):
        Selection(source="*" * (MAX_WILDCARDS + 1))
    with pytest.raises(ValueError, match="1024 characters"):
        Selection(rule="a" * 1025)
    found = Selection.combinations(rule=["a", "b", "a"], lane=[Lane.EVENTS], source=[])
    assert [each.sentence for each in found] == ["rule a, lane events", "rule b, lane events"]
    assert len({each.name for each in (*found, ALL)}) == 3
    assert Selection.combinations() == (ALL,)
    with pytest.raises(ValueError, match="--source is empty"):
        Selection.combinations(rule=["a"], source=["b", ""])
    assert (ALL.options, ALL.sentence) == ("--all", "everything")
    assert Selection(rule="h/it's/**", lane=Lane.EVENTS).options == """--rule 'h/it'"'"'s/**' --lane events"""


async def test_paused_jobs_take_no_slot_and_no_attempt_and_hide_nothing_and_come_back_in_their_order(
    queue: Queue, handler: Recorder
) -> None:
    await queue.enqueue([job(f"p{n:04}") for n in range(1200)], Lane.EVENTS)
    await queue.enqueue([job("free", team="other")], Lane.EVENTS)
    await pause(queue, [TEAM], by="me")
    async with working(queue, handler, concurrency=ONE_EACH):
        await handler.started(1)
        assert [run.payload["source"] for run in handler.runs] == ["h.example/other/free:1"]

        async def parked() -> bool:
            return (await queue.counts()).lanes[Lane.EVENTS] == LaneCounts(0, 0, 0, 1200)

        await eventually(parked)
        (held,) = await list_pauses(queue)
        assert (held.selection, held.by, held.held) == (TEAM, "me", 1200)
        await queue.enqueue([job("p0007")], Lane.EVENTS)  # a push is taken and kept
        await asyncio.sleep(0.1)
        assert len(handler.runs) == 1
        assert await resume(queue, [TEAM, ALL]) == {TEAM.name}
        await handler.started(101)
        resumed = [run.payload["source"] for run in handler.runs[1:101]]
        assert all(run.tries == 1 for run in handler.runs)
        assert resumed == [f"h.example/team/p{n:04}:1" for n in range(100)]
    assert await list_pauses(queue) == []


@pytest.mark.parametrize("selection", [ALL, Selection(lane=Lane.EVENTS)], ids=["all", "lane"])
async def test_a_whole_lane_is_paused_and_goes_on_at_once(
    queue: Queue, handler: Recorder, selection: Selection
) -> None:
    await pause(queue, [selection], by="me")
    async with working(queue, handler):
        await queue.enqueue([job("a")], Lane.EVENTS)
        await queue.enqueue([job("b")], Lane.BACKFILL)
        if selection is ALL:
            await asyncio.sleep(0.1)
            assert handler.runs == []
        else:
            await handler.started(1)
            assert [run.lane for run in handler.runs] == [Lane.BACKFILL]
        listed, _ = await list_jobs(queue, [ALL], limit=10)
        assert {each.state for each in listed if each.lane is Lane.EVENTS} == {"paused"}
        (held,) = await list_pauses(queue)
        assert held.held == sum(each.state == "paused" for each in listed)
        await resume(queue, [selection])
        await idle(queue)
    assert len(handler.runs) == 2


async def test_a_pause_outlives_its_processes_and_is_the_first_ones(queue: Queue, prefix: str) -> None:
    await pause(queue, [TEAM], by="first")
    (before,) = await list_pauses(queue)
    await pause(queue, [TEAM], by="second")
    assert await list_pauses(queue) == [before]
    assert before.since <= datetime.now(UTC)
    assert before.sentence.startswith("rule h.example/team/** has been paused since ")
    many = [Selection(rule=str(number)) for number in range(MAX_PAUSES)]
    with pytest.raises(TooManyPauses, match=f"{MAX_PAUSES} pauses"):
        await pause(queue, many, by="me")
    assert await list_pauses(queue) == [before], "all of them or none"
    await pause(queue, [TEAM, *many[1:]], by="me")
    with pytest.raises(TooManyPauses, match=f"{MAX_PAUSES} pauses"):
        await pause(queue, [Selection(rule="one more")], by="me")


async def test_running_jobs_end_or_are_handed_back_now_without_an_attempt(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    async with working(queue, handler, lease=3.0):
        await queue.enqueue([job("a"), job("b", team="other")], Lane.EVENTS)
        await handler.started(2)
        assert await pause(queue, [TEAM], by="me") == 0
        await asyncio.sleep(0.1)
        assert handler.cancelled == 0, "a pause lets them end"
        assert await pause(queue, [TEAM], by="me", now=True) == 1

        async def handed_back() -> bool:
            return (await queue.counts()).lanes[Lane.EVENTS].paused == 1

        await eventually(handed_back)
        assert handler.cancelled == 1
        (listed,), _ = await list_jobs(queue, [TEAM], limit=10)
        assert (listed.state, listed.pause, listed.failure) == ("paused", TEAM.name, "")
        handler.gate.set()
        await resume(queue, [TEAM])
        await idle(queue)
    assert [run.tries for run in handler.runs] == [1, 1, 1]


async def test_the_tag_of_a_job_that_was_stopped_is_not_written(queue: Queue) -> None:
    told = asyncio.Event()

    async def handle(running: Running) -> dict[str, Any]:
        await queue.enqueue([job("a")], Lane.EVENTS)
        await pause(queue, [TEAM], by="me", now=True)
        alive()
        await running.confirm()
        told.set()
        return {}

    async with working(queue, handle, lease=30.0, timeout=None):
        await queue.enqueue([job("a")], Lane.EVENTS)

        async def parked() -> bool:
            return (await queue.counts()).lanes[Lane.EVENTS].paused == 1

        await eventually(parked)
    assert not told.is_set()


async def test_a_tag_whose_job_was_stopped_is_not_written_once_more_after_a_write_without_an_answer(
    queue: Queue, handler: Recorder
) -> None:
    async def handle(running: Running) -> dict[str, Any]:
        await running.confirm()  # no answer comes
        await cancel(queue, [ALL])
        await running.confirm()
        return await handler(running)

    async with working(queue, handle, lease=30.0, timeout=None):
        await queue.enqueue([job("a")], Lane.EVENTS)
        await idle(queue)
    assert handler.runs == []


async def test_a_job_is_cancelled_in_every_state_and_its_runs_hear_of_it(queue: Queue, handler: Recorder) -> None:
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    slow = RetryPolicy(first=600, cap=600)
    async with working(queue, handler, policy=slow, concurrency=ONE_EACH, lease=3.0):
        await queue.enqueue([job("waits")], Lane.BACKFILL, run="r")

        async def waits() -> bool:
            return (await queue.counts()).lanes[Lane.BACKFILL].waiting == 1

        await eventually(waits)
        handler.gate.clear()
        await queue.enqueue([job("runs")], Lane.BACKFILL, run="r")
        await handler.started(2)
        await queue.enqueue([job("queued"), job("merged")], Lane.BACKFILL, run="r")
        await queue.enqueue([job("merged")], Lane.EVENTS)
        await eventually(lambda: started(handler, 3))
        await pause(queue, [Selection(source="team/parked")], by="me")
        await queue.enqueue([job("other", team="other")], Lane.BACKFILL)
        # "merged" runs in the lane of events, "runs" in that of the backfill.
        forgotten, told = await cancel(queue, [TEAM])
        assert (forgotten, len(told)) == (2, 2)
        found = await ended(queue, "r", 4)
        assert all(each.cancelled and each.outcome is None for each in found)
        assert {each.id.split("/")[-1] for each in found} == {"waits:1", "runs:1", "queued:1", "merged:1"}
        assert handler.cancelled == 2
        handler.gate.set()
        await idle(queue)
        assert len(handler.runs) == 4, "only what was not selected ran"
    # Nothing of them is left but what the history of the queue keeps anyway.
    left = [key.decode().removeprefix(f"{queue.prefix}:") for key in await command(queue, "KEYS", f"*{queue.prefix}*")]
    assert sorted(left) == ["clock", "finished:r", "history:attempts", "pauses", "ping", "seq"]


async def started(handler: Recorder, number: int) -> bool:
    return len(handler.runs) >= number


async def test_a_push_after_a_cancellation_is_copied_and_one_before_it_is_not(queue: Queue, handler: Recorder) -> None:
    handler.gate.clear()
    async with working(queue, handler, concurrency=ONE_EACH, lease=30.0):
        await queue.enqueue([job("a")], Lane.EVENTS)
        await handler.started(1)
        await queue.enqueue([job("a")], Lane.EVENTS)
        assert await cancel(queue, [ALL]) == (0, [job("a").id])
        await eventually(lambda: gone(queue))
        assert len(handler.runs) == 1
        await queue.enqueue([job("a")], Lane.EVENTS)
        await handler.started(2)
        assert await cancel(queue, [ALL]) == (0, [job("a").id])
        await queue.enqueue([job("a")], Lane.EVENTS)
        await handler.started(3)
        handler.gate.set()
        await idle(queue)


async def gone(queue: Queue) -> bool:
    counts = await queue.counts()
    return not any(lane.pending for lane in counts.lanes.values())


async def test_a_job_whose_worker_died_is_cancelled(queue: Queue) -> None:
    await queue.enqueue([job("a"), job("b")], Lane.EVENTS, run="r")
    assert await claimed(queue) == ["a", "b"]
    await command(queue, "DEL", f"arq:in-progress:{queue.prefix}:{job('a').id}")
    assert await cancel(queue, [ALL]) == (1, [job("b").id])
    # Its worker dies before it hears of that.
    await command(queue, "DEL", f"arq:in-progress:{queue.prefix}:{job('b').id}")
    await command(queue, "ZADD", f"{queue.prefix}:queue:events", 1, f"{queue.prefix}:{job('b').id}")
    assert await claimed(queue) == []
    assert await gone(queue)
    assert [each.cancelled for each in await ended(queue, "r", 2)] == [True, True]


async def test_a_job_of_another_source_takes_the_place_of_a_cancelled_one_unless_it_is_meant_too(queue: Queue) -> None:
    def copies(*teams: str) -> list[Job]:
        return [Job("r.example/a:v1", {"source": f"h.example/{team}/a:v1", "rule": team}) for team in teams]

    await queue.enqueue(copies("one", "two", "three"), Lane.EVENTS)
    for each in copies("one", "two", "three"):
        await queue.enqueue([each], Lane.EVENTS)
    assert await cancel(queue, [Selection(rule="one"), Selection(rule="three")]) == (1, [])
    assert [each.source for each in (await list_jobs(queue, [ALL], limit=9))[0]] == ["h.example/two/a:v1"]
    await queue.enqueue(copies("one"), Lane.EVENTS)
    assert await cancel(queue, [ALL]) == (1, [])
    assert await gone(queue)


@pytest.mark.parametrize("running", [True, False])
async def test_a_job_that_waits_behind_another_is_cancelled_by_its_own_content_and_its_run_hears_of_it(
    queue: Queue, *, running: bool
) -> None:
    one, two = (Job("r.example/a:v1", {"source": f"h.example/{team}/a:v1", "rule": team}) for team in ("one", "two"))
    await queue.enqueue([one], Lane.EVENTS)
    if running:
        assert await claimed(queue) == ["a"]
    await queue.enqueue([two], Lane.BACKFILL, run="r")
    await queue.enqueue([two], Lane.EVENTS)
    meant = ALL if running else Selection(rule="two")
    expected = (0, [one.id]) if running else (1, [])
    assert await cancel(queue, [meant], dry_run=True) == expected
    assert await cancel(queue, [meant]) == expected
    if running:
        await queue.run_script("finish", one.id, f"t:{one.id}", 1, Lane.EVENTS, "cancel", 0, 0, "{}", "")
        assert await gone(queue), "nothing takes its place"
        assert await ended(queue, "r", 1) == [Finished(one.id, None, "cancelled", None, 0, 0, cancelled=True)]
    else:
        assert await claimed(queue) == ["a"]
        await queue.run_script("finish", one.id, f"t:{one.id}", 1, Lane.EVENTS, "done", 0, 0, "{}", "")
        assert await gone(queue)
    assert await command(queue, "KEYS", f"{queue.prefix}:waiters:*") == []


async def test_jobs_are_cancelled_when_the_memory_of_redis_is_full(queue: Queue) -> None:
    await queue.enqueue([job("a"), job("b")], Lane.EVENTS)
    assert await claimed(queue, count=1) == ["a"]
    await queue.redis.config_set("maxmemory", "1")
    try:
        assert await cancel(queue, [ALL]) == (1, [job("a").id])
    finally:
        await queue.redis.config_set("maxmemory", "0")


async def test_paused_jobs_do_not_keep_a_silent_host_from_being_tried(queue: Queue) -> None:
    await queue.ask("wait_begin", "h.example", 0, 0, "1", "no answer")
    await queue.enqueue([job(name) for name in "abc"], Lane.EVENTS)
    assert await claimed(queue) == [], "they wait for their host"
    await pause(queue, [Selection(source="team/a"), Selection(source="team/b")], by="me")
    assert await claimed(queue, token="u") == ["c"], "the probe is the first that is not paused"
    assert (await queue.counts()).lanes[Lane.EVENTS].paused == 2


@pytest.fixture
async def many(queue: Queue) -> Queue:
    await queue.enqueue([job(f"n{n}") for n in range(700)], Lane.BACKFILL)
    return queue


async def test_a_list_is_bounded_and_counts_all(many: Queue) -> None:
    listed, total = await list_jobs(many, [TEAM], limit=30)
    assert (len(listed), total) == (30, 700)
    assert listed[0].rule == "h.example/team/**"
    assert await cancel(many, [Selection(source="team/n1*")]) == (111, [])
    assert (await many.counts()).lanes[Lane.BACKFILL].queued == 589
