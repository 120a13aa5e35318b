"""Large bodies past the event loop: a thread moves them between the sockets of two connections of aiohttp.

Requests, answers and all that is decided about them stay with aiohttp, and so do short bodies, limited ones, and the
last chunk of each blob, which waits for the digest. In between one thread receives, hashes and sends with one buffer,
and all three release the interpreter's lock. It uses duplicates of the sockets, which never block it: it waits in
``poll``, and a shutdown of the sockets ends that.

Over TLS the thread uses the connection's own buffers, so that the event loop must not read meanwhile; over plain TCP
the loop goes on reading while a thread sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import select
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from replicator.retry import PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from yarl import URL


CHUNK = 256 * 1024
_REPORT_SECONDS = 0.1
"""Seconds between two looks at what a thread has moved."""


class TlsObject(ssl.SSLObject):
    """One side of a TLS connection, with its buffers of encrypted bytes."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


class TlsContext(ssl.SSLContext):
    """A context whose connections a thread can use in the event loop's place."""

    sslobject_class = TlsObject

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """See `ssl.SSLContext.wrap_bio`; event loops call it for each connection."""
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(made, TlsObject):
            made.incoming, made.outgoing = incoming, outgoing
        return made


def threaded_tls(tls: ssl.SSLContext | bool, url: URL) -> ssl.SSLContext | bool:
    """Return what aiohttp takes as ``ssl``, so that a thread can use the connection.

    Args:
        tls: the same for any connection: a context, True for the system's authorities, or False for no verification.
        url: the target.
    """
    if url.scheme == "http":
        return tls
    if isinstance(tls, bool):
        return _default_tls(verified=tls)
    tls.__class__ = TlsContext
    return tls


