"""The benchmarks keep their promises, at a size that says nothing about speed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp
import pytest

from benchmarks import contests
from benchmarks.contest import DESTINATION_REPOSITORY, Contender, Contest, Standing
from benchmarks.holding import hold, verify
from benchmarks.measuring import RunFailed, measure
from benchmarks.table import requests_table, table
from tests.standins.distribution import distribution
from tests.standins.images import blobs_of, image, multi_arch, push

MIB = 2**20
IDLE = Contender("idle", lambda _: ["true"])


async def held(contest: Contest, storage: Path) -> dict[str, Standing]:
    """Everyone once, by name."""
    standings = {standing.name: standing for standing in await hold(contest, runs=1, storage=storage)}
    assert next(iter(standings)) == "replicator"
    for standing in standings.values():
        (run,) = standing.runs
        assert run.seconds > 0
        assert run.cpu > 0
        assert run.peak > MIB
        assert set(standing.ratios) == set(contest.yardsticks)
    assert not list(storage.iterdir()), "something was left behind"
    return standings


async def test_everyone_copies_an_image_and_is_compared_with_skopeo_and_curl(tmp_path: Path) -> None:
    contest = contests.large(4 * MIB)
    standings = await held(contest, tmp_path)

    assert {"replicator", "skopeo", "curl | curl"} <= set(standings)
    assert standings["curl | curl"].requests == {"POST upload": 5, "PUT upload": 5, "PUT manifest": 1}
    assert standings["curl | curl"].requests.total() == contest.fewest
    assert contest.fewest <= standings["replicator"].requests.total() <= standings["skopeo"].requests.total()
    assert standings["curl | curl"].ratios["curl | curl"] == 1
    headings = [str(column.header) for column in table(contest, list(standings.values())).columns]
    assert headings[-len(contest.yardsticks) :] == [f"x {name}" for name in contest.yardsticks]
    assert {"x skopeo", "x curl | curl"} <= set(headings)


async def test_everyone_brings_all_tags(tmp_path: Path) -> None:
    contest = contests.shared(3, MIB)
    standings = await held(contest, tmp_path)

    assert len(contest.images) == 3
    assert standings["replicator"].requests.total() < standings["skopeo"].requests.total()


async def test_everyone_brings_tiny_tags(tmp_path: Path) -> None:
    standings = await held(contests.tiny(2), tmp_path)

    assert standings["replicator"].requests["PUT upload"] == 4
    assert standings["replicator"].requests["PUT manifest"] == 2


async def test_nobody_sends_what_is_in_place(tmp_path: Path) -> None:
    contest = contests.in_place(3)
    standings = await held(contest, tmp_path)

    for standing in standings.values():
        assert {kind.split()[0] for kind in standing.requests} <= {"GET", "HEAD"}
    assert standings["replicator"].requests["HEAD manifest"] == contest.fewest == 3
    assert "a tag" in [column.header for column in table(contest, list(standings.values())).columns]


async def test_everyone_copies_over_a_slow_wire(tmp_path: Path) -> None:
    contest = contests.latency(2, 0.002)
    standings = await held(contest, tmp_path)

    # Seven blobs of its own for each tag, and the one that is shared.
    assert standings["replicator"].requests["PUT upload"] == 15


async def test_everyone_logs_in_and_brings_an_index(tmp_path: Path) -> None:
    contest = contests.fresh(1000)
    standings = await held(contest, tmp_path)

    for standing in standings.values():
        assert standing.requests["GET token"] > 0
        assert standing.requests["PUT upload"] == 7
        assert standing.requests["PUT manifest"] == 3
        # Those, a refusal and a token are the fewest.
        assert standing.requests.total() > contest.fewest == 7 * 2 + 3 + 2
    rows = requests_table(contest, list(standings.values()))
    assert list(rows.columns[0].cells)[-1] == "all"
    assert list(rows.columns[1].cells)[-1] == str(standings["replicator"].requests.total())


async def test_requests_are_counted_apart_with_small_images(tmp_path: Path) -> None:
    """What is counted is the other contest: here with fewer tags."""

    def fill(number: int) -> Contest:
        contest = contests.shared(number, MIB)
        return Contest(contest.title, contest.images, contest.contenders[1:2])

    (skopeo,) = await hold(fill(2), runs=1, storage=tmp_path, counted=fill(1))
    assert skopeo.requests["PUT manifest"] == 1


async def test_who_does_not_do_the_work_is_found_out(tmp_path: Path) -> None:
    contest = Contest("nothing", {"v1": image()}, [IDLE])

    with pytest.raises(RunFailed, match="idle did not bring v1"):
        await hold(contest, runs=1, storage=tmp_path)


async def test_who_brings_something_else_is_found_out() -> None:
    contest = Contest("something else", {"v1": image(1)}, [IDLE])

    async with distribution() as registry:
        await push(registry, DESTINATION_REPOSITORY, "v1", image(2))
        with pytest.raises(RunFailed, match="idle made another manifest of v1"):
            await verify(registry, contest, IDLE)


async def test_who_leaves_a_part_out_is_found_out() -> None:
    root = multi_arch()
    contest = Contest("a part", {"v1": root}, [IDLE])

    async with distribution() as registry:
        await push(registry, DESTINATION_REPOSITORY, "v1", root)
        await verify(registry, contest, IDLE)
        for kind, digest in (("blobs", blobs_of(root)[1].digest), ("manifests", root.children[1].digest)):
            url = f"http://{registry}/v2/{DESTINATION_REPOSITORY}/{kind}/{digest}"
            async with aiohttp.request("DELETE", url) as answer:
                assert answer.status == 202
            with pytest.raises(RunFailed, match=f"idle did not bring {digest} of v1"):
                await verify(registry, contest, IDLE)
            await push(registry, DESTINATION_REPOSITORY, "v1", root)


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


async def test_the_command_line_prints_tables(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "inplace"),
        *("--runs", "1", "--tags", "1", "--requests", "--storage", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert b"inplace: 1 tags" in said
    assert b"replicator" in said
    assert b"HEAD manifest" in said


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
