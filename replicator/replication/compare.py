"""Tags in a backfill: they are compared with their destinations, and queued if they differ."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from replicator.console import short
from replicator.copy import Comparison, Outcome, Result, SourceNotFound, held_warning, selection_key
from replicator.copy.context import place_of, refusal_note
from replicator.copy.options import VERBATIM, Overwrite
from replicator.errors import AGAIN, ErrorClass, ErrorText, ReplicatorError
from replicator.replication.advice import explained
from replicator.replication.job import LOST
from replicator.replication.report import Row, RowOutcome
from replicator.rules.request import may_trust, signature_fact
from replicator.tasks import gather_tolerant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from replicator.copy import Copier
    from replicator.copy.options import CopyOptions
    from replicator.queue import CauseWatch, Finished, Observations, Observed
    from replicator.reference import Repository
    from replicator.replication.listing import Found
    from replicator.rules import CopyRequest

SETTLED_SECONDS = 7 * 86_400.0
"""For so long the signatures of an image that were seen at a destination are not looked for again."""

TRUSTED = "not compared, because it was verified recently"


class Checker:
    """Compares tags with their destinations.

    Args:
        copier: makes the comparisons; its registries resolve a tag whose digest no list named.
        checks: the observations of this installation at destinations; None without a queue to keep them.
        trust: seconds for which a destination that was up to date is trusted; None to compare each.
        began: when they end (`time.monotonic`), as for a run that takes long; None for the moment of each look.
        force: copy also what is up to date.
        dry_run: nothing is queued, so no job will look again.
        letters: ends the dead letters of right destinations; a destination with one is never trusted.
        probe: still compare one trusted tag of each destination repository. If it differs from the observation, no
            tag of that repository is trusted.
        reads: read images that their destination lacks.
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
        reads: bool = False,
    ) -> None:
        self._began = began
        self._probe = probe
        self._reads = reads
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
        """Compare a trusted destination, and replace its row by the result."""
        with self._verdict(_target(found)) as verdict:
            async with self._copier.registries.courtesy.step():
                checked = await self._compare(found, found.digest)
            if isinstance(checked, Row):
                rows[found] = checked
            elif checked is not None:
                del rows[found]
            await self._disprove(found, checked, verdict)

    async def _disprove(self, found: Found, checked: Row | Comparison | None, verdict: asyncio.Future[bool]) -> None:
        """End the trust in a repository if the destination that was trusted does not hold what it should."""
        # A row says so of a tag that holds another image, and is left alone.
        if isinstance(checked, Row):
            wrong = checked.outcome is RowOutcome.SKIPPED
        else:
            wrong = checked is not None and checked.result is None
        if wrong and self._checks is not None:
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
        images = [
            (each.digest, each.request.options, place_of(_target(each))) for each in found if each.digest is not None
        ]
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
            await self._disprove(found, checked, verdict)
        return checked

    def _failed(self, found: Found, error: ReplicatorError) -> Row | None:
        """Return the row of a tag that can't be compared; None if a job has to find out."""
        if isinstance(error, SourceNotFound):
            # Not passed over: a rule names this tag, or a list did a moment ago.
            return row_of(found, RowOutcome.FAILED, error=explained(error).stored)
        if error.error_class in (ErrorClass.CREDENTIALS, ErrorClass.PERMANENT) or self._dry_run:
            return row_of(found, RowOutcome.FAILED, error=explained(error, found.request.destination).stored)
        return None

    async def _compare(self, found: Found, digest: str | None) -> Row | Comparison | None:
        request = found.request
        started, compared_at = time.monotonic(), time.time()
        seen = self._seen.pop(str(request.destination), None)
        try:
            # A signature has no parts to select.
            options = VERBATIM if request.signature else request.options
            comparison = await self._copier.compare(
                request.source,
                request.destination,
                options,
                announced=digest,
                kind=found.kind,
                single=found.accessories is not None and not found.accessories.is_index,
                read=self._reads,
                ask=not self._dry_run,
            )
            if refused := await self._refusal(request, options, comparison):
                note = refusal_note(request.destination.registry, refused)
                comparison = replace(comparison, result=Result.SKIPPED, digest=None, note=note)
            lacks_signatures = comparison.result is Result.UP_TO_DATE and await self._lacks_signatures(found)
        except ReplicatorError as error:
            return self._failed(found, error)
        if comparison.result is None:
            kept = await self._left_alone(request, comparison)
            if kept is not None:
                if seen is not None and self._checks is not None:
                    # Somebody else has written this tag since, and perhaps others of its repository.
                    await self._checks.distrust(str(_target(found)), seen)
                note = request.overwrite.kept(request.destination, kept)
                return row_of(found, RowOutcome.SKIPPED, digest=kept, note=note, **named_by(comparison))
            lost = comparison.present is None and seen is not None
            if lost and self._checks is not None:
                await self._checks.distrust(str(_target(found)), seen)
            return replace(comparison, lost=True) if lost else comparison
        if comparison.result is Result.UP_TO_DATE:
            if self._checks is not None and may_trust(request):
                key = selection_key(comparison.announced, request.options)
                owner = "" if request.signature else request.origin
                self._checks.record(str(request.destination), key, compared_at, owner, comparison.announced)
            if (lacks_signatures or self._force) and not request.signature:
                return replace(comparison, lacks_signatures=lacks_signatures)
        self.letters.over(str(request.destination), request.origin, right=comparison.result is Result.UP_TO_DATE)
        return row_of(
            found,
            RowOutcome(comparison.result.value),
            digest=comparison.digest,
            seconds=round(time.monotonic() - started, 3),
            note=comparison.note,
            warnings=held_warning(comparison.held),
            still_holds=comparison.held,
            refused=refused or comparison.refused,
            **named_by(comparison),
        )

    async def _refusal(self, request: CopyRequest, options: CopyOptions, comparison: Comparison) -> str:
        """Return the kind of an artifact that was skipped lately because the destination refuses it; else empty."""
        if comparison.result is not None or options.refused == "fail" or self._force:
            return ""
        place = place_of(request.destination.repository)
        return await self._copier.refused.skipped(*place, selection_key(comparison.announced, options, place))

    async def _left_alone(self, request: CopyRequest, comparison: Comparison) -> str | None:
        """Return the image at the destination if it may not be replaced; None to copy, or to leave that to the job."""
        replaced = comparison.replaced
        if replaced is None or request.overwrite.allows(replaced):
            return None
        if request.overwrite is Overwrite.OURS:
            owned = await self._checks.owned([str(request.destination)]) if self._checks is not None else None
            # Only the queue knows which digests this installation wrote.
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
        return {each: row_of(each, RowOutcome.UP_TO_DATE, note=TRUSTED) for each, holds in held.items() if holds}


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


