"""Comparison of an image with its destination, with as few requests as possible."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from replicator.copy.context import Result, SourceNotFound, refusal_note
from replicator.copy.options import Attestations
from replicator.copy.selection import MAX_DEPTH, Selection, select
from replicator.registry.errors import DigestMismatch, NotFound
from replicator.registry.kinds import IMAGE, artifact_kind, is_plain_image
from replicator.registry.manifests import fallback_tag
from replicator.tasks import gather2

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from replicator.copy.context import CopyContext, SourceReader
    from replicator.copy.options import CopyOptions
    from replicator.copy.selection import CachedSelection, SelectionCache
    from replicator.registry import Descriptor, Manifest, RemoteRepository


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of comparing an image with its destination.

    Attributes:
        result: up to date or skipped; None when the image has to be copied.
        announced: the digest of the source's tag.
        digest: the digest that the destination's tag should have; None if the image is skipped or was not read.
        note: what is left out, or why the image is skipped.
        selection: the selected parts of the image; None if the image was not read.
        present: what the destination's tag named where the image has to be copied or is skipped; None for a missing
            tag, or one that was not asked for.
        lacks_signatures: whether the image is there and signatures of it may not be.
        lost: whether the destination has no such tag, although this installation had seen one in place.
    """

    result: Result | None
    announced: str
    digest: str | None
    note: str = ""
    selection: Selection | None = field(default=None, repr=False)
    present: str | None = None
    lacks_signatures: bool = False
    lost: bool = False

    @property
    def replaced(self) -> str | None:
        """The image that a copy would replace: another one under the destination's tag; None if the tag is missing."""
        return self.present if self.result is None and self.present != self.digest else None

    @property
    def refused(self) -> str:
        """The kind of an image that is skipped because its destination refuses it; empty where that is not the reason.

        It is known only where the image was read.
        """
        manifest = self.selection.refused if self.selection is not None else None
        return artifact_kind(manifest) if manifest is not None else ""

    @property
    def held(self) -> str | None:
        """The old image that stays under the destination's tag, because this one is skipped; None without one."""
        return self.present if self.result is Result.SKIPPED and self.present != self.announced else None


async def compare(
    context: CopyContext,
    cache: SelectionCache,
    *,
    announced: str | None = None,
    force: bool = False,
    absent: bool = False,
    read: bool = True,
) -> Comparison:
    """Compare an image with its destination, asking both.

    Args:
        context: the copy this belongs to.
        cache: known selections; new ones are added.
        announced: the digest that an event gave for the source's tag. If the destination holds that image, the source
            is not asked.
        force: always copy the image. The destination is still asked, to report the replaced image.
        absent: the destination has no such tag, as was seen a moment ago: it is not asked where ``announced`` is given.
        read: read the image even where the destination holds nothing; if not, the selection may stay unknown.

    Returns:
        The comparison, with a selection where the image has to be copied and was read.

    Raises:
        SourceNotFound: the source has no such tag or digest.
        AttestationsFound: the image has attestations, and the options forbid them.
        RegistryError: either registry refused or failed.
    """
    root = None
    if announced is None:
        head, target_head = await gather2(
            context.origin.head_manifest(context.source.identifier),
            context.target.head_destination(context.destination.identifier),
        )
        digest = head.digest if head is not None else None
    else:
        target_head = None if absent else await context.target.head_destination(context.destination.identifier)
        if target_head is not None and not force:
            known = await _compare_known(target_head.digest, announced, context, cache)
            if known is not None:
                return known
        digest, root = await _read_announced(context, announced)
    present = target_head.digest if target_head is not None else None
    if digest is not None and not force:
        # A root that has just been read costs no request, so the shared cache is not asked.
        known = await _compare_known(present, digest, context, cache, fetch=root is None)
        if known is not None:
            return known
    if root is None:
        if present is None and digest is not None and not (read or force):
            return Comparison(None, digest, None)
        # By digest, so that a push between the two requests can't mix two images.
        root = await read_root(context, digest or context.source.identifier)
        if digest is None and not force:
            known = await _compare_known(present, root.digest, context, cache, fetch=False)
            if known is not None:
                return known
    found = await compare_read(root, present, context, cache, force=force)
    return replace(found, result=None) if force and found.result is Result.UP_TO_DATE else found


