"""Configurations that the processes on one queue have in force, and the jobs that only some of these processes know.

A job names the configuration that queued it. A worker whose own configuration does not name the job leaves it to a
process that knows it: without an attempt, and out of the way of other jobs. The queue knows configurations by their
digests alone. Processes of an older version name none; theirs is the empty one.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import structlog
from cachetools import LRUCache, TTLCache

from replicator.console import age, iso
from replicator.errors import ErrorText
from replicator.queue.job import ALIVE_MS, ONE_OFF, QueueUnavailable
from replicator.queue.records import Moment

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from replicator.queue.client import Queue

log = structlog.get_logger("replicator.queue")

AWAY_SECONDS = 600.0
"""Seconds for which a job waits for a process that knows it."""
DIFFER_SECONDS = 300.0
"""Seconds that an update may take before processes with different rules are reported."""
_FRESH_SECONDS = 1.0
_MOST_ASKED = 32


@dataclass(frozen=True, slots=True)
class KnownConfig:
    """The notes in Redis about a configuration.

    Attributes:
        first: the number of starts and reloads of all processes when it was seen first.
        last: the same when it was seen last.
        away: seconds since a process had it in force.
        stays: a process with it runs for years.
        parts: digests of its parts.
        commands: of the processes that have it in force now.
        jobs: how many jobs are left to it.
    """

    digest: str
    first: int
    last: int
    away: float
    stays: bool
    parts: frozenset[str]
    commands: tuple[str, ...]
    jobs: int

    @property
    def is_one_off(self) -> bool:
        """Whether only commands that end by themselves have it in force."""
        return bool(self.commands) and all(command == ONE_OFF for command in self.commands)

    @classmethod
    async def read(cls, queue: Queue, *digests: str) -> dict[str, Self]:
        """Ask Redis for all configurations.

        Args:
            queue: over whose processes.
            digests: one that is to be noted if it is not known; none for a look.

        Raises:
            QueueUnavailable: it does not answer.
        """
        found: dict[str, Self] = {}
        for digest, first, last, away, stays, parts, commands, jobs in await queue.ask("configs", ALIVE_MS, *digests):
            name, words = digest.decode(), commands.decode().split()
            known = cls(
                name, first, last, away / 1000, bool(stays), frozenset(parts.decode().split()), tuple(words), jobs
            )
            found[name] = known
        return found


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a job that the own configuration does not name.

    Attributes:
        left_to: see `LeftToOthers.note`; None if no process knows the job, and none is waited for.
        is_one_off: only a command that ends by itself has the configuration in force that queued the job.
        away: seconds since the last process had the configuration that queued it; 0 if one has.
        is_former: the own configuration has taken the place of the one that queued it.
    """

    left_to: str | None
    is_one_off: bool = False
    away: float = 0.0
    is_former: bool = False


