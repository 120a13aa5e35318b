"""``replicator notify``: test whether notifications arrive."""

import asyncio
import time
from uuid import uuid4

import typer
from rich.console import Console

from replicator.commands.options import Json, run, settings_of
from replicator.console import document, say
from replicator.errors import FAILED, INTERRUPTED, OK, ConfigError, Problem
from replicator.receivers import Receiver
from replicator.server.notify import origin_of
from replicator.server.notify.message import Example, Message, MessageState, Occasion
from replicator.server.notify.sending import DeliveryResult, open_messenger
from replicator.settings import Settings
from replicator.tasks import stoppable

notify = typer.Typer(
    help="Test notifications (DingTalk, Feishu, WeCom, Slack).", no_args_is_help=True, add_completion=False
)


@notify.callback()
def root() -> None:
    """Make ``test`` a subcommand although it is the only one."""


@notify.command("test")
def send_test(context: typer.Context, as_json: Json = False) -> None:
    """Send a test message to every receiver in REPLICATOR_NOTIFY_URL, and explain the answers."""
    run(try_receivers(settings_of(context, quiet=True), as_json=as_json, out=Console()))


async def try_receivers(settings: Settings, *, as_json: bool, out: Console) -> int:
    """Send a test message to every receiver, and print a line for each; the queue is not used.

    Args:
        settings: with the receivers.
        as_json: print a JSON array instead: ``receiver`` (its host), ``format``, ``ok``, ``message``.
        out: the console.

    Returns:
        The exit code: `FAILED` if a receiver did not accept it.

    Raises:
        ConfigError: there is no receiver.
    """
    receivers = settings.receivers
    if not receivers:
        message = "no receivers: set it to the URL of a chat robot or a webhook"
        raise ConfigError("settings", [Problem("REPLICATOR_NOTIFY_URL", message)])
    results = await stoppable(_send(settings, receivers))
    if results is None:
        return INTERRUPTED
    rows = [
        {"receiver": receiver.host, "format": str(receiver.format), "ok": result.taken, "message": result.words}
        for receiver, result in zip(receivers, results, strict=True)
    ]
    if as_json:
        document(rows, out)
    for row in () if as_json else rows:
        say(f"{'ok' if row['ok'] else 'failed'}  {row['receiver']} ({row['format']}): {row['message']}", out)
    return OK if all(result.taken for result in results) else FAILED


def sample(now: int) -> Message:
    """Make a message that looks like the real ones, at ``now`` in milliseconds since 1970."""
    return Message(
        uuid4().hex,
        Occasion.TEST,
        MessageState.NEWS,
        "replicator: this is a test: messages arrive here",
        now,
        examples=(Example("registry.example.com/team/app:v1", "the reason of a failure is shown here"),),
        advice=("There is nothing to do.",),
    )


async def _send(settings: Settings, receivers: tuple[Receiver, ...]) -> list[DeliveryResult]:
    async with open_messenger(origin_of(settings)) as messenger:
        message = sample(int(time.time() * 1000))
        return await asyncio.gather(*(messenger.send(receiver, message) for receiver in receivers))
