"""What this installation itself has lately seen to be right at destinations, remembered in the queue's Redis.

A destination has one latest observation: when it was seen to hold what is wanted of an image, and which image and
which wishes that were. Who lists the sources and knows what each of them names *now* can then leave out those whose
destination was seen to hold just that, lately enough, without asking the destination.

- It can't hide a difference of the source: the caller compares with what the source's list says now, and an image
  that was changed is another image. Nor one that was changed back: the image in between made its own observation, or
  was forgotten here before it was written, so the first image's is gone.
- It can hide a change that others made at the destination within the time that is trusted: by hand, by another
  installation, or by a copy that did not go through the queue.

What keeps it true:

- Before a tag is written, what was seen of it is forgotten (`Checks.forget`): a copy that dies between the tag's write
  and its observation leaves nothing to be trusted, and its job is still in the queue.
- What is forgotten stays in place as a note of when. An observation is let in only if it is newer than what is known,
  so one that was made earlier and waited in some process can't come back.
- All times are those of Redis's clock, and those of observations rather too early (`RedisClock`): the clocks of
  the machines do not matter. That an observation comes too early costs a question to the registry, no more.

The hole that remains: Redis does not take the note, the tag is written all the same, the process ends before Redis is
back, and the job is lost too. Until the time that is trusted has passed, what was at the destination before is then
believed to be there still, and that shows only if the source has gone back to it.

Signatures are not looked at: nothing is to be trusted of an image that is wanted with them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from typing import TYPE_CHECKING

from replicator.queue.client import BATCH
from replicator.queue.clock import RedisClock
from replicator.queue.outbox import Outbox
from replicator.queue.questions import Questions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replicator.queue.client import Queue

_LONGEST_TRUST = 30 * 86400.0
"""Seconds after which everything that is remembered has expired (``generations.lua``)."""
_MOST_UNFORGOTTEN = 10_000
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0


class Checks:
    """What was seen at destinations, in the Redis of a queue, which stays open. Nothing here raises.

    Args:
        queue: whose Redis, and whose prefix.
        deadline: seconds that Redis gets for an answer.
        items: how many destinations are remembered in each of two generations; one takes 70 to 90 bytes of Redis.
        pause: seconds that an observation waits for others.
    """

    def __init__(self, queue: Queue, *, deadline: float = 1.0, items: int = 200_000, pause: float = 1.0) -> None:
        self._items = items
        self._clock = RedisClock()
        self._questions = Questions(queue, deadline=deadline, trouble="memory unavailable")
        self._outbox: Outbox[tuple[str, float, str]] = Outbox(self._note, pause=pause)
        self._unforgotten: dict[str, int] = {}
        self._forgets = 0
        self._retrying: asyncio.Task[None] | None = None

    def saw(self, destination: str, wanted: str, at: float) -> None:
        """Note that a destination held what is wanted; it is told to Redis about a second later, or lost.

        Args:
            destination: a reference.
            wanted: what it held, as a short text; see `replicator.copy.wanted_key`.
            at: when it began to be so, by ``time.time()`` of this machine: after a tag was written, but before a
                destination was asked.
        """
        moment = time.monotonic() - max(0.0, time.time() - at)
        self._outbox.put((_item(destination), moment, wanted))

    async def forget(self, destination: str) -> bool:
        """Make void what anyone saw of a destination until now, as it is about to be written.

        Returns:
            Whether Redis has taken it. If not it is told again, in the background, until it does or this process ends;
            of more than 10,000 destinations that wait for that the oldest is given up.
        """
        item = _item(destination)
        self._forgets += 1
        self._unforgotten.pop(item, None)
        self._unforgotten[item] = self._forgets
        if len(self._unforgotten) > _MOST_UNFORGOTTEN:
            del self._unforgotten[next(iter(self._unforgotten))]
        forgotten = False
        try:
            forgotten = await self._forget([item])
        finally:
            if not forgotten and self._retrying is None:
                self._retrying = self._questions.start(self._forget_later())
        return forgotten

    async def holds(self, expected: Sequence[tuple[str, str]], within: float) -> list[bool]:
        """Tell which destinations were seen to hold what is wanted, lately enough; a round trip for 500 of them.

        Args:
            expected: destinations, each with what is wanted there.
            within: seconds that count as lately; 30 days at the most.

        Returns:
            An answer for each; no for all of them when Redis does not answer.
        """
        within_ms = int(min(within, _LONGEST_TRUST) * 1000)
        named = [(_item(destination), wanted) for destination, wanted in expected]
        held: list[bool] = []
        for start in range(0, len(named), BATCH):
            batch = named[start : start + BATCH]
            reply = await self._questions.ask("check_held", within_ms, *(part for pair in batch for part in pair))
            if reply is None or len(reply) != len(batch):
                return [False] * len(named)
            held += [answer == ord("1") for answer in reply]
        return [one and item not in self._unforgotten for one, (item, _) in zip(held, named, strict=True)]

    async def aclose(self) -> None:
        """Tell Redis what it was not told yet, within a few deadlines."""
        await self._outbox.aclose()
        await self._forget_all()
        await self._questions.aclose()

    async def _note(self, batch: Sequence[tuple[str, float, str]]) -> None:
        if self._clock.showed(0.0) is None and not await self._ask("check_note", ()):
            return
        words = [word for item, moment, wanted in batch for word in (item, self._clock.showed(moment) or 0, wanted)]
        await self._ask("check_note", words)

    async def _forget(self, items: Sequence[str]) -> bool:
        told = {item: self._unforgotten.get(item) for item in items}
        if not await self._ask("check_forget", items, insist=True):
            return False
        for item, number in told.items():
            # Not one that has to be forgotten anew by now.
            if self._unforgotten.get(item) == number:
                self._unforgotten.pop(item, None)
        return True

    async def _forget_all(self) -> bool:
        while self._unforgotten:
            if not await self._forget(list(self._unforgotten)[:BATCH]):
                return False
        return True

    async def _forget_later(self) -> None:
        pause = _FIRST_PAUSE
        while self._unforgotten:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            if await self._forget_all():
                break
        self._retrying = None

    async def _ask(self, script: str, words: Iterable[str | int], *, insist: bool = False) -> bool:
        time_ms = await self._questions.ask(script, self._items, *words, insist=insist)
        if time_ms is not None:
            self._clock.heard(time_ms)
        return time_ms is not None


def _item(destination: str) -> str:
    """Give a short name for a destination, so that an item's size has a bound."""
    return base64.urlsafe_b64encode(hashlib.sha256(destination.encode()).digest()[:12]).decode()
