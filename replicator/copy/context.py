"""State of one copy: the repositories it runs between, the manifests it has read, the counts of its outcome."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from replicator.copy.options import VERBATIM
from replicator.copy.outcome import Outcome, Result, Tally
from replicator.registry.errors import NotFound
from replicator.registry.manifest import CONFIG_TYPES, platform_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicator.copy.options import CopyOptions
    from replicator.reference import Platform, Reference
    from replicator.registry import Manifest, Registries, RemoteRepository

_MAX_READS = 8
"""Concurrent manifest reads, each up to 4 MiB."""
_CACHE_BYTES = 1024 * 1024
"""Manifests kept for a second use, such as attestations that were inspected before they are copied."""


@dataclass(frozen=True, slots=True)
class CopyContext:
    """What every step of one copy needs.

    Attributes:
        source: the image, by tag or by digest.
        destination: the tag or digest that is written.
        origin: the repository of ``source``.
        target: the repository of ``destination``.
        options: what is copied of the image.
        reader: reads manifests from ``origin``, each once.
        on_bytes: called with the number of blob bytes of every chunk that is read.
        tally: counts for the outcome.
        started: when the copy started, by `time.monotonic`.
    """

    source: Reference
    destination: Reference
    origin: RemoteRepository
    target: RemoteRepository
    options: CopyOptions
    reader: SourceReader
    on_bytes: Callable[[int], None]
    tally: Tally = field(default_factory=Tally)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls,
        registries: Registries,
        source: Reference,
        destination: Reference,
        options: CopyOptions = VERBATIM,
        progress: Callable[[int], None] | None = None,
    ) -> Self:
        """Return the context of a new copy; no request is sent yet."""
        origin = registries.source(source.repository)
        target = registries.destination(destination.repository)
        return cls(source, destination, origin, target, options, SourceReader(origin), progress or _ignore)

    def outcome(
        self, result: Result, digest: str | None, note: str = "", *, source_digest: str | None = None
    ) -> Outcome:
        """Return the outcome of the copy, with the counts and the time so far."""
        return Outcome(
            result,
            str(self.source),
            str(self.destination),
            digest,
            bytes=self.tally.bytes,
            blobs_copied=self.tally.blobs_copied,
            blobs_mounted=self.tally.blobs_mounted,
            blobs_present=self.tally.blobs_present,
            manifests=self.tally.manifests,
            seconds=round(time.monotonic() - self.started, 3),
            note=note,
            signatures=self.tally.signatures,
            warnings=self.tally.warnings,
            source_digest=source_digest,
        )


class SourceReader:
    """Reader of the manifests of one image, with a small cache."""

    def __init__(self, origin: RemoteRepository) -> None:
        self._origin = origin
        self._reads = asyncio.Semaphore(_MAX_READS)
        self._cache: dict[str, Manifest] = {}
        self._free_bytes = _CACHE_BYTES

    async def child(self, digest: str, index: str) -> Manifest:
        """Read a child manifest of the index with the digest ``index``.

        Raises:
            NotFound: the source does not have it; the error names both.
            RegistryError: the source refused, failed or sent other bytes.
        """
        if digest in self._cache:
            return self._cache[digest]
        async with self._reads:
            try:
                manifest = await self._origin.get_manifest(digest)
            except NotFound as error:
                raise NotFound(
                    f"the index {index} names the child {digest}, which the source does not have",
                    status=error.status,
                    codes=error.codes,
                ).at(error.registry, error.request) from error
        if len(manifest.content) <= self._free_bytes:
            self._free_bytes -= len(manifest.content)
            self._cache[digest] = manifest
        return manifest

    async def platform(self, image: Manifest) -> Platform | None:
        """Read the platform of an image from its config (image specification, "Image Configuration").

        Returns:
            The platform; None where the config names none.

        Raises:
            RegistryError: the source refused, failed or sent other bytes.
        """
        if not is_image(image) or image.config is None:
            return None
        try:
            return platform_of(json.loads(await self._origin.read_blob(image.config)))
        except (ValueError, RecursionError):
            return None


def is_image(manifest: Manifest) -> bool:
    """Tell a container image from another artifact by its config, as registries do that accept only images."""
    return manifest.config is not None and manifest.config.media_type in CONFIG_TYPES


def _ignore(_: int) -> None:
    return
