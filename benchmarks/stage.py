"""The two registries of a contest: Debian's docker-registry, and a contest's proxies before it."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.contest import DESTINATION_REPOSITORY, SOURCE_REPOSITORY, Route
from benchmarks.kinds import kind
from tests.standins.distribution import distribution
from tests.standins.faults import FaultLayer, RequestLog
from tests.standins.harbor import HarborStandIn
from tests.standins.images import push
from tests.standins.latency import delayed
from tests.standins.logins import HARBOR_ADMIN
from tests.standins.proxy import Upstream
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from benchmarks.contest import Contest
    from tests.standins.images import Image, Index


@dataclass(frozen=True, slots=True)
class Run:
    """One run's surroundings.

    Attributes:
        route: what the contender is told.
        registry: ``127.0.0.1:PORT`` of the destination itself, behind all that the contest puts in front.
        logs: of what the destination was asked, if that is counted or wants tokens anyway.
    """

    route: Route
    registry: str
    logs: list[RequestLog] = field(default_factory=list)

    @property
    def requests(self) -> Counter[str]:
        """How many of each kind the destination was sent."""
        return Counter(kind(entry) for log in self.logs for entry in log)


class Stage:
    """The source of a contest, and a destination for each run; `stage` makes one."""

    def __init__(self, contest: Contest, place: Path, source: str, filled: str | None) -> None:
        self._contest = contest
        self._place = place
        self._source = source
        self._filled = filled

    @asynccontextmanager
    async def run(self, *, counted: bool = False) -> AsyncIterator[Run]:
        """Have a destination for one run.

        It is a registry of its own, unless all is in place before: none finds what another sent, and its content
        goes with it.

        Args:
            counted: the requests it is sent are kept, which costs time.
        """
        async with AsyncExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=self._place)))
            scratch = directory / "scratch"
            scratch.mkdir()
            registry = self._filled
            if registry is None:
                registry = await stack.enter_async_context(distribution(directory / "destination"))
            host = registry
            logs: list[RequestLog] = []
            login = None
            if self._contest.tokens:
                # Of the stand-ins the one that gives tokens out at its own address: crane takes none from another
                # port of this machine.
                project = DESTINATION_REPOSITORY.partition("/")[0]
                harbor = await stack.enter_async_context(
                    HarborStandIn(registry, users=dict([HARBOR_ADMIN]), projects={project: False})
                )
                host, login = harbor.host, HARBOR_ADMIN
                logs.append(harbor.faults.log)
            elif counted:
                upstream = await stack.enter_async_context(Upstream(registry))
                layer = FaultLayer(upstream.forward)
                host = await stack.enter_async_context(serve(layer))
                logs.append(layer.log)
            if self._contest.delay:
                host = await stack.enter_async_context(delayed(host, self._contest.delay))
            yield Run(Route(self._source, host, scratch, login), registry, logs)


@asynccontextmanager
async def stage(contest: Contest, storage: Path | None) -> AsyncIterator[Stage]:
    """Have a source with the contest's images, and nothing left of it afterwards.

    Args:
        contest: what is to be held.
        storage: where the registries keep their content; None for the system's temporary directory.
    """
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-", dir=storage)))
        source = await stack.enter_async_context(distribution(place / "source"))
        await _push(source, SOURCE_REPOSITORY, contest.images)
        filled = None
        if contest.in_place:
            filled = await stack.enter_async_context(distribution(place / "destination"))
            await _push(filled, DESTINATION_REPOSITORY, contest.images)
        if contest.delay:
            source = await stack.enter_async_context(delayed(source, contest.delay))
        yield Stage(contest, place, source, filled)


async def _push(host: str, repository: str, images: Mapping[str, Image | Index]) -> None:
    for tag, root in images.items():
        await push(host, repository, tag, root)
