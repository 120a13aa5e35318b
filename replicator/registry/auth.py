"""Token authentication for one registry: challenges, bearer tokens by scope, and HTTP Basic.

Source: distribution's "Token Authentication". Name and password go to the token endpoint that the registry's challenge
names, or to the registry itself if it asks for Basic, and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from cachetools import LRUCache

from replicator.registry.credentials import LoginSource
from replicator.registry.errors import AskedLoginRefused, Denied, LoginRefused, RegistryError, Unauthorized
from replicator.registry.ladder import LoginLadder, LoginPatience
from replicator.registry.token_endpoint import (
    HARBOR_SERVICE,
    Token,
    is_anonymous,
    lacks_scope,
    may_be_harbor,
    parse_challenges,
    read_token,
    realm_of,
    refresh_form,
    refusal_words,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from yarl import URL

    from replicator.registry.connection import Request, TokenSource
    from replicator.registry.credentials import Access, Login

_FRESH_SECONDS = 5.0
"""Age in seconds up to which a refused token is no reason to request another."""
SETTLING_SECONDS = 1.0
"""Age up to which a refused token may be too young: the registry's clock may be behind that of the token's issuer."""
_MAX_CACHED = 4096


@dataclass(slots=True)
class _Grant:
    """The token for one set of scopes, and the facts about it."""

    token: Token | None = None
    accepted: bool = False
    """Whether the registry has accepted this token."""
    arrived: float = float("-inf")
    """When this token was received, on the monotonic clock."""
    anonymous: bool = False
    """Whether the token endpoint took the login for none when it gave this token."""
    bare: bool = False
    """Whether the login was left out when this token was requested (`LoginLadder.spares`)."""
    denied: float = float("-inf")
    """When a token was last dropped because of a 403, on the monotonic clock."""
    refused_upload: str | None = None
    """The ``Authorization`` under which an upload was answered 401, if none has succeeded since."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a token is requested: all other requests wait for the same one."""


