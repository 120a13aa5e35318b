"""Temporary logins, kept as long as they last and renewed ahead of their end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from replicator.acr import endpoint_of, service_of
from replicator.aliyun.errors import REQUEST, AccountRefused
from replicator.aliyun.openapi import OpenApi
from replicator.errors import ErrorClass
from replicator.registry.errors import ConnectionFailed, RegistryError
from replicator.registry.limits import backoff

if TYPE_CHECKING:
    from replicator.aliyun.account import Account
    from replicator.registry.access import Login

_log = structlog.get_logger("replicator.aliyun")

_TRIES = 3
_DEADLINE = 30.0
"""Seconds that all tries of one renewal have."""
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
    """The logins of one account at one registry; a `replicator.registry.access.Logins`.

    Args:
        registry: the host the rules name.
        account: on whose behalf the OpenAPI is asked.
        deadline: seconds that all tries of one renewal have.
        pause: seconds without another try after a renewal that failed.
    """

    def __init__(self, registry: str, account: Account, *, deadline: float = _DEADLINE, pause: float = _PAUSE) -> None:
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
        region, instance_id = self._where(service)
        try:
            async with asyncio.timeout(self._deadline):
                for attempt in range(1, _TRIES + 1):
                    try:
                        found = await self._openapi.authorization_token(region, instance_id)
                        break
                    except RegistryError as error:
                        if error.error_class is not ErrorClass.TRANSIENT or attempt == _TRIES:
                            raise
                        await asyncio.sleep(max(backoff(attempt), error.retry_after or 0.0))
        except TimeoutError as error:
            late = f"the OpenAPI did not answer in {self._deadline:g} s"
            raise ConnectionFailed(self._registry, REQUEST, late) from error
        now = time.monotonic()
        life = max(found.expires - time.time(), _LEAST_LIFE)
        return _Held(found.login, now, now + life - min(life / 4, _EARLY), now + life)

    def _where(self, service: str | None) -> tuple[str, str]:
        """Return region and instance id: what the rules say, else the challenge, else the host."""
        said, host = service_of(service or ""), endpoint_of(self._registry)
        region = self._account.region or (said.region if said else "") or (host.region if host else "")
        if not region:
            raise AccountRefused(self._registry, REQUEST, "the registry does not tell its region: name it under aliyun")
        instance_id = self._account.instance_id or (said.instance_id if said else "")
        if not instance_id and said is None and host is not None and host.edition == "Enterprise":
            missing = "the registry does not tell its instance id: name instance_id (cri-…) under aliyun"
            raise AccountRefused(self._registry, REQUEST, missing)
        return region, instance_id
