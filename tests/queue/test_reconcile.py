"""The lease on the reconcile: of all processes on a queue one runs a due reconcile, and once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from replicator.queue import (
    Findings,
    History,
    Progress,
    Queue,
    QueueUnavailable,
    Reconciles,
    ReconcileState,
    request_reconcile,
)
from tests.queue.conftest import eventually
from tests.queue.test_blob_locks_known import command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.queue import ReconcileLease
    from tests.queue.servers import RedisServer

FOUND = Findings(listed=10, up_to_date=7, drift=1, skipped=1, failed=1, warnings=2)

HOLD = """
import asyncio, sys
from replicator.queue import Queue, Reconciles
async def main():
    async with await Queue.connect(sys.argv[1], prefix=sys.argv[2]) as queue:
        assert await Reconciles(queue, lease=float(sys.argv[3])).begin(None)
        print("HOLDS", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
async def other(server: RedisServer, queue: Queue) -> AsyncIterator[Queue]:
    """Another process's client."""
    async with await Queue.connect(server.url, prefix=queue.prefix) as client:
        yield client


@pytest.fixture
async def own_queue(own_server: RedisServer) -> AsyncIterator[Queue]:
    async with await Queue.connect(own_server.url) as client:
        yield client


async def begun(queue: Queue, lease: float = 30.0) -> ReconcileLease:
    state = await ReconcileState.read(queue)
    held = await Reconciles(queue, lease=lease).begin(state.last_started)
    assert held is not None
    return held


async def lost(held: ReconcileLease) -> None:
    """Renew it until it is lost."""
    await held.keep(Progress)


async def test_before_the_first_run_nothing_is_known(queue: Queue) -> None:
    state = await ReconcileState.read(queue)
    assert (state.last_started, state.last, state.running) == (None, None, None)


async def test_a_run_is_seen_by_the_others_while_it_runs_and_when_it_has_ended(queue: Queue, other: Queue) -> None:
    before = (await ReconcileState.read(other)).now
    held = await begun(queue, lease=0.3)
    seen = (await ReconcileState.read(other)).running
    assert seen is not None
    assert (seen.pid, seen.progress) == (os.getpid(), Progress(0, 0))
    keeping = asyncio.create_task(held.keep(lambda: Progress(20, 5)))

    async def told() -> bool:
        running = (await ReconcileState.read(other)).running
        return running is not None and running.progress == Progress(20, 5) and running.since == seen.since

    await eventually(told)
    result = await held.end(FOUND)
    keeping.cancel()
    state = await ReconcileState.read(other)
    assert result is not None
    assert (state.last, state.running) == (result, None)
    assert (result.findings, result.host) == (FOUND, seen.host)
    assert before <= result.started == state.last_started == seen.since <= result.ended <= state.now
    assert result.to_json()["complete"] is False, "one tag failed"


async def test_of_two_that_begin_at_once_one_does(queue: Queue, other: Queue) -> None:
    for _ in range(20):
        last = (await ReconcileState.read(queue)).last_started
        both = await asyncio.gather(Reconciles(queue).begin(last), Reconciles(other).begin(last))
        (held,) = [lease for lease in both if lease is not None]
        assert await held.end(FOUND) is not None


async def test_one_that_wakes_when_the_due_run_has_ended_already_does_not_run_it_again(
    queue: Queue, other: Queue
) -> None:
    for _ in range(2):
        late = await ReconcileState.read(other)
        await (await begun(queue)).end(FOUND)
        assert await Reconciles(other).begin(late.last_started) is None
        assert (await ReconcileState.read(other)).running is None
    assert await Reconciles(other).begin(None) is None


async def test_a_run_that_was_given_back_does_not_count_and_can_be_begun_at_once(queue: Queue, other: Queue) -> None:
    await (await begun(queue)).end(FOUND)
    state = await ReconcileState.read(queue)
    await (await begun(queue)).give_back()
    after = await ReconcileState.read(other)
    assert (after.last, after.running) == (state.last, None)
    assert await Reconciles(other).begin(state.last_started) is not None


async def requested(queue: Queue) -> bool:
    return (await ReconcileState.read(queue)).is_requested


async def test_a_run_that_was_asked_for_is_due_until_it_ends_and_asking_again_changes_nothing(queue: Queue) -> None:
    assert not await requested(queue)
    first, again = await request_reconcile(queue, "me"), await request_reconcile(queue, "me")
    assert (first.is_new, first.running, again.is_new) == (True, None, False)
    assert await requested(queue)
    await (await begun(queue)).give_back()
    assert await requested(queue), "it did not count"
    await (await begun(queue)).end(FOUND)
    assert not await requested(queue)
    assert [action.by for action in (await History.read(queue)).actions] == ["me"]


async def test_a_run_that_is_asked_for_while_another_runs_begins_after_it(queue: Queue) -> None:
    await request_reconcile(queue, "me")
    held = await begun(queue)
    found = await request_reconcile(queue, "me")
    assert found.is_new
    assert found.running is not None
    assert not (await request_reconcile(queue, "me")).is_new
    await held.end(FOUND)
    assert await requested(queue), "the one that ran may have compared before"
    held = await begun(queue)
    await held.end(FOUND)
    assert not await requested(queue)


async def test_the_run_of_a_killed_process_is_begun_again_when_its_lease_expires(
    queue: Queue, server: RedisServer
) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, server.url, queue.prefix, "1.5", stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    async with asyncio.timeout(20):
        assert await holder.stdout.readline() == b"HOLDS\n"
    assert await Reconciles(queue).begin(None) is None
    holder.kill()
    await holder.wait()

    async def taken() -> ReconcileLease | None:
        return await Reconciles(queue).begin(None)

    assert await eventually(taken)
    assert (await ReconcileState.read(queue)).last is None, "what did not end does not count"


async def test_a_lease_that_is_kept_lasts_for_longer_than_it_would(queue: Queue, other: Queue) -> None:
    held = await begun(queue, lease=1.5)
    keeping = asyncio.create_task(lost(held))
    await asyncio.sleep(3)
    assert not keeping.done()
    assert await Reconciles(other).begin(None) is None
    keeping.cancel()
    assert await held.end(FOUND) is not None


async def test_a_run_that_lost_its_lease_learns_of_it_and_its_end_does_not_count(queue: Queue, other: Queue) -> None:
    held = await begun(queue, lease=0.3)
    await queue.redis.delete(f"{queue.prefix}:reconcile:lease")
    second = await Reconciles(other).begin(None)
    assert second is not None
    async with asyncio.timeout(10):
        await lost(held)
    assert await held.end(FOUND) is None
    await held.give_back()
    state = await ReconcileState.read(queue)
    assert state.last is None
    assert state.running is not None, "nor did it end that of who has it now"
    assert await second.end(FOUND) is not None


async def test_a_lease_that_redis_forgot_is_lost(queue: Queue) -> None:
    held = await begun(queue, lease=0.3)
    await queue.redis.delete(f"{queue.prefix}:reconcile:lease")
    async with asyncio.timeout(10):
        await lost(held)


async def test_an_end_that_is_sent_twice_because_its_answer_was_lost_counts_once(queue: Queue) -> None:
    held = await begun(queue)
    first = await held.end(FOUND)
    assert first is not None
    assert await held.end(FOUND) == first


async def test_installations_keep_apart(queue: Queue, server: RedisServer) -> None:
    await begun(queue)
    async with await Queue.connect(server.url, prefix=f"{queue.prefix}-2") as stranger:
        assert await begun(stranger) is not None


async def test_while_redis_is_away_nothing_is_begun_and_a_lease_is_lost_before_another_can_have_it(
    own_server: RedisServer, own_queue: Queue
) -> None:
    held = await begun(own_queue, lease=6)
    left = await own_queue.redis.pttl("replicator:reconcile:lease")
    assert left > 0
    lapses = asyncio.get_running_loop().time() + left / 1000
    own_server.kill()
    with pytest.raises(QueueUnavailable):
        await Reconciles(own_queue).begin(None)
    async with asyncio.timeout(20):
        await lost(held)
    assert asyncio.get_running_loop().time() < lapses, "it would still be running when another begins"
    own_server.start()

    async def again() -> ReconcileLease | None:
        return await Reconciles(own_queue).begin(None)

    assert await eventually(again)


async def test_redis_killed_and_back_within_the_lease_costs_nothing(own_server: RedisServer, own_queue: Queue) -> None:
    held = await begun(own_queue, lease=6)
    keeping = asyncio.create_task(lost(held))
    own_server.kill()
    await asyncio.sleep(2.5)  # a renewal fails
    own_server.start()

    async def renewed() -> bool:
        return bool(await own_queue.redis.pttl("replicator:reconcile:lease") > 5000)

    await eventually(renewed)
    assert not keeping.done()
    own_server.kill()
    ending = asyncio.create_task(held.end(FOUND))
    await asyncio.sleep(0.5)
    assert not ending.done(), "the end is recorded when Redis is back"
    own_server.start()
    async with asyncio.timeout(20):
        result = await ending
    keeping.cancel()
    assert result is not None
    assert result == (await ReconcileState.read(own_queue)).last, "and it is on disk"


async def test_an_end_that_can_not_be_recorded_within_a_lease_is_an_error(
    own_server: RedisServer, own_queue: Queue
) -> None:
    held = await begun(own_queue, lease=0.5)
    own_server.kill()
    async with asyncio.timeout(20):
        with pytest.raises(QueueUnavailable):
            await held.end(FOUND)


async def test_a_redis_out_of_memory_begins_nothing_and_lets_what_runs_end(own_queue: Queue) -> None:
    held = await begun(own_queue, lease=1.5)
    await command(own_queue, "CONFIG", "SET", "maxmemory", "1")
    keeping = asyncio.create_task(lost(held))
    await asyncio.sleep(3)
    assert not keeping.done()
    keeping.cancel()
    assert await held.end(FOUND) is not None
    with pytest.raises(QueueUnavailable):
        await begun(own_queue)
    await command(own_queue, "CONFIG", "SET", "maxmemory", "0")
    assert await begun(own_queue) is not None


async def test_a_beginning_whose_answer_was_lost_is_not_held_up_by_itself(
    own_server: RedisServer, own_queue: Queue
) -> None:
    reconciles = Reconciles(own_queue)
    # Of a script that Redis does not know yet only the name would arrive.
    assert await reconciles.begin((await ReconcileState.read(own_queue)).now) is None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(QueueUnavailable):
            await reconciles.begin(None)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)

    async def taken() -> bool:
        return (await ReconcileState.read(own_queue)).running is not None

    await eventually(taken)
    assert await Reconciles(own_queue).begin(None) is None
    assert await reconciles.begin(None) is not None


