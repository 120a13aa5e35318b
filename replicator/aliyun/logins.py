"""Temporary logins to ACR, cached while they are valid and renewed before they expire."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from replicator.aliyun.openapi import DEADLINE, OpenApi, find_region_and_instance, with_retries
from replicator.aliyun.operations import GET_AUTHORIZATION_TOKEN, AccountRefused, get_authorization_token
from replicator.registry.credentials import Login
from replicator.registry.errors import RegistryError, ServerFailed, request_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.aliyun.operations import Account

_log = structlog.get_logger("replicator.aliyun")

_PAUSE = 5.0
"""Seconds between a failed renewal and the next attempt."""
_RENEW_BEFORE = 600.0
"""Seconds before its end at which a login is renewed; for one of a short life, a quarter of that."""
_MIN_LIFE = 60.0
"""Seconds for which a login is used at least: if the local clock is wrong, only the registry knows when it expires."""
_FRESH = 10.0
"""Age in seconds up to which a refused login is kept: a replacement would be refused as well."""


@dataclass(frozen=True, slots=True)
class _Cached:
    """A login; the times are those of `time.monotonic`."""

    login: Login
    issued: float
    renew: float
    expires: float


class TemporaryLogins:
    """The logins of one account at one registry; a `replicator.registry.credentials.Logins`.

    Args:
        registry: the host the rules name.
        account: the account they are issued to, also an attribute.
        deadline: seconds for all attempts of one renewal.
        pause: seconds between a failed renewal and the next attempt.
    """

    def __init__(self, registry: str, account: Account, *, deadline: float = DEADLINE, pause: float = _PAUSE) -> None:
        self._registry = registry
        self.account = account
        self._deadline = deadline
        self._pause = pause
        self._openapi = OpenApi(registry, account)
        self._cached: _Cached | None = None
        self._failed: tuple[float, RegistryError] | None = None
        self._lock = asyncio.Lock()

    async def login(self, service: str | None) -> Login:
        """Return a valid login, requesting one if needed; concurrent callers share the request.

        While a renewal fails, the previous login is used until it expires.

        Raises:
            AccountRefused: the account is refused; a person has to change that.
            RegistryError: the OpenAPI is unreachable or busy.
        """
        cached = self._cached
        if cached is not None and time.monotonic() < cached.renew:
            return cached.login
        async with self._lock:
            # Read again: whoever held the lock before may have renewed the login, or failed to.
            now = time.monotonic()
            cached = self._cached
            if cached is not None and now < cached.renew:
                return cached.login
            if self._failed is not None and now < self._failed[0] + self._pause:
                error = self._failed[1]
            else:
                try:
                    self._cached = cached = await self._renew(service)
                except RegistryError as failure:
                    self._failed = (time.monotonic(), failure)
                    error = failure
                    _log.warning("login not renewed", registry=self._registry, error=str(failure))
                else:
                    self._failed = None
                    return cached.login
            if cached is not None and time.monotonic() < cached.expires:
                return cached.login
            raise error

    def refused(self, login: Login) -> bool:
        """Drop a login that the registry refused, unless it is fresh; tell whether asking again may help."""
        cached = self._cached
        if cached is None or cached.login != login:
            return True
        if time.monotonic() - cached.issued <= _FRESH:
            return False
        self._cached = None
        return True

    async def _renew(self, service: str | None) -> _Cached:
        region, instance_id = find_region_and_instance(self._registry, self.account, service, GET_AUTHORIZATION_TOKEN)
        operation = get_authorization_token(instance_id)
        answer = await with_retries(
            lambda: self._openapi.ask(operation, region), self._registry, operation.action, self._deadline
        )
        with request_context(self._registry, operation.action):
            login, expires = self._read(answer, personal=not instance_id)
        # The answer has a point in time; kept as one of the monotonic clock, it survives a change of the local time.
        now = time.monotonic()
        life = max(expires - time.time(), _MIN_LIFE)
        return _Cached(login, now, now + life - min(life / 4, _RENEW_BEFORE), now + life)

    def _read(self, answer: Mapping[str, Any], *, personal: bool) -> tuple[Login, float]:
        """Return the login in an answer, and its end in seconds since the epoch."""
        names = ("TempUsername", "AuthorizationToken", "ExpireTime")
        if personal:
            names = ("tempUserName", "authorizationToken", "expireDate")
        body = answer.get("data") if personal else answer
        username, token, expires = (body.get(name) if isinstance(body, dict) else None for name in names)
        if not (isinstance(username, str) and isinstance(token, str) and username and token):
            # Some refusals come with status 200.
            if code := answer.get("Code"):
                raise AccountRefused(f"the OpenAPI says: {code}")
            raise ServerFailed("the OpenAPI's answer holds no login")
        if not isinstance(expires, int) or not 0 < expires < 10**15:
            missing = "the OpenAPI's answer does not say when the login expires"
            raise ServerFailed(missing)
        return Login(username, token), expires / 1000
