"""The knowledge about registries that the processes of an installation share through the queue's Redis.

All of it only saves requests to registries. So nothing here fails or waits for Redis beyond a deadline: while Redis is
away, slow or refuses, nothing is known, and what was to be remembered is lost. Each memory is bounded, by two
generations (``memory.lua``) but for the logins.

- **Selections** (`RedisSelectionStore`): what a selection leaves of an image. The value of a key never changes.
- **Surveys** (`RedisSurveyStore`): which repositories of a destination's registry were read for blobs to mount from
  them. The found blobs are in the blob locks. A wrong entry here costs a few requests, or an upload.
- **Refused kinds** (`RedisRefusedStore`): the kinds that a namespace of a destination refused or took, the artifacts
  that were skipped for that, and when. For a week no artifact of a refused kind is sent there, and it is not asked
  again. The editions of ACR that token challenges have shown are here too.
- **Asked** (`PublicCopies`): when it was last found out whether a private source is public at its destination; and a
  list of those that are, which is shown and saves no requests.
- **Logins** (`RedisLogins`): which logins were refused.

What was observed at destinations is in :mod:`replicator.queue.observations`.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from replicator.queue.best_effort import Batcher, BestEffortRedis
from replicator.queue.client import BATCH
from replicator.queue.records import EPOCH, Moment, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replicator.queue.client import Queue

log = structlog.get_logger("replicator.queue")

_SELECTIONS, _SURVEYS, _REFUSED = "forms", "surveys", "refused"
"""In the names of keys, where older processes look for them."""


class RedisSelectionStore:
    """The ``replicator.copy.selection.SelectionStore`` in the Redis of a queue, which stays open.

    Args:
        queue: whose Redis, and whose prefix.
        deadline: seconds that Redis gets for an answer.
        items: how many are remembered in each of two generations; one takes 40 to 200 bytes of Redis, more if the
            text holds a digest.
        name: in the names of its keys.
    """

    def __init__(self, queue: Queue, *, deadline: float = 1.0, items: int = 100_000, name: str = _SELECTIONS) -> None:
        self._name = name
        self._items = items
        self._redis = BestEffortRedis(queue, deadline=deadline, trouble="memory unavailable")
        self._batcher: Batcher[tuple[str, str]] = Batcher(self._remember)

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        """Return the text under each name, a round trip for 500 of them; None for one that is unknown."""
        known: list[str | None] = []
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            reply = await self._redis.ask("recall", self._name, self._items, *batch) or [None] * len(batch)
            known += [None if text is None else text.decode(errors="replace") for text in reply]
        return known

    def note(self, name: str, text: str) -> None:
        """Remember a text; the other processes see it about a second later."""
        self._batcher.put((name, text))

    async def aclose(self) -> None:
        """Send what was noted."""
        await self._batcher.aclose()
        await self._redis.aclose()

    async def _remember(self, batch: Sequence[tuple[str, str]]) -> None:
        await self._redis.ask("remember", self._name, self._items, *(part for pair in batch for part in pair))


class RedisSurveyStore(RedisSelectionStore):
    """The repositories that were read for blobs to mount, in the same form: when, and how far."""

    def __init__(self, queue: Queue, *, deadline: float = 1.0, items: int = 20_000) -> None:
        super().__init__(queue, deadline=deadline, items=items, name=_SURVEYS)


class RedisRefusedStore(RedisSelectionStore):
    """The kinds of manifests that destinations refuse, and the artifacts skipped for that; both with the time."""

    def __init__(self, queue: Queue, *, deadline: float = 1.0, items: int = 20_000) -> None:
        super().__init__(queue, deadline=deadline, items=items, name=_REFUSED)


@dataclass(frozen=True, slots=True)
class PublicCopy:
    """An image that is private at its source, and that anyone may pull at its destination.

    Attributes:
        source: its reference there.
        destination: its reference there.
        since: when that was noticed first (UTC).
    """

    source: str
    destination: str
    since: Moment = EPOCH


class PublicAnswer(StrEnum):
    """The result of a check whether a private image is public at its destination."""

    FINE = "fine"
    """It is not public at the destination, or at the source too."""
    PUBLIC = "public"
    """It is private at the source and public at the destination."""
    UNKNOWN = "unknown"
    """One of the ends gave no clear answer."""
    LEFT = "left"
    """It needs no check: the rules allow it, or no longer name it."""
    ASKING = "asking"
    """Another process is checking it, or was killed while it did."""


ASKED_SECONDS = {
    PublicAnswer.FINE: 7 * 86_400.0,
    PublicAnswer.PUBLIC: 86_400.0,
    PublicAnswer.UNKNOWN: 3600.0,
    PublicAnswer.LEFT: 0.0,
    PublicAnswer.ASKING: 120.0,
}
"""Seconds for which an answer is valid, before both registries are asked again."""
MAX_ASKED = 20_000
"""Pairs of repositories with a remembered answer, in each of two generations."""
MOST_PUBLIC = 1000
"""Public copies that are listed."""


class PublicCopies:
    """The record of looks at pairs of repositories in the Redis of a queue, which stays open. Nothing here raises.

    Args:
        queue: whose Redis, and whose prefix.
        deadline: seconds that Redis gets for an answer.
    """

    def __init__(self, queue: Queue, *, deadline: float = 1.0) -> None:
        self._redis = BestEffortRedis(queue, deadline=deadline, trouble="public copies not recorded")
        self._ages = [part for answer, age in ASKED_SECONDS.items() for part in (answer.value, int(age * 1000))]

    async def begin(self, pair: str) -> PublicAnswer | None:
        """Take the turn to look at a pair of repositories, given its short name.

        Returns:
            The answer that still counts; None to look now. Without Redis it is `PublicAnswer.UNKNOWN`.
        """
        reply = await self._redis.ask("public_begin", MAX_ASKED, pair, *self._ages)
        return PublicAnswer.UNKNOWN if reply is None else PublicAnswer(reply.decode()) if reply else None

    async def answer(self, pair: str) -> PublicAnswer | None:
        """Return the answer for a pair of repositories that still counts; None without one."""
        reply = await self._redis.ask("public_answer", pair, *self._ages)
        return PublicAnswer(reply.decode()) if reply else None

    async def end(self, pair: str, answer: PublicAnswer, copy: PublicCopy) -> bool:
        """Keep what a look has found out; tell whether it is a public copy that was not listed before."""
        records = {PublicAnswer.PUBLIC: encode(copy, without={"since"}).decode(), PublicAnswer.UNKNOWN: "-"}
        arguments = (MAX_ASKED, pair, answer.value, MOST_PUBLIC, records.get(answer, ""))
        return bool(await self._redis.ask("public_end", *arguments))

    async def listed(self) -> list[PublicCopy]:
        """Return the public copies; none if Redis does not answer."""
        return _public_copies(await self._redis.ask("public_show") or [])

    async def aclose(self) -> None:
        """Cancel what still runs."""
        await self._redis.aclose()


async def list_public_copies(queue: Queue) -> list[PublicCopy]:
    """List the images that are private at their source and public at their destination, the oldest first.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    return _public_copies(await queue.ask("public_show"))


