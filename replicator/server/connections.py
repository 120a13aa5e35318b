"""Connections to the HTTP server, with bounds on the input of strangers.

uvicorn limits neither the size of a request's head nor the time it may take to arrive, nor how many requests wait for
an answer: anyone who reaches the port could fill the memory with headers or with requests, or hold every connection
open by sending nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from replicator.logs import LogLimit
from replicator.networks import plain_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

MAX_HEAD = 16 * 1024
"""Bytes of a request beside its body, and of those that wait for their answers: heads, chunk sizes, trailers."""
MAX_HEADERS = 128
"""Headers and trailers of these requests."""
MAX_PIPELINE = 8
"""Requests of a connection that wait for the answer of an earlier one."""
MAX_UNREAD = 64 * 1024
"""Bytes of a body that are read after the answer, so that a sender has the time to notice it."""
REQUEST_SECONDS = 15.0
"""For a whole request to arrive, from the connection's start or its first byte; and for the answer to be taken."""
_LINGER_SECONDS = 1.0
_PIECE = memoryview(bytearray(16 * 1024))
_STANDING = "replicator.standing"
"""The ASGI extension that tells a connection what its requests have shown."""

_refused = LogLimit("replicator.http", "HTTP request refused")


class Strangers:
    """The connections of a server that have not shown a token or password: one too many ends the longest idle one.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[BoundedProtocol, Callable[[], object]] = {}

    def add(self, connection: BoundedProtocol, end: Callable[[], object]) -> None:
        """Note a connection that is idle from now on, and how to end it; another may be ended for it."""
        # A request in progress does not count: a client that takes no answer is as idle as one that sends no request.
        self.remove(connection)
        while len(self._open) >= self._most:
            oldest = next(iter(self._open))
            end_oldest = self._open.pop(oldest)
            if not oldest.trusted:
                end_oldest()
        self._open[connection] = end

    def remove(self, connection: BoundedProtocol) -> None:
        """Forget a connection that has ended."""
        self._open.pop(connection, None)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol over httptools, which closes a connection whose requests are too large, too slow or too many.

    Args:
        strangers: the connections of the server without a token, this one among them.
        given: what uvicorn gives to its protocols.
    """

    _deadline: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None
    _piece_bytes = 0
    _head_bytes = 0
    _headers = 0
    _unread_bytes = 0
    _refusal = ""

    def __init__(self, strangers: Strangers, **given: Any) -> None:
        super().__init__(**given)
        self._strangers = strangers
        self._unanswered: deque[RequestResponseCycle] = deque()
        # In every request's scope, so that it must hold nothing that leads back to the connection.
        self._standing: dict[object, object] = {"trusted": False}

    @property
    def trusted(self) -> bool:
        """Whether it has shown a token or password."""
        return bool(self._standing["trusted"])

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start the deadline of the first request."""
        super().connection_made(transport)
        if self.client is not None:
            # A socket for both families shows an IPv4 sender as ::ffff:…, but REPLICATOR_WEBHOOK_SOURCES names IPv4.
            self.client = (plain_address(self.client[0]), self.client[1])
        self._strangers.add(self, self._abort)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        self._strangers.remove(self)
        self._cancel_deadline()
        self._cancel_untaken()
        self._give_up()
        super().connection_lost(exc)
        # Requests that waited would hold the connection, and it them.
        self._unanswered.clear()
        self.pipeline.clear()
        self.cycle = None  # type: ignore[assignment]  # as uvicorn has it before the first request

    def pause_writing(self) -> None:
        """Start the time for a client to take its answer."""
        super().pause_writing()
        self._untaken = self.loop.call_later(REQUEST_SECONDS, self._abort)

    def resume_writing(self) -> None:
        """End it."""
        super().resume_writing()
        self._cancel_untaken()

    def data_received(self, data: bytes) -> None:
        """Parse a part of a request, and refuse the request once its head is too large."""
        if self.transport.is_closing():
            return
        if self._deadline is None:
            self._start_deadline()
        # Everything counts as head until `on_body` subtracts what the parser found to be body.
        self._piece_bytes = len(data)
        self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if it had not been asked for
        except httptools.HttpParserError:
            self._refuse(self._refusal or "this is not HTTP")
        if self._head_bytes > MAX_HEAD:
            self._refuse(f"more than {MAX_HEAD} bytes beside the body")

    def on_message_begin(self) -> None:
        """Refuse a request behind too many that wait: a server may close a pipeline (RFC 9112, section 9.3.2)."""
        if self.cycle is None or self.cycle.response_complete:
            self._head_bytes, self._headers = self._piece_bytes, 0
        elif len(self._unanswered) > MAX_PIPELINE:
            self._fail(f"more than {MAX_PIPELINE} requests wait for their answers")
        self._unread_bytes = 0
        super().on_message_begin()
        self.scope["extensions"] = {_STANDING: self._standing}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the headers, each of which takes many times its bytes; those of waiting requests too."""
        self._headers += 1
        if self._headers > MAX_HEADERS:
            self._fail(f"more than {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note a request that is to be answered."""
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Leave the body to the application, which bounds it itself; after the answer read no more than a little."""
        self._piece_bytes -= len(body)
        self._head_bytes = max(0, self._head_bytes - len(body))
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > MAX_UNREAD:
                # Closing with bytes unread resets the connection, and some systems drop an answer that was not read.
                self.transport.pause_reading()
                self._start_deadline(_LINGER_SECONDS)
        elif len(self.cycle.body) >= len(_PIECE):
            # Until the application asks for it: uvicorn would take 64 KiB from a client without a token.
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """Cancel the deadline: the request is complete."""
        self._cancel_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that the connection is idle from now on."""
        self._unanswered.popleft()
        super().on_response_complete()
        if self.trusted:
            self._strangers.remove(self)
        elif not self.transport.is_closing():
            self._strangers.add(self, self._abort)

    def _fail(self, reason: str) -> None:
        """Have the parser stop; what a callback raises is a `HttpParserError` outside."""
        self._refusal = reason
        raise ValueError(reason)

    def _refuse(self, reason: str) -> None:
        """Answer 400 and close; a request still being answered sees that its client is gone."""
        if self.transport.is_closing():
            return
        _refused.warning(self.client[0] if self.client is not None else None, reason=reason)
        self._give_up()
        self.send_400_response(reason)

    def _abort(self) -> None:
        self._give_up()
        self.transport.abort()

    def _give_up(self) -> None:
        """Have all that is being answered notice that its client is gone; uvicorn tells only the last request so."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def _start_deadline(self, seconds: float | None = None) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds or REQUEST_SECONDS, self._abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_untaken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None


class Pieces(asyncio.BufferedProtocol):
    """Hands a connection what arrives in small pieces: the event loops' own have 256 KiB, ten thousand requests.

    A class of its own, since uvloop takes what is an `asyncio.Protocol` too for one without buffers.

    Args:
        connection: whose it is.
    """

    def __init__(self, connection: BoundedProtocol) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Pass it on."""
        self._connection.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._connection.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next piece goes to; all connections share it, as each piece is copied at once."""
        return _PIECE

    def buffer_updated(self, nbytes: int) -> None:
        """Take a piece."""
        self._connection.data_received(bytes(_PIECE[:nbytes]))


def trust(request: Request) -> None:
    """Note that the connection of a request has shown a token or password: it is not closed in favour of others."""
    request.scope.get("extensions", {}).get(_STANDING, {})["trusted"] = True
