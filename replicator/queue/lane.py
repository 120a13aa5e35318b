"""One lane's worker: arq's, with what arq gets wrong for this job replaced.

From arq come the form of jobs, the names of keys, the register of functions and the account of what runs. Replaced
are: how jobs are picked (one script that takes the lease, woken by pub/sub), how they end (one script that minds
newer enqueues, retries and dead letters), and what an outage of Redis does (nothing: it is waited for).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import arq.worker
import structlog

from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue.attempt import Claim, Ending
from replicator.queue.client import FAULTS, Queue
from replicator.queue.history import describe_end, encode_entry, lag_ms
from replicator.queue.job import (
    FUNCTION,
    JsonValue,
    Lane,
    QueueError,
    decode_job,
    dump_json,
    encode_finished,
    load_json,
)
from replicator.queue.lease import Lease, LeaseKeeper, Running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from replicator.queue.attempt import AttemptObserver
    from replicator.queue.history import Describe
    from replicator.queue.job import RetryPolicy
    from replicator.queue.lease import RedisHealth

log = structlog.get_logger("replicator.queue")

POLL_SECONDS = 2.0
"""The most that a lost announcement of work costs."""

_LAPSES_ALLOWED = 3
_MESSAGE_LENGTH = 2000
_CANCELLED_PAUSE = 5.0


class JobTimedOut(QueueError):
    """A job took longer than a job may."""


class WorkerDied(QueueError):
    """Workers that ran this job died, several times in a row."""


class Unreadable(QueueError):
    """What is stored of a job can't be run."""

    error_class = ErrorClass.PERMANENT


