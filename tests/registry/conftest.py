from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from replicator.reference import Repository
from replicator.registry import Access, Registries, RemoteRepository, Timing
from tests.standins.distribution import reused_distribution
from tests.standins.faults import FaultLayer
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from tests.standins.server import Handler

# Hypothesis measures wall time, which means nothing on a machine that other tests share.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

QUICK = Timing(connect=2, read=1, write=1, commit=2, tag=1, attempts=3)


@dataclass
class Server:
    """A handler behind a fault layer.

    Attributes:
        host: ``127.0.0.1:PORT``.
        faults: in front of it, with its log.
    """

    host: str
    faults: FaultLayer


@asynccontextmanager
async def served(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve ``handler`` behind faults."""
    faults = FaultLayer(handler)
    async with serve(faults, tls=tls) as host:
        yield Server(host, faults)


@asynccontextmanager
async def client(access: dict[str, Access] | Access | None = None, timing: Timing = QUICK) -> AsyncIterator[Registries]:
    """Open registries with an access by host; all others are reached over plain HTTP, without a login."""

    def way(repository: Repository) -> Access:
        if isinstance(access, Access):
            return access
        plain = Access(endpoint=f"http://{repository.registry}")
        return (access or {}).get(repository.registry, plain)

    async with Registries(way, timing=timing) as registries:
        yield registries


@asynccontextmanager
async def repository(
    handler: Handler, access: Access | None = None, timing: Timing = QUICK, name: str = "team/app"
) -> AsyncIterator[tuple[RemoteRepository, FaultLayer]]:
    """Serve ``handler`` as a registry, and open one of its repositories for writing."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(served(handler))
        access = access or Access(endpoint=f"http://{server.host}")
        registries = await stack.enter_async_context(client(access, timing))
        yield registries.destination(Repository(server.host, name)), server.faults


@pytest.fixture
async def registry() -> AsyncIterator[Server]:
    """A real registry, in memory, behind faults."""
    async with reused_distribution() as host, Upstream(host) as upstream, served(upstream.forward) as server:
        yield server


@pytest.fixture
async def registries() -> AsyncIterator[Registries]:
    async with client() as made:
        yield made
