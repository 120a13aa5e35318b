"""A worker process: the lanes it serves, their leases, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from replicator.queue.attempt import CONTENT_GONE
from replicator.queue.best_effort import listen
from replicator.queue.client import BATCH, FAULTS, Queue
from replicator.queue.job import JsonValue, Lane, WorkerInfo
from replicator.queue.lane import LaneWorker, WorkerContext
from replicator.queue.lease import COMPARE_AGAIN_SECONDS, LeaseKeeper, RedisHealth
from replicator.queue.records import EPOCH, encode
from replicator.queue.status import heartbeat
from replicator.queue.waits import SilentKeys
from replicator.retry import RetryPolicy
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from replicator.queue.attempt import Answered, AttemptObserver
    from replicator.queue.history import Describe
    from replicator.queue.lease import Running

log = structlog.get_logger("replicator.queue")

_HAND_BACK_SECONDS = 5.0


class Worker:
    """Runs jobs of both lanes in this process.

    Args:
        queue: where the jobs are; it stays open when the worker ends.
        handler: runs a job: returns its outcome, or raises. A ``ReplicatorError`` is retried as its class says; any
            other exception is a bug, logged with its trace and retried a few times.
        concurrency: number of jobs at a time, by lane; a lane that is missing, or has 0, is not served.
        policy: decides when a failed job is retried.
        lease: seconds after which the jobs of a worker that died are taken over.
        drain: seconds that running jobs get after the first :meth:`stop`.
        timeout: seconds for which an attempt may stand still, see `Running.progress` and `Running.waiting`; None for
            no limit, if the handler has deadlines of its own.
        describe: says what the history keeps of a job that ended; None to keep nothing.
        answered: says which keys answered to an attempt that went well, see `replicator.queue.attempt.Answered`.
        observer: called with attempts that end.
        compare_again: seconds after the limit of a write to which no answer came until its destination is compared
            again.
        configuration: returns the digest of the one that the handler has in force; empty without one.

    Attributes:
        waiting: returns how many requests and bodies of the handlers wait for their turn at registries, by lane.
    """

    def __init__(  # the settings of a process, each with a default
        self,
        queue: Queue,
        handler: Callable[[Running], Awaitable[Mapping[str, JsonValue]]],
        *,
        concurrency: Mapping[Lane, int],
        policy: RetryPolicy | None = None,
        lease: float = 30.0,
        drain: float = 30.0,
        timeout: float | None = None,
        describe: Describe | None = None,
        answered: Answered | None = None,
        observer: AttemptObserver | None = None,
        compare_again: float = COMPARE_AGAIN_SECONDS,
        configuration: Callable[[], str] = str,
    ) -> None:
        self.id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.waiting: Callable[[], Mapping[Lane, int]] = dict
        self._queue = queue
        self._concurrency = {lane: concurrency[lane] for lane in Lane if concurrency.get(lane, 0) > 0}
        self._drain = drain
        self._started = datetime.now(UTC)
        self._lease = lease
        self._compare_again = compare_again
        self._observer = observer
        self._context = partial(
            WorkerContext,
            queue=queue,
            worker=self.id,
            handler=handler,
            policy=policy or RetryPolicy(),
            timeout=timeout,
            describe=describe,
            answered=answered,
            observer=observer,
            configuration=configuration,
        )
        self._lanes: list[LaneWorker] = []
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    def stop(self) -> None:
        """Stop: start no new jobs, let the running ones end within the drain time, then hand them back.

        A second call hands them back at once. Safe in a signal handler of the event loop.
        """
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()
        for lane in self._lanes:
            lane.stop_picking()

    async def run(self) -> None:
        """Run jobs until :meth:`stop`, through outages of Redis of any length. To be called once.

        Raises:
            ConfigError: it is a Redis Cluster over whose slots the prefix spreads the keys.
        """
        # Made now: the health of Redis is unknown for half a lease from the start.
        health = RedisHealth(self._lease)
        keeper = LeaseKeeper(self._queue, self._lease, health, self._observer, self._compare_again)
        waits = SilentKeys(self._queue, self._wake_lanes)
        context = self._context(keeper=keeper, health=health, waits=waits)
        self._lanes = [LaneWorker(lane, number, context) for lane, number in self._concurrency.items()]
        async with heartbeat(self._queue, "workers", self.id, self._record):
            try:
                await self._work(keeper, health, waits)
            finally:
                # Also when the worker is cancelled or fails: what still runs is another worker's at once.
                await self._hand_back()
        log.info("worker stopped", worker=self.id)

    def _wake_lanes(self) -> None:
        for lane in self._lanes:
            lane.wake.set()

    async def _work(self, keeper: LeaseKeeper, health: RedisHealth, waits: SilentKeys) -> None:
        wakes: dict[str, asyncio.Event] = {lane.lane: lane.wake for lane in self._lanes}
        wakes |= {"waits": waits.changed, "stops": keeper.hurry}
        try:
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(keeper.run()),
                    group.create_task(listen(self._queue, self._queue.wake_channel, wakes)),
                    group.create_task(self._sweep(health)),
                    group.create_task(waits.run()),
                ]
                try:
                    if not self._stop.is_set():
                        background += [group.create_task(lane.main()) for lane in self._lanes]
                        log.info("worker started", worker=self.id, concurrency=dict(self._concurrency))
                    await self._stop.wait()
                    await self._wait_for_jobs()
                    await self._hand_back()
                finally:
                    # Not left to the group, which cancels each once: a library may swallow that.
                    await cancel_all(background)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _job_tasks(self) -> set[asyncio.Task[None]]:
        return {task for lane in self._lanes for task in lane.tasks.values()}

    async def _wait_for_jobs(self) -> None:
        """Give running jobs the drain time, unless a second stop comes."""
        tasks = self._job_tasks()
        log.info("worker stopping", worker=self.id, running=len(tasks), drain_seconds=self._drain)
        hurry = asyncio.create_task(self._stop_now.wait())
        deadline = asyncio.get_running_loop().time() + self._drain
        try:
            while tasks and not self._stop_now.is_set():
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                await asyncio.wait({*tasks, hurry}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                # Asked again: a request under way when picking stopped may have started jobs since.
                tasks = self._job_tasks()
        finally:
            hurry.cancel()

    async def _hand_back(self) -> None:
        """Stop what still runs and put it back into the queue, within a few seconds."""
        for lane in self._lanes:
            lane.stop_picking()
            lane.cancel_jobs()
        tasks = self._job_tasks()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=_HAND_BACK_SECONDS)
        for task in late:
            # Its lease expires, and then another worker takes it over.
            log.warning("job not handed back", task=task.get_name())
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)

    async def _sweep(self, health: RedisHealth) -> None:
        """Repair, once, what a loss inside Redis or an older version of this program left behind.

        ``gen`` is the durable set of all pending jobs, ``rivals`` of those with jobs that wait behind them.
        """
        names, cursor, mended = ["gen", "rivals"], 0, 0
        while names:
            try:
                key = f"{self._queue.prefix}:{names[0]}"
                cursor, entries = await self._queue.redis.hscan(key, cursor, count=BATCH)
                if entries:
                    mended += len(await self._queue.run_script("sweep", CONTENT_GONE, *entries))
            except FAULTS as error:
                health.failed(error)
                await asyncio.sleep(1.0)
                continue
            if cursor == 0:
                del names[0]
        if mended:
            log.warning("pending jobs mended", jobs=mended)

    def _record(self) -> bytes:
        info = WorkerInfo(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._started,
            seen=EPOCH,
            running={lane.lane: lane.job_counter for lane in self._lanes},
            concurrency=self._concurrency,
            stopping=self._stop.is_set(),
            waiting=self.waiting(),
        )
        # An older version has no such field: it is left out while nothing waits.
        return encode(info, without={"seen"} if info.waiting else {"seen", "waiting"})
