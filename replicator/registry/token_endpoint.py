"""The token endpoint of one registry: the challenges that name it, the requests to it, and the tokens that it gives.

Harbor's token service is Harbor itself. Its challenge names it by the request's Host and the scheme of its external
URL. So an inner address, or a proxy that passes too little on, makes it name a wrong address.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

from yarl import URL

from replicator.errors import SENT_LOGINS, bounded_line
from replicator.registry.connection import Request, log_retry
from replicator.registry.connection_errors import foreign_answer, is_page
from replicator.registry.errors import (
    ConnectionFailed,
    ForeignAnswer,
    HostSilent,
    LoginRefused,
    ProtocolViolated,
    ProxyFailed,
    RegistryError,
    WrongAddress,
    request_context,
)
from replicator.registry.proxies import Proxies
from replicator.retry import retrying

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replicator.registry.connector import Answer
    from replicator.registry.credentials import Access
    from replicator.registry.limits import HostLimits, Timing

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PART = re.compile(
    rf"\s*(?:,\s*)*(?:"
    rf"(?P<key>{_NAME})\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>[^\s,\"]+))"
    rf"|(?P<scheme>{_NAME})(?=\s|,|$)"
    rf")"
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A challenge of a ``WWW-Authenticate`` header (RFC 9110, section 11.6.1).

    Attributes:
        scheme: lower-case, e.g. ``bearer``.
        parameters: by lower-case name, unquoted.
    """

    scheme: str
    parameters: Mapping[str, str]


def lacks_scope(headers: Iterable[str]) -> bool:
    """Tell whether a 401 says that the token is valid but does not allow enough (RFC 6750, section 3.1)."""
    return any(challenge.parameters.get("error") == "insufficient_scope" for challenge in parse_challenges(headers))


def may_be_harbor(headers: Iterable[str]) -> bool:
    """Tell whether a 401 to a request of Harbor's API can be Harbor's; other registries challenge on every path.

    Harbor's API has no challenge, or that of its own realm, as seen at 2.16.
    """
    challenges = parse_challenges(headers)
    return not challenges or any(
        challenge.parameters.get("realm") == "harbor" or challenge.parameters.get("service") == HARBOR_SERVICE
        for challenge in challenges
    )


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Read every challenge of every header, in order; a part that can't be read ends its header.

    Several headers, several challenges in one header and commas inside quoted strings are all legal.
    """
    challenges: list[Challenge] = []
    for header in headers:
        parameters: dict[str, str] | None = None
        position = 0
        while match := _PART.match(header, position):
            position = match.end()
            if scheme := match["scheme"]:
                parameters = {}
                challenges.append(Challenge(scheme.lower(), parameters))
            elif parameters is None:
                break
            else:
                value = match["plain"]
                if value is None:
                    value = re.sub(r"\\(.)", r"\1", match["quoted"])
                # A parameter must not be repeated (RFC 9110); if it is, the first one counts.
                parameters.setdefault(match["key"].lower(), value)
    return tuple(challenges)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, with its times on the monotonic clock."""

    value: str
    issued: float
    expires: float

    @property
    def header(self) -> str:
        """The value of ``Authorization``."""
        return f"Bearer {self.value}"

    def outlasts(self, now: float, *, long: bool) -> bool:
        """Tell whether it outlasts a request that begins now; a ``long`` one has a body that may take minutes."""
        life = self.expires - self.issued
        left = self.expires - now
        # Relative to its life, so that a token of a few seconds is usable at all.
        return left > (min(life / 2, 300.0) if long else min(life / 5, 15.0))


_DEFAULT_LIFE = 60.0  # seconds, if the answer does not say ("Token Response Fields")
_MAX_LIFE = 24 * 3600.0
_MAX_TOKEN = 16 * 1024


def read_token(body: bytes, endpoint: str, issued: float) -> Token:
    """Read the answer of a token endpoint ("Token Response Fields").

    Args:
        body: of its 200.
        endpoint: its name, for errors.
        issued: when it was asked, on the monotonic clock.

    Raises:
        ProtocolViolated: it is not JSON.
        LoginRefused: there is no token in it.
    """
    try:
        answer: Mapping[str, object] = json.loads(body)
        value = answer.get("token") or answer.get("access_token")
        life = answer.get("expires_in")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ProtocolViolated(f"the answer of {endpoint} is not JSON") from error
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TOKEN or not (value.isascii() and value.isprintable()):
        raise LoginRefused(f"{endpoint} gave no token")
    # Bounded before it becomes a float: JSON's integers have no limit.
    seconds = float(min(life, _MAX_LIFE)) if isinstance(life, int | float) and life > 0 else _DEFAULT_LIFE
    return Token(value, issued, issued + seconds)


