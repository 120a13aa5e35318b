"""``replicator backfill`` of a part of the rules, and of tags that are already in place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.end_to_end.conftest import report
from tests.running import replicator
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


async def test_only_what_is_named_is_copied_and_nothing_else_is_looked_at(house: House) -> None:
    for number, name in enumerate(("library/app:v1", "team/app:v1", "team/app:v10", "team/app:v2", "team/x:v1")):
        repository, _, tag = name.partition(":")
        await push(house.harbor.host, repository, tag, image(number + 1), HARBOR_ROBOT)
    rules = house.rules(
        {
            "HARBOR/team/**": "ACR/cache/{flat}",
            "HARBOR/library/**": "ACR/image-syncer/{name}",
            "HARBOR/library/nothing": "ACR/image-syncer/nothing",
        }
    )
    house.harbor.faults.log.clear()
    ended = await replicator(
        "backfill", "--config", rules, "--only", "team/app:v1*", "--report=r.json", cwd=house.directory
    )
    assert ended.code == 0, ended.said
    assert set(report(house.directory / "r.json")) == {"v1", "v10"}
    # One repository that is written out needs no list of its project.
    assert house.harbor.faults.log.count("GET", "/api/.*/(projects|repositories|team/artifacts)$") == 0
    assert not [entry for entry in house.harbor.faults.log if "library" in entry.path or "team/x" in entry.path]
    assert "matches nothing" not in ended.said

    command = ["backfill", "--config", str(rules), "--rule", f"{house.harbor.host}/library/**", "--report=r.json"]
    ended = await replicator(*command, cwd=house.directory)
    assert ended.code == 0, ended.said
    assert [row["destination"] for row in report(house.directory / "r.json").values()] == [
        f"{house.acr.host}/image-syncer/app:v1"
    ]
    assert "matches nothing" not in ended.said

    ended = await replicator(*command, "--only", f"{house.harbor.host}/library/*:absent", cwd=house.directory)
    assert ended.code == 0, ended.said
    assert f"--only {house.harbor.host}/library/*:absent matches nothing" in ended.out


async def test_what_another_source_would_overwrite_is_not_copied_by_itself_either(house: House) -> None:
    for number, repository in enumerate(("team/a", "team/b")):
        await push(house.harbor.host, repository, "v1", image(number), HARBOR_ROBOT)
    rules = house.rules({"HARBOR/team/*:v1": "ACR/cache/{name}", "HARBOR/team/b": {"to": "ACR/cache/a"}})
    # The rule that is left out is about the same repository, so the clash is seen.
    ended = await replicator(
        "backfill",
        "--config",
        rules,
        "--only=team/*:v1",
        "--rule",
        f"{house.harbor.host}/team/*:v1",
        "--report=r.json",
        cwd=house.directory,
    )
    assert ended.code == 1, ended.said
    rows = json.loads((house.directory / "r.json").read_text())
    assert {row["destination"].rpartition("/")[2]: row["outcome"] for row in rows} == {
        "a:v1": "failed",
        "b:v1": "copied",
    }


async def test_a_rule_or_a_source_that_is_not_there_ends_before_anything_is_started(house: House) -> None:
    rules = house.rules({"HARBOR/team/**": "ACR/cache/{flat}"})
    key = f"{house.harbor.host}/teem/**"
    ended = await replicator("backfill", "--config", rules, "--rule", key, cwd=house.directory)
    assert ended.code == 2, ended.said
    assert f"did you mean {house.harbor.host}/team/**?" in ended.err
    ended = await replicator("backfill", "--config", rules, "--only", "library/app", cwd=house.directory)
    assert ended.code == 2, ended.said
    assert "no rule copies from library/app" in ended.err
    assert not (house.directory / "state").exists()


async def test_forced_what_is_there_is_written_again_and_no_blob_is_sent(house: House) -> None:
    root = image(1, (50_000,))
    await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    command = ["backfill", "--config", str(rules), "--report=r.json"]
    for options, outcome, written in ([], "copied", 1), ([], "up to date", 1), (["--force"], "copied", 2):
        ended = await replicator(*command, *options, cwd=house.directory)
        assert ended.code == 0, ended.said
        row = report(house.directory / "r.json")["v1"]
        assert (row["outcome"], row["digest"]) == (outcome, root.digest)
        assert house.acr.faults.log.count("PUT", "/manifests/v1", 201) == written
    assert row["bytes"] == 0
    assert house.acr.faults.log.count("PUT", "/blobs/uploads/", 201) == len(root.blobs)
    ended = await replicator(*command, "--force", "--dry-run", cwd=house.directory)
    assert (ended.code, report(house.directory / "r.json")["v1"]["outcome"]) == (0, "would copy")
    assert "it is forced" in ended.out
