"""Leases: a running job is one worker's own as long as that worker keeps saying so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from replicator.queue.client import FAULTS, Queue
from replicator.queue.destinations import MOST_DESTINATIONS, short_name
from replicator.queue.errors import LeaseLost
from replicator.queue.job import dump_json
from replicator.queue.observer import Unobserved

if TYPE_CHECKING:
    from replicator.queue.contact import Contact
    from replicator.queue.observer import TryObserver

log = structlog.get_logger("replicator.queue")

_REPORT_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Lease:
    """The hold on one running job.

    Attributes:
        id: the job's.
        token: unique to this start of it.
        record: what others see of it (``claim.lua``).
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

    def __init__(self, queue: Queue, seconds: float, contact: Contact, observer: TryObserver | None = None) -> None:
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

        In the same step what was seen of the job's destination until now is made void (`replicator.queue.checks`).

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
