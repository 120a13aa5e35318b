"""The two registries of a contest, and all that it puts in front of them."""

from __future__ import annotations

import shutil
import ssl
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.backfill import synthetic
from benchmarks.backfill.content import PROJECTS, destination_of
from benchmarks.contest import Route
from benchmarks.kinds import is_api, kind
from tests.standins.certificates import harbors_recipe
from tests.standins.distribution import distribution
from tests.standins.faults import FaultLayer, RequestLog
from tests.standins.harbor import HarborStandIn
from tests.standins.images import write
from tests.standins.latency import delayed
from tests.standins.line import apart
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT, basic
from tests.standins.proxy import Upstream
from tests.standins.server import serve
from tests.standins.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.contest import Content, Contest

_PROJECT = "mirror"
"""The project of the destination, where it is none of `PROJECTS`."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run's surroundings.

    Attributes:
        route: what the contender is told.
        trust: the TLS context to ask it with.
        source: what a Harbor was asked.
        destination: what the destination was asked, if that is counted or it wants tokens anyway.
        hosts: of a synthetic contest.
    """

    route: Route
    trust: ssl.SSLContext | None = None
    source: RequestLog = field(default_factory=RequestLog)
    destination: RequestLog = field(default_factory=RequestLog)
    hosts: synthetic.Hosts | None = None

    async def requests(self) -> dict[str, Counter[str]]:
        """Count the requests of each kind to Harbor's API, to its registry (tokens too), and to the destination."""
        if self.hosts is not None:
            api, registry = await synthetic.counts(self.hosts.harbor)
            _, destination = await synthetic.counts(self.hosts.destination)
            return {"API": api, "Harbor": registry, "destination": destination}
        counted = {"destination": Counter(map(kind, self.destination))}
        if self.source:
            counted["API"] = Counter(kind(entry) for entry in self.source if is_api(entry))
            counted["Harbor"] = Counter(kind(entry) for entry in self.source if not is_api(entry))
        return counted


def target_of(repository: str) -> str:
    """Return the repository of the destination for one of the source."""
    project, _, name = repository.partition("/")
    return destination_of(repository) if project in PROJECTS else f"{_PROJECT}/{name}"


