"""The writes to a destination, read from its request log."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.standins.faults import Entry, RequestLog

_TAG = re.compile(r"/v2/(?P<repository>.+)/manifests/(?P<tag>[^/:]+)\Z")
_UPLOAD = re.compile(r"/v2/(?P<repository>.+)/blobs/uploads/")


@dataclass(frozen=True)
class TagWrite:
    """A PUT of a manifest under a tag.

    Attributes:
        name: ``repository:tag``.
        digest: what the tag names then; None where that was not answered.
        began: when the request arrived, on the monotonic clock.
        ended: when it was answered or its connection was gone.
        answered: whether it was taken, and that was said.
    """

    name: str
    digest: str | None
    began: float
    ended: float
    answered: bool

    @classmethod
    def of(cls, entry: Entry) -> TagWrite | None:
        """Read a request; None if it is another."""
        match = _TAG.match(entry.path)
        if entry.method != "PUT" or match is None:
            return None
        ended = entry.ended if entry.ended is not None else float("inf")
        return cls(f"{match['repository']}:{match['tag']}", entry.digest, entry.began, ended, entry.status == 201)


def tag_writes(log: RequestLog) -> list[TagWrite]:
    """Return the PUTs of tags, in the order of their arrival."""
    return [write for entry in log if (write := TagWrite.of(entry)) is not None]


def overlapping(writes: Sequence[TagWrite]) -> list[str]:
    """Name the writes of a tag that began before another one of it had ended, in a sentence each."""
    by_name: defaultdict[str, list[TagWrite]] = defaultdict(list)
    for write in writes:
        by_name[write.name].append(write)
    return [
        f"{name}: from {b.began:.3f} while one went on until {a.ended:.3f}"
        for name, of_name in by_name.items()
        for a, b in itertools.pairwise(sorted(of_name, key=lambda write: write.began))
        if b.began < a.ended
    ]


def times_written(log: RequestLog) -> Counter[str]:
    """Count by ``repository:tag`` how often a PUT was answered with 201."""
    return Counter(write.name for write in tag_writes(log) if write.answered)


def times_sent(log: RequestLog) -> Counter[tuple[str, str]]:
    """Count by repository and digest how often a blob's body was taken."""
    return Counter(
        (match["repository"], parse_qs(entry.query)["digest"][0])
        for entry in log.select("PUT", status=201)
        if (match := _UPLOAD.match(entry.path)) is not None
    )


def digests_unanswered(log: RequestLog) -> set[str]:
    """Return the blobs whose body arrived at least in part, without an answer: the registry may have them."""
    return {
        digest
        for entry in log.select("PUT")
        if _UPLOAD.match(entry.path) is not None and entry.status != 201
        for digest in parse_qs(entry.query).get("digest", [])
    }


def repeated(counts: Counter[str] | Counter[tuple[str, str]]) -> dict[str | tuple[str, str], int]:
    """Return what came more than once."""
    return {name: number for name, number in counts.items() if number > 1}
