"""The replicator as a part of Harbor's own deployment: of its Compose project, and of its jobservice pod."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from replicator.rules import load
from replicator.settings import PREFIX, Settings
from tests.deploy.manifests import Manifest, of_kind, read, validate
from tests.deploy.tools import run
from tests.docs.pages import ROOT, blocks
from tests.docs.test_examples import SECRETS

if TYPE_CHECKING:
    from pathlib import Path

HARBOR = ROOT / "tests" / "deploy" / "harbor"
OVERRIDE = ROOT / "deploy" / "compose" / "harbor-sidecar.yaml"
COMPONENTS = ROOT / "deploy" / "kubernetes" / "components"


def test_the_override_adds_one_service_to_the_network_of_harbors_project_and_publishes_nothing() -> None:
    harbor = yaml.safe_load((HARBOR / "docker-compose.yml").read_text())
    override = yaml.safe_load(OVERRIDE.read_text())
    # Compose merges by key: what has another key than Harbor's leaves Harbor's as it is.
    assert set(override) == {"services", "volumes"}
    ((name, service),) = override["services"].items()
    assert name not in harbor["services"]
    assert service["container_name"] not in {each["container_name"] for each in harbor["services"].values()}
    assert set(service["networks"]) <= set(harbor["networks"])
    assert set(service["depends_on"]) <= set(harbor["services"])
    assert "ports" not in service
    assert f"http://{name}:8080/webhooks/harbor" in OVERRIDE.read_text()
    assert int(service["stop_grace_period"].removesuffix("s")) >= Settings.model_fields["drain_timeout"].default + 20
    named = {mount.split(":")[0] for mount in service["volumes"] if not mount.startswith("./")}
    assert named == set(override["volumes"])


def test_the_steps_make_the_files_that_the_override_reads() -> None:
    (service,) = yaml.safe_load(OVERRIDE.read_text())["services"].values()
    read_by_it = {mount.split(":")[0] for mount in service["volumes"] if mount.startswith("./")} | {service["env_file"]}
    (steps,) = {block.text for block in blocks("sh") if "$CHECKOUT/" in block.text}  # in each language
    made = dict(re.findall(r'"\$CHECKOUT/(\S+)" (\S+)$', steps, re.MULTILINE))
    assert {f"./{target}" for target in made.values()} >= read_by_it
    assert all((ROOT / source).exists() for source in made)


def with_sidecar(directory: Path, *more: str) -> list[Manifest]:
    """Harbor's manifests with the component, by the kustomization that the documentation shows."""
    (block,) = [each for each in blocks("yaml") if "components/sidecar" in each.text]
    shown = block.text
    for component in more:
        line = f"- checkout/deploy/kubernetes/components/{component}\n"
        assert f"# {line}" in shown
        shown = shown.replace(f"# {line}", line)
    (directory / "kustomization.yaml").write_text(shown)
    shutil.copyfile(HARBOR / "jobservice.yaml", directory / "harbor.yaml")
    shutil.copyfile(COMPONENTS / "sidecar" / "rules.example.yaml", directory / "rules.yaml")
    shutil.copytree(COMPONENTS, directory / "checkout" / "deploy" / "kubernetes" / "components")
    manifests = read(run("kubectl", "kustomize", directory))
    for manifest in manifests:
        validate(manifest)
    return manifests


