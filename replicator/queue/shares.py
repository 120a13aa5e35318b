"""Shares: the limits of bandwidth and requests apply to the whole installation, so its processes divide them.

Every process that sends reports its waiting bodies and its usage through Redis twice a second, and gets its share of
each limit (``shares`` in ``processes.lua``). The unused part of a share goes to the others within a second or two, to
pushes first.
While Redis is away, shares stay as they are for a few seconds, in which they still add up to the limit. Then each
process takes an equal part, by the number of those it saw last.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from replicator.queue.best_effort import BestEffortRedis
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from replicator.queue.client import Queue

SHARE_SECONDS = 5.0
"""How long a share counts without being renewed."""
FIRST_SHARE = 0.05
"""The share of a process until Redis gives it another."""
_BEAT_SECONDS = 0.5
_HURRY_SECONDS = 0.25
"""Between two beats of a process that waits for others to give way."""
_LONG = 6
"""How many times as long a process waits that has never seen the others: it may not take all that they send by."""
_PAUSE_SECONDS = 0.1
"""Between two beats at least."""
_LONGEST_NAME = 300


class Demand(Protocol):
    """The demand of a process on a limit; see `replicator.registry.rate.Load`."""

    @property
    def active(self) -> bool:
        """Something was sent lately."""

    @property
    def events(self) -> float:
        """Bodies or requests of pushes that waited."""

    @property
    def bulk(self) -> float:
        """The same of backfills."""

    @property
    def used_events(self) -> float:
        """The part of the limit that pushes used."""

    @property
    def used_bulk(self) -> float:
        """The same of backfills."""


class Shared(Protocol):
    """A limit that processes share, e.g. `replicator.registry.rate.Rate`."""

    def load(self) -> Demand:
        """Return the usage since the last call."""

    def set_share(self, fraction: float) -> None:
        """Set what this process may use of it, from 0 to 1."""


class Shares:
    """The shares of one process. Nothing here raises.

    Args:
        queue: over whose processes.
        limits: lists the limits that there are now, each with a name that all processes have for it.
        seconds: how long a share counts without being renewed.
        deadline: seconds that Redis gets for an answer.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        queue: Queue,
        limits: Callable[[], Iterable[tuple[str, Shared]]],
        *,
        seconds: float = SHARE_SECONDS,
        deadline: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._seconds = seconds
        self._clock = clock
        self._process = uuid4().hex[:12]
        self._deadline = deadline
        self._redis = BestEffortRedis(queue, deadline=deadline, trouble="limits not shared")
        self._known: dict[str, int] = {}
        self._pushing: set[str] = set()
        self._short = False
        self._answered = clock()
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Ask for a share now: something begins to send. Any thread may call it."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._woken.set)

    async def run(self) -> None:
        """Renew the shares while anything is sent, until cancelled."""
        while True:
            self._woken.clear()
            busy = await self.beat()
            await asyncio.sleep(_PAUSE_SECONDS)
            seconds = _HURRY_SECONDS if self._short else _BEAT_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds - _PAUSE_SECONDS if busy else None):
                    await self._woken.wait()

    async def beat(self) -> bool:
        """Renew the shares once; return whether anything is sent."""
        limits = [(name[:_LONGEST_NAME], limit, limit.load()) for name, limit in self._limits()]
        busy = {name for name, _, demand in limits if demand.active}
        told = [(name, limit, demand) for name, limit, demand in limits if name in busy or name in self._known]
        if not told:
            self._answered = self._clock()
            return False
        asked = self._clock()
        reply = await self._ask(self._words(told))
        if reply is None or len(reply) != 2 * len(told):
            self._apart(told)
            return True
        self._answered, self._short = asked, False
        for (name, limit, demand), share, processes in zip(told, reply[::2], reply[1::2], strict=True):
            if demand.active:
                self._known[name] = processes
                limit.set_share(share / 1_000_000)
                self._short |= share < 2 * FIRST_SHARE * 1_000_000
            else:
                self._known.pop(name, None)
                limit.set_share(FIRST_SHARE)
        return bool(busy)

    async def aclose(self) -> None:
        """Give the shares up."""
        if self._known:
            words = [word for name in self._known for word in (name, "", "", "", "")]
            await self._ask(words)
        await self._redis.aclose()

    async def _ask(self, words: Iterable[str]) -> list[int] | None:
        """Run the script; None if there is no answer in time."""
        request = self._redis.send("shares", self._process, int(self._seconds * 1000), *words)
        # Not by `answer`, which leaves a slow Redis alone for longer than a share counts.
        done, _ = await asyncio.wait({request}, timeout=self._deadline)
        if not done:
            request.cancel()
            return None
        answer: list[int] | None = request.result()
        return answer

    def _words(self, told: Iterable[tuple[str, Shared, Demand]]) -> list[str]:
        """Return the arguments of the script for each limit."""
        before, self._pushing = self._pushing, {name for name, _, demand in told if demand.events}
        words = []
        for name, _, demand in told:
            # The others give way to pushes that last. A small one is over before they have, and they would have given
            # up for nothing; until then it has all that its own process may use.
            events = demand.events if name in before else 0.0
            numbers = (events, demand.bulk + demand.events - events, demand.used_events, demand.used_bulk)
            words += [name, *(f"{number:.6f}" if demand.active else "" for number in numbers)]
        return words

    def _apart(self, told: Sequence[tuple[str, Shared, Demand]]) -> None:
        """Continue without an answer."""
        silent = self._clock() - self._answered
        for name, limit, _ in told:
            if silent >= (self._seconds if name in self._known else _LONG * self._seconds):
                limit.set_share(1 / max(1, self._known.setdefault(name, 1)))


@contextlib.asynccontextmanager
async def sharing(queue: Queue, limits: Callable[[], Iterable[tuple[str, Shared]]]) -> AsyncIterator[Shares]:
    """Share the limits with the other processes on a queue for as long as the context lasts."""
    shares = Shares(queue, limits)
    task = asyncio.create_task(shares.run())
    try:
        yield shares
    finally:
        await cancel_all({task})
        await shares.aclose()
