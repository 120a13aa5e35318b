"""Requests to the token endpoint of one registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from yarl import URL

from replicator.registry.connection import Request, log_retry
from replicator.registry.errors import LoginRefused, ProtocolViolated, ProxyFailed, request_context
from replicator.registry.proxies import Proxies
from replicator.retry import retrying

if TYPE_CHECKING:
    from collections.abc import Iterable

    import aiohttp

    from replicator.registry.credentials import Access
    from replicator.registry.errors import RegistryError
    from replicator.registry.limits import HostLimits, Timing

_MAX_ANSWER = 64 * 1024


class Sender(Protocol):
    """What sends the requests, see `replicator.registry.transport.Transport`."""

    registry: str
    timing: Timing
    limits: HostLimits

    async def url(self, path: str) -> URL:
        """Return the URL of a path at the registry."""

    async def send(self, request: Request, *, secret: bool = False) -> aiohttp.ClientResponse:
        """Send a request once; no redirects."""

    async def read(self, response: aiohttp.ClientResponse, limit: int, *, within: float | None = None) -> bytes:
        """Read at most ``limit`` bytes of an answer."""

    async def read_failure(self, response: aiohttp.ClientResponse) -> RegistryError:
        """Return the error that an answer means."""


class TokenEndpoint:
    """The token endpoint of a registry, see `replicator.registry.auth.TokenSource`.

    Args:
        transport: sends the requests.
        access: address and login of the registry.
    """

    def __init__(self, transport: Sender, access: Access) -> None:
        self._transport = transport
        self._access = access

    async def fetch_token(
        self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None, form: bytes | None = None
    ) -> bytes:
        """GET the realm, or POST a form to it, and return the body of its 200.

        Raises:
            LoginRefused: the login, or the identity token, was refused.
            RegistryError: any other answer, or none.
        """
        transport = self._transport
        method = "GET" if form is None else "POST"
        headers = {"Authorization": authorization} if authorization is not None else {}
        headers |= {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
        # With the host: it is often another than the registry's.
        label = f"{method} {realm.host}{realm.path} (token)"
        with request_context(transport.registry, label):
            home = await transport.url("/")
            secret = bool(authorization or form)
            url = token_url(realm, home, registry=transport.registry, access=self._access, secret=secret)
            request = Request(method, url.extend_query(list(query)), headers=headers, body=form)

        async def attempt() -> bytes:
            if url.host == home.host:
                transport.limits.requests.spent(1)
            with request_context(transport.registry, label):
                return await self._fetch_once(request)

        return await retrying(attempt, attempts=transport.timing.attempts, on_retry=log_retry)

    async def _fetch_once(self, request: Request) -> bytes:
        transport = self._transport
        response = await transport.send(request, secret=True)
        try:
            if response.status == 200:
                # Every request for this scope waits for the token, so a dripping answer has the time of one read.
                return await transport.read(response, _MAX_ANSWER, within=transport.timing.read)
            error = (self._access.proxies or Proxies()).attribute(await transport.read_failure(response), response)
        finally:
            response.release()
        if isinstance(error, ProxyFailed):
            raise error
        form = request.body is not None
        # An endpoint without refresh tokens, such as Harbor's, has no POST.
        if response.status in (400, 401, 403) or (form and response.status in (404, 405)):
            secret = "identity token" if form else "login"
            raise LoginRefused(f"the {secret} was refused: {error.why}", error.do, status=response.status)
        raise error


def token_url(realm: URL, home: URL, *, registry: str, access: Access, secret: bool) -> URL:
    """Return where a realm is reached; a registry with an endpoint of its own names its public address.

    Args:
        realm: of the registry's challenge.
        home: the address of the registry.
        registry: the host the rules name.
        access: its address.
        secret: whether a password will be in the request.

    Raises:
        ProtocolViolated: it is not an HTTP URL, or would take the password out of TLS.
    """
    if realm.scheme not in ("http", "https") or not realm.host:
        raise ProtocolViolated(f"the challenge's realm {str(realm)!r} is not an HTTP URL")
    if access.endpoint is not None and names_registry(realm, registry):
        realm = realm.with_scheme(home.scheme).with_host(home.host or "").with_port(home.port)
    if secret and realm.scheme == "http" and home.scheme == "https":
        raise ProtocolViolated("the challenge asks for the password over plain HTTP: refused")
    return realm


def names_registry(url: URL, registry: str) -> bool:
    """Tell whether a URL is at the registry's public name: the same host and port; a default port may be left out."""
    public = URL(f"//{registry}")
    port = public.explicit_port
    return url.host == public.host and (url.is_default_port() if port is None else url.port == port)
