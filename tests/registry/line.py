"""A simulated line: bodies that are sent at rates, by a clock that stands still while nothing happens."""

from __future__ import annotations

import heapq
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from replicator.registry.rate import Rate, Turn

ENDLESS = 1 << 50
_LATE = 0.0005
"""Seconds by which an event loop is late."""


class Clock:
    """A clock for rates: monotonic, and the time of day, 13:46:40 UTC at first."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Body:
    """Bytes to send.

    Attributes:
        rate: by which they are sent.
        size: how many there are.
        bulk: they are a backfill's.
        start: seconds until they begin.
        own: bytes a second that their source gives; None for any number.
        sent: when how many went: seconds since the start of the simulation, and bytes.
    """

    rate: Rate
    size: int = ENDLESS
    bulk: bool = True
    start: float = 0.0
    own: float | None = None
    sent: list[tuple[float, int]] = field(default_factory=list)

    def total(self, begin: float = 0.0, end: float = float("inf")) -> int:
        """The bytes of a span."""
        return sum(size for moment, size in self.sent if begin <= moment < end)

    @property
    def end(self) -> float:
        """When its last bytes went."""
        return self.sent[-1][0]


def total(bodies: Sequence[Body], begin: float = 0.0, end: float = float("inf")) -> int:
    """The bytes of several bodies."""
    return sum(body.total(begin, end) for body in bodies)


class Line:
    """Runs bodies, and whatever else is due, in the order of time.

    Args:
        clock: of the rates.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.now
        self._due: list[tuple[float, int, Callable[[], Awaitable[float | None]]]] = []
        self._number = 0

    def at(self, seconds: float, act: Callable[[], Awaitable[float | None]]) -> None:
        """Have something done after so many seconds of the simulation; it says after how many more it is due again."""
        self._push(self._start + seconds, act)

    def now(self, act: Callable[[], Awaitable[float | None]]) -> None:
        """Have something done at once."""
        self._push(self._clock.now, act)

    async def run(self, seconds: float, bodies: Sequence[Body]) -> None:
        """Run until so many seconds after the start; to be called once."""
        with ExitStack() as lines:
            for body in bodies:
                self.at(body.start, _Sending(body, self._clock, self._start, lines).step)
            while self._due and self._due[0][0] < self._start + seconds:
                self._clock.now, _, act = heapq.heappop(self._due)
                if (again := await act()) is not None:
                    self._push(self._clock.now + again, act)

    def _push(self, moment: float, act: Callable[[], Awaitable[float | None]]) -> None:
        self._number += 1
        heapq.heappush(self._due, (moment, self._number, act))


class _Sending:
    def __init__(self, body: Body, clock: Clock, start: float, lines: ExitStack) -> None:
        self._body, self._clock, self._start, self._lines = body, clock, start, lines
        self._left = body.size
        self._waiting: tuple[Turn, int, ExitStack] | None = None

    async def step(self) -> float | None:
        body = self._body
        if self._waiting is None:
            size = min(body.rate.piece or 65536, self._left)
            if pause := body.rate.ask(size, bulk=body.bulk):
                own = self._lines.enter_context(ExitStack())
                self._waiting = (own.enter_context(body.rate.turn(size, bulk=body.bulk)), size, own)
                return pause + _LATE
        else:
            turn, size, own = self._waiting
            if pause := turn.delay():
                return pause + _LATE
            own.close()
            self._waiting = None
        body.sent.append((self._clock.now - self._start, size))
        self._left -= size
        if not self._left:
            return None
        return size / body.own if body.own is not None else _LATE / 10
