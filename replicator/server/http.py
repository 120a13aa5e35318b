"""The HTTP server: its socket, its TLS certificate, and uvicorn with bounds on the input of strangers.

Starlette bounds no body; what else a stranger can send is bounded in `replicator.server.connections`. Each request has
an id, in the answer and in the logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from yarl import URL

from replicator.errors import ConfigError, Problem
from replicator.networks import Certificate, split_address
from replicator.server.connections import BoundedProtocol, Pieces, Strangers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from replicator.settings import Settings

MOST_STRANGERS = 512
"""Connections that have shown no valid token or password; so many fit into 64 MiB."""
MOST_TLS_STRANGERS = 256
"""The same over TLS, which takes 150 KiB for each."""
HANDSHAKE_SECONDS = 15.0
"""For a TLS handshake."""
_BACKLOG = 2048
_CLOSE_SECONDS = 3
"""For requests in progress when the server stops; more than the queue's own deadline."""
_ACCEPTED_AT_ONCE = 64
_ACCEPT_PAUSE = 1.0
"""When there are no files left, or no memory."""

_server = structlog.get_logger("replicator.http")


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
        taken = error.errno == errno.EADDRINUSE
        why = "another program listens there; stop it, or" if taken else f"{error.strerror or error};"
        option = " (serve --listen)" if variable == "REPLICATOR_LISTEN" else ""
        cure = f"set {variable}{option} to another {'port' if taken else 'address'}"
        message = f"{address}: can't be listened on: {why} {cure}"
        raise ConfigError("settings", [Problem(variable, message)]) from None
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
            # Both families for every address, independent of the system's default.
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
        self._tls = certificate.context if certificate is not None else None
        self._strangers = Strangers(MOST_STRANGERS if certificate is None else MOST_TLS_STRANGERS)
        self._accepting: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: the process handles signals itself."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections.

        Not as uvicorn does it: asyncio's servers do not report connections that have not finished their handshake.
        """
        await self.lifespan.startup()
        self.servers = []
        for listener in sockets or ():
            self._begin(self._accept(listener))
            host, port = listener.getsockname()[:2]
            scheme = "http" if self._tls is None else "https"
            self._on_listening(URL(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to accept connections, and give requests in progress a moment."""
        for task in self._accepting:
            task.cancel()
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        while True:
            try:
                for _ in range(_ACCEPTED_AT_ONCE):
                    accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
                    self._begin(self._connect(accepted))
            except ConnectionError:
                continue
            except OSError as error:
                _server.error("no connection accepted", error=error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE)
            # While more connections wait, accepting does not, and the requests of these want to be served.
            await asyncio.sleep(0)

    async def _connect(self, accepted: socket.socket) -> None:
        """Make the TLS handshake, if there is one, and serve the connection."""
        protocol = BoundedProtocol(
            self._strangers, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        if self._tls is not None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - this is one
            self._strangers.add(protocol, task.cancel)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Pieces(protocol),
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls is not None else None,
                ssl_shutdown_timeout=_CLOSE_SECONDS if self._tls is not None else None,
            )
        except OSError:
            # No handshake, or one that took too long: such a client is not worth a report.
            self._strangers.remove(protocol)
        except asyncio.CancelledError:
            self._strangers.remove(protocol)
            raise

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)


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
