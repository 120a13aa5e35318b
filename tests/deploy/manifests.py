"""Kubernetes manifests: parsed, validated strictly against their schemas, and queried."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

Manifest = dict[str, Any]

VERSIONS = ("1.27", "1.37")
"""The oldest Kubernetes that is promised (kubeVersion of the chart), and the newest whose schemas there are."""
_OPERATORS = {
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
}
"""Models of what is no part of Kubernetes itself."""


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate key: {node.start_mark}"
        return super().construct_mapping(node, deep)


def read(text: str) -> list[Manifest]:
    """All objects of a stream of YAML documents."""
    return [document for document in yaml.load_all(text, _Loader) if document is not None]


def validate(manifest: Manifest) -> None:
    """Check one object against its schema, in the oldest and the newest version; an unknown field is an error.

    Raises:
        Exception: it does not fit.
    """
    module = _OPERATORS.get(manifest["apiVersion"])
    if module is None:
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)
        return
    model = getattr(importlib.import_module(module), manifest["kind"]).model_validate(manifest)
    # The models leave out what they do not know.
    assert _without_nulls(model.model_dump(mode="json", by_alias=True, exclude_unset=True)) == manifest


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """The objects of a kind, by name."""
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Each pod's template that objects make pods of, with what it runs: ``serve``, ``worker`` or ``backfill``."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template is not None:
            yield container(template)["args"][0], template


def container(template: Manifest) -> Manifest:
    """The replicator's container of a pod's template; those that an administrator adds are behind it."""
    found = template["spec"]["containers"][0]
    assert isinstance(found, dict)
    return found


def environment(manifests: list[Manifest], template: Manifest) -> dict[str, str]:
    """The variables that a container is given by its ConfigMaps and itself."""
    found: dict[str, str] = {}
    for source in container(template)["envFrom"]:
        found |= of_kind(manifests, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return found | {each["name"]: each["value"] for each in container(template).get("env", [])}


def selected(labels: dict[str, str], selector: Manifest) -> bool:
    """Whether a label selector takes something with these labels."""
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )
