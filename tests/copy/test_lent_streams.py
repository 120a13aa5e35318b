"""Streams belong to the host that bodies go to, and a body that stands still because of its source lends its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from replicator.copy import Copier
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries
from tests.copy.conftest import PATIENT, Registry, a_registry
from tests.standins.faults import Cut, CutUpload, Fault
from tests.standins.images import image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGE = image(1, (2_000_000,))
OTHER = image(2, (2_000_000,))


def at(registry: Registry, tag: str) -> Reference:
    return Reference(Repository(registry.host, "team/app"), tag=tag)


class Stage:
    """A destination with one stream, and two sources; each other registry has a stream of its own."""

    def __init__(self, source: Registry, broken: Registry, destination: Registry, registries: Registries) -> None:
        self.source, self.broken, self.destination = source, broken, destination
        self.streams = registries.destination(at(destination, "any").repository).limits.streams
        self.throttled = registries.source(at(broken, "any").repository).limits
        self.copier = Copier(registries)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr("replicator.copy.blobs._STILL_SECONDS", 0.2)
    monkeypatch.setattr("replicator.copy.blobs._LOOK_SECONDS", 0.05)
    async with AsyncExitStack() as stack:
        source, broken, destination = [await stack.enter_async_context(a_registry()) for _ in range(3)]
        registries = await stack.enter_async_context(
            Registries(lambda r: Access(endpoint=f"http://{r.registry}"), timing=PATIENT, streams=1)
        )
        await source.push("large", LARGE)
        await source.push("other", OTHER)
        yield Stage(source, broken, destination, registries)


@asynccontextmanager
async def ending(task: asyncio.Task[object]) -> AsyncIterator[None]:
    yield
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_registry_that_takes_no_more_of_a_body_holds_up_no_copy_to_another(stage: Stage) -> None:
    # It still answers every short request.
    stall = stage.broken.faults.add(Fault(CutUpload(100_000, "stall"), "PUT", "/uploads/", times=None))
    first = asyncio.create_task(stage.copier.copy(at(stage.source, "large"), at(stage.broken, "copied")))
    async with ending(first):
        while not stall.hits:
            await asyncio.sleep(0.01)
        await stage.copier.copy(at(stage.source, "other"), at(stage.destination, "other"))
        await stage.destination.holds("other", OTHER)


async def test_a_source_that_sends_no_more_of_a_body_holds_up_no_copy_from_another(stage: Stage) -> None:
    await stage.broken.push("large", LARGE)
    stall = stage.broken.faults.add(Fault(Cut(100_000, "stall"), "GET", "/blobs/", times=None))
    first = asyncio.create_task(stage.copier.copy(at(stage.broken, "large"), at(stage.destination, "large")))
    async with ending(first):
        while not stall.hits:
            await asyncio.sleep(0.01)
        await stage.copier.copy(at(stage.source, "other"), at(stage.destination, "other"))
        await stage.destination.holds("other", OTHER)
        assert stage.streams.size == 2, "one is lent"
    assert stage.streams.size == 1


async def test_a_body_that_waits_for_a_place_at_a_throttled_source_holds_up_no_copy_from_another(stage: Stage) -> None:
    await stage.broken.push("large", LARGE)
    stage.throttled.resize(1)
    async with stage.throttled.slot(100_000):
        first = asyncio.create_task(stage.copier.copy(at(stage.broken, "large"), at(stage.destination, "large")))
        async with ending(first):
            while not stage.throttled.waiting(bulk=False):
                await asyncio.sleep(0.01)
            await stage.copier.copy(at(stage.source, "other"), at(stage.destination, "other"))
            await stage.destination.holds("other", OTHER)
