"""Fault injection in front of any handler, and a log of its requests.

    layer = FaultLayer(upstream.forward)
    layer.add(Fault(Answer(429, headers={"Retry-After": "1"}), method="PUT", path="/manifests/"))
    layer.add(Fault(Cut(1000), method="GET", path="/blobs/", times=2, after=1))

The first fault that matches a request and has strikes left is the one that strikes.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from aiohttp import web
from aiohttp.http_writer import StreamWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from multidict import CIMultiDict

    from tests.standins.server import Handler

How = Literal["close", "reset", "stall"]
"""What becomes of a connection: an orderly end, a RST, or silence."""


@dataclass(frozen=True)
class Delay:
    """Wait ``seconds``, then answer as ever."""

    seconds: float


@dataclass(frozen=True)
class Hold:
    """Wait until ``released`` is set, then answer as ever."""

    released: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Answer:
    """Answer in the handler's stead; ``code`` makes the body a registry's error, unless ``body`` is given."""

    status: int
    code: str | None = None
    message: str = "injected"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def response(self) -> web.Response:
        body, content_type = self.body or b"", "application/octet-stream"
        if self.body is None and self.code is not None:
            body = json.dumps({"errors": [{"code": self.code, "message": self.message}]}).encode()
            content_type = "application/json"
        response = web.Response(status=self.status, body=body)
        response.content_type = content_type
        response.headers.update(self.headers)
        return response


@dataclass(frozen=True)
class Cut:
    """End the answer after ``after`` bytes of its body; None: before any of it, its work done."""

    after: int | None = None
    how: How = "close"


@dataclass(frozen=True)
class Raw:
    """Write these bytes to the connection in the handler's stead, as they are, then end it.

    Attributes:
        content: a whole answer, or what is no answer at all.
        drip: what is written after it again and again, 50 times a second, until the client goes.
        then: how the connection ends; with ``close`` before a body was read, the system resets it.
    """

    content: bytes
    drip: bytes = b""
    then: How = "close"


@dataclass(frozen=True)
class CutUpload:
    """Read ``after`` bytes of the request's body, then do ``then``; the handler is never asked."""

    after: int = 0
    then: How | Answer | Raw = "close"


@dataclass(frozen=True)
class Trickle:
    """Answer as ever, but the body in pieces of ``size`` bytes with ``pause`` seconds between them."""

    size: int
    pause: float


@dataclass(frozen=True)
class Corrupt:
    """Flip the bits of the answer's body at byte ``at``."""

    at: int = 0


@dataclass(frozen=True)
class Headers:
    """Change the answer's headers: ``None`` removes one, a function makes its value of what it was."""

    changes: Mapping[str, str | Callable[[str], str] | None]


@dataclass(frozen=True)
class Redirect:
    """Answer a redirect to the same path at ``base``, e.g. ``http://127.0.0.1:PORT``, or to ``location`` as it is."""

    base: str = ""
    location: str | None = None
    status: int = 307


Action = Delay | Hold | Answer | Raw | Cut | CutUpload | Trickle | Corrupt | Headers | Redirect


@dataclass
class Fault:
    """What goes wrong, and when.

    Attributes:
        action: what happens.
        method: of the requests it strikes; None for all.
        path: regular expression searched for in the path; None for all.
        query: regular expression searched for in the query; None for all.
        times: how often it strikes; None for always.
        after: matching requests that it lets pass first.
        hits: how often it struck.
    """

    action: Action
    method: str | None = None
    path: str | None = None
    query: str | None = None
    times: int | None = 1
    after: int = 0
    hits: int = 0
    _seen: int = 0

    def strikes(self, request: web.BaseRequest) -> bool:
        if not _fits(request.method, request.path, _query(request), self.method, self.path, self.query):
            return False
        self._seen += 1
        if self._seen <= self.after or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


@dataclass
class Entry:
    """One request and what became of it.

    Attributes:
        method: as it was asked.
        path: what was asked for.
        query: as it came.
        headers: the request's.
        began: when it arrived, on the monotonic clock.
        ended: when it was answered, or the connection was gone; None as long as neither is so.
        status: None as long as, or if, nothing was answered.
        digest: the ``Docker-Content-Digest`` of the answer.
        request_bytes: of the request's body that were read.
        response_bytes: of the answer's body that were sent.
    """

    method: str
    path: str
    query: str
    headers: CIMultiDict[str]
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    status: int | None = None
    digest: str | None = None
    request_bytes: int = 0
    response_bytes: int = 0

    @property
    def begins(self) -> int:
        """The byte from which on a blob is asked for; 0 for all of it.

        After a connection that ended it may lie before the last byte that was served: what had arrived and was not
        read yet is lost with the connection.
        """
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


