"""Pushes and bulk share places: bulk never keeps a push waiting, and never starves."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from replicator.registry.limits import HostLimits, transfer
from replicator.registry.places import BULK, Budget, PromotingLock, is_bulk
from tests.registry.test_limits import MIB, Crowd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GIB = 2**30


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    crowd = Crowd(Budget(8))
    yield crowd
    await crowd.end()


async def enter(crowd: Crowd, name: str, number: int, size: int, *, bulk: bool = False) -> int:
    """Have so many enter; return how many of them are inside at once."""
    for each in range(number):
        crowd.enter(f"{name} {each}", size, bulk=bulk)
    await crowd.settle()
    return inside(crowd, name)


def inside(crowd: Crowd, name: str) -> int:
    return sum(each.startswith(name) for each in crowd.inside)


async def test_bulk_alone_has_all_places(crowd: Crowd) -> None:
    assert await enter(crowd, "bulk", 10, MIB, bulk=True) == 8
    assert crowd.budget.waiting(bulk=True) == 2


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, MIB, GIB])
async def test_a_push_finds_a_place_when_bulk_has_all(crowd: Crowd, size: int) -> None:
    await enter(crowd, "bulk", 20, GIB, bulk=True)
    assert await enter(crowd, "push", 2, size) == 2
    assert crowd.budget.waiting(bulk=False) == 0


async def test_bulk_holds_a_quarter_of_the_places_while_pushes_want_them(crowd: Crowd) -> None:
    assert await enter(crowd, "push", 1, MIB) == 1
    assert await enter(crowd, "bulk", 20, GIB, bulk=True) == 2
    assert await enter(crowd, "push", 20, MIB) == 6


async def test_bulk_has_all_places_again_when_the_pushes_have_left(crowd: Crowd) -> None:
    push = crowd.enter("push", MIB)
    assert await enter(crowd, "bulk", 20, GIB, bulk=True) == 2
    push.cancel()
    await crowd.settle()
    assert inside(crowd, "bulk") == 8


@pytest.mark.parametrize("size", [0, MIB])
async def test_bulk_goes_on_beside_pushes_without_end(size: int) -> None:
    budget, ended = Budget(1), asyncio.Event()

    async def pushes() -> None:
        while not ended.is_set():
            async with budget.slot(MIB):
                await asyncio.sleep(0)

    async def bulk() -> None:
        BULK.set(True)
        for _ in range(10):
            async with budget.slot(size):
                await asyncio.sleep(0)
        ended.set()

    async with asyncio.timeout(30):
        await asyncio.gather(bulk(), *(pushes() for _ in range(10)))


async def test_a_smaller_push_goes_beside_any_number_of_huge_ones(crowd: Crowd) -> None:
    assert await enter(crowd, "huge", 20, 2**35) == 8 + 0
    assert await enter(crowd, "large", 20, 2**30) == 2
    assert await enter(crowd, "middle", 20, 2**24) == 2
    assert await enter(crowd, "small", 20, 1000) == 2
    assert await enter(crowd, "short", 20, 0) == 2


async def test_places_beyond_the_budget_have_a_bound(crowd: Crowd) -> None:
    await enter(crowd, "bulk", 20, GIB, bulk=True)
    for bits in range(45, 0, -1):
        await enter(crowd, f"push {bits}", 2, 2**bits)
    assert len(crowd.inside) <= 2 * 8 + 1


async def test_short_requests_of_bulk_leave_places_to_those_of_pushes(crowd: Crowd) -> None:
    assert await enter(crowd, "bulk", 50, 0, bulk=True) == 8
    assert await enter(crowd, "push", 2, 0) == 2
    crowd.leave.set()
    await crowd.settle()
    crowd.leave.clear()
    assert await enter(crowd, "later", 6, MIB) == 6


async def test_a_transfer_within_one_host_finds_places_beside_bulk() -> None:
    limits = HostLimits(2)
    async with AsyncExitStack() as stack:
        BULK.set(True)
        for _ in range(2):
            await stack.enter_async_context(limits.slot(GIB))
        BULK.set(False)
        async with asyncio.timeout(5), transfer(limits, limits, MIB):
            pass


async def test_bulk_whose_transfer_takes_two_places_goes_on_beside_pushes() -> None:
    limits = HostLimits(4)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(limits.slot(MIB))
        BULK.set(True)
        async with asyncio.timeout(5), transfer(limits, limits, MIB):
            pass


async def test_bulk_that_a_push_waits_for_counts_as_the_push() -> None:
    lock, limits = PromotingLock(), HostLimits(8)
    seen: list[str] = []

    async def copy(name: str, *, bulk: bool) -> None:
        BULK.set(bulk)
        async with lock.hold("blob"):
            seen.append(f"{name} has the lock")
            async with transfer(limits, HostLimits(8), GIB) as flow:
                seen.append(f"{name} moves as {flow.urgency.name}")
                while is_bulk():
                    await asyncio.sleep(0)
                seen.append(f"{name} moves as {flow.urgency.name}")

    others = Crowd(limits)
    assert await enter(others, "other", 20, GIB, bulk=True) == 8
    async with asyncio.timeout(10):
        first = asyncio.create_task(copy("bulk", bulk=True))
        await others.settle()
        assert seen == ["bulk has the lock"]
        await asyncio.gather(first, copy("push", bulk=False))
    await others.end()
    moves = [f"{name} moves as PUSH" for name in ("bulk", "bulk", "push", "push")]
    assert seen == ["bulk has the lock", *moves[:2], "push has the lock", *moves[2:]]
    assert (limits._used, limits._used_by_bulk, limits._pushes.total()) == (0, 0, 0)


async def test_bulk_that_is_under_way_already_counts_as_the_push_that_waits_for_it() -> None:
    lock, limits = PromotingLock(), HostLimits(8)
    begun = asyncio.Event()

    async def copy(*, bulk: bool) -> None:
        BULK.set(bulk)
        async with lock.hold("blob"), transfer(limits, HostLimits(8), GIB) as flow:
            begun.set()
            while flow.urgency.name == "BULK":
                await asyncio.sleep(0)
            assert limits._used_by_bulk == 0

    async with asyncio.timeout(10):
        first = asyncio.create_task(copy(bulk=True))
        await begun.wait()
        await asyncio.gather(first, copy(bulk=False))


async def test_a_push_that_gave_up_waiting_no_longer_hurries_the_next_holder() -> None:
    lock = PromotingLock()

    async def wait() -> None:
        async with lock.hold("blob"):
            pass

    async with lock.hold("blob"):
        push = asyncio.create_task(wait())
        await asyncio.sleep(0)
        push.cancel()
        await asyncio.gather(push, return_exceptions=True)
    BULK.set(True)
    async with lock.hold("blob"):
        assert is_bulk()
    assert not lock._pushes


async def test_a_holder_that_is_cancelled_as_a_push_asks_for_its_lock_leaves_no_place_behind() -> None:
    budget, locks = Budget(8), PromotingLock()

    async def bulk() -> None:
        BULK.set(True)
        async with locks.hold("blob"), budget.slot(GIB):
            raise AssertionError("there is no place")

    async def push() -> None:
        async with locks.hold("blob"):
            pass

    async with budget.slot(MIB, places=8):
        holder = asyncio.create_task(bulk())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking = asyncio.create_task(push())
        holder.cancel()
        await asyncio.gather(holder, asking, return_exceptions=True)
    crowd = Crowd(budget)
    assert await enter(crowd, "bulk", 10, MIB, bulk=True) == 8
    assert (budget.waiting(bulk=True), budget.waiting(bulk=False)) == (2, 0)
    await crowd.end()
