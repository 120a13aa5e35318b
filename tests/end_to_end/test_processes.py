"""Every command once as users start it: in a fresh interpreter, without warnings.

All other tests run forks of a process that has loaded it (`tests.forkserver`); here it shows that a fork does the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from replicator import __version__
from replicator.commands import COMMANDS
from tests.running import PROGRAM, TOKEN, replicator, running
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

RULES = {
    "auth": {"harbor.example.com": {"anonymous": True}, "acr.example.com": {"anonymous": True}},
    "images": {"harbor.example.com/team/**": "acr.example.com/team/{flat}"},
}
OFFLINE: dict[str, tuple[list[str], int, str]] = {
    "init": (
        [
            "--yes",
            "--harbor=harbor.example.com",
            "--harbor-user=u",
            "--acr=registry.cn-beijing.aliyuncs.com",
            "--acr-user=u@1",
            "--namespace=mirror",
            "--project=team",
            "--force",
        ],
        0,
        "rules.yaml",
    ),
    "convert": (["images.json"], 0, "acr.example.com/team/app"),
    "explain": (["harbor.example.com/team/app:v1", "--config=rules.json"], 0, " -> acr.example.com/team/team-app:v1"),
    "schema": ([], 0, '"$schema"'),
    "check": (["--config=rules.json", "--redis-url=http://h"], 2, "redis://"),
    "verify": (["--deep", "--check=attestation.jsonl", "--key=key.pub"], 2, "--check"),
    "health": (["--listen=127.0.0.1:1"], 1, "127.0.0.1:1"),
    "queue": (["move"], 2, "REPLICATOR_REDIS_URL"),
    "status": (["--json"], 0, '"workers": []'),
    "failures": (["--json"], 0, "[]"),
    "history": (["--json"], 0, '"actions": []'),
    "reconcile": (["approve"], 1, "no reconcile waits for an approval"),
    "wait": (["harbor.example.com/team/app:v1", "--url=http://h"], 2, "REPLICATOR_API_TOKEN"),
    "webhook": (["register"], 2, "no rules file"),
    "version": ([], 0, "replicator "),
    "notify": (["test"], 2, "REPLICATOR_NOTIFY_URL"),
}
"""By command: its arguments, its exit code, and words of its answer."""
WITH_REGISTRIES = {"serve", "worker", "backfill", "copy"}


@pytest.mark.parametrize("command", OFFLINE)
async def test_a_fork_says_and_does_what_an_interpreter_of_its_own_does(command: str, tmp_path: Path) -> None:
    arguments, code, words = OFFLINE[command]
    (tmp_path / "rules.json").write_text(json.dumps(RULES))
    (tmp_path / "images.json").write_text(json.dumps({"harbor.example.com/team/app": "acr.example.com/team/app"}))
    (tmp_path / "state").mkdir()
    ended = await replicator(command, *arguments, cwd=tmp_path, program=PROGRAM)
    assert (ended.code, words in ended.said) == (code, True), ended.said
    assert "Warning" not in ended.said
    forked = await replicator(command, *arguments, cwd=tmp_path)
    assert forked.code == ended.code
    if command != "status":  # tells the time
        assert (forked.out, forked.err) == (ended.out, ended.err)


async def test_a_copy_and_a_backfill_load_all_they_need_by_themselves(house: House) -> None:
    root = image()
    await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    names = f"{house.harbor.host}/library/app:v1", f"{house.acr.host}/cache/app:v1"
    copied = await replicator("copy", *names, "--config", rules, cwd=house.directory, program=PROGRAM)
    assert (copied.code, copied.err) == (0, ""), copied.said
    filled = await replicator("backfill", "--config", rules, cwd=house.directory, program=PROGRAM)
    assert filled.code == 0, filled.said
    assert "Warning" not in filled.said
    for repository in ("cache/app", "image-syncer/app"):
        await verify_tree(house.behind_acr, repository, "v1", root)


async def test_serve_and_a_worker_load_all_they_need_by_themselves_and_end_at_a_signal(house: House) -> None:
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    async with running("serve", "--no-worker", "--config", rules, cwd=house.directory, program=PROGRAM) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        async with running(
            "worker", "--config", rules, cwd=house.directory, ready="worker started", program=PROGRAM
        ) as worker:
            await worker.until("copy done", result="copied")
            assert await worker.stop() == 0
        assert await serving.stop() == 0
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", image())
    # Warnings would be lines that are no JSON.
    assert [line for line in serving.lines + worker.lines if "text" in line] == []


def test_no_command_is_left_out() -> None:
    assert {*OFFLINE, *WITH_REGISTRIES} == set(COMMANDS)


async def test_the_program_says_its_version_and_how_it_is_used(tmp_path: Path) -> None:
    for arguments, code, words in (
        (["--version"], 0, f"replicator {__version__}\n"),
        (["--help"], 0, "Usage: "),
        ([], 2, "Usage: "),
        (["nonsense"], 2, "nonsense"),
    ):
        ended = await replicator(*arguments, cwd=tmp_path, program=PROGRAM)
        assert (ended.code, words in ended.said) == (code, True), ended.said
        assert await replicator(*arguments, cwd=tmp_path) == ended
