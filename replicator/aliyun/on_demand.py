"""Requests to ACR's OpenAPI when a copy needs them: logins, missing repositories, and their types (public or private).

Temporary logins are cached while they are valid and renewed before they expire. Repositories are created at ACR when a
push needs them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from cachetools import TTLCache

from replicator.aliyun.acr import NAME_SEGMENTS
from replicator.aliyun.openapi import DEADLINE, OpenApi, find_region_and_instance, with_retries
from replicator.aliyun.operations import (
    GET_AUTHORIZATION_TOKEN,
    AccountRefused,
    AlreadyThere,
    NamespaceMissing,
    Visibility,
    create_namespace,
    create_repository,
    get_authorization_token,
    get_namespace,
    get_repository,
)
from replicator.errors import ErrorClass
from replicator.registry.credentials import Login
from replicator.registry.errors import Refused, RegistryError, ServerFailed, request_context
from replicator.tasks import KeyedLock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.aliyun.operations import Account, Creates, Operation

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
            # Read again: the previous holder of the lock may have renewed the login, or failed to.
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
                    _log.warning("login not renewed", registry=self._registry, error=failure)
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
            raise ServerFailed("the OpenAPI's answer contains no login")
        if not isinstance(expires, int) or not 0 < expires < 10**15:
            missing = "the OpenAPI's answer does not say when the login expires"
            raise ServerFailed(missing)
        return Login(username, token), expires / 1000


_TTL = 60.0
"""Seconds for which the answer about one repository is cached, a refusal included."""
_AWAY = 15.0
"""Seconds without a request after the OpenAPI was unreachable or busy."""
_MAX_CACHED = 4096
_TYPE_DEADLINE = 10.0
"""Seconds for all attempts of one question about a type: a copy waits for it."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """The cached answer about one repository; `helps` tells whether the refused push is worth another attempt."""

    when: float
    helps: bool
    error: RegistryError | None = None


class MissingRepositories:
    """Creates repositories, and namespaces where that is allowed; a `replicator.registry.credentials.Creator`.

    Existing objects stay unchanged.

    Args:
        registry: the host the rules name.
        account: the account that creates them.
        creates: the objects that may be created, with their settings.
        deadline: seconds for all attempts of one request.
        ttl: seconds for which the answer about one repository is cached.
    """

    def __init__(
        self, registry: str, account: Account, creates: Creates, *, deadline: float = DEADLINE, ttl: float = _TTL
    ) -> None:
        self._registry = registry
        self._account = account
        self.creates = creates
        self._deadline = deadline
        self._ttl = ttl
        self._openapi = OpenApi(registry, account)
        self._locks = KeyedLock()
        self._answers: dict[str, _Answer] = {}
        self._away: tuple[float, RegistryError] | None = None

    async def create(self, name: str, service: str | None) -> bool:
        """Create the repository of a refused push; concurrent callers share the request.

        Returns:
            Whether the push is worth another attempt. It is not for a name that ACR can't hold, nor for a repository
            that has existed for a while: the push was refused for another reason.

        Raises:
            AccountRefused: the account lacks the permission; a person has to change that.
            NamespaceMissing: the namespace does not exist either, and may not be created.
            RegistryError: the OpenAPI refuses for another reason, or is unreachable or busy.
        """
        if name.count("/") + 1 != NAME_SEGMENTS:
            return False
        async with self._locks.hold("repository", name):
            now = time.monotonic()
            # All tags of a missing repository are refused at about the same time, and one answer serves them.
            before = self._answers.get(name)
            if before is not None and now - before.when < self._ttl:
                if before.error is not None:
                    raise before.error.again()
                return before.helps
            if self._away is not None and now - self._away[0] < _AWAY:
                raise self._away[1].again()
            try:
                created = await self._create(name, service)
            except RegistryError as error:
                if error.error_class is ErrorClass.TRANSIENT:
                    self._away = (time.monotonic(), error)
                else:
                    self._keep(name, _Answer(time.monotonic(), helps=False, error=error))
                raise
            # A repository that is found to exist for the first time may have been created by another process just now.
            helps = created or before is None or before.error is not None
            self._keep(name, _Answer(time.monotonic(), helps))
            return helps

    def _keep(self, name: str, answer: _Answer) -> None:
        if len(self._answers) >= _MAX_CACHED:
            self._answers.clear()
        self._answers[name] = answer

    async def _create(self, path: str, service: str | None) -> bool:
        """Create a repository; tell whether it was missing before."""
        namespace, _, name = path.partition("/")
        region, instance_id = find_region_and_instance(self._registry, self._account, service, "CreateRepository")
        operation = create_repository(instance_id, namespace, name, self.creates.repositories)
        try:
            await self._ask(operation, region)
        except AlreadyThere:
            return False
        except RegistryError as error:
            if error.error_class is ErrorClass.TRANSIENT:
                raise
            if _lacks_namespace(error):
                await self._create_both(operation, namespace, region, error)
            elif await self._is_there(get_repository(instance_id, namespace, name), region):
                return False
            else:
                raise
        visibility = str(self.creates.repositories)
        _log.info("repository created", registry=self._registry, repository=path, visibility=visibility)
        return True

    async def _create_both(self, repository: Operation, namespace: str, region: str, missing: RegistryError) -> None:
        """Create a missing namespace if that is allowed, and then the repository in it."""
        if not self.creates.namespaces:
            raise missing.recast(NamespaceMissing) from missing
        operation = create_namespace(repository.instance_id, namespace, self.creates.repositories)
        created = False
        async with self._locks.hold("namespace", namespace):
            with suppress(AlreadyThere):
                await self._ask(operation, region)
                created = True
                _log.info("namespace created", registry=self._registry, namespace=namespace)
        try:
            with suppress(AlreadyThere):
                await self._ask(repository, region)
        except Refused as error:
            if not _lacks_namespace(error):
                raise
            if created:
                # Not visible yet: the next attempt of the copy finds it.
                raise error.recast(ServerFailed, "; the namespace was created a moment ago") from error
            # In the Personal Edition, a namespace belongs to one account in the whole region.
            raise error.again("; the namespace exists and may belong to another account") from error

    async def _is_there(self, operation: Operation, region: str) -> bool:
        """Tell whether a repository exists that could not be created; not all codes that say so are known."""
        try:
            await self._ask(operation, region)
        except RegistryError as error:
            if error.error_class is ErrorClass.TRANSIENT:
                raise
            return False
        return True

    async def _ask(self, operation: Operation, region: str) -> None:
        await with_retries(
            lambda: self._openapi.ask(operation, region), self._registry, operation.action, self._deadline
        )


class RepositoryTypes:
    """Who may pull from the repositories of a registry; a `replicator.registry.credentials.RepositoryTypes`.

    Args:
        registry: the host the rules name.
        account: the account that asks; it needs cr:GetRepository, and for repositories to come cr:GetNamespace.
    """

    def __init__(self, registry: str, account: Account) -> None:
        self._registry = registry
        self._account = account
        self._openapi = OpenApi(registry, account)
        self._locks = KeyedLock()
        self._known: TTLCache[str, bool | None] = TTLCache(_MAX_CACHED, _TTL)

    async def is_public(self, name: str, service: str | None) -> bool | None:
        """Tell whether a repository is public (仓库类型), or would be if a push created it (默认仓库类型).

        Returns:
            None where the OpenAPI does not tell: it is away, the account lacks a permission, or nothing would be
            created.
        """
        if name.count("/") + 1 != NAME_SEGMENTS:
            return None
        async with self._locks.hold(name):
            if name not in self._known:
                try:
                    self._known[name] = await self._look(name, service)
                except RegistryError as error:
                    _log.info("repository type not known", registry=self._registry, repository=name, error=error)
                    self._known[name] = None
            return self._known[name]

    async def _look(self, path: str, service: str | None) -> bool | None:
        namespace, _, name = path.partition("/")
        region, instance_id = find_region_and_instance(self._registry, self._account, service, "GetRepository")
        try:
            repository = await self._ask(get_repository(instance_id, namespace, name), region, "repo")
        except Refused:
            pass  # not there: not all codes that say so are known
        else:
            return _is_public(repository, "RepoType", "repoType")
        creates = self._account.creates
        created = creates.repositories is Visibility.PUBLIC if creates is not None else None
        try:
            found = await self._ask(get_namespace(instance_id, namespace), region, "namespace")
        except Refused:
            return created
        by_push = found.get("AutoCreateRepo", found.get("autoCreate"))
        return _is_public(found, "DefaultRepoType", "defaultVisibility") if by_push is True else created

    async def _ask(self, operation: Operation, region: str, part: str) -> Mapping[str, Any]:
        """Return what an answer says: all of it in the Enterprise Edition, and in the Personal one ``part``."""
        answer = await with_retries(
            lambda: self._openapi.ask(operation, region), self._registry, operation.action, _TYPE_DEADLINE
        )
        data = answer if operation.instance_id else answer.get("data")
        found = data if operation.instance_id or not isinstance(data, dict) else data.get(part)
        return found if isinstance(found, dict) else {}


def _is_public(answer: Mapping[str, Any], *names: str) -> bool | None:
    """Return the value of the first of some fields that is present."""
    word = next((str(answer[name]).upper() for name in names if name in answer), "")
    return {"PUBLIC": True, "PRIVATE": False}.get(word)


def _lacks_namespace(error: RegistryError) -> bool:
    return isinstance(error, Refused) and "NAMESPACE_NOT_EXIST" in error.why
