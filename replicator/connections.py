"""Connections to the webhook, bounded before anyone has shown who they are.

uvicorn bounds neither the head of a request nor the time that one may take to arrive: whoever reaches the port could
fill the memory with headers, or hold every connection by sending nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from replicator.networks import plain_address

if TYPE_CHECKING:
    import asyncio

MAX_HEAD = 64 * 1024
"""Bytes of a request that are not its body: request line, headers, chunk sizes, trailers."""
REQUEST_SECONDS = 15.0
"""For a request to arrive, from a connection's start or the request's first byte; more than its body alone may take."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's connection over httptools, closed when its request is too large beside the body, or too slow."""

    _deadline: asyncio.TimerHandle | None = None
    _beside_body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        if self.client is not None:
            # Lists of addresses name an IPv4 sender as what it is, on a socket for both too.
            self.client = (plain_address(self.client[0]), self.client[1])
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request, unless it is too much."""
        if self.transport.is_closing():
            return
        if self._deadline is None:
            self._wait()
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > MAX_HEAD and not self.transport.is_closing():
            self.logger.warning("HTTP request refused: more than %d bytes beside its body", MAX_HEAD)
            self.send_400_response(f"more than {MAX_HEAD} bytes beside the body")

    def on_body(self, body: bytes) -> None:
        """Leave the body to the application, which bounds it."""
        self._beside_body -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait no more: the request is here."""
        self._beside_body = 0
        self._wait_no_more()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse, and close; a request that is still being answered has no one left to answer to."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        super().send_400_response(msg)

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
