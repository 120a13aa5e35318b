"""The wire form of events: CloudEvents 1.0 in JSON. The AsyncAPI document is generated from these models.

Times are RFC 3339 in UTC; words have underscores. An event may get further fields in a later version, so a reader
ignores what it does not know.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic.json_schema import models_json_schema

from replicator import __version__
from replicator.errors import ErrorClass, ErrorText
from replicator.queue import ReconcileResult
from replicator.queue.outbox import EventType
from replicator.queue.records import milliseconds
from replicator.server.api.models import Answer, ErrorWord, Time

if TYPE_CHECKING:
    from pydantic import BaseModel

    from replicator.queue.outbox import OutboxEntry

RECONCILE = "reconcile"
"""The subject of events about reconciles."""


class _Copy(Answer):
    """The fields of every event about a copy."""

    source: str = Field(description="reference of the image at the source; empty if it is no longer known")
    destination: str = Field(description="reference of the image at the destination")
    rule: str = Field(description="the rule that requested the copy; empty if it is no longer known")
    lane: Literal["events", "backfill"] = Field(
        description="`events` for a push, `backfill` for a backfill or reconcile"
    )
    attempts: int = Field(ge=1)
    seconds: float = Field(ge=0, description="duration of the last attempt")
    pushed: Time | None = Field(None, description="time of the push that requested it, by Harbor's clock")


class CopiedData(_Copy):
    """The destination's tag names the image."""

    digest: str | None = Field(description="digest of the destination's tag")
    replaced: str | None = Field(None, description="digest of the image that it pointed to before")
    bytes: int = Field(ge=0, description="bytes that were sent")
    lag: float | None = Field(None, description="seconds from the push to the end of the copy")
    note: str = Field("", description="warnings")


class FailedData(_Copy):
    """The copy failed, and is not retried automatically."""

    error_class: ErrorWord = Field(alias="class")
    what: str
    why: str
    do: str


class ReconciledData(Answer):
    """A scheduled reconcile has ended."""

    started: Time
    ended: Time
    host: str
    complete: bool = Field(description="true if everything was compared and every difference was queued")
    listed: int = Field(ge=0, description="tags that match the rules; the sum of the next six")
    up_to_date: int = Field(ge=0)
    drift: int = Field(ge=0, description="tags that differed without an event, and are queued")
    pending: int = Field(ge=0)
    skipped: int = Field(ge=0)
    failed: int = Field(ge=0)
    held: int = Field(ge=0, description="tags that wait for an approval")
    unlisted: int = Field(ge=0, description="repositories, projects and patterns that could not be listed")
    lost: int = Field(ge=0, description="tags that were in place before and are missing")
    error: str | None = Field(description="reason why it failed as a whole")


class _Event(Answer):
    """A CloudEvent."""

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(description="the same in every delivery of this event; also the header webhook-id")
    source: str = Field(description="the installation")
    subject: str
    time: Time = Field(description="when it happened, by Redis's clock")
    datacontenttype: Literal["application/json"] = "application/json"


class ImageCopied(_Event):
    """A destination's tag names the image now."""

    type: Literal[EventType.COPIED] = EventType.COPIED
    data: CopiedData


class ImageFailed(_Event):
    """A copy failed, and is not retried automatically."""

    type: Literal[EventType.FAILED] = EventType.FAILED
    data: FailedData


class ImageUpToDate(_Event):
    """A copy had nothing to do: the destination's tag named the image already."""

    type: Literal[EventType.UP_TO_DATE] = EventType.UP_TO_DATE
    data: CopiedData


class ReconcileFinished(_Event):
    """A scheduled reconcile has ended."""

    type: Literal[EventType.RECONCILED] = EventType.RECONCILED
    data: ReconciledData


Event = ImageCopied | ImageFailed | ImageUpToDate | ReconcileFinished
EVENTS: dict[EventType, type[Event]] = {
    EventType.COPIED: ImageCopied,
    EventType.FAILED: ImageFailed,
    EventType.UP_TO_DATE: ImageUpToDate,
    EventType.RECONCILED: ReconcileFinished,
}


