"""Digests of bytes (OCI image specification, "Digests")."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Hasher(Protocol):
    """What hashlib gives."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes; releases the interpreter's lock for large ones."""

    def hexdigest(self) -> str:
        """Return what has been taken in as lower-case hex."""


def hasher_for(digest: str) -> Hasher:
    """Return a fresh hasher of a digest's algorithm, ``sha256`` or ``sha512``."""
    return hashlib.new(digest.partition(":")[0], usedforsecurity=True)


def digest_of(content: bytes, like: str = "sha256:") -> str:
    """Return the digest of ``content`` by the algorithm of ``like``."""
    hasher = hasher_for(like)
    hasher.update(content)
    return f"{like.partition(':')[0]}:{hasher.hexdigest()}"
