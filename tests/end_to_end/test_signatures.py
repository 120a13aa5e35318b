"""Signatures in Harbor's events: cosign's tags, and pushes by digest alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.running import TOKEN, Serving, replicator, running
from tests.standins.images import Image, Index, cosign_tag, fetch_raw, image, multi_arch, push, referrer, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

ROOT = multi_arch(1)
SIGNATURE = image(50)
"""Under a tag of cosign's it is an image like any other."""
LISTED = referrer(ROOT, 1, "application/vnd.example.signature.v1", as_image=True)
REFUSED = referrer(ROOT, 2)
NAME = "image-syncer/app"


def signed(house: House) -> Path:
    # allow: no question without a login is among the requests that are counted.
    value = {"to": "ACR/image-syncer/{name}", "signatures": True, "public": "allow"}
    return house.rules({"HARBOR/library/**": value})


def subscribe(house: House, serving: Serving) -> None:
    house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)


async def pushed(house: House, name: str, root: Image | Index = ROOT) -> None:
    await push(house.harbor.host, "library/app", name, root, HARBOR_ROBOT)


async def fallback(host: str, name: str) -> list[str]:
    """The digests that a client finds which asks a registry without the API what refers to the image."""
    content, _ = await fetch_raw(host, name, cosign_tag(ROOT, ""))
    return [row["digest"] for row in json.loads(content)["manifests"]]


async def nothing_was_given_up(house: House) -> bool:
    listed = await replicator("failures", "--json", cwd=house.directory)
    assert listed.code == 0, listed.said
    return not json.loads(listed.out)


async def test_signatures_that_are_pushed_after_their_image_arrive(house: House) -> None:
    async with running("serve", "--config", signed(house), cwd=house.directory) as serving:
        subscribe(house, serving)
        await pushed(house, "v1")
        await serving.until("copy done", destination=f"{house.acr.host}/{NAME}:v1", result="copied")
        tag = cosign_tag(ROOT)
        await pushed(house, tag, SIGNATURE)
        (line,) = await serving.until("copy done", destination=f"{house.acr.host}/{NAME}:{tag}")
        assert (line["result"], line["digest"], line["signatures"]) == ("copied", SIGNATURE.digest, 1)
        await pushed(house, LISTED.digest, LISTED)
        (line,) = await serving.until("copy done", destination=f"{house.acr.host}/{NAME}@{LISTED.digest}")
        assert (line["result"], line["digest"], line["signatures"]) == ("copied", LISTED.digest, 1)
        assert serving.said("copy failed") == []
    await verify_tree(house.behind_acr, NAME, "v1", ROOT)
    await verify_tree(house.behind_acr, NAME, tag, SIGNATURE)
    await verify_tree(house.behind_acr, NAME, LISTED.digest, LISTED)
    # ACR has no API that lists them: who looks there finds the tag of the referrers tag schema.
    assert await fallback(house.behind_acr, NAME) == [LISTED.digest]


async def test_signatures_that_are_pushed_before_their_image_s_event_is_heard_arrive_with_it(house: House) -> None:
    await pushed(house, "v1")
    async with running("serve", "--config", signed(house), cwd=house.directory) as serving:
        subscribe(house, serving)
        await pushed(house, cosign_tag(ROOT), SIGNATURE)
        await pushed(house, LISTED.digest, LISTED)
        for line in await serving.until("copy done", count=2):
            assert (line["result"], "is not at the destination" in line["note"]) == ("skipped", True)
        house.harbor.deliver("PUSH_ARTIFACT", "library/app", "v1", ROOT.digest)
        (line,) = await serving.until("copy done", result="copied")
        assert (line["digest"], line["signatures"]) == (ROOT.digest, 2)
    await verify_tree(house.behind_acr, NAME, cosign_tag(ROOT), SIGNATURE)
    await verify_tree(house.behind_acr, NAME, LISTED.digest, LISTED)
    assert await nothing_was_given_up(house)


async def test_children_that_are_pushed_by_digest_lead_to_no_copy_and_no_failure(house: House) -> None:
    async with running("serve", "--config", signed(house), cwd=house.directory) as serving:
        subscribe(house, serving)
        await pushed(house, "v1")
        await serving.until("copy done", count=3)
        await serving.until("copy done", result="copied")
        # Once more, when they are there themselves.
        house.acr.faults.log.clear()
        for child in ROOT.children:
            house.harbor.deliver("PUSH_ARTIFACT", "library/app", child.digest, child.digest)
        lines = await serving.until("copy done", count=5)
        notes = {line["note"] for line in lines if line["result"] == "skipped"}
        assert [line["result"] for line in lines].count("skipped") == 4
        assert notes == {"it refers to no image"}
        assert len(house.acr.faults.log) == 0
        assert serving.said("copy failed") == serving.said("job dead") == []
    assert await nothing_was_given_up(house)
    await verify_tree(house.behind_acr, NAME, "v1", ROOT)


