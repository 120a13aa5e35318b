"""The faults of a run of chaos: of processes, Redis and registries.

They come one at a time, but for those of the registries and a worker that stands still: two at once may lose what a
Redis has acknowledged, whatever the replicator does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import signal
from typing import TYPE_CHECKING, Any

from tests.end_to_end.writes import TagWrite
from tests.queue.servers import ask
from tests.running import Process, start
from tests.standins.acr import AcrStandIn
from tests.standins.faults import Answer, Cut, CutUpload, Delay, Fault
from tests.standins.tokens import Route

if TYPE_CHECKING:
    from collections import Counter, defaultdict
    from collections.abc import Callable, Coroutine, Iterable
    from pathlib import Path

    from aiohttp import web

    from tests.queue.servers import RedisServer, SentinelGroup
    from tests.standins.faults import Entry
    from tests.standins.harbor import HarborStandIn

WORKERS = ("worker-1", "worker-2")
"""Each has a login of its own, by which the writes of each are known."""
LEASE = 10
"""Seconds of ``REPLICATOR_LEASE``; the least there is."""
LONGEST_TAG_DELAY = 4.0
"""Seconds by which a proxy delays the write of a tag at most: less than such a write has, two thirds of the lease."""
_STOPPED = LEASE + 2.0
_STALL_SECONDS = 0.7
"""For how long the replicas of a master stand still before its end."""
_FAULT_SECONDS = 1.5
_FULL_SECONDS = 2.0
_WRITE_SECONDS = 3.0
"""For how long a signal waits for a worker that writes a tag."""
_ZOMBIE_SECONDS = 2.5
"""For how long a former master takes commands beside the next one."""
_PATIENCE = 120.0
"""Seconds that Redis has to be whole again."""


class Destination(AcrStandIn):
    """Knows the order in which images were written under a tag; an answer that is lost does not matter here.

    Attributes:
        written: digests by ``repository:tag``.
    """

    written: defaultdict[str, list[str]]

    async def _put_manifest(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await super()._put_manifest(request)
        route = Route.parse(request.path)
        if route is not None and response.status == 201:
            digest = f"sha256:{hashlib.sha256(await request.read()).hexdigest()}"
            self.written[f"{route.repository}:{route.rest}"].append(digest)
        return response


class Fleet:
    """The processes; one that has ended is started again."""

    def __init__(self, directory: Path, settings: dict[str, str]) -> None:
        self.running: dict[str, Process] = {}
        self.codes: list[int] = []
        self._directory = directory
        self._settings = settings
        self._going_on = True
        self._tasks: list[asyncio.Task[None]] = []

    def keep(self, name: str, *command: str | Path) -> None:
        """Have a command run from now on."""
        self._tasks.append(asyncio.create_task(self._keep(name, *command)))

    async def _keep(self, name: str, *command: str | Path) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            while self._going_on:
                self.running[name] = process = await start(
                    *command,
                    cwd=self._directory,
                    settings=self._settings,
                    stdout=log.fileno(),
                    stderr=log.fileno(),
                )
                self.codes.append(await process.wait())
                await asyncio.sleep(0.3)

    def signal(self, number: int, *names: str) -> None:
        """Send a signal to these, or to all."""
        for name in names or tuple(self.running):
            with contextlib.suppress(ProcessLookupError):
                self.running[name].send_signal(number)

    async def stop(self) -> None:
        """End them as an operator would."""
        self._going_on = False
        self.codes.clear()
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(*self._tasks)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def lines(self) -> Iterable[str]:
        """Return all that they logged."""
        for file in sorted(self._directory.glob("*.log")):
            for line in file.read_text().splitlines():
                yield f"{file.stem}: {line}"


class Faults:
    """What goes wrong, and how often it did.

    Args:
        seed: for the order.
        counts: counted here.
        fleet: processes to kill and to stop.
        redis: nodes to kill and to stop.
        harbor: the source.
        acr: the destination.
    """

    def __init__(
        self,
        seed: int,
        counts: Counter[str],
        fleet: Fleet,
        redis: SentinelGroup,
        harbor: HarborStandIn,
        acr: AcrStandIn,
    ) -> None:
        # One for each task: what they draw does not depend on how they take turns.
        self._random = random.Random(seed)
        self._spoiling_random = random.Random(f"{seed}-registries")
        self._counts = counts
        self._fleet = fleet
        self._redis = redis
        self._harbor = harbor
        self._acr = acr
        self._stopped = ""

    async def spoil(self) -> None:
        """Have both registries fail in another way now and then."""
        while True:
            self._counts["faults of registries"] += self.clear_faults()
            self._harbor.faults.faults = [self._at_source()]
            # Everything takes a while, so that what is killed or stopped has much under way.
            slow = Fault(Delay(self._spoiling_random.uniform(0.1, 1.5)), "POST", "/blobs/uploads/", times=None)
            late = Fault(
                Delay(self._spoiling_random.uniform(0.1, LONGEST_TAG_DELAY)), "PUT", "/manifests/v", times=None
            )
            self._acr.faults.faults = [self._at_destination(), slow, late]
            _forget(self._harbor.faults.log.entries)
            _forget(self._acr.faults.log.entries)
            await asyncio.sleep(_FAULT_SECONDS)

    def clear_faults(self) -> int:
        """Have the registries work again; return how often they did not."""
        hits = sum(fault.hits for one in (self._harbor, self._acr) for fault in one.faults.faults)
        self._harbor.faults.faults, self._acr.faults.faults = [], []
        return hits

    def _at_source(self) -> Fault:
        # Of what the replicator asks for alone: pushes are to succeed.
        return self._spoiling_random.choice(
            (
                Fault(Answer(502), "GET", times=3),
                Fault(Answer(429, headers={"Retry-After": "1"}), "GET", times=2),
                Fault(Cut(100, "reset"), "GET", "/blobs/", times=3),
                Fault(Cut(0), "GET", "/manifests/", times=3),
                Fault(Delay(1.0), "GET", times=5),
            )
        )

    def _at_destination(self) -> Fault:
        return self._spoiling_random.choice(
            (
                Fault(Answer(429, "TOOMANYREQUESTS", headers={"Retry-After": "1"}), times=3),
                Fault(Answer(503), times=3),
                Fault(Answer(500), "PUT", times=3),
                Fault(Cut(None, "reset"), times=5),
                Fault(Cut(None, "reset"), "PUT", "/manifests/v", times=2),
                Fault(CutUpload(200), "PUT", "/blobs/uploads/", times=3),
                Fault(Delay(1.0), times=5),
            )
        )

    async def round(self) -> None:
        """Have every fault once.

        First a worker stands still, and the other one takes its copies over, for which Redis must not be away for long.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stop_worker())
            await self._all([self._kill_serve, self._kill_worker, self._cut_redis])
        await self._all([self._end_worker, self._fill_redis, self._kill_replica, self._kill_master, self._stop_master])
        await self._restart_everything()

    async def _all(self, acts: list[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        for act in self._random.sample(acts, len(acts)):
            await asyncio.sleep(self._random.uniform(0.3, 1.0))
            await act()

    def _strike(self, number: int, *names: str) -> None:
        self._fleet.signal(number, *names)
        self._counts[f"{signal.Signals(number).name} to processes"] += len(names or self._fleet.running)

    async def _kill_serve(self) -> None:
        self._strike(signal.SIGKILL, "serve")

    async def _kill_worker(self) -> None:
        self._strike(signal.SIGKILL, await self._writing())

    async def _end_worker(self) -> None:
        self._strike(signal.SIGTERM, await self._writing())

    async def _stop_worker(self) -> None:
        """Stop a worker for longer than its lease; its writes under way go on at the proxy."""
        self._stopped = name = await self._writing()
        process = self._fleet.running[name]
        self._strike(signal.SIGSTOP, name)
        await asyncio.sleep(_STOPPED)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        self._stopped = ""

    async def _writing(self) -> str:
        """Wait a while for a worker that writes a tag, and is not stopped; return its name."""
        others = [name for name in WORKERS if name != self._stopped]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WRITE_SECONDS):
                while not (writing := [name for name in self._writers() if name in others]):
                    await asyncio.sleep(0.02)
                self._counts["signals amid a write of a tag"] += 1
                return writing[0]
        return self._random.choice(others)

    def _writers(self) -> list[str]:
        """Return who writes a tag now."""
        secrets = [
            entry.headers["Authorization"].removeprefix("Bearer ")
            for entry in self._acr.faults.log
            if entry.ended is None and TagWrite.of(entry) is not None
        ]
        return [token.subject for token in map(self._acr.tokens.find, secrets) if token is not None]

    async def _cut_redis(self) -> None:
        """Close all connections of clients, answers unsent."""
        await asyncio.to_thread(ask, await self._master(), "CLIENT KILL TYPE normal")
        self._counts["cuts of Redis"] += 1

    async def _fill_redis(self) -> None:
        master = await self._master()
        await asyncio.to_thread(ask, master, "CONFIG SET maxmemory 1")
        await asyncio.sleep(_FULL_SECONDS)
        # Another node may be the master by now, and this one a replica; it is free in any case.
        await asyncio.to_thread(ask, master, "CONFIG SET maxmemory 0")
        self._counts["full memory"] += 1

    async def _kill_replica(self) -> None:
        master = await self._master()
        replica = self._random.choice([node for node in self._redis.nodes if node is not master])
        await asyncio.to_thread(replica.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(self._redis.start_nodes, master)
        self._counts["SIGKILL to Redis"] += 1
        await self.whole()

    async def _kill_master(self) -> None:
        """Have a failover; the former master returns when it is over."""
        await self.whole()
        former = await asyncio.to_thread(self._redis.kill_master, _STALL_SECONDS)
        self._counts["SIGKILL to Redis"] += 1
        await asyncio.to_thread(self._redis.start_nodes, await self._next_master(former))
        await self.whole()

    async def _stop_master(self) -> None:
        """Have a failover after which the former master goes on, for processes that are connected to it."""
        former = await self._master()
        former.send_signal(signal.SIGSTOP)
        self._counts["SIGSTOP to Redis"] += 1
        following = await self._next_master(former)
        former.send_signal(signal.SIGCONT)
        await asyncio.sleep(_ZOMBIE_SECONDS)
        port = self._redis.ports[self._redis.nodes.index(following)]
        await asyncio.to_thread(ask, former, f"REPLICAOF 127.0.0.1 {port}")
        await self.whole()

    async def _restart_everything(self) -> None:
        """Have the machine lose its power for a moment: processes, nodes of Redis and sentinels."""
        master = await self._master()
        self._strike(signal.SIGKILL)
        await asyncio.to_thread(self._redis.kill_sentinels)
        for node in self._redis.nodes:
            await asyncio.to_thread(node.kill)
        self._counts["SIGKILL to Redis"] += len(self._redis.nodes)
        self._counts["restarts of everything"] += 1
        await asyncio.to_thread(self._redis.start_nodes, master)
        await asyncio.to_thread(self._redis.start_sentinels)
        await self.whole()

    async def _master(self) -> RedisServer:
        """Return the master once all nodes are whole: one fault at a time."""
        await self.whole()
        return await asyncio.to_thread(self._redis.master)

    async def whole(self) -> None:
        """Wait until Redis has a master that all others follow."""
        async with asyncio.timeout(_PATIENCE):
            while not await asyncio.to_thread(self._redis.replicates):
                await asyncio.sleep(0.1)

    async def _next_master(self, former: RedisServer) -> RedisServer:
        """Wait until another node is the master, and the third one its replica."""
        others = [node for node in self._redis.nodes if node is not former]
        async with asyncio.timeout(_PATIENCE):
            while not await asyncio.to_thread(self._redis.replicates, others):
                await asyncio.sleep(0.1)
        self._counts["failovers"] += 1
        return await asyncio.to_thread(self._redis.master)


def _forget(entries: list[Entry]) -> None:
    """Drop the requests that are over, but for the writes of tags: each has a copy of its headers."""
    entries[:] = [entry for entry in entries if entry.ended is None or TagWrite.of(entry) is not None]
