"""Answers of a hostile registry: each ends in time with a documented error, and none is trusted."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.registry import Access, Descriptor, RemoteRepository, Timing
from replicator.registry.connection_errors import connection_words
from replicator.registry.errors import (
    ConnectionFailed,
    DigestMismatch,
    ForeignAnswer,
    ProtocolViolated,
    RegistryError,
    TooManyRequests,
)
from tests.registry.conftest import Server, client, repository, served
from tests.standins.faults import Answer, CutUpload, Fault, FaultLayer, Headers, Raw, Redirect, Trickle
from tests.standins.images import image, layer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BLOB = layer(1, 3_000_000)
CONTENT = BLOB.read()
DESCRIPTOR = Descriptor(BLOB.media_type, BLOB.digest, BLOB.size)
IMAGE = image(1)
IMPATIENT = Timing(connect=2, read=0.3, write=0.3, commit=0.5, tag=0.5, attempts=2)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    monkeypatch.setattr("replicator.registry.blob_stream._MAX_STALLS", 1)


async def nothing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404)


async def the_blob(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=CONTENT)


async def the_manifest(request: web.BaseRequest) -> web.StreamResponse:
    headers = {"Content-Type": IMAGE.media_type, "Docker-Content-Digest": IMAGE.digest}
    return web.Response(body=b"" if request.method == "HEAD" else IMAGE.content, headers=headers)


async def read(remote: RemoteRepository, blob: Descriptor = DESCRIPTOR) -> bytes:
    stream = await remote.open_blob(blob)
    try:
        return b"".join([chunk async for chunk in stream])
    finally:
        await stream.aclose()


class Upload:
    """A source that serves the blob, and a real destination.

    Attributes:
        taking: the destination's faults.
        sending: the source's.
    """

    def __init__(
        self, source: RemoteRepository, sending: FaultLayer, target: RemoteRepository, taking: FaultLayer
    ) -> None:
        self.sending = sending
        self.taking = taking
        self._source = source
        self.target = target

    async def __call__(self) -> None:
        location = await self.target.start_upload()
        assert location is not None
        stream = await self._source.open_blob(DESCRIPTOR)
        try:
            async with asyncio.timeout(20):
                await self.target.finish_upload(location, stream)
        finally:
            await stream.aclose()


@asynccontextmanager
async def an_upload(registry: Server, timing: Timing = IMPATIENT) -> AsyncIterator[Upload]:
    async with repository(the_blob, timing=timing) as (source, sending), client(timing=timing) as registries:
        target = registries.destination(Repository(registry.host, "team/app"))
        yield Upload(source, sending, target, registry.faults)


@pytest.fixture
async def upload(registry: Server, way: str) -> AsyncIterator[Upload]:
    async with an_upload(registry) as made:
        yield made


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ENDLESS = {
    "continues": Raw(b"", drip=CONTINUE),
    "early hints": Raw(b"", drip=b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    "header lines": Raw(b"HTTP/1.1 200 OK\r\n", drip=b"X-More: of the same\r\n"),
    "one header": Raw(b"HTTP/1.1 200 OK\r\nX-More: ", drip=b"a"),
    "an error's words": Raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9000\r\n\r\n", drip=b"a"),
    "chunks of an error": Raw(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", drip=b"1\r\na\r\n"),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_answers_that_drip_for_ever_meet_a_deadline(kind: str) -> None:
    async with repository(nothing, timing=IMPATIENT) as (remote, faults):
        faults.add(Fault(ENDLESS[kind], times=None))
        async with asyncio.timeout(30):
            for ask in (
                remote.head_manifest("v1"),
                remote.get_manifest("v1"),
                remote.start_upload(),
                read(remote),
            ):
                with pytest.raises(RegistryError):
                    await ask


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("after", [1000, BLOB.size])
async def test_an_upload_that_is_answered_by_dripping_meets_a_deadline(upload: Upload, kind: str, after: int) -> None:
    upload.taking.add(Fault(CutUpload(after, ENDLESS[kind]), "PUT", times=None))
    with pytest.raises(RegistryError) as caught:
        await upload()
    assert caught.value.registry == upload.target.repository.registry


@pytest.mark.parametrize("kind", ENDLESS)
async def test_a_token_endpoint_that_drips_meets_a_deadline(kind: str) -> None:
    async with served(nothing) as tokens, repository(nothing, timing=IMPATIENT) as (remote, faults):
        tokens.faults.add(Fault(ENDLESS[kind], times=None))
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{tokens.host}/token"'}
        faults.add(Fault(Answer(401, headers=challenge), times=None))
        async with asyncio.timeout(20):
            with pytest.raises(RegistryError):
                await remote.head_manifest("v1")
            with pytest.raises(RegistryError):
                await read(remote)


@pytest.mark.parametrize("kind", ["continues", "header lines"])
async def test_finding_out_the_scheme_meets_a_deadline(kind: str) -> None:
    async with served(nothing) as server, client(Access(insecure=True), IMPATIENT) as registries:
        server.faults.add(Fault(ENDLESS[kind], times=None))
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionFailed):
                await registries.source(Repository(server.host, "team/app")).head_manifest("v1")


async def test_a_slow_stream_may_take_longer_than_the_limit_of_a_read() -> None:
    async with repository(the_blob, timing=Timing(read=0.3, commit=0.3)) as (remote, faults):
        faults.add(Fault(Trickle(len(CONTENT) // 10, 0.1), times=None))
        assert await read(remote) == CONTENT
        assert len(faults.log) == 1


@pytest.mark.parametrize("before", [CONTINUE, CONTINUE * 50, b"HTTP/1.1 102 Processing\r\n\r\n"])
async def test_interim_answers_are_passed_over(before: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT)
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Raw(before + answer + CONTENT)))
        assert await read(remote) == CONTENT


async def test_an_answer_to_head_may_announce_chunks() -> None:
    head = (
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: {IMAGE.media_type}\r\n"
        f"Docker-Content-Digest: {IMAGE.digest}\r\n\r\n"
    )
    async with repository(the_manifest) as (remote, faults):
        # The second one sends the chunks as well, which an answer to HEAD must not.
        for content in (head, head + "3\r\nabc\r\n0\r\n\r\n"):
            faults.add(Fault(Raw(content.encode(), then="stall"), "HEAD"))
            found = await remote.head_manifest("v1")
            assert found is not None
            assert found.digest == IMAGE.digest
            assert (await remote.get_manifest("v1")).digest == IMAGE.digest


@pytest.mark.parametrize("length", ["1" * 5000, "-1", "0x10", "1, 2", "²"])
async def test_a_content_length_that_is_no_number_is_an_error(length: str) -> None:
    content = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nDocker-Content-Digest: {IMAGE.digest}\r\n\r\n"
    async with repository(nothing, timing=IMPATIENT) as (remote, faults):
        faults.add(Fault(Raw(content.encode()), times=None))
        for ask in (remote.head_manifest("v1"), remote.get_manifest("v1"), read(remote)):
            with pytest.raises(RegistryError):
                await ask


@pytest.mark.parametrize("said", [len(CONTENT) - 1, len(CONTENT) + 1, 10**12, 0])
async def test_a_length_that_is_not_the_blobs_is_refused_at_once(said: int) -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % said + CONTENT[:said]), times=None))
        with pytest.raises(DigestMismatch, match="than the"):
            await read(remote)
        assert len(faults.log) == 1


async def test_a_part_that_never_ends_is_not_read_past_the_blobs_size() -> None:
    async with repository(nothing) as (remote, faults):
        faults.add(Fault(Raw(b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT[:1000])))
        part = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1000-{BLOB.size - 1}/{BLOB.size}\r\n\r\n"
        faults.add(Fault(Raw(part.encode() + CONTENT[1000:], drip=b"more"), times=None))
        with pytest.raises(DigestMismatch, match="longer"):
            await read(remote)


async def test_bytes_are_what_counts_whatever_encoding_is_announced() -> None:
    """Object storage keeps a wrong Content-Encoding from the upload, and a proxy may add one."""
    packed = gzip.compress(IMAGE.content)
    encoded = {"Content-Encoding": "gzip", "Content-Type": IMAGE.media_type}
    async with repository(the_blob) as (remote, faults):
        faults.add(Fault(Headers({"Content-Encoding": "gzip"})))
        assert await read(remote) == CONTENT
        assert faults.log.entries[0].headers["Accept-Encoding"] == "identity"
        faults.faults.clear()
        faults.add(Fault(Answer(200, body=packed, headers=encoded), times=None))
        assert await read(remote, Descriptor("", IMAGE.digest, len(IMAGE.content))) == IMAGE.content
        assert (await remote.get_manifest(IMAGE.digest)).content == IMAGE.content
        assert (await remote.get_manifest("v1")).digest == IMAGE.digest


async def test_connections_that_end_after_the_headers_are_told_as_such() -> None:
    async with repository(nothing, timing=IMPATIENT) as (remote, faults):
        faults.add(Fault(Raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BLOB.size), times=None))
        for ask in (remote.get_manifest("v1"), read(remote)):
            with pytest.raises(ConnectionFailed):
                await ask


@pytest.mark.parametrize(
    "location",
    [
        "https://thief.example.com/v2/x?a=b",
        "//thief.example.com/v2/x",
        "http://127.0.0.2:1/v2/x",
        "http://u:p@h.example.com/",
    ],
)
async def test_an_upload_is_never_sent_to_another_host(registry: Server, location: str) -> None:
    async with client(Access(insecure=True)) as registries:
        target = registries.destination(Repository(registry.host, "team/app"))
        registry.faults.add(Fault(Headers({"Location": location}), "POST"))
        with pytest.raises(ProtocolViolated, match="another host") as caught:
            await target.start_upload()
        assert caught.value.error_class is ErrorClass.PERMANENT


async def test_a_blob_that_is_mounted_without_having_been_asked_for_is_not_believed(registry: Server) -> None:
    async with client() as registries:
        target = registries.destination(Repository(registry.host, "team/app"))
        registry.faults.add(Fault(Answer(201, headers={"Location": "/v2/x"}), "POST"))
        with pytest.raises(ProtocolViolated, match="201"):
            await target.start_upload()


@pytest.mark.parametrize("status", [200, 204, 302, 307, 308])
async def test_what_is_no_answer_to_a_write_breaks_the_protocol(upload: Upload, status: int) -> None:
    """A redirect of a write is not followed: the specification has none, and a stream can't be sent twice."""
    elsewhere = Redirect("http://127.0.0.1:1", status=status) if status > 300 else Answer(status)
    async with client() as registries:
        target = registries.destination(Repository(upload.target.repository.registry, "team/app"))
        post = upload.taking.add(Fault(elsewhere, "POST"))
        with pytest.raises(ProtocolViolated, match=str(status)) as caught:
            await target.start_upload()
        assert (post.hits, caught.value.status) == (1, status)
    if status != 204:
        put = upload.taking.add(Fault(elsewhere, "PUT"))
        with pytest.raises(ProtocolViolated, match=str(status)):
            await upload()
        assert put.hits == 1


