"""What lies in deploy/compose and deploy/systemd fits the program and each other."""

from __future__ import annotations

import configparser
import fnmatch
import json
import re
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

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = ROOT / "deploy" / "compose"


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
    # Others belong in .env, which .env.example explains.
    own = {"REPLICATOR_METRICS_LISTEN": "0.0.0.0:9090"} if name == "worker" else {}
    assert content.get("environment", {}) == own


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
