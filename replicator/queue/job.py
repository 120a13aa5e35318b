"""Jobs and their outcomes as values, the state of the queue at one moment, the errors of the queue, and retry policies.

A job is stored as arq stores it (``arq.jobs.serialize_job``), but in JSON: with arq's default, pickle, everyone who can
write to Redis could run code here.

QueueError              the queue can't do what was asked; also the base of all below
├── QueueUnavailable    Redis is away, refuses the login or can't take writes: nothing was durably taken
├── LeftToOthers        this job is none of this process's
└── LeaseLost           another worker runs this job now: stop, write nothing more
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias
from urllib.parse import unquote

from arq.jobs import DeserializationError, SerializationError, deserialize_job_raw, serialize_job

from replicator.console import iso
from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue.records import Moment, decode, dump_json, encode, load_json, moment

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""What JSON can express."""

ONE_OFF = "backfill"
"""The command that ends by itself, and works off what it has queued."""
ALIVE_MS = 20_000
"""A process whose last sign of life is older counts as gone."""
FUNCTION = "handle"
"""The name under which arq finds the one function that every job calls."""

MAX_ID_BYTES = 1024
"""A destination reference has at most 255 + 1 + 128 characters and a host; a longer id is a mistake."""


class Lane(StrEnum):
    """One of the two queues, each with slots of its own: a bulk of backfill jobs never delays an event."""

    EVENTS = "events"
    BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class Job:
    """Work on one destination. All jobs with one id are one job: they are merged, and never run at the same time.

    Attributes:
        id: the destination reference, e.g. ``registry.cn-beijing.aliyuncs.com/ns/nginx:1.27``.
        payload: the input of the handler, serialisable as JSON. The payload of the newest enqueue is the one that runs.
        retries: how many times a transient or not-yet failure is retried; None leaves it to the worker's policy.
        pushed: time of the push that asks for this job, by the clock of the sender; None if no push does, or its time
            is unknown. When jobs are merged, the oldest push that no attempt has served counts.
    """

    id: str
    payload: Mapping[str, JsonValue]
    retries: int | None = None
    pushed: datetime | None = None

    def __post_init__(self) -> None:
        if not self.id or len(self.id.encode()) > MAX_ID_BYTES:
            raise ValueError(f"a job's id has 1 to {MAX_ID_BYTES} bytes, not {len(self.id.encode())}")
        if self.retries is not None and self.retries < 0:
            raise ValueError(f"retries of {self.id} must be 0 or more, not {self.retries}")


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a job, as a record for the runs that enqueued it.

    Attributes:
        outcome: the result of the handler; None if it failed.
        error: the error, as `replicator.errors.ErrorText.stored`; None on success.
        error_class: class of the failure; None when it went well.
        tries: number of attempts, the last one included.
        seconds: duration of the last attempt.
        retrying: the job failed more often than this run's ``retries`` allow, but another run with more patience
            enqueued it too, so it is still being retried.
        cancelled: a person has cancelled it; then it has neither an outcome nor a class of failure.
        shared: it went well, and another run counts it as its own. It is no part of the record.
    """

    id: str
    outcome: Mapping[str, Any] | None
    error: str | None
    error_class: ErrorClass | None
    tries: int
    seconds: float
    retrying: bool = False
    cancelled: bool = False
    shared: bool = False

    def encode(self) -> bytes:
        """Return the record as JSON. The script that ends the job reports that it was cancelled."""
        return encode(self, without={"shared", "cancelled"})


def encode_job(job: Job) -> bytes:
    """Give the form in which arq stores ``job``, stamped with the present time.

    Raises:
        ValueError: the payload can't be expressed in JSON.
    """
    keywords = {"payload": dict(job.payload)}
    try:
        return serialize_job(FUNCTION, (), keywords, None, int(time.time() * 1000), serializer=dump_json)
    except SerializationError as error:
        raise ValueError(f"the payload of {job.id} can't be expressed in JSON: {error.__cause__}") from error


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it is stored: the name of its function, its payload, and when it was last enqueued (UTC)."""

    function: str
    payload: Mapping[str, Any]
    enqueued_at: datetime


