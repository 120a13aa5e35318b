"""Who is counted knows nothing of Prometheus."""

from __future__ import annotations

from tests.docs.pages import ROOT


def test_only_the_metrics_know_prometheus() -> None:
    package = ROOT / "replicator"
    users = {
        str(path.relative_to(package).parent) for path in package.rglob("*.py") if "prometheus" in path.read_text()
    }
    assert users == {"server/metrics"}
