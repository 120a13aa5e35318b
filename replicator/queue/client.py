"""The client of the queue: enqueue jobs, receive their results, read the queue.

Each step on the queue is atomic: a Lua script, see `replicator.queue.scripts`.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Self

import structlog
from redis.exceptions import AuthenticationError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from replicator.errors import ConfigError, Problem
from replicator.queue.connection import RedisHandle, is_demoted, open_redis
from replicator.queue.job import (
    ALIVE_MS,
    Counts,
    Finished,
    Job,
    Lane,
    LaneCounts,
    QueueUnavailable,
    RunningJob,
    WaitingJob,
    WorkerInfo,
    encode_job,
)
from replicator.queue.records import decode, dump_json, milliseconds
from replicator.queue.scripts import NotReplicated, Replicas, Scripts, advice
from replicator.tasks import raise_if_cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from datetime import datetime
    from types import TracebackType

    from replicator.queue.connection import QueueClient

log = structlog.get_logger("replicator.queue")

BATCH = 500
"""Jobs that go to Redis in one step; a step of this size takes it a few milliseconds."""

_BLOCK_MS = 2_000
_LOOKS, _LOOK_PAUSE = 20, 0.05
_CONNECTIONS = 32
_PREFIX = re.compile(r"(?!.{65})([A-Za-z0-9._-]+|\{[A-Za-z0-9._-]+\})")
FAULTS = (RedisError, OSError)
"""What a command raises when Redis is away or refuses."""
_AWAY = (RedisConnectionError, RedisTimeoutError, OSError, NotReplicated)
_WAIT_PART = 0.35
"""Part of a deadline that the replicas get, so that a step can be repeated once within it."""


class Queue:
    """A client of the queue. Make one with :meth:`connect`, close it after use, or use it in ``async with``.

    Args:
        handle: the connection.
        prefix: separates this installation from others on the same Redis: letters, digits, dot, ``_``, ``-``, all
            of it in braces where the keys must share a slot.
        deadline: seconds after which an operation that Redis has not confirmed raises ``QueueUnavailable``.
        replicas: the number of replicas that must hold accepted work; None for one, if there are replicas.

    Attributes:
        replicas: the replicas of Redis that are waited for.

    Raises:
        ConfigError: the prefix has other characters.
    """

    def __init__(
        self, handle: RedisHandle, *, prefix: str = "replicator", deadline: float = 2.0, replicas: int | None = None
    ) -> None:
        if not _PREFIX.fullmatch(prefix):
            message = f"{prefix!r} must be letters, digits, dot, _ or -; all of it may be in braces"
            raise ConfigError("queue prefix", [Problem("", message)])
        self._handle = handle
        self.prefix = prefix
        self._deadline = deadline
        self._wanted = replicas
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._renewed = False
        self.fault: Callable[[], str] = lambda: ""
        """Says why Redis can't accept or hand out work, if this process knows more than Redis answers; else empty."""
        self._begin()

    def _begin(self) -> None:
        """Know nothing of the Redis yet."""
        expected, seconds = bool(self._handle.sentinels), _WAIT_PART * self._deadline
        self.replicas = Replicas(self.redis, wanted=self._wanted, deadline=seconds, expected=expected)
        self._scripts = Scripts(self.redis, self.prefix, self.replicas, self.where)
        self._inspected = False

    @classmethod
    async def connect(
        cls, url: str, *, prefix: str = "replicator", deadline: float = 2.0, replicas: int | None = None
    ) -> Self:
        """Make a client for the Redis at ``url`` (forms: :mod:`replicator.queue.connection`).

        A Redis that is away is not fatal: every operation reports it, and works again when Redis is back.

        Raises:
            ConfigError: the URL or the prefix is wrong, or the prefix does not suit a Redis Cluster.
        """
        queue = cls(open_redis(url), prefix=prefix, deadline=deadline, replicas=replicas)
        try:
            await queue.ping()
            await queue._refuse_shards()
        except QueueUnavailable as error:
            log.warning("queue unavailable", error=error)
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

    def renew(self, handle: RedisHandle) -> None:
        """Use the connections of ``handle`` from now on: its URL has another login or leads elsewhere.

        Steps under way fail like those of a connection that was cut, and are repeated.
        """
        if handle.url == self._handle.url:
            return
        self._handle.become(handle)
        self._renewed = True
        self._begin()
        log.info("queue reconnects", redis=self.where)

    @property
    def redis(self) -> QueueClient:
        """The client underneath, for arq."""
        return self._handle.redis

    @property
    def where(self) -> str:
        """The address of Redis, for messages."""
        return self._handle.where

    def lane_queue(self, lane: Lane) -> str:
        """Name the sorted set in which arq keeps the queue of ``lane``."""
        return f"{self.prefix}:queue:{lane}"

    @property
    def wake_channel(self) -> str:
        """The channel on which new work is announced; a message is the lane's name."""
        return f"{self.prefix}:wake"

    async def enqueue(self, jobs: Iterable[Job], lane: Lane, *, run: str | None = None) -> int:
        """Queue ``jobs`` durably: up to 500 in one atomic step, more in several.

        A queued job takes the new payload; one that waits for a retry, or is a dead letter, starts again at once with
        a fresh count of attempts; a running one runs again afterwards; one with another ``source`` in its payload ends
        first. An event moves a job out of the backfill lane, never the reverse.

        Args:
            jobs: what to do; of several with one id the last counts.
            lane: which queue.
            run: an id under which :meth:`finished` reports their ends.

        Returns:
            How many were not pending before: neither queued nor running nor waiting for a retry. A dead letter is not
            pending. It may be too few if Redis went away meanwhile and was asked twice.

        Raises:
            QueueUnavailable: it was not confirmed in time; earlier batches of more than 500 may be queued. Repeating
                it does no harm.
            ValueError: a payload can't be expressed in JSON; nothing was queued.
        """
        last: dict[tuple[str, object], Job] = {}
        several: set[tuple[str, object]] = set()
        pushed: dict[tuple[str, object], datetime] = {}
        for job in jobs:
            if (name := (job.id, job.payload.get("source"))) in last:
                several.add(name)
            last[name] = job
            if job.pushed is not None:
                pushed[name] = min(job.pushed, pushed.get(name, job.pushed))
        # All are encoded before the first is sent: a bad payload must not leave a part of them queued.
        stored = [(key, job, encode_job(job)) for key, job in last.items()]
        added = 0
        for start in range(0, len(stored), BATCH):
            arguments: list[str | bytes | int] = [lane, run or ""]
            for key, job, data in stored[start : start + BATCH]:
                retries = "" if job.retries is None else job.retries
                since = milliseconds(pushed[key]) if key in pushed else ""
                arguments += [job.id, data, retries, int(key in several), since]
            added += await self.ask("enqueue", *arguments)
        return added

    async def pending(self, digests: Mapping[str, str], parts: Mapping[str, Any] | None = None) -> set[str]:
        """Return the ids of jobs that are pending, whether queued, running or waiting, with a digest in their payload.

        Args:
            digests: by id.
            parts: by id, a text that the payload must contain too, unless the job waits for a retry.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        texts, arguments = {id_: dump_json(part) for id_, part in (parts or {}).items()}, list[str | bytes]()
        for id_, digest in digests.items():
            arguments += [id_, digest, texts.get(id_, b"")]
        steps = [arguments[start : start + 3 * BATCH] for start in range(0, len(arguments), 3 * BATCH)]
        return {each.decode() for step in steps for each in await self.ask("pending", *step)}

    async def ping(self) -> None:
        """Make sure that Redis is there and takes writes.

        Raises:
            QueueUnavailable: it is away, refuses the login, is out of memory, can't write to its disk or is a replica.
            ConfigError: it is a Redis Cluster over whose slots the prefix spreads the keys.
        """
        await self.ask("ping")

    async def _refuse_shards(self) -> None:
        """Refuse a proxy that keeps what a step writes elsewhere than where a command looks for it."""
        for _ in range(_LOOKS):
            if await self._within_deadline(self.redis.exists(f"{self.prefix}:ping")):
                return
            await asyncio.sleep(_LOOK_PAUSE)  # a proxy may read from a replica
        raise ConfigError(self.where, [Problem("", f"spreads the keys over shards: {advice('CROSSSLOT')}")])

    async def finished(self, run: str) -> AsyncIterator[Finished]:
        """Yield the ends of the jobs enqueued as ``run``, each once, as they come, whichever process runs them.

        It never ends: the caller knows how many to wait for. Only an attempt that began after the job's last enqueue
        in this run counts. The ends are kept for a day after the last one; an outage of Redis is waited out.
        """
        stream, failures = f"{self.prefix}:finished:{run}", 0
        told: set[bytes] = set()
        while True:
            try:
                # Always from the start of the stream, with the read entries deleted: entry ids go by Redis's clock,
                # and after a clock set back a new one may be lower than the last that was read.
                reply = await self.redis.xread({stream: "0"}, count=100, block=_BLOCK_MS)
                for _, entries in reply:
                    for entry, fields in entries:
                        if entry not in told:
                            told.add(entry)
                            yield decode(Finished, fields[b"finished"], shared=b"shared" in fields)
                if told:
                    await self.redis.xdel(stream, *told)
                    told.clear()
                    raise_if_cancelled()
                failures = 0
            except FAULTS as error:
                failures += 1
                if failures == 2:  # once an outage, and not for a connection that was cut and made again
                    log.warning("queue unavailable", error=self._unavailable(error), waiting_for=run)
                await asyncio.sleep(0.5)

    async def counts(self) -> Counts:
        """Count the jobs by state.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        *numbers, dead = await self.ask("counts")
        lanes = {lane: LaneCounts(*numbers[4 * i : 4 * i + 4]) for i, lane in enumerate(Lane)}
        return Counts(lanes, dead)

    async def oldest(self) -> dict[Lane, float]:
        """Return for how many seconds the oldest entry of each lane has been due and not begun; 0 without one.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        return {lane: age / 1000 for lane, age in zip(Lane, await self.ask("oldest"), strict=True)}

    async def running(self) -> list[RunningJob]:
        """List the running jobs, the oldest first.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        reply = await self.ask("running")
        jobs = [RunningJob.read(reply[i].decode(), reply[i + 1]) for i in range(0, len(reply), 2)]
        return sorted(jobs, key=lambda job: job.since)

    async def waiting(self, *, limit: int = 1000) -> list[WaitingJob]:
        """List up to ``limit`` jobs that wait for a retry, the next one first.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        jobs: dict[str, WaitingJob] = {}
        async for ids in self.scan_hash("waiting"):
            reply = await self.ask("waiting", *ids)
            for i in range(0, len(reply), 4):
                job_id, record, lane, due = reply[i : i + 4]
                job = decode(WaitingJob, record, id=job_id.decode(), lane=lane.decode(), due=float(due))
                jobs[job.id] = job
            if len(jobs) >= limit:
                break
        return sorted(jobs.values(), key=lambda job: job.due)[:limit]

    async def workers(self) -> list[WorkerInfo]:
        """List the worker processes that are alive, the oldest first.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        records = await self.ask("alive", "workers", ALIVE_MS)
        return sorted((decode(WorkerInfo, record) for record in records), key=lambda worker: worker.started)

    async def ask(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run a script within the deadline, repeatedly if Redis is away meanwhile.

        Raises:
            QueueUnavailable: Redis is away or refuses; the step may still have run.
            ConfigError: it is a Redis Cluster over whose slots the prefix spreads the keys.
        """
        return await self._within_deadline(self._repeat(name, *arguments))

    async def run_script(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run a script once, for callers that wait for Redis in their own way.

        Raises:
            redis.exceptions.RedisError: Redis is away or refuses.
            OSError: the same.
            ConfigError: it is a Redis Cluster over whose slots the prefix spreads the keys.
        """
        async with self._connections:
            if not self._inspected:
                await self._inspect()
            return await self._scripts.run(name, *arguments)

    async def scan_hash(self, name: str) -> AsyncIterator[list[str]]:
        """Yield the fields of a hash of the queue in batches, some perhaps twice.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        cursor = 0
        while True:
            scan = self.redis.hscan(f"{self.prefix}:{name}", cursor, count=BATCH)
            cursor, entries = await self._within_deadline(scan)
            if entries:
                yield [field.decode() for field in entries]
            if cursor == 0:
                return

    async def _inspect(self) -> None:
        trouble = await self._scripts.inspect()
        if trouble:
            # A running process must continue when the URL is corrected.
            raise ResponseError(trouble) if self._renewed else ConfigError(self.where, [Problem("", trouble)])
        self._inspected = True

    async def _repeat(self, name: str, *arguments: str | bytes | float) -> Any:
        pause, loop = 0.02, asyncio.get_running_loop()
        last_start = loop.time() + 0.75 * self._deadline
        while True:
            try:
                # Half the deadline: a connection that is dead without knowing it leaves time for another one.
                async with asyncio.timeout(self._deadline / 2):
                    return await self.run_script(name, *arguments)
            except AuthenticationError:
                raise  # a ConnectionError too, but one that repeating does not mend
            except OutOfMemoryError:
                # Caches only save requests: they must not keep jobs out.
                if not await self.run_script("make_room"):
                    raise
            except FAULTS as error:
                if not isinstance(error, _AWAY) and not is_demoted(error):
                    raise
                if loop.time() + pause > last_start:
                    raise
                await asyncio.sleep(pause)
                pause *= 2

    async def _within_deadline(self, operation: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._deadline):
                return await operation
        except FAULTS as error:
            fault = self.fault()
            raise (QueueUnavailable(fault) if fault else self._unavailable(error)) from error

    def _unavailable(self, error: Exception) -> QueueUnavailable:
        why = str(error) or type(error).__name__
        if isinstance(error, TimeoutError) and not str(error):
            why = f"no answer within {self._deadline:g} s"
        return QueueUnavailable(f"{self.where} can't accept or hand out work", why, advice(error))
