"""A pod starts as its manifest says, finds its rules and secrets, and answers its probes."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest
import yaml
from kubernetes_validate import SchemaNotFoundError, ValidationError

from tests.deploy.dockerfile import variables
from tests.deploy.manifests import Manifest, container, environment, of_kind, pods, read, validate
from tests.deploy.test_helm import MINIMAL, is_test, template
from tests.deploy.test_kustomize import rendered
from tests.queue.servers import RedisServer
from tests.running import PROGRAM, replicator, running

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = {"REPLICATOR_WEBHOOK_TOKEN": "t", "HARBOR_PASSWORD": "h", "ACR_PASSWORD": "a"}
LISTENERS = {
    "serve": ("REPLICATOR_LISTEN", "listening"),
    "worker": ("REPLICATOR_METRICS_LISTEN", "listening for probes"),
}
"""What says where each listens, and the line of the log that tells that it does."""
MINIMAL_RULES = {"auth": {"a.example.com": {"anonymous": True}}, "images": {"a.example.com/b": "a.example.com/c"}}


def mount(directory: Path, content: dict[str, str]) -> None:
    """Lay a volume out as Kubernetes does: links over a link into a directory that is replaced as a whole."""
    directory.mkdir(parents=True)
    (directory / "..2026_01_01").mkdir()
    (directory / "..data").symlink_to("..2026_01_01")
    for name, text in content.items():
        (directory / "..2026_01_01" / name).write_text(text)
        (directory / name).symlink_to(f"..data/{name}")


def prepare(manifests: list[Manifest], pod: Manifest, secrets: dict[str, str], root: Path) -> dict[str, str]:
    """Make the container's volumes below ``root``; return its environment with their paths."""
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    for each in container(pod)["volumeMounts"]:
        volume, directory = volumes.get(each["name"], {}), root / each["mountPath"].lstrip("/")
        if "configMap" in volume:
            mount(directory, of_kind(manifests, "ConfigMap")[volume["configMap"]["name"]]["data"])
        elif "secret" in volume:
            mount(directory, secrets)
        else:
            directory.mkdir(parents=True)
    found = {name: value for name, value in variables().items() if name != "PATH"} | environment(manifests, pod)
    return {name: f"{root}{value}" if value.startswith("/") else value for name, value in found.items()}


def ask(address: str, path: str) -> int:
    """Ask for a path, and return the status."""
    host, _, port = address.rpartition(":")
    with closing(HTTPConnection(host, int(port), timeout=10)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status


@pytest.mark.parametrize(("overlay", "command"), [("embedded", "serve"), ("scaled", "serve"), ("scaled", "worker")])
async def test_a_pod_starts_with_what_it_is_given_and_answers_its_probes(
    overlay: str, command: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("p")
    manifests = rendered(overlay)
    (pod,) = [template for runs, template in pods(manifests) if runs == command]
    listens, ready = LISTENERS[command]
    with RedisServer(root / "r") as redis:
        secrets = {**SECRETS, "REPLICATOR_REDIS_URL": redis.url} if overlay == "scaled" else SECRETS
        # Nothing but the secret files has the token: without them it would not start.
        settings = {**prepare(manifests, pod, secrets, root), "REPLICATOR_WEBHOOK_TOKEN": ""}
        assert settings[listens].startswith("0.0.0.0:")
        settings |= {listens: "127.0.0.1:0", "REPLICATOR_RECONCILE": "off"}
        arguments = container(pod)["args"]
        async with running(*arguments, cwd=root, settings=settings, ready=ready, program=PROGRAM) as process:
            address = process.said(ready)[0]["address"]
            for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert ask(address, container(pod)[name]["httpGet"]["path"]) == 200
            assert ask(address, "/metrics") == 200, "what the PodMonitor has scraped"
            assert not [line for line in process.lines if line.get("level") == "warning"]
    assert (root / "var/lib/replicator/appendonlydir").exists() == (overlay == "embedded")


async def test_a_pod_of_the_chart_starts_with_rules_that_are_values(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("p")
    manifests = read(template({**MINIMAL, "rules": MINIMAL_RULES, "settings": {"reconcile": "off"}}))
    ((command, pod),) = pods(manifests)
    settings = prepare(manifests, pod, SECRETS, root)
    settings |= {"REPLICATOR_WEBHOOK_TOKEN": "", "REPLICATOR_LISTEN": "127.0.0.1:0"}
    async with running(command, cwd=root, settings=settings, program=PROGRAM) as serving:
        assert ask(serving.address, container(pod)["readinessProbe"]["httpGet"]["path"]) == 200
        # The pod of `helm test` asks by the name of the Service.
        (test,) = filter(is_test, manifests)
        name = f"localhost:{serving.address.rpartition(':')[2]}"
        arguments = container({"spec": test["spec"]})["args"]
        asked = await replicator(*[name if ":" in word else word for word in arguments], cwd=root)
        assert asked.code == 0


def test_an_unknown_field_would_be_found() -> None:
    (workload,) = of_kind(rendered("embedded"), "StatefulSet").values()
    broken = json.loads(json.dumps(workload))
    container(broken["spec"]["template"])["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(ValidationError):
        validate(broken)
    with pytest.raises(SchemaNotFoundError):
        validate({**workload, "apiVersion": "apps/v9"})
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "a"}}
    ends = [{"port": "http", "intervall": "30s"}]
    with pytest.raises(AssertionError):
        validate({**monitor, "spec": {"selector": {}, "podMetricsEndpoints": ends}})
    with pytest.raises(AssertionError, match="duplicate key"):
        read(yaml.safe_dump({"a": 1}) + "a: 2\n")
