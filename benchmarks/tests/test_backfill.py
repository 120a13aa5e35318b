"""The benchmarks of backfills keep their promises, at a size that says nothing about speed."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from benchmarks import programs, report
from benchmarks.backfill import synthetic
from benchmarks.backfill.content import PROJECTS, before_changes, content, destination_of, names, tags_of
from benchmarks.contest import Contest, Standing
from benchmarks.holding import hold
from benchmarks.kinds import kind
from benchmarks.rows import ROWS, Scale
from replicator.replication.report import RowOutcome
from tests.standins.faults import Entry
from tests.standins.images import blobs_of
from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HELD = content(4, 12)
BLOBS = 12 * 2 + 4
"""A config and a layer for each tag, and the base of each repository."""


async def held(storage: Path, contest: Contest) -> dict[str, Standing]:
    """Everyone once, as requests are counted, by name."""
    standings = {standing.name: standing for standing in await hold(contest, runs=0, storage=storage)}
    assert {name: standing.problem for name, standing in standings.items()} == dict.fromkeys(standings, "")
    assert not list(storage.iterdir()), "something was left behind"
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


async def test_everyone_brings_all_repositories(tmp_path: Path) -> None:
    others = programs.mirrors("replicator", "regctl", "oras", skopeo=2)
    contest = Contest("", HELD, [*programs.backfills(), *others], harbor=True)
    standings = await held(tmp_path, contest)

    assert {"replicator", "skopeo"} <= set(standings)
    for name, standing in standings.items():
        # Who is slow was given two of the four repositories.
        assert standing.tags == (6 if name == "skopeo" else 0)
        tags = standing.tags or 12
        assert standing.requests["Harbor"]["GET blob"] >= tags * 2
        assert standing.requests["destination"]["PUT manifest"] == tags
        assert standing.requests["destination"]["PUT upload"] >= tags * 2
    assert standings["replicator"].requests["API"]["GET repositories"] == len(PROJECTS)
    assert standings["replicator"].requests["Harbor"]["GET blob"] == BLOBS
    assert standings["replicator"].requests["destination"]["PUT upload"] == BLOBS


async def test_nobody_sends_what_is_in_place(tmp_path: Path) -> None:
    contenders = [*programs.backfills(), *programs.backfills(", again", again=True), *programs.mirrors("replicator")]
    contenders = [one for one in contenders if one.name not in {"regctl", "oras"}]
    contest = Contest("", HELD, contenders, before=HELD, harbor=True)
    standings = await held(tmp_path, contest)

    for standing in standings.values():
        assert {kind.split()[0] for kind in standing.requests["destination"]} <= {"GET", "HEAD"}
        assert not standing.requests["Harbor"]["GET blob"]
    first, again = standings["replicator"].requests, standings["replicator, again"].requests
    assert first["destination"]["HEAD manifest"] == 12
    # What was asked before its state was there is not counted.
    assert again["destination"]["HEAD manifest"] <= 12
    rows = report.requests_table(report.Result("warm", ROWS["warm"], contest, list(standings.values()), 1.0))
    assert list(rows.columns[0].cells)[-1] == "all"
    assert list(rows.columns[1].cells)[-1] == str(sum(count.total() for count in first.values()))


async def test_of_what_has_drifted_only_the_changed_tags_are_sent(tmp_path: Path) -> None:
    before = before_changes(HELD, 100)
    contest = Contest("", HELD, programs.backfills(), before=before, harbor=True)
    (replicator,) = (await held(tmp_path, contest)).values()

    # The first of twelve: one in a hundred, and at least one. Its base is there.
    assert replicator.requests["destination"]["PUT manifest"] == 1
    assert replicator.requests["destination"]["PUT upload"] == 2
    assert replicator.requests["Harbor"]["GET blob"] == 2


async def test_fast_asks_no_more_than_a_second_backfill(tmp_path: Path) -> None:
    fast, again = (await held(tmp_path, ROWS["fast"].make(Scale(number=0)))).values()
    assert fast.requests["destination"].total() <= again.requests["destination"].total()


async def test_who_makes_something_else_is_found_out(tmp_path: Path) -> None:
    idle = programs.contender("idle", lambda _: ["true"])
    contest = Contest("", HELD, [idle], before=before_changes(HELD, 12), harbor=True)
    (standing,) = await hold(contest, runs=1, storage=tmp_path)
    assert standing.problem == "idle made another manifest of team-a/app-0000:v1"


@pytest.mark.parametrize(("name", "tags"), [("inplace", 10_000), ("dryrun", 10_000)])
async def test_every_tag_is_listed_where_nothing_is_stored(name: str, tags: int, tmp_path: Path) -> None:
    contest = ROWS[name].make(Scale(number=12 / tags))
    assert contest.synthetic == (3, 12)
    standings = await held(tmp_path, contest)

    replicator = standings["replicator"]
    assert replicator.requests["API"]["GET repositories"] == len(PROJECTS)
    for standing in standings.values():
        destination = standing.requests["destination"]
        assert sum(number for kind, number in destination.items() if "manifest" in kind) >= (standing.tags or 12)
        assert {kind.split()[0] for kind in destination} <= {"GET", "HEAD"}


async def test_a_backfill_that_sees_too_little_is_found_out(tmp_path: Path) -> None:
    contenders = programs.backfills("", "--only", "team-a/**", says=RowOutcome.UP_TO_DATE)
    (standing,) = await hold(Contest("", {}, contenders, synthetic=(3, 12)), runs=1, storage=tmp_path)
    assert "not all of 12 tags are up to date" in standing.problem


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