@pytest.mark.parametrize("after", [0, 1000])
async def test_a_blob_is_not_believed_stored_before_all_of_it_was_sent(upload: Upload, after: int) -> None:
    early = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nDocker-Content-Digest: %s\r\n\r\n" % BLOB.digest.encode()
    upload.taking.add(Fault(CutUpload(after, Raw(early, then="stall")), "PUT"))
    # The source is slow, so the early answer comes before the system's buffers have taken all of the blob.
    upload.sending.add(Fault(Trickle(1_000_000, 0.2), "GET"))
    with pytest.raises(ProtocolViolated, match="before") as caught:
        await upload()
    assert caught.value.registry == upload.target.repository.registry
    assert not await upload.target.has_blob(BLOB.digest)


EARLY = b"HTTP/1.1 %s\r\nContent-Length: 7\r\nRetry-After: 1\r\nConnection: close\r\n\r\nno more"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(b"403 Forbidden", ForeignAnswer), (b"413 Too Large", ForeignAnswer), (b"429 Too Many", TooManyRequests)],
)
@pytest.mark.parametrize("then", ["close", "reset", "stall"])
async def test_a_refusal_that_comes_before_the_body_was_sent_is_read(
    upload: Upload, status: bytes, kind: type[RegistryError], then: str
) -> None:
    upload.taking.add(Fault(CutUpload(1000, Raw(EARLY % status, then=then)), "PUT", times=None))  # type: ignore[arg-type]  # one of three
    with pytest.raises(kind, match="no more"):
        await upload()


