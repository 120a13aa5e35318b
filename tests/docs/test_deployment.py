"""deploy/compose and deploy/systemd fit the program and each other."""

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

from replicator.aliyun import Visibility
from replicator.aliyun.operations import (
    create_namespace,
    create_repository,
    get_authorization_token,
    get_repository,
    ram_action,
)
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
    # These have a form of their own.
    filled = {
        "REPLICATOR_API_TOKENS": f"read:{'r' * 16} operate:{'o' * 16}",
        "REPLICATOR_EVENTS_URL": f"https://host.example/path#whsec_{'s' * 32}",
    }
    values = {
        name: value or filled.get(name, "filled-in") for name, value in dotenv_values(stream=StringIO(text)).items()
    }
    load(COMPOSE / "rules.example.yaml", environ=values)
    ours = {name.removeprefix(PREFIX).lower(): value for name, value in values.items() if name.startswith(PREFIX)}
    assert set(ours) <= set(Settings.model_fields)
    Settings(_env_file=None, **ours)  # type: ignore[arg-type]  # as the environment gives them: texts


PUSH = {"cr:CreateRepository", "cr:UpdateRepository", "cr:PushRepository", "cr:PullRepository"}
POLICIES = {
    "password": (PUSH, set()),
    "temporary-login": (PUSH, {"cr:GetAuthorizationToken"}),
    "create-repositories": (PUSH | {"cr:GetRepository"}, {"cr:GetAuthorizationToken"}),
    "create-namespaces": (PUSH | {"cr:GetRepository"}, {"cr:GetAuthorizationToken", "cr:CreateNamespace"}),
}
"""What each RAM policy allows in the namespaces of the example, and what everywhere; nothing else."""


@pytest.mark.parametrize("name", POLICIES)
def test_a_ram_policy_allows_what_it_is_for_where_the_example_pushes_to_and_no_more(name: str) -> None:
    policy = json.loads((ROOT / "deploy" / "ram" / f"{name}.json").read_text())
    here, everywhere = POLICIES[name]
    bounded, *others = policy["Statement"]
    assert set(bounded["Action"]) == here
    assert {action for statement in others for action in statement["Action"]} == everywhere
    assert [statement["Resource"] for statement in others] == [["*"]] * bool(everywhere)
    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    rules = load(COMPOSE / "rules.example.yaml", environ=SECRETS)
    for image in ("library/nginx:1.27", "team/app:v1"):
        (request,) = rules.destinations(Reference.parse(f"harbor.example.com/{image}"))
        resource = f"acs:cr:cn-beijing:1:repository/{request.destination.repository.name}"
        assert any(fnmatch.fnmatch(resource, allowed) for allowed in bounded["Resource"])
    assert "*" not in {part for allowed in bounded["Resource"] for part in allowed.split("/")[1:-1]}


def test_every_ram_policy_is_explained() -> None:
    files = {path.name for path in (ROOT / "deploy" / "ram").iterdir()}
    assert files == {f"{name}.json" for name in POLICIES}
    told = (ROOT / "docs" / "deployment.md").read_text()
    assert all(f"(../deploy/ram/{file})" in told for file in files)


@pytest.mark.parametrize("instance", ["", "cri-0123456789abcdef"])
def test_the_ram_policies_allow_every_operation_that_is_asked_for(instance: str) -> None:
    login = [get_authorization_token(instance)]
    repository = [create_repository(instance, "n", "r", Visibility.PRIVATE), get_repository(instance, "n", "r")]
    namespace = [create_namespace(instance, "n", Visibility.PRIVATE)]
    needed = {
        "temporary-login": login,
        "create-repositories": login + repository,
        "create-namespaces": login + repository + namespace,
    }
    for name, operations in needed.items():
        here, everywhere = POLICIES[name]
        assert {ram_action(operation.action) for operation in operations} <= here | everywhere


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
