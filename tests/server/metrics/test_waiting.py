"""What waits for places is exposed by host and lane."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from replicator.queue import Lane
from replicator.reference import Repository
from replicator.registry import Access, Registries
from replicator.registry.limits import transfer
from replicator.registry.places import BULK
from replicator.rules import parse
from tests.server.metrics.conftest import RULES
from tests.server.metrics.test_conventions import ACR, exposed

if TYPE_CHECKING:
    from replicator.server.metrics import Metrics

WAITING = "replicator_registry_waiting"


async def test_each_known_host_has_a_number_for_each_lane(metrics: Metrics) -> None:
    found = (await exposed(metrics)).series(WAITING)
    assert found == {(host, lane.value): 0 for host in (ACR, "harbor.example.com") for lane in Lane}
    metrics.requests.watch_waiting(lambda host, lane: len(host) if lane is Lane.EVENTS else 0)
    assert (await exposed(metrics)).value(WAITING, host=ACR, lane="events") == len(ACR)
    more = RULES.replace("harbor.example.com", "other.example.com")
    metrics.add_labels(parse(more, "rules", environ={}))
    assert (await exposed(metrics)).value(WAITING, host="other.example.com", lane="events") == 17


async def test_requests_without_a_place_and_bodies_that_are_held_back_wait() -> None:
    async with Registries(lambda _: Access(), in_flight=2) as registries, AsyncExitStack() as stack:
        assert registries.waiting("r.example.com", bulk=True) == 0
        limits = registries.source(Repository("r.example.com", "a")).limits

        async def wait(*, bulk: bool) -> None:
            BULK.set(bulk)
            async with limits.slot(1000):
                pass

        for _ in range(2):
            await stack.enter_async_context(limits.slot(1000))
        waiters = [asyncio.create_task(wait(bulk=bulk)) for bulk in (True, True, False)]
        await asyncio.sleep(0)
        assert registries.waiting("r.example.com", bulk=True) == 2
        assert registries.waiting("r.example.com", bulk=False) == 1
        await stack.aclose()
        await asyncio.gather(*waiters)
        other = registries.source(Repository("s.example.com", "a")).limits
        await stack.enter_async_context(transfer(limits, other, 1000))
        BULK.set(True)
        flow = await stack.enter_async_context(transfer(limits, other, 1000))
        assert flow.delay(1000) > 0
        assert registries.waiting("r.example.com", bulk=True) == 0, "it is counted once, at its destination"
        assert registries.waiting("s.example.com", bulk=True) == registries.waiting(bulk=True) == 1
