"""The basis of the other tests: servers, faults and counters do what they say."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.standins.distribution import distribution
from tests.standins.faults import Answer, Corrupt, Cut, CutUpload, Delay, Fault, FaultLayer, Headers, Redirect
from tests.standins.images import (
    Index,
    attestation,
    blobs_of,
    fetch_raw,
    image,
    index,
    layer,
    multi_arch,
    push,
    put_manifest,
    verify_tree,
)
from tests.standins.layouts import write_directory, write_layout
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.images import Image


@pytest.fixture
async def registry() -> AsyncIterator[str]:
    async with distribution() as host:
        yield host


@pytest.fixture
async def front(registry: str) -> AsyncIterator[tuple[str, FaultLayer]]:
    async with Upstream(registry) as upstream:
        layer = FaultLayer(upstream.forward)
        async with serve(layer) as host:
            yield host, layer


@pytest.mark.parametrize(
    "root",
    [
        image(1),
        image(2, docker=True),
        image(3, foreign=True),
        image(4, docker=True, foreign=True),
        multi_arch(5),
        multi_arch(6, docker=True),
        multi_arch(7, attested=True),
        index([multi_arch(8), image(9)]),
        index([image(10), attestation(image(10), empty_config=True)]),
    ],
    ids=["oci", "docker", "foreign", "docker-foreign", "index", "list", "attested", "nested", "empty-config"],
)
async def test_every_kind_of_image_is_taken_by_a_real_registry(
    front: tuple[str, FaultLayer], root: Image | Index
) -> None:
    host, _ = front
    await push(host, "team/app", "v1", root)
    await verify_tree(host, "team/app", "v1", root)


@pytest.mark.parametrize("docker", [False, True])
async def test_skopeo_pushes_an_image_without_changing_a_byte(registry: str, tmp_path: Path, docker: bool) -> None:
    root = multi_arch(1, docker=docker)
    (write_directory if docker else write_layout)(tmp_path, root)
    process = await asyncio.create_subprocess_exec(
        "skopeo",
        "copy",
        "--quiet",
        "--all",
        "--preserve-digests",
        "--dest-tls-verify=false",
        f"dir:{tmp_path}" if docker else f"oci:{tmp_path}:latest",
        f"docker://{registry}/team/app:v1",
    )
    assert await process.wait() == 0
    await verify_tree(registry, "team/app", "v1", root)


async def test_a_registry_for_images_only_refuses_other_configs() -> None:
    async with distribution(images_only=True) as host:
        await push(host, "team/app", "v1", image(1))
        with pytest.raises(AssertionError, match="unknown manifest class"):
            await push(host, "team/app", "att", attestation(image(1), empty_config=True))


async def test_a_registry_with_a_directory_keeps_what_it_was_sent(tmp_path: Path) -> None:
    root = image(1)
    async with distribution(tmp_path) as host:
        await push(host, "team/app", "v1", root)
    async with distribution(tmp_path) as host:
        await verify_tree(host, "team/app", "v1", root)


async def test_no_registry_outlives_its_context() -> None:
    def children() -> list[str]:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

    before = children()
    async with distribution(), distribution():
        assert len(children()) == len(before) + 2
    assert children() == before


def test_layers_are_the_same_each_time_they_are_made() -> None:
    for size in (0, 1, 1000, (1 << 20) + 1):
        one = layer(7, size)
        assert f"sha256:{hashlib.sha256(one.read()).hexdigest()}" == layer(7, size).digest == one.digest
        assert len(one.read()) == one.size
        assert layer(8, size).digest != one.digest


async def test_a_missing_manifest_and_a_changed_blob_are_noticed(front: tuple[str, FaultLayer]) -> None:
    host, faults = front
    root = image(1)
    await push(host, "team/app", "v1", root)
    with pytest.raises(LookupError):
        await fetch_raw(host, "team/app", "v2")
    faults.add(Fault(Corrupt(10), method="GET", path="/blobs/"))
    with pytest.raises(AssertionError):
        await verify_tree(host, "team/app", "v1", root)
    await put_manifest(host, "team/app", "v2", root)
    await verify_tree(host, "team/app", "v2", root)


async def _get(host: str, path: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}{path}") as answer:
        return answer.status, await answer.read()


async def test_answers_end_where_they_are_cut(front: tuple[str, FaultLayer]) -> None:
    host, faults = front
    root = image(1, [100_000])
    blob = blobs_of(root)[1]
    await push(host, "team/app", "v1", root)
    path = f"/v2/team/app/blobs/{blob.digest}"
    for how in ("close", "reset"):
        faults.add(Fault(Cut(50_000, how), method="GET", path="/blobs/"))
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}{path}") as answer:
            assert await answer.content.readexactly(50_000) == blob.read()[:50_000]
            with pytest.raises((aiohttp.ClientError, OSError)):
                await answer.content.read(1)
        assert faults.log.select("GET", "/blobs/")[-1].response_bytes == 50_000
    assert await _get(host, path) == (200, blob.read())
    # The client library asks a second time by itself.
    faults.add(Fault(Cut(None), method="GET", path="/blobs/", times=2))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await _get(host, path)
    assert faults.log.entries[-1].status is None


async def test_a_stalled_answer_does_not_keep_the_server_from_stopping(registry: str) -> None:
    async with Upstream(registry) as upstream:
        faults = FaultLayer(upstream.forward)
        faults.add(Fault(Cut(1, "stall")))
        async with serve(faults) as host:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await _get(host, "/v2/")


async def test_requests_end_where_they_are_cut(front: tuple[str, FaultLayer]) -> None:
    host, faults = front

    async def post() -> int:
        url = f"http://{host}/v2/team/app/blobs/uploads/"
        async with aiohttp.ClientSession() as session, session.post(url, data=b"x" * 900_000) as answer:
            return answer.status

    faults.add(Fault(CutUpload(1000, "close"), method="POST"))
    faults.add(Fault(CutUpload(1000, "reset"), method="POST"))
    faults.add(Fault(CutUpload(1000, Answer(429)), method="POST"))
    for _ in range(2):
        with pytest.raises((aiohttp.ClientError, OSError)):
            await post()
    assert await post() == 429
    assert [entry.status for entry in faults.log] == [None, None, 429]
    assert all(entry.request_bytes >= 1000 for entry in faults.log)


async def test_faults_strike_what_they_match_as_often_as_they_say(front: tuple[str, FaultLayer]) -> None:
    host, faults = front
    fault = faults.add(Fault(Answer(503, "UNAVAILABLE", headers={"Retry-After": "1"}), path="^/v2/$", after=1, times=2))
    assert [(await _get(host, "/v2/"))[0] for _ in range(4)] == [200, 503, 503, 200]
    assert fault.hits == 2
    assert faults.log.count("GET", "^/v2/$", 503) == 2
    assert faults.log.count(status=200) == 2
    faults.add(Fault(Delay(0), query="x=1"))
    faults.add(Fault(Headers({"Docker-Distribution-Api-Version": None, "X-New": "1"})))
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}/v2/?x=2") as answer:
        assert "Docker-Distribution-Api-Version" not in answer.headers
        assert answer.headers["X-New"] == "1"
    faults.log.clear()
    assert not list(faults.log)


async def test_a_redirect_leads_to_the_same_bytes_elsewhere(front: tuple[str, FaultLayer], registry: str) -> None:
    host, faults = front
    async with Upstream(registry) as upstream:
        other = FaultLayer(upstream.forward)
        async with serve(other) as elsewhere:
            faults.add(Fault(Redirect(f"http://{elsewhere}")))
            assert (await _get(host, "/v2/?a=b"))[0] == 200
            assert other.log.entries[0].query == "a=b"
