"""Repositories that are created at ACR where a push needs them."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from replicator.aliyun.acr import NAME_SEGMENTS
from replicator.aliyun.errors import AlreadyThere, NamespaceMissing
from replicator.aliyun.openapi import DEADLINE, OpenApi, find_region_and_instance, with_retries
from replicator.aliyun.operations import create_namespace, create_repository, get_repository
from replicator.errors import ErrorClass
from replicator.registry.errors import Refused, RegistryError, ServerFailed
from replicator.tasks import KeyedLock

if TYPE_CHECKING:
    from replicator.aliyun.operations import Account, Creates, Operation

_log = structlog.get_logger("replicator.aliyun")

_HOLDS = 60.0
"""Seconds for which an answer about one repository is not asked for again, a refusal included."""
_PAUSE = 15.0
"""Seconds without another request after the OpenAPI was away or busy."""
_MOST_KEPT = 4096


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of one repository; `helps` is whether a push that was refused is worth another try."""

    when: float
    helps: bool
    error: RegistryError | None = None


class MissingRepositories:
    """Creates repositories, and namespaces where that is allowed; a `replicator.registry.credentials.Creator`.

    What is there already is never changed.

    Args:
        registry: the host the rules name.
        account: on whose behalf the OpenAPI is asked.
        creates: what may be created, and how.
        deadline: seconds that all tries of one request have.
        holds: seconds for which an answer about one repository is not asked for again.

    Attributes:
        creates: what may be created, and how.
    """

    def __init__(
        self, registry: str, account: Account, creates: Creates, *, deadline: float = DEADLINE, holds: float = _HOLDS
    ) -> None:
        self._registry = registry
        self._account = account
        self.creates = creates
        self._deadline = deadline
        self._holds = holds
        self._openapi = OpenApi(registry, account)
        self._locks = KeyedLock()
        self._answers: dict[str, _Answer] = {}
        self._away: tuple[float, RegistryError] | None = None

    async def create(self, name: str, service: str | None) -> bool:
        """Create a repository that a push was refused for; one request, however many wait for it.

        Returns:
            Whether the push is worth another try: False for a name that ACR can't hold, and for a repository that has
            been there for longer than this, which the push was refused for another reason.

        Raises:
            AccountRefused: the account may not, and a person must change that.
            NamespaceMissing: nor is the namespace there, and that is not to be created.
            RegistryError: the OpenAPI refuses for another reason, can't be reached or is busy.
        """
        if name.count("/") + 1 != NAME_SEGMENTS:
            return False
        async with self._locks.hold("repository", name):
            now = time.monotonic()
            before = self._answers.get(name)
            if before is not None and now - before.when < self._holds:
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
            # Seen to be there for the first time, another process may just have created it.
            helps = created or before is None or before.error is not None
            self._keep(name, _Answer(time.monotonic(), helps))
            return helps

    def _keep(self, name: str, answer: _Answer) -> None:
        if len(self._answers) >= _MOST_KEPT:
            self._answers.clear()
        self._answers[name] = answer

    async def _create(self, path: str, service: str | None) -> bool:
        """Create a repository; return whether it was not there before."""
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
        """Create a namespace where that is allowed, and then the repository in it."""
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
                raise error.recast(ServerFailed, "; the namespace was created a moment ago") from error
            # Names of the Personal Edition's namespaces are one account's in all of a region.
            raise error.again("; the namespace is there, so it may be another account's") from error

    async def _is_there(self, operation: Operation, region: str) -> bool:
        """Tell whether a repository is there that could not be created: not all codes that say so are known."""
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
