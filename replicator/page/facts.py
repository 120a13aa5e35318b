"""What the page shows, asked from the queue: the same at every process, and at most once a second."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.inspection import Status
from replicator.queue import History, ProcessInfo, QueueUnavailable, processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.queue import Queue

_FRESH_SECONDS = 1.0
_DEADLINE = 5.0


@dataclass(frozen=True, slots=True)
class Facts:
    """The installation at one moment: the queue as ``replicator status`` shows it, its past, and its processes."""

    status: Status
    history: History
    processes: Sequence[ProcessInfo]

    @classmethod
    async def read(cls, queue: Queue) -> Facts:
        """Ask the queue.

        Raises:
            QueueUnavailable: it does not answer, in a few seconds at the most.
        """
        try:
            async with asyncio.timeout(_DEADLINE):
                return cls(await Status.read(queue), await History.read(queue), await processes(queue))
        except TimeoutError:
            raise QueueUnavailable(f"{queue.where} did not tell all within {_DEADLINE:g} s") from None


class Lookout:
    """Looks at the queue for all who ask at a time, so that many open pages cost what one costs.

    Args:
        queue: what is looked at.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._turn = asyncio.Lock()
        self._seen: Facts | QueueUnavailable | None = None
        self._until = 0.0

    async def look(self) -> Facts:
        """Return what was seen within the last second.

        Raises:
            QueueUnavailable: the queue does not answer.
        """
        clock = asyncio.get_running_loop().time
        async with self._turn:
            if self._seen is None or clock() >= self._until:
                try:
                    self._seen = await Facts.read(self._queue)
                except QueueUnavailable as error:
                    self._seen = error
                self._until = clock() + _FRESH_SECONDS
            seen = self._seen
        if isinstance(seen, QueueUnavailable):
            raise QueueUnavailable(str(seen))
        return seen

    def forget(self) -> None:
        """Look anew when next asked: something was changed."""
        self._seen = None
