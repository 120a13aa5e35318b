"""Leases: a running job belongs to one worker as long as that worker renews its lease.

Beside the lease itself: the health of Redis, by which lapsed leases are judged, and the view of a running job that a
handler is given.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from replicator.queue.client import FAULTS, Queue
from replicator.queue.job import LeaseLost, encode_running
from replicator.queue.observations import MOST_DESTINATIONS, Observed, short_name
from replicator.queue.records import TagRecord
from replicator.retry import alive, waiting, write_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    from replicator.errors import ErrorClass
    from replicator.queue.job import Lane, RunningRecord

log = structlog.get_logger("replicator.queue")

COMPARE_AGAIN_SECONDS = 120.0
"""After the limit of a write to which no answer came, its destination is compared again: it may land that late."""
_REPORT_SECONDS = 1.0
_CONFIRM_PAUSE = 0.2


@dataclass(slots=True, eq=False)
class Lease:
    """The lease of one running job, as its worker sees it.

    Attributes:
        record: the record of the running job in Redis.
        renewed: when it was last known to be ours, by the event loop's clock.
        bytes_done: the handler's progress, and ``size`` how many bytes there will be, as far as it knows.
        moved_since: when it reported the first bytes, by `time.monotonic`; None before.
        lost: another worker has it now.
        unanswered: writes behind the fence to which no answer has come.
        ends: how a person has the attempt end early: ``pause`` hands its job back, ``cancel`` forgets it; else empty.
        owned: the new record of the destination's tag after the write; empty for no change.
        observed: the latest observation of the destination before its write was confirmed; None without one.
        task: the handler's task, cancelled when the lease is lost.
    """

    id: str
    record: RunningRecord
    renewed: float
    bytes_done: int = 0
    size: int = 0
    moved_since: float | None = None
    lost: bool = False
    unanswered: int = 0
    ends: str = ""
    owned: str = ""
    observed: Observed | None = None
    task: asyncio.Task[Any] | None = field(default=None, repr=False)

    @property
    def has_news(self) -> bool:
        """Whether Redis does not have the present progress."""
        return (self.bytes_done, self.size) != (self.record.bytes, self.record.size)

    def current(self) -> RunningRecord:
        """Return the record with the present progress."""
        left = None
        if self.moved_since is not None and self.size:
            pace = (time.monotonic() - self.moved_since) / self.bytes_done
            left = round(max(0, self.size - self.bytes_done) * pace)
        return replace(self.record, bytes=self.bytes_done, size=self.size, seconds_left=left)

    def lose(self) -> None:
        """Mark it lost and stop the handler."""
        self.lost = True
        if self.task is not None:
            self.task.cancel()

    def end_early(self, how: str, *, at_fence: bool = False) -> None:
        """Stop the handler, unless it is writing the tag at this moment: then the next renewal asks again.

        Args:
            how: see ``ends``.
            at_fence: it is about to write the tag, perhaps once more after a write without an answer.
        """
        if self.unanswered and not at_fence:
            return
        if not self.ends:
            log.info("job ends early", id=self.id, how=how)
        self.ends = how
        if self.task is not None:
            self.task.cancel()


class LeaseObserver(Protocol):
    """Is called when leases are lost. It returns at once and raises nothing."""

    def lease_lost(self) -> None:
        """Note that another worker took a job over while it ran here."""


class LeaseKeeper:
    """Renews the leases of this process at a third of their time, and publishes progress with them.

    Args:
        queue: where the leases are.
        seconds: how long a lease lasts when it is not renewed.
        health: learns whether Redis answers.
        observer: called with leases that are lost.
        compare_again: seconds after the limit of a write to which no answer came until its destination is compared
            again.
    """

    def __init__(
        self,
        queue: Queue,
        seconds: float,
        health: RedisHealth,
        observer: LeaseObserver | None = None,
        compare_again: float = COMPARE_AGAIN_SECONDS,
    ) -> None:
        self._queue = queue
        self._health = health
        self._observer = observer
        self._held: dict[str, Lease] = {}
        self._any_held = asyncio.Event()
        self._write = (int(write_limit(seconds) * 1000), int(compare_again * 1000))
        self.seconds = seconds
        self.hurry = asyncio.Event()
        """Set to renew all leases at once, because some of their attempts may have to end early."""

    def add(self, lease: Lease) -> None:
        """Renew ``lease`` from now on."""
        self._held[lease.record.token] = lease
        self._any_held.set()

    def remove(self, lease: Lease) -> None:
        """Stop renewing ``lease``: its attempt has ended."""
        self._held.pop(lease.record.token, None)
        if not self._held:
            self._any_held.clear()

    async def run(self) -> None:
        """Renew the leases until cancelled. Copies continue during an outage of Redis."""
        tick = min(_REPORT_SECONDS, self.seconds / 6)
        while True:
            await self._any_held.wait()
            now, hurry = asyncio.get_running_loop().time(), self.hurry.is_set()
            self.hurry.clear()
            due = [
                lease
                for lease in self._held.values()
                if hurry or now - lease.renewed >= self.seconds / 3 or lease.has_news
            ]
            if due:
                try:
                    await self._renew(due)
                    self._health.succeeded()
                except FAULTS as error:
                    self._health.failed(error)
            await asyncio.sleep(tick)

    async def confirm(self, lease: Lease) -> None:
        """Make sure that ``lease`` is ours for its full time from now; wait for Redis if it is away.

        The same step voids what was observed of the destination before (`replicator.queue.observations`). It notes
        that it is being written until an answer comes, also for the case that this worker dies; and it remembers what
        is written and for which source (`Running.own`).

        Raises:
            LeaseLost: it is another worker's, or a person has it end early.
        """
        while not lease.lost and not lease.ends:
            try:
                observed = await self._renew(
                    [lease], "confirm", short_name(lease.id), MOST_DESTINATIONS, *self._write, lease.owned
                )
                lease.observed = lease.observed or observed
                break
            except FAULTS as error:
                self._health.failed(error)
                await asyncio.sleep(_CONFIRM_PAUSE)
        if lease.lost:
            raise LeaseLost(f"{lease.id} has been taken over by another worker; this copy writes nothing more")
        if lease.ends:
            raise LeaseLost(f"{lease.id} was {'paused' if lease.ends == 'pause' else 'cancelled'}; it is not written")
        lease.unanswered += 1

    async def _renew(self, leases: list[Lease], script: str = "renew", *more: str | int) -> Observed | None:
        """Prolong leases; ``confirm`` also returns what the destination was observed to hold before."""
        # Taken before the request: Redis counts the lease from a moment after this one, never from an earlier one.
        now = asyncio.get_running_loop().time()
        arguments: list[str | bytes] = []
        for lease in leases:
            record = b""
            if lease.has_news:
                lease.record = lease.current()
                record = encode_running(lease.record)
            arguments += [lease.id, lease.record.token, record]
        reply = await self._queue.run_script(script, int(self.seconds * 1000), *arguments, *more)
        observed = Observed.read(reply.pop(0)) if script == "confirm" else None
        lost = {token.decode() for token in reply if not isinstance(token, list)}
        ends = {pair[1].decode(): pair[0].decode() for pair in reply if isinstance(pair, list)}
        for lease in leases:
            lease.renewed = now
            if lease.record.token in ends and lease.record.token in self._held:
                lease.end_early(ends[lease.record.token], at_fence=script == "confirm")
            # A job that ended while this request was under way has no lease any more: it is done, not lost.
            if lease.record.token in lost and lease.record.token in self._held:
                log.warning("lease lost", id=lease.id)
                if not lease.lost and self._observer is not None:
                    self._observer.lease_lost()
                lease.lose()
        return observed


_BLIP_SECONDS = 0.5
"""A connection that was cut and made again is not worth a warning."""


class RedisHealth:
    """Tracks outages of Redis, logs their beginning and end, and tells when jobs of dead workers may be taken over.

    Args:
        lease: seconds of a lease.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._steady_since = time.monotonic()
        self._down_since: float | None = None
        self._warned = False

    def failed(self, error: Exception) -> None:
        """Note that Redis did not answer, or refused."""
        now = time.monotonic()
        if self._down_since is None:
            self._down_since = now
        elif not self._warned and now - self._down_since > _BLIP_SECONDS:
            self._warned = True
            log.warning("queue unavailable", error=error)

    def succeeded(self) -> None:
        """Note that Redis answered."""
        if self._down_since is None:
            return
        now = time.monotonic()
        if self._warned:
            self._warned = False
            log.info("queue available", after_seconds=round(now - self._down_since, 1))
        # Leases are renewed at a third of their time: after a shorter outage none has lapsed.
        if now - self._down_since > self._lease / 3:
            self._steady_since = now
        self._down_since = None

    @property
    def takeover(self) -> bool:
        """Whether a lapsed lease means that its worker is dead.

        Not right after an outage of Redis that was long enough for leases to lapse: their workers are alive and about
        to renew them. They get half a lease's time for it, as no other worker took the jobs meanwhile.
        """
        return self._down_since is None and time.monotonic() - self._steady_since > self._lease / 2


