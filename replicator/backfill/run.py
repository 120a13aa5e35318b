"""One backfill: list, compare, queue what differs, and wait for its end, all at the same time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from replicator import replication
from replicator.backfill.listing import list_requests
from replicator.backfill.report import Report, Row, RowOutcome
from replicator.copy import Outcome
from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import Lane

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicator.queue import Finished, Queue
    from replicator.registry import Registries
    from replicator.rules import CopyRequest, Rules

log = structlog.get_logger("replicator.backfill")

_COMPARED_AT_ONCE = 16
_LISTED_AHEAD = 1000


class Backfill:
    """Brings every tag that the rules name to where they send it.

    Args:
        rules: say what is copied where.
        registries: to list and to compare.
        queue: takes what differs; None for a dry run, which only says what it would do.
        retries: how often a copy that fails is tried again.
        on_row: told each row as it is known.
    """

    def __init__(
        self,
        rules: Rules,
        registries: Registries,
        queue: Queue | None,
        *,
        retries: int,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        self._rules = rules
        self._registries = registries
        self._queue = queue
        self._retries = retries
        self._on_row = on_row
        self._run_id = f"backfill-{uuid4().hex[:12]}"
        self._waiting: dict[str, CopyRequest] = {}
        self._sources: dict[str, str] = {}
        self._all_queued = False
        self._none_waiting = asyncio.Event()
        self._stopping = False
        self.report = Report()

    def stop(self) -> None:
        """List and compare nothing more; what is queued may still end, until `run` is cancelled."""
        self._stopping = True

    async def run(self) -> Report:
        """Do it, and return what became of every tag; cancelled, `report` holds what is known so far.

        Raises:
            QueueError: the queue takes nothing.
        """
        started = time.monotonic()
        work: asyncio.Queue[CopyRequest | None] = asyncio.Queue(_LISTED_AHEAD)
        try:
            async with asyncio.TaskGroup() as group:
                ends = group.create_task(self._hear_ends()) if self._queue is not None else None
                comparing = [group.create_task(self._compare_all(work)) for _ in range(_COMPARED_AT_ONCE)]
                await self._list(work)
                for _ in comparing:
                    await work.put(None)
                await asyncio.wait(comparing)
                self._all_queued = True
                if self._waiting or self._stopping:
                    await self._none_waiting.wait()
                if ends is not None:
                    ends.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        except asyncio.CancelledError:
            self.report.interrupted = True
            for request in self._waiting.values():
                self._row(Row(str(request.source), str(request.destination), RowOutcome.QUEUED))
            raise
        finally:
            self.report.seconds = round(time.monotonic() - started, 3)
        return self.report

    async def _list(self, work: asyncio.Queue[CopyRequest | None]) -> None:
        matched: set[str] = set()
        async for listed in list_requests(self._rules, self._registries):
            if self._stopping:
                return
            if listed.error is not None:
                self._row(Row(listed.what, "", RowOutcome.FAILED, error=f"can't be listed: {listed.error}"))
            for request in listed.requests:
                matched.add(request.rule)
                if self._collides(request):
                    continue
                self.report.listed += 1
                await work.put(request)
        failed = any(row.outcome is RowOutcome.FAILED and not row.destination for row in self.report.rows)
        for rule in dict.fromkeys(rule for source in self._rules.sources() for rule in source.rules):
            if rule not in matched and not failed:
                self.report.warnings.append(f"the rule {rule} matches nothing")

    def _collides(self, request: CopyRequest) -> bool:
        """Tell whether something else goes to the same destination; the first source listed keeps it."""
        destination, source = str(request.destination), str(request.source)
        first = self._sources.setdefault(destination, source)
        if first == source:
            return False
        error = f"{first} goes to the same destination: give the two rules different destinations"
        self.report.listed += 1
        self._row(Row(source, destination, RowOutcome.FAILED, error=error))
        return True

    async def _compare_all(self, work: asyncio.Queue[CopyRequest | None]) -> None:
        while (request := await work.get()) is not None:
            if not self._stopping:
                await self._compare(request)

    async def _compare(self, request: CopyRequest) -> None:
        source, destination = str(request.source), str(request.destination)
        started = time.monotonic()
        try:
            wanted, present = await asyncio.gather(
                self._registries.source(request.source.repository).head_manifest(request.source.identifier),
                self._registries.destination(request.destination.repository).head_destination(
                    request.destination.identifier
                ),
            )
        except ReplicatorError as error:
            if error.error_class in (ErrorClass.CREDENTIALS, ErrorClass.PERMANENT) or self._queue is None:
                self._row(Row(source, destination, RowOutcome.FAILED, error=str(error)))
                return
            # A fault of the moment: the job meets it with the queue's patience.
            log.debug("not compared", source=source, error=str(error))
        else:
            if wanted is not None and present is not None and wanted.digest == present.digest:
                seconds = round(time.monotonic() - started, 3)
                self._row(Row(source, destination, RowOutcome.UP_TO_DATE, wanted.digest, seconds=seconds))
                return
            if self._queue is None:
                if wanted is None:
                    self._row(Row(source, destination, RowOutcome.FAILED, error=f"{source} is not there"))
                else:
                    self._row(Row(source, destination, RowOutcome.WOULD_COPY, wanted.digest))
                return
        self._waiting[destination] = request
        await self._queue.enqueue([replication.job(request, retries=self._retries)], Lane.BACKFILL, run=self._run_id)

    async def _hear_ends(self) -> None:
        assert self._queue is not None  # noqa: S101 - only called with one
        async for finished in self._queue.finished(self._run_id):
            request = self._waiting.pop(finished.id, None)
            if request is not None:
                self._row(_ended(request, finished))
            if self._all_queued and not self._waiting:
                self._none_waiting.set()

    def _row(self, row: Row) -> None:
        self.report.add(row)
        if self._on_row is not None:
            self._on_row(row)


def _ended(request: CopyRequest, finished: Finished) -> Row:
    source, destination = str(request.source), str(request.destination)
    if finished.outcome is None:
        error = finished.error or "no reason was given"
        if finished.retrying:
            error += " (an event asked for it too, so it is still being tried)"
        return Row(source, destination, RowOutcome.FAILED, error=error, seconds=finished.seconds)
    outcome = Outcome.from_json(dict(finished.outcome))
    return Row(
        source,
        destination,
        RowOutcome(outcome.result.value),
        outcome.digest,
        bytes=outcome.bytes,
        seconds=outcome.seconds,
    )
