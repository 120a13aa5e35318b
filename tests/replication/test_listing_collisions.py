"""Collisions: sources on their way to one destination, found before the first of them is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from replicator.registry import Registries
from replicator.replication.listing import Listing, warn_of_collisions
from replicator.replication.transfer import access_by
from tests.replication.conftest import QUICK, tags_of
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push

if TYPE_CHECKING:
    from collections.abc import Iterable

    from replicator.replication.listing import Batch
    from replicator.rules import Collision
    from tests.replication.conftest import House


def refused_in(batches: Iterable[Batch]) -> dict[str, list[str]]:
    """The sources of each collision by ``repository:tag``, without hosts."""
    return {
        str(each.asked.request.source).partition("/")[2]: [
            str(source).partition("/")[2] for source in each.collision.sources
        ]
        for batch in batches
        for each in batch.refused
        if each.collision is not None
    }


async def test_neither_of_two_colliding_sources_is_copied_and_both_are_reported(house: House) -> None:
    put = await house.put(["team/a/b-c:v1", "team/a-b/c:v1", "team/a-b/c:v2", "team/other:v1"])
    batches = await house.listed({"HARBOR/team/**": "PLAIN/copy/{flat}"})
    both = ["team/a-b/c:v1", "team/a/b-c:v1"]
    assert refused_in(batches) == dict.fromkeys(both, both)
    assert tags_of(batches) == {name: digest for name, digest in put.items() if name not in both}
    (text,) = {str(each.collision) for batch in batches for each in batch.refused}
    first, second = (f"{house.harbor.host}/{source}" for source in both)
    assert text == f"registry.example.com/copy/team-a-b-c:v1 would come from {first} and from {second}"


async def test_sources_of_different_projects_and_registries_collide(house: House) -> None:
    await house.put(["team/app:v1", "library/app:v1", "library/app:v2", "x:v1"])
    images = {"HARBOR/*/app:v*": "PLAIN/copy/{project}-{name}"}
    assert refused_in(await house.listed(images)) == {}
    images = {
        "HARBOR/team/*:v*": "PLAIN/copy/{name}",
        "HARBOR/library/*:v*": "PLAIN/copy/{name}",
        "BEHIND/x:v*": "PLAIN/copy/app",
    }
    batches = await house.listed(images)
    all_three = {"x:v1", "library/app:v1", "team/app:v1"}
    refused = refused_in(batches)
    assert set(refused) == all_three
    assert all(set(sources) == all_three for sources in refused.values())
    assert set(tags_of(batches)) == {"library/app:v2"}


async def test_only_what_may_collide_is_read_ahead(house: House) -> None:
    await house.put(["team/a/b-c:v1", "team/a-b/c:v1", *(f"team/x{number}:v1" for number in range(5))])
    async with house.listing({"HARBOR/team/**": "PLAIN/copy/{flat}"}) as batches:
        await anext(batches)
        before = house.asked()
    assert before[0] == "/projects/team/repositories"
    assert sorted(before[1:3]) == ["/v2/team/a-b/c/tags/list", "/v2/team/a/b-c/tags/list"]
    assert before[3:] == ["/projects/team/artifacts"]


async def test_a_renamed_tag_can_collide_with_one_of_its_own_repository(house: House) -> None:
    put = await house.put(["team/app:v1", "team/app:v2", "team/app:v3"])
    images = {"HARBOR/team/app:v1": "PLAIN/app:v2", "HARBOR/team/app:v*": "PLAIN/app"}
    batches = await house.listed(images)
    both = ["team/app:v1", "team/app:v2"]
    assert refused_in(batches) == dict.fromkeys(both, both)
    # The copy under its own name is made all the same.
    assert tags_of(batches) == {name: put[name] for name in ("team/app:v1", "team/app:v3")}


async def test_copies_by_digest_never_collide(house: House) -> None:
    digest = (await house.put(["team/a:v1", "team/b:v1"]))["team/a:v1"]
    images = {f"HARBOR/team/{name}@{digest}": "PLAIN/copy" for name in "ab"}
    batches = await house.listed(images)
    assert refused_in(batches) == {}
    assert len([each for batch in batches for each in batch.found]) == 2
    assert house.asked() == []


async def test_a_source_outside_the_narrowing_can_collide_too(house: House) -> None:
    await house.put(["team/a:v1", "team/b:v1"])
    images: dict[str, Any] = {"HARBOR/team/*:v1": "PLAIN/copy/{name}", "HARBOR/team/b": {"to": "PLAIN/copy/a"}}
    batches = await house.listed(images, only=["team/*:v1"], keys=["HARBOR/team/*:v1"])
    assert refused_in(batches) == {"team/a:v1": ["team/a:v1", "team/b:v1"]}
    assert set(tags_of(batches)) == {"team/b:v1"}


async def test_a_repository_that_can_not_be_read_ahead_is_not_copied(house: House) -> None:
    await house.put(["team/a/b-c:v1", "team/a-b/c:v1", "team/x:v1"])
    house.harbor.faults.add(Fault(Answer(403, "DENIED"), "GET", "/team/a/b-c/tags/list", times=None))
    batches = await house.listed({"HARBOR/team/**": "PLAIN/copy/{flat}"})
    assert [batch.what for batch in batches if batch.error] == [f"{house.harbor.host}/team/a/b-c"]
    assert set(tags_of(batches)) == {"team/a-b/c:v1", "team/x:v1"}


async def test_sources_with_the_same_image_do_not_collide(house: House) -> None:
    for repository in ("team/a/b-c", "team/a-b/c"):
        await push(house.behind, repository, "v1", image(1))
        await push(house.behind, repository, "v2", image(2) if repository == "team/a-b/c" else image(1))
    batches = await house.listed({"HARBOR/team/**": "PLAIN/copy/{flat}"})
    assert set(tags_of(batches)) == {"team/a/b-c:v1", "team/a-b/c:v1"}
    assert set(refused_in(batches)) == {"team/a/b-c:v2", "team/a-b/c:v2"}


async def test_sources_of_one_image_collide_where_different_parts_of_it_are_wanted(house: House) -> None:
    for repository in ("team/a/b", "team/a-b"):
        await push(house.behind, repository, "v1", image(1))
    images: dict[str, Any] = {
        "HARBOR/team/a/*": "PLAIN/copy/{flat}",
        "HARBOR/team/a-*": {"to": "PLAIN/copy/{flat}", "platforms": "linux/amd64"},
    }
    assert set(refused_in(await house.listed(images))) == {"team/a/b:v1", "team/a-b:v1"}


async def test_collisions_are_looked_for_alone_and_without_a_request_where_the_rules_exclude_them(
    house: House,
) -> None:
    await house.put(["team/a/b-c:v1", "team/a-b/c:v1", "team/x:v1"])
    found = [
        str(collision.destination) for collision in await collisions_in(house, {"HARBOR/team/**": "PLAIN/copy/{flat}"})
    ]
    assert found == ["registry.example.com/copy/team-a-b-c:v1"]
    house.harbor.faults.log.clear()
    assert await collisions_in(house, {"HARBOR/team/**": "PLAIN/copy/{name}"}) == []
    assert house.asked() == []


async def test_the_start_warns_of_collisions_and_ignores_a_harbor_that_is_away(house: House) -> None:
    await house.put(["team/a/b-c:v1", "team/a-b/c:v1"])
    rules = house.rules({"HARBOR/team/**": "PLAIN/copy/{flat}"})
    async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
        with structlog.testing.capture_logs() as logs:
            await warn_of_collisions(rules, registries)
            house.harbor.faults.add(Fault(Answer(403, "DENIED"), times=None))
            await warn_of_collisions(rules, registries)
    told = [entry for entry in logs if entry["event"] == "collision"]
    assert [entry["log_level"] for entry in told] == ["warning"]
    assert told[0]["colliding"] == [f"{house.harbor.host}/team/{name}" for name in ("a-b/c:v1", "a/b-c:v1")]


async def collisions_in(house: House, images: dict[str, Any]) -> list[Collision]:
    rules = house.rules(images)
    async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
        return [collision async for collision in Listing(rules, registries).collisions()]


ALL = {"HARBOR/team/**": "PLAIN/ns/all:{flat}-{tag}"}


async def test_many_repositories_fit_into_one_by_templates_and_tags_that_meet_collide(house: House) -> None:
    put = await house.put(["team/app:x-1", "team/app:2", "team/app-x:1", "team/app-x:2"])
    batches = await house.listed(ALL)
    both = ["team/app-x:1", "team/app:x-1"]
    assert refused_in(batches) == dict.fromkeys(both, both)
    assert tags_of(batches) == {name: digest for name, digest in put.items() if name not in both}
    (text,) = {each.error for batch in batches for each in batch.refused}
    assert text.startswith("registry.example.com/ns/all:team-app-x-1 would come from")


async def test_a_tag_that_a_template_makes_too_long_fails_alone(house: House) -> None:
    long = f"team/app:{'x' * 128}"
    await house.put([long, "team/app:1"])
    batches = await house.listed(ALL)
    assert set(tags_of(batches)) == {"team/app:1"}
    (refused,) = [each for batch in batches for each in batch.refused]
    assert str(refused.asked.request.source).endswith(long)
    assert "its tag would be " in refused.error
    assert "with 137 characters, and a tag has at most 128" in refused.error
