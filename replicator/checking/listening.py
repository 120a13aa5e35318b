"""Probes of the webhook's own side: its token, and the address it listens on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

from replicator.checking.findings import Finding, State
from replicator.errors import ConfigError
from replicator.listening import bind, certificate_of
from replicator.probes import ask, asked_at, is_alive
from replicator.settings import split_address
from replicator.webhooks.registering import registration_problems

if TYPE_CHECKING:
    from replicator.settings import Settings

_SECONDS = 5.0
"""For all that is asked of who listens already."""
_MAX_PROBLEMS = 300


async def judge_webhook(settings: Settings) -> list[Finding]:
    """Tell whether ``serve`` has a token to know Harbor by, a certificate, and what making Harbor's policies needs."""
    problems = registration_problems(settings)
    try:
        certificate_of(settings)
    except ConfigError as error:
        problems += error.problems
    if problems:
        return [Finding("webhook", settings.listen, State.FAILED, str(problem)) for problem in problems]
    if settings.token is not None:
        return [Finding("webhook", settings.listen, State.OK, "has a token")]
    if settings.webhook_anonymous:
        return [Finding("webhook", settings.listen, State.OK, "takes events from anyone, as the settings say")]
    message = "has no token, so serve does not start: set REPLICATOR_WEBHOOK_TOKEN (openssl rand -hex 32)"
    return [Finding("webhook", settings.listen, State.FAILED, message)]


async def try_address(address: str, variable: str) -> list[Finding]:
    """Tell whether an address can be listened on, or is by a replicator already. It is free again afterwards.

    Args:
        address: ``host:port``.
        variable: the setting it is from.
    """
    try:
        # Without listening: nobody can connect meanwhile.
        (await asyncio.to_thread(bind, address)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            state, message = await _taken(address, variable)
        else:
            state, message = State.FAILED, _refusal(error, split_address(address)[0], variable)
        return [Finding("listen", address, state, message)]
    return [Finding("listen", address, State.OK, "can be listened on")]


def _refusal(error: OSError, host: str, variable: str) -> str:
    if error.errno == errno.EACCES:
        return f"this user may not listen on a port below 1024: set {variable} to a higher one"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is no address of this machine: set {variable} to one, or to 0.0.0.0:PORT"
    return f"can't be listened on ({error.strerror or error}): set {variable} to another address"


async def _taken(address: str, variable: str) -> tuple[State, str]:
    """Ask who listens there already."""
    another = (State.FAILED, f"another program listens there: end it, or set {variable} to another port")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS):
            for tls in (False, True):
                base = asked_at(address, tls=tls)
                if await is_alive(base):
                    return _judged(await ask(base / "readyz")) or another
    return another


def _judged(ready: dict[str, Any]) -> tuple[State, str] | None:
    if ready.get("status") == "ready":
        return State.OK, "a replicator runs here already, and is ready"
    if ready.get("status") == "not ready":
        problems = ready.get("problems")
        said = "; ".join(map(str, problems)) if isinstance(problems, list) else ""
        return State.FAILED, f"a replicator runs here already, and is not ready: {said[:_MAX_PROBLEMS]}"
    return None