class InForce:
    """The configuration that this process has in force, beside those of the other processes.

    Args:
        queue: over whose processes.
        digest: the same for configurations that ask for the same work.
        parts: digests of its parts: two versions of one file share some, the files of two installations none.
        origin: one more part, for where the configuration comes from; empty where that is not known.
        stays: this process runs for years, and is not meant to have other rules than the others.

    Attributes:
        turn: counts the starts and reloads of all processes, up to that of this configuration; None until Redis has
            heard of it.
        changed: set when another one came into force.
    """

    def __init__(
        self, queue: Queue, digest: str, parts: Sequence[str] = (), *, origin: str = "", stays: bool = True
    ) -> None:
        self._queue, self._stays = queue, stays
        self._origin = [origin] if origin else []
        self.digest, self.parts = digest, (*parts, *self._origin)
        self.turn: int | None = None
        self.changed = asyncio.Event()
        self._since = time.monotonic()
        self._former: LRUCache[str, None] = LRUCache(_MOST_ASKED)
        self._strangers: LRUCache[str, None] = LRUCache(_MOST_ASKED)
        self._told: TTLCache[str, None] = TTLCache(_MOST_ASKED, AWAY_SECONDS)
        self._known: Mapping[str, KnownConfig] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    def renew(self, digest: str, parts: Sequence[str]) -> None:
        """Have another configuration in force from now on."""
        self.parts = (*parts, *self._origin)
        if digest == self.digest:
            return
        self._former[self.digest] = None
        self._former.pop(digest, None)
        self.digest, self.turn, self._since = digest, None, time.monotonic()
        self._read_at = float("-inf")
        self.changed.set()

    def arguments(self) -> tuple[str | int, ...]:
        """Return what a sign of life says of it."""
        return self.digest, " ".join(self.parts), "" if self.turn is None else self.turn

    def heard(self, digest: str, reply: Sequence[bytes | int]) -> None:
        """Take the answer to a sign of life with ``digest``: the turn, then the others, and whether they share a part.

        Each installation that shares the queue by mistake is reported once.
        """
        if digest != self.digest:
            return
        turn, *others = reply
        if self.turn is None:
            # An earlier reading may contain the previous configuration of this process.
            self._read_at = float("-inf")
        self.turn = int(turn)
        for name, alike in zip(others[::2], others[1::2], strict=True):
            other = name.decode() if isinstance(name, bytes) else str(name)
            if alike == b"1":
                self._strangers.pop(other, None)
            elif self._stays and other not in self._strangers:
                self._strangers[other] = None
                log.warning(
                    "queue shared with other rules",
                    redis=self._queue.where,
                    prefix=self._queue.prefix,
                    rules=other[:12],
                    do="give each installation its own REPLICATOR_REDIS_PREFIX, unless both belong together",
                )

    async def place(self, digest: str, asked: Collection[str]) -> Place:
        """Find the processes that a job is left to because this configuration does not contain it.

        Args:
            digest: of the configuration that queued it; empty for an older version.
            asked: those whose processes know nothing of it.
        """
        try:
            known = await self._look(digest)
        except QueueUnavailable:
            return Place(self._note(digest, asked))
        queued = known[digest]
        if queued.commands:
            return Place(self._note(digest, asked), queued.is_one_off)
        others = [each.digest for each in known.values() if each.digest and each.commands and not each.is_one_off]
        if open_to_it := sorted(set(others) - {self.digest, *asked}):
            return Place(self._note(open_to_it[0], asked), away=queued.away)
        if self._took_over(queued, known.get(self.digest)):
            return Place(None, away=queued.away, is_former=True)
        # A process that has just begun can't tell how long the others will be away.
        is_over = self.turn is not None and min(queued.away, time.monotonic() - self._since) >= AWAY_SECONDS
        if is_over:
            return Place(None, away=queued.away)
        if digest not in self._told:
            self._told[digest] = None
            log.warning(
                "copies wait for their rules",
                rules=digest[:12] or "of an older version",
                do="start a process with the rules that queued them; otherwise they end after ten minutes",
            )
        return Place(self._note(digest, asked), away=queued.away)

    def keep(self, digest: str, asked: Collection[str]) -> str:
        """Return what is noted of a job that waits for a later version of the configuration that queued it."""
        return self._note(digest, asked)

    def _note(self, owner: str, asked: Collection[str]) -> str:
        """Return what is noted of a job that is left to ``owner``: no configuration is asked twice."""
        names = dict.fromkeys([*asked, self.digest, owner])
        return " ".join([owner, *list(filter(None, names))[:_MOST_ASKED]])

    def _took_over(self, queued: KnownConfig, own: KnownConfig | None) -> bool:
        """Tell whether this configuration is a later version of the one that queued a job."""
        if self.turn is None or not (queued.digest in self._former or queued.parts & set(self.parts)):
            return False
        # In a rolling update the former one was in force for a while beside this one.
        return queued.last < self.turn or (queued.stays and own is not None and queued.first < own.first)

    async def _look(self, digest: str) -> Mapping[str, KnownConfig]:
        async with self._reading:
            if digest not in self._known or time.monotonic() - self._read_at > _FRESH_SECONDS:
                self._known = await KnownConfig.read(self._queue, digest)
                self._read_at = time.monotonic()
            return self._known


