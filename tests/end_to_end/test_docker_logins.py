"""Logins from Docker's config.json and credential helpers, through the whole program."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.running import replicator
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House


def docker(house: House, helper: str) -> dict[str, str]:
    """Have Harbor's login in Docker's file and ACR's in a helper that this code is; return what makes both known."""
    directory = house.directory / "docker"
    directory.mkdir()
    config = {
        "auths": {f"https://{house.harbor.host}": {"username": HARBOR_ROBOT[0], "password": HARBOR_ROBOT[1]}},
        "credHelpers": {house.acr.host: "test"},
    }
    (directory / "config.json").write_text(json.dumps(config))
    program = directory / "docker-credential-test"
    program.write_text(f"#!{sys.executable} -I\n{helper}\n")
    program.chmod(0o755)
    return {
        "DOCKER_CONFIG": str(directory),
        "REPLICATOR_DOCKER_CONFIG": "",
        "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}",
    }


def saying(username: str, password: str) -> str:
    return f"print({json.dumps({'Username': username, 'Secret': password})!r})"


def rules(house: House) -> Path:
    """Rules with no login at all."""
    file = house.directory / "rules.json"
    auth = {house.harbor.host: {"insecure": True}, house.acr.host: {"insecure": True}}
    images = {f"{house.harbor.host}/library/app": f"{house.acr.host}/image-syncer/app"}
    file.write_text(json.dumps({"auth": auth, "images": images}))
    return file


async def test_images_flow_with_nothing_but_the_logins_of_docker(house: House) -> None:
    root = image()
    await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
    settings = docker(house, saying(*ACR_USER))
    log = house.directory / "log"
    ended = await replicator(
        "backfill",
        "--config",
        rules(house),
        "--log",
        log,
        "--log-format",
        "json",
        cwd=house.directory,
        settings=settings,
    )
    assert ended.code == 0, ended.said
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", root)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    logins = {line["registry"]: line["source"] for line in lines if line["event"] == "login configured"}
    config = house.directory / "docker" / "config.json"
    assert logins == {house.harbor.host: str(config), house.acr.host: f"docker-credential-test ({config})"}
    for secret in (HARBOR_ROBOT[1], ACR_USER[1]):
        assert secret not in ended.said + log.read_text()


async def test_copy_without_a_rules_file_uses_the_logins_of_docker(house: House) -> None:
    root = image()
    await push(house.harbor.host, "team/app", "v1", root, HARBOR_ROBOT)
    source, destination = f"{house.harbor.host}/team/app:v1", f"{house.acr.host}/cache/app:v1"
    command = ("copy", source, destination, "--insecure", house.harbor.host, "--insecure", house.acr.host)
    settings = docker(house, saying(*ACR_USER))
    ended = await replicator(*command, cwd=house.directory, settings=settings)
    assert ended.code == 0, ended.said
    await verify_tree(house.behind_acr, "cache/app", "v1", root)
    ended = await replicator(*command, cwd=house.directory, settings={**settings, "REPLICATOR_DOCKER_CONFIG": "off"})
    assert ended.code == 1, ended.said


async def test_a_helper_that_fails_is_told_as_the_reason(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    settings = docker(house, "print('credentials not found in native keychain'); raise SystemExit(1)")
    ended = await replicator("backfill", "--config", rules(house), cwd=house.directory, settings=settings)
    assert ended.code == 1, ended.said
    assert "docker-credential-test get" in ended.said
    assert f"it has no login for {house.acr.host}" in ended.said
    assert "Traceback" not in ended.said


async def test_a_login_that_is_needed_and_broken_is_told_before_anything_starts(house: House) -> None:
    settings = docker(house, "")
    config = house.directory / "docker" / "config.json"
    config.write_text(json.dumps({"auths": {house.harbor.host: {"auth": "s3cret"}}}))
    file = rules(house)
    ended = await replicator("backfill", "--config", file, cwd=house.directory, settings=settings)
    assert ended.code == 2, ended.said
    assert f"{config}" in ended.said
    assert f'auth["{house.acr.host}"]: no login' in ended.said
    assert "s3cret" not in ended.said
    config.write_text("{")
    ended = await replicator(
        "copy", f"{house.harbor.host}/a/b:v1", f"{house.acr.host}/a/b:v1", cwd=house.directory, settings=settings
    )
    assert ended.code == 2, ended.said
    assert f"{config}: 1 problem(s)\n  not valid JSON" in ended.said


@pytest.mark.parametrize(("password", "code"), [(ACR_USER[1], 0), ("wrong", 1)])
async def test_check_takes_a_helper_s_login_for_one(house: House, password: str, code: int) -> None:
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    serving = {"REPLICATOR_WEBHOOK_TOKEN": "a-token-of-the-tests", "REPLICATOR_LISTEN": "127.0.0.1:0"}
    settings = {**docker(house, saying(ACR_USER[0], password)), **serving}
    ended = await replicator("check", "--json", "--config", rules(house), cwd=house.directory, settings=settings)
    assert (ended.code, ended.err) == (code, "")
    (line,) = [each for each in json.loads(ended.out) if (each["name"], each["subject"]) == ("login", house.acr.host)]
    assert line["state"] == ("ok" if code == 0 else "failed")
    assert "without a login" not in line["message"]