def decode_job(data: bytes) -> StoredJob:
    """Read what :func:`encode_job` wrote.

    Raises:
        ValueError: it is something else; the message says what is wrong.
    """
    try:
        function, _, keywords, _, milliseconds = deserialize_job_raw(data, deserializer=load_json)
        payload = keywords["payload"]
        enqueued_at = moment(milliseconds)
    except (DeserializationError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"the stored job can't be read: {error.__cause__ or error!r}") from error
    if not isinstance(function, str) or not isinstance(payload, dict):
        raise ValueError("the stored job has no function or no payload")
    return StoredJob(function, payload, enqueued_at)


@dataclass(frozen=True, slots=True)
class RunningRecord:
    """A started job, as a record that outlives its lease: the work of a worker that died.

    Attributes:
        token: unique to this start; the lease holds the same one.
        lane: whose slot the job takes.
        worker: the process that runs it, as ``host:pid:token``.
        since: when this attempt began (UTC).
        due: score that the job had in its queue (ms since 1970): its place when it is handed back.
        failures: failed attempts in a row before this one.
        bytes: progress that the handler reported.
        size: how many bytes there will be, as far as the handler knows; 0 if it does not.
        seconds_left: until the last of them, at the mean rate so far by the worker's clock; None if that is unknown.
        lapses: how many workers died in a row while they ran this job.
        pushed: time of the oldest push that this attempt serves.
        waits_since: when the key fell silent that it needs (`replicator.errors.Wait`).
        asked: since when the oldest enqueue waits that this attempt serves (ms since 1970).
    """

    token: str
    lane: Lane
    worker: str
    since: Moment
    due: int | float
    failures: int
    bytes: int
    lapses: int
    pushed: Moment | None = None
    waits_since: Moment | None = None
    asked: int | float | None = None
    size: int = 0
    seconds_left: int | None = None

    def lag(self, seconds: float) -> float | None:
        """Return how long the oldest push has waited when this attempt is ``seconds`` old; None if that is unknown.

        It counts by Redis's clock, which all workers share: a worker's own may be minutes off.
        """
        if self.pushed is None:
            return None
        return max(0.0, (self.since - self.pushed).total_seconds() + seconds)


def encode_running(record: RunningRecord) -> bytes:
    """Give the JSON of a running record, as the scripts read it."""
    # They take a missing time for unknown, but can't compare with a null: the job could never be taken over.
    optional = ("pushed", "waits_since", "asked", "seconds_left")
    unknown = [name for name in optional if getattr(record, name) is None]
    return encode(record, without=unknown if record.size else [*unknown, "size"])


_LOGIN = "login:"


def login_of(key: str) -> tuple[str, str] | None:
    """Return the registry and the account of a key that is a login (``login:HOST/ACCOUNT``); None if it is another."""
    if not key.startswith(_LOGIN):
        return None
    host, _, account = key.removeprefix(_LOGIN).partition("/")
    return host, unquote(account)


def describe_key(key: str, silence: str = "{} has been silent") -> str:
    """Say in words what is wrong with a key, as the beginning of a sentence."""
    return silence.format(key) if login_of(key) is None else f"{name_key(key)} has been refused"


def name_key(key: str) -> str:
    """Name a key, e.g. ``registry HOST`` or ``the login ACCOUNT at HOST``."""
    if (login := login_of(key)) is None:
        return f"registry {key}"
    host, account = login
    return f"the login{f' {account}' if account else ''} at {host}"


class QueueError(ReplicatorError):
    """The queue can't accept or hand out work."""

    error_class = ErrorClass.TRANSIENT


class QueueUnavailable(QueueError):
    """Redis did not confirm within the deadline, or refused: treat nothing as queued."""


