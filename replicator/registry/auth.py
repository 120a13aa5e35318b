"""Logging in to a registry: bearer tokens by scope, and HTTP Basic (distribution's "Token Authentication").

A login's name and password go to the token endpoint that the registry's challenge names, or to the registry itself
where it asks for Basic, and nowhere else.

``WWW-Authenticate`` headers (RFC 9110, section 11.6.1): what a registry wants to be told.

Several headers, several challenges in one header and commas inside quoted strings are all legal, and all are met.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

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
    """One way in that a server offers.

    Attributes:
        scheme: lower-case, e.g. ``bearer``.
        parameters: by lower-case name, unquoted.
    """

    scheme: str
    parameters: Mapping[str, str]


def lacks_scope(headers: Iterable[str]) -> bool:
    """Tell whether a refusal says that the token holds but does not allow enough (RFC 6750, section 3.1)."""
    return any(challenge.parameters.get("error") == "insufficient_scope" for challenge in parse_challenges(headers))


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Read every challenge of every header, in order; what can't be read ends its header."""
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
                parameters.setdefault(match["key"].lower(), value)
    return tuple(challenges)


_DEFAULT_LIFE = 60.0
"""Seconds a token lives whose answer does not say ("Token Response Fields")."""
_MAX_LIFE = 24 * 3600.0
_REFUSED_SECONDS = 30.0
"""How long a refused login is not tried again."""
_FRESH_SECONDS = 5.0
"""Age of a token up to which it is no use to ask for another, if it was refused at once."""
_MAX_TOKEN = 16 * 1024
_MAX_CACHED = 4096


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and when to stop using it, on the monotonic clock."""

    value: str
    issued: float
    expires: float

    def serves(self, now: float, *, long: bool) -> bool:
        """Tell whether it outlasts a request: with ``long``, one with a body that takes minutes."""
        life = self.expires - self.issued
        left = self.expires - now
        return left > (min(life / 2, 300.0) if long else min(life / 5, 15.0))


class TokenSource(Protocol):
    """Who can ask a token endpoint; the transport, which knows TLS, deadlines and retries."""

    async def fetch_token(
        self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None, form: bytes | None = None
    ) -> bytes:
        """GET the realm, or POST a form to it, and return the body of its 200.

        Raises:
            RegistryError: any other answer, or none.
        """


class Authorizer:
    """The ``Authorization`` headers of one registry under one login.

    Tokens are cached by scope and asked for once, however many requests wait for the same one.

    Attributes:
        service: the ``service`` of the registry's token challenge; None where none was met, or it named none.
    """

    def __init__(self, registry: str, access: Access, source: TokenSource) -> None:
        self._registry = registry
        self._source = source
        self._login = LoginSource(access)
        self._realm: URL | None = None
        self.service: str | None = None
        self._use_basic = False
        self._tokens: dict[frozenset[str], Token] = {}
        self._locks: dict[frozenset[str], asyncio.Lock] = {}
        self._refusal: tuple[float, LoginRefused] | None = None
        self._accepted: set[frozenset[str]] = set()
        self._denied: dict[frozenset[str], float] = {}
        self._refused_uploads: dict[frozenset[str], str] = {}

    async def header(self, scopes: frozenset[str], *, long: bool = False, basic: bool = False) -> str | None:
        """Return the header for a request that needs ``scopes``; None as long as no challenge was met.

        Args:
            scopes: ``repository:<name>:<actions>`` each.
            long: the request's body may take minutes, so a token near its end is renewed first.
            basic: HTTP Basic is wanted, challenge or not; None then for an anonymous login.

        Raises:
            LoginRefused: the token endpoint refuses the login, or HTTP Basic needs a password and there is none.
            RegistryError: the token endpoint can't be reached or makes no sense.
        """
        if basic or self._realm is None:
            return await self._basic() if basic or self._use_basic else None
        token = self._tokens.get(scopes)
        if token is None or not token.serves(time.monotonic(), long=long):
            token = await self._renew(scopes, long=long)
        return f"Bearer {token.value}"

    async def _basic(self) -> str | None:
        login = await self._login.get(self.service)
        if login is not None and login.basic is None:
            detail = "the login is an identity token, and HTTP Basic takes a password: log in with one"
            raise LoginRefused(self._registry, "HTTP Basic", detail)
        return login.basic if login is not None else None

    def challenged(
        self, headers: Iterable[str], scopes: frozenset[str], used: str | None, *, basic: bool = False
    ) -> bool:
        """Learn from a 401 and tell whether there is anything to ask again with.

        A token that was refused is forgotten, so that the next `header` is a fresh one, unless it was that already.

        Args:
            headers: its ``WWW-Authenticate`` values.
            scopes: what the request needed.
            used: the ``Authorization`` it was sent with.
            basic: HTTP Basic was wanted, whatever the registry asks for.
        """
        if basic:
            return used is not None and self._login.renew_basic(used)
        token = self._tokens.get(scopes)
        if token is not None and used == f"Bearer {token.value}":
            if scopes not in self._accepted and time.monotonic() - token.issued < _FRESH_SECONDS:
                # It has just been issued and let nobody in: it allows too little, and so would another.
                return False
            del self._tokens[scopes]
        challenges = parse_challenges(headers)
        for challenge in challenges:
            if challenge.scheme == "bearer" and (realm := _realm(challenge)) is not None:
                self._realm = realm
                self.service = challenge.parameters.get("service")
                return True
        # Harbor answers a rejected bearer with a Basic challenge: the realm it named before still holds.
        if self._realm is not None:
            return True
        self._use_basic = self._login.exists and any(challenge.scheme == "basic" for challenge in challenges)
        return self._use_basic and (used is None or self._login.renew_basic(used))

    def upload_refused(self, scopes: frozenset[str], used: str | None) -> bool:
        """Note that a body was answered 401, and tell whether the token is not to blame: the one before met the same.

        Several uploads under one token may meet its end together; that counts once.
        """
        if used is None or used.startswith("Basic "):
            return False
        return self._refused_uploads.setdefault(scopes, used) != used

    def accepted(self, scopes: frozenset[str], *, upload: bool, denied: bool = False) -> None:
        """Note that a request was let in; with ``upload``, one with a streamed body.

        With ``denied`` it was known who asked, but that is not allowed. What a token allows was decided when it was
        issued, and by the next try a person may have put it right: it is forgotten, now and then.
        """
        if scopes in self._tokens:
            self._accepted.add(scopes)
            now = time.monotonic()
            if denied and now - self._denied.get(scopes, -_FRESH_SECONDS) >= _FRESH_SECONDS:
                self._denied[scopes] = now
                del self._tokens[scopes]
        if upload:
            self._refused_uploads.pop(scopes, None)

    def forget(self, name: str) -> None:
        """Forget the tokens for a repository: what they allow there has changed."""
        for scopes in [scopes for scopes in self._tokens if any(scope.split(":")[1:-1] == [name] for scope in scopes)]:
            del self._tokens[scopes]

    async def _renew(self, scopes: frozenset[str], *, long: bool) -> Token:
        lock = self._locks.setdefault(scopes, asyncio.Lock())
        async with lock:
            token = self._tokens.get(scopes)
            now = time.monotonic()
            if token is not None and (token.serves(now, long=long) or now - token.issued < 1.0):
                return token
            if len(self._locks) > _MAX_CACHED:
                self._tokens.clear()
                self._accepted.clear()
                self._denied.clear()
                self._refused_uploads.clear()
                self._locks = {scopes: lock}
            self._fail_if_refused_lately(now)
            try:
                token = self._tokens[scopes] = await self._ask(scopes)
                self._accepted.discard(scopes)
            except LoginRefused as error:
                # Asked for several repositories at once it may only mean that one of them is not ours.
                if error.status == 401 and len(scopes) == 1:
                    self._refusal = (time.monotonic(), error)
                raise
            return token

    def _fail_if_refused_lately(self, now: float) -> None:
        """Spare the token endpoint a wrong password asked for every tag: many lock an account for less."""
        if self._refusal is None:
            return
        when, error = self._refusal
        if now - when < _REFUSED_SECONDS:
            raise error.again()
        self._refusal = None

    async def _ask(self, scopes: frozenset[str]) -> Token:
        assert self._realm is not None  # noqa: S101 - only called once a realm is known
        query = [("service", self.service)] if self.service is not None else []
        query += [("scope", scope) for scope in sorted(scopes)]
        issued = time.monotonic()
        body = await self._token_answer(self._realm, query)
        request = f"GET {self._realm.path} (token)"
        try:
            answer: Mapping[str, object] = json.loads(body)
            value = answer.get("token") or answer.get("access_token")
            life = answer.get("expires_in")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ProtocolViolated(self._registry, request, "the token endpoint's answer is not JSON") from error
        if (
            not isinstance(value, str)
            or not 0 < len(value) <= _MAX_TOKEN
            or not (value.isascii() and value.isprintable())
        ):
            raise LoginRefused(self._registry, request, "the token endpoint gave no token")
        # Bounded before it is made a float: JSON's numbers have no end.
        seconds = float(min(life, _MAX_LIFE)) if isinstance(life, int | float) and life > 0 else _DEFAULT_LIFE
        return Token(value, issued, issued + seconds)

    async def _token_answer(self, realm: URL, query: list[tuple[str, str]]) -> bytes:
        login = await self._login.get(self.service)
        try:
            return await self._fetch(realm, query, login)
        except LoginRefused:
            # One that was asked for may have ended since.
            if login is None or not self._login.renew(login):
                raise
        return await self._fetch(realm, query, await self._login.get(self.service))

    async def _fetch(self, realm: URL, query: list[tuple[str, str]], login: Login | None) -> bytes:
        try:
            if login is not None and login.refresh_token is not None:
                return await self._source.fetch_token(realm, (), None, _refreshing(login.refresh_token, query))
            return await self._source.fetch_token(realm, query, login.basic if login is not None else None)
        except LoginRefused as error:
            if not self._login.asks:
                raise
            raise AskedLoginRefused(error.registry, error.request, error.detail, status=error.status) from error


def _refreshing(token: str, query: list[tuple[str, str]]) -> bytes:
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
