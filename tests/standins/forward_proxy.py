"""A forward proxy, as companies have them: CONNECT and absolute-form requests (RFC 9110, section 9.3.6)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from replicator.tasks import cancel_all

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator


@dataclass
class ForwardProxy:
    """A proxy that alone knows where some names lead; any other target is refused with 502.

    Attributes:
        names: the address ``host:port`` behind each target ``host:port``.
        login: ``user:password`` that it asks for; None for no login.
        refuses: the status that it answers everything with; None to serve.
        host: ``127.0.0.1:PORT``, once it runs.
        asked: the request line of each request.
        heads: the headers of each request, in small letters.
    """

    names: dict[str, str]
    login: str | None = None
    refuses: int | None = None
    host: str = ""
    asked: list[str] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        """Serve on 127.0.0.1 for as long as the context lasts, with TLS if there is a server context."""
        tasks: set[asyncio.Task[None]] = set()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=tls)
        self.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            await cancel_all(list(tasks))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            self.asked.append(line)
            self.heads.append(
                {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
            )
            method, target, _ = line.split(" ")
            parts = urlsplit(target)
            place = self.names.get(target if method == "CONNECT" else f"{parts.hostname}:{parts.port or 80}")
            status = self._status(place)
            if status is not None or place is None:
                writer.write(f"HTTP/1.1 {status} no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
                return
            host, _, port = place.rpartition(":")
            behind, towards = await asyncio.open_connection(host, int(port))
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                # One request a connection, so that no later one is passed on unseen.
                kept = [each for each in lines if not each.lower().startswith(("proxy-", "connection:"))]
                path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
                towards.write("\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]).encode())
            try:
                await asyncio.gather(_pipe(reader, towards), _pipe(behind, writer))
            finally:
                towards.transport.abort()
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            # What was written goes first; whoever does not read it does not keep the connection.
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()
            writer.transport.abort()

    def _status(self, place: str | None) -> int | None:
        expected = f"Basic {base64.b64encode(self.login.encode()).decode()}" if self.login is not None else None
        if expected is not None and self.heads[-1].get("proxy-authorization") != expected:
            return 407
        return self.refuses if self.refuses is not None or place is not None else 502


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.close()
