"""A caching Harbor stand-in shows the same content, asks the registry once, and sees writes that pass it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from tests.standins.distribution import distribution
from tests.standins.faults import Fault, FaultLayer, Hold
from tests.standins.harbor import HarborStandIn
from tests.standins.images import image, multi_arch, write
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT, basic
from tests.standins.proxy import Upstream
from tests.standins.server import serve
from tests.standins.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ARTIFACTS = "/projects/team/artifacts?sort=id"
OF_ONE = "/projects/team/repositories/app/artifacts?sort=id"


@asynccontextmanager
async def keeping(directory: Path) -> AsyncIterator[tuple[HarborStandIn, FaultLayer]]:
    """A Harbor that caches, and the proxy to the registry behind it."""
    async with distribution(directory) as registry, Upstream(registry) as upstream:
        layer = FaultLayer(upstream.forward)
        users = dict([HARBOR_ADMIN, HARBOR_ROBOT])
        async with (
            serve(layer) as host,
            HarborStandIn(host, users=users, projects={"team": False}, keeps_content=True) as harbor,
        ):
            yield harbor, layer


async def rows(harbor: HarborStandIn, path: str) -> list[dict[str, Any]]:
    url = URL(f"{harbor.url}/api/v2.0{path}", encoded=True)
    async with aiohttp.request("GET", url, headers=basic(HARBOR_ADMIN)) as answer:
        assert answer.status == 200
        found: list[dict[str, Any]] = await answer.json()
        return found


def tags(found: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {row["digest"]: [tag["name"] for tag in row["tags"] or ()] for row in found}


async def test_the_registry_is_asked_once_for_any_number_of_pages(tmp_path: Path) -> None:
    write(Storage(tmp_path), "team/app", {f"v{number}": image(number) for number in range(5)})
    write(Storage(tmp_path), "team/other", {"v1": multi_arch(9)})

    async with keeping(tmp_path) as (harbor, behind):
        first = await rows(harbor, ARTIFACTS)
        assert tags(first) == {image(number).digest: [f"v{number}"] for number in range(5)} | {
            multi_arch(9).digest: ["v1"]
        }
        behind.log.clear()
        assert await rows(harbor, ARTIFACTS) == first
        pages = [await rows(harbor, f"{ARTIFACTS}&page={page}&page_size=2") for page in (1, 2, 3)]
        assert [row for page in pages for row in page] == first
        assert await rows(harbor, OF_ONE) == first[:5]
        counts = {row["name"]: row["artifact_count"] for row in await rows(harbor, "/projects/team/repositories")}
        assert counts == {"team/app": 5, "team/other": 1}
        assert len(behind.log) == 0


async def test_a_push_a_retag_and_a_delete_through_it_are_seen(tmp_path: Path) -> None:
    one, two = image(1), image(2)
    write(Storage(tmp_path), "team/app", {"v1": one, "v2": two})
    write(Storage(tmp_path), "team/other", {"v1": one})

    async with keeping(tmp_path) as (harbor, behind):
        assert tags(await rows(harbor, OF_ONE)) == {one.digest: ["v1"], two.digest: ["v2"]}
        await harbor.retag("team/app", "v1", "latest")
        assert tags(await rows(harbor, OF_ONE)) == {one.digest: ["latest", "v1"], two.digest: ["v2"]}
        url = f"{harbor.url}/v2/team/app/manifests"
        sent = {**basic(HARBOR_ROBOT), "Content-Type": two.media_type}
        async with aiohttp.request("PUT", f"{url}/v1", data=two.content, headers=sent) as answer:
            assert answer.status == 201
        assert tags(await rows(harbor, OF_ONE)) == {one.digest: ["latest"], two.digest: ["v1", "v2"]}
        async with aiohttp.request("DELETE", f"{url}/{two.digest}", headers=basic(HARBOR_ADMIN)) as answer:
            assert answer.status == 202
        await rows(harbor, "/projects/team/artifacts")
        behind.log.clear()
        assert tags(await rows(harbor, OF_ONE)) == {one.digest: ["latest"]}
        assert len(behind.log) == 0


async def test_a_repository_that_is_pushed_first_through_it_is_listed(tmp_path: Path) -> None:
    write(Storage(tmp_path), "team/app", {"v1": image(1)})

    async with keeping(tmp_path) as (harbor, _):
        assert [row["name"] for row in await rows(harbor, "/projects/team/repositories")] == ["team/app"]
        # Its blobs are there, as a push would have brought them.
        write(Storage(tmp_path), "team/new", {"old": image(1)})
        sent = {**basic(HARBOR_ROBOT), "Content-Type": image(1).media_type}
        url = f"{harbor.url}/v2/team/new/manifests/v1"
        async with aiohttp.request("PUT", url, data=image(1).content, headers=sent) as answer:
            assert answer.status == 201
        found = {row["name"] for row in await rows(harbor, "/projects/team/repositories")}
        assert found == {"team/app", "team/new"}


async def test_what_was_read_while_something_was_pushed_is_not_kept(tmp_path: Path) -> None:
    one = image(1)
    write(Storage(tmp_path), "team/app", {"v1": one})

    async with keeping(tmp_path) as (harbor, behind):
        # The tags are listed by then, and their digests not yet asked for.
        hold = Hold()
        fault = behind.add(Fault(hold, method="HEAD", path="/manifests/v1$"))
        reading = asyncio.create_task(rows(harbor, OF_ONE))
        while not fault.hits:
            await asyncio.sleep(0.01)
        sent = {**basic(HARBOR_ROBOT), "Content-Type": one.media_type}
        url = f"{harbor.url}/v2/team/app/manifests/v2"
        async with aiohttp.request("PUT", url, data=one.content, headers=sent) as answer:
            assert answer.status == 201
        hold.released.set()
        assert tags(await reading) == {one.digest: ["v1"]}
        assert tags(await rows(harbor, OF_ONE)) == {one.digest: ["v1", "v2"]}
