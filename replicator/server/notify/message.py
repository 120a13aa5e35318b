"""Notification messages, and the shared state about them in Redis.

A `Message` says what happened; `replicator.server.notify.formats` writes it for each receiver. `NotifyState` is stored
as JSON and may be read by an older or newer version of this program: unknown fields are ignored.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

from replicator.errors import ErrorText, bounded_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from replicator.queue import Cause, Complaint, WaitingJob

_MAX_CHARACTERS = 1000
_MAX_PART = 400
"""Characters of each line of a reason."""


class Occasion(StrEnum):
    """The occasion of a message."""

    DEAD_LETTERS = "dead_letters"
    """Copies failed and are not retried automatically."""
    LAG = "lag"
    """Copies wait for longer than the settings allow."""
    DRIFT = "drift"
    """A reconcile found images that were out of date without a webhook event."""
    LOST = "lost"
    """Images were in place at their destination, and were missing: the registry may have been emptied or replaced."""
    RECONCILE = "reconcile"
    """A reconcile failed, or could not compare everything."""
    CONFIGURATION = "configuration"
    """Changed files can't be used."""
    SILENCE = "silence"
    """A registry does not answer, and copies wait for it."""
    PUBLIC = "public"
    """Images that are private at their source are public at their destination."""
    STATE_DIRECTORY = "state_directory"
    """The embedded queue can't keep anything: its disk is full, or its directory was deleted."""
    TEST = "test"
    """``replicator notify test``."""


RECOVERED = {
    Occasion.DEAD_LETTERS: "replicator: recovered: no dead letters left",
    Occasion.LAG: "replicator: recovered: copies are on time again",
    Occasion.RECONCILE: "replicator: recovered: the last reconcile compared everything",
    Occasion.PUBLIC: "replicator: recovered: no private image is public at its destination",
    Occasion.CONFIGURATION: "replicator: recovered: the current configuration is in use everywhere",
}
"""Titles of the messages that a problem is over."""


class MessageState(StrEnum):
    """The state of its occasion that a message reports."""

    TROUBLE = "trouble"
    RECOVERED = "recovered"
    """The reported problem is over."""
    NEWS = "news"
    """Something that happened once and does not last."""


@dataclass(frozen=True, slots=True)
class Example:
    """One of the things that a message is about, and what is wrong with it. Both may be text from outside.

    Attributes:
        subject: its name.
        reason: as `replicator.errors.ErrorText.stored`.
        count: how many things of the message have this reason.
    """

    subject: str
    reason: str
    count: int = 1

    @classmethod
    def of(cls, subject: str, reason: str, count: int = 1) -> Example:
        """Make one of bounded size, from any text."""
        return cls(bounded_line(subject, _MAX_CHARACTERS), ErrorText.parse(reason).bounded(_MAX_PART).stored, count)


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Times are milliseconds since 1970 by Redis's clock.

    Attributes:
        id: identifies it; the same if it is sent again.
        title: one sentence that says everything important, without text from outside.
        at: when it was made.
        since: when what it reports began; None if that means nothing.
        count: how many things it is about; None if there is nothing to count.
        examples: the first few of them.
        advice: what to do, one sentence each.
    """

    id: str
    occasion: Occasion
    state: MessageState
    title: str
    at: int
    since: int | None = None
    count: int | None = None
    examples: tuple[Example, ...] = ()
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """The sender of a message: the name of the installation, and the address of its status page if that is known."""

    name: str
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """The last report about an occasion. Times are milliseconds since 1970 by Redis's clock.

    Attributes:
        mark: identifies the problem; None once it is over.
        since: when it began.
        at: when it was reported.
    """

    mark: str | None
    since: int
    at: int


@dataclass(frozen=True, slots=True)
class PendingMessage:
    """A message that one receiver has not got yet. Times are milliseconds since 1970 by Redis's clock.

    Attributes:
        receiver: the receiver's key.
        message: the message.
        until: when it is dropped.
        due: when it is sent, or retried.
        tries: failed attempts so far.
    """

    receiver: str
    message: Message
    until: int
    due: int = 0
    tries: int = 0


@dataclass(frozen=True, slots=True)
class NotifyState:
    """The state that the next process needs to continue.

    Attributes:
        mark: of the newest dead letter that was reported.
        gathering: since when there are unreported ones; None if there are none.
        reported: the last report about each occasion.
        pending: messages still to be sent, the oldest first.
    """

    mark: int
    gathering: int | None
    reported: dict[Occasion, Reported]
    pending: tuple[PendingMessage, ...]

    def reported_lately(self, occasion: Occasion, now: int, timing: NotifyTiming) -> bool:
        """Tell whether a problem of this kind was reported so recently that another one has to wait."""
        last = self.reported.get(occasion)
        # A clock that was set back must not silence us for longer than one pause.
        return last is not None and 0 <= now - last.at < timing.pause * 1000

    def reports_dead_letters(self, now: int, timing: NotifyTiming) -> bool:
        """Tell whether new dead letters, if there are any, have been gathered for long enough to be reported."""
        gathering = now if self.gathering is None else min(self.gathering, now)
        return now - gathering >= timing.gather * 1000 and not self.reported_lately(Occasion.DEAD_LETTERS, now, timing)

    def dump(self) -> bytes:
        """Return it as JSON."""
        stored = {_KEYS[name]: value for name, value in asdict(self).items()}
        # An older version can't read an unknown word, so such a value is stored under a key of its own.
        told, parcels = stored["told"], stored["parcels"]
        if told_more := {name: value for name, value in told.items() if name in _NEWER}:
            stored |= {"told": {name: told[name] for name in told if name not in _NEWER}, "told_more": told_more}
        if parcels_more := [each for each in parcels if each["message"]["occasion"] in _NEWER]:
            stored |= {"parcels": [each for each in parcels if each not in parcels_more], "parcels_more": parcels_more}
        return json.dumps(stored).encode()

    @classmethod
    def load(cls, text: bytes) -> NotifyState:
        """Read what `dump` wrote; an empty state if it can't be read, at the price of reporting something twice."""
        try:
            stored = json.loads(text)
            stored["told"] = {**stored["told"], **stored.get("told_more", {})}
            stored["parcels"] = [*stored["parcels"], *stored.get("parcels_more", [])]
            return _adapter().validate_python({name: stored[key] for name, key in _KEYS.items()})
        except (ValueError, KeyError, TypeError):
            return EMPTY


