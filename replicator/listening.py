"""The address that is listened on: its socket, its certificate, and the HTTP server behind it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import uvicorn
from yarl import URL

from replicator.connections import BoundedProtocol
from replicator.errors import ConfigError, Problem
from replicator.settings import split_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

    from replicator.settings import Settings

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
