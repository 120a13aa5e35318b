"""Copies over a line that is slow, and that all of them share."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.running import replicator
from tests.standins.faults import CutUpload, Fault
from tests.standins.images import blobs_of, image, push
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

PIECE = 16 * 1024


class Line:
    """A line that everyone who reads blobs shares.

    Attributes:
        sent: bytes that went over it.
        reads: of blobs.
    """

    def __init__(self, upstream: Upstream, rate: float) -> None:
        self.sent = 0
        self.reads = 0
        self._upstream = upstream
        self._rate = rate
        self._free = 0.0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "GET" or "/blobs/" not in request.path:
            return await self._upstream.forward(request)
        self.reads += 1
        status, headers, content = await self._upstream.get(request.raw_path, headers=request.headers)
        response = web.StreamResponse(status=status, headers={"Content-Length": headers["Content-Length"]})
        await response.prepare(request)
        for start in range(0, len(content), PIECE):
            piece = content[start : start + PIECE]
            await self._take(len(piece))
            await response.write(piece)
        return response

    async def _take(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now) + size / self._rate
        self.sent += size
        await asyncio.sleep(self._free - now)


@pytest.mark.parametrize(("number", "size"), [(6, 300_000), (1, 1_800_000)])
async def test_all_that_moves_arrives_and_is_sent_once(house: House, number: int, size: int) -> None:
    """All of it takes longer than a copy may stand still; without a limit on the whole, nothing is sent in vain."""
    roots = [image(one + 1, (size,)) for one in range(number)]
    for one, root in enumerate(roots):
        await push(house.behind_harbor, f"library/app{one}", "v1", root)
    async with Upstream(house.behind_harbor) as upstream:
        line = Line(upstream, 400_000)
        async with serve(line) as front:
            rules = house.rules({f"HARBOR/library/app{one}": f"ACR/image-syncer/app{one}" for one in range(number)})
            document = json.loads(rules.read_text())
            document["auth"][house.harbor.host] = {"anonymous": True, "endpoint": f"http://{front}"}
            rules.write_text(json.dumps(document))
            ended = await replicator(
                "backfill", "--config", rules, cwd=house.directory, settings={"REPLICATOR_COPY_TIMEOUT": "2.5"}
            )
    assert ended.code == 0, ended.said
    assert house.acr.faults.log.count("PUT", "/manifests/v1$", 201) == number
    # An image's config is read once more at most, to look into it.
    whole = sum(blob.size for root in roots for blob in blobs_of(root))
    assert line.sent <= 1.05 * whole
    assert sum(entry.request_bytes for entry in house.acr.faults.log.select("PUT", "/blobs/uploads/")) <= 1.05 * whole


async def test_a_copy_in_the_foreground_ends_when_nothing_moves(house: House) -> None:
    await push(house.behind_harbor, "library/app", "v1", image(1))
    house.acr.faults.add(Fault(CutUpload(0, "stall"), "PUT", "/blobs/uploads/", times=None))
    source, destination = f"{house.harbor.host}/library/app:v1", f"{house.acr.host}/image-syncer/app:v1"
    settings = {"REPLICATOR_COPY_TIMEOUT": "1.5"}
    ended = await replicator(
        "copy", source, destination, "--config", house.rules({}), cwd=house.directory, settings=settings
    )
    assert ended.code == 1
    assert "nothing moved for 1.5 s, no byte and no answer (REPLICATOR_COPY_TIMEOUT)" in ended.said
    assert "Traceback" not in ended.said
