"""What is known to be at a registry, so that nothing is asked or sent twice.

What the processes of one installation tell each other of blobs, as the copy engine wants it told.

It only ever spares work: an implementation that can't reach the others lets every turn begin at once, knowing nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from contextlib import AbstractAsyncContextManager

TRUSTED_SECONDS = 3600.0
"""How long a registry is believed to hold in a repository what it was seen to hold there, without being asked."""
_MAX_REPOSITORIES = 16
"""Repositories remembered for one blob: any one of them serves to mount from."""


class Ledger:
    """Blobs and manifests known to be in repositories of a registry; bounded, the least used forgotten first.

    It only ever spares requests. What it knows is forgotten when a registry contradicts it; and since not every
    registry checks that all parts of a manifest are there, nothing is taken for granted that was seen too long ago. A
    repository to mount from may be known for longer: the registry answers for that itself.

    Args:
        entries: blobs and manifests that are remembered.
        clock: seconds that only grow.
    """

    def __init__(self, entries: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries = entries
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], dict[str, float]] = OrderedDict()

    def add(self, registry: str, repository: str, digest: str, *, seen: bool = True) -> None:
        """Note that ``digest`` is in ``repository``.

        Args:
            registry: the host.
            repository: the repository's name.
            digest: the blob's or manifest's.
            seen: the registry has just said so; if not, it is only worth a try to mount from there.
        """
        places = self._known.setdefault((registry, digest), {})
        before = places.pop(repository, float("-inf"))
        places[repository] = self._clock() if seen else before
        if len(places) > _MAX_REPOSITORIES:
            del places[next(iter(places))]
        self._known.move_to_end((registry, digest))
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def has(self, registry: str, repository: str, digest: str) -> bool:
        """Tell whether ``digest`` is in ``repository``, seen lately enough to be believed."""
        seen = self._known.get((registry, digest), {}).get(repository)
        if seen is None:
            return False
        self._known.move_to_end((registry, digest))
        return self._clock() - seen < TRUSTED_SECONDS

    def elsewhere(self, registry: str, repository: str, digest: str, preferred: Collection[str] = ()) -> str | None:
        """Return another repository of the registry that has ``digest``: a preferred one, else the latest known."""
        places = [place for place in reversed(self._known.get((registry, digest), {})) if place != repository]
        return next((place for place in places if place in preferred), places[0] if places else None)

    def forget(self, registry: str, repository: str, digest: str) -> None:
        """Forget one entry, because the registry contradicted it."""
        places = self._known.get((registry, digest))
        if places is not None:
            places.pop(repository, None)
            if not places:
                del self._known[(registry, digest)]


class BlobLock(Protocol):
    """The right to bring one blob to one registry, while no other process does."""

    @property
    def here(self) -> bool:
        """Whether another process brought the blob to this very repository lately enough to be believed."""

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Other repositories of the registry that a process brought the blob to, the latest first."""

    def brought(self) -> None:
        """Tell that the blob is in the repository now; the others hear of it when the turn ends."""


class BlobLocks(Protocol):
    """Turns over all processes."""

    def turn(self, registry: str, repository: str, digest: str) -> AbstractAsyncContextManager[BlobLock]:
        """Wait for the turn to bring a blob to a repository, and have it for as long as the context lasts.

        The turn is over a registry and a digest: whoever has it may bring the blob to any repository there. Who has it
        and dies loses it after a short while. It is never waited for by who could help another to end theirs.
        """

    async def forget(self, registry: str, repository: str, digest: str) -> None:
        """Forget that a blob is in a repository, because the registry contradicted it."""


class NoBlobLocks:
    """Sharing with nobody: for a process without a queue."""

    here = False
    elsewhere: tuple[str, ...] = ()

    @asynccontextmanager
    async def turn(self, registry: str, repository: str, digest: str) -> AsyncIterator[BlobLock]:
        """Begin at once."""
        del registry, repository, digest
        yield self

    def brought(self) -> None:
        """Tell nobody."""

    async def forget(self, registry: str, repository: str, digest: str) -> None:
        """Know nothing to forget."""
