"""Decides which upload may send next on a shared line: pushes before bulk transfers, small pushes before huge ones.

The rate of a line is not known and not needed. Bodies are held back in proportion to the bytes that more urgent bodies
have just moved: one byte for each seven or so. If something else limits the more urgent ones, such as a slow source,
the proportion rises for as long as that does not slow them.

One lock guards everything here, so that threads with blocking sockets can use a `Flow` as well as tasks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

SMALL = 1024 * 1024
"""Bytes up to which the body of a push is a small one."""
FLOOR_BYTES = 64 * 1024
"""Bytes that a held body moves in `FLOOR_SECONDS` nevertheless, so that no proxy takes its connection for idle."""
FLOOR_SECONDS = 10.0

_WEIGHT = 0.15
"""Bytes that less urgent bodies move for each byte of more urgent ones."""
_HIGHEST_WEIGHT = 64.0
_STALLED = 2.0
"""Seconds after its last byte for which a body holds others back: its bytes may still be in buffers of the system."""
_ASK_AGAIN = 0.02
"""Seconds after which a held body asks again."""
_PIECE_SECONDS = 0.05
"""Seconds that one piece of a body takes about: bytes in the system's buffers can't be held back any more."""
_SMALLEST_PIECE, _LARGEST_PIECE = 16 * 1024, 4 * 1024 * 1024
_CREDIT = 128 * 1024
"""Bytes that less urgent bodies may save up, or twice their share of the last piece if that is more."""
NEWS_SECONDS = 0.25
"""Seconds between two notes to other processes while pushes are under way."""
_NEWS_LAST = 6 * NEWS_SECONDS
_PERIOD = 2.0
"""Seconds over which the pace of more urgent bodies is measured."""
_SLOWED = 0.9
"""The part of their former pace below which more urgent bodies count as slowed."""
_PERIODS_BETWEEN = 3
"""Periods until a higher weight is tried; twice as many after each that has slowed more urgent bodies."""
_LONGEST_BETWEEN = 30

_lock = threading.Lock()
"""One for all lines: a flow concerns two of them, and each step takes microseconds."""


class Urgency(IntEnum):
    """Classes of bodies, the most urgent first."""

    SMALL_PUSH = 0
    PUSH = 1
    BULK = 2


class Line:
    """The bodies under way at one host; those of its methods that take a time are for `Flow`, which has the lock.

    Attributes:
        credit: bytes that each class may move while more urgent bodies are under way.
        total: bytes of bodies that have gone to the host so far.
        on_push: called when pushes move again, after `news` has returned None; in any thread, and it must not block.
    """

    def __init__(self) -> None:
        self.total = 0
        self.on_push: Callable[[], object] | None = None
        self.credit = dict.fromkeys(Urgency, 0.0)
        self._flows: set[Flow] = set()
        self._probe = _Probe()
        self._news: int | None = None
        self._elsewhere_until = float("-inf")

    def held(self, *, bulk: bool) -> int:
        """Return how many bodies on their way to the host are held back now, of bulk or of pushes."""
        with _lock:
            flows = [flow for flow in self._flows if flow.held and flow.destination is self]
            return sum((flow.urgency is Urgency.BULK) is bulk for flow in flows)

    def news(self) -> tuple[int, bool] | None:
        """Return the bytes that pushes of this process moved since the last call, and whether some are under way.

        Returns:
            None if there was no push since the call that reported the end of the last one.
        """
        with _lock:
            now, news = time.monotonic(), self._news
            goes_on = any(flow.urgency < Urgency.BULK and flow.is_under_way(now) for flow in self._flows)
            self._news = 0 if goes_on else None
            return (news or 0, goes_on) if goes_on or news is not None else None

    def note_elsewhere(self, size: int, *, goes_on: bool) -> None:
        """Note the pushes of another process.

        Args:
            size: bytes that they have moved since the last note.
            goes_on: some are under way.
        """
        with _lock:
            now = time.monotonic()
            if not self.is_busy(Urgency.BULK, now):
                self._restart(now)
            self._elsewhere_until = now + _NEWS_LAST if goes_on else now
            self._give(Urgency.PUSH, size, now)

    def begin(self, flow: Flow, now: float) -> None:
        """Take part from now on."""
        if flow.urgency is not Urgency.BULK:
            self._restart(now)
            self._note(0)
        self._flows.add(flow)

    def _restart(self, now: float) -> None:
        self._probe = _Probe(now)
        most = _CREDIT if self.is_busy(Urgency.BULK, now) else 0
        self.credit = {urgency: min(most, credit) for urgency, credit in self.credit.items()}

    def end(self, flow: Flow, now: float) -> None:
        """Take part no longer."""
        self._flows.discard(flow)
        if flow.urgency is not Urgency.BULK:
            self._probe = _Probe(now)

    def is_busy(self, urgency: Urgency, now: float) -> bool:
        """Tell whether more urgent bodies are under way."""
        if urgency is Urgency.BULK and now < self._elsewhere_until:
            # Small pushes and large ones of different processes share the line as connections do.
            return True
        return any(flow.urgency < urgency and flow.is_under_way(now) for flow in self._flows)

    def moved(self, urgency: Urgency, size: int, now: float) -> None:
        """Credit less urgent bodies with their part of the moved bytes."""
        if urgency is not Urgency.BULK:
            self._note(size)
        self._give(urgency, size, now)

    def _note(self, size: int) -> None:
        if self._news is None and self.on_push is not None:
            self.on_push()
        self._news = (self._news or 0) + size

    def _give(self, urgency: Urgency, size: int, now: float) -> None:
        weight = self._probe.weight
        if urgency is not Urgency.BULK:
            self._probe.moved(size, now)
        for other in Urgency:
            if other > urgency:
                # Only bulk tries higher weights: small pushes soon end.
                gained = size * (weight if other is Urgency.BULK else _WEIGHT)
                self.credit[other] = min(max(_CREDIT, 2 * gained), self.credit[other] + gained)


class _Probe:
    """The search for the weight of bulk while the same pushes are under way.

    The weight rises for as long as pushes move as fast as at the lowest one: then it is not bulk that limits them, but
    a slow source for example. When they are slowed it falls, and rises again only after a while.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.weight = _WEIGHT
        self._began = now
        self._bytes = 0
        # Bytes a second at the lowest weight.
        self._pace: float | None = None
        self._between = _PERIODS_BETWEEN
        self._left = self._between

    def moved(self, size: int, now: float) -> None:
        """Count bytes of pushes."""
        self._bytes += size
        if now - self._began < _PERIOD:
            return
        pace, self._began, self._bytes = self._bytes / (now - self._began), now, 0
        if self._pace is not None and pace < self._pace * _SLOWED:
            self.weight = max(_WEIGHT, self.weight / 4)
            self._left = self._between = min(_LONGEST_BETWEEN, self._between * 2)
            if self.weight == _WEIGHT:
                self._pace = None
            return
        if self.weight == _WEIGHT:
            self._pace = pace
        self._left -= 1
        if self._left <= 0:
            self.weight = min(_HIGHEST_WEIGHT, self.weight * 2)


