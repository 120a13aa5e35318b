"""The comparison of one tag at its source with its destination, and what may spare it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from replicator.console import short
from replicator.copy import Result, SourceNotFound, selection_key
from replicator.errors import ErrorClass, ReplicatorError
from replicator.replication.advice import explained
from replicator.replication.job import may_trust
from replicator.replication.report import Row, RowOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.copy import Comparison, Copier
    from replicator.queue import Observations
    from replicator.replication.listing import Found
    from replicator.rules import CopyRequest

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
        digests = [each.digest if may_trust(each.request) else None for each in found]
        rows = await self._confirmed([(each, digest) for each, digest in zip(found, digests, strict=True) if digest])
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
        digest = None if request.signature else found.digest
        try:
            if digest is None and self._trust is not None and may_trust(request):
                # No list named the digest. One request to the source may save one to the destination.
                digest = await self._resolve(request)
                if digest is not None and (row := (await self._confirmed([(found, digest)])).get(found)) is not None:
                    return row
            comparison = await self._copier.compare(
                request.source, request.destination, request.options, announced=digest, read=self._dry_run
            )
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
            # Whether all signatures are at the destination is for the job to see; a comparison does not cover them.
            wants_signatures = not self._dry_run and request.options.signatures
            if (wants_signatures or self._force) and not request.signature:
                return comparison
        return replace(
            row_of(found, RowOutcome(comparison.result.value)),
            digest=comparison.digest,
            seconds=round(time.monotonic() - started, 3),
            note=comparison.note,
        )

    async def _resolve(self, request: CopyRequest) -> str | None:
        source = self._copier.registries.source(request.source.repository)
        manifest = await source.head_manifest(request.source.identifier)
        return manifest.digest if manifest is not None else None

    async def _confirmed(self, found: Sequence[tuple[Found, str]]) -> dict[Found, Row]:
        """Return the rows of those copies whose destination was seen to hold this digest within the time of trust."""
        if self._trust is None or self._checks is None or self._force or not found:
            return {}
        expected = [
            (str(each.request.destination), selection_key(digest, each.request.options)) for each, digest in found
        ]
        confirmed = await self._checks.confirmed(expected, self._trust)
        return {
            each: replace(row_of(each, RowOutcome.UP_TO_DATE), note=TRUSTED)
            for (each, _), holds in zip(found, confirmed, strict=True)
            if holds
        }


def row_of(found: Found, outcome: RowOutcome) -> Row:
    """Return the row of a copy, with the size from the list."""
    return Row(str(found.request.source), str(found.request.destination), outcome, size=found.size)


def informed(request: CopyRequest, comparison: Comparison) -> CopyRequest:
    """Return a request with what its comparison saw, which saves the copy these questions."""
    if request.signature or request.source.tag is None:
        return request
    absent = comparison.result is None and comparison.present is None
    return replace(request, announced=comparison.announced, absent=absent)


def why(comparison: Comparison) -> str:
    """Say why an image would be copied, and what of it would be left out."""
    if comparison.result is Result.UP_TO_DATE:
        reason = "it is forced"
    elif comparison.present is None:
        reason = "it is not there yet"
    else:
        reason = f"{short(comparison.present)} is there"
    return f"{reason}; {comparison.note}" if comparison.note else reason
