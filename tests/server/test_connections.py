"""The HTTP server bounds what anyone who reaches the port can send."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any, Self

import pytest
import trustme
import uvloop
from starlette.requests import Request

from replicator.networks import Certificate
from replicator.server import connections, http
from replicator.server.connections import MAX_HEAD, MAX_HEADERS, MAX_PIPELINE, trust
from replicator.server.http import Server, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MIB = 1024 * 1024


async def refusing(scope: Any, __: Any, send: Any) -> None:
    """Answer without having read the body, as to a wrong token; who shows a token is trusted."""
    if dict(scope["headers"]).get(b"authorization") == b"right":
        trust(Request(scope))
    size = 16 * MIB if scope["path"] == "/large" else 0
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": b" " * size})


@contextlib.asynccontextmanager
async def serving(
    certificate: Certificate | None = None, servers: list[Server] | None = None
) -> AsyncIterator[tuple[str, int]]:
    listening = asyncio.Event()
    server = Server(refusing, lambda _: listening.set(), certificate=certificate)
    if servers is not None:
        servers.append(server)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = listener.getsockname()
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await listening.wait()
        yield found
        server.should_exit = True
        await task


@pytest.fixture
async def address() -> AsyncIterator[tuple[str, int]]:
    async with serving() as found:
        yield found


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    file = tmp_path / "tls.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
    return Certificate(file, None)


class Client:
    """A connection of its own; ``GET`` is a request, as often as asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, address: tuple[str, int]) -> AsyncIterator[Self]:
        reader, writer = await asyncio.open_connection(*address)
        yield cls(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def get(self, *headers: str, path: str = "/", times: int = 1) -> bytes:
        """Return the first answer's status."""
        self.writer.write("\r\n".join([f"GET {path} HTTP/1.1", *headers, "", ""]).encode() * times)
        return await self.answer()

    async def answer(self) -> bytes:
        """Return the next answer's status."""
        return (await self._reader.readuntil(b"\r\n\r\n"))[9:12]

    async def rest(self) -> bytes:
        """Return what comes until the server closes."""
        found = bytearray()
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(20):
                while chunk := await self._reader.read(65_536):
                    found += chunk
        return bytes(found)


async def flood(address: tuple[str, int], head: bytes, more: bytes) -> tuple[int, bytes]:
    """Send ``head`` and then ``more`` without end; return how many bytes went, and the answer, once it is over."""
    reader, writer = await asyncio.open_connection(*address)
    sent = 0
    with contextlib.suppress(OSError):
        writer.write(head)
        while sent < 64 * MIB:
            writer.write(more)
            await writer.drain()
            sent += len(more)
    answer = b""
    with contextlib.suppress(OSError):
        answer = await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return sent, answer


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"GET /", b"a" * 65536),
        (b"GET / HTTP/1.1\r\nX: ", b"a" * 65536),
        (b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 10_000),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 10_000),
        (b"", b"\r\n" * 30_000),
    ],
    ids=["request line", "one header", "many headers", "trailers", "empty lines"],
)
async def test_everything_but_the_body_has_a_bound(address: tuple[str, int], head: bytes, more: bytes) -> None:
    sent, _ = await flood(address, head, more)
    # The buffers of the sockets between come on top of what is read.
    assert sent < 32 * MIB


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_head_is_read_in_small_pieces_up_to_its_bound_by_every_loop(
    monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    pieces: list[int] = []
    take = connections.BoundedProtocol.data_received

    def data_received(self: connections.BoundedProtocol, data: bytes) -> None:
        pieces.append(len(data))
        take(self, data)

    async def answers() -> list[bytes]:
        async with serving() as address:
            found = []
            for size in (MAX_HEAD - 1000, MAX_HEAD + 1):
                async with Client.to(address) as client:
                    found.append(await client.get("X: " + "a" * size))
            async with Client.to(address) as client:
                client.writer.write(b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b" " * 60_000)
                found.append(await client.answer())
            return found

    monkeypatch.setattr(connections.BoundedProtocol, "data_received", data_received)
    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(answers()) == [b"401", b"400", b"401"]
    assert max(pieces) <= 16 * 1024


async def test_as_many_headers_as_a_request_may_have_are_read(address: tuple[str, int]) -> None:
    async with Client.to(address) as client:
        assert await client.get(*["A: b"] * MAX_HEADERS) == b"401"
        assert await client.get(*["A: b"] * (MAX_HEADERS + 1)) == b"400"


async def test_a_pipeline_is_answered_up_to_its_bound_and_closed_beyond(address: tuple[str, int]) -> None:
    async with Client.to(address) as client:
        assert await client.get(times=1 + MAX_PIPELINE) == b"401"
        assert [await client.answer() for _ in range(MAX_PIPELINE)] == [b"401"] * MAX_PIPELINE
    async with Client.to(address) as client:
        assert await client.get(times=2 + MAX_PIPELINE) == b"400"
        assert await client.rest() == b"more than 8 requests wait for their answers"


async def test_after_its_answer_little_of_a_body_is_read(address: tuple[str, int]) -> None:
    async with Client.to(address) as client:
        assert await client.get("Content-Length: 10000000000") == b"401"
        sent = 0
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while True:
                    client.writer.write(b" " * 65_536)
                    await client.writer.drain()
                    sent += 65_536
        # The buffers of the sockets between come on top of what is read.
        assert sent < 32 * MIB


async def test_a_connection_goes_on_after_a_body_that_nobody_asked_for(
    certificate: Certificate, tmp_path: Path
) -> None:
    # With TLS more than a piece of the body is there before the answer.
    trusting = ssl.create_default_context(cafile=tmp_path / "tls.pem")
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    async with serving(certificate) as address:
        client = Client(*await asyncio.open_connection(*address, ssl=trusting))
        for _ in range(2):
            client.writer.write(b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b" " * 60_000)
            assert await client.answer() == b"401"
        client.writer.close()


async def test_an_answer_that_is_not_taken_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    servers: list[Server] = []
    async with serving(servers=servers) as address, Client.to(address) as client:
        # The reader has a buffer, and does not read on once that is full.
        await client.get(path="/large")
        async with asyncio.timeout(20):
            while servers[0].server_state.connections:
                await asyncio.sleep(0.01)
        assert len(await client.rest()) < 16 * MIB


async def test_one_connection_too_many_ends_the_longest_idle_one_that_showed_no_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "MOST_STRANGERS", 3)
    async with contextlib.AsyncExitStack() as stack, serving() as address:

        async def client() -> Client:
            made = await stack.enter_async_context(Client.to(address))
            assert await made.get() == b"401"
            return made

        harbor, first, second = [await client() for _ in range(3)]
        assert await harbor.get("Authorization: right") == b"401"
        third = await client()
        assert await first.get() == b"401"
        await client()
        # The first has asked since, and Harbor is trusted.
        assert await second.rest() == b""
        for kept in (harbor, first, third):
            assert await kept.get() == b"401"


