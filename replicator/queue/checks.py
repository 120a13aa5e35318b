"""What this installation itself has lately seen to be right at destinations, remembered in the queue's Redis.

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
  step that confirms it also makes void what was seen of the destination until then (``confirm.lua``): no tag is written
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

import time
from typing import TYPE_CHECKING

from replicator.queue.client import BATCH
from replicator.queue.clock import RedisClock
from replicator.queue.destinations import MOST_DESTINATIONS, short_name
from replicator.queue.outbox import Outbox
from replicator.queue.questions import Questions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replicator.queue.client import Queue

_CLOCK_ANSWERS = 5
"""Answers from which the time of Redis is learnt before anything is noted by it."""
_LONGEST_TRUST = 30 * 86400.0
"""Seconds after which everything that is remembered has expired (``generations.lua``)."""


class Checks:
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
        self._questions = Questions(queue, deadline=deadline, trouble="memory unavailable")
        self._outbox: Outbox[tuple[str, float, str]] = Outbox(self._note, pause=pause)

    def saw(self, destination: str, wanted: str, at: float) -> None:
        """Note that a destination held what is wanted; it is told to Redis about a second later, or lost.

        Args:
            destination: a reference.
            wanted: what it held, as a short text; see `replicator.copy.wanted_key`.
            at: when it began to be so, by ``time.time()`` of this machine: after a tag was written, but before a
                destination was asked.
        """
        moment = time.monotonic() - max(0.0, time.time() - at)
        self._outbox.put((short_name(destination), moment, wanted))

    async def holds(self, expected: Sequence[tuple[str, str]], within: float) -> list[bool]:
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
