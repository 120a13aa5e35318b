"""``python -m benchmarks [NAME ...]``: measure; without a name the whole table."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import uvloop
from rich.console import Console

from benchmarks import api, chaos, failover, programs, queue, report
from benchmarks.holding import hold
from benchmarks.line import program as line
from benchmarks.line.place import Terms
from benchmarks.line.rows import ROWS as LINE_ROWS
from benchmarks.measuring import RunFailed
from benchmarks.rows import ROWS, Scale
from benchmarks.soak import program as soak

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Sequence

    from rich.table import Table

_Found = TypeVar("_Found")
_MEMORY = Path("/dev/shm")
_HERE = Path(__file__).resolve().parent.parent
_QUICK = Scale(size=1 / 32, number=1 / 10)
_WIDTH = 130
"""Columns of a table that is not the one of all rows."""
_OTHERS = ("queue", "api", "failover", "line", "soak", "chaos")
"""What is no row of the table."""


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"What to measure; nothing for the whole table. {', '.join([*ROWS, *_OTHERS])}"),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each program, in changing order.")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small part of the work and one run, to see that all of it goes.")
    ] = False,
    markdown: Annotated[
        Path | None, typer.Option(help="A document that gets the table too, between its two marks.")
    ] = None,
    requests: Annotated[bool, typer.Option("--requests", help="Say too what the requests are.")] = False,
    against: Annotated[
        Path | None, typer.Option(help="A checkout of another commit, which takes part in the rows and in line.")
    ] = None,
    storage: Annotated[
        Path | None, typer.Option(help="Where the registries keep their content; in memory when nothing is said.")
    ] = None,
    rate: Annotated[str, typer.Option(help="Of line: bytes or bits a second, e.g. 2MiB/s or 20Mbit/s.")] = "2MiB/s",
    rtt: Annotated[str, typer.Option(help="Of line: the round trip, e.g. 100ms.")] = "0ms",
    row: Annotated[list[str] | None, typer.Option(help=f"Of line: only these; {', '.join(LINE_ROWS)}.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of soak and chaos.")] = 60,
    seed: Annotated[int | None, typer.Option(min=0, help="Of chaos: repeats the order of the faults.")] = None,
    events: Annotated[int, typer.Option(min=10, help="Events of failover.")] = 100_000,
) -> None:
    """Measure the replicator beside crane, regctl, regsync, skopeo, oras and image-syncer, where they are on PATH."""
    place = storage or (_MEMORY if _MEMORY.is_dir() else None)
    if against is not None:
        programs.TREES[f"replicator at {against.name}"] = against.resolve()
    terms = _terms(rate, rtt, row or [], against, place)
    if markdown is not None and not report.has_place(markdown):
        raise typer.BadParameter(f"it has no lines {report.BEGIN.strip()} and {report.END.strip()}")
    wanted = _known(names or [], (*ROWS, *_OTHERS), "names") or [name for name, one in ROWS.items() if one.always]
    console = Console(width=_WIDTH)
    rows = [name for name in wanted if name in ROWS]
    if rows:
        done = _measure(rows, 1 if quick else runs, _QUICK if quick else Scale(), place, markdown, requests=requests)
    tables: dict[str, Callable[[], Table]] = {
        "queue": queue.measure,
        "api": lambda: _run(api.measure(api.TAGS // 100 if quick else api.TAGS)),
        "failover": lambda: failover.measure_failover(events),
    }
    for name in (name for name in wanted if name not in ROWS):
        try:
            match name:
                case "line":
                    _run(line.measure(row or list(LINE_ROWS), terms, console))
                case "soak":
                    lasted = _run(soak.soak(minutes, place))
                    console.print(soak.report(lasted))
                    soak.judge(lasted)
                case "chaos":
                    found = _run(chaos.chaos(minutes, random.randrange(10**6) if seed is None else seed))
                    console.print(chaos.report(found))
                    chaos.judge(found)
                case _:
                    console.print(tables[name]())
        except RunFailed as error:
            sys.exit(f"{name}: {error}")
    if rows and not done:
        sys.exit(1)


def _measure(
    names: Sequence[str], runs: int, scale: Scale, storage: Path | None, document: Path | None, *, requests: bool
) -> bool:
    """Measure rows, and print each at once, in a document too; tell whether everyone did all of the work."""
    began = time.monotonic()
    part = ["Only a small part of the work: the figures say nothing about speed."] if scale is _QUICK else []
    results: list[report.Result] = []
    failures: list[str] = []
    print(report.heading(), flush=True)
    for name in names:
        row = ROWS[name]
        start = time.monotonic()
        try:
            contest = row.make(scale)
            counted = row.small(scale) if row.small is not None else None
            standings = _run(hold(contest, 1 if row.once else runs, storage, counted))
        except Exception as error:  # noqa: BLE001 # of whatever kind: the other rows are measured all the same
            failures.append(f"{name} failed: {error!r}")
            print(failures[-1], flush=True)
        else:
            results.append(report.Result(name, row, contest, standings, time.monotonic() - start))
            print(report.text(results[-1]), flush=True)
            if requests:
                Console(width=_WIDTH).print(report.requests_table(results[-1]))
        if document is not None:
            report.write(document, report.markdown(results, failures, [*report.machine(runs), *part]))
    took = f"{(time.monotonic() - began) / 60:.1f} minutes in all."
    print("\n".join([report.legend(), *report.machine(runs), *part, *failures, took]), flush=True)
    return not failures and not any(result.problems for result in results)


def _known(names: list[str], known: Collection[str], where: str) -> list[str]:
    if unknown := set(names) - set(known):
        raise typer.BadParameter(f"there is no {', '.join(sorted(unknown))}", param_hint=where)
    return names


def _terms(rate: str, rtt: str, rows: list[str], against: Path | None, storage: Path | None) -> Terms:
    """Read what is said of line."""
    _known(rows, LINE_ROWS, "--row")
    trees = {"replicator": _HERE} | ({against.name: against.resolve()} if against else {})
    try:
        return Terms(line.parse_rate(rate), line.parse_time(rtt), trees, storage)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _run(what: Coroutine[Any, Any, _Found]) -> _Found:
    """Run to the end, or to a SIGTERM, which leaves nothing behind either."""

    async def run() -> _Found:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await what

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(run())
        except asyncio.CancelledError:
            sys.exit("ended by a signal; the rows above are complete")


if __name__ == "__main__":
    typer.run(main)
