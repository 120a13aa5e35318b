"""The command line: options in, exit code out; one module per command.

A module is imported when its command is called: copying one image needs no queue and no web server, and ``--version``
needs nothing.

Exit codes: 0 success, 1 a copy failed, 2 invalid usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import json
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from replicator import __version__
from replicator.errors import FAILED, OK, USAGE, ConfigError, ErrorClass, ErrorText, ReplicatorError, class_word

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COMMANDS", "EXAMPLES", "app", "load_command", "main"]

COMMANDS = {
    "init": ("init", "Write a first rules file, and .env with its secrets. Asks for missing answers."),
    "convert": (
        "convert",
        "Convert a file of image-syncer, regsync, skopeo sync or Harbor's replication to a rules file.",
    ),
    "serve": ("serve", "Receive Harbor's webhooks and copy every pushed image. Runs until SIGTERM."),
    "worker": ("serve", "Copy queued images. Runs until SIGTERM. Any number of workers can share one Redis."),
    "backfill": ("backfill", "Copy all existing tags that match the rules, and report each result."),
    "verify": ("verify", "Compare source and destination, and sign the result on request. Copies nothing."),
    "copy": (
        "copy",
        "Copy one image now, with the logins of the rules file, or without one with Docker's logins.",
    ),
    "wait": (
        "wait",
        "Wait until an image has arrived at all its destinations, e.g. in a pipeline.",
    ),
    "explain": ("explain", "Show which rules match an image, and its destinations. Works offline."),
    "schema": ("explain", "Print the JSON schema of the rules file, for completion and validation in an editor."),
    "check": (
        "check",
        "Test hosts, logins, permissions, queue and webhook, with advice for each problem. Copies nothing.",
    ),
    "health": ("health", "Check that the replicator on this machine is alive. Exit code 0: alive; 1: not."),
    "status": ("status", "Show the queue: queued and running copies, waiting retries, dead letters and workers."),
    "queue": ("queue", "List, pause, resume and cancel pending copies, or move them all to a Redis."),
    "reconcile": ("status", "Approve the replacements of a waiting reconcile."),
    "failures": (
        "failures",
        "Show dead letters (copies that are no longer retried) by cause. Subcommands retry or drop them.",
    ),
    "history": ("history", "Show the latest actions of people, reconciles and finished copies."),
    "webhook": ("webhook", "Manage Harbor's webhook policies."),
    "notify": ("notify", "Test notifications (DingTalk, Feishu, WeCom, Slack)."),
    "version": ("explain", "Show the version."),
}
"""The module of each command and the first paragraph of its help, in the order of first use."""
_RULES = "--config rules.yaml"
_WEBHOOK = "http://replicator.example.com:8080/webhooks/harbor"
EXAMPLES = {
    "init": ("init", "init --harbor harbor.example.com --acr registry.cn-beijing.aliyuncs.com --project team"),
    "convert": ("convert auth.yaml images.yaml --output rules.yaml", "convert regsync.yaml --from regsync"),
    "serve": (f"serve {_RULES}", f"serve {_RULES} --listen 127.0.0.1:8080 --reconcile 6h"),
    "worker": (f"worker {_RULES} --lane events",),
    "backfill": (
        f"backfill {_RULES} --dry-run --forecast",
        f"backfill {_RULES} --only 'team/**' --report report.csv",
        f"backfill {_RULES} --since 7d --fast",
    ),
    "verify": (
        f"verify {_RULES} --deep --attest attestation.jsonl --key key.pem",
        "verify --check attestation.jsonl --key key.pem.pub",
    ),
    "copy": ("copy harbor.example.com/team/app:v1 registry.cn-beijing.aliyuncs.com/team-mirror/app:v1",),
    "wait": (f"wait harbor.example.com/team/app:v1 {_RULES} --timeout 5m",),
    "explain": (f"explain harbor.example.com/team/app:v1 {_RULES}",),
    "schema": ("schema > rules.schema.json",),
    "check": (f"check {_RULES}", f"check {_RULES} --only 'team/**' --json"),
    "health": ("health", "health --listen 127.0.0.1:8080"),
    "status": ("status", "status --watch 5"),
    "queue": ("queue list --lane events",),
    "queue list": ("queue list --source 'team/**'",),
    "queue pause": ("queue pause --host harbor.example.com",),
    "queue resume": ("queue resume --host harbor.example.com", "queue resume --all"),
    "queue cancel": ("queue cancel --source team/app:v1 --dry-run",),
    "queue move": ("queue move --state-dir /var/lib/replicator",),
    "reconcile": ("reconcile approve",),
    "reconcile approve": ("reconcile approve",),
    "failures": ("failures", "failures --list", "failures retry --all"),
    "failures retry": (
        "failures retry registry.cn-beijing.aliyuncs.com/team-mirror/app:v1",
        "failures retry --all",
    ),
    "failures drop": ("failures drop registry.cn-beijing.aliyuncs.com/team-mirror/app:v1",),
    "history": ("history --limit 50",),
    "webhook": (f"webhook register {_RULES} --url {_WEBHOOK} --user admin",),
    "webhook register": (
        f"webhook register {_RULES} --url {_WEBHOOK} --user admin",
        f"webhook register {_RULES} --url http://127.0.0.1:8081/webhooks/harbor --sidecar",
    ),
    "webhook list": (f"webhook list {_RULES} --user admin",),
    "webhook test": (f"webhook test --url {_WEBHOOK}",),
    "webhook unregister": (f"webhook unregister {_RULES} --url {_WEBHOOK} --user admin",),
    "notify": ("notify test",),
    "notify test": ("notify test",),
    "version": ("version",),
}
"""Command lines without ``replicator``, for the help of each command and subcommand."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""Errors of writing to stdout when it is a file that can't grow."""


