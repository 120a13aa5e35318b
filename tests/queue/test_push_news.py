"""Processes on one Redis tell each other about the pushes that they move."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from replicator.queue import PushNews, Queue
from replicator.queue.records import dump_json
from replicator.tasks import cancel_all
from tests.queue.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tests.queue.servers import RedisServer

HOST = "registry.example.com"


class Process:
    """One that moves pushes, and hears of those of others."""

    def __init__(self, queue: Queue) -> None:
        self.moves: asyncio.Queue[Mapping[str, tuple[int, bool]]] = asyncio.Queue()
        self.heard: list[tuple[str, int]] = []
        self.news = PushNews(queue, lambda host, size, _: self.heard.append((host, size)))

    async def tell(self) -> None:
        await self.news.tell(self.moves.get)


@asynccontextmanager
async def processes(queue: Queue) -> AsyncIterator[tuple[Process, Process]]:
    both = Process(queue), Process(queue)
    tasks = [asyncio.create_task(work) for one in both for work in (one.tell(), one.news.hear())]
    try:
        # A message before the subscription is lost.
        async with asyncio.timeout(20):
            while not all(one.heard for one in both):
                for one in both:
                    one.moves.put_nowait({HOST: (0, True)})
                await asyncio.sleep(0.02)
        yield both
    finally:
        await cancel_all(tasks)


async def test_each_hears_of_the_others_pushes_and_not_of_its_own(queue: Queue) -> None:
    async with processes(queue) as (one, other):
        one.moves.put_nowait({})
        one.moves.put_nowait({HOST: (12_345, True), "other.example.com": (1, False)})

        async def heard() -> bool:
            return other.heard[-2:] == [(HOST, 12_345), ("other.example.com", 1)]

        await eventually(heard)
        assert (HOST, 12_345) not in one.heard


async def test_nothing_that_a_stranger_publishes_ends_the_listening(queue: Queue) -> None:
    async with processes(queue) as (one, other):
        hosts: list[object] = [3, {HOST: "x"}, {HOST: None}, {HOST: [1]}]
        strange: list[object] = [[], {}, *({"hosts": each} for each in hosts), None, "x", 7]
        for message in [b"\xff", b"{", b"[" * 100_000, b'{"hosts": {"h": [1e999, 1]}}', *map(dump_json, strange)]:
            await queue.redis.publish(f"{queue.prefix}:pushes", message)
        await queue.redis.publish(f"{queue.prefix}:pushes", dump_json({"hosts": {HOST: (-5, 1)}, "more": 1}))
        one.moves.put_nowait({HOST: (777, True)})

        async def heard() -> bool:
            return (HOST, 777) in other.heard

        await eventually(heard)
        assert all(size >= 0 for _, size in other.heard)


async def test_a_redis_that_is_away_ends_nothing(own_server: RedisServer, prefix: str) -> None:
    async with await Queue.connect(own_server.url, prefix=prefix) as queue, processes(queue) as (one, other):
        own_server.kill()
        one.moves.put_nowait({HOST: (1, True)})
        own_server.start()

        async def heard() -> bool:
            one.moves.put_nowait({HOST: (4242, True)})
            return (HOST, 4242) in other.heard

        await eventually(heard, timeout=30)
