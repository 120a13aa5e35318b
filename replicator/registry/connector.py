"""Connections as aiohttp opens, keeps and reads them, and a short way to send a short request on one.

What differs from aiohttp's own: an https:// proxy is verified by the system's authorities, interim answers are bounded,
and `ShortRequests` leave out the half of a request's processor time that goes into what no short request needs.
"""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from replicator.registry.connection_errors import ProxyNotVerified

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace
    from yarl import URL


READ_BUFFER = 256 * 1024
"""Bytes of an answer that aiohttp buffers before it stops reading (at most three times as many): a copy's chunk size.

Twice as many make a copy no faster, and cost 2 MB more for each blob in flight.
"""


MAX_HEADER = 64 * 1024
"""Bytes of the status line, and of each header of an answer: presigned links and proxies' cookies can be long."""


MAX_INTERIM = 100
"""Interim answers (1xx) before the answer to a request: a registry that works for long may send one now and then."""
_HEAD_PIECE = 16 * 1024


class _Protocol(ResponseHandler):
    """aiohttp's side of a connection, which takes only so many interim answers: the parser keeps all that it finds."""

    certified: Callable[[str, float], None] | None = None
    """See `ProxyConnector`."""
    _interim: int | None = None
    """Interim answers to the request that is sent; None once it is answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if self.certified is not None and tls is not None and (certificate := tls.getpeercert()):
            self.certified(tls.server_hostname or "", ssl.cert_time_to_seconds(certificate["notAfter"]))

    def set_response_params(self, **given: Any) -> None:
        self._interim = 0
        super().set_response_params(**given)

    def data_received(self, data: bytes) -> None:
        # In small pieces up to the answer: what arrives at once may hold ten thousand of the others.
        while self._interim is not None and len(data) > _HEAD_PIECE and self.exception() is None:
            super().data_received(data[:_HEAD_PIECE])
            data = data[_HEAD_PIECE:]
        if self._interim is None or self.exception() is None:
            super().data_received(data)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        if self._interim is not None:
            self._interim = self._interim + 1 if 100 <= data[0].code < 200 and data[0].code != 101 else None
        if self._interim is None or self._interim <= MAX_INTERIM:
            super().feed_data(data, size)
        elif self.exception() is None:
            self.set_exception(HttpProcessingError(message=f"more than {MAX_INTERIM} interim answers"))
            if self.transport is not None:
                self.transport.abort()


class ProxyConnector(aiohttp.TCPConnector):
    """A connector that verifies an https:// proxy by the system's authorities, independently of the target's settings.

    aiohttp uses the target's setting for both, so ``insecure: true`` would show the proxy's password to anyone. There
    is no public way to change that; a version of aiohttp without the private one connects to no such proxy. Nor is
    there one to bound interim answers.

    Args:
        certified: hears of certificates, see `replicator.registry.limits.RequestObserver`.
        options: those of aiohttp.
    """

    def __init__(self, *, certified: Callable[[str, float], None] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(self._protocol, certified)

    def _protocol(self, certified: Callable[[str, float], None] | None) -> ResponseHandler:
        protocol = _Protocol(self._loop)
        protocol.certified = certified
        return protocol

    def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Coroutine[Any, Any, aiohttp.connector.Connection]:
        """Return what is awaited for a connection for a request.

        Raises:
            ProxyNotVerified: the proxy is an https:// one, and this aiohttp can't verify it.
        """
        hook = "_update_proxy_auth_header_and_build_proxy_req"
        if req.proxy is not None and req.proxy.scheme == "https" and not hasattr(aiohttp.TCPConnector, hook):
            raise ProxyNotVerified
        return super().connect(req, traces, timeout)

    def _update_proxy_auth_header_and_build_proxy_req(self, req: aiohttp.ClientRequest) -> aiohttp.ClientRequest:
        request = super()._update_proxy_auth_header_and_build_proxy_req(req)
        request._ssl = True  # noqa: SLF001 - the private hook of the class docstring
        if request.ssl is not True:
            raise ProxyNotVerified
        return request


class ShortAnswer:
    """An answer of `ShortRequests`: what of an ``aiohttp.ClientResponse`` is needed to read a short body.

    Args:
        method: of the request.
        url: of the request.
        message: the head of the answer.
        content: its body.
        connection: given back when the answer is released.
    """

    __slots__ = ("_connection", "content", "headers", "method", "status", "url")

    def __init__(
        self,
        method: str,
        url: URL,
        message: RawResponseMessage,
        content: StreamReader,
        connection: aiohttp.connector.Connection,
    ) -> None:
        self.method = method
        self.url = url
        self.status = message.code
        self.headers = message.headers
        self.content = content
        self._connection = connection

    def release(self) -> None:
        """Give the connection back, for the next request if the body was read to its end; else it is closed."""
        self._connection.release()


Answer: TypeAlias = aiohttp.ClientResponse | ShortAnswer
"""An answer whose body may be read."""

_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that end a header, or that no value of one has (RFC 9110, section 5.5)."""


