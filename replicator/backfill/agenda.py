"""What is listed and not compared yet: bounded, and the tags of one repository together."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replicator.backfill.listing import Found
    from replicator.reference import Repository


class Agenda:
    """A queue between who lists and who compares.

    Harbor lists a project in the order of pushes, which mixes its repositories. Tags of one repository share layers and
    a login, so they leave here one after the other, as far as they are known.

    Args:
        most: copies that wait here before whoever lists has to wait.
    """

    def __init__(self, most: int) -> None:
        self._waiting: dict[Repository, deque[Found]] = {}
        self._room = asyncio.Semaphore(most)
        self._ready = asyncio.Semaphore(0)

    def __iter__(self) -> Iterator[Found]:
        """Give what waits, in the order in which it would leave."""
        for line in self._waiting.values():
            yield from line

    async def put(self, found: Found) -> None:
        """Add a copy, once there is room."""
        await self._room.acquire()
        self._waiting.setdefault(found.asked.request.source.repository, deque()).append(found)
        self._ready.release()

    def close(self) -> None:
        """Say that nothing more comes."""
        self._ready.release()

    async def take(self) -> Found | None:
        """Remove the next copy, once there is one; None when nothing more comes."""
        await self._ready.acquire()
        if not self._waiting:
            # Only closing lets anyone come here: whoever else waits is to know it too.
            self._ready.release()
            return None
        # The repository that was begun first: it goes on as long as there is more of it.
        repository, line = next(iter(self._waiting.items()))
        found = line.popleft()
        if not line:
            del self._waiting[repository]
        self._room.release()
        return found
