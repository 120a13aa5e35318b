from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy import BlobLock, Copier, Outcome, Result
from replicator.copy.ledger import NoBlobLocks
from replicator.copy.options import CopyOptions
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries, Timing
from tests.copy.shelf import Source
from tests.standins.distribution import reused_distribution, storage_of
from tests.standins.faults import FaultLayer
from tests.standins.images import blobs_of, fetch_raw, manifests_of, push, verify_tree
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from tests.standins.images import Image, Index

PATIENT = Timing(connect=30, read=30, write=30, commit=60, tag=20, attempts=3)
"""The default: on a loaded machine any request may take seconds."""
QUICK = Timing(connect=5, read=2, write=2, commit=3, tag=2, attempts=3)
"""Deadlines for a registry that stalls; see `Pair.hurry`."""


class Registry:
    """A real registry behind a layer of faults.

    Attributes:
        host: the address with the faults.
        plain: the address without.
        faults: and the log.
        images: by tag, what the watch expects; see `watch`.
    """

    def __init__(self, plain: str, upstream: Upstream) -> None:
        self.host = ""
        self.plain = plain
        self.faults = FaultLayer(self._watched)
        self.images: dict[str, Image | Index] = {}
        self.early: list[str] = []
        self._upstream = upstream

    async def _watched(self, request: web.BaseRequest) -> web.StreamResponse:
        name, _, tag = request.path.removeprefix("/v2/").partition("/manifests/")
        if request.method == "PUT" and tag in self.images:
            self.early += self._missing(name, self.images[tag])
        return await self._upstream.forward(request)

    def _missing(self, name: str, root: Image | Index) -> list[str]:
        """Return the missing parts of an image whose tag is about to be written."""
        storage = storage_of(self.plain)
        assert storage is not None
        missing = [blob.digest for blob in blobs_of(root) if not storage.has_blob(name, blob.digest)]
        others = (one.digest for one in manifests_of(root) if one is not root)
        return missing + [digest for digest in others if not storage.has_manifest(name, digest)]

    async def push(self, tag: str, root: Image | Index, name: str = "team/app") -> None:
        """Push an image, bypassing the faults and the log."""
        await push(self.plain, name, tag, root)

    async def holds(self, tag: str, root: Image | Index, name: str = "team/app") -> None:
        """Assert that the registry has every byte of an image."""
        await verify_tree(self.plain, name, tag, root)

    async def has_tag(self, tag: str, name: str = "team/app") -> bool:
        try:
            await fetch_raw(self.plain, name, tag)
        except LookupError:
            return False
        return True

    async def delete(self, path: str, name: str = "team/app") -> None:
        async with self._upstream.request("DELETE", f"/v2/{name}/{path}") as answer:
            assert answer.status == 202, answer.status

    def reference(self, identifier: str, name: str = "team/app") -> Reference:
        digest = identifier if ":" in identifier else None
        return Reference(Repository(self.host, name), None if digest else identifier, digest)


@asynccontextmanager
async def a_registry(*, images_only: bool = False) -> AsyncIterator[Registry]:
    """Provide an empty registry; with ``images_only`` it refuses artifacts, as ACR does."""
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(reused_distribution(images_only=images_only))
        upstream = await stack.enter_async_context(Upstream(plain))
        registry = Registry(plain, upstream)
        registry.host = await stack.enter_async_context(serve(registry.faults))
        yield registry


@asynccontextmanager
async def a_copier(timing: Timing = PATIENT, **settings: Any) -> AsyncIterator[Copier]:
    """Provide a copier that uses plain HTTP."""
    async with Registries(lambda r: Access(endpoint=f"http://{r.registry}"), timing=timing) as registries:
        yield Copier(registries, **settings)


class RecordingLocks(NoBlobLocks):
    """Blob locks that record the digests that were locked, and the places that were forgotten."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.forgotten: list[tuple[str, str, str]] = []

    @asynccontextmanager
    async def hold(self, registry: str, repository: str, digest: str, **urgency: Any) -> AsyncIterator[BlobLock]:
        self.held.append(digest)
        async with super().hold(registry, repository, digest, **urgency) as lock:
            yield lock

    async def forget(self, registry: str, repository: str, digest: str) -> None:
        self.forgotten.append((registry, repository, digest))


class Pair:
    """A source and a destination, and the copier between them."""

    def __init__(self, source: Registry, destination: Registry, copier: Copier) -> None:
        self.source = source
        self.destination = destination
        self.copier = copier

    async def copy(self, tag: str = "v1", to: str | None = None, name: str = "team/app", **options: Any) -> Outcome:
        return await self.copier.copy(
            self.source.reference(tag), self.destination.reference(to or tag, name), **options
        )

    def expect(self, tag: str, root: Image | Index) -> None:
        """Watch the destination: its tag must not be written before all parts."""
        self.destination.images[tag] = root

    def hurry(self, registry: Registry, timing: Timing = QUICK) -> None:
        """Give the copier short deadlines for one registry; those for the other stay long."""
        self.copier.registries.transport(Repository(registry.host, "team/app")).timing = timing

    def clear(self) -> None:
        self.source.faults.log.clear()
        self.destination.faults.log.clear()

    def counts(self) -> tuple[int, int]:
        return len(self.source.faults.log), len(self.destination.faults.log)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with a_registry() as source, a_registry() as destination, a_copier() as copier:
        pair = Pair(source, destination, copier)
        yield pair
        assert not destination.early, "a tag was written before its parts"


@pytest.fixture
async def source() -> AsyncIterator[Source]:
    made = Source()
    async with serve(made.faults) as made.host:
        yield made


@pytest.fixture
async def taking() -> AsyncIterator[Registry]:
    async with a_registry() as registry:
        yield registry


async def is_copied(source: Reference, registry: Registry, content: bytes, *options: CopyOptions) -> None:
    """Assert that an image arrives to the byte, and that a second run, which knows nothing, finds it in place."""
    assert source.tag is not None
    destination, results = registry.reference(source.tag), []
    for _ in range(2):
        async with a_copier() as copier:
            outcomes = [await copier.copy(source, destination, options=one) for one in options or (CopyOptions(),)]
            results += [outcome.result for outcome in outcomes]
    assert results == [Result.COPIED, *[Result.UP_TO_DATE] * (len(results) - 1)]
    assert (await fetch_raw(registry.plain, "team/app", source.tag))[0] == content
