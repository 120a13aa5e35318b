"""A sample event to the webhook itself, as Harbor would send it, and what the answer means.

The sample is of a type that is none of Harbor's, and is not a push: whatever the rules say, no copy comes of it. The
type is another one each time, and the webhook's answer repeats it: so it is known that a replicator read it.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from replicator.harbor.policy import CLOUD_EVENTS, DEFAULT, shown_address

_SECONDS = 3.0
"""What Harbor waits for an answer."""
_MAX_ANSWER = 16 * 1024
_CONTENT_TYPES = {DEFAULT: "application/json", CLOUD_EVENTS: "application/cloudevents+json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a sample.

    Attributes:
        format: ``Default`` or ``CloudEvents``.
        status: of the answer; None if there was none.
        ok: whether a replicator took it.
        meaning: what that means, and what to do.
    """

    format: str
    status: int | None
    ok: bool
    meaning: str


async def send_samples(url: str, token: str | None, *, verify: bool = True) -> list[Answer]:
    """Send a sample in each of Harbor's formats.

    Args:
        url: the webhook's address.
        token: what it wants as ``Authorization``, behind ``Bearer``; None sends nothing.
        verify: check its TLS certificate.
    """
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        return [await _send(session, url, token, form, verify=verify) for form in (DEFAULT, CLOUD_EVENTS)]


async def _send(session: aiohttp.ClientSession, url: str, token: str | None, form: str, *, verify: bool) -> Answer:
    kind = f"replicator.test.{secrets.token_hex(8)}"
    headers = {"Content-Type": _CONTENT_TYPES[form]} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        async with session.post(
            url, data=json.dumps(sample(form, kind)).encode(), headers=headers, ssl=verify, allow_redirects=False
        ) as response:
            body = await response.content.read(_MAX_ANSWER)
            while len(body) < _MAX_ANSWER and (more := await response.content.read(_MAX_ANSWER - len(body))):
                body += more
            taken = response.status == 200 and _ignored(body).startswith(f"{kind} ")
            return Answer(form, response.status, taken, _meaning(response, taken=taken))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer(form, None, ok=False, meaning=_failure(error))


def sample(form: str, kind: str) -> dict[str, Any]:
    """Build an event as Harbor does, of a type that is none of Harbor's.

    Args:
        form: ``Default`` or ``CloudEvents``.
        kind: the type.
    """
    now = datetime.now(UTC)
    if form == DEFAULT:
        return {"type": kind, "occur_at": int(now.timestamp()), "operator": "replicator", "event_data": {}}
    return {
        "specversion": "1.0",
        "id": kind,
        "source": "/replicator/webhook/test",
        "type": kind,
        "datacontenttype": "application/json",
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": {},
    }


def _ignored(body: bytes) -> str:
    try:
        said = json.loads(body)["ignored"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return said if isinstance(said, str) else ""


def _meaning(response: aiohttp.ClientResponse, *, taken: bool) -> str:
    status = response.status
    if taken:
        return "a replicator took it, and copies nothing for it: address and token are right"
    if 200 <= status < 300:
        return "who answers is no replicator's webhook: is the path /webhooks/harbor, and does a proxy pass it on?"
    if 300 <= status < 400:
        where = shown_address(response.headers.get("Location", "nowhere"))
        return f"redirected to {where}: Harbor does not deliver through every redirect; use the final address"
    if status in (401, 403):
        return "the token is not the one the replicator was started with (REPLICATOR_WEBHOOK_TOKEN), or a proxy refuses"
    if status in (404, 405):
        return "there is no webhook at this path: it is /webhooks/harbor, unless a proxy changes it"
    if status in (502, 503, 504):
        return "a proxy answers in the replicator's place, or its queue is away: is replicator serve running?"
    return "an answer that no replicator gives: what stands in front of it?"


def _failure(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_SECONDS:g} s, which is all that Harbor waits: is a firewall in between?"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            "its TLS certificate is not trusted here: Harbor needs its authority among those it trusts, or a policy "
            "with --skip-cert-verify"
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "no TLS there: is it plain http://?"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "can't connect: is replicator serve running, and its port published?"
    return f"the connection broke: {type(error).__name__}"
