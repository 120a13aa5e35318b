from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from replicator.copy import Copier
from replicator.queue import Lane, Observations, Queue, Worker
from replicator.registry import Registries, Timing
from replicator.registry.manifest import OCI_INDEX
from replicator.replication import sweep
from replicator.replication.job import Handler
from replicator.replication.listing import Listing
from replicator.replication.sweep import Sweeper
from replicator.replication.transfer import access_by
from replicator.rules import Narrowing, Rules, parse
from tests.queue.servers import RedisServer
from tests.standins.distribution import storage_of
from tests.standins.images import Index, write
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from replicator.replication.listing import Batch, Found
    from tests.standins.harbor import HarborStandIn

PLAIN = "registry.example.com"
QUICK = Timing(connect=5, read=20, write=5, commit=30, tag=5, attempts=2)


def tiny(seed: object) -> Index:
    """A manifest that names nothing, so that a hundred of them are pushed in no time."""
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "annotations": {"seed": str(seed)}}
    return Index(OCI_INDEX, json.dumps(document).encode(), ())


@dataclass
class House:
    """A Harbor, the registry behind it, and a way to list it.

    ``HARBOR`` in rules and patterns stands for its host, ``BEHIND`` for the registry behind it, ``PLAIN`` for a
    destination that nobody asks.
    """

    harbor: HarborStandIn
    behind: str

    def _named(self, text: str) -> str:
        for name, host in {"HARBOR": self.harbor.host, "BEHIND": self.behind, "PLAIN": PLAIN}.items():
            text = text.replace(name, host)
        return text

    def rules(self, images: dict[str, Any], *hosts: str) -> Rules:
        auth = {
            "HARBOR": {"username": HARBOR_ROBOT[0], "password": HARBOR_ROBOT[1], "insecure": True},
            "BEHIND": {"anonymous": True, "insecure": True},
            "PLAIN": {"anonymous": True},
            "registry.cn-beijing.aliyuncs.com": {"anonymous": True},
        } | {host: {"anonymous": True, "insecure": True} for host in hosts}
        return parse(self._named(json.dumps({"auth": auth, "images": images})), "rules.json", environ={})

    @contextlib.asynccontextmanager
    async def listing(
        self, images: dict[str, Any], only: Iterable[str] = (), keys: Iterable[str] = ()
    ) -> AsyncIterator[AsyncGenerator[Batch, None]]:
        """The batches, one by one; requests to the Harbor are counted from here on."""
        rules = self.rules(images)
        narrowing = Narrowing(rules, list(map(self._named, only)), list(map(self._named, keys)))
        self.harbor.faults.log.clear()
        async with (
            Registries(access_by(rules.credentials), timing=QUICK) as registries,
            contextlib.aclosing(Listing(rules, registries, narrowing).batches()) as batches,
        ):
            yield batches

    async def listed(self, images: dict[str, Any], only: Iterable[str] = (), keys: Iterable[str] = ()) -> list[Batch]:
        async with self.listing(images, only, keys) as batches:
            return [batch async for batch in batches]

    def asked(self, path: str = "") -> list[str]:
        """Requests to Harbor's API and for tag lists, in order; ``path`` is a regular expression."""
        entries = self.harbor.faults.log.select("GET", "^/api/v2.0/|/tags/list$")
        return [entry.path.removeprefix("/api/v2.0") for entry in entries if re.search(path, entry.path)]

    async def put(self, names: Iterable[str]) -> dict[str, str]:
        """Push a tiny manifest of its own under each ``repository:tag``; return their digests by name."""
        storage = storage_of(self.behind)
        assert storage is not None
        digests: dict[str, str] = {}
        for name in names:
            repository, _, tag = name.rpartition(":")
            # A repository without a blob is not in the registry's catalog.
            storage.put_blob(repository, f"sha256:{hashlib.sha256(b'x').hexdigest()}", lambda: b"x")
            write(storage, repository, {tag: (manifest := tiny(name))})
            digests[name] = manifest.digest
        return digests

    async def delete(self, repository: str, digest: str) -> None:
        url = f"http://{self.behind}/v2/{repository}/manifests/{digest}"
        async with aiohttp.ClientSession() as session, session.delete(url) as answer:
            assert answer.status == 202, await answer.text()


def tags_of(batches: Iterable[Batch]) -> dict[str, str | None]:
    """Digests by ``repository:tag`` without the host."""
    return {str(each.asked.request.source).partition("/")[2]: each.digest for each in found_in(batches)}


def found_in(batches: Iterable[Batch]) -> list[Found]:
    found = [each for batch in batches for each in batch.found]
    copies = [(each.asked.request.source, each.asked.request.destination) for each in found]
    assert len(copies) == len(set(copies)), "a copy came twice"
    return found


@pytest.fixture
def house(harbor: HarborStandIn, harbor_upstream: str) -> House:
    return House(harbor, harbor_upstream)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Five rows a page instead of a hundred, so that few artifacts make many pages."""
    for module in ("harbor.lists", "harbor.api", "replication.listing"):
        monkeypatch.setattr(f"replicator.{module}.ROWS_A_PAGE", 5)
    return 5


TEAM = {"HARBOR/team/**": "BEHIND/copies/{name}"}


class Stage:
    """An installation that sweeps the Harbor of a house; its destination is the registry behind it."""

    def __init__(self, house: House, queue: Queue) -> None:
        self.house, self.queue = house, queue
        self._stack = AsyncExitStack()

    async def sweeper(self, images: dict[str, Any] | None = None, *hosts: str) -> Sweeper:
        """Start a process that sweeps, with nothing in its memory; its rules have these ``hosts`` besides."""
        rules = self.house.rules(images or TEAM, *hosts)
        registries = await self._stack.enter_async_context(Registries(access_by(rules.credentials), timing=QUICK))
        checks = Observations(self.queue)
        self._stack.push_async_callback(checks.aclose)
        return Sweeper(60, rules, Copier(registries), self.queue, checks)

    async def queued(self, lane: Lane = Lane.EVENTS) -> int:
        return (await self.queue.counts()).lanes[lane].queued

    async def copy(self, images: dict[str, Any] | None = None) -> None:
        """Have all queued copies made."""
        rules = self.house.rules(images or TEAM)
        checks = Observations(self.queue)
        async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
            worker = Worker(self.queue, Handler(Copier(registries), checks), concurrency=dict.fromkeys(Lane, 4))
            working = asyncio.create_task(worker.run())
            async with asyncio.timeout(30):
                while any(lane.queued + lane.running for lane in (await self.queue.counts()).lanes.values()):
                    await asyncio.sleep(0.02)
            worker.stop()
            await working
        await checks.aclose()

    async def store(self, record: bytes, name: bytes | None = None) -> None:
        """Replace the record of a project; of the team's without a name."""
        name = name or f"{self.house.harbor.host}/team".encode()
        redis: Any = self.queue.redis
        await redis.hset(f"{self.queue.prefix}:sweep:projects", name, record)

    def forget(self) -> None:
        """Count requests to the Harbor from here on."""
        self.house.harbor.faults.log.clear()

    async def aclose(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def stage(house: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    # The stand-in sees a tag when it is listed, so every tag would be young.
    monkeypatch.setattr(sweep, "_YOUNG_SECONDS", 0.0)
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory, RedisServer(Path(directory)) as redis:
        async with await Queue.connect(redis.url) as queue:
            made = Stage(house, queue)
            yield made
            await made.aclose()
