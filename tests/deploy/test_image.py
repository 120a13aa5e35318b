"""The image is built from exactly its inputs, and its health check tells the truth."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from replicator import __version__
from replicator.settings import PREFIX, Settings
from tests.deploy.dockerfile import instructions, texts, variables
from tests.docs.pages import ROOT
from tests.running import running

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
    # OpenShift gives a container any user, of group 0.
    assert f"--group=root --mode=0770 {variables()['REPLICATOR_STATE_DIR']}" in creates
    words = [instruction.word for instruction in instructions()]
    assert words.index("USER") < words.index("VOLUME"), "the volume must belong to the user"
    assert texts("ENTRYPOINT") == ['["replicator"]']
    assert texts("CMD") == ['["serve"]']


def test_both_stages_have_one_python_of_a_named_version() -> None:
    assert {text.split()[0] for text in texts("FROM")} == {"${BASE_IMAGE}"}
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+-slim-\w+", texts("ARG")[0])


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
