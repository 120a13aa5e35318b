"""One tag from one registry to another: what is missing is sent, what is there is not, and the tag comes last."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from replicator.copy.blobs import BlobCopier
from replicator.copy.errors import SourceNotFound
from replicator.copy.ledger import Ledger
from replicator.copy.outcome import Outcome, Result, Tally
from replicator.copy.together import all_of, both
from replicator.errors import ErrorClass
from replicator.registry.errors import ManifestIncomplete, NotFound, RegistryError, UnsupportedManifest
from replicator.registry.limits import MAX_PAUSE, backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from replicator.reference import Reference
    from replicator.registry import Manifest, Registries, RemoteRepository

_MAX_DEPTH = 4
"""Indexes within indexes; more is no image anyone builds."""
_CHILDREN_AT_ONCE = 8
"""Child manifests held at once, each up to 4 MiB."""


class Copier:
    """Copies images; shares connections, knowledge and uploads under way between all copies of a process.

    Args:
        registries: the way to every registry.
        transfers: blob bodies in flight at once.
    """

    def __init__(self, registries: Registries, *, transfers: int = 8) -> None:
        self._registries = registries
        self._ledger = Ledger()
        self._blobs = BlobCopier(transfers, self._ledger)

    async def copy(
        self,
        source: Reference,
        destination: Reference,
        *,
        confirm: Callable[[], Awaitable[None]] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Outcome:
        """Make the destination's tag name the same bytes as the source's tag or digest.

        Manifests are sent byte for byte. Nothing is sent when the destination already names the same digest. The
        tag is written after everything it needs (distribution specification, "Pushing Manifests").

        Args:
            source: what to copy; a digest wins over a tag.
            destination: where to, by tag or by digest.
            confirm: awaited right before each try to write the tag, which then takes `Timing.tag` seconds at the
                most; what it raises ends the copy with nothing more written.
            progress: told the number of blob bytes as they are read.

        Returns:
            What was done: copied or up to date.

        Raises:
            SourceNotFound: the source has no such tag or digest.
            RegistryError: either registry refused or failed; see its class for whether to try again.
        """
        started = time.monotonic()
        tally = Tally()
        origin = self._registries.source(source.repository)
        target = self._registries.destination(destination.repository)
        wanted, present = await both(
            origin.head_manifest(source.identifier),
            target.head_destination(destination.identifier),
        )
        if wanted is not None and present is not None and wanted.digest == present.digest:
            self._ledger.add(destination.registry, destination.repository.name, present.digest)
            digest, result = wanted.digest, Result.UP_TO_DATE
        else:
            # By digest, so that a push in between can't mix two images; by the name where HEAD told nothing.
            root = await self._root(origin, source, wanted.digest if wanted is not None else source.identifier)
            run = _Run(origin, target, self._blobs, self._ledger, tally, progress or _ignore)
            await run.bring_parts(root, 0)
            await run.put_root(root, destination.identifier, confirm or _certain)
            digest, result = root.digest, Result.COPIED
        return Outcome(
            result,
            str(source),
            str(destination),
            digest,
            tally.bytes,
            tally.blobs_copied,
            tally.blobs_mounted,
            tally.blobs_present,
            tally.manifests,
            round(time.monotonic() - started, 3),
        )

    async def _root(self, origin: RemoteRepository, source: Reference, identifier: str) -> Manifest:
        try:
            return await origin.get_manifest(identifier)
        except NotFound as error:
            raise SourceNotFound(source, error) from error


class _Run:
    """One copy under way."""

    def __init__(
        self,
        source: RemoteRepository,
        destination: RemoteRepository,
        blobs: BlobCopier,
        ledger: Ledger,
        tally: Tally,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._source = source
        self._destination = destination
        self._blobs = blobs
        self._ledger = ledger
        self._tally = tally
        self._on_bytes = on_bytes
        self._children = asyncio.Semaphore(_CHILDREN_AT_ONCE)
        self._turns: dict[str, asyncio.Lock] = {}
        self._place = (destination.repository.registry, destination.repository.name)

    async def bring_parts(self, manifest: Manifest, depth: int) -> None:
        """Bring all that ``manifest`` names, but not itself."""
        if self._ledger.has(*self._place, manifest.digest):
            return
        if manifest.is_index:
            if depth >= _MAX_DEPTH:
                raise UnsupportedManifest(
                    self._source.repository.registry, manifest.digest, f"indexes nested more than {_MAX_DEPTH} deep"
                )
            await all_of(self._bring_child(child.digest, depth + 1) for child in manifest.manifests)
        else:
            # The largest first: the rest fits in beside it.
            blobs = sorted((blob for blob in manifest.blobs if not blob.is_foreign), key=lambda blob: -blob.size)
            await all_of(
                self._blobs.ensure(blob, self._source, self._destination, self._tally, self._on_bytes) for blob in blobs
            )

    async def put(self, manifest: Manifest, identifier: str) -> None:
        """Write ``manifest``; where the destination misses something it was believed to have, bring that first."""
        try:
            await self._destination.put_manifest(manifest, identifier)
        except ManifestIncomplete:
            await self._bring_missing(manifest)
            await self._destination.put_manifest(manifest, identifier)
        self._wrote(manifest)

    async def put_root(self, manifest: Manifest, identifier: str, confirm: Callable[[], Awaitable[None]]) -> None:
        """Write ``manifest`` under its tag; each try is short and confirmed, since a late one could undo another's."""
        timing = self._destination.timing
        completed = False
        attempt = 0
        while True:
            await self._destination.pause()
            await confirm()
            try:
                await self._destination.put_manifest(manifest, identifier, within=timing.tag)
                break
            except ManifestIncomplete:
                if completed:
                    raise
                completed = True
                await self._bring_missing(manifest)
            except RegistryError as error:
                attempt += 1
                wait = max(backoff(attempt), error.retry_after or 0.0)
                if error.error_class is not ErrorClass.TRANSIENT or attempt >= timing.tries or wait > MAX_PAUSE:
                    raise
                await asyncio.sleep(wait)
        self._wrote(manifest)

    async def _bring_missing(self, manifest: Manifest) -> None:
        """The destination misses something it was believed to have: believe nothing of its parts any more."""
        for part in (*manifest.manifests, *manifest.blobs):
            self._ledger.forget(*self._place, part.digest)
        self._ledger.forget(*self._place, manifest.digest)
        await self.bring_parts(manifest, 0)

    def _wrote(self, manifest: Manifest) -> None:
        self._tally.manifests += 1
        self._ledger.add(*self._place, manifest.digest)

    async def _bring_child(self, digest: str, depth: int) -> None:
        # Several indexes of one image may name the same child: the second finds it in the ledger.
        async with self._turns.setdefault(digest, asyncio.Lock()):
            if self._ledger.has(*self._place, digest):
                return
            # Only the holding of images is bounded: an index waiting for its children must not keep them from starting.
            async with self._children:
                manifest = await self._child(digest)
                if not manifest.is_index:
                    await self.bring_parts(manifest, depth)
                    await self.put(manifest, digest)
                    return
            await self.bring_parts(manifest, depth)
            await self.put(manifest, digest)

    async def _child(self, digest: str) -> Manifest:
        try:
            return await self._source.get_manifest(digest)
        except NotFound as error:
            raise NotFound(
                error.registry,
                error.request,
                f"the image's index names the child {digest}, which the source does not have",
                status=error.status,
                codes=error.codes,
            ) from error


async def _certain() -> None:
    return


def _ignore(_: int) -> None:
    return
