"""Dead letters, a part at a time: however many there are, a part costs the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.queue.snapshot import read_dead_letter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.queue.client import Queue
    from replicator.queue.snapshot import DeadLetter


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Some of the dead letters.

    Attributes:
        letters: the newest first.
        total: how many there are in all parts.
        following: the cursor of the next part; 0 when this is the last.
    """

    letters: Sequence[DeadLetter]
    total: int
    following: int

    @classmethod
    async def read(cls, queue: Queue, cursor: int = 0, *, size: int = 500) -> DeadLetterPage:
        """Ask for a part. All parts together hold every letter that was there all the time, some perhaps twice.

        Args:
            queue: whose letters.
            cursor: 0 for the first part, then ``following`` of the one before.
            size: about how many letters.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        following, total, records = await queue.ask("letters", str(cursor), size)
        letters = sorted(map(read_dead_letter, records), key=lambda letter: letter.last, reverse=True)
        return cls(letters, total, int(following))
