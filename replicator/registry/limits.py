"""Limits of one host: its budget of requests, pauses it asks for, deadlines, and what it is known to support."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.registry.places import Budget
from replicator.retry import MAX_PAUSE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_SHRINK_SECONDS = 1.0
"""Seconds between two cuts of the budget: requests in flight together get the same 429 together."""


class HostLimits(Budget):
    """The budget of one host, shared by all its clients, for tags, manifests and blobs alike.

    It halves when the host answers that it is overloaded, and grows by one for every budget's worth of answers, as
    TCP's congestion window does. A transfer holds a place at both its ends: see `replicator.registry.places.transfer`.

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
