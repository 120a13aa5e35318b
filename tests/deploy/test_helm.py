"""Kubernetes accepts the rendered Helm chart, and it runs the replicator correctly."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from functools import cache
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import yaml

from replicator import __version__
from replicator.settings import PREFIX, Settings
from tests.deploy import promises
from tests.deploy.manifests import Manifest, container, environment, of_kind, pods, read
from tests.deploy.tools import run
from tests.docs.pages import ROOT

CHART = ROOT / "deploy" / "helm" / "replicator"
RULES = {
    "auth": {
        "harbor.example.com": {"username": "robot$replicator", "password": "${HARBOR_PASSWORD}"},
        "registry.cn-beijing.aliyuncs.com": {"anonymous": True},
    },
    "images": {"harbor.example.com/library/nginx": "registry.cn-beijing.aliyuncs.com/image-syncer/nginx"},
}
SECRETS = {"REPLICATOR_WEBHOOK_TOKEN": "a-token", "HARBOR_PASSWORD": "a-password"}
REDIS = {**SECRETS, "REPLICATOR_REDIS_URL": "redis://r:p@redis:6379/0"}
IMAGE = {"image": {"repository": "registry.example.com/replicator"}}
MINIMAL: dict[str, Any] = {**IMAGE, "rules": RULES, "existingSecret": "a-secret"}
SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
EVERYTHING = {
    "rules": RULES,
    "image": {"repository": "registry.example.com/replicator", "digest": f"sha256:{'a' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "settings": {"concurrency": 32, "copy_timeout": 604800, "drain_timeout": 40, "webhook_anonymous": False},
    "webhook": {
        "podAnnotations": {"a/b": "c"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"operator": "Exists"}],
        "topologySpreadConstraints": [SPREAD],
        "extraArgs": ["--registry", "registry.example.com"],
    },
    "worker": {
        "lanes": ["events"],
        "topologySpreadConstraints": [SPREAD],
        "affinity": {"nodeAffinity": {}},
        "nodeSelector": {"disk": "ssd"},
    },
    "ingress": {"enabled": True, "className": "nginx", "host": "hook.example.com", "tlsSecret": "tls"},
    "service": {"annotations": {"a/b": "c"}, "type": "NodePort", "nodePort": 30080},
    "serviceAccount": {"annotations": {"a/b": "c"}},
    "podMonitor": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "relabelings": [{"targetLabel": "cluster", "replacement": "c1"}],
        "metricRelabelings": [{"action": "labeldrop", "regex": "pod"}],
    },
    "prometheusRule": {"enabled": True, "runbookBaseUrl": "https://docs.example.com/"},
    "dashboard": {"enabled": True},
    "commonLabels": {"team": "platform"},
    "podLabels": {"mesh": "off", "app.kubernetes.io/name": "no label that finds the pods is replaced"},
    "hostAliases": [{"ip": "10.0.0.5", "hostnames": ["harbor.example.com"]}],
    "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
    "priorityClassName": "high",
    "initContainers": [{"name": "first", "image": "registry.example.com/busybox:1"}],
    "networkPolicy": {"extraEgress": [{"ports": [{"port": 3128}]}]},
    "extraEnv": [{"name": "TZ", "value": "Asia/Shanghai"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "terminationGracePeriodSeconds": 90,
}
SCALED = {"queue": {"mode": "redis"}}
CASES: dict[str, dict[str, Any]] = {
    "embedded": MINIMAL,
    "embedded, everything": {**EVERYTHING, "secrets": SECRETS},
    "redis": {**MINIMAL, **SCALED},
    "redis, everything": {**EVERYTHING, **SCALED, "secrets": REDIS, "backfill": {"enabled": True, "args": ["--fast"]}},
    "redis, keda": {**MINIMAL, **SCALED, "worker": {"autoscaling": {"by": "keda"}}},
    "embedded, several files": {
        **MINIMAL,
        "rules": {"auth": RULES["auth"]},
        "rulesFiles": {"team-a.yaml": {"images": RULES["images"]}},
    },
    "redis, by hand": {**MINIMAL, **SCALED, "worker": {"autoscaling": {"by": "none"}, "replicas": 5}},
}


def template(values: dict[str, Any], *arguments: str) -> str:
    return run(
        "helm", "template", "r", CHART, "--namespace", "n", "--values", "-", *arguments, stdin=json.dumps(values)
    )


def is_test(manifest: Manifest) -> bool:
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})


@cache
def rendered(case: str) -> list[Manifest]:
    return read(template(CASES[case]))


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        template(values)
    return str(caught.value.stderr)


@pytest.mark.parametrize("case", CASES)
def test_every_way_of_using_the_chart_keeps_every_promise(case: str) -> None:
    promises.check(rendered(case))


def test_the_linter_of_charts_has_nothing_to_say() -> None:
    said = run("helm", "lint", CHART, "--strict", "--values", "-", stdin=json.dumps(MINIMAL))
    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said


def test_the_chart_presents_itself_as_the_package_does() -> None:
    """As Artifact Hub shows it; undecided addresses are left out, not invented."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (chart["description"], chart["keywords"]) == (project["description"], project["keywords"])
    assert chart["annotations"]["artifacthub.io/license"] == project["license"]
    kind, _, icon = chart["icon"].partition(",")
    assert kind == "data:image/svg+xml"
    assert ElementTree.fromstring(unquote(icon)).get("viewBox") == "0 0 16 16"
    assert "example.com" not in (CHART / "Chart.yaml").read_text()


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], str(chart["appVersion"])) == (__version__, __version__)
    (pod,) = [template for _, template in pods(rendered("embedded"))]
    assert container(pod)["image"] == f"registry.example.com/replicator:{__version__}"