@pytest.mark.parametrize(
    "content",
    [
        b"\x1b[31mno HTTP at all " + b"x" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x1b[31m" + b"z" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 307 \xff\r\nLocation: http://127.0.0.1:1/\xff?X-Signature=s3cret\r\n\r\n",
        b"HTTP/1.1 307 OK\r\nLocation: http://127.0.0.1:1/x?X-Signature=s3cret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nDocker-Content-Digest: \xff\x1b\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\n\x1b[2J",
    ],
    ids=range(8),
)
async def test_an_error_is_one_short_printable_line_without_a_signature(content: bytes) -> None:
    async with repository(nothing, timing=IMPATIENT) as (remote, faults):
        faults.add(Fault(Raw(content), times=None))
        for ask in (remote.get_manifest("v1"), remote.start_upload(), read(remote)):
            with pytest.raises(RegistryError) as caught:
                await ask
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 1200
            assert "s3cret" not in str(caught.value)


async def test_an_upload_that_breaks_does_not_tell_what_its_session_is_named_by(upload: Upload) -> None:
    def signed(location: str) -> str:
        return f"{location}&X-Signature=s3cret"

    upload.taking.add(Fault(Headers({"Location": signed}), "POST", times=None))
    for how in ("close", "reset", "stall"):
        upload.taking.faults[1:] = [Fault(CutUpload(1000, how), "PUT", times=None)]
        with pytest.raises(ConnectionFailed) as caught:
            await upload()
        assert "s3cret" not in str(caught.value)
        assert "_state" not in str(caught.value)


async def test_an_answer_that_is_not_http_is_named_in_the_error() -> None:
    async with repository(nothing, timing=IMPATIENT) as (remote, faults):
        faults.add(Fault(Raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), times=None))
        with pytest.raises(ConnectionFailed, match=r"the answer of 127\.0\.0\.1:\d+ is not HTTP$"):
            await remote.get_manifest("v1")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aiohttp.ClientOSError(32, "Can not write request body for http://h.example.com/x?sig=s3cret"), "Broken pipe"),
        (aiohttp.ClientConnectionError("http://h.example.com/x?sig=s3cret"), "ClientConnectionError"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
        (OSError(), "OSError"),
    ],
    ids=["write", "url", "disconnect", "wordless"],
)
def test_a_broken_connection_is_told_without_the_url(error: Exception, words: str) -> None:
    told = connection_words(URL("https://h.example.com/x?sig=s3cret"), error)
    assert told == f"the connection to h.example.com:443 broke: {words}"