class Authorizer:
    """The ``Authorization`` headers of one registry under one login.

    Tokens are cached by scope, and requested once, however many requests wait for the same one.

    Args:
        access: with the login.
        source: the way to token endpoints.
        ladder: of the login; None for one of its own.

    Attributes:
        service: the ``service`` of the registry's token challenge; None before the first, or if it named none.
        on_service: called with the service of each such challenge; empty if it named none.
    """

    def __init__(self, access: Access, source: TokenSource, ladder: LoginLadder | None = None) -> None:
        self.service: str | None = None
        self.on_service: Callable[[str], None] = lambda _: None
        self._source = source
        self._login = LoginSource(access)
        self._ladder = ladder or LoginLadder("", access, LoginPatience())
        self._realm: URL | None = None
        self._use_basic = False
        self._grants: LRUCache[frozenset[str], _Grant] = LRUCache(_MAX_CACHED)

    async def header_for(self, request: Request) -> str | None:
        """Return the header for a request; see `header`."""
        if request.anonymous:
            return None
        return await self.header(request.scopes, long=request.streams, basic=request.basic)

    async def header(self, scopes: frozenset[str], *, long: bool = False, basic: bool = False) -> str | None:
        """Return the header for a request that needs ``scopes``; None before the first challenge.

        Args:
            scopes: ``repository:<name>:<actions>`` each.
            long: the request's body may take minutes, so a token near its end is renewed first.
            basic: use HTTP Basic without a challenge; None is then the header of an anonymous login.

        Raises:
            LoginRefused: the token endpoint refuses the login, or HTTP Basic needs a password and there is none.
            LoginOnHold: the login was refused and is not sent for now.
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
            raise LoginRefused("the login is an identity token, not a password for HTTP Basic", "use a password")
        if login is None or (basic := login.basic) is None:
            return None
        if not self._login.asks and await self._ladder.admit(claim=False):
            # The answer to the request itself may be as public as a list of Harbor's.
            await self._prove(lambda: self._source.try_basic(basic))
        return None if self._ladder.spares else basic

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
        if (token := grant.token) is not None and used == token.header:
            if grant.anonymous or (not grant.accepted and time.monotonic() - token.issued < _FRESH_SECONDS):
                # Never used, or a moment old and never accepted: it allows too little, and so would another.
                return False
            grant.token = None
        for challenge in (challenges := parse_challenges(headers)):
            if challenge.scheme == "bearer" and (realm := realm_of(challenge)) is not None:
                self._realm = realm
                self.service = challenge.parameters.get("service")
                self.on_service(self.service or "")
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
        return not grant.anonymous and time.monotonic() - grant.arrived < SETTLING_SECONDS

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
            if denied and (now := time.monotonic()) - grant.denied >= _FRESH_SECONDS:
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
            take = self._log_in if self._login.exists else self._take
            return await take(realm, scopes, grant)

    async def _take(self, realm: URL, scopes: frozenset[str], grant: _Grant) -> Token:
        grant.bare = self._ladder.spares
        token = grant.token = await self._request_token(realm, scopes)
        grant.accepted, grant.arrived, grant.anonymous = False, time.monotonic(), False
        return token

    async def _log_in(self, realm: URL, scopes: frozenset[str], grant: _Grant) -> Token:
        """Request a token with the login, unless it is on hold, and note whether it was accepted."""
        async with self._ladder.attempt():
            try:
                token = await self._take(realm, scopes, grant)
            except LoginRefused as error:
                # For several repositories at once it may only mean that one of them is not ours.
                if error.status != 401 or len(scopes) > 1:
                    raise
                if not scopes or self.service == HARBOR_SERVICE or not self._ladder.is_good:
                    await self._refuse(error)
                # Some endpoints answer so for a repository that a good login may not use.
                try:
                    await self._request_token(realm, frozenset())
                except LoginRefused:
                    await self._refuse(error, sent=2)
                await self._ladder.worked()
                raise error.recast(Unauthorized, f" (for {' '.join(scopes)}, not for the login)") from error
            grant.anonymous = self.service == HARBOR_SERVICE and is_anonymous(token.value)
            if not grant.anonymous:
                await self._ladder.worked()
            elif self._ladder.has_worked:
                grant.token = None
                await self._refuse(LoginRefused("the login was refused: for Harbor it is anonymous", status=401))
            else:
                # A public project needs no login: the claim lasts until the registry answers.
                self._ladder.keep_claim()
            return token

    async def _refuse(self, error: RegistryError, sent: int = 1) -> NoReturn:
        refusal = await self._ladder.refused(error, sent)
        raise refusal from error if refusal is not error else None

    async def _prove(
        self, send: Callable[[], Awaitable[object]], refusal: LoginRefused | None = None, sent: int = 1
    ) -> None:
        """Send the login by itself.

        Args:
            send: sends it.
            refusal: what to raise if it is refused; None if it is admitted already, for what is raised then.
            sent: how often it was sent then.

        Raises:
            LoginRefused, LoginOnHold: it is refused.
            RegistryError: there was no answer to tell by.
        """
        async with self._ladder.attempt(admitted=refusal is None):
            try:
                await send()
            except LoginRefused as error:
                if error.status != 401:
                    raise
                await self._refuse(refusal or error, sent)
            await self._ladder.worked()

    async def settle(self, request: Request, used: str | None, *, denied: bool) -> None:
        """Note that a request with the ``Authorization`` ``used`` was answered otherwise than with 401."""
        if used is None:
            return
        self.accepted(request.scopes, upload=request.streams, denied=denied)
        # What an API answers may be public, so it proves nothing.
        if used.startswith("Basic ") and not request.basic:
            await self._ladder.worked()
        elif self._grant(request.scopes).anonymous:
            await self._ladder.release(spare=True)

    async def doubt(self) -> None:
        """Find out whether the login is any good, after an answer of Harbor's API such as it gives to no login."""
        login = None if self._login.asks else await self._login.get()
        if login is None or (basic := login.basic) is None or self._ladder.spares:
            return
        await self._ladder.admit()
        if self._ladder.has_worked:
            await self._prove(lambda: self._source.try_basic(basic))
        else:
            await self._ladder.spare()

    def _left_out(self, request: Request, used: str | None) -> bool:
        """Tell whether a request went without the login that there is (`LoginLadder.spares`)."""
        if request.basic:
            return used is None and self._login.exists and not request.anonymous
        return self._grant(request.scopes).bare

    async def judge(
        self, error: RegistryError, headers: Iterable[str], request: Request, used: str | None, *, tried: bool
    ) -> RegistryError | None:
        """Find out whether a 401 was meant for the login or for the request, where that is not certain.

        Harbor takes a login that it can't look up for none, and says so only when the token is used; and it answers
        401 to a good token when its database is away, as it does for a project that is not there.

        Args:
            error: of the 401.
            headers: the values of its ``WWW-Authenticate``.
            request: the request.
            used: its ``Authorization``.
            tried: the login was tried by itself already.

        Returns:
            The error to raise; None if the login is accepted now, so the request is worth another attempt.
        """
        if lacks_scope(headers):
            words = f": the login does not allow {' '.join(sorted(request.scopes))}"
            return error.recast(Denied if self._login.exists else type(error), words)
        if request.basic and not may_be_harbor(headers):
            return error
        grant, realm = self._grant(request.scopes), self._realm
        if not tried and self._left_out(request, used):
            grant.bare, grant.token = False, None
            await self._ladder.need()
            return None
        error.login = await self._ladder.fingerprint()
        refusal = error.recast(AskedLoginRefused if self._login.asks else LoginRefused)
        refusal.why = f"{refusal_words(used)}: {error.why}"
        # Of several repositories one may not be ours.
        if used is None or len(request.scopes) > 1 or (tried and not grant.anonymous):
            return error
        try:
            if used.startswith("Basic "):
                if self._login.asks:
                    return error
                if request.basic or not self._ladder.has_worked:
                    await self._refuse(refusal)
                await self._prove(lambda: self._source.try_basic(used), refusal, sent=2)
            elif self.service != HARBOR_SERVICE or realm is None or not self._login.exists:
                return error
            elif grant.anonymous:
                # Another request may have been refused with the same token: that was one login.
                own, grant.token = grant.token is not None and used == grant.token.header, None
                if own and not self._ladder.proven_since(grant.arrived):
                    await self._refuse(refusal)
            else:
                await self._prove(lambda: self._request_token(realm, frozenset()), refusal)
        except RegistryError as found:
            return found
        return None

    async def _request_token(self, realm: URL, scopes: frozenset[str]) -> Token:
        query = [("service", self.service)] if self.service is not None else []
        query += [("scope", scope) for scope in sorted(scopes)]
        # Before the request, so that a slow answer does not extend the token's life.
        issued = time.monotonic()
        body = await self._fetch(realm, query)
        return read_token(body, f"the token endpoint {realm.host}{realm.path}", issued)

    async def _fetch(self, realm: URL, query: list[tuple[str, str]]) -> bytes:
        login = None if self._ladder.spares else await self._login.get(self.service)
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
                return await self._source.fetch_token(realm, (), None, refresh_form(login.refresh_token, query))
            return await self._source.fetch_token(realm, query, login.basic if login is not None else None)
        except LoginRefused as error:
            if not self._login.asks:
                raise
            raise error.recast(AskedLoginRefused) from error
