"""The HTTP server bounds what anyone who reaches the port can send."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from replicator.server import http as connections
from replicator.server.http import MAX_HEAD, BoundedProtocol, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MIB = 1024 * 1024


async def refusing(_: Any, __: Any, send: Any) -> None:
    """Answer without having read the body, as to a wrong token."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


class Server(uvicorn.Server):
    """One that leaves the signals to the tests."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
async def address() -> AsyncIterator[tuple[str, int]]:
    config = uvicorn.Config(refusing, http=BoundedProtocol, ws="none", lifespan="off", log_config=None)
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield listener.getsockname()
        server.should_exit = True
        await serving


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