def ownerless(jobs: int) -> str:
    """Say that copies wait for a process with their rules."""
    if jobs == 1:
        return "1 copy waits for a process with its rules, and is skipped after ten minutes without one"
    return f"{jobs:,} copies wait for a process with their rules, and are skipped after ten minutes without one"


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that showed a sign of life in the last seconds.

    Attributes:
        command: the command it was started as.
        version: of the program.
        pid: its process id on that host.
        started: when it started (UTC).
        loaded: since when its configuration is in force (UTC).
        problem: why the current files are not in use; None if they are.
        limits: the limits of bandwidth and requests in force, in a line; empty without any.
        rules: the digest of its rules; empty if it does not tell.
        rules_since: since when it has them, by Redis's clock.
        seen: its last sign of life, by Redis's clock.
        problem_since: since when there is that problem (UTC).
        out: names of rules files of which no version is in force, because of that problem.
    """

    command: str
    version: str
    host: str
    pid: int
    started: Moment
    loaded: Moment
    problem: str | None = None
    limits: str = ""
    rules: str = ""
    rules_since: Moment | None = None
    seen: Moment | None = None
    problem_since: Moment | None = None
    out: tuple[str, ...] = ()

    @property
    def since(self) -> str | None:
        """Since when there is its problem, as RFC 3339; None if that is unknown."""
        return iso(self.problem_since) if self.problem_since is not None else None

    @property
    def problem_sentence(self) -> str:
        """Its problem for a person, with since when it lasts."""
        return f"{self.problem_text.what}: {self.problem}"

    @property
    def problem_text(self) -> ErrorText:
        """Its problem in three parts."""
        since = f" since {self.since}" if self.since is not None else ""
        what = f"{self.command} on {self.host}:{self.pid} does not use the current files{since}"
        text = ErrorText(what, self.problem or "", "correct the files: changes are loaded automatically")
        return text.bounded()

    def problem_json(self) -> dict[str, Any]:
        """Give its problem as JSON values."""
        where = {"host": self.host, "pid": self.pid, "since": self.since, "problem": self.problem}
        return where | self.problem_text.to_json() | {"out": list(self.out)}

    @property
    def stays(self) -> bool:
        """Whether it runs for years."""
        return self.command != ONE_OFF


@dataclass(frozen=True, slots=True)
class Differing:
    """Processes on one queue that have different rules.

    Attributes:
        seconds: for how long.
        sides: one process of each, in words.
    """

    seconds: float
    sides: tuple[str, ...]

    @classmethod
    def among(cls, processes: Sequence[ProcessInfo]) -> Self | None:
        """Compare the processes that run for years; None if all have the same rules, or do not tell theirs."""
        first: dict[str, ProcessInfo] = {}
        now: datetime | None = None
        for each in processes:
            if not each.rules or each.rules_since is None or not each.stays:
                continue
            now = each.seen if now is None or (each.seen is not None and each.seen > now) else now
            known = first.get(each.rules)
            if known is None or known.rules_since is None or each.rules_since < known.rules_since:
                first[each.rules] = each
        if len(first) < 2 or now is None:
            return None
        since = max(each.rules_since for each in first.values() if each.rules_since is not None)
        sides = tuple(f"{each.command} {each.host}:{each.pid} has {digest[:12]}" for digest, each in first.items())
        return cls(max(timedelta(), now - since).total_seconds(), sides)

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {"seconds": self.seconds, "processes": list(self.sides)}

    @property
    def is_old(self) -> bool:
        """Whether it has lasted longer than an update takes."""
        return self.seconds > DIFFER_SECONDS

    @property
    def sentence(self) -> str:
        """The sentence for a person."""
        return (
            f"processes on this queue have had different rules for {age(self.seconds)} ({', '.join(self.sides[:3])}): "
            "restart those with the old rules, or give each installation its own REPLICATOR_REDIS_PREFIX"
        )
