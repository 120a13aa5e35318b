"""The HTTP server: its socket, its TLS certificate, and uvicorn with bounds on what a stranger can send.

uvicorn limits neither the size of a request's head nor the time it may take to arrive: anyone who reaches the port
could fill the memory with headers, or hold every connection open by sending nothing.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from yarl import URL

from replicator.errors import ConfigError, Problem
from replicator.networks import plain_address
from replicator.settings import split_address

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

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
        address: ``host:port``; an empty host means every IPv4 and IPv6 address.

    Raises:
        OSError: it can't be bound.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Both families for an empty host, whatever the system's default is.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host)))
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
