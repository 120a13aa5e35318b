"""The search for blobs in other repositories of the destination's registry: what is slow or closed there."""

from __future__ import annotations

import asyncio
import contextlib
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy import survey
from replicator.registry.places import BULK
from tests.copy.conftest import Pair, a_copier, a_registry
from tests.copy.mounting import BASE, MIB, OURS, SharedTexts, at, copy, reads
from tests.standins.faults import Answer, Fault, Hold
from tests.standins.images import image, push

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from tests.standins.images import Image

FILLED = image(1, (100,), base=[BASE])


@pytest.mark.parametrize(("path", "status"), [("/tags/list", None), ("/manifests/v1", None), ("/tags/list", 403)])
async def test_one_read_that_failed_closes_a_repository_for_minutes_and_to_no_other_process(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, path: str, status: int | None
) -> None:
    """It takes too long, or is refused."""
    monkeypatch.setattr(survey, "LEAST_SECONDS", 0.2)
    monkeypatch.setattr(survey, "_BYTES_A_SECOND", 100 * MIB)
    await push(pair.destination.plain, "lib/filled", "v1", FILLED)
    hold = Hold()
    fault = pair.destination.faults.add(Fault(Answer(status) if status else hold, "GET", path))
    now, places = 0.0, SharedTexts()
    async with a_copier(survey_store=places) as first, a_copier(survey_store=places) as second:
        first._survey._clock = lambda: now
        pair.copier = first
        first.expect(at(pair, "lib/filled"))
        await copy(pair, image(4, (MIB,)))
        monkeypatch.undo()
        before = reads(pair)
        await copy(pair, image(5, (MIB,)))
        assert (fault.hits, reads(pair), places.texts) == (1, before, {})
        now = 3600.0
        assert (await copy(pair, OURS, "lib/later")).blobs_mounted == 1
        places.texts.clear()
        pair.copier = second
        second.expect(at(pair, "lib/filled"))
        assert (await copy(pair, OURS, "lib/elsewhere")).blobs_mounted == 1
    hold.released.set()


@asynccontextmanager
async def reading(pair: Pair, path: str, number: int) -> AsyncIterator[asyncio.Event]:
    """Have a backfill search until ``number`` requests to ``path`` are under way, none of which is answered.

    Yields:
        An event that has them answered.
    """
    original = pair.destination.faults._handler
    arrived, all_here, released = 0, asyncio.Event(), asyncio.Event()

    async def held(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal arrived
        if request.method == "GET" and re.search(path, request.path):
            arrived += 1
            if arrived == number:
                all_here.set()
            await released.wait()
        return await original(request)

    async def backfill(root: Image) -> None:
        BULK.set(True)
        await copy(pair, root, "lib/bulk")

    pair.destination.faults._handler = held
    task = asyncio.create_task(backfill(image(90, (4 * MIB,))))
    try:
        await all_here.wait()
        yield released
    finally:
        released.set()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def name_slow(pair: Pair) -> None:
    for repository in at(pair, *(f"slow/r{number}" for number in range(8))):
        pair.copier._survey.seen(repository, FILLED.digest)


async def test_a_push_does_not_wait_for_the_search_of_a_backfill(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # The backfill's search would end after 30 seconds, that of the push after 16.
    monkeypatch.setattr(survey, "_BYTES_A_SECOND", MIB / 16)
    name_slow(pair)
    async with reading(pair, "/slow/.*/manifests/", 8) as released:
        await push(pair.destination.plain, "lib/filled", "v1", FILLED)
        pair.copier.expect(at(pair, "lib/filled"))
        assert (await copy(pair, OURS)).blobs_mounted == 1
        assert not released.is_set()


async def test_a_registry_that_hangs_does_not_delay_the_search_at_another(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_BYTES_A_SECOND", MIB / 16)
    name_slow(pair)
    async with a_registry() as other, reading(pair, "/slow/.*/manifests/", 8):
        healthy = Pair(pair.source, other, pair.copier)
        await push(other.plain, "lib/filled", "v1", FILLED)
        pair.copier.expect(at(healthy, "lib/filled"))
        BULK.set(True)
        assert (await copy(healthy, OURS)).blobs_mounted == 1


async def test_a_push_and_a_backfill_that_search_alike_read_a_repository_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await push(pair.destination.plain, "lib/filled", "v1", FILLED)
    pair.copier.expect(at(pair, "lib/filled"))
    waits = asyncio.Event()
    async with reading(pair, "/lib/filled/tags/list", 1) as released:
        find = pair.copier._survey.find

        async def tells(*arguments: Any) -> None:
            waits.set()
            await find(*arguments)

        monkeypatch.setattr(pair.copier._survey, "find", tells)
        pushed = asyncio.create_task(copy(pair, OURS))
        await waits.wait()
        released.set()
        assert (await pushed).blobs_mounted == 1
    assert reads(pair) == (1, 1)
