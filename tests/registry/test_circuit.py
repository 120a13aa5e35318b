"""A host that does not answer: its circuit opens, one probe at a time goes through, and the first answer closes it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from yarl import URL

from replicator.reference import Repository
from replicator.registry import Access, Registries, RequestObserver, Timing, circuit
from replicator.registry.circuit import Circuit, Silence
from replicator.registry.errors import ConnectionFailed, HostSilent, RegistryError, ServerFailed
from replicator.registry.limits import HostLimits
from tests.queue.servers import free_port
from tests.registry.conftest import QUICK, served
from tests.standins.faults import Answer, Fault, Hold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from replicator.registry import RemoteRepository

HASTY = Timing(connect=0.1, read=0.1, write=0.1, commit=5, tag=1, attempts=1)


class Mute:
    """A server that takes connections and says nothing, until it is told to answer."""

    def __init__(self) -> None:
        self.connections = 0
        self.answers = False
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        if self.answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

    async def connected(self, number: int) -> None:
        """Wait for so many connections, and fail if there are more."""
        async with asyncio.timeout(10):
            while self.connections < number:
                await asyncio.sleep(0.01)
        assert self.connections == number

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def mute() -> AsyncIterator[tuple[Mute, str]]:
    handler = Mute()
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        yield handler, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        handler.close()


@asynccontextmanager
async def reaching(
    host: str, timing: Timing = HASTY, silent: Callable[[str, Silence | None], None] | None = None, **access: Any
) -> AsyncIterator[tuple[RemoteRepository, HostLimits]]:
    """Open a repository at ``host``, and the limits of the host."""
    way = Access(**({"endpoint": f"http://{host}"} | access))
    async with Registries(lambda _: way, timing=timing, observer=RequestObserver(silent=silent)) as registries:
        remote = registries.destination(Repository(host, "team/app"))
        yield remote, remote.limits


async def nothing(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=404)


async def fails(remote: RemoteRepository) -> RegistryError:
    with pytest.raises(RegistryError) as failed:
        await remote.has_blob("sha256:" + "0" * 64)
    return failed.value


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have probes follow each other at once."""
    monkeypatch.setattr(circuit, "_FIRST_PAUSE", 0.0)


async def test_after_a_few_silences_nothing_is_sent_to_the_host() -> None:
    async with mute() as (server, host), reaching(host) as (remote, limits):
        for _ in range(3):
            assert "stopped answering" in str(await fails(remote))
        error = await fails(remote)
        assert isinstance(error, HostSilent)
        assert error.registry == host
        assert "has not answered since" in str(error)
        await server.connected(3)
        assert limits.silence is not None
        assert limits.silence.is_open


async def test_a_small_upload_that_is_not_answered_is_a_silence_too() -> None:
    timing = Timing(connect=5, read=5, write=5, commit=0.4, attempts=1)
    async with mute() as (_, host), reaching(host, timing) as (remote, limits):
        with pytest.raises(ConnectionFailed, match="stopped answering"):
            await remote.put_blob(URL(f"http://{host}/v2/team/app/blobs/uploads/1"), "sha256:" + "0" * 64, b"{}")
        assert limits.silence is not None


async def test_what_was_in_flight_together_is_one_silence() -> None:
    async with mute() as (server, host), reaching(host) as (remote, limits):
        await asyncio.gather(*(fails(remote) for _ in range(10)))
        await server.connected(10)
        assert limits.silence is not None
        assert not limits.silence.is_open


@pytest.mark.usefixtures("swift")
async def test_one_probe_at_a_time_goes_through_and_the_first_answer_closes_the_circuit() -> None:
    async with mute() as (server, host), reaching(host) as (remote, limits):
        for _ in range(3):
            await fails(remote)
        errors = await asyncio.gather(*(fails(remote) for _ in range(5)))
        assert [isinstance(error, HostSilent) for error in errors].count(False) == 1
        await server.connected(4)
        server.answers = True
        limits.circuit()._probe_at = 0.0
        assert await remote.has_blob("sha256:" + "0" * 64) is False
        assert limits.silence is None


async def test_probes_come_with_growing_pauses_of_a_minute_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(circuit, "time", SimpleNamespace(monotonic=lambda: now, time=lambda: now))
    found = Circuit("r.example", "r.example")
    pauses = []
    error = ConnectionFailed("no connection in time")
    error.silent = True
    for _ in range(14):
        with suppress(ConnectionFailed), found.contact():
            now += 10
            raise error
        silence = found.silence
        assert silence is not None
        if silence.is_open:
            pauses.append(silence.probe_in)
            with pytest.raises(HostSilent), found.contact():
                raise AssertionError("sent before its time")
            now += silence.probe_in + 0.001
    assert all(0.8 * 2**n <= pause <= 2**n for n, pause in enumerate(pauses[:6]))
    assert max(pauses) <= 60
    assert min(pauses[6:]) >= 48


async def test_an_error_of_the_host_is_an_answer() -> None:
    async with served(nothing) as server:
        server.faults.add(Fault(Answer(500), times=None))
        async with reaching(server.host, QUICK) as (remote, limits):
            for _ in range(5):
                assert isinstance(await fails(remote), ServerFailed)
            assert limits.silence is None


