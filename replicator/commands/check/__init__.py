"""What a run would need, tried before it: registries, logins, lists, pushes, the queue and the webhook.

``replicator check``: all probes at once, and what they found as a table or as JSON.

``replicator check``, which tries what a run would need.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

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
    Namespace,
    RedisUrl,
    Registry,
    StateDir,
    given_rules,
    prepared_settings,
    run,
)
from replicator.console import document, page, plain
from replicator.errors import FAILED, OK
from replicator.queue.connection import open_redis
from replicator.registry import Registries, Timing
from replicator.replication.transfer import access_by
from replicator.rules import Narrowing, Rules
from replicator.settings import Settings

__all__ = ["run_checks"]

_TIMING = Timing(connect=8, read=8, write=8, commit=8, tag=8, attempts=1)
_NARROW = 120
"""Columns."""
_MARKS = {FindingState.OK: "✓", FindingState.FAILED: "✗", FindingState.NOT_TRIED: "\N{EN DASH}"}


async def run_checks(settings: Settings, rules: Rules, narrowing: Narrowing, *, as_json: bool, out: Console) -> int:
    """Try everything that a run would need, and print what was found.

    Args:
        settings: of the run.
        rules: of the run.
        narrowing: what is meant of the rules.
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
        found = await Check(settings, rules, narrowing, registries).run()
    if as_json:
        document([asdict(finding) for finding in found], out)
    else:
        show(found, out)
    return FAILED if any(finding.state is FindingState.FAILED for finding in found) else OK


def show(found: Iterable[Finding], out: Console) -> None:
    """Print what was found: a row each, or where a terminal is too narrow for names and reasons side by side, two.

    Args:
        found: what.
        out: where.
    """
    if out.is_terminal and out.width < _NARROW:
        for finding in found:
            # Not broken into lines: a name in two parts can't be copied from a terminal.
            out.print(plain(f"{_MARKS[finding.state]} {finding.name}: {finding.subject}"), soft_wrap=True)
            out.print(Padding(plain(finding.message), (0, 0, 0, 4)))
        return
    table = Table("", "what", "where", "found", box=None, pad_edge=False)
    for finding in found:
        table.add_row(_MARKS[finding.state], finding.name, plain(finding.subject), plain(finding.message))
    page(table, out)


def check(
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only sources like this, e.g. team/** or team/app:v1*; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    redis_url: RedisUrl = None,
    state_dir: StateDir = None,
) -> None:
    """Try everything a run would need, without copying anything, and say what to do about what fails."""
    settings = prepared_settings(
        None, quiet=True, config=config, auth=auth, images=images, redis_url=redis_url, state_dir=state_dir
    )
    rules = given_rules(settings, registry, namespace)
    run(run_checks(settings, rules, Narrowing(rules, only or ()), as_json=as_json, out=Console()))
