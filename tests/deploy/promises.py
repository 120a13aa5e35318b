"""The properties that every installation on Kubernetes must have, however it was rendered."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from replicator.rules import load
from replicator.settings import PREFIX, Settings
from tests.deploy.dockerfile import texts, variables
from tests.deploy.manifests import Manifest, container, environment, of_kind, pods, selected, validate
from tests.docs.test_examples import COMMANDS, SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterator

KNOWN = {PREFIX + name.upper() for name in Settings.model_fields} | {"REPLICATOR_SECRETS_DIR"}
PORTS = {"serve": ("http", 8080), "worker": ("metrics", 9090)}


def check(manifests: list[Manifest]) -> None:
    """Check all of it."""
    assert len({(each["kind"], each["metadata"]["name"]) for each in manifests}) == len(manifests)
    for manifest in manifests:
        validate(manifest)
    assert list(pods(manifests))
    for command, template in pods(manifests):
        _command(template)
        _hardening(template)
        _settings(manifests, template)
        _stop(manifests, template)
        if command in PORTS:
            _probes(command, template)
    _rules(manifests)
    _references(manifests)


def _command(template: Manifest) -> None:
    name, *arguments = container(template)["args"]
    with COMMANDS[name].make_context(name, list(arguments)):
        pass
    assert "command" not in container(template), "the image's entry point is the program"


def _hardening(template: Manifest) -> None:
    spec, one = template["spec"], container(template)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "a Service named replicator would set variables like settings"
    user, group = map(int, texts("USER")[0].split(":"))
    of_pod = spec["securityContext"]
    assert of_pod["runAsNonRoot"] is True
    assert (of_pod["runAsUser"], of_pod["runAsGroup"], of_pod["fsGroup"]) == (user, group, group)
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(one["resources"]["requests"])
    assert "memory" in one["resources"]["limits"]
    mounts = {mount["mountPath"]: mount for mount in one["volumeMounts"]}
    assert "/tmp" in mounts
    assert all(mount.get("readOnly") for path, mount in mounts.items() if path.startswith("/etc/"))


def _settings(manifests: list[Manifest], template: Manifest) -> None:
    found = environment(manifests, template)
    ours = {name: value for name, value in found.items() if name.startswith(PREFIX)}
    assert set(ours) <= KNOWN
    assert all(isinstance(value, str) for value in found.values())
    Settings(_env_file=None, **{name.removeprefix(PREFIX).lower(): value for name, value in ours.items()})  # type: ignore[arg-type]  # texts, as in an environment
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    mounted = {mount["mountPath"]: mount["name"] for mount in container(template)["volumeMounts"]}
    secret = volumes[mounted[ours["REPLICATOR_SECRETS_DIR"]]]["secret"]
    assert secret["defaultMode"] == 0o440, "for the pod's group, and for nobody else"
    rules = volumes[mounted[ours["REPLICATOR_CONFIG"]]]["configMap"]
    maps = of_kind(manifests, "ConfigMap")
    assert all(file.endswith(".yaml") for file in maps[rules["name"]]["data"])


def _stop(manifests: list[Manifest], template: Manifest) -> None:
    drain = float(
        environment(manifests, template).get("REPLICATOR_DRAIN_TIMEOUT", Settings.model_fields["drain_timeout"].default)
    )
    before = container(template).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert template["spec"]["terminationGracePeriodSeconds"] >= drain + 20 + float(before[1])


def _probes(command: str, template: Manifest) -> None:
    one, (name, number) = container(template), PORTS[command]
    assert [(port["name"], port["containerPort"]) for port in one["ports"]] == [(name, number)]
    assert {probe: one[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        "startupProbe": {"path": "/healthz", "port": name},
        "livenessProbe": {"path": "/healthz", "port": name},
        "readinessProbe": {"path": "/readyz", "port": name},
    }
    assert one["startupProbe"]["periodSeconds"] * one["startupProbe"]["failureThreshold"] > 30, (
        "the queue loads so long"
    )
    if command == "serve":
        assert variables()["REPLICATOR_LISTEN"].endswith(f":{number}")
    else:
        assert {"name": "REPLICATOR_METRICS_LISTEN", "value": f"0.0.0.0:{number}"} in one["env"]


def _rules(manifests: list[Manifest]) -> None:
    (files,) = [each["data"] for each in _maps(manifests) if each["metadata"]["name"].find("-rules") > 0]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        assert list(load(Path(folder), environ=SECRETS).warnings) == []


def _references(manifests: list[Manifest]) -> None:
    """What names or selects something finds it: exactly the pods that it is meant for."""
    labels = {command: template["metadata"]["labels"] for command, template in pods(manifests)}
    for service in of_kind(manifests, "Service").values():
        assert _taken(labels, {"matchLabels": service["spec"]["selector"]}) == {"serve"}
    for budget in of_kind(manifests, "PodDisruptionBudget").values():
        (command,) = _taken(labels, budget["spec"]["selector"])
        assert command in PORTS
    for policy in of_kind(manifests, "NetworkPolicy").values():
        assert _taken(labels, policy["spec"]["podSelector"]) == set(labels)
    for monitor in of_kind(manifests, "PodMonitor").values():
        assert _taken(labels, monitor["spec"]["selector"]) == set(labels) & set(PORTS)
        assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} == {name for name, _ in PORTS.values()}
    for kind in ("Deployment", "StatefulSet"):
        for workload in of_kind(manifests, kind).values():
            own = workload["spec"]["template"]["metadata"]["labels"]
            assert selected(own, workload["spec"]["selector"])
            assert len(_taken(labels, workload["spec"]["selector"])) == 1
            assert workload["spec"].get("serviceName", next(iter(of_kind(manifests, "Service")))) in of_kind(
                manifests, "Service"
            )
    accounts = set(of_kind(manifests, "ServiceAccount"))
    assert {template["spec"]["serviceAccountName"] for _, template in pods(manifests)} <= accounts
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for scaler in of_kind(manifests, kind).values():
            target = of_kind(manifests, "Deployment")[scaler["spec"]["scaleTargetRef"]["name"]]
            assert "replicas" not in target["spec"], "each change of the Deployment would set it back"


def _maps(manifests: list[Manifest]) -> Iterator[Manifest]:
    yield from of_kind(manifests, "ConfigMap").values()


def _taken(labels: dict[str, dict[str, str]], selector: Manifest) -> set[str]:
    return {command for command, own in labels.items() if selected(own, selector)}
