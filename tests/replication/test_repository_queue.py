"""The agenda is bounded, keeps the tags of a repository together, and ends for everyone."""

from __future__ import annotations

import asyncio

from replicator.reference import Reference
from replicator.replication.enqueue import RepositoryQueue
from replicator.replication.listing import Found
from replicator.rules import Asked, CopyRequest


def found(repository: str, tag: str) -> Found:
    source = Reference.parse(f"harbor.example.com/{repository}:{tag}")
    return Found(Asked(CopyRequest(source, source, "rule"), frozenset({"rule"})), None, None, None)


def name(one: Found | None) -> str:
    assert one is not None
    source = one.asked.request.source
    return f"{source.repository.name}:{source.tag}"


async def test_the_tags_of_a_repository_that_was_begun_come_first() -> None:
    agenda = RepositoryQueue(100)
    for tag in ("1", "2"):
        for repository in ("a/x", "a/y"):
            await agenda.put(found(repository, tag))
    assert name(await agenda.take()) == "a/x:1"
    await agenda.put(found("a/x", "3"))
    assert [name(one) for one in agenda] == ["a/x:2", "a/x:3", "a/y:1", "a/y:2"]
    assert [name(await agenda.take()) for _ in range(4)] == ["a/x:2", "a/x:3", "a/y:1", "a/y:2"]


async def test_who_lists_waits_for_room_and_who_compares_for_work() -> None:
    agenda = RepositoryQueue(2)
    taking = asyncio.create_task(agenda.take())
    await asyncio.sleep(0)
    assert not taking.done()
    await agenda.put(found("a/x", "1"))
    assert name(await taking) == "a/x:1"
    await agenda.put(found("a/x", "2"))
    await agenda.put(found("a/x", "3"))
    putting = asyncio.create_task(agenda.put(found("a/x", "4")))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not putting.done()
    assert name(await agenda.take()) == "a/x:2"
    await putting
    assert [name(one) for one in agenda] == ["a/x:3", "a/x:4"]


async def test_when_nothing_more_comes_everyone_hears_of_it_after_the_last_has_gone() -> None:
    agenda = RepositoryQueue(10)
    takers = [asyncio.create_task(agenda.take()) for _ in range(5)]
    await agenda.put(found("a/x", "1"))
    await agenda.put(found("a/x", "2"))
    agenda.close()
    agenda.close()
    taken = await asyncio.gather(*takers)
    assert sorted(name(one) for one in taken if one is not None) == ["a/x:1", "a/x:2"]
    assert taken.count(None) == 3
    assert await agenda.take() is None
