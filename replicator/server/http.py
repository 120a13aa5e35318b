"""The address that is listened on: its socket, its certificate, and the HTTP server behind it.

Connections to the webhook, bounded before anyone has shown who they are.

uvicorn bounds neither the head of a request nor the time that one may take to arrive: whoever reaches the port could
fill the memory with headers, or hold every connection by sending nothing.
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
"""Bytes of a request that are not its body: request line, headers, chunk sizes, trailers."""
REQUEST_SECONDS = 15.0
"""For a request to arrive, from a connection's start or the request's first byte; more than its body alone may take."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's connection over httptools, closed when its request is too large beside the body, or too slow."""

    _deadline: asyncio.TimerHandle | None = None
    _beside_body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        if self.client is not None:
            # Lists of addresses name an IPv4 sender as what it is, on a socket for both too.
            self.client = (plain_address(self.client[0]), self.client[1])
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request, unless it is too much."""
        if self.transport.is_closing():
            return
        if self._deadline is None:
            self._wait()
        self._beside_body += len(data)
        super().data_received(data)
        if self._beside_body > MAX_HEAD and not self.transport.is_closing():
            self.logger.warning("HTTP request refused: more than %d bytes beside its body", MAX_HEAD)
            self.send_400_response(f"more than {MAX_HEAD} bytes beside the body")

    def on_body(self, body: bytes) -> None:
        """Leave the body to the application, which bounds it."""
        self._beside_body -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait no more: the request is here."""
        self._beside_body = 0
        self._wait_no_more()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse, and close; a request that is still being answered has no one left to answer to."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        super().send_400_response(msg)

    def _wait(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


_BACKLOG = 2048
_CLOSE_SECONDS = 3
"""What requests under way get to end once the listener closes; more than the queue's own deadline."""


class Certificate:
    """The certificate that connections are answered with. It can be renewed while the server runs.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with the key, without a password; None when it is in the same file.

    Raises:
        ConfigError: the files can't be used.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._files = (certificate, key)
        # Python's own choice of versions and ciphers for a server: TLS 1.2 and later.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(self.context)

    def check(self) -> None:
        """Try what the files hold now.

        Raises:
            ConfigError: they can't be used.
        """
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def renew(self) -> None:
        """Answer new connections with what the files hold now.

        Raises:
            ConfigError: they can't be used; what was in force stays.
        """
        # A certificate without its key would take the place of one that works, so it is tried elsewhere first.
        self.check()
        self._load(self.context)

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self._files
        try:
            # An empty password, as OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                message = f"{certificate} and {key or 'its key'}: no certificate and key in PEM form that fit together"
                message += f", the key without a password ({error.reason or error})"
            else:
                missing = certificate if not certificate.exists() else key or certificate
                message = f"{missing} can't be read: {error.strerror or error}"
            raise ConfigError("settings", [Problem("REPLICATOR_TLS_CERTIFICATE", message)]) from None


def certificate_of(settings: Settings) -> Certificate | None:
    """Read the certificate that the settings name; None when they name none.

    Raises:
        ConfigError: it can't be used, or there is a key alone.
    """
    if settings.tls_certificate is not None:
        return Certificate(settings.tls_certificate, settings.tls_key)
    if settings.tls_key is not None:
        message = "a key without a certificate; set REPLICATOR_TLS_CERTIFICATE too"
        raise ConfigError("settings", [Problem("REPLICATOR_TLS_KEY", message)])
    return None


def listen(address: str, variable: str) -> socket.socket:
    """Bind an address; done before anything else is started, so that a second instance fails at once.

    Args:
        address: ``host:port``.
        variable: the setting it is from.

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
        address: ``host:port``; an empty host means every address, of IPv4 and IPv6.

    Raises:
        OSError: it can't be bound.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host)))
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


class Server(uvicorn.Server):
    """A uvicorn that leaves signals to the process, and says where it listens once it does.

    Args:
        app: what answers.
        told: is given each address as a URL without a path.
        certificate: what HTTPS is served with; None for plain HTTP.
        proxies: addresses and networks whose ``X-Forwarded-For`` is believed.
    """

    def __init__(
        self,
        app: ASGIApp,
        told: Callable[[URL], None],
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
        self._told = told

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            self._told(URL(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"))
