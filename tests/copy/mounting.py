"""Copies of images of which the destination's registry has a part, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.copy import Result
from replicator.reference import Repository
from tests.standins.images import blobs_of, image, layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.copy import Outcome
    from tests.copy.conftest import Pair
    from tests.standins.images import Image, Index

MIB = 2**20
BASE = layer(77, MIB + 1000)
OURS = image(2, (100,), base=[BASE])


class SharedTexts:
    """A store that processes share, as a dictionary.

    Attributes:
        texts: by name.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        """Return what was noted under these names."""
        return [self.texts.get(name) for name in names]

    def note(self, name: str, text: str) -> None:
        """Note a text."""
        self.texts[name] = text


def at(pair: Pair, *names: str) -> list[Repository]:
    """Return repositories of the destination."""
    return [Repository(pair.destination.host, name) for name in names]


def reads(pair: Pair) -> tuple[int, int]:
    """Return how often tags were listed at the destination, and manifests read."""
    log = pair.destination.faults.log
    return log.count("GET", "/tags/list"), log.count("GET", "/manifests/")


def sent(pair: Pair) -> int:
    """Return the bytes of blobs that arrived at the destination."""
    return sum(entry.request_bytes for entry in pair.destination.faults.log.select("PUT", "/blobs/"))


def without(root: Image | Index, *blobs: object) -> int:
    """Return the bytes of an image's other blobs."""
    return sum(blob.size for blob in blobs_of(root) if blob not in blobs)


async def copy(pair: Pair, root: Image | Index, to: str = "lib/ours") -> Outcome:
    """Copy an image to a repository of the destination, and see that it is whole there."""
    tag = root.digest[7:19]
    await pair.source.push(tag, root)
    outcome = await pair.copy(tag, name=to)
    assert outcome.result is Result.COPIED
    await pair.destination.holds(tag, root, to)
    return outcome
