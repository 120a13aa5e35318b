"""Queueing many copies that are found one by one: what comes while Redis is busy goes there in one step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
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
