"""The body of an upload on its way to a registry: sent by aiohttp, or below it by the event loop or a thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp.http_writer import StreamWriter
from aiohttp.payload import AsyncIterablePayload

from replicator.registry.flow import Urgency
from replicator.registry.pump import RawConnection
from replicator.retry import Standstill, alive, standstill_words, waiting
from replicator.tasks import NoThread, has_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from types import TracebackType
    from typing import Protocol

    from aiohttp import ClientResponse
    from aiohttp.abc import AbstractStreamWriter

    from replicator.registry.blob_stream import BlobStream
    from replicator.registry.circuit import Contact
    from replicator.registry.flow import Flow
    from replicator.registry.transport import Transport

    class Upload(Protocol):
        """An upload in progress; see `replicator.registry.blobs`."""

        stream: BlobStream
        flow: Flow
        sent: int
        standing: tuple[str, str]


LEAST = 1024 * 1024
"""Bytes from which the rest of a body is moved by a thread: what it saves outweighs the hand-over."""
_PIECE = 64 * 1024 + 1
"""Bytes that are written at once: the fewest after which aiohttp waits until the other side has taken them."""
_ANSWER_SECONDS = 0.5
"""Seconds in which the event loop finds what arrived before a connection broke."""
_TURNS = 5
"""Turns of the event loop in which it reads what has arrived, and the request's task notes an answer."""