def load_command(name: str) -> Any:
    """Import a command's module, and return the command as typer made it.

    Raises:
        KeyError: there is no such command.
    """
    from replicator.imports import lean_imports

    with lean_imports():
        function = getattr(importlib.import_module(f"replicator.commands.{COMMANDS[name][0]}"), name)
    if not isinstance(function, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(function)
        function = single
    function.info.cls = _Group
    for command in function.registered_commands:
        command.cls = _Command
    found: Any = typer.main.get_command(function)
    found.name = name
    found.epilog = _examples(name)
    for each, subcommand in getattr(found, "commands", {}).items():
        subcommand.epilog = _examples(f"{name} {each}")
    return found


def _examples(name: str) -> str:
    """Return the examples of a command for its help; typer joins lines, and keeps paragraphs apart."""
    return "\n\n".join(["Examples:", *(f"  replicator {line}" for line in EXAMPLES[name])])


# Newer versions of typer contain a copy of click, older ones depend on it. No type fits both, hence Any.
def _prepared(parameters: list[Any]) -> list[Any]:
    """Show no types in the help, and convert only what is given.

    A flag takes no value, and a metavar such as IMAGE says more than Python's type. Otherwise typer has pydantic make a
    reader for each option, which takes half a millisecond.
    """
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            # Typer shows the metavar of an argument as its name, and the type beside it.
            parameter.display_type_rich = lambda ctx: None
        elif getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
        if "process_value" not in vars(parameter):
            parameter.process_value = partial(_convert_if_given, parameter, parameter.process_value)
    return parameters


def _convert_if_given(parameter: Any, convert: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    if value is not None or parameter.required:
        return convert(context, value)
    absent = () if parameter.multiple or parameter.nargs == -1 else None
    return absent if parameter.callback is None else parameter.callback(context, parameter, absent)


class _Command(TyperCommand):
    """A command with `_prepared` parameters."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _prepared(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the command's name in its usage, as `SOURCE` and `[SECONDS]`; typer writes `{SOURCE}`."""
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        names = [each.metavar if each.required else f"[{each.metavar}]" for each in arguments]
        return [self.options_metavar or "", *names]


class _Group(TyperGroup):
    """A group of commands, likewise."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _prepared(super().get_params(ctx))


class _LazyGroup(_Group):
    """The program: lists its commands from `COMMANDS`, and loads the one that is called."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.commands = {name: TyperCommand(name, help=summary) for name, (_, summary) in COMMANDS.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        command = listed and load_command(str(listed.name))
        if not gc.isenabled():
            # The start is over, see `replicator.__main__`. Modules are never garbage: no collection looks at them.
            gc.freeze()
            gc.enable()
        return name, command, rest


app = typer.Typer(
    name="replicator",
    cls=_LazyGroup,
    help="Replicate images from Harbor to Alibaba Cloud Container Registry, on every push and in bulk.",
    epilog="Every setting is also a REPLICATOR_ variable, in the environment, .env or a secret file; options win. "
    "Exit codes: 0 success, 1 a copy failed, 2 invalid usage or configuration, 130 interrupted.",
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options before the command's name."""


def main() -> None:
    """Run the command line; the program's entry point."""
    code = OK
    try:
        _run()
    except ConfigError as error:
        code = _print_error(error, USAGE)
    except ReplicatorError as error:
        code = _print_error(error, FAILED)
    except BrokenPipeError:
        # The reader of our output has gone, as in `replicator schema | head -1`.
        code = FAILED
        _close_output()
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        code = _print_error(OSError(f"can't write the output: {error.strerror}"), FAILED)
        _close_output()
    sys.exit(code)


def _run() -> None:
    """Run the command until its output is written: a failure in Python's own flush at exit would print a traceback."""
    try:
        app()
    finally:
        if sys.stdout is not None:  # None where the caller has closed it, as in `replicator status >&-`
            sys.stdout.flush()


def _close_output() -> None:
    """Discard buffered output. At exit Python would write it again, and fail with a traceback."""
    with contextlib.suppress(OSError):
        sys.stdout.close()


def _print_error(error: Exception, code: int) -> int:
    if "--json" in sys.argv[1:]:
        kind = class_word(getattr(error, "error_class", ErrorClass.PERMANENT))
        facts: dict[str, Any] = {**ErrorText.of(error).to_json(), "class": kind}
        if isinstance(error, ConfigError):
            facts["problems"] = [{"path": each.path, "message": each.message} for each in error.problems]
        told = {"error": facts}
        with contextlib.suppress(OSError):
            print(json.dumps(told, ensure_ascii=False), flush=True)  # noqa: T201 - to the program that called
    if _logs_json():
        _log_error(error)
        return code
    lines = [str(error)] if isinstance(error, ConfigError) else ErrorText.of(error).lines
    print("replicator: " + "\n  ".join(lines), file=sys.stderr)  # noqa: T201 - to the person who called
    for note in getattr(error, "__notes__", ()):
        print(f"  {note}", file=sys.stderr)  # noqa: T201 - the same
    return code


_SERVICES = ("serve", "worker")
_LOG_FORMAT = "--log-format"


def _logs_json() -> bool:
    """Tell whether a process that runs for long was told to log as JSON, even if its settings are refused."""
    words = sys.argv[1:]
    if not words or words[0] not in _SERVICES:
        return False
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == _LOG_FORMAT or word.startswith(f"{_LOG_FORMAT}="):
            return (following if word == _LOG_FORMAT else word.partition("=")[2]) == "json"
    from replicator.settings import variables

    try:
        return variables().get("REPLICATOR_LOG_FORMAT", "").strip().lower() == "json"
    except ConfigError:
        return os.environ.get("REPLICATOR_LOG_FORMAT") == "json"


def _log_error(error: Exception) -> None:
    """Log the error that ended this process: a line of text among JSON lines would stop a program that reads them."""
    import structlog

    from replicator.logs import configure_logs

    configure_logs(form="json")
    facts: dict[str, object] = {}
    if isinstance(error, ConfigError):
        facts["problems"] = [str(each) for each in error.problems]
    if notes := getattr(error, "__notes__", ()):
        facts["notes"] = list(notes)
    structlog.get_logger("replicator").error("not running", error=error, **facts)
