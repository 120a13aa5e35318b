"""What it takes to connect to a registry: its address, its TLS, and words for what went wrong.

Which addresses a registry may lead to: not this machine's own, unless it is there itself.

A registry names further hosts, in redirects and for tokens. One that is hostile could name services that trust
whoever is near: a database on this machine, or a cloud's metadata service. What counts is the address that a name
stands for at the moment of connecting, so a name that changes its address meanwhile gains nothing.

Where an answer points to: the Location of a redirect or of an upload, the target of a Link.

The body of a short answer, read into memory within its bounds.

A short answer of a registry, as a value.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from replicator.networks import is_internal
from replicator.registry.errors import CertificateRefused, ConnectionFailed, NoTls, ProtocolViolated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import AddrInfoType
    from multidict import CIMultiDictProxy

    from replicator.registry.credentials import Access
    from replicator.registry.errors import RegistryError

_keeping_out: ContextVar[bool] = ContextVar("keeping_out", default=False)


class AddressRefused(OSError):
    """A connection would lead to an internal address that it must not lead to."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "an address of this machine or of its cloud's metadata: refused")


class AddressGuard:
    """Where one registry may lead.

    Args:
        registry: the host the rules name.
    """

    def __init__(self, registry: str) -> None:
        self._name = URL(f"//{registry}").host
        self._is_internal: bool | None = None

    def is_own(self, url: URL, base: URL) -> bool:
        """Tell whether a URL is at the registry itself: where it is reached, or at its public name."""
        return url.host in (base.host, self._name)

    def tls_at(self, url: URL, tls: ssl.SSLContext | bool, base: URL | None) -> ssl.SSLContext | bool:
        """Return what aiohttp takes as ``ssl`` for one request.

        Verification is off for the registry itself only; a storage host it redirects to is verified.

        Args:
            url: where the request goes.
            tls: what is taken for the registry: False for no verification.
            base: where the registry is reached; None while that is found out.
        """
        if tls is not False or base is None or self.is_own(url, base):
            return tls
        return True

    @asynccontextmanager
    async def towards(self, url: URL, base: URL | None) -> AsyncIterator[None]:
        """Send a request to a URL in here: `open_socket` then refuses internal addresses to foreign hosts.

        Args:
            url: what is asked for.
            base: where the registry is reached; None while that is found out.
        """
        foreign = base is not None and not self.is_own(url, base)
        before = _keeping_out.set(foreign and not await self._internal(base))
        try:
            yield
        finally:
            _keeping_out.reset(before)

    async def _internal(self, base: URL | None) -> bool:
        if self._is_internal is None and base is not None:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(base.host, base.port, type=socket.SOCK_STREAM)
            except OSError:
                return False
            self._is_internal = any(is_internal(str(where[0])) for *_, where in found)
        return self._is_internal or False


def open_socket(address: AddrInfoType) -> socket.socket:
    """Make the socket for a connection, as aiohttp's connector asks for it.

    Args:
        address: what ``getaddrinfo`` gave.

    Raises:
        AddressRefused: the request is `towards` a foreign host, and the address is an internal one.
    """
    family, kind, protocol, _, where = address
    if _keeping_out.get() and is_internal(str(where[0])):
        raise AddressRefused
    return socket.socket(family, kind, protocol)


_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
"""What OpenSSL says of an answer that is none of TLS, such as one of plain HTTP."""

_WRONG_NAME = "name the registry as its certificate does, or have one issued for this name"
_CERTIFICATE_ADVICE = {
    9: "it is too early for it: is this machine's clock behind, or was it put in place too soon",
    10: "it has to be renewed there, unless this machine's clock is ahead",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}
"""What to do about a certificate, by OpenSSL's ``X509_V_ERR_…``; an authority that is unknown has many numbers."""


def explicit_base(registry: str, access: Access) -> URL | None:
    """Return the address to connect to, ``http(s)://host[:port]``; None when the scheme must be found out."""
    address = access.endpoint or registry
    if "://" in address:
        return URL(address).origin()
    return None if access.insecure else URL(f"https://{address}")


def names_registry(url: URL, registry: str) -> bool:
    """Tell whether a URL is at the registry's public name: the same host, and its port, which may go unsaid."""
    public = URL(f"//{registry}")
    port = public.explicit_port
    return url.host == public.host and (url.is_default_port() if port is None else url.port == port)


def describe(method: str, url: URL) -> str:
    """Name a request in an error: method and path, without the query, which may hold a signature."""
    return f"{method} {url.path}"


def tls_of(access: Access) -> ssl.SSLContext | bool:
    """Return what aiohttp takes as ``ssl``: False for no verification, True for the system's authorities."""
    if access.insecure:
        return False
    if access.ca_file is None:
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=access.ca_file)
    return context


