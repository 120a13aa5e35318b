"""Limits of one host: requests in flight, pauses it asks for, deadlines, and what it is known to support."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replicator.retry import MAX_PAUSE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_SHORT = 64
"""Waiters that a short request overtakes at most."""
_SHRINK_SECONDS = 1.0
"""Seconds between two cuts of the budget: requests in flight together get the same 429 together."""


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


class HostLimits(Budget):
    """The budget of one host, shared by all its clients, for tags, manifests and blobs alike.

    It halves when the host answers that it is overloaded, and grows by one for every budget's worth of answers, as
    TCP's congestion window does. A transfer holds a place at both its ends: see `transfer`.

    Args:
        most: requests and transfers in flight at most.
    """

    def __init__(self, most: int = 32) -> None:
        super().__init__(most)
        self._most = most
        self._allowed = float(most)
        self._quiet_until = 0.0
        self._shrunk = float("-inf")

    @asynccontextmanager
    async def slot(self, size: int = 0, *, places: int = 1) -> AsyncIterator[None]:
        """Hold a place, after any pause that the host asked for."""
        async with super().slot(size, places=places):
            # With the place held: after the pause no more than the budget starts at once.
            await self.pause()
            yield

    async def pause(self) -> None:
        """Wait until the host's pause, if any, is over."""
        while (left := self._quiet_until - time.monotonic()) > 0:
            # Jitter spreads the restart, so that not everything comes back in one instant.
            await asyncio.sleep(left + random.uniform(0, min(left, 1.0) / 4))  # noqa: S311 - no secret

    def throttle(self, seconds: float) -> None:
        """Pause the whole host for ``seconds`` (at most ``MAX_PAUSE``), and cut its budget."""
        now = time.monotonic()
        self._quiet_until = max(self._quiet_until, now + min(seconds, MAX_PAUSE))
        if now >= self._shrunk + _SHRINK_SECONDS:
            # From the end of the pause: what was in flight before it is no sign that the smaller budget is too large.
            self._shrunk = self._quiet_until
            self._allowed = max(1.0, self._allowed / 2)
            self.resize(int(self._allowed))

    def answered(self) -> None:
        """Note an answer that did not ask for fewer requests."""
        if self._allowed < self._most:
            self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
            self.resize(int(self._allowed))


@asynccontextmanager
async def transfer(source: HostLimits, destination: HostLimits, size: int) -> AsyncIterator[None]:
    """Hold a place at both ends of a blob's transfer.

    Args:
        source: the limits of the host to read from.
        destination: the limits of the host to write to; it may be the same.
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


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines in seconds, and the number of attempts.

    Attributes:
        connect: to open a connection, TLS included.
        read: without a byte from the other side, and for the answer to a short request.
        write: without a byte taken by the other side while a body is sent.
        commit: for the answer once a body has been sent, since a registry may first move it to its object storage;
            and for a short request in all, its answer included.
        tag: for one attempt to write a tag: login, request and answer. A caller that guards the tag by a lease needs
            it well below the time of the lease.
        attempts: how often a request without a streamed body is sent in all.
    """

    connect: float = 10.0
    read: float = 60.0
    write: float = 60.0
    commit: float = 300.0
    tag: float = 20.0
    attempts: int = 4


@dataclass(slots=True)
class Abilities:
    """What one registry supports for one login; None until it has been observed.

    Attributes:
        heads: it answers HEAD for a manifest with the digest; if not, the manifest is read instead.
        mounts: it mounts a blob from another of its repositories (``POST ?mount=D&from=OTHER``).
        mounts_in_place: ``POST ?mount=D&from=SAME`` answers 201 for a blob that is there and opens an upload for a
            missing one: a HEAD and the start of an upload in one request.
        mounts_hold: its 201 to a mount of either kind is trusted; False once a refused manifest has disproved one.
        referrers: it has the referrers API.
    """

    heads: bool | None = None
    mounts: bool | None = None
    mounts_in_place: bool | None = None
    mounts_hold: bool = True
    referrers: bool | None = None


def _ignore(*_: object) -> None:
    """The default of every callback."""


@dataclass(frozen=True, slots=True)
class RequestObserver:
    """Callbacks for requests as they happen; they must not block and must not raise.

    ``registry`` is always the host the rules name: a request to its token server, or to the storage that it redirects
    to, counts as a request to the registry.

    Attributes:
        answered: the head of an answer arrived, or there was none: ``(registry, method, status, seconds)``; status is
            None without an answer, and seconds include the sending of the request's body.
        received: bytes of an answer's body arrived: ``(registry, size)``.
        sent: bytes of a request's body were sent: ``(registry, size)``.
        throttled: an answer asks for fewer requests, 429, or 503 with a ``Retry-After``: ``(registry)``.
    """

    answered: Callable[[str, str, int | None, float], None] = _ignore
    received: Callable[[str, int], None] = _ignore
    sent: Callable[[str, int], None] = _ignore
    throttled: Callable[[str], None] = _ignore
