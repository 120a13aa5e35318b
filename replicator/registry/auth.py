"""Logging in to a registry: bearer tokens by scope, and HTTP Basic (distribution's "Token Authentication").

A login's name and password go to the token endpoint that the registry's challenge names, or to the registry itself
where it asks for Basic, and nowhere else.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from yarl import URL

from replicator.registry.access import Login
from replicator.registry.challenges import parse_challenges
from replicator.registry.errors import LoginRefused, ProtocolViolated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replicator.registry.access import Access
    from replicator.registry.challenges import Challenge

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

    async def fetch_token(self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None) -> bytes:
        """GET the realm and return the body of its 200.

        Raises:
            RegistryError: any other answer, or none.
        """


class Authorizer:
    """The ``Authorization`` headers of one registry under one login.

    Tokens are cached by scope and asked for once, however many requests wait for the same one.
    """

    def __init__(self, registry: str, access: Access, source: TokenSource) -> None:
        self._registry = registry
        self._source = source
        self._logins = access.logins
        self._login = Login(access.username, access.password or "") if access.username is not None else None
        self._realm: URL | None = None
        self._service: str | None = None
        self._use_basic = False
        self._tokens: dict[frozenset[str], Token] = {}
        self._locks: dict[frozenset[str], asyncio.Lock] = {}
        self._refusal: tuple[float, LoginRefused] | None = None
        self._accepted: set[frozenset[str]] = set()
        self._refused_uploads: dict[frozenset[str], str] = {}

    async def basic(self) -> str | None:
        """Return the header of HTTP Basic; None for an anonymous login.

        Raises:
            RegistryError: there is no login to be had.
        """
        return _basic(await self._current())

    async def _current(self) -> Login | None:
        return await self._logins.login(self._service) if self._logins is not None else self._login

    async def header(self, scopes: frozenset[str], *, long: bool = False) -> str | None:
        """Return the header for a request that needs ``scopes``; None as long as no challenge was met.

        Args:
            scopes: ``repository:<name>:<actions>`` each.
            long: the request's body may take minutes, so a token near its end is renewed first.

        Raises:
            LoginRefused: the token endpoint refuses the login.
            RegistryError: the token endpoint can't be reached or makes no sense.
        """
        if self._realm is None:
            return await self.basic() if self._use_basic else None
        token = self._tokens.get(scopes)
        if token is None or not token.serves(time.monotonic(), long=long):
            token = await self._renew(scopes, long=long)
        return f"Bearer {token.value}"

    def challenged(self, headers: Iterable[str], scopes: frozenset[str], used: str | None) -> bool:
        """Learn from a 401 and tell whether there is anything to ask again with.

        A token that was refused is forgotten, so that the next `header` is a fresh one, unless it was that already.

        Args:
            headers: its ``WWW-Authenticate`` values.
            scopes: what the request needed.
            used: the ``Authorization`` it was sent with.
        """
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
                self._service = challenge.parameters.get("service")
                return True
        # Harbor answers a rejected bearer with a Basic challenge: the realm it named before still holds.
        if self._realm is not None:
            return True
        anonymous = self._login is None and self._logins is None
        self._use_basic = not anonymous and any(challenge.scheme == "basic" for challenge in challenges)
        return self._use_basic and not _is_basic(used)

    def upload_refused(self, scopes: frozenset[str], used: str | None) -> bool:
        """Note that a body was answered 401, and tell whether the token is not to blame: the one before met the same.

        Several uploads under one token may meet its end together; that counts once.
        """
        if used is None or _is_basic(used):
            return False
        return self._refused_uploads.setdefault(scopes, used) != used

    def accepted(self, scopes: frozenset[str], *, upload: bool) -> None:
        """Note that a request was let in; with ``upload``, one with a streamed body."""
        if scopes in self._tokens:
            self._accepted.add(scopes)
        if upload:
            self._refused_uploads.pop(scopes, None)

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
            raise LoginRefused(error.registry, error.request, error.detail, status=error.status, codes=error.codes)
        self._refusal = None

    async def _ask(self, scopes: frozenset[str]) -> Token:
        assert self._realm is not None  # noqa: S101 - only called once a realm is known
        query = [("service", self._service)] if self._service is not None else []
        query += [("scope", scope) for scope in sorted(scopes)]
        issued = time.monotonic()
        body = await self._fetch(self._realm, query)
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

    async def _fetch(self, realm: URL, query: list[tuple[str, str]]) -> bytes:
        """Ask the token endpoint; if it refuses a login that came from a source, with the source's next one."""
        login = await self._current()
        try:
            return await self._source.fetch_token(realm, query, _basic(login))
        except LoginRefused:
            if self._logins is None or login is None:
                raise
            self._logins.refused(login)
            following = await self._current()
            if following == login:
                raise
            return await self._source.fetch_token(realm, query, _basic(following))


def _is_basic(header: str | None) -> bool:
    return header is not None and header.startswith("Basic ")


def _realm(challenge: Challenge) -> URL | None:
    try:
        return URL(challenge.parameters.get("realm", "")) or None
    except ValueError:
        return None


def _basic(login: Login | None) -> str | None:
    if login is None:
        return None
    pair = f"{login.username}:{login.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")
