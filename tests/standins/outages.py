"""Hosts that make trouble: a proxy that refuses what comes too often, and registries that say nothing."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(slots=True)
class Limit:
    """What a proxy lets pass, and how often it did not.

    Attributes:
        rate: requests a second.
        burst: requests that may come at once.
        passed: how many it let pass.
        refused: how many it answered with 503, without Retry-After, as nginx's ``limit_req`` does.
    """

    rate: float
    burst: int = 30
    passed: int = 0
    refused: int = 0

    @asynccontextmanager
    async def before(self, host: str) -> AsyncIterator[str]:
        """Have the proxy before a server, for as long as the context lasts."""
        left, at = float(self.burst), time.monotonic()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal left, at
            now = time.monotonic()
            left, at = min(self.burst, left + (now - at) * self.rate), now
            if left < 1:
                self.refused += 1
                return web.Response(status=503, text="<html><center><h1>503 Service Temporarily Unavailable</h1>")
            left -= 1
            self.passed += 1
            return await upstream.forward(request)

        async with Upstream(host) as upstream, serve(handle) as front:
            yield front


@asynccontextmanager
async def deaf() -> AsyncIterator[str]:
    """Have a host that takes no connection: whoever connects waits, as with packets that a firewall drops."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            yield "{}:{}".format(*listener.getsockname())
        finally:
            for filler in fillers:
                filler.close()


@asynccontextmanager
async def mute() -> AsyncIterator[str]:
    """Have a host that takes every connection and every byte, and says nothing."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                pass
        except (OSError, asyncio.CancelledError):
            pass
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield "{}:{}".format(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
