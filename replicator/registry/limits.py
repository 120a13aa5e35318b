"""How hard a host is pressed: what is in flight there at once, and the peace it asked for.

How long anything may take, and how often it is tried.

What a registry was seen to do, so that it is not asked again.

What a registry's requests tell to whoever counts them.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from replicator.retry import MAX_PAUSE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_SHORT = 64
"""Waiters that a short request overtakes at the most."""
_SHRINK_SECONDS = 1.0
"""How long one shrinking of the budget holds: what was in flight meets the same 429 all at once."""


class Budget:
    """So many at once, and who waits goes in a fair order: large bodies before small ones, short requests first.

    A newcomer overtakes at most as many as its size has bits, a short request 64: nobody waits for ever. One short
    request always goes, however many long bodies are under way.

    Args:
        most: how many at once.
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
            size: bytes of the body that is to be sent or read; 0 for a short request.
            places: how many places it takes; what needs more than there are goes alone.
        """
        self._arrivals += 1
        bonus = size.bit_length() if size else _SHORT
        waiter = _Waiter(self._arrivals - bonus, self._arrivals, places, size == 0)
        heapq.heappush(self._requests if waiter.short else self._bodies, waiter)
        self._admit()
        try:
            await waiter.ready
            yield
        finally:
            if waiter.ready.done() and not waiter.ready.cancelled():
                self._used -= places
                self._short -= waiter.short
            waiter.ready.cancel()
            self._admit()

    def resize(self, size: int) -> None:
        """Change how many go at once; what is under way goes on."""
        self.size = size
        self._admit()

    def _admit(self) -> None:
        while line := self._first_line():
            waiter = heapq.heappop(line)
            self._used += waiter.places
            self._short += waiter.short
            waiter.ready.set_result(None)

    def _first_line(self) -> list[_Waiter] | None:
        """Return the line whose first goes next; None when nobody does."""
        lines = [line for line in (self._requests, self._bodies) if _first(line) is not None]
        line = min(lines, key=lambda line: line[0], default=None)
        if line is not None and not self._fits(line[0]):
            line = self._requests if self._requests and not self._short else None
        return line

    def _fits(self, waiter: _Waiter) -> bool:
        return self._used + waiter.places <= self.size or self._used == 0


@dataclass(order=True, slots=True)
class _Waiter:
    """Who waits for places: the lowest rank first."""

    rank: int
    arrival: int
    places: int = field(compare=False)
    short: bool = field(compare=False)
    ready: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future(), compare=False
    )


def _first(line: list[_Waiter]) -> _Waiter | None:
    """Return the first of a line who did not give up waiting."""
    while line and line[0].ready.done():
        heapq.heappop(line)
    return line[0] if line else None


class HostLimits(Budget):
    """What is in flight at a host, tags, manifests and blobs alike, and the peace it asked for; for all its clients.

    The budget halves when the host says that it is too much, and grows again by one for every budget's worth of
    answers, as TCP does. A transfer holds a place at both its ends: see `transfer`.

    Args:
        most: what is in flight at once at the most.
    """

    def __init__(self, most: int = 32) -> None:
        super().__init__(most)
        self._most = most
        self._allowed = float(most)
        self._quiet_until = 0.0
        self._shrunk = float("-inf")

    @asynccontextmanager
    async def slot(self, size: int = 0, *, places: int = 1) -> AsyncIterator[None]:
        """Hold a place, after any pause the host asked for."""
        async with super().slot(size, places=places):
            await self.pause()
            yield

    async def pause(self) -> None:
        """Wait until the host's pause, if any, is over."""
        while (left := self._quiet_until - time.monotonic()) > 0:
            # Spread the restart, so that not everything comes back in one instant.
            await asyncio.sleep(left + random.uniform(0, min(left, 1.0) / 4))  # noqa: S311 - no secret

    def throttle(self, seconds: float) -> None:
        """Slow the whole host down: nothing more is sent for ``seconds`` (at most ``MAX_PAUSE``), and then less."""
        now = time.monotonic()
        self._quiet_until = max(self._quiet_until, now + min(seconds, MAX_PAUSE))
        if now >= self._shrunk + _SHRINK_SECONDS:
            self._shrunk = self._quiet_until
            self._allowed = max(1.0, self._allowed / 2)
            self.resize(int(self._allowed))

    def answered(self) -> None:
        """Note an answer that was no complaint."""
        if self._allowed < self._most:
            self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
            self.resize(int(self._allowed))


