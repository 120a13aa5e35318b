"""Everything at once, over HTTP: what a run of chaos does, and what it finds in the end.

A Harbor and an ACR, both in front of real registries, a ``serve`` that takes the events, two ``worker`` processes, and
a Redis of three nodes with sentinels. Tags are pushed all the time, a few of them again and again. Meanwhile
processes are killed and stopped, Redis fails over and is full, and the registries fail, cut and delay. Harbor tells of
a push three times at most and waits three seconds for an answer each time; what it got a 2xx for has to arrive.

All replicas of Redis are awaited, so that a machine that stands still for a moment, after which the sentinels make
another node the master, loses nothing either.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from replicator.queue import Queue
from tests.end_to_end.chaos_faults import LEASE, WORKERS, Destination, Faults, Fleet
from tests.end_to_end.writes import overlapping, tag_writes
from tests.queue.servers import SentinelGroup, free_port
from tests.running import TOKEN
from tests.standins.distribution import distribution
from tests.standins.harbor import HarborStandIn
from tests.standins.images import Image, fetch_raw, image, layer, push, verify_tree
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path


_BACKOFF = (0.5, 1.0)
"""Seconds between Harbor's attempts, which really takes minutes."""
_SETTLE_SECONDS = 400.0
"""Seconds that the copies have in the end: the pauses of what failed often grow to five minutes."""
_HOT, _COLD = 8, 60


@dataclass
class Found:
    """What a run did, and what was wrong in the end.

    Attributes:
        seed: what the order of the faults was drawn with.
        seconds: how long pushes were made.
        settled: seconds until all was right, once nothing failed any more.
        counts: of pushes, attempts to deliver, kills and the like.
        lost: tags that are at the destination as no push since the last accepted event left them, or not at all.
        stale: writes of an older image over a newer one.
        overlapping: writes of one tag at the same time.
        broken: everything else: dead letters, errors in logs, exit codes.
    """

    seed: int
    seconds: float = 0.0
    settled: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    overlapping: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """All that must not be."""
        return [
            f"{kind}: {what}" for kind in ("lost", "stale", "overlapping", "broken") for what in getattr(self, kind)
        ]


