"""Listings of an old Harbor, of one that refuses, and of other registries; and tags that only ``tags/list`` shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from replicator.copy import Accessories
from replicator.harbor import HarborApi
from replicator.reference import Repository
from replicator.registry import Access, Registries
from replicator.registry.errors import ConnectionFailed, NotFound, RegistryError
from replicator.replication.listing import Listing
from tests.replication.conftest import QUICK, found_in, tags_of
from tests.standins.cosign import cosign_signature
from tests.standins.faults import Answer, Cut, Fault, Redirect
from tests.standins.images import cosign_tag, image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.replication.conftest import House

TEAM = {"HARBOR/team/**": "PLAIN/copy/{repository}"}


async def test_a_harbor_that_lists_no_projects_artifacts_is_listed_repository_by_repository(house: House) -> None:
    put = await house.put(["team/a:1", "team/b/c:1", "library/a:1", "library/b:1"])
    house.harbor.api.lists_projects_artifacts = False
    images = TEAM | {"HARBOR/library/*": "PLAIN/copy/{repository}"}
    batches = await house.listed(images)
    assert tags_of(batches) == put
    assert [batch.warnings for batch in batches if batch.warnings] == []
    assert len(house.asked("/repositories/.*/artifacts")) == 4
    assert house.asked("tags/list") == []


@pytest.mark.parametrize("images", [TEAM, {"HARBOR/team/a": "PLAIN/a", "HARBOR/team/b": "PLAIN/b"}])
async def test_a_login_without_artifact_list_lists_tags_and_is_warned_about_once(
    house: House, images: dict[str, str]
) -> None:
    put = await house.put(["team/a:1", "team/a:2", "team/b:1"])
    denied = house.harbor.faults.add(Fault(Answer(403, "DENIED"), "GET", "/artifacts", times=None))
    batches = await house.listed(images)
    assert tags_of(batches) == dict.fromkeys(put)
    (warning,) = [warning for batch in batches for warning in batch.warnings]
    assert house.harbor.host in warning
    assert "artifact:list" in warning
    assert denied.hits <= len(images)
    assert len(house.asked("tags/list")) == 2


async def test_a_public_project_is_listed_without_a_login_repository_by_repository_and_with_digests(
    house: House,
) -> None:
    """Harbor refuses the list of a whole project to everyone without a login."""
    put = await house.put(["library/a:1", "library/b:1", "library/b:2"])
    rules = house.rules({"HARBOR/library/*": "PLAIN/{name}"})
    house.harbor.faults.log.clear()
    async with Registries(lambda _: Access(insecure=True), timing=QUICK) as registries:
        batches = [batch async for batch in Listing(rules, registries).batches()]
    assert tags_of(batches) == put
    assert [batch.warnings for batch in batches if batch.warnings] == []
    assert house.asked("tags/list") == house.asked("/projects/library/artifacts") == []


async def test_a_missing_project_is_an_error_and_no_warning(house: House) -> None:
    (batch,) = await house.listed({"HARBOR/nowhere/app": "PLAIN/app"})
    assert batch.what == f"{house.harbor.host}/nowhere/app"
    assert isinstance(batch.error, RegistryError)
    assert batch.warnings == ()


async def test_any_registry_is_listed_and_harbor_is_detected_once(house: House) -> None:
    put = await house.put(["team/a:1", "team/b:1", "plain:1"])
    house.harbor.faults.add(Fault(Answer(404), "GET", "/api/", times=None))
    images = {f"HARBOR/{name}": "PLAIN/" + name for name in ("team/a", "team/b")} | {"BEHIND/plain": "PLAIN/plain"}
    batches = await house.listed(images)
    assert tags_of(batches) == dict.fromkeys(put)
    assert [batch.warnings for batch in batches if batch.warnings] == []
    assert house.asked("/api/") == ["/ping"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404),
        Answer(401, "UNAUTHORIZED"),
        Answer(403),
        Answer(200, body=b"<html>Welcome</html>"),
        Answer(200, body=b"Pong" * 1000),
        Redirect(location="/v2/"),
    ],
)
async def test_any_other_answer_to_ping_is_not_a_harbor(house: House, answer: Answer | Redirect) -> None:
    house.harbor.faults.add(Fault(answer, "GET", "/ping", times=None))
    assert await is_harbor(house) is False


async def test_a_harbor_is_detected_without_a_login_and_a_transient_error_decides_nothing(house: House) -> None:
    assert await is_harbor(house)
    assert await is_harbor(house, Access(username="no", password="body", insecure=True))
    house.harbor.faults.add(Fault(Cut(None, "reset"), "GET", "/ping", times=None))
    with pytest.raises(ConnectionFailed):
        await is_harbor(house)
    put = await house.put(["team/a:1"])
    assert tags_of(await house.listed({"HARBOR/team/a": "PLAIN/a"})) == dict.fromkeys(put)


async def is_harbor(house: House, access: Access | None = None) -> bool:
    async with Registries(lambda _: access or Access(insecure=True), timing=QUICK) as registries:
        place = Repository(house.harbor.host, "team/x")
        return await HarborApi(place.registry, registries.transport(place)).is_harbor()


@pytest.mark.parametrize(
    "images",
    [
        TEAM,
        {"HARBOR/team/signed": "PLAIN/signed", "HARBOR/team/plain": "PLAIN/plain"},
        {"HARBOR/team/*": {"to": "PLAIN/{name}", "tags": {"latest": 9}, "signatures": True}},
    ],
)
async def test_signatures_come_with_the_artifact_and_cost_no_request(house: House, images: dict[str, str]) -> None:
    root = image(1)
    await push(house.harbor.host, "team/signed", "v1", root, HARBOR_ROBOT)
    await push(house.harbor.host, "team/signed", cosign_tag(root), cosign_signature(root), HARBOR_ROBOT)
    # One of those is an artifact of the list itself.
    put = await house.put(["team/plain:1", f"team/signed:{cosign_tag(root, '')}"])
    batches = await house.listed(images)
    assert tags_of(batches) == put | {"team/signed:v1": root.digest}
    attached = {found.accessories for found in found_in(batches) if found.request.source.tag == "v1"}
    assert attached == {Accessories(root.digest, (cosign_signature(root).digest,))}
    assert house.asked("tags/list") == []


async def test_a_repository_that_vanished_is_left_out_unless_a_rule_names_it(house: House) -> None:
    put = await house.put(["team/gone:1", "team/here:1"])
    house.harbor.api.lists_projects_artifacts = False
    house.harbor.faults.add(Fault(Answer(200, body=b"[]"), "GET", "/repositories/gone/artifacts", times=None))
    house.harbor.faults.add(Fault(Answer(404, "NAME_UNKNOWN"), "GET", "/team/gone/tags/list", times=None))
    batches = await house.listed(TEAM)
    assert [batch.error for batch in batches] == [None]
    assert tags_of(batches) == {"team/here:1": put["team/here:1"]}
    batches = await house.listed(TEAM | {"HARBOR/team/gone": "PLAIN/gone"})
    (error,) = [batch for batch in batches if batch.error is not None]
    assert error.what == f"{house.harbor.host}/team/gone"
    assert isinstance(error.error, NotFound)
    assert set(tags_of(batches)) == {"team/here:1"}


async def test_a_repository_that_a_rule_names_and_is_not_there_is_an_error(house: House) -> None:
    (batch,) = await house.listed({"HARBOR/team/missing": "PLAIN/app"})
    assert batch.what == f"{house.harbor.host}/team/missing"
    assert isinstance(batch.error, NotFound)


async def test_an_empty_repository_of_a_pattern_costs_one_request(house: House, small_pages: int) -> None:
    put = await house.put([*(f"team/large:{number}" for number in range(3 * small_pages)), "team/x/empty:1"])
    await house.delete("team/x/empty", put["team/x/empty:1"])
    assert await house.listed({"HARBOR/team/x/*": "PLAIN/copy/{name}"}) == []
    assert house.asked("empty") == ["/projects/team/repositories/x%2Fempty/artifacts"]


@pytest.mark.parametrize("answer", [Answer(404, "NOT_FOUND"), Answer(200, body=b"[]")])
async def test_tags_that_only_the_registry_has_are_found(house: House, answer: Answer) -> None:
    put = await house.put(["team/a/b:1"])
    house.harbor.api.lists_projects_artifacts = False
    # As behind a proxy that decodes the path.
    house.harbor.faults.add(Fault(answer, "GET", "/repositories/a%2Fb/artifacts", times=None))
    batches = await house.listed(TEAM)
    assert tags_of(batches) == dict.fromkeys(put)
    assert [batch.warnings for batch in batches] == [()]


@pytest.mark.parametrize("images", [TEAM, {"HARBOR/team/app": "PLAIN/app"}])
async def test_an_empty_page_does_not_end_the_list(house: House, small_pages: int, images: dict[str, str]) -> None:
    put = await house.put(f"team/app:v{number}" for number in range(2 * small_pages))
    foreign = json.dumps([{"id": number, "repository_name": "library/x", "digest": 5} for number in range(5)])
    junk = house.harbor.faults.add(Fault(Answer(200, body=foreign.encode()), "GET", "/artifacts", query="page=1&"))
    found = tags_of(await house.listed(images))
    assert junk.hits == 1
    assert len(found) == small_pages
    assert found.items() <= put.items()


async def test_a_repository_that_can_not_be_listed_hides_no_other(house: House) -> None:
    put = await house.put(["team/a:1", "library/a:1"])
    house.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), "GET", "/projects/library/repositories", times=None))
    images = {
        "HARBOR/**": "PLAIN/copy/{repository}",
        "HARBOR/library/*": "PLAIN/library/{name}",
        "BEHIND/x/*": "PLAIN/x/{name}",
    }
    batches = await house.listed(images)
    errors = {batch.what for batch in batches if batch.error is not None}
    assert errors == {f"{house.harbor.host}/library/", f"{house.harbor.host}/library/*", f"{house.behind}/x/*"}
    assert tags_of(batches) == {"team/a:1": put["team/a:1"]}


async def test_a_project_that_fails_in_the_middle_is_reported_and_its_first_tags_are_kept(
    house: House, small_pages: int
) -> None:
    await house.put(f"team/app:{number}" for number in range(3 * small_pages))
    await house.put(["library/a:1"])
    house.harbor.faults.add(Fault(Answer(404), "GET", "/artifacts", query="page=3&", times=None))
    batches = await house.listed(TEAM | {"HARBOR/library/*": "PLAIN/library/{name}"})
    (error,) = [batch for batch in batches if batch.error is not None]
    assert error.what == f"{house.harbor.host}/team/"
    assert len(found_in(batches)) == 2 * small_pages + 1
