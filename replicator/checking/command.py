"""``replicator check``: all probes at once, and what they found as a table or as JSON."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from rich.table import Table

from replicator import __version__, exit_codes
from replicator.checking.certificates import look_at_certificate
from replicator.checking.findings import Finding, Probe, State, tried
from replicator.checking.queues import judge_webhook, try_redis, try_state_directory
from replicator.checking.receivers import reach_receiver
from replicator.checking.registries import log_in, look_for, try_push
from replicator.printing import document, page, plain
from replicator.queue.connection import open_redis
from replicator.reference import Reference, Repository
from replicator.registry import Registries, Timing
from replicator.transfer import access_by

if TYPE_CHECKING:
    from rich.console import Console

    from replicator.registry import Access
    from replicator.rules import Rules
    from replicator.rules.request import Source
    from replicator.settings import Settings

_TIMING = Timing(connect=8, read=8, write=8, commit=8, tag=8, tries=1)
_AT_ONCE = 16
_MARKS = {State.OK: "✓", State.FAILED: "✗", State.NOT_TRIED: "\N{EN DASH}"}


async def check(settings: Settings, rules: Rules, *, as_json: bool, out: Console) -> int:
    """Try everything that a run would need, and print what was found.

    Args:
        settings: of the run.
        rules: of the run.
        as_json: print JSON instead of a table.
        out: where.

    Returns:
        An exit code: 1 if anything would fail.

    Raises:
        ConfigError: the URL of Redis is of no known form.
    """
    if settings.redis_url is not None:
        await open_redis(settings.redis_url.get_secret_value()).close()
    agent = f"replicator/{__version__}"
    async with Registries(access_by(rules.credentials), user_agent=agent, timing=_TIMING) as registries:
        found = await _Check(settings, rules, registries).run()
    if as_json:
        document([asdict(finding) for finding in found], out)
    else:
        table = Table("", "what", "where", "found", box=None, pad_edge=False)
        for finding in found:
            table.add_row(_MARKS[finding.state], finding.name, plain(finding.subject), plain(finding.message))
        page(table, out)
    return exit_codes.FAILED if any(finding.state is State.FAILED for finding in found) else exit_codes.OK


class _Check:
    """One check: what is tried, and what follows from what was found."""

    def __init__(self, settings: Settings, rules: Rules, registries: Registries) -> None:
        self._settings = settings
        self._rules = rules
        self._registries = registries
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._logins: dict[tuple[str, Access | None], asyncio.Task[list[Finding]]] = {}
        self._destinations: dict[Repository, Reference] = {}

    async def run(self) -> list[Finding]:
        async with asyncio.TaskGroup() as group:
            local = [group.create_task(self._try(probe)) for probe in self._local_probes()]
            # Where a source can't be listed its destinations are not known, but their hosts are.
            named = [Repository(host, "x/x") for host in sorted(self._rules.hosts)]
            hosts = [
                group.create_task(self._login(each)) for each in named if self._rules.credentials(each) is not None
            ]
            sources = [group.create_task(self._source(source)) for source in self._rules.sources()]
        async with asyncio.TaskGroup() as group:
            pushes = [group.create_task(self._push(destination)) for destination in self._destinations.values()]
        lines = [line for task in (*hosts, *sources, *pushes, *local) for line in task.result()]
        # One login serves several rules: it is told once.
        return list(dict.fromkeys(lines))

    def _local_probes(self) -> list[Probe]:
        settings = self._settings
        probes = [Probe("webhook", settings.listen, partial(judge_webhook, settings))]
        probes += [Probe("notify", each.host, partial(reach_receiver, each)) for each in settings.receivers]
        if settings.redis_url is None:
            directory = settings.state_dir
            return [Probe("queue", str(directory), partial(try_state_directory, directory)), *probes]
        url = settings.redis_url.get_secret_value()
        return [Probe("redis", "REPLICATOR_REDIS_URL", partial(try_redis, url, settings.redis_prefix)), *probes]

    async def _try(self, probe: Probe) -> list[Finding]:
        async with self._slots:
            return await tried(probe)

    async def _login(self, repository: Repository) -> list[Finding]:
        access = self._rules.credentials(repository)
        key = (repository.registry, access)
        if key not in self._logins:
            anonymous = access is not None and access.is_anonymous

            async def run() -> list[Finding]:
                found = await log_in(self._registries, repository, anonymous=anonymous)
                return found + (await look_at_certificate(repository.registry, access) if access is not None else [])

            self._logins[key] = asyncio.create_task(self._try(Probe("login", repository.registry, run)))
        return await self._logins[key]

    async def _source(self, source: Source) -> list[Finding]:
        repository = source.repository or Repository(source.registry, f"{source.project or 'x'}/x")
        subject = str(source.repository or f"{source.registry}/{source.glob}")
        found = await self._login(repository)
        if _is_closed(found):
            return [*found, Finding("list", subject, State.NOT_TRIED, "its registry can't be used")]

        async def look() -> list[Finding]:
            lines, requests = await look_for(self._registries, self._rules, source)
            for request in requests:
                self._destinations.setdefault(request.destination.repository, request.destination)
            if not requests:
                lines.append(Finding("push", subject, State.NOT_TRIED, "there is nothing to push"))
            return lines

        return [*found, *await self._try(Probe("list", subject, look))]

    async def _push(self, destination: Reference) -> list[Finding]:
        subject = str(destination.repository)
        found = await self._login(destination.repository)
        if _is_closed(found):
            return [*found, Finding("push", subject, State.NOT_TRIED, "its registry can't be used")]
        return [*found, *await self._try(Probe("push", subject, partial(try_push, self._registries, destination)))]


def _is_closed(found: list[Finding]) -> bool:
    return any(finding.name == "login" and finding.state is State.FAILED for finding in found)