class Chaos:
    """A run.

    Args:
        directory: of logs, state and Redis; its path leaves room for a socket's.
        program: the server of Redis.
        seed: for the order of the faults and of the pushes.
        pause: mean seconds between two pushes.
        sentinels: of Redis; several have to agree before a failover, which takes longer.
    """

    def __init__(self, directory: Path, program: str, seed: int, *, pause: float = 0.25, sentinels: int = 1) -> None:
        self.found = Found(seed)
        self._directory = directory
        self._pause = pause
        self._sentinels = sentinels
        self._base = [layer(0, 4000)]
        self._pushed: defaultdict[str, list[Image]] = defaultdict(list)
        self._versions: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._program = program
        self._pushing_on = True

    async def run(self, minutes: float | None = None) -> Found:
        """Have every fault once, or round by round until the time is over; then wait until all is right.

        Args:
            minutes: how long pushes are made at least; None for one round of faults.
        """
        async with AsyncExitStack() as stack:
            behind = [await stack.enter_async_context(distribution()) for _ in range(2)]
            self._harbor = await stack.enter_async_context(
                HarborStandIn(
                    behind[0],
                    users=dict([HARBOR_ADMIN, HARBOR_ROBOT]),
                    projects={"library": True},
                    webhook_backoff=_BACKOFF,
                )
            )
            self._acr = await stack.enter_async_context(
                Destination(behind[1], users={name: name for name in ("serve", *WORKERS)}, namespaces={"mirror": True})
            )
            self._acr.written = defaultdict(list)
            self._behind = behind[1]
            self._redis = SentinelGroup(
                self._directory, self._program, "--appendfsync", "no", sentinels=self._sentinels, down_after_ms=2000
            )
            await asyncio.to_thread(stack.enter_context, self._redis)
            address = f"127.0.0.1:{free_port()}"
            self._url = f"http://{address}"
            self._fleet = Fleet(self._directory, self._settings(address))
            self._fleet.keep("serve", "serve", "--no-worker", "--config", self._rules("serve"))
            for name in WORKERS:
                self._fleet.keep(name, "worker", "--config", self._rules(name))
            stack.push_async_callback(self._fleet.stop)
            self._faults = Faults(self.found.seed, self.found.counts, self._fleet, self._redis, self._harbor, self._acr)
            await _ready(f"{self._url}/readyz")
            self._harbor.add_policy("library", f"{self._url}/webhooks/harbor", auth_header=TOKEN)
            await self._trouble(minutes)
            await self._settle(fully=minutes is not None)
            await self._fleet.stop()
            await self._judge()
        return self.found

    def _rules(self, name: str) -> Path:
        logins = {self._harbor.host: HARBOR_ROBOT, self._acr.host: (name, name)}
        auth = {host: {"username": user, "password": key, "insecure": True} for host, (user, key) in logins.items()}
        images = {f"{self._harbor.host}/library/*": f"{self._acr.host}/mirror/{{name}}"}
        file = self._directory / f"{name}.json"
        file.write_text(json.dumps({"auth": auth, "images": images}))
        return file

    def _settings(self, address: str) -> dict[str, str]:
        return {
            "REPLICATOR_REDIS_URL": self._redis.url,
            "REPLICATOR_REDIS_REPLICAS": "2",
            "REPLICATOR_LEASE": str(LEASE),
            "REPLICATOR_DRAIN_TIMEOUT": "2",
            "REPLICATOR_LISTEN": address,
            "REPLICATOR_WEBHOOK_TOKEN": TOKEN,
            "REPLICATOR_LOG_FORMAT": "json",
        }

    async def _trouble(self, minutes: float | None) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            spoiling = group.create_task(self._faults.spoil())
            for half in range(2):
                group.create_task(self._push(half))
            await self._faults.round()
            while minutes is not None and time.monotonic() < began + minutes * 60:
                await self._faults.round()
            self._pushing_on = False
            spoiling.cancel()
        self.found.counts["faults of registries"] += self._faults.clear_faults()
        self.found.seconds = time.monotonic() - began

    async def _push(self, half: int) -> None:
        """Push tags of one half, most often one of the few that are pushed again and again."""
        number, drawn = half, random.Random(f"{self.found.seed}-pushes-{half}")
        while self._pushing_on:
            number += 2
            chosen = half + 2 * drawn.randrange(_HOT // 2 if drawn.random() < 0.7 else _COLD // 2)
            repository, tag = f"app{chosen % 5}", f"v{chosen}"
            root = image(number, (300,), base=self._base)
            name = f"mirror/{repository}:{tag}"
            self._versions[name][root.digest] = len(self._pushed[name])
            self._pushed[name].append(root)
            await push(self._harbor.host, f"library/{repository}", tag, root, HARBOR_ADMIN)
            self.found.counts["pushes"] += 1
            await asyncio.sleep(drawn.expovariate(1 / (2 * self._pause)))

    async def _settle(self, *, fully: bool) -> None:
        """Wait until Harbor has told of all, and nothing is left to do.

        Args:
            fully: also wait for jobs that wait; else only until all is right. A destination whose write was unanswered
                is compared again after two minutes.
        """
        began = time.monotonic()
        await self._faults.whole()
        await _ready(f"{self._url}/readyz")
        await self._harbor.deliveries_settled()
        async with await Queue.connect(self._redis.url, replicas=2, deadline=30) as queue:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_SECONDS):
                    while await _left(queue, fully=fully) or await self._lost():
                        await asyncio.sleep(0.5)
            self.found.broken += await _left(queue, fully=fully)
            if dead := (await queue.counts()).dead:
                self.found.broken.append(f"{dead} dead letters")
        self.found.settled = time.monotonic() - began

    async def _lost(self) -> list[str]:
        """Return the tags that are not as their newest accepted push or a later one left them."""
        lost = []
        for name, number in sorted(self._accepted().items()):
            repository, _, tag = name.partition(":")
            try:
                content, _ = await fetch_raw(self._behind, repository, tag)
                there = self._version(name, f"sha256:{hashlib.sha256(content).hexdigest()}")
                await verify_tree(self._behind, repository, tag, self._pushed[name][there])
            except (LookupError, AssertionError) as error:
                lost.append(f"{name}: {error!r}")
            else:
                if there < number:
                    lost.append(f"{name}: push {there} is there, and {number} was accepted")
        return lost

    def _accepted(self) -> dict[str, int]:
        """Return the newest push of each tag whose event got a 2xx."""
        accepted: dict[str, int] = {}
        for delivery in self._harbor.deliveries:
            if delivery.succeeded:
                data = delivery.event["event_data"]
                (resource,) = data["resources"]
                name = f"mirror/{data['repository']['name']}:{resource['tag']}"
                accepted[name] = max(accepted.get(name, 0), self._version(name, resource["digest"]))
        return accepted

    def _version(self, name: str, digest: str) -> int:
        """Return the number of the push of a tag that had this digest.

        Raises:
            LookupError: there was none.
        """
        return self._versions[name][digest]

    async def _judge(self) -> None:
        found = self.found
        found.counts["deliveries"] = len(self._harbor.deliveries)
        found.counts["accepted events"] = sum(delivery.succeeded for delivery in self._harbor.deliveries)
        found.lost = await self._lost()
        for name, digests in self._acr.written.items():
            if name in self._pushed:  # a tag's, not a manifest's
                order = [self._version(name, digest) for digest in digests]
                found.stale += [f"{name}: {b} over {a}" for a, b in itertools.pairwise(order) if b < a]
        writes = tag_writes(self._acr.faults.log)
        found.overlapping += overlapping(writes)
        found.counts["writes of tags"] = len(writes)
        found.counts["leases lost"] = sum('"lease lost"' in line for line in self._fleet.lines())
        found.broken += [line for line in self._fleet.lines() if _is_bad(line)][:20]
        if any(self._fleet.codes):
            found.broken.append(f"exit codes {self._fleet.codes}")


async def _left(queue: Queue, *, fully: bool) -> list[str]:
    """Say what a queue still has to do, a sentence for each lane; perhaps without what waits for its time."""
    lanes = (await queue.counts()).lanes
    return [
        f"not done: {name} {lane}"
        for name, lane in lanes.items()
        if lane.queued or lane.running or (fully and lane.waiting)
    ]


def _is_bad(line: str) -> bool:
    return any(
        word in line for word in ("Traceback", '"job dead"', "raised unexpectedly", '"job not started"', '"exception":')
    )


async def _ready(url: str) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