def event_of(entry: OutboxEntry, source: str) -> Event | None:
    """Return the event of an entry of the outbox; None of one that a newer version has put there.

    Args:
        entry: what ended.
        source: the installation.
    """
    end = entry.end
    if isinstance(end, ReconcileResult):
        started = milliseconds(end.started)
        facts = {"id": _id(entry.type, RECONCILE, started), "source": source, "subject": RECONCILE, "time": entry.at}
        return ReconcileFinished(**facts, data=_reconciled(end))
    if end is None or entry.type not in EVENTS:
        return None
    # A repetition tells of the same arrival. Without a push the time tells one arrival of a digest from the next.
    when = milliseconds(end.pushed if end.pushed is not None and entry.type != EventType.FAILED else entry.at)
    facts = {
        "id": _id(entry.type, end.id, f"{end.digest} {when}"),
        "source": source,
        "subject": end.id,
        "time": entry.at,
    }
    copy = {
        "source": end.source,
        "destination": end.id,
        "rule": end.rule,
        "lane": end.lane.value,
        "attempts": max(1, end.tries),
        "seconds": end.seconds,
        "pushed": end.pushed,
    }
    if entry.type == EventType.FAILED:
        text = ErrorText.parse(end.note)
        word = ErrorWord((end.error_class or ErrorClass.PERMANENT).replace(" ", "_"))
        return ImageFailed(**facts, data=FailedData(**copy, error_class=word, what=text.what, why=text.why, do=text.do))
    data = CopiedData(
        **copy, digest=end.digest or None, replaced=end.replaced or None, bytes=end.bytes, lag=end.lag, note=end.note
    )
    return ImageCopied(**facts, data=data) if entry.type == EventType.COPIED else ImageUpToDate(**facts, data=data)


def encode(event: Event) -> bytes:
    """Return the JSON of an event."""
    return json.dumps(event.model_dump(mode="json", by_alias=True), ensure_ascii=False).encode()


def _id(kind: str, subject: str, occurrence: object) -> str:
    return "msg_" + hashlib.sha256(f"{kind}\0{subject}\0{occurrence}".encode()).hexdigest()[:32]


def _reconciled(result: ReconcileResult) -> ReconciledData:
    found = result.findings
    names = ("listed", "up_to_date", "drift", "pending", "skipped", "failed", "held", "unlisted", "lost")
    return ReconciledData(
        started=result.started,
        ended=result.ended,
        host=result.host,
        complete=found.complete,
        error=str(ErrorText.parse(found.error or "")) or None,
        **{name: max(0, getattr(found, name)) for name in names},
    )


_HEADERS = {
    "webhook-id": "identifier of the event, the same in every delivery; ignore one that you have seen",
    "webhook-timestamp": "time of this delivery in seconds since 1970; refuse one that is minutes old",
    "webhook-signature": "`v1,` and the Base64 of the HMAC-SHA256 of `ID.TIMESTAMP.BODY`, with the secret as the key",
}


def document() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document: the events that a receiver gets."""
    wanted: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        (model, "serialization") for model in EVENTS.values()
    ]
    _, schemas = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    headers = {name: {"type": "string", "description": text} for name, text in _HEADERS.items()}
    messages = {
        kind.value: {
            "name": kind.value,
            "summary": (model.__doc__ or "").strip(),
            "contentType": "application/cloudevents+json",
            "headers": {"type": "object", "required": list(headers), "properties": headers},
            "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
        }
        for kind, model in EVENTS.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "replicator",
            "version": __version__,
            "description": "Events that replicator posts to the receivers in REPLICATOR_EVENTS_URL.",
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {
            "receiver": {
                "description": "The address of a receiver: one POST for each event; any 2xx accepts it.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
            }
        },
        "operations": {
            "send": {
                "action": "send",
                "channel": {"$ref": "#/channels/receiver"},
                "messages": [{"$ref": f"#/channels/receiver/messages/{name}"} for name in messages],
                "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
            }
        },
        "components": {"messages": messages, "schemas": schemas["$defs"]},
    }
