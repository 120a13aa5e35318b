"""Blob transfers: verified, resumed, bounded, and always under a deadline."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.registry import Descriptor, RemoteRepository, Timing
from replicator.registry.errors import (
    ConnectionFailed,
    DigestMismatch,
    NotFound,
    ProtocolViolated,
    RegistryError,
    ServerFailed,
    TooManyRequests,
    UploadLost,
)
from replicator.registry.manifest import digest_of
from tests.registry.conftest import QUICK, Server, client, repository, served
from tests.standins.faults import Answer, Corrupt, Cut, CutUpload, Fault, FaultLayer, Headers
from tests.standins.images import image as make_image
from tests.standins.images import layer, push

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BLOB = layer(1, 300_000)
CONTENT = BLOB.read()
DESCRIPTOR = Descriptor(BLOB.media_type, BLOB.digest, BLOB.size)


async def with_ranges(request: web.BaseRequest) -> web.StreamResponse:
    """Serve the blob with support for ranges."""
    wanted = request.headers.get("Range")
    if wanted is None:
        return web.Response(body=CONTENT)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    headers = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
    return web.Response(status=206, body=CONTENT[start:], headers=headers)


async def without_ranges(_: web.BaseRequest) -> web.StreamResponse:
    """Serve the whole blob and ignore ranges."""
    return web.Response(body=CONTENT)


async def read(remote: RemoteRepository, blob: Descriptor = DESCRIPTOR) -> bytes:
    stream = await remote.open_blob(blob)
    try:
        return b"".join([chunk async for chunk in stream])
    finally:
        await stream.aclose()


@pytest.mark.parametrize("how", ["close", "reset", "stall"])
async def test_a_broken_transfer_is_resumed(how: str) -> None:
    async with repository(with_ranges, timing=Timing(read=0.3)) as (remote, faults):
        faults.add(Fault(Cut(100_000, how)))  # type: ignore[arg-type]  # one of the three
        faults.add(Fault(Cut(50_000, how)))  # type: ignore[arg-type]  # one of the three
        assert await read(remote) == CONTENT
        first, second, third = [entry.begins for entry in faults.log]
        assert first == 0 < second <= 100_000
        assert second < third <= second + 50_000


async def test_a_server_without_ranges_is_read_from_the_start_and_skipped() -> None:
    async with repository(without_ranges) as (remote, faults):
        faults.add(Fault(Cut(100_000)))
        faults.add(Fault(Cut(200_000)))
        counted: list[int] = []
        stream = await remote.open_blob(DESCRIPTOR, counted.append)
        assert b"".join([chunk async for chunk in stream]) == CONTENT
        await stream.aclose()
        assert sum(counted) == len(CONTENT)
        assert len(faults.log) == 3


@pytest.mark.parametrize(
    "value",
    ["bytes 0-299/300", "bytes 100000-", "", "bytes 100001-399999/400000", f"bytes 100000-9/{len(CONTENT) + 1}"],
)
async def test_a_part_that_does_not_fit_is_refused(value: str) -> None:
    async with repository(with_ranges) as (remote, faults):
        faults.add(Fault(Cut(100_000)))
        faults.add(Fault(Headers({"Content-Range": value}), times=None))
        with pytest.raises(ProtocolViolated, match="Content-Range"):
            await read(remote)


async def test_a_source_without_progress_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    async with repository(with_ranges) as (remote, faults):
        faults.add(Fault(Cut(0), times=None))
        with pytest.raises(
            ConnectionFailed, match=r"(ended|broke.*), each time at about 0 bytes of .* \(6 times\)"
        ) as caught:
            await read(remote)
        assert caught.value.error_class is ErrorClass.TRANSIENT
        assert len(faults.log) <= 8


@pytest.mark.parametrize("at", [0, 150_000, len(CONTENT) - 1])
async def test_wrong_bytes_never_come_out_whole(at: int) -> None:
    async with repository(with_ranges) as (remote, faults):
        faults.add(Fault(Corrupt(at), times=None))
        stream = await remote.open_blob(DESCRIPTOR)
        got = bytearray()
        with pytest.raises(DigestMismatch, match=BLOB.digest) as caught:
            await _drain(stream, got)
        await stream.aclose()
        assert len(got) < len(CONTENT)
        assert caught.value.error_class is ErrorClass.PERMANENT


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1, 0, 10**30])
async def test_a_blob_of_another_size_is_refused(size: int) -> None:
    for chunked in (False, True):

        async def answer(request: web.BaseRequest, chunked: bool = chunked) -> web.StreamResponse:
            if not chunked:
                return web.Response(body=CONTENT)
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(CONTENT)
            await response.write_eof()
            return response

        async with repository(answer) as (remote, _):
            with pytest.raises((DigestMismatch, ConnectionFailed)):
                await read(remote, Descriptor("", BLOB.digest, size))


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 65536])
async def test_a_blob_of_any_size_is_read(content: bytes) -> None:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=content)

    async with repository(answer) as (remote, _):
        assert await read(remote, Descriptor("", digest_of(content), len(content))) == content
        sha512 = digest_of(content, "sha512:")
        assert await read(remote, Descriptor("", sha512, len(content))) == content


async def test_a_missing_blob_is_an_error_at_once() -> None:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=404)

    async with repository(answer) as (remote, faults):
        with pytest.raises(NotFound):
            await remote.open_blob(DESCRIPTOR)
        assert len(faults.log) == 1


@pytest.mark.parametrize("action", [Answer(503), Answer(429, headers={"Retry-After": "0"}), Cut(None), CutUpload(0)])
async def test_a_transient_fault_at_the_start_is_retried(action: Answer | Cut | CutUpload) -> None:
    async with repository(with_ranges) as (remote, faults):
        faults.add(Fault(action, times=3))
        assert await read(remote) == CONTENT


async def test_a_blob_whose_registry_asks_for_a_long_pause_leaves_it_to_the_queue() -> None:
    async with repository(with_ranges) as (remote, faults):
        fault = faults.add(Fault(Answer(429, headers={"Retry-After": "300"}), times=None))
        async with asyncio.timeout(5):
            with pytest.raises(TooManyRequests) as caught:
                await read(remote)
        assert caught.value.retry_after == 300
        assert fault.hits == 1


class Pair:
    """A source that serves the blob, and a real destination."""

    def __init__(
        self, source: RemoteRepository, sending: FaultLayer, target: RemoteRepository, taking: FaultLayer
    ) -> None:
        self.source = source
        self.sending = sending
        self.target = target
        self.taking = taking

    async def upload(self) -> None:
        location = await self.target.start_upload()
        assert location is not None
        stream = await self.source.open_blob(DESCRIPTOR)
        try:
            await self.target.finish_upload(location, stream)
        finally:
            await stream.aclose()


@asynccontextmanager
async def a_pair(registry: Server, timing: Timing = QUICK) -> AsyncIterator[Pair]:
    async with repository(with_ranges, timing=timing) as (source, sending), client(timing=timing) as registries:
        yield Pair(source, sending, registries.destination(Repository(registry.host, "team/app")), registry.faults)


@pytest.fixture
async def pair(registry: Server, way: str) -> AsyncIterator[Pair]:
    """Both, for each way that a body can take."""
    async with a_pair(registry) as made:
        yield made


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_source_that_breaks_does_not_break_the_upload(pair: Pair, how: str) -> None:
    pair.sending.add(Fault(Cut(150_000, how)))  # type: ignore[arg-type]  # one of two
    await pair.upload()
    assert await pair.target.has_blob(BLOB.digest)
    assert [entry.method for entry in pair.taking.log] == ["POST", "PUT", "HEAD"]
    assert len(pair.sending.log) == 2


async def test_wrong_bytes_never_complete_an_upload(pair: Pair) -> None:
    pair.sending.add(Fault(Corrupt(7), times=None))
    with pytest.raises(DigestMismatch, match=BLOB.digest):
        await pair.upload()
    assert not await pair.target.has_blob(BLOB.digest)
    assert pair.taking.log.count("PUT", status=201) == 0


async def test_the_sources_error_is_told_when_the_source_is_at_fault(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    pair.sending.add(Fault(Cut(100)))
    pair.sending.add(Fault(Answer(404, "BLOB_UNKNOWN"), times=None))
    with pytest.raises(NotFound) as caught:
        await pair.upload()
    assert caught.value.registry == pair.source.repository.registry


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (CutUpload(1000, "close"), ConnectionFailed),
        (CutUpload(1000, "reset"), ConnectionFailed),
        (CutUpload(1000, "stall"), ConnectionFailed),
        (CutUpload(len(CONTENT), "stall"), ConnectionFailed),
        (Cut(None, "stall"), ConnectionFailed),
        (Cut(None, "close"), ConnectionFailed),
        (CutUpload(1000, Answer(429, headers={"Retry-After": "1"})), TooManyRequests),
        (CutUpload(1000, Answer(503)), ServerFailed),
        (Answer(404, "BLOB_UPLOAD_UNKNOWN"), UploadLost),
        (Answer(400, "BLOB_UPLOAD_INVALID"), UploadLost),
        (Answer(416), UploadLost),
    ],
    ids=str,
)
async def test_a_destination_that_fails_ends_in_time_with_an_error_that_can_be_retried(
    pair: Pair, action: CutUpload | Cut | Answer, kind: type[RegistryError]
) -> None:
    pair.taking.add(Fault(action, method="PUT", times=2 if isinstance(action, Cut) else 1))
    with pytest.raises(kind) as caught:
        await pair.upload()
    assert caught.value.error_class is ErrorClass.TRANSIENT
    assert caught.value.registry == pair.target.repository.registry
    pair.taking.faults.clear()
    await pair.upload()
    assert await pair.target.has_blob(BLOB.digest)


async def test_a_416_is_not_read_to_its_end(pair: Pair) -> None:
    pair.taking.add(Fault(Answer(416, body=b"x", headers={"Content-Length": "1000"}), method="PUT"))
    with pytest.raises(UploadLost):
        await pair.upload()


async def test_a_location_is_used_as_it_came(pair: Pair) -> None:
    odd = "/v2/team/app/blobs/uploads/x%2Fy?_state=a%2Bb%3D%3D&z=%7E"
    pair.taking.add(Fault(Headers({"Location": odd}), method="POST"))
    pair.taking.add(Fault(CutUpload(BLOB.size, Answer(201)), method="PUT"))
    await pair.upload()
    put = pair.taking.log.select("PUT")[0]
    assert put.query == f"_state=a%2Bb%3D%3D&z=%7E&digest={BLOB.digest.replace(':', '%3A')}"
    assert put.request_bytes == BLOB.size


@pytest.mark.parametrize("location", [None, "http://[", "ftp://h.example.com/x"])
async def test_an_upload_without_a_usable_location_is_an_error(pair: Pair, location: str | None) -> None:
    pair.taking.add(Fault(Headers({"Location": location}), method="POST", times=None))
    with pytest.raises(ProtocolViolated, match="Location"):
        await pair.target.start_upload()


async def test_blobs_are_mounted_from_a_repository_that_has_them(registry: Server) -> None:
    root = make_image(1)
    await push(registry.host, "team/base", "v1", root)
    async with client() as registries:
        target = registries.destination(Repository(registry.host, "team/app"))
        digest = root.blobs[1].digest
        assert not await target.has_blob(digest)
        assert await target.start_upload(digest, "team/base") is None
        assert await target.has_blob(digest)
        assert await target.start_upload(digest, "team/app") is None
        assert await target.start_upload(BLOB.digest, "team/base") is not None


async def _drain(stream: AsyncIterator[bytes], into: bytearray) -> None:
    async for chunk in stream:
        into += chunk


@pytest.fixture
async def there(registry: Server) -> AsyncIterator[RemoteRepository]:
    """A repository that has the blob."""
    async with a_pair(registry) as pair:
        await pair.upload()
        registry.faults.log.clear()
        yield pair.target


@pytest.mark.parametrize("status", [302, 303, 307])
async def test_a_redirect_to_storage_that_is_not_reached_says_that_the_blob_is_there(
    registry: Server, there: RemoteRepository, status: int
) -> None:
    link = f"http://oss-internal.invalid/docker/registry/v2/blobs/sha256/ab/{BLOB.digest[7:]}/data?Signature=x"
    registry.faults.add(Fault(Answer(status, headers={"Location": link}), method="HEAD", times=None))
    assert await there.has_blob(BLOB.digest)
    assert [entry.method for entry in registry.faults.log] == ["HEAD"]


@pytest.mark.parametrize("where", ["http://oss-internal.invalid/opaque", "http://127.0.0.1:1/opaque"])
async def test_a_link_without_the_digest_to_storage_that_nobody_reaches_proves_nothing(
    registry: Server, there: RemoteRepository, where: str
) -> None:
    registry.faults.add(Fault(Answer(307, headers={"Location": where}), method="HEAD", times=None))
    # So it is sent again, and pushing needs no storage.
    assert not await there.has_blob(BLOB.digest)
    assert len(registry.faults.log) == 2


@pytest.mark.parametrize(("answer", "present"), [(200, True), (403, False), (404, False), (503, False)])
async def test_a_link_without_the_digest_is_followed_once(
    registry: Server,
    there: RemoteRepository,
    answer: int,
    present: bool,
) -> None:
    async def stored(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=answer)

    async with served(stored) as storage:
        link = {"Location": f"http://{storage.host}/opaque"}
        registry.faults.add(Fault(Answer(307, headers=link), method="HEAD", times=None))
        assert await there.has_blob(BLOB.digest) is present
        assert len(storage.faults.log) == 1


@pytest.mark.parametrize(
    "path",
    [
        f"/login?rd=https%3A%2F%2Freg%2Fv2%2Fteam%2Fapp%2Fblobs%2F{BLOB.digest}",
        f"/oauth2/start/v2/team/app/blobs/{BLOB.digest}",
    ],
)
async def test_a_login_page_is_no_blob(registry: Server, there: RemoteRepository, path: str) -> None:
    async def page(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="<html>Log in</html>", content_type="text/html")

    async with served(page) as sso:
        link = {"Location": f"http://{sso.host}{path}"}
        registry.faults.add(Fault(Answer(302, headers=link), method="HEAD", times=None))
        assert not await there.has_blob(BLOB.digest)


async def test_another_address_of_the_registry_itself_is_asked(registry: Server, there: RemoteRepository) -> None:
    missing = digest_of(b"missing")
    for digest, present in ((BLOB.digest, True), (missing, False)):
        same = {"Location": f"/v2/team/app/blobs/{digest}"}
        for _ in range(2):
            registry.faults.add(Fault(Answer(307, headers=same), method="HEAD"))
        assert await there.has_blob(digest) is present


async def test_another_registry_that_is_redirected_to_is_asked(registry: Server, there: RemoteRepository) -> None:
    async def nothing(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=404)

    async with served(nothing) as other:
        link = {"Location": f"http://{other.host}/v2/team/app/blobs/{BLOB.digest}"}
        registry.faults.add(Fault(Answer(307, headers=link), method="HEAD", times=None))
        assert not await there.has_blob(BLOB.digest)
        assert other.faults.log.count("HEAD") == 1
