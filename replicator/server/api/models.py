"""The wire form of the HTTP API: what it takes and answers. The OpenAPI document is generated from these models.

Times are RFC 3339 in UTC; words of states and classes have underscores. An answer may get further fields in a later
version, so a reader ignores what it does not know; what is sent may not have any.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from replicator.console import iso

MAX_NAMES = 1000
"""Destinations in one request to retry or drop failures."""
MAX_PAGE = 500
"""Entries of a page of a list."""
MAX_REFERENCE = 1024
"""Characters of a reference or a pattern."""

Time = Annotated[
    AwareDatetime,
    PlainSerializer(lambda time: iso(time.astimezone(UTC)), return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
ReferenceText = Annotated[str, Field(min_length=1, max_length=MAX_REFERENCE)]


class Answer(BaseModel):
    """An answer of the API."""

    model_config = ConfigDict(populate_by_name=True, frozen=True)


class Question(BaseModel):
    """The content of a request: an unknown name is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class State(StrEnum):
    """State of an image at a destination."""

    IN_PLACE = "in_place"
    """The destination's tag names what the rule wants of the source's tag."""
    QUEUED = "queued"
    """A copy waits for a worker."""
    RUNNING = "running"
    """A copy runs."""
    WAITING = "waiting"
    """A copy failed and waits for its retry, or for a registry that does not answer."""
    REFUSED = "refused"
    """A copy failed for good: a dead letter."""
    MISSING = "missing"
    """The source has the image, the destination has it not, and nothing is on its way."""
    SKIPPED = "skipped"
    """A rule names the image, but it or its destination leaves it out; nothing will be copied."""
    NO_RULE = "no_rule"
    """No rule names the image."""
    NO_SOURCE = "no_source"
    """The source has no such image."""


WORST_FIRST = (
    State.REFUSED,
    State.MISSING,
    State.WAITING,
    State.RUNNING,
    State.QUEUED,
    State.NO_SOURCE,
    State.SKIPPED,
    State.IN_PLACE,
)
"""The state of an image as a whole is the first of these that one of its destinations has."""


class ErrorWord(StrEnum):
    """Class of a failure: what it means for the next attempt."""

    TRANSIENT = "transient"
    NOT_YET = "not_yet"
    CREDENTIALS = "credentials"
    PERMANENT = "permanent"


class Failure(Answer):
    """The last failure of a copy: what happened, why, and what to do."""

    error_class: ErrorWord = Field(alias="class")
    what: str
    why: str
    do: str
    at: Time
    attempts: int = Field(ge=0, description="failed attempts")


class Job(Answer):
    """A copy that is on its way."""

    lane: Literal["events", "backfill"]
    attempt: int = Field(ge=0, description="number of the running or last attempt; 0 before the first")
    bytes: int = Field(ge=0, description="bytes that the running attempt has read from the source so far")
    size: int | None = Field(None, description="bytes to read in all, as far as known by now")
    seconds_left: int | None = Field(None, description="estimate for the rest, at the mean rate so far")
    due: Time | None = Field(None, description="time of the next attempt of a waiting copy")
    queued: Time | None = Field(None, description="time of the last request for this copy")
    paused: bool = Field(default=False, description="true if a person has paused it")


class ImageAtDestination(Answer):
    """An image at one destination."""

    destination: str
    rule: str
    state: State
    digest: str | None = Field(None, description="digest of the destination's tag, if known")
    since: Time | None = Field(None, description="time since which this state is certain")
    job: Job | None = None
    failure: Failure | None = None
    note: str = Field("", description="reason for skipping it")


class Image(Answer):
    """An image at the source, and its state at every destination that the rules name."""

    source: str
    digest: str | None = Field(None, description="digest of the source's tag, if known")
    state: State = Field(description="the worst state of the images; no_rule or no_source if there are none")
    reason: str | None = Field(None, description="reason why no rule matches it")
    asked: bool = Field(
        default=False, description="true if the registries were asked for this answer; false if it comes from memory"
    )
    images: list[ImageAtDestination] = []


class ImageQuery(Question):
    """The query of an image."""

    destination: ReferenceText | None = Field(None, description="only this destination")
    fresh: bool = Field(
        default=False, description="ask the registries even if the answer is in memory, e.g. right after a push"
    )


