"""One team's mistake stays its own: a directory of rules files, from a first start over a restart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.end_to_end.test_reload import pushed
from tests.queue.servers import free_port
from tests.running import replicator, running
from tests.standins.images import image, verify_tree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

PROBLEM = 'b.json: images["{harbor}/team/**"].tu: unknown key'


@pytest.fixture
def files(house: House) -> Path:
    """A directory with the rules of two teams, one of them with a typing mistake."""
    house.harbor.add_project("team")
    folder = house.directory / "rules"
    folder.mkdir()
    house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"}).rename(folder / "a.json")
    house.rules({"HARBOR/team/**": {"tu": "ACR/image-syncer/{flat}"}}).rename(folder / "b.json")
    return folder


async def test_a_mistake_takes_out_its_own_file_alone_and_a_restart_takes_what_was_accepted(
    house: House, files: Path
) -> None:
    problem = PROBLEM.format(harbor=house.harbor.host)
    listening = {"REPLICATOR_LISTEN": f"127.0.0.1:{free_port()}"}
    async with running("serve", "--config", files, cwd=house.directory, settings=listening) as serving:
        (refused,) = serving.said("configuration refused")
        assert refused["in_force"] == "none of its rules is in force"
        assert any(text.startswith(problem) for text in refused["problems"])
        await pushed(house, serving, "library/app", "v1", 1)
        await serving.until("copy done")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{serving.url}/readyz") as answer:
                assert answer.status == 200
            async with session.get(f"{serving.url}/metrics") as answer:
                assert "replicator_rules_files_out 1.0" in await answer.text()
        status = await replicator("status", "--json", cwd=house.directory)
        (told,) = json.loads(status.out)["configuration"]
        assert (problem in told["problem"], told["out"], bool(told["since"])) == (True, ["b.json"], True)
        checked = await replicator("check", "--config", files, cwd=house.directory)
        assert checked.code == 2
        assert "Running" in checked.err
        assert checked.err.count(problem) == 2, "what the file says now, and what the process says"
    (files / "a.json").write_text("images: [")
    async with running("serve", "--config", files, cwd=house.directory, settings=listening) as serving:
        assert len(serving.said("configuration refused")) == 2
        await pushed(house, serving, "library/app", "v2", 2)
        await serving.until("copy done")
    await verify_tree(house.behind_acr, "image-syncer/app", "v2", image(2))
    ended = await replicator("serve", "--strict", "--config", files, cwd=house.directory)
    assert ended.code == 2
    assert "a.json: not valid YAML" in ended.err
    assert problem in ended.err