async def compare_listed(
    context: CopyContext,
    cache: SelectionCache,
    *,
    announced: str,
    kind: str | None = None,
    single: bool = False,
    read: bool = True,
) -> Comparison:
    """Compare an image whose digest the caller has just listed.

    Only the destination is asked where the selection is known: with verbatim options, or from the cache. Otherwise the
    image is read by its digest. The source's tag is never asked for.

    Args:
        context: the copy this belongs to.
        cache: known selections; new ones are added.
        announced: the listed digest.
        kind: the kind of the artifact, if the list tells it.
        single: whether the list shows that it is no index.
        read: read the image even where the destination holds nothing; if not, the selection may stay unknown.

    Returns:
        The comparison, without a selection where the image was not read.

    Raises:
        SourceNotFound: the source no longer has the digest.
        AttestationsFound: the image has attestations, and the options forbid them.
        RegistryError: either registry refused or failed.
    """
    head = await context.target.head_destination(context.destination.identifier)
    present = head.digest if head is not None else None
    if _is_unchanged(present, announced, context.options):
        return Comparison(Result.UP_TO_DATE, announced, announced)
    if note := context.options.unwanted_in_list(kind):
        return Comparison(Result.SKIPPED, announced, None, note, present=present)
    place = context.place
    cached = cache.get(announced, context.options, place) or await cache.fetch(announced, context.options, place)
    if cached is not None:
        return _compare_cached(present, announced, cached)
    if not read:
        if present is None:
            return Comparison(None, announced, None)
        if single and kind == IMAGE and not context.options.platforms and not context.options.types:
            # Nothing can be left out of a single image.
            return Comparison(None, announced, announced, present=present)
    return await compare_read(await read_root(context, announced), present, context, cache)


async def read_root(context: CopyContext, identifier: str) -> Manifest:
    """Read the manifest of a tag or digest at the source.

    Raises:
        SourceNotFound: there is no such tag or digest.
        RegistryError: the source refused, failed or sent other bytes.
    """
    try:
        return await context.origin.get_manifest(identifier)
    except NotFound as error:
        raise SourceNotFound(context.source, error) from error


async def _read_announced(context: CopyContext, announced: str) -> tuple[str | None, Manifest | None]:
    """Read the source's tag, which most likely names the announced digest.

    Returns:
        The digest of the tag; and the manifest if it is the announced one, whose digest verifies its bytes.
    """
    try:
        root = await read_root(context, context.source.identifier)
        if root.digest == announced:
            return announced, root
    except DigestMismatch:
        pass  # The caller reads it again, by digest.
    head = await context.origin.head_manifest(context.source.identifier)
    return (head.digest if head is not None else None), None


async def compare_read(
    root: Manifest, present: str | None, context: CopyContext, cache: SelectionCache, *, force: bool = False
) -> Comparison:
    """Compare an image that was read with the image that the destination's tag names.

    If it is not known whether the destination refuses the kinds of some children, and its tag names the image without
    them, it evidently refused them when that was written; with ``force`` it is asked again.

    Raises:
        AttestationsFound: the image has attestations, and the options forbid them.
        RegistryError: the source refused, failed or sent other bytes.
    """
    lenient = present != root.digest and context.options.refused == "skip"
    if lenient and not is_plain_image(root) and await context.verdict(root):
        note = refusal_note(context.destination.registry, artifact_kind(root))
        return Comparison(Result.SKIPPED, root.digest, None, note, Selection(None, note=note, refused=root), present)
    selection = await select(root, context)
    cache.add(root.digest, context.options, selection, context.place)
    if selection.manifest is None:
        return Comparison(Result.SKIPPED, root.digest, None, selection.note, selection, present)
    digest = selection.manifest.digest
    other = selection.otherwise if not force else None
    if other is not None and other.manifest is not None and other.manifest.digest == present:
        return Comparison(Result.UP_TO_DATE, root.digest, present, other.note, other, present)
    result = Result.UP_TO_DATE if digest == present else None
    return Comparison(result, root.digest, digest, selection.note, selection, present)


