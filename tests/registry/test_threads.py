"""Large blobs that a thread moves, past the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import ssl
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop
from aiohttp import web
from yarl import URL

from replicator import tasks
from replicator.reference import Repository
from replicator.registry import Access, Descriptor, Registries, RegistryError, RequestObserver, Timing
from replicator.registry.blob_checks import BlobHash
from replicator.registry.flow import Flow
from replicator.registry.proxies import Proxies
from replicator.registry.pump import TlsObject
from replicator.registry.rate import Rate, Rates
from replicator.timetable import HostTimetables, parse_bandwidth
from tests.registry.conftest import served
from tests.standins.faults import Answer, Corrupt, Cut, CutUpload, Fault, FaultLayer, Raw
from tests.standins.images import layer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BLOB = layer(1, 6_000_000)
CONTENT = BLOB.read()
DESCRIPTOR = Descriptor(BLOB.media_type, BLOB.digest, BLOB.size)
PATIENT = Timing(connect=30, read=30, write=30, commit=30, attempts=1)


class Ends:
    """A source and a destination, each a repository of its own registry.

    Attributes:
        sending: the source's faults.
        taking: the destination's.
        taken: the bodies that the destination has got.
    """

    def __init__(self, registries: Registries, sending: tuple[str, FaultLayer], taking: tuple[str, FaultLayer]) -> None:
        self._source = registries.source(Repository(sending[0], "team/app"))
        self.target = registries.destination(Repository(taking[0], "team/app"))
        self.sending, self.taking = sending[1], taking[1]
        self.taken: list[bytes] = []

    async def upload(self) -> None:
        location = await self.target._transport.url("/v2/team/app/blobs/uploads/1")
        stream = await self._source.open_blob(DESCRIPTOR)
        try:
            await self.target.finish_upload(location, stream)
        finally:
            await stream.aclose()


@asynccontextmanager
async def both(
    *, secure: bool, timing: Timing = PATIENT, after: bytes | None = None, **options: Any
) -> AsyncIterator[Ends]:
    taken: list[bytes] = []

    async def send(request: web.BaseRequest) -> web.StreamResponse:
        begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
        rest = CONTENT[begin:] if after is None or not begin else CONTENT[begin:-1] + after
        headers = {"Content-Range": f"bytes {begin}-{begin + len(rest) - 1}/*"} if begin else {}
        return web.Response(status=206 if begin else 200, body=rest, headers=headers)

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        taken.append(await request.read())
        return web.Response(status=201)

    tls, ca = None, trustme.CA()
    if secure:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(tls)
    with ca.cert_pem.tempfile() as ca_file:

        def access(repository: Repository) -> Access:
            _, _, port = repository.registry.rpartition(":")
            where = f"https://localhost:{port}" if secure else f"http://{repository.registry}"
            return Access(endpoint=where, ca_file=Path(ca_file))

        async with (
            served(send, tls=tls) as source,
            served(take, tls=tls) as target,
            Registries(access, timing=timing, **options) as registries,
        ):
            ends = Ends(registries, (source.host, source.faults), (target.host, target.faults))
            ends.taken = taken
            yield ends


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The runs of threads."""
    runs: list[int] = []

    async def counted(*given: Any) -> Any:
        runs.append(1)
        return await tasks.in_thread(*given)

    monkeypatch.setattr("replicator.registry.blob_stream.in_thread", counted)
    return runs


