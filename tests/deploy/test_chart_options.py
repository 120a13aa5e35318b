"""What administrators bring to the Helm chart: their policies, networks, disks and routes."""

from __future__ import annotations

from typing import Any

from tests.deploy import promises
from tests.deploy.manifests import Manifest, container, of_kind, pods, read, selected
from tests.deploy.test_helm import CASES, MINIMAL, is_test, rendered, template


def with_values(**values: Any) -> list[Manifest]:
    return read(template({**MINIMAL, **values}))


def test_a_claim_of_ones_own_is_the_disk_of_the_queue() -> None:
    manifests = with_values(queue={"persistence": {"existingClaim": "a-claim"}})
    promises.check(manifests)
    (workload,) = of_kind(manifests, "StatefulSet").values()
    assert "volumeClaimTemplates" not in workload["spec"]
    volumes = {each["name"]: each for each in workload["spec"]["template"]["spec"]["volumes"]}
    assert volumes["state"]["persistentVolumeClaim"] == {"claimName": "a-claim"}


def test_the_stateful_set_has_a_headless_service_that_finds_its_pod() -> None:
    services = of_kind(rendered("embedded"), "Service")
    (workload,) = of_kind(rendered("embedded"), "StatefulSet").values()
    assert services[workload["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"
    assert len(services) == 2


def test_openshift_assigns_the_user() -> None:
    own = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    manifests = with_values(podSecurityContext=own, securityContext={"runAsNonRoot": True})
    found = [each["spec"] for each in manifests if is_test(each)] + [pod["spec"] for _, pod in pods(manifests)]
    for spec in found:
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert spec["containers"][0]["securityContext"]["runAsNonRoot"] is True
    assert len(found) == 2


def test_variables_may_come_from_secrets_of_the_administrator() -> None:
    ((_, pod),) = pods(with_values(envFrom=[{"secretRef": {"name": "proxy"}}]))
    assert container(pod)["envFrom"][1:] == [{"secretRef": {"name": "proxy"}}]


def ingress(**values: Any) -> tuple[dict[str, str], list[Manifest]]:
    """The paths of an Ingress with their types, and whom the NetworkPolicy lets in."""
    manifests = with_values(ingress={"enabled": True, "host": "hook.example.com", **values})
    promises.check(manifests)
    (found,) = of_kind(manifests, "Ingress").values()
    (policy,) = of_kind(manifests, "NetworkPolicy").values()
    paths = {each["path"]: each["pathType"] for each in found["spec"]["rules"][0]["http"]["paths"]}
    return paths, [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]


def test_the_ingress_leads_to_the_paths_of_the_values_and_its_controller_is_let_in() -> None:
    controller = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
    paths, peers = ingress()
    assert paths == {"/webhooks/harbor": "Prefix"}
    assert controller in peers
    paths, _ = ingress(statusPage=True, paths=["/webhooks/harbor", "/api/v1"])
    assert paths == {"/webhooks/harbor": "Prefix", "/api/v1": "Prefix", "/": "Exact"}
    (policy,) = of_kind(rendered("embedded"), "NetworkPolicy").values()
    assert controller not in [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]


def test_harbor_inside_the_cluster_and_the_collector_can_be_reached() -> None:
    (policy,) = of_kind(rendered("embedded"), "NetworkPolicy").values()
    (inside,) = [rule for rule in policy["spec"]["egress"] if "to" in rule]
    assert inside["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "harbor"}}}]
    assert {8080, 8443} <= {port["port"] for port in inside["ports"]}
    assert {"ports": [{"port": 4318}]} in policy["spec"]["egress"]


def test_the_test_of_the_release_may_reach_the_service_and_is_no_pod_of_it() -> None:
    for case in CASES:
        manifests = rendered(case)
        (pod,) = filter(is_test, manifests)
        labels = pod["metadata"]["labels"]
        services = of_kind(manifests, "Service")
        name, port = container({"spec": pod["spec"]})["args"][-1].split(":")
        assert int(port) == services[name]["spec"]["ports"][0]["port"]
        assert not any(selected(labels, {"matchLabels": each["spec"]["selector"]}) for each in services.values())
        (policy,) = of_kind(manifests, "NetworkPolicy").values()
        assert not selected(labels, policy["spec"]["podSelector"]), "it may then reach the Service's port"
        peers = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"] if "podSelector" in peer]
        assert any(selected(labels, peer["podSelector"]) for peer in peers)


def test_the_pods_of_the_webhook_are_spread_by_default() -> None:
    webhook = of_kind(rendered("redis"), "Deployment")["r-replicator-webhook"]["spec"]["template"]["spec"]
    (spread,) = webhook["topologySpreadConstraints"]
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
