"""Mounts under several logins: a repository that is closed to one of them ends nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from aiohttp import web

from replicator.copy import Copier
from replicator.registry import Access, Registries
from tests.copy.mounting import BASE, MIB, at, copy, reads
from tests.standins.images import image, layer, push

if TYPE_CHECKING:
    from replicator.reference import Repository
    from tests.copy.conftest import Pair

OTHER = layer(78, MIB + 500)


@pytest.mark.parametrize("answer", [403, "ignored"])
async def test_a_mount_refused_by_a_repository_of_another_login_ends_no_other_mounts(
    pair: Pair, answer: Literal[403, "ignored"]
) -> None:
    original = pair.destination.faults._handler

    async def closed(request: web.BaseRequest) -> web.StreamResponse:
        crosses = "/two/" in request.path and request.query.get("from", "").startswith("one/")
        if request.method != "POST" or not crosses:
            return await original(request)
        if answer != "ignored":
            return web.Response(status=answer)
        return await original(request.clone(rel_url=request.rel_url.with_query(None)))

    def access(repository: Repository) -> Access:
        login = repository.name.partition("/")[0] if repository.registry == pair.destination.host else None
        return Access(login, login, endpoint=f"http://{repository.registry}")

    pair.destination.faults._handler = closed
    await push(pair.destination.plain, "two/filled", "v1", image(9, (100,), base=[OTHER]))
    async with Registries(access) as registries:
        pair.copier = Copier(registries)
        pair.copier.expect(at(pair, "two/filled"))
        await copy(pair, image(2, (100,), base=[BASE]), "one/a")
        # A search by one login does not close a repository of another one's to that one.
        assert reads(pair) == (0, 0)
        assert (await copy(pair, image(3, (100,), base=[BASE]), "two/b")).blobs_mounted == 0
        assert (await copy(pair, image(4, (100,), base=[OTHER]), "two/c")).blobs_mounted == 1
        # What the other login put there can still be mounted by that one.
        assert (await copy(pair, image(5, (100,), base=[BASE]), "one/d")).blobs_mounted == 1
    assert pair.destination.faults.log.count("POST", "/two/", query="from=one") == 1


async def test_a_repository_that_refused_a_mount_is_not_asked_again(pair: Pair) -> None:
    original = pair.destination.faults._handler

    async def closed(request: web.BaseRequest) -> web.StreamResponse:
        if "lib/closed" in (request.query.get("from", ""), request.path) or (
            request.method == "HEAD" and "/lib/closed/blobs/" in request.path
        ):
            return web.Response(status=403)
        return await original(request)

    pair.destination.faults._handler = closed
    await push(pair.destination.plain, "lib/closed", "v1", image(1, (100,), base=[BASE, OTHER]))
    await push(pair.destination.plain, "lib/open", "v1", image(1, (100,), base=[OTHER]))
    pair.copier.expect(at(pair, "lib/closed"))
    assert (await copy(pair, image(2, (100,), base=[BASE]))).blobs_mounted == 0
    pair.copier.expect(at(pair, "lib/open"))
    assert (await copy(pair, image(3, (100,), base=[OTHER]))).blobs_mounted == 1
    assert pair.destination.faults.log.count("POST", query="from=lib.*closed") == 1
