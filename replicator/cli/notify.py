"""``replicator notify``, which tries out whether notifications arrive."""

from typing import Annotated

import typer
from rich.console import Console

from replicator.cli.preparing import prepared_settings, run

notify = typer.Typer(help="Try out whether people are told what goes wrong.", no_args_is_help=True)


@notify.callback()
def root() -> None:
    """Stand before every command."""


@notify.command("test")
def send_test(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Send a sample to everyone whom REPLICATOR_NOTIFY_URL names, and say what the answers mean."""
    settings = prepared_settings(None, quiet=True)
    from replicator.notify import command

    run(command.send_test(settings, as_json=as_json, out=Console()))
