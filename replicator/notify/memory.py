"""What the processes of an installation remember of what people were told, and of what is still to be sent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from replicator.notify.message import Message, Occasion

if TYPE_CHECKING:
    from collections.abc import Mapping


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
class Parcel:
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
class Memory:
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
    parcels: tuple[Parcel, ...] = ()

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
    def load(cls, text: bytes) -> Memory:
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


def _parcel(fields: dict[str, Any]) -> Parcel:
    return Parcel(**{**fields, "message": Message.from_json(fields["message"])})
