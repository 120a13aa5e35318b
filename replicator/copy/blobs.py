"""Bringing blobs to a destination, each once however many images ask for it at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from replicator.copy.gathering import gather_tolerant
from replicator.copy.ledger import NoBlobLocks
from replicator.errors import ErrorClass
from replicator.registry.errors import (
    Denied,
    DigestMismatch,
    LoginRefused,
    NotFound,
    Refused,
    RegistryError,
    Unauthorized,
)
from replicator.registry.limits import Budget, transfer
from replicator.retry import MAX_PAUSE, backoff
from replicator.tasks import KeyedLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from yarl import URL

    from replicator.copy.ledger import BlobLocks, Ledger
    from replicator.copy.outcome import Tally
    from replicator.registry import Descriptor, RemoteRepository

_log = structlog.get_logger("replicator.copy")

_TRIES = 4
"""Times a blob is sent before the copy as a whole is left to the queue's patience."""
_CORRUPT_TRIES = 2
"""Times a blob is read whose bytes are wrong: a second look, then the source's storage needs a person."""
_SMALL = 64 * 1024
"""Bytes that are sent rather than asked about, at a registry or among processes."""
_LARGE = 1024 * 1024
"""Bytes worth a question to a registry that was not yet seen to answer a mount in place."""
_MAX_MOUNT_SOURCES = 8
"""Repositories that one token is asked for."""


class BlobCopier:
    """Copies blobs between registries, sharing what is known and what is under way over all copies of a process.

    Args:
        transfers: blob bodies in flight at once; each holds a few MiB at the most.
        ledger: what is known to be at which registry.
        sharing: what other processes know and have under way.
    """

    def __init__(self, transfers: int, ledger: Ledger, sharing: BlobLocks | None = None) -> None:
        self.ledger = ledger
        self._transfers = Budget(transfers)
        self.sharing = sharing or NoBlobLocks()
        self._turns = KeyedLock()
        self._images = 0

    async def ensure(
        self,
        blobs: Iterable[Descriptor],
        source: RemoteRepository,
        destination: RemoteRepository,
        tally: Tally,
        on_bytes: Callable[[int], None],
        *,
        doubting: bool = False,
    ) -> None:
        """Make sure that ``destination`` has all ``blobs`` of an image: each is known, mounted, or copied.

        With ``doubting``, what is known and what is said to be mounted is not believed.

        Raises:
            RegistryError: of the source or of the destination, whichever failed.
        """
        self._images += 1
        # Who copies one image and ends has no use for what the registry would do with the next.
        learns = self._images > 1
        bringing = _Bringing(
            self.ledger, self.sharing, self._transfers, source, destination, tally, on_bytes, learns, doubting
        )
        # The largest first: the rest fits in beside it.
        ordered = sorted(blobs, key=lambda blob: -blob.size)
        bringing.plan(ordered)
        await gather_tolerant(self._ensure(blob, bringing) for blob in ordered)

    async def _ensure(self, blob: Descriptor, bringing: _Bringing) -> None:
        place = bringing.destination.repository
        async with self._turns.turn(place.registry, blob.digest):
            # Whoever had the turn before may have brought it, here or to where it can be mounted from.
            if bringing.doubting:
                await bringing.bring(blob)
            elif self.ledger.has(place.registry, place.name, blob.digest):
                bringing.tally.blobs_present += 1
            elif blob.size <= _SMALL:
                await bringing.bring(blob)
            else:
                await bringing.bring_shared(blob)

    def distrust_mounts(self, destination: RemoteRepository) -> None:
        """Believe no mount of a registry any more, because it did not have what it had said to have mounted."""
        if destination.abilities.mounts_hold:
            destination.abilities.mounts_hold = False
            _log.warning("mounts do not hold", registry=destination.repository.registry)

    async def forget(self, destination: RemoteRepository, digests: Iterable[str]) -> None:
        """Forget that blobs are at a destination, because it contradicted that."""
        place = destination.repository
        for digest in digests:
            self.ledger.forget(place.registry, place.name, digest)
            await self.sharing.forget(place.registry, place.name, digest)


