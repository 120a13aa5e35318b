"""Record of the blobs that registries have, the kinds they refuse, and searches for blobs; and the locks on blobs.

All of it only saves work: without it a blob is looked up, or sent, a second time.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cachetools import LRUCache, TTLCache

from replicator.tasks import KeyedLock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Container, Sequence
    from contextlib import AbstractAsyncContextManager

    from replicator.reference import Repository
    from replicator.registry.limits import Abilities

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


class SelectionStore(Protocol):
    """Key-value store that the processes of one installation share; the value of a key never changes.

    An implementation must not fail: while it can't reach the others, it knows no key.
    """

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        """Return the value of each key; None for one that is unknown, or not known in time."""

    def note(self, name: str, text: str) -> None:
        """Store a value; the other processes see it soon, or never."""


REFUSED_SECONDS = 7 * 24 * 3600.0
"""Seconds after which a refused kind is tried again."""
MAX_REFUSED = 1000
"""Refused kinds, and artifacts of these kinds, that are remembered at once."""
_SHARED_SECONDS = 300.0
"""Seconds after which a process looks again at what processes share: another one may have found out better."""
_TAKEN = "taken"


class RefusedKinds:
    """The kinds of manifests that destinations have refused, and those that they took: each is asked for once a week.

    A kind is the types that a registry decides by: ``artifactType``, and the media type of the config. What one
    namespace refuses another may take, since their editions and policies may differ. The artifacts that were skipped
    for their kind are remembered as long, so that they need not be read again to be skipped.

    An entry is the second since which it holds, and a word: nothing for a refused kind, ``taken``, or what the kind of
    a skipped artifact is called.

    Args:
        store: keeps them for all processes; None for this process alone.
        clock: the time of day, in seconds since 1970.
    """

    def __init__(self, store: SelectionStore | None = None, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        seconds = REFUSED_SECONDS if store is None else _SHARED_SECONDS
        self._known: TTLCache[str, str] = TTLCache(MAX_REFUSED, seconds, clock)
        self._questions = KeyedLock()

    async def verdict(self, host: str, namespace: str, kind: str) -> bool | None:
        """Tell whether a destination refused this kind within a week; False if it took it, None if neither is known."""
        found = await self._recall(_kind_name(host, namespace, kind))
        return None if found is None else found[1] != _TAKEN

    async def until(self, host: str, namespace: str, kind: str) -> float:
        """Return until when a verdict on a kind counts; the time of now if there is none."""
        found = await self._recall(_kind_name(host, namespace, kind))
        return self._clock() if found is None else found[0] + REFUSED_SECONDS

    async def skipped(self, host: str, namespace: str, artifact: str) -> str:
        """Return the name of the kind of an artifact that was skipped within a week; empty for no such artifact."""
        found = await self._recall(_kind_name(host, namespace, artifact))
        return found[1] if found is not None else ""

    @asynccontextmanager
    async def question(self, host: str, namespace: str, kind: str) -> AsyncIterator[None]:
        """Ask a destination once per process: concurrent callers wait, and find the answer here."""
        async with self._questions.hold(_kind_name(host, namespace, kind)):
            yield

    def note(self, host: str, namespace: str, kind: str, *, refused: bool = True) -> None:
        """Note that a destination refused this kind now, or took it."""
        self._note(_kind_name(host, namespace, kind), f"{int(self._clock())}{'' if refused else f' {_TAKEN}'}")

    async def skip(self, host: str, namespace: str, kind: str, artifact: str, name: str) -> None:
        """Note that an artifact was skipped, for as long as the refusal of its kind is remembered.

        Args:
            host: of the destination.
            namespace: of the destination.
            kind: the types that the registry decided by.
            artifact: a key of the artifact.
            name: what its kind is called.
        """
        found = await self._recall(_kind_name(host, namespace, kind))
        since = found[0] if found is not None else int(self._clock())
        self._note(_kind_name(host, namespace, artifact), f"{since} {name}")

    def _note(self, name: str, text: str) -> None:
        self._known[name] = text
        if self._store is not None:
            self._store.note(name, text)

    async def _recall(self, name: str) -> tuple[int, str] | None:
        """Return the second and the word of an entry; None for none, one too old, or one in another form."""
        text = self._known.get(name)
        if text is None and self._store is not None:
            (text,) = await self._store.recall([name])
            if text is not None:
                self._known[name] = text
        since, _, word = (text or "").partition(" ")
        # The store may keep it for longer.
        counts = since.isdecimal() and 0 <= self._clock() - int(since) < REFUSED_SECONDS
        return (int(since), word) if counts else None


def _kind_name(host: str, namespace: str, kind: str) -> str:
    return hashlib.sha256(f"{host}/{namespace} {kind}".encode()).hexdigest()[:32]


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
    """The `BlobLocks` of a single process: there is no other process to wait for."""

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


class TagLocks:
    """Locks on tags that several copies may write: read, change and write of one tag is atomic among all processes."""

    def __init__(self, locks: BlobLocks) -> None:
        self._process_locks = KeyedLock()
        self._locks = locks

    @asynccontextmanager
    async def hold(self, repository: Repository, tag: str) -> AsyncIterator[None]:
        """Hold the lock on a tag.

        Blob locks may be taken while it is held, never the other way round, so the two can't deadlock.
        """
        registry, name = repository.registry, repository.name
        # The name in front keeps the item apart from any digest.
        async with self._process_locks.hold(registry, name, tag), self._locks.hold(registry, name, f"{name}:{tag}"):
            yield


BYTES_A_REQUEST = 128 * 1024
"""Bytes to send that justify one request of a search; bytes that it reads are paid for at the same rate."""
FEWEST_REQUESTS, MOST_REQUESTS = 8, 512
MOST_MANIFESTS = 16
"""Manifests read of one repository, the newest first; an index counts as one. Those count that comparisons saw."""


@dataclass(slots=True)
class Allowance:
    """How many requests the searches for the blobs of one image may still cost, all together."""

    requests: int

    @classmethod
    def worth(cls, size: int) -> Allowance:
        """Return the allowance of an image of which ``size`` bytes would be sent otherwise."""
        return cls(min(max(size // BYTES_A_REQUEST, FEWEST_REQUESTS), MOST_REQUESTS))

    def take(self) -> bool:
        """Take one request, if there is one left."""
        return self.take_some(1) == 1

    def take_some(self, most: int) -> int:
        """Take as many requests as are left of so many, and return their number."""
        taken = max(min(most, self.requests), 0)
        self.requests -= taken
        return taken


@dataclass(slots=True)
class Place:
    """A repository, and how far it was read.

    Attributes:
        repository: the repository.
        unread: tags and digests to read, the next one first.
        images: digests of the images to read of the index that was read last.
        listed: whether its tags were listed.
        read: manifests read so far, those of other processes included.
        skip: manifests that other processes read, the newest first.
        recalled: whether other processes were asked how far they read it.
        reads: manifests that this process has read since it began with the place.
        failures: how often in a row it could not be read.
        done_until: until when nothing more is read but what comparisons see; None until all was read.
        rests_until: when it may be read again, on the monotonic clock.
        busy: whether a search is reading it now.
        closed_to: the login that it was found not to be under.
        known: digests of manifests that were read.
    """

    repository: Repository
    unread: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    listed: bool = False
    read: int = 0
    skip: int = 0
    recalled: bool = False
    reads: int = 0
    failures: int = 0
    done_until: float | None = None
    rests_until: float = float("-inf")
    busy: bool = False
    closed_to: Abilities | None = None
    known: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in the store that processes share: short, and of a bounded size."""
        return f"read:{hashlib.sha256(str(self.repository).encode()).hexdigest()[:32]}"

    def renew(self, now: float) -> None:
        """Begin again if its rest is over: others may have pushed there."""
        if self.done_until is not None and self.done_until <= now:
            self.done_until, self.rests_until = None, float("-inf")
            self.unread, self.images, self.listed = [], [], False
            self.read = self.skip = self.reads = 0
            self.known = {}

    def rest(self, until: float) -> None:
        """Read nothing more of it, unless a comparison sees something."""
        self.done_until = self.rests_until = until
        self.unread, self.images, self.read = [], [], 0

    def read_again(self, digest: str) -> None:
        """Have one more manifest read of a repository that was read already."""
        if not self.unread and not self.images and digest not in self.known and self.reads < MOST_MANIFESTS:
            self.unread, self.listed, self.rests_until = [digest], True, float("-inf")
