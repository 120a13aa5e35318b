"""The Compose files, read by Compose itself and run: `make image-check` builds the image, and starts these tests.

`docker compose` is Compose v2, or podman-compose; `docker-compose` is v1.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deploy.image_walk import DEADLINE, terminal
from tests.deploy.test_compose import COMPOSE, steps_to_try
from tests.deploy.test_sidecar import HARBOR
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path


PROJECTS = ["try.yaml", "compose.yaml", "compose.yaml compose.workers.yaml", "docker-compose.yml harbor-sidecar.yaml"]


@pytest.mark.parametrize("project", PROJECTS)
def test_compose_v1_takes_the_files_without_the_line_that_it_does_not_know(project: str, tmp_path: Path) -> None:
    files = project.split()
    for file in files:
        text = ((HARBOR if file == "docker-compose.yml" else COMPOSE) / file).read_text()
        (tmp_path / file).write_text(text.replace("\nname: replicator\n", "\n"))
    for name in (".env", "replicator.env"):
        shutil.copyfile(COMPOSE / ".env.example", tmp_path / name)
    options = [word for file in files for word in ("-f", file)]
    done = subprocess.run(["docker-compose", *options, "config"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "replicator:" in done.stdout


@pytest.mark.timeout(600)
async def test_the_steps_to_try_it_by_hand(tmp_path: Path) -> None:
    """Any small image is in place of ``hello-world``, and the replicator's image is there already."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    subprocess.run(["docker", "build", "--tag", "hello-world", tmp_path], check=True, capture_output=True)
    first, call, last = [block.text for block in steps_to_try()]
    first = first.replace(" --build", "").replace("docker pull hello-world", "")
    # Both take some seconds.
    listens = "until curl --silent --fail http://localhost:18080/healthz; do sleep 0.2; done\n"
    arrives = "until docker pull localhost:15001/team-mirror/hello:1; do sleep 0.2; done\n"
    async with terminal(f"set -e\n{first}{listens}{call}{arrives}{last}", ROOT) as shown:
        assert await shown.ended(4 * DEADLINE) == 0, shown.said
        said = [" ".join(line.split()) for line in shown.said.splitlines()]
    # By the backfill, or by the comparison that follows a start.
    assert "2 listed" in said, shown.said
    assert "0 failed" in said, shown.said
