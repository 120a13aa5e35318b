"""Only what the destination's registry lacks is sent, in whichever of its repositories the rest is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.running import TOKEN, replicator, running
from tests.standins.images import blobs_of, image, layer, multi_arch, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from tests.end_to_end.conftest import House
    from tests.standins.images import Image, Index

BASE = layer(77, 8_000_000)
"""So large that a search for it may take a busy machine a while."""
FILLED = image(1, (500,), base=[BASE])
OURS = image(2, (1_100_000,), base=[BASE])
EACH = {"HARBOR/library/filled": "ACR/cache/filled", "HARBOR/library/ours": "ACR/cache/ours"}
PATTERN = {"HARBOR/library/**": "ACR/cache/{name}"}


def sent(house: House) -> int:
    """Return the bytes of blobs that were sent to the destination."""
    return sum(entry.request_bytes for entry in house.acr.faults.log.select("PUT", "/blobs/"))


def lacking(root: Image | Index, *there: Image | Index) -> int:
    known = {blob.digest for each in there for blob in blobs_of(each)}
    return sum(blob.size for blob in blobs_of(root) if blob.digest not in known)


async def backfill(house: House, rules: Path) -> None:
    ended = await replicator("backfill", "--config", rules, cwd=house.directory)
    assert ended.code == 0, ended.said


@pytest.mark.parametrize(("rules", "ours"), [(EACH, "a"), (PATTERN, "z")], ids=["before", "after"])
async def test_the_first_backfill_mounts_what_another_program_put_there(
    house: House, rules: dict[str, Any], ours: str
) -> None:
    """Whether its repository is compared before ours is copied, or after."""
    rules = {key.replace("ours", ours): value.replace("ours", ours) for key, value in rules.items()}
    await push(house.behind_acr, "cache/filled", "v1", FILLED)
    await push(house.behind_harbor, "library/filled", "v1", FILLED)
    await push(house.behind_harbor, f"library/{ours}", "v1", OURS)
    await backfill(house, house.rules(rules))
    assert sent(house) == lacking(OURS, FILLED)
    await verify_tree(house.behind_acr, f"cache/{ours}", "v1", OURS)


async def test_the_first_event_mounts_what_another_program_put_there(house: House) -> None:
    await push(house.behind_acr, "cache/filled", "v1", FILLED)
    await push(house.behind_harbor, "library/filled", "v1", FILLED)
    async with running("serve", "--config", house.rules(PATTERN), cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/ours", "v1", OURS, HARBOR_ROBOT)
        (line,) = await serving.until("copy done", result="copied")
    assert line["bytes"] == sent(house) == lacking(OURS, FILLED)
    assert line["blobs_mounted"] == 1
    await verify_tree(house.behind_acr, "cache/ours", "v1", OURS)


async def test_an_event_uses_what_a_backfill_has_read(house: House) -> None:
    base, other = layer(78, 6_000_000), layer(79, 6_000_000)
    filled = multi_arch(5, size=1_500_000)
    both = image(6, (500,), base=[base, other])
    await push(house.behind_acr, "cache/filled", "v1", filled)
    await push(house.behind_acr, "cache/second", "v1", both)
    for name, root in (("filled", filled), ("second", both), ("ours", image(7, (500,), base=[base]))):
        await push(house.behind_harbor, f"library/{name}", "v1", root)
    rules = house.rules(PATTERN)
    await backfill(house, rules)
    house.acr.faults.log.clear()
    later = image(8, (500,), base=[next(blob for blob in blobs_of(filled) if blob.size > 1_000_000), other])
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/later", "v1", later, HARBOR_ROBOT)
        (line,) = await serving.until("copy done", result="copied")
    assert line["blobs_mounted"] == 2
    assert line["bytes"] == lacking(later, filled, both)
    # Nothing is read again.
    log = house.acr.faults.log
    assert log.count("GET", "/manifests/") == log.count("GET", "/tags/list") == 0


async def test_what_is_in_place_is_not_read(house: House) -> None:
    """Nothing is to be sent, so nothing has to be found."""
    for number in range(3):
        root = image(number, (2_000_000,))
        await push(house.behind_acr, f"cache/r{number}", "v1", root)
        await push(house.behind_harbor, f"library/r{number}", "v1", root)
    await backfill(house, house.rules(PATTERN))
    log = house.acr.faults.log
    assert log.count("GET", "/manifests/") == log.count("GET", "/tags/list") == 0
    assert log.count("HEAD", "/manifests/", 200) == 3


async def test_a_backfill_asks_once_for_a_tag_that_is_not_there(house: House) -> None:
    for number in (1, 2):
        await push(house.behind_harbor, "library/ours", f"v{number}", image(number))
    await backfill(house, house.rules(PATTERN))
    asked = [entry.path for entry in house.acr.faults.log.select("HEAD", "/manifests/")]
    assert sorted(asked) == ["/v2/cache/ours/manifests/v1", "/v2/cache/ours/manifests/v2"]