def row_of(found: Found, outcome: RowOutcome, **facts: Any) -> Row:
    """Return the row of a copy, with the facts of the list; ``facts`` are further attributes of `Row`."""
    facts.setdefault("source_digest", found.digest)
    return Row(str(found.request.source), str(found.request.destination), outcome, size=found.size, **facts)


def named_by(comparison: Comparison) -> dict[str, str | None]:
    """Return the attributes of a `Row` for the digests that both tags named when they were compared."""
    present = comparison.digest if comparison.result is Result.UP_TO_DATE else comparison.present
    return {"source_digest": comparison.announced, "present": present}


def why(comparison: Comparison) -> str:
    """Say why an image would be copied, and which parts would be left out."""
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


def row_at_end(found: Found, finished: Finished) -> Row:
    """Return the row of a copy that has ended."""
    row = row_of(found, RowOutcome.FAILED, seconds=finished.seconds)
    if finished.cancelled:
        return replace(row, outcome=RowOutcome.CANCELLED)
    if finished.outcome is None:
        error = finished.error or "no reason was given"
        if finished.retrying:
            text = ErrorText.parse(error)
            error = replace(text, do=f"{text.do or AGAIN} (an event asked for it too)").stored
        return replace(row, error=error)
    outcome = Outcome.from_json(dict(finished.outcome))
    if finished.shared and outcome.result is Result.COPIED:
        note = "; ".join(filter(None, ("another run copied it", outcome.note)))
        outcome = replace(outcome, result=Result.UP_TO_DATE, bytes=0, note=note)
    return replace(
        row,
        outcome=RowOutcome(outcome.result.value),
        digest=outcome.digest,
        bytes=outcome.bytes,
        seconds=outcome.seconds,
        note=outcome.note,
        warnings=outcome.warnings,
        replaced=outcome.replaced,
        still_holds=outcome.still_holds,
        refused=outcome.refused,
        source_digest=outcome.source_digest or row.source_digest,
        present=outcome.still_holds or outcome.digest,
    )
