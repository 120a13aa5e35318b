"""Temporary logins, kept as long as they last and renewed ahead of their end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from replicator.aliyun.errors import AccountRefused
from replicator.aliyun.openapi import DEADLINE, OpenApi, find_region_and_instance, with_retries
from replicator.aliyun.operations import GET_AUTHORIZATION_TOKEN, get_authorization_token
from replicator.registry.credentials import Login
from replicator.registry.errors import RegistryError, ServerFailed, request_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.aliyun.operations import Account

_log = structlog.get_logger("replicator.aliyun")

_PAUSE = 5.0
"""Seconds without another try after a renewal that failed."""
_EARLY = 600.0
_LEAST_LIFE = 60.0
"""Seconds a login is used at least: where the clock here is wrong, only the registry knows whether it ended."""
_FRESH = 10.0
"""Age in seconds up to which a refused login is not replaced: another would be refused as well."""


@dataclass(frozen=True, slots=True)
class _Held:
    login: Login
    issued: float
    renew: float
    expires: float


class TemporaryLogins:
    """The logins of one account at one registry; a `replicator.registry.credentials.Logins`.

    Args:
        registry: the host the rules name.
        account: on whose behalf the OpenAPI is asked.
        deadline: seconds that all tries of one renewal have.
        pause: seconds without another try after a renewal that failed.
    """

    def __init__(self, registry: str, account: Account, *, deadline: float = DEADLINE, pause: float = _PAUSE) -> None:
        self._registry = registry
        self._account = account
        self._deadline = deadline
        self._pause = pause
        self._openapi = OpenApi(registry, account)
        self._held: _Held | None = None
        self._failed: tuple[float, RegistryError] | None = None
        self._lock = asyncio.Lock()

    async def login(self, service: str | None) -> Login:
        """Return a login that holds now, asking for one if need be: once, however many wait.

        A renewal that fails is no matter as long as the login before it lasts.

        Raises:
            AccountRefused: the account gets none, and a person must change that.
            RegistryError: the OpenAPI can't be reached or is busy.
        """
        held = self._held
        if held is not None and time.monotonic() < held.renew:
            return held.login
        async with self._lock:
            now = time.monotonic()
            held = self._held
            if held is not None and now < held.renew:
                return held.login
            if self._failed is not None and now < self._failed[0] + self._pause:
                error = self._failed[1]
            else:
                try:
                    self._held = held = await self._renew(service)
                except RegistryError as failure:
                    self._failed = (time.monotonic(), failure)
                    error = failure
                    _log.warning("login not renewed", registry=self._registry, error=str(failure))
                else:
                    self._failed = None
                    return held.login
            if held is not None and time.monotonic() < held.expires:
                return held.login
            raise error

    def refused(self, login: Login) -> bool:
        """Forget ``login``, unless it is so new that another would be refused as well; tell whether it is forgotten."""
        held = self._held
        if held is not None and held.login == login and time.monotonic() - held.issued <= _FRESH:
            return False
        if held is not None and held.login == login:
            self._held = None
        return True

    async def _renew(self, service: str | None) -> _Held:
        region, instance_id = find_region_and_instance(self._registry, self._account, service, GET_AUTHORIZATION_TOKEN)
        operation = get_authorization_token(instance_id)
        answer = await with_retries(
            lambda: self._openapi.ask(operation, region), self._registry, operation.action, self._deadline
        )
        with request_context(self._registry, operation.action):
            login, expires = self._read(answer, personal=not instance_id)
        now = time.monotonic()
        life = max(expires - time.time(), _LEAST_LIFE)
        return _Held(login, now, now + life - min(life / 4, _EARLY), now + life)

    def _read(self, answer: Mapping[str, Any], *, personal: bool) -> tuple[Login, float]:
        """Return the login in an answer, and when it ends, in seconds since the epoch."""
        names = ("TempUsername", "AuthorizationToken", "ExpireTime")
        if personal:
            names = ("tempUserName", "authorizationToken", "expireDate")
        body = answer.get("data") if personal else answer
        username, token, expires = (body.get(name) if isinstance(body, dict) else None for name in names)
        if not (isinstance(username, str) and isinstance(token, str) and username and token):
            if code := answer.get("Code"):
                raise AccountRefused(f"the OpenAPI says: {code}")
            raise ServerFailed("the OpenAPI's answer holds no login")
        if not isinstance(expires, int) or not 0 < expires < 10**15:
            missing = "the OpenAPI's answer does not say when the login ends"
            raise ServerFailed(missing)
        return Login(username, token), expires / 1000
