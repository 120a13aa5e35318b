"""Asks the probes of a replicator on this machine, as health checks do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from replicator.settings import split_address

if TYPE_CHECKING:
    from replicator.settings import Settings

_SECONDS = 4.0
"""More than a replicator needs to say that its Redis does not answer."""
_MAX_ANSWER = 16 * 1024
_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask; nothing is bound


def probes_at(settings: Settings) -> URL:
    """Return where the settings have the probes that a worker has, too: at an address of their own, else the webhook's.

    Returns:
        A URL without a path.
    """
    if settings.metrics_listen is not None:
        return asked_at(settings.metrics_listen, tls=False)
    return asked_at(settings.listen, tls=settings.tls_certificate is not None)


def asked_at(address: str, *, tls: bool) -> URL:
    """Return where what listens at ``host:port`` is asked on this machine: a URL without a path.

    Args:
        address: an empty host, as one of all zeros, means every address.
        tls: whether HTTPS is served there.
    """
    host, port = split_address(address)
    return URL.build(scheme="https" if tls else "http", host=_ANYWHERE.get(host, host), port=port)


async def is_alive(base: URL) -> bool:
    """Tell whether a replicator serves there."""
    return (await ask(base / "healthz")).get("status") == "ok"


async def ask(url: URL) -> dict[str, Any]:
    """Return a probe's answer, a JSON object of any status; an empty one where there is none in time."""
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    try:
        # Nothing secret is sent: whose certificate it is does not matter.
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
