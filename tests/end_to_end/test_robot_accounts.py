"""A project's robot account as the source's login, with the least permissions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.running import replicator, running
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT
from tests.standins.tokens import READ, Account

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House
    from tests.running import Ended

ROBOT = ("robot$team+reader", "pa$$w0rd${HOME}")
NARROW = (
    "robot$team+reader is a robot account of the project team, so it sees only the public ones of all other "
    "projects: use a system robot account that covers them"
)
VARIABLES = {"HARBOR_USER": ROBOT[0], "HARBOR_PASSWORD": ROBOT[1]}


@pytest.fixture
async def house(house: House) -> House:
    """A Harbor whose project ``team`` has a robot of its own that may only read; another project is closed to it."""
    house.harbor.projects.accounts[ROBOT[0]] = Account(ROBOT[1], READ, administers=False)
    house.harbor.add_project("other")
    for number, name in enumerate(("team/app", "team/app/api", "other/app")):
        await push(house.behind_harbor, name, "v1", image(number))
    return house


def rules(house: House, pattern: str) -> Path:
    file = house.rules({pattern: "ACR/image-syncer/{flat}"})
    content = json.loads(file.read_text())
    content["auth"][house.harbor.host] |= {"username": "${HARBOR_USER}", "password": "${HARBOR_PASSWORD}"}
    file.write_text(json.dumps(content))
    return file


async def backfill(house: House, pattern: str) -> Ended:
    file = rules(house, pattern)
    ended = await replicator(
        "backfill", "--config", file, "--report", "report.json", cwd=house.directory, settings=VARIABLES
    )
    assert ROBOT[1] not in ended.said
    return ended


def copied(house: House) -> list[str]:
    rows = json.loads((house.directory / "report.json").read_text())
    return sorted(row["source"].partition("/")[2] for row in rows if row["outcome"] == "copied")


async def test_a_projects_robot_that_may_only_read_is_enough_for_its_project(house: House) -> None:
    ended = await backfill(house, "HARBOR/team/**")
    assert ended.code == 0, ended.said
    assert copied(house) == ["team/app/api:v1", "team/app:v1"]
    await verify_tree(house.behind_acr, "image-syncer/team-app-api", "v1", image(1))
    assert house.harbor.leaks == []


async def test_of_a_pattern_over_projects_it_copies_what_it_sees(house: House) -> None:
    ended = await backfill(house, "HARBOR/**")
    assert ended.code == 0, ended.said
    assert copied(house) == ["team/app/api:v1", "team/app:v1"]
    assert " ".join(ended.said.split()).count(f"{house.harbor.host}/** may not find all: {NARROW}") == 1
    # It may see all that is asked for.
    assert "may not find all" not in (await backfill(house, "HARBOR/team/**")).said


async def test_a_reconcile_logs_once_that_it_may_not_see_all(house: House) -> None:
    settings = {**VARIABLES, "REPLICATOR_RECONCILE": "1s"}
    async with running(
        "serve", "--config", rules(house, "HARBOR/**"), cwd=house.directory, settings=settings
    ) as serving:
        await serving.until("reconcile done", count=3)
        (line,) = serving.said("reconcile warning")
    assert line["warning"] == f"{house.harbor.host}/** may not find all: {NARROW}"


async def test_check_tells_which_projects_it_sees(house: House) -> None:
    ended = await replicator(
        "check", "--json", "--config", rules(house, "HARBOR/**"), cwd=house.directory, settings=VARIABLES
    )
    (line,) = [each for each in json.loads(ended.out) if each["name"] == "projects"]
    public = "library, " if house.harbor.projects.by_name["library"].public else ""
    number = 2 if public else 1
    assert (line["state"], line["subject"]) == ("ok", f"{house.harbor.host}/**")
    assert line["message"] == f"the login sees {number} ({public}team); {NARROW}"


async def test_a_project_that_it_may_not_see_is_an_error_and_nothing_else(house: House) -> None:
    ended = await backfill(house, "HARBOR/other/**")
    assert ended.code == 1
    assert copied(house) == []


@pytest.mark.parametrize("command", ["backfill", "check"])
async def test_one_that_has_expired_is_told_as_what_it_can_be(house: House, command: str) -> None:
    # To Harbor its secret is then no better than a wrong one.
    del house.harbor.projects.accounts[ROBOT[0]]
    house.harbor.projects.accounts[HARBOR_ROBOT[0]] = Account(HARBOR_ROBOT[1])
    ended = await replicator(
        command, "--config", rules(house, "HARBOR/team/**"), cwd=house.directory, settings=VARIABLES
    )
    assert ended.code == 1
    assert "expired" in ended.said
    assert ROBOT[1] not in ended.said
