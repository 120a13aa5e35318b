"""A contest: several programs do the same work between the same two registries, in turn, and are compared."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.measuring import Measurement, RunFailed, measure
from tests.standins.distribution import distribution
from tests.standins.faults import FaultLayer
from tests.standins.images import Image, blobs_of, fetch_raw, push
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

SOURCE_REPOSITORY = "team/app"
DESTINATION_REPOSITORY = "mirror/app"


@dataclass(frozen=True, slots=True)
class Route:
    """Where one run copies from and to.

    Attributes:
        source: ``127.0.0.1:PORT`` of the registry with the images.
        destination: ``127.0.0.1:PORT`` of an empty one.
        scratch: a directory for the run's own files.
    """

    source: str
    destination: str
    scratch: Path

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
        yardsticks: names of those that the others are divided by.
    """

    title: str
    images: Mapping[str, Image]
    contenders: Sequence[Contender]
    yardsticks: Sequence[str]


@dataclass(slots=True)
class Standing:
    """How one contender did.

    Attributes:
        name: the contender's.
        runs: a measurement a round.
        requests: that the destination was sent for this work, from nothing to all in place.
        ratios: by yardstick, the median over the rounds of its own wall time through the yardstick's; only runs of
            one round are compared, since a machine's speed drifts.
    """

    name: str
    runs: list[Measurement] = field(default_factory=list)
    requests: int = 0
    ratios: dict[str, float] = field(default_factory=dict)


async def hold(timed: Contest, counted: Contest, runs: int, storage: Path | None) -> list[Standing]:
    """Let everyone do the work, and count requests in a run apart, as the counting costs time.

    Args:
        timed: the contest.
        counted: the same with small images, whose number of requests is the same.
        runs: rounds; each contender runs once a round, in changing order.
        storage: where the registries keep their content; None for the system's temporary directory.

    Raises:
        RunFailed: a contender failed, or did not bring everything.
    """
    standings = {contender.name: Standing(contender.name) for contender in timed.contenders}
    async with _source(timed, storage) as (source, place):
        for turn in range(runs):
            shift = turn % len(timed.contenders)
            for contender in (*timed.contenders[shift:], *timed.contenders[:shift]):
                async with _empty(source, place) as route:
                    took = await measure(contender.command(route), route.scratch)
                    await _verify(route, timed, contender)
                standings[contender.name].runs.append(took)
    async with _source(counted, storage) as (source, place):
        for contender in counted.contenders:
            async with _empty(source, place) as behind, Upstream(behind.destination) as upstream:
                layer = FaultLayer(upstream.forward)
                async with serve(layer) as host:
                    route = Route(source, host, behind.scratch)
                    await measure(contender.command(route), route.scratch)
                await _verify(behind, counted, contender)
            standings[contender.name].requests = len(layer.log)
    for standing in standings.values():
        for yardstick in timed.yardsticks:
            pairs = zip(standing.runs, standings[yardstick].runs, strict=True)
            standing.ratios[yardstick] = statistics.median(own.seconds / other.seconds for own, other in pairs)
    return list(standings.values())


@asynccontextmanager
async def _source(contest: Contest, storage: Path | None) -> AsyncIterator[tuple[str, Path]]:
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=storage) as directory:
        place = Path(directory)
        async with distribution(place / "source") as source:
            for tag, image in contest.images.items():
                await push(source, SOURCE_REPOSITORY, tag, image)
            yield source, place


@asynccontextmanager
async def _empty(source: str, place: Path) -> AsyncIterator[Route]:
    """Start a registry of its own for each run: none finds what another sent, and its content goes with it."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=place) as directory:
        scratch = Path(directory) / "scratch"
        scratch.mkdir()
        async with distribution(Path(directory) / "destination") as destination:
            yield Route(source, destination, scratch)


async def _verify(route: Route, contest: Contest, contender: Contender) -> None:
    """A registry hashes what it takes: here it is enough that all is there under the right names."""
    async with aiohttp.ClientSession() as session:
        for tag, image in contest.images.items():
            try:
                content, _ = await fetch_raw(route.destination, DESTINATION_REPOSITORY, tag)
            except LookupError as error:
                raise RunFailed(f"{contender.name} did not bring {tag}") from error
            if content != image.content:
                raise RunFailed(f"{contender.name} made another manifest of {tag}")
            for blob in blobs_of(image):
                url = f"http://{route.destination}/v2/{DESTINATION_REPOSITORY}/blobs/{blob.digest}"
                async with session.head(url) as answer:
                    if answer.status != 200:
                        raise RunFailed(f"{contender.name} did not bring {blob.digest} of {tag}")
