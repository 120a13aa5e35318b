"""A write of a tag to which no answer came may be carried out late: nothing overtakes it, and its end is looked at."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import Job, Lane, Observations, Queue, Running
from replicator.queue.observations import short_name
from replicator.retry import write_limit
from tests.queue.conftest import PATIENCE, eventually, idle, working

if TYPE_CHECKING:
    from collections.abc import Sequence

A = "r.example/a:1"
LIMIT_MS, LATER_MS = 40_000, 60_000


async def begin(queue: Queue, token: str = "w:1", lease_ms: int = 30_000, takeover: int = 0) -> Any:
    """Start a job, as a worker does; give what the script gives for it, or None."""
    _, *started = await queue.run_script("claim", Lane.EVENTS, 1, token, "w", lease_ms, takeover, 0)
    return started[0] if started else None


async def write(
    queue: Queue, token: str = "w:1", lease_ms: int = 30_000, limits: Sequence[int] = (LIMIT_MS, LATER_MS)
) -> None:
    """Pass the fence of a write."""
    facts = (A, f"{token}:{A}", "", short_name(A), 1000)
    _, *lost = await queue.run_script("confirm", lease_ms, *facts, *limits)
    assert lost == []


async def finish(queue: Queue, started: Any, how: str, *, unanswered: bool, token: str = "w:1") -> str:
    arguments = (A, f"{token}:{A}", started[2], Lane.EVENTS, how, 0, 1, b"{}", b"{}", "", "", "1" if unanswered else "")
    return str((await queue.run_script("finish", *arguments)).decode())


async def due_in(queue: Queue) -> float | None:
    """Return in how many seconds the job is due; None if it is not in the queue."""
    score: float | None = await queue.redis.zscore(queue.lane_queue(Lane.EVENTS), f"{queue.prefix}:{A}")
    if score is None:
        return None
    seconds, microseconds = await queue.redis.time()
    return score / 1000 - float(seconds) - float(microseconds) / 1e6


async def marks(queue: Queue) -> int:
    return sum([await queue.redis.hlen(f"{queue.prefix}:{name}") for name in ("writing", "unanswered")])  # type: ignore[misc]  # redis-py's union


async def test_a_job_whose_writes_were_answered_leaves_nothing_behind(queue: Queue) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    started = await begin(queue)
    await write(queue)
    assert await finish(queue, started, "done", unanswered=False) == "done"
    assert await due_in(queue) is None
    assert await marks(queue) == 0


@pytest.mark.parametrize("how", ["retry", "release", "done", "queued again"])
async def test_no_attempt_begins_before_the_limit_of_a_write_that_was_not_answered(queue: Queue, how: str) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    started = await begin(queue)
    await write(queue)
    if how == "queued again":
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
    assert await finish(queue, started, "done" if how == "queued again" else how, unanswered=True) == how
    earliest = (LIMIT_MS + (LATER_MS if how == "done" else 0)) / 1000
    assert earliest - 20 < (await due_in(queue) or 0) <= earliest
    # Neither does a push hasten it.
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    assert await begin(queue, "w:2") is None
    assert LIMIT_MS / 1000 - 20 < (await due_in(queue) or 0) <= LIMIT_MS / 1000


async def test_no_attempt_begins_before_the_limit_of_a_write_whose_worker_died(queue: Queue) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    await begin(queue)
    await write(queue, lease_ms=1)
    await asyncio.sleep(0.01)
    assert await begin(queue, "w:2", takeover=1) is None
    assert LIMIT_MS / 1000 - 20 < (await due_in(queue) or 0) <= LIMIT_MS / 1000


async def test_the_destination_is_compared_again_once_after_a_write_to_which_no_answer_came(queue: Queue) -> None:
    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    limits = (1, LATER_MS)
    started = await begin(queue)
    await write(queue, limits=limits)
    await finish(queue, started, "retry", unanswered=True)
    await asyncio.sleep(0.01)
    # The next attempt is answered, before the late write has landed.
    started = await begin(queue, "w:2")
    await write(queue, "w:2", limits=limits)
    assert await finish(queue, started, "done", unanswered=False, token="w:2") == "done"
    [waiting] = await queue.waiting()
    assert (waiting.id, waiting.tries) == (A, 0)
    assert "may be carried out late" in waiting.message
    assert await begin(queue, "w:3") is None

    # A minute passes.
    await queue.redis.hset(f"{queue.prefix}:unanswered", A, f"1 2 {short_name(A)}")  # type: ignore[misc]  # redis-py's union
    await queue.redis.zadd(queue.lane_queue(Lane.EVENTS), {f"{queue.prefix}:{A}": 2})
    started = await begin(queue, "w:4")
    assert started[7] == 1, "what its event announced must not count"
    assert await finish(queue, started, "done", unanswered=False, token="w:4") == "done"
    assert (await due_in(queue), await marks(queue)) == (None, 0)


async def test_what_is_seen_before_a_late_write_has_landed_does_not_count(queue: Queue) -> None:
    async def held() -> bool:
        async with aclosing(Observations(queue, deadline=PATIENCE)) as checks:
            checks.record(A, "one", time.time())
        async with aclosing(Observations(queue, deadline=PATIENCE)) as checks:
            [held] = await checks.confirmed([(A, "one")], 3600)
            return held

    await queue.enqueue([Job(A, {})], Lane.EVENTS)
    started = await begin(queue)
    await write(queue)
    await eventually(held)
    await finish(queue, started, "retry", unanswered=True)
    assert not await held()


class LateWrite(ReplicatorError):
    error_class = ErrorClass.TRANSIENT


class SlowRegistry:
    """Two registries and a handler between them. A write may be carried out long after its client gave up.

    Attributes:
        pushed: the newest version at the source.
        held: the version at the destination.
        given_up: writes whose client did not wait for the answer.
        overtaken: writes that were carried out after a newer one.
    """

    def __init__(self, chance: random.Random, limit: float, holds: tuple[float, float]) -> None:
        self.pushed: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.given_up = self.overtaken = 0
        self._chance, self._limit, self._holds = chance, limit, holds
        self._landing: set[asyncio.Task[None]] = set()

    async def __call__(self, running: Running) -> dict[str, Any]:
        version = self.pushed[running.id]
        if self.held.get(running.id) == version:
            return {"result": "up to date"}
        await running.confirm()
        answer = asyncio.create_task(self._land(running.id, version))
        self._landing.add(answer)
        answer.add_done_callback(self._landing.discard)
        try:
            async with asyncio.timeout(self._limit):
                await asyncio.shield(answer)
        except TimeoutError:
            raise LateWrite("not answered") from None
        finally:
            self.given_up += not answer.done()
        running.answered()
        return {"result": "copied"}

    async def _land(self, job: str, version: int) -> None:
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.uniform(*self._holds))
        self.overtaken += version < self.held.get(job, 0)
        self.held[job] = version

    async def quiet(self) -> None:
        """Wait until all writes have landed."""
        await asyncio.gather(*self._landing)


async def test_no_old_image_stays_over_a_newer_one_however_late_writes_are_carried_out(queue: Queue) -> None:
    """Times are those of the default, divided by forty: writes land after 8 to 30 s and are given up after 20 s."""
    chance, lease = random.Random(7), 0.75
    registry = SlowRegistry(chance, write_limit(lease), (0.2, 0.75))
    ids = [f"r.example/a:{number}" for number in range(16)]

    async def push(job: str) -> None:
        registry.pushed[job] = registry.pushed.get(job, 0) + 1
        await queue.enqueue([Job(job, {})], Lane.EVENTS)

    settings: dict[str, Any] = {"lease": lease, "drain": 0.0, "compare_again": 1.5, "concurrency": {Lane.EVENTS: 16}}
    for _ in range(5):
        # Each worker is stopped in the middle of its writes.
        async with working(queue, registry, **settings):
            for _ in range(12):
                await push(chance.choice(ids))
                await asyncio.sleep(chance.uniform(0.0, 0.04))
    async with working(queue, registry, **settings):
        await idle(queue, timeout=60)
    await registry.quiet()
    assert registry.given_up > 0
    assert registry.held == registry.pushed
    assert await marks(queue) == 0
