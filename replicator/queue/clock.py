"""Redis's clock, as far as this process knows it: the one clock that all processes of an installation share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BELIEVED_SECONDS = 10.0


class RedisClock:
    """Tells what Redis's clock showed at a moment, and never a later time than it showed then.

    An answer that holds Redis's time was written before it is read: so when it is read Redis's clock shows that time
    or a later one, by no more than the answer was under way. The best of what was heard in ten seconds counts; clocks
    drift apart, and are set.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ahead: float | None = None
        self._heard = 0.0

    def heard(self, time_ms: int) -> None:
        """Learn from an answer of this moment, in which Redis told its time: ms since 1970."""
        now = self._clock()
        ahead = time_ms - now * 1000
        if self._ahead is None or ahead >= self._ahead or now - self._heard > _BELIEVED_SECONDS:
            self._ahead, self._heard = ahead, now

    def showed(self, moment: float) -> int | None:
        """Return what Redis's clock showed at a moment of the own clock, in ms since 1970; None if nothing was heard.

        What a process notes of the past is then never taken for something later than it was.
        """
        return None if self._ahead is None else int(moment * 1000 + self._ahead)
