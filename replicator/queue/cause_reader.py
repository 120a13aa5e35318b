"""The dead letters of a queue in pages, and grouped by their causes."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from typing import TYPE_CHECKING

from replicator.queue.causes import Causes
from replicator.queue.client import BATCH
from replicator.queue.dead_letters import DeadLetter
from replicator.queue.records import decode

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from replicator.queue.causes import Cause
    from replicator.queue.client import Queue

SAMPLE = 2_000
"""Dead letters that are grouped where an answer may not take long, the oldest first."""
_REBUILD_PART = 20
"""A reader that has to read everything again does so for a twentieth of the time at most."""


async def read_letters(queue: Queue, *, size: int = BATCH, mark: int = 0) -> AsyncGenerator[list[DeadLetter], None]:
    """Yield all dead letters in pages, the oldest first; each once, however many there are.

    Args:
        queue: whose.
        size: of a page.
        mark: only those that are newer (`replicator.queue.NewDeadLetters.mark`).

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    walk = _Walk(queue, mark + 1 if mark else 0)
    while (letters := await walk.step(size)) is not None:
        yield letters


class _Walk:
    """A walk through the dead letters that can be continued later."""

    def __init__(self, queue: Queue, mark: int = 0) -> None:
        self._queue = queue
        self._mark: bytes | int = mark
        self._passed = 0
        self.total = 0
        """The number of dead letters at the last step."""

    async def step(self, size: int) -> list[DeadLetter] | None:
        """Return the next dead letters, which may be none; None at the end.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        reply = await self._queue.ask("dead_letter_walk", self._mark, self._passed, size)
        self.total, number, self._mark, self._passed, *records = reply
        return None if not number else [decode(DeadLetter, record) for record in records]


class CauseReader:
    """Groups the dead letters of a queue by cause, again and again: it reads only what is new since the last time.

    Args:
        queue: whose dead letters.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._causes, self._walk = Causes(), _Walk(queue)
        self._known = self._causes
        self._again_at = 0.0

    async def read(self, budget: float = math.inf) -> list[Cause]:
        """Return the causes, the one with the most failures first.

        When dead letters were retried or dropped, all are read again; where there are very many, that is put off.

        Args:
            budget: seconds of reading; the next call continues. Meanwhile the causes are those known before, and at the
                very first of the dead letters that were read so far.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        ended = await self._go_on(began + budget)
        # A dead letter that was written again is read again too, so the numbers agree only if each counts once.
        if ended and self._causes.total != self._walk.total and clock() >= self._again_at:
            self._causes, self._walk = Causes(), _Walk(self._queue)
            ended = await self._go_on(began + budget)
            self._again_at = clock() + _REBUILD_PART * (clock() - began)
        if ended:
            self._known = self._causes
        return self._known.sorted()

    async def _go_on(self, until: float) -> bool:
        """Read on; return whether the end was reached before that time."""
        clock = asyncio.get_running_loop().time
        while (letters := await self._walk.step(BATCH)) is not None:
            for letter in letters:
                self._causes.add_letter(letter)
            if clock() >= until:
                return False
        return True


async def sample_causes(queue: Queue, *, mark: int = 0, most: int = SAMPLE) -> Causes:
    """Group the first dead letters by cause, in a time that does not grow with their number.

    Args:
        queue: whose.
        mark: see `read_letters`.
        most: how many are grouped; `SAMPLE` at most.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    causes, most = Causes(), min(most, SAMPLE)
    async with aclosing(read_letters(queue, mark=mark)) as pages:
        async for letters in pages:
            for letter in letters[: most - causes.total]:
                causes.add_letter(letter)
            if causes.total >= most:
                break
    return causes


async def letters_of(queue: Queue, cause: str) -> AsyncIterator[list[DeadLetter]]:
    """Yield the dead letters of a cause in pages, some perhaps empty, the oldest first.

    Args:
        queue: whose.
        cause: the cause's id.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    causes = Causes()
    async for letters in read_letters(queue):
        yield [letter for letter in letters if causes.add_letter(letter).id == cause]
