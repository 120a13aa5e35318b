"""The files of ``deploy/`` that are made from others: copies, as Helm and Kustomize read only their own directories.

``python -m tests.deploy.copies``, or ``make docs``, regenerates them, and the README of the chart.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from tests.deploy import chart_readme
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "replicator.json"

_RULE = """\
# Made from deploy/prometheus/alerts.yaml: make docs
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: replicator
  labels:
    app.kubernetes.io/name: replicator
spec:
"""


def copies() -> dict[Path, str]:
    """What each of them must hold."""
    alerts, dashboard = ALERTS.read_text(), DASHBOARD.read_text()
    rules = alerts[alerts.index("groups:") :]
    chart, components = DEPLOY / "helm" / "replicator" / "files", DEPLOY / "kubernetes" / "components"
    return {
        chart / "alerts.yaml": f"# Made from deploy/prometheus/alerts.yaml: make docs\n{rules}",
        chart / "replicator.json": dashboard,
        chart_readme.PAGE: chart_readme.page(),
        components / "monitoring" / "prometheusrule.yaml": _RULE + textwrap.indent(rules, "  "),
    }


if __name__ == "__main__":
    for path, text in copies().items():
        path.write_text(text)
