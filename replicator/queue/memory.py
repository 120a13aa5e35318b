"""Texts that the processes of an installation remember for each other: what never changes, and can be found anew.

It fits ``replicator.copy.memory.Memory``. All of it only spares work. So nothing here fails or waits for Redis: when
Redis is away, slow or refuses, nothing is known, and what was to be remembered is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.queue.client import BATCH
from replicator.queue.outbox import Outbox
from replicator.queue.questions import Questions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.queue.client import Queue

_NAME = "forms"


class RedisMemory:
    """What is wanted of images, remembered in the Redis of a queue, which stays open.

    Args:
        queue: whose Redis, and whose prefix.
        deadline: seconds that Redis gets for an answer.
        items: how many are remembered in each of two generations; one takes 40 to 200 bytes of Redis, the more if
            the text holds a digest.
    """

    def __init__(self, queue: Queue, *, deadline: float = 1.0, items: int = 100_000) -> None:
        self._items = items
        self._questions = Questions(queue, deadline=deadline, trouble="memory unavailable")
        self._outbox: Outbox[tuple[str, str]] = Outbox(self._remember)

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
