"""Blob transfer to a destination: each blob once, however many images need it at the same time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import structlog

from replicator.copy.ledger import NoBlobLocks
from replicator.registry.errors import (
    Denied,
    DigestMismatch,
    LoginRefused,
    NotFound,
    Refused,
    RegistryError,
    Unauthorized,
)
from replicator.registry.places import Budget, transfer
from replicator.retry import is_transient, retrying
from replicator.tasks import KeyedLock, gather_tolerant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yarl import URL

    from replicator.copy.context import CopyContext
    from replicator.copy.ledger import BlobLocks, Ledger
    from replicator.registry import Descriptor, RemoteRepository

_log = structlog.get_logger("replicator.copy")

_MAX_ATTEMPTS = 4
"""Attempts per blob; after that the queue retries the whole copy."""
_MAX_CORRUPT_ATTEMPTS = 2
"""Attempts for a blob with a wrong digest: if it is wrong twice, somebody has to repair the source's storage."""
_SMALL = 64 * 1024
"""Bytes up to which a blob is sent without a lookup: asking, a registry or other processes, costs more."""
_LARGE = 1024 * 1024
"""Bytes from which a lookup pays off at a registry whose answer to a mount in place is unknown."""
_MAX_MOUNT_SOURCES = 8
"""Repositories in the scope of one token."""


class BlobCopier:
    """Copies blobs; all copies of a process share its ledger, its locks and its transfer slots.

    Args:
        transfers: concurrent blob bodies; each takes a few MiB at most.
        ledger: what registries are known to have.
        locks: locks shared with other processes.
    """

    def __init__(self, transfers: int, ledger: Ledger, locks: BlobLocks | None = None) -> None:
        self.ledger = ledger
        self.locks = locks or NoBlobLocks()
        self.transfers = Budget(transfers)
        self._process_locks = KeyedLock()
        self._images = 0

    async def ensure(self, blobs: Iterable[Descriptor], context: CopyContext, *, distrust: bool = False) -> None:
        """Make sure that the target repository has all ``blobs`` of an image.

        With ``distrust``, neither the ledger nor a mount is trusted: each blob is looked up or sent.

        Raises:
            RegistryError: the source or the destination failed.
        """
        self._images += 1
        # Probing only pays off from the second image on.
        upload = _ImageUpload(self, context, probe=self._images > 1, distrust=distrust)
        # The largest first: the others fit in beside it.
        ordered = sorted(blobs, key=lambda blob: -blob.size)
        upload.plan_mounts(ordered)
        await gather_tolerant(self._ensure(blob, upload) for blob in ordered)

    async def _ensure(self, blob: Descriptor, upload: _ImageUpload) -> None:
        async with self._process_locks.hold(upload.registry, blob.digest):
            # The previous holder may have copied the blob, here or to a repository it can be mounted from.
            if upload.distrust:
                await upload.copy(blob)
            elif self.ledger.has(upload.registry, upload.name, blob.digest):
                upload.tally.blobs_present += 1
            elif blob.size <= _SMALL:
                await upload.copy(blob)
            else:
                await upload.copy_locked(blob)

    def distrust_mounts(self, target: RemoteRepository) -> None:
        """Stop trusting the mounts of a registry, because a blob it claimed to have mounted was missing."""
        if target.abilities.mounts_hold:
            target.abilities.mounts_hold = False
            _log.warning("mounts do not hold", registry=target.repository.registry)

    async def forget(self, target: RemoteRepository, digests: Iterable[str]) -> None:
        """Forget that a repository has these blobs, because its registry contradicted it."""
        repository = target.repository
        for digest in digests:
            self.ledger.forget(repository.registry, repository.name, digest)
            await self.locks.forget(repository.registry, repository.name, digest)


