"""Dead letters (jobs that failed for good), until they are retried, dropped or without a cause; lists of pending jobs.

And a list of the pending jobs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from replicator.errors import ErrorClass
from replicator.queue.client import BATCH
from replicator.queue.job import Lane, QueueUnavailable, decode_job
from replicator.queue.records import Moment, decode, dump_json, moment
from replicator.queue.waits import JOBS_A_STEP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from replicator.queue.client import Queue
    from replicator.queue.waits import Selection

log = structlog.get_logger("replicator.queue")

MOST_WATCHED = 20_000
"""Dead letters that one run compares with what it sees, the oldest first."""
RIGHT, GONE, LEFT_OUT = "the destination is right", "gone at the source", "its image is not copied any more"
"""Why a dead letter ends."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that is not retried by itself.

    Attributes:
        payload: the job's; None when the stored job could not be read.
        message: why it failed for good, as `replicator.errors.ErrorText.stored`; one line from older versions.
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

    async def end(self, marks: Mapping[str, bytes], why: str) -> list[str]:
        """Forget dead letters whose cause is over; the history and the log say so.

        Args:
            marks: ids, each with its mark as it was before that was found: a dead letter that was made since stays.
            why: the reason.

        Returns:
            The ids that were forgotten.

        Raises:
            QueueUnavailable: Redis does not answer; some may be forgotten.
        """
        ended: list[str] = []
        pairs = list(marks.items())
        for start in range(0, len(pairs), BATCH):
            words = [word for pair in pairs[start : start + BATCH] for word in pair]
            ended += [job_id.decode() for job_id in await self._queue.ask("dead_letter_end", why, *words)]
        for job_id in ended:
            log.info("dead letter ended", id=job_id, why=why)
        return ended

    async def marks(self, ids: Iterable[str]) -> list[tuple[bytes, DeadLetter]]:
        """Return those ids that are dead letters, each with its mark.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        every, found = list(dict.fromkeys(ids)), list[tuple[bytes, DeadLetter]]()
        for start in range(0, len(every), BATCH):
            reply = await self._queue.ask("dead_letter_marks", *every[start : start + BATCH])
            found += [(reply[i + 1], decode(DeadLetter, reply[i + 2])) for i in range(0, len(reply), 3)]
        return found

    async def sources(self, limit: int) -> AsyncIterator[tuple[str, bytes, str]]:
        """Yield the id, the mark and the source of each, the oldest first; an empty source where it is no image.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        mark, number = b"0", 0
        while number < limit:
            found = await self._queue.ask("dead_letter_sources", mark, BATCH)
            for start in range(0, len(found), 3):
                job_id, mark, source = found[start : start + 3]
                yield job_id.decode(errors="replace"), mark, source.decode(errors="replace")
            if len(found) < 3 * BATCH:
                return
            number += BATCH

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


class CauseWatch:
    """Ends the dead letters whose destination a run finds right, or whose source it finds gone.

    A dead letter counts only if it was read before that was found. While Redis is away none ends, and nothing fails.

    Args:
        queue: whose dead letters; None for none.
    """

    def __init__(self, queue: Queue | None) -> None:
        self._letters = DeadLetters(queue) if queue is not None else None
        self._marks: dict[str, bytes] = {}
        self._over: dict[str, dict[str, bytes]] = {}
        self._sources: dict[str, str] = {}
        self._unseen: dict[str, list[str]] = {}

    def __contains__(self, destination: str) -> bool:
        """Tell whether a destination is known to have a dead letter."""
        return destination in self._marks

    async def read(self) -> None:
        """Read all dead letters, at the beginning of a run that lists everything."""
        if self._letters is None:
            return
        with _unless_away():
            async for destination, mark, source in self._letters.sources(MOST_WATCHED):
                self._marks[destination], self._sources[destination] = mark, source
                if source:
                    self._unseen.setdefault(source, []).append(destination)

    async def look(self, destinations: Sequence[str], only: Callable[[DeadLetter], bool] = lambda _: True) -> None:
        """Read the dead letters of a few destinations, right before they are compared.

        Args:
            destinations: references.
            only: tells which dead letters count.
        """
        if self._letters is None or not destinations:
            return
        with _unless_away():
            found = await self._letters.marks(destinations)
            for destination in destinations:
                self._marks.pop(destination, None)
            for mark, letter in found:
                if only(letter):
                    self._marks[letter.id] = mark
                    self._sources[letter.id] = str((letter.payload or {}).get("source", ""))

    def over(self, destination: str, source: str, *, right: bool = True) -> None:
        """Note that a destination is right, or else that nothing is to be copied there; `end` ends its dead letter.

        The dead letter of another source stays: it may report a collision.
        """
        if self._sources.get(destination) not in ("", None, source):
            return
        if (mark := self._marks.pop(destination, None)) is not None:
            self._over.setdefault(RIGHT if right else LEFT_OUT, {})[destination] = mark

    def listed(self, repository: str, tags: Iterable[str]) -> None:
        """Note that the source has these tags: their dead letters have not lost their cause."""
        if self._unseen:
            for tag in tags:
                self._unseen.pop(f"{repository}:{tag}", None)

    async def end(self) -> None:
        """End the dead letters of the noted destinations."""
        over, self._over = self._over, {}
        if self._letters is not None:
            with _unless_away():
                for why, marks in over.items():
                    await self._letters.end(marks, why)

    async def end_gone(self, is_gone: Callable[[str], Awaitable[bool]]) -> None:
        """End the dead letters of tags that the source does not have any more, after the last list.

        Args:
            is_gone: tells whether a source that no list has shown is certainly gone.
        """
        if self._letters is None:
            return
        gone: dict[str, bytes] = {}
        for source, destinations in self._unseen.items():
            marks = {each: self._marks[each] for each in destinations if each in self._marks}
            if marks and await is_gone(source):
                gone |= marks
        self._unseen = {}
        with _unless_away():
            await self._letters.end(gone, GONE)


@contextmanager
def _unless_away() -> Iterator[None]:
    try:
        yield
    except (QueueUnavailable, ValueError) as error:  # away, or of another version
        log.warning("dead letters not compared", error=error)


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job that is not done.

    Attributes:
        state: ``queued``, ``running``, ``waiting`` (for a retry or a host) or ``paused``.
        source: where it copies from; empty if that was lost.
        rule: the rule that asked for it; the same.
        due: when it may start (UTC); while it runs, when its lease expires.
        failure: the last one, as `replicator.errors.ErrorText.stored`; empty without one.
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
