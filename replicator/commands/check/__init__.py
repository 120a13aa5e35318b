"""``replicator check``: test everything that a run needs, in order, without copying anything.

A registry whose login fails is not probed further.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import typer
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table

from replicator import __version__
from replicator.aliyun.acr import EDITIONS
from replicator.commands.check.findings import Finding, FindingState, Probe, judge_limits, merged, run_probe, summary
from replicator.commands.check.queue import (
    compare_rules,
    compare_rules_in,
    look_at_processes,
    look_for_left_work,
    try_redis,
    try_state_directory,
)
from replicator.commands.check.registries import (
    COLLISION_SECONDS,
    log_in,
    look_at_artifacts,
    look_at_both_ends,
    look_at_certificate,
    look_at_destinations,
    look_at_projects,
    look_at_route,
    look_for,
    try_push,
)
from replicator.commands.check.webhook import (
    Expected,
    judge_webhook,
    look_at_harbor,
    look_at_policies,
    reach_receiver,
    try_address,
)
from replicator.commands.options import (
    Auth,
    Config,
    Images,
    Json,
    Namespace,
    Only,
    RedisUrl,
    Registry,
    StateDir,
    rules_of,
    run,
    settings_of,
)
from replicator.console import document, error_lines, page, plain, say, stderr
from replicator.errors import FAILED, OK, ConfigError
from replicator.harbor import HarborApi
from replicator.harbor.policy import canonical
from replicator.harbor.registration import named_projects
from replicator.queue.connection import open_redis
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries, RequestObserver, Timing
from replicator.registry.errors import RegistryError
from replicator.registry.proxies import Proxies
from replicator.replication.transfer import access_by
from replicator.rules import Narrowing, Rules
from replicator.rules.request import CopyRequest, Source
from replicator.server.runtime import origin_of
from replicator.settings import Settings, variables

_TIMING = Timing(connect=8, read=8, write=8, commit=8, tag=8, attempts=1)
_NARROW = 120
"""Columns below which a finding takes two lines."""
_MARKS = {
    FindingState.OK: "✓",
    FindingState.WARNING: "!",
    FindingState.FAILED: "✗",
    FindingState.NOT_TRIED: "\N{EN DASH}",
}


def check(
    context: typer.Context,
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    only: Only = None,
    as_json: Json = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Test hosts, logins, permissions, queue and webhook, with advice for each problem. Copies nothing."""
    settings = settings_of(context, quiet=True)
    try:
        rules = rules_of(context, settings)
    except ConfigError:
        # A replicator that runs may use an earlier version of the files.
        with asyncio.Runner() as runner:
            for finding in runner.run(look_at_processes(settings)):
                say(finding.message, stderr(), label="Running", style="yellow")
        raise
    run(run_checks(settings, rules, Narrowing(rules, only or ()), as_json=as_json, out=Console()))


async def run_checks(settings: Settings, rules: Rules, narrowing: Narrowing, *, as_json: bool, out: Console) -> int:
    """Run all probes at once, and print the findings as a table or as JSON.

    Returns:
        The exit code: `FAILED` if a probe failed.

    Raises:
        ConfigError: the Redis URL is malformed, or the environment names a proxy that can't be used.
    """
    if settings.redis_url is not None:
        await open_redis(settings.redis_url.get_secret_value()).close()
    agent = f"replicator/{__version__}"
    proxies, access = Proxies.from_environ(variables()), access_by(rules.credentials)
    observer = RequestObserver(challenged=EDITIONS.learn)
    async with Registries(access, user_agent=agent, timing=_TIMING, observer=observer, proxies=proxies) as registries:
        found = await Check(settings, rules, narrowing, registries).run()
    if as_json:
        document([finding.to_json() for finding in found], out)
    else:
        show(found, out)
        if out.is_terminal:
            say(summary(found), out)
    return FAILED if any(finding.state is FindingState.FAILED for finding in found) else OK


