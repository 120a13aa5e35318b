"""The state of the queue at one moment, as values for a person or a metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from replicator.errors import ErrorClass
from replicator.queue.job import Lane, RunningRecord
from replicator.queue.records import Moment, decode


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
        lane: whose slot it takes.
        worker: the process that runs it, as ``host:pid:token``.
        since: when this attempt began (UTC).
        tries: number of this attempt, from 1.
        bytes_done: progress that the handler reported a second or so ago.
    """

    id: str
    lane: Lane
    worker: str
    since: datetime
    tries: int
    bytes_done: int

    @classmethod
    def read(cls, job_id: str, data: bytes) -> RunningJob:
        """Read the running record of a job.

        Raises:
            ValueError: it is none.
        """
        record = decode(RunningRecord, data)
        return cls(job_id, record.lane, record.worker, record.since, record.failures + 1, record.bytes)


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job that failed and waits for its retry.

    Attributes:
        message: what went wrong, for a person.
        tries: failed attempts in a row.
        first: time of the first of them (UTC).
        due: time of the next attempt (UTC).
        waits_for: see `replicator.queue.job.Failure`.
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
