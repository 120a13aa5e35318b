"""Dead letters: jobs that failed for good, kept until somebody retries or drops them. And a list of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replicator.errors import ErrorClass
from replicator.queue.client import BATCH
from replicator.queue.job import Lane, decode_job
from replicator.queue.records import Moment, decode, dump_json, moment
from replicator.queue.waits import JOBS_A_STEP

if TYPE_CHECKING:
    from datetime import datetime

    from replicator.queue.client import Queue
    from replicator.queue.waits import Selection


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that is not retried by itself.

    Attributes:
        payload: the job's; None when the stored job could not be read.
        message: why it failed for good.
        tries: number of attempts.
        first: time of the first failure (UTC).
        last: time of the last failure (UTC).
        login: see `replicator.errors.ReplicatorError.login`.
    """

    id: str
    lane: Lane
    payload: Mapping[str, Any] | None
    error_class: ErrorClass
    message: str
    tries: int
    first: Moment
    last: Moment
    login: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """A page of dead letters.

    Attributes:
        letters: the newest first.
        total: number of dead letters on all pages.
        following: cursor of the next page; 0 when this is the last.
    """

    letters: Sequence[DeadLetter]
    total: int
    following: int


class DeadLetters:
    """The dead letters of a queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def all(self, *, limit: int = 100_000) -> list[DeadLetter]:
        """List up to ``limit`` of them, the oldest first.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        # A scan may give an entry twice.
        letters: dict[str, DeadLetter] = {}
        cursor = 0
        while True:
            page = await self.page(cursor)
            letters |= {letter.id: letter for letter in page.letters}
            cursor = page.following
            if cursor == 0 or len(letters) >= limit:
                return sorted(letters.values(), key=lambda letter: letter.last)[:limit]

    async def page(self, cursor: int = 0, *, size: int = BATCH) -> DeadLetterPage:
        """Return one page, at the same cost however many there are.

        All pages together hold every dead letter that was there all the time, some perhaps twice.

        Args:
            cursor: 0 for the first page, then ``following`` of the one before.
            size: about how many dead letters.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        following, total, records = await self._queue.ask("dead_letter_page", str(cursor), size)
        letters = sorted((decode(DeadLetter, record) for record in records), key=lambda one: one.last, reverse=True)
        return DeadLetterPage(letters, total, int(following))

    async def retry(self, ids: Iterable[str] | None = None) -> list[str]:
        """Queue dead letters again, as they were, with a fresh count of attempts.

        Args:
            ids: which; None for all.

        Returns:
            The ids that were queued. An id that is no dead letter, or whose content is lost, is left out.

        Raises:
            QueueUnavailable: Redis does not answer; some may be queued.
        """
        return await self._each("dead_letter_retry", ids)

    async def drop(self, ids: Iterable[str] | None = None) -> list[str]:
        """Forget dead letters.

        Args:
            ids: which; None for all.

        Returns:
            The ids that were forgotten. An id that is no dead letter is left out.

        Raises:
            QueueUnavailable: Redis does not answer; some may be dropped.
        """
        return await self._each("dead_letter_drop", ids)

    async def _each(self, script: str, ids: Iterable[str] | None) -> list[str]:
        done: list[str] = []
        async for batch in self._batches(ids):
            done += [job_id.decode() for job_id in await self._queue.ask(script, *batch)]
        return done

    async def _batches(self, ids: Iterable[str] | None) -> AsyncIterator[list[str]]:
        if ids is None:
            async for batch in self._queue.scan_hash("dead"):
                yield batch
            return
        every = list(ids)
        for start in range(0, len(every), BATCH):
            yield every[start : start + BATCH]


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job that is not done.

    Attributes:
        state: ``queued``, ``running``, ``waiting`` (for a retry or a host) or ``paused``.
        source: where it copies from; empty if that was lost.
        rule: the rule that asked for it; the same.
        due: when it may start (UTC); while it runs, when its lease expires.
        failure: the last one; empty without one.
        pause: the name of the selection that pauses it; empty without one, and where its whole lane is paused.
    """

    id: str
    state: str
    lane: Lane
    source: str
    rule: str
    due: datetime
    failure: str = ""
    pause: str = ""


async def list_jobs(queue: Queue, selections: Sequence[Selection], *, limit: int) -> tuple[list[PendingJob], int]:
    """List up to ``limit`` pending jobs, in no order; return them and how many are selected in all.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    wanted, cursor, total, found = [dump_json(each.to_json()) for each in selections], "0", 0, dict[str, PendingJob]()
    while True:
        reply = await queue.ask("job_list", cursor, JOBS_A_STEP, max(0, limit - len(found)), *wanted)
        cursor, total = reply[0].decode(), total + reply[1]
        for each in reply[2:]:
            job = _pending(*each)
            found[job.id] = job
        if cursor == "0":
            return list(found.values()), max(total, len(found))


def _pending(
    job_id: bytes,
    state: bytes,
    lane: bytes,
    due: bytes,
    content: bytes | None,
    failure: bytes | None,
    name: bytes | None,
) -> PendingJob:
    try:
        payload = decode_job(content or b"").payload
    except ValueError:
        payload = {}
    source, rule = (str(payload.get(name, "")) for name in ("source", "rule"))
    message = decode(_Message, failure).message if failure is not None else ""
    return PendingJob(
        job_id.decode(),
        state.decode(),
        Lane(lane.decode()),
        source,
        rule,
        moment(float(due)),
        message,
        (name or b"").decode(),
    )


@dataclass(frozen=True, slots=True)
class _Message:
    message: str = ""
