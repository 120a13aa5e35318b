"""How far a copy is: the bytes that were read, and those to read in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.copy import Progress
from tests.standins.images import blobs_of, image

if TYPE_CHECKING:
    from tests.copy.conftest import Pair


async def test_progress_tells_every_byte_once_and_how_many_there_are(pair: Pair) -> None:
    root = image(1, (300_000, 10))
    await pair.source.push("v1", root)
    told: list[tuple[int, int]] = []
    progress = Progress(lambda read, planned: told.append((read, planned)))
    outcome = await pair.copy(progress=progress)
    size = sum(blob.size for blob in blobs_of(root))
    assert (progress.read, progress.planned, outcome.bytes) == (size, size, size)
    assert told[-1] == (size, size)
    assert [read for read, _ in told] == sorted({read for read, _ in told})


async def test_progress_counts_no_blob_that_the_destination_has(pair: Pair) -> None:
    first = image(1, (300_000, 10))
    second = image(2, (200_000,), base=first.blobs[1:])
    await pair.source.push("v1", first)
    await pair.source.push("v2", second)
    await pair.copy()
    progress = Progress()
    outcome = await pair.copy("v2", progress=progress)
    assert outcome.blobs_present == 2
    assert progress.planned == progress.read == outcome.bytes
