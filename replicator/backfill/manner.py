"""How a backfill goes about its work, as its caller wishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Manner:
    """How a backfill goes about its work.

    Attributes:
        retries: how often a copy that fails is tried again; None for the worker's own patience.
        force: copy also what is at its destination.
        fail_fast: how many copies are queued at once in a run that ends at the first failure, so that little is under
            way then; 0 for one that goes on.
        detach: queue what differs and leave the copying to others.
        since: look only at tags that were set then or later, where Harbor tells; None for all.
        trust: seconds for which a destination that this installation saw to be right is not asked again; None for
            asking each.
    """

    retries: int | None = 2
    force: bool = False
    fail_fast: int = 0
    detach: bool = False
    since: datetime | None = None
    trust: float | None = None
