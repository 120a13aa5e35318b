"""Whether a destination holds what is wanted of an image, found out with as few requests as will do."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replicator.copy.errors import SourceNotFound
from replicator.copy.outcome import Result
from replicator.copy.selection import Selection, select
from replicator.copy.together import both
from replicator.options import Attestations
from replicator.registry.errors import DigestMismatch, NotFound

if TYPE_CHECKING:
    from replicator.copy.reading import SourceReader
    from replicator.options import CopyOptions
    from replicator.reference import Reference
    from replicator.registry import Descriptor, Manifest, RemoteRepository

_MAX_FORMS = 10_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """What an image is at its source, held against its destination.

    Attributes:
        result: up to date, or skipped as nothing of it is wanted; None when it has to be copied.
        announced: what the source's tag names.
        digest: what the destination's tag is to name; None when the image is skipped.
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


class Forms:
    """What was found to be wanted of images; bounded, the least used forgotten first.

    It depends on an image's bytes and on the options alone, so it never goes out of date.
    """

    def __init__(self, entries: int = _MAX_FORMS) -> None:
        self._entries = entries
        self._known: OrderedDict[tuple[str, CopyOptions], tuple[str | None, str]] = OrderedDict()

    def note(self, digest: str, options: CopyOptions, selection: Selection) -> None:
        """Remember what is wanted of the image ``digest``."""
        key = (digest, options)
        self._known[key] = (selection.manifest.digest if selection.manifest is not None else None, selection.note)
        self._known.move_to_end(key)
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def satisfied(self, present: str | None, digest: str, options: CopyOptions) -> Comparison | None:
        """Return that a destination which names ``present`` is up to date with the image ``digest``, if that is known.

        Returns:
            That it is, or that the image is skipped; None when it has to be looked at.
        """
        as_it_is = not options.platforms and options.attestations in (Attestations.KEEP, Attestations.STRIP_REFUSED)
        if present == digest and as_it_is:
            # Also where something was to be stripped, had the registry refused it: it has not.
            return Comparison(Result.UP_TO_DATE, digest, digest)
        key = (digest, options)
        if key not in self._known:
            return None
        self._known.move_to_end(key)
        wanted, note = self._known[key]
        if wanted is None:
            return Comparison(Result.SKIPPED, digest, None, note)
        return Comparison(Result.UP_TO_DATE, digest, wanted, note) if wanted == present else None


async def compare(
    source: Reference,
    destination: Reference,
    options: CopyOptions,
    *,
    origin: RemoteRepository,
    reader: SourceReader,
    target: RemoteRepository,
    forms: Forms,
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

    Raises:
        SourceNotFound: the source has no such tag or digest.
        AttestationsFound: it has attestations, and the options say that there must be none.
        RegistryError: either registry refused or failed.
    """
    if announced is None:
        wanted, present = await both(
            origin.head_manifest(source.identifier), target.head_destination(destination.identifier)
        )
        announced = wanted.digest if wanted is not None else None
        root = None
    else:
        present = None if force else await target.head_destination(destination.identifier)
        if present is not None and (known := forms.satisfied(present.digest, announced, options)) is not None:
            return known
        announced, root = await _moved(origin, source, announced)
    name = present.digest if present is not None and not force else None
    if announced is not None and not force and (known := forms.satisfied(name, announced, options)) is not None:
        return known
    if root is None:
        # By digest, so that a push in between can't mix two images.
        root = await read_root(origin, source, announced or source.identifier)
        if announced is None and (known := forms.satisfied(name, root.digest, options)) is not None:
            return known
    selection = await select(root, options, reader, source.registry)
    if not options.is_verbatim:
        forms.note(root.digest, options, selection)
    if selection.manifest is None:
        return Comparison(Result.SKIPPED, root.digest, None, selection.note, selection)
    digest = selection.manifest.digest
    result = Result.UP_TO_DATE if digest == name else None
    return Comparison(result, root.digest, digest, selection.note, selection, name)


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