@asynccontextmanager
async def transfer(source: HostLimits, destination: HostLimits, size: int) -> AsyncIterator[None]:
    """Hold a place at both ends of a blob's way.

    Args:
        source: of the host that is read from.
        destination: of the host that is written to; it may be the same.
        size: the blob's bytes.
    """
    if source is destination:
        async with source.slot(size, places=2):
            yield
        return
    first, second = sorted((source, destination), key=id)
    async with first.slot(size), second.slot(size):
        yield


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines and tries, in seconds.

    Attributes:
        connect: until a connection stands, TLS included.
        read: without a byte from the other side, and for the answer to a short request.
        write: without a byte taken by the other side while a body is sent.
        commit: for the answer once a body has been sent, since a registry may first move it to its object storage;
            and for a short request in all, answer read.
        tag: for one try to write a tag, login, sending and answer in all. Whoever guards a tag by a lease needs it
            well below the lease's time.
        tries: how often a request without a streamed body is sent in all.
    """

    connect: float = 10.0
    read: float = 60.0
    write: float = 60.0
    commit: float = 300.0
    tag: float = 20.0
    tries: int = 4


@dataclass(slots=True)
class Abilities:
    """What one registry can do for one login; None as long as it was not seen either way.

    Attributes:
        heads: it answers HEAD for a manifest, and says the digest; if not, the manifest is read instead.
        mounts: it takes a blob from another of its repositories (``POST ?mount=D&from=OTHER``).
        mounts_in_place: ``POST ?mount=D&from=SAME`` says 201 for a blob that is there and opens an upload for one that
            is not: a question and the beginning of an upload in one request.
        mounts_hold: its 201 to a mount of either kind is believed; False once a manifest showed that it was untrue.
        referrers: it has the referrers API.
    """

    heads: bool | None = None
    mounts: bool | None = None
    mounts_in_place: bool | None = None
    mounts_hold: bool = True
    referrers: bool | None = None


class RequestObserver(Protocol):
    """Is told of requests as they happen. It returns at once, and raises nothing.

    ``registry`` is always the host that the rules name: what is asked of its token server, and of the storage that it
    redirects to, is asked in its service.
    """

    def answered(self, registry: str, method: str, status: int | None, seconds: float) -> None:
        """Hear of a request whose answer began, or did not come.

        Args:
            registry: in whose service it was sent.
            method: GET, HEAD, POST, PUT or DELETE.
            status: the answer's; None when there was none.
            seconds: from the request's start to the head of its answer, so the sending of a body is in it.
        """

    def received(self, registry: str, size: int) -> None:
        """Hear of so many bytes of an answer's body."""

    def sent(self, registry: str, size: int) -> None:
        """Hear of so many bytes of a request's body."""

    def throttled(self, registry: str) -> None:
        """Hear of an answer that asks for fewer requests: 429, or 503 with a ``Retry-After``."""


class Unobserved:
    """The `RequestObserver` where nobody counts."""

    def answered(self, registry: str, method: str, status: int | None, seconds: float) -> None:
        """Pass over it."""

    def received(self, registry: str, size: int) -> None:
        """Pass over it."""

    def sent(self, registry: str, size: int) -> None:
        """Pass over it."""

    def throttled(self, registry: str) -> None:
        """Pass over it."""
