from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from replicator.aliyun import Account, Creates, MissingRepositories, TemporaryLogins, Visibility
from replicator.copy import Copier, Result
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries
from replicator.replication.transfer import transfer
from replicator.rules import CopyRequest
from tests.copy.conftest import QUICK, Registry, a_registry
from tests.standins.images import image
from tests.standins.openapi import OpenApiStandIn
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.registry import RequestObserver
    from tests.standins.acr import AcrStandIn

ACR = "registry.cn-beijing.aliyuncs.com"
PRIVATE = Creates(Visibility.PRIVATE)


@dataclass
class Stage:
    """A source, an ACR whose namespace ``manual`` creates no repositories on push, and its OpenAPI."""

    source: Registry
    acr: AcrStandIn
    openapi: OpenApiStandIn
    account: Account

    def access(self, creates: Creates | None = PRIVATE) -> Access:
        """The access that the rules build from ``aliyun`` with ``create``."""
        missing = MissingRepositories(ACR, self.account, creates) if creates is not None else None
        return Access(endpoint=self.acr.url, logins=TemporaryLogins(ACR, self.account), creator=missing)

    def registries(self, acr: Access, observer: RequestObserver | None = None) -> Registries:
        def access(repository: Repository) -> Access:
            return acr if repository.registry == ACR else Access(endpoint=f"http://{repository.registry}")

        return Registries(access, timing=QUICK, observer=observer)

    def request(self, name: str, tag: str = "v1", *, source: str = "v1") -> CopyRequest:
        """A request to copy the tag ``source`` to a tag at ACR."""
        return CopyRequest(self.source.reference(source), to(name, tag), "a rule")

    async def copy(self, acr: Access, *names: str) -> list[Result]:
        async with self.registries(acr) as registries:
            copier = Copier(registries)
            copies = (transfer(copier, self.request(name)) for name in names)
            return [outcome.result for outcome in await asyncio.gather(*copies)]


def to(name: str, tag: str = "v1") -> Reference:
    return Reference(Repository(ACR, name), tag=tag)


@pytest.fixture
async def stage(acr: AcrStandIn) -> AsyncIterator[Stage]:
    openapi = OpenApiStandIn(acr=acr)
    async with a_registry() as source, serve(openapi.faults) as host:
        await source.push("v1", image(1))
        yield Stage(source, acr, openapi, Account("key-id", "key-secret", openapi_endpoint=f"http://{host}"))
    assert acr.leaks == []