class _Bringing:
    """The blobs of one image on their way."""

    def __init__(
        self,
        ledger: Ledger,
        sharing: BlobLocks,
        transfers: Budget,
        source: RemoteRepository,
        destination: RemoteRepository,
        tally: Tally,
        on_bytes: Callable[[int], None],
        learns: bool,
        doubting: bool,
    ) -> None:
        self.destination = destination
        self.doubting = doubting
        self.tally = tally
        self._ledger = ledger
        self._sharing = sharing
        self._transfers = transfers
        self._source = source
        self._on_bytes = on_bytes
        self._learns = learns
        self._registry, self._name = destination.repository.registry, destination.repository.name
        self._mount_sources: list[str] = []

    def plan(self, blobs: Iterable[Descriptor]) -> None:
        """Find the repositories to mount from, as few as will do: one token is asked for all of them."""
        source = self._source.repository
        for blob in blobs:
            if source.registry == self._registry and source.name != self._name:
                self._ledger.add(self._registry, source.name, blob.digest, seen=False)
            place = self._ledger.elsewhere(self._registry, self._name, blob.digest, self._mount_sources)
            if place is not None and place not in self._mount_sources:
                self._mount_sources.append(place)
        del self._mount_sources[_MAX_MOUNT_SOURCES:]

    async def bring_shared(self, blob: Descriptor) -> None:
        """Bring a blob when no other process is at it, or hear that one has brought it."""
        async with self._sharing.turn(self._registry, self._name, blob.digest) as turn:
            if turn.here:
                self._ledger.add(self._registry, self._name, blob.digest)
                self.tally.blobs_present += 1
                return
            for place in reversed(turn.elsewhere):
                self._ledger.add(self._registry, place, blob.digest, seen=False)
            await self.bring(blob)
            turn.brought()

    async def bring(self, blob: Descriptor) -> None:
        """Find, mount or send a blob, again after passing faults."""
        for attempt in range(1, _TRIES + 1):
            try:
                await self._try(blob)
            except RegistryError as error:
                wait = max(backoff(attempt), error.retry_after or 0.0)
                if not self._worth_another(error, attempt) or wait > MAX_PAUSE:
                    raise
                _log.info("blob repeated", digest=blob.digest, attempt=attempt, error=str(error))
                await asyncio.sleep(wait)
            else:
                self._ledger.add(self._registry, self._name, blob.digest)
                return

    async def _try(self, blob: Descriptor) -> None:
        location, where = await self._begin(blob)
        if location is None:
            if where == self._name:
                self.tally.blobs_present += 1
            else:
                self.tally.blobs_mounted += 1
            return
        try:
            # What is small takes no memory worth counting: the budgets of the hosts are enough.
            small = blob.size <= _SMALL
            async with (
                contextlib.nullcontext() if small else self._transfers.slot(blob.size),
                transfer(self._source.limits, self.destination.limits, blob.size),
            ):
                stream = await self._source.open_blob(blob, self._on_bytes)
                try:
                    await self.destination.finish_upload(location, stream)
                finally:
                    await stream.aclose()
        except BaseException as error:
            # A cancelled copy leaves its session to the registry's own clean-up: there may be no time to ask.
            if isinstance(error, Exception):
                await self.destination.cancel_upload(location)
            raise
        self.tally.blobs_copied += 1
        self.tally.bytes += blob.size
        unknown = self.destination.abilities.mounts_in_place is None
        if unknown and self._learns and blob.size >= _LARGE and self._may_mount(blob):
            await self._learn_from(blob)

    async def _begin(self, blob: Descriptor) -> tuple[URL | None, str]:
        """Find the blob at the destination's registry, or open an upload for it.

        Returns:
            Where to send it, or None and the repository it was found in.
        """
        abilities = self.destination.abilities
        elsewhere = self._ledger.elsewhere(self._registry, self._name, blob.digest, self._mount_sources)
        if elsewhere is None or abilities.mounts is False or not self._may_mount(blob):
            return await self._begin_here(blob), self._name
        location, found = await self._mount(blob, elsewhere)
        if location is None and not found:
            location = await self._begin_here(blob)
            # Now it is certain that it was the mount that was refused, and not the push. A registry that mounted before
            # has refused this place alone.
            abilities.mounts = abilities.mounts or False
            self._ledger.forget(self._registry, elsewhere, blob.digest)
            elsewhere = self._name
        return location, elsewhere

    async def _begin_here(self, blob: Descriptor) -> URL | None:
        """Open an upload; None if the blob turns out to be in the repository."""
        abilities = self.destination.abilities
        if abilities.mounts_in_place is False or not self._may_mount(blob):
            if blob.size > _SMALL and await self.destination.has_blob(blob.digest):
                return None
            return await self.destination.start_upload()
        location, found = await self._mount_in_place(blob)
        if location is None and not found:
            location = await self.destination.start_upload()
            abilities.mounts_in_place = False  # certain for the same reason
        return location

    async def _mount_in_place(self, blob: Descriptor) -> tuple[URL | None, bool]:
        """Ask for a mount from the repository itself: it says that the blob is there, or opens an upload.

        Returns:
            Where to send it, and whether it was found; neither when the registry does not take the question.
        """
        abilities = self.destination.abilities
        try:
            location = await self.destination.start_upload(blob.digest, self._name)
        except (Denied, Unauthorized, NotFound, Refused) as error:
            if abilities.mounts_in_place or isinstance(error, LoginRefused):
                raise
            return None, False
        if location is None:
            abilities.mounts_in_place = True
            return None, True
        if not abilities.mounts_in_place and blob.size >= _LARGE:
            try:
                found = await self.destination.has_blob(blob.digest)
            except RegistryError:
                await self.destination.cancel_upload(location)
                raise
            if found:
                abilities.mounts_in_place = False
                await self.destination.cancel_upload(location)
                return None, True
        return location, False

    async def _mount(self, blob: Descriptor, elsewhere: str) -> tuple[URL | None, bool]:
        """Ask for a mount from another repository; returns the same as `_mount_in_place`."""
        abilities = self.destination.abilities
        try:
            location = await self.destination.start_upload(blob.digest, elsewhere, may_mount_from=self._mount_sources)
        except (Denied, Unauthorized, NotFound, Refused):
            return None, False
        if location is None:
            abilities.mounts = True
            return None, True
        # It may just have lost the blob there; a registry that never mounted before is not asked again.
        abilities.mounts = abilities.mounts or False
        self._ledger.forget(self._registry, elsewhere, blob.digest)
        await self._sharing.forget(self._registry, elsewhere, blob.digest)
        return location, False

    async def _learn_from(self, blob: Descriptor) -> None:
        """With a large blob that was sent, try once whether the registry answers a mount in place."""
        abilities = self.destination.abilities
        abilities.mounts_in_place = False
        try:
            location = await self.destination.start_upload(blob.digest, self._name)
        except RegistryError:
            return
        if location is None:
            abilities.mounts_in_place = True
        else:
            await self.destination.cancel_upload(location)

    def _worth_another(self, error: RegistryError, attempt: int) -> bool:
        if isinstance(error, DigestMismatch):
            return attempt < _CORRUPT_TRIES
        if error.registry == self._source.repository.registry != self._registry:
            # Reading goes on where it broke for as long as anything moves; when it gives up, the source is down.
            return False
        return error.error_class is ErrorClass.TRANSIENT and attempt < _TRIES

    def _may_mount(self, blob: Descriptor) -> bool:
        # Asked to mount another digest, distribution 2.8 says 201, and from then on knows the blob by its sha256 alone.
        believed = self.destination.abilities.mounts_hold and not self.doubting
        return believed and blob.digest.startswith("sha256:")
