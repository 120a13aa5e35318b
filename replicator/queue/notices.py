"""Who tells people what goes wrong, over all processes on one queue: one at a time, from what all of them remember."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from replicator.queue.job import load_json
from replicator.queue.snapshot import read_dead_letter

if TYPE_CHECKING:
    from replicator.queue.client import Queue
    from replicator.queue.snapshot import DeadLetter

_MOST_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a process can't do, and goes on without.

    Attributes:
        host: its machine's name.
        text: what it is.
        since: when it was first heard of, in milliseconds since 1970 by Redis's clock.
    """

    host: str
    text: str
    since: int


@dataclass(frozen=True, slots=True)
class Leadership:
    """This process tells people, until the lease ends.

    Attributes:
        now: the time of Redis, in milliseconds since 1970.
        told: what `Notices.keep` was last given, by whichever process; empty where that is nothing.
        complaints: of all processes that are alive.
    """

    now: int
    told: bytes
    complaints: tuple[Complaint, ...]


@dataclass(frozen=True, slots=True)
class NewDeadLetters:
    """Dead letters since a mark.

    Attributes:
        dead: how many there are.
        newer: how many of them are newer than the mark.
        mark: of the newest.
        first: the first newer ones.
    """

    dead: int
    newer: int
    mark: int
    first: tuple[DeadLetter, ...]


class Notices:
    """This process's way to the turn.

    Args:
        queue: over whose processes there is one.
        lease: seconds after which the turn of a process that died becomes another's, and its complaint is void.
    """

    def __init__(self, queue: Queue, *, lease: float = 60.0) -> None:
        self._queue = queue
        self._lease = int(lease * 1000)
        self._token = uuid4().hex

    async def begin(self, complaint: str | None) -> Leadership | None:
        """Take the turn, or keep it, and let all know of a complaint.

        Args:
            complaint: what this process can't do now; None when all is well.

        Returns:
            The turn; None when another process has it.

        Raises:
            QueueUnavailable: Redis is away or takes nothing.
        """
        # A name of a file may have bytes in it that are no text.
        text = (complaint or "")[:_MOST_CHARACTERS].encode(errors="replace")
        mine, *rest = await self._queue.ask("notices_begin", self._token, self._lease, socket.gethostname(), text)
        if not mine:
            return None
        now, told, *complaints = rest
        return Leadership(now, told, tuple(_read_complaint(each) for each in complaints))

    async def keep(self, told: bytes) -> bool:
        """Remember what was told, for whichever process is next.

        Returns:
            Whether it is remembered; if not, the turn was lost, and nothing more may be told.

        Raises:
            QueueUnavailable: Redis is away or takes nothing; it may be remembered all the same.
        """
        return bool(await self._queue.ask("notices_keep", self._token, told))

    async def end(self) -> None:
        """Leave the turn to another process.

        Raises:
            QueueUnavailable: Redis is away; the lease lapses.
        """
        await self._queue.ask("notices_end", self._token)

    async def buried(self, mark: int, most: int) -> NewDeadLetters:
        """Tell of the dead letters since a mark.

        Args:
            mark: `NewDeadLetters.mark` of what was heard last; 0 for all.
            most: how many of them are shown.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        dead, newer, newest, *records = await self._queue.ask("buried", mark, most)
        return NewDeadLetters(dead, newer, newest, tuple(read_dead_letter(record) for record in records))


def _read_complaint(record: bytes) -> Complaint:
    fields = load_json(record)
    return Complaint(str(fields["host"]), str(fields["text"]), int(fields["since"]))
