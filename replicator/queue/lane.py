"""The worker of one lane: an ``arq.worker.Worker`` that picks, runs and ends jobs its own way.

From arq come the form of jobs, the names of keys, the register of functions, the context that a function is given and
the tables of what runs (``tasks``, ``job_tasks``, ``job_counter``). Three of its methods are replaced, each because of
arq's own version could lose a job; every difference from arq is in this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import arq.worker
import structlog

from replicator.errors import ErrorClass
from replicator.queue.attempt import CONTENT_GONE, Ending, StartedJob, encode_answered, failed, log_end, succeeded
from replicator.queue.client import FAULTS, Queue
from replicator.queue.history import describe_end, encode_entry, lag_ms
from replicator.queue.job import FUNCTION, JsonValue, Lane, QueueError, decode_job
from replicator.queue.lease import Lease, LeaseKeeper, RedisHealth, Running
from replicator.queue.records import dump_json, load_json
from replicator.queue.waits import SilentKeys
from replicator.retry import StoodStill, ends_on_standstill

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from replicator.queue.attempt import Answered, AttemptObserver
    from replicator.queue.history import Describe
    from replicator.queue.job import StoredJob
    from replicator.retry import RetryPolicy

log = structlog.get_logger("replicator.queue")

POLL_SECONDS = 2.0
"""The most that a lost announcement of work costs."""

_LAPSES_ALLOWED = 3
_LENT_SLOTS = 3
"""Slots that a lane lends at most, as a multiple of its own: what runs at once stays bounded."""
_CANCELLED_PAUSE = 5.0
"""Seconds before a job runs again whose handler cancelled itself: without a pause it would loop."""


class JobTimedOut(QueueError):
    """Nothing moved in a job for too long."""


class WorkerDied(QueueError):
    """Workers that ran this job died, several times in a row."""


class Unreadable(QueueError):
    """The stored job can't be run."""

    error_class = ErrorClass.PERMANENT


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """The parts that the lanes of one worker process share.

    Attributes:
        worker: the process's id.
        handler: runs a job.
        policy: decides when a failed job is retried.
        timeout: seconds that an attempt may stand still; None for no limit.
        keeper: renews the leases.
        health: learns whether Redis answers.
        waits: the keys that do not answer.
        describe: says what the history keeps of a job that ended; None to keep nothing.
        answered: says which keys answered to an attempt that went well; None if that is not known.
        observer: called with attempts that end.
        configuration: returns the digest of the one that the handler has in force; empty without one.
    """

    queue: Queue
    worker: str
    handler: Callable[[Running], Awaitable[Mapping[str, JsonValue]]]
    policy: RetryPolicy
    timeout: float | None
    keeper: LeaseKeeper
    health: RedisHealth
    waits: SilentKeys
    describe: Describe | None
    answered: Answered | None
    observer: AttemptObserver | None
    configuration: Callable[[], str]


