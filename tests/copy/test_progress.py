"""How far a copy is: the bytes that were read, and those to read in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.standins.images import blobs_of, image

if TYPE_CHECKING:
    from tests.copy.conftest import Pair


async def test_progress_tells_every_byte_once(pair: Pair) -> None:
    root = image(1, (300_000, 10))
    await pair.source.push("v1", root)
    told: list[tuple[int, int]] = []

    def progress(read: int, found: int = 0, /) -> None:
        told.append((read, found))

    outcome = await pair.copy(progress=progress)
    size = sum(blob.size for blob in blobs_of(root))
    assert [sum(each) for each in zip(*told, strict=True)] == [size, size]
    assert outcome.bytes == size
    # What the destination has is not counted.
    told.clear()
    await pair.source.push("v2", image(2, (70_000,), base=root.blobs[1:]))
    outcome = await pair.copy("v2", progress=progress)
    assert sum(found for _, found in told) == outcome.bytes < 300_000
