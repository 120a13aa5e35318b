"""The queue of tags is bounded, keeps those of a repository together, and closes for every taker."""

from __future__ import annotations

import asyncio

from replicator.reference import Reference
from replicator.replication.enqueue import RepositoryQueue
from replicator.replication.listing import Found
from replicator.rules import Asked, CopyRequest


def found(repository: str, tag: str) -> Found:
    source = Reference.parse(f"harbor.example.com/{repository}:{tag}")
    return Found(Asked(CopyRequest(source, source, "rule"), frozenset({"rule"})), None, None, None)


async def put(queue: RepositoryQueue[Found], repository: str, tag: str) -> None:
    one = found(repository, tag)
    await queue.put(one.request.source.repository, one)


def name(one: Found | None) -> str:
    assert one is not None
    source = one.request.source
    return f"{source.repository.name}:{source.tag}"


async def test_a_started_repository_goes_on_before_the_next() -> None:
    queue = RepositoryQueue[Found](100)
    for tag in ("1", "2"):
        for repository in ("a/x", "a/y"):
            await put(queue, repository, tag)
    assert name(await queue.take()) == "a/x:1"
    await put(queue, "a/x", "3")
    assert [name(one) for one in queue] == ["a/x:2", "a/x:3", "a/y:1", "a/y:2"]
    assert [name(await queue.take()) for _ in range(4)] == ["a/x:2", "a/x:3", "a/y:1", "a/y:2"]


async def test_put_waits_for_room_and_take_for_a_copy() -> None:
    queue = RepositoryQueue[Found](2)
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    assert not taking.done()
    await put(queue, "a/x", "1")
    assert name(await taking) == "a/x:1"
    await put(queue, "a/x", "2")
    await put(queue, "a/x", "3")
    putting = asyncio.create_task(put(queue, "a/x", "4"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not putting.done()
    assert name(await queue.take()) == "a/x:2"
    await putting
    assert [name(one) for one in queue] == ["a/x:3", "a/x:4"]


async def test_every_taker_learns_that_the_queue_is_closed_once_it_is_empty() -> None:
    queue = RepositoryQueue[Found](10)
    takers = [asyncio.create_task(queue.take()) for _ in range(5)]
    await put(queue, "a/x", "1")
    await put(queue, "a/x", "2")
    queue.close()
    queue.close()
    taken = await asyncio.gather(*takers)
    assert sorted(name(one) for one in taken if one is not None) == ["a/x:1", "a/x:2"]
    assert taken.count(None) == 3
    assert await queue.take() is None
