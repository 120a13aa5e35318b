"""Blob bytes in flight: read, verified, resumed, and handed to an upload without ever being held whole."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self, TypeVar

import aiohttp

from replicator.registry.answer_body import AnswerBody
from replicator.registry.blob_checks import BlobHash, Unpacker, check_range
from replicator.registry.connection import is_gzip, packing, packing_advice
from replicator.registry.connection_errors import connection_words
from replicator.registry.errors import ConnectionFailed, DigestMismatch, RegistryError
from replicator.registry.manifest import embedded
from replicator.registry.pump import CHUNK
from replicator.retry import PROGRESS, Standstill, alive, how_far, is_transient, retrying, standstill_words
from replicator.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from replicator.registry.circuit import Contact
    from replicator.registry.connection import Request
    from replicator.registry.manifest import Descriptor
    from replicator.registry.pump import RawConnection
    from replicator.registry.transport import Transport

    Send = Callable[[memoryview], int]

T = TypeVar("T")

_HASH_INLINE = 64 * 1024
"""Bytes below which a hop into a thread costs more than hashing in the event loop."""
_MAX_STALLS = 5
"""Broken reads in a row, without one byte of progress, that are resumed; and standstills without 64 KiB in between."""
_LIMITED = "a proxy on the way may limit the size or the time of a download: raise its limit"


class BlobStream:
    """The bytes of one blob, as an asynchronous iterator of chunks.

    The last chunk is given out only after all bytes have hashed to the blob's digest, so an upload with a
    Content-Length can't complete a corrupt body. A broken connection is resumed where it broke by a Range request
    (RFC 9110, section 14), or from the start if the server does not support ranges; ``size`` bounds it all. The
    source is not asked for content that the manifest embeds. For an upload that resumes where it broke see `rewind`.

    Args:
        transport: the way to the registry.
        request: a GET of the blob.
        blob: its digest and size.
        on_bytes: called with the number of bytes as they arrive.

    Attributes:
        error: the error that ended the stream early, if there was one.
        given: bytes given out so far.
    """

    def __init__(
        self,
        transport: Transport,
        request: Request,
        blob: Descriptor,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self.blob = blob
        self.error: RegistryError | None = None
        self.given = 0
        self._transport = transport
        self._request = request
        self._on_bytes = on_bytes or (lambda _: None)
        self._content, _ = embedded(blob)
        self._hash = BlobHash(blob.digest)
        self._hashing: asyncio.Future[None] | None = None
        # After a rewind: bytes that were read beyond the place where two readings are compared, and the number of bytes
        # to verify again but not to give out again.
        self._beyond, self._withheld = b"", 0
        # The last chunk that was read; given out when the next one has arrived, or the digest is verified.
        self._held = b""
        self._offset = 0
        self._skip = 0  # bytes to drop after a restart from the first byte
        self._standstill = Standstill()
        self._standstills = 0
        self._breaks, self._broken_at = 0, 0  # how often it broke at about the same byte, and at which
        # Set where the answer is said to be packed; a packed one knows no ranges of the blob.
        self._unpacker: Unpacker | None = None
        self._packed, self._encoding = False, ""
        self._exchange = AsyncExitStack()
        self._closed = False
        self._direct = False  # whether it is read below aiohttp where that is possible
        self._body: AnswerBody | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            with self._transport.context(self._request):
                return await self._next_verified()
        except RegistryError as error:
            self.error = error
            raise

    async def open(self) -> None:
        """Send the first request, so that a source that refuses does so before an upload has begun.

        Raises:
            RegistryError: the source has no such blob, or can't be reached.
        """
        with self._transport.context(self._request):
            if self._content is None:
                await self._retrying(self._connect)

    async def rewind(self, offset: int) -> None:
        """Give out the bytes from ``offset`` on once more, for an upload that resumes there.

        They are read from the source a second time. Both readings must agree on all that the upload has already, and
        the blob's digest covers the second one to its end. So all bytes of the upload are verified as strictly as
        bytes that were read once: a source that serves other bytes the second time ends the stream.

        Args:
            offset: at most ``given``.
        """
        assert offset <= self.given, "nothing is rewound forwards"  # noqa: S101 - the caller checks
        await self._leave()
        self._hashing, self._held, self._beyond = None, b"", b""
        self._offset = self._hash.go_back(offset)
        self._withheld = offset - self._offset
        self._skip = 0
        self.given, self.error = offset, None

    async def aclose(self) -> None:
        """Give the connection back; a read in progress ends."""
        self._closed = True
        await self._leave()

    async def _leave(self) -> None:
        self._drop_body()
        await self._exchange.aclose()

    def _drop_body(self) -> None:
        if self._body is not None:
            self._body.leave()
        self._body = None

    async def go_direct(self) -> bool:
        """Read below aiohttp from now on, where that is possible; return False if it is not for now."""
        self._direct = True
        if self._body is None:
            return self._content is None
        if self._unpacker is None and self._transport.is_direct(self._body.response.url):
            await self._body.take_over()
        return self._body.raw is not None

    @property
    def is_direct(self) -> bool:
        """Whether `pour` can go on: no bytes are in other hands, and none have to be compared with earlier ones."""
        others = self._beyond or self._withheld or self._skip or self._hash.compared_at is not None
        return self._body is not None and self._body.is_direct and not others

    async def hand_over(self) -> bytes:
        """Give out what was held back, as more has to come: the last step before `pour`."""
        await self._hashed()
        ready, self._held = self._held, b""
        return self._give(ready)

    async def pour(self, send: Send, destination: RawConnection, report: Callable[[], None]) -> bytes | None:
        """Receive and hash bytes in a thread, and have them sent there. The blob's last chunk is left to the iterator.

        Args:
            send: sends a chunk in the thread, and returns how much of it; less than all ends this.
            destination: the connection that it uses.
            report: called now and then in the event loop.

        Returns:
            The rest of that chunk; None if the iterator has to continue.
        """
        body, reported = self._body, self._offset
        assert body is not None and body.raw is not None, "only if `is_direct`"  # noqa: S101, PT018 - the caller checks
        source, circuit = body.raw, self._transport.circuit(body.response.url)

        def report_both() -> None:
            nonlocal reported
            if moved := self._offset - reported:
                reported += moved
                circuit.heard()
                self._count(moved)
                self._on_bytes(moved)
            report()

        try:
            with circuit.reading() as contact, source.used(), destination.used():
                stops = source.break_off, destination.break_off
                rest = await in_thread(lambda: self._pour(body, send, destination, contact), stops, report_both)
                if body.fault is not None:
                    raise body.fault
        except OSError as error:
            if error is not body.fault:
                raise
            return None
        body.finish()
        return rest

    def _pour(self, body: AnswerBody, send: Send, destination: RawConnection, contact: Contact) -> bytes | None:
        buffer, seconds = memoryview(bytearray(CHUNK)), self._transport.timing.read
        contact.moved(waits=False)
        while count := body.receive_in_thread(buffer, self._standstill, seconds, contact, destination):
            if self._standstill.moved(count, 0.0):
                self._standstills = 0
            if count > self.blob.size - self._offset:  # more than was said: the iterator refuses it
                self._beyond = bytes(buffer[:count])
                break
            self._hash.mark(self._offset)
            chunk = buffer[:count]
            self._hash.update(chunk)
            self._offset += count
            if self._offset == self.blob.size:
                self._held = bytes(chunk)
                break
            self.given += count
            if (sent := send(chunk)) < count:
                return bytes(chunk[sent:])
        return None

    async def _next_verified(self) -> bytes:
        while chunk := await self._read():
            await self._hash_chunk(chunk)
            ready, self._held = self._held, chunk
            if ready := self._give(ready):
                return ready
        await self._hashed()
        if not self._hash.is_right:
            advice = packing_advice(self._encoding) if self._encoding else ""
            raise DigestMismatch("the bytes served do not hash to the blob's digest", advice)
        ready, self._held = self._held, b""
        if not (ready := self._give(ready)):
            raise StopAsyncIteration
        return ready

    async def _hashed(self) -> None:
        if self._hashing is not None:
            await self._hashing
            self._hashing = None

    def _give(self, chunk: bytes) -> bytes:
        """Count the bytes given out of a verified chunk, without those that the upload has already."""
        withheld = min(self._withheld, len(chunk))
        self._withheld -= withheld
        self.given += len(chunk) - withheld
        return chunk[withheld:] if withheld else chunk

    async def _hash_chunk(self, chunk: bytes) -> None:
        # One chunk is hashed in a thread while the next is read; hashlib releases the interpreter's lock.
        await self._hashed()
        self._hash.mark(self._offset - len(chunk))
        if len(chunk) < _HASH_INLINE:
            self._hash.update(chunk)
        else:
            self._hashing = asyncio.get_running_loop().run_in_executor(None, self._hash.update, chunk)

    async def _read(self) -> bytes:
        """Return the next bytes; none when all ``size`` of them were read."""
        if self._offset == self.blob.size or self._closed:
            return b""
        chunk, self._beyond = self._beyond, b""
        chunk = chunk or await self._retrying(self._receive)
        compared_at = self._hash.compared_at
        if compared_at is not None and self._offset < compared_at < self._offset + len(chunk):
            # The next chunk begins where the readings are compared.
            room = compared_at - self._offset
            chunk, self._beyond = chunk[:room], chunk[room:]
        self._offset += len(chunk)
        if self._offset > self.blob.size:
            # At once: a body without end would be read without end.
            raise self._wrong_size("longer")
        if chunk:
            self._on_bytes(len(chunk))
        return chunk

    async def _retrying(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run a step, again on a new connection after a transient fault.

        Each call has all its attempts, so the limit is one on standstill: a large blob may break any number of times
        as long as bytes arrive in between.
        """

        async def attempt() -> T:
            try:
                return await step()
            except RegistryError:
                self._drop_body()
                raise

        return await retrying(
            attempt,
            attempts=_MAX_STALLS + 1,
            retryable=lambda error: is_transient(error) and not self._closed and self._standstills <= _MAX_STALLS,
            base=0.1,
        )

    async def _receive(self) -> bytes:
        """Return the next new bytes, on a new connection if there is none; empty only once the stream is closed."""
        while not self._closed:
            if self._content is not None:
                return self._content[self._offset :]
            if (body := self._body) is None:
                await self._connect()
                continue
            chunk = await self._receive_any(body) if self._unpacker is None or self._unpacker.needs else b""
            ended = not chunk and (self._unpacker is None or self._unpacker.needs)
            if self._unpacker is not None:
                chunk = self._unpack(self._unpacker, chunk, body.response)
            if ended and not chunk:
                raise self._broke("the transfer ended")
            dropped = min(self._skip, len(chunk))
            self._skip -= dropped
            if chunk := chunk[dropped:]:
                return chunk
        return b""

    def _unpack(self, unpacker: Unpacker, chunk: bytes, response: aiohttp.ClientResponse) -> bytes:
        decided = unpacker.packed is not None
        chunk = unpacker.take(chunk)
        if not decided and unpacker.packed is not None:
            self._packed = unpacker.packed
            if not self._packed:
                self._check_length(response.content_length)
        return chunk

    async def _receive_any(self, body: AnswerBody) -> bytes:
        """Return bytes of an answer as they arrive; none at its end."""
        response, loop = body.response, asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._standstill.left(self._transport.timing.read)):
                with self._transport.circuit(response.url).reading():
                    chunk = await body.receive()
        except TimeoutError as error:
            self._standstill.restart()
            self._standstills += 1
            stopped = self._broke(*standstill_words("sending", self._transport.timing.read))
            raise self._transport.silent(stopped, self._transport.timing.read, response.url) from error
        except aiohttp.ClientPayloadError as error:
            raise self._broke("the transfer ended") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._broke(connection_words(response.url, error)) from error
        if self._standstill.moved(len(chunk), loop.time() - began):
            self._standstills = 0
        if chunk:
            self._count(len(chunk))
        return chunk

    def _count(self, size: int) -> None:
        alive()
        self._transport.observer.received(self._transport.registry, size)

    def _broke(self, words: str, advice: str = "") -> ConnectionFailed:
        """Return the error for a break, with how far the blob has come, and how often it broke there."""
        self._breaks = self._breaks + 1 if abs(self._offset - self._broken_at) < PROGRESS else 1
        self._broken_at = self._offset
        if self._breaks > 1 and self._offset >= PROGRESS:
            advice = advice or _LIMITED
        return ConnectionFailed(f"{words}, {how_far(self._offset, self.blob.size, self._breaks)}", advice)

    async def _connect(self) -> None:
        headers = {"Range": f"bytes={self._offset}-"} if self._offset and not self._packed else {}
        # Closed before the pause: a connection with unread bytes can't be reused and only holds a socket.
        await self._leave()
        await self._transport.limits.ready()
        answering = self._transport.exchange(replace(self._request, headers=headers))
        response = await self._exchange.enter_async_context(answering)
        self._unpacker, self._encoding = None, packing(response.headers)
        if response.status == 206:
            check_range(response.headers.get("Content-Range", ""), self._offset, self.blob.size)
            self._skip = 0
        elif response.status == 200:
            # The server ignored the Range; ranges are optional.
            self._skip = self._offset
            is_html = response.headers.get("Content-Type", "").startswith("text/html")
            if is_html and response.content_length != self.blob.size:
                raise await self._transport.failure(response)
            if is_gzip(self._encoding) and response.content_length != self.blob.size:
                self._unpacker = Unpacker(self.blob.media_type)
            else:
                self._check_length(response.content_length)
        else:
            raise await self._transport.failure(response)
        self._body = AnswerBody(response)
        if self._direct:
            await self.go_direct()

    def _check_length(self, length: int | None) -> None:
        if length not in (None, self.blob.size):
            raise self._wrong_size("longer" if (length or 0) > self.blob.size else "shorter")

    def _wrong_size(self, how: str) -> DigestMismatch:
        advice = packing_advice(self._encoding) if self._encoding else ""
        return DigestMismatch(f"the blob served is {how} than the {self.blob.size} bytes its manifest says", advice)
