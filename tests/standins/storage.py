"""The storage of a docker-registry, read and written without asking it: thousands of images in seconds.

The layout is that of distribution 2.8 (``registry/storage/paths.go``): content below ``blobs``, and below
``repositories`` files named ``link`` that hold a digest and nothing else. A registry that runs meanwhile sees what is
written, as it keeps none of it in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Storage:
    """The directory that `distribution` is given; `tests.standins.images.write` puts whole images there.

    Args:
        directory: may be empty, or hold what a registry was sent.
    """

    def __init__(self, directory: Path) -> None:
        root = directory / "docker/registry/v2"
        self._blobs = root / "blobs"
        self._repositories = root / "repositories"

    def put_blob(self, repository: str, digest: str, read: Callable[[], bytes]) -> None:
        """Put a blob into a repository; ``read`` is called unless another repository has it."""
        self._put(self._layer(repository, digest), digest, read)

    def put_manifest(self, repository: str, digest: str, content: bytes) -> None:
        """Put a manifest into a repository."""
        self._put(self._revision(repository, digest), digest, lambda: content)

    def put_tag(self, repository: str, tag: str, digest: str) -> None:
        """Have a tag name a manifest of the repository."""
        named = self._tags(repository) / tag
        _link(named / "index" / _path(digest), digest)
        _link(named / "current", digest)

    def blob(self, repository: str, digest: str) -> bytes | None:
        """Return a blob of a repository."""
        return self._content(digest) if self.has_blob(repository, digest) else None

    def has_blob(self, repository: str, digest: str) -> bool:
        """Tell whether a repository has a blob."""
        return _linked(self._layer(repository, digest)) == digest

    def manifest(self, repository: str, digest: str) -> bytes | None:
        """Return a manifest of a repository."""
        return self._content(digest) if self.has_manifest(repository, digest) else None

    def has_manifest(self, repository: str, digest: str) -> bool:
        """Tell whether a repository has a manifest."""
        return _linked(self._revision(repository, digest)) == digest

    def digest(self, repository: str, reference: str) -> str | None:
        """Return the digest of the manifest with this tag or digest."""
        digest = reference if ":" in reference else _linked(self._tags(repository) / reference / "current")
        return digest if digest and self.has_manifest(repository, digest) else None

    def tags(self, repository: str) -> list[str] | None:
        """List a repository's tags, sorted; None if it never had any."""
        try:
            return sorted(entry.name for entry in self._tags(repository).iterdir())
        except FileNotFoundError:
            return None

    def _layer(self, repository: str, digest: str) -> Path:
        return self._repositories / repository / "_layers" / _path(digest)

    def _revision(self, repository: str, digest: str) -> Path:
        return self._repositories / repository / "_manifests/revisions" / _path(digest)

    def _tags(self, repository: str) -> Path:
        return self._repositories / repository / "_manifests/tags"

    def _data(self, digest: str) -> Path:
        algorithm, _, encoded = digest.partition(":")
        return self._blobs / algorithm / encoded[:2] / encoded / "data"

    def _put(self, link: Path, digest: str, read: Callable[[], bytes]) -> None:
        if _linked(link) == digest:
            return
        data = self._data(digest)
        if not data.exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            data.write_bytes(read())
        _link(link, digest)

    def _content(self, digest: str) -> bytes | None:
        try:
            return self._data(digest).read_bytes()
        except FileNotFoundError:
            return None


def _path(digest: str) -> str:
    return digest.replace(":", "/")


def _link(place: Path, digest: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "link").write_text(digest)


def _linked(place: Path) -> str | None:
    try:
        return (place / "link").read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
