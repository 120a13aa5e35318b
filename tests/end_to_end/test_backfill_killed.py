"""A backfill that is killed (SIGKILL) repeatedly resumes each time, and sends nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.end_to_end.writes import repeated, tag_writes, times_sent, times_written
from tests.queue.servers import RedisServer
from tests.running import begun, replicator, running
from tests.standins.faults import Cut, CutUpload, Fault, Hold
from tests.standins.images import Image, Index, image, index, layer, push, verify_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.conftest import House

BASE = layer(77, 100_000)
"""Of every image, and large enough to be shared between processes."""
TAGS = 9
_PASSED = 3
"""Requests of the kind at which it is killed that come through before."""


def images_of(seed: int) -> dict[str, Image | Index]:
    """Nine images on one base, two of them for two architectures."""
    roots: dict[str, Image | Index] = {
        f"v{number}": image(seed + number, (9000, 700), base=[BASE]) for number in range(TAGS - 2)
    }
    for number in range(TAGS - 2, TAGS):
        children = [
            image(seed + 10 * number + place, (9000,), base=[BASE], architecture=architecture)
            for place, architecture in enumerate(("amd64", "arm64"))
        ]
        roots[f"v{number}"] = index(children)
    return roots


@dataclass(frozen=True)
class Point:
    """When it is killed.

    Attributes:
        repository: whose images are new to this run, and at one of which it is killed.
        at_source: whether the fault strikes there.
        fault: strikes at the point, and lets nothing of the kind pass from then on.
        carried_out: wait until the request that it struck has done its work.
    """

    repository: str
    at_source: bool
    fault: Fault
    carried_out: bool = False


def points() -> list[Point]:
    own = "|".join(
        blob.digest.replace(":", "(:|%3A)")
        for root in images_of(1000).values()
        if isinstance(root, Image)
        for blob in root.blobs
        if blob.file_size == 9000
    )
    uploads, tags = "/body/blobs/uploads/", "/manifests/v"
    return [
        Point("listing", True, Fault(Hold(), "GET", r"/tags/list|/repositories|/artifacts", times=None, after=1)),
        Point("body", False, Fault(CutUpload(4000, "stall"), "PUT", uploads, own, times=None, after=_PASSED)),
        Point("blobs", False, Fault(Hold(), "PUT", f"/blobs{tags}", times=None, after=_PASSED)),
        Point("tag", False, Fault(Cut(None, "stall"), "PUT", f"/tag{tags}", times=None, after=_PASSED), True),
    ]


@pytest.fixture(params=["embedded", pytest.param("external", marks=pytest.mark.scale)])
async def settings(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, str]]:
    """The queue dies with the backfill and its directory is kept, or it lives on by itself."""
    shortest = {"REPLICATOR_LEASE": "10"}
    with contextlib.ExitStack() as stack:
        if request.param == "external":
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp"))
            shortest["REPLICATOR_REDIS_URL"] = stack.enter_context(RedisServer(Path(directory))).url
        yield shortest


async def tags_of(host: str, repository: str) -> set[str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}/v2/{repository}/tags/list") as answer:
        return set((await answer.json()).get("tags") or []) if answer.status == 200 else set()


async def reached(house: House, point: Point) -> None:
    """Wait until a backfill is at the point."""
    async with asyncio.timeout(30):
        while not point.fault.hits:
            await asyncio.sleep(0.005)
        while point.carried_out and len(await tags_of(house.behind_acr, "image-syncer/tag")) <= _PASSED:
            await asyncio.sleep(0.005)


async def test_killed_at_any_point_it_goes_on_and_repeats_nothing_that_was_answered(
    house: House, settings: dict[str, str]
) -> None:
    """Nor is a tag written again whose write was carried out before the kill and not answered: the next run looks.

    Not promised is it of the manifests within an index whose tag is not there yet: they are written without looking.
    """
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    command = ("backfill", "--config", rules, "--proc=4")
    log = house.acr.faults.log
    there: set[str] = set()
    images: dict[str, dict[str, Image | Index]] = {}
    for number, point in enumerate(points()):
        images[point.repository] = images_of(1000 * number)
        for tag, root in images[point.repository].items():
            await push(house.behind_harbor, f"library/{point.repository}", tag, root)
        layer_ = (house.harbor if point.at_source else house.acr).faults
        layer_.add(point.fault)
        so_far = len(tag_writes(log))
        async with begun(*command, cwd=house.directory, settings=settings) as process:
            await reached(house, point)
            process.kill()
            await process.wait()
        layer_.faults.remove(point.fault)
        again = {write.name for write in tag_writes(log)[so_far:]} & there
        assert not again, f"killed at {point.repository}"
        tags = await tags_of(house.behind_acr, f"image-syncer/{point.repository}")
        assert len(tags) < TAGS, f"not killed in the middle of {point.repository}"
        for repository in images:
            found = await tags_of(house.behind_acr, f"image-syncer/{repository}")
            there |= {f"image-syncer/{repository}:{tag}" for tag in found}
    so_far = len(tag_writes(log))
    ended = await replicator(*command, "--report=r.json", cwd=house.directory, settings=settings)
    assert ended.code == 0, ended.said
    rows = json.loads((house.directory / "r.json").read_text())
    assert {row["destination"].partition("/")[2] for row in rows} == {
        f"image-syncer/{repository}:{tag}" for repository, tags in images.items() for tag in tags
    }
    # A job of a killed worker returns when its lease lapses: on a slow machine after the last tag has arrived, and a
    # backfill that finds everything in place leaves it to others.
    worker = running("worker", "--config", rules, cwd=house.directory, settings=settings, ready="worker started")
    async with worker, asyncio.timeout(60):
        while await left(house, settings):
            await asyncio.sleep(0.5)
    assert not {write.name for write in tag_writes(log)[so_far:]} & there
    assert repeated(times_written(log)) == {}
    assert repeated(times_sent(log)) == {}
    for repository, roots in images.items():
        for tag, root in roots.items():
            await verify_tree(house.behind_acr, f"image-syncer/{repository}", tag, root)


async def left(house: House, settings: dict[str, str]) -> bool:
    """Tell whether a job is left in the queue."""
    status = await replicator("status", "--json", cwd=house.directory, settings=settings)
    found = json.loads(status.out)
    # A tag that was being written at a kill is compared again two minutes later.
    later = sum("compared again" in job["message"] for job in found["waiting"])
    return bool(found["lanes"]["backfill"] != {"queued": 0, "running": 0, "waiting": later})
