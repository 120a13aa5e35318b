"""The forecast of a dry run: bytes, requests and duration of the following run.

The dry run asks all that the run asks before it writes: lists, comparisons, manifests at the source, and which blobs
the destination has. So these requests are counted as they happen, and only those that move bytes are computed.
Signatures that are copied behind their images are not part of it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from replicator.console import age
from replicator.copy.compare import read_root
from replicator.copy.context import CopyContext
from replicator.copy.ledger import SMALL, Allowance
from replicator.copy.options import VERBATIM
from replicator.copy.selection import MAX_DEPTH, Selection, select
from replicator.errors import ReplicatorError
from replicator.registry import RequestObserver

if TYPE_CHECKING:
    from replicator.copy import Comparison, Copier
    from replicator.registry import Descriptor, Manifest
    from replicator.replication.listing import Found
    from replicator.replication.repositories import QuotaCount
    from replicator.timetable import HostTimetables

MOST_PARTS = 2_000_000
"""Blobs and manifests that a forecast tells apart; each further one counts as one that is not there yet."""
_WRITES = 2
"""Requests that send a blob: one opens the upload, one has the bytes."""


@dataclass(slots=True)
class Forecast:
    """Counts what copies would send; its memory is bounded by `MOST_PARTS`.

    Attributes:
        rates: bytes a second that may be sent to each registry.
        requests: by registry: those of the dry run that the run makes too, and those that write.
        bytes: to be sent, by registry.
        images: tags to be copied.
        unknown: of these, tags that could not be compared and are not part of the forecast.
        sent: blobs to be sent.
        mounted: blobs that another repository of the registry has.
        present: blobs that the repository has.
        manifests: manifests to be written.
    """

    rates: HostTimetables
    requests: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    images: int = 0
    unknown: int = 0
    sent: int = 0
    mounted: int = 0
    present: int = 0
    manifests: int = 0
    _seen: set[int] = field(default_factory=set, repr=False)

    def observer(self) -> RequestObserver:
        """Return an observer of the dry run's requests."""

        def answered(registry: str, *_: object) -> None:
            self.requests[registry] += 1

        return RequestObserver(answered=answered)

    async def add(self, copier: Copier, found: Found, comparison: Comparison | None) -> None:
        """Add a copy that the dry run would make.

        Args:
            copier: of the dry run.
            found: the copy.
            comparison: its result; None if a transient error hid it.
        """
        self.images += 1
        if comparison is None:
            self.unknown += 1
            return
        if comparison.lacks_signatures:
            # The image itself is there.
            return
        try:
            await self._add(copier, found, comparison)
        except ReplicatorError:
            # The run will find the reason, and tell it.
            self.unknown += 1

    async def _add(self, copier: Copier, found: Found, comparison: Comparison) -> None:
        request, selection = found.request, comparison.selection
        options = VERBATIM if request.signature else request.options
        context = CopyContext.open(copier.registries, request.source, request.destination, options)
        if selection is None:
            selection = await select(await read_root(context, comparison.announced), context)
        if (root := selection.manifest) is not None:
            # A second tag of an image is read and written too, without its parts.
            if self._is_new(context, root.digest):
                await self._add_parts(copier, context, selection, root)
            self._write(context)

    async def _add_parts(
        self, copier: Copier, context: CopyContext, selection: Selection, manifest: Manifest, depth: int = 0
    ) -> None:
        for child in manifest.manifests if depth < MAX_DEPTH else ():
            if self._is_new(context, child.digest):
                read = selection.rewritten.get(child.digest) or await context.reader.child(child, manifest.digest)
                await self._add_parts(copier, context, selection, read, depth + 1)
                self._write(context)
        worth = sum(blob.size for blob in manifest.blobs if blob.size > SMALL)
        allowance, found = Allowance.worth(worth), False
        for blob in sorted(manifest.blobs, key=lambda blob: -blob.size):
            # Foreign layers are had elsewhere.
            if not blob.is_foreign and self._is_new(context, blob.digest):
                found |= await self._add_blob(copier, context, blob, worth, allowance, look=found or blob.size > SMALL)

    async def _add_blob(
        self, copier: Copier, context: CopyContext, blob: Descriptor, worth: int, allowance: Allowance, *, look: bool
    ) -> bool:
        """Add a blob; return whether its repository has it."""
        source, target = context.origin.repository, context.target.repository
        elsewhere = not self._is_new(context, blob.digest, anywhere=True) or source.registry == target.registry
        where = (
            await copier.find_blob(target, blob, worth=worth, allowance=allowance) if look and not elsewhere else None
        )
        if where == target.name:
            self.present += 1
        elif elsewhere or where is not None:
            self.mounted += 1
            self.requests[target.registry] += 1
        else:
            self.sent += 1
            self.bytes[target.registry] += blob.size
            self.requests[source.registry] += 1
            # A copy mostly looks for a blob by the request that opens its upload.
            self.requests[target.registry] += _WRITES - look
        return where == target.name

    def _write(self, context: CopyContext) -> None:
        self.manifests += 1
        self.requests[context.target.repository.registry] += 1

    def _is_new(self, context: CopyContext, digest: str, *, anywhere: bool = False) -> bool:
        """Note a part of a repository, or of its registry; return whether it was not noted before."""
        repository = context.target.repository
        key = hash((repository.registry, "" if anywhere else repository.name, digest))
        if key in self._seen:
            return False
        if len(self._seen) < MOST_PARTS:
            self._seen.add(key)
        return True

    @property
    def size(self) -> int:
        """Bytes to be sent to all registries."""
        return self.bytes.total()

    @property
    def seconds(self) -> float | None:
        """How long the bytes take at the rates of now, all registries at once; None without a rate."""
        now = datetime.now(UTC)
        limits = {registry: self.rates.of(registry).at(now).rate for registry, size in self.bytes.items() if size}
        times = [self.bytes[registry] / rate for registry, rate in limits.items() if rate]
        return max(times) if times else None

    def facts(self, quota: QuotaCount | None) -> dict[str, Any]:
        """Return it by name; of the time there is none without a rate, of quotas none without the Personal Edition."""
        seconds = self.seconds
        return {
            "forecast": f"{decimal(self.size)}{f' in {age(max(1, seconds))}' if seconds is not None else ''}",
            "bytes": self.size,
            "seconds": None if seconds is None else math.ceil(seconds),
            "tags": self.images,
            "blobs sent": self.sent,
            "blobs mounted": self.mounted,
            "blobs present": self.present,
            "manifests": self.manifests,
            "requests": self.requests.total(),
            **{f"requests to {registry}": number for registry, number in sorted(self.requests.items())},
            "quota": [f"{use.place}: {use.summary}" for use in quota.uses.all()] if quota is not None else None,
            "tags without a forecast": self.unknown or None,
        }
