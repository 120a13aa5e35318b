"""Manifests and tags of a repository: read, written, listed, and always verified."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.registry import RemoteRepository, Timing
from replicator.registry.errors import (
    ConnectionFailed,
    DigestMismatch,
    ManifestIncomplete,
    NotFound,
    ProtocolViolated,
    RegistryError,
    UnsupportedManifest,
)
from replicator.registry.manifest import MAX_MANIFEST_BYTES, OCI_INDEX, Manifest, digest_of, parse_manifest
from tests.registry.conftest import Server, client, repository
from tests.standins.faults import Answer, Corrupt, Cut, Delay, Fault, Headers
from tests.standins.images import fetch_raw, image, index, multi_arch, push, put_manifest

if TYPE_CHECKING:
    from replicator.registry import Registries


def at(registries: Registries, server: Server, name: str = "team/app") -> RemoteRepository:
    return registries.destination(Repository(server.host, name))


def parsed(made: object) -> Manifest:
    return parse_manifest(made.content, made.media_type, made.digest)  # type: ignore[attr-defined]  # an image


async def nothing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404)


@pytest.mark.parametrize("root", [image(1), image(2, docker=True), multi_arch(3), multi_arch(4, docker=True)])
async def test_a_manifest_is_read_to_the_byte_by_tag_and_by_digest(
    registry: Server, registries: Registries, root: object
) -> None:
    await push(registry.host, "team/app", "v1", root)  # type: ignore[arg-type]  # any image
    remote = at(registries, registry)
    wanted = parsed(root)
    assert await remote.get_manifest("v1") == wanted
    assert await remote.get_manifest(wanted.digest) == wanted
    descriptor = await remote.head_manifest("v1")
    assert descriptor is not None
    assert (descriptor.digest, descriptor.media_type, descriptor.size) == (
        wanted.digest,
        wanted.media_type,
        len(wanted.content),
    )


@pytest.mark.parametrize("fault", [Corrupt(5), Headers({"Docker-Content-Digest": "sha256:" + "0" * 64})])
async def test_a_manifest_that_is_not_what_was_announced_is_refused(
    registry: Server, registries: Registries, fault: Corrupt | Headers
) -> None:
    await push(registry.host, "team/app", "v1", image(1))
    registry.faults.add(Fault(fault, method="GET", path="/manifests/", times=None))
    with pytest.raises(DigestMismatch) as caught:
        await at(registries, registry).get_manifest("v1")
    assert caught.value.error_class is ErrorClass.PERMANENT


async def test_a_digest_asked_for_counts_more_than_what_the_answer_says(
    registry: Server, registries: Registries
) -> None:
    await push(registry.host, "team/app", "v1", image(1))
    await push(registry.host, "team/app", "v2", image(2))
    content, media_type = await fetch_raw(registry.host, "team/app", "v2")
    headers = {"Docker-Content-Digest": image(2).digest, "Content-Type": media_type}
    registry.faults.add(Fault(Answer(200, headers=headers, body=content), method="GET", times=None))
    with pytest.raises(DigestMismatch):
        await at(registries, registry).get_manifest(image(1).digest)


async def test_no_more_of_a_manifest_is_read_than_a_registry_must_take() -> None:
    sent = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": OCI_INDEX})
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            sent += 65536

    async with repository(endless, timing=Timing(commit=60)) as (remote, faults):
        with pytest.raises(ProtocolViolated, match="larger than"):
            await remote.get_manifest("v1")
        assert len(faults.log) == 1
    assert sent < MAX_MANIFEST_BYTES + 16 * 1024 * 1024


async def test_a_manifest_of_another_kind_is_refused() -> None:
    body = json.dumps({"schemaVersion": 1, "name": "a", "fsLayers": []}).encode()
    async with repository(nothing) as (remote, faults):
        headers = {"Content-Type": "application/vnd.docker.distribution.manifest.v1+json"}
        faults.add(Fault(Answer(200, body=body, headers=headers)))
        with pytest.raises(UnsupportedManifest, match="schema 1"):
            await remote.get_manifest("v1")


async def test_a_broken_answer_is_retried(registry: Server, registries: Registries) -> None:
    root = multi_arch(1)
    await push(registry.host, "team/app", "v1", root)
    registry.faults.add(Fault(Cut(20), method="GET", path="/manifests/"))
    registry.faults.add(Fault(Cut(20, "reset"), method="GET", path="/manifests/"))
    assert await at(registries, registry).get_manifest("v1") == parsed(root)


async def test_a_large_manifest_is_written_and_read(registry: Server, registries: Registries) -> None:
    await push(registry.host, "team/app", "v1", image(1))
    document = json.loads(index([image(1)]).content)
    document["annotations"] = {"org.example.note": "n" * 3_000_000}
    content = json.dumps(document).encode()
    manifest = parse_manifest(content, OCI_INDEX, digest_of(content))
    remote = at(registries, registry)
    await remote.put_manifest(manifest, "large")
    assert await remote.get_manifest("large") == manifest


async def test_a_registry_that_stored_something_else_is_found_out(registry: Server, registries: Registries) -> None:
    root = image(1)
    await push(registry.host, "team/app", "v1", root)
    for value in ("sha256:" + "0" * 64, "nonsense"):
        registry.faults.add(Fault(Headers({"Docker-Content-Digest": value}), method="PUT"))
        with pytest.raises(ProtocolViolated, match="stored") as caught:
            await at(registries, registry).put_manifest(parsed(root), "v2")
        assert str(caught.value).isprintable()


async def test_what_was_stored_is_read_back_where_the_answer_does_not_say(
    registry: Server, registries: Registries
) -> None:
    root = image(1)
    await push(registry.host, "team/app", "v1", root)
    await push(registry.host, "team/app", "v2", image(2))
    registry.faults.add(Fault(Headers({"Docker-Content-Digest": None}), times=None))
    remote = at(registries, registry)
    await remote.put_manifest(parsed(root), "v1")
    registry.faults.faults.insert(0, Fault(Answer(201), method="PUT", times=None))
    with pytest.raises(ProtocolViolated, match="stored"):
        await remote.put_manifest(parsed(root), "v2")
    with pytest.raises(NotFound):
        await remote.put_manifest(parsed(root), "v3")


async def test_a_manifest_whose_parts_are_missing_is_told_apart(registry: Server, registries: Registries) -> None:
    remote = at(registries, registry)
    for made in (image(1), index([image(1)])):
        with pytest.raises(ManifestIncomplete):
            await remote.put_manifest(parsed(made), "v1")


async def test_a_limited_write_has_one_attempt_and_ends_in_time(registry: Server) -> None:
    root = image(1)
    await push(registry.host, "team/app", "v1", root)
    async with client(timing=Timing(attempts=4)) as registries:
        remote = at(registries, registry)
        registry.faults.log.clear()
        registry.faults.add(Fault(Answer(503), method="PUT"))
        with pytest.raises(RegistryError):
            await remote.put_manifest(parsed(root), "v2", within=5)
        assert registry.faults.log.count("PUT") == 1
        registry.faults.add(Fault(Delay(60), method="PUT"))
        with pytest.raises(ConnectionFailed, match=r"no answer within 0\.2 s"):
            await remote.put_manifest(parsed(root), "v2", within=0.2)
        assert registry.faults.log.count("PUT") == 2


async def listed(remote: RemoteRepository) -> list[str]:
    return [tag async for tag in remote.tags()]


async def test_tags_are_listed_over_all_pages(registry: Server, registries: Registries) -> None:
    root = image(1)
    await push(registry.host, "team/app", "v0", root)
    names = sorted(f"v{number}" for number in range(7))
    for name in names:
        await put_manifest(registry.host, "team/app", name, root)
    remote = at(registries, registry)
    assert sorted(await listed(remote)) == names


@pytest.mark.parametrize("absolute", [False, True])
async def test_links_to_further_pages_are_followed_relative_and_absolute(absolute: bool) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        last = request.rel_url.query.get("last", "")
        headers = {}
        if last != "c":
            path = f"/v2/team/app/tags/list?n=1&last={chr(ord(last) + 1) if last else 'a'}"
            link = f"http://{request.host}{path}" if absolute else path
            headers["Link"] = f'<{link}>; rel="next"'
        return web.json_response({"tags": [last or "first"]}, headers=headers)

    async with repository(answer) as (remote, faults):
        assert await listed(remote) == ["first", "a", "b", "c"]
        assert len(faults.log) == 4


async def test_pages_that_run_in_a_circle_end() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        following = "b" if request.rel_url.query.get("last") == "a" else "a"
        headers = {"Link": f'</v2/team/app/tags/list?last={following}>; rel="next"'}
        return web.json_response({"tags": ["t"]}, headers=headers)

    async with repository(answer) as (remote, faults):
        with pytest.raises(ProtocolViolated, match="never end"):
            await listed(remote)
        assert len(faults.log) == 3


async def test_pages_without_end_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.registry.manifests._MAX_TAG_PAGES", 20)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        number = int(request.rel_url.query.get("last", "0"))
        headers = {"Link": f'</v2/team/app/tags/list?last={number + 1}>; rel="next"'}
        return web.json_response({"tags": ["t"]}, headers=headers)

    async with repository(answer) as (remote, faults):
        with pytest.raises(ProtocolViolated, match="never end"):
            await listed(remote)
        assert len(faults.log) == 20


async def test_a_page_at_another_host_is_not_asked_for() -> None:
    async with repository(nothing) as (remote, faults):
        link = {"Link": '<http://other.example.com/v2/team/app/tags/list?last=a>; rel="next"'}
        faults.add(Fault(Answer(200, body=b'{"tags": ["a"]}', headers=link)))
        async with client() as registries:
            # The access has an endpoint, which takes every link back to itself; the check is for accesses without.
            transport = registries.transport(remote.repository)
            transport._access = type(transport._access)()
            with pytest.raises(ProtocolViolated, match="another host"):
                await listed(registries.source(remote.repository))
        assert len(faults.log) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": 3}', b'{"name": "x"}', b"\xff", b"[" * 50_000])
async def test_an_answer_that_is_not_a_list_of_tags_is_an_error(body: bytes) -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Answer(200, body=body)))
        with pytest.raises(ProtocolViolated):
            await listed(remote)


async def test_no_tags_and_names_that_are_no_tags_give_nothing() -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Answer(200, body=b'{"tags": null}')))
        assert await listed(remote) == []
        faults.add(Fault(Answer(200, body=b'{"tags": ["../x", 3, null, "ok", "a b", ""]}')))
        assert await listed(remote) == ["ok"]
        with pytest.raises(NotFound):
            await listed(remote)


async def test_a_denial_at_the_destination_is_left_for_the_push_to_explain() -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Answer(403, "DENIED", "requested access to the resource is denied"), times=None))
        assert await remote.head_destination("v1") is None
        assert not await remote.has_blob(digest_of(b"x"))


async def test_requests_at_once_are_bounded(registry: Server) -> None:
    busiest = running = 0

    async def slow(_: web.BaseRequest) -> web.StreamResponse:
        nonlocal busiest, running
        running += 1
        busiest = max(busiest, running)
        await asyncio.sleep(0.005)
        running -= 1
        return web.Response(status=404)

    async with repository(slow) as (remote, _):
        await asyncio.gather(*(remote.head_manifest(f"v{number}") for number in range(200)))
    assert 8 < busiest <= 32
