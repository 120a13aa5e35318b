"""The body of an answer: read by aiohttp, or below it by the event loop or a thread."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import aiohttp

from replicator.registry.pump import CHUNK, RawConnection

if TYPE_CHECKING:
    from replicator.registry.circuit import Contact
    from replicator.retry import Standstill


class AnswerBody:
    """The body of an answer: read by aiohttp, or below it once it was taken over.

    Args:
        response: the answer.

    Attributes:
        response: the same.
        raw: the connection, if it was taken over and there is more to come.
        fault: the error that ended a receiving thread.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.raw: RawConnection | None = None
        self.fault: OSError | None = None
        self.response = response
        self._read = b""

    async def take_over(self) -> None:
        """Take the rest over from the event loop, if it is long, and of known length."""
        response = self.response
        connection, content, length = response.connection, response.content, response.content_length
        if connection is None or connection.protocol is None or length is None or content.exception() is not None:
            return
        if "Transfer-Encoding" in response.headers or length - content.total_bytes < CHUNK:
            return
        raw = RawConnection.below(connection.transport, length)
        if raw is None:
            return
        read = bytearray()
        # Reading goes on as the buffer empties, which may fill it once more with what was received already.
        with contextlib.suppress(aiohttp.ClientError):
            while piece := content.read_nowait():
                read += piece
        self._read, raw.left = bytes(read), length - content.total_bytes
        if not raw.left or content.exception() is not None or connection.protocol is None:
            raw.close()
            return
        self.raw = raw
        connection.protocol.pause_reading()
        # What was scheduled before ends first.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raw.pause_loop()

    @property
    def is_direct(self) -> bool:
        """Whether a thread can continue reading."""
        return self.raw is not None and self.fault is None and not self._read

    async def receive(self) -> bytes:
        """Return bytes as they arrive; none at the end.

        Raises:
            aiohttp.ClientError, OSError: the connection broke.
        """
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        if self._read:
            read, self._read = self._read, b""
            return read
        if self.raw is None:
            return await self.response.content.readany()
        buffer, raw = memoryview(bytearray(CHUNK)), self.raw
        while (count := raw.receive(buffer)) is None:
            await raw.readable()
            if self.raw is not raw:
                return b""
        self.finish()
        return bytes(buffer[:count])

    def receive_in_thread(
        self, buffer: memoryview, standstill: Standstill, seconds: float, contact: Contact, other: RawConnection
    ) -> int:
        """Receive bytes in a thread; 0 at the end, or if there is a `fault`, or the other connection has news.

        Args:
            buffer: for the bytes.
            standstill: of the other side.
            seconds: its limit.
            contact: notes when the other side has to act.
            other: the connection that the bytes go to.
        """
        assert self.raw is not None, "only if `is_direct`"  # noqa: S101 - the caller checks
        try:
            while (count := self.raw.receive(buffer)) is None:
                began = time.monotonic()
                contact.moved(waits=True)
                try:
                    self.raw.wait(sending=False, seconds=standstill.left(seconds), other=other)
                finally:
                    standstill.moved(0, time.monotonic() - began)
                contact.moved(waits=False)
                if other.has_news:
                    return 0
        except OSError as error:
            self.fault = error
            return 0
        return count

    def finish(self) -> None:
        """Give the connection back to aiohttp, if all was read."""
        if self.raw is not None and not self.raw.left:
            connection = self.response.connection
            if self.raw.has_more() and connection is not None and connection.protocol is not None:
                # It would be taken for the answer to the next request.
                connection.protocol.force_close()
            self.leave()
            self.response.content.feed_eof()

    def leave(self) -> None:
        """Leave the rest; aiohttp then closes the connection."""
        if self.raw is not None:
            self.raw.resume_loop()
            self.raw.close()
            self.raw = None
