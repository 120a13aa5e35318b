"""Observations of destinations, shared by the processes of an installation through the queue's Redis.

An observation says that a destination held what is wanted, and since when. A backfill that has just listed the sources
leaves out a destination that was observed to hold the same, lately enough, without asking it. Nothing here fails or
waits for Redis beyond a deadline: while Redis is away, slow or refuses, nothing is known. Observations are bounded by
three generations (``memory.lua``). A record of the same kind says which source owns a destination's tag and what was
written there (`TagRecord`); the step that lets a tag be written writes it (``confirm``), so it can't be lost.

An observation can't hide a changed source, because it is compared with the source's current list, and a
changed image is another image; nor one that was changed back, because the observation of the first image was voided
before the image in between was written. What it can do: hide a change that others made at the destination within the
trusted time, by hand or by another installation. So a backfill asks again for one tag of each repository, and where an
observation proves wrong, earlier ones of the whole repository are not trusted any more (`Observations.distrust`).

Rules that keep it true:

- A job writes its tag only after Redis has confirmed its lease, and the step that confirms it also voids what was
  observed of the destination before (``confirm``). A copy that dies between the write and its observation leaves
  nothing that is trusted.
- An observation by another process between that step and the write is accepted. The one after the write is newer; if
  the copy dies before it, its job is still in the queue. A stale observation is trusted only if the job finishes, its
  own observation is lost, and the source has meanwhile been reverted to the old image.
- A void note stays in place with its time. An observation is accepted only if it is newer than what is known, so one
  that waited in some process can't come back.
- All times are Redis's, and those of observations rather too early (`RedisClock`), so the machines' clocks do not
  matter. An observation that is dated too early costs a request to the registry, no more.

Signatures have observations of their own: that a destination held all those that a list of the source had shown of an
image. Nothing voids them but time, so a signature that somebody deletes at the destination is missed until then.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import structlog

from replicator.console import iso
from replicator.queue.best_effort import Batcher, BestEffortRedis
from replicator.queue.client import BATCH
from replicator.queue.job import QueueUnavailable
from replicator.queue.records import TagRecord, moment
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from datetime import datetime

    from replicator.queue.client import Queue
    from replicator.queue.state_directory import Mark

log = structlog.get_logger("replicator.queue")

_BEST_SECONDS = 10.0
"""How long the best answer counts: clocks drift apart, and are set."""


class RedisClock:
    """The clock of Redis, the one that all processes share, as a lower bound: never later than it really was.

    An answer that holds Redis's time was written before it is read. So when it is read, Redis's clock shows that time
    or a later one, and the quickest answer gives the closest bound.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ahead: float | None = None
        self._heard = 0.0

    def heard(self, time_ms: int) -> None:
        """Learn from an answer that was just read, with Redis's time in ms since 1970."""
        now = self._clock()
        ahead = time_ms - now * 1000
        if self._ahead is None or ahead >= self._ahead or now - self._heard > _BEST_SECONDS:
            self._ahead, self._heard = ahead, now

    def showed(self, moment: float) -> int | None:
        """Return Redis's time at a moment of the own clock, in ms since 1970; None before the first answer."""
        return None if self._ahead is None else int(moment * 1000 + self._ahead)


MOST_DESTINATIONS = 500_000
"""How many destinations are remembered in each of three generations; one takes 110 to 150 bytes of Redis."""
_DIGEST = "sha256:"


def short_name(destination: str) -> str:
    """Name a destination (a reference, and the id of its job) in 16 characters, so that an item's size is bounded."""
    return base64.urlsafe_b64encode(hashlib.sha256(destination.encode()).digest()[:12]).decode()


MOST_OWNED = 100_000
"""How many destinations' owners are remembered in each of two generations; one takes 150 to 450 bytes of Redis."""

_CLOCK_ANSWERS = 5
"""Answers from which the time of Redis is learned before the first observation is dated by it."""
_LONGEST_TRUST = 30 * 86400.0
"""Seconds after which every observation has expired (``generations`` in ``memory.lua``)."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The digest observed at a destination, and the time in ms by Redis's clock.

    Attributes:
        wanted: its content, see ``replicator.copy.selection_key``.
        digest: the digest of the source's tag then; empty if it is not known.
        is_void: whether it has been about to be written since.
    """

    time: int
    wanted: str
    digest: str = ""
    is_void: bool = False

    @classmethod
    def read(cls, text: bytes) -> Observed | None:
        """Read the record; None where nothing is certain."""
        time_ms, _, held = text.decode(errors="replace").partition(" ")
        if is_void := held.startswith("!"):
            time_ms, _, held = held[1:].partition(" ")
        wanted, _, digest = held.partition(" ")
        return cls(int(time_ms), wanted, _long(digest), is_void) if wanted and time_ms.isdecimal() else None


