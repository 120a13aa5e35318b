"""The queue alone and under the webhook: rates, latencies, memory, and scaling with workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import uvloop
from rich.table import Table

from benchmarks.measuring import RunFailed
from replicator.logs import configure_logs
from replicator.queue import Job, Lane, Queue, Worker
from replicator.reference import Reference
from replicator.replication.enqueue import job_for
from replicator.rules import CopyRequest
from tests.harbor.test_events import default
from tests.queue.servers import RedisServer
from tests.running import PROGRAM, TOKEN, running
from tests.standins.distribution import distribution
from tests.standins.faults import Delay, Fault, FaultLayer
from tests.standins.images import image, push
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from replicator.queue import JsonValue, Running

_SINGLE = 2_000
_MANY = 100_000
_PICK_UPS = 500
_NO_OPS = 10_000
_SLOTS = 50
_RATE = 500
"""Webhook requests a second."""
_LOAD_SECONDS = 10
_TAGS = 64
_DELAY = 0.05
_COPIES_AT_ONCE = 2
"""A worker's in the scale-out: few enough that two processors keep up with four workers and both registries."""
_DESTINATION = "registry.cn-beijing.aliyuncs.com/team/app"
_FLAT = "registry.cn-beijing.aliyuncs.com/team/{flat}"


