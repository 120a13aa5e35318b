"""Blob locks through Redis: over all processes one upload of a blob at a time, and the repositories that hold it.

They fit ``replicator.copy.ledger.BlobLocks``. An item is a digest at a registry, a place one of its repositories; here
both are just texts. A lock only saves work, so nothing here fails and nothing waits for Redis beyond a deadline: while
Redis is away, slow or refuses, every lock is granted at once, and the worst is that a blob is uploaded twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog

from replicator.queue.best_effort import BestEffortRedis, Listener
from replicator.queue.client import BATCH
from replicator.retry import waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from replicator.queue.client import Queue

log = structlog.get_logger("replicator.queue")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_HEAR_SECONDS = 1.0
"""Seconds after which the holder of a lock has heard that a push waits for it."""


@dataclass(slots=True, eq=False)
class RedisBlobLock:
    """A lock on one item, and the notes of other processes about the item.

    Attributes:
        item: its name in Redis.
        place: where it is wanted.
        present: whether another process uploaded it to that place recently enough to trust it.
        mount_sources: other places it was uploaded to, the latest first, then those where it was seen.
        token: the lock's value in Redis; empty when this process does not have it.
        uploaded: whether :meth:`mark_present` was called.
    """

    item: str
    place: str
    present: bool = False
    mount_sources: tuple[str, ...] = ()
    token: str = ""
    uploaded: bool = False

    def mark_present(self) -> None:
        """Record that the place has the item; the other processes learn it when the lock is released."""
        self.uploaded = True


class RedisBlobLocks:
    """Blob locks in the Redis of a queue, which stays open.

    Args:
        queue: whose Redis, and whose prefix.
        trust: seconds for which a note of an upload is believed.
        lease: seconds after which the lock of a process that died expires.
        patience: seconds to wait for a lock; then the copy continues without it.
        deadline: seconds that Redis gets for an answer.
        items: how many are remembered in each of two generations; one takes 100 to 500 bytes of Redis.
    """

    def __init__(  # the bounds of a cache, each with a default
        self,
        queue: Queue,
        *,
        trust: float = 3600.0,
        lease: float = 15.0,
        patience: float = 900.0,
        deadline: float = 1.0,
        items: int = 100_000,
    ) -> None:
        self._trust = trust
        self._lease = lease
        self._patience = patience
        self._items = items
        self._listener = Listener(queue, f"{queue.prefix}:turns")
        self._redis = BestEffortRedis(queue, deadline=deadline, trouble="turns unavailable")

    @contextlib.asynccontextmanager
    async def hold(
        self,
        registry: str,
        repository: str,
        digest: str,
        *,
        urgent: Callable[[], bool] = lambda: False,
        on_urgent: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[RedisBlobLock]:
        """Hold the lock on a blob, waiting for it where another process has it.

        The lock covers the digest in all repositories of the registry. It is not waited for when the digest is known
        to be in the repository. It raises nothing of its own.

        Args:
            registry: the host.
            repository: where the blob is to be.
            digest: the blob's.
            urgent: tells whether a push waits for the lock now.
            on_urgent: called once the lock is held and a push of another process waits for it; within about a second.
        """
        with waiting():
            lock = await self._acquire(_item(registry, digest), repository, urgent)
        renewing = self._redis.start(self._renew(lock, on_urgent))
        try:
            yield lock
        finally:
            renewing.cancel()
            if lock.token or lock.uploaded:
                place = lock.place if lock.uploaded else ""
                await self._redis.ask("lock_release", lock.item, place, lock.token, self._items)

    async def forget(self, registry: str, repository: str, digest: str) -> None:
        """Forget that a repository has a blob, because the registry contradicted it. It raises nothing."""
        await self._redis.ask("lock_forget", _item(registry, digest), repository)

    async def share(self, registry: str, repository: str, digests: Sequence[str]) -> None:
        """Tell the other processes of blobs that a manifest in a repository names. It raises nothing.

        The notes suggest a repository to mount from; they never promise that the blob is there.
        """
        for start in range(0, len(digests), BATCH):
            items = [_item(registry, digest) for digest in digests[start : start + BATCH]]
            await self._redis.ask("lock_share", repository, self._items, *items)

    async def _acquire(self, item: str, place: str, urgent: Callable[[], bool]) -> RedisBlobLock:
        """Take the lock once it is free; continue without it when the item is at the place, or patience ends."""
        lock, held_elsewhere = await self._take(item, place, urgent())
        if not held_elsewhere:
            return lock
        clock, pause = asyncio.get_running_loop().time, _FIRST_PAUSE
        last = clock() + self._patience
        with self._listener.subscribed(item) as released:
            while held_elsewhere and (left := last - clock()) > 0:
                # Polled too: an announcement may get lost, and a lock that expires makes none.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await released.wait()
                released.clear()
                pause = min(pause * 1.5, _LONGEST_PAUSE)
                lock, held_elsewhere = await self._take(item, place, urgent())
        if held_elsewhere:
            log.info("blob lock not waited for", item=item, place=place, waited_seconds=round(self._patience))
        return lock

    async def _take(self, item: str, place: str, urgent: bool) -> tuple[RedisBlobLock, bool]:
        """Ask for the lock; return whether another process has it."""
        lock = RedisBlobLock(item, place, token=uuid4().hex)
        times = (int(self._lease * 1000), int(self._trust * 1000))
        request = self._redis.send("lock_take", item, place, lock.token, *times, self._items, int(urgent))
        try:
            reply = await self._redis.answer(request)
        except asyncio.CancelledError:
            self._redis.start(self._release_late(request, lock))
            raise
        if reply is None:
            # The token stays: the lock may have been taken with its answer lost, and is then released at the end.
            return lock, False
        state, *places = [part.decode(errors="replace") for part in reply]
        lock.present = state == "here"
        lock.mount_sources = tuple(places)
        if state != "taken":
            lock.token = ""
        return lock, state == "held"

    async def _release_late(self, request: asyncio.Task[Any], lock: RedisBlobLock) -> None:
        """Release a lock whose copy was cancelled while it was taken; it would keep others out until it expires."""
        await self._redis.answer(request)
        await self._redis.ask("lock_release", lock.item, "", lock.token, self._items)

    async def _renew(self, lock: RedisBlobLock, on_urgent: Callable[[], None]) -> None:
        """Renew the lock until cancelled, or until it is lost: the copy then continues, and may be done twice."""
        while lock.token:
            # Often enough to notice a waiting push soon.
            await asyncio.sleep(min(self._lease / 3, _HEAR_SECONDS))
            state = await self._redis.ask("lock_renew", lock.item, lock.token, int(self._lease * 1000))
            if state == 0:
                log.debug("blob lock lost", item=lock.item, place=lock.place)
                return
            if state == 2:
                on_urgent()


def _item(registry: str, digest: str) -> str:
    """Give a short name for a digest at a registry: names of images may be longer than suits a key."""
    return hashlib.sha256(f"{registry} {digest}".encode()).hexdigest()[:32]
