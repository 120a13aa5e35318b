"""A contest of backfills: the destination's content before, and the contenders."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.backfill.content import Content
    from benchmarks.measuring import Measurement


@dataclass(frozen=True, slots=True)
class Route:
    """Where one run copies from and to.

    Attributes:
        harbor: ``127.0.0.1:PORT`` of the Harbor with the images.
        destination: ``127.0.0.1:PORT`` of the registry to bring them to.
        login: name and password that Harbor wants.
        repositories: those at Harbor that are meant.
        scratch: a directory for the run's own files.
    """

    harbor: str
    destination: str
    login: tuple[str, str]
    repositories: Sequence[str]
    scratch: Path


@dataclass(frozen=True, slots=True)
class Contender:
    """One program in a contest.

    Attributes:
        name: what the table calls it.
        command: makes the command line of a run.
        rehearsal: makes one that is run before, with the same state and the same destination; None for none.
        share: how many repositories it is given at the most, as it takes too long for more; None for all.
    """

    name: str
    command: Callable[[Route], Sequence[str]]
    rehearsal: Callable[[Route], Sequence[str]] | None = None
    share: int | None = None


@dataclass(frozen=True, slots=True)
class Contest:
    """The same work for all.

    Attributes:
        name: what it is called on the command line.
        title: what it is, for a person.
        before: images that the destination holds at first.
        changes: whether a run changes the destination, so that each needs one of its own.
        contenders: who takes part.
    """

    name: str
    title: str
    before: Content
    changes: bool
    contenders: Sequence[Contender]


@dataclass(slots=True)
class Standing:
    """How one contender did.

    Attributes:
        name: the contender's.
        tags: how many it brought, or found in place.
        runs: a measurement a round.
        api: requests of each kind to Harbor's REST API.
        registry: those to Harbor's registry, for tokens too.
        destination: those to the destination.
    """

    name: str
    tags: int
    runs: list[Measurement] = field(default_factory=list)
    api: Counter[str] = field(default_factory=Counter)
    registry: Counter[str] = field(default_factory=Counter)
    destination: Counter[str] = field(default_factory=Counter)
