"""The image is built from what it needs, by steps that work, and its health check tells the truth."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator import __version__
from replicator.settings import PREFIX, Settings
from tests.deploy.dockerfile import instructions, texts, variables
from tests.docs.pages import ROOT
from tests.running import running
from tests.supply.locked import locked

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RULES = {
    "auth": {"harbor.example.com": {"anonymous": True}},
    "images": {"harbor.example.com/team/app": "harbor.example.com/copy/app"},
}
VENV = "/opt/replicator"


def health_check(address: str, *, programs: Path = Path(sys.executable).parent, **settings: str) -> int:
    """Run the image's health check; return its exit code.

    Args:
        address: where the webhook listens.
        programs: the directory of the image's.
        settings: more of the container's environment.
    """
    (text,) = texts("HEALTHCHECK")
    command = json.loads(text.partition(" CMD ")[2])
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "REPLICATOR_LISTEN": address, **settings}
    program = shutil.which(command[0], path=environment["PATH"])
    assert program is not None
    ended = subprocess.run([program, *command[1:]], timeout=30, stderr=subprocess.DEVNULL, env=environment)
    return ended.returncode


def test_the_dockerfile_follows_the_linters_rules() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_a_user_without_rights_that_kubernetes_can_tell_from_root() -> None:
    assert texts("USER") == ["10001:10001"]
    (creates,) = [text for text in texts("RUN") if "useradd" in text]
    assert "--uid 10001 --user-group" in creates
    words = [instruction.word for instruction in instructions()]
    assert words.index("USER") < words.index("VOLUME"), "the volume must belong to the user"
    assert texts("ENTRYPOINT") == ['["replicator"]']
    assert texts("CMD") == ['["serve"]']


def test_both_stages_have_one_python_of_a_named_version() -> None:
    bases = {text.split()[0] for text in texts("FROM")}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases.pop())


def test_the_image_sets_only_settings_and_writes_only_to_its_volume() -> None:
    ours = {name for name in variables() if name.startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in ours} <= set(Settings.model_fields)
    assert texts("VOLUME") == [variables()["REPLICATOR_STATE_DIR"]]
    assert texts("WORKDIR")[-1] == variables()["REPLICATOR_STATE_DIR"]


def test_the_labels_are_those_of_the_project() -> None:
    (text,) = texts("LABEL")
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', text))
    assert labels["version"] == __version__
    for key in ("name", "description"):
        assert PROJECT["project"][key] == labels["title" if key == "name" else key]
    assert PROJECT["project"]["license"] == labels["licenses"]


def test_the_image_is_built_from_what_the_build_needs_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for text in texts("COPY")
        if not text.startswith("--from")
        for source in text.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    needed = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert needed | set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied


def test_nothing_is_installed_that_is_not_known_by_its_hash() -> None:
    commands = [command for text in texts("RUN") for command in text.split(" && ")]
    pip = [text for text in commands if re.search(r"\bpip\b.* (install|wheel|download)\b", text)]
    assert len(pip) == 4
    for text in pip:
        own = text.endswith((" wheels .", " wheels/*.whl"))
        assert ("--require-hashes" in text) is not own
        # What is our own brings nothing along.
        assert not own or "--no-deps" in text


async def test_the_health_check_tells_a_replicator_that_serves_from_one_that_does_not(tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(json.dumps(RULES))
    async with running("serve", "--no-worker", "--config", "rules.json", cwd=tmp_path) as serving:
        address = serving.address
        assert health_check(address) == 0
        # What listens for metrics is asked first, as a worker has nothing else.
        assert health_check("0.0.0.0:1", REPLICATOR_METRICS_LISTEN=address) == 0
        assert health_check(address, REPLICATOR_METRICS_LISTEN="0.0.0.0:1") != 0
    assert health_check(address) != 0


@pytest.mark.timeout(300)
async def test_the_steps_of_the_build_make_a_program_that_serves(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("image")
    build(root)
    python = f"{root}{VENV}/bin/python"
    program = [f"{root}{VENV}/bin/replicator"]
    outside = {"PATH": f"{root}{VENV}/bin:/usr/bin:/bin"}
    told = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True, env=outside)
    assert __version__ in told.stdout
    # What the image has is what is locked, and no more than runs: a checkout next to it is not looked at.
    listed = subprocess.run([python, "-c", INSTALLED], capture_output=True, text=True, check=True, env=outside)
    installed = json.loads(listed.stdout)
    assert {"replicator", "arq", "alibabacloud-credentials", "opentelemetry-sdk"} <= set(installed)
    assert not {"pip", "setuptools", "hatchling", "pytest", "ruff"} & set(installed)
    versions = {entry.name: entry.version for entry in locked("requirements.lock").values()}
    assert {name: version for name, version in installed.items() if name != "replicator"} == versions

    (root / "rules.yaml").write_text(json.dumps(RULES))
    settings = {**outside, "PYTHONPATH": "", "REPLICATOR_CONFIG": str(root / "rules.yaml")}
    (command,) = json.loads(texts("CMD")[0])
    async with running(command, cwd=root, settings=settings, program=program) as serving:
        assert health_check(serving.address, programs=Path(python).parent) == 0


INSTALLED = """
import importlib.metadata, json, re
print(json.dumps({re.sub("[-_.]+", "-", one.name).lower(): one.version for one in importlib.metadata.distributions()}))
"""


def build(root: Path) -> None:
    """Do the steps of the first stage, with ``root`` in front of every absolute path."""
    here = root
    environment: Mapping[str, str] = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for step in (step for step in instructions() if step.stage == 0):
        if step.word == "WORKDIR":
            here = Path(f"{root}{step.text}")
            here.mkdir()
        elif step.word == "COPY":
            copy(step.text.split(), here)
        elif step.word == "RUN":
            script = step.text.replace("/opt/", f"{root}/opt/")
            # The interpreter is this one, whatever `python` is on this machine.
            words = re.sub(r"(^|&& )python ", rf"\1{sys.executable} ", script)
            subprocess.run(["/bin/sh", "-ec", words], cwd=here, env=environment, check=True, capture_output=True)


def copy(words: list[str], here: Path) -> None:
    """Copy files into a directory, or one directory under its name, as COPY does."""
    *sources, target = words
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, here / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, here / target)
