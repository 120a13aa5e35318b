"""What the queue looks like at one moment, as values, for a person or a metric."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replicator.errors import ErrorClass
from replicator.queue.job import Lane, load_json

if TYPE_CHECKING:
    from collections.abc import Mapping


def moment(milliseconds: float) -> datetime:
    """Turn milliseconds since 1970 into a UTC time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@dataclass(frozen=True, slots=True)
class LaneCounts:
    """How many jobs of a lane could start now, run, and wait for a retry."""

    queued: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Counts:
    """All jobs by state: each lane's, and the dead letters."""

    lanes: Mapping[Lane, LaneCounts]
    dead: int


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that runs now.

    Attributes:
        id: the job's.
        lane: whose slot it takes.
        worker: who runs it, as ``host:pid:token``.
        since: when this try began (UTC).
        tries: which try this is, from 1.
        bytes_done: what the handler reported, a second or so ago.
    """

    id: str
    lane: Lane
    worker: str
    since: datetime
    tries: int
    bytes_done: int


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job that failed and is tried again later: why, how often, since when and when next (UTC)."""

    id: str
    lane: Lane
    error_class: ErrorClass
    message: str
    tries: int
    first: datetime
    due: datetime


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that is not tried again by itself: what it was, why it ended, after how many tries, from when to when.

    ``payload`` is None when the stored job could not be read.
    """

    id: str
    lane: Lane
    payload: Mapping[str, Any] | None
    error_class: ErrorClass
    message: str
    tries: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker process that showed signs of life in the last seconds.

    Attributes:
        id: ``host:pid:token``.
        host: its machine's name.
        pid: its process id there.
        started: when it began (UTC).
        seen: its last sign of life (UTC).
        running: how many jobs it runs, by lane.
        concurrency: how many it runs at most, by lane.
        stopping: it takes no new work and ends soon.
    """

    id: str
    host: str
    pid: int
    started: datetime
    seen: datetime
    running: Mapping[Lane, int]
    concurrency: Mapping[Lane, int]
    stopping: bool


def read_running(job_id: str, record: bytes) -> RunningJob:
    """Read a running record as ``claim`` writes it."""
    fields = load_json(record)
    return RunningJob(
        id=job_id,
        lane=Lane(fields["lane"]),
        worker=fields["worker"],
        since=moment(fields["since"]),
        tries=int(fields["failures"]) + 1,
        bytes_done=int(fields["bytes"]),
    )


def read_waiting(job_id: str, record: bytes, lane: Lane, due_ms: float) -> WaitingJob:
    """Read the last failure of a job that waits until ``due_ms``."""
    fields = load_json(record)
    return WaitingJob(
        id=job_id,
        lane=lane,
        error_class=ErrorClass(fields["error_class"]),
        message=fields["message"],
        tries=fields["tries"],
        first=moment(fields["first"]),
        due=moment(due_ms),
    )


def read_dead_letter(record: bytes) -> DeadLetter:
    """Read a dead letter's record."""
    fields = load_json(record)
    return DeadLetter(
        id=fields["id"],
        lane=Lane(fields["lane"]),
        payload=fields["payload"],
        error_class=ErrorClass(fields["error_class"]),
        message=fields["message"],
        tries=fields["tries"],
        first=moment(fields["first"]),
        last=moment(fields["last"]),
    )


def read_worker(record: bytes) -> WorkerInfo:
    """Read a worker's sign of life."""
    fields = load_json(record)
    return WorkerInfo(
        id=fields["id"],
        host=fields["host"],
        pid=fields["pid"],
        started=moment(fields["started"]),
        seen=moment(fields["seen"]),
        running={Lane(lane): number for lane, number in fields["running"].items()},
        concurrency={Lane(lane): number for lane, number in fields["concurrency"].items()},
        stopping=fields["stopping"],
    )
