"""Copies of many repositories into one, under tags that a template makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.copy import Result
from tests.replication.test_labels import handled, pushed
from tests.standins.cosign import cosign_signature
from tests.standins.images import cosign_tag, fetch_raw, image, push

if TYPE_CHECKING:
    from tests.replication.conftest import House, Stage

ALL = {"HARBOR/team/**": "BEHIND/copies/all:{flat}-{tag}"}


async def test_images_of_two_repositories_arrive_in_one_with_their_signatures(house: House) -> None:
    rules = house.rules(ALL)
    for number, name in enumerate(("team/app", "team/lib/app")):
        root = image(number)
        await push(house.behind, name, "v1", root)
        await push(house.behind, name, cosign_tag(root), cosign_signature(root))
        for tag in ("v1", cosign_tag(root)):
            outcome = await handled(rules, pushed(house, rules, f"{name}:{tag}"))
            assert outcome["result"] in (Result.COPIED, Result.UP_TO_DATE)
        content, _ = await fetch_raw(house.behind, "copies/all", f"{name.replace('/', '-')}-v1")
        assert content == root.content
        content, _ = await fetch_raw(house.behind, "copies/all", cosign_tag(root))
        assert content == cosign_signature(root).content


async def test_a_sweep_brings_what_is_named_by_a_template_and_leaves_out_what_would_be_too_long(stage: Stage) -> None:
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper(ALL)
    await sweeper.step()
    await stage.house.harbor.retag("team/app", "v1", "x" * 128)
    await sweeper.step()
    assert await stage.queued() == 1
    await stage.copy(ALL)
    assert await fetch_raw(stage.house.behind, "copies/all", "team-app-v1") is not None
