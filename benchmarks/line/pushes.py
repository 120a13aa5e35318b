"""The rows that push small images beside bulk."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from benchmarks.backfill.content import PROJECTS
from benchmarks.backfill.synthetic import served
from benchmarks.line.place import Content, Outcome, Run, Terms, lacking, place
from tests.standins.images import image
from tests.standins.images import push as put

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from tests.running import Serving

MIB = 2**20
KIB = 2**10
TAG = "v1"
_PUSHES = 40
"""Pushes in all rows that make many, at the most."""
_EVERY = 1.0
"""Seconds between two of them."""
PATIENCE = 180.0
"""Seconds that a program gets for a row at the least."""


async def push(terms: Terms) -> AsyncIterator[Outcome]:
    """Pushes of one small layer beside eight bodies of 8 MiB."""
    bulk: Content = {f"team/bulk{n}": {TAG: image(n + 1, (terms.bytes(8 * MIB),))} for n in range(8)}
    async for outcome in _pushes(terms, bulk, {}):
        yield outcome


async def twelve(terms: Terms) -> AsyncIterator[Outcome]:
    """The same beside one image of twelve layers, with one copy of a backfill at once."""
    bulk: Content = {"team/bulk": {TAG: image(1, (terms.bytes(4 * MIB),) * 12)}}
    async for outcome in _pushes(terms, bulk, {"REPLICATOR_BACKFILL_CONCURRENCY": "1"}):
        yield outcome


async def p99(terms: Terms) -> AsyncIterator[Outcome]:
    """The same beside a reconcile of 100,000 tags, of which enough lack to fill the line as long as the pushes last."""
    sizes = [terms.bytes(size) for size in (4 * MIB, MIB, 256 * KIB, 64 * KIB, 16 * KIB)]
    number = max(1, int(terms.rate * terms.size * 1.5 * _PUSHES * _EVERY / sum(sizes)))
    bulk: Content = {}
    for n in range(number):
        bulk.setdefault(f"team/bulk{n % 10}", {})[f"v{n}"] = image(n + 1, sizes)
    in_place = max(10, int(100_000 * terms.size))
    patience = time_of(lacking(bulk), terms.rate) + PATIENCE
    async with served(10, in_place) as hosts, place(terms, bulk) as source:
        images = {
            f"{hosts.harbor}/{project}/**": f"{hosts.destination}/{namespace}/{{name}}"
            for project, namespace in PROJECTS.items()
        }
        for number, (name, tree) in enumerate(terms.trees.items()):
            async with source.run() as run:
                # Each pushes to a repository of its own, which no reconcile finds before.
                run.content = bulk | _small(terms, f"team/app{number}")
                rules = run.rules(images=images)
                async with run.serving(tree, rules, {"REPLICATOR_RECONCILE": "24h"}) as serving:
                    began = time.monotonic()
                    waits = await _push_while(terms, run, serving, bulk, patience)
                    outcome = await _of_pushes(terms, run, name, bulk, waits, began + patience)
                    outcome.wall = time.monotonic() - began
                    if outcome.arrived < outcome.meant:
                        outcome.said = _of_reconcile(serving)
                    yield outcome


def _of_reconcile(serving: Serving) -> str:
    """Say how the reconcile ended, with some of its failures."""
    said = [line for line in serving.lines if str(line.get("event", "")).startswith("reconcile")]
    return "; ".join(f"{line['event']}: {line.get('error') or line}" for line in [*said[:4], *said[-1:]])


def _small(terms: Terms, repository: str = "team/app") -> Content:
    return {repository: {f"p{n}": image(5000 + n, (terms.bytes(128 * KIB),)) for n in range(_PUSHES)}}


async def _pushes(terms: Terms, bulk: Content, settings: Mapping[str, str]) -> AsyncIterator[Outcome]:
    """Queue a backfill, and push small images while it is under way.

    Once with the copies of the backfill in ``serve``, as a reconcile has them, and once in a process of their own.
    """
    patience = time_of(lacking(bulk), terms.rate)
    async with place(terms, bulk) as source:
        for name, tree in terms.trees.items():
            for manner, options in (("in serve", ["--detach"]), ("backfill apart", [])):
                async with source.run() as run, AsyncExitStack() as stack:
                    run.content = bulk | _small(terms)
                    serving = await stack.enter_async_context(run.serving(tree, run.rules(), settings))
                    only = [option for repository in bulk for option in ("--only", f"{run.source}/{repository}")]
                    command = ["backfill", "--config", str(run.rules()), *only, *options]
                    began = time.monotonic()
                    backfill = asyncio.create_task(run.replicator(tree, *command, seconds=patience, settings=settings))
                    waits = await _push_while(terms, run, serving, bulk, patience)
                    outcome = await _of_pushes(terms, run, f"{name}, {manner}", bulk, waits, began + patience)
                    outcome.wall = time.monotonic() - began
                    ended = await backfill
                    outcome.said = ended.said if ended.code else ""
                    yield outcome


async def _push_while(terms: Terms, run: Run, serving: Serving, bulk: Content, patience: float) -> list[float | None]:
    """Push a small image every second from the time on when bulk moves, and until it is all there; tell the waits."""
    repository, small = list(run.content.items())[-1]
    await run.moving(terms.bytes(MIB), patience)
    async with asyncio.TaskGroup() as group:
        pushes: list[asyncio.Task[float | None]] = []
        for tag, root in small.items():
            if pushes and await _all_there(run, bulk):
                break
            await put(run.origin, repository, tag, root)
            pushes.append(group.create_task(run.until(repository, tag, patience)))
            await run.tell(serving, repository, tag)
            await asyncio.sleep(_EVERY * max(terms.size, 0.1))
    return [push.result() for push in pushes]


async def _of_pushes(
    terms: Terms, run: Run, name: str, bulk: Content, waits: Sequence[float | None], until: float
) -> Outcome:
    """Wait for bulk, and say how long the pushes took."""
    for repository, tags in bulk.items():
        for tag in tags:
            await run.until(repository, tag, max(1, until - time.monotonic()))
    repository, small = list(run.content.items())[-1]
    run.content = bulk | {repository: dict(list(small.items())[: len(waits)])}
    outcome = await run.outcome(name, 0.0)
    known = sorted(wait for wait in waits if wait is not None)
    outcome.more = {
        "pushes": f"{len(known)}/{len(waits)}",
        "first": _seconds(waits[0]),
        "median": _seconds(statistics.median(known) if known else None),
        "p99": _seconds(known[int(0.99 * (len(known) - 1))] if known else None),
        "longest": _seconds(known[-1] if known else None),
    }
    outcome.lacking, outcome.rate = lacking(run.content), terms.rate
    return outcome


def time_of(size: int, rate: float) -> float:
    """Say how long a program gets: four times what the line takes."""
    return PATIENCE + 4 * size / rate


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


async def _all_there(run: Run, content: Content) -> bool:
    """Tell whether all of this has arrived; the last first, as it is asked again and again."""
    for repository, tags in reversed(content.items()):
        for tag in reversed(tags):
            if not await run.holds(repository, tag):
                return False
    return True
