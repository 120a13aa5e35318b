"""Bodies that stand still, and those that only move slowly."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from replicator.reference import Repository
from replicator.registry import Access, Descriptor, Registries, RequestObserver, Timing
from replicator.registry.errors import ConnectionFailed
from replicator.registry.flow import Flow
from replicator.registry.limits import HostLimits
from replicator.registry.rate import Rate
from replicator.retry import PROGRESS, Standstill, StoodStill, alive, ends_on_standstill, waiting
from replicator.tasks import cancel_all
from tests.registry.conftest import QUICK, client, repository
from tests.standins.faults import Fault, Trickle
from tests.standins.images import layer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from replicator.registry import RemoteRepository

BLOB = layer(1, 3_000_000)
CONTENT = BLOB.read()
DESCRIPTOR = Descriptor(BLOB.media_type, BLOB.digest, BLOB.size)
LONG = Timing(connect=30, read=30, write=30, commit=30, tag=20, attempts=1)


@pytest.fixture(autouse=True)
def _few_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    monkeypatch.setattr("replicator.registry.blob_stream._MAX_STALLS", 1)


async def the_blob(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=CONTENT)


async def read(remote: RemoteRepository) -> bytes:
    stream = await remote.open_blob(DESCRIPTOR)
    try:
        return b"".join([chunk async for chunk in stream])
    finally:
        await stream.aclose()


async def test_a_source_that_drips_stands_still() -> None:
    """A byte now and then keeps a connection alive for ever, and no read of it ever takes long."""
    async with repository(the_blob, timing=Timing(read=0.4)) as (remote, faults):
        faults.add(Fault(Trickle(1, 0.05), times=None))
        async with asyncio.timeout(30):
            with pytest.raises(ConnectionFailed) as caught:
                await read(remote)
        assert "stopped sending bytes: less than 64 KiB in 0.4 s, each time at about " in caught.value.why
        assert "raise REPLICATOR_READ_TIMEOUT" in caught.value.do
        assert len(faults.log) == 2


async def test_a_source_that_is_not_read_does_not_stand_still() -> None:
    async with repository(the_blob, timing=Timing(read=0.4)) as (remote, faults):
        stream = await remote.open_blob(DESCRIPTOR)
        got = bytearray(await anext(stream))
        # The destination takes its time.
        await asyncio.sleep(0.6)
        async for chunk in stream:
            got += chunk
        await stream.aclose()
        assert got == CONTENT
        assert len(faults.log) == 1


@asynccontextmanager
async def a_thin_line(take: Callable[[asyncio.StreamReader], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve a registry whose system buffers next to nothing of an upload, and that takes its body by ``take``."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await take(reader)
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, sock=listener, limit=4096)
    try:
        yield "{}:{}".format(*listener.getsockname())
    finally:
        server.close()
        await cancel_all(connections)
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


async def upload(host: str, timing: Timing, observer: RequestObserver | None = None) -> None:
    def access(repository: Repository) -> Access:
        return Access(endpoint=f"http://{repository.registry}")

    async with (
        repository(the_blob) as (source, _),
        Registries(access, timing=timing, observer=observer) as registries,
    ):
        target = registries.destination(Repository(host, "team/app"))
        location = await target._transport.url("/v2/team/app/blobs/uploads/1")
        stream = await source.open_blob(DESCRIPTOR)
        try:
            await target.finish_upload(location, stream)
        finally:
            await stream.aclose()


@pytest.mark.usefixtures("way")
async def test_a_destination_that_drips_stands_still() -> None:
    async def drip(reader: asyncio.StreamReader) -> None:
        while await reader.read(1):
            await asyncio.sleep(0.05)

    async with a_thin_line(drip) as host, asyncio.timeout(60):
        with pytest.raises(ConnectionFailed) as caught:
            await upload(host, Timing(write=0.5, commit=0.5, attempts=1))
    # What the system's buffers hold counts as sent: in the end it is the answer that is missing.
    said = str(caught.value)
    assert (
        "less than 64 KiB in 0.5 s" in said and "raise REPLICATOR_READ_TIMEOUT" in said
    ) or "no answer within 0.5 s" in said


async def test_a_destination_is_given_small_pieces_each_with_a_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a thin line would need to be fast enough for a whole chunk of what was read."""
    monkeypatch.setattr("replicator.registry.upload_body.LEAST", 10**12)
    sizes: list[int] = []

    async def take(reader: asyncio.StreamReader) -> None:
        await reader.readexactly(len(CONTENT))

    async with a_thin_line(take) as host:
        await upload(host, LONG, RequestObserver(sent=lambda _, size: sizes.append(size)))
    assert sum(sizes) == len(CONTENT)
    assert max(sizes) <= PROGRESS + 1


