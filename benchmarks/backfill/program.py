"""Measures backfills, and prints a table for each contest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.backfill import contests, memory
from benchmarks.backfill.content import content
from benchmarks.backfill.holding import hold
from benchmarks.backfill.stage import stage
from benchmarks.backfill.table import requests_table, table
from benchmarks.measuring import RunFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from benchmarks.backfill.content import Content
    from benchmarks.backfill.contest import Contest

MEMORY = "memory"
"""The name of what is no contest."""
_TIMES = 10
"""So many more tags memory takes the second time."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is copied.

    Attributes:
        repositories: of Harbor.
        tags: in all of them.
        skopeo_repositories: what skopeo gets of them in cold, at the most.
    """

    repositories: int
    tags: int
    skopeo_repositories: int


async def measure_all(
    names: Sequence[str], size: Size, runs: int, storage: Path | None, console: Console, *, requests: bool
) -> None:
    """Measure, and print each table as soon as it is known.

    Args:
        names: of contests, or `MEMORY`.
        size: how much is copied.
        runs: rounds of the contests.
        storage: where the registries keep their content; None for the system's temporary directory.
        console: where the tables go.
        requests: print too what the requests are.

    Raises:
        RunFailed: a program failed, or did not bring everything.
        ValueError: there are fewer tags than repositories.
    """
    contested = [name for name in names if name != MEMORY]
    if contested:
        held = content(size.repositories, size.tags)
        async with stage(held, storage) as registries:
            for name in contested:
                contest = _contest(name, held, size.skopeo_repositories)
                if contest is None:
                    console.print(f"{name}: left out, this program does not know it")
                    continue
                try:
                    standings = await hold(registries, held, contest, runs)
                except RunFailed as error:
                    raise RunFailed(f"{name}: {error}") from error
                console.print(table(contest, standings))
                if requests:
                    console.print(requests_table(contest.title, standings))
    if MEMORY in names:
        taken = await memory.take(size.repositories, [size.tags, _TIMES * size.tags])
        console.print(memory.table(taken))
        if requests:
            console.print(requests_table(memory.TITLE, [one.standing for one in taken]))


def _contest(name: str, held: Content, skopeo_repositories: int) -> Contest | None:
    match name:
        case "cold":
            return contests.cold(held, skopeo_repositories)
        case "warm":
            return contests.warm(held)
        case "drift":
            return contests.drift(held)
        case "fast":
            return contests.fast(held)
    raise ValueError(f"there is no contest {name!r}")
