"""The rows: images, programs and lines."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import programs
from benchmarks.line.place import Content, Ended, Outcome, Run, Terms, lacking, place
from benchmarks.line.pushes import KIB, MIB, PATIENCE, TAG, p99, push, time_of, twelve
from tests.queue.servers import RedisServer
from tests.standins.images import image, layer
from tests.standins.outages import Limit, deaf, mute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from benchmarks.programs import Command
    from tests.running import Serving
    from tests.standins.blobs import Blob


async def timeout(terms: Terms) -> AsyncIterator[Outcome]:
    """Twelve images of one layer of 4 MB at 1 MB/s, with ten seconds as the timeout of a copy."""
    terms = replace(terms, rate=1e6)
    content: Content = {f"team/m{n}": {TAG: image(n + 1, (terms.bytes(4_000_000),))} for n in range(12)}
    settings = {"REPLICATOR_COPY_TIMEOUT": "10"}
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(), (name, tree), settings)
            yield await _backfill(terms, source.run(at_source=True), (f"{name}, line at Harbor", tree), settings)
        for name, command in _peers().items():
            yield await _peer(terms, source.run(), name, command)


async def slow(terms: Terms) -> AsyncIterator[Outcome]:
    """One layer of 16 MiB, with a timeout that is over before it has passed."""
    size = terms.bytes(16 * MIB)
    settings = {"REPLICATOR_COPY_TIMEOUT": f"{max(1, int(0.625 * size / terms.rate))}"}
    async with place(terms, {"team/app": {TAG: image(1, (size,))}}) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(), (name, tree), settings)


async def filled(terms: Terms) -> AsyncIterator[Outcome]:
    """A first copy to a destination that another program has brought the base of, in another repository."""
    base = [layer(1, terms.bytes(40 * MIB))]
    before: Content = {"m/a": {TAG: image(1, (terms.bytes(MIB),), base=base)}}
    content = before | {"lib/b": {TAG: image(2, (terms.bytes(MIB),), base=base)}}
    held = before["m/a"][TAG].blobs
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(before=before), (f"{name}, backfill", tree), {}, held)
            async with source.run(before=before) as run, run.serving(tree, run.rules()) as serving:
                began = time.monotonic()
                await run.tell(serving, "lib/b", TAG)
                await run.until("lib/b", TAG, time_of(lacking(content), terms.rate))
                outcome = await run.outcome(f"{name}, push", time.monotonic() - began)
            outcome.lacking, outcome.rate = lacking(content, held), terms.rate
            yield outcome
        for name, command in _peers().items():
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
                await asyncio.gather(*(run.until("team/app", tag, PATIENCE) for tag in content["team/app"]))
                outcome = await run.outcome(f"{name}, serve", time.monotonic() - began)
            outcome.more = {"requests": str(limit.passed), "refused": str(limit.refused)}
            outcome.lacking, outcome.rate = lacking(content), terms.rate
            yield outcome
        for name, command in _peers().items():
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
    bodies = max(8, int(1.5 * limit * seconds / terms.bytes(4 * MIB)))
    content: Content = {f"team/m{n}": {TAG: image(n + 1, (terms.bytes(4 * MIB),))} for n in range(bodies)}
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
                    await run.moving(terms.bytes(MIB), PATIENCE)
                    before, began = await run.sent(), time.monotonic()
                    await asyncio.sleep(seconds)
                    sent, took = await run.sent() - before, time.monotonic() - began
                    outcome = await run.outcome(f"{name}, {number} workers", took)
                outcome.lacking, outcome.rate = lacking(content), terms.rate
                outcome.more = {"of the limit": f"{sent / took / limit:.3f}"}
                yield outcome


async def one(terms: Terms) -> AsyncIterator[Outcome]:
    """One image of five layers."""
    sizes = [terms.bytes(size * MIB) for size in (20, 12, 8, 4, 1)]
    async for outcome in _everyone(terms, {"team/app": {TAG: image(1, sizes)}}):
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
    content = _shared(terms) | {"team/other": {f"v{n}": image(100 + n, (terms.bytes(MIB),) * 6) for n in range(12)}}
    async for outcome in _swept(line, content):
        yield outcome


async def narrow(terms: Terms) -> AsyncIterator[Outcome]:
    """Sixty images at 100 ms of round trip where a connection alone gets no more than 1.25 MiB/s of 20 MiB/s.

    Others take minutes for it, and are left out.
    """
    line = replace(terms, rate=10 * terms.rate, round_trip=0.1, window=128 * KIB)
    content: Content = {"team/app": {f"v{n}": image(n, (terms.bytes(2 * MIB),) * 4) for n in range(60)}}
    async for outcome in _swept(line, content, (8, 16, 24, 32)):
        yield outcome


def _shared(terms: Terms) -> Content:
    base = [layer(1, terms.bytes(12 * MIB)), layer(2, terms.bytes(4 * MIB))]
    own = terms.bytes(MIB)
    return {"team/app": {f"v{n}": image(n, (own,), base=base) for n in range(1, 21)}}


async def _everyone(terms: Terms, content: Content) -> AsyncIterator[Outcome]:
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(), (name, tree), {})
        for name, command in _peers().items():
            yield await _peer(terms, source.run(), name, command)


async def _swept(terms: Terms, content: Content, most: Sequence[int] = (1, 2, 4, 8, 16, 32)) -> AsyncIterator[Outcome]:
    """The product as it comes, then with these numbers of transfers at most, and the best of the others."""
    async with place(terms, content) as source:
        for name, tree in terms.trees.items():
            yield await _backfill(terms, source.run(), (f"{name}, as it comes", tree), {})
            for transfers in most:
                settings = {"REPLICATOR_TRANSFERS": str(transfers), "REPLICATOR_IN_FLIGHT": str(max(transfers, 8))}
                outcome = _backfill(terms, source.run(), (f"{name}, TRANSFERS={transfers}", tree), settings)
                yield await outcome
        for name, command in () if terms.window < MIB else _peers().items():
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
        patience = time_of(lacking(run.content), terms.rate)
        ended = await run.replicator(tree, *command, seconds=patience, settings=settings)
        return await _outcome(terms, run, name, ended, held)


def _peers() -> dict[str, Command]:
    """The others that copy many tags with one process."""
    there = programs.programs().items()
    return {name: one.mirror for name, one in there if one.mirror is not None and name not in programs.TREES}


async def _peer(
    terms: Terms,
    at: AbstractAsyncContextManager[Run],
    name: str,
    command: Command,
    held: Iterable[Blob] = (),
) -> Outcome:
    async with at as run:
        ended = await run.program(command(run.route), time_of(lacking(run.content), terms.rate))
        return await _outcome(terms, run, name, ended, held)


async def _outcome(terms: Terms, run: Run, name: str, ended: Ended, held: Iterable[Blob]) -> Outcome:
    outcome = await run.outcome(name, ended.seconds)
    outcome.lacking, outcome.rate = lacking(run.content, held), terms.rate
    outcome.said = ended.said if ended.code != 0 else ""
    return outcome


ROWS = {
    row.__name__: row
    for row in (push, twelve, p99, timeout, slow, filled, limited, silent, bandwidth, one, shared, thin, far, narrow)
}
