"""Streams: how many bodies go to one host at once, as many as make the whole faster.

Where the round trip, or something else on each connection, sets the pace, every further body makes the whole faster.
Where the bandwidth of the line does, it only makes all of them late. It is not known beforehand which of the two a line
is, so the number is found by trial, for as long as bodies wait.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.registry.places import Budget

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

_FEWEST, _FIRST = 2, 8
"""The fewest streams, so that one body moves while the answer to another is awaited; and those of the start."""
_STEP = 1.5
"""The next number to try, as a multiple or a fraction of the last one."""
_GAIN = 0.25
"""The part of a proportional gain that more streams have to bring."""
_LOSS = 0.05
"""The part of the rate that fewer streams may lose."""
_LOOK = 0.1
_SETTLE = 1.0
"""Seconds after a change that are not measured: the first bytes of a connection only fill buffers."""
_PERIOD = 2.0
_BOUND = 0.9
"""The part of the looks at which bodies have to wait: without that, more streams would not be used."""
_SHORTEST_REST, _LONGEST_REST = 30.0, 300.0
"""Seconds until other numbers are tried again; twice as many each time that nothing better was found."""


@dataclass(slots=True)
class _Measurement:
    """The bytes that moved with one number of streams.

    Attributes:
        began: when the number was set.
        moved: bytes before the part that counts.
        looks: how often the streams were looked at.
        bound: how often of those a body waited, and all streams were in use.
    """

    began: float
    moved: int
    looks: int = 0
    bound: int = 0


class Streams(Budget):
    """The bodies on their way to one host; a body holds one stream.

    While bodies wait, more streams are tried as long as each step brings a quarter of the possible gain, and otherwise
    fewer as long as they lose next to nothing. Then the number rests, and is tried again after a while, because lines
    change.

    Args:
        most: the maximum of streams.
        moved: returns the bytes that have gone to the host so far.
    """

    def __init__(self, most: int, moved: Callable[[], int]) -> None:
        self._most = most
        self._number = min(most, _FIRST)
        super().__init__(self._number)
        self._moved = moved
        self._lent = 0
        self._measurement = _Measurement(0.0, 0)
        # The number and the rate that a trial is compared with; None while there is no trial.
        self._base: tuple[int, float] | None = None
        self._began_with = self._number
        self._rest = _SHORTEST_REST
        self._rests_until = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def slot(self, size: int = 0, *, places: int = 1) -> AbstractAsyncContextManager[None]:
        """Hold a stream."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._measurement = _Measurement(loop.time(), self._moved())
            self._timer = loop.call_later(_LOOK, self._look)
        return super().slot(size, places=places)

    def lend(self, number: int) -> None:
        """Add so many streams, or remove them if negative, because bodies that hold one are stalled."""
        self._lent += number
        self.resize(self._number + self._lent)

    def _look(self) -> None:
        waits = self.waiting(bulk=True) + self.waiting(bulk=False) > 0
        if not self._used and not waits:
            self._timer = None
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK, self._look)
        current, now = self._measurement, loop.time()
        # More than the number are in use after it was lowered, or when pushes went beyond it.
        bound = waits and self._used == self.size
        if now - current.began < _SETTLE:
            current.moved = self._moved()
            if not bound:
                current.began = now
            return
        current.looks += 1
        current.bound += bound
        if (took := now - current.began - _SETTLE) < _PERIOD:
            return
        moved = self._moved()
        enough, rate = current.bound >= _BOUND * current.looks, (moved - current.moved) / took
        number = self._number
        if enough:
            self._decide(rate, now)
        # The same number needs no time to settle.
        settled = number == self._number and enough
        self._measurement = _Measurement(now - _SETTLE if settled else now, moved)

    def _decide(self, rate: float, now: float) -> None:
        """Keep or change the number, now that its rate is known."""
        if self._base is None:
            if now >= self._rests_until:
                self._base, self._began_with = (self._number, rate), self._number
                self._try(self._more() if self._number < self._most else self._fewer(), now)
            return
        number, before = self._base
        grows = self._number > number
        least = before * (1 + _GAIN * (self._number / number - 1)) if grows else before * (1 - _LOSS)
        if rate >= least:
            # Fewer streams are always compared with the best rate, so that small losses do not add up.
            self._base = self._number, rate if grows else max(rate, before)
            self._try(self._more() if grows else self._fewer(), now)
        elif grows and number == self._began_with:
            self._set(number)
            self._try(self._fewer(), now)
        else:
            self._set(number)
            self._end(now)

    def _more(self) -> int:
        return min(self._most, int(self._number * _STEP + 0.5))

    def _fewer(self) -> int:
        return max(min(_FEWEST, self._most), int(self._number / _STEP))

    def _try(self, number: int, now: float) -> None:
        if number == self._number:
            self._end(now)
        else:
            self._set(number)

    def _set(self, number: int) -> None:
        self._number = number
        self.resize(number + self._lent)

    def _end(self, now: float) -> None:
        same = self._number == self._began_with
        self._rest = min(_LONGEST_REST, 2 * self._rest) if same else _SHORTEST_REST
        self._base, self._rests_until = None, now + self._rest
