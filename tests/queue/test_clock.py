"""Redis's clock set back: nothing waits for longer than it would have, and it is said.

The clock of the server is real. The scripts add to its time what a key holds, and an expiry that would be an hour too
late is set by the test.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorClass
from replicator.queue import Job, Lane, Queue, Reconciles, Status, scripts
from replicator.queue.attempt import Failure
from replicator.queue.records import EPOCH, encode
from tests.queue.conftest import blob_locks, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.queue import Running
    from tests.queue.servers import RedisServer

A, B = "r.example/a:1", "r.example/b:1"
HOUR_MS = 3_600_000
LEASE_MS = 30_000
TIME = "local clock = redis.call('TIME')\n"
AHEAD = "clock[1] = clock[1] + (redis.call('GET', ARGV[1] .. ':ahead') or 0)\n"


@pytest.fixture
async def clocked(server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Queue]:
    """A queue on a Redis whose clock is an hour ahead, until `set_back`."""
    texts = {name: text.replace(TIME, TIME + AHEAD) for name, text in scripts.sections().items()}
    assert all(AHEAD in text for text in texts.values())
    monkeypatch.setattr(scripts, "sections", lambda: texts)
    async with await Queue.connect(server.url, prefix=prefix) as client:
        await client.redis.set(f"{prefix}:ahead", 3600)
        yield client


async def set_back(queue: Queue, seconds: int = 3600) -> None:
    await queue.redis.decrby(f"{queue.prefix}:ahead", seconds)


async def begin(queue: Queue, token: str = "w:1", count: int = 1) -> tuple[int, list[Any]]:
    """Start jobs as a worker does; give ms until the next one is due, and what started."""
    due, *started = await queue.run_script("claim", Lane.EVENTS, count, token, "w", LEASE_MS, 1, 0)
    return due, started


async def finish(queue: Queue, started: Any, how: str, delay_ms: int = 0, token: str = "w:1", *more: Any) -> None:
    failure = encode(Failure(started[0].decode(), ErrorClass.TRANSIENT, "no", 1, EPOCH, EPOCH))
    id_ = started[0].decode()
    ended = (started[2], Lane.EVENTS, how, delay_ms, 1, b"{}", failure, "", "", *more)
    assert (await queue.run_script("finish", id_, f"{token}:{id_}", *ended)).decode() == how


async def test_what_is_due_starts_and_a_retry_waits_no_longer_than_it_would_have(clocked: Queue) -> None:
    await clocked.enqueue([Job(A, {})], Lane.EVENTS)
    _, [first] = await begin(clocked)
    await finish(clocked, first, "retry", 300_000)
    await clocked.enqueue([Job(B, {})], Lane.EVENTS)
    await set_back(clocked)
    due, [second] = await begin(clocked, "w:2")
    assert second[0].decode() == B
    assert 0 < due <= 301_000


async def test_an_hour_ahead_is_left_alone_as_long_as_the_clock_goes_on(clocked: Queue) -> None:
    await clocked.enqueue([Job(A, {})], Lane.EVENTS)
    _, [first] = await begin(clocked)
    await finish(clocked, first, "retry", HOUR_MS)
    # A replica that becomes the master may be a little behind.
    await set_back(clocked, 2)
    due, started = await begin(clocked)
    assert due > HOUR_MS - 60_000
    assert started == []
    assert (await Status.read(clocked)).clock is None


async def test_a_job_that_was_handed_back_is_due(clocked: Queue) -> None:
    await clocked.enqueue([Job(A, {})], Lane.EVENTS)
    _, [first] = await begin(clocked)
    await set_back(clocked)
    await begin(clocked, "w:2", 0)
    await finish(clocked, first, "release")
    _, [again] = await begin(clocked, "w:3")
    assert again[0].decode() == A


async def test_the_lease_of_a_worker_that_died_does_not_last_an_hour_longer(clocked: Queue) -> None:
    await clocked.enqueue([Job(A, {})], Lane.EVENTS)
    await begin(clocked)
    lease = f"arq:in-progress:{clocked.prefix}:{A}"
    await clocked.redis.pexpire(lease, LEASE_MS + HOUR_MS)
    await set_back(clocked)
    due, started = await begin(clocked, "w:2")
    assert started == []
    assert 0 < due <= LEASE_MS + 1000
    assert 0 < await clocked.redis.pttl(lease) <= LEASE_MS


async def test_jobs_that_wait_for_a_registry_are_tried_when_its_probe_would_have_been(clocked: Queue) -> None:
    await clocked.enqueue([Job(A, {"source": "h.example/a:1"})], Lane.EVENTS)
    _, [first] = await begin(clocked)
    wait = ("", "h.example", 0, 60_000, 86_400_000, "silent", 1)
    await finish(clocked, first, "wait", 20_000, "w:1", *wait)
    await set_back(clocked)
    due, started = await begin(clocked, "w:2")
    assert started == []
    assert 0 < due <= 21_000


async def test_a_late_write_is_waited_for_no_longer_than_a_lease(clocked: Queue) -> None:
    await clocked.enqueue([Job(A, {})], Lane.EVENTS)
    _, [first] = await begin(clocked)
    await clocked.run_script("confirm", LEASE_MS, A, f"w:1:{A}", "", "name", 10, 20_000, 120_000)
    await finish(clocked, first, "retry", 0, "w:1", "1")
    await set_back(clocked)
    due, started = await begin(clocked, "w:2")
    assert started == []
    assert 0 < due <= LEASE_MS + 1000
    _, look, name = (await clocked.redis.hget(f"{clocked.prefix}:unanswered", A)).split()  # type: ignore[misc]  # redis-py types it as maybe not awaitable
    seconds, _ = await clocked.redis.time()
    assert 100 < int(look) / 1000 - seconds <= 151
    assert name == b"name"


async def test_all_of_a_long_queue_is_brought_forward_in_its_order(clocked: Queue) -> None:
    key, (seconds, _) = clocked.lane_queue(Lane.BACKFILL), await clocked.redis.time()
    base = (seconds + 3600) * 1000
    before = {f"{clocked.prefix}:r.example/a:{n}": base + 1000 * n for n in range(-5000, 1201)}
    await clocked.redis.zadd(key, before)
    await begin(clocked)
    await set_back(clocked)
    await begin(clocked)
    after = dict(await clocked.redis.zrange(key, 0, -1, withscores=True))
    moved = {score - after[name.encode()] for name, score in before.items()}
    # What was due before the hour began is due all the same.
    assert len(moved - {0}) == 1
    assert abs(max(moved) - HOUR_MS) < 60_000
    assert max(after.values()) <= (seconds + 1300) * 1000


async def test_a_step_of_the_clock_is_told_once_and_shown(clocked: Queue) -> None:
    async def beat() -> int:
        return int(await clocked.run_script("heartbeat", "trials", "w", b"{}", 20_000))

    await clocked.enqueue([Job(A, {})], Lane.EVENTS)
    await set_back(clocked)
    assert await beat() == 0
    await begin(clocked)
    told = [await beat(), await beat()]
    assert abs(told[0] - HOUR_MS) < 60_000
    assert told[1] == 0
    status = await Status.read(clocked)
    assert status.clock is not None
    assert "the clock of Redis was set back by 3" in status.clock.sentence
    assert status.to_json()["clock"]["seconds"] == told[0] / 1000


async def test_a_process_that_died_before_is_not_shown_for_an_hour(clocked: Queue) -> None:
    await clocked.run_script("heartbeat", "trials", "dead", b"{}", 20_000)
    assert len(await clocked.run_script("alive", "trials", 20_000)) == 1
    await set_back(clocked)
    assert await clocked.run_script("alive", "trials", 20_000) == []


async def test_leases_of_leaders_and_locks_of_blobs_that_nobody_renews_do_not_last_an_hour_longer(
    clocked: Queue,
) -> None:
    reconcile, lock = f"{clocked.prefix}:reconcile:lease", f"{clocked.prefix}:turn:"
    assert await Reconciles(clocked).begin(None) is not None
    locks = blob_locks(clocked, lease=15.0, patience=0.1)
    taken = await locks._take("item", "place", False)
    assert taken[0].token
    for key in (reconcile, f"{lock}item"):
        await clocked.redis.pexpire(key, HOUR_MS)
    assert await Reconciles(clocked).begin(None) is None
    await locks._take("item", "place", False)
    for key in (reconcile, f"{lock}item"):
        assert 0 < await clocked.redis.pttl(key) < 120_000


async def test_a_worker_goes_on_within_seconds(clocked: Queue) -> None:
    ran: list[str] = []

    async def handle(running: Running) -> dict[str, Any]:
        ran.append(running.id)
        await set_back(clocked, 3600 if len(ran) == 1 else 0)
        return {}

    await clocked.enqueue([Job(A, {}), Job(B, {})], Lane.EVENTS)
    async with working(clocked, handle, concurrency={Lane.EVENTS: 1}):
        async with asyncio.timeout(30):
            while len(ran) < 2:
                await asyncio.sleep(0.05)
    assert sorted(ran) == [A, B]
