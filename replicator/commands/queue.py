"""``replicator queue``: what an operator does with the queue itself."""

from __future__ import annotations

import typer
from rich.console import Console

from replicator.commands.options import RedisUrl, StateDir, run, settings_of
from replicator.console import say, stderr
from replicator.errors import OK, ConfigError, Problem
from replicator.queue import note_action, system_user
from replicator.queue.move import Left, move_state
from replicator.server.runtime import open_queue
from replicator.settings import Settings

queue = typer.Typer(add_completion=False)


@queue.callback()
def _group() -> None:
    """Move the queue from the state directory to a Redis."""


@queue.command()
def move(context: typer.Context, redis_url: RedisUrl = None, state_dir: StateDir = None) -> None:
    """Move jobs, dead letters and the history from the state directory to the Redis of the settings.

    Stop the replicator that uses the state directory first. A move that was interrupted goes on when it is run again.
    """
    run(move_to_redis(settings_of(context, quiet=True), out=Console(), err=stderr()))


async def move_to_redis(settings: Settings, *, out: Console, err: Console) -> int:
    """Move what the state directory holds to the Redis of the settings.

    Args:
        settings: both places.
        out: the console for the result.
        err: the console for how far an interrupted move came.

    Raises:
        ConfigError: no Redis is set, or the state directory can't be used.
        QueueError: another process uses the state directory, or Redis does not answer.
    """
    if settings.redis_url is None:
        message = "is not set, and names where the queue is to be moved to: set it, or give --redis-url"
        raise ConfigError("settings", [Problem("REPLICATOR_REDIS_URL", message)])
    moved, ended = Left(), False

    def progress(so_far: Left) -> None:
        nonlocal moved
        moved = so_far

    async with open_queue(settings) as target:
        try:
            moved = await move_state(settings.state_dir, target, settings.queue_server, progress=progress)
            ended = True
        finally:
            if moved:
                await note_action(target, action="move", what=f"{moved} from {settings.state_dir}", by=system_user())
            if moved and not ended:
                say(f"{moved} were moved; run the command again for the rest", err)
        if not moved:
            say(f"nothing to move: no jobs and no dead letters lie in {settings.state_dir}", out)
        else:
            say(f"{moved} moved from {settings.state_dir} to {target.where}", out)
            if not await target.workers():
                say("no worker runs: the copies begin when one is started", err)
    return OK