def no_thread_is_left() -> bool:
    return not any(thread.name == "body" for thread in threading.enumerate())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_blob_that_breaks_on_its_way_arrives_whole(
    loop: Callable[[], asyncio.AbstractEventLoop], secure: bool, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    received: list[int] = []
    sent: list[int] = []
    observer = RequestObserver(received=lambda _, size: received.append(size), sent=lambda _, size: sent.append(size))

    async def run() -> None:
        async with both(secure=secure, observer=observer) as ends:
            ends.sending.add(Fault(Cut(2_500_000, "reset")))
            for _ in range(2):
                await ends.upload()
            assert ends.taken == [CONTENT] * 2
            assert len(ends.sending.log) == 3

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
    assert len(used) >= 3
    assert sum(sent) == 2 * len(CONTENT)
    assert sum(received) >= 2 * len(CONTENT)
    assert no_thread_is_left()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_refusal_in_mid_body_is_read(secure: bool, used: list[int]) -> None:
    async with both(secure=secure) as ends:
        ends.taking.add(Fault(CutUpload(2_000_000, Answer(413)), "PUT"))
        with pytest.raises(RegistryError) as caught:
            await ends.upload()
        assert caught.value.status == 413
    assert used
    assert no_thread_is_left()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_refusal_is_read_while_the_source_stands_still(
    secure: bool, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        got = 0
        while got < 3_900_000:
            got += len(await request.content.readany())
        await asyncio.sleep(0.2)
        return web.Response(status=413)

    async with both(secure=secure) as ends:
        ends.sending.add(Fault(Cut(4_000_000, "stall")))
        monkeypatch.setattr(ends.taking, "_handler", refuse)
        async with asyncio.timeout(20):
            with pytest.raises(RegistryError) as caught:
                await ends.upload()
        assert caught.value.status == 413
    assert used


async def test_wrong_bytes_never_arrive_whole(used: list[int]) -> None:
    async with both(secure=False) as ends:
        ends.sending.add(Fault(Corrupt(3_000_000)))
        with pytest.raises(RegistryError, match="do not hash to"):
            await ends.upload()
        assert not ends.taken
    assert used


@pytest.mark.parametrize("more", [1, 300_000])
async def test_a_rest_that_is_longer_than_the_blob_never_arrives_whole(
    more: int, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    async with both(secure=False, after=b"X" * (1 + more)) as ends:
        ends.sending.add(Fault(Cut(2_500_000, "reset")))
        with pytest.raises(RegistryError, match="the blob served is longer") as caught:
            await ends.upload()
        assert caught.value.registry == ends._source.repository.registry
        assert not ends.taken
    assert len(used) > 1


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_connection_with_more_than_the_body_is_not_used_again(secure: bool, used: list[int]) -> None:
    async with both(secure=secure) as ends:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
        ends.sending.add(Fault(Raw(head % len(CONTENT) + CONTENT + head % 0, then="stall"), "GET"))
        await ends.upload()
        async with asyncio.timeout(20):
            assert await ends._source.has_blob(BLOB.digest)
        assert ends.taken == [CONTENT]
    assert used


def test_bytes_that_are_hashed_late_do_not_count_after_going_back() -> None:
    state = BlobHash(BLOB.digest)
    state.mark(0)
    late = state.update
    state.go_back(0)
    late(b"late")
    state.update(CONTENT)
    assert state.is_right


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("end", ["source", "destination"])
async def test_a_cancelled_blob_leaves_no_thread(
    secure: bool, end: str, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_alone: list[bool] = []

    def unwrap(tls: TlsObject) -> None:
        closed_alone.append(no_thread_is_left())
        ssl.SSLObject.unwrap(tls)

    # OpenSSL allows one thread at a time.
    monkeypatch.setattr(TlsObject, "unwrap", unwrap)
    async with both(secure=secure) as ends:
        if end == "source":
            ends.sending.add(Fault(Cut(4_000_000, "stall")))
        else:
            ends.taking.add(Fault(CutUpload(1_000_000, "stall"), "PUT"))
        task = asyncio.create_task(ends.upload())
        async with asyncio.timeout(30):
            while not used:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.timeout(10):
                await task
        assert no_thread_is_left()
    assert all(closed_alone)


async def test_what_has_to_wait_goes_by_the_event_loop_in_order(
    used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    delay, asked = Flow.delay, 0

    def held_now_and_then(self: Flow, size: int) -> float:
        nonlocal asked
        asked += 1
        return 0.001 if asked % 7 == 0 else delay(self, size)

    monkeypatch.setattr(Flow, "delay", held_now_and_then)
    async with both(secure=True) as ends:
        await ends.upload()
        assert ends.taken == [CONTENT]
    assert len(used) > 1


async def test_a_limit_that_begins_ends_the_threads_part(used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    rates, spent = Rates(), 0
    ask = Rate.ask

    def limited_soon(self: Rate, size: int, *, bulk: bool) -> float:
        nonlocal spent
        spent += size
        if 1_000_000 < spent < 2_000_000:
            rates.renew(parse_bandwidth("50MiB/s"), HostTimetables())
        return ask(self, size, bulk=bulk)

    monkeypatch.setattr(Rate, "ask", limited_soon)
    passes = 0
    original = Rate.passes

    async def counted(self: Rate, size: int, *, bulk: bool) -> None:
        nonlocal passes
        passes += size > 1
        await original(self, size, bulk=bulk)

    monkeypatch.setattr(Rate, "passes", counted)
    async with both(secure=False, rates=rates) as ends:
        await ends.upload()
        assert ends.taken == [CONTENT]
    assert used
    # Pieces of 64 KiB at the most, of the larger part of the body.
    assert passes > 50


async def test_beyond_the_most_threads_the_event_loop_moves_a_blob(
    used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MOST_THREADS", 0)
    async with both(secure=True) as ends:
        await ends.upload()
        assert ends.taken == [CONTENT]
    assert not used


async def test_where_the_system_has_no_thread_left_the_event_loop_moves_a_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        # Those that look up names and hash are there already.
        if thread.name == "body":
            raise RuntimeError("can't start new thread")
        start(thread)

    async with both(secure=False) as ends:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        await ends.upload()
        monkeypatch.undo()
        assert ends.taken == [CONTENT]


async def test_where_no_file_descriptor_is_left_the_event_loop_moves_a_blob(
    used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async with both(secure=True) as ends:
        monkeypatch.setattr(os, "dup", refuse)
        await ends.upload()
        monkeypatch.undo()
        assert ends.taken == [CONTENT]
    assert not used


async def test_a_source_that_stops_sending_is_told_from_a_silent_destination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.retry.backoff", lambda *_, **__: 0.0)
    monkeypatch.setattr("replicator.registry.blob_stream._MAX_STALLS", 0)
    impatient = Timing(connect=30, read=0.3, write=30, commit=30, attempts=1)
    async with both(secure=False, timing=impatient) as ends:
        ends.sending.add(Fault(Cut(4_000_000, "stall"), times=None))
        with pytest.raises(
            RegistryError, match=r"stopped sending bytes: less than 64 KiB in 0\.3 s, after 4"
        ) as caught:
            await ends.upload()
        assert caught.value.registry == ends._source.repository.registry


def test_tls_in_tls_is_left_to_aiohttp() -> None:
    target = URL("https://r.example.com/v2/")
    assert Proxies().are_direct(target)
    assert Proxies.parse("http://proxy.example.com:3128").are_direct(target)
    assert not Proxies.parse("https://proxy.example.com:3128").are_direct(target)
