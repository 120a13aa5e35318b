"""A durable queue of jobs on Redis, with arq as its engine. It knows no registry and no HTTP.

A job is an id, the destination reference, and a payload. Jobs with one id are merged, never run at the same time, and
run again when they were enqueued while running; nothing that was accepted is lost.

On the same Redis the processes of an installation elect one of them for work of a single process (``RedisBlobLocks``,
``Reconciles``, ``Notices``), and share what they learned of images (``RedisSelectionStore``), read at
destinations (``RedisSurveyStore``) and observed there (``Observations``). They tell each other what pushes move
(``PushNews``).
"""

from replicator.queue.attempt import Attempt, AttemptEnd, AttemptObserver
from replicator.queue.best_effort import PushNews
from replicator.queue.blob_locks import RedisBlobLocks
from replicator.queue.cause_reader import CauseReader, letters_of, read_letters, sample_causes
from replicator.queue.causes import Cause, Causes
from replicator.queue.client import Queue
from replicator.queue.configurations import Differing, InForce, KnownConfig, ProcessInfo, ownerless
from replicator.queue.dead_letters import CauseWatch, DeadLetter, DeadLetterPage, DeadLetters, PendingJob, list_jobs
from replicator.queue.destinations import KnownDestination, KnownJob, list_attempts, look_up
from replicator.queue.embedded import embedded_server
from replicator.queue.history import (
    Action,
    Description,
    Ended,
    EndedFilter,
    EndedPage,
    History,
    named,
    note_action,
    read_ended,
    system_user,
)
from replicator.queue.job import (
    Counts,
    Finished,
    Job,
    JsonValue,
    Lane,
    LaneCounts,
    LeaseLost,
    LeftToOthers,
    QueueError,
    QueueUnavailable,
    RunningJob,
    WaitingJob,
    WorkerInfo,
    login_of,
)
from replicator.queue.leaders import (
    Complaint,
    Leadership,
    NewDeadLetters,
    Notices,
    Reconciles,
    RequestedReconcile,
    approve,
    request_reconcile,
)
from replicator.queue.lease import Running
from replicator.queue.memory import (
    PublicAnswer,
    PublicCopies,
    PublicCopy,
    RedisLogins,
    RedisRefusedStore,
    RedisSelectionStore,
    RedisSurveyStore,
    list_public_copies,
)
from replicator.queue.observations import Observations, Observed
from replicator.queue.reconciles import (
    Failure,
    Findings,
    Progress,
    ReconcileLease,
    ReconcileResult,
    ReconcileState,
    RunningReconcile,
)
from replicator.queue.shares import FIRST_SHARE, sharing
from replicator.queue.status import LoadedConfig, Status, announced, processes
from replicator.queue.traffic import HeardProject, LagSpan, RateSpan, hearing, list_heard
from replicator.queue.waits import (
    KeySilence,
    Pause,
    Selection,
    TooManyPauses,
    WaitReporter,
    cancel,
    hasten,
    list_pauses,
    list_waits,
    open_wait_reporter,
    pause,
    resume,
)
from replicator.queue.worker import Worker
from replicator.retry import RetryPolicy

__all__ = [
    "FIRST_SHARE",
    "Action",
    "Attempt",
    "AttemptEnd",
    "AttemptObserver",
    "Cause",
    "CauseReader",
    "CauseWatch",
    "Causes",
    "Complaint",
    "Counts",
    "DeadLetter",
    "DeadLetterPage",
    "DeadLetters",
    "Description",
    "Differing",
    "Ended",
    "EndedFilter",
    "EndedPage",
    "Failure",
    "Findings",
    "Finished",
    "HeardProject",
    "History",
    "InForce",
    "Job",
    "JsonValue",
    "KeySilence",
    "KnownConfig",
    "KnownDestination",
    "KnownJob",
    "LagSpan",
    "Lane",
    "LaneCounts",
    "Leadership",
    "LeaseLost",
    "LeftToOthers",
    "LoadedConfig",
    "NewDeadLetters",
    "Notices",
    "Observations",
    "Observed",
    "Pause",
    "PendingJob",
    "ProcessInfo",
    "Progress",
    "PublicAnswer",
    "PublicCopies",
    "PublicCopy",
    "PushNews",
    "Queue",
    "QueueError",
    "QueueUnavailable",
    "RateSpan",
    "ReconcileLease",
    "ReconcileResult",
    "ReconcileState",
    "Reconciles",
    "RedisBlobLocks",
    "RedisLogins",
    "RedisRefusedStore",
    "RedisSelectionStore",
    "RedisSurveyStore",
    "RequestedReconcile",
    "RetryPolicy",
    "Running",
    "RunningJob",
    "RunningReconcile",
    "Selection",
    "Status",
    "TooManyPauses",
    "WaitReporter",
    "WaitingJob",
    "Worker",
    "WorkerInfo",
    "announced",
    "approve",
    "cancel",
    "embedded_server",
    "hasten",
    "hearing",
    "letters_of",
    "list_attempts",
    "list_heard",
    "list_jobs",
    "list_pauses",
    "list_public_copies",
    "list_waits",
    "login_of",
    "look_up",
    "named",
    "note_action",
    "open_wait_reporter",
    "ownerless",
    "pause",
    "processes",
    "read_ended",
    "read_letters",
    "request_reconcile",
    "resume",
    "sample_causes",
    "sharing",
    "system_user",
]
