"""One at a time, by name, inside of one process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """Locks by name; who fails or is cancelled passes the turn on, and nothing is kept of names that nobody wants."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[str, ...], _Turn] = {}

    @asynccontextmanager
    async def turn(self, *name: str) -> AsyncIterator[None]:
        """Wait for the turn, and have it for as long as the context lasts."""
        turn = self._wanted.setdefault(name, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._wanted[name]


class _Turn:
    """A lock and how many want it, so that it can be dropped with the last."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0
