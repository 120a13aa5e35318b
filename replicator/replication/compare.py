"""One tag at its source held against its destination, and whether that can be spared.

How a backfill goes about its work, as its caller wishes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from replicator.console import short
from replicator.copy import Result, SourceNotFound, selection_key
from replicator.errors import ErrorClass, ReplicatorError
from replicator.replication.advice import explained
from replicator.replication.job import may_trust
from replicator.replication.report import Row, RowOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from replicator.copy import Comparison, Copier
    from replicator.queue import Observations
    from replicator.registry import Registries
    from replicator.replication.listing import Found

TRUSTED = "not asked, as it was seen to be right lately"


class Checker:
    """Compares tags with their destinations.

    Args:
        registries: to ask a source what a tag names where no list said so.
        copier: compares.
        checks: what this installation saw at destinations; None where there is no queue to keep that.
        manner: how the backfill goes about its work.
        dry_run: nothing is queued, so no job will look again.
    """

    def __init__(
        self,
        registries: Registries,
        copier: Copier,
        checks: Observations | None,
        manner: BackfillOptions,
        *,
        dry_run: bool,
    ) -> None:
        self._registries = registries
        self._copier = copier
        self._checks = checks
        self._manner = manner
        self._dry_run = dry_run

    async def trusted(self, found: Sequence[Found]) -> list[Row | None]:
        """Tell which destinations need not be asked, as they were seen to be right within the time of trust.

        What is held against the memory is the digest that the source's tag names now, as it was just listed. So no
        change at the source is hidden, only one that others made at the destination since.

        Returns:
            For each copy its row; None where the destination has to be asked.
        """
        digests = [one.digest if may_trust(one.asked.request) else None for one in found]
        held = await self._hold([(one, digest) for one, digest in zip(found, digests, strict=True) if digest])
        return [held.get(one) for one in found]

    async def recall(self, found: Sequence[Found]) -> None:
        """Learn at once what is known to be wanted of images that `check` will be asked about."""
        images = [(one.digest, one.asked.request.options) for one in found if one.digest is not None]
        await self._copier.selections.prefetch(images)

    async def _hold(self, found: Sequence[tuple[Found, str]]) -> dict[Found, Row]:
        within, checks = self._manner.trust, self._checks
        if within is None or checks is None or self._manner.force or not found:
            return {}
        expected = [
            (str(one.asked.request.destination), selection_key(digest, one.asked.request.options))
            for one, digest in found
        ]
        holds = await checks.confirmed(expected, within)
        return {
            one: replace(row_of(one, RowOutcome.UP_TO_DATE), note=TRUSTED)
            for (one, _), held in zip(found, holds, strict=True)
            if held
        }

    async def check(self, found: Found) -> Row | Comparison | None:
        """Compare a tag with its destination.

        Returns:
            Its row, where nothing is to be copied or never can be; else what is known of what has to be copied, None
            where a fault of the moment hid it.
        """
        request = found.asked.request
        destination = str(request.destination)
        started, at = time.monotonic(), time.time()
        digest = None if request.signature else found.digest
        try:
            if digest is None and self._manner.trust is not None and may_trust(request):
                # No list said it: one question to the source may spare one to the destination.
                named = await self._registries.source(request.source.repository).head_manifest(
                    request.source.identifier
                )
                digest = named.digest if named is not None else None
                if digest is not None and (row := (await self._hold([(found, digest)])).get(found)) is not None:
                    return row
            compared = await self._copier.compare(
                request.source, request.destination, request.options, announced=digest, read=self._dry_run
            )
        except SourceNotFound as error:
            # A rule names it, or it was there a moment ago: whoever runs this should know.
            return replace(row_of(found, RowOutcome.FAILED), error=str(error))
        except ReplicatorError as error:
            if error.error_class in (ErrorClass.CREDENTIALS, ErrorClass.PERMANENT) or self._dry_run:
                return replace(row_of(found, RowOutcome.FAILED), error=explained(error, request.destination))
            return None
        if compared.result is None:
            return compared
        if compared.result is Result.UP_TO_DATE:
            if self._checks is not None and may_trust(request):
                self._checks.record(destination, selection_key(compared.announced, request.options), at)
            # Whether all signatures are there, its job looks; of an image that is left out there are none.
            looks = not self._dry_run and request.options.signatures
            if (looks or self._manner.force) and not request.signature:
                return compared
        return replace(
            row_of(found, RowOutcome(compared.result.value)),
            digest=compared.digest,
            seconds=round(time.monotonic() - started, 3),
            note=compared.note,
        )


def row_of(found: Found, outcome: RowOutcome) -> Row:
    """Return the row of a copy, with what its listing told."""
    request = found.asked.request
    return Row(str(request.source), str(request.destination), outcome, size=found.size)


def why(compared: Comparison) -> str:
    """Say why an image would be copied, and what would be left out of it."""
    if compared.result is Result.UP_TO_DATE:
        reason = "it is forced"
    elif compared.present is None:
        reason = "it is not there yet"
    else:
        reason = f"{short(compared.present)} is there"
    return f"{reason}; {compared.note}" if compared.note else reason


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """How a backfill goes about its work.

    Attributes:
        retries: how often a copy that fails is tried again; None for the worker's own patience.
        force: copy also what is at its destination.
        fail_fast: how many copies are queued at once in a run that ends at the first failure, so that little is under
            way then; 0 for one that goes on.
        detach: queue what differs and leave the copying to others.
        since: look only at tags that were set then or later, where Harbor tells; None for all.
        trust: seconds for which a destination that this installation saw to be right is not asked again; None for
            asking each.
    """

    retries: int | None = 2
    force: bool = False
    fail_fast: int = 0
    detach: bool = False
    since: datetime | None = None
    trust: float | None = None