class LaneWorker(arq.worker.Worker):
    """Picks and runs the jobs of one lane.

    Args:
        queue: where they are.
        lane: which of them.
        handler: what runs a job.
        concurrency: how many at a time.
        policy: when failed ones are tried again.
        lease: seconds of a lease.
        timeout: seconds that a try may take.
        keeper: renews the leases.
        contact: told whether Redis answers.
        worker: this process's name.
        describe: says what the history keeps of a job that ended; None to keep none.
        observer: told how tries end.
    """

    def __init__(
        self,
        queue: Queue,
        lane: Lane,
        handler: Callable[[Running], Awaitable[Mapping[str, JsonValue]]],
        *,
        concurrency: int,
        policy: RetryPolicy,
        lease: float,
        timeout: float,
        keeper: LeaseKeeper,
        contact: RedisHealth,
        worker: str,
        observer: AttemptObserver,
        describe: Describe | None = None,
    ) -> None:
        super().__init__(
            functions=[arq.worker.func(self._call_handler, name=FUNCTION, timeout=timeout)],
            queue_name=queue.lane_queue(lane),
            redis_pool=queue.redis,
            handle_signals=False,
            max_jobs=concurrency,
            keep_result=0,
            job_serializer=dump_json,
            job_deserializer=load_json,
        )
        self.lane = lane
        self.wake = asyncio.Event()
        self._queue = queue
        self._handler = handler
        self._policy = policy
        self._lease = lease
        self._timeout = timeout
        self._keeper = keeper
        self._contact = contact
        self._worker = worker
        self._describe = describe
        self._observer = observer
        self._unheard: str | None = None
        self._pause: float | None = 0.0
        self._stopping = False

    async def main(self) -> None:
        """Pick jobs until :meth:`stop_picking`; those that run then go on."""
        while self.allow_pick_jobs:
            # Cleared before looking: what is announced while looking is not missed.
            self.wake.clear()
            await self._poll_iteration()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self.wake.wait()

    def stop_picking(self) -> None:
        """Start no more jobs."""
        self.allow_pick_jobs = False
        self.wake.set()

    def cancel_jobs(self) -> None:
        """Stop the handlers; their jobs are handed back."""
        self._stopping = True
        for task in self.job_tasks.values():
            task.cancel()

    async def _poll_iteration(self) -> None:
        """Start what is due, as far as there are slots, and decide how long to wait for more."""
        free = self.max_jobs - self.job_counter
        if free <= 0:
            self._pause = None  # the end of a job wakes
            return
        # A claim whose answer was not heard may have been made: asking again with its token gives the same jobs.
        takeover = self._contact.takeover
        again, token = self._unheard is not None, self._unheard or f"{self._worker}:{uuid4().hex}"
        try:
            due_ms, *claimed = await self._queue.run_script(
                "claim",
                self.lane,
                free,
                token,
                self._worker,
                int(self._lease * 1000),
                int(takeover),
                int(again),
            )
        except FAULTS as error:
            self._unheard = token
            self._contact.failed(error)
            self._pause = random.uniform(0.1, 0.5)  # noqa: S311 - spreads workers, hides nothing
            return
        self._unheard = None
        self._contact.succeeded()
        for reply in claimed:
            self._start(Claim.read(reply))
        self._pause = POLL_SECONDS if due_ms < 0 else min(POLL_SECONDS, due_ms / 1000)
        if not takeover:
            self._pause = min(self._pause, self._lease / 4)

    def _start(self, claim: Claim) -> None:
        self.job_counter += 1
        task = self.loop.create_task(self._run(claim), name=f"job {claim.id}")
        self.tasks[claim.id] = task
        task.add_done_callback(lambda _: self._ended(claim, task))

    def _ended(self, claim: Claim, task: asyncio.Task[None]) -> None:
        self.job_counter -= 1
        if self.tasks.get(claim.id) is task:
            del self.tasks[claim.id]
        self.wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job not finished", id=claim.id, exc_info=error)

    async def _run(self, claim: Claim) -> None:
        """Run one try from its start to its record."""
        lease = Lease(claim.id, claim.record["token"], claim.record, self.loop.time())
        self._keeper.add(lease)
        began = self.loop.time()
        try:
            verdict = await self._try(claim, lease)
            if verdict is not None:
                await self._finish(claim, lease, verdict, self.loop.time() - began)
        finally:
            self._keeper.remove(lease)

    async def _try(self, claim: Claim, lease: Lease) -> Ending | None:
        """Run the handler. None: the job is another's now."""
        if self._stopping:
            return Ending("release")
        began = self.loop.time()
        payload: Mapping[str, Any] | None = None
        try:
            call, payload = self._prepare(claim, lease)
        except QueueError as unfit:
            return self._failed(claim, unfit, 0.0, payload)
        task = self.loop.create_task(call, name=f"handler {claim.id}")
        lease.task = self.job_tasks[claim.id] = task
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            if self.job_tasks.get(claim.id) is task:
                del self.job_tasks[claim.id]
        seconds = self.loop.time() - began
        lag = None if claim.pushed is None else max(0.0, time.time() - claim.pushed.timestamp())
        error = None if task.cancelled() else task.exception()
        if lease.lost and (task.cancelled() or error is not None):
            return None
        # An error while stopping may be no more than how the handler takes its cancellation.
        if task.cancelled() or (self._stopping and error is not None):
            return Ending("release", delay=0.0 if self._stopping else _CANCELLED_PAUSE)
        if error is None:
            try:
                outcome = task.result()
                record = encode_finished(claim.id, tries=claim.failures + 1, seconds=seconds, outcome=outcome)
                return Ending("done", record=record, payload=payload, outcome=outcome, lag=lag)
            except (TypeError, ValueError) as wrong_outcome:
                error = wrong_outcome
        return self._failed(claim, error, seconds, payload)

    def _prepare(self, claim: Claim, lease: Lease) -> tuple[Any, Mapping[str, Any]]:
        """Give the coroutine that runs the job, and its payload.

        Raises:
            Unreadable: the stored job can't be run.
            WorkerDied: it should wait instead of taking one more worker down.
        """
        if claim.job is None:
            raise Unreadable("its content is gone from Redis; push the tag again, and set maxmemory-policy noeviction")
        try:
            stored = decode_job(claim.job)
        except ValueError as error:
            raise Unreadable(str(error)) from error
        if stored.function not in self.functions:
            raise Unreadable(f"the stored job asks for the function {stored.function!r}, which is unknown here")
        if claim.record["lapses"] > _LAPSES_ALLOWED:
            raise WorkerDied(f"its worker died or lost Redis {claim.record['lapses']} times in a row while running it")
        running = Running(
            lease,
            self._keeper,
            payload=stored.payload,
            lane=self.lane,
            tries=claim.failures + 1,
            enqueued_at=stored.enqueued_at,
            merged=claim.merged,
            pushed=claim.pushed,
        )
        context = {"job_id": claim.id, "job_try": running.tries, "running": running}
        return self.functions[stored.function].coroutine(context, payload=stored.payload), stored.payload

    async def _call_handler(self, ctx: dict[Any, Any], *_: Any, **__: Any) -> Mapping[str, JsonValue]:
        """Be the function that arq knows: the handler, within its time."""
        running: Running = ctx["running"]
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await self._handler(running)
        except TimeoutError:
            if limit.expired():
                raise JobTimedOut(f"not done within {self._timeout:g} s, the time a job may take") from None
            raise

    def _failed(self, claim: Claim, error: BaseException, seconds: float, payload: Mapping[str, Any] | None) -> Ending:
        """Decide by the error's class what becomes of the job."""
        expected = isinstance(error, ReplicatorError)
        error_class, retry_after = ErrorClass.TRANSIENT, None
        message = str(error) or type(error).__name__
        if isinstance(error, ReplicatorError):
            error_class, retry_after = error.error_class, error.retry_after
        else:
            message = f"unexpected {type(error).__name__}: {message}"
            log.error("job raised unexpectedly", id=claim.id, exc_info=error)
        now = claim.record["since"] + seconds * 1000
        first = now if claim.first_failure is None else claim.first_failure
        failures = claim.failures + 1
        delay = self._policy.delay(
            error_class,
            failures=failures,
            elapsed=(now - first) / 1000,
            luck=random.random(),  # noqa: S311 - spreads tries, hides nothing
            retries=claim.retries,
            retry_after=retry_after,
            expected=expected,
        )
        told = {"id": claim.id, "error_class": error_class, "message": message[:_MESSAGE_LENGTH], "tries": failures}
        times = {"first": int(first), "last": int(now)}
        record = encode_finished(
            claim.id,
            tries=failures,
            seconds=seconds,
            error=message[:_MESSAGE_LENGTH],
            error_class=error_class,
            retrying=delay is not None,
        )
        if delay is None:
            note = dump_json({**told, **times, "lane": self.lane, "payload": payload})
        else:
            note = dump_json({**told, **times})
        return Ending(
            "retry" if delay is not None else "dead",
            delay=delay or 0.0,
            failures=failures,
            record=record,
            note=note,
            payload=payload,
            error_class=error_class,
        )

    async def _finish(self, claim: Claim, lease: Lease, verdict: Ending, seconds: float) -> None:
        """Record how a try ended, again until Redis has taken it."""
        description = describe_end(self._describe, self.lane, verdict)
        entry = encode_entry(claim, self.lane, verdict, seconds, description)
        lag = lag_ms(self.lane, verdict, seconds, description)
        pause, attempts = 0.05, 0
        while True:
            attempts += 1
            try:
                answer = await self._queue.run_script(
                    "finish",
                    claim.id,
                    claim.record["token"],
                    claim.generation,
                    self.lane,
                    verdict.how,
                    int(verdict.delay * 1000),
                    verdict.failures,
                    verdict.record,
                    verdict.note,
                    entry,
                    lag,
                )
                break
            except FAULTS as error:
                self._contact.failed(error)
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
        self._contact.succeeded()
        ended = answer.decode()
        if ended != "lost":
            self._tell(claim, verdict, ended, seconds)
        elif attempts == 1 and not lease.lost:
            self._observer.lease_lost()
        self._account(claim, verdict, ended, seconds, attempts)

    def _tell(self, claim: Claim, verdict: Ending, ended: str, seconds: float) -> None:
        """Tell the observer of a try that ended."""
        attempt = verdict.told(claim, self.lane, ended, seconds)
        if attempt is not None:
            self._observer.attempt_ended(attempt)

    def _account(self, claim: Claim, verdict: Ending, ended: str, seconds: float, attempts: int) -> None:
        """Count and log how a try ended."""
        facts: dict[str, Any] = {"id": claim.id, "lane": self.lane.value, "seconds": round(seconds, 3)}
        if ended == "lost":
            # After a repetition it may be that the first time was heard and only its answer was not.
            log.log(30 if attempts == 1 else 20, "job result not taken", how=verdict.how, attempts=attempts, **facts)
            return
        if verdict.how == "done":
            self.jobs_complete += 1
        elif verdict.how == "dead":
            self.jobs_failed += 1
        else:
            self.jobs_retried += 1
        if ended == "queued again":
            log.info("job queued again", how=verdict.how, **facts)
        elif ended == "done":
            log.debug("job done", tries=claim.failures + 1, **facts)
        elif ended == "release":
            log.info("job handed back", **facts)
        else:
            told = load_json(verdict.note)
            facts |= {"error_class": told["error_class"], "error": told["message"], "tries": told["tries"]}
            if ended == "dead":
                log.error("job dead", **facts)
            else:
                log.warning("job failed", retry_in_seconds=round(verdict.delay, 1), **facts)