class Stage:
    """The source of a contest, and a destination for each run; `stage` makes one."""

    def __init__(self, contest: Contest, place: Path) -> None:
        self._contest = contest
        self._place = place
        self._source = self._filled = ""
        self._harbor: HarborStandIn | None = None
        self._trust: ssl.SSLContext | None = None

    async def begin(self, stack: AsyncExitStack) -> None:
        """Have the source, and the destination where no run changes it."""
        contest = self._contest
        if contest.tls:
            harbors_recipe(self._place)
            self._trust = ssl.create_default_context(cafile=self._place / "ca.pem")
        self._source = await stack.enter_async_context(self._registry(self._place / "source", contest.content))
        if contest.in_place:
            there = self._registry(self._place / "destination", _at_destination(contest.before))
            self._filled = await stack.enter_async_context(there)
        if contest.harbor:
            projects = dict.fromkeys(PROJECTS, False)
            users = dict([HARBOR_ROBOT])
            harbor = HarborStandIn(self._source, users=users, projects=projects, keeps_content=True)
            self._harbor = await stack.enter_async_context(harbor)
            self._source = self._harbor.host
            await _read_once(self._harbor)
        if contest.delay:
            self._source = await stack.enter_async_context(delayed(self._source, contest.delay))

    @asynccontextmanager
    async def run(self, *, share: int | None = None, counted: bool = False) -> AsyncIterator[Run]:
        """Have a destination for one run.

        It is a registry of its own, unless all is in place before: none finds what another sent, and its content
        goes with it.

        Args:
            share: repositories to copy at the most; None for all.
            counted: the requests it is sent are kept, which costs time.
        """
        contest = self._contest
        async with AsyncExitStack() as stack:
            directory = Path(tempfile.mkdtemp(prefix="run-", dir=self._place))
            stack.callback(shutil.rmtree, directory)
            scratch = directory / "scratch"
            scratch.mkdir()
            if contest.synthetic is not None:
                yield await _synthetic(stack, contest, scratch, share)
                return
            registry = self._filled
            if not registry:
                there = self._registry(directory / "destination", _at_destination(contest.before))
                registry = await stack.enter_async_context(there)
            host, log, logins = registry, RequestLog(), {}
            if contest.tokens:
                # Of the stand-ins the one that gives tokens out at its own address: crane takes none from another
                # port of this machine.
                harbor = HarborStandIn(registry, users=dict([HARBOR_ADMIN]), projects={_PROJECT: False})
                host = (await stack.enter_async_context(harbor)).host
                log = harbor.faults.log
                logins[host] = HARBOR_ADMIN
            elif counted and not contest.tls:
                upstream = await stack.enter_async_context(Upstream(registry))
                layer = FaultLayer(upstream.forward)
                host, log = await stack.enter_async_context(serve(layer)), layer.log
            if contest.delay:
                host = await stack.enter_async_context(delayed(host, contest.delay))
            if (line := contest.line) is not None:
                front = await stack.enter_async_context(apart(host, round_trip=line.round_trip, window=line.window))
                host = front.host
            source, images = RequestLog(), None
            if self._harbor is not None:
                logins[self._source] = HARBOR_ROBOT
                source = self._harbor.faults.log
                source.clear()
                images = _by_project(self._source, host)
            tags = {name: list(images) for name, images in contest.content.items()}
            targets = {name: target_of(name) for name in tags}
            ca = self._place / "ca.pem" if contest.tls else None

            def forget() -> None:
                log.clear()
                source.clear()

            url = f"{'https' if contest.tls else 'http'}://{registry}"
            route = Route(self._source, host, scratch, tags, targets, url, logins, ca, images, forget)
            yield Run(route if share is None else route.only(share), self._trust, source, log)

    @asynccontextmanager
    async def _registry(self, directory: Path, content: Content) -> AsyncIterator[str]:
        """Have a registry with content that is written straight into its storage."""
        directory.mkdir()
        storage = Storage(directory)
        for repository, images in content.items():
            write(storage, repository, images)
        certificate = self._place / "leaf.pem" if self._contest.tls else None
        async with distribution(directory, certificate=certificate) as host:
            yield host.replace("127.0.0.1", "localhost") if certificate else host


@asynccontextmanager
async def stage(contest: Contest, storage: Path | None) -> AsyncIterator[Stage]:
    """Have a source with the contest's images, and nothing left of it afterwards.

    Args:
        contest: what is to be held.
        storage: where the registries keep their content; None for the system's temporary directory.
    """
    async with AsyncExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="benchmark-", dir=storage))
        stack.callback(shutil.rmtree, place)
        made = Stage(contest, place)
        if contest.synthetic is None:
            await made.begin(stack)
        yield made


async def _synthetic(stack: AsyncExitStack, contest: Contest, scratch: Path, share: int | None) -> Run:
    assert contest.synthetic is not None
    hosts = await stack.enter_async_context(synthetic.served(*contest.synthetic))
    beside = "-missing" if contest.missing else ""
    tags = synthetic.held(*contest.synthetic)
    targets = {name: destination_of(name).replace("/", f"{beside}/") for name in tags}
    images = _by_project(hosts.harbor, hosts.destination, beside)
    # Harbor lists the artifacts of a project to logins only.
    logins = {hosts.harbor: HARBOR_ROBOT}
    route = Route(hosts.harbor, hosts.destination, scratch, tags, targets, logins=logins, images=images)
    return Run(route if share is None else route.only(share), hosts=hosts)


def _by_project(source: str, destination: str, beside: str = "") -> dict[str, str]:
    return {f"{source}/{project}/**": f"{destination}/{name}{beside}/{{name}}" for project, name in PROJECTS.items()}


def _at_destination(content: Content) -> Content:
    return {target_of(name): images for name, images in content.items()}


async def _read_once(harbor: HarborStandIn) -> None:
    """Have the stand-in read its registry before anyone's time is taken: a Harbor has all of it in a database."""
    async with aiohttp.ClientSession(headers=basic(HARBOR_ROBOT)) as session:
        for project in PROJECTS:
            async with session.get(f"{harbor.url}/api/v2.0/projects/{project}/artifacts?page_size=1") as answer:
                answer.raise_for_status()