async def test_the_result_of_another_version_does_not_hold_runs_up(queue: Queue) -> None:
    await (await begun(queue)).end(FOUND)
    for text in ('{"of": "another version"}', "[]", "no JSON"):
        await command(queue, "HSET", f"{queue.prefix}:reconcile", "result", text)
        state = await ReconcileState.read(queue)
        assert state.last is None
        assert state.last_started is not None
    assert await begun(queue) is not None


async def test_times_are_those_of_redis(queue: Queue) -> None:
    await (await begun(queue)).end(FOUND)
    state = await ReconcileState.read(queue)
    seconds, microseconds = await queue.redis.time()
    assert state.last is not None
    assert timedelta(0) <= timedelta(seconds=seconds + microseconds / 1e6 - state.last.started.timestamp())
    assert state.last.ended <= state.now


async def test_a_long_reason_is_kept_in_part(queue: Queue) -> None:
    result = await (await begun(queue)).end(Findings(error="x" * 100_000))
    assert result is not None
    assert len(result.findings.error or "") == 400


async def test_the_rules_of_completed_runs_are_known_newest_first_and_within_a_bound(queue: Queue) -> None:
    for number in range(20):
        await (await begun(queue)).end(Findings(), f"rules-{number}")
    await (await begun(queue)).end(Findings(), "rules-10")
    await (await begun(queue)).end(Findings(error="down"), "failed")
    await (await begun(queue)).end(Findings())
    state = await ReconcileState.read(queue)
    assert list(state.rules) == [
        "rules-10",
        *(f"rules-{n}" for n in (19, 18, 17, 16, 15, 14, 13, 12, 11, 9, 8, 7, 6, 5, 4)),
    ]
    assert state.covers("rules-10", state.now)
    assert not state.covers("rules-19", state.now)
    assert state.covers("rules-19", state.rules["rules-19"])
    assert not state.covers("failed", state.rules["rules-4"])


async def test_rules_that_another_version_stored_otherwise_are_left_out(queue: Queue) -> None:
    await (await begun(queue)).end(Findings(), "known")
    text = (await command(queue, "HGET", f"{queue.prefix}:reconcile", "rules")).decode()
    await command(queue, "HSET", f"{queue.prefix}:reconcile", "rules", f"odd a:b c:1e99 {text} d:nan")
    assert list((await ReconcileState.read(queue)).rules) == ["known"]