class Running:
    """A running job, as its handler sees it.

    Attributes:
        id: the job's, a destination reference.
        payload: payload of the newest enqueue when the attempt began.
        lane: whose slot it takes.
        tries: number of this attempt, from 1. Restarts of workers do not count.
        enqueued_at: when it was last enqueued (UTC, by the clock of the sender).
        merged: whether the payload may not be the last word on what there is to do, because enqueues come in no order:
            the job was enqueued several times since it was last done, was a dead letter, or was found without its
            place in the queue.
        lapsed: whether a worker died while it ran this job, which may have done a part of it.
        pushed: time of the oldest push that this attempt serves (UTC); None where that is unknown.
        asked: the digests of the configurations whose processes know nothing of it.
        owned: the record of its destination's tag.
    """

    __slots__ = (
        "_began",
        "_fails_as",
        "_keeper",
        "_lease",
        "asked",
        "enqueued_at",
        "id",
        "lane",
        "lapsed",
        "merged",
        "owned",
        "payload",
        "pushed",
        "tries",
    )

    def __init__(  # a value with two ties to the queue; all but these are keywords
        self,
        lease: Lease,
        keeper: LeaseKeeper,
        *,
        payload: Mapping[str, Any],
        lane: Lane,
        tries: int,
        enqueued_at: datetime,
        merged: bool,
        lapsed: bool,
        pushed: datetime | None,
        fails_as: Callable[[ErrorClass], datetime | None],
        asked: tuple[str, ...],
        owned: str,
    ) -> None:
        self.id = lease.id
        self.payload = payload
        self.lane = lane
        self.tries = tries
        self.enqueued_at = enqueued_at
        self.merged = merged
        self.lapsed = lapsed
        self.pushed = pushed
        self.asked = asked
        self.owned = TagRecord.parse(owned)
        self._fails_as = fails_as
        self._lease = lease
        self._keeper = keeper
        self._began = time.monotonic()

    def failing(self, error_class: ErrorClass) -> float:
        """Return for how many seconds all attempts before this one have failed with this class; 0 if they have not."""
        since = self._fails_as(error_class)
        return 0.0 if since is None else max(0.0, (self._lease.record.since - since).total_seconds())

    @property
    def lag(self) -> float | None:
        """Seconds since the oldest push that this attempt serves, by Redis's clock; None where that is unknown."""
        return self._lease.record.lag(time.monotonic() - self._began)

    def own(self, record: TagRecord) -> None:
        """Let the next `confirm` store the digest that is about to be written, and its source."""
        self._lease.owned = record.text

    async def confirm(self) -> None:
        """Make sure that this job is still this worker's alone, for a full lease from now: the fence.

        Call it right before the step that must not happen twice, the write of the tag: earlier observations of the
        destination are void from then on. While Redis is away it waits, which is no
        standstill: bytes that were sent must not be sent again.

        Call `answered` once the answer to the write is there. Otherwise it may be carried out late: no other attempt
        begins before the write's limit, and the destination is compared again after that.

        Raises:
            LeaseLost: another worker has the job, or a person has it end early: write nothing more.
        """
        with waiting():
            await self._keeper.confirm(self._lease)

    def answered(self) -> None:
        """Note that the write after the last `confirm` is over, well or not: it will not be carried out later."""
        self._lease.unanswered -= 1

    def progress(self, bytes_done: int, size: int = 0) -> None:
        """Report how many bytes are done, and how many there will be (0 if that is not known); call it at every chunk.

        Others see it about a second later. It shows that the job does not stand still, even if no number changes.
        """
        lease = self._lease
        lease.bytes_done, lease.size = bytes_done, size
        if lease.moved_since is None and bytes_done:
            lease.moved_since = time.monotonic()
        alive()

    @property
    def observed(self) -> Observed | None:
        """The digest observed at the destination before `confirm`, even if that observation was void; None without one.

        It is None too where `confirm` has not been called.
        """
        return self._lease.observed

    @property
    def bytes_done(self) -> int:
        """The progress reported last."""
        return self._lease.bytes_done

    def waiting(self) -> AbstractContextManager[None]:
        """Count the time in a block as no standstill, because the job waits for a place or a lock."""
        return waiting()