class UploadBody:
    """The body of an upload, for aiohttp to send; a large one is sent below it, by a thread while nothing limits it.

    Args:
        transport: to the registry.
        upload: whose rest is sent.
        deadline: of the registry to take the next bytes, or to answer after the last one.
    """

    def __init__(self, transport: Transport, upload: Upload, deadline: asyncio.Timeout) -> None:
        self._transport = transport
        self._upload = upload
        self._flow = upload.flow
        self._rate = transport.limits.upload
        self._deadline = deadline
        self._standstill = Standstill()
        self._contact: Contact | None = None
        self._writer: StreamWriter | None = None
        self._raw: RawConnection | None = None
        self._answered = False
        self._may_thread = True
        self._mover: asyncio.Task[object] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        upload.standing = standstill_words("taking", transport.timing.write)

    def payload(self, contact: Contact, *, direct: bool) -> AsyncIterablePayload:
        """Return what aiohttp is given.

        Args:
            contact: of the request.
            direct: nothing but TLS lies between aiohttp and the socket.
        """
        self._contact = contact
        return _Payload(contact.watch(self._pieces()), self if direct else None)

    def begin(self, writer: AbstractStreamWriter) -> None:
        """Note the writer to the connection, before the first piece."""
        self._writer = writer if isinstance(writer, StreamWriter) else None

    def answered(self) -> None:
        """Note that the answer has begun: the event loop reads it, so no thread may use the connection any more."""
        self._answered = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._raw is not None:
            self._raw.break_off()
        await self._end()

    async def sent_by(self, request: Coroutine[Any, Any, ClientResponse]) -> ClientResponse:
        """Return the answer to a request of aiohttp with this body.

        When this is cancelled, no thread uses the connection any more before aiohttp closes it: OpenSSL allows only one
        at a time.
        """
        answering = asyncio.create_task(request)
        try:
            await asyncio.wait({answering})
            return answering.result()
        except asyncio.CancelledError:
            await self._end()
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError, OSError):
                (await answering).close()
            raise

    async def _end(self) -> None:
        """End the thread, if there is one."""
        self._may_thread = False
        while not self._idle.is_set():
            if self._mover is not None:
                self._mover.cancel()
            # A second cancellation does not leave it behind.
            with contextlib.suppress(asyncio.CancelledError):
                await self._idle.wait()

    async def _pieces(self) -> AsyncIterator[memoryview]:
        """Yield what aiohttp has to send."""
        timing, stream = self._transport.timing, self._upload.stream
        self._raw = raw = await self._take_over()
        try:
            async for chunk in stream:
                async for piece in self._in_turn(chunk):
                    if raw is None:
                        yield piece
                    else:
                        await self._write(raw, piece)
                while raw is not None and self._may_thread and self._is_free() and has_threads() and stream.is_direct:
                    async for piece in self._in_turn(await stream.hand_over()):
                        await self._write(raw, piece)
                    if (rest := await self._move(raw)) is None:
                        break
                    async for piece in self._in_turn(rest):
                        await self._write(raw, piece)
            self._upload.standing = f"no answer within {timing.commit:g} s after the last byte", ""
            self._deadline.reschedule(asyncio.get_running_loop().time() + timing.commit)
        except OSError:
            # Why it broke may have arrived before.
            await self._find_answer()
            raise
        finally:
            if raw is not None:
                raw.close()

    async def _in_turn(self, chunk: bytes) -> AsyncIterator[memoryview]:
        """Yield the pieces of a chunk when it is their turn."""
        timing, flow, rate, loop = self._transport.timing, self._flow, self._rate, asyncio.get_running_loop()
        left = memoryview(chunk)
        while left:
            with waiting():
                ready = await flow.turn(min(len(left), rate.piece or _PIECE, _PIECE))
                if flow.trickles:
                    # It has waited already: a second wait would let a proxy take the connection for idle.
                    rate.spent(ready, bulk=flow.urgency is Urgency.BULK)
                else:
                    flow.held = True
                    await rate.passes(ready, bulk=flow.urgency is Urgency.BULK)
                    flow.held = False
            self._upload.sent += ready
            self._transport.observer.sent(self._transport.registry, ready)
            began = loop.time()
            self._deadline.reschedule(began + self._standstill.left(timing.write))
            yield left[:ready]
            flow.sent(ready)
            left = left[ready:]
            self._standstill.moved(ready, loop.time() - began)
            self._deadline.reschedule(None)
            alive()
        if self._upload.sent < self._upload.stream.blob.size:
            # A refusal that arrived meanwhile must be read before a write meets the closed connection: the
            # first turn of the loop finds it, the second comes after it was read. After the last bytes there
            # must be no turn: a body that ends later than its answer costs the connection.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def _take_over(self) -> RawConnection | None:
        """Take the connection over from aiohttp once it has sent the headers; None to leave a body to it."""
        writer, stream = self._writer, self._upload.stream
        if writer is None or stream.blob.size - self._upload.sent < LEAST:
            return None
        raw = RawConnection.below(writer.transport)
        if raw is None or writer.transport is None:
            return None
        try:
            if not await stream.go_direct():
                raw.close()
                return None
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._transport.timing.write)
            writer.send_headers()
            # The connection is idle, and takes the headers at once. Over TLS there is no way to see that: if ever they
            # are overtaken, the other side finds its bytes out of order, and ends the connection.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not raw.is_tls and writer.transport.get_write_buffer_size():
                writer.transport.set_write_buffer_limits(0)
                await writer.drain()
                writer.transport.set_write_buffer_limits()
            self._deadline.reschedule(None)
        except BaseException:
            raw.close()
            raise
        return raw

    async def _write(self, raw: RawConnection, piece: memoryview) -> None:
        """Send a piece from the event loop."""
        self._note(waits=True)
        while piece or not raw.is_flushed:
            if sent := raw.send(piece):
                piece = piece[sent:]
            else:
                await raw.writable()
        self._note(waits=False)

    def _note(self, *, waits: bool) -> None:
        if self._contact is not None:
            self._contact.moved(waits=waits)

    def _is_free(self) -> bool:
        """Tell whether a thread may send now."""
        return self._rate.piece is None and not self._answered

    async def _move(self, raw: RawConnection) -> bytes | None:
        """Have a thread move bytes until they have to wait for something.

        Returns:
            The rest of a chunk that is left to send; None if the source has to be asked by the event loop.
        """
        reported = self._upload.sent

        def report() -> None:
            nonlocal reported
            if moved := self._upload.sent - reported:
                reported += moved
                self._transport.observer.sent(self._transport.registry, moved)
                alive()

        loop = asyncio.get_running_loop()
        self._idle.clear()
        self._mover = asyncio.current_task()
        raw.pause_loop()
        try:
            return await self._upload.stream.pour(functools.partial(self._send, raw), raw, report)
        except NoThread:
            self._may_thread = False
            return b""
        except TimeoutError:
            # The deadline of the event loop says the same, in the same words.
            self._idle.set()
            self._deadline.reschedule(loop.time())
            await loop.create_future()
            raise
        finally:
            raw.resume_loop()
            self._idle.set()
            if raw.has_news:
                raw.has_news = False
                for _ in range(_TURNS):
                    await asyncio.sleep(0)

    def _send(self, raw: RawConnection, chunk: memoryview) -> int:
        """Send a chunk in a thread, and return how much of it: less if the rest has to wait."""
        done = 0
        while done < len(chunk) and self._is_free() and not raw.look():
            size = self._flow.piece(len(chunk) - done)
            if self._flow.delay(size) > 0:
                break
            if self._rate.ask(size, bulk=self._flow.urgency is Urgency.BULK):
                # A limit begins right now.
                self._rate.spent(size, bulk=self._flow.urgency is Urgency.BULK)
            moved = self._send_piece(raw, chunk[done : done + size])
            self._flow.sent(moved)
            done += moved
        return done

    def _send_piece(self, raw: RawConnection, piece: memoryview) -> int:
        done = 0
        while (done < len(piece) or not raw.is_flushed) and not raw.has_news:
            if sent := raw.send(piece[done:]):
                done += sent
                self._upload.sent += sent
                self._standstill.moved(sent, 0.0)
                continue
            began = time.monotonic()
            self._note(waits=True)
            try:
                raw.wait(sending=True, seconds=self._standstill.left(self._transport.timing.write))
            finally:
                self._standstill.moved(0, time.monotonic() - began)
            self._note(waits=False)
        return done

    async def _find_answer(self) -> None:
        """Let the event loop read what arrived before the connection broke, and find out that it did."""
        for _ in range(int(_ANSWER_SECONDS / 0.01)):
            if self._answered or self._writer is None or self._writer.transport is None:
                return
            await asyncio.sleep(0.01)


class _Payload(AsyncIterablePayload):
    def __init__(self, pieces: AsyncIterator[bytes | memoryview], body: UploadBody | None) -> None:
        super().__init__(pieces)  # type: ignore[arg-type]  # a memoryview is written as well
        self._body = body

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if self._body is not None:
            self._body.begin(writer)
        await super().write_with_length(writer, content_length)
