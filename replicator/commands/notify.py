"""``replicator notify test``: a sample to every receiver, and what its answer means.

``replicator notify``, which tries out whether notifications arrive.
"""

import asyncio
import time
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console

from replicator.commands.options import prepared_settings, run
from replicator.console import document, plain
from replicator.errors import FAILED, INTERRUPTED, OK, ConfigError, Problem
from replicator.receivers import Receiver
from replicator.server.notify.message import Example, Message, MessageState, Occasion
from replicator.server.notify.notifier import origin_of
from replicator.server.notify.sending import DeliveryResult, open_poster
from replicator.settings import Settings
from replicator.tasks import stoppable


async def try_receivers(settings: Settings, *, as_json: bool, out: Console) -> int:
    """Send a sample to every receiver, and print a line for each; the queue is not looked at.

    Args:
        settings: name the receivers.
        as_json: print a JSON array instead: ``receiver`` (its host), ``format``, ``ok``, ``message``.
        out: where.

    Returns:
        The exit code: `FAILED` if one did not take it.

    Raises:
        ConfigError: there is no receiver.
    """
    receivers = settings.receivers
    if not receivers:
        message = "there is nobody to be told: give the address of a robot or a webhook"
        raise ConfigError("settings", [Problem("REPLICATOR_NOTIFY_URL", message)])
    verdicts = await stoppable(_send(settings, receivers))
    if verdicts is None:
        return INTERRUPTED
    told = [
        {"receiver": receiver.host, "format": str(receiver.format), "ok": verdict.taken, "message": verdict.words}
        for receiver, verdict in zip(receivers, verdicts, strict=True)
    ]
    if as_json:
        document(told, out)
    for each in () if as_json else told:
        line = f"{'ok' if each['ok'] else 'failed'}  {each['receiver']} ({each['format']}): {each['message']}"
        out.print(plain(line), soft_wrap=True)
    return OK if all(verdict.taken for verdict in verdicts) else FAILED


def sample(now: int) -> Message:
    """Make a message that shows what others look like.

    Args:
        now: milliseconds since 1970.
    """
    return Message(
        uuid4().hex,
        Occasion.TEST,
        MessageState.NEWS,
        "replicator: this is a test: messages arrive here",
        now,
        examples=(Example("registry.example.com/team/app:v1", "this is where a reason stands"),),
        advice=("There is nothing to do.",),
    )


async def _send(settings: Settings, receivers: tuple[Receiver, ...]) -> list[DeliveryResult]:
    async with open_poster(origin_of(settings)) as poster:
        message = sample(int(time.time() * 1000))
        return await asyncio.gather(*(poster.send(receiver, message) for receiver in receivers))


notify = typer.Typer(help="Try out whether people are told what goes wrong.", no_args_is_help=True)


@notify.callback()
def root() -> None:
    """Stand before every command."""


@notify.command("test")
def send_test(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Send a sample to everyone whom REPLICATOR_NOTIFY_URL names, and say what the answers mean."""
    settings = prepared_settings(None, quiet=True)
    run(try_receivers(settings, as_json=as_json, out=Console()))
