"""Harbor's webhook events: a parser of their payloads, without HTTP or queue, and a sample to send.

Formats: "Default" (``{"type", "occur_at", "operator", "event_data"}``) and, since Harbor 2.8, "CloudEvents"
(CloudEvents 1.0, structured mode). The content tells them apart; the Content-Type is ignored.

The type of the sample is not one of Harbor's, so it never causes a copy. It is random, and the
webhook's answer repeats it, which proves that a replicator read the sample.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import aiohttp

from replicator.harbor.policy import CLOUD_EVENTS, DEFAULT, shown_address
from replicator.reference import is_digest, is_repository_name, is_tag

PUSH = "PUSH_ARTIFACT"
SCANNED = "SCANNING_COMPLETED"

_CLOUD_TYPES = {
    "harbor.artifact.pushed": PUSH,
    "harbor.artifact.deleted": "DELETE_ARTIFACT",
    "harbor.artifact.pulled": "PULL_ARTIFACT",
    "harbor.quota.exceeded": "QUOTA_EXCEED",
    "harbor.quota.warned": "QUOTA_WARNING",
    "harbor.scan.completed": SCANNED,
    "harbor.scan.failed": "SCANNING_FAILED",
    "harbor.scan.stopped": "SCANNING_STOPPED",
    "harbor.replication.status.changed": "REPLICATION",
    "harbor.tag_retention.finished": "TAG_RETENTION",
}
TYPES = frozenset(_CLOUD_TYPES.values())
"""The known types of events, as the Default format names them."""

_MAX_RESOURCES = 1000
"""Harbor sends one; a longer list is not one of Harbor's events."""
_MAX_NAME = 100
_POLICY = re.compile(r"/projects/([0-9]{1,15})/")


class Fate(StrEnum):
    """The result of a delivery."""

    QUEUED = "queued"
    """Copies were queued."""
    IGNORED = "ignored"
    """The rules ask for no copy."""
    MALFORMED = "malformed"
    """The body was not one of Harbor's events, or was cut off."""
    UNAUTHORIZED = "unauthorized"
    """The webhook's token was missing or wrong."""
    UNAVAILABLE = "unavailable"
    """The queue could not take the copies."""


class MalformedEvent(ValueError):
    """The body is not one of Harbor's events; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Push:
    """One artifact that was pushed, or scanned.

    Attributes:
        repository: its full name at Harbor, with the project, e.g. ``team/app/api``.
        tag: None if it was pushed by digest. After a scan, the latest of its tags; None for a part of an index.
        digest: of the manifest; None if the event does not say.
        host: Harbor's own name, as ``host`` or ``host:port``; None if the event does not say.
    """

    repository: str
    tag: str | None
    digest: str | None
    host: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        type: as the Default format names it, e.g. ``PUSH_ARTIFACT``.
        pushes: empty for any other type.
        scanned: the scanned artifacts; empty for any other type, or if they can't be read.
        id: the same in all attempts to deliver the event; None in the Default format.
        occurred: when it happened; None if the event does not say.
        project: the id of the project at its Harbor; None in the Default format, which does not say.
    """

    type: str
    pushes: tuple[Push, ...] = ()
    scanned: tuple[Push, ...] = ()
    id: str | None = None
    occurred: datetime | None = None
    project: int | None = None


def parse_event(body: bytes) -> Event:
    """Parse the body of a delivery.

    Raises:
        MalformedEvent: it is not one of Harbor's events, or the push names an impossible repository, tag or digest.
    """
    try:
        content = json.loads(body)
    # A body of nothing but opening brackets makes the parser recurse too deeply.
    except (ValueError, RecursionError):
        raise MalformedEvent("the body is not JSON") from None
    if not isinstance(content, dict):
        raise MalformedEvent("the body is not a JSON object")
    if "specversion" in content:
        return _cloud_event(content)
    if not isinstance(content.get("type"), str):
        raise MalformedEvent("the body has no type: it is in neither of Harbor's formats, Default and CloudEvents")
    occurred = content.get("occur_at")
    return Event(
        _shown(content["type"]),
        *_artifacts(content["type"], content.get("event_data"), "event_data"),
        None,
        _from_seconds(occurred),
    )


