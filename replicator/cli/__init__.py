"""The command line: options in, exit code out. What the commands do is in the packages below.

Each command imports what it needs itself: a copy of one image neither waits nor pays for a queue and a web server.

Exit codes: 0 all in place, 1 a copy failed, 2 usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import sys
from typing import Annotated

import typer

from replicator import __version__, exit_codes
from replicator.cli import (
    backfill,
    checking,
    converting,
    copying,
    describing,
    inspecting,
    notify,
    service,
    starting,
    webhook,
)
from replicator.errors import ConfigError, ReplicatorError

__all__ = ["app", "main"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What a file gives that our output is sent to and that takes no more."""

app = typer.Typer(
    name="replicator",
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


for command in (
    starting.init,
    converting.convert,
    service.serve,
    service.worker,
    backfill.backfill,
    copying.copy,
    copying.explain,
    describing.schema,
    checking.check,
    inspecting.health,
    inspecting.status,
):
    app.command()(command)
app.add_typer(inspecting.failures, name="failures")
app.add_typer(webhook.webhook, name="webhook")
app.add_typer(notify.notify, name="notify")


def main() -> None:
    """Run the command line; the program's entry point."""
    try:
        app()
    except ConfigError as error:
        code = _told(error, exit_codes.USAGE)
    except ReplicatorError as error:
        code = _told(error, exit_codes.FAILED)
    except BrokenPipeError:
        # Who read our output has gone; nothing more can be said to them.
        code = exit_codes.FAILED
        _close_output()
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        code = _told(OSError(f"what it says can't be written: {error.strerror}"), exit_codes.FAILED)
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
