"""``replicator health``: the health check of containers."""

import typer

from replicator.commands.options import Listen, run, settings_of
from replicator.console import say, stderr
from replicator.errors import FAILED, OK
from replicator.server.probes import is_alive, probes_at


def health(context: typer.Context, listen: Listen = None) -> None:
    """Check whether the replicator on this machine is alive; exit code 0 if it is, else 1.

    It asks at REPLICATOR_METRICS_LISTEN if that is set, else at the address of the webhook.
    """
    base = probes_at(settings_of(context, quiet=True))

    async def check() -> int:
        alive = await is_alive(base)
        say(f"{base.authority}: {'a replicator is alive' if alive else 'no replicator answers'}", stderr())
        return OK if alive else FAILED

    run(check())
