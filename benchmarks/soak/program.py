"""``python -m benchmarks soak``: pushes for a long time under faults, and checks the result.

A source and a destination, both real registries behind faults, a Redis that is killed, a ``serve`` that lives all the
time and is looked at, and a ``worker`` that is killed again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import aiohttp
from rich.table import Table

from benchmarks.measuring import RunFailed
from benchmarks.soak import trouble
from benchmarks.soak.flatness import Sample, course, growth, sample
from tests.harbor.test_events import default
from tests.queue.servers import RedisServer
from tests.running import PROGRAM, TOKEN, Serving, running
from tests.standins.distribution import distribution
from tests.standins.faults import FaultLayer
from tests.standins.images import fetch_raw, image, layer, push
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

_PUSH_SECONDS = 0.25
_SAMPLE_SECONDS = 2.0
_REPOSITORIES = 8
_TAGS = 25
"""Of each repository; a push of a tag takes the place of one before."""
_LAYER = 4000
_ANSWER_SECONDS = 5.0
"""What the webhook gets for an answer; Harbor's own patience is 3 s."""
_SETTLE_SECONDS = 360.0
"""For the last copies, once nothing fails any more: their waits have grown to five minutes."""
_MIB = 2**20


@dataclass
class Soak:
    """What happened.

    Attributes:
        seconds: how long pushes were made.
        samples: of ``serve``.
        counts: of pushes, faults and the like.
        settled: seconds until every tag was right, once nothing failed any more.
        wrong: tags that were not right in the end.
        dead: why copies were given up; nothing that goes wrong here lasts, so none should be.
    """

    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=Counter)
    settled: float = 0.0
    wrong: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)


async def soak(minutes: float, place: Path | None) -> Soak:
    """Run it.

    Args:
        minutes: how long pushes are made.
        place: where the registries keep their content; None for the system's temporary directory.

    Raises:
        RunFailed: ``serve`` ended.
    """
    done = Soak(seconds=minutes * 60)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="soak-", dir=place)))
        behind = [await stack.enter_async_context(distribution(directory / name)) for name in ("source", "destination")]
        layers = [FaultLayer((await stack.enter_async_context(Upstream(host))).forward) for host in behind]
        source, destination = [await stack.enter_async_context(serve(one)) for one in layers]
        redis = stack.enter_context(RedisServer(directory / "redis"))
        rules = directory / "rules.json"
        auth = {host: {"anonymous": True, "insecure": True} for host in (source, destination)}
        rules.write_text(json.dumps({"auth": auth, "images": {f"{source}/team/*": f"{destination}/mirror/{{name}}"}}))
        settings = {"REPLICATOR_REDIS_URL": redis.url, "REPLICATOR_LEASE": "10"}
        serving = await stack.enter_async_context(
            running("serve", "--config", rules, cwd=directory, settings=settings, program=PROGRAM)
        )
        pushed: dict[tuple[str, str], str] = {}
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(trouble.spoil(layers[0], layers[1], done.counts)),
                group.create_task(trouble.restart(redis, done.counts)),
                group.create_task(_kill_workers(rules, directory, settings, done)),
                group.create_task(_look(serving, done.samples)),
                group.create_task(_forget(serving, done.dead)),
            ]
            await _push_for(done, behind[0], serving.url, pushed)
            for task in tasks:
                task.cancel()
        for one in layers:
            one.faults.clear()
        await _settle(done, behind[1], pushed)
        if serving.process.returncode is not None:
            raise RunFailed(f"serve ended with {serving.process.returncode}")
    return done


async def _push_for(done: Soak, source: str, url: str, pushed: dict[tuple[str, str], str]) -> None:
    """Push a tag every quarter of a second, and tell of it as Harbor does, until the time is over."""
    base = [layer(0, _LAYER)]
    began = time.monotonic()
    number = 0
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        while (now := time.monotonic()) < began + done.seconds:
            repository = f"team/app{number % _REPOSITORIES}"
            tag = f"v{number // _REPOSITORIES % _TAGS}"
            number += 1
            root = image(number, (_LAYER, 500), base=base)
            await push(source, repository, tag, root)
            pushed[repository, tag] = root.content.decode()
            event = default(tag=tag, digest=root.digest)
            event["event_data"]["repository"] |= {"repo_full_name": repository}
            await _told(session, f"{url}/webhooks/harbor", event, done.counts)
            done.counts["pushes"] += 1
            await asyncio.sleep(max(0.0, now + _PUSH_SECONDS - time.monotonic()))


