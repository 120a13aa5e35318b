"""How fast the OpenAPI is asked: it takes about 15 requests a second."""

from __future__ import annotations

import asyncio
from time import monotonic


class Pace:
    """Lets one request after the other go, evenly spaced, in the order they come.

    It belongs to no event loop, so that all of a process can share one.

    Args:
        rate: requests a second.
        most: seconds that a request waits at the most.
    """

    def __init__(self, rate: float, most: float) -> None:
        self._interval = 1 / rate
        self._most = most
        self._next = 0.0

    async def turn(self) -> float | None:
        """Wait for the turn of one request.

        Returns:
            None when it may go; else, without a wait, after how many seconds it is worth asking again.
        """
        now = monotonic()
        wait = max(self._next - now, 0.0)
        if wait > self._most:
            return wait
        self._next = now + wait + self._interval
        await asyncio.sleep(wait)
        return None


OPENAPI = Pace(12.0, 20.0)
"""Shared by all of a process. Below the limit: requests may bunch up on their way, and others use the account too."""
