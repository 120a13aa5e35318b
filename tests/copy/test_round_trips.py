"""The requests of a copy, and those that do not wait for one another."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest

from replicator.copy.ledger import SMALL
from replicator.registry.errors import DigestMismatch
from tests.copy.conftest import Pair, a_registry
from tests.standins.faults import Answer, Fault, Hold
from tests.standins.images import blobs_of, image, layer


async def test_a_fresh_copy_of_a_small_image_sends_each_request_once(pair: Pair) -> None:
    root = image(1, (3000, 500))
    await pair.source.push("v1", root)
    await pair.copy()
    blobs = len(blobs_of(root))
    source, destination = pair.source.faults.log, pair.destination.faults.log
    assert [entry.method for entry in source] == ["HEAD", "GET"] + ["GET"] * blobs
    assert sorted(entry.method for entry in destination) == ["HEAD"] + ["POST"] * blobs + ["PUT"] * (blobs + 1)


async def test_a_small_blob_is_read_while_its_upload_is_opened(pair: Pair) -> None:
    root = image(1, (3000, 500))
    await pair.source.push("v1", root)
    opening = Hold()
    pair.destination.faults.add(Fault(opening, "POST", times=None))
    copying = asyncio.create_task(pair.copy())
    async with asyncio.timeout(60):
        while pair.source.faults.log.count("GET", "/blobs/", status=200) < len(blobs_of(root)):
            await asyncio.sleep(0.01)
    opening.released.set()
    await copying
    await pair.destination.holds("v1", root)


async def test_a_small_blob_that_can_be_mounted_is_not_read(pair: Pair) -> None:
    base = [layer(7, SMALL // 2)]
    one, other = image(1, (100,), base=base), image(2, (100,), base=base)
    await pair.source.push("v1", one)
    await pair.source.push("v2", other)
    await pair.copy(name="one/app")
    outcome = await pair.copy("v2", name="two/app")
    assert outcome.blobs_mounted == 1
    assert pair.source.faults.log.count("GET", f"/blobs/{base[0].digest}") == 1


async def test_the_failed_read_of_a_small_blob_that_is_in_place_does_no_harm(
    pair: Pair,
) -> None:
    root = image(1, (3000,))
    await pair.source.push("v1", root)
    await pair.destination.push("other", root)
    pair.source.faults.add(Fault(Answer(404, "BLOB_UNKNOWN"), "GET", "/blobs/", times=None))
    outcome = await pair.copy()
    assert outcome.blobs_present == len(blobs_of(root))
    assert pair.destination.faults.log.count("POST") == len(blobs_of(root))


@pytest.mark.parametrize(("more", "found"), [(100, "shorter"), (-100, "longer")])
async def test_a_small_blob_of_another_size_than_its_manifest_says_is_refused(
    pair: Pair, more: int, found: str
) -> None:
    root = image(1, (3000,))
    manifest = json.loads(root.content)
    manifest["layers"][0]["size"] += more
    await pair.source.push("v1", replace(root, content=json.dumps(manifest).encode()))
    with pytest.raises(DigestMismatch, match=f"is {found} than"):
        await pair.copy()
    assert not await pair.destination.has_tag("v1")


async def test_small_blobs_that_wait_for_one_registry_keep_none_from_another(pair: Pair) -> None:
    many, one = image(1, range(100, 140)), image(2, (3000,))
    await pair.source.push("many", many)
    await pair.source.push("one", one)
    holds = Hold()
    pair.destination.faults.add(Fault(holds, "POST", times=None))
    copying = asyncio.create_task(pair.copy("many"))
    async with asyncio.timeout(60), a_registry() as other:
        while pair.source.faults.log.count("GET", "/blobs/", status=200) < 32:
            await asyncio.sleep(0.01)
        await Pair(pair.source, other, pair.copier).copy("one")
        await other.holds("one", one)
    holds.released.set()
    await copying
    await pair.destination.holds("many", many)


async def test_a_comparison_that_a_copy_follows_reads_no_image_that_the_destination_lacks(pair: Pair) -> None:
    root = image(1, (3000,))
    await pair.source.push("v1", root)
    source, destination = pair.source.reference("v1"), pair.destination.reference("v1")
    found = await pair.copier.compare(source, destination, read=False)
    assert (found.result, found.announced, found.present) == (None, root.digest, None)
    await pair.copy(announced=found.announced, absent=True)
    assert [entry.method for entry in pair.source.faults.log if "/manifests/" in entry.path] == ["HEAD", "GET"]
    assert pair.destination.faults.log.count("HEAD") == 1


async def test_progress_tells_every_byte_once(pair: Pair) -> None:
    root = image(1, (300_000, 10))
    await pair.source.push("v1", root)
    read = Counter[str]()
    outcome = await pair.copy(progress=lambda number, found=0, /: read.update(read=number, found=found))
    assert read["read"] == read["found"] == outcome.bytes == sum(blob.size for blob in blobs_of(root))
    # What the destination has is not counted.
    await pair.source.push("v2", image(2, (70_000,), base=root.blobs[1:]))
    assert (await pair.copy("v2", progress=lambda _, found=0, /: read.update(more=found))).bytes == read["more"]
    assert 0 < read["more"] < 300_000
