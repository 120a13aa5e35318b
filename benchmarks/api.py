"""The HTTP API beside a large memory: how fast it tells what is known, and what Redis takes for that."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from rich.table import Table

from benchmarks.measuring import RunFailed
from benchmarks.pushes import cpu_seconds
from benchmarks.queue import own_redis, percentiles, write_rules
from replicator.copy import selection_key
from replicator.copy.options import VERBATIM
from replicator.logs import configure_logs
from replicator.queue import Queue
from replicator.queue.client import BATCH
from replicator.queue.observations import MOST_DESTINATIONS, short_digest, short_name
from tests.running import PROGRAM, running

if TYPE_CHECKING:
    from collections.abc import Iterator

TAGS = 1_000_000
MOST_SECONDS, MOST_BYTES = 0.005, 250_000_000
"""Targets: the median of an answer, and what Redis takes."""
_REQUESTS = 400
"""Fewer than the API takes at once after a pause."""
_REPOSITORIES = 300
_TOKEN = "read-token-of-the-benchmark"
_SOURCE, _DESTINATION = "harbor.example.com/team", "registry.example.com/mirror"


async def measure(tags: int = TAGS) -> Table:
    """Have so many destinations seen in place, ask a ``serve`` about some of them, and make a table of it.

    Raises:
        RunFailed: an answer is wrong.
    """
    configure_logs("warning")
    with own_redis() as server, tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        async with await Queue.connect(server.url, deadline=10) as queue:
            before = await _used(queue)
            began = time.monotonic()
            await _fill(queue, tags)
            filled, used = time.monotonic() - began, await _used(queue) - before
        hosts = {name.partition("/")[0]: {"anonymous": True} for name in (_SOURCE, _DESTINATION)}
        rules = write_rules(place, hosts, f"{_SOURCE}/**", f"{_DESTINATION}/{{name}}")
        settings = {"REPLICATOR_REDIS_URL": server.url, "REPLICATOR_API_TOKENS": f"read:{_TOKEN}"}
        async with running(
            "serve", "--no-worker", "--config", rules, cwd=place, settings=settings, program=PROGRAM
        ) as serving:
            worked = cpu_seconds(serving.process.pid)
            took = await _ask(f"{serving.url}/api/v1/images", tags)
            worked = cpu_seconds(serving.process.pid) - worked
    median = statistics.median(took)
    table = Table(title=f"HTTP API, {tags:,} known tags", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("GET of an image, p50 / p99", percentiles(took))
    table.add_row("CPU time of serve for it", f"{worked / len(took) * 1000:.1f} ms")
    table.add_row("memory of Redis for what was seen", f"{used / 1e6:.0f} MB ({used / tags:.0f} bytes a tag)")
    table.add_row("recorded in", f"{filled:.1f} s")
    met = ["missed", "met"]
    table.add_row(f"median under {MOST_SECONDS * 1000:g} ms", met[median < MOST_SECONDS])
    table.add_row(f"at most {MOST_BYTES / 1e6:g} MB", met[used <= MOST_BYTES])
    return table


async def _fill(queue: Queue, tags: int) -> None:
    """Record, as workers do, that every tag was seen in place, and whose it is."""
    seconds, _ = await queue.redis.time()
    for start in range(0, tags, BATCH):
        words: list[str | int] = []
        for number in range(start, min(tags, start + BATCH)):
            digest = f"sha256:{number:064x}"
            destination = f"{_DESTINATION}/{_name(number)}"
            held = f"{selection_key(digest, VERBATIM)} {short_digest(digest)}"
            words += [short_name(destination), seconds * 1000 - 1000, held, destination, f"{_SOURCE}/{_name(number)}"]
        await queue.ask("observations_record", MOST_DESTINATIONS, *words)


async def _ask(url: str, tags: int) -> list[float]:
    took = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {_TOKEN}"}) as session:
        for number in _some(tags):
            began = time.perf_counter()
            async with session.get(f"{url}/{_SOURCE}/{_name(number)}") as answer:
                found = await answer.json()
            took.append(time.perf_counter() - began)
            if (found.get("state"), found.get("asked")) != ("in_place", False):
                raise RunFailed(f"{_name(number)}: {found}")
    return took


def _some(tags: int) -> Iterator[int]:
    """Numbers of tags all over the memory."""
    return (number * 7919 * tags // _REQUESTS % tags for number in range(_REQUESTS))


def _name(number: int) -> str:
    return f"app{number % _REPOSITORIES}:v{number}"


async def _used(queue: Queue) -> int:
    return int((await queue.redis.info("memory"))["used_memory"])
