"""Token authentication for one registry: challenges, bearer tokens by scope, and HTTP Basic.

Source: distribution's "Token Authentication". Name and password go to the token endpoint that the registry's challenge
names, or to the registry itself if it asks for Basic, and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

from cachetools import LRUCache
from yarl import URL

from replicator.registry.credentials import LoginSource
from replicator.registry.errors import AskedLoginRefused, LoginRefused, ProtocolViolated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replicator.registry.credentials import Access, Login

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


_DEFAULT_LIFE = 60.0
"""Seconds that a token lives if its answer does not say ("Token Response Fields")."""
_MAX_LIFE = 24 * 3600.0
_REFUSED_SECONDS = 30.0
"""Seconds for which a refused login is not sent again."""
_FRESH_SECONDS = 5.0
"""Age in seconds up to which a refused token is no reason to request another."""
SETTLING_SECONDS = 1.0
"""Age up to which a refused token may be too young: the registry's clock may be behind that of the token's issuer."""
_MAX_TOKEN = 16 * 1024
_MAX_CACHED = 4096


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


@dataclass(slots=True)
class _Grant:
    """The token for one set of scopes, and what is known of it."""

    token: Token | None = None
    accepted: bool = False
    """Whether the registry has accepted this token."""
    arrived: float = float("-inf")
    """When this token was received, on the monotonic clock."""
    denied: float = float("-inf")
    """When a token was last dropped because of a 403, on the monotonic clock."""
    refused_upload: str | None = None
    """The ``Authorization`` under which an upload was answered 401, if none has succeeded since."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a token is requested: all other requests wait for the same one."""


class TokenSource(Protocol):
    """A way to token endpoints: the transport, which knows TLS, deadlines and retries."""

    async def fetch_token(
        self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None, form: bytes | None = None
    ) -> bytes:
        """GET the realm, or POST a form to it, and return the body of its 200.

        Raises:
            RegistryError: any other answer, or none.
        """


