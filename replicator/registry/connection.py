"""Connections to one registry: its address, its TLS, requests and replies, and words for failures."""

from __future__ import annotations

import asyncio
import io
import zlib
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import aiohttp
import structlog
from yarl import URL

from replicator.networks import trusting
from replicator.registry.connection_errors import connection_error
from replicator.registry.connector import SHORT_BODY
from replicator.registry.errors import ConnectionFailed, NoTls, ProtocolViolated, RegistryError, one_line

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from multidict import CIMultiDictProxy

    from replicator.registry.circuit import Contact
    from replicator.registry.connector import Answer
    from replicator.registry.credentials import Access
    from replicator.registry.proxies import Proxies

T = TypeVar("T")

_log = structlog.get_logger("replicator.registry")


async def unrepeatable(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body that aiohttp sends once: when a kept connection breaks, it repeats what it can read again."""
    yield body


class StreamedBody(Protocol):
    """A body that can be sent only once: that of an upload."""

    def payload(self, contact: Contact, *, direct: bool) -> object:
        """Return what aiohttp takes as ``data``; ``direct`` if no TLS of a proxy lies above the socket."""

    async def sent_by(self, request: Coroutine[Any, Any, aiohttp.ClientResponse]) -> aiohttp.ClientResponse:
        """Return the answer to a request of aiohttp with this body."""

    def answered(self) -> None:
        """Note that the answer has begun."""


# Not frozen, although no code changes one: a frozen one costs three times as much.
@dataclass(slots=True)
class Request:
    """One request. As text it is method and path, without the query, which may hold a signature.

    Attributes:
        method: GET, HEAD, POST, PUT or DELETE.
        url: from `Transport.url`, or from a Location.
        scopes: the required scopes of the token, ``repository:<name>:<actions>`` each.
        headers: further headers.
        body: bytes, which every attempt sends again, or that of an upload, which can be sent only once.
        basic: send HTTP Basic without a challenge, as the REST APIs beside the registry expect it.
        anonymous: send no login, since none is needed: then a 401 says nothing about the login.
        follows: follow redirects of GET and HEAD; if not, a redirect is an answer.
        once: it is not silently sent again on another connection; the first may still be carried out.
    """

    method: str
    url: URL
    scopes: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | StreamedBody | None = None
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

    @property
    def is_short(self) -> bool:
        """Whether its body, if it has one, is sent at once."""
        return self.body is None or (isinstance(self.body, bytes) and len(self.body) <= SHORT_BODY)

    def data(self, contact: Contact, *, direct: bool) -> object:
        """Return the body as aiohttp takes it; see `StreamedBody.payload`."""
        if not isinstance(self.body, bytes):
            return self.body and self.body.payload(contact, direct=direct)
        # As a file: aiohttp warns about large ones, which it writes in one go.
        return unrepeatable(self.body) if self.once else io.BytesIO(self.body)


class Reply(NamedTuple):
    """A short answer, read whole; ``url`` is its origin, the base of a relative Location."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: URL


class Answered:
    """The block in which an answer is read: names its request in errors, the last one if it was redirected."""

    __slots__ = ("_registry", "_response")

    def __init__(self, registry: str, response: Answer) -> None:
        self._registry = registry
        self._response = response

    def __enter__(self) -> Answer:
        return self._response

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.release()
        if isinstance(error, RegistryError):
            error.at(self._registry, f"{self._response.method} {self._response.url.path}")


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


@lru_cache(maxsize=64)
def timeout_of(connect: float | None, sock_connect: float, sock_read: float) -> aiohttp.ClientTimeout:
    """Return aiohttp's timeouts of these seconds, which are a handful of combinations for all requests."""
    return aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=sock_connect, sock_read=sock_read)


def limited_to(seconds: float | None) -> AbstractAsyncContextManager[object]:
    """End the block with a ``TimeoutError`` after so many seconds; None for no limit."""
    return asyncio.timeout(seconds) if seconds is not None else nullcontext()


def tls_of(access: Access) -> ssl.SSLContext | bool:
    """Return what aiohttp takes as ``ssl``: False for no verification, True for the system's authorities."""
    if access.insecure:
        return False
    return trusting(access.ca_file) if access.ca_file is not None else True


def same_origin(one: URL, other: URL) -> bool:
    """Tell whether two URLs have scheme, host and port in common."""
    # Most are written alike; to compare these is cheaper than to compose their origins.
    alike = one.raw_authority == other.raw_authority and one.scheme == other.scheme
    return alike or one.origin() == other.origin()


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
    response: Answer,
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
        async with limited_to(within):
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