def short_digest(digest: str) -> str:
    """Return a digest in 43 characters; nothing for one of another algorithm than SHA-256."""
    if not digest.startswith(_DIGEST):
        return ""
    return base64.urlsafe_b64encode(bytes.fromhex(digest.removeprefix(_DIGEST))).decode().rstrip("=")


def _long(short: str) -> str:
    try:
        content = base64.urlsafe_b64decode(f"{short}=")
    except ValueError:
        return ""
    return f"{_DIGEST}{content.hex()}" if len(content) == hashlib.sha256().digest_size else ""


def short_repository(repository: str) -> str:
    """Name a repository in 16 characters."""
    # No destination's name ends so.
    return short_name(f"{repository}/")


def repository_of(destination: str) -> str:
    """Return the repository of a reference, or of what signatures are observed of."""
    path, slash, name = destination.rpartition("/")
    return f"{path}{slash}{re.split('[:@]', name, maxsplit=1)[0]}"


class Observations:
    """Observations of destinations in the Redis of a queue, which stays open. Nothing here raises.

    Args:
        queue: whose Redis, and whose prefix.
        deadline: seconds that Redis gets for an answer.
        items: how many destinations are remembered in each of three generations.
        pause: seconds that an observation waits for others before it is sent.
    """

    def __init__(
        self, queue: Queue, *, deadline: float = 1.0, items: int = MOST_DESTINATIONS, pause: float = 1.0
    ) -> None:
        self._items = items
        self._clock = RedisClock()
        self._redis = BestEffortRedis(queue, deadline=deadline, trouble="memory unavailable")
        self._batcher: Batcher[tuple[str, float, str, str, str]] = Batcher(self._note, pause=pause)

    def record(self, destination: str, wanted: str, at: float, source: str = "", digest: str = "") -> None:
        """Record that a destination held what is wanted; it is sent about a second later, or lost.

        Args:
            destination: a reference.
            wanted: its content, as a short text; see ``replicator.copy.selection_key``.
            at: since when it is certain, by ``time.time()`` of this machine: a moment after the tag was written, or
                before the destination was asked.
            source: the reference that owns the destination's tag, if none is known to; empty to say nothing of that.
            digest: the digest of the source's tag; empty to keep none.
        """
        moment = time.monotonic() - max(0.0, time.time() - at)
        held = f"{wanted} {short}" if (short := short_digest(digest)) else wanted
        self._batcher.put((short_name(destination), moment, held, destination if source else "", source))

    async def owned(self, destinations: Sequence[str]) -> list[TagRecord] | None:
        """Return what is remembered of destinations' tags, by `TagRecord`; None when Redis does not answer."""
        found: list[TagRecord] = []
        for start in range(0, len(destinations), BATCH):
            reply = await self._redis.ask("owned_recall", *destinations[start : start + BATCH])
            if reply is None:
                return None
            found += [TagRecord.parse(text.decode(errors="replace")) for text in reply]
        return found

    async def confirmed(self, expected: Sequence[tuple[str, str]], within: float) -> list[bool]:
        """Tell which destinations were lately observed to hold what is wanted; a round trip for 500 of them.

        Args:
            expected: destinations, each with what is wanted there.
            within: seconds that count as lately; at most 30 days.

        Returns:
            An answer for each; False for all of them when Redis does not answer.
        """
        within_ms = int(min(within, _LONGEST_TRUST) * 1000)
        repositories = {each: short_repository(repository_of(each)) for each, _ in expected}
        named = [(short_name(each), wanted, repositories[each]) for each, wanted in expected]
        held: list[bool] = []
        for start in range(0, len(named), BATCH):
            batch = named[start : start + BATCH]
            triples = (part for triple in batch for part in triple)
            reply = await self._redis.ask("observations_confirmed", within_ms, *triples)
            if reply is None or len(reply) != len(batch):
                return [False] * len(named)
            held += [answer == ord("1") for answer in reply]
        return held

    async def recall(self, destinations: Sequence[str]) -> list[Observed | None]:
        """Return what each destination was last observed to hold, also where that is void since a write began.

        Returns:
            None for one of which nothing is certain, and for all when Redis does not answer.
        """
        found: list[Observed | None] = []
        for start in range(0, len(destinations), BATCH):
            batch = destinations[start : start + BATCH]
            reply = await self._redis.ask("observations_show", *map(short_name, batch)) or [b""] * len(batch)
            found += [Observed.read(text) for text in reply]
        return found

    async def distrust(self, repository: str, disproved: Observed | None = None) -> bool:
        """Trust no earlier observation of a repository's tags, as one of them was disproved.

        Returns:
            Whether it was trusted until now; of an observation that was not, nothing follows.
        """
        since = disproved.time if disproved is not None else ""
        return bool(await self._redis.ask("observations_void", self._items, short_repository(repository), since))

    async def void(self, destination: str) -> bool:
        """Forget what a destination held, right before it is written outside the queue; return whether Redis did."""
        return await self._redis.ask("observations_void", self._items, short_name(destination), "") is not None

    async def noted(self, destination: str, within: float) -> bool:
        """Tell whether a destination was seen, or about to be written, in the last seconds; True if Redis is away."""
        return bool(await self._redis.ask("observations_noted", int(within * 1000), short_name(destination)) != 0)

    async def aclose(self) -> None:
        """Send the rest, within a few deadlines."""
        await self._batcher.aclose()
        await self._redis.aclose()

    async def _note(self, batch: Sequence[tuple[str, float, str, str, str]]) -> None:
        if self._clock.showed(0.0) is None:
            # The quickest of several answers gives the closest bound. The first one alone is slow, as the script is
            # loaded for it, and would date the observation before the void note of its own copy.
            for _ in range(_CLOCK_ANSWERS):
                if not await self._send(()):
                    return
        words = [
            word
            for item, moment, wanted, id_, source in batch
            for word in (item, self._clock.showed(moment) or 0, wanted, id_, source)
        ]
        await self._send(words)

    async def _send(self, words: Iterable[str | int]) -> bool:
        time_ms = await self._redis.ask("observations_record", self._items, *words)
        if time_ms is not None:
            self._clock.heard(time_ms)
        return time_ms is not None


