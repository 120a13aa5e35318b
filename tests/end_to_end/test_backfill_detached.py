"""``replicator backfill --detach``: differences are queued, and other processes copy them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.end_to_end.conftest import report
from tests.running import replicator, running
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House


async def detached(house: House, rules: Path, *options: str) -> tuple[int, str]:
    ended = await replicator(
        "backfill", "--config", rules, "--detach", "--report=r.json", *options, cwd=house.directory
    )
    assert "Traceback" not in ended.said
    return ended.code, ended.out


async def pushed(house: House) -> Path:
    for tag in ("v1", "v2", "v3"):
        await push(house.harbor.host, "library/app", tag, image(int(tag[1])), HARBOR_ROBOT)
    return house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})


async def test_it_queues_what_differs_and_says_that_nobody_copies_it_yet(house: House) -> None:
    rules = await pushed(house)
    ended = await replicator("backfill", "--config", rules, "--only=library/app:v1", cwd=house.directory)
    assert ended.code == 0, ended.said
    house.acr.faults.log.clear()
    code, out = await detached(house, rules)
    assert code == 0, out
    outcomes = {tag: row["outcome"] for tag, row in report(house.directory / "r.json").items()}
    assert outcomes == {"v1": "up to date", "v2": "queued", "v3": "queued"}
    assert "2  queued" in out
    assert "nothing is copied until replicator serve or worker runs" in out
    assert house.acr.faults.log.count("PUT") == 0
    status = await replicator("status", "--json", cwd=house.directory)
    assert json.loads(status.out)["lanes"]["backfill"]["queued"] == 2
    async with running("worker", "--config", rules, cwd=house.directory, ready="worker started") as worker:
        await worker.until("copy done", count=2, lane="backfill")
    await verify_tree(house.behind_acr, "image-syncer/app", "v3", image(3))


async def test_beside_a_running_serve_there_is_nothing_to_warn_of(house: House) -> None:
    rules = await pushed(house)
    async with running("serve", "--config", rules, cwd=house.directory, ready="worker started") as serving:
        code, out = await detached(house, rules)
        assert code == 0, out
        assert "3  queued" in out
        assert "Warning" not in out
        await serving.until("copy done", count=3, lane="backfill")
    # With nothing to copy there is nothing to warn of either, whoever runs.
    code, out = await detached(house, rules)
    assert code == 0, out
    assert "3  up to date" in out
    assert "Warning" not in out


async def test_what_no_rule_names_any_more_when_serve_starts_is_skipped_and_not_copied(house: House) -> None:
    await pushed(house)
    await push(house.harbor.host, "team/app", "v1", image(4), HARBOR_ROBOT)
    both = house.rules({"HARBOR/library/app": "ACR/image-syncer/app", "HARBOR/team/app": "ACR/image-syncer/team"})
    code, out = await detached(house, both)
    assert code == 0, out
    one = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    async with running("serve", "--config", one, cwd=house.directory, ready="worker started") as serving:
        await serving.until("copy done", count=3, result="copied")
        (line,) = await serving.until("copy done", result="skipped")
        assert line["note"] == "no rule names it any more"
        assert line["source"].endswith("/team/app:v1")
        assert house.acr.faults.log.count("PUT", "/team/") == 0
        failures = await replicator("failures", "--json", cwd=house.directory)
        assert json.loads(failures.out) == []


async def test_beside_a_serve_with_other_rules_it_says_so_and_a_backfill_in_the_foreground_makes_its_copies(
    house: House,
) -> None:
    one = await pushed(house)
    async with running("serve", "--config", one, cwd=house.directory, ready="worker started") as serving:
        await push(house.harbor.host, "team/app", "v1", image(4), HARBOR_ROBOT)
        other = house.directory / "other.json"
        house.rules({"HARBOR/team/app": "ACR/image-syncer/team"}).rename(other)
        ended = await replicator("backfill", "--config", other, "--detach", cwd=house.directory)
        assert ended.code == 0, ended.said
        assert "has these rules: copies that their rules do not contain are skipped" in ended.err
        await serving.until("copies wait for their rules")
        check = await replicator("check", "--config", other, cwd=house.directory)
        (line,) = [line for line in check.out.splitlines() if "or give this one its own REPLICATOR_STATE_DIR" in line]
        assert line.startswith("!\trules\t")
        ended = await replicator("backfill", "--config", other, cwd=house.directory)
        assert ended.code == 0, ended.said
        # The copy that was left to these rules may be done before it is compared.
        assert re.search(r"1  (copied|up to date)", ended.out), ended.out
        assert "shared with other rules" not in ended.err
        assert not [line for line in serving.lines if line.get("source", "").endswith("/team/app:v1")]
    await verify_tree(house.behind_acr, "image-syncer/team", "v1", image(4))


async def test_what_can_not_be_compared_is_a_failure_all_the_same(house: House) -> None:
    rules = await pushed(house)
    house.acr.faults.add(Fault(Answer(302, headers={"Location": "v2"}), None, "/manifests/v2", times=None))
    code, out = await detached(house, rules)
    assert code == 1, out
    outcomes = {tag: row["outcome"] for tag, row in report(house.directory / "r.json").items()}
    assert outcomes == {"v1": "queued", "v2": "failed", "v3": "queued"}


async def test_it_can_not_be_a_dry_run_too(house: House) -> None:
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    code, out = await detached(house, rules, "--dry-run")
    assert (code, out) == (2, "")
    assert not (house.directory / "state").exists()
