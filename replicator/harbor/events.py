"""Harbor's webhook payloads, in both formats, read into what a replicator needs to know. No HTTP, no queue.

Formats: "Default" (``{"type", "occur_at", "operator", "event_data"}``) and, from Harbor 2.8, "CloudEvents"
(CloudEvents 1.0, structured mode). Both are read from what they hold, whatever the Content-Type says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from replicator.reference import is_digest, is_repository_name, is_tag

PUSH = "PUSH_ARTIFACT"

_CLOUD_TYPES = {
    "harbor.artifact.pushed": PUSH,
    "harbor.artifact.deleted": "DELETE_ARTIFACT",
    "harbor.artifact.pulled": "PULL_ARTIFACT",
    "harbor.quota.exceeded": "QUOTA_EXCEED",
    "harbor.quota.warned": "QUOTA_WARNING",
    "harbor.scan.completed": "SCANNING_COMPLETED",
    "harbor.scan.failed": "SCANNING_FAILED",
    "harbor.scan.stopped": "SCANNING_STOPPED",
    "harbor.replication.status.changed": "REPLICATION",
    "harbor.tag_retention.finished": "TAG_RETENTION",
}
TYPES = frozenset(_CLOUD_TYPES.values())
"""The types of Harbor's events that are known, as the Default format names them."""

_MAX_RESOURCES = 1000
"""Harbor sends one; a list this long is no event of Harbor's."""
_MAX_NAME = 100


class Fate(StrEnum):
    """What became of a delivery."""

    QUEUED = "queued"
    """Copies were queued for it."""
    IGNORED = "ignored"
    """It asks for nothing that the rules name."""
    MALFORMED = "malformed"
    """It was no event of Harbor's, or did not arrive whole."""
    UNAUTHORIZED = "unauthorized"
    """It had not the webhook's token."""
    UNAVAILABLE = "unavailable"
    """The queue could not take it."""


class MalformedEvent(ValueError):
    """The body is not an event of Harbor's; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Push:
    """Something was pushed.

    Attributes:
        repository: its full name at Harbor, project included, e.g. ``team/app/api``.
        tag: the tag, or None where it was pushed by digest.
        digest: the manifest's digest, where the event names it.
        host: Harbor's name for itself, as ``host`` or ``host:port``, where the event names it.
    """

    repository: str
    tag: str | None
    digest: str | None
    host: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        type: Harbor's name of it in the Default format, e.g. ``PUSH_ARTIFACT``.
        pushes: what was pushed; empty for any other type.
        id: the same over all attempts to deliver it, where the format has one (CloudEvents).
        occurred: when, where the event tells.
    """

    type: str
    pushes: tuple[Push, ...] = ()
    id: str | None = None
    occurred: datetime | None = None


def parse_event(body: bytes) -> Event:
    """Read an event.

    Args:
        body: the request's body, JSON.

    Raises:
        MalformedEvent: it is no event of Harbor's, or a push of something that can't be.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedEvent("the body is not JSON") from None
    if not isinstance(content, dict):
        raise MalformedEvent("the body is not a JSON object")
    if "specversion" in content:
        return _cloud_event(content)
    if not isinstance(content.get("type"), str):
        raise MalformedEvent("the body has no type: neither of Harbor's formats, Default or CloudEvents")
    occurred = content.get("occur_at")
    return Event(
        _shown(content["type"]),
        _pushes(content.get("event_data"), "event_data") if content["type"] == PUSH else (),
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
        _pushes(content.get("data"), "data") if kind == PUSH else (),
        _shown(identity) if isinstance(identity, str) else None,
        _from_text(content.get("time")),
    )


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
        raise MalformedEvent("the push has no repository.repo_full_name that is a repository's name")
    return full


def _push(name: str, resource: Any, where: str) -> Push:
    if not isinstance(resource, dict):
        raise MalformedEvent(f"{where} is not an object")
    tag, digest = resource.get("tag") or None, resource.get("digest") or None
    # A push by digest has the digest where the tag would be.
    if isinstance(tag, str) and is_digest(tag):
        tag, digest = None, tag
    if tag is not None and not (isinstance(tag, str) and is_tag(tag)):
        raise MalformedEvent(f"{where}.tag is not a tag")
    if digest is not None and not (isinstance(digest, str) and is_digest(digest)):
        raise MalformedEvent(f"{where}.digest is not a digest")
    if tag is None and digest is None:
        raise MalformedEvent(f"{where} has neither tag nor digest")
    url = resource.get("resource_url")
    host = url.partition("/")[0].lower() if isinstance(url, str) and "/" in url else None
    return Push(name, tag, digest, _shown(host) if host else None)


def _shown(text: str) -> str:
    """A text from outside as it may stand in a log or an answer."""
    return "".join(character if character.isprintable() else "?" for character in text[:_MAX_NAME])


def _from_seconds(value: Any) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _from_text(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
