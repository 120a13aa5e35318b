"""The Harbor of the contests, and a destination for each run."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.backfill.content import PROJECTS, destination_of
from benchmarks.backfill.contest import Route
from benchmarks.kinds import is_api, kind
from tests.standins.distribution import distribution
from tests.standins.faults import FaultLayer, RequestLog
from tests.standins.harbor import HarborStandIn
from tests.standins.logins import HARBOR_ROBOT, basic
from tests.standins.proxy import Upstream
from tests.standins.server import serve
from tests.standins.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.backfill.content import Content
    from benchmarks.backfill.contest import Contest


@dataclass(frozen=True, slots=True)
class Run:
    """One run's surroundings.

    Attributes:
        route: what the contender is told.
        registry: ``127.0.0.1:PORT`` of the destination itself, behind what counts.
        at_harbor: what Harbor was asked.
        at_destination: what the destination was asked, if that is counted.
    """

    route: Route
    registry: str
    at_harbor: RequestLog
    at_destination: RequestLog = field(default_factory=RequestLog)

    def forget(self) -> None:
        """Count from here on."""
        self.at_harbor.clear()
        self.at_destination.clear()

    @property
    def api(self) -> Counter[str]:
        """How many requests of each kind Harbor's REST API was sent."""
        return Counter(kind(entry) for entry in self.at_harbor if is_api(entry))

    @property
    def source(self) -> Counter[str]:
        """The same of Harbor's registry and its token service."""
        return Counter(kind(entry) for entry in self.at_harbor if not is_api(entry))

    @property
    def destination(self) -> Counter[str]:
        """The same of the destination."""
        return Counter(map(kind, self.at_destination))


class Stage:
    """A Harbor, and destinations; `stage` makes one."""

    def __init__(self, harbor: HarborStandIn, place: Path) -> None:
        self._harbor = harbor
        self._place = place

    @asynccontextmanager
    async def destinations(self, contest: Contest) -> AsyncIterator[Destinations]:
        """Have what a contest needs of destinations, for as long as the context lasts."""
        async with AsyncExitStack() as stack:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="contest-", dir=self._place)))
            filled = None
            if not contest.changes:
                _fill(place / "destination", contest.before)
                filled = await stack.enter_async_context(distribution(place / "destination"))
            yield Destinations(self._harbor, place, contest, filled)


class Destinations:
    """A destination for each run of a contest; one for all where no run changes it."""

    def __init__(self, harbor: HarborStandIn, place: Path, contest: Contest, filled: str | None) -> None:
        self._harbor = harbor
        self._place = place
        self._contest = contest
        self._filled = filled

    @asynccontextmanager
    async def run(self, repositories: Sequence[str], *, counted: bool = False) -> AsyncIterator[Run]:
        """Have a destination for one run.

        Args:
            repositories: those at Harbor that the run is about.
            counted: the requests it is sent are kept, which costs time.
        """
        async with AsyncExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=self._place)))
            scratch = directory / "scratch"
            scratch.mkdir()
            registry = self._filled
            if registry is None:
                _fill(directory / "destination", self._contest.before)
                registry = await stack.enter_async_context(distribution(directory / "destination"))
            host = registry
            log = RequestLog()
            if counted:
                upstream = await stack.enter_async_context(Upstream(registry))
                layer = FaultLayer(upstream.forward)
                host, log = await stack.enter_async_context(serve(layer)), layer.log
            self._harbor.faults.log.clear()
            route = Route(self._harbor.host, host, HARBOR_ROBOT, repositories, scratch)
            yield Run(route, registry, self._harbor.faults.log, log)


@asynccontextmanager
async def stage(held: Content, storage: Path | None) -> AsyncIterator[Stage]:
    """Have a Harbor that holds all this, and nothing left of it afterwards.

    Args:
        held: what it holds.
        storage: where the registries keep their content; None for the system's temporary directory.
    """
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backfill-", dir=storage)))
        written = Storage(place / "harbor")
        for repository, images in held.items():
            written.write(repository, images)
        registry = await stack.enter_async_context(distribution(place / "harbor"))
        harbor = await stack.enter_async_context(
            HarborStandIn(
                registry,
                users=dict([HARBOR_ROBOT]),
                projects=dict.fromkeys(PROJECTS, False),
                keeps_content=True,
            )
        )
        await _read_once(harbor)
        yield Stage(harbor, place)


async def _read_once(harbor: HarborStandIn) -> None:
    """Have the stand-in read its registry before anyone's time is taken: a Harbor has all of it in a database."""
    async with aiohttp.ClientSession(headers=basic(HARBOR_ROBOT)) as session:
        for project in PROJECTS:
            async with session.get(f"{harbor.url}/api/v2.0/projects/{project}/artifacts?page_size=1") as answer:
                answer.raise_for_status()


def _fill(directory: Path, held: Content) -> None:
    directory.mkdir()
    storage = Storage(directory)
    for repository, images in held.items():
        storage.write(destination_of(repository), images)