def _public_copies(records: Iterable[bytes]) -> list[PublicCopy]:
    copies = []
    for record in records:
        with contextlib.suppress(ValueError):  # a damaged one must not hide the others
            copies.append(decode(PublicCopy, record))
    return sorted(copies, key=lambda copy: (copy.since, copy.destination))


class RedisLogins:
    """The ``replicator.registry.ladder.LoginStore`` in the Redis of a queue, which stays open. Nothing here raises.

    While Redis is away, each process uses the records that it read last.

    Args:
        queue: whose Redis, and whose prefix.
        deadline: seconds that Redis gets for an answer.
    """

    def __init__(self, queue: Queue, *, deadline: float = 1.0) -> None:
        self._redis = BestEffortRedis(queue, deadline=deadline, trouble="refused logins not shared")
        self._known: dict[str, str] = {}

    async def swap(self, name: str, before: str, after: str, resume: str = "") -> tuple[float, str, bool]:
        """Replace a text, if it is still the one that was read.

        Args:
            name: of the record.
            before: the text that was read; empty for none.
            after: the new text; empty to read only.
            resume: the key (`replicator.errors.Wait`) whose jobs go on if it is replaced; empty for none.

        Returns:
            The time, the text that is there now, and whether it was replaced.
        """
        reply = await self._redis.ask("login_swap", name, before, after, resume)
        if reply is not None:
            time_ms, text, replaced = reply
            self._known[name] = text.decode(errors="replace")
            return time_ms / 1000, self._known[name], bool(replaced)
        replaced = bool(after) and self._known.get(name, "") == before
        if replaced:
            self._known[name] = after
        return time.time(), self._known.get(name, ""), replaced

    async def aclose(self) -> None:
        """Cancel what still runs."""
        await self._redis.aclose()