class _ImageUpload:
    """Upload of the blobs of one image."""

    def __init__(self, copier: BlobCopier, context: CopyContext, *, probe: bool, distrust: bool) -> None:
        self.registry, self.name = context.target.repository.registry, context.target.repository.name
        self.distrust = distrust
        self.tally = context.tally
        self._probe = probe
        self._context = context
        self._source, self._target = context.origin, context.target
        self._ledger, self._locks, self._transfers = copier.ledger, copier.locks, copier.transfers
        self._mount_sources: list[str] = []

    def plan_mounts(self, blobs: Iterable[Descriptor]) -> None:
        """Choose the repositories to mount from, as few as possible: one token has to cover all of them."""
        source = self._source.repository
        for blob in blobs:
            if source.registry == self.registry and source.name != self.name:
                self._ledger.add(self.registry, source.name, blob.digest, confirmed=False)
            found = self._mount_source(blob)
            if found is not None and found not in self._mount_sources:
                self._mount_sources.append(found)
        del self._mount_sources[_MAX_MOUNT_SOURCES:]

    async def copy_locked(self, blob: Descriptor) -> None:
        """Copy a blob under the lock that all processes share, unless another process has just copied it."""
        async with self._locks.hold(self.registry, self.name, blob.digest) as lock:
            if lock.present:
                self._ledger.add(self.registry, self.name, blob.digest)
                self.tally.blobs_present += 1
                return
            for name in reversed(lock.mount_sources):
                self._ledger.add(self.registry, name, blob.digest, confirmed=False)
            await self.copy(blob)
            lock.mark_present()

    async def copy(self, blob: Descriptor) -> None:
        """Find, mount or send a blob, with retries after transient errors."""
        corrupt = 0

        def is_retryable(error: Exception) -> bool:
            nonlocal corrupt
            if isinstance(error, DigestMismatch):
                corrupt += 1
                return corrupt < _MAX_CORRUPT_ATTEMPTS
            source = self._source.repository.registry
            if isinstance(error, RegistryError) and error.registry == source != self.registry:
                # The stream has already resumed for as long as anything moved, so the source is down.
                return False
            return is_transient(error)

        def log(error: Exception, attempt: int, _: float) -> None:
            _log.info("blob repeated", digest=blob.digest, attempt=attempt, error=str(error))

        await retrying(lambda: self._attempt(blob), attempts=_MAX_ATTEMPTS, retryable=is_retryable, on_retry=log)
        self._ledger.add(self.registry, self.name, blob.digest)

    async def _attempt(self, blob: Descriptor) -> None:
        location, found_in = await self._open_upload(blob)
        if location is None:
            if found_in == self.name:
                self.tally.blobs_present += 1
            else:
                self.tally.blobs_mounted += 1
            return
        try:
            # A small blob takes no memory worth counting: the budgets of the hosts are enough.
            small = blob.size <= _SMALL
            async with (
                contextlib.nullcontext() if small else self._transfers.slot(blob.size),
                transfer(self._source.limits, self._target.limits, blob.size),
            ):
                stream = await self._source.open_blob(blob, self._context.on_bytes)
                try:
                    await self._target.finish_upload(location, stream)
                finally:
                    await stream.aclose()
        except BaseException as error:
            # A cancelled copy leaves its upload session to the registry's clean-up: there may be no time for a request.
            if isinstance(error, Exception):
                await self._target.cancel_upload(location)
            raise
        self.tally.blobs_copied += 1
        self.tally.bytes += blob.size
        unknown = self._target.abilities.mounts_in_place is None
        if unknown and self._probe and blob.size >= _LARGE and self._may_mount(blob):
            await self._probe_mount_in_place(blob)

    async def _open_upload(self, blob: Descriptor) -> tuple[URL | None, str]:
        """Find the blob at the destination's registry, or open an upload session for it.

        Returns:
            The session's location and the target's name; or None and the repository that has the blob.
        """
        abilities = self._target.abilities
        other = self._mount_source(blob)
        if other is None or abilities.mounts is False or not self._may_mount(blob):
            return await self._open_upload_in_place(blob), self.name
        location, mounted = await self._mount(blob, other)
        if mounted:
            return None, other
        if location is None:
            location = await self._open_upload_in_place(blob)
            # Since the upload was accepted, the refusal meant the mount and not the push. A registry that mounted
            # before refused this repository only.
            abilities.mounts = abilities.mounts or False
            self._ledger.forget(self.registry, other, blob.digest)
        return location, self.name

    async def _open_upload_in_place(self, blob: Descriptor) -> URL | None:
        """Open an upload session; None if the target repository turns out to have the blob."""
        abilities = self._target.abilities
        if abilities.mounts_in_place is False or not self._may_mount(blob):
            if blob.size > _SMALL and await self._target.has_blob(blob.digest):
                return None
            return await self._target.start_upload()
        location, present = await self._mount_in_place(blob)
        if location is None and not present:
            location = await self._target.start_upload()
            abilities.mounts_in_place = False  # the upload was accepted, so the refusal meant the mount
        return location

    async def _mount_in_place(self, blob: Descriptor) -> tuple[URL | None, bool]:
        """Ask for a mount from the target repository itself: a lookup and an upload session in one request.

        Returns:
            The session's location, and whether the blob is present; neither if the registry refuses such a mount.
        """
        abilities = self._target.abilities
        try:
            location = await self._target.start_upload(blob.digest, self.name)
        except (Denied, Unauthorized, NotFound, Refused) as error:
            if abilities.mounts_in_place or isinstance(error, LoginRefused):
                raise
            return None, False
        if location is None:
            abilities.mounts_in_place = True
            return None, True
        # A registry that ignores mounts opens a session even for a blob it has: a HEAD tells, and may save an upload.
        if not abilities.mounts_in_place and blob.size >= _LARGE:
            try:
                present = await self._target.has_blob(blob.digest)
            except RegistryError:
                await self._target.cancel_upload(location)
                raise
            if present:
                abilities.mounts_in_place = False
                await self._target.cancel_upload(location)
                return None, True
        return location, False

    async def _mount(self, blob: Descriptor, other: str) -> tuple[URL | None, bool]:
        """Ask for a mount from another repository; returns the same as `_mount_in_place`."""
        abilities = self._target.abilities
        try:
            location = await self._target.start_upload(blob.digest, other, may_mount_from=self._mount_sources)
        except (Denied, Unauthorized, NotFound, Refused):
            return None, False
        if location is None:
            abilities.mounts = True
            return None, True
        # The other repository may just have lost the blob; a registry that never mounted before is not asked again.
        abilities.mounts = abilities.mounts or False
        self._ledger.forget(self.registry, other, blob.digest)
        await self._locks.forget(self.registry, other, blob.digest)
        return location, False

    async def _probe_mount_in_place(self, blob: Descriptor) -> None:
        """Learn, once per registry and with a large blob just sent, whether a mount in place finds a blob."""
        abilities = self._target.abilities
        # Other copies must not probe as well while the answer is awaited.
        abilities.mounts_in_place = False
        try:
            location = await self._target.start_upload(blob.digest, self.name)
        except RegistryError:
            return
        if location is None:
            abilities.mounts_in_place = True
        else:
            await self._target.cancel_upload(location)

    def _mount_source(self, blob: Descriptor) -> str | None:
        return self._ledger.mount_source(self.registry, self.name, blob.digest, self._mount_sources)

    def _may_mount(self, blob: Descriptor) -> bool:
        # Asked to mount a sha512 digest, distribution 2.8 answers 201 and from then on knows the blob only by sha256.
        trusted = self._target.abilities.mounts_hold and not self.distrust
        return trusted and blob.digest.startswith("sha256:")