class Authorizer:
    """The ``Authorization`` headers of one registry under one login.

    Tokens are cached by scope, and requested once, however many requests wait for the same one.

    Attributes:
        service: the ``service`` of the registry's token challenge; None before the first, or if it named none.
    """

    def __init__(self, access: Access, source: TokenSource) -> None:
        self.service: str | None = None
        self._source = source
        self._login = LoginSource(access)
        self._realm: URL | None = None
        self._use_basic = False
        self._grants: LRUCache[frozenset[str], _Grant] = LRUCache(_MAX_CACHED)
        self._refusal: tuple[float, LoginRefused] | None = None

    async def header(self, scopes: frozenset[str], *, long: bool = False, basic: bool = False) -> str | None:
        """Return the header for a request that needs ``scopes``; None before the first challenge.

        Args:
            scopes: ``repository:<name>:<actions>`` each.
            long: the request's body may take minutes, so a token near its end is renewed first.
            basic: use HTTP Basic without a challenge; None is then the header of an anonymous login.

        Raises:
            LoginRefused: the token endpoint refuses the login, or HTTP Basic needs a password and there is none.
            RegistryError: the token endpoint can't be reached, or its answer is invalid.
        """
        if basic or self._realm is None:
            return await self._basic() if basic or self._use_basic else None
        token = self._grant(scopes).token
        if token is None or not token.outlasts(time.monotonic(), long=long):
            token = await self._renew(self._realm, scopes, long=long)
        return token.header

    def _grant(self, scopes: frozenset[str]) -> _Grant:
        grant = self._grants.get(scopes)
        if grant is None:
            grant = self._grants[scopes] = _Grant()
        return grant

    async def _basic(self) -> str | None:
        login = await self._login.get(self.service)
        if login is not None and login.basic is None:
            raise LoginRefused("the login is an identity token, and HTTP Basic takes a password", "log in with one")
        return login.basic if login is not None else None

    def challenged(
        self, headers: Iterable[str], scopes: frozenset[str], used: str | None, *, basic: bool = False
    ) -> bool:
        """Learn from a 401 and tell whether another attempt can succeed.

        A refused token is dropped, so that the next `header` is a fresh one, unless this one was fresh itself.

        Args:
            headers: the values of ``WWW-Authenticate``.
            scopes: of the request.
            used: the ``Authorization`` of the request.
            basic: the request used HTTP Basic without a challenge.
        """
        if basic:
            return used is not None and self._login.renew_basic(used)
        grant = self._grant(scopes)
        token = grant.token
        if token is not None and used == token.header:
            if not grant.accepted and time.monotonic() - token.issued < _FRESH_SECONDS:
                # Issued a moment ago and never accepted: it allows too little, and so would another.
                return False
            grant.token = None
        challenges = parse_challenges(headers)
        for challenge in challenges:
            if challenge.scheme == "bearer" and (realm := _realm(challenge)) is not None:
                self._realm = realm
                self.service = challenge.parameters.get("service")
                return True
        # Harbor answers a rejected bearer with a Basic challenge: the realm of its first challenge is still right.
        if self._realm is not None:
            return True
        self._use_basic = self._login.exists and any(challenge.scheme == "basic" for challenge in challenges)
        return self._use_basic and (used is None or self._login.renew_basic(used))

    def is_young(self, headers: Iterable[str], scopes: frozenset[str], used: str | None) -> bool:
        """Tell whether a refused token may be accepted in `SETTLING_SECONDS`, as its registry's clocks differ.

        Args:
            headers: the values of ``WWW-Authenticate``.
            scopes: of the request.
            used: the ``Authorization`` of the request.
        """
        grant = self._grant(scopes)
        if grant.token is None or used != grant.token.header or grant.accepted or lacks_scope(headers):
            return False
        return time.monotonic() - grant.arrived < SETTLING_SECONDS

    def upload_refused(self, scopes: frozenset[str], used: str | None) -> bool:
        """Note that an upload was answered 401; return True if that is not due to an expired token.

        It is not if another token was refused before. Several uploads under one token may see it expire together;
        that counts once.
        """
        if used is None or used.startswith("Basic "):
            return False
        grant = self._grant(scopes)
        grant.refused_upload = grant.refused_upload or used
        return grant.refused_upload != used

    def accepted(self, scopes: frozenset[str], *, upload: bool, denied: bool = False) -> None:
        """Note that the registry accepted a login.

        Args:
            scopes: of the request.
            upload: the request had a streamed body.
            denied: the login was accepted but its permissions were not enough. The token carries the permissions of
                the moment it was issued, and they may be extended meanwhile: it is dropped, from time to time.
        """
        grant = self._grant(scopes)
        if grant.token is not None:
            grant.accepted = True
            now = time.monotonic()
            if denied and now - grant.denied >= _FRESH_SECONDS:
                grant.denied = now
                grant.token = None
        if upload:
            grant.refused_upload = None

    def forget(self, name: str) -> None:
        """Drop the tokens for a repository whose permissions have changed."""
        # A scope is type:name:actions, and a name may hold colons itself, in front of a port.
        for scopes, grant in self._grants.items():
            if any(scope.split(":")[1:-1] == [name] for scope in scopes):
                grant.token = None

    async def _renew(self, realm: URL, scopes: frozenset[str], *, long: bool) -> Token:
        grant = self._grant(scopes)
        async with grant.lock:
            now = time.monotonic()
            # A token that lives for a few seconds never outlasts a long request: one request a second is enough.
            if (token := grant.token) is not None and (token.outlasts(now, long=long) or now - token.issued < 1.0):
                return token
            self._fail_if_refused_lately(now)
            try:
                token = grant.token = await self._request_token(realm, scopes)
            except LoginRefused as error:
                # For several repositories at once it may only mean that one of them is not ours.
                if error.status == 401 and len(scopes) == 1:
                    self._refusal = (time.monotonic(), error)
                raise
            grant.accepted, grant.arrived = False, time.monotonic()
            return token

    def _fail_if_refused_lately(self, now: float) -> None:
        """Keep a wrong password from being sent for every tag: many servers lock an account after a few of those."""
        if self._refusal is None:
            return
        when, error = self._refusal
        if now - when < _REFUSED_SECONDS:
            raise error.again()
        self._refusal = None

    async def _request_token(self, realm: URL, scopes: frozenset[str]) -> Token:
        query = [("service", self.service)] if self.service is not None else []
        query += [("scope", scope) for scope in sorted(scopes)]
        # Before the request, so that a slow answer does not extend the token's life.
        issued = time.monotonic()
        body = await self._fetch(realm, query)
        endpoint = f"the token endpoint {realm.host}{realm.path}"
        try:
            answer: Mapping[str, object] = json.loads(body)
            value = answer.get("token") or answer.get("access_token")
            life = answer.get("expires_in")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ProtocolViolated(f"the answer of {endpoint} is not JSON") from error
        if (
            not isinstance(value, str)
            or not 0 < len(value) <= _MAX_TOKEN
            or not (value.isascii() and value.isprintable())
        ):
            raise LoginRefused(f"{endpoint} gave no token")
        # Bounded before it becomes a float: JSON's integers have no limit.
        seconds = float(min(life, _MAX_LIFE)) if isinstance(life, int | float) and life > 0 else _DEFAULT_LIFE
        return Token(value, issued, issued + seconds)

    async def _fetch(self, realm: URL, query: list[tuple[str, str]]) -> bytes:
        login = await self._login.get(self.service)
        try:
            return await self._fetch_as(login, realm, query)
        except LoginRefused:
            # A temporary login may have expired since it was requested.
            if login is None or not self._login.renew(login):
                raise
        return await self._fetch_as(await self._login.get(self.service), realm, query)

    async def _fetch_as(self, login: Login | None, realm: URL, query: list[tuple[str, str]]) -> bytes:
        try:
            if login is not None and login.refresh_token is not None:
                return await self._source.fetch_token(realm, (), None, _refresh_form(login.refresh_token, query))
            return await self._source.fetch_token(realm, query, login.basic if login is not None else None)
        except LoginRefused as error:
            if not self._login.asks:
                raise
            raise error.recast(AskedLoginRefused) from error


def _refresh_form(token: str, query: list[tuple[str, str]]) -> bytes:
    """Return the form for a refresh token (distribution's "OAuth2 Token Authentication"): one field for all scopes."""
    scopes = " ".join(value for name, value in query if name == "scope")
    others = [(name, value) for name, value in query if name != "scope"]
    grant = [("grant_type", "refresh_token"), ("client_id", "replicator"), ("refresh_token", token), ("scope", scopes)]
    return urlencode([*grant, *others]).encode("ascii")


def _realm(challenge: Challenge) -> URL | None:
    try:
        return URL(challenge.parameters.get("realm", "")) or None
    except ValueError:
        return None