def test_everything_that_is_given_arrives() -> None:
    manifests = rendered("redis, everything")
    for _, pod in pods(manifests):
        assert container(pod)["image"] == f"registry.example.com/replicator@sha256:{'a' * 64}"
        found = environment(manifests, pod)
        # Numbers as people write them, not as floating-point ones.
        expected = {"CONCURRENCY": "32", "COPY_TIMEOUT": "604800", "DRAIN_TIMEOUT": "40", "WEBHOOK_ANONYMOUS": "false"}
        assert {PREFIX + name: value for name, value in expected.items()}.items() <= found.items()
        assert found["TZ"] == "Asia/Shanghai"
        assert {"name": "ca", "mountPath": "/etc/ca", "readOnly": True} in container(pod)["volumeMounts"]
        assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
        assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}
        assert pod["spec"]["topologySpreadConstraints"] == [SPREAD]
        for name in ("hostAliases", "dnsConfig", "priorityClassName", "initContainers"):
            assert pod["spec"][name] == EVERYTHING[name]
        assert pod["metadata"]["labels"]["mesh"] == "off"
    assert all(each["metadata"]["labels"]["team"] == "platform" for each in manifests if not is_test(each))
    assert of_kind(manifests, "Service")["r-replicator"]["spec"]["ports"][0]["nodePort"] == 30080
    assert {"ports": [{"port": 3128}]} in of_kind(manifests, "NetworkPolicy")["r-replicator"]["spec"]["egress"]
    for end in of_kind(manifests, "PodMonitor")["r-replicator"]["spec"]["podMetricsEndpoints"]:
        assert (end["relabelings"][0]["targetLabel"], end["metricRelabelings"][0]["regex"]) == ("cluster", "pod")
    (secret,) = of_kind(manifests, "Secret").values()
    assert secret["stringData"] == REDIS
    (ingress,) = of_kind(manifests, "Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    assert [path["path"] for path in rule["http"]["paths"]] == ["/webhooks/harbor"], "metrics and probes stay inside"
    assert [path["pathType"] for path in rule["http"]["paths"]] == ["Prefix"], "a Harbor's name may stand behind it"
    commands = {command: container(pod)["args"] for command, pod in pods(manifests)}
    assert commands["backfill"] == ["backfill", "--detach", "--fast"]
    assert commands["worker"] == ["worker", "--lane", "events"]


def test_the_secret_is_mounted_and_never_a_variable() -> None:
    for case in ("embedded, everything", "redis, everything"):
        (name,) = of_kind(rendered(case), "Secret")
        for _, pod in pods(rendered(case)):
            assert [each["secret"]["secretName"] for each in pod["spec"]["volumes"] if "secret" in each] == [name]
            assert not set(environment(rendered(case), pod)) & set(REDIS)
    assert of_kind(rendered("embedded"), "Secret") == {}


def test_a_change_of_settings_rules_or_secrets_replaces_the_pods() -> None:
    def annotations(**changed: Any) -> dict[str, str]:
        manifests = read(template({**IMAGE, "rules": RULES, "secrets": SECRETS, **changed}))
        return dict(next(pods(manifests))[1]["metadata"]["annotations"])

    before = annotations()
    assert before == annotations()
    for changed in (
        {"settings": {"concurrency": 1}},
        {"secrets": {**SECRETS, "X": "y"}},
        {"rules": {"images": {"a.io/b": "c.io/d"}}},
        {"rulesFiles": {"a.yaml": {"images": {"a.io/b": "c.io/d"}}}},
    ):
        assert annotations(**changed) != before


def test_rules_may_lie_in_a_secret() -> None:
    manifests = read(template({**IMAGE, "existingSecret": "s", "existingRulesSecret": "rules-of-teams"}))
    for _, pod in pods(manifests):
        (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == "rules"]
        assert volume["secret"] == {"secretName": "rules-of-teams", "defaultMode": 0o440}
    assert [name for name in of_kind(manifests, "ConfigMap") if name.endswith("-rules")] == []


def test_one_thing_scales_the_workers() -> None:
    kinds = {case: {each["kind"] for each in rendered(case)} for case in CASES}
    scalers = {"HorizontalPodAutoscaler", "ScaledObject"}
    assert {case: found & scalers for case, found in kinds.items()} == {
        "embedded": set(),
        "embedded, everything": set(),
        "redis": {"HorizontalPodAutoscaler"},
        "redis, everything": {"HorizontalPodAutoscaler"},
        "redis, keda": {"ScaledObject"},
        "embedded, several files": set(),
        "redis, by hand": set(),
    }
    assert of_kind(rendered("redis, by hand"), "Deployment")["r-replicator-worker"]["spec"]["replicas"] == 5


def test_runbooks_are_where_the_values_say() -> None:
    (rules,) = of_kind(rendered("redis, everything"), "PrometheusRule").values()
    found = [rule["annotations"]["runbook_url"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert found
    assert all(url.startswith("https://docs.example.com/operations.md#") for url in found)


def test_alerts_tell_installations_apart_by_the_labels_in_the_values() -> None:
    (rules,) = of_kind(rendered("redis, everything"), "PrometheusRule").values()
    text = " ".join(rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"])
    assert text.count("(cluster, namespace") == text.count("(cluster, namespace, job") > 20
    own = {**MINIMAL, "prometheusRule": {"enabled": True, "groupBy": ["region"]}}
    (rules,) = of_kind(read(template(own)), "PrometheusRule").values()
    exprs = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert not any("namespace" in expr for expr in exprs)
    # Without an address, a link would lead nowhere.
    assert all("runbook_url" not in rule["annotations"] for group in rules["spec"]["groups"] for rule in group["rules"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rules": RULES, "existingSecret": "s"}, "image.repository is not set"),
        ({**IMAGE, "existingSecret": "s"}, "the chart has no rules"),
        ({**IMAGE, "rules": RULES}, "the webhook needs a token"),
        ({**IMAGE, "rules": RULES, "secrets": {"REPLICATOR_WEBHOOK_TOKEN": ""}}, "the webhook needs a token"),
        ({**IMAGE, "rules": RULES, "secrets": SECRETS, **SCALED}, "mode redis needs the address of Redis"),
        ({**MINIMAL, "secrets": SECRETS}, "existingSecret or secrets"),
        ({**MINIMAL, "settings": {"drain_timeout": 60}}, "20 more than"),
        ({**MINIMAL, "backfill": {"enabled": True}}, "backfill needs mode redis"),
        ({**MINIMAL, "ingress": {"enabled": True}}, "ingress.host"),
        (
            {**MINIMAL, "service": {"nodePort": 30080}},
            "service.nodePort needs service.type NodePort or LoadBalancer",
        ),
        ({**MINIMAL, "rulesFiles": {"rules.yaml": {}}}, "another name"),
        ({**MINIMAL, "rulesFiles": {"a.txt": {}}}, "a.txt"),
        ({**MINIMAL, "existingRulesConfigMap": "a", "existingRulesSecret": "b"}, "not both"),
        ({**MINIMAL, "nonsense": 1}, "nonsense"),
        ({**MINIMAL, "webhook": {"replica": 1}}, "replica"),
        ({**MINIMAL, "queue": {"mode": "rabbit"}}, "queue"),
        ({**MINIMAL, "worker": {"replicas": 0}}, "replicas"),
        ({**MINIMAL, "worker": {"lanes": ["pushes"]}}, "lanes"),
        ({**MINIMAL, "settings": {"webhook_token": "x"}}, "webhook_token"),
        ({**MINIMAL, "settings": {"REPLICATOR_RECONCILE": "1d"}}, "REPLICATOR_RECONCILE"),
    ],
)
def test_values_that_can_not_work_are_refused(values: dict[str, Any], says: str) -> None:
    assert says in refusal(values)


def test_the_rules_that_the_values_show_can_be_used() -> None:
    shown = re.findall(r"^rules: \{\}\n((?:#  .*\n)+)", (CHART / "values.yaml").read_text(), re.MULTILINE)
    rules = yaml.safe_load(re.sub(r"^#", "", shown[0], flags=re.MULTILINE))
    promises.check(read(template({**MINIMAL, "rules": rules})))


def test_the_schema_has_what_the_values_have_and_forbids_secrets_as_settings() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(described: dict[str, Any], given: dict[str, Any], path: str) -> None:
        if described.get("additionalProperties") is not False:
            return
        assert set(described["properties"]) - {"global"} >= set(given), path
        for key, value in given.items():
            if isinstance(value, dict):
                compare(described["properties"][key], value, f"{path}.{key}")

    compare(schema, values, "values")
    forbidden = set(schema["properties"]["settings"]["propertyNames"]["not"]["enum"])
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret <= forbidden
    assert set(values["settings"]) <= set(Settings.model_fields) - forbidden


def notes_of(values: dict[str, Any]) -> str:
    given = json.dumps(values)
    said = run("helm", "install", "r", CHART, "--dry-run=client", "--namespace", "n", "--values", "-", stdin=given)
    return said.split("NOTES:\n")[1]


def test_the_notes_name_what_there_is() -> None:
    for case in ("embedded", "redis, everything"):
        notes = notes_of(CASES[case])
        (address,) = re.findall(r"http://(\S+?)\.n:8080/webhooks/harbor", notes)
        assert address in of_kind(rendered(case), "Service")
        for kind, name in set(re.findall(r" (statefulset|deployment)/(\S+) -- replicator", notes)):
            assert name in of_kind(rendered(case), {"statefulset": "StatefulSet", "deployment": "Deployment"}[kind])
        assert ("Helm stores them" in notes) == ("secrets" in CASES[case])
        assert ("Everyone can reach" in notes) == ("service" in CASES[case])
    listed = {"external": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    assert "Everyone can reach" not in notes_of({**MINIMAL, "service": {"type": "NodePort"}, "networkPolicy": listed})


def test_long_names_of_releases_make_names_that_kubernetes_takes() -> None:
    release = "a" * 53
    said = run("helm", "template", release, CHART, "--values", "-", stdin=json.dumps(CASES["redis, everything"]))
    manifests = read(said)
    promises.check(manifests)
    assert max(len(each["metadata"]["name"]) for each in manifests if each["kind"] == "CronJob") <= 52
    assert max(len(each["metadata"]["name"]) for each in manifests) <= 63
