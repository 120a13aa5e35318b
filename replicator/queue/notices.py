"""The leadership for notices to people: over all processes on one queue one sends them, from what all remember."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from replicator.queue.dead_letters import DeadLetter
from replicator.queue.records import decode

if TYPE_CHECKING:
    from replicator.queue.client import Queue

_MOST_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something that a process can't do, and goes on without.

    Attributes:
        host: its machine's name.
        since: when it was first reported, in milliseconds since 1970 by Redis's clock.
    """

    host: str
    text: str
    since: int


@dataclass(frozen=True, slots=True)
class Leadership:
    """This process sends the notices, until the lease expires.

    Attributes:
        now: the time of Redis, in milliseconds since 1970.
        told: what `Notices.keep` last stored, from whichever process; empty without it.
        complaints: of all processes that are alive.
    """

    now: int
    told: bytes
    complaints: tuple[Complaint, ...]


@dataclass(frozen=True, slots=True)
class NewDeadLetters:
    """Dead letters since a mark.

    Attributes:
        dead: number of all dead letters.
        newer: number of those that are newer than the mark.
        mark: of the newest.
        first: the first newer ones.
    """

    dead: int
    newer: int
    mark: int
    first: tuple[DeadLetter, ...]


class Notices:
    """Takes the leadership for this process.

    Args:
        queue: over whose processes there is one leader.
        lease: seconds after which another process leads for one that died, and its complaint is void.
    """

    def __init__(self, queue: Queue, *, lease: float = 60.0) -> None:
        self._queue = queue
        self._lease = int(lease * 1000)
        self._token = uuid4().hex

    async def begin(self, complaint: str | None) -> Leadership | None:
        """Take or renew the leadership, and publish a complaint.

        Args:
            complaint: what this process can't do now; None when all is well.

        Returns:
            The leadership; None when another process has it.

        Raises:
            QueueUnavailable: Redis is away or takes nothing.
        """
        # The name of a file may hold bytes that are no text.
        text = (complaint or "")[:_MOST_CHARACTERS].encode(errors="replace")
        leads, *rest = await self._queue.ask("notices_take", self._token, self._lease, socket.gethostname(), text)
        if not leads:
            return None
        now, told, *complaints = rest
        return Leadership(now, told, tuple(decode(Complaint, record) for record in complaints))

    async def keep(self, told: bytes) -> bool:
        """Store what was sent, for whichever process leads next.

        Returns:
            Whether it is stored; if not, the leadership was lost, and nothing more may be sent.

        Raises:
            QueueUnavailable: Redis is away or takes nothing; it may be stored all the same.
        """
        return bool(await self._queue.ask("notices_keep", self._token, told))

    async def end(self) -> None:
        """Leave the leadership to another process.

        Raises:
            QueueUnavailable: Redis is away; the lease expires.
        """
        await self._queue.ask("notices_release", self._token)

    async def new_dead_letters(self, mark: int, most: int) -> NewDeadLetters:
        """Return the dead letters since a mark.

        Args:
            mark: `NewDeadLetters.mark` of the last answer; 0 for all.
            most: how many of them are shown.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        dead, newer, newest, *records = await self._queue.ask("dead_letters_since", mark, most)
        return NewDeadLetters(dead, newer, newest, tuple(decode(DeadLetter, record) for record in records))
