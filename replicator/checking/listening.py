"""Probes of the webhook's own side: its token, and the address it listens on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from typing import TYPE_CHECKING, Any

import aiohttp

from replicator.checking.findings import Finding, State
from replicator.errors import ConfigError
from replicator.listening import certificate_of
from replicator.settings import split_address
from replicator.webhooks.registering import registration_problems

if TYPE_CHECKING:
    from replicator.settings import Settings

_SECONDS = 5.0
"""More than a replicator needs to say that its Redis does not answer."""
_MAX_ANSWER = 16 * 1024
_MAX_PROBLEMS = 300
_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask; nothing is bound


async def judge_webhook(settings: Settings) -> list[Finding]:
    """Tell whether ``serve`` has a token to know Harbor by, a certificate, and what making Harbor's policies needs."""
    problems = registration_problems(settings)
    try:
        certificate_of(settings)
    except ConfigError as error:
        problems += error.problems
    if problems:
        return [Finding("webhook", settings.listen, State.FAILED, str(problem)) for problem in problems]
    if settings.webhook_token is not None and settings.webhook_token.get_secret_value():
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
    host, port = split_address(address)
    try:
        await asyncio.to_thread(_bind, host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            state, message = await _taken(host, port, variable)
        else:
            state, message = State.FAILED, _refusal(error, host, variable)
        return [Finding("listen", address, state, message)]
    return [Finding("listen", address, State.OK, "can be listened on")]


def _bind(host: str, port: int) -> None:
    """Bind an address as ``serve`` does, without listening: nobody can connect meanwhile."""
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host)))
        probe.bind((host, port))


def _refusal(error: OSError, host: str, variable: str) -> str:
    if error.errno == errno.EACCES:
        return f"this user may not listen on a port below 1024: set {variable} to a higher one"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is no address of this machine: set {variable} to one, or to 0.0.0.0:PORT"
    return f"can't be listened on ({error.strerror or error}): set {variable} to another address"


async def _taken(host: str, port: int, variable: str) -> tuple[State, str]:
    """Ask who listens there already."""
    another = (State.FAILED, f"another program listens there: end it, or set {variable} to another port")
    host = _ANYWHERE.get(host, host)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                for scheme in ("http", "https"):
                    base = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
                    if (await _ask(session, f"{base}/healthz")).get("status") == "ok":
                        return _judged(await _ask(session, f"{base}/readyz")) or another
    return another


def _judged(ready: dict[str, Any]) -> tuple[State, str] | None:
    if ready.get("status") == "ready":
        return State.OK, "a replicator runs here already, and is ready"
    if ready.get("status") == "not ready":
        problems = ready.get("problems")
        said = "; ".join(map(str, problems)) if isinstance(problems, list) else ""
        return State.FAILED, f"a replicator runs here already, and is not ready: {said[:_MAX_PROBLEMS]}"
    return None


async def _ask(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """Return a probe's answer; nothing where it is none."""
    try:
        # Nothing secret is sent: whose certificate it is does not matter.
        async with session.get(url, ssl=False, allow_redirects=False) as response:
            body = b""
            while len(body) < _MAX_ANSWER and (more := await response.content.read(_MAX_ANSWER - len(body))):
                body += more
            answer = json.loads(body)
    except (aiohttp.ClientError, OSError, ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
