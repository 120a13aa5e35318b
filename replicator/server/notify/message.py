"""What is told: one message, before it takes the form that a receiver understands.

What the processes of an installation remember of what people were told, and of what is still to be sent.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_CHARACTERS = 1000


class Occasion(StrEnum):
    """What a message is about."""

    DEAD_LETTERS = "dead_letters"
    """Copies were given up."""
    LAG = "lag"
    """Copies wait for longer than the settings allow."""
    DRIFT = "drift"
    """A reconcile found what no event had told of."""
    RECONCILE = "reconcile"
    """A reconcile failed, or could not compare everything."""
    CONFIGURATION = "configuration"
    """Changed files can't be used."""
    TEST = "test"
    """Someone tries whether messages arrive."""


class MessageState(StrEnum):
    """What a message says of its occasion."""

    TROUBLE = "trouble"
    RECOVERED = "recovered"
    """What was told as trouble is over."""
    NEWS = "news"
    """Nothing that lasts."""


@dataclass(frozen=True, slots=True)
class Example:
    """One of the things that a message is about: what it is, and what is wrong with it. Both are foreign words."""

    subject: str
    reason: str

    @classmethod
    def of(cls, subject: str, reason: str) -> Example:
        """Make one that takes bounded room."""
        return cls(subject[:_MOST_CHARACTERS], reason[:_MOST_CHARACTERS])


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        id: tells it from all others.
        occasion: what it is about.
        state: what it says of that.
        title: the sentence that says all; without foreign words.
        at: when it was made, in milliseconds since 1970 by Redis's clock.
        since: when what it tells of began, in the same way; None where that says nothing.
        count: of how many things it tells; None where there is nothing to count.
        examples: the first of them.
        advice: what to do, a sentence each.
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

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Message:
        """Read what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        return cls(
            id=str(fields["id"]),
            occasion=Occasion(fields["occasion"]),
            state=MessageState(fields["state"]),
            title=str(fields["title"]),
            at=int(fields["at"]),
            since=None if fields["since"] is None else int(fields["since"]),
            count=None if fields["count"] is None else int(fields["count"]),
            examples=tuple(Example(str(each["subject"]), str(each["reason"])) for each in fields["examples"]),
            advice=tuple(str(each) for each in fields["advice"]),
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """Who tells it.

    Attributes:
        name: of the installation.
        status: address of its status page; None where that is not known.
    """

    name: str
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What was last told of an occasion. Times are in milliseconds since 1970 by Redis's clock.

    Attributes:
        mark: tells the trouble from another; None when it is over.
        since: when it began.
        at: when people were told of it.
    """

    mark: str | None
    since: int
    at: int


@dataclass(frozen=True, slots=True)
class PendingMessage:
    """A message on its way to one receiver. Times are as above.

    Attributes:
        receiver: the receiver's key.
        message: what it gets.
        until: when it is given up.
        due: when it is sent, or tried again.
        tries: how often it was tried.
    """

    receiver: str
    message: Message
    until: int
    due: int = 0
    tries: int = 0


@dataclass(frozen=True, slots=True)
class NotifyState:
    """All of it.

    Attributes:
        mark: of the newest dead letter that was told of.
        gathering: since when there are dead letters that were not; None when there are none.
        told: what was last told, by occasion.
        parcels: what is still to be sent, the oldest first.
    """

    mark: int = 0
    gathering: int | None = None
    told: Mapping[Occasion, Told] = field(default_factory=lambda: MappingProxyType({}))
    parcels: tuple[PendingMessage, ...] = ()

    def dump(self) -> bytes:
        """Write it down."""
        return json.dumps(
            {
                "mark": self.mark,
                "gathering": self.gathering,
                "told": {str(occasion): asdict(told) for occasion, told in self.told.items()},
                "parcels": [{**asdict(parcel), "message": parcel.message.to_json()} for parcel in self.parcels],
            }
        ).encode()

    @classmethod
    def load(cls, text: bytes) -> NotifyState:
        """Read what was written down; what another version of this program wrote and is not understood is nothing."""
        try:
            fields = json.loads(text)
            return cls(
                mark=int(fields["mark"]),
                gathering=None if fields["gathering"] is None else int(fields["gathering"]),
                told={Occasion(name): Told(**told) for name, told in fields["told"].items()},
                parcels=tuple(_parcel(each) for each in fields["parcels"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()


def _parcel(fields: dict[str, Any]) -> PendingMessage:
    return PendingMessage(**{**fields, "message": Message.from_json(fields["message"])})
