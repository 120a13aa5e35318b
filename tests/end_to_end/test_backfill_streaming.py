"""``replicator backfill`` copies while it lists, with as few requests as possible."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.conftest import report
from tests.running import begun, replicator
from tests.standins.cosign import cosign_signature
from tests.standins.faults import Fault, Hold
from tests.standins.images import cosign_tag, image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

TAGS = 130
"""More than stand on one page of Harbor's list."""


async def filled(house: House) -> dict[str, str]:
    """Put tags into two repositories of a project, alternating; return their digests by ``repository:tag``."""
    digests: dict[str, str] = {}
    for number in range(TAGS):
        name = f"team/{'ab'[number % 2]}:v{number}"
        root = image(number, (100,))
        repository, _, tag = name.partition(":")
        await push(house.behind_harbor, repository, tag, root)
        digests[name] = root.digest
    return digests


@pytest.mark.scale
async def test_the_first_copy_is_made_while_the_list_is_still_being_read(house: House) -> None:
    digests = await filled(house)
    held = house.harbor.faults.add(Fault(hold := Hold(), "GET", "/projects/team/artifacts", query="page=2&"))
    rules = house.rules({"HARBOR/team/*": "ACR/cache/{name}"})
    backfill = begun("backfill", "--config", rules, "--report=r.jsonl", cwd=house.directory)
    async with backfill as process, asyncio.timeout(60):
        # The first page is copied while the request for the second is still unanswered.
        while house.acr.faults.log.count("PUT", "/manifests/v", 201) < 100:
            await asyncio.sleep(0.02)
        assert held.hits == 1
        hold.released.set()
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    rows = [json.loads(line) for line in (house.directory / "r.jsonl").read_text().splitlines()]
    assert {row["source"].partition("/")[2]: row["digest"] for row in rows} == digests
    assert {row["outcome"] for row in rows} == {"copied"}
    assert all(row["size"] > 100 for row in rows)
    assert f"{TAGS}  copied" in out.decode()


@pytest.mark.scale
async def test_what_is_in_place_costs_a_question_a_tag_and_a_hundredth_of_one_to_harbor(house: House) -> None:
    await filled(house)
    rules = house.rules({"HARBOR/team/*": "ACR/cache/{name}"})
    assert (await replicator("backfill", "--config", rules, cwd=house.directory)).code == 0
    for log in (house.harbor.faults.log, house.acr.faults.log):
        log.clear()
    # Another machine: nothing is remembered.
    ended = await replicator(
        "backfill",
        "--config",
        rules,
        cwd=house.directory,
        settings={"REPLICATOR_STATE_DIR": str(house.directory / "other")},
    )
    assert ended.code == 0, ended.said
    assert f"{TAGS}  up to date" in ended.out
    assert [f"{entry.path} {'&'.join(entry.query.split('&')[:1])}".strip() for entry in house.harbor.faults.log] == [
        "/v2/",
        "/api/v2.0/projects/team/repositories page=1",
        "/api/v2.0/projects/team/artifacts page=1",
        "/api/v2.0/projects/team/artifacts page=2",
    ]
    asked = [entry for entry in house.acr.faults.log if entry.path.startswith("/v2/") and entry.status == 200]
    assert len([entry for entry in asked if "/manifests/" in entry.path]) == TAGS
    assert {entry.method for entry in asked if "/manifests/" in entry.path} == {"HEAD"}


async def fast(house: House, rules: Path, *options: str) -> tuple[dict[str, str], list[str]]:
    """Run a fast backfill; return the outcomes by tag, and the tags whose destination was asked."""
    house.acr.faults.log.clear()
    ended = await replicator("backfill", "--config", rules, "--fast", "--report=r.json", *options, cwd=house.directory)
    assert ended.code == 0, ended.said
    asked = {entry.path.rpartition("/")[2] for entry in house.acr.faults.log if "/manifests/" in entry.path}
    rows = report(house.directory / "r.json")
    return {tag: row["outcome"] for tag, row in rows.items()}, sorted(asked)


async def test_fast_asks_for_one_of_the_tags_that_were_seen_lately_and_misses_nothing_that_was_pushed(
    house: House,
) -> None:
    for tag in ("v1", "v2", "v3"):
        await push(house.behind_harbor, "team/app", tag, image(int(tag[1])))
    rules = house.rules({"HARBOR/team/*": "ACR/cache/{name}"})
    outcomes, asked = await fast(house, rules)
    assert outcomes == dict.fromkeys(("v1", "v2", "v3"), "copied")
    assert asked == ["v1", "v2", "v3"]
    outcomes, asked = await fast(house, rules)
    assert (outcomes, len(asked)) == (dict.fromkeys(("v1", "v2", "v3"), "up to date"), 1)
    # The second time it is back at what it was at first: the destination's latest is what counts.
    for root in (image(9), image(2)):
        await push(house.behind_harbor, "team/app", "v2", root)
        outcomes, asked = await fast(house, rules)
        assert outcomes == {"v1": "up to date", "v2": "copied", "v3": "up to date"}
        assert asked in (["v1", "v2"], ["v2", "v3"])
    # Another rule about the same image is another wish.
    other = house.rules({"HARBOR/team/*": {"to": "ACR/cache/{name}", "attestations": "strip"}})
    outcomes, asked = await fast(house, other)
    assert asked == ["v1", "v2", "v3"]
    assert set(outcomes.values()) == {"up to date"}


