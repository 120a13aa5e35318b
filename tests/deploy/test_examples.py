"""The Kubernetes examples in docs/deployment.md work as shown."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.deploy import promises
from tests.deploy.manifests import container, environment, of_kind, pods, read
from tests.deploy.test_helm import CHART, RULES
from tests.deploy.tools import run
from tests.docs.pages import ROOT, blocks, commands

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docs.pages import Block

SHOWN = [block for block in blocks("yaml") if block.page.name == "deployment.md"]
VALUES = [block for block in SHOWN if "existingSecret" in block.text]
# The sidecar's is looked at with Harbor's manifests, in test_sidecar.
OVERLAYS = [block for block in SHOWN if "kind: Kustomization" in block.text and "components/sidecar" not in block.text]
IMAGE = "registry.example.com/tools/replicator"


def test_all_that_is_shown_is_looked_at() -> None:
    # In English and Chinese.
    assert len(VALUES) == 4
    assert len(OVERLAYS) == 1


@pytest.mark.parametrize("block", VALUES, ids=str)
def test_values_that_are_shown_make_what_kubernetes_takes(block: Block) -> None:
    text = block.text
    arguments = ["--namespace", "replicator", "--values", "-"]
    if "existingRulesConfigMap" in text:
        # A ConfigMap of the user's own: in its place the chart's, as there is nothing else to look at.
        text = re.sub(r"^existingRulesConfigMap.*$", f"rules: {RULES}", text, flags=re.MULTILINE)
    manifests = read(run("helm", "template", "replicator", CHART, *arguments, stdin=text))
    promises.check(manifests)
    for _, pod in pods(manifests):
        assert container(pod)["image"].startswith(f"{IMAGE}:")
    assert "replicator" in of_kind(manifests, "Service"), "the address that the page names"


@pytest.mark.parametrize("block", OVERLAYS, ids=str)
def test_the_overlay_that_is_shown_makes_what_kubernetes_takes(block: Block, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(block.text)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    shutil.copytree(ROOT / "deploy", tmp_path / "checkout" / "deploy")
    manifests = read(run("kubectl", "kustomize", tmp_path))
    promises.check(manifests)
    for _, pod in pods(manifests):
        assert container(pod)["image"] == f"{IMAGE}:0.1.0"
        found = environment(manifests, pod)
        assert (found["REPLICATOR_CONCURRENCY"], found["REPLICATOR_LOG_FORMAT"]) == ("32", "json")
    (rules,) = [each for each in of_kind(manifests, "ConfigMap").values() if "rules.yaml" in each["data"]]
    assert yaml.safe_load(rules["data"]["rules.yaml"]) == RULES
    assert all(each["metadata"]["namespace"] == "replicator" for each in manifests)


def test_the_commands_name_objects_that_there_are() -> None:
    page = [block for block in blocks("sh") if block.page.name == "deployment.md"]
    called = [words for block in page for words in commands(block.text) if words[:2] == ["kubectl", "exec"]]
    named = {word for words in called for word in words if "/" in word and "://" not in word}
    assert named == {"statefulset/replicator", "deployment/replicator-webhook"}
    assert "replicator" in of_kind(
        read(run("kubectl", "kustomize", ROOT / "deploy/kubernetes/embedded")), "StatefulSet"
    )
    assert "replicator-webhook" in of_kind(
        read(run("kubectl", "kustomize", ROOT / "deploy/kubernetes/scaled")), "Deployment"
    )


@pytest.mark.parametrize(
    "command", ["kubectl create secret generic", "kubectl apply", "kubectl exec", "helm upgrade"], ids=lambda text: text
)
def test_the_options_that_are_shown_are_there(command: str) -> None:
    words = command.split()
    page = "\n".join(block.text for block in blocks("sh") if block.page.name == "deployment.md")
    shown = [
        call[: call.index("--") if "--" in call else None] for call in commands(page) if call[: len(words)] == words
    ]
    assert shown
    helped = run(words[0], *words[1:], "--help") + (run("kubectl", "options") if words[0] == "kubectl" else "")
    for option in {word for call in shown for word in call if word.startswith("--")}:
        assert re.search(rf"{option}\b", helped), option