class LeftToOthers(QueueError):
    """Raised by a handler for a job that is none of this process's: it is left to others, without an attempt.

    Attributes:
        note: the digest of their configuration, then those whose processes know nothing of the job.
    """

    def __init__(self, note: str) -> None:
        super().__init__("this job belongs to processes with other rules")
        self.note = note


class LeaseLost(QueueError):
    """The lease of a running job belongs to another worker now, or the job is finished: write nothing more."""


@dataclass(frozen=True, slots=True)
class LaneCounts:
    """How many jobs of a lane could start now, run, wait for a retry, and are held by a pause of some jobs."""

    queued: int
    running: int
    waiting: int
    paused: int = 0

    @property
    def pending(self) -> int:
        """How many there are in any state."""
        return self.queued + self.running + self.waiting + self.paused


@dataclass(frozen=True, slots=True)
class Counts:
    """All jobs by state: each lane's, and the dead letters."""

    lanes: Mapping[Lane, LaneCounts]
    dead: int


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that runs now.

    Attributes:
        lane: whose slot it takes.
        worker: the process that runs it, as ``host:pid:token``.
        since: when this attempt began (UTC).
        tries: number of this attempt, from 1.
        bytes_done: progress that the handler reported a second or so ago.
        size: see `RunningRecord`.
        seconds_left: likewise.
    """

    id: str
    lane: Lane
    worker: str
    since: datetime
    tries: int
    bytes_done: int
    size: int = 0
    seconds_left: int | None = None

    @property
    def share(self) -> float | None:
        """How much of it is done, from 0 to 1; None where that is unknown."""
        return share_of(self.bytes_done, self.size)

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values; what is unknown is left out."""
        return {
            "destination": self.id,
            "lane": str(self.lane),
            "since": iso(self.since),
            "bytes": self.bytes_done,
            **({"size": self.size} if self.size else {}),
            **({"seconds_left": self.seconds_left} if self.seconds_left is not None else {}),
            "tries": self.tries,
            "worker": self.worker,
        }

    @classmethod
    def read(cls, job_id: str, data: bytes) -> RunningJob:
        """Read the running record of a job.

        Raises:
            ValueError: it is none.
        """
        record = decode(RunningRecord, data)
        done, size, left = record.bytes, record.size, record.seconds_left
        return cls(job_id, record.lane, record.worker, record.since, record.failures + 1, done, size, left)


def share_of(done: int, size: int) -> float | None:
    """Return how much of ``size`` bytes is done, from 0 to 1: after a fault some are read twice. None if it is 0."""
    return min(done / size, 1.0) if size > 0 else None


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job that failed and waits for its retry.

    Attributes:
        message: the error, as `replicator.errors.ErrorText.stored`.
        tries: failed attempts in a row.
        first: time of the first of them (UTC).
        due: time of the next attempt (UTC).
        waits_for: see `replicator.queue.attempt.Failure`.
    """

    id: str
    lane: Lane
    error_class: ErrorClass
    message: str
    tries: int
    first: Moment
    due: Moment
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker process that showed a sign of life in the last seconds.

    Attributes:
        id: ``host:pid:token``.
        pid: its process id on that host.
        started: when it started (UTC).
        seen: its last sign of life (UTC).
        running: number of jobs it runs, by lane.
        concurrency: number of jobs it runs at most, by lane.
        stopping: it starts no more jobs and ends soon.
        waiting: number of its requests and bodies that wait for their turn at registries, by lane.
    """

    id: str
    host: str
    pid: int
    started: Moment
    seen: Moment
    running: Mapping[Lane, int]
    concurrency: Mapping[Lane, int]
    stopping: bool
    waiting: Mapping[Lane, int] = field(default_factory=dict)

    def serves(self, lane: Lane) -> bool:
        """Tell whether it starts jobs of a lane."""
        return not self.stopping and self.concurrency.get(lane, 0) > 0
