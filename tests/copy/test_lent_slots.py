"""A body that stands still keeps a place at its own host, and no slot that copies to other hosts could use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from replicator.reference import Reference, Repository
from tests.copy.conftest import Registry, a_copier, a_registry
from tests.standins.faults import CutUpload, Fault
from tests.standins.images import image

if TYPE_CHECKING:
    import pytest

LARGE = image(1, (2_000_000,))
OTHER = image(2, (2_000_000,))


def at(registry: Registry, tag: str) -> Reference:
    return Reference(Repository(registry.host, "team/app"), tag=tag)


async def test_a_registry_that_takes_no_more_of_a_body_holds_up_no_copy_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("replicator.copy.blobs._STILL_SECONDS", 0.2)
    monkeypatch.setattr("replicator.copy.blobs._LOOK_SECONDS", 0.05)
    async with (
        a_registry() as source,
        a_registry() as stalled,
        a_registry() as healthy,
        a_copier(transfers=1) as copier,
    ):
        await source.push("large", LARGE)
        await source.push("other", OTHER)
        # It still answers every short request.
        stall = stalled.faults.add(Fault(CutUpload(100_000, "stall"), "PUT", "/uploads/", times=None))
        first = asyncio.create_task(copier.copy(at(source, "large"), at(stalled, "large")))
        while not stall.hits:
            await asyncio.sleep(0.01)
        await copier.copy(at(source, "other"), at(healthy, "other"))
        await healthy.holds("other", OTHER)
        assert not first.done()
        assert copier._blobs.transfers.size == 2, "one is lent"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert copier._blobs.transfers.size == 1
