"""The comparison of one tag at its source with its destination, and what may spare it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from replicator.console import short
from replicator.copy import Result, SourceNotFound, selection_key
from replicator.copy.options import VERBATIM
from replicator.errors import ErrorClass, ReplicatorError
from replicator.replication.advice import explained
from replicator.replication.job import may_trust, signature_fact
from replicator.replication.report import Row, RowOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.copy import Accessories, Comparison, Copier
    from replicator.queue import Observations
    from replicator.replication.listing import Found
    from replicator.rules import CopyRequest

SETTLED_SECONDS = 7 * 86_400.0
"""For so long the signatures of an image that were seen at a destination are not looked for again."""

TRUSTED = "not compared, as it was seen to be up to date lately"


class Checker:
    """Compares tags with their destinations.

    Args:
        copier: makes the comparisons; its registries resolve a tag whose digest no list named.
        checks: what this installation saw at destinations; None without a queue to keep that.
        trust: seconds for which a destination that was up to date is trusted; None to compare each.
        force: copy also what is up to date.
        dry_run: nothing is queued, so no job will look again.
    """

    def __init__(
        self, copier: Copier, checks: Observations | None, *, trust: float | None, force: bool, dry_run: bool
    ) -> None:
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
        return [rows.get(each) for each in found]

    async def recall(self, found: Sequence[Found]) -> None:
        """Load at once what other processes know of the images that `check` is about to compare."""
        images = [(each.digest, each.request.options) for each in found if each.digest is not None]
        await self._copier.selections.prefetch(images)

    async def check(self, found: Found) -> Row | Comparison | None:
        """Compare a tag with its destination.

        Returns:
            The row, if nothing is to be copied or nothing can be; the comparison, if something is to be copied; None,
            if a transient error hid the answer, so that the job has to find out.
        """
        request = found.request
        started, compared_at = time.monotonic(), time.time()
        digest = found.digest
        try:
            if digest is None and self._trust is not None and may_trust(request):
                # No list named the digest. One request to the source may save one to the destination.
                digest = await self._resolve(request)
                if digest is not None and (row := (await self._confirmed([(found, digest)])).get(found)) is not None:
                    return row
            # A signature has no parts to select.
            options = VERBATIM if request.signature else request.options
            comparison = await self._copier.compare(
                request.source, request.destination, options, announced=digest, read=self._dry_run
            )
            lacks_signatures = comparison.result is Result.UP_TO_DATE and await self._lacks_signatures(found)
        except SourceNotFound as error:
            # Not passed over: a rule names this tag, or a list did a moment ago.
            return replace(row_of(found, RowOutcome.FAILED), error=str(error))
        except ReplicatorError as error:
            if error.error_class in (ErrorClass.CREDENTIALS, ErrorClass.PERMANENT) or self._dry_run:
                return replace(row_of(found, RowOutcome.FAILED), error=explained(error, request.destination))
            return None
        if comparison.result is None:
            return comparison
        if comparison.result is Result.UP_TO_DATE:
            if self._checks is not None and may_trust(request):
                key = selection_key(comparison.announced, request.options)
                self._checks.record(str(request.destination), key, compared_at)
            if (lacks_signatures or self._force) and not request.signature:
                return replace(comparison, lacks_signatures=lacks_signatures)
        return replace(
            row_of(found, RowOutcome(comparison.result.value)),
            digest=comparison.digest,
            seconds=round(time.monotonic() - started, 3),
            note=comparison.note,
        )

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
        if self._trust is None or self._checks is None or self._force or not found:
            return {}
        facts = [(each, fact) for each, digest in found for fact in _facts(each, digest)]
        confirmed = await self._checks.confirmed([fact for _, fact in facts], self._trust)
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


def row_of(found: Found, outcome: RowOutcome) -> Row:
    """Return the row of a copy, with the size from the list."""
    return Row(str(found.request.source), str(found.request.destination), outcome, size=found.size)


def informed(
    request: CopyRequest, comparison: Comparison | None, accessories: Accessories | None = None
) -> CopyRequest:
    """Return a request with what its comparison and the source's list saw, which saves the copy these questions."""
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
    elif comparison.present is None:
        reason = "it is not there yet"
    else:
        reason = f"{short(comparison.present)} is there"
    return f"{reason}; {comparison.note}" if comparison.note else reason
