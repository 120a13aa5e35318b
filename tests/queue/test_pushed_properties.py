"""In any sequence of pushes and attempts, an attempt knows the oldest push that none has served."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import ErrorClass
from replicator.queue import Job, Lane, Queue
from replicator.queue.attempt import Failure, StartedJob
from replicator.queue.connection import RedisHandle, open_redis
from replicator.queue.records import encode
from tests.queue.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A = "r.example/a:1"
START = datetime(2026, 1, 1, tzinfo=UTC)
PUSHES = [START + timedelta(seconds=number) for number in range(4)]
ENDS = ["done", "retry", "dead", "release"]
FAILURE = Failure(A, ErrorClass.TRANSIENT, "no", 1, START, START)
STEPS = st.lists(st.sampled_from([*PUSHES, None, "start", "start", "start", *ENDS]), min_size=5, max_size=40)


@dataclass
class Model:
    """One job: whether it is in the queue, and which pushes no attempt serves yet, or the present one does."""

    pending: bool = False
    running: bool = False
    again: bool = False
    waiting: set[datetime] = field(default_factory=set)
    begun: set[datetime] = field(default_factory=set)

    def enqueue(self, at: datetime | None) -> None:
        self.waiting |= {at} - {None}  # type: ignore[arg-type]  # None is taken out again
        self.pending = True
        self.again = self.running

    def start(self) -> datetime | None:
        self.begun, self.waiting = self.begun | self.waiting, set()
        self.running, self.again = True, False
        return min(self.begun, default=None)

    def finish(self, how: str) -> None:
        over = how in {"done", "dead"} and not self.again
        if how != "done" and not over:
            self.waiting |= self.begun
        self.begun, self.running, self.pending = set(), False, not over


async def follow(queue: Queue, steps: list[datetime | str | None]) -> None:
    model, job = Model(), None
    for number, step in enumerate(steps):
        if step == "start":
            if model.running:
                continue
            _, *replies = await queue.run_script("claim", Lane.EVENTS, 1, f"w:{number}", "w", 30_000, 0, 0)
            assert bool(replies) == model.pending
            if replies:
                job = StartedJob.read(replies[0])
                assert job.record.pushed == model.start()
        elif isinstance(step, str):
            if not model.running:
                continue
            assert job is not None
            arguments = (A, job.record.token, job.generation, Lane.EVENTS, step, 0, 1, b"{}", encode(FAILURE))
            await queue.run_script("finish", *arguments)
            model.finish(step)
        else:
            await queue.enqueue([Job(A, {}, pushed=step)], Lane.EVENTS)
            model.enqueue(step)
    if not model.pending:
        assert [key async for key in queue.redis.scan_iter(f"{queue.prefix}:pushed")] == []


@settings(max_examples=200)
@given(steps=STEPS)
def test_an_attempt_knows_the_oldest_push_that_nothing_has_served(
    connected: tuple[asyncio.Runner, RedisHandle], steps: list[datetime | str | None]
) -> None:
    runner, handle = connected
    runner.run(follow(Queue(handle, prefix=f"t-{uuid4().hex[:8]}"), steps))


@pytest.fixture(scope="module")
def connected(short_dir: Path) -> Iterator[tuple[asyncio.Runner, RedisHandle]]:
    """One loop, one connection and a server that writes nothing to disk for all examples; each has a prefix apart."""
    with RedisServer(short_dir / "fast", "--appendonly", "no") as server, asyncio.Runner() as runner:
        handle = open_redis(server.url)
        yield runner, handle
        runner.run(handle.close())
