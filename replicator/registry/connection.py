"""Connections to one registry: its address, its TLS, requests and replies, and words for what went wrong.

A registry names further hosts, in redirects and for tokens. A hostile one could name services that trust their
neighbours: a database on this machine, or a cloud's metadata service. So a registry may not lead to an address of this
machine, unless it is at such an address itself. The check is made on the address at the moment of connecting, so a
name that changes its address between two look-ups (DNS rebinding) gains nothing. Behind a proxy only the proxy looks
names up, so only an address that is written out is refused here, and the proxy has to refuse the rest.
"""

from __future__ import annotations

import asyncio
import socket
import zlib
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import aiohttp
import structlog
from yarl import URL

from replicator.networks import is_internal, trusting
from replicator.registry.connection_errors import AddressRefused, connection_error, led_to
from replicator.registry.errors import ConnectionFailed, NoTls, ProtocolViolated, one_line

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping

    from aiohttp import AddrInfoType
    from multidict import CIMultiDictProxy

    from replicator.registry.credentials import Access
    from replicator.registry.proxies import Proxies

T = TypeVar("T")

_log = structlog.get_logger("replicator.registry")


async def unrepeatable(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body that aiohttp sends once: when a kept connection breaks, it repeats what it can read again."""
    yield body


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
        anonymous: send no login, since none is needed: then a 401 says nothing about the login.
        follows: follow redirects of GET and HEAD; if not, a redirect is an answer.
        once: it is not sent again unseen on another connection; the first may be carried out all the same.
    """

    method: str
    url: URL
    scopes: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes | memoryview] | None = None
    basic: bool = False
    anonymous: bool = False
    follows: bool = True
    once: bool = False

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


class TokenSource(Protocol):
    """A way to token endpoints: the transport, which knows TLS, deadlines and retries."""

    async def fetch_token(
        self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None, form: bytes | None = None
    ) -> bytes:
        """GET the realm, or POST a form to it, and return the body of its 200.

        Raises:
            RegistryError: any other answer, or none.
        """

    async def try_basic(self, authorization: str) -> None:
        """Try whether the registry takes a header of HTTP Basic.

        Raises:
            LoginRefused: it does not.
            RegistryError: there was no answer to tell by.
        """


@dataclass(slots=True)
class Refusals:
    """The 401s to one request: how many, whether a young token had its time, and whether the login was tried alone."""

    number: int = 0
    settled: bool = False
    judged: bool = False
    pause: float = 0.0


_refuse_internal: ContextVar[bool] = ContextVar("refuse_internal", default=False)
"""Set while a request to a foreign host is sent: aiohttp's socket factory is told nothing about the request."""


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

    @asynccontextmanager
    async def towards(self, url: URL, base: URL | None, proxies: Proxies) -> AsyncIterator[None]:
        """Make `open_socket` refuse internal addresses while a request to a foreign host is sent in this block.

        A proxy may be at any address, and looks the target up by itself: then only the URL's own words count.

        Args:
            url: the target of the request.
            base: the registry's address; None while that is being found out.
            proxies: how both are reached.

        Raises:
            ProtocolViolated: the target is behind a proxy, and its URL names an internal address.
        """
        foreign = base is not None and not self.is_own(url, base)
        # A registry at an internal address, as in a test or a single-host setup, may lead to its neighbours.
        refuse = foreign and not await self._internal(base, proxies)
        proxied = proxies.find(url) is not None
        if refuse and proxied and names_internal(url.host or ""):
            raise led_to(url, AddressRefused())
        before = _refuse_internal.set(refuse and not proxied)
        try:
            yield
        finally:
            _refuse_internal.reset(before)

    async def _internal(self, base: URL | None, proxies: Proxies) -> bool:
        if self._is_internal is None and base is not None:
            if proxies.find(base) is not None:
                # Its name may mean nothing to this machine.
                return names_internal(base.host or "")
            try:
                found = await asyncio.get_running_loop().getaddrinfo(base.host, base.port, type=socket.SOCK_STREAM)
            except OSError:
                # Not remembered: the name may resolve next time. The request itself will say that it does not.
                return False
            self._is_internal = any(is_internal(str(address[0])) for *_, address in found)
        return self._is_internal or False


def names_internal(host: str) -> bool:
    """Tell whether the host of a URL is an internal address by itself, in any spelling that ``inet_aton`` takes."""
    host = host.rstrip(".").lower()
    try:
        # A proxy looks up 127.1, 0x7f000001 and 2130706433 as 127.0.0.1.
        address = socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeError):
        address = host
    return is_internal(address) or host == "localhost" or host.endswith(".localhost")


