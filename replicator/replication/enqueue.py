"""From a listed copy to the queue: tags in order of their repositories, approvals, jobs, and batches of jobs."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from replicator.console import short
from replicator.copy import Result
from replicator.queue import Job, Lane
from replicator.replication.listing import Found
from replicator.replication.report import SortedRows
from replicator.rules import Asked, CopyRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from datetime import datetime

    from replicator.copy import Accessories, Comparison
    from replicator.queue import JsonValue, Queue
    from replicator.reference import Repository
    from replicator.replication.forecast import Forecast

T = TypeVar("T")

_EVENT_ID = "event_id"
_TRACE = "traceparent"
_RULES = "rules"
_DIGEST = re.compile("[0-9a-f]{32}")


def job_for(
    request: CopyRequest,
    *,
    retries: int | None = None,
    event_id: str | None = None,
    pushed: datetime | None = None,
    trace: str | None = None,
    rules: str = "",
) -> Job:
    """Make the job for a copy request; its id is the destination, so two copies to one destination are one job.

    Args:
        request: stored as JSON.
        retries: how often a failure is retried; None for the worker's own limits.
        event_id: the event that asks for the copy, for log lines; None without one.
        pushed: when the image was pushed; None without an event, or if it does not say.
        trace: the ``traceparent`` of the request that asks for the copy; None without traces.
        rules: the digest of the rules that ask for it; empty if that is not known.
    """
    optional = {_EVENT_ID: event_id, _TRACE: trace, _RULES: rules or None}
    known = {name: value for name, value in optional.items() if value is not None}
    return Job(str(request.destination), {**request.to_json(), **known}, retries, pushed)


def event_of(payload: Mapping[str, Any]) -> str | None:
    """Return the id of the event that asked for a job; None without one, or if an older version queued the job."""
    event_id = payload.get(_EVENT_ID)
    return event_id if isinstance(event_id, str) else None


def trace_of(payload: Mapping[str, Any]) -> str | None:
    """Return the ``traceparent`` stored in a job; None without one."""
    trace = payload.get(_TRACE)
    return trace if isinstance(trace, str) else None


def rules_of(payload: Mapping[str, Any]) -> str:
    """Return the digest of the rules that queued a job; empty if an older version did."""
    digest = payload.get(_RULES)
    return digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else ""


def informed(
    request: CopyRequest, comparison: Comparison | None, accessories: Accessories | None = None
) -> CopyRequest:
    """Return a request with the findings of its comparison and of the list, which the copy need not ask again."""
    if accessories is not None and not request.signature:
        request = replace(request, accessories=accessories.for_job(request.options))
    if comparison is None or request.source.tag is None:
        return request
    absent = comparison.result is None and comparison.present is None and not request.signature
    return replace(request, announced=comparison.announced, absent=absent)


@dataclass(frozen=True, slots=True)
class ReplaceLimit:
    """How many existing tags a run may replace with other images before a person is asked.

    A Harbor that was put back to a backup, or a rule with another destination, would else overwrite a whole registry.

    Attributes:
        most: this number may always be replaced; a larger one only if it is at most a tenth of the compared tags.
        approved: so many more, because a person has approved them.
        ask: asks a person, given the replacements and the number of compared tags; None to hold them back.
    """

    most: int
    approved: int = 0
    ask: Callable[[int, int], Awaitable[bool]] | None = None

    async def allows(self, replacements: int, compared: int) -> bool:
        """Tell whether so many of the compared tags may be replaced, beyond those that were approved."""
        if replacements <= self.most or replacements * 10 <= compared:
            return True
        return self.ask is not None and await self.ask(replacements, compared)


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """Options of a backfill.

    Attributes:
        retries: how often a failed copy is retried; None for the worker's own limits.
        force: copy also what is up to date.
        fail_fast: end the run at the first failure, with at most this many copies queued at once, so that few are
            running then; 0 to go on.
        detach: queue what differs and do not wait for the copies.
        since: skip tags that were pushed earlier, as far as Harbor's list has their time; None for all.
        trust: seconds for which a destination that this installation saw up to date is not compared again; None to
            compare each.
        probe: whether one trusted tag of each repository is still compared, to notice a destination that was
            emptied or replaced.
        limit: the number of existing tags that may be replaced without a question; None for any number.
        reads: whether a dry run reads images that their destination lacks, to tell what of them would be copied.
        forecast: takes the copies that a dry run would make; None for none.
    """

    retries: int | None = 2
    force: bool = False
    fail_fast: int = 0
    detach: bool = False
    since: datetime | None = None
    trust: float | None = None
    probe: bool = True
    limit: ReplaceLimit | None = None
    reads: bool = True
    forecast: Forecast | None = None


class KeptCopies:
    """Copies that may replace an existing tag, kept until all tags are compared and their number is known.

    They are kept as `SortedRows`, so a million of them take no memory.

    Args:
        limit: the number of tags that may be replaced; None to keep nothing.
    """

    def __init__(self, limit: ReplaceLimit | None) -> None:
        self._limit = limit
        self._seen = self._replacements = 0
        self._rows: SortedRows | None = None
        self._read: Iterator[tuple[Found, str]] | None = None

    def takes(self, found: Found, checked: Comparison | None) -> bool:
        """Keep a copy if it may replace an image, and is not among the first of which so many have been approved.

        Args:
            found: the copy.
            checked: the result of the check; None after a transient error.
        """
        absent = checked is not None and (checked.result is not None or checked.present is None)
        if self._limit is None or absent or found.request.signature:
            return False
        self._seen += 1
        if self._seen <= self._limit.approved:
            return False
        self._replacements += checked is not None
        self._rows = self._rows or SortedRows()
        request = informed(found.request, checked, found.accessories)
        # The number keeps apart a tag that is in the list twice.
        note = f"{short(checked.present)} is there" if checked is not None and checked.present else ""
        kept = {"request": request.to_json(), "size": found.size, "note": note, "number": self._seen}
        self._rows.add(str(request.source), str(request.destination), json.dumps(kept))
        return True

    async def are_allowed(self, compared: int) -> bool:
        """Tell whether they may be queued, once so many tags were compared; perhaps a person is asked."""
        return self._limit is None or await self._limit.allows(self._replacements, compared)

    def __iter__(self) -> Iterator[tuple[Found, str]]:
        """Take out the copies with a note of what is there, each once even if several iterate, sorted by their sources.

        The note is empty where a transient error hid what is there.

        Raises:
            ReplicatorError: there was no room to keep them.
        """
        if self._read is None:
            self._read = iter(()) if self._rows is None else (_kept(content) for _, _, content in self._rows.read())
        return self._read

    def close(self) -> None:
        """Delete those that are left."""
        if self._rows is not None:
            self._rows.close()


def _kept(content: str) -> tuple[Found, str]:
    stored = json.loads(content)
    request = CopyRequest.from_json(stored["request"])
    return Found(Asked(request, frozenset()), request.announced, stored["size"]), stored["note"]


class Enqueuer:
    """Puts jobs into the backfill lane; what arrives while Redis is busy goes there in one batch.

    `run` has to run beside `put`.

    Args:
        run_id: the run that waits for the jobs' ends; None if none does.
    """

    def __init__(self, queue: Queue, run_id: str | None) -> None:
        self._queue = queue
        self._run_id = run_id
        self._pending: list[_Pending] = []
        self._arrived = asyncio.Event()
        self.drift = 0
        """How many jobs that differ from their destination were not in the queue already."""

    async def put(self, job: Job, *, differs: bool = True) -> None:
        """Queue a job; it is durable when this returns.

        ``differs`` tells that source and destination were seen to differ, rather than that the job is worth a look.

        Raises:
            QueueError: the queue takes nothing.
        """
        pending = _Pending(job, differs, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        self._arrived.set()
        await pending.done

    async def run(self) -> None:
        """Send what arrives, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            pending, self._pending = self._pending, []
            for differs in (True, False):
                batch = [each for each in pending if each.differs is differs]
                if batch:
                    await self._send(batch, differs=differs)

    async def _send(self, batch: list[_Pending], *, differs: bool) -> None:
        try:
            added = await self._queue.enqueue([each.job for each in batch], Lane.BACKFILL, run=self._run_id)
        except Exception as error:  # noqa: BLE001 - raised by each `put` that waits
            for each in batch:
                if not each.done.done():
                    each.done.set_exception(error)
            return
        self.drift += added if differs else 0
        for each in batch:
            # A `put` that was cancelled has cancelled its future as well.
            if not each.done.done():
                each.done.set_result(None)


