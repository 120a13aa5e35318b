"""What administrators bring to the Helm chart: their policies, networks, disks and routes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy import promises
from tests.deploy.manifests import Manifest, container, of_kind, pods, read, selected
from tests.deploy.test_helm import CASES, MINIMAL, SPREAD, is_test, rendered, template


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


HABITS: dict[str, Any] = {
    "commonAnnotations": {"reloader.example.com/auto": "true"},
    "commonLabels": {"team": "platform", "release": "all"},
    "podAnnotations": {"mesh/inject": "false"},
    "nodeSelector": {"pool": "tools"},
    "tolerations": [{"key": "tools", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [SPREAD],
    "dnsPolicy": "ClusterFirst",
    "runtimeClassName": "gvisor",
    "schedulerName": "volcano",
    "revisionHistoryLimit": 3,
    "livenessProbe": {"timeoutSeconds": 20},
    "extraContainers": [{"name": "proxy", "image": "registry.example.com/proxy:1"}],
    "service": {
        "labels": {"a": "b"},
        "loadBalancerClass": "slb",
        "type": "LoadBalancer",
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
    },
    "ingress": {"enabled": True, "host": "hook.example.com", "labels": {"a": "b"}},
    "serviceAccount": {"labels": {"a": "b"}},
    "podDisruptionBudget": {"minAvailable": "50%"},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "scrapeTimeout": "10s"},
    "dashboard": {"enabled": True, "namespace": "monitoring", "annotations": {"grafana_folder": "Registries"}},
    "backfill": {"enabled": True},
    "worker": {"nodeSelector": {"pool": "workers"}, "podLabels": {"tier": "worker"}, "strategy": {"type": "Recreate"}},
    "networkPolicy": {"extraIngress": [{"ports": [{"port": "http"}]}]},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-mine"}, "data": {"a": "b"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text}\n",
    ],
}


def test_what_administrators_set_in_every_chart_arrives() -> None:
    manifests = with_values(**HABITS, queue={"mode": "redis"})
    promises.check(manifests)
    own = [each for each in manifests if not is_test(each) and each["metadata"]["name"] not in ("r-mine", "text")]
    assert all(each["metadata"]["annotations"]["reloader.example.com/auto"] == "true" for each in own)
    assert all(each["metadata"]["labels"]["team"] == "platform" for each in own)
    for command, pod in pods(manifests):
        spec = pod["spec"]
        assert spec["nodeSelector"] == {"pool": "tools" if command == "serve" else "workers"}
        for name in ("tolerations", "affinity", "topologySpreadConstraints", "runtimeClassName", "schedulerName"):
            assert spec[name] == HABITS[name]
        assert pod["metadata"]["annotations"]["mesh/inject"] == "false"
        assert [each["name"] for each in spec["containers"][1:]] == ([] if command == "backfill" else ["proxy"])
        if command != "backfill":
            liveness = container(pod)["livenessProbe"]
            assert (liveness["timeoutSeconds"], liveness["periodSeconds"]) == (20, 10)
    deployments = of_kind(manifests, "Deployment")
    assert deployments["r-replicator-worker"]["spec"]["strategy"] == {"type": "Recreate"}
    assert deployments["r-replicator-worker"]["spec"]["template"]["metadata"]["labels"]["tier"] == "worker"
    assert all(each["spec"]["minAvailable"] == "50%" for each in of_kind(manifests, "PodDisruptionBudget").values())
    assert of_kind(manifests, "PodMonitor")["r-replicator"]["metadata"]["labels"]["release"] == "prometheus"
    maps = of_kind(manifests, "ConfigMap")
    assert maps["r-replicator-dashboard"]["metadata"]["namespace"] == "monitoring"
    assert {"r-mine", "text"} <= set(maps)
    assert of_kind(manifests, "Service")["r-replicator"]["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("service", "kind"),
    [({"type": "NodePort", "nodePort": 30080}, "NodePort"), ({"type": "LoadBalancer"}, "LoadBalancer")],
)
def test_who_comes_through_a_node_or_a_load_balancer_is_let_in(service: dict[str, Any], kind: str) -> None:
    manifests = with_values(service=service)
    assert of_kind(manifests, "Service")["r-replicator"]["spec"]["type"] == kind
    everyone = {"ports": [{"port": "http"}]}
    (policy,) = of_kind(manifests, "NetworkPolicy").values()
    assert everyone in policy["spec"]["ingress"]
    (policy,) = of_kind(rendered("embedded"), "NetworkPolicy").values()
    assert everyone not in policy["spec"]["ingress"]
    block = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    (policy,) = of_kind(with_values(service=service, networkPolicy={"external": [block]}), "NetworkPolicy").values()
    assert {**everyone, "from": [block]} in policy["spec"]["ingress"]


def test_the_networks_of_a_load_balancer_are_those_of_the_policy_if_senders_keep_their_addresses() -> None:
    def senders(**service: Any) -> Any:
        ranges = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8", "2001:db8::/32"]}
        manifests = with_values(service={**ranges, **service}, networkPolicy=policy)
        (found,) = of_kind(manifests, "NetworkPolicy").values()
        return found["spec"]["ingress"][1].get("from")

    policy: dict[str, Any] = {}
    assert senders(externalTrafficPolicy="Local") == [
        {"ipBlock": {"cidr": "10.0.0.0/8"}},
        {"ipBlock": {"cidr": "2001:db8::/32"}},
    ]
    assert senders() is None, "they would come with the address of a node"
    policy["external"] = [{"ipBlock": {"cidr": "10.1.0.0/16"}}]
    assert senders(externalTrafficPolicy="Local") == policy["external"]


@pytest.mark.parametrize(
    ("values", "ports"), [({}, (53,)), ({"dnsPorts": [53, 5353]}, (53, 5353))], ids=["anywhere", "OpenShift"]
)
def test_the_policy_lets_out_to_the_ports_of_dns(values: dict[str, Any], ports: tuple[int, ...]) -> None:
    (policy,) = of_kind(with_values(networkPolicy=values), "NetworkPolicy").values()
    assert {(each["port"], each["protocol"]) for each in policy["spec"]["egress"][0]["ports"]} == {
        (port, protocol) for port in ports for protocol in ("TCP", "UDP")
    }


def test_a_chart_that_depends_on_this_one_sets_registry_secrets_and_condition() -> None:
    shared = {"imageRegistry": "mirror.example.com", "imagePullSecrets": ["one", {"name": "two"}]}
    manifests = with_values(**{"global": shared}, enabled=True, image={"repository": "tools/replicator"})
    ((_, pod),) = pods(manifests)
    assert container(pod)["image"].startswith("mirror.example.com/tools/replicator:")
    assert pod["spec"]["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    ((_, pod),) = pods(with_values(**{"global": shared}))
    assert container(pod)["image"].startswith("registry.example.com/replicator:")
    own = {"registry": "own.example.com", "repository": "replicator"}
    ((_, pod),) = pods(with_values(**{"global": shared}, image=own))
    assert container(pod)["image"].startswith("own.example.com/replicator:")


def test_the_claim_of_the_queue_takes_labels_annotations_and_a_volume() -> None:
    disk = {"labels": {"a": "b"}, "annotations": {"c": "d"}, "selector": {"matchLabels": {"v": "1"}}}
    manifests = with_values(queue={"persistence": {**disk, "storageClassName": "-"}})
    promises.check(manifests)
    (claim,) = of_kind(manifests, "StatefulSet")["r-replicator"]["spec"]["volumeClaimTemplates"]
    assert (claim["metadata"]["labels"], claim["metadata"]["annotations"]) == (disk["labels"], disk["annotations"])
    assert claim["spec"]["selector"] == disk["selector"]
    assert claim["spec"]["storageClassName"] == "", "no class, as in many charts"


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
        peers = [peer for rule in policy["spec"]["ingress"] for peer in rule.get("from", []) if "podSelector" in peer]
        assert any(selected(labels, peer["podSelector"]) for peer in peers)


def test_the_pods_of_the_webhook_are_spread_by_default() -> None:
    webhook = of_kind(rendered("redis"), "Deployment")["r-replicator-webhook"]["spec"]["template"]["spec"]
    (spread,) = webhook["topologySpreadConstraints"]
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
