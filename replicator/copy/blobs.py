"""Bringing blobs to a destination, each once however many images ask for it at the same time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from replicator.copy.ledger import Abilities, Ledger
from replicator.errors import ErrorClass
from replicator.registry.errors import Denied, DigestMismatch, RegistryError, Unauthorized
from replicator.registry.limits import MAX_PAUSE, backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from yarl import URL

    from replicator.copy.outcome import Tally
    from replicator.registry import Descriptor, RemoteRepository

_log = structlog.get_logger("replicator.copy")

_TRIES = 4
"""Times a blob is sent before the copy as a whole is left to the queue's patience."""
_CORRUPT_TRIES = 2
"""Times a blob is read whose bytes are wrong: a second look, then the source's storage needs a person."""
_SMALL = 64 * 1024
"""Bytes that are sent rather than asked about."""


class BlobCopier:
    """Copies blobs between registries, sharing what is known and what is under way over all copies of a process.

    Args:
        transfers: blob bodies in flight at once; each holds a few MiB at the most.
        ledger: what is known to be at which registry.
    """

    def __init__(self, transfers: int, ledger: Ledger) -> None:
        self.ledger = ledger
        self._transfers = asyncio.Semaphore(transfers)
        self._abilities: dict[str, Abilities] = {}
        self._under_way: dict[tuple[str, str], _Turn] = {}

    async def ensure(
        self,
        blob: Descriptor,
        source: RemoteRepository,
        destination: RemoteRepository,
        tally: Tally,
        on_bytes: Callable[[int], None],
    ) -> None:
        """Make sure that ``destination`` has ``blob``: known, mounted, or copied, in this order.

        Raises:
            RegistryError: of the source or of the destination, whichever failed.
        """
        registry, name = destination.repository.registry, destination.repository.name
        async with self._turn(registry, blob.digest):
            # Whoever had the turn before may have brought it, here or to where it can be mounted from.
            if self.ledger.has(registry, name, blob.digest):
                tally.blobs_present += 1
                return
            for attempt in range(1, _TRIES + 1):
                try:
                    await self._bring(blob, source, destination, tally, on_bytes)
                except RegistryError as error:
                    wait = max(backoff(attempt), error.retry_after or 0.0)
                    if not _worth_another(error, attempt, source, destination) or wait > MAX_PAUSE:
                        raise
                    _log.info("blob repeated", digest=blob.digest, attempt=attempt, error=str(error))
                    await asyncio.sleep(wait)
                else:
                    self.ledger.add(registry, name, blob.digest)
                    return

    async def _bring(
        self,
        blob: Descriptor,
        source: RemoteRepository,
        destination: RemoteRepository,
        tally: Tally,
        on_bytes: Callable[[int], None],
    ) -> None:
        location, where = await self._begin(blob, destination)
        if location is None:
            if where == destination.repository.name:
                tally.blobs_present += 1
            else:
                tally.blobs_mounted += 1
            return
        try:
            async with self._transfers:
                stream = await source.open_blob(blob, on_bytes)
                try:
                    await destination.finish_upload(location, stream)
                finally:
                    await stream.aclose()
        except BaseException as error:
            # A cancelled copy leaves its session to the registry's own clean-up: there may be no time to ask.
            if isinstance(error, Exception):
                await destination.cancel_upload(location)
            raise
        tally.blobs_copied += 1
        tally.bytes += blob.size
        await self._learn_from(blob, destination)

    async def _begin(self, blob: Descriptor, destination: RemoteRepository) -> tuple[URL | None, str]:
        """Find the blob at the destination's registry, or open an upload for it.

        Returns:
            Where to send it, or None and the repository it was found in.
        """
        registry, name = destination.repository.registry, destination.repository.name
        abilities = self._abilities.setdefault(registry, Abilities())
        elsewhere = self.ledger.elsewhere(registry, name, blob.digest)
        if elsewhere is not None and abilities.mounts is not False:
            location = await self._mount(blob, destination, elsewhere, abilities)
            if location is not None or abilities.mounts:
                return location, elsewhere
        if abilities.answers_mount_in_place:
            return await destination.start_upload(blob.digest, name), name
        # A small blob is sent sooner than asked about.
        if blob.size > _SMALL and await destination.has_blob(blob.digest):
            return None, name
        return await destination.start_upload(), name

    async def _mount(
        self, blob: Descriptor, destination: RemoteRepository, elsewhere: str, abilities: Abilities
    ) -> URL | None:
        try:
            location = await destination.start_upload(blob.digest, elsewhere)
        except (Denied, Unauthorized):
            # "Cannot mount", not "cannot push": the upload that follows tells.
            abilities.mounts = False
            return None
        if location is None:
            abilities.mounts = True
        else:
            # It may just have lost the blob there; a registry that never mounted before is not asked again.
            abilities.mounts = abilities.mounts or False
            self.ledger.forget(destination.repository.registry, elsewhere, blob.digest)
        return location

    async def _learn_from(self, blob: Descriptor, destination: RemoteRepository) -> None:
        """With the first blob sent to a registry, try once whether it answers a mount in place."""
        abilities = self._abilities[destination.repository.registry]
        if abilities.answers_mount_in_place is not None:
            return
        abilities.answers_mount_in_place = False
        try:
            location = await destination.start_upload(blob.digest, destination.repository.name)
        except RegistryError:
            return
        if location is None:
            abilities.answers_mount_in_place = True
        else:
            await destination.cancel_upload(location)

    @asynccontextmanager
    async def _turn(self, registry: str, digest: str) -> AsyncIterator[None]:
        """Let one copy at a time care for a blob at a registry; who fails or is cancelled passes the turn on."""
        turn = self._under_way.setdefault((registry, digest), _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._under_way[(registry, digest)]


class _Turn:
    """A lock and how many want it, so that it can be dropped with the last."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


def _worth_another(error: RegistryError, attempt: int, source: RemoteRepository, destination: RemoteRepository) -> bool:
    if isinstance(error, DigestMismatch):
        return attempt < _CORRUPT_TRIES
    if error.registry == source.repository.registry != destination.repository.registry:
        # Reading goes on where it broke for as long as anything moves; when it gives up, the source is down.
        return False
    return error.error_class is ErrorClass.TRANSIENT and attempt < _TRIES