def realm_of(challenge: Challenge) -> URL | None:
    """Return the realm of a challenge; None if it names none, or no URL."""
    try:
        return URL(challenge.parameters.get("realm", "")) or None
    except ValueError:
        return None


def refresh_form(token: str, query: list[tuple[str, str]]) -> bytes:
    """Return the form for a refresh token (distribution's "OAuth2 Token Authentication"): one field for all scopes."""
    SENT_LOGINS.sent(token)
    scopes = " ".join(value for name, value in query if name == "scope")
    others = [(name, value) for name, value in query if name != "scope"]
    grant = [("grant_type", "refresh_token"), ("client_id", "replicator"), ("refresh_token", token), ("scope", scopes)]
    return urlencode([*grant, *others]).encode("ascii")


_MAX_USER = 60


def refusal_words(authorization: str | None) -> str:
    """Say that a login was refused, and whose; a name without a password may be a secret, and is left out.

    Args:
        authorization: the value of its ``Authorization``, if there was one.
    """
    scheme, _, value = (authorization or "").partition(" ")
    try:
        pair = base64.b64decode(value).decode() if scheme == "Basic" else ""
    except ValueError:
        pair = ""
    user, _, password = pair.partition(":")
    # Not by one_line, which takes a name alone for the beginning of a login. The text around it is cut later.
    return "the login was refused" + (f" for {bounded_line(user, _MAX_USER)!r}" if user and password else "")


def is_anonymous(token: str) -> bool:
    """Tell whether a token of Harbor's (a JWT, RFC 7519) names no subject; it does not, where a login was no good."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, IndexError, RecursionError):
        return False
    return isinstance(claims, dict) and not claims.get("sub")


_MAX_ANSWER = 64 * 1024
HARBOR_SERVICE = "harbor-registry"
_HARBOR = ("service", HARBOR_SERVICE)
_HARBOR_PATH = "/service/token"


class Sender(Protocol):
    """What sends the requests, see `replicator.registry.transport.Transport`."""

    registry: str
    timing: Timing
    limits: HostLimits

    async def url(self, path: str) -> URL:
        """Return the URL of a path at the registry."""

    async def send(self, request: Request, *, secret: bool = False) -> Answer:
        """Send a request once; no redirects."""

    async def read(self, response: Answer, limit: int, *, within: float | None = None) -> bytes:
        """Read at most ``limit`` bytes of an answer."""

    async def read_failure(self, response: Answer) -> RegistryError:
        """Return the error that an answer means."""


class TokenEndpoint:
    """The token endpoint of a registry, see `replicator.registry.connection.TokenSource`.

    Args:
        transport: sends the requests.
        access: address and login of the registry.
    """

    def __init__(self, transport: Sender, access: Access) -> None:
        self._transport = transport
        self._access = access
        # At a Harbor with an endpoint: whether its public name has to be the Host of token requests.
        self._as_public = False

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
        port = "" if realm.is_default_port() else f":{realm.port}"
        label = f"{method} {realm.host}{port}{realm.path} (token service)"
        with request_context(transport.registry, label):
            home = await transport.url("/")
            secret = bool(authorization or form)
            query = list(query)
            harbor = _HARBOR in query and realm.path == _HARBOR_PATH
            try:
                url = token_url(
                    realm, home, registry=transport.registry, access=self._access, secret=secret, harbor=harbor
                )
                request = Request(method, url.extend_query(query), headers=headers, body=form)
                inside = self._access.endpoint is not None and transport.registry != home.authority
                if harbor and inside and url.origin() == home.origin():
                    return await self._fetch_inside(request, label)
                return await self._fetch(request, label, own=url.host == home.host)
            except RegistryError as error:
                if not harbor or realm.origin() == home.origin() or isinstance(error, LoginRefused):
                    raise
                error.do = misnamed(realm, home)
                # Harbor itself has just answered: its token service is not away, so no copy should wait for it.
                if type(error) in (ConnectionFailed, HostSilent):
                    raise error.recast(WrongAddress) from error
                raise

    async def try_basic(self, authorization: str) -> None:
        """Try whether the registry takes a header of HTTP Basic (specification, "Determining Support").

        Raises:
            LoginRefused: it does not.
            RegistryError: there was no answer to tell by.
        """
        transport = self._transport
        request = Request("GET", await transport.url("/v2/"), headers={"Authorization": authorization})

        async def attempt() -> None:
            transport.limits.requests.spent(1)
            with request_context(transport.registry, request):
                response = await transport.send(request)
                try:
                    error = await transport.read_failure(response)
                finally:
                    response.release()
            if response.status >= 500 or (isinstance(error, ForeignAnswer) and error.is_page):
                raise error
            if response.status != 401:
                return
            raise LoginRefused(f"{refusal_words(authorization)}: {error.why}", status=401)

        await retrying(attempt, attempts=transport.timing.attempts, on_retry=log_retry)

    async def _fetch(self, request: Request, label: str, *, own: bool) -> bytes:
        transport = self._transport

        async def attempt() -> bytes:
            if own:
                transport.limits.requests.spent(1)
            with request_context(transport.registry, label):
                return await self._fetch_once(request)

        return await retrying(attempt, attempts=transport.timing.attempts, on_retry=log_retry)

    async def _fetch_inside(self, request: Request, label: str) -> bytes:
        """Ask a Harbor at its endpoint, by the endpoint's name or its public one: a proxy inside may know either."""
        public = replace(request, headers={**request.headers, "Host": self._transport.registry})
        ways = {self._as_public: public if self._as_public else request}
        ways[not self._as_public] = request if self._as_public else public
        refusals = []
        for as_public, way in ways.items():
            try:
                answer = await self._fetch(way, label, own=True)
            except RegistryError as error:
                if isinstance(error, ConnectionFailed) or error.status == 401:
                    # By another name it would not answer either, or it is Harbor's own answer.
                    raise
                refusals.append(error)
            else:
                self._as_public = as_public
                return answer
        raise refusals[0]

    async def _fetch_once(self, request: Request) -> bytes:
        transport = self._transport
        response = await transport.send(request, secret=True)
        try:
            if response.status == 200:
                # Every request for this scope waits for the token, so a dripping answer has the time of one read.
                body = await transport.read(response, _MAX_ANSWER, within=transport.timing.read)
                if is_page(body):
                    raise foreign_answer(response.status, body)
                return body
            error = await transport.read_failure(response)
            error = (self._access.proxies or Proxies()).attribute(error, response.method, response.url)
        finally:
            response.release()
        # A text may be the endpoint's own: no specification says how it refuses.
        if isinstance(error, ProxyFailed) or (isinstance(error, ForeignAnswer) and error.is_page):
            raise error
        form = request.body is not None
        # An endpoint without refresh tokens, such as Harbor's, has no POST.
        if response.status in (400, 401, 403) or (form and response.status in (404, 405)):
            why = f"{error.status}, it says: {error.said}" if isinstance(error, ForeignAnswer) else error.why
            words = "the identity token was refused" if form else refusal_words(request.headers.get("Authorization"))
            raise LoginRefused(f"{words}: {why}", status=response.status)
        raise error