class Flow:
    """One body on its way from one host to another; a context manager, for as long as the body is under way.

    A task awaits `turn` before it sends bytes, and calls `sent` after that. A thread with a blocking socket does the
    same, and looks at `cancelled` meanwhile::

        while (seconds := flow.delay(size := flow.piece(len(left)))) > 0 and not flow.cancelled:
            time.sleep(min(seconds, 1.0))
        connection.sendall(left[:size])
        flow.sent(size)

    Args:
        source: the line of the host to read from.
        destination: the line of the host to write to; it may be the same.
        size: the body's bytes.
        bulk: it is a backfill's or a reconcile's.

    Attributes:
        urgency: the body's class.
        destination: the line of the host to write to.
        held: it is held back here, so no standstill of it is the registry's.
        cancelled: the task or thread that moves it should end.
        trickles: the bytes whose turn it is are those that a held body moves nevertheless.
    """

    def __init__(self, source: Line, destination: Line, size: int, *, bulk: bool) -> None:
        self.urgency = Urgency.BULK if bulk else Urgency.SMALL_PUSH if size <= SMALL else Urgency.PUSH
        self.held = False
        self.cancelled = False
        self.trickles = False
        self.destination = destination
        self._lines = (source,) if source is destination else (source, destination)
        self._moved_at = 0.0
        self._asked_at = 0.0
        self._piece = FLOOR_BYTES

    def __enter__(self) -> Self:
        with _lock:
            self._moved_at = time.monotonic()
            for line in self._lines:
                line.begin(self, self._moved_at)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            for line in self._lines:
                line.end(self, time.monotonic())

    def cancel(self) -> None:
        """Ask the task or thread that moves the body to end."""
        self.cancelled = True

    def promote(self) -> None:
        """Treat the body as a push's from now on, because a push waits for it."""
        with _lock:
            if self.urgency is Urgency.BULK:
                self.urgency = Urgency.PUSH
                self._moved_at = time.monotonic()

    def delay(self, size: int) -> float:
        """Return the seconds after which to ask again; 0 if ``size`` bytes may go now, and then they count.

        Args:
            size: at most `piece`.
        """
        with _lock:
            now = time.monotonic()
            delay = 0.0 if self._has_turn(size, now) else _ASK_AGAIN
            self.held = delay > 0
            self._asked_at = now
            return delay

    def piece(self, size: int) -> int:
        """Return how many of the next ``size`` bytes to ask for: as many as move within a moment.

        What was given to the system can't be held back any more, so the next decision should be soon.
        """
        with _lock:
            busy = self._busy_lines(time.monotonic())
            return min(size, _SMALLEST_PIECE if busy else self._piece)

    def _has_turn(self, size: int, now: float) -> bool:
        busy = self._busy_lines(now)
        self.trickles = False
        if all(line.credit[self.urgency] >= size for line in busy):
            for line in busy:
                line.credit[self.urgency] -= size
            return True
        self.trickles = now - self._moved_at >= FLOOR_SECONDS * size / FLOOR_BYTES
        return self.trickles

    def _busy_lines(self, now: float) -> list[Line]:
        return [line for line in self._lines if line.is_busy(self.urgency, now)]

    def sent(self, size: int) -> None:
        """Note that the destination's connection has taken ``size`` bytes."""
        with _lock:
            now = time.monotonic()
            self._moved_at = now
            at_this_pace = size / max(now - self._asked_at, 1e-6) * _PIECE_SECONDS
            # Up by steps: a first piece only fills empty buffers.
            self._piece = int(max(_SMALLEST_PIECE, min(at_this_pace, 2 * self._piece, _LARGEST_PIECE)))
            self.destination.total += size
            for line in self._lines:
                line.moved(self.urgency, size, now)

    def is_under_way(self, now: float) -> bool:
        """Tell whether it holds others back: not if it stalls and does not use the line."""
        return now - self._moved_at < _STALLED

    def stands_still(self, seconds: float) -> bool:
        """Tell whether nothing has moved for so long, although nothing here holds it back."""
        with _lock:
            return not self.held and time.monotonic() - self._moved_at >= seconds

    async def turn(self, size: int) -> int:
        """Wait until some of the next ``size`` bytes may go, and return how many; afterwards call `sent`."""
        while (seconds := self.delay(piece := self.piece(size))) > 0:
            await asyncio.sleep(seconds)
        return piece

    async def whole_turn(self, size: int) -> None:
        """Wait until ``size`` bytes may go, which are sent at once; afterwards call `sent`."""
        while size > 0:
            size -= await self.turn(size)
