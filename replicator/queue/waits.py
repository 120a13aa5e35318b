"""Keys that jobs wait for, hosts that do not answer and logins that are refused: one process reports, all know.

A job whose error names a key (`replicator.errors.Wait`) goes back into the queue without a lease, a slot or an attempt,
and so does every other job that needs the key, before it is started: a string in its content begins with the key and a
slash. One job at a time is started as a probe. When the key is back, all of them are where they were in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from replicator.queue.client import FAULTS, Queue
from replicator.queue.job import Lane, QueueUnavailable, describe_key, login_of
from replicator.queue.records import moment
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from replicator.errors import ErrorClass
    from replicator.queue.attempt import Ending

Answered: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterable[str]]
"""Takes the payload and the outcome of an attempt that went well; returns the keys that certainly answered to it."""

log = structlog.get_logger("replicator.queue")

_POLL_SECONDS = 2.0
_RETRY_SECONDS = 0.5
_MAX_HASTENED = 5000
_SURE_SECONDS = 10.0
"""Seconds of silence that are worth a word to people, even if it may be no more than a slow answer."""


@dataclass(frozen=True, slots=True)
class KeySilence:
    """A key that does not answer.

    Attributes:
        key: e.g. a host.
        since: when it fell silent (UTC).
        seconds: for how long it has been silent.
        why: how it shows, for a person; may be empty.
        jobs: how many jobs wait for it, by lane.
    """

    key: str
    since: datetime
    seconds: float
    why: str
    jobs: Mapping[Lane, int]

    @property
    def total(self) -> int:
        """How many jobs wait for it in all."""
        return sum(self.jobs.values())

    @property
    def registry(self) -> str:
        """The registry that it is, or to which the login belongs."""
        login = login_of(self.key)
        return self.key if login is None else login[0]

    @property
    def sentence(self) -> str:
        """The silence in words, for a page, a terminal and a message."""
        total = self.total
        copies = f"{total:,} cop{'y waits' if total == 1 else 'ies wait'} for it"
        what = describe_key(self.key, "registry {} has not answered")
        return f"{what} since {self.since:%Y-%m-%d %H:%M} UTC; {copies}"


async def list_waits(queue: Queue) -> list[KeySilence]:
    """List the keys that have not answered for a while, the longest silence first.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    found = []
    now, *waits = await queue.ask("wait_list")
    for key, since, why, is_open, *counts in waits:
        seconds = max(0.0, (now - float(since)) / 1000)
        # Without a reason, and with nothing that waits, it may be no more than a large layer that is being stored.
        if is_open or (seconds >= _SURE_SECONDS and (why or any(counts))):
            jobs = dict(zip(Lane, counts, strict=True))
            found.append(KeySilence(key.decode(), moment(float(since)), seconds, why.decode(errors="replace"), jobs))
    return sorted(found, key=lambda silence: silence.since)


async def hasten(queue: Queue, error_class: ErrorClass, reasons: Mapping[str, float]) -> list[str]:
    """Make jobs due that wait for a retry after an error, sooner than their back-off.

    Args:
        queue: where they wait; at most ``_MAX_HASTENED`` of all waiting jobs are looked at.
        error_class: of their last errors.
        reasons: texts, and for each the seconds since the last attempt after which a job is due that has the text in
            its JSON. A job whose retries are limited is due only by a text with 0.

    Returns:
        The ids of the jobs that are due sooner now.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    texts = [part for text, seconds in reasons.items() for part in (text, int(seconds * 1000))]
    return [job_id.decode() for job_id in await queue.ask("hasten", str(error_class), _MAX_HASTENED, *texts)]


def encode_answered(answered: Answered | None, ending: Ending) -> tuple[str, ...]:
    """Return the argument of ``finish`` for the keys that answered; empty if none is known."""
    if answered is None or ending.how != "done":
        return ()
    try:
        return ("".join(f"{key} " for key in answered(ending.payload or {}, ending.outcome or {})),)
    except Exception:
        log.exception("keys that answered not known")
        return ("",)


class SilentKeys:
    """The keys that do not answer, as a worker knows them.

    Attributes:
        changed: set when there may be others.
        keys: each as it begins a string in a job's content.
    """

    def __init__(self, queue: Queue, on_change: Callable[[], None]) -> None:
        self._queue = queue
        self._on_change = on_change
        self.changed = asyncio.Event()
        self.keys: frozenset[bytes] = frozenset()

    async def run(self) -> None:
        """Keep the keys up to date until cancelled: after an announcement, and every few seconds."""
        while True:
            with contextlib.suppress(*FAULTS):
                _, *found = await self._queue.run_script("wait_list")
                keys = frozenset(b'"' + key + b"/" for key, *_ in found)
                if keys != self.keys:
                    self.keys = keys
                    self._on_change()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self.changed.wait()
            self.changed.clear()


class WaitReporter:
    """Tells all processes which keys do not answer, in the background: the newest word about each key counts.

    Args:
        queue: where the jobs wait.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._news: dict[str, tuple[str | int, ...] | None] = {}
        self._arrived = asyncio.Event()

    def begin(self, key: str, *, since: float, probe_in: float, is_open: bool, why: str) -> None:
        """Let jobs wait for a key.

        Args:
            key: the key.
            since: when it fell silent, in seconds since 1970.
            probe_in: seconds until one of its jobs may be started as a probe.
            is_open: it is certain; otherwise it may be no more than a slow answer.
            why: how it shows, for a person.
        """
        self._news[key] = (int(since * 1000), int(probe_in * 1000), "1" if is_open else "", why)
        self._arrived.set()

    def end(self, key: str) -> None:
        """Have the jobs that wait for a key go on."""
        self._news[key] = None
        self._arrived.set()

    async def run(self) -> None:
        """Send the news until cancelled; an outage of Redis is waited out."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            news, self._news = self._news, {}
            for key, facts in news.items():
                try:
                    await (
                        self._queue.ask("wait_end", key)
                        if facts is None
                        else self._queue.ask("wait_begin", key, *facts)
                    )
                except QueueUnavailable as error:
                    log.debug("silence not reported", key=key, error=str(error))
                    self._news = {key: facts, **self._news}
                    self._arrived.set()
                    await asyncio.sleep(_RETRY_SECONDS)


@asynccontextmanager
async def open_wait_reporter(queue: Queue) -> AsyncIterator[WaitReporter]:
    """Report keys of this process while the context lasts."""
    reporter = WaitReporter(queue)
    running = asyncio.create_task(reporter.run())
    try:
        yield reporter
    finally:
        await cancel_all({running})
