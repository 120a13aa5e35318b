"""The blobs of one image that need not be sent: they are in the destination's repository, or can be mounted into it.

A registry is asked for as little as possible: what it is known to support (`replicator.registry.limits.Abilities`)
decides which request opens an upload, and it is the same one that finds a blob wherever that can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.copy.ledger import LARGE, SMALL, Allowance
from replicator.registry.errors import (
    Denied,
    LoginRefused,
    NotFound,
    Refused,
    RegistryError,
    ServerFailed,
    Unauthorized,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yarl import URL

    from replicator.copy.context import CopyContext
    from replicator.copy.ledger import BlobLocks, Ledger
    from replicator.copy.survey import Survey
    from replicator.registry import Descriptor

_MAX_MOUNTS = 3
"""Repositories that a large blob is tried to be mounted from before it is sent."""
_MAX_SOURCES = 8
"""Repositories in the scope of one token."""


class ImageMounts:
    """Opens uploads for the blobs of one image, or finds that there is nothing to upload.

    Args:
        context: the copy this belongs to.
        ledger: the blobs that registries are known to have.
        locks: informed of blobs that a registry turned out to lack.
        survey: finds repositories to mount from; None to use those that the ledger knows.
        distrust: mount nothing.
    """

    def __init__(
        self, context: CopyContext, ledger: Ledger, locks: BlobLocks, survey: Survey | None, *, distrust: bool
    ) -> None:
        self._registry, self._name = context.target.repository.registry, context.target.repository.name
        self._source, self._target = context.origin.repository, context.target
        self._ledger, self._locks, self._survey = ledger, locks, survey
        self._distrust = distrust
        self._sources: list[str] = []
        self._worth = 0
        self._allowance = Allowance(0)

    def plan(self, blobs: Iterable[Descriptor]) -> None:
        """Choose the repositories to mount from, as few as possible: one token has to cover all of them."""
        for blob in blobs:
            self._worth += blob.size if blob.size > SMALL else 0
            if self._source.registry == self._registry and self._source.name != self._name:
                self._ledger.add(self._registry, self._source.name, blob.digest, confirmed=False)
            found = self._known_source(blob)
            if found is not None and found not in self._sources:
                self._sources.append(found)
        del self._sources[_MAX_SOURCES:]
        self._allowance = Allowance.worth(self._worth)

    def may_find(self, blob: Descriptor) -> bool:
        """Tell whether `open_upload` is likely to find a blob, because a repository is known to have it."""
        return self._known_source(blob) is not None and self._target.abilities.mounts is not False

    async def open_upload(self, blob: Descriptor) -> tuple[URL | None, str]:
        """Find the blob at the destination's registry, or open an upload session for it.

        Returns:
            The session's location and the target's name; or None and the repository that has the blob, empty if the
            registry found it by itself.
        """
        abilities = self._target.abilities
        other = self._known_source(blob)
        if other is None and blob.size > SMALL and self._worth >= LARGE and self._may_mount(blob):
            return await self._open_upload_of_unknown(blob)
        if other is None or abilities.mounts is False or not self._may_mount(blob):
            return await self._open_upload_in_place(blob), self._name
        return await self._open_upload_mounting(blob, other)

    async def _open_upload_mounting(self, blob: Descriptor, other: str) -> tuple[URL | None, str]:
        """Mount a blob from another repository, or else open an upload for it; returns the same as `open_upload`.

        Further repositories are tried for a large blob: any of them may have lost it.
        """
        abilities = self._target.abilities
        session: URL | None = None
        for _ in range(_MAX_MOUNTS if blob.size >= LARGE else 1):
            try:
                location, mounted = await self._mount(blob, other)
            except RegistryError:
                await self._cancel(session)
                raise
            if mounted or (location is not None and session is not None):
                # One session is enough, and a blob that was mounted needs none.
                await self._cancel(session if mounted else location)
            if mounted:
                return None, other
            session = session or location or await self._open_upload_in_place(blob)
            if location is None and abilities.mounts is None and await self._finds(other, blob):
                # Since the upload was accepted, the refusal meant the mount and not the push. It means every mount if
                # this login may read the blob and not mount it; else this repository only.
                abilities.mounts = False
            following = await self._search(blob) if blob.size >= LARGE and session is not None else None
            if following is None:
                break
            other = following
        return session, self._name

    async def _search(self, blob: Descriptor) -> str | None:
        """Return another repository that has a blob, after a search if none is known."""
        found = self._known_source(blob)
        if found is None and self._survey is not None and self._survey.may_find(self._target):
            await self._survey.find(self._target, blob.digest, self._worth, self._allowance)
            found = self._known_source(blob)
        return found if self._target.abilities.mounts is not False else None

    async def _open_upload_of_unknown(self, blob: Descriptor) -> tuple[URL | None, str]:
        """Open an upload for a blob that no known repository has, or find one; returns the same as `open_upload`."""
        abilities = self._target.abilities
        if abilities.mounts_anywhere:
            return await self._open_upload_anywhere(blob)
        searching = self._survey is not None and self._survey.may_find(self._target)
        if not searching and (abilities.mounts_in_place or blob.size < LARGE):
            return await self._open_upload_in_place(blob), self._name
        # First the repository itself: for a blob that is there no search is needed.
        if await self._target.has_blob(blob.digest, distrust=self._distrust):
            return None, self._name
        other = await self._search(blob)
        if other is not None:
            return await self._open_upload_mounting(blob, other)
        return await self._open_upload_anywhere(blob)

    async def _open_upload_anywhere(self, blob: Descriptor) -> tuple[URL | None, str]:
        """Open an upload for a blob that is not in the target repository, unless the registry finds it by itself.

        The request is the one that opens an upload anyway, with the digest in it. A registry that does not know such
        mounts takes it for just that (distribution specification, "Mounting a blob from another repository").

        Returns:
            The same as `open_upload`.
        """
        abilities = self._target.abilities
        if abilities.mounts_anywhere is False:
            return await self._target.start_upload(), self._name
        try:
            location = await self._target.start_upload(blob.digest)
        except (Denied, Unauthorized, NotFound, Refused, ServerFailed) as error:
            if isinstance(error, LoginRefused):
                raise
            location = await self._target.start_upload()
            abilities.mounts_anywhere = False  # the upload was accepted, so the refusal meant the mount
            return location, self._name
        if location is None:
            abilities.mounts_anywhere = True
            return None, ""
        return location, self._name

    async def _open_upload_in_place(self, blob: Descriptor) -> URL | None:
        """Open an upload session; None if the target repository turns out to have the blob."""
        abilities = self._target.abilities
        if abilities.mounts_in_place is False or not self._may_mount(blob):
            if blob.size > SMALL and await self._target.has_blob(blob.digest, distrust=self._distrust):
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
            location = await self._target.start_upload(blob.digest, self._name)
        except (Denied, Unauthorized, NotFound, Refused) as error:
            if abilities.mounts_in_place or isinstance(error, LoginRefused):
                raise
            return None, False
        if location is None:
            abilities.mounts_in_place = True
            return None, True
        # A registry that ignores mounts opens a session even for a blob it has: a HEAD tells, and may save an upload.
        if not abilities.mounts_in_place and blob.size >= LARGE:
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
        self._sources = sources = [*dict.fromkeys((*self._sources, other))][:_MAX_SOURCES]
        try:
            location = await self._target.start_upload(blob.digest, other, may_mount_from=sources)
        except (Denied, Unauthorized, NotFound, Refused) as error:
            self._sources = [name for name in self._sources if name != other]
            if len(sources) > 1 and isinstance(error, Denied | Unauthorized):
                # The token may have been refused for one of the others.
                self._sources = []
                return await self._mount(blob, other)
            if isinstance(error, Denied | Unauthorized):
                abilities.closed[other] = None
            else:
                self._ledger.forget(self._registry, other, blob.digest)
            return None, False
        if location is None:
            abilities.mounts = True
            return None, True
        # The other repository may just have lost the blob, or may be closed to this login.
        if self._survey is not None and not self._survey.shares_login(self._target, other):
            abilities.closed[other] = None
        elif abilities.mounts is None and await self._finds(other, blob):
            abilities.mounts = False
        else:
            self._ledger.forget(self._registry, other, blob.digest)
            await self._locks.forget(self._registry, other, blob.digest)
        return location, False

    async def _finds(self, other: str, blob: Descriptor) -> bool:
        return self._survey is not None and await self._survey.reads(self._target, other, blob.digest)

    async def _cancel(self, location: URL | None) -> None:
        if location is not None:
            await self._target.cancel_upload(location)

    async def probe(self, blob: Descriptor) -> None:
        """Learn, once per registry and with a large blob just sent, whether a mount in place finds a blob."""
        abilities = self._target.abilities
        if abilities.mounts_in_place is not None or blob.size < LARGE or not self._may_mount(blob):
            return
        # Other copies must not probe as well while the answer is awaited.
        abilities.mounts_in_place = False
        try:
            location = await self._target.start_upload(blob.digest, self._name)
        except RegistryError:
            return
        if location is None:
            abilities.mounts_in_place = True
        else:
            await self._target.cancel_upload(location)

    def _known_source(self, blob: Descriptor) -> str | None:
        closed = self._target.abilities.closed
        return self._ledger.mount_source(self._registry, self._name, blob.digest, self._sources, without=closed)

    def _may_mount(self, blob: Descriptor) -> bool:
        # Asked to mount a sha512 digest, distribution 2.8 answers 201 and from then on knows the blob only by sha256.
        trusted = self._target.abilities.mounts_hold and not self._distrust
        return trusted and blob.digest.startswith("sha256:")