async def test_fast_asks_for_all_that_was_seen_too_long_ago_or_proves_to_be_wrong(house: House) -> None:
    for tag in ("v1", "v2"):
        await push(house.behind_harbor, "team/app", tag, image(int(tag[1])))
    rules = house.rules({"HARBOR/team/*": "ACR/cache/{name}"})
    assert set((await fast(house, rules))[0].values()) == {"copied"}
    assert len((await fast(house, rules, "--within=1h"))[1]) == 1
    assert (await fast(house, rules, "--within=0s"))[1] == ["v1", "v2"]
    for tag in ("v1", "v2"):
        await push(house.behind_acr, "cache/app", tag, image(3))
    assert await fast(house, rules, "--within=1h") == ({"v1": "copied", "v2": "copied"}, ["v1", "v2"])


async def test_fast_asks_the_source_where_no_list_tells_the_digest(house: House) -> None:
    for tag in ("v1", "v2"):
        await push(house.behind_harbor, "team/app", tag, image(int(tag[1])))
    rules = house.rules({"HARBOR/team/app:v1,v2": "ACR/cache/app"})
    assert (await fast(house, rules))[1] == ["v1", "v2"]
    outcomes, asked = await fast(house, rules)
    assert (outcomes, len(asked)) == ({"v1": "up to date", "v2": "up to date"}, 1)
    await push(house.behind_harbor, "team/app", "v2", image(9))
    assert await fast(house, rules) == ({"v1": "up to date", "v2": "copied"}, ["v1", "v2"])


async def test_fast_sees_a_new_signature_in_harbor_s_list(house: House) -> None:
    root = image(1)
    await push(house.harbor.host, "team/app", "v1", root, HARBOR_ROBOT)
    rules = house.rules({"HARBOR/team/*": "ACR/cache/{name}"})
    assert (await fast(house, rules))[0] == {"v1": "copied"}
    assert await fast(house, rules) == ({"v1": "up to date"}, ["v1"])
    await push(house.harbor.host, "team/app", cosign_tag(root), cosign_signature(root), HARBOR_ROBOT)
    assert (await fast(house, rules))[0] == {"v1": "up to date"}
    await verify_tree(house.behind_acr, "cache/app", cosign_tag(root), cosign_signature(root))
    assert await fast(house, rules) == ({"v1": "up to date"}, ["v1"])


async def test_since_looks_only_at_tags_that_were_set_since_then(house: House) -> None:
    for number, tag in enumerate(("v1", "v2")):
        await push(house.harbor.host, "team/app", tag, image(number + 1), HARBOR_ROBOT)
    rules = house.rules({"HARBOR/team/*": "ACR/cache/{name}"})
    house.acr.faults.log.clear()
    ended = await replicator("backfill", "--config", rules, "--since=2999-01-01", cwd=house.directory)
    assert ended.code == 0, ended.said
    assert "Skipped as older than --since: 2" in ended.out
    assert "matches nothing" not in ended.out
    assert house.acr.faults.log.count(None, "/manifests/") == 0
    ended = await replicator("backfill", "--config", rules, "--since=1h", cwd=house.directory)
    assert ended.code == 0, ended.said
    assert "2  copied" in ended.out
    assert "--since" not in ended.out


async def test_options_that_contradict_each_other_or_mean_nothing_are_all_told_at_once(house: House) -> None:
    rules = house.rules({"HARBOR/team/*": "ACR/cache/{name}"})
    ended = await replicator(
        "backfill",
        "--config",
        rules,
        "--dry-run",
        "--detach",
        "--fast",
        "--force",
        "--since=soon",
        "--within=1y",
        "--report-format=csv",
        "--rate=much",
        cwd=house.directory,
    )
    assert ended.code == 2
    for words in (
        "--detach: can't be combined with --dry-run, which queues nothing",
        "--fast: can't be combined with --dry-run, which does not open the queue",
        "--fast: can't be combined with --force, which also copies what is up to date",
        "--report-format: requires --report",
        "--rate: requires --forecast",
        "--rate: 'much' is not a bandwidth",
        "--since: 'soon' is not a time",
        "--within: '1y' is not a duration",
    ):
        assert words in ended.err, ended.err
    ended = await replicator("backfill", "--config", rules, "--within=1h", cwd=house.directory)
    assert "--within: requires --fast" in ended.err
