"""Texts that the processes of an installation remember for each other: what never changes, and can be found anew.

It fits ``replicator.copy.memory.Memory``. All of it only spares work. So nothing here fails or waits for Redis: when
Redis is away, slow or refuses, nothing is known, and what was to be remembered is lost.

Redis's clock, as far as this process knows it: the one clock that all processes of an installation share.

How the queue's Redis names the destinations of which it remembers what was seen.

What this installation itself has lately seen to be right at destinations, remembered in the queue's Redis.

A destination has one latest observation: when it was seen to hold what is wanted of an image, and which image and
which wishes that were. Who lists the sources and knows what each of them names *now* can then leave out those whose
destination was seen to hold just that, lately enough, without asking the destination.

- It can't hide a difference of the source: the caller compares with what the source's list says now, and an image
  that was changed is another image. Nor one that was changed back: what was seen of the first image was made void
  before the image in between was written.
- It can hide a change that others made at the destination within the time that is trusted: by hand, by another
  installation, or by a copy that did not go through the queue, as that of ``replicator copy``.

What keeps it true:

- A job of the queue has its destination for its id, and writes the tag only after Redis has confirmed its lease. The
  step that confirms it also makes void what was seen of the destination until then (``confirm``): no tag is written
  without it. A copy that dies between the tag's write and its observation leaves nothing to be trusted.
- What another process sees between that step and the write is let in. The observation that follows the write is newer;
  if the copy dies before it, its job is still in the queue. Only if the job gets done and Redis does not hear of that
  observation is the one before the write trusted, and that shows only if the source has gone back to it.
- What is void stays in place as a note of when. An observation is let in only if it is newer than what is known, so
  one that was made earlier and waited in some process can't come back.
- All times are those of Redis's clock, and those of observations rather too early (`RedisClock`): the clocks of
  the machines do not matter. That an observation comes too early costs a question to the registry, no more.

Signatures are not looked at: nothing is to be trusted of an image that is wanted with them.
"""

from __future__ import annotations

import base64
import hashlib
import time
from typing import TYPE_CHECKING

from replicator.queue.best_effort import Batcher, BestEffortRedis
from replicator.queue.client import BATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from replicator.queue.client import Queue

_NAME = "forms"


class RedisSelectionStore:
    """What is wanted of images, remembered in the Redis of a queue, which stays open.

    Args:
        queue: whose Redis, and whose prefix.
        deadline: seconds that Redis gets for an answer.
        items: how many are remembered in each of two generations; one takes 40 to 200 bytes of Redis, the more if
            the text holds a digest.
    """

    def __init__(self, queue: Queue, *, deadline: float = 1.0, items: int = 100_000) -> None:
        self._items = items
        self._questions = BestEffortRedis(queue, deadline=deadline, trouble="memory unavailable")
        self._outbox: Batcher[tuple[str, str]] = Batcher(self._remember)

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        """Return what is remembered under some names, a round trip for 500 of them; None where that is nothing."""
        known: list[str | None] = []
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            reply = await self._questions.ask("recall", _NAME, self._items, *batch) or [None] * len(batch)
            known += [None if text is None else text.decode(errors="replace") for text in reply]
        return known

    def note(self, name: str, text: str) -> None:
        """Remember a text; the others hear of it a second later."""
        self._outbox.put((name, text))

    async def aclose(self) -> None:
        """Have the others hear of what was noted."""
        await self._outbox.aclose()
        await self._questions.aclose()

    async def _remember(self, batch: Sequence[tuple[str, str]]) -> None:
        await self._questions.ask("remember", _NAME, self._items, *(part for pair in batch for part in pair))


_BELIEVED_SECONDS = 10.0


