"""Reading the manifests of one image at its source, each once where they are small."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from replicator.registry.errors import NotFound
from replicator.registry.manifest import CONFIG_TYPES, platform_of

if TYPE_CHECKING:
    from replicator.options import Platform
    from replicator.registry import Manifest, RemoteRepository

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
                raise NotFound(
                    error.registry,
                    error.request,
                    f"the index {index} names the child {digest}, which the source does not have",
                    status=error.status,
                    codes=error.codes,
                ) from error
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