_LOOK_SECONDS = 5.0


@contextlib.asynccontextmanager
async def watch_for_older_state(queue: Queue, mark: Mark | None = None) -> AsyncIterator[None]:
    """Notice that Redis was put back to an older state, now and while the context lasts.

    A backup that is restored has forgotten events that were acknowledged since, and so has a server that lost its last
    writes. Then a reconcile is due at once, and observations of destinations are forgotten.

    Args:
        queue: its counter of enqueues is compared with the highest value that this process has seen.
        mark: the highest value that earlier processes have seen, for the embedded queue.
    """
    known = 0

    async def look() -> None:
        nonlocal known
        marked = mark.read() if mark is not None else 0
        try:
            number, older = await queue.ask("look_back", max(known, marked or 0), "1" if marked is None else "")
        except QueueUnavailable:
            return
        if older:
            log.warning(
                "queue put back to an older state",
                reason="queue.mark is missing or a copy" if marked is None else "it contains fewer enqueues",
                known=max(known, marked or 0),
                next="a reconcile compares everything, if one is scheduled",
            )
        known = number
        if mark is not None and number != marked:
            mark.write(number)

    async def watch() -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await look()

    await look()
    watching = asyncio.create_task(watch(), name="older state")
    try:
        yield
    finally:
        await cancel_all({watching})
        if mark is not None:
            await look()


CLOCK_SHOWN_SECONDS = 86_400.0
"""For so long it is shown that Redis's clock was set back."""


@dataclass(frozen=True, slots=True)
class ClockSetBack:
    """A step of Redis's clock into the past. Times ahead in the queue were moved forward by the same amount.

    Attributes:
        at: when it was noticed, by the clock as it is since then (UTC).
        seconds: by how much.
    """

    at: datetime
    seconds: float

    @classmethod
    def read(cls, now_ms: float, at: bytes | None, by: bytes | None) -> Self | None:
        """Read what Redis has of the last step; None if there was none lately.

        Args:
            now_ms: Redis's time in ms.
            at: the field ``back`` of its hash ``clock``.
            by: the field ``by`` of it.
        """
        if at is None or by is None or not 0 <= now_ms - float(at) <= CLOCK_SHOWN_SECONDS * 1000:
            return None
        return cls(moment(float(at)), float(by) / 1000)

    @property
    def sentence(self) -> str:
        """The step for a person."""
        step = f"the clock of Redis was set back by {self.seconds:.0f} s at {iso(self.at)}"
        return f"{step}; waiting copies were moved forward by the same time"
