"""What the destination is to hold of an image: all of it, an index with fewer children, or nothing.

The result depends on the source's bytes and on the options alone, so the digest that the destination's tag must name is
known before anything is sent. A rewritten index keeps the order and every other word of the original; it is written as
JSON without white space.

Reading the manifests of one image at its source, each once where they are small.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from replicator.copy.gathering import gather_all
from replicator.copy.options import Attestations
from replicator.copy.outcome import AttestationsFound
from replicator.registry import Manifest
from replicator.registry.errors import NotFound, UnsupportedManifest
from replicator.registry.manifest import CONFIG_TYPES, digest_of, entries, parse_manifest, platform_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replicator.copy.options import CopyOptions
    from replicator.reference import Platform
    from replicator.registry import Descriptor, RemoteRepository

_AT_ONCE = 8
"""Manifests being read at once, each up to 4 MiB."""
_KEPT_BYTES = 1024 * 1024
"""Bytes of manifests that are kept for a second look, such as attestations that have been looked at."""


class SourceReader:
    """The manifests of one image.

    Args:
        source: the repository they are in.
    """

    def __init__(self, source: RemoteRepository) -> None:
        self._source = source
        self._reading = asyncio.Semaphore(_AT_ONCE)
        self._kept: dict[str, Manifest] = {}
        self._room = _KEPT_BYTES

    async def child(self, digest: str, index: str) -> Manifest:
        """Read a manifest that an index names.

        Args:
            digest: the manifest's.
            index: the index's digest.

        Raises:
            NotFound: the source does not have it; the error names both.
            RegistryError: the source refused, failed or lied.
        """
        if digest in self._kept:
            return self._kept[digest]
        async with self._reading:
            try:
                manifest = await self._source.get_manifest(digest)
            except NotFound as error:
                missing = f"the index {index} names the child {digest}, which the source does not have"
                missing_child = NotFound(missing, status=error.status, codes=error.codes)
                raise missing_child.at(error.registry, error.request) from error
        if len(manifest.content) <= self._room:
            self._room -= len(manifest.content)
            self._kept[digest] = manifest
        return manifest

    async def platform(self, image: Manifest) -> Platform | None:
        """Read what an image runs on from its config (image specification, "Image Configuration").

        Returns:
            The platform; None where the config names none.

        Raises:
            RegistryError: the source refused, failed or lied.
        """
        if not is_image(image) or image.config is None:
            return None
        try:
            return platform_of(json.loads(await self._source.read_blob(image.config)))
        except (ValueError, RecursionError):
            return None


def is_image(manifest: Manifest) -> bool:
    """Tell a container image from an artifact: by its config, as registries do that take only images."""
    return manifest.config is not None and manifest.config.media_type in CONFIG_TYPES


ALGORITHM = 1
"""To be raised whenever another digest or note comes of the same image and options: what comes is remembered."""
MAX_DEPTH = 4
"""Indexes within indexes; more is no image anyone builds."""
MAX_NESTED_BYTES = 16 * 1024 * 1024
"""Bytes of all indexes within indexes of one image: they are held in memory."""
_LOOKS = 8
"""Children looked into at once, each with up to 4 MiB of a manifest and as much of a config."""


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
    try:
        return await _Selecting(options, reader, registry).select(root)
    except RecursionError as error:
        # What could just be read where the stack was not as deep as here.
        too_deep = "its JSON is nested too deep to be written anew"
        raise UnsupportedManifest(too_deep).at(registry, root.digest) from error


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is wanted of an index.

    Attributes:
        index: with what is wanted of it, itself when that is all; None when it is nothing.
        present: the digests of images and indexes in it that stay as they are, its own among them.
    """

    index: Manifest | None
    present: frozenset[str]


class _Selecting:
    def __init__(self, options: CopyOptions, reader: SourceReader, registry: str) -> None:
        self._options = options
        self._reader = reader
        self._registry = registry
        self._rewritten: dict[str, Manifest] = {}
        self._looks = asyncio.Semaphore(_LOOKS)
        self._nested: dict[str, _Chosen] = {}
        self._nested_bytes = 0
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
        chosen = (await self._index(root, 0)).index
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

    async def _index(self, index: Manifest, depth: int) -> _Chosen:
        """Choose what is wanted of an index."""
        if depth > MAX_DEPTH:
            too_deep = f"indexes nested more than {MAX_DEPTH} deep can't be copied"
            raise UnsupportedManifest(too_deep).at(self._registry, index.digest)
        children = entries(index)
        # One nested index after the other: each is held while its children are looked at.
        nested = {child.digest: await self._nest(child, index.digest, depth) for child in children if _nests(child)}
        wanted = await gather_all(self._wants(child, index.digest) for child in children)
        kept: list[Descriptor | Manifest | None] = []
        present: set[str] = set()
        for child, wants in zip(children, wanted, strict=True):
            inside = (
                nested[child.digest] if _nests(child) else _Chosen(None, frozenset({child.digest} if wants else ()))
            )
            present |= inside.present
            kept.append(child if child.digest in inside.present else inside.index)
        attested = await gather_all(self._attestation(child, index.digest, present) for child in children)
        chosen = [one if one is not None else other for one, other in zip(kept, attested, strict=True)]
        found = self._rewrite(index, children, chosen)
        return _Chosen(found, frozenset({*present, *([index.digest] if found is index else ())}))

    async def _nest(self, child: Descriptor, index: str, depth: int) -> _Chosen:
        """Choose what is wanted of an index in an index, once however often it stands there."""
        if child.digest not in self._nested:
            nested = await self._reader.child(child.digest, index)
            self._nested_bytes += len(nested.content)
            if self._nested_bytes > MAX_NESTED_BYTES:
                too_large = f"indexes within it of more than {MAX_NESTED_BYTES} bytes can't be copied"
                raise UnsupportedManifest(too_large).at(self._registry, index)
            self._nested[child.digest] = await self._index(nested, depth + 1)
        return self._nested[child.digest]

    async def _wants(self, child: Descriptor, index: str) -> bool:
        """Tell whether a child is an image, or another artifact, that is wanted."""
        if _nests(child) or child.is_attestation:
            return False
        self._images += 1
        wanted = not self._options.platforms or await self._is_for(child, index)
        self._left_out += not wanted
        return wanted

    async def _is_for(self, child: Descriptor, index: str) -> bool:
        if child.platform is not None:
            return self._fits(child.platform)
        async with self._looks:
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
            failed = f"the index can't be written anew: {error}"
            raise UnsupportedManifest(failed).at(self._registry, index.digest) from error
        self._rewritten[manifest.digest] = manifest
        return manifest


def _nests(child: Descriptor) -> bool:
    """Whether it is an index of images; one that attests something is judged by that."""
    return child.is_index and not child.is_attestation
