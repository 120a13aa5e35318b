"""Copy engine: one tag from one registry to another, sending only what is missing, the tag last."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from replicator.copy.blobs import BlobCopier
from replicator.copy.compare import Comparison, compare, compare_listed, compare_read, read_root, signatures_held
from replicator.copy.context import CopyContext, Outcome, Result
from replicator.copy.ledger import LARGE, SMALL, Ledger, NoBlobLocks, RefusedKinds, TagLocks
from replicator.copy.options import EVERYTHING, VERBATIM, Overwrite, selection_key
from replicator.copy.push import KindRefused, Pusher
from replicator.copy.selection import Selection, SelectionCache, select
from replicator.copy.signatures import SignatureCopier
from replicator.copy.survey import Survey
from replicator.copy.tag import LeftAlone, TagGuard
from replicator.registry.errors import Denied
from replicator.registry.kinds import artifact_kind, deciding_type

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterable

    from replicator.copy.ledger import Allowance, BlobLocks, SelectionStore
    from replicator.copy.options import Accessories, CopyOptions, OnProgress
    from replicator.copy.survey import Neighbours
    from replicator.reference import Reference, Repository
    from replicator.registry import Descriptor, Manifest, Registries


class Copier:
    """Copies images; all copies share connections, knowledge and uploads in progress.

    Args:
        registries: access to the registries.
        blob_locks: locks shared with other processes; None for a single process.
        selection_store: selections shared with other processes; None for a single process.
        neighbours: names repositories of a destination's registry that may have blobs to mount; None for those that
            `expect` names and that were compared.
        survey_store: shares with other processes which of those repositories were read; None for a single process.
        refused_store: shares with other processes what destinations refuse; None for a single process.

    Attributes:
        registries: access to the registries.
        refused: the kinds of manifests that destinations refuse.
        selections: known selections; prefetch many before comparing many.
    """

    def __init__(
        self,
        registries: Registries,
        *,
        blob_locks: BlobLocks | None = None,
        selection_store: SelectionStore | None = None,
        neighbours: Neighbours | None = None,
        survey_store: SelectionStore | None = None,
        refused_store: SelectionStore | None = None,
    ) -> None:
        self.registries = registries
        self.selections = SelectionCache(selection_store)
        self.refused = RefusedKinds(refused_store)
        self._ledger = Ledger()
        locks = blob_locks or NoBlobLocks()
        self._survey = Survey(registries, self._ledger, locks, neighbours=neighbours, store=survey_store)
        self._blobs = BlobCopier(self._ledger, locks, self._survey)
        self._tag_locks = TagLocks(locks)

    def expect(self, repositories: Iterable[Repository], *, whole: bool = False) -> None:
        """Name repositories of destinations that may have blobs which later copies need.

        A copy reads some of their manifests before it sends a large blob, so that it can mount blobs that are there.

        Args:
            repositories: of any registries; at most `survey.MOST_REPOSITORIES` of each registry are kept.
            whole: whether they are all that ``neighbours`` would name, so that it need not be asked soon.
        """
        self._survey.expect(repositories, whole=whole)

    async def compare(
        self,
        source: Reference,
        destination: Reference,
        options: CopyOptions = VERBATIM,
        *,
        announced: str | None = None,
        kind: str | None = None,
        single: bool = False,
        read: bool = True,
        ask: bool = False,
    ) -> Comparison:
        """Tell whether a destination holds what `copy` would write; nothing is written.

        Signatures are not compared; see `holds`.

        Args:
            source: the image that would be copied.
            destination: where to.
            options: the parts of the image that would be copied.
            announced: the digest of the source's tag, from a list that was just read. It is trusted: the source is
                only asked where the selection of that image is unknown. `copy` asks it again.
            kind: the kind of that artifact, as far as the list tells it; see `CopyOptions.unwanted_in_list`.
            single: whether the list shows that it is no index.
            read: read the image even where the destination holds nothing. Pass False if `copy` follows, which reads it.
            ask: ask the destination about a kind where an image is up to date only if it refuses that. A manifest of
                the kind is written for that; see `Pusher.ask`.

        Raises:
            SourceNotFound, AttestationsFound, RegistryError: as `copy` does.
        """
        context = CopyContext.open(self.registries, source, destination, options, kinds=self.refused)
        if announced is None:
            found = await compare(context, self.selections, read=read)
        else:
            found = await compare_listed(
                context, self.selections, announced=announced, kind=kind, single=single, read=read
            )
        self._note(destination, found)
        return await self._settled(context, found) if ask else found

    async def holds(self, destination: Repository, accessories: Accessories) -> bool:
        """Tell whether a destination holds the signatures that a list has shown; the source is not asked.

        Raises:
            RegistryError: the destination gave no usable answer.
        """
        if not accessories.digests:
            return True
        target = self.registries.destination(destination)
        held = await signatures_held(target, accessories.subject, accessories.digests)
        return held.issuperset(accessories.digests)

    async def find_blob(
        self, destination: Repository, blob: Descriptor, *, worth: int, allowance: Allowance
    ) -> str | None:
        """Look for a blob as `copy` does before it sends one; nothing is written.

        Args:
            destination: the repository that needs it.
            blob: the blob.
            worth: bytes of its image that would be sent otherwise, without small blobs.
            allowance: the maximum cost of the searches for all blobs of the image.

        Returns:
            The name of the repository that has it, which may be another one that it can be mounted from; None to send
            it.

        Raises:
            RegistryError: the destination gave no usable answer.
        """
        target = self.registries.destination(destination)
        if await target.has_blob(blob.digest):
            return destination.name
        if blob.size <= SMALL or worth < LARGE or not self._survey.may_find(target):
            return None
        await self._survey.find(target, blob.digest, worth, allowance)
        return self._ledger.mount_source(
            destination.registry, destination.name, blob.digest, without=target.abilities.closed
        )

    # The library's one public entry point: all but the two ends are options, named at each call.
    async def copy(
        self,
        source: Reference,
        destination: Reference,
        *,
        options: CopyOptions = VERBATIM,
        announced: str | None = None,
        accessories: Accessories | None = None,
        force: bool = False,
        absent: bool = False,
        overwrite: Overwrite = Overwrite.ALWAYS,
        own: Container[str] = (),
        permit: Callable[[Comparison], Awaitable[None]] | None = None,
        writing: Callable[[str, str | None], None] | None = None,
        confirm: Callable[[], Awaitable[None]] | None = None,
        answered: Callable[[], None] | None = None,
        progress: OnProgress | None = None,
    ) -> Outcome:
        """Make the destination's tag name the source's image, or what the options select of it.

        Manifests are copied byte for byte, except for an index of which the options select less. Nothing is sent when
        the destination already has the right digest. The tag is written after everything it needs (distribution
        specification, "Pushing Manifests").

        Args:
            source: the image to copy; a digest wins over a tag.
            destination: where to, by tag or by digest.
            options: the parts of the image to copy.
            announced: the digest of the source's tag, from the latest event. If the destination already holds that
                image, the source is not asked.
            accessories: what a list of the source has shown of signatures; they count if they are of the image that is
                copied.
            force: write the tag even where it already has the right digest; blobs known to be there are still not
                sent. What is remembered of kinds that the destination refused does not count.
            absent: the destination has no such tag, as was seen a moment ago. It is not asked again where ``announced``
                is given and anything may be overwritten.
            overwrite: which images may be replaced. Where not any may, the tag is looked at once more right before it
                is written, as somebody else may have set it while blobs were sent.
            own: the digests that this installation wrote under the tag.
            permit: awaited before anything is sent, with the comparison. An exception from it ends the copy.
            writing: called right before ``confirm`` with the digest that is about to be written, and that of another
                image that it replaces; None if it replaces none.
            confirm: awaited right before each attempt to write the tag, which then takes at most `Timing.tag`
                seconds. An exception from it ends the copy, and nothing more is written.
            answered: called when such an attempt is over; not if no answer came, as it may be carried out late then.
            progress: called with every chunk of a blob that is read, and every blob that will be sent.

        Returns:
            The outcome: copied, up to date, or skipped.

        Raises:
            SourceNotFound: the source has no such tag or digest.
            AttestationsFound: the image has attestations, and the options forbid them.
            RegistryError: either registry refused or failed; its class tells whether to retry.
        """
        context = CopyContext.open(self.registries, source, destination, options, progress, self.refused, force=force)
        absent = absent and overwrite is Overwrite.ALWAYS
        found = await compare(context, self.selections, announced=announced, force=force, absent=absent)
        self._note(destination, found)
        found = await self._settled(context, found)
        result, replaced = found.result, found.replaced
        while result is None and found.selection is not None and (manifest := found.selection.manifest) is not None:
            guard = TagGuard(context, manifest.digest, replaced, overwrite=overwrite, own=own)
            guard.writing, guard.confirm = writing, confirm
            try:
                guard.check()
                if permit is not None:
                    await permit(found)
                await self._push(context, found.selection, guard, answered)
            except LeftAlone as left:
                return context.outcome(Result.SKIPPED, left.present, str(left), source_digest=found.announced)
            except KindRefused as refusal:
                found = await self._without_refused(context, found, refusal)
                result, replaced = found.result, found.replaced
            else:
                result, replaced = Result.COPIED, guard.replaced
        if result is not Result.COPIED and found.digest is not None:
            self._ledger.add(destination.registry, destination.repository.name, found.digest)
        if found.digest is not None:
            await self._copy_signatures(context, found, accessories)
        result = result or Result.UP_TO_DATE
        outcome = context.outcome(result, found.digest, found.note, source_digest=found.announced, replaced=replaced)
        if result is Result.SKIPPED:
            refused = found.selection.refused if found.selection is not None else None
            return replace(outcome, refused=await self._skip(context, found.announced, refused)).held_by(found.held)
        return replace(outcome, former=None if absent else found.present or "")

    async def _push(
        self,
        context: CopyContext,
        selection: Selection,
        guard: TagGuard,
        answered: Callable[[], None] | None,
    ) -> None:
        """Copy a selection, the tag last.

        Raises:
            KindRefused: the destination refuses it, or a child that may be left out.
            RegistryError: either registry refused or failed.
        """
        manifest, destination = selection.manifest, context.destination
        if manifest is None:
            return
        push = Pusher(context, self._blobs, selection.rewritten)
        lenient = context.options.refused == "skip"
        try:
            await push.ask(manifest, lenient=lenient, tagged=destination.tag is not None)
            await push.copy_parts(manifest)
            await push.put_root(manifest, destination.identifier, guard, answered)
        except KindRefused as refusal:
            if refusal.manifest.digest == manifest.digest and refusal.error is not None and not lenient:
                raise refusal.error from refusal
            raise

    async def _without_refused(self, context: CopyContext, found: Comparison, refusal: KindRefused) -> Comparison:
        """Select an image once more, now that the destination has refused its kind, or those of some of its children.

        Raises:
            RegistryError: the destination refuses a part that can't be left out.
        """
        note = refusal.note(context.destination.registry)
        if refusal.manifest.digest == found.digest:
            selection = Selection(None, note=note, refused=refusal.manifest)
            return replace(found, result=Result.SKIPPED, digest=None, note=note, selection=selection)
        root = await read_root(context, found.announced)
        again = await compare_read(root, found.present, context, self.selections)
        if again.digest == found.digest:
            raise (refusal.error or Denied(note)) from refusal
        again = await self._settled(context, again)
        return replace(again, result=None) if context.force and again.result is Result.UP_TO_DATE else again

    async def _settled(self, context: CopyContext, found: Comparison) -> Comparison:
        """Ask the destination about the kinds for whose refusal an image would be up to date without them.

        No part is left out by guess: somebody may have added it to an image that was complete without it.

        Raises:
            RegistryError: there was no usable answer.
        """
        if found.result is not Result.UP_TO_DATE or found.selection is None or not found.selection.unknown:
            return found
        push, root, taken = Pusher(context, self._blobs), await read_root(context, found.announced), False
        for manifest in found.selection.unknown:
            try:
                await push.ask(manifest, lenient=True)
                taken = True
            except KindRefused:
                pass
        again = await compare_read(root, found.present, context, self.selections, force=taken)
        if again.selection is not None and again.selection.unknown:
            # More kinds than are kept: the copy asks about each.
            again = await compare_read(root, found.present, context, self.selections, force=True)
        return again

    async def _skip(
        self, context: CopyContext, announced: str, refused: Manifest | None, *, signature: bool = False
    ) -> str:
        """Remember that something was skipped because the destination refuses its kind.

        Args:
            context: the copy this belongs to.
            announced: the digest of the source's tag.
            refused: the manifest that is refused; None for nothing.
            signature: whether it is a signature.

        Returns:
            What the kind is called; empty for nothing.
        """
        if refused is None:
            return ""
        kind = artifact_kind(refused)
        key = selection_key(announced, VERBATIM if signature else context.options, context.place)
        await self.refused.skip(*context.place, deciding_type(refused), key, kind)
        return kind

    async def _copy_signatures(self, context: CopyContext, found: Comparison, accessories: Accessories | None) -> None:
        options, selection, digest = context.options, found.selection, str(found.digest)
        listed = accessories if accessories is not None and accessories.subject == found.announced else None
        if not (options.signatures if listed is None else listed.wanted_by(options) or listed.tags):
            return
        copier = SignatureCopier(context, self._blobs, self._tag_locks)
        if listed is not None and not listed.is_index and digest == listed.subject:
            await copier.copy_listed(listed)
            return
        if selection is None and digest == found.announced:
            # Every signature of the original applies. It is read at the destination: there it counts as no pull.
            selection = Selection(await context.target.get_manifest(digest))
        elif selection is None:
            selection = await select(await read_root(context, found.announced), context)
        await copier.copy_all(found.announced, selection, listed)

    def _note(self, destination: Reference, found: Comparison) -> None:
        """Note the manifest that a comparison saw at the destination: later copies may mount its blobs."""
        present = found.digest if found.result is Result.UP_TO_DATE else found.present
        if present is not None:
            self._survey.seen(destination.repository, present)

    async def copy_signature(
        self,
        source: Reference,
        destination: Reference,
        *,
        options: CopyOptions = EVERYTHING,
        announced: str | None = None,
        force: bool = False,
        progress: OnProgress | None = None,
    ) -> Outcome:
        """Copy a signature, an attestation or another referrer of an image, if the destination has the image.

        Args:
            source: the referrer, by digest, or by a tag of cosign's or of the referrers tag schema.
            destination: where to, under the same digest or tag.
            options: whether only signatures and attestations are copied, as far as the destination takes them.
            announced: the digest that a list has shown of the source's tag.
            force: remembered refusals of the destination do not count.
            progress: called with every chunk of a blob that is read, and every blob that will be sent.

        Returns:
            The outcome; skipped, with the reason, when the image is missing or the registry refuses the referrer.

        Raises:
            SourceNotFound: the source does not have it.
            RegistryError: either registry failed; its class tells whether to retry.
        """
        context = CopyContext.open(self.registries, source, destination, options, progress, self.refused, force=force)
        copier = SignatureCopier(context, self._blobs, self._tag_locks)
        result, digest, note = await copier.copy_one()
        outcome = context.outcome(result, digest, note, source_digest=digest)
        if result is not Result.SKIPPED:
            return outcome
        if announced is not None:
            outcome = replace(outcome, refused=await self._skip(context, announced, copier.refused, signature=True))
        return await self._left_alone(outcome, destination)

    async def _left_alone(self, outcome: Outcome, destination: Reference) -> Outcome:
        """Ask which image the destination's tag still has, for an image that was skipped."""
        if destination.tag is None:
            return outcome
        head = await self.registries.destination(destination.repository).head_destination(destination.tag)
        return outcome.held_by(head.digest if head is not None else None)
