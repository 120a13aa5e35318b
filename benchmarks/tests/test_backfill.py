"""The benchmarks of backfills keep their promises, at a size that says nothing about speed."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from benchmarks.backfill import contenders, contests, memory, synthetic
from benchmarks.backfill.content import PROJECTS, before_changes, content, destination_of, names, tags_of
from benchmarks.backfill.contest import Contender, Contest, Route, Standing
from benchmarks.backfill.holding import hold, verify
from benchmarks.backfill.stage import Stage, stage
from benchmarks.backfill.table import requests_table, table
from benchmarks.kinds import kind
from benchmarks.measuring import RunFailed
from replicator.replication.report import RowOutcome
from tests.standins.distribution import distribution
from tests.standins.faults import Entry
from tests.standins.images import blobs_of, image, push
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MIB = 2**20
HELD = content(4, 12)
IDLE = Contender("idle", lambda _: ["true"])
BLOBS = 12 * 2 + 4
"""A config and a layer for each tag, and the base of each repository."""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(HELD, tmp_path) as registries:
        yield registries
    assert not list(tmp_path.iterdir()), "something was left behind"


async def held(registries: Stage, contest: Contest) -> dict[str, Standing]:
    """Everyone once, by name."""
    standings = {standing.name: standing for standing in await hold(registries, HELD, contest, runs=1)}
    for standing in standings.values():
        (run,) = standing.runs
        assert run.seconds > 0
        assert run.cpu > 0
        assert run.peak > MIB
    return standings


def test_tags_are_spread_evenly_and_each_repository_shares_a_base() -> None:
    many = content(4, 14)

    assert [len(images) for images in many.values()] == [4, 4, 3, 3]
    assert tags_of(many) == 14
    assert {name.partition("/")[0] for name in many} == set(PROJECTS)
    assert len({destination_of(name) for name in many}) == 4
    for images in many.values():
        blobs = Counter(blob.digest for root in images.values() for blob in blobs_of(root))
        assert sorted(blobs.values()) == [1] * (2 * len(images)) + [len(images)]
    assert len({root.digest for images in many.values() for root in images.values()}) == 14
    with pytest.raises(ValueError, match="too few"):
        content(4, 3)


def test_drift_has_changed_one_tag_in_so_many() -> None:
    many = content(4, 12)
    before = before_changes(many, 5)

    changed = [
        (name, tag) for name, images in many.items() for tag, root in images.items() if before[name][tag] != root
    ]
    assert len(changed) == 3
    assert {name: set(images) for name, images in before.items()} == {name: set(many[name]) for name in many}


def test_requests_to_the_api_are_named_without_the_names_in_their_path() -> None:
    def named(path: str, status: int = 200) -> str:
        return kind(Entry("GET", path, "", {}, status=status))  # type: ignore[arg-type] # its headers are not read

    assert named("/api/v2.0/projects") == "GET projects"
    assert named("/api/v2.0/projects/team-a/repositories") == "GET repositories"
    assert named("/api/v2.0/projects/team-a/artifacts", 404) == "GET artifacts of a project: 404"
    assert named("/api/v2.0/projects/team-a/repositories/app%2Fapi/artifacts") == "GET artifacts"
    assert named("/api/v2.0/ping") == "GET ping"
    assert named("/v2/team-a/artifacts/tags/list") == "GET tags"


async def test_everyone_brings_all_repositories(place: Stage) -> None:
    contest = contests.cold(HELD, 2)
    standings = await held(place, contest)

    assert {"replicator", "skopeo sync"} <= set(standings)
    for name, standing in standings.items():
        # Who is slow was given two of the four repositories.
        assert standing.tags == (6 if name == "skopeo sync" else 12)
        assert standing.registry["GET blob"] >= standing.tags * 2
        assert standing.destination["PUT manifest"] == standing.tags
        assert standing.destination["PUT upload"] >= standing.tags * 2
    assert standings["replicator"].api["GET repositories"] == len(PROJECTS)
    assert standings["replicator"].registry["GET blob"] == BLOBS
    assert standings["replicator"].destination["PUT upload"] == BLOBS
    headings = [str(column.header) for column in table(contest, list(standings.values())).columns]
    assert headings[-3:] == ["API", "Harbor", "destination"]


async def test_nobody_sends_what_is_in_place(place: Stage) -> None:
    contest = contests.warm(HELD)
    standings = await held(place, contest)

    assert list(standings)[:2] == ["replicator, no state", "replicator, again"]
    for standing in standings.values():
        assert {kind.split()[0] for kind in standing.destination} <= {"GET", "HEAD"}
        assert not standing.registry["GET blob"]
        assert standing.tags == 12
    assert standings["replicator, no state"].destination["HEAD manifest"] == 12
    # What was asked before its state was there is not counted.
    assert standings["replicator, again"].destination["HEAD manifest"] <= 12
    rows = requests_table(contest.title, list(standings.values()))
    first = standings["replicator, no state"]
    assert list(rows.columns[0].cells)[-1] == "all"
    assert list(rows.columns[1].cells)[-1] == str(
        first.api.total() + first.registry.total() + first.destination.total()
    )


async def test_of_what_has_drifted_only_the_changed_tags_are_sent(place: Stage) -> None:
    (replicator,) = (await held(place, contests.drift(HELD))).values()

    # The first of twelve: one in a hundred, and at least one. Its base is there.
    assert replicator.destination["PUT manifest"] == 1
    assert replicator.destination["PUT upload"] == 2
    assert replicator.registry["GET blob"] == 2


async def test_fast_is_held_where_the_program_knows_it(place: Stage) -> None:
    assert contenders.knows("--dry-run")
    assert not contenders.knows("--dry")
    assert not contenders.knows("--no-such-option")
    contest = contests.fast(HELD)
    assert (contest is not None) == contenders.knows("--fast")
    if contest is not None:
        standings = await held(place, contest)
        fast, again = standings["replicator --fast"], standings["replicator, again"]
        assert fast.destination.total() <= again.destination.total()


async def test_a_rehearsal_leaves_its_state_and_its_requests_are_not_counted(place: Stage) -> None:
    def asking(path: str, *more: str) -> list[str]:
        return ["sh", "-c", f'curl -fsS "$0{path}"; {"; ".join(more)}']

    def rehearsal(route: Route) -> list[str]:
        return [*asking("/v2/_catalog", 'mkdir "$REPLICATOR_STATE_DIR"'), f"http://{route.destination}"]

    def command(route: Route) -> list[str]:
        return [*asking("/v2/", 'test -d "$REPLICATOR_STATE_DIR"'), f"http://{route.destination}"]

    contest = Contest("", "", HELD, changes=False, contenders=[Contender("curl", command, rehearsal)])
    assert (await held(place, contest))["curl"].destination == {"GET /v2/": 1}


async def test_who_does_not_do_the_work_is_found_out(place: Stage) -> None:
    with pytest.raises(RunFailed, match="idle did not bring team-"):
        await hold(place, HELD, Contest("", "", {}, changes=True, contenders=[IDLE]), runs=1)
    with pytest.raises(RunFailed, match="idle made something else of team-a/app-0000:v1"):
        await hold(place, HELD, Contest("", "", before_changes(HELD, 12), changes=True, contenders=[IDLE]), runs=1)


async def test_a_destination_that_runs_change_is_a_runs_own(place: Stage) -> None:
    contest = Contest("", "", before_changes(HELD, 12), changes=True, contenders=[])

    async with place.destinations(contest) as destinations:
        for _ in range(2):
            async with destinations.run(list(HELD)) as run:
                with pytest.raises(RunFailed, match="made something else"):
                    await verify(run.registry, HELD, "nobody")
                await push(run.registry, destination_of("team-a/app-0000"), "v1", HELD["team-a/app-0000"]["v1"])
                await verify(run.registry, HELD, "somebody")


async def test_every_tag_is_verified() -> None:
    wanted = {"team-b/app": {"v1": image(1), "v2": image(2)}}

    async with distribution() as registry:
        await push(registry, "mirror-b/app", "v1", image(1))
        with pytest.raises(RunFailed, match="crane did not bring team-b/app:v2"):
            await verify(registry, wanted, "crane")
        await push(registry, "mirror-b/app", "v2", image(2))
        await verify(registry, wanted, "crane")


async def test_memory_is_measured_with_every_tag_listed() -> None:
    taken = await memory.take(4, [12, 24])

    assert [(one.work.outcome, one.standing.tags) for one in taken] == [
        (RowOutcome.UP_TO_DATE, 12),
        (RowOutcome.UP_TO_DATE, 24),
        (RowOutcome.WOULD_COPY, 12),
        (RowOutcome.WOULD_COPY, 24),
    ]
    for standing in (one.standing for one in taken):
        (run,) = standing.runs
        assert run.peak > MIB
        assert standing.api["GET repositories"] == len(PROJECTS)
        assert sum(number for kind, number in standing.destination.items() if "manifest" in kind) == standing.tags
    cells = list(memory.table(taken).columns[6].cells)
    assert [bool(cell) for cell in cells] == [False, True, False, True]


async def test_a_backfill_that_sees_too_little_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = memory.Work("fewer", missing=False, options=("--only", "team-a/**"), outcome=RowOutcome.UP_TO_DATE)
    monkeypatch.setattr(memory, "WORKS", (fewer,))

    with pytest.raises(RunFailed, match="fewer: not all of 12 tags are up to date"):
        await memory.take(4, [12])


@asynccontextmanager
async def made_up() -> AsyncIterator[tuple[str, str]]:
    everything = synthetic.held(4, 250)
    async with serve(synthetic.Harbor(everything)) as harbor, serve(synthetic.Destination(everything)) as destination:
        yield harbor, destination


async def test_the_synthetic_harbor_says_the_same_in_all_its_lists() -> None:
    async with made_up() as (harbor, destination), aiohttp.ClientSession() as session:

        async def pages(path: str) -> list[dict[str, object]]:
            rows: list[dict[str, object]] = []
            while True:
                page = len(rows) // 100 + 1
                url = URL(f"http://{harbor}/api/v2.0{path}?page={page}&page_size=100&sort=id")
                async with session.get(url) as answer:
                    assert answer.status == 200
                    rows += (more := await answer.json())
                    assert int(answer.headers["X-Total-Count"]) >= len(rows)
                    if len(more) < 100:
                        assert int(answer.headers["X-Total-Count"]) == len(rows)
                        return rows

        async def digest(host: str, repository: str, reference: object, method: str = "HEAD") -> str | None:
            async with session.request(method, f"http://{host}/v2/{repository}/manifests/{reference}") as answer:
                return answer.headers.get("Docker-Content-Digest") if answer.status == 200 else None

        assert [row["name"] for row in await pages("/projects")] == list(PROJECTS)
        counted = {
            row["name"]: row["artifact_count"]
            for project in PROJECTS
            for row in await pages(f"/projects/{project}/repositories")
        }
        assert counted == {name: 63 if place < 2 else 62 for place, name in enumerate(names(4))}
        rows = await pages("/projects/team-a/artifacts")
        assert [row["id"] for row in rows] == sorted({int(str(row["id"])) for row in rows})
        first = await pages("/projects/team-a/repositories/app-0000/artifacts")
        assert first == rows[:63]
        assert len({row["digest"] for row in rows}) == len(rows) == 63 + 62

        tags: list[str] = []
        url = "/v2/team-a/app-0000/tags/list?n=20"
        while url:
            async with session.get(f"http://{harbor}{url}") as answer:
                tags += (await answer.json())["tags"]
                url = URL(str(answer.links["next"]["url"])).path_qs if "next" in answer.links else ""
        assert tags == [row["tags"][0]["name"] for row in first]  # type: ignore[index] # of JSON
        for row, tag in list(zip(first, tags, strict=True))[:3]:
            assert await digest(harbor, "team-a/app-0000", tag) == row["digest"]
            assert await digest(harbor, "team-a/app-0000", row["digest"], "GET") == row["digest"]
            assert await digest(destination, "mirror-a/app-0000", tag) == row["digest"]
            assert await digest(destination, "mirror-a-missing/app-0000", tag) is None


async def test_the_command_line_prints_tables(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "drift", "--runs", "1", "--requests", "--storage", str(tmp_path)),
        *("--repositories", "2", "--backfill-tags", "4"),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert b"drift: 2 repositories, 4 tags" in said
    assert b"API: GET repositories" in said
    assert b"destination: PUT manifest" in said
