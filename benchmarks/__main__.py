"""``python -m benchmarks [copy|backfill|queue] ...``: measure, and print a table each; all without a name."""

from __future__ import annotations

import asyncio
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from benchmarks import backfill, copy, queue
from benchmarks.contest import hold
from benchmarks.measuring import RunFailed
from benchmarks.table import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.contest import Contest

_MIB = 2**20
_SMALL = 4 * _MIB
"""Bytes of an image whose requests are only counted."""
_MEMORY = Path("/dev/shm")
_WIDTH = 110
"""Columns of a table, on a terminal and elsewhere."""


class Name(StrEnum):
    """What can be measured: the contests with other programs, and the queue by itself."""

    COPY = "copy"
    BACKFILL = "backfill"
    QUEUE = "queue"


def main(
    names: Annotated[list[Name] | None, typer.Argument(help="What to measure; all when none is named.")] = None,
    size: Annotated[int, typer.Option(min=1, help="MiB of the image of copy.")] = 1024,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each program.")] = 5,
    tags: Annotated[int, typer.Option(min=1, help="Tags of backfill.")] = 40,
    base: Annotated[int, typer.Option(min=1, help="MiB that the tags of backfill share.")] = 32,
    storage: Annotated[
        Path | None, typer.Option(help="Where the registries keep their content; in memory when nothing is said.")
    ] = None,
) -> None:
    """Time the replicator beside skopeo, curl and, where they are on PATH, crane and regctl; and the queue alone."""
    contests: dict[Name, tuple[Callable[[int], Contest], int]] = {
        Name.COPY: (copy.contest, size * _MIB),
        Name.BACKFILL: (partial(backfill.contest, tags), base * _MIB),
    }
    place = storage or (_MEMORY if _MEMORY.is_dir() else None)
    console = Console(width=_WIDTH)
    for name in names or list(Name):
        try:
            if name is Name.QUEUE:
                console.print(queue.measure())
                continue
            make, volume = contests[name]
            timed = make(volume)
            standings = asyncio.run(hold(timed, make(_SMALL), runs, place))
        except RunFailed as error:
            sys.exit(f"{name}: {error}")
        console.print(table(timed, standings))


if __name__ == "__main__":
    typer.run(main)
