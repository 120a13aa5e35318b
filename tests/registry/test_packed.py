"""A proxy before the registry: it packs answers that should come as they are, adds long headers, drops the Link."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.registry import Descriptor
from replicator.registry.errors import DigestMismatch, NotFound, ProtocolViolated, RegistryError
from replicator.registry.manifests import _PAGE
from tests.registry.conftest import repository
from tests.registry.test_hostile import BLOB, CONTENT, DESCRIPTOR, IMAGE, IMPATIENT, read
from tests.registry.test_repository import listed
from tests.standins.faults import Answer, Cut, Fault, Headers

if TYPE_CHECKING:
    from replicator.registry.manifest import Manifest
    from tests.standins.server import Handler

PACKED = gzip.compress(CONTENT)


def packing(body: bytes, media_type: str = "application/octet-stream", label: str = "gzip") -> Handler:
    """Return a handler that packs; with a length, as a cache answers, or in chunks, as a proxy does that packs now."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Encoding": label, "Content-Type": media_type})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(gzip.compress(body))
        return response

    return answer


@pytest.mark.parametrize("kind", [BLOB.media_type, "", "application/vnd.oci.image.layer.v1.tar"])
@pytest.mark.parametrize("label", ["gzip", "X-GZip"])
async def test_a_layer_that_a_proxy_packs_is_unpacked_and_verified(kind: str, label: str) -> None:
    async with repository(packing(CONTENT, label=label)) as (remote, faults):
        assert await read(remote, Descriptor(kind, BLOB.digest, BLOB.size)) == CONTENT
        assert len(faults.log) == 1


@pytest.mark.parametrize("kind", [BLOB.media_type, "application/vnd.oci.image.layer.v1.tar"])
async def test_a_layer_that_is_only_labelled_is_taken_as_it_is(kind: str) -> None:
    """A gzip file by itself, or a plain one, without a length that would tell."""
    content = CONTENT if "gzip" in kind else b"plain" * 1000

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Encoding": "x-gzip"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(content)
        return response

    blob = DESCRIPTOR if "gzip" in kind else Descriptor(kind, _digest(content), len(content))
    async with repository(answer) as (remote, _):
        assert await read(remote, blob) == content


def _digest(content: bytes) -> str:
    from replicator.registry.manifest import digest_of

    return digest_of(content)


async def test_a_packed_layer_that_breaks_goes_on_from_the_start_and_no_range_is_asked_for() -> None:
    async with repository(packing(CONTENT)) as (remote, faults):
        faults.add(Fault(Cut(2_000_000)))
        assert await read(remote) == CONTENT
        assert len(faults.log) == 2
        assert "Range" not in faults.log.entries[1].headers


async def test_a_packed_layer_without_end_is_not_unpacked_past_its_size() -> None:
    """Two megabytes of gzip are two gigabytes of zeros."""
    bomb = gzip.compress(gzip.compress(b"\0", mtime=0) + bytes(64 * 1024 * 1024))
    async with repository(lambda _: _answered(bomb)) as (remote, _):
        with pytest.raises(DigestMismatch, match=r"longer than the .*Content-Encoding 'gzip'"):
            await read(remote)


async def _answered(body: bytes) -> web.StreamResponse:
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


async def test_a_manifest_and_a_list_that_a_proxy_packs_are_unpacked() -> None:
    async with repository(packing(IMAGE.content, IMAGE.media_type)) as (remote, _):
        manifest: Manifest = await remote.get_manifest(IMAGE.digest)
        assert manifest.content == IMAGE.content
    async with repository(packing(b'{"tags": ["a", "b"]}', "application/json")) as (remote, _):
        assert await listed(remote) == ["a", "b"]


async def test_the_length_of_a_packed_answer_to_head_is_not_the_manifests() -> None:
    headers = {"Content-Encoding": "gzip", "Content-Length": "77", "Docker-Content-Digest": IMAGE.digest}
    async with repository(packing(b"")) as (remote, faults):
        faults.add(Fault(Answer(200, headers=headers), "HEAD"))
        found = await remote.head_manifest("v1")
    assert found is not None
    assert (found.digest, found.size) == (IMAGE.digest, 0)


async def test_an_error_that_a_proxy_packs_is_read() -> None:
    async with repository(packing(b"")) as (remote, faults):
        body = gzip.compress(b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')
        faults.add(Fault(Answer(404, body=body, headers={"Content-Encoding": "gzip"})))
        with pytest.raises(NotFound, match="manifest unknown"):
            await remote.get_manifest("v1")


@pytest.mark.parametrize("body", [b"\x1b\x03\xff\xfe\x80", b"\x28\xb5\x2f\xfd\x04\x00"])
async def test_what_is_packed_in_another_way_is_an_error_that_names_the_encoding(body: bytes) -> None:
    headers = {"Content-Encoding": "br", "Content-Type": IMAGE.media_type}
    async with repository(packing(b""), timing=IMPATIENT) as (remote, faults):
        faults.add(Fault(Answer(200, body=body, headers=headers), times=None))
        with pytest.raises(ProtocolViolated, match=r"Content-Encoding 'br'.*compress nothing"):
            await remote.get_manifest(IMAGE.digest)
        with pytest.raises(DigestMismatch, match=r"shorter.*Content-Encoding 'br'.*compress nothing"):
            await read(remote)


async def test_a_packed_answer_is_bounded_after_it_is_unpacked() -> None:
    async with repository(packing(bytes(64 * 1024 * 1024))) as (remote, _):
        with pytest.raises(ProtocolViolated, match="larger than"):
            await remote.get_manifest(IMAGE.digest)


async def test_headers_of_60_kib_are_read_and_longer_ones_are_an_error() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"tags": ["a"]})

    async with repository(answer, timing=IMPATIENT) as (remote, faults):
        faults.add(Fault(Headers({"X-Trace": "x" * 60 * 1024})))
        assert await listed(remote) == ["a"]
        assert len(faults.log) == 1
        faults.add(Fault(Headers({"X-Trace": "x" * 70 * 1024}), times=None))
        with pytest.raises(RegistryError, match="is not HTTP"):
            await listed(remote)


NAMES = [f"v{number:04}" for number in range(2500)]


def tag_list(page: int = 10_000, *, obeys: bool = True, end: int = 200) -> Handler:
    """Return a handler for a list of tags without any Link.

    Args:
        page: tags that it gives at once at most.
        obeys: whether it knows ``last``.
        end: its status where nothing follows.
    """

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        query = request.rel_url.query
        rest = [name for name in NAMES if name > query.get("last", "")] if obeys else NAMES
        if not rest and end != 200:
            return web.json_response({"errors": [{"code": "NOT_FOUND", "message": "not found"}]}, status=end)
        return web.json_response({"tags": rest[: min(page, int(query["n"]))] if obeys else rest})

    return answer


@pytest.mark.parametrize("page", [_PAGE, 500, 100])
@pytest.mark.parametrize("end", [200, 404])
async def test_a_full_page_of_tags_without_a_link_is_not_the_last(page: int, end: int) -> None:
    async with repository(tag_list(page, end=end)) as (remote, _):
        assert await listed(remote) == NAMES


async def test_a_registry_that_lists_all_tags_at_once_is_asked_twice_and_no_tag_comes_twice() -> None:
    async with repository(tag_list(obeys=False)) as (remote, faults):
        assert await listed(remote) == NAMES
        assert len(faults.log) == 2


async def test_a_page_that_is_not_full_is_the_last() -> None:
    async with repository(tag_list(999)) as (remote, faults):
        assert await listed(remote) == NAMES[:999]
        assert len(faults.log) == 1
