"""The alert rules and the dashboard use existing metrics, and fire and show what they should."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from typing import Any

import pytest
import yaml

from tests.deploy.copies import ALERTS, DASHBOARD, copies
from tests.docs.pages import ROOT, anchors, name

TESTS = ROOT / "tests" / "deploy" / "alerts.test.yaml"
METRICS = ROOT / "docs" / "metrics.md"
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
_EVERYWHERE = {"cluster", "namespace", "instance", "job", "pod"}
"""Labels that Prometheus puts to what it scrapes."""


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """All of them, by where they stand; with values for the dashboard's variables."""
    found = {rule["alert"]: rule["expr"] for rule in alerts()}
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"].replace("$namespace", ".*").replace("$__rate_interval", "5m")
            found[f"{panel['title']} {target['refId']}"] = text
    return found


def metrics() -> dict[str, set[str]]:
    """The names that are scraped, and the labels of each, as docs/metrics.md has them from the code."""
    rows = re.findall(r"^\| `(replicator_\w+)` \| (\w+) \| (.*?) \|", METRICS.read_text(), re.MULTILINE)
    found: dict[str, set[str]] = {}
    for metric, kind, cell in rows:
        for suffix in _SUFFIXES.get(kind, ("",)):
            found[metric + suffix] = set(re.findall(r"`(\w+)`", cell)) | ({"le"} if suffix == "_bucket" else set())
    assert len(found) > 20
    return found


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=TESTS.parent, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alerts_are_rules_that_prometheus_takes() -> None:
    assert f"SUCCESS: {len(alerts())} rules found" in promtool("check", "rules", "--lint-fatal", str(ALERTS))


def test_each_alert_fires_for_what_it_is_about_and_for_nothing_else() -> None:
    assert "SUCCESS" in promtool("test", "rules", TESTS.name)
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    well = {case["alertname"] for case in tests[0]["alert_rule_test"]}
    assert fires == well == {rule["alert"] for rule in alerts()}
    assert not any(case.get("exp_alerts") for case in tests[0]["alert_rule_test"])
    # Good values for every metric of an alert: without data an alert is silent in any case.
    told = set(re.findall(r"replicator_\w+", " ".join(each["series"] for each in tests[0]["input_series"])))
    assert told == {metric for rule in alerts() for metric in re.findall(r"replicator_\w+", rule["expr"])}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors(ROOT / file)


def test_every_expression_of_the_dashboard_can_be_parsed(tmp_path: Any) -> None:
    rules = [{"record": f"dashboard:{index}", "expr": text} for index, text in enumerate(expressions().values())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yaml"))


@pytest.mark.parametrize("place", expressions())
def test_an_expression_asks_for_metrics_and_labels_that_there_are(place: str) -> None:
    text, known = expressions()[place], metrics()
    named = set(re.findall(r"\b(?:replicator|process)_\w+", text))
    assert named
    ours = {metric for metric in named if metric.startswith("replicator_")}
    assert ours <= set(known)
    allowed = _EVERYWHERE.union(*(known[metric] for metric in ours))
    grouped = re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", text)
    assert {label.strip() for group in grouped for label in group.split(",")} <= allowed
    for metric, inside in re.findall(r"\b(replicator_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)) <= known[metric] | _EVERYWHERE


def test_every_metric_of_the_program_is_on_the_dashboard() -> None:
    shown = " ".join(text for text in expressions().values())
    left_out = {metric for metric in metrics() if not metric.endswith(("_sum", "_count")) and metric not in shown}
    assert left_out <= {"replicator_rules_loaded_timestamp_seconds"}


def test_the_dashboard_is_one_that_grafana_lays_out() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["uid"] == "replicator"
    assert set(Counter(panel["id"] for panel in board["panels"]).values()) == {1}
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", DASHBOARD.read_text())) <= variables
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies on another"
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("path", copies(), ids=name)
def test_copies_are_current(path: Any) -> None:
    assert path.read_text() == copies()[path], "renew them: make docs"