EMPTY = NotifyState(mark=0, gathering=None, reported={}, pending=())
"""Nothing reported, nothing to send."""
_KEYS = {"mark": "mark", "gathering": "gathering", "reported": "told", "pending": "parcels"}
"""The keys of the fields in JSON, where older versions of this program look for them."""
_NEWER = frozenset({Occasion.SILENCE, Occasion.LOST, Occasion.PUBLIC})
"""Occasions that older versions do not know."""


@cache
def _adapter() -> TypeAdapter[NotifyState]:
    # Imported here: a process without receivers does not need pydantic for this.
    from pydantic import TypeAdapter

    return TypeAdapter(NotifyState)


@dataclass(frozen=True, slots=True)
class NotifyTiming:
    """When to report something, in seconds.

    Attributes:
        late: how long a copy waits, or keeps failing, before it is reported.
        gather: how long dead letters are gathered, from the first one on.
        pause: between two reports of problems with the same occasion. A recovery is reported at once.
        silence: how long a registry does not answer before it is reported.
    """

    late: float = 900.0
    gather: float = 60.0
    pause: float = 600.0
    silence: float = 15.0


@dataclass(frozen=True, slots=True)
class Lateness:
    """How long copies of pushed images have been waiting.

    Attributes:
        seconds: since the oldest was due but did not start, or began to fail; 0 if none is late.
        failing: how many of them wait for a retry.
        examples: the oldest of those.
        workers: how many processes copy.
    """

    seconds: float
    failing: int = 0
    examples: tuple[Example, ...] = ()
    workers: int = 0


def waiting_example(job: WaitingJob) -> Example:
    """Name a job that waits for a retry, with its last failure."""
    attempts = "1 attempt" if job.tries == 1 else f"{job.tries} attempts"
    return Example.of(job.id, f"{job.error_class}, {attempts}: {job.message}")


def cause_example(cause: Cause) -> Example:
    """Name the first dead letter of a cause and how many more have it, with its reason."""
    subject = str(cause.examples[0]) if cause.examples else cause.where
    if cause.count > 1:
        subject = f"{cause.count:,} copies, one reason, e.g. {subject}"
    return Example.of(subject, f"{cause.error_class}: {cause.text.stored}", cause.count)


def configuration_example(error: str, complaints: tuple[Complaint, ...]) -> Example:
    """Name the hosts that complain of an error, with its words."""
    hosts = sorted({complaint.host for complaint in complaints if complaint.text == error})
    return Example.of(f"on {', '.join(hosts)}", error)
