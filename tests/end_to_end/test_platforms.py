"""A selection of an image's platforms: on a push, in a backfill, and in their reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.running import TOKEN, Ended, replicator, running
from tests.standins.images import Image, Index, fetch_raw, image, index, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

AMD64, ARM64, ARM, WINDOWS = (
    image(1),
    image(2, architecture="arm64", variant="v8"),
    image(3, architecture="arm", variant="v7"),
    image(4, system="windows"),
)
ROOT = index([AMD64, ARM64])
ONLY_AMD64 = index([AMD64])
LEFT = "1 of 2 images left out, as only linux/amd64 is wanted"
SKIPPED = "its platform is linux/arm64/v8, not linux/amd64"
ONE = {"HARBOR/library/**": {"to": "ACR/image-syncer/{name}", "platforms": ["linux/amd64"]}}


async def backfill(house: House, *arguments: str) -> tuple[Ended, dict[str, dict[str, Any]]]:
    """Run one; return how it ended, and its rows by tag."""
    rules = house.directory / "rules.json"
    ended = await replicator("backfill", "--config", rules, "--report=r.json", *arguments, cwd=house.directory)
    assert "Traceback" not in ended.said
    rows = json.loads((house.directory / "r.json").read_text())
    return ended, {row["source"].rpartition(":")[2]: row for row in rows}


def told(row: dict[str, Any]) -> tuple[str, str | None, str]:
    return row["outcome"], row["digest"], row["note"]


def writes(house: House) -> int:
    return sum(house.acr.faults.log.count(method) for method in ("POST", "PUT", "PATCH"))


async def test_a_push_brings_the_platforms_of_its_rule_and_a_backfill_finds_them_up_to_date(house: House) -> None:
    async with running("serve", "--config", house.rules(ONE), cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", ROOT, HARBOR_ROBOT)
        (line,) = await serving.until("copy done")
        assert (line["result"], line["digest"], line["note"]) == ("copied", ONLY_AMD64.digest, LEFT)
        await verify_tree(house.behind_acr, "image-syncer/app", "v1", ONLY_AMD64)
        with pytest.raises(LookupError):
            await fetch_raw(house.behind_acr, "image-syncer/app", ARM64.digest)
        house.acr.faults.log.clear()
        for arguments in ([], ["--dry-run"]):
            ended, rows = await backfill(house, *arguments)
            assert ended.code == 0, ended.said
            assert told(rows["v1"]) == ("up to date", ONLY_AMD64.digest, LEFT)
            assert "1  up to date" in ended.out
        assert writes(house) == 0


async def test_an_image_for_another_platform_is_skipped_with_the_reason_in_the_log_and_in_the_report(
    house: House,
) -> None:
    async with running("serve", "--config", house.rules(ONE), cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "arm", ARM64, HARBOR_ROBOT)
        (line,) = await serving.until("copy done")
        assert (line["result"], line["note"], line.get("digest")) == ("skipped", SKIPPED, None)
        for arguments in (["--dry-run"], []):
            ended, rows = await backfill(house, *arguments)
            assert ended.code == 0, ended.said
            assert told(rows["arm"]) == ("skipped", None, SKIPPED)
            assert "1  skipped" in ended.out
        assert writes(house) == 0
        # A later push under the same tag that has the platform is copied.
        await push(house.harbor.host, "library/app", "arm", ROOT, HARBOR_ROBOT)
        await serving.until("copy done", result="copied", digest=ONLY_AMD64.digest)
        # It moves back: the destination goes on naming what is no longer at the source.
        await push(house.harbor.host, "library/app", "arm", ARM64, HARBOR_ROBOT)
        (line,) = await serving.until("copy done", still_holds=ONLY_AMD64.digest)
        assert (line["result"], line["level"]) == ("skipped", "warning")
        ended, rows = await backfill(house, "--strict")
        assert (ended.code, rows["arm"]["still_holds"]) == (1, ONLY_AMD64.digest)
        assert "Warning: 1 destination still holds an old image" in ended.out
    assert json.loads((await replicator("failures", "--json", cwd=house.directory)).out) == []


async def test_a_dry_run_names_the_digest_that_a_run_then_writes(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", ROOT, HARBOR_ROBOT)
    house.rules(ONE)
    ended, rows = await backfill(house, "--dry-run")
    assert ended.code == 0, ended.said
    assert told(rows["v1"]) == ("would copy", ONLY_AMD64.digest, f"it is not there yet; {LEFT}")
    assert writes(house) == 0
    ended, rows = await backfill(house)
    assert told(rows["v1"]) == ("copied", ONLY_AMD64.digest, LEFT)
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", ONLY_AMD64)


@pytest.mark.parametrize(
    ("arguments", "expected", "skipped"),
    [
        (["--os", "linux", "--arch", "amd64,arm64:v8"], index([AMD64, ARM64]), {"arm", "windows"}),
        (["--os=linux,windows", "--arch=amd64"], index([AMD64, WINDOWS]), {"arm", "arm64"}),
        (["--arch", "arm:v7", "--arch", "arm64"], index([ARM64, ARM]), {"amd64", "windows"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_os_and_arch_of_image_syncer_choose_platforms(
    house: House, arguments: list[str], expected: Index, skipped: set[str]
) -> None:
    singles: dict[str, Image | Index] = {"amd64": AMD64, "arm64": ARM64, "arm": ARM, "windows": WINDOWS}
    images = {"all": index([AMD64, ARM64, ARM, WINDOWS]), **singles}
    for tag, root in images.items():
        await push(house.harbor.host, "library/app", tag, root, HARBOR_ROBOT)
    house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    ended, rows = await backfill(house, *arguments)
    assert ended.code == 0, ended.said
    await verify_tree(house.behind_acr, "image-syncer/app", "all", expected)
    assert {tag for tag, row in rows.items() if row["outcome"] == "skipped"} == skipped
    assert {tag for tag, row in rows.items() if row["outcome"] == "copied"} == set(images) - skipped
    again, rows = await backfill(house, *arguments)
    assert again.code == 0, again.said
    assert {row["outcome"] for row in rows.values()} == {"up to date", "skipped"}


async def test_os_and_arch_leave_alone_what_a_rule_says_itself(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", ROOT, HARBOR_ROBOT)
    house.rules(ONE)
    ended, rows = await backfill(house, "--os=linux", "--arch=arm64")
    assert ended.code == 0, ended.said
    assert told(rows["v1"]) == ("copied", ONLY_AMD64.digest, LEFT)
