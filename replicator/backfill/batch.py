"""What a listing gives out, a part at a time. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from replicator.errors import ReplicatorError
    from replicator.rules import Asked, Collision


@dataclass(frozen=True, slots=True)
class Found:
    """One copy the rules ask for.

    Attributes:
        asked: the copy, and who asks for it.
        digest: what the source's tag names according to the list; None where no list said so.
        size: bytes of the image with all its parts; None where it is not known.
        pushed: when the tag was set, UTC; None where it is not known.
    """

    asked: Asked
    digest: str | None = None
    size: int | None = None
    pushed: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A copy that is not made, as another source is on its way to the same destination.

    Attributes:
        asked: the copy, and who asks for it.
        collision: its destination, and every source that is known to be on its way there.
    """

    asked: Asked
    collision: Collision


@dataclass(frozen=True, slots=True)
class Batch:
    """A part of what a listing finds: some tags of one repository, or what could not be listed.

    Attributes:
        what: the repository; of what could not be listed, that, its project or the pattern that names it.
        found: the copies that are meant.
        refused: copies that are meant and would overwrite each other.
        error: why it could not be listed; None when it could.
        warnings: what was listed in another way than it could have been, and why.
    """

    what: str
    found: tuple[Found, ...] = ()
    refused: tuple[Refused, ...] = ()
    error: ReplicatorError | None = None
    warnings: tuple[str, ...] = ()
