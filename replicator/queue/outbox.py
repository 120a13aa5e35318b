"""The outbox: what ended, kept in Redis until each receiver of events has taken it.

The steps that end a job or a reconcile put it there (``outbox.lua``), for the receivers that have been registered in
the last days. Of all processes of an installation a lease elects the one that sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import uuid4

from replicator.queue.history import Ended
from replicator.queue.reconciles import ReconcileResult
from replicator.queue.records import decode, moment
from replicator.tasks import raise_if_cancelled

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from replicator.queue.client import Queue

MOST_WAITING = 10_000
"""Events that wait for a receiver (``outbox.lua``); the oldest is dropped if there are more."""
KEPT_SECONDS = 7 * 24 * 3600
"""Time for which events are kept for a receiver that no process names any more (``outbox.lua``)."""
_BLOCK_MS = 2_000


class EventType(StrEnum):
    """The occasion of an event."""

    COPIED = "image.copied"
    """A destination's tag names the image now."""
    FAILED = "image.failed"
    """A copy failed, and is not retried automatically: it is a dead letter."""
    UP_TO_DATE = "image.up_to_date"
    """A copy had nothing to do: the destination's tag named the image already."""
    RECONCILED = "reconcile.finished"
    """A scheduled reconcile has ended."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """Something that ended.

    Attributes:
        id: of its entry for one receiver.
        type: an `EventType`; another word is of a newer version of this program.
        at: when it ended, by Redis's clock (UTC).
        end: the job or the reconcile; None if it can't be read, as it has the form of another version of this program.
    """

    id: str
    type: str
    at: datetime
    end: Ended | ReconcileResult | None

    @property
    def subject(self) -> str:
        """The subject: events of one subject keep their order."""
        return self.end.id if isinstance(self.end, Ended) else self.type

    @classmethod
    def read(cls, entry: bytes, fields: Mapping[bytes, bytes]) -> OutboxEntry:
        """Read an entry of the stream."""
        kind, at, text = fields[b"type"].decode(), float(fields[b"at"]), fields[b"entry"]
        end: Ended | ReconcileResult | None
        try:
            end = ReconcileResult.read(text) if kind == EventType.RECONCILED else decode(Ended, text, at=at)
        except ValueError:
            end = None
        return cls(entry.decode(), kind, moment(at), end)


@dataclass(frozen=True, slots=True)
class OutboxState:
    """The events that wait for a receiver.

    Attributes:
        waiting: how many events wait.
        oldest: age of the oldest of them in seconds; 0 without one.
        dropped: how many were ever dropped.
    """

    waiting: int
    oldest: float
    dropped: int


class Outbox:
    """Takes the leadership of sending for this process, and gives what is to be sent.

    Args:
        queue: whose Redis holds it.
        receivers: the types of events that each receiver wants, by its key.
        lease: seconds after which another process sends for one that died.
    """

    def __init__(self, queue: Queue, receivers: Mapping[str, Collection[EventType]], *, lease: float) -> None:
        self._queue = queue
        self._receivers = receivers
        self._lease = int(lease * 1000)
        self._token = uuid4().hex

    async def lead(self) -> tuple[datetime, dict[str, int]] | None:
        """Take or renew the leadership, and register the receivers: from now on events are kept for them.

        Returns:
            Redis's time, and for each receiver how many events were dropped that are not in a log yet; None when
            another process leads.

        Raises:
            QueueUnavailable: Redis is away or takes nothing.
        """
        arguments = [text for key, types in self._receivers.items() for text in (key, f",{','.join(sorted(types))},")]
        leads, now, *dropped = await self._queue.ask("outbox_take", self._token, self._lease, *arguments)
        if not leads:
            return None
        return moment(float(now)), dict(zip(self._receivers, dropped, strict=True))

    async def read(self, receiver: str, after: str, most: int, *, wait: bool) -> Sequence[OutboxEntry]:
        """Return what is to be sent to a receiver, the oldest first.

        Args:
            receiver: its key.
            after: id of the last known entry; empty to begin with the oldest.
            most: the maximum number.
            wait: whether to wait up to two seconds for the first.

        Raises:
            redis.exceptions.RedisError: Redis is away.
            OSError: the same.
        """
        stream = f"{self._queue.prefix}:outbox:{receiver}"
        reply = await self._queue.redis.xread({stream: after or "0"}, count=most, block=_BLOCK_MS if wait else None)
        raise_if_cancelled()
        return [OutboxEntry.read(entry, fields) for _, entries in reply for entry, fields in entries]

    async def remove(self, receiver: str, entries: Collection[str], *, given_up: bool = False) -> bool:
        """Remove entries that a receiver has taken, or that are given up; return whether this process still leads.

        Raises:
            QueueUnavailable: Redis is away; they may be sent again.
        """
        reply = await self._queue.ask("outbox_remove", self._token, receiver, int(given_up), *entries)
        return bool(reply)

    async def release(self) -> None:
        """Leave the leadership to another process.

        Raises:
            QueueUnavailable: Redis is away; the lease expires.
        """
        await self._queue.ask("outbox_release", self._token)


async def look_into(queue: Queue, receivers: Sequence[str]) -> list[OutboxState]:
    """Look at what waits for receivers, by their keys.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    now, *states = await queue.ask("outbox_show", *receivers)
    return [
        OutboxState(waiting, max(0.0, (now - oldest) / 1000) if oldest else 0.0, dropped)
        for waiting, oldest, dropped in states
    ]