def _cloud_event(content: dict[str, Any]) -> Event:
    if not isinstance(content.get("type"), str):
        raise MalformedEvent("the CloudEvent has no type")
    kind = _CLOUD_TYPES.get(content["type"], content["type"])
    identity = content.get("id")
    return Event(
        _shown(kind),
        *_artifacts(kind, content.get("data"), "data"),
        _shown(identity) if isinstance(identity, str) else None,
        _from_text(content.get("time")),
        _project_id(content.get("source")),
    )


def _project_id(source: Any) -> int | None:
    """Read the project of a CloudEvent's source, such as ``/projects/7/webhook/policies/3``."""
    found = _POLICY.match(source) if isinstance(source, str) else None
    return int(found[1]) if found is not None else None


def _artifacts(kind: str, data: Any, where: str) -> tuple[tuple[Push, ...], tuple[Push, ...]]:
    """Read what was pushed, and what was scanned."""
    if kind == PUSH:
        return _pushes(data, where), ()
    scanned: tuple[Push, ...] = ()
    if kind == SCANNED:
        # Nothing is lost without it: what waits for the scan is tried again anyway.
        with contextlib.suppress(MalformedEvent):
            scanned = _pushes(data, where)
    return (), scanned


def _pushes(data: Any, where: str) -> tuple[Push, ...]:
    if not isinstance(data, dict):
        raise MalformedEvent(f"the push has no {where}")
    repository = data.get("repository")
    name = _repository_name(repository if isinstance(repository, dict) else {})
    resources = data.get("resources")
    if not isinstance(resources, list) or not resources:
        raise MalformedEvent(f"the push has no {where}.resources")
    if len(resources) > _MAX_RESOURCES:
        raise MalformedEvent(f"the push has more than {_MAX_RESOURCES} resources")
    return tuple(_push(name, resource, f"{where}.resources[{index}]") for index, resource in enumerate(resources))


def _repository_name(repository: dict[str, Any]) -> str:
    full = repository.get("repo_full_name")
    if not full and repository.get("namespace") and repository.get("name"):
        full = f"{repository['namespace']}/{repository['name']}"
    if not isinstance(full, str) or not is_repository_name(full):
        raise MalformedEvent("the push has no repository.repo_full_name, or it is not the name of a repository")
    return full


def _push(name: str, resource: Any, where: str) -> Push:
    if not isinstance(resource, dict):
        raise MalformedEvent(f"{where} is not an object")
    tag, digest = resource.get("tag") or None, resource.get("digest") or None
    # Harbor puts the digest into "tag" when an artifact is pushed by digest.
    if isinstance(tag, str) and is_digest(tag):
        tag, digest = None, tag
    if tag is not None and not (isinstance(tag, str) and is_tag(tag)):
        raise MalformedEvent(f"{where}.tag is not a tag")
    if digest is not None and not (isinstance(digest, str) and is_digest(digest)):
        raise MalformedEvent(f"{where}.digest is not a digest")
    if tag is None and digest is None:
        raise MalformedEvent(f"{where} has neither tag nor digest")
    # Harbor's name for itself is in the image's address alone, e.g. "harbor.example.com/team/app:v1".
    url = resource.get("resource_url")
    host = url.partition("/")[0].lower() if isinstance(url, str) and "/" in url else None
    return Push(name, tag, digest, _shown(host) if host else None)


def _shown(text: str) -> str:
    """Return a text from outside in a form that is safe in a log or an answer."""
    return "".join(character if character.isprintable() else "?" for character in text[:_MAX_NAME])


def _from_seconds(value: Any) -> datetime | None:
    # To Python, a bool is an int.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _from_text(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


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
