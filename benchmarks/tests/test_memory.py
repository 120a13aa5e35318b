"""Memory is bounded: it grows neither with the size of an image nor with the number of tags.

Not part of the suite, as each takes half a minute; `tests/copy/test_memory.py` holds the bound for an image of 300 MB,
`tests/end_to_end/test_backfill_streaming.py` that a list is worked off while it is read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.holding import hold
from benchmarks.rows import ROWS, Scale
from tests.running import PROGRAM, environment
from tests.standins.distribution import distribution
from tests.standins.images import Image, image
from tests.standins.layouts import write_layout
from tests.standins.skopeo import skopeo

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1024**3
BOUND = 120 * 1024**2


def peak(*arguments: str, cwd: Path) -> int:
    """Run a command; return its peak of resident memory in bytes."""
    report = cwd / "stopwatch.json"
    command = [sys.executable, "-m", "benchmarks.stopwatch", str(report), *PROGRAM, *arguments]
    subprocess.run(command, cwd=cwd, env=environment(), check=True)
    took = json.loads(report.read_text())
    assert took["status"] == 0
    return int(took["peak"])


async def test_copying_a_gibibyte_takes_under_120_megabytes(tmp_path: Path) -> None:
    root: Image = image(1, (GIB // 4,) * 4)
    # One directory is the source's storage, the other the destination's: nothing of this is held in memory.
    async with distribution(tmp_path / "source") as source, distribution(tmp_path / "destination") as destination:
        write_layout(tmp_path / "layout", root)
        await skopeo(
            "copy", "--quiet", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:latest", f"docker://{source}/a/b:v1"
        )
        used = peak(
            "copy",
            f"{source}/a/b:v1",
            f"{destination}/c/d:v1",
            "--insecure",
            source,
            "--insecure",
            destination,
            cwd=tmp_path,
        )
        raw = await skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{destination}/c/d:v1")
    assert raw == root.content
    assert used < BOUND, f"{used / 1024**2:.0f} MiB"


@pytest.mark.parametrize("name", ["inplace", "dryrun"])
async def test_ten_times_the_tags_take_hardly_more_memory_and_ten_times_the_requests(name: str, tmp_path: Path) -> None:
    peaks = []
    for tags in (500, 5_000):
        contest = replace(ROWS[name].make(Scale()), synthetic=(30, tags))
        contest = replace(contest, contenders=contest.contenders[:1])
        (standing,) = await hold(contest, runs=1, storage=tmp_path)
        assert standing.problem == ""
        peaks.append(standing.peak)
    assert peaks[1] < 1.3 * peaks[0], f"{peaks[0] / 1e6:.0f} and {peaks[1] / 1e6:.0f} MB"
    # Harbor: the names of three projects, and a page for a hundred artifacts of each.
    assert standing.requests["API"].total() <= 3 + 5_000 / 100 + 3
    # The destination: a question a tag, and one more for the scheme.
    assert standing.requests["destination"].total() == 5_001
