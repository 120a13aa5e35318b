"""The repositories that a copy may find blobs in: the destinations of the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.registry import Registries
from replicator.replication.repositories import Neighbours
from replicator.replication.transfer import access_by
from tests.replication.conftest import PLAIN, QUICK
from tests.standins.faults import Answer, Fault

if TYPE_CHECKING:
    from replicator.reference import Repository
    from tests.replication.conftest import House

NAMED = {"HARBOR/team/a": "PLAIN/one/a", "HARBOR/team/b": ["PLAIN/one/b", "PLAIN/two/{name}"]}
PATTERNS = NAMED | {"HARBOR/library/*": "PLAIN/three/{name}"}


async def neighbours(house: House, images: dict[str, Any]) -> list[str]:
    rules = house.rules(images)
    async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
        found: dict[Repository, None] = {}
        await Neighbours(rules)(registries, found.setdefault)
        return [str(each).removeprefix(f"{PLAIN}/") for each in found]


async def test_rules_without_wildcards_name_them_without_a_request(house: House) -> None:
    assert await neighbours(house, NAMED) == ["one/a", "one/b", "two/b"]
    assert house.asked("/") == []


async def test_for_patterns_harbor_is_asked_for_its_repositories(house: House) -> None:
    await house.put(["library/x:1", "library/y:1", "team/a:1"])
    assert await neighbours(house, PATTERNS) == ["one/a", "one/b", "two/b", "three/x", "three/y"]
    assert len(house.asked("/repositories")) == 1
    assert house.asked("artifacts") == house.asked("tags/list") == []


async def test_a_harbor_that_lists_nothing_leaves_those_that_rules_name(house: House) -> None:
    await house.put(["library/x:1"])
    house.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), "GET", "/repositories", times=None))
    assert await neighbours(house, PATTERNS) == ["one/a", "one/b", "two/b"]


async def test_other_rules_name_others(house: House) -> None:
    named, renewed = house.rules(NAMED), house.rules({"HARBOR/team/c": "PLAIN/one/c"})
    found = Neighbours(named)
    found.renew(renewed)
    names: list[Repository] = []
    async with Registries(access_by(named.credentials), timing=QUICK) as registries:
        await found(registries, names.append)
    assert [each.name for each in names] == ["one/c"]
