"""One copy under way: parts before what names them, the tag last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from replicator.copy.gathering import gather_tolerant
from replicator.copy.selection import MAX_DEPTH, MAX_NESTED_BYTES
from replicator.errors import ErrorClass
from replicator.registry.errors import ManifestIncomplete, RegistryError, UnsupportedManifest
from replicator.retry import MAX_PAUSE, backoff
from replicator.tasks import KeyedLock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from replicator.copy.blobs import BlobCopier
    from replicator.copy.outcome import Tally
    from replicator.copy.selection import SourceReader
    from replicator.registry import Manifest, RemoteRepository

_MOST_INCOMPLETE = 2
"""Times that the blobs of a manifest are brought again, because the destination found one missing."""
_CHILDREN_AT_ONCE = 8
"""Child manifests held at once, each up to 4 MiB."""


class Push:
    """Brings manifests and all they name from one repository to another.

    Args:
        source: where from.
        reader: reads the manifests there.
        destination: where to.
        blobs: brings the blobs.
        tally: counts what is done.
        on_bytes: told the number of blob bytes as they are read.
        rewritten: indexes that the source does not have, by digest.
    """

    def __init__(
        self,
        source: RemoteRepository,
        reader: SourceReader,
        destination: RemoteRepository,
        blobs: BlobCopier,
        tally: Tally,
        on_bytes: Callable[[int], None],
        rewritten: Mapping[str, Manifest],
    ) -> None:
        self._source = source
        self._reader = reader
        self._destination = destination
        self._blobs = blobs
        self._tally = tally
        self._on_bytes = on_bytes
        self._rewritten = rewritten
        self._children = asyncio.Semaphore(_CHILDREN_AT_ONCE)
        self._nested: dict[str, int] = {}
        self._turns = KeyedLock()
        self._ledger = blobs.ledger
        self._place = (destination.repository.registry, destination.repository.name)

    async def bring_parts(self, manifest: Manifest, depth: int = 0, *, doubting: bool = False) -> None:
        """Bring all that ``manifest`` names, but not itself; for ``doubting`` see `BlobCopier.ensure`."""
        if self._ledger.has(*self._place, manifest.digest):
            return
        if manifest.is_index:
            if depth >= MAX_DEPTH:
                too_deep = f"indexes nested more than {MAX_DEPTH} deep"
                raise UnsupportedManifest(too_deep).at(self._source.repository.registry, manifest.digest)
            await gather_tolerant(
                self._bring_child(child.digest, manifest.digest, depth + 1) for child in manifest.manifests
            )
        else:
            blobs = [blob for blob in manifest.blobs if not blob.is_foreign]
            await self._blobs.ensure(
                blobs, self._source, self._destination, self._tally, self._on_bytes, doubting=doubting
            )

    async def put(self, manifest: Manifest, identifier: str) -> bool:
        """Write ``manifest``; where the destination misses something it was believed to have, bring that first.

        Returns:
            Whether the registry lists it among the referrers of its subject; see `RemoteRepository.put_manifest`.
        """
        incomplete = 0
        while True:
            try:
                listed = await self._destination.put_manifest(manifest, identifier)
                break
            except ManifestIncomplete:
                incomplete += 1
                if not await self._brought_missing(manifest, incomplete):
                    raise
        self._wrote(manifest, incomplete)
        return listed

    async def put_root(self, manifest: Manifest, identifier: str, confirm: Callable[[], Awaitable[None]]) -> None:
        """Write ``manifest`` under its tag; each try is short and confirmed, since a late one could undo another's."""
        timing = self._destination.timing
        incomplete = attempt = 0
        while True:
            await self._destination.pause()
            await confirm()
            try:
                await self._destination.put_manifest(manifest, identifier, within=timing.tag)
                break
            except ManifestIncomplete:
                incomplete += 1
                if not await self._brought_missing(manifest, incomplete):
                    raise
            except RegistryError as error:
                attempt += 1
                wait = max(backoff(attempt), error.retry_after or 0.0)
                if error.error_class is not ErrorClass.TRANSIENT or attempt >= timing.attempts or wait > MAX_PAUSE:
                    raise
                await asyncio.sleep(wait)
        self._wrote(manifest, incomplete)

    async def _brought_missing(self, manifest: Manifest, times: int) -> bool:
        """Bring the parts of a manifest that the destination misses although it was believed to have them.

        What it missed for the second time, right after it was brought, it may only have said to have mounted.

        Returns:
            Whether it was worth a try.
        """
        if times > (1 if manifest.is_index else _MOST_INCOMPLETE):
            return False
        parts = [part.digest for part in (*manifest.manifests, *manifest.blobs)]
        await self._blobs.forget(self._destination, [*parts, manifest.digest])
        await self.bring_parts(manifest, doubting=times == _MOST_INCOMPLETE)
        return True

    def _wrote(self, manifest: Manifest, incomplete: int) -> None:
        self._tally.manifests += 1
        self._ledger.add(*self._place, manifest.digest)
        if incomplete == _MOST_INCOMPLETE:
            self._blobs.distrust_mounts(self._destination)

    async def _bring_child(self, digest: str, index: str, depth: int) -> None:
        # Several indexes of one image may name the same child: the second finds it in the ledger.
        async with self._turns.turn(digest):
            if self._ledger.has(*self._place, digest):
                return
            # Only the holding of images is bounded: an index waiting for its children must not keep them from starting.
            async with self._children:
                manifest = self._rewritten.get(digest) or await self._reader.child(digest, index)
                if not manifest.is_index:
                    await self.bring_parts(manifest, depth)
                    await self.put(manifest, digest)
                    return
            self._nested[digest] = len(manifest.content)
            if sum(self._nested.values()) > MAX_NESTED_BYTES:
                too_large = f"indexes within it of more than {MAX_NESTED_BYTES} bytes"
                raise UnsupportedManifest(too_large).at(self._source.repository.registry, index)
            await self.bring_parts(manifest, depth)
            await self.put(manifest, digest)
