"""Tags in a backfill: they are compared with their destinations, and queued if they differ."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from replicator.console import short
from replicator.copy import Comparison, Result, SourceNotFound, held_warning, selection_key
from replicator.copy.options import VERBATIM, Overwrite
from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import Lane
from replicator.replication.advice import explained
from replicator.replication.job import LOST
from replicator.replication.listing import Found
from replicator.replication.report import Row, RowOutcome, SortedRows
from replicator.rules import Asked, CopyRequest
from replicator.rules.request import may_trust, signature_fact
from replicator.tasks import gather_tolerant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from replicator.copy import Accessories, Copier
    from replicator.queue import CauseWatch, Job, Observations, Observed, Queue
    from replicator.reference import Repository

SETTLED_SECONDS = 7 * 86_400.0
"""For so long the signatures of an image that were seen at a destination are not looked for again."""

TRUSTED = "not compared, as it was seen to be up to date lately"


class Checker:
    """Compares tags with their destinations.

    Args:
        copier: makes the comparisons; its registries resolve a tag whose digest no list named.
        checks: what this installation saw at destinations; None without a queue to keep that.
        trust: seconds for which a destination that was up to date is trusted; None to compare each.
        began: when they end (`time.monotonic`), as for a run that takes long; None for the moment of each look.
        force: copy also what is up to date.
        dry_run: nothing is queued, so no job will look again.
        letters: ends the dead letters of what is right; what has one is never trusted.
        probe: compare one trusted tag of each destination repository all the same. Where it is not what was seen, no
            tag of that repository is trusted.
    """

    def __init__(  # one of a run: all but the first two are keywords
        self,
        copier: Copier,
        checks: Observations | None,
        *,
        trust: float | None,
        force: bool,
        dry_run: bool,
        letters: CauseWatch,
        began: float | None = None,
        probe: bool = False,
    ) -> None:
        self._began = began
        self._probe = probe
        # Whether a repository keeps its trust; one entry for each that the run looks at.
        self._verdicts: dict[Repository, asyncio.Future[bool]] = {}
        self._seen: dict[str, Observed] = {}
        self.letters = letters
        self._copier = copier
        self._checks = checks
        self._trust = trust
        self._force = force
        self._dry_run = dry_run

    async def trusted(self, found: Sequence[Found]) -> list[Row | None]:
        """Find the destinations that need no comparison, because they were up to date within the time of trust.

        The digest that is looked up is the one the source's tag has in the list that was just read. So no change at
        the source is missed, only one that somebody else made at the destination since.

        Returns:
            The row of each copy; None if its destination has to be compared.
        """
        rows = await self._confirmed([(each, each.digest) for each in found if each.digest is not None])
        if self._probe and rows:
            chosen: dict[Repository, Found] = {}
            # At random, so that each run asks for another one.
            for each in random.sample(list(rows), len(rows)):
                if _target(each) not in self._verdicts:
                    chosen.setdefault(_target(each), each)
            await self.recall(list(chosen.values()))
            await gather_tolerant(self._ask_again(each, rows) for each in chosen.values())
            rows = {each: row for each, row in rows.items() if await self._verdicts[_target(each)]}
        return [rows.get(each) for each in found]

    async def _ask_again(self, found: Found, rows: dict[Found, Row]) -> None:
        """Compare a destination that is trusted, and replace its row by what was found."""
        with self._verdict(_target(found)) as verdict:
            async with self._copier.registries.courtesy.step():
                checked = await self._compare(found, found.digest)
            if isinstance(checked, Row):
                rows[found] = checked
            elif checked is not None:
                del rows[found]
                await self._disprove(found, checked, verdict)

    async def _disprove(self, found: Found, checked: Comparison, verdict: asyncio.Future[bool]) -> None:
        if checked.result is None and self._checks is not None:
            await self._checks.distrust(str(_target(found)))
            verdict.set_result(False)

    @contextlib.contextmanager
    def _verdict(self, repository: Repository) -> Iterator[asyncio.Future[bool]]:
        """Decide about a repository; it keeps its trust unless something else is decided meanwhile."""
        verdict = self._verdicts[repository] = asyncio.get_running_loop().create_future()
        try:
            yield verdict
        finally:
            if not verdict.done():
                verdict.set_result(True)

    async def recall(self, found: Sequence[Found]) -> None:
        """Load at once what other processes know of the images that `check` is about to compare."""
        images = [(each.digest, each.request.options) for each in found if each.digest is not None]
        await self._copier.selections.prefetch(images)
        if self._checks is not None:
            names = [str(each.request.destination) for each in found if may_trust(each.request)]
            seen = await self._checks.recall(names)
            self._seen |= {name: one for name, one in zip(names, seen, strict=True) if one is not None}

    async def check(self, found: Found) -> Row | Comparison | None:
        """Compare a tag with its destination.

        Returns:
            The row, if nothing is to be copied or nothing can be; the comparison, if something is to be copied; None,
            if a transient error hid the answer, so that the job has to find out.
        """
        request, digest = found.request, found.digest
        if digest is not None or self._trust is None or not may_trust(request):
            return await self._compare(found, digest)
        try:
            # No list named the digest. One request to the source may save one to the destination.
            digest = await self._resolve(request)
        except ReplicatorError as error:
            return self._failed(found, error)
        row = (await self._confirmed([(found, digest)])).get(found) if digest is not None else None
        repository = _target(found)
        if row is not None and (not self._probe or (repository in self._verdicts and await self._verdicts[repository])):
            return row
        if row is None or repository in self._verdicts:
            return await self._compare(found, digest)
        with self._verdict(repository) as verdict:
            checked = await self._compare(found, digest)
            if isinstance(checked, Comparison):
                await self._disprove(found, checked, verdict)
        return checked

    def _failed(self, found: Found, error: ReplicatorError) -> Row | None:
        """Return the row of a tag that can't be compared; None if a job has to find out."""
        if isinstance(error, SourceNotFound):
            # Not passed over: a rule names this tag, or a list did a moment ago.
            return replace(row_of(found, RowOutcome.FAILED), error=str(error))
        if error.error_class in (ErrorClass.CREDENTIALS, ErrorClass.PERMANENT) or self._dry_run:
            return replace(row_of(found, RowOutcome.FAILED), error=explained(error, found.request.destination))
        return None

    async def _compare(self, found: Found, digest: str | None) -> Row | Comparison | None:
        request = found.request
        started, compared_at = time.monotonic(), time.time()
        seen = self._seen.pop(str(request.destination), None)
        try:
            # A signature has no parts to select.
            options = VERBATIM if request.signature else request.options
            comparison = await self._copier.compare(
                request.source, request.destination, options, announced=digest, read=self._dry_run
            )
            lacks_signatures = comparison.result is Result.UP_TO_DATE and await self._lacks_signatures(found)
        except ReplicatorError as error:
            return self._failed(found, error)
        if comparison.result is None:
            kept = await self._left_alone(request, comparison)
            if kept is not None:
                note = request.overwrite.kept(request.destination, kept)
                return replace(row_of(found, RowOutcome.SKIPPED), digest=kept, note=note)
            lost = comparison.present is None and seen is not None
            if lost and self._checks is not None:
                await self._checks.distrust(str(_target(found)), seen)
            return replace(comparison, lost=lost)
        if comparison.result is Result.UP_TO_DATE:
            if self._checks is not None and may_trust(request):
                key = selection_key(comparison.announced, request.options)
                owner = "" if request.signature else request.origin
                self._checks.record(str(request.destination), key, compared_at, owner)
            if (lacks_signatures or self._force) and not request.signature:
                return replace(comparison, lacks_signatures=lacks_signatures)
        self.letters.over(str(request.destination), right=comparison.result is Result.UP_TO_DATE)
        return replace(
            row_of(found, RowOutcome(comparison.result.value)),
            digest=comparison.digest,
            seconds=round(time.monotonic() - started, 3),
            note=comparison.note,
            warnings=held_warning(comparison.held),
            still_holds=comparison.held,
        )

    async def _left_alone(self, request: CopyRequest, comparison: Comparison) -> str | None:
        """Return the image at the destination if it may not be replaced; None to copy, or to leave that to the job."""
        replaced = comparison.replaced
        if replaced is None or request.overwrite.allows(replaced):
            return None
        if request.overwrite is Overwrite.OURS:
            owned = await self._checks.owned([str(request.destination)]) if self._checks is not None else None
            # What this installation wrote is known to the queue alone.
            if owned is None or replaced in owned[0]:
                return None
        return replaced

    async def _lacks_signatures(self, found: Found) -> bool:
        """Tell whether signatures of an image that is at the destination may be missing there."""
        request, attached = found.request, found.accessories
        if request.signature:
            return False
        if attached is None:
            # The source's list has shown none. Where all are wanted, the job has to look.
            return bool(request.options.signatures) and not self._dry_run
        if not attached.wanted_by(request.options):
            return False
        fact = signature_fact(request, attached)
        if self._checks is not None and not self._force and all(await self._checks.confirmed([fact], SETTLED_SECONDS)):
            return False
        began = time.time()
        children = request.options.signatures is True and attached.is_index
        if not await self._copier.holds(request.destination.repository, attached):
            return True
        if children:
            # Their signatures are in no list.
            return not self._dry_run
        if self._checks is not None:
            self._checks.record(*fact, began)
        return False

    async def _resolve(self, request: CopyRequest) -> str | None:
        source = self._copier.registries.source(request.source.repository)
        manifest = await source.head_manifest(request.source.identifier)
        return manifest.digest if manifest is not None else None

    async def _confirmed(self, found: Sequence[tuple[Found, str]]) -> dict[Found, Row]:
        """Return the rows of those copies whose destination was seen to hold this digest within the time of trust."""
        found = [pair for pair in found if str(pair[0].request.destination) not in self.letters]
        if self._trust is None or self._checks is None or self._force or not found:
            return {}
        facts = [(each, fact) for each, digest in found for fact in _facts(each, digest)]
        within = self._trust if self._began is None else self._trust + time.monotonic() - self._began
        confirmed = await self._checks.confirmed([fact for _, fact in facts], within)
        held: dict[Found, bool] = {}
        for (each, _), holds in zip(facts, confirmed, strict=True):
            held[each] = held.get(each, True) and holds
        return {
            each: replace(row_of(each, RowOutcome.UP_TO_DATE), note=TRUSTED) for each, holds in held.items() if holds
        }


