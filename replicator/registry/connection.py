"""Connections to one registry: its address, its TLS, requests and replies, and words for what went wrong.

A registry names further hosts, in redirects and for tokens. A hostile one could name services that trust their
neighbours: a database on this machine, or a cloud's metadata service. So a registry may not lead to an address of this
machine, unless it is at such an address itself. The check is made on the address at the moment of connecting, so a
name that changes its address between two look-ups (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from replicator.networks import is_internal
from replicator.registry.errors import CertificateRefused, ConnectionFailed, NoTls, ProtocolViolated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aiohttp import AddrInfoType
    from multidict import CIMultiDictProxy

    from replicator.registry.credentials import Access
    from replicator.registry.errors import RegistryError


@dataclass(frozen=True, slots=True)
class Request:
    """One request. As text it is method and path, without the query, which may hold a signature.

    Attributes:
        method: GET, HEAD, POST, PUT or DELETE.
        url: from `Transport.url`, or from a Location.
        scopes: what the token must allow, ``repository:<name>:<actions>`` each.
        headers: further headers.
        body: bytes, which every attempt sends again, or a stream, which can be sent only once.
        basic: send HTTP Basic without a challenge, as the REST APIs beside the registry expect it.
    """

    method: str
    url: URL
    scopes: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] | None = None
    basic: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.url.path}"

    @property
    def streams(self) -> bool:
        """Whether the body is a stream."""
        return self.body is not None and not isinstance(self.body, bytes)


@dataclass(frozen=True, slots=True)
class Reply:
    """A short answer, read whole; ``url`` is its origin, the base of a relative Location."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: URL


_refuse_internal: ContextVar[bool] = ContextVar("refuse_internal", default=False)
"""Set while a request to a foreign host is sent: aiohttp's socket factory is told nothing about the request."""


class AddressRefused(OSError):
    """A connection would lead to an internal address that it must not lead to."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "an address of this machine or of its cloud's metadata: refused")


class AddressGuard:
    """The hosts that one registry may lead to.

    Args:
        registry: the host the rules name.
    """

    def __init__(self, registry: str) -> None:
        self._name = URL(f"//{registry}").host
        self._is_internal: bool | None = None

    def is_own(self, url: URL, base: URL) -> bool:
        """Tell whether a URL is at the registry itself: at its address, or at its public name."""
        return url.host in (base.host, self._name)

    def tls_at(self, url: URL, tls: ssl.SSLContext | bool, base: URL | None) -> ssl.SSLContext | bool:
        """Return what aiohttp takes as ``ssl`` for one request.

        Verification is off for the registry itself only; a storage host that it redirects to is verified.

        Args:
            url: the target of the request.
            tls: the setting for the registry: False for no verification.
            base: the registry's address; None while that is being found out.
        """
        if tls is not False or base is None or self.is_own(url, base):
            return tls
        return True

    @asynccontextmanager
    async def towards(self, url: URL, base: URL | None) -> AsyncIterator[None]:
        """Make `open_socket` refuse internal addresses while a request to a foreign host is sent in this block.

        Args:
            url: the target of the request.
            base: the registry's address; None while that is being found out.
        """
        foreign = base is not None and not self.is_own(url, base)
        # A registry at an internal address, as in a test or a single-host setup, may lead to its neighbours.
        before = _refuse_internal.set(foreign and not await self._internal(base))
        try:
            yield
        finally:
            _refuse_internal.reset(before)

    async def _internal(self, base: URL | None) -> bool:
        if self._is_internal is None and base is not None:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(base.host, base.port, type=socket.SOCK_STREAM)
            except OSError:
                # Not remembered: the name may resolve next time. The request itself will say that it does not.
                return False
            self._is_internal = any(is_internal(str(address[0])) for *_, address in found)
        return self._is_internal or False


def open_socket(address: AddrInfoType) -> socket.socket:
    """Make the socket for a connection; aiohttp's ``socket_factory``.

    Args:
        address: a result of ``getaddrinfo``.

    Raises:
        AddressRefused: the request is `towards` a foreign host, and the address is an internal one.
    """
    family, kind, protocol, _, (host, *_) = address
    if _refuse_internal.get() and is_internal(str(host)):
        raise AddressRefused
    return socket.socket(family, kind, protocol)


_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
"""OpenSSL's reasons for an answer that is not TLS, such as one of plain HTTP."""

_WRONG_NAME = "use the name that is in the certificate, or have one issued for this name"
_CERTIFICATE_ADVICE = {
    9: "check this machine's clock; if it is right, the certificate was installed too early",
    10: "it has to be renewed there, unless this machine's clock is ahead",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}
"""Advice about a certificate, by OpenSSL's ``X509_V_ERR_…``; an unknown authority has many numbers."""