SHORT_BODY = 64 * 1024
"""Bytes of a body up to which a request is a short one: as much as the system takes at once."""


class ShortRequests:
    """Short requests to one origin, on the connections of a session, without its cookies, redirects and traces.

    A session takes twice the processor time for a HEAD, most of it to build what these requests never use. Connections
    are shared with the session's own requests: both name them alike.

    Args:
        session: whose connector and headers are used; it neither decompresses nor has a limit for the whole.
        origin: scheme, host and port.
        tls: what aiohttp takes as ``ssl``.
    """

    def __init__(self, session: aiohttp.ClientSession, origin: URL, tls: ssl.SSLContext | bool) -> None:
        assert session.connector is not None  # noqa: S101 - a programming error
        self._connector = session.connector
        # Names the connections, and tells the connector how to open one.
        self._opening = aiohttp.ClientRequest("GET", origin, ssl=tls, loop=asyncio.get_running_loop(), session=session)
        self._headers = {"Host": origin.host_port_subcomponent or "", "Accept": "*/*", **session.headers}

    async def send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        *,
        body: bytes | None = None,
        once: bool = False,
    ) -> ShortAnswer:
        """Send a request, once more if a kept connection turns out to be closed, and return the answer.

        Args:
            method: any.
            url: at the origin.
            headers: beside ``Host``, ``Content-Length`` and those of the session.
            timeout: of which ``connect``, ``sock_connect`` and ``sock_read`` count.
            body: up to `SHORT_BODY` bytes.
            once: never send it again; so it is with a POST.

        Raises:
            aiohttp.ClientError, TimeoutError, ValueError: as of ``ClientSession.request``.
        """
        sent = {**self._headers, **headers}
        if method not in ("GET", "HEAD"):
            sent["Content-Length"] = str(len(body or b""))
        if _FORBIDDEN.search("".join((url.raw_path_qs, *sent.values()))):
            raise ValueError("a control character in the URL or in a header")
        lines = [f"{method} {url.raw_path_qs} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        # What a POST asks for may have been done, although its answer got lost.
        data, repeated = "\r\n".join(lines).encode() + (body or b""), once or method == "POST"
        while True:
            try:
                connection = await self._connector.connect(self._opening, [], timeout)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {url}") from error
            try:
                message, content = await _exchange(connection, data, timeout.sock_read, has_body=method != "HEAD")
                return ShortAnswer(method, url, message, content, connection)
            except HttpProcessingError as error:
                connection.close()
                info = aiohttp.RequestInfo(url, method, CIMultiDictProxy(CIMultiDict(headers)), url)
                raise aiohttp.ClientResponseError(
                    info, (), status=error.code, message=error.message, headers=error.headers
                ) from error
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                connection.close()
                if repeated:
                    raise
                repeated = True
            except BaseException:
                connection.close()
                raise


async def _exchange(
    connection: aiohttp.connector.Connection, data: bytes, read_timeout: float | None, *, has_body: bool
) -> tuple[RawResponseMessage, StreamReader]:
    """Send a request on a connection, and return the head of the answer, with the body that follows."""
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or transport.is_closing():
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(
        skip_payload=not has_body,
        read_until_eof=True,
        auto_decompress=False,
        read_timeout=read_timeout,
        read_bufsize=READ_BUFFER,
        max_line_size=MAX_HEADER,
        max_field_size=MAX_HEADER,
    )
    transport.write(data)
    protocol.start_timeout()
    while True:
        message, content = await protocol.read()
        if not 100 <= message.code < 200 or message.code == 101:
            return message, content
