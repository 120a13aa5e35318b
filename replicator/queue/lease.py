"""Leases: a running job is one worker's own as long as that worker keeps saying so.

How a worker stands with Redis: whether it answers, and since when.

What a handler is given: the job it runs, and its ties to the queue.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from replicator.queue.attempt import Unobserved
from replicator.queue.client import FAULTS, Queue
from replicator.queue.job import LeaseLost, dump_json
from replicator.queue.memory import MOST_DESTINATIONS, short_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from replicator.queue.attempt import AttemptObserver
    from replicator.queue.job import Lane

log = structlog.get_logger("replicator.queue")

_REPORT_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Lease:
    """The hold on one running job.

    Attributes:
        id: the job's.
        token: unique to this start of it.
        record: what others see of it (``claim``).
        renewed: when it was last known to be ours, on the event loop's clock.
        bytes_done: the handler's progress.
        lost: it is another's now.
        task: the handler's task, cancelled when the lease is lost.
    """

    id: str
    token: str
    record: dict[str, Any]
    renewed: float
    bytes_done: int = 0
    lost: bool = False
    task: asyncio.Task[Any] | None = field(default=None, repr=False)

    def lose(self) -> None:
        """Mark it lost and stop the handler."""
        self.lost = True
        if self.task is not None:
            self.task.cancel()


class LeaseKeeper:
    """Renews the leases this process holds, at a third of their time, and publishes progress with them.

    Args:
        queue: where the leases are.
        seconds: how long a lease lasts when it is not renewed.
        contact: told whether Redis answers.
        observer: told of leases that are lost.
    """

    def __init__(
        self, queue: Queue, seconds: float, contact: RedisHealth, observer: AttemptObserver | None = None
    ) -> None:
        self._queue = queue
        self._seconds = seconds
        self._contact = contact
        self._observer = observer or Unobserved()
        self._held: dict[str, Lease] = {}
        self._any_held = asyncio.Event()

    def add(self, lease: Lease) -> None:
        """Keep ``lease`` from now on."""
        self._held[lease.token] = lease
        self._any_held.set()

    def remove(self, lease: Lease) -> None:
        """Keep ``lease`` no longer: its job is finished."""
        self._held.pop(lease.token, None)
        if not self._held:
            self._any_held.clear()

    async def run(self) -> None:
        """Renew what is held, until cancelled. An outage of Redis is waited for: the copies go on meanwhile."""
        tick = min(_REPORT_SECONDS, self._seconds / 6)
        while True:
            await self._any_held.wait()
            now = asyncio.get_running_loop().time()
            due = [
                lease
                for lease in self._held.values()
                if now - lease.renewed >= self._seconds / 3 or lease.bytes_done != lease.record["bytes"]
            ]
            if due:
                try:
                    await self._renew(due)
                    self._contact.succeeded()
                except FAULTS as error:
                    self._contact.failed(error)
            await asyncio.sleep(tick)

    async def confirm(self, lease: Lease) -> None:
        """Make sure that ``lease`` is ours and stays so for its full time; wait for Redis if it is away.

        In the same step what was seen of the job's destination until now is made void (`replicator.queue.memory`).

        Raises:
            LeaseLost: it is not.
        """
        while not lease.lost:
            try:
                await self._renew([lease], "confirm", short_name(lease.id), MOST_DESTINATIONS)
                break
            except FAULTS as error:
                self._contact.failed(error)
                await asyncio.sleep(0.2)
        if lease.lost:
            raise LeaseLost(f"{lease.id} is another worker's by now; this copy writes nothing more")

    async def _renew(self, leases: list[Lease], script: str = "renew", *more: str | int) -> None:
        now = asyncio.get_running_loop().time()
        arguments: list[str | bytes] = []
        for lease in leases:
            record = b""
            if lease.bytes_done != lease.record["bytes"]:
                lease.record["bytes"] = lease.bytes_done
                record = dump_json(lease.record)
            arguments += [lease.id, lease.token, record]
        reply = await self._queue.run_script(script, int(self._seconds * 1000), *arguments, *more)
        lost = {token.decode() for token in reply}
        for lease in leases:
            lease.renewed = now
            # A job that was finished while this answer was under way is not lost but done.
            if lease.token in lost and lease.token in self._held:
                log.warning("lease lost", id=lease.id)
                if not lease.lost:
                    self._observer.lease_lost()
                lease.lose()


_BLIP_SECONDS = 0.5
"""A connection that was cut and made anew is not worth a warning."""


class RedisHealth:
    """Remembers outages of Redis, logs their beginning and end, and derives when jobs of the dead may be taken over.

    Args:
        lease: seconds of a lease.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._steady_since = time.monotonic()
        self._down_since: float | None = None
        self._told = False

    def failed(self, error: Exception) -> None:
        """Note that Redis did not answer, or refused."""
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
        elif not self._told and now - self._down_since > _BLIP_SECONDS:
            self._told = True
            log.warning("queue unavailable", error=str(error) or type(error).__name__)

    def succeeded(self) -> None:
        """Note that Redis answered."""
        if self._down_since is None:
            return
        now = time.monotonic()
        if self._told:
            self._told = False
            log.info("queue available", after_seconds=round(now - self._down_since, 1))
        if now - self._down_since > self._lease / 3:
            self._steady_since = now
        self._down_since = None

    @property
    def takeover(self) -> bool:
        """Whether a lapsed lease means that its worker is dead.

        After an outage of Redis long enough for leases to lapse it does not: those who hold them are alive and about
        to renew them. They get half a lease's time for it, as nobody else took the jobs meanwhile.
        """
        return self._down_since is None and time.monotonic() - self._steady_since > self._lease / 2


class Running:
    """A job while it runs.

    Attributes:
        id: the job's, a destination reference.
        payload: that of its newest enqueue when it was started.
        lane: whose slot it takes.
        tries: which try this is, from 1. Restarts of workers do not count.
        enqueued_at: when it was last enqueued (UTC, by the clock of who did).
        merged: whether more was asked for under this id since it was last done than the payload says: it was enqueued
            several times, is a dead letter revived, or was found without its place in the queue. Then the payload's
            word on what there is to do is not the last one: enqueues come in no order.
        pushed: when the oldest push was that this try has to do with (UTC); None where that is not known.
    """

    __slots__ = ("_keeper", "_lease", "enqueued_at", "id", "lane", "merged", "payload", "pushed", "tries")

    def __init__(
        self,
        lease: Lease,
        keeper: LeaseKeeper,
        *,
        payload: Mapping[str, Any],
        lane: Lane,
        tries: int,
        enqueued_at: datetime,
        merged: bool,
        pushed: datetime | None,
    ) -> None:
        self.id = lease.id
        self.payload = payload
        self.lane = lane
        self.tries = tries
        self.enqueued_at = enqueued_at
        self.merged = merged
        self.pushed = pushed
        self._lease = lease
        self._keeper = keeper

    async def confirm(self) -> None:
        """Make sure that this job is still this worker's alone, for a full lease from now: the fence.

        To be called right before the step that must not happen twice, the writing of the tag: what was seen of the
        destination is void from then on. While Redis is away it waits, within the job's time limit.

        Raises:
            LeaseLost: it is not: write nothing more.
        """
        await self._keeper.confirm(self._lease)

    def progress(self, bytes_done: int) -> None:
        """Say how many bytes are done; others see it about a second later. Cheap: call it as often as you like."""
        self._lease.bytes_done = bytes_done
