"""Status of the queue for a report: counts, jobs that run or wait for a retry, workers, the reconcile."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from replicator.console import iso
from replicator.queue.reconciles import ReconcileState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.queue.client import Queue
    from replicator.queue.snapshot import Counts, RunningJob, WaitingJob, WorkerInfo


@dataclass(frozen=True, slots=True)
class Status:
    """The queue at one moment. Its parts are asked for one after the other, so they may differ by a job or two.

    Attributes:
        taken: when it was asked for (UTC).
        where: address of the queue, without its password.
        counts: jobs by state.
        running: running jobs, the oldest first.
        waiting: jobs that wait for a retry, the next one first; a thousand at most.
        workers: worker processes that are alive.
        reconcile: the scheduled reconcile that runs, and how the last one ended.
    """

    taken: datetime
    where: str
    counts: Counts
    running: Sequence[RunningJob]
    waiting: Sequence[WaitingJob]
    workers: Sequence[WorkerInfo]
    reconcile: ReconcileState

    @classmethod
    async def read(cls, queue: Queue) -> Self:
        """Ask the queue.

        Raises:
            QueueUnavailable: it does not answer.
        """
        return cls(
            taken=datetime.now(UTC),
            where=queue.where,
            counts=await queue.counts(),
            running=await queue.running(),
            waiting=await queue.waiting(),
            workers=await queue.workers(),
            reconcile=await ReconcileState.read(queue),
        )

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values; times are RFC 3339 in UTC, ``bytes`` is what was read from the source so far."""
        return {
            "taken": iso(self.taken),
            "queue": self.where,
            "lanes": {
                str(lane): {"queued": count.queued, "running": count.running, "waiting": count.waiting}
                for lane, count in self.counts.lanes.items()
            },
            "dead": self.counts.dead,
            "running": [
                {
                    "destination": job.id,
                    "lane": str(job.lane),
                    "since": iso(job.since),
                    "bytes": job.bytes_done,
                    "tries": job.tries,
                    "worker": job.worker,
                }
                for job in self.running
            ],
            "waiting": [
                {
                    "destination": job.id,
                    "lane": str(job.lane),
                    "error_class": str(job.error_class),
                    "message": job.message,
                    "tries": job.tries,
                    "first": iso(job.first),
                    "next": iso(job.due),
                }
                for job in self.waiting
            ],
            "workers": [
                {
                    "id": worker.id,
                    "host": worker.host,
                    "pid": worker.pid,
                    "started": iso(worker.started),
                    "seen": iso(worker.seen),
                    "running": {str(lane): number for lane, number in worker.running.items()},
                    "concurrency": {str(lane): number for lane, number in worker.concurrency.items()},
                    "stopping": worker.stopping,
                }
                for worker in self.workers
            ],
            **self._reconcile_json(),
        }

    def _reconcile_json(self) -> dict[str, Any]:
        """Give the reconciles; nothing when there never was one."""
        running, last = self.reconcile.running, self.reconcile.last
        if running is None and last is None:
            return {}
        now = {
            "since": iso(running.since),
            "host": running.host,
            "pid": running.pid,
            "listed": running.progress.listed,
            "done": running.progress.done,
        } if running is not None else None  # fmt: skip
        return {"reconcile": {"running": now, "last": last.to_json() if last is not None else None}}
