"""Blob bytes in flight: read, verified, resumed, and handed to an upload without ever being held whole."""

from __future__ import annotations

import asyncio
import re
import zlib
from bisect import bisect_right
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar

import aiohttp

from replicator.registry.connection import GZIP_MAGIC, is_gzip, packing, packing_advice
from replicator.registry.connection_errors import connection_words
from replicator.registry.errors import ConnectionFailed, DigestMismatch, ProtocolViolated, RegistryError, one_line
from replicator.registry.manifest import embedded, hasher_for
from replicator.retry import PROGRESS, Standstill, alive, how_far, is_transient, retrying, standstill_words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from replicator.registry.connection import Request
    from replicator.registry.manifest import Descriptor, Hasher
    from replicator.registry.transport import Transport

T = TypeVar("T")

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)\Z")
_HASH_INLINE = 64 * 1024
"""Bytes below which a hop into a thread costs more than hashing in the event loop."""
_MAX_STALLS = 5
"""Broken reads in a row, without one byte of progress, that are resumed; and standstills without 64 KiB in between."""
_MAX_MARKS = 128
"""States of the hash that are kept of one blob, 64 of them of the latest chunks."""
_TELLING = 1024
"""Bytes of a body by which is decided whether it is packed."""
_PIECE = 256 * 1024
"""Bytes that are unpacked at once."""
_LIMITED = "a proxy on the way may limit the size or the time of a download: raise its limit"


@dataclass(frozen=True, slots=True)
class _Mark:
    """State of the hash after the first ``offset`` bytes."""

    offset: int
    hasher: Hasher


class Unpacker:
    """Unpacks a blob that a proxy has packed with gzip, although ``identity`` was asked for; in bounded pieces.

    Many labels are wrong: a layer is a gzip file itself, and some servers say so. The first bytes decide.

    Args:
        media_type: of the blob.

    Attributes:
        packed: whether it is packed; None until that is decided.
        needs: whether it needs more bytes to give out any.
    """

    def __init__(self, media_type: str) -> None:
        self.packed: bool | None = None
        self.needs = True
        self._is_gzip = "gzip" in media_type
        self._head = b""
        self._unzip = zlib.decompressobj(wbits=31)

    def take(self, chunk: bytes) -> bytes:
        """Return the next bytes of the blob; maybe none, while `needs` is true.

        Args:
            chunk: what was received; empty at the end, or if `needs` is false.

        Raises:
            DigestMismatch: the bytes can't be unpacked.
        """
        if self.packed is None:
            self._head += chunk
            if chunk and len(self._head) < _TELLING:
                return b""
            self.packed = self._decide()
            chunk, self._head = self._head, b""
        if not self.packed:
            return chunk
        try:
            plain = self._unzip.decompress(self._unzip.unconsumed_tail + chunk, _PIECE)
        except zlib.error as error:
            raise DigestMismatch("the blob's gzip can't be unpacked", packing_advice("gzip")) from error
        self.needs = len(plain) < _PIECE
        return plain

    def _decide(self) -> bool:
        if not self._head.startswith(GZIP_MAGIC):
            return False
        try:
            inner = zlib.decompressobj(wbits=31).decompress(self._head, len(GZIP_MAGIC))
        except zlib.error:
            return False
        # Of a layer that is a gzip file, the packed one holds another; everything else is none by itself.
        return inner == GZIP_MAGIC or not self._is_gzip