async def test_a_tls_connection_without_a_handshake_ends(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HANDSHAKE_SECONDS", 0.2)
    async with serving(certificate) as address, Client.to(address) as client:
        assert await client.rest() == b""


async def test_connections_count_before_their_handshake(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MOST_TLS_STRANGERS", 1)
    monkeypatch.setattr(http, "HANDSHAKE_SECONDS", 600.0)
    async with serving(certificate) as address, Client.to(address) as first, Client.to(address):
        assert await first.rest() == b""


async def test_a_large_body_does_not_count_as_head(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(3):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (4 * MAX_HEAD) + b" " * 4 * MAX_HEAD)
        await writer.drain()
        assert b"401" in await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("head", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"])
async def test_a_request_that_never_arrives_or_never_ends_times_out(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(head)
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(10):
            await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("address", "families"),
    [
        (":0", {socket.AF_INET, socket.AF_INET6}),
        ("[::]:0", {socket.AF_INET, socket.AF_INET6}),
        ("0.0.0.0:0", {socket.AF_INET}),
        ("[::1]:0", {socket.AF_INET6}),
    ],
)
def test_every_address_is_that_of_ipv4_and_ipv6(address: str, families: set[socket.AddressFamily]) -> None:
    reached = set()
    with listen(address, "REPLICATOR_LISTEN") as listener:
        port = listener.getsockname()[1]
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, port), timeout=10):
                reached.add(family)
    assert reached == families