class DeadCopy(Failure):
    """A copy that failed for good, and is not retried by itself."""

    source: str
    destination: str
    rule: str
    lane: Literal["events", "backfill"]
    first: Time = Field(description="the first failure; `at` is the last")


class Failures(Answer):
    """A page of the copies that failed for good."""

    failures: list[DeadCopy]
    total: int = Field(ge=0, description="number on all pages")
    cursor: str | None = Field(None, description="cursor of the next page; null at the end")


class FailuresQuery(Question):
    """Which page of failures."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE, description="approximate number of entries")] = 100
    cursor: Annotated[str, Field(max_length=20, pattern="^[0-9]{1,20}$")] | None = Field(
        None, description="`cursor` of the previous page"
    )


class EndedCopy(Answer):
    """A copy that ended lately."""

    at: Time
    source: str = Field(description="empty if it was lost, like the rule")
    destination: str
    rule: str
    lane: Literal["events", "backfill"]
    result: str = Field(description="result in a word or two: `copied`, `up to date`, `skipped`, `given up`, ...")
    note: str = Field("", description="the reason for the result, if the result does not say it")
    failure: Failure | None = Field(None, description="error of a copy that is no longer retried")
    bytes: int = Field(ge=0, description="sent")
    seconds: float = Field(ge=0, description="duration of the last attempt")
    lag: float | None = Field(None, description="seconds from the push to the end, if known")
    attempts: int = Field(ge=0)
    replaced: str = Field("", description="previous digest of the destination, if it was another one")


class Copies(Answer):
    """A page of the copies that ended lately, the newest first."""

    copies: list[EndedCopy]
    cursor: str | None = Field(None, description="cursor of the next page; null at the end")


class CopiesQuery(Question):
    """Which copies."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE, description="approximate number of entries")] = 100
    cursor: Annotated[str, Field(max_length=20, pattern="^[0-9]{1,20}$")] | None = Field(
        None, description="`cursor` of the previous page"
    )
    source: ReferenceText | None = Field(None, description="only sources that begin with this text")
    destination: ReferenceText | None = Field(None, description="only destinations that begin with this text")
    rule: ReferenceText | None = Field(None, description="only of this rule")
    lane: Literal["events", "backfill"] | None = Field(None, description="only of this lane")
    result: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        None, description="only with this result"
    )
    failed: bool | None = Field(
        None, description="true: only failed copies that are no longer retried; false: only the others"
    )


class RunningReconcile(Answer):
    """A reconcile that runs."""

    since: Time
    host: str
    listed: int = Field(ge=0, description="tags listed so far")
    done: int = Field(ge=0, description="tags compared so far")


class Reconcile(Answer):
    """A reconcile that was asked for."""

    asked: bool = Field(description="false if one was requested already and has not begun")
    running: RunningReconcile | None = Field(None, description="the running reconcile; the new one begins after it")


class Selected(Question):
    """Which failures: by destination, or all of them."""

    destinations: Annotated[list[ReferenceText], Field(max_length=MAX_NAMES)] = []
    all: bool = False


class Done(Answer):
    """Destinations whose failures were retried or dropped; of many the first ones."""

    number: int = Field(ge=0)
    destinations: Annotated[list[str], Field(max_length=MAX_NAMES)]


class CopyNow(Question):
    """An image to copy now."""

    source: ReferenceText
    destination: ReferenceText | None = Field(None, description="only this one of the destinations in the rules")


class Queued(Answer):
    """Copies that were queued."""

    queued: list[QueuedCopy]


class QueuedCopy(Answer):
    """One of them."""

    source: str
    destination: str
    rule: str


class Problem(Answer):
    """An error, as RFC 9457 has it, with the three parts that every error of the replicator has."""

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="what, why and do in one line")
    what: str
    why: str = ""
    do: str = ""


Queued.model_rebuild()


def to_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON values."""
    return answer.model_dump(mode="json", by_alias=True)


def utc(time: datetime | None) -> datetime | None:
    """Return a time in UTC."""
    return None if time is None else time.astimezone(UTC)