async def _told(session: aiohttp.ClientSession, url: str, event: object, counts: dict[str, int]) -> None:
    """Deliver an event until it is taken."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS), session.post(url, json=event) as answer:
                if answer.status == 202:
                    return
                assert answer.status == 503, await answer.text()
        counts["deliveries repeated"] += 1
        await asyncio.sleep(0.5)


async def _kill_workers(rules: Path, directory: Path, settings: dict[str, str], done: Soak) -> None:
    while True:
        async with running(
            "worker", "--config", rules, cwd=directory, ready="starting", settings=settings, program=PROGRAM
        ) as worker:
            await trouble.kill(worker, done.counts)
            done.dead += _given_up(worker)


async def _look(serving: Serving, samples: list[Sample]) -> None:
    while True:
        samples.append(sample(serving.process.pid))
        await asyncio.sleep(_SAMPLE_SECONDS)


async def _forget(serving: Serving, dead: list[str]) -> None:
    """Note what was given up, and drop what was said before: this process must not grow either."""
    while True:
        await asyncio.sleep(_SAMPLE_SECONDS)
        dead += _given_up(serving)
        # Where it listens stays.
        serving.lines[:] = serving.said("listening")


def _given_up(process: Serving) -> list[str]:
    return [f"{line.get('error_class')}: {line.get('error')}" for line in process.said("job dead")]


async def _settle(done: Soak, destination: str, pushed: dict[tuple[str, str], str]) -> None:
    """Wait until every tag at the destination is the one that was pushed last."""
    began = time.monotonic()
    left = dict(pushed)
    while left and time.monotonic() < began + _SETTLE_SECONDS:
        for (repository, tag), content in list(left.items()):
            with contextlib.suppress(LookupError):
                there, _ = await fetch_raw(destination, repository.replace("team/", "mirror/"), tag)
                if there.decode() == content:
                    del left[repository, tag]
        if left:
            await asyncio.sleep(1)
    done.settled = time.monotonic() - began
    done.wrong = [f"{repository}:{tag}" for repository, tag in sorted(left)]


def judge(done: Soak) -> None:
    """Look at the end of a soak.

    Raises:
        RunFailed: something grew, a tag is not right, or a copy was given up.
    """
    if wrong := _wrong(done):
        raise RunFailed("; ".join(wrong))


def _wrong(done: Soak) -> list[str]:
    wrong = [f"{len(done.wrong)} tags are not right: {', '.join(done.wrong[:5])}"] if done.wrong else []
    dead = [f"{len(done.dead)} copies were given up: {done.dead[0]}"] if done.dead else []
    return [*wrong, *dead, *growth(done.samples)]


def report(done: Soak) -> Table:
    """Make a table of a soak."""
    table = Table(title=f"soak of {done.seconds / 60:g} minutes", title_justify="left")
    for heading in ("what", "first quarter", "last quarter", "an hour"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    memory, descriptors = course(done.samples, "memory"), course(done.samples, "descriptors")
    table.add_row("memory of serve, MiB", *_figures([memory.first, memory.last, memory.slope], _MIB))
    table.add_row("open descriptors", *_figures([descriptors.first, descriptors.last, descriptors.slope], 1))
    for name, count in done.counts.items():
        table.add_row(name, "", f"{count:,}", "")
    table.add_row("seconds until all was right", "", f"{done.settled:.0f}", "")
    return table


def _figures(values: Sequence[float], unit: int) -> list[str]:
    first, last, slope = (value / unit for value in values)
    return [f"{first:.1f}", f"{last:.1f}", f"{slope:+.1f}"]
