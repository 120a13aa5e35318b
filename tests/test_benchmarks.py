"""The benchmarks hold what they promise, in a size that says nothing about speed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from benchmarks import backfill, copy
from benchmarks.contest import Contender, Contest, hold
from benchmarks.measuring import RunFailed, measure
from benchmarks.table import table
from tests.standins.images import image

MIB = 2**20


async def test_everyone_copies_an_image_and_is_compared_with_skopeo_and_curl(tmp_path: Path) -> None:
    contest = copy.contest(4 * MIB)
    standings = {standing.name: standing for standing in await hold(contest, contest, runs=1, storage=tmp_path)}

    assert {"replicator", "skopeo", "curl | curl"} <= set(standings)
    for standing in standings.values():
        (run,) = standing.runs
        assert run.seconds > 0
        assert run.cpu > 0
        assert run.peak > MIB
        assert set(standing.ratios) == {"skopeo", "curl | curl"}
    # POST and PUT for each of five blobs, and the manifest.
    assert standings["curl | curl"].requests == 11
    assert 11 <= standings["replicator"].requests <= standings["skopeo"].requests
    assert standings["curl | curl"].ratios["curl | curl"] == 1
    assert [column.header for column in table(contest, list(standings.values())).columns][-2:] == [
        "x skopeo",
        "x curl | curl",
    ]
    assert not list(tmp_path.iterdir()), "something was left behind"


async def test_everyone_brings_all_tags(tmp_path: Path) -> None:
    contest = backfill.contest(3, MIB)
    ours, skopeo, *_ = await hold(contest, contest, runs=1, storage=tmp_path)

    assert (ours.name, skopeo.name) == ("replicator", "skopeo")
    assert len(contest.images) == 3
    assert ours.requests < skopeo.requests


async def test_who_does_not_do_the_work_is_found_out(tmp_path: Path) -> None:
    idle = Contender("idle", lambda _: ["true"])
    contest = Contest("nothing", {"v1": image()}, [idle], ())

    with pytest.raises(RunFailed, match="idle did not bring v1"):
        await hold(contest, contest, runs=1, storage=tmp_path)


async def test_a_command_that_fails_is_told_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="sh ended with 3: no such luck"):
        await measure(["sh", "-c", "echo no such luck; exit 3"], tmp_path)
    with pytest.raises(RunFailed, match="no-such-program"):
        await measure(["no-such-program"], tmp_path)


async def test_a_command_ends_with_its_benchmark(tmp_path: Path) -> None:
    running = asyncio.create_task(measure(["sh", "-c", "echo $$ > id; exec sleep 600"], tmp_path))
    while not (tmp_path / "id").is_file() or not (said := (tmp_path / "id").read_text().strip()):
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # Whoever takes over orphans may need a moment to see it off.
    while _runs(said):
        await asyncio.sleep(0.01)


async def test_the_command_line_prints_a_table(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "backfill"),
        *("--runs", "1", "--tags", "1", "--base", "1", "--storage", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert b"backfill of 1 tags" in said
    assert b"replicator" in said


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
