"""How a backfill goes about its work, as its caller wishes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Manner:
    """How a backfill goes about its work.

    Attributes:
        retries: how often a copy that fails is tried again; None for the worker's own patience.
        force: copy also what is at its destination.
        fail_fast: how many copies are queued at once in a run that ends at the first failure, so that little is under
            way then; 0 for one that goes on.
        detach: queue what differs and leave the copying to others.
    """

    retries: int | None = 2
    force: bool = False
    fail_fast: int = 0
    detach: bool = False
