"""What a handler is given: the job it runs, and its ties to the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from replicator.queue.job import Lane
    from replicator.queue.lease import Lease, LeaseKeeper


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