def connection_error(registry: str, request: str, url: URL, error: Exception) -> RegistryError:
    """Return what it means that there was no answer, or only half of one.

    Args:
        registry: the host the rules name.
        request: method and path.
        url: what was asked for.
        error: what the client library raised.
    """
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
        return ProtocolViolated(registry, request, f"led to {url.host}:{url.port}, {error.os_error.strerror}")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return CertificateRefused(registry, request, certificate_words(url, error))
    no_tls = isinstance(error, aiohttp.ClientConnectorSSLError) and getattr(error.os_error, "reason", "") in _NO_TLS
    return (NoTls if no_tls else ConnectionFailed)(registry, request, connection_words(url, error))


def connection_words(url: URL, error: Exception) -> str:
    """Say what became of a connection, for a person."""
    where = f"{url.host}:{url.port}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection to {where} in time: is it reachable from here?"
    if isinstance(error, TimeoutError):
        return f"{where} stopped answering"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {url.host} can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = getattr(error.os_error, "reason", None) or error.os_error
        return f"no TLS with {where} ({reason}): if it speaks plain HTTP, that needs insecure: true"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"can't connect to {where}: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"what {where} answered is not HTTP"
    # The client library's own words may quote the whole URL, and its query can hold a signature.
    words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return f"the connection to {where} broke: {words if words and '?' not in words else type(error).__name__}"


def certificate_words(url: URL, error: aiohttp.ClientConnectorCertificateError) -> str:
    """Say why a certificate is not trusted, and what to do."""
    reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
    code = getattr(error.certificate_error, "verify_code", 0)
    advice = _CERTIFICATE_ADVICE.get(
        code, "name its authority with ca_file, or turn verification off with insecure: true"
    )
    return f"the TLS certificate of {url.host}:{url.port} is not trusted ({reason}): {advice}"


def resolve(base: URL, location: str, *, registry: str, request: str) -> URL:
    """Resolve a Location, as it is, since a presigned URL breaks when it is quoted anew.

    Args:
        base: what was asked.
        location: absolute or relative.
        registry: the host the rules name, for the error.
        request: method and path, for the error.

    Raises:
        ProtocolViolated: it is no HTTP URL.
    """
    try:
        target = base.join(URL(location, encoded=True))
        usable = target.scheme in ("http", "https") and bool(target.host)
    except ValueError:
        usable = False
    if not usable:
        raise ProtocolViolated(registry, request, "the Location in the answer is not an HTTP URL")
    return target


def follow(reply: Reply, target: str, *, registry: str, access: Access, request: str) -> URL:
    """Return the URL that an answer points to for the next request at the same registry, its query kept.

    Args:
        reply: the answer.
        target: its Location, or the target of its Link; absolute or relative.
        registry: the host the rules name.
        access: how it is reached.
        request: method and path, for the error.

    Raises:
        ProtocolViolated: it is not at this registry.
    """
    url = resolve(reply.url, target, registry=registry, request=request)
    if url.origin() == reply.url.origin():
        return url
    # Behind a proxy, or reached at another address, a registry names itself by its public name and scheme; the
    # request still goes where this registry is reached.
    own_names = {reply.url.host, URL(f"//{registry}").host}
    if url.host not in own_names and access.endpoint is None:
        raise ProtocolViolated(registry, request, f"the answer leads to another host, {url.host}: refused")
    return URL(f"{reply.url.origin()}{url.raw_path_qs}", encoded=True)


async def read_body(
    response: aiohttp.ClientResponse,
    limit: int,
    on_bytes: Callable[[int], None],
    *,
    registry: str,
    request: str | None,
    within: float | None,
) -> bytes:
    """Read at most ``limit`` bytes.

    Args:
        response: whose body.
        limit: bytes at the most.
        on_bytes: told the number of bytes as they arrive.
        registry: the host the rules name, for the error.
        request: what was asked, for the error; None leaves out what fails.
        within: seconds that it may take in all; None for as long as each read's own limit allows.

    Raises:
        ConnectionFailed: it broke off or took too long, and a request is named.
    """
    chunks = bytearray()
    try:
        async with asyncio.timeout(within):
            while len(chunks) < limit and (chunk := await response.content.read(limit - len(chunks))):
                on_bytes(len(chunk))
                chunks += chunk
    except (aiohttp.ClientError, OSError) as error:
        if request is not None:
            raise connection_error(registry, request, response.url, error) from error
    return bytes(chunks)


@dataclass(frozen=True, slots=True)
class Reply:
    """A short answer, read whole.

    Attributes:
        status: the HTTP status.
        headers: its headers.
        body: its bytes, bounded by what was asked for.
        url: where it came from; what a relative Location is relative to.
    """

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: URL
