"""HTTP POST to an address that a person has configured, for notifications and CloudEvents.

A request goes to no other host, is bounded in time and size, and no part of its address appears in the words about it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from replicator import __version__
from replicator.registry.connection_errors import proxy_error
from replicator.registry.connector import ProxyConnector
from replicator.registry.proxies import Proxies
from replicator.settings import variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from yarl import URL

SECONDS = 10.0
"""For one request and its answer."""
_MAX_ANSWER = 16 * 1024
_MAX_RETRY_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of a request.

    Attributes:
        status: the HTTP status; None if there was no answer.
        failure: why there was none, without secrets.
        body: the beginning of the answer's body.
        retry_after: seconds that the answer asked to wait; None if it did not.
    """

    status: int | None
    failure: str = ""
    body: bytes = b""
    retry_after: float | None = None


class Poster:
    """Posts over a session of `open_poster`."""

    def __init__(self, session: aiohttp.ClientSession, seconds: float, proxies: Proxies) -> None:
        self._session = session
        self._seconds = seconds
        self._proxies = proxies

    async def post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Post once, in bounded time. Raises nothing."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._post(url, body, headers)
        except TimeoutError:
            return Reply(None, f"no answer within {self._seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Not the library's own text: it may quote the address.
            proxy = self._proxies.find(url)
            failed = proxy_error(url, error, proxy) if proxy is not None else None
            return Reply(None, str(failed) if failed is not None else _failure(error))

    async def _post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> Reply:
        proxy = self._proxies.find(url)
        login = proxy.credentials if proxy is not None else {}
        async with self._session.post(
            url,
            data=body,
            headers={**headers, **(login if url.scheme == "http" else {})},
            allow_redirects=False,
            proxy=proxy.url if proxy is not None else None,
            proxy_headers=login,
        ) as response:
            if response.status == 407 and proxy is not None:
                return Reply(None, str(proxy.refusal(url, 407)))
            body_read = bytearray()
            while len(body_read) < _MAX_ANSWER and (part := await response.content.read(_MAX_ANSWER - len(body_read))):
                body_read += part
            return Reply(
                response.status, body=bytes(body_read), retry_after=_seconds(response.headers.get("Retry-After"))
            )


@asynccontextmanager
async def open_poster(seconds: float = SECONDS, *, reuse: bool = False) -> AsyncIterator[Poster]:
    """Open a `Poster`.

    Args:
        seconds: for one request and its answer.
        reuse: whether a connection serves several requests.

    Raises:
        ConfigError: the environment names a proxy that can't be used.
    """
    proxies = Proxies.from_environ(variables())
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        # A compressed answer is left compressed: unpacked it could be huge.
        headers={"User-Agent": f"replicator/{__version__}", "Accept-Encoding": "identity"},
        auto_decompress=False,
        connector=ProxyConnector(force_close=not reuse),
    ) as session:
        yield Poster(session, seconds, proxies)


def _seconds(text: str | None) -> float | None:
    return min(float(text), _MAX_RETRY_AFTER) if text is not None and text.isascii() and text.isdecimal() else None


def _failure(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its TLS certificate is not trusted here: SSL_CERT_FILE can name a private authority"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "the server does not speak TLS: is it plain http://?"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "can't connect: is the host reachable from here?"
    return f"the connection broke: {type(error).__name__}"