def show(found: Iterable[Finding], out: Console) -> None:
    """Print the findings, one line each; on a narrow terminal two, with the message below the name."""
    if out.is_terminal and out.width < _NARROW:
        for finding in found:
            # Names are never wrapped: a name in two lines can't be copied from a terminal.
            say(f"{_MARKS[finding.state]} {finding.name}: {finding.subject}", out)
            for line in error_lines(finding.message):
                out.print(Padding(line, (0, 0, 0, 4)))
        return
    table = Table("", "check", "subject", "result", box=None, pad_edge=False)
    for finding in found:
        table.add_row(_MARKS[finding.state], finding.name, plain(finding.subject), Group(*error_lines(finding.message)))
    page(table, out)


_AT_ONCE = 16
_CLOSED = "skipped: the registry can't be used"


class Check:
    """One check of settings and rules, narrowed to some of their sources."""

    def __init__(self, settings: Settings, rules: Rules, narrowing: Narrowing, registries: Registries) -> None:
        self._settings = settings
        self._rules = rules
        self._narrowing = narrowing
        self._registries = registries
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._logins: dict[tuple[str, Access | None], asyncio.Task[list[Finding]]] = {}
        self._harbors: dict[str, asyncio.Task[bool]] = {}
        self._copies: dict[tuple[Repository, Repository], CopyRequest] = {}
        self._listed: dict[tuple[str, str, bool], Repository] = {}

    async def run(self) -> list[Finding]:
        """Run all probes; return their findings, those of this machine last."""
        sources = self._narrowing.sources()
        named = self._rules.hosts_of({key for source in sources for key in source.rules})
        async with asyncio.TaskGroup() as group:
            local = [group.create_task(self._try(probe)) for probe in self._local_probes()]
            # If a source can't be listed, its destinations are unknown. Their hosts are still worth a login.
            probed = [Repository(host, "x/x") for host in sorted(named)]
            hosts = [
                group.create_task(self._login(each)) for each in probed if self._rules.credentials(each) is not None
            ]
            listing = [group.create_task(self._source(source)) for source in sources]
            policies = group.create_task(self._policies(sources))
        async with asyncio.TaskGroup() as group:
            # After the logins: a domain of ACR's user tells its edition with its first answer.
            ends = group.create_task(self._destinations())
            artifacts = [
                group.create_task(self._artifacts(repository, whole=whole))
                for (_, _, whole), repository in self._listed.items()
            ]
            destinations = {each.destination.repository: each.destination for each in reversed(self._copies.values())}
            pushes = [group.create_task(self._push(each)) for each in reversed(destinations.values())]
            public = [group.create_task(self._public(each)) for each in self._copies.values()]
        tasks = (*hosts, *listing, ends, *artifacts, policies, *pushes, *public, *local)
        # Several rules share a login, and so its findings.
        return list(dict.fromkeys(line for task in tasks for line in task.result()))

    def _local_probes(self) -> list[Probe]:
        settings = self._settings
        probes = [
            Probe("webhook", settings.listen, partial(judge_webhook, settings)),
            Probe("listen", settings.listen, partial(try_address, settings.listen, "REPLICATOR_LISTEN")),
        ]
        own = settings.metrics_listen
        if own is not None:
            probes.append(Probe("listen", own, partial(try_address, own, "REPLICATOR_METRICS_LISTEN")))
        probes.append(Probe("limits", "all registries", self._limits))
        probes.append(Probe("configuration", "running processes", partial(look_at_processes, settings)))
        reach, proxies = reach_receiver, self._registries.proxies
        probes += [Probe("notify", each.host, partial(reach, "notify", each, proxies)) for each in settings.receivers]
        events = settings.event_receivers
        probes += [Probe("events", each.host, partial(reach, "events", each, proxies)) for each in events]
        prefix, origin = settings.redis_prefix, origin_of(settings)
        if settings.redis_url is None:
            directory = settings.state_dir
            return [
                Probe("queue", str(directory), partial(try_state_directory, directory, settings.queue_server)),
                Probe("rules", str(directory), partial(compare_rules_in, directory, prefix, self._rules, origin)),
                *probes,
            ]
        url = settings.redis_url.get_secret_value()
        look = partial(try_redis, url, prefix, settings.redis_replicas)
        compare = partial(compare_rules, url, prefix, self._rules, origin)
        left = partial(look_for_left_work, settings.state_dir, prefix, settings.queue_server)
        name = "REPLICATOR_REDIS_URL"
        return [
            Probe("redis", name, look),
            Probe("rules", name, compare),
            Probe("queue", str(settings.state_dir), left),
            *probes,
        ]

    async def _limits(self) -> list[Finding]:
        """Say which limits of bandwidth and requests are in force, and until when."""
        settings = self._settings
        limits = {
            "REPLICATOR_BANDWIDTH": settings.upload_limits,
            "REPLICATOR_REQUESTS_PER_SECOND": settings.request_limits,
        }
        hosts, now = self._rules.hosts, datetime.now(UTC)
        return [line for name, tables in limits.items() for line in judge_limits(name, tables, hosts, now)]

    async def _try(self, probe: Probe) -> list[Finding]:
        async with self._slots:
            return await run_probe(probe)

    async def _login(self, repository: Repository) -> list[Finding]:
        access = self._rules.credentials(repository)
        key = (repository.registry, access)
        if key not in self._logins:
            anonymous = access is not None and access.is_anonymous

            proxies = self._registries.proxies

            async def run() -> list[Finding]:
                found = await log_in(self._registries, repository, anonymous=anonymous)
                if access is None:
                    return found
                return found + await look_at_certificate(repository.registry, access, proxies)

            async def reach() -> list[Finding]:
                # Apart from the login, whose failure it may explain.
                routes = look_at_route(repository.registry, access, proxies) if access is not None else []
                return routes + await self._try(Probe("login", repository.registry, run))

            self._logins[key] = asyncio.create_task(reach())
        return await self._logins[key]

    async def _source(self, source: Source) -> list[Finding]:
        repository = source.repository or Repository(source.registry, f"{source.project or 'x'}/x")
        subject = str(source.repository or f"{source.registry}/{source.glob}")
        found = await self._login(repository)
        if _is_closed(found):
            return [*found, Finding("list", subject, FindingState.NOT_TRIED, _CLOSED)]
        access = self._rules.credentials(repository)
        of_login = source.project if access is not None and not access.is_anonymous else None

        async def look() -> list[Finding]:
            lines = []
            if source.repository is None and source.project is None:
                lines += await look_at_projects(self._registries, self._rules, source)
            listed, requests = await look_for(self._registries, self._rules, self._narrowing, source)
            lines += listed
            for request in requests:
                self._copies.setdefault((request.source.repository, request.destination.repository), request)
            if not requests:
                lines.append(Finding("push", subject, FindingState.NOT_TRIED, "skipped: no image matches"))
            elif source.needs_tags:
                seen = requests[0].source.repository
                project, slash, _ = seen.name.partition("/")
                if slash:
                    self._listed.setdefault((seen.registry, project, source.repository is None), seen)
            return lines

        return [*found, *await self._try(Probe("list", subject, look, of_login))]

    async def _destinations(self) -> list[Finding]:
        look = partial(look_at_destinations, self._registries, self._rules, self._narrowing)
        # It has a limit of its own.
        return await run_probe(Probe("collision", "all rules", look), 2 * COLLISION_SECONDS)

    async def _artifacts(self, repository: Repository, *, whole: bool) -> list[Finding]:
        subject = f"{repository.registry}/{repository.name.partition('/')[0]}"

        async def look() -> list[Finding]:
            if not await self._is_harbor(repository):
                message = (
                    "no Harbor (/api/v2.0/ping): a backfill lists tags by the registry API, which gives no digests"
                )
                return [Finding("artifacts", subject, FindingState.NOT_TRIED, message)]
            return await look_at_artifacts(self._registries, repository, whole=whole)

        return await self._try(Probe("artifacts", subject, look))

    async def _policies(self, sources: Iterable[Source]) -> list[Finding]:
        """Check the webhook policies of every project of the sources."""
        projects: list[tuple[str, str]] = []
        open_sources: list[Source] = []
        found: list[Finding] = []
        for source in sources:
            login = await self._login(Repository(source.registry, f"{source.project or 'x'}/x"))
            if _is_closed(login):
                subject = f"{source.registry}/{source.project or source.glob or source.repository}"
                found.append(Finding("policy", subject, FindingState.NOT_TRIED, _CLOSED))
            else:
                open_sources.append(source)

        async def list_projects() -> list[Finding]:
            named, failed = await named_projects(open_sources, self._registries)
            projects.extend(named)
            message = "skipped: the projects can't be listed"
            return [Finding("policy", registry, FindingState.NOT_TRIED, message) for registry in failed]

        found += await self._try(Probe("policy", "the projects that the rules name", list_projects))
        several = len({canonical(source.registry) for source in self._rules.sources()}) > 1
        expected = replace(Expected.of(self._settings), several=several)
        async with asyncio.TaskGroup() as group:
            harbors = [group.create_task(self._harbor(*place)) for place in dict(projects).items()]
            tasks = [group.create_task(self._policy(registry, project, expected)) for registry, project in projects]
        found += [line for task in harbors for line in task.result()]
        return [*found, *merged([line for task in tasks for line in task.result()])]

    async def _harbor(self, registry: str, project: str) -> list[Finding]:
        place = Repository(registry, f"{project}/x")
        if _is_closed(await self._login(place)) or not await self._is_harbor(place):
            return []
        return await self._try(Probe("harbor", registry, partial(look_at_harbor, self._registries, registry, project)))

    async def _policy(self, registry: str, project: str, expected: Expected) -> list[Finding]:
        subject = f"{registry}/{project}"
        place = Repository(registry, f"{project}/x")

        async def look() -> list[Finding]:
            if not await self._is_harbor(place):
                message = "no Harbor (/api/v2.0/ping): it sends no webhooks, so only a reconcile finds new images"
                return [Finding("policy", subject, FindingState.NOT_TRIED, message)]
            return await look_at_policies(self._registries, registry, project, expected)

        if _is_closed(await self._login(place)):
            return [Finding("policy", subject, FindingState.NOT_TRIED, _CLOSED)]
        return await self._try(Probe("policy", subject, look))

    async def _is_harbor(self, place: Repository) -> bool:
        """Check once per host whether it is a Harbor, with the login for ``place``; False if it does not answer."""
        api = HarborApi(place.registry, self._registries.transport(place))

        async def ask() -> bool:
            try:
                return await api.is_harbor()
            except RegistryError:
                return False

        if place.registry not in self._harbors:
            self._harbors[place.registry] = asyncio.create_task(ask())
        # Several probes share the task: the timeout of one must not cancel it for the others.
        return await asyncio.shield(self._harbors[place.registry])

    async def _push(self, destination: Reference) -> list[Finding]:
        subject = str(destination.repository)
        found = await self._login(destination.repository)
        if _is_closed(found):
            return [*found, Finding("push", subject, FindingState.NOT_TRIED, _CLOSED)]
        return [*found, *await self._try(Probe("push", subject, partial(try_push, self._registries, destination)))]

    async def _public(self, request: CopyRequest) -> list[Finding]:
        """Check whether a private image is public at its destination; nothing where an end can't be used."""
        source, destination = request.source.repository, request.destination.repository
        if self._registries.is_anonymous(source):
            return []
        if _is_closed(await self._login(source)) or _is_closed(await self._login(destination)):
            return []
        return await self._try(Probe("public", str(destination), partial(look_at_both_ends, self._registries, request)))


def _is_closed(found: list[Finding]) -> bool:
    return any(finding.name == "login" and finding.state is FindingState.FAILED for finding in found)
