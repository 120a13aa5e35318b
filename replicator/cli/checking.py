"""``replicator check``, which tries what a run would need."""

from typing import Annotated

import typer
from rich.console import Console

from replicator.cli.options import Auth, Config, Images, Namespace, RedisUrl, Registry, StateDir
from replicator.cli.preparing import given_rules, prepared_settings, run


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
    from replicator import checking
    from replicator.rules import Narrowing

    run(checking.check(settings, rules, Narrowing(rules, only or ()), as_json=as_json, out=Console()))
