"""Queueing many copies that are found one by one: what comes while Redis is busy goes there in one step.

What is listed and not compared yet: bounded, and the tags of one repository together.
"""

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


class Enqueuer:
    """Puts jobs into the backfill lane; `run` has to run beside `put`.

    Args:
        queue: takes them.
        run_id: under which their ends are told; None when nobody listens.
    """

    def __init__(self, queue: Queue, run_id: str | None) -> None:
        self._queue = queue
        self._run_id = run_id
        self._pending: list[_Waiting] = []
        self._news = asyncio.Event()
        self.drift = 0
        """How many that differed were not in the queue already."""

    async def put(self, job: Job, *, differs: bool = True) -> None:
        """Queue a job, durably.

        Args:
            job: it.
            differs: it was seen to differ from its destination; not only to be worth a look.

        Raises:
            QueueError: the queue takes nothing.
        """
        waiting = _Waiting(job, differs, asyncio.get_running_loop().create_future())
        self._pending.append(waiting)
        self._news.set()
        await waiting.done

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            pending, self._pending = self._pending, []
            for differs in (True, False):
                batch = [one for one in pending if one.differs is differs]
                if batch:
                    await self._send(batch, differs=differs)

    async def _send(self, batch: list[_Waiting], *, differs: bool) -> None:
        try:
            fresh = await self._queue.enqueue([one.job for one in batch], Lane.BACKFILL, run=self._run_id)
        except Exception as error:  # noqa: BLE001 - told to each who waits, whatever it is
            for one in batch:
                if not one.done.done():
                    one.done.set_exception(error)
            return
        self.drift += fresh if differs else 0
        for one in batch:
            if not one.done.done():
                one.done.set_result(None)


@dataclass(frozen=True, slots=True)
class _Waiting:
    job: Job
    differs: bool
    done: asyncio.Future[None]


class RepositoryQueue:
    """A queue between who lists and who compares.

    Harbor lists a project in the order of pushes, which mixes its repositories. Tags of one repository share layers and
    a login, so they leave here one after the other, as far as they are known.

    Args:
        most: copies that wait here before whoever lists has to wait.
    """

    def __init__(self, most: int) -> None:
        self._waiting: dict[Repository, deque[Found]] = {}
        self._room = asyncio.Semaphore(most)
        self._ready = asyncio.Semaphore(0)

    def __iter__(self) -> Iterator[Found]:
        """Give what waits, in the order in which it would leave."""
        for line in self._waiting.values():
            yield from line

    async def put(self, found: Found) -> None:
        """Add a copy, once there is room."""
        await self._room.acquire()
        self._waiting.setdefault(found.asked.request.source.repository, deque()).append(found)
        self._ready.release()

    def close(self) -> None:
        """Say that nothing more comes."""
        self._ready.release()

    async def take(self) -> Found | None:
        """Remove the next copy, once there is one; None when nothing more comes."""
        await self._ready.acquire()
        if not self._waiting:
            # Only closing lets anyone come here: whoever else waits is to know it too.
            self._ready.release()
            return None
        # The repository that was begun first: it goes on as long as there is more of it.
        repository, line = next(iter(self._waiting.items()))
        found = line.popleft()
        if not line:
            del self._waiting[repository]
        self._room.release()
        return found
