"""Images written straight into the storage of a docker-registry, thousands in seconds.

The layout is that of distribution 2.8 (``registry/storage/paths.go``): content below ``blobs``, and below
``repositories`` files named ``link`` that hold a digest and nothing else. A registry that runs meanwhile sees what is
written, as it keeps none of it in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.standins.images import blobs_of, manifests_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.standins.images import Blob, Image, Index


class Storage:
    """The directory that `distribution` is given.

    Args:
        directory: may be empty, or hold what a registry was sent. No registry may take a push while this writes.
    """

    def __init__(self, directory: Path) -> None:
        root = directory / "docker/registry/v2"
        self._blobs = root / "blobs"
        self._repositories = root / "repositories"
        self._written: set[str] = set()

    def write(self, repository: str, images: Mapping[str, Image | Index]) -> None:
        """Put images into a repository, by tag; a tag that is there already names another image then."""
        place = self._repositories / repository
        linked: set[str] = set()
        for tag, root in images.items():
            for blob in blobs_of(root):
                if blob.digest not in linked:
                    self._write_blob(blob)
                    _link(place / "_layers" / _path(blob.digest), blob.digest)
                    linked.add(blob.digest)
            for manifest in manifests_of(root):
                if manifest.digest not in linked:
                    self._write_content(manifest.digest, manifest.content)
                    _link(place / "_manifests/revisions" / _path(manifest.digest), manifest.digest)
                    linked.add(manifest.digest)
            named = place / "_manifests/tags" / tag
            _link(named / "index" / _path(root.digest), root.digest)
            _link(named / "current", root.digest)

    def _write_blob(self, blob: Blob) -> None:
        if blob.digest not in self._written:
            self._write_content(blob.digest, blob.read())

    def _write_content(self, digest: str, content: bytes) -> None:
        if digest in self._written:
            return
        algorithm, _, encoded = digest.partition(":")
        place = self._blobs / algorithm / encoded[:2] / encoded
        place.mkdir(parents=True, exist_ok=True)
        (place / "data").write_bytes(content)
        self._written.add(digest)


def _path(digest: str) -> str:
    return digest.replace(":", "/")


def _link(place: Path, digest: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "link").write_text(digest)
