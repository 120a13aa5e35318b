"""Parts of a search for blobs (`replicator.copy.survey`): its allowance, and the progress in each repository."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replicator.reference import Repository
    from replicator.registry.limits import Abilities

BYTES_A_REQUEST = 128 * 1024
"""Bytes to send that justify one request of a search; bytes that it reads are paid for at the same rate."""
FEWEST_REQUESTS, MOST_REQUESTS = 8, 512
MOST_MANIFESTS = 16
"""Manifests read of one repository, the newest first; an index counts as one. Those count that comparisons saw."""


@dataclass(slots=True)
class Allowance:
    """How many requests the searches for the blobs of one image may still cost, all together."""

    requests: int

    @classmethod
    def worth(cls, size: int) -> Allowance:
        """Return the allowance of an image of which ``size`` bytes would be sent otherwise."""
        return cls(min(max(size // BYTES_A_REQUEST, FEWEST_REQUESTS), MOST_REQUESTS))

    def take(self) -> bool:
        """Take one request, if there is one left."""
        return self.take_some(1) == 1

    def take_some(self, most: int) -> int:
        """Take as many requests as are left of so many, and return their number."""
        taken = max(min(most, self.requests), 0)
        self.requests -= taken
        return taken


@dataclass(slots=True)
class Place:
    """A repository, and how far it was read.

    Attributes:
        repository: the repository.
        unread: tags and digests to read, the next one first.
        images: digests of the images to read of the index that was read last.
        listed: whether its tags were listed.
        read: manifests read so far, those of other processes included.
        skip: manifests that other processes read, the newest first.
        recalled: whether other processes were asked how far they read it.
        reads: manifests that this process has read since it began with the place.
        failures: how often in a row it could not be read.
        done_until: until when nothing more is read but what comparisons see; None until all was read.
        rests_until: when it may be read again, on the monotonic clock.
        busy: whether a search is reading it now.
        closed_to: the login that it was found not to be under.
        known: digests of manifests that were read.
    """

    repository: Repository
    unread: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    listed: bool = False
    read: int = 0
    skip: int = 0
    recalled: bool = False
    reads: int = 0
    failures: int = 0
    done_until: float | None = None
    rests_until: float = float("-inf")
    busy: bool = False
    closed_to: Abilities | None = None
    known: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in the store that processes share: short, and of a bounded size."""
        return f"read:{hashlib.sha256(str(self.repository).encode()).hexdigest()[:32]}"

    def renew(self, now: float) -> None:
        """Begin again if its rest is over: others may have pushed there."""
        if self.done_until is not None and self.done_until <= now:
            self.done_until, self.rests_until = None, float("-inf")
            self.unread, self.images, self.listed = [], [], False
            self.read = self.skip = self.reads = 0
            self.known = {}

    def rest(self, until: float) -> None:
        """Read nothing more of it, unless a comparison sees something."""
        self.done_until = self.rests_until = until
        self.unread, self.images, self.read = [], [], 0

    def read_again(self, digest: str) -> None:
        """Have one more manifest read of a repository that was read already."""
        if not self.unread and not self.images and digest not in self.known and self.reads < MOST_MANIFESTS:
            self.unread, self.listed, self.rests_until = [digest], True, float("-inf")
