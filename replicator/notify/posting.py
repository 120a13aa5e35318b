"""One request to one receiver: bounded in time and size, to no other host, and with no secret in what is told of it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp

from replicator import __version__
from replicator.notify.formats import post_of
from replicator.notify.verdicts import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.notify.message import Message, Origin
    from replicator.receivers import Receiver

SECONDS = 10.0
"""What a request may take in all."""
_MAX_ANSWER = 16 * 1024
_LONGEST_PAUSE = 3600.0


class Poster:
    """Sends messages.

    Args:
        session: an open client session.
        origin: who tells them.
        seconds: what a request may take in all.
    """

    def __init__(self, session: aiohttp.ClientSession, origin: Origin, seconds: float = SECONDS) -> None:
        self._session = session
        self._origin = origin
        self._seconds = seconds

    async def send(self, receiver: Receiver, message: Message) -> Verdict:
        """Send a message once, and say what became of it. It raises nothing, and takes bounded time."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._send(receiver, message)
        except TimeoutError:
            return Verdict(False, f"no answer within {self._seconds:g} s", again=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The client library's own words may quote the address.
            return Verdict(False, _failure(error), again=True)

    async def _send(self, receiver: Receiver, message: Message) -> Verdict:
        post = post_of(receiver, message, self._origin, time.time())
        async with self._session.post(
            post.url, data=post.body, headers=post.headers, allow_redirects=False
        ) as response:
            body = bytearray()
            while len(body) < _MAX_ANSWER and (part := await response.content.read(_MAX_ANSWER - len(body))):
                body += part
            return judge(receiver.format, response.status, bytes(body), _seconds(response.headers.get("Retry-After")))


@asynccontextmanager
async def open_poster(origin: Origin, seconds: float = SECONDS) -> AsyncIterator[Poster]:
    """Open a `Poster`; what it takes is said there."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        # Nothing is to be compressed, and what is all the same is not unpacked: it could be huge then.
        headers={"User-Agent": f"replicator/{__version__}", "Accept-Encoding": "identity"},
        auto_decompress=False,
        connector=aiohttp.TCPConnector(force_close=True),
    ) as session:
        yield Poster(session, origin, seconds)


def _seconds(text: str | None) -> float | None:
    return min(float(text), _LONGEST_PAUSE) if text is not None and text.isascii() and text.isdecimal() else None


def _failure(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its TLS certificate is not trusted here: SSL_CERT_FILE can name its authority"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "no TLS there: is it plain http://?"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "can't connect: is it reachable from here?"
    return f"the connection broke: {type(error).__name__}"