def _facts(found: Found, digest: str) -> list[tuple[str, str]]:
    """Return the observations that together show that there is nothing to copy; none if no observation can."""
    request, attached = found.request, found.accessories
    if not may_trust(request):
        return []
    facts = [(str(request.destination), selection_key(digest, request.options))]
    if request.signature:
        return facts
    if attached is None:
        return [] if request.options.signatures else facts
    return [*facts, signature_fact(request, attached)] if attached.wanted_by(request.options) else facts


def _target(found: Found) -> Repository:
    return found.request.destination.repository


def row_of(found: Found, outcome: RowOutcome) -> Row:
    """Return the row of a copy, with the size from the list."""
    return Row(str(found.request.source), str(found.request.destination), outcome, size=found.size)


def informed(
    request: CopyRequest, comparison: Comparison | None, accessories: Accessories | None = None
) -> CopyRequest:
    """Return a request with the findings of its comparison and of the list, which the copy need not ask again."""
    if accessories is not None and not request.signature:
        request = replace(request, accessories=accessories.for_job(request.options))
    if comparison is None or request.signature or request.source.tag is None:
        return request
    absent = comparison.result is None and comparison.present is None
    return replace(request, announced=comparison.announced, absent=absent)


def why(comparison: Comparison) -> str:
    """Say why an image would be copied, and what of it would be left out."""
    if comparison.lacks_signatures:
        reason = "signatures of it are missing"
    elif comparison.result is Result.UP_TO_DATE:
        reason = "it is forced"
    elif comparison.lost:
        reason = LOST
    elif comparison.present is None:
        reason = "it is not there yet"
    else:
        reason = f"{short(comparison.present)} is there"
    return f"{reason}; {comparison.note}" if comparison.note else reason


@dataclass(frozen=True, slots=True)
class ReplaceLimit:
    """How many existing tags a run may replace with other images before a person is asked.

    A Harbor that was put back to a backup, or a rule with another destination, would else overwrite a whole registry.

    Attributes:
        most: so many may always be replaced; more may if they are no more than a tenth of what was compared.
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
            checked: what was found; None if a transient error hid that.
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
        except Exception as error:  # noqa: BLE001 - raised by each `put` that waits, whatever it is
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