@functools.cache
def _default_tls(*, verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context() if verified else TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context.__class__ = TlsContext
    if not verified:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


class RawConnection:
    """The socket beneath a connection of aiohttp, for one direction of one body. Only its owner may use it meanwhile.

    Args:
        transport: of the connection.
        left: the maximum of bytes to receive.

    Attributes:
        left: the same, as they become fewer.
        has_news: something arrived while a thread was sending, and the event loop has to read it.
    """

    def __init__(self, transport: asyncio.Transport, left: int = 0) -> None:
        self.left = left
        self.has_news = False
        self._transport = transport
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setblocking(False)
        tls = transport.get_extra_info("ssl_object")
        self._tls: TlsObject | None = tls if isinstance(tls, TlsObject) else None
        self._encrypted = memoryview(b"")
        self._arrived = memoryview(bytearray(CHUNK)) if left and self._tls is not None else memoryview(b"")
        self._users = 0
        self._closed = False
        self._ready: asyncio.Event | None = None

    @classmethod
    def below(cls, transport: asyncio.Transport | None, left: int = 0) -> Self | None:
        """Return the raw connection below a transport; None if only the event loop can use that."""
        if transport is None or transport.is_closing():
            return None
        tls = transport.get_extra_info("ssl_object")
        shown = isinstance(tls, TlsObject) and hasattr(transport, "set_read_buffer_limits")
        try:
            return cls(transport, left) if tls is None or shown else None
        except OSError:
            # The process has no file descriptor left.
            return None

    def pause_loop(self) -> None:
        """Keep the event loop from reading what arrives over TLS; plain reading is paused by aiohttp."""
        self._limit_reading(0)

    def resume_loop(self) -> None:
        """Have the event loop read again."""
        self._limit_reading(None)

    def _limit_reading(self, most: int | None) -> None:
        # The transport below that of TLS reads until so many bytes wait to be decrypted.
        if self._tls is not None and not self._transport.is_closing():
            self._transport.set_read_buffer_limits(most)  # type: ignore[attr-defined]  # of both kinds of loops

    @contextmanager
    def used(self) -> Iterator[None]:
        """Use it for as long as the context lasts: it is not closed meanwhile."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._closed:
                self.close()

    def close(self) -> None:
        """Close the duplicate, once it is not used any more; the connection itself is aiohttp's."""
        self._closed = True
        if self._ready is not None:
            self._ready.set()
        if not self._users:
            self._socket.close()

    def break_off(self) -> None:
        """End the connection, so that a thread that waits for it ends; any thread may call it."""
        # Of the plain socket: it is known to OpenSSL by its bytes only. Closing would wake no thread.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    async def readable(self) -> None:
        """Wait in the event loop until bytes can be received, or it is closed."""
        loop = asyncio.get_running_loop()
        await self._wait_in_loop(loop.add_reader, loop.remove_reader)

    async def writable(self) -> None:
        """Wait in the event loop until bytes can be sent, or it is closed."""
        loop = asyncio.get_running_loop()
        await self._wait_in_loop(loop.add_writer, loop.remove_writer)

    async def _wait_in_loop(
        self, watch: Callable[[int, Callable[[], None]], None], leave: Callable[[int], bool]
    ) -> None:
        number = self._socket.fileno()
        self._ready = ready = asyncio.Event()
        # Not closed before: epoll would go on watching the connection under a number that is another one's by then.
        with self.used():
            watch(number, ready.set)
            try:
                await ready.wait()
            finally:
                leave(number)

    def wait(self, *, sending: bool, seconds: float, other: RawConnection | None = None) -> None:
        """Wait in a thread until bytes can be sent or received.

        Args:
            sending: or received.
            seconds: its limit.
            other: has news as well meanwhile, if only this thread may look for them.

        Raises:
            TimeoutError: they can't within so many seconds.
        """
        # Over TLS an answer can arrive while nothing can be sent, and only this thread may look for it.
        reads = not sending or self._tls is not None
        poll, own = select.poll(), self._socket.fileno()
        poll.register(own, (select.POLLOUT if sending else 0) | (select.POLLIN if reads else 0))
        if other is not None and other.is_tls:
            other.register(poll)
        if not (found := dict(poll.poll(math.ceil(seconds * 1000)))):
            raise TimeoutError
        self.has_news = sending and reads and not found.get(own, 0) & select.POLLOUT
        if other is not None:
            other.has_news = bool(found.keys() - {own})

    def register(self, poll: select.poll) -> None:
        """Have it polled for what arrives."""
        poll.register(self._socket, select.POLLIN)

    def receive(self, into: memoryview) -> int | None:
        """Receive bytes of the body; None if none have arrived.

        Returns:
            Their number; 0 if the other side has ended the connection.

        Raises:
            OSError: the connection broke.
        """
        into = into[: self.left]
        try:
            count = self._socket.recv_into(into) if self._tls is None else self._decrypt(self._tls, into)
        except BlockingIOError:
            return None
        self.left -= count
        return count

    def has_more(self) -> bool:
        """Tell whether more than the body has arrived, or the other side has ended the connection."""
        self.left = 1
        try:
            return self.receive(memoryview(bytearray(1))) is not None
        except OSError:
            return True
        finally:
            self.left = 0

    def _decrypt(self, tls: TlsObject, into: memoryview) -> int:
        done = 0
        while done < len(into):
            try:
                count = int(tls.read(len(into) - done, into[done:]))
            except ssl.SSLWantReadError:
                try:
                    count = self._socket.recv_into(self._arrived)
                except BlockingIOError:
                    if done:
                        break
                    raise
                if count:
                    tls.incoming.write(self._arrived[:count])
                else:
                    tls.incoming.write_eof()
                continue
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                break
            except ssl.SSLError as error:
                raise _broken(error) from error
            if not count:
                break
            done += count
        # A change of keys is answered by the event loop, when it sends the next request.
        return done

    def send(self, piece: memoryview) -> int:
        """Send bytes, and return how many were taken; 0 if none can be now.

        Raises:
            OSError: the connection broke.
        """
        try:
            if self._tls is None:
                return self._socket.send(piece)
            # In parts, each of which has a time of its own.
            taken, piece = 0, piece[:PROGRESS]
            while not self._encrypted and taken < len(piece):
                taken += self._tls.write(piece[taken:])
            if taken:
                self._encrypted = memoryview(self._tls.outgoing.read())
            if self._encrypted:
                self._encrypted = self._encrypted[self._socket.send(self._encrypted) :]
        except BlockingIOError:
            return taken if self._tls is not None else 0
        except ssl.SSLError as error:
            raise _broken(error) from error
        return taken

    @property
    def is_tls(self) -> bool:
        """Whether what is sent is encrypted here."""
        return self._tls is not None

    @property
    def is_flushed(self) -> bool:
        """Whether all bytes that were taken have been given to the system."""
        return not self._encrypted

    def look(self) -> bool:
        """Tell whether something has arrived that the event loop has to read, since TLS has one buffer for both."""
        if self._tls is not None and not self.has_news:
            poll = select.poll()
            self.register(poll)
            self.has_news = bool(poll.poll(0))
        return self.has_news


def _broken(error: ssl.SSLError) -> ConnectionError:
    # Its number is OpenSSL's, not the system's.
    return ConnectionError(f"TLS failed ({error.reason or 'no reason'})")
