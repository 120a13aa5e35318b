"""Listings: what they find, and how few requests they take."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.replication.conftest import found_in, tags_of
from tests.standins.faults import Answer, Fault, Hold
from tests.standins.images import image, multi_arch, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.replication.conftest import House

ALL = {"HARBOR/**": "PLAIN/copy/{repository}"}
TEAM = {"HARBOR/team/**": "PLAIN/copy/{repository}"}


def names(repository: str, count: int) -> list[str]:
    return [f"{repository}:v{number}" for number in range(count)]


def own_tasks() -> list[str]:
    """The tasks of the listing, without those of the servers."""
    return [name for name in map(repr, asyncio.all_tasks()) if "merge_streams" in name]


async def test_each_tag_comes_with_its_digest_size_and_time(house: House) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    root = image(1)
    await push(house.harbor.host, "team/app", "v1", root, HARBOR_ROBOT)
    for images in (TEAM, {"HARBOR/team/app": "PLAIN/app"}):
        (found,) = found_in(await house.listed(images))
        assert str(found.asked.request.source) == f"{house.harbor.host}/team/app:v1"
        assert found.digest == root.digest
        assert found.size == len(root.content) + sum(blob.size for blob in root.blobs)
        assert found.pushed is not None
        assert before < found.pushed < datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.parametrize("images", [TEAM, {"HARBOR/team/app": "PLAIN/app"}])
async def test_the_parts_of_an_index_and_what_lost_its_tag_are_not_listed(house: House, images: dict[str, str]) -> None:
    root = multi_arch(1)
    await push(house.harbor.host, "team/app", "v1", image(2), HARBOR_ROBOT)
    await push(house.harbor.host, "team/app", "v1", root, HARBOR_ROBOT)
    assert tags_of(await house.listed(images)) == {"team/app:v1": root.digest}


async def test_a_tag_set_on_an_older_artifact_has_its_own_time(house: House) -> None:
    await push(house.harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
    await house.harbor.retag("team/app", "v1", "latest")
    times = {str(each.asked.request.source.tag): each.pushed for each in found_in(await house.listed(TEAM))}
    assert times["v1"] is not None
    assert times["latest"] is not None
    assert times["v1"] < times["latest"]


@pytest.mark.scale
async def test_a_project_is_listed_a_hundred_tags_a_request(house: House) -> None:
    put = await house.put(name for number in range(30) for name in names(f"team/app{number}", 7))
    batches = await house.listed(TEAM)
    assert [batch.error for batch in batches if batch.error] == []
    assert tags_of(batches) == put
    assert house.asked() == ["/projects/team/repositories", *["/projects/team/artifacts"] * 3]


async def test_every_list_is_requested_sorted_by_id(house: House) -> None:
    await house.put(["team/a:1"])
    await house.listed(ALL)
    for path, column in ("/projects$", "project_id"), ("/repositories$", "repository_id"), ("/artifacts$", "id"):
        queries = [entry.query for entry in house.harbor.faults.log.select("GET", path)]
        assert queries
        assert all(f"sort={column}" in query.split("&") for query in queries)


async def test_a_few_repositories_of_a_large_project_are_listed_one_by_one(house: House, small_pages: int) -> None:
    put = await house.put([*names("team/large", 3 * small_pages), *names("team/x/y", 2), *names("team/x/z", 2)])
    batches = await house.listed({"HARBOR/team/x/*": "PLAIN/copy/{repository}"})
    assert tags_of(batches) == {name: digest for name, digest in put.items() if "/x/" in name}
    assert sorted(house.asked()) == [
        "/projects/team/repositories",
        "/projects/team/repositories/x%2Fy/artifacts",
        "/projects/team/repositories/x%2Fz/artifacts",
    ]


async def test_repositories_of_several_patterns_are_listed_once(house: House) -> None:
    put = await house.put(["team/a:1", "team/b:1", "library/a:1"])
    images = ALL | {"HARBOR/team/*": "PLAIN/other/{name}", "HARBOR/team/a": "PLAIN/a"}
    assert set(tags_of(await house.listed(images))) == set(put)
    assert sorted(house.asked()) == [
        "/projects",
        "/projects/library/artifacts",
        "/projects/library/repositories",
        "/projects/team/artifacts",
        "/projects/team/repositories",
    ]


async def test_excluded_repositories_and_projects_are_not_listed(house: House) -> None:
    put = await house.put(["team/a:1", "team/cache/a:1", "secret/a:1"])
    # A login that may not see a project fails to list it, which must not be a failure of a rule that excludes it.
    house.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), "GET", "/projects/secret/", times=None))
    rule = {"to": "PLAIN/copy/{repository}", "repositories": {"exclude": ["secret/**", "team/cache/*"]}}
    batches = await house.listed({"HARBOR/**": rule})
    assert [batch.error for batch in batches if batch.error] == []
    assert tags_of(batches) == {"team/a:1": put["team/a:1"]}
    assert house.asked("secret") == house.asked("cache") == []


async def test_a_single_repository_takes_one_request_a_page_and_one_to_detect_harbor(
    house: House, small_pages: int
) -> None:
    put = await house.put([*names("team/app/api", small_pages + 1), "team/b:1"])
    images = {"HARBOR/team/app/api": "PLAIN/api", "HARBOR/team/b": "PLAIN/b"}
    assert tags_of(await house.listed(images)) == put
    assert sorted(house.asked()) == [
        "/ping",
        *["/projects/team/repositories/app%2Fapi/artifacts"] * 2,
        "/projects/team/repositories/b/artifacts",
    ]


async def test_tags_that_the_rules_name_are_not_listed(house: House) -> None:
    batches = await house.listed({"HARBOR/team/app:v1,v2": "PLAIN/app"})
    assert tags_of(batches) == {"team/app:v1": None, "team/app:v2": None}
    assert house.asked() == []


async def test_a_numeric_project_is_taken_by_its_name(house: House) -> None:
    house.harbor.add_project("2024")
    put = await house.put(["2024/app:1", "2024/a/b:1"])
    assert tags_of(await house.listed({"HARBOR/2024/**": "PLAIN/copy/{repository}"})) == put
    assert tags_of(await house.listed({"HARBOR/2024/a/b": "PLAIN/b"})) == {"2024/a/b:1": put["2024/a/b:1"]}


async def test_the_latest_are_chosen_among_the_tags_of_all_pages(house: House, small_pages: int) -> None:
    put = await house.put([*(f"team/app:1.{number}" for number in range(3 * small_pages)), "team/other:1"])
    images = {"HARBOR/team/app": {"to": "PLAIN/app", "tags": {"latest": 2}}} | TEAM
    batches = await house.listed(images)
    chosen = {
        str(each.asked.request.source.tag)
        for each in found_in(batches)
        if each.asked.request.destination.repository.name == "app"
    }
    assert chosen == {"1.13", "1.14"}
    assert tags_of(batches) == put


async def test_the_first_tags_are_yielded_before_the_second_page_is_read(house: House, small_pages: int) -> None:
    put = await house.put(names("team/app", 3 * small_pages))
    second = Hold()
    house.harbor.faults.add(Fault(second, "GET", "/artifacts", query="page=2&"))
    async with house.listing(TEAM) as batches:
        first = await anext(batches)
        assert len(first.found) == small_pages
        second.released.set()
        assert len(found_in([first, *[batch async for batch in batches]])) == len(put)


async def test_closing_a_listing_in_the_middle_ends_all_its_tasks(house: House, small_pages: int) -> None:
    await house.put(name for number in range(6) for name in names(f"team/app{number}", 2 * small_pages))
    async with house.listing({"HARBOR/team/app*": {"to": "PLAIN/{name}", "tags": {"latest": 99}}}) as batches:
        await anext(batches)
        assert own_tasks()
        await batches.aclose()
        assert own_tasks() == []


@pytest.mark.parametrize("images", [TEAM, {"HARBOR/team/app": "PLAIN/app"}])
async def test_a_deletion_during_the_listing_hides_no_other_tag(
    house: House, small_pages: int, images: dict[str, str]
) -> None:
    put = await house.put(names("team/app", 5 * small_pages))
    shown = await house.listed(images)
    deleted = [found.digest for found in found_in(shown)[1:3]]
    third = Hold()
    held = house.harbor.faults.add(Fault(third, "GET", "/artifacts", query="page=3&"))
    listing = asyncio.create_task(house.listed(images))
    async with asyncio.timeout(30):
        while not held.hits:
            await asyncio.sleep(0.01)
    for digest in deleted:
        await house.delete("team/app", str(digest))
    third.released.set()
    found = await listing
    assert set(put.items()) - set(tags_of(found).items()) == set()


async def test_repositories_that_no_destination_can_hold_are_named(house: House) -> None:
    await house.put(["team/fits:v1", *(f"team/nested/app{number:02}:v1" for number in range(23))])
    aliyun = "registry.cn-beijing.aliyuncs.com"
    batches = await house.listed({"HARBOR/team/**": ["PLAIN/copy/{repository}", f"{aliyun}/mirror/{{name}}"]})
    warnings = [warning for batch in batches for warning in batch.warnings]
    assert len(warnings) == 21
    left_out = f"{house.harbor.host}/team/nested/app00 is left out: rule {house.harbor.host}/team/**: "
    assert warnings[0].startswith(f"{left_out}ACR can't hold mirror/nested/app00: ")
    assert warnings[-1] == "3 more are left out for such reasons"
    assert len(tags_of(batches)) == 24


@pytest.mark.parametrize("shown", [False, True])
async def test_a_repository_missing_in_its_projects_list_is_listed_alone(house: House, *, shown: bool) -> None:
    put = await house.put(["team/a:v1", "team/b:v1", "team/b:v2"])
    row = {"id": 1, "repository_name": "team/a", "digest": put["team/a:v1"], "tags": [{"name": "v1"}]}
    rows = [row] if shown else []
    headers = {"X-Total-Count": str(len(rows)), "Content-Type": "application/json"}
    answer = Answer(200, headers=headers, body=json.dumps(rows).encode())
    house.harbor.faults.add(Fault(answer, "GET", "/projects/team/artifacts", times=None))
    assert tags_of(await house.listed(TEAM)) == put
    assert house.harbor.faults.log.count("GET", "/repositories/a/artifacts") == (0 if shown else 1)
