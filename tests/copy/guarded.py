"""A real registry that requires a token, as an end of a copy."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.copy import Copier
from replicator.registry import Access, Registries, Timing
from tests.copy.conftest import PATIENT, Registry, a_registry
from tests.registry.guard import PASSWORD, USER, Guard
from tests.standins.faults import FaultLayer
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.reference import Repository


@dataclass
class Guarded:
    """A registry and its guard.

    Attributes:
        registry: with its faults and log in front of the guard.
        guard: what lets only its tokens pass.
        tokens: the faults and log of the token endpoint, on another port.
    """

    registry: Registry
    guard: Guard
    tokens: FaultLayer


@asynccontextmanager
async def a_guarded_registry() -> AsyncIterator[Guarded]:
    """Provide an empty one."""
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(a_registry())
        guard = Guard(registry.faults._handler)
        registry.faults._handler = guard
        tokens = FaultLayer(guard.token)
        guard.realm = f"http://{await stack.enter_async_context(serve(tokens))}/token"
        yield Guarded(registry, guard, tokens)


@asynccontextmanager
async def a_copier_with_login(*guarded: Guarded, timing: Timing = PATIENT) -> AsyncIterator[Copier]:
    """Provide a copier with a login for these registries only."""
    hosts = {one.registry.host for one in guarded}

    def access(repository: Repository) -> Access:
        endpoint = f"http://{repository.registry}"
        return Access(USER, PASSWORD, endpoint=endpoint) if repository.registry in hosts else Access(endpoint=endpoint)

    async with Registries(access, timing=timing) as registries:
        yield Copier(registries)
