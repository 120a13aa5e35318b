"""The command line: options in, exit code out; one module a command.

A module is imported when its command is called: a copy of one image neither waits nor pays for a queue and a web
server, and ``--version`` for nothing.

Exit codes: 0 all in place, 1 a copy failed, 2 usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from replicator import __version__
from replicator.errors import FAILED, USAGE, ConfigError, ReplicatorError

__all__ = ["COMMANDS", "app", "load_command", "main"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What a file gives that our output is sent to and that takes no more."""

COMMANDS = {
    "init": ("init", "Write a first rules file, and .env for its secrets; asks for what no option says."),
    "convert": (
        "convert",
        "Turn a file of image-syncer, regsync or skopeo sync into a rules file; what has no equivalent is told.",
    ),
    "serve": ("serve", "Take Harbor's webhooks and copy what is pushed, until SIGTERM."),
    "worker": ("serve", "Copy what is queued, until SIGTERM; run as many as you like on one Redis."),
    "backfill": (
        "backfill",
        "Bring every existing tag that the rules name to its destination, and say what became of each.",
    ),
    "copy": ("copy", "Copy one image now, in the foreground; with a rules file, using its credentials, else Docker's."),
    "explain": ("copy", "Say which rules match an image and where it would go; nothing is contacted."),
    "schema": ("schema", "Print the JSON schema of the rules file, with which editors complete and check it."),
    "check": (
        "check",
        "Try everything a run would need, without copying anything, and say what to do about what fails.",
    ),
    "health": ("health", "Ask the replicator on this machine whether it serves; exit code 0 if it does, else 1."),
    "status": (
        "status",
        "Show what the queue does: what is queued, runs, waits for a retry or was given up, and who works.",
    ),
    "failures": ("failures", "List the copies that were given up; with a command, queue them again or forget them."),
    "webhook": ("webhook", "Have Harbor tell the replicator of pushes."),
    "notify": ("notify", "Try out whether people are told what goes wrong."),
}
"""By command, in the order in which they are needed: its module, and the first sentence of its help."""


def load_command(name: str) -> Any:
    """Import a command's module, and return the command, as Typer made it.

    Raises:
        KeyError: there is no such command.
    """
    function = getattr(importlib.import_module(f"replicator.commands.{COMMANDS[name][0]}"), name)
    if not isinstance(function, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(function)
        function = single
    found: Any = typer.main.get_command(function)
    found.name = name
    return found


class _LazyGroup(TyperGroup):
    """The commands by name: listed with the sentence from `COMMANDS`, loaded when one is called."""

    # Typer has a click of its own from 0.20 on, and before it the package: no one name fits both.
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and load_command(str(listed.name)), rest


app = typer.Typer(
    name="replicator",
    cls=_LazyGroup,
    help="Replicate images from Harbor to Alibaba Cloud Container Registry, on every push and in bulk.",
    epilog="Settings come from REPLICATOR_ variables, .env and secret files too; options win. Exit codes: 0 all in "
    "place, 1 a copy failed, 2 usage or configuration, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"replicator {__version__}")  # noqa: T201 - the answer
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Stand before every command."""


def main() -> None:
    """Run the command line; the program's entry point."""
    try:
        app()
    except ConfigError as error:
        code = _told(error, USAGE)
    except ReplicatorError as error:
        code = _told(error, FAILED)
    except BrokenPipeError:
        # Who read our output has gone; nothing more can be said to them.
        code = FAILED
        _close_output()
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        code = _told(OSError(f"what it says can't be written: {error.strerror}"), FAILED)
        _close_output()
    sys.exit(code)


def _close_output() -> None:
    """Give up what was not written yet; it would be tried again at the very end, and fail there with a traceback."""
    with contextlib.suppress(OSError):
        sys.stdout.close()


def _told(error: Exception, code: int) -> int:
    print(f"replicator: {error}", file=sys.stderr)  # noqa: T201 - to the person who called
    for note in getattr(error, "__notes__", ()):
        print(f"  {note}", file=sys.stderr)  # noqa: T201 - the same
    return code
