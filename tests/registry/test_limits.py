"""The budget of a host: its order, its size under load, and the absence of starvation."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.copy import Copier
from replicator.registry import Access, Registries
from replicator.registry.limits import HostLimits, transfer
from replicator.registry.places import BULK, Budget
from tests.copy.conftest import Registry, a_copier, a_registry
from tests.standins.images import image

if TYPE_CHECKING:
    from aiohttp import web

MIB = 2**20


class Crowd:
    """Coroutines that hold places of a budget, with a record of their order."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.inside: list[str] = []
        self.order: list[str] = []
        self.most = 0
        self.leave = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def enter(self, name: str, size: int = 0, places: int = 1, *, bulk: bool = False) -> asyncio.Task[None]:
        async def run() -> None:
            BULK.set(bulk)
            async with self.budget.slot(size, places=places):
                self.inside.append(name)
                self.order.append(name)
                self.most = max(self.most, len(self.inside))
                await self.leave.wait()
                self.inside.remove(name)

        self._tasks.append(asyncio.create_task(run()))
        return self._tasks[-1]

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def end(self) -> None:
        self.leave.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_no_more_than_the_budget_are_inside() -> None:
    crowd = Crowd(Budget(3))
    for number in range(10):
        crowd.enter(str(number), MIB)
    await crowd.settle()
    assert crowd.inside == ["0", "1", "2"]
    await crowd.end()
    assert len(crowd.order) == 10
    assert crowd.most == 3


@pytest.mark.parametrize("bulk", [False, True])
async def test_short_requests_go_first_then_small_bodies_of_pushes_and_large_ones_of_bulk(bulk: bool) -> None:
    crowd = Crowd(Budget(1))
    crowd.enter("first", 10, bulk=bulk)
    await crowd.settle()
    for name, size in (("small", 100), ("large", 2**19), ("middle", 2**15)):
        crowd.enter(name, size, bulk=bulk)
    crowd.enter("short", bulk=bulk)
    await crowd.end()
    bodies = ["small", "middle", "large"]
    assert crowd.order == ["first", "short", *(reversed(bodies) if bulk else bodies)]


async def test_one_short_request_proceeds_beside_any_load() -> None:
    crowd = Crowd(Budget(1))
    crowd.enter("body", MIB)
    crowd.enter("waits", MIB)
    await crowd.settle()
    crowd.enter("short")
    crowd.enter("next")
    await crowd.settle()
    assert crowd.inside == ["body", "short"]
    await crowd.end()


@given(st.lists(st.tuples(st.integers(0, MIB), st.booleans()), min_size=80, max_size=300))
@settings(max_examples=30)
async def test_no_waiter_starves(works: list[tuple[int, bool]]) -> None:
    budget = Budget(1)
    order: list[int] = []

    async def run(number: int, size: int, bulk: bool) -> None:
        BULK.set(bulk)
        async with budget.slot(size):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(run(number, size, bulk) for number, (size, bulk) in enumerate(works)))
    assert sorted(order) == list(range(len(works)))
    overtaken = [sum(later > number for later in order[: order.index(number)]) for number in range(len(works))]
    assert max(overtaken) <= 64 + 64
    bulk = {number for number, (_, is_bulk) in enumerate(works) if is_bulk}
    # Bulk overtakes no push that came before it, but for short requests beside a body.
    for push in set(range(len(works))) - bulk:
        assert sum(later in bulk and works[later][0] > 0 for later in order[: order.index(push)] if later > push) == 0


async def test_a_cancelled_waiter_leaves_its_place_to_others() -> None:
    crowd = Crowd(Budget(1))
    crowd.enter("first", MIB)
    await crowd.settle()
    gone, stays = crowd.enter("gone", MIB), crowd.enter("stays", MIB)
    gone.cancel()
    await crowd.settle()
    await crowd.end()
    assert crowd.order == ["first", "stays"]
    assert stays.done()


