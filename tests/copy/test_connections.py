"""Connections are reused, even with registries that answer instantly."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pytest
import uvloop

from replicator.copy.blobs import BlobCopier
from replicator.copy.context import CopyContext
from replicator.copy.ledger import Ledger
from replicator.reference import Reference
from replicator.registry import Access, Descriptor, Registries
from replicator.registry.manifest import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWERS = {
    b"GET": b"200 OK\r\nContent-Length: %d\r\n\r\n%s",
    b"POST": b"202 Accepted\r\nContent-Length: 0\r\nLocation: /v2/a/blobs/uploads/x\r\n\r\n",
    b"PUT": b"201 Created\r\nContent-Length: 0\r\n\r\n",
}


class Instant(asyncio.Protocol):
    """A registry that answers as soon as it has the last byte."""

    connections = 0

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        Instant.connections += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if not end or len(rest) < size:
            return
        self._received = rest[size:]
        method = head.partition(b" ")[0]
        answer = ANSWERS[method]
        self._transport.write(b"HTTP/1.1 " + (answer % (len(self._blob), self._blob) if method == b"GET" else answer))


@contextmanager
def instant(blob: bytes) -> Iterator[str]:
    """Run one in its own thread: it answers while the client is still busy."""
    Instant.connections = 0
    loop = uvloop.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    server = loop.run_until_complete(loop.create_server(lambda: Instant(blob), sock=listener))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [300, 500_000])
def test_one_blob_after_the_other_needs_no_new_connection(size: int) -> None:
    """A body whose end is noticed later than its answer would cost its connection each time."""
    with instant(bytes(size)) as host:
        uvloop.run(_send(host, bytes(size), times=100))
    # One is read from while another is written to.
    assert Instant.connections <= 2


async def _send(host: str, blob: bytes, times: int) -> None:
    descriptor = Descriptor("application/octet-stream", digest_of(blob), len(blob))
    source, destination = (Reference.parse(f"{end}.example.com/a:v1") for end in ("source", "destination"))
    async with Registries(lambda _: Access(endpoint=f"http://{host}")) as registries:
        for _ in range(times):
            context = CopyContext.open(registries, source, destination)
            await BlobCopier(Ledger()).ensure([descriptor], context)
            assert context.tally.blobs_copied == 1
