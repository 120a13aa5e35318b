"""Events through failovers of Redis: what is lost of what was accepted, and what it costs to wait for a replica.

A master, two replicas and a sentinel. Every few seconds both replicas stall, the master dies meanwhile, and the
sentinel has a replica take its place; the dead one comes back when that is done, or amid it, when it takes events again
with the replica that does not follow the next master yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.measuring import RunFailed
from replicator.logs import configure_logs
from replicator.queue import Job, Lane, Queue, QueueUnavailable
from tests.queue.servers import SentinelGroup, ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_SENDERS = 16
_STALL_SECONDS = 1.0
_BETWEEN_SECONDS = 10.0
_PAYLOAD = {"content": "x" * 1024}
_SAMPLES = 3_000


@dataclass(slots=True)
class _Run:
    """What became of the events of one run."""

    accepted: set[str] = field(default_factory=set)
    refused: int = 0
    failovers: int = 0
    lost: int = 0
    seconds: float = 0.0


async def _fail_over(group: SentinelGroup, *, early: bool) -> None:
    """Kill the master while its replicas stall, and start it again.

    Args:
        group: the servers.
        early: whether it comes back as soon as a replica is promoted, when the sentinel has not told yet and the other
            replica still follows the former master; else once the failover is over.
    """
    former = await asyncio.to_thread(group.kill_master, _STALL_SECONDS)
    others = [node for node in group.nodes if node is not former]
    async with asyncio.timeout(120):
        while early and not any("role:master" in ask(node, "INFO replication") for node in others):
            await asyncio.sleep(0.02)
        while not early and not group.replicates(others):
            await asyncio.sleep(0.1)
        await asyncio.to_thread(former.start)
        while not group.replicates():
            await asyncio.sleep(0.1)


def measure_failover(events: int) -> Table:
    """Send ``events`` events through failovers, waiting for a replica and not; make a table of it.

    Raises:
        RunFailed: redis-server is not installed, or a failover did not end.
    """
    configure_logs("error", "console")
    program = shutil.which("redis-server")
    if program is None:
        raise RunFailed("redis-server is not installed")
    table = Table(
        "awaited", "master is back", "events accepted", "refused (503)", "failovers", "lost", "seconds", "p50", "p99"
    )
    part = events // 5  # suffices to see losses
    for replicas, early, number in ((1, False, events), (0, False, part), (1, True, part), (2, True, part)):
        with _group(program) as group:
            run, latencies = asyncio.run(_measure(group, replicas, number, early=early))
        centiles = statistics.quantiles(latencies, n=100)
        table.add_row(
            str(replicas),
            "during the failover" if early else "after it",
            *(str(value) for value in (len(run.accepted), run.refused, run.failovers, run.lost)),
            f"{run.seconds:.0f}",
            f"{statistics.median(latencies) * 1000:.2f} ms",
            f"{centiles[98] * 1000:.2f} ms",
        )
    return table


@contextmanager
def _group(program: str) -> Iterator[SentinelGroup]:
    options = ("--repl-backlog-size", "256mb", "--appendfsync", "no")
    with (
        tempfile.TemporaryDirectory(prefix="failover-", dir="/tmp") as name,
        SentinelGroup(Path(name), program, *options) as group,
    ):
        yield group


async def _measure(group: SentinelGroup, replicas: int, events: int, *, early: bool) -> tuple[_Run, list[float]]:
    async with await Queue.connect(group.url, replicas=replicas) as queue:
        latencies = [await _send(queue, f"r.example/quiet:{number}") for number in range(_SAMPLES)]
        run, began = _Run(), time.monotonic()
        async with _senders(queue, run, events) as sending:
            while not sending.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BETWEEN_SECONDS):
                        await asyncio.shield(sending)
                if not sending.done():
                    await _fail_over(group, early=early)
                    run.failovers += 1
        run.seconds = time.monotonic() - began
        known: set[str] = set()
        async for batch in queue.scan_hash("gen"):
            known.update(batch)
        run.lost = len(run.accepted - known)
    return run, latencies


async def _send(queue: Queue, job_id: str) -> float:
    began = time.perf_counter()
    await queue.enqueue([Job(job_id, _PAYLOAD)], Lane.EVENTS)
    return time.perf_counter() - began


@asynccontextmanager
async def _senders(queue: Queue, run: _Run, events: int) -> AsyncIterator[asyncio.Future[list[None]]]:
    async def send(sender: int) -> None:
        number = 0
        while len(run.accepted) < events:
            number += 1
            job_id = f"r.example/{sender}:{number}"
            try:
                await _send(queue, job_id)
                run.accepted.add(job_id)
            except QueueUnavailable:
                run.refused += 1
                await asyncio.sleep(0.05)

    sending = asyncio.gather(*(send(sender) for sender in range(_SENDERS)))
    try:
        yield sending
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
