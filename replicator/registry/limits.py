"""How hard a host is pressed: requests at once, and the peace it asked for."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_PAUSE = 60.0
"""Seconds a request waits for its host at the most; a longer Retry-After goes to the queue instead."""


class HostLimits:
    """What all clients of one host share.

    Requests with a long body count for their start only: a transfer reads from one host while it writes to another,
    or to the same, and must never wait for itself.
    """

    def __init__(self, concurrent: int = 32) -> None:
        self._slots = asyncio.Semaphore(concurrent)
        self._quiet_until = 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one of the host's places for a short request, after any pause the host asked for."""
        async with self._slots:
            await self.pause()
            yield

    async def pause(self) -> None:
        """Wait until the host's pause, if any, is over."""
        while (left := self._quiet_until - time.monotonic()) > 0:
            # Spread the restart, so that not everything comes back in one instant.
            await asyncio.sleep(left + random.uniform(0, min(left, 1.0) / 4))  # noqa: S311 - no secret

    def throttle(self, seconds: float) -> None:
        """Slow the whole host down: nothing more is sent to it for ``seconds`` (at most ``MAX_PAUSE``)."""
        self._quiet_until = max(self._quiet_until, time.monotonic() + min(seconds, MAX_PAUSE))


def backoff(attempt: int, *, base: float = 0.2, cap: float = 10.0) -> float:
    """Return the seconds to wait after the failed ``attempt`` (from 1): exponential, half of it jitter."""
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 30))
    return ceiling / 2 + random.uniform(0, ceiling / 2)  # noqa: S311 - no secret


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Read a Retry-After (RFC 9110, section 10.2.3) in seconds, from seconds or from a date.

    Returns:
        Seconds, never negative; None if there is none or it can't be read.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