class RedisClock:
    """Tells what Redis's clock showed at a moment, and never a later time than it showed then.

    An answer that holds Redis's time was written before it is read: so when it is read Redis's clock shows that time
    or a later one, by no more than the answer was under way. The best of what was heard in ten seconds counts; clocks
    drift apart, and are set.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ahead: float | None = None
        self._heard = 0.0

    def heard(self, time_ms: int) -> None:
        """Learn from an answer of this moment, in which Redis told its time: ms since 1970."""
        now = self._clock()
        ahead = time_ms - now * 1000
        if self._ahead is None or ahead >= self._ahead or now - self._heard > _BELIEVED_SECONDS:
            self._ahead, self._heard = ahead, now

    def showed(self, moment: float) -> int | None:
        """Return what Redis's clock showed at a moment of the own clock, in ms since 1970; None if nothing was heard.

        What a process notes of the past is then never taken for something later than it was.
        """
        return None if self._ahead is None else int(moment * 1000 + self._ahead)


MOST_DESTINATIONS = 200_000
"""How many destinations are remembered in each of two generations (``generations``); one takes 70 to 90 bytes."""


def short_name(destination: str) -> str:
    """Name a destination, a reference and the id of its job, in 16 characters, so that an item's size has a bound."""
    return base64.urlsafe_b64encode(hashlib.sha256(destination.encode()).digest()[:12]).decode()


_CLOCK_ANSWERS = 5
"""Answers from which the time of Redis is learnt before anything is noted by it."""
_LONGEST_TRUST = 30 * 86400.0
"""Seconds after which everything that is remembered has expired (``generations``)."""


class Observations:
    """What was seen at destinations, in the Redis of a queue, which stays open. Nothing here raises.

    Args:
        queue: whose Redis, and whose prefix.
        deadline: seconds that Redis gets for an answer.
        items: how many destinations are remembered in each of two generations.
        pause: seconds that an observation waits for others.
    """

    def __init__(
        self, queue: Queue, *, deadline: float = 1.0, items: int = MOST_DESTINATIONS, pause: float = 1.0
    ) -> None:
        self._items = items
        self._clock = RedisClock()
        self._questions = BestEffortRedis(queue, deadline=deadline, trouble="memory unavailable")
        self._outbox: Batcher[tuple[str, float, str]] = Batcher(self._note, pause=pause)

    def record(self, destination: str, wanted: str, at: float) -> None:
        """Note that a destination held what is wanted; it is told to Redis about a second later, or lost.

        Args:
            destination: a reference.
            wanted: what it held, as a short text; see `replicator.copy.wanted_key`.
            at: when it began to be so, by ``time.time()`` of this machine: after a tag was written, but before a
                destination was asked.
        """
        moment = time.monotonic() - max(0.0, time.time() - at)
        self._outbox.put((short_name(destination), moment, wanted))

    async def confirmed(self, expected: Sequence[tuple[str, str]], within: float) -> list[bool]:
        """Tell which destinations were seen to hold what is wanted, lately enough; a round trip for 500 of them.

        Args:
            expected: destinations, each with what is wanted there.
            within: seconds that count as lately; 30 days at the most.

        Returns:
            An answer for each; no for all of them when Redis does not answer.
        """
        within_ms = int(min(within, _LONGEST_TRUST) * 1000)
        named = [(short_name(destination), wanted) for destination, wanted in expected]
        held: list[bool] = []
        for start in range(0, len(named), BATCH):
            batch = named[start : start + BATCH]
            reply = await self._questions.ask("check_held", within_ms, *(part for pair in batch for part in pair))
            if reply is None or len(reply) != len(batch):
                return [False] * len(named)
            held += [answer == ord("1") for answer in reply]
        return held

    async def aclose(self) -> None:
        """Tell Redis what it was not told yet, within a few deadlines."""
        await self._outbox.aclose()
        await self._questions.aclose()

    async def _note(self, batch: Sequence[tuple[str, float, str]]) -> None:
        if self._clock.showed(0.0) is None:
            # The quickest of several answers tells Redis's time best; the first one waits for the script to be loaded,
            # and what is placed too early counts as void.
            for _ in range(_CLOCK_ANSWERS):
                if not await self._told(()):
                    return
        words = [word for item, moment, wanted in batch for word in (item, self._clock.showed(moment) or 0, wanted)]
        await self._told(words)

    async def _told(self, words: Iterable[str | int]) -> bool:
        time_ms = await self._questions.ask("check_note", self._items, *words)
        if time_ms is not None:
            self._clock.heard(time_ms)
        return time_ms is not None
