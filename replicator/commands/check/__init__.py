"""``replicator check``: test everything that a run needs, without copying anything."""

from collections.abc import Iterable
from dataclasses import asdict

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from replicator import __version__
from replicator.commands.check.findings import Finding, FindingState
from replicator.commands.check.probing import Check
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
from replicator.console import document, page, plain, say
from replicator.errors import FAILED, OK
from replicator.queue.connection import open_redis
from replicator.registry import Registries, Timing
from replicator.registry.proxies import Proxies
from replicator.replication.transfer import access_by
from replicator.rules import Narrowing, Rules
from replicator.settings import Settings, variables

_TIMING = Timing(connect=8, read=8, write=8, commit=8, tag=8, attempts=1)
_NARROW = 120
"""Columns below which a finding takes two lines."""
_MARKS = {FindingState.OK: "✓", FindingState.FAILED: "✗", FindingState.NOT_TRIED: "\N{EN DASH}"}


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
    """Test hosts, logins, permissions, queue and webhook, and explain how to fix what fails; copies nothing."""
    settings = settings_of(context, quiet=True)
    rules = rules_of(context, settings)
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
    async with Registries(access, user_agent=agent, timing=_TIMING, proxies=proxies) as registries:
        found = await Check(settings, rules, narrowing, registries).run()
    if as_json:
        document([asdict(finding) for finding in found], out)
    else:
        show(found, out)
    return FAILED if any(finding.state is FindingState.FAILED for finding in found) else OK


def show(found: Iterable[Finding], out: Console) -> None:
    """Print the findings, one line each; on a narrow terminal two, with the message below the name."""
    if out.is_terminal and out.width < _NARROW:
        for finding in found:
            # Names are never wrapped: a name in two lines can't be copied from a terminal.
            say(f"{_MARKS[finding.state]} {finding.name}: {finding.subject}", out)
            out.print(Padding(plain(finding.message), (0, 0, 0, 4)))
        return
    table = Table("", "check", "subject", "result", box=None, pad_edge=False)
    for finding in found:
        table.add_row(_MARKS[finding.state], finding.name, plain(finding.subject), plain(finding.message))
    page(table, out)
