"""A contest: several programs do the same work between the same two registries, in turn."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.standins.images import Image, Index, blobs_of, manifests_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from benchmarks.measuring import Measurement

Content = Mapping[str, Mapping[str, Image | Index]]
"""Images by repository at the source and tag."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one run copies from and to.

    Attributes:
        source: ``host:port`` of the registry, or the Harbor, with the images.
        destination: ``host:port`` of the registry to copy them to.
        scratch: a directory for the run's own files.
        tags: all tags to copy, by repository at the source.
        targets: the repository of the destination for each of the source.
        registry: URL of the destination itself, behind all that a contest puts in front, where no request is counted;
            empty for a synthetic one.
        logins: name and password by ``host:port``; a host without one wants no login.
        ca: a PEM file with the authority of both hosts' certificates; None where they speak plain HTTP.
        images: the ``images`` of a rules file; None for a rule for each repository.
        forget: count requests from here on.
    """

    source: str
    destination: str
    scratch: Path
    tags: Mapping[str, Sequence[str]]
    targets: Mapping[str, str]
    registry: str = ""
    logins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    ca: Path | None = None
    images: Mapping[str, str] | None = None
    forget: Callable[[], None] = lambda: None

    @property
    def hosts(self) -> tuple[str, str]:
        """Source and destination."""
        return self.source, self.destination

    @property
    def repositories(self) -> list[tuple[str, str]]:
        """Source and destination of every repository, with their hosts."""
        return [(f"{self.source}/{name}", f"{self.destination}/{self.targets[name]}") for name in self.tags]

    @property
    def references(self) -> list[tuple[str, str]]:
        """Source and destination of every tag, with their hosts."""
        ends = zip(self.repositories, self.tags.values(), strict=True)
        return [(f"{source}:{tag}", f"{target}:{tag}") for (source, target), tags in ends for tag in tags]

    def only(self, repositories: int) -> Route:
        """The same with so many repositories."""
        return replace(self, tags=dict(list(self.tags.items())[:repositories]))


@dataclass(frozen=True, slots=True)
class Contender:
    """One program in a contest.

    Attributes:
        name: what the table calls it.
        run: does the work once, and measures it. Raises RunFailed.
        share: repositories that it gets at the most, as it takes too long for more; None for all.
        floor: it verifies and asks nothing, so no other program is compared with it.
    """

    name: str
    run: Callable[[Route], Awaitable[Measurement]]
    share: int | None = None
    floor: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A slow line before the destination.

    Attributes:
        round_trip: seconds.
        rate: bytes a second of each connection alone.
    """

    round_trip: float
    rate: float

    @property
    def window(self) -> int:
        """Bytes of a connection that may be under way at once."""
        return int(self.round_trip * self.rate)


@dataclass(frozen=True, slots=True)
class Contest:
    """The same work for all.

    Attributes:
        title: the work, for a person.
        content: what the source holds.
        contenders: who takes part.
        before: what the destination holds at first.
        brings: the destination has to hold all of ``content`` after a run.
        delay: seconds that each request takes longer, at both registries.
        tokens: the destination wants a token, and a login for it.
        tls: both registries speak TLS.
        line: the line to the destination.
        harbor: the source is a Harbor, with its API and its tokens.
        synthetic: both are programs that store nothing, with so many repositories and tags, all in place at the
            destination; ``content`` is not looked at.
        missing: in a synthetic contest, the tags are copied to where the destination has nothing.
    """

    title: str
    content: Content
    contenders: Sequence[Contender]
    before: Content = field(default_factory=dict)
    brings: bool = True
    delay: float = 0.0
    tokens: bool = False
    tls: bool = False
    line: Line | None = None
    harbor: bool = False
    synthetic: tuple[int, int] | None = None
    missing: bool = False

    @property
    def in_place(self) -> bool:
        """Whether the destination holds everything before, so that no run changes it."""
        return all(self.before.get(name) == tags for name, tags in self.content.items())

    @property
    def fewest(self) -> int:
        """Requests to the destination that no program can do without.

        A HEAD for each tag where all is in place; else POST and PUT for a blob that it lacks and PUT for a manifest,
        and where a token is wanted, a refusal with the token's address and the token.
        """
        if self.in_place:
            return sum(map(len, self.content.values()))
        number = 2 if self.tokens else 0
        for name, tags in self.content.items():
            held = {part for root in self.before.get(name, {}).values() for part in _parts(root)}
            roots = [root for tag, root in tags.items() if self.before.get(name, {}).get(tag) != root]
            parts = {part for root in roots for part in _parts(root)} - held
            number += sum(2 if blob else 1 for _, blob in parts) + len(roots)
        return number


def _parts(root: Image | Index) -> set[tuple[str, bool]]:
    """Name the digests of all parts but the root, and whether each is a blob."""
    blobs = {(blob.digest, True) for blob in blobs_of(root)}
    return blobs | {(one.digest, False) for one in manifests_of(root) if one is not root}


@dataclass(slots=True)
class Standing:
    """How one contender did.

    Attributes:
        name: the contender's.
        runs: a measurement a round, until it failed.
        requests: how many of each kind each side was sent in a run of its own: of the destination (tokens too), and
            where the source is a Harbor, of its API and its registry.
        tags: how many it was given; 0 where that is not the same as all.
        floor: as the contender's.
        problem: why it failed; empty when it did not.
    """

    name: str
    runs: list[Measurement] = field(default_factory=list)
    requests: dict[str, Counter[str]] = field(default_factory=dict)
    tags: int = 0
    floor: bool = False
    problem: str = ""

    @property
    def seconds(self) -> float:
        """Median of the wall time."""
        return statistics.median(run.seconds for run in self.runs)

    @property
    def cpu(self) -> float:
        """Median of the processor time, in seconds."""
        return statistics.median(run.cpu for run in self.runs)

    @property
    def peak(self) -> float:
        """Median of the peak of memory, in bytes."""
        return statistics.median(run.peak for run in self.runs)

    def ratio(self, other: Standing, figure: str = "seconds") -> float:
        """Divide by another's figure: the median over the rounds, as a machine's speed drifts between them."""
        pairs = zip(self.runs, other.runs, strict=False)
        return statistics.median(float(getattr(own, figure) / getattr(its, figure)) for own, its in pairs)