@dataclass(frozen=True, slots=True)
class _Pending:
    job: Job
    differs: bool
    done: asyncio.Future[None]


class RepositoryQueue(Generic[T]):
    """A bounded queue that keeps the tags of a repository together.

    Harbor lists a project in the order of pushes, which mixes its repositories. Tags of one repository share layers
    and a token, so they leave this queue one after the other.

    Args:
        size: copies that wait here before `put` blocks.
    """

    def __init__(self, size: int) -> None:
        self._waiting: dict[Repository, deque[T]] = {}
        self._room = asyncio.Semaphore(size)
        # One permit for each copy that waits, and one for good once the queue is closed.
        self._ready = asyncio.Semaphore(0)

    def __iter__(self) -> Iterator[T]:
        """Iterate over the copies that wait, in the order in which they would leave."""
        for copies in self._waiting.values():
            yield from copies

    async def put(self, repository: Repository, found: T) -> None:
        """Add a copy as soon as there is room."""
        await self._room.acquire()
        self._waiting.setdefault(repository, deque()).append(found)
        self._ready.release()

    def close(self) -> None:
        """Let every `take` return None once the queue is empty."""
        self._ready.release()

    async def take(self) -> T | None:
        """Remove the next copy as soon as there is one; None if the queue is closed and empty."""
        await self._ready.acquire()
        if not self._waiting:
            # Woken by `close`: pass the permit on to the next taker.
            self._ready.release()
            return None
        # The repository that came first goes on as long as it has more.
        repository, copies = next(iter(self._waiting.items()))
        found = copies.popleft()
        if not copies:
            del self._waiting[repository]
        self._room.release()
        return found


def answered(payload: Mapping[str, JsonValue], outcome: Mapping[str, JsonValue]) -> set[str]:
    """Return the registries that certainly answered to a job with this outcome (see `replicator.queue.waits`)."""
    result = Result(str(outcome["result"]))
    source, destination = (str(payload[end]).partition("/")[0] for end in ("source", "destination"))
    if result is Result.COPIED:
        return {source, destination}
    if result is Result.UP_TO_DATE:
        # Where the destination holds what an event announced, the source is not asked.
        return {destination} if payload.get("announced") or payload.get("signature") else {source, destination}
    return {source} if result is Result.SOURCE_GONE else set()
