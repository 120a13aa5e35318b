"""The queue seen from outside: put work in, hear how it ended, look at it, revive what is dead."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Self

import structlog
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from replicator.errors import ConfigError, Problem
from replicator.queue.connection import RedisHandle, open_redis
from replicator.queue.job import Finished, Job, Lane, QueueUnavailable, decode_finished, encode_job
from replicator.queue.scripts import Scripts
from replicator.queue.snapshot import (
    Counts,
    DeadLetter,
    LaneCounts,
    RunningJob,
    WaitingJob,
    WorkerInfo,
    read_dead_letter,
    read_running,
    read_waiting,
    read_worker,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from datetime import datetime
    from types import TracebackType

    from arq.connections import ArqRedis

log = structlog.get_logger("replicator.queue")

BATCH = 500
"""Jobs that go to Redis in one step; a step of this size takes it a few milliseconds."""

WORKER_ALIVE_MS = 20_000
"""A worker whose last sign of life is older counts as gone."""

_BLOCK_MS = 2_000
_CONNECTIONS = 32
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")
FAULTS = (RedisError, OSError)
"""What a command raises when Redis is away or refuses."""
_AWAY = (RedisConnectionError, RedisTimeoutError, OSError)


class Queue:
    """A client of the queue. Make one with :meth:`connect`, close it after use, or use it in ``async with``.

    Args:
        handle: the connection.
        prefix: what separates this installation from others on the same Redis: letters, digits, dot, ``_``, ``-``.
        deadline: seconds after which an operation that Redis has not confirmed raises ``QueueUnavailable``.

    Raises:
        ConfigError: the prefix has other characters.
    """

    def __init__(self, handle: RedisHandle, *, prefix: str = "replicator", deadline: float = 2.0) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError("queue prefix", [Problem("", f"{prefix!r} must be letters, digits, dot, _ or -")])
        self._handle = handle
        self.prefix = prefix
        self._deadline = deadline
        self._scripts = Scripts(handle.redis, prefix)
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._inspected = False

    @classmethod
    async def connect(cls, url: str, *, prefix: str = "replicator", deadline: float = 2.0) -> Self:
        """Make a client for the Redis at ``url`` (forms: :mod:`replicator.queue.connection`).

        A Redis that is away is no error here: it is waited for, and every operation says when it is missing.

        Raises:
            ConfigError: the URL or the prefix is wrong, or it leads to a Redis Cluster.
        """
        queue = cls(open_redis(url), prefix=prefix, deadline=deadline)
        try:
            await queue.ping()
        except QueueUnavailable as error:
            log.warning("queue unavailable", error=str(error))
        except BaseException:
            await queue.close()
            raise
        return queue

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._handle.close()

    @property
    def redis(self) -> ArqRedis:
        """The client underneath, for arq."""
        return self._handle.redis

    @property
    def where(self) -> str:
        """Where Redis is, for messages."""
        return self._handle.where

    def lane_queue(self, lane: Lane) -> str:
        """Name the sorted set in which arq keeps the queue of ``lane``."""
        return f"{self.prefix}:queue:{lane}"

    @property
    def wake_channel(self) -> str:
        """The channel on which new work is announced; a message is the lane's name."""
        return f"{self.prefix}:wake"

    async def enqueue(self, jobs: Iterable[Job], lane: Lane, *, run: str | None = None) -> int:
        """Queue ``jobs``, durably: up to 500 in one atomic step, more in several.

        A job that is queued already takes the new payload; one that waits for a retry, or is dead, starts anew and
        now; one that runs is run again afterwards. An event moves a job out of the backfill lane, never the reverse.

        Args:
            jobs: what to do; of several with one id the last counts.
            lane: which queue.
            run: an id under which :meth:`finished` tells how they ended.

        Returns:
            How many were not pending before: neither queued nor running nor waiting for a retry. A dead letter is not
            pending. It may be too few when Redis went away meanwhile and was asked twice.

        Raises:
            QueueUnavailable: it was not confirmed in time; earlier batches of more than 500 may be queued. Doing it
                again does no harm.
            ValueError: a payload can't be expressed in JSON; nothing was queued.
        """
        last: dict[str, Job] = {}
        several: set[str] = set()
        pushed: dict[str, datetime] = {}
        for job in jobs:
            if job.id in last:
                several.add(job.id)
            last[job.id] = job
            if job.pushed is not None:
                pushed[job.id] = min(job.pushed, pushed.get(job.id, job.pushed))
        stored = [(job, encode_job(job)) for job in last.values()]
        added = 0
        for start in range(0, len(stored), BATCH):
            arguments: list[str | bytes | int] = [lane, run or ""]
            for job, data in stored[start : start + BATCH]:
                retries = "" if job.retries is None else job.retries
                since = int(pushed[job.id].timestamp() * 1000) if job.id in pushed else ""
                arguments += [job.id, data, retries, int(job.id in several), since]
            added += await self._within_deadline("enqueue", *arguments)
        return added

    async def ping(self) -> None:
        """Make sure that Redis is there and takes writes.

        Raises:
            QueueUnavailable: it is away, refuses the login, is out of memory, can't write to its disk or is a replica.
            ConfigError: it is a Redis Cluster.
        """
        await self._within_deadline("ping")

    async def finished(self, run: str) -> AsyncIterator[Finished]:
        """Tell how the jobs enqueued as ``run`` end, each once, as they do, whichever process runs them.

        It goes on for ever: the caller knows how many to wait for. An outcome is told of a try that began after the
        job's (last) enqueue in this run. Outcomes are kept for a day after the last; an outage of Redis is waited for.
        """
        stream, failures = f"{self.prefix}:finished:{run}", 0
        told: set[bytes] = set()
        while True:
            try:
                # From the beginning, as what was told is deleted: its ids go by Redis's clock, which may jump back.
                reply = await self.redis.xread({stream: "0"}, count=100, block=_BLOCK_MS)
                for _, entries in reply:
                    for entry, fields in entries:
                        if entry not in told:
                            told.add(entry)
                            yield decode_finished(fields[b"finished"])
                if told:
                    await self.redis.xdel(stream, *told)
                    told.clear()
                failures = 0
            except FAULTS as error:
                failures += 1
                if failures == 2:  # once an outage, and not for a connection that was cut and made anew
                    log.warning("queue unavailable", error=self._reason(error), waiting_for=run)
                await asyncio.sleep(0.5)

    async def counts(self) -> Counts:
        """Count the jobs by state.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        *numbers, dead = await self._within_deadline("counts")
        lanes = {lane: LaneCounts(*numbers[3 * i : 3 * i + 3]) for i, lane in enumerate(Lane)}
        return Counts(lanes, dead)

    async def oldest(self) -> dict[Lane, float]:
        """Tell for how many seconds the oldest entry of each lane has been due and not begun; 0 without one.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        return {lane: age / 1000 for lane, age in zip(Lane, await self._within_deadline("oldest"), strict=True)}

    async def running(self) -> list[RunningJob]:
        """List what runs now, the oldest first.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        reply = await self._within_deadline("running")
        jobs = [read_running(reply[i].decode(), reply[i + 1]) for i in range(0, len(reply), 2)]
        return sorted(jobs, key=lambda job: job.since)

    async def waiting(self, *, limit: int = 1000) -> list[WaitingJob]:
        """List up to ``limit`` jobs that wait for a retry, the next one first.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        jobs: dict[str, WaitingJob] = {}
        async for ids in self._hash_keys(f"{self.prefix}:waiting"):
            reply = await self._within_deadline("waiting", *ids)
            for i in range(0, len(reply), 4):
                job_id = reply[i].decode()
                lane = Lane(reply[i + 2].decode())
                jobs[job_id] = read_waiting(job_id, reply[i + 1], lane, float(reply[i + 3]))
            if len(jobs) >= limit:
                break
        return sorted(jobs.values(), key=lambda job: job.due)[:limit]

    async def dead_letters(self, *, limit: int = 100_000) -> list[DeadLetter]:
        """List up to ``limit`` dead letters, the oldest first.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        letters: dict[str, DeadLetter] = {}
        cursor = 0
        while True:
            cursor, entries = await self._guard(self.redis.hscan(f"{self.prefix}:dead", cursor, count=BATCH))
            letters |= {job_id.decode(): read_dead_letter(record) for job_id, record in entries.items()}
            if cursor == 0 or len(letters) >= limit:
                return sorted(letters.values(), key=lambda letter: letter.last)[:limit]

    async def workers(self) -> list[WorkerInfo]:
        """List the worker processes that are alive.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        reply = await self._within_deadline("alive", "workers", WORKER_ALIVE_MS)
        return sorted((read_worker(record) for record in reply), key=lambda worker: worker.started)

    async def retry_dead(self, ids: Iterable[str] | None = None) -> list[str]:
        """Queue dead letters anew, as they were.

        Args:
            ids: which; None for all.

        Returns:
            Those that were queued: an id that is no dead letter, or whose content can't be recovered, is left out.

        Raises:
            QueueUnavailable: Redis does not answer; some may be queued.
        """
        queued: list[str] = []
        async for batch in self._dead_ids(ids):
            queued += [job_id.decode() for job_id in await self._within_deadline("retry_dead", *batch)]
        return queued

    async def drop_dead(self, ids: Iterable[str] | None = None) -> list[str]:
        """Forget dead letters.

        Args:
            ids: which; None for all.

        Returns:
            Those that were forgotten: an id that is no dead letter is left out.

        Raises:
            QueueUnavailable: Redis does not answer; some may be dropped.
        """
        dropped: list[str] = []
        async for batch in self._dead_ids(ids):
            dropped += [job_id.decode() for job_id in await self._within_deadline("drop_dead", *batch)]
        return dropped

    async def ask(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run a script, again while Redis is away and the deadline allows it.

        Raises:
            QueueUnavailable: Redis is away or refuses; it may have run all the same.
            ConfigError: it is a Redis Cluster.
        """
        return await self._within_deadline(name, *arguments)

    async def run_script(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run a script once, for the worker, which has its own patience.

        Raises:
            redis.exceptions.RedisError: Redis is away or refuses.
            OSError: the same.
            ConfigError: it is a Redis Cluster.
        """
        async with self._connections:
            if not self._inspected:
                await self._inspect()
            return await self._scripts.run(name, *arguments)

    async def _inspect(self) -> None:
        """Refuse a cluster; warn of a Redis that forgets."""
        try:
            info = await self.redis.info()
        except _AWAY:
            raise
        except RedisError:
            info = {}  # an ACL may forbid INFO
        self._inspected = True
        if info.get("cluster_enabled"):
            message = "Redis Cluster is not supported; give the URL of a single server, or of its sentinels"
            raise ConfigError(self.where, [Problem("", message)])
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            log.warning("queue may be evicted", redis=self.where, maxmemory_policy=policy, needed="noeviction")

    async def _within_deadline(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run a script, again while Redis is away and the deadline allows it."""
        return await self._guard(self._persist(name, *arguments))

    async def _persist(self, name: str, *arguments: str | bytes | float) -> Any:
        pause, loop = 0.02, asyncio.get_running_loop()
        last_start = loop.time() + 0.75 * self._deadline
        while True:
            try:
                # A connection that is dead without knowing it leaves time for another one.
                async with asyncio.timeout(self._deadline / 2):
                    return await self.run_script(name, *arguments)
            except AuthenticationError:
                raise
            except _AWAY:
                if loop.time() + pause > last_start:
                    raise
                await asyncio.sleep(pause)
                pause *= 2

    async def _guard(self, operation: Any) -> Any:
        try:
            async with asyncio.timeout(self._deadline):
                return await operation
        except FAULTS as error:
            raise QueueUnavailable(f"{self.where} can't take or give work: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError) and not str(error):
            return f"no answer within {self._deadline:g} s"
        return str(error) or type(error).__name__

    async def _hash_keys(self, key: str) -> AsyncIterator[list[str]]:
        cursor = 0
        while True:
            cursor, entries = await self._guard(self.redis.hscan(key, cursor, count=BATCH))
            if entries:
                yield [field.decode() for field in entries]
            if cursor == 0:
                return

    async def _dead_ids(self, ids: Iterable[str] | None) -> AsyncIterator[list[str]]:
        if ids is None:
            async for batch in self._hash_keys(f"{self.prefix}:dead"):
                yield batch
            return
        every = list(ids)
        for start in range(0, len(every), BATCH):
            yield every[start : start + BATCH]
