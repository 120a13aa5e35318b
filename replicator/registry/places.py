"""Places: how many requests and transfers are in flight at once, and who goes next."""

from __future__ import annotations

import asyncio
import heapq
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BULK: ContextVar[bool] = ContextVar("bulk", default=False)
"""Whether the work of this task is a backfill's or a reconcile's, which never delays a push."""

_SHORT = 64
"""Waiters that a short request overtakes at most."""


class Budget:
    """A semaphore with a fair queue: short requests first, then large bodies before small ones.

    A newcomer overtakes at most as many waiters as its size has bits, a short request 64, so nobody starves. One short
    request always proceeds, however many long bodies are in flight.

    Args:
        most: places in all.
    """

    def __init__(self, most: int) -> None:
        self.size = most
        self._used = 0
        self._short = 0
        self._arrivals = 0
        self._requests: list[_Waiter] = []
        self._bodies: list[_Waiter] = []

    @asynccontextmanager
    async def slot(self, size: int = 0, *, places: int = 1) -> AsyncIterator[None]:
        """Hold a place.

        Args:
            size: bytes of the body to send or read; 0 for a short request.
            places: how many it takes; if it needs more than there are, it goes alone.
        """
        self._arrivals += 1
        # The rank is a virtual time of arrival: a bonus lets a newcomer pass those that came shortly before it, and
        # nobody who has waited for longer than that.
        bonus = size.bit_length() if size else _SHORT
        waiter = _Waiter(self._arrivals - bonus, self._arrivals, places, size == 0)
        heapq.heappush(self._requests if waiter.short else self._bodies, waiter)
        self._admit()
        try:
            await waiter.ready
            yield
        finally:
            # Also if it was cancelled in the turn of the loop in which it was admitted: it holds its places then.
            if waiter.ready.done() and not waiter.ready.cancelled():
                self._used -= places
                self._short -= waiter.short
            waiter.ready.cancel()
            self._admit()

    def resize(self, size: int) -> None:
        """Change the number of places; what is in flight goes on."""
        self.size = size
        self._admit()

    def _admit(self) -> None:
        while line := self._first_line():
            waiter = heapq.heappop(line)
            self._used += waiter.places
            self._short += waiter.short
            waiter.ready.set_result(None)

    def _first_line(self) -> list[_Waiter] | None:
        """Return the line whose first waiter goes next; None if there is no place for it."""
        lines = [line for line in (self._requests, self._bodies) if _first(line) is not None]
        line = min(lines, key=lambda line: line[0], default=None)
        if line is not None and not self._fits(line[0]):
            # One place beyond the budget: a HEAD must not wait until gigabytes have gone through.
            line = self._requests if self._requests and not self._short else None
        return line

    def _fits(self, waiter: _Waiter) -> bool:
        # A waiter that needs more places than there are would otherwise never go.
        return self._used + waiter.places <= self.size or self._used == 0


@dataclass(order=True, slots=True)
class _Waiter:
    """A request in line for its places; the lowest rank goes first."""

    rank: int
    arrival: int
    places: int = field(compare=False)
    short: bool = field(compare=False)
    ready: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future(), compare=False
    )


def _first(line: list[_Waiter]) -> _Waiter | None:
    """Return the first waiter of a line that was not cancelled."""
    # Cancelled waiters are removed here and not when they leave: a heap has no cheap removal from its middle.
    while line and line[0].ready.done():
        heapq.heappop(line)
    return line[0] if line else None


@asynccontextmanager
async def transfer(source: Budget, destination: Budget, size: int) -> AsyncIterator[None]:
    """Hold a place at both ends of a blob's transfer.

    Args:
        source: the budget of the host to read from.
        destination: the budget of the host to write to; it may be the same.
        size: the blob's bytes.
    """
    if source is destination:
        async with source.slot(size, places=2):
            yield
        return
    # In one order everywhere: two transfers in opposite directions can't wait for each other.
    first, second = sorted((source, destination), key=id)
    async with first.slot(size), second.slot(size):
        yield