class LaneWorker(arq.worker.Worker):
    """Runs the jobs of one lane.

    Args:
        lane: which one.
        concurrency: number of jobs at a time.
        context: the parts that the lanes share.
    """

    def __init__(self, lane: Lane, concurrency: int, context: WorkerContext) -> None:
        super().__init__(
            functions=[arq.worker.func(self._handle, name=FUNCTION, timeout=context.timeout)],
            queue_name=context.queue.lane_queue(lane),
            redis_pool=context.queue.redis,
            handle_signals=False,
            max_jobs=concurrency,
            keep_result=0,
            job_serializer=dump_json,
            job_deserializer=load_json,
        )
        self.lane = lane
        self.wake = asyncio.Event()
        self._context = context
        self._queue = context.queue
        self._health = context.health
        self._lease = context.keeper.seconds
        self._started: dict[str, StartedJob] = {}
        self._contents: dict[str, bytes] = {}
        self._unheard: str | None = None
        self._pause: float | None = 0.0
        self._stopping = False

    async def main(self) -> None:
        """Start jobs until :meth:`stop_picking`; running jobs continue.

        arq's own looks twice a second, so that an event waits half of that on average, and a fault of Redis ends the
        process. This one is woken by an announcement, by the end of a job and when the next job is due:
        ``test_an_event_is_picked_up_when_it_is_announced_and_not_at_the_next_poll``,
        ``test_a_worker_that_starts_before_redis_does_waits_for_it``.
        """
        while self.allow_pick_jobs:
            # Cleared before the look: an announcement during the look is not missed.
            self.wake.clear()
            await self.start_jobs()
            # Not asyncio.wait_for, which can swallow a cancellation on Python 3.11.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self.wake.wait()

    async def start_jobs(self, job_ids: Sequence[bytes] = ()) -> None:
        """Start what is due, as far as there are slots, and set the pause until the next look.

        arq's own is given the first ids of the queue, at least a hundred: what runs elsewhere stays there, and hides
        what is behind it. It takes leases one by one that last as long as a job may run, so a killed worker's jobs
        wait for that long. Here one script picks and takes short leases:
        ``test_entries_that_run_elsewhere_do_not_keep_an_idle_worker_from_what_is_behind_them``,
        ``test_the_job_of_a_killed_worker_is_run_by_another_when_its_lease_expires_and_no_attempt_is_counted``.

        Args:
            job_ids: arq's parameter; the script picks for itself.
        """
        free = self.max_jobs - self.job_counter + self._lent()
        if free <= 0:
            self._pause = None  # the end of a job wakes
            return
        takeover = self._health.takeover
        # A request whose answer got lost may have taken leases: sent again with its token it gives the same jobs.
        again, token = self._unheard is not None, self._unheard or f"{self._context.worker}:{uuid4().hex}"
        lease_ms = int(self._lease * 1000)
        horizon = int(self._context.policy.horizon * 1000)
        worker, rules = self._context.worker, self._context.configuration()
        arguments = (self.lane, free, token, worker, lease_ms, int(takeover), int(again), horizon, rules)
        try:
            due_ms, *replies = await self._queue.run_script("claim", *arguments)
        except FAULTS as error:
            self._unheard = token
            self._health.failed(error)
            self._pause = random.uniform(0.1, 0.5)  # noqa: S311 - spreads workers, hides nothing
            return
        self._unheard = None
        self._health.succeeded()
        for reply in replies:
            try:
                self._start(StartedJob.read(reply))
            except ValueError:
                # The leases of the whole reply are ours: one record that can't be read must not strand the others.
                # Its own job is picked again when its lease expires.
                log.exception("job not started", id=reply[0].decode(errors="replace"))
        self._pause = POLL_SECONDS if due_ms < 0 else min(POLL_SECONDS, due_ms / 1000)
        if not takeover:
            # Jobs of workers that may be dead are due already and will not wake anybody.
            self._pause = min(self._pause, self._lease / 4)

    async def run_job(self, job_id: str, score: int) -> None:
        """Run one attempt from its lease to its record.

        arq's own deletes a job when it ends, although the tag was pushed again meanwhile; an exception is final and
        leaves no dead letter; a shutdown counts as an attempt; a fault of Redis at the end leaks the slot. Here one
        script ends the job and minds all of that, repeated until Redis has taken it:
        ``test_a_push_during_a_copy_is_copied_again_after_it_and_not_beside_it``,
        ``test_what_cannot_succeed_is_a_dead_letter_at_once``,
        ``test_what_is_not_done_when_the_drain_time_is_over_is_handed_back_first_in_line_without_an_attempt``,
        ``test_a_copy_goes_on_while_redis_is_away_and_its_result_is_recorded_when_it_is_back``.

        Args:
            job_id: the job's id for arq, with the prefix of the installation.
            score: when it was due, in milliseconds since 1970.
        """
        job = self._started.pop(job_id)
        began = self.loop.time()
        lease = Lease(job.id, job.record, began)
        self._context.keeper.add(lease)
        try:
            ending = await self._attempt(job, lease, job_id, score)
            if ending is not None:
                await self._end(job, lease, ending, self.loop.time() - began)
        finally:
            self._context.keeper.remove(lease)

    def stop_picking(self) -> None:
        """Start no more jobs."""
        self.allow_pick_jobs = False
        self.wake.set()

    def cancel_jobs(self) -> None:
        """Stop the handlers; their jobs are handed back."""
        self._stopping = True
        for task in self.job_tasks.values():
            task.cancel()

    def _start(self, job: StartedJob) -> None:
        job_id = f"{self._queue.prefix}:{job.id}"
        self.job_counter += 1
        self._started[job_id] = job
        self._contents[job_id] = job.job or b""
        task = self.loop.create_task(self.run_job(job_id, int(job.record.due)), name=f"job {job.id}")
        self.tasks[job_id] = task
        task.add_done_callback(lambda _: self._ended(job, job_id, task))

    def _ended(self, job: StartedJob, job_id: str, task: asyncio.Task[None]) -> None:
        self.job_counter -= 1
        # After a lost lease this worker may run the job again while the first attempt still ends.
        if self.tasks.get(job_id) is task:
            del self.tasks[job_id]
            self._contents.pop(job_id, None)
        self.wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job not finished", id=job.id, exc_info=error)

    def _lent(self) -> int:
        """Return the number of lent slots: jobs that need a key without an answer must not delay other jobs."""
        keys = self._context.waits.keys
        if not keys:
            return 0
        lent = sum(any(key in content for key in keys) for content in self._contents.values())
        return min(lent, _LENT_SLOTS * self.max_jobs)

    async def _attempt(self, job: StartedJob, lease: Lease, job_id: str, score: int) -> Ending | None:
        """Run the handler. None: another worker has the job now."""
        if self._stopping:
            return Ending("release")
        began = self.loop.time()
        policy = self._context.policy
        try:
            stored = self._read(job)
        except QueueError as unfit:
            return failed(job, unfit, policy=policy, lane=self.lane, payload=None, seconds=0.0)
        call = self._call(job, stored, lease, job_id, score)
        task = self.loop.create_task(call, name=f"handler {job.id}")
        lease.task = self.job_tasks[job_id] = task
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            if self.job_tasks.get(job_id) is task:
                del self.job_tasks[job_id]
        seconds = self.loop.time() - began
        error = None if task.cancelled() else task.exception()
        if (lease.lost or lease.ends) and (task.cancelled() or error is not None):
            return None if lease.lost else Ending("cancel" if lease.ends == "cancel" else "release")
        # While stopping, an error may be no more than the handler's way of taking its cancellation.
        if task.cancelled() or (self._stopping and error is not None):
            return Ending("release", delay=0.0 if self._stopping else _CANCELLED_PAUSE)
        if error is None:
            try:
                return succeeded(job, task.result(), stored.payload, seconds, job.record.lag(seconds))
            except (TypeError, ValueError) as wrong_outcome:
                error = wrong_outcome
        return failed(job, error, policy=policy, lane=self.lane, payload=stored.payload, seconds=seconds)

    def _read(self, job: StartedJob) -> StoredJob:
        """Read the stored job.

        Raises:
            Unreadable: it can't be run.
            WorkerDied: it should wait instead of taking one more worker down.
        """
        if job.job is None:
            raise Unreadable(CONTENT_GONE)
        try:
            stored = decode_job(job.job)
        except ValueError as error:
            raise Unreadable(str(error)) from error
        if stored.function not in self.functions:
            raise Unreadable(f"the stored job asks for the function {stored.function!r}, which is unknown here")
        if job.record.lapses > _LAPSES_ALLOWED:
            raise WorkerDied(f"its worker died or lost Redis {job.record.lapses} times in a row during this copy")
        return stored

    def _call(
        self, job: StartedJob, stored: StoredJob, lease: Lease, job_id: str, score: int
    ) -> Coroutine[Any, Any, Mapping[str, JsonValue]]:
        """Call arq's function with the context that arq gives to one, and the running job beside it."""
        running = Running(
            lease,
            self._context.keeper,
            payload=stored.payload,
            lane=self.lane,
            tries=job.failures + 1,
            enqueued_at=stored.enqueued_at,
            merged=job.merged,
            lapsed=job.record.lapses > 0,
            pushed=job.record.pushed,
            fails_as=job.fails_as,
            asked=job.asked,
            owned=job.owned,
        )
        context = {
            **self.ctx,
            "job_id": job_id,
            "job_try": running.tries,
            "enqueue_time": stored.enqueued_at,
            "score": score,
            "running": running,
        }
        return self.functions[stored.function].coroutine(context, payload=stored.payload)

    async def _handle(self, ctx: dict[Any, Any], *_: Any, **__: Any) -> Mapping[str, JsonValue]:
        """Run the handler as long as something moves: the one function in arq's register."""
        running: Running = ctx["running"]
        timeout = self._context.timeout
        try:
            async with ends_on_standstill(timeout):
                return await self._context.handler(running)
        except StoodStill as error:
            why = f"{error.why}; {running.bytes_done} bytes had been read"
            raise JobTimedOut(error.what, why, error.do) from None

    async def _end(self, job: StartedJob, lease: Lease, ending: Ending, seconds: float) -> None:
        """Record how an attempt ended, repeatedly until Redis has taken it."""
        description = describe_end(self._context.describe, self.lane, ending)
        entry = encode_entry(job, self.lane, ending, seconds, description)
        lag = lag_ms(self.lane, ending, seconds, description)
        wait, horizon = ending.wait, int(self._context.policy.horizon * 1000)
        failures = job.failures + (wait is None)
        unanswered = "1" if lease.unanswered else ""
        facts = (job.record.token, job.generation, self.lane, ending.how, int(ending.delay * 1000), failures)
        waiting: tuple[str | bytes | int, ...] = encode_answered(self._context.answered, ending)
        if ending.how == "foreign":
            waiting = (ending.left_to,)
        if wait is not None:
            since, patience = int(wait.since * 1000), int(wait.patience * 1000)
            waiting = (wait.key, since, patience, horizon, ending.why, ending.waited)
        pause, attempts = 0.05, 0
        while True:
            attempts += 1
            try:
                arguments = (job.id, *facts, ending.finished, ending.note, entry, lag, unanswered, *waiting)
                answer = await self._queue.run_script("finish", *arguments)
                break
            except FAULTS as error:
                self._health.failed(error)
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
        self._health.succeeded()
        ended = answer.decode()
        if lease.unanswered and ended != "lost":
            log.warning("tag write unanswered", id=job.id, how=ended)
        log_end(job, self.lane, ending, ended, seconds, attempts)
        if (observer := self._context.observer) is None:
            return
        if ended != "lost":
            if (attempt := ending.report(job, self.lane, ended, seconds)) is not None:
                observer.attempt_ended(attempt)
        elif attempts == 1 and not lease.lost:
            observer.lease_lost()
