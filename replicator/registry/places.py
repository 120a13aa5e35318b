"""Places (slots): the number of requests and transfers in flight, and their order."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from replicator.retry import waiting
from replicator.tasks import KeyedLock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

BULK: ContextVar[bool] = ContextVar("bulk", default=False)
"""Whether the work of this task is a backfill's or a reconcile's, which never delays a push."""

_work: ContextVar[_Work | None] = ContextVar("work", default=None)
"""The work of this task while it holds a `PromotingLock`."""

_SHORT = 64
"""Waiters of the same class that a short request overtakes at most."""
_PUSH = 64
"""Waiters for bulk that a push overtakes at most, beside those that it overtakes among pushes."""
_BULK_SHARE = 4
"""Bulk holds one place in so many, at least one, while pushes hold or want places."""
_BEYOND_SHARE = 4
"""Pushes of one magnitude go beyond the budget by one place in so many, at least one."""
_SMALL_BITS = 20
"""Bodies up to 1 MiB are of one magnitude; each further one is four times as large."""


class Budget:
    """A semaphore with a fair queue, shared by pushes and by bulk (`BULK`).

    While pushes hold or want places, bulk gets a quarter of them; alone it has all. A body that is in flight keeps its
    place, so a push that finds all places taken by bulk, or by much larger pushes, goes beyond the budget: by a quarter
    for each magnitude, and by no more than the budget in all.

    Short requests go first, then small bodies before large ones among pushes, and large ones before small ones in
    bulk, where only the end of the whole counts. A newcomer overtakes a bounded number of waiters, so none starves.
    One short request always proceeds, however many long bodies are in flight.

    Args:
        most: places in all.
    """

    def __init__(self, most: int) -> None:
        self.size = most
        self._used = 0
        self._used_by_bulk = 0
        # The places of pushes by magnitude, and of short requests of bulk.
        self._pushes: Counter[int] = Counter()
        self._bulk_requests = 0
        self.arrivals = 0
        self._lines: dict[tuple[bool, int], list[Slot]] = {}
        self._waiting: Counter[bool] = Counter()

    def waiting(self, *, bulk: bool) -> int:
        """Return how many wait for a place, for bulk or for pushes."""
        return self._waiting[bulk]

    def slot(self, size: int = 0, *, places: int = 1) -> AbstractAsyncContextManager[None]:
        """Hold a place for as long as the context lasts.

        Args:
            size: bytes of the body to send or read; 0 for a short request.
            places: how many it takes; if it needs more than there are, it goes alone.
        """
        return Slot(self, size, places)

    def arrive(self, waiter: Slot) -> asyncio.Future[None] | None:
        """Admit a newcomer, or line it up and return what tells that it is admitted."""
        # Without waiters there is nothing to compare it with.
        if not self._lines and (self._may_go(waiter) or self._may_go_beyond(waiter)):
            self._count(waiter, 1)
            waiter.holds = True
            return None
        waiter.ready = asyncio.get_running_loop().create_future()
        self._line_up(waiter)
        return waiter.ready

    def leave(self, waiter: Slot) -> None:
        """Give the places back, or leave the line."""
        # Also if it was cancelled in the turn of the loop in which it was admitted: it holds its places then.
        if waiter.holds:
            self._count(waiter, -1)
        else:
            self._waiting[waiter.bulk] -= 1
            if waiter.ready is not None:
                waiter.ready.cancel()
        if self._lines:
            self._admit()

    def resize(self, size: int) -> None:
        """Change the number of places; requests in flight continue."""
        self.size = size
        self._admit()

    def _line_up(self, waiter: Slot) -> None:
        heapq.heappush(self._lines.setdefault(waiter.line, []), waiter)
        self._waiting[waiter.bulk] += 1
        self._admit()

    def promote(self, waiter: Slot) -> None:
        """Make a waiter of bulk, or one that holds its places, a push's."""
        if not waiter.bulk or waiter.is_gone:
            return
        if waiter.holds:
            self._count(waiter, -1)
            waiter.bulk = False
            self._count(waiter, 1)
            self._admit()
            return
        line = self._lines[waiter.line]
        line.remove(waiter)
        heapq.heapify(line)
        self._waiting[True] -= 1
        waiter.bulk = False
        waiter.rank -= _PUSH
        self._line_up(waiter)

    def _admit(self) -> None:
        while (waiter := self._next()) is not None:
            heapq.heappop(self._lines[waiter.line])
            self._waiting[waiter.bulk] -= 1
            self._count(waiter, 1)
            waiter.holds = True
            if waiter.ready is not None:
                waiter.ready.set_result(None)

    def _count(self, waiter: Slot, sign: int) -> None:
        places = sign * waiter.places
        self._used += places
        if not waiter.bulk:
            self._pushes[waiter.magnitude] += places
        else:
            self._used_by_bulk += places
            self._bulk_requests += sign * (waiter.magnitude == 0)

    def _next(self) -> Slot | None:
        """Return the waiter that goes next; None if there is no place for any."""
        waiters = sorted(filter(None, map(self._first, list(self._lines))))
        if not waiters:
            return None
        for waiter in waiters:
            if self._may_go(waiter):
                return waiter
            if self._exceeds_share(waiter):
                continue
            # Those behind it do not go either: a waiter for several places would otherwise never get them.
            break
        return next(filter(self._may_go_beyond, waiters), None)

    def _first(self, line: tuple[bool, int]) -> Slot | None:
        """Return the first waiter of a line that was not cancelled; a line without one is removed."""
        waiters = self._lines[line]
        # Cancelled waiters are removed here and not when they leave: a heap has no cheap removal from its middle.
        while waiters and waiters[0].is_gone:
            heapq.heappop(waiters)
        if waiters:
            return waiters[0]
        del self._lines[line]
        return None

    def _exceeds_share(self, waiter: Slot) -> bool:
        pushes = self._used > self._used_by_bulk or self._waiting[False] > 0
        share = max(1, self.size // _BULK_SHARE)
        # Two ends at one host take two places: a share of one must not keep them out.
        return waiter.bulk and pushes and self._used_by_bulk > max(0, share - waiter.places)

    def _may_go(self, waiter: Slot) -> bool:
        # A waiter that needs more places than there are would otherwise never go.
        return (self._used + waiter.places <= self.size or self._used == 0) and not self._exceeds_share(waiter)

    def _may_go_beyond(self, waiter: Slot) -> bool:
        if waiter.bulk:
            # A HEAD must not wait until gigabytes have gone through.
            return waiter.magnitude == 0 and not self._bulk_requests and not self._pushes[0]
        if waiter.magnitude == 0:
            held = self._pushes[0]
        else:
            held = sum(places for magnitude, places in self._pushes.items() if 0 < magnitude <= waiter.magnitude)
            if self._used + waiter.places > 2 * self.size + 1:
                return False
        return held == 0 or held + waiter.places <= max(1, self.size // _BEYOND_SHARE)


class Slot:
    """Places in a budget: waited for in a line, where the lowest rank goes first, and held while the context lasts.

    Args:
        budget: the budget.
        size: bytes of the body; 0 for a short request.
        places: how many.
        pause: awaited with the places held, before the block begins.

    Attributes:
        rank: a virtual time of arrival: a bonus lets a newcomer pass those that came shortly before it, and nobody who
            has waited for longer than that.
        bulk: it is a backfill's or a reconcile's.
        magnitude: 0 for a short request, 1 for a body up to 1 MiB, one more for each four times of that.
        holds: it was admitted, and holds its places.
        ready: done when it is admitted; None if it never stood in a line.
    """

    __slots__ = ("_budget", "_pause", "_work", "arrival", "bulk", "holds", "magnitude", "places", "rank", "ready")

    def __init__(
        self, budget: Budget, size: int, places: int, pause: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._budget = budget
        self._pause = pause
        self._work: _Work | None = None
        self.arrival = budget.arrivals = budget.arrivals + 1
        self.places = places
        self.bulk = is_bulk()
        bits = min(size.bit_length(), _SHORT)
        self.magnitude = 1 + (max(0, bits - _SMALL_BITS) + 1) // 2 if size else 0
        among_its_class = _SHORT if not size else bits if self.bulk else _SHORT - bits
        self.rank = self.arrival - among_its_class - (0 if self.bulk else _PUSH)
        self.holds = False
        self.ready: asyncio.Future[None] | None = None

    def __lt__(self, other: Slot) -> bool:
        return (self.rank, self.arrival) < (other.rank, other.arrival)

    async def __aenter__(self) -> None:
        if (work := _work.get()) is not None:
            self._work = work
            work.callbacks.append(self._promote)
        try:
            if (ready := self._budget.arrive(self)) is not None:
                with waiting():
                    await ready
            if self._pause is not None:
                await self._pause()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _promote(self) -> None:
        self._budget.promote(self)

    def _leave(self) -> None:
        if self._work is not None:
            self._work.callbacks.remove(self._promote)
        self._budget.leave(self)

    @property
    def is_gone(self) -> bool:
        """Whether it was cancelled in its line."""
        return self.ready is not None and self.ready.cancelled()

    @property
    def line(self) -> tuple[bool, int]:
        """Waiters among which the rank alone decides."""
        # The order of bulk does not depend on magnitudes.
        return self.bulk, min(self.magnitude, 1) if self.bulk else self.magnitude


class _Work:
    """The work of a task that others may wait for."""

    def __init__(self) -> None:
        self.promoted = False
        self.callbacks: list[Callable[[], None]] = []

    def promote(self) -> None:
        self.promoted = True
        for callback in self.callbacks:
            callback()


def is_bulk() -> bool:
    """Tell whether the work of this task is bulk, and no push waits for it."""
    work = _work.get()
    return BULK.get() and not (work is not None and work.promoted)


def promotion() -> Callable[[], None]:
    """Return a function that makes the work of this task urgent, for a push that waits in another process."""
    work = _work.get()
    return work.promote if work is not None else lambda: None


@contextmanager
def promoted_by(callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` when a push begins to wait for the work of this task, while the context lasts."""
    work = _work.get()
    if work is None:
        yield
        return
    work.callbacks.append(callback)
    try:
        yield
    finally:
        work.callbacks.remove(callback)


class Courtesy:
    """Has bulk take few steps at once while pushes are under way in this process: both need the machine.

    Args:
        steps: of bulk that are taken at once beside pushes.
    """

    def __init__(self, steps: int) -> None:
        self._most = steps
        self._pushes = 0
        self._steps = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @contextmanager
    def push(self) -> Iterator[None]:
        """Have a push under way for as long as the context lasts."""
        self._pushes += 1
        try:
            yield
        finally:
            self._pushes -= 1
            self._wake()

    @asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """Take a step of bulk, once it is its turn."""
        if self._waiters or self._is_full():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                # Its turn may just have come.
                self._steps -= waiter.done() and not waiter.cancelled()
                waiter.cancel()
                self._wake()
                raise
        else:
            self._steps += 1
        try:
            yield
        finally:
            self._steps -= 1
            self._wake()

    def _is_full(self) -> bool:
        return self._pushes > 0 and self._steps >= self._most

    def _wake(self) -> None:
        while self._waiters and not self._is_full():
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._steps += 1
                waiter.set_result(None)


class PromotingLock:
    """Locks by key within one process. While a push waits for one, the work of its holder is the push's, not bulk."""

    def __init__(self) -> None:
        self._locks = KeyedLock()
        self._holders: dict[tuple[str, ...], _Work] = {}
        self._pushes: Counter[tuple[str, ...]] = Counter()

    @asynccontextmanager
    async def hold(self, *key: str) -> AsyncIterator[None]:
        """Hold the lock of a key for as long as the context lasts."""
        push = not is_bulk()
        if push:
            self._pushes[key] += 1
            if (holder := self._holders.get(key)) is not None:
                holder.promote()
        try:
            async with self._locks.hold(*key):
                work = self._holders[key] = _Work()
                work.promoted = self._pushes[key] > 0
                before = _work.set(work)
                try:
                    yield
                finally:
                    _work.reset(before)
                    del self._holders[key]
        finally:
            if push:
                self._pushes[key] -= 1
            if not self._pushes[key]:
                del self._pushes[key]