async def test_a_waiter_cancelled_at_the_moment_of_admission_leaves_no_trace() -> None:
    budget = Budget(1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(budget.slot(MIB))
        waiting = asyncio.create_task(_pass(budget))
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(1):
        await _pass(budget)


async def _pass(budget: Budget) -> None:
    async with budget.slot(MIB):
        pass


async def test_a_transfer_that_needs_more_places_than_there_are_goes_alone() -> None:
    limits = HostLimits(1)
    async with asyncio.timeout(5), transfer(limits, limits, MIB):
        crowd = Crowd(limits)
        crowd.enter("other", MIB)
        await crowd.settle()
        assert crowd.inside == []
    await crowd.end()
    assert crowd.order == ["other"]


async def test_transfers_in_both_directions_never_wait_for_each_other() -> None:
    one, other = HostLimits(1), HostLimits(1)

    async def run(source: HostLimits, destination: HostLimits) -> None:
        async with transfer(source, destination, MIB):
            await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await asyncio.gather(*(run(*ends) for ends in [(one, other), (other, one), (one, one)] * 30))


async def test_a_429_halves_the_budget_once_and_answers_let_it_grow_again() -> None:
    limits = HostLimits(16)
    for _ in range(10):
        limits.throttle(0.0)  # requests in flight together get the same 429 together
    assert limits.size == 8
    for _ in range(8):
        limits.answered()
    assert 8 <= limits.size <= 9
    for _ in range(500):
        limits.answered()
    assert limits.size == 16


async def test_any_number_of_429s_leaves_a_budget_of_one() -> None:
    limits = HostLimits(16)
    for _ in range(10):
        limits._shrunk = float("-inf")
        limits.throttle(0.0)
    assert limits.size == 1


class Together:
    """Records how many requests a registry handles at once, at the start of each."""

    def __init__(self, registry: Registry, seconds: float = 0.0) -> None:
        self.seen: list[int] = []
        self._inside = 0
        original = registry.faults._handler

        async def counting(request: web.BaseRequest) -> web.StreamResponse:
            self._inside += 1
            self.seen.append(self._inside)
            try:
                await asyncio.sleep(seconds)
                return await original(request)
            finally:
                self._inside -= 1

        registry.faults._handler = counting


async def test_a_throttled_host_gets_fewer_requests_at_once() -> None:
    roots = {f"v{number}": image(number, (100,)) for number in range(12)}
    async with a_registry() as source, a_registry() as destination, a_copier() as copier:
        for tag, root in roots.items():
            await source.push(tag, root)
        together = Together(destination, 0.02)
        limits = copier.registries.destination(destination.reference("v0").repository).limits
        limits._allowed = limits._most = 8
        limits.resize(8)
        await asyncio.gather(
            *(copier.copy(source.reference(tag), destination.reference(tag)) for tag in list(roots)[:6])
        )
        # One more than the budget: a short request proceeds beside long bodies.
        assert 4 < max(together.seen) <= 9
        limits.throttle(0.0)
        assert limits.size == 4
        together.seen.clear()
        await asyncio.gather(
            *(copier.copy(source.reference(tag), destination.reference(tag)) for tag in list(roots)[6:])
        )
        # The first four answers make it grow by one at most.
        assert max(together.seen[:8]) <= 4 + 1 + 1
        for tag, root in roots.items():
            await destination.holds(tag, root)


@pytest.mark.parametrize("in_flight", [1, 2, 5])
async def test_the_budget_of_a_host_holds_over_tags_manifests_and_blobs(in_flight: int) -> None:
    roots = {f"v{number}": image(number, (100, 100_000)) for number in range(6)}
    async with a_registry() as source, a_registry() as destination:
        for tag, root in roots.items():
            await source.push(tag, root)
        together = Together(destination)
        async with Registries(lambda r: Access(endpoint=f"http://{r.registry}"), in_flight=in_flight) as registries:
            copier = Copier(registries)
            await asyncio.gather(*(copier.copy(source.reference(tag), destination.reference(tag)) for tag in roots))
        for tag, root in roots.items():
            await destination.holds(tag, root)
    assert max(together.seen) <= in_flight + 1


async def test_short_requests_go_one_after_the_other_beside_a_long_body() -> None:
    budget = Budget(1)
    async with budget.slot(MIB):
        for _ in range(3):
            async with asyncio.timeout(5), budget.slot():
                pass


async def test_a_transfer_within_one_host_takes_a_place_for_each_of_its_ends() -> None:
    limits = HostLimits(2)
    async with transfer(limits, limits, MIB):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), transfer(limits, HostLimits(1), MIB):
                pass
    async with transfer(limits, limits, MIB):
        assert limits._used == 2


async def test_waiters_proceed_when_the_budget_grows() -> None:
    crowd = Crowd(Budget(1))
    crowd.enter("first", MIB)
    crowd.enter("second", MIB)
    await crowd.settle()
    assert crowd.inside == ["first"]
    crowd.budget.resize(2)
    await crowd.settle()
    assert crowd.inside == ["first", "second"]
    await crowd.end()


@pytest.mark.scale
async def test_a_line_of_a_hundred_thousand_moves_on_at_once() -> None:
    """With quadratic cost this would take hours."""
    budget = Budget(2)

    async def one(number: int) -> None:
        async with budget.slot(1 + number % 2**20):
            await asyncio.sleep(0)

    await asyncio.gather(*(one(number) for number in range(100_000)))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 1000, 2**24]), st.integers(1, 3), st.integers(0, 6), st.booleans()),
        max_size=40,
    )
)
async def test_a_visitor_that_leaves_or_is_cancelled_at_any_moment_leaves_no_trace(
    visits: list[tuple[int, int, int, bool]],
) -> None:
    """Each visit has a size and some places, and is cancelled after some turns of the loop or runs to its end."""
    budget = Budget(2)

    async def visit(size: int, places: int, bulk: bool) -> None:
        BULK.set(bulk)
        async with budget.slot(size, places=places):
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    tasks = []
    for size, places, patience, bulk in visits:
        tasks.append(asyncio.create_task(visit(size, places, bulk)))
        await asyncio.sleep(0)
        if patience < 6 and len(tasks) > patience:
            tasks[-1 - patience].cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks, return_exceptions=True)
        async with budget.slot(MIB, places=2):
            assert budget._used == 2
    assert (budget._used, budget._used_by_bulk, budget._pushes.total(), budget._bulk_requests) == (0, 0, 0, 0)
    assert budget.waiting(bulk=True) == budget.waiting(bulk=False) == 0