_UNSENT_BYTES = 128 * 1024
"""Unsent bytes that the system buffers (TCP_NOTSENT_LOWAT): they can't be held back any more."""


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
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return made


def explicit_base(registry: str, access: Access) -> URL | None:
    """Return the address to connect to, ``http(s)://host[:port]``; None if the scheme must be found out."""
    # Only insecure registries have their scheme found out: others must never be downgraded to plain HTTP.
    address = access.endpoint or registry
    if "://" in address:
        return URL(address).origin()
    return None if access.insecure else URL(f"https://{address}")


def route(registry: str, access: Access, proxies: Proxies) -> str:
    """Say how a registry is reached, in words: through which proxy, or why directly; empty if no proxy is named."""
    base = explicit_base(registry, access)
    address = access.endpoint or registry
    bases = [URL(f"https://{address}"), URL(f"http://{address}")] if base is None else [base]
    return next(filter(None, map(proxies.describe, bases)), "")


async def find_base(
    address: str, ask: Callable[[URL], Coroutine[Any, Any, T]], *, at_once: bool = True
) -> tuple[URL, T]:
    """Find out whether an address is spoken to over HTTPS or plain HTTP; HTTPS is preferred.

    Args:
        address: host and port.
        ask: sends a request without a login to a URL; it raises ``ConnectionFailed`` without an answer.
        at_once: try both at once, which is a round trip less where HTTPS is not spoken.

    Returns:
        The URL, and what ``ask`` returned for it.

    Raises:
        RegistryError: neither is answered.
    """
    secure, plain = URL(f"https://{address}"), URL(f"http://{address}")
    asking = asyncio.create_task(ask(plain)) if at_once else None
    try:
        return secure, await ask(secure)
    except ConnectionFailed as failure:
        asking = asking or asyncio.create_task(ask(plain))
        await asyncio.wait({asking})
        error = asking.exception()
        if error is None:
            return plain, asking.result()
        # "No TLS" is permanent, but plain HTTP may have failed for a moment only: that error wins.
        if isinstance(error, ConnectionFailed) and (isinstance(error, NoTls) or not isinstance(failure, NoTls)):
            raise
        raise error from None
    finally:
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


def tls_of(access: Access) -> ssl.SSLContext | bool:
    """Return what aiohttp takes as ``ssl``: False for no verification, True for the system's authorities."""
    if access.insecure:
        return False
    return trusting(access.ca_file) if access.ca_file is not None else True


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
    return _plain(bytes(chunks), packing(response.headers), limit, partial=partial)


_GZIP = frozenset({"gzip", "x-gzip"})
GZIP_MAGIC = b"\x1f\x8b"


def packing(headers: Mapping[str, str]) -> str:
    """Return the Content-Encoding of an answer, which should have none; empty for none."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding in ("", "identity") else one_line(encoding, 40)


def packing_advice(encoding: str) -> str:
    """Say what to do about an answer that is packed in a way that can't be unpacked."""
    return f"it has Content-Encoding {encoding!a}: have the proxy in front of the registry compress nothing"


def _plain(body: bytes, encoding: str, limit: int, *, partial: bool) -> bytes:
    """Return a short body unpacked: JSON or text never begins as gzip does, and a label may be wrong."""
    if not encoding or not body:
        return body
    if encoding in _GZIP and body.startswith(GZIP_MAGIC):
        unzip = zlib.decompressobj(wbits=31)
        try:
            plain = unzip.decompress(body, limit)
        except zlib.error as error:
            raise ProtocolViolated("the answer's gzip can't be unpacked", packing_advice(encoding)) from error
        if not (partial or unzip.eof or len(plain) >= limit):
            raise ProtocolViolated("the answer's gzip is cut off", packing_advice(encoding))
        return plain
    try:
        body.decode()
    except UnicodeDecodeError:
        if not partial:
            raise ProtocolViolated("the answer is packed", packing_advice(encoding)) from None
    return body


def is_gzip(encoding: str) -> bool:
    """Tell whether a Content-Encoding is gzip."""
    return encoding in _GZIP


def log_retry(error: Exception, attempt: int, pause: float) -> None:
    """Log a request that is repeated; for `replicator.retry.retrying`."""
    _log.debug("request repeated", error=error, attempt=attempt, wait=round(pause, 2))
