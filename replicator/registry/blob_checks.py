"""Checks of a blob on its way: its hash, and unrequested compression by a proxy."""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.registry.connection import GZIP_MAGIC, packing_advice
from replicator.registry.errors import DigestMismatch, ProtocolViolated, one_line
from replicator.registry.manifest import hasher_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from replicator.registry.manifest import Hasher

_MAX_MARKS = 128
"""States of the hash that are kept of one blob, 64 of them of the latest chunks."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)\Z")
_TELLING = 1024
"""Bytes of a body by which is decided whether it is packed."""
_PIECE = 256 * 1024
"""Bytes that are unpacked at once."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """State of the hash after the first ``offset`` bytes."""

    offset: int
    hasher: Hasher


class BlobHash:
    """The hash of a blob that is read, with states of it to go back to.

    Args:
        digest: of the blob.
    """

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._hasher = hasher_for(digest)
        # In the order of their offsets, which become sparse towards the start of the blob.
        self._marks: list[_Mark] = []
        # After `go_back`: marks of earlier readings that this one has to agree with.
        self._agree: list[_Mark] = []

    @property
    def update(self) -> Callable[[bytes | memoryview], None]:
        """Hash more bytes; this releases the interpreter's lock for large ones.

        What was taken before `go_back`, by a thread that has not begun yet, is of no effect on the state after it.
        """
        return self._hasher.update

    @property
    def is_right(self) -> bool:
        """Whether the bytes hash to the digest."""
        return f"{self._digest.partition(':')[0]}:{self._hasher.hexdigest()}" == self._digest

    @property
    def compared_at(self) -> int | None:
        """Where two readings are compared next; None for nowhere."""
        return self._agree[0].offset if self._agree else None

    def mark(self, offset: int) -> None:
        """Keep the present state, before the chunk at ``offset``, and compare it with that of an earlier reading.

        Raises:
            DigestMismatch: it was another one.
        """
        agreed = self._agree.pop(0) if self._agree and self._agree[0].offset == offset else None
        if agreed is not None and agreed.hasher.digest() != self._hasher.digest():
            raise DigestMismatch("the source served other bytes when it was read a second time")
        self._marks.append(_Mark(offset, self._hasher.copy()))
        if len(self._marks) > _MAX_MARKS:
            # The older ones become sparse: an upload that breaks has lost its latest bytes.
            del self._marks[: _MAX_MARKS // 2 : 2]

    def go_back(self, offset: int) -> int:
        """Go back to the last state at most at ``offset``, and return where it is."""
        index = bisect_right(self._marks, offset, key=lambda mark: mark.offset)
        start = self._marks[index - 1] if index else _Mark(0, hasher_for(self._digest))
        if start.offset < offset:
            # Without a later mark the first reading came to its end, and its digest was right.
            self._agree[:0] = self._marks[index : index + 1]
        del self._marks[index:]
        self._hasher = start.hasher.copy()
        return start.offset


class Unpacker:
    """Unpacks a blob that a proxy has packed with gzip, although ``identity`` was asked for; in bounded pieces.

    Many labels are wrong: a layer is a gzip file itself, and some servers say so. The first bytes decide.

    Args:
        media_type: of the blob.

    Attributes:
        packed: whether it is packed; None until that is decided.
        needs: whether it needs more bytes to give out any.
    """

    def __init__(self, media_type: str) -> None:
        self.packed: bool | None = None
        self.needs = True
        self._is_gzip = "gzip" in media_type
        self._head = b""
        self._unzip = zlib.decompressobj(wbits=31)

    def take(self, chunk: bytes) -> bytes:
        """Return the next bytes of the blob; maybe none, while `needs` is true.

        Args:
            chunk: the received bytes; empty at the end, or if `needs` is false.

        Raises:
            DigestMismatch: the bytes can't be unpacked.
        """
        if self.packed is None:
            self._head += chunk
            if chunk and len(self._head) < _TELLING:
                return b""
            self.packed = self._decide()
            chunk, self._head = self._head, b""
        if not self.packed:
            return chunk
        try:
            plain = self._unzip.decompress(self._unzip.unconsumed_tail + chunk, _PIECE)
        except zlib.error as error:
            raise DigestMismatch("the blob's gzip can't be unpacked", packing_advice("gzip")) from error
        self.needs = len(plain) < _PIECE
        return plain

    def _decide(self) -> bool:
        if not self._head.startswith(GZIP_MAGIC):
            return False
        try:
            inner = zlib.decompressobj(wbits=31).decompress(self._head, len(GZIP_MAGIC))
        except zlib.error:
            return False
        # Of a layer that is a gzip file, the packed one holds another; everything else is none by itself.
        return inner == GZIP_MAGIC or not self._is_gzip


def check_range(value: str, offset: int, size: int) -> None:
    """Check the ``Content-Range`` of the answer to a request for the rest of a blob.

    Args:
        value: the header's.
        offset: the first byte that was requested.
        size: the blob's bytes.

    Raises:
        ProtocolViolated: it is about something else.
    """
    match = _CONTENT_RANGE.match(value)
    if match is None or int(match[1]) != offset or match[3] not in ("*", str(size)):
        requested = f"requested from byte {offset} of {size}"
        raise ProtocolViolated(f"{requested}, answered Content-Range {one_line(value, 80)!r}")
