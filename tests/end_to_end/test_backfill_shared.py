"""Blobs that the tags and repositories of a backfill share are sent once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.end_to_end.writes import times_sent
from tests.running import replicator
from tests.standins.images import image, layer, push, verify_tree

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

BASE, MIDDLE = layer(77, 100_000), {name: layer(number, 80_000) for number, name in enumerate("abc")}
IMAGES = {
    f"{repository}:v{number}": image(100 + 10 * place + number, (500,), base=[BASE, MIDDLE[repository]])
    for place, repository in enumerate("abc")
    for number in range(5)
}
"""Three repositories of five tags, in which the repositories share a layer, and the tags of each another one."""


async def test_shared_layers_are_sent_once_and_mounted_into_the_other_repositories(house: House) -> None:
    for key, root in IMAGES.items():
        repository, _, tag = key.partition(":")
        await push(house.behind_harbor, f"library/{repository}", tag, root)
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    ended = await replicator("backfill", "--config", rules, "--proc=16", cwd=house.directory)
    assert ended.code == 0, ended.said
    log = house.acr.faults.log
    sent = times_sent(log)
    assert [number for (_, digest), number in sent.items() if digest == BASE.digest] == [1]
    for middle in MIDDLE.values():
        assert [number for (_, digest), number in sent.items() if digest == middle.digest] == [1]
    mounted = log.select("POST", "/blobs/uploads/", 201, f"mount={BASE.digest.replace(':', '(:|%3A)')}")
    assert len({entry.path for entry in mounted}) == 2
    for key, root in IMAGES.items():
        repository, _, tag = key.partition(":")
        await verify_tree(house.behind_acr, f"image-syncer/{repository}", tag, root)