def parts(manifests: list[Manifest]) -> tuple[Manifest, Manifest, Manifest]:
    """The pod of jobservice, and its two containers."""
    pod = of_kind(manifests, "Deployment")["harbor-jobservice"]["spec"]["template"]["spec"]
    containers = {each["name"]: each for each in pod["containers"]}
    assert set(containers) == {"jobservice", "replicator"}
    return pod, containers["jobservice"], containers["replicator"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    return with_sidecar(tmp_path_factory.mktemp("s"))


def test_the_component_adds_a_container_to_jobservice_and_changes_none_of_harbors(alone: list[Manifest]) -> None:
    before = {(each["kind"], each["metadata"]["name"]): each for each in read((HARBOR / "jobservice.yaml").read_text())}
    pod, jobservice, _ = parts(alone)
    own = before["Deployment", "harbor-jobservice"]["spec"]["template"]["spec"]
    assert own["containers"] == [jobservice]
    assert pod["securityContext"] == own["securityContext"]
    assert [each for each in pod["volumes"] if not each["name"].startswith("replicator-")] == own["volumes"]
    for name in ("Service", "harbor-jobservice"), ("Deployment", "harbor-core"):
        now = of_kind(alone, name[0])[name[1]]
        assert now["spec"] == before[name]["spec"]
    assert set(of_kind(alone, "Service")) == {"harbor-jobservice"}, "the webhook has no Service"


def test_the_sidecar_listens_at_the_loopback_address_at_a_port_that_is_free(alone: list[Manifest]) -> None:
    _, jobservice, sidecar = parts(alone)
    settings = _settings(alone, sidecar)
    host, port = settings["REPLICATOR_LISTEN"].split(":")
    assert host == "127.0.0.1"
    assert int(port) not in [each["containerPort"] for each in jobservice["ports"]]
    told = (ROOT / "docs" / "deployment.md").read_text() + (COMPONENTS / "sidecar" / "kustomization.yaml").read_text()
    assert told.count(f"http://127.0.0.1:{port}/webhooks/harbor") == 2
    # The kubelet does not come to that address.
    assert sidecar["livenessProbe"]["exec"]["command"] == ["replicator", "health"]


def test_the_sidecar_has_rules_secrets_a_disk_and_few_rights(alone: list[Manifest], tmp_path: Path) -> None:
    pod, _, sidecar = parts(alone)
    settings = _settings(alone, sidecar)
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounted = {each["mountPath"]: volumes[each["name"]] for each in sidecar["volumeMounts"]}
    rules = of_kind(alone, "ConfigMap")[mounted[settings["REPLICATOR_CONFIG"]]["configMap"]["name"]]["data"]
    (tmp_path / "rules.yaml").write_text(rules["rules.yaml"])
    assert list(load(tmp_path, environ=SECRETS).warnings) == []
    assert mounted[settings["REPLICATOR_SECRETS_DIR"]]["secret"] == {"secretName": "replicator", "defaultMode": 0o440}
    claim = mounted["/var/lib/replicator"]["persistentVolumeClaim"]["claimName"]
    assert claim in of_kind(alone, "PersistentVolumeClaim")
    assert sidecar["image"] == "registry.example.com/tools/replicator:0.1.0"
    rights = sidecar["securityContext"]
    assert (rights["runAsNonRoot"], rights["readOnlyRootFilesystem"]) == (True, True)
    assert (rights["allowPrivilegeEscalation"], rights["capabilities"]) == (False, {"drop": ["ALL"]})
    assert pod["terminationGracePeriodSeconds"] >= Settings.model_fields["drain_timeout"].default + 20
    assert pod["enableServiceLinks"] is False
    assert of_kind(alone, "Deployment")["harbor-jobservice"]["spec"]["strategy"] == {"type": "Recreate"}


def test_several_replicas_share_a_redis_that_the_secret_must_name(tmp_path: Path) -> None:
    manifests = with_sidecar(tmp_path, "sidecar-redis")
    pod, _, sidecar = parts(manifests)
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert of_kind(manifests, "PersistentVolumeClaim") == {}
    assert "emptyDir" in volumes["replicator-state"]
    assert "persistentVolumeClaim" not in volumes["replicator-state"]
    needed = volumes["replicator-redis"]["secret"]
    assert [item["key"] for item in needed["items"]] == ["REPLICATOR_REDIS_URL"]
    assert "optional" not in needed
    assert "replicator-redis" in [each["name"] for each in sidecar["volumeMounts"]], "else the kubelet does not look"
    assert of_kind(manifests, "Deployment")["harbor-jobservice"]["spec"]["strategy"] == {"type": "RollingUpdate"}


def _settings(manifests: list[Manifest], sidecar: Manifest) -> dict[str, str]:
    (source,) = sidecar["envFrom"]
    found: dict[str, Any] = of_kind(manifests, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    assert {name.removeprefix(PREFIX).lower() for name in found} <= {*Settings.model_fields, "secrets_dir"}
    return {name: str(value) for name, value in found.items()}
