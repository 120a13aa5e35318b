"""``replicator health``, which asks a running process whether it serves."""

from typing import Annotated

import typer

from replicator.commands.options import prepared_settings, run, stderr
from replicator.errors import FAILED, OK
from replicator.server.probes import is_alive, probes_at


def health(
    listen: Annotated[str | None, typer.Option(help="Address of the webhook, host:port (REPLICATOR_LISTEN).")] = None,
) -> None:
    """Ask the replicator on this machine whether it serves; exit code 0 if it does, else 1.

    It is asked at REPLICATOR_METRICS_LISTEN, where that is set, else at the webhook's address.
    """
    settings = prepared_settings(None, quiet=True, listen=listen)

    async def asked() -> int:
        base = probes_at(settings)
        alive = await is_alive(base)
        stderr().print(f"{base.authority}: {'a replicator serves' if alive else 'no replicator answers'}", markup=False)
        return OK if alive else FAILED

    run(asked())
