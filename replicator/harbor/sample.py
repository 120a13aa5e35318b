"""A sample event for the webhook, sent the way Harbor sends events, and the meaning of the answer.

The type of the sample is not one of Harbor's, so it causes no copy whatever the rules are. It is random, and the
webhook's answer repeats it, which proves that a replicator read the sample.
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
"""Harbor's own timeout."""
_MAX_ANSWER = 16 * 1024
_CONTENT_TYPES = {DEFAULT: "application/json", CLOUD_EVENTS: "application/cloudevents+json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a sample.

    Attributes:
        format: ``Default`` or ``CloudEvents``.
        status: of the answer; None if there was none.
        ok: whether a replicator accepted it.
        meaning: for a person, with what to do.
    """

    format: str
    status: int | None
    ok: bool
    meaning: str


async def send_samples(url: str, token: str | None, *, verify: bool = True) -> list[Answer]:
    """Send a sample in each of Harbor's formats.

    Args:
        url: the webhook's address.
        token: sent as ``Authorization: Bearer``; None to send none.
        verify: whether to verify the TLS certificate.
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
            accepted = response.status == 200 and _ignored(body).startswith(f"{kind} ")
            return Answer(form, response.status, accepted, _meaning(response, accepted=accepted))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer(form, None, ok=False, meaning=_failure(error))


def sample(form: str, kind: str) -> dict[str, Any]:
    """Build an event of the type ``kind`` in a format of Harbor's (``Default`` or ``CloudEvents``)."""
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
    """Return the webhook's reason for ignoring an event, which begins with the event's type."""
    try:
        said = json.loads(body)["ignored"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return said if isinstance(said, str) else ""


def _meaning(response: aiohttp.ClientResponse, *, accepted: bool) -> str:
    status = response.status
    if accepted:
        return "address and token are right: a replicator accepted the sample, and copies nothing for it"
    if 200 <= status < 300:
        return "the answer is not a replicator's: check that the path is /webhooks/harbor, and that a proxy forwards it"
    if 300 <= status < 400:
        where = shown_address(response.headers.get("Location", "nowhere"))
        return f"use the final address: this one redirects to {where}, and Harbor does not follow every redirect"
    if status in (401, 403):
        return (
            "use the token that the replicator was started with (REPLICATOR_WEBHOOK_TOKEN); if it is the same, a proxy "
            "refuses the request"
        )
    if status in (404, 405):
        return "there is no webhook at this path: use /webhooks/harbor, unless a proxy changes it"
    if status in (502, 503, 504):
        return "check that replicator serve is running: a proxy answers in its place, or its queue is unavailable"
    return "no replicator answers like this: check which proxy or server is at this address"


def _failure(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_SECONDS:g} s, Harbor's own timeout: check for a firewall in between"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            "the TLS certificate is not trusted here: add its authority to those that Harbor trusts, or register the "
            "policy with --skip-cert-verify"
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the name of the host can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "the server does not speak TLS: use http:// if that is intended"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "can't connect: check that replicator serve is running and its port is published"
    return f"the connection broke: {type(error).__name__}"
