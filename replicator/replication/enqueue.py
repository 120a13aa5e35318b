"""The two buffers of a backfill: tags that wait for their comparison, and jobs on their way into the queue."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.queue import Lane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replicator.queue import Job, Queue
    from replicator.reference import Repository
    from replicator.replication.listing import Found


class RepositoryQueue:
    """A bounded queue that keeps the tags of a repository together.

    Harbor lists a project in the order of pushes, which mixes its repositories. Tags of one repository share layers
    and a token, so they leave this queue one after the other.

    Args:
        size: copies that wait here before `put` blocks.
    """

    def __init__(self, size: int) -> None:
        self._waiting: dict[Repository, deque[Found]] = {}
        self._room = asyncio.Semaphore(size)
        # One permit for each copy that waits, and one for good once the queue is closed.
        self._ready = asyncio.Semaphore(0)

    def __iter__(self) -> Iterator[Found]:
        """Iterate over the copies that wait, in the order in which they would leave."""
        for copies in self._waiting.values():
            yield from copies

    async def put(self, found: Found) -> None:
        """Add a copy as soon as there is room."""
        await self._room.acquire()
        self._waiting.setdefault(found.request.source.repository, deque()).append(found)
        self._ready.release()

    def close(self) -> None:
        """Let every `take` return None once the queue is empty."""
        self._ready.release()

    async def take(self) -> Found | None:
        """Remove the next copy as soon as there is one; None if the queue is closed and empty."""
        await self._ready.acquire()
        if not self._waiting:
            # Woken by `close`: pass the permit on to the next taker.
            self._ready.release()
            return None
        # The repository that came first goes on as long as it has more.
        repository, copies = next(iter(self._waiting.items()))
        found = copies.popleft()
        if not copies:
            del self._waiting[repository]
        self._room.release()
        return found


class Enqueuer:
    """Puts jobs into the backfill lane; what arrives while Redis is busy goes there in one batch.

    `run` has to run beside `put`.

    Args:
        run_id: the run that waits for the jobs' ends; None if none does.
    """

    def __init__(self, queue: Queue, run_id: str | None) -> None:
        self._queue = queue
        self._run_id = run_id
        self._pending: list[_Pending] = []
        self._arrived = asyncio.Event()
        self.drift = 0
        """How many jobs that differ from their destination were not in the queue already."""

    async def put(self, job: Job, *, differs: bool = True) -> None:
        """Queue a job; it is durable when this returns.

        ``differs`` tells that source and destination were seen to differ, rather than that the job is worth a look.

        Raises:
            QueueError: the queue takes nothing.
        """
        pending = _Pending(job, differs, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        self._arrived.set()
        await pending.done

    async def run(self) -> None:
        """Send what arrives, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            pending, self._pending = self._pending, []
            for differs in (True, False):
                batch = [each for each in pending if each.differs is differs]
                if batch:
                    await self._send(batch, differs=differs)

    async def _send(self, batch: list[_Pending], *, differs: bool) -> None:
        try:
            added = await self._queue.enqueue([each.job for each in batch], Lane.BACKFILL, run=self._run_id)
        except Exception as error:  # noqa: BLE001 - raised by each `put` that waits, whatever it is
            for each in batch:
                if not each.done.done():
                    each.done.set_exception(error)
            return
        self.drift += added if differs else 0
        for each in batch:
            # A `put` that was cancelled has cancelled its future as well.
            if not each.done.done():
                each.done.set_result(None)


@dataclass(frozen=True, slots=True)
class _Pending:
    job: Job
    differs: bool
    done: asyncio.Future[None]
