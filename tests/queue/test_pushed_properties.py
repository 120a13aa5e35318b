"""Whatever comes in between, a try knows the oldest push that nothing has served, and none that was."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.queue import Job, Lane, Queue
from replicator.queue.attempt import Claim

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer

A = "r.example/a:1"
START = datetime(2026, 1, 1, tzinfo=UTC)
PUSHES = [START + timedelta(seconds=number) for number in range(4)]
ENDS = ["done", "retry", "dead", "release"]
STEPS = st.lists(st.sampled_from([*PUSHES, None, "claim", "claim", "claim", *ENDS]), min_size=5, max_size=40)


@dataclass
class Model:
    """One job: whether it is in the queue, and which pushes no try has begun to serve, or has begun."""

    pending: bool = False
    running: bool = False
    again: bool = False
    waiting: set[datetime] = field(default_factory=set)
    begun: set[datetime] = field(default_factory=set)

    def enqueue(self, at: datetime | None) -> None:
        self.waiting |= {at} - {None}  # type: ignore[arg-type]  # None is taken out again
        self.pending = True
        self.again = self.running

    def claim(self) -> datetime | None:
        self.begun, self.waiting = self.begun | self.waiting, set()
        self.running, self.again = True, False
        return min(self.begun, default=None)

    def finish(self, how: str) -> None:
        over = how in {"done", "dead"} and not self.again
        if how != "done" and not over:
            self.waiting |= self.begun
        self.begun, self.running, self.pending = set(), False, not over


async def follow(queue: Queue, steps: list[datetime | str | None]) -> None:
    model, claim = Model(), None
    for number, step in enumerate(steps):
        if step == "claim":
            if model.running:
                continue
            _, *claims = await queue.run_script("claim", Lane.EVENTS, 1, f"w:{number}", "w", 30_000, 0, 0)
            assert bool(claims) == model.pending
            if claims:
                claim = Claim.read(claims[0])
                assert claim.pushed == model.claim()
        elif isinstance(step, str):
            if not model.running:
                continue
            assert claim is not None
            arguments = (A, claim.record["token"], claim.generation, Lane.EVENTS, step, 0, 1, b"{}", b'{"first":0}')
            await queue.run_script("finish", *arguments)
            model.finish(step)
        else:
            await queue.enqueue([Job(A, {}, pushed=step)], Lane.EVENTS)
            model.enqueue(step)
    if not model.pending:
        assert [key async for key in queue.redis.scan_iter(f"{queue.prefix}:pushed")] == []


@settings(max_examples=200)
@given(steps=STEPS)
def test_a_try_knows_the_oldest_push_that_nothing_has_served(
    server: RedisServer, steps: list[datetime | str | None]
) -> None:
    async def run() -> None:
        async with await Queue.connect(server.url, prefix=f"t-{uuid4().hex[:8]}") as queue:
            await follow(queue, steps)

    asyncio.run(run())
