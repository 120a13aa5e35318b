"""One tag from one registry to another: what is missing is sent, what is there is not, and the tag comes last."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from replicator.copy.blobs import BlobCopier
from replicator.copy.compare import Comparison, compare, compare_listed, read_root
from replicator.copy.ledger import Ledger
from replicator.copy.options import VERBATIM
from replicator.copy.outcome import Outcome, Result, Tally
from replicator.copy.push import Push
from replicator.copy.selection import Selection, SourceReader, select
from replicator.copy.selection_cache import SelectionCache
from replicator.copy.signatures import Signatures

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from replicator.copy.ledger import BlobLocks
    from replicator.copy.options import CopyOptions
    from replicator.copy.selection_cache import SelectionStore
    from replicator.reference import Reference
    from replicator.registry import Registries


class Copier:
    """Copies images; shares connections, knowledge and uploads under way between all copies of a process.

    Args:
        registries: the way to every registry.
        transfers: blob bodies in flight at once.
        sharing: what other processes know and have under way; None for a process alone.
        memory: what other processes found to be wanted of images; None for a process alone.

    Attributes:
        registries: the way to every registry.
        forms: what is known to be wanted of images; who compares many may have it recalled for them at once.
    """

    def __init__(
        self,
        registries: Registries,
        *,
        transfers: int = 8,
        sharing: BlobLocks | None = None,
        memory: SelectionStore | None = None,
    ) -> None:
        self.registries = registries
        self._ledger = Ledger()
        self.forms = SelectionCache(memory)
        self._blobs = BlobCopier(transfers, self._ledger, sharing)
        self._signatures = Signatures(self._blobs)

    async def compare(
        self,
        source: Reference,
        destination: Reference,
        options: CopyOptions = VERBATIM,
        *,
        announced: str | None = None,
        reading: bool = True,
    ) -> Comparison:
        """Tell whether a destination names what `copy` would make it name; nothing is written.

        Signatures are not compared.

        Args:
            source: what would be copied.
            destination: where to.
            options: what of the image would be copied.
            announced: what the source's tag names, by a list that was just read. It is taken for true, so that the
                source is asked only where it is not known what is wanted of that image; `copy` asks it again.
            reading: look into an announced image even where the destination holds nothing at all. Who is going to copy
                it need not: `copy` reads it.

        Raises:
            SourceNotFound, AttestationsFound, RegistryError: as `copy` does.
        """
        origin = self.registries.source(source.repository)
        target = self.registries.destination(destination.repository)
        reader = SourceReader(origin)
        if announced is None:
            return await compare(
                source, destination, options, origin=origin, reader=reader, target=target, forms=self.forms
            )
        return await compare_listed(
            source,
            destination,
            options,
            origin=origin,
            reader=reader,
            target=target,
            forms=self.forms,
            announced=announced,
            reading=reading,
        )

    async def copy(
        self,
        source: Reference,
        destination: Reference,
        *,
        options: CopyOptions = VERBATIM,
        announced: str | None = None,
        force: bool = False,
        confirm: Callable[[], Awaitable[None]] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Outcome:
        """Make the destination's tag name the same bytes as the source's tag or digest, or what is wanted of them.

        Manifests are sent byte for byte, but for an index that the options leave less of. Nothing is sent when the
        destination already names the right digest. The tag is written after everything it needs (distribution
        specification, "Pushing Manifests").

        Args:
            source: what to copy; a digest wins over a tag.
            destination: where to, by tag or by digest.
            options: what of the image is copied.
            announced: what the source's tag is said to name. Where the destination holds that already the source is
                not asked, so it must be the newest that was heard of.
            force: write the tag even where the destination names the right digest; what is known to be there is still
                not sent.
            confirm: awaited right before each try to write the tag, which then takes `Timing.tag` seconds at the
                most; what it raises ends the copy with nothing more written.
            progress: told the number of blob bytes as they are read.

        Returns:
            What was done: copied, up to date, or skipped.

        Raises:
            SourceNotFound: the source has no such tag or digest.
            AttestationsFound: it has attestations, and the options say that there must be none.
            RegistryError: either registry refused or failed; see its class for whether to try again.
        """
        started = time.monotonic()
        tally = Tally()
        on_bytes = progress or _ignore
        origin = self.registries.source(source.repository)
        target = self.registries.destination(destination.repository)
        reader = SourceReader(origin)
        found = await compare(
            source,
            destination,
            options,
            origin=origin,
            reader=reader,
            target=target,
            forms=self.forms,
            announced=announced,
            force=force,
        )
        selection, result = found.selection, found.result
        if result is None and selection is not None and selection.manifest is not None:
            run = Push(origin, reader, target, self._blobs, tally, on_bytes, selection.rewritten)
            await run.bring_parts(selection.manifest)
            await run.put_root(selection.manifest, destination.identifier, confirm or _certain)
            result = Result.COPIED
        elif found.digest is not None:
            self._ledger.add(destination.registry, destination.repository.name, found.digest)
        if options.signatures and found.digest is not None:
            if selection is None:
                root = await read_root(origin, source, found.announced)
                # Where the destination holds it whole, all that is signed of it is there.
                whole = root.digest == found.digest
                selection = Selection(root) if whole else await select(root, options, reader, source.registry)
            signing = self._signatures.between(origin, reader, target, tally, on_bytes)
            await signing.copy_all(found.announced, selection)
        seconds = time.monotonic() - started
        outcome = tally.outcome(result or Result.UP_TO_DATE, source, destination, found.digest, found.note, seconds)
        return replace(outcome, source_digest=found.announced)

    async def copy_signature(
        self, source: Reference, destination: Reference, *, progress: Callable[[int], None] | None = None
    ) -> Outcome:
        """Copy a signature, an attestation or whatever else refers to an image, if the image is at the destination.

        Args:
            source: it, by digest, or by a tag of cosign's or of the referrers tag schema.
            destination: where to, under the same digest or tag.
            progress: told the number of blob bytes as they are read.

        Returns:
            What was done; skipped, with the reason, when what it refers to is not there, or it is refused.

        Raises:
            SourceNotFound: the source does not have it.
            RegistryError: either registry failed; see its class for whether to try again.
        """
        started = time.monotonic()
        tally = Tally()
        origin = self.registries.source(source.repository)
        target = self.registries.destination(destination.repository)
        signing = self._signatures.between(origin, SourceReader(origin), target, tally, progress or _ignore)
        result, digest, note = await signing.copy_one(source)
        return tally.outcome(result, source, destination, digest, note, time.monotonic() - started)


async def _certain() -> None:
    return


def _ignore(_: int) -> None:
    return
