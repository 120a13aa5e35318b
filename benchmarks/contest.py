"""A contest: several programs do the same work between the same two registries, in turn."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.standins.images import blobs_of, manifests_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.measuring import Measurement
    from tests.standins.images import Image, Index

SOURCE_REPOSITORY = "team/app"
DESTINATION_REPOSITORY = "mirror/app"
YARDSTICKS = ("skopeo", "curl | curl", "crane")
"""Names of contenders that all others are divided by, where they take part."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one run copies from and to.

    Attributes:
        source: ``127.0.0.1:PORT`` of the registry with the images.
        destination: ``127.0.0.1:PORT`` of the one to bring them to.
        scratch: a directory for the run's own files.
        login: name and password that the destination wants, if it wants any.
    """

    source: str
    destination: str
    scratch: Path
    login: tuple[str, str] | None = None

    def of_source(self, tag: str | None = None) -> str:
        """The repository with the images, or one of its tags."""
        return f"{self.source}/{SOURCE_REPOSITORY}" + (f":{tag}" if tag else "")

    def of_destination(self, tag: str | None = None) -> str:
        """The repository to fill, or one of its tags."""
        return f"{self.destination}/{DESTINATION_REPOSITORY}" + (f":{tag}" if tag else "")


@dataclass(frozen=True, slots=True)
class Contender:
    """One program in a contest.

    Attributes:
        name: what the table calls it.
        command: makes the command line of a run.
    """

    name: str
    command: Callable[[Route], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Contest:
    """The same work for all.

    Attributes:
        title: what it is, for a person.
        images: what the source holds, by tag, and the destination must hold after each run.
        contenders: who takes part.
        in_place: the destination holds everything before, too.
        delay: seconds that each request takes longer, at both registries.
        tokens: the destination wants a token, and a login to give one out.
    """

    title: str
    images: Mapping[str, Image | Index]
    contenders: Sequence[Contender]
    in_place: bool = False
    delay: float = 0.0
    tokens: bool = False

    @property
    def yardsticks(self) -> list[str]:
        """Names of those taking part that the others are divided by."""
        present = {contender.name for contender in self.contenders}
        return [name for name in YARDSTICKS if name in present]

    @property
    def fewest(self) -> int:
        """Requests that nobody can do without.

        A question a tag where all is in place; else POST and PUT for a blob and PUT for a manifest, and where a
        token is wanted, a refusal that tells of it and the token.
        """
        if self.in_place:
            return len(self.images)
        blobs = {blob.digest for root in self.images.values() for blob in blobs_of(root)}
        parts = {one.digest for root in self.images.values() for one in manifests_of(root) if one is not root}
        return 2 * len(blobs) + len(parts) + len(self.images) + (2 if self.tokens else 0)


@dataclass(slots=True)
class Standing:
    """How one contender did.

    Attributes:
        name: the contender's.
        runs: a measurement a round.
        requests: how many of each kind the destination was sent for this work, those for tokens included.
        ratios: by yardstick, the median over the rounds of its own wall time through the yardstick's; only runs of
            one round are compared, since a machine's speed drifts.
    """

    name: str
    runs: list[Measurement] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    ratios: dict[str, float] = field(default_factory=dict)

    def compare(self, yardstick: Standing) -> None:
        """Set the ratio to another that ran in the same rounds."""
        pairs = zip(self.runs, yardstick.runs, strict=True)
        self.ratios[yardstick.name] = statistics.median(own.seconds / other.seconds for own, other in pairs)