async def test_what_acr_refuses_of_them_is_a_warning_and_no_failure(house: House) -> None:
    async with running("serve", "--config", signed(house), cwd=house.directory) as serving:
        subscribe(house, serving)
        await pushed(house, "v1")
        await serving.until("copy done", result="copied")
        await pushed(house, REFUSED.digest, REFUSED)
        (line,) = await serving.until("copy done", destination=f"{house.acr.host}/{NAME}@{REFUSED.digest}")
        assert (line["result"], line["level"]) == ("skipped", "warning")
        (warning,) = line["warnings"]
        assert REFUSED.digest in warning
        assert "unknown manifest class" in warning
        # With its image it is one too, and what else there is arrives.
        await pushed(house, LISTED.digest, LISTED)
        await serving.until("copy done", destination=f"{house.acr.host}/{NAME}@{LISTED.digest}")
        house.harbor.deliver("PUSH_ARTIFACT", "library/app", "v1", ROOT.digest)
        (line,) = await serving.until("copy done", result="up to date")
        assert (line["level"], "warnings" in line) == ("info", False), "it was warned of once"
        assert serving.said("copy failed") == serving.said("job dead") == []
    assert await nothing_was_given_up(house)
    assert await fallback(house.behind_acr, NAME) == [LISTED.digest]


@pytest.mark.parametrize("late", [False, True], ids=["with the image", "after the image"])
async def test_a_registry_that_takes_everything_gets_all_of_them_and_the_tag_that_lists_them(
    house: House, late: bool
) -> None:
    plain = house.behind_acr
    rules = house.rules(
        {"HARBOR/library/**": {"to": f"{plain}/copies/{{name}}", "signatures": True}},
        auth={**house.auth(), plain: {"anonymous": True, "insecure": True}},
    )
    referrers: list[Image] = [REFUSED, LISTED]
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        if not late:
            await pushed(house, "v1")
            for one in referrers:
                await pushed(house, one.digest, one)
            subscribe(house, serving)
            house.harbor.deliver("PUSH_ARTIFACT", "library/app", "v1", ROOT.digest)
        else:
            subscribe(house, serving)
            await pushed(house, "v1")
            await serving.until("copy done", result="copied", digest=ROOT.digest)
            for one in referrers:
                await pushed(house, one.digest, one)
            for one in referrers:
                await serving.until("copy done", destination=f"{plain}/copies/app@{one.digest}")
        await serving.until("copy done", result="copied", digest=ROOT.digest)
        assert all(not line.get("warnings") for line in serving.said("copy done"))
    for one in referrers:
        await verify_tree(plain, "copies/app", one.digest, one)
    assert sorted(await fallback(plain, "copies/app")) == sorted(one.digest for one in referrers)


async def test_a_backfill_brings_them_too_and_tells_what_was_refused(house: House) -> None:
    rules = signed(house)
    await pushed(house, "v1")
    first = await replicator("backfill", "--config", rules, cwd=house.directory)
    assert first.code == 0, first.said
    await pushed(house, cosign_tag(ROOT), SIGNATURE)
    for one in (LISTED, REFUSED):
        await pushed(house, one.digest, one)
    ended = await replicator("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    assert ended.code == 0, ended.said
    rows = {row["source"].rpartition(":")[2]: row for row in json.loads((house.directory / "r.json").read_text())}
    assert set(rows) == {"v1", cosign_tag(ROOT)}
    (warning,) = rows["v1"]["warnings"]
    assert REFUSED.digest in warning
    assert warning in ended.said
    await verify_tree(house.behind_acr, NAME, cosign_tag(ROOT), SIGNATURE)
    await verify_tree(house.behind_acr, NAME, LISTED.digest, LISTED)
    dry = await replicator("backfill", "--config", rules, "--dry-run", cwd=house.directory)
    assert (dry.code, "1  up to date" in dry.out) == (0, True)
    assert "signatures of it are missing" in dry.out


async def test_a_first_backfill_brings_images_and_their_signatures_in_one_go(house: House) -> None:
    rules = signed(house)
    for name, one in (("v1", ROOT), (cosign_tag(ROOT), SIGNATURE), (LISTED.digest, LISTED)):
        await pushed(house, name, one)
    ended = await replicator("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    assert ended.code == 0, ended.said
    await verify_tree(house.behind_acr, NAME, "v1", ROOT)
    await verify_tree(house.behind_acr, NAME, cosign_tag(ROOT), SIGNATURE)
    await verify_tree(house.behind_acr, NAME, LISTED.digest, LISTED)
    house.acr.faults.log.clear()
    again = await replicator("backfill", "--config", rules, cwd=house.directory)
    assert (again.code, "2  up to date" in again.out) == (0, True), again.said
    assert sum(house.acr.faults.log.count(method) for method in ("POST", "PUT", "PATCH")) == 0
