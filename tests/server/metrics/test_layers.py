"""The parts that are counted know nothing of Prometheus."""

from __future__ import annotations

from pathlib import Path

from tests.docs.pages import ROOT


def test_only_the_metrics_know_prometheus() -> None:
    package = ROOT / "replicator"
    users = {path for path in package.rglob("*.py") if "prometheus_client" in path.read_text()}
    assert {path.parent.relative_to(package) for path in users} == {Path("server/metrics")}