def measure() -> Table:
    """Measure everything and make a table of it.

    Raises:
        RunFailed: something did not do what it was measured for.
    """
    configure_logs("warning")
    table = Table(title="queue, durable (fsync at every write)", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for part in (_enqueueing, _in_process, _across_processes, _no_ops, _webhook, _scale_out):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            for what, figure in runner.run(part()):
                table.add_row(what, figure)
    return table


async def _enqueueing() -> list[tuple[str, str]]:
    async with _queue() as queue:
        began = time.monotonic()
        for number in range(_SINGLE):
            await queue.enqueue([_job(number)], Lane.EVENTS)
        single = _SINGLE / (time.monotonic() - began)
    jobs = [_job(number) for number in range(_MANY)]
    took, used = await _batches(jobs, Lane.EVENTS, None)
    _, heard = await _batches(jobs, Lane.BACKFILL, "benchmark")
    return [
        ("enqueue, one after the other", f"{single:,.0f} jobs/s"),
        (f"enqueue of {_MANY:,} in batches", f"{_MANY / took:,.0f} jobs/s ({took:.1f} s)"),
        (f"memory of Redis for {_MANY:,} queued", f"{used / 1e6:.0f} MB"),
        ("the same for a backfill, which hears of each one's end", f"{heard / 1e6:.0f} MB"),
    ]


async def _batches(jobs: Sequence[Job], lane: Lane, run: str | None) -> tuple[float, int]:
    """Enqueue all at once into an empty queue; return seconds, and bytes of Redis."""
    async with _queue() as queue:
        before = (await queue.redis.info("memory"))["used_memory"]
        began = time.monotonic()
        await queue.enqueue(jobs, lane, run=run)
        took = time.monotonic() - began
        return took, (await queue.redis.info("memory"))["used_memory"] - before


async def _in_process() -> list[tuple[str, str]]:
    ways: list[float] = []

    async def handle(running: Running) -> dict[str, JsonValue]:
        ways.append(time.monotonic() - running.payload["began"])
        return {}

    async with _queue() as queue, _working(queue, handle, 8):
        await _events(queue)
        await _until(lambda: len(ways) == _PICK_UPS)
    return [("pick-up of an event in the same process, p50 / p99", percentiles(ways))]


async def _across_processes() -> list[tuple[str, str]]:
    async with _queue() as queue:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.queue_worker", queue.where),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(30):
                while not await queue.workers():
                    await asyncio.sleep(0.05)
            sending = asyncio.create_task(_events(queue))
            async with asyncio.timeout(60):
                ways = [float(await process.stdout.readline()) for _ in range(_PICK_UPS)]
            await sending
        finally:
            process.terminate()
            await process.wait()
    return [("pick-up of an event by another process, p50 / p99", percentiles(ways))]


async def _no_ops() -> list[tuple[str, str]]:
    ran: set[str] = set()

    async def handle(running: Running) -> dict[str, JsonValue]:
        ran.add(running.id)
        return {}

    async with _queue() as queue:
        await queue.enqueue([_job(number) for number in range(_NO_OPS)], Lane.EVENTS)
        began = time.monotonic()
        async with _working(queue, handle, _SLOTS), asyncio.timeout(120):
            # Done is what is recorded as done, not what was begun.
            while (left := (await queue.counts()).lanes[Lane.EVENTS]).queued or left.running or left.waiting:
                await asyncio.sleep(0.01)
            took = time.monotonic() - began
    if len(ran) != _NO_OPS:
        raise RunFailed(f"{len(ran)} of {_NO_OPS} jobs ran")
    return [(f"jobs that do nothing, {_SLOTS} at a time in one process", f"{_NO_OPS / took:,.0f} jobs/s")]


async def _webhook() -> list[tuple[str, str]]:
    """Send at a fixed rate, whatever the answers take: a slow one does not spare the next."""
    with own_redis() as server, tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        rules = write_rules(place, {"harbor.example.com": {"anonymous": True}}, "harbor.example.com/team/**", _FLAT)
        settings = {"REPLICATOR_REDIS_URL": server.url}
        async with running(
            "serve", "--no-worker", "--config", rules, cwd=place, settings=settings, program=PROGRAM
        ) as serving:
            took, statuses = await _load(f"{serving.url}/webhooks/harbor")
    if statuses != {202}:
        raise RunFailed(f"the webhook answered {sorted(statuses)}")
    answered = len(took) / _LOAD_SECONDS
    return [
        (f"webhook with durable enqueue at {_RATE} requests/s", f"{answered:,.0f} answered/s, all 202"),
        ("its answers, p50 / p99 / longest", f"{percentiles(took)} / {max(took) * 1000:.1f} ms"),
    ]


async def _load(url: str) -> tuple[list[float], set[int]]:
    took: list[float] = []
    statuses: set[int] = set()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": TOKEN}) as session:

        async def deliver(number: int, due: float) -> None:
            event = default(tag=f"v{number}", resource_url=f"harbor.example.com/team/app:v{number}")
            async with session.post(url, json=event) as answer:
                await answer.read()
                statuses.add(answer.status)
            took.append(time.monotonic() - due)

        start = time.monotonic() + 0.1
        async with asyncio.TaskGroup() as group:
            for number in range(_RATE * _LOAD_SECONDS):
                due = start + number / _RATE
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(deliver(number, due))
    return took, statuses


async def _scale_out() -> list[tuple[str, str]]:
    rates: dict[int, float] = {}
    async with _slow_registry() as (source, behind), _slow_registry() as (destination, _):
        for number in range(_TAGS):
            await push(behind, "team/app", f"v{number}", image(number))
        for workers in (1, 2, 4):
            rates[workers] = _TAGS / await _drain(workers, source, destination)
    return [
        (
            f"{workers} worker process{'es' if workers > 1 else ''}, registries that take {_DELAY * 1000:.0f} ms",
            f"{rate:.1f} copies/s (x {rate / rates[1]:.2f})",
        )
        for workers, rate in rates.items()
    ]


async def _drain(workers: int, source: str, destination: str) -> float:
    """Let so many workers copy all tags into a repository of their own; return the seconds from the enqueue."""
    requests = [
        CopyRequest(
            Reference.parse(f"{source}/team/app:v{number}"),
            Reference.parse(f"{destination}/mirror/by{workers}:v{number}"),
            "benchmark",
        )
        for number in range(_TAGS)
    ]
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        open_to_all = {host: {"anonymous": True, "insecure": True} for host in (source, destination)}
        rules = write_rules(place, open_to_all, f"{source}/team/app", f"{destination}/mirror/app")
        async with _queue() as queue, contextlib.AsyncExitStack() as stack:
            settings = {
                "REPLICATOR_REDIS_URL": queue.where,
                "REPLICATOR_CONCURRENCY": str(_COPIES_AT_ONCE),
            }
            for _ in range(workers):
                start = running(
                    "worker", "--config", rules, cwd=place, ready="worker started", settings=settings, program=PROGRAM
                )
                await stack.enter_async_context(start)
            began = time.monotonic()
            await queue.enqueue([job_for(request) for request in requests], Lane.EVENTS, run="benchmark")
            ended = 0
            async for finished in queue.finished("benchmark"):
                if finished.outcome is None or finished.outcome["result"] != "copied":
                    raise RunFailed(f"{finished.id}: {finished.error or finished.outcome}")
                ended += 1
                if ended == _TAGS:
                    break
            return time.monotonic() - began


@asynccontextmanager
async def _slow_registry() -> AsyncIterator[tuple[str, str]]:
    """Have a registry run that takes its time for every request; give its host, and the one behind without delay."""
    async with distribution() as behind, Upstream(behind) as upstream:
        layer = FaultLayer(upstream.forward)
        layer.add(Fault(Delay(_DELAY), times=None))
        async with serve(layer) as host:
            yield host, behind


@contextlib.contextmanager
def own_redis() -> Iterator[RedisServer]:
    """Have a Redis run that is empty."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory, RedisServer(Path(directory)) as server:
        yield server


@asynccontextmanager
async def _queue() -> AsyncIterator[Queue]:
    with own_redis() as server:
        async with await Queue.connect(server.url, deadline=10) as queue:
            yield queue


@asynccontextmanager
async def _working(queue: Queue, handle: Callable[[Running], Any], slots: int) -> AsyncIterator[None]:
    worker = Worker(queue, handle, concurrency={Lane.EVENTS: slots})
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await task


async def _events(queue: Queue) -> None:
    """Enqueue events one by one, with pauses in which the worker falls asleep again."""
    await asyncio.sleep(0.5)
    for number in range(_PICK_UPS):
        await queue.enqueue([Job(f"{_DESTINATION}:v{number}", {"began": time.monotonic()})], Lane.EVENTS)
        await asyncio.sleep(0.01)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.005)


def _job(number: int) -> Job:
    source, destination = (Reference.parse(f"{name}:v{number}") for name in ("harbor.example.com/t/app", _DESTINATION))
    return job_for(CopyRequest(source, destination, "harbor.example.com/t/**"))


def write_rules(place: Path, auth: dict[str, Any], source: str, destination: str) -> Path:
    """Write a rules file with one rule; its destination wants no login."""
    file = place / "rules.json"
    host = destination.partition("/")[0]
    file.write_text(json.dumps({"auth": {host: {"anonymous": True}, **auth}, "images": {source: destination}}))
    return file


def percentiles(seconds: Sequence[float]) -> str:
    """Say the median and the 99th percentile."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"{cuts[49] * 1000:.1f} ms / {cuts[98] * 1000:.1f} ms"
