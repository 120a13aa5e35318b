"""Record of which blobs a registry has, and the blob locks that the processes of one installation share.

Both only save work: without them a blob is looked up, or sent, a second time.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Container, Sequence
    from contextlib import AbstractAsyncContextManager

SMALL = 64 * 1024
"""Bytes up to which a blob is sent without a lookup: asking, a registry or other processes, costs more."""
LARGE = 1024 * 1024
"""Bytes from which a lookup pays off at a registry whose answer to a mount in place is unknown, and of all blobs of an
image those from which a search for them pays off."""
TRUSTED_SECONDS = 3600.0
"""How long an entry is trusted without asking the registry."""
_MAX_REPOSITORIES = 16
"""Repositories remembered per blob: any one of them serves as a mount source."""


class Ledger:
    """Blobs and manifests known to be in repositories of a registry: an LRU cache.

    An entry is forgotten when the registry contradicts it. Entries also expire, since not every registry checks that
    all parts of a manifest exist. As a mount source an entry never expires: the registry answers for the mount itself.

    Args:
        entries: blobs and manifests kept.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, entries: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The time of the last sighting by repository, the latest entry last.
        self._entries: LRUCache[tuple[str, str], dict[str, float]] = LRUCache(entries)

    def add(self, registry: str, repository: str, digest: str, *, confirmed: bool = True) -> None:
        """Record that ``digest`` is in ``repository``.

        Args:
            registry: the host.
            repository: the repository's name.
            digest: of the blob or manifest.
            confirmed: the registry has just said so; if not, the entry only serves as a mount source.
        """
        seen = self._entries.get((registry, digest), {})
        before = seen.pop(repository, float("-inf"))
        seen[repository] = self._clock() if confirmed else before
        if len(seen) > _MAX_REPOSITORIES:
            del seen[next(iter(seen))]
        self._entries[registry, digest] = seen

    def has(self, registry: str, repository: str, digest: str) -> bool:
        """Tell whether ``digest`` is in ``repository``, by an entry that has not expired."""
        seen = self._entries.get((registry, digest), {}).get(repository)
        return seen is not None and self._clock() - seen < TRUSTED_SECONDS

    def knows(self, registry: str, repository: str, digest: str) -> bool:
        """Tell whether ``digest`` was seen in ``repository``, however long ago."""
        return repository in self._entries.get((registry, digest), {})

    def mount_source(
        self,
        registry: str,
        repository: str,
        digest: str,
        preferred: Collection[str] = (),
        *,
        without: Container[str] = (),
    ) -> str | None:
        """Return another repository of the registry that has ``digest``: a preferred one, else the latest.

        Args:
            registry: the host.
            repository: the name of the one to mount into.
            digest: of the blob.
            preferred: names that come first.
            without: names that do not count.
        """
        seen = reversed(self._entries.get((registry, digest), {}))
        others = [name for name in seen if name != repository and name not in without]
        return next((name for name in others if name in preferred), others[0] if others else None)

    def forget(self, registry: str, repository: str, digest: str) -> None:
        """Remove an entry that the registry contradicted."""
        seen = self._entries.get((registry, digest), {})
        seen.pop(repository, None)
        if not seen:
            self._entries.pop((registry, digest), None)


class BlobLock(Protocol):
    """Lock on one blob at one registry, with what other processes know of the blob."""

    @property
    def present(self) -> bool:
        """Whether another process copied the blob to this repository recently enough to trust it."""

    @property
    def mount_sources(self) -> tuple[str, ...]:
        """Other repositories of the registry that received the blob, the latest first."""

    def mark_present(self) -> None:
        """Record that the repository has the blob; the other processes learn it when the lock is released."""


class BlobLocks(Protocol):
    """Blob locks across all processes.

    An implementation must not fail: while it can't reach the others, it grants every lock at once.
    """

    def hold(
        self,
        registry: str,
        repository: str,
        digest: str,
        *,
        urgent: Callable[[], bool] = ...,
        on_urgent: Callable[[], None] = ...,
    ) -> AbstractAsyncContextManager[BlobLock]:
        """Hold the lock on a blob, waiting for it where another process has it.

        The lock covers the digest in all repositories of the registry. It expires if its holder dies. It is only taken
        where waiting cannot deadlock.

        Args:
            registry: the host.
            repository: where the blob is to be.
            digest: the blob's.
            urgent: tells whether a push waits for the lock now.
            on_urgent: called once the lock is held and a push of another process waits for it.
        """

    async def forget(self, registry: str, repository: str, digest: str) -> None:
        """Forget that a repository has a blob, because the registry contradicted it."""

    async def share(self, registry: str, repository: str, digests: Sequence[str]) -> None:
        """Tell the other processes of blobs that a manifest in a repository names: they can be mounted from there."""


class NoBlobLocks:
    """The `BlobLocks` of a single process: it has nobody to wait for."""

    present = False
    mount_sources: tuple[str, ...] = ()

    @asynccontextmanager
    async def hold(
        self,
        registry: str,
        repository: str,
        digest: str,
        *,
        urgent: Callable[[], bool] = lambda: False,
        on_urgent: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[BlobLock]:
        """Grant the lock at once."""
        del registry, repository, digest, urgent, on_urgent
        yield self

    def mark_present(self) -> None:
        """Do nothing."""

    async def forget(self, registry: str, repository: str, digest: str) -> None:
        """Do nothing."""

    async def share(self, registry: str, repository: str, digests: Sequence[str]) -> None:
        """Do nothing."""
