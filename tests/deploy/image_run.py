"""The container image under the options that people run it with: `make image-check` builds it, and starts these tests.

`docker` is Docker, or podman under its name.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from replicator import __version__
from tests.deploy.dockerfile import variables
from tests.deploy.test_image import RULES
from tests.docs.pages import ROOT, blocks
from tests.queue.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGE = f"replicator:{__version__}"
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
DEADLINE = 90.0
"""Seconds that any step may take at most, on a machine that is busy."""


def docker(*words: str | Path, code: int = 0) -> str:
    """Run a command of Docker's, whose exit code must be ``code``; return what it prints."""
    command = ["docker", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE)
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}"
    return done.stdout


def state(name: str) -> dict[str, Any]:
    """The engine's facts about a container's process."""
    (found,) = json.loads(docker("inspect", name))
    assert isinstance(found["State"], dict)
    return found["State"]


@contextmanager
def container(*options: str | Path) -> Iterator[str]:
    """Have ``docker run --detach`` run something; its name."""
    name = f"check-{uuid.uuid4().hex[:8]}"
    docker("run", "--detach", "--name", name, *options)
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def until_listening(name: str, times: int = 1) -> None:
    """Wait until ``serve`` has said so often that it listens."""
    ends = time.monotonic() + DEADLINE
    while (log := docker("logs", name)).count("listening") < times:
        assert state(name)["Running"], log
        assert time.monotonic() < ends, log
        time.sleep(0.2)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps(RULES))
    return file


def test_what_is_known_of_the_image_without_running_it() -> None:
    (found,) = json.loads(docker("image", "inspect", IMAGE))
    config = found["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert labels["title"] == "replicator"
    assert labels["version"] == __version__
    assert labels["revision"] == commit.strip()
    assert labels["licenses"] == "Apache-2.0"
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["replicator"]
    assert config["Cmd"] == ["serve"]
    assert set(config["ExposedPorts"]) == {"8080/tcp", "9090/tcp"}
    assert list(config["Volumes"]) == [variables()["REPLICATOR_STATE_DIR"]]
    # Docker has it in the configuration, podman beside it.
    assert {**found, **config}["Healthcheck"]["Test"] == ["CMD", "replicator", "health"]
    assert docker("run", "--rm", IMAGE, "--version").split()[-1] == __version__


def test_the_command_of_the_documentation_serves_and_is_healthy(rules: Path, tmp_path: Path) -> None:
    """It is hardened. What is queued outlives it, and ``docker stop`` ends it cleanly."""
    (block,) = [block for block in blocks("sh") if "docker run --detach" in block.text]
    command = block.text[block.text.index("docker run") :].replace("\\\n", "")
    (tmp_path / "replicator.env").write_text("REPLICATOR_WEBHOOK_TOKEN=secret\n")
    name, volume = f"check-{uuid.uuid4().hex[:8]}", f"check-{uuid.uuid4().hex[:8]}"
    for written, meant in {
        "--name replicator ": f"--name {name} ",
        "8080:8080": f"127.0.0.1:{free_port()}:8080",
        "replicator.env": str(tmp_path / "replicator.env"),
        "/etc/replicator/rules.yaml:/": f"{rules}:/",
        "replicator-state:": f"{volume}:",
    }.items():
        assert written in command
        command = command.replace(written, meant)
    assert set(HARDENED) <= set(shlex.split(command))
    docker(*shlex.split(command)[1:])
    try:
        until_listening(name)
        assert docker("exec", name, "id", "-u").split()[-1] == "10001"
        docker("exec", name, "replicator", "health")
        assert "Read-only" in docker("exec", name, "touch", "/opt/replicator/file", code=1)
        begun = time.monotonic()
        docker("stop", name)
        print(f"docker stop: {time.monotonic() - begun:.1f} s")
        assert state(name)["ExitCode"] == 0
        docker("start", name)
        until_listening(name, 2)
        docker("exec", name, "replicator", "status")
    finally:
        docker("rm", "--force", name)
        docker("volume", "rm", volume)


@pytest.mark.parametrize("options", [(), HARDENED], ids=["plain", "hardened"])
def test_any_user_of_group_0_can_run_it_as_openshift_does(rules: Path, options: tuple[str, ...]) -> None:
    more = ("--volume", f"{rules}:/etc/replicator/rules.yaml:ro", "--env", "REPLICATOR_WEBHOOK_TOKEN=secret")
    with container(*options, *more, "--user", "1000650000:0", IMAGE) as name:
        until_listening(name)
        docker("exec", name, "replicator", "health")
        assert docker("exec", name, "id", "-u").split()[-1] == "1000650000"


def test_where_nothing_serves_it_is_unhealthy_and_without_rules_it_says_so() -> None:
    docker("run", "--rm", IMAGE, "health", code=1)
    assert "rules" in docker("run", "--rm", IMAGE, code=2)


def test_docker_stop_ends_a_command_that_handles_no_signal() -> None:
    """It is the first process of a container, which the kernel lets ignore what it does not handle."""
    with container("--interactive", IMAGE, "init") as name:
        ends = time.monotonic() + DEADLINE
        while "Harbor" not in docker("logs", name):
            assert time.monotonic() < ends
            time.sleep(0.2)
        docker("stop", "--time", "60", name)
        assert state(name)["ExitCode"] == 130
