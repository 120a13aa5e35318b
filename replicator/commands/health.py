"""``replicator health``: the health check of containers, and a client for the probes of this machine's replicator."""

import json
from typing import Any

import aiohttp
import typer
from yarl import URL

from replicator.commands.options import Json, Listen, run, settings_of
from replicator.console import say, stderr
from replicator.errors import FAILED, OK
from replicator.networks import split_address
from replicator.settings import Settings

_SECONDS = 4.0
"""More than a replicator needs to notice that its Redis does not answer."""
_MAX_ANSWER = 16 * 1024
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to connect; nothing is bound
"""Where to reach a server that listens on every address."""


def probes_at(settings: Settings) -> URL:
    """Return the base URL of the probes: at an address of their own if they have one, else at the webhook's."""
    if settings.metrics_listen is not None:
        return asked_at(settings.metrics_listen, tls=False)
    return asked_at(settings.listen, tls=settings.tls_certificate is not None)


def asked_at(address: str, *, tls: bool) -> URL:
    """Return the base URL at which a server that listens on ``host:port`` is reached from this machine."""
    host, port = split_address(address)
    return URL.build(scheme="https" if tls else "http", host=_LOOPBACK.get(host, host), port=port)


async def is_alive(base: URL) -> bool:
    """Tell whether a replicator serves there."""
    return (await ask(base / "healthz")).get("status") == "ok"


async def ask(url: URL) -> dict[str, Any]:
    """Return a probe's answer, a JSON object with any status; empty if there is none in time."""
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    try:
        # The certificate is for the public name, not for the loopback address; nothing secret is sent.
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(url, ssl=False, allow_redirects=False) as response,
        ):
            body = b""
            while len(body) < _MAX_ANSWER and (more := await response.content.read(_MAX_ANSWER - len(body))):
                body += more
            answer = json.loads(body)
    except (aiohttp.ClientError, OSError, ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def health(context: typer.Context, listen: Listen = None, as_json: Json = False) -> None:
    """Check that the replicator on this machine is alive. Exit code 0: alive; 1: not.

    Uses REPLICATOR_METRICS_LISTEN if it is set, else the address of the webhook.
    """
    base = probes_at(settings_of(context, quiet=True))

    async def check() -> int:
        alive = await is_alive(base)
        if as_json:
            print(json.dumps({"address": base.authority, "alive": alive}))  # noqa: T201 - the answer, without rich
        else:
            say(f"{base.authority}: {'a replicator is alive' if alive else 'no replicator answers'}", stderr())
        return OK if alive else FAILED

    run(check())
