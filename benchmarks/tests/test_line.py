"""The rows of line keep their promises, at a size that says nothing about time."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from benchmarks.line.place import Outcome, Terms, lacking, place, target
from benchmarks.line.program import parse_rate, parse_time, table
from benchmarks.line.rows import ROWS
from tests.standins.images import blobs_of, image, layer
from tests.standins.outages import Limit, deaf, mute
from tests.standins.server import serve

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20
SMALL = 0.02


async def held(row: str, storage: Path, rate: float = 4 * MIB) -> list[Outcome]:
    """Run a row with small bodies; ours first."""
    outcomes = [outcome async for outcome in ROWS[row](Terms(rate, storage=storage, size=SMALL))]
    assert not list(storage.iterdir()), "something was left behind"
    assert outcomes[0].name.startswith("replicator")
    assert table(row, outcomes, 0.0).columns[0].header == "program"
    return outcomes


async def test_everyone_brings_an_image_over_the_line(tmp_path: Path) -> None:
    outcomes = await held("one", tmp_path)
    assert "skopeo" in {outcome.name for outcome in outcomes}
    for outcome in outcomes:
        assert (outcome.arrived, outcome.said) == (1, "")
        # Once, and what is asked and answered beside it.
        assert outcome.lacking < outcome.sent < 1.1 * outcome.lacking
        assert outcome.lacking < outcome.read < 1.1 * outcome.lacking
        assert outcome.wall > 0


async def test_pushes_arrive_beside_a_backfill(tmp_path: Path) -> None:
    for outcome in await held("push", tmp_path):
        assert outcome.arrived == outcome.meant > 8
        assert outcome.said == ""
        pushes, _, meant = outcome.more["pushes"].partition("/")
        assert pushes == meant == str(outcome.meant - 8)


async def test_refusals_are_counted_and_all_tags_too(tmp_path: Path) -> None:
    outcomes = await held("limited", tmp_path)
    assert {"replicator, backfill", "replicator, serve", "skopeo"} <= {outcome.name for outcome in outcomes}
    assert all(outcome.meant == 4 and int(outcome.more["requests"]) > 0 for outcome in outcomes)


async def test_what_a_destination_holds_is_not_lacking() -> None:
    base = layer(1)
    content = {
        "m/a": {"v1": image(1, base=[base])},
        "lib/b": {"v1": image(2, base=[base]), "v2": image(2, base=[base])},
    }
    everything = sum(blob.size for tag in ("m/a", "lib/b") for blob in blobs_of(content[tag]["v1"])) - base.size
    assert lacking(content) == everything
    assert lacking(content, [base]) == everything - base.size
    assert target("lib/b") == "mirror/b"


async def test_a_program_whose_time_is_over_is_ended_and_told_apart(tmp_path: Path) -> None:
    async with place(Terms(MIB, storage=tmp_path), {}) as source, source.run() as run:
        assert (await run.program(["sh", "-c", "echo no such luck; exit 3"], 60)).said == "no such luck"
        assert (await run.program(["sleep", "600"], 0.1)).code is None


async def test_a_limit_refuses_what_comes_too_often() -> None:
    async def well(_: web.BaseRequest) -> web.Response:
        return web.Response()

    limit = Limit(rate=1e-9, burst=2)
    async with serve(well) as behind, limit.before(behind) as front, aiohttp.ClientSession() as session:
        statuses = []
        for _ in range(3):
            async with session.get(f"http://{front}/") as answer:
                statuses.append(answer.status)
                assert "Retry-After" not in answer.headers
    assert statuses == [200, 200, 503]
    assert (limit.passed, limit.refused) == (2, 1)


async def test_silent_hosts_say_nothing() -> None:
    async with deaf() as host:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection(*host.split(":")), 0.1)
    async with mute() as host:
        reader, writer = await asyncio.open_connection(*host.split(":"))
        writer.write(b"GET /v2/ HTTP/1.1\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        writer.close()


@pytest.mark.parametrize(
    ("text", "expected"), [("2MiB/s", 2 * MIB), ("20Mbit/s", 2.5e6), ("1MB/s", 1e6), ("1.5 kbit/s", 187.5)]
)
def test_rates_are_read(text: str, expected: float) -> None:
    assert parse_rate(text) == expected


@pytest.mark.parametrize("text", ["", "0MiB/s", "2MiB", "fast", "-1MB/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        parse_rate(text)


def test_times_are_read() -> None:
    assert (parse_time("100ms"), parse_time("0.2s")) == (0.1, 0.2)
    with pytest.raises(ValueError, match="is no time"):
        parse_time("100")


async def test_the_command_line_prints_a_row(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "line", "--row", "no-such-row", "--storage", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"no-such-row" in said
