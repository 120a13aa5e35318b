"""A worker process: both lanes, their leases, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from replicator.queue.attempt import Unobserved
from replicator.queue.best_effort import listen
from replicator.queue.client import BATCH, FAULTS, WORKER_ALIVE_MS, Queue
from replicator.queue.job import JsonValue, Lane, RetryPolicy, dump_json
from replicator.queue.lane import LaneWorker
from replicator.queue.lease import LeaseKeeper, RedisHealth
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from replicator.queue.attempt import AttemptObserver
    from replicator.queue.history import Describe
    from replicator.queue.lease import Running

log = structlog.get_logger("replicator.queue")

_HEARTBEAT_SECONDS = 5.0
_HAND_BACK_SECONDS = 5.0
_CONTENT_GONE = "its content is gone from Redis; push the tag again, and set maxmemory-policy noeviction"


class Worker:
    """Runs jobs of both lanes in this process.

    Args:
        queue: where the jobs are; it stays open when the worker ends.
        handler: runs a job: returns its outcome, or raises. A ``ReplicatorError`` is tried again as its class says;
            any other exception is a bug, logged with its trace and tried again a few times.
        concurrency: how many jobs at a time, by lane; a lane that is missing, or has 0, is not served.
        policy: when a failed job is tried again.
        lease: seconds after which the jobs of a worker that died are taken over.
        drain: seconds that running jobs get after the first :meth:`stop`.
        timeout: seconds that one try of a job may take.
        describe: says what the history keeps of a job that ended; None to keep none.
        observer: told how tries end.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Callable[[Running], Awaitable[Mapping[str, JsonValue]]],
        *,
        concurrency: Mapping[Lane, int],
        policy: RetryPolicy | None = None,
        lease: float = 30.0,
        drain: float = 30.0,
        timeout: float = 3600.0,
        describe: Describe | None = None,
        observer: AttemptObserver | None = None,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._concurrency = {lane: concurrency[lane] for lane in Lane if concurrency.get(lane, 0) > 0}
        self._policy = policy or RetryPolicy()
        self._lease = lease
        self._drain = drain
        self._timeout = timeout
        self._describe = describe
        self._observer = observer or Unobserved()
        self.id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._started = int(time.time() * 1000)
        self._lanes: list[LaneWorker] = []
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    def stop(self) -> None:
        """End: take no new jobs, let the running ones end within the drain time, then hand them back.

        Called a second time: hand them back at once. Safe in a signal handler of the event loop.
        """
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()
        for lane in self._lanes:
            lane.stop_picking()

    async def run(self) -> None:
        """Run jobs until :meth:`stop`. Redis going away, for however long, does not end it. To be called once.

        Raises:
            ConfigError: the queue is on a Redis Cluster.
        """
        contact = RedisHealth(self._lease)
        keeper = LeaseKeeper(self._queue, self._lease, contact, self._observer)
        self._lanes = [
            LaneWorker(
                self._queue,
                lane,
                self._handler,
                concurrency=number,
                policy=self._policy,
                lease=self._lease,
                timeout=self._timeout,
                keeper=keeper,
                contact=contact,
                worker=self.id,
                describe=self._describe,
                observer=self._observer,
            )
            for lane, number in self._concurrency.items()
        ]
        try:
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(keeper.run()),
                    group.create_task(
                        listen(self._queue, self._queue.wake_channel, {lane.lane: lane.wake for lane in self._lanes})
                    ),
                    group.create_task(self._show_life()),
                    group.create_task(self._sweep(contact)),
                ]
                if not self._stop.is_set():
                    for lane in self._lanes:
                        group.create_task(lane.main())
                    log.info("worker started", worker=self.id, concurrency=dict(self._concurrency))
                await self._stop.wait()
                await self._wait_for_jobs()
                await self._hand_back()
                await cancel_all(background)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._hand_back()
            await self._say_goodbye()
        log.info("worker stopped", worker=self.id)

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
            # Its lease lapses, and then another worker takes it over.
            log.warning("job not handed back", task=task.get_name())
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)

    async def _sweep(self, contact: RedisHealth) -> None:
        """Put right, once, what a loss inside Redis left behind."""
        cursor, mended = 0, 0
        while True:
            try:
                cursor, entries = await self._queue.redis.hscan(f"{self._queue.prefix}:gen", cursor, count=BATCH)
                if entries:
                    mended += len(await self._queue.run_script("sweep", _CONTENT_GONE, *entries))
            except FAULTS as error:
                contact.failed(error)
                await asyncio.sleep(1.0)
                continue
            if cursor == 0:
                break
        if mended:
            log.warning("pending jobs mended", jobs=mended)

    async def _show_life(self) -> None:
        while True:
            with contextlib.suppress(*FAULTS):
                await self._queue.run_script("heartbeat", "workers", self.id, self._record(), WORKER_ALIVE_MS)
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    def _record(self) -> bytes:
        return dump_json(
            {
                "id": self.id,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": self._started,
                "running": {lane.lane: lane.job_counter for lane in self._lanes},
                "concurrency": self._concurrency,
                "stopping": self._stop.is_set(),
            }
        )

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(1.0):
                await self._queue.run_script("heartbeat", "workers", self.id, "", 0)