@pytest.mark.usefixtures("way")
async def test_a_destination_that_never_answers_says_so() -> None:
    async def never(reader: asyncio.StreamReader) -> None:
        await reader.readexactly(len(CONTENT))
        await asyncio.Event().wait()

    async with a_thin_line(never) as host, asyncio.timeout(60):
        with pytest.raises(ConnectionFailed, match=r"no answer within 0\.3 s after the last byte"):
            await upload(host, Timing(write=30, commit=0.3, attempts=1))


async def test_waiting_for_the_rate_of_requests_is_no_standstill_of_a_destination(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def turn(_: HostLimits) -> None:
        await asyncio.sleep(0.7)

    async def take(reader: asyncio.StreamReader) -> None:
        await reader.readexactly(len(CONTENT))

    monkeypatch.setattr(HostLimits, "turn", turn)
    async with a_thin_line(take) as host:
        await upload(host, Timing(connect=30, read=30, write=0.5, commit=30, attempts=1))


@pytest.mark.parametrize("holder", [Flow, Rate])
async def test_holding_a_body_back_between_its_pieces_is_no_standstill_of_a_destination(
    monkeypatch: pytest.MonkeyPatch, holder: type[Flow] | type[Rate]
) -> None:
    # A thread asks by other functions, and leaves what has to wait to these.
    monkeypatch.setattr("replicator.registry.upload_body.LEAST", 10**12)
    name = "turn" if holder is Flow else "passes"
    held, let = 0, getattr(holder, name)

    async def hold(self: Any, size: int, **more: Any) -> Any:
        nonlocal held
        # One is a request, and no piece of a body.
        held += size > 1
        if held == 2:
            await asyncio.sleep(0.7)
        return await let(self, size, **more)

    async def take(reader: asyncio.StreamReader) -> None:
        await reader.readexactly(len(CONTENT))

    monkeypatch.setattr(holder, name, hold)
    async with a_thin_line(take) as host:
        await upload(host, Timing(connect=30, read=30, write=0.5, commit=30, attempts=1))
    assert held > 1


async def test_an_upload_that_gets_no_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body never begins, so that no deadline of a body does."""
    resolve = aiohttp.TCPConnector._resolve_host

    async def hang(self: aiohttp.TCPConnector, host: str, *args: Any, **more: Any) -> Any:
        await (asyncio.Event().wait() if host == "r.example" else asyncio.sleep(0))
        return await resolve(self, host, *args, **more)

    monkeypatch.setattr(aiohttp.TCPConnector, "_resolve_host", hang)
    async with asyncio.timeout(30):
        with pytest.raises(ConnectionFailed, match=r"no connection to r\.example:80 in time"):
            await upload("r.example", Timing(connect=0.1, read=0.1, attempts=1))


def test_only_waiting_without_progress_uses_up_the_time() -> None:
    standstill = Standstill()
    assert standstill.left(60) == 60
    assert not standstill.moved(PROGRESS - 1, 40)
    assert standstill.left(60) == 20
    assert standstill.moved(1, 19)
    assert standstill.left(60) == 60
    assert not standstill.moved(1, 70)
    assert standstill.left(60) == 0


async def test_work_ends_when_nothing_moves() -> None:
    with pytest.raises(
        StoodStill, match=r"nothing moved for 0\.1 s, no byte and no answer \(REPLICATOR_COPY_TIMEOUT\)"
    ):
        async with asyncio.timeout(30), ends_on_standstill(0.1):
            await asyncio.Event().wait()


async def test_work_that_moves_or_waits_does_not_end() -> None:
    async with ends_on_standstill(1.0):
        for _ in range(15):
            await asyncio.sleep(0.1)
            alive()

    async def step() -> None:
        with waiting():
            await asyncio.sleep(0.5)

    # A step of its own, as the parts of a copy are.
    async with ends_on_standstill(0.2):
        await asyncio.create_task(step())


async def test_a_timeout_of_the_work_itself_is_no_standstill() -> None:
    with pytest.raises(TimeoutError):
        async with ends_on_standstill(30), asyncio.timeout(0):
            await asyncio.sleep(30)


async def test_bytes_and_answers_show_that_work_moves() -> None:
    """A blob, and then answers, that take longer in all than a copy may stand still."""
    async with repository(the_blob, timing=LONG) as (remote, faults):
        faults.add(Fault(Trickle(len(CONTENT) // 15, 0.1), "GET", times=1))
        async with ends_on_standstill(1.0):
            assert await read(remote) == CONTENT
            for _ in range(15):
                await remote.has_blob(BLOB.digest)
                await asyncio.sleep(0.1)


async def test_waiting_for_a_place_is_no_standstill() -> None:
    async with client(timing=QUICK) as registries:
        limits = registries.destination(Repository("r.example.com", "team/app")).limits
        limits.resize(1)
        async with limits.slot(1), limits.slot():
            asking = asyncio.create_task(_in_a_slot(limits.slot))
            await asyncio.sleep(0.5)
            assert not asking.done()
        await asking


async def _in_a_slot(slot: Callable[[], object]) -> None:
    async with ends_on_standstill(0.2), slot():  # type: ignore[attr-defined]  # a place
        pass
