"""What lies in deploy/, and the Dockerfile, fit the program and each other."""

from __future__ import annotations

import configparser
import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from io import StringIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import yaml
from dotenv import dotenv_values

from replicator.queue import Job, Lane, Queue
from replicator.reference import Reference
from replicator.rules import load
from replicator.settings import PREFIX, Settings
from tests.docs.pages import ROOT, blocks
from tests.docs.test_examples import COMMANDS, SECRETS
from tests.queue.servers import RedisServer
from tests.running import running

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = ROOT / "deploy" / "compose"
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
RULES = {
    "auth": {"harbor.example.com": {"anonymous": True}},
    "images": {"harbor.example.com/team/app": "harbor.example.com/copy/app"},
}


def compose(file: str) -> dict[str, Any]:
    content = yaml.safe_load((COMPOSE / file).read_text())
    assert isinstance(content, dict)
    return content


def services() -> list[tuple[str, dict[str, Any]]]:
    """All services that run this program, from both compose files."""
    found = [item for file in ("compose.yaml", "compose.workers.yaml") for item in compose(file)["services"].items()]
    return [(name, service) for name, service in found if name != "redis"]


def unit(file: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # how configparser lets keys keep their case
    parser.read(ROOT / "deploy" / "systemd" / file)
    return parser


def settings_in(environment: str) -> dict[str, str | None]:
    """What a unit's or an image's list of variables sets."""
    pairs = (pair.split("=", 1) for pair in environment.split())
    return {name: value for name, value in pairs if name.startswith(PREFIX)}


@pytest.mark.parametrize(("service", "content"), services())
def test_a_service_runs_a_command_that_there_is(service: str, content: dict[str, Any]) -> None:
    name, *arguments = content.get("command", ["serve"])
    with COMMANDS[name].make_context(name, list(arguments)):
        pass
    assert not content.get("environment"), "variables belong in .env, which .env.example explains"


@pytest.mark.parametrize(("service", "content"), services())
def test_a_service_has_the_time_to_drain(service: str, content: dict[str, Any]) -> None:
    grace = content.get("stop_grace_period") or compose("compose.yaml")["services"][service]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= Settings.model_fields["drain_timeout"].default + 20


def test_all_that_a_service_uses_is_declared() -> None:
    files = [compose("compose.yaml"), compose("compose.workers.yaml")]
    networks = {name for file in files for name in file.get("networks", {})}
    volumes = {name for file in files for name in file.get("volumes", {})}
    for _, content in [item for file in files for item in file["services"].items()]:
        assert set(content.get("networks", [])) <= networks
        for mount in content.get("volumes", []):
            source = mount.split(":")[0]
            example = {"./rules.yaml": "rules.example.yaml", "./users.acl": "users.acl.example"}.get(source)
            assert (COMPOSE / example).exists() if example else source in volumes


def test_the_environment_file_has_no_secret_and_only_settings_and_what_the_rules_need(tmp_path: Path) -> None:
    text = (COMPOSE / ".env.example").read_text()
    assert set(dotenv_values(stream=StringIO(text)).values()) == {""}, "nobody may start with a secret that is public"
    text = re.sub(r"^# (\w+=)", r"\1", text, flags=re.MULTILINE)
    values = {name: value or "filled-in" for name, value in dotenv_values(stream=StringIO(text)).items()}
    load(COMPOSE / "rules.example.yaml", environ=values)
    ours = {name.removeprefix(PREFIX).lower(): value for name, value in values.items() if name.startswith(PREFIX)}
    assert set(ours) <= set(Settings.model_fields)
    Settings(_env_file=None, **ours)  # type: ignore[arg-type]  # as the environment gives them: texts


def test_the_ram_policy_allows_what_a_push_needs_where_the_example_pushes_to() -> None:
    (statement,) = json.loads((ROOT / "deploy" / "ram-policy.json").read_text())["Statement"]
    assert set(statement["Action"]) == {
        "cr:CreateRepository",
        "cr:UpdateRepository",
        "cr:PushRepository",
        "cr:PullRepository",
    }
    rules = load(COMPOSE / "rules.example.yaml", environ=SECRETS)
    for image in ("library/nginx:1.27", "team/app:v1"):
        (request,) = rules.destinations(Reference.parse(f"harbor.example.com/{image}"))
        resource = f"acs:cr:cn-beijing:1:repository/{request.destination.repository.name}"
        assert any(fnmatch.fnmatch(resource, allowed) for allowed in statement["Resource"])


@pytest.mark.parametrize("file", ["replicator.service", "replicator-backfill.service"])
def test_a_unit_drains_before_the_queue_is_ended_and_sets_only_settings(file: str) -> None:
    service = unit(file)["Service"]
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) >= Settings.model_fields["drain_timeout"].default + 20
    found = settings_in(service["Environment"])
    assert {name.removeprefix(PREFIX).lower() for name in found} <= set(Settings.model_fields)
    assert found["REPLICATOR_STATE_DIR"] == f"/var/lib/{service['StateDirectory']}" == service["WorkingDirectory"]
    program, command, *arguments = service["ExecStart"].split()
    assert program == "/opt/replicator/bin/replicator"
    with COMMANDS[command].make_context(command, arguments):
        pass


async def test_the_acl_that_is_documented_suffices(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = (COMPOSE / "users.acl.example").read_text()
    line = next(line for line in text.splitlines() if line.startswith("user replicator"))
    assert line in [block.text.strip() for block in blocks("text")]
    directory = tmp_path_factory.mktemp("r")
    (directory / "users.acl").write_text(text)
    with RedisServer(directory, "--aclfile", str(directory / "users.acl")) as server:
        url = f"unix://replicator:change-me@{quote(str(server.socket))}"
        async with await Queue.connect(url) as queue:
            await queue.ping()
            await queue.enqueue([Job("registry.example.com/a/b:c", {})], Lane.EVENTS)
            assert (await queue.counts()).lanes[Lane.EVENTS].queued == 1


def test_the_image_installs_the_locked_versions_for_a_user_without_rights() -> None:
    assert re.search(
        r"^RUN \S+/pip install .*--constraint constraints\.txt '\.\[aliyun,otlp\]'$", DOCKERFILE, re.MULTILINE
    )
    assert re.search(r"^ENTRYPOINT \[\"replicator\"\]\nCMD \[\"serve\"\]$", DOCKERFILE, re.MULTILINE)
    user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user == ["replicator"]
    assert DOCKERFILE.index("useradd") < DOCKERFILE.index("VOLUME")
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases[0])
    variables = settings_in(" ".join(re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)))
    assert {name.removeprefix(PREFIX).lower() for name in variables} <= set(Settings.model_fields)


def test_the_image_is_built_from_what_the_build_needs_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {project["project"]["readme"], *project["project"]["license-files"]}
    assert needed | set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied


async def test_the_health_check_tells_a_replicator_that_serves_from_one_that_does_not(tmp_path: Path) -> None:
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    program, *arguments = json.loads(check)
    assert program == "python"
    (tmp_path / "rules.json").write_text(json.dumps(RULES))
    async with running("serve", "--no-worker", "--config", "rules.json", cwd=tmp_path) as serving:
        port = serving.address.rpartition(":")[2]
        call = [sys.executable, *(argument.replace("8080", port) for argument in arguments)]
        assert subprocess.run(call, timeout=30).returncode == 0
    assert subprocess.run(call, timeout=30, stderr=subprocess.DEVNULL).returncode != 0