async def test_a_request_that_alone_gets_lost_is_no_silence_of_the_host() -> None:
    async with served(nothing) as server:
        hold = server.faults.add(Fault(Hold(), "HEAD", "/blobs/", times=1))
        async with reaching(server.host, Timing(connect=2, read=0.5, attempts=1)) as (remote, limits):
            lost = asyncio.create_task(fails(remote))
            while not hold.hits:
                await asyncio.sleep(0)
            while not lost.done():
                await remote.has_blob("sha256:" + "1" * 64)
            assert "stopped answering" in str(lost.result())
            assert limits.silence is None
            assert isinstance(hold.action, Hold)
            hold.action.released.set()


async def test_refused_connections_open_the_circuit_too() -> None:
    async with reaching(f"127.0.0.1:{free_port()}") as (remote, _):
        for _ in range(3):
            assert "can't connect" in str(await fails(remote))
        assert isinstance(await fails(remote), HostSilent)


async def test_a_silence_ends_an_attempt_whose_work_can_wait_in_a_queue() -> None:
    news: list[Silence | None] = []
    patient = Timing(connect=0.1, read=0.1, attempts=4)
    async with (
        mute() as (server, host),
        reaching(host, patient, lambda registry, silence: news.append(silence)) as (remote, _),
    ):
        error = await fails(remote)
        await server.connected(1)
        assert error.wait is not None
        assert error.wait.key == host
        assert news[-1] is not None
        server.answers = True
        await remote.has_blob("sha256:" + "0" * 64)
        assert news[-1] is None
    async with mute() as (server, host), reaching(host, patient) as (remote, _):
        await fails(remote)
        await server.connected(3)


async def test_a_list_is_not_given_up_at_one_silence_since_no_queue_takes_it_back() -> None:
    async def tags(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"tags": ["v1"]})

    async with served(tags) as server:
        server.faults.add(Fault(Hold(), "GET", "/tags/list", times=2))
        timing = Timing(connect=10, read=0.2, write=1, commit=5, attempts=3)
        async with reaching(server.host, timing, lambda *_: None) as (remote, _):
            with pytest.raises(ConnectionFailed):
                [tag async for tag in remote.tags()]
            assert server.faults.log.count("GET") == 1
            assert [tag async for tag in remote.tags(patient=True)] == ["v1"]


async def test_a_host_that_stalls_is_told_of_before_the_request_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr("replicator.registry.transport.STALL", 0.05)
    heard: asyncio.Queue[Silence | None] = asyncio.Queue()
    hold = Hold()
    async with served(nothing) as server:
        server.faults.add(Fault(hold, "HEAD", times=1))
        async with reaching(server.host, Timing(), lambda _, silence: heard.put_nowait(silence)) as (remote, _):
            request = asyncio.create_task(remote.has_blob("sha256:" + "0" * 64))
            async with asyncio.timeout(10):
                silence = await heard.get()
            assert silence is not None
            assert not silence.is_open
            assert not request.done()
            hold.released.set()
            async with asyncio.timeout(10):
                assert await heard.get() is None
            await request


async def test_only_a_short_request_without_an_answer_is_a_reason_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(circuit, "time", SimpleNamespace(monotonic=lambda: now, time=lambda: now))
    found = Circuit("r.example", "r.example")
    with found.contact(circuit.SLOW_STALL):
        now += 20
        found._look()
        silence = found.silence
        assert silence is not None, "a short request is sent to see"
        assert silence.why == "", "but a large layer may take long to be stored"
        with found.contact():
            now += 2
            found._look()
            assert found.silence is not None
            assert found.silence.why == ""
            now += 2
            found._look()
            assert found.silence is not None
            assert found.silence.why == "no answer yet"
            assert found.silence.since == silence.since
        assert found.silence is None


async def test_first_contacts_of_an_insecure_host_share_one_discovery_and_its_failure() -> None:
    async with mute() as (server, host):
        async with reaching(host, HASTY, endpoint=None, insecure=True) as (remote, _):
            errors = await asyncio.gather(*(fails(remote) for _ in range(20)))
        assert all(isinstance(error, ConnectionFailed) for error in errors)
        assert len({id(error) for error in errors}) == 20, "each has an error of its own"
        await server.connected(2)


async def test_the_silence_of_a_storage_is_told_apart_from_an_answer_of_the_registry() -> None:
    limits = HostLimits(4, "r.example")
    for _ in range(3):
        limits.circuit("storage.example").silent(ConnectionFailed("no connection"), 0.0)
        limits.circuit().heard()
    assert limits.silence is not None
    assert limits.silence.host == "storage.example"
    with (
        pytest.raises(HostSilent, match=r"storage\.example has not answered"),
        limits.circuit("storage.example").contact(),
    ):
        pass
    with limits.circuit().contact():
        pass


async def test_circuits_of_a_registry_are_bounded() -> None:
    limits = HostLimits(4, "r.example")
    for number in range(100):
        limits.circuit(f"bucket-{number}.example").heard()
    assert len(limits._circuits) <= 16
