"""The contests of backfills: cold, warm, drift and fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.backfill import contenders
from benchmarks.backfill.content import before_changes, tags_of
from benchmarks.backfill.contest import Contest

if TYPE_CHECKING:
    from benchmarks.backfill.content import Content

_ONE_IN = 100
"""Of so many tags one has changed, in drift."""


def cold(held: Content, share: int | None = None) -> Contest:
    """To an empty registry.

    Args:
        held: what Harbor holds.
        share: repositories that skopeo is given at the most: it brings one image after another, and takes a quarter of
            an hour for ten thousand. None for all.
    """
    return Contest(
        "cold",
        f"cold: {_size(held)}, nothing of it at the destination",
        before={},
        changes=True,
        contenders=[
            contenders.replicator(),
            contenders.skopeo_sync(share),
            *contenders.crane_copy(),
            *contenders.regsync(),
        ],
    )


def warm(held: Content) -> Contest:
    """To a registry that holds everything already."""
    return Contest(
        "warm",
        f"warm: {_size(held)}, all of it at the destination already",
        before=held,
        changes=False,
        contenders=[
            contenders.replicator("replicator, no state"),
            contenders.replicator_again("replicator, again"),
            contenders.skopeo_sync(),
            *contenders.crane_copy(),
            *contenders.regsync(),
        ],
    )


def drift(held: Content) -> Contest:
    """To a registry that holds what Harbor held before one tag in a hundred was pushed again."""
    return Contest(
        "drift",
        f"drift: {_size(held)}, one in {_ONE_IN} has changed since it was copied",
        before=before_changes(held, _ONE_IN),
        changes=True,
        contenders=[contenders.replicator()],
    )


def fast(held: Content) -> Contest | None:
    """To a registry that holds everything, with trust in what was seen before; None where the program has no such."""
    option = "--fast"
    if not contenders.knows(option):
        return None
    return Contest(
        "fast",
        f"fast: {_size(held)}, all of it copied or found in place by a backfill just before",
        before=held,
        changes=False,
        contenders=[
            contenders.replicator_again(f"replicator {option}", option),
            contenders.replicator_again("replicator, again"),
        ],
    )


def _size(held: Content) -> str:
    return f"{len(held)} repositories, {tags_of(held)} tags"
