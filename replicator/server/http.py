"""The HTTP server: its socket, its TLS certificate, and uvicorn with bounds on what a stranger can send.

uvicorn limits neither the size of a request's head nor the time it may take to arrive: anyone who reaches the port
could fill the memory with headers, or hold every connection open by sending nothing. Starlette bounds no body. Each
request has an id, in the answer and in the logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
import time
from typing import TYPE_CHECKING

import structlog
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from yarl import URL

from replicator.errors import ConfigError, Problem
from replicator.networks import plain_address
from replicator.settings import split_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from replicator.settings import Settings

MAX_HEAD = 64 * 1024
"""Bytes of a request beside its body: request line, headers, chunk sizes, trailers."""
REQUEST_SECONDS = 15.0
"""For a whole request to arrive, from the connection's start or the request's first byte."""
_BACKLOG = 2048
_CLOSE_SECONDS = 3
"""For requests in progress when the server stops; more than the queue's own deadline."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol over httptools, which closes a connection whose request is too large or too slow."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start the deadline of the first request."""
        super().connection_made(transport)
        if self.client is not None:
            # A socket for both families shows an IPv4 sender as ::ffff:…, but REPLICATOR_WEBHOOK_SOURCES names IPv4.
            self.client = (plain_address(self.client[0]), self.client[1])
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a part of a request, and refuse the request once its head is too large."""
        if self.transport.is_closing():
            return
        if self._deadline is None:
            self._start_deadline()
        # Everything counts as head until `on_body` subtracts what the parser found to be body.
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD and not self.transport.is_closing():
            self.logger.warning("HTTP request refused: more than %d bytes beside its body", MAX_HEAD)
            self.send_400_response(f"more than {MAX_HEAD} bytes beside the body")

    def on_body(self, body: bytes) -> None:
        """Leave the body to the application, which bounds it itself."""
        self._head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Cancel the deadline: the request is complete."""
        self._head_bytes = 0
        self._cancel_deadline()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse and close; a request still being answered is told that its client is gone."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        super().send_400_response(msg)

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Certificate:
    """The server's TLS certificate, which can be renewed while the server runs.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with the key, without a password; None if it is in the same file.

    Raises:
        ConfigError: the files can't be used.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._files = (certificate, key)
        # Python's own choice of versions and ciphers for a server: TLS 1.2 and later.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(self.context)

    def check(self) -> None:
        """Try what the files contain now, without using it.

        Raises:
            ConfigError: they can't be used.
        """
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def renew(self) -> None:
        """Use what the files contain now for new connections.

        Raises:
            ConfigError: they can't be used; the previous certificate stays in use.
        """
        # Loading replaces the certificate before it checks the key, so a bad pair would break the context in use.
        self.check()
        self._load(self.context)

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self._files
        try:
            # Without a password given, OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                message = f"{certificate} and {key or 'its key'} must be a matching PEM certificate and key"
                message += f", the key without a password ({error.reason or error})"
            else:
                missing = certificate if not certificate.exists() else key or certificate
                message = f"{missing} can't be read: {error.strerror or error}"
            raise ConfigError("settings", [Problem("REPLICATOR_TLS_CERTIFICATE", message)]) from None


def certificate_of(settings: Settings) -> Certificate | None:
    """Load the certificate that the settings name; None if they name none.

    Raises:
        ConfigError: it can't be used, or there is only a key.
    """
    if settings.tls_certificate is not None:
        return Certificate(settings.tls_certificate, settings.tls_key)
    if settings.tls_key is not None:
        message = "a key without a certificate; set REPLICATOR_TLS_CERTIFICATE too"
        raise ConfigError("settings", [Problem("REPLICATOR_TLS_KEY", message)])
    return None


def listen(address: str, variable: str) -> socket.socket:
    """Listen on an address; the first thing to start, so that a second instance fails at once.

    Args:
        address: ``host:port``.
        variable: the setting that it comes from, for the error.

    Raises:
        ConfigError: it can't be listened on.
    """
    try:
        listener = bind(address)
        try:
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        problem = Problem(variable, f"{address}: can't be listened on: {error.strerror or error}")
        raise ConfigError("settings", [problem]) from None
    return listener


def bind(address: str) -> socket.socket:
    """Bind an address without listening on it.

    Args:
        address: ``host:port``; an empty host, or ``[::]``, means every IPv4 and IPv6 address.

    Raises:
        OSError: it can't be bound.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Both families for every address, whatever the system's default is.
            both = host in ("", "::") and socket.has_dualstack_ipv6()
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


class Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process, and reports when and where it listens.

    Args:
        app: the application.
        on_listening: called with each address, as a URL without a path, once connections are accepted.
        certificate: serves HTTPS; None for plain HTTP.
        proxies: addresses and networks whose ``X-Forwarded-For`` is trusted.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_listening: Callable[[URL], None],
        *,
        certificate: Certificate | None = None,
        proxies: str | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=proxies is not None,
                forwarded_allow_ips=proxies.replace(",", " ").split() if proxies is not None else [],
                timeout_graceful_shutdown=_CLOSE_SECONDS,
                ssl_context_factory=None if certificate is None else lambda _, __: certificate.context,
            )
        )
        self._on_listening = on_listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: the process handles signals itself."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            self._on_listening(URL(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"))


log = structlog.get_logger("replicator.access")

HEADER = "X-Request-ID"
"""The header of every answer with the request's id."""
MAX_PATH = 200
"""Characters of a path in the log."""
_DISCARDED = 8
"""An oversized body is read up to so many times its limit: a sender cut off in the middle never reads the answer."""
_BODY_SECONDS = 5.0
_CLOSE = {"Connection": "close"}
"""After an unread body, a kept connection would parse the rest of it as the next request."""


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body of a request, up to ``limit`` bytes.

    Raises:
        HTTPException: 413 if it is larger, 408 if it takes too long, 400 if the connection breaks.
    """
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    body += chunk
                elif size > _DISCARDED * limit:
                    break
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {_BODY_SECONDS:g} s", _CLOSE) from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection broke before the body was complete") from None
    if size > limit:
        raise HTTPException(413, f"the body has more than {limit} bytes", _CLOSE)
    return bytes(body)


def client_of(request: Request) -> str | None:
    """Return the address that a request came from, as far as the server knows it."""
    return request.client.host if request.client is not None else None


class RequestIdMiddleware:
    """Gives every request an id, and optionally logs it.

    The id is always our own: one that a client sends could be anyone's, and would mix up the logs.

    Args:
        app: the application.
        access_log: log a line for every request, without its query, which may hold a password by mistake.
    """

    def __init__(self, app: ASGIApp, *, access_log: bool) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status = secrets.token_hex(8), time.monotonic(), 0
        # Also for the application: the webhook falls back on it where an event has no id.
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                if self._access_log:
                    self._log(scope, status, time.monotonic() - began)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        client = scope.get("client")
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"][:MAX_PATH],
            client=client[0] if client else None,
            status=status,
            seconds=round(seconds, 3),
        )
