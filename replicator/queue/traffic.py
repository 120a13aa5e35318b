"""Traffic: the last event of each project, and lags and results of copies over two days.

All ``serve`` processes on one queue note the events that they receive, a second later and in batches, so that the
webhook's answer waits for nothing. Redis keeps the projects that were heard last, by Redis's clock. Lags and results
are noted by the step that ends a job (``chronicle``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from replicator.console import printable
from replicator.queue.best_effort import Batcher
from replicator.queue.client import FAULTS
from replicator.queue.job import QueueUnavailable
from replicator.queue.records import Moment, decode, dump_json, moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from replicator.queue.client import Queue

log = structlog.get_logger("replicator.queue")

MOST_HEARD = 500
"""Projects whose last event is known (``heard``)."""
MOST_LOST = 20
"""Repositories that are named of those in which a sweep found what no event had announced (``sweep_keep``)."""
LAG_SPAN = timedelta(minutes=15)
"""The length of one :class:`LagSpan`."""
RATE_SPAN = timedelta(hours=1)
"""The length of one :class:`RateSpan`."""
MOST_RATES = 1000
"""Numbers of results by hour that are kept (``chronicle``)."""
_MOST_CHARACTERS = 255
_DEADLINE = 2.0


@dataclass(frozen=True, slots=True)
class HeardProject:
    """The last event of a project.

    Attributes:
        host: the Harbor, as the rules name it; empty if the event did not say, and no rule decides.
        project: its name there.
        at: when the event was received, by Redis's clock (UTC).
        number: the project's id at its Harbor; None if its events do not say.
    """

    host: str
    project: str
    at: datetime
    number: int | None = None


class Arrivals:
    """Notes the events of a process.

    Args:
        queue: in whose Redis they are kept.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._batcher = Batcher[tuple[str, float, int | None]](self._send)

    def note(self, host: str, project: str, number: int | None = None) -> None:
        """Note an event that was received now; `HeardProject` explains the arguments."""
        name = "/".join(printable(part)[:_MOST_CHARACTERS] for part in (host, project))
        self._batcher.put((name, time.monotonic(), number))

    async def aclose(self) -> None:
        """Send what is noted, within a deadline."""
        await self._batcher.aclose()

    async def _send(self, heard: Sequence[tuple[str, float, int | None]]) -> None:
        newest: dict[str, tuple[float, int | None]] = {}
        for name, at, number in heard:
            newest[name] = at, newest.get(name, (at, None))[1] if number is None else number
        now, arguments = time.monotonic(), list[str | int]()
        for name, (at, number) in newest.items():
            arguments += [name, int((now - at) * 1000), "" if number is None else number]
        try:
            async with asyncio.timeout(_DEADLINE):
                await self._queue.run_script("heard", *arguments)
        except FAULTS as error:
            log.debug("events not noted", error=error)


@contextlib.asynccontextmanager
async def hearing(queue: Queue) -> AsyncIterator[Arrivals]:
    """Note events for as long as the context lasts."""
    arrivals = Arrivals(queue)
    try:
        yield arrivals
    finally:
        await arrivals.aclose()


async def list_heard(queue: Queue) -> list[HeardProject]:
    """List the projects that were heard, the last one first.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    now, fields = await queue.ask("heard_show")
    found = []
    for name, text in zip(fields[::2], fields[1::2], strict=True):
        host, _, project = name.decode(errors="replace").partition("/")
        at, _, number = text.decode(errors="replace").partition(" ")
        # Another version may have another form.
        with contextlib.suppress(ValueError):
            # A time in the future was noted before the clock was set back.
            found.append(HeardProject(host, project, moment(min(float(at), now)), int(number) if number else None))
    return sorted(found, key=lambda each: each.at, reverse=True)


@dataclass(frozen=True, slots=True)
class LostEvents:
    """Tags of a repository that a sweep queued because no event had announced them.

    Attributes:
        at: when (UTC).
        repository: the source.
        copies: how many copies were queued.
    """

    at: datetime
    repository: str
    copies: int


def read_lost(reply: list[bytes]) -> list[LostEvents]:
    """Read the list of ``sweep_show``; what has another form is left out."""
    found = []
    for text in reply:
        at, _, rest = text.decode(errors="replace").partition(" ")
        copies, _, repository = rest.partition(" ")
        with contextlib.suppress(ValueError):
            found.append(LostEvents(moment(float(at)), repository, int(copies)))
    return found


@dataclass(frozen=True, slots=True)
class LagSpan:
    """How long the pushes waited that arrived within one quarter of an hour.

    Attributes:
        start: when it began (UTC).
        number: how many copies for events arrived.
        mean: seconds from the push to its arrival on average. Where the time of a push is unknown, those of the last
            attempt count.
        longest: the most of them.
    """

    start: datetime
    number: int
    mean: float
    longest: float


@dataclass(frozen=True, slots=True)
class RateSpan:
    """How many jobs ended within one hour.

    Attributes:
        start: when it began (UTC).
        results: their numbers by result, in the words of `Ended.result`. Jobs that the history leaves out are not
            counted: what a backfill found up to date.
    """

    start: datetime
    results: Mapping[str, int]


def read_lags(reply: list[bytes]) -> Iterable[LagSpan]:
    """Read the hash of lags, in any order; what has another form is left out."""
    for name, text in zip(reply[::2], reply[1::2], strict=True):
        try:
            number, total, longest = (int(part) for part in text.split())
            start = moment(int(name) * LAG_SPAN.total_seconds() * 1000)
            yield LagSpan(start, number, total / number / 1000, longest / 1000)
        except (ValueError, ArithmeticError):
            continue


def read_rates(reply: list[bytes]) -> list[RateSpan]:
    """Read the answer of ``history``, the oldest first; what has another form is left out."""
    hours: dict[datetime, dict[str, int]] = {}
    for name, number in zip(reply[::2], reply[1::2], strict=True):
        hour, _, result = name.decode(errors="replace").partition(" ")
        with contextlib.suppress(ValueError):
            start = moment(int(hour) * RATE_SPAN.total_seconds() * 1000)
            hours.setdefault(start, {})[result] = int(number)
    return [RateSpan(start, hours[start]) for start in sorted(hours)]


@dataclass(frozen=True, slots=True)
class LostImages:
    """Images that a backfill or reconcile found missing at their destination although they had been in place.

    Attributes:
        at: when it ended (UTC).
        images: how many.
        examples: the first of these destinations.
    """

    at: Moment
    images: int
    examples: tuple[str, ...]

    @classmethod
    async def read(cls, queue: Queue) -> LostImages | None:
        """Read the record of the last run that found any, within a month; None without one.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        record = await queue.ask("lost_show")
        return decode(cls, record) if record else None


async def note_lost(queue: Queue, images: int, examples: Sequence[str]) -> None:
    """Note such images, so that people are told. While Redis is away, they are only in the report of the run."""
    with contextlib.suppress(QueueUnavailable):
        await queue.ask("lost_note", images, dump_json(list(examples)))
