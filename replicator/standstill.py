"""Deadlines on standstill: there is no limit on the duration of a transfer that moves.

`Standstill` is the deadline of one direction of one body. `ends_on_standstill` is that of a whole piece of work, such
as a copy; its steps say `alive` when something moved, and are `waiting` while it is not theirs to move anything.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from replicator.errors import ErrorClass, ReplicatorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PROGRESS = 64 * 1024
"""Bytes of a body that count as progress."""


class StoodStill(ReplicatorError):
    """Nothing moved in a piece of work for as long as it may stand still."""

    error_class = ErrorClass.TRANSIENT


class Standstill:
    """Deadline of one direction of a body: less than `PROGRESS` bytes within so many seconds is a standstill.

    Only the time spent waiting for the other side counts. While the bytes wait for us, the other side has nothing to
    answer for. The last bytes of a body, fewer than `PROGRESS`, have the same time.
    """

    def __init__(self) -> None:
        self._waited = 0.0
        self._moved = 0

    def left(self, seconds: float) -> float:
        """Return the seconds of waiting that are left until it is a standstill, of so many for each `PROGRESS`."""
        return max(0.0, seconds - self._waited)

    def moved(self, size: int, seconds: float) -> bool:
        """Note that ``size`` bytes moved after ``seconds`` of waiting; tell whether that completes a progress."""
        self._moved += size
        self._waited += seconds
        if self._moved < PROGRESS:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Give the other side its whole time again."""
        self._moved, self._waited = 0, 0.0


def standstill_words(moving: str, seconds: float) -> str:
    """Say that the other side stood still.

    Args:
        moving: the stopped direction: ``sending`` or ``taking``.
        seconds: its time.
    """
    return f"stopped {moving} bytes: less than 64 KiB in {seconds:g} s (REPLICATOR_READ_TIMEOUT)"


class _Watch:
    """What is known of a piece of work: when it last moved, and how many of its steps are waiting."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self.moved_at = self._loop.time()

    def alive(self) -> None:
        self.moved_at = self._loop.time()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self.alive()

    def due(self, seconds: float) -> float:
        """Return when it will have stood still for ``seconds`` if nothing moves, by the event loop's clock."""
        # A step that waits may hold up all the others, so that none of them counts meanwhile. They have the deadlines
        # of their bodies and requests.
        return (self._loop.time() if self._waiting else self.moved_at) + seconds


_watch: ContextVar[_Watch | None] = ContextVar("watch", default=None)
"""The work that this task is a step of."""


def alive() -> None:
    """Note that the work of this task moved: bytes of a body, or an answer. Cheap."""
    if (watch := _watch.get()) is not None:
        watch.alive()


@contextmanager
def waiting() -> Iterator[None]:
    """Count the time in this block as no standstill: the work waits for a place, a lock, or by its own choice."""
    if (watch := _watch.get()) is None:
        yield
        return
    with watch.waiting():
        yield


@asynccontextmanager
async def ends_on_standstill(seconds: float | None) -> AsyncIterator[None]:
    """Cancel the work in this block once nothing has moved for so long, `waiting` not counted.

    Args:
        seconds: the limit; None for none.

    Raises:
        StoodStill: nothing moved; never without a limit.
    """
    if seconds is None:
        yield
        return
    loop, watch = asyncio.get_running_loop(), _Watch()

    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer
        due = watch.due(seconds)
        if due <= loop.time():
            limit.reschedule(due)
        else:
            timer = loop.call_at(due, look)

    before = _watch.set(watch)
    try:
        async with asyncio.timeout(None) as limit:
            look()
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise StoodStill(f"nothing moved for {seconds:g} s, no byte and no answer (REPLICATOR_COPY_TIMEOUT)") from None
    finally:
        if timer is not None:
            timer.cancel()
        _watch.reset(before)
