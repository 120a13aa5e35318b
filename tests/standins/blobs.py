"""Blobs made from a seed: the same bytes on every machine with the same zlib."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB = 1 << 20


@dataclass(frozen=True)
class Blob:
    """A config, whose bytes are held in ``content``, or a layer, which is generated from its seed at each read.

    Attributes:
        media_type: of its descriptor.
        content: the bytes; None for a layer.
        seed: what a layer's file is filled from.
        file_size: bytes of the one file in a layer; the blob is a little larger.
        foreign: where it is to be had instead of from the registry.
    """

    media_type: str
    content: bytes | None = None
    seed: int = 0
    file_size: int = 0
    foreign: str | None = None

    def chunks(self) -> Iterator[bytes]:
        """Give out the bytes: a gzipped tar, stored rather than compressed."""
        if self.content is not None:
            yield self.content
            return
        packer = zlib.compressobj(level=0, wbits=31)
        for chunk in tar(self.seed, self.file_size):
            yield packer.compress(chunk)
        yield packer.flush()

    @cached_property
    def _measured(self) -> tuple[str, int]:
        hasher, size = hashlib.sha256(), 0
        for chunk in self.chunks():
            hasher.update(chunk)
            size += len(chunk)
        return f"sha256:{hasher.hexdigest()}", size

    @property
    def digest(self) -> str:
        return self._measured[0]

    @property
    def size(self) -> int:
        return self._measured[1]

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def diff_id(self) -> str:
        hasher = hashlib.sha256()
        for chunk in tar(self.seed, self.file_size):
            hasher.update(chunk)
        return f"sha256:{hasher.hexdigest()}"

    def descriptor(self) -> dict[str, Any]:
        extra = {"urls": [self.foreign]} if self.foreign is not None else {}
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **extra}


def tar(seed: int, size: int) -> Iterator[bytes]:
    """Give out a tar with one file of ``size`` bytes, filled from ``seed``."""
    header = io.BytesIO()
    entry = tarfile.TarInfo(f"file-{seed}")
    entry.size = size
    header.write(entry.tobuf(tarfile.USTAR_FORMAT))
    yield header.getvalue()
    # One random MiB under a counter: as incompressible as need be, and made as fast as memory is copied.
    pattern = random.Random(seed).randbytes(min(size, _MIB))
    for start in range(0, size, _MIB):
        chunk = start.to_bytes(8, "big") + pattern[8:]
        yield chunk[: min(_MIB, size - start)]
    yield b"\0" * (-size % 512 + 1024)
