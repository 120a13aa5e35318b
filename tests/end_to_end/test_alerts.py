"""The alert rules on the series of a real `serve`, from its empty start on."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import yaml

from tests.deploy.copies import ALERTS
from tests.deploy.test_prometheus import alerts
from tests.end_to_end.test_metrics import deliver
from tests.end_to_end.test_push import EVERYTHING
from tests.running import running
from tests.scraping import OWN, scrape

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House
    from tests.scraping import Scrape

QUIET, AFTER = 30, 60
"""Minutes before the burst, and after it."""
RARE = {
    ("ReplicatorCloudEventsDropped", "replicator_cloudevents_dropped"),
    ("ReplicatorCloudEventsLate", "replicator_cloudevents_oldest_seconds"),
    ("ReplicatorCertificateExpires", "replicator_certificate_expiry_timestamp_seconds"),
    ("ReplicatorCertificateExpiresSoon", "replicator_certificate_expiry_timestamp_seconds"),
    ("ReplicatorRobotExpires", "replicator_harbor_secret_expiry_timestamp_seconds"),
    ("ReplicatorRobotExpiresSoon", "replicator_harbor_secret_expiry_timestamp_seconds"),
    ("ReplicatorRegistryErrors", "replicator_registry_requests_total"),
    ("ReplicatorWebhooksOff", "replicator_harbor_webhooks_enabled"),
}
"""Series that are there from the first failure on, which the alert compares over minutes; from the first TLS connection
on; once Harbor was swept; and where a receiver of events is set."""


def series(found: Scrape) -> dict[str, float]:
    """All samples, with the labels that Prometheus adds."""
    target = {"job": "replicator", "namespace": "r", "instance": "a:8080"}
    named = {}
    for family in found.families:
        for sample in family.samples:
            labels = ",".join(f"{name}={yaml_text(value)}" for name, value in {**target, **sample.labels}.items())
            named[f"{sample.name}{{{labels}}}"] = sample.value
    return named


def yaml_text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def number(value: float) -> str:
    return {"inf": "Inf", "-inf": "-Inf", "nan": "NaN"}.get(str(value), repr(value))


def firing(directory: Path, before: Scrape, after: Scrape) -> tuple[set[str], set[str]]:
    """The alerts that fire after half an hour with the first scrape, and ten minutes after the change to the second."""
    first, second = series(before), series(after)
    given = [{"series": "up" + '{job="replicator",namespace="r",instance="a:8080"}', "values": f"1x{AFTER}"}]
    for name in first | second:
        start = f"{number(first[name])}x{QUIET}" if name in first else f"_x{QUIET}"
        given.append({"series": name, "values": f"{start} {number(second.get(name, first.get(name, 0)))}x{AFTER}"})
    minutes = (f"{QUIET}m", f"{QUIET + 10}m")
    cases = [
        {"alertname": rule["alert"], "eval_time": minute, "exp_alerts": []} for rule in alerts() for minute in minutes
    ]
    test = {"interval": "1m", "input_series": given, "alert_rule_test": cases}
    path = directory / "alerts.test.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60)
    told = re.findall(r"alertname: ?(\w+), time: ?(\w+)", done.stdout + done.stderr)
    assert (done.returncode == 0) == (not told), done.stdout + done.stderr
    quiet, late = ({alert for alert, at in told if at == minute} for minute in minutes)
    return quiet, late


async def test_the_alerts_see_the_first_burst_at_a_serve_and_nothing_else(house: House) -> None:
    rules = house.rules(EVERYTHING)
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        empty = await scrape(serving.url)
        for _ in range(6):
            assert await deliver(serving, {}, "Bearer wrong") == 401
        burst = await scrape(serving.url)

    for rule in alerts():
        for metric, inside in re.findall(r"\b(replicator_\w+)(?:\{([^}]*)\})?", rule["expr"]):
            wanted = re.findall(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"', inside)
            matching = [
                sample
                for family in empty.families
                for sample in family.samples
                if sample.name == metric and all(matches(sample.labels.get(name, ""), *how) for name, *how in wanted)
            ]
            assert matching or (rule["alert"], metric) in RARE, f"{rule['alert']}: no series for {metric}{{{inside}}}"
    assert {name for name in series(empty) if name.startswith(OWN)} <= set(series(burst))
    assert firing(house.directory, empty, burst) == (set(), {"ReplicatorWebhookRefused"})


def matches(value: str, how: str, wanted: str) -> bool:
    if how == "=~":
        return re.fullmatch(wanted, value) is not None
    return (value == wanted) == (how == "=")