class BlobStream:
    """The bytes of one blob, as an asynchronous iterator of chunks.

    The last chunk is given out only after all bytes have hashed to the blob's digest, so an upload with a
    Content-Length can't complete a corrupt body. A broken connection is resumed where it broke by a Range request
    (RFC 9110, section 14), or from the start if the server does not support ranges; ``size`` bounds it all. The
    source is not asked for content that the manifest embeds.

    An upload that goes on where it was cut off needs bytes a second time: see `rewind`.

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
        self._on_bytes = on_bytes
        self._content, _ = embedded(blob)
        self._hasher = hasher_for(blob.digest)
        self._hashing: asyncio.Future[None] | None = None
        # In the order of their offsets, which become sparse towards the start of the blob.
        self._marks: list[_Mark] = []
        # After a rewind: marks of earlier readings that this one has to agree with, bytes that were read beyond the
        # first of them, and the number of bytes to verify again but not to give out again.
        self._agree: list[_Mark] = []
        self._beyond = b""
        self._withheld = 0
        # The last chunk that was read; given out when the next one has arrived, or the digest is verified.
        self._held = b""
        self._offset = 0
        self._skip = 0  # bytes to drop after a restart from the first byte
        self._standstill = Standstill()
        self._standstills = 0
        self._breaks, self._broken_at = 0, 0  # how often it broke at about the same byte, and at which
        self._response: aiohttp.ClientResponse | None = None
        # Set where the answer is said to be packed; a packed one knows no ranges of the blob.
        self._unpacker: Unpacker | None = None
        self._packed = False
        self._encoding = ""
        self._exchange = AsyncExitStack()
        self._closed = False

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
        """Give out the bytes from ``offset`` on once more, for an upload that goes on there.

        They are read from the source a second time. Both readings must agree on all that the upload has already, and
        the blob's digest covers the second one to its end. So all bytes of the upload are verified as strictly as
        bytes that were read once: a source that serves other bytes the second time ends the stream.

        Args:
            offset: at most ``given``.
        """
        assert offset <= self.given, "nothing is rewound forwards"  # noqa: S101 - the caller checks
        await self._exchange.aclose()
        self._response = None
        self._hashing, self._held, self._beyond = None, b"", b""
        index = bisect_right(self._marks, offset, key=lambda mark: mark.offset)
        start = self._marks[index - 1] if index else _Mark(0, hasher_for(self.blob.digest))
        if start.offset < offset:
            # Without a later mark the first reading came to its end, and its digest was right.
            self._agree[:0] = self._marks[index : index + 1]
        del self._marks[index:]
        self._hasher = start.hasher.copy()
        self._offset, self._withheld = start.offset, offset - start.offset
        self._skip = 0
        self.given, self.error = offset, None

    async def aclose(self) -> None:
        """Give the connection back; a read in progress ends."""
        self._closed = True
        self._response = None
        await self._exchange.aclose()

    async def _next_verified(self) -> bytes:
        while chunk := await self._read():
            await self._hash(chunk)
            ready, self._held = self._held, chunk
            if ready := self._give(ready):
                return ready
        if self._hashing is not None:
            await self._hashing
            self._hashing = None
        if f"{self.blob.digest.partition(':')[0]}:{self._hasher.hexdigest()}" != self.blob.digest:
            advice = packing_advice(self._encoding) if self._encoding else ""
            raise DigestMismatch("the bytes served do not hash to the blob's digest", advice)
        ready, self._held = self._held, b""
        if not (ready := self._give(ready)):
            raise StopAsyncIteration
        return ready

    def _give(self, chunk: bytes) -> bytes:
        """Count the bytes given out of a verified chunk, without those that the upload has already."""
        withheld = min(self._withheld, len(chunk))
        self._withheld -= withheld
        self.given += len(chunk) - withheld
        return chunk[withheld:] if withheld else chunk

    async def _hash(self, chunk: bytes) -> None:
        # One chunk is hashed in a thread while the next is read; hashlib releases the interpreter's lock.
        if self._hashing is not None:
            await self._hashing
            self._hashing = None
        self._mark(self._offset - len(chunk))
        if len(chunk) < _HASH_INLINE:
            self._hasher.update(chunk)
        else:
            self._hashing = asyncio.get_running_loop().run_in_executor(None, self._hasher.update, chunk)

    def _mark(self, offset: int) -> None:
        """Keep the state of the hash before the chunk at ``offset``, and compare it with that of a first reading."""
        agreed = self._agree.pop(0) if self._agree and self._agree[0].offset == offset else None
        if agreed is not None and agreed.hasher.digest() != self._hasher.digest():
            raise DigestMismatch("the source served other bytes when it was read a second time")
        self._marks.append(_Mark(offset, self._hasher.copy()))
        if len(self._marks) > _MAX_MARKS:
            # The older ones become sparse: an upload that breaks has lost its latest bytes.
            del self._marks[: _MAX_MARKS // 2 : 2]

    async def _read(self) -> bytes:
        """Return the next bytes; none when all ``size`` of them were read."""
        if self._offset == self.blob.size or self._closed:
            return b""
        chunk, self._beyond = self._beyond, b""
        chunk = chunk or await self._retrying(self._receive)
        if self._agree and self._offset < self._agree[0].offset < self._offset + len(chunk):
            # The next chunk begins where the readings are compared.
            room = self._agree[0].offset - self._offset
            chunk, self._beyond = chunk[:room], chunk[room:]
        self._offset += len(chunk)
        if self._offset > self.blob.size:
            # At once: a body without end would be read for ever.
            raise self._wrong_size("longer")
        if chunk and self._on_bytes is not None:
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
                self._response = None
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
            if self._response is None:
                await self._connect()
                continue
            chunk = await self._receive_any(self._response) if self._unpacker is None or self._unpacker.needs else b""
            ended = not chunk and (self._unpacker is None or self._unpacker.needs)
            if self._unpacker is not None:
                chunk = self._unpack(self._unpacker, chunk, self._response)
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

    async def _receive_any(self, response: aiohttp.ClientResponse) -> bytes:
        """Return bytes of an answer as they arrive; none at its end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._standstill.left(self._transport.timing.read)):
                with self._transport.circuit(response.url).reading():
                    chunk = await response.content.readany()
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
            alive()
            self._transport.observer.received(self._transport.registry, len(chunk))
        return chunk

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
        await self._exchange.aclose()
        await self._transport.limits.ready()
        answering = self._transport.exchange(replace(self._request, headers=headers))
        response = await self._exchange.enter_async_context(answering)
        self._unpacker, self._encoding = None, packing(response.headers)
        if response.status == 206:
            self._check_range(response.headers.get("Content-Range", ""))
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
        self._response = response

    def _check_length(self, length: int | None) -> None:
        if length not in (None, self.blob.size):
            raise self._wrong_size("longer" if (length or 0) > self.blob.size else "shorter")

    def _check_range(self, value: str) -> None:
        match = _CONTENT_RANGE.match(value)
        if match is None or int(match[1]) != self._offset or match[3] not in ("*", str(self.blob.size)):
            requested = f"requested from byte {self._offset} of {self.blob.size}"
            raise ProtocolViolated(f"{requested}, answered Content-Range {one_line(value, 80)!r}")

    def _wrong_size(self, how: str) -> DigestMismatch:
        advice = packing_advice(self._encoding) if self._encoding else ""
        return DigestMismatch(f"the blob served is {how} than the {self.blob.size} bytes its manifest says", advice)
