"""Queueing many copies that are found one by one: what comes while Redis is busy goes there in one step."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from replicator.queue import Lane

if TYPE_CHECKING:
    from replicator.queue import Job, Queue


class Enqueuer:
    """Puts jobs into the backfill lane; `run` has to run beside `put`.

    Args:
        queue: takes them.
        run_id: under which their ends are told; None when nobody listens.
    """

    def __init__(self, queue: Queue, run_id: str | None) -> None:
        self._queue = queue
        self._run_id = run_id
        self._pending: list[tuple[Job, asyncio.Future[None]]] = []
        self._news = asyncio.Event()
        self.fresh = 0
        """How many of them were not in the queue already."""

    async def put(self, job: Job) -> None:
        """Queue a job, durably.

        Raises:
            QueueError: the queue takes nothing.
        """
        done = asyncio.get_running_loop().create_future()
        self._pending.append((job, done))
        self._news.set()
        await done

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._pending = self._pending, []
            try:
                self.fresh += await self._queue.enqueue([job for job, _ in batch], Lane.BACKFILL, run=self._run_id)
            except Exception as error:  # noqa: BLE001 - told to each who waits, whatever it is
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
            else:
                for _, done in batch:
                    if not done.done():
                        done.set_result(None)