class RequestLog:
    """The requests of a handler, in the order of their arrival."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def select(
        self, method: str | None = None, path: str | None = None, status: int | None = None, query: str | None = None
    ) -> list[Entry]:
        """Return the entries that fit; ``path`` and ``query`` are regular expressions that are searched for."""
        return [
            entry
            for entry in self.entries
            if _fits(entry.method, entry.path, entry.query, method, path, query) and status in (None, entry.status)
        ]

    def count(
        self, method: str | None = None, path: str | None = None, status: int | None = None, query: str | None = None
    ) -> int:
        """Return how many entries fit."""
        return len(self.select(method, path, status, query))

    def clear(self) -> None:
        self.entries.clear()


class FaultLayer:
    """A handler in front of another."""

    def __init__(self, handler: Handler) -> None:
        self.log = RequestLog()
        self.faults: list[Fault] = []
        self._handler = handler

    def add(self, fault: Fault) -> Fault:
        """Have a fault strike from now on."""
        self.faults.append(fault)
        return fault

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        entry = Entry(request.method, request.path, _query(request), request.headers.copy())
        self.log.entries.append(entry)
        fault = next((fault for fault in self.faults if fault.strikes(request)), None)
        action = fault.action if fault is not None else None
        # The connection belongs to the server; only what is written for this one request passes through here.
        request._payload_writer = _Tap(request, entry, action)
        try:
            response = await self._answer(request, action)
            await response.prepare(request)
            await response.write_eof()
        finally:
            entry.request_bytes = int(getattr(request.content, "total_bytes", 0))
            entry.ended = time.monotonic()
        return response

    async def _answer(self, request: web.BaseRequest, action: Action | None) -> web.StreamResponse:
        match action:
            case Delay(seconds):
                await asyncio.sleep(seconds)
            case Hold(released):
                await released.wait()
            case Answer():
                return action.response()
            case Raw():
                await write_raw(request, action)
            case Redirect(base, location, status):
                return web.Response(status=status, headers={"Location": location or f"{base}{request.raw_path}"})
            case CutUpload(after, then):
                read = 0
                while read < after and (chunk := await request.content.read(after - read)):
                    read += len(chunk)
                if isinstance(then, Answer):
                    return then.response()
                if isinstance(then, Raw):
                    await write_raw(request, then)
                await end(request, then)
        return await self._handler(request)


class _Tap(StreamWriter):
    """Writes one answer, counts it, and spoils it where that was asked for."""

    def __init__(self, request: web.BaseRequest, entry: Entry, action: Action | None) -> None:
        super().__init__(request._protocol, request._loop)
        self._request = request
        self._entry = entry
        self._action = action

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        if isinstance(self._action, Cut) and self._action.after is None:
            await end(self._request, self._action.how)
        if self._request.transport is None or self._request.transport.is_closing():
            raise ConnectionResetError("nobody is left to answer")
        self._entry.status = int(status_line.split()[1])
        self._entry.digest = headers.get("Docker-Content-Digest")
        if isinstance(self._action, Headers):
            headers = headers.copy()
            for name, value in self._action.changes.items():
                before = headers.popall(name, [""])[0]
                if value is not None:
                    headers[name] = value(before) if callable(value) else value
        await super().write_headers(status_line, headers)

    async def write(self, chunk: Any, *, drain: bool = True, LIMIT: int = 0x10000) -> None:  # noqa: N803 - as inherited
        await super().write(await self._spoilt(await self._slowed(bytes(chunk))), drain=drain, LIMIT=LIMIT)

    async def write_eof(self, chunk: bytes = b"") -> None:
        chunk = await self._slowed(bytes(chunk))
        await super().write_eof(await self._spoilt(bytes(chunk)) if chunk else b"")

    async def _slowed(self, chunk: bytes) -> bytes:
        """Write all but the last piece of a chunk that goes out slowly; return what is left."""
        if isinstance(self._action, Trickle):
            self.send_headers()
            while len(chunk) > self._action.size:
                await super().write(chunk[: self._action.size])
                self._entry.response_bytes += self._action.size
                chunk = chunk[self._action.size :]
                await asyncio.sleep(self._action.pause)
        return chunk

    async def _spoilt(self, chunk: bytes) -> bytes:
        start = self._entry.response_bytes
        match self._action:
            case Cut(int(after), how) if start + len(chunk) > after:
                self.send_headers()
                await super().write(chunk[: after - start])
                self._entry.response_bytes = after
                await end(self._request, how, answered=after > 0)
            case Corrupt(at) if start <= at < start + len(chunk):
                place = at - start
                chunk = chunk[:place] + bytes([chunk[place] ^ 0xFF]) + chunk[place + 1 :]
        self._entry.response_bytes += len(chunk)
        return chunk


async def write_raw(request: web.BaseRequest, raw: Raw) -> NoReturn:
    """Write what `Raw` says to a request's connection and end it.

    Raises:
        ConnectionResetError: always, for the server to take note.
    """
    transport = request.transport
    if transport is not None:
        transport.write(raw.content)
        while raw.drip and not transport.is_closing():
            transport.write(raw.drip)
            await asyncio.sleep(0.02)
    await end(request, raw.then, answered=bool(raw.content))


async def end(request: web.BaseRequest, how: How, *, answered: bool = False) -> NoReturn:
    """End a request's connection once all that was written has gone out and, if ``answered``, could be read.

    Raises:
        ConnectionResetError: always, for the server to take note.
    """
    transport = request.transport
    if transport is not None:
        while transport.get_write_buffer_size() and not transport.is_closing():
            await asyncio.sleep(0.001)
        if how == "stall":
            # Until the client goes or the server stops; either cancels this.
            await asyncio.Event().wait()
        # A client that writes as the connection ends drops what it has not read yet.
        await asyncio.sleep(0.1 if answered else 0)
        if how == "reset":
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
    raise ConnectionResetError("ended by a fault")


def _query(request: web.BaseRequest) -> str:
    """As it came, nothing unquoted: a signature covers it."""
    return request.raw_path.partition("?")[2]


def _fits(
    method: str, path: str, query: str, wanted: str | None, path_pattern: str | None, query_pattern: str | None
) -> bool:
    return (
        wanted in (None, method)
        and (path_pattern is None or re.search(path_pattern, path) is not None)
        and (query_pattern is None or re.search(query_pattern, query) is not None)
    )
