"""The search for blobs in other repositories of the destination's registry: what it finds there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.copy import Copier, Result
from replicator.registry import Access, Registries, Timing
from tests.copy.mounting import BASE, MIB, OURS, at, copy, reads, sent, without
from tests.standins.faults import Answer
from tests.standins.images import image, index, layer, push

if TYPE_CHECKING:
    from replicator.reference import Repository
    from tests.copy.conftest import Pair


async def test_a_large_blob_is_mounted_from_a_repository_that_was_only_named(pair: Pair) -> None:
    await push(pair.destination.plain, "lib/filled", "v1", image(1, (100,), base=[BASE]))
    pair.copier.expect(at(pair, "lib/filled", "lib/ours"))
    outcome = await copy(pair, OURS)
    assert (outcome.blobs_mounted, outcome.bytes) == (1, without(OURS, BASE))
    assert sent(pair) == outcome.bytes
    assert reads(pair) == (1, 1)
    assert pair.destination.faults.log.count("DELETE") == 0, "a session was opened in vain"


async def test_a_manifest_that_a_comparison_saw_is_read_without_a_list(pair: Pair) -> None:
    root = image(1, (100,), base=[BASE])
    for registry in (pair.source, pair.destination):
        await push(registry.plain, "lib/filled", "v1", root)
    ends = pair.source.reference("v1", "lib/filled"), pair.destination.reference("v1", "lib/filled")
    assert (await pair.copier.compare(*ends, announced=root.digest)).result is Result.UP_TO_DATE
    assert reads(pair) == (0, 0)
    assert (await copy(pair, OURS)).blobs_mounted == 1
    assert reads(pair) == (0, 1)


async def test_the_images_of_an_index_are_read(pair: Pair) -> None:
    children = [
        image(10 + number, (100,), base=[layer(200 + number, MIB)], architecture=f"a{number}") for number in (1, 2)
    ]
    await push(pair.destination.plain, "lib/filled", "v1", index(children))
    pair.copier.expect(at(pair, "lib/filled"))
    root = image(3, (100,), base=[layer(202, MIB)])
    assert (await copy(pair, root)).bytes == without(root, layer(202, MIB)) < MIB
    assert reads(pair) == (1, 3)


async def test_older_images_are_read_after_the_newest_of_each(pair: Pair) -> None:
    for number in (2, 9, 10):
        base = [BASE] if number == 2 else []
        await push(pair.destination.plain, "lib/filled", f"v{number}", image(number, (100,), base=base))
    await push(pair.destination.plain, "lib/second", "latest", image(11, (100,)))
    pair.copier.expect(at(pair, "lib/filled", "lib/second"))
    assert (await copy(pair, OURS)).blobs_mounted == 1
    asked = [entry.path.partition("/lib/")[2] for entry in pair.destination.faults.log.select("GET", "/manifests/")]
    assert sorted(asked[:2]) == ["filled/manifests/v10", "second/manifests/latest"]
    assert asked[2:] == ["filled/manifests/v9", "filled/manifests/v2"]


@pytest.mark.parametrize("answer", [Answer(403, "DENIED"), None], ids=["denied", "ignored"])
async def test_a_registry_that_does_not_mount_is_searched_once(pair: Pair, answer: Answer | None) -> None:
    """What is refused or ignored is the mount; the blob is sent."""
    original = pair.destination.faults._handler

    async def unwilling(request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "POST" or "from" not in request.query:
            return await original(request)
        if answer is not None:
            return answer.response()
        return await original(request.clone(rel_url=request.rel_url.with_query(None)))

    pair.destination.faults._handler = unwilling
    await push(pair.destination.plain, "lib/filled", "v1", image(1, (100,), base=[BASE]))
    pair.copier.expect(at(pair, "lib/filled"))
    assert (await copy(pair, OURS)).bytes == without(OURS)
    assert reads(pair) == (1, 1)
    pair.copier.expect(at(pair, "lib/new"))
    await copy(pair, image(5, (MIB,)))
    assert reads(pair) == (1, 1)


async def test_a_repository_that_has_lost_the_blob_ends_neither_the_search_nor_all_mounts(pair: Pair) -> None:
    names = ("lib/lost", "lib/lost-too", "lib/second")
    for name in names:
        await push(pair.destination.plain, name, "v1", image(1, (100,), base=[BASE]))
        if name != names[-1]:
            await pair.destination.delete(f"blobs/{BASE.digest}", name)
    # Of this one another image is read first.
    await push(pair.destination.plain, names[-1], "v2", image(3, (100,)))
    pair.copier.expect(at(pair, *names))
    outcome = await copy(pair, OURS)
    assert (outcome.blobs_mounted, outcome.bytes) == (1, without(OURS, BASE))
    log = pair.destination.faults.log
    assert [entry.status for entry in log.select("POST", query="from=lib.*(lost|second)")] == [202, 202, 201]
    assert log.count("DELETE", "/uploads/", 204) == 2


async def test_a_registry_that_says_it_mounted_and_did_not_is_sent_the_blob(pair: Pair) -> None:
    original = pair.destination.faults._handler

    async def lying(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST" and "mount" in request.query:
            return web.Response(status=201)
        return await original(request)

    pair.destination.faults._handler = lying
    await push(pair.destination.plain, "lib/filled", "v1", image(1, (100,), base=[BASE]))
    pair.copier.expect(at(pair, "lib/filled", "lib/empty"))
    await copy(pair, OURS)
    pair.clear()
    pair.copier.expect(at(pair, "lib/new"))
    await copy(pair, image(5, (MIB,)))
    assert reads(pair) == (0, 0)
    assert pair.destination.faults.log.count("POST", query="mount=") == 0


async def test_a_registry_that_finds_blobs_by_itself_is_not_searched(pair: Pair) -> None:
    """It mounts without ``from``, as the specification allows; one request is all that a blob costs there."""
    original = pair.destination.faults._handler

    async def finding(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST" and "mount" in request.query and "from" not in request.query:
            request = request.clone(rel_url=request.rel_url.update_query({"from": "else/where"}))
        return await original(request)

    pair.destination.faults._handler = finding
    other = layer(78, MIB)
    await push(pair.destination.plain, "else/where", "v1", image(1, (100,), base=[BASE, other]))
    assert (await copy(pair, OURS)).bytes == without(OURS, BASE)
    pair.clear()
    pair.copier.expect(at(pair, "lib/new"))
    second = image(6, (100,), base=[other])
    assert (await copy(pair, second)).bytes == without(second, other)
    assert reads(pair) == (0, 0)
    assert (
        pair.destination.faults.log.count(None, "/blobs/", query=f"mount={other.digest.replace(':', '(:|%3A)')}") == 1
    )
    assert pair.destination.faults.log.count("HEAD", f"/blobs/{other.digest}") == 0


@pytest.mark.parametrize("status", [400, 500])
async def test_a_registry_that_refuses_mounts_without_from_is_asked_for_one_once(pair: Pair, status: int) -> None:
    original = pair.destination.faults._handler

    async def strict(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST" and "mount" in request.query and "from" not in request.query:
            return web.Response(status=status)
        return await original(request)

    pair.destination.faults._handler = strict
    pair.copier.expect(at(pair, "lib/a"))
    pair.hurry(pair.destination, Timing(attempts=1))
    await copy(pair, OURS)
    pair.clear()
    pair.copier.expect(at(pair, "lib/b"))
    await copy(pair, image(5, (MIB,)))
    assert reads(pair) == (1, 0)
    assert pair.destination.faults.log.select("POST", query=r"^mount=[^&]*$") == []


async def test_a_repository_under_another_login_is_not_read(pair: Pair) -> None:
    await push(pair.destination.plain, "closed/filled", "v1", image(1, (100,), base=[BASE]))

    def access(repository: Repository) -> Access:
        closed = repository.name.startswith("closed/")
        return Access(
            "other" if closed else None, "secret" if closed else None, endpoint=f"http://{repository.registry}"
        )

    async with Registries(access) as registries:
        pair.copier = Copier(registries)
        pair.copier.expect(at(pair, "closed/filled"))
        assert (await copy(pair, OURS)).bytes == without(OURS)
    assert reads(pair) == (0, 0)
