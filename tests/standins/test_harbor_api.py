"""The Harbor stand-in's REST API shows what the registry behind it holds, by Harbor's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from tests.standins.cosign import cosign_signature
from tests.standins.images import cosign_tag, image, index, multi_arch, push
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT, basic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.harbor import HarborStandIn

pytest_plugins = ["tests.standins.fixtures"]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


async def api(
    client: aiohttp.ClientSession,
    harbor: HarborStandIn,
    path: str,
    *,
    method: str = "GET",
    account: Any = HARBOR_ADMIN,
    headers: dict[str, str] | None = None,
    body: Any = None,
) -> tuple[int, Any, Any]:
    """Return status, headers and JSON."""
    url = URL(f"{harbor.url}/api/v2.0{path}", encoded=True)
    sent = (basic(account) if account else {}) | (headers or {})
    async with client.request(method, url, headers=sent, json=body) as answer:
        is_json = answer.content_type == "application/json"
        return answer.status, answer.headers, await answer.json() if is_json else await answer.text()


async def test_lists_are_paged_and_bounded(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    for number in range(23):
        harbor.add_project(f"p{number:02}")
    status, headers, rows = await api(session, harbor, "/projects?page=3&page_size=10&sort=project_id")
    assert (status, headers["X-Total-Count"], len(rows)) == (200, "25", 5)
    assert [row["project_id"] for row in rows] == [21, 22, 23, 24, 25]
    assert (await api(session, harbor, "/projects?page=4&page_size=10"))[2] == []
    for bad in ("page_size=101", "page_size=x", "page=x"):
        assert (await api(session, harbor, f"/projects?{bad}"))[0] == 422, bad
    for unbounded in ("page_size=0", "page_size=-1"):
        assert len((await api(session, harbor, f"/projects?{unbounded}"))[2]) == 25
    assert len((await api(session, harbor, "/projects?page=0"))[2]) == 10


async def test_a_sort_by_what_is_no_column_is_passed_over(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    for number in (1, 2):
        await push(harbor.host, f"team/{number}", "v1", image(1), HARBOR_ROBOT)
    for sort, names in ("repository_id", ["team/1", "team/2"]), ("id", ["team/2", "team/1"]):
        rows = (await api(session, harbor, f"/projects/team/repositories?sort={sort}"))[2]
        assert [row["name"] for row in rows] == names
    harbor.add_project("a")
    for sort, names in ("project_id", ["library", "team", "a"]), ("id", ["a", "library", "team"]):
        assert [row["name"] for row in (await api(session, harbor, f"/projects?sort={sort}"))[2]] == names


async def test_projects_are_shown_to_whom_they_concern(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    names = {row["name"] for row in (await api(session, harbor, "/projects", account=None))[2]}
    assert names == {"library"}
    assert (await api(session, harbor, "/projects/team/repositories", account=None))[0] == 401
    assert (await api(session, harbor, "/projects/missing/repositories", account=HARBOR_ROBOT))[0] == 403
    assert (await api(session, harbor, "/projects/missing/repositories"))[0] == 404
    # Without a login, a public project's artifacts are listed by repository only.
    assert (await api(session, harbor, "/projects/library/artifacts", account=None))[0] == 401
    assert (await api(session, harbor, "/projects/library/repositories/x/artifacts", account=None))[0] == 200


async def test_a_numeric_project_name_needs_its_header(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    harbor.add_project("2024")
    named = await api(session, harbor, "/projects/2024", headers={"X-Is-Resource-Name": "true"})
    assert (named[0], named[2]["name"]) == (200, "2024")
    assert (await api(session, harbor, "/projects/2024"))[0] == 404
    assert (await api(session, harbor, "/projects/1"))[2]["name"] == "library"


async def test_a_repository_with_a_slash_is_encoded_twice(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    await push(harbor.host, "team/app/api", "1", image(1), HARBOR_ROBOT)
    rows = (await api(session, harbor, "/projects/team/repositories"))[2]
    assert [(row["name"], row["artifact_count"]) for row in rows] == [("team/app/api", 1)]
    twice = await api(session, harbor, "/projects/team/repositories/app%252Fapi/artifacts")
    assert twice[2][0]["tags"][0]["name"] == "1"
    assert (await api(session, harbor, "/projects/team/repositories/app%2Fapi/artifacts"))[0] == 404


async def test_artifacts_are_what_the_registry_holds(
    harbor: HarborStandIn, harbor_upstream: str, session: aiohttp.ClientSession
) -> None:
    both, single = multi_arch(1), image(9, docker=True)
    await push(harbor.host, "team/app", "v1", both, HARBOR_ROBOT)
    await harbor.retag("team/app", "v1", "latest")
    # Not pushed through Harbor, and yet it is there.
    await push(harbor_upstream, "team/app", "old", single)
    path = "/projects/team/repositories/app/artifacts?with_tag=true&sort=id"
    status, headers, rows = await api(session, harbor, path)
    assert (status, headers["X-Total-Count"]) == (200, "2")
    index_row, single_row = rows
    assert index_row["digest"] == both.digest
    assert index_row["media_type"] == both.media_type
    assert [tag["name"] for tag in index_row["tags"]] == ["latest", "v1"]
    assert {child["child_digest"] for child in index_row["references"]} == {child.digest for child in both.children}
    assert single_row["media_type"] == "application/vnd.docker.container.image.v1+json"
    assert single_row["size"] == len(single.content) + sum(blob.size for blob in single.blobs)
    untagged = await api(session, harbor, "/projects/team/repositories/app/artifacts?with_tag=false")
    assert [row["tags"] for row in untagged[2]] == [None, None]
    missing = await api(session, harbor, "/projects/team/repositories/none/artifacts")
    assert (missing[0], missing[2]) == (200, [])


async def test_an_artifact_whose_tag_moved_on_stays_without_a_tag(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    for number in (1, 2):
        await push(harbor.host, "team/app", "latest", image(number), HARBOR_ROBOT)
    rows = (await api(session, harbor, "/projects/team/repositories/app/artifacts?sort=id"))[2]
    assert [(row["digest"], row["tags"] and row["tags"][0]["name"]) for row in rows] == [
        (image(1).digest, None),
        (image(2).digest, "latest"),
    ]


async def test_accessories_are_tags_but_no_artifacts(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    signed, signature, attestation = image(1), cosign_tag(image(1)), cosign_tag(image(1), ".att")
    await push(harbor.host, "team/app", "1", signed, HARBOR_ROBOT)
    await push(harbor.host, "team/app", signature, cosign_signature(signed), HARBOR_ROBOT)
    # Attestations in cosign's old form are none, nor is what only has the tag of a signature.
    await push(harbor.host, "team/app", attestation, image(2), HARBOR_ROBOT)
    await push(harbor.host, "team/app", cosign_tag(image(4)), image(3), HARBOR_ROBOT)
    rows = (await api(session, harbor, "/projects/team/repositories/app/artifacts?sort=id"))[2]
    assert [row["digest"] for row in rows] == [signed.digest, image(2).digest, image(3).digest]
    async with session.get(f"{harbor.url}/v2/team/app/tags/list", headers=basic(HARBOR_ROBOT)) as answer:
        assert {"1", signature, attestation} < set((await answer.json())["tags"])


async def test_accessories_are_shown_with_what_they_are_attached_to_when_asked_for(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    signed, other = image(1), image(3)
    await push(harbor.host, "team/app", "1", signed, HARBOR_ROBOT)
    await push(harbor.host, "team/app", cosign_tag(signed), cosign_signature(signed), HARBOR_ROBOT)
    await push(harbor.host, "team/app", "2", other, HARBOR_ROBOT)
    path = "/projects/team/repositories/app/artifacts?sort=id"
    rows = (await api(session, harbor, f"{path}&with_accessory=true"))[2]
    assert [row["digest"] for row in rows] == [signed.digest, other.digest]
    (shown,) = rows[0]["accessories"]
    assert (shown["type"], shown["digest"]) == ("signature.cosign", cosign_signature(signed).digest)
    assert (shown["subject_artifact_digest"], shown["subject_artifact_repo"]) == (signed.digest, "team/app")
    assert rows[1]["accessories"] is None
    assert {row["accessories"] for row in (await api(session, harbor, path))[2]} == {None}


async def test_a_tag_has_a_time_of_its_own_that_moves_with_it(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    async def times() -> tuple[dict[str, str], dict[str, str]]:
        """When artifacts were pushed, by digest; when tags were set, by name."""
        rows = (await api(session, harbor, "/projects/team/repositories/app/artifacts?sort=id"))[2]
        tags = {tag["name"]: tag["push_time"] for row in rows for tag in row["tags"] or ()}
        return {row["digest"]: row["push_time"] for row in rows}, tags

    for number in (1, 2):
        await push(harbor.host, "team/app", f"v{number}", image(number), HARBOR_ROBOT)
    await harbor.retag("team/app", "v1", "latest")
    artifacts, tags = await times()
    await harbor.retag("team/app", "v2", "latest")
    later_artifacts, later_tags = await times()
    assert later_artifacts == artifacts
    assert later_tags.pop("latest") > tags.pop("latest")
    assert later_tags == tags


async def test_a_whole_project_is_listed_unless_harbor_is_older(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    await push(harbor.host, "team/a", "1", image(1), HARBOR_ROBOT)
    await push(harbor.host, "team/b/c", "1", index([image(2)]), HARBOR_ROBOT)
    rows = (await api(session, harbor, "/projects/team/artifacts?sort=id&with_tag=true"))[2]
    assert [row["repository_name"] for row in rows] == ["team/a", "team/b/c"]
    harbor.api.lists_projects_artifacts = False
    assert (await api(session, harbor, "/projects/team/artifacts"))[0] == 404


async def test_health_is_a_200_even_when_it_is_not_good(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    assert (await api(session, harbor, "/health", account=None))[2]["status"] == "healthy"
    harbor.api.healthy = False
    status, _, document = await api(session, harbor, "/health", account=None)
    assert (status, document["status"]) == (200, "unhealthy")
    assert (await api(session, harbor, "/ping", account=None))[0] == 200
    assert (
        not {"harbor_version", "notification_enable"}
        & (await api(session, harbor, "/systeminfo", account=None))[2].keys()
    )
    shown = (await api(session, harbor, "/systeminfo"))[2]
    assert shown["harbor_version"].startswith("v2.16")
    assert (shown["notification_enable"], shown["registry_url"]) == (True, harbor.host)
    assert shown["external_url"] == harbor.url