async def _compare_known(
    present: str | None, digest: str, context: CopyContext, cache: SelectionCache, *, fetch: bool = True
) -> Comparison | None:
    """Compare without reading the image ``digest``; None where it has to be read or copied.

    Args:
        present: the digest at the destination.
        digest: the image.
        context: the copy this belongs to.
        cache: known selections.
        fetch: ask other processes too.
    """
    options, place = context.options, context.place
    if _is_unchanged(present, digest, options):
        return Comparison(Result.UP_TO_DATE, digest, digest)
    cached = cache.get(digest, options, place)
    if cached is None and fetch:
        cached = await cache.fetch(digest, options, place)
    comparison = _compare_cached(present, digest, cached) if cached is not None else None
    return comparison if comparison is not None and comparison.result is not None else None


def _is_unchanged(present: str | None, digest: str, options: CopyOptions) -> bool:
    """Tell whether the destination holds the image byte for byte, and the options allow that."""
    # With 'strip refused' an identical digest is fine too: the registry evidently accepted the attestations.
    keeps = options.attestations in (Attestations.KEEP, Attestations.STRIP_REFUSED)
    return present == digest and not options.platforms and keeps


def _compare_cached(present: str | None, digest: str, cached: CachedSelection) -> Comparison:
    if cached.digest is None:
        return Comparison(Result.SKIPPED, digest, None, cached.note, present=present)
    result = Result.UP_TO_DATE if cached.digest == present else None
    return Comparison(result, digest, cached.digest, cached.note, present=None if result is not None else present)


SIGNATURE_SUFFIX = ".sig"
"""Behind the fallback tag of an image: cosign's old signatures."""


async def signatures_held(target: RemoteRepository, subject: str, digests: Collection[str]) -> set[str]:
    """Return the signatures of ``subject`` that a destination holds; ``digests`` are those that are looked for.

    Its tag of cosign's is asked first, and its list of referrers only where that is not enough.

    Raises:
        RegistryError: the destination gave no usable answer.
    """
    head = await target.head_destination(f"{fallback_tag(subject)}{SIGNATURE_SUFFIX}")
    held = {head.digest} if head is not None else set()
    return held if held.issuperset(digests) else held | await _list(target, subject)


async def find_signable(
    manifest: Manifest, selection: Selection, reader: SourceReader, digests: dict[str, None], depth: int = 0
) -> None:
    """Collect the digests of a selection that may be signed: the index, its images and its nested indexes.

    Raises:
        RegistryError: the source refused, failed or sent other bytes.
    """
    if manifest.digest not in selection.rewritten:
        digests[manifest.digest] = None
    for child in manifest.manifests:
        if child.digest in digests or child.is_attestation:
            continue
        if not child.is_index:
            digests[child.digest] = None
        elif depth < MAX_DEPTH:
            nested = selection.rewritten.get(child.digest) or await reader.child(child, manifest.digest)
            await find_signable(nested, selection, reader, digests, depth + 1)


async def _list(repository: RemoteRepository, subject: str) -> set[str]:
    found: Iterable[Descriptor] | None = await repository.referrers(subject)
    if found is None:
        index = await read_fallback(repository, subject)
        found = index.manifests if index is not None else ()
    return {descriptor.digest for descriptor in found}


async def read_fallback(repository: RemoteRepository, subject: str) -> Manifest | None:
    """Read the index that lists referrers where a registry has no API; None without one."""
    try:
        return await repository.get_manifest(fallback_tag(subject))
    except NotFound:
        return None
