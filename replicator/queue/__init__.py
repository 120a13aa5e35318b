"""A durable queue of jobs on Redis, with arq as its engine. It knows no registry and no HTTP.

A job is an id, the destination reference, and a payload. Jobs with one id are merged, never run at the same time, and
run again when they were enqueued while running; nothing that was taken is lost.

On the same Redis the processes of an installation take turns at what only one of them should do (``RedisSharing``,
``Reconciles``, ``Notices``), and remember for each other what was found of images (``RedisMemory``) and seen at
destinations (``Checks``).
"""

from replicator.queue.attempt import Try, TryEnd, TryObserver
from replicator.queue.blob_locks import RedisSharing
from replicator.queue.client import Queue
from replicator.queue.dead_letters import LetterPart
from replicator.queue.embedded import embedded_server
from replicator.queue.history import Description, Ended, History, LagSpan
from replicator.queue.job import Finished, Job, JsonValue, Lane, LeaseLost, QueueError, QueueUnavailable, RetryPolicy
from replicator.queue.lease import Running
from replicator.queue.memory import Checks, RedisMemory
from replicator.queue.notices import Buried, Complaint, Notices, Turn
from replicator.queue.processes import InForce, ProcessInfo, announced, processes
from replicator.queue.reconciles import (
    Findings,
    Progress,
    ReconcileLease,
    ReconcileResult,
    Reconciles,
    ReconcileState,
    RunningReconcile,
)
from replicator.queue.snapshot import Counts, DeadLetter, LaneCounts, RunningJob, WaitingJob, WorkerInfo
from replicator.queue.status import Status
from replicator.queue.worker import Worker

__all__ = [
    "Buried",
    "Checks",
    "Complaint",
    "Counts",
    "DeadLetter",
    "Description",
    "Ended",
    "Findings",
    "Finished",
    "History",
    "InForce",
    "Job",
    "JsonValue",
    "LagSpan",
    "Lane",
    "LaneCounts",
    "LeaseLost",
    "LetterPart",
    "Notices",
    "ProcessInfo",
    "Progress",
    "Queue",
    "QueueError",
    "QueueUnavailable",
    "ReconcileLease",
    "ReconcileResult",
    "ReconcileState",
    "Reconciles",
    "RedisMemory",
    "RedisSharing",
    "RetryPolicy",
    "Running",
    "RunningJob",
    "RunningReconcile",
    "Status",
    "Try",
    "TryEnd",
    "TryObserver",
    "Turn",
    "WaitingJob",
    "Worker",
    "WorkerInfo",
    "announced",
    "embedded_server",
    "processes",
]
