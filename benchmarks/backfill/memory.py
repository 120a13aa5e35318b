"""The memory of a backfill, and its growth with the number of tags, against registries that store nothing."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from rich.table import Table

from benchmarks.backfill import synthetic
from benchmarks.backfill.content import PROJECTS
from benchmarks.backfill.contest import Standing
from benchmarks.measuring import RunFailed, measure
from replicator.replication.report import RowOutcome
from tests.running import PROGRAM, environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from benchmarks.measuring import Measurement

TITLE = "memory: tags at a Harbor and a destination that store nothing"
_CAPTION = "peak is that of the largest process of the program; x compares it with the row of fewer tags"


@dataclass(frozen=True, slots=True)
class Work:
    """What is done.

    Attributes:
        name: what the table calls it.
        missing: the destination holds nothing, instead of everything.
        options: of the command line.
        outcome: what becomes of every tag.
    """

    name: str
    missing: bool
    options: tuple[str, ...]
    outcome: RowOutcome


WORKS = (
    Work("all in place", missing=False, options=(), outcome=RowOutcome.UP_TO_DATE),
    Work("--dry-run, all missing", missing=True, options=("--dry-run",), outcome=RowOutcome.WOULD_COPY),
)


@dataclass(frozen=True, slots=True)
class Taken:
    """One run.

    Attributes:
        work: what was done.
        standing: what it took, and what was asked of whom; by the work's name and the number of tags.
    """

    work: Work
    standing: Standing


async def take(repositories: int, sizes: Sequence[int]) -> list[Taken]:
    """Measure all works at all sizes, once each: memory does not vary as time does.

    Args:
        repositories: how many the tags are in.
        sizes: numbers of tags.

    Raises:
        RunFailed: the program failed, or did not see every tag.
    """
    return [await _take(work, repositories, tags) for work in WORKS for tags in sizes]


async def _take(work: Work, repositories: int, tags: int) -> Taken:
    with tempfile.TemporaryDirectory(prefix="memory-") as directory:
        scratch = Path(directory)
        async with served(repositories, tags) as hosts:
            rules = scratch / "rules.json"
            rules.write_text(json.dumps(_rules(hosts, missing=work.missing)))
            took = await measure([*PROGRAM, "backfill", "--config", str(rules), *work.options], scratch)
            api, registry = await _counts(hosts.harbor)
            _, destination = await _counts(hosts.destination)
        said = (scratch / "said.txt").read_text("utf-8", "replace")
        if not re.search(rf"(?m)^ *{tags} +{work.outcome}\b", said):
            raise RunFailed(f"{work.name}: not all of {tags} tags are {work.outcome}: {said[-2000:]}")
    if written := {kind for kind in destination if kind.split()[0] not in ("GET", "HEAD")}:
        raise RunFailed(f"{work.name}: there was nothing to write, and the destination was asked {sorted(written)}")
    return Taken(work, Standing(f"{work.name}, {tags}", tags, [took], api, registry, destination))


@asynccontextmanager
async def served(repositories: int, tags: int) -> AsyncIterator[synthetic.Hosts]:
    """Have a synthetic Harbor and destination, in a process of their own, for as long as the context lasts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", synthetic.__name__, str(repositories), str(tags)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = await process.stdout.readline()
        if not line:
            raise RunFailed("the synthetic Harbor did not start")
        yield synthetic.Hosts(**json.loads(line))
    finally:
        process.stdin.close()
        await process.wait()


def _rules(hosts: synthetic.Hosts, *, missing: bool) -> dict[str, object]:
    beside = "-missing" if missing else ""
    return {
        "auth": {
            # Harbor lists the artifacts of a project to logins only.
            hosts.harbor: {"username": "robot$mirror", "password": "unchecked", "insecure": True},
            hosts.destination: {"anonymous": True, "insecure": True},
        },
        "images": {
            f"{hosts.harbor}/{project}/**": f"{hosts.destination}/{namespace}{beside}/{{name}}"
            for project, namespace in PROJECTS.items()
        },
    }


async def _counts(host: str) -> tuple[Counter[str], Counter[str]]:
    """Ask what a host was asked, of its API and of its registry."""
    async with aiohttp.request("GET", f"http://{host}/counts") as answer:
        answer.raise_for_status()
        counts = await answer.json()
    return Counter(counts["api"]), Counter(counts["registry"])


def table(taken: Sequence[Taken]) -> Table:
    """Make the table: a row a run, works together."""
    made = Table(title=TITLE, title_justify="left", caption=_CAPTION, caption_justify="left")
    made.add_column("work")
    for heading in ("tags", "wall", "tags/s", "CPU", "peak", "x", "API", "Harbor", "destination"):
        made.add_column(heading, justify="right")
    for work in WORKS:
        before: Measurement | None = None
        for standing in (one.standing for one in taken if one.work == work):
            (took,) = standing.runs
            made.add_row(
                work.name,
                str(standing.tags),
                f"{took.seconds:.1f} s",
                f"{standing.tags / took.seconds:.0f}",
                f"{took.cpu:.1f} s",
                f"{took.peak / 1e6:.0f} MB",
                f"{took.peak / before.peak:.2f}" if before is not None else "",
                str(standing.api.total()),
                str(standing.registry.total()),
                str(standing.destination.total()),
            )
            before = took
        made.add_section()
    return made
