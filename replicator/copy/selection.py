"""What the destination is to hold of an image: all of it, an index with fewer children, or nothing.

The result depends on the source's bytes and on the options alone, so the digest that the destination's tag must name is
known before anything is sent. A rewritten index keeps the order and every other word of the original; it is written as
JSON without white space.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replicator.copy.errors import AttestationsFound
from replicator.copy.reading import is_image
from replicator.copy.together import each
from replicator.options import Attestations
from replicator.registry.digests import digest_of
from replicator.registry.errors import UnsupportedManifest
from replicator.registry.manifest import Manifest, entries, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replicator.copy.reading import SourceReader
    from replicator.options import CopyOptions, Platform
    from replicator.registry import Descriptor

MAX_DEPTH = 4
"""Indexes within indexes; more is no image anyone builds."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What the destination is to hold.

    Attributes:
        manifest: what its tag is to name; None when the options leave nothing of the image.
        rewritten: the indexes below it that no registry has yet, by digest.
        note: what was left out, in words; empty when nothing was.
    """

    manifest: Manifest | None
    rewritten: Mapping[str, Manifest] = field(default_factory=dict)
    note: str = ""


async def select(root: Manifest, options: CopyOptions, reader: SourceReader, registry: str) -> Selection:
    """Choose what is copied of an image.

    Args:
        root: what the source's tag names.
        options: what is wanted of it.
        reader: reads what must be looked into.
        registry: the source's host, for errors.

    Raises:
        AttestationsFound: it has attestations, and the options say that there must be none.
        UnsupportedManifest: an index that can't be written anew, or is nested too deep.
        RegistryError: the source refused, failed or lied.
    """
    if options.is_verbatim:
        return Selection(root)
    return await _Selecting(options, reader, registry).select(root)


class _Selecting:
    def __init__(self, options: CopyOptions, reader: SourceReader, registry: str) -> None:
        self._options = options
        self._reader = reader
        self._registry = registry
        self._rewritten: dict[str, Manifest] = {}
        self._images = 0
        self._left_out = 0
        self._attestations = 0

    async def select(self, root: Manifest) -> Selection:
        wanted = ", ".join(map(str, self._options.platforms))
        if not root.is_index:
            if not self._options.platforms or not is_image(root):
                return Selection(root)
            platform = await self._reader.platform(root)
            if self._fits(platform):
                return Selection(root)
            return Selection(None, note=f"it is for {platform or 'no platform that it names'}, not for {wanted}")
        chosen = await self._index(root, 0)
        if chosen is None:
            return Selection(None, note=f"nothing of it is for {wanted}" if wanted else "it holds attestations alone")
        self._rewritten.pop(chosen.digest, None)
        return Selection(chosen, self._rewritten, "; ".join(self._words(wanted)))

    def _words(self, wanted: str) -> list[str]:
        words = []
        if self._left_out:
            words.append(f"{self._left_out} of {self._images} images left out, as only {wanted} is wanted")
        if self._attestations:
            why = ", which the registry refuses" if self._options.attestations is Attestations.STRIP_REFUSED else ""
            words.append(f"{self._attestations} attestation{'s' if self._attestations > 1 else ''} left out{why}")
        return words

    async def _index(self, index: Manifest, depth: int) -> Manifest | None:
        """Return an index with what is wanted of it, itself when that is all, or None when it is nothing."""
        if depth > MAX_DEPTH:
            raise UnsupportedManifest(
                self._registry, index.digest, f"indexes nested more than {MAX_DEPTH} deep can't be copied"
            )
        children = entries(index)
        images = [None if child.is_attestation else child for child in children]
        kept = await each(self._image(child, index.digest, depth) for child in images)
        present = {child.digest for child, keep in zip(children, kept, strict=True) if keep is not None}
        attested = await each(self._attestation(child, index.digest, present) for child in children)
        chosen = [one if one is not None else other for one, other in zip(kept, attested, strict=True)]
        return self._rewrite(index, children, chosen)

    async def _image(self, child: Descriptor | None, index: str, depth: int) -> Descriptor | Manifest | None:
        """Return an image or nested index as it is, or rewritten; None when it is not wanted."""
        if child is None:
            return None
        if child.is_index:
            nested = await self._index(await self._reader.child(child.digest, index), depth + 1)
            return child if nested is not None and nested.digest == child.digest else nested
        self._images += 1
        if await self._wants(child, index):
            return child
        self._left_out += 1
        return None

    async def _wants(self, child: Descriptor, index: str) -> bool:
        if not self._options.platforms:
            return True
        if child.platform is not None:
            return self._fits(child.platform)
        manifest = await self._reader.child(child.digest, index)
        # What is no container image runs nowhere: a choice of platforms is not about it.
        return not is_image(manifest) or self._fits(await self._reader.platform(manifest))

    async def _attestation(self, child: Descriptor, index: str, present: set[str]) -> Descriptor | None:
        if not child.is_attestation:
            return None
        if self._options.platforms and child.attested is not None and child.attested not in present:
            return None
        policy = self._options.attestations
        if policy is Attestations.FAIL:
            raise AttestationsFound(self._registry, child.digest)
        if policy is Attestations.KEEP:
            return child
        if policy is Attestations.STRIP_REFUSED and is_image(await self._reader.child(child.digest, index)):
            return child
        self._attestations += 1
        return None

    def _fits(self, platform: Platform | None) -> bool:
        return platform is not None and any(wish.takes(platform) for wish in self._options.platforms)

    def _rewrite(
        self, index: Manifest, children: Sequence[Descriptor], chosen: Sequence[Descriptor | Manifest | None]
    ) -> Manifest | None:
        if not any(chosen):
            return None if children else index
        if all(one is child for one, child in zip(chosen, children, strict=True)):
            return index
        document = json.loads(index.content)
        rows = []
        for entry, one in zip(document["manifests"], chosen, strict=True):
            if isinstance(one, Manifest):
                rows.append({**entry, "digest": one.digest, "size": len(one.content)})
            elif one is not None:
                rows.append(entry)
        document["manifests"] = rows
        try:
            content = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
            manifest = parse_manifest(content, index.media_type, digest_of(content, index.digest))
        except ValueError as error:
            raise UnsupportedManifest(
                self._registry, index.digest, f"the index can't be written anew: {error}"
            ) from error
        self._rewritten[manifest.digest] = manifest
        return manifest
