"""The queue's knowledge of single destinations in one step, and of all that a destination's host has pending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from replicator.queue.attempt import Failure
from replicator.queue.client import BATCH
from replicator.queue.dead_letters import DeadLetter
from replicator.queue.job import Lane, RunningRecord, decode_job
from replicator.queue.observations import Observed, repository_of, short_name, short_repository
from replicator.queue.records import TagRecord, decode, moment

if TYPE_CHECKING:
    from replicator.queue.client import Queue

MOST_ATTEMPTS = 1000
"""Failed attempts that are kept of all jobs, each of up to 4 KB (``chronicle``)."""


@dataclass(frozen=True, slots=True)
class KnownJob:
    """A job that is not done.

    Attributes:
        state: ``queued``, ``running``, ``waiting`` (for a retry or a host) or ``paused``.
        payload: the job's; empty if it was lost.
        enqueued: when it was enqueued last (UTC); None if that was lost.
        due: when it may start (UTC); while it runs, when its lease expires.
        failure: the last one of a job that waits for its retry.
        running: the attempt that runs.
    """

    state: str
    lane: Lane
    due: datetime
    payload: Mapping[str, Any] = field(default_factory=dict)
    enqueued: datetime | None = None
    failure: Failure | None = None
    running: RunningRecord | None = None


@dataclass(frozen=True, slots=True)
class PendingJobs:
    """The jobs of a lane that are not done, of one destination's host.

    Attributes:
        jobs: how many.
        oldest: seconds since the oldest enqueue of these that has not arrived: since the push, where its time is known;
            0 without one.
    """

    jobs: int
    oldest: float


@dataclass(frozen=True, slots=True)
class KnownDestination:
    """The facts about a destination.

    Attributes:
        job: its pending job; None without one.
        letter: its dead letter; None without one.
        observed: the last digest observed there; None if nothing is certain.
        tag: which source owns it.
    """

    job: KnownJob | None = None
    letter: DeadLetter | None = None
    observed: Observed | None = None
    tag: TagRecord = field(default_factory=TagRecord)


async def look_up(queue: Queue, destinations: Sequence[str]) -> list[KnownDestination]:
    """Return what is known of each destination; a round trip for 500 of them.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    found: list[KnownDestination] = []
    for start in range(0, len(destinations), BATCH):
        words = [
            word
            for each in destinations[start : start + BATCH]
            for word in (each, short_name(each), short_repository(repository_of(each)))
        ]
        found += [_read(*each) for each in await queue.ask("destinations", *words)]
    return found


async def pending_by_host(queue: Queue, hosts: Sequence[str]) -> tuple[dict[Lane, int], dict[Lane, list[PendingJobs]]]:
    """Return how many jobs of each lane are pending in all, and what each host has pending, in the order of ``hosts``.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    numbers = await queue.ask("hosts", *hosts)
    totals, rest = dict(zip(Lane, numbers, strict=False)), numbers[len(Lane) :]
    pairs = [PendingJobs(jobs, age / 1000) for jobs, age in zip(rest[::2], rest[1::2], strict=True)]
    return totals, {lane: pairs[n * len(hosts) : (n + 1) * len(hosts)] for n, lane in enumerate(Lane)}


async def list_attempts(queue: Queue, destination: str) -> list[Failure]:
    """List the failed attempts of a destination's job that another followed, the newest first.

    They are those among the last `MOST_ATTEMPTS` of all jobs.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    found = (_decoded(Failure, text) for text in await queue.ask("attempts", destination))
    return [each for each in found if each is not None and each.id == destination]


def _read(  # the parts of an answer, in its order
    state: bytes,
    lane: bytes,
    due: bytes,
    content: bytes,
    failure: bytes,
    record: bytes,
    letter: bytes,
    observed: bytes,
    owned: bytes,
) -> KnownDestination:
    job = None
    if state:
        payload: Mapping[str, Any] = {}
        enqueued = None
        try:
            stored = decode_job(content)
            payload, enqueued = stored.payload, stored.enqueued_at
        except ValueError:
            pass
        job = KnownJob(
            state.decode(),
            Lane(lane.decode()),
            moment(float(due)),
            payload,
            enqueued,
            _decoded(Failure, failure),
            _decoded(RunningRecord, record),
        )
    seen = Observed.read(observed)
    return KnownDestination(
        job,
        _decoded(DeadLetter, letter),
        seen if seen is not None and not seen.is_void else None,
        TagRecord.parse(owned.decode(errors="replace")),
    )


def _decoded(kind: type[Any], data: bytes) -> Any:
    """Read a record; None without one, and for one of another version."""
    try:
        return decode(kind, data) if data else None
    except ValueError:
        return None
