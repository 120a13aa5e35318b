"""Kubernetes accepts the rendered deploy/kubernetes, and it runs the replicator correctly."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.deploy import promises
from tests.deploy.manifests import Manifest, container, environment, of_kind, pods, read
from tests.deploy.tools import run
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("embedded", "scaled")


@cache
def rendered(overlay: str) -> list[Manifest]:
    return read(run("kubectl", "kustomize", KUBERNETES / overlay))


def with_options(overlay: str, directory: Path) -> list[Manifest]:
    """An overlay with every option that its file has in a comment, where that is for it."""
    text = (KUBERNETES / overlay / "kustomization.yaml").read_text()
    enabled = re.sub(r"^  # (- \.\./)", r"  \1", text, flags=re.MULTILINE)
    assert enabled != text
    # Next to the others, where its paths mean the same.
    target = directory / "kubernetes" / overlay / "kustomization.yaml"
    for path in ("kubernetes", "grafana"):
        for file in sorted((ROOT / "deploy" / path).rglob("*")):
            if file.is_file():
                copied = directory / file.relative_to(ROOT / "deploy")
                copied.parent.mkdir(parents=True, exist_ok=True)
                copied.write_bytes(file.read_bytes())
    target.write_text(enabled)
    return read(run("kubectl", "kustomize", target.parent))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_as_it_is_keeps_every_promise(overlay: str) -> None:
    promises.check(rendered(overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_with_all_its_options_keeps_every_promise(overlay: str, tmp_path: Path) -> None:
    manifests = with_options(overlay, tmp_path)
    promises.check(manifests)
    kinds = {each["kind"] for each in manifests}
    assert {"PodMonitor", "PrometheusRule"} <= kinds
    assert "replicator.json" in of_kind(manifests, "ConfigMap")["replicator-dashboard"]["data"]
    if overlay == "scaled":
        assert {"CronJob", "ScaledObject"} <= kinds
        assert "HorizontalPodAutoscaler" not in kinds, "two that scale one Deployment work against each other"


def test_the_embedded_queue_has_one_pod_and_a_disk() -> None:
    ((command, template),) = pods(rendered("embedded"))
    (workload,) = of_kind(rendered("embedded"), "StatefulSet").values()
    assert (command, workload["spec"]["replicas"]) == ("serve", 1)
    assert "--no-worker" not in container(template)["args"]
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container(template)["volumeMounts"]}
    assert mounted[claim["metadata"]["name"]] == "/var/lib/replicator"
    assert of_kind(rendered("embedded"), "PodDisruptionBudget") == {}, "it would keep a node from being emptied"


def test_the_scaled_one_copies_in_its_workers_alone_and_reaches_its_redis() -> None:
    commands = {command: container(template)["args"] for command, template in pods(rendered("scaled"))}
    assert commands == {"serve": ["serve", "--no-worker"], "worker": ["worker"]}
    (policy,) = of_kind(rendered("scaled"), "NetworkPolicy").values()
    assert 6379 in [port["port"] for way in policy["spec"]["egress"] for port in way["ports"]]
    (embedded,) = of_kind(rendered("embedded"), "NetworkPolicy").values()
    assert 6379 not in [port["port"] for way in embedded["spec"]["egress"] for port in way["ports"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_example_of_a_secret_has_what_is_needed_and_nothing_that_is_public(overlay: str) -> None:
    secret = yaml.safe_load((KUBERNETES / overlay / "secret.example.yaml").read_text())
    names = {template["spec"]["volumes"][1]["secret"]["secretName"] for _, template in pods(rendered(overlay))}
    assert names == {secret["metadata"]["name"]}
    assert set(secret["stringData"].values()) == {""}
    (rules,) = [each for each in of_kind(rendered(overlay), "ConfigMap").values() if "rules.yaml" in each["data"]]
    needed = set(re.findall(r"\$\{(\w+)\}", rules["data"]["rules.yaml"])) | {"REPLICATOR_WEBHOOK_TOKEN"}
    assert needed | ({"REPLICATOR_REDIS_URL"} if overlay == "scaled" else set()) == set(secret["stringData"])
    assert not needed & set(environment(rendered(overlay), next(pods(rendered(overlay)))[1]))


def test_a_change_of_the_rules_replaces_the_pods(tmp_path: Path) -> None:
    before = of_kind(rendered("embedded"), "ConfigMap")
    changed = with_options("embedded", tmp_path)
    (tmp_path / "kubernetes" / "base" / "rules.yaml").write_text("images: {}\n")
    after = of_kind(read(run("kubectl", "kustomize", tmp_path / "kubernetes" / "embedded")), "ConfigMap")
    assert set(before) == {name for name in of_kind(changed, "ConfigMap") if "dashboard" not in name}
    assert len(set(before) & set(after)) == 1
