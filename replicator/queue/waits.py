"""Reasons why a job does not start: a key that it waits for, or a pause by a person; and cancellation.

Keys are hosts that do not answer and logins that are refused: one process reports, all know.

A job whose error names a key (`replicator.errors.Wait`) goes back into the queue without a lease, a slot or an attempt,
and so does every other job that needs the key, before it is started: a string in its content begins with the key and a
slash. One job at a time is started as a probe. When the key is back, all of them are where they were in the queue.

A pause is kept in Redis too: no process starts a job of its `Selection` until somebody resumes it (``control.lua``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import structlog

from replicator.console import iso
from replicator.queue.client import FAULTS, Queue
from replicator.queue.job import Lane, QueueError, QueueUnavailable, describe_key, login_of
from replicator.queue.records import Moment, decode, dump_json, moment
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from replicator.errors import ErrorClass

log = structlog.get_logger("replicator.queue")

_POLL_SECONDS = 2.0
_RETRY_SECONDS = 0.5
_MAX_HASTENED = 5000
_SURE_SECONDS = 10.0
"""Seconds of silence after which people are informed, even if it may only be a slow answer."""


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
        copies = f"{self.total:,} cop{'y waits' if self.total == 1 else 'ies wait'} for it"
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
        """Let the jobs that wait for a key continue."""
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
                    log.debug("silence not reported", key=key, error=error)
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


MAX_PAUSES = 100
"""Pauses at the same time: each job is compared with each of them (``pauses`` in ``control.lua``)."""
MAX_WILDCARDS = 16
"""Wildcards in one pattern of a selection: Redis does the comparison, and nothing else meanwhile."""
MAX_PATTERN = 1024
"""Characters in one pattern."""
JOBS_A_STEP = 200
"""Jobs that one step of a cancellation or a list looks at: between two steps Redis serves its other clients."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of pending jobs: those that match every given field; all jobs if none is given.

    All but ``lane`` and ``run`` are globs: ``*`` and ``?`` stop at a slash, ``**`` does not. Images match with and
    without their host and their tag.

    Attributes:
        rule: the rule that asked for the copy.
        source: the image that is copied.
        destination: where it is copied to.
        host: the registry of the one or the other.
        lane: the queue that it is in.
        run: a backfill that waits for it.

    Raises:
        ValueError: a pattern is too long, or has too many wildcards.
    """

    rule: str = ""
    source: str = ""
    destination: str = ""
    host: str = ""
    lane: Lane | None = None
    run: str = ""

    def __post_init__(self) -> None:
        for name, text in self.to_json().items():
            if len(text) > MAX_PATTERN or text.count("*") + text.count("?") > MAX_WILDCARDS:
                message = f"a pattern has at most {MAX_PATTERN} characters and {MAX_WILDCARDS} wildcards"
                raise ValueError(f"{name} {text[:60]!r}: {message}")

    @classmethod
    def combinations(cls, **choices: Iterable[str]) -> tuple[Selection, ...]:
        """Return a selection for every combination of the values of each field; one of all jobs without any value."""
        given = [[(name, value) for value in dict.fromkeys(values)] for name, values in choices.items() if values]
        # It would select more than was meant, e.g. where a variable of a shell is not set.
        if empty := [name for fields in given for name, value in fields if not value]:
            raise ValueError(f"--{empty[0]} is empty: write its pattern, or use --all")
        return tuple(cls(**dict(fields)) for fields in itertools.product(*given))  # type: ignore[arg-type]  # by name

    def to_json(self) -> dict[str, str]:
        """Give the fields that are set."""
        return {name: str(value) for name, value in asdict(self).items() if value}

    def covers(self, lane: Lane) -> bool:
        """Tell whether every job of a lane is selected."""
        return self in (Selection(), Selection(lane=lane))

    @property
    def name(self) -> str:
        """Its name in Redis: the same for equal selections."""
        return hashlib.sha256(dump_json(self.to_json())).hexdigest()[:16]

    @property
    def sentence(self) -> str:
        """The selection in words, e.g. ``rule h.example/a/**, lane events``."""
        return ", ".join(f"{name} {value}" for name, value in self.to_json().items()) or "everything"

    @property
    def options(self) -> str:
        """The selection as options of a shell's command line."""
        given = " ".join(f"--{name} {shlex.quote(value)}" for name, value in self.to_json().items())
        return given or "--all"


@dataclass(frozen=True, slots=True)
class _PauseRecord:
    selection: Mapping[str, str]
    since: Moment
    by: str


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause in force.

    Attributes:
        selection: of which jobs.
        since: when it began (UTC).
        by: the person who paused them.
        held: how many jobs it holds up that are due, as far as a worker has come upon them.
    """

    selection: Selection
    since: datetime
    by: str
    held: int

    @property
    def sentence(self) -> str:
        """The pause in words, for a page, a terminal and a message."""
        held = f"; {self.held:,} cop{'y waits' if self.held == 1 else 'ies wait'}"
        return f"{self.selection.sentence} has been paused since {self.since:%Y-%m-%d %H:%M} UTC by {self.by}{held}"

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values; the time is RFC 3339 in UTC."""
        return {"selection": self.selection.to_json(), "since": iso(self.since), "by": self.by, "waiting": self.held}


_TOO_MANY = f"not paused: there can be {MAX_PAUSES} pauses at the same time; resume some"


class TooManyPauses(QueueError):
    """There are as many pauses as there may be."""


async def pause(queue: Queue, selections: Iterable[Selection], *, by: str, now: bool = False) -> int:
    """Pause the jobs of some selections in all processes until they are resumed. Jobs are still enqueued.

    Args:
        queue: where they are.
        selections: which jobs; one that is paused already stays as it is.
        by: the person who pauses them.
        now: hand running jobs back too; otherwise they end.

    Returns:
        The number of running jobs that were asked to end.

    Raises:
        TooManyPauses: there would be too many; nothing is paused.
        QueueUnavailable: Redis does not answer; some may be paused.
    """
    wanted, told = {each.name: each for each in selections}, 0
    # Checked before the first one: an error after half of the selections were paused would leave no trace of them.
    if len(wanted.keys() | {each.selection.name for each in await list_pauses(queue)}) > MAX_PAUSES:
        raise TooManyPauses(_TOO_MANY)
    for each in wanted.values():
        since, running = await queue.ask("pause", each.name, dump_json(each.to_json()), by, int(now))
        if not since:
            raise TooManyPauses(_TOO_MANY)
        told += running
    return told


async def resume(queue: Queue, selections: Iterable[Selection]) -> set[str]:
    """End the pauses of exactly these selections; return the names of those that were paused.

    Raises:
        QueueUnavailable: Redis does not answer; some may be resumed.
    """
    return {name.decode() for name in await queue.ask("resume", *(each.name for each in selections))}


async def list_pauses(queue: Queue) -> list[Pause]:
    """List the pauses in force, the oldest first.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    found = []
    for data, held in await queue.ask("pause_list"):
        record = decode(_PauseRecord, data)
        known = {name: record.selection.get(name, "") for name in Selection.__dataclass_fields__}
        lane = Lane(known["lane"]) if known["lane"] else None
        found.append(Pause(Selection(**{**known, "lane": lane}), record.since, record.by, held))  # type: ignore[arg-type]  # by name
    return sorted(found, key=lambda each: each.since)


async def cancel(queue: Queue, selections: Sequence[Selection], *, dry_run: bool = False) -> tuple[int, list[str]]:
    """Delete pending jobs, in small steps between which Redis serves its other clients; stop the running ones.

    Args:
        queue: where they are.
        selections: which jobs.
        dry_run: only count them.

    Returns:
        How many jobs were forgotten, and the ids of the running ones that were asked to end.

    Raises:
        QueueUnavailable: Redis does not answer; some may be forgotten.
    """
    wanted, cursor, forgotten = [dump_json(each.to_json()) for each in selections], "0", 0
    told: dict[str, None] = {}
    while True:
        reply = await queue.ask("job_cancel", cursor, JOBS_A_STEP, int(dry_run), *wanted)
        cursor, forgotten = reply[0].decode(), forgotten + reply[1]
        told |= dict.fromkeys(job_id.decode() for job_id in reply[2:])
        if cursor == "0":
            return forgotten, list(told)
