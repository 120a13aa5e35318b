"""The rows: what is copied, by which program, over which line."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.backfill.content import PROJECTS
from benchmarks.backfill.memory import served
from benchmarks.line import peers
from benchmarks.line.place import Content, Ended, Outcome, Run, Terms, lacking, place
from tests.queue.servers import RedisServer
from tests.standins.images import image, layer
from tests.standins.images import push as put
from tests.standins.outages import Limit, deaf, mute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.running import Serving
    from tests.standins.images import Blob

_MIB = 2**20
_KIB = 2**10
_TAG = "v1"
_PUSHES = 40
"""Pushes in all rows that make many, at the most."""
_EVERY = 1.0
"""Seconds between two of them."""
_PATIENCE = 180.0
"""Seconds that a program gets for a row at the least."""


async def push(terms: Terms) -> AsyncIterator[Outcome]:
    """Pushes of one small layer beside eight bodies of 8 MiB."""
    bulk: Content = {f"team/bulk{n}": {_TAG: image(n + 1, (terms.bytes(8 * _MIB),))} for n in range(8)}
    async for outcome in _pushes(terms, bulk, {}):
        yield outcome


async def twelve(terms: Terms) -> AsyncIterator[Outcome]:
    """The same beside one image of twelve layers, with one copy of a backfill at once."""
    bulk: Content = {"team/bulk": {_TAG: image(1, (terms.bytes(4 * _MIB),) * 12)}}
    async for outcome in _pushes(terms, bulk, {"REPLICATOR_BACKFILL_CONCURRENCY": "1"}):
        yield outcome


async def p99(terms: Terms) -> AsyncIterator[Outcome]:
    """The same beside a reconcile of 100,000 tags, of which enough lack to fill the line as long as the pushes last."""
    sizes = [terms.bytes(size) for size in (4 * _MIB, _MIB, 256 * _KIB, 64 * _KIB, 16 * _KIB)]
    number = max(1, int(terms.rate * terms.size * 1.5 * _PUSHES * _EVERY / sum(sizes)))
    bulk: Content = {}
    for n in range(number):
        bulk.setdefault(f"team/bulk{n % 10}", {})[f"v{n}"] = image(n + 1, sizes)
    in_place = max(10, int(100_000 * terms.size))
    patience = _time(lacking(bulk), terms.rate) + _PATIENCE
    async with served(10, in_place) as hosts, place(terms, bulk) as source:
        images = {
            f"{hosts.harbor}/{project}/**": f"{hosts.destination}/{namespace}/{{name}}"
            for project, namespace in PROJECTS.items()
        }
        for number, (name, tree) in enumerate(terms.trees.items()):
            async with source.run() as run:
                # Each has a repository of its own for what is pushed, which no reconcile finds before.
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
    """Say how the reconcile ended, and some of what it could not do."""
    said = [line for line in serving.lines if str(line.get("event", "")).startswith("reconcile")]
    return "; ".join(f"{line['event']}: {line.get('error') or line}" for line in [*said[:4], *said[-1:]])


def _small(terms: Terms, repository: str = "team/app") -> Content:
    return {repository: {f"p{n}": image(5000 + n, (terms.bytes(128 * _KIB),)) for n in range(_PUSHES)}}


async def _pushes(terms: Terms, bulk: Content, settings: Mapping[str, str]) -> AsyncIterator[Outcome]:
    """Queue a backfill, and push small images while it is under way.

    Once with the copies of the backfill in ``serve``, as a reconcile has them, and once in a process of their own.
    """
    patience = _time(lacking(bulk), terms.rate)
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
    await run.moving(terms.bytes(_MIB), patience)
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


async def timeout(terms: Terms) -> AsyncIterator[Outcome]:
    """Twelve images of one layer of 4 MB at 1 MB/s, with ten seconds as the timeout of a copy."""
    terms = replace(terms, rate=1e6)
    content: Content = {f"team/m{n}": {_TAG: image(n + 1, (terms.bytes(4_000_000),))} for n in range(12)}
    settings = {"REPLICATOR_COPY_TIMEOUT": "10"}
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(), (name, tree), settings)
            yield await _backfill(terms, source.run(at_source=True), (f"{name}, line at Harbor", tree), settings)
        for name, command in peers.found().items():
            yield await _peer(terms, source.run(), name, command)


async def slow(terms: Terms) -> AsyncIterator[Outcome]:
    """One layer of 16 MiB, with a timeout that is over before it has passed."""
    size = terms.bytes(16 * _MIB)
    settings = {"REPLICATOR_COPY_TIMEOUT": f"{max(1, int(0.625 * size / terms.rate))}"}
    async with place(terms, {"team/app": {_TAG: image(1, (size,))}}) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(), (name, tree), settings)


async def filled(terms: Terms) -> AsyncIterator[Outcome]:
    """A first copy to a destination that another program has brought the base of, in another repository."""
    base = [layer(1, terms.bytes(40 * _MIB))]
    before: Content = {"m/a": {_TAG: image(1, (terms.bytes(_MIB),), base=base)}}
    content = before | {"lib/b": {_TAG: image(2, (terms.bytes(_MIB),), base=base)}}
    held = before["m/a"][_TAG].blobs
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(before=before), (f"{name}, backfill", tree), {}, held)
            async with source.run(before=before) as run, run.serving(tree, run.rules()) as serving:
                began = time.monotonic()
                await run.tell(serving, "lib/b", _TAG)
                await run.until("lib/b", _TAG, _time(lacking(content), terms.rate))
                outcome = await run.outcome(f"{name}, push", time.monotonic() - began)
            outcome.lacking, outcome.rate = lacking(content, held), terms.rate
            yield outcome
        for name, command in peers.found().items():
            yield await _peer(terms, source.run(before=before), name, command, held)


async def limited(terms: Terms) -> AsyncIterator[Outcome]:
    """100 tags through a proxy that lets 30 requests a second pass, and answers the others with 503."""
    number = max(2, int(100 * min(1, terms.size * 2)))
    content: Content = {"team/app": {f"v{n}": image(n + 1, (3000, 300)) for n in range(number)}}
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            limit = Limit(30)
            outcome = await _backfill(terms, source.run(front=limit.before), (f"{name}, backfill", tree), {})
            outcome.more = {"requests": str(limit.passed), "refused": str(limit.refused)}
            yield outcome
            limit = Limit(30)
            async with source.run(front=limit.before) as run, run.serving(tree, run.rules()) as serving:
                began = time.monotonic()
                for tag in content["team/app"]:
                    await run.tell(serving, "team/app", tag)
                await asyncio.gather(*(run.until("team/app", tag, _PATIENCE) for tag in content["team/app"]))
                outcome = await run.outcome(f"{name}, serve", time.monotonic() - began)
            outcome.more = {"requests": str(limit.passed), "refused": str(limit.refused)}
            outcome.lacking, outcome.rate = lacking(content), terms.rate
            yield outcome
        for name, command in peers.found().items():
            limit = Limit(30)
            outcome = await _peer(terms, source.run(front=limit.before), name, command)
            outcome.more = {"requests": str(limit.passed), "refused": str(limit.refused)}
            yield outcome


async def silent(terms: Terms) -> AsyncIterator[Outcome]:
    """60 pushes to a healthy registry and to one that takes no connection, or takes it and says nothing."""
    number = max(2, int(60 * min(1, terms.size * 2)))
    content: Content = {"team/app": {f"v{n}": image(n + 1, (3000, 300)) for n in range(number)}}
    limit = 60.0 * min(1, terms.size * 2)
    silences: dict[str, Callable[[], AbstractAsyncContextManager[str]]] = {
        "takes no connection": deaf,
        "says nothing": mute,
    }
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            for silence, host in silences.items():
                async with host() as dead, source.run() as run, run.serving(tree, run.rules(dead)) as serving:
                    outcome = await _tell_all(run, serving, f"{name}, other {silence}", limit)
                outcome.lacking, outcome.rate = lacking(content), terms.rate
                yield outcome


async def _tell_all(run: Run, serving: Serving, name: str, limit: float) -> Outcome:
    """Post every tag, and count what has arrived after 5, 10 and 20 s, and until all has or the time is over."""
    tags = run.content["team/app"]
    began = time.monotonic()
    for tag in tags:
        await run.tell(serving, "team/app", tag)
    waits = await asyncio.gather(*(run.until("team/app", tag, limit) for tag in tags))
    outcome = await run.outcome(name, time.monotonic() - began)
    for seconds in (5, 10, 20):
        outcome.more[f"at {seconds} s"] = str(sum(wait is not None and wait <= seconds for wait in waits))
    return outcome


async def bandwidth(terms: Terms) -> AsyncIterator[Outcome]:
    """A backfill by several workers on one Redis, with half of the line as REPLICATOR_BANDWIDTH."""
    limit = terms.rate / 2
    seconds = 30 * terms.size
    bodies = max(8, int(1.5 * limit * seconds / terms.bytes(4 * _MIB)))
    content: Content = {f"team/m{n}": {_TAG: image(n + 1, (terms.bytes(4 * _MIB),))} for n in range(bodies)}
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            for number in (1, 2, 4):
                async with source.run() as run, AsyncExitStack() as stack:
                    redis = stack.enter_context(RedisServer(run.scratch / "redis"))
                    settings = {"REPLICATOR_REDIS_URL": redis.url, "REPLICATOR_BANDWIDTH": f"{limit:.0f}B/s"}
                    for _ in range(number):
                        await stack.enter_async_context(run.serving(tree, run.rules(), settings, "worker"))
                    command = ["backfill", "--config", str(run.rules()), "--detach"]
                    await run.replicator(tree, *command, settings=settings)
                    await run.moving(terms.bytes(_MIB), _PATIENCE)
                    before, began = await run.sent(), time.monotonic()
                    await asyncio.sleep(seconds)
                    sent, took = await run.sent() - before, time.monotonic() - began
                    outcome = await run.outcome(f"{name}, {number} workers", took)
                outcome.lacking, outcome.rate = lacking(content), terms.rate
                outcome.more = {"of the limit": f"{sent / took / limit:.3f}"}
                yield outcome


async def one(terms: Terms) -> AsyncIterator[Outcome]:
    """One image of five layers."""
    sizes = [terms.bytes(size * _MIB) for size in (20, 12, 8, 4, 1)]
    async for outcome in _everyone(terms, {"team/app": {_TAG: image(1, sizes)}}):
        yield outcome


async def shared(terms: Terms) -> AsyncIterator[Outcome]:
    """Twenty tags that share their base."""
    async for outcome in _everyone(terms, _shared(terms)):
        yield outcome


async def thin(terms: Terms) -> AsyncIterator[Outcome]:
    """Twenty tags that share their base at 20 Mbit/s, with settings that are fixed by hand."""
    line = replace(terms, rate=20e6 / 8)
    async for outcome in _swept(line, _shared(terms)):
        yield outcome


async def far(terms: Terms) -> AsyncIterator[Outcome]:
    """The same at 100 ms of round trip and ten times the rate."""
    line = replace(terms, rate=10 * terms.rate, round_trip=0.1)
    content = _shared(terms) | {"team/other": {f"v{n}": image(100 + n, (terms.bytes(_MIB),) * 6) for n in range(12)}}
    async for outcome in _swept(line, content):
        yield outcome


def _shared(terms: Terms) -> Content:
    base = [layer(1, terms.bytes(12 * _MIB)), layer(2, terms.bytes(4 * _MIB))]
    own = terms.bytes(_MIB)
    return {"team/app": {f"v{n}": image(n, (own,), base=base) for n in range(1, 21)}}


async def _everyone(terms: Terms, content: Content) -> AsyncIterator[Outcome]:
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(), (name, tree), {})
        for name, command in peers.found().items():
            yield await _peer(terms, source.run(), name, command)


async def _swept(terms: Terms, content: Content) -> AsyncIterator[Outcome]:
    """The product as it comes, then with numbers of transfers that are fixed, and the best of the others."""
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(), (f"{name}, as it comes", tree), {})
            for transfers in (1, 2, 4, 8, 16, 32):
                settings = {"REPLICATOR_TRANSFERS": str(transfers), "REPLICATOR_IN_FLIGHT": str(max(transfers, 8))}
                outcome = _backfill(terms, source.run(), (f"{name}, TRANSFERS={transfers}", tree), settings)
                yield await outcome
        for name, command in peers.found().items():
            yield await _peer(terms, source.run(), name, command)


async def _backfill(
    terms: Terms,
    at: AbstractAsyncContextManager[Run],
    product: tuple[str, Path],
    settings: Mapping[str, str],
    held: Iterable[Blob] = (),
) -> Outcome:
    name, tree = product
    async with at as run:
        command = ["backfill", "--config", str(run.rules())]
        patience = _time(lacking(run.content), terms.rate)
        ended = await run.replicator(tree, *command, seconds=patience, settings=settings)
        return await _outcome(terms, run, name, ended, held)


async def _peer(
    terms: Terms,
    at: AbstractAsyncContextManager[Run],
    name: str,
    command: Callable[[Run], Sequence[str]],
    held: Iterable[Blob] = (),
) -> Outcome:
    async with at as run:
        ended = await run.program(command(run), _time(lacking(run.content), terms.rate))
        return await _outcome(terms, run, name, ended, held)


async def _outcome(terms: Terms, run: Run, name: str, ended: Ended, held: Iterable[Blob]) -> Outcome:
    outcome = await run.outcome(name, ended.seconds)
    outcome.lacking, outcome.rate = lacking(run.content, held), terms.rate
    outcome.said = ended.said if ended.code != 0 else ""
    return outcome


def _time(size: int, rate: float) -> float:
    """Say how long a program gets: four times what the line takes."""
    return _PATIENCE + 4 * size / rate


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


async def _all_there(run: Run, content: Content) -> bool:
    """Tell whether all of this has arrived; the last first, as it is asked again and again."""
    for repository, tags in reversed(content.items()):
        for tag in reversed(tags):
            if not await run.holds(repository, tag):
                return False
    return True


ROWS = {
    row.__name__: row
    for row in (push, twelve, p99, timeout, slow, filled, limited, silent, bandwidth, one, shared, thin, far)
}
