"""A proxy to a real registry, for bodies of any size."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.standins.tokens import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

_CHUNK = 256 * 1024
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    }
)
"""Headers that concern one connection only (RFC 9110, section 7.6.1)."""


class Upstream:
    """A server behind a stand-in. Use it as a context manager.

    Args:
        host: ``127.0.0.1:PORT``, spoken to over plain HTTP.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            requote_redirect_url=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            read_bufsize=_CHUNK,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask a question of the stand-in's own; ``path`` is already encoded, its query included."""
        assert self._session is not None, "used outside of its context"
        url = URL(f"http://{self.host}{path}", encoded=True)
        async with self._session.request(method, url, headers=headers, data=body, allow_redirects=False) as response:
            yield response

    async def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> tuple[int, CIMultiDict[str], bytes]:
        """GET ``path`` and return status, headers and the whole body."""
        async with self.request("GET", path, headers=headers) as response:
            return response.status, CIMultiDict(response.headers), await response.read()

    async def put(self, request: web.BaseRequest, body: bytes) -> web.Response:
        """Pass on a manifest that was read, and return the answer before it is sent."""
        passed = {
            "Content-Type": request.headers.get("Content-Type", ""),
            "Host": request.headers.get("Host", self.host),
            "X-Forwarded-Proto": request.scheme,
        }
        try:
            async with self.request("PUT", request.raw_path, headers=passed, body=body) as answer:
                response = web.Response(status=answer.status, body=await answer.read())
                for name in ("Content-Type", "Location", "Docker-Content-Digest"):
                    if name in answer.headers:
                        response.headers[name] = answer.headers[name]
                return response
        except (aiohttp.ClientError, OSError) as error:
            return errors(502, "UNAVAILABLE", f"the registry behind failed: {error}")

    async def forward(
        self,
        request: web.BaseRequest,
        *,
        path: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        missing: Callable[[], Awaitable[web.Response]] | None = None,
    ) -> web.StreamResponse:
        """Pass a request on and its answer back, both as streams.

        The server behind is told the public host and scheme, so that its absolute Locations come out right; it is
        not told the caller's ``Authorization``. When it breaks off, so does the connection to the caller.

        Args:
            request: the caller's.
            path: what to ask for instead, encoded, its query included.
            headers: set in the request passed on, over the caller's.
            body: sent instead of the caller's, which then must have been read.
            missing: makes what is answered instead of a 404.
        """
        passed = self._passed_on(request)
        passed.update(headers or {})
        data: bytes | AsyncIterator[bytes] | None = body
        if body is not None:
            passed["Content-Length"] = str(len(body))
        elif request.body_exists:
            data = request.content.iter_chunked(_CHUNK)
        response: web.StreamResponse | None = None
        try:
            async with self.request(request.method, path or request.raw_path, headers=passed, body=data) as answer:
                if answer.status == 404 and missing is not None:
                    return await missing()
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                for name, value in answer.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        response.headers.add(name, value)
                await response.prepare(request)
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    await response.write(chunk)
                await response.write_eof()
        except (aiohttp.ClientError, OSError) as error:
            if response is None and request.transport is not None:
                return web.Response(status=502, text=f"the server behind failed: {error}")
            if request.transport is not None:
                request.transport.abort()
            raise
        return response

    @staticmethod
    def _passed_on(request: web.BaseRequest) -> CIMultiDict[str]:
        passed = CIMultiDict(
            (name, value)
            for name, value in request.headers.items()
            if name.lower() not in _HOP_BY_HOP and name.lower() != "authorization"
        )
        passed["X-Forwarded-Proto"] = request.scheme
        # Left to itself the client library would add its own.
        passed.setdefault("Accept-Encoding", "identity")
        return passed
