"""A proxy that delays every request."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_CHUNK = 64 * 1024
_CHUNKS = 64
"""How many are under way at once on a connection: the wire delays, and has to be far from slowing down."""


@asynccontextmanager
async def delayed(host: str, seconds: float) -> AsyncIterator[str]:
    """Have a port that leads to a server, for as long as the context lasts.

    What a client sends arrives ``seconds`` later, at the pace it was sent; what the server answers is not delayed,
    and a connection is had at once. So a request and its answer together take just so much longer.

    Args:
        host: ``127.0.0.1:PORT`` of the server.
        seconds: the delay.

    Yields:
        ``127.0.0.1:PORT``.
    """
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(_connect(reader, writer, host, seconds))
        connections.add(connection)
        connection.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        left = list(connections)
        for connection in left:
            connection.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await server.wait_closed()


async def _connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, seconds: float) -> None:
    address, _, port = host.rpartition(":")
    async with _closing(writer):
        with contextlib.suppress(OSError):
            behind, there = await asyncio.open_connection(address, int(port))
            async with _closing(there):
                # Either side may say that it has no more to send, and still listen.
                await asyncio.gather(_pass_on_later(reader, there, seconds), _pass_on(behind, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


async def _pass_on_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS)
    clock = asyncio.get_running_loop().time

    async def send() -> None:
        chunk = await reader.read(_CHUNK)
        while chunk:
            await under_way.put((clock() + seconds, chunk))
            chunk = await reader.read(_CHUNK)
        await under_way.put((clock() + seconds, b""))

    async def arrive() -> None:
        due, chunk = await under_way.get()
        while chunk:
            await asyncio.sleep(due - clock())
            writer.write(chunk)
            await writer.drain()
            due, chunk = await under_way.get()
        writer.write_eof()

    await asyncio.gather(send(), arrive())


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
