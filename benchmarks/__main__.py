"""``python -m benchmarks [NAME ...]``: measure, and print a table each; all without a name."""

from __future__ import annotations

import asyncio
import random
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop
from rich.console import Console

from benchmarks import chaos, contests, failover, queue, start
from benchmarks.backfill.program import Size, measure_all
from benchmarks.holding import hold
from benchmarks.line import program as line
from benchmarks.line.place import Terms
from benchmarks.line.rows import ROWS
from benchmarks.measuring import RunFailed
from benchmarks.soak import program
from benchmarks.table import requests_table, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from benchmarks.contest import Contest

_MIB = 2**20
_SMALL = 4 * _MIB
"""Bytes where requests are only counted, and bytes would only cost time."""
_LAYER = 400_000
"""Bytes of a layer of fresh."""
_MEMORY = Path("/dev/shm")
_HERE = Path(__file__).resolve().parent.parent
_STARTS = 15
"""Rounds of start at least: a start is short, and its CPU time varies."""
_WIDTH = 130
"""Columns of a table, on a terminal and elsewhere."""


class Name(StrEnum):
    """What can be measured: contests with other programs, the queue, the start, backfills of a whole Harbor, a line."""

    COPY = "copy"
    LARGE = "large"
    SHARED = "shared"
    TINY = "tiny"
    INPLACE = "inplace"
    LATENCY = "latency"
    FRESH = "fresh"
    QUEUE = "queue"
    START = "start"
    BACKFILL = "backfill"
    COLD = "cold"
    WARM = "warm"
    DRIFT = "drift"
    FAST = "fast"
    MEMORY = "memory"
    SOAK = "soak"
    LINE = "line"
    FAILOVER = "failover"
    CHAOS = "chaos"


_GROUPS = {
    Name.COPY: (Name.LARGE, Name.SHARED, Name.TINY, Name.INPLACE, Name.LATENCY, Name.FRESH),
    Name.BACKFILL: (Name.COLD, Name.WARM, Name.DRIFT, Name.FAST, Name.MEMORY),
}


def main(
    names: Annotated[
        list[Name] | None,
        typer.Argument(
            help="What to measure; copy is for all from large to fresh, backfill for all from cold to memory, "
            "nothing for copy and queue."
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each program.")] = 3,
    size: Annotated[int, typer.Option(min=1, help="MiB of the image of large.")] = 1024,
    base: Annotated[int, typer.Option(min=1, help="MiB that the tags of shared share.")] = 32,
    tags: Annotated[int, typer.Option(min=1, help="Tags of shared and inplace.")] = 40,
    tiny_tags: Annotated[int, typer.Option(min=1, help="Tags of tiny.")] = 500,
    latency_tags: Annotated[int, typer.Option(min=1, help="Tags of latency.")] = 20,
    repositories: Annotated[int, typer.Option(min=1, help="Repositories of backfill.")] = 300,
    backfill_tags: Annotated[
        int, typer.Option(min=1, help="Tags of backfill; memory takes ten times them, too.")
    ] = 10_000,
    skopeo_repositories: Annotated[
        int, typer.Option(min=1, help="Repositories of cold for skopeo, at the most; it is slow.")
    ] = 30,
    delay: Annotated[float, typer.Option(min=0, help="Milliseconds that latency adds to a request.")] = 20,
    against: Annotated[
        Path | None, typer.Option(help="A worktree of another commit, with which start and line take turns.")
    ] = None,
    rate: Annotated[str, typer.Option(help="Of line: bytes or bits a second, e.g. 2MiB/s or 20Mbit/s.")] = "2MiB/s",
    rtt: Annotated[str, typer.Option(help="Of line: the round trip, e.g. 100ms.")] = "0ms",
    row: Annotated[list[str] | None, typer.Option(help=f"Of line: only these; {', '.join(ROWS)}.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of soak and chaos.")] = 60,
    seed: Annotated[int | None, typer.Option(min=0, help="Of chaos: repeats the order of the faults.")] = None,
    events: Annotated[int, typer.Option(min=10, help="Events of failover.")] = 100_000,
    requests: Annotated[bool, typer.Option("--requests", help="Say too what the requests are.")] = False,
    storage: Annotated[
        Path | None, typer.Option(help="Where the registries keep their content; in memory when nothing is said.")
    ] = None,
) -> None:
    """Time the replicator beside skopeo, curl and, where on PATH, crane, regctl and regsync; and the queue alone."""
    contest: dict[Name, Callable[[], tuple[Contest, Contest | None]]] = {
        Name.LARGE: lambda: (contests.large(size * _MIB), contests.large(_SMALL)),
        Name.SHARED: lambda: (contests.shared(tags, base * _MIB), contests.shared(tags, _SMALL)),
        Name.TINY: lambda: (contests.tiny(tiny_tags), None),
        Name.INPLACE: lambda: (contests.in_place(tags), None),
        Name.LATENCY: lambda: (contests.latency(latency_tags, delay / 1000), None),
        Name.FRESH: lambda: (contests.fresh(_LAYER), None),
    }
    tables: dict[Name, Callable[[], Table]] = {
        Name.QUEUE: queue.measure,
        Name.FAILOVER: lambda: failover.measure_failover(events),
        Name.START: lambda: start.measure(max(runs, _STARTS), against),
    }
    if backfill_tags < repositories:
        raise typer.BadParameter("a repository has one tag at least", param_hint="--backfill-tags")
    place = storage or (_MEMORY if _MEMORY.is_dir() else None)
    terms = _terms(rate, rtt, row or [], against, place)
    console = Console(width=_WIDTH)
    wanted = _spelt_out(names or [Name.COPY, Name.QUEUE])
    backfills = [name for name in wanted if name in _GROUPS[Name.BACKFILL]]
    for name in wanted:
        try:
            if name in tables:
                console.print(tables[name]())
            elif name is Name.LINE:
                with _runner() as runner:
                    runner.run(line.measure(row or list(ROWS), terms, console))
            elif name is Name.SOAK:
                with _runner() as runner:
                    done = runner.run(program.soak(minutes, place))
                console.print(program.report(done))
                program.judge(done)
            elif name is Name.CHAOS:
                with _runner() as runner:
                    found = runner.run(chaos.chaos(minutes, random.randrange(10**6) if seed is None else seed))
                console.print(chaos.report(found))
                chaos.judge(found)
            elif name in contest:
                timed, counted = contest[name]()
                with _runner() as runner:
                    standings = runner.run(hold(timed, runs, place, counted))
                console.print(table(timed, standings))
                if requests:
                    console.print(requests_table(timed, standings))
        except RunFailed as error:
            sys.exit(f"{name}: {error}")
    if backfills:
        whole = Size(repositories, backfill_tags, skopeo_repositories)
        try:
            with _runner() as runner:
                runner.run(measure_all(backfills, whole, runs, place, console, requests=requests))
        except RunFailed as error:
            sys.exit(str(error))


def _terms(rate: str, rtt: str, rows: list[str], against: Path | None, storage: Path | None) -> Terms:
    """Read what is said of line."""
    if unknown := set(rows) - set(ROWS):
        raise typer.BadParameter(f"line has no row {', '.join(sorted(unknown))}", param_hint="--row")
    trees = {"replicator": _HERE} | ({against.name: against.resolve()} if against else {})
    try:
        return Terms(line.parse_rate(rate), line.parse_time(rtt), trees, storage)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _runner() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _spelt_out(names: list[Name]) -> list[Name]:
    return [one for name in names for one in _GROUPS.get(name, (name,))]


if __name__ == "__main__":
    typer.run(main)