def explicit_base(registry: str, access: Access) -> URL | None:
    """Return the address to connect to, ``http(s)://host[:port]``; None if the scheme must be found out."""
    # Only insecure registries have their scheme found out: others must never be downgraded to plain HTTP.
    address = access.endpoint or registry
    if "://" in address:
        return URL(address).origin()
    return None if access.insecure else URL(f"https://{address}")


def names_registry(url: URL, registry: str) -> bool:
    """Tell whether a URL is at the registry's public name: the same host and port; a default port may be left out."""
    public = URL(f"//{registry}")
    port = public.explicit_port
    return url.host == public.host and (url.is_default_port() if port is None else url.port == port)


def tls_of(access: Access) -> ssl.SSLContext | bool:
    """Return what aiohttp takes as ``ssl``: False for no verification, True for the system's authorities."""
    if access.insecure:
        return False
    if access.ca_file is None:
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=access.ca_file)
    return context


def connection_error(url: URL, error: Exception) -> RegistryError:
    """Return the error for a missing answer, or for half of one.

    Args:
        url: the target of the request.
        error: the exception of the client library.
    """
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
        return ProtocolViolated(f"led to {url.host}:{url.port}, {error.os_error.strerror}")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return CertificateRefused(*certificate_words(url, error))
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = getattr(error.os_error, "reason", None) or error.os_error
        kind = NoTls if reason in _NO_TLS else ConnectionFailed
        advice = "if the registry speaks plain HTTP, set insecure: true"
        return kind(f"no TLS with {url.host}:{url.port} ({reason})", advice)
    return ConnectionFailed(connection_words(url, error))


def connection_words(url: URL, error: Exception) -> str:
    """Say why a connection failed, for a person."""
    where = f"{url.host}:{url.port}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection to {where} in time: is it reachable from here?"
    if isinstance(error, TimeoutError):
        return f"{where} stopped answering"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {url.host} can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"can't connect to {where}: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer of {where} is not HTTP"
    # The client library's own words may quote the whole URL, and its query can hold a signature.
    words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return f"the connection to {where} broke: {words if words and '?' not in words else type(error).__name__}"


def certificate_words(url: URL, error: aiohttp.ClientConnectorCertificateError) -> tuple[str, str]:
    """Return why a certificate is not trusted, and what to do."""
    reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
    code = getattr(error.certificate_error, "verify_code", 0)
    advice = _CERTIFICATE_ADVICE.get(
        code, "name its authority with ca_file, or turn verification off with insecure: true"
    )
    return f"the TLS certificate of {url.host}:{url.port} is not trusted ({reason})", advice


def resolve(base: URL, location: str) -> URL:
    """Resolve a Location without quoting it again, which would break a presigned URL.

    Args:
        base: the URL of the request.
        location: absolute or relative.

    Raises:
        ProtocolViolated: it is not an HTTP URL.
    """
    try:
        target = base.join(URL(location, encoded=True))
        usable = target.scheme in ("http", "https") and bool(target.host)
    except ValueError:
        usable = False
    if not usable:
        raise ProtocolViolated("the Location in the answer is not an HTTP URL")
    return target


def follow(reply: Reply, target: str, *, registry: str, access: Access) -> URL:
    """Return the URL that an answer points to for the next request at the same registry, its query kept.

    Args:
        reply: the answer.
        target: its Location, or the target of its Link; absolute or relative.
        registry: the host the rules name.
        access: its address.

    Raises:
        ProtocolViolated: it is not at this registry.
    """
    url = resolve(reply.url, target)
    if url.origin() == reply.url.origin():
        return url
    # Behind a proxy, or under another address, a registry calls itself by its public name and scheme; the request
    # still goes to the address that answered.
    own_names = {reply.url.host, URL(f"//{registry}").host}
    if url.host not in own_names and access.endpoint is None:
        raise ProtocolViolated(f"the answer leads to another host, {url.host}: refused")
    return URL(f"{reply.url.origin()}{url.raw_path_qs}", encoded=True)


async def read_body(
    response: aiohttp.ClientResponse,
    limit: int,
    on_bytes: Callable[[int], None],
    *,
    within: float | None = None,
    partial: bool = False,
) -> bytes:
    """Read at most ``limit`` bytes.

    Args:
        response: the answer.
        limit: in bytes.
        on_bytes: called with the number of bytes as they arrive.
        within: seconds for all of it; None leaves the limit of each single read.
        partial: return what arrived if the rest does not.

    Raises:
        ConnectionFailed: it broke off or took too long, and ``partial`` is False.
    """
    chunks = bytearray()
    try:
        async with asyncio.timeout(within):
            # Not response.read(): that has no limit.
            while len(chunks) < limit and (chunk := await response.content.read(limit - len(chunks))):
                on_bytes(len(chunk))
                chunks += chunk
    except (aiohttp.ClientError, OSError) as error:
        if not partial:
            raise connection_error(response.url, error) from error
    return bytes(chunks)
