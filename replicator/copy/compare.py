"""Whether a destination holds what is wanted of an image, found out with as few requests as will do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replicator.copy.gathering import gather2
from replicator.copy.options import Attestations
from replicator.copy.outcome import Result, SourceNotFound
from replicator.copy.selection import Selection, select
from replicator.registry.errors import DigestMismatch, NotFound

if TYPE_CHECKING:
    from replicator.copy.options import CopyOptions
    from replicator.copy.selection import SourceReader
    from replicator.copy.selection_cache import CachedSelection, SelectionCache
    from replicator.reference import Reference
    from replicator.registry import Descriptor, Manifest, RemoteRepository


@dataclass(frozen=True, slots=True)
class Comparison:
    """What an image is at its source, held against its destination.

    Attributes:
        result: up to date, or skipped as nothing of it is wanted; None when it has to be copied.
        announced: what the source's tag names.
        digest: what the destination's tag is to name; None when the image is skipped, or was not read to find it out.
        note: what is left out of it, or why it is skipped.
        selection: what is wanted of it; None where that did not have to be looked at.
        present: what the destination's tag was seen to name where the image has to be copied; None for nothing.
    """

    result: Result | None
    announced: str
    digest: str | None
    note: str = ""
    selection: Selection | None = field(default=None, repr=False)
    present: str | None = None


async def compare(
    source: Reference,
    destination: Reference,
    options: CopyOptions,
    *,
    origin: RemoteRepository,
    reader: SourceReader,
    target: RemoteRepository,
    forms: SelectionCache,
    announced: str | None = None,
    force: bool = False,
) -> Comparison:
    """Find out what is wanted of an image, and whether the destination holds it.

    Args:
        source: the image.
        destination: the tag or digest that is to name it.
        options: what is wanted of it.
        origin: the source's repository.
        reader: reads manifests there.
        target: the destination's repository.
        forms: what is known, and learns what is found.
        announced: what the source's tag is said to name; the source is asked only if the destination differs.
        force: up to date is no answer: it is copied whatever the destination holds.

    Returns:
        What was found, with a selection where the image has to be copied.

    Raises:
        SourceNotFound: the source has no such tag or digest.
        AttestationsFound: it has attestations, and the options say that there must be none.
        RegistryError: either registry refused or failed.
    """
    if announced is None:
        wanted, present = await gather2(
            origin.head_manifest(source.identifier), target.head_destination(destination.identifier)
        )
        announced = wanted.digest if wanted is not None else None
        root = None
    else:
        present = None if force else await target.head_destination(destination.identifier)
        if present is not None and (known := await _settled(present.digest, announced, options, forms)) is not None:
            return known
        announced, root = await _moved(origin, source, announced)
    name = present.digest if present is not None and not force else None
    if announced is not None and not force:
        # What was just read need not be recalled.
        known = await _settled(name, announced, options, forms, recalling=root is None)
        if known is not None:
            return known
    if root is None:
        # By digest, so that a push in between can't mix two images.
        root = await read_root(origin, source, announced or source.identifier)
        if announced is None:
            known = await _settled(name, root.digest, options, forms, recalling=False)
            if known is not None:
                return known
    return await _looked_at(root, name, source, options, reader, forms)


async def compare_listed(
    source: Reference,
    destination: Reference,
    options: CopyOptions,
    *,
    origin: RemoteRepository,
    reader: SourceReader,
    target: RemoteRepository,
    forms: SelectionCache,
    announced: str,
    reading: bool = True,
) -> Comparison:
    """Find out whether a destination holds what is wanted of an image whose digest the caller has just listed.

    The destination is asked, and nobody else where it is known what is wanted: where everything is, or where it was
    found before. Where it is not, the image is read by its digest.

    Args:
        source: the image; its tag is not asked for.
        destination: the tag or digest that is to name it.
        options: what is wanted of it.
        origin: the source's repository.
        reader: reads manifests there.
        target: the destination's repository.
        forms: what is known, and learns what is found.
        announced: what the source's tag names.
        reading: read the image also where the destination holds nothing; if not, what is wanted of it may stay open.

    Returns:
        What was found; without a selection where the image was not read.

    Raises:
        SourceNotFound: the source does not have the digest any more.
        AttestationsFound: it has attestations, and the options say that there must be none.
        RegistryError: either registry refused or failed.
    """
    present = await target.head_destination(destination.identifier)
    name = present.digest if present is not None else None
    if _is_whole(name, announced, options):
        return Comparison(Result.UP_TO_DATE, announced, announced)
    form = forms.known(announced, options) or await forms.recall(announced, options)
    if form is not None:
        return _held_against(name, announced, form)
    if name is None and not reading:
        return Comparison(None, announced, None)
    root = await read_root(origin, source, announced)
    return await _looked_at(root, name, source, options, reader, forms)


async def read_root(origin: RemoteRepository, source: Reference, identifier: str) -> Manifest:
    """Read what a tag or digest names.

    Raises:
        SourceNotFound: there is no such tag or digest.
        RegistryError: the source refused, failed or lied.
    """
    try:
        return await origin.get_manifest(identifier)
    except NotFound as error:
        raise SourceNotFound(source, error) from error


async def _moved(origin: RemoteRepository, source: Reference, announced: str) -> tuple[str | None, Manifest | None]:
    """Read the source's tag, which most likely names what was announced; if it does, its bytes are verified by that.

    Returns:
        What it names now, and the manifest if it is verified.
    """
    try:
        root = await read_root(origin, source, source.identifier)
        if root.digest == announced:
            return announced, root
    except DigestMismatch:
        pass  # read again, by digest
    wanted: Descriptor | None = await origin.head_manifest(source.identifier)
    return (wanted.digest if wanted is not None else None), None


async def _looked_at(
    root: Manifest,
    present: str | None,
    source: Reference,
    options: CopyOptions,
    reader: SourceReader,
    forms: SelectionCache,
) -> Comparison:
    """Find out from an image itself what is wanted of it, and hold it against what the destination names."""
    selection = await select(root, options, reader, source.registry)
    forms.note(root.digest, options, selection)
    if selection.manifest is None:
        return Comparison(Result.SKIPPED, root.digest, None, selection.note, selection)
    digest = selection.manifest.digest
    result = Result.UP_TO_DATE if digest == present else None
    return Comparison(result, root.digest, digest, selection.note, selection, present)


async def _settled(
    present: str | None, digest: str, options: CopyOptions, forms: SelectionCache, *, recalling: bool = True
) -> Comparison | None:
    """Return that nothing is to be copied, where that is known without reading the image ``digest``.

    Args:
        present: what the destination names.
        digest: the image.
        options: what is wanted of it.
        forms: what is known.
        recalling: ask other processes too.
    """
    if _is_whole(present, digest, options):
        return Comparison(Result.UP_TO_DATE, digest, digest)
    form = forms.known(digest, options)
    if form is None and recalling:
        form = await forms.recall(digest, options)
    found = _held_against(present, digest, form) if form is not None else None
    return found if found is not None and found.result is not None else None


def _is_whole(present: str | None, digest: str, options: CopyOptions) -> bool:
    """Tell whether the destination holds an image as it is, where that is right.

    Also where something was to be stripped, had the registry refused it: it has not.
    """
    keeps = options.attestations in (Attestations.KEEP, Attestations.STRIP_REFUSED)
    return present == digest and not options.platforms and keeps


def _held_against(present: str | None, digest: str, form: CachedSelection) -> Comparison:
    """Hold what is wanted of the image ``digest`` against what the destination names."""
    if form.digest is None:
        return Comparison(Result.SKIPPED, digest, None, form.note)
    result = Result.UP_TO_DATE if form.digest == present else None
    return Comparison(result, digest, form.digest, form.note, present=None if result is not None else present)