def token_url(realm: URL, home: URL, *, registry: str, access: Access, secret: bool, harbor: bool = False) -> URL:
    """Return where a realm is reached; a registry with an endpoint of its own names its public address.

    Args:
        realm: of the registry's challenge.
        home: the address of the registry.
        registry: the host the rules name.
        access: its address.
        secret: whether a password will be in the request.
        harbor: whether it is a Harbor's, whose scheme and port may be others than those of its endpoint.

    Raises:
        ProtocolViolated: it is not an HTTP URL, or would take the password out of TLS.
    """
    if realm.scheme not in ("http", "https") or not realm.host:
        raise ProtocolViolated(f"the challenge's realm {str(realm)!r} is not an HTTP URL")
    own = names_registry(realm, registry) or (harbor and realm.host in (home.host, URL(f"//{registry}").host))
    if access.endpoint is not None and own:
        realm = realm.with_scheme(home.scheme).with_host(home.host or "").with_port(home.port)
    if secret and realm.scheme == "http" and home.scheme == "https":
        raise ProtocolViolated("the challenge asks for the password over plain HTTP: refused")
    return realm


def misnamed(realm: URL, home: URL) -> str:
    """Advise on a Harbor whose challenge names its token service wrongly: by its realm, and not by its own address."""
    return (
        f"Harbor's challenge names its token service {realm.origin()}, and it is at {home.origin()}: set external_url "
        "in Harbor to its public URL, and have the proxy in front of it pass Host, with the port, and X-Forwarded-Proto"
    )


def names_registry(url: URL, registry: str) -> bool:
    """Tell whether a URL is at the registry's public name: the same host and port; a default port may be left out."""
    public = URL(f"//{registry}")
    port = public.explicit_port
    return url.host == public.host and (url.is_default_port() if port is None else url.port == port)
