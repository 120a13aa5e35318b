"""Repositories created at ACR when a push needs them."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from replicator.aliyun.acr import NAME_SEGMENTS
from replicator.aliyun.openapi import DEADLINE, OpenApi, find_region_and_instance, with_retries
from replicator.aliyun.operations import (
    AlreadyThere,
    NamespaceMissing,
    create_namespace,
    create_repository,
    get_repository,
)
from replicator.errors import ErrorClass
from replicator.registry.errors import Refused, RegistryError, ServerFailed
from replicator.tasks import KeyedLock

if TYPE_CHECKING:
    from replicator.aliyun.operations import Account, Creates, Operation

_log = structlog.get_logger("replicator.aliyun")

_TTL = 60.0
"""Seconds for which the answer about one repository is cached, a refusal included."""
_PAUSE = 15.0
"""Seconds without a request after the OpenAPI was unreachable or busy."""
_MAX_CACHED = 4096


@dataclass(frozen=True, slots=True)
class _Answer:
    """The cached answer about one repository; `helps` tells whether the refused push is worth another attempt."""

    when: float
    helps: bool
    error: RegistryError | None = None


class MissingRepositories:
    """Creates repositories, and namespaces where that is allowed; a `replicator.registry.credentials.Creator`.

    Whatever exists is left unchanged.

    Args:
        registry: the host the rules name.
        account: the account that creates them.
        creates: what may be created, and how.
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
            if self._away is not None and now - self._away[0] < _PAUSE:
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
            raise error.again("; the namespace exists, so it may be another account's") from error

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


def _lacks_namespace(error: RegistryError) -> bool:
    return isinstance(error, Refused) and "NAMESPACE_NOT_EXIST" in error.why
